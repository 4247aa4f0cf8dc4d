//! What a rekeying leaves behind: files of the other identity, and blobs that nobody refers to.

use super::{BATCH, KEPT, MARKER};
use crate::store::Batch;
use crate::vault::protectors::{self, Turn};
use crate::vault::{Vault, VaultError, fault};
use std::collections::{BTreeMap, HashSet};

impl Vault {
    /// Clears away what an interrupted rekeying left, or one that has just turned everything over: files of the other
    /// identity, blobs that nobody refers to. Nothing to do without the marker.
    ///
    /// # Errors
    /// The store's; it is tried again at the next unlock.
    pub fn finish_rekey(&self) -> Result<(), VaultError> {
        let _alone = self.sealing_anew();
        self.clear_away()
    }

    pub(super) fn clear_away(&self) -> Result<(), VaultError> {
        let Some(marker) = self.store.meta(MARKER)? else { return Ok(()) };
        let marker = String::from_utf8_lossy(&marker).into_owned();
        {
            let _writer = self.lock_writer();
            let (recipient, kept) = marker.strip_suffix(KEPT).map_or((&*marker, false), |recipient| (recipient, true));
            let turned = self.keys()?.identity.to_string() == recipient;
            self.settle_files(turned, kept)?;
        }
        fault::at(fault::Point::FilesSettled)?;
        let orphans = self.orphans(&HashSet::new())?;
        for some in orphans.chunks(BATCH) {
            self.give_way();
            let _writer = self.lock_writer();
            let batch = Batch { blobs: some.iter().map(|blob| (*blob, None)).collect(), ..Batch::default() };
            self.keys()?;
            self.store.apply(&batch, &self.anchor())?;
            fault::at(fault::Point::SomeRemoved)?;
        }
        let _writer = self.lock_writer();
        let batch = Batch { meta: BTreeMap::from([(MARKER.to_owned(), None)]), ..Batch::default() };
        self.store.apply(&batch, &self.anchor())?;
        Ok(())
    }

    /// Makes the files those of the identity that the store has. Each step leaves one that opens it.
    fn settle_files(&self, turned: bool, kept_by_caller: bool) -> Result<(), VaultError> {
        let files = protectors::all(&self.store)?;
        let next: Vec<_> = files.iter().filter(|p| p.turn == Turn::Next).collect();
        if turned {
            for file in &next {
                self.store.write_file(&Turn::Current.file_name(&file.name), &file.file)?;
            }
            fault::at(fault::Point::FileReplaced)?;
            // With nothing to come, either there never was, or what is there is the new one already.
            let gone = |name: &str| if next.is_empty() { kept_by_caller } else { !next.iter().any(|n| n.name == name) };
            for file in files.iter().filter(|p| p.turn == Turn::Current && gone(&p.name)) {
                self.store.remove_file(&Turn::Current.file_name(&file.name))?;
            }
        }
        for file in next {
            self.store.remove_file(&Turn::Next.file_name(&file.name))?;
        }
        Ok(())
    }
}
