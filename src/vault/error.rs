//! Why the vault did not do what was asked. `fs::fuse` makes an errno of it, the control socket a [`Fault`].

use crate::access::Denial;
use crate::meter::Exhausted;
use crate::model::{AclError, PathError};
use crate::seal::SealError;
use crate::store::StoreError;
use crate::sys::arena::ArenaFull;
use crate::view::ViewError;
use crate::wire::Fault;
use thiserror::Error;

/// One variant for each thing a caller does differently.
#[derive(Debug, Error)]
pub enum VaultError {
    /// The judge said no.
    #[error("{0}")]
    Denied(Denial),
    /// The store is locked.
    #[error("the store is locked")]
    Locked,
    /// No such name, inode or version.
    #[error("not found")]
    NotFound,
    /// The name is taken.
    #[error("it exists already")]
    Exists,
    /// A directory was wanted.
    #[error("not a directory")]
    NotADirectory,
    /// A file was wanted.
    #[error("is a directory")]
    IsADirectory,
    /// The directory has entries.
    #[error("the directory is not empty")]
    NotEmpty,
    /// From one scope to another.
    #[error("a secret cannot be moved from one scope to another")]
    CrossScope,
    /// Hard links, devices, the tree's own files, scopes that are not declared.
    #[error("not permitted: {0}")]
    NotPermitted(&'static str),
    /// For root, and for whoever proves that he can open the store.
    #[error("{0}")]
    Unproven(String),
    /// Content, a value or a combination was refused, with the reason.
    #[error("refused: {0}")]
    Invalid(String),
    /// A view cannot be composed now: a source is missing, or is not what the view needs.
    #[error("it cannot be composed: {0}")]
    NotComposed(String),
    /// A name or path that cannot be.
    #[error(transparent)]
    BadName(#[from] PathError),
    /// An ACL that cannot be.
    #[error(transparent)]
    BadAcl(#[from] AclError),
    /// The attribute is not there.
    #[error("no such attribute")]
    NoAttribute,
    /// An attribute of a kind that is not kept here.
    #[error("attributes of this kind are not kept")]
    UnknownAttribute,
    /// The content is larger than a secret may be.
    #[error("larger than a secret may be ({max} bytes)")]
    TooBig {
        /// The bound.
        max: u64,
    },
    /// The bound of secrets, of attributes, or the disk was reached.
    #[error("no room: {0}")]
    NoSpace(&'static str),
    /// A bound of what can be used up was reached.
    #[error(transparent)]
    Exhausted(#[from] Exhausted),
    /// A stored value failed its authentication.
    #[error("damaged: {0}")]
    Damaged(String),
    /// The locked memory is used up.
    #[error(transparent)]
    ArenaFull(#[from] ArenaFull),
    /// The audit log cannot be written, and nothing happens unrecorded.
    #[error("cannot record it: {0}")]
    NotRecorded(String),
    /// It is locked, as was asked for, but the audit log does not say so.
    #[error("it is locked, but that is not recorded: {0}")]
    LockedUnrecorded(String),
    /// The store failed.
    #[error("{0}")]
    Failed(String),
    /// There is nothing to do.
    #[error("nothing to do: {0}")]
    NothingToDo(&'static str),
    /// What was given does not open the store.
    #[error("{0}")]
    WrongKey(String),
}

impl VaultError {
    /// Whether it refuses what was asked for, and is not in the log yet: a denial is recorded where it is decided, so is
    /// what could not be recorded; what merely cannot be (no such name) is no decision.
    pub(crate) fn is_unrecorded_refusal(&self) -> bool {
        match self {
            VaultError::CrossScope
            | VaultError::NotPermitted(_)
            | VaultError::Invalid(_)
            | VaultError::NotComposed(_)
            | VaultError::BadAcl(_)
            | VaultError::TooBig { .. }
            | VaultError::NoSpace(_)
            | VaultError::Exhausted(_)
            | VaultError::Damaged(_)
            | VaultError::ArenaFull(_)
            | VaultError::Failed(_) => true,
            VaultError::Denied(_)
            | VaultError::Unproven(_)
            | VaultError::NotRecorded(_)
            | VaultError::LockedUnrecorded(_)
            | VaultError::Locked
            | VaultError::NotFound
            | VaultError::Exists
            | VaultError::NotADirectory
            | VaultError::IsADirectory
            | VaultError::NotEmpty
            | VaultError::BadName(_)
            | VaultError::NoAttribute
            | VaultError::UnknownAttribute
            | VaultError::NothingToDo(_)
            | VaultError::WrongKey(_) => false,
        }
    }
}

impl From<Denial> for VaultError {
    fn from(denial: Denial) -> Self {
        VaultError::Denied(denial)
    }
}

impl From<ViewError> for VaultError {
    fn from(error: ViewError) -> Self {
        match error {
            ViewError::Definition(what) => VaultError::Invalid(what),
            ViewError::TooBig { max } => VaultError::TooBig { max: max as u64 },
            ViewError::ArenaFull(full) => VaultError::ArenaFull(full),
            ViewError::Template { .. } | ViewError::Missing(_) | ViewError::Content { .. } | ViewError::Mismatch => {
                VaultError::NotComposed(error.to_string())
            }
        }
    }
}

impl From<StoreError> for VaultError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NoSpace => VaultError::NoSpace("the disk is full"),
            StoreError::Damaged(what) | StoreError::BadBackup(what) | StoreError::UnknownFormat(what) => {
                VaultError::Damaged(what)
            }
            StoreError::Exists(_) | StoreError::InUse { .. } | StoreError::Unsafe { .. } => {
                VaultError::Invalid(error.to_string())
            }
            StoreError::NotAStore(_) | StoreError::Io(_) | StoreError::Failed(_) => {
                VaultError::Failed(error.to_string())
            }
        }
    }
}

impl From<SealError> for VaultError {
    fn from(error: SealError) -> Self {
        match error {
            SealError::ArenaFull(full) => VaultError::ArenaFull(full),
            SealError::WrongPassphrase | SealError::NotHere(_) => VaultError::WrongKey(error.to_string()),
            SealError::Tampered(_) | SealError::Format(_) | SealError::NotForThisKey(_) | SealError::NotGranted => {
                VaultError::Damaged(error.to_string())
            }
        }
    }
}

impl From<VaultError> for Fault {
    fn from(error: VaultError) -> Self {
        let text = error.to_string();
        match error {
            VaultError::Denied(Denial::NoKey) | VaultError::Locked => Fault::Locked(text),
            VaultError::Unproven(reason) => Fault::Unproven(reason),
            VaultError::Denied(_)
            | VaultError::Exists
            | VaultError::NotADirectory
            | VaultError::IsADirectory
            | VaultError::NotEmpty
            | VaultError::CrossScope
            | VaultError::NotPermitted(_)
            | VaultError::Invalid(_)
            | VaultError::UnknownAttribute
            | VaultError::TooBig { .. }
            | VaultError::Exhausted(_)
            | VaultError::WrongKey(_) => Fault::Refused(text),
            VaultError::NotFound | VaultError::NoAttribute | VaultError::NotComposed(_) => Fault::NotFound(text),
            VaultError::BadName(_) | VaultError::BadAcl(_) => Fault::Usage(text),
            VaultError::Damaged(_) => Fault::Damaged(text),
            VaultError::NothingToDo(_) => Fault::NothingToDo(text),
            VaultError::NoSpace(_)
            | VaultError::ArenaFull(_)
            | VaultError::NotRecorded(_)
            | VaultError::LockedUnrecorded(_)
            | VaultError::Failed(_) => Fault::Failed(text),
        }
    }
}
