//! The store's folder: its files, its lock, its format, the room on its disk.
//!
//! Owns the names of the files in it. Never touches what is inside the database.

use super::StoreError;
use super::manifest::{self, Slots};
use crate::sys::file_lock;
use crate::trust;
use nix::fcntl::Flock;
use nix::sys::statvfs::fstatvfs;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The content of `FORMAT`, and of the meta record of the same purpose.
pub(super) const FORMAT: &[u8] = b"pinfold store 2\n";
/// What every version's `FORMAT` begins with.
const FORMAT_FAMILY: &[u8] = b"pinfold store ";
/// The meta record that says the format.
pub(super) const FORMAT_KEY: &str = "format";

const FORMAT_FILE: &str = "FORMAT";
const LOCK_FILE: &str = "lock";
const MANIFEST_FILE: &str = "manifest";
const DB_DIR: &str = "db";
/// What the database was at the last commit of all that it has.
const TWIN_FILE: &str = "db.twin";
/// Room kept for opening on a full disk: sled writes when it opens.
const SPARE_FILE: &str = "spare";
const SPARE: u64 = 2 << 20;
/// There while a store is being made, gone when it is one.
const CREATING: &str = "creating";
/// The journal's folder.
pub(super) const JOURNAL_DIR: &str = "journal";

/// How long a lock is waited for whose holder is dead: a child that it was starting when it was killed has a copy until it runs.
const LEFT_BEHIND: Duration = Duration::from_secs(5);

/// The largest extra file, in bytes, and how many a store has at most.
pub(super) const MAX_FILE: u64 = 1 << 20;
pub(super) const MAX_FILES: usize = 32;

/// Room that a commit leaves on the disk, so that sled can always open again and clean up after itself.
const RESERVE: u64 = 4 << 20;
/// Room that must be there for a commit that makes the store smaller.
const LAST_RESERVE: u64 = 1 << 20;

/// The size of the store's filesystem, and what of it an ordinary user could still fill. Bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// All of it.
    pub total: u64,
    /// Free.
    pub free: u64,
}

/// A store's folder, locked.
pub(super) struct Folder {
    path: PathBuf,
    dir: File,
    manifest: File,
    _lock: Flock<File>,
}

impl Folder {
    /// Opens and locks the folder of an existing store whose format is known.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        check_format(path)?;
        check_trust(path)?;
        let lock = lock(path)?;
        let manifest = match private().open(path.join(MANIFEST_FILE)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(StoreError::Damaged("the manifest is missing".into()));
            }
            other => other?,
        };
        Ok(Folder { path: path.to_owned(), dir: File::open(path)?, manifest, _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn db_dir(&self) -> PathBuf {
        self.path.join(DB_DIR)
    }

    pub(super) fn twin(&self) -> PathBuf {
        self.path.join(TWIN_FILE)
    }

    /// Removes the database's twin, durably; one that is not there is no error.
    pub(super) fn remove_twin(&self) -> Result<(), StoreError> {
        match std::fs::remove_file(self.twin()) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e.into()),
            _ => self.sync(),
        }
    }

    /// Makes the names of the files in it durable.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        self.dir.sync_all().map_err(super::guard::io_error)
    }

    pub(super) fn read_manifest(&self) -> Result<Vec<u8>, StoreError> {
        use std::os::unix::fs::FileExt;
        let mut all = vec![0; super::manifest::FILE];
        let mut read = 0;
        while let n @ 1.. = self.manifest.read_at(&mut all[read..], read as u64)? {
            read += n;
        }
        all.truncate(read);
        Ok(all)
    }

    pub(super) fn manifest_slots(&self) -> Slots<'_> {
        Slots(&self.manifest)
    }

    /// Gives up the room that was kept for opening on a full disk. Whether there was any.
    pub(super) fn spend_spare(&self) -> bool {
        let spare = private().open(self.path.join(SPARE_FILE));
        let spent = spare.and_then(|f| Ok(f.metadata()?.len() > 0 && f.set_len(0).is_ok()));
        spent.unwrap_or(false)
    }

    /// Takes that room, unless it is taken already or there is little left. Not having it is no error.
    pub(super) fn keep_spare(&self) {
        let kept = std::fs::metadata(self.path.join(SPARE_FILE)).is_ok_and(|m| m.len() >= SPARE);
        if kept || self.room_for(SPARE, 0, 0).is_err() {
            return;
        }
        let spare = private().create(true).truncate(true).open(self.path.join(SPARE_FILE));
        let taken = spare.and_then(|f| {
            nix::fcntl::posix_fallocate(&f, 0, SPARE as i64).map_err(io::Error::from)?;
            f.sync_all()
        });
        if let Err(error) = taken {
            tracing::debug!(%error, "no room is kept for opening on a full disk");
        }
    }

    pub(super) fn space(&self) -> Result<Space, StoreError> {
        let s = fstatvfs(&self.dir).map_err(io::Error::from)?;
        let unit = s.fragment_size();
        Ok(Space { total: s.blocks().saturating_mul(unit), free: s.blocks_available().saturating_mul(unit) })
    }

    /// Whether there is room for a commit that writes `new` bytes in place of `old`, where `pending` bytes are to be written before it.
    pub(super) fn room_for(&self, new: u64, old: u64, pending: u64) -> Result<(), StoreError> {
        let reserve = if old > new { LAST_RESERVE } else { RESERVE };
        let needed = new.saturating_add(pending).saturating_mul(2).saturating_add(reserve);
        if self.space()?.free < needed { Err(StoreError::NoSpace) } else { Ok(()) }
    }

    pub(super) fn read_file(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        check_name(name)?;
        match File::open(self.path.join(name)) {
            Ok(f) => Ok(Some(read_bounded(f, MAX_FILE)?)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    pub(super) fn write_file(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        check_name(name)?;
        let temporary = self.path.join(format!(".{name}.new"));
        let written = write_new(&temporary, bytes).and_then(|()| {
            std::fs::rename(&temporary, self.path.join(name))?;
            Ok(self.dir.sync_all()?)
        });
        written.inspect_err(|_| drop(std::fs::remove_file(&temporary)))
    }

    pub(super) fn remove_file(&self, name: &str) -> Result<(), StoreError> {
        check_name(name)?;
        match std::fs::remove_file(self.path.join(name)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e.into()),
            _ => Ok(self.dir.sync_all()?),
        }
    }

    /// The names of the extra files, sorted: what a backup takes besides the records.
    pub(super) fn file_names(&self) -> Result<Vec<String>, StoreError> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str().filter(|n| check_name(n).is_ok()) else { continue };
            if entry.file_type()?.is_file() {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    /// The manifest as it is, for a backup.
    pub(super) fn manifest_bytes(&self) -> Result<Vec<u8>, StoreError> {
        read_bounded(File::open(self.path.join(MANIFEST_FILE))?, manifest::FILE as u64)
    }

    /// The manifest as a backup had it.
    pub(super) fn set_manifest_bytes(&self, bytes: &[u8]) -> Result<(), StoreError> {
        use std::os::unix::fs::FileExt;
        self.manifest.write_all_at(bytes, 0).map_err(super::guard::io_error)?;
        Ok(self.manifest.sync_all()?)
    }

    /// A file for a moment, which has no name.
    pub(super) fn scratch(&self) -> Result<File, StoreError> {
        let name = self.path.join(".scratch");
        let _ = std::fs::remove_file(&name);
        let file = private().create_new(true).open(&name)?;
        std::fs::remove_file(&name)?;
        Ok(file)
    }
}

/// Makes a store's folder: `build` fills the database and the manifest. `FORMAT` comes last, so that what a power cut
/// leaves half made is no store, and can be made again.
pub(super) fn create(
    path: &Path,
    files: &[(&str, &[u8])],
    build: impl FnOnce(&Folder) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    for (name, bytes) in files {
        check_name(name)?;
        if bytes.len() as u64 > MAX_FILE || files.len() > MAX_FILES {
            return Err(StoreError::Failed(format!("'{name}' is too large for a store, or one of too many")));
        }
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        made => made?,
    }
    clear_unfinished(path, files)?;
    for entry in std::fs::read_dir(path)? {
        // A filesystem of its own has this one.
        if entry?.file_name() != "lost+found" {
            return Err(StoreError::Exists(path.to_owned()));
        }
    }
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o700))?;
    check_trust(path)?;
    let made = fill(path, files, build);
    if made.is_err() {
        let _ = clear_unfinished(path, files);
    }
    made
}

fn fill(
    path: &Path,
    files: &[(&str, &[u8])],
    build: impl FnOnce(&Folder) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let dir = File::open(path)?;
    write_new(&path.join(CREATING), b"")?;
    dir.sync_all()?;
    let lock = lock(path)?;
    for (name, bytes) in files {
        write_new(&path.join(name), bytes)?;
    }
    write_new(&path.join(MANIFEST_FILE), &[0; manifest::FILE])?;
    let manifest = private().open(path.join(MANIFEST_FILE))?;
    let folder = Folder { path: path.to_owned(), dir, manifest, _lock: lock };
    build(&folder)?;
    folder.keep_spare();
    sync_tree(&folder.db_dir())?;
    write_new(&path.join(FORMAT_FILE), FORMAT)?;
    folder.dir.sync_all()?;
    std::fs::remove_file(path.join(CREATING))?;
    folder.dir.sync_all()?;
    sync_parent(path)
}

/// Removes what a creation that did not end left in the folder.
fn clear_unfinished(path: &Path, files: &[(&str, &[u8])]) -> Result<(), StoreError> {
    if !path.join(CREATING).exists() || path.join(FORMAT_FILE).exists() {
        return Ok(());
    }
    let gone = |done: io::Result<()>| match done {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    };
    gone(std::fs::remove_dir_all(path.join(DB_DIR)))?;
    gone(std::fs::remove_dir_all(path.join(JOURNAL_DIR)))?;
    for name in files.iter().map(|f| f.0).chain([MANIFEST_FILE, LOCK_FILE, SPARE_FILE, TWIN_FILE, CREATING]) {
        gone(std::fs::remove_file(path.join(name)))?;
    }
    Ok(())
}

/// Makes the folder's own entry durable.
pub(super) fn sync_parent(path: &Path) -> Result<(), StoreError> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok(File::open(parent)?.sync_all()?)
}

/// Whether the folder has nothing in it that a store could overwrite.
pub(super) fn is_vacant(path: &Path) -> Result<bool, StoreError> {
    match std::fs::read_dir(path) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(e) => Err(e.into()),
    }
}

/// Takes the lock of a store that is about to be set aside, whatever state it is in.
pub(super) fn lock_any(path: &Path) -> Result<Flock<File>, StoreError> {
    if path.join(FORMAT_FILE).exists() || path.join(MANIFEST_FILE).exists() {
        lock(path)
    } else {
        Err(StoreError::Exists(path.to_owned()))
    }
}

/// Syncs every file below a folder, and the folders.
fn sync_tree(dir: &Path) -> Result<(), StoreError> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            File::open(entry.path())?.sync_all()?;
        }
    }
    Ok(File::open(dir)?.sync_all()?)
}

/// Whose hands it is in: who may write there may put an older store in its place.
fn check_trust(path: &Path) -> Result<(), StoreError> {
    match trust::who_else(path, false)? {
        Some(why) => Err(StoreError::Unsafe { store: path.to_owned(), why }),
        None => Ok(()),
    }
}

fn check_format(path: &Path) -> Result<(), StoreError> {
    let file = match File::open(path.join(FORMAT_FILE)) {
        Ok(file) => file,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            let remains = path.join(DB_DIR).exists() && path.join(MANIFEST_FILE).exists();
            return Err(match remains && !path.join(CREATING).exists() {
                true => StoreError::Damaged(format!("{FORMAT_FILE} is missing")),
                false => StoreError::NotAStore(path.to_owned()),
            });
        }
        Err(e) => return Err(e.into()),
    };
    let content = read_bounded(file, 64)?;
    if content == FORMAT {
        return Ok(());
    }
    let version = content.strip_prefix(FORMAT_FAMILY).and_then(|rest| rest.strip_suffix(b"\n"));
    match version.filter(|v| !v.is_empty() && v.iter().all(u8::is_ascii_digit)) {
        Some(_) => Err(StoreError::UnknownFormat(String::from_utf8_lossy(&content).trim_end().into())),
        None => Err(StoreError::Damaged(format!("{FORMAT_FILE} is garbled"))),
    }
}

fn lock(path: &Path) -> Result<Flock<File>, StoreError> {
    let file = private().create(true).open(path.join(LOCK_FILE))?;
    match file_lock::exclusive(file, LEFT_BEHIND, |file| holder(file).is_some_and(file_lock::is_dead)) {
        Ok(mut locked) => {
            // Who, for a second opener. Not being able to say so is no reason not to open.
            let _ = locked.set_len(0).and_then(|()| locked.write_all(format!("{}\n", std::process::id()).as_bytes()));
            Ok(locked)
        }
        Err((file, nix::errno::Errno::EWOULDBLOCK)) => {
            Err(StoreError::InUse { store: path.to_owned(), pid: holder(&file) })
        }
        Err((_, e)) => Err(StoreError::Io(e.into())),
    }
}

/// Who says in the lock's file that the lock is its.
fn holder(file: &File) -> Option<u32> {
    let mut said = [0; 16];
    let len = file.read_at(&mut said, 0).ok()?;
    std::str::from_utf8(&said[..len]).ok()?.trim().parse().ok()
}

/// A file name that an extra file may have: it can neither leave the folder nor be taken for the store's own.
pub(super) fn check_name(name: &str) -> Result<(), StoreError> {
    let own =
        [FORMAT_FILE, LOCK_FILE, MANIFEST_FILE, DB_DIR, TWIN_FILE, SPARE_FILE, CREATING, JOURNAL_DIR].contains(&name);
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if own || !plain || name.is_empty() || name.len() > 64 || name.starts_with('.') {
        return Err(StoreError::Failed(format!("'{name}' cannot be a file of the store")));
    }
    Ok(())
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

fn write_new(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let mut file = private().create(true).truncate(true).open(path)?;
    file.write_all(bytes).map_err(super::guard::io_error)?;
    file.sync_all().map_err(super::guard::io_error)
}

fn read_bounded(file: File, most: u64) -> Result<Vec<u8>, StoreError> {
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(StoreError::Damaged(format!("a file of the store is longer than {most} bytes")));
    }
    Ok(bytes)
}
