//! What is said to a child and heard of it, until it is over.
//!
//! Owns the pipes, how much is taken of each, and how a child is brought to its end.

use super::running::Running;
use super::{Cancel, End, Ended, Input, Take, full};
use crate::secret::Secret;
use crate::sys::{proc, wait};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags};
use nix::sys::signal::Signal;
use nix::unistd::pipe2;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

/// Between the request to end and the kill, and how long the kernel has to let a killed one go.
const GRACE: Duration = Duration::from_secs(2);
/// How long its output may still come after its end, from what it started and left behind.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// How much is read at once.
pub const PIECE: usize = 4096;
/// How often in a row, before the clock is looked at again.
const PIECES: usize = 16;

/// Both ends of its standard input: what it gets, what is written to.
pub fn source(input: Input<'_>) -> io::Result<(OwnedFd, Option<Feeding<'_>>)> {
    let (after, rest) = match input {
        Input::Nothing => return Ok((null()?, None)),
        Input::Inherited => return Ok((io::stdin().as_fd().try_clone_to_owned()?, None)),
        Input::File(fd) => return Ok((fd, None)),
        Input::Bytes(bytes) => (None, bytes),
        Input::After(line, bytes) => (Some(line), bytes),
    };
    let (theirs, ours) = pipe2(OFlag::O_CLOEXEC)?;
    Ok((theirs, Some(Feeding { pipe: unblocking(ours)?, after, rest })))
}

/// Both ends of an output: what it gets, what is read from. `own` is where ours goes.
pub fn sink<'a>(take: Take<'a>, own: BorrowedFd<'_>) -> io::Result<(OwnedFd, Option<Listening<'a>>)> {
    let into = match take {
        Take::Nothing | Take::Along => return Ok((null()?, None)),
        Take::Inherited => return Ok((own.try_clone_to_owned()?, None)),
        Take::File(fd) => return Ok((fd, None)),
        into => into,
    };
    let (ours, theirs) = pipe2(OFlag::O_CLOEXEC)?;
    Ok((theirs, Some(Listening { pipe: unblocking(ours)?, into })))
}

fn null() -> io::Result<OwnedFd> {
    File::options().read(true).write(true).open("/dev/null").map(OwnedFd::from)
}

fn unblocking(fd: OwnedFd) -> io::Result<File> {
    fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(fd.into())
}

/// What is written to it.
pub struct Feeding<'a> {
    pipe: File,
    after: Option<&'a str>,
    rest: &'a [u8],
}

/// What is read from it.
pub struct Listening<'a> {
    pipe: File,
    into: Take<'a>,
}

impl Listening<'_> {
    /// Whether that is still within its bound.
    fn add(&mut self, bytes: &[u8]) -> io::Result<bool> {
        match &mut self.into {
            Take::First(kept, most) => {
                kept.extend_from_slice(&bytes[..bytes.len().min(most.saturating_sub(kept.len()))])
            }
            Take::Last(kept, most) => {
                kept.extend_from_slice(bytes);
                // Not at every piece: the front of a vector is taken away by moving the rest.
                if kept.len() > 2 * *most + PIECE {
                    kept.drain(..kept.len() - *most);
                }
            }
            Take::All(kept, most) if kept.len() + bytes.len() <= *most => kept.extend_from_slice(bytes),
            Take::Secret(kept, most) if kept.len() + bytes.len() <= *most => {
                let at = kept.len();
                kept.resize(at + bytes.len()).map_err(full)?;
                kept.expose_mut()[at..].copy_from_slice(bytes);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn has_line(&self, line: &str) -> bool {
        let Take::First(kept, _) = &self.into else { return false };
        kept.split(|b| *b == b'\n').any(|l| l.trim_ascii_end() == line.as_bytes())
    }
}

impl Drop for Listening<'_> {
    fn drop(&mut self) {
        if let Take::Last(kept, most) = &mut self.into {
            kept.drain(..kept.len().saturating_sub(*most));
        }
    }
}

/// A child and the pipes to it.
pub struct Talk<'a> {
    pub child: Running,
    /// Until all is written or nobody reads.
    pub feeding: Option<Feeding<'a>>,
    pub sent: bool,
    /// Until its end was read.
    pub output: Option<Listening<'a>>,
    pub errors: Option<Listening<'a>>,
    pub buffer: Secret,
}

impl Talk<'_> {
    /// Waits for its end without reaping it. [`End::Itself`] has no status yet.
    pub fn attend(&mut self, until: Option<Instant>, cancel: Option<&Cancel>) -> io::Result<End> {
        loop {
            let reads = |fd| PollFd::new(fd, PollFlags::POLLIN);
            let mut fds = vec![reads(self.child.fd())];
            fds.extend(cancel.map(|cancel| reads(cancel.as_fd())));
            fds.extend([&self.output, &self.errors].into_iter().flatten().map(|from| reads(from.pipe.as_fd())));
            let fed = self.feeding.as_ref().filter(|to| to.after.is_none());
            fds.extend(fed.map(|to| PollFd::new(to.pipe.as_fd(), PollFlags::POLLOUT)));
            wait::ready(&mut fds, until)?;
            // Asked first: what it wrote before its end is there when the end is known.
            let ended = proc::has_ended(self.child.fd());
            if !self.listen()? {
                return Ok(End::TooMuch);
            }
            if ended {
                return Ok(End::Itself(ExitStatus::default()));
            }
            if cancel.is_some_and(Cancel::is_told) {
                return Ok(End::Cancelled);
            }
            // One that never pauses must not keep us from looking at the clock.
            if until.is_some_and(|until| until <= Instant::now()) {
                return Ok(End::Late);
            }
            self.feed();
        }
    }

    /// Writes what it takes now.
    fn feed(&mut self) {
        let Some(to) = &mut self.feeding else { return };
        while to.after.is_none() {
            match to.pipe.write(to.rest) {
                Ok(written) => to.rest = &to.rest[written..],
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                // It does not read it.
                Err(_) => return self.feeding = None,
            }
            if to.rest.is_empty() {
                self.sent = true;
                // It sees the end.
                return self.feeding = None;
            }
        }
    }

    /// Takes what is there, so much at most; whether that was within the bounds. What goes beyond is closed to it.
    fn listen(&mut self) -> io::Result<bool> {
        let (mut within, mut ready) = (true, false);
        let line = self.feeding.as_ref().and_then(|to| to.after);
        for (slot, line) in [(&mut self.output, line), (&mut self.errors, None)] {
            for _ in 0..PIECES {
                let Some(from) = slot else { break };
                let heard = match from.pipe.read(self.buffer.expose_mut()) {
                    Ok(n) if n > 0 => from.add(&self.buffer.expose()[..n]),
                    Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                    Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                    _ => {
                        *slot = None;
                        break;
                    }
                };
                ready |= line.is_some_and(|line| from.has_line(line));
                if !matches!(heard, Ok(true)) {
                    *slot = None;
                    within &= heard?;
                }
            }
        }
        if let (true, Some(to)) = (ready, &mut self.feeding) {
            to.after = None;
        }
        Ok(within)
    }

    /// It has ended by itself. Whoever it left behind with its output is not waited for, or not for long.
    pub fn farewell(mut self) -> Ended {
        let until = Instant::now() + LAST_WORDS;
        let end = loop {
            match self.listen() {
                Ok(true) => {}
                Ok(false) => break Some(End::TooMuch),
                Err(error) => break Some(End::Lost(error)),
            }
            let pipes = [&self.output, &self.errors].into_iter().flatten();
            let mut fds: Vec<_> = pipes.map(|from| PollFd::new(from.pipe.as_fd(), PollFlags::POLLIN)).collect();
            if fds.is_empty() || !wait::ready(&mut fds, Some(until)).unwrap_or(false) || Instant::now() >= until {
                break None;
            }
        };
        let status = self.child.reap();
        let end = end.unwrap_or_else(|| status.map_or_else(End::Lost, End::Itself));
        Ended { end, sent: self.sent, lingers: false }
    }

    /// Asks it to end, then kills it, and everything with it that it started in its group or its namespace.
    pub fn cut_off(mut self, end: End) -> Ended {
        // Not a word more to it; it is not closed either, or it would take that for the end of what it was told.
        let _held = self.feeding.take();
        let sent = self.sent;
        self.child.signal(Signal::SIGTERM);
        self.is_gone_within(GRACE);
        self.child.signal(Signal::SIGKILL);
        let lingers = !self.is_gone_within(GRACE);
        if !lingers {
            let _ = self.child.reap();
        } else {
            // Its end is awaited by somebody who has nothing else to do.
            let mut child = self.child;
            let _ = std::thread::Builder::new().name("reaper".into()).spawn(move || drop(child.reap()));
        }
        Ended { end, sent, lingers }
    }

    fn is_gone_within(&mut self, time: Duration) -> bool {
        let until = Some(Instant::now() + time);
        while let Ok(end) = self.attend(until, None) {
            match end {
                End::Itself(_) => return true,
                // That pipe is closed to it by now.
                End::TooMuch => {}
                _ => return false,
            }
        }
        proc::has_ended(self.child.fd())
    }
}
