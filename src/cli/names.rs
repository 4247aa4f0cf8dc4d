//! Users and groups by name: what people type, and what they want to read.
//!
//! Owns the lookups in the name service and remembers them for one command.

use super::Failure;
use nix::unistd::{Gid, Group, Uid, User};
use std::collections::HashMap;

/// The uid of a name or number.
///
/// # Errors
/// A usage error if there is no such user.
pub fn uid(name: &str) -> Result<u32, Failure> {
    let known = User::from_name(name).ok().flatten().map(|u| u.uid.as_raw());
    known.or_else(|| number(name)).ok_or_else(|| Failure::usage(format!("there is no user '{name}'")))
}

/// The gid of a name or number.
///
/// # Errors
/// A usage error if there is no such group.
pub fn gid(name: &str) -> Result<u32, Failure> {
    let known = Group::from_name(name).ok().flatten().map(|g| g.gid.as_raw());
    known.or_else(|| number(name)).ok_or_else(|| Failure::usage(format!("there is no group '{name}'")))
}

/// A number that may be an id: 2^32-1 means "none" to chown(2).
fn number(text: &str) -> Option<u32> {
    let id: u32 = if text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok()? } else { return None };
    (id != u32::MAX).then_some(id)
}

/// Names of ids.
#[derive(Default)]
pub struct Names {
    users: HashMap<u32, Option<String>>,
    groups: HashMap<u32, Option<String>>,
}

impl Names {
    /// The user's name, if there is one.
    pub fn user(&mut self, uid: u32) -> Option<&str> {
        let look = || User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|u| u.name);
        self.users.entry(uid).or_insert_with(look).as_deref()
    }

    /// The group's name, if there is one.
    pub fn group(&mut self, gid: u32) -> Option<&str> {
        let look = || Group::from_gid(Gid::from_raw(gid)).ok().flatten().map(|g| g.name);
        self.groups.entry(gid).or_insert_with(look).as_deref()
    }

    /// The user's name, or the number.
    pub fn user_or_number(&mut self, uid: u32) -> String {
        self.user(uid).map_or_else(|| uid.to_string(), str::to_owned)
    }

    /// The group's name, or the number.
    pub fn group_or_number(&mut self, gid: u32) -> String {
        self.group(gid).map_or_else(|| gid.to_string(), str::to_owned)
    }

    /// `uid 33` as `uid 33 (www-data)`, `gid 4` as `gid 4 (adm)`; anything else as it is.
    pub fn explain(&mut self, who: &str) -> String {
        let name = match who.split_once(' ') {
            Some(("uid", id)) => number(id).and_then(|id| self.user(id)),
            Some(("gid" | "group", id)) => number(id).and_then(|id| self.group(id)),
            _ => None,
        };
        name.map_or_else(|| who.to_owned(), |name| format!("{who} ({name})"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        assert_eq!(uid("root").unwrap(), 0);
        assert_eq!(uid("4711").unwrap(), 4711);
        assert_eq!(gid("0").unwrap(), 0);
        for bad in ["", "no-such-user", "-1", "4294967295", "1x"] {
            assert_eq!(uid(bad).unwrap_err().exit(), crate::exit::Exit::Usage, "{bad}");
            assert!(gid(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ids_are_explained() {
        let mut names = Names::default();
        assert_eq!(names.explain("uid 0"), "uid 0 (root)");
        assert_eq!(names.explain("uid 4000000000"), "uid 4000000000");
        assert_eq!(names.explain("everybody else"), "everybody else");
    }
}
