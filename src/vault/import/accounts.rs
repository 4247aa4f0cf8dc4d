//! The admins that a bundle names: whose keys are served, which accounts are wanted, and which were made here.
//!
//! Owns what a name must be, and the list of accounts that were made: only those are ever touched. It makes none itself: the command
//! does, and tells before and after.

use super::prepare::Preparing;
use super::record::{AccountRecord, AdminRecord, ConsoleRecord};
use crate::audit;
use crate::bundle;
use crate::model::{ConsoleName, SecretPath};
use crate::secret::Secret;
use crate::vault::{Caller, Vault, VaultError};
use crate::wire::{AccountInfo, AccountState, NoteAccount};
use nix::unistd::User;
use std::collections::BTreeSet;

/// Where sshd finds the keys of the admins: one file each.
pub const AUTHORIZED_KEYS: &str = "ssh/authorized_keys";
/// What the comment of an account begins with that pinfold made (passwd(5), the fifth field: it cannot hold a colon).
pub const MARK: &str = "pinfold@";
/// The longest name of an account that useradd(8) takes.
const NAME_MAX: usize = 32;

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
pub(super) fn folder() -> SecretPath {
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
    if admins.is_empty() {
        return Ok(taken);
    }
    for names in 1..=folder().names().len() {
        preparing.own(&SecretPath::from_names(folder().names()[..names].to_vec()), None)?;
    }
    for admin in admins {
        let user = format!("{}{}", admin.prefix.as_deref().unwrap_or_default(), admin.user);
        let refused = match allowed(ours, &user) {
            Ok(()) if !seen.insert(user.clone()) => Err("it is there twice".into()),
            other => other,
        };
        if let Err(reason) = refused {
            preparing.refuse(format!("account {user}"), reason);
            continue;
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
fn allowed(ours: &ConsoleRecord, user: &str) -> Result<(), String> {
    if !ours.prefix.is_root() {
        return Err(format!("the console is confined to {} and names no admins", ours.prefix));
    }
    if !is_account_name(user) {
        return Err("an account's name has 1 to 32 of a-z 0-9 _ -, beginning with a letter or _".into());
    }
    match User::from_name(user) {
        Ok(None) => Ok(()),
        Ok(Some(found)) if is_ours(ours, &found) => Ok(()),
        Ok(Some(_)) => Err("there is an account of that name here which pinfold did not make".into()),
        Err(errno) => Err(format!("the user database does not answer: {}", errno.desc().to_lowercase())),
    }
}

/// Whether pinfold made it: noted here, with that uid, and marked there.
fn is_ours(ours: &ConsoleRecord, found: &User) -> bool {
    let noted = ours.accounts.iter().any(|a| a.user == found.name && a.uid.is_none_or(|uid| uid == found.uid.as_raw()));
    noted && !found.uid.is_root() && found.gecos.to_bytes() == mark(ours.console.as_str()).as_bytes()
}

impl Vault {
    /// The accounts that are wanted, and those that were made, by name.
    ///
    /// # Errors
    /// [`VaultError::Locked`].
    pub fn accounts(&self) -> Result<Vec<AccountInfo>, VaultError> {
        let mut all = Vec::new();
        for (_, record) in self.with_open(|open| open.consoles.all())? {
            let console = record.console.to_string();
            let made = |user: &str| record.accounts.iter().find(|a| a.user == user);
            let named = record.admins.iter().map(|a| (a.user.as_str(), a.comment.as_str(), true));
            let gone = record.accounts.iter().filter(|a| record.admins.iter().all(|admin| admin.user != a.user));
            let gone = gone.map(|a| (a.user.as_str(), "", false));
            for (user, comment, wanted) in named.chain(gone) {
                all.push(AccountInfo {
                    user: user.into(),
                    console: console.clone(),
                    comment: comment.into(),
                    wanted,
                    made: made(user).is_some(),
                    uid: made(user).and_then(|a| a.uid),
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
        let at = next.accounts.iter().position(|a| a.user == note.user);
        match (note.state, at, note.uid) {
            (AccountState::Making, None, None) => {
                if !record.admins.iter().any(|a| a.user == note.user) || !is_account_name(&note.user) {
                    return Err(VaultError::Invalid(format!("{} is no admin of that console", note.user)));
                }
                if self.with_open(|o| o.consoles.all().iter().any(|(_, r)| has(r, &note.user)))? {
                    return Err(VaultError::Exists);
                }
                next.accounts.push(AccountRecord { user: note.user.clone(), uid: None });
            }
            (AccountState::Making, Some(_), None) => {}
            (AccountState::Made, Some(at), Some(uid)) if uid != 0 => next.accounts[at].uid = Some(uid),
            (AccountState::Gone, Some(at), None) => drop(next.accounts.remove(at)),
            (AccountState::Gone, None, None) => return Err(VaultError::NotFound),
            (AccountState::Making | AccountState::Made | AccountState::Gone, _, _) => {
                return Err(VaultError::Invalid("that does not follow".into()));
            }
        }
        if next == *record {
            return Ok(());
        }
        let word = match note.state {
            AccountState::Making => "is about to be made",
            AccountState::Made => "was made",
            AccountState::Gone => "is gone",
        };
        let what = format!("the account {} of {console} {word}", note.user);
        self.record(audit::Operation::Import, "", None, &caller.who(), &what)?;
        self.keep_console(&mut writer, ino, next)
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
