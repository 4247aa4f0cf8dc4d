//! Opening: the decision, the record, and only then the content.

use super::cached_instance::Placed;
use super::look::Stands;
use super::node::{Node, Version};
use super::scopes::Holder;
use super::{Caller, Vault, VaultError};
use crate::access::{self, Denial, Grant, Operation, ScopeState};
use crate::audit;
use crate::caller::Known;
use crate::model::{Ino, Kind, Scope, Subject, VersionNo, Who};
use crate::seal;
use crate::secret::{Kek, Secret};
use crate::store::BlobKey;

/// How often an open begins anew because a commit was faster.
const MAX_TRIES: u32 = 64;

/// Which version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// The one readers get now.
    Current,
    /// The one with this content, whatever its number is by now.
    Blob(BlobKey),
    /// The one with this number.
    Number(u64),
    /// None: what a file is before its first commit.
    Nothing,
}

impl Wanted {
    fn of(self, node: &Node) -> Result<Option<&Version>, VaultError> {
        match self {
            Wanted::Current => Ok(node.current()),
            Wanted::Blob(key) => node.versions.iter().find(|v| v.blob == key).map(Some).ok_or(VaultError::NotFound),
            Wanted::Number(n) => node.versions.iter().find(|v| v.number.0 == n).map(Some).ok_or(VaultError::NotFound),
            Wanted::Nothing => Ok(None),
        }
    }
}

/// A secret, opened for a reader: the version that was current, whole.
#[derive(Debug)]
pub struct Opened {
    /// The plaintext; dropped with the handle.
    pub content: Secret,
    /// Which version; `None` for a file that was never written.
    pub version: Option<VersionNo>,
    /// Where its content is; `None` as for the version.
    pub blob: Option<BlobKey>,
    /// By whose entry it was opened: the handle reads on only while that is alive.
    pub holder: Holder,
}

impl Opened {
    /// Content that is no secret: a file of pinfold's own, or one that was never written.
    pub fn own(content: Secret) -> Self {
        Opened { content, version: None, blob: None, holder: Holder::daemon(&Scope::Host) }
    }
}

/// What a reader would be shown now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Showing {
    /// This version's content; `None` before the first.
    Version(Option<BlobKey>),
    /// A view.
    Composed {
        /// Whether it says the same each time, as long as its sources do.
        lasting: bool,
    },
}

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
    /// Opens a secret for reading. The event is in the log before this returns.
    ///
    /// # Errors
    /// [`VaultError::Denied`] with the reason; [`VaultError::Damaged`] if the blob is not what was committed;
    /// [`VaultError::NotRecorded`].
    pub fn open_read(&self, caller: &impl Caller, ino: Ino) -> Result<Opened, VaultError> {
        self.open_as(caller, ino, Wanted::Current, audit::Operation::Open)
    }

    /// As [`Vault::open_read`], for one who came through the mount: also the way there is asked, as without capabilities.
    ///
    /// # Errors
    /// As [`Vault::open_read`].
    pub fn open_there(&self, caller: &impl Caller, ino: Ino) -> Result<Opened, VaultError> {
        self.open_reached(caller, ino, Wanted::Current)
    }

    /// As [`Vault::open_there`], of the version with this content; `None` for a file that was never written.
    ///
    /// # Errors
    /// As [`Vault::open_blob`].
    pub fn open_blob_there(&self, caller: &impl Caller, ino: Ino, blob: Option<BlobKey>) -> Result<Opened, VaultError> {
        self.open_reached(caller, ino, blob.map_or(Wanted::Nothing, Wanted::Blob))
    }

    fn open_reached(&self, caller: &impl Caller, ino: Ino, wanted: Wanted) -> Result<Opened, VaultError> {
        self.open_granted(caller, ino, wanted, audit::Operation::Open, |node| {
            let granted = self.grant(caller, ino, node, Operation::Read)?;
            match self.reach(caller, ino, node, Stands::InItsScope) {
                Ok(()) => Ok(granted),
                Err(denial) => Err((denial, granted.1)),
            }
        })
    }

    /// As [`Vault::open_read`], of another version or under another operation's name in the log.
    pub(super) fn open_as(
        &self,
        caller: &impl Caller,
        ino: Ino,
        wanted: Wanted,
        op: audit::Operation,
    ) -> Result<Opened, VaultError> {
        self.open_granted(caller, ino, wanted, op, |node| self.grant(caller, ino, node, Operation::Read))
    }

    /// Opens what `grant` allows: the record and the content are the same whoever decides.
    pub(super) fn open_granted(
        &self,
        caller: &impl Caller,
        ino: Ino,
        wanted: Wanted,
        op: audit::Operation,
        grant: impl Fn(&Node) -> Result<(Grant, Holder, Kek), (Denial, Holder)>,
    ) -> Result<Opened, VaultError> {
        let mut tries = 0;
        loop {
            let (node, path) = self.node_and_path(ino)?;
            if node.kind != Kind::File {
                return Err(VaultError::IsADirectory);
            }
            if node.is_view() {
                return self.open_view(caller, ino, (&node, &path), wanted, op, grant);
            }
            let version = wanted.of(&node)?;
            let number = version.map(|v| v.number);
            let (grant, holder, kek) = match grant(&node) {
                Ok(all) => all,
                Err((denial, holder)) => {
                    self.refuse(op, &path, number.map(|n| n.0), &caller.who(), &denial.to_string());
                    self.follow_revocation(&holder, &denial);
                    return Err(denial.into());
                }
            };
            let content = match self.decrypt(&grant, &kek, version) {
                Ok(content) => content,
                Err(_) if tries < MAX_TRIES && self.was_replaced(ino, wanted, version)? => {
                    tries += 1;
                    continue;
                }
                Err(error) => {
                    self.refuse(op, &path, number.map(|n| n.0), &caller.who(), &error.to_string());
                    tracing::error!(%path, %error, "a secret does not open");
                    return Err(error);
                }
            };
            self.record(op, &path, number.map(|n| n.0), &caller.who(), &grant.rule().to_string())?;
            let blob = version.map(|v| v.blob);
            return Ok(Opened { content, version: number, blob, holder });
        }
    }

    /// Goes on with a handle that the daemon before this one opened: as it was decided then, by the entry it was opened by, on the
    /// content it had.
    ///
    /// # Errors
    /// [`VaultError::Denied`] if the secret has expired or that entry is not alive; [`VaultError::NotFound`] if that content is not kept
    /// any more; [`VaultError::Damaged`].
    pub fn resume(
        &self,
        caller: &impl Caller,
        ino: Ino,
        blob: Option<BlobKey>,
        instance: Option<Ino>,
    ) -> Result<Opened, VaultError> {
        let wanted = blob.map_or(Wanted::Nothing, Wanted::Blob);
        self.open_granted(caller, ino, wanted, audit::Operation::Read, |node| {
            let holder = Holder { scope: node.scope.clone(), instance };
            self.with_key(holder, |state| access::resume(ino, &node.meta.conditions(), state, &self.world()))
        })
    }

    /// As [`Vault::open_read`], of the version with this content; `None` for a file that was never written.
    ///
    /// # Errors
    /// As [`Vault::open_read`]; [`VaultError::NotFound`] if that version is not kept any more.
    pub fn open_blob(&self, caller: &impl Caller, ino: Ino, blob: Option<BlobKey>) -> Result<Opened, VaultError> {
        self.open_as(caller, ino, blob.map_or(Wanted::Nothing, Wanted::Blob), audit::Operation::Open)
    }

    /// As [`Vault::open_read`], of the version with this number; 0 for a file that was never written.
    ///
    /// # Errors
    /// As [`Vault::open_read`]; [`VaultError::NotFound`] if that version is not kept any more.
    pub fn open_version(&self, caller: &impl Caller, ino: Ino, number: u64) -> Result<Opened, VaultError> {
        let wanted = if number == 0 { Wanted::Nothing } else { Wanted::Number(number) };
        self.open_as(caller, ino, wanted, audit::Operation::Open)
    }

    /// The number of a secret's current version; 0 if it was never written.
    ///
    /// # Errors
    /// [`VaultError::NotFound`], [`VaultError::Locked`].
    pub fn current_version(&self, ino: Ino) -> Result<u64, VaultError> {
        Ok(self.node(ino)?.current().map_or(0, |v| v.number.0))
    }

    /// What whoever opens a secret for reading now is shown, if it is allowed to.
    ///
    /// # Errors
    /// [`VaultError::NotFound`], [`VaultError::Locked`].
    pub fn showing(&self, ino: Ino) -> Result<Showing, VaultError> {
        let node = self.node(ino)?;
        Ok(match &node.view {
            Some(view) => Showing::Composed { lasting: view.is_deterministic() },
            None => Showing::Version(node.current().map(|v| v.blob)),
        })
    }

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
    pub fn still_may_write(&self, right: &WriteRight, who: &Who, mode: ModeIs) -> Result<(), VaultError> {
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
                Err(_) if tries < MAX_TRIES && self.was_replaced(grant.ino(), Wanted::Current, version)? => tries += 1,
                result => return Ok((result?, version.map_or(0, |v| v.number.0))),
            }
        }
    }

    /// Whether the version that was looked for is another one by now, or sealed anew: then its blob is rightly gone, and
    /// nothing is damaged. Waits for a commit that may be under way: the disk has the new version before the tree shows
    /// it.
    fn was_replaced(&self, ino: Ino, wanted: Wanted, version: Option<&Version>) -> Result<bool, VaultError> {
        drop(self.lock_writer());
        Ok(wanted.of(&*self.node(ino)?).ok() != Some(version))
    }

    /// Whether a handle opened before may still be read: the entry it was opened by must be alive at this moment.
    ///
    /// # Errors
    /// [`VaultError::Denied`] says what became of the key.
    pub fn still_alive(&self, holder: &Holder) -> Result<(), VaultError> {
        match self.kek(holder) {
            Ok(_) => Ok(()),
            Err(state) => {
                let denial = denial_of(state);
                self.follow_revocation(holder, &denial);
                Err(denial.into())
            }
        }
    }

    /// Whether he may, by whose entry, and the key that it holds at this moment.
    pub(super) fn grant(
        &self,
        caller: &impl Caller,
        ino: Ino,
        node: &Node,
        op: Operation,
    ) -> Result<(Grant, Holder, Kek), (Denial, Holder)> {
        self.grant_placed(&Placed::new(caller), ino, node, op)
    }

    fn grant_placed<S: Subject + ?Sized>(
        &self,
        placed: &Placed<'_, S>,
        ino: Ino,
        node: &Node,
        op: Operation,
    ) -> Result<(Grant, Holder, Kek), (Denial, Holder)> {
        let holder = match node.scope {
            Scope::Host => Holder::daemon(&node.scope),
            Scope::Container(_) => self.holder(placed, &node.scope),
        };
        self.with_key(holder, |state| self.judge(placed, ino, node, state, op))
    }

    /// What `judge` makes of the entry's state at this moment, and the key that the entry holds then.
    fn with_key(
        &self,
        holder: Holder,
        judge: impl FnOnce(ScopeState) -> Result<Grant, Denial>,
    ) -> Result<(Grant, Holder, Kek), (Denial, Holder)> {
        let kek = self.kek(&holder);
        let state = kek.as_ref().err().copied().unwrap_or(ScopeState::Alive);
        match (judge(state), kek) {
            (Ok(grant), Ok(kek)) => Ok((grant, holder, kek)),
            (Ok(_), Err(state)) => Err((denial_of(state), holder)),
            (Err(denial), _) => Err((denial, holder)),
        }
    }

    /// Reads the KEK from the kernel, now, by this entry.
    pub(super) fn kek(&self, holder: &Holder) -> Result<Kek, ScopeState> {
        match (holder.instance, self.keys()) {
            (Some(instance), _) => self.instance_kek(instance),
            (None, Ok(keys)) => keys.kek(&holder.scope),
            (None, Err(_)) => Err(ScopeState::Missing),
        }
    }

    pub(super) fn decrypt(&self, grant: &Grant, kek: &Kek, version: Option<&Version>) -> Result<Secret, VaultError> {
        let Some(version) = version else { return Ok(Secret::zeroed(0)?) };
        let blob = self.store.blob(version.blob)?;
        let blob =
            blob.ok_or_else(|| VaultError::Damaged(format!("the blob of version {} is missing", version.number)))?;
        Ok(seal::open_blob(grant, grant.ino(), kek, &blob, &version.digest)?)
    }

    pub(super) fn follow_revocation(&self, holder: &Holder, denial: &Denial) {
        if *denial == Denial::KeyRevoked {
            match holder.instance {
                Some(instance) => self.note_instance_revoked(instance),
                None => self.note_revoked(&holder.scope),
            }
        }
    }
}

pub(super) fn denial_of(state: ScopeState) -> Denial {
    match state {
        ScopeState::Alive | ScopeState::Missing => Denial::NoKey,
        ScopeState::Revoked => Denial::KeyRevoked,
        ScopeState::Expired => Denial::KeyExpired,
    }
}
