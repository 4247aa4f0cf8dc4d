//! What one daemon leaves to the next, where the supervisor, the store or the configuration between the two is not what it was.
//!
//! The false supervisor is `programs/false_supervisor.py`, who holds something open `programs/maps.py`.

use crate::common;

use common::{Daemon, Held, ROOT, Setup, User, sh, wait_for};
use std::time::Duration;

const READER: &str = "www-data";
const PROGRAMS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/attacks/programs");

fn setup() -> Setup {
    Setup { binary: Some(env!("CARGO_BIN_EXE_pinfold").into()), ..Setup::default() }
}

/// A store, a supervisor, and what it started.
pub(super) struct Site {
    supervisor: Option<Held>,
    pub(super) daemon: Daemon,
}

impl Site {
    fn new() -> Self {
        Self::with(setup())
    }

    pub(super) fn with(setup: Setup) -> Self {
        let daemon = Daemon::initialised(setup);
        let (config, log) = (daemon.file("pinfold.toml"), daemon.file("daemon.log"));
        let script = format!(
            "exec /usr/bin/python3 {PROGRAMS}/false_supervisor.py {} {} {}",
            env!("CARGO_BIN_EXE_pinfold"),
            config.display(),
            log.display()
        );
        let mut site = Site { supervisor: Some(Held::start(ROOT, &script)), daemon };
        site.expect("start", "ready");
        site.daemon.unlock();
        site
    }

    fn ask(&mut self, line: &str) -> String {
        self.supervisor.as_mut().expect("it runs").ask(line)
    }

    #[track_caller]
    pub(super) fn expect(&mut self, line: &str, answer: &str) {
        let said = self.ask(line);
        assert_eq!(said, answer, "{line}\n{}", self.daemon.log());
    }

    /// Somebody with this file open.
    #[track_caller]
    fn open(&self, at: &str) -> Held {
        let mut held = Held::start(User::named(READER), &format!("exec /usr/bin/python3 {PROGRAMS}/maps.py"));
        assert_eq!(held.ask(&format!("open {} ro", self.daemon.path(at))), "ok");
        held
    }

    fn write(&self, at: &str, content: &str, mode: &str) {
        let path = self.daemon.path(at);
        // The mode is on the disk at the latest with the folder.
        let root = self.daemon.root().display();
        sh(&format!("echo {content} > {path} && chmod {mode} {path} && sync {root}")).ok();
    }

    /// Changes the configuration.
    fn configure(&self, from: &str, to: &str) {
        let file = self.daemon.file("pinfold.toml");
        let text = std::fs::read_to_string(&file).expect("it is there");
        assert!(text.contains(from), "{text}");
        std::fs::write(file, text.replace(from, to)).expect("it is ours");
    }

    fn is_locked(&self) -> bool {
        self.daemon.json(&["status", "--json"])["locked"] == true
    }

    /// It says that everything was cut, in both places.
    #[track_caller]
    fn told(&self, why: &str) {
        let event = self.daemon.await_audit("the cut", |e| e["op"] == "hand_over");
        assert_eq!(event["decision"], "denied");
        assert!(event["reason"].as_str().expect("a reason").contains(why), "{event}");
        assert!(self.daemon.log().contains(why), "{}", self.daemon.log());
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Some(supervisor) = self.supervisor.take() {
            let _ = supervisor.end();
        }
    }
}

#[test]
fn a_handle_of_one_store_reads_nothing_in_another() {
    let other = Daemon::with(setup());
    sh(&format!("echo strangers > {}", other.path("pin"))).ok();
    let mut site = Site::new();
    site.write("pin", "shown", "444");
    let mut held = site.open("pin");
    let ino = |daemon: &Daemon| sh(&format!("stat -c %i {}", daemon.path("pin"))).text();
    assert_eq!(ino(&other), ino(&site.daemon), "the same number in both");
    site.expect("stop", "ended");
    let mut other = other;
    other.stop();
    site.configure(&format!("{:?}", site.daemon.file("store")), &format!("{:?}", other.file("store")));
    site.expect("start", "ready");
    assert!(site.is_locked(), "what unlocked the one store is not kept for the other");
    site.daemon.unlock();
    let said = held.ask("read");
    assert!(["ENOTCONN", "ECONNABORTED"].contains(&said.as_str()), "{said}");
    assert_eq!(held.ask(&format!("fresh {}", site.daemon.path("pin"))), "EACCES");
    site.told("it shows another store");
    // From now on it is taken over as ever.
    site.write("mine", "mine", "444");
    let mut held = site.open("mine");
    site.expect("kill", "ended");
    site.expect("start", "ready");
    assert_eq!(held.ask("read"), "mine");
}

#[test]
fn a_handle_reads_nothing_in_an_older_copy_of_its_store() {
    let mut site = Site::new();
    site.write("pin", "1", "444");
    let home = site.daemon.file("store").parent().expect("a folder").display().to_string();
    site.expect("stop", "ended");
    sh(&format!("cp -a {home}/store {home}/older")).ok();
    site.expect("start", "ready");
    assert!(!site.is_locked());
    for n in 0..4 {
        site.write(&format!("pin-{n}"), "later", "444");
    }
    let mut held = site.open("pin-3");
    site.expect("stop", "ended");
    sh(&format!("mv {home}/store {home}/newer && mv {home}/older {home}/store")).ok();
    site.expect("start", "ready");
    site.told("older copy");
    assert!(site.is_locked());
    let said = held.ask("read");
    assert!(["ENOTCONN", "ECONNABORTED"].contains(&said.as_str()), "{said}");
}

#[test]
fn descriptors_of_other_kinds_are_no_hand_over() {
    let mut site = Site::new();
    site.write("pin", "shown", "444");
    let mut held = site.open("pin");
    site.expect("stop", "ended");
    for (name, kinds) in [
        ("pinfold-fuse", ["null", "file", "fuse", "pipe"]),
        ("pinfold-connection", ["null", "file", "fuse", "pipe"]),
        ("pinfold-handles", ["null", "file", "fuse", "pipe"]),
    ] {
        for kind in kinds {
            site.expect(&format!("swap {name} {kind}"), "ok");
            let begun = site.ask("start");
            // A device that was never mounted is none: then it begins anew beside nothing, which is refused as well, for something is mounted there.
            assert_eq!(begun, "ended", "{name}: {kind}\n{}", site.daemon.log());
            site.expect(&format!("back {name}"), "ok");
        }
    }
    site.expect("start", "ready");
    assert_eq!(held.ask("read"), "shown", "what was refused was left alone");
    // These two are made anew.
    for name in ["pinfold-identity", "pinfold-control"] {
        for kind in ["null", "file", "pipe", "socket"] {
            site.expect("stop", "ended");
            site.expect(&format!("replace {name} {kind}"), "ok");
            site.expect("start", "ready");
            assert_eq!(site.is_locked(), name == "pinfold-identity", "{name}: {kind}");
            if site.is_locked() {
                site.daemon.unlock();
            }
            assert_eq!(held.ask("read"), "shown", "{name}: {kind}");
            site.expect(&format!("forget {name}"), "ok");
            site.expect("stop", "ended");
            site.expect("start", "ready");
            if site.is_locked() {
                site.daemon.unlock();
            }
        }
    }
}

/// Words of the table: see `fs::register`.
const SLOTS: usize = 7;
const SLOT: usize = 6;

#[test]
fn a_table_that_was_tampered_with_opens_nothing() {
    let mut site = Site::new();
    site.write("pin", "shown", "444");
    sh(&format!("echo hidden > {}", site.daemon.path("hidden"))).ok();
    let hidden: u64 =
        sh(&format!("stat -c %i {}", site.daemon.path("hidden"))).text().trim().parse().expect("a number");
    let changed = |site: &mut Site, word: usize, value: u64| {
        let mut held = site.open("pin");
        site.expect("stop", "ended");
        // In every slot: which one it has is not told.
        for slot in 0..16 {
            let at = SLOTS + slot * SLOT + word;
            site.expect(&format!("scribble {at} {} {value}", at + 1), "ok");
        }
        site.expect("start", "ready");
        let said = held.ask("read");
        assert_ne!(said, "hidden");
        said
    };
    assert_eq!(changed(&mut site, 1, hidden), "ESTALE", "another secret's handle");
    assert_eq!(changed(&mut site, 2, hidden), "ESTALE", "another secret's content");
    assert_eq!(changed(&mut site, 3, 99), "ESTALE", "a version that is not");
    assert_ne!(changed(&mut site, 4, 77), "shown", "by the entry of an instance that is not");
    assert_eq!(changed(&mut site, 5, 1), "shown", "decided anew");
    // The whole of it, and the counter; then what it is.
    let mut held = site.open("pin");
    site.expect("stop", "ended");
    site.expect(&format!("scribble 1 4 {}", u64::MAX), "ok");
    site.expect(&format!("scribble {SLOTS} 5000 {hidden}"), "ok");
    site.expect("start", "ready");
    assert_eq!(held.ask("read"), "ESTALE");
    assert_eq!(held.ask(&format!("fresh {}", site.daemon.path("pin"))), "shown");
    assert_eq!(held.ask(&format!("fresh {}", site.daemon.path("hidden"))), "EACCES");
    site.expect("stop", "ended");
    site.expect("scribble 0 1 5", "ok");
    site.expect("start", "ended");
}

#[test]
fn of_two_successors_at_once_one_takes_over() {
    let mut site = Site::new();
    site.write("pin", "shown", "444");
    let mut held = site.open("pin");
    for _ in 0..5 {
        site.expect("stop", "ended");
        site.expect("twice", "1 ended, the other is ready");
        assert_eq!(held.ask("read"), "shown");
        assert_eq!(held.ask(&format!("fresh {}", site.daemon.path("pin"))), "shown");
    }
}

#[test]
fn a_successor_of_another_uid_takes_nothing_over() {
    let mut site = Site::new();
    site.write("pin", "shown", "444");
    let mut held = site.open("pin");
    site.expect("stop", "ended");
    let before = site.daemon.log().len();
    site.expect("start_as 33", "ended");
    let said = site.daemon.log()[before..].to_owned();
    assert!(said.contains("pinfold: error"), "it began, and was refused: {said}");
    site.expect("start", "ready");
    assert_eq!(held.ask("read"), "shown");
}

#[test]
fn a_successor_that_is_killed_leaves_all_to_the_next() {
    let mut site = Site::new();
    site.write("pin", "shown", "444");
    let mut held = site.open("pin");
    let mut mapped = site.open("pin");
    assert_eq!((mapped.ask("map shared"), mapped.ask("look")), ("ok".into(), "shown".into()));
    for round in 0..12 {
        site.expect("kill", "ended");
        for delay in [round * 2000, round * 5000] {
            site.expect(&format!("killed {delay}"), "ended");
        }
        site.expect("start", "ready");
        assert!(!site.is_locked(), "round {round}");
        assert_eq!((held.ask("read"), mapped.ask("look")), ("shown".into(), "shown".into()), "round {round}");
    }
    site.write("pin", "later", "444");
    assert_eq!(held.ask(&format!("fresh {}", site.daemon.path("pin"))), "later");
    assert_eq!(
        (held.ask("read"), mapped.ask("send")),
        ("shown".into(), "shown".into()),
        "by daemons that never opened it"
    );
    site.daemon.cli(&["log", "--verify"]).ok();
}

#[test]
fn a_daemon_killed_between_any_two_messages_to_its_supervisor_leaves_a_tree_to_the_next() {
    let mut site = Site::new();
    site.write("pin", "shown", "444");
    let mut held = site.open("pin");
    let rounds = (1..30).take_while(|messages| {
        site.expect("kill", "ended");
        let said = site.ask(&format!("killed_after {messages}"));
        if said == "ended" {
            site.expect("start", "ready");
        }
        assert!(!site.is_locked(), "after {messages} messages");
        assert_eq!(held.ask("read"), "shown", "after {messages} messages");
        said == "ended"
    });
    let rounds = rounds.count();
    assert!((3..29).contains(&rounds), "it said {rounds} times something");
    // The first of all, which leaves nothing to begin with.
    for messages in 1..=rounds {
        site.expect("stop", "ended");
        site.expect("forget pinfold-fuse", "ok");
        site.expect(&format!("killed_after {messages}"), "ended");
        site.expect("start", "ready");
        assert_eq!(sh(&format!("cat {}", site.daemon.path("pin"))).text(), "shown\n", "after {messages} messages");
    }
}

#[test]
fn a_version_that_fewer_are_kept_of_is_not_replaced_by_another() {
    let mut site = Site::new();
    site.write("pin", "1", "444");
    let mut held = site.open("pin");
    site.expect("stop", "ended");
    site.configure("control = ", "keep_versions = 1\ncontrol = ");
    site.expect("start", "ready");
    site.write("pin", "2", "444");
    site.write("pin", "3", "444");
    assert_eq!(held.ask("read"), "ESTALE");
    assert_eq!(held.ask(&format!("fresh {}", site.daemon.path("pin"))), "3");
}

#[test]
fn versions_stay_apart_over_a_restart() {
    let mut site = Site::new();
    site.write("pin", "1", "644");
    sh(&format!("chown {READER} {} && sync {}", site.daemon.path("pin"), site.daemon.root().display())).ok();
    let mut old = site.open("pin");
    assert_eq!((old.ask("map private"), old.ask("look")), ("ok".into(), "1".into()));
    let mut writer = Held::start(User::named(READER), &format!("exec /usr/bin/python3 {PROGRAMS}/maps.py"));
    assert_eq!(writer.ask(&format!("open {} rw", site.daemon.path("pin"))), "ok");
    for n in 2..5 {
        site.write("pin", &n.to_string(), "644");
        site.expect("kill", "ended");
        site.expect("start", "ready");
        let mut new = site.open("pin");
        for kind in ["private", "shared"] {
            assert_eq!((new.ask(&format!("map {kind}")), new.ask("look")), ("ok".into(), n.to_string()));
        }
        assert_eq!((old.ask("look"), old.ask("map shared"), old.ask("look")), ("1".into(), "ok".into(), "1".into()));
        // What mmap(2) says is ENODEV; Python hears ESTALE first, of a close(2).
        assert_eq!((writer.ask("read"), writer.ask("map shared rw")), ("ESTALE".into(), "ESTALE".into()));
        let mut next = Held::start(User::named(READER), &format!("exec /usr/bin/python3 {PROGRAMS}/maps.py"));
        assert_eq!(next.ask(&format!("open {} rw", site.daemon.path("pin"))), "ok");
        assert_eq!((next.ask("read"), next.ask("map private")), (n.to_string(), "ENODEV".into()));
    }
}

#[test]
fn who_never_takes_an_answer_holds_up_nobody() {
    let mut site = Site::new();
    site.write("pin", "shown", "444");
    // Of one name the kernel asks once.
    let paths: Vec<String> = (0..12).map(|n| format!("pin-{n}")).collect();
    paths.iter().for_each(|at| site.write(at, "shown", "444"));
    site.daemon.lock();
    let cat = |at: &String| Held::start(User::named(READER), &format!("echo $$; exec cat {}", site.daemon.path(at)));
    let mut stopped: Vec<Held> = paths.iter().map(cat).collect();
    let pids: Vec<String> = stopped.iter_mut().map(Held::line).collect();
    wait_for("all of them to wait", Duration::from_secs(20), || {
        (site.daemon.json(&["status", "--json"])["waiting"] == 12).then_some(())
    });
    sh(&format!("kill -STOP {}", pids.join(" "))).ok();
    site.daemon.unlock();
    let mut other = site.open("pin");
    assert_eq!(other.ask("read"), "shown");
    site.expect("kill", "ended");
    site.expect("start", "ready");
    assert_eq!(other.ask("read"), "shown");
    sh(&format!("kill -CONT {}", pids.join(" "))).ok();
    for mut held in stopped {
        assert_eq!(held.line(), "shown");
    }
}
