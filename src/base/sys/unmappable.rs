//! A regular file that nobody can map (mmap(2) says ENODEV): a message queue without a name.
//!
//! Owns its making. A FUSE handle that has it behind it (FOPEN_PASSTHROUGH) cannot be mapped either; reads and writes of a direct handle
//! never reach it.

use std::ffi::CString;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// Makes one.
///
/// # Errors
/// What mq_open(3) says.
pub fn file() -> io::Result<OwnedFd> {
    let mut random = [0; 8];
    getrandom::getrandom(&mut random)?;
    let name = format!("/pinfold-{:016x}", u64::from_ne_bytes(random));
    let name = CString::new(name).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: all zero is a value of this struct of numbers.
    let mut room: libc::mq_attr = unsafe { std::mem::zeroed() };
    (room.mq_maxmsg, room.mq_msgsize) = (1, 1);
    let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_CLOEXEC;
    // SAFETY: the name ends with NUL, and name and attributes live across the call; mode and attributes are of the types it reads.
    let queue = unsafe { libc::mq_open(name.as_ptr(), flags, 0o600 as libc::mode_t, &raw const room) };
    if queue < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the name ends with NUL.
    unsafe { libc::mq_unlink(name.as_ptr()) };
    // SAFETY: on Linux a queue is a descriptor; it was given to us just now, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(queue) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::num::NonZeroUsize;

    #[test]
    fn it_is_a_regular_file_and_cannot_be_mapped() {
        let file = File::from(file().unwrap());
        assert!(file.metadata().unwrap().is_file());
        let (len, read) = (NonZeroUsize::new(4096).unwrap(), nix::sys::mman::ProtFlags::PROT_READ);
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory; it is not made at all.
        let mapped = unsafe { nix::sys::mman::mmap(None, len, read, nix::sys::mman::MapFlags::MAP_PRIVATE, &file, 0) };
        assert_eq!(mapped.unwrap_err(), nix::errno::Errno::ENODEV);
    }
}
