//! Refusals that left no line: the kernel refuses, and asks for attributes first; what the caller was about is read off its
//! system call. Each distinct attempt has a line of its own.

use super::programs::{Ran, compiled, python};
use crate::common::{ALICE, BOB, Daemon, Setup, User, sh};
use serde_json::Value;

fn daemon() -> Daemon {
    Daemon::with(Setup { binary: Some(env!("CARGO_BIN_EXE_pinfold").into()), ..Setup::default() })
}

/// `pub`, 0755 of root's, with a file that everybody reads, a directory, and one that nobody but root reads.
#[track_caller]
fn readable(daemon: &Daemon) {
    let at = daemon.path("pub");
    sh(&format!(
        "install -d -m 0755 {at} {at}/d && echo -n hello | install -m 0644 /dev/stdin {at}/f && \
         echo -n 1234 | install -m 0600 /dev/stdin {at}/pin"
    ))
    .quiet();
}

/// The refusal of this call on this path by this process.
#[track_caller]
fn on_record(daemon: &Daemon, pid: u32, path: &str, call: &str) -> Value {
    daemon.await_audit(&format!("refused {call} of {path} by {pid}"), |event| {
        event["op"] == "probe"
            && event["decision"] == "denied"
            && event["path"] == path
            && event["uid"] == 2002
            && event["pid"] == pid
            && event["reason"].as_str().is_some_and(|reason| {
                // A number that is another call in another table is recorded as either.
                reason.split(": ").next().is_some_and(|calls| calls.split(" or ").any(|said| said == call))
            })
    })
}

#[test]
fn o_rdwr_on_a_readable_file_is_on_record() {
    let daemon = daemon();
    readable(&daemon);
    let ran = Ran::by(BOB, &format!("{} rdwr {}", python(&daemon, "calls.py"), daemon.path("pub/f")));
    assert_eq!(ran.came("open"), "EACCES");
    on_record(&daemon, ran.pid, "pub/f", "open O_RDWR");
}

#[test]
fn each_refused_change_of_a_readable_directory_has_a_line() {
    let daemon = daemon();
    readable(&daemon);
    let ran = Ran::by(BOB, &format!("{} change {}", python(&daemon, "calls.py"), daemon.path("pub")));
    for call in ["unlink", "rmdir", "mkdir", "rename", "symlink", "mknod", "creat", "link"] {
        assert!(["EACCES", "EPERM"].contains(&ran.came(call)), "{call}: {}", ran.came(call));
    }
    let mut lines: Vec<u64> = ["unlink", "rmdir", "mkdir", "rename", "symlink", "mknod", "open O_CREAT"]
        .map(|call| on_record(&daemon, ran.pid, "pub", call)["seq"].as_u64().expect("a number"))
        .into();
    lines.sort_unstable();
    lines.dedup();
    assert_eq!(lines.len(), 7, "each a line of its own");
    // Of a link the kernel asks for the file first (protected_hardlinks).
    daemon.await_audit("the refused link", |event| {
        let link = event["reason"].as_str().is_some_and(|r| r.starts_with("link"));
        event["pid"] == ran.pid && event["decision"] == "denied" && link
    });
    // What is allowed leaves no refusal.
    sh(&format!("chown 2001 {0} {0}/f", daemon.path("pub"))).quiet();
    let ran = Ran::by(ALICE, &format!("{} change {}", python(&daemon, "calls.py"), daemon.path("pub")));
    assert_eq!((ran.came("unlink"), ran.came("mkdir")), ("done", "done"));
    let last = Ran::by(BOB, &format!("{} rdwr {}", python(&daemon, "calls.py"), daemon.path("pub/pin")));
    on_record(&daemon, last.pid, "pub/pin", "open O_RDWR");
    let probes: Vec<Value> = daemon.audit().into_iter().filter(|e| e["pid"] == ran.pid && e["op"] == "probe").collect();
    assert!(probes.is_empty(), "{probes:?}");
}

#[test]
fn calls_by_int_0x80_are_on_record() {
    let daemon = daemon();
    readable(&daemon);
    let int80 = compiled(&daemon, "int80.c");
    for (call, path, recorded, said) in [
        ("open", "pub/pin", "pub/pin", "open O_RDONLY"),
        ("creat", "pub/new", "pub", "creat"),
        ("unlink", "pub/f", "pub", "unlink"),
        ("mkdir", "pub/new", "pub", "mkdir"),
    ] {
        let ran = Ran::by(BOB, &format!("{int80} {call} {}", daemon.path(path)));
        assert_eq!(ran.came(call), "-13", "{call}");
        on_record(&daemon, ran.pid, recorded, said);
    }
    // A look is none, by either number.
    let look = Ran::by(BOB, &format!("{int80} stat {}", daemon.path("pub/pin")));
    assert_eq!(look.came("stat"), "0");
    let last = Ran::by(BOB, &format!("{int80} open {}", daemon.path("pub/pin")));
    daemon.await_audit("the last refusal", |e| {
        e["path"] == "pub/pin" && e["decision"] == "denied" && (e["pid"] == last.pid || e["count"].is_u64())
    });
    assert!(!daemon.audit().iter().any(|e| e["pid"] == look.pid), "stat was recorded as an attempt");
}

#[test]
fn a_target_behind_decoys_has_its_own_line() {
    let daemon = daemon();
    readable(&daemon);
    let at = daemon.path("pub");
    sh(&format!("cd {at} && for i in $(seq 70); do echo -n x > decoy-$i; done")).quiet();
    let decoys: Vec<String> = (1..=70).map(|i| format!("{at}/decoy-{i}")).collect();
    let knock = format!("{} knock {} {at}/pin", python(&daemon, "calls.py"), decoys.join(" "));
    let ran = Ran::by(BOB, &knock);
    assert_eq!((ran.came("decoy-70"), ran.came("pin")), ("EACCES", "EACCES"));
    on_record(&daemon, ran.pid, "pub/pin", "open O_RDONLY");
    for i in 1..=70 {
        on_record(&daemon, ran.pid, &format!("pub/decoy-{i}"), "open O_RDONLY");
    }
}

#[test]
fn an_open_by_io_uring_is_refused_and_on_record() {
    let daemon = daemon();
    readable(&daemon);
    let uring = compiled(&daemon, "uring.c");
    for (mode, path) in [("plain", "pub/pin"), ("sqpoll", "pub/other")] {
        sh(&format!("echo -n 1234 | install -m 0600 /dev/stdin {}", daemon.path(path))).quiet();
        let ran = Ran::by(BOB, &format!("{uring} {mode} {}", daemon.path(path)));
        assert_eq!(ran.came("open"), "-13", "{mode}");
        daemon.await_audit(&format!("the refused open, {mode}"), |event| {
            event["path"] == path && event["decision"] == "denied" && event["uid"] == 2002 && event["pid"] == ran.pid
        });
    }
}

#[test]
fn a_path_descriptor_reopens_nothing_that_may_not_be_opened() {
    let daemon = daemon();
    readable(&daemon);
    let again = format!("{} again {}", python(&daemon, "calls.py"), daemon.path("pub/pin"));
    let ran = Ran::by(BOB, &again);
    assert_eq!(ran.came("open"), "EACCES");
    on_record(&daemon, ran.pid, "pub/pin", "open O_RDONLY");
    sh(&format!("chown 2001 {}", daemon.path("pub/pin"))).quiet();
    let root = Ran::by(User { uid: 0, gid: 0, groups: &[] }, &again);
    assert_eq!(root.came("open"), "EACCES");
    daemon.await_audit("root's denial", |e| e["op"] == "open" && e["pid"] == root.pid && e["decision"] == "denied");
}
