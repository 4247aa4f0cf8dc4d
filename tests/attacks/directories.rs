//! Into a directory of another, by capabilities: what the kernel lets root and CAP_DAC_READ_SEARCH do with directories is
//! decided by the daemon as if they had none. Whoever comes by a bind mount or a descriptor is not in the way.

use super::programs::{Ran, python};
use crate::common::{ALICE, BOB, Daemon, ROOT, Setup, User, attempt, sh};

/// uid 2002 with the capability of a backup job.
const CAPABLE: &str = "setpriv --reuid=2002 --regid=2002 --clear-groups --inh-caps=+dac_read_search \
                       --ambient-caps=+dac_read_search";

fn daemon() -> Daemon {
    Daemon::with(Setup { binary: Some(env!("CARGO_BIN_EXE_pinfold").into()), ..Setup::default() })
}

/// A directory of Alice's, 0700, with a file that everybody may read, a link, and a directory that everybody may search.
#[track_caller]
fn hers(daemon: &Daemon) {
    let hers = daemon.path("hers");
    sh(&format!("install -d -m 0700 -o 2001 -g 2001 {hers}")).quiet();
    let script = format!(
        "cd {hers} && umask 022 && echo -n below > open && chmod 644 open && ln -s open link && mkdir sub && chmod 755 sub \
         && echo -n deep > sub/deep && chmod 644 sub/deep && /usr/bin/python3 -c \
         'import os; os.setxattr(\"open\", \"user.note\", b\"hers\")'"
    );
    ALICE.sh(&script).quiet();
}

/// The arguments of `look.py`.
fn of_hers(daemon: &Daemon) -> String {
    let at = |name: &str| daemon.path(&format!("hers/{name}"));
    format!("{} {} {}", daemon.path("hers"), at("open"), at("link"))
}

#[track_caller]
fn refused(daemon: &Daemon, ran: &Ran, uid: u32) {
    for (what, op, path) in [
        ("list", "list", "hers"),
        ("readlink", "read_link", "hers/link"),
        ("getxattr", "get_xattr", "hers/open"),
        ("listxattr", "list_xattr", "hers/open"),
        ("open", "open", "hers/open"),
    ] {
        assert_eq!(ran.came(what), "EACCES", "{what} by uid {uid}");
        daemon.await_audit(&format!("the refused {what}"), |event| {
            event["op"] == op
                && event["path"] == path
                && event["decision"] == "denied"
                && event["uid"] == uid
                && event["pid"] == ran.pid
        });
    }
}

#[test]
fn capabilities_do_not_count_for_a_directory_of_another() {
    let daemon = daemon();
    hers(&daemon);
    let look = format!("{} {}", python(&daemon, "look.py"), of_hers(&daemon));
    let owner = Ran::by(ALICE, &look);
    assert_eq!(owner.came("list"), "saw ['link', 'open', 'sub']");
    assert_eq!(owner.came("readlink"), "saw open");
    assert_eq!(owner.came("getxattr"), "saw hers");
    assert_eq!(owner.came("listxattr"), "saw ['user.note']");
    assert_eq!(owner.came("open"), "saw below");

    refused(&daemon, &Ran::by(ROOT, &look), 0);
    refused(&daemon, &Ran::of(sh(&format!("{CAPABLE} {look}"))), 2002);
    let said = ROOT.sh(&format!("cat {}", daemon.path(".pinfold/last-error"))).quiet();
    assert!(said.contains("hers"), "{said}");

    // What Alice opens to others is open to them, capabilities or not.
    ALICE.sh(&format!("chmod 755 {}", daemon.path("hers"))).quiet();
    for ran in [Ran::by(ROOT, &look), Ran::of(sh(&format!("{CAPABLE} {look}"))), Ran::by(BOB, &look)] {
        assert_eq!(ran.came("list"), "saw ['link', 'open', 'sub']");
        assert_eq!(ran.came("open"), "saw below");
    }
    // A directory that may be searched and not listed.
    ALICE.sh(&format!("chmod 711 {}", daemon.path("hers"))).quiet();
    let ran = Ran::by(ROOT, &look);
    assert_eq!((ran.came("list"), ran.came("open"), ran.came("readlink")), ("EACCES", "saw below", "saw open"));
}

#[test]
fn an_admin_changes_what_he_may_not_list() {
    let daemon = daemon();
    hers(&daemon);
    let at = daemon.path("hers");
    sh(&format!("ls {at}")).refused("Permission denied");
    let listed = daemon.cli(&["ls", "hers"]).ok().text();
    assert!(listed.contains("open") && listed.contains("sub"), "{listed}");
    for (command, op, path) in [
        (format!("cp /etc/hostname {at}/new"), "create", "hers/new"),
        (format!("chmod 600 {at}/new"), "set_mode", "hers/new"),
        (format!("mkdir {at}/dir"), "mkdir", "hers/dir"),
        (format!("mv {at}/new {at}/dir/moved"), "rename", "hers/new"),
        (format!("rm {at}/dir/moved"), "remove", "hers/dir/moved"),
        (format!("rmdir {at}/dir"), "rmdir", "hers/dir"),
    ] {
        let done = attempt(ROOT, &command);
        done.printed();
        done.allowed(&daemon, op, path, "");
    }
    // The conditions that he set he sees.
    let script = format!(
        "import os; f = \"{at}/open\"; os.setxattr(f, \"user.pinfold.exe\", b\"/usr/bin/cat\"); \
         print(os.getxattr(f, \"user.pinfold.exe\"))"
    );
    assert_eq!(sh(&format!("/usr/bin/python3 -c '{script}'")).quiet(), "b'/usr/bin/cat'\n");
    // Given search permission, he has what the mode of the file gives him.
    sh(&format!("cat {at}/sub/deep")).refused("Permission denied");
    sh(&format!("chmod 711 {at}")).quiet();
    assert_eq!(sh(&format!("cat {at}/sub/deep")).quiet(), "deep");
}

#[test]
fn who_comes_by_a_bind_mount_is_not_in_the_way_of_the_directories_above() {
    let daemon = daemon();
    hers(&daemon);
    let (sub, there) = (daemon.path("hers/sub"), daemon.file("there").display().to_string());
    sh(&format!("mkdir {there} && touch {there}.file")).quiet();
    let bound = |wrapper: &str, command: &str| {
        sh(&format!(
            "unshare --mount sh -c 'mount --bind {sub} {there} && mount --bind {0} {there}.file && exec {wrapper} {command}'",
            daemon.path("hers/open")
        ))
    };
    for wrapper in ["", CAPABLE, "setpriv --reuid=2002 --regid=2002 --clear-groups"] {
        assert_eq!(bound(wrapper, &format!("cat {there}/deep")).quiet(), "deep", "{wrapper}");
        assert_eq!(bound(wrapper, &format!("ls {there}")).quiet(), "deep\n", "{wrapper}");
        assert_eq!(bound(wrapper, &format!("cat {there}.file")).quiet(), "below", "{wrapper}");
    }
    // A mount that leads elsewhere opens nothing.
    bound("", &format!("ls {}", daemon.path("hers"))).refused("Permission denied");
    bound("", &format!("cat {}/../link", daemon.path("hers/sub"))).refused("");
    sh(&format!("cat {sub}/deep")).refused("Permission denied");
}

#[test]
fn who_holds_a_descriptor_and_no_capability_is_judged_by_it() {
    let daemon = daemon();
    hers(&daemon);
    let look = python(&daemon, "look.py");
    let ran = Ran::by(ROOT, &format!("{look} --beneath {} deep", daemon.path("hers/sub")));
    assert_eq!(ran.came("open"), "saw deep");
    // The descriptor's own directory is asked by the kernel.
    let ran = Ran::by(ROOT, &format!("{look} --beneath {} open", daemon.path("hers")));
    assert_eq!(ran.came("open"), "EACCES");
}

#[test]
fn a_secret_of_another_is_closed_to_a_stranger_and_to_root() {
    let daemon = daemon();
    let at = daemon.path("pin");
    sh(&format!("echo -n 1234 | install -m 0600 -o 2001 -g 2001 /dev/stdin {at}")).quiet();
    let stranger = attempt(BOB, &format!("cat {at}")).refused("Permission denied");
    stranger.denied(&daemon, "probe", "pin", "open O_RDONLY: not allowed: other");
    let root = attempt(ROOT, &format!("cat {at}")).refused("Permission denied");
    root.denied(&daemon, "open", "pin", "not allowed: other");
    assert_eq!(attempt(ALICE, &format!("cat {at}")).printed(), "1234");
}

#[test]
fn a_file_handle_opens_no_secret_and_no_directory_of_another() {
    let daemon = daemon();
    hers(&daemon);
    let calls = python(&daemon, "calls.py");
    let by_handle =
        |user: User, path: &str| Ran::by(user, &format!("{calls} handle {} {}", daemon.path(""), daemon.path(path)));
    sh(&format!("echo -n 1234 | install -m 0600 -o 2001 -g 2001 /dev/stdin {}", daemon.path("pin"))).quiet();
    let root = by_handle(ROOT, "pin");
    assert_eq!(root.came("open"), "EACCES");
    daemon.await_audit("root's denial", |e| e["op"] == "open" && e["pid"] == root.pid && e["decision"] == "denied");
    let root = by_handle(ROOT, "hers/sub/deep");
    assert_eq!(root.came("open"), "EACCES");
    assert_ne!(by_handle(BOB, "pin").came("open"), "done");
}
