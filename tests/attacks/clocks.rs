//! A clock that jumps, under a running daemon: whoever sets it, by a time server's answer say, neither revives what has expired nor
//! ends for good what has not.
//!
//! The daemon is told the time by a library that is loaded before it; the machine's own clock stays as it is.

use crate::common::{BOB, Daemon, Out, Setup, sh, wait_for};
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, SystemTime};

const DAY: i64 = 86_400;

/// The daemon's clock: `by` seconds ahead of the machine's.
struct Clock(tempfile::TempDir);

impl Clock {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("pinfold-clock-").tempdir().expect("a folder");
        fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).expect("it is ours");
        let (source, library) = (dir.path().join("clock.c"), dir.path().join("clock.so"));
        fs::write(&source, include_str!("programs/clock.c")).expect("it is ours");
        let built = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).args([&library, &source]).status();
        assert!(built.expect("a C compiler").success());
        let script = format!(
            "#!/bin/sh\nexport LD_PRELOAD={} CLOCK_OFFSET={}\nexec {} \"$@\"\n",
            library.display(),
            dir.path().join("offset").display(),
            env!("CARGO_BIN_EXE_pinfold")
        );
        crate::common::program(&dir.path().join("pinfold"), &script);
        let clock = Clock(dir);
        clock.jump(0);
        clock
    }

    /// The binary, run under this clock.
    fn binary(&self) -> Option<PathBuf> {
        Some(self.0.path().join("pinfold"))
    }

    fn jump(&self, by: i64) {
        let file = fs::File::options().create(true).truncate(false).write(true).open(self.0.path().join("offset"));
        file.expect("it is ours").write_all_at(&by.to_ne_bytes(), 0).expect("it is ours");
    }
}

#[test]
fn what_has_expired_stays_so_when_the_clock_is_set_back() {
    let clock = Clock::new();
    let daemon = Daemon::keyed_with(Setup { binary: clock.binary(), ..Setup::default() });
    let at = SystemTime::now() + Duration::from_secs(4);
    let at = humantime::format_rfc3339_seconds(at);
    let root = daemon.root().display();
    sh(&format!("cd {root} && echo one > pin && chmod 644 pin && setfattr -n user.pinfold.expires -v {at} pin"))
        .quiet();
    let read = || BOB.sh(&format!("cat {root}/pin"));
    assert_eq!(read().quiet(), "one\n");
    let expired = |out: Out| out.code != 0 && out.stderr.contains("Key has expired");
    wait_for("its end", Duration::from_secs(30), || expired(read()).then_some(()));
    for by in [-3600, -400 * DAY, 3600, -1] {
        clock.jump(by);
        let out = read();
        assert!(expired(out), "{by} seconds");
        assert_ne!(daemon.cli(&["publish", "pin", "--to", "2002"]).code, 0, "{by} seconds: as a key");
    }
    // A clock that was ahead for a moment takes nothing away for good.
    clock.jump(0);
    let at = humantime::format_rfc3339_seconds(SystemTime::now() + Duration::from_secs(3600));
    sh(&format!("cd {root} && echo two > next && chmod 644 next && setfattr -n user.pinfold.expires -v {at} next"))
        .quiet();
    clock.jump(2 * DAY);
    BOB.sh(&format!("cat {root}/next")).refused("Key has expired");
    clock.jump(0);
    assert_eq!(BOB.sh(&format!("cat {root}/next")).quiet(), "two\n");
}
