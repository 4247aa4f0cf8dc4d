//! Homes of the accounts of admins: one for each, one that all share, or none.
//!
//! Owns their owners and modes. Nothing that one admin leaves behind may run as another: what lies in a home is read by
//! sshd(8) and by shells before anybody is asked.

use super::Failure;
use crate::config::{AccountsOf, Homes};
use crate::exit::Exit;
use crate::trust::{self, Owners};
use nix::unistd::Gid;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The home of an account, as passwd(5) is to have it.
pub(super) fn of(accounts: &AccountsOf, user: &str) -> PathBuf {
    match (&accounts.home, accounts.homes) {
        (None, _) => "/nonexistent".into(),
        (Some(home), Homes::Own) => home.join(user),
        (Some(home), Homes::Shared | Homes::Writable) => home.clone(),
    }
}

/// The folder of all homes, or the one home: made as it is to be. One that is there must be as safe.
pub(super) fn prepare(accounts: &AccountsOf, gid: Gid) -> Result<(), Failure> {
    let Some(home) = &accounts.home else { return Ok(()) };
    let failed = |e: io::Error| Failure::new(Exit::Failed, format!("{}: {e}", home.display()));
    let (group, mode) = match accounts.homes {
        Homes::Own => (0, 0o755),
        Homes::Shared => (gid.as_raw(), 0o750),
        Homes::Writable => (gid.as_raw(), 0o2770),
    };
    match DirBuilder::new().mode(0o700).create(home) {
        Ok(()) => {
            std::os::unix::fs::chown(home, Some(0), Some(group)).map_err(failed)?;
            std::fs::set_permissions(home, PermissionsExt::from_mode(mode)).map_err(failed)
        }
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => match (accounts.homes, unsafe_folder(home)) {
            (Homes::Writable, _) | (_, None) => Ok(()),
            (Homes::Own | Homes::Shared, Some(why)) => {
                let todo = format!(
                    "chown root:root {0} && chmod {mode:04o} {0}, after a look at what is in it",
                    home.display()
                );
                Err(Failure::new(Exit::Refused, format!("{}: {why}", home.display())).hint(todo))
            }
        },
        Err(e) => Err(failed(e)),
    }
}

/// What is wrong with a folder that root alone is to write.
pub(super) fn unsafe_folder(folder: &Path) -> Option<String> {
    match std::fs::symlink_metadata(folder) {
        Err(e) => Some(e.to_string().to_lowercase()),
        Ok(meta) if !meta.is_dir() => Some("it is no directory".into()),
        Ok(meta) => trust::other_writer(&meta, Owners::Root).map(|other| other.to_string()),
    }
}

/// What is wrong with the home of one account.
pub(super) fn unsafe_home(home: &Path, uid: u32) -> Option<String> {
    match std::fs::symlink_metadata(home) {
        Err(e) => Some(e.to_string().to_lowercase()),
        Ok(meta) if !meta.is_dir() => Some("it is no directory".into()),
        Ok(meta) => trust::other_user(&meta, Owners::Only(uid)).map(|other| other.to_string()),
    }
}

/// Makes the account's own home, where each has one. What somebody else left under that name stays, and is refused.
pub(super) fn make(accounts: &AccountsOf, user: &str, uid: u32, gid: Gid) -> Result<(), Failure> {
    if accounts.home.is_none() || accounts.homes != Homes::Own {
        return Ok(());
    }
    let home = of(accounts, user);
    let failed = |e: io::Error| Failure::new(Exit::Failed, format!("{}: {e}", home.display()));
    match DirBuilder::new().mode(0o700).create(&home) {
        Ok(()) => {
            let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC;
            let opened: File = OpenOptions::new().read(true).custom_flags(flags).open(&home).map_err(failed)?;
            opened.set_permissions(PermissionsExt::from_mode(0o700)).map_err(failed)?;
            std::os::unix::fs::fchown(&opened, Some(uid), Some(gid.as_raw())).map_err(failed)
        }
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => match unsafe_home(&home, uid) {
            None => Ok(()),
            Some(why) => Err(Failure::new(Exit::Refused, format!("{}: {why}", home.display()))
                .hint("move it away; pinfold accounts apply makes another")),
        },
        Err(e) => Err(failed(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    fn mode(path: &Path) -> u32 {
        std::fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn each_has_a_home_that_nobody_else_gets_into() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().join("admins");
        let accounts = AccountsOf { home: Some(home.clone()), ..AccountsOf::default() };
        let gid = nix::unistd::getgid();
        assert_eq!(of(&accounts, "ann"), home.join("ann"));
        if nix::unistd::geteuid().is_root() {
            prepare(&accounts, gid).unwrap();
            prepare(&accounts, gid).unwrap();
            assert_eq!(mode(&home), 0o755);
            make(&accounts, "ann", 70_000, gid).unwrap();
            make(&accounts, "ann", 70_000, gid).unwrap();
            assert_eq!((mode(&home.join("ann")), std::fs::metadata(home.join("ann")).unwrap().uid()), (0o700, 70_000));
            // What another uid left there, and what is no directory.
            assert!(make(&accounts, "ann", 70_001, gid).unwrap_err().message().contains("belongs to uid 70000"));
            std::os::unix::fs::symlink("/", home.join("bob")).unwrap();
            assert!(make(&accounts, "bob", 70_002, gid).unwrap_err().message().contains("no directory"));
            // A home of the group's, as an earlier version made it.
            std::fs::set_permissions(&home, PermissionsExt::from_mode(0o2770)).unwrap();
            assert!(prepare(&accounts, gid).unwrap_err().message().contains("can write it"));
            let writable = AccountsOf { homes: Homes::Writable, ..accounts.clone() };
            prepare(&writable, gid).unwrap();
            assert_eq!(of(&writable, "ann"), home);
            let shared = AccountsOf { homes: Homes::Shared, home: Some(folder.path().join("one")), ..accounts };
            prepare(&shared, gid).unwrap();
            assert_eq!(mode(&folder.path().join("one")), 0o750);
        }
        assert_eq!(of(&AccountsOf::default(), "ann"), Path::new("/nonexistent"));
    }
}
