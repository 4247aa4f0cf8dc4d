//! The daemon and the commands that work without it. A placeholder: each says that it is missing.

use crate::config::Config;
use crate::wire::Fault;

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// Why it could not start, or had to end.
pub fn run(_: Config) -> Result<(), Fault> {
    Err(Fault::Failed("not built in".into()))
}

/// What works with no daemon running.
pub mod offline {
    use crate::config::Config;
    use crate::wire::{
        BackupReport, Extract, Fault, Fsck, FsckReport, InitReport, NewRecovery, Protection, RestoreReport, UnlockWith,
    };
    use std::io::{Read, Write};

    fn missing<T>() -> Result<T, Fault> {
        Err(Fault::Failed("not built in".into()))
    }

    /// Makes a store, its identity and a recovery recipient; refuses to overwrite.
    ///
    /// # Errors
    /// [`Fault::Refused`] if there is one.
    pub fn init(_: &Config, _: Protection, _: NewRecovery) -> Result<InitReport, Fault> {
        missing()
    }

    /// Checks the store.
    ///
    /// # Errors
    /// [`Fault::Refused`] if it is in use, or `with` does not open it.
    pub fn fsck(_: &Config, _with: UnlockWith, _: Fsck) -> Result<FsckReport, Fault> {
        missing()
    }

    /// The sealed blob of a secret.
    ///
    /// # Errors
    /// As [`fsck`], and [`Fault::NotFound`].
    pub fn extract(_: &Config, _with: UnlockWith, _: Extract) -> Result<Vec<u8>, Fault> {
        missing()
    }

    /// Writes a backup, sealed as the store is.
    ///
    /// # Errors
    /// [`Fault::Refused`] if the store is in use, [`Fault::Failed`] if `out` cannot be written.
    pub fn backup(_: &Config, _out: &mut dyn Write) -> Result<BackupReport, Fault> {
        missing()
    }

    /// Brings a backup back into an empty store; checked with `with` before it counts, if given.
    ///
    /// # Errors
    /// [`Fault::Refused`] if there is a store, [`Fault::Damaged`] if the backup is not whole.
    pub fn restore(_: &Config, _from: &mut dyn Read, _with: Option<UnlockWith>) -> Result<RestoreReport, Fault> {
        missing()
    }
}
