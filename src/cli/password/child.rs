//! A program that is given a password on its standard input: bounded in time and in what it may say.
//!
//! Owns the pipes and the deadline. The password is written once, if asked for only after the program has said that it is
//! ready; it is never in an argument or the environment. What the program says is searched for it before it is shown.

use crate::secret::Secret;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How much of what a program says is kept.
const SAID_MAX: usize = 64 << 10;
/// Between the request to end and the kill.
const GRACE: Duration = Duration::from_secs(2);
/// How long what a program wrote last may be on its way, when something it started holds its output.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// What is written to the program.
#[derive(Debug, Clone, Copy)]
pub enum Input<'a> {
    /// At once.
    Now(&'a Secret),
    /// Once it has written this line.
    After(&'static str, &'a Secret),
}

/// How a program ended.
#[derive(Debug)]
pub struct Ended {
    /// `None` if its time was up.
    pub status: Option<ExitStatus>,
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
        self.status?.code()
    }

    /// Why it did not do what it should, in words.
    pub fn why(&self) -> String {
        match (&self.status, self.stderr.as_str()) {
            (None, _) => "it took too long and was stopped".into(),
            (Some(_), said) if !said.is_empty() => said.to_owned(),
            (Some(status), _) => status.to_string(),
        }
    }
}

/// Runs it to its end, or until the time is up. In what it said, `hidden` are not shown.
///
/// # Errors
/// The system's reason, if it could not be started.
pub fn run(mut command: Command, input: Input<'_>, hidden: &[&Secret], limit: Duration) -> io::Result<Ended> {
    let until = Instant::now() + limit;
    // A group of its own: all of it is stopped together, and an interrupt from the keyboard is for us alone.
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn()?;
    let stdin = child.stdin.take().map(|pipe| File::from(OwnedFd::from(pipe)));
    let stdout = Said::listen(child.stdout.take())?;
    let stderr = Said::listen(child.stderr.take())?;
    let group = Pid::from_raw(i32::try_from(child.id()).expect("a process id is a positive number"));
    let end = End::wait_for(child)?;
    let (ready, content) = match input {
        Input::Now(content) => (true, content),
        Input::After(line, content) => (stdout.says(line, until), content),
    };
    let sent = ready && stdin.is_some_and(|mut pipe| pipe.write_all(content.expose()).is_ok());
    let mut status = end.within(until);
    if status.is_none() {
        let _ = killpg(group, Signal::SIGTERM);
        if end.within(Instant::now() + GRACE).is_none() {
            let _ = killpg(group, Signal::SIGKILL);
            // A process in an uninterruptible wait is left to itself.
            end.within(Instant::now() + GRACE);
        }
        status = None;
    }
    let (stdout, stderr) = (stdout.all(), last_line(stderr.all(), hidden));
    Ok(Ended { status, sent, stdout, stderr })
}

/// The end of a child, awaited by a thread.
struct End(Arc<(Mutex<Option<ExitStatus>>, Condvar)>);

impl End {
    fn wait_for(mut child: Child) -> io::Result<Self> {
        let shared = Arc::new((Mutex::new(None), Condvar::new()));
        let theirs = Arc::clone(&shared);
        std::thread::Builder::new().name("program".into()).spawn(move || {
            if let Ok(status) = child.wait() {
                *locked(&theirs.0) = Some(status);
                theirs.1.notify_all();
            }
        })?;
        Ok(End(shared))
    }

    fn within(&self, until: Instant) -> Option<ExitStatus> {
        let left = until.saturating_duration_since(Instant::now());
        let status = self.0.1.wait_timeout_while(locked(&self.0.0), left, |status| status.is_none());
        *status.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// What comes out of a pipe, read by a thread.
struct Said(Arc<(Mutex<Heard>, Condvar)>);

#[derive(Default)]
struct Heard {
    bytes: Vec<u8>,
    ended: bool,
}

impl Said {
    fn listen(pipe: Option<impl Into<OwnedFd>>) -> io::Result<Self> {
        let shared = Arc::new((Mutex::new(Heard { ended: pipe.is_none(), ..Heard::default() }), Condvar::new()));
        if let Some(pipe) = pipe {
            let (mut from, theirs) = (File::from(pipe.into()), Arc::clone(&shared));
            std::thread::Builder::new().name("output".into()).spawn(move || {
                let mut piece = [0; 4096];
                loop {
                    let read = match from.read(&mut piece) {
                        Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                        read => read.unwrap_or(0),
                    };
                    let mut heard = locked(&theirs.0);
                    let room = (SAID_MAX - heard.bytes.len()).min(read);
                    heard.bytes.extend_from_slice(&piece[..room]);
                    heard.ended = read == 0;
                    theirs.1.notify_all();
                    if read == 0 {
                        return;
                    }
                }
            })?;
        }
        Ok(Said(shared))
    }

    /// Waits until it has said this line.
    fn says(&self, line: &str, until: Instant) -> bool {
        let said = |heard: &Heard| heard.bytes.split(|b| *b == b'\n').any(|l| l.trim_ascii_end() == line.as_bytes());
        let left = until.saturating_duration_since(Instant::now());
        let heard = self.0.1.wait_timeout_while(locked(&self.0.0), left, |heard| !heard.ended && !said(heard));
        said(&heard.unwrap_or_else(PoisonError::into_inner).0)
    }

    /// All of it, once it has ended or has had its time.
    fn all(self) -> Vec<u8> {
        let heard = self.0.1.wait_timeout_while(locked(&self.0.0), LAST_WORDS, |heard| !heard.ended);
        std::mem::take(&mut heard.unwrap_or_else(PoisonError::into_inner).0.bytes)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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

    fn sh(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    fn secret(text: &str) -> Secret {
        Secret::copy_of(text.as_bytes()).unwrap()
    }

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn the_input_arrives_and_is_not_repeated() {
        let password = secret("hunter2");
        let ended = run(
            sh("read -r p; echo \"got $p\"; echo \"cannot set $p\" >&2; exit 3"),
            Input::Now(&password),
            &[&password],
            LONG,
        );
        let ended = ended.unwrap();
        assert_eq!((ended.code(), ended.sent), (Some(3), true));
        assert_eq!(ended.stdout, b"got hunter2\n");
        assert_eq!(ended.why(), "cannot set …");
    }

    #[test]
    fn what_is_not_ready_is_sent_nothing() {
        let password = secret("hunter2\n");
        let ended =
            run(sh("read -r p; echo \"$p\""), Input::After("ready", &password), &[], Duration::from_millis(200))
                .unwrap();
        assert_eq!((ended.sent, ended.stdout), (false, Vec::new()), "its input was closed");
        let ended = run(sh("echo ready; read -r p; echo \"$p\""), Input::After("ready", &password), &[], LONG).unwrap();
        assert_eq!((ended.sent, ended.stdout), (true, b"ready\nhunter2\n".to_vec()));
        let ended = run(sh("exit 255"), Input::After("ready", &password), &[], LONG).unwrap();
        assert_eq!((ended.sent, ended.code()), (false, Some(255)));
    }

    #[test]
    fn what_takes_too_long_is_stopped_with_all_it_started() {
        let begun = Instant::now();
        let ended = run(
            sh("trap '' TERM; sleep 1000 & echo $!; wait; sleep 1000"),
            Input::Now(&secret("x")),
            &[],
            Duration::from_millis(200),
        );
        let ended = ended.unwrap();
        assert!(ended.status.is_none() && begun.elapsed() < Duration::from_secs(10));
        let pid: i32 = String::from_utf8(ended.stdout).unwrap().trim().parse().unwrap();
        // It was killed; on a busy machine its end may take a moment.
        let runs = || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            !stat.is_empty() && !stat.contains(") Z ")
        };
        let until = Instant::now() + LONG;
        while runs() && Instant::now() < until {
            std::thread::yield_now();
        }
        assert!(!runs(), "what it started runs on");
    }

    #[test]
    fn what_holds_the_output_open_is_not_waited_for() {
        let begun = Instant::now();
        let ended = run(sh("sleep 5 & echo done"), Input::Now(&secret("x")), &[], LONG).unwrap();
        assert_eq!((ended.code(), ended.stdout), (Some(0), b"done\n".to_vec()));
        assert!(begun.elapsed() < Duration::from_secs(4));
    }
}
