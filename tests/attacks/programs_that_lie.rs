//! Programs that pinfold starts for renewals and rotations, and that lie, hang, fork, flood, or answer for another.
//!
//! Owns what each of them may gain: nothing. The pair or password in use stays, what is said is bounded and harmless on a
//! terminal, the time is bounded, and what is started in the program's group ends with it.

use crate::cert::Rig as Certs;
use crate::common::process::run;
use crate::common::wait_for;
use crate::password::Rig as Passwords;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// What a lie may take: the two seconds it has, the grace before the kill, and a busy machine.
const BOUNDED: Duration = Duration::from_secs(40);

/// The processes that a program noted are gone.
#[track_caller]
fn gone(pids: &Path) {
    let noted = fs::read_to_string(pids).expect("the program ran");
    for pid in noted.split_whitespace() {
        wait_for(&format!("the end of {pid}"), BOUNDED, || {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            (stat.is_empty() || stat.contains(") Z ")).then_some(())
        });
    }
}

/// What a program left outside its group, on purpose, ends here.
fn end(pids: &Path) {
    for pid in fs::read_to_string(pids).unwrap_or_default().split_whitespace() {
        crate::common::daemon::signal(pid.parse().expect("a pid"), libc::SIGKILL);
    }
}

#[test]
fn a_renewal_program_that_lies_hangs_forks_or_floods_changes_nothing() {
    let rig = Certs::new();
    rig.authority();
    for host in ["web", "other"] {
        rig.in_use(host, 40);
    }
    rig.program("liar.sh", include_str!("programs/renew_liar.sh").split_once('\n').expect("a first line").1);
    let before = (rig.pair("web"), rig.pair("other"));
    let renew = |mode: &str| {
        rig.write("mode", mode);
        let begun = Instant::now();
        let out = run(rig.command("renew --force --json web"), b"", mode);
        assert!(begun.elapsed() < BOUNDED, "{mode}: {:?}", begun.elapsed());
        out
    };
    for (mode, why) in [
        ("hangs", "took longer than 2s"),
        ("stops", "took longer than 2s"),
        ("deaf", "neither PEM nor DER"),
        ("floods-out", "more than"),
        ("floods-err", "took longer than 2s"),
        ("floods-then-answers", "more than"),
        ("forks", "neither PEM nor DER"),
        ("escapes", "failed:"),
        ("other-key", "no key of the store for web belongs to it"),
        ("other-host", "no key of the store for web belongs to it"),
        ("in-use", "in use already"),
        ("authority", "no key of the store for web belongs to it"),
        ("key-too", "no certificate in it"),
        ("no-names", "does not name DNS:web.example.org"),
        ("other-names", "does not name DNS:web.example.org"),
        ("broken", ""),
        ("ended", "has expired"),
    ] {
        let out = renew(mode);
        let text = out.text();
        let all: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{mode}: {e}: {text}{}", out.stderr));
        assert_eq!((out.code, &all[0]["outcome"]), (1, &"failed".into()), "{mode}: {text}");
        let reason = all[0]["reason"].as_str().expect("a reason");
        assert!(reason.contains(why) && reason.len() < 2000, "{mode}: {reason}");
        assert!(!reason.contains(['\u{1b}', '\u{7}']), "{mode}: {reason:?}");
        assert!((rig.pair("web"), rig.pair("other")) == before, "{mode}: both pairs stay");
        match mode {
            "hangs" | "stops" => gone(&rig.path("pids")),
            "forks" => end(&rig.path("pids")),
            _ => {}
        }
    }
    // Much of the right thing is the right thing, once.
    let out = renew("many");
    assert!([0, 1].contains(&out.code), "{}{}", out.text(), out.stderr);
    assert_eq!(renew("kills-caller").code, 128 + libc::SIGKILL);
    let honest = renew("honest");
    assert_eq!(honest.code, 0, "{}{}", honest.text(), honest.stderr);
    let after = rig.pair("web");
    assert!(after.0 != before.0.0 && after.1 != before.0.1 && rig.pair("other") == before.1);
    rig.ok("fsck");
}

fn store_far_side(rig: &Passwords) {
    let program = rig.path("rotate.d/toy");
    fs::write(&program, include_str!("programs/rotate_liar.sh")).expect("it is ours");
    fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).expect("it is ours");
    let file = rig.path("pinfold.toml");
    let config = fs::read_to_string(&file).expect("it is ours").replace("timeout = \"20s\"", "timeout = \"2s\"");
    fs::write(&file, config).expect("it is ours");
}

#[test]
fn a_rotation_program_that_lies_hangs_forks_or_floods_loses_no_password() {
    let rig = Passwords::with(1000);
    store_far_side(&rig);
    let hosts = [
        "hangs-after",
        "hangs-before",
        "hangs-verifying",
        "floods",
        "forks",
        "tells",
        "other",
        "nothing",
        "odd",
        "deaf",
    ];
    hosts.iter().chain(&["victim", "yes-man"]).for_each(|host| rig.account(host));
    let old = |host: &str| format!("old-of-{host}");
    for (host, state, outcome) in [
        // It hangs after it has changed: a login says so.
        ("hangs-after", None, "rotated root@hangs-after:toy"),
        ("hangs-before", Some("pending"), "the old one is valid"),
        ("hangs-verifying", Some("changed_unverified"), "could not be verified: it took too long"),
        ("floods", None, "rotated root@floods:toy"),
        ("forks", None, "rotated root@forks:toy"),
        ("tells", Some("pending"), "cannot set …, it had …"),
        ("other", Some("pending"), "it takes the old password"),
        ("nothing", Some("pending"), "it takes the old password"),
        ("odd", Some("pending"), "the old one is valid"),
        ("deaf", Some("pending"), "it takes the old password"),
    ] {
        let begun = Instant::now();
        let out = run(rig.command(&["rotate", &format!("{host}:toy")]), b"", host);
        assert!(begun.elapsed() < BOUNDED, "{host}: {:?}", begun.elapsed());
        let told = out.text() + &out.stderr;
        assert!(told.contains(outcome), "{host}: {outcome} is not in {told}");
        assert!(told.len() < 2000 && !told.contains('\u{1b}'), "{host}: {told:?}");
        assert!(!told.contains(&old(host)) && !told.contains(&rig.far(host)), "{host}: no password is shown: {told}");
        assert_eq!(rig.state(host), state.map_or(Value::Null, Value::from), "{host}");
        // What is stored as valid is what the far side takes, or both are kept.
        if state.is_none() {
            assert_ne!(rig.far(host), old(host), "{host}");
        } else if host != "hangs-verifying" {
            assert_eq!(rig.far(host), old(host), "{host}");
        }
        match host {
            "hangs-after" | "hangs-before" => gone(&rig.path("far/pids")),
            "forks" => end(&rig.path("far/pids")),
            _ => {}
        }
    }
    // The one whose password was changed in another's name: nothing of it is thrown away, and it is told.
    let told = run(rig.command(&["rotate", "victim:toy"]), b"", "victim");
    assert_ne!(rig.far("victim"), old("victim"));
    assert_eq!(told.code, 0, "its own change goes through: {}", told.stderr);

    // Whoever says yes to every login is believed; what was stored before is a version, and comes back.
    let rotate = || run(rig.command(&["rotate", "yes-man:toy"]), b"", "yes-man");
    let told = rotate();
    assert!(told.text().contains("rotated root@yes-man:toy"), "{}{}", told.text(), told.stderr);
    assert_eq!(rig.far("yes-man"), old("yes-man"), "it did nothing");
    let mut rollback = Command::new(env!("CARGO_BIN_EXE_pinfold"));
    rollback.arg("--config").arg(rig.path("pinfold.toml")).args(["rollback", "passwords/yes-man/toy/root", "1"]);
    run(rollback, b"", "rollback").ok();
    assert_eq!(rotate().code, 0);
    // It notes what it is told is the password until now.
    let told_it = fs::read_to_string(rig.path("far/yes-man.was")).expect("the program's own");
    let olds: Vec<&str> = told_it.lines().collect();
    assert_eq!(olds, [old("yes-man"), old("yes-man")], "the one that is valid was kept");
}
