//! The doors for admins: for each method of the interface who calls, the use case, the reply.
//!
//! What has a folder of its own (consoles, exports, certificates, passwords, views, publications) has its doors there.

mod keys;
mod log;
mod scopes;
mod store;
mod tree;

pub(super) use scopes::word;
pub(super) use tree::{check_mode, folder_and_name};

use super::Vault;
use super::backup::backup_report;
use crate::audit;
use crate::wire::{Actor, Admin, BackupReport, Fault, LogPlace, LogRead, LogVerified, Right, UnlockWith};
use std::io::{self, Write};

impl Admin for Vault {
    fn enter(&self, actor: &Actor) -> Result<(), Fault> {
        self.admin(actor).map(|_| ())
    }

    fn permit(&self, actor: &Actor, right: Right, method: &str) -> Result<(), Fault> {
        Vault::permit(self, actor, right, method)
    }

    fn prove(&self, actor: &Actor, with: UnlockWith) -> Result<(), Fault> {
        self.proves(actor, &with)
    }

    fn log_read(
        &self,
        actor: &Actor,
        read: LogRead,
        wanted: &mut dyn FnMut() -> bool,
        each: &mut dyn FnMut(&str) -> io::Result<()>,
    ) -> Result<LogPlace, Fault> {
        self.admin(actor)?;
        self.read_log(read, wanted, each)
    }

    fn log_verify(&self, actor: &Actor, wanted: &mut dyn FnMut() -> bool) -> Result<LogVerified, Fault> {
        self.admin(actor)?;
        self.verify_log(wanted)
    }

    fn backup(&self, actor: &Actor, out: &mut dyn Write) -> Result<BackupReport, Fault> {
        let caller = self.admin(actor)?;
        if self.locked_since().is_none() {
            self.sync()?;
        }
        self.record(audit::Operation::Backup, "", None, &caller.who(), "admin")?;
        backup_report(&self.store, out)
    }

    fn denied(&self, actor: &Actor, reason: &str) {
        self.refuse(audit::Operation::Control, "", None, &self.control(actor).who(), reason);
    }
}
