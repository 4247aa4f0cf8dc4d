//! One connection: frames in, replies out, each within half a minute.
//!
//! Owns the clock of a connection. It knows the envelope; what a method does is `dispatch`'s.

use super::dispatch::{self, Conversation, Core};
use super::gate::Gate;
use super::peer::Peer;
use crate::wire::{Actor, Call, CallError, Fault, FrameError, FrameReader, FrameWriter, write_error, write_reply};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Serialize;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// A message, its silence before included, and a reply may each take this long.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// How long a large message, or who reads the log, waits for a turn.
pub(super) const LARGE_PATIENCE: Duration = Duration::from_secs(10);

/// What a connection needs to be served.
pub struct Session<'a> {
    /// Whom requests go to.
    pub core: &'a dyn Core,
    /// Where large messages wait.
    pub gate: &'a Gate,
    /// The largest frame, in bytes.
    pub limit: usize,
    /// Who is at the other end.
    pub peer: &'a Peer,
}

impl Session<'_> {
    /// Answers until the other side closes, says something that is no call, or takes too long.
    ///
    /// # Errors
    /// Why it ended early.
    pub fn serve(&self, stream: &UnixStream) -> Result<(), FrameError> {
        let mut frames = FrameReader::new(Patient::new(stream), self.limit)?;
        let mut standing = Standing::default();
        loop {
            frames.stream().again();
            let mut large = None;
            let next = frames.next(&mut || {
                large = self.gate.large(self.peer.actor.uid, LARGE_PATIENCE);
                large.is_some()
            });
            let mut replies = Replies { to: Patient::new(stream), limit: self.limit, quiet: false };
            let frame = match next {
                Ok(Some(frame)) => frame,
                Ok(None) => return Ok(()),
                Err(error) => {
                    match &error {
                        FrameError::TooLong(_) => replies.error(&Fault::Usage(error.to_string()).into())?,
                        FrameError::Busy | FrameError::Memory(_) => {
                            replies.error(&Fault::Failed(error.to_string()).into())?;
                        }
                        FrameError::CutOff | FrameError::Io(_) => {}
                    }
                    return Err(error);
                }
            };
            let call = match Call::parse(frame.bytes()) {
                Ok(call) => call,
                Err(error) => {
                    replies.error(&error)?;
                    return Ok(());
                }
            };
            replies.quiet = call.oneway;
            self.answer(&call, &mut standing, &mut replies)?;
        }
    }

    fn answer(&self, call: &Call<'_>, standing: &mut Standing, replies: &mut Replies<'_>) -> io::Result<()> {
        // Good for this call, whatever becomes of it.
        let proven = std::mem::take(&mut standing.proven);
        let actor = &Actor { proven, ..self.peer.actor };
        if !self.peer.is_there() {
            let reason = "the process that connected has ended";
            self.core.denied(actor, reason);
            return replies.error(&Fault::Refused(reason.into()).into());
        }
        let done = catch_unwind(AssertUnwindSafe(|| {
            let with = &mut Conversation { gate: self.gate, standing, out: &mut *replies };
            dispatch::answer(self.core, actor, call, with)
        }));
        match done {
            Ok(Ok(())) => Ok(()),
            Ok(Err(dispatch::Stop::Answer(error))) => replies.error(&error),
            Ok(Err(dispatch::Stop::Connection(error))) => Err(error),
            Err(_) => {
                tracing::error!(method = %call.method, "control: a request made the daemon panic");
                replies.error(&Fault::Failed("this is a bug in pinfold; the daemon's log has the place".into()).into())
            }
        }
    }
}

/// What a connection has earned.
#[derive(Debug, Default)]
pub struct Standing {
    /// Whether the next call comes with proof.
    pub proven: bool,
}

/// Where replies go.
pub struct Replies<'s> {
    to: Patient<'s>,
    limit: usize,
    quiet: bool,
}

impl<'s> Replies<'s> {
    /// Says whether somebody is there to take a reply: neither he nor the daemon has closed the connection.
    pub fn wanted(&self) -> impl Fn() -> bool + use<'s> {
        let stream = self.to.stream;
        move || !matches!(poll(&mut [PollFd::new(stream.as_fd(), PollFlags::empty())], PollTimeout::ZERO), Ok(1..))
    }

    /// A reply without secrets.
    pub fn plain<T: Serialize>(&mut self, reply: &T, continues: bool) -> io::Result<()> {
        let mut bytes = Vec::new();
        write_reply(&mut bytes, reply, continues)?;
        self.send(&bytes)
    }

    /// A reply that holds plaintext: written in locked memory.
    pub fn secret<T: Serialize>(&mut self, reply: &T) -> io::Result<()> {
        let mut frame = FrameWriter::new(self.limit).map_err(io::Error::other)?;
        write_reply(&mut frame, reply, false)?;
        self.send(frame.bytes())
    }

    /// An error.
    pub fn error(&mut self, error: &CallError) -> io::Result<()> {
        let mut bytes = Vec::new();
        write_error(&mut bytes, error)?;
        self.send(&bytes)
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.quiet {
            return Ok(());
        }
        self.to.again();
        self.to.write_all(bytes)
    }
}

/// A stream with a deadline over many reads or writes: a byte every now and then does not renew it.
pub struct Patient<'s> {
    stream: &'s UnixStream,
    deadline: Instant,
}

impl<'s> Patient<'s> {
    fn new(stream: &'s UnixStream) -> Self {
        Patient { stream, deadline: Instant::now() + PATIENCE }
    }

    /// From now on.
    fn again(&mut self) {
        self.deadline = Instant::now() + PATIENCE;
    }

    fn left(&self) -> io::Result<Duration> {
        match self.deadline.checked_duration_since(Instant::now()) {
            Some(left) if !left.is_zero() => Ok(left),
            _ => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

impl Read for Patient<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(self.left()?))?;
        self.stream.read(into)
    }
}

impl Write for Patient<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(self.left()?))?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_that_passed_ends_reads_and_writes() {
        let (a, mut b) = UnixStream::pair().unwrap();
        b.write_all(b"late").unwrap();
        let mut patient = Patient { stream: &a, deadline: Instant::now() };
        assert_eq!(patient.read(&mut [0; 4]).unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(patient.write(b"x").unwrap_err().kind(), io::ErrorKind::TimedOut);
        patient.again();
        assert_eq!(patient.read(&mut [0; 4]).unwrap(), 4);
    }
}
