//! Locked and unlocked: the keys, how they come into memory and how they leave it.

use super::export::Records;
use super::fsck;
use super::import::Consoles;
use super::node::{FACTS_INO, Facts, InstanceRecord, Node, Record};
use super::protectors;
use super::scopes::Scopes;
use super::tree::Tree;
use super::writer::Writer;
use super::{Caller, Change, State, Unlocked, Vault, VaultError};
use crate::access::ScopeState;
use crate::audit::{self, Anchor};
use crate::keyring::ScopeEntry;
use crate::model::{Ino, Scope};
use crate::seal::{self, RecordKey, RecoverySet, StoreIdentity};
use crate::secret::{Kek, Secret};
use crate::store::{Store, StoreError};
use crate::wire::UnlockWith;
use age::x25519;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// Where the index key is: sealed to the identity and to the escrow identity.
pub const INDEX_META: &str = "index";
/// Where the escrow identity is: sealed to the recovery recipients.
pub const ESCROW_META: &str = "escrow";

/// What the store's identity opened. The KEKs are in the kernel keyring.
#[derive(Clone)]
pub(super) struct Keys {
    pub record: Arc<RecordKey>,
    pub index: Arc<Secret>,
    pub recovery: RecoverySet,
    pub identity: x25519::Recipient,
    pub escrow: x25519::Recipient,
    pub scopes: Arc<HashMap<Scope, Arc<ScopeEntry>>>,
    pub revoked: Vec<Scope>,
}

impl Keys {
    /// Reads a scope's KEK from the kernel, now.
    pub fn kek(&self, scope: &Scope) -> Result<Kek, ScopeState> {
        if self.revoked.contains(scope) {
            return Err(ScopeState::Revoked);
        }
        self.scopes.get(scope).ok_or(ScopeState::Missing)?.read()
    }

    pub fn state(&self, scope: &Scope) -> ScopeState {
        self.kek(scope).err().unwrap_or(ScopeState::Alive)
    }

    /// To whom the store's keys are sealed: its identity, and the escrow identity for those with a recovery key.
    pub fn recipients(&self) -> [x25519::Recipient; 2] {
        [self.identity.clone(), self.escrow.clone()]
    }
}

/// What opens the store.
pub enum UnlockBy<'a> {
    /// The passphrase of `identity.age`.
    Passphrase(&'a Secret),
    /// The text of an identity: the store's own unencrypted one, or a recovery key.
    Identity(&'a Secret),
    /// As [`UnlockBy::Identity`]: what the daemon before this one was unlocked with ([`Keeper`](super::Keeper)).
    Kept(&'a Secret),
}

impl Vault {
    /// Unlocks: opens the identity, verifies the store against its manifest, puts the KEKs into the keyring. On an
    /// unlocked store it brings back scopes whose key was revoked.
    ///
    /// # Errors
    /// [`VaultError::WrongKey`] if that does not open it; [`VaultError::Damaged`]; [`VaultError::NothingToDo`].
    pub fn unlock(&self, caller: &impl Caller, by: &UnlockBy<'_>) -> Result<(), VaultError> {
        self.unlock_with(caller, by, by.method())
    }

    /// The same with something that came by `method`: the log says which.
    ///
    /// # Errors
    /// As [`Vault::unlock`].
    pub fn unlock_with(&self, caller: &impl Caller, by: &UnlockBy<'_>, method: &str) -> Result<(), VaultError> {
        let was_locked = self.locked_since().is_some();
        let result = self.try_unlock(by);
        match &result {
            Ok(identity) => {
                let recorded = self.record(audit::Operation::Unlock, "", None, &caller.who(), method);
                if was_locked && recorded.is_err() {
                    // An unlock that nobody will know of is none.
                    self.forget(&mut self.lock_writer());
                }
                recorded?;
                if let Some(keeper) = self.keeper.get() {
                    keeper.keep(&identity.text()?);
                }
                self.notify(Change::Unlocked);
                self.notify_containers();
            }
            Err(VaultError::NothingToDo(_)) => {}
            Err(error) => {
                let reason = format!("{method}: {error}");
                self.refuse(audit::Operation::Unlock, "", None, &caller.who(), &reason);
            }
        }
        result.map(|_| ())
    }

    fn try_unlock(&self, by: &UnlockBy<'_>) -> Result<StoreIdentity, VaultError> {
        let identity = protectors::open(&self.store, by)?;
        let mut writer = self.lock_writer();
        let unlocked = self.locked_since().is_none();
        if unlocked {
            self.reinstate(&mut writer, &identity)?;
            return Ok(identity);
        }
        let index = index_key(&self.store, &identity)?;
        let Loaded { tree, mut scopes, instances, exports, consoles, facts, audit } = load(&self.store, &index)?;
        // Once: what is anchored later is anchored by this daemon, which has had the log open all the time.
        if !self.audit_compared.load(Ordering::Relaxed) {
            if !self.audit.compare(audit).map_err(|e| VaultError::Failed(e.to_string()))? {
                tracing::warn!("the audit log is not the one the store knows: lines were removed or altered");
            }
            self.audit_compared.store(true, Ordering::Relaxed);
        }
        if let Some(standing) = self.durable()? {
            self.audit.compare_store(standing).map_err(|e| VaultError::Failed(e.to_string()))?;
        }
        let keys = self.make_keys(&identity, index, &facts)?;
        if let Some(undone) = scopes.declared().find(|d| !keys.scopes.contains_key(&d.record.scope)) {
            return Err(VaultError::Damaged(format!("the key of the scope {} is missing", undone.record.scope)));
        }
        let ended = self.take_up(&keys, &mut scopes, instances)?;
        writer.begin(facts);
        let unlocked = Unlocked { tree, keys: Arc::new(keys), scopes, exports, consoles };
        *self.write_state() = State::Unlocked(Box::new(unlocked));
        for (ino, record, why) in &ended {
            self.note_end(record, why);
            writer.touch(*ino);
        }
        Ok(identity)
    }

    /// Which instances there are, and through which map owners show, may be another matter than before: the kernel is to
    /// ask anew.
    fn notify_containers(&self) {
        let inside =
            |tree: &Tree| tree.nodes().filter(|(_, n)| n.scope != Scope::Host).map(|(ino, _)| ino).collect::<Vec<_>>();
        if let Ok(inodes) = self.with_tree(inside)
            && !inodes.is_empty()
        {
            self.notify(Change::Nodes(inodes));
        }
    }

    /// Locks: what is not yet durable is made so, then names, keys and KEKs leave the memory.
    ///
    /// # Errors
    /// [`VaultError::NothingToDo`] if it is locked; the store's error if the last changes cannot be made durable, and
    /// then it stays unlocked. [`VaultError::LockedUnrecorded`] if it is locked and that cannot be recorded: no full disk keeps it open.
    pub fn lock(&self, caller: &impl Caller) -> Result<(), VaultError> {
        {
            let mut writer = self.lock_writer();
            if self.locked_since().is_some() {
                return Err(VaultError::NothingToDo("it is locked"));
            }
            self.flush(&mut writer)?;
            self.sync_and_note()?;
            self.forget(&mut writer);
        }
        self.notify(Change::Locked);
        self.audit.sum_up();
        self.record(audit::Operation::Lock, "", None, &caller.who(), "locked").map_err(|error| match error {
            VaultError::NotRecorded(why) => VaultError::LockedUnrecorded(why),
            other => other,
        })
    }

    /// Names, keys and KEKs leave the memory, and changes that are not on the disk.
    pub(super) fn forget(&self, writer: &mut Writer) {
        *writer = Writer::default();
        let at = crate::model::Timestamp::now();
        *self.write_state() = State::Locked { since: Instant::now(), at };
        // It has names in it.
        *self.expiring.lock() = None;
        self.registry.clear();
        self.store.forget_key();
        if let Some(keeper) = self.keeper.get() {
            keeper.forget();
        }
    }

    fn make_keys(&self, identity: &StoreIdentity, index: Secret, facts: &Facts) -> Result<Keys, VaultError> {
        let mut scopes = HashMap::new();
        for (name, sealed) in self.store.scopes()? {
            let scope = Scope::try_from(name).map_err(|e| VaultError::Damaged(e.to_string()))?;
            let kek = seal::open_key(identity.key(), &sealed)?;
            let entry = ScopeEntry::install(&scope, &kek)
                .map_err(|e| VaultError::Failed(format!("the kernel keyring does not take the key of {scope}: {e}")))?;
            scopes.insert(scope, Arc::new(entry));
        }
        let recovery = RecoverySet::parse(&facts.recovery)
            .map_err(|e| VaultError::Damaged(format!("its recovery recipients: {e}")))?;
        Ok(Keys {
            record: Arc::new(RecordKey::derive(&index)),
            index: Arc::new(index),
            recovery,
            identity: seal::own_recipient(&facts.identity)?,
            escrow: seal::own_recipient(&facts.escrow)?,
            scopes: Arc::new(scopes),
            revoked: facts.revoked.clone(),
        })
    }

    /// Puts back what was revoked, on the word of somebody who can open the identity.
    fn reinstate(&self, writer: &mut Writer, identity: &StoreIdentity) -> Result<(), VaultError> {
        let keys = self.keys()?;
        let alive = |scope: &Scope| keys.state(scope) == ScopeState::Alive;
        if keys.scopes.keys().all(alive) {
            return Err(VaultError::NothingToDo("it is unlocked"));
        }
        let mut facts = writer.facts()?.clone();
        facts.revoked.clear();
        let fresh = self.make_keys(identity, Secret::copy_of(keys.index.expose())?, &facts)?;
        self.transact_with(writer, |writer| {
            writer.sync();
            writer.set_facts(facts);
            Ok(())
        })?;
        self.set_keys(fresh);
        Ok(())
    }

    pub(super) fn set_keys(&self, keys: Keys) {
        if let State::Unlocked(open) = &mut *self.write_state() {
            open.keys = Arc::new(keys);
        }
    }

    /// Keeps a revocation that was seen, so that a restart does not undo it.
    pub(super) fn note_revoked(&self, scope: &Scope) {
        // Noted already: refusing must not wait for a commit.
        if self.keys().is_ok_and(|keys| keys.revoked.contains(scope)) {
            return;
        }
        let mut writer = self.lock_writer();
        let Ok(keys) = self.keys() else { return };
        let Ok(mut facts) = writer.facts().cloned() else { return };
        if facts.revoked.contains(scope) {
            return;
        }
        facts.revoked.push(scope.clone());
        let revoked = facts.revoked.clone();
        writer.set_facts(facts);
        if let Err(error) = self.flush(&mut writer) {
            tracing::error!(%error, %scope, "a revoked key could not be noted in the store; it will be tried again");
        }
        self.set_keys(Keys { revoked, ..(*keys).clone() });
        self.refuse(
            audit::Operation::Revoke,
            "",
            None,
            &crate::caller::Daemon.who(),
            &format!("the key of {scope} was revoked"),
        );
    }
}

impl<'a> From<&'a UnlockWith> for UnlockBy<'a> {
    fn from(with: &'a UnlockWith) -> Self {
        match with {
            UnlockWith::Passphrase(passphrase) => UnlockBy::Passphrase(passphrase),
            UnlockWith::Identity(text) | UnlockWith::Recovery(text) => UnlockBy::Identity(text),
        }
    }
}

impl UnlockBy<'_> {
    fn method(&self) -> &'static str {
        match self {
            UnlockBy::Passphrase(_) => "passphrase",
            UnlockBy::Identity(_) => "identity",
            UnlockBy::Kept(_) => "kept over a restart",
        }
    }
}

/// Verifies a store that nobody serves with a key to it: every record, against the manifest, and every version's blob,
/// against its record.
///
/// # Errors
/// As [`Vault::unlock`].
pub fn verify_store(store: &Store, by: &UnlockBy<'_>) -> Result<(), VaultError> {
    let identity = protectors::open(store, by)?;
    let loaded = load(store, &index_key(store, &identity)?)?;
    let nodes = loaded.tree.nodes().flat_map(|(_, node)| &node.versions);
    let removed = loaded.tree.tombstones().flat_map(|(_, tombstone)| &tombstone.versions);
    nodes.chain(removed).try_for_each(|version| fsck::check_blob(store, version))
}

fn index_key(store: &Store, identity: &StoreIdentity) -> Result<Secret, VaultError> {
    let sealed = store.meta(INDEX_META)?.ok_or_else(|| VaultError::Damaged("it has no index key".into()))?;
    seal::open_key(identity.key(), &sealed).map_err(protectors::wrong_key)
}

/// What a store holds, but for the blobs.
struct Loaded {
    tree: Tree,
    scopes: Scopes,
    instances: Vec<(Ino, InstanceRecord)>,
    exports: Records,
    consoles: Consoles,
    facts: Facts,
    audit: Anchor,
}

/// A record, opened: what there are many of is where it is to stay.
enum Opened {
    Node(Ino, Arc<Node>),
    Other(Ino, Box<Record>),
}

/// Reads and opens every record, once.
fn load(store: &Store, index: &Secret) -> Result<Loaded, VaultError> {
    let record_key = RecordKey::derive(index);
    let damaged = |ino: Ino, e: &dyn std::fmt::Display| StoreError::Damaged(format!("record of inode {ino}: {e}"));
    let open = |ino, sealed: &[u8]| {
        let plain = record_key.open(ino, sealed).map_err(|e| damaged(ino, &e))?;
        Ok(match Record::decode(&plain).map_err(|e| damaged(ino, &e))? {
            Record::Node(node) if ino != FACTS_INO => Opened::Node(ino, Arc::new(node)),
            other => Opened::Other(ino, Box::new(other)),
        })
    };
    let (verified, records) = store.verify(index, open)?;
    let mut tree = Tree::with_room_for(records.len());
    let mut facts = None;
    let mut declared = Vec::new();
    let mut instances = Vec::new();
    let mut exports = Vec::new();
    let mut consoles = Consoles::default();
    for record in records {
        let (ino, record) = match record {
            Opened::Node(ino, node) => {
                tree.load_node(ino, node);
                continue;
            }
            Opened::Other(ino, record) => (ino, *record),
        };
        match record {
            Record::Facts(found) if ino == FACTS_INO => facts = Some(found),
            Record::Tombstone(tombstone) if ino != FACTS_INO => tree.load_tombstone(ino, tombstone),
            Record::Scope(scope) if ino != FACTS_INO => declared.push((ino, scope)),
            Record::Instance(instance) if ino != FACTS_INO => instances.push((ino, instance)),
            Record::Export(export) if ino != FACTS_INO => exports.push((ino, export)),
            Record::Console(console) if ino != FACTS_INO => {
                if consoles.put(ino, *console) {
                    return Err(damaged(ino, &"a console that is there twice").into());
                }
            }
            Record::Remembered(remembered) if ino != FACTS_INO => {
                if consoles.put_remembered(ino, *remembered) {
                    return Err(damaged(ino, &"what is remembered of consoles is there twice").into());
                }
            }
            Record::Facts(_)
            | Record::Node(_)
            | Record::Tombstone(_)
            | Record::Scope(_)
            | Record::Instance(_)
            | Record::Export(_)
            | Record::Console(_)
            | Record::Remembered(_)
            | Record::View(..) => return Err(damaged(ino, &"out of place").into()),
        }
    }
    tree.finish()?;
    let mut scopes = Scopes::default();
    for (ino, record) in declared {
        let name = record.scope.clone();
        if tree.get(record.dir).is_none_or(|node| node.scope != name) || scopes.declare(ino, record).is_err() {
            return Err(VaultError::Damaged(format!("the scope {name} has no folder, or is there twice")));
        }
    }
    let mut records = Records::default();
    exports.into_iter().try_for_each(|(ino, record)| records.put(ino, record))?;
    let facts = facts.ok_or_else(|| VaultError::Damaged("its own facts are missing".into()))?;
    let audit = Anchor { count: verified.audit.count, head: verified.audit.head };
    Ok(Loaded { tree, scopes, instances, exports: records, consoles, facts, audit })
}
