//! memfd_secret(2): a descriptor whose pages no other process, not even root, reads through its own address space.
//!
//! Owns the layout: eight bytes of length, then the bytes. What they are is the caller's business. It is how the unlocked
//! identity outlives the daemon, in a supervisor's descriptor store.

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, munmap};
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{Ordering, compiler_fence};
use zeroize::Zeroize;

/// Bytes of a descriptor: one page, locked by the kernel.
const BYTES: NonZeroUsize = NonZeroUsize::new(4096).expect("4096 is not 0");
/// Where the content begins.
const START: usize = 8;
/// The most that fits.
pub const CONTENT_MAX: usize = BYTES.get() - START;

/// A secret kept behind a descriptor.
#[derive(Debug)]
pub struct SecretMemory(OwnedFd);

impl SecretMemory {
    /// Room for a secret, empty.
    ///
    /// # Errors
    /// ENOSYS where the kernel has it not or it is switched off (`secretmem.enable`); EAGAIN beyond RLIMIT_MEMLOCK.
    pub fn new() -> io::Result<Self> {
        // SAFETY: memfd_secret takes flags only.
        let fd = unsafe { libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC) };
        let fd = libc::c_int::try_from(fd).expect("a descriptor is an int");
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just made this descriptor and nothing else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        nix::unistd::ftruncate(&fd, BYTES.get() as i64)?;
        Ok(SecretMemory(fd))
    }

    /// One that another process filled.
    ///
    /// # Errors
    /// EINVAL if it is not of that size, or no such descriptor.
    pub fn of(fd: OwnedFd) -> io::Result<Self> {
        // The memory's own filesystem: a file that somebody else can read, or cut, is none. (magic.h)
        const SECRETMEM_MAGIC: i64 = 0x5345_434d;
        let stat = nix::sys::stat::fstat(&fd)?;
        if nix::sys::statfs::fstatfs(&fd)?.filesystem_type().0 != SECRETMEM_MAGIC || stat.st_size != BYTES.get() as i64
        {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        Ok(SecretMemory(fd))
    }

    /// Puts a secret in; nothing empties it.
    ///
    /// # Errors
    /// EFBIG for more than [`CONTENT_MAX`] bytes; what mmap(2) says.
    pub fn put(&self, content: &[u8]) -> io::Result<()> {
        if content.len() > CONTENT_MAX {
            return Err(io::Error::from_raw_os_error(libc::EFBIG));
        }
        self.mapped(|page| {
            let len = u64::from_ne_bytes(*page.first_chunk().expect("a page is longer than that"));
            let len = usize::try_from(len).ok().filter(|len| *len <= CONTENT_MAX).unwrap_or(0);
            // Whoever is killed in the middle leaves what was there: what stays is not touched, what is added is counted last.
            let kept = if content.starts_with(&page[START..START + len]) { len } else { 0 };
            if kept == 0 {
                page.zeroize();
            }
            page[START + kept..START + content.len()].copy_from_slice(&content[kept..]);
            compiler_fence(Ordering::SeqCst);
            page[..START].copy_from_slice(&(content.len() as u64).to_ne_bytes());
        })
    }

    /// Shows the secret to `look`; an empty slice if there is none.
    ///
    /// # Errors
    /// What mmap(2) says; EINVAL for content that [`SecretMemory::put`] did not put there.
    pub fn look<R>(&self, look: impl FnOnce(&[u8]) -> R) -> io::Result<R> {
        self.mapped(|page| {
            let len = u64::from_ne_bytes(*page.first_chunk().expect("a page is longer than that"));
            let len = usize::try_from(len).ok().filter(|len| *len <= CONTENT_MAX);
            len.map(|len| look(&page[START..START + len]))
        })?
        .ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))
    }

    /// The descriptor, to be kept by somebody else.
    pub fn fd(&self) -> &OwnedFd {
        &self.0
    }

    fn mapped<R>(&self, work: impl FnOnce(&mut [u8]) -> R) -> io::Result<R> {
        let flags = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address the kernel chooses; it replaces none.
        let page = unsafe { mmap(None, BYTES, flags, MapFlags::MAP_SHARED, self.0.as_fd(), 0) }?;
        let page = Mapped(page.cast());
        // A child forked meanwhile does not get it.
        // SAFETY: exactly the mapping just made; DONTFORK changes none of its content.
        unsafe { madvise(page.0.cast(), BYTES.get(), MmapAdvise::MADV_DONTFORK) }?;
        // SAFETY: the mapping is BYTES long, readable and writable, lives until `page` is dropped after `work`, and no
        // other reference into it exists here. Another process that maps the same descriptor is one that has it: the
        // daemon before or after this one, which does not run at the same time.
        Ok(work(unsafe { std::slice::from_raw_parts_mut(page.0.as_ptr(), BYTES.get()) }))
    }
}

/// A mapping of [`BYTES`], undone on drop.
struct Mapped(NonNull<u8>);

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: the mapping of this size was made for this value alone, and nothing refers to it any more.
        let _ = unsafe { munmap(self.0.cast(), BYTES.get()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_a_secret_for_whoever_has_the_descriptor() {
        let memory = SecretMemory::new().unwrap();
        assert!(memory.look(<[u8]>::is_empty).unwrap());
        memory.put(b"AGE-SECRET-KEY-1").unwrap();
        let other = SecretMemory::of(memory.fd().try_clone().unwrap()).unwrap();
        assert_eq!(other.look(<[u8]>::to_vec).unwrap(), b"AGE-SECRET-KEY-1");
        other.put(b"").unwrap();
        assert!(memory.look(<[u8]>::is_empty).unwrap());
        memory.mapped(|page| assert!(page.iter().all(|b| *b == 0))).unwrap();
    }

    /// A daemon that takes over puts in what is there, and one that makes the next identity adds it: whoever is killed at any moment of that leaves
    /// what was there, or all of it.
    #[test]
    fn what_is_put_in_anew_or_added_to_is_there_at_every_moment() {
        let memory = SecretMemory::new().unwrap();
        let (one, both) = ([b'1'; 74], [b'1'; 149]);
        memory.put(&one).unwrap();
        let other = SecretMemory::of(memory.fd().try_clone().unwrap()).unwrap();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|threads| {
            threads.spawn(|| {
                (0..20_000).for_each(|_| memory.put(&one).unwrap());
                memory.put(&both).unwrap();
                done.store(true, Ordering::Release);
            });
            while !done.load(Ordering::Acquire) {
                let seen = other.look(<[u8]>::to_vec).unwrap();
                assert!(seen == one || seen == both, "{} bytes", seen.len());
            }
        });
        assert_eq!(memory.look(<[u8]>::to_vec).unwrap(), both);
    }

    #[test]
    fn what_does_not_fit_or_is_none_is_refused() {
        let memory = SecretMemory::new().unwrap();
        assert_eq!(memory.put(&[1; CONTENT_MAX + 1]).unwrap_err().raw_os_error(), Some(libc::EFBIG));
        memory.put(&[1; CONTENT_MAX]).unwrap();
        memory.mapped(|page| page[0] = 0xff).unwrap();
        assert_eq!(memory.look(|_| ()).unwrap_err().raw_os_error(), Some(libc::EINVAL));
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        assert!(SecretMemory::of(file.into()).is_err());
    }

    #[test]
    fn no_file_operation_reads_it() {
        use std::os::fd::AsRawFd;
        let memory = SecretMemory::new().unwrap();
        memory.put(b"hunter2").unwrap();
        let path = format!("/proc/self/fd/{}", memory.fd().as_raw_fd());
        assert!(std::fs::read(path).is_err());
    }
}
