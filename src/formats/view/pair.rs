//! Whether a private key is that of a certificate.

use super::pem::Block;
use aws_lc_rs::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use pkcs8::ObjectIdentifier;
use x509_parser::prelude::{FromDer, X509Certificate};

/// rsaEncryption (RFC 8017, appendix A.1).
pub(super) const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
/// id-ecPublicKey (RFC 5480, section 2.1.1).
pub(super) const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
/// id-Ed25519 (RFC 8410, section 3).
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

/// What was found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    /// The certificate is this key's.
    Yes,
    /// It is another's.
    No,
    /// It cannot be told: the key is encrypted, or of a kind that is not known here.
    Unknown,
}

/// Whether the certificate is this key's.
pub(super) fn fit(key: &Block<'_>, certificate: &[u8]) -> Fit {
    if key.is_encrypted() {
        return Fit::Unknown;
    }
    let Some(der) = key.der() else { return Fit::Unknown };
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return Fit::Unknown };
    let theirs = &*certificate.public_key().subject_public_key.data;
    let fits = match key.label {
        b"RSA PRIVATE KEY" => rsa(&der, theirs),
        b"EC PRIVATE KEY" => ec(&der, None, theirs),
        b"PRIVATE KEY" => any(&der, theirs),
        _ => None,
    };
    match fits {
        Some(true) => Fit::Yes,
        Some(false) => Fit::No,
        None => Fit::Unknown,
    }
}

fn any(der: &[u8], theirs: &[u8]) -> Option<bool> {
    let key = pkcs8::PrivateKeyInfo::try_from(der).ok()?;
    match key.algorithm.oid {
        RSA => rsa(key.private_key, theirs),
        EC => ec(key.private_key, key.algorithm.parameters_oid().ok(), theirs),
        ED25519 => Some(Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).ok()?.public_key().as_ref() == theirs),
        _ => None,
    }
}

fn rsa(der: &[u8], theirs: &[u8]) -> Option<bool> {
    let ours = pkcs1::RsaPrivateKey::try_from(der).ok()?;
    // A certificate of another algorithm has no such structure.
    let Ok(theirs) = pkcs1::RsaPublicKey::try_from(theirs) else { return Some(false) };
    Some(ours.modulus == theirs.modulus && ours.public_exponent == theirs.public_exponent)
}

fn ec(der: &[u8], curve: Option<ObjectIdentifier>, theirs: &[u8]) -> Option<bool> {
    let key = sec1::EcPrivateKey::try_from(der).ok()?;
    // 04: the point uncompressed, as everybody writes it.
    if theirs.first() != Some(&4) {
        return Some(false);
    }
    if let Some(ours) = key.public_key
        && ours.first() == Some(&4)
    {
        return Some(ours == theirs);
    }
    let curve = curve.or_else(|| key.parameters.and_then(|p| p.named_curve()))?;
    let algorithm = match curve.to_string().as_str() {
        "1.2.840.10045.3.1.7" => &signature::ECDSA_P256_SHA256_ASN1_SIGNING,
        "1.3.132.0.34" => &signature::ECDSA_P384_SHA384_ASN1_SIGNING,
        "1.3.132.0.35" => &signature::ECDSA_P521_SHA512_ASN1_SIGNING,
        _ => return None,
    };
    Some(EcdsaKeyPair::from_private_key_der(algorithm, der).ok()?.public_key().as_ref() == theirs)
}
