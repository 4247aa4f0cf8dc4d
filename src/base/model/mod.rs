//! The words of pinfold as types: paths, inodes, metadata, ACLs, scopes, and who somebody is.
//!
//! Parses at the edge; what has one of these types is well formed. Does no I/O.

mod acl;
mod certs;
mod duration;
mod glob;
mod idmap;
mod ids;
mod label;
mod mail;
mod meta;
mod names;
mod password;
mod path;
mod publication;
mod reserved;
mod timestamp;
mod who;

pub use acl::{Acl, AclError, Entry as AclEntry, Tag as AclTag};
pub use certs::{KeyType, KeyTypeError};
pub use duration::parse_duration;
pub use glob::{Glob, GlobError};
pub use idmap::{IdMap, IdMapError, IdMaps};
pub use ids::{Generation, Gid, Ino, Scope, ScopeError, Uid, VersionNo};
pub use label::Label;
pub use mail::is_mail_address;
pub use meta::{CONDITION_PREFIX, Conditions, EXPIRES_XATTR, Kind, Meta, XattrName, is_condition};
pub use names::{ConsoleName, HostName, MachineNameError, ack_file};
pub use password::{PASSWORD_MAX, PASSWORDS, PasswordError, PasswordName, PasswordPattern, check_password};
pub use path::{Name, PathError, SecretPath};
pub use publication::{
    Described, DescribedBy, PUBLICATIONS_MAX, PUBLISH_XATTR, Preset, Publication, PublicationError, Recipient,
    parse_publications, write_publications,
};
pub use reserved::{AUTHORIZED_KEYS, CONTAINERS, Reserved};
pub use timestamp::Timestamp;
pub use who::{CallerInfo, Doubt, FileId, InstanceId, Subject};
