//! The doors for what an admin asks of views.

use crate::vault::Vault;
use crate::wire::{Actor, Done, Fault, Serve, ViewAdd, ViewAdded, ViewList, ViewListing, ViewRemove};

impl Serve<ViewAdd> for Vault {
    fn serve(&self, actor: &Actor, asked: ViewAdd) -> Result<ViewAdded, Fault> {
        self.add_view(&self.admin(actor)?, &asked)
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
        self.remove_view(&self.admin(actor)?, &asked.path)?;
        Ok(Done {})
    }
}
