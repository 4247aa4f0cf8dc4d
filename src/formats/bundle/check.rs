//! Everything that is checked before anything is decrypted, in the order of design section 7: too large, not a bundle, not for
//! this host, bad signature, serial not newer, expired; and then whether the payload is the one that was signed.
//!
//! Owns that order, and what a host knows of a console. It reads one open file and asks no clock.

use super::key::{Fingerprint, PublicKey, SshSig};
use super::manifest::{Manifest, REVOKED_MAX};
use super::parts::Parts;
use super::refusal::Revocations;
use super::{BUNDLE_NAMESPACE, Contents, Refusal};
use crate::model::{ConsoleName, HostName, Timestamp};
use crate::random_access::ReadAt;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The most revoked keys of a console that a host remembers: what it knows is handed to a process as one argument.
pub const REMEMBERED_MAX: usize = 2 * REVOKED_MAX;

/// What a host knows of a console.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trust {
    /// The console.
    pub console: ConsoleName,
    /// What this host is called there.
    pub host: HostName,
    /// The newest signing key that was walked to; the one that was typed, before the first bundle.
    pub key: PublicKey,
    /// That key's number in the rotation chain; unknown before the first bundle.
    pub number: Option<u64>,
    /// Keys that are never trusted again.
    pub revoked: Vec<Fingerprint>,
    /// The serial of the last bundle that was taken; 0 before the first.
    pub last_serial: u64,
    /// By how much the two clocks may differ.
    pub skew: Duration,
    /// The largest bundle, in bytes.
    pub max_size: u64,
    /// The most entries.
    pub max_entries: usize,
}

impl Trust {
    /// In a console of which only the key is known; with the usual bounds.
    pub fn new(console: ConsoleName, host: HostName, key: PublicKey) -> Self {
        Trust {
            console,
            host,
            key,
            number: None,
            revoked: Vec::new(),
            last_serial: 0,
            skew: Duration::from_secs(300),
            max_size: 256 << 20,
            max_entries: 100_000,
        }
    }

    /// Adds keys that are never trusted again.
    pub fn revoke(&mut self, keys: &[Fingerprint]) {
        for key in keys {
            if !self.revoked.contains(key) {
                self.revoked.push(*key);
            }
        }
    }
}

/// A bundle that passed every check, but for the payload's digest, which is compared again while it is decrypted.
#[derive(Debug)]
pub struct Checked {
    pub(super) file: Box<dyn ReadAt>,
    pub(super) manifest: Manifest,
    pub(super) payload_at: u64,
    pub(super) trust: Trust,
}

impl Checked {
    /// What was signed.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// What the host knows of the console once it has taken this bundle: to be stored in the same transaction.
    pub fn new_trust(&self) -> &Trust {
        &self.trust
    }

    /// Decrypts the payload's first member, the index.
    ///
    /// # Errors
    /// [`Refusal::NotForThisKey`], [`Refusal::BadPayload`], [`Refusal::TooManyEntries`].
    pub fn open(self, identity: &dyn age::Identity) -> Result<Contents, Refusal> {
        Contents::open(self, identity)
    }
}

/// Checks a bundle. The file is read through this descriptor alone, at offsets; it must be a copy that nobody else writes.
///
/// # Errors
/// The first [`Refusal`]; nothing was decrypted.
pub fn check(file: &dyn ReadAt, trust: &Trust, now: Timestamp) -> Result<Checked, Refusal> {
    let examined = examine(file, len_of(file)?, trust, now)?;
    examined.payload_is_signed(file)?;
    Ok(examined.of(file.another()?))
}

/// Which console a bundle claims to be from, unchecked: to find the trust that it is to be checked with.
///
/// # Errors
/// [`Refusal::TooLarge`], [`Refusal::NotABundle`], [`Refusal::NewerFormat`].
pub fn console_of(file: &dyn ReadAt, max_size: u64) -> Result<ConsoleName, Refusal> {
    let len = len_of(file)?;
    if len > max_size {
        return Err(Refusal::TooLarge { size: len, max: max_size });
    }
    Ok(Manifest::parse(&Parts::read(file, len)?.manifest)?.console)
}

/// Bytes of a regular file.
///
/// # Errors
/// [`Refusal::NotABundle`] if it is none.
pub fn len_of(file: &dyn ReadAt) -> Result<u64, Refusal> {
    file.size()?.ok_or_else(|| Refusal::NotABundle("it is not a regular file".into()))
}

/// A bundle of which all but the payload was looked at.
pub struct Examined {
    manifest: Manifest,
    parts: Parts,
    trust: Trust,
}

impl Examined {
    /// Hashes the payload.
    ///
    /// # Errors
    /// [`Refusal::OtherPayload`] if it is not the one that was signed.
    pub fn payload_is_signed(&self, file: &dyn ReadAt) -> Result<(), Refusal> {
        let digest = self.parts.payload_digest(file)?;
        if digest == self.manifest.payload.sha256.0 { Ok(()) } else { Err(Refusal::OtherPayload) }
    }

    /// For whoever has had the payload hashed: here, or in a process of its own. `file` is the one that was examined.
    pub fn of(self, file: Box<dyn ReadAt>) -> Checked {
        Checked { file, manifest: self.manifest, payload_at: self.parts.payload_at, trust: self.trust }
    }
}

/// Every check of [`check`] but the payload's digest.
///
/// # Errors
/// As there.
pub fn examine(file: &dyn ReadAt, len: u64, trust: &Trust, now: Timestamp) -> Result<Examined, Refusal> {
    if len > trust.max_size {
        return Err(Refusal::TooLarge { size: len, max: trust.max_size });
    }
    let parts = Parts::read(file, len)?;
    let manifest = Manifest::parse(&parts.manifest)?;
    if manifest.console != trust.console {
        return Err(Refusal::OtherConsole { found: manifest.console, trusted: trust.console.clone() });
    }
    if manifest.host != trust.host {
        return Err(Refusal::OtherHost { found: manifest.host, here: trust.host.clone() });
    }
    signature(&parts, &manifest)?;
    signer(&manifest, trust)?;
    serial(manifest.serial, trust.last_serial)?;
    times(&manifest, trust, now)?;
    not_ahead(manifest.serial, trust, now)?;
    if manifest.payload.size != parts.payload_len {
        return Err(Refusal::OtherPayload);
    }
    let mut trust = Trust {
        key: manifest.signer.clone(),
        number: Some(manifest.chain.number()),
        last_serial: manifest.serial,
        ..trust.clone()
    };
    trust.revoke(&manifest.revoked);
    if trust.revoked.len() > REMEMBERED_MAX {
        return Err(Refusal::BrokenChain(format!("more than {REMEMBERED_MAX} keys were revoked in all")));
    }
    Ok(Examined { manifest, parts, trust })
}

/// Whether the manifest was signed, as it stands, by the key that it names.
fn signature(parts: &Parts, manifest: &Manifest) -> Result<(), Refusal> {
    if parts.signature.iter().all(|b| *b == b'\n') {
        return Err(Refusal::Unsigned);
    }
    let bad = |why: String| Refusal::BadSignature(why);
    let armor = std::str::from_utf8(&parts.signature).map_err(|_| bad("it is not text".into()))?;
    let signature = SshSig::parse(armor).map_err(|e| bad(e.to_string()))?;
    if signature.key().ok().as_ref() != Some(&manifest.signer) {
        return Err(bad("it is by another key than the manifest names".into()));
    }
    if !manifest.signer.verifies(BUNDLE_NAMESPACE, &parts.manifest, &signature) {
        return Err(bad("it is not over this manifest".into()));
    }
    Ok(())
}

/// Whether the signer is one that this host trusts, or is led to by one, with no revoked key on the way.
fn signer(manifest: &Manifest, trust: &Trust) -> Result<(), Refusal> {
    let signer = manifest.signer.fingerprint();
    if trust.revoked.contains(&signer) || manifest.revoked.contains(&signer) {
        return Err(Refusal::RevokedSigner(signer));
    }
    let walked = manifest.chain.walk(&manifest.console, &trust.key, trust.number, &manifest.signer)?;
    // The keys that vouch for the signer. One that was revoked may have been in a thief's hands when it did; those before
    // the trusted key do not matter any more.
    let revoked = |key: &Fingerprint| trust.revoked.contains(key) || manifest.revoked.contains(key);
    let vouching = std::iter::once(trust.key.fingerprint()).chain(walked.iter().map(|l| l.key.fingerprint()));
    match vouching.into_iter().find(revoked) {
        None => Ok(()),
        Some(key) => Err(Refusal::TrustRevoked {
            console: manifest.console.clone(),
            key,
            signer,
            full: Box::new(manifest.signer.clone()),
            revoked: Box::new(Revocations {
                all: manifest.revoked.clone(),
                led: manifest.revoked_of_chain().collect(),
            }),
        }),
    }
}

fn serial(serial: u64, last: u64) -> Result<(), Refusal> {
    match serial.cmp(&last) {
        std::cmp::Ordering::Greater => Ok(()),
        std::cmp::Ordering::Equal => Err(Refusal::Replayed(serial)),
        std::cmp::Ordering::Less => Err(Refusal::Older { serial, last }),
    }
}

/// A serial is no greater than an honest console's can be: the clock's milliseconds, or one more than the last. Whoever has
/// the key for a while cannot use the numbers up.
fn not_ahead(serial: u64, trust: &Trust, now: Timestamp) -> Result<(), Refusal> {
    let skew = u64::try_from(trust.skew.as_millis()).unwrap_or(u64::MAX);
    let most = now.millis().saturating_add(skew).max(trust.last_serial.saturating_add(1));
    if serial > most { Err(Refusal::Ahead { serial, most }) } else { Ok(()) }
}

fn times(manifest: &Manifest, trust: &Trust, now: Timestamp) -> Result<(), Refusal> {
    if manifest.expires <= now {
        return Err(Refusal::Expired(manifest.expires));
    }
    if manifest.created > now.after(trust.skew) {
        return Err(Refusal::Future { created: manifest.created, now });
    }
    Ok(())
}
