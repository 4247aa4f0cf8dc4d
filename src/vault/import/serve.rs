//! The doors for what an admin asks of a host: its consoles, their bundles, the accounts they name.

use crate::vault::Vault;
use crate::wire::{
    Accounts, Actor, Consoles, Done, Fault, GetAccounts, GetConsoles, Import, ImportReport, Join, Joined, Leave, Left,
    NoteAccount, Serve,
};

impl Serve<Join> for Vault {
    fn serve(&self, actor: &Actor, asked: Join) -> Result<Joined, Fault> {
        Ok(self.join_console(&self.admin(actor)?, &asked)?)
    }
}

impl Serve<GetConsoles> for Vault {
    fn serve(&self, actor: &Actor, GetConsoles {}: GetConsoles) -> Result<Consoles, Fault> {
        self.admin(actor)?;
        Ok(Consoles { consoles: self.consoles()? })
    }
}

impl Serve<Leave> for Vault {
    fn serve(&self, actor: &Actor, asked: Leave) -> Result<Left, Fault> {
        Ok(self.leave_console(&self.admin(actor)?, &asked.console, asked.keep)?)
    }
}

impl Serve<Import> for Vault {
    fn serve(&self, actor: &Actor, asked: Import) -> Result<ImportReport, Fault> {
        Ok(self.import_file(&self.admin(actor)?, &asked)?)
    }
}

impl Serve<GetAccounts> for Vault {
    fn serve(&self, actor: &Actor, GetAccounts {}: GetAccounts) -> Result<Accounts, Fault> {
        self.admin(actor)?;
        Ok(Accounts { accounts: self.accounts()? })
    }
}

impl Serve<NoteAccount> for Vault {
    fn serve(&self, actor: &Actor, asked: NoteAccount) -> Result<Done, Fault> {
        self.note_account(&self.admin(actor)?, &asked)?;
        Ok(Done {})
    }
}
