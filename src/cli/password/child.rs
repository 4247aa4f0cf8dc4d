//! A program that is given a password on its standard input, and what it said of it.
//!
//! Owns what is shown of that: it is searched for the passwords first. They are never in an argument or the environment.

pub use crate::run::Input;
use crate::run::{End, Program, Take};
use crate::secret::Secret;
use std::io;

/// How much of what a program says is kept.
const SAID_MAX: usize = 64 << 10;

/// How a program ended.
#[derive(Debug)]
pub struct Ended {
    ended: crate::run::Ended,
    /// Whether the input was sent.
    pub sent: bool,
    /// Its standard output, as far as it was kept.
    pub stdout: Vec<u8>,
    /// Its errors, the last line that says something; without control characters.
    pub stderr: String,
}

impl Ended {
    /// Its exit status, if it ended by itself.
    pub fn code(&self) -> Option<i32> {
        self.ended.code()
    }

    /// Why it did not do what it should, in words.
    pub fn why(&self) -> String {
        match &self.ended.end {
            End::Itself(_) if !self.stderr.is_empty() => self.stderr.clone(),
            End::Itself(status) => status.to_string(),
            End::Lost(error) => error.to_string(),
            End::Late | End::Cancelled | End::TooMuch => "it took too long and was stopped".into(),
        }
    }
}

/// Runs it to its end, or until its time is up. In what it said, `hidden` are not shown.
///
/// # Errors
/// The system's reason, if it could not be started.
pub fn run(program: Program<'_>, input: Input<'_>, hidden: &[&Secret]) -> io::Result<Ended> {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let (out, err) = (Take::First(&mut stdout, SAID_MAX), Take::First(&mut stderr, SAID_MAX));
    let ended = Program { stdin: input, stdout: out, stderr: err, ..program }.run()?;
    Ok(Ended { sent: ended.sent, stdout, stderr: last_line(stderr, hidden), ended })
}

/// The last line that says something; a password in it is not repeated.
fn last_line(said: Vec<u8>, hidden: &[&Secret]) -> String {
    let mut text = String::from_utf8_lossy(&said).into_owned();
    for secret in hidden {
        if let Ok(secret) = std::str::from_utf8(secret.expose())
            && !secret.is_empty()
        {
            text = text.replace(secret, "…");
        }
    }
    let last = text.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    last.chars().filter(|c| !c.is_control()).take(400).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::Manner;
    use std::path::Path;
    use std::time::{Duration, Instant};

    #[test]
    fn the_input_arrives_and_is_not_repeated() {
        let password = Secret::copy_of(b"hunter2").unwrap();
        let until = Instant::now() + Duration::from_secs(20);
        let mut program = Program::new(Path::new("/bin/sh"), Manner::Group(None), Some(until));
        let script = "read -r p; echo \"got $p\"; echo \"cannot set $p\" >&2; exit 3";
        program.args = vec!["-c".into(), script.into()];
        let ended = run(program, Input::Bytes(password.expose()), &[&password]).unwrap();
        assert_eq!((ended.code(), ended.sent), (Some(3), true));
        assert_eq!(ended.stdout, b"got hunter2\n");
        assert_eq!(ended.why(), "cannot set …");
    }
}
