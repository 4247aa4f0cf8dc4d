//! The one place where an errno is chosen.

use crate::access::Denial;
use crate::fs::FsError;
use crate::meter::{Exhausted, Resource, Whose};
use crate::model::{AclError, PathError};
use crate::vault::VaultError;
use fuser::Errno;

/// What the system call returns.
pub(super) fn of(error: &FsError) -> Errno {
    match error {
        FsError::Vault(error) => of_vault(error),
        FsError::Stale => Errno::from_i32(libc::ESTALE),
        FsError::WrongHandle => Errno::EBADF,
        FsError::Unsupported => Errno::EINVAL,
    }
}

/// The same, about a node that the kernel has by its number. One that has no name any more was replaced between the
/// kernel's LOOKUP and this: ESTALE makes it walk the path once more (and say ENOENT if there is nothing), so that nobody
/// misses a secret while it is renamed over.
pub(super) fn of_node(error: &FsError) -> Errno {
    match error {
        FsError::Vault(VaultError::NotFound) => Errno::from_i32(libc::ESTALE),
        other => of(other),
    }
}

/// The store is locked, or the scope's entry is not there.
pub(super) fn locked() -> Errno {
    Errno::from_i32(libc::ENOKEY)
}

fn of_vault(error: &VaultError) -> Errno {
    match error {
        VaultError::Denied(denial) => of_denial(denial),
        VaultError::Locked => locked(),
        VaultError::NotFound => Errno::ENOENT,
        VaultError::Exists => Errno::EEXIST,
        VaultError::NotADirectory => Errno::ENOTDIR,
        VaultError::IsADirectory => Errno::EISDIR,
        VaultError::NotEmpty => Errno::from_i32(libc::ENOTEMPTY),
        VaultError::CrossScope => Errno::EXDEV,
        VaultError::NotPermitted(_) | VaultError::Unproven(_) => Errno::EPERM,
        VaultError::Invalid(_) | VaultError::NothingToDo(_) | VaultError::WrongKey(_) => Errno::EINVAL,
        VaultError::BadName(PathError::TooLong) => Errno::from_i32(libc::ENAMETOOLONG),
        VaultError::BadName(PathError::NotUtf8) => Errno::from_i32(libc::EILSEQ),
        VaultError::BadName(PathError::NotAName | PathError::Nul) => Errno::EINVAL,
        VaultError::BadAcl(AclError::TooMany) => Errno::ENOSPC,
        VaultError::BadAcl(AclError::Malformed | AclError::Invalid) => Errno::EINVAL,
        VaultError::NotComposed(_) => Errno::from_i32(libc::ENODATA),
        VaultError::NoAttribute => Errno::from_i32(libc::ENODATA),
        VaultError::UnknownAttribute => Errno::from_i32(libc::EOPNOTSUPP),
        VaultError::TooBig { .. } => Errno::EFBIG,
        VaultError::NoSpace(_) => Errno::ENOSPC,
        VaultError::Exhausted(exhausted) => of_exhausted(exhausted),
        VaultError::Damaged(_) => Errno::from_i32(libc::EBADMSG),
        VaultError::ArenaFull(_) => Errno::ENOMEM,
        VaultError::NotRecorded(_) | VaultError::LockedUnrecorded(_) | VaultError::Failed(_) => Errno::EIO,
    }
}

fn of_exhausted(exhausted: &Exhausted) -> Errno {
    let own = matches!(exhausted.whose, Whose::Own(_));
    match exhausted.resource {
        Resource::Handles if own => Errno::EMFILE,
        Resource::Handles => Errno::ENFILE,
        Resource::HandleBytes | Resource::Snapshots => Errno::ENOMEM,
        Resource::Secrets if !own => Errno::ENOSPC,
        Resource::DirtyCopies
        | Resource::CommitBytes
        | Resource::Secrets
        | Resource::StoredBytes
        | Resource::Versions
        | Resource::Removed
        | Resource::Upcalls => Errno::from_i32(libc::EDQUOT),
        Resource::Waiters => locked(),
        Resource::Delayed
        | Resource::Opens
        | Resource::Commits
        | Resource::CommitRate
        | Resource::Refusals
        | Resource::Credentials
        | Resource::Control
        | Resource::ControlLarge
        | Resource::ControlLog => Errno::EAGAIN,
    }
}

fn of_denial(denial: &Denial) -> Errno {
    match denial {
        Denial::NotAllowed(_)
        | Denial::OutOfReach { .. }
        | Denial::OutsideScope
        | Denial::ReadOnlyScope
        | Denial::Unit { .. }
        | Denial::Exe { .. }
        | Denial::Label { .. }
        | Denial::Doubt(_) => Errno::EACCES,
        Denial::NotOwner | Denial::NotAdmin => Errno::EPERM,
        Denial::NoKey => locked(),
        Denial::KeyRevoked => Errno::from_i32(libc::EKEYREVOKED),
        Denial::KeyExpired => Errno::from_i32(libc::EKEYEXPIRED),
    }
}
