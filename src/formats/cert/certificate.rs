//! A certificate (RFC 5280): what it says, and whether another one signed it.

use super::public::PublicKey;
use super::{AltName, CertError, Subject, to_pem};
use crate::model::Timestamp;
use aws_lc_rs::digest;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;

/// The longest certificate, in DER.
const DER_MAX: usize = 64 << 10;
/// The most names one certificate is for.
const NAMES_MAX: usize = 1000;

/// A certificate, parsed. Nothing is said of whether it is trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    der: Vec<u8>,
    /// Whom it is about, as `CN=…, O=…`.
    pub subject: String,
    /// Who signed it, as the subject.
    pub issuer: String,
    /// The common name, if there is one.
    pub common_name: Option<String>,
    /// The names it is good for.
    pub names: Vec<AltName>,
    /// Its serial number in hexadecimal, without zeros in front.
    pub serial: String,
    /// Seconds since the epoch.
    pub not_before: i64,
    /// Seconds since the epoch.
    pub not_after: i64,
    /// The key it is for.
    pub public: PublicKey,
    /// Whether it may sign others.
    pub authority: bool,
    /// How many authorities may be between it and the last one below.
    path_len: Option<u32>,
    pub(super) subject_der: Vec<u8>,
    pub(super) issuer_der: Vec<u8>,
}

impl Certificate {
    /// Reads one in DER.
    ///
    /// # Errors
    /// [`CertError::Broken`].
    pub fn from_der(der: &[u8]) -> Result<Self, CertError> {
        let broken = CertError::Broken("it is not a whole certificate");
        if der.len() > DER_MAX {
            return Err(CertError::Broken("it is too long for a certificate"));
        }
        let Ok(([], parsed)) = X509Certificate::from_der(der) else { return Err(broken) };
        let mut names = Vec::new();
        let (mut authority, mut path_len) = (false, None);
        let mut may_sign = true;
        for extension in parsed.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::SubjectAlternativeName(list) => {
                    names.extend(list.general_names.iter().take(NAMES_MAX).filter_map(AltName::of));
                }
                ParsedExtension::BasicConstraints(constraints) => {
                    (authority, path_len) = (constraints.ca, constraints.path_len_constraint);
                }
                ParsedExtension::KeyUsage(usage) => may_sign = usage.key_cert_sign(),
                ParsedExtension::ParseError { .. } => return Err(broken),
                _ => {}
            }
        }
        let common_name = parsed.subject().iter_common_name().next().and_then(|cn| cn.as_str().ok()).map(str::to_owned);
        Ok(Certificate {
            subject: parsed.subject().to_string(),
            issuer: parsed.issuer().to_string(),
            common_name,
            names,
            serial: serial(parsed.raw_serial()),
            not_before: parsed.validity().not_before.timestamp(),
            not_after: parsed.validity().not_after.timestamp(),
            public: PublicKey::from_spki(parsed.public_key().raw)?,
            // Version 1 knows no extensions; as roots such certificates are still about.
            authority: (authority && may_sign) || (parsed.version().0 == 0 && is_self_issued(&parsed)),
            path_len,
            subject_der: parsed.subject().as_raw().to_vec(),
            issuer_der: parsed.issuer().as_raw().to_vec(),
            der: der.to_vec(),
        })
    }

    /// Its bytes.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// As PEM.
    pub fn to_pem(&self) -> String {
        to_pem("CERTIFICATE", &self.der)
    }

    /// SHA-256 of the whole, in hexadecimal.
    pub fn fingerprint(&self) -> String {
        crate::hex::encode(digest::digest(&digest::SHA256, &self.der).as_ref())
    }

    /// What it is called: the common name, else its first name.
    pub fn called(&self) -> Option<String> {
        self.common_name.clone().filter(|cn| !cn.is_empty()).or_else(|| self.names.first().map(AltName::value))
    }

    /// Whom it is about, for another one like it.
    pub fn subject(&self) -> Subject {
        let (_, parsed) = X509Certificate::from_der(&self.der).expect("it was parsed before");
        Subject::of(parsed.subject())
    }

    /// Whether subject and issuer are one.
    pub fn is_self_issued(&self) -> bool {
        self.subject_der == self.issuer_der
    }

    /// Whether `issuer` signed this one and may do so; `below` authorities lie between this one and the end of the chain.
    ///
    /// # Errors
    /// [`CertError::Chain`] with the reason, [`CertError::BadSignature`], [`CertError::Unsupported`].
    pub fn check_issued_by(&self, issuer: &Certificate, below: usize) -> Result<(), CertError> {
        if self.issuer_der != issuer.subject_der {
            return Err(CertError::Chain(format!("'{}' is issued by another than '{}'", self.subject, issuer.subject)));
        }
        let itself = self.der == issuer.der;
        if !issuer.authority && !itself {
            return Err(CertError::Chain(format!("'{}' is no authority", issuer.subject)));
        }
        if issuer.path_len.is_some_and(|most| below > most as usize) && !itself {
            return Err(CertError::Chain(format!("'{}' allows no chain as long as this", issuer.subject)));
        }
        let (_, parsed) = X509Certificate::from_der(&self.der).expect("it was parsed before");
        issuer.public.verify(&parsed.signature_algorithm, parsed.tbs_certificate.as_ref(), &parsed.signature_value.data)
    }

    /// Whether it is in time at `now`, seconds since the epoch.
    ///
    /// # Errors
    /// [`CertError::Chain`] says since when not, or from when on.
    pub fn check_time(&self, now: i64) -> Result<(), CertError> {
        if self.not_after <= now {
            return Err(CertError::Chain(format!("'{}' has expired, {}", self.subject, date(self.not_after))));
        }
        if self.not_before > now + super::SKEW {
            return Err(CertError::Chain(format!("'{}' is not valid before {}", self.subject, date(self.not_before))));
        }
        Ok(())
    }
}

pub(super) fn date(at: i64) -> String {
    Timestamp::of_secs(at).to_second()
}

pub(super) fn serial(bytes: &[u8]) -> String {
    let first = bytes.iter().position(|b| *b != 0).unwrap_or(bytes.len().saturating_sub(1));
    crate::hex::encode(&bytes[first..])
}

fn is_self_issued(parsed: &X509Certificate<'_>) -> bool {
    parsed.subject().as_raw() == parsed.issuer().as_raw()
}
