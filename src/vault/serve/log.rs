//! The audit log: where it is, and a new file of it.

use crate::audit;
use crate::vault::Vault;
use crate::wire::{Actor, Fault, LogAnchor, LogHead, LogPosition, LogRotate, Rotated, Serve};

impl Serve<LogHead> for Vault {
    fn serve(&self, actor: &Actor, LogHead {}: LogHead) -> Result<LogPosition, Fault> {
        self.admin(actor)?;
        let head = self.audit.head();
        Ok(LogPosition { head: head.head_hex(), count: head.count })
    }
}

impl Serve<LogAnchor> for Vault {
    fn serve(&self, actor: &Actor, LogAnchor {}: LogAnchor) -> Result<LogPosition, Fault> {
        self.admin(actor)?;
        let synced = self.audit.synced();
        Ok(LogPosition { head: synced.head_hex(), count: synced.count })
    }
}

impl Serve<LogRotate> for Vault {
    fn serve(&self, actor: &Actor, LogRotate {}: LogRotate) -> Result<Rotated, Fault> {
        let caller = self.admin(actor)?;
        self.record(audit::Operation::Rotate, "", None, &caller.who(), "admin")?;
        let rotated = self.audit.rotate().map_err(|e| Fault::Failed(e.to_string()))?;
        Ok(Rotated { rotated: rotated.display().to_string() })
    }
}
