//! Export: this machine as a console, from a change of the tree to a bundle in the outbox, and what became of it.
//!
//! Owns which hosts a change touches, the signing keys, serial numbers, and the record of what each host was sent. It
//! reads secrets as everybody does, through `access`, as the daemon. It sends nothing: that is for `daemon`, which asks
//! here what there is to deliver and tells here what became of it.
//!
//! Locks: `making` for a whole round of bundles, then `stamp`, then `plan`, before everything else of the vault (it is held while lists are made and serial numbers given, so that a
//! later number is never an older list; never while a bundle is written); `inbox` and `board` after everything.

mod board;
mod content;
mod deliver;
mod home;
mod list;
mod make;
mod outbox;
mod plan;
mod preview;
mod record;
mod request;
mod serve;
mod signers;
mod touched;
mod watch;

#[cfg(test)]
mod tests;

pub use deliver::{Errand, ErrandKind};
pub use record::{ExportRecord, Records};
pub use touched::ExportTouched;

use super::{State, Vault, VaultError};
use crate::config::Config;
use crate::lock::{Condvar, Mutex, rank};
use crate::model::{ConsoleName, HostName};
use board::Board;
use plan::Plan;
use std::path::PathBuf;
use std::sync::OnceLock;

/// What the configuration says of exports.
#[derive(Debug, Clone)]
pub struct ExportSettings {
    /// The policy's file.
    pub policy: PathBuf,
    /// Where bundles wait.
    pub outbox: PathBuf,
    /// What this console is called.
    pub console: ConsoleName,
    /// The table `[export]`.
    pub export: crate::config::Export,
}

impl ExportSettings {
    /// As configured.
    ///
    /// # Errors
    /// Why the machine's own name cannot be the console's.
    pub fn of(config: &Config) -> Result<Self, String> {
        let name = match &config.export.console {
            Some(name) => name.clone(),
            None => {
                let name = nix::unistd::gethostname().map_err(|e| format!("the machine has no name: {}", e.desc()))?;
                name.into_string().map_err(|_| "the machine's name is not UTF-8".to_owned())?
            }
        };
        let console = ConsoleName::parse(&name)
            .map_err(|error| format!("'{name}' cannot be the console's name ({error}); set export.console"))?;
        Ok(ExportSettings {
            policy: config.policy.clone(),
            outbox: config.outbox(),
            console,
            export: config.export.clone(),
        })
    }
}

/// The exports' part of the vault.
#[derive(Default)]
pub(super) struct Exporter {
    settings: OnceLock<ExportSettings>,
    /// Held by whoever makes bundles: one round at a time. Before everything else.
    making: Mutex<(), { rank::ALONE }>,
    plan: Mutex<Option<Plan>>,
    /// The policy's file when it was read. Before `plan`.
    stamp: Mutex<Option<watch::Stamp>>,
    inbox: Mutex<Inbox>,
    news: Condvar,
    board: Mutex<Board>,
    /// Something on the board is another, for whoever delivers.
    due: Condvar,
    #[cfg(test)]
    fault: Mutex<Option<make::ExportPoint>>,
}

/// What the thread is to look at.
#[derive(Default)]
struct Inbox {
    touched: ExportTouched,
    /// The policy's file is to be read again.
    reload: bool,
    stop: bool,
}

impl Exporter {
    /// These may be other than what hosts have by now. Never blocks for long: it is called under the vault's locks.
    pub fn touch(&self, touched: ExportTouched) {
        if !touched.is_empty() && self.settings.get().is_some() {
            self.inbox.lock().touched.extend(touched);
            self.news.notify_one();
        }
    }

    /// All of them may.
    pub fn touch_all(&self) {
        self.inbox.lock().touched = ExportTouched { all: true, ..ExportTouched::default() };
        self.news.notify_one();
        self.due.notify_all();
    }

    /// Ends the threads, soon.
    pub fn stop(&self) {
        self.inbox.lock().stop = true;
        self.board.lock().stop = true;
        self.news.notify_all();
        self.due.notify_all();
    }

    fn settings(&self) -> Result<&ExportSettings, VaultError> {
        self.settings.get().ok_or_else(|| VaultError::Failed("nothing is exported here".into()))
    }
}

impl Vault {
    fn with_exports<R>(&self, f: impl FnOnce(&Records) -> R) -> Result<R, VaultError> {
        self.with_open(|open| f(&open.exports))
    }

    /// What a host was sent; an empty record if nothing was.
    fn host_record(&self, host: &HostName) -> Result<std::sync::Arc<record::HostRecord>, VaultError> {
        let found = self.with_exports(|exports| exports.host(host).map(|(_, record)| record.clone()))?;
        Ok(found.unwrap_or_else(|| record::HostRecord::new(host.clone()).into()))
    }

    /// Changes the record of a host; on the disk within a second, or with the next commit.
    fn change_host(&self, host: &HostName, change: impl FnOnce(&mut record::HostRecord)) -> Result<(), VaultError> {
        let mut writer = self.lock_writer();
        let Some((ino, old)) = self.with_exports(|exports| exports.host(host).cloned())? else { return Ok(()) };
        let mut next = (*old).clone();
        change(&mut next);
        let record = ExportRecord::Host(next);
        writer.keep(ino, super::node::Record::Export(record.clone()));
        match &mut *self.write_state() {
            State::Unlocked(open) => open.exports.put(ino, record),
            State::Locked { .. } => Err(VaultError::Locked),
        }
    }
}
