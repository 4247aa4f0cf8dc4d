//! What `pinfold doctor` looks at for the audit log and the store: their filesystems, and how much room the log has.

use super::doctor::{Check, Machine};
use crate::config::Config;
use crate::control::client::Client;
use crate::wire::{GetStatus, Status};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use nix::sys::statvfs::statvfs;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// How the daemon is; `None` if it does not answer.
pub(super) fn ask(config: &Config) -> Option<Status> {
    Client::connect(config).and_then(|mut client| client.call(&GetStatus {})).ok()
}

/// What the daemon says of tomorrow's quantum computer; nothing while it is locked.
pub(super) fn quantum(status: Option<&Status>) -> Option<Check> {
    status?.quantum.as_ref().map(|found| Check::ok("quantum", found.clone()))
}

impl Machine<'_> {
    pub(super) fn log(&self, config: &Config, status: Option<&Status>) -> Check {
        let what = "audit log";
        let folder = config.audit_log.parent().unwrap_or(Path::new("/"));
        let shown = folder.display();
        if let Some(status) = status.filter(|status| status.audit_full) {
            let found = format!("its disk is full: {} bytes of lines are left", status.audit_reserve);
            let todo = format!("make room below {shown}: then nothing opens, as audit_full says");
            return Check::fail(what, found, todo);
        }
        let Some((device, free)) = there(folder) else {
            return Check::warn(what, format!("{shown} cannot be looked at"), "run it as root");
        };
        if there(&config.store).is_some_and(|(store, _)| store == device) {
            return Check::warn(
                what,
                "it shares a filesystem with the store: whichever fills it stops both",
                format!("a filesystem of its own for {shown}, of audit_space and more"),
            );
        }
        let used: u64 = size(folder, &config.audit_log);
        let wanted = config.audit_space.saturating_sub(used);
        if free < wanted {
            let found = format!("{free} bytes are free, and audit_space lets it grow by {wanted}");
            return Check::warn(what, found, "a smaller audit_space, or a larger disk");
        }
        Check::ok(what, format!("{shown}, a filesystem of its own"))
    }

    pub(super) fn store(&self, config: &Config) -> Check {
        let store = config.store.display();
        match fs::symlink_metadata(&config.store) {
            Ok(meta) if meta.is_dir() => match statfs(&config.store) {
                Ok(of) if of.filesystem_type() == TMPFS_MAGIC => Check::warn(
                    "store",
                    format!("{store} is on tmpfs: all secrets are gone after a reboot"),
                    "a store on a disk, or bundles of a console that bring them back",
                ),
                Ok(_) | Err(_) => Check::ok("store", store.to_string()),
            },
            Ok(_) => Check::fail("store", format!("{store} is no folder"), "move it away; pinfold init"),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Check::warn("store", format!("{store} is not there"), "pinfold init")
            }
            Err(error) => Check::warn("store", format!("{store}: {error}"), "run it as root"),
        }
    }
}

/// The filesystem of a path, or of the first folder above that is there; and the bytes that are free on it.
fn there(path: &Path) -> Option<(u64, u64)> {
    path.ancestors().find_map(|path| {
        let device = fs::metadata(path).ok()?.dev();
        let of = statvfs(path).ok()?;
        Some((device, of.blocks_available() * of.fragment_size()))
    })
}

/// What the log and its old files take.
fn size(folder: &Path, log: &Path) -> u64 {
    let Some(name) = log.file_name() else { return 0 };
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let ours = entries.filter(|e| e.file_name().as_encoded_bytes().starts_with(name.as_encoded_bytes()));
    ours.filter_map(|e| e.metadata().ok()).map(|meta| meta.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::super::doctor::Verdict;
    use super::*;

    #[test]
    fn a_log_that_shares_a_filesystem_with_the_store_is_told_of_and_a_full_one_fails() {
        let home = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir_in("/dev/shm").unwrap();
        let machine = Machine { root: home.path() };
        let mut config = Config {
            store: home.path().join("store"),
            audit_log: home.path().join("log/audit.log"),
            audit_space: 1 << 20,
            ..Config::default()
        };
        assert_eq!(machine.log(&config, None).outcome, Verdict::Warn);
        config.audit_log = elsewhere.path().join("audit.log");
        assert_eq!(machine.log(&config, None).outcome, Verdict::Ok);
        config.audit_space = 1 << 60;
        assert_eq!(machine.log(&config, None).outcome, Verdict::Warn);
        let status = Status { audit_full: true, ..Status::default() };
        assert_eq!(machine.log(&config, Some(&status)).outcome, Verdict::Fail);
        config.store = elsewhere.path().into();
        assert_eq!(machine.store(&config).outcome, Verdict::Warn);
    }
}
