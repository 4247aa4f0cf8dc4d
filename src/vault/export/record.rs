//! What a console keeps of its own: its signing keys, and for each host what was sent last. Sealed records beside the
//! nodes, at inodes no node has.
//!
//! Owns their form, and the copy in memory while the store is unlocked. It signs nothing and sends nothing.

use crate::model::{HostName, Ino, Timestamp};
use crate::vault::VaultError;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// A record of the console's. postcard writes the variant's number first: that is its format version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExportRecord {
    /// A signing key.
    Signer(SignerRecord),
    /// A host.
    Host(HostRecord),
}

/// Where a signing key's private half is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kept {
    /// Here: its seed, sealed under the index key.
    Store(Vec<u8>),
    /// In an ssh-agent.
    Agent,
    /// Here: its seed as an age file under a passphrase, which is asked for each time.
    Passphrase(Vec<u8>),
}

/// A signing key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignerRecord {
    /// Its place in the chain, from 0.
    pub number: u64,
    /// The public key, `ssh-ed25519 AAAA…`.
    pub public: String,
    /// Its fingerprint, `SHA256:…`.
    pub fingerprint: String,
    /// Where the private one is.
    pub kept: Kept,
    /// How the key before it vouches for it, as JSON; `None` for the first.
    pub link: Option<String>,
    /// When it was made, or made known.
    pub made: Timestamp,
    /// Since when hosts are told to trust it no longer.
    pub revoked: Option<Timestamp>,
}

/// The digest of one entry of a host's list.
pub type EntryDigest = [u8; 16];

/// What a host was sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRecord {
    /// Which host.
    pub host: HostName,
    /// The last serial number that was given to a bundle for it. It goes back only from what is far ahead of the clock.
    pub serial: u64,
    /// The digest of all that the bundle of that number was to have.
    pub digest: [u8; 32],
    /// Its entries: path, digest; sorted.
    pub entries: Vec<(String, EntryDigest)>,
    /// The fingerprint of the key that signed it.
    pub signer: String,
    /// When it was made.
    pub made: Timestamp,
    /// The last serial number that was delivered; 0 for none.
    pub delivered: u64,
    /// When that was.
    pub delivered_at: Option<Timestamp>,
    /// The last serial number the host acknowledged; 0 for none.
    pub acked: u64,
    /// When it says that it applied it.
    pub acked_at: Option<Timestamp>,
    /// What it said: `applied`, `partial`, `refused` with the reason.
    pub outcome: Option<String>,
    /// The fingerprint of the newest key it showed that it trusts: the signer of what it acknowledged.
    pub trusts: Option<String>,
}

impl HostRecord {
    /// A host nothing was ever made for.
    pub fn new(host: HostName) -> Self {
        HostRecord {
            host,
            serial: 0,
            digest: [0; 32],
            entries: Vec::new(),
            signer: String::new(),
            made: Timestamp { secs: 0, nanos: 0 },
            delivered: 0,
            delivered_at: None,
            acked: 0,
            acked_at: None,
            outcome: None,
            trusts: None,
        }
    }
}

/// All of them, in memory.
#[derive(Default)]
pub struct Records {
    signers: BTreeMap<u64, (Ino, Arc<SignerRecord>)>,
    hosts: HashMap<HostName, (Ino, Arc<HostRecord>)>,
}

impl Records {
    /// Takes a record from the store, or a changed one.
    ///
    /// # Errors
    /// [`VaultError::Damaged`] if another one has its place.
    pub fn put(&mut self, ino: Ino, record: ExportRecord) -> Result<(), VaultError> {
        let before = match record {
            ExportRecord::Signer(signer) => {
                self.signers.insert(signer.number, (ino, Arc::new(signer))).map(|(ino, _)| ino)
            }
            ExportRecord::Host(host) => self.hosts.insert(host.host.clone(), (ino, Arc::new(host))).map(|(ino, _)| ino),
        };
        match before {
            Some(other) if other != ino => Err(VaultError::Damaged("a record of the console's is there twice".into())),
            Some(_) | None => Ok(()),
        }
    }

    /// The signing keys, oldest first.
    pub fn signers(&self) -> impl DoubleEndedIterator<Item = &(Ino, Arc<SignerRecord>)> {
        self.signers.values()
    }

    /// What a host was sent.
    pub fn host(&self, host: &HostName) -> Option<&(Ino, Arc<HostRecord>)> {
        self.hosts.get(host)
    }
}
