//! A private key: read from whatever encoding it has, made anew, and used to sign. Its bytes are in locked memory.
//!
//! aws-lc has them in its own memory for the moment of a signature, and wipes that.

use super::der;
use super::public::{Curve, KeyAlgorithm, PublicKey};
use super::{CertError, der::OCTET_STRING};
use crate::model::KeyType;
use crate::secret::Secret;
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    self, ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P521_SHA512_ASN1_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RsaKeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use pkcs8::PrivateKeyInfo;
use pkcs8::der::asn1::OctetStringRef;
use pkcs8::der::{Decode, Reader, SliceReader};
use std::fmt;

/// RSA below this is not told from rubbish; aws-lc checks from 2048 bits on.
const RSA_BITS: std::ops::RangeInclusive<usize> = 1024..=8192;
/// The longest private key in DER: RSA of 8192 bits has some 4,700 bytes.
const DER_MAX: usize = 16 << 10;

/// The type a new key has that is to be like this one.
pub fn type_like(public: &PublicKey) -> Option<KeyType> {
    Some(match public {
        PublicKey::Ec { curve: Curve::P256, .. } => KeyType::EcdsaP256,
        PublicKey::Ec { curve: Curve::P384, .. } => KeyType::EcdsaP384,
        PublicKey::Ec { curve: Curve::P521, .. } => KeyType::EcdsaP521,
        PublicKey::Rsa { modulus, .. } if modulus.len() <= 256 => KeyType::Rsa2048,
        PublicKey::Rsa { modulus, .. } if modulus.len() <= 384 => KeyType::Rsa3072,
        PublicKey::Rsa { .. } => KeyType::Rsa4096,
        PublicKey::Ed25519(_) => KeyType::Ed25519,
        PublicKey::Other { .. } => return None,
    })
}

/// A private key.
pub struct Key {
    /// PrivateKeyInfo (RFC 5208), not encrypted.
    pkcs8: Secret,
    public: PublicKey,
}

impl Key {
    /// A new one.
    ///
    /// # Errors
    /// [`CertError::Memory`]; [`CertError::Failed`] if aws-lc makes none.
    pub fn generate(kind: KeyType) -> Result<Self, CertError> {
        let failed = |_| CertError::Failed("no key could be made");
        let rng = SystemRandom::new();
        let rsa = |size| -> Result<Self, CertError> {
            let der = RsaKeyPair::generate(size).and_then(|k| k.as_der()).map_err(failed)?;
            Key::from_pkcs8(der.as_ref())
        };
        match kind {
            KeyType::EcdsaP256 | KeyType::EcdsaP384 | KeyType::EcdsaP521 => {
                let curve = match kind {
                    KeyType::EcdsaP384 => Curve::P384,
                    KeyType::EcdsaP521 => Curve::P521,
                    _ => Curve::P256,
                };
                let der = EcdsaKeyPair::generate_pkcs8(signing(curve), &rng).map_err(failed)?;
                Key::from_pkcs8(der.as_ref())
            }
            KeyType::Rsa2048 => rsa(KeySize::Rsa2048),
            KeyType::Rsa3072 => rsa(KeySize::Rsa3072),
            KeyType::Rsa4096 => rsa(KeySize::Rsa4096),
            KeyType::Ed25519 => {
                let der = Ed25519KeyPair::generate_pkcs8v1(&rng).map_err(failed)?;
                Key::from_pkcs8(der.as_ref())
            }
        }
    }

    /// Reads PrivateKeyInfo (RFC 5208, RFC 5958).
    ///
    /// # Errors
    /// [`CertError::Broken`], [`CertError::Unsupported`].
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, CertError> {
        bounded(der)?;
        let info = PrivateKeyInfo::from_der(der).map_err(|_| CertError::Broken("it is not a whole private key"))?;
        match KeyAlgorithm::of(info.algorithm.oid, info.algorithm.parameters) {
            KeyAlgorithm::Rsa => Ok(Key { public: rsa_public(info.private_key)?, pkcs8: Secret::copy_of(der)? }),
            KeyAlgorithm::Ec(curve) => Key::ec(der, curve),
            KeyAlgorithm::Ed25519 => {
                let seed = OctetStringRef::from_der(info.private_key)
                    .map_err(|_| CertError::Broken("it is not a whole private key"))?;
                Key::ed25519(seed.as_bytes())
            }
            KeyAlgorithm::Other(what) => Err(CertError::Unsupported(what)),
        }
    }

    /// Reads RSAPrivateKey (RFC 8017, A.1.2).
    ///
    /// # Errors
    /// [`CertError::Broken`].
    pub fn from_pkcs1(der: &[u8]) -> Result<Self, CertError> {
        bounded(der)?;
        let public = rsa_public(der)?;
        let front = der::pkcs8_front(der::RSA, der.len());
        let mut pkcs8 = Secret::zeroed(front.len() + der.len())?;
        let (head, body) = pkcs8.expose_mut().split_at_mut(front.len());
        head.copy_from_slice(&front);
        body.copy_from_slice(der);
        Ok(Key { pkcs8, public })
    }

    /// Reads ECPrivateKey (RFC 5915).
    ///
    /// # Errors
    /// [`CertError::Broken`], [`CertError::Unsupported`] for another curve than NIST's three.
    pub fn from_sec1(der: &[u8]) -> Result<Self, CertError> {
        bounded(der)?;
        let parsed = sec1::EcPrivateKey::from_der(der);
        let named = parsed.ok().and_then(|key| key.parameters?.named_curve());
        match named.map(|oid| KeyAlgorithm::of(EC_OID, Some((&oid).into()))) {
            Some(KeyAlgorithm::Other(what)) => Err(CertError::Unsupported(what)),
            Some(KeyAlgorithm::Ec(curve)) => Key::ec(der, curve),
            _ => Key::ec(der, None),
        }
    }

    /// Any private key in DER that is not encrypted. The error is that of PKCS#8, if it is that.
    ///
    /// # Errors
    /// [`CertError::Broken`], [`CertError::Unsupported`].
    pub fn from_der(der: &[u8]) -> Result<Self, CertError> {
        bounded(der)?;
        if PrivateKeyInfo::from_der(der).is_ok() {
            return Key::from_pkcs8(der);
        }
        match Key::from_pkcs1(der) {
            Err(CertError::Broken(_)) if is_sec1(der) => Key::from_sec1(der),
            other => other,
        }
    }

    /// PKCS#8 or SEC 1, named curve or explicit parameters: aws-lc knows both, and checks the point.
    fn ec(der: &[u8], curve: Option<Curve>) -> Result<Self, CertError> {
        let curves: &[Curve] = curve.as_ref().map_or(&Curve::ALL, std::slice::from_ref);
        for curve in curves {
            let Ok(pair) = EcdsaKeyPair::from_private_key_der(signing(*curve), der) else { continue };
            let public = PublicKey::ec(*curve, pair.public_key().as_ref())?;
            let pkcs8 = pair.to_pkcs8v1().map_err(|_| CertError::Failed("the key has no PKCS#8 form"))?;
            return Ok(Key { pkcs8: Secret::copy_of(pkcs8.as_ref())?, public });
        }
        match curve {
            Some(_) => Err(CertError::Broken("it is not a whole private key of its curve")),
            None => Err(CertError::Broken("it is not a whole private key of P-256, P-384 or P-521")),
        }
    }

    fn ed25519(seed: &[u8]) -> Result<Self, CertError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed)
            .map_err(|_| CertError::Broken("it is not a whole Ed25519 key"))?;
        let pkcs8 = pair.to_pkcs8v1().map_err(|_| CertError::Failed("the key has no PKCS#8 form"))?;
        let public = PublicKey::Ed25519(pair.public_key().as_ref().to_vec());
        Ok(Key { pkcs8: Secret::copy_of(pkcs8.as_ref())?, public })
    }

    /// Its public half.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// PrivateKeyInfo, not encrypted.
    pub fn pkcs8(&self) -> &Secret {
        &self.pkcs8
    }

    /// As PEM, `PRIVATE KEY` (RFC 7468, section 10), put together in locked memory.
    ///
    /// # Errors
    /// [`CertError::Memory`].
    pub fn to_pem(&self) -> Result<Secret, CertError> {
        const BEGIN: &[u8] = b"-----BEGIN PRIVATE KEY-----\n";
        const END: &[u8] = b"-----END PRIVATE KEY-----\n";
        let lines = self.pkcs8.expose().chunks(48);
        let body: usize = lines.clone().map(|line| line.len().div_ceil(3) * 4 + 1).sum();
        let mut pem = Secret::zeroed(BEGIN.len() + body + END.len())?;
        let out = pem.expose_mut();
        out[..BEGIN.len()].copy_from_slice(BEGIN);
        let mut at = BEGIN.len();
        for line in lines {
            at += BASE64.encode_slice(line, &mut out[at..]).expect("the line has its place");
            out[at] = b'\n';
            at += 1;
        }
        out[at..].copy_from_slice(END);
        Ok(pem)
    }

    /// Signs, with the hash that goes with the key: SHA-256, for P-384 SHA-384, for P-521 SHA-512.
    ///
    /// # Errors
    /// [`CertError::Failed`] if aws-lc will not: RSA below 2048 bits.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, CertError> {
        let failed = CertError::Failed("the key does not sign");
        let rng = SystemRandom::new();
        let der = self.pkcs8.expose();
        match &self.public {
            PublicKey::Rsa { .. } => {
                let pair = RsaKeyPair::from_pkcs8(der).map_err(|_| failed.clone())?;
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&signature::RSA_PKCS1_SHA256, &rng, message, &mut signature).map_err(|_| failed)?;
                Ok(signature)
            }
            PublicKey::Ec { curve, .. } => {
                let pair = EcdsaKeyPair::from_pkcs8(signing(*curve), der).map_err(|_| failed.clone())?;
                Ok(pair.sign(&rng, message).map_err(|_| failed)?.as_ref().to_vec())
            }
            PublicKey::Ed25519(_) => {
                let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).map_err(|_| failed.clone())?;
                Ok(pair.try_sign(message).map_err(|_| failed)?.as_ref().to_vec())
            }
            PublicKey::Other { .. } => Err(failed),
        }
    }
}

const EC_OID: pkcs8::ObjectIdentifier = pkcs8::ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");

fn signing(curve: Curve) -> &'static EcdsaSigningAlgorithm {
    match curve {
        Curve::P256 => &ECDSA_P256_SHA256_ASN1_SIGNING,
        Curve::P384 => &ECDSA_P384_SHA384_ASN1_SIGNING,
        Curve::P521 => &ECDSA_P521_SHA512_ASN1_SIGNING,
    }
}

fn bounded(der: &[u8]) -> Result<(), CertError> {
    if der.len() > DER_MAX { Err(CertError::Broken("it is too long for a private key")) } else { Ok(()) }
}

/// Of an RSAPrivateKey. From 2048 bits on the parts are checked against each other.
fn rsa_public(pkcs1: &[u8]) -> Result<PublicKey, CertError> {
    let key = pkcs1::RsaPrivateKey::from_der(pkcs1).map_err(|_| CertError::Broken("it is not a whole RSA key"))?;
    let public = PublicKey::rsa(key.modulus.as_bytes(), key.public_exponent.as_bytes());
    let PublicKey::Rsa { modulus, .. } = &public else { unreachable!("it was just made so") };
    let bits = modulus.len() * 8;
    if !RSA_BITS.contains(&bits) {
        return Err(CertError::Unsupported(format!("RSA of {bits} bits")));
    }
    if bits >= 2048 && RsaKeyPair::from_der(pkcs1).is_err() {
        return Err(CertError::Broken("the parts of this RSA key do not belong together"));
    }
    Ok(public)
}

/// Version 1 and an OCTET STRING first.
fn is_sec1(der: &[u8]) -> bool {
    let parse = || -> Option<bool> {
        let any = pkcs8::der::asn1::AnyRef::from_der(der).ok()?;
        let mut inner = SliceReader::new(any.value()).ok()?;
        let version = u8::decode(&mut inner).ok()?;
        Some(version == 1 && inner.peek_byte() == Some(OCTET_STRING))
    };
    parse().unwrap_or(false)
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.public)
    }
}
