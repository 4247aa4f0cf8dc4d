//! Who signs: a trait, and a key of our own.

use super::key::{PublicKey, SshSig};
use crate::secret::{Secret, wipe_stack};
use crate::sys::arena::ArenaFull;
use ssh_key::private::Ed25519Keypair;
use ssh_key::{HashAlg, PrivateKey};
use thiserror::Error;
use zeroize::Zeroizing;

/// Why nothing was signed.
#[derive(Debug, Error)]
pub enum SignError {
    /// The bytes are no Ed25519 seed.
    #[error("a signing key is 32 bytes")]
    NotASeed,
    /// The locked memory is used up.
    #[error(transparent)]
    ArenaFull(#[from] ArenaFull),
    /// The agent does not answer as it should.
    #[error("the ssh-agent at {socket}: {why}")]
    Agent {
        /// Its socket.
        socket: String,
        /// What is wrong.
        why: String,
    },
    /// The agent is there, but without this key.
    #[error("the ssh-agent has no key {0}")]
    NoSuchKey(super::Fingerprint),
    /// A link that would break the rotation chain.
    #[error("{0}")]
    Chain(&'static str),
    /// What came back does not verify.
    #[error("the signature that was made does not verify")]
    Wrong,
}

/// Something that signs as `ssh-keygen -Y sign` does.
pub trait Signer: Send + Sync {
    /// The key whose signatures these are.
    fn public(&self) -> &PublicKey;

    /// Signs a message under a namespace.
    ///
    /// # Errors
    /// [`SignError`]. It may wait for a person (a token wants a touch), but not for ever.
    fn sign(&self, namespace: &str, message: &[u8]) -> Result<SshSig, SignError>;
}

/// An Ed25519 key whose seed lies in locked memory.
pub struct KeySigner {
    seed: Secret,
    public: PublicKey,
}

impl KeySigner {
    /// A new key.
    ///
    /// # Errors
    /// [`SignError::ArenaFull`].
    pub fn generate() -> Result<Self, SignError> {
        Self::from_seed(Secret::random(32)?)
    }

    /// The key of a seed of 32 bytes.
    ///
    /// # Errors
    /// [`SignError::NotASeed`].
    pub fn from_seed(seed: Secret) -> Result<Self, SignError> {
        let public = with_key(&seed, |key| key.public_key().key_data().clone())?;
        Ok(KeySigner { seed, public: PublicKey::new(public).expect("Ed25519 is taken") })
    }

    /// What is to be kept of it, sealed.
    pub fn seed(&self) -> &Secret {
        &self.seed
    }
}

impl Signer for KeySigner {
    fn public(&self) -> &PublicKey {
        &self.public
    }

    fn sign(&self, namespace: &str, message: &[u8]) -> Result<SshSig, SignError> {
        let signature = with_key(&self.seed, |key| key.sign(namespace, HashAlg::Sha512, message))?;
        signature.map(SshSig::from).map_err(|_| SignError::Wrong)
    }
}

/// The key is on the stack for as long as it is used, and wiped there.
fn with_key<T>(seed: &Secret, use_it: impl FnOnce(&PrivateKey) -> T) -> Result<T, SignError> {
    let done = expand(seed, use_it);
    wipe_stack();
    done
}

#[inline(never)]
fn expand<T>(seed: &Secret, use_it: impl FnOnce(&PrivateKey) -> T) -> Result<T, SignError> {
    let seed: Zeroizing<[u8; 32]> = Zeroizing::new(seed.expose().try_into().map_err(|_| SignError::NotASeed)?);
    Ok(use_it(&PrivateKey::from(Ed25519Keypair::from_seed(&seed))))
}
