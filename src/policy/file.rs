//! Reading the policy's file: is it safe to believe?
//!
//! Owns the bounds of the file as a file. What it says is not looked at here. Never writes.

use super::fault::{Fault, Faults, PolicyError};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// The largest file, in bytes.
pub const FILE_MAX: u64 = 8 << 20;

/// The text, if nobody but root (or whoever runs this) could have written it. Asked of the open file, so that it is the
/// file that is read.
pub fn read(path: &Path) -> Result<String, PolicyError> {
    let failed = |source| PolicyError::Read { path: path.into(), source };
    let refused = |reason: String| PolicyError::Unsafe { path: path.into(), reason };
    // Without waiting for the writer of a FIFO.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    if !meta.is_file() {
        return Err(refused("is not a regular file".into()));
    }
    let me = nix::unistd::geteuid().as_raw();
    if meta.uid() != 0 && meta.uid() != me {
        return Err(refused(format!("belongs to uid {}, who could change who gets what", meta.uid())));
    }
    if meta.mode() & 0o022 != 0 {
        return Err(refused(format!("others can write it (mode {:04o})", meta.mode() & 0o7777)));
    }
    let mut bytes = Vec::new();
    file.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(refused(format!("is larger than {FILE_MAX} bytes")));
    }
    String::from_utf8(bytes).map_err(|error| PolicyError::Wrong { path: path.into(), faults: not_text(&error) })
}

fn not_text(error: &std::string::FromUtf8Error) -> Faults {
    let bytes = error.as_bytes();
    let at = error.utf8_error().valid_up_to();
    let start = bytes[..at].iter().rposition(|b| *b == b'\n').map_or(0, |n| n + 1);
    let end = bytes[at..].iter().position(|b| *b == b'\n').map_or(bytes.len(), |n| at + n);
    let column = String::from_utf8_lossy(&bytes[start..at]).chars().count() + 1;
    let line = bytes[..start].iter().filter(|b| **b == b'\n').count() + 1;
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let mut faults = Faults::default();
    let text = String::from_utf8_lossy(&bytes[start..end]);
    faults.push(|| Fault::at(number(line), number(column), &text, "these bytes are not UTF-8"));
    faults
}
