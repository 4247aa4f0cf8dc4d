//! Scopes and instances in the words of `wire`.

use super::node::UidMap;
use super::{Attach, Caller, InstanceInfo, ScopeInfo, Vault, VaultError};
use crate::access::ScopeState;
use crate::model::Scope;
use crate::wire::{self, Fault, InstanceEntry, Removed, ScopeEntry};
use std::time::Duration;

impl Vault {
    pub(super) fn wire_scope_add(&self, caller: &impl Caller, add: &wire::ScopeAdd) -> Result<(), Fault> {
        let uid_map = match add.uid_map.unwrap_or_default() {
            wire::UidMap::Auto => UidMap::Auto,
            wire::UidMap::Host => UidMap::Host,
        };
        let scope = named(&add.name)?;
        self.add_scope(caller, &scope, add.write.unwrap_or(false), uid_map).map_err(|error| match error {
            VaultError::Exists => Fault::Refused(format!("the scope '{scope}' is declared already")),
            other => other.into(),
        })
    }

    pub(super) fn wire_scope_remove(&self, caller: &impl Caller, remove: &wire::ScopeRemove) -> Result<Removed, Fault> {
        let scope = named(&remove.name)?;
        let removed = self.remove_scope(caller, &scope, remove.purge.unwrap_or(false));
        let (nodes, purged) = removed.map_err(|error| undeclared(error, &scope))?;
        Ok(Removed { nodes, purged })
    }

    pub(super) fn wire_scope_list(&self) -> Result<Vec<ScopeEntry>, Fault> {
        let entry = |info: ScopeInfo| ScopeEntry {
            name: info.record.scope.to_string(),
            write: info.record.write,
            uid_map: match info.record.uid_map {
                UidMap::Auto => wire::UidMap::Auto,
                UidMap::Host => wire::UidMap::Host,
            },
            key: word(info.state).into(),
            secrets: info.secrets,
            instances: info.instances,
            made: info.record.made,
        };
        Ok(self.declared_scopes()?.into_iter().map(entry).collect())
    }

    pub(super) fn wire_attach(&self, caller: &impl Caller, attach: &wire::Attach) -> Result<String, Fault> {
        let scope = named(&attach.scope)?;
        let timeout = attach.timeout_seconds.map(Duration::from_secs);
        let attach = Attach { scope: &scope, pid: attach.pid, id: attach.id.as_deref(), timeout };
        self.attach(caller, attach).map_err(|error| undeclared(error, &scope))
    }

    pub(super) fn wire_detach(&self, caller: &impl Caller, id: &str) -> Result<(), Fault> {
        self.detach(caller, id).map_err(|error| match error {
            VaultError::NotFound => Fault::NotFound("no such instance is attached".into()),
            other => other.into(),
        })
    }

    pub(super) fn wire_instances(&self) -> Result<Vec<InstanceEntry>, Fault> {
        let entry = |info: InstanceInfo| {
            let (record, marks) = (&info.record, &info.record.marks);
            InstanceEntry {
                id: record.id.id.clone(),
                scope: record.id.scope.to_string(),
                pid: marks.pid,
                start: marks.start,
                cgroup: marks.cgroup.clone(),
                user_ns: marks.user_ns.ino,
                pid_ns: marks.pid_ns.ino,
                attached: record.attached,
                expires: record.expires,
                state: word(info.state).into(),
                key_serial: info.serial,
            }
        };
        Ok(self.instances()?.into_iter().map(entry).collect())
    }
}

/// A container's scope by its name.
fn named(name: &str) -> Result<Scope, Fault> {
    Scope::container(name).map_err(|error| Fault::Usage(error.to_string()))
}

fn undeclared(error: VaultError, scope: &Scope) -> Fault {
    match error {
        VaultError::NotFound => Fault::NotFound(format!("the scope '{scope}' is not declared (pinfold scope add)")),
        other => other.into(),
    }
}

/// The word for a key's state.
pub(super) fn word(state: ScopeState) -> &'static str {
    match state {
        ScopeState::Alive => "alive",
        ScopeState::Missing => "missing",
        ScopeState::Revoked => "revoked",
        ScopeState::Expired => "expired",
    }
}
