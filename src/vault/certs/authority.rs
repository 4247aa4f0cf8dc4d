//! A small authority of one's own: its key never leaves the store, and what it signed is listed beside it.

use super::super::txn::Part as Written;
use super::super::{Vault, VaultError};
use super::{PRIVATE, PUBLIC, VERSION};
use crate::audit;
use crate::caller::Control;
use crate::cert::{Asked, Authority, CertFolder, Certificate, Key, Part, Revoked, Subject};
use crate::model::{HostName, Timestamp};
use crate::wire::{CaCrl, CaInit, CaMade, CaSign, CertStored};
use serde::{Deserialize, Serialize};

/// Certificates an authority signs, at most: it is one for labs.
const ISSUED_MAX: usize = 10_000;

/// What an authority signed and took back.
#[derive(Debug, Serialize, Deserialize)]
struct Issued {
    version: u32,
    /// The number of the last list of those taken back.
    crl_number: u64,
    certificates: Vec<One>,
}

#[derive(Debug, Serialize, Deserialize)]
struct One {
    serial: String,
    subject: String,
    not_after: i64,
    revoked: Option<i64>,
}

impl Vault {
    pub(super) fn init_authority(&self, caller: &Control, asked: &CaInit) -> Result<CertStored, VaultError> {
        let place = CertFolder::authority(asked.name.clone());
        if self.find(&place.part(Part::Key)).is_ok() {
            return Err(VaultError::Exists);
        }
        let subject = match &asked.subject {
            Some(text) => Subject::parse(text)?,
            None => Subject::common(asked.name.as_str()),
        };
        let key = Key::generate(self.type_of_key(asked.key_type, None))?;
        let authority = Authority::init(&key, &subject, asked.days, Timestamp::now().secs)?;
        self.folder(caller, &place.folder(), 0o755)?;
        let (key_pem, cert_pem) = (key.to_pem()?, authority.certificate().to_pem());
        let issued = to_json(&Issued { version: VERSION, crl_number: 0, certificates: Vec::new() });
        let parts = [
            Written { path: place.part(Part::Cert), content: cert_pem.as_bytes(), mode: PUBLIC },
            Written { path: place.part(Part::Key), content: key_pem.expose(), mode: PRIVATE },
            Written { path: place.issued(), content: &issued, mode: PRIVATE },
        ];
        let numbers = self.commit_together(caller, &parts, &[], audit::Operation::Renew)?;
        self.sync()?;
        Ok(CertStored {
            path: place.part(Part::Cert),
            host: None,
            version: numbers[0],
            chain: "self-signed".into(),
            above: 0,
            unused: 0,
            missing: Vec::new(),
            not_after: Timestamp { secs: authority.certificate().not_after, nanos: 0 },
        })
    }

    pub(super) fn sign_by_authority(&self, caller: &Control, asked: &CaSign) -> Result<CaMade, VaultError> {
        let request = Asked::read(&asked.request)?;
        let (place, certificate, key) = self.authority(&asked.name)?;
        let authority = Authority::of(certificate, &key)?;
        let _one_at_a_time = self.one_signs();
        let mut issued = self.issued(&place)?;
        if issued.certificates.len() >= ISSUED_MAX {
            return Err(VaultError::NoSpace("this authority has signed as many certificates as it may"));
        }
        let signed = authority.sign(&request, asked.days, Timestamp::now().secs)?;
        issued.certificates.push(One {
            serial: signed.serial.clone(),
            subject: signed.subject.clone(),
            not_after: signed.not_after,
            revoked: None,
        });
        let text = to_json(&issued);
        let part = Written { path: place.issued(), content: &text, mode: PRIVATE };
        // What is handed out is in the list before.
        self.commit_together(caller, &[part], &[], audit::Operation::Renew)?;
        self.sync()?;
        Ok(CaMade { pem: signed.to_pem() + &authority.certificate().to_pem(), serial: signed.serial })
    }

    pub(super) fn take_back(&self, caller: &Control, asked: &CaCrl) -> Result<CaMade, VaultError> {
        let (place, certificate, key) = self.authority(&asked.name)?;
        let authority = Authority::of(certificate, &key)?;
        let _one_at_a_time = self.one_signs();
        let mut issued = self.issued(&place)?;
        let now = Timestamp::now().secs;
        for serial in &asked.revoke {
            let wanted = serial.replace(':', "").to_ascii_lowercase();
            let one = issued.certificates.iter_mut().find(|one| one.serial == wanted);
            let one = one.ok_or_else(|| VaultError::Invalid(format!("{} did not sign {serial}", asked.name)))?;
            one.revoked.get_or_insert(now);
        }
        issued.crl_number += 1;
        let number = issued.crl_number;
        let revoked = |one: &One| Some(Revoked { serial: one.serial.clone(), at: one.revoked? });
        let revoked: Vec<Revoked> = issued.certificates.iter().filter_map(revoked).collect();
        let pem = authority.crl(&revoked, number, asked.days, now)?;
        let text = to_json(&issued);
        let parts = [
            Written { path: place.crl(), content: pem.as_bytes(), mode: PUBLIC },
            Written { path: place.issued(), content: &text, mode: PRIVATE },
        ];
        self.commit_together(caller, &parts, &[], audit::Operation::Renew)?;
        self.sync()?;
        Ok(CaMade { pem, serial: number.to_string() })
    }

    fn authority(&self, name: &HostName) -> Result<(CertFolder, Certificate, Key), VaultError> {
        let place = CertFolder::authority(name.clone());
        let certificate = self.certificate_at(&place.part(Part::Cert))?.ok_or(VaultError::NotFound)?;
        let key = self.key_at(&place.part(Part::Key))?.ok_or(VaultError::NotFound)?;
        Ok((place, certificate, key))
    }

    fn issued(&self, place: &CertFolder) -> Result<Issued, VaultError> {
        let text = self.text_at(&place.issued())?.ok_or(VaultError::NotFound)?;
        let issued: Issued = serde_json::from_slice(text.expose())
            .map_err(|_| VaultError::Invalid(format!("{} is not a list of this program's", place.issued())))?;
        if issued.version != VERSION {
            return Err(VaultError::Invalid(format!("{} is of an unknown version", place.issued())));
        }
        Ok(issued)
    }

    fn one_signs(&self) -> crate::lock::MutexGuard<'_, (), { crate::lock::rank::ALONE }> {
        self.signing.lock()
    }
}

fn to_json(issued: &Issued) -> Vec<u8> {
    serde_json::to_vec(issued).expect("plain data has a JSON form")
}
