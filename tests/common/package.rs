//! The package, installed as an admin does it, in its own paths; dropping it purges it.
//!
//! Owns the one installation of the lab: its store, its configuration, its units, and a test's units beside them.

use super::{daemon, sh, wait_for};
use std::path::Path;
use std::time::Duration;

/// How long a unit may take to get where it is to be.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Where its unit mounts.
pub const TREE: &str = "/run/secrets";
/// Where a test's own units are.
const UNITS: &str = "/run/systemd/system";

/// The package, installed.
pub struct Package {
    units: Vec<String>,
}

impl Package {
    pub fn file() -> String {
        super::in_the_lab();
        std::env::var("PINFOLD_DEB").expect("PINFOLD_DEB names the package: run make test-systemd")
    }

    pub fn install() -> Self {
        // The lab's own: no package may start or stop anything. Here that is what is tested.
        let _ = std::fs::rename("/usr/sbin/policy-rc.d", "/usr/sbin/policy-rc.d.off");
        sh(&format!("dpkg -i {}", Self::file())).ok();
        Package { units: Vec::new() }
    }

    /// Installed, with a store, served and unlocked.
    pub fn serving() -> Self {
        let package = Self::install();
        package.init();
        sh("systemctl start pinfold").ok();
        package.unlock();
        package
    }

    pub fn init(&self) {
        sh("umask 077; echo horse > /root/passphrase; pinfold init --passphrase-file /root/passphrase --recovery-out /root/recovery.key").ok();
        // What is installed is not what was built for tests: a passphrase costs what the documents say.
        sh("grep -aqE '^-> scrypt [^ ]+ 17$' /var/lib/pinfold/identity.age").ok();
    }

    pub fn unlock(&self) {
        sh("pinfold unlock --passphrase-file /root/passphrase").ok();
    }

    /// A unit of the test's own.
    pub fn unit(&mut self, name: &str, text: &str) {
        std::fs::write(Path::new(UNITS).join(name), text).expect("a unit of ours");
        sh("systemctl daemon-reload").ok();
        self.units.push(name.to_owned());
    }
}

impl Drop for Package {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", sh("journalctl -n 80 --no-pager; systemctl list-jobs --no-pager").text());
            if let Some(number) = daemon::connection(Path::new(TREE)) {
                let _ = std::fs::write(format!("/sys/fs/fuse/connections/{number}/abort"), "1");
            }
        }
        for unit in &self.units {
            let _ = sh(&format!("systemctl stop {unit}; rm -f {UNITS}/{unit}"));
        }
        let _ = sh(
            "dpkg --purge pinfold; rm -rf /var/lib/pinfold /var/log/pinfold /etc/pinfold /root/passphrase /root/recovery.key",
        );
        let _ = sh("systemctl daemon-reload; systemctl reset-failed");
    }
}

/// Its ActiveState.
pub fn state(unit: &str) -> String {
    sh(&format!("systemctl is-active {unit}")).text().trim().to_owned()
}

/// Waits for it.
#[track_caller]
pub fn await_state(unit: &str, wanted: &str) {
    wait_for(&format!("{unit} to be {wanted}, it is {}", state(unit)), PATIENCE, || {
        (state(unit) == wanted).then_some(())
    });
}
