//! Handing a request to somebody: by sftp(1), by sendmail(8), or to a program. A request is public.
//!
//! Owns the programs' arguments and their bounds. Whatever is started ends in time, with all it started.

use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How long sftp and sendmail may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// The most a program may print.
const OUTPUT_MAX: u64 = 1 << 20;
/// The last of what it says on stderr that is passed on.
const SAID_MAX: usize = 300;
const SENDMAIL: &str = "/usr/sbin/sendmail";
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Who gets a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A folder or file on a server.
    Sftp {
        /// `USER@HOST` or `HOST`.
        server: String,
        /// Where it listens.
        port: Option<u16>,
        /// The remote path.
        path: String,
    },
    /// A mailbox.
    Mail(String),
}

impl Target {
    /// `sftp://USER@HOST[:PORT]/PATH` or `mail:ADDRESS`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let says = || "a target is sftp://USER@HOST[:PORT]/PATH or mail:ADDRESS".to_owned();
        if let Some(address) = text.strip_prefix("mail:") {
            return match format!("mail:{address}").parse() {
                Ok(crate::config::Submit::Mail(address)) => Ok(Target::Mail(address)),
                Ok(_) | Err(_) => Err(says()),
            };
        }
        let rest = text.strip_prefix("sftp://").ok_or_else(says)?;
        let (server, path) = rest.split_once('/').ok_or_else(says)?;
        let (server, port) = match server.rsplit_once(':') {
            Some((server, port)) => (server, Some(port.parse().map_err(|_| says())?)),
            None => (server, None),
        };
        let word =
            |t: &str| t.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-@".contains(&b)) && !t.starts_with('-');
        // sftp splits its commands at blanks and takes quotes and wildcards.
        let plain = |t: &str| t.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/+@=:".contains(&b));
        if server.is_empty() || !word(server) || path.is_empty() || !plain(path) {
            return Err(says());
        }
        Ok(Target::Sftp { server: server.to_owned(), port, path: format!("/{path}") })
    }
}

/// Hands the request for a host's certificate to somebody.
///
/// # Errors
/// Why not.
pub fn send(target: &Target, host: &str, request: &str) -> Result<(), String> {
    match target {
        Target::Mail(to) => mail(to, &format!("Certificate request for {host}"), request),
        Target::Sftp { server, port, path } => {
            let file = Temporary::with(request)?;
            let mut command = bounded_command(Path::new("sftp"));
            command.args(["-q", "-o", "BatchMode=yes", "-b", "-"]);
            if let Some(port) = port {
                command.args(["-P", &port.to_string()]);
            }
            command.arg("--").arg(server);
            let path = if path.ends_with('/') { format!("{path}{host}.csr") } else { path.clone() };
            let batch = format!("put {} {path}\n", file.0.display());
            run(command, batch.as_bytes(), PATIENCE).map(drop).map_err(|e| format!("sftp: {e}"))
        }
    }
}

/// A mail by sendmail(8).
///
/// # Errors
/// Why not.
pub fn mail(to: &str, subject: &str, body: &str) -> Result<(), String> {
    let mut command = bounded_command(Path::new(SENDMAIL));
    command.args(["-t", "-i"]);
    let subject: String = subject.chars().filter(|c| !c.is_control()).collect();
    let text = format!(
        "To: {to}\nSubject: {subject}\nMIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\nAuto-Submitted: auto-generated\n\n{body}"
    );
    run(command, text.as_bytes(), PATIENCE).map(drop).map_err(|e| format!("sendmail: {e}"))
}

/// A program with nothing of ours in its environment.
pub fn bounded_command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", PATH);
    for name in ["HOME", "LANG", "SSH_AUTH_SOCK"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    // Its own group, so that all it starts ends with it.
    command.process_group(0);
    command
}

/// Runs it with this on stdin: what it printed, if it ended well and in time.
///
/// # Errors
/// How it ended, with the last line it said on stderr.
pub fn run(mut command: Command, input: &[u8], patience: Duration) -> Result<Vec<u8>, String> {
    let deadline = Instant::now() + patience;
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| format!("it cannot be started: {}", e.to_string().to_lowercase()))?;
    let (mut to, from, said) = match (child.stdin.take(), child.stdout.take(), child.stderr.take()) {
        (Some(to), Some(from), Some(said)) => (to, from, said),
        _ => return Err("it has no pipes".into()),
    };
    let input = input.to_vec();
    // One that does not read its input may still know the answer.
    std::thread::spawn(move || to.write_all(&input));
    let (tell, told) = mpsc::channel();
    let reader = |mut from: Box<dyn Read + Send>, tell: mpsc::Sender<(bool, Vec<u8>)>, answer: bool| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = from.by_ref().take(OUTPUT_MAX + 1).read_to_end(&mut bytes);
            let _ = tell.send((answer, bytes));
        });
    };
    reader(Box::new(from), tell.clone(), true);
    reader(Box::new(said), tell, false);
    let (mut answer, mut complaint) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        match told.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok((true, bytes)) => answer = bytes,
            Ok((false, bytes)) => complaint = bytes,
            Err(_) => return Err(ended(&mut child, "it took longer than it may")),
        }
        if answer.len() as u64 > OUTPUT_MAX {
            return Err(ended(&mut child, "it printed more than it may"));
        }
    }
    let Some(status) = wait(&mut child, deadline) else { return Err(ended(&mut child, "it took longer than it may")) };
    if status.success() {
        return Ok(answer);
    }
    let text = String::from_utf8_lossy(&complaint);
    let last = text.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or("it said nothing");
    let last: String = last.chars().filter(|c| !c.is_control()).take(SAID_MAX).collect();
    Err(format!("{status}: {last}"))
}

/// Its status, if it ends in time. Its output is closed already, so that is at once.
fn wait(child: &mut Child, deadline: Instant) -> Option<ExitStatus> {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).ok()?);
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        use nix::sys::wait::{Id, WaitPidFlag, waitid};
        // Left to be reaped by its owner.
        let _ = waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT);
        let _ = tell.send(());
    });
    told.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok()?;
    child.wait().ok()
}

fn ended(child: &mut Child, why: &str) -> String {
    if let Ok(pid) = i32::try_from(child.id()) {
        let _ = nix::sys::signal::killpg(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
    }
    let _ = child.kill();
    let _ = child.wait();
    why.to_owned()
}

/// A file of ours that is gone at the end.
struct Temporary(PathBuf);

impl Temporary {
    fn with(text: &str) -> Result<Self, String> {
        use std::os::unix::fs::OpenOptionsExt;
        let mut random = [0u8; 8];
        getrandom::getrandom(&mut random).map_err(|e| e.to_string())?;
        let path = std::env::temp_dir().join(format!("pinfold-{}.csr", crate::cert::hex(&random)));
        let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let mut file = file.map_err(|e| format!("{}: {e}", path.display()))?;
        let temporary = Temporary(path);
        file.write_all(text.as_bytes()).map_err(|e| e.to_string())?;
        Ok(temporary)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, input: &str, patience: Duration) -> Result<Vec<u8>, String> {
        let mut command = bounded_command(Path::new("sh"));
        command.args(["-c", script]);
        run(command, input.as_bytes(), patience)
    }

    #[test]
    fn targets_are_servers_and_mailboxes() {
        let sftp = Target::parse("sftp://ca@ca.example.org:2222/in/web.csr").unwrap();
        let Target::Sftp { server, port, path } = sftp else { panic!("{sftp:?}") };
        assert_eq!((server.as_str(), port, path.as_str()), ("ca@ca.example.org", Some(2222), "/in/web.csr"));
        assert_eq!(Target::parse("mail:ca@example.org").unwrap(), Target::Mail("ca@example.org".into()));
        for bad in [
            "",
            "ca",
            "sftp://",
            "sftp://h",
            "sftp://h/",
            "sftp:///x",
            "sftp://-oX/x",
            "sftp://h/a b",
            "sftp://h/a\"",
            "sftp://h:x/y",
            "mail:",
            "mail:a b",
            "mail:-f",
            "ftp://h/x",
            "sftp://h/a\n!sh",
        ] {
            assert!(Target::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_program_gets_its_input_and_only_a_good_end_counts() {
        let long = Duration::from_secs(60);
        assert_eq!(sh("cat", "hello", long).unwrap(), b"hello");
        assert_eq!(sh("echo answer; exec <&-", &"x".repeat(1 << 20), long).unwrap(), b"answer\n");
        let said = sh("echo answer; echo first >&2; echo the reason >&2; exit 3", "", long).unwrap_err();
        assert!(said.contains("the reason") && said.contains('3'), "{said}");
        assert!(run(bounded_command(Path::new("/nonexistent")), b"", long).unwrap_err().contains("cannot be started"));
    }

    #[test]
    fn a_program_that_hangs_or_talks_too_much_is_ended_with_all_it_started() {
        let short = Duration::from_millis(300);
        assert_eq!(sh("sleep 1000 & sleep 1000", "", short).unwrap_err(), "it took longer than it may");
        assert_eq!(sh("exec >&- 2>&-; sleep 1000", "", short).unwrap_err(), "it took longer than it may");
        let long = Duration::from_secs(60);
        assert_eq!(sh("yes", "", long).unwrap_err(), "it printed more than it may");
    }
}
