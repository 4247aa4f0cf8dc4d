//! The serial numbers of published keys, noted while they are out, so that they can be taken back when the daemon that
//! published them is gone.
//!
//! Owns one small file in the runtime folder, which a reboot empties as it empties the keyrings. It has numbers, no names.

use super::publish;
use std::collections::BTreeSet;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The most that is read of the file.
const BYTES_MAX: u64 = 1 << 20;

/// Where they are noted: beside the control socket.
pub fn file(control: &Path) -> PathBuf {
    control.with_file_name("published.keys")
}

/// The numbers; none if there is no such file, or nothing in it that is one.
pub fn read(file: &Path) -> BTreeSet<i32> {
    let small = std::fs::symlink_metadata(file).is_ok_and(|m| m.is_file() && m.len() <= BYTES_MAX);
    let text = if small { std::fs::read_to_string(file).unwrap_or_default() } else { String::new() };
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// Notes them, whole or not at all.
///
/// # Errors
/// What the file system says; what was noted before stays.
pub fn write(file: &Path, serials: &BTreeSet<i32>) -> io::Result<()> {
    let new = file.with_extension("new");
    let text: String = serials.iter().map(|serial| format!("{serial}\n")).collect();
    let mut out = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    out.write_all(text.as_bytes())?;
    std::fs::rename(&new, file)
}

/// Revokes those of them that are published keys; which.
pub fn take_back(serials: &BTreeSet<i32>) -> Vec<i32> {
    serials.iter().copied().filter(|serial| publish::take_leftover(*serial)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_come_back_and_nonsense_is_none() {
        let home = tempfile::tempdir().unwrap();
        let file = file(&home.path().join("control.sock"));
        assert!(read(&file).is_empty());
        let serials = BTreeSet::from([7, 1_000_000]);
        write(&file, &serials).unwrap();
        assert_eq!(read(&file), serials);
        std::fs::write(&file, "x\n12\n-\n99999999999\n").unwrap();
        assert_eq!(read(&file), BTreeSet::from([12]));
        assert!(take_back(&BTreeSet::from([12])).is_empty(), "no key of ours");
    }
}
