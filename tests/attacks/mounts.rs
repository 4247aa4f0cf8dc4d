//! What root can do with the mount itself: idmapped copies of it, and copies elsewhere.

use crate::common::{Daemon, ROOT, sh};
use std::path::{Path, PathBuf};

/// A file, readable by its uid alone, and what root reads of it through an idmapped copy of the mount it lies on.
fn through_idmap(source: &Path, file: &str, uid: u32) -> (String, String) {
    let target = tempfile::tempdir().expect("a folder");
    let program = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/attacks/programs/idmap.py"));
    // In a mount namespace of its own: nothing is left, however it ends.
    let script = format!(
        "unshare --mount --propagation private sh -c '/usr/bin/python3 {} {} {} {uid}; cat {}/{file} 2>&1'",
        program.display(),
        source.display(),
        target.path().display(),
        target.path().display()
    );
    let said = sh(&script).text();
    let (mapped, read) = said.split_once('\n').unwrap_or_else(|| panic!("{said}"));
    (mapped.to_owned(), read.trim_end().to_owned())
}

#[test]
fn an_idmapped_copy_of_the_mount_is_refused() {
    // The program works: on a tmpfs, the copy shows the uid's file as root's.
    let tmpfs = tempfile::tempdir().expect("a folder");
    let at = tmpfs.path().display();
    let script = format!(
        "mount -t tmpfs pinfold-test {at} && chmod 755 {at} && cd {at} && echo theirs > pin && chown 2001:2001 pin"
    );
    sh(&script).quiet();
    let shown = through_idmap(tmpfs.path(), "pin", 2001);
    let owner = sh(&format!("stat -c %u {at}/pin")).text();
    sh(&format!("umount {at}")).quiet();
    assert_eq!((shown.0.as_str(), owner.trim()), ("mapped", "2001"));
    assert_eq!(shown.1, "theirs");

    let daemon = Daemon::keyed("");
    sh(&format!("cd {} && echo secret > pin && chown 2001:2001 pin && chmod 600 pin", daemon.root().display())).quiet();
    let (mapped, read) = through_idmap(daemon.root(), "pin", 2001);
    // FUSE lets it be only where the daemon asked for it (FUSE_ALLOW_IDMAP), and it does not.
    assert_eq!(mapped, "mount_setattr Invalid argument");
    assert!(!read.contains("secret"), "{read}");
}

#[test]
fn a_copy_of_the_mount_elsewhere_opens_nothing_more() {
    let daemon = Daemon::keyed("");
    let root = daemon.root().display().to_string();
    sh(&format!("mkdir -m 755 {root}/d && cd {root}/d && echo secret > pin && chown 2001:2001 pin && chmod 600 pin"))
        .quiet();
    let tries = [
        // Without what the mount forbids, from another folder, read-write or not.
        "mount --bind $root /mnt && mount -o remount,bind,suid,dev,exec /mnt && cat /mnt/d/pin",
        "mount --bind $root/d /mnt && cat /mnt/pin",
        "mount --bind $root/d/pin /mnt/file && cat /mnt/file",
        "mount -t overlay -o lowerdir=$root/d none /mnt && cat /mnt/pin",
        "mount --bind $root /mnt && mount -o remount,default_permissions=0 /mnt; cat /mnt/d/pin",
    ];
    for tried in tries {
        let script = format!("root={root}; mount -t tmpfs none /mnt && touch /mnt/file; {tried}");
        let mut command = ROOT.command("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", &script]);
        let out = crate::common::process::run(command, b"", tried);
        assert!(!out.text().contains("secret") && out.code != 0, "{tried}: {}{}", out.text(), out.stderr);
    }
    daemon.await_denial("d/pin", 0);
}
