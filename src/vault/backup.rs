//! A backup on its way to whoever asked for it, counted.

use super::VaultError;
use crate::store;
use crate::wire::{BackupReport, Fault};
use std::io::Write;

/// Writes a backup and says what is in it.
///
/// # Errors
/// What the store or the reader of the backup says.
pub(crate) fn backup_report(store: &store::Store, out: &mut dyn Write) -> Result<BackupReport, Fault> {
    let mut counted = Counted { out, bytes: 0 };
    let done = store::backup(store, &mut counted).map_err(VaultError::from)?;
    Ok(BackupReport { generation: done.generation, nodes: done.nodes, blobs: done.blobs, bytes: counted.bytes })
}

struct Counted<'a> {
    out: &'a mut dyn Write,
    bytes: u64,
}

impl Write for Counted<'_> {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        let n = self.out.write(buf)?;
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}
