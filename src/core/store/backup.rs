//! A store as one tar stream, and back.
//!
//! Owns the format of a backup. What is in it is as sealed as in the store, so a backup needs no key, and shows no more
//! than the store does. Its digest finds accidents; forgery is found by [`super::Store::verify`] afterwards, by the
//! manifest that travels along.

use super::db::{Db, Put, Tree};
use super::folder::{self, Folder};
use super::{MAX_KEY, MAX_VALUE, Store, StoreError, journal, manifest};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use sha2::{Digest, Sha256};
use std::io::{self, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};

/// First and last entry of a backup.
const BEGIN: &str = "pinfold-backup";
const END: &str = "end";
const BEGIN_CONTENT: &[u8] = b"pinfold backup 2\n";
const BEGIN_FAMILY: &[u8] = b"pinfold backup ";
const MANIFEST: &str = "manifest";
const FORMAT: &str = "FORMAT";
/// Before the names of extra files, and of the records' entries.
const FILES: &str = "files/";
const RECORDS: &str = "records/";
/// Before the names of the journal's segments: only of a store that is locked, and was not when its daemon ended.
const JOURNAL: &str = "journal/";
/// An entry of records is closed once it has this many bytes.
const CHUNK: usize = 1 << 20;
/// The largest entry: a chunk that was nearly full when the largest record came.
const MAX_ENTRY: u64 = (CHUNK + MAX_VALUE + MAX_KEY + 64) as u64;

/// What to do with a store that is where one is to be restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Leave it and refuse.
    Refuse,
    /// Keep it beside the new one, under another name.
    SetAside,
}

/// What is in a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Written {
    /// Records of all trees.
    pub records: u64,
    /// Those of `nodes`.
    pub nodes: u64,
    /// Those of `blobs`.
    pub blobs: u64,
    /// The last commit, as the manifest says; whether it is true, [`Store::verify`] knows.
    pub generation: u64,
}

impl Written {
    fn count(&mut self, tree: Tree) {
        self.records += 1;
        match tree {
            Tree::Nodes => self.nodes += 1,
            Tree::Blobs => self.blobs += 1,
            Tree::Meta | Tree::Scopes => {}
        }
    }
}

/// What [`restore`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// Records of all trees.
    pub records: u64,
    /// Those of `nodes`.
    pub nodes: u64,
    /// Those of `blobs`.
    pub blobs: u64,
    /// The last commit, as the manifest says.
    pub generation: u64,
    /// Where the store that was there before is now.
    pub set_aside: Option<PathBuf>,
}

/// Writes the store as one tar stream. The store serves meanwhile; commits wait while
/// its records are copied into a nameless file beside it, or, if there is no room for that, until all is written.
/// Memory: one chunk, and the largest value.
///
/// # Errors
/// [`StoreError::Damaged`] if a value cannot be read whole; [`StoreError::Io`], also for what `out` returned.
pub fn backup(store: &Store, out: &mut dyn Write) -> Result<Written, StoreError> {
    let mut ledger = store.ledger();
    let syncing = store.syncing();
    let mut head = store.head();
    store.checkpoint_with(&mut ledger, &syncing, &mut head)?;
    let db = store.db()?;
    let estimate = db.size_on_disk()?;
    if store.folder.room_for(estimate, 0, 0).is_err() {
        let written = write_all(&db, &store.folder, head.is_some(), out)?;
        out.flush()?;
        return Ok(written);
    }
    let mut scratch = store.folder.scratch()?;
    let mut buffered = BufWriter::with_capacity(1 << 16, &mut scratch);
    let written = write_all(&db, &store.folder, head.is_some(), &mut buffered)?;
    buffered.flush().map_err(super::guard::io_error)?;
    drop(buffered);
    drop((db, head, ledger));
    scratch.rewind()?;
    io::copy(&mut scratch, out)?;
    out.flush()?;
    Ok(written)
}

fn write_all(db: &Db, folder: &Folder, is_unlocked: bool, out: &mut dyn Write) -> Result<Written, StoreError> {
    let mut tar = Writer { tar: tar::Builder::new(out), digest: Sha256::new() };
    tar.entry(BEGIN, BEGIN_CONTENT)?;
    tar.entry(FORMAT, folder::FORMAT)?;
    let manifest = folder.manifest_bytes()?;
    let mut written = Written { generation: manifest::claimed_generation(&manifest), ..Written::default() };
    tar.entry(MANIFEST, &manifest)?;
    let names = folder.file_names()?;
    if names.len() > folder::MAX_FILES {
        return Err(StoreError::Failed(format!("more than {} files beside the store's own", folder::MAX_FILES)));
    }
    for name in names {
        if let Some(bytes) = folder.read_file(&name)? {
            tar.entry(&format!("{FILES}{name}"), &bytes)?;
        }
    }
    if !is_unlocked {
        for (name, segment) in journal::segments(folder.path())? {
            tar.entry(&format!("{JOURNAL}{name}"), &segment)?;
        }
    }
    let (mut chunks, mut chunk) = (0u32, Vec::with_capacity(CHUNK));
    for tree in Tree::ALL {
        db.each(tree, &mut |key, value| {
            encode(&mut chunk, tree, key, value);
            written.count(tree);
            if chunk.len() >= CHUNK {
                tar.entry(&format!("{RECORDS}{chunks:08}"), &chunk)?;
                chunks += 1;
                chunk.clear();
            }
            Ok(())
        })?;
    }
    if !chunk.is_empty() {
        tar.entry(&format!("{RECORDS}{chunks:08}"), &chunk)?;
    }
    tar.end(written.records)?;
    Ok(written)
}

/// tree (1 byte), length of key (u16), key, length of value (u32), value; big-endian.
fn encode(chunk: &mut Vec<u8>, tree: Tree, key: &[u8], value: &[u8]) {
    chunk.push(tree as u8);
    chunk.extend((key.len() as u16).to_be_bytes());
    chunk.extend(key);
    chunk.extend((value.len() as u32).to_be_bytes());
    chunk.extend(value);
}

fn decode<'a>(chunk: &mut &'a [u8]) -> Option<Put<'a>> {
    let tree = *chunk.split_off_first()?;
    let tree = Tree::ALL.into_iter().find(|t| *t as u8 == tree)?;
    let len = u16::from_be_bytes(chunk.split_off(..2)?.try_into().ok()?) as usize;
    let key = chunk.split_off(..len).filter(|k| k.len() <= MAX_KEY)?.to_vec();
    let len = u32::from_be_bytes(chunk.split_off(..4)?.try_into().ok()?) as usize;
    let value = chunk.split_off(..len).filter(|v| v.len() <= MAX_VALUE)?;
    Some(Put { tree, key, value: Some(value) })
}

/// What is digested of an entry: length of the name (u16), name, length of the content (u64), content; big-endian.
fn digest_entry(digest: &mut Sha256, name: &str, content: &[u8]) {
    digest.update((name.len() as u16).to_be_bytes());
    digest.update(name.as_bytes());
    digest.update((content.len() as u64).to_be_bytes());
    digest.update(content);
}

struct Writer<'a> {
    tar: tar::Builder<&'a mut dyn Write>,
    digest: Sha256,
}

impl Writer<'_> {
    fn entry(&mut self, name: &str, content: &[u8]) -> Result<(), StoreError> {
        digest_entry(&mut self.digest, name, content);
        self.append(name, content)
    }

    fn append(&mut self, name: &str, content: &[u8]) -> Result<(), StoreError> {
        let mut header = tar::Header::new_ustar();
        header.set_path(name)?;
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        header.set_cksum();
        self.tar.append(&header, content).map_err(super::guard::io_error)
    }

    /// The last entry: how many records (u64, big-endian), and the digest of all entries before it and of that number.
    fn end(mut self, records: u64) -> Result<(), StoreError> {
        self.digest.update(records.to_be_bytes());
        let digest = std::mem::take(&mut self.digest).finalize();
        self.append(END, &[&records.to_be_bytes()[..], &digest].concat())?;
        self.tar.finish().map_err(super::guard::io_error)
    }
}

/// Makes a store of a backup. It is built under another name beside `dir`, checked whole, and put in its place by one
/// rename; before that nothing changes. Memory: one entry of the backup. Whoever has the key verifies it afterwards.
///
/// # Errors
/// [`StoreError::Exists`] if there is a store and it is to be left, or something that is no store; [`StoreError::InUse`]
/// if it is open; [`StoreError::BadBackup`]; [`StoreError::UnknownFormat`]; [`StoreError::NoSpace`]; [`StoreError::Io`].
pub fn restore(dir: &Path, input: &mut dyn Read, existing: Existing) -> Result<Restored, StoreError> {
    restore_checked(dir, input, existing, |_| Ok(()))
}

/// As [`restore`], and `check` sees the new store, open, before it is put in its place: somebody with the key can verify
/// it there.
///
/// # Errors
/// As [`restore`], and what `check` says; then, too, nothing has changed.
pub fn restore_checked<E: From<StoreError>>(
    dir: &Path,
    input: &mut dyn Read,
    existing: Existing,
    check: impl FnOnce(&Store) -> Result<(), E>,
) -> Result<Restored, E> {
    let vacant = folder::is_vacant(dir)?;
    if !vacant && existing == Existing::Refuse {
        return Err(StoreError::Exists(dir.to_owned()).into());
    }
    // Held to the end: nobody opens the old store while it is moved.
    let _lock = if vacant { None } else { Some(folder::lock_any(dir)?) };
    let building = beside(dir, ".restoring")?;
    let done = build(&building, input).map_err(E::from).and_then(|written| {
        check(&Store::open(&building)?)?;
        let Written { records, nodes, blobs, generation } = written;
        Ok(Restored { records, nodes, blobs, generation, set_aside: put_in_place(&building, dir, vacant)? })
    });
    done.inspect_err(|_| drop(std::fs::remove_dir_all(&building)))
}

fn put_in_place(building: &Path, dir: &Path, vacant: bool) -> Result<Option<PathBuf>, StoreError> {
    if vacant {
        std::fs::rename(building, dir)?;
        folder::sync_parent(dir)?;
        return Ok(None);
    }
    let aside = beside(dir, ".before-restore")?;
    renameat2(AT_FDCWD, building, AT_FDCWD, dir, RenameFlags::RENAME_EXCHANGE).map_err(io::Error::from)?;
    // Now the old store has the temporary name. If it cannot have a better one, it keeps that.
    let aside = match std::fs::rename(building, &aside) {
        Ok(()) => aside,
        Err(_) => building.to_owned(),
    };
    folder::sync_parent(dir)?;
    Ok(Some(aside))
}

/// A free name in the same folder.
fn beside(dir: &Path, suffix: &str) -> Result<PathBuf, StoreError> {
    let absolute = std::path::absolute(dir)?;
    let name = absolute.file_name().ok_or_else(|| StoreError::Failed("a store has a name".into()))?.to_owned();
    let free = (1..1000).map(|n| {
        let mut name = name.clone();
        name.push(format!("{suffix}-{n}"));
        absolute.with_file_name(name)
    });
    let mut free = free.filter(|p| std::fs::symlink_metadata(p).is_err());
    free.next().ok_or_else(|| StoreError::Failed(format!("too many folders named like {}{suffix}", dir.display())))
}

fn build(building: &Path, input: &mut dyn Read) -> Result<Written, StoreError> {
    let mut reader = Reader { digest: Sha256::new(), input: tar::Archive::new(input) };
    let mut written = Written::default();
    folder::create(building, &[], |folder| {
        let db = Db::create(&folder.db_dir())?;
        written = reader.read_into(&db, folder)?;
        db.flush()?;
        db.sync()
    })?;
    Ok(written)
}

struct Reader<'a> {
    digest: Sha256,
    input: tar::Archive<&'a mut dyn Read>,
}

impl Reader<'_> {
    fn read_into(&mut self, db: &Db, folder: &Folder) -> Result<Written, StoreError> {
        let (mut chunks, mut files, mut seen, mut end) = (0u32, 0, 0u32, None);
        let mut written = Written::default();
        for entry in self.input.entries().map_err(not_tar)?.raw(true) {
            if end.is_some() {
                return Err(bad("something follows its end"));
            }
            let (name, content) = read_entry(entry.map_err(not_tar)?)?;
            if name == END {
                end = Some(content);
                continue;
            }
            digest_entry(&mut self.digest, &name, &content);
            match (seen, name.as_str()) {
                (0, BEGIN) if content == BEGIN_CONTENT => {}
                (0, BEGIN) if content.starts_with(BEGIN_FAMILY) => {
                    return Err(StoreError::UnknownFormat(String::from_utf8_lossy(&content).trim_end().into()));
                }
                (1, FORMAT) if content == folder::FORMAT => {}
                (1, FORMAT) => {
                    return Err(StoreError::UnknownFormat(String::from_utf8_lossy(&content).trim_end().into()));
                }
                (2, MANIFEST) if content.len() == manifest::FILE => {
                    written.generation = manifest::claimed_generation(&content);
                    folder.set_manifest_bytes(&content)?;
                }
                (3.., name) if name.starts_with(FILES) && files < folder::MAX_FILES && chunks == 0 => {
                    files += 1;
                    folder.write_file(&name[FILES.len()..], &content).map_err(|e| match e {
                        StoreError::Failed(why) => StoreError::BadBackup(why),
                        other => other,
                    })?;
                }
                (3.., name) if chunks == 0 && journal::NAMES.iter().any(|n| name == format!("{JOURNAL}{n}")) => {
                    folder.room_for(content.len() as u64, 0, 0)?;
                    journal::put_segment(folder.path(), &name[JOURNAL.len()..], &content)?;
                }
                (3.., name) if name == format!("{RECORDS}{chunks:08}") => {
                    chunks += 1;
                    folder.room_for(content.len() as u64, 0, 0)?;
                    fill(db, &content, &mut written)?;
                }
                _ => return Err(bad(format!("an entry that does not belong there: {name:?}"))),
            }
            seen += 1;
        }
        let records = written.records.to_be_bytes();
        self.digest.update(records);
        let digest = std::mem::take(&mut self.digest).finalize();
        match end {
            None => Err(bad("its end is missing")),
            Some(end) if end == [&records[..], &digest].concat() => Ok(written),
            Some(_) => Err(bad("its digest is wrong")),
        }
    }
}

fn fill(db: &Db, content: &[u8], written: &mut Written) -> Result<(), StoreError> {
    let mut rest = content;
    while !rest.is_empty() {
        let put = decode(&mut rest).ok_or_else(|| bad("a record is garbled"))?;
        db.fill(&put)?;
        written.count(put.tree);
    }
    db.flush()
}

fn read_entry(mut entry: tar::Entry<'_, impl Read>) -> Result<(String, Vec<u8>), StoreError> {
    let size = entry.size();
    let name = entry.path_bytes();
    let name = std::str::from_utf8(&name).ok().filter(|n| n.len() <= 100).map(str::to_owned);
    let name = name.ok_or_else(|| bad("an entry's name"))?;
    if entry.header().entry_type() != tar::EntryType::Regular || size > MAX_ENTRY {
        return Err(bad(format!("an entry of a kind or size that no backup has: {name:?}")));
    }
    let mut content = Vec::new();
    entry.by_ref().take(size).read_to_end(&mut content).map_err(not_tar)?;
    if content.len() as u64 != size {
        return Err(bad("it is cut short"));
    }
    Ok((name, content))
}

fn bad(why: impl Into<String>) -> StoreError {
    StoreError::BadBackup(why.into())
}

/// Errors of the tar reader come from the stream's content, unless the stream itself failed.
fn not_tar(e: io::Error) -> StoreError {
    match e.raw_os_error() {
        Some(_) => StoreError::Io(e),
        None => bad(e.to_string()),
    }
}

#[cfg(test)]
pub(super) fn into_vec(store: &Store) -> Vec<u8> {
    let mut out = Vec::new();
    backup(store, &mut out).unwrap();
    out
}
