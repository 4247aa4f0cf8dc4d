//! POSIX.1e access control lists, in the kernel's xattr encoding (acl(5); `struct posix_acl_xattr_header`, version 2).

use super::{Gid, Uid};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The most entries a list may have.
const MAX_ENTRIES: usize = 256;
/// The encoding's version, little-endian before the entries.
const VERSION: u32 = 2;
/// The id of entries that name nobody.
const NO_ID: u32 = u32::MAX;

/// Why bytes are not a list.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub enum AclError {
    /// The encoding is wrong: length, version or a tag.
    #[error("not an ACL of version 2")]
    Malformed,
    /// A required entry is missing, doubled, or a named entry has no mask (acl_valid(3)).
    #[error("the ACL is not valid: each of user, group and other once, names once, a mask if there are names")]
    Invalid,
    /// More than 256 entries.
    #[error("the ACL has more than {MAX_ENTRIES} entries")]
    TooMany,
}

/// Whom an entry speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Tag {
    /// The owner.
    UserObj,
    /// A named user.
    User(Uid),
    /// The owning group.
    GroupObj,
    /// A named group.
    Group(Gid),
    /// The most that named users and all groups may have.
    Mask,
    /// Everybody else.
    Other,
}

/// One entry: who, and rwx as 4, 2, 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Whom it speaks of.
    pub tag: Tag,
    /// 0 to 7.
    pub perm: u8,
}

/// A valid access control list, its entries sorted by tag.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acl(Vec<Entry>);

impl Acl {
    /// Decodes the value of `system.posix_acl_access` or `system.posix_acl_default`.
    ///
    /// # Errors
    /// [`AclError`]; nothing that acl_valid(3) refuses is accepted.
    pub fn parse(xattr: &[u8]) -> Result<Self, AclError> {
        let (version, rest) = xattr.split_first_chunk::<4>().ok_or(AclError::Malformed)?;
        if u32::from_le_bytes(*version) != VERSION || !rest.len().is_multiple_of(8) {
            return Err(AclError::Malformed);
        }
        if rest.len() / 8 > MAX_ENTRIES {
            return Err(AclError::TooMany);
        }
        let entries: Result<Vec<Entry>, AclError> = rest.chunks_exact(8).map(parse_entry).collect();
        Self::from_entries(entries?)
    }

    /// Makes a list of entries in any order.
    ///
    /// # Errors
    /// [`AclError::Invalid`] as acl_valid(3) says, [`AclError::TooMany`].
    pub fn from_entries(mut entries: Vec<Entry>) -> Result<Self, AclError> {
        if entries.len() > MAX_ENTRIES {
            return Err(AclError::TooMany);
        }
        entries.sort_by_key(|e| e.tag);
        let count = |tag: Tag| entries.iter().filter(|e| e.tag == tag).count();
        let named = entries.iter().any(|e| matches!(e.tag, Tag::User(_) | Tag::Group(_)));
        let once = [Tag::UserObj, Tag::GroupObj, Tag::Other].into_iter().all(|t| count(t) == 1);
        let masked = count(Tag::Mask) == 1 || (count(Tag::Mask) == 0 && !named);
        let doubled = entries.windows(2).any(|w| w[0].tag == w[1].tag);
        if once && masked && !doubled { Ok(Acl(entries)) } else { Err(AclError::Invalid) }
    }

    /// The list that says no more than a mode.
    pub fn from_mode(mode: u16) -> Self {
        let perm = |shift: u16| ((mode >> shift) & 7) as u8;
        Acl(vec![
            Entry { tag: Tag::UserObj, perm: perm(6) },
            Entry { tag: Tag::GroupObj, perm: perm(3) },
            Entry { tag: Tag::Other, perm: perm(0) },
        ])
    }

    /// The xattr's value.
    pub fn to_xattr(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(4 + 8 * self.0.len());
        out.extend(VERSION.to_le_bytes());
        for entry in &self.0 {
            let (tag, id): (u16, u32) = match entry.tag {
                Tag::UserObj => (0x01, NO_ID),
                Tag::User(Uid(id)) => (0x02, id),
                Tag::GroupObj => (0x04, NO_ID),
                Tag::Group(Gid(id)) => (0x08, id),
                Tag::Mask => (0x10, NO_ID),
                Tag::Other => (0x20, NO_ID),
            };
            out.extend(tag.to_le_bytes());
            out.extend(u16::from(entry.perm).to_le_bytes());
            out.extend(id.to_le_bytes());
        }
        out
    }

    /// The entries, sorted: owner, users, group, groups, mask, other.
    pub fn entries(&self) -> &[Entry] {
        &self.0
    }

    /// The permission of the first entry with this tag.
    pub fn perm(&self, tag: Tag) -> Option<u8> {
        self.0.iter().find(|e| e.tag == tag).map(|e| e.perm)
    }

    /// Whether it says no more than the nine mode bits can.
    pub fn is_minimal(&self) -> bool {
        self.0.len() == 3
    }

    /// The nine mode bits that go with it: the group's are the mask's, if there is one (acl(5)).
    pub fn mode(&self) -> u16 {
        let perm = |tag| u16::from(self.perm(tag).unwrap_or(0));
        let group = self.perm(Tag::Mask).map_or_else(|| perm(Tag::GroupObj), u16::from);
        perm(Tag::UserObj) << 6 | group << 3 | perm(Tag::Other)
    }

    /// The nine mode bits that give nobody more once the list is gone: the group's are its own, as far as the mask let them count.
    pub fn mode_alone(&self) -> u16 {
        let group = self.perm(Tag::GroupObj).unwrap_or(0) & self.perm(Tag::Mask).unwrap_or(7);
        self.mode() & 0o707 | u16::from(group) << 3
    }

    /// The list after chmod(2): owner, mask (or, without one, group) and other follow the mode.
    pub fn chmod(&self, mode: u16) -> Self {
        self.with_class_bits(|_, bits| bits, mode)
    }

    /// The access list of a new file in a directory that has this default list: the creator's mode takes away what it
    /// does not ask for.
    pub fn inherit(&self, mode: u16) -> Self {
        self.with_class_bits(|old, bits| old & bits, mode)
    }

    fn with_class_bits(&self, f: impl Fn(u8, u8) -> u8, mode: u16) -> Self {
        let masked = self.perm(Tag::Mask).is_some();
        let bits = |shift: u16| ((mode >> shift) & 7) as u8;
        let entries = self.0.iter().map(|e| {
            let perm = match e.tag {
                Tag::UserObj => f(e.perm, bits(6)),
                Tag::Mask => f(e.perm, bits(3)),
                Tag::GroupObj if !masked => f(e.perm, bits(3)),
                Tag::Other => f(e.perm, bits(0)),
                Tag::User(_) | Tag::GroupObj | Tag::Group(_) => e.perm,
            };
            Entry { perm, ..*e }
        });
        Acl(entries.collect())
    }
}

fn parse_entry(bytes: &[u8]) -> Result<Entry, AclError> {
    let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    let id = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
    let perm = u8::try_from(half(2)).ok().filter(|p| *p <= 7).ok_or(AclError::Malformed)?;
    let tag = match half(0) {
        0x01 => Tag::UserObj,
        0x02 if id != NO_ID => Tag::User(Uid(id)),
        0x04 => Tag::GroupObj,
        0x08 if id != NO_ID => Tag::Group(Gid(id)),
        0x10 => Tag::Mask,
        0x20 => Tag::Other,
        _ => return Err(AclError::Malformed),
    };
    Ok(Entry { tag, perm })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Acl {
        Acl::from_entries(vec![
            Entry { tag: Tag::Other, perm: 0 },
            Entry { tag: Tag::Mask, perm: 4 },
            Entry { tag: Tag::User(Uid(33)), perm: 6 },
            Entry { tag: Tag::UserObj, perm: 6 },
            Entry { tag: Tag::GroupObj, perm: 4 },
        ])
        .unwrap()
    }

    #[test]
    fn the_encoding_goes_round_and_the_mode_follows_the_mask() {
        let acl = sample();
        assert_eq!(Acl::parse(&acl.to_xattr()), Ok(acl.clone()));
        assert_eq!(acl.mode(), 0o640);
        assert_eq!(acl.chmod(0o600).perm(Tag::Mask), Some(0));
        assert_eq!(acl.chmod(0o600).perm(Tag::GroupObj), Some(4));
        assert_eq!(acl.inherit(0o444).mode(), 0o440);
        // Without the list: what the group had of its own, as far as the mask let it.
        assert_eq!(
            [acl.mode_alone(), acl.chmod(0o600).mode_alone(), acl.chmod(0o670).mode_alone()],
            [0o640, 0o600, 0o640]
        );
    }

    #[test]
    fn what_acl_valid_refuses_is_refused() {
        let e = |tag, perm| Entry { tag, perm };
        let base = [e(Tag::UserObj, 6), e(Tag::GroupObj, 4), e(Tag::Other, 0)];
        assert!(Acl::from_entries(base.to_vec()).is_ok());
        assert_eq!(Acl::from_entries(base[..2].to_vec()), Err(AclError::Invalid));
        assert_eq!(Acl::from_entries([&base[..], &base[..1]].concat()), Err(AclError::Invalid));
        assert_eq!(Acl::from_entries([&base[..], &[e(Tag::User(Uid(1)), 4)]].concat()), Err(AclError::Invalid));
        let many = (0..300).map(|i| e(Tag::User(Uid(i)), 4)).chain(base).chain([e(Tag::Mask, 7)]).collect();
        assert_eq!(Acl::from_entries(many), Err(AclError::TooMany));
    }

    #[test]
    fn garbage_is_malformed() {
        for bad in [
            &b""[..],
            b"\x02",
            b"\x01\0\0\0",
            b"\x02\0\0\0\x01",
            b"\x02\0\0\0\x99\0\x07\0\0\0\0\0",
            b"\x02\0\0\0\x01\0\xff\0\0\0\0\0",
        ] {
            assert!(Acl::parse(bad).is_err(), "{bad:?}");
        }
    }
}
