//! How the daemon is: what `status`, `.pinfold` and the metrics say.

use super::serve::word;
use super::{State, Vault};
use crate::meter::Resource;
use crate::model::Scope;
use crate::wire::{LimitStatus, ScopeStatus, Status};

impl Vault {
    /// How the daemon is. Asked by itself, for `.pinfold`, and by whoever may.
    pub(crate) fn present(&self) -> Status {
        let observer = self.observer.get();
        let (arena_used, arena_size) = crate::sys::arena::usage();
        let (head, room) = (self.audit.head(), self.audit.room());
        let mut status = Status {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            uptime: self.started.elapsed().as_secs(),
            store: self.store.dir().display().to_string(),
            mountpoint: self.limits.mountpoint.display().to_string(),
            max_secrets: self.limits.max_secrets,
            open_handles: observer.map_or(0, |o| o.open_handles()),
            waiting: observer.map_or(0, |o| o.waiting()),
            arena_used: arena_used as u64,
            arena_size: arena_size as u64,
            audit_head: head.head_hex(),
            audit_count: head.count,
            audit_full: room.full,
            audit_reserve: room.left,
            audit_unrecorded: self.audit.unrecorded(),
            ..Status::default()
        };
        status.limits = self.limits_used();
        (status.hosts, status.hosts_waiting, status.hosts_failing) = self.export_counts();
        match &*self.read_state() {
            State::Locked { at, .. } => {
                status.locked = true;
                status.locked_since = Some(*at);
            }
            State::Unlocked(open) => {
                status.generation = self.store.generation().map(|g| g.0);
                status.secrets = Some(open.tree.files());
                status.versions = Some(open.tree.nodes().map(|(_, n)| n.versions.len() as u64).sum());
                let alive = open.scopes.count_alive();
                let scope = |scope: &Scope, serial| ScopeStatus {
                    name: scope.to_string(),
                    key: word(open.keys.state(scope)).into(),
                    serial,
                    instances: alive.get(scope).copied().unwrap_or(0),
                };
                status.scopes = open.keys.scopes.iter().map(|(name, entry)| scope(name, entry.serial())).collect();
                status.quantum = Some(open.keys.recovery.quantum().into());
                status.certificates = self.certificate_status();
                status.scopes.sort_by(|a, b| a.name.cmp(&b.name));
            }
        }
        status
    }

    /// What is used of everything that has a bound.
    fn limits_used(&self) -> Vec<LimitStatus> {
        let kept = |resource| {
            let of = |tree: &super::tree::Tree| (tree.kept().all().get(resource), tree.kept().most(resource));
            self.with_tree(of).unwrap_or_default()
        };
        let refusals = self.audit.waiting();
        let kept = |resource| match resource {
            // Counted by the log's own queue.
            Resource::Refusals => (refusals.kinds, refusals.most),
            _ => kept(resource),
        };
        let status = |usage: crate::meter::Usage| LimitStatus {
            name: usage.resource.row().name.into(),
            used: usage.used,
            most: usage.most,
            limit: usage.share,
            refused: if usage.resource == Resource::Refusals { refusals.beyond } else { usage.refused },
        };
        self.meter.usage(kept).into_iter().map(status).collect()
    }
}
