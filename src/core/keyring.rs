//! The scopes' entries in the kernel keyring.
//!
//! Owns the entries `pinfold:<scope>:…` in the daemon's anonymous session keyring, one for the daemon's own work and one
//! for each attached instance of a container, and what each is checked with. A KEK is
//! read from there at the moment it is used and kept nowhere else, so a revocation cuts off at once. Secrets as keys
//! of services are in `publish`.

pub mod noted;
pub mod publish;

use crate::access::ScopeState;
use crate::lock::RwLock;
use crate::model::{InstanceId, Scope};
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
    /// What the KEK is compared with. Held while the key is read: a new one comes with its check.
    check: RwLock<[u8; 32]>,
}

impl ScopeEntry {
    /// Puts a scope's KEK into the keyring, for the daemon's own work: opening for callers on the host, and sealing what
    /// admins write.
    ///
    /// # Errors
    /// What the kernel says: EDQUOT, or a keyring that is not there.
    pub fn install(scope: &Scope, kek: &Secret) -> io::Result<Self> {
        // A random part keeps a second store in this process apart, as tests have.
        let mut nonce = [0; 4];
        getrandom::getrandom(&mut nonce).map_err(io::Error::from)?;
        let nonce = u32::from_ne_bytes(nonce);
        match scope {
            Scope::Host => Self::add(&format!("pinfold:{scope}:{nonce:08x}"), kek),
            // No instance can have this name: ids have no slash.
            Scope::Container(_) => Self::add(&format!("pinfold:{scope}:store/{nonce:08x}"), kek),
        }
    }

    /// Puts the KEK of an instance's scope into the keyring as `pinfold:<scope>:<id>`, for callers inside it.
    ///
    /// # Errors
    /// As [`ScopeEntry::install`].
    pub fn install_for(id: &InstanceId, kek: &Secret, timeout: Option<u32>) -> io::Result<Self> {
        let entry = Self::add(&format!("pinfold:{}:{}", id.scope, id.id), kek)?;
        if let Some(seconds) = timeout {
            keyctl::set_timeout(entry.key, seconds)?;
        }
        Ok(entry)
    }

    fn add(description: &str, kek: &Secret) -> io::Result<Self> {
        let key = keyctl::add_user_key_to_session(description, kek.expose())?;
        let entry = ScopeEntry { key, check: RwLock::new(Sha256::digest(kek.expose()).into()) };
        keyctl::set_perm(key, ENTRY_PERMS)?;
        Ok(entry)
    }

    /// Another KEK under the same serial number, for the same time.
    ///
    /// # Errors
    /// [`KeyError::Revoked`] and [`KeyError::Expired`] for one that is cut off, and stays so; what the kernel says.
    pub fn renew(&self, kek: &Secret, timeout: Option<u32>) -> Result<(), KeyError> {
        let mut check = self.check.write();
        keyctl::update(self.key, kek.expose())?;
        *check = Sha256::digest(kek.expose()).into();
        // An update takes the end away.
        timeout.map_or(Ok(()), |seconds| keyctl::set_timeout(self.key, seconds).map_err(KeyError::Other))
    }

    /// Revokes it, for everybody who still has it in hand.
    pub fn revoke(&self) {
        // It fails only where somebody else was faster.
        let _ = keyctl::revoke(self.key);
    }

    /// Reads the KEK, now.
    ///
    /// # Errors
    /// What became of the entry. One that somebody wrote over counts as missing.
    pub fn read(&self) -> Result<Kek, ScopeState> {
        let mut kek = Zeroizing::new([0; Kek::LEN]);
        let check = self.check.read();
        match keyctl::read(self.key, &mut *kek) {
            Ok(n) if n == Kek::LEN && <[u8; 32]>::from(Sha256::digest(*kek)) == *check => Ok(Kek::new(kek)),
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
    fn an_instances_entry_is_its_own_and_may_expire() {
        let kek = Secret::random(Kek::LEN).unwrap();
        let scope = Scope::container("web").unwrap();
        let id = |id: &str| InstanceId { scope: scope.clone(), id: id.into() };
        let one = ScopeEntry::install_for(&id("keyring-1"), &kek, None).unwrap();
        let two = ScopeEntry::install_for(&id("keyring-2"), &kek, Some(1)).unwrap();
        let store = ScopeEntry::install(&scope, &kek).unwrap();
        one.revoke();
        assert_eq!((one.state(), store.state()), (ScopeState::Revoked, ScopeState::Alive));
        let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while two.state() != ScopeState::Expired {
            assert!(std::time::Instant::now() < end, "it does not expire");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        assert_eq!(store.read().unwrap().expose(), kek.expose());
    }

    #[test]
    fn a_renewed_entry_keeps_its_number_and_its_end_and_stays_revoked() {
        let (old, new) = (Secret::random(Kek::LEN).unwrap(), Secret::random(Kek::LEN).unwrap());
        let id = InstanceId { scope: Scope::container("web").unwrap(), id: "keyring-renewed".into() };
        let entry = ScopeEntry::install_for(&id, &old, Some(3600)).unwrap();
        let serial = entry.serial();
        entry.renew(&new, Some(1)).unwrap();
        assert_eq!((entry.serial(), entry.read().unwrap().expose() == new.expose()), (serial, true));
        let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while entry.state() != ScopeState::Expired {
            assert!(std::time::Instant::now() < end, "it does not expire");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        let entry = ScopeEntry::install(&Scope::Host, &old).unwrap();
        entry.revoke();
        assert!(entry.renew(&new, None).is_err());
        assert_eq!(entry.state(), ScopeState::Revoked);
    }

    #[test]
    fn a_spoiled_entry_counts_as_missing() {
        let kek = Secret::random(Kek::LEN).unwrap();
        let entry = ScopeEntry::install(&Scope::Host, &kek).unwrap();
        entry.check.write()[0] ^= 1;
        assert_eq!(entry.state(), ScopeState::Missing);
    }
}
