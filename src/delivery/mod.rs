//! Bringing a bundle to its host, and fetching the host's acknowledgement; a certificate's request to its signer; mail.
//!
//! Owns the ways: a folder, SFTP by the system's OpenSSH, a program. It carries files as they are and judges none; when it
//! is tried again, and what became of it, is for whoever asks. Every wait is bounded. Nothing of pinfold listens.

mod backoff;
mod error;
mod folder;
mod mail;
mod many;
mod program;
mod request;
mod run;
mod safe;
mod sftp;
mod sign;
mod target;

pub use backoff::{backoff, next_try};
pub use error::DeliveryError;
pub use mail::{MailError, send, subject};
pub use many::{Counts, DeliveryResult, deliver_all};
pub use request::{RequestError, RequestTo, hand_over, mail_request};
pub use run::Cancel;
pub use sign::sign;
pub use target::{Sftp, Target, TargetError};

use crate::model::{ConsoleName, HostName, ack_file};
use program::Occasion;
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The largest acknowledgement, in bytes.
pub const ACK_MAX: u64 = 64 << 10;

/// One file for one host.
#[derive(Debug, Clone)]
pub struct Job {
    /// Where to.
    pub target: Target,
    /// The file, which is taken as it is when it is opened.
    pub file: PathBuf,
    /// Who sends it.
    pub console: ConsoleName,
    /// For whom.
    pub host: HostName,
    /// Its number: it arrives as `SERIAL.pfb`.
    pub serial: u64,
    /// A program that is run before; if it fails, nothing is delivered.
    pub before: Option<PathBuf>,
    /// A program that is run afterwards, whatever happened.
    pub after: Option<PathBuf>,
}

/// What is the same for all jobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// For how long a connection is tried.
    pub connect: Duration,
    /// For how long one transfer may take, its connection too.
    pub transfer: Duration,
    /// For how long a program may run.
    pub program: Duration,
    /// The ssh_config(5) in the place of the system's and the user's.
    pub ssh_config: Option<PathBuf>,
    /// The socket of the ssh-agent of whoever runs the command, if it may be asked.
    pub agent: Option<PathBuf>,
    /// The sftp(1) that is run.
    pub sftp: PathBuf,
    /// The sendmail(8) that is run, whichever mailer brings it.
    pub sendmail: PathBuf,
    /// The tree the daemon serves itself: nothing below it is looked at, since it would wait for itself.
    pub mountpoint: PathBuf,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            connect: Duration::from_secs(15),
            transfer: Duration::from_secs(600),
            program: Duration::from_secs(300),
            ssh_config: None,
            agent: None,
            sftp: "/usr/bin/sftp".into(),
            sendmail: "/usr/sbin/sendmail".into(),
            mountpoint: "/run/secrets".into(),
        }
    }
}

/// A file that was delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivered {
    /// Its size.
    pub bytes: u64,
    /// How long it took, the programs before and after too.
    pub took: Duration,
    /// What went wrong afterwards.
    pub warning: Option<String>,
}

/// Delivers a file, once. The host sees it under its name only when it is whole.
///
/// # Errors
/// [`DeliveryError`]; [`DeliveryError::is_lasting`] says whether trying again makes sense.
pub fn deliver(job: &Job, settings: &Settings, cancel: &Cancel) -> Result<Delivered, DeliveryError> {
    let begun = Instant::now();
    let file = open(&job.file)?;
    let bytes = file.metadata().map_err(|e| DeliveryError::io(job.file.display(), e))?.len();
    let hook = |program: &Option<PathBuf>, occasion| match program {
        Some(path) => program::hook(path, job, occasion, settings, cancel),
        None => Ok(()),
    };
    let outcome = hook(&job.before, Occasion::Before).and_then(|()| match &job.target {
        Target::Folder(path) => folder::put(path, job, &file, settings, cancel),
        Target::Sftp(to) => sftp::put(to, job, file, settings, cancel),
        Target::Program(path) => program::put(path, job, file, settings, cancel),
    });
    let after = hook(&job.after, Occasion::After { delivered: outcome.is_ok() });
    outcome?;
    Ok(Delivered { bytes, took: begun.elapsed(), warning: after.err().map(|e| e.to_string()) })
}

/// A host's acknowledgement to this console, [`ack_file`](crate::model::ack_file) at `from`; `None` if there is none yet. A program prints it.
///
/// # Errors
/// [`DeliveryError`].
pub fn fetch_ack(
    from: &Target,
    host: &HostName,
    console: &ConsoleName,
    settings: &Settings,
    cancel: &Cancel,
) -> Result<Option<Vec<u8>>, DeliveryError> {
    match from {
        Target::Folder(path) => folder::ack(path, &ack_file(host, console), settings),
        Target::Sftp(from) => sftp::ack(from, &ack_file(host, console), settings, cancel),
        Target::Program(path) => program::ack(path, host, console, settings, cancel),
    }
}

fn open(path: &Path) -> Result<File, DeliveryError> {
    let failed = |e| DeliveryError::io(path.display(), e);
    let file = File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
    let file = file.map_err(failed)?;
    if file.metadata().map_err(failed)?.is_file() {
        Ok(file)
    } else {
        Err(DeliveryError::refused(path.display(), "is not a regular file"))
    }
}

/// What a bundle is called where it arrives.
fn final_name(serial: u64) -> String {
    format!("{serial}.pfb")
}

/// What it is called until it is whole: one name for each console, so that what a broken delivery leaves is overwritten
/// by the next. No importer takes a name like this.
fn part_name(console: &ConsoleName) -> String {
    format!(".{console}.part")
}
