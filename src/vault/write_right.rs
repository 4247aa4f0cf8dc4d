//! The right to change a secret's content: decided at the open, and again at each write and at the commit.

use super::cached_instance::Placed;
use super::node::Node;
use super::open::{MAX_TRIES, WhichVersion, denial_of};
use super::scopes::Holder;
use super::{Caller, Vault, VaultError};
use crate::access::{Denial, Grant, Operation, ScopeState};
use crate::audit;
use crate::caller::Known;
use crate::model::{CallerInfo, Ino, Kind};
use crate::secret::Secret;

/// That somebody may change a secret's content, and by whose entry it opens. What is true of the secret changes while he
/// writes: it is decided again at each write and at the commit, for him as he was when he opened it.
#[derive(Debug)]
pub struct WriteRight {
    pub(super) grant: Grant,
    pub(super) holder: Holder,
    pub(super) known: Known,
}

/// Whose the mode is that a secret has by now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModeIs {
    /// What it was, or what somebody else made of it.
    AsFound,
    /// The writer changed it himself since he opened it, as `cp -p` does before it closes: nobody took his right from him.
    HisOwn,
}

impl WriteRight {
    /// The secret.
    pub fn ino(&self) -> Ino {
        self.grant.ino()
    }

    /// By whose entry: the handle reads and commits only while that is alive.
    pub fn holder(&self) -> &Holder {
        &self.holder
    }
}

impl Vault {
    /// As [`Vault::open_write`], for the descriptor that made the file: its own mode does not count yet.
    ///
    /// # Errors
    /// [`VaultError::Denied`].
    pub fn open_new(&self, caller: &impl Caller, ino: Ino) -> Result<WriteRight, VaultError> {
        self.open_to_change(caller, ino, Operation::WriteNew)
    }

    /// Decides whether a caller may change a secret's content. Recorded when it is committed.
    ///
    /// # Errors
    /// [`VaultError::Denied`].
    pub fn open_write(&self, caller: &impl Caller, ino: Ino) -> Result<WriteRight, VaultError> {
        self.open_to_change(caller, ino, Operation::Write)
    }

    /// Records that a caller was let in to write: what comes of it is recorded when it is committed, and perhaps nothing does. Without the
    /// version, so that who opens again and again leaves a line and a sum.
    ///
    /// # Errors
    /// [`VaultError::NotRecorded`]: then it is not open.
    pub fn record_open_to_write(&self, caller: &impl Caller, right: &WriteRight) -> Result<(), VaultError> {
        let (_, path) = self.node_and_path(right.ino())?;
        let reason = format!("{}, to write", right.grant.rule());
        self.record(audit::Operation::Open, &path, None, &caller.who(), &reason)
    }

    fn open_to_change(&self, caller: &impl Caller, ino: Ino, operation: Operation) -> Result<WriteRight, VaultError> {
        let (node, path) = self.node_and_path(ino)?;
        let right = self.right_to_change(caller, (ino, &node), &path, operation);
        if let Err(VaultError::Denied(denial)) = &right {
            self.follow_revocation(&self.holder(caller, &node.scope), denial);
        }
        right
    }

    /// Decides it for a node that the tree may not have yet; a refusal is recorded. Takes no lock.
    pub(super) fn right_to_change(
        &self,
        caller: &impl Caller,
        (ino, node): (Ino, &Node),
        path: &str,
        operation: Operation,
    ) -> Result<WriteRight, VaultError> {
        if node.kind != Kind::File {
            return Err(VaultError::IsADirectory);
        }
        if node.is_view() {
            let error = VaultError::NotPermitted("a view is composed: change what it is composed from");
            self.refuse(audit::Operation::Commit, path, None, &caller.who(), &error.to_string());
            return Err(error);
        }
        let placed = Placed::new(caller);
        match self.grant_placed(&placed, ino, node, operation) {
            Ok((grant, holder, _)) => Ok(WriteRight { grant, holder, known: Known::of(&placed) }),
            Err((denial, _)) => {
                self.refuse(audit::Operation::Commit, path, None, &caller.who(), &denial.to_string());
                Err(denial.into())
            }
        }
    }

    /// Whether who opened it for writing may still write: by the secret's owner, mode and ACL of this moment, for him as he was
    /// then. Nothing is asked of a process. What has no name any more is his alone.
    ///
    /// # Errors
    /// [`VaultError::Denied`]; it is on record, with `who`.
    pub fn still_may_write(&self, right: &WriteRight, who: &CallerInfo, mode: ModeIs) -> Result<(), VaultError> {
        let (node, path) = match self.node_and_path(right.ino()) {
            Err(VaultError::NotFound) => return Ok(()),
            found => found?,
        };
        self.decide_again(right, &node, mode).map(|_| ()).map_err(|denial| {
            self.refuse(audit::Operation::Commit, &path, None, who, &denial.to_string());
            denial.into()
        })
    }

    pub(super) fn decide_again(&self, right: &WriteRight, node: &Node, mode: ModeIs) -> Result<Grant, Denial> {
        let operation = match mode {
            ModeIs::AsFound => right.grant.operation(),
            ModeIs::HisOwn => Operation::WriteNew,
        };
        self.judge(&right.known, right.ino(), node, ScopeState::Alive, operation).map_err(|denial| {
            // Whoever was cut off is nobody inside any more: that is the reason then.
            self.kek(&right.holder).err().map_or(denial, denial_of)
        })
    }

    /// The content a change begins with, and its version, 0 for none. The grant is one for writing: whether it may be
    /// shown is another question.
    ///
    /// # Errors
    /// [`VaultError::Damaged`], [`VaultError::Denied`] if the scope's key is gone.
    pub fn base(&self, right: &WriteRight) -> Result<(Secret, u64), VaultError> {
        let grant = &right.grant;
        let mut tries = 0;
        loop {
            let node = self.node(grant.ino())?;
            let kek = self.kek(&right.holder).map_err(|state| VaultError::Denied(denial_of(state)))?;
            let version = node.current();
            match self.decrypt(grant, &kek, version) {
                Err(_) if tries < MAX_TRIES && self.was_replaced(grant.ino(), WhichVersion::Current, version)? => {
                    tries += 1
                }
                result => return Ok((result?, version.map_or(0, |v| v.number.0))),
            }
        }
    }
}
