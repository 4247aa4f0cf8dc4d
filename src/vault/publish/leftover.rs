//! Keys that a daemon left behind when it was killed: noted while they are out, taken back by the next one.
//!
//! Owns one small file in the runtime folder, which a reboot empties as it empties the keyrings. It has serial numbers,
//! no names.

use super::board::Board;
use crate::audit;
use crate::caller::Daemon;
use crate::keyring::publish;
use crate::vault::Vault;
use std::collections::BTreeSet;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The most that is read of the file.
const BYTES_MAX: u64 = 1 << 20;

impl Vault {
    /// Takes back what a former daemon left, and notes from now on what is out. Where the store is open already, what is
    /// published takes the place of what was left first: who searches meanwhile finds one or the other.
    pub(super) fn take_leftovers(&self, file: PathBuf) {
        let left = read(&file);
        if self.locked_since().is_none() {
            self.follow_all();
        }
        for serial in left {
            if publish::take_leftover(serial) {
                let reason = format!("left behind by a daemon that was killed: key {serial}");
                if let Err(error) = self.record(audit::Operation::Unpublish, "", None, &Daemon.who(), &reason) {
                    tracing::error!(%error, serial, "a key was taken back unrecorded");
                }
            }
        }
        // Only the first call for a vault counts.
        let _ = self.publisher.out.set(file);
        self.note_out(&mut self.publisher.board());
    }

    /// Notes which keys are out.
    pub(super) fn note_out(&self, board: &mut Board) {
        let Some(file) = self.publisher.out.get() else { return };
        let out: BTreeSet<i32> = board.each().filter_map(|(_, slot)| slot.key.as_ref().map(|k| k.serial())).collect();
        if out == board.noted {
            return;
        }
        match write(file, &out) {
            Ok(()) => board.noted = out,
            Err(error) => tracing::warn!(%error, file = %file.display(), "published keys outlive a kill of the daemon"),
        }
    }
}

fn read(file: &Path) -> BTreeSet<i32> {
    let small = std::fs::symlink_metadata(file).is_ok_and(|m| m.is_file() && m.len() <= BYTES_MAX);
    let text = if small { std::fs::read_to_string(file).unwrap_or_default() } else { String::new() };
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// Whole or not at all.
fn write(file: &Path, serials: &BTreeSet<i32>) -> std::io::Result<()> {
    let new = file.with_extension("new");
    let mut text = String::new();
    for serial in serials {
        text.push_str(&format!("{serial}\n"));
    }
    let mut out = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    out.write_all(text.as_bytes())?;
    std::fs::rename(&new, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_come_back_and_nonsense_is_none() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("published.keys");
        assert!(read(&file).is_empty());
        let serials = BTreeSet::from([7, 1_000_000]);
        write(&file, &serials).unwrap();
        assert_eq!(read(&file), serials);
        std::fs::write(&file, "x\n12\n-\n99999999999\n").unwrap();
        assert_eq!(read(&file), BTreeSet::from([12]));
    }
}
