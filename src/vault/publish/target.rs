//! Where a publication goes: this machine, or the attached instances that it names.

use crate::access::ScopeState;
use crate::keyring::publish::Namespace;
use crate::model::{IdMaps, InstanceId, Publication, Scope};
use crate::vault::Vault;
use crate::vault::node::InstanceRecord;
use crate::vault::scopes::Instance;
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
        let rooms = self.attached_rooms(named);
        if rooms.is_empty() {
            return vec![(None, Err(format!("no instance of {named} is attached")))];
        }
        rooms.into_iter().map(|(id, room)| (Some(id), room)).collect()
    }

    /// The attached instances of a declared scope of this name, or else the one with this id.
    fn attached_rooms(&self, named: &str) -> Vec<(InstanceId, Result<Room, String>)> {
        let found = self.with_open(|open| {
            let is_scope = Scope::container(named).is_ok_and(|scope| open.scopes.get(&scope).is_some());
            let is_meant = |id: &InstanceId| if is_scope { id.scope.as_str() == named } else { id.id == named };
            let alive = |i: &Instance| is_meant(&i.record.id) && i.state() == ScopeState::Alive;
            open.scopes.instances().filter(|(_, i)| alive(i)).map(|(_, i)| Arc::clone(&i.record)).collect::<Vec<_>>()
        });
        let mut found = found.unwrap_or_default();
        found.sort_by(|a, b| a.id.id.cmp(&b.id.id));
        let room = |record: Arc<InstanceRecord>| {
            let id = record.id.clone();
            // Held by its first process: the namespace is that one, whatever became of the process's number.
            let (_, held) = self.registry.held(&id.id)?;
            let namespace = held.user_ns().map(|fd| Namespace::of(fd).map(Arc::new)).transpose();
            let room = namespace
                .map(|namespace| Room::Instance { id: id.clone(), namespace, maps: record.marks.maps.clone() })
                .map_err(|e| format!("its user namespace: {e}"));
            Some((id, room))
        };
        found.into_iter().filter_map(room).collect()
    }

    /// Whether an instance may open what is its scope's, now.
    pub(super) fn is_attached(&self, instance: &InstanceId) -> bool {
        let is_it = |i: &Instance| i.record.id == *instance && i.state() == ScopeState::Alive;
        self.with_open(|open| open.scopes.by_id(&instance.id).is_some_and(|(_, i)| is_it(i))).unwrap_or(false)
    }
}
