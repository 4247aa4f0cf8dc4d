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
