//! A host of a console with all that belongs to it: a mount, readers of several uids, real accounts, a real sshd, systemd's path
//! unit, and a daemon that is killed in the middle.
//!
//! Owns the accounts whose names begin with pf-; no test leaves one behind.

use crate::common;

use common::console::{Console, HOST, NAME, Sent};
use common::{ALICE, BOB, Daemon, Out, Setup, sh, wait_for};
use pinfold::bundle::Admin;
use serde_json::Value;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);

/// A daemon that has joined a console.
struct Host {
    daemon: Daemon,
    console: Console,
}

impl Host {
    #[track_caller]
    fn new(config: &str) -> Host {
        Self::with(Setup { config: config.into(), ..Setup::default() })
    }

    #[track_caller]
    fn with(setup: Setup) -> Host {
        let daemon = Daemon::with(setup);
        let mut console = Console::new();
        let joined = daemon.json(&["join", NAME, "--signer", &console.signer(), "--host", HOST, "--json"]);
        console.knows(joined["line"].as_str().expect("the policy's line"));
        Host { daemon, console }
    }

    /// Writes a bundle where only root reaches it.
    fn bundle(&self, serial: u64, files: &[Sent<'_>], admins: &[Admin]) -> String {
        let file = self.daemon.file(&format!("{serial}.pfb"));
        std::fs::write(&file, self.console.seal(serial, files, admins)).expect("the folder is ours");
        file.to_str().expect("ASCII").to_owned()
    }

    #[track_caller]
    fn import(&self, serial: u64, files: &[Sent<'_>], admins: &[Admin]) -> Out {
        let file = self.bundle(serial, files, admins);
        self.daemon.cli(&["import", &file])
    }
}

fn passwd(user: &str) -> Option<Vec<String>> {
    let line = sh(&format!("getent passwd {user} || true")).text();
    (!line.trim().is_empty()).then(|| line.trim().split(':').map(str::to_owned).collect())
}

#[test]
fn it_opens_for_whom_the_console_says_and_watchers_hear_of_it() {
    let host = Host::new("");
    let root = host.daemon.root().display().to_string();
    let report = host.import(
        1,
        &[Sent("svc/alice", "for alice", "alice", 0o400), Sent("svc/bob", "for bob", "bob", 0o400)],
        &[],
    );
    report.ok();
    assert_eq!(ALICE.sh(&format!("cat {root}/svc/alice")).quiet(), "for alice");
    assert_eq!(BOB.sh(&format!("cat {root}/svc/bob")).quiet(), "for bob");
    ALICE.sh(&format!("cat {root}/svc/bob")).refused("Permission denied");
    sh(&format!("cat {root}/svc/bob")).refused("Permission denied");
    // Nobody's import but root's.
    let file = host.bundle(2, &[Sent("svc/alice", "other", "alice", 0o400)], &[]);
    sh(&format!("chmod 644 {file}")).ok();
    // A watcher on the file hears of a change that did not come through the mount. One that hears of the first import still is not the one.
    let path = format!("{root}/svc/alice");
    let mut watcher =
        std::iter::repeat_with(|| watcher(&path)).find_map(|watcher| watcher).expect("it goes on for ever");
    host.daemon.cli(&["import", &file]).ok();
    assert!(watcher.wait().expect("it is our child").success(), "it was not told");
    assert_eq!(ALICE.sh(&format!("cat {root}/svc/alice")).quiet(), "other");
    BOB.sh(&format!("cat {root}/svc/bob")).refused("No such file");
    let event = host.daemon.await_audit("the import", |e| e["op"] == "import" && e["decision"] == "allowed");
    assert!(event["reason"].as_str().is_some_and(|r| r.contains("bundle 2 of hq")), "{event}");
    host.daemon.cli(&["fsck"]).ok();
    host.daemon.cli(&["log", "--verify"]).ok();
}

/// A process that watches a file; `None` if it has heard of something already.
fn watcher(path: &str) -> Option<Child> {
    let mut watcher = Command::new("inotifywait")
        .args(["-q", "-t", "30", "-e", "close_write", path])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("inotify-tools are in the lab");
    let held = format!("grep -qs '^inotify wd:' /proc/{}/fdinfo/*", watcher.id());
    let begun = Instant::now();
    while sh(&held).code != 0 {
        if let Some(status) = watcher.try_wait().expect("it is our child") {
            let mut said = String::new();
            watcher.stderr.take().expect("it was asked for").read_to_string(&mut said).expect("it ended");
            assert!(status.success(), "the watcher ended, {status}: {said}");
            return None;
        }
        assert!(begun.elapsed() < PATIENCE, "it does not watch: {}", common::process::doing(watcher.id()));
        std::thread::sleep(Duration::from_millis(10));
    }
    Some(watcher)
}

#[test]
fn a_daemon_that_is_killed_in_the_middle_has_all_or_nothing() {
    let mut host = Host::new("");
    let contents = |serial: u64| -> Vec<(String, String)> {
        (0..300).map(|n| (format!("d{}/f{n}", n % 7), format!("round {serial}"))).collect()
    };
    for serial in 1..=8u64 {
        let files = contents(serial);
        let files: Vec<Sent<'_>> = files.iter().map(|(at, content)| Sent(at, content, "root", 0o400)).collect();
        let file = host.bundle(serial, &files, &[]);
        let config = host.daemon.file("pinfold.toml");
        let mut import = Command::new(common::daemon::binary())
            .arg("--config")
            .arg(config)
            .args(["import", &file])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary");
        std::thread::sleep(Duration::from_millis(40 * serial));
        host.daemon.kill9();
        let _ = import.wait();
        host.daemon.serve();
        let listed = host.daemon.json(&["join", "--list", "--json"]);
        let taken = listed[0]["serial"].as_u64().expect("a number");
        let there = sh(&format!(
            "cat {0}/d*/f* 2>/dev/null | sed 's/round /\\nround /g' | sort | uniq -c",
            host.daemon.root().display()
        ));
        let kinds: Vec<String> =
            there.text().lines().map(|l| l.trim().to_owned()).filter(|l| l.contains("round")).collect();
        match taken {
            0 => assert_eq!(kinds, [] as [&str; 0], "after {serial}"),
            taken => assert_eq!(kinds, [format!("300 round {taken}")], "after {serial}"),
        }
        host.daemon.cli(&["fsck"]).ok();
    }
    host.import(9, &[Sent("last", "x", "root", 0o400)], &[]).ok();
}

/// Takes the accounts away that a test that failed left.
struct Swept;

impl Drop for Swept {
    fn drop(&mut self) {
        let _ = Command::new("sh")
            .args(["-c", "for u in $(cut -d: -f1 /etc/passwd | grep ^pf-); do userdel $u; done; groupdel pf-admins"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        let _ = std::fs::remove_dir_all("/home/pf-admins");
    }
}

#[test]
fn admins_come_log_in_and_go() {
    let _swept = Swept;
    let accounts =
        "[accounts]\ngroup = \"pf-admins\"\nhome = \"/home/pf-admins\"\nshell = \"/bin/bash\"\nend_sessions = true";
    // StrictModes walks up to the root: /tmp would not do.
    let mountpoint = Some(PathBuf::from("/run/secrets"));
    let host = Host::with(Setup { config: accounts.into(), mountpoint, ..Setup::default() });
    let tree = host.daemon.root().to_owned();
    let keys = PathBuf::from("/root/pf-keys");
    let keys = keys.display();
    sh(&format!("rm -rf {keys}; mkdir -p {keys}; ssh-keygen -q -t ed25519 -N '' -C ann -f {keys}/ann")).ok();
    sh(&format!("ssh-keygen -q -t ed25519 -N '' -C host -f {keys}/host")).ok();
    let public = std::fs::read_to_string(format!("{keys}/ann.pub")).expect("a key").trim().to_owned();
    let admin = |user: &str| Admin {
        user: user.into(),
        prefix: Some("pf-".into()),
        keys: vec![public.clone()],
        comment: "on call".into(),
    };
    // Somebody else's account, of a name that the console would like.
    sh("useradd --no-create-home --comment 'of this host' pf-local").ok();
    let local = passwd("pf-local");
    let refused = host.import(1, &[Sent("a", "1", "root", 0o400)], &[admin("ann"), admin("local")]);
    refused.refused("1 of its entries");
    assert_eq!(passwd("pf-ann"), None, "all or nothing");
    let file = host.bundle(2, &[Sent("a", "1", "root", 0o400)], &[admin("ann"), admin("local")]);
    let taken = host.daemon.cli(&["import", &file, "--partial"]).ok();
    assert_eq!(taken.stderr, "", "its accounts are as they should be");
    assert_eq!(passwd("pf-local"), local);
    let ann = passwd("pf-ann").expect("she has an account");
    assert_ne!(ann[2], "0");
    assert_eq!(
        (ann[4].as_str(), ann[5].as_str(), ann[6].as_str()),
        ("pinfold@hq", "/home/pf-admins/pf-ann", "/bin/bash")
    );
    assert_eq!(sh("getent shadow pf-ann | cut -d: -f2").quiet().trim(), "*");
    assert_eq!(
        sh("stat -c %a:%U:%G /home/pf-admins /home/pf-admins/pf-ann; id -gn pf-ann").quiet(),
        "755:root:root\n700:pf-ann:pf-admins\npf-admins\n"
    );

    // sshd reads her key as her, with StrictModes.
    std::fs::write(
        "/etc/ssh/sshd_config",
        format!(
            "Port 2222\nListenAddress 127.0.0.1\nHostKey {keys}/host\nAuthorizedKeysFile {}/ssh/authorized_keys/%u\n\
             StrictModes yes\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM no\nLogLevel DEBUG1\n",
            tree.display()
        ),
    )
    .expect("its configuration");
    sh(&format!("echo \"[127.0.0.1]:2222 $(cut -d' ' -f1,2 {keys}/host.pub)\" > {keys}/known; systemctl restart ssh"))
        .ok();
    let login = |user: &str, command: &str| {
        sh(&format!(
            "ssh -F none -p 2222 -i {keys}/ann -o BatchMode=yes -o IdentitiesOnly=yes -o StrictHostKeyChecking=yes \
             -o UserKnownHostsFile={keys}/known -o ConnectTimeout=10 -o LogLevel=ERROR {user}@127.0.0.1 {command}"
        ))
    };
    assert_eq!(login("pf-ann", "id -un").quiet(), "pf-ann\n");
    login("pf-local", "id -un").refused("");
    let listed = host.daemon.json(&["accounts", "ls", "--json"]);
    assert_eq!((&listed[0]["user"], &listed[0]["comment"]), (&Value::from("pf-ann"), &Value::from("on call")));
    let doctor = host.daemon.cli(&["doctor"]).text();
    assert!(doctor.contains("accounts") && doctor.contains("last import"), "{doctor}");

    // She is logged in, and leaves something running that hears nothing, when she goes.
    login("pf-ann", "'(trap \"\" TERM HUP; setsid sleep 1000 >/dev/null 2>&1 </dev/null &) ; sleep 0.2'").ok();
    assert_eq!(sh("pgrep -c -u pf-ann sleep").quiet().trim(), "1");
    host.import(3, &[Sent("a", "1", "root", 0o400)], &[]).ok();
    let locked = passwd("pf-ann").expect("it is kept");
    assert_eq!((&locked[2], locked[6].as_str()), (&ann[2], "/usr/sbin/nologin"));
    assert_eq!(sh("getent shadow pf-ann | cut -d: -f2,8").quiet().trim(), "!*:1");
    assert_eq!(sh(&format!("pgrep -c -U {} || true", ann[2])).quiet().trim(), "0", "her sessions were ended");
    login("pf-ann", "id -un").refused("");
    sh(&format!("ls {}/ssh/authorized_keys/pf-ann", tree.display())).refused("No such file");
    let listed = host.daemon.json(&["accounts", "ls", "--json"]);
    assert_eq!((&listed[0]["locked"], &listed[0]["wanted"]), (&true.into(), &false.into()), "{listed}");
    assert_eq!(passwd("pf-local"), local);

    // What becomes somebody else's by now is left alone.
    host.import(4, &[Sent("a", "1", "root", 0o400)], &[admin("ann")]).ok();
    assert_eq!(passwd("pf-ann"), Some(ann), "she is back, as she was");
    assert_eq!(login("pf-ann", "id -un").quiet(), "pf-ann\n");
    sh("usermod --comment 'mine now' pf-ann").ok();
    host.import(5, &[Sent("a", "1", "root", 0o400)], &[]).ok();
    assert!(passwd("pf-ann").is_some());
    assert_eq!(host.daemon.json(&["accounts", "ls", "--json"]), Value::Array(Vec::new()), "it is forgotten");
    // Leaving locks the accounts.
    host.import(6, &[Sent("a", "1", "root", 0o400)], &[admin("eve")]).ok();
    assert!(passwd("pf-eve").is_some());
    host.daemon.cli(&["leave", NAME, "--remove"]).ok();
    assert_eq!(sh("getent shadow pf-eve | cut -d: -f2,8").quiet().trim(), "!*:1");
    sh(&format!("systemctl stop ssh; rm -rf {keys}")).ok();
}

#[test]
fn what_is_uploaded_is_imported_by_itself() {
    let host = Host::new(
        "inbox = \"/srv/pf-upload/inbox\"\n[import]\nupload_user = \"bob\"\nack_dir = \"/srv/pf-upload/acks\"",
    );
    sh("mkdir -p /srv/pf-upload/acks; install -d -m 0700 -o bob /srv/pf-upload/inbox").ok();
    let units = "/run/systemd/system";
    let binary = common::daemon::binary();
    let config = host.daemon.file("pinfold.toml");
    // The shipped units, for this binary, this configuration and this inbox.
    sh(&format!(
        "set -e; for u in path service; do sed -e 's#/usr/bin/pinfold#{} --config {}#' \
         -e 's#/var/lib/pinfold/inbox/#/srv/pf-upload/inbox/#' -e '/^Wants=pinfold.service/d' -e '/^After=pinfold.service/d' \
         /src/systemd/pinfold-import.$u > {units}/pf-import.$u; done
         sed -i 's/pinfold-import.service/pf-import.service/' {units}/pf-import.path
         systemctl daemon-reload; systemctl start pf-import.path",
        binary.display(),
        config.display()
    ))
    .ok();
    let state = || {
        sh("systemctl show -p ActiveState,Result,NRestarts pf-import.path pf-import.service; journalctl --no-pager -n 30 -u pf-import.service").text()
    };
    let upload = |name: &str, bytes: &[u8]| {
        let temporary = format!("/srv/pf-upload/inbox/.{name}.part");
        std::fs::write(&temporary, bytes).expect("the inbox");
        sh(&format!("chown bob {temporary} && mv {temporary} /srv/pf-upload/inbox/{name}")).ok();
    };
    let pin = format!("{}/pin", host.daemon.root().display());
    for serial in 1..=3u64 {
        let content = format!("round {serial}");
        upload(&format!("{serial}.pfb"), &host.console.seal(serial, &[Sent("pin", &content, "alice", 0o400)], &[]));
        wait_for(&format!("round {serial}: {}", state()), PATIENCE, || {
            (ALICE.sh(&format!("cat {pin}")).text() == content).then_some(())
        });
        wait_for("the inbox to be empty", PATIENCE, || {
            sh("ls /srv/pf-upload/inbox").text().trim().is_empty().then_some(())
        });
    }
    assert!(PathBuf::from("/srv/pf-upload/acks/here@hq.ack").exists());
    // Junk does not keep it from what comes after, nor does it wear the unit out.
    for n in 0..40 {
        upload(&format!("{n}00.pfb"), b"junk");
    }
    upload("4.pfb", &host.console.seal(4, &[Sent("pin", "after the junk", "alice", 0o400)], &[]));
    wait_for(&format!("what came after the junk: {}", state()), PATIENCE, || {
        (ALICE.sh(&format!("cat {pin}")).text() == "after the junk").then_some(())
    });
    // While the store is locked it waits.
    host.daemon.cli(&["lock"]).ok();
    upload("5.pfb", &host.console.seal(5, &[Sent("pin", "unlocked", "alice", 0o400)], &[]));
    wait_for("the unit to wait", PATIENCE, || {
        sh("systemctl is-active pf-import.service").text().contains("activating").then_some(())
    });
    let passphrase = host.daemon.file("passphrase");
    host.daemon.cli(&["unlock", "--passphrase-file", passphrase.to_str().expect("ASCII")]).ok();
    wait_for(&format!("what waited for the unlock: {}", state()), PATIENCE, || {
        (ALICE.sh(&format!("cat {pin}")).text() == "unlocked").then_some(())
    });
    assert!(sh("systemctl is-active pf-import.path").text().contains("active"), "{}", state());
    sh(&format!(
        "systemctl stop pf-import.path pf-import.service; rm -f {units}/pf-import.*; systemctl daemon-reload; \
         systemctl reset-failed 'pf-import.*' 2>/dev/null; rm -rf /srv/pf-upload"
    ))
    .ok();
}
