//! Words for certificates: whose they are, and what their keys are.

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
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        KeyType::ALL.iter().find(|(_, word)| *word == text).map(|(t, _)| *t).ok_or(WordError::KeyType)
    }
}

impl fmt::Display for KeyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = KeyType::ALL.iter().find(|(t, _)| t == self).map(|(_, word)| *word);
        f.write_str(word.expect("each type is in the table"))
    }
}

/// Whose certificate it is: a host's name, or that of an own authority. It is a name in the tree too.
///
/// Shape: `[A-Za-z0-9][A-Za-z0-9._-]*`, 253 bytes at most, no two dots together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CertName(String);

impl CertName {
    /// Checks its form.
    ///
    /// # Errors
    /// [`WordError::Name`].
    pub fn parse(text: &str) -> Result<Self, WordError> {
        let first = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        if first && plain && text.len() <= 253 && !text.contains("..") {
            Ok(CertName(text.to_owned()))
        } else {
            Err(WordError::Name)
        }
    }

    /// The name that a certificate's own name asks for: a wildcard's star is written out.
    ///
    /// # Errors
    /// [`WordError::Name`].
    pub fn from_subject(text: &str) -> Result<Self, WordError> {
        match text.strip_prefix("*.") {
            Some(rest) => CertName::parse(&format!("wildcard.{rest}")),
            None => CertName::parse(text),
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for CertName {
    type Error = WordError;

    fn try_from(text: String) -> Result<Self, WordError> {
        CertName::parse(&text)
    }
}

impl From<CertName> for String {
    fn from(name: CertName) -> String {
        name.0
    }
}

impl fmt::Display for CertName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A word that is none of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum WordError {
    /// No type of key.
    #[error("a key is one of ecdsa-p256, ecdsa-p384, ecdsa-p521, rsa-2048, rsa-3072, rsa-4096, ed25519")]
    KeyType,
    /// No name.
    #[error(
        "a host's name has 1 to 253 of A-Z a-z 0-9 . _ -, begins with a letter or digit and has no two dots together"
    )]
    Name,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_names_in_the_tree_too() {
        for good in ["web", "web-1.example.org", "a", "9", "x_y"] {
            assert_eq!(CertName::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", ".web", "-x", "a/b", "a..b", "*.example.org", "a b", "ä", "a\0", &"a".repeat(254)] {
            assert!(CertName::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(CertName::from_subject("*.example.org").unwrap().as_str(), "wildcard.example.org");
    }

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
