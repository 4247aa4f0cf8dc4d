//! Decided and recorded: every way to the judge, and to the log.

use super::node::Node;
use super::world::SystemWorld;
use super::{Caller, Vault, VaultError};
use crate::access::{self, Denial, Grant, Operation, ScopeState};
use crate::audit::{self, Decision, Event};
use crate::model::{CallerInfo, Ino, Subject};
use crate::store::AuditAnchor;

impl Vault {
    pub(super) fn judge<S: Subject + ?Sized>(
        &self,
        subject: &S,
        ino: Ino,
        node: &Node,
        scope: ScopeState,
        operation: Operation,
    ) -> Result<Grant, Denial> {
        let view = self.view(&node.scope);
        let acl = node.meta.acl.as_ref().map(|acl| view.shown_acl(acl));
        access::decide(subject, &node.object(ino, &view, acl.as_deref()), scope, &self.world(), operation)
    }

    /// What the judge asks beside who it is about.
    pub(super) fn world(&self) -> SystemWorld<'_> {
        SystemWorld { clock: &self.clock, mountpoint: &self.limits.mountpoint }
    }

    /// Decides a change of the tree, and records a refusal. What is allowed is recorded by [`Vault::record`].
    pub(super) fn allow(
        &self,
        caller: &impl Caller,
        ino: Ino,
        node: &Node,
        operation: Operation,
        event: audit::Operation,
        path: &str,
    ) -> Result<Grant, VaultError> {
        self.judge(caller, ino, node, ScopeState::Alive, operation).map_err(|denial| {
            self.refuse(event, path, None, &caller.who(), &denial.to_string());
            VaultError::Denied(denial)
        })
    }

    /// Writes down what is about to be done.
    pub(super) fn record(
        &self,
        op: audit::Operation,
        path: &str,
        version: Option<u64>,
        who: &CallerInfo,
        reason: &str,
    ) -> Result<(), VaultError> {
        let event = Event { op, path, version, who, decision: Decision::Allowed, reason, errno: None };
        self.audit.allowed(&event).map_err(|e| {
            let error = VaultError::NotRecorded(e.to_string());
            self.refuse(op, path, version, who, &error.to_string());
            error
        })
    }

    /// Writes down that something failed, if that was a refusal which nobody wrote down where it was decided.
    pub(super) fn recording<R>(
        &self,
        op: audit::Operation,
        path: &str,
        who: impl FnOnce() -> CallerInfo,
        result: Result<R, VaultError>,
    ) -> Result<R, VaultError> {
        if let Err(error) = &result
            && error.is_unrecorded_refusal()
        {
            self.refuse(op, path, None, &who(), &error.to_string());
        }
        result
    }

    /// Writes down what is refused. Never blocks.
    pub(super) fn refuse(
        &self,
        op: audit::Operation,
        path: &str,
        version: Option<u64>,
        who: &CallerInfo,
        reason: &str,
    ) {
        self.audit.refused(Event { op, path, version, who, decision: Decision::Denied, reason, errno: None });
    }

    pub(super) fn anchor(&self) -> AuditAnchor {
        let synced = self.audit.synced();
        AuditAnchor { count: synced.count, head: synced.head }
    }

    /// Records a refusal that another part of pinfold decided: a hard link, a device, a queue that is full.
    pub fn record_refusal(&self, op: audit::Operation, path: &str, who: &CallerInfo, reason: &str) {
        self.refuse(op, path, None, who, reason);
    }
}
