//! Which cgroup is a container's own.

use crate::model::Doubt;

/// todo
pub(super) fn own_of() -> Result<Option<String>, Doubt> {
    todo!()
}
