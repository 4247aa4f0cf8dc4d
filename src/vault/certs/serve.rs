//! The door for what is asked about certificates: an admin, and then the use case.

use super::super::Vault;
use crate::wire::{
    Actor, CaCrl, CaInit, CaMade, CaSign, CertAccept, CertList, CertListing, CertNote, CertRequest, CertRequested,
    CertSelfsign, CertShow, CertShown, CertStore, CertStored, Done, Fault, Serve,
};

/// Days a certificate may be asked for, at most.
const DAYS_MAX: u32 = 36_500;

impl Serve<CertRequest> for Vault {
    fn serve(&self, actor: &Actor, asked: CertRequest) -> Result<CertRequested, Fault> {
        Ok(self.request_certificate(&self.admin(actor)?, &asked)?)
    }
}

impl Serve<CertAccept> for Vault {
    fn serve(&self, actor: &Actor, asked: CertAccept) -> Result<CertStored, Fault> {
        Ok(self.accept_certificate(&self.admin(actor)?, &asked)?)
    }
}

impl Serve<CertStore> for Vault {
    fn serve(&self, actor: &Actor, asked: CertStore) -> Result<CertStored, Fault> {
        Ok(self.store_pair(&self.admin(actor)?, &asked)?)
    }
}

impl Serve<CertList> for Vault {
    fn serve(&self, actor: &Actor, asked: CertList) -> Result<CertListing, Fault> {
        self.admin(actor)?;
        Ok(self.list_certificates(&asked)?)
    }
}

impl Serve<CertShow> for Vault {
    fn serve(&self, actor: &Actor, asked: CertShow) -> Result<CertShown, Fault> {
        self.admin(actor)?;
        Ok(self.show_certificate(&asked.path)?)
    }
}

impl Serve<CertSelfsign> for Vault {
    fn serve(&self, actor: &Actor, asked: CertSelfsign) -> Result<CertStored, Fault> {
        let caller = self.admin(actor)?;
        bounded(asked.days)?;
        Ok(self.self_sign(&caller, &asked)?)
    }
}

impl Serve<CertNote> for Vault {
    fn serve(&self, actor: &Actor, asked: CertNote) -> Result<Done, Fault> {
        self.note_renewal(&self.admin(actor)?, &asked)?;
        Ok(Done {})
    }
}

impl Serve<CaInit> for Vault {
    fn serve(&self, actor: &Actor, asked: CaInit) -> Result<CertStored, Fault> {
        let caller = self.admin(actor)?;
        bounded(asked.days)?;
        Ok(self.init_authority(&caller, &asked)?)
    }
}

impl Serve<CaSign> for Vault {
    fn serve(&self, actor: &Actor, asked: CaSign) -> Result<CaMade, Fault> {
        let caller = self.admin(actor)?;
        bounded(asked.days)?;
        Ok(self.sign_by_authority(&caller, &asked)?)
    }
}

impl Serve<CaCrl> for Vault {
    fn serve(&self, actor: &Actor, asked: CaCrl) -> Result<CaMade, Fault> {
        let caller = self.admin(actor)?;
        bounded(asked.days)?;
        Ok(self.take_back(&caller, &asked)?)
    }
}

fn bounded(days: u32) -> Result<(), Fault> {
    if (1..=DAYS_MAX).contains(&days) { Ok(()) } else { Err(Fault::Usage(format!("days are 1 to {DAYS_MAX}"))) }
}
