//! Children with a deadline, run as whoever a test wants to be.
//!
//! Owns how a test's commands are started and judged. A child that does not end is killed, and if the kernel will not
//! let it go (it waits for a FUSE answer) the test fails without waiting for it.

use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How long a command of a test may take.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Who runs a command. The recipe of the lab made them with these numbers.
#[derive(Debug, Clone, Copy)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    pub groups: &'static [u32],
}

/// The group `keys`.
pub const KEYS: u32 = 3001;
/// uid 0 with all capabilities.
pub const ROOT: User = User { uid: 0, gid: 0, groups: &[] };
/// In `keys` as a supplementary group.
pub const ALICE: User = User { uid: 2001, gid: 2001, groups: &[KEYS] };
/// In no other group.
pub const BOB: User = User { uid: 2002, gid: 2002, groups: &[] };
/// In `operators` (3002) as a supplementary group.
pub const CAROL: User = User { uid: 2003, gid: 2003, groups: &[3002] };
/// nginx's workers.
pub const WWW_DATA: User = User { uid: 33, gid: 33, groups: &[] };

impl User {
    /// A system user whose number its package chose.
    pub fn named(name: &str) -> User {
        let found =
            nix::unistd::User::from_name(name).ok().flatten().unwrap_or_else(|| panic!("the lab has no {name}"));
        User { uid: found.uid.as_raw(), gid: found.gid.as_raw(), groups: &[] }
    }

    /// A command run as this user. The executable that the daemon sees is `program`: setpriv replaces itself.
    pub fn command(&self, program: &str) -> Command {
        if self.uid == 0 && self.gid == 0 && self.groups.is_empty() {
            return Command::new(program);
        }
        let mut command = Command::new("/usr/bin/setpriv");
        command.arg(format!("--reuid={}", self.uid)).arg(format!("--regid={}", self.gid));
        if self.groups.is_empty() {
            command.arg("--clear-groups");
        } else {
            let groups: Vec<String> = self.groups.iter().map(u32::to_string).collect();
            command.arg(format!("--groups={}", groups.join(",")));
        }
        command.arg("--").arg(program);
        command
    }

    /// A bash script run as this user.
    pub fn sh(&self, script: &str) -> Out {
        let mut command = self.command("/bin/bash");
        command.arg("-c").arg(script);
        run(command, b"", &format!("uid {}: {script}", self.uid))
    }
}

/// A bash script run as root.
pub fn sh(script: &str) -> Out {
    ROOT.sh(script)
}

/// How a command ended.
#[derive(Debug)]
pub struct Out {
    /// The command, for messages.
    pub what: String,
    /// Its exit status; 128 and the signal's number if one ended it.
    pub code: i32,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Out {
    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// It succeeded.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{}\nexited {}: {}{}", self.what, self.code, self.stderr, self.text());
        self
    }

    /// It succeeded and had nothing to complain of: its standard output.
    #[track_caller]
    pub fn quiet(self) -> String {
        let done = self.ok();
        assert_eq!(done.stderr, "", "{}\nwas done, but said so on standard error", done.what);
        done.text()
    }

    /// It failed and said why.
    #[track_caller]
    pub fn refused(self, why: &str) -> Self {
        assert_ne!(self.code, 0, "{}\nwas expected to fail with {why:?}; it printed {}", self.what, self.text());
        assert!(self.stderr.contains(why), "{}\nwas expected to say {why:?}, and said: {}", self.what, self.stderr);
        self
    }
}

/// Runs a command to its end, or panics after [`LIMIT`].
#[track_caller]
pub fn run(mut command: Command, input: &[u8], what: &str) -> Out {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{what}\ncannot be started: {error}"));
    let mut stdin = child.stdin.take().expect("it was asked for");
    let input = input.to_vec();
    std::thread::spawn(move || drop(stdin.write_all(&input)));
    let stdout = drain(child.stdout.take().expect("it was asked for"));
    let stderr = drain(child.stderr.take().expect("it was asked for"));
    let code = wait(&mut child, LIMIT).unwrap_or_else(|state| panic!("{what}\ndid not end within {LIMIT:?}: {state}"));
    // A grandchild may hold the pipes open; what the command itself wrote is there.
    let grace = Duration::from_secs(5);
    let stdout = stdout.recv_timeout(grace).unwrap_or_else(|_| panic!("{what}\nended, but something holds its output"));
    let stderr = stderr.recv_timeout(grace).unwrap_or_else(|_| panic!("{what}\nended, but something holds its errors"));
    Out { what: what.to_owned(), code, stdout, stderr: String::from_utf8_lossy(&stderr).into_owned() }
}

fn drain(mut from: impl Read + Send + 'static) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut all = Vec::new();
        let _ = from.read_to_end(&mut all);
        let _ = sender.send(all);
    });
    receiver
}

/// Waits for a child; after `limit` it is killed, and the error says what it was doing.
pub fn wait(child: &mut Child, limit: Duration) -> Result<i32, String> {
    let pid = Pid::from_raw(child.id().cast_signed());
    let (sender, ended) = mpsc::channel();
    std::thread::spawn(move || {
        // It is seen at once, and left to be waited for.
        while waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) == Err(Errno::EINTR) {}
        let _ = sender.send(());
    });
    if ended.recv_timeout(limit).is_ok() {
        use std::os::unix::process::ExitStatusExt;
        let status = child.wait().expect("it is our child");
        return Ok(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)));
    }
    let state = doing(child.id());
    let _ = child.kill();
    std::thread::sleep(Duration::from_millis(200));
    let _ = child.try_wait();
    Err(state)
}

/// State and kernel function of a process and its descendants, as far as they can be seen.
pub fn doing(pid: u32) -> String {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let stat = read("stat");
    let state = stat.rsplit(')').next().unwrap_or("").trim().chars().next().unwrap_or('?');
    let mut text = format!("pid {pid} ({}) is in state {state} in {}", read("comm").trim(), read("wchan"));
    for child in read(&format!("task/{pid}/children")).split_whitespace() {
        if let Ok(child) = child.parse() {
            text = format!("{text}; {}", doing(child));
        }
    }
    text
}

/// The first child of a process, once it runs what it is to run: before its exec it is its parent's copy, with its
/// parent's ids and program, and in the middle of it nobody may look at it.
#[track_caller]
pub fn first_of(parent: u32, comm: &str) -> u32 {
    let children = format!("/proc/{parent}/task/{parent}/children");
    super::wait_for(&format!("the first child of {parent}, {comm}"), Duration::from_secs(20), || {
        let child: u32 = std::fs::read_to_string(&children).ok()?.split_whitespace().next()?.parse().ok()?;
        (std::fs::read_to_string(format!("/proc/{child}/comm")).ok()?.trim() == comm).then_some(())?;
        // The name comes before the end of the exec, which this waits for.
        std::fs::read(format!("/proc/{child}/syscall")).ok()?;
        Some(child)
    })
}

/// A uid that no other run of the tests on this machine has, `n` below 1000: user keyrings are the machine's.
pub fn unshared_uid(n: u32) -> u32 {
    assert!(n < 1000, "{n} is the next process's");
    200_000_000 + 1000 * (std::process::id() % 1_000_000) + n
}
