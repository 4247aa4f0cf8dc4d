//! The tree in memory while the store is unlocked: nodes by inode, entries by directory, removed names by path.
//!
//! Owns the links between nodes and the counts that bounds and blobs are kept by. Knows nothing of callers, seals or the
//! store.

mod history;
mod undo;

pub use history::{InheritedHistory, Recount};

use super::VaultError;
use super::export::ExportTouched;
use super::kept::{Keeper, Kept, Tombstones};
use super::node::{Node, Record, Tombstone};
use super::publish::PublishedIndex;
use super::views::{TouchedView, ViewIndex};
use crate::model::{Ino, Kind, Name, Scope, SecretPath};
use crate::store::BlobKey;
use history::RenamedAway;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

/// The tree. A copy shares the nodes: it costs the links alone.
#[derive(Default, Clone)]
pub struct Tree {
    nodes: HashMap<Ino, Arc<Node>>,
    entries: HashMap<Ino, BTreeMap<Name, Ino>>,
    /// How often the entries of a directory changed; those of which that is not known never did.
    generations: HashMap<Ino, u64>,
    tombstones: Tombstones,
    /// Blobs that more than one name has in its history: how many beyond the first.
    shared: HashMap<BlobKey, u32>,
    /// What each has.
    kept: Kept,
    left: VecDeque<RenamedAway>,
    published: PublishedIndex,
    exported: ExportTouched,
    views: ViewIndex,
    /// What was before the transaction that is under way.
    undo: Option<Vec<undo::Was>>,
}

impl Tree {
    /// An empty one for so many nodes.
    pub fn with_room_for(nodes: usize) -> Self {
        Tree { nodes: HashMap::with_capacity(nodes), ..Tree::default() }
    }

    /// Takes a node from the store. [`Tree::finish`] links them when all are there.
    pub fn load_node(&mut self, ino: Ino, node: Arc<Node>) {
        self.published.note(ino, None, Some(&node));
        self.views.register(ino, Some(&node));
        self.kept.note(&node, true);
        self.nodes.insert(ino, node);
    }

    /// Takes a removed secret from the store.
    pub fn load_tombstone(&mut self, ino: Ino, tombstone: Tombstone) {
        self.tombstones.insert(ino, tombstone, &mut self.kept);
    }

    /// Links what was loaded.
    ///
    /// # Errors
    /// [`VaultError::Damaged`] if there is no root, a node has no directory, a name is there twice, or directories form
    /// a circle.
    pub fn finish(&mut self) -> Result<(), VaultError> {
        let damaged = |what: &str| VaultError::Damaged(format!("the tree: {what}"));
        if self.nodes.get(&Ino::ROOT).is_none_or(|n| n.kind != Kind::Directory) {
            return Err(damaged("it has no root"));
        }
        // Sorted first: a map made of what is in order takes a fraction of the time of one made name by name.
        let mut entries: Vec<(Ino, Name, Ino)> = Vec::with_capacity(self.nodes.len());
        for (ino, node) in &self.nodes {
            if node.kind == Kind::Directory {
                self.entries.entry(*ino).or_default();
            }
            let Some(name) = &node.name else {
                if *ino == Ino::ROOT { continue } else { return Err(damaged("a node has no name")) }
            };
            if self.nodes.get(&node.parent).is_none_or(|p| p.kind != Kind::Directory) {
                return Err(damaged("a node has no directory"));
            }
            entries.push((node.parent, name.clone(), *ino));
        }
        entries.sort_unstable();
        if entries.windows(2).any(|pair| (pair[0].0, &pair[0].1) == (pair[1].0, &pair[1].1)) {
            return Err(damaged("a name is there twice"));
        }
        let mut entries = entries.into_iter().peekable();
        while let Some(parent) = entries.peek().map(|(parent, ..)| *parent) {
            let own = std::iter::from_fn(|| entries.next_if(|(of, ..)| *of == parent));
            self.entries.insert(parent, own.map(|(_, name, ino)| (name, ino)).collect());
        }
        for ino in self.entries.keys() {
            self.path(*ino).ok_or_else(|| damaged("a circle of directories"))?;
        }
        let mut seen = HashSet::with_capacity(self.nodes.len());
        let refs =
            self.nodes.values().flat_map(|n| &n.versions).chain(self.tombstones.all().flat_map(|(_, g)| &g.versions));
        for version in refs {
            if !seen.insert(version.blob) {
                *self.shared.entry(version.blob).or_default() += 1;
            }
        }
        Ok(())
    }

    /// A node.
    pub fn get(&self, ino: Ino) -> Option<&Arc<Node>> {
        self.nodes.get(&ino)
    }

    /// The inode of a name in a directory.
    pub fn child(&self, directory: Ino, name: &str) -> Option<Ino> {
        self.entries.get(&directory)?.get(name).copied()
    }

    /// The entries of a directory, sorted by name.
    pub fn children(&self, directory: Ino) -> Option<&BTreeMap<Name, Ino>> {
        self.entries.get(&directory)
    }

    /// Counts up whenever the entries of a directory change, its own parent included.
    pub fn entries_generation(&self, directory: Ino) -> Option<u64> {
        self.entries.contains_key(&directory).then(|| self.generations.get(&directory).copied().unwrap_or(0))
    }

    /// The entries of a directory changed.
    fn listed_anew(&mut self, directory: Ino) {
        *self.generations.entry(directory).or_default() += 1;
    }

    /// The node at a path. Follows no symlink.
    pub fn find(&self, path: &SecretPath) -> Option<Ino> {
        path.names().iter().try_fold(Ino::ROOT, |at, name| self.child(at, name.as_str()))
    }

    /// The path of a node; `None` if it is not linked to the root.
    pub fn path(&self, ino: Ino) -> Option<SecretPath> {
        let mut names = Vec::new();
        let mut at = ino;
        while at != Ino::ROOT {
            let node = self.nodes.get(&at)?;
            names.push(node.name.clone()?);
            at = node.parent;
            if names.len() > 4096 {
                return None;
            }
        }
        names.reverse();
        Some(SecretPath::from_names(names))
    }

    /// The directories above a node, nearest first, to the root; nothing above what has lost its place.
    pub fn above(&self, ino: Ino) -> impl Iterator<Item = (Ino, &Arc<Node>)> {
        let parent = |ino: Ino| self.nodes.get(&ino).filter(|_| ino != Ino::ROOT).map(|node| node.parent);
        let with = move |ino: Ino| Some((ino, self.nodes.get(&ino)?));
        // A tree without circles ends; the bound is that of a path.
        std::iter::successors(parent(ino).and_then(with), move |(ino, _)| parent(*ino).and_then(with)).take(4096)
    }

    /// Whether `ino` is `above` or lies below it.
    pub fn is_below(&self, ino: Ino, above: Ino) -> bool {
        let mut at = ino;
        loop {
            if at == above {
                return true;
            }
            match self.nodes.get(&at) {
                Some(node) if at != Ino::ROOT => at = node.parent,
                Some(_) | None => return false,
            }
        }
    }

    /// The secrets with publications.
    pub fn published(&mut self) -> &mut PublishedIndex {
        &mut self.published
    }

    /// What changed of what hosts may get, since this was last asked.
    pub fn take_exported(&mut self) -> ExportTouched {
        std::mem::take(&mut self.exported)
    }

    /// All secrets with publications.
    pub fn all_published(&self) -> std::collections::BTreeSet<Ino> {
        self.published.all()
    }

    /// Puts a new node, or a changed one in the place of what it was. Links it under its parent and name.
    pub fn put(&mut self, ino: Ino, node: Node) {
        self.note_node(ino);
        let was_at = self.path_of_source(ino);
        let old = self.unlink(ino);
        if old.as_ref().is_none_or(|old| (old.parent, &old.name) != (node.parent, &node.name)) {
            old.iter().map(|old| old.parent).chain([node.parent, ino]).for_each(|ino| self.listed_anew(ino));
        }
        self.published.note(ino, old.as_deref(), Some(&node));
        self.exported.note(ino, old.as_deref(), Some(&node));
        self.views.register(ino, Some(&node));
        if let Some(name) = &node.name {
            self.entries.entry(node.parent).or_default().insert(name.clone(), ino);
        }
        if node.kind == Kind::Directory {
            self.entries.entry(ino).or_default();
        }
        self.kept.note(&node, true);
        let node = Arc::new(node);
        self.nodes.insert(ino, Arc::clone(&node));
        let is_at = self.path_of_source(ino);
        self.views.note((old.as_ref(), was_at.as_ref()), (Some(&node), is_at.as_ref()));
    }

    /// The path, if any view might read it.
    fn path_of_source(&self, ino: Ino) -> Option<SecretPath> {
        if self.views.is_empty() { None } else { self.path(ino) }
    }

    /// The views.
    pub fn views(&mut self) -> &mut ViewIndex {
        &mut self.views
    }

    /// The views.
    pub fn all_views(&self) -> &ViewIndex {
        &self.views
    }

    /// The views whose sources changed since this was last asked.
    pub fn take_touched_views(&mut self) -> Vec<TouchedView> {
        let touched = self.views.take_touched();
        for view in &touched {
            self.published.touch(view.ino);
            self.exported.touch(view.ino);
        }
        for ino in self.views.take_bound() {
            self.published.touch(ino);
        }
        touched
    }

    /// Takes a node out. Its blobs are the caller's business.
    pub fn remove(&mut self, ino: Ino) -> Option<Arc<Node>> {
        self.note_node(ino);
        let was_at = self.path_of_source(ino);
        let node = self.unlink(ino)?;
        self.published.note(ino, Some(&node), None);
        self.exported.note(ino, Some(&node), None);
        self.views.register(ino, None);
        self.views.note((Some(&node), was_at.as_ref()), (None, None));
        self.entries.remove(&ino);
        self.generations.remove(&ino);
        self.listed_anew(node.parent);
        Some(node)
    }

    fn unlink(&mut self, ino: Ino) -> Option<Arc<Node>> {
        let node = self.nodes.remove(&ino)?;
        if let (Some(name), Some(entries)) = (&node.name, self.entries.get_mut(&node.parent))
            && entries.get(name.as_str()) == Some(&ino)
        {
            entries.remove(name.as_str());
        }
        self.kept.note(&node, false);
        Some(node)
    }

    /// Below a directory, the names on the way to what is deepest, and to what has the longest path.
    pub fn extremes(&self, directory: Ino) -> [Vec<Name>; 2] {
        let bytes = |names: &[Name]| names.iter().map(|n| n.as_str().len() + 1).sum::<usize>();
        let mut found = [Vec::new(), Vec::new()];
        for (name, child) in self.children(directory).into_iter().flatten() {
            let [mut deep, mut long] = self.extremes(*child);
            deep.insert(0, name.clone());
            long.insert(0, name.clone());
            if deep.len() > found[0].len() {
                found[0] = deep;
            }
            if bytes(&long) > bytes(&found[1]) {
                found[1] = long;
            }
        }
        found
    }

    /// Everything that has a history: its record, by inode.
    pub fn record(&self, ino: Ino) -> Option<Record> {
        let node = self.nodes.get(&ino).map(|node| Record::Node((**node).clone()));
        let tombstone =
            || self.tombstones.all().find(|(i, _)| *i == ino).map(|(_, g)| Record::Tombstone((**g).clone()));
        node.or_else(tombstone)
    }

    /// Secrets in the tree.
    pub fn files(&self) -> u64 {
        self.kept.all().files
    }

    /// Nodes of all kinds.
    pub fn len(&self) -> u64 {
        self.nodes.len() as u64
    }

    /// What each has.
    pub fn kept(&self) -> &Kept {
        &self.kept
    }

    /// Secrets in a container's scope.
    pub fn files_of(&self, scope: &Scope) -> u64 {
        self.kept.of(&Keeper::Scope(scope.clone())).files
    }

    /// All nodes, in no order.
    pub fn nodes(&self) -> impl Iterator<Item = (Ino, &Arc<Node>)> {
        self.nodes.iter().map(|(ino, node)| (*ino, node))
    }
}
