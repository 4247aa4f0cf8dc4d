//! Running a program to its end, or ending it.
//!
//! Owns its environment, its deadline and what is kept of its output. Each leads a group of its own, which is asked to
//! end and then killed; it gets a keyring, a session and descriptors of its own (`sys::child`).

use super::error::DeliveryError;
use crate::sys::{child, proc, wait};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, pipe2};
use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between the request to end and the kill, and how long the kernel has to let a killed one go.
const GRACE: Duration = Duration::from_secs(2);
/// How much of the output's end is kept.
const KEPT: usize = 8 << 10;
/// How much of it is told.
const TOLD: usize = 400;
/// Where programs look for others.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Tells deliveries that nobody wants them any more. Clones are the same one.
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
    pub fn tell(&self) {
        // It overflows after 2^64 times.
        let _ = self.0.write(1);
    }

    /// Whether it was told.
    pub fn is_told(&self) -> bool {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        // What cannot be asked is not wanted.
        wait::ready(&mut fds, Some(Instant::now())).unwrap_or(true)
    }
}

/// A program to be run.
pub struct Program<'a> {
    /// What it is and what for, in messages.
    pub what: String,
    /// An absolute path.
    pub path: &'a Path,
    pub args: Vec<OsString>,
    /// What its environment has beside PATH and LANG.
    pub env: Vec<(&'static str, OsString)>,
    /// Its standard input; none at all without it.
    pub stdin: Option<OwnedFd>,
    /// Its standard output, if that is not to be taken as what it says.
    pub stdout: Option<OwnedFd>,
    /// A descriptor it has besides, under its number here.
    pub keep: Option<OwnedFd>,
    /// How large its files may grow.
    pub file_max: Option<u64>,
    /// How long it has.
    pub within: Duration,
}

/// What is kept of a program that ended with 0.
#[derive(Debug)]
pub struct Said(VecDeque<u8>);

impl Program<'_> {
    /// Runs it to its end. Success is exit status 0.
    pub fn run(self, cancel: &Cancel) -> Result<Said, DeliveryError> {
        let failed = |e: io::Error| DeliveryError::io(&self.what, e);
        if cancel.is_told() {
            return Err(DeliveryError::Cancelled);
        }
        let (ours, theirs) = pipe2(OFlag::O_CLOEXEC).map_err(|e| failed(e.into()))?;
        fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(|e| failed(e.into()))?;
        let mut command = child::alone(self.path, self.keep, self.file_max);
        command.args(&self.args).env_clear().env("PATH", PATH).env("LANG", "C.UTF-8").current_dir("/");
        command.envs(self.env.iter().map(|(name, value)| (*name, value)));
        command.stdin(self.stdin.map_or_else(Stdio::null, Stdio::from));
        command.stdout(match self.stdout {
            Some(stdout) => Stdio::from(stdout),
            None => theirs.try_clone().map_err(failed)?.into(),
        });
        command.stderr(Stdio::from(theirs));
        let child = command.spawn().map_err(failed)?;
        // Its copies of our descriptors.
        drop(command);
        let mut running = Running { child, said: Said(VecDeque::new()), output: Some(File::from(ours)) };
        let outcome = running.await_end(Instant::now() + self.within, cancel);
        let ended = running.finish(outcome.is_ok());
        let said = running.said;
        let output = said.last_lines();
        if !output.is_empty() {
            tracing::debug!(program = %self.path.display(), %output, "a program of a delivery said");
        }
        match (outcome, ended) {
            (Ok(()), Some(0)) => Ok(said),
            (Ok(()), status) => Err(DeliveryError::Failed { what: self.what, status: status.unwrap_or(255), output }),
            (Err(Stopped::Late), _) => Err(DeliveryError::TimedOut { what: self.what, after: self.within, output }),
            (Err(Stopped::Cancelled), _) => Err(DeliveryError::Cancelled),
            (Err(Stopped::Io(e)), _) => Err(failed(e)),
        }
    }
}

impl Program<'_> {
    /// As [`Program::run`]: what it printed on its standard output, `most` bytes at most. Beyond that the pipe is closed to it.
    pub fn run_for_answer(mut self, most: usize, cancel: &Cancel) -> Result<Vec<u8>, DeliveryError> {
        let what = self.what.clone();
        let failed = |e: io::Error| DeliveryError::io(&what, e);
        let (ours, theirs) = pipe2(OFlag::O_CLOEXEC).map_err(|e| failed(e.into()))?;
        fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(|e| failed(e.into()))?;
        self.stdout = Some(theirs);
        let ended = Cancel::new().map_err(failed)?;
        let (ran, answer) = std::thread::scope(|scope| {
            let reader = scope.spawn(|| answer(File::from(ours), most, &ended));
            // Here, not there: it gets SIGTERM when the thread that started it ends.
            let ran = self.run(cancel);
            ended.tell();
            (ran, reader.join().expect("the reader does not panic"))
        });
        // Whether or not it minded that nobody listened any more.
        let answer = answer.map_err(failed)?;
        if answer.len() > most {
            return Err(DeliveryError::TooMuch { what, most });
        }
        ran.map(|_| answer)
    }
}

/// All of it until its end, or until the program has ended and nothing more is there, whoever still holds the pipe. More
/// than `most` is not read to its end.
fn answer(mut from: File, most: usize, ended: &Cancel) -> io::Result<Vec<u8>> {
    let (mut answer, mut buffer) = (Vec::new(), [0; 16 << 10]);
    while answer.len() <= most {
        // Asked first: what it wrote before its end is there when the end is known.
        let is_last = ended.is_told();
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => answer.extend_from_slice(&buffer[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock && is_last => break,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                let mut fds =
                    [PollFd::new(from.as_fd(), PollFlags::POLLIN), PollFd::new(ended.0.as_fd(), PollFlags::POLLIN)];
                wait::ready(&mut fds, None)?;
            }
            Err(e) => return Err(e),
        }
    }
    Ok(answer)
}

enum Stopped {
    Late,
    Cancelled,
    Io(io::Error),
}

impl From<io::Error> for Stopped {
    fn from(error: io::Error) -> Self {
        Stopped::Io(error)
    }
}

struct Running {
    child: Child,
    said: Said,
    /// Until its end was read.
    output: Option<File>,
}

impl Running {
    /// Waits until it has ended, without reaping it: until then its number, and its group's, is its own.
    fn await_end(&mut self, until: Instant, cancel: &Cancel) -> Result<(), Stopped> {
        let pidfd = proc::open_process(self.child.id())?;
        loop {
            let mut fds =
                vec![PollFd::new(pidfd.as_fd(), PollFlags::POLLIN), PollFd::new(cancel.0.as_fd(), PollFlags::POLLIN)];
            fds.extend(self.output.as_ref().map(|output| PollFd::new(output.as_fd(), PollFlags::POLLIN)));
            if !wait::ready(&mut fds, Some(until))? {
                return Err(Stopped::Late);
            }
            let is = |n: usize| fds.get(n).is_some_and(|fd| fd.any() == Some(true));
            let (ended, told, spoke) = (is(0), is(1), is(2));
            if spoke {
                self.listen(64 << 10);
            }
            if ended {
                return Ok(());
            }
            if told {
                return Err(Stopped::Cancelled);
            }
            // One that never pauses must not keep us from looking at the clock.
            if Instant::now() >= until {
                return Err(Stopped::Late);
            }
        }
    }

    /// Takes what is there, so much at most. Whoever else holds the pipe is not waited for.
    fn listen(&mut self, most: usize) {
        let Some(output) = &mut self.output else { return };
        let mut buffer = [0; 4096];
        for _ in 0..most.div_ceil(buffer.len()) {
            match output.read(&mut buffer) {
                Ok(n) if n > 0 => self.said.add(&buffer[..n]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                _ => {
                    self.output = None;
                    return;
                }
            }
        }
    }

    /// Its exit status, 128 and the signal's number if one ended it. If it has not ended well it is asked to, then killed,
    /// and with it its group.
    fn finish(&mut self, ended: bool) -> Option<i32> {
        if !ended {
            let pid = i32::try_from(self.child.id()).expect("a pid is an int");
            let group = Pid::from_raw(pid);
            // ESRCH says that there is nobody left in it.
            let _ = killpg(group, Signal::SIGTERM);
            let pidfd = proc::open_process(self.child.id()).ok();
            let gone = |within: Duration| {
                let Some(pidfd) = &pidfd else { return false };
                let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
                wait::ready(&mut fds, Some(Instant::now() + within)).unwrap_or(false)
            };
            gone(GRACE);
            // It is not reaped yet, so that the group is still its own.
            let _ = killpg(group, Signal::SIGKILL);
            if !gone(GRACE) {
                tracing::warn!(pid, "a program was killed, but the kernel does not let it go");
                return None;
            }
        }
        self.listen(1 << 20);
        let status = self.child.wait().ok()?;
        Some(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)))
    }
}

impl Said {
    fn add(&mut self, bytes: &[u8]) {
        self.0.extend(bytes);
        let over = self.0.len().saturating_sub(KEPT);
        self.0.drain(..over);
    }

    /// The end of it, in one line, without what sftp(1) echoes or says in any case.
    pub fn last_lines(&self) -> String {
        let bytes: Vec<u8> = self.0.iter().copied().collect();
        let text = String::from_utf8_lossy(&bytes);
        let noise = |line: &str| line.is_empty() || line.starts_with("sftp> ") || line.starts_with("Connection closed");
        let lines: Vec<&str> = text.split(['\n', '\r']).map(str::trim).filter(|line| !noise(line)).collect();
        let from = lines.len().saturating_sub(3);
        let shown: String = lines[from..].join("; ").chars().filter(|c| !c.is_control()).collect();
        let skip = shown.chars().count().saturating_sub(TOLD);
        shown.chars().skip(skip).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    fn shell(script: &str, within: Duration) -> Program<'static> {
        Program {
            what: "the test".into(),
            path: Path::new("/bin/sh"),
            args: vec!["-c".into(), script.into()],
            env: vec![("PINFOLD_X", "y".into())],
            stdin: None,
            stdout: None,
            keep: None,
            file_max: None,
            within,
        }
    }

    const SOON: Duration = Duration::from_secs(20);

    fn run(script: &str) -> Result<String, DeliveryError> {
        shell(script, SOON).run(&Cancel::new().unwrap()).map(|said| said.last_lines())
    }

    #[test]
    fn a_program_has_little() {
        assert_eq!(
            run("env | sort | grep -v ^PWD | tr '\\n' ' '").unwrap(),
            format!("LANG=C.UTF-8 PATH={PATH} PINFOLD_X=y")
        );
        // sh opens what it lists.
        assert_eq!(run("cd /proc/self/fd && echo *").unwrap(), "0 1 2 3");
        assert_eq!(
            run("ps -o pid=,sid=,pgid= -p $$ | (read a b c; [ $a = $b ] && [ $a = $c ] && echo own)").unwrap(),
            "own"
        );
        assert_eq!(run("cat; pwd").unwrap(), "/");
    }

    #[test]
    fn what_is_kept_is_there_under_its_number() {
        let fd = crate::sys::memfd::with("test", b"kept").unwrap();
        let script = format!("cat /proc/self/fd/{}", fd.as_raw_fd());
        let program = Program { keep: Some(fd), ..shell(&script, SOON) };
        assert_eq!(program.run(&Cancel::new().unwrap()).unwrap().last_lines(), "kept");
    }

    #[test]
    fn files_do_not_grow_beyond_the_bound() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x");
        let script = format!("head -c 100000 /dev/zero > {}", file.display());
        let program = Program { file_max: Some(1000), ..shell(&script, SOON) };
        assert!(program.run(&Cancel::new().unwrap()).is_err());
        assert_eq!(std::fs::metadata(file).unwrap().len(), 1000);
    }

    #[test]
    fn how_it_ended_is_told() {
        let told = |script: &str| run(script).unwrap_err().to_string();
        assert_eq!(told("echo one; echo two >&2; exit 3"), "the test ended with exit status 3: one; two");
        assert_eq!(told("kill -9 $$"), "the test was ended by signal 9");
        let told = told("yes 0123456789abcdef | head -c 3000000; exit 1");
        assert!(told.len() < 500, "{told}");
        let missing = Program { path: Path::new("/nonexistent"), ..shell("", SOON) };
        assert!(matches!(missing.run(&Cancel::new().unwrap()), Err(DeliveryError::Io { .. })));
    }

    #[test]
    fn what_does_not_end_is_ended_with_all_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let pids = dir.path().join("pids");
        // One that ignores the request, with a child that does, too.
        let script = format!(
            "trap '' TERM; sh -c 'trap \"\" TERM; echo $$ >> {0}; sleep 1000' & echo $$ >> {0}; wait",
            pids.display()
        );
        let begun = Instant::now();
        let error = shell(&script, Duration::from_secs(1)).run(&Cancel::new().unwrap()).unwrap_err();
        assert!(matches!(error, DeliveryError::TimedOut { .. }), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        let pids = std::fs::read_to_string(pids).unwrap();
        assert_eq!(pids.lines().count(), 2);
        for pid in pids.lines() {
            let until = Instant::now() + Duration::from_secs(5);
            while std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| !s.contains(") Z ")) {
                assert!(Instant::now() < until, "{pid} is still there");
                std::thread::yield_now();
            }
        }
    }

    #[test]
    fn who_is_told_to_stop_stops() {
        let cancel = Cancel::new().unwrap();
        std::thread::scope(|scope| {
            let running = scope.spawn(|| shell("echo up; exec sleep 1000", SOON * 10).run(&cancel));
            std::thread::sleep(Duration::from_millis(50));
            cancel.tell();
            assert!(matches!(running.join().unwrap(), Err(DeliveryError::Cancelled)));
        });
        assert!(matches!(shell("true", SOON).run(&cancel), Err(DeliveryError::Cancelled)), "it stays told");
    }

    #[test]
    fn a_daemon_left_behind_is_not_waited_for() {
        let begun = Instant::now();
        assert_eq!(run("(sleep 5) & echo up").unwrap(), "up");
        assert!(begun.elapsed() < Duration::from_secs(4));
    }
}
