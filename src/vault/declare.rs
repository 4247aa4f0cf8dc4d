//! Scopes of containers: declared, and taken back with all that is in them.

use super::instances::folder;
use super::node::{Node, Record, ScopeRecord, UidMap};
use super::{Caller, Change, Vault, VaultError};
use crate::access::ScopeState;
use crate::audit;
use crate::keyring::ScopeEntry;
use crate::model::{CONTAINERS, Gid, Ino, Kind, Meta, Name, Scope, Timestamp, Uid};
use crate::seal;
use crate::secret::{Kek, Secret};
use crate::store::Batch;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// The most scopes there may be: each has a key in the kernel.
const MAX_SCOPES: usize = 1024;

/// A declared scope, for people.
#[derive(Debug, Clone)]
pub struct ScopeInfo {
    /// What was declared.
    pub record: ScopeRecord,
    /// The daemon's own entry for it in the kernel keyring, now.
    pub state: ScopeState,
    /// Secrets in it.
    pub secrets: u64,
    /// Instances that may open them.
    pub instances: u64,
}

impl Vault {
    /// Declares a container's scope: its key, and its folder below `containers`, which belongs to uid 0 inside. Durable
    /// when it returns.
    ///
    /// # Errors
    /// [`VaultError::Exists`]; [`VaultError::NoSpace`] for too many; [`VaultError::Locked`].
    pub fn add_scope(
        &self,
        caller: &impl Caller,
        scope: &Scope,
        write: bool,
        uid_map: UidMap,
    ) -> Result<(), VaultError> {
        let result = self.try_add_scope(caller, scope, write, uid_map);
        let parent = self.recording(audit::Operation::ScopeAdd, &folder(scope), || caller.who(), result)?;
        self.notify(Change::Entry { parent, name: name_of(scope)? });
        Ok(())
    }

    fn try_add_scope(
        &self,
        caller: &impl Caller,
        scope: &Scope,
        write: bool,
        uid_map: UidMap,
    ) -> Result<Ino, VaultError> {
        let name = name_of(scope)?;
        // A rekeying makes new keys for the scopes there are.
        let _alone = self.sealing_anew();
        let mut writer = self.lock_writer();
        let (known, taken) = self.with_open(|o| (o.scopes.declared().count(), o.scopes.get(scope).is_some()))?;
        if taken {
            return Err(VaultError::Exists);
        }
        if known >= MAX_SCOPES {
            return Err(VaultError::NoSpace("1024 scopes"));
        }
        self.check_room_for(1)?;
        let parent = self.with_tree(|t| t.child(Ino::ROOT, CONTAINERS))?;
        let parent = parent.ok_or_else(|| VaultError::Damaged("the containers' folder is missing".into()))?;
        let keys = self.keys()?;
        let kek = Secret::random(Kek::LEN)?;
        let entry = ScopeEntry::install(scope, &kek)
            .map_err(|e| VaultError::Failed(format!("the kernel keyring does not take the key of {scope}: {e}")))?;
        let sealed = seal::seal_key(&kek, &keys.recipients());
        let reason = format!("admin{}, uid map {}", if write { ", writable" } else { "" }, uid_map.as_str());
        self.record(audit::Operation::ScopeAdd, &folder(scope), None, &caller.who(), &reason)?;
        let (dir, ino) = (writer.next_ino()?, writer.next_ino()?);
        let node = Node {
            parent,
            name: Some(name),
            kind: Kind::Directory,
            scope: scope.clone(),
            meta: Meta::new(Uid::ROOT, Gid(0), 0o755),
            target: None,
            versions: Vec::new(),
            last_number: 0,
            view: None,
        };
        let record = ScopeRecord { scope: scope.clone(), write, uid_map, dir, made: Timestamp::now() };
        let mut batch = Batch::default();
        batch.scopes.insert(scope.as_str().to_owned(), Some(sealed));
        let stamped = self.stamped(parent)?;
        let records = BTreeMap::from([
            (dir, Record::Node(node.clone())),
            (ino, Record::Scope(record.clone())),
            (parent, Record::Node(stamped.clone())),
        ]);
        self.flush_with(&mut writer, batch, &records)?;
        self.with_open_mut(|open| {
            open.tree.put(parent, stamped);
            open.tree.put(dir, node);
            open.scopes.declare(ino, record)
        })??;
        let mut scopes: HashMap<Scope, Arc<ScopeEntry>> = (*keys.scopes).clone();
        scopes.insert(scope.clone(), Arc::new(entry));
        self.set_keys(super::unlock::Keys { scopes: Arc::new(scopes), ..(*keys).clone() });
        Ok(parent)
    }

    /// Takes a scope back, with its folder and its key. With `purge` all secrets in it go, their history too, and can
    /// never be opened again but from a backup. How many nodes and versions went.
    ///
    /// # Errors
    /// [`VaultError::NotFound`]; [`VaultError::Invalid`] if it has secrets and `purge` was not said, or if instances are
    /// attached.
    pub fn remove_scope(&self, caller: &impl Caller, scope: &Scope, purge: bool) -> Result<(u64, u64), VaultError> {
        let result = self.try_remove_scope(caller, scope, purge);
        let (parent, removed) =
            self.recording(audit::Operation::ScopeRemove, &folder(scope), || caller.who(), result)?;
        self.notify(Change::Entry { parent, name: name_of(scope)? });
        Ok(removed)
    }

    fn try_remove_scope(
        &self,
        caller: &impl Caller,
        scope: &Scope,
        purge: bool,
    ) -> Result<(Ino, (u64, u64)), VaultError> {
        let _alone = self.sealing_anew();
        let mut writer = self.lock_writer();
        let found = self.with_open(|o| o.scopes.get(scope).map(|d| (d.ino, d.record.dir)))?;
        let (ino, dir) = found.ok_or(VaultError::NotFound)?;
        let attached = self.with_open(|o| {
            o.scopes.live(scope).find(|(_, i)| i.state() == ScopeState::Alive).map(|(_, i)| i.record.id.id.clone())
        })?;
        if let Some(id) = attached {
            return Err(VaultError::Invalid(format!("instance '{id}' is attached to it; detach it first")));
        }
        let parent = self.node(dir)?.parent;
        let (nodes, tombstones) = self.with_tree(|t| {
            let nodes = t.nodes().filter(|(i, n)| n.scope == *scope && *i != dir);
            let tombstones = t.tombstones().filter(|(_, g)| g.scope == *scope);
            let tombstones: Vec<_> = tombstones.map(|(i, g)| (i, g.path.clone(), g.versions.clone())).collect();
            (nodes.map(|(i, n)| (i, n.versions.clone())).collect::<Vec<_>>(), tombstones)
        })?;
        if !purge && !nodes.is_empty() {
            return Err(VaultError::Invalid(format!("{} nodes are in it; --purge removes them for good", nodes.len())));
        }
        if !purge && !tombstones.is_empty() {
            return Err(VaultError::Invalid(format!(
                "versions of {} removed secrets are kept in it; --purge removes them for good",
                tombstones.len()
            )));
        }
        let versions: usize = nodes.iter().map(|(_, v)| v.len()).sum::<usize>()
            + tombstones.iter().map(|(_, _, v)| v.len()).sum::<usize>();
        let reason = format!("admin: {} nodes and {versions} versions go with it", nodes.len());
        self.record(audit::Operation::ScopeRemove, &folder(scope), None, &caller.who(), &reason)?;
        self.drop_instances_of(&mut writer, scope)?;
        let facts = self.transact_with(&mut writer, |writer| {
            let histories =
                nodes.iter().map(|(_, v)| v.as_slice()).chain(tombstones.iter().map(|(_, _, v)| v.as_slice()));
            self.change_history(writer, &histories.collect::<Vec<_>>(), &[])?;
            self.with_tree_mut(|tree| {
                for (_, path, _) in &tombstones {
                    tree.restore_name(path);
                }
                for ino in nodes.iter().map(|(ino, _)| *ino).chain([dir]) {
                    tree.remove(ino);
                }
                tree.forget_left_below(&folder(scope));
            })?;
            for gone in nodes.iter().map(|(i, _)| *i).chain(tombstones.iter().map(|(i, _, _)| *i)).chain([dir, ino]) {
                writer.touch(gone);
            }
            writer.drop_scope(scope.as_str());
            self.stamp(writer, parent)?;
            let mut facts = writer.facts()?.clone();
            facts.revoked.retain(|revoked| revoked != scope);
            writer.set_facts(facts.clone());
            writer.sync();
            Ok(facts)
        })?;
        // Nothing of it is in the store any more: now what is in memory, and in the keyring.
        self.with_open_mut(|open| open.scopes.remove(scope))?;
        let keys = self.keys()?;
        let mut scopes: HashMap<Scope, Arc<ScopeEntry>> = (*keys.scopes).clone();
        if let Some(entry) = scopes.remove(scope) {
            entry.revoke();
        }
        self.set_keys(super::unlock::Keys { scopes: Arc::new(scopes), revoked: facts.revoked, ..(*keys).clone() });
        Ok((parent, (nodes.len() as u64 + 1, versions as u64)))
    }

    /// The declared scopes, by name.
    ///
    /// # Errors
    /// [`VaultError::Locked`].
    pub fn declared_scopes(&self) -> Result<Vec<ScopeInfo>, VaultError> {
        self.with_open(|open| {
            let alive = open.scopes.count_alive();
            let info = |declared: &super::scopes::Declared| {
                let scope = &declared.record.scope;
                ScopeInfo {
                    record: declared.record.clone(),
                    state: open.keys.state(scope),
                    secrets: open.tree.files_of(scope),
                    instances: alive.get(scope).copied().unwrap_or(0),
                }
            };
            open.scopes.declared().map(info).collect()
        })
    }

    /// Whether a directory is a scope's folder, which comes and goes with its scope.
    pub(super) fn is_scope_folder(&self, ino: Ino, node: &Node) -> bool {
        let declared = |o: &super::Unlocked| o.scopes.get(&node.scope).is_some_and(|d| d.record.dir == ino);
        node.scope != Scope::Host && self.with_open(declared).unwrap_or(false)
    }
}

impl UidMap {
    /// The word on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            UidMap::Auto => "auto",
            UidMap::Host => "host",
        }
    }
}

fn name_of(scope: &Scope) -> Result<Name, VaultError> {
    Ok(Name::parse(scope.as_str().as_bytes())?)
}
