//! Requests for certificates (PKCS#10, RFC 2986).

use super::key::Key;
use super::{AltName, CertError, PublicKey, Subject, to_pem};
use rcgen::{CertificateParams, PublicKeyData, SignatureAlgorithm, SigningKey};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;

/// The longest request, in DER.
const DER_MAX: usize = 64 << 10;
/// Names in one request, at most.
const NAMES_MAX: usize = 100;

/// A request for this key, signed by it, as PEM.
///
/// # Errors
/// [`CertError::Asked`] if a name cannot be in it, [`CertError::Failed`].
pub fn request(key: &Key, subject: &Subject, names: &[AltName]) -> Result<String, CertError> {
    let params = params(subject, names)?;
    let made =
        params.serialize_request(&Signer::of(key)?).map_err(|_| CertError::Failed("no request could be made"))?;
    Ok(to_pem("CERTIFICATE REQUEST", made.der()))
}

/// Subject and names, and nothing else.
pub(super) fn params(subject: &Subject, names: &[AltName]) -> Result<CertificateParams, CertError> {
    if names.len() > NAMES_MAX {
        return Err(CertError::Asked(format!("a certificate has {NAMES_MAX} names at most")));
    }
    let mut params = CertificateParams::default();
    params.distinguished_name = subject.clone().into_inner();
    params.subject_alt_names = names.iter().map(AltName::to_san).collect::<Result<_, _>>()?;
    Ok(params)
}

/// What somebody asks for, and proves that he has the key of.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Whom it is to be about.
    pub subject: Subject,
    /// The names it is to be good for.
    pub names: Vec<AltName>,
    /// The key.
    pub public: PublicKey,
    /// The common name, if there is one.
    pub common_name: Option<String>,
}

impl Asked {
    /// Reads a request in PEM or DER, and checks its signature. Extensions other than names are not looked at: who signs
    /// decides about them.
    ///
    /// # Errors
    /// [`CertError::Broken`], [`CertError::BadSignature`], [`CertError::Unsupported`].
    pub fn read(content: &[u8]) -> Result<Self, CertError> {
        let broken = CertError::Broken("it is not a whole certificate request");
        if content.len() > DER_MAX * 2 {
            return Err(CertError::Broken("it is too long for a certificate request"));
        }
        let decoded;
        let der = match content.first() {
            Some(0x30) => content,
            _ => {
                decoded = super::keyfile::public_blocks(content, &["CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"])?;
                decoded.first().ok_or_else(|| broken.clone())?
            }
        };
        let Ok(([], parsed)) = X509CertificationRequest::from_der(der) else { return Err(broken) };
        let info = &parsed.certification_request_info;
        let public = PublicKey::from_spki(info.subject_pki.raw)?;
        public.verify(&parsed.signature_algorithm, info.raw, &parsed.signature_value.data)?;
        let mut names = Vec::new();
        for extension in parsed.requested_extensions().into_iter().flatten() {
            if let ParsedExtension::SubjectAlternativeName(list) = extension {
                names.extend(list.general_names.iter().take(NAMES_MAX).filter_map(AltName::of));
            }
        }
        let common_name = info.subject.iter_common_name().next().and_then(|cn| cn.as_str().ok()).map(str::to_owned);
        Ok(Asked { subject: Subject::of(&info.subject), names, public, common_name })
    }
}

/// A key as rcgen wants it.
pub(super) struct Signer<'k> {
    key: &'k Key,
    bits: Vec<u8>,
    algorithm: &'static SignatureAlgorithm,
}

impl<'k> Signer<'k> {
    pub fn of(key: &'k Key) -> Result<Self, CertError> {
        let public = Subscriber::of(key.public())?;
        Ok(Signer { key, bits: public.bits, algorithm: public.algorithm })
    }
}

impl PublicKeyData for Signer<'_> {
    fn der_bytes(&self) -> &[u8] {
        &self.bits
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.algorithm
    }
}

impl SigningKey for Signer<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.key.sign(message).map_err(|_| rcgen::Error::RemoteKeyError)
    }
}

/// A public key as rcgen wants it.
pub(super) struct Subscriber {
    bits: Vec<u8>,
    algorithm: &'static SignatureAlgorithm,
}

impl Subscriber {
    pub fn of(public: &PublicKey) -> Result<Self, CertError> {
        use super::Curve;
        let algorithm = match public {
            PublicKey::Rsa { .. } => &rcgen::PKCS_RSA_SHA256,
            PublicKey::Ec { curve: Curve::P256, .. } => &rcgen::PKCS_ECDSA_P256_SHA256,
            PublicKey::Ec { curve: Curve::P384, .. } => &rcgen::PKCS_ECDSA_P384_SHA384,
            PublicKey::Ec { curve: Curve::P521, .. } => &rcgen::PKCS_ECDSA_P521_SHA512,
            PublicKey::Ed25519(_) => &rcgen::PKCS_ED25519,
            PublicKey::Other { algorithm, .. } => {
                return Err(CertError::Unsupported(format!("a key of algorithm {algorithm}")));
            }
        };
        Ok(Subscriber { bits: public.bits(), algorithm })
    }
}

impl PublicKeyData for Subscriber {
    fn der_bytes(&self) -> &[u8] {
        &self.bits
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.algorithm
    }
}
