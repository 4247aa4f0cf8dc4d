//! What a host keeps of a console that it joined: a sealed record in the store, written in the transaction of every import.
//!
//! Owns the record's form, and the consoles in memory while the store is unlocked.

use super::remembered::Remembered;
use crate::bundle::{Fingerprint, PublicKey};
use crate::model::{ConsoleName, HostName, Ino, SecretPath, Timestamp};
use crate::seal::{SealError, open_own, seal_own};
use crate::secret::Secret;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A console, as this host trusts it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleRecord {
    /// Its name.
    pub console: ConsoleName,
    /// What it calls this host.
    pub host: HostName,
    /// The folder that it is confined to; the root for the whole tree.
    pub prefix: SecretPath,
    /// The newest signing key that was walked to.
    pub key: PublicKey,
    /// That key's number in the console's rotation chain, once a bundle has told it.
    pub number: Option<u64>,
    /// Keys that are never trusted again.
    pub revoked: Vec<Fingerprint>,
    /// The serial number of the last bundle that was applied.
    pub serial: u64,
    /// Whom it seals to: an age recipient, or an SSH host key.
    pub recipient: String,
    /// The identity of that recipient (the text of an age identity), sealed under the index key; `None` if it is the configured SSH host key.
    pub identity: Option<Vec<u8>>,
    /// The seed of the key that acknowledgements are signed with, sealed so too.
    pub ack: Vec<u8>,
    /// Its public half.
    pub ack_public: PublicKey,
    /// The paths that came from it.
    pub owned: BTreeSet<SecretPath>,
    /// The admins that its last bundle named, accounts or not.
    pub admins: Vec<AdminRecord>,
    /// The accounts that were made for them.
    pub accounts: Vec<AccountRecord>,
    /// When it was joined.
    pub joined: Timestamp,
    /// The last import.
    pub last: Option<LastImport>,
}

/// Which of the two keys of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OwnKey {
    /// What opens bundles.
    Identity,
    /// What signs acknowledgements.
    Ack,
}

impl OwnKey {
    /// A key opens under its own label alone.
    fn label(self, console: &ConsoleName) -> String {
        match self {
            OwnKey::Identity => format!("import/{console}/identity"),
            OwnKey::Ack => format!("import/{console}/ack"),
        }
    }

    pub fn seal(self, console: &ConsoleName, index: &Secret, key: &Secret) -> Vec<u8> {
        seal_own(index, &self.label(console), key)
    }

    pub fn open(self, console: &ConsoleName, index: &Secret, sealed: &[u8]) -> Result<Secret, SealError> {
        open_own(index, &self.label(console), sealed)
    }
}

impl ConsoleRecord {
    /// The same keys under another index key.
    pub(in crate::vault) fn reseal(&mut self, old: &Secret, new: &Secret) -> Result<(), SealError> {
        let Self { console, identity, ack, .. } = self;
        for (which, sealed) in identity.iter_mut().map(|i| (OwnKey::Identity, i)).chain([(OwnKey::Ack, ack)]) {
            *sealed = which.seal(console, new, &which.open(console, old, sealed)?);
        }
        Ok(())
    }
}

/// An admin that a bundle named, and whose keys are served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminRecord {
    /// The account's name.
    pub user: String,
    /// What the policy's line said of it.
    pub comment: String,
}

/// An account that was made here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountRecord {
    /// Its name.
    pub user: String,
    /// Its uid; `None` while it is being made.
    pub uid: Option<u32>,
}

/// How the last import that got as far as the content came out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastImport {
    /// When.
    pub time: Timestamp,
    /// Of which bundle.
    pub serial: u64,
    /// `applied`, `partial` or `refused`.
    pub outcome: String,
}

/// The joined consoles, by name, and what is remembered whichever there are.
#[derive(Debug, Clone, Default)]
pub(in crate::vault) struct Consoles {
    joined: BTreeMap<ConsoleName, (Ino, Arc<ConsoleRecord>)>,
    remembered: Option<(Ino, Arc<Remembered>)>,
}

impl Consoles {
    /// Puts what is remembered in the place of what it was. Whether it was at another inode.
    pub fn put_remembered(&mut self, ino: Ino, remembered: Remembered) -> bool {
        let before = self.remembered.replace((ino, Arc::new(remembered)));
        before.is_some_and(|(old, _)| old != ino)
    }

    /// What is remembered, and where it is kept, if it is yet.
    pub fn remembered(&self) -> (Option<Ino>, Arc<Remembered>) {
        self.remembered.clone().map_or_else(Default::default, |(ino, remembered)| (Some(ino), remembered))
    }

    /// Puts one in, or in the place of what it was. Whether there was another of that name at another inode.
    pub fn put(&mut self, ino: Ino, record: ConsoleRecord) -> bool {
        let before = self.joined.insert(record.console.clone(), (ino, Arc::new(record)));
        before.is_some_and(|(old, _)| old != ino)
    }

    pub fn remove(&mut self, console: &ConsoleName) {
        self.joined.remove(console);
    }

    pub fn get(&self, console: &ConsoleName) -> Option<(Ino, Arc<ConsoleRecord>)> {
        self.joined.get(console).cloned()
    }

    /// Whose a path is.
    pub fn owner(&self, path: &SecretPath) -> Option<&ConsoleName> {
        self.joined.values().find(|(_, record)| record.owned.contains(path)).map(|(_, record)| &record.console)
    }

    pub fn all(&self) -> Vec<(Ino, Arc<ConsoleRecord>)> {
        self.joined.values().cloned().collect()
    }
}
