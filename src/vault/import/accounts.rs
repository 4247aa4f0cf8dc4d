//! The admins that a bundle names: whose keys are served, which accounts are wanted, and which were made here.
//!
//! Owns what a name must be, and the list of accounts that were made: only those are ever touched. It makes none itself: the command
//! does, and tells before and after.

use super::prepare::Preparing;
use super::record::{AccountRecord, AdminRecord, ConsoleRecord};
use super::remembered::{LockedAccount, Remembered};
use crate::audit;
use crate::bundle;
use crate::model::{AUTHORIZED_KEYS, ConsoleName, SecretPath};
use crate::secret::Secret;
use crate::vault::{Caller, Vault, VaultError};
use crate::wire::{AccountInfo, AccountState, NoteAccount};
use nix::unistd::User;
use std::collections::BTreeSet;

/// What the comment of an account begins with that pinfold made (passwd(5), the fifth field: it cannot hold a colon).
pub const MARK: &str = "pinfold@";
/// The longest name of an account that useradd(8) takes.
const NAME_MAX: usize = 32;
/// The most accounts, those that are kept locked included.
const ACCOUNTS_MAX: usize = 10_000;
/// How many uids are looked at for one that nobody has.
const TRIES: u32 = 10_000;
/// Beyond it uids begin to mean something else (nspawn(1), subuid(5)).
const UID_MAX: u32 = 1 << 31;

/// Whether it is a name that an account may be made of: what no tool takes for an option, a number, or two words.
pub fn is_account_name(name: &str) -> bool {
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b == b'_');
    first
        && name.len() <= NAME_MAX
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-')
}

/// The comment of an account that is made for a console.
pub fn mark(console: &str) -> String {
    format!("{MARK}{console}")
}

/// The folder that is kept for the keys.
fn folder() -> SecretPath {
    SecretPath::parse(AUTHORIZED_KEYS).expect("it is a path")
}

/// Prepares the keys of the admins, each as a file of root's. Those that are refused are noted there.
pub(super) fn prepare(
    preparing: &mut Preparing<'_>,
    ours: &ConsoleRecord,
    admins: &[bundle::Admin],
) -> Result<Vec<AdminRecord>, VaultError> {
    let mut taken = Vec::new();
    let mut seen = BTreeSet::new();
    for admin in admins {
        let user = format!("{}{}", admin.prefix.as_deref().unwrap_or_default(), admin.user);
        let remembered = preparing.remembered();
        let refused = match allowed(ours, &remembered, &user) {
            Ok(()) if !seen.insert(user.clone()) => Err("it is there twice".into()),
            other => other,
        };
        if let Err(reason) = refused {
            preparing.refuse(format!("account {user}"), reason);
            continue;
        }
        if taken.is_empty() {
            for names in 1..=folder().names().len() {
                preparing.own(&SecretPath::from_names(folder().names()[..names].to_vec()), None)?;
            }
        }
        let mut lines = String::new();
        for key in &admin.keys {
            lines.push_str(key);
            lines.push('\n');
        }
        let path = SecretPath::parse(&format!("{AUTHORIZED_KEYS}/{user}"))?;
        preparing.own(&path, Some(&Secret::copy_of(lines.as_bytes())?))?;
        taken.push(AdminRecord { user, comment: admin.comment.clone() });
    }
    Ok(taken)
}

/// Whether keys may be served for this name: nobody has it, or pinfold made the account for this console.
fn allowed(ours: &ConsoleRecord, remembered: &Remembered, user: &str) -> Result<(), String> {
    if !ours.prefix.is_root() {
        return Err(format!("the console is confined to {} and names no admins", ours.prefix));
    }
    if !is_account_name(user) {
        return Err("an account's name has 1 to 32 of a-z 0-9 _ -, beginning with a letter or _".into());
    }
    match User::from_name(user) {
        Ok(None) => Ok(()),
        Ok(Some(found)) if is_ours(ours, remembered, &found) => Ok(()),
        Ok(Some(_)) => Err("there is an account of that name here which pinfold did not make".into()),
        Err(errno) => Err(format!("the user database does not answer: {}", errno.desc().to_lowercase())),
    }
}

/// Whether pinfold made it: noted here, with that uid, and marked there.
fn is_ours(ours: &ConsoleRecord, remembered: &Remembered, found: &User) -> bool {
    let uid = found.uid.as_raw();
    let noted = ours.accounts.iter().any(|a| a.user == found.name && a.uid.is_none_or(|noted| noted == uid));
    let locked = remembered.locked(&found.name).is_some_and(|a| a.console == ours.console && a.uid == uid);
    (noted || locked) && !found.uid.is_root() && found.gecos.to_bytes() == mark(ours.console.as_str()).as_bytes()
}

impl Vault {
    /// The accounts that are wanted, and those that were made, by name.
    ///
    /// # Errors
    /// [`VaultError::Locked`].
    pub fn accounts(&self) -> Result<Vec<AccountInfo>, VaultError> {
        let mut all = Vec::new();
        let (consoles, remembered) = self.with_open(|open| (open.consoles.all(), open.consoles.remembered().1))?;
        for (_, record) in consoles {
            let made = |user: &str| record.accounts.iter().find(|a| a.user == user);
            let locked = |user: &str| remembered.locked(user).filter(|a| a.console == record.console);
            let named = record.admins.iter().map(|a| (a.user.as_str(), a.comment.as_str(), true));
            let there = record.accounts.iter().map(|a| a.user.as_str());
            let kept = remembered.locked.iter().filter(|a| a.console == record.console).map(|a| a.user.as_str());
            let gone = there.chain(kept).filter(|user| record.admins.iter().all(|admin| admin.user != *user));
            for (user, comment, wanted) in named.chain(gone.map(|user| (user, "", false))) {
                let (made, locked) = (made(user), locked(user));
                all.push(AccountInfo {
                    user: user.into(),
                    console: record.console.to_string(),
                    comment: comment.into(),
                    wanted,
                    made: made.is_some() || locked.is_some(),
                    locked: made.is_none() && locked.is_some(),
                    uid: made.map_or(locked.map(|a| a.uid), |a| a.uid),
                });
            }
        }
        all.sort_by(|a, b| a.user.cmp(&b.user));
        Ok(all)
    }

    /// Notes what becomes of an account. Durable when it returns: before one is made, so that whatever happens then it is known to be
    /// pinfold's.
    pub(in crate::vault) fn note_account(&self, caller: &impl Caller, note: &NoteAccount) -> Result<(), VaultError> {
        let console = ConsoleName::parse(&note.console).map_err(|e| VaultError::Invalid(e.to_string()))?;
        if !self.import_settings().accounts && note.state != AccountState::Gone {
            return Err(VaultError::Invalid("no accounts are made here: there is no [accounts]".into()));
        }
        let mut writer = self.lock_writer();
        let (ino, record) = self.console(&console)?;
        let mut next = (*record).clone();
        let mut remembered = (*self.with_open(|open| open.consoles.remembered().1)?).clone();
        let at = next.accounts.iter().position(|a| a.user == note.user);
        let kept = remembered.locked.iter().position(|a| a.user == note.user && a.console == console);
        match (note.state, at, note.uid) {
            (AccountState::Making, None, None) => {
                if !record.admins.iter().any(|a| a.user == note.user) || !is_account_name(&note.user) {
                    return Err(VaultError::Invalid(format!("{} is no admin of that console", note.user)));
                }
                if self.with_open(|o| o.consoles.all().iter().any(|(_, r)| has(r, &note.user)))? {
                    return Err(VaultError::Exists);
                }
                let uid = match kept {
                    Some(kept) => remembered.locked.remove(kept).uid,
                    None => self.next_uid(&mut remembered, &note.user)?,
                };
                next.accounts.push(AccountRecord { user: note.user.clone(), uid: Some(uid) });
            }
            (AccountState::Making, Some(_), None) => {}
            (AccountState::Made, Some(at), Some(uid)) if uid != 0 && next.accounts[at].uid.is_none_or(|u| u == uid) => {
                next.accounts[at].uid = Some(uid);
            }
            (AccountState::Locked, Some(at), None) => {
                let gone = next.accounts.remove(at);
                let uid = gone.uid.ok_or_else(|| VaultError::Invalid("that account was never made".into()))?;
                remembered.locked.push(LockedAccount { user: gone.user, console: console.clone(), uid });
            }
            (AccountState::Gone, Some(at), None) => drop(next.accounts.remove(at)),
            (AccountState::Gone, None, None) => match kept {
                Some(kept) => drop(remembered.locked.remove(kept)),
                None => return Err(VaultError::NotFound),
            },
            (AccountState::Making | AccountState::Made | AccountState::Locked | AccountState::Gone, _, _) => {
                return Err(VaultError::Invalid("that does not follow".into()));
            }
        }
        let uid = next.accounts.iter().find(|a| a.user == note.user).and_then(|a| a.uid);
        let word = match note.state {
            AccountState::Making => "is about to be made",
            AccountState::Made => "was made",
            AccountState::Locked => "is locked, and kept",
            AccountState::Gone => "is gone",
        };
        let shown = uid.map(|uid| format!(" (uid {uid})")).unwrap_or_default();
        let what = format!("the account {}{shown} of {console} {word}", note.user);
        self.record(audit::Operation::Import, "", None, &caller.who(), &what)?;
        self.keep_console(&mut writer, ino, next, Some(remembered))
    }

    /// A uid that nobody has, and that no account ever had. The mark is durable before the account is made.
    fn next_uid(&self, remembered: &mut Remembered, user: &str) -> Result<u32, VaultError> {
        if remembered.locked(user).is_some() {
            return Err(VaultError::Exists);
        }
        let there: usize = self.with_open(|open| open.consoles.all().iter().map(|(_, r)| r.accounts.len()).sum())?;
        if there + remembered.locked.len() >= ACCOUNTS_MAX {
            return Err(VaultError::NoSpace("10,000 accounts of admins, those that are kept locked included"));
        }
        let first = remembered.last_uid.saturating_add(1).max(self.import_settings().first_uid);
        for uid in (first..UID_MAX).take(TRIES as usize) {
            match User::from_uid(uid.into()) {
                Ok(None) => {
                    remembered.last_uid = uid;
                    return Ok(uid);
                }
                Ok(Some(_)) => {}
                Err(errno) => {
                    let why = errno.desc().to_lowercase();
                    return Err(VaultError::Failed(format!("the user database does not answer: {why}")));
                }
            }
        }
        Err(VaultError::NoSpace("no uid is free (accounts.first_uid)"))
    }
}

fn has(record: &ConsoleRecord, user: &str) -> bool {
    record.accounts.iter().any(|a| a.user == user)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_be_anything_else_are_no_accounts() {
        for good in ["alice", "_svc", "a", "site-alice", "a1_b-c", &"x".repeat(32)] {
            assert!(is_account_name(good), "{good}");
        }
        for bad in ["", "-x", "1a", "Alice", "a b", "a:b", "a/b", "a.b", "root\n", "ä", &"x".repeat(33)] {
            assert!(!is_account_name(bad), "{bad}");
        }
    }
}
