//! The audit log for those who may look: its lines as they are, and what the daemon's own check finds.
//!
//! Neither takes a lock that a writer of the log waits for, and neither is itself recorded, as other looks are not.

use super::Vault;
use crate::audit;
use crate::wire::{Fault, LogPlace, LogRead, LogVerified};
use std::io;

impl Vault {
    pub(super) fn read_log(
        &self,
        read: LogRead,
        wanted: &mut dyn FnMut() -> bool,
        each: &mut dyn FnMut(&str) -> io::Result<()>,
    ) -> Result<LogPlace, Fault> {
        let log = self.audit.path();
        let failed = |e: audit::Reading| Fault::Failed(e.to_string());
        let from = match read.from {
            Some(from) => from,
            None => audit::begin(log, read.last.unwrap_or(0), wanted).map_err(failed)?,
        };
        audit::read_from(log, from, each).map_err(failed)
    }

    pub(super) fn verify_log(&self, wanted: &mut dyn FnMut() -> bool) -> Result<LogVerified, Fault> {
        // Before the files are read: what is vouched for is then in them.
        let anchor = self.audit.synced();
        let report = audit::verify_for(self.audit.path(), Some(anchor), wanted);
        let report = report.map_err(|e| Fault::Failed(e.to_string()))?;
        let report = report.ok_or_else(|| Fault::Failed("the check was given up".into()))?;
        Ok(LogVerified { anchored: anchor.count, report })
    }
}
