//! A new identity, a new index key, new keys of all scopes, and a new file key for every blob; while everybody reads on.
//!
//! The order is what makes it safe. First every blob is written once more under the new keys, beside the one it will replace
//! (`BlobKey` with the highest bit of the version turned over), which nobody refers to yet. Then one transaction turns over all
//! that refers: records sealed under the new index key that name the new blobs, the new keys, and the manifest with them. Only
//! then does the new identity's file take the place of the old one, and the old blobs go.
//!
//! Before the transaction the store opens with the old identity, after it with the new one, whose file lies beside the other
//! until then. A marker in the store says what a crash interrupted: the next unlock clears away what belongs to neither.

mod clear_away;

use super::instances::seconds_until;
use super::node::{FACTS_INO, Node, Record, Version};
use super::protectors::{self, MAIN, Turn};
use super::scopes::Instance;
use super::unlock::{ESCROW_META, INDEX_META, Keys, UnlockBy};
use super::writer::Writer;
use super::{Caller, State, Vault, VaultError, fault};
use crate::access::{Operation, ScopeState};
use crate::audit;
use crate::caller::Daemon;
use crate::keyring::ScopeEntry;
use crate::model::{Gid, Ino, Kind, Meta, Scope, Uid, VersionNo};
use crate::seal::{self, BlobDigest, Protection, RecordKey, StoreIdentity};
use crate::secret::{Kek, Secret};
use crate::store::{Batch, BlobKey};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use zeroize::Zeroizing;

/// Says what a rekeying was about to do: the recipient of the identity that it brings.
const MARKER: &str = "rekey";
/// How many blobs are written or removed in one transaction.
const BATCH: usize = 64;

/// In the marker, after the recipient: the new identity has no file beside the records.
const KEPT: &str = " kept by the caller";

/// Where the new identity comes from, and who keeps it.
#[derive(Debug)]
pub enum NextIdentity<'a> {
    /// It is made here, and kept beside the store's records under this passphrase.
    Passphrase(&'a Secret),
    /// The caller made it, and keeps it in a file of his own.
    KeptByCaller(&'a Secret),
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rekeyed {
    /// How many blobs were sealed anew.
    pub blobs: u64,
    /// The new identity's recipient.
    pub recipient: String,
    /// Protectors that are gone.
    pub dropped: Vec<String>,
}

/// The blob that takes the place of another one.
type Replaced = HashMap<BlobKey, (BlobKey, BlobDigest)>;

/// A blob to be written anew.
struct Waiting {
    ino: Ino,
    scope: Scope,
    version: Version,
}

/// All that is new, and the keys that were.
struct Fresh {
    identity: StoreIdentity,
    escrow: StoreIdentity,
    /// The identity as it is kept here; `None` if the caller keeps it.
    file: Option<Zeroizing<Vec<u8>>>,
    index: Secret,
    old: HashMap<Scope, Kek>,
    new: HashMap<Scope, Secret>,
}

impl Vault {
    /// Gives the store a new identity and new keys. `current` opens the identity that it has, or is a recovery key: this is
    /// the way out when a passphrase is lost. Recovery recipients stay. A protector that cannot be made for the new identity,
    /// since its passphrase or its recipient is not known here, is refused, or given up with `drop_others`.
    ///
    /// # Errors
    /// [`VaultError::WrongKey`], [`VaultError::Invalid`], [`VaultError::Locked`]. After any other error the store has either
    /// identity: if it is locked then, unlock it with the one, or with the other.
    pub fn rekey(
        &self,
        caller: &impl Caller,
        current: &UnlockBy<'_>,
        next: &NextIdentity<'_>,
        drop_others: bool,
    ) -> Result<Rekeyed, VaultError> {
        let done = self.try_rekey(caller, current, next, drop_others);
        self.tell_refusal(caller, "rekey", &done);
        done
    }

    fn try_rekey(
        &self,
        caller: &impl Caller,
        current: &UnlockBy<'_>,
        next: &NextIdentity<'_>,
        drop_others: bool,
    ) -> Result<Rekeyed, VaultError> {
        let _alone = self.sealing_anew();
        self.clear_away()?;
        self.keys()?;
        let own = protectors::open(&self.store, current)?;
        let dropped: Vec<String> = self.protectors()?.into_iter().map(|(name, _)| name).collect();
        let dropped = match next {
            NextIdentity::Passphrase(_) => dropped.into_iter().filter(|name| name != MAIN).collect(),
            NextIdentity::KeptByCaller(_) => dropped,
        };
        if !dropped.is_empty() && !drop_others {
            let names = dropped.join(", ");
            return Err(VaultError::Invalid(format!(
                "protectors that would be lost: {names}; add them again afterwards"
            )));
        }
        let fresh = self.make_fresh(&own, next)?;
        let recipient = fresh.identity.recipient().to_string();
        self.record(audit::Operation::Identity, "", None, &caller.who(), &format!("rekey: {recipient}"))?;
        {
            let mut writer = self.lock_writer();
            let kept = if fresh.file.is_some() { "" } else { KEPT };
            self.transact_with(&mut writer, |writer| {
                writer.sync();
                writer.put_meta(MARKER, format!("{recipient}{kept}").into_bytes());
                Ok(())
            })?;
            fault::at(fault::Point::Marked)?;
            if let Some(file) = &fresh.file {
                self.store.write_file(&Turn::Next.file_name(MAIN), file)?;
            }
        }
        fault::at(fault::Point::FileWritten)?;
        let mut replaced = Replaced::new();
        // Most of it while everything else goes on; what is committed meanwhile, in the end, with the lock held.
        loop {
            let waiting = self.waiting(&replaced)?;
            for some in waiting.chunks(BATCH) {
                self.write_anew(&fresh, some, &mut replaced, &self.lock_writer())?;
                self.give_way();
                fault::at(fault::Point::SomeCopied)?;
            }
            if waiting.len() <= BATCH {
                break;
            }
        }
        {
            let mut writer = self.lock_writer();
            let waiting = self.waiting(&replaced)?;
            self.write_anew(&fresh, &waiting, &mut replaced, &writer)?;
            // A daemon that takes over from here finds the one that opens it.
            if let Some(keeper) = self.keeper.get() {
                keeper.keep(&joined(&own.text()?, &fresh.identity.text()?)?);
            }
            self.switch_keys(&fresh, &replaced, &mut writer)?;
        }
        if let Some(keeper) = self.keeper.get() {
            keeper.keep(&fresh.identity.text()?);
        }
        fault::at(fault::Point::TurnedOver)?;
        self.clear_away()?;
        let blobs = replaced.iter().filter(|(old, (new, _))| *old != new).count() as u64;
        Ok(Rekeyed { blobs, recipient, dropped })
    }

    fn make_fresh(&self, own: &StoreIdentity, next: &NextIdentity<'_>) -> Result<Fresh, VaultError> {
        let invalid = |e: seal::SealError| VaultError::Invalid(e.to_string());
        let (identity, file) = match next {
            NextIdentity::Passphrase(passphrase) => {
                let identity = seal::make_identity();
                let file = seal::protect_identity(&identity, &Protection::Passphrase(passphrase)).map_err(invalid)?;
                // It will be the only one.
                seal::open_identity(&file, Some(passphrase))?;
                (identity, Some(file))
            }
            NextIdentity::KeptByCaller(text) => (seal::open_identity(text.expose(), None).map_err(invalid)?, None),
        };
        let recipient = identity.recipient().to_string();
        let keys = self.keys()?;
        let known = keys.recipients().iter().map(ToString::to_string).chain(keys.recovery.texts()).collect::<Vec<_>>();
        if known.contains(&recipient) {
            return Err(VaultError::Invalid("this identity opens the store already; a new one is wanted".into()));
        }
        let (mut old, mut new) = (HashMap::new(), HashMap::new());
        // From the store, not from the keyring: a scope whose key was revoked is sealed anew as well.
        for (name, sealed) in self.store.scopes()? {
            let scope = Scope::try_from(name).map_err(|e| VaultError::Damaged(e.to_string()))?;
            let kek = seal::open_key(own.key(), &sealed)?;
            let bytes = kek.expose().try_into().map_err(|_| VaultError::Damaged("a scope's key".into()))?;
            old.insert(scope.clone(), Kek::new(Zeroizing::new(bytes)));
            new.insert(scope, Secret::random(Kek::LEN)?);
        }
        Ok(Fresh { identity, escrow: seal::make_identity(), file, index: Secret::random(32)?, old, new })
    }

    /// Every blob that was not written anew, with one of those who have it.
    fn waiting(&self, replaced: &Replaced) -> Result<Vec<Waiting>, VaultError> {
        self.with_tree(|tree| {
            let of_nodes = tree.nodes().flat_map(|(ino, n)| n.versions.iter().map(move |v| (ino, &n.scope, v)));
            let of_graves = tree.tombstones().flat_map(|(ino, g)| g.versions.iter().map(move |v| (ino, &g.scope, v)));
            let mut waiting = BTreeMap::new();
            for (ino, scope, version) in of_nodes.chain(of_graves).filter(|(_, _, v)| !replaced.contains_key(&v.blob)) {
                waiting.entry(version.blob).or_insert_with(|| Waiting {
                    ino,
                    scope: scope.clone(),
                    version: version.clone(),
                });
            }
            waiting.into_values().collect()
        })
    }

    /// Writes blobs under the new keys, beside the old ones. The writer's lock is held: nothing comes or goes meanwhile. That
    /// nothing else is being sealed anew keeps their digests as they are.
    fn write_anew(
        &self,
        fresh: &Fresh,
        waiting: &[Waiting],
        replaced: &mut Replaced,
        _: &Writer,
    ) -> Result<(), VaultError> {
        let keys = self.keys()?;
        let mut batch = Batch::default();
        for Waiting { ino, scope, version } in waiting {
            let key = version.blob;
            let lost = || VaultError::Damaged(format!("the key of {scope} is missing"));
            let (old, new) = (fresh.old.get(scope).ok_or_else(lost)?, fresh.new.get(scope).ok_or_else(lost)?);
            // As for a change: what has expired is sealed anew as well.
            let grant = self.judge(&Daemon, *ino, &stand_in(scope), ScopeState::Alive, Operation::Write)?;
            let plain = match self.decrypt(&grant, old, Some(version)) {
                Ok(plain) => plain,
                Err(VaultError::Damaged(what)) => {
                    // Removed meanwhile; or else one bad secret harms itself alone: it stays as it is, and fsck names it.
                    if self.store.blob(key)?.is_some() {
                        tracing::error!(%ino, version = version.number.0, %what, "a damaged blob cannot be sealed anew");
                    }
                    replaced.insert(key, (key, version.digest));
                    continue;
                }
                Err(error) => return Err(error),
            };
            let (blob, digest) = seal::seal_blob(plain.expose(), &kek(new)?, &keys.recovery);
            let beside = BlobKey { version: VersionNo(key.version.0 ^ (1 << 63)), ..key };
            batch.blobs.insert(beside, Some(blob));
            replaced.insert(key, (beside, digest));
        }
        if !batch.is_empty() {
            self.store.apply(&batch, &self.anchor())?;
        }
        Ok(())
    }

    /// The one transaction, and the same in memory. The writer's lock is held, and nothing is left to be written anew.
    fn switch_keys(&self, fresh: &Fresh, replaced: &Replaced, writer: &mut Writer) -> Result<(), VaultError> {
        self.flush(writer)?;
        let old = self.keys()?;
        let mut facts = writer.facts()?.clone();
        facts.identity = fresh.identity.recipient().to_string();
        facts.escrow = fresh.escrow.recipient().to_string();
        facts.resealing = false;
        // One that was revoked just now, and nobody has looked since.
        let revoked = old.scopes.iter().filter(|(_, entry)| entry.state() == ScopeState::Revoked);
        for scope in revoked.map(|(scope, _)| scope).filter(|scope| !old.revoked.contains(scope)) {
            facts.revoked.push(scope.clone());
        }
        // What can fail for want of something comes first.
        let mut scopes = HashMap::new();
        for (scope, kek) in &fresh.new {
            let entry = ScopeEntry::install(scope, kek)
                .map_err(|e| VaultError::Failed(format!("the kernel keyring does not take the key of {scope}: {e}")))?;
            scopes.insert(scope.clone(), Arc::new(entry));
        }
        let keys = Keys {
            record: Arc::new(RecordKey::derive(&fresh.index)),
            index: Arc::new(Secret::copy_of(fresh.index.expose())?),
            recovery: old.recovery.clone(),
            identity: fresh.identity.recipient(),
            escrow: fresh.escrow.recipient(),
            scopes: Arc::new(scopes),
            revoked: facts.revoked.clone(),
        };
        let recipients = keys.recipients();
        let mut consoles = self.with_open(|open| open.consoles.clone())?;
        let mut batch = Batch::default();
        let mut resealed = Vec::new();
        self.store.each_node(&mut |ino, sealed| {
            let damaged = |what: String| crate::store::StoreError::Damaged(format!("record of inode {ino}: {what}"));
            let plain = old.record.open(ino, sealed).map_err(|e| damaged(e.to_string()))?;
            let mut record = Record::decode(&plain).map_err(|e| damaged(e.to_string()))?;
            match &mut record {
                Record::Node(node) => rename(&mut node.versions, replaced),
                Record::Tombstone(tombstone) => rename(&mut tombstone.versions, replaced),
                Record::Facts(found) if ino == FACTS_INO => *found = facts.clone(),
                Record::Export(export) => {
                    export.reseal(&old.index, &fresh.index).map_err(|e| damaged(e.to_string()))?;
                    resealed.push((ino, export.clone()));
                }
                Record::Console(console) => {
                    console.reseal(&old.index, &fresh.index).map_err(|e| damaged(e.to_string()))?;
                    consoles.put(ino, (**console).clone());
                }
                Record::Facts(_)
                | Record::Scope(_)
                | Record::Instance(_)
                | Record::Remembered(_)
                | Record::View(..) => {}
            }
            batch.nodes.insert(ino, Some(keys.record.seal(ino, &record.encode())));
            Ok(())
        })?;
        for (scope, kek) in &fresh.new {
            batch.scopes.insert(scope.as_str().to_owned(), Some(seal::seal_key(kek, &recipients)));
        }
        batch.meta.insert(INDEX_META.to_owned(), Some(seal::seal_key(&fresh.index, &recipients)));
        batch.meta.insert(ESCROW_META.to_owned(), Some(seal::seal_escrow(&fresh.escrow, &keys.recovery)?));
        fault::at(fault::Point::AboutToTurn)?;
        #[cfg(test)]
        crate::store::NEXT_FAULT.set(AT_TURNING.take());
        if let Err(error) = self.store.rekey(&batch, &self.anchor(), &fresh.index) {
            // It took effect or did not: only the disk knows. Whoever unlocks it finds out.
            tracing::error!(%error, "the new keys may be in force or not: the store is locked");
            self.forget(writer);
            self.notify(super::Change::Locked);
            return Err(error.into());
        }
        writer.switched_keys(facts);
        if let State::Unlocked(open) = &mut *self.write_state() {
            open.tree.rename_blobs(replaced);
            for (ino, export) in resealed {
                open.exports.put(ino, export)?;
            }
            open.keys = Arc::new(keys);
            open.consoles = consoles;
            // With the state held: who finds a node of now finds a key of now.
            for (_, instance) in open.scopes.instances() {
                renew(instance, &fresh.new);
            }
        }
        Ok(())
    }
}

/// An attached instance goes on under its scope's new key; one that is cut off stays so.
fn renew(instance: &Instance, new: &HashMap<Scope, Secret>) {
    let (Some(entry), Some(kek)) = (&instance.entry, new.get(&instance.record.id.scope)) else { return };
    if entry.state() != ScopeState::Alive {
        return;
    }
    let left = instance.record.expires.map(|at| seconds_until(at).max(1));
    if let Err(error) = entry.renew(kek, left) {
        tracing::error!(instance = %instance.record.id.id, %error, "it cannot go on under the new key: it is cut off");
        entry.revoke();
    }
}

/// What the judge is asked about.
fn stand_in(scope: &Scope) -> Node {
    Node {
        parent: Ino::ROOT,
        name: None,
        kind: Kind::File,
        scope: scope.clone(),
        meta: Meta::new(Uid::ROOT, Gid(0), 0),
        target: None,
        versions: Vec::new(),
        last_number: 0,
        view: None,
    }
}

fn rename(versions: &mut [Version], replaced: &Replaced) {
    for version in versions {
        if let Some((blob, digest)) = replaced.get(&version.blob) {
            (version.blob, version.digest) = (*blob, *digest);
        }
    }
}

/// Two identities, one a line.
fn joined(one: &Secret, other: &Secret) -> Result<Secret, VaultError> {
    let mut both = Secret::zeroed(one.len() + 1 + other.len())?;
    let (first, rest) = both.expose_mut().split_at_mut(one.len());
    first.copy_from_slice(one.expose());
    rest[0] = b'\n';
    rest[1..].copy_from_slice(other.expose());
    Ok(both)
}

fn kek(secret: &Secret) -> Result<Kek, VaultError> {
    let bytes = secret.expose().try_into().map_err(|_| VaultError::Failed("a key has another length".into()))?;
    Ok(Kek::new(Zeroizing::new(bytes)))
}

#[cfg(test)]
thread_local! {
    /// Where the store is to fail in the one transaction: every other commit passes the same places.
    static AT_TURNING: std::cell::Cell<Option<crate::store::FaultPoint>> = const { std::cell::Cell::new(None) };
}

#[cfg(test)]
mod tests;
