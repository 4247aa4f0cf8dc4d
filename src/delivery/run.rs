//! Running a program of a delivery to its end, or ending it.
//!
//! Owns what it is given, and how its end is told: what is kept of its output is its last lines.

use super::error::DeliveryError;
pub use crate::run::Cancel;
use crate::run::{self, End, Input, Manner, Take};
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// How much of the output's end is kept.
const KEPT: usize = 8 << 10;
/// How much of it is told.
const TOLD: usize = 400;

/// A program to be run.
pub struct Program<'a> {
    /// What it is and what for, in messages.
    pub what: String,
    /// An absolute path.
    pub path: &'a Path,
    pub args: Vec<OsString>,
    /// What its environment has beside PATH and LANG.
    pub env: Vec<(&'static str, OsString)>,
    /// Its standard input.
    pub stdin: Input<'a>,
    /// A descriptor it has besides, under its number here.
    pub keep: Option<OwnedFd>,
    /// How large its files may grow.
    pub file_max: Option<u64>,
    /// How long it has.
    pub within: Duration,
}

impl Program<'_> {
    /// Runs it to its end. Success is exit status 0.
    pub fn run(self, cancel: &Cancel) -> Result<(), DeliveryError> {
        self.run_with(None, 0, cancel)
    }

    /// As [`Program::run`], with this as its standard output, which is not what it says then.
    pub fn run_into(self, stdout: OwnedFd, cancel: &Cancel) -> Result<(), DeliveryError> {
        self.run_with(Some(Take::File(stdout)), 0, cancel)
    }

    /// As [`Program::run`]: what it printed on its standard output, `most` bytes at most. Beyond that it is ended.
    pub fn run_for_answer(self, most: usize, cancel: &Cancel) -> Result<Vec<u8>, DeliveryError> {
        let mut answer = Vec::new();
        self.run_with(Some(Take::All(&mut answer, most)), most, cancel)?;
        Ok(answer)
    }

    fn run_with(self, stdout: Option<Take<'_>>, most: usize, cancel: &Cancel) -> Result<(), DeliveryError> {
        let Program { what, path, args, env, stdin, keep, file_max, within } = self;
        let mut said = Vec::new();
        let (stdout, stderr) = match stdout {
            Some(stdout) => (stdout, Take::Last(&mut said, KEPT)),
            None => (Take::Last(&mut said, KEPT), Take::Along),
        };
        let manner = Manner::Alone { keep, file_max };
        let mut program = run::Program::new(path, manner, Some(Instant::now() + within));
        program.env.extend(env.into_iter().map(|(name, value)| (name.into(), value)));
        let ended = run::Program { args, stdin, stdout, stderr, cancel: Some(cancel), ..program }.run();
        let failed = |e: io::Error| DeliveryError::io(&what, e);
        let ended = ended.map_err(failed)?;
        if ended.lingers {
            tracing::warn!(program = %path.display(), "it was killed, but the kernel does not let it go");
        }
        let output = last_lines(&said);
        if !output.is_empty() {
            tracing::debug!(program = %path.display(), %output, "a program of a delivery said");
        }
        match ended.end {
            End::Itself(status) if status.success() => Ok(()),
            End::Itself(status) => {
                let status = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
                Err(DeliveryError::Failed { what, status, output })
            }
            End::Late => Err(DeliveryError::TimedOut { what, after: within, output }),
            End::TooMuch => Err(DeliveryError::TooMuch { what, most }),
            End::Cancelled => Err(DeliveryError::Cancelled),
            End::Lost(e) => Err(failed(e)),
        }
    }
}

/// The end of what it said, in one line, without what sftp(1) echoes or says in any case.
fn last_lines(said: &[u8]) -> String {
    let text = String::from_utf8_lossy(said);
    let noise = |line: &str| line.is_empty() || line.starts_with("sftp> ") || line.starts_with("Connection closed");
    let lines: Vec<&str> = text.split(['\n', '\r']).map(str::trim).filter(|line| !noise(line)).collect();
    let from = lines.len().saturating_sub(3);
    let shown: String = lines[from..].join("; ").chars().filter(|c| !c.is_control()).collect();
    let skip = shown.chars().count().saturating_sub(TOLD);
    shown.chars().skip(skip).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, within: Duration) -> Program<'static> {
        Program {
            what: "the test".into(),
            path: Path::new("/bin/sh"),
            args: vec!["-c".into(), script.into()],
            env: vec![("PINFOLD_X", "y".into())],
            stdin: Input::Nothing,
            keep: None,
            file_max: None,
            within,
        }
    }

    const SOON: Duration = Duration::from_secs(20);

    #[test]
    fn how_it_ended_is_told() {
        let run = |script: &str| shell(script, SOON).run(&Cancel::new().unwrap());
        let told = |script: &str| run(script).unwrap_err().to_string();
        run("[ $PINFOLD_X = y ]").unwrap();
        assert_eq!(told("echo one; echo two >&2; exit 3"), "the test ended with exit status 3: one; two");
        assert_eq!(told("kill -9 $$"), "the test was ended by signal 9");
        let told = told("yes 0123456789abcdef | head -c 3000000; exit 1");
        assert!(told.len() < 500, "{told}");
        let missing = Program { path: Path::new("/nonexistent"), ..shell("", SOON) };
        assert!(matches!(missing.run(&Cancel::new().unwrap()), Err(DeliveryError::Io { .. })));
        let late = shell("echo up; sleep 1000", Duration::from_secs(1)).run(&Cancel::new().unwrap());
        assert_eq!(late.unwrap_err().to_string(), "the test took longer than 1s and was ended: up");
    }

    #[test]
    fn who_is_told_to_stop_stops() {
        let cancel = Cancel::new().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let up = folder.path().join("up");
        nix::unistd::mkfifo(&up, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let script = format!(": > {}; exec sleep 1000", up.display());
        std::thread::scope(|scope| {
            let running = scope.spawn(|| shell(&script, SOON * 10).run(&cancel));
            // It is up: it has opened the other end.
            std::fs::read(up).unwrap();
            cancel.cancel();
            assert!(matches!(running.join().unwrap(), Err(DeliveryError::Cancelled)));
        });
        assert!(matches!(shell("true", SOON).run(&cancel), Err(DeliveryError::Cancelled)), "it stays told");
    }
}
