//! What keys of certificates are.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// The type of a key that is to be made. On the wire and in the configuration it is the word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum KeyType {
    /// ECDSA over P-256.
    #[default]
    #[serde(rename = "ecdsa-p256")]
    EcdsaP256,
    /// ECDSA over P-384.
    #[serde(rename = "ecdsa-p384")]
    EcdsaP384,
    /// ECDSA over P-521.
    #[serde(rename = "ecdsa-p521")]
    EcdsaP521,
    /// RSA of 2048 bits.
    #[serde(rename = "rsa-2048")]
    Rsa2048,
    /// RSA of 3072 bits.
    #[serde(rename = "rsa-3072")]
    Rsa3072,
    /// RSA of 4096 bits.
    #[serde(rename = "rsa-4096")]
    Rsa4096,
    /// EdDSA over Curve25519.
    #[serde(rename = "ed25519")]
    Ed25519,
}

impl KeyType {
    /// Each of them with its word.
    pub const ALL: [(KeyType, &'static str); 7] = [
        (KeyType::EcdsaP256, "ecdsa-p256"),
        (KeyType::EcdsaP384, "ecdsa-p384"),
        (KeyType::EcdsaP521, "ecdsa-p521"),
        (KeyType::Rsa2048, "rsa-2048"),
        (KeyType::Rsa3072, "rsa-3072"),
        (KeyType::Rsa4096, "rsa-4096"),
        (KeyType::Ed25519, "ed25519"),
    ];
}

impl FromStr for KeyType {
    type Err = KeyTypeError;

    fn from_str(text: &str) -> Result<Self, KeyTypeError> {
        KeyType::ALL.iter().find(|(_, word)| *word == text).map(|(t, _)| *t).ok_or(KeyTypeError)
    }
}

impl fmt::Display for KeyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = KeyType::ALL.iter().find(|(t, _)| t == self).map(|(_, word)| *word);
        f.write_str(word.expect("each type is in the table"))
    }
}

/// A word that is no type of key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a key is one of ecdsa-p256, ecdsa-p384, ecdsa-p521, rsa-2048, rsa-3072, rsa-4096, ed25519")]
pub struct KeyTypeError;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_type_has_its_word_everywhere() {
        for (kind, word) in KeyType::ALL {
            assert_eq!(kind.to_string(), word);
            assert_eq!(word.parse(), Ok(kind));
            assert_eq!(serde_json::to_value(kind).unwrap(), word);
        }
        assert!("rsa-512".parse::<KeyType>().is_err());
    }
}
