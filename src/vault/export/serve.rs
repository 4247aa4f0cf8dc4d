//! The doors for what an admin asks of a console: bundles, hosts, signing keys.

use crate::audit;
use crate::vault::Vault;
use crate::wire::{
    Actor, Export, ExportPreview, ExportSign, Exported, Fault, GetHosts, HostListing, Previews, Serve, SignerInit,
    SignerList, SignerListing, SignerRevoke, SignerRotate,
};

impl Serve<Export> for Vault {
    fn serve(&self, actor: &Actor, asked: Export) -> Result<Exported, Fault> {
        self.request_export(actor, &asked)
    }
}

impl Serve<ExportPreview> for Vault {
    fn serve(&self, actor: &Actor, asked: ExportPreview) -> Result<Previews, Fault> {
        self.admin(actor)?;
        Ok(Previews { hosts: self.preview(asked.hosts.as_deref())? })
    }
}

impl Serve<ExportSign> for Vault {
    fn serve(&self, actor: &Actor, asked: ExportSign) -> Result<Exported, Fault> {
        self.request_sign(&self.admin(actor)?, &asked)
    }
}

impl Serve<GetHosts> for Vault {
    fn serve(&self, actor: &Actor, GetHosts {}: GetHosts) -> Result<HostListing, Fault> {
        self.admin(actor)?;
        Ok(HostListing { hosts: self.request_hosts()? })
    }
}

impl Serve<SignerList> for Vault {
    fn serve(&self, actor: &Actor, SignerList {}: SignerList) -> Result<SignerListing, Fault> {
        self.admin(actor)?;
        Ok(self.signer_listing()?)
    }
}

impl Serve<SignerInit> for Vault {
    fn serve(&self, actor: &Actor, asked: SignerInit) -> Result<SignerListing, Fault> {
        let made = self.signer_first(&self.admin(actor)?, asked.passphrase.as_ref());
        self.signers_after(actor, audit::Operation::Sign, made)
    }
}

impl Serve<SignerRotate> for Vault {
    fn serve(&self, actor: &Actor, asked: SignerRotate) -> Result<SignerListing, Fault> {
        let (old, new) = (asked.old_passphrase.as_ref(), asked.passphrase.as_ref());
        let made = self.rotate_signer(&self.admin(actor)?, old, new);
        self.signers_after(actor, audit::Operation::Rotate, made)
    }
}

impl Serve<SignerRevoke> for Vault {
    fn serve(&self, actor: &Actor, asked: SignerRevoke) -> Result<SignerListing, Fault> {
        let made = self.revoke_signer(&self.admin(actor)?, &asked.fingerprint);
        self.signers_after(actor, audit::Operation::Revoke, made)
    }
}
