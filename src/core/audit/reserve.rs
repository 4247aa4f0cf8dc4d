//! Room taken ahead: blocks past the end of the log's file, which nobody else can have (fallocate(2), FALLOC_FL_KEEP_SIZE).
//!
//! So a full disk shows here first, while there is still room for lines: what is left is for the time in which somebody can be told.

use super::tell::TARGET;
use nix::fcntl::{FallocateFlags, fallocate};
use serde::Serialize;
use std::fs::File;
use std::io::ErrorKind;

/// The most that is taken ahead.
const MOST: u64 = 16 << 20;
/// What is tried last where there is less.
const LEAST: u64 = 4096;

/// How much room the log has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Room {
    /// Whether no more could be taken: the disk, or a quota on it, is full, and what is left is all there is.
    pub full: bool,
    /// Bytes that are reserved and not written yet; 0 where the filesystem reserves nothing.
    pub left: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Reserve {
    want: u64,
    /// Up to where blocks are the file's.
    to: u64,
    full: bool,
    /// Whether the filesystem can: not all do.
    able: bool,
}

impl Reserve {
    /// For files of this size.
    pub fn new(max_size: u64) -> Self {
        Reserve { want: max_size.min(MOST), to: 0, full: false, able: true }
    }

    /// Whether writing up to `end` leaves little of it. On a full disk nothing is gained by trying at each line.
    pub fn is_low(&self, end: u64) -> bool {
        self.able && !self.full && end + self.want / 2 > self.to
    }

    /// Takes as much as there should be past `end`, or what there is.
    pub fn fill(&mut self, file: &File, end: u64) {
        let mut bytes = self.want;
        self.full = false;
        while self.able && self.to < end + bytes {
            let (Ok(from), Ok(len)) = (i64::try_from(end), i64::try_from(bytes)) else { return };
            match fallocate(file, FallocateFlags::FALLOC_FL_KEEP_SIZE, from, len) {
                Ok(()) => self.to = end + bytes,
                Err(errno) => match std::io::Error::from(errno).kind() {
                    ErrorKind::Interrupted => {}
                    ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                        self.full = true;
                        bytes /= 2;
                        if bytes < LEAST {
                            return;
                        }
                    }
                    _ => {
                        self.able = false;
                        tracing::warn!(target: TARGET, %errno, "the audit log's filesystem reserves no room ahead");
                    }
                },
            }
        }
    }

    /// For the file that is to follow this one.
    pub fn anew(&self) -> Self {
        Reserve { want: self.want, to: 0, full: false, able: self.able }
    }

    /// The file was cut: what was past its end is not there any more.
    pub fn lost(&mut self, end: u64) {
        self.to = end;
    }

    pub fn room(&self, end: u64) -> Room {
        Room { full: self.full, left: if self.able { self.to.saturating_sub(end) } else { 0 } }
    }
}
