//! Which nodes may be other than what hosts were sent: kept beside the tree, under its lock.

use crate::model::{Ino, Kind};
use crate::vault::node::Node;
use std::collections::BTreeSet;

/// More than these are as good as all.
const MAX: usize = 100_000;

/// What changed since this was last asked.
#[derive(Debug, Default, Clone)]
pub struct ExportTouched {
    /// Nodes that came, changed or went.
    pub nodes: BTreeSet<Ino>,
    /// Directories that have another path, with all that is below them.
    pub moved: BTreeSet<Ino>,
    /// Too many to name.
    pub all: bool,
}

impl ExportTouched {
    /// A node came, changed or went.
    pub fn note(&mut self, ino: Ino, old: Option<&Node>, new: Option<&Node>) {
        if self.all || old.map(shown) == new.map(shown) {
            return;
        }
        let place = |node: &Node| (node.parent, node.name.clone());
        let is_directory = new.or(old).is_some_and(|node| node.kind == Kind::Directory);
        if is_directory && old.is_some() && new.is_some() && old.map(place) != new.map(place) {
            self.moved.insert(ino);
        }
        self.nodes.insert(ino);
        if self.nodes.len() > MAX {
            *self = ExportTouched { all: true, ..ExportTouched::default() };
        }
    }

    /// Adds another's.
    pub fn extend(&mut self, other: ExportTouched) {
        self.nodes.extend(other.nodes);
        self.moved.extend(other.moved);
        self.all |= other.all;
        if self.all || self.nodes.len() > MAX {
            *self = ExportTouched { all: true, ..ExportTouched::default() };
        }
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty() && !self.all
    }
}

/// What of a node a host would see. A directory's times change with every entry of it, and are nobody's business.
fn shown(node: &Node) -> impl PartialEq + use<'_> {
    let meta = &node.meta;
    let content = node.current().map(|v| (v.blob.ino, v.number, v.time));
    let mtime = (node.kind == Kind::File).then_some(meta.mtime);
    let rights = (meta.uid, meta.gid, meta.mode, &meta.acl, &meta.default_acl);
    (node.parent, &node.name, node.kind, rights, &meta.xattrs, &node.target, content, mtime)
}
