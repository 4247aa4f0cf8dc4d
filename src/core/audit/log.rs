//! The log as its callers see it: allowed events wait for their line, refused ones never wait.
//!
//! Owns the threads: one writes refusals, one the sums of repeated opens, two keep the files (see `keeper`), one tells journald.
//! Lock order: the queue of refusals, then nothing; the repeated opens, then nothing; the chain's lock, then nothing.

use super::bell::Bell;
use super::chain::Chain;
use super::event::{Event, Operation};
use super::line::{self, Anchor, Durable, Record};
use super::queue::{Refusals, Waiting};
use super::repeats::{Repeats, Seen};
use super::reserve::Room;
use super::space::Space;
use super::tell::{TARGET, Teller};
use super::writer::{Batch, Writer};
use super::{AuditError, read};
use crate::lock::{Condvar, Mutex, MutexGuard};
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

/// How long a thread that has nothing to wait for sleeps.
const LONG: Duration = Duration::from_secs(60);

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
    /// How many bytes the log may take in all, six times `max_size` at the least: old files are compressed, then removed. `None` keeps
    /// all as it is. Evidence is removed only where this says so.
    pub space: Option<u64>,
}

/// The audit log, open for writing. There is one in a daemon; [`Log::shutdown`] or dropping it ends its threads.
pub struct Log {
    shared: Arc<Shared>,
    threads: Mutex<Vec<(JoinHandle<()>, Run)>>,
    /// Where the chain stood when it was opened.
    found: Anchor,
}

pub(super) struct Shared {
    pub path: PathBuf,
    when_full: WhenFull,
    pub space: Option<Space>,
    pub chain: Chain,
    queue: Mutex<Queue>,
    refused: Condvar,
    repeated: Mutex<Repeated>,
    repeats: Condvar,
    /// Wakes who keeps the old files.
    pub old: Bell,
    teller: Arc<Teller>,
}

/// What a thread does, or what ends it.
type Run = fn(&Shared);

#[derive(Default)]
struct Queue {
    refusals: Refusals,
    writer_sleeps: bool,
    stop: bool,
}

#[derive(Default)]
struct Repeated {
    repeats: Repeats,
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
            space: settings.space.map(|bytes| Space::new(bytes, settings.max_size)),
            queue: Mutex::default(),
            refused: Condvar::new(),
            repeated: Mutex::default(),
            repeats: Condvar::new(),
            old: Bell::default(),
            teller,
        });
        let log = Arc::new(Log { shared: shared.clone(), threads: Mutex::default(), found });
        if let Some(anchor) = anchor {
            log.compare(anchor)?;
        }
        shared.chain.sync().map_err(|e| AuditError::open(&shared.path, e))?;
        // In this order they end: those before can give nothing more to those after.
        let threads: [(&str, Run, Run); 5] = [
            ("audit-refused", Shared::write_refusals, |shared| {
                shared.queue().stop = true;
                shared.refused.notify_all();
            }),
            ("audit-sums", Shared::write_sums, |shared| {
                let mut repeated = shared.repeated();
                repeated.stop = true;
                repeated.repeats.turn_off();
                shared.repeats.notify_all();
            }),
            ("audit-space", Shared::keep_old, |shared| shared.old.end()),
            ("audit-keeper", Shared::keep, |shared| shared.chain.stop()),
            ("audit-teller", |shared| shared.teller.run(), |shared| shared.teller.stop()),
        ];
        for (name, run, stop) in threads {
            let shared = shared.clone();
            let spawned = std::thread::Builder::new().name(name.into()).spawn(move || run(&shared));
            let thread = spawned.map_err(|e| AuditError::open(&log.shared.path, e))?;
            log.threads().push((thread, stop));
        }
        shared.old.wake();
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

    /// The store has this on the disk for good: the lines that follow say so.
    pub fn note_durable(&self, durable: Durable) {
        self.shared.chain.with_writer(|writer| {
            let newer = |known: Durable| known.store == durable.store && known.generation >= durable.generation;
            if !writer.durable().is_some_and(newer) {
                writer.set_durable(Some(durable));
            }
        });
    }

    /// Compares a store that was just opened with what the lines say it had on the disk. One that is older was restored, or put back: a
    /// line says so for ever, and `false` is returned.
    ///
    /// # Errors
    /// [`AuditError::Write`] if the line cannot be written.
    pub fn compare_store(&self, found: Durable) -> Result<bool, AuditError> {
        self.shared.chain.with_writer(|writer| {
            let same = writer.durable().filter(|known| known.store == found.store);
            let Some(known) = same.filter(|known| known.generation > found.generation) else { return Ok(true) };
            let (expected, found_one) = (known.generation.0, found.generation.0);
            let path = self.shared.path.display();
            tracing::error!(target: TARGET, %path, expected, found = found_one, "the store is older than its audit log");
            writer.note_behind(known, found).map(|()| false)
        })
    }

    /// Records what is about to be allowed. Returns once write(2) has taken the line, or, for an open, has taken the same line less
    /// than a second ago: then it is counted, and the sum is written at the end of that second.
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
            let (uid, now) = (event.who.uid, Instant::now());
            let mut sum = Batch::default();
            let seen = match event.op {
                Operation::Open => Some(shared.repeated().repeats.again(uid, body, now, SystemTime::now(), &mut sum)),
                _ => None,
            };
            match seen {
                Some(Seen::Counted) => return Ok(()),
                Some(Seen::CountedFirst) => {
                    shared.repeats.notify_one();
                    return Ok(());
                }
                Some(Seen::New(_)) | None => {}
            }
            shared.chain.submit(|batch| {
                batch.append(&sum);
                batch.push(body);
                batch.unrecorded += u64::from(goes_on);
            })?;
            if let Some(Seen::New(key)) = seen {
                shared.repeated().repeats.begin(uid, key, now);
            }
            Ok(())
        });
        match result {
            Err(source) if !goes_on => Err(AuditError::Write { path: shared.path.clone(), source }),
            _ => Ok(()),
        }
    }

    /// Writes the sums of repeated opens that wait for the end of their second. Before what must not stand before them in the log.
    pub fn sum_up(&self) {
        self.shared.sum_up(false);
    }

    /// The same, and from now on each open has a line of its own: for a process that may end at any moment.
    pub fn sum_up_for_good(&self) {
        self.shared.sum_up(true);
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

    /// How much of the room for refusals is used.
    pub fn waiting(&self) -> Waiting {
        self.shared.queue().refusals.waiting()
    }

    /// How far the chain goes in the file.
    pub fn head(&self) -> Anchor {
        self.shared.chain.written()
    }

    /// How far it goes on the disk: what may be anchored elsewhere without calling a power cut a forgery.
    pub fn synced(&self) -> Anchor {
        self.shared.chain.synced()
    }

    /// How much room there is: whether the disk is full, and how many bytes of lines are left then.
    pub fn room(&self) -> Room {
        self.shared.chain.room()
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
        for (thread, stop) in self.threads().drain(..) {
            stop(&self.shared);
            if thread.join().is_err() {
                tracing::error!(target: TARGET, "a thread of the audit log ended in a panic");
            }
        }
    }

    fn threads(&self) -> MutexGuard<'_, Vec<(JoinHandle<()>, Run)>> {
        self.threads.lock()
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.shutdown();
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock()
    }

    fn repeated(&self) -> MutexGuard<'_, Repeated> {
        self.repeated.lock()
    }

    fn sum_up(&self, for_good: bool) {
        let mut batch = Batch::default();
        let mut repeated = self.repeated();
        if for_good {
            repeated.repeats.turn_off();
        }
        repeated.repeats.drain(Instant::now(), true, &mut batch);
        drop(repeated);
        if batch.unrecorded > 0 {
            self.write_batch(&batch);
        }
    }

    /// The thread that writes the sums of repeated opens.
    fn write_sums(&self) {
        let mut batch = Batch::default();
        loop {
            let mut repeated = self.repeated();
            let stop = loop {
                let now = Instant::now();
                let due = repeated.repeats.due();
                if repeated.stop || due.is_some_and(|due| due <= now) {
                    break repeated.stop;
                }
                let wait = due.map_or(LONG, |due| due.saturating_duration_since(now));
                (repeated, _) = self.repeats.wait_timeout(repeated, wait);
            };
            repeated.repeats.drain(Instant::now(), stop, &mut batch);
            drop(repeated);
            if batch.unrecorded > 0 {
                self.write_batch(&batch);
            }
            batch.clear();
            if stop {
                return;
            }
        }
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
                let wait = due.map_or(LONG, |due| due.saturating_duration_since(now));
                (queue, _) = self.refused.wait_timeout(queue, wait);
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
}
