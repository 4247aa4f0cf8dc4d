//! What a member of `operator_group` may look at, and nobody else: the audit log, whose files are root's.

use super::authority::{OPERATOR, OWNER, STRANGER, cli, enrol, speak, start};
use crate::common::process::{ROOT, User};
use crate::common::{Daemon, wait_for};
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(20);

fn denied(daemon: &Daemon) {
    STRANGER.sh(&format!("cat {}", daemon.path("svc/pin")));
    daemon.await_denial("svc/pin", STRANGER.uid);
}

fn log(daemon: &Daemon, user: User, args: &[&str]) -> String {
    cli(daemon, user, &[&["log"], args].concat(), b"").ok().text()
}

#[test]
fn an_operator_reads_the_log_as_root_does() {
    let daemon = start("");
    enrol(&daemon, "svc/pin", "4711");
    denied(&daemon);
    let shown = log(&daemon, OPERATOR, &[]);
    let line = format!("denied probe svc/pin uid={}", STRANGER.uid);
    assert!(shown.lines().any(|l| l.contains(&line)), "{shown}");
    assert!(!shown.contains("4711"), "{shown}");
    daemon.cli(&["log", "rotate"]).ok();
    enrol(&daemon, "svc/other", "4712");
    for args in [&["-n", "1000"][..], &["-n", "3"], &["-n", "5", "--json"], &["-n", "0"]] {
        // What was refused just now may be summed up in between.
        wait_for("the same lines", PATIENCE, || {
            (log(&daemon, OPERATOR, args) == log(&daemon, ROOT, args)).then_some(())
        });
    }
    assert_eq!(log(&daemon, OPERATOR, &["-n", "3"]).lines().count(), 3);
    assert!(log(&daemon, OPERATOR, &["-n", "1000"]).contains("audit_begin"), "the older file too");
}

#[test]
fn an_operator_follows_the_log_over_a_rotation() {
    let daemon = start("");
    enrol(&daemon, "svc/pin", "4711");
    let mut command = OPERATOR.command(env!("CARGO_BIN_EXE_pinfold"));
    command.arg("--config").arg(daemon.file("pinfold.toml")).args(["log", "-f", "-n", "0"]);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("pinfold");
    let lines = BufReader::new(child.stdout.take().expect("it was asked for")).lines();
    let reader = std::thread::spawn(move || {
        let wanted = format!("denied probe svc/pin uid={}", STRANGER.uid);
        lines.map_while(Result::ok).take_while(|line| !line.contains("svc/last")).any(|line| line.contains(&wanted))
    });
    denied(&daemon);
    daemon.cli(&["log", "rotate"]).ok();
    // It may have begun only after that: then each of these is a new one.
    wait_for("the end of the reader", PATIENCE, || {
        denied(&daemon);
        reader.is_finished().then_some(())
    });
    child.kill().expect("it is our child");
    child.wait().expect("it is our child");
    assert!(reader.join().expect("it found one"), "no line of a denial");
}

#[test]
fn an_operator_s_check_finds_a_forged_line() {
    let daemon = start("");
    enrol(&daemon, "svc/pin", "4711");
    denied(&daemon);
    let whole = cli(&daemon, OPERATOR, &["log", "--verify"], b"").ok().text();
    assert!(whole.contains("the store vouches for the first "), "{whole}");
    let file = daemon.file("audit.log");
    let text = std::fs::read_to_string(&file).expect("the log");
    let line = text.lines().position(|l| l.contains("\"denied\"")).expect("its line") + 1;
    let forged = text.replace(&format!("\"uid\":{}", STRANGER.uid), &format!("\"uid\":{}", OWNER.uid));
    assert_eq!(forged.len(), text.len());
    // In place, as one who has the disk: the daemon goes on in the same file.
    std::os::unix::fs::FileExt::write_all_at(
        &std::fs::OpenOptions::new().write(true).open(&file).expect("the log"),
        forged.as_bytes(),
        0,
    )
    .expect("it is ours");
    let out = cli(&daemon, OPERATOR, &["log", "--verify"], b"");
    assert_eq!(out.code, 5, "{}", out.stderr);
    assert!(out.text().contains(&format!(":{line}: line {line} or the hash before it was altered")), "{}", out.text());
    let json = |user| cli(&daemon, user, &["log", "--verify", "--json"], b"").text();
    wait_for("the same report", PATIENCE, || (json(OPERATOR) == json(ROOT)).then_some(()));
    let report: serde_json::Value = serde_json::from_str(&json(OPERATOR)).expect("JSON");
    assert_eq!(report["problems"][0]["kind"], "altered", "{report}");
}

#[test]
fn a_stranger_gets_no_line_of_the_log() {
    let daemon = start("");
    enrol(&daemon, "svc/pin", "4711");
    let read = r#"{"method":"org.pinfold.LogRead","parameters":{"last":9},"more":true}"#;
    let verify = r#"{"method":"org.pinfold.LogVerify"}"#;
    // What an operator is told; half of a question is none.
    let answers = speak(&daemon, OPERATOR, &[read, verify, &read.replace(",\"more\":true", "")]);
    assert!(answers[0].contains("svc/pin") && answers[1].contains("anchored"), "{answers:?}");
    assert!(answers[2].contains("ExpectedMore"), "{answers:?}");
    for wrong in [r#"{}"#, r#"{"last":1,"from":{"file":1,"offset":0}}"#] {
        let answers = speak(&daemon, OPERATOR, &[&read.replace(r#"{"last":9}"#, wrong)]);
        assert!(answers[0].contains("org.pinfold.Usage"), "{answers:?}");
    }
    let socket = daemon.file("control.sock");
    std::fs::set_permissions(&socket, std::os::unix::fs::PermissionsExt::from_mode(0o666)).expect("it is ours");
    for message in [read, verify] {
        assert_eq!(speak(&daemon, STRANGER, &[message]), [""; 0]);
    }
    for args in [&["log"][..], &["log", "-f"], &["log", "--verify"]] {
        let out = cli(&daemon, STRANGER, args, b"");
        assert_eq!((out.code, out.text()), (3, String::new()), "{}", out.stderr);
        out.refused("you may not use");
    }
    daemon.await_audit("the stranger", |e| e["op"] == "control" && e["uid"] == STRANGER.uid);
    // Without a daemon the files are root's.
    std::fs::rename(&socket, daemon.file("elsewhere.sock")).expect("it is ours");
    let out = cli(&daemon, OPERATOR, &["log"], b"");
    assert_eq!(out.code, 3, "{}", out.stderr);
    out.refused("the audit log is root's");
    cli(&daemon, ROOT, &["log"], b"").ok();
    std::fs::rename(daemon.file("elsewhere.sock"), &socket).expect("it is ours");
}

#[test]
fn an_operator_sees_conditions_and_sets_none() {
    let daemon = start("");
    enrol(&daemon, "svc/pin", "4711");
    cli(&daemon, ROOT, &["condition", "svc/pin", "--unit", "nut.service"], b"").ok();
    let told = cli(&daemon, OPERATOR, &["condition", "svc/pin"], b"").ok().text();
    assert_eq!(told.split_whitespace().collect::<Vec<_>>(), ["unit", "nut.service"]);
    for args in [&["--clear", "unit"][..], &["--expires", "2099-01-01T00:00:00Z"], &["--on-change", "reload:x.service"]]
    {
        cli(&daemon, OPERATOR, &[&["condition", "svc/pin"], args].concat(), b"").refused("it needs root, or proof");
    }
    daemon.await_audit("the refusal", |e| {
        (&e["op"], &e["decision"], &e["path"]) == (&"set_xattr".into(), &"denied".into(), &"svc/pin".into())
    });
    assert_eq!(cli(&daemon, OPERATOR, &["condition", "svc/pin"], b"").ok().text(), told);
}

#[test]
fn who_says_that_a_secret_has_expired() {
    let daemon = start("");
    enrol(&daemon, "svc/pin", "4711");
    let until = |time: &str| {
        cli(&daemon, ROOT, &["condition", "svc/pin", "--expires", time], b"").ok();
        cli(&daemon, OPERATOR, &["who", "svc/pin"], b"").ok().text()
    };
    let told = until("2099-01-01T00:00:00Z");
    assert!(told.contains("until 2099-01-01T00:00:00Z") && !told.contains("expired"), "{told}");
    let told = until("2020-01-01T00:00:00Z");
    assert!(told.lines().any(|l| l.contains("nobody now") && l.contains("it expired: 2020-01-01T00:00:00Z")), "{told}");
    assert!(OWNER.sh(&format!("cat {}", daemon.path("svc/pin"))).stderr.contains("Key has expired"));
}

/// A program that only creates a file leaves 0600. tar asks for the mode afterwards only where it gives the file an owner first, as root's does.
#[test]
fn a_user_s_tar_keeps_modes_when_it_keeps_owners_as_well() {
    let daemon = start("");
    daemon.cli_with(&["put", "-p", "own/x"], b"x").ok();
    crate::common::sh(&format!("chown {} {}", OWNER.uid, daemon.path("own"))).ok();
    let from = daemon.file("from");
    std::fs::create_dir(&from).expect("the folder is ours");
    std::fs::write(from.join("public"), "x").expect("the folder is ours");
    crate::common::sh(&format!(
        "cd {0} && chmod 644 public && tar --owner={1} --group={1} -cf ../own.tar public && chmod 755 . && chmod 644 ../own.tar",
        from.display(),
        OWNER.uid
    ))
    .ok();
    let (archive, to) = (daemon.file("own.tar"), daemon.path("own"));
    let mode = |how: &str| {
        OWNER.sh(&format!("umask 022; rm -f {to}/public; {how}; stat -c %a {to}/public")).ok().text().trim().to_owned()
    };
    let tar = |flags: &str| mode(&format!("tar -C {to} {flags}f {}", archive.display()));
    assert_eq!((tar("-x"), tar("-xp")), ("600".into(), "600".into()));
    assert_eq!(tar("-xp --same-owner -"), "644");
    let copy = |flags: &str| mode(&format!("cp {flags} {}/public {to}/", from.display()));
    assert_eq!((copy(""), copy("-p")), ("600".into(), "644".into()));
}
