//! What is known of files that were removed by rule: where the chain stood at the end of each, in one small file beside the log.
//!
//! JSON Lines, oldest first. The line `audit_prune` in the log, written before a file goes, has the SHA-256 of this file with that file
//! in it: so the log vouches for what was removed by rule, and what nobody vouches for was removed by somebody else.

use super::AuditError;
use super::file;
use super::line::Anchor;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// What the file's name ends in.
const SUFFIX: &str = "anchors";
/// How many files have a line each; then the older half becomes one.
const MOST: usize = 4096;
/// The largest file that is read.
const BYTES: u64 = 4 << 20;

/// A file that was removed, or several that followed each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Removed {
    /// Its name; of several, the last one's.
    pub file: String,
    /// How many files it stands for.
    pub files: u64,
    /// The number of the first line in it.
    pub first: u64,
    /// The number of the last one.
    pub last: u64,
    /// The hash of that.
    pub head: String,
}

impl Removed {
    pub fn of(file: &Path, first: u64, last: Anchor) -> Self {
        let file = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Removed { file, files: 1, first, last: last.count, head: last.head_hex() }
    }

    pub fn end(&self) -> Option<Anchor> {
        Some(Anchor { count: self.last, head: crate::hex::decode_exact(self.head.as_bytes())? })
    }
}

/// The file, read.
#[derive(Debug, Default)]
pub(super) struct Anchors {
    removed: Vec<Removed>,
}

/// Where it is.
fn path(log: &Path) -> PathBuf {
    file::with_suffix(log, SUFFIX)
}

impl Anchors {
    /// Reads the file; none is an empty one, and so is what cannot be read as one from there on.
    pub fn read(log: &Path) -> Result<Self, AuditError> {
        let path = path(log);
        let text = match file::read_small(&path, BYTES) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Anchors::default()),
            other => other.map_err(|e| AuditError::open(&path, e))?,
        };
        let lines = text.split_inclusive(|b| *b == b'\n').map_while(|line| serde_json::from_slice(line).ok());
        Ok(Anchors { removed: lines.collect() })
    }

    /// Notes a file that is about to go, and writes all anew. The SHA-256 of what was written.
    pub fn add(&mut self, log: &Path, removed: Removed) -> Result<[u8; 32], AuditError> {
        if self.removed.last() != Some(&removed) {
            self.removed.push(removed);
        }
        if self.removed.len() > MOST {
            self.shorten();
        }
        let (path, bytes) = (path(log), self.bytes());
        let fresh = file::with_suffix(&path, "new");
        let failed = |e| AuditError::Write { path: path.clone(), source: e };
        let write = || {
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
            let mut file = options.open(&fresh)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&fresh, &path)?;
            file::sync_folder(&path)
        };
        write().map_err(failed)?;
        Ok(Sha256::digest(&bytes).into())
    }

    /// The files that a line of the log vouches for by this digest; `None` if this is not what it vouched for.
    pub fn vouched(&self, digest: &[u8; 32]) -> Option<&[Removed]> {
        let mut sum = Sha256::new();
        for (n, removed) in self.removed.iter().enumerate() {
            sum.update(row(removed));
            if sum.clone().finalize().as_slice() == digest {
                return Some(&self.removed[..=n]);
            }
        }
        None
    }

    fn bytes(&self) -> Vec<u8> {
        self.removed.iter().flat_map(row).collect()
    }

    /// The older half, where one follows the other, becomes one.
    fn shorten(&mut self) {
        let rest = self.removed.split_off(MOST / 2);
        let mut fewer: Vec<Removed> = vec![];
        for next in self.removed.drain(..) {
            match fewer.last_mut().filter(|before| before.last + 1 == next.first) {
                Some(before) => {
                    let (first, files) = (before.first, before.files + next.files);
                    *before = Removed { first, files, ..next };
                }
                None => fewer.push(next),
            }
        }
        fewer.extend(rest);
        self.removed = fewer;
    }
}

fn row(removed: &Removed) -> Vec<u8> {
    let mut row = serde_json::to_vec(removed).unwrap_or_default();
    row.push(b'\n');
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    fn removed(n: u64) -> Removed {
        Removed::of(Path::new("audit.log.1"), n * 10 + 1, Anchor { count: n * 10 + 10, head: [7; 32] })
    }

    #[test]
    fn the_digest_of_any_beginning_vouches_for_it_and_for_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("audit.log");
        let mut anchors = Anchors::read(&log).unwrap();
        let digests: Vec<_> = (0..3).map(|n| anchors.add(&log, removed(n)).unwrap()).collect();
        // Tried again after a crash it is there once.
        assert_eq!(anchors.add(&log, removed(2)).unwrap(), digests[2]);
        let read = Anchors::read(&log).unwrap();
        for (n, digest) in digests.iter().enumerate() {
            assert_eq!(read.vouched(digest).unwrap().len(), n + 1);
        }
        let text = fs::read_to_string(path(&log)).unwrap().replace("\"first\":11", "\"first\":12");
        fs::write(path(&log), text).unwrap();
        let forged = Anchors::read(&log).unwrap();
        assert!(forged.vouched(&digests[0]).is_some() && forged.vouched(&digests[2]).is_none());
    }

    #[test]
    fn it_stays_small_and_keeps_what_does_not_follow_apart() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("audit.log");
        let gap = 100;
        let all = (0..MOST as u64).map(|n| removed(if n < gap { n } else { n + 5 }));
        let mut anchors = Anchors { removed: all.collect() };
        let digest = anchors.add(&log, removed(MOST as u64 + 5)).unwrap();
        let read = Anchors::read(&log).unwrap();
        let vouched = read.vouched(&digest).unwrap();
        assert_eq!(vouched.len(), 2 + MOST / 2 + 1);
        assert_eq!((vouched[0].first, vouched[0].last, vouched[0].files), (1, 1000, gap));
        assert_eq!((vouched[1].first, vouched[1].files), (1051, MOST as u64 / 2 - gap));
    }
}
