//! While the store is locked: nothing is missing, names are unknown, callers wait within bounds, and what was open before
//! shows nothing any more.

use crate::common;

use common::{ALICE, BOB, Daemon, Held, ROOT, Setup, User, attempt, sh, wait_for};
use std::time::{Duration, Instant};

const NO_KEY: &str = "Required key not available";

/// A daemon with two secrets of alice's, unlocked.
#[track_caller]
fn daemon(config: &str) -> Daemon {
    let daemon = Daemon::configured(config);
    sh(&format!(
        "set -e; cd {}; echo 1234 > pin; install -d -o 2001 -m 755 svc; echo 5678 > svc/pin; chown 2001 pin svc/pin",
        daemon.root().display()
    ))
    .quiet();
    daemon
}

/// How many wait, as the daemon says.
#[track_caller]
fn waiting(daemon: &Daemon) -> u64 {
    daemon.json(&["status", "--json"])["waiting"].as_u64().expect("a number")
}

#[test]
fn with_fail_everybody_is_told_at_once_and_nothing_is_missing() {
    let daemon = daemon("when_locked = \"fail\"");
    daemon.lock();
    let tree = daemon.root().display().to_string();
    for (command, path) in [
        (format!("cat {tree}/pin"), "pin"),
        (format!("cat {tree}/svc/pin"), "svc"),
        (format!("cat {tree}/never-was"), "never-was"),
        (format!("stat {tree}/other"), "other"),
        (format!("ls {tree}/folder/"), "folder"),
    ] {
        let tried = attempt(ALICE, &command).refused(NO_KEY);
        tried.denied(&daemon, "open", path, "the store is locked");
    }
    for command in [
        format!("ls {tree}/"),
        format!("find {tree} -name pin"),
        format!("mkdir {tree}/new"),
        format!("touch {tree}/x"),
    ] {
        attempt(ROOT, &command).refused(NO_KEY);
    }
    daemon.unlock();
    assert_eq!(attempt(ALICE, &format!("cat {tree}/svc/pin")).printed(), "5678\n");
}

#[test]
fn what_is_pinfold_s_own_is_readable_also_while_somebody_waits() {
    let daemon = daemon("unlock_timeout = \"40s\"");
    let own = |file: &str| BOB.sh(&format!("cat {}", daemon.path(&format!(".pinfold/{file}")))).quiet();
    assert_eq!((own("status").as_str(), own("ready").as_str()), ("unlocked\n", "yes\n"));
    let mut held = Held::start(BOB, &format!("exec 3<{}; echo open; read; cat <&3", daemon.path(".pinfold/status")));
    assert_eq!(held.line(), "open");
    daemon.lock();
    assert_eq!(own("ready"), "no\n");
    // One who looks something up, and one who would make something: that one keeps the directory to itself.
    let looks = Held::start(ALICE, &format!("cat {}", daemon.path("pin")));
    wait_for("a waiter", Duration::from_secs(5), || (waiting(&daemon) == 1).then_some(()));
    let makes = Held::start(ROOT, &format!("echo x > {}", daemon.path("new")));
    // It waits in the kernel behind the first, or in the daemon: nothing tells.
    std::thread::sleep(Duration::from_millis(300));
    let begun = Instant::now();
    assert_eq!((own("status").as_str(), own("ready").as_str()), ("locked\n", "no\n"));
    assert!(own("metrics").contains("pinfold_locked 1"));
    held.go_on();
    assert_eq!(held.end(), (0, "locked".to_owned()), "an open handle on it reads what is true now");
    assert!(begun.elapsed() < Duration::from_secs(5), "it took {:?}", begun.elapsed());
    daemon.unlock();
    assert_eq!(looks.end(), (0, "1234".to_owned()));
    assert_eq!(makes.end(), (0, String::new()));
    assert_eq!(own("status"), "unlocked\n");
}

#[test]
fn an_open_waits_and_succeeds_after_the_unlock() {
    let daemon = daemon("unlock_timeout = \"60s\"");
    daemon.lock();
    let mut waiters: Vec<Held> =
        ["pin", "svc/pin"].iter().map(|path| Held::start(ALICE, &format!("cat {}", daemon.path(path)))).collect();
    wait_for("two waiters", Duration::from_secs(5), || (waiting(&daemon) == 2).then_some(()));
    for waiter in &mut waiters {
        assert!(waiter.is_silent(Duration::from_millis(300)));
    }
    daemon.unlock();
    let said: Vec<_> = waiters.into_iter().map(Held::end).collect();
    assert_eq!(said, [(0, "1234".to_owned()), (0, "5678".to_owned())]);
    assert_eq!(waiting(&daemon), 0);
    // Waiting is no way around a decision.
    daemon.lock();
    let stranger = Held::start(BOB, &format!("cat {}", daemon.path("svc/pin")));
    wait_for("a waiter", Duration::from_secs(5), || (waiting(&daemon) == 1).then_some(()));
    daemon.unlock();
    let (code, said) = stranger.end();
    assert!(code == 0 || said.contains("Permission denied"), "{said}");
    assert_eq!(ROOT.sh(&format!("stat -c %a {}", daemon.path("svc/pin"))).quiet(), "600\n");
    assert!(said.contains("Permission denied"), "{said}");
}

#[test]
fn a_daemon_that_starts_locked_keeps_its_callers_waiting_too() {
    let mut daemon = daemon("unlock_timeout = \"60s\"");
    daemon.stop();
    daemon.spawn();
    daemon.await_mount();
    let waiter = Held::start(ALICE, &format!("cat {}", daemon.path("pin")));
    wait_for("a waiter", Duration::from_secs(5), || (waiting(&daemon) == 1).then_some(()));
    daemon.unlock();
    assert_eq!(waiter.end(), (0, "1234".to_owned()));
}

#[test]
fn the_deadline_is_counted_from_the_lock() {
    let daemon = daemon("unlock_timeout = \"3s\"");
    daemon.lock();
    let locked = Instant::now();
    let cat = |path: &str| attempt(ALICE, &format!("cat {}", daemon.path(path))).refused(NO_KEY);
    let first = Held::start(ALICE, &format!("cat {}", daemon.path("a")));
    std::thread::sleep(Duration::from_secs(2));
    let begun = Instant::now();
    let tried = cat("pin");
    let (waited, since) = (begun.elapsed(), locked.elapsed());
    assert!(waited < Duration::from_millis(1900), "it waited {waited:?}, by a deadline of its own");
    assert!(since >= Duration::from_millis(2900), "it gave up after {since:?}");
    tried.denied(&daemon, "open", "pin", "the store is locked");
    assert!(first.end().1.contains(NO_KEY));
    let begun = Instant::now();
    cat("pin");
    cat("svc/pin");
    assert!(begun.elapsed() < Duration::from_secs(1), "after the deadline nobody waits");
}

#[test]
fn waiters_are_bounded_for_each_user_and_in_all() {
    let daemon = daemon("unlock_timeout = \"60s\"");
    daemon.lock();
    let user = |uid: u32| User { uid, gid: uid, groups: &[] };
    // Different names: the kernel itself lets the second on one name wait for the first.
    let park = |uid: u32, n: u32| Held::start(user(uid), &format!("exec cat {}/{uid}-{n}", daemon.root().display()));
    let mut parked: Vec<Held> = (0..16).map(|n| park(3000, n)).collect();
    wait_for("sixteen waiters", Duration::from_secs(20), || (waiting(&daemon) == 16).then_some(()));
    let begun = Instant::now();
    let tried = attempt(user(3000), &format!("cat {}", daemon.path("one-more"))).refused(NO_KEY);
    assert!(begun.elapsed() < Duration::from_secs(5), "the seventeenth waited {:?}", begun.elapsed());
    tried.denied(&daemon, "open", "one-more", "the store is locked");
    for uid in 3001..3016 {
        parked.extend((0..16).map(|n| park(uid, n)));
    }
    wait_for("256 waiters", Duration::from_secs(60), || (waiting(&daemon) == 256).then_some(()));
    attempt(user(4000), &format!("cat {}", daemon.path("one-more"))).refused(NO_KEY);
    // The places that are kept for root are not theirs to take.
    parked.push(Held::start(ROOT, &format!("exec cat {}", daemon.path("root-0"))));
    wait_for("root among them", Duration::from_secs(20), || (waiting(&daemon) == 257).then_some(()));
    // The daemon itself is none the slower for it.
    let begun = Instant::now();
    sh(&format!("cat {}", daemon.path(".pinfold/status"))).quiet();
    assert!(begun.elapsed() < Duration::from_secs(5));
    daemon.unlock();
    for waiter in parked {
        let (code, said) = waiter.end();
        assert!(code == 1 && said.contains("No such file"), "now it can be told: {said}");
    }
}

#[test]
fn what_was_open_shows_nothing_after_the_lock() {
    let daemon = daemon("unlock_timeout = \"1s\"");
    let mut held =
        Held::start(ALICE, &format!("exec 3<{}; echo open; read; cat <&3; echo; read; cat <&3", daemon.path("pin")));
    assert_eq!(held.line(), "open");
    let mut folder = Held::start(ALICE, &format!("cd {}; echo in; read; ls; cat pin; stat pin", daemon.path("svc")));
    assert_eq!(folder.line(), "in");
    daemon.lock();
    held.go_on();
    assert!(held.line().contains(NO_KEY));
    assert_eq!(held.line(), "");
    daemon.await_audit("the read", |e| e["op"] == "read" && e["decision"] == "denied" && e["uid"] == 2001);
    folder.go_on();
    let (code, said) = folder.end();
    assert!(code != 0 && said.matches(NO_KEY).count() >= 3, "{code}: {said}");
    // The same handle goes on when the store is unlocked again: by a new decision.
    daemon.unlock();
    held.go_on();
    assert_eq!(held.end(), (0, "1234".to_owned()));
}

#[test]
fn names_that_were_known_are_unknown_also_while_others_wait() {
    let daemon = daemon("unlock_timeout = \"30s\"");
    let tree = daemon.root().display().to_string();
    // They are in the kernel's cache now, attributes and all.
    sh(&format!("stat {tree}/pin {tree}/svc {tree}/svc/pin")).quiet();
    let stop = daemon.file("stop");
    // Some who look up other names all the time, so that one of them is under way when the lock comes.
    let line = format!(
        r#"import os, sys; e = os.path.exists; print("busy", flush=True); [e("{tree}/none-%d" % i) for i in range(10**8) if i % 64 or not e("{}") or sys.exit()]"#,
        stop.display()
    );
    let mut busy = [BOB, ALICE, ROOT].map(|user| Held::start(user, &format!("exec /usr/bin/python3 -c '{line}'")));
    busy.iter_mut().for_each(|b| assert_eq!(b.line(), "busy"));
    daemon.lock();
    wait_for("a waiter", Duration::from_secs(5), || (waiting(&daemon) > 0).then_some(()));
    // What the kernel knew is shown to nobody: whoever asks waits.
    let mut looks: Vec<Held> =
        ["pin", "svc"].iter().map(|name| Held::start(ALICE, &format!("stat -c %n {tree}/{name}"))).collect();
    for look in &mut looks {
        assert!(look.is_silent(Duration::from_secs(1)), "a name of a locked store was shown");
    }
    std::fs::write(&stop, "").expect("a file of the test's own");
    daemon.unlock();
    for look in looks {
        assert_eq!(look.end().0, 0);
    }
    drop(busy);
}

#[test]
fn a_lock_in_the_middle_of_writing_keeps_what_was_committed() {
    let daemon = Daemon::with(Setup::default());
    sh(&format!("echo 1234 > {}", daemon.path("pin"))).quiet();
    let mut writer =
        Held::start(ROOT, &format!("exec 3>>{}; echo half >&3; echo wrote; read; echo more >&3", daemon.path("pin")));
    assert_eq!(writer.line(), "wrote");
    daemon.lock();
    writer.go_on();
    assert!(writer.end().1.contains("Stale file handle"));
    daemon.unlock();
    // bash closed its duplicate after the first echo: that was committed.
    assert_eq!(sh(&format!("cat {}", daemon.path("pin"))).quiet(), "1234\nhalf\n");
}
