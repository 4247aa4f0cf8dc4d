//! What rsync, cp and tar say and do over a tree whose secrets have conditions, as docs/using.md tells it.

use crate::common;

use common::process::Out;
use common::{ALICE, Daemon, ROOT, sh};

const UNIT: &str = "user.pinfold.unit";
const EXPIRES: &str = "user.pinfold.expires";
/// A folder with the same files and no conditions, on a file system that has attributes.
const PLAIN: &str = "/scratch/plain";
/// A copy of the bound tree.
const COPY: &str = "/scratch/copy";

/// A script in the root of the tree.
fn at(daemon: &Daemon, script: &str) -> Out {
    sh(&format!("cd {} && {script}", daemon.root().display()))
}

/// What an attribute of `d/pin` says.
#[track_caller]
fn attribute(daemon: &Daemon, name: &str) -> String {
    at(daemon, &format!("getfattr --only-values -n {name} d/pin")).quiet()
}

/// `d/pin` of alice's, for a unit, until the end of some year; and beside it one without conditions.
#[track_caller]
fn bound() -> Daemon {
    sh(&format!(
        "set -e; rm -rf {PLAIN} {COPY}; mkdir {PLAIN} {COPY}; cd {PLAIN}
         echo 1234 >pin; echo 5678 >other; chmod 600 *; chown 2001:2001 pin"
    ))
    .quiet();
    let daemon = Daemon::start();
    at(&daemon, &format!("mkdir -m 755 d; rsync -aX {PLAIN}/ d/; chmod 755 d")).quiet();
    sh(&format!("chmod 755 {PLAIN}")).quiet();
    daemon.cli(&["condition", "d/pin", "--unit", "right.service", "--expires", "2900-01-01T00:00:00Z"]).ok();
    daemon
}

/// Both conditions are there, and hold.
#[track_caller]
fn holds(daemon: &Daemon) {
    assert_eq!(attribute(daemon, UNIT), "right.service");
    assert_eq!(attribute(daemon, EXPIRES), "2900-01-01T00:00:00Z");
    ALICE.sh(&format!("cat {}", daemon.path("d/pin"))).refused("Permission denied");
}

#[test]
fn rsync_takes_no_condition_away_however_often_it_runs() {
    let daemon = bound();
    let rsync = |options: &str| at(&daemon, &format!("rsync {options} {PLAIN}/ d/"));
    for _ in 0..2 {
        let out = rsync("-aX").refused("Operation not permitted");
        assert_eq!(out.code, 23, "{}", out.stderr);
        assert!(out.stderr.contains("lremovexattr") && out.stderr.contains(UNIT), "{}", out.stderr);
        holds(&daemon);
        assert_eq!(daemon.versions("d/pin"), [1]);
    }
    let told = ROOT.sh(&format!("cat {}", daemon.path(".pinfold/last-error"))).quiet();
    assert!(told.contains("pinfold condition PATH --clear NAME"), "{told}");
    daemon.await_audit("the refusal", |event| {
        event["op"] == "set_xattr" && event["decision"] == "denied" && event["path"] == "d/pin" && event["uid"] == 0
    });
    // New content comes by a rename, and takes the conditions over.
    sh(&format!("echo 12345 >{PLAIN}/pin")).quiet();
    rsync("-aX").quiet();
    holds(&daemon);
    assert_eq!(daemon.versions("d/pin"), [1, 2]);
    // As the page says: with the filter, or without -X, it says nothing and leaves them.
    rsync("-aX --filter='-x user.pinfold.*'").quiet();
    rsync("-a").quiet();
    sh(&format!("echo 123456 >{PLAIN}/pin")).quiet();
    rsync("-a --inplace").quiet();
    assert_eq!(daemon.versions("d/pin"), [1, 2, 3]);
    rsync("-aX --delete --delete-before --filter='-x user.pinfold.*'").quiet();
    holds(&daemon);
}

#[test]
fn rsync_carries_conditions_there_and_back_and_sets_none_that_lets_more_in() {
    let daemon = bound();
    // Who may read it takes it along with its conditions.
    daemon.cli(&["condition", "d/pin", "--clear", "unit"]).ok();
    ALICE.sh(&format!("cp -a {} /tmp/pin-of-alice && rm /tmp/pin-of-alice", daemon.path("d/pin"))).quiet();
    at(&daemon, &format!("chown 0:0 d/pin && rsync -aX d/ {COPY}/")).quiet();
    assert_eq!(
        sh(&format!("getfattr --absolute-names --only-values -n {EXPIRES} {COPY}/pin")).quiet(),
        "2900-01-01T00:00:00Z"
    );
    let back = || at(&daemon, &format!("rsync -aX {COPY}/ d/"));
    back().quiet();
    back().quiet();
    // An earlier end comes back; a later one does not, nor another unit.
    daemon.cli(&["condition", "d/pin", "--expires", "2901-01-01T00:00:00Z"]).ok();
    back().quiet();
    assert_eq!(attribute(&daemon, EXPIRES), "2900-01-01T00:00:00Z");
    daemon.cli(&["condition", "d/pin", "--expires", "2899-01-01T00:00:00Z", "--unit", "right.service"]).ok();
    assert_eq!(back().refused("Operation not permitted").code, 23);
    sh(&format!("setfattr -n {UNIT} -v wrong.service {COPY}/pin; echo 12345 >{COPY}/pin")).quiet();
    // Also with new content: the rename is refused, and the old version stays.
    assert_eq!(back().refused("Operation not permitted").code, 23);
    assert_eq!(
        (attribute(&daemon, EXPIRES).as_str(), attribute(&daemon, UNIT).as_str()),
        ("2899-01-01T00:00:00Z", "right.service")
    );
    assert_eq!(daemon.versions("d/pin"), [1]);
}

#[test]
fn cp_and_tar_leave_conditions_where_they_are() {
    let daemon = bound();
    at(&daemon, &format!("cp -a {PLAIN}/pin d/pin")).quiet();
    holds(&daemon);
    at(&daemon, &format!("install -m 600 -o 2001 -g 2001 {PLAIN}/pin d/pin")).quiet();
    holds(&daemon);
    at(
        &daemon,
        &format!("tar --xattrs -C {PLAIN} -cf /scratch/plain.tar . && tar --xattrs -C d -xpf /scratch/plain.tar"),
    )
    .quiet();
    holds(&daemon);
    at(&daemon, &format!("rm d/pin && cp -a {PLAIN}/pin d/pin")).quiet();
    holds(&daemon);
    // One that brings others: cp -a writes the content, and says nothing of the attributes it may not set.
    sh(&format!("setfattr -n {UNIT} -v wrong.service {PLAIN}/pin")).quiet();
    at(&daemon, &format!("cp -a {PLAIN}/pin d/pin")).quiet();
    holds(&daemon);
    at(&daemon, &format!("cp --preserve=mode,xattr {PLAIN}/pin d/pin")).refused("Operation not permitted");
    // From another file system mv(1) removes, and copies as cp does; it tells of the attribute.
    let moved = at(&daemon, &format!("mv {PLAIN}/pin d/pin")).ok();
    assert!(moved.stderr.contains("Operation not permitted"), "{}", moved.stderr);
    holds(&daemon);
    at(&daemon, "echo bad >d/wrong; setfattr -n user.pinfold.unit -v wrong.service d/wrong").quiet();
    at(&daemon, "mv d/wrong d/pin").refused("Operation not permitted");
    holds(&daemon);
}
