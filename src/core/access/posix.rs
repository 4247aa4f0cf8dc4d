//! The access check algorithm of POSIX.1e (acl(5), "Access check algorithm"), as if the caller had no capabilities.

use super::{Denial, Object, Rule};
use crate::model::{AclTag, Gid, Subject, Uid};
use std::fmt;

/// The permission to read, as in rwx.
pub const READ: u8 = 4;
/// The permission to write.
pub const WRITE: u8 = 2;
/// The permission to search a directory.
pub const SEARCH: u8 = 1;

/// Which entry decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// The owner's.
    Owner,
    /// That of this named user.
    User(Uid),
    /// The owning group's.
    Group(Gid),
    /// That of this named group.
    NamedGroup(Gid),
    /// Everybody else's.
    Other,
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Class::Owner => f.write_str("owner"),
            Class::User(uid) => write!(f, "acl user {uid}"),
            Class::Group(gid) => write!(f, "group {gid}"),
            Class::NamedGroup(gid) => write!(f, "acl group {gid}"),
            Class::Other => f.write_str("other"),
        }
    }
}

/// Whether the subject has all of `wanted` (of READ, WRITE, SEARCH).
///
/// # Errors
/// [`Denial::NotAllowed`] with the class that decided; [`Denial::Doubt`] if the groups cannot be read.
pub fn check<S: Subject + ?Sized>(subject: &S, object: &Object<'_>, wanted: u8) -> Result<Rule, Denial> {
    if let Some(said) = by_uid(subject.uid(), object, wanted) {
        return said;
    }
    let bits = |shift: u16| ((object.mode >> shift) & 7) as u8;
    let verdict = |class, perm| verdict(wanted, class, perm);
    let Some(acl) = object.acl else {
        return if subject.in_group(object.gid)? {
            verdict(Class::Group(object.gid), bits(3))
        } else {
            verdict(Class::Other, bits(0))
        };
    };
    let mask = acl.perm(AclTag::Mask).unwrap_or(7);
    let mut refused_by = None;
    for entry in acl.entries() {
        let class = match entry.tag {
            AclTag::GroupObj => Class::Group(object.gid),
            AclTag::Group(gid) => Class::NamedGroup(gid),
            AclTag::UserObj | AclTag::User(_) | AclTag::Mask | AclTag::Other => continue,
        };
        let gid = match class {
            Class::Group(gid) | Class::NamedGroup(gid) => gid,
            Class::Owner | Class::User(_) | Class::Other => continue,
        };
        if !subject.in_group(gid)? {
            continue;
        }
        match verdict(class, entry.perm & mask) {
            Ok(rule) => return Ok(rule),
            Err(_) => refused_by = Some(class),
        }
    }
    match refused_by {
        Some(class) => Err(Denial::NotAllowed(class)),
        None => verdict(Class::Other, acl.perm(AclTag::Other).unwrap_or(0)),
    }
}

/// The same as far as the uid alone says it; `None` where it depends on the groups, which are a look into /proc.
pub fn by_uid(uid: Uid, object: &Object<'_>, wanted: u8) -> Option<Result<Rule, Denial>> {
    let bits = |shift: u16| ((object.mode >> shift) & 7) as u8;
    if uid == object.uid {
        return Some(verdict(wanted, Class::Owner, bits(6)));
    }
    match object.acl {
        // The group's turn comes only if it matters.
        None => (bits(3) & wanted == bits(0) & wanted).then(|| verdict(wanted, Class::Other, bits(0))),
        Some(acl) => {
            let mask = acl.perm(AclTag::Mask).unwrap_or(7);
            acl.perm(AclTag::User(uid)).map(|perm| verdict(wanted, Class::User(uid), perm & mask))
        }
    }
}

fn verdict(wanted: u8, class: Class, perm: u8) -> Result<Rule, Denial> {
    if perm & wanted == wanted { Ok(Rule::Posix(class)) } else { Err(Denial::NotAllowed(class)) }
}
