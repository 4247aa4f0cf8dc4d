//! Bytes on pages of their own: they go back to the kernel when they are dropped, which the heap does not promise, least of all of
//! locked memory.

use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, mprotect, munmap};
use std::ffi::c_void;
use std::io;
use std::num::NonZeroUsize;
use std::ops::Deref;
use std::ptr::NonNull;

/// So many bytes, which nobody can change any more.
pub struct Pages {
    at: NonNull<c_void>,
    len: NonZeroUsize,
}

// SAFETY: the mapping is private to this value, and read-only from its making to its end.
unsafe impl Send for Pages {}
// SAFETY: as above: nobody writes.
unsafe impl Sync for Pages {}

impl Pages {
    /// A copy of these, at least one.
    ///
    /// # Errors
    /// What mmap(2) says; EINVAL if there is nothing to copy.
    pub fn copy_of(bytes: &[u8]) -> io::Result<Self> {
        let len = NonZeroUsize::new(bytes.len()).ok_or(io::ErrorKind::InvalidInput)?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice: it overlaps nothing.
        let at = unsafe { mmap_anonymous(None, len, protection, MapFlags::MAP_PRIVATE) }?;
        // SAFETY: the mapping has `len` bytes, is writable, and nobody else knows of it.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), at.as_ptr().cast(), len.get()) };
        let pages = Pages { at, len };
        // SAFETY: the whole of our own mapping, which is not written from now on.
        unsafe { mprotect(at, len.get(), ProtFlags::PROT_READ) }?;
        Ok(pages)
    }
}

impl Deref for Pages {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `len` bytes are mapped, initialised and unchanging as long as this value lives.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr().cast(), self.len.get()) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: our own mapping, whole; no borrow of it outlives this value. It cannot fail on a mapping that is there.
        let _ = unsafe { munmap(self.at, self.len.get()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_what_was_copied() {
        let bytes: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();
        let pages = Pages::copy_of(&bytes).unwrap();
        assert_eq!(*pages, *bytes);
        assert!(Pages::copy_of(&[]).is_err());
    }
}
