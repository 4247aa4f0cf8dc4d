//! Who is at the other end: the kernel's word, taken when he connected.
//!
//! Owns the question whether somebody may speak to the daemon at all. What he may do is for the core to say.

use crate::sys::socket::peer_groups;
use crate::wire::Actor;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// The other end of a connection.
#[derive(Debug)]
pub struct Peer {
    /// Its credentials.
    pub actor: Actor,
    /// Its supplementary groups.
    pub groups: Vec<u32>,
    /// Its process, so that its pid cannot come to mean another; none on kernels before 6.5.
    pub process: Option<OwnedFd>,
}

impl Peer {
    /// Asks the kernel.
    ///
    /// # Errors
    /// The system's reason; a peer in a pid namespace that cannot be seen from here has no pid and is an error too.
    pub fn of(stream: &UnixStream) -> io::Result<Peer> {
        let credentials = getsockopt(stream, sockopt::PeerCredentials)?;
        if credentials.pid() <= 0 {
            return Err(io::Error::other("the peer is in no pid namespace below this one"));
        }
        let process = getsockopt(stream, sockopt::PeerPidfd).ok();
        let actor = Actor::new(credentials.uid(), credentials.gid(), credentials.pid());
        Ok(Peer { actor, groups: peer_groups(stream.as_fd())?, process })
    }

    /// Whether it is root or an operator; else why not.
    pub fn may_speak(&self, operator_gid: Option<u32>) -> Result<(), String> {
        let uid = self.actor.uid;
        if uid == 0 {
            return Ok(());
        }
        match operator_gid {
            Some(gid) if self.actor.gid == gid || self.groups.contains(&gid) => Ok(()),
            Some(_) => Err(format!("uid {uid} is neither root nor in operator_group")),
            None => Err(format!("uid {uid} is not root, and there is no operator_group")),
        }
    }

    /// Whether the process that connected still runs. A connection it left to a child says nothing about who that is.
    pub fn is_there(&self) -> bool {
        let Some(process) = &self.process else { return true };
        let mut fds = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO) == Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(uid: u32, gid: u32, groups: &[u32]) -> Peer {
        Peer { actor: Actor::new(uid, gid, 1), groups: groups.to_vec(), process: None }
    }

    #[test]
    fn root_and_the_operator_group_may_speak() {
        for (peer, operator_gid, may) in [
            (peer(0, 0, &[]), None, true),
            (peer(0, 5, &[]), Some(7), true),
            (peer(1000, 1000, &[]), None, false),
            (peer(1000, 0, &[0]), None, false),
            (peer(1000, 1000, &[4, 7]), Some(7), true),
            (peer(1000, 7, &[]), Some(7), true),
            (peer(1000, 1000, &[4, 8]), Some(7), false),
        ] {
            assert_eq!(peer.may_speak(operator_gid).is_ok(), may, "{peer:?} {operator_gid:?}");
        }
    }

    #[test]
    fn the_kernel_knows_us() {
        let (a, _b) = UnixStream::pair().unwrap();
        let peer = Peer::of(&a).unwrap();
        assert_eq!(peer.actor.pid, i32::try_from(std::process::id()).unwrap());
        assert_eq!(peer.actor.uid, nix::unistd::geteuid().as_raw());
        assert!(peer.is_there());
    }
}
