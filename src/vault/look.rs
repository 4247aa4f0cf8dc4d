//! Looking: what a directory's mode protects beside content, the way to a node, and what the kernel refused by itself.
//!
//! The kernel lets root and two capabilities pass every directory; here they count for nothing. Nothing that is allowed is
//! recorded, what is refused is.

use super::node::Node;
use super::view::View;
use super::{Caller, Vault, VaultError, WriteRight};
use crate::access::{self, Denial, Object, Operation, Rule, ScopeState, Way};
use crate::audit;
use crate::model::{CONDITION_PREFIX, Doubt, Ino, Kind, Scope};
use std::borrow::Cow;
use std::sync::Arc;

/// What somebody wants to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look<'a> {
    /// A directory's entries.
    Entries,
    /// Where a symlink leads.
    Target,
    /// The value of an extended attribute, or an ACL.
    Attribute(&'a str),
    /// The names of the extended attributes.
    Attributes,
}

/// What is known of where a caller stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stands {
    /// Inside the container that the node is for, if it is for one: the judge has found so.
    InItsScope,
    /// Nothing.
    Anywhere,
}

impl Look<'_> {
    fn operation(self) -> Operation {
        match self {
            Look::Entries => Operation::List,
            Look::Target | Look::Attributes => Operation::Look,
            Look::Attribute(name) if name.starts_with(CONDITION_PREFIX) => Operation::ReadCondition,
            Look::Attribute(name) if name.starts_with("user.") => Operation::ReadAttribute,
            Look::Attribute(_) => Operation::Look,
        }
    }

    fn event(self) -> audit::Operation {
        match self {
            Look::Entries => audit::Operation::List,
            Look::Target => audit::Operation::ReadLink,
            Look::Attribute(_) => audit::Operation::GetXattr,
            Look::Attributes => audit::Operation::ListXattr,
        }
    }
}

/// What a caller was about when the kernel asked for a node's attributes: one call that it may have been.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The call, for the log: `open O_RDWR`, `unlink`.
    pub call: Cow<'static, str>,
    /// What it asks of a file.
    pub file: &'static [Operation],
    /// What it asks of a directory that it ends in or walks through.
    pub directory: &'static [Operation],
}

impl Vault {
    /// Whether a caller may look, as if it had no capabilities; a refusal is recorded. `asks` says whether the caller itself
    /// asks for an ACL: the kernel does too, before it decides, and is answered.
    ///
    /// # Errors
    /// [`VaultError::Denied`], [`VaultError::Locked`], [`VaultError::NotFound`].
    pub fn may_look(
        &self,
        caller: &impl Caller,
        ino: Ino,
        look: Look<'_>,
        asks: impl FnOnce() -> bool,
    ) -> Result<(), VaultError> {
        let node = self.node(ino)?;
        let judged = self.judge(caller, ino, &node, ScopeState::Alive, look.operation());
        let reached = judged.and_then(|grant| match grant.rule() {
            Rule::Admin => Ok(()),
            _ => self.reach(caller, ino, &node, Stands::Anywhere),
        });
        let Err(denial) = reached else { return Ok(()) };
        // Who is to change a list, as an admin may, has to see it.
        let acl = matches!(look, Look::Attribute(name) if !name.starts_with("user."));
        if acl && (matches!(caller.is_admin(), Ok(true)) || !asks()) {
            return Ok(());
        }
        self.refuse(look.event(), &self.path_of(ino, None), None, &caller.who(), &denial.to_string());
        Err(denial.into())
    }

    /// Whether a caller whom the judge lets change a secret's content could have come to it without a capability; a refusal is
    /// recorded.
    ///
    /// # Errors
    /// [`VaultError::Denied`], [`VaultError::Locked`], [`VaultError::NotFound`].
    pub fn may_reach_to_write(&self, caller: &impl Caller, right: &WriteRight) -> Result<(), VaultError> {
        let ino = right.ino();
        if matches!(right.grant.rule(), Rule::Admin | Rule::Daemon) {
            return Ok(());
        }
        let node = self.node(ino)?;
        self.reach(caller, ino, &node, Stands::InItsScope).map_err(|denial| {
            self.refuse(audit::Operation::Commit, &self.path_of(ino, None), None, &caller.who(), &denial.to_string());
            denial.into()
        })
    }

    /// Whether a caller could have come to a node without a capability.
    pub(super) fn reach(&self, caller: &impl Caller, ino: Ino, node: &Node, stands: Stands) -> Result<(), Denial> {
        let unknown = |_| Denial::Doubt(Doubt("where it is in the tree".into()));
        if self.is_open_to(caller, ino, node, stands).map_err(unknown)? {
            return Ok(());
        }
        let above: Vec<(Ino, Arc<Node>, View)> = self
            .with_open(|open| {
                let view = |node: &Arc<Node>| open.scopes.view(&node.scope);
                let mut above: Vec<_> =
                    open.tree.above(ino).map(|(ino, node)| (ino, Arc::clone(node), view(node))).collect();
                above.reverse();
                above
            })
            .map_err(unknown)?;
        let lists: Vec<_> =
            above.iter().map(|(_, n, view)| n.meta.acl.as_ref().map(|acl| view.shown_acl(acl))).collect();
        let directories: Vec<Object<'_>> =
            above.iter().zip(&lists).map(|((ino, node, view), acl)| node.object(*ino, view, acl.as_deref())).collect();
        let path = self.path_of(ino, None);
        let way = Way { directories: &directories, path: &path, scope: &node.scope };
        access::may_reach(caller, &way, &self.world())
    }

    /// Whether the uid alone says that every directory above may be searched: the usual case, without a look at anything
    /// but the tree. For one who is inside the container that a secret is for, up to its folder.
    fn is_open_to(&self, caller: &impl Caller, ino: Ino, node: &Node, stands: Stands) -> Result<bool, VaultError> {
        let uid = caller.uid();
        let on_the_way = |directory: &Node| match (&node.scope, stands) {
            (Scope::Container(_), Stands::InItsScope) => directory.scope == node.scope,
            (Scope::Host, _) | (_, Stands::Anywhere) => true,
        };
        self.with_open(|open| {
            let mut above = open.tree.above(ino).take_while(|(_, directory)| on_the_way(directory));
            caller.is_daemon()
                || above.all(|(ino, directory)| match &directory.scope {
                    Scope::Host => {
                        access::is_open_to(uid, &directory.object(ino, &View::plain(), directory.meta.acl.as_ref()))
                    }
                    Scope::Container(_) => {
                        let view = open.scopes.view(&directory.scope);
                        let acl = directory.meta.acl.as_ref().map(|acl| view.shown_acl(acl));
                        access::is_open_to(uid, &directory.object(ino, &view, acl.as_deref()))
                    }
                })
        })
    }

    /// A probe: the kernel looked at a node before it refused something, or somebody merely looked. `attempts` says what
    /// the caller may be about; it is asked only of one who may not do everything. What of it would be refused is recorded.
    pub fn probe(&self, caller: &impl Caller, ino: Ino, attempts: impl FnOnce() -> Vec<Attempt>) {
        let Ok((node, path)) = self.node_and_path(ino) else { return };
        let judge = |operation| self.judge(caller, ino, &node, ScopeState::Alive, operation);
        let all: &[Operation] = match node.kind {
            Kind::File => &[Operation::Read, Operation::Write],
            Kind::Directory => &[Operation::Search, Operation::List, Operation::ChangeEntries],
            Kind::Symlink => return,
        };
        if all.iter().all(|operation| judge(*operation).is_ok()) {
            return;
        }
        // Whom the kernel lets pass a directory it did not refuse there; what he opens behind it is decided at the open.
        let passes = |operation| {
            node.kind == Kind::Directory
                && matches!(operation, Operation::Search | Operation::List)
                && matches!(caller.passes_directories(), Ok(true))
        };
        let refused = |attempt: Attempt| {
            let asked = if node.kind == Kind::Directory { attempt.directory } else { attempt.file };
            let refused = |operation: &Operation| judge(*operation).err().filter(|_| !passes(*operation));
            asked.iter().find_map(refused).map(|denial| (attempt.call, denial))
        };
        let refused: Vec<_> = attempts().into_iter().filter_map(refused).collect();
        let Some((_, denial)) = refused.first() else { return };
        // It was one call, whichever.
        let calls: Vec<&str> = refused.iter().map(|(call, _)| &**call).collect();
        let reason = format!("{}: {denial}", calls.join(" or "));
        self.refuse(audit::Operation::Probe, &path, None, &caller.who(), &reason);
    }
}
