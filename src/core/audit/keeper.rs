//! The threads that keep the log's files: one syncs, rotates, looks whether the file is where it was and tells how it is; the other
//! compresses and removes what is old.

use super::AuditError;
use super::file;
use super::line::Anchor;
use super::log::Shared;
use super::reserve::Room;
use super::tell::TARGET;
use super::writer::Writer;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How often written lines are made durable, at most; and how often room is tried for on a full disk.
const SYNC_EVERY: Duration = Duration::from_secs(1);
/// How often the anchor is told to journald, and what is wrong.
const TELL_EVERY: Duration = Duration::from_secs(60);

impl Shared {
    /// The thread that keeps the file.
    pub(super) fn keep(&self) {
        let (mut last_sync, mut last_told) = (Instant::now(), Instant::now());
        let mut told = Anchor::default();
        let mut wrong = Wrong::default();
        // A file that cannot be rotated grows, and is tried again each second.
        let mut rotates = true;
        loop {
            let until = if wrong.full { last_sync + SYNC_EVERY } else { last_told + TELL_EVERY };
            let work = self.chain.await_work(last_sync + SYNC_EVERY, until, rotates, wrong.full);
            if work.gap {
                // An empty batch: the line about what is missing goes before it.
                let _ = self.chain.submit(|_| {});
            }
            let mut result = self.chain.with_writer(Writer::look_after);
            if wrong.full && last_sync.elapsed() >= SYNC_EVERY {
                self.chain.with_writer(Writer::reserve);
            }
            wrong.tell_room(self.chain.room());
            if result.is_ok() && work.full {
                result = self.rotate().map(|_| ());
            } else if result.is_ok() && work.dirty {
                result = self.chain.sync().map_err(|e| AuditError::Write { path: self.path.clone(), source: e });
            }
            last_sync = Instant::now();
            rotates = result.is_ok();
            wrong.tell(result);
            if work.stop {
                return;
            }
            let head = self.chain.synced();
            if last_told.elapsed() >= TELL_EVERY {
                last_told = Instant::now();
                if head != told {
                    told = head;
                    tracing::info!(target: TARGET, count = head.count, head = head.head_hex(), "the audit log's head");
                }
            }
        }
    }

    /// Gives the file its number and begins the next. The thread below does the rest.
    pub(super) fn rotate(&self) -> Result<PathBuf, AuditError> {
        // Most of it is synced here, where nobody waits; the rest while the writer is held.
        let failed = |e| AuditError::Write { path: self.path.clone(), source: e };
        self.chain.sync().map_err(failed)?;
        let name = self.chain.with_writer(Writer::rotate)?;
        self.chain.sync().and_then(|()| file::sync_folder(&self.path)).map_err(failed)?;
        self.old.wake();
        Ok(name)
    }

    /// The thread that keeps the old files.
    pub(super) fn keep_old(&self) {
        while self.old.wait() {
            let Some(space) = self.space else { continue };
            if let Err(error) = space.keep(&self.path, &self.chain, || self.old.has_ended()) {
                tracing::error!(target: TARGET, "the audit log's old files: {error}");
            }
        }
    }
}

/// What is wrong with the log's disk, told when it begins, each minute, and when it is over.
#[derive(Default)]
struct Wrong {
    full: bool,
    room_told: Option<Instant>,
    failure_told: Option<Instant>,
}

impl Wrong {
    fn tell_room(&mut self, room: Room) {
        if !room.full && self.full {
            tracing::warn!(target: TARGET, audit_full = false, "there is room for the audit log again");
            self.room_told = None;
        }
        self.full = room.full;
        if room.full && self.room_told.is_none_or(|at| at.elapsed() >= TELL_EVERY) {
            self.room_told = Some(Instant::now());
            tracing::error!(target: TARGET, audit_full = true, left = room.left, "the disk of the audit log is full: {} bytes of lines are left", room.left);
        }
    }

    fn tell(&mut self, result: Result<(), AuditError>) {
        match result {
            Ok(()) => self.failure_told = None,
            Err(error) if self.failure_told.is_none_or(|at| at.elapsed() >= TELL_EVERY) => {
                self.failure_told = Some(Instant::now());
                tracing::error!(target: TARGET, "{error}; trying again each second");
            }
            Err(_) => {}
        }
    }
}
