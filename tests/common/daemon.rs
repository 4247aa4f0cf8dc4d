//! The daemon under test: a store, a configuration and a mount of its own, and nothing left of them afterwards.
//!
//! Owns one temporary folder. It speaks to the daemon through the command line and the tree alone, as an admin does.

mod made;

use super::process::{Out, doing, run, wait};
use super::wait_for;
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// How long the daemon may take to serve, to unlock, to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// The binary under test.
pub fn binary() -> PathBuf {
    std::env::var_os("PINFOLD_BIN").expect("PINFOLD_BIN names the binary under test: run make test").into()
}

/// How a daemon is to be set up.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Lines for the configuration, beside the paths.
    pub config: String,
    /// Whether it is unlocked once it serves.
    pub unlock: bool,
    /// Where it mounts: a folder of its own, if none is named.
    pub mountpoint: Option<PathBuf>,
    /// Whose folder: /tmp, if none is named.
    pub base: Option<PathBuf>,
    /// Where its audit log is: beside the store, if nowhere else.
    pub audit_log: Option<PathBuf>,
    /// The binary, of a test that runs outside the lab as well: it harms nothing there.
    pub binary: Option<PathBuf>,
}

impl Default for Setup {
    fn default() -> Self {
        Setup { config: String::new(), unlock: true, mountpoint: None, base: None, audit_log: None, binary: None }
    }
}

/// A running daemon; dropping it takes everything away.
pub struct Daemon {
    home: tempfile::TempDir,
    binary: PathBuf,
    mountpoint: PathBuf,
    audit_log: PathBuf,
    child: Option<Child>,
    unlock: bool,
    /// The numbers of the FUSE connections it had, to cut them if they hang.
    connections: Vec<u32>,
}

impl Daemon {
    /// Serving and unlocked, in a folder of its own.
    #[track_caller]
    pub fn start() -> Self {
        Self::with(Setup::default())
    }

    /// The same with lines of configuration.
    #[track_caller]
    pub fn configured(config: &str) -> Self {
        Self::with(Setup { config: config.into(), ..Setup::default() })
    }

    /// A new store as `setup` says, served.
    #[track_caller]
    pub fn with(setup: Setup) -> Self {
        let mut daemon = Self::initialised(setup);
        daemon.serve();
        daemon
    }

    /// Starts a daemon that unlocks by itself, and waits until it has.
    #[track_caller]
    pub fn serve_unlocked(&mut self) {
        self.serve();
        wait_for("the daemon to unlock", PATIENCE, || {
            (self.json(&["status", "--json"])["locked"] == Value::Bool(false)).then_some(())
        });
    }

    /// A file beside the store: `store`, `audit.log`, `pinfold.toml`, `passphrase`, `recovery.key`, `daemon.log`.
    pub fn file(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// The root of the tree.
    pub fn root(&self) -> &Path {
        &self.mountpoint
    }

    /// A path in the tree, as text for a script.
    pub fn path(&self, inner: &str) -> String {
        format!("{}/{inner}", self.mountpoint.display())
    }

    /// Process id of the running daemon.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the daemon runs").id()
    }

    /// `pinfold --config … ARG…`.
    #[track_caller]
    pub fn cli(&self, args: &[&str]) -> Out {
        self.cli_with(args, b"")
    }

    /// The same with standard input.
    #[track_caller]
    pub fn cli_with(&self, args: &[&str], input: &[u8]) -> Out {
        let mut command = Command::new(&self.binary);
        command.arg("--config").arg(self.file("pinfold.toml")).args(args);
        run(command, input, &format!("pinfold {}", args.join(" ")))
    }

    /// The JSON that a command prints.
    #[track_caller]
    pub fn json(&self, args: &[&str]) -> Value {
        let out = self.cli(args).ok();
        serde_json::from_slice(&out.stdout).unwrap_or_else(|error| panic!("{}: {error}: {}", out.what, out.text()))
    }

    /// Starts the daemon and waits until it serves, unlocked if the setup says so.
    #[track_caller]
    pub fn serve(&mut self) {
        self.spawn();
        self.await_mount();
        if self.unlock && self.json(&["status", "--json"])["locked"] == Value::Bool(true) {
            self.unlock();
        }
    }

    /// Starts the daemon without waiting for it.
    #[track_caller]
    pub fn spawn(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let log = std::fs::File::options().create(true).append(true).open(self.file("daemon.log")).expect("its log");
        let child = Command::new(&self.binary)
            .arg("--config")
            .arg(self.file("pinfold.toml"))
            .arg("mount")
            // The lab's own unit logs to the journal; this daemon is to log to its file.
            .env_remove("JOURNAL_STREAM")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second descriptor"))
            .stderr(log)
            .spawn()
            .expect("the daemon is started");
        self.child = Some(child);
    }

    /// Waits until the tree is mounted and the control socket answers.
    #[track_caller]
    pub fn await_mount(&mut self) {
        let begun = std::time::Instant::now();
        loop {
            if let Some(status) = self.child.as_mut().expect("it was started").try_wait().expect("it is our child") {
                self.child = None;
                panic!("the daemon ended at its start, {status}:\n{}", self.log());
            }
            if let Some(number) = connection(&self.mountpoint) {
                if !self.connections.contains(&number) {
                    self.connections.push(number);
                }
                if self.cli(&["status", "--json"]).code == 0 {
                    return;
                }
            }
            assert!(begun.elapsed() < PATIENCE, "the daemon does not serve after {PATIENCE:?}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// `pinfold unlock`.
    #[track_caller]
    pub fn unlock(&self) {
        let passphrase = self.file("passphrase");
        self.cli(&["unlock", "--passphrase-file", text(&passphrase)]).ok();
    }

    /// Every later start unlocks it.
    pub fn unlock_from_now_on(&mut self) {
        self.unlock = true;
    }

    /// `pinfold lock`.
    #[track_caller]
    pub fn lock(&self) {
        self.cli(&["lock"]).ok();
    }

    /// Asks it to end and waits; it must unmount and exit 0.
    #[track_caller]
    pub fn stop(&mut self) {
        let mut child = self.child.take().expect("the daemon runs");
        signal(child.id(), libc::SIGTERM);
        match wait(&mut child, PATIENCE) {
            Ok(code) => assert_eq!(code, 0, "the daemon ended badly:\n{}", self.log()),
            Err(state) => panic!("the daemon does not end: {state}\n{}", self.log()),
        }
        assert_eq!(connection(&self.mountpoint), None, "the daemon ended and left its mount");
    }

    /// The running daemon itself, for a test that ends it in a way of its own.
    #[track_caller]
    pub fn take_child(&mut self) -> Child {
        self.child.take().expect("the daemon runs")
    }

    /// Kills it outright; its mount stays behind, dead.
    #[track_caller]
    pub fn kill9(&mut self) {
        let mut child = self.child.take().expect("the daemon runs");
        child.kill().expect("it is our child");
        wait(&mut child, PATIENCE).unwrap_or_else(|state| panic!("not even a kill ends it: {state}"));
    }

    /// Stops and starts it.
    #[track_caller]
    pub fn restart(&mut self) {
        self.stop();
        self.serve();
    }

    /// What the daemon has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.file("daemon.log")).unwrap_or_default()
    }

    /// The audit log, one object a line.
    #[track_caller]
    pub fn audit(&self) -> Vec<Value> {
        super::audit_lines(&self.audit_log)
    }

    /// Waits for a line of the audit log that fits: refusals are written a moment after the answer.
    #[track_caller]
    pub fn await_audit(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let begun = std::time::Instant::now();
        loop {
            if let Some(found) = self.audit().into_iter().rev().find(&fits) {
                return found;
            }
            if begun.elapsed() > Duration::from_secs(10) {
                let log: Vec<String> = self.audit().iter().rev().take(30).map(Value::to_string).collect();
                panic!("the audit log has no {what}; its last lines, newest first:\n{}", log.join("\n"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits for a denial of `uid` on `path` (within the tree).
    #[track_caller]
    pub fn await_denial(&self, path: &str, uid: u32) -> Value {
        self.await_audit(&format!("denial of uid {uid} on {path}"), |event| {
            event["decision"] == "denied" && event["path"] == path && event["uid"] == uid
        })
    }

    /// Waits for an allowed open of `path` by `uid`.
    #[track_caller]
    pub fn await_open(&self, path: &str, uid: u32) -> Value {
        self.await_audit(&format!("open of {path} by uid {uid}"), |event| {
            event["op"] == "open" && event["decision"] == "allowed" && event["path"] == path && event["uid"] == uid
        })
    }

    /// The numbers of the versions kept of a secret, ascending.
    #[track_caller]
    pub fn versions(&self, path: &str) -> Vec<u64> {
        let reply = self.json(&["history", path, "--json"]);
        let list = reply.as_array().or_else(|| reply["versions"].as_array()).expect("a list of versions");
        let mut numbers: Vec<u64> = list.iter().map(|v| v["number"].as_u64().expect("a number")).collect();
        numbers.sort_unstable();
        numbers
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        let log = self.log();
        if let Some(mut child) = self.child.take() {
            signal(child.id(), libc::SIGTERM);
            if let Err(state) = wait(&mut child, Duration::from_secs(10)) {
                eprintln!("the daemon had to be killed: {state}");
                self.cut();
                let _ = wait(&mut child, Duration::from_secs(5));
            }
        }
        while connection(&self.mountpoint).is_some() {
            self.cut();
            let gone = Command::new("umount").arg("-l").arg(&self.mountpoint).status();
            if !gone.is_ok_and(|status| status.success()) {
                break;
            }
        }
        // Immutable underneath (on purpose): the temporary folder could not be removed.
        let _ = Command::new("chattr").arg("-i").arg(&self.mountpoint).stderr(Stdio::null()).status();
        if failed {
            eprintln!("--- the daemon's log, its end ---\n{}", tail(&log, 60));
        } else {
            assert!(!log.contains("panicked at"), "the daemon panicked:\n{}", tail(&log, 60));
        }
    }
}

impl Daemon {
    /// Ends what hangs on it: every request in flight gets an error.
    fn cut(&self) {
        for number in &self.connections {
            let _ = std::fs::write(format!("/sys/fs/fuse/connections/{number}/abort"), "1");
        }
    }
}

/// The number of the FUSE connection mounted at `path`, from the list of mounts: nothing of the tree is touched.
pub fn connection(path: &Path) -> Option<u32> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("the list of mounts");
    mounts.lines().rev().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut fields = left.split(' ');
        let device = fields.nth(2)?;
        let at = fields.nth(1)?;
        (Path::new(at) == path && right.starts_with("fuse")).then(|| device.split_once(':')?.1.parse().ok())?
    })
}

/// Sends a signal to a process of ours.
pub fn signal(pid: u32, number: i32) {
    let pid = nix::unistd::Pid::from_raw(pid.cast_signed());
    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::try_from(number).expect("a signal"));
}

/// Waits until a process we did not start is gone.
#[track_caller]
pub fn await_end(pid: u32) {
    wait_for(&format!("the end of {}", doing(pid)), PATIENCE, || {
        (!Path::new(&format!("/proc/{pid}")).exists()).then_some(())
    });
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of the lab are ASCII")
}

fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
