//! The folder in the store that bundles are copied to before anybody looks at them, and the copies.
//!
//! Owns the copying: bounded, from a descriptor that was looked at, to a file that only root can reach. It reads nothing of what it
//! copies.

use super::Failure;
use crate::config::Config;
use crate::exit::Exit;
use crate::vault::INCOMING;
use crate::wire::ImportReport;
use nix::fcntl::{Flock, FlockArg};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long one import waits for another.
const PATIENCE: Duration = Duration::from_secs(600);
/// How often it looks.
const LOOK: Duration = Duration::from_millis(50);
/// The largest acknowledgement, in bytes.
const ACK_MAX: u64 = 1 << 20;

/// Why something is not copied.
#[derive(Debug)]
pub enum Unfit {
    /// What it is: no bundle can be such a thing.
    Kind(&'static str),
    /// It has more bytes than a bundle may have.
    TooLarge {
        /// How many are taken.
        max: u64,
    },
    /// It could not be read or written.
    Io(io::Error),
}

impl From<io::Error> for Unfit {
    fn from(error: io::Error) -> Self {
        Unfit::Io(error)
    }
}

impl std::fmt::Display for Unfit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Unfit::Kind(what) => f.write_str(what),
            Unfit::TooLarge { max } => write!(f, "it is too large: at most {max} bytes are taken"),
            Unfit::Io(error) => write!(f, "{}", error.to_string().to_lowercase()),
        }
    }
}

impl Unfit {
    /// As the end of a command about this file.
    pub fn into_failure(self, file: &str) -> Failure {
        let exit = match &self {
            Unfit::Kind(_) | Unfit::TooLarge { .. } => Exit::Refused,
            Unfit::Io(error) if error.kind() == io::ErrorKind::NotFound => Exit::NotFound,
            Unfit::Io(_) => Exit::Failed,
        };
        Failure::new(exit, self.to_string()).about(file)
    }
}

/// The folder. One command has it at a time; what a killed one left in it is cleared away.
pub struct Incoming {
    folder: PathBuf,
    max: u64,
    _alone: Flock<File>,
}

/// A copy; it goes when this is dropped.
#[derive(Debug)]
pub struct Copy {
    path: PathBuf,
    name: String,
}

impl Copy {
    /// Its name in the folder.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Puts it somewhere else on the same filesystem.
    pub fn keep_as(self, path: &Path) -> io::Result<()> {
        std::fs::rename(&self.path, path)
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        // Not there any more if it was kept.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Incoming {
    /// Opens it, alone; made if it is not there.
    pub fn open(config: &Config) -> Result<Self, Failure> {
        let folder = private_folder(&config.store, INCOMING)?;
        let failed = |e: &dyn std::fmt::Display| Failure::new(Exit::Failed, format!("{}: {e}", folder.display()));
        let mut lock = File::open(&folder).map_err(|e| failed(&e))?;
        let begun = Instant::now();
        let alone = loop {
            match Flock::lock(lock, FlockArg::LockExclusiveNonblock) {
                Ok(alone) => break alone,
                Err((_, errno)) if begun.elapsed() > PATIENCE => return Err(failed(&errno.desc())),
                Err((back, _)) => lock = back,
            }
            std::thread::sleep(LOOK);
        };
        for entry in std::fs::read_dir(&folder).map_err(|e| failed(&e))?.flatten() {
            let _ = std::fs::remove_file(entry.path());
        }
        Ok(Incoming { folder, max: config.import.max_size, _alone: alone })
    }

    /// Copies an open file. What it is, is asked of the descriptor.
    pub fn copy_file(&self, file: &File) -> Result<Copy, Unfit> {
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Err(Unfit::Kind("it is not a regular file"));
        }
        // A sparse file of any size is refused before a byte of it is read.
        if meta.len() > self.max {
            return Err(Unfit::TooLarge { max: self.max });
        }
        self.copy_stream(&mut &*file)
    }

    /// Copies a stream to its end.
    pub fn copy_stream(&self, from: &mut impl Read) -> Result<Copy, Unfit> {
        let name = format!("{}-{}.pfb", std::process::id(), crate::model::Timestamp::now().nanos);
        let copy = Copy { path: self.folder.join(&name), name };
        let mut to = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&copy.path)?;
        let copied = io::copy(&mut from.take(self.max + 1), &mut to)?;
        if copied > self.max {
            return Err(Unfit::TooLarge { max: self.max });
        }
        to.flush()?;
        Ok(copy)
    }
}

/// A folder of root's alone in the store.
///
/// # Errors
/// If there is no store, or something else has that name.
pub fn private_folder(store: &Path, name: &str) -> Result<PathBuf, Failure> {
    let folder = store.join(name);
    let failed = |e: &dyn std::fmt::Display| Failure::new(Exit::Failed, format!("{}: {e}", folder.display()));
    match DirBuilder::new().mode(0o700).create(&folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(Failure::new(Exit::NotFound, format!("{} is not there", store.display())).hint("pinfold init"));
        }
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(failed(&e)),
        Ok(()) | Err(_) => {}
    }
    let meta = std::fs::symlink_metadata(&folder).map_err(|e| failed(&e))?;
    if !meta.is_dir() || meta.uid() != nix::unistd::geteuid().as_raw() || meta.mode() & 0o077 != 0 {
        return Err(failed(&"it must be a folder that only root can enter")
            .hint(format!("chown root {0} && chmod 0700 {0}", folder.display())));
    }
    Ok(folder)
}

/// Puts a copy of the acknowledgement where the console fetches it, if that is configured. The folder may be another's: what
/// is there is replaced, never written to.
///
/// # Errors
/// What reading or writing says.
pub fn copy_ack(config: &Config, report: &ImportReport) -> Result<(), Failure> {
    let (Some(ack), Some(folder)) = (&report.ack, &config.import.ack_dir) else { return Ok(()) };
    let failed = |what: &Path, e: io::Error| Failure::new(Exit::Failed, format!("{}: {e}", what.display()));
    let ack = Path::new(ack);
    let mut bytes = Vec::new();
    let read = File::open(ack).and_then(|file| file.take(ACK_MAX).read_to_end(&mut bytes));
    read.map_err(|e| failed(ack, e))?;
    let name = ack.file_name().unwrap_or_default();
    let temporary = folder.join(format!(".{}.new", name.to_string_lossy()));
    let written = (|| {
        match std::fs::remove_file(&temporary) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&temporary)?;
        file.write_all(&bytes)?;
        file.set_permissions(PermissionsExt::from_mode(0o644))?;
        file.sync_all()?;
        std::fs::rename(&temporary, folder.join(name))
    })();
    written.map_err(|e| failed(folder, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(home: &Path) -> Config {
        let mut config = Config { store: home.join("store"), ..Config::default() };
        config.import.max_size = 1 << 20;
        std::fs::create_dir(&config.store).unwrap();
        config
    }

    #[test]
    fn a_copy_is_bounded_and_goes_when_it_is_done_with() {
        let home = tempfile::tempdir().unwrap();
        let config = config(home.path());
        let incoming = Incoming::open(&config).unwrap();
        let copy = incoming.copy_stream(&mut &b"bundle"[..]).unwrap();
        let at = config.store.join(INCOMING).join(copy.name());
        assert_eq!(std::fs::read(&at).unwrap(), b"bundle");
        assert_eq!(std::fs::metadata(&at).unwrap().mode() & 0o777, 0o600);
        drop(copy);
        assert!(!at.exists());
        assert!(matches!(incoming.copy_stream(&mut io::repeat(1)), Err(Unfit::TooLarge { .. })));
        let sparse = File::create(home.path().join("sparse")).unwrap();
        sparse.set_len(10 << 30).unwrap();
        let sparse = File::open(home.path().join("sparse")).unwrap();
        assert!(matches!(incoming.copy_file(&sparse), Err(Unfit::TooLarge { .. })));
        assert!(matches!(incoming.copy_file(&File::open("/dev/zero").unwrap()), Err(Unfit::Kind(_))));
        assert!(matches!(incoming.copy_file(&File::open(home.path()).unwrap()), Err(Unfit::Kind(_))));
        assert_eq!(std::fs::read_dir(config.store.join(INCOMING)).unwrap().count(), 0, "nothing is left of those");
        std::fs::write(config.store.join(INCOMING).join("left.pfb"), "by a killed one").unwrap();
        drop(incoming);
        Incoming::open(&config).unwrap();
        assert_eq!(std::fs::read_dir(config.store.join(INCOMING)).unwrap().count(), 0);
    }

    #[test]
    fn a_folder_that_others_can_enter_is_not_used() {
        let home = tempfile::tempdir().unwrap();
        let config = config(home.path());
        let folder = config.store.join(INCOMING);
        std::fs::create_dir(&folder).unwrap();
        std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o755)).unwrap();
        assert!(Incoming::open(&config).is_err());
        std::fs::remove_dir(&folder).unwrap();
        std::os::unix::fs::symlink(home.path(), &folder).unwrap();
        assert!(Incoming::open(&config).is_err());
        let nowhere = Config { store: home.path().join("none"), ..config };
        assert_eq!(Incoming::open(&nowhere).err().unwrap().exit(), Exit::NotFound);
    }
}
