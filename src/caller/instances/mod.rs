//! The attached containers, and which of them a caller is in.
//!
//! Owns what is attached, in memory. It decides nothing about secrets, and keeps nothing over a restart: the vault hands
//! it what it has on record.

mod cgroup;
mod held;

pub use held::{Held, Marks, hold, hold_again};

use super::place::{Instances, Place};
use crate::model::{Doubt, InstanceId};
use std::sync::Arc;
use std::time::Duration;

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
#[derive(Default)]
pub struct Registry {}

impl Registry {
    /// Attaches it: from now on callers are found in it.
    ///
    /// # Errors
    /// [`AttachError`]; nothing has changed then.
    pub fn attach(&self, id: InstanceId, held: Held) -> Result<(), AttachError> {
        let _ = (id, held);
        todo!()
    }

    /// Takes it away: its processes are nobody's from now on.
    pub fn detach(&self, id: &str) -> Option<InstanceId> {
        let _ = id;
        todo!()
    }

    /// What the instance with this id is known by.
    pub fn marks(&self, id: &str) -> Option<(InstanceId, Marks)> {
        let _ = id;
        todo!()
    }

    /// The instance itself, for its descriptors. It stays held as long as this is kept.
    pub fn held(&self, id: &str) -> Option<(InstanceId, Arc<Held>)> {
        let _ = id;
        todo!()
    }

    /// All of them, by id.
    pub fn list(&self) -> Vec<(InstanceId, Marks)> {
        todo!()
    }

    /// Takes all away.
    pub fn clear(&self) {
        todo!()
    }

    /// Waits until the init of some instance has ended, at most `timeout` or until [`Registry::wake`]; the ids of all
    /// those. They stay attached: whoever asked detaches them, or is told again at once.
    pub fn wait_gone(&self, timeout: Duration) -> Vec<String> {
        let _ = timeout;
        todo!()
    }

    /// Ends a [`Registry::wait_gone`], one that is to come if there is none.
    pub fn wake(&self) {
        todo!()
    }
}

impl Instances for Registry {
    fn any(&self) -> bool {
        todo!()
    }

    fn holding(&self, place: &dyn Place) -> Result<Option<InstanceId>, Doubt> {
        let _ = place;
        todo!()
    }
}
