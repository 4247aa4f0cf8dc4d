//! What anybody may ask of the tree: names, attributes, entries, where a link points.

use super::node::Attr;
use super::state::Unlocked;
use super::{Vault, VaultError};
use crate::model::{Ino, Name, SecretPath};

impl Vault {
    /// What stat(2) shows.
    ///
    /// # Errors
    /// [`VaultError::Locked`], [`VaultError::NotFound`].
    pub fn attr(&self, ino: Ino) -> Result<Attr, VaultError> {
        let found = self.with_open(|open| open.shown(ino))?;
        self.sized(found)
    }

    /// What was found, with the size that readers meet. Called without the vault's locks.
    pub(super) fn sized(&self, found: Option<(Attr, bool)>) -> Result<Attr, VaultError> {
        match found.ok_or(VaultError::NotFound)? {
            (attr, true) => Ok(self.with_composed_size(attr)),
            (attr, false) => Ok(attr),
        }
    }

    /// The node of this name in a directory.
    ///
    /// # Errors
    /// [`VaultError::Locked`], [`VaultError::NotFound`].
    pub fn lookup(&self, parent: Ino, name: &str) -> Result<Attr, VaultError> {
        let look = |open: &Unlocked| {
            let found = open.tree.child(parent, name).and_then(|ino| open.shown(ino));
            (open.tree.all_views().is_stale(parent), found)
        };
        let (stale, mut found) = self.with_open(look)?;
        if stale {
            self.refresh_if_stale(parent);
            found = self.with_open(look)?.1;
        }
        self.sized(found)
    }

    /// The node at a path; symlinks are not followed.
    ///
    /// # Errors
    /// [`VaultError::Locked`], [`VaultError::NotFound`].
    pub fn find(&self, path: &SecretPath) -> Result<Ino, VaultError> {
        self.with_tree(|tree| tree.find(path))?.ok_or(VaultError::NotFound)
    }

    /// The entries of a directory: inode, what it is, name; sorted by name.
    ///
    /// # Errors
    /// [`VaultError::Locked`], [`VaultError::NotFound`].
    pub fn entries(&self, directory: Ino) -> Result<Vec<(Ino, crate::model::Kind, Name)>, VaultError> {
        self.refresh_if_stale(directory);
        let entries = self.with_tree(|tree| {
            let children = tree.children(directory)?;
            let entry = |(name, ino): (&Name, &Ino)| tree.get(*ino).map(|n| (*ino, n.kind, name.clone()));
            Some(children.iter().filter_map(entry).collect())
        })?;
        entries.ok_or(VaultError::NotFound)
    }

    /// Counts up whenever the entries of a directory change, while the store is unlocked.
    ///
    /// # Errors
    /// [`VaultError::Locked`], [`VaultError::NotFound`].
    pub fn entries_generation(&self, directory: Ino) -> Result<u64, VaultError> {
        self.refresh_if_stale(directory);
        self.with_tree(|tree| tree.entries_generation(directory))?.ok_or(VaultError::NotFound)
    }

    /// The directory a directory is in.
    ///
    /// # Errors
    /// [`VaultError::Locked`], [`VaultError::NotFound`].
    pub fn parent(&self, ino: Ino) -> Result<Ino, VaultError> {
        self.with_tree(|tree| tree.get(ino).map(|n| n.parent))?.ok_or(VaultError::NotFound)
    }

    /// Where a symlink points.
    ///
    /// # Errors
    /// [`VaultError::Locked`], [`VaultError::NotFound`], [`VaultError::Invalid`] for what is no symlink.
    pub fn read_link(&self, ino: Ino) -> Result<String, VaultError> {
        let node = self.node(ino)?;
        node.target.as_ref().map(|t| t.to_string()).ok_or_else(|| VaultError::Invalid("not a symlink".into()))
    }
}
