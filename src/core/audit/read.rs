//! Reading the log while it is written: the last events of a path, and following it.

use super::AuditError;
use super::file::{self, At, First};
use super::line::{self, LINE_MAX, Parts, Record};
use super::rotated::{self, Rotated};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How much of the log's end [`recent`] reads.
const RECENT_BYTES: u64 = 4 << 20;
/// How often [`Follow`], as an iterator, looks for more.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The last events of a path, newest first, at most `limit`, from the last 4 MiB of the log over its files: what is
/// older is left to `grep` and `zstdgrep`.
///
/// # Errors
/// [`AuditError::Open`] if a file cannot be read.
pub fn recent(log: &Path, path: &str, limit: usize) -> Result<Vec<Record>, AuditError> {
    let mut field = vec![];
    line::push_text(&mut field, "path", path, usize::MAX);
    let mut found = vec![];
    let mut budget = RECENT_BYTES;
    for (name, file, compressed) in newest_first(log)? {
        let io = |e| AuditError::open(&name, e);
        let bytes = end(&file, compressed, budget).map_err(io)?;
        for line in bytes.split(|b| *b == b'\n').rev() {
            if found.len() >= limit {
                return Ok(found);
            }
            if Parts::of(line).is_some_and(|parts| parts.after_op().starts_with(&field)) {
                found.extend(Record::parse(line));
            }
        }
        budget = budget.saturating_sub(bytes.len() as u64);
        if budget == 0 {
            break;
        }
    }
    Ok(found)
}

/// The files that are there, opened only when it is their turn: the name, the file, and whether it is compressed.
fn newest_first(log: &Path) -> Result<impl Iterator<Item = (PathBuf, File, bool)>, AuditError> {
    let current = (log.to_owned(), false);
    let rotated = file::rotated(log)?.into_iter().rev().map(|r| (r.path().to_owned(), r.is_compressed()));
    // One that was removed or compressed meanwhile is passed over: these are looks, not checks.
    Ok(std::iter::once(current).chain(rotated).filter_map(|(name, compressed)| {
        let file = File::open(&name).ok()?;
        Some((name, file, compressed))
    }))
}

/// The last bytes of a file, as many as `most`. Of a compressed one all is read.
fn end(file: &File, compressed: bool, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![];
    if !compressed {
        let offset = file.metadata()?.len().saturating_sub(most);
        At { file, offset }.take(most).read_to_end(&mut bytes)?;
        return Ok(bytes);
    }
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let mut reader = rotated::reader(file, true)?;
    loop {
        let read = reader.fill_buf()?;
        if read.is_empty() {
            bytes.drain(..bytes.len().saturating_sub(most));
            return Ok(bytes);
        }
        bytes.extend_from_slice(read);
        let n = read.len();
        reader.consume(n);
        if bytes.len() > most.saturating_mul(2) {
            bytes.drain(..bytes.len() - most);
        }
    }
}

/// The lines of a log as they are written, over rotations. As an iterator it waits for the next line and ends only
/// with an error; [`Follow::read`] never waits.
pub struct Follow {
    log: PathBuf,
    file: Option<File>,
    /// The number of that file's first line.
    number: u64,
    offset: u64,
    waiting: VecDeque<String>,
}

impl Follow {
    /// Begins with the last `last` lines, of older files too.
    ///
    /// # Errors
    /// [`AuditError::Open`] if it cannot be read; that it is not there yet is no error.
    pub fn open(log: &Path, last: usize) -> Result<Self, AuditError> {
        let mut follow = Follow { log: log.into(), file: None, number: 0, offset: 0, waiting: VecDeque::new() };
        follow.fill()?;
        let surplus = follow.waiting.len().saturating_sub(last);
        follow.waiting.drain(..surplus);
        if follow.waiting.len() < last && follow.file.is_some() {
            follow.reach_back(last)?;
        }
        Ok(follow)
    }

    /// The whole lines there are, without their newlines; none if there is nothing new.
    ///
    /// # Errors
    /// [`AuditError::Open`] if the log cannot be read.
    pub fn read(&mut self) -> Result<Vec<String>, AuditError> {
        self.fill()?;
        Ok(self.waiting.drain(..).collect())
    }

    /// Puts lines of older files before those that wait, until there are `last`.
    fn reach_back(&mut self, last: usize) -> Result<(), AuditError> {
        for rotated in file::rotated(&self.log)?.into_iter().rev().filter(|rotated| rotated.number() < self.number) {
            let missing = last.saturating_sub(self.waiting.len());
            if missing == 0 {
                break;
            }
            let mut lines = VecDeque::new();
            each_line(&rotated, |line| {
                lines.push_back(line);
                if lines.len() > missing {
                    lines.pop_front();
                }
            })?;
            lines.append(&mut self.waiting);
            self.waiting = lines;
        }
        Ok(())
    }

    fn fill(&mut self) -> Result<(), AuditError> {
        let log = self.log.clone();
        let io = |e| AuditError::open(&log, e);
        loop {
            // What the name stands for is asked before the file is read to its end: a file that has been replaced is
            // not written to any more, so nothing between the two is missed.
            let named = match File::open(&self.log) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => None,
                other => Some(other.map_err(io)?),
            };
            self.read_file().map_err(io)?;
            let Some(named) = named else { return Ok(()) };
            let meta = named.metadata().map_err(io)?;
            let number = first_number(&named).map_err(io)?;
            match &self.file {
                Some(file) if file::same(&file.metadata().map_err(io)?, &meta) && meta.len() >= self.offset => {
                    return Ok(());
                }
                // More than one rotation: those between are whole, and read at once.
                Some(_) => self.read_between(number)?,
                None => {}
            }
            (self.file, self.number, self.offset) = (Some(named), number, 0);
        }
    }

    fn read_between(&mut self, next: u64) -> Result<(), AuditError> {
        for rotated in file::rotated(&self.log)? {
            if (self.number + 1..next).contains(&rotated.number()) {
                each_line(&rotated, |line| self.waiting.push_back(line))?;
            }
        }
        Ok(())
    }

    fn read_file(&mut self) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        loop {
            let mut bytes = Vec::with_capacity(8 * LINE_MAX);
            At { file, offset: self.offset }.take(8 * LINE_MAX as u64).read_to_end(&mut bytes)?;
            let end = match bytes.iter().rposition(|b| *b == b'\n') {
                Some(newline) => newline + 1,
                // No line of ours is that long.
                None if bytes.len() == 8 * LINE_MAX => bytes.len(),
                None => return Ok(()),
            };
            self.offset += end as u64;
            for line in bytes[..end].split_inclusive(|b| *b == b'\n') {
                self.waiting.push_back(String::from_utf8_lossy(line.trim_ascii_end()).into_owned());
            }
        }
    }
}

/// The number of a file's first line; 0 if it has none yet.
fn first_number(file: &File) -> io::Result<u64> {
    match file::first(file)? {
        First::Header(header) => Ok(header.seq),
        First::Unborn | First::Foreign => Ok(0),
    }
}

/// Every line of a rotated file. One that is gone by now has none, and a damaged one those before the damage: the check is
/// [`verify`](super::verify)'s.
fn each_line(rotated: &Rotated, mut each: impl FnMut(String)) -> Result<(), AuditError> {
    let io = |e| AuditError::open(rotated.path(), e);
    let file = match rotated.open() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(io)?,
    };
    let mut reader = rotated.read(&file).map_err(io)?;
    let mut line = vec![];
    while reader.by_ref().take(LINE_MAX as u64).read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
        each(String::from_utf8_lossy(line.trim_ascii_end()).into_owned());
        line.clear();
    }
    Ok(())
}

impl Iterator for Follow {
    type Item = Result<String, AuditError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(line) = self.waiting.pop_front() {
                return Some(Ok(line));
            }
            if let Err(e) = self.fill() {
                return Some(Err(e));
            }
            if self.waiting.is_empty() {
                std::thread::sleep(LOOK_EVERY);
            }
        }
    }
}
