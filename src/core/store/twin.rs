//! The twin: a copy of the database's file as the last commit or checkpoint left it, for when the end comes in the middle of the next.
//!
//! sled syncs by sync_file_range(2), which no disk's cache knows of, uses a segment again before what took its place is on the disk, and has states
//! of its own, between two of its writes, that it cannot go on from. So a database that was being written when the daemon or the machine ended is never
//! opened: the twin takes its place, and the journal has what came after. Whether it was being written, the manifest says: its slots differ then.
//!
//! Owns the twin's file. A twin that is there is whole whenever the slots differ: it is written only while they do not.

use super::StoreError;
use super::folder::Folder;
use super::guard::io_error;
use super::ledger::fault;
use super::manifest;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

/// Bytes of a segment of sled's, by its default.
const SEGMENT: usize = 512 << 10;
/// How a segment begins: a checksum, its number, and up to which number all was written.
const HEADER: usize = 20;

/// What is known of the twin.
#[derive(Default)]
pub(super) struct Twin {
    kept: Option<Kept>,
    /// The disk had no room for it: said once.
    told: bool,
}

/// A twin that is what the database was.
struct Kept {
    file: File,
    /// The segments that sled may have gone on writing since: all others change only with their headers.
    open: Vec<usize>,
}

impl Twin {
    /// It may not be what the database is: the next [`Twin::prepare`] finds out.
    pub(super) fn doubt(&mut self) {
        self.kept = None;
    }

    /// Makes sure that it is what the database is, or that there is none. Before a slot of the manifest is written.
    ///
    /// # Errors
    /// [`StoreError::Io`]: there is one that is neither what the database is nor can be removed.
    pub(super) fn prepare(&mut self, folder: &Folder) -> Result<(), StoreError> {
        if self.kept.is_some() {
            return Ok(());
        }
        // One that is in the making when the end comes would be taken for a whole one.
        let made = match manifest::slots_differ(&folder.read_manifest()?) {
            true => Err(StoreError::Failed("the manifest's slots differ".into())),
            false => copy(folder, None),
        };
        match made {
            Ok(kept) => (self.kept, self.told) = (Some(kept), false),
            Err(error) => self.give_up(folder, &error)?,
        }
        Ok(())
    }

    /// Takes over what a transaction changed. After both slots of the manifest say it, durably.
    pub(super) fn follow(&mut self, folder: &Folder) {
        let Some(kept) = self.kept.take() else { return };
        match copy(folder, Some(kept)) {
            Ok(kept) => self.kept = Some(kept),
            // As long as nothing is written to the database, nothing depends on it.
            Err(error) => tracing::debug!(%error, "the copy of the database is made anew before the next commit"),
        }
    }

    fn give_up(&mut self, folder: &Folder, error: &StoreError) -> Result<(), StoreError> {
        folder.remove_twin()?;
        if !std::mem::replace(&mut self.told, true) {
            tracing::warn!(%error, "no copy of the database is kept: a power cut in the middle of a checkpoint may damage it");
        }
        Ok(())
    }
}

/// Puts the twin in the place of a database that was being written when its daemon, or the machine, ended. Whether it was.
pub(super) fn bring_back(folder: &Folder) -> Result<bool, StoreError> {
    if !manifest::slots_differ(&folder.read_manifest()?) {
        return Ok(false);
    }
    let twin = match File::open(folder.twin()) {
        Ok(twin) => twin,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(e.into()),
    };
    let dir = folder.db_dir();
    // They are of what is to be forgotten.
    for entry in std::fs::read_dir(&dir)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("snap.") {
            std::fs::remove_file(entry.path())?;
        }
    }
    let database = private().open(dir.join("db"))?;
    let copied = copy_what_differs(&twin, &database, |_| true).and_then(|()| database.sync_all().map_err(io_error));
    match copied {
        // Where there is no room for both, it is the database from now on.
        Err(StoreError::NoSpace) => std::fs::rename(folder.twin(), dir.join("db"))?,
        done => done?,
    }
    File::open(&dir)?.sync_all()?;
    folder.sync()?;
    tracing::info!("the database was being written when it was left: it is brought back to the commit before");
    Ok(true)
}

fn copy(folder: &Folder, kept: Option<Kept>) -> Result<Kept, StoreError> {
    let database = File::open(folder.db_dir().join("db"))?;
    let headers = headers(&database)?;
    let (file, open) = match kept {
        Some(Kept { file, open }) => {
            let before = self::headers(&file)?;
            let same = |at: usize| before.get(at) == headers.get(at) && !open.contains(&at);
            copy_what_differs(&database, &file, |at| !same(at))?;
            (file, newest(&headers))
        }
        None => {
            folder.room_for(missing(folder, &database)?, 0, 0)?;
            let file = private().create(true).open(folder.twin()).map_err(io_error)?;
            copy_what_differs(&database, &file, |_| true)?;
            folder.sync()?;
            (file, newest(&headers))
        }
    };
    fault::at(fault::Point::Twin)?;
    file.sync_all().map_err(io_error)?;
    Ok(Kept { file, open })
}

/// How much longer than what there is a twin would be.
fn missing(folder: &Folder, database: &File) -> Result<u64, StoreError> {
    let has = std::fs::metadata(folder.twin()).map_or(0, |meta| meta.len());
    Ok(database.metadata()?.len().saturating_sub(has))
}

/// Makes those segments that are asked for, and the length, what they are in the other file.
fn copy_what_differs(from: &File, to: &File, asked: impl Fn(usize) -> bool) -> Result<(), StoreError> {
    let length = from.metadata()?.len();
    to.set_len(length).map_err(io_error)?;
    let (mut new, mut old) = (vec![0; SEGMENT], vec![0; SEGMENT]);
    for (_, offset) in (0..length).step_by(SEGMENT).enumerate().filter(|(at, _)| asked(*at)) {
        let bytes = SEGMENT.min((length - offset) as usize);
        read(from, &mut new[..bytes], offset)?;
        read(to, &mut old[..bytes], offset)?;
        if new[..bytes] != old[..bytes] {
            to.write_all_at(&new[..bytes], offset).map_err(io_error)?;
        }
    }
    Ok(())
}

fn read(file: &File, into: &mut [u8], offset: u64) -> Result<(), StoreError> {
    match file.read_exact_at(into, offset) {
        // It became shorter meanwhile: what was cut off means nothing.
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
        other => other.map_err(io_error),
    }
}

fn headers(file: &File) -> Result<Vec<[u8; HEADER]>, StoreError> {
    let offsets = (0..file.metadata()?.len()).step_by(SEGMENT);
    let header = |offset| {
        let mut header = [0; HEADER];
        read(file, &mut header, offset).map(|()| header)
    };
    offsets.map(header).collect()
}

/// The two segments that were begun last: of those before, all had been written when the last was begun.
fn newest(headers: &[[u8; HEADER]]) -> Vec<usize> {
    let number = |header: &[u8; HEADER]| i64::from_le_bytes(header[4..12].try_into().expect("eight bytes")) ^ i64::MAX;
    // Zeros are of one that is free.
    let mut all: Vec<usize> = (0..headers.len()).filter(|at| headers[*at] != [0; HEADER]).collect();
    all.sort_by_key(|at| std::cmp::Reverse(number(&headers[*at])));
    all.truncate(2);
    all
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

#[cfg(test)]
mod tests {
    use super::super::{AuditAnchor, Batch, BlobKey, Durability, Store};
    use super::*;
    use crate::model::{Ino, VersionNo};
    use crate::secret::Secret;
    use std::path::Path;

    fn key() -> Secret {
        Secret::copy_of(&[9; 32]).unwrap()
    }

    fn opened(dir: &Path) -> Store {
        let store = Store::open(dir).unwrap();
        store.verify(&key(), |_, _| Ok(())).unwrap();
        store
    }

    fn put(store: &Store, ino: u64, round: u64) {
        let mut batch = Batch::default();
        batch.nodes.insert(Ino(ino), Some(vec![round as u8; 200]));
        let blob = vec![round as u8; 10_000 + (ino * 7919 + round * 104_729) as usize % 90_000];
        batch.blobs.insert(BlobKey { ino: Ino(ino), version: VersionNo(1) }, Some(blob));
        store.append(&batch, &AuditAnchor::default(), Durability::Lazy).unwrap();
    }

    #[test]
    fn it_is_what_the_database_is_after_every_checkpoint() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("store");
        Store::create(&dir, &key(), Batch::default(), &[]).unwrap();
        let mut store = opened(&dir);
        for round in 0..12 {
            (0..20).filter(|ino| (ino * 31 + round * 17) % 5 != 0).for_each(|ino| put(&store, ino, round));
            store.checkpoint().unwrap();
            let file = |name: &str| std::fs::read(dir.join(name)).unwrap();
            let (twin, database) = (file("db.twin"), file("db/db"));
            // sled cuts off what is free at the end whenever it comes to it.
            let both = twin.len().min(database.len());
            let other = (0..both).find(|at| twin[*at] != database[*at]);
            assert_eq!(other, None, "round {round}, of {} and {}", twin.len(), database.len());
            if round % 5 == 4 {
                drop(store);
                store = opened(&dir);
            }
        }
    }

    #[test]
    fn a_database_that_was_being_written_is_not_opened_but_brought_back() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("store");
        Store::create(&dir, &key(), Batch::default(), &[]).unwrap();
        let store = opened(&dir);
        (0..20).for_each(|ino| put(&store, ino, 1));
        store.checkpoint().unwrap();
        (0..20).for_each(|ino| put(&store, ino, 2));
        super::super::NEXT_FAULT.set(Some(super::super::FaultPoint::AfterTransaction));
        assert!(store.checkpoint().is_err());
        std::mem::forget(store.head());
        drop(store);
        // Whatever a disk made of it.
        let database = private().open(dir.join("db/db")).unwrap();
        let length = database.metadata().unwrap().len() as usize;
        database.write_all_at(&vec![0xa5; length - 700_000], 600_000).unwrap();
        let store = opened(&dir);
        for ino in 0..20 {
            let blob = store.blob(BlobKey { ino: Ino(ino), version: VersionNo(1) }).unwrap().unwrap();
            assert!(blob.iter().all(|byte| *byte == 2), "{ino}");
        }
        // From here on it counts as it is.
        drop(store);
        database.write_all_at(&vec![0xa5; length - 700_000], 600_000).unwrap();
        assert!(Store::open(&dir).and_then(|store| store.verify(&key(), |_, _| Ok(())).map(drop)).is_err());
    }
}
