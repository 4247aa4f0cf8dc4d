//! A rotated file: its name, whether it is compressed (zstd, RFC 8878), how it is read and how it becomes so.
//!
//! Owns the compression. The name's number is the number of the file's first line; a compressed file has the same and `.zst`.

use super::file::{self, At, NUMBER_DIGITS};
use super::line::{Anchor, LINE_MAX, Parts};
use sha2::{Digest, Sha256};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// What a compressed file's name ends in.
const SUFFIX: &str = "zst";
/// zstd's own default: a line is mostly its hash, and more effort does not make that smaller.
const LEVEL: i32 = 3;
/// The largest window that is read, as a power of two: 8 MiB, four times that of [`LEVEL`].
const WINDOW_LOG_MAX: u32 = 23;
/// How much is read at a time.
const BUFFER: usize = 1 << 18;

/// See the module. In the order of the lines; of one that is there twice the plain one comes first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rotated {
    number: u64,
    compressed: bool,
    path: PathBuf,
}

impl Rotated {
    /// The file, if its name's ending is that of one: the digits, and perhaps `.zst`.
    pub fn of(path: PathBuf, suffix: &str) -> Option<Self> {
        let (digits, compressed) = match suffix.strip_suffix(SUFFIX).and_then(|rest| rest.strip_suffix('.')) {
            Some(digits) => (digits, true),
            None => (suffix, false),
        };
        if digits.len() < NUMBER_DIGITS || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        Some(Rotated { number: digits.parse().ok()?, compressed, path })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The number of its first line.
    pub fn number(&self) -> u64 {
        self.number
    }

    pub fn is_compressed(&self) -> bool {
        self.compressed
    }

    pub fn open(&self) -> io::Result<File> {
        OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(&self.path)
    }

    /// Its lines, from a file that was opened.
    pub fn read<'a>(&self, file: &'a File) -> io::Result<Box<dyn BufRead + 'a>> {
        reader(file, self.compressed)
    }

    /// Its last whole line; `None` if it has none, or is damaged before there is one.
    pub fn last(&self) -> io::Result<Option<Anchor>> {
        let file = self.open()?;
        if !self.compressed {
            return Ok(file::tail(&file)?.last);
        }
        let (mut lines, mut line, mut last) = (self.read(&file)?, vec![], None);
        loop {
            line.clear();
            match lines.by_ref().take(LINE_MAX as u64).read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return Ok(last),
                Ok(_) => {}
            }
            if line.pop_if(|b| *b == b'\n').is_some()
                && let Some(parts) = Parts::of(&line)
            {
                last = Some(Anchor { count: parts.seq, head: parts.hash });
            }
        }
    }

    /// Puts a compressed file into the place of this one. It is read again before this one goes: evidence is not taken on trust.
    pub fn compress(&self) -> io::Result<()> {
        let to = file::with_suffix(&self.path, SUFFIX);
        let fresh = file::with_suffix(&to, "new");
        let done = self.write_compressed(&fresh).and_then(|()| fs::rename(&fresh, &to));
        if let Err(error) = done {
            let _ = fs::remove_file(&fresh);
            return Err(error);
        }
        file::sync_folder(&self.path)?;
        fs::remove_file(&self.path)
    }

    fn write_compressed(&self, fresh: &Path) -> io::Result<()> {
        match fs::remove_file(fresh) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let from = self.open()?;
        let to = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(fresh)?;
        let mut encoder = zstd::stream::write::Encoder::new(&to, LEVEL)?;
        encoder.include_checksum(true)?;
        let written = digest(At { file: &from, offset: 0 }, |bytes| encoder.write_all(bytes))?;
        encoder.finish()?;
        to.sync_all()?;
        if digest(reader(&to, true)?, |_| Ok(()))? != written {
            return Err(io::Error::other("what was compressed is not what was read"));
        }
        Ok(())
    }
}

/// The content of a file of the log, from its beginning.
pub(super) fn reader(file: &File, compressed: bool) -> io::Result<Box<dyn BufRead + '_>> {
    let from_start = At { file, offset: 0 };
    if !compressed {
        return Ok(Box::new(BufReader::with_capacity(BUFFER, from_start)));
    }
    let mut decoder = zstd::stream::read::Decoder::new(from_start)?;
    decoder.window_log_max(WINDOW_LOG_MAX)?;
    Ok(Box::new(BufReader::with_capacity(BUFFER, decoder)))
}

fn digest(mut from: impl Read, mut to: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<[u8; 32]> {
    let (mut sum, mut buffer) = (Sha256::new(), vec![0; BUFFER]);
    loop {
        let n = match from.read(&mut buffer) {
            Ok(0) => return Ok(sum.finalize().into()),
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        sum.update(&buffer[..n]);
        to(&buffer[..n])?;
    }
}
