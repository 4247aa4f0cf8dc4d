//! Certificates as an admin asks for them: requests, answers, pairs, an own authority.
//!
//! Owns where the parts lie (with `cert::CertFolder`) and the order of a use case: look, check, commit all as one. Keys are made
//! here and go nowhere but into the tree. Who is right about keys and chains is `cert`'s.

mod authority;
mod look;
mod serve;

use super::txn::Part as Written;
use super::{Caller, Change, NewNode, Vault, VaultError};
use crate::audit;
use crate::caller::{Control, Daemon};
use crate::cert::{
    self, AltName, Asked, CertError, CertFolder, Certificate, Chain, Key, Part, Pile, Subject, Tried, request,
    type_like,
};
use crate::config::Half;
use crate::model::{HostName, Ino, KeyType, Kind, SecretPath, Timestamp};
use crate::secret::Secret;
use crate::wire::{CertAccept, CertNote, CertRequest, CertRequested, CertSelfsign, CertStore, CertStored};
use serde::{Deserialize, Serialize};

/// A certificate's mode, where it is made here: it is public.
const PUBLIC: u16 = 0o644;
/// A private key's.
const PRIVATE: u16 = 0o600;
/// The version of what is kept in JSON.
const VERSION: u32 = 1;

/// How renewing goes, as `state.json` keeps it.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    version: u32,
    tried: Tried,
}

/// A certificate, checked: what is above it in order.
struct Answer {
    leaf: Certificate,
    chain: Chain,
}

impl Vault {
    fn request_certificate(&self, caller: &Control, asked: &CertRequest) -> Result<CertRequested, VaultError> {
        let place = CertFolder::host(asked.host.clone());
        let current = self.certificate_at(&place.part(Part::Cert))?;
        let next = place.part(Part::NextKey);
        // What was taken into use already asks for nothing any more.
        let waits = match (self.key_at(&next)?, &current) {
            (Some(key), Some(current)) => *key.public() != current.public,
            (key, None) => key.is_some(),
            (None, Some(_)) => false,
        };
        if waits && !asked.again.unwrap_or(false) {
            return Err(VaultError::Invalid(format!(
                "a certificate for {} is asked for already: --again gives that request up",
                asked.host
            )));
        }
        let subject = match (&asked.subject, &current) {
            (Some(text), _) => Subject::parse(text)?,
            (None, Some(current)) => current.subject(),
            (None, None) => Subject::common(asked.host.as_str()),
        };
        let names = names_of(&asked.names, current.as_ref(), &asked.host)?;
        let kind = self.type_of_key(asked.key_type, current.as_ref());
        let key = Key::generate(kind)?;
        let request = request(&key, &subject, &names)?;
        self.folder(caller, &place.folder(), 0o755)?;
        let (folder, _) = next.split_last().ok_or(VaultError::NotFound)?;
        self.folder(caller, &folder, 0o700)?;
        let pem = key.to_pem()?;
        let parts = [
            Written { path: next.clone(), content: pem.expose(), mode: PRIVATE },
            Written { path: place.part(Part::Request), content: request.as_bytes(), mode: PUBLIC },
        ];
        self.commit_together(caller, &parts, &[], audit::Operation::Renew)?;
        self.sync()?;
        Ok(CertRequested {
            key: next,
            fingerprint: key.public().fingerprint(),
            names: names.iter().map(ToString::to_string).collect(),
            request,
        })
    }

    fn accept_certificate(&self, caller: &Control, asked: &CertAccept) -> Result<CertStored, VaultError> {
        let pile = Pile::read(&asked.content, None)?;
        if pile.certificates.is_empty() {
            let why = pile.unread.first().map_or_else(|| "there is no certificate in it".into(), |u| u.why.to_string());
            return Err(VaultError::Invalid(why));
        }
        let keys = self.keys_of_the_tree()?;
        let wanted = |path: &SecretPath| match (&asked.host, CertFolder::of(path)) {
            (Some(host), Some((place, _))) => place.name() == host && place == CertFolder::host(host.clone()),
            (Some(_), None) => false,
            (None, _) => true,
        };
        // A key that waits for its certificate before one that has one; an authority's own is nobody's answer.
        let found = |waiting: bool| {
            pile.certificates.iter().find_map(|certificate| {
                let fits = keys.iter().find(|(path, public)| {
                    *public == certificate.public
                        && wanted(path)
                        && matches!(CertFolder::of(path), Some((_, Part::NextKey))) == waiting
                })?;
                Some((certificate, fits.0.clone()))
            })
        };
        let Some((leaf, key_path)) = found(true).or_else(|| found(false)) else {
            let about: Vec<&str> = pile.certificates.iter().take(3).map(|c| c.subject.as_str()).collect();
            return Err(VaultError::Invalid(format!(
                "no key of the store{} belongs to it ({})",
                asked.host.as_ref().map(|h| format!(" for {h}")).unwrap_or_default(),
                about.join("; ")
            )));
        };
        if asked.whole.unwrap_or(false)
            && let Some((place, Part::NextKey)) = CertFolder::of(&key_path)
        {
            // What has expired is said to have, whatever else is wrong with it.
            leaf.check_time(Timestamp::now().secs)?;
            let missing = self.missing_names(&place, leaf)?;
            if !missing.is_empty() {
                let missing = missing.join(", ");
                return Err(VaultError::Invalid(format!("it does not name {missing}, which was asked for")));
            }
        }
        match CertFolder::of(&key_path) {
            Some((place, Part::NextKey)) => {
                let key = self.key_at(&key_path)?.filter(|k| *k.public() == leaf.public).ok_or(VaultError::NotFound)?;
                self.take_into_use(caller, &place, Some(&key), leaf, &pile.certificates, true)
            }
            Some((place, _)) if place == CertFolder::host(place.name().clone()) => {
                if self.certificate_at(&place.part(Part::Cert))?.as_ref() == Some(leaf) {
                    return Err(VaultError::NothingToDo("this certificate is in use already"));
                }
                self.take_into_use(caller, &place, None, leaf, &pile.certificates, true)
            }
            _ => self.accept_beside(caller, &key_path, leaf, &pile.certificates),
        }
    }

    /// For a key elsewhere in the tree: the rule of its pair says where its certificate is.
    fn accept_beside(
        &self,
        caller: &Control,
        key_path: &SecretPath,
        leaf: &Certificate,
        pool: &[Certificate],
    ) -> Result<CertStored, VaultError> {
        let Some((Half::Key, path, _)) = self.other_half(key_path) else {
            return Err(VaultError::Invalid(format!(
                "its key is {key_path}, and no rule certs.pair says where the certificate to that is"
            )));
        };
        let answer = answer(leaf, pool)?;
        let text = answer.leaf.to_pem() + &answer.chain.to_pem();
        let (folder, _) = path.split_last().ok_or(VaultError::NotFound)?;
        self.folder(caller, &folder, 0o755)?;
        let part = Written { path: path.clone(), content: text.as_bytes(), mode: PUBLIC };
        let numbers = self.commit_together(caller, &[part], &[], audit::Operation::Renew)?;
        self.sync()?;
        Ok(stored(&answer, path, None, numbers[0], Vec::new()))
    }

    fn store_pair(&self, caller: &Control, asked: &CertStore) -> Result<CertStored, VaultError> {
        let mut keys = Pile::read(asked.key.expose(), None)?;
        let pile = Pile::read(&asked.content, None)?;
        let Some(key) = keys.keys.pop() else {
            let why = keys.unread.first().map_or(CertError::Broken("there is no private key in it"), |u| u.why.clone());
            return Err(why.into());
        };
        let leaf = pile.certificates.iter().find(|c| c.public == *key.public()).ok_or(CertError::Mismatch)?;
        let place = CertFolder::host(asked.host.clone());
        self.not_over(&place, asked.replace)?;
        self.take_into_use(caller, &place, Some(&key), leaf, &pile.certificates, false)
    }

    fn self_sign(&self, caller: &Control, asked: &CertSelfsign) -> Result<CertStored, VaultError> {
        let place = CertFolder::host(asked.host.clone());
        self.not_over(&place, asked.replace)?;
        let current = self.certificate_at(&place.part(Part::Cert))?;
        let subject = match (&asked.subject, &current) {
            (Some(text), _) => Subject::parse(text)?,
            (None, Some(current)) => current.subject(),
            (None, None) => Subject::common(asked.host.as_str()),
        };
        let names = names_of(&asked.names, current.as_ref(), &asked.host)?;
        let key = Key::generate(self.type_of_key(asked.key_type, current.as_ref()))?;
        let leaf = cert::self_signed(&key, &subject, &names, asked.days, Timestamp::now().secs)?;
        self.take_into_use(caller, &place, Some(&key), &leaf, &[], false)
    }

    /// Refuses to put a pair over one that is there, unless that is meant.
    fn not_over(&self, place: &CertFolder, replace: Option<bool>) -> Result<(), VaultError> {
        let there = self.find(&place.part(Part::Key)).is_ok() || self.find(&place.part(Part::Cert)).is_ok();
        match there && !replace.unwrap_or(false) {
            true => Err(VaultError::Invalid(format!(
                "{} has a pair already: --replace gives it a new version",
                place.name()
            ))),
            false => Ok(()),
        }
    }

    /// The pair in use is this now, as one. Its request, if there was one, is done with.
    fn take_into_use(
        &self,
        caller: &Control,
        place: &CertFolder,
        key: Option<&Key>,
        leaf: &Certificate,
        pool: &[Certificate],
        asked_for: bool,
    ) -> Result<CertStored, VaultError> {
        if key.is_some_and(|key| *key.public() != leaf.public) {
            return Err(CertError::Mismatch.into());
        }
        let chain_path = place.part(Part::Chain);
        // A signer often answers with the certificate alone: what was above the last one is above this, if it signed it.
        let mut all = pool.to_vec();
        let before = self.text_at(&chain_path)?.map(|text| Pile::read(text.expose(), None)).transpose();
        all.extend(before.ok().flatten().map(|pile| pile.certificates).unwrap_or_default());
        let mut answer = answer(leaf, &all)?;
        answer.chain.unused = pool.iter().filter(|c| *c != leaf && !answer.chain.above.contains(c)).count();
        let missing = if asked_for { self.missing_names(place, leaf)? } else { Vec::new() };
        self.folder(caller, &place.folder(), 0o755)?;
        let pem = key.map(Key::to_pem).transpose()?;
        let (leaf_text, chain_text) = (answer.leaf.to_pem(), answer.chain.to_pem());
        let cert_path = place.part(Part::Cert);
        let mut parts = vec![Written { path: cert_path.clone(), content: leaf_text.as_bytes(), mode: PUBLIC }];
        if let Some(pem) = &pem {
            parts.push(Written { path: place.part(Part::Key), content: pem.expose(), mode: PRIVATE });
        }
        let mut gone = Vec::new();
        if chain_text.is_empty() {
            gone.push((chain_path, audit::Operation::Remove));
        } else {
            parts.push(Written { path: chain_path, content: chain_text.as_bytes(), mode: PUBLIC });
        }
        if asked_for {
            // The key is in use now: that of the request is not kept beside it.
            let done = [Part::NextKey, Part::Request, Part::State];
            gone.extend(done.map(|part| (place.part(part), audit::Operation::Purge)));
        }
        let numbers = self.commit_together(caller, &parts, &gone, audit::Operation::Renew)?;
        self.sync()?;
        Ok(stored(&answer, cert_path, Some(place.name().clone()), numbers[0], missing))
    }

    /// The names that were asked for and are not in the answer.
    fn missing_names(&self, place: &CertFolder, leaf: &Certificate) -> Result<Vec<String>, VaultError> {
        let Some(text) = self.text_at(&place.part(Part::Request))? else { return Ok(Vec::new()) };
        let asked = match Asked::read(text.expose()) {
            Ok(asked) if asked.public == leaf.public => asked,
            Ok(_) | Err(_) => return Ok(Vec::new()),
        };
        Ok(asked.names.iter().filter(|n| !leaf.names.contains(n)).map(ToString::to_string).collect())
    }

    fn note_renewal(&self, caller: &Control, note: &CertNote) -> Result<(), VaultError> {
        let place = CertFolder::host(note.host.clone());
        let path = place.part(Part::State);
        let tried = match &note.reason {
            Some(reason) => self.tried(&place)?.unwrap_or_default().failed(note.at.secs, reason),
            None => Tried::handed_out(note.at.secs),
        };
        let text = serde_json::to_string(&Kept { version: VERSION, tried }).expect("plain data has a JSON form");
        let (folder, _) = path.split_last().ok_or(VaultError::NotFound)?;
        self.find(&place.folder())?;
        self.folder(caller, &folder, 0o700)?;
        let part = Written { path, content: text.as_bytes(), mode: PRIVATE };
        self.commit_together(caller, &[part], &[], audit::Operation::Renew)?;
        if let Some(reason) = &note.reason {
            tracing::warn!(host = %note.host, %reason, "a certificate could not be renewed; the one in use stays");
        }
        self.sync()
    }

    /// How renewing goes. What cannot be read counts as nothing tried.
    fn tried(&self, place: &CertFolder) -> Result<Option<Tried>, VaultError> {
        let Some(text) = self.text_at(&place.part(Part::State))? else { return Ok(None) };
        let kept = serde_json::from_slice::<Kept>(text.expose()).ok().filter(|kept| kept.version == VERSION);
        Ok(kept.map(|kept| kept.tried))
    }

    fn type_of_key(&self, asked: Option<KeyType>, current: Option<&Certificate>) -> KeyType {
        asked.or_else(|| type_like(&current?.public)).unwrap_or(self.new_keys.get().copied().unwrap_or_default())
    }

    /// Sets what new keys are. Only the first call counts.
    pub fn set_key_type(&self, kind: KeyType) {
        let _ = self.new_keys.set(kind);
    }

    fn certificate_at(&self, path: &SecretPath) -> Result<Option<Certificate>, VaultError> {
        let Some(text) = self.text_at(path)? else { return Ok(None) };
        Ok(Pile::read(text.expose(), None)
            .ok()
            .and_then(|mut pile| (!pile.certificates.is_empty()).then(|| pile.certificates.swap_remove(0))))
    }

    fn key_at(&self, path: &SecretPath) -> Result<Option<Key>, VaultError> {
        let Some(text) = self.text_at(path)? else { return Ok(None) };
        Ok(Pile::read(text.expose(), None).ok().and_then(|mut pile| pile.keys.pop()))
    }

    /// What is at a path, opened as the daemon and recorded so; `None` if nothing is.
    fn text_at(&self, path: &SecretPath) -> Result<Option<Secret>, VaultError> {
        let Some(ino) = self.with_tree(|tree| tree.find(path))? else { return Ok(None) };
        let node = self.node(ino)?;
        if node.kind != Kind::File || node.current().is_none() {
            return Ok(None);
        }
        Ok(Some(self.open_read(&Daemon, ino)?.content))
    }

    /// Makes a folder and those above it, as far as they are not there.
    fn folder(&self, caller: &impl Caller, path: &SecretPath, mode: u16) -> Result<Ino, VaultError> {
        let mut at = Ino::ROOT;
        for (i, name) in path.names().iter().enumerate() {
            at = match self.with_tree(|t| t.child(at, name.as_str()))? {
                Some(ino) => ino,
                None => {
                    let last = i + 1 == path.names().len();
                    let mode = if last { mode } else { 0o755 };
                    let new = NewNode { parent: at, name, kind: Kind::Directory, mode, umask: 0, target: None };
                    let made = self.create(caller, new)?.ino;
                    self.notify(Change::Entry { parent: at, name: name.clone() });
                    made
                }
            };
        }
        Ok(at)
    }
}

/// A certificate with its chain in order, all in time.
fn answer(leaf: &Certificate, pool: &[Certificate]) -> Result<Answer, VaultError> {
    let now = Timestamp::now().secs;
    leaf.check_time(now)?;
    let chain = Chain::order(leaf, pool)?;
    chain.check_time(now)?;
    Ok(Answer { leaf: leaf.clone(), chain })
}

fn stored(answer: &Answer, path: SecretPath, host: Option<HostName>, version: u64, missing: Vec<String>) -> CertStored {
    CertStored {
        path,
        host,
        version,
        chain: answer.chain.state.as_str().into(),
        above: answer.chain.above.len() as u64,
        unused: answer.chain.unused as u64,
        missing,
        not_after: Timestamp { secs: answer.leaf.not_after, nanos: 0 },
    }
}

/// The names as typed, else those of the certificate in use, else the host's own.
fn names_of(typed: &[String], current: Option<&Certificate>, host: &HostName) -> Result<Vec<AltName>, VaultError> {
    if !typed.is_empty() {
        return typed.iter().map(|name| name.parse().map_err(VaultError::from)).collect();
    }
    match current.map(|c| c.names.clone()).filter(|names| !names.is_empty()) {
        Some(names) => Ok(names),
        // A name that is no host's (an underscore, a person) is in the subject alone.
        None => Ok(host.as_str().parse().ok().into_iter().collect()),
    }
}

impl From<CertError> for VaultError {
    fn from(error: CertError) -> Self {
        match error {
            CertError::Memory(text) | CertError::Asked(text) => VaultError::Invalid(text),
            CertError::Failed(text) => VaultError::Failed(text.into()),
            other => VaultError::Invalid(other.to_string()),
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
