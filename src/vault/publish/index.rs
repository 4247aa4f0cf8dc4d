//! Which secrets have publications, and which of them may be other than their keys: kept beside the tree, under its lock.

use crate::model::{Ino, Kind, PUBLISH_XATTR};
use crate::vault::node::Node;
use std::collections::BTreeSet;

/// The secrets with publications.
#[derive(Debug, Default, Clone)]
pub struct PublishedIndex {
    all: BTreeSet<Ino>,
    touched: BTreeSet<Ino>,
    /// What was replaced, and by what.
    succeeded: Vec<(Ino, Ino)>,
}

impl PublishedIndex {
    /// A node came, changed or went.
    pub fn note(&mut self, ino: Ino, old: Option<&Node>, new: Option<&Node>) {
        if new.or(old).is_some_and(|node| node.kind == Kind::Directory) {
            // Its name is in the path of what is below, and its mode may keep somebody out of it.
            let walked = |node: &Node| {
                let meta = &node.meta;
                (node.parent, node.name.clone(), meta.mode, meta.uid, meta.gid, meta.acl.clone())
            };
            if !self.all.is_empty() && old.map(walked) != new.map(walked) {
                self.touched.extend(&self.all);
            }
            return;
        }
        let has = new.is_some_and(|node| node.meta.xattrs.contains_key(PUBLISH_XATTR));
        let had = if has { !self.all.insert(ino) } else { self.all.remove(&ino) };
        if has || had {
            self.touched.insert(ino);
        }
    }

    /// Another content will come of it, though its node did not change.
    pub fn touch(&mut self, ino: Ino) {
        if self.all.contains(&ino) {
            self.touched.insert(ino);
        }
    }

    /// What was published from one secret is published from another now: the keys go on. To be told when both are noted.
    pub fn succeed(&mut self, old: Ino, new: Ino) {
        if self.touched.contains(&old) {
            self.succeeded.push((old, new));
        }
    }

    /// All of them.
    pub fn all(&self) -> BTreeSet<Ino> {
        self.all.clone()
    }

    /// Those that changed since this was last asked, and those that others replaced, oldest first.
    pub fn take_touched(&mut self) -> (BTreeSet<Ino>, Vec<(Ino, Ino)>) {
        (std::mem::take(&mut self.touched), std::mem::take(&mut self.succeeded))
    }
}
