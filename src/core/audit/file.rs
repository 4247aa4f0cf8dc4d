//! The files of the log: their names, how they are opened and made, their first line and their end.

use super::AuditError;
use super::line::{self, Anchor, Clock, Durable, FORMAT, LINE_MAX, Parts, own};
use super::rotated::Rotated;
use crate::sys::file_lock;
use nix::fcntl::Flock;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// How long the lock is waited for: a child that a writer was starting when it was killed has a copy until it runs.
const LEFT_BEHIND: Duration = Duration::from_secs(1);
/// Digits of the number that a rotated file's name ends in.
pub(super) const NUMBER_DIGITS: usize = 12;

/// What the first line of a file says.
#[derive(Debug, Deserialize)]
pub(super) struct Header {
    pub seq: u64,
    pub op: String,
    pub format: String,
    pub previous_count: u64,
    pub previous_head: String,
}

impl Header {
    /// Reads a first line. `None` if it is not one.
    pub fn parse(line: &[u8]) -> Option<Self> {
        serde_json::from_slice::<Header>(line).ok().filter(|h| h.op == own::BEGIN)
    }

    /// Where the chain stood before this file.
    pub fn previous(&self) -> Option<Anchor> {
        Some(Anchor { count: self.previous_count, head: crate::hex::decode_exact(self.previous_head.as_bytes())? })
    }
}

/// The first line for a file that continues from `previous`, and where the chain stands after it.
pub(super) fn header(previous: Anchor, previous_file: Option<&Path>, last: &[u8]) -> (Vec<u8>, Anchor) {
    let mut body = format!("\"op\":\"{}\",\"format\":\"{FORMAT}\"", own::BEGIN).into_bytes();
    if let Some(name) = previous_file.and_then(Path::file_name) {
        line::push_text(&mut body, "previous_file", &name.to_string_lossy(), 512);
    }
    line::push_count(&mut body, "previous_count", previous.count);
    line::push_hash(&mut body, "previous_head", &previous.head);
    let count = previous.count + 1;
    let mut out = vec![];
    let now = SystemTime::now();
    let head = line::seal(&mut out, &mut Clock::default(), now, count, &previous.head, (&body, last));
    (out, Anchor { count, head })
}

/// The name a file gets when it is rotated: the log's name, and the number of its first line.
pub(super) fn rotated_name(log: &Path, first: u64) -> PathBuf {
    with_suffix(log, &format!("{first:0NUMBER_DIGITS$}"))
}

/// `audit.log` → `audit.log.SUFFIX`.
pub(super) fn with_suffix(log: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(log);
    name.push(".");
    name.push(suffix);
    name.into()
}

/// The rotated files beside `log`, oldest first.
pub(super) fn rotated(log: &Path) -> Result<Vec<Rotated>, AuditError> {
    let folder = folder(log);
    let Some(name) = log.file_name() else { return Ok(vec![]) };
    let mut found = vec![];
    for entry in fs::read_dir(folder).map_err(|e| AuditError::open(folder, e))? {
        let entry = entry.map_err(|e| AuditError::open(folder, e))?;
        let this = entry.file_name();
        let suffix = this
            .as_encoded_bytes()
            .strip_prefix(name.as_encoded_bytes())
            .and_then(|rest| rest.strip_prefix(b"."))
            .and_then(|rest| std::str::from_utf8(rest).ok());
        found.extend(suffix.and_then(|suffix| Rotated::of(folder.join(&this), suffix)));
    }
    found.sort();
    // Compressed and not yet removed: the same lines twice.
    found.dedup_by_key(|rotated| rotated.number());
    Ok(found)
}

/// The folder the log is in.
pub(super) fn folder(log: &Path) -> &Path {
    log.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes the log's folder, 0700, if it is not there.
pub(super) fn make_folder(log: &Path) -> Result<(), AuditError> {
    let folder = folder(log);
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|e| AuditError::open(folder, e))
}

/// A file for appending, locked against a second writer.
pub(super) type Locked = Flock<File>;

/// Opens a file that is there. `None` if it is not. Its mode is brought to 0600.
pub(super) fn open(path: &Path) -> Result<Option<Locked>, AuditError> {
    let until = Instant::now() + LEFT_BEHIND;
    loop {
        let file = match OpenOptions::new().read(true).append(true).custom_flags(libc::O_NOFOLLOW).open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(AuditError::open(path, e)),
        };
        let meta = file.metadata().map_err(|e| AuditError::open(path, e))?;
        if !meta.is_file() {
            return Err(AuditError::NotALog { path: path.into() });
        }
        let file = lock(file, path, until)?;
        // Whoever was waited for may have begun another file meanwhile: then that one is the log.
        if !fs::symlink_metadata(path).is_ok_and(|now| same(&now, &meta)) {
            if Instant::now() >= until {
                return Err(AuditError::InUse { path: path.into() });
            }
            continue;
        }
        if meta.mode() & 0o7777 != 0o600 {
            file.set_permissions(fs::Permissions::from_mode(0o600)).map_err(|e| AuditError::open(path, e))?;
        }
        return Ok(Some(file));
    }
}

/// Makes `path` anew with `first` as its content, once `prepare` is content with the file; whatever has that name is replaced. Not yet
/// synced.
pub(super) fn make(
    path: &Path,
    first: &[u8],
    prepare: impl FnOnce(&File) -> io::Result<()>,
) -> Result<Locked, AuditError> {
    let fresh = with_suffix(path, "new");
    let failed = |e| AuditError::Write { path: path.into(), source: e };
    match fs::remove_file(&fresh) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
        _ => {}
    }
    let file = OpenOptions::new().read(true).append(true).create_new(true).mode(0o600).open(&fresh).map_err(failed)?;
    let file = lock(file, path, Instant::now())?;
    let made = (&*file).write_all(first).and_then(|()| prepare(&file)).and_then(|()| fs::rename(&fresh, path));
    if let Err(e) = made {
        // What is left is no part of the log; the next attempt removes it too.
        let _ = fs::remove_file(&fresh);
        return Err(failed(e));
    }
    Ok(file)
}

/// A small file beside the log, whole.
pub(super) fn read_small(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![];
    OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path)?.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Makes names in the log's folder durable.
pub(super) fn sync_folder(log: &Path) -> io::Result<()> {
    File::open(folder(log))?.sync_all()
}

fn lock(file: File, path: &Path, until: Instant) -> Result<Locked, AuditError> {
    file_lock::exclusive(file, until.saturating_duration_since(Instant::now()), |_| true).map_err(|(_, errno)| {
        match errno {
            nix::Error::EWOULDBLOCK => AuditError::InUse { path: path.into() },
            other => AuditError::open(path, other.into()),
        }
    })
}

/// Whether two names or handles are the same file.
pub(super) fn same(a: &fs::Metadata, b: &fs::Metadata) -> bool {
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

/// What a file's first line turned out to be.
pub(super) enum First {
    /// A first line of ours.
    Header(Header),
    /// Nothing was ever written: empty, or what a power cut left of the first line.
    Unborn,
    /// Something else.
    Foreign,
}

/// Reads a file's first line.
pub(super) fn first(file: &File) -> io::Result<First> {
    let mut line = vec![];
    let mut from_start = BufReader::new(At { file, offset: 0 }).take(LINE_MAX as u64);
    from_start.read_until(b'\n', &mut line)?;
    if line.pop_if(|b| *b == b'\n').is_some() {
        return Ok(Header::parse(&line).map_or(First::Foreign, First::Header));
    }
    let ours = line.iter().all(|b| *b == 0) || line.starts_with(b"{\"time\":\"");
    Ok(if ours && line.len() < LINE_MAX { First::Unborn } else { First::Foreign })
}

/// The end of a file.
#[derive(Debug)]
pub(super) struct Tail {
    /// The last whole line.
    pub last: Option<Anchor>,
    /// What it says of the store.
    pub durable: Option<Durable>,
    /// The bytes after it, if any: how many, and their SHA-256.
    pub torn: Option<(u64, [u8; 32])>,
}

/// Finds the last whole line. Reads as much of the end as is needed, in most cases 64 KiB.
pub(super) fn tail(file: &File) -> io::Result<Tail> {
    let len = file.metadata()?.len();
    let mut window = 64 * 1024;
    loop {
        let from = len.saturating_sub(window);
        let mut bytes = vec![];
        At { file, offset: from }.take(len - from).read_to_end(&mut bytes)?;
        let mut end = bytes.len();
        while let Some(newline) = bytes[..end].iter().rposition(|b| *b == b'\n') {
            let start = bytes[..newline].iter().rposition(|b| *b == b'\n').map(|i| i + 1);
            if start.is_none() && from > 0 {
                break;
            }
            let line = &bytes[start.unwrap_or(0)..newline];
            if let Some(parts) = Parts::of(line) {
                let rest = &bytes[newline + 1..];
                return Ok(Tail {
                    last: Some(Anchor { count: parts.seq, head: parts.hash }),
                    durable: Durable::in_line(line),
                    torn: (!rest.is_empty()).then(|| (rest.len() as u64, Sha256::digest(rest).into())),
                });
            }
            end = newline;
        }
        if from == 0 {
            let torn = (!bytes.is_empty()).then(|| (len, Sha256::digest(&bytes).into()));
            return Ok(Tail { last: None, durable: None, torn });
        }
        window *= 8;
    }
}

/// Reads a file from an offset, whatever position others have in it.
pub(super) struct At<'a> {
    pub file: &'a File,
    pub offset: u64,
}

impl Read for At<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read_at(buf, self.offset)?;
        self.offset += n as u64;
        Ok(n)
    }
}
