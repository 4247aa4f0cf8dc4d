//! What the control socket wants from the core beside the answers to single calls: who is let in, and what comes in a stream.
//!
//! Owns the trait only; `vault` is behind it in the daemon, a fake in tests.

use super::{BackupReport, Fault, LogPlace, LogRead, LogVerified, Right};
use crate::secret::Secret;
use std::io::{self, Write};

/// Who is at the other end of the socket, from SO_PEERCRED: as it was when it connected, in the namespaces of the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Actor {
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
    /// Process id; it was still running when the request came in.
    pub pid: i32,
    /// Whether it proved, for this one call, that it can open the store.
    pub proven: bool,
}

impl Actor {
    /// Somebody who proved nothing.
    pub fn new(uid: u32, gid: u32, pid: i32) -> Self {
        Actor { uid, gid, pid, proven: false }
    }

    /// The same, with proof.
    pub fn with_proof(self) -> Self {
        Actor { proven: true, ..self }
    }

    /// Whether he may do what widens who may read what is there: root, or an operator with proof.
    pub fn may_widen(&self) -> bool {
        self.uid == 0 || self.proven
    }
}

/// What opens the store.
#[derive(Debug)]
pub enum UnlockWith {
    /// The passphrase of `identity.age`, verbatim.
    Passphrase(Secret),
    /// The text of an unencrypted identity file.
    Identity(Secret),
    /// The text of a recovery identity.
    Recovery(Secret),
}

impl UnlockWith {
    /// The one that is there.
    ///
    /// # Errors
    /// [`Fault::Usage`] if there is none, or more than one.
    pub fn one_of(
        passphrase: Option<Secret>,
        identity: Option<Secret>,
        recovery: Option<Secret>,
    ) -> Result<UnlockWith, Fault> {
        match (passphrase, identity, recovery) {
            (Some(passphrase), None, None) => Ok(UnlockWith::Passphrase(passphrase)),
            (None, Some(identity), None) => Ok(UnlockWith::Identity(identity)),
            (None, None, Some(recovery)) => Ok(UnlockWith::Recovery(recovery)),
            _ => Err(Fault::Usage("give exactly one of passphrase, identity and recovery".into())),
        }
    }
}

/// Who is let in, and what is answered in a stream. Each call was let in by the socket (uid 0, or a member of `operator_group`, with the right that
/// the method wants); where he really is (namespaces) is for the implementation to ask, through the actor's pid. Each audits itself.
///
/// # Errors
/// A [`Fault`] is what the caller is told; its reason names no content.
pub trait Admin: Send + Sync {
    /// Whether he may be answered at all: uid 0 or an operator, and where that counts. A refusal is recorded.
    fn enter(&self, actor: &Actor) -> Result<(), Fault>;
    /// Whether the caller has the right that this method needs. A refusal is recorded, with the method.
    fn permit(&self, actor: &Actor, right: Right, method: &str) -> Result<(), Fault>;
    /// Whether that opens the store; [`Fault::Refused`] if not. Either is recorded.
    fn prove(&self, actor: &Actor, with: UnlockWith) -> Result<(), Fault>;
    /// Hands the log's lines to `each` and says where the next will begin. `each` blocks for as long as its reader takes; an error of
    /// it, or `wanted` that says no, ends the reading.
    fn log_read(
        &self,
        _: &Actor,
        _: LogRead,
        _wanted: &mut dyn FnMut() -> bool,
        _each: &mut dyn FnMut(&str) -> io::Result<()>,
    ) -> Result<LogPlace, Fault> {
        Err(Fault::not_here())
    }
    /// Checks the log; what is wrong is in the report, not a fault. It ends when `wanted` says no.
    fn log_verify(&self, _: &Actor, _wanted: &mut dyn FnMut() -> bool) -> Result<LogVerified, Fault> {
        Err(Fault::not_here())
    }
    /// Writes a backup. `out` blocks for as long as its reader takes, up to half a minute for each write: hold no lock
    /// that others wait for.
    fn backup(&self, _: &Actor, _out: &mut dyn Write) -> Result<BackupReport, Fault> {
        Err(Fault::not_here())
    }
    /// Somebody was turned away at the socket. Never blocks.
    fn denied(&self, actor: &Actor, reason: &str);
}
