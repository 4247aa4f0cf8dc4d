//! Many callers, one writer at a time: callers put lines into a batch, one of them writes it for all, the others wait.
//!
//! Owns the only lock of the writing side. It is held for appending to a batch and for handing over the writer, never
//! across a system call on the file. It is the lowest lock of `audit`: nothing else is locked while it is held.

use super::line::Anchor;
use super::reserve::Room;
use super::tell::Teller;
use super::writer::{Batch, Writer};
use crate::lock::{Condvar, Mutex, MutexGuard};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How often a caller looks whether the writer is done before it sleeps: a few µs, which a write(2) takes in most cases.
const LOOKS: u32 = 150;

/// See the module.
pub(super) struct Chain {
    state: Mutex<State>,
    /// A batch is done, or the writer is free.
    turn: Condvar,
    /// There is something to sync, to rotate, or it is time to stop.
    news: Condvar,
    /// The last batch that is done, and whether the writer is free: to be looked at without the lock.
    done: AtomicU64,
    free: AtomicBool,
    teller: Arc<Teller>,
    max_size: u64,
}

struct State {
    /// Away while somebody writes.
    writer: Option<Box<Writer>>,
    pending: Batch,
    pending_id: u64,
    /// An empty batch, kept for its memory.
    spare: Batch,
    done: u64,
    failed: Vec<Failed>,
    /// How many sleep on `turn`.
    sleepers: usize,
    written: Anchor,
    synced: Anchor,
    size: u64,
    room: Room,
    unrecorded: u64,
    keeper_sleeps: bool,
    stop: bool,
}

/// A batch that is not in the file, for those who have not heard of it yet.
struct Failed {
    id: u64,
    waiters: usize,
    errno: i32,
}

/// What the keeper (the thread that syncs) is woken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Work {
    /// There are lines that are not synced.
    pub dirty: bool,
    /// Events are missing and no line says so yet.
    pub gap: bool,
    /// The file is as large as it may be.
    pub full: bool,
    /// There will be no more.
    pub stop: bool,
}

impl Chain {
    pub fn new(writer: Writer, max_size: u64, teller: Arc<Teller>) -> Self {
        let (written, size, room) = (writer.at(), writer.size(), writer.room());
        let state = State {
            writer: Some(Box::new(writer)),
            pending: Batch::default(),
            pending_id: 1,
            spare: Batch::default(),
            done: 0,
            failed: vec![],
            sleepers: 0,
            written,
            synced: Anchor::default(),
            size,
            room,
            unrecorded: 0,
            keeper_sleeps: false,
            stop: false,
        };
        Chain {
            state: Mutex::new(state),
            turn: Condvar::new(),
            news: Condvar::new(),
            done: AtomicU64::new(0),
            free: AtomicBool::new(true),
            teller,
            max_size,
        }
    }

    /// Puts lines into the batch and returns when write(2) has taken them, or has failed.
    pub fn submit(&self, fill: impl FnOnce(&mut Batch)) -> io::Result<()> {
        let mut state = self.lock();
        fill(&mut state.pending);
        state.pending.waiters += 1;
        let id = state.pending_id;
        let mut looked = false;
        loop {
            if state.done >= id {
                return state.outcome(id);
            }
            if let Some(writer) = state.writer.take() {
                let spare = std::mem::take(&mut state.spare);
                let batch = std::mem::replace(&mut state.pending, spare);
                state.pending_id += 1;
                self.free.store(false, Ordering::Relaxed);
                drop(state);
                let mut turn = Turn { chain: self, writer: Some(writer), batch, id, errno: Some(libc::EIO) };
                turn.write();
                drop(turn);
                state = self.lock();
            } else if !looked {
                looked = true;
                drop(state);
                self.look(id);
                state = self.lock();
            } else {
                state.sleepers += 1;
                state = self.turn.wait(state);
                state.sleepers -= 1;
            }
        }
    }

    /// Does something with the writer that is no batch: rotates, looks after the file.
    pub fn with_writer<R>(&self, act: impl FnOnce(&mut Writer) -> R) -> R {
        let mut state = self.lock();
        let writer = loop {
            match state.writer.take() {
                Some(writer) => break writer,
                None => {
                    state.sleepers += 1;
                    state = self.turn.wait(state);
                    state.sleepers -= 1;
                }
            }
        };
        self.free.store(false, Ordering::Relaxed);
        drop(state);
        let mut turn = Turn { chain: self, writer: Some(writer), batch: Batch::default(), id: 0, errno: None };
        act(turn.writer.as_mut().expect("it is given back when the turn ends"))
    }

    /// Where the chain stands in the file.
    pub fn written(&self) -> Anchor {
        self.lock().written
    }

    /// Where it stands on the disk.
    pub fn synced(&self) -> Anchor {
        self.lock().synced
    }

    /// How many events are missing that no line tells of yet.
    pub fn unrecorded(&self) -> u64 {
        self.lock().unrecorded
    }

    /// How much room there is for more.
    pub fn room(&self) -> Room {
        self.lock().room
    }

    /// Makes durable what is written. Rotated files are synced before they are left.
    pub fn sync(&self) -> io::Result<()> {
        let (file, written) = self.with_writer(|writer| (writer.file(), writer.at()));
        file.sync_data()?;
        self.lock().synced = written;
        Ok(())
    }

    /// Returns when there is work for the keeper, at the latest at `until`. Work other than a full file and the end
    /// waits for `not_before`, so that many lines are synced at once; a full file too, unless it is `prompt`. A disk that became full waits for
    /// nothing, unless that is `known`.
    pub fn await_work(&self, not_before: Instant, until: Instant, prompt: bool, known: bool) -> Work {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            let work = Work {
                dirty: state.written != state.synced,
                gap: state.unrecorded > 0,
                full: state.size >= self.max_size,
                stop: state.stop,
            };
            let some = work.dirty || work.gap || work.full;
            let news = state.room.full && !known;
            if work.stop || news || (work.full && prompt) || (some && now >= not_before) || now >= until {
                return work;
            }
            // Once there is work the keeper needs no waking but by the clock.
            state.keeper_sleeps = !some;
            let wait = if some { not_before } else { until }.saturating_duration_since(now);
            (state, _) = self.news.wait_timeout(state, wait.max(Duration::from_micros(50)));
            state.keeper_sleeps = false;
        }
    }

    /// Ends the keeper's waiting.
    pub fn stop(&self) {
        self.lock().stop = true;
        self.news.notify_all();
    }

    fn look(&self, id: u64) {
        for _ in 0..LOOKS {
            if self.done.load(Ordering::Acquire) >= id || self.free.load(Ordering::Relaxed) {
                return;
            }
            std::hint::spin_loop();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl State {
    fn outcome(&mut self, id: u64) -> io::Result<()> {
        let Some(at) = self.failed.iter().position(|f| f.id == id) else { return Ok(()) };
        let failed = &mut self.failed[at];
        let errno = failed.errno;
        failed.waiters -= 1;
        if failed.waiters == 0 {
            self.failed.swap_remove(at);
        }
        Err(io::Error::from_raw_os_error(errno))
    }
}

/// Somebody has the writer. When it ends, by a panic too, the writer is given back and everybody told.
struct Turn<'a> {
    chain: &'a Chain,
    writer: Option<Box<Writer>>,
    batch: Batch,
    /// 0: no batch.
    id: u64,
    errno: Option<i32>,
}

impl Turn<'_> {
    fn write(&mut self) {
        let writer = self.writer.as_mut().expect("it is given back when the turn ends");
        let result = writer.write(&self.batch);
        self.errno = result.as_ref().err().map(|e| e.raw_os_error().unwrap_or(libc::EIO));
        self.chain.teller.tell(writer.lines(), result.is_ok(), self.batch.refusals);
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let writer = self.writer.take().expect("it is given back once");
        let chain = self.chain;
        let mut state = chain.lock();
        let was_full = state.room.full;
        (state.written, state.size, state.unrecorded) = (writer.at(), writer.size(), writer.unrecorded());
        state.room = writer.room();
        state.writer = Some(writer);
        chain.free.store(true, Ordering::Relaxed);
        if self.id > 0 {
            if let Some(errno) = self.errno {
                state.failed.push(Failed { id: self.id, waiters: self.batch.waiters, errno });
            }
            state.done = self.id;
            chain.done.store(self.id, Ordering::Release);
            self.batch.clear();
            state.spare = std::mem::take(&mut self.batch);
        }
        let news = state.size >= chain.max_size || state.room.full && !was_full;
        let (others, keeper) = (state.sleepers > 0, state.keeper_sleeps || news);
        state.keeper_sleeps = false;
        drop(state);
        if others {
            chain.turn.notify_all();
        }
        if keeper {
            chain.news.notify_one();
        }
    }
}
