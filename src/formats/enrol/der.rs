//! What a PEM label promises, and whether bytes of DER keep it. Parses only what borrows: no copy of a key is made.

use pkcs8::der::asn1::{AnyRef, ObjectIdentifier, OctetStringRef, UintRef};
use pkcs8::der::{Decode, Reader, Result as DerResult, SliceReader, Tagged};
use pkcs8::{AlgorithmIdentifierRef, PrivateKeyInfo, SubjectPublicKeyInfoRef};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

/// What counts of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// Certificate, CRL, PKCS#7.
    Certificate,
    PrivateKey,
    /// Parameters, requests, public keys, the unknown.
    Other,
}

/// A label, known or not.
#[derive(Clone, Copy)]
pub(crate) enum Label<'a> {
    Known(&'static Rule),
    Unknown(&'a [u8]),
}

/// What a known label promises.
pub(crate) struct Rule {
    label: &'static str,
    what: What,
    whole: fn(&[u8]) -> bool,
}

const fn rule(label: &'static str, what: What, whole: fn(&[u8]) -> bool) -> Rule {
    Rule { label, what, whole }
}

/// Labels of RFC 7468, OpenSSL (PEM_read(3)), OpenSSH, OpenVPN and OpenPGP.
static RULES: [Rule; 24] = [
    rule("CERTIFICATE", What::Certificate, certificate),
    rule("X509 CERTIFICATE", What::Certificate, certificate),
    rule("TRUSTED CERTIFICATE", What::Certificate, trusted_certificate),
    rule("X509 CRL", What::Certificate, crl),
    rule("PKCS7", What::Certificate, pkcs7),
    rule("CMS", What::Certificate, pkcs7),
    rule("PRIVATE KEY", What::PrivateKey, pkcs8_key),
    rule("ENCRYPTED PRIVATE KEY", What::PrivateKey, encrypted_pkcs8_key),
    rule("RSA PRIVATE KEY", What::PrivateKey, rsa_key),
    rule("EC PRIVATE KEY", What::PrivateKey, ec_key),
    rule("DSA PRIVATE KEY", What::PrivateKey, dsa_key),
    rule("OPENSSH PRIVATE KEY", What::PrivateKey, openssh_key),
    rule("OpenVPN Static key V1", What::PrivateKey, anything),
    rule("OpenVPN tls-crypt-v2 client key", What::PrivateKey, anything),
    rule("OpenVPN tls-crypt-v2 server key", What::PrivateKey, anything),
    rule("PGP PRIVATE KEY BLOCK", What::PrivateKey, anything),
    rule("PGP PUBLIC KEY BLOCK", What::Other, anything),
    rule("CERTIFICATE REQUEST", What::Other, request),
    rule("NEW CERTIFICATE REQUEST", What::Other, request),
    rule("PUBLIC KEY", What::Other, |der| SubjectPublicKeyInfoRef::from_der(der).is_ok()),
    rule("RSA PUBLIC KEY", What::Other, |der| pkcs1::RsaPublicKey::from_der(der).is_ok()),
    rule("EC PARAMETERS", What::Other, |der| AnyRef::from_der(der).is_ok()),
    rule("DH PARAMETERS", What::Other, integers),
    rule("X9.42 DH PARAMETERS", What::Other, |der| sequence(der, |_| Ok(()), Tail::Any)),
];

impl<'a> Label<'a> {
    pub fn of(label: &'a [u8]) -> Self {
        RULES.iter().find(|r| r.label.as_bytes() == label).map_or(Label::Unknown(label), Label::Known)
    }

    /// What may be shown: a label that is not on the list may be anything, also a secret.
    pub fn shown(&self) -> &'static str {
        match self {
            Label::Known(rule) => rule.label,
            Label::Unknown(_) => "an unknown label",
        }
    }

    /// Whether the body is hex instead of base64.
    pub fn is_hex(&self) -> bool {
        self.shown() == "OpenVPN Static key V1"
    }

    /// Whether it is OpenPGP's armour, with its headers and checksum.
    pub fn is_openpgp(&self) -> bool {
        match self {
            Label::Known(rule) => rule.label.starts_with("PGP "),
            Label::Unknown(label) => label.starts_with(b"PGP "),
        }
    }

    /// Whether decoded bytes keep the promise. Of an encrypted body nothing can be said but that it is there; nor of an
    /// unknown label's, which counts as a private key if it calls itself one.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self, bytes: &[u8], encrypted: bool) -> Result<What, &'static str> {
        match self {
            Label::Known(rule) if encrypted || (rule.whole)(bytes) => Ok(rule.what),
            Label::Known(_) => Err("what it holds is not what its label says, or is not whole"),
            Label::Unknown(label) if label.ends_with(b"PRIVATE KEY") => Ok(What::PrivateKey),
            Label::Unknown(_) => Ok(What::Other),
        }
    }
}

/// Whether a file is one certificate, CRL or PKCS#7 in DER.
pub(super) fn certificate_file(der: &[u8]) -> bool {
    certificate(der) || crl(der) || pkcs7(der)
}

/// Whether a file is one private key in DER.
pub(super) fn private_key_file(der: &[u8]) -> bool {
    pkcs8_key(der) || encrypted_pkcs8_key(der) || rsa_key(der) || ec_key(der) || dsa_key(der)
}

fn anything(_: &[u8]) -> bool {
    true
}

fn certificate(der: &[u8]) -> bool {
    x509_parser::parse_x509_certificate(der).is_ok_and(|(rest, _)| rest.is_empty())
}

/// OpenSSL's own: the certificate, and how it is trusted.
fn trusted_certificate(der: &[u8]) -> bool {
    match x509_parser::parse_x509_certificate(der) {
        Ok(([], _)) => true,
        Ok((rest, _)) => AnyRef::from_der(rest).is_ok(),
        Err(_) => false,
    }
}

fn crl(der: &[u8]) -> bool {
    x509_parser::parse_x509_crl(der).is_ok_and(|(rest, _)| rest.is_empty())
}

fn request(der: &[u8]) -> bool {
    X509CertificationRequest::from_der(der).is_ok_and(|(rest, _)| rest.is_empty())
}

/// ContentInfo (RFC 5652): a type of content, and the content.
fn pkcs7(der: &[u8]) -> bool {
    sequence(der, |r| ObjectIdentifier::decode(r).map(drop), Tail::Any)
}

fn pkcs8_key(der: &[u8]) -> bool {
    let Ok(key) = PrivateKeyInfo::from_der(der) else { return false };
    // rsaEncryption, id-ecPublicKey, and RFC 8410's X25519 to Ed448; of others only the frame is known.
    match key.algorithm.oid.to_string().as_str() {
        "1.2.840.113549.1.1.1" => rsa_key(key.private_key),
        "1.2.840.10045.2.1" => ec_key(key.private_key),
        "1.3.101.110" | "1.3.101.111" | "1.3.101.112" | "1.3.101.113" => {
            OctetStringRef::from_der(key.private_key).is_ok()
        }
        _ => true,
    }
}

/// EncryptedPrivateKeyInfo (RFC 5958), whatever the cipher: PBES1 is still about.
fn encrypted_pkcs8_key(der: &[u8]) -> bool {
    let fields = |r: &mut SliceReader<'_>| {
        AlgorithmIdentifierRef::decode(r)?;
        OctetStringRef::decode(r).map(drop)
    };
    sequence(der, fields, Tail::None)
}

fn rsa_key(der: &[u8]) -> bool {
    pkcs1::RsaPrivateKey::from_der(der).is_ok()
}

/// ECPrivateKey (RFC 5915), with explicit parameters too.
fn ec_key(der: &[u8]) -> bool {
    let fields = |r: &mut SliceReader<'_>| {
        let version = u8::decode(r)?;
        let key = OctetStringRef::decode(r)?;
        if version == 1 && !key.is_empty() { Ok(()) } else { Err(pkcs8::der::Tag::Integer.value_error()) }
    };
    sequence(der, fields, Tail::Any)
}

/// Version, p, q, g, public, private.
fn dsa_key(der: &[u8]) -> bool {
    let fields = |r: &mut SliceReader<'_>| (0..6).try_for_each(|_| UintRef::decode(r).map(drop));
    sequence(der, fields, Tail::None)
}

/// DHParameter (PKCS#3): prime, base, perhaps a length.
fn integers(der: &[u8]) -> bool {
    let fields = |r: &mut SliceReader<'_>| (0..2).try_for_each(|_| UintRef::decode(r).map(drop));
    sequence(der, fields, Tail::Any)
}

/// What may follow the fields that are looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tail {
    None,
    /// Any well-formed values.
    Any,
}

/// Whether it is one SEQUENCE, wholly, with these fields first.
fn sequence(der: &[u8], fields: impl FnOnce(&mut SliceReader<'_>) -> DerResult<()>, tail: Tail) -> bool {
    let parse = || -> DerResult<()> {
        let outer = AnyRef::from_der(der)?;
        outer.tag().assert_eq(pkcs8::der::Tag::Sequence)?;
        let mut inner = SliceReader::new(outer.value())?;
        fields(&mut inner)?;
        while tail == Tail::Any && !inner.is_finished() {
            AnyRef::decode(&mut inner)?;
        }
        inner.finish(())
    };
    parse().is_ok()
}

/// openssh-key-v1 (PROTOCOL.key of OpenSSH): magic, cipher, kdf, its options, how many, public keys, the private part.
fn openssh_key(bytes: &[u8]) -> bool {
    fn string<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
        let (len, tail) = rest.split_first_chunk::<4>()?;
        let (value, tail) = tail.split_at_checked(u32::from_be_bytes(*len) as usize)?;
        *rest = tail;
        Some(value)
    }
    let parse = || -> Option<bool> {
        let mut rest = bytes.strip_prefix(b"openssh-key-v1\0")?;
        let _cipher = string(&mut rest)?;
        let _kdf = string(&mut rest)?;
        let _options = string(&mut rest)?;
        let (keys, tail) = rest.split_first_chunk::<4>()?;
        rest = tail;
        for _ in 0..u32::from_be_bytes(*keys) {
            string(&mut rest)?;
        }
        let private = string(&mut rest)?;
        // An AEAD cipher appends its tag behind the private part.
        Some(!private.is_empty() && rest.len() <= 16)
    };
    parse().unwrap_or(false)
}
