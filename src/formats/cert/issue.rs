//! Making certificates: self-signed ones, and a small authority of one's own for labs. No policy, no OCSP.

use super::certificate::date;
use super::request::{Asked, Signer, Subscriber, params};
use super::{AltName, CertError, Certificate, Key, Subject, to_pem};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyIdMethod, KeyUsagePurpose, RevocationReason, RevokedCertParams, SerialNumber,
};
use time::OffsetDateTime;

const DAY: i64 = 86_400;
/// So much earlier than now a certificate is valid: clocks differ.
const BACKDATED: i64 = 300;
/// Revoked certificates in one list, at most.
const REVOKED_MAX: usize = 10_000;

/// A certificate that its own key signs. `now` is in seconds since the epoch.
///
/// # Errors
/// [`CertError::Asked`] for names or a time that cannot be, [`CertError::Failed`].
pub fn self_signed(
    key: &Key,
    subject: &Subject,
    names: &[AltName],
    days: u32,
    now: i64,
) -> Result<Certificate, CertError> {
    let mut params = params(subject, names)?;
    for_service(&mut params, key.public());
    lasts(&mut params, now, now + i64::from(days) * DAY)?;
    let made = params.self_signed(&Signer::of(key)?).map_err(|_| CertError::Failed("no certificate could be made"))?;
    Certificate::from_der(made.der())
}

/// An authority: its certificate and its key.
pub struct Authority<'k> {
    certificate: Certificate,
    key: &'k Key,
}

impl<'k> Authority<'k> {
    /// A new one, for this key.
    ///
    /// # Errors
    /// As [`self_signed`].
    pub fn init(key: &'k Key, subject: &Subject, days: u32, now: i64) -> Result<Self, CertError> {
        let mut params = params(subject, &[])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.key_identifier_method = KeyIdMethod::Sha256;
        lasts(&mut params, now, now + i64::from(days) * DAY)?;
        let made =
            params.self_signed(&Signer::of(key)?).map_err(|_| CertError::Failed("no certificate could be made"))?;
        Ok(Authority { certificate: Certificate::from_der(made.der())?, key })
    }

    /// One that is there.
    ///
    /// # Errors
    /// [`CertError::Mismatch`]; [`CertError::Chain`] if the certificate is no authority's.
    pub fn of(certificate: Certificate, key: &'k Key) -> Result<Self, CertError> {
        if certificate.public != *key.public() {
            return Err(CertError::Mismatch);
        }
        if !certificate.authority {
            return Err(CertError::Chain(format!("'{}' is no authority", certificate.subject)));
        }
        Ok(Authority { certificate, key })
    }

    /// Its certificate.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// Signs what was asked for: the names, but never that it be an authority. It does not last longer than the authority.
    ///
    /// # Errors
    /// [`CertError::Chain`] if the authority has expired; as [`self_signed`].
    pub fn sign(&self, asked: &Asked, days: u32, now: i64) -> Result<Certificate, CertError> {
        self.certificate.check_time(now)?;
        let subject = match (asked.subject.is_empty(), asked.names.first()) {
            (true, Some(name)) => Subject::common(&name.value()),
            (true, None) => return Err(CertError::Asked("the request has no name at all".into())),
            (false, _) => asked.subject.clone(),
        };
        let mut params = params(&subject, &asked.names)?;
        for_service(&mut params, &asked.public);
        params.use_authority_key_identifier_extension = true;
        lasts(&mut params, now, (now + i64::from(days) * DAY).min(self.certificate.not_after))?;
        let made = params
            .signed_by(&Subscriber::of(&asked.public)?, &self.issuer()?)
            .map_err(|_| CertError::Failed("no certificate could be made"))?;
        Certificate::from_der(made.der())
    }

    /// A list of what it takes back, as PEM, for `days` days. `number` is higher in each list than in the one before.
    ///
    /// # Errors
    /// As [`Authority::sign`].
    pub fn crl(&self, revoked: &[Revoked], number: u64, days: u32, now: i64) -> Result<String, CertError> {
        if revoked.len() > REVOKED_MAX {
            return Err(CertError::Asked(format!("a list has {REVOKED_MAX} serial numbers at most")));
        }
        let entry = |r: &Revoked| -> Result<RevokedCertParams, CertError> {
            let serial =
                serial_bytes(&r.serial).ok_or_else(|| CertError::Asked("a serial number is hexadecimal".into()))?;
            Ok(RevokedCertParams {
                serial_number: SerialNumber::from_slice(&serial),
                revocation_time: at(r.at)?,
                reason_code: Some(RevocationReason::Unspecified),
                invalidity_date: None,
            })
        };
        let params = CertificateRevocationListParams {
            this_update: at(now)?,
            next_update: at(now + i64::from(days) * DAY)?,
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(entry).collect::<Result<_, _>>()?,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let made = params.signed_by(&self.issuer()?).map_err(|_| CertError::Failed("no list could be made"))?;
        Ok(to_pem("X509 CRL", made.der()))
    }

    fn issuer(&self) -> Result<Issuer<'static, Signer<'k>>, CertError> {
        let der = self.certificate.der().to_vec();
        Issuer::from_ca_cert_der(&der.into(), Signer::of(self.key)?)
            .map_err(|_| CertError::Unsupported("this authority's certificate".into()))
    }
}

/// A certificate that is taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revoked {
    /// Its serial number, in hexadecimal.
    pub serial: String,
    /// Since when, in seconds since the epoch.
    pub at: i64,
}

/// What TLS needs of a certificate, on either side.
fn for_service(params: &mut CertificateParams, public: &super::PublicKey) {
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    if matches!(public, super::PublicKey::Rsa { .. }) {
        params.key_usages.push(KeyUsagePurpose::KeyEncipherment);
    }
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
}

fn lasts(params: &mut CertificateParams, now: i64, until: i64) -> Result<(), CertError> {
    if until <= now {
        return Err(CertError::Asked(format!("it would not be valid for a moment: until {}", date(until))));
    }
    let mut serial = [0u8; 16];
    aws_lc_rs::rand::fill(&mut serial).map_err(|_| CertError::Failed("there are no random numbers"))?;
    serial[0] = serial[0] & 0x7f | 0x40; // positive, and always as long
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.not_before = at(now - BACKDATED)?;
    params.not_after = at(until)?;
    Ok(())
}

fn at(seconds: i64) -> Result<OffsetDateTime, CertError> {
    OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| CertError::Asked("a time beyond the year 9999".into()))
}

/// The bytes of a serial number: with colons or without, its first digit left out or not.
fn serial_bytes(text: &str) -> Option<Vec<u8>> {
    let text = text.replace(':', "");
    if text.is_empty() || text.len() > 64 {
        return None;
    }
    crate::hex::decode(&if text.len().is_multiple_of(2) { text } else { format!("0{text}") })
}
