//! One child: a program with a deadline, bounds on what it says, and nothing of ours but what it is given.
//!
//! Owns the pipes, the clock and the end: a child that took too long, said too much or is not wanted any more is asked to
//! end, then killed, with all it started. It judges neither how it ended nor what it said.

mod running;
mod talk;

use crate::secret::Secret;
use crate::sys::isolated_child::RunAs;
use crate::sys::wait;
use nix::poll::{PollFd, PollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};
use running::Running;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Instant;
use talk::{PIECE, Talk};

/// Where programs look for others.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Tells whoever waits that nobody wants it any more. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Cancel(Arc<EventFd>);

impl Cancel {
    /// Not told yet.
    ///
    /// # Errors
    /// If no descriptor can be had.
    pub fn new() -> io::Result<Self> {
        Ok(Cancel(Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?)))
    }

    /// Tells all of them, for good.
    pub fn cancel(&self) {
        // It overflows after 2^64 times.
        let _ = self.0.write(1);
    }

    /// Whether it was told.
    pub fn is_told(&self) -> bool {
        // What cannot be asked is not wanted.
        wait::ready(&mut [PollFd::new(self.as_fd(), PollFlags::POLLIN)], Some(Instant::now())).unwrap_or(true)
    }
}

impl AsFd for Cancel {
    /// Readable once it was told.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A whole environment.
pub type Env = BTreeMap<OsString, OsString>;

/// Where programs are, and a locale that exists everywhere: nothing of ours.
pub fn bare() -> Env {
    [("PATH", PATH), ("LANG", "C.UTF-8")].map(|(name, value)| (name.into(), value.into())).into()
}

/// Our own.
pub fn inherited() -> Env {
    std::env::vars_os().collect()
}

/// What of ours a program shares. Keys are those of the session keyring: a daemon has the scopes' there, a command none.
#[derive(Debug)]
pub enum Manner<'a> {
    /// Keys, session and terminal, where it may ask somebody. For commands only.
    Foreground,
    /// Keys and session, in a group of its own: an interrupt from the keyboard is for us alone. As another user, if one is
    /// named. For commands only.
    Group(Option<&'a RunAs>),
    /// Nothing but our uid: see [`crate::sys::child::alone`]. It begins in `/`.
    Alone {
        /// A descriptor it has besides, under its number here.
        keep: Option<OwnedFd>,
        /// How large its files may grow.
        file_max: Option<u64>,
    },
    /// Nothing, and whatever it starts ends with it: see [`crate::sys::isolated_child`]. Needs root, and an absolute path.
    Apart(&'a RunAs),
}

impl Manner<'_> {
    /// [`Manner::Alone`], with nothing besides.
    pub const ALONE: Manner<'static> = Manner::Alone { keep: None, file_max: None };
}

/// Its standard input.
pub enum Input<'a> {
    /// /dev/null.
    Nothing,
    /// Ours.
    Inherited,
    /// This.
    File(OwnedFd),
    /// A pipe with these bytes; then it is closed.
    Bytes(&'a [u8]),
    /// The same, once it has printed this line: its standard output is to be kept from its beginning.
    After(&'a str, &'a [u8]),
}

/// Where its standard output, or its errors, go.
pub enum Take<'a> {
    /// /dev/null.
    Nothing,
    /// Where ours go.
    Inherited,
    /// There.
    File(OwnedFd),
    /// Of errors: into the same pipe as the output.
    Along,
    /// So many bytes of its beginning are kept.
    First(&'a mut Vec<u8>, usize),
    /// So many bytes of its end are kept.
    Last(&'a mut Vec<u8>, usize),
    /// All of it: a byte more than so many, and the program is ended.
    All(&'a mut Vec<u8>, usize),
    /// The same, into locked memory.
    Secret(&'a mut Secret, usize),
}

/// A program to be run.
pub struct Program<'a> {
    /// A path, or a name that is looked for in its PATH.
    pub path: &'a Path,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Its environment.
    pub env: Env,
    /// What it shares with us.
    pub manner: Manner<'a>,
    /// Its standard input.
    pub stdin: Input<'a>,
    /// Its standard output.
    pub stdout: Take<'a>,
    /// Its errors.
    pub stderr: Take<'a>,
    /// When its time is up; `None` is for what waits for somebody who sits there.
    pub until: Option<Instant>,
    /// Who may call it off.
    pub cancel: Option<&'a Cancel>,
    /// Hears its process id before anything was written to it.
    pub started: Option<&'a dyn Fn(u32)>,
}

/// How it came to an end.
#[derive(Debug)]
pub enum End {
    /// By itself.
    Itself(ExitStatus),
    /// Its time was up.
    Late,
    /// It was called off.
    Cancelled,
    /// It said more than it may.
    TooMuch,
    /// It was started, and could not be followed: the system's reason.
    Lost(io::Error),
}

/// What there is to say of a program that is over.
#[derive(Debug)]
pub struct Ended {
    /// How it came to an end.
    pub end: End,
    /// Whether all of its input was sent.
    pub sent: bool,
    /// Whether it was killed and the kernel does not let it go.
    pub lingers: bool,
}

impl Ended {
    /// Its exit status, if it ended by itself and by no signal.
    pub fn code(&self) -> Option<i32> {
        match self.end {
            End::Itself(status) => status.code(),
            _ => None,
        }
    }
}

impl<'a> Program<'a> {
    /// Without arguments, with the environment of its manner (a bare one if it is alone or apart), no input, no output, and our
    /// errors.
    pub fn new(path: &'a Path, manner: Manner<'a>, until: Option<Instant>) -> Self {
        let env = match manner {
            Manner::Foreground | Manner::Group(_) => inherited(),
            Manner::Alone { .. } | Manner::Apart(_) => bare(),
        };
        Program {
            path,
            args: Vec::new(),
            env,
            manner,
            stdin: Input::Nothing,
            stdout: Take::Nothing,
            stderr: Take::Inherited,
            until,
            cancel: None,
            started: None,
        }
    }

    /// Runs it until it ends, or ends it.
    ///
    /// # Errors
    /// The system's reason, if it was not started.
    pub fn run(self) -> io::Result<Ended> {
        let Program { path, args, env, manner, stdin, stdout, stderr, until, cancel, started } = self;
        if cancel.is_some_and(Cancel::is_told) {
            return Ok(Ended { end: End::Cancelled, sent: false, lingers: false });
        }
        let (stdin, feeding) = talk::source(stdin)?;
        let (stdout, output) = talk::sink(stdout, io::stdout().as_fd())?;
        let (stderr, errors) = match stderr {
            Take::Along => (stdout.try_clone()?, None),
            take => talk::sink(take, io::stderr().as_fd())?,
        };
        let buffer = Secret::zeroed(PIECE).map_err(full)?;
        let child = Running::start(path, &args, &env, manner, [stdin, stdout, stderr])?;
        if let (Some(started), Some(pid)) = (started, child.pid()) {
            started(pid);
        }
        let mut talk = Talk { child, feeding, sent: false, output, errors, buffer };
        Ok(match talk.attend(until, cancel) {
            Ok(End::Itself(_)) => talk.farewell(),
            Ok(end) => talk.cut_off(end),
            Err(error) => talk.cut_off(End::Lost(error)),
        })
    }
}

fn full(error: crate::sys::arena::ArenaFull) -> io::Error {
    io::Error::new(ErrorKind::OutOfMemory, error)
}

#[cfg(test)]
mod tests;
