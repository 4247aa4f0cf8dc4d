//! Opening: the decision, the record, and only then the content.

use super::cached_instance::Placed;
use super::look::Stands;
use super::node::{Node, Version};
use super::scopes::Holder;
use super::{Caller, Vault, VaultError};
use crate::access::{self, Denial, Grant, Operation, ScopeState};
use crate::audit;
use crate::model::{Ino, Kind, Scope, Subject, VersionNo};
use crate::seal;
use crate::secret::{Kek, Secret};
use crate::store::BlobKey;

/// How often an open begins anew because a commit was faster.
pub(super) const MAX_TRIES: u32 = 64;

/// Which version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WhichVersion {
    /// The one readers get now.
    Current,
    /// The one with this content, whatever its number is by now.
    Blob(BlobKey),
    /// The one with this number.
    Number(u64),
    /// None: what a file is before its first commit.
    Nothing,
}

impl WhichVersion {
    fn of(self, node: &Node) -> Result<Option<&Version>, VaultError> {
        match self {
            WhichVersion::Current => Ok(node.current()),
            WhichVersion::Blob(key) => {
                node.versions.iter().find(|v| v.blob == key).map(Some).ok_or(VaultError::NotFound)
            }
            WhichVersion::Number(n) => {
                node.versions.iter().find(|v| v.number.0 == n).map(Some).ok_or(VaultError::NotFound)
            }
            WhichVersion::Nothing => Ok(None),
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

impl Vault {
    /// Opens a secret for reading. The event is in the log before this returns.
    ///
    /// # Errors
    /// [`VaultError::Denied`] with the reason; [`VaultError::Damaged`] if the blob is not what was committed;
    /// [`VaultError::NotRecorded`].
    pub fn open_read(&self, caller: &impl Caller, ino: Ino) -> Result<Opened, VaultError> {
        self.open_as(caller, ino, WhichVersion::Current, audit::Operation::Open)
    }

    /// As [`Vault::open_read`], for one who came through the mount: also the way there is asked, as without capabilities.
    ///
    /// # Errors
    /// As [`Vault::open_read`].
    pub fn open_there(&self, caller: &impl Caller, ino: Ino) -> Result<Opened, VaultError> {
        self.open_reached(caller, ino, WhichVersion::Current)
    }

    /// As [`Vault::open_there`], of the version with this content; `None` for a file that was never written.
    ///
    /// # Errors
    /// As [`Vault::open_blob`].
    pub fn open_blob_there(&self, caller: &impl Caller, ino: Ino, blob: Option<BlobKey>) -> Result<Opened, VaultError> {
        self.open_reached(caller, ino, blob.map_or(WhichVersion::Nothing, WhichVersion::Blob))
    }

    fn open_reached(&self, caller: &impl Caller, ino: Ino, wanted: WhichVersion) -> Result<Opened, VaultError> {
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
        wanted: WhichVersion,
        op: audit::Operation,
    ) -> Result<Opened, VaultError> {
        self.open_granted(caller, ino, wanted, op, |node| self.grant(caller, ino, node, Operation::Read))
    }

    /// Opens what `grant` allows: the record and the content are the same whoever decides.
    pub(super) fn open_granted(
        &self,
        caller: &impl Caller,
        ino: Ino,
        wanted: WhichVersion,
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
        let wanted = blob.map_or(WhichVersion::Nothing, WhichVersion::Blob);
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
        self.open_as(caller, ino, blob.map_or(WhichVersion::Nothing, WhichVersion::Blob), audit::Operation::Open)
    }

    /// As [`Vault::open_read`], of the version with this number; 0 for a file that was never written.
    ///
    /// # Errors
    /// As [`Vault::open_read`]; [`VaultError::NotFound`] if that version is not kept any more.
    pub fn open_version(&self, caller: &impl Caller, ino: Ino, number: u64) -> Result<Opened, VaultError> {
        let wanted = if number == 0 { WhichVersion::Nothing } else { WhichVersion::Number(number) };
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

    /// Whether the version that was looked for is another one by now, or sealed anew: then its blob is rightly gone, and
    /// nothing is damaged. Waits for a commit that may be under way: the disk has the new version before the tree shows
    /// it.
    pub(super) fn was_replaced(
        &self,
        ino: Ino,
        wanted: WhichVersion,
        version: Option<&Version>,
    ) -> Result<bool, VaultError> {
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

    pub(super) fn grant_placed<S: Subject + ?Sized>(
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
