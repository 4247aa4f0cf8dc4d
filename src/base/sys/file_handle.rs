//! Opening a file of a FUSE mount by the number that the kernel knows it by (open_by_handle_at(2)), without any name.
//!
//! Owns the layout of the handle. Only root may; what the kernel does not remember any more is ESTALE.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd};

/// FILEID_INO64_GEN (linux/exportfs.h): the node's number, its upper half first, and its generation.
const INO64_GEN: libc::c_int = 0x81;

/// struct file_handle with such a handle.
#[repr(C)]
struct Handle {
    bytes: libc::c_uint,
    kind: libc::c_int,
    words: [u32; 3],
}

/// Opens the node for writing, on the filesystem that `mount` is of.
///
/// # Errors
/// ESTALE if the kernel does not remember it; what open_by_handle_at(2) says.
pub fn open_for_writing(mount: BorrowedFd<'_>, node: u64) -> io::Result<File> {
    let mut handle = Handle { bytes: 12, kind: INO64_GEN, words: [(node >> 32) as u32, node as u32, 0] };
    let flags = libc::O_WRONLY | libc::O_NONBLOCK | libc::O_CLOEXEC;
    // SAFETY: the descriptor is open; `handle` is a struct file_handle whose 12 bytes follow its head, and lives across the call.
    let fd = unsafe { libc::open_by_handle_at(mount.as_raw_fd(), (&raw mut handle).cast(), flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor, and nobody else has it.
    Ok(unsafe { File::from_raw_fd(fd) })
}
