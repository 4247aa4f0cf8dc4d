//! Directories that are views: their entries are nodes, made and taken away as their sources change.
//!
//! An entry is a view of one certificate. It has its directory's owner, group, mode without the search bits, and ACL.

use super::super::node::Node;
use super::super::writer::Writer;
use super::super::{Change, Vault, VaultError};
use super::compose::parts;
use crate::model::{Acl, AclEntry, Ino, Kind, Meta, Name};
use crate::view::{Definition, hashed};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Bits of a mode or an ACL that mean something for a file here.
const FILE_MODE: u16 = 0o666;

impl Vault {
    /// The store was unlocked, or the key of a scope is there again: what could not be done may be possible now.
    pub(in crate::vault) fn all_directories_anew(&self) {
        let _writer = self.lock_writer();
        let _ = self.with_tree_mut(|tree| tree.views().all_stale());
        self.news_of_views();
    }

    /// Makes every directory anew whose sources changed.
    pub(super) fn refresh_all(&self) {
        let stale = self.with_tree(|tree| tree.all_views().stale()).unwrap_or_default();
        for directory in stale {
            self.refresh(directory);
        }
    }

    /// Makes a directory's entries what its sources say, if they are not. Called without the vault's locks.
    pub(in crate::vault) fn refresh_if_stale(&self, directory: Ino) {
        if self.with_tree(|tree| tree.all_views().is_stale(directory)).unwrap_or(false) {
            self.refresh(directory);
        }
    }

    fn refresh(&self, directory: Ino) {
        let mut writer = self.lock_writer();
        // Another was faster.
        if !self.with_tree(|tree| tree.all_views().is_stale(directory)).unwrap_or(false) {
            return;
        }
        if let Err(error) = self.transact_with(&mut writer, |writer| self.try_refresh(writer, directory)) {
            // Not again before something changes: looking at it must not keep others from writing.
            let _ = self.with_tree_mut(|tree| tree.views().is_fresh(directory));
            tracing::warn!(path = %self.path_of(directory, None), %error, "a directory of certificates is not up to date");
        }
    }

    fn try_refresh(&self, writer: &mut Writer, directory: Ino) -> Result<(), VaultError> {
        let node = self.node(directory)?;
        let snapshot = self.snapshot(&node)?;
        let keys = self.keys()?;
        let kek = keys.kek(&node.scope).map_err(|state| VaultError::Denied(super::super::open::denial_of(state)))?;
        let opened = self.read_sources(&snapshot.sources, &kek)?;
        let parts = parts(&snapshot.sources, &opened);
        let mut wanted: BTreeMap<Name, Definition> = BTreeMap::new();
        for entry in hashed(&parts) {
            let source = parts[entry.part].name.clone();
            wanted.insert(Name::parse(entry.name.as_bytes())?, Definition::Hashed { source, digest: entry.digest });
        }
        let there: Vec<(Name, Ino)> = self.with_tree(|tree| {
            tree.children(directory).into_iter().flatten().map(|(name, ino)| (name.clone(), *ino)).collect()
        })?;
        let meta = meta_of_entries(&node.meta);
        let mut changed = Vec::new();
        for (name, ino) in there {
            let is = self.node(ino)?;
            match wanted.remove(&name) {
                Some(definition) if is.view.as_deref() == Some(&definition) => {
                    if !same_access(&is.meta, &meta) {
                        let times = Meta { btime: is.meta.btime, ..meta.clone() };
                        self.put(writer, ino, Node { meta: times, ..(*is).clone() })?;
                        self.notify(Change::Node(ino));
                    }
                }
                // Another certificate has the name: another inode, so that nobody who has the old one open is confused.
                other => {
                    self.with_tree_mut(|tree| tree.remove(ino))?;
                    writer.touch(ino);
                    changed.push(name.clone());
                    wanted.extend(other.map(|definition| (name, definition)));
                }
            }
        }
        self.check_room_for(wanted.len() as u64)?;
        for (name, definition) in wanted {
            let ino = writer.next_ino()?;
            let entry = Node {
                parent: directory,
                name: Some(name.clone()),
                kind: Kind::File,
                scope: node.scope.clone(),
                meta: meta.clone(),
                target: None,
                versions: Vec::new(),
                last_number: 0,
                view: Some(Arc::new(definition)),
            };
            self.put(writer, ino, entry)?;
            changed.push(name);
        }
        if !changed.is_empty() {
            self.stamp(writer, directory)?;
        }
        // Last: stamping it made it stale once more.
        self.with_tree_mut(|tree| {
            tree.views().is_fresh(directory);
            tree.views().take_touched();
        })?;
        for name in changed {
            self.notify(Change::Entry { parent: directory, name });
        }
        self.notify(Change::Node(directory));
        Ok(())
    }
}

fn meta_of_entries(directory: &Meta) -> Meta {
    let mut meta = Meta::new(directory.uid, directory.gid, directory.mode & FILE_MODE);
    let file = |entry: &AclEntry| AclEntry { perm: entry.perm & 6, ..*entry };
    meta.acl = directory.acl.as_ref().and_then(|acl| Acl::from_entries(acl.entries().iter().map(file).collect()).ok());
    meta
}

fn same_access(a: &Meta, b: &Meta) -> bool {
    (a.uid, a.gid, a.mode, &a.acl) == (b.uid, b.gid, b.mode, &b.acl)
}
