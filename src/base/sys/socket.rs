//! What the kernel says about the other end of a Unix socket, where nix does not wrap it.
//!
//! Owns one getsockopt(2). It decides nothing.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// The most groups Linux lets a process have (NGROUPS_MAX).
const GROUPS_MAX: usize = 65_536;

/// The supplementary groups that the peer had when it connected (SO_PEERGROUPS, Linux ≥ 4.13).
///
/// # Errors
/// The system's reason; the peer's groups are unknown then.
pub fn peer_groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut groups: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let mut bytes =
            libc::socklen_t::try_from(std::mem::size_of_val(groups.as_slice())).expect("65,536 group ids are 256 KiB");
        // SAFETY: the pointer and the length are those of the vector's initialised elements, which the kernel overwrites
        // with plain integers; it writes no more than `bytes` and says in `bytes` how much.
        let done = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &mut bytes,
            )
        };
        let count = bytes as usize / size_of::<libc::gid_t>();
        if done == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        // ERANGE comes with the length that is needed.
        if error.raw_os_error() != Some(libc::ERANGE) || count <= groups.len() || count > GROUPS_MAX {
            return Err(error);
        }
        groups.resize(count, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn our_own_groups_come_back() {
        let (a, _b) = UnixStream::pair().unwrap();
        let mut theirs = peer_groups(a.as_fd()).unwrap();
        let mut ours: Vec<u32> = nix::unistd::getgroups().unwrap().iter().map(|g| g.as_raw()).collect();
        theirs.sort_unstable();
        ours.sort_unstable();
        assert_eq!(theirs, ours);
    }

    #[test]
    fn a_file_has_no_peer() {
        assert!(peer_groups(std::fs::File::open("/dev/null").unwrap().as_fd()).is_err());
    }
}
