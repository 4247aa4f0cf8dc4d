//! The adapter between the kernel's FUSE requests and [`Fs`]: the only user of fuser.
//!
//! Each handler finds out who asks, calls one method, and answers. No handler panics through (fuser would unmount), and
//! none waits for an unlock on its thread.

mod answer;
mod attributes;
mod content;
mod errno;
mod names;
mod notify;
mod poke;
mod probe;
mod served;
mod session;
#[cfg(test)]
mod tests;
mod unmappable;

pub use session::{Connect, Mounted, SOURCE};

use super::wait::{WaitEnd, Waiting};
use super::{Asked, Fs, FsError, Node, Seen};
use crate::audit;
use crate::caller::Process;
use crate::model::{Gid, Ino, Name, Uid};
use crate::sys::connection::Offer;
use crate::vault::{NewNode, VaultError};
use fuser::{Errno, INodeNo, InitFlags, KernelConfig};
use notify::Teller;
use served::Asker as Request;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
#[cfg(test)]
pub(super) use tests::done_and_not_answered;
use unmappable::Unmappable;

/// Capabilities that the tree needs: ACLs as the daemon keeps them, umask left to the daemon, truncation within open,
/// and look-ups side by side: otherwise one that waits for an unlock stops all others in the same directory.
const NEEDED: [InitFlags; 4] = [
    InitFlags::FUSE_POSIX_ACL,
    InitFlags::FUSE_DONT_MASK,
    InitFlags::FUSE_ATOMIC_O_TRUNC,
    InitFlags::FUSE_PARALLEL_DIROPS,
];

/// In the number of a request that is sent again (FUSE_UNIQUE_RESEND, Linux ≥ 6.9).
const SENT_AGAIN: u64 = 1 << 63;

/// The filesystem as fuser calls it.
pub struct Adapter {
    fs: Arc<Fs>,
    teller: Arc<Teller>,
    waiting: Arc<Waiting>,
    /// For how long after the lock callers wait; `None` refuses at once.
    patience: Option<Duration>,
    /// What the kernel offers in its handshake, for a daemon that takes the connection over.
    offered: Arc<OnceLock<Offer>>,
    unmappable: Arc<Unmappable>,
}

impl Adapter {
    fn caller(&self, req: &Request) -> Process {
        self.fs.vault().callers().identify(Uid(req.uid()), Gid(req.gid()), req.pid())
    }

    /// Runs a handler; a panic becomes a dropped reply, which fuser answers with EIO.
    fn guard(&self, what: &str, handler: impl FnOnce()) {
        if catch_unwind(AssertUnwindSafe(handler)).is_err() {
            tracing::error!(what, "a request failed inside; it was answered with EIO");
        }
    }

    /// Does it, or, while the store is locked, lets the caller wait for the unlock. `done` gets the error to answer.
    fn when_unlocked<R: Send + 'static>(
        &self,
        req: &Request,
        path: (Ino, Option<&[u8]>),
        errno: fn(&FsError) -> Errno,
        act: impl Fn(&Fs) -> Result<R, FsError> + Send + 'static,
        done: impl FnOnce(Result<R, Errno>) + Send + 'static,
    ) {
        let fs = Arc::clone(&self.fs);
        let first = act(&fs);
        let since = match first {
            Err(FsError::Vault(VaultError::Locked)) => fs.vault().locked_since(),
            other => return done(other.map_err(|e| errno(&e))),
        };
        let name = path.1.map(|n| String::from_utf8_lossy(n).into_owned());
        let (uid, gid, tid, ino) = (Uid(req.uid()), Gid(req.gid()), req.pid(), path.0);
        let job = move |outcome| {
            let again = match outcome {
                WaitEnd::Unlocked => act(&fs),
                WaitEnd::GiveUp => Err(VaultError::Locked.into()),
            };
            if matches!(again, Err(FsError::Vault(VaultError::Locked))) {
                let caller = fs.vault().callers().identify(uid, gid, tid);
                let path = fs.vault().path_of(ino, name.as_deref());
                fs.vault().record_refusal(audit::Operation::Open, &path, &caller.who(), "the store is locked");
            }
            done(again.map_err(|e| errno(&e)));
        };
        match (self.patience, since) {
            (Some(patience), Some(since)) => self.waiting.park(uid.0, since, patience, Box::new(job)),
            (Some(_), None) => job(WaitEnd::Unlocked),
            (None, _) => job(WaitEnd::GiveUp),
        }
    }

    fn make(&self, req: &Request, new: NewNode<'_>) -> Result<(Seen, Node), FsError> {
        let attr = self.fs.make_once(asked(req), &self.caller(req), new)?;
        self.saw(new.parent, new.name);
        Ok((Seen { attr, lasting: true }, self.fs.node_of(&attr, req.pid())))
    }

    /// Does it; what the kernel knows of the same secret by other numbers is asked for anew afterwards.
    fn changing<R>(&self, node: Node, act: impl FnOnce() -> R) -> R {
        let version = || self.fs.vault().current_version(node.ino).ok();
        let before = version();
        let result = act();
        let others = self.fs.other_nodes(node);
        if !others.is_empty() {
            self.teller.changed_for(others, version() != before);
        }
        result
    }

    fn saw(&self, parent: Ino, name: &Name) {
        if parent == Ino::ROOT {
            self.teller.saw_root_name(name);
        }
    }

    fn note(&self, req: &Request, ino: Ino, error: &FsError) {
        let told = matches!(
            error,
            FsError::Vault(
                VaultError::Invalid(_)
                    | VaultError::NotPermitted(_)
                    | VaultError::Damaged(_)
                    | VaultError::Denied(_)
                    | VaultError::Exhausted(_)
            )
        );
        if told {
            self.fs.own().note_error(req.uid(), &self.fs.vault().path_of(ino, None), error);
        }
    }
}

fn asked(req: &Request) -> Asked {
    let number = req.unique();
    Asked { number: number & !SENT_AGAIN, again: number & SENT_AGAIN != 0 }
}

fn node(number: INodeNo) -> Node {
    Node::of(number.0)
}

/// The handshake.
impl Adapter {
    fn init(&mut self, config: &mut KernelConfig) -> std::io::Result<()> {
        let version = config.kernel_abi();
        let mut flags = config.capabilities();
        // What was not agreed on at the beginning is never offered to a daemon that takes the connection over.
        let unmappable = Unmappable::agree(config);
        if unmappable.is_none() {
            flags -= unmappable::FLAGS;
        }
        self.unmappable = Arc::new(unmappable.unwrap_or_default());
        let _ = self.offered.set(Offer { minor: version.1, flags: flags.bits() });
        for flag in NEEDED {
            config.add_capabilities(flag).map_err(|_| std::io::Error::other(format!("the kernel lacks {flag:?}")))?;
        }
        Ok(())
    }
}
