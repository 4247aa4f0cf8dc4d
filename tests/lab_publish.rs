//! Keys of services, as an admin sets them up and services find them: with the command line and with the tools that
//! carry attributes, under systemd's session keyrings, over kills and restarts of the daemon.

use crate::common;

use common::{ALICE, BOB, Daemon, Out, Setup, User, sh, wait_for};
use std::time::{Duration, Instant};

/// What alice is to find.
const KEY: &str = "pinfold:svc/pin";

#[track_caller]
fn enrol(daemon: &Daemon) {
    sh(&format!(
        "set -e; cd {}; mkdir svc; printf 1234 > svc/pin; chown alice:alice svc/pin; chmod 400 svc/pin",
        daemon.root().display()
    ))
    .quiet();
}

/// Looks for a key with a session keyring that does not have `@u`.
fn finds(user: User, description: &str) -> Out {
    user.sh(&format!("keyctl session - sh -c \"keyctl pipe \\$(keyctl search @u user '{description}')\" 2>/dev/null"))
}

#[track_caller]
fn until(what: &str, happened: impl Fn() -> bool) -> Duration {
    let begun = Instant::now();
    wait_for(what, Duration::from_secs(10), || happened().then_some(()));
    begun.elapsed()
}

#[track_caller]
fn has(user: User, description: &str, content: &str) {
    until(&format!("{content} in {description}"), || finds(user, description).text() == content);
}

#[track_caller]
fn has_not(user: User, description: &str) {
    until(&format!("no {description}"), || finds(user, description).code != 0);
}

#[test]
fn an_admin_publishes_and_takes_back() {
    let daemon = Daemon::start();
    enrol(&daemon);
    let reply = daemon.json(&["publish", "svc/pin", "--to", "alice", "--json"]);
    let serial = reply["keys"][0]["serial"].as_i64().expect("a serial number");
    assert_eq!(finds(ALICE, KEY).text(), "1234");
    assert_ne!(finds(BOB, KEY).code, 0);
    BOB.sh(&format!("keyctl pipe {serial}")).refused("Permission denied");
    for change in ["update % x", "revoke %", "setperm % 0x3f3f3f3f", "timeout % 1"] {
        ALICE.sh(&format!("keyctl {}", change.replace('%', &serial.to_string()))).refused("Permission denied");
    }
    // Again, as ExecStartPre= does at each start: nothing changes.
    let again = daemon.json(&["publish", &daemon.path("svc/pin"), "--to", "alice", "--json"]);
    assert_eq!(again["keys"][0]["serial"], serial);
    assert_eq!(daemon.cli(&["publish", "svc/pin", "--to", "bob"]).code, 3, "bob may not read it");
    assert_eq!(daemon.cli(&["publish", "svc/none", "--to", "bob"]).code, 6);
    assert_eq!(daemon.cli(&["publish", "svc/pin", "--to", "alice", "--as", "389ds"]).code, 2, "no instance");
    let listed = daemon.cli(&["published"]).ok().text();
    assert!(listed.starts_with("published  svc/pin  alice") && listed.contains(KEY), "{listed}");
    let held = daemon.json(&["keyring", "ls", "--json"]);
    let held = held.as_array().expect("a list");
    assert!(held.iter().any(|k| k["kind"] == "scope" && k["scope"] == "host" && k["state"] == "alive"), "{held:?}");
    assert!(held.iter().any(|k| k["kind"] == "published" && k["serial"] == serial && k["uid"] == 2001), "{held:?}");
    daemon.cli(&["unpublish", "svc/pin", "--to", "alice"]).ok();
    assert_ne!(finds(ALICE, KEY).code, 0);
    assert_eq!(daemon.cli(&["unpublish", "svc/pin"]).code, 8, "nothing to do");
    daemon.cli(&["log", "--verify"]).ok();
}

#[test]
fn what_is_done_to_the_file_is_done_to_the_key() {
    let daemon = Daemon::start();
    enrol(&daemon);
    let pin = daemon.path("svc/pin");
    daemon.cli(&["publish", "svc/pin", "--to", "alice"]).ok();
    sh(&format!("printf 5678 > {pin}")).quiet();
    has(ALICE, KEY, "5678");
    for (take, give) in [
        (format!("chmod 000 {pin}"), format!("chmod 400 {pin}")),
        (format!("chown bob {pin}"), format!("chown alice {pin}")),
        (format!("chown bob {pin}; setfacl -m u:alice:- {pin}"), format!("setfacl -m u:alice:r {pin}")),
        (format!("chmod 700 {}", daemon.path("svc")), format!("chmod 755 {}", daemon.path("svc"))),
        ("true".into(), "true".into()),
    ] {
        if take != "true" {
            sh(&take).quiet();
            has_not(ALICE, KEY);
        }
        sh(&give).quiet();
        has(ALICE, KEY, "5678");
    }
    sh(&format!("mv {pin} {}", daemon.path("svc/other"))).quiet();
    has(ALICE, "pinfold:svc/other", "5678");
    has_not(ALICE, KEY);
    daemon.lock();
    assert_ne!(finds(ALICE, "pinfold:svc/other").code, 0, "locked");
    let passphrase = daemon.file("passphrase");
    daemon.cli(&["unlock", "--passphrase-file", passphrase.to_str().expect("ASCII")]).ok();
    has(ALICE, "pinfold:svc/other", "5678");
    sh(&format!("rm {}", daemon.path("svc/other"))).quiet();
    has_not(ALICE, "pinfold:svc/other");
    daemon.await_audit("the key taken back", |e| e["op"] == "unpublish" && e["reason"].to_string().contains("gone"));
}

#[test]
fn the_tools_carry_the_attribute() {
    let daemon = Daemon::start();
    enrol(&daemon);
    let (pin, root) = (daemon.path("svc/pin"), daemon.root().display().to_string());
    let set = |value: &str| sh(&format!("setfattr -n user.pinfold.publish -v '{value}' {pin}"));
    set("to=nobody-of-that-name").refused("Invalid argument");
    let why = sh(&format!("cat {root}/.pinfold/last-error"));
    assert!(why.text().contains("there is no user"), "{}", why.text());
    set("to=alice colour=red").refused("Invalid argument");
    sh(&format!("chmod 600 {pin}")).quiet();
    ALICE.sh(&format!("setfattr -n user.pinfold.publish -v to=alice {pin}")).refused("Operation not permitted");
    set("to=alice").quiet();
    has(ALICE, KEY, "1234");
    sh(&format!("setfattr -n user.pinfold.unit -v a.service {pin}")).refused("Invalid argument");
    // Root has no exemption: who copies must be able to read.
    sh(&format!("setfacl -m u:root:r {pin}")).quiet();
    sh(&format!("cp -a {pin} {root}/svc/copied")).quiet();
    has(ALICE, "pinfold:svc/copied", "1234");
    sh(&format!("mkdir {root}/synced; rsync -aAX {root}/svc/ {root}/synced/")).ok();
    has(ALICE, "pinfold:synced/pin", "1234");
    sh(&format!(
        "cd {root}; tar -c --xattrs --acls svc/pin | (mkdir t; cd t; tar -x --xattrs --xattrs-include='*' --acls)"
    ))
    .ok();
    has(ALICE, "pinfold:t/svc/pin", "1234");
    // Not by an attribute that goes: a second `rsync -X` would do that.
    sh(&format!("setfattr -x user.pinfold.publish {pin}")).refused("Operation not permitted");
    has(ALICE, KEY, "1234");
    daemon.cli(&["unpublish", "svc/pin"]).ok();
    has_not(ALICE, KEY);
    assert_eq!(finds(ALICE, "pinfold:svc/copied").text(), "1234", "the others stay");
}

#[test]
fn a_service_finds_it_whatever_its_session_keyring() {
    let daemon = Daemon::start();
    enrol(&daemon);
    daemon.cli(&["publish", "svc/pin", "--to", "alice"]).ok();
    for mode in ["private", "shared", "inherit"] {
        let run = format!(
            "systemd-run --quiet --wait --pipe -p User=alice -p KeyringMode={mode} \
             sh -c 'keyctl pipe $(keyctl search @u user {KEY})'"
        );
        assert_eq!(sh(&run).ok().text(), "1234", "KeyringMode={mode}");
    }
    // What becomes alice by itself, as many daemons do.
    let run = format!(
        "systemd-run --quiet --wait --pipe -p KeyringMode=private setpriv --reuid=2001 --regid=2001 --clear-groups \
         sh -c 'keyctl pipe $(keyctl search @u user {KEY})'"
    );
    assert_eq!(sh(&run).ok().text(), "1234");
}

#[test]
fn what_is_taken_away_is_back_within_a_second() {
    let daemon = Daemon::start();
    enrol(&daemon);
    daemon.cli(&["publish", "svc/pin", "--to", "alice"]).ok();
    for mischief in
        ["keyctl clear @u", &format!("keyctl unlink $(keyctl search @u user {KEY}) @u; keyctl add user {KEY} x @u")]
    {
        ALICE.sh(mischief).ok();
        let took = until("it is put back", || finds(ALICE, KEY).text() == "1234");
        assert!(took < Duration::from_millis(1500), "{mischief}: {took:?}");
    }
    daemon.await_audit("the mischief", |e| e["op"] == "unpublish" && e["decision"] == "denied" && e["uid"] == 2001);
    let published = daemon.json(&["published", "--json"]);
    assert_eq!((&published[0]["state"], &published[0]["put_back"]), (&"published".into(), &2.into()), "{published}");
}

#[test]
fn a_kill_and_a_restart_leave_no_key_unguarded() {
    let mut daemon = Daemon::start();
    enrol(&daemon);
    let serial = daemon.json(&["publish", "svc/pin", "--to", "alice", "--json"])["keys"][0]["serial"].to_string();
    daemon.stop();
    assert_ne!(finds(ALICE, KEY).code, 0, "the daemon has ended");
    daemon.serve();
    has(ALICE, KEY, "1234");
    let second = daemon.json(&["published", "--json"])[0]["serial"].to_string();
    assert_ne!(serial, second);
    daemon.kill9();
    assert_eq!(finds(ALICE, KEY).text(), "1234", "nobody is there to take it back");
    daemon.serve();
    has(ALICE, KEY, "1234");
    ALICE.sh(&format!("keyctl pipe {second}")).refused("");
    daemon.await_audit("the leftover", |e| e["op"] == "unpublish" && e["reason"].to_string().contains(&second));
    daemon.cli(&["log", "--verify"]).ok();
}

#[test]
fn the_directory_server_s_drop_in_brings_the_pin_and_takes_it_away() {
    let daemon = Daemon::start();
    let dirsrv = User::named("dirsrv");
    let put = ["put", "-p", "dirsrv/slapd-fake/pin", "-o", "dirsrv", "-g", "dirsrv", "-m", "0400"];
    daemon.cli_with(&put, b"the pin").ok();
    // The drop-in as it is shipped, but for this test's daemon; the server itself has nothing that reads keys, so a
    // script stands in for it that starts as root and becomes dirsrv.
    let text = include_str!("../systemd/dirsrv@.service.d/pinfold.conf");
    let binary = format!("{} --config {}", common::daemon::binary().display(), daemon.file("pinfold.toml").display());
    let text = text.replace("/usr/bin/pinfold", &binary).replace("Requires=pinfold-ready.target\n", "");
    let dir = "/run/systemd/system/pinned@.service.d";
    let script = "#!/bin/sh\nsetpriv --reuid=dirsrv --regid=dirsrv --clear-groups sh -c 'keyctl pipe $(keyctl search @u user \
                  \"Internal (Software) Token:$1:password\") > /tmp/seen' sh \"$1\"\nexec sleep 1000\n";
    std::fs::write("/run/pinned", script).expect("a script");
    let fake = "[Service]\nExecStart=/bin/sh /run/pinned %i\n";
    sh(&format!("rm -f /tmp/seen; install -o dirsrv -m 600 /dev/null /tmp/seen; mkdir -p {dir}")).ok();
    std::fs::write("/run/systemd/system/pinned@.service", fake).expect("a unit");
    std::fs::write(format!("{dir}/pinfold.conf"), text).expect("its drop-in");
    sh("systemctl daemon-reload; systemctl start pinned@fake").quiet();
    let description = "Internal (Software) Token:fake:password";
    has(dirsrv, description, "the pin");
    until("the service has read it", || sh("cat /tmp/seen").text() == "the pin");
    sh("systemctl stop pinned@fake").quiet();
    assert_ne!(finds(dirsrv, description).code, 0, "taken back");
    sh("systemctl start pinned@fake; systemctl kill -s KILL pinned@fake").ok();
    has_not(dirsrv, description);
    sh(&format!(
        "systemctl stop pinned@fake; systemctl reset-failed pinned@fake; \
         rm -rf {dir} /run/systemd/system/pinned@.service; systemctl daemon-reload"
    ))
    .ok();
}

#[test]
fn the_doctor_looks_and_says_what_to_do() {
    // On a disk: of a store in memory it warns.
    let daemon = Daemon::with(Setup { base: Some("/scratch".into()), ..Setup::default() });
    let out = daemon.cli(&["doctor", "--json"]);
    let checks: serde_json::Value = serde_json::from_slice(&out.stdout).expect("JSON");
    let checks = checks.as_array().expect("a list");
    let failed = checks.iter().filter(|c| c["outcome"] == "fail").count();
    assert_eq!(out.code, i32::from(failed > 0), "{checks:?}");
    for what in ["fuse", "keyring", "keyutils", "cgroup", "store"] {
        let check = checks.iter().find(|c| c["what"] == what).expect(what);
        assert_eq!(check["outcome"], "ok", "{check}");
    }
    assert!(checks.iter().all(|c| (c["outcome"] == "ok") == c["todo"].is_null()), "{checks:?}");
}
