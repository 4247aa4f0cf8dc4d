//! The declared scopes and the attached instances, in memory while the store is unlocked.
//!
//! Owns which instance reads by which entry in the kernel keyring, and through which map a scope's ids show. Knows
//! nothing of processes: what an instance is, `caller` says.

use super::VaultError;
use super::node::{InstanceRecord, ScopeRecord, UidMap};
use super::view::View;
use crate::access::ScopeState;
use crate::keyring::ScopeEntry;
use crate::model::{IdMaps, Ino, Scope, Timestamp};
use crate::secret::Kek;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// By whose entry in the kernel keyring content opens: the daemon's own for a scope, or an instance's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub(super) scope: Scope,
    /// The instance's record. Never given twice, unlike its id.
    pub(super) instance: Option<Ino>,
}

impl Holder {
    /// The daemon's own entry for a scope.
    pub fn daemon(scope: &Scope) -> Self {
        Holder { scope: scope.clone(), instance: None }
    }

    /// The record of the instance, if it is one's.
    pub fn instance(&self) -> Option<Ino> {
        self.instance
    }

    /// Whether it is this instance.
    pub fn is_instance(&self, ino: Ino) -> bool {
        self.instance == Some(ino)
    }
}

/// A declared scope.
pub(super) struct Declared {
    /// Where its record is.
    pub ino: Ino,
    pub record: ScopeRecord,
    /// What its ids show through; `None` if as they are kept.
    maps: Option<Arc<IdMaps>>,
}

/// An attached instance.
#[derive(Clone)]
pub(super) struct Instance {
    pub record: Arc<InstanceRecord>,
    /// `None` if it may not open anything any more.
    pub entry: Option<Arc<ScopeEntry>>,
    /// Whether the end of its time was noted: the kernel counts whole seconds, and may be the first to say so.
    pub expiry_noted: bool,
}

impl Instance {
    /// Reads the KEK by its own entry, now.
    pub fn kek(&self) -> Result<Kek, ScopeState> {
        if self.record.revoked {
            return Err(ScopeState::Revoked);
        }
        // The kernel forgets an expired key after some minutes: the record says what became of it.
        if self.expiry_noted || self.record.expires.is_some_and(|at| at <= Timestamp::now()) {
            return Err(ScopeState::Expired);
        }
        self.entry.as_ref().ok_or(ScopeState::Missing)?.read()
    }

    pub fn state(&self) -> ScopeState {
        self.kek().err().unwrap_or(ScopeState::Alive)
    }
}

/// All of them.
#[derive(Default)]
pub(super) struct Scopes {
    declared: BTreeMap<Scope, Declared>,
    instances: HashMap<Ino, Instance>,
    ids: HashMap<String, Ino>,
}

impl Scopes {
    /// A scope was declared, or read from the store.
    ///
    /// # Errors
    /// [`VaultError::Exists`].
    pub fn declare(&mut self, ino: Ino, record: ScopeRecord) -> Result<(), VaultError> {
        if self.declared.contains_key(&record.scope) {
            return Err(VaultError::Exists);
        }
        self.declared.insert(record.scope.clone(), Declared { ino, record, maps: None });
        Ok(())
    }

    /// Takes a scope out.
    pub fn remove(&mut self, scope: &Scope) {
        self.declared.remove(scope);
    }

    pub fn get(&self, scope: &Scope) -> Option<&Declared> {
        self.declared.get(scope)
    }

    pub fn declared(&self) -> impl Iterator<Item = &Declared> {
        self.declared.values()
    }

    /// How a scope's ids show.
    pub fn view(&self, scope: &Scope) -> View {
        match scope {
            Scope::Host => View::plain(),
            Scope::Container(_) => match self.declared.get(scope) {
                Some(declared) => View::new(declared.maps.clone(), declared.record.write),
                None => View::plain(),
            },
        }
    }

    /// Puts an instance in, or a changed one in the place of what it was. Whether its scope's ids show otherwise now.
    pub fn put(&mut self, ino: Ino, instance: Instance) -> bool {
        let scope = instance.record.id.scope.clone();
        self.ids.insert(instance.record.id.id.clone(), ino);
        self.instances.insert(ino, instance);
        self.choose_maps(&scope)
    }

    /// Takes an instance out. Whether its scope's ids show otherwise now.
    pub fn take(&mut self, ino: Ino) -> bool {
        let Some(instance) = self.instances.remove(&ino) else { return false };
        let id = &instance.record.id;
        if self.ids.get(&id.id) == Some(&ino) {
            self.ids.remove(&id.id);
        }
        if let Some(entry) = &instance.entry {
            entry.revoke();
        }
        self.choose_maps(&id.scope)
    }

    pub fn instance(&self, ino: Ino) -> Option<&Instance> {
        self.instances.get(&ino)
    }

    /// The instance with this id.
    pub fn by_id(&self, id: &str) -> Option<(Ino, &Instance)> {
        let ino = *self.ids.get(id)?;
        Some((ino, self.instances.get(&ino)?))
    }

    /// All instances, in no order.
    pub fn instances(&self) -> impl Iterator<Item = (Ino, &Instance)> {
        self.instances.iter().map(|(ino, instance)| (*ino, instance))
    }

    /// Those of a scope that may open something.
    pub fn live<'a>(&'a self, scope: &'a Scope) -> impl Iterator<Item = (Ino, &'a Instance)> {
        self.instances().filter(move |(_, i)| i.record.id.scope == *scope && i.entry.is_some() && !i.record.revoked)
    }

    /// How many of each scope may open something, by what the kernel says now.
    pub fn count_alive(&self) -> HashMap<&Scope, u64> {
        let mut counts = HashMap::new();
        for instance in self.instances.values().filter(|i| i.state() == ScopeState::Alive) {
            *counts.entry(&instance.record.id.scope).or_default() += 1;
        }
        counts
    }

    /// The scope's ids show through the map of its instances, which all have the same. Where none may open anything any more, through that of
    /// the last one whose processes run still: they are told that it is over, and not that the files are somebody else's.
    fn choose_maps(&mut self, scope: &Scope) -> bool {
        let known = || self.instances().map(|(_, i)| i).filter(|i| i.record.id.scope == *scope);
        let found = self.live(scope).next().map(|(_, i)| i).or_else(|| known().max_by_key(|i| i.record.attached));
        let found = found.map(|instance| &instance.record.marks.maps);
        let maps = found.filter(|maps| **maps != IdMaps::identity()).cloned();
        let Some(declared) = self.declared.get_mut(scope).filter(|d| d.record.uid_map == UidMap::Auto) else {
            return false;
        };
        if declared.maps.as_deref() == maps.as_ref() {
            return false;
        }
        declared.maps = maps.map(Arc::new);
        true
    }
}
