//! Messages about certificates. Keys travel one way only: into the store.
//!
//! Owns the types; their names on the wire are in `methods`.

use super::base64;
use super::methods::or_default;
use crate::model::{HostName, KeyType, SecretPath, Timestamp};
use crate::secret::Secret;
use crate::times;
use serde::{Deserialize, Serialize};

/// Makes a key in the store, and a request for a certificate of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertRequest {
    /// For whom.
    pub host: HostName,
    /// `CN=…,O=…`; that of the certificate in use, or the host's name, if null.
    #[serde(default)]
    pub subject: Option<String>,
    /// Names it is to be good for; those of the certificate in use, or the host's name, if there are none.
    #[serde(default, deserialize_with = "or_default")]
    pub names: Vec<String>,
    /// As the key in use, or as configured, if null.
    #[serde(default)]
    pub key_type: Option<KeyType>,
    /// Whether a request that is not answered yet is given up for this one.
    #[serde(default)]
    pub again: Option<bool>,
}

/// A request was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertRequested {
    /// Where its key is.
    pub key: SecretPath,
    /// SHA-256 of the public key, in hexadecimal.
    pub fingerprint: String,
    /// The names in it.
    pub names: Vec<String>,
    /// The request, in PEM.
    pub request: String,
}

/// Stores a certificate that matches a key of the store; which one, is found out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertAccept {
    /// The certificate and what is above it, in PEM, DER or PKCS#7; base64 on the wire.
    #[serde(with = "base64::plain")]
    pub content: Vec<u8>,
    /// Whose it must be, if not null.
    #[serde(default)]
    pub host: Option<HostName>,
    /// Whether it is refused if it lacks a name that was asked for: nobody would read the warning.
    #[serde(default)]
    pub whole: Option<bool>,
}

/// Stores a pair.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertStore {
    /// For whom.
    pub host: HostName,
    /// The private key, in PEM or DER, not encrypted; base64 on the wire.
    #[serde(with = "base64::secret")]
    pub key: Secret,
    /// The certificate and what is above it; base64 on the wire.
    #[serde(with = "base64::plain")]
    pub content: Vec<u8>,
    /// Whether a pair that is there gets a new version.
    #[serde(default)]
    pub replace: Option<bool>,
}

/// A certificate was stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertStored {
    /// Where.
    pub path: SecretPath,
    /// For whom, if it is where a host's are.
    pub host: Option<HostName>,
    /// The number of its version.
    pub version: u64,
    /// `self-signed`, `whole`, or `open`: whoever signed the last one is not there.
    pub chain: String,
    /// How many are above it.
    pub above: u64,
    /// How many that came with it have no place in its chain, and were left out.
    pub unused: u64,
    /// Names that were asked for and are not in it.
    pub missing: Vec<String>,
    /// Until when it is good.
    #[serde(with = "times::text")]
    pub not_after: Timestamp,
}

/// The certificates of the tree.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertList {
    /// Only those whose path, host or any name matches; `*` stands for anything.
    #[serde(default)]
    pub pattern: Option<String>,
    /// Whether those that end within so many seconds are told in the log, too, and counted for `Status`.
    #[serde(default)]
    pub warn_within: Option<u64>,
    /// Whether each comes with its bytes and what is above it.
    #[serde(default)]
    pub pem: Option<bool>,
}

/// What was found, or a part of it. Without `more` there is one part.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CertListing {
    /// By path.
    pub certificates: Vec<CertInfo>,
    /// Files that promise a certificate or key and could not be read.
    pub unread: Vec<CertUnread>,
}

/// A file that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertUnread {
    /// Which.
    pub path: SecretPath,
    /// Why.
    pub reason: String,
}

/// A certificate: the first of its file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertInfo {
    /// Its file.
    pub path: SecretPath,
    /// For whom, if it is where a host's are.
    pub host: Option<HostName>,
    /// Whom it is about.
    pub subject: String,
    /// Names it is good for, `DNS:…`, `IP:…`.
    pub names: Vec<String>,
    /// Who signed it.
    pub issuer: String,
    /// Serial number, in hexadecimal.
    pub serial: String,
    /// SHA-256 of the certificate, in hexadecimal.
    pub fingerprint: String,
    /// From when on it is good.
    #[serde(with = "times::text")]
    pub not_before: Timestamp,
    /// Until when it is good.
    #[serde(with = "times::text")]
    pub not_after: Timestamp,
    /// Whole days until then; negative once it is over.
    pub days_left: i64,
    /// What its key is: `ecdsa-p256`, `rsa-3072`, …
    pub key_type: String,
    /// Whether it may sign others.
    pub authority: bool,
    /// `match`: its key is in the store; `mismatch`: the key that it should go with is another; `none`.
    pub key: String,
    /// Where that key is.
    pub key_path: Option<SecretPath>,
    /// `self-signed`, `whole`, `open` or `broken`.
    pub chain: String,
    /// What is broken about it.
    pub chain_reason: Option<String>,
    /// How many are above it.
    pub above: u64,
    /// How renewing it goes, if it does not go well or an answer is waited for.
    pub renewal: Option<CertRenewal>,
    /// It and what is above it, in PEM, if that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pem: Option<String>,
}

/// How renewing goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertRenewal {
    /// Failures, one after the other.
    pub failures: u32,
    /// When it was tried last.
    #[serde(with = "times::text")]
    pub last: Timestamp,
    /// When it is tried again at the earliest.
    #[serde(with = "times::text")]
    pub next: Timestamp,
    /// Why it failed; null while an answer is waited for.
    pub reason: Option<String>,
}

/// One certificate, with its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertShow {
    /// Its file, or the folder of a host.
    pub path: SecretPath,
}

/// It.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertShown {
    /// What it says; null while it is only asked for.
    pub certificate: Option<CertInfo>,
    /// It and what is above it, in PEM; public.
    pub pem: String,
    /// The request that is not answered yet, in PEM.
    pub request: Option<String>,
}

/// Makes a key and a certificate that it signs itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertSelfsign {
    /// For whom.
    pub host: HostName,
    /// As in [`CertRequest`].
    #[serde(default)]
    pub subject: Option<String>,
    /// As in [`CertRequest`].
    #[serde(default, deserialize_with = "or_default")]
    pub names: Vec<String>,
    /// As in [`CertRequest`].
    #[serde(default)]
    pub key_type: Option<KeyType>,
    /// For how many days.
    pub days: u32,
    /// Whether a pair that is there gets a new version.
    #[serde(default)]
    pub replace: Option<bool>,
}

/// Makes an authority of one's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaInit {
    /// What it is called in the tree: `ca/NAME`.
    pub name: HostName,
    /// Whom its certificate is about; the name if null.
    #[serde(default)]
    pub subject: Option<String>,
    /// Its key.
    #[serde(default)]
    pub key_type: Option<KeyType>,
    /// For how many days.
    pub days: u32,
}

/// An authority signs a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaSign {
    /// Which authority.
    pub name: HostName,
    /// The request, in PEM or DER; base64 on the wire.
    #[serde(with = "base64::plain")]
    pub request: Vec<u8>,
    /// For how many days.
    pub days: u32,
}

/// What an authority made: a certificate, or a list of those it takes back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaMade {
    /// In PEM; a certificate is followed by the authority's.
    pub pem: String,
    /// A certificate's serial number, in hexadecimal; of a list its number, in decimal.
    pub serial: String,
}

/// An authority takes certificates back, and makes the list of all that it took back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaCrl {
    /// Which authority.
    pub name: HostName,
    /// The serial numbers it takes back now, in hexadecimal.
    #[serde(default, deserialize_with = "or_default")]
    pub revoke: Vec<String>,
    /// For how many days the list is good.
    pub days: u32,
}

/// Keeps how a renewal went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertNote {
    /// Whose.
    pub host: HostName,
    /// When.
    #[serde(with = "times::text")]
    pub at: Timestamp,
    /// Why it failed; null: the request was handed to somebody who answers later.
    #[serde(default)]
    pub reason: Option<String>,
}

/// What the last look at the certificates found; [`CertList`] with `warn_within` looks.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CertStatus {
    /// When that was.
    #[serde(with = "times::text")]
    pub looked: Timestamp,
    /// How many had ended then.
    pub expired: u64,
    /// How many were about to end.
    pub expiring: u64,
    /// Which ends first.
    pub soonest: Option<SecretPath>,
    /// When.
    #[serde(with = "times::maybe", default)]
    pub soonest_ends: Option<Timestamp>,
    /// Renewals that failed.
    pub failing: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_is_as_good_as_absent() {
        let text = r#"{"host":"web","subject":null,"names":null,"key_type":null,"again":null}"#;
        let asked: CertRequest = serde_json::from_str(text).unwrap();
        assert_eq!(asked, serde_json::from_str(r#"{"host":"web"}"#).unwrap());
        let crl: CaCrl = serde_json::from_str(r#"{"name":"lab","revoke":null,"days":1}"#).unwrap();
        assert!(crl.revoke.is_empty());
        for bad in [r#"{"host":"../web"}"#, r#"{"host":"web","key_type":"dsa"}"#, r#"{"host":"web","key":"x"}"#] {
            assert!(serde_json::from_str::<CertRequest>(bad).is_err(), "{bad}");
        }
    }
}
