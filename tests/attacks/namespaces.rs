//! User namespaces and what can be mounted in them, and the keys of the scopes: a uid is what it is, in whatever namespace it
//! makes itself root of.

use crate::common;

use common::process::run;
use common::{ALICE, BOB, Daemon, Out, ROOT, Setup, User, sh};

fn daemon() -> Daemon {
    Daemon::with(Setup { binary: Some(env!("CARGO_BIN_EXE_pinfold").into()), ..Setup::default() })
}

/// A secret of this content, owner, group and mode; where it is.
#[track_caller]
fn secret(daemon: &Daemon, path: &str, content: &str, owner: &str, mode: &str) -> String {
    let (user, group) = owner.split_once(':').expect("user:group");
    let at = daemon.path(path);
    sh(&format!("printf %s '{content}' | install -m {mode} -o {user} -g {group} /dev/stdin {at}")).quiet();
    at
}

/// A script as root of a new user namespace, with a mount namespace of its own, made by this user.
#[track_caller]
fn as_own_root(user: User, script: &str) -> Out {
    let mut command = user.command("/usr/bin/unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script]).env("LC_ALL", "C");
    run(command, b"", &format!("uid {} as root of a namespace: {script}", user.uid))
}

/// Whether any uid may make one here; the tests have nothing to try otherwise.
fn possible() -> bool {
    let may = as_own_root(BOB, "true").code == 0;
    if !may {
        eprintln!("users make no user namespaces here");
    }
    may
}

#[test]
fn root_of_a_user_namespace_reads_what_its_uid_reads() {
    let daemon = daemon();
    let (hers, shut) =
        (secret(&daemon, "hers", "1234", "2001:2001", "600"), secret(&daemon, "shut", "5678", "2001:2001", "0"));
    if possible() {
        // A stranger; and the owner, whom the kernel would let past a mode of 0000 for the capabilities in the namespace.
        as_own_root(BOB, &format!("cat {hers}")).refused("Permission denied");
        daemon.await_denial("hers", 2002);
        as_own_root(ALICE, &format!("cat {shut}")).refused("Permission denied");
        daemon.await_denial("shut", 2001);
        assert_eq!(as_own_root(ALICE, &format!("cat {hers}")).quiet(), "1234");
        as_own_root(BOB, &format!("chmod 666 {hers}")).refused("Operation not permitted");
        as_own_root(BOB, &format!("rm -f {hers}")).refused("");
    }
    // The real root in one: no admin any more, and still no reader.
    as_own_root(ROOT, &format!("cat {hers}")).refused("Permission denied");
    as_own_root(ROOT, &format!("chmod 666 {hers}")).refused("Operation not permitted");
    as_own_root(ROOT, &format!("chown 0 {hers}")).refused("");
    as_own_root(ROOT, &format!("rm -f {hers} && test -e {hers}")).refused("");
    let denied = daemon.await_denial("hers", 0);
    assert_eq!(denied["decision"], "denied", "{denied}");
}

#[test]
fn an_overlay_over_the_tree_shows_and_copies_up_nothing() {
    let daemon = daemon();
    let root = daemon.root().display().to_string();
    secret(&daemon, "his", "1234", "2002:2002", "600");
    secret(&daemon, "hers", "5678", "2001:2001", "600");
    for user in [ALICE, ROOT] {
        if user.uid != 0 && !possible() {
            continue;
        }
        // The upper folders lie in a tmpfs of the namespace's own.
        let mounted = format!(
            "mount -t tmpfs none /mnt && mkdir /mnt/upper /mnt/work /mnt/all && \
             mount -t overlay -o lowerdir={root},upperdir=/mnt/upper,workdir=/mnt/work,userxattr none /mnt/all"
        );
        let made = as_own_root(user, &mounted);
        if made.code != 0 {
            eprintln!("no overlay over the tree for uid {}: {}", user.uid, made.stderr);
            continue;
        }
        for script in [
            "cat /mnt/all/his",
            "chmod 666 /mnt/all/his; cat /mnt/all/his /mnt/upper/his",
            "cp /mnt/all/his /mnt/x; cat /mnt/x",
        ] {
            let out = as_own_root(user, &format!("{mounted}; {script}"));
            assert!(out.code != 0 && out.text().is_empty(), "{out:?}");
        }
        assert_eq!(daemon.versions("his"), [1]);
    }
}

#[test]
fn a_scopes_key_is_read_linked_and_opened_to_nobody() {
    let daemon = daemon();
    let at = secret(&daemon, "pin", "1234", "2001:2001", "600");
    let serial = daemon.json(&["status", "--json"])["scopes"][0]["serial"].as_i64().expect("a serial number");
    for user in [ROOT, ALICE, BOB] {
        for script in [
            format!("keyctl print {serial}"),
            format!("keyctl read {serial}"),
            format!("keyctl pipe {serial}"),
            format!("keyctl link {serial} @p && keyctl print {serial}"),
            format!("keyctl link {serial} @u && keyctl print {serial}"),
            format!("keyctl setperm {serial} 0x3f3f3f3f && keyctl print {serial}"),
            format!("keyctl chown {serial} {} && keyctl print {serial}", user.uid),
            format!("keyctl move {serial} @s @p && keyctl print {serial}"),
            "keyctl search @s user pinfold:host && keyctl search @u user pinfold:host".to_owned(),
        ] {
            let mut command = user.command("/usr/bin/keyctl");
            command.args(["session", "-", "sh", "-c", &script]);
            let out = run(command, b"", &format!("uid {}: {script}", user.uid));
            assert_ne!(out.code, 0, "uid {}: {script}: {}", user.uid, out.text());
        }
    }
    // Nobody has spoilt it either.
    assert_eq!(ALICE.sh(&format!("cat {at}")).quiet(), "1234");
}
