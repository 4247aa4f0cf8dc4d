//! The journal: what was committed and is not in the database yet, in the order in which it happened.
//!
//! Owns two files that take turns. Each use of one begins with a header under a fresh random epoch, made durable before anything is appended, and
//! nothing is ever appended behind what another process wrote. Never looks into a record, and knows nothing of the database.

mod entry;
#[cfg(test)]
mod tests;

pub(super) use entry::{Change, Entry};

use super::StoreError;
use super::db::Put;
use super::guard::io_error;
use super::ledger::fault;
use super::manifest::State;
use crate::model::Generation;
use crate::secret::Secret;
use entry::{ALIGN, Epoch, Keys, Link, Tag};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes of a segment.
pub(super) const SEGMENT: usize = 4 << 20;
/// Where the entries begin; before it the header, twice.
const BEGIN: usize = 4096;
const SECOND_HEADER: usize = 2048;
const MAGIC: &[u8; 8] = b"pinfjrn\n";
const VERSION: u32 = 1;
/// Bytes of a header: magic, version, zero, sequence, epoch, generation, tag, MAC.
const HEADER: usize = 64 + 32;
/// The files.
pub(super) const NAMES: [&str; 2] = ["0", "1"];

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Header {
    /// Counts up with each use of a file.
    sequence: u64,
    epoch: Epoch,
    /// What the store held when it was begun: what an older segment has beyond that never happened.
    after: Generation,
    /// The tag of the last entry before.
    before: Tag,
}

/// The segment that is appended to.
struct Active {
    file: Arc<File>,
    slot: usize,
    epoch: Epoch,
    end: u64,
}

/// What of the journal is where. Made by [`Journal::read`], with what was found.
pub(super) struct Journal {
    keys: Keys,
    folder: PathBuf,
    active: Option<Active>,
    sequence: u64,
    last: Tag,
    /// The last generation in each file.
    holds: [Generation; 2],
    appended: Generation,
    durable: Generation,
    /// A sync failed: the kernel has forgotten which pages did not reach the disk, so trying again proves nothing. Or what should not be there
    /// could not be taken back.
    failed: bool,
}

/// What was appended and may not be on the disk.
pub(super) struct Unsynced {
    file: Option<Arc<File>>,
    /// The last of it.
    pub(super) generation: Generation,
}

impl Unsynced {
    /// Waits for the disk.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        fault::at(fault::Point::JournalSync)?;
        self.file.as_ref().map_or(Ok(()), |file| file.sync_data().map_err(io_error))
    }
}

/// What came of an append.
pub(super) enum Appended {
    /// It is in the journal.
    Done,
    /// Neither file has room before a checkpoint.
    Full,
}

/// The folder of the segments.
pub(super) fn folder(store: &Path) -> PathBuf {
    store.join(super::folder::JOURNAL_DIR)
}

impl Journal {
    /// Reads what is there, in order. Entries that a later segment says never happened are left out; a torn tail is no entry. Nothing is
    /// appended to what was read.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] for a segment that is of another store, or an entry that is not whole though a later one says that it was
    /// on the disk; [`StoreError::Io`].
    pub(super) fn read(store: &Path, index_key: &Secret) -> Result<(Journal, Vec<Entry>), StoreError> {
        let (keys, folder) = (Keys::derive(index_key), folder(store));
        let mut found = Vec::new();
        for (slot, name) in NAMES.into_iter().enumerate() {
            let bytes = match std::fs::read(folder.join(name)) {
                Ok(bytes) => bytes,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(e.into()),
            };
            if let Some(header) = read_header(&keys, &bytes)? {
                found.push((header, slot, bytes));
            }
        }
        found.sort_by_key(|(header, ..)| header.sequence);
        if found.windows(2).any(|pair| pair[0].0.sequence == pair[1].0.sequence) {
            return Err(StoreError::Damaged("two segments of the journal say that they are the same".into()));
        }
        let none = Generation(0);
        let mut journal = Journal {
            keys,
            folder,
            active: None,
            sequence: found.last().map_or(0, |(header, ..)| header.sequence),
            last: [0; 16],
            holds: [none; 2],
            appended: none,
            durable: none,
            failed: false,
        };
        let mut entries: Vec<Entry> = Vec::new();
        for (header, slot, bytes) in &found {
            entries.retain(|entry| entry.state.generation <= header.after);
            let own = journal.read_entries(header, bytes)?;
            journal.holds[*slot] = own.last().map_or(header.after, |entry| entry.state.generation);
            entries.extend(own);
        }
        journal.appended = entries.last().map_or(none, |entry| entry.state.generation);
        journal.durable = entries.last().map_or(none, |entry| entry.durable);
        Ok((journal, entries))
    }

    fn read_entries(&mut self, header: &Header, bytes: &[u8]) -> Result<Vec<Entry>, StoreError> {
        let (mut entries, mut at, mut before): (Vec<Entry>, _, _) = (Vec::new(), BEGIN, header.before);
        while let Some((entry, tag, next)) = entry::open(&self.keys, &header.epoch, bytes, at) {
            let follows = entries.last().map_or(header.after, |last| last.state.generation);
            if entry.before != before || entry.after < follows || entry.state.generation <= entry.after {
                return Err(StoreError::Damaged("entries of the journal do not follow each other".into()));
            }
            entries.push(entry);
            (at, before) = (next, tag);
        }
        self.last = before;
        let reached = entries.last().map_or(header.after, |entry| entry.state.generation);
        // A torn tail is the end. What follows it is of no use, but may tell that it is none.
        let later = (at + ALIGN..bytes.len().saturating_sub(ALIGN)).step_by(ALIGN);
        let mut later = later.filter(|at| entry::may_begin(&bytes[*at..]));
        if later.any(|at| {
            entry::open(&self.keys, &header.epoch, bytes, at).is_some_and(|(entry, ..)| entry.durable > reached)
        }) {
            return Err(StoreError::Damaged(
                "an entry of the journal that was on the disk is not whole any more".into(),
            ));
        }
        Ok(entries)
    }

    /// The store holds this generation, and what comes next follows it: by a checkpoint, or by a commit that was not journalled.
    pub(super) fn is_at(&mut self, generation: Generation) {
        self.appended = self.appended.max(generation);
        self.durable = self.durable.max(generation);
    }

    /// Appends an entry. It survives this process, but a power cut only after [`Journal::sync`]. `checkpointed` is the last generation that the
    /// database has for good.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`] if no segment can be made, [`StoreError::Io`]; then nothing was appended.
    pub(super) fn append<'a>(
        &mut self,
        checkpointed: Generation,
        state: &State,
        puts: impl Iterator<Item = Put<'a>> + Clone,
    ) -> Result<Appended, StoreError> {
        self.check()?;
        let room = (entry::HEAD + entry::length(puts.clone())).next_multiple_of(ALIGN) as u64;
        if self.active.as_ref().is_none_or(|active| active.end + room > SEGMENT as u64) {
            let slot = self.active.as_ref().map_or(0, |active| 1 - active.slot);
            if self.holds[slot] > checkpointed {
                return Ok(Appended::Full);
            }
            self.begin(slot)?;
        }
        let Some(active) = &mut self.active else { return Ok(Appended::Full) };
        let link = Link { after: self.appended, durable: self.durable, before: self.last };
        let (bytes, tag) = entry::seal(&self.keys, (&active.epoch, active.end), &link, state, puts)?;
        let written = fault::at(fault::Point::Append)
            .and_then(|()| active.file.write_all_at(&bytes, active.end).map_err(io_error))
            .and_then(|()| fault::at(fault::Point::Appended));
        if let Err(error) = written {
            // What was written of it must not be taken for an entry by anybody; if that cannot be had, nothing more is appended here.
            self.failed = active.file.write_all_at(&[0; ALIGN], active.end).is_err();
            return Err(error);
        }
        active.end += bytes.len() as u64;
        self.holds[active.slot] = state.generation;
        (self.last, self.appended) = (tag, state.generation);
        Ok(Appended::Done)
    }

    /// Makes everything that was appended survive a power cut.
    ///
    /// # Errors
    /// [`StoreError::Io`]: then nothing is known of what was not durable before, and nothing may be appended here any more: see
    /// [`Journal::give_up`].
    pub(super) fn sync(&mut self) -> Result<(), StoreError> {
        match self.unsynced()? {
            Some(unsynced) => self.synced(unsynced.generation, unsynced.sync()),
            None => Ok(()),
        }
    }

    /// What a sync has to reach, for whoever does it while others append; [`Journal::synced`] is told what came of it.
    ///
    /// # Errors
    /// [`StoreError::Failed`] after a failed sync.
    pub(super) fn unsynced(&self) -> Result<Option<Unsynced>, StoreError> {
        if self.durable >= self.appended {
            return Ok(None);
        }
        self.check()?;
        let file = self.active.as_ref().map(|active| Arc::clone(&active.file));
        Ok(Some(Unsynced { file, generation: self.appended }))
    }

    /// Takes the outcome of a sync that reached for this generation.
    ///
    /// # Errors
    /// As [`Journal::sync`]; also if another sync failed meanwhile, since the kernel tells of a failure once.
    pub(super) fn synced(&mut self, generation: Generation, outcome: Result<(), StoreError>) -> Result<(), StoreError> {
        self.check()?;
        self.failed = outcome.is_err();
        outcome?;
        self.durable = self.durable.max(generation);
        Ok(())
    }

    /// Whether a sync failed, and nothing was given up since.
    pub(super) fn has_failed(&self) -> bool {
        self.failed
    }

    fn check(&self) -> Result<(), StoreError> {
        match self.failed {
            true => Err(StoreError::Failed("the journal did not reach the disk".into())),
            false => Ok(()),
        }
    }

    /// After a failed sync, once the database has everything up to `generation` for good: what the journal has beyond that never happened.
    /// The next segment says so, durably, before this returns.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::NoSpace`]: then a successor may find what was not answered.
    pub(super) fn give_up(&mut self, generation: Generation) -> Result<(), StoreError> {
        (self.appended, self.durable, self.failed) = (generation, generation, false);
        let slot = self.active.take().map_or(0, |active| 1 - active.slot);
        self.begin(slot).inspect_err(|_| self.failed = true)
    }

    /// Whether a checkpoint now would free a segment soon.
    pub(super) fn is_half_full(&self) -> bool {
        self.active.as_ref().is_some_and(|active| active.end as usize > SEGMENT / 2)
    }

    /// Begins the use of a file: what was in it is in the database.
    fn begin(&mut self, slot: usize) -> Result<(), StoreError> {
        // What is appended to the new one is never answered before what the old one has is on the disk.
        self.sync()?;
        fault::at(fault::Point::Header)?;
        let file = self.file(slot)?;
        let mut epoch = [0; 16];
        getrandom::getrandom(&mut epoch).map_err(|e| StoreError::Failed(format!("no random numbers: {e}")))?;
        let header = Header { sequence: self.sequence + 1, epoch, after: self.appended, before: self.last };
        let bytes = header.encode(&self.keys);
        for at in [0, SECOND_HEADER] {
            file.write_all_at(&bytes, at as u64).map_err(io_error)?;
        }
        file.sync_data().map_err(io_error)?;
        self.sequence = header.sequence;
        self.holds[slot] = self.appended;
        self.active = Some(Active { file: Arc::new(file), slot, epoch, end: BEGIN as u64 });
        Ok(())
    }

    /// One of the files, with all the room it will ever need.
    fn file(&self, slot: usize) -> Result<File, StoreError> {
        make_folder(&self.folder)?;
        let (path, mut options) = (self.folder.join(NAMES[slot]), OpenOptions::new());
        options.read(true).write(true).mode(0o600);
        match options.open(&path) {
            Ok(file) if file.metadata()?.len() == SEGMENT as u64 => return Ok(file),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e.into()),
        }
        // Written, not only reserved: a sync then has nothing to do but to write what was appended.
        let new = self.folder.join(format!("{}.new", NAMES[slot]));
        let made = options.create(true).truncate(true).open(&new).and_then(|file| {
            file.write_all_at(&vec![0; SEGMENT], 0)?;
            file.sync_all()?;
            std::fs::rename(&new, &path)?;
            File::open(&self.folder)?.sync_all()?;
            Ok(file)
        });
        made.map_err(io_error).inspect_err(|_| drop(std::fs::remove_file(&new)))
    }

    /// Wipes both files: nothing in them is needed any more, and nobody is to find it there.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub(super) fn wipe(&mut self) -> Result<(), StoreError> {
        self.active = None;
        self.holds = [Generation(0); 2];
        wipe(&self.folder)
    }
}

/// The segments that were ever used, as they are, for a backup of a store whose key nobody has.
pub(super) fn segments(store: &Path) -> Result<Vec<(&'static str, Vec<u8>)>, StoreError> {
    let mut all = Vec::new();
    for name in NAMES {
        match std::fs::read(folder(store).join(name)) {
            Ok(bytes) if bytes.iter().any(|byte| *byte != 0) => all.push((name, bytes)),
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e.into()),
            Ok(_) | Err(_) => {}
        }
    }
    Ok(all)
}

/// A segment as a backup had it.
pub(super) fn put_segment(store: &Path, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
    if bytes.len() != SEGMENT {
        return Err(StoreError::BadBackup("a segment of the journal is cut short".into()));
    }
    let folder = folder(store);
    make_folder(&folder)?;
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(folder.join(name)).map_err(io_error)?;
    file.write_all_at(bytes, 0).map_err(io_error)?;
    file.sync_all().map_err(io_error)?;
    Ok(File::open(&folder)?.sync_all()?)
}

fn make_folder(folder: &Path) -> Result<(), StoreError> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Ok(()) => super::folder::sync_parent(folder),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(io_error(e)),
    }
}

/// The last generation that the journal says it has, believed without its key.
pub(super) fn claimed_generation(store: &Path) -> Result<u64, StoreError> {
    let mut found = Vec::new();
    for (_, bytes) in segments(store)? {
        found.extend(Header::claimed(&bytes).map(|header| (header, bytes)));
    }
    found.sort_by_key(|(header, _)| header.sequence);
    let mut last = 0;
    for (header, bytes) in found {
        // What an older segment has beyond this never happened.
        last = last.min(header.after.0);
        let (mut at, mut reached) = (BEGIN, header.after);
        // What the file had before, behind the end, is older.
        while let Some((generation, next)) = entry::claimed(&bytes, at).filter(|(generation, _)| *generation > reached)
        {
            (at, reached) = (next, generation);
        }
        last = last.max(reached.0);
    }
    Ok(last)
}

/// Makes what is in the files survive a power cut.
pub(super) fn sync(store: &Path) -> Result<(), StoreError> {
    for name in NAMES {
        match File::open(folder(store).join(name)) {
            Ok(file) => file.sync_data().map_err(io_error)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Overwrites the segments of a folder.
pub(super) fn wipe(folder: &Path) -> Result<(), StoreError> {
    for name in NAMES {
        match OpenOptions::new().write(true).open(folder.join(name)) {
            Ok(file) => {
                file.write_all_at(&vec![0; file.metadata()?.len() as usize], 0).map_err(io_error)?;
                file.sync_all().map_err(io_error)?;
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

impl Header {
    fn encode(&self, keys: &Keys) -> [u8; HEADER] {
        let mut out = [0; HEADER];
        out[..8].copy_from_slice(MAGIC);
        out[8..12].copy_from_slice(&VERSION.to_be_bytes());
        out[16..24].copy_from_slice(&self.sequence.to_be_bytes());
        out[24..40].copy_from_slice(&self.epoch);
        out[40..48].copy_from_slice(&self.after.0.to_be_bytes());
        out[48..64].copy_from_slice(&self.before);
        let mac = keys.header_mac(&out[..64]);
        out[64..].copy_from_slice(&mac);
        out
    }

    fn decode(bytes: &[u8], keys: &Keys) -> Option<Self> {
        let known = bytes.starts_with(MAGIC) && bytes.get(8..12)? == VERSION.to_be_bytes();
        if !known || !keys.is_header(bytes.get(..64)?, bytes.get(64..HEADER)?) {
            return None;
        }
        Self::claimed(bytes)
    }

    /// What it says, believed without the key.
    fn claimed(bytes: &[u8]) -> Option<Self> {
        let number = |at: usize| Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        Some(Header {
            sequence: number(16)?,
            epoch: bytes.get(24..40)?.try_into().ok()?,
            after: Generation(number(40)?),
            before: bytes.get(48..64)?.try_into().ok()?,
        })
    }
}

/// What the header of a segment says; `None` if the file was never used. The second copy stands in for a first one that a power cut tore.
fn read_header(keys: &Keys, bytes: &[u8]) -> Result<Option<Header>, StoreError> {
    let copies = [bytes.get(..HEADER), bytes.get(SECOND_HEADER..SECOND_HEADER + HEADER)];
    let unused = |copy: &Option<&[u8]>| copy.is_none_or(|copy| copy.iter().all(|b| *b == 0));
    match copies.into_iter().flatten().find_map(|copy| Header::decode(copy, keys)) {
        None if copies.iter().any(|copy| !unused(copy)) => {
            Err(StoreError::Damaged("a segment of the journal is garbled, or of another store".into()))
        }
        found => Ok(found),
    }
}
