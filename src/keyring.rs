//! The scopes' entries in the kernel keyring.
//!
//! Owns the entries `pinfold:<scope>` in the daemon's anonymous session keyring and what each is checked with. A KEK is
//! read from there at the moment it is used and kept nowhere else, so a revocation cuts off at once. Secrets as keys of
//! services are in `publish`.

pub mod publish;

use crate::access::ScopeState;
use crate::model::Scope;
use crate::secret::{Kek, Secret};
use crate::sys::keyctl::{self, KeyError, KeyId};
use sha2::{Digest, Sha256};
use std::io;
use zeroize::Zeroizing;

/// Possessor everything; uid 0 elsewhere may see, spoil and revoke it, never read it.
const ENTRY_PERMS: u32 = 0x3f05_0000;
/// One scope's entry. Dropping it revokes and removes the key.
#[derive(Debug)]
pub struct ScopeEntry {
    key: KeyId,
    check: [u8; 32],
}

impl ScopeEntry {
    /// Puts a scope's KEK into the keyring.
    ///
    /// # Errors
    /// What the kernel says: EDQUOT, or a keyring that is not there.
    pub fn install(scope: &Scope, kek: &Secret) -> io::Result<Self> {
        // A random part keeps a second store in this process apart, as tests have.
        let mut nonce = [0; 4];
        getrandom::getrandom(&mut nonce).map_err(io::Error::from)?;
        let description = format!("pinfold:{scope}:{:08x}", u32::from_ne_bytes(nonce));
        let key = keyctl::add_user_key_to_session(&description, kek.expose())?;
        keyctl::set_perm(key, ENTRY_PERMS)?;
        Ok(ScopeEntry { key, check: Sha256::digest(kek.expose()).into() })
    }

    /// Reads the KEK, now.
    ///
    /// # Errors
    /// What became of the entry. One that somebody wrote over counts as missing.
    pub fn read(&self) -> Result<Kek, ScopeState> {
        let mut kek = Zeroizing::new([0; Kek::LEN]);
        match keyctl::read(self.key, &mut *kek) {
            Ok(n) if n == Kek::LEN && <[u8; 32]>::from(Sha256::digest(*kek)) == self.check => Ok(Kek::new(kek)),
            Ok(_) | Err(KeyError::Missing | KeyError::Denied | KeyError::Other(_)) => Err(ScopeState::Missing),
            Err(KeyError::Revoked) => Err(ScopeState::Revoked),
            Err(KeyError::Expired) => Err(ScopeState::Expired),
        }
    }

    /// Reads the KEK into the arena, to seal it anew.
    ///
    /// # Errors
    /// As [`ScopeEntry::read`], or [`ScopeState::Missing`] if the arena is full.
    pub fn read_secret(&self) -> Result<Secret, ScopeState> {
        Secret::copy_of(self.read()?.expose()).map_err(|_| ScopeState::Missing)
    }

    /// The entry's state, now.
    pub fn state(&self) -> ScopeState {
        self.read().err().unwrap_or(ScopeState::Alive)
    }

    /// The key's serial number, for `keyctl revoke`.
    pub fn serial(&self) -> i32 {
        self.key.0
    }
}

impl Drop for ScopeEntry {
    fn drop(&mut self) {
        // Either may fail because somebody else removed it first; then it is gone, which is what is wanted.
        let _ = keyctl::revoke(self.key);
        let _ = keyctl::unlink_from_session(self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entry_tells_what_became_of_it() {
        let kek = Secret::random(Kek::LEN).unwrap();
        let entry = ScopeEntry::install(&Scope::Host, &kek).unwrap();
        assert_eq!(entry.state(), ScopeState::Alive);
        keyctl::revoke(entry.key).unwrap();
        assert_eq!(entry.state(), ScopeState::Revoked);
    }

    #[test]
    fn a_spoiled_entry_counts_as_missing() {
        let kek = Secret::random(Kek::LEN).unwrap();
        let mut entry = ScopeEntry::install(&Scope::Host, &kek).unwrap();
        entry.check[0] ^= 1;
        assert_eq!(entry.state(), ScopeState::Missing);
    }
}
