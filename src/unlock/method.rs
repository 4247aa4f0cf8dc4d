//! One way to come by a secret, and how it is told to stop.
//!
//! Owns the contract between the race and its methods. It waits, it never judges.

use crate::run::Cancel;
use crate::secret::Secret;
use crate::sys::arena::ArenaFull;
use crate::sys::wait;
use crate::wire::UnlockWith;
use nix::poll::{PollFd, PollFlags};
use std::io;
use std::os::fd::AsFd;
use std::time::Instant;
use thiserror::Error;

/// What an unencrypted identity begins with, in a line of its own (age's key format).
const IDENTITY: &[u8] = b"AGE-SECRET-KEY-1";

/// What a method is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It answers at once: a file, a credential, a key. Nobody is asked before these have been judged.
    Ready,
    /// It takes its time, and nobody sits there.
    Unattended,
    /// It asks somebody, and may ask again.
    Prompt,
}

/// A way to come by a passphrase or an identity.
pub trait Method: Send {
    /// What it is called in the logs.
    fn name(&self) -> &str;

    /// What it is like.
    fn kind(&self) -> Kind;

    /// The answer. Called again only after a wrong one, and only for [`Kind::Prompt`].
    ///
    /// # Errors
    /// [`MethodError`] ends it. It must be one soon after `stop` says so.
    fn answer(&mut self, stop: &Stop) -> Result<UnlockWith, MethodError>;
}

/// Why a method has no answer.
#[derive(Debug, Error)]
pub enum MethodError {
    /// It ended well and said nothing.
    #[error("it gave no answer")]
    Nothing,
    /// It said more than a key can be.
    #[error("it gave more than {} bytes, that is no key", super::MAX)]
    TooLong,
    /// Its time was up.
    #[error("it took too long and was stopped")]
    TimedOut,
    /// The race is over.
    #[error("stopped")]
    Stopped,
    /// Somebody was asked and declined.
    #[error("nobody answered")]
    Declined,
    /// Anything else.
    #[error("{0}")]
    Failed(String),
    /// A file of it is missing, unsafe or empty.
    #[error(transparent)]
    File(#[from] super::UnlockError),
    /// No locked memory is left.
    #[error(transparent)]
    Memory(#[from] ArenaFull),
}

impl From<io::Error> for MethodError {
    fn from(error: io::Error) -> Self {
        MethodError::Failed(error.to_string())
    }
}

/// How a method hears that it is to stop: a descriptor that becomes readable, and a moment.
#[derive(Debug, Clone)]
pub struct Stop {
    told: Cancel,
    until: Instant,
}

impl Stop {
    /// Not told yet; time is up at `until`.
    ///
    /// # Errors
    /// If no descriptor can be had.
    pub fn new(until: Instant) -> io::Result<Self> {
        Ok(Stop { told: Cancel::new()?, until })
    }

    /// Tells it.
    pub fn cancel(&self) {
        self.told.cancel();
    }

    /// When its time is up.
    pub fn until(&self) -> Instant {
        self.until
    }

    /// What it is told by.
    pub fn told(&self) -> &Cancel {
        &self.told
    }

    /// Waits until one of `fds` can be read or was closed; which, in their order.
    ///
    /// # Errors
    /// [`MethodError::Stopped`], [`MethodError::TimedOut`].
    pub fn wait<const N: usize>(&self, fds: [std::os::fd::BorrowedFd<'_>; N]) -> Result<[bool; N], MethodError> {
        let mut polled: Vec<PollFd<'_>> = fds.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
        polled.push(PollFd::new(self.told.as_fd(), PollFlags::POLLIN));
        if !wait::ready(&mut polled, Some(self.until))? {
            return Err(MethodError::TimedOut);
        }
        if polled[N].any() == Some(true) {
            return Err(MethodError::Stopped);
        }
        Ok(std::array::from_fn(|i| polled[i].any() == Some(true)))
    }
}

/// What bytes that came from somewhere are: an unencrypted identity shows by its first line, all else is a passphrase.
pub fn answer_of(bytes: Secret) -> UnlockWith {
    let identity = bytes.expose().split(|b| *b == b'\n').any(|line| line.trim_ascii_start().starts_with(IDENTITY));
    if identity { UnlockWith::Identity(bytes) } else { UnlockWith::Passphrase(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn waiting_ends_by_word_by_time_and_by_a_descriptor() {
        let (read, write) = nix::unistd::pipe().unwrap();
        let stop = Stop::new(Instant::now() + Duration::from_millis(20)).unwrap();
        assert!(matches!(stop.wait([read.as_fd()]), Err(MethodError::TimedOut)));
        let stop = Stop::new(Instant::now() + Duration::from_secs(60)).unwrap();
        drop(write);
        assert_eq!(stop.wait([read.as_fd()]).unwrap(), [true]);
        stop.clone().cancel();
        assert!(matches!(stop.wait([read.as_fd()]), Err(MethodError::Stopped)), "being told comes first");
    }

    #[test]
    fn an_identity_is_known_by_its_line() {
        let kind = |text: &str| match answer_of(Secret::copy_of(text.as_bytes()).unwrap()) {
            UnlockWith::Identity(_) => "identity",
            UnlockWith::Passphrase(_) => "passphrase",
            UnlockWith::Recovery(_) => "recovery",
        };
        assert_eq!(kind("# public key: age1x\nAGE-SECRET-KEY-1QQ\n"), "identity");
        assert_eq!(kind("AGE-SECRET-KEY-1QQ"), "identity");
        assert_eq!(kind("my AGE-SECRET-KEY-1QQ"), "passphrase");
        assert_eq!(kind("correct horse\n"), "passphrase");
    }
}
