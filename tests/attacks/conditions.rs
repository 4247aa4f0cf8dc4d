//! Conditions: forged, gone around, taken away; and the right to write, taken away while a file is open.

use crate::common;

use common::process::run;
use common::{ALICE, BOB, Daemon, Held, Out, ROOT, Setup, User, attempt, sh, wait_for};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The label of the tests: a profile where the kernel has AppArmor, the stand-in's word where it has not.
const PROFILE: &str = "pinfold-attacks-label";

fn daemon() -> Daemon {
    Daemon::with(Setup { binary: Some(env!("CARGO_BIN_EXE_pinfold").into()), ..Setup::default() })
}

/// A program of these tests where every uid can run or read it, built if it is C.
#[track_caller]
fn program(daemon: &Daemon, name: &str) -> String {
    let source = format!("{}/tests/attacks/programs/{name}", env!("CARGO_MANIFEST_DIR"));
    let at = daemon.file(name.trim_end_matches(".c")).display().to_string();
    if !Path::new(&at).exists() {
        match name.ends_with(".c") {
            true => sh(&format!("cc -O1 -Wall -Werror -o {at} {source} && chmod 755 {at}")).quiet(),
            false => sh(&format!("install -m 644 {source} {at}")).quiet(),
        };
    }
    at
}

/// A secret of this content, owner, group and mode; where it is.
#[track_caller]
fn secret(daemon: &Daemon, path: &str, content: &str, owner: &str, mode: &str) -> String {
    let (user, group) = owner.split_once(':').expect("user:group");
    let at = daemon.path(path);
    sh(&format!("printf %s '{content}' | install -m {mode} -o {user} -g {group} /dev/stdin {at}")).quiet();
    at
}

/// setfattr(1), which not every machine has.
#[track_caller]
fn xattr(daemon: &Daemon, user: User, words: &str) -> Out {
    user.sh(&format!("exec /usr/bin/python3 {} {words}", program(daemon, "xattr.py")))
}

#[track_caller]
fn last_error(daemon: &Daemon, user: User) -> String {
    user.sh(&format!("cat {}", daemon.path(".pinfold/last-error"))).quiet()
}

/// Whether any uid may make a user namespace here, tried.
fn namespaces_are_for_all() -> bool {
    BOB.sh("unshare --user true").code == 0
}

fn doctor(daemon: &Daemon, what: &str) -> Value {
    let out = daemon.cli(&["doctor", "--json"]);
    let all: Vec<Value> = serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {}", out.text()));
    all.into_iter().find(|check| check["what"] == what).unwrap_or_else(|| panic!("no check of {what}"))
}

#[test]
fn an_exe_is_forged_where_all_may_make_user_namespaces_and_widens_nothing() {
    let daemon = daemon();
    let (forge, head) = (program(&daemon, "forge_exe.c"), std::fs::canonicalize("/usr/bin/head").unwrap());
    let head = head.display();
    let mine = secret(&daemon, "mine", "for head alone", "2001:2001", "600");
    let theirs = secret(&daemon, "theirs", "for head of root", "0:0", "644");
    let bound = secret(&daemon, "bound", "for a unit too", "2001:2001", "600");
    let condition = |path: &str, more: &[&str]| {
        let exe = head.to_string();
        daemon.cli(&[&["condition", path, "--exe", exe.as_str()], more].concat()).ok();
    };
    condition("mine", &[]);
    condition("theirs", &[]);
    condition("bound", &["--unit", "other.service"]);
    sh(&format!("chmod 600 {theirs}")).quiet();
    attempt(ALICE, &format!("cat {mine}")).refused("Permission denied").denied(
        &daemon,
        "open",
        "mine",
        "another program",
    );
    assert_eq!(ALICE.sh(&format!("head {mine}")).quiet(), "for head alone");
    // The claim of the documents, and of doctor.
    let forged = ALICE.sh(&format!("{forge} {head} {mine}"));
    let told = doctor(&daemon, "user.pinfold.exe");
    if namespaces_are_for_all() {
        assert_eq!(forged.ok().text(), "for head alone");
        let event = daemon.await_open("mine", 2001);
        assert_eq!(event["exe"], head.to_string(), "the log has what the process says of itself: {event}");
        assert_eq!(told["outcome"], "warn", "{told}");
        assert!(told["todo"].as_str().is_some_and(|todo| todo.contains("user.pinfold.label")), "{told}");
    } else {
        assert!(forged.code != 0 && forged.text().is_empty(), "{forged:?}");
        assert_eq!(told["outcome"], "ok", "{told}");
    }
    let shown = daemon.cli(&["who", "mine"]).ok().text();
    assert!(shown.contains("own claim"), "{shown}");
    // It narrows, whatever is forged: mode, and every other condition, hold.
    for (user, at) in [(BOB, &mine), (BOB, &theirs), (ALICE, &theirs), (ALICE, &bound), (ROOT, &mine)] {
        let out = user.sh(&format!("{forge} {head} {at}"));
        assert!(out.code != 0 && out.text().is_empty(), "{out:?}");
    }
    daemon.await_denial("bound", 2001);
}

#[test]
fn an_exe_is_no_copy_in_memory_and_no_name() {
    let daemon = daemon();
    let at = secret(&daemon, "pin", "1234", "2001:2001", "600");
    let head = std::fs::canonicalize("/usr/bin/head").unwrap().display().to_string();
    daemon.cli(&["condition", "pin", "--exe", &head]).ok();
    assert_eq!(ALICE.sh(&format!("head {at}")).quiet(), "1234");
    let copy = program(&daemon, "memfd_exec.py");
    assert_eq!(ALICE.sh(&format!("/usr/bin/python3 {copy} {head} /etc/hostname >/dev/null; echo $?")).quiet(), "0\n");
    ALICE.sh(&format!("/usr/bin/python3 {copy} {head} {at}")).refused("Permission denied");
    // cat by the name of head, in a mount namespace of root's, and in one that alice made.
    let named = format!("mount --bind /usr/bin/cat {head} && exec");
    let by_root = format!("{named} setpriv --reuid=2001 --regid=2001 --clear-groups {head} {at}");
    sh(&format!("unshare --mount sh -c '{by_root}'")).refused("Permission denied");
    if namespaces_are_for_all() {
        ALICE
            .sh(&format!("unshare --user --map-root-user --mount sh -c '{named} {head} {at}'"))
            .refused("Permission denied");
    }
    let denied = |event: &Value| event["decision"] == "denied" && event["uid"] == 2001;
    daemon.await_audit("a refusal by the program", |event| {
        denied(event) && event["reason"].as_str().is_some_and(|reason| reason.contains("another program"))
    });
}

#[test]
fn a_condition_is_removed_or_replaced_by_its_own_command_alone() {
    let daemon = daemon();
    let at = secret(&daemon, "pin", "1234", "2001:2001", "600");
    let name = "user.pinfold.unit";
    xattr(&daemon, ALICE, &format!("set {name} mine.service {at}")).refused("Operation not permitted");
    // Adding one narrows, and an admin may do it by setfattr(1); the same again is no change.
    for _ in 0..2 {
        xattr(&daemon, ROOT, &format!("set {name} right.service {at}")).quiet();
    }
    // The owner, and root, as `rsync -X` would.
    xattr(&daemon, ALICE, &format!("remove {name} {at}")).refused("Operation not permitted");
    assert!(last_error(&daemon, ALICE).contains("only an admin"), "{}", last_error(&daemon, ALICE));
    xattr(&daemon, ROOT, &format!("remove {name} {at}")).refused("Operation not permitted");
    let hint = "pinfold condition PATH --clear NAME";
    assert!(last_error(&daemon, ROOT).contains(hint), "{}", last_error(&daemon, ROOT));
    let event = daemon.await_denial("pin", 0);
    assert!(event["op"] == "set_xattr" && event["reason"].as_str().is_some_and(|r| r.contains(hint)), "{event}");
    xattr(&daemon, ROOT, &format!("set {name} other.service {at}")).refused("Operation not permitted");
    ALICE.sh(&format!("cat {at}")).refused("Permission denied");
    // An end may come earlier, not later.
    let end = |year: u32| xattr(&daemon, ROOT, &format!("set user.pinfold.expires {year}-01-01T00:00:00Z {at}"));
    end(2900).quiet();
    end(2899).quiet();
    end(2901).refused("Operation not permitted");
    // What replaces it takes all of it over, an admin's file with other attributes too.
    let other = secret(&daemon, "other", "5678", "2001:2001", "600");
    xattr(&daemon, ROOT, &format!("set user.pinfold.on-change reload:x.service {other}")).quiet();
    sh(&format!("mv {other} {at}")).quiet();
    assert_eq!(xattr(&daemon, ROOT, &format!("get {name} {at}")).quiet(), "right.service\n");
    ALICE.sh(&format!("cat {at}")).refused("Permission denied");
    // The command: who is no admin cannot even ask it.
    let config = daemon.file("pinfold.toml").display().to_string();
    let asked = format!("{} --config {config} condition pin --clear unit", env!("CARGO_BIN_EXE_pinfold"));
    assert_ne!(ALICE.sh(&asked).code, 0);
    let held = daemon.json(&["condition", "pin", "--json"]);
    let names: Vec<&str> = held["conditions"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["expires", "on-change", "unit"]);
    daemon
        .cli(&["condition", "pin", "--clear", "unit", "--clear", "on-change", "--expires", "2901-01-01T00:00:00Z"])
        .ok();
    let event = daemon.await_audit("what was removed", |e| e["decision"] == "allowed" && e["op"] == "set_xattr");
    assert_eq!(event["uid"], 0, "{event}");
    assert_eq!(ALICE.sh(&format!("cat {at}")).quiet(), "5678");
    assert_eq!(daemon.cli(&["condition", "pin", "--clear", "unit"]).code, 8, "nothing to do");
}

/// Holds a file open for writing, in the ways of `held_writer.py`.
#[track_caller]
fn writer(daemon: &Daemon, user: User, at: &str, how: &str) -> Held {
    let script = format!("exec /usr/bin/python3 {} {at} new {how}", program(daemon, "held_writer.py"));
    let mut held = Held::start(user, &script);
    if how.contains("late") {
        assert_eq!(held.line(), "write ok");
    }
    assert_eq!(held.line(), "open");
    held
}

#[test]
fn a_writer_whose_right_was_taken_away_commits_nothing() {
    let daemon = daemon();
    let current = |at: &str| {
        sh(&format!("setfacl -m u:0:r {at} 2>/dev/null || chown 0:0 {at}; chmod u+r {at}; cat {at}")).ok().text()
    };
    // By a mode, by another owner, by another group; written before it went, and after.
    for (n, (owner, mode, taken)) in [
        ("0:3001", "660", "chmod 600"),
        ("2001:2001", "600", "chmod 400"),
        ("2001:2001", "600", "chown 2002:2002"),
        ("0:3001", "660", "chgrp 2002"),
        ("0:0", "666", "chmod 644"),
    ]
    .into_iter()
    .enumerate()
    {
        for how in ["", "late"] {
            let path = format!("pin{n}{how}");
            let at = secret(&daemon, &path, "old", owner, mode);
            let mut held = writer(&daemon, ALICE, &at, how);
            sh(&format!("{taken} {at}")).quiet();
            held.go_on();
            let (code, said) = held.end();
            let told =
                if how == "late" { "fsync EACCES\nclose EACCES" } else { "write EACCES\nfsync EACCES\nclose EACCES" };
            assert_eq!((code, said.as_str()), (0, told), "{taken} {how}");
            let event = daemon.await_denial(&path, 2001);
            assert_eq!(event["op"], "commit", "{event}");
            assert!(event["reason"].as_str().is_some_and(|reason| reason.starts_with("not allowed")), "{event}");
            assert_eq!(daemon.versions(&path), [1], "{taken} {how}");
            assert_eq!(current(&at), "old", "{taken} {how}");
            assert!(
                last_error(&daemon, ALICE).contains(&format!("{path}: not allowed")),
                "{}",
                last_error(&daemon, ALICE)
            );
        }
    }
}

#[test]
fn the_log_has_the_rule_that_is_true_at_the_commit() {
    let daemon = daemon();
    let at = secret(&daemon, "pin", "old", "0:3001", "660");
    let mut held = writer(&daemon, ALICE, &at, "");
    sh(&format!("chown 2001:2001 {at}; chmod 600 {at}")).quiet();
    held.go_on();
    assert_eq!(held.end(), (0, "write ok\nfsync ok\nclose ok".to_owned()));
    let committed = |event: &Value| event["op"] == "commit" && event["path"] == "pin" && event["uid"] == 2001;
    let event = daemon.await_audit("the commit", committed);
    assert_eq!((&event["decision"], &event["reason"]), (&"allowed".into(), &"owner".into()), "{event}");
    // What who writes does himself takes nothing from him: `install -m 400`, `cp -p` onto what is there.
    let folder = daemon.path("hers");
    sh(&format!("install -d -o 2001 -g 2001 {folder}")).quiet();
    let at = format!("{folder}/pin");
    let made = writer(&daemon, ALICE, &at, "made late");
    ALICE.sh(&format!("chmod 400 {at}")).quiet();
    assert_eq!(made.end().1, "fsync ok\nclose ok");
    ALICE.sh(&format!("chmod 600 {at}")).quiet();
    let source = daemon.file("source").display().to_string();
    sh(&format!("printf newest > {source}; chmod 444 {source}")).quiet();
    assert_eq!(ALICE.sh(&format!("cp -p {source} {at} && cat {at}")).quiet(), "newest");
    // Unless it is no more his: by then it is the mode that says it.
    ALICE.sh(&format!("chmod 600 {at}")).quiet();
    let mut gone = writer(&daemon, ALICE, &format!("{folder}/other"), "made");
    sh(&format!("chown 0:0 {folder}/other")).quiet();
    gone.go_on();
    assert!(gone.end().1.starts_with("write EACCES"));
}

#[test]
fn what_a_writer_without_right_wrote_comes_in_by_nobody_else() {
    let daemon = daemon();
    let at = secret(&daemon, "pin", "old", "2002:3001", "660");
    let revoked = writer(&daemon, ALICE, &at, "late");
    let rightful = writer(&daemon, BOB, &at, "");
    sh(&format!("chmod 600 {at}")).quiet();
    assert_eq!(revoked.end().1, "fsync EACCES\nclose EACCES");
    drop(rightful);
    wait_for("the last close", Duration::from_secs(10), || {
        (daemon.json(&["status", "--json"])["open_handles"] == 0).then_some(())
    });
    assert_eq!(daemon.versions("pin"), [1]);
    assert_eq!(BOB.sh(&format!("cat {at}")).quiet(), "old");
}

/// A daemon on a kernel that gives labels: this one, or with a file in the place of the kernel's, said so.
struct Labelled {
    daemon: Daemon,
    /// Where the stand-ins lie; `None` if the kernel has AppArmor.
    stand_ins: Option<tempfile::TempDir>,
}

fn kernel_has_apparmor() -> bool {
    std::fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with('Y'))
        && ["/sbin/apparmor_parser", "/usr/sbin/apparmor_parser"].iter().any(|at| Path::new(at).exists())
}

impl Labelled {
    #[track_caller]
    fn start() -> Self {
        let binary = PathBuf::from(env!("CARGO_BIN_EXE_pinfold"));
        if kernel_has_apparmor() {
            let rules = format!(
                "profile {PROFILE} flags=(attach_disconnected) {{ / r, /** rwlkmix, capability, signal, unix, ptrace, }}\n"
            );
            load(&rules, "--replace");
            return Labelled { daemon: daemon(), stand_ins: None };
        }
        eprintln!("this kernel has no AppArmor: a file stands in for /proc/PID/attr/current");
        let folder = tempfile::tempdir().expect("a temporary folder");
        // It goes with the process: the kernel lets nothing stay mounted on what is gone.
        let wrapper = folder.path().join("pinfold");
        let own = stand_in(folder.path(), "unconfined\n");
        let script =
            format!("#!/bin/sh\nmount --bind {own} /proc/$$/attr/current && exec {} \"$@\"\n", binary.display());
        crate::common::program(&wrapper, &script);
        let daemon = Daemon::with(Setup { binary: Some(wrapper), ..Setup::default() });
        Labelled { daemon, stand_ins: Some(folder) }
    }

    /// alice opens a file under this profile, in this mode; what she gets to see.
    #[track_caller]
    fn reads(&self, at: &str, profile: &str, mode: &str) -> String {
        let mut held = match &self.stand_ins {
            Some(_) => Held::start(ALICE, &format!("echo ready; read; exec 3<{at} && cat <&3; true")),
            // aa_change_profile(2): any uid that has no profile may take one.
            None => Held::start(
                ALICE,
                &format!(
                    "[ {profile} = unconfined ] || printf 'changeprofile {profile}' >/proc/self/attr/current; \
                     echo ready; read; exec 3<{at} && cat <&3; true"
                ),
            ),
        };
        assert_eq!(held.line(), "ready");
        if let Some(folder) = &self.stand_ins {
            let text = if mode.is_empty() { format!("{profile}\n") } else { format!("{profile} ({mode})\n") };
            let file = stand_in(folder.path(), &text);
            sh(&format!("mount --bind {file} /proc/{}/attr/current", held.pid())).quiet();
        }
        held.go_on();
        held.end().1
    }
}

impl Drop for Labelled {
    fn drop(&mut self) {
        if self.stand_ins.is_none() {
            load(&format!("profile {PROFILE} {{ }}\n"), "--remove");
        }
    }
}

#[track_caller]
fn load(rules: &str, how: &str) {
    let mut parser = Command::new("apparmor_parser");
    parser.arg(how);
    run(parser, rules.as_bytes(), &format!("apparmor_parser {how}")).ok();
}

/// A file that says this.
fn stand_in(folder: &Path, text: &str) -> String {
    let (mut file, path) = tempfile::NamedTempFile::new_in(folder).expect("a file").keep().expect("its name");
    std::io::Write::write_all(&mut file, text.as_bytes()).expect("it is ours");
    path.display().to_string()
}

#[test]
fn a_label_is_asked_of_the_kernel_and_on_record() {
    let site = Labelled::start();
    let daemon = &site.daemon;
    let at = secret(daemon, "pin", "1234", "2001:2001", "600");
    daemon.cli(&["condition", "pin", "--label", PROFILE]).ok();
    assert_eq!(site.reads(&at, PROFILE, "enforce"), "1234");
    let event = daemon.await_open("pin", 2001);
    assert_eq!(event["label"], format!("{PROFILE} (enforce)"), "{event}");
    assert!(site.reads(&at, "unconfined", "").contains("Permission denied"));
    let event = daemon.await_denial("pin", 2001);
    let reason = format!("for label {PROFILE}, caller has unconfined");
    assert_eq!((&event["reason"], &event["label"]), (&reason.into(), &"unconfined".into()), "{event}");
    // A part of it, by a star; and nothing that means everything.
    daemon.cli(&["condition", "pin", "--label", "pinfold-*-label"]).ok();
    assert_eq!(site.reads(&at, PROFILE, "enforce"), "1234");
    assert_eq!(daemon.cli(&["condition", "pin", "--label", "*"]).code, 3);
    assert!(daemon.cli(&["who", "pin"]).ok().text().contains("only the label pinfold-*-label"));
    if site.stand_ins.is_some() {
        // A profile that holds nobody says nothing of who has it.
        assert!(site.reads(&at, PROFILE, "complain").contains("Permission denied"));
        assert!(site.reads(&at, &format!(":ns://{PROFILE}"), "enforce").contains("Permission denied"));
        daemon.cli(&["condition", "pin", "--label", "right_t"]).ok();
        assert_eq!(site.reads(&at, "system_u:system_r:right_t:s0", ""), "1234");
        assert!(site.reads(&at, "system_u:system_r:wrong_t:s0", "").contains("Permission denied"));
    }
}

#[test]
fn where_no_label_can_be_read_a_condition_on_it_refuses() {
    if std::fs::read("/proc/self/attr/current").is_ok_and(|text| !text.is_empty()) {
        eprintln!("this kernel gives labels: nothing to see");
        return;
    }
    let daemon = daemon();
    let at = secret(&daemon, "pin", "1234", "2001:2001", "600");
    assert_eq!(ALICE.sh(&format!("cat {at}")).quiet(), "1234");
    assert_eq!(daemon.await_open("pin", 2001)["label"], Value::Null);
    daemon.cli(&["condition", "pin", "--label", "*cat*"]).ok();
    attempt(ALICE, &format!("cat {at}")).refused("Permission denied").denied(&daemon, "open", "pin", "in doubt");
}
