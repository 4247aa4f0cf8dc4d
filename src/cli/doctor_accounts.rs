//! What `pinfold doctor` looks at where the admins of consoles have accounts: the accounts, their homes, what sshd reads, and the
//! folders of the tree that it reads it from.
//!
//! Owns these checks. They look and change nothing.

use super::account_home::{unsafe_folder, unsafe_home};
use super::doctor::{Check, Machine};
use super::doctor_host::Known;
use crate::config::{AccountsOf, Config, Homes};
use crate::model::AUTHORIZED_KEYS;
use crate::wire::{Entry, NodeKind};
use std::path::Path;

/// Where sshd is told about keys.
const SSHD: &str = "etc/ssh/sshd_config";
/// What sshd reads if it is not told.
const USUAL: &str = ".ssh/authorized_keys .ssh/authorized_keys2";

impl Machine<'_> {
    /// All of it; where no group is configured, only what sshd would go through all the same.
    pub(super) fn admins(&self, config: &Config, known: &Known) -> Vec<Check> {
        let mut checks: Vec<Check> = served(&known.served).into_iter().collect();
        if let Some(group) = &config.accounts.group {
            checks.extend([accounts(known), self.homes(&config.accounts, known), self.sshd(config, group)]);
        }
        checks
    }

    /// Whether what one admin leaves behind can run, or log in, as another.
    fn homes(&self, accounts: &AccountsOf, known: &Known) -> Check {
        let what = "homes of admins";
        let Some(home) = &accounts.home else { return Check::ok(what, "they have none") };
        let shown = home.display();
        if accounts.homes == Homes::Writable {
            let found = format!(
                "all share {shown} and all write it: what one of them leaves there (.profile, .ssh/authorized_keys) runs, and \
                 logs in, as the others, also after the console took them away"
            );
            return Check::warn(what, found, "accounts.homes = \"own\", or \"shared\"");
        }
        if std::fs::symlink_metadata(self.below(home)).is_err() {
            return Check::ok(what, format!("{shown} is made with the first account"));
        }
        if let Some(why) = unsafe_folder(&self.below(home)) {
            return Check::fail(what, format!("{shown}: {why}"), format!("chown root {shown} && chmod go-w {shown}"));
        }
        for account in known.accounts.iter().filter(|a| a.wanted && a.made && !a.locked) {
            let Some(entry) = self.entry("etc/passwd", &account.user) else { continue };
            let there = entry.get(5).map(String::as_str).unwrap_or_default();
            let wanted = super::account_home::of(accounts, &account.user);
            if Path::new(there) != wanted {
                let user = &account.user;
                let todo = format!("install -d -m 0700 -o {user} {0} && usermod --home {0} {user}", wanted.display());
                return Check::fail(what, format!("{user} has {there}"), todo);
            }
            let wrong = account.uid.and_then(|uid| unsafe_home(&self.below(&wanted), uid));
            if let (Homes::Own, Some(why)) = (accounts.homes, wrong) {
                let todo = format!("move it away; install -d -m 0700 -o {} {there}", account.user);
                return Check::fail(what, format!("{there}: {why}"), todo);
            }
        }
        Check::ok(what, format!("below {shown}, each its own"))
    }

    fn sshd(&self, config: &Config, group: &str) -> Check {
        let what = "sshd";
        let wanted = format!("{}/{AUTHORIZED_KEYS}/%u", config.mountpoint.display());
        let todo = format!("in /{SSHD}, at its end: Match Group {group} / AuthorizedKeysFile {wanted}");
        let mut files = Vec::new();
        let folder = format!("{SSHD}.d");
        if let Ok(entries) = std::fs::read_dir(self.root.join(&folder)) {
            files.extend(entries.flatten().map(|e| format!("{folder}/{}", e.file_name().to_string_lossy())));
        }
        files.sort();
        files.push(SSHD.to_owned());
        let texts: Vec<String> = files.iter().filter_map(|file| self.read(file)).collect();
        let reads = keys_files(&texts, group);
        let others: Vec<&str> = reads.iter().map(String::as_str).filter(|file| *file != wanted).collect();
        if others.len() == reads.len() {
            return Check::warn(what, "it does not read the keys of the admins", todo);
        }
        if others.is_empty() {
            return Check::ok(what, format!("of the members of {group} it reads {wanted} alone"));
        }
        let found = format!("beside {wanted} it reads {}, which a console cannot take back", others.join(" "));
        match config.accounts.homes {
            // With what anybody of them put there, one logs in as any other.
            Homes::Writable => Check::fail(what, found, todo),
            Homes::Own | Homes::Shared => Check::warn(what, found, todo),
        }
    }
}

fn accounts(known: &Known) -> Check {
    let pending = |a: &&crate::wire::AccountInfo| match a.wanted {
        true => a.uid.is_none() || a.locked,
        false => a.made && !a.locked,
    };
    let names: Vec<&str> = known.accounts.iter().filter(pending).map(|a| a.user.as_str()).collect();
    if !names.is_empty() {
        let found = format!("not as they should be: {}", names.join(", "));
        return Check::warn("accounts", found, "pinfold accounts apply");
    }
    let locked = known.accounts.iter().filter(|a| a.locked).count();
    let there = known.accounts.len() - locked;
    Check::ok("accounts", format!("{there} accounts of admins, and {locked} that are kept locked"))
}

/// The folders that sshd goes through: with one that is not root's, somebody else decides who logs in.
fn served(folders: &[Entry]) -> Option<Check> {
    let bad = folders.iter().find(|e| e.kind != NodeKind::Directory || e.uid != 0 || e.mode & 0o022 != 0 || e.acl)?;
    let found = format!("{} in the tree is no directory that root alone writes", bad.path);
    Some(Check::fail("keys of admins", found, "look who made it; remove it, and import once more"))
}

/// The files that sshd reads for members of a group: by the first `Match Group` block that names it and says so, or as for
/// everybody. Blocks that ask for something else are not looked at.
fn keys_files(texts: &[String], group: &str) -> Vec<String> {
    let (mut all, mut ours) = (None, None);
    for text in texts {
        // A block ends with its file.
        let mut inside = None;
        for line in text.lines() {
            let words: Vec<&str> =
                line.split([' ', '\t', '=']).map(|w| w.trim_matches('"')).filter(|w| !w.is_empty()).collect();
            match words[..] {
                [key, ref criteria @ ..] if key.eq_ignore_ascii_case("Match") => {
                    let named = matches!(criteria, [what, names] if what.eq_ignore_ascii_case("Group")
                        && names.split(',').any(|name| name == group));
                    inside = Some(named || matches!(criteria, [what] if what.eq_ignore_ascii_case("all")));
                }
                [key, ref files @ ..] if key.eq_ignore_ascii_case("AuthorizedKeysFile") => {
                    let into = match inside {
                        None => &mut all,
                        Some(true) => &mut ours,
                        Some(false) => continue,
                    };
                    into.get_or_insert_with(|| files.iter().map(|f| (*f).to_owned()).collect::<Vec<_>>());
                }
                _ => {}
            }
        }
    }
    ours.or(all).unwrap_or_else(|| USUAL.split(' ').map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::super::doctor::Verdict;
    use super::*;
    use crate::model::{SecretPath, Timestamp};
    use crate::wire::AccountInfo;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, chown};

    #[test]
    fn what_sshd_reads_for_a_group() {
        let of = |text: &str| keys_files(&[text.to_owned()], "admins").join(" ");
        assert_eq!(of(""), USUAL);
        assert_eq!(of("# AuthorizedKeysFile x\nAuthorizedKeysFile a b\nAuthorizedKeysFile c\n"), "a b");
        assert_eq!(of("AuthorizedKeysFile a\nMatch Group admins\n  AuthorizedKeysFile=\"t/%u\"\n"), "t/%u");
        assert_eq!(of("authorizedkeysfile a\nMatch group x,admins\nAuthorizedKeysFile t\n"), "t");
        assert_eq!(of("AuthorizedKeysFile a\nMatch Group adminsx\nAuthorizedKeysFile t\n"), "a");
        assert_eq!(of("AuthorizedKeysFile a\nMatch User ann\nAuthorizedKeysFile t\n"), "a");
        assert_eq!(of("Match User u\nAuthorizedKeysFile u\nMatch Group admins\nAuthorizedKeysFile t\n"), "t");
        let two = ["Match User u\nX y\n".to_owned(), "AuthorizedKeysFile a\n".to_owned()];
        assert_eq!(keys_files(&two, "admins"), ["a"]);
    }

    fn account(user: &str, uid: u32) -> AccountInfo {
        let (console, comment) = ("hq".into(), String::new());
        AccountInfo { user: user.into(), console, comment, wanted: true, made: true, locked: false, uid: Some(uid) }
    }

    fn folder(kind: NodeKind, uid: u32, mode: u16) -> Entry {
        Entry {
            path: SecretPath::parse("ssh").unwrap(),
            kind,
            size: 0,
            mode,
            uid,
            gid: 0,
            mtime: Timestamp::now(),
            version: None,
            acl: false,
            conditions: false,
            target: None,
            scope: "host".into(),
        }
    }

    #[test]
    fn a_home_that_others_write_and_keys_that_nobody_takes_back_are_told() {
        let home = tempfile::tempdir().unwrap();
        let root = home.path();
        let machine = Machine { root };
        let write = |path: &str, text: &str| {
            fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            fs::write(root.join(path), text).unwrap();
        };
        let mut config = Config::default();
        assert!(machine.admins(&config, &Known::default()).is_empty());
        config.accounts.group = Some("admins".into());
        config.accounts.home = Some("/home/admins".into());
        let mut known = Known { accounts: vec![account("ann", 70_000)], ..Known::default() };
        let of = |config: &Config, known: &Known, what: &str| {
            let checks = machine.admins(config, known);
            checks.iter().find(|c| c.what == what).map(|c| c.outcome)
        };
        // sshd: not at all, with more beside it, alone.
        assert_eq!(of(&config, &known, "sshd"), Some(Verdict::Warn));
        write(SSHD, "AuthorizedKeysFile .ssh/authorized_keys /run/secrets/ssh/authorized_keys/%u\n");
        assert_eq!(of(&config, &known, "sshd"), Some(Verdict::Warn));
        config.accounts.homes = Homes::Writable;
        assert_eq!(of(&config, &known, "sshd"), Some(Verdict::Fail));
        assert_eq!(of(&config, &known, "homes of admins"), Some(Verdict::Warn), "keymgr's, and what follows from it");
        write(SSHD, "Match Group admins\nAuthorizedKeysFile /run/secrets/ssh/authorized_keys/%u\n");
        assert_eq!(of(&config, &known, "sshd"), Some(Verdict::Ok));
        config.accounts.homes = Homes::Own;
        assert_eq!(of(&config, &known, "homes of admins"), Some(Verdict::Ok), "not made yet");
        if nix::unistd::geteuid().is_root() {
            fs::create_dir_all(root.join("home/admins/ann")).unwrap();
            write("etc/passwd", "ann:x:70000:1::/home/admins/ann:/bin/sh\n");
            chown(root.join("home/admins/ann"), Some(70_000), None).unwrap();
            let mode =
                |path: &str, mode| fs::set_permissions(root.join(path), PermissionsExt::from_mode(mode)).unwrap();
            mode("home/admins", 0o755);
            mode("home/admins/ann", 0o700);
            assert_eq!(of(&config, &known, "homes of admins"), Some(Verdict::Ok));
            mode("home/admins/ann", 0o750);
            assert_eq!(of(&config, &known, "homes of admins"), Some(Verdict::Fail));
            mode("home/admins/ann", 0o700);
            mode("home/admins", 0o2770);
            assert_eq!(of(&config, &known, "homes of admins"), Some(Verdict::Fail));
            mode("home/admins", 0o755);
            write("etc/passwd", "ann:x:70000:1::/home/admins:/bin/sh\n");
            assert_eq!(of(&config, &known, "homes of admins"), Some(Verdict::Fail), "an account of an earlier version");
        }
        // The folders that sshd goes through.
        for (entry, bad) in [
            (folder(NodeKind::Directory, 0, 0o755), false),
            (folder(NodeKind::Symlink, 0, 0o777), true),
            (folder(NodeKind::Directory, 33, 0o755), true),
            (folder(NodeKind::Directory, 0, 0o775), true),
        ] {
            known.served = vec![entry];
            assert_eq!(of(&config, &known, "keys of admins").is_some(), bad);
        }
        // An account that its console does not name any more.
        assert_eq!(of(&config, &known, "accounts"), Some(Verdict::Ok));
        known.accounts[0].wanted = false;
        assert_eq!(of(&config, &known, "accounts"), Some(Verdict::Warn));
        known.accounts[0].locked = true;
        assert_eq!(of(&config, &known, "accounts"), Some(Verdict::Ok));
    }
}
