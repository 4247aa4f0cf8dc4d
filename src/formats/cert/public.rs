//! Public keys, so far that two can be compared and one can check a signature.
//!
//! A key matches a certificate if their public halves are the same numbers, however they are written.

use super::CertError;
use super::der::{self, BIT_STRING, SEQUENCE};
use aws_lc_rs::digest;
use aws_lc_rs::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use pkcs8::SubjectPublicKeyInfoRef;
use pkcs8::der::asn1::{AnyRef, ObjectIdentifier};
use pkcs8::der::{Decode, Encode, Tag, Tagged};
use std::fmt;

const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const RSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const P521: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.35");

/// A curve of NIST's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Curve {
    /// secp256r1
    P256,
    /// secp384r1
    P384,
    /// secp521r1
    P521,
}

impl Curve {
    /// All of them.
    pub(super) const ALL: [Curve; 3] = [Curve::P256, Curve::P384, Curve::P521];

    fn of(oid: ObjectIdentifier) -> Option<Self> {
        [(P256, Curve::P256), (P384, Curve::P384), (P521, Curve::P521)].iter().find(|(o, _)| *o == oid).map(|(_, c)| *c)
    }

    fn oid(self) -> ObjectIdentifier {
        match self {
            Curve::P256 => P256,
            Curve::P384 => P384,
            Curve::P521 => P521,
        }
    }

    /// Bytes of a coordinate.
    fn width(self) -> usize {
        match self {
            Curve::P256 => 32,
            Curve::P384 => 48,
            Curve::P521 => 66,
        }
    }
}

/// A public key.
#[derive(Debug, Clone)]
pub enum PublicKey {
    /// Modulus and exponent, big-endian, without zeros in front.
    Rsa {
        /// n
        modulus: Vec<u8>,
        /// e
        exponent: Vec<u8>,
    },
    /// A point on a curve, as SEC 1 writes it.
    Ec {
        /// On which.
        curve: Curve,
        /// 0x04 x y, or 0x02/0x03 x.
        point: Vec<u8>,
    },
    /// RFC 8410.
    Ed25519(
        /// 32 bytes.
        Vec<u8>,
    ),
    /// Anything else: told apart, never matched with a key of ours.
    Other {
        /// The algorithm's object identifier.
        algorithm: String,
        /// The SubjectPublicKeyInfo.
        spki: Vec<u8>,
    },
}

impl PublicKey {
    /// Reads a SubjectPublicKeyInfo (RFC 5280, 4.1.2.7).
    ///
    /// # Errors
    /// [`CertError::Broken`].
    pub fn from_spki(spki: &[u8]) -> Result<Self, CertError> {
        let broken = |_| CertError::Broken("its public key is not whole");
        let info = SubjectPublicKeyInfoRef::from_der(spki).map_err(broken)?;
        let bits = info.subject_public_key.as_bytes().ok_or(CertError::Broken("its public key is not whole"))?;
        let other = || PublicKey::Other { algorithm: info.algorithm.oid.to_string(), spki: spki.to_vec() };
        Ok(match info.algorithm.oid {
            RSA | RSA_PSS => {
                let key = pkcs1::RsaPublicKey::from_der(bits).map_err(broken)?;
                PublicKey::rsa(key.modulus.as_bytes(), key.public_exponent.as_bytes())
            }
            EC => match info.algorithm.parameters_oid().ok().and_then(Curve::of) {
                Some(curve) => PublicKey::ec(curve, bits)?,
                None => other(),
            },
            ED25519 if bits.len() == 32 => PublicKey::Ed25519(bits.to_vec()),
            _ => other(),
        })
    }

    pub(super) fn rsa(modulus: &[u8], exponent: &[u8]) -> Self {
        let bare = |bytes: &[u8]| bytes.iter().copied().skip_while(|b| *b == 0).collect();
        PublicKey::Rsa { modulus: bare(modulus), exponent: bare(exponent) }
    }

    pub(super) fn ec(curve: Curve, point: &[u8]) -> Result<Self, CertError> {
        let width = curve.width();
        let shaped = match point.first() {
            Some(4) => point.len() == 1 + 2 * width,
            Some(2 | 3) => point.len() == 1 + width,
            _ => false,
        };
        if !shaped {
            return Err(CertError::Broken("its public key is no point of its curve"));
        }
        Ok(PublicKey::Ec { curve, point: point.to_vec() })
    }

    /// The bits of the SubjectPublicKeyInfo's subjectPublicKey.
    pub(super) fn bits(&self) -> Vec<u8> {
        match self {
            PublicKey::Rsa { modulus, exponent } => {
                der::framed(SEQUENCE, &[&der::unsigned(modulus), &der::unsigned(exponent)])
            }
            PublicKey::Ec { point, .. } => point.clone(),
            PublicKey::Ed25519(bytes) => bytes.clone(),
            PublicKey::Other { .. } => Vec::new(),
        }
    }

    /// As SubjectPublicKeyInfo.
    pub fn to_spki(&self) -> Vec<u8> {
        let oid = |oid: ObjectIdentifier| oid.to_der().expect("an object identifier has a DER form");
        let algorithm = match self {
            PublicKey::Rsa { .. } => der::RSA.to_vec(),
            PublicKey::Ec { curve, .. } => der::framed(SEQUENCE, &[&oid(EC), &oid(curve.oid())]),
            PublicKey::Ed25519(_) => der::framed(SEQUENCE, &[&oid(ED25519)]),
            PublicKey::Other { spki, .. } => return spki.clone(),
        };
        der::framed(SEQUENCE, &[&algorithm, &der::framed(BIT_STRING, &[&[0], &self.bits()])])
    }

    /// Whether `signature` over `message` was made by this key with that algorithm (RFC 5280, 4.1.1.2).
    ///
    /// # Errors
    /// [`CertError::Unsupported`] for an algorithm that is not known; [`CertError::BadSignature`].
    pub(super) fn verify(
        &self,
        algorithm: &x509_parser::x509::AlgorithmIdentifier<'_>,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), CertError> {
        let known = self.verification(algorithm);
        let with =
            known.ok_or_else(|| CertError::Unsupported(format!("signature algorithm {}", algorithm.algorithm)))?;
        let bits = self.bits();
        UnparsedPublicKey::new(with, &bits).verify(message, signature).map_err(|_| CertError::BadSignature)
    }

    fn verification(
        &self,
        algorithm: &x509_parser::x509::AlgorithmIdentifier<'_>,
    ) -> Option<&'static dyn VerificationAlgorithm> {
        let oid = algorithm.algorithm.to_id_string();
        Some(match (self, oid.as_str()) {
            (PublicKey::Rsa { .. }, "1.2.840.113549.1.1.5" | "1.3.14.3.2.29") => {
                &signature::RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY
            }
            (PublicKey::Rsa { .. }, "1.2.840.113549.1.1.11") => {
                &signature::RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY
            }
            (PublicKey::Rsa { .. }, "1.2.840.113549.1.1.12") => &signature::RSA_PKCS1_2048_8192_SHA384,
            (PublicKey::Rsa { .. }, "1.2.840.113549.1.1.13") => {
                &signature::RSA_PKCS1_1024_8192_SHA512_FOR_LEGACY_USE_ONLY
            }
            (PublicKey::Rsa { .. }, "1.2.840.113549.1.1.10") => pss(algorithm)?,
            (PublicKey::Ec { curve, .. }, "1.2.840.10045.4.3.2") => match curve {
                Curve::P256 => &signature::ECDSA_P256_SHA256_ASN1,
                Curve::P384 => &signature::ECDSA_P384_SHA256_ASN1,
                Curve::P521 => &signature::ECDSA_P521_SHA256_ASN1,
            },
            (PublicKey::Ec { curve, .. }, "1.2.840.10045.4.3.3") => match curve {
                Curve::P256 => &signature::ECDSA_P256_SHA384_ASN1,
                Curve::P384 => &signature::ECDSA_P384_SHA384_ASN1,
                Curve::P521 => &signature::ECDSA_P521_SHA384_ASN1,
            },
            (PublicKey::Ec { curve, .. }, "1.2.840.10045.4.3.4") => match curve {
                Curve::P256 => &signature::ECDSA_P256_SHA512_ASN1,
                Curve::P384 => &signature::ECDSA_P384_SHA512_ASN1,
                Curve::P521 => &signature::ECDSA_P521_SHA512_ASN1,
            },
            (PublicKey::Ed25519(_), "1.3.101.112") => &signature::ED25519,
            _ => return None,
        })
    }

    /// SHA-256 of the SubjectPublicKeyInfo, in hexadecimal: what keys and requests are told apart by.
    pub fn fingerprint(&self) -> String {
        crate::hex::encode(digest::digest(&digest::SHA256, &self.to_spki()).as_ref())
    }
}

/// RSASSA-PSS by its hash (RFC 4055, 3.1), with a salt as long as the hash. SHA-1, the default, is not taken.
fn pss(algorithm: &x509_parser::x509::AlgorithmIdentifier<'_>) -> Option<&'static dyn VerificationAlgorithm> {
    let params = algorithm.parameters.as_ref()?;
    let params = x509_parser::signature_algorithm::RsaSsaPssParams::try_from(params).ok()?;
    Some(match (params.hash_algorithm_oid().to_id_string().as_str(), params.salt_length()) {
        ("2.16.840.1.101.3.4.2.1", 32) => &signature::RSA_PSS_2048_8192_SHA256,
        ("2.16.840.1.101.3.4.2.2", 48) => &signature::RSA_PSS_2048_8192_SHA384,
        ("2.16.840.1.101.3.4.2.3", 64) => &signature::RSA_PSS_2048_8192_SHA512,
        _ => return None,
    })
}

/// The same numbers. A compressed point is compared by its x and the parity of y.
impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (PublicKey::Rsa { modulus, exponent }, PublicKey::Rsa { modulus: n, exponent: e }) => {
                modulus == n && exponent == e
            }
            (PublicKey::Ec { curve, point }, PublicKey::Ec { curve: c, point: p }) => {
                curve == c && (point == p || compressed(*curve, point) == compressed(*curve, p))
            }
            (PublicKey::Ed25519(a), PublicKey::Ed25519(b)) => a == b,
            (PublicKey::Other { spki, .. }, PublicKey::Other { spki: s, .. }) => spki == s,
            _ => false,
        }
    }
}

impl Eq for PublicKey {}

fn compressed(curve: Curve, point: &[u8]) -> Vec<u8> {
    match (point.first(), point.last()) {
        (Some(4), Some(last)) => [&[2 | (last & 1)], &point[1..=curve.width()]].concat(),
        _ => point.to_vec(),
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PublicKey::Rsa { modulus, .. } => {
                let zeros = modulus.first().map_or(0, |b| b.leading_zeros() as usize);
                write!(f, "rsa-{}", modulus.len() * 8 - zeros)
            }
            PublicKey::Ec { curve: Curve::P256, .. } => f.write_str("ecdsa-p256"),
            PublicKey::Ec { curve: Curve::P384, .. } => f.write_str("ecdsa-p384"),
            PublicKey::Ec { curve: Curve::P521, .. } => f.write_str("ecdsa-p521"),
            PublicKey::Ed25519(_) => f.write_str("ed25519"),
            PublicKey::Other { algorithm, .. } => write!(f, "algorithm {algorithm}"),
        }
    }
}

/// What an AlgorithmIdentifier of a private key says of it.
pub(super) enum KeyAlgorithm {
    Rsa,
    /// The curve, if it is named and known; explicit parameters are for the parser of the key to know again.
    Ec(Option<Curve>),
    Ed25519,
    Other(String),
}

impl KeyAlgorithm {
    pub fn of(oid: ObjectIdentifier, parameters: Option<AnyRef<'_>>) -> Self {
        match oid {
            RSA | RSA_PSS => KeyAlgorithm::Rsa,
            EC => match parameters {
                Some(any) if any.tag() == Tag::ObjectIdentifier => match any.decode_as().ok().and_then(Curve::of) {
                    Some(curve) => KeyAlgorithm::Ec(Some(curve)),
                    None => KeyAlgorithm::Other("its curve".into()),
                },
                _ => KeyAlgorithm::Ec(None),
            },
            ED25519 => KeyAlgorithm::Ed25519,
            other => KeyAlgorithm::Other(format!("algorithm {other}")),
        }
    }
}
