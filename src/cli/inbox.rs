//! The inbox: what an unprivileged account uploads, and what becomes of it.
//!
//! Owns the rules by which a file is looked at at all, and the folder of what was refused. Whoever uploads may swap, link or cut
//! whatever he likes at any moment: each file is opened once, without following links, judged by that descriptor, copied from it, and
//! only the copy counts.

use super::incoming::{Incoming, Unfit, private_folder};
use super::{Failure, accounts, import};
use crate::config::Config;
use crate::control::client::{Client, ClientError};
use crate::exit::Exit;
use crate::model::Timestamp;
use crate::trust::{self, Owners};
use crate::wire::{self, ImportOutcome, ImportReport};
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::collections::{BTreeMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

/// The folder in the store with what was refused.
const REFUSED: &str = "refused";
/// How many refused files are kept.
const KEPT: usize = 100;
/// How many names of the inbox are looked at in one go.
const NAMES_MAX: usize = 100_000;
/// How often a sweep begins anew, for what came meanwhile.
const ROUNDS: usize = 8;
/// What a bundle's first bytes are: the name of its first member, in a tar.
const BEGINS: &[u8] = b"manifest.json\0";
/// What a tar has at this offset.
const USTAR: (u64, &[u8]) = (257, b"ustar");
/// How often a watched inbox is looked at.
const WATCH: Duration = Duration::from_millis(100);
/// How long it is thought unchanged at most: a clock tick may hide what came while it was swept.
const UNSEEN: Duration = Duration::from_secs(10);

/// A folder, and who may upload into it.
pub struct Inbox {
    path: PathBuf,
    refused: PathBuf,
    uploader: Option<u32>,
}

/// Whether a file may be imported.
enum Found {
    /// It is open, and what it should be.
    Fit(OwnedFd),
    /// It never will be.
    Unfit(&'static str),
    /// It is gone, or was swapped just now.
    Gone,
}

impl Inbox {
    /// The configured one. The one in the store's folder is made if it is not there.
    pub fn open(config: &Config) -> Result<Self, Failure> {
        let path = config.inbox();
        if config.inbox.is_none() {
            private_folder(&config.store, "inbox")?;
        }
        let refused = private_folder(&config.store, REFUSED)?;
        let uploader = match &config.import.upload_user {
            None => None,
            Some(name) => match nix::unistd::User::from_name(name) {
                Ok(Some(user)) => Some(user.uid.as_raw()),
                Ok(None) | Err(_) => {
                    return Err(Failure::usage(format!("import.upload_user: there is no user '{name}'")));
                }
            },
        };
        Ok(Inbox { path, refused, uploader })
    }

    /// Imports everything that is there, the newest first. What was refused as a whole is no failure of the sweep.
    ///
    /// # Errors
    /// If the inbox is not safe, or the daemon does not answer: then what is left stays.
    pub fn sweep(&self, config: &Config, partial: Option<bool>) -> Result<Vec<ImportReport>, Failure> {
        let mut reports = Vec::new();
        let mut seen = HashSet::new();
        for _ in 0..ROUNDS {
            let folder = self.folder()?;
            let names = self.names(&folder)?;
            let mut any = false;
            for name in names {
                let Some(stat) = looked_at(&folder, &name).filter(|stat| seen.insert(identity(stat))) else { continue };
                any = true;
                match self.look(&folder, &name, &stat) {
                    Found::Gone => {}
                    Found::Unfit(why) => {
                        self.note(&name, why, None);
                        self.remove(&folder, &name, &stat);
                    }
                    Found::Fit(file) => {
                        let taken = self.take(config, &name, &File::from(file), partial, &reports)?;
                        self.remove(&folder, &name, &stat);
                        if let Some((report, mut client)) = taken {
                            import::after(config, &mut client, &report);
                            reports.push(report);
                        }
                    }
                }
            }
            if !any {
                break;
            }
        }
        Ok(reports)
    }

    /// Waits until something may have come since `before`, which [`Inbox::changed`] said.
    pub fn wait(&self, before: Option<SystemTime>) {
        let since = Instant::now();
        while self.changed() == before && since.elapsed() < UNSEEN {
            std::thread::sleep(WATCH);
        }
    }

    /// When a name last came or went.
    pub fn changed(&self) -> Option<SystemTime> {
        std::fs::symlink_metadata(&self.path).ok()?.modified().ok()
    }

    /// The inbox, if nobody but root and the uploader can put anything there, nor put another folder in its place.
    fn folder(&self) -> Result<OwnedFd, Failure> {
        let shown = self.path.display();
        let failed = |e: nix::Error| {
            let exit = if e == nix::Error::ENOENT { Exit::NotFound } else { Exit::Failed };
            Failure::new(exit, format!("the inbox {shown}: {}", e.desc().to_lowercase())).hint(self.made_by())
        };
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let folder = File::from(nix::fcntl::open(&self.path, flags, Mode::empty()).map_err(failed)?);
        let meta = folder.metadata()?;
        if let Some(other) = trust::other_writer(&meta, self.uploader.map_or(Owners::Root, Owners::RootOr)) {
            let what = format!("the inbox {shown}: {other}");
            return Err(Failure::new(Exit::Refused, what).hint(self.made_by()));
        }
        let real = std::fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let above = trust::other_above(real.ancestors().skip(1), Owners::Root)
            .map_err(|e| Failure::new(Exit::Failed, format!("{}, or a folder above it: {e}", real.display())))?;
        if let Some((above, other)) = above {
            let what = format!("{}, above the inbox: {other}", above.display());
            return Err(
                Failure::new(Exit::Refused, what).hint(format!("chown root {0} && chmod go-w {0}", above.display()))
            );
        }
        Ok(folder.into())
    }

    fn made_by(&self) -> String {
        let owner = self.uploader.map_or_else(|| "root".to_owned(), |uid| uid.to_string());
        format!("install -d -m 0700 -o {owner} {}", self.path.display())
    }

    /// The names of what could be bundles, the newest serial first: one that is older is not needed then.
    fn names(&self, folder: &OwnedFd) -> Result<Vec<OsString>, Failure> {
        let failed = |e: io::Error| Failure::new(Exit::Failed, format!("the inbox: {}", e.to_string().to_lowercase()));
        // By the descriptor: the path may be another folder's by now.
        let dir = std::fs::read_dir(format!("/proc/self/fd/{}", folder.as_raw_fd())).map_err(failed)?;
        let mut names: Vec<(u64, OsString)> = Vec::new();
        for entry in dir.take(NAMES_MAX) {
            let name = entry.map_err(failed)?.file_name();
            let bytes = name.as_bytes();
            // As the glob *.pfb has it: what is hidden is still being uploaded.
            let Some(stem) = bytes.strip_suffix(b".pfb").filter(|_| bytes[0] != b'.') else { continue };
            let serial = std::str::from_utf8(stem).ok().and_then(|stem| stem.parse().ok()).unwrap_or(0);
            names.push((serial, name));
        }
        names.sort_by(|a, b| b.cmp(a));
        Ok(names.into_iter().map(|(_, name)| name).collect())
    }

    /// Opens it, and judges by the descriptor.
    fn look(&self, folder: &OwnedFd, name: &OsStr, stat: &FileStat) -> Found {
        // Before it is opened, so that a device or FIFO never is; and again afterwards.
        if let Some(why) = self.unfit(stat) {
            return Found::Unfit(why);
        }
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
        let Ok(file) = openat(folder, name, flags, Mode::empty()) else { return Found::Gone };
        match fstat(&file) {
            Ok(now) if identity(&now) != identity(stat) => Found::Gone,
            Ok(now) => self.unfit(&now).map_or(Found::Fit(file), Found::Unfit),
            Err(_) => Found::Gone,
        }
    }

    fn unfit(&self, stat: &FileStat) -> Option<&'static str> {
        let kind = SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits());
        if kind != SFlag::S_IFREG {
            return Some("it is not a regular file");
        }
        if stat.st_nlink != 1 {
            return Some("it has more than one name");
        }
        if stat.st_uid != 0 && Some(stat.st_uid) != self.uploader {
            return Some("it belongs neither to root nor to the account that uploads");
        }
        None
    }

    /// Copies it and has it imported. `None` if it is of no further interest.
    fn take(
        &self,
        config: &Config,
        name: &OsStr,
        file: &File,
        partial: Option<bool>,
        before: &[ImportReport],
    ) -> Result<Option<(ImportReport, Client)>, Failure> {
        // Junk is told from bundles by two marks, so that much of it costs little; what has them is checked properly.
        if !has_marks(file) {
            self.note(name, "it does not begin as a bundle does", None);
            return Ok(None);
        }
        let incoming = Incoming::open(config)?;
        let copy = match incoming.copy_file(file) {
            Ok(copy) => copy,
            Err(unfit @ (Unfit::Kind(_) | Unfit::TooLarge { .. })) => {
                self.note(name, &unfit.to_string(), None);
                return Ok(None);
            }
            Err(unfit) => return Err(unfit.into_failure(&format!("the copy of {}", name.display()))),
        };
        // Only now, and anew for each: the daemon hangs up on who says nothing for long, as while much junk was looked at.
        let mut client = Client::connect(config)?;
        let report = match client.call(&wire::Import { file: copy.name().into(), pretend: None, partial }) {
            Ok(report) => report,
            Err(error @ ClientError::Call(wire::CallError::Fault(wire::Fault::Refused(_)))) => {
                self.note(name, &error.to_string(), Some(copy));
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let superseded = matches!(report.code.as_deref(), Some("older" | "replayed"))
            && before.iter().any(|newer| newer.console == report.console && newer.outcome != ImportOutcome::Refused);
        if report.outcome == ImportOutcome::Refused && !superseded {
            let reason = report.reason.clone().unwrap_or_default();
            let entries: Vec<String> = report.refused.iter().map(|r| format!("{}: {}", r.path, r.reason)).collect();
            self.note(name, &[vec![reason], entries].concat().join("\n"), Some(copy));
        }
        Ok((!superseded).then_some((report, client)))
    }

    /// Keeps the reason, and the copy if there is one, where the uploader cannot reach them. The oldest go.
    fn note(&self, name: &OsStr, reason: &str, copy: Option<super::incoming::Copy>) {
        let name = name.to_string_lossy();
        let safe: String = name
            .chars()
            .take(100)
            .map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' })
            .collect();
        let now = Timestamp::now();
        let at = self.refused.join(format!("{:011}.{:09}-{safe}", now.secs, now.nanos));
        let with = |suffix: &str| {
            let mut name = at.clone().into_os_string();
            name.push(suffix);
            PathBuf::from(name)
        };
        let kept = std::fs::write(with(".reason"), format!("{reason}\n"));
        let kept = kept.and_then(|()| copy.map_or(Ok(()), |copy| copy.keep_as(&at)));
        if let Err(error) = kept.and_then(|()| self.forget_oldest()) {
            tracing::warn!(%error, "what was refused is not kept");
        }
        accounts::warn(&format!("{name} was refused: {reason}"));
    }

    /// Takes a name away, if it still is that file's: what was put in its place meanwhile is for the next look.
    fn remove(&self, folder: &OwnedFd, name: &OsStr, stat: &FileStat) {
        let same = looked_at(folder, name).is_some_and(|now| (now.st_dev, now.st_ino) == (stat.st_dev, stat.st_ino));
        if !same {
            return;
        }
        let removed = match stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits() {
            // It follows no link, whatever is swapped in meanwhile.
            true => std::fs::remove_dir_all(self.path.join(name)),
            false => unlinkat(folder.as_fd(), name, UnlinkatFlags::NoRemoveDir).map_err(io::Error::from),
        };
        if let Err(error) = removed {
            tracing::warn!(%error, "it cannot be taken out of the inbox");
        }
    }

    fn forget_oldest(&self) -> io::Result<()> {
        let mut kept: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
        for entry in std::fs::read_dir(&self.refused)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let stem = name.strip_suffix(".reason").unwrap_or(&name).to_owned();
            kept.entry(stem).or_default().push(entry.path());
        }
        let excess = kept.len().saturating_sub(KEPT);
        kept.into_values().take(excess).flatten().try_for_each(std::fs::remove_file)
    }
}

fn has_marks(file: &File) -> bool {
    let has = |at: u64, mark: &[u8]| {
        let mut bytes = vec![0; mark.len()];
        file.read_exact_at(&mut bytes, at).is_ok() && bytes == mark
    };
    has(0, BEGINS) && has(USTAR.0, USTAR.1)
}

fn looked_at(folder: &OwnedFd, name: &OsStr) -> Option<FileStat> {
    fstatat(folder.as_fd(), name, AtFlags::AT_SYMLINK_NOFOLLOW).ok()
}

/// Which file it is, whatever its name.
fn identity(stat: &FileStat) -> (u64, u64, i64, i64) {
    (stat.st_dev, stat.st_ino, stat.st_ctime, stat.st_ctime_nsec)
}
