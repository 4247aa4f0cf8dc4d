//! Committing content: checked, sealed, recorded, and on disk when it returns.

use super::abreast::Writing;
use super::kept::{Count, Keeper};
use super::node::Node;
use super::open::denial_of;
use super::version::Changed;
use super::write_right::{ModeIs, WriteRight};
use super::writer::Writer;
use super::{Vault, VaultError};
use crate::audit;
use crate::enrol;
use crate::meter::{Payer, Resource};
use crate::model::{CallerInfo, Name, Timestamp, Uid, VersionNo};
use crate::seal::{self, BlobDigest};
use crate::store::Batch;
use std::collections::BTreeMap;
use std::time::Instant;

/// New content of a secret.
#[derive(Debug, Clone, Copy)]
pub struct Content<'a> {
    /// The bytes.
    pub bytes: &'a [u8],
    /// When it was written; `None` leaves the node's time of change as somebody set it.
    pub mtime: Option<Timestamp>,
}

/// Who else may be at work while a commit waits for the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beside {
    Others,
    Nobody,
}

/// What came of a try to commit.
enum Commit {
    /// The new version's number; `None` if nobody could ever read it.
    Done(Option<VersionNo>),
    /// It has to do with other secrets: it is tried again while nothing is under way. Nothing was changed.
    Alone,
}

impl Vault {
    /// Makes a new version. `None` if the secret has no name any more: then nobody could ever read it.
    ///
    /// # Errors
    /// [`VaultError::Invalid`] if the content is refused, [`VaultError::TooBig`], [`VaultError::NoSpace`],
    /// [`VaultError::Denied`] if the right to write was taken away since, or the scope's key is gone; the old version is as
    /// it was.
    pub fn commit(
        &self,
        right: &WriteRight,
        who: &CallerInfo,
        content: Content<'_>,
    ) -> Result<Option<VersionNo>, VaultError> {
        self.commit_as(right, who, content, ModeIs::AsFound)
    }

    /// As [`Vault::commit`], where the writer may have changed the mode himself.
    ///
    /// # Errors
    /// As [`Vault::commit`].
    pub fn commit_as(
        &self,
        right: &WriteRight,
        who: &CallerInfo,
        content: Content<'_>,
        mode: ModeIs,
    ) -> Result<Option<VersionNo>, VaultError> {
        let ino = right.ino();
        let (node, path) = match self.node_and_path(ino) {
            Err(VaultError::NotFound) => return Ok(None),
            found => found?,
        };
        let result = self.commit_to(right, who, content, &node, mode);
        if let Err(VaultError::Denied(denial)) = &result {
            self.follow_revocation(&right.holder, denial);
        }
        if let Err(error) = &result
            && !matches!(error, VaultError::NotRecorded(_))
        {
            self.refuse(audit::Operation::Commit, &path, None, who, &error.to_string());
        }
        result
    }

    fn commit_to(
        &self,
        right: &WriteRight,
        who: &CallerInfo,
        content: Content<'_>,
        node: &Node,
        mode: ModeIs,
    ) -> Result<Option<VersionNo>, VaultError> {
        let ino = right.ino();
        self.decide_again(right, node, mode)?;
        self.check_content(node, content.bytes)?;
        let payer = Payer::of(Uid(who.uid), right.holder.instance());
        self.meter.spend(Resource::CommitBytes, payer, content.bytes.len() as u64, Instant::now())?;
        let mut beside = Beside::Others;
        loop {
            let lock = || match beside {
                Beside::Others => self.lock_writer_beside(ino),
                Beside::Nobody => self.lock_writer(),
            };
            let sealed = self.sealed(lock, |keys| {
                let kek = self.kek(&right.holder).map_err(|state| VaultError::Denied(denial_of(state)))?;
                Ok(seal::seal_blob(content.bytes, &kek, &keys.recovery))
            })?;
            match self.commit_sealed(right, who, content, mode, sealed, beside)? {
                Commit::Done(number) => return Ok(number),
                Commit::Alone => beside = Beside::Nobody,
            }
        }
    }

    /// The lock is given up before it waits for the disk, unless it must be alone.
    fn commit_sealed(
        &self,
        right: &WriteRight,
        who: &CallerInfo,
        content: Content<'_>,
        mode: ModeIs,
        (mut writer, sealed): (Writing<'_>, (Vec<u8>, BlobDigest)),
        beside: Beside,
    ) -> Result<Commit, VaultError> {
        let ino = right.ino();
        // The name may be another one by now, and with it its history and what the content must be.
        let (node, path) = match self.node_and_path(ino) {
            Err(VaultError::NotFound) => return Ok(Commit::Done(None)),
            found => found?,
        };
        // Nothing changes from here on: this is the rule by which it is written, and the one that is recorded.
        let grant = self.decide_again(right, &node, mode)?;
        self.check_content(&node, content.bytes)?;
        self.check_pair(&path, Some((ino, &node)), node.meta.mode, content.bytes)?;
        let mut changed =
            self.next_version((ino, &path), (*node).clone(), sealed, content.bytes.len(), Uid(who.uid))?;
        if let Some(mtime) = content.mtime {
            changed.next.meta.mtime = mtime;
        }
        let number = VersionNo(changed.number());
        let adds = Count { bytes: content.bytes.len() as u64, versions: 1, ..Count::default() };
        let allowed = self.check_share(&node, &changed, self.abreast.adds());
        let (alone, done) = (beside == Beside::Nobody, Ok(Commit::Done(Some(number))));
        if !alone && (allowed.is_err() || !self.concerns_itself_alone(&writer, &node, &changed)?) {
            return Ok(Commit::Alone);
        }
        allowed?;
        self.record(audit::Operation::Commit, &path, Some(number.0), who, &grant.rule().to_string())?;
        if alone {
            self.install(&mut writer, vec![changed])?;
            return done;
        }
        let (mut batch, mut records) = (Batch::default(), BTreeMap::new());
        let shown = self.to_install(changed, &mut batch, &mut records)?;
        let journalled = self.journal_beside(&writer, batch, &records)?;
        let under_way = self.abreast.begin(ino, adds);
        drop(writer);
        self.store.settle(journalled)?;
        self.show(vec![shown])?;
        drop(under_way);
        done
    }

    /// Whether a commit to it has nothing to do with any other secret, or with what waits to be journalled.
    fn concerns_itself_alone(&self, writer: &Writer, node: &Node, changed: &Changed) -> Result<bool, VaultError> {
        let shares = self.with_tree(|tree| node.versions.iter().any(|version| tree.is_shared(version.blob)))?;
        Ok(writer.is_clean() && changed.takes.is_none() && !shares && !self.is_half(&changed.path))
    }

    /// Whether whose it is may have as much as he has then, with what `others` add meanwhile, whoever they are.
    pub(super) fn check_share(&self, node: &Node, changed: &Changed, others: Count) -> Result<(), VaultError> {
        let next = &changed.next;
        // What a removed secret of this name left counts already.
        let buried =
            changed.takes.as_ref().filter(|h| h.tombstone.is_some()).map(|h| h.versions.as_slice()).unwrap_or_default();
        let before = Count::of(&node.versions).plus(Count::of(buried));
        let after = Count::of(&next.versions);
        let keeper = Keeper::of(&next.scope, next.meta.uid);
        let (own, all) = self.with_tree(|tree| (tree.kept().of(&keeper), tree.kept().all()))?;
        let (own, all) = (own.plus(others), all.plus(others));
        for resource in [Resource::StoredBytes, Resource::Versions] {
            let more = after.get(resource).saturating_sub(before.get(resource));
            if more > 0 {
                self.meter.admit(resource, keeper.payer(), own.get(resource), all.get(resource), more)?;
            }
        }
        Ok(())
    }

    /// Checks size and, by the name, that it is whole.
    pub(super) fn check_content(&self, node: &Node, bytes: &[u8]) -> Result<(), VaultError> {
        self.check_named(node.name.as_ref(), bytes)
    }

    /// As [`Vault::check_content`], for what will have that name.
    pub(super) fn check_named(&self, name: Option<&Name>, bytes: &[u8]) -> Result<(), VaultError> {
        if bytes.len() as u64 > self.limits.max_secret_size {
            return Err(VaultError::TooBig { max: self.limits.max_secret_size });
        }
        match name {
            Some(name) => {
                enrol::check(name, bytes).map(|_| ()).map_err(|refusal| VaultError::Invalid(refusal.to_string()))
            }
            None => Ok(()),
        }
    }
}
