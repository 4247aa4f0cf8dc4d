//! Keys that a daemon left behind when it was killed: noted while they are out, taken back by the next one.

use super::board::Board;
use crate::audit;
use crate::caller::Daemon;
use crate::keyring::noted;
use crate::vault::Vault;
use std::collections::BTreeSet;
use std::path::PathBuf;

impl Vault {
    /// Takes back what a former daemon left, and notes from now on what is out. Where the store is open already, what is
    /// published takes the place of what was left first: who searches meanwhile finds one or the other.
    pub(super) fn take_leftovers(&self, file: PathBuf) {
        let left = noted::read(&file);
        if self.locked_since().is_none() {
            self.follow_all();
        }
        for serial in noted::take_back(&left) {
            let reason = format!("left behind by a daemon that was killed: key {serial}");
            if let Err(error) = self.record(audit::Operation::Unpublish, "", None, &Daemon.who(), &reason) {
                tracing::error!(%error, serial, "a key was taken back unrecorded");
            }
        }
        // Only the first call for a vault counts.
        let _ = self.publisher.out.set(file);
        self.note_out(&mut self.publisher.board.lock());
    }

    /// Notes which keys are out.
    pub(super) fn note_out(&self, board: &mut Board) {
        let Some(file) = self.publisher.out.get() else { return };
        let out: BTreeSet<i32> = board.each().filter_map(|(_, slot)| slot.key.as_ref().map(|k| k.serial())).collect();
        if out == board.noted {
            return;
        }
        match noted::write(file, &out) {
            Ok(()) => board.noted = out,
            Err(error) => tracing::warn!(%error, file = %file.display(), "published keys outlive a kill of the daemon"),
        }
    }
}
