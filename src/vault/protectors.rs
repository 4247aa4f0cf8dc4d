//! What opens the store's identity: one file each beside the records, of which any one does.
//!
//! Owns their names and the rule that one stays. `identity.age` is the first, `main`; others are `identity.NAME.age`. While a
//! store is getting a new identity, its files wait as `identity-next.age` and `identity-next.NAME.age`.

use super::unlock::{ESCROW_META, INDEX_META, UnlockBy};
use super::{Caller, Vault, VaultError};
use crate::audit;
use crate::seal::{self, OpenedBy, OpeningKey, Protection, SealError, StoreIdentity};
use crate::store::Store;

/// The protector that `init` makes.
pub(super) const MAIN: &str = "main";
/// The most there may be: each wrong passphrase is tried on all of them.
const MAX: usize = 8;
/// The longest name.
const NAME_MAX: usize = 32;

/// Of which identity a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// The one the store has.
    Current,
    /// The one it is about to have.
    Next,
}

/// One protector.
#[derive(Debug)]
pub(super) struct Protector {
    pub name: String,
    pub turn: Turn,
    pub file: Vec<u8>,
}

impl Protector {
    pub fn opened_by(&self) -> OpenedBy {
        OpenedBy::of(&self.file)
    }
}

impl Turn {
    fn prefix(self) -> &'static str {
        match self {
            Turn::Current => "identity",
            Turn::Next => "identity-next",
        }
    }

    /// A protector's file.
    pub fn file_name(self, name: &str) -> String {
        if name == MAIN { format!("{}.age", self.prefix()) } else { format!("{}.{name}.age", self.prefix()) }
    }

    fn name_of(self, file: &str) -> Option<String> {
        match file.strip_prefix(self.prefix())?.strip_suffix("age")? {
            "." => Some(MAIN.to_owned()),
            middle => Some(middle.strip_prefix('.')?.strip_suffix('.')?.to_owned()),
        }
    }
}

/// All of them; `main` first, and of both turns.
pub(super) fn all(store: &Store) -> Result<Vec<Protector>, VaultError> {
    let mut found = Vec::new();
    for file_name in store.file_names()? {
        let of = |turn: Turn| Some((turn, turn.name_of(&file_name)?));
        let Some((turn, name)) = of(Turn::Current).or_else(|| of(Turn::Next)) else { continue };
        if let Some(file) = store.read_file(&file_name)? {
            found.push(Protector { name, turn, file });
        }
    }
    found.sort_by_key(|p| (p.name != MAIN, p.turn == Turn::Next, p.name.clone()));
    Ok(found)
}

/// The identity that opens the store's index key: by itself, out of the escrow, or out of one of the protectors.
pub(super) fn open(store: &Store, by: &UnlockBy<'_>) -> Result<StoreIdentity, VaultError> {
    let files = all(store)?;
    let (key, opened_by) = match by {
        UnlockBy::Passphrase(_) => (None, OpenedBy::Passphrase),
        // In the middle of a rekeying, the old one and the new one.
        UnlockBy::Kept(text) => {
            for line in text.expose().split(|b| *b == b'\n') {
                let key = seal::open_identity(line, None).map_err(wrong_key)?;
                if opens(store, &key)? {
                    return Ok(key);
                }
            }
            return Err(VaultError::WrongKey("what was kept does not open the store".into()));
        }
        UnlockBy::Identity(text) => {
            let key = match OpeningKey::parse(text.expose()).map_err(wrong_key)? {
                OpeningKey::Native(identity) if opens(store, &identity)? => return Ok(identity),
                key => key,
            };
            if let Some(escrow) = escrow(store, &key)? {
                return Ok(escrow);
            }
            (Some(key), OpenedBy::Recipient)
        }
    };
    let mut wrong = VaultError::WrongKey(match by {
        UnlockBy::Passphrase(_) => "this store has no passphrase; it opens with its keyfile".into(),
        UnlockBy::Identity(_) | UnlockBy::Kept(_) => "this key is not one of the store's".into(),
    });
    for protector in files.iter().filter(|p| p.opened_by() == opened_by) {
        let tried = match (by, &key) {
            (UnlockBy::Passphrase(passphrase), _) => seal::open_identity(&protector.file, Some(passphrase)),
            (_, Some(key)) => seal::open_identity_with(&protector.file, key),
            (_, None) => continue,
        };
        match tried {
            Ok(identity) if opens(store, &identity)? => return Ok(identity),
            // Of an identity that was replaced, or is still to come.
            Ok(_) | Err(SealError::NotForThisKey(_)) => {}
            Err(error) => wrong = wrong_key(error),
        }
    }
    Err(wrong)
}

/// The escrow identity, if this is a recovery key.
fn escrow(store: &Store, key: &OpeningKey) -> Result<Option<StoreIdentity>, VaultError> {
    let sealed = store.meta(ESCROW_META)?.ok_or_else(|| VaultError::Damaged("it has no escrow".into()))?;
    match seal::open_identity_with(&sealed, key) {
        Ok(identity) if opens(store, &identity)? => Ok(Some(identity)),
        Ok(_) => Err(VaultError::Damaged("its escrow does not open its keys".into())),
        Err(SealError::NotForThisKey(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whether the store's index key is sealed to it.
fn opens(store: &Store, identity: &StoreIdentity) -> Result<bool, VaultError> {
    let index = store.meta(INDEX_META)?.ok_or_else(|| VaultError::Damaged("it has no index key".into()))?;
    match seal::open_key(identity.key(), &index) {
        Ok(_) => Ok(true),
        Err(SealError::NotForThisKey(_)) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn wrong_key(error: SealError) -> VaultError {
    match error {
        SealError::NotForThisKey(_) => VaultError::WrongKey("this key is not one of the store's".into()),
        SealError::Format(what) => VaultError::WrongKey(format!("{what} is not in a known format")),
        SealError::WrongPassphrase
        | SealError::NotHere(_)
        | SealError::Tampered(_)
        | SealError::NotGranted
        | SealError::ArenaFull(_) => error.into(),
    }
}

impl Vault {
    /// The protectors of the identity: name, and what opens each. Works while locked.
    ///
    /// # Errors
    /// [`VaultError::Failed`] if the store's folder cannot be read.
    pub fn protectors(&self) -> Result<Vec<(String, OpenedBy)>, VaultError> {
        let files = all(&self.store)?;
        Ok(files.iter().filter(|p| p.turn == Turn::Current).map(|p| (p.name.clone(), p.opened_by())).collect())
    }

    /// Adds a protector, or puts it in the place of one of that name. `current` opens the identity as it is: the daemon
    /// itself does not keep it where it could be had.
    ///
    /// # Errors
    /// [`VaultError::WrongKey`] if `current` is wrong, or is a recovery key; [`VaultError::Exists`] for a name that is taken;
    /// [`VaultError::Invalid`]; [`VaultError::Locked`].
    pub fn protect(
        &self,
        caller: &impl Caller,
        current: &UnlockBy<'_>,
        name: &str,
        with: &Protection<'_>,
        replace: bool,
    ) -> Result<(), VaultError> {
        check_name(name)?;
        let done = self.try_protect(caller, current, name, with, replace);
        self.tell_refusal(caller, name, &done);
        done
    }

    fn try_protect(
        &self,
        caller: &impl Caller,
        current: &UnlockBy<'_>,
        name: &str,
        with: &Protection<'_>,
        replace: bool,
    ) -> Result<(), VaultError> {
        if let Protection::Plain = with {
            return Err(VaultError::Invalid("an identity is not kept unencrypted beside what it opens".into()));
        }
        let identity = self.open_protected(current)?;
        let invalid = |e: SealError| VaultError::Invalid(e.to_string());
        let file = seal::protect_identity(&identity, with).map_err(invalid)?;
        // Before it replaces one that works.
        if let Protection::Passphrase(passphrase) = with {
            seal::open_identity(&file, Some(passphrase))?;
        }
        let _writer = self.lock_writer();
        if !opens(&self.store, &identity)? {
            return Err(VaultError::WrongKey("the store has another identity by now".into()));
        }
        let names: Vec<String> = self.protectors()?.into_iter().map(|(name, _)| name).collect();
        let taken = names.iter().any(|n| n == name);
        if taken && !replace {
            return Err(VaultError::Exists);
        }
        if !taken && names.len() >= MAX {
            return Err(VaultError::NoSpace("8 protectors of the identity"));
        }
        let what = if taken { "replaced" } else { "added" };
        self.record(audit::Operation::Identity, "", None, &caller.who(), &format!("{what} {name}"))?;
        Ok(self.store.write_file(&Turn::Current.file_name(name), &file)?)
    }

    /// Removes a protector. Not the last.
    ///
    /// # Errors
    /// [`VaultError::NotFound`]; [`VaultError::Invalid`] for the last; [`VaultError::Locked`].
    pub fn unprotect(&self, caller: &impl Caller, name: &str) -> Result<(), VaultError> {
        check_name(name)?;
        let done = self.try_unprotect(caller, name);
        self.tell_refusal(caller, name, &done);
        done
    }

    fn try_unprotect(&self, caller: &impl Caller, name: &str) -> Result<(), VaultError> {
        let _writer = self.lock_writer();
        // While it is locked, what is left may be what nobody can open.
        self.keys()?;
        let files = self.protectors()?;
        if !files.iter().any(|(n, _)| n == name) {
            return Err(VaultError::NotFound);
        }
        let opens = |by: OpenedBy| !matches!(by, OpenedBy::Unknown | OpenedBy::Token);
        if !files.iter().any(|(n, opened_by)| n != name && opens(*opened_by)) {
            return Err(VaultError::Invalid(
                "it is the only protector of the identity that opens it here; add another one first".into(),
            ));
        }
        self.record(audit::Operation::Identity, "", None, &caller.who(), &format!("removed {name}"))?;
        Ok(self.store.remove_file(&Turn::Current.file_name(name))?)
    }

    /// The identity that is protected; not a recovery key by itself, which opens the store as well.
    fn open_protected(&self, by: &UnlockBy<'_>) -> Result<StoreIdentity, VaultError> {
        let own = self.keys()?.identity.to_string();
        let identity = open(&self.store, by)?;
        // What a passphrase opened is in a protector already.
        if !matches!(by, UnlockBy::Passphrase(_)) && identity.recipient().to_string() != own {
            return Err(VaultError::WrongKey("this is a recovery key: the identity itself is wanted".into()));
        }
        Ok(identity)
    }

    pub(super) fn tell_refusal<R>(&self, caller: &impl Caller, name: &str, done: &Result<R, VaultError>) {
        if let Err(error @ (VaultError::WrongKey(_) | VaultError::Invalid(_))) = done {
            let reason = format!("{name}: {error}");
            self.refuse(audit::Operation::Identity, "", None, &caller.who(), &reason);
        }
    }
}

fn check_name(name: &str) -> Result<(), VaultError> {
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if plain && (1..=NAME_MAX).contains(&name.len()) {
        return Ok(());
    }
    Err(VaultError::Invalid("a protector's name has 1 to 32 letters, digits, '-' or '_'".into()))
}
