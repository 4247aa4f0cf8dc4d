//! Scopes of containers, and the instances that are attached to them.

use crate::access::ScopeState;
use crate::model::Scope;
use crate::vault::node::UidMap;
use crate::vault::{Attach as ToAttach, InstanceInfo, ScopeInfo, Vault, VaultError};
use crate::wire::{
    self, Actor, Attach, Attached, Detach, Done, Fault, InstanceEntry, InstanceListing, Instances, Removed, ScopeAdd,
    ScopeEntry, ScopeList, ScopeListing, ScopeRemove, Serve,
};
use std::time::Duration;

impl Serve<ScopeAdd> for Vault {
    fn serve(&self, actor: &Actor, add: ScopeAdd) -> Result<Done, Fault> {
        let caller = self.admin(actor)?;
        let uid_map = match add.uid_map.unwrap_or_default() {
            wire::UidMap::Auto => UidMap::Auto,
            wire::UidMap::Host => UidMap::Host,
        };
        let scope = named(&add.name)?;
        let added = self.add_scope(&caller, &scope, add.write.unwrap_or(false), uid_map);
        added.map(|()| Done {}).map_err(|error| match error {
            VaultError::Exists => Fault::Refused(format!("the scope '{scope}' is declared already")),
            other => other.into(),
        })
    }
}

impl Serve<ScopeRemove> for Vault {
    fn serve(&self, actor: &Actor, remove: ScopeRemove) -> Result<Removed, Fault> {
        let caller = self.admin(actor)?;
        let scope = named(&remove.name)?;
        let removed = self.remove_scope(&caller, &scope, remove.purge.unwrap_or(false));
        let (nodes, purged) = removed.map_err(|error| undeclared(error, &scope))?;
        Ok(Removed { nodes, purged })
    }
}

impl Serve<ScopeList> for Vault {
    fn serve(&self, actor: &Actor, ScopeList {}: ScopeList) -> Result<ScopeListing, Fault> {
        self.admin(actor)?;
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
        Ok(ScopeListing { scopes: self.declared_scopes()?.into_iter().map(entry).collect() })
    }
}

impl Serve<Attach> for Vault {
    fn serve(&self, actor: &Actor, attach: Attach) -> Result<Attached, Fault> {
        let caller = self.admin(actor)?;
        let scope = named(&attach.scope)?;
        let timeout = attach.timeout_seconds.map(Duration::from_secs);
        let attach = ToAttach { scope: &scope, pid: attach.pid, id: attach.id.as_deref(), timeout };
        let id = self.attach(&caller, attach).map_err(|error| undeclared(error, &scope))?;
        Ok(Attached { id })
    }
}

impl Serve<Detach> for Vault {
    fn serve(&self, actor: &Actor, asked: Detach) -> Result<Done, Fault> {
        let caller = self.admin(actor)?;
        self.detach(&caller, &asked.id).map(|()| Done {}).map_err(|error| match error {
            VaultError::NotFound => Fault::NotFound("no such instance is attached".into()),
            other => other.into(),
        })
    }
}

impl Serve<Instances> for Vault {
    fn serve(&self, actor: &Actor, Instances {}: Instances) -> Result<InstanceListing, Fault> {
        self.admin(actor)?;
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
        Ok(InstanceListing { instances: self.instances()?.into_iter().map(entry).collect() })
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
pub(in crate::vault) fn word(state: ScopeState) -> &'static str {
    match state {
        ScopeState::Alive => "alive",
        ScopeState::Missing => "missing",
        ScopeState::Revoked => "revoked",
        ScopeState::Expired => "expired",
    }
}
