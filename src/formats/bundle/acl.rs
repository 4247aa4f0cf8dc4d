//! An access control list with names in the place of numbers: another machine has other numbers.

use super::index::is_account;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The most entries a list has.
const MAX: usize = 256;

/// Whom an entry speaks of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NamedTag {
    /// The owner.
    UserObj,
    /// A user by name.
    User(String),
    /// The owning group.
    GroupObj,
    /// A group by name.
    Group(String),
    /// The most that named users and all groups may have.
    Mask,
    /// Everybody else.
    Other,
}

/// One entry; in JSON the text of getfacl(1): `user:www-data:r--`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NamedAclEntry {
    /// Whom it speaks of.
    pub tag: NamedTag,
    /// 0 to 7.
    pub perm: u8,
}

/// A list, as [`crate::model::Acl`] would take it once the names are numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<NamedAclEntry>", into = "Vec<NamedAclEntry>")]
pub struct NamedAcl(Vec<NamedAclEntry>);

impl NamedAcl {
    /// Sorts the entries and checks them as acl_valid(3) would.
    ///
    /// # Errors
    /// Says what is wrong.
    pub fn from_entries(mut entries: Vec<NamedAclEntry>) -> Result<Self, &'static str> {
        if entries.len() > MAX {
            return Err("an ACL has too many entries");
        }
        entries.sort_by(|a, b| a.tag.cmp(&b.tag));
        let count = |tag: &NamedTag| entries.iter().filter(|e| e.tag == *tag).count();
        let named = entries.iter().any(|e| matches!(e.tag, NamedTag::User(_) | NamedTag::Group(_)));
        let once = [NamedTag::UserObj, NamedTag::GroupObj, NamedTag::Other].iter().all(|t| count(t) == 1);
        let masked = count(&NamedTag::Mask) == 1 || (count(&NamedTag::Mask) == 0 && !named);
        let doubled = entries.windows(2).any(|w| w[0].tag == w[1].tag);
        let accounts = entries.iter().all(|e| match &e.tag {
            NamedTag::User(name) | NamedTag::Group(name) => is_account(name),
            _ => true,
        });
        let valid = once && masked && !doubled && accounts && entries.iter().all(|e| e.perm <= 7);
        if valid { Ok(NamedAcl(entries)) } else { Err("an ACL is not valid") }
    }

    /// The entries: owner, users, group, groups, mask, other.
    pub fn entries(&self) -> &[NamedAclEntry] {
        &self.0
    }
}

impl TryFrom<Vec<NamedAclEntry>> for NamedAcl {
    type Error = &'static str;
    fn try_from(entries: Vec<NamedAclEntry>) -> Result<Self, Self::Error> {
        Self::from_entries(entries)
    }
}

impl From<NamedAcl> for Vec<NamedAclEntry> {
    fn from(acl: NamedAcl) -> Self {
        acl.0
    }
}

impl fmt::Display for NamedAclEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, name) = match &self.tag {
            NamedTag::UserObj => ("user", ""),
            NamedTag::User(name) => ("user", name.as_str()),
            NamedTag::GroupObj => ("group", ""),
            NamedTag::Group(name) => ("group", name.as_str()),
            NamedTag::Mask => ("mask", ""),
            NamedTag::Other => ("other", ""),
        };
        let bit = |bit: u8, c: char| if self.perm & bit != 0 { c } else { '-' };
        write!(f, "{kind}:{name}:{}{}{}", bit(4, 'r'), bit(2, 'w'), bit(1, 'x'))
    }
}

impl From<NamedAclEntry> for String {
    fn from(entry: NamedAclEntry) -> String {
        entry.to_string()
    }
}

impl TryFrom<String> for NamedAclEntry {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        const WRONG: &str = "not an ACL entry";
        let mut parts = text.split(':');
        let (Some(kind), Some(name), Some(perm), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(WRONG);
        };
        let tag = match (kind, name) {
            ("user", "") => NamedTag::UserObj,
            ("user", name) => NamedTag::User(name.into()),
            ("group", "") => NamedTag::GroupObj,
            ("group", name) => NamedTag::Group(name.into()),
            ("mask", "") => NamedTag::Mask,
            ("other", "") => NamedTag::Other,
            _ => return Err(WRONG),
        };
        let perm = perm.as_bytes();
        if perm.len() != 3 {
            return Err(WRONG);
        }
        let mut bits = 0;
        for (given, (letter, bit)) in perm.iter().zip([(b'r', 4), (b'w', 2), (b'x', 1)]) {
            match *given {
                c if c == letter => bits |= bit,
                b'-' => {}
                _ => return Err(WRONG),
            }
        }
        Ok(NamedAclEntry { tag, perm: bits })
    }
}
