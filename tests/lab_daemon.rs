//! The daemon's life: it clears a dead one's mount, is alone on its store, unmounts when it is told to end, and what was
//! written outlives it, down to the recovery key alone.

use crate::common;

use common::process::wait;
use common::{ALICE, BOB, Daemon, Held, Setup, daemon, sh};
use std::process::{Command, Stdio};
use std::time::Duration;

#[track_caller]
fn enrol(daemon: &Daemon) {
    sh(&format!(
        "set -e; cd {}; mkdir svc; echo 1234 > svc/pin; chown 2001 svc/pin; head -c 300000 /dev/zero | tr '\\0' x > large",
        daemon.root().display()
    ))
    .quiet();
}

#[track_caller]
fn reads(daemon: &Daemon) {
    assert_eq!(ALICE.sh(&format!("cat {}", daemon.path("svc/pin"))).quiet(), "1234\n");
    BOB.sh(&format!("cat {}", daemon.path("svc/pin"))).refused("Permission denied");
    assert_eq!(sh(&format!("wc -c < {}", daemon.path("large"))).quiet(), "300000\n");
}

#[test]
fn a_killed_daemon_s_mount_is_cleared_and_nothing_is_lost() {
    let mut daemon = Daemon::start();
    enrol(&daemon);
    let root = daemon.root().to_owned();
    for _ in 0..3 {
        let mut held = Held::start(ALICE, &format!("exec 3<{}; echo open; read; cat <&3", daemon.path("svc/pin")));
        assert_eq!(held.line(), "open");
        daemon.kill9();
        assert!(daemon::connection(&root).is_some(), "its mount stays behind");
        sh(&format!("ls {}", root.display())).refused("Transport endpoint is not connected");
        daemon.serve();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("the list of mounts");
        let at = format!(" {} ", root.display());
        assert_eq!(mounts.lines().filter(|line| line.contains(&at)).count(), 1, "one mount and no stale one under it");
        reads(&daemon);
        held.go_on();
        assert_ne!(held.end().0, 0, "a handle of the dead daemon");
    }
    daemon.cli(&["fsck"]).ok();
    daemon.cli(&["log", "--verify"]).ok();
    assert!(daemon.audit().iter().filter(|event| event["op"] == "start").count() >= 4);
}

#[test]
fn a_second_daemon_is_refused_by_name() {
    let first = Daemon::start();
    enrol(&first);
    let second = |args: &[&str]| {
        let mut command = Command::new(daemon::binary());
        command.arg("--config").arg(first.file("pinfold.toml")).arg("mount").args(args);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        common::process::run(command, b"", "a second daemon")
    };
    let elsewhere = first.file("elsewhere");
    for args in [vec![], vec![elsewhere.to_str().expect("ASCII")]] {
        let out = second(&args);
        assert_eq!(out.code, 3, "{}", out.stderr);
        assert!(out.stderr.contains(&first.pid().to_string()), "by its process id: {}", out.stderr);
        assert!(out.stderr.contains(first.file("store").to_str().expect("ASCII")), "by its store: {}", out.stderr);
    }
    reads(&first);
}

#[test]
fn both_signals_unmount_cleanly_also_with_files_open() {
    for (number, lock) in [(libc::SIGTERM, false), (libc::SIGINT, false), (libc::SIGTERM, true)] {
        let mut daemon = Daemon::start();
        enrol(&daemon);
        let script = format!("cd {0}; exec 3<{0}/pin; echo open; read", daemon.path("svc"));
        let mut held = Held::start(ALICE, &script);
        assert_eq!(held.line(), "open");
        let waiter = lock.then(|| {
            daemon.lock();
            Held::start(BOB, &format!("cat {}", daemon.path("svc/pin")))
        });
        std::thread::sleep(Duration::from_millis(300));
        let mut child = daemon.take_child();
        daemon::signal(child.id(), number);
        let code = wait(&mut child, Duration::from_secs(20)).unwrap_or_else(|s| panic!("signal {number}: {s}"));
        assert_eq!(code, 0, "{}", daemon.log());
        assert_eq!(daemon::connection(daemon.root()), None, "signal {number}: it left its mount");
        if let Some(waiter) = waiter {
            assert_ne!(waiter.end().0, 0, "who waits is told, not left hanging");
        }
        // Underneath nobody finds an empty folder to fill with new keys.
        BOB.sh(&format!("ls {}", daemon.root().display())).refused("Permission denied");
        drop(held);
        daemon.serve();
        reads(&daemon);
        daemon.cli(&["log", "--verify"]).ok();
        let ops: Vec<_> = daemon.audit().iter().filter_map(|e| e["op"].as_str().map(str::to_owned)).collect();
        assert!(ops.iter().filter(|op| *op == "start").count() == 2 && ops.contains(&"stop".to_owned()), "{ops:?}");
    }
}

#[test]
fn stock_age_opens_what_was_taken_out_with_the_recovery_key() {
    let mut daemon = Daemon::start();
    enrol(&daemon);
    let (sealed, recovery) = (daemon.file("x.age"), daemon.file("recovery.key"));
    let config = daemon.file("pinfold.toml");
    let extract = |key: &str| {
        sh(&format!(
            "{} --config {} fsck --extract svc/pin {key} > {}",
            daemon::binary().display(),
            config.display(),
            sealed.display()
        ))
    };
    let open = || sh(&format!("age -d -i {} {}", recovery.display(), sealed.display())).quiet();
    // Of root too, what opens the store is wanted.
    extract("").refused("");
    let passphrase = format!("--passphrase-file {}", daemon.file("passphrase").display());
    extract(&passphrase).quiet();
    assert_eq!(open(), "1234\n");
    assert!(!std::fs::read(&sealed).expect("it was written").windows(4).any(|w| w == b"1234"));
    daemon.stop();
    extract("").refused("");
    extract(&format!("--recovery {}", recovery.display())).quiet();
    assert_eq!(open(), "1234\n");
}

#[test]
fn a_backup_and_the_recovery_key_bring_everything_back() {
    let daemon = Daemon::start();
    enrol(&daemon);
    sh(&format!("setfacl -m u:2003:r {0}; setfattr -n user.note -v x {0}", daemon.path("svc/pin"))).quiet();
    let look = |daemon: &Daemon| {
        sh(&format!(
            "cd {}; find . -path ./.pinfold -prune -o -printf '%P %y %m %U:%G %T@ %i\\n' | sort; getfacl -n svc/pin",
            daemon.root().display()
        ))
        .quiet()
            + &ALICE.sh(&format!("cd {}; getfattr -d svc/pin", daemon.root().display())).quiet()
    };
    let before = look(&daemon);
    let backup = daemon.file("backup").display().to_string();
    daemon.cli(&["backup", &backup]).ok();
    // A machine that has nothing of the first but the backup and the recovery key: its passphrase is lost.
    let mut other = Daemon::initialised(Setup { unlock: false, ..Setup::default() });
    std::fs::remove_dir_all(other.file("store")).expect("ours");
    let key = daemon.file("recovery.key").display().to_string();
    let wrong = other.file("recovery.key").display().to_string();
    let out = other.cli(&["restore", &backup, "--recovery", &wrong]);
    assert_ne!(out.code, 0, "another store's recovery key: {}", out.text());
    other.cli(&["restore", &backup, "--recovery", &key]).ok();
    other.serve();
    other
        .cli(&["unlock", "--passphrase-file", &other.file("passphrase").display().to_string(), "--recovery", &key])
        .refused("");
    other.cli(&["unlock", "--recovery", &wrong]).refused("");
    other.cli(&["unlock", "--recovery", &key]).ok();
    reads(&other);
    assert_eq!(look(&other), before);
    other.cli(&["fsck", "--deep"]).ok();
    // It is a store like any other.
    sh(&format!("echo 5678 > {}", other.path("svc/new"))).quiet();
    assert_eq!(sh(&format!("cat {}", other.path("svc/new"))).quiet(), "5678\n");
}
