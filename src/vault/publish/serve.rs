//! The doors for what an admin asks of keys in keyrings, and for what the kernel starts to make one.

use crate::vault::Vault;
use crate::wire::{
    Actor, Fault, GetPublished, HeldKeys, KeyRequest, KeyringList, Publications, Publish, Published, RequestedKey,
    Serve, Unpublish, Unpublished,
};

impl Serve<Publish> for Vault {
    fn serve(&self, actor: &Actor, asked: Publish) -> Result<Published, Fault> {
        Ok(Published { keys: self.publish_secret(&self.admin(actor)?, asked)? })
    }
}

impl Serve<Unpublish> for Vault {
    fn serve(&self, actor: &Actor, asked: Unpublish) -> Result<Unpublished, Fault> {
        Ok(Unpublished { removed: self.unpublish_secret(&self.admin(actor)?, asked)? })
    }
}

impl Serve<GetPublished> for Vault {
    fn serve(&self, actor: &Actor, GetPublished {}: GetPublished) -> Result<Publications, Fault> {
        self.admin(actor)?;
        Ok(Publications { publications: self.publications() })
    }
}

impl Serve<KeyringList> for Vault {
    fn serve(&self, actor: &Actor, KeyringList {}: KeyringList) -> Result<HeldKeys, Fault> {
        self.admin(actor)?;
        Ok(HeldKeys { keys: self.held_keys()? })
    }
}

impl Serve<KeyRequest> for Vault {
    fn serve(&self, actor: &Actor, asked: KeyRequest) -> Result<RequestedKey, Fault> {
        let (content, timeout) = self.request_key(actor, &asked)?;
        Ok(RequestedKey { content, timeout })
    }
}
