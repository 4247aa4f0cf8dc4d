//! The doors for what an admin asks of views.

use crate::vault::Vault;
use crate::vault::serve::{check_mode, not_root};
use crate::wire::{Actor, Done, Fault, Serve, ViewAdd, ViewAdded, ViewList, ViewListing, ViewRemove};

impl Serve<ViewAdd> for Vault {
    fn serve(&self, actor: &Actor, asked: ViewAdd) -> Result<ViewAdded, Fault> {
        let caller = self.admin(actor)?;
        not_root(&asked.path)?;
        check_mode(asked.mode)?;
        self.add_view(&caller, &asked)
    }
}

impl Serve<ViewList> for Vault {
    fn serve(&self, actor: &Actor, ViewList {}: ViewList) -> Result<ViewListing, Fault> {
        self.admin(actor)?;
        Ok(ViewListing { views: self.list_views()? })
    }
}

impl Serve<ViewRemove> for Vault {
    fn serve(&self, actor: &Actor, asked: ViewRemove) -> Result<Done, Fault> {
        let caller = self.admin(actor)?;
        not_root(&asked.path)?;
        self.remove_view(&caller, &asked.path)?;
        Ok(Done {})
    }
}
