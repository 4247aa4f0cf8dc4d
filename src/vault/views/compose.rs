//! Opening a view: the decision on the view, the sources at one moment, the record of both, and only then the content.

use super::super::node::Node;
use super::super::open::{Opened, WhichVersion};
use super::super::scopes::Holder;
use super::super::{Caller, Vault, VaultError};
use super::sources::{Snapshot, Source};
use crate::access::{Denial, Grant, Operation, ScopeState};
use crate::audit;
use crate::caller::Daemon;
use crate::model::Ino;
use crate::secret::{Kek, Secret};
use crate::store::BlobKey;
use crate::view::{Part, ViewError};
use std::collections::HashMap;

/// How often it begins anew because a commit was faster.
const MAX_TRIES: u32 = 64;
/// How far back a key and certificate that fit are looked for, in commits of the sources.
const MAX_BACK: u32 = 16;
/// How much of the log's reason the sources take, in bytes; the rest goes into lines of its own.
const REASON_MAX: usize = 3500;

/// What was composed.
pub struct Composed {
    /// The bytes.
    pub content: Secret,
    /// What stands for the state of the sources.
    pub mark: BlobKey,
    /// What was read, as the log has it.
    pub read: Vec<String>,
}

/// Why not, and whether it is worth another try.
enum Failed {
    Mismatch,
    Other(VaultError),
}

impl Vault {
    /// Opens a view for whom `grant` allows it.
    pub(in crate::vault) fn open_view(
        &self,
        caller: &impl Caller,
        ino: Ino,
        (node, path): (&Node, &str),
        wanted: WhichVersion,
        op: audit::Operation,
        grant: impl Fn(&Node) -> Result<(Grant, Holder, Kek), (Denial, Holder)>,
    ) -> Result<Opened, VaultError> {
        let (grant, holder, kek) = match grant(node) {
            Ok(all) => all,
            Err((denial, holder)) => {
                self.refuse(op, path, None, &caller.who(), &denial.to_string());
                self.follow_revocation(&holder, &denial);
                return Err(denial.into());
            }
        };
        let composed = match self.compose(ino, node, &kek) {
            Ok(composed) => composed,
            Err(error) => {
                self.refuse(op, path, None, &caller.who(), &error.to_string());
                return Err(error);
            }
        };
        let same = match wanted {
            WhichVersion::Current => true,
            // A handle goes on only with what it had.
            WhichVersion::Blob(mark) => {
                mark == composed.mark && node.view.as_ref().is_some_and(|v| v.is_deterministic())
            }
            WhichVersion::Number(_) | WhichVersion::Nothing => false,
        };
        if !same {
            return Err(VaultError::NotFound);
        }
        self.record_view(op, path, caller, &grant.rule().to_string(), &composed.read)?;
        Ok(Opened { content: composed.content, version: None, blob: Some(composed.mark), holder })
    }

    /// Writes down who opened it by which rule, and what was read for him.
    pub(in crate::vault) fn record_view(
        &self,
        op: audit::Operation,
        path: &str,
        caller: &impl Caller,
        because: &str,
        read: &[String],
    ) -> Result<(), VaultError> {
        let who = caller.who();
        let mut reason = format!("{because}: composed from ");
        let mut first = true;
        for word in read {
            if reason.len() + word.len() > REASON_MAX && !first {
                self.record(op, path, None, &who, &reason)?;
                reason = format!("{because}: and from ");
                first = true;
            }
            if !first {
                reason.push_str(", ");
            }
            reason.push_str(word);
            first = false;
        }
        if read.is_empty() {
            reason.push_str("nothing");
        }
        self.record(op, path, None, &who, &reason)
    }

    /// Composes a view by its scope's key. Where a key and its certificate must fit and do not, as between the two commits of
    /// a renewal, it is what they last were when they did.
    ///
    /// # Errors
    /// [`VaultError::NotComposed`], [`VaultError::TooBig`], [`VaultError::Damaged`].
    pub(in crate::vault) fn compose(&self, ino: Ino, node: &Node, kek: &Kek) -> Result<Composed, VaultError> {
        let mut tries = 0;
        loop {
            let mut snapshot = self.snapshot(node)?;
            let mark = snapshot.mark(ino);
            match self.compose_fitting(node, &mut snapshot, kek) {
                Ok(content) => {
                    self.note_size(ino, mark, content.len() as u64);
                    return Ok(Composed { content, mark, read: snapshot.words() });
                }
                // A version that was read for is not kept any more: then there is a newer one.
                Err(_) if tries < MAX_TRIES && self.have_moved_on(&snapshot.sources) => tries += 1,
                Err(error) => {
                    // So that nobody makes it be tried again and again by looking at its size.
                    if matches!(error, VaultError::NotComposed(_) | VaultError::TooBig { .. }) {
                        self.note_size(ino, mark, 0);
                    }
                    return Err(error);
                }
            }
        }
    }

    fn compose_fitting(&self, node: &Node, snapshot: &mut Snapshot, kek: &Kek) -> Result<Secret, VaultError> {
        for _ in 0..MAX_BACK {
            match self.compose_once(node, &snapshot.sources, kek) {
                Ok(content) => return Ok(content),
                Err(Failed::Other(error)) => return Err(error),
                Err(Failed::Mismatch) if snapshot.step_back() => {}
                Err(Failed::Mismatch) => break,
            }
        }
        Err(ViewError::Mismatch.into())
    }

    fn compose_once(&self, node: &Node, sources: &[Source], kek: &Kek) -> Result<Secret, Failed> {
        let opened = self.read_sources(sources, kek).map_err(Failed::Other)?;
        let parts = parts(sources, &opened);
        let max = usize::try_from(self.limits.max_secret_size).unwrap_or(usize::MAX);
        let definition = node.view.as_ref().ok_or(Failed::Other(VaultError::NotFound))?;
        let composed = definition.compose(&parts, max);
        // Parsers and the engine leave on the stack what they worked on.
        crate::secret::wipe_stack();
        composed.map_err(|error| match error {
            ViewError::Mismatch => Failed::Mismatch,
            other => Failed::Other(other.into()),
        })
    }

    /// Opens each source once, as the daemon's own work.
    pub(super) fn read_sources(&self, sources: &[Source], kek: &Kek) -> Result<HashMap<Ino, Secret>, VaultError> {
        let mut opened = HashMap::new();
        for source in sources {
            if opened.contains_key(&source.ino) {
                continue;
            }
            let grant = self.judge(&Daemon, source.ino, &source.node, ScopeState::Alive, Operation::Read)?;
            let content = self.decrypt(&grant, kek, source.version())?;
            opened.insert(source.ino, content);
        }
        Ok(opened)
    }

    /// Whether any of them is another one now, once what is under way is done.
    fn have_moved_on(&self, sources: &[Source]) -> bool {
        sources.iter().any(|source| self.moved_on(source.ino, &source.node))
    }
}

/// The sources as `view` wants them.
pub(super) fn parts<'a>(sources: &'a [Source], opened: &'a HashMap<Ino, Secret>) -> Vec<Part<'a>> {
    let part = |source: &'a Source| Some(Part { name: &source.name, content: opened.get(&source.ino)? });
    sources.iter().filter_map(part).collect()
}
