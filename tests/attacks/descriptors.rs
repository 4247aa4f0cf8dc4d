//! The identity's descriptor, which outlives the daemon: in its supervisor's hands, and through /proc.
//!
//! Whoever is the supervisor, or root on purpose, may map it: that is what it is for. By every other way it gives nothing.

use crate::common::{BOB, Daemon, Held, ROOT, Setup, sh, wait_for};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

#[test]
fn the_identity_s_descriptor_is_read_by_no_system_call_and_by_nobody_else() {
    let dir = tempfile::Builder::new().prefix("pinfold-supervisor-").tempdir().expect("a folder");
    fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).expect("it is ours");
    let socket = dir.path().join("notify");
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/attacks/programs/supervisor.py");
    let mut supervisor = Held::start(ROOT, &format!("exec /usr/bin/python3 {program} {}", socket.display()));
    assert_eq!(supervisor.line(), "ready");
    let binary = dir.path().join("pinfold");
    let script = format!(
        "#!/bin/sh\n[ \"$3\" = mount ] && export NOTIFY_SOCKET={} && set -- \"$@\" --hand-over\nexec {} \"$@\"\n",
        socket.display(),
        env!("CARGO_BIN_EXE_pinfold")
    );
    crate::common::program(&binary, &script);
    let daemon = Daemon::keyed_with(Setup { binary: Some(binary), ..Setup::default() });
    let taken = supervisor.line();
    assert!(taken.starts_with("taken /secretmem"), "{taken}");
    supervisor.go_on();
    let mut tried = 0;
    loop {
        let line = supervisor.line();
        if line == "done" {
            break;
        }
        assert!(line.contains(" refused "), "{line}");
        tried += 1;
    }
    assert_eq!(tried, 8);

    // The same one in the daemon.
    let pid = daemon.pid();
    let fd = wait_for("the descriptor", Duration::from_secs(10), || {
        let found = sh(&format!("find /proc/{pid}/fd -lname '/secretmem*' -printf '%f\\n'")).text();
        found.lines().next().map(str::to_owned)
    });
    for user in [ROOT, BOB] {
        for tried in [
            format!("head -c 4096 /proc/{pid}/fd/{fd}"),
            format!("dd if=/proc/{pid}/fd/{fd} bs=4096 count=1 status=none"),
            format!("cp /proc/{pid}/fd/{fd} /dev/stdout"),
            format!("exec 3<>/proc/{pid}/fd/{fd} && head -c 4096 <&3"),
            format!("grep -a AGE-SECRET-KEY /proc/{pid}/environ /proc/{pid}/cmdline"),
        ] {
            let out = user.sh(&tried);
            assert!(out.code != 0 && !out.text().contains("AGE"), "uid {}: {tried}: {}", user.uid, out.text());
        }
    }
    BOB.sh(&format!("ls /proc/{pid}/fd")).refused("Permission denied");
    // A lock empties it, whoever holds it. The supervisor's own end needs the daemon's no more.
    drop(daemon);
    supervisor.go_on();
    supervisor.end();
}
