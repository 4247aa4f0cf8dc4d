//! How an instance ends: its first process does, its key is revoked, its time runs out, its scope goes.

use super::instances::folder;
use super::node::{InstanceRecord, Record};
use super::scopes::{Holder, Instance};
use super::writer::Writer;
use super::{Change, Vault, VaultError};
use crate::access::ScopeState;
use crate::audit;
use crate::caller::Daemon;
use crate::model::{Ino, Scope, Timestamp};
use std::sync::Arc;
use std::time::Duration;

impl Vault {
    /// Waits until some instance's first process has ended, and detaches all those. Comes back at the latest after
    /// `timeout`, or when [`Vault::stop_waiting`] is called.
    pub fn detach_ended(&self, timeout: Duration) {
        for id in self.registry.wait_gone(timeout) {
            let mut writer = self.lock_writer();
            let found = self.with_open(|open| open.scopes.by_id(&id).map(|(_, i)| Arc::clone(&i.record)));
            let Ok(found) = found else {
                // Locked meanwhile: it is missed at the unlock.
                self.registry.detach(&id);
                continue;
            };
            if let Some(record) = found {
                self.note_end(&record, "its first process has ended");
            }
            if let Err(error) = self.drop_instance(&mut writer, &id) {
                tracing::error!(%error, %id, "an ended instance is still in the store; it goes at the next change");
            }
        }
    }

    /// Ends [`Vault::detach_ended`].
    pub fn stop_waiting(&self) {
        self.registry.wake();
    }

    /// What nobody tells of: entries that were revoked in the kernel, and times that have run out. For once a second.
    pub fn look_after_keys(&self) {
        let Ok(keys) = self.keys() else { return };
        for scope in keys.scopes.keys() {
            // It notes what it finds.
            let _ = self.still_alive(&Holder::daemon(scope));
        }
        self.hold_late();
        self.look_after_instances();
    }

    fn look_after_instances(&self) {
        let Ok(all) = self.with_open(|open| {
            open.scopes.instances().filter(|(_, i)| i.entry.is_some()).map(|(ino, i)| (ino, i.clone())).collect()
        }) else {
            return;
        };
        let all: Vec<(Ino, Instance)> = all;
        for (ino, instance) in all {
            match instance.state() {
                ScopeState::Alive | ScopeState::Missing => {}
                ScopeState::Revoked => self.note_instance_revoked(ino),
                ScopeState::Expired => self.note_expired(ino),
            }
        }
    }

    /// Keeps a revocation that was seen, so that a restart does not undo it.
    pub(super) fn note_instance_revoked(&self, ino: Ino) {
        let waits = |open: &super::Unlocked| {
            let instance = open.scopes.instance(ino).filter(|i| !i.record.revoked)?;
            // Its own entry: an unlock takes back what was revoked for the whole scope.
            (instance.state() == ScopeState::Revoked).then(|| instance.clone())
        };
        // Noted already, or gone: refusing must not wait for a commit.
        if !self.with_open(|open| waits(open).is_some()).unwrap_or(false) {
            return;
        }
        let mut writer = self.lock_writer();
        let Ok(Some(instance)) = self.with_open(waits) else { return };
        let id = &instance.record.id;
        let reason = format!("the key of instance {} was revoked", id.id);
        self.refuse(audit::Operation::Revoke, &folder(&id.scope), None, &Daemon.who(), &reason);
        if let Err(error) = self.cut_off(&mut writer, ino, &instance) {
            tracing::error!(%error, id = %id.id, "a revoked key could not be noted in the store; it will be tried again");
        }
    }

    fn note_expired(&self, ino: Ino) {
        let mut writer = self.lock_writer();
        let noted = self.with_open_mut(|open| {
            let instance = open.scopes.instance(ino).filter(|i| !i.expiry_noted)?;
            // The kernel counts whole seconds and may be the first to say so: a restart must not give the rest of one.
            let now = Timestamp::now();
            let expires = Some(instance.record.expires.map_or(now, |at| at.min(now)));
            let record = Arc::new(InstanceRecord { expires, ..(*instance.record).clone() });
            let expired = Instance { record: Arc::clone(&record), entry: None, expiry_noted: true };
            Some((record, open.scopes.put(ino, expired)))
        });
        let Ok(Some((record, shows_otherwise))) = noted else { return };
        writer.keep(ino, Record::Instance((*record).clone()));
        let reason = format!("the time of instance {} has run out", record.id.id);
        self.refuse(audit::Operation::Revoke, &folder(&record.id.scope), None, &Daemon.who(), &reason);
        self.notify(Change::CutOff(ino));
        self.notify_shown(&record.id.scope, shows_otherwise);
        if let Err(error) = self.flush(&mut writer) {
            tracing::error!(%error, id = %record.id.id, "an end of time could not be noted; it will be tried again");
        }
    }

    /// It opens nothing from now on, but is still known.
    pub(super) fn cut_off(&self, writer: &mut Writer, ino: Ino, instance: &Instance) -> Result<(), VaultError> {
        if let Some(entry) = &instance.entry {
            entry.revoke();
        }
        let record = InstanceRecord { revoked: true, ..(*instance.record).clone() };
        writer.keep(ino, Record::Instance(record.clone()));
        let shows_otherwise = self.with_open_mut(|open| {
            open.scopes.put(ino, Instance { record: Arc::new(record), entry: None, expiry_noted: false })
        })?;
        self.notify(Change::CutOff(ino));
        self.notify_shown(&instance.record.id.scope, shows_otherwise);
        self.flush(writer)
    }

    /// It is not known any more.
    pub(super) fn drop_instance(&self, writer: &mut Writer, id: &str) -> Result<(), VaultError> {
        self.registry.detach(id);
        let found = self.with_open(|open| open.scopes.by_id(id).map(|(ino, i)| (ino, i.record.id.scope.clone())))?;
        let Some((ino, scope)) = found else { return Ok(()) };
        let shows_otherwise = self.with_open_mut(|open| open.scopes.take(ino))?;
        writer.touch(ino);
        self.notify(Change::CutOff(ino));
        self.notify_shown(&scope, shows_otherwise);
        self.flush(writer)
    }

    /// Takes out every instance of a scope. They open nothing any more.
    pub(super) fn drop_instances_of(&self, writer: &mut Writer, scope: &Scope) -> Result<(), VaultError> {
        let of_scope = |open: &super::Unlocked| {
            let all = open.scopes.instances().filter(|(_, i)| i.record.id.scope == *scope);
            all.map(|(_, i)| i.record.id.id.clone()).collect::<Vec<_>>()
        };
        for id in self.with_open(of_scope)? {
            self.drop_instance(writer, &id)?;
        }
        Ok(())
    }

    pub(super) fn note_end(&self, record: &InstanceRecord, why: &str) {
        let reason = format!("{}: {why}", record.id.id);
        tracing::info!(id = %record.id.id, scope = %record.id.scope, why, "an instance was detached");
        if let Err(error) =
            self.record(audit::Operation::Detach, &folder(&record.id.scope), None, &Daemon.who(), &reason)
        {
            tracing::error!(%error, "an instance that ended is not in the log");
        }
    }
}
