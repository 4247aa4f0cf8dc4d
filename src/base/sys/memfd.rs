//! memfd_create(2): a small file without a name, for what is no secret and must outlive a process.

use nix::sys::memfd::{MFdFlags, memfd_create};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

/// One with this content.
///
/// # Errors
/// What memfd_create(2) or write(2) say.
pub fn with(name: &str, content: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create(name, MFdFlags::MFD_CLOEXEC)?);
    file.write_all(content)?;
    Ok(file.into())
}

/// What is in it, wherever its offset is.
///
/// # Errors
/// EFBIG for more than `max` bytes; what read(2) says.
pub fn read(fd: &OwnedFd, max: usize) -> io::Result<Vec<u8>> {
    let file = File::from(fd.try_clone()?);
    // Of anything else a read may wait for ever.
    if !file.metadata()?.is_file() {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let len = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    if len > max {
        return Err(io::Error::from_raw_os_error(libc::EFBIG));
    }
    let mut content = vec![0; len];
    file.read_exact_at(&mut content, 0)?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_comes_back_up_to_a_bound() {
        let fd = with("test", b"content").unwrap();
        assert_eq!(read(&fd, 7).unwrap(), b"content");
        assert_eq!(read(&fd, 7).unwrap(), b"content");
        assert_eq!(read(&fd, 6).unwrap_err().raw_os_error(), Some(libc::EFBIG));
        let (pipe, _end) = io::pipe().unwrap();
        assert_eq!(read(&pipe.into(), 7).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    }
}
