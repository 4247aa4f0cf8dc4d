//! The door for what is asked about certificates: an admin, and then the use case.

use super::super::Vault;
use crate::wire::{
    Actor, CaCrl, CaInit, CaMade, CaSign, CertAccept, CertAdmin, CertList, CertListing, CertNote, CertRequest,
    CertRequested, CertSelfsign, CertShow, CertShown, CertStore, CertStored, Fault,
};

impl CertAdmin for Vault {
    fn cert_request(&self, actor: &Actor, asked: CertRequest) -> Result<CertRequested, Fault> {
        Ok(self.request_certificate(&self.admin(actor)?, &asked)?)
    }

    fn cert_accept(&self, actor: &Actor, asked: CertAccept) -> Result<CertStored, Fault> {
        Ok(self.accept_certificate(&self.admin(actor)?, &asked)?)
    }

    fn cert_store(&self, actor: &Actor, asked: CertStore) -> Result<CertStored, Fault> {
        Ok(self.store_pair(&self.admin(actor)?, &asked)?)
    }

    fn cert_list(&self, actor: &Actor, asked: CertList) -> Result<CertListing, Fault> {
        self.admin(actor)?;
        Ok(self.list_certificates(&asked)?)
    }

    fn cert_show(&self, actor: &Actor, asked: CertShow) -> Result<CertShown, Fault> {
        self.admin(actor)?;
        Ok(self.show_certificate(&asked.path)?)
    }

    fn cert_selfsign(&self, actor: &Actor, asked: CertSelfsign) -> Result<CertStored, Fault> {
        Ok(self.self_sign(&self.admin(actor)?, &asked)?)
    }

    fn cert_note(&self, actor: &Actor, asked: CertNote) -> Result<(), Fault> {
        Ok(self.note_renewal(&self.admin(actor)?, &asked)?)
    }

    fn ca_init(&self, actor: &Actor, asked: CaInit) -> Result<CertStored, Fault> {
        Ok(self.init_authority(&self.admin(actor)?, &asked)?)
    }

    fn ca_sign(&self, actor: &Actor, asked: CaSign) -> Result<CaMade, Fault> {
        Ok(self.sign_by_authority(&self.admin(actor)?, &asked)?)
    }

    fn ca_crl(&self, actor: &Actor, asked: CaCrl) -> Result<CaMade, Fault> {
        Ok(self.take_back(&self.admin(actor)?, &asked)?)
    }
}
