//! Asking on the terminal, without echo.
//!
//! Owns the terminal's settings while it asks, and puts them back however that ends: answered, interrupted by a key, or
//! by a signal.

use super::Failure;
use super::take::KEY_MAX;
use crate::exit::Exit;
use crate::secret::Secret;
use crate::unlock::{Kind, Method, MethodError, Stop};
use crate::wire::UnlockWith;
use nix::sys::termios::{LocalFlags, SetArg, SpecialCharacterIndices, Termios, tcgetattr, tcsetattr};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::{SigId, low_level};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

const CTRL_C: u8 = 3;
const CTRL_D: u8 = 4;
const BACKSPACE: u8 = 8;
const CTRL_U: u8 = 21;
const DELETE: u8 = 127;

/// One line from the terminal, not shown.
///
/// # Errors
/// A usage error if there is no terminal; refused if the question was not answered.
pub fn ask(question: &str) -> Result<Secret, Failure> {
    let tty = File::options().read(true).write(true).open("/dev/tty").map_err(|_| {
        Failure::usage("there is no terminal to ask for the passphrase").hint("--passphrase-file FILE, or - for stdin")
    })?;
    let fail = |e: io::Error| Failure::new(Exit::Failed, format!("the terminal: {e}"));
    // As long as it takes.
    let patience = Stop::new(Instant::now() + Duration::from_secs(365 * 86_400)).map_err(fail)?;
    match answer(&tty, question, &patience).map_err(fail)? {
        Answer::Line(secret) => Ok(secret),
        Answer::Nothing | Answer::Stopped(_) => Err(Failure::new(Exit::Refused, "nothing was typed")),
        Answer::TooLong => Err(Failure::usage(format!("a line has {KEY_MAX} bytes at most"))),
        Answer::Signal(signal) => {
            // The terminal is as it was: now the signal does what it does to any command.
            let _ = low_level::emulate_default_handler(signal);
            Err(Failure::new(Exit::Failed, "interrupted"))
        }
    }
}

/// The terminal as one way to unlock among others: it is asked until another one was faster.
pub struct Terminal {
    tty: File,
    asked: bool,
}

impl Terminal {
    /// If there is one.
    pub fn new() -> Option<Self> {
        Some(Terminal { tty: File::options().read(true).write(true).open("/dev/tty").ok()?, asked: false })
    }
}

impl Method for Terminal {
    fn name(&self) -> &str {
        "terminal"
    }

    fn kind(&self) -> Kind {
        Kind::Prompt
    }

    fn answer(&mut self, stop: &Stop) -> Result<UnlockWith, MethodError> {
        let question = if self.asked { "That does not open it. Once more, the passphrase: " } else { "Passphrase: " };
        self.asked = true;
        match answer(&self.tty, question, stop)? {
            Answer::Line(secret) => Ok(UnlockWith::Passphrase(secret)),
            Answer::Nothing => Err(MethodError::Declined),
            Answer::TooLong => Err(MethodError::TooLong),
            Answer::Stopped(error) => Err(error),
            Answer::Signal(signal) => {
                // Other ways that are being tried end with this process.
                let _ = low_level::emulate_default_handler(signal);
                Err(MethodError::Stopped)
            }
        }
    }
}

fn answer(mut tty: &File, question: &str, stop: &Stop) -> io::Result<Answer> {
    let quiet = Quiet::new(tty)?;
    tty.write_all(question.as_bytes())?;
    let line = quiet.line(stop);
    drop(quiet);
    tty.write_all(b"\n")?;
    line
}

/// Twice the same.
///
/// # Errors
/// As [`ask`]; a usage error if the two differ.
pub fn ask_twice(question: &str) -> Result<Secret, Failure> {
    let first = ask(question)?;
    if first.is_empty() {
        return Err(Failure::usage("the passphrase is empty"));
    }
    let second = ask("Once more: ")?;
    if first.expose() == second.expose() { Ok(first) } else { Err(Failure::usage("the two are not the same")) }
}

/// How a pause ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pressed {
    /// A key.
    Key(u8),
    /// Nobody pressed one in time, or the terminal has gone.
    Nothing,
    /// A signal came; what it does is still to be done: [`Pressed::follow`].
    Signal(i32),
}

impl Pressed {
    /// Does what the signal does to any command, if it was one.
    pub fn follow(self) {
        if let Pressed::Signal(signal) = self {
            let _ = low_level::emulate_default_handler(signal);
        }
    }
}

/// Shows a page and waits for a key, which is not echoed: not even one that comes while the page is being written.
///
/// # Errors
/// What the terminal says.
pub fn pause(mut tty: &File, page: &[u8], until: Instant) -> io::Result<Pressed> {
    let stop = Stop::new(until)?;
    let quiet = Quiet::new(tty)?;
    tty.write_all(page)?;
    let [int, term, hup] = &quiet.signals;
    let ready = match stop.wait([tty.as_fd(), int.pipe.as_fd(), term.pipe.as_fd(), hup.pipe.as_fd()]) {
        Ok(ready) => ready,
        Err(_) => return Ok(Pressed::Nothing),
    };
    if let Some((signal, _)) = quiet.signals.iter().zip(&ready[1..]).find(|(_, told)| **told) {
        return Ok(Pressed::Signal(signal.number));
    }
    let mut key = [0];
    Ok(match (tty.read(&mut key)?, key[0]) {
        (0, _) => Pressed::Nothing,
        (_, CTRL_C) => Pressed::Signal(SIGINT),
        (_, key) => Pressed::Key(key),
    })
}

enum Answer {
    Line(Secret),
    Nothing,
    TooLong,
    Signal(i32),
    Stopped(MethodError),
}

/// Whether signals do what they do by default again: signal-hook cannot take its handler back.
static ASKED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// A terminal that does not echo, until this is dropped.
struct Quiet<'t> {
    tty: &'t File,
    before: Termios,
    signals: [Watched; 3],
}

/// A signal that becomes a byte in a pipe.
struct Watched {
    number: i32,
    id: SigId,
    pipe: UnixStream,
}

impl Watched {
    fn new(number: i32) -> io::Result<Self> {
        let (pipe, handlers) = UnixStream::pair()?;
        Ok(Watched { number, id: low_level::pipe::register(number, handlers)?, pipe })
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        low_level::unregister(self.id);
    }
}

impl<'t> Quiet<'t> {
    fn new(tty: &'t File) -> io::Result<Self> {
        let asked = ASKED.get_or_init(|| {
            let asked = Arc::new(AtomicBool::new(false));
            for signal in [SIGINT, SIGTERM, SIGHUP] {
                // Fails for signals that cannot be caught, which these are not.
                let _ = signal_hook::flag::register_conditional_default(signal, asked.clone());
            }
            asked
        });
        asked.store(false, Ordering::SeqCst);
        let before = tcgetattr(tty)?;
        let signals = [Watched::new(SIGINT)?, Watched::new(SIGTERM)?, Watched::new(SIGHUP)?];
        let quiet = Quiet { tty, before: before.clone(), signals };
        let mut silent = before;
        // Keys become bytes, so that every way out passes here and puts the terminal back.
        silent.local_flags.remove(LocalFlags::ECHO | LocalFlags::ECHONL | LocalFlags::ICANON | LocalFlags::ISIG);
        silent.control_chars[SpecialCharacterIndices::VMIN as usize] = 1;
        silent.control_chars[SpecialCharacterIndices::VTIME as usize] = 0;
        tcsetattr(tty, SetArg::TCSAFLUSH, &silent)?;
        Ok(quiet)
    }

    fn line(&self, stop: &Stop) -> io::Result<Answer> {
        let mut line = Secret::zeroed(0).map_err(io::Error::other)?;
        let mut byte = Secret::zeroed(1).map_err(io::Error::other)?;
        let [int, term, hup] = &self.signals;
        loop {
            let ready = match stop.wait([self.tty.as_fd(), int.pipe.as_fd(), term.pipe.as_fd(), hup.pipe.as_fd()]) {
                Ok(ready) => ready,
                Err(error) => return Ok(Answer::Stopped(error)),
            };
            if let Some((signal, _)) = self.signals.iter().zip(&ready[1..]).find(|(_, told)| **told) {
                return Ok(Answer::Signal(signal.number));
            }
            let mut tty = self.tty;
            if tty.read(byte.expose_mut())? == 0 {
                return Ok(Answer::Nothing);
            }
            match type_key(&mut line, byte.expose()[0])? {
                Typed::More => {}
                Typed::Done => return Ok(Answer::Line(line)),
                Typed::Nothing => return Ok(Answer::Nothing),
                Typed::TooLong => return Ok(Answer::TooLong),
                Typed::Interrupt => return Ok(Answer::Signal(SIGINT)),
            }
        }
    }
}

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        if let Err(errno) = tcsetattr(self.tty, SetArg::TCSAFLUSH, &self.before) {
            // Whoever sits there must know why he sees nothing.
            let _ = writeln!(io::stderr(), "pinfold: error: cannot put the terminal back: {}", errno.desc());
            let _ = writeln!(io::stderr(), "pinfold: hint: stty sane");
        }
        if let Some(asked) = ASKED.get() {
            asked.store(true, Ordering::SeqCst);
        }
    }
}

enum Typed {
    More,
    Done,
    Nothing,
    TooLong,
    Interrupt,
}

/// What a key does to the line.
fn type_key(line: &mut Secret, key: u8) -> io::Result<Typed> {
    match key {
        b'\r' | b'\n' => return Ok(Typed::Done),
        CTRL_C => return Ok(Typed::Interrupt),
        CTRL_D if line.is_empty() => return Ok(Typed::Nothing),
        CTRL_D => return Ok(Typed::Done),
        CTRL_U => line.resize(0).map_err(io::Error::other)?,
        BACKSPACE | DELETE => {
            // A character of UTF-8 is a byte that does not continue one, and those after it that do.
            let start = line.expose().iter().rposition(|b| b & 0xc0 != 0x80).unwrap_or(0);
            line.resize(start).map_err(io::Error::other)?;
        }
        _ if line.len() >= KEY_MAX => return Ok(Typed::TooLong),
        other => {
            let at = line.len();
            line.resize(at + 1).map_err(io::Error::other)?;
            line.expose_mut()[at] = other;
        }
    }
    Ok(Typed::More)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(keys: &[u8]) -> Option<Vec<u8>> {
        let mut line = Secret::zeroed(0).unwrap();
        for key in keys {
            match type_key(&mut line, *key).unwrap() {
                Typed::More => {}
                Typed::Done => return Some(line.expose().to_vec()),
                Typed::Nothing | Typed::TooLong | Typed::Interrupt => return None,
            }
        }
        panic!("the line did not end");
    }

    #[test]
    fn keys_edit_the_line() {
        assert_eq!(typed(b"secret\r").unwrap(), b"secret");
        assert_eq!(typed(b"secrex\x7ft\n").unwrap(), b"secret");
        assert_eq!(typed("pä\x7f\x08\x08x\n".as_bytes()).unwrap(), b"x");
        assert_eq!(typed(b"wrong\x15right\x04").unwrap(), b"right");
        assert_eq!(typed(b"\x04"), None);
        assert_eq!(typed(b"abc\x03"), None);
        assert_eq!(typed(&vec![b'x'; KEY_MAX + 1]), None);
    }
}
