//! The tools an admin has, on the mounted tree: they work as on any file system, and without a word of complaint.

mod common;

use common::{ALICE, in_the_lab, sh};

#[test]
fn the_lab_has_what_the_tests_need() {
    in_the_lab();
    for tool in [
        "age",
        "attr",
        "curl",
        "dash",
        "dscreate",
        "find",
        "fusermount3",
        "getfacl",
        "getfattr",
        "gocryptfs",
        "htpasswd",
        "inotifywait",
        "install",
        "keyctl",
        "ldapwhoami",
        "losetup",
        "mkfs.ext4",
        "nginx",
        "ns-slapd",
        "openssl",
        "rsync",
        "setfacl",
        "setfattr",
        "setpriv",
        "socat",
        "sshd",
        "strace",
        "tar",
        "vim",
    ] {
        sh(&format!("command -v {tool}")).quiet();
    }
    assert_eq!(sh("systemctl is-system-running --wait").text(), "running\n", "{}", sh("systemctl --failed").text());
    assert!(sh("cat /proc/self/cgroup").quiet().contains("0::/system.slice/lab-job.service"));
    assert_eq!(ALICE.sh("id -u; id -G").quiet(), "2001\n2001 3001\n");
    sh("dd if=/dev/zero of=/tmp/image bs=1M count=20 status=none && mkfs.ext4 -q /tmp/image && mkdir -p /tmp/there \
        && mount -o loop /tmp/image /tmp/there && umount /tmp/there && rm /tmp/image")
    .quiet();
}
