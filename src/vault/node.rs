//! A node as the store keeps it: the plain form of a sealed record.

use super::VaultError;
use super::export::ExportRecord;
use super::import::{ConsoleRecord, Remembered};
use super::view::View;
use crate::access::Object;
use crate::caller::Marks;
use crate::model::{Acl, Ino, InstanceId, Kind, Meta, Name, Scope, Timestamp, Uid, VersionNo};
use crate::seal::BlobDigest;
use crate::store::BlobKey;
use crate::view::Definition;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// One committed content of a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Its number, from 1.
    pub number: VersionNo,
    /// Where its blob is: the inode that committed it, which need not be the one that has it now.
    pub blob: BlobKey,
    /// SHA-256 of the blob.
    pub digest: BlobDigest,
    /// Bytes of content.
    pub size: u64,
    /// When it was committed.
    pub time: Timestamp,
    /// Who committed it.
    pub uid: Uid,
}

/// A directory, secret or symlink.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// The directory it is in; the root is in itself.
    pub parent: Ino,
    /// Its name there; `None` for the root.
    pub name: Option<Name>,
    /// What it is.
    pub kind: Kind,
    /// Whom it is sealed to.
    pub scope: Scope,
    /// Owner, mode, ACLs, attributes, times.
    pub meta: Meta,
    /// Where a symlink points.
    pub target: Option<Box<str>>,
    /// What is kept of its content, oldest first; the last is current. Empty for a file that was never written.
    pub versions: Vec<Version>,
    /// The highest number a version of this name ever had.
    pub last_number: u64,
    /// What it is composed from, if it has no content of its own. Kept in a record of another kind ([`Record::encode`]).
    #[serde(skip)]
    pub view: Option<Arc<Definition>>,
}

impl Node {
    /// Whether it is composed from others.
    pub fn is_view(&self) -> bool {
        self.view.is_some()
    }

    /// The version readers get.
    pub fn current(&self) -> Option<&Version> {
        self.versions.last()
    }

    /// What the judge needs to know of it. `acl` is its list as the view shows it.
    pub fn object<'a>(&'a self, ino: Ino, view: &View, acl: Option<&'a Acl>) -> Object<'a> {
        Object {
            ino,
            scope: &self.scope,
            uid: view.judged_uid(self.meta.uid),
            gid: view.judged_gid(self.meta.gid),
            mode: self.meta.mode,
            acl,
            conditions: self.meta.conditions(),
            root: view.judged_uid(Uid::ROOT),
            writable: view.writable(),
        }
    }

    /// What stat(2) shows, outside.
    pub fn attr(&self, ino: Ino, view: &View) -> Attr {
        let size = match self.kind {
            Kind::File => self.current().map_or(0, |v| v.size),
            Kind::Symlink => self.target.as_ref().map_or(0, |t| t.len() as u64),
            Kind::Directory => 0,
        };
        Attr {
            ino,
            kind: self.kind,
            size,
            mode: self.meta.mode,
            uid: view.shown_uid(self.meta.uid).0,
            gid: view.shown_gid(self.meta.gid).0,
            nlink: 1,
            atime: self.meta.atime,
            mtime: self.meta.mtime,
            ctime: self.meta.ctime,
            btime: self.meta.btime,
        }
    }
}

/// What stat(2) shows of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr {
    /// Inode.
    pub ino: Ino,
    /// What it is.
    pub kind: Kind,
    /// Bytes of content.
    pub size: u64,
    /// Permission bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names it has: 1, or 0 when it was removed while open.
    pub nlink: u32,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of content.
    pub mtime: Timestamp,
    /// Last change of anything.
    pub ctime: Timestamp,
    /// When it was made.
    pub btime: Timestamp,
}

/// What is kept of a removed secret: its history, under the path it had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// The path it had.
    pub path: String,
    /// Whom it was sealed to.
    pub scope: Scope,
    /// Owner, mode and the rest, for a rollback.
    pub meta: Meta,
    /// Its versions, oldest first.
    pub versions: Vec<Version>,
    /// The highest number a version of this name ever had.
    pub last_number: u64,
    /// When it was removed.
    pub removed: Timestamp,
}

impl Tombstone {
    /// What is kept of a node that goes now.
    pub fn of(node: &Node, path: &str) -> Self {
        Tombstone {
            path: path.to_owned(),
            scope: node.scope.clone(),
            meta: node.meta.clone(),
            versions: node.versions.clone(),
            last_number: node.last_number,
            removed: Timestamp::now(),
        }
    }
}

/// Facts of the whole store, kept at inode 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Inode numbers below this may have been given.
    pub ino_limit: u64,
    /// The recovery recipients.
    pub recovery: Vec<String>,
    /// The store's own recipient.
    pub identity: String,
    /// The escrow identity's.
    pub escrow: String,
    /// Scopes whose entry was seen revoked.
    pub revoked: Vec<Scope>,
    /// Whether some blobs may still be sealed to former recipients.
    pub resealing: bool,
    /// When the store was made.
    pub made: Timestamp,
}

/// How the ids of a scope's nodes are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum UidMap {
    /// As seen inside; shown through the map of the attached instances.
    Auto,
    /// As the initial user namespace does.
    Host,
}

/// A declared scope. Its key is in the tree `scopes`, its folder a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScopeRecord {
    /// Which.
    pub scope: Scope,
    /// Whether callers inside may change what is in it.
    pub write: bool,
    /// How its ids are counted.
    pub uid_map: UidMap,
    /// Its folder, below `containers`.
    pub dir: Ino,
    /// When it was declared.
    pub made: Timestamp,
}

/// An attached instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceRecord {
    /// Which, and of what scope.
    pub id: InstanceId,
    /// What it is known by.
    pub marks: Marks,
    /// When it was attached.
    pub attached: Timestamp,
    /// From when on it opens nothing.
    pub expires: Option<Timestamp>,
    /// Whether it was detached or its entry revoked: it opens nothing, and is kept until its init has ended, so that
    /// those inside are told why.
    pub revoked: bool,
}

/// A record, as sealed. postcard writes the variant's number first: that is the record's format version.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Record {
    /// A node.
    Node(Node),
    /// A removed secret.
    Tombstone(Tombstone),
    /// The store's facts.
    Facts(Facts),
    /// A declared scope.
    Scope(ScopeRecord),
    /// An attached instance.
    Instance(InstanceRecord),
    /// A signing key, or what a host was sent.
    Export(ExportRecord),
    /// A console that was joined.
    Console(Box<ConsoleRecord>),
    /// A node with what it is composed from; read, it is a [`Record::Node`].
    View(Node, Definition),
    /// What this host remembers whichever consoles come and go.
    Remembered(Box<Remembered>),
}

/// Where [`Facts`] are.
pub const FACTS_INO: Ino = Ino(0);

impl Record {
    /// The bytes to seal.
    pub fn encode(&self) -> Vec<u8> {
        let encoded = match self {
            Record::Node(node) => match &node.view {
                Some(view) => postcard::to_stdvec(&Record::View(node.clone(), (**view).clone())),
                None => postcard::to_stdvec(self),
            },
            _ => postcard::to_stdvec(self),
        };
        encoded.expect("a record has only types that postcard can write")
    }

    /// Reads what was sealed.
    ///
    /// # Errors
    /// [`VaultError::Damaged`] for a kind of record from the future, or none at all.
    pub fn decode(bytes: &[u8]) -> Result<Self, VaultError> {
        match postcard::take_from_bytes(bytes) {
            Ok((Record::View(node, view), [])) => Ok(Record::Node(Node { view: Some(Arc::new(view)), ..node })),
            Ok((record, [])) => Ok(record),
            Ok(_) | Err(_) => Err(VaultError::Damaged("a record of an unknown kind".into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Gid, SecretPath};

    #[test]
    fn records_come_back_and_unknown_kinds_are_refused() {
        let node = Node {
            parent: Ino(1),
            name: Some(Name::parse(b"pin").unwrap()),
            kind: Kind::File,
            scope: Scope::Host,
            meta: Meta::new(Uid(3), Gid(4), 0o640),
            target: None,
            versions: vec![Version {
                number: VersionNo(2),
                blob: BlobKey { ino: Ino(1024), version: VersionNo(2) },
                digest: [7; 32],
                size: 5,
                time: Timestamp::now(),
                uid: Uid(3),
            }],
            last_number: 2,
            view: None,
        };
        let view = Definition::Concat { parts: vec![SecretPath::parse("a").unwrap()] };
        let composed = Node { view: Some(Arc::new(view)), ..node.clone() };
        let bytes = Record::Node(composed).encode();
        assert_ne!(bytes[0], 0);
        let Record::Node(back) = Record::decode(&bytes).unwrap() else { panic!("another kind") };
        assert_eq!(back.view.as_ref().unwrap().to_string(), "concat a");
        assert_eq!(Node { view: None, ..back }, node);
        let bytes = Record::Node(node.clone()).encode();
        let Record::Node(back) = Record::decode(&bytes).unwrap() else { panic!("another kind") };
        assert_eq!(back, node);
        assert!(Record::decode(&[9, 1, 2]).is_err());
        assert!(Record::decode(&[bytes, vec![0]].concat()).is_err());
    }
}
