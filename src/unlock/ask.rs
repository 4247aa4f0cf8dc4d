//! systemd's password agents: whoever sits at the console, or at `systemd-tty-ask-password-agent`, is asked.
//!
//! Owns the protocol (systemd's "Password Agents" specification): an `ask.*` file that announces a datagram socket, and
//! an answer `+PASSWORD` that counts only if root sent it. Both files are taken away however it ends.

use super::method::{Kind, Method, MethodError, Stop};
use crate::secret::Secret;
use crate::wire::UnlockWith;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixCredentials, recvmsg, setsockopt, sockopt};
use nix::time::{ClockId, clock_gettime};
use std::fs::{File, OpenOptions};
use std::io::{IoSliceMut, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Where agents look.
pub const DIRECTORY: &str = "/run/systemd/ask-password";
/// The longest answer an agent sends.
const ANSWER_MAX: usize = 4096;

/// Asks through systemd's agents.
#[derive(Debug)]
pub struct AskPassword {
    directory: PathBuf,
    message: String,
    asked: u32,
}

impl AskPassword {
    /// With this question; `None` where systemd is not there.
    pub fn new(directory: &Path, store: &Path) -> Option<Self> {
        // It is one line of a file: a name with a newline must not become another key of it.
        let store = store.display().to_string().replace(char::is_control, "?");
        let message = format!("Passphrase for the secrets in {store}:");
        directory.is_dir().then(|| AskPassword { directory: directory.to_owned(), message, asked: 0 })
    }
}

impl Method for AskPassword {
    fn name(&self) -> &str {
        "ask-password"
    }

    fn kind(&self) -> Kind {
        Kind::Prompt
    }

    fn answer(&mut self, stop: &Stop) -> Result<UnlockWith, MethodError> {
        self.asked += 1;
        let question = Question::put(self, stop.until())?;
        let mut answer = Secret::zeroed(ANSWER_MAX)?;
        loop {
            stop.wait([question.socket.as_fd()])?;
            let Some(len) = question.hear(answer.expose_mut())? else { continue };
            match answer.expose()[..len].split_first() {
                Some((b'+', password)) => {
                    // Several answers are told apart by NUL; one was asked for.
                    let password = password.split(|b| *b == 0).next().unwrap_or_default();
                    return Ok(UnlockWith::Passphrase(Secret::copy_of(password)?));
                }
                Some((b'-', _)) => return Err(MethodError::Declined),
                _ => {}
            }
        }
    }
}

/// One question that is being asked.
struct Question {
    socket: UnixDatagram,
    socket_path: PathBuf,
    file: PathBuf,
}

impl Question {
    fn put(ask: &AskPassword, until: Instant) -> Result<Self, MethodError> {
        clear_left_over(&ask.directory);
        let id = format!("pinfold-{}-{}", std::process::id(), ask.asked);
        let socket_path = ask.directory.join(format!("sck.{id}"));
        let _ = std::fs::remove_file(&socket_path);
        let socket = UnixDatagram::bind(&socket_path)?;
        let question = Question { socket, socket_path, file: ask.directory.join(format!("ask.{id}")) };
        setsockopt(&question.socket, sockopt::PassCred, &true).map_err(std::io::Error::from)?;
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_err(std::io::Error::from)?;
        let not_after = std::time::Duration::from(now) + until.saturating_duration_since(Instant::now());
        let text = format!(
            "[Ask]\nPID={}\nSocket={}\nAcceptCached=0\nEcho=0\nNotAfter={}\nId=pinfold\nMessage={}\n",
            std::process::id(),
            question.socket_path.display(),
            not_after.as_micros(),
            ask.message
        );
        // Agents take what appears under an `ask.` name: it must be whole by then.
        let temporary = ask.directory.join(format!("tmp.{id}"));
        let mut file: File = OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        std::fs::rename(&temporary, &question.file)?;
        Ok(question)
    }

    /// A datagram, if root sent it.
    fn hear(&self, into: &mut [u8]) -> Result<Option<usize>, MethodError> {
        let mut space = nix::cmsg_space!(UnixCredentials);
        let mut into = [IoSliceMut::new(into)];
        let message = recvmsg::<()>(self.socket.as_raw_fd(), &mut into, Some(&mut space), MsgFlags::MSG_DONTWAIT)
            .map_err(std::io::Error::from)?;
        let sender = message.cmsgs().map_err(std::io::Error::from)?.find_map(|c| match c {
            ControlMessageOwned::ScmCredentials(who) => Some(who.uid()),
            _ => None,
        });
        Ok((sender == Some(0)).then_some(message.bytes))
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
        let _ = std::fs::remove_file(&self.socket_path);
    }
}

/// A daemon that was killed could not take its question away; nobody is to answer it.
fn clear_left_over(directory: &Path) {
    let Ok(files) = std::fs::read_dir(directory) else { return };
    for file in files.flatten() {
        let name = file.file_name();
        let of = name.to_str().and_then(|n| n.split_once(".pinfold-")?.1.split_once('-')?.0.parse::<u32>().ok());
        if of.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = std::fs::remove_file(file.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_a_killed_daemon_asked_is_taken_away() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let (gone, here) = (child.id(), std::process::id());
        child.wait().unwrap();
        let names = [
            format!("ask.pinfold-{gone}-1"),
            format!("sck.pinfold-{gone}-1"),
            format!("ask.pinfold-{here}-1"),
            "ask.x".into(),
        ];
        names.iter().for_each(|name| std::fs::write(dir.path().join(name), "").unwrap());
        clear_left_over(dir.path());
        assert_eq!(names.map(|name| dir.path().join(name).exists()), [false, false, true, true]);
    }

    fn await_question(directory: &Path) -> String {
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            let files = std::fs::read_dir(directory).unwrap().map(|e| e.unwrap().path());
            if let Some(file) =
                files.into_iter().find(|f| f.file_name().unwrap().as_encoded_bytes().starts_with(b"ask."))
            {
                return std::fs::read_to_string(file).unwrap();
            }
            assert!(Instant::now() < until, "nothing is asked");
            std::thread::yield_now();
        }
    }

    fn asked(reply: &[&[u8]]) -> Result<Vec<u8>, MethodError> {
        let dir = tempfile::tempdir().unwrap();
        let mut ask = AskPassword::new(dir.path(), Path::new("/var/lib/x\nSocket=/evil")).unwrap();
        let stop = Stop::new(Instant::now() + Duration::from_secs(20)).unwrap();
        let told = stop.clone();
        let thread = std::thread::spawn(move || ask.answer(&stop));
        let question = await_question(dir.path());
        assert_eq!(question.lines().filter(|l| l.starts_with("Socket=")).count(), 1, "{question}");
        let socket = question.lines().find_map(|l| l.strip_prefix("Socket=")).unwrap().to_owned();
        let agent = UnixDatagram::unbound().unwrap();
        for part in reply {
            agent.send_to(part, &socket).unwrap();
        }
        if reply.is_empty() {
            told.cancel();
        }
        let answer = thread.join().unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
        answer.map(|a| match a {
            UnlockWith::Passphrase(p) => p.expose().to_vec(),
            _ => panic!("a passphrase was typed"),
        })
    }

    #[test]
    fn an_agent_answers_declines_or_is_stopped() {
        assert_eq!(asked(&[b"+hunter2\0"]).unwrap(), b"hunter2");
        assert_eq!(asked(&[b"garbage", b"+hunter2"]).unwrap(), b"hunter2");
        assert_eq!(asked(&[b"+one\0two\0"]).unwrap(), b"one");
        assert!(matches!(asked(&[b"-"]), Err(MethodError::Declined)));
        assert!(matches!(asked(&[]), Err(MethodError::Stopped)));
        assert!(AskPassword::new(Path::new("/nonexistent"), Path::new("/s")).is_none());
    }
}
