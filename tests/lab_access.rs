//! Who may open what, for real: every row of the errno table (docs/errno.md), provoked by processes with real uids
//! and found in the audit log with uid, process id, executable, path and reason.

use crate::common;

use common::{ALICE, BOB, CAROL, Daemon, Held, ROOT, Setup, Tried, User, attempt, attempt_within, sh};
use serde_json::Value;
use std::path::Path;

/// A secret of this content, owner, group and mode, enrolled by root.
#[track_caller]
fn secret(daemon: &Daemon, path: &str, content: &str, owner: &str, mode: &str) {
    let (user, group) = owner.split_once(':').expect("user:group");
    let at = daemon.path(path);
    sh(&format!("printf %s '{content}' | install -m {mode} -o {user} -g {group} /dev/stdin {at}")).quiet();
}

/// A command that runs a line of Python, which has no single quotes.
fn python(line: &str) -> String {
    format!("/usr/bin/python3 -c '{line}'")
}

/// Somebody reads a secret with cat.
#[track_caller]
fn cat(daemon: &Daemon, user: User, path: &str) -> Tried {
    attempt(user, &format!("cat {}", daemon.path(path)))
}

/// A directory of this owner.
#[track_caller]
fn folder(daemon: &Daemon, path: &str, owner: &str, mode: &str) {
    let (user, group) = owner.split_once(':').expect("user:group");
    sh(&format!("install -d -m {mode} -o {user} -g {group} {}", daemon.path(path))).quiet();
}

/// What `.pinfold/last-error` says to somebody.
#[track_caller]
fn last_error(daemon: &Daemon, user: User) -> String {
    user.sh(&format!("cat {}", daemon.path(".pinfold/last-error"))).quiet()
}

#[test]
fn eacces_by_the_kernel_is_seen_as_a_probe() {
    let daemon = Daemon::start();
    folder(&daemon, "svc", "0:0", "755");
    secret(&daemon, "svc/pin", "1234", "2001:2001", "600");
    let allowed = cat(&daemon, ALICE, "svc/pin");
    assert_eq!(allowed.printed(), "1234");
    let event = allowed.allowed(&daemon, "open", "svc/pin", "owner");
    assert_eq!(event["version"], 1);
    let refused = cat(&daemon, BOB, "svc/pin").refused("Permission denied");
    refused.denied(&daemon, "probe", "svc/pin", "not allowed: other");
    // A look is no attempt.
    let look = attempt(BOB, &format!("stat {}", daemon.path("svc/pin")));
    look.printed();
    let marker = cat(&daemon, BOB, "svc/pin").refused("Permission denied");
    let kind = |event: &Value| event["op"] == "probe" && event["path"] == "svc/pin";
    daemon.await_audit("the second probe or its sum", |e| kind(e) && (e["pid"] == marker.pid || e["count"].is_u64()));
    assert!(!daemon.audit().iter().any(|event| event["pid"] == look.pid), "stat(1) was recorded as an attempt");
    // A directory that may not be walked through: the log names it, and nothing below.
    folder(&daemon, "closed", "2001:2001", "700");
    secret(&daemon, "closed/pin", "5678", "2002:2002", "644");
    let lost = cat(&daemon, BOB, "closed/pin").refused("Permission denied");
    lost.denied(&daemon, "probe", "closed", "not allowed: other");
}

#[test]
fn eacces_by_the_daemon_where_capabilities_pass_the_kernel() {
    let daemon = Daemon::start();
    secret(&daemon, "pin", "1234", "2001:2001", "600");
    let root = cat(&daemon, ROOT, "pin").refused("Permission denied");
    root.denied(&daemon, "open", "pin", "not allowed: other");
    assert!(last_error(&daemon, ROOT).contains("pin: not allowed"), "{}", last_error(&daemon, ROOT));
    assert_eq!(last_error(&daemon, BOB), "");
    // The same capabilities in the hands of somebody else.
    let capable = "setpriv --reuid=2002 --regid=2002 --clear-groups --inh-caps=+dac_override,+dac_read_search \
         --ambient-caps=+dac_override,+dac_read_search";
    let bob =
        attempt_within(capable, User { uid: 2002, gid: 2002, groups: &[] }, &format!("cat {}", daemon.path("pin")))
            .refused("Permission denied");
    bob.denied(&daemon, "open", "pin", "not allowed: other");
    // Root may grant himself access, and that is on record.
    let grant = attempt(ROOT, &format!("setfacl -m u:0:r {}", daemon.path("pin")));
    grant.printed();
    grant.allowed(&daemon, "set_acl", "pin", "admin");
    let root = cat(&daemon, ROOT, "pin");
    assert_eq!(root.printed(), "1234");
    root.allowed(&daemon, "open", "pin", "acl user 0");
}

#[test]
fn groups_and_acls_allow_and_refuse() {
    let daemon = Daemon::start();
    secret(&daemon, "group", "g", "0:3001", "640");
    let member = cat(&daemon, ALICE, "group");
    assert_eq!(member.printed(), "g");
    member.allowed(&daemon, "open", "group", "group 3001");
    cat(&daemon, CAROL, "group").refused("Permission denied").denied(&daemon, "probe", "group", "not allowed: other");
    let primary = cat(&daemon, User { uid: 2004, gid: 3001, groups: &[] }, "group");
    primary.printed();
    primary.allowed(&daemon, "open", "group", "group 3001");

    secret(&daemon, "acl", "a", "0:0", "600");
    let at = daemon.path("acl");
    sh(&format!("setfacl -m u:2002:r,g:3002:r,u:2005:- {at}")).quiet();
    let named = cat(&daemon, BOB, "acl");
    named.printed();
    named.allowed(&daemon, "open", "acl", "acl user 2002");
    let grouped = cat(&daemon, CAROL, "acl");
    grouped.printed();
    grouped.allowed(&daemon, "open", "acl", "acl group 3002");
    cat(&daemon, ALICE, "acl").refused("Permission denied").denied(&daemon, "probe", "acl", "not allowed: other");
    // A user who is named gets what is said of him, also if a group of his is allowed more.
    let shut_out = cat(&daemon, User { uid: 2005, gid: 2005, groups: &[3002] }, "acl").refused("Permission denied");
    shut_out.denied(&daemon, "probe", "acl", "not allowed: acl user 2005");
    // The mask takes it from all of them.
    sh(&format!("setfacl -m m::x {at}")).quiet();
    cat(&daemon, BOB, "acl").refused("Permission denied").denied(&daemon, "probe", "acl", "not allowed: acl user 2002");
    cat(&daemon, CAROL, "acl").refused("Permission denied").denied(
        &daemon,
        "probe",
        "acl",
        "not allowed: acl group 3002",
    );
    sh(&format!("setfacl -b {at}")).quiet();
    cat(&daemon, BOB, "acl").refused("Permission denied").denied(&daemon, "probe", "acl", "not allowed: other");
}

#[test]
fn conditions_restrict_further_and_only_an_admin_sets_them() {
    let daemon = Daemon::start();
    secret(&daemon, "exe", "by cat alone", "2001:2001", "600");
    let at = daemon.path("exe");
    attempt(ALICE, &format!("setfattr -n user.pinfold.exe -v /usr/bin/head {at}"))
        .refused("Operation not permitted")
        .denied(&daemon, "set_xattr", "exe", "only an admin may");
    attempt(ALICE, &format!("setfattr -n user.note -v hers {at}")).printed();
    attempt(ROOT, &format!("setfattr -n user.pinfold.exe -v /usr/bin/cat {at}")).printed();
    cat(&daemon, ALICE, "exe").allowed(&daemon, "open", "exe", "owner");
    attempt(ALICE, &format!("head {at}")).refused("Permission denied").denied(
        &daemon,
        "open",
        "exe",
        "for /usr/bin/cat, caller runs another program",
    );
    // A name is no proof: the same text in a mount namespace of one's own leads to another file.
    let pretend = format!(
        "unshare --mount sh -c 'mount --bind /usr/bin/head /usr/bin/cat && exec setpriv --reuid=2001 --regid=2001 \
         --clear-groups /usr/bin/cat {at}'"
    );
    sh(&pretend).refused("Permission denied");
    // Nor is a copy.
    sh(&format!("install -m 755 /usr/bin/cat {}", daemon.file("cat").display())).quiet();
    ALICE.sh(&format!("{} {at}", daemon.file("cat").display())).refused("Permission denied");
    attempt(ALICE, &format!("setfattr -x user.pinfold.exe {at}")).refused("Operation not permitted");
    attempt(ROOT, &format!("setfattr -x user.pinfold.exe {at}")).refused("Operation not permitted").denied(
        &daemon,
        "set_xattr",
        "exe",
        "pinfold condition PATH --clear NAME",
    );
    attempt(ROOT, &format!("setfattr -n user.pinfold.exe -v /usr/bin/head {at}")).refused("Operation not permitted");
    daemon.cli(&["condition", "exe", "--clear", "exe"]).ok();
    attempt(ALICE, &format!("head {at}")).printed();
    // What could not hold, or means nothing here, is refused when it is set.
    for wrong in ["user.pinfold.expires -v tomorrow", "user.pinfold.unit -v nginx", "user.pinfold.nonsense -v 1"] {
        attempt(ROOT, &format!("setfattr -n {wrong} {at}")).refused("Invalid argument");
    }
}

#[test]
fn a_unit_s_secret_is_for_that_unit() {
    let daemon = Daemon::start();
    secret(&daemon, "unit", "for the service", "2001:2001", "600");
    let at = daemon.path("unit");
    sh(&format!("setfattr -n user.pinfold.unit -v lab-reader.service {at}")).quiet();
    cat(&daemon, ALICE, "unit").refused("Permission denied").denied(
        &daemon,
        "open",
        "unit",
        "for unit lab-reader.service, caller is in",
    );
    let run = |unit: &str| {
        sh(&format!("systemd-run --quiet --wait --pipe --collect --uid=2001 --gid=2001 --unit={unit} cat {at}"))
    };
    assert_eq!(run("lab-reader.service").quiet(), "for the service");
    let event = daemon.await_open("unit", 2001);
    assert_eq!((&event["unit"], &event["exe"]), (&"lab-reader.service".into(), &"/usr/bin/cat".into()), "{event}");
    run("lab-other.service").refused("Permission denied");
    daemon.await_audit("denial of the other unit", |event| {
        event["unit"] == "lab-other.service" && event["decision"] == "denied" && event["path"] == "unit"
    });
}

#[test]
fn root_of_other_namespaces_is_no_admin() {
    let daemon = Daemon::start();
    secret(&daemon, "pin", "1234", "0:0", "600");
    let at = daemon.path("pin");
    for wrapper in ["unshare --user --map-root-user", "unshare --pid --fork --kill-child"] {
        let chmod = attempt_within(wrapper, ROOT, &format!("chmod 644 {at}"));
        let chmod = chmod.refused("Operation not permitted");
        daemon.await_audit("the denial", |event| {
            event["op"] == "set_mode" && event["decision"] == "denied" && event["uid"] == 0 && event["path"] == "pin"
        });
        drop(chmod);
        attempt_within(wrapper, ROOT, &format!("setfattr -n user.pinfold.exe -v /usr/bin/cat {at}"))
            .refused("Operation not permitted");
        // What root owns, root reads: that needs no admin.
        assert_eq!(attempt_within(wrapper, ROOT, &format!("cat {at}")).printed(), "1234");
    }
    attempt_within("unshare --pid --fork", ROOT, &format!("chown 2001 {at}")).refused("Operation not permitted");
    attempt(ROOT, &format!("chmod 644 {at}")).printed();
}

#[test]
fn ekeyexpired_after_its_time() {
    let daemon = Daemon::start();
    secret(&daemon, "old", "1234", "2001:2001", "600");
    let expires = |when: &str| drop(daemon.cli(&["condition", "old", "--expires", when]).ok());
    expires("2020-01-01T00:00:00Z");
    cat(&daemon, ALICE, "old").refused("Key has expired").denied(&daemon, "open", "old", "expired");
    // Who may not anyway does not learn of it.
    cat(&daemon, ROOT, "old").refused("Permission denied");
    expires("2120-01-01T00:00:00Z");
    assert_eq!(cat(&daemon, ALICE, "old").printed(), "1234");
}

/// A daemon and the serial number of its host scope's entry.
#[track_caller]
fn with_key() -> (Daemon, String) {
    let daemon = Daemon::start();
    let serial = daemon.json(&["status", "--json"])["scopes"][0]["serial"].as_i64().expect("a serial number");
    (daemon, serial.to_string())
}

#[test]
fn ekeyrevoked_cuts_off_at_once_and_for_good() {
    let (mut daemon, key) = with_key();
    secret(&daemon, "pin", "1234", "2001:2001", "600");
    let mut held = Held::start(ALICE, &format!("exec 3<{}; echo open; read; cat <&3", daemon.path("pin")));
    assert_eq!(held.line(), "open");
    sh(&format!("keyctl read {key}")).refused("Permission denied");
    sh(&format!("keyctl setperm {key} 0x3f3f3f3f")).refused("");
    sh(&format!("keyctl revoke {key}")).quiet();
    cat(&daemon, ALICE, "pin").refused("revoked").denied(&daemon, "open", "pin", "the scope's key was revoked");
    // Also through a handle that was opened before, and that is on record too.
    held.go_on();
    let pid = held.pid();
    let (code, said) = held.end();
    assert!(code != 0 && said.contains("Key has been revoked"), "{code}: {said}");
    let event = daemon.await_audit("the read that was cut off", |e| e["op"] == "read" && e["path"] == "pin");
    assert_eq!((&event["uid"], &event["decision"]), (&2001.into(), &"denied".into()), "{event}");
    assert!(event["pid"].as_u64().is_some_and(|reader| reader >= u64::from(pid)), "{event}");
    attempt(ALICE, &format!("cp /etc/hostname {}", daemon.path("pin")))
        .refused("revoked")
        .denied(&daemon, "commit", "pin", "revoked");
    daemon.await_audit("the revocation itself", |event| event["op"] == "revoke");
    assert_eq!(daemon.json(&["status", "--json"])["scopes"][0]["key"], "revoked");
    // A restart does not undo it; whoever can open the identity does.
    daemon.restart();
    cat(&daemon, ALICE, "pin").refused("revoked");
    daemon.unlock();
    assert_eq!(cat(&daemon, ALICE, "pin").printed(), "1234");
}

#[test]
fn enokey_when_the_entry_is_not_what_it_was() {
    let (daemon, key) = with_key();
    secret(&daemon, "pin", "1234", "2001:2001", "600");
    sh(&format!("keyctl update {key} 0123456789abcdef0123456789abcdef")).quiet();
    let why = "the scope's key is not in the kernel keyring";
    cat(&daemon, ALICE, "pin").refused("Required key not available").denied(&daemon, "open", "pin", why);
    assert_eq!(daemon.json(&["status", "--json"])["scopes"][0]["key"], "missing");
    daemon.unlock();
    assert_eq!(cat(&daemon, ALICE, "pin").printed(), "1234");
}

#[test]
fn einval_for_content_that_is_not_what_its_name_says() {
    let daemon = Daemon::start();
    folder(&daemon, "web", "2001:2001", "755");
    let file = |name: &str| daemon.file(name).display().to_string();
    sh(&format!(
        "cd {} && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout /dev/null -subj /CN=x \
         -out good.pem 2>/dev/null && sed 's/M/!/g' good.pem > bad.pem && head -c 300 good.pem > half.pem && chmod 644 *.pem",
        daemon.file("").display()
    ))
    .quiet();
    let at = daemon.path("web/site.pem");
    attempt(ALICE, &format!("cp {} {at}", file("good.pem"))).printed();
    let good = ALICE.sh(&format!("sha256sum < {at}")).quiet();
    for bad in ["bad.pem", "half.pem"] {
        let tried = attempt(ALICE, &format!("cp {} {at}", file(bad))).refused("Invalid argument");
        tried.denied(&daemon, "commit", "web/site.pem", "refused: ");
        assert_eq!(ALICE.sh(&format!("sha256sum < {at}")).quiet(), good, "the old version stays");
    }
    assert!(last_error(&daemon, ALICE).contains("web/site.pem: refused"), "{}", last_error(&daemon, ALICE));
    assert_eq!(last_error(&daemon, BOB), "", "each sees his own");
    // Under another name it is nobody's business, until it is renamed into place.
    attempt(ALICE, &format!("cp {} {at}.new", file("bad.pem"))).printed();
    let rename = python(&format!(r#"import os; os.rename("{at}.new", "{at}")"#));
    let tried = attempt(ALICE, &rename).refused("Invalid argument");
    tried.denied(&daemon, "rename", "web/site.pem", "refused: ");
    // coreutils takes every EINVAL of rename(2) for one reason; it fails all the same.
    attempt(ALICE, &format!("mv -f {at}.new {at}")).refused("cannot move");
    assert_eq!(ALICE.sh(&format!("sha256sum < {at}")).quiet(), good, "the old version stays");
    assert_eq!(daemon.versions("web/site.pem"), [1]);
}

#[test]
fn efbig_at_one_byte_too_many() {
    let daemon = Daemon::start();
    folder(&daemon, "big", "2001:2001", "755");
    let at = daemon.path("big/file");
    attempt(ALICE, &format!("dd if=/dev/zero of={at} bs=1048576 count=1 status=none")).printed();
    assert_eq!(ALICE.sh(&format!("stat -c %s {at}")).quiet(), "1048576\n");
    let tried = attempt(ALICE, &format!("dd if=/dev/zero of={at} oflag=append conv=notrunc bs=1 count=1 status=none"));
    tried.refused("File too large").denied(
        &daemon,
        "commit",
        "big/file",
        "larger than a secret may be (1048576 bytes)",
    );
    let tried = attempt(ALICE, &format!("truncate -s 1048577 {at}")).refused("File too large");
    tried.denied(&daemon, "truncate", "big/file", "larger than a secret may be");
    sh(&format!("head -c 1048577 /dev/zero > {}", daemon.file("large").display())).quiet();
    let tried = attempt(ROOT, &format!("cp {} {at}.2", daemon.file("large").display())).refused("File too large");
    tried.denied(&daemon, "commit", "big/file.2", "larger than a secret may be");
    assert_eq!(ALICE.sh(&format!("stat -c %s {at}")).quiet(), "1048576\n", "what was there stays");
    let out = daemon.cli_with(&["put", "big/put"], &vec![0u8; (1 << 20) + 1]);
    assert_ne!(out.code, 0, "{}", out.text());
}

#[test]
fn enospc_and_edquot_at_the_bounds() {
    let daemon = Daemon::configured("max_secrets = 40");
    folder(&daemon, "many", "0:0", "777");
    let at = daemon.path("many");
    for n in 0..4 {
        attempt(ALICE, &format!("touch {at}/hers-{n}")).printed();
    }
    let tried = attempt(ALICE, &format!("touch {at}/hers-4")).refused("Disk quota exceeded");
    tried.denied(&daemon, "create", "many/hers-4", "the limit of entries of the tree is reached");
    let tried = attempt(ALICE, &format!("mkdir {at}/hers-5")).refused("Disk quota exceeded");
    tried.denied(&daemon, "mkdir", "many/hers-5", "the limit of entries of the tree is reached");
    attempt(BOB, &format!("touch {at}/his")).printed();
    sh(&format!("i=0; while touch {at}/$i 2>/dev/null; do i=$((i+1)); [ $i -lt 100 ] || exit 1; done; [ $i -gt 25 ]"))
        .quiet();
    let tried = attempt(ROOT, &format!("touch {at}/one-more")).refused("No space left on device");
    tried.denied(&daemon, "create", "many/one-more", "the limit of entries of the tree is reached");
    attempt(BOB, &format!("rm {at}/his")).printed();
    attempt(ROOT, &format!("touch {at}/one-more")).printed();
}

#[test]
fn ebadmsg_for_a_blob_that_was_tampered_with() {
    let mut daemon = Daemon::start();
    for name in ["first", "second", "third"] {
        secret(&daemon, name, &format!("content of the {name}"), "2001:2001", "600");
    }
    let ino: u64 = sh(&format!("stat -c %i {}", daemon.path("second"))).quiet().trim().parse().expect("a number");
    daemon.stop();
    flip_blob(&daemon.file("store").join("db"), ino);
    daemon.serve();
    let why = "damaged: ";
    cat(&daemon, ALICE, "second").refused("Bad message").denied(&daemon, "open", "second", why);
    assert!(last_error(&daemon, ALICE).contains("second: damaged"), "{}", last_error(&daemon, ALICE));
    for name in ["first", "third"] {
        assert_eq!(cat(&daemon, ALICE, name).printed(), format!("content of the {name}"));
    }
    let out = daemon.cli(&["fsck"]);
    assert_eq!(out.code, 5, "{}{}", out.text(), out.stderr);
    assert!(format!("{}{}", out.text(), out.stderr).contains("second"), "{}{}", out.text(), out.stderr);
    // A new version is as good as any.
    attempt(ALICE, &format!("cp /etc/hostname {}", daemon.path("second"))).printed();
    cat(&daemon, ALICE, "second").printed();
}

/// Changes the last byte of every stored version of one inode.
fn flip_blob(db: &Path, ino: u64) {
    let db = sled::Config::new().path(db).flush_every_ms(None).open().expect("nobody else has the store open");
    let blobs = db.open_tree("blobs").expect("it is there");
    let mut flipped = 0;
    for entry in &blobs {
        let (key, value) = entry.expect("it is readable");
        // The key is inode and version, big-endian (docs/on-disk-format.md).
        if key[..8] == ino.to_be_bytes() {
            let mut value = value.to_vec();
            *value.last_mut().expect("a blob is not empty") ^= 1;
            blobs.insert(key, value).expect("it is writable");
            flipped += 1;
        }
    }
    assert!(flipped > 0, "inode {ino} has no blob");
    db.flush().expect("it is written");
}

#[test]
fn estale_for_a_write_handle_that_lost_what_it_wrote() {
    let daemon = Daemon::start();
    secret(&daemon, "pin", "1234", "2001:2001", "600");
    let open = format!(r#"import os; f = os.open("{}", os.O_RDWR)"#, daemon.path("pin"));
    let script =
        python(&format!(r#"{open}; os.write(f, b"half"); print("wrote", flush=True); input(); os.write(f, b"!")"#));
    let mut held = Held::start(ALICE, &format!("exec {script}"));
    assert_eq!(held.line(), "wrote");
    daemon.lock();
    daemon.unlock();
    held.go_on();
    let pid = held.pid();
    let (code, said) = held.end();
    assert!(code == 1 && said.contains("Stale file handle"), "{code}: {said}");
    assert_eq!(cat(&daemon, ALICE, "pin").printed(), "1234", "what was not committed is not there");
    daemon.await_audit("what was lost", |event| {
        event["op"] == "commit" && event["decision"] == "denied" && event["pid"] == pid && event["path"] == "pin"
    });
}

#[test]
fn eio_when_it_cannot_be_recorded() {
    for (policy, refuses) in [("refuse", true), ("continue", false)] {
        let mut daemon = Daemon::initialised(Setup { config: format!("audit_full = {policy:?}"), ..Setup::default() });
        let disk = daemon.file("disk");
        let log = disk.join("audit.log");
        let config = std::fs::read_to_string(daemon.file("pinfold.toml")).expect("it was written");
        let elsewhere = config.replace(&format!("{:?}", daemon.file("audit.log")), &format!("{log:?}"));
        assert_ne!(config, elsewhere);
        std::fs::write(daemon.file("pinfold.toml"), elsewhere).expect("it is ours");
        std::os::unix::fs::symlink(&log, daemon.file("audit.log")).expect("a second name for the test");
        let mounted = Tmpfs::mount(&disk);
        // What is left is reserved for the log in part, so that it is soon used up.
        sh(&format!("head -c 224k /dev/zero > {}/filler", disk.display())).quiet();
        daemon.serve();
        secret(&daemon, "pin", "1234", "2001:2001", "600");
        assert_eq!(cat(&daemon, ALICE, "pin").printed(), "1234");
        sh(&format!("head -c 10M /dev/zero >> {}/filler 2>/dev/null; true", disk.display())).quiet();
        // What was reserved is used up first.
        let opens: Vec<Tried> = (0..150).map(|_| cat(&daemon, ALICE, "pin")).collect();
        let unrecorded =
            |daemon: &Daemon| opens.iter().filter(|o| !daemon.audit().iter().any(|e| e["pid"] == o.pid)).count();
        let missing = unrecorded(&daemon);
        assert!((1..150).contains(&missing), "the reserve holds some lines and not 150: {missing} are missing");
        for open in &opens[150 - missing..] {
            match refuses {
                true => assert!(open.out.stderr.contains("Input/output error"), "{open:?}"),
                false => assert_eq!(open.printed(), "1234"),
            }
        }
        if refuses {
            attempt(ALICE, &format!("cp /etc/hostname {}", daemon.path("pin"))).refused("Input/output error");
            attempt(ALICE, &format!("rm -f {}", daemon.path("pin"))).refused("");
        }
        sh(&format!("rm {}/filler", disk.display())).quiet();
        assert_eq!(cat(&daemon, ALICE, "pin").printed(), "1234");
        // None is forgotten: a line counts them, or they were listed once there was room.
        let begun = std::time::Instant::now();
        let told = |event: &Value| match (event["op"].as_str(), event["decision"].as_str()) {
            (Some("audit_gap"), _) => event["count"].as_u64().unwrap_or(0),
            (Some("open"), Some("denied")) => event["count"].as_u64().unwrap_or(1),
            _ => 0,
        };
        while daemon.audit().iter().map(told).sum::<u64>() < missing as u64 {
            assert!(begun.elapsed().as_secs() < 10, "{missing} are missing: {:?}", daemon.audit());
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        daemon.cli(&["log", "--verify"]).ok();
        // Before the folder around it is removed.
        daemon.stop();
        drop(mounted);
    }
}

/// A small file system of its own.
struct Tmpfs(std::path::PathBuf);

impl Tmpfs {
    fn mount(at: &Path) -> Self {
        sh(&format!("mkdir {0} && mount -t tmpfs -o size=256k,mode=700 none {0}", at.display())).quiet();
        Tmpfs(at.into())
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        sh(&format!("umount -l {} 2>/dev/null; true", self.0.display()));
    }
}

#[test]
fn eperm_for_what_is_not_done_here_or_not_by_him() {
    let daemon = Daemon::start();
    folder(&daemon, "svc", "2001:2001", "755");
    secret(&daemon, "svc/pin", "1234", "2001:2001", "644");
    let at = daemon.path("svc/pin");
    let tree = daemon.root().display().to_string();
    attempt(ALICE, &format!("ln {at} {at}.2")).refused("Operation not permitted").denied(
        &daemon,
        "link",
        "svc/pin",
        "a secret has one name",
    );
    let no_nodes = "no devices, FIFOs or sockets";
    attempt(ALICE, &format!("mkfifo {tree}/svc/fifo"))
        .refused("Operation not permitted")
        .denied(&daemon, "mknod", "svc/fifo", no_nodes);
    attempt(ROOT, &format!("mknod {tree}/svc/null c 1 3"))
        .refused("Operation not permitted")
        .denied(&daemon, "mknod", "svc/null", no_nodes);
    attempt(ALICE, &format!("chown 2002 {at}")).refused("Operation not permitted");
    attempt(ALICE, &format!("chgrp 3002 {at}")).refused("Operation not permitted");
    attempt(ALICE, &format!("chgrp 3001 {at}")).printed();
    attempt(BOB, &format!("chmod 666 {at}")).refused("Operation not permitted");
    attempt(BOB, &format!("setfacl -m u:2002:rw {at}")).refused("Operation not permitted");
    attempt(ALICE, &format!("setfattr -n user.pinfold.expires -v 2120-01-01 {at}"))
        .refused("Operation not permitted")
        .denied(&daemon, "set_xattr", "svc/pin", "only an admin may");
    // Somebody who passes the kernel's check by a capability and is no admin all the same.
    let capable =
        "setpriv --reuid=2002 --regid=2002 --clear-groups --inh-caps=+chown,+fowner --ambient-caps=+chown,+fowner";
    let bob = User { uid: 2002, gid: 2002, groups: &[] };
    attempt_within(capable, bob, &format!("chown 2002 {at}")).refused("Operation not permitted").denied(
        &daemon,
        "set_owner",
        "svc/pin",
        "only an admin may",
    );
    attempt_within(capable, bob, &format!("chmod 666 {at}")).refused("Operation not permitted").denied(
        &daemon,
        "set_mode",
        "svc/pin",
        "only the owner or an admin may",
    );
    // What is pinfold's own is nobody's.
    attempt(ROOT, &format!("rm -f {tree}/.pinfold/status")).refused("Operation not permitted");
    attempt(ROOT, &format!("mv {at} {tree}/.pinfold/status")).refused("Operation not permitted");
    attempt(ROOT, &format!("chmod 600 {tree}/.pinfold/status")).refused("Operation not permitted");
}
