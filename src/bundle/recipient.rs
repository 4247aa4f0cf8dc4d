//! Whom a bundle is encrypted to.

use age_core::format::{FileKey, Stanza};
use std::collections::HashSet;
use std::fmt;
use thiserror::Error;

/// The longest text of a recipient, in bytes.
const MAX: usize = 1024;

/// Why text is no recipient.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum RecipientError {
    /// Neither form.
    #[error("not a recipient: age1… or ssh-ed25519 AAAA…")]
    NotARecipient,
    /// Not a private key as sshd has it, or one under a passphrase.
    #[error("not an OpenSSH private key without a passphrase")]
    NotAnIdentity,
    /// An SSH key of a kind that nothing is encrypted to here.
    #[error("nothing is encrypted to {0} keys here: only to ssh-ed25519")]
    Kind(String),
}

/// An age X25519 recipient, or the Ed25519 key of an SSH host.
#[derive(Clone)]
pub struct Recipient(Inner);

#[derive(Clone)]
enum Inner {
    X25519(age::x25519::Recipient),
    Ssh(age::ssh::Recipient),
}

impl Recipient {
    /// Parses `age1…`, `ssh-ed25519 AAAA… comment`, or `ssh-ed25519:AAAA…` where it must be one word.
    ///
    /// # Errors
    /// [`RecipientError`].
    pub fn parse(text: &str) -> Result<Self, RecipientError> {
        let text = text.trim();
        if text.len() > MAX {
            return Err(RecipientError::NotARecipient);
        }
        if text.starts_with("age1") {
            return text.parse().map(|r| Recipient(Inner::X25519(r))).map_err(|_| RecipientError::NotARecipient);
        }
        let (kind, rest) = text.split_once([':', ' ']).ok_or(RecipientError::NotARecipient)?;
        // By its name, before anything parses it: RSA's arithmetic is never reached (RUSTSEC-2023-0071).
        match kind {
            "ssh-ed25519" => {}
            "ssh-rsa" | "ssh-dss" => return Err(RecipientError::Kind(kind.into())),
            _ if kind.starts_with("ecdsa-") || kind.starts_with("sk-") => {
                return Err(RecipientError::Kind(kind.into()));
            }
            _ => return Err(RecipientError::NotARecipient),
        }
        match format!("{kind} {}", rest.trim_start()).parse::<age::ssh::Recipient>() {
            Ok(key @ age::ssh::Recipient::SshEd25519(..)) => Ok(Recipient(Inner::Ssh(key))),
            _ => Err(RecipientError::NotARecipient),
        }
    }
}

/// The private key of an SSH host, in the file that sshd has, as what opens a bundle sealed to that key.
///
/// # Errors
/// [`RecipientError`] for a key of another kind: it is known by its name before anything calculates with it, as with
/// [`Recipient::parse`]. One under a passphrase is none: nobody is there to type it.
pub fn ssh_identity(file: &[u8]) -> Result<age::ssh::Identity, RecipientError> {
    let key = ssh_key::PrivateKey::from_openssh(file).map_err(|_| RecipientError::NotAnIdentity)?;
    if key.is_encrypted() {
        return Err(RecipientError::NotAnIdentity);
    }
    if key.algorithm() != ssh_key::Algorithm::Ed25519 {
        return Err(RecipientError::Kind(key.algorithm().as_str().into()));
    }
    age::ssh::Identity::from_buffer(file, None).map_err(|_| RecipientError::NotAnIdentity)
}

impl From<age::x25519::Recipient> for Recipient {
    fn from(recipient: age::x25519::Recipient) -> Self {
        Recipient(Inner::X25519(recipient))
    }
}

impl age::Recipient for Recipient {
    fn wrap_file_key(&self, file_key: &FileKey) -> Result<(Vec<Stanza>, HashSet<String>), age::EncryptError> {
        match &self.0 {
            Inner::X25519(recipient) => recipient.wrap_file_key(file_key),
            Inner::Ssh(recipient) => recipient.wrap_file_key(file_key),
        }
    }
}

/// The text it was parsed from, without a comment.
impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Inner::X25519(recipient) => recipient.fmt(f),
            Inner::Ssh(recipient) => recipient.fmt(f),
        }
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
