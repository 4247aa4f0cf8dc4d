//! How much room the log takes in all: old files are compressed, then removed, oldest first, each after a line that says so.
//!
//! Owns the rule. What is removed by it is noted in [`anchors`](super::anchors) and in the chain, in this order: the note, the line,
//! both on the disk, and only then the file goes. A full disk is no reason to remove anything: only the configured space is.

use super::AuditError;
use super::anchors::{Anchors, Removed};
use super::chain::Chain;
use super::file;
use super::line::{self, Anchor, own};
use super::rotated::Rotated;
use super::tell::TARGET;
use super::writer::Writer;
use std::io;
use std::path::Path;

/// The bound, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Space {
    /// For rotated files, compressed or not.
    rotated: u64,
}

impl Space {
    /// Of so many bytes for the log as a whole, with files of `max_size`: there is always the current one with what is reserved for it,
    /// and one that is being compressed.
    pub fn new(bytes: u64, max_size: u64) -> Self {
        Space { rotated: bytes.saturating_sub(max_size.saturating_mul(3)) }
    }

    /// Compresses what is old and removes what is too much, unless it is time to stop.
    pub fn keep(self, log: &Path, chain: &Chain, stop: impl Fn() -> bool) -> Result<(), AuditError> {
        let mut files = file::rotated(log)?;
        // The newest stays as it is, for whoever follows the log or looks at its end.
        let old = files.len().saturating_sub(1);
        for rotated in files.iter().take(old).filter(|rotated| !rotated.is_compressed()) {
            if stop() {
                return Ok(());
            }
            if let Err(error) = rotated.compress() {
                // The rule below needs no room, and holds all the same.
                tracing::warn!(target: TARGET, %error, file = %rotated.path().display(), "an old file of the audit log is not compressed");
            }
        }
        files = file::rotated(log)?;
        let size = |rotated: &Rotated| std::fs::symlink_metadata(rotated.path()).map_or(0, |meta| meta.len());
        let mut total: u64 = files.iter().map(size).sum();
        for oldest in &files {
            if total <= self.rotated {
                break;
            }
            total = total.saturating_sub(size(oldest));
            remove(log, chain, oldest)?;
        }
        Ok(())
    }
}

fn remove(log: &Path, chain: &Chain, oldest: &Rotated) -> Result<(), AuditError> {
    let path = oldest.path();
    let io = |e: io::Error| AuditError::open(path, e);
    // A file that nobody can read is known by its name alone: the lines after its first are then missed by a check.
    let unknown = Anchor { count: oldest.number(), head: [0; 32] };
    let last = oldest.last().map_err(io)?.unwrap_or(unknown);
    let removed = Removed::of(path, oldest.number(), last);
    let mut body = format!("\"op\":\"{}\"", own::PRUNE).into_bytes();
    line::push_text(&mut body, "file", &removed.file, 512);
    line::push_count(&mut body, "first_count", removed.first);
    line::push_count(&mut body, "last_count", last.count);
    line::push_hash(&mut body, "last_head", &last.head);
    let digest = Anchors::read(log)?.add(log, removed)?;
    line::push_hash(&mut body, "anchors", &digest);
    chain.with_writer(|writer: &mut Writer| writer.note(&body))?;
    chain.sync().map_err(|e| AuditError::Write { path: log.into(), source: e })?;
    std::fs::remove_file(path).and_then(|()| file::sync_folder(log)).map_err(io)
}
