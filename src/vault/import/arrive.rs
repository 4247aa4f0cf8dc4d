//! A bundle that was copied into the store's folder: checked, opened, prepared, applied, acknowledged.
//!
//! Owns that order, and the two folders in the store. Nothing of a bundle is looked at in this process before the check said
//! yes, and nothing of its content before all of its payload was found to be what was signed.

use super::prepare::Preparing;
use super::record::{ConsoleRecord, OwnKey};
use super::remembered::Remembered;
use super::{ACKS, Arrived, INCOMING, Mode, Ready, accounts, refused};
use crate::audit;
use crate::bundle::{Checked, Contents, KeySigner, REMEMBERED_MAX, Refusal, Trust, ack};
use crate::model::{ConsoleName, Ino, Timestamp, ack_file};
use crate::seal;
use crate::stream::ssh_identity;
use crate::vault::node::Record;
use crate::vault::{Caller, Vault, VaultError, fault};
use crate::wire::{Import, ImportOutcome, ImportReport};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zeroize::Zeroizing;

/// The largest SSH host key, in bytes.
const HOST_KEY_MAX: u64 = 64 << 10;

/// Why a bundle does not come in.
enum Stop {
    /// It is refused.
    Refused(Refusal),
    /// No fault of the bundle's.
    Vault(VaultError),
}

impl From<VaultError> for Stop {
    fn from(error: VaultError) -> Self {
        Stop::Vault(error)
    }
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Stop::Refused(refusal)
    }
}

impl Vault {
    /// Imports a bundle that lies in the store's folder [`INCOMING`]. That it is refused is no error: the report says so.
    ///
    /// # Errors
    /// [`VaultError::Locked`]; [`VaultError::NotFound`] without such a file; what the store says. Nothing was changed then.
    pub(in crate::vault) fn import_file(
        &self,
        caller: &impl Caller,
        import: &Import,
    ) -> Result<ImportReport, VaultError> {
        // A rekeying meanwhile would leave what was sealed under keys that are gone.
        let _alone = self.sealing_anew();
        self.keys()?;
        let file = self.incoming(&import.file)?;
        let settings = self.import_settings();
        let mode = match (import.pretend, import.partial.unwrap_or(settings.partial)) {
            (Some(true), _) => Mode::Pretend,
            (_, true) => Mode::Partial,
            (_, false) => Mode::Whole,
        };
        let (record, checked) = match self.check_arrived(&file)? {
            Ok(found) => found,
            Err((console, refusal)) => {
                self.refuse_bundle(caller, console.as_ref(), &refusal);
                if let (Some(console), true) = (&console, mode != Mode::Pretend) {
                    self.learn(console, &refusal)?;
                }
                return Ok(refused(console.as_ref(), &refusal));
            }
        };
        fault::at(fault::Point::Checked)?;
        let manifest = checked.manifest();
        let arrived = Arrived {
            console: manifest.console.clone(),
            serial: manifest.serial,
            trust: checked.new_trust().clone(),
            led: manifest.revoked_of_chain().collect(),
        };
        let mut report = match self.open_and_prepare(&record, checked) {
            Ok(ready) => {
                fault::at(fault::Point::Prepared)?;
                self.apply(caller, &arrived, ready, mode)?
            }
            Err(Stop::Vault(error)) => return Err(error),
            Err(Stop::Refused(refusal)) => {
                self.refuse_bundle(caller, Some(&arrived.console), &refusal);
                ImportReport { serial: Some(arrived.serial), ..refused(Some(&arrived.console), &refusal) }
            }
        };
        if report.code.as_deref() == Some("entries") {
            let why = report.reason.as_deref().unwrap_or_default();
            self.refuse(audit::Operation::Import, "", None, &caller.who(), why);
        }
        fault::at(fault::Point::Told)?;
        if mode != Mode::Pretend {
            match self.acknowledge(&record, &arrived, &report) {
                Ok(path) => report.ack = Some(path.display().to_string()),
                // The import is done, whoever hears of it.
                Err(error) => {
                    tracing::error!(%error, console = %arrived.console, "no acknowledgement could be written")
                }
            }
        }
        Ok(report)
    }

    /// The copy, if it is one that nobody but root could have made.
    fn incoming(&self, name: &str) -> Result<File, VaultError> {
        let plain = !name.starts_with('.') && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        if name.is_empty() || name.len() > 100 || !plain {
            return Err(VaultError::Invalid("not the name of a file in the store's folder 'incoming'".into()));
        }
        let path = self.store.dir().join(INCOMING).join(name);
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
        let file = match OpenOptions::new().read(true).custom_flags(flags).open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(VaultError::NotFound),
            other => other.map_err(|e| VaultError::Failed(format!("{}: {e}", path.display())))?,
        };
        let meta = file.metadata().map_err(|e| VaultError::Failed(format!("{}: {e}", path.display())))?;
        let me = nix::unistd::geteuid().as_raw();
        if !meta.is_file() || meta.nlink() != 1 || meta.uid() != me || meta.mode() & 0o022 != 0 {
            return Err(VaultError::Invalid(format!("{} is no copy of a bundle", path.display())));
        }
        Ok(file)
    }

    /// Checks it against what is known of each console; which one it is from is not believed before.
    #[allow(clippy::type_complexity, reason = "an error, a refusal, or a bundle of a console")]
    fn check_arrived(
        &self,
        file: &File,
    ) -> Result<Result<(Arc<ConsoleRecord>, Checked), (Option<ConsoleName>, Refusal)>, VaultError> {
        let settings = self.import_settings();
        let mut refused = None;
        for (_, record) in self.with_open(|open| open.consoles.all())? {
            match (settings.check)(file, &record.trust(settings), Timestamp::now()) {
                Ok(checked) => return Ok(Ok((record, checked))),
                Err(refusal @ Refusal::OtherConsole { .. }) => refused = refused.or(Some((None, refusal))),
                // Whom it names, and what is wrong with it, is known then: the next console would say the same.
                Err(refusal @ (Refusal::TooLarge { .. } | Refusal::NotABundle(_) | Refusal::NewerFormat(_))) => {
                    return Ok(Err((None, refusal)));
                }
                Err(refusal) => return Ok(Err((Some(record.console.clone()), refusal))),
            }
        }
        match refused {
            Some(refused) => Ok(Err(refused)),
            None => Err(VaultError::NotPermitted("no console was joined: pinfold join")),
        }
    }

    fn open_and_prepare(&self, record: &ConsoleRecord, checked: Checked) -> Result<Ready, Stop> {
        let mut contents = self.open_contents(record, checked)?;
        let settings = self.import_settings();
        let consoles = self.with_open(|open| open.consoles.clone())?;
        let credentials = settings.credentials.as_ref();
        let mut preparing = Preparing::new(self, &consoles, record, credentials, settings.on_change)?;
        let index = contents.index().clone();
        let mut read = 0;
        while let Some(content) = contents.next_file()? {
            for entry in &index.entries[read..content.entry] {
                preparing.entry(entry, None)?;
            }
            preparing.entry(&index.entries[content.entry], Some(&content.secret))?;
            read = content.entry + 1;
        }
        for entry in &index.entries[read..] {
            preparing.entry(entry, None)?;
        }
        let admins = match settings.accounts {
            true => accounts::prepare(&mut preparing, record, &index.admins)?,
            false => Vec::new(),
        };
        let Preparing { ready: prepared, refused, listed, .. } = preparing;
        Ok(Ready { prepared, listed, refused, admins })
    }

    fn open_contents(&self, record: &ConsoleRecord, checked: Checked) -> Result<Contents, Stop> {
        let Some(kept) = &record.identity else {
            let identity = host_key(self.import_settings().identity.as_deref())?;
            return Ok(checked.open(&identity)?);
        };
        let index = &self.keys()?.index;
        let text = OwnKey::Identity.open(&record.console, index, kept).map_err(VaultError::from)?;
        let identity = seal::open_identity(text.expose(), None).map_err(VaultError::from)?;
        Ok(checked.open(identity.key())?)
    }

    fn refuse_bundle(&self, caller: &impl Caller, console: Option<&ConsoleName>, refusal: &Refusal) {
        let from = console.map_or_else(|| "a bundle".to_owned(), |console| format!("a bundle of {console}"));
        self.refuse(audit::Operation::Import, "", None, &caller.who(), &format!("{from}: {refusal}"));
        tracing::warn!(%refusal, code = refusal.code(), "{from} was refused");
    }

    /// What a bundle said of revoked keys holds although it was refused.
    fn learn(&self, console: &ConsoleName, refusal: &Refusal) -> Result<(), VaultError> {
        let Refusal::TrustRevoked { key, revoked, .. } = refusal else { return Ok(()) };
        let mut writer = self.lock_writer();
        let (ino, record) = self.console(console)?;
        let mut next = (*record).clone();
        // The one that led here first, whatever else is on the list.
        next.revoked.truncate(REMEMBERED_MAX - 1);
        next.revoke(&[*key]);
        next.revoke(refusal.learned());
        let mut remembered = (*self.with_open(|open| open.consoles.remembered().1)?).clone();
        [key].into_iter().chain(&revoked.led).for_each(|key| remembered.saw(console, *key, 0));
        self.keep_console(&mut writer, ino, next, Some(remembered))
    }

    /// Makes a console's record durable, and what is remembered with it, and then what everybody sees.
    pub(super) fn keep_console(
        &self,
        writer: &mut crate::vault::writer::Writer,
        ino: Ino,
        next: ConsoleRecord,
        remembered: Option<Remembered>,
    ) -> Result<(), VaultError> {
        let (at, before) = self.with_open(|open| open.consoles.remembered())?;
        let remembered = match (remembered.filter(|new| *new != *before), at) {
            (None, _) => None,
            (Some(new), Some(at)) => Some((at, new)),
            (Some(new), None) => Some((writer.next_ino()?, new)),
        };
        self.transact_with(writer, |writer| {
            writer.sync();
            writer.keep(ino, Record::Console(Box::new(next.clone())));
            if let Some((at, remembered)) = &remembered {
                writer.keep(*at, Record::Remembered(Box::new(remembered.clone())));
            }
            Ok(())
        })?;
        self.with_open_mut(|open| {
            open.consoles.put(ino, next);
            if let Some((at, remembered)) = remembered {
                open.consoles.put_remembered(at, remembered);
            }
        })
    }

    /// Writes the signed acknowledgement. Where it is.
    fn acknowledge(
        &self,
        record: &ConsoleRecord,
        arrived: &Arrived,
        report: &ImportReport,
    ) -> Result<PathBuf, VaultError> {
        let outcome = match report.outcome {
            ImportOutcome::Applied => ack::AckOutcome::Applied,
            ImportOutcome::Partial => ack::AckOutcome::Partial,
            ImportOutcome::Refused | ImportOutcome::Pretended => ack::AckOutcome::Refused,
        };
        let reason = report.reason.clone().or_else(|| {
            let first = report.refused.first()?;
            Some(format!("{} entries are refused, the first: {}: {}", report.refused_count, first.path, first.reason))
        });
        let (console, host) = (record.console.clone(), record.host.clone());
        let said = ack::Ack::new(console, host, arrived.serial, Timestamp::now(), outcome, reason);
        let failed = |e: &dyn std::fmt::Display| VaultError::Failed(e.to_string());
        let signer = KeySigner::from_seed(OwnKey::Ack.open(&record.console, &self.keys()?.index, &record.ack)?)
            .map_err(|e| failed(&e))?;
        let bytes = ack::make(&said, &signer).map_err(|e| failed(&e))?;
        let folder = self.store.dir().join(ACKS);
        let path = folder.join(ack_file(&record.host, &record.console));
        replace(&folder, &path, &bytes).map_err(|e| VaultError::Failed(format!("{}: {e}", path.display())))?;
        Ok(path)
    }
}

/// Writes a file whole, or not at all.
fn replace(folder: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        made => made?,
    }
    let temporary = folder.join(".new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    File::open(folder)?.sync_all()
}

/// The configured SSH host key.
fn host_key(path: Option<&Path>) -> Result<age::ssh::Identity, VaultError> {
    let path = path.ok_or_else(|| {
        VaultError::Failed("the console seals to an SSH host key, and import.identity names none any more".into())
    })?;
    let failed = |e: io::Error| VaultError::Failed(format!("{}: {e}", path.display()));
    let mut bytes = Zeroizing::new(Vec::with_capacity(HOST_KEY_MAX as usize));
    File::open(path).and_then(|file| file.take(HOST_KEY_MAX).read_to_end(&mut bytes)).map_err(failed)?;
    ssh_identity(&bytes).map_err(|e| VaultError::Failed(format!("{}: {e}", path.display())))
}

impl ConsoleRecord {
    /// What a bundle is checked against.
    pub(super) fn trust(&self, settings: &super::Settings) -> Trust {
        Trust {
            console: self.console.clone(),
            host: self.host.clone(),
            key: self.key.clone(),
            number: self.number,
            revoked: self.revoked.clone(),
            last_serial: self.serial,
            skew: settings.skew,
            max_size: settings.max_size,
            max_entries: settings.max_entries,
        }
    }

    /// What a checked bundle taught, but for its serial number: that is its content's.
    pub(super) fn learn(&mut self, trust: &Trust) {
        self.key = trust.key.clone();
        self.number = trust.number;
        self.revoked.clone_from(&trust.revoked);
    }

    pub(super) fn revoke(&mut self, keys: &[crate::bundle::Fingerprint]) {
        for key in keys {
            if self.revoked.len() < REMEMBERED_MAX && !self.revoked.contains(key) {
                self.revoked.push(*key);
            }
        }
    }
}
