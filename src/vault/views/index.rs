//! Which nodes are views, and which of them have another content since their sources changed: kept beside the tree, under
//! its lock.

use super::super::node::Node;
use super::super::on_change::ON_CHANGE;
use super::sources::inside;
use crate::model::{Ino, Kind, Scope, SecretPath};
use crate::view::Definition;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// All views.
#[derive(Default, Clone)]
pub struct ViewIndex {
    all: BTreeMap<Ino, Entry>,
    touched: BTreeSet<Ino>,
    /// Those of which a source has other conditions now.
    bound: BTreeSet<Ino>,
    /// Directories whose entries are not what their sources say.
    stale: BTreeSet<Ino>,
}

#[derive(Clone)]
struct Entry {
    scope: Scope,
    definition: Arc<Definition>,
    has_unit: bool,
}

/// A view whose sources changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TouchedView {
    /// Which.
    pub ino: Ino,
    /// Whether it is a directory.
    pub is_directory: bool,
    /// Whether a unit wants to hear of it.
    pub has_unit: bool,
}

impl ViewIndex {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// All of them.
    pub fn inodes(&self) -> impl Iterator<Item = Ino> {
        self.all.keys().copied()
    }

    /// A node is this now, or gone.
    pub fn register(&mut self, ino: Ino, node: Option<&Node>) {
        let view = node.and_then(|node| Some((node, node.view.as_ref()?)));
        match view {
            Some((node, definition)) => {
                // A directory's entries are as itself: what changes it makes them anew.
                if definition.is_directory() {
                    self.stale.insert(ino);
                    self.touched.insert(ino);
                }
                let has_unit = node.meta.xattrs.contains_key(ON_CHANGE);
                let entry = Entry { scope: node.scope.clone(), definition: Arc::clone(definition), has_unit };
                self.all.insert(ino, entry);
            }
            None => {
                self.all.remove(&ino);
                self.stale.remove(&ino);
                self.touched.remove(&ino);
            }
        }
    }

    /// A node changed, came or went: what it was and where, what it is and where.
    pub fn note(
        &mut self,
        old: (Option<&Arc<Node>>, Option<&SecretPath>),
        new: (Option<&Arc<Node>>, Option<&SecretPath>),
    ) {
        if self.all.is_empty() {
            return;
        }
        let moved = old.1 != new.1;
        match (old.0, new.0) {
            // Names of sources are in it.
            (Some(node), Some(_)) if node.kind == Kind::Directory => {
                if moved {
                    self.touch_all();
                }
            }
            (Some(node), None) | (None, Some(node)) if node.kind == Kind::Directory => {}
            (was, is) => {
                let state = |node: &Arc<Node>| node.current().map(|version| (version.number, version.time));
                if !moved && was.map(state) == is.map(state) {
                    // The same content for fewer, or for less long: nobody who reads the view hears of it.
                    if was.map(|node| node.meta.conditions()) != is.map(|node| node.meta.conditions())
                        && let (Some(node), Some(path)) = new
                    {
                        self.bound.extend(self.readers(&node.scope, path));
                    }
                    return;
                }
                for (node, path) in [old, new] {
                    if let (Some(node), Some(path)) = (node, path) {
                        self.touch_readers(&node.scope, path);
                    }
                }
            }
        }
    }

    fn touch_readers(&mut self, scope: &Scope, path: &SecretPath) {
        for ino in self.readers(scope, path) {
            self.touched.insert(ino);
            if self.all.get(&ino).is_some_and(|entry| entry.definition.is_directory()) {
                self.stale.insert(ino);
            }
        }
    }

    /// The views that read what is at a path.
    fn readers(&self, scope: &Scope, path: &SecretPath) -> Vec<Ino> {
        let Some(name) = inside(scope, path) else { return Vec::new() };
        let reads = |(_, entry): &(&Ino, &Entry)| entry.scope == *scope && entry.definition.reads(&name);
        self.all.iter().filter(reads).map(|(ino, _)| *ino).collect()
    }

    fn touch_all(&mut self) {
        for (ino, entry) in &self.all {
            self.touched.insert(*ino);
            if entry.definition.is_directory() {
                self.stale.insert(*ino);
            }
        }
    }

    /// The views whose sources changed since this was last asked.
    pub fn take_touched(&mut self) -> Vec<TouchedView> {
        let touched = std::mem::take(&mut self.touched);
        let of = |ino: Ino| {
            let entry = self.all.get(&ino)?;
            Some(TouchedView { ino, is_directory: entry.definition.is_directory(), has_unit: entry.has_unit })
        };
        touched.into_iter().filter_map(of).collect()
    }

    /// The views of which a source got other conditions since this was last asked.
    pub fn take_bound(&mut self) -> BTreeSet<Ino> {
        std::mem::take(&mut self.bound)
    }

    /// No directory's entries are known to be what its sources say.
    pub fn all_stale(&mut self) {
        self.stale = self.all.iter().filter(|(_, e)| e.definition.is_directory()).map(|(ino, _)| *ino).collect();
    }

    /// Whether a directory's entries are not what its sources say.
    pub fn is_stale(&self, directory: Ino) -> bool {
        self.stale.contains(&directory)
    }

    /// All such directories.
    pub fn stale(&self) -> Vec<Ino> {
        self.stale.iter().copied().collect()
    }

    /// Its entries are made anew from now on.
    pub fn is_fresh(&mut self, directory: Ino) {
        self.stale.remove(&directory);
    }
}
