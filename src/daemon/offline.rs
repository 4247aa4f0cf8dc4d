//! What works with no daemon running: making, checking, backing up and restoring a store.

use super::{fault_of_store, open_vault};
use crate::caller::Daemon;
use crate::config::Config;
use crate::seal;
use crate::store::{self, Existing, Store, StoreError};
use crate::stream::{Recipient, RecipientUse};
use crate::sys::keyctl;
use crate::vault::{self, Recovery, UnlockBy, Vault, VaultError};
use crate::wire::{
    BackupReport, Extract, Fault, Fsck, FsckReport, InitReport, NewRecovery, Protection, RestoreReport, UnlockWith,
};
use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// Makes a store, its identity and a recovery recipient; refuses to overwrite anything.
///
/// # Errors
/// [`Fault::Refused`] if the folder or one of the files is there; nothing is left behind then.
pub fn init(config: &Config, protection: Protection, recovery: NewRecovery) -> Result<InitReport, Fault> {
    if let Some(parent) = config.store.parent() {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o755).create(parent);
        made.map_err(|e| Fault::Failed(format!("{}: {e}", parent.display())))?;
    }
    let (recipient, recovery_file) = match &recovery {
        NewRecovery::Recipient(recipient) => {
            let parsed =
                Recipient::parse(recipient, RecipientUse::Recovery).map_err(|e| Fault::Refused(e.to_string()))?;
            (parsed.to_string(), None)
        }
        NewRecovery::Out(path) => {
            let (identity, file) =
                seal::new_identity(&seal::Protection::Plain).map_err(|e| Fault::Failed(e.to_string()))?;
            write_new(path, &file)?;
            (identity.recipient().to_string(), Some(path.as_path()))
        }
    };
    let made = make(config, &protection, recipient.clone());
    if made.is_err()
        && let Some(path) = recovery_file
    {
        let _ = std::fs::remove_file(path);
    }
    Ok(InitReport {
        store: config.store.display().to_string(),
        identity: made?,
        recovery: recipient,
        recovery_file: recovery_file.map(|p| p.display().to_string()),
    })
}

fn make(config: &Config, protection: &Protection, recipient: String) -> Result<String, Fault> {
    let recovery = Recovery { recipients: vec![recipient] };
    match protection {
        Protection::Passphrase(passphrase) => {
            vault::create_store(&config.store, &seal::Protection::Passphrase(passphrase), &recovery)?;
            Ok(config.store.join("identity.age").display().to_string())
        }
        Protection::Keyfile(path) => {
            // Taken before the store is made, so that a store without its key is never left.
            write_new(path, b"")?;
            let made = vault::create_store(&config.store, &seal::Protection::Plain, &recovery);
            let written = made.map_err(Fault::from).and_then(|file| match file {
                Some(file) => write_over(path, &file),
                None => Err(Fault::Failed("no identity was made".into())),
            });
            if let Err(fault) = written {
                let _ = std::fs::remove_file(path);
                return Err(fault);
            }
            Ok(path.display().to_string())
        }
    }
}

/// Checks the store.
///
/// # Errors
/// [`Fault::Refused`] if it is in use, or `with` does not open it; [`Fault::Damaged`] if it does not verify.
pub fn fsck(config: &Config, with: UnlockWith, fsck: Fsck) -> Result<FsckReport, Fault> {
    let vault = unlocked(config, &with)?;
    let report = vault.fsck_report(fsck)?;
    vault.shutdown();
    Ok(report)
}

/// The sealed blob of a secret.
///
/// # Errors
/// As [`fsck`], and [`Fault::NotFound`].
pub fn extract(config: &Config, with: UnlockWith, extract: Extract) -> Result<Vec<u8>, Fault> {
    let vault = unlocked(config, &with)?;
    let blob = vault.extract_blob(&Daemon, &extract)?;
    vault.shutdown();
    Ok(blob)
}

/// What each recovery key opens: nothing is opened here.
///
/// # Errors
/// [`Fault::Refused`] if the store is in use; [`Fault::Damaged`] if it has none.
pub fn escrow(config: &Config) -> Result<Vec<u8>, Fault> {
    let store = Store::open(&config.store).map_err(fault_of_store)?;
    Ok(vault::escrow_of(&store)?)
}

/// Writes a backup, sealed as the store is.
///
/// # Errors
/// [`Fault::Refused`] if the store is in use, [`Fault::Failed`] if `out` cannot be written.
pub fn backup(config: &Config, out: &mut dyn Write) -> Result<BackupReport, Fault> {
    let store = Store::open(&config.store).map_err(fault_of_store)?;
    vault::backup_report(&store, out)
}

/// Brings a backup back where there is no store; checked with `with` before it counts, if given.
///
/// # Errors
/// [`Fault::Refused`] if there is a store or `with` does not open it, [`Fault::Damaged`] if the backup is not whole;
/// then there is none afterwards either.
pub fn restore(config: &Config, from: &mut dyn Read, with: Option<UnlockWith>) -> Result<RestoreReport, Fault> {
    let check = |store: &Store| {
        with.as_ref().map_or(Ok(()), |with| vault::verify_store(store, &UnlockBy::from(with)).map_err(Restoring::Vault))
    };
    let restored =
        store::restore_checked(&config.store, from, Existing::Refuse, check).map_err(|error| match error {
            Restoring::Store(error) => fault_of_store(error),
            Restoring::Vault(error) => error.into(),
        })?;
    Ok(RestoreReport {
        store: config.store.display().to_string(),
        generation: restored.generation,
        nodes: restored.nodes,
        blobs: restored.blobs,
    })
}

/// Why a backup was not restored.
enum Restoring {
    Store(StoreError),
    Vault(VaultError),
}

impl From<StoreError> for Restoring {
    fn from(error: StoreError) -> Self {
        Restoring::Store(error)
    }
}

fn unlocked(config: &Config, with: &UnlockWith) -> Result<Vault, Fault> {
    keyctl::join_anonymous_session().map_err(|e| Fault::Failed(format!("cannot make a keyring: {e}")))?;
    let vault = open_vault(config)?;
    vault.unlock(&Daemon, &UnlockBy::from(with))?;
    vault.finish_rekey()?;
    Ok(vault)
}

fn write_new(path: &Path, bytes: &[u8]) -> Result<(), Fault> {
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let file = opened.map_err(|e| match e.kind() {
        std::io::ErrorKind::AlreadyExists => {
            Fault::Refused(format!("{} exists; it is not overwritten", path.display()))
        }
        _ => Fault::Failed(format!("{}: {e}", path.display())),
    })?;
    fill(file, path, bytes)
}

fn write_over(path: &Path, bytes: &[u8]) -> Result<(), Fault> {
    let file =
        OpenOptions::new().write(true).open(path).map_err(|e| Fault::Failed(format!("{}: {e}", path.display())))?;
    fill(file, path, bytes)
}

fn fill(mut file: std::fs::File, path: &Path, bytes: &[u8]) -> Result<(), Fault> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let done =
        file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| std::fs::File::open(folder)?.sync_all());
    done.map_err(|e| Fault::Failed(format!("{}: {e}", path.display())))
}
