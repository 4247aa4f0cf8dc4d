//! What a host remembers whichever consoles come and go: the last uid that it gave, the accounts that it keeps locked, and the keys
//! of consoles that it trusted once. A sealed record of its own in the store.
//!
//! Owns its form. It looks nothing up and changes no account.

use crate::bundle::Fingerprint;
use crate::model::ConsoleName;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The most keys of one console; the oldest go first.
const KEYS_MAX: usize = 256;

/// The record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// The greatest uid that was given to an account; 0 before the first. It never goes back.
    pub last_uid: u32,
    /// Accounts whose admins are gone.
    pub locked: Vec<LockedAccount>,
    /// Keys of each console that were trusted, or revoked in a chain, the oldest first.
    pub keys: BTreeMap<ConsoleName, Vec<SeenKey>>,
}

/// An account that is kept, so that nobody else gets its name or its uid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockedAccount {
    /// Its name.
    pub user: String,
    /// Which console's it was.
    pub console: ConsoleName,
    /// Its uid.
    pub uid: u32,
}

/// A console's signing key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenKey {
    /// Which.
    pub key: Fingerprint,
    /// The serial of the last bundle that it signed and this host took; 0 for none.
    pub serial: u64,
}

impl Remembered {
    /// Notes a key that is trusted, or led to one that is, and what it signed.
    pub fn saw(&mut self, console: &ConsoleName, key: Fingerprint, serial: u64) {
        let keys = self.keys.entry(console.clone()).or_default();
        match keys.iter_mut().find(|seen| seen.key == key) {
            Some(seen) => seen.serial = seen.serial.max(serial),
            None => {
                keys.drain(..(keys.len() + 1).saturating_sub(KEYS_MAX));
                keys.push(SeenKey { key, serial });
            }
        }
    }

    /// What is known of a key.
    pub fn seen(&self, console: &ConsoleName, key: Fingerprint) -> Option<&SeenKey> {
        self.keys.get(console)?.iter().find(|seen| seen.key == key)
    }

    /// The locked account of this name.
    pub fn locked(&self, user: &str) -> Option<&LockedAccount> {
        self.locked.iter().find(|account| account.user == user)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::{KeySigner, Signer};

    #[test]
    fn keys_are_remembered_with_their_serials_and_are_bounded() {
        let console = ConsoleName::parse("hq").unwrap();
        let keys: Vec<Fingerprint> =
            (0..KEYS_MAX + 2).map(|_| KeySigner::generate().unwrap().public().fingerprint()).collect();
        let mut remembered = Remembered::default();
        remembered.saw(&console, keys[0], 7);
        remembered.saw(&console, keys[0], 3);
        assert_eq!(remembered.seen(&console, keys[0]).unwrap().serial, 7);
        assert_eq!(remembered.seen(&ConsoleName::parse("other").unwrap(), keys[0]), None);
        keys.iter().for_each(|key| remembered.saw(&console, *key, 0));
        assert_eq!(remembered.keys[&console].len(), KEYS_MAX);
        assert_eq!(remembered.seen(&console, keys[1]), None, "the oldest goes");
        assert!(remembered.seen(&console, keys[KEYS_MAX + 1]).is_some());
    }
}
