//! The attached containers, and which of them a caller is in.
//!
//! Owns what is attached, in memory. It decides nothing about secrets, and keeps nothing over a restart: the vault hands
//! it what it has on record.

mod cgroup;
mod index;
mod pinned;
#[cfg(test)]
mod tests;

pub use pinned::{Held, Marks, hold, hold_again};

use super::place::{Instances, Whereabouts};
use crate::lock::{Mutex, RwLock};
use crate::model::{Doubt, InstanceId};
use index::{Attached, Index};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Where there are no descriptors left to be woken by, how long until one looks again.
const WITHOUT_BELL: Duration = Duration::from_millis(250);

/// Why an instance cannot be attached beside those that are.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttachError {
    /// The id is another's.
    #[error("an instance '{0}' is attached already")]
    IdTaken(String),
    /// Nobody could tell the two apart.
    #[error("it is the same container as the attached instance '{}' of scope '{}'", .0.id, .0.scope)]
    SamePlace(InstanceId),
}

/// The attached instances. One a daemon, shared by `Arc`.
///
/// Lock order: `changing`, then `index`. Neither is held while `/proc` is read: a caller is compared with the index of
/// the moment it came.
#[derive(Default)]
pub struct Registry {
    index: RwLock<Arc<Index>>,
    changing: Mutex<()>,
    any: AtomicBool,
    woken: AtomicBool,
    bell: OnceLock<Option<(UnixStream, UnixStream)>>,
}

impl Registry {
    /// Attaches it: from now on callers are found in it.
    ///
    /// # Errors
    /// [`AttachError`]; nothing has changed then.
    pub fn attach(&self, id: InstanceId, held: impl Into<Arc<Held>>) -> Result<(), AttachError> {
        let held = held.into();
        self.change(|index| {
            if index.all.contains_key(&id.id) {
                return Err(AttachError::IdTaken(id.id));
            }
            if let Some(other) = index.twin(&held) {
                return Err(AttachError::SamePlace(other.clone()));
            }
            index.insert(Arc::new(Attached { id, held }));
            Ok(())
        })
    }

    /// Takes it away: its processes are nobody's from now on.
    pub fn detach(&self, id: &str) -> Option<InstanceId> {
        self.change(|index| index.remove(id).ok_or(())).ok().map(|gone| gone.id.clone())
    }

    /// What the instance with this id is known by.
    pub fn marks(&self, id: &str) -> Option<(InstanceId, Marks)> {
        self.held(id).map(|(id, held)| (id, held.marks().clone()))
    }

    /// The instance itself, for its descriptors. It stays held as long as this is kept.
    pub fn held(&self, id: &str) -> Option<(InstanceId, Arc<Held>)> {
        self.index().all.get(id).map(|a| (a.id.clone(), Arc::clone(&a.held)))
    }

    /// Whether the init of this instance has ended, or there is no such instance. Never waits.
    pub fn has_ended(&self, id: &str) -> bool {
        self.held(id).is_none_or(|(_, held)| held.has_ended())
    }

    /// All of them, by id.
    pub fn list(&self) -> Vec<(InstanceId, Marks)> {
        self.index().all.values().map(|a| (a.id.clone(), a.held.marks().clone())).collect()
    }

    /// Takes all away.
    pub fn clear(&self) {
        let _: Result<(), ()> = self.change(|index| {
            *index = Index::default();
            Ok(())
        });
    }

    /// Waits until the init of some instance has ended, at most `timeout` or until [`Registry::wake`]; the ids of all
    /// those. They stay attached: whoever asked detaches them, or is told again at once.
    pub fn wait_gone(&self, timeout: Duration) -> Vec<String> {
        let end = Instant::now() + timeout;
        loop {
            let bell = self.bell().map(|(_, hears)| hears);
            if let Some(mut hears) = bell {
                // All of it: what is rung from now on is heard by the poll below.
                while matches!(hears.read(&mut [0; 64]), Ok(64)) {}
            }
            let index = self.index();
            let all: Vec<&Arc<Attached>> = index.all.values().collect();
            let mut waiting: Vec<PollFd<'_>> =
                all.iter().map(|a| PollFd::new(a.held.pidfd(), PollFlags::POLLIN)).collect();
            waiting.extend(bell.map(|hears| PollFd::new(hears.as_fd(), PollFlags::POLLIN)));
            let left = end.saturating_duration_since(Instant::now());
            let left = if self.woken.swap(false, Ordering::AcqRel) { Duration::ZERO } else { left };
            let step = if bell.is_some() { left } else { left.min(WITHOUT_BELL) };
            // Rounded up: a wait of less than a millisecond is not one of none.
            let millis = PollTimeout::try_from(step.as_nanos().div_ceil(1_000_000)).unwrap_or(PollTimeout::MAX);
            let asked = poll(&mut waiting, millis);
            if asked.is_err() {
                // A signal, or more descriptors than RLIMIT_NOFILE: not at once again, and then one by one.
                std::thread::sleep(step.min(WITHOUT_BELL));
            }
            let ended = |(a, fd): &(&&Arc<Attached>, &PollFd<'_>)| match asked {
                Ok(_) => fd.revents().is_some_and(|r| !r.is_empty()),
                Err(_) => a.held.has_ended(),
            };
            let gone: Vec<String> = all.iter().zip(&waiting).filter(ended).map(|(a, _)| a.id.id.clone()).collect();
            if !gone.is_empty() || left.is_zero() {
                return gone;
            }
        }
    }

    /// Ends a [`Registry::wait_gone`], one that is to come if there is none.
    pub fn wake(&self) {
        self.woken.store(true, Ordering::Release);
        self.ring();
    }

    fn index(&self) -> Arc<Index> {
        Arc::clone(&self.index.read())
    }

    /// Puts a changed index in the place of the old one, unless `change` refuses.
    fn change<T, E>(&self, change: impl FnOnce(&mut Index) -> Result<T, E>) -> Result<T, E> {
        let _alone = self.changing.lock();
        let mut index = Index::clone(&self.index());
        let done = change(&mut index)?;
        self.any.store(!index.all.is_empty(), Ordering::Release);
        *self.index.write() = Arc::new(index);
        self.ring();
        Ok(done)
    }

    /// One end to ring, one to hear.
    fn bell(&self) -> Option<&(UnixStream, UnixStream)> {
        let pair = || {
            let (rings, hears) = UnixStream::pair().ok()?;
            rings.set_nonblocking(true).and_then(|()| hears.set_nonblocking(true)).ok()?;
            Some((rings, hears))
        };
        self.bell.get_or_init(pair).as_ref()
    }

    fn ring(&self) {
        if let Some((rings, _)) = self.bell() {
            let mut rings: &UnixStream = rings;
            // If it is full, it rings already.
            let _ = rings.write(&[1]);
        }
    }
}

impl Instances for Registry {
    fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    fn holding(&self, place: &dyn Whereabouts) -> Result<Option<InstanceId>, Doubt> {
        self.index().holding(place)
    }
}
