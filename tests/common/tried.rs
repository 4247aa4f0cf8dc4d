//! What somebody tried on the tree, and how the audit log tells of it.
//!
//! Owns commands whose process id is known, processes that hold a file open until a test says go on, and the comparison
//! of both with the log's line.

use super::Daemon;
use super::process::{Out, User, run, wait};
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// How long a held process may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A command that ended: how, and as whom the daemon saw it.
#[derive(Debug)]
pub struct Tried {
    pub out: Out,
    pub uid: u32,
    pub pid: u32,
    exe: String,
}

/// Runs one simple command; its process keeps the number that is known here.
#[track_caller]
pub fn attempt(user: User, command: &str) -> Tried {
    attempt_within("", user, command)
}

/// The same with something before the user is changed: `unshare --pid --fork`.
#[track_caller]
pub fn attempt_within(wrapper: &str, user: User, command: &str) -> Tried {
    let program = command.split(' ').next().unwrap_or_default();
    let exe = super::sh(&format!("realpath \"$(command -v {program})\"")).quiet().trim_end().to_owned();
    let script = format!("echo $$; exec {command}");
    let mut child = if wrapper.is_empty() {
        let mut child = user.command("/bin/sh");
        child.arg("-c").arg(script);
        child
    } else {
        let mut child = Command::new("/bin/sh");
        child.arg("-c").arg(format!("exec {wrapper} sh -c '{script}'"));
        child
    };
    child.env("LC_ALL", "C");
    let mut out = run(child, b"", &format!("uid {}: {wrapper} {command}", user.uid));
    let end = out.stdout.iter().position(|b| *b == b'\n').unwrap_or_else(|| panic!("it did not start: {out:?}"));
    let pid = String::from_utf8_lossy(&out.stdout[..end]).parse().expect("a process id");
    out.stdout.drain(..=end);
    Tried { out, uid: user.uid, pid, exe }
}

impl Tried {
    /// It was refused in these words.
    #[track_caller]
    pub fn refused(self, why: &str) -> Self {
        Tried { out: self.out.refused(why), ..self }
    }

    /// It succeeded; what it printed.
    #[track_caller]
    pub fn printed(&self) -> String {
        assert_eq!(self.out.code, 0, "{}\nexited {}: {}", self.out.what, self.out.code, self.out.stderr);
        self.out.text()
    }

    /// The log has it as denied, with this process, user and executable.
    #[track_caller]
    pub fn denied(&self, daemon: &Daemon, op: &str, path: &str, reason: &str) -> Value {
        let found = daemon.await_audit(&format!("denied {op} of {path} by {} ({reason})", self.pid), |event| {
            let same = event["op"] == op && event["path"] == path && event["pid"] == self.pid;
            same && event["decision"] == "denied" && event["reason"].as_str().is_some_and(|r| r.contains(reason))
        });
        self.compare(&found)
    }

    /// The log has it as allowed.
    #[track_caller]
    pub fn allowed(&self, daemon: &Daemon, op: &str, path: &str, reason: &str) -> Value {
        let found = daemon.await_audit(&format!("allowed {op} of {path} by {} ({reason})", self.pid), |event| {
            let same = event["op"] == op && event["path"] == path && event["pid"] == self.pid;
            same && event["decision"] == "allowed" && event["reason"].as_str().is_some_and(|r| r.contains(reason))
        });
        self.compare(&found)
    }

    #[track_caller]
    fn compare(&self, event: &Value) -> Value {
        assert_eq!(event["uid"], self.uid, "{event}");
        assert_eq!(event["exe"], self.exe.as_str(), "{event}");
        assert!(event["start"].as_u64().is_some_and(|start| start > 0), "{event}");
        assert!(event["cgroup"].as_str().is_some_and(|cgroup| cgroup.starts_with('/')), "{event}");
        event.clone()
    }
}

/// A bash script that says something and waits to be told to go on: `echo open; read; …`.
pub struct Held {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    what: String,
}

impl Held {
    /// Starts it. Its standard error goes where its output goes.
    #[track_caller]
    pub fn start(user: User, script: &str) -> Self {
        let mut command = user.command("/bin/bash");
        command.arg("-c").arg(format!("exec 2>&1; {script}")).env("LC_ALL", "C");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{script}\ncannot be started: {e}"));
        let (tell, lines) = channel();
        let stdout = BufReader::new(child.stdout.take().expect("it was asked for"));
        std::thread::spawn(move || {
            for line in stdout.split(b'\n').map_while(Result::ok) {
                if tell.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    return;
                }
            }
        });
        let stdin = child.stdin.take();
        Held { child, stdin, lines, what: script.to_owned() }
    }

    /// Its process id: bash's.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line it says.
    #[track_caller]
    pub fn line(&mut self) -> String {
        self.lines.recv_timeout(PATIENCE).unwrap_or_else(|e| panic!("{}\nsays nothing: {e}", self.what))
    }

    /// Whether it has said nothing for this long.
    #[track_caller]
    pub fn is_silent(&mut self, time: Duration) -> bool {
        self.lines.recv_timeout(time).is_err()
    }

    /// Lets it go on with its next `read`.
    #[track_caller]
    pub fn go_on(&mut self) {
        let stdin = self.stdin.as_mut().expect("it still listens");
        writeln!(stdin, "go on").unwrap_or_else(|e| panic!("{}\ndoes not listen: {e}", self.what));
    }

    /// Tells it a line, and returns the one that it answers.
    #[track_caller]
    pub fn ask(&mut self, line: &str) -> String {
        let stdin = self.stdin.as_mut().expect("it still listens");
        writeln!(stdin, "{line}").unwrap_or_else(|e| panic!("{}\ndoes not listen: {e}", self.what));
        self.line()
    }

    /// Lets it run to its end: exit status and what it said since.
    #[track_caller]
    pub fn end(mut self) -> (i32, String) {
        drop(self.stdin.take());
        let code = wait(&mut self.child, PATIENCE).unwrap_or_else(|s| panic!("{}\ndoes not end: {s}", self.what));
        (code, self.lines.iter().collect::<Vec<_>>().join("\n"))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.try_wait();
    }
}
