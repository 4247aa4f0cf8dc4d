//! The log as its callers see it: allowed events wait for their line, refused ones never wait.
//!
//! Owns the threads: one writes refusals, one keeps the file (syncs, rotates, looks after it), one tells journald.
//! Lock order: the queue of refusals, then nothing; the chain's lock, then nothing.

use super::chain::Chain;
use super::event::Event;
use super::line::{self, Anchor, Record};
use super::queue::Refusals;
use super::tell::{TARGET, Teller};
use super::writer::{Batch, Writer};
use super::{AuditError, file, read};
use std::cell::RefCell;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

/// How often written lines are made durable, at most.
const SYNC_EVERY: Duration = Duration::from_secs(1);
/// How often the anchor is told to journald.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// What happens to what would be allowed when its line cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// It is refused: nothing opens unrecorded.
    Refuse,
    /// It goes on, is counted, and a line says how many are missing once there is room.
    Continue,
}

/// Where the log is and what bounds it.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The file. Its folder is made (0700) if missing; rotated files are beside it.
    pub path: PathBuf,
    /// The size in bytes at which a file is rotated, from 4 KiB on. A batch may exceed it.
    pub max_size: u64,
    /// What happens when it cannot be written.
    pub when_full: WhenFull,
    /// How many rotated files are kept; `None` keeps all. Evidence is removed only where this says so.
    pub keep_files: Option<NonZeroU32>,
}

/// The audit log, open for writing. There is one in a daemon; [`Log::shutdown`] or dropping it ends its threads.
pub struct Log {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Where the chain stood when it was opened.
    found: Anchor,
}

struct Shared {
    path: PathBuf,
    when_full: WhenFull,
    chain: Chain,
    queue: Mutex<Queue>,
    refused: Condvar,
    teller: Arc<Teller>,
}

/// What a thread does.
type Run = fn(&Shared);

#[derive(Default)]
struct Queue {
    refusals: Refusals,
    writer_sleeps: bool,
    stop: bool,
}

thread_local! {
    /// The body of the line that is being made: its memory is used again.
    static BODY: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Log {
    /// Opens the log and continues its chain, or begins one. Half a line at the end is closed off and noted. With an
    /// `anchor`, a log that ends before it is noted as cut (see [`Log::compare`]).
    ///
    /// # Errors
    /// [`AuditError`] if there is another kind of file, another writer, or the disk says no.
    pub fn open(settings: Settings, anchor: Option<Anchor>) -> Result<Arc<Log>, AuditError> {
        let writer = Writer::open(&settings)?;
        let found = writer.at();
        let teller = Arc::new(Teller::default());
        let shared = Arc::new(Shared {
            chain: Chain::new(writer, settings.max_size.max(4096), teller.clone()),
            path: settings.path,
            when_full: settings.when_full,
            queue: Mutex::default(),
            refused: Condvar::new(),
            teller,
        });
        let log = Arc::new(Log { shared: shared.clone(), threads: Mutex::default(), found });
        if let Some(anchor) = anchor {
            log.compare(anchor)?;
        }
        shared.chain.sync().map_err(|e| AuditError::open(&shared.path, e))?;
        let threads: [(&str, Run); 3] = [
            ("audit-refused", Shared::write_refusals),
            ("audit-keeper", Shared::keep),
            ("audit-teller", |shared| shared.teller.run()),
        ];
        for (name, run) in threads {
            let shared = shared.clone();
            let spawned = std::thread::Builder::new().name(name.into()).spawn(move || run(&shared));
            let thread = spawned.map_err(|e| AuditError::open(&log.shared.path, e))?;
            log.threads().push(thread);
        }
        Ok(log)
    }

    /// Compares the log as it was opened with what somebody else remembers of it: for an anchor that was not at hand
    /// at [`Log::open`]. A log that is shorter, or has another line at that place near its end, was cut: a line says so
    /// for ever, and `false` is returned. Lines further back are left to [`super::verify`].
    ///
    /// # Errors
    /// [`AuditError::Write`] if the line cannot be written.
    pub fn compare(&self, anchor: Anchor) -> Result<bool, AuditError> {
        let reason = if self.found.count < anchor.count {
            format!("{} lines are missing at the end", anchor.count - self.found.count)
        } else if self.found.count == anchor.count && self.found.head != anchor.head {
            "the last line is not the one that was anchored".to_owned()
        } else {
            return Ok(true);
        };
        tracing::error!(target: TARGET, path = %self.shared.path.display(), reason, "the audit log was cut");
        self.shared.chain.with_writer(|writer| writer.note_cut(anchor, &reason))?;
        Ok(false)
    }

    /// Records what is about to be allowed. Returns once write(2) has taken the line.
    ///
    /// # Errors
    /// [`AuditError::Write`] with [`WhenFull::Refuse`]: the caller refuses what it was about to allow. With
    /// [`WhenFull::Continue`] there is none.
    pub fn allowed(&self, event: &Event<'_>) -> Result<(), AuditError> {
        let shared = &*self.shared;
        let goes_on = shared.when_full == WhenFull::Continue;
        let result = BODY.with_borrow_mut(|body| {
            body.clear();
            line::push_event(body, event);
            shared.chain.submit(|batch| {
                batch.push(body);
                batch.unrecorded += u64::from(goes_on);
            })
        });
        match result {
            Err(source) if !goes_on => Err(AuditError::Write { path: shared.path.clone(), source }),
            _ => Ok(()),
        }
    }

    /// Records a refusal. It waits for nobody and cannot fail: what cannot be listed is counted.
    pub fn refused(&self, event: Event<'_>) {
        let shared = &*self.shared;
        let mut queue = shared.queue();
        queue.refusals.add(&event, Instant::now(), SystemTime::now());
        let wake = queue.refusals.urgent && std::mem::take(&mut queue.writer_sleeps);
        let mut late = Batch::default();
        if queue.stop {
            // The thread may be gone: nobody would write it but its caller.
            queue.refusals.drain(Instant::now(), true, &mut late);
        }
        drop(queue);
        if wake {
            shared.refused.notify_one();
        }
        if late.unrecorded > 0 {
            shared.write_batch(&late);
        }
    }

    /// How far the chain goes in the file.
    pub fn head(&self) -> Anchor {
        self.shared.chain.written()
    }

    /// How far it goes on the disk: what may be anchored elsewhere without calling a power cut a forgery.
    pub fn synced(&self) -> Anchor {
        self.shared.chain.synced()
    }

    /// How many events could not be written and are not yet told of by a line: above 0 the disk is full, or worse.
    pub fn unrecorded(&self) -> u64 {
        self.shared.chain.unrecorded()
    }

    /// Gives the file its number and begins the next; returns the old one's new name.
    ///
    /// # Errors
    /// [`AuditError`] if a file cannot be made or renamed; the log goes on in the old one.
    pub fn rotate(&self) -> Result<PathBuf, AuditError> {
        self.shared.rotate()
    }

    /// The last events of a path, newest first, at most `limit`: see [`read::recent`].
    ///
    /// # Errors
    /// [`AuditError::Open`] if a file cannot be read.
    pub fn recent(&self, path: &str, limit: usize) -> Result<Vec<Record>, AuditError> {
        read::recent(&self.shared.path, path, limit)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Writes what waits, syncs, ends the threads. May be called twice. What comes later is still written.
    pub fn shutdown(&self) {
        let mut threads = self.threads();
        self.shared.queue().stop = true;
        self.shared.refused.notify_all();
        // In the order of spawning, each stopped once those before it can give it nothing more.
        for (n, thread) in threads.drain(..).enumerate() {
            match n {
                0 => {}
                1 => self.shared.chain.stop(),
                _ => self.shared.teller.stop(),
            }
            if thread.join().is_err() {
                tracing::error!(target: TARGET, "a thread of the audit log ended in a panic");
            }
        }
    }

    fn threads(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.shutdown();
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread that writes refusals.
    fn write_refusals(&self) {
        let mut batch = Batch::default();
        loop {
            let mut queue = self.queue();
            let stop = loop {
                let now = Instant::now();
                let due = queue.refusals.due();
                if queue.stop || queue.refusals.urgent || due.is_some_and(|due| due <= now) {
                    break queue.stop;
                }
                queue.writer_sleeps = true;
                let wait = due.map_or(TELL_EVERY, |due| due.saturating_duration_since(now));
                (queue, _) = self.refused.wait_timeout(queue, wait).unwrap_or_else(PoisonError::into_inner);
                queue.writer_sleeps = false;
            };
            queue.refusals.drain(Instant::now(), stop, &mut batch);
            drop(queue);
            self.write_batch(&batch);
            batch.clear();
            if stop {
                return;
            }
        }
    }

    fn write_batch(&self, batch: &Batch) {
        // A failure is no news here: the writer counts what is missing, and says so when there is room.
        let _ = self.chain.submit(|pending| pending.append(batch));
    }

    /// The thread that keeps the file.
    fn keep(&self) {
        let (mut last_sync, mut last_told) = (Instant::now(), Instant::now());
        let mut told = Anchor::default();
        // A file that cannot be rotated grows, and is tried again each second.
        let mut rotates = true;
        loop {
            let work = self.chain.await_work(last_sync + SYNC_EVERY, last_told + TELL_EVERY, rotates);
            if work.gap {
                // An empty batch: the line about what is missing goes before it.
                let _ = self.chain.submit(|_| {});
            }
            let mut result = self.chain.with_writer(Writer::look_after);
            if result.is_ok() && work.full {
                result = self.rotate().map(|_| ());
            } else if result.is_ok() && work.dirty {
                result = self.chain.sync().map_err(|e| AuditError::Write { path: self.path.clone(), source: e });
            }
            last_sync = Instant::now();
            rotates = result.is_ok();
            if let Err(e) = result {
                tracing::error!(target: TARGET, "{e}");
            }
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

    fn rotate(&self) -> Result<PathBuf, AuditError> {
        // Most of it is synced here, where nobody waits; the rest while the writer is held.
        let failed = |e| AuditError::Write { path: self.path.clone(), source: e };
        self.chain.sync().map_err(failed)?;
        let name = self.chain.with_writer(Writer::rotate)?;
        self.chain.sync().and_then(|()| file::sync_folder(&self.path)).map_err(failed)?;
        Ok(name)
    }
}
