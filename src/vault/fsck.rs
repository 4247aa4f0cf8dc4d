//! Checking the store: is every blob there, the one that was committed, and needed?

use super::node::Version;
use super::{Caller, Vault, VaultError};
use crate::access::{Operation, ScopeState};
use crate::audit;
use crate::caller::Daemon;
use crate::model::{Ino, Scope, SecretPath};
use crate::store::{BlobKey, Store};
use crate::wire::{Extract, Fsck, FsckReport, Problem};
use sha2::{Digest, Sha256};
use std::collections::HashSet;

/// What was checked and what is wrong.
#[derive(Debug, Default)]
pub struct Checked {
    /// Nodes.
    pub nodes: u64,
    /// Blobs.
    pub blobs: u64,
    /// What, and what is wrong with it.
    pub problems: Vec<(String, String)>,
}

impl Vault {
    /// Checks every blob against its record, and opens it if asked. The records themselves were checked at unlock.
    ///
    /// # Errors
    /// [`VaultError::Locked`].
    pub fn check(&self, open: bool) -> Result<Checked, VaultError> {
        // What is being sealed anew is there twice for a while.
        let _alone = self.sealing_anew();
        let mut checked = Checked::default();
        let mut needed = HashSet::new();
        let nodes: Vec<Ino> = self.with_tree(|t| t.nodes().map(|(ino, _)| ino).collect())?;
        for ino in nodes {
            let Ok((node, path)) = self.node_and_path(ino) else { continue };
            checked.nodes += 1;
            for version in &node.versions {
                needed.insert(version.blob);
                checked.blobs += 1;
                let verdict = check_blob(&self.store, version).and_then(|()| match open {
                    true => {
                        // As for a change: what has expired is none the worse for it.
                        let grant = self.judge(&Daemon, ino, &node, ScopeState::Alive, Operation::Write)?;
                        let kek = self.keys()?.kek(&node.scope).map_err(|_| VaultError::Locked)?;
                        self.decrypt(&grant, &kek, Some(version)).map(|_| ())
                    }
                    false => Ok(()),
                });
                // One that went meanwhile is no problem.
                if let Err(error) = verdict
                    && !self.moved_on(ino, &node)
                {
                    checked.problems.push((path.clone(), format!("version {}: {error}", version.number)));
                }
            }
        }
        self.check_scopes(&mut checked)?;
        let tombstones: Vec<_> = self.with_tree(|t| t.tombstones().map(|(_, g)| g.clone()).collect())?;
        for tombstone in tombstones {
            for version in &tombstone.versions {
                needed.insert(version.blob);
                checked.blobs += 1;
                if let Err(error) = check_blob(&self.store, version)
                    && self.is_buried(&tombstone)?
                {
                    let what = format!("version {} (removed): {error}", version.number);
                    checked.problems.push((tombstone.path.clone(), what));
                }
            }
        }
        for blob in self.orphans(&needed)? {
            checked.problems.push((format!("blob {}.{}", blob.ino, blob.version), "belongs to no secret".into()));
        }
        Ok(checked)
    }

    /// Each scope's key, and whose nodes and keys belong to none.
    fn check_scopes(&self, checked: &mut Checked) -> Result<(), VaultError> {
        let declared: HashSet<Scope> =
            self.with_open(|o| o.scopes.declared().map(|d| d.record.scope.clone()).collect())?;
        let keys: HashSet<String> = self.store.scopes()?.into_iter().map(|(name, _)| name).collect();
        for scope in declared.iter().filter(|scope| !keys.contains(scope.as_str())) {
            checked.problems.push((format!("scope {scope}"), "its key is missing".into()));
        }
        let known = |name: &str| name == Scope::Host.as_str() || declared.iter().any(|scope| scope.as_str() == name);
        for name in keys.iter().filter(|name| !known(name)) {
            checked.problems.push((format!("scope {name}"), "a key of no declared scope".into()));
        }
        let stray: Vec<String> = self.with_tree(|t| {
            let stray = t.nodes().filter(|(_, node)| !known(node.scope.as_str()));
            stray.filter_map(|(ino, _)| t.path(ino)).map(|path| path.to_string()).collect()
        })?;
        checked.problems.extend(stray.into_iter().map(|path| (path, "belongs to a scope that is not declared".into())));
        Ok(())
    }

    /// The blob of a path as it is stored: an age file.
    pub(super) fn sealed_blob(&self, path: &SecretPath, number: Option<u64>) -> Result<Vec<u8>, VaultError> {
        let (versions, _) = self.versions(path)?;
        let version = match number {
            None => versions.last(),
            Some(n) => versions.iter().find(|v| v.number.0 == n),
        };
        let version = version.ok_or(VaultError::NotFound)?;
        let blob = self.store.blob(version.blob)?;
        blob.map(|b| b.to_vec()).ok_or_else(|| VaultError::Damaged("its blob is missing".into()))
    }

    /// The sealed blob of a secret, recorded.
    pub(crate) fn extract_blob(&self, caller: &impl Caller, extract: &Extract) -> Result<Vec<u8>, VaultError> {
        let blob = self.sealed_blob(&extract.path, extract.version)?;
        let path = extract.path.to_string();
        self.record(audit::Operation::Extract, &path, extract.version, &caller.who(), "admin")?;
        Ok(blob)
    }

    /// Whether a removed secret is still kept as it was, once what is under way is done.
    fn is_buried(&self, tombstone: &super::node::Tombstone) -> Result<bool, VaultError> {
        drop(self.lock_writer());
        self.with_tree(|t| t.tombstone(&tombstone.path).is_some_and(|(_, now)| now.versions == tombstone.versions))
    }

    pub(super) fn orphans(&self, needed: &HashSet<BlobKey>) -> Result<Vec<BlobKey>, VaultError> {
        // Commits between the look at the tree and the look at the blobs are no orphans: hold them off, and look again.
        // Neither are blobs that go with the next transaction: make it now.
        let mut writer = self.lock_writer();
        self.flush(&mut writer)?;
        let mut known: HashSet<BlobKey> = needed.clone();
        self.with_tree(|t| {
            known.extend(t.nodes().flat_map(|(_, n)| n.versions.iter().map(|v| v.blob)));
            known.extend(t.tombstones().flat_map(|(_, g)| g.versions.iter().map(|v| v.blob)));
        })?;
        Ok(self.store.blob_keys()?.into_iter().filter(|blob| !known.contains(blob)).collect())
    }

    /// What was removed for good is in the journal's files no longer either.
    pub(super) fn scrub(&self) -> Result<(), VaultError> {
        let not_wiped =
            |error| VaultError::Failed(format!("it is removed, but the journal could not be wiped: {error}"));
        self.store.scrub().map_err(not_wiped)
    }

    pub(crate) fn fsck_report(&self, fsck: Fsck) -> Result<FsckReport, VaultError> {
        let checked = self.check(fsck.open)?;
        let problem = |(what, problem)| Problem { what, problem };
        Ok(FsckReport {
            generation: self.store.generation().map_or(0, |g| g.0),
            nodes: checked.nodes,
            blobs: checked.blobs,
            opened: fsck.open,
            problems: checked.problems.into_iter().map(problem).collect(),
        })
    }
}

/// Whether the blob of a version is there, and the one that was committed.
pub(super) fn check_blob(store: &Store, version: &Version) -> Result<(), VaultError> {
    let blob = store.blob(version.blob)?.ok_or_else(|| VaultError::Damaged("its blob is missing".into()))?;
    if <[u8; 32]>::from(Sha256::digest(&*blob)) == version.digest {
        Ok(())
    } else {
        Err(VaultError::Damaged("its blob is not the one that was committed".into()))
    }
}
