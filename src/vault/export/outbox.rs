//! The outbox: `HOST/SERIAL.pfb`, bundles that wait for their delivery.
//!
//! Owns the names in it and the order in which a file becomes visible: whole, on the disk, and only then under its name.

use crate::model::HostName;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// How many bundles of a host are kept once the newest was delivered, that one included.
pub const KEEP: usize = 3;
/// What a bundle's name ends in.
const ENDING: &str = ".pfb";
/// What the name of one begins with that is being written.
const UNFINISHED: &str = ".new-";

/// The bundles of one host.
pub struct Outbox(PathBuf);

/// A bundle being written. Dropped unfinished, it is removed.
pub struct Draft {
    dir: PathBuf,
    temp: PathBuf,
    serial: u64,
    file: File,
    finished: bool,
}

impl Outbox {
    /// Where the bundles of this host are. Makes no folder.
    pub fn of(outbox: &Path, host: &HostName) -> Self {
        Outbox(outbox.join(host.as_str()))
    }

    /// The file of a serial number.
    pub fn file(&self, serial: u64) -> PathBuf {
        self.0.join(format!("{serial}{ENDING}"))
    }

    /// Whether there is one.
    pub fn has(&self, serial: u64) -> bool {
        std::fs::symlink_metadata(self.file(serial)).is_ok_and(|m| m.is_file())
    }

    /// Begins the file of a serial number; folders are made 0700.
    ///
    /// # Errors
    /// What the filesystem says.
    pub fn draft(&self, serial: u64) -> io::Result<Draft> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.0)?;
        let temp = self.0.join(format!("{UNFINISHED}{serial}"));
        let _ = std::fs::remove_file(&temp);
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&temp)?;
        Ok(Draft { dir: self.0.clone(), temp, serial, file, finished: false })
    }

    /// The serial numbers that are there, ascending.
    ///
    /// # Errors
    /// What the filesystem says; no folder is no bundle.
    pub fn serials(&self) -> io::Result<Vec<u64>> {
        let entries = match std::fs::read_dir(&self.0) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut serials = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            let serial = name.to_str().and_then(|name| name.strip_suffix(ENDING)).and_then(|n| n.parse::<u64>().ok());
            serials.extend(serial);
        }
        serials.sort_unstable();
        Ok(serials)
    }

    /// Removes what nobody needs: all but the newest few, and what was never finished.
    ///
    /// # Errors
    /// What the filesystem says.
    pub fn tidy(&self) -> io::Result<()> {
        let serials = self.serials()?;
        for serial in serials.iter().take(serials.len().saturating_sub(KEEP)) {
            std::fs::remove_file(self.file(*serial))?;
        }
        Ok(())
    }

    /// Removes the bundles of this number and all greater ones.
    ///
    /// # Errors
    /// What the filesystem says.
    pub fn remove_from(&self, serial: u64) -> io::Result<()> {
        self.serials()?.into_iter().filter(|s| *s >= serial).try_for_each(|s| std::fs::remove_file(self.file(s)))
    }

    /// Removes drafts that a crash left. Nobody may be writing one.
    ///
    /// # Errors
    /// What the filesystem says.
    pub fn clear_drafts(&self) -> io::Result<()> {
        let entries = match std::fs::read_dir(&self.0) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_name().to_str().is_some_and(|name| name.starts_with(UNFINISHED)) {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

impl Draft {
    /// What to write to.
    pub fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Gives it its name.
    fn place(mut self) -> io::Result<()> {
        std::fs::rename(&self.temp, self.dir.join(format!("{}{ENDING}", self.serial)))?;
        self.finished = true;
        Ok(())
    }
}

/// Puts drafts on the disk, and then under their names; all are durable when this returns. Many cost what one costs: the
/// filesystem is synced once for all contents and once for all names.
///
/// # Errors
/// What the filesystem says; then none of them counts, whatever is there under its name.
pub fn finish_all(outbox: &Path, mut drafts: Vec<Draft>) -> io::Result<()> {
    if drafts.is_empty() {
        return Ok(());
    }
    let root = File::open(outbox)?;
    let sync = || nix::unistd::syncfs(&root).map_err(io::Error::from);
    if drafts.len() > 1 {
        sync()?;
        drafts.into_iter().try_for_each(Draft::place)?;
        return sync();
    }
    let draft = drafts.remove(0);
    let dir = File::open(&draft.dir)?;
    draft.file.sync_all()?;
    draft.place()?;
    dir.sync_all()?;
    // The host's own folder may be new.
    root.sync_all()
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.finished {
            let _ = std::fs::remove_file(&self.temp);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_bundle_is_there_whole_or_not_at_all_and_old_ones_go() {
        let home = tempfile::tempdir().unwrap();
        let outbox = Outbox::of(&home.path().join("outbox"), &HostName::parse("h1").unwrap());
        assert!(outbox.serials().unwrap().is_empty());
        outbox.tidy().unwrap();
        for serial in [9, 10, 100, 1000, 1001] {
            let mut draft = outbox.draft(serial).unwrap();
            draft.file().write_all(b"x").unwrap();
            assert!(!outbox.has(serial));
            finish_all(&home.path().join("outbox"), vec![draft]).unwrap();
            assert!(outbox.has(serial));
        }
        let two = vec![outbox.draft(1002).unwrap(), outbox.draft(1003).unwrap()];
        finish_all(&home.path().join("outbox"), two).unwrap();
        drop(outbox.draft(2000).unwrap());
        assert_eq!(outbox.serials().unwrap(), [9, 10, 100, 1000, 1001, 1002, 1003]);
        outbox.tidy().unwrap();
        assert_eq!(outbox.serials().unwrap(), [1001, 1002, 1003]);
        std::fs::write(home.path().join("outbox/h1/.new-7"), "half").unwrap();
        outbox.clear_drafts().unwrap();
        assert_eq!(std::fs::read_dir(home.path().join("outbox/h1")).unwrap().count(), 3);
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&home.path().join("outbox/h1")), 0o700);
        assert_eq!(mode(&outbox.file(1003)), 0o600);
    }
}
