//! Owners by name, as a bundle has them, and who they are on this host.
//!
//! Owns the lookups and remembers them for one import. A name that nobody has here is refused, never replaced.

use crate::bundle::{NamedAcl, NamedTag};
use crate::model::{Acl, AclEntry, AclTag, Gid, Uid};
use nix::unistd::{Group, User};
use std::collections::HashMap;

/// The names that were looked up.
#[derive(Debug, Default)]
pub(super) struct IdsByName {
    users: HashMap<String, Option<Uid>>,
    groups: HashMap<String, Option<Gid>>,
}

impl IdsByName {
    /// The user of a name.
    ///
    /// # Errors
    /// Says that there is none.
    pub fn uid(&mut self, name: &str) -> Result<Uid, String> {
        if !self.users.contains_key(name) {
            let found = User::from_name(name).ok().flatten().map(|u| Uid(u.uid.as_raw()));
            self.users.insert(name.to_owned(), found);
        }
        self.users[name].ok_or_else(|| format!("there is no user {name} here"))
    }

    /// The group of a name.
    ///
    /// # Errors
    /// Says that there is none.
    pub fn gid(&mut self, name: &str) -> Result<Gid, String> {
        if !self.groups.contains_key(name) {
            let found = Group::from_name(name).ok().flatten().map(|g| Gid(g.gid.as_raw()));
            self.groups.insert(name.to_owned(), found);
        }
        self.groups[name].ok_or_else(|| format!("there is no group {name} here"))
    }

    /// A list with this host's ids.
    ///
    /// # Errors
    /// Says which name nobody has, or that it is no valid list.
    pub fn acl(&mut self, named: &NamedAcl) -> Result<Acl, String> {
        let mut entries = Vec::new();
        for entry in named.entries() {
            let tag = match &entry.tag {
                NamedTag::UserObj => AclTag::UserObj,
                NamedTag::User(name) => AclTag::User(self.uid(name)?),
                NamedTag::GroupObj => AclTag::GroupObj,
                NamedTag::Group(name) => AclTag::Group(self.gid(name)?),
                NamedTag::Mask => AclTag::Mask,
                NamedTag::Other => AclTag::Other,
            };
            entries.push(AclEntry { tag, perm: entry.perm });
        }
        Acl::from_entries(entries).map_err(|e| e.to_string())
    }
}
