//! What one host is to get, at one moment: its list, and the digest by which two lists are compared.
//!
//! Owns which attributes of a node go along and under what names. It opens no secret: two contents are the same if they are
//! the same version. What is read of the tree is read under one lock, so a list is what the tree was at one moment.

use super::plan::{HostNo, Plan};
use super::record::EntryDigest;
use crate::model::{AclTag, Ino, Kind, Name, SecretPath, Timestamp};
use crate::policy::Host;
use crate::vault::ON_CHANGE;
use crate::vault::node::Node;
use crate::vault::tree::Tree;
use crate::vault::views::{Composition, composition};
use nix::unistd::{self, Group, User};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// What every digest begins with; another form of list is another digest.
const FORM: &[u8] = b"pinfold export list 1\n";

/// A node that goes to a host.
#[derive(Debug, Clone)]
pub struct Item {
    /// Its path.
    pub path: SecretPath,
    /// Which.
    pub ino: Ino,
    /// As it was.
    pub node: Arc<Node>,
    /// What it was composed from, if it is a view.
    pub composed: Option<Composition>,
}

impl Item {
    fn of(tree: &Tree, path: SecretPath, ino: Ino, node: &Arc<Node>) -> Self {
        Item { path, ino, node: Arc::clone(node), composed: composition(tree, ino, node) }
    }

    /// Whether it is a file that was made and not yet written: what it will be, nobody knows.
    fn is_unwritten(&self) -> bool {
        self.node.kind == Kind::File && self.node.current().is_none() && self.composed.is_none()
    }

    /// When its content was last another.
    pub fn mtime(&self) -> Timestamp {
        let newest = self.composed.and_then(|composed| composed.newest);
        newest.map_or(self.node.meta.mtime, |newest| newest.max(self.node.meta.mtime))
    }
}

/// An admin of a host.
#[derive(Debug, Clone)]
pub struct AdminItem {
    /// Who.
    pub user: String,
    /// What the line of the policy says of it.
    pub note: String,
    /// The files with his keys, by path.
    pub keys: Vec<Item>,
    /// Keys that are in no secret: of his home directory.
    pub home_keys: Vec<String>,
}

/// What a host is to get.
#[derive(Debug, Clone)]
pub struct List {
    /// Sorted by path, directories before what is in them.
    pub items: Vec<Item>,
    /// By user.
    pub admins: Vec<AdminItem>,
}

/// Names of users and groups, looked up once.
#[derive(Default)]
pub struct OwnerNames {
    users: HashMap<u32, Option<Arc<str>>>,
    groups: HashMap<u32, Option<Arc<str>>>,
}

impl OwnerNames {
    /// A user's name; `#1234` where there is none: the host refuses that entry and says so, and what it has stays.
    pub fn user(&mut self, uid: u32) -> Arc<str> {
        let found = self
            .users
            .entry(uid)
            .or_insert_with(|| User::from_uid(unistd::Uid::from_raw(uid)).ok().flatten().map(|user| user.name.into()));
        found.clone().unwrap_or_else(|| nameless(uid))
    }

    /// A group's name.
    pub fn group(&mut self, gid: u32) -> Arc<str> {
        let found = self.groups.entry(gid).or_insert_with(|| {
            Group::from_gid(unistd::Gid::from_raw(gid)).ok().flatten().map(|group| group.name.into())
        });
        found.clone().unwrap_or_else(|| nameless(gid))
    }
}

fn nameless(id: u32) -> Arc<str> {
    format!("#{id}").into()
}

impl List {
    /// What a host is to get of the tree as it is.
    pub fn of(tree: &Tree, plan: &Plan, no: HostNo) -> Self {
        let taken = plan.taken(no);
        let mut items: BTreeMap<SecretPath, Item> = BTreeMap::new();
        for ino in &taken.shared {
            let (Some(node), Some(path)) = (tree.get(*ino), tree.path(*ino)) else { continue };
            let item = Item::of(tree, path, *ino, node);
            if item.is_unwritten() {
                continue;
            }
            parents(tree, &item.path, node.parent, &mut items);
            items.insert(item.path.clone(), item);
        }
        let host = plan.host(no);
        let admins = plan.policy().admins_of(&host.name).into_iter().map(|(user, because)| {
            let files = taken.keys.get(user).into_iter().flatten();
            let mut keys: Vec<Item> = files
                .filter_map(|ino| Some(Item::of(tree, tree.path(*ino)?, *ino, tree.get(*ino)?)))
                .filter(|item| !item.is_unwritten())
                .collect();
            keys.sort_by(|a, b| a.path.cmp(&b.path));
            AdminItem { user: user.to_owned(), note: because.note.clone(), keys, home_keys: Vec::new() }
        });
        List { admins: admins.collect(), items: items.into_values().collect() }
    }

    /// What is to be compared with another list: each entry's digest, by path.
    pub fn digests(&self, host: &Host, names: &mut OwnerNames) -> Vec<(String, EntryDigest)> {
        let mut all: Vec<_> =
            self.items.iter().map(|item| (item.path.to_string(), digest_of(&Shown::of(item, host, names)))).collect();
        let prefix = host.user_prefix.as_deref();
        for admin in &self.admins {
            let keys: Vec<_> = admin.keys.iter().map(|item| (item.path.to_string(), content_of(item))).collect();
            let digest = digest_of(&(&admin.user, prefix, &admin.note, keys, &admin.home_keys));
            all.push((format!("{ADMIN}{}", admin.user), digest));
        }
        all.sort();
        all
    }
}

/// What an admin's entry begins with among the paths: no path has it.
pub const ADMIN: &str = "//admin/";

/// The digest of a whole list and of what else makes a bundle another one.
pub fn whole(entries: &[(String, EntryDigest)], recipient: &str, signer: &str, revoked: &[String]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(FORM);
    for part in [recipient, signer].into_iter().chain(revoked.iter().map(String::as_str)) {
        hash.update(part);
        hash.update(b"\n");
    }
    for (path, digest) in entries {
        hash.update((path.len() as u64).to_be_bytes());
        hash.update(path);
        hash.update(digest);
    }
    hash.finalize().into()
}

/// The attributes of a node that go along. `on-change` makes a unit run on the host: only if it was asked for.
pub fn xattrs<'n>(node: &'n Node, host: &Host) -> impl Iterator<Item = (&'n String, &'n Vec<u8>)> + use<'n> {
    let on_change = host.on_change();
    node.meta.xattrs.iter().filter(move |(name, _)| on_change || name.as_str() != ON_CHANGE)
}

/// Directories on the way, which go along with what is in them.
fn parents(tree: &Tree, path: &SecretPath, parent: Ino, items: &mut BTreeMap<SecretPath, Item>) {
    let mut names: Vec<Name> = path.names().to_vec();
    let mut at = parent;
    names.pop();
    while at != Ino::ROOT && !names.is_empty() {
        let path = SecretPath::from_names(names.clone());
        let Some(node) = tree.get(at) else { return };
        if items.contains_key(&path) {
            return;
        }
        items.insert(path.clone(), Item::of(tree, path, at, node));
        names.pop();
        at = node.parent;
    }
}

/// What a host sees of a node, for the digest.
#[derive(Serialize)]
struct Shown<'a> {
    kind: Kind,
    owner: Arc<str>,
    group: Arc<str>,
    mode: u16,
    acl: Vec<(Tag, u8)>,
    default_acl: Vec<(Tag, u8)>,
    xattrs: Vec<(&'a String, &'a Vec<u8>)>,
    target: Option<&'a str>,
    /// A directory's changes with each entry of it.
    mtime: Option<Timestamp>,
    content: Option<Content>,
}

#[derive(Serialize)]
enum Tag {
    UserObj,
    User(Arc<str>),
    GroupObj,
    Group(Arc<str>),
    Mask,
    Other,
}

/// Which content: the version, wherever its blob is by now. Of a view, what stands for its sources' versions.
type Content = (Ino, u64, Timestamp, u64);

fn content_of(item: &Item) -> Option<Content> {
    match &item.composed {
        Some(composed) => composed.mark.map(|mark| (mark.ino, mark.version.0, composed.newest.unwrap_or_default(), 0)),
        None => item.node.current().map(|v| (v.blob.ino, v.number.0, v.time, v.size)),
    }
}

impl<'a> Shown<'a> {
    fn of(item: &'a Item, host: &Host, names: &mut OwnerNames) -> Self {
        let node = &item.node;
        let meta = &node.meta;
        let mut list = |acl: &Option<crate::model::Acl>| {
            let entries = acl.iter().flat_map(|acl| acl.entries());
            let named = |entry: &crate::model::AclEntry| {
                let tag = match entry.tag {
                    AclTag::UserObj => Tag::UserObj,
                    AclTag::User(uid) => Tag::User(names.user(uid.0)),
                    AclTag::GroupObj => Tag::GroupObj,
                    AclTag::Group(gid) => Tag::Group(names.group(gid.0)),
                    AclTag::Mask => Tag::Mask,
                    AclTag::Other => Tag::Other,
                };
                (tag, entry.perm)
            };
            entries.map(named).collect()
        };
        let (acl, default_acl) = (list(&meta.acl), list(&meta.default_acl));
        Shown {
            kind: node.kind,
            owner: names.user(meta.uid.0),
            group: names.group(meta.gid.0),
            mode: meta.mode,
            acl,
            default_acl,
            xattrs: xattrs(node, host).collect(),
            target: node.target.as_deref(),
            mtime: (node.kind == Kind::File).then(|| item.mtime()),
            content: content_of(item),
        }
    }
}

fn digest_of(shown: &impl Serialize) -> EntryDigest {
    let bytes = postcard::to_stdvec(shown).expect("it has only types that postcard can write");
    let digest: [u8; 32] = Sha256::digest(&bytes).into();
    *digest.first_chunk().expect("16 is less than 32")
}
