//! Ids as they are kept and as they are shown: a container's scope keeps them as they are seen inside, and whoever is
//! outside sees them through the map of its attached instances.
//!
//! Owns both directions for owners, groups and ACLs. Knows nothing of who asks.

use crate::model::{Acl, AclEntry, AclError, AclTag, Gid, IdMap, IdMaps, Uid};
use std::borrow::Cow;
use std::sync::Arc;

/// What an id shows as that nobody outside has (the kernel's overflowuid).
const OVERFLOW: u32 = 65_534;
/// The id no process can have: what an id is judged as that nobody outside has.
const NOBODY: u32 = u32::MAX;

/// How one scope's ids are shown, and whether it can be changed from inside.
#[derive(Debug, Clone, Default)]
pub(super) struct View {
    maps: Option<Arc<IdMaps>>,
    writable: bool,
}

impl View {
    /// Ids as they are kept: the host's scope, one declared so, or one without an instance.
    pub fn plain() -> Self {
        View::default()
    }

    /// Through these maps, if there are any.
    pub fn new(maps: Option<Arc<IdMaps>>, writable: bool) -> Self {
        View { maps, writable }
    }

    /// Whether callers inside may change anything.
    pub fn writable(&self) -> bool {
        self.writable
    }

    pub fn shown_uid(&self, inside: Uid) -> Uid {
        Uid(self.outside(|m| &m.uid, inside.0).unwrap_or(OVERFLOW))
    }

    pub fn shown_gid(&self, inside: Gid) -> Gid {
        Gid(self.outside(|m| &m.gid, inside.0).unwrap_or(OVERFLOW))
    }

    /// As [`View::shown_uid`]; what nobody outside has matches nobody.
    pub fn judged_uid(&self, inside: Uid) -> Uid {
        Uid(self.outside(|m| &m.uid, inside.0).unwrap_or(NOBODY))
    }

    /// As [`View::shown_gid`]; what nobody outside has matches nobody.
    pub fn judged_gid(&self, inside: Gid) -> Gid {
        Gid(self.outside(|m| &m.gid, inside.0).unwrap_or(NOBODY))
    }

    /// What is kept of a uid that somebody outside named: what the map says, and where it says nothing, the id itself: an
    /// admin on the host who gives a file to 999 means 999 inside.
    pub fn kept_uid(&self, outside: Uid) -> Uid {
        Uid(self.inside(|m| &m.uid, outside.0))
    }

    /// The same for a gid.
    pub fn kept_gid(&self, outside: Gid) -> Gid {
        Gid(self.inside(|m| &m.gid, outside.0))
    }

    /// A list as it shows outside. Names that nobody outside has are left out: they match nobody.
    pub fn shown_acl<'a>(&self, acl: &'a Acl) -> Cow<'a, Acl> {
        if self.maps.is_none() {
            return Cow::Borrowed(acl);
        }
        let shown = acl.entries().iter().filter_map(|entry| {
            let tag = match entry.tag {
                AclTag::User(uid) => AclTag::User(Uid(self.outside(|m| &m.uid, uid.0)?)),
                AclTag::Group(gid) => AclTag::Group(Gid(self.outside(|m| &m.gid, gid.0)?)),
                other => other,
            };
            Some(AclEntry { tag, ..*entry })
        });
        // A map is one to one, so what was valid stays so.
        Acl::from_entries(shown.collect()).map_or(Cow::Borrowed(acl), Cow::Owned)
    }

    /// What is kept of a list that came from outside.
    ///
    /// # Errors
    /// [`AclError::Invalid`] if two names mean the same one inside.
    pub fn kept_acl(&self, acl: Acl) -> Result<Acl, AclError> {
        if self.maps.is_none() {
            return Ok(acl);
        }
        let kept = acl.entries().iter().map(|entry| {
            let tag = match entry.tag {
                AclTag::User(uid) => AclTag::User(self.kept_uid(uid)),
                AclTag::Group(gid) => AclTag::Group(self.kept_gid(gid)),
                other => other,
            };
            AclEntry { tag, ..*entry }
        });
        Acl::from_entries(kept.collect())
    }

    fn outside(&self, map: impl FnOnce(&IdMaps) -> &IdMap, inside: u32) -> Option<u32> {
        match &self.maps {
            Some(maps) => map(maps).to_outside(inside),
            None => Some(inside),
        }
    }

    fn inside(&self, map: impl FnOnce(&IdMaps) -> &IdMap, outside: u32) -> u32 {
        self.maps.as_ref().and_then(|maps| map(maps).to_inside(outside)).unwrap_or(outside)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shifted() -> View {
        let map = IdMap::parse("0 100000 1000").unwrap();
        View::new(Some(Arc::new(IdMaps { uid: map.clone(), gid: map })), true)
    }

    #[test]
    fn ids_show_shifted_and_what_the_map_has_not_matches_nobody() {
        let view = shifted();
        assert_eq!(view.shown_uid(Uid(999)), Uid(100_999));
        assert_eq!((view.shown_uid(Uid(1000)), view.judged_uid(Uid(1000))), (Uid(OVERFLOW), Uid(NOBODY)));
        assert_eq!((view.shown_gid(Gid(1000)), view.judged_gid(Gid(7))), (Gid(OVERFLOW), Gid(100_007)));
        assert_eq!(
            (view.kept_uid(Uid(100_005)), view.kept_uid(Uid(999)), view.kept_gid(Gid(0))),
            (Uid(5), Uid(999), Gid(0))
        );
        assert_eq!(View::plain().judged_uid(Uid(5)), Uid(5));
    }

    #[test]
    fn lists_are_put_through_the_map_both_ways() {
        let entry = |tag, perm| AclEntry { tag, perm };
        let list = |uids: &[u32]| {
            let base = [(AclTag::UserObj, 6), (AclTag::GroupObj, 0), (AclTag::Mask, 4), (AclTag::Other, 0)];
            let named = uids.iter().map(|uid| entry(AclTag::User(Uid(*uid)), 4));
            Acl::from_entries(base.iter().map(|(t, p)| entry(*t, *p)).chain(named).collect()).unwrap()
        };
        let view = shifted();
        assert_eq!(*view.shown_acl(&list(&[5, 70_000])), list(&[100_005]));
        assert_eq!(view.kept_acl(list(&[100_005, 7])).unwrap(), list(&[5, 7]));
        assert_eq!(view.kept_acl(list(&[100_005, 5])), Err(AclError::Invalid));
        assert_eq!(*View::plain().shown_acl(&list(&[5])), list(&[5]));
    }
}
