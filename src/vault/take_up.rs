//! Instances that were attached before this daemon: each that is still the one it was goes on.

use super::node::InstanceRecord;
use super::scopes::{Instance, Scopes};
use super::unlock::Keys;
use super::{Vault, VaultError};
use crate::caller;
use crate::model::{Ino, Timestamp};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long all of them together may keep an unlock waiting by an exec that cannot be looked into.
const TAKE_UP: Duration = Duration::from_secs(2);
/// How long each that was left over then may keep the look of each second.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

impl Vault {
    /// At the unlock: each recorded instance that is still the one it was gets its entry back. Those that have ended.
    ///
    /// One that cannot be looked at (its first process is in an exec that waits for a FLUSH of ours, which waits for the
    /// lock held here) keeps its record and its entry; nobody is found in it before [`Vault::hold_late`] has.
    pub(super) fn take_up(
        &self,
        keys: &Keys,
        scopes: &mut Scopes,
        recorded: Vec<(Ino, InstanceRecord)>,
    ) -> Result<Vec<(Ino, InstanceRecord, String)>, VaultError> {
        self.registry.clear();
        let deadline = Instant::now() + TAKE_UP;
        let mut ended = Vec::new();
        for (ino, record) in recorded {
            let patience = deadline.saturating_duration_since(Instant::now()).max(LOOK_AGAIN);
            if let Err(why) = self.hold_recorded(&record, patience) {
                ended.push((ino, record, why));
                continue;
            }
            let expired = record.expires.is_some_and(|at| at <= Timestamp::now());
            let entry = match keys.scopes.get(&record.id.scope) {
                Some(entry) if !record.revoked && !expired => match entry.read_secret() {
                    Ok(kek) => Some(Arc::new(self.install_entry(&record, &kek)?)),
                    // The scope's own key was revoked: an instance gets none of it.
                    Err(_) => None,
                },
                Some(_) | None => None,
            };
            scopes.put(ino, Instance { record: Arc::new(record), entry, expiry_noted: expired });
        }
        Ok(ended)
    }

    /// Takes hold of it again, if it can be looked at now.
    fn hold_recorded(&self, record: &InstanceRecord, patience: Duration) -> Result<(), String> {
        match caller::hold_again(&record.marks, patience).map_err(|doubt| doubt.to_string())? {
            Some(held) => self.registry.attach(record.id.clone(), held).map_err(|error| error.to_string()),
            None => {
                tracing::warn!(id = %record.id.id, "its first process cannot be looked at yet");
                Ok(())
            }
        }
    }

    /// Takes hold of those that could not be looked at when they were taken up.
    pub(super) fn hold_late(&self) {
        let late = |open: &super::Unlocked| {
            let all = open.scopes.instances().filter(|(_, i)| self.registry.held(&i.record.id.id).is_none());
            all.map(|(ino, i)| (ino, Arc::clone(&i.record))).collect::<Vec<_>>()
        };
        for (ino, record) in self.with_open(late).unwrap_or_default() {
            // Without the lock: what it waits for may wait for that.
            let found = caller::hold_again(&record.marks, LOOK_AGAIN).transpose();
            let Some(found) = found else { continue };
            let mut writer = self.lock_writer();
            let id = &record.id.id;
            // One that is just being attached is known, and held a moment later.
            let is_late = self.registry.held(id).is_none()
                && self.with_open(|open| open.scopes.by_id(id).is_some_and(|(i, _)| i == ino)).unwrap_or(false);
            if !is_late {
                continue;
            }
            let held = found.map_err(|doubt| doubt.to_string());
            let held = held.and_then(|held| self.registry.attach(record.id.clone(), held).map_err(|e| e.to_string()));
            match held {
                Ok(()) => self.publisher.touch_all(),
                Err(why) => {
                    self.note_end(&record, &why);
                    if let Err(error) = self.drop_instance(&mut writer, id) {
                        tracing::error!(%error, %id, "an ended instance is still in the store; it goes at the next change");
                    }
                }
            }
        }
    }
}
