//! Instances of containers: attached, detached, taken up again after a restart.
//!
//! An instance that was detached or revoked while its init still runs is kept, without its key, until that has ended:
//! those inside are told EKEYREVOKED, and nobody mistakes them for strangers.

use super::node::{InstanceRecord, Record, UidMap};
use super::open::denial_of;
use super::scopes::{Holder, Instance};
use super::writer::Writer;
use super::{Caller, Change, Vault, VaultError};
use crate::access::ScopeState;
use crate::audit;
use crate::caller::{self, AttachError, Held};
use crate::keyring::ScopeEntry;
use crate::model::{Ino, InstanceId, Scope, Timestamp};
use crate::secret::{Kek, Secret};
use crate::store::Batch;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The longest id of an instance, in bytes.
const ID_MAX: usize = 128;
/// The longest time an instance may be attached for: ten years.
const TIMEOUT_MAX: u64 = 10 * 366 * 86_400;
/// How long the one who attaches waits for the kernel to have forgotten what ids showed as.
const PATIENCE: Duration = Duration::from_secs(1);

/// What is to be attached.
#[derive(Debug, Clone, Copy)]
pub struct Attach<'a> {
    /// To whose secrets.
    pub scope: &'a Scope,
    /// The container's first process, in the daemon's pid namespace.
    pub pid: u32,
    /// What it is to be called; `None` makes it SCOPE-PID.
    pub id: Option<&'a str>,
    /// For how long; `None` until it ends.
    pub timeout: Option<Duration>,
}

/// An instance, for people.
#[derive(Debug, Clone)]
pub struct InstanceInfo {
    /// What it was when it was attached.
    pub record: Arc<InstanceRecord>,
    /// Its entry in the kernel keyring, now.
    pub state: ScopeState,
    /// The entry's serial number, if it has one.
    pub serial: Option<i32>,
}

impl Vault {
    /// Attaches a running container: from now on those inside it open its scope's secrets. Durable when it returns. Its
    /// id.
    ///
    /// # Errors
    /// [`VaultError::Locked`]; [`VaultError::NotFound`] for a scope that is not declared; [`VaultError::Invalid`] with
    /// the reason if it cannot be told from the host's processes, is attached already, or if a live instance of the
    /// scope has another map of ids; [`VaultError::Denied`] if the scope's key was revoked.
    pub fn attach(&self, caller: &impl Caller, attach: Attach<'_>) -> Result<String, VaultError> {
        let path = folder(attach.scope);
        let result = self.try_attach(caller, attach, &path);
        let denied = |e: &VaultError| matches!(e, VaultError::Denied(_) | VaultError::NotFound | VaultError::Locked);
        if let Err(error) = &result
            && (denied(error) || error.is_unrecorded_refusal())
        {
            self.refuse(audit::Operation::Attach, &path, None, &caller.who(), &error.to_string());
        }
        let (id, shows_otherwise) = result?;
        self.publish_to_instances();
        self.notify_shown(attach.scope, shows_otherwise);
        // Who attaches starts a container next: by then the kernel must have forgotten what the ids showed as.
        if shows_otherwise
            && let Some(observer) = self.observer.get()
            && !observer.settle(PATIENCE)
        {
            tracing::warn!(scope = %attach.scope, "the kernel may show former owners for a while");
        }
        Ok(id)
    }

    fn try_attach(&self, caller: &impl Caller, attach: Attach<'_>, path: &str) -> Result<(String, bool), VaultError> {
        let Attach { scope, pid, .. } = attach;
        let id = attach.id.map_or_else(|| format!("{scope}-{pid}"), str::to_owned);
        check_id(&id)?;
        let seconds = attach.timeout.map(|t| t.as_secs());
        if seconds.is_some_and(|s| !(1..=TIMEOUT_MAX).contains(&s)) {
            return Err(VaultError::Invalid("a timeout is 1 s to ten years".into()));
        }
        if self.with_open(|open| open.scopes.get(scope).is_none())? {
            return Err(VaultError::NotFound);
        }
        // Before any lock is taken: the process may be in an exec that waits for a FLUSH of ours.
        let held = Arc::new(caller::hold(pid).map_err(|doubt| VaultError::Invalid(doubt.to_string()))?);
        let mut writer = self.lock_writer();
        self.make_way(&mut writer, &id)?;
        self.check_instance(scope, &held)?;
        let keys = self.keys()?;
        let denied = |state| VaultError::Denied(denial_of(state));
        keys.kek(scope).map_err(denied)?;
        let kek = keys.scopes.get(scope).ok_or(VaultError::NotFound)?.read_secret().map_err(denied)?;
        let attached = Timestamp::now();
        let record = InstanceRecord {
            id: InstanceId { scope: scope.clone(), id: id.clone() },
            marks: held.marks().clone(),
            attached,
            expires: seconds.map(|s| Timestamp { secs: attached.secs.saturating_add_unsigned(s), ..attached }),
            revoked: false,
        };
        let entry = self.install_entry(&record, &kek)?;
        let instance = Instance { record: Arc::new(record), entry: Some(Arc::new(entry)), expiry_noted: false };
        let ino = writer.next_ino()?;
        let shows_otherwise = self.with_open_mut(|open| open.scopes.put(ino, instance.clone()))?;
        let attached = self.register(&mut writer, &instance.record.id, held).and_then(|()| {
            let reason = describe(&instance.record);
            self.record(audit::Operation::Attach, path, None, &caller.who(), &reason)?;
            let record = Record::Instance((*instance.record).clone());
            self.flush_with(&mut writer, Batch::default(), &BTreeMap::from([(ino, record)]))
        });
        if let Err(error) = attached {
            let shows_otherwise = self.with_open_mut(|open| open.scopes.take(ino))?;
            self.notify_shown(scope, shows_otherwise);
            if !matches!(error, VaultError::Invalid(_)) {
                self.registry.detach(&id);
            }
            return Err(error);
        }
        Ok((id, shows_otherwise))
    }

    /// Callers are found in it from now on. One that is at the same place, and may open nothing any more, makes way.
    fn register(&self, writer: &mut Writer, id: &InstanceId, held: Arc<Held>) -> Result<(), VaultError> {
        let invalid = |error: AttachError| VaultError::Invalid(error.to_string());
        match self.registry.attach(id.clone(), Arc::clone(&held)) {
            Err(AttachError::SamePlace(other)) if self.is_dead(&other.id)? => {
                self.drop_instance(writer, &other.id)?;
                self.registry.attach(id.clone(), held).map_err(invalid)
            }
            other => other.map_err(invalid),
        }
    }

    /// An id may be used again once its instance may open nothing any more, or has ended.
    fn make_way(&self, writer: &mut Writer, id: &str) -> Result<(), VaultError> {
        let known = self.with_open(|open| open.scopes.by_id(id).map(|(_, i)| i.clone()))?;
        let Some(instance) = known else { return Ok(()) };
        if instance.state() == ScopeState::Alive && !self.registry.has_ended(id) {
            return Err(VaultError::Invalid(format!("an instance '{id}' is attached already")));
        }
        self.drop_instance(writer, id)
    }

    /// The bounds, and one map of ids for all.
    fn check_instance(&self, scope: &Scope, held: &Held) -> Result<(), VaultError> {
        self.with_open(|open| {
            let scopes = &open.scopes;
            if scopes.instances().count() as u64 >= self.limits.max_instances {
                return Err(VaultError::NoSpace("max_instances is reached"));
            }
            let declared = scopes.get(scope).ok_or(VaultError::NotFound)?;
            if declared.record.uid_map == UidMap::Host {
                return Ok(());
            }
            let other = scopes
                .live(scope)
                .find(|(_, i)| i.record.marks.maps != held.marks().maps && i.state() == ScopeState::Alive);
            match other {
                None => Ok(()),
                Some((_, other)) => Err(VaultError::Invalid(format!(
                    "'{}' of the same scope is attached with another map of user ids, and files can show one owner \
                     only; detach it, give both the same map, or declare the scope with --uid-map host",
                    other.record.id.id
                ))),
            }
        })?
    }

    fn is_dead(&self, id: &str) -> Result<bool, VaultError> {
        self.with_open(|open| open.scopes.by_id(id).is_none_or(|(_, i)| i.state() != ScopeState::Alive))
    }

    pub(super) fn install_entry(&self, record: &InstanceRecord, kek: &Secret) -> Result<ScopeEntry, VaultError> {
        let left = record.expires.map(|at| seconds_until(at).max(1));
        ScopeEntry::install_for(&record.id, kek, left).map_err(|e| {
            VaultError::Failed(format!("the kernel keyring does not take the entry of {}: {e}", record.id.id))
        })
    }

    /// Detaches an instance: nothing opens inside it from now on, and what is open cannot be read on. Durable when it
    /// returns.
    ///
    /// # Errors
    /// [`VaultError::NotFound`]; [`VaultError::NothingToDo`] if it was detached before and has not ended yet.
    pub fn detach(&self, caller: &impl Caller, id: &str) -> Result<(), VaultError> {
        let mut writer = self.lock_writer();
        let found = self.with_open(|open| open.scopes.by_id(id).map(|(ino, i)| (ino, i.clone())))?;
        let (ino, instance) = found.ok_or(VaultError::NotFound)?;
        let has_ended = self.registry.has_ended(id);
        if instance.record.revoked && !has_ended {
            return Err(VaultError::NothingToDo("it is detached; its processes still run"));
        }
        // First of all: what cannot be recorded is cut off all the same.
        if let Some(entry) = &instance.entry {
            entry.revoke();
        }
        let path = folder(&instance.record.id.scope);
        let recorded = self.record(audit::Operation::Detach, &path, None, &caller.who(), id);
        match has_ended {
            true => self.drop_instance(&mut writer, id)?,
            false => self.cut_off(&mut writer, ino, &instance)?,
        }
        recorded
    }

    /// The instances, by scope and id.
    ///
    /// # Errors
    /// [`VaultError::Locked`].
    pub fn instances(&self) -> Result<Vec<InstanceInfo>, VaultError> {
        let mut all: Vec<Instance> =
            self.with_open(|open| open.scopes.instances().map(|(_, i)| i.clone()).collect())?;
        let revoked = self.keys()?.revoked.clone();
        all.sort_by(|a, b| {
            let key = |i: &Instance| (i.record.id.scope.clone(), i.record.id.id.clone());
            key(a).cmp(&key(b))
        });
        let info = |i: Instance| InstanceInfo {
            state: match revoked.contains(&i.record.id.scope) {
                true => ScopeState::Revoked,
                false => i.state(),
            },
            serial: i.entry.as_ref().map(|entry| entry.serial()),
            record: i.record,
        };
        Ok(all.into_iter().map(info).collect())
    }

    /// Whether callers may read on by it.
    pub(super) fn instance_kek(&self, ino: Ino) -> Result<Kek, ScopeState> {
        let found = self.with_open(|open| {
            let instance = open.scopes.instance(ino)?;
            // Whoever revokes the scope's own key revokes it for all its instances.
            Some((instance.clone(), open.keys.revoked.contains(&instance.record.id.scope)))
        });
        match found {
            Ok(Some((instance, false))) => instance.kek(),
            // The other way to have none: detached, and ended.
            Ok(Some((_, true)) | None) => Err(ScopeState::Revoked),
            Err(_) => Err(ScopeState::Missing),
        }
    }

    /// By whose entry this caller opens what is in the scope.
    pub(super) fn holder(&self, caller: &impl crate::model::Subject, scope: &Scope) -> Holder {
        let inside = match scope {
            Scope::Host => None,
            Scope::Container(_) => caller.instance().ok().flatten().filter(|instance| instance.scope == *scope),
        };
        let ino = inside.map(|instance| {
            // One that is not known here is as one that was detached; no record is at inode 0.
            self.with_open(|open| open.scopes.by_id(&instance.id).map(|(ino, _)| ino)).ok().flatten().unwrap_or(Ino(0))
        });
        Holder { instance: ino, ..Holder::daemon(scope) }
    }

    /// The kernel is to forget what the scope's ids showed as.
    pub(super) fn notify_shown(&self, scope: &Scope, shows_otherwise: bool) {
        if !shows_otherwise {
            return;
        }
        let of_scope = |tree: &super::Tree| {
            tree.nodes().filter(|(_, node)| node.scope == *scope).map(|(ino, _)| ino).collect::<Vec<_>>()
        };
        if let Ok(inodes) = self.with_tree(of_scope) {
            self.notify(Change::Nodes(inodes));
        }
    }
}

/// The folder of a scope, as the log has it.
pub(super) fn folder(scope: &Scope) -> String {
    format!("{}/{scope}", crate::model::CONTAINERS)
}

fn check_id(id: &str) -> Result<(), VaultError> {
    let fits = (1..=ID_MAX).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    match fits && !id.starts_with('.') {
        true => Ok(()),
        false => Err(VaultError::Invalid(
            "an instance's id has 1 to 128 of a-z A-Z 0-9 . _ -, not beginning with a dot".into(),
        )),
    }
}

pub(super) fn seconds_until(at: Timestamp) -> u32 {
    let now = Timestamp::now();
    let whole = at.secs.saturating_sub(now.secs).saturating_add(i64::from(at.nanos > now.nanos));
    u32::try_from(whole.max(0)).unwrap_or(u32::MAX)
}

fn describe(record: &InstanceRecord) -> String {
    let marks = &record.marks;
    let cgroup = marks.cgroup.as_deref().unwrap_or("none of its own");
    let until = record.expires.map(|at| format!(", until {at}")).unwrap_or_default();
    format!("{}: process {} started {}, cgroup {cgroup}{until}", record.id.id, marks.pid, marks.start)
}
