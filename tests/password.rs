//! `pinfold password` against a real store and a far side made of files: what is shown to whom, what a rotation leaves
//! wherever it is killed, and that no password is ever in an argument or an environment.
//!
//! Owns the store, the control socket and the far side, all in one temporary folder. Nothing is mounted.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use nix::poll::{PollFd, PollFlags, poll};
use nix::pty::openpty;
use pinfold::audit::{Log, Settings, WhenFull};
use pinfold::caller::{Callers, Daemon};
use pinfold::config::Config;
use pinfold::control::Server;
use pinfold::seal::Protection;
use pinfold::secret::Secret;
use pinfold::store::Store;
use pinfold::vault::{Limits, Recovery, UnlockBy, Vault, create_store};
use serde_json::Value;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Changes and verifies what is in the file $FAR/HOST. What else it does is in the host's name.
const FAR_SIDE: &str = r#"#!/bin/sh
IFS= read -r header; IFS= read -r one; IFS= read -r two
file=$FAR/$PINFOLD_HOST
IFS= read -r has < "$file" || has=
# What anybody could see of this program and of who started it, while passwords are between them.
cat "/proc/$$/cmdline" "/proc/$$/environ" "/proc/$PPID/cmdline" "/proc/$PPID/environ" >> "$FAR/looked"
once() { [ -e "$file.done" ] && return 1; : > "$file.done"; }
kill_caller() { once && { kill -9 "$PPID"; exit 2; }; }
case $1:$PINFOLD_HOST in
change:killed-before) kill_caller ;;
verify:killed-verifying) kill_caller ;;
change:interrupted) kill -INT "$PPID" ;;
change:refuses*) echo "it may not be '$two'" >&2; exit 1 ;;
change:lies) once && exit 0 ;;
verify:unreachable) once && { echo 'no route to host' >&2; exit 2; } ;;
esac
if [ "$1" = change ]; then
    [ "$has" = "$one" ] || exit 1
    printf '%s\n' "$two" > "$file"
    [ "$PINFOLD_HOST" = killed-after ] && kill_caller
    [ "$PINFOLD_HOST" = silent ] && exit 2
    exit 0
fi
[ "$has" = "$one" ]
"#;

pub struct Rig {
    _server: Server,
    // Last: what writes there ends before it.
    dir: tempfile::TempDir,
}

fn secret(text: &str) -> Secret {
    Secret::copy_of(text.as_bytes()).unwrap()
}

impl Rig {
    pub fn new() -> Rig {
        Rig::with(6)
    }

    pub fn with(show_per_minute: u32) -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| dir.path().join(name);
        for folder in ["far", "rotate.d"] {
            fs::create_dir(file(folder)).unwrap();
        }
        let program = file("rotate.d/toy");
        crate::common::program(&program, FAR_SIDE);
        fs::set_permissions(file("rotate.d"), PermissionsExt::from_mode(0o755)).unwrap();

        let recovery = Recovery { recipients: vec![age::x25519::Identity::generate().to_public().to_string()] };
        create_store(&file("store"), &Protection::Passphrase(&secret("p")), &recovery).unwrap();
        let settings =
            Settings { path: file("audit.log"), max_size: 1 << 24, when_full: WhenFull::Refuse, space: None };
        let limits = Limits {
            max_secret_size: 1 << 20,
            max_secrets: 10_000,
            max_instances: 10,
            keep_versions: 5,
            allow_reveal: false,
            mountpoint: file("mnt"),
            operator_gid: None,
        };
        let log = Log::open(settings, None).unwrap();
        let vault = Vault::new(Store::open(&file("store")).unwrap(), log, Callers::new().unwrap(), limits);
        let vault = vault.with_shows_per_minute(show_per_minute);
        vault.unlock(&Daemon, &UnlockBy::Passphrase(&secret("p"))).unwrap();

        let config = Config { control: file("run/control.sock"), ..Config::default() };
        let text = format!(
            "control = {:?}\nmountpoint = {:?}\naudit_log = {:?}\n[passwords]\nprograms = [{:?}]\ntimeout = \"20s\"\n",
            config.control,
            file("mnt"),
            file("audit.log"),
            file("rotate.d")
        );
        fs::write(file("pinfold.toml"), text).unwrap();
        fs::set_permissions(file("pinfold.toml"), PermissionsExt::from_mode(0o600)).unwrap();
        let mut server = Server::bind(&config, Arc::new(vault)).unwrap();
        server.run().unwrap();
        Rig { dir, _server: server }
    }

    pub fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pinfold"));
        command.arg("--config").arg(self.dir.path().join("pinfold.toml")).arg("password").args(args);
        command.env("FAR", self.dir.path().join("far"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    pub fn feed(&self, args: &[&str], stdin: &[u8]) -> Output {
        let mut child = self.command(args).stdin(Stdio::piped()).spawn().unwrap();
        let mut pipe = child.stdin.take().unwrap();
        // A command that refuses does not read to the end.
        let _ = pipe.write_all(stdin);
        drop(pipe);
        child.wait_with_output().unwrap()
    }

    /// A password, stored and on the far side.
    #[track_caller]
    pub fn account(&self, host: &str) {
        let password = format!("old-of-{host}");
        ended(&self.feed(&["add", &format!("{host}:toy")], password.as_bytes()), 0);
        fs::write(self.dir.path().join("far").join(host), password + "\n").unwrap();
    }

    /// What the far side takes.
    pub fn far(&self, host: &str) -> String {
        fs::read_to_string(self.dir.path().join("far").join(host)).unwrap().trim_end().to_owned()
    }

    /// The state of its rotation, as `ls --json` has it.
    #[track_caller]
    pub fn state(&self, host: &str) -> Value {
        let out = self.run(&["ls", &format!("{host}:toy"), "--json"]);
        ended(&out, 0);
        serde_json::from_slice::<Value>(&out.stdout).unwrap()[0]["rotation"].clone()
    }

    /// What the far side takes is what is stored.
    #[track_caller]
    pub fn agrees(&self, host: &str) {
        assert_eq!(self.state(host), Value::Null, "{host}");
        let again = self.run(&["rotate", &format!("{host}:toy")]);
        ended(&again, 0);
        assert_ne!(self.far(host), format!("old-of-{host}"));
    }

    pub fn log(&self, what: &str) -> usize {
        let text = fs::read_to_string(self.dir.path().join("audit.log")).unwrap();
        text.lines().filter(|line| line.contains(what)).count()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[track_caller]
fn ended(out: &Output, code: i32) -> String {
    assert_eq!(out.status.code(), Some(code), "{}{}", text(&out.stderr), text(&out.stdout));
    text(&out.stdout) + &text(&out.stderr)
}

#[test]
fn passwords_are_stored_listed_and_removed_by_pattern() {
    let rig = Rig::new();
    ended(&rig.feed(&["add", "ui-1"], b"first\n"), 0);
    assert!(ended(&rig.feed(&["add", "ui-1"], b"second\n"), 3).contains("--replace"));
    ended(&rig.feed(&["add", "ui-1", "--replace"], b"second\n"), 0);
    assert!(ended(&rig.run(&["generate", "admin@ui-2", "--length", "32"]), 0).contains("32 characters, 190 bits"));
    let few = ended(&rig.run(&["generate", "pin@door", "--length", "4", "--alphabet", "digits"]), 0);
    assert!(few.contains("warning: fewer than 64 bits"), "{few}");
    for bad in [&b""[..], b"a\nb\n", b"\x1b[2J"] {
        ended(&rig.feed(&["add", "bad"], bad), 3);
    }
    assert_eq!(rig.run(&["add", "-oProxyCommand=x"]).status.code(), Some(2));
    assert_eq!(rig.run(&["add", "a/b"]).status.code(), Some(2));

    let all = ended(&rig.run(&["ls"]), 0);
    let names: Vec<&str> = all.lines().filter_map(|l| l.split(' ').next()).collect();
    assert_eq!(names, ["pin@door:ssh", "root@ui-1:ssh", "admin@ui-2:ssh"]);
    assert!(!all.contains("second"));
    assert_eq!(rig.run(&["ls", "nothing-*"]).status.code(), Some(6));
    assert_eq!(ended(&rig.run(&["rm", "*@ui-*", "--dry-run"]), 0).lines().count(), 2);
    ended(&rig.run(&["rm", "*@ui-*"]), 0);
    assert_eq!(ended(&rig.run(&["ls"]), 0).lines().count(), 1);
}

#[test]
fn over_a_pattern_it_goes_on_and_says_what_became_of_each() {
    let rig = Rig::new();
    for host in ["good-1", "good-2", "lies", "refuses", "silent", "unreachable"] {
        rig.account(host);
    }
    let pretended = ended(&rig.run(&["rotate", "*:toy", "--pretend"]), 0);
    assert_eq!(pretended.lines().filter(|l| l.starts_with("would rotate ")).count(), 6);
    assert_eq!(rig.far("good-1"), "old-of-good-1");

    let out = rig.run(&["rotate", "*:toy"]);
    let told = ended(&out, 9);
    for line in [
        "rotated root@good-1:toy",
        "rotated root@good-2:toy",
        // It did not say, but a login did.
        "rotated root@silent:toy",
        "failed root@lies:toy, the old one is valid: it said that it had changed; it takes the old password",
        "failed root@refuses:toy, the old one is valid: it may not be '…'",
        "failed root@unreachable:toy, the new one is valid: it said that it had changed; it could not be verified: no route to host",
        "pinfold: error: 3 of 6 were not rotated",
    ] {
        assert!(told.lines().any(|l| l == line), "{line:?} is not in\n{told}");
    }
    assert!(!told.contains(&rig.far("good-1")), "no password is shown");
    assert_eq!(
        [rig.state("lies"), rig.state("refuses"), rig.state("unreachable")],
        ["pending", "pending", "changed_unverified"]
    );

    let out = rig.run(&["rotate", "--resume", "*:toy", "--json"]);
    assert_eq!(out.status.code(), Some(9));
    let lines: Value = serde_json::from_slice(&out.stdout).unwrap();
    let outcomes: Vec<&str> = lines.as_array().unwrap().iter().map(|l| l["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["rotated", "failed", "rotated"], "lies, refuses, unreachable");
    // Given up by the admin's word.
    ended(&rig.run(&["rotate", "--keep", "old", "refuses:toy"]), 0);
    assert_eq!((rig.state("refuses"), rig.far("refuses")), (Value::Null, "old-of-refuses".into()));
    assert_eq!(rig.run(&["rotate", "--resume", "*:toy"]).status.code(), Some(8));
    assert_eq!(rig.log("the old one is kept, by the admin's word"), 1);
    for host in ["good-1", "good-2", "lies", "silent", "unreachable"] {
        rig.agrees(host);
    }
    let nowhere = rig.feed(&["add", "x:no-such-service"], b"x");
    ended(&nowhere, 0);
    assert!(ended(&rig.run(&["rotate", "x:no-such-service"]), 2).contains("nothing changes passwords of"));
}

#[test]
fn killed_at_any_step_it_says_which_is_valid_and_can_be_resumed() {
    for (host, state, far_has_new) in [
        ("killed-before", "changing", false),
        ("killed-after", "changing", true),
        ("killed-verifying", "changed_unverified", true),
    ] {
        let rig = Rig::new();
        rig.account(host);
        let name = format!("{host}:toy");
        let out = rig.run(&["rotate", &name]);
        assert_eq!(out.status.code(), None, "{host}: it was killed");
        assert_eq!(rig.state(host), state, "{host}");
        assert_eq!(rig.far(host) != format!("old-of-{host}"), far_has_new, "{host}");
        assert_eq!(rig.run(&["rotate", &name]).status.code(), Some(3), "{host}: one is under way");
        assert_eq!(rig.run(&["rm", &name]).status.code(), Some(3), "{host}: both are kept");
        assert!(ended(&rig.run(&["rotate", "--resume", &name]), 0).contains("rotated"), "{host}");
        rig.agrees(host);
    }
}

#[test]
fn an_interrupt_lets_the_one_under_way_end() {
    let rig = Rig::new();
    rig.account("interrupted");
    rig.account("later");
    let told = ended(&rig.run(&["rotate", "*:toy"]), 9);
    assert!(told.contains("rotated root@interrupted:toy\n"), "{told}");
    assert_eq!((rig.state("later"), rig.far("later")), (Value::Null, "old-of-later".into()), "it was not begun");
    let lines: Vec<&str> = told.lines().filter(|l| l.contains("root@later:toy")).collect();
    assert_eq!(lines, ["not begun root@later:toy: interrupted"]);
}

#[test]
fn no_password_is_in_an_argument_or_an_environment() {
    let rig = Rig::new();
    let hosts: Vec<String> = (0..8).map(|n| format!("good-{n}")).collect();
    hosts.iter().for_each(|host| rig.account(host));
    let done = Arc::new(AtomicBool::new(false));
    let watcher = {
        let done = Arc::clone(&done);
        std::thread::spawn(move || {
            let mut seen = std::collections::BTreeSet::new();
            while !done.load(Ordering::SeqCst) {
                for entry in fs::read_dir("/proc").unwrap().flatten() {
                    for file in ["cmdline", "environ"] {
                        if entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit) {
                            seen.extend(fs::read(entry.path().join(file)));
                        }
                    }
                }
            }
            seen
        })
    };
    ended(&rig.run(&["rotate", "good-*:toy"]), 0);
    done.store(true, Ordering::SeqCst);
    let mut seen = watcher.join().unwrap();
    seen.insert(fs::read(rig.dir.path().join("far/looked")).unwrap());
    let found = |what: &str| seen.iter().any(|bytes| bytes.windows(what.len()).any(|w| w == what.as_bytes()));
    for what in ["rotate.d/toy\0change\0", "rotate.d/toy\0verify\0", "PINFOLD_HOST=good-7", "\0password\0rotate\0"] {
        assert!(found(what), "{what:?} was not seen");
    }
    for host in hosts {
        assert!(!found(&rig.far(&host)) && !found(&format!("old-of-{host}")), "a password of {host} was seen");
    }
}

/// A command on a terminal of its own.
struct Terminal {
    master: File,
    child: Child,
    seen: String,
}

impl Terminal {
    fn start(rig: &Rig, args: &[&str]) -> Terminal {
        let pty = openpty(None, None).unwrap();
        let end = || Stdio::from(pty.slave.try_clone().unwrap());
        let command = rig.command(args);
        // setsid(1) makes the terminal the program's own, so that /dev/tty is this one.
        let mut child = Command::new("setsid");
        child.args(["--ctty", "--wait"]).arg(command.get_program()).args(command.get_args());
        let child = child.stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
        Terminal { master: File::from(pty.master), child, seen: String::new() }
    }

    /// Reads until this is shown.
    fn until(&mut self, what: &str) {
        while !self.seen.contains(what) {
            let mut fds = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
            assert_eq!(poll(&mut fds, 20_000u16), Ok(1), "{what:?} does not come, only {:?}", self.seen);
            let mut piece = [0; 256];
            let n = self.master.read(&mut piece).unwrap_or(0);
            assert_ne!(n, 0, "{what:?} did not come, only {:?}", self.seen);
            self.seen += std::str::from_utf8(&piece[..n]).unwrap();
        }
    }

    fn press(&mut self, keys: &[u8]) {
        self.master.write_all(keys).unwrap();
    }

    fn ended(&mut self, code: i32) {
        assert_eq!(self.child.wait().unwrap().code(), Some(code), "{}", self.seen);
    }
}

#[test]
fn a_password_is_typed_unseen() {
    let rig = Rig::new();
    let mut terminal = Terminal::start(&rig, &["add", "ui-1"]);
    terminal.until("Password (not shown): ");
    terminal.press(b"wonderland\n");
    terminal.until("Once more: ");
    terminal.press(b"wonderland\n");
    terminal.ended(0);
    assert!(!terminal.seen.contains("wonder"), "{}", terminal.seen);
    let mut terminal = Terminal::start(&rig, &["add", "ui-2"]);
    terminal.until("Password (not shown): ");
    terminal.press(b"one\n");
    terminal.until("Once more: ");
    terminal.press(b"other\n");
    terminal.until("the two are not the same");
    terminal.ended(2);
    assert_eq!(ended(&rig.run(&["ls"]), 0).lines().count(), 1);
}

#[test]
fn they_are_shown_one_at_a_time_cleared_and_bounded() {
    let rig = Rig::with(3);
    for host in ["ui-1", "ui-2", "ui-3", "ui-4"] {
        ended(&rig.feed(&["add", host], format!("secret of {host}").as_bytes()), 0);
    }
    // No terminal: a pipe would be how a session dumps the lot.
    let out = rig.run(&["show", "ui-*"]);
    assert!(ended(&out, 3).contains("on a terminal only"));
    assert_eq!(rig.log("\"op\":\"reveal\""), 0);

    let mut terminal = Terminal::start(&rig, &["show", "ui-*"]);
    terminal.until("secret of ui-1");
    terminal.until("1 of 4");
    assert!(!terminal.seen.contains("ui-2"), "one at a time");
    terminal.press(b" ");
    terminal.until("secret of ui-2");
    let (first, _) = terminal.seen.split_once("secret of ui-2").unwrap();
    assert!(first.contains("\u{1b}[2J\u{1b}[3J\u{1b}[H\u{1b}[?1049l"), "it was cleared: {first:?}");
    terminal.press(b" ");
    terminal.until("secret of ui-3");
    terminal.press(b" ");
    terminal.until("too many passwords were shown");
    terminal.ended(3);
    assert!(!terminal.seen.contains("secret of ui-4"));
    assert_eq!(rig.log("\"op\":\"reveal\",\"path\":\"passwords/ui-3/ssh/root\""), 1);

    let rig = Rig::new();
    ended(&rig.feed(&["add", "ui-1"], b"wonderland"), 0);
    for key in [&b"q"[..], b"\x03"] {
        let mut terminal = Terminal::start(&rig, &["show", "ui-1"]);
        terminal.until("any key clears it");
        terminal.press(key);
        terminal.until("\u{1b}[?1049l");
        terminal.child.wait().unwrap();
        let (_, after) = terminal.seen.rsplit_once("\u{1b}[2J").unwrap();
        assert!(!after.contains("wonderland"), "cleared however it ends");
    }
}

#[test]
fn a_listing_is_taken_in_line_by_line() {
    let rig = Rig::new();
    ended(&rig.feed(&["add", "ui-1"], b"as it was"), 0);
    let listing = b"host,user,password\nui-1,root,new\nui-2,admin,\"p,w\"\nui-3,,x\n-bad,root,hunter2\n";
    let pretended = rig.feed(&["import", "passtore", "-", "--pretend"], listing);
    assert!(ended(&pretended, 9).contains("would import admin@ui-2:ssh (line 3)"));
    assert_eq!(ended(&rig.run(&["ls"]), 0).lines().count(), 1);
    let out = ended(&rig.feed(&["import", "passtore", "-"], listing), 9);
    assert!(out.contains("left out root@ui-1:ssh (line 2): the password root@ui-1:ssh is there"), "{out}");
    assert!(out.contains("left out line 5: the host is") && out.contains("2 of 4 were left out"), "{out}");
    assert!(!out.contains("hunter2"));
    assert_eq!(ended(&rig.run(&["ls", "*@*"]), 0).lines().count(), 3);
    ended(&rig.feed(&["import", "passtore", "-", "--replace"], b"ui-1,new\n"), 0);
    let file = rig.dir.path().join("missing");
    assert_eq!(rig.run(&["import", "passtore", file.to_str().unwrap()]).status.code(), Some(6));
}
