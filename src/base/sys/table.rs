//! A table of numbers in shared memory (memfd_create(2)): what one process writes there, the next finds.
//!
//! Owns the mapping. What the numbers mean is the caller's business; they are no secret.

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

/// So many numbers, all 0 at first. Pages are taken when first written.
pub struct Table {
    fd: OwnedFd,
    base: NonNull<AtomicU64>,
    len: NonZeroUsize,
}

// SAFETY: the mapping is shared memory that is only ever reached as atomics, and it stays until the drop.
unsafe impl Send for Table {}
// SAFETY: as above.
unsafe impl Sync for Table {}

impl Table {
    /// A new one.
    ///
    /// # Errors
    /// What memfd_create(2), ftruncate(2) or mmap(2) say.
    pub fn new(name: &str, len: NonZeroUsize) -> io::Result<Self> {
        let fd = memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
        nix::unistd::ftruncate(&fd, i64::try_from(bytes(len)?.get()).map_err(|_| too_large())?)?;
        fcntl(&fd, FcntlArg::F_ADD_SEALS(sealed()))?;
        Self::map(fd, len)
    }

    /// One that another process made and left.
    ///
    /// # Errors
    /// EINVAL if it is of another size, or no memory that keeps its size; what mmap(2) says.
    pub fn of(fd: OwnedFd, len: NonZeroUsize) -> io::Result<Self> {
        // Whoever has the descriptor could cut another, and who reads beyond its end is killed.
        let seals = SealFlag::from_bits_truncate(fcntl(&fd, FcntlArg::F_GET_SEALS)?);
        if !seals.contains(sealed()) || usize::try_from(nix::sys::stat::fstat(&fd)?.st_size) != Ok(bytes(len)?.get()) {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        Self::map(fd, len)
    }

    fn map(fd: OwnedFd, len: NonZeroUsize) -> io::Result<Self> {
        let flags = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address the kernel chooses; it replaces none.
        let base = unsafe { mmap(None, bytes(len)?, flags, MapFlags::MAP_SHARED, fd.as_fd(), 0) }?;
        Ok(Table { fd, base: base.cast(), len })
    }

    /// The numbers.
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is page-aligned, `len` words long, initialised (zero, or what was written), and lives as long
        // as `self`; nobody has a reference to it that is not to atomics.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.len.get()) }
    }

    /// The descriptor, to be kept by somebody else.
    pub fn fd(&self) -> &OwnedFd {
        &self.fd
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        if let Ok(bytes) = bytes(self.len) {
            // SAFETY: the mapping of this size was made for this value alone; references into it borrow `self`.
            let _ = unsafe { munmap(self.base.cast(), bytes.get()) };
        }
    }
}

fn sealed() -> SealFlag {
    SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL
}

fn bytes(len: NonZeroUsize) -> io::Result<NonZeroUsize> {
    len.checked_mul(NonZeroUsize::new(size_of::<AtomicU64>()).expect("8 is not 0")).ok_or_else(too_large)
}

fn too_large() -> io::Error {
    io::Error::from_raw_os_error(libc::EOVERFLOW)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    #[test]
    fn what_one_writes_the_other_finds() {
        let len = NonZeroUsize::new(1000).unwrap();
        let table = Table::new("test", len).unwrap();
        assert!(table.words().iter().all(|w| w.load(Ordering::Relaxed) == 0));
        table.words()[999].store(7, Ordering::Relaxed);
        let other = Table::of(table.fd().try_clone().unwrap(), len).unwrap();
        drop(table);
        assert_eq!(other.words()[999].load(Ordering::Relaxed), 7);
        assert!(Table::of(other.fd().try_clone().unwrap(), NonZeroUsize::new(1001).unwrap()).is_err());
        assert!(nix::unistd::ftruncate(other.fd(), 8).is_err(), "nobody cuts it");
        let plain = memfd_create("test", MFdFlags::MFD_ALLOW_SEALING).unwrap();
        nix::unistd::ftruncate(&plain, 8000).unwrap();
        assert!(Table::of(plain, len).is_err(), "one that can be cut");
    }
}
