//! `index.json`, the first thing in a payload: every entry that a host is to have, and who its admins are.
//!
//! Owns what an entry says and when a list of them is whole: sorted, each once, parents before children. It holds no content.

use super::acl::NamedAcl;
use super::bounded::List;
use super::key_line::is_key_line;
use super::manifest::Sha256Hex;
use crate::model::{Name, SecretPath, Timestamp};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::de::{DeserializeSeed, Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::cell::Cell;
use std::fmt;
use thiserror::Error;

/// What `format` says.
const FORMAT: &str = "pinfold-payload";
/// The version that is written, and the only one that is read.
const VERSION: u64 = 1;
/// The most entries of any payload, whatever a host takes.
pub const ENTRIES_MAX: usize = 1_000_000;
/// The most admins of one host.
const ADMINS_MAX: usize = 10_000;
/// The most keys of one admin.
const KEYS_MAX: usize = 100;
/// The longest comment, in bytes.
const COMMENT_MAX: usize = 1024;
/// The most extended attributes of one entry, and their bytes together: what the tree takes.
const XATTRS_MAX: usize = 64;
const XATTR_BYTES_MAX: usize = 16 * 1024;
/// The longest target of a symbolic link, in bytes.
const TARGET_MAX: usize = 4095;
/// The longest name of a user or group, in bytes.
const ACCOUNT_MAX: usize = 255;

/// Why a list is not whole. A path may be shown, content and attribute values never.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum IndexError {
    /// The root, or a path written in a way that could be another.
    #[error("an entry has no path")]
    NoPath,
    /// Not greater than the one before.
    #[error("'{0}' is there twice, or not in order")]
    Order(SecretPath),
    /// No directory of that name stands before it.
    #[error("the directory of '{0}' is missing")]
    Orphan(SecretPath),
    /// A field of an entry.
    #[error("'{path}': {what}")]
    Entry {
        /// Whose.
        path: SecretPath,
        /// What is wrong.
        what: &'static str,
    },
    /// An admin.
    #[error("an admin: {0}")]
    Admin(&'static str),
    /// More than there may be.
    #[error("more than {0} entries")]
    TooMany(usize),
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum EntryKind {
    /// A secret; its content follows in the payload.
    File {
        /// Bytes of content.
        size: u64,
        /// Of the content.
        sha256: Sha256Hex,
        /// The number of this version on the console.
        version: u64,
    },
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink {
        /// Where it points.
        target: String,
    },
}

/// One entry, with names for owner and group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// As on the console, relative to the tree's root.
    pub path: SecretPath,
    /// What it is.
    pub kind: EntryKind,
    /// The owner's name.
    pub owner: String,
    /// The group's name.
    pub group: String,
    /// The nine bits and the sticky bit; in JSON octal digits.
    #[serde(with = "octal")]
    pub mode: u16,
    /// The access ACL, if it says more than the mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acl: Option<NamedAcl>,
    /// The default ACL of a directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_acl: Option<NamedAcl>,
    /// `user.*` attributes; in JSON a map to Base64.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "attributes")]
    pub xattrs: Vec<(String, Vec<u8>)>,
    /// Last change of content.
    pub mtime: Timestamp,
}

/// Somebody who administers the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    /// The account's name, without the prefix.
    pub user: String,
    /// What stands before it on this host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// Public keys as lines of a `.pub` file.
    pub keys: Vec<String>,
    /// What the policy's line says about it.
    pub comment: String,
}

/// The whole list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Index {
    /// Sorted by path.
    pub entries: Vec<Entry>,
    /// Sorted by name.
    pub admins: Vec<Admin>,
}

/// As it is written.
#[derive(Serialize)]
struct Written<'a> {
    format: &'a str,
    version: u64,
    admins: &'a [Admin],
    entries: &'a [Entry],
}

impl Entry {
    /// Bytes of content: 0 for all but files.
    pub fn size(&self) -> u64 {
        match self.kind {
            EntryKind::File { size, .. } => size,
            EntryKind::Directory | EntryKind::Symlink { .. } => 0,
        }
    }

    /// Whether it is a file.
    pub fn is_file(&self) -> bool {
        matches!(self.kind, EntryKind::File { .. })
    }

    fn check(&self) -> Result<(), IndexError> {
        let wrong = |what| Err(IndexError::Entry { path: self.path.clone(), what });
        if !is_account(&self.owner) || !is_account(&self.group) {
            return wrong("an owner or a group has no possible name");
        }
        if self.mode & !0o1777 != 0 {
            return wrong("its mode has bits that are not kept");
        }
        if self.mtime.nanos >= 1_000_000_000 {
            return wrong("its time is not one");
        }
        if self.default_acl.is_some() && self.kind != EntryKind::Directory {
            return wrong("only a directory has a default ACL");
        }
        let bytes: usize = self.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
        let named =
            |name: &str| name.len() > 5 && name.len() <= 255 && name.starts_with("user.") && !name.contains('\0');
        if self.xattrs.len() > XATTRS_MAX || bytes > XATTR_BYTES_MAX || !self.xattrs.iter().all(|(n, _)| named(n)) {
            return wrong("its attributes are not user attributes, or too many");
        }
        if !self.xattrs.is_sorted_by(|a, b| a.0 < b.0) {
            return wrong("its attributes are not in order");
        }
        if let EntryKind::Symlink { target } = &self.kind
            && (target.is_empty() || target.len() > TARGET_MAX || target.contains('\0'))
        {
            return wrong("its target is not one");
        }
        Ok(())
    }
}

impl Admin {
    fn check(&self) -> Result<(), IndexError> {
        let plain = |text: &str| !text.chars().any(char::is_control);
        if !is_login(&self.user) || self.prefix.as_deref().is_some_and(|p| !is_login(p)) {
            return Err(IndexError::Admin("not the name of an account"));
        }
        if self.comment.len() > COMMENT_MAX || !plain(&self.comment) {
            return Err(IndexError::Admin("a comment is too long, or not one line"));
        }
        if self.keys.len() > KEYS_MAX || !self.keys.iter().all(|key| is_key_line(key)) {
            return Err(IndexError::Admin("a key is not a line with a public key, or there are too many"));
        }
        Ok(())
    }
}

impl Index {
    /// Whether it is whole. What is read has been checked; what is made is checked before it is sealed.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn check(&self) -> Result<(), IndexError> {
        if self.entries.len() > ENTRIES_MAX {
            return Err(IndexError::TooMany(ENTRIES_MAX));
        }
        let mut before: Option<&SecretPath> = None;
        // The directories that the entry before lies in, itself if it is one.
        let mut inside: Vec<&Name> = Vec::new();
        for entry in &self.entries {
            let names = entry.path.names();
            let Some((last, above)) = names.split_last() else { return Err(IndexError::NoPath) };
            if before.is_some_and(|b| *b >= entry.path) {
                return Err(IndexError::Order(entry.path.clone()));
            }
            let common = inside.iter().zip(above).take_while(|(a, b)| **a == *b).count();
            if common < above.len() {
                return Err(IndexError::Orphan(entry.path.clone()));
            }
            inside.truncate(common);
            if entry.kind == EntryKind::Directory {
                inside.push(last);
            }
            entry.check()?;
            before = Some(&entry.path);
        }
        if self.admins.len() > ADMINS_MAX || !self.admins.is_sorted_by(|a, b| a.user < b.user) {
            return Err(IndexError::Admin("they are too many, or not in order"));
        }
        self.admins.iter().try_for_each(Admin::check)
    }

    /// The JSON, one entry a line.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let written = Written { format: FORMAT, version: VERSION, admins: &self.admins, entries: &self.entries };
        let mut bytes = serde_json::to_vec(&written).expect("an index has no map with keys that are not strings");
        bytes.push(b'\n');
        bytes
    }

    /// Reads the JSON as it comes, entry by entry, and stops at the first that is too many.
    pub(super) fn read(reader: impl std::io::Read, max_entries: usize) -> Result<Self, ReadError> {
        let why = Cell::new(None);
        let mut json = serde_json::Deserializer::from_reader(reader);
        let seed = Seed { max: max_entries.min(ENTRIES_MAX), why: &why };
        let read = seed.deserialize(&mut json).and_then(|index| json.end().map(|()| index));
        let index =
            read.map_err(|e| why.take().unwrap_or(ReadError::NotAnIndex { line: e.line(), column: e.column() }))?;
        index.check().map_err(ReadError::Index)?;
        Ok(index)
    }
}

/// Why bytes are no index.
#[derive(Debug, Error)]
pub(super) enum ReadError {
    #[error("its index does not parse, line {line}, column {column}")]
    NotAnIndex { line: usize, column: usize },
    #[error("its index is from the future: version {0}")]
    Newer(u64),
    #[error("too many entries")]
    TooMany,
    #[error(transparent)]
    Index(IndexError),
}

/// Reads the four fields in the order in which they are written, so that version and bounds are known before the entries.
struct Seed<'a> {
    max: usize,
    why: &'a Cell<Option<ReadError>>,
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Index;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Index, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Index;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("format, version, admins and entries, in this order")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Index, A::Error> {
        key(&mut map, "format")?;
        if map.next_value::<String>()? != FORMAT {
            return Err(A::Error::custom("another format"));
        }
        key(&mut map, "version")?;
        match map.next_value::<u64>()? {
            VERSION => {}
            version => {
                self.why.set(Some(ReadError::Newer(version)).filter(|_| version > VERSION));
                return Err(A::Error::custom("another version"));
            }
        }
        key(&mut map, "admins")?;
        let admins = map.next_value_seed(List::new(ADMINS_MAX, || ()))?;
        key(&mut map, "entries")?;
        let entries = map.next_value_seed(List::new(self.max, || self.why.set(Some(ReadError::TooMany))))?;
        match map.next_key::<String>()? {
            None => Ok(Index { entries, admins }),
            Some(_) => Err(A::Error::custom("a fifth field")),
        }
    }
}

fn key<'de, A: MapAccess<'de>>(map: &mut A, expected: &'static str) -> Result<(), A::Error> {
    match map.next_key::<String>()? {
        Some(found) if found == expected => Ok(()),
        _ => Err(A::Error::missing_field(expected)),
    }
}

/// Whether it could be the name of a user or group: nothing that passwd(5) or an ACL's text would be torn by.
pub(super) fn is_account(name: &str) -> bool {
    (1..=ACCOUNT_MAX).contains(&name.len())
        && !name.chars().any(|c| c.is_control() || c.is_whitespace() || ":,/".contains(c))
}

/// Whether useradd(8) would take it.
fn is_login(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && !name.starts_with(['-', '.'])
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// A mode as it is typed.
mod octal {
    use super::*;

    pub fn serialize<S: Serializer>(mode: &u16, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{mode:04o}"))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digits = text.len() == 4 && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
        let mode = if digits { u16::from_str_radix(&text, 8).ok() } else { None };
        mode.ok_or_else(|| D::Error::custom("a mode is four octal digits"))
    }
}

/// Values may be any bytes.
mod attributes {
    use super::*;

    pub fn serialize<S: Serializer>(all: &[(String, Vec<u8>)], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(all.iter().map(|(name, value)| (name, BASE64_STANDARD.encode(value))))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(String, Vec<u8>)>, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Vec<(String, Vec<u8>)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("attributes")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut all = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, String>()? {
                    if all.len() == XATTRS_MAX {
                        return Err(A::Error::custom("too many attributes"));
                    }
                    all.push((name, BASE64_STANDARD.decode(value).map_err(|_| A::Error::custom("not Base64"))?));
                }
                Ok(all)
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}
