//! Headers of a tar archive, in one form only: POSIX ustar, regular files, nothing that a reader could understand in two ways.
//!
//! Owns how a member's header is written, and why one that was read is refused. It reads and writes no files. Stock tar reads
//! what this writes; this reads nothing else.

use thiserror::Error;

/// Bytes of a block: headers are one, contents are padded to them.
pub(super) const BLOCK: usize = 512;
/// What ends an archive.
pub(super) const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];
/// The longest name that a header holds without its prefix field, in bytes.
const NAME_MAX: usize = 100;
/// The longest prefix, in bytes.
const PREFIX_MAX: usize = 155;
/// The largest size in eleven octal digits.
pub(super) const SIZE_MAX: u64 = 0o777_7777_7777;

/// Why a header is refused.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub(super) enum TarError {
    /// Not a header, or of another kind of tar.
    #[error("not a POSIX tar header")]
    NotUstar,
    /// The sum over the header is wrong.
    #[error("a tar header's checksum is wrong")]
    Checksum,
    /// pax and GNU records say how the next member is to be understood.
    #[error("a tar extension record (type '{0}')")]
    Extension(char),
    /// Anything but a regular file.
    #[error("'{name}' is {kind}, not a regular file")]
    NotRegular {
        /// The member's name.
        name: String,
        /// What it is.
        kind: &'static str,
    },
    /// A name that leads elsewhere.
    #[error("a member's name leads out of the archive: '{0}'")]
    Leads(String),
    /// A name that is none.
    #[error("a member's name is not text")]
    BadName,
    /// Not eleven octal digits.
    #[error("the size of '{0}' is not one that a tar holds")]
    BadSize(String),
    /// Fields that say nothing are to be as they are written.
    #[error("the header of '{0}' has more in it than a name and a size")]
    NotCanonical(String),
}

/// A member: its name and its size in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    pub name: String,
    pub size: u64,
}

impl Member {
    /// Its header; `None` if name or size do not fit into one.
    pub fn header(&self) -> Option<[u8; BLOCK]> {
        let (prefix, name) = split(&self.name)?;
        if self.size > SIZE_MAX {
            return None;
        }
        let mut block = [0; BLOCK];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, name.as_bytes());
        put(100, b"0000600\0");
        put(108, b"0000000\0");
        put(116, b"0000000\0");
        put(124, format!("{:011o}\0", self.size).as_bytes());
        put(136, b"00000000000\0");
        put(148, b"        ");
        put(156, b"0");
        put(257, b"ustar\x0000");
        put(329, b"0000000\0");
        put(337, b"0000000\0");
        put(345, prefix.as_bytes());
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        Some(block)
    }

    /// Reads a header. What is accepted is, byte for byte, what [`Member::header`] writes.
    pub fn parse(block: &[u8; BLOCK]) -> Result<Self, TarError> {
        let magic = &block[257..265];
        if magic != b"ustar\x0000" && magic != b"ustar  \0" {
            return Err(TarError::NotUstar);
        }
        let sum =
            block.iter().enumerate().map(|(i, b)| u32::from(if (148..156).contains(&i) { b' ' } else { *b })).sum();
        if octal(&block[148..156]) != Some(u64::from(u32::min(sum, u32::MAX))) {
            return Err(TarError::Checksum);
        }
        let name = match text(&block[345..500]).ok_or(TarError::BadName)? {
            "" => text(&block[..100]).ok_or(TarError::BadName)?.to_owned(),
            prefix => format!("{prefix}/{}", text(&block[..100]).ok_or(TarError::BadName)?),
        };
        let kind = match block[156] {
            b'0' | 0 | b'7' => None,
            b'1' => Some("a hard link"),
            b'2' => Some("a symbolic link"),
            b'3' => Some("a character device"),
            b'4' => Some("a block device"),
            b'5' => Some("a directory"),
            b'6' => Some("a pipe"),
            other => {
                let shown = if other.is_ascii_graphic() { char::from(other) } else { '?' };
                return Err(TarError::Extension(shown));
            }
        };
        // Quoted in reasons, which are shown and logged.
        let shown: String = name.chars().take(100).flat_map(char::escape_default).collect();
        if let Some(kind) = kind {
            return Err(TarError::NotRegular { name: shown, kind });
        }
        if name.starts_with('/') || name.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(TarError::Leads(shown));
        }
        let size = octal(&block[124..136]).ok_or_else(|| TarError::BadSize(shown.clone()))?;
        let member = Member { name, size };
        if member.header().as_ref() != Some(block) {
            return Err(TarError::NotCanonical(shown));
        }
        Ok(member)
    }

    /// Bytes of zeroes after the content.
    pub fn padding(&self) -> u64 {
        (BLOCK as u64 - self.size % BLOCK as u64) % BLOCK as u64
    }

    /// Bytes of header, content and padding. `None` beyond 2^64.
    pub fn total(&self) -> Option<u64> {
        self.size.checked_add(BLOCK as u64 + self.padding())
    }
}

/// The name as the two fields hold it: at the leftmost slash that leaves both short enough.
fn split(name: &str) -> Option<(&str, &str)> {
    if name.len() <= NAME_MAX {
        return Some(("", name));
    }
    name.char_indices()
        .filter(|(i, c)| *c == '/' && *i <= PREFIX_MAX && name.len() - i - 1 <= NAME_MAX)
        .map(|(i, _)| (&name[..i], &name[i + 1..]))
        .find(|(prefix, rest)| !prefix.is_empty() && !rest.is_empty())
}

/// Whether a name fits into a header.
pub(super) fn fits(name: &str) -> bool {
    split(name).is_some()
}

/// Up to the first NUL, after which there are only NULs.
fn text(field: &[u8]) -> Option<&str> {
    let len = field.iter().position(|b| *b == 0).unwrap_or(field.len());
    if field[len..].iter().any(|b| *b != 0) {
        return None;
    }
    std::str::from_utf8(&field[..len]).ok()
}

/// Octal digits, then NUL or blanks.
fn octal(field: &[u8]) -> Option<u64> {
    let len = field.iter().position(|b| !(b'0'..=b'7').contains(b)).unwrap_or(field.len());
    if len == 0 || field[len..].iter().any(|b| !matches!(b, 0 | b' ')) {
        return None;
    }
    field[..len].iter().try_fold(0u64, |n, b| n.checked_mul(8)?.checked_add(u64::from(b - b'0')))
}
