//! Root, operators, and everybody else at the control socket; what a store and a socket lie in.
//!
//! The programs of these attacks speak to a real daemon as other uids. Nothing of the machine is touched.

use crate::common::process::{Out, ROOT, User, run, sh};
use crate::common::{Daemon, Setup, wait_for};
use pinfold::wire::{METHODS, Right};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A group that every system has; its members are the operators here.
const GROUP: u32 = 4;
pub(super) const OPERATOR: User = User { uid: 1_980_001, gid: 1_980_001, groups: &[GROUP] };
pub(super) const OWNER: User = User { uid: 1_980_002, gid: 1_980_002, groups: &[] };
pub(super) const STRANGER: User = User { uid: 1_980_003, gid: 1_980_003, groups: &[] };
const BINARY: &str = env!("CARGO_BIN_EXE_pinfold");
const STATUS: &str = r#"{"method":"org.pinfold.Status"}"#;

pub(super) fn start(config: &str) -> Daemon {
    let config = format!("operator_group = \"adm\"\nallow_reveal = true\n{config}");
    Daemon::with(Setup { config, binary: Some(BINARY.into()), ..Setup::default() })
}

fn unstarted() -> Daemon {
    Daemon::initialised(Setup { binary: Some(BINARY.into()), ..Setup::default() })
}

/// `pinfold` as somebody.
pub(super) fn cli(daemon: &Daemon, user: User, args: &[&str], input: &[u8]) -> Out {
    let mut command = user.command(BINARY);
    command.arg("--config").arg(daemon.file("pinfold.toml")).args(args);
    run(command, input, &format!("uid {}: pinfold {}", user.uid, args.join(" ")))
}

pub(super) fn program(name: &str) -> String {
    format!("{}/tests/attacks/programs/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// What the daemon answers somebody, a line each; nothing if it closed the connection without a word.
pub(super) fn speak(daemon: &Daemon, user: User, messages: &[&str]) -> Vec<String> {
    let mut command = user.command("/usr/bin/python3");
    command.arg(program("varlink.py")).arg(daemon.file("control.sock")).args(messages);
    run(command, b"", "varlink.py").ok().text().lines().map(str::to_owned).collect()
}

/// The passphrase, where an operator can read it.
fn proof(daemon: &Daemon) -> String {
    let copy = daemon.file("proof");
    std::fs::copy(daemon.file("passphrase"), &copy).expect("the folder is ours");
    chown(&copy, Some(OPERATOR.uid), None).expect("the file is ours");
    copy.to_str().expect("ASCII").to_owned()
}

pub(super) fn enrol(daemon: &Daemon, path: &str, content: &str) {
    let uid = OWNER.uid.to_string();
    cli(daemon, ROOT, &["put", "-p", path, "-o", &uid, "-m", "0400"], content.as_bytes()).ok();
}

#[test]
fn an_operator_makes_himself_no_reader() {
    let daemon = start("");
    enrol(&daemon, "svc/pin", "4711");
    enrol(&daemon, "svc/pin", "4712");
    let own = OPERATOR.uid.to_string();
    let age = "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa";
    // What is his.
    cli(&daemon, OPERATOR, &["status"], b"").ok();
    cli(&daemon, OPERATOR, &["ls", "-lR"], b"").ok();
    cli(&daemon, OPERATOR, &["history", "svc/pin"], b"").ok();
    cli(&daemon, OPERATOR, &["who", "svc/pin"], b"").ok();
    cli(&daemon, OPERATOR, &["recovery", "ls"], b"").ok();
    cli(&daemon, OPERATOR, &["put", "svc/pin"], b"4713").ok();
    cli(&daemon, OPERATOR, &["put", "svc/new", "-o", &own], b"his own").ok();
    // Where he names nobody it is root's: what comes there later is not his to read.
    cli(&daemon, OPERATOR, &["put", "svc/roots"], b"x").ok();
    let listing = daemon.json(&["ls", "-d", "svc/roots", "--json"]);
    assert_eq!((listing[0]["uid"].as_u64(), listing[0]["mode"].as_u64()), (Some(0), Some(0o600)), "{listing}");
    assert_eq!(OWNER.sh(&format!("cat {}", daemon.path("svc/pin"))).text(), "4713");
    // What is not.
    let recovery =
        [&["recovery", "add", age, "--passphrase-file", "-"][..], &["recovery", "rm", age, "--passphrase-file", "-"]];
    for args in recovery {
        cli(&daemon, OPERATOR, args, b"guessed\n").refused("passphrase");
        cli(&daemon, ROOT, args, b"guessed\n").refused("passphrase");
    }
    let wide: &[&[&str]] = &[
        &["put", "svc/pin", "-o", &own],
        &["put", "svc/pin", "-m", "0444"],
        &["put", "svc/new", "-m", "0444"],
        &["put", "-p", "ssh/authorized_keys/root", "-o", "0", "-m", "0644"],
        &["rollback", "svc/pin", "1"],
        &["cat", "--reveal", "svc/pin"],
        &["rm", "--purge", "svc/pin"],
        &["backup", "-"],
        &["publish", "svc/pin", "--to", &own],
        &["view", "add", "svc/v", "concat", "svc/pin", "--owner", &own],
        &["scope", "add", "web"],
        &["identity", "rm", "main"],
    ];
    for args in wide {
        let out = cli(&daemon, OPERATOR, args, b"x");
        // A few of these are refused before the daemon is asked, by their grammar: those are no test of anything.
        assert_eq!(out.code, 3, "{}: {}", out.what, out.stderr);
        assert!(out.stderr.contains("it needs root, or proof"), "{}: {}", out.what, out.stderr);
    }
    // The log says what was asked for.
    daemon.await_audit("the refused backup", |e| {
        e["uid"] == OPERATOR.uid && e["reason"].as_str().is_some_and(|r| r.starts_with("Backup: this widens"))
    });
    // Before a parameter is read.
    for (right, users) in [(Right::Root, &[OPERATOR][..]), (Right::Proof, &[OPERATOR, ROOT])] {
        let calls: Vec<String> =
            METHODS.iter().filter(|(_, r)| *r == right).map(|(m, _)| format!(r#"{{"method":"{m}"}}"#)).collect();
        let calls: Vec<&str> = calls.iter().map(String::as_str).collect();
        for user in users {
            let answers = speak(&daemon, *user, &calls);
            assert_eq!(answers.len(), calls.len(), "{answers:?}");
            for (call, answer) in calls.iter().zip(&answers) {
                assert!(answer.contains("org.pinfold.Unproven"), "{call} of {}: {answer}", user.uid);
            }
        }
    }
    assert_eq!(cli(&daemon, ROOT, &["ls", "ssh"], b"").code, 6, "nothing was made on the way");
    daemon
        .await_audit("the refusal", |e| e["op"] == "control" && e["decision"] == "denied" && e["uid"] == OPERATOR.uid);
    // Nothing of it happened.
    let recipients = daemon.json(&["recovery", "ls", "--json"]);
    assert_eq!(recipients.as_array().map(Vec::len), Some(1), "{recipients}");
    let out = OPERATOR.sh(&format!("cat {}", daemon.path("svc/pin")));
    assert_ne!(out.code, 0, "{}", out.text());
    // With what opens the store, it is.
    let prove = format!("--prove={}", proof(&daemon));
    cli(&daemon, OPERATOR, &[&prove, "put", "svc/pin", "-o", &own], b"4714").ok();
    assert_eq!(OPERATOR.sh(&format!("cat {}", daemon.path("svc/pin"))).text(), "4714");
    cli(&daemon, OPERATOR, &[&prove, "rollback", "svc/pin", "1"], b"").ok();
    daemon.await_audit("the proof", |e| e["op"] == "control" && e["decision"] == "allowed" && e["uid"] == OPERATOR.uid);
    cli(&daemon, OPERATOR, &["--prove-keyfile", "-", "rollback", "svc/pin", "2"], b"AGE-SECRET-KEY-1\n").refused("");
}

#[test]
fn a_name_keeps_its_owner_under_an_operator() {
    let daemon = start("");
    enrol(&daemon, "svc/pin", "root's first");
    let own = OPERATOR.uid.to_string();
    cli(&daemon, OPERATOR, &["rm", "svc/pin"], b"").ok();
    cli(&daemon, OPERATOR, &["put", "svc/pin", "-o", &own], b"x").refused("needs root, or proof");
    cli(&daemon, OPERATOR, &["put", "svc/pin"], b"the operator's").ok();
    // What root puts there next is for whom it was for.
    cli(&daemon, ROOT, &["put", "svc/pin"], b"root's second").ok();
    assert_eq!(OWNER.sh(&format!("cat {}", daemon.path("svc/pin"))).text(), "root's second");
    assert_ne!(OPERATOR.sh(&format!("cat {}", daemon.path("svc/pin"))).code, 0);
    // He may bring back what he wrote himself, and nothing else.
    cli(&daemon, OPERATOR, &["rollback", "svc/pin", "1"], b"").refused("needs root, or proof");
    cli(&daemon, OPERATOR, &["rollback", "svc/pin", "2"], b"").ok();
    assert_eq!(OWNER.sh(&format!("cat {}", daemon.path("svc/pin"))).text(), "the operator's");
    // A folder that goes comes back as root's, closed.
    cli(&daemon, OPERATOR, &["rm", "-r", "svc"], b"").ok();
    cli(&daemon, OPERATOR, &["put", "-p", "svc/pin"], b"again").ok();
    let listing = daemon.json(&["ls", "-d", "svc", "--json"]);
    let folder = &listing[0];
    assert_eq!((folder["uid"].as_u64(), folder["mode"].as_u64()), (Some(0), Some(0o700)), "{listing}");
    let listing = daemon.json(&["ls", "-d", "svc/pin", "--json"]);
    let file = &listing[0];
    assert_eq!((file["uid"].as_u64(), file["mode"].as_u64()), (Some(OWNER.uid.into()), Some(0o400)), "{listing}");
}

#[test]
fn the_mask_of_a_list_that_went_is_no_right_of_the_group() {
    let daemon = start("");
    enrol(&daemon, "svc/pin", "root's first");
    let (path, group) = (daemon.path("svc/pin"), 1_990_077);
    let member = User { uid: 1_990_078, gid: group, groups: &[] };
    sh(&format!("chgrp {group} {path}; chmod 600 {path}; setfacl -m u:{}:r {path}", OPERATOR.uid)).ok();
    assert_ne!(member.sh(&format!("cat {path}")).code, 0);
    cli(&daemon, OPERATOR, &["rm", "svc/pin"], b"").ok();
    cli(&daemon, OPERATOR, &["put", "svc/pin"], b"another").ok();
    assert_ne!(member.sh(&format!("cat {path}")).code, 0);
    let listing = daemon.json(&["ls", "-d", "svc/pin", "--json"]);
    assert_eq!(listing[0]["mode"].as_u64(), Some(0o600), "{listing}");
}

#[test]
fn proof_is_good_for_one_call() {
    let daemon = start("");
    enrol(&daemon, "svc/pin", "4711");
    // "correct horse battery staple"
    let prove =
        r#"{"method":"org.pinfold.Prove","parameters":{"passphrase":"Y29ycmVjdCBob3JzZSBiYXR0ZXJ5IHN0YXBsZQ=="}}"#;
    let extract = r#"{"method":"org.pinfold.Extract","parameters":{"path":"svc/pin"}}"#;
    let answers = speak(&daemon, ROOT, &[prove, extract, extract]);
    assert_eq!(answers.len(), 3, "{answers:?}");
    assert!(answers[1].contains("blob") && answers[2].contains("Unproven"), "{answers:?}");
    // Another connection has none.
    assert!(speak(&daemon, ROOT, &[extract])[0].contains("Unproven"));
    let wrong = prove.replace("Y29ycmVjdCBob3JzZSBiYXR0ZXJ5IHN0YXBsZQ==", "eA==");
    let answers = speak(&daemon, OPERATOR, &[&wrong, extract]);
    assert!(answers[0].contains("Refused") && answers[1].contains("Unproven"), "{answers:?}");
    daemon.await_audit("the wrong proof", |e| {
        e["uid"] == OPERATOR.uid && e["reason"].as_str().is_some_and(|r| r.starts_with("no proof: "))
    });
}

#[test]
fn who_may_not_speak_hears_nothing() {
    let daemon = start("");
    let socket = daemon.file("control.sock");
    std::fs::set_permissions(&socket, PermissionsExt::from_mode(0o666)).expect("it is ours");
    let info = r#"{"method":"org.varlink.service.GetInfo"}"#;
    for messages in [&[STATUS][..], &[info], &["junk"], &[]] {
        assert_eq!(speak(&daemon, STRANGER, messages), [""; 0], "{messages:?}");
    }
    daemon.await_audit("the stranger", |e| e["op"] == "control" && e["uid"] == STRANGER.uid);
    cli(&daemon, STRANGER, &["status"], b"").refused("you may not use");
    // Root, but not here.
    for apart in ["--pid --fork --kill-child", "--user --map-root-user"] {
        let script = format!("unshare {apart} python3 {} {} '{STATUS}'", program("varlink.py"), socket.display());
        let out = ROOT.sh(&script.replace("python3", "/usr/bin/python3")).ok();
        assert_eq!(out.text(), "", "{apart}");
    }
    assert!(speak(&daemon, ROOT, &[STATUS])[0].contains("mountpoint"));
    assert!(speak(&daemon, OPERATOR, &[STATUS])[0].contains("mountpoint"));
}

#[test]
fn descriptors_that_are_sent_along_go_nowhere() {
    let daemon = start("");
    // What is sent is the program's own file, which the daemon has no reason to open.
    let sent = |fd: std::io::Result<std::fs::DirEntry>| {
        fd.is_ok_and(|fd| std::fs::read_link(fd.path()).is_ok_and(|file| file.ends_with("varlink.py")))
    };
    let has_any = || std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).expect("it runs").any(sent);
    for user in [OPERATOR, ROOT] {
        let mut command = user.command("/usr/bin/python3");
        command.arg(program("varlink.py")).arg(daemon.file("control.sock")).args(["--fds", "200"]).args([STATUS; 20]);
        let out = run(command, b"", "varlink.py --fds").ok();
        assert_eq!(out.text().matches("mountpoint").count(), 20, "{}", out.text());
    }
    assert!(!has_any(), "the daemon received what was sent along");
}

#[test]
fn a_descriptor_given_to_another_uid_opens_nothing_more() {
    let daemon = start("");
    enrol(&daemon, "svc/pin", "4711");
    let script = format!(
        "/usr/bin/python3 {} {} {} {}",
        program("hand_over_fd.py"),
        daemon.path("svc/pin"),
        OWNER.uid,
        STRANGER.uid
    );
    let told = ROOT.sh(&script).ok().text();
    let lines: Vec<&str> = told.lines().collect();
    // What its owner opened he has given away, as he could have given the content.
    assert_eq!(lines[0], "read 4711", "{told}");
    assert!(lines[1].starts_with("reopened refused") && lines[2].starts_with("opened refused"), "{told}");
    daemon.await_open("svc/pin", OWNER.uid);
    daemon.await_denial("svc/pin", STRANGER.uid);
}

#[test]
fn a_connection_given_away_speaks_for_who_made_it_and_only_while_it_runs() {
    let daemon = start("");
    let lock = r#"{"method":"org.pinfold.Backup","more":true}"#;
    let script = format!(
        "/usr/bin/python3 {} {} {} {GROUP} {} '{STATUS}' '{lock}'",
        program("hand_over_connection.py"),
        daemon.file("control.sock").display(),
        OPERATOR.uid,
        STRANGER.uid
    );
    let told = ROOT.sh(&script).ok().text();
    let lines: Vec<&str> = told.lines().collect();
    // An operator could as well have asked in the stranger's place; the stranger gets no more than he may, in his name.
    assert!(lines[0].contains("mountpoint") && lines[1].contains("org.pinfold.Unproven"), "{told}");
    assert!(lines[2].contains("org.pinfold.Refused") && lines[2].contains("has ended"), "{told}");
    daemon.await_audit("the refused backup", |e| {
        e["uid"] == OPERATOR.uid && e["reason"].as_str().is_some_and(|r| r.starts_with("Backup: "))
    });
    daemon.await_audit("what came after his end", |e| {
        e["uid"] == OPERATOR.uid && e["reason"].as_str().is_some_and(|r| r.ends_with("has ended"))
    });
}

#[test]
fn ten_thousand_idle_connections_keep_nobody_out() {
    let daemon = start("");
    let mut child = Command::new("/usr/bin/python3")
        .arg(program("idle.py"))
        .arg(daemon.file("control.sock"))
        .args(["10000", &OPERATOR.uid.to_string(), &GROUP.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("it was asked for")).read_line(&mut line).expect("its line");
    let numbers: Vec<usize> = line.split_whitespace().map(|n| n.parse().expect("a number")).collect();
    let begun = Instant::now();
    let status = daemon.json(&["status", "--json"]);
    let answered = begun.elapsed();
    let held = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).expect("it runs").count();
    child.stdin.take().expect("it was asked for").write_all(b"\n").expect("it waits");
    child.wait().expect("it is our child");
    assert_eq!(numbers[0] + numbers[2], 10_000, "{line}");
    assert!(numbers[1] <= 8, "{line}: connected, open, failed");
    assert!(held < 100, "{held} descriptors");
    assert!(answered < Duration::from_secs(10), "{answered:?}");
    assert_eq!(status["locked"], false);
}

/// Starts it with a changed configuration, and gives back what it says when it ends.
fn fails_to_start(daemon: &Daemon) -> Out {
    let mut command = Command::new(BINARY);
    command.arg("--config").arg(daemon.file("pinfold.toml")).arg("mount");
    let out = run(command, b"", "pinfold mount");
    assert_ne!(out.code, 0, "it started");
    out
}

fn reconfigure(daemon: &Daemon, from: &Path, to: &Path) {
    let file = daemon.file("pinfold.toml");
    let text = std::fs::read_to_string(&file).expect("the configuration");
    std::fs::write(&file, text.replace(&format!("{from:?}"), &format!("{to:?}"))).expect("the configuration");
}

#[test]
fn a_socket_in_anothers_folder_is_refused() {
    let daemon = unstarted();
    let folder = daemon.file("theirs");
    std::fs::create_dir_all(folder.join("run")).expect("the folder is ours");
    reconfigure(&daemon, &daemon.file("control.sock"), &folder.join("run/control.sock"));
    for (path, uid, mode) in [
        (folder.join("run"), Some(STRANGER.uid), 0o755),
        (folder.join("run"), None, 0o777),
        (folder.clone(), Some(STRANGER.uid), 0o755),
        (folder.clone(), None, 0o770),
    ] {
        chown(&path, uid, None).expect("it is ours");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("it is ours");
        fails_to_start(&daemon).refused("others could listen in the daemon's place");
        chown(&path, Some(0), None).expect("it is ours");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("it is ours");
    }
}

#[test]
fn a_false_daemon_is_sent_nothing() {
    let daemon = unstarted();
    let folder = daemon.file("theirs");
    std::fs::create_dir(&folder).expect("the folder is ours");
    chown(&folder, Some(STRANGER.uid), None).expect("it is ours");
    let socket = folder.join("control.sock");
    reconfigure(&daemon, &daemon.file("control.sock"), &socket);
    let mut child = Command::new("/usr/bin/python3")
        .arg(program("false_daemon.py"))
        .arg(&socket)
        .arg(STRANGER.uid.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python");
    let mut lines = BufReader::new(child.stdout.take().expect("it was asked for")).lines();
    assert_eq!(lines.next().expect("a line").expect("text"), "listening");
    let passphrase = daemon.file("passphrase");
    let out = cli(&daemon, ROOT, &["unlock", "--passphrase-file", passphrase.to_str().expect("ASCII")], b"");
    assert_eq!(out.code, 3, "{}", out.stderr);
    out.refused("listens there, not root; nothing was sent");
    assert_eq!(lines.next().expect("a line").expect("text"), "0", "bytes were sent to it");
    child.wait().expect("it is our child");
}

#[test]
fn a_tree_that_is_served_is_not_released() {
    let mut daemon = start("");
    enrol(&daemon, "svc/pin", "4711");
    let out = daemon.cli(&["release"]);
    assert_eq!(out.code, 3, "{}", out.stderr);
    out.refused("serves it and answers");
    assert_eq!(OWNER.sh(&format!("cat {}", daemon.path("svc/pin"))).text(), "4711");
    // Nor is one told that it is stopped: it does nothing at all.
    let pid = daemon.pid();
    daemon.cli(&["release", "--force"]).ok();
    let mut child = daemon.take_child();
    let ended = wait_for("its end", Duration::from_secs(20), || child.try_wait().expect("it is our child"));
    assert!(!ended.success(), "the daemon (pid {pid}) says that its tree was taken away");
    assert_eq!(daemon.cli(&["release"]).code, 8, "nothing is left to release");
}

#[test]
fn a_store_that_others_can_change_is_refused() {
    let daemon = unstarted();
    let store = daemon.file("store");
    let mode = |mode| std::fs::set_permissions(&store, PermissionsExt::from_mode(mode)).expect("it is ours");
    for bad in [0o777, 0o770, 0o702, 0o1777] {
        mode(bad);
        fails_to_start(&daemon).refused("is not root's alone");
    }
    mode(0o700);
    chown(&store, Some(STRANGER.uid), None).expect("it is ours");
    fails_to_start(&daemon).refused("it belongs to uid");
    chown(&store, Some(0), None).expect("it is ours");
    let above = daemon.file("");
    chown(&above, Some(STRANGER.uid), None).expect("it is ours");
    let out = fails_to_start(&daemon);
    chown(&above, Some(0), None).expect("it is ours");
    out.refused("is not root's alone");
}

#[test]
fn the_last_error_is_each_uids_own() {
    let daemon = start("");
    daemon.cli_with(&["put", "-p", "own/x"], b"x").ok();
    crate::common::sh(&format!("chown {} {}", OWNER.uid, daemon.path("own"))).ok();
    let last = |user: User| user.sh(&format!("cat {}", daemon.path(".pinfold/last-error"))).quiet();
    // A shell does not hear what close(2) says.
    OWNER.sh(&format!("echo no pem > {}", daemon.path("own/a.pem")));
    wait_for("his own", Duration::from_secs(10), || last(OWNER).contains("own/a.pem").then_some(()));
    for user in [STRANGER, OPERATOR, ROOT] {
        assert!(!last(user).contains("a.pem"), "uid {}: {}", user.uid, last(user));
    }
}
