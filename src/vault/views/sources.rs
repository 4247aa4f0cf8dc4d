//! The sources of a view as they are at one moment.
//!
//! They are taken from the tree under its lock, all at once, and read afterwards: a commit in between does not mix two
//! generations, since a version never changes.

use super::super::node::{Node, Version};
use super::super::tree::Tree;
use super::super::{Vault, VaultError};
use super::later;
use crate::model::{Glob, Ino, Kind, Scope, SecretPath, Timestamp, VersionNo};
use crate::store::BlobKey;
use crate::view::{Definition, MAX_SOURCES, Sources, ViewError, too_many};
use sha2::{Digest, Sha256};
use std::collections::VecDeque;
use std::sync::Arc;

/// One source.
#[derive(Clone)]
pub struct Source {
    /// Its name as the definition has it.
    pub name: SecretPath,
    pub ino: Ino,
    pub node: Arc<Node>,
    /// Which of its versions is read, counted from the oldest.
    pub at: usize,
}

impl Source {
    /// The version that is read.
    pub fn version(&self) -> Option<&Version> {
        self.node.versions.get(self.at)
    }
}

/// A view's sources at one moment.
pub(super) struct Snapshot {
    definition: Arc<Definition>,
    /// In the definition's order; a name may be there twice.
    pub sources: Vec<Source>,
}

impl Snapshot {
    /// When the newest of them was committed.
    pub fn newest(&self) -> Option<Timestamp> {
        self.sources.iter().fold(None, |newest, source| later(newest, source.version().map(|v| v.time)))
    }

    /// What stands for this state of the view: the same as long as definition and sources are the same.
    pub fn mark(&self, ino: Ino) -> BlobKey {
        let mut digest = Sha256::new();
        digest.update(format!("{:?}", self.definition));
        for source in &self.sources {
            let version = source.version().map(|v| (v.number.0, v.time.secs, v.time.nanos));
            digest.update(format!("{}\0{version:?}\0", source.name));
        }
        let digest = digest.finalize();
        let mut first = [0; 8];
        first.copy_from_slice(&digest[..8]);
        // The highest bit is that of blobs sealed anew.
        BlobKey { ino, version: VersionNo(u64::from_be_bytes(first) >> 1) }
    }

    /// Takes the newest version away: what there was before the last commit. Whether there was anything.
    pub fn step_back(&mut self) -> bool {
        let newest = self.newest();
        let last = self.sources.iter().find(|s| s.at > 0 && s.version().map(|v| v.time) == newest).map(|s| s.ino);
        let Some(last) = last else { return false };
        self.sources.iter_mut().filter(|source| source.ino == last).for_each(|source| source.at -= 1);
        true
    }

    /// For the log: what is read, each once.
    pub fn words(&self) -> Vec<String> {
        let mut words: Vec<String> = Vec::new();
        for source in &self.sources {
            let number = source.version().map_or(0, |version| version.number.0);
            let word = format!("{} v{number}", source.name);
            if !words.contains(&word) {
                words.push(word);
            }
        }
        words
    }
}

impl Vault {
    /// The sources of a view as they are now.
    ///
    /// # Errors
    /// [`VaultError::NotComposed`] if one is not there; [`VaultError::Locked`].
    pub(super) fn snapshot(&self, view: &Node) -> Result<Snapshot, VaultError> {
        let definition = view.view.clone().ok_or(VaultError::NotFound)?;
        let sources = self.with_tree(|tree| find(tree, &view.scope, &definition))??;
        Ok(Snapshot { definition, sources })
    }
}

/// What the conditions of a view's sources say to what lasts longer than an open of it.
#[derive(Debug, Default)]
pub struct SourceConditions {
    /// The first source that is bound to who reads it.
    pub bound: Option<SecretPath>,
    /// When the first of them expires; a time that does not parse has passed.
    pub expires: Option<Timestamp>,
}

impl Vault {
    /// Of the view's sources as they are now; of a node that is none, nothing.
    pub(in crate::vault) fn conditions_of_sources(&self, view: &Node) -> SourceConditions {
        let mut all = SourceConditions::default();
        // One that cannot be looked at, for a source that is missing, is not composed either.
        for source in view.is_view().then(|| self.snapshot(view).ok()).flatten().into_iter().flat_map(|s| s.sources) {
            let conditions = source.node.meta.conditions();
            if conditions.of_a_process() {
                all.bound.get_or_insert(source.name.clone());
            }
            let ends = conditions
                .expires
                .map(|text| humantime::parse_rfc3339_weak(text).map_or(Timestamp::default(), Timestamp::from));
            all.expires = [all.expires, ends].into_iter().flatten().min();
        }
        all
    }
}

/// What a view is composed from at one moment, without opening any of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Composition {
    /// What stands for it; `None` while a source is missing.
    pub mark: Option<BlobKey>,
    /// When its newest source was committed.
    pub newest: Option<Timestamp>,
}

/// Of a node, if it is a view.
pub fn composition(tree: &Tree, ino: Ino, node: &Node) -> Option<Composition> {
    let definition = Arc::clone(node.view.as_ref()?);
    Some(match find(tree, &node.scope, &definition) {
        Ok(sources) => {
            let snapshot = Snapshot { definition, sources };
            Composition { mark: Some(snapshot.mark(ino)), newest: snapshot.newest() }
        }
        Err(_) => Composition { mark: None, newest: None },
    })
}

/// Finds what a definition names in its scope.
pub(super) fn find(tree: &Tree, scope: &Scope, definition: &Definition) -> Result<Vec<Source>, VaultError> {
    definition.with_sources(|sources| match sources {
        Sources::Named(names) => names.iter().map(|name| named(tree, scope, name)).collect(),
        Sources::Matching(glob) => matching(tree, scope, glob),
    })
}

fn named(tree: &Tree, scope: &Scope, name: &SecretPath) -> Result<Source, VaultError> {
    let missing = || VaultError::from(ViewError::Missing(name.to_string()));
    let root = root(tree, scope).ok_or_else(missing)?;
    let ino = name.names().iter().try_fold(root, |at, name| tree.child(at, name.as_str())).ok_or_else(missing)?;
    let node = tree.get(ino).ok_or_else(missing)?;
    match refusal(node, scope) {
        Some(why) => Err(VaultError::NotComposed(format!("'{name}' {why}"))),
        None if node.versions.is_empty() => Err(missing()),
        None => Ok(Source { name: name.clone(), ino, at: node.versions.len() - 1, node: Arc::clone(node) }),
    }
}

/// Why a node can be no source.
pub(super) fn refusal(node: &Node, scope: &Scope) -> Option<&'static str> {
    match node.kind {
        _ if node.scope != *scope => Some("belongs to another scope"),
        Kind::Directory => Some("is a directory"),
        Kind::Symlink => Some("is a symlink, which a view does not follow"),
        Kind::File if node.is_view() => Some("is a view itself, and views do not nest"),
        Kind::File => None,
    }
}

/// All secrets that match, by name; views, links and files that were never written left out.
fn matching(tree: &Tree, scope: &Scope, glob: &Glob) -> Result<Vec<Source>, VaultError> {
    let mut found = Vec::new();
    let Some(root) = root(tree, scope) else { return Ok(found) };
    let Some((start, path)) = start(tree, root, glob) else { return Ok(found) };
    let mut waiting = VecDeque::from([(start, path)]);
    while let Some((directory, path)) = waiting.pop_front() {
        for (name, ino) in tree.children(directory).into_iter().flatten() {
            let (Some(node), Ok(path)) = (tree.get(*ino), path.join(name)) else { continue };
            if node.scope != *scope {
                continue;
            }
            if node.kind == Kind::Directory && !node.is_view() {
                waiting.push_back((*ino, path));
            } else if refusal(node, scope).is_none() && !node.versions.is_empty() && glob.matches(&path) {
                if found.len() == MAX_SOURCES {
                    return Err(VaultError::NotComposed(too_many().to_string()));
                }
                let at = node.versions.len() - 1;
                found.push(Source { name: path, ino: *ino, node: Arc::clone(node), at });
            }
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// Where everything is that a pattern can mean: below the names it begins with that are plain.
fn start(tree: &Tree, root: Ino, glob: &Glob) -> Option<(Ino, SecretPath)> {
    let text = glob.as_str();
    let plain = text.find(['*', '?', '[', '\\']).map_or(text, |i| &text[..i]);
    let folder = plain.rfind('/').map_or("", |i| &plain[..i]);
    let path = SecretPath::parse(folder).ok()?;
    let ino = path.names().iter().try_fold(root, |at, name| tree.child(at, name.as_str()))?;
    Some((ino, path))
}

/// Where a scope's names begin.
fn root(tree: &Tree, scope: &Scope) -> Option<Ino> {
    match scope {
        Scope::Host => Some(Ino::ROOT),
        Scope::Container(_) => tree.find(&SecretPath::parse(&super::super::instances::folder(scope)).ok()?),
    }
}

/// A path of the tree as a scope names it.
pub(super) fn inside(scope: &Scope, path: &SecretPath) -> Option<SecretPath> {
    match scope {
        Scope::Host => Some(path.clone()),
        Scope::Container(_) => path.names().get(2..).map(|names| SecretPath::from_names(names.to_vec())),
    }
}
