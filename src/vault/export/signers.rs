//! The keys that sign bundles: the first, the next, and those that nobody shall trust any more.
//!
//! Owns the chain: each key is vouched for by the one before it, so that a host that slept through some rotations walks
//! from the key it knows to the newest. A private key is opened for one use and dropped.

use super::record::{ExportRecord, Kept, SignerRecord};
use crate::audit;
use crate::bundle::{Chain, Fingerprint, KeySigner, Link, PublicKey, Signer};
use crate::config::SignWith;
use crate::model::{Ino, Timestamp};
use crate::seal;
use crate::secret::Secret;
use crate::ssh_agent::AgentSigner;
use crate::store::Batch;
use crate::vault::node::Record;
use crate::vault::writer::Writer;
use crate::vault::{Caller, State, Vault, VaultError};
use crate::wire::{SignerInfo, SignerListing};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How long an agent may take: somebody may have to touch a token.
const AGENT_PATIENCE: Duration = Duration::from_secs(60);
/// The most revoked keys that a manifest names.
const REVOKED_MAX: usize = crate::bundle::REVOKED_MAX;

/// All that signing takes, for as long as one round of bundles.
pub(super) struct Signing {
    /// The key.
    pub signer: Box<dyn Signer>,
    /// Who vouches for it.
    pub chain: Chain,
    /// Keys that are no longer to be trusted.
    pub revoked: Vec<Fingerprint>,
}

impl Signing {
    /// The key's name.
    pub fn fingerprint(&self) -> String {
        self.signer.public().fingerprint().to_string()
    }
}

/// The key that signs, by its public half; nothing is opened.
pub(super) struct Current {
    pub fingerprint: String,
    pub revoked: Vec<String>,
}

impl Vault {
    /// The newest key, and what is revoked; `None` before the first.
    pub(super) fn signer_current(&self) -> Result<Option<Current>, VaultError> {
        self.with_exports(|exports| {
            let (_, newest) = exports.signers().next_back()?;
            let revoked = exports.signers().filter(|(_, s)| s.revoked.is_some()).map(|(_, s)| s.fingerprint.clone());
            Some(Current { fingerprint: newest.fingerprint.clone(), revoked: revoked.collect() })
        })
    }

    /// Makes the first key if there is none and none has to be asked for.
    pub(super) fn signer_if_none(&self) -> Result<(), VaultError> {
        let none = self.with_exports(|exports| exports.signers().next().is_none())?;
        match self.exporter.settings()?.export.signer {
            SignWith::Auto | SignWith::Agent(_) if none => self.signer_first(&crate::caller::Daemon, None),
            SignWith::Manual if none => Err(VaultError::Invalid("there is no signing key: pinfold signer init".into())),
            SignWith::Auto | SignWith::Agent(_) | SignWith::Manual => Ok(()),
        }
    }

    /// Opens the newest key.
    ///
    /// # Errors
    /// [`VaultError::Invalid`] if it is none that is configured, or if a passphrase is wanted; [`VaultError::WrongKey`].
    pub(super) fn signing(&self, passphrase: Option<&Secret>) -> Result<Signing, VaultError> {
        let all: Vec<Arc<SignerRecord>> =
            self.with_exports(|exports| exports.signers().map(|(_, record)| Arc::clone(record)).collect())?;
        let newest = all.last().ok_or_else(|| VaultError::Invalid("there is no signing key".into()))?;
        let configured = &self.exporter.settings()?.export.signer;
        let other = match (configured, &newest.kept) {
            (SignWith::Auto, Kept::Store(_)) | (SignWith::Manual, Kept::Passphrase(_)) => false,
            (SignWith::Agent(wanted), Kept::Agent) => *wanted != newest.fingerprint,
            _ => true,
        };
        if other {
            return Err(VaultError::Invalid(format!(
                "the signing key {} is not what export.signer says ({configured}): pinfold signer rotate",
                newest.fingerprint
            )));
        }
        let revoked = all.iter().filter(|s| s.revoked.is_some()).map(|s| parse_fingerprint(&s.fingerprint));
        Ok(Signing {
            signer: self.open_signer(newest, passphrase)?,
            chain: chain_of(&all)?,
            revoked: revoked.collect::<Result<_, _>>()?,
        })
    }

    fn open_signer(&self, record: &SignerRecord, passphrase: Option<&Secret>) -> Result<Box<dyn Signer>, VaultError> {
        let seed = match &record.kept {
            Kept::Store(sealed) => {
                let keys = self.keys()?;
                seal::open_own(&keys.index, &label(&record.fingerprint), sealed)?
            }
            Kept::Passphrase(sealed) => {
                let passphrase = passphrase.ok_or_else(|| {
                    VaultError::Invalid("the signing key is under a passphrase: pinfold export sign".into())
                })?;
                seal::open_with_passphrase(sealed, passphrase).map_err(wrong_passphrase)?
            }
            Kept::Agent => return Ok(Box::new(self.agent(&record.fingerprint)?)),
        };
        let signer = KeySigner::from_seed(seed).map_err(failed)?;
        if signer.public().fingerprint().to_string() != record.fingerprint {
            return Err(VaultError::Damaged("the signing key is not the one that its record names".into()));
        }
        Ok(Box::new(signer))
    }

    fn agent(&self, fingerprint: &str) -> Result<AgentSigner, VaultError> {
        let settings = self.exporter.settings()?;
        let socket = settings.export.agent_socket.as_ref();
        let socket = socket.ok_or_else(|| VaultError::Invalid("export.agent_socket is not set".into()))?;
        AgentSigner::new(socket, parse_fingerprint(fingerprint)?, AGENT_PATIENCE).map_err(failed)
    }

    /// Makes the first key.
    ///
    /// # Errors
    /// [`VaultError::NothingToDo`] if there is one.
    pub(in crate::vault) fn signer_first(
        &self,
        caller: &impl Caller,
        passphrase: Option<&Secret>,
    ) -> Result<(), VaultError> {
        let (signer, kept) = self.next_signer(passphrase)?;
        let mut writer = self.lock_writer();
        if self.with_exports(|exports| exports.signers().next().is_some())? {
            return Err(VaultError::NothingToDo("there is a signing key; rotate makes the next"));
        }
        let record = new_record(0, signer.public(), kept, None);
        let what = format!("the first key that signs bundles: {}", record.fingerprint);
        self.record(audit::Operation::Sign, "", None, &caller.who(), &what)?;
        self.install_signer(&mut writer, record)
    }

    /// Makes the next key, vouched for by the one that signs now. Every host gets a new bundle by it.
    ///
    /// # Errors
    /// [`VaultError::Invalid`] if a passphrase is wanted, or there is no key yet.
    pub(in crate::vault) fn rotate_signer(
        &self,
        caller: &impl Caller,
        old_passphrase: Option<&Secret>,
        passphrase: Option<&Secret>,
    ) -> Result<(), VaultError> {
        let console = self.exporter.settings()?.console.clone();
        let all: Vec<Arc<SignerRecord>> =
            self.with_exports(|exports| exports.signers().map(|(_, record)| Arc::clone(record)).collect())?;
        let old =
            all.last().ok_or_else(|| VaultError::Invalid("there is no signing key: pinfold signer init".into()))?;
        let old_signer = self.open_signer(old, old_passphrase)?;
        let (signer, kept) = self.next_signer(passphrase)?;
        let public = signer.public().clone();
        if all.iter().any(|known| known.fingerprint == public.fingerprint().to_string()) {
            return Err(VaultError::Invalid("that key is in the chain already; a new one is wanted".into()));
        }
        // Signed without a lock: an agent may wait for a finger.
        let mut chain = chain_of(&all)?;
        let link = chain.rotate(&console, &*old_signer, &public, Timestamp::now()).map_err(failed)?;
        let link = serde_json::to_string(link).expect("a link has only types that JSON can write");
        let mut writer = self.lock_writer();
        let newest = self.with_exports(|exports| exports.signers().next_back().map(|(_, s)| s.number))?;
        if newest != Some(old.number) {
            return Err(VaultError::Failed("somebody else rotated it meanwhile".into()));
        }
        let record = new_record(old.number + 1, &public, kept, Some(link));
        let what = format!("bundles are signed by {} from now on, before by {}", record.fingerprint, old.fingerprint);
        self.record(audit::Operation::Rotate, "", None, &caller.who(), &what)?;
        self.install_signer(&mut writer, record)?;
        drop(writer);
        self.exporter.touch_all();
        Ok(())
    }

    /// Every host shall forget a former key.
    ///
    /// # Errors
    /// [`VaultError::NotFound`]; [`VaultError::NothingToDo`]; [`VaultError::Invalid`] for the key that signs now.
    pub(in crate::vault) fn revoke_signer(&self, caller: &impl Caller, fingerprint: &str) -> Result<(), VaultError> {
        let mut writer = self.lock_writer();
        let (found, newest, revoked) = self.with_exports(|exports| {
            let found = exports.signers().find(|(_, s)| s.fingerprint == fingerprint).cloned();
            let newest = exports.signers().next_back().map(|(ino, _)| *ino);
            (found, newest, exports.signers().filter(|(_, s)| s.revoked.is_some()).count())
        })?;
        let (ino, old) = found.ok_or(VaultError::NotFound)?;
        if old.revoked.is_some() {
            return Err(VaultError::NothingToDo("it is revoked"));
        }
        if newest == Some(ino) {
            return Err(VaultError::Invalid(
                "it is the key that signs now: pinfold signer rotate, then revoke it".into(),
            ));
        }
        if revoked >= REVOKED_MAX {
            return Err(VaultError::NoSpace("as many keys are revoked as a bundle can name"));
        }
        let record = SignerRecord { revoked: Some(Timestamp::now()), ..(*old).clone() };
        let what = format!("no host shall trust {fingerprint} any more");
        self.record(audit::Operation::Revoke, "", None, &caller.who(), &what)?;
        self.put_signer(&mut writer, ino, record)?;
        drop(writer);
        self.exporter.touch_all();
        Ok(())
    }

    /// A key as the configuration wants the next one to be, and how it is kept.
    fn next_signer(&self, passphrase: Option<&Secret>) -> Result<(Box<dyn Signer>, Kept), VaultError> {
        match &self.exporter.settings()?.export.signer {
            SignWith::Agent(fingerprint) => Ok((Box::new(self.agent(fingerprint)?), Kept::Agent)),
            SignWith::Auto => {
                let signer = KeySigner::generate().map_err(failed)?;
                let keys = self.keys()?;
                let label = label(&signer.public().fingerprint().to_string());
                let sealed = seal::seal_own(&keys.index, &label, signer.seed());
                Ok((Box::new(signer), Kept::Store(sealed)))
            }
            SignWith::Manual => {
                let passphrase = passphrase
                    .ok_or_else(|| VaultError::Invalid("a passphrase for the new signing key is wanted".into()))?;
                let signer = KeySigner::generate().map_err(failed)?;
                let sealed = seal::seal_with_passphrase(signer.seed(), passphrase).map_err(wrong_passphrase)?;
                Ok((Box::new(signer), Kept::Passphrase(sealed)))
            }
        }
    }

    fn install_signer(&self, writer: &mut Writer, mut record: SignerRecord) -> Result<(), VaultError> {
        let ino = writer.next_ino()?;
        // The index key may be another one than when the key was sealed: a rekeying holds the writer's lock as we do.
        if let Kept::Store(sealed) = &record.kept {
            let keys = self.keys()?;
            if seal::open_own(&keys.index, &label(&record.fingerprint), sealed).is_err() {
                return Err(VaultError::Failed("the store was rekeyed meanwhile; try again".into()));
            }
        }
        record.made = Timestamp::now();
        self.put_signer(writer, ino, record)
    }

    fn put_signer(&self, writer: &mut Writer, ino: Ino, record: SignerRecord) -> Result<(), VaultError> {
        let record = ExportRecord::Signer(record);
        let records = BTreeMap::from([(ino, Record::Export(record.clone()))]);
        self.flush_with(writer, Batch::default(), &records)?;
        match &mut *self.write_state() {
            State::Unlocked(open) => open.exports.put(ino, record),
            State::Locked { .. } => Err(VaultError::Locked),
        }
    }

    /// The keys, for people.
    pub(in crate::vault) fn signer_listing(&self) -> Result<SignerListing, VaultError> {
        let console = self.exporter.settings()?.console.to_string();
        let mut signers: Vec<SignerInfo> = self.with_exports(|exports| {
            let info = |s: &SignerRecord| SignerInfo {
                number: s.number,
                fingerprint: s.fingerprint.clone(),
                key: s.public.clone(),
                kept: match s.kept {
                    Kept::Store(_) => "store",
                    Kept::Agent => "agent",
                    Kept::Passphrase(_) => "passphrase",
                }
                .into(),
                current: false,
                made: s.made,
                revoked: s.revoked,
            };
            exports.signers().map(|(_, s)| info(s)).collect()
        })?;
        if let Some(last) = signers.last_mut() {
            last.current = true;
        }
        Ok(SignerListing { console, signers })
    }
}

impl ExportRecord {
    /// The same under another index key.
    ///
    /// # Errors
    /// If the old one does not open it.
    pub fn reseal(&mut self, old: &Secret, new: &Secret) -> Result<(), seal::SealError> {
        if let ExportRecord::Signer(SignerRecord { kept: Kept::Store(sealed), fingerprint, .. }) = self {
            let label = label(fingerprint);
            *sealed = seal::seal_own(new, &label, &seal::open_own(old, &label, sealed)?);
        }
        Ok(())
    }
}

fn new_record(number: u64, public: &PublicKey, kept: Kept, link: Option<String>) -> SignerRecord {
    SignerRecord {
        number,
        public: public.to_string(),
        fingerprint: public.fingerprint().to_string(),
        kept,
        link,
        made: Timestamp::now(),
        revoked: None,
    }
}

/// What a key is sealed as.
fn label(fingerprint: &str) -> String {
    format!("signer/{fingerprint}")
}

fn chain_of(all: &[Arc<SignerRecord>]) -> Result<Chain, VaultError> {
    let damaged = || VaultError::Damaged("the chain of signing keys".into());
    let links = all.iter().skip(1).map(|record| {
        let link = record.link.as_ref().ok_or_else(damaged)?;
        serde_json::from_str::<Link>(link).map_err(|_| damaged())
    });
    Ok(Chain::from_links(links.collect::<Result<_, _>>()?))
}

fn parse_fingerprint(text: &str) -> Result<Fingerprint, VaultError> {
    Fingerprint::parse(text).map_err(|_| VaultError::Damaged("a fingerprint of a signing key".into()))
}

fn failed(error: crate::bundle::SignError) -> VaultError {
    VaultError::Failed(error.to_string())
}

fn wrong_passphrase(error: seal::SealError) -> VaultError {
    match error {
        seal::SealError::WrongPassphrase => VaultError::WrongKey("the passphrase does not open the signing key".into()),
        seal::SealError::Format(what) => VaultError::Invalid(format!("{what} is not in a known format")),
        other => other.into(),
    }
}
