//! Private keys, certificates, requests: what they are, which belong together, and making new ones.
//!
//! Owns reading every usual encoding into one form, the question whether a key and a certificate are a pair, the order of a
//! chain, and the rule by which something is renewed. It is given its data: it fetches nothing, stores nothing, asks no
//! clock, and says nothing of a private key but its type.

mod certificate;
mod chain;
mod der;
mod encrypted;
mod issue;
mod key;
mod keyfile;
mod name;
mod place;
mod public;
mod renewal;
mod request;

pub use certificate::Certificate;
pub use chain::{Chain, ChainState};
pub use issue::{Authority, Revoked, self_signed};
pub use key::{Key, type_like};
pub use keyfile::{Pile, Unread};
pub use name::{AltName, Subject};
pub use place::{AUTHORITIES, CertFolder, FOLDER, Part, host_of, name_of};
pub use public::{Curve, PublicKey};
pub use renewal::{Due, Tried, due, retry_after};
pub use request::{Asked, request};

use crate::sys::arena::ArenaFull;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use thiserror::Error;

/// How far the clocks of others may be ahead, in seconds.
pub(crate) const SKEW: i64 = 300;

/// Why something is not taken, or not made. Shows no content of a key.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CertError {
    /// It is not what it says, or not whole.
    #[error("{0}")]
    Broken(&'static str),
    /// The frame of PEM around it is broken.
    #[error("{0}")]
    Frame(String),
    /// Whole, perhaps, but of a kind that is not known here.
    #[error("{0} is not supported")]
    Unsupported(String),
    /// It is encrypted.
    #[error("it is encrypted, and no passphrase was given")]
    NeedsPassphrase,
    /// It is encrypted with another one.
    #[error("the passphrase does not open it")]
    WrongPassphrase,
    /// A signature is not by the key that it should be by.
    #[error("its signature is not by that key")]
    BadSignature,
    /// Key and certificate are no pair.
    #[error("the certificate is not for this key")]
    Mismatch,
    /// The chain does not hold.
    #[error("{0}")]
    Chain(String),
    /// What was asked for makes no sense.
    #[error("{0}")]
    Asked(String),
    /// The library did not do it.
    #[error("{0}")]
    Failed(&'static str),
    /// Locked memory is used up.
    #[error("{0}")]
    Memory(String),
}

impl From<ArenaFull> for CertError {
    fn from(full: ArenaFull) -> Self {
        CertError::Memory(full.to_string())
    }
}

/// Public DER as PEM (RFC 7468).
pub fn to_pem(label: &str, der: &[u8]) -> String {
    let mut out = format!("-----BEGIN {label}-----\n");
    for line in der.chunks(48) {
        BASE64.encode_string(line, &mut out);
        out.push('\n');
    }
    out + &format!("-----END {label}-----\n")
}

#[cfg(test)]
mod tests;
