//! Where a publication goes: this machine, or the attached instances that it names.

use crate::keyring::publish::Namespace;
use crate::model::{IdMaps, InstanceId, Publication, Scope};
use crate::vault::Vault;
use std::sync::Arc;

/// One keyring's surroundings.
pub(super) enum Room {
    /// This machine.
    Host,
    /// An attached instance.
    Instance {
        id: InstanceId,
        /// Its user namespace, if it has one of its own.
        namespace: Option<Arc<Namespace>>,
        maps: IdMaps,
    },
}

impl Vault {
    /// Each with the instance it is, or why there is none.
    pub(super) fn rooms(
        &self,
        publication: &Publication,
        scope: &Scope,
    ) -> Vec<(Option<InstanceId>, Result<Room, String>)> {
        let named = match (&publication.container, scope) {
            (Some(name), _) => name,
            (None, Scope::Host) => return vec![(None, Ok(Room::Host))],
            (None, Scope::Container(name)) => name,
        };
        vec![(None, Err(format!("no instance of {named} is attached")))]
    }
}
