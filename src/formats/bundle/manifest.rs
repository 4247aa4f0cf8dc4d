//! `manifest.json`: the part of a bundle that anybody may read, and that is signed as it stands.

use super::chain::Chain;
use super::key::{Fingerprint, PublicKey};
use super::{MANIFEST_MAX, Refusal};
use crate::model::{ConsoleName, HostName, Timestamp};
use crate::secret::{Secret, wipe_stack};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};
use std::collections::HashSet;

/// What `format` says.
const FORMAT: &str = "pinfold-bundle";
/// The version that is written, and the only one that is read.
const VERSION: u64 = 1;
/// The most keys a manifest revokes.
pub const REVOKED_MAX: usize = 1024;

/// Whose bundle it is, for whom, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Who makes it.
    pub console: ConsoleName,
    /// Whom it is for.
    pub host: HostName,
    /// Greater than that of every bundle before it for this host.
    pub serial: u64,
    /// When it is made.
    pub created: Timestamp,
    /// From when on it is not taken any more.
    pub expires: Timestamp,
}

/// The manifest of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    format: String,
    version: u64,
    /// Who made it.
    pub console: ConsoleName,
    /// Whom it is for.
    pub host: HostName,
    /// Its number: greater than those of all bundles before it.
    pub serial: u64,
    /// When it was made.
    #[serde(with = "crate::times::text")]
    pub created: Timestamp,
    /// From when on it is not taken any more.
    #[serde(with = "crate::times::text")]
    pub expires: Timestamp,
    /// `payload.age`.
    pub payload: Payload,
    /// Who signed it: the newest key of the chain.
    pub signer: PublicKey,
    /// How hosts that trust an older key come to the signer.
    pub chain: Chain,
    /// Keys that no host may trust again.
    #[serde(deserialize_with = "revoked")]
    pub revoked: Vec<Fingerprint>,
}

/// What is signed of the payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Payload {
    /// Of the encrypted file, in hex.
    pub sha256: Sha256Hex,
    /// Bytes of the encrypted file.
    pub size: u64,
}

/// A SHA-256, in JSON as 64 small hex digits: what sha256sum(1) prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sha256Hex(pub [u8; 32]);

impl Sha256Hex {
    /// Of a content. The hash keeps up to 63 bytes of it on the stack: they are wiped.
    pub fn of(content: &Secret) -> Self {
        let digest = digest(content.expose());
        wipe_stack();
        Sha256Hex(digest)
    }
}

#[inline(never)]
fn digest(content: &[u8]) -> [u8; 32] {
    Sha256::digest(content).into()
}

impl Manifest {
    pub(super) fn new(
        head: &Head,
        payload: Payload,
        signer: &PublicKey,
        chain: &Chain,
        revoked: &[Fingerprint],
    ) -> Self {
        Manifest {
            format: FORMAT.into(),
            version: VERSION,
            console: head.console.clone(),
            host: head.host.clone(),
            serial: head.serial,
            created: head.created,
            expires: head.expires,
            payload,
            signer: signer.clone(),
            chain: chain.clone(),
            revoked: revoked.to_vec(),
        }
    }

    /// The keys that it revokes and that its own chain leads over: each of them signed the next link. Of others, the one before the
    /// first link included, it is the signer's word alone.
    pub fn revoked_of_chain(&self) -> impl Iterator<Item = Fingerprint> {
        let used: HashSet<Fingerprint> = self.chain.links().iter().map(|link| link.key.fingerprint()).collect();
        self.revoked.iter().copied().filter(move |key| used.contains(key))
    }

    /// The bytes that are signed. Their number does not depend on the payload's digest.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("a manifest has no map with keys that are not strings");
        bytes.push(b'\n');
        bytes
    }

    /// Reads the bytes, strictly: no unknown field, no doubled one, nothing after the end.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Refusal> {
        if bytes.len() > MANIFEST_MAX {
            return Err(Refusal::NotABundle("its manifest is too large".into()));
        }
        version_of(bytes, FORMAT, VERSION)?;
        let manifest: Manifest = serde_json::from_slice(bytes).map_err(|e| not_json(&e))?;
        if manifest.expires <= manifest.created {
            return Err(Refusal::NotABundle("it expires before it is made".into()));
        }
        Ok(manifest)
    }
}

/// Looks at `format` and `version` alone: a later version may have any other fields.
pub(super) fn version_of(bytes: &[u8], format: &str, version: u64) -> Result<(), Refusal> {
    #[derive(Deserialize)]
    struct Versioned {
        format: String,
        version: u64,
    }
    let found: Versioned = serde_json::from_slice(bytes).map_err(|e| not_json(&e))?;
    if found.format != format {
        return Err(Refusal::NotABundle("its manifest is of another format".into()));
    }
    match found.version {
        v if v == version => Ok(()),
        0 => Err(Refusal::NotABundle("there is no version 0 of its format".into())),
        v => Err(Refusal::NewerFormat(v)),
    }
}

fn not_json(error: &serde_json::Error) -> Refusal {
    // Where, not what: the message may quote what an uploader wrote.
    Refusal::NotABundle(format!("its manifest does not parse, line {}, column {}", error.line(), error.column()))
}

fn revoked<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Fingerprint>, D::Error> {
    super::bounded::list(deserializer, REVOKED_MAX)
}

impl std::fmt::Display for Sha256Hex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&crate::hex::encode(&self.0))
    }
}

impl Serialize for Sha256Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Sha256Hex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let out = crate::hex::decode_exact(text.as_bytes())
            .ok_or_else(|| serde::de::Error::custom("a SHA-256 has 64 small hex digits"))?;
        Ok(Sha256Hex(out))
    }
}
