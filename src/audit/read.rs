//! Reading the log while it is written: the last events of a path, and following it.

use super::AuditError;
use super::file::{self, At};
use super::line::{self, LINE_MAX, Parts, Record};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How much of the log's end [`recent`] reads.
const RECENT_BYTES: u64 = 4 << 20;
/// How often [`Follow`], as an iterator, looks for more.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The last events of a path, newest first, at most `limit`, from the last 4 MiB of the log over its files: what is
/// older is left to `grep`.
///
/// # Errors
/// [`AuditError::Open`] if a file cannot be read.
pub fn recent(log: &Path, path: &str, limit: usize) -> Result<Vec<Record>, AuditError> {
    let mut field = vec![];
    line::push_text(&mut field, "path", path, usize::MAX);
    let mut found = vec![];
    let mut budget = RECENT_BYTES;
    for name in newest_first(log)? {
        let io = |e| AuditError::open(&name, e);
        let file = match File::open(&name) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            other => other.map_err(io)?,
        };
        let len = file.metadata().map_err(io)?.len();
        let mut bytes = vec![];
        At { file: &file, offset: len.saturating_sub(budget) }.take(budget).read_to_end(&mut bytes).map_err(io)?;
        for line in bytes.split(|b| *b == b'\n').rev() {
            if found.len() >= limit {
                return Ok(found);
            }
            if Parts::of(line).is_some_and(|parts| parts.after_op().starts_with(&field)) {
                found.extend(Record::parse(line));
            }
        }
        budget = budget.saturating_sub(len);
        if budget == 0 {
            break;
        }
    }
    Ok(found)
}

fn newest_first(log: &Path) -> Result<impl Iterator<Item = PathBuf>, AuditError> {
    Ok(std::iter::once(log.to_owned()).chain(file::rotated(log)?.into_iter().rev().map(|(_, name)| name)))
}

/// The lines of a log as they are written, over rotations. As an iterator it waits for the next line and ends only
/// with an error; [`Follow::read`] never waits.
pub struct Follow {
    log: PathBuf,
    file: Option<File>,
    offset: u64,
    waiting: VecDeque<String>,
}

impl Follow {
    /// Begins with the last `last` lines of the current file.
    ///
    /// # Errors
    /// [`AuditError::Open`] if it cannot be read; that it is not there yet is no error.
    pub fn open(log: &Path, last: usize) -> Result<Self, AuditError> {
        let mut follow = Follow { log: log.into(), file: None, offset: 0, waiting: VecDeque::new() };
        follow.fill()?;
        let surplus = follow.waiting.len().saturating_sub(last);
        follow.waiting.drain(..surplus);
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
            match &self.file {
                Some(file) if file::same(&file.metadata().map_err(io)?, &meta) && meta.len() >= self.offset => {
                    return Ok(());
                }
                _ => {
                    self.file = Some(self.next_file(named).map_err(io)?);
                    self.offset = 0;
                }
            }
        }
    }

    /// The file after the one that was read to its end: the current one, unless it was rotated more than once.
    fn next_file(&self, named: File) -> io::Result<File> {
        let Some(old) = &self.file else { return Ok(named) };
        let old = old.metadata()?;
        let rotated = file::rotated(&self.log).map_err(io::Error::other)?;
        let mut later =
            rotated.iter().skip_while(|(_, name)| !std::fs::metadata(name).is_ok_and(|meta| file::same(&meta, &old)));
        later.next();
        match later.next() {
            Some((_, name)) => File::open(name),
            None => Ok(named),
        }
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
