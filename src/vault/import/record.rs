//! What a host keeps of a console that it joined: a sealed record in the store, written in the transaction of every import.
//!
//! Owns the record's form, and the consoles in memory while the store is unlocked.

use crate::bundle::{Fingerprint, PublicKey};
use crate::model::{ConsoleName, HostName, Ino, SecretPath, Timestamp};
use crate::vault::kept::Kept;
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
    /// The identity of that recipient (the text of an age identity); `None` if it is the configured SSH host key.
    pub identity: Option<Kept>,
    /// The seed of the key that acknowledgements are signed with.
    pub ack: Kept,
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

impl ConsoleRecord {
    /// The keys that are sealed in it.
    pub(in crate::vault) fn keys(&mut self) -> impl Iterator<Item = &mut Kept> {
        self.identity.iter_mut().chain(std::iter::once(&mut self.ack))
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

/// The joined consoles, by name.
#[derive(Debug, Clone, Default)]
pub(in crate::vault) struct Consoles(BTreeMap<ConsoleName, (Ino, Arc<ConsoleRecord>)>);

impl Consoles {
    /// Puts one in, or in the place of what it was. Whether there was another of that name at another inode.
    pub fn put(&mut self, ino: Ino, record: ConsoleRecord) -> bool {
        let before = self.0.insert(record.console.clone(), (ino, Arc::new(record)));
        before.is_some_and(|(old, _)| old != ino)
    }

    pub fn remove(&mut self, console: &ConsoleName) {
        self.0.remove(console);
    }

    pub fn get(&self, console: &ConsoleName) -> Option<(Ino, Arc<ConsoleRecord>)> {
        self.0.get(console).cloned()
    }

    /// Whose a path is.
    pub fn owner(&self, path: &SecretPath) -> Option<&ConsoleName> {
        self.0.values().find(|(_, record)| record.owned.contains(path)).map(|(_, record)| &record.console)
    }

    pub fn all(&self) -> Vec<(Ino, Arc<ConsoleRecord>)> {
        self.0.values().cloned().collect()
    }
}
