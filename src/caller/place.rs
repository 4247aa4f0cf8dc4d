//! Where a process is, and the question which attached container that is in.

use crate::model::{Doubt, FileId, InstanceId};

/// Where a process is; all of it read of the same process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its cgroup, v2 path.
    pub cgroup: String,
    /// Its user namespace.
    pub user_ns: FileId,
    /// Its pid namespace.
    pub pid_ns: FileId,
}

/// The attached containers. A later part of pinfold attaches them; until then there are [`NoInstances`].
pub trait Instances: Send + Sync {
    /// Whether any is attached. If not, nobody's place is looked at.
    fn any(&self) -> bool;

    /// The one that holds this place: the cgroup is its own or below, *and* both namespaces are its own or descend from
    /// them.
    ///
    /// # Errors
    /// [`Doubt`] if two claim it, or if only a part agrees: a process in the container's cgroup with the host's
    /// namespaces was moved there.
    fn holding(&self, place: &Place) -> Result<Option<InstanceId>, Doubt>;
}

/// Nothing is attached.
#[derive(Debug, Clone, Copy)]
pub struct NoInstances;

impl Instances for NoInstances {
    fn any(&self) -> bool {
        false
    }

    fn holding(&self, _place: &Place) -> Result<Option<InstanceId>, Doubt> {
        Ok(None)
    }
}
