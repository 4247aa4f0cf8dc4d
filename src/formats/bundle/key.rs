//! Public keys, their fingerprints, and signatures, as OpenSSH writes them.
//!
//! Owns which kinds are taken: Ed25519, in a file or on a FIDO token, and nothing else. It holds no private key.

use serde::{Deserialize, Serialize};
use ssh_key::public::KeyData;
use ssh_key::{Algorithm, HashAlg, LineEnding};
use std::fmt;
use thiserror::Error;

/// The longest text of a public key, in bytes.
const KEY_MAX: usize = 1024;
/// The largest signature, in bytes of its armor.
pub(super) const SIGNATURE_MAX: usize = 4096;

/// Why text is no key, fingerprint or signature.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub enum KeyError {
    /// It is not a public key as OpenSSH writes it.
    #[error("not an OpenSSH public key")]
    NotAKey,
    /// It is one of a kind that nothing is signed with here.
    #[error("only ssh-ed25519 and sk-ssh-ed25519@openssh.com keys are taken")]
    Kind,
    /// It is not `SHA256:` and 43 characters.
    #[error("not a fingerprint: SHA256: and 43 characters")]
    NotAFingerprint,
    /// It is not a signature as `ssh-keygen -Y sign` writes it.
    #[error("not an SSH signature as ssh-keygen writes it")]
    NotASignature,
}

/// A public key that signatures are checked with. Two are equal if their key is; a comment is not kept.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey(KeyData);

impl PublicKey {
    /// Parses `ssh-ed25519 AAAA… comment`, or `ssh-ed25519:AAAA…` where a key must be one word.
    ///
    /// # Errors
    /// [`KeyError::NotAKey`], [`KeyError::Kind`].
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let text = text.trim();
        if text.len() > KEY_MAX {
            return Err(KeyError::NotAKey);
        }
        let spaced = match text.split_once([':', ' ']) {
            Some((kind, rest)) => format!("{kind} {}", rest.trim_start()),
            None => return Err(KeyError::NotAKey),
        };
        let key = ssh_key::PublicKey::from_openssh(&spaced).map_err(|_| KeyError::NotAKey)?;
        Self::new(key.key_data().clone())
    }

    /// Reads a key as the agent protocol and signatures have it.
    ///
    /// # Errors
    /// As [`PublicKey::parse`].
    pub fn from_bytes(blob: &[u8]) -> Result<Self, KeyError> {
        let key = ssh_key::PublicKey::from_bytes(blob).map_err(|_| KeyError::NotAKey)?;
        Self::new(key.key_data().clone())
    }

    pub(super) fn new(data: KeyData) -> Result<Self, KeyError> {
        match data {
            KeyData::Ed25519(_) | KeyData::SkEd25519(_) => Ok(PublicKey(data)),
            _ => Err(KeyError::Kind),
        }
    }

    /// The key as the agent protocol and signatures have it.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.openssh().to_bytes().expect("a key that was decoded can be encoded")
    }

    pub(super) fn data(&self) -> &KeyData {
        &self.0
    }

    /// What it is called in few characters.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint(self.0.fingerprint(HashAlg::Sha256).sha256().expect("SHA-256 was asked for"))
    }

    /// `ssh-ed25519:AAAA…`: one word, for configuration lines.
    pub fn one_word(&self) -> String {
        self.to_string().replacen(' ', ":", 1)
    }

    /// Whether `message` was signed with this key under this namespace.
    pub fn verifies(&self, namespace: &str, message: &[u8], signature: &SshSig) -> bool {
        self.openssh().verify(namespace, message, &signature.0).is_ok()
    }

    fn openssh(&self) -> ssh_key::PublicKey {
        self.0.clone().into()
    }
}

/// As in a `.pub` file, without a comment.
impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.openssh().to_openssh().map_err(|_| fmt::Error)?)
    }
}

impl TryFrom<String> for PublicKey {
    type Error = KeyError;
    fn try_from(text: String) -> Result<Self, KeyError> {
        Self::parse(&text)
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> String {
        key.to_string()
    }
}

/// A key's SHA-256, shown as `SHA256:…` as by `ssh-keygen -l`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Parses `SHA256:…`.
    ///
    /// # Errors
    /// [`KeyError::NotAFingerprint`].
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let parsed: ssh_key::Fingerprint = text.parse().map_err(|_| KeyError::NotAFingerprint)?;
        parsed.sha256().map(Fingerprint).ok_or(KeyError::NotAFingerprint)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        ssh_key::Fingerprint::Sha256(self.0).fmt(f)
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = KeyError;
    fn try_from(text: String) -> Result<Self, KeyError> {
        Self::parse(&text)
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> String {
        fingerprint.to_string()
    }
}

/// A signature in OpenSSH's format (PROTOCOL.sshsig), exactly as `ssh-keygen -Y sign` writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SshSig(ssh_key::SshSig);

impl SshSig {
    /// Parses the armor. There is one text for each signature: a changed line break is refused as well.
    ///
    /// # Errors
    /// [`KeyError::NotASignature`].
    pub fn parse(armor: &str) -> Result<Self, KeyError> {
        if armor.len() > SIGNATURE_MAX {
            return Err(KeyError::NotASignature);
        }
        let parsed = ssh_key::SshSig::from_pem(armor).map_err(|_| KeyError::NotASignature)?;
        let signature = SshSig(parsed);
        let exact = signature.0.reserved().is_empty()
            && signature.0.version() == ssh_key::SshSig::VERSION
            && signature.armor() == armor;
        if exact { Ok(signature) } else { Err(KeyError::NotASignature) }
    }

    /// Puts together what a key made of [`SshSig::to_sign`].
    pub(super) fn new(key: &PublicKey, namespace: &str, signature: ssh_key::Signature) -> Result<Self, KeyError> {
        ssh_key::SshSig::new(key.data().clone(), namespace, HashAlg::Sha512, signature)
            .map(SshSig)
            .map_err(|_| KeyError::NotASignature)
    }

    /// Of what an ssh-agent made of [`SshSig::to_sign`].
    ///
    /// # Errors
    /// [`KeyError::NotASignature`].
    pub fn from_agent(key: &PublicKey, namespace: &str, signature: &[u8]) -> Result<Self, KeyError> {
        let signature = ssh_key::Signature::try_from(signature).map_err(|_| KeyError::NotASignature)?;
        Self::new(key, namespace, signature)
    }

    /// What a key signs for a message.
    pub fn to_sign(namespace: &str, message: &[u8]) -> Vec<u8> {
        ssh_key::SshSig::signed_data(namespace, HashAlg::Sha512, message).expect("the namespace is not empty")
    }

    /// How long the armor of any signature by this key is, in bytes: it lies between the manifest and the payload.
    pub(super) fn armor_len(key: &PublicKey, namespace: &str) -> usize {
        let (algorithm, len) = match key.data() {
            KeyData::SkEd25519(_) => (Algorithm::SkEd25519, 69),
            _ => (Algorithm::Ed25519, 64),
        };
        let blank = ssh_key::Signature::new(algorithm, vec![0; len]).expect("that many bytes are a signature's");
        Self::new(key, namespace, blank).expect("the namespace is not empty").armor().len()
    }

    /// The armor, from `-----BEGIN SSH SIGNATURE-----` to the last newline.
    pub fn armor(&self) -> String {
        let mut armor = self.0.to_pem(LineEnding::LF).expect("a signature that was decoded can be encoded");
        if !armor.ends_with('\n') {
            armor.push('\n');
        }
        armor
    }

    /// Who signed, as the signature claims.
    ///
    /// # Errors
    /// [`KeyError::Kind`].
    pub fn key(&self) -> Result<PublicKey, KeyError> {
        PublicKey::new(self.0.public_key().clone())
    }
}

impl From<ssh_key::SshSig> for SshSig {
    fn from(signature: ssh_key::SshSig) -> Self {
        SshSig(signature)
    }
}

impl TryFrom<String> for SshSig {
    type Error = KeyError;
    fn try_from(armor: String) -> Result<Self, KeyError> {
        Self::parse(&armor)
    }
}

impl From<SshSig> for String {
    fn from(signature: SshSig) -> String {
        signature.armor()
    }
}
