//! What opens the store: recovery recipients, protectors of the identity, new keys.

use crate::seal::{OpenedBy, Protection};
use crate::secret::Secret;
use crate::stream::{Recipient, RecipientUse};
use crate::vault::Vault;
use crate::vault::protectors::MAIN;
use crate::vault::recovery::RecoveryChange;
use crate::vault::rekey::NextIdentity;
use crate::vault::unlock::UnlockBy;
use crate::wire::{
    Actor, Done, Escrowed, Fault, Identities, IdentityAdd, IdentityList, IdentityRemove, ProtectorInfo, Recipients,
    RecoveryAdd, RecoveryEscrow, RecoveryList, RecoveryRemove, Rekey, Rekeyed, Resealed, Serve,
};

impl Serve<RecoveryAdd> for Vault {
    fn serve(&self, actor: &Actor, asked: RecoveryAdd) -> Result<Resealed, Fault> {
        let change = if asked.only { RecoveryChange::Only } else { RecoveryChange::Add };
        Ok(Resealed { blobs: self.change_recovery(&self.admin(actor)?, &asked.recipient, change)? })
    }
}

impl Serve<RecoveryRemove> for Vault {
    fn serve(&self, actor: &Actor, asked: RecoveryRemove) -> Result<Resealed, Fault> {
        let blobs = self.change_recovery(&self.admin(actor)?, &asked.recipient, RecoveryChange::Remove)?;
        Ok(Resealed { blobs })
    }
}

impl Serve<RecoveryList> for Vault {
    fn serve(&self, actor: &Actor, RecoveryList {}: RecoveryList) -> Result<Recipients, Fault> {
        self.admin(actor)?;
        Ok(Recipients { recipients: self.recovery_recipients()? })
    }
}

impl Serve<RecoveryEscrow> for Vault {
    fn serve(&self, actor: &Actor, RecoveryEscrow {}: RecoveryEscrow) -> Result<Escrowed, Fault> {
        Ok(Escrowed { escrow: self.take_escrow(&self.admin(actor)?)? })
    }
}

impl Serve<IdentityAdd> for Vault {
    fn serve(&self, actor: &Actor, add: IdentityAdd) -> Result<Done, Fault> {
        let caller = self.admin(actor)?;
        let current = current(&add.old_passphrase, &add.old_identity)?;
        let name = add.name.as_deref().unwrap_or(MAIN);
        let recipient = add.recipient.as_deref().map(|text| Recipient::parse(text, RecipientUse::Identity)).transpose();
        let recipient = recipient.map_err(|e| Fault::Usage(e.to_string()))?;
        let with = match (&add.passphrase, &recipient) {
            (Some(passphrase), None) => Protection::Passphrase(passphrase),
            (None, Some(recipient)) => Protection::Recipient(recipient),
            _ => return Err(Fault::Usage("give exactly one of passphrase and recipient".into())),
        };
        self.protect(&caller, &current, name, &with, add.replace)?;
        Ok(Done {})
    }
}

impl Serve<IdentityRemove> for Vault {
    fn serve(&self, actor: &Actor, asked: IdentityRemove) -> Result<Done, Fault> {
        self.unprotect(&self.admin(actor)?, &asked.name)?;
        Ok(Done {})
    }
}

impl Serve<IdentityList> for Vault {
    fn serve(&self, actor: &Actor, IdentityList {}: IdentityList) -> Result<Identities, Fault> {
        self.admin(actor)?;
        let info = |(name, opened_by)| ProtectorInfo {
            name,
            opened_by: match opened_by {
                OpenedBy::Passphrase => "passphrase",
                OpenedBy::Recipient => "recipient",
                OpenedBy::Token => "token",
                OpenedBy::Nothing => "nothing",
                OpenedBy::Unknown => "unknown",
            }
            .into(),
        };
        Ok(Identities { protectors: self.protectors()?.into_iter().map(info).collect() })
    }
}

impl Serve<Rekey> for Vault {
    fn serve(&self, actor: &Actor, rekey: Rekey) -> Result<Rekeyed, Fault> {
        let caller = self.admin(actor)?;
        let current = current(&rekey.old_passphrase, &rekey.old_identity)?;
        let next = match (&rekey.passphrase, &rekey.identity) {
            (Some(passphrase), None) => NextIdentity::Passphrase(passphrase),
            (None, Some(text)) => NextIdentity::KeptByCaller(text),
            _ => return Err(Fault::Usage("give exactly one of passphrase and identity".into())),
        };
        let done = self.rekey(&caller, &current, &next, rekey.drop_others);
        if done.is_err() {
            // What is left of it takes room; if that fails too, the next unlock sees to it.
            let _ = self.finish_rekey();
        }
        let done = done?;
        Ok(Rekeyed { blobs: done.blobs, recipient: done.recipient, dropped: done.dropped })
    }
}

/// What opens the identity now.
fn current<'a>(passphrase: &'a Option<Secret>, identity: &'a Option<Secret>) -> Result<UnlockBy<'a>, Fault> {
    match (passphrase, identity) {
        (Some(passphrase), None) => Ok(UnlockBy::Passphrase(passphrase)),
        (None, Some(text)) => Ok(UnlockBy::Identity(text)),
        _ => Err(Fault::Usage("give exactly one of old_passphrase and old_identity".into())),
    }
}
