//! A FUSE connection that another process served: taken over by one that believes to begin.
//!
//! Owns the handshake that fuser insists on, played to it over a socket pair, and the exchange of the socket for the real
//! device behind fuser's back. What happened on the connection before is the caller's to know.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

/// `/dev/fuse` (linux/miscdevice.h).
const FUSE_MAJOR: u64 = 10;
const FUSE_MINOR: u64 = 229;
/// FUSE_INIT (linux/fuse.h).
const INIT: u32 = 26;
/// FUSE_INIT_EXT: the flags have a second half.
const INIT_EXT: u64 = 1 << 30;
/// struct fuse_in_header and struct fuse_init_in.
const INIT_BYTES: usize = 40 + 64;
/// FUSE_NOTIFY_RESEND (Linux ≥ 6.9).
const NOTIFY_RESEND: i32 = 7;

/// What the kernel offered when the connection was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// The protocol's minor version; the major is 7.
    pub minor: u32,
    /// FUSE_INIT flags, both halves.
    pub flags: u64,
}

/// The kernel's part of a handshake, played.
pub struct Stage {
    kernel: File,
}

impl Stage {
    /// The end for the session, and the stage; the offer waits in it.
    ///
    /// # Errors
    /// What socketpair(2) and write(2) say.
    pub fn set(offer: Offer) -> io::Result<(OwnedFd, Self)> {
        let (session, kernel) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        let mut kernel = File::from(kernel);
        kernel.write_all(&init(offer))?;
        Ok((session, Stage { kernel }))
    }

    /// Takes the session's answer away, and puts the real device in the place of the session's descriptor.
    ///
    /// # Errors
    /// If the session did not answer, or refused; what dup3(2) says.
    pub fn exchange(mut self, session: BorrowedFd<'_>, device: &OwnedFd) -> io::Result<()> {
        let mut reply = [0u8; 256];
        let n = self.kernel.read(&mut reply)?;
        // struct fuse_out_header: length, error, unique.
        let error = reply.get(4..8).and_then(|b| b.try_into().ok()).map(i32::from_ne_bytes);
        if n < 16 || error != Some(0) {
            return Err(io::Error::other("the session refused the handshake"));
        }
        // SAFETY: both descriptors are open and borrowed for the call. The session's number goes on to name an open
        // description, as its owner expects; the socket it named is dropped.
        if unsafe { libc::dup3(device.as_raw_fd(), session.as_raw_fd(), libc::O_CLOEXEC) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

/// Asks the kernel to send again what the former process took and did not answer.
///
/// # Errors
/// EINVAL before Linux 6.9.
pub fn resend(device: BorrowedFd<'_>) -> io::Result<()> {
    let mut header = [0; 16];
    header[..4].copy_from_slice(&16u32.to_ne_bytes());
    header[4..8].copy_from_slice(&NOTIFY_RESEND.to_ne_bytes());
    nix::unistd::write(device, &header)?;
    Ok(())
}

/// Whether the descriptor is `/dev/fuse`, and, where the kernel says so (fdinfo, Linux ≥ 6.5), of the connection mounted with this device number.
///
/// # Errors
/// What fstat(2) says.
pub fn is_of(device: BorrowedFd<'_>, dev: u64) -> io::Result<bool> {
    let stat = nix::sys::stat::fstat(device)?;
    let character = stat.st_mode & libc::S_IFMT == libc::S_IFCHR;
    if !character || stat.st_rdev != nix::sys::stat::makedev(FUSE_MAJOR, FUSE_MINOR) {
        return Ok(false);
    }
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", device.as_raw_fd())).unwrap_or_default();
    let number = info.lines().find_map(|line| line.strip_prefix("fuse_connection:")?.trim().parse::<u64>().ok());
    Ok(number.is_none_or(|number| number == nix::sys::stat::minor(dev)))
}

/// Whether the connection is still mounted somewhere and was not aborted.
pub fn is_alive(device: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(device, PollFlags::POLLIN)];
    match poll(&mut fds, PollTimeout::ZERO) {
        Ok(_) => !fds[0].revents().is_some_and(|r| r.contains(PollFlags::POLLERR)),
        Err(_) => false,
    }
}

/// Aborts the connection of the mount with this device number: every request in flight and to come gets ENOTCONN or
/// ECONNABORTED.
///
/// # Errors
/// ENOENT where fusectl is not mounted, or the connection is gone.
pub fn abort(dev: u64) -> io::Result<()> {
    let minor = nix::sys::stat::minor(dev);
    std::fs::OpenOptions::new().write(true).open(format!("/sys/fs/fuse/connections/{minor}/abort"))?.write_all(b"1")
}

fn init(offer: Offer) -> [u8; INIT_BYTES] {
    let flags = offer.flags | INIT_EXT;
    let mut message = [0; INIT_BYTES];
    let mut put = |at: usize, value: u32| message[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    put(0, INIT_BYTES as u32);
    put(4, INIT);
    // A number the kernel never gives: its own are even, a resent one has the top bit.
    put(8, 1);
    put(40, 7);
    put(44, offer.minor);
    put(48, 128 << 10);
    put(52, (flags & u64::from(u32::MAX)) as u32);
    put(56, (flags >> 32) as u32);
    message
}

#[cfg(test)]
mod tests {
    use super::super::mount;
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_device_without_a_mount_is_not_alive() {
        let device = mount::open_fuse_device().unwrap();
        assert!(!is_alive(device.as_fd()));
        let dir = tempfile::tempdir().unwrap();
        mount::mount_fuse(dir.path(), device.as_fd(), "pinfold").unwrap();
        let there = is_alive(device.as_fd());
        mount::unmount_detach(dir.path()).unwrap();
        assert!(there);
        assert!(!is_alive(device.as_fd()));
    }

    #[test]
    fn the_session_sees_the_offer_and_then_the_device() {
        let (session, stage) = Stage::set(Offer { minor: 40, flags: 1 << 42 | 1 << 3 }).unwrap();
        let mut seen = [0u8; 256];
        let mut file = File::from(session.try_clone().unwrap());
        assert_eq!(file.read(&mut seen).unwrap(), INIT_BYTES);
        let word = |at: usize| u32::from_ne_bytes(seen[at..at + 4].try_into().unwrap());
        assert_eq!((word(4), word(40), word(44)), (26, 7, 40));
        assert_eq!((word(52), word(56)), (1 << 30 | 1 << 3, 1 << 10));
        let mut reply = [0u8; 80];
        reply[0] = 80;
        file.write_all(&reply).unwrap();
        drop(file);
        let device = std::fs::File::open("/proc/self/exe").unwrap().into();
        stage.exchange(session.as_fd(), &device).unwrap();
        let same = |fd: &OwnedFd| nix::sys::stat::fstat(fd).map(|s| (s.st_dev, s.st_ino)).unwrap();
        assert_eq!(same(&session), same(&device));
    }

    #[test]
    fn a_session_that_refuses_is_not_given_the_device() {
        let (session, stage) = Stage::set(Offer { minor: 40, flags: 0 }).unwrap();
        let mut reply = [0u8; 16];
        reply[0] = 16;
        reply[4..8].copy_from_slice(&(-71i32).to_ne_bytes());
        File::from(session.try_clone().unwrap()).write_all(&reply).unwrap();
        let device = std::fs::File::open("/proc/self/exe").unwrap().into();
        assert!(stage.exchange(session.as_fd(), &device).is_err());
    }
}
