//! The one who writes: seals a batch of bodies into the chain, hands it to write(2), rotates.
//!
//! Owns the open file and where the chain stands. Whoever has the `Writer` is the only one who appends; it takes no
//! lock. The chain moves on only when the whole batch is in the file, so a line that failed leaves no trace.

use super::AuditError;
use super::file::{self, First, Locked};
use super::line::{self, Anchor, Clock, Durable, own};
use super::log::Settings;
use super::reserve::{Reserve, Room};
use super::rotated::Rotated;
use super::tell::TARGET;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

/// Bodies of lines that are to be written together.
#[derive(Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    /// How many callers wait for it.
    pub waiters: usize,
    /// How many events are missing from the log if it cannot be written.
    pub unrecorded: u64,
    /// Whether there are refusals among them, which are told where allowed events are not.
    pub refusals: bool,
}

impl Batch {
    /// Adds a line that stands for that many events.
    pub fn push(&mut self, body: &[u8]) {
        self.bytes.extend_from_slice(body);
        self.ends.push(self.bytes.len());
    }

    pub fn append(&mut self, other: &Batch) {
        for body in other.bodies() {
            self.push(body);
        }
        self.unrecorded += other.unrecorded;
        self.refusals |= other.refusals;
    }

    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
        self.waiters = 0;
        self.unrecorded = 0;
        self.refusals = false;
    }

    pub fn bodies(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(from, to)| &self.bytes[from..*to])
    }
}

/// Events that are not in the log since it could not be written.
struct Gap {
    events: u64,
    since: SystemTime,
    reason: String,
}

/// See the module.
pub(super) struct Writer {
    path: PathBuf,
    file: Arc<Locked>,
    /// Bytes in the file that are whole lines.
    offset: u64,
    /// The number of the file's first line: its name when it is rotated.
    first: u64,
    at: Anchor,
    clock: Clock,
    /// What the store has on the disk, and the same as the last fields of each line.
    durable: Option<Durable>,
    last: Vec<u8>,
    out: Vec<u8>,
    gap: Option<Gap>,
    reserve: Reserve,
}

impl Writer {
    /// Opens the log, or begins one. Half a line at the end is closed off by a line that names its length and digest.
    pub fn open(settings: &Settings) -> Result<Self, AuditError> {
        let path = &settings.path;
        file::make_folder(path)?;
        let io = |e| AuditError::open(path, e);
        let mut writer = match file::open(path)? {
            None => Self::begin(settings, None)?,
            Some(found) => match file::first(&found).map_err(io)? {
                First::Foreign => return Err(AuditError::NotALog { path: path.clone() }),
                First::Unborn => Self::begin(settings, file::tail(&found).map_err(io)?.torn)?,
                First::Header(h) if h.format != line::FORMAT => {
                    return Err(AuditError::UnknownFormat { path: path.clone(), format: h.format });
                }
                First::Header(h) => Self::resume(settings, found, h.seq)?,
            },
        };
        writer.out.reserve(4096);
        Ok(writer)
    }

    /// Begins a file, after the newest rotated one if there is any.
    fn begin(settings: &Settings, torn: Option<(u64, [u8; 32])>) -> Result<Self, AuditError> {
        let path = &settings.path;
        let newest = file::rotated(path)?.pop();
        let mut previous = Anchor::default();
        if let Some(newest) = &newest {
            previous = newest.last().map_err(|e| AuditError::open(newest.path(), e))?.unwrap_or_default();
        }
        let (first, at) = file::header(previous, newest.as_ref().map(Rotated::path), &[]);
        let file = file::make(path, &first, |_| Ok(()))?;
        file.sync_all().and_then(|()| file::sync_folder(path)).map_err(|e| AuditError::open(path, e))?;
        let mut writer = Self::over(settings, file, first.len() as u64, at.count, at);
        if let Some((bytes, digest)) = torn {
            writer.note_torn(bytes, &digest, false)?;
        }
        Ok(writer)
    }

    /// Goes on in a file that is there.
    fn resume(settings: &Settings, file: Locked, first: u64) -> Result<Self, AuditError> {
        let path = &settings.path;
        let io = |e| AuditError::open(path, e);
        // A crash between the two steps of a rotation leaves a second name for this very file.
        let this = file.metadata().map_err(io)?;
        for rotated in file::rotated(path)? {
            let name = rotated.path();
            if fs::symlink_metadata(name).is_ok_and(|other| file::same(&this, &other)) {
                fs::remove_file(name).map_err(|e| AuditError::open(name, e))?;
            }
        }
        let tail = file::tail(&file).map_err(io)?;
        let Some(at) = tail.last else { return Err(AuditError::NotALog { path: path.clone() }) };
        let mut writer = Self::over(settings, file, this.len(), first, at);
        writer.set_durable(tail.durable);
        if let Some((bytes, digest)) = tail.torn {
            writer.note_torn(bytes, &digest, true)?;
        }
        Ok(writer)
    }

    fn over(settings: &Settings, file: Locked, offset: u64, first: u64, at: Anchor) -> Self {
        let mut reserve = Reserve::new(settings.max_size);
        reserve.lost(offset);
        reserve.fill(&file, offset);
        Writer {
            path: settings.path.clone(),
            file: Arc::new(file),
            offset,
            first,
            at,
            clock: Clock::default(),
            durable: None,
            last: vec![],
            out: vec![],
            gap: None,
            reserve,
        }
    }

    /// Where the chain stands in the file.
    pub fn at(&self) -> Anchor {
        self.at
    }

    /// What the store has on the disk, as far as the lines know.
    pub fn durable(&self) -> Option<Durable> {
        self.durable
    }

    /// What it has from now on.
    pub fn set_durable(&mut self, durable: Option<Durable>) {
        self.durable = durable;
        self.last = durable.map(|durable| durable.fields()).unwrap_or_default();
    }

    pub fn file(&self) -> Arc<Locked> {
        self.file.clone()
    }

    /// Bytes in the current file.
    pub fn size(&self) -> u64 {
        self.offset
    }

    /// How many events are missing that no line tells of yet.
    pub fn unrecorded(&self) -> u64 {
        self.gap.as_ref().map_or(0, |gap| gap.events)
    }

    /// How much room there is.
    pub fn room(&self) -> Room {
        self.reserve.room(self.offset)
    }

    /// Takes room ahead again, where some was used or could not be had.
    pub fn reserve(&mut self) {
        self.reserve.fill(&self.file, self.offset);
    }

    /// The lines of the last batch, as they were written or were to be.
    pub fn lines(&self) -> &[u8] {
        &self.out
    }

    /// Seals the batch and writes it, with a line before it that tells of a gap if there is one. Either all of it is
    /// in the file or nothing is.
    pub fn write(&mut self, batch: &Batch) -> io::Result<()> {
        let now = SystemTime::now();
        let mut at = self.at;
        self.out.clear();
        if let Some(gap) = &self.gap {
            let mut body = format!("\"op\":\"{}\"", own::GAP).into_bytes();
            line::push_text(&mut body, "reason", &gap.reason, 512);
            line::push_summed(&mut body, gap.events, gap.since);
            at.count += 1;
            at.head = line::seal(&mut self.out, &mut self.clock, now, at.count, &at.head, (&body, &self.last));
        }
        for body in batch.bodies() {
            at.count += 1;
            at.head = line::seal(&mut self.out, &mut self.clock, now, at.count, &at.head, (body, &self.last));
        }
        match self.append() {
            Ok(()) => {
                self.at = at;
                self.gap = None;
                Ok(())
            }
            Err(e) => {
                if batch.unrecorded > 0 {
                    let gap = self.gap.get_or_insert_with(|| Gap { events: 0, since: now, reason: e.to_string() });
                    gap.events += batch.unrecorded;
                }
                Err(e)
            }
        }
    }

    /// Hands `out` to write(2). What was written of it when that fails is cut off again.
    fn append(&mut self) -> io::Result<()> {
        let file: &fs::File = &self.file;
        let end = self.offset + self.out.len() as u64;
        if self.reserve.is_low(end) {
            self.reserve.fill(file, end);
        }
        let result = (&*file).write_all(&self.out);
        match &result {
            Ok(()) => self.offset = end,
            // The cut needs no room; were it to fail, the rest would be found as half a line at the next start.
            Err(_) if file.metadata()?.len() > self.offset => {
                file.set_len(self.offset)?;
                self.reserve.lost(self.offset);
                self.reserve.fill(file, self.offset);
            }
            Err(_) => {}
        }
        result
    }

    /// Writes one line of the log's own.
    pub fn note(&mut self, body: &[u8]) -> Result<(), AuditError> {
        let mut batch = Batch::default();
        batch.push(body);
        self.write(&batch).map_err(|e| AuditError::Write { path: self.path.clone(), source: e })
    }

    fn note_torn(&mut self, bytes: u64, digest: &[u8; 32], kept: bool) -> Result<(), AuditError> {
        let mut body = format!("\"op\":\"{}\"", own::TORN).into_bytes();
        line::push_count(&mut body, "bytes", bytes);
        line::push_hash(&mut body, "digest", digest);
        line::push_text(&mut body, "reason", "half a line at the end, as a power cut leaves it", 512);
        if kept {
            // One write(2) with the newline that closes the half line, so that a crash here leaves nothing new to explain.
            self.out.clear();
            self.out.push(b'\n');
            let count = self.at.count + 1;
            let now = SystemTime::now();
            let head = line::seal(&mut self.out, &mut self.clock, now, count, &self.at.head, (&body, &self.last));
            self.append().map_err(|e| AuditError::Write { path: self.path.clone(), source: e })?;
            self.at = Anchor { count, head };
            return Ok(());
        }
        self.note(&body)
    }

    /// Records that the log is not what its anchor says.
    pub fn note_cut(&mut self, expected: Anchor, reason: &str) -> Result<(), AuditError> {
        let mut body = format!("\"op\":\"{}\"", own::CUT).into_bytes();
        line::push_count(&mut body, "expected_count", expected.count);
        line::push_hash(&mut body, "expected_head", &expected.head);
        line::push_text(&mut body, "reason", reason, 512);
        self.note(&body)
    }

    /// Records that a store is older than this log knows it.
    pub fn note_behind(&mut self, expected: Durable, found: Durable) -> Result<(), AuditError> {
        let mut body = format!("\"op\":\"{}\"", own::BEHIND).into_bytes();
        line::push_count(&mut body, "expected", expected.generation.0);
        let missing = expected.generation.0.saturating_sub(found.generation.0);
        line::push_text(&mut body, "reason", &format!("{missing} commits that were on the disk are missing"), 512);
        self.set_durable(Some(found));
        self.note(&body)
    }

    /// Gives the file its number and begins the next, if there is room for all of its reserve: otherwise this one goes on in its own.
    /// The old one is synced; the new one is not yet.
    pub fn rotate(&mut self) -> Result<PathBuf, AuditError> {
        let failed = |e| AuditError::Write { path: self.path.clone(), source: e };
        let name = file::rotated_name(&self.path, self.first);
        self.file.sync_data().map_err(failed)?;
        // A second name first, then the new file over the first name: there is a log under it at every moment.
        fs::hard_link(&self.path, &name).map_err(failed)?;
        let (old, end) = (Arc::clone(&self.file), self.offset);
        if let Err(e) = self.next_file(&name, true) {
            let _ = fs::remove_file(&name);
            return Err(e);
        }
        // What was reserved past its end is not needed any more.
        if let Err(error) = old.set_len(end) {
            tracing::warn!(target: TARGET, %error, "room that was reserved for a rotated file of the audit log is not given back");
        }
        Ok(name)
    }

    fn next_file(&mut self, previous: &Path, needs_room: bool) -> Result<(), AuditError> {
        let (first, at) = file::header(self.at, Some(previous), &self.last);
        let end = first.len() as u64;
        let mut reserve = self.reserve.anew();
        let file = file::make(&self.path, &first, |file| {
            reserve.fill(file, end);
            if needs_room && reserve.room(end).full { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
        })?;
        self.file = Arc::new(file);
        (self.offset, self.first, self.at, self.reserve) = (end, at.count, at, reserve);
        Ok(())
    }

    /// Looks whether the file is still where it was and as long, and if not begins a new one that says so. A file cut
    /// short is kept under another name.
    pub fn look_after(&mut self) -> Result<(), AuditError> {
        let failed = |e| AuditError::open(&self.path, e);
        let ours = self.file.metadata().map_err(failed)?;
        let there = fs::symlink_metadata(&self.path).is_ok_and(|named| file::same(&named, &ours));
        if there && ours.len() >= self.offset {
            return Ok(());
        }
        let mut reason = "the file was moved or removed while it was written to";
        if there {
            reason = "the file was cut short while it was written to";
            let aside = file::with_suffix(&self.path, &format!("cut.{:012}", self.at.count));
            match fs::hard_link(&self.path, &aside) {
                // Of an attempt before, when no new file could be made.
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(failed(e)),
                _ => {}
            }
        } else if fs::symlink_metadata(&self.path).is_ok() {
            return Err(AuditError::NotALog { path: self.path.clone() });
        }
        let expected = self.at;
        self.next_file(Path::new(""), false)?;
        self.note_cut(expected, reason)
    }
}
