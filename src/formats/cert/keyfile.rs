//! Everything that is in a file of keys and certificates, whatever its encoding: PEM, DER, PKCS#7, PKCS#12.
//!
//! Owns the sorting by label and shape. What cannot be read is listed with the reason and does not keep the rest away.

use super::{CertError, Certificate, Key, encrypted};
use crate::enrol::pem;
use crate::secret::Secret;
use pkcs8::der::asn1::{AnyRef, ObjectIdentifier, OctetStringRef};
use pkcs8::der::{Decode, Reader, SliceReader, Tag, Tagged};
use pkcs8::{AlgorithmIdentifierRef, PrivateKeyInfo};

/// Keys and certificates in one file, at most.
const ITEMS_MAX: usize = 1000;
/// The largest file.
pub const FILE_MAX: usize = 16 << 20;

const DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.1");
const SIGNED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.2");
const ENCRYPTED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.6");
const KEY_BAG: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.12.10.1.1");
const SHROUDED_KEY_BAG: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.12.10.1.2");
const CERT_BAG: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.12.10.1.3");
const X509: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.22.1");

/// What was found.
#[derive(Debug, Default)]
pub struct Pile {
    /// Private keys, in the order of the file.
    pub keys: Vec<Key>,
    /// Certificates, in the order of the file.
    pub certificates: Vec<Certificate>,
    /// What could not be read.
    pub unread: Vec<Unread>,
}

/// Something that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    /// What it is, if that is known: a label from a list of pinfold's own.
    pub what: &'static str,
    /// Why.
    pub why: CertError,
}

impl Pile {
    /// Reads a file's content. The passphrase is for whatever in it is encrypted.
    ///
    /// # Errors
    /// [`CertError::Frame`] if PEM's frame is broken, [`CertError::Broken`] if it is nothing that is known. What is wrong
    /// with single items is in [`Pile::unread`].
    pub fn read(content: &[u8], passphrase: Option<&Secret>) -> Result<Self, CertError> {
        if content.len() > FILE_MAX {
            return Err(CertError::Broken("it is too long"));
        }
        let mut pile = Pile::default();
        // DER first: its bytes may look like anything.
        if content.first() == Some(&0x30) && pile.der(content, passphrase) {
            return Ok(pile);
        }
        let blocks = pem::blocks(content).map_err(|refusal| CertError::Frame(refusal.to_string()))?;
        if blocks.is_empty() {
            return Err(CertError::Broken("it is neither PEM nor DER of a key or certificate"));
        }
        for block in &blocks {
            let label = block.label.shown();
            let read = pile.block(label, block, passphrase);
            pile.note(label, read);
        }
        Ok(pile)
    }

    fn note(&mut self, what: &'static str, read: Result<(), CertError>) {
        if let Err(why) = read {
            self.unread.push(Unread { what, why });
        }
    }

    fn full(&self) -> Result<(), CertError> {
        if self.keys.len() + self.certificates.len() < ITEMS_MAX {
            Ok(())
        } else {
            Err(CertError::Broken("there are more than 1000 keys and certificates"))
        }
    }

    fn block(&mut self, label: &str, block: &pem::Block<'_>, passphrase: Option<&Secret>) -> Result<(), CertError> {
        let wanted = matches!(
            label,
            "CERTIFICATE" | "X509 CERTIFICATE" | "TRUSTED CERTIFICATE" | "PKCS7" | "CMS" | "PRIVATE KEY"
        ) || label.ends_with("PRIVATE KEY");
        if !wanted {
            return Ok(());
        }
        self.full()?;
        let decoded = decoded(block)?;
        let mut body = decoded;
        if let Some(info) = block.dek_info {
            let info = std::str::from_utf8(info).map_err(|_| CertError::Broken("its DEK-Info is not whole"))?;
            body = encrypted::traditional(info, body.expose(), passphrase.ok_or(CertError::NeedsPassphrase)?)?;
        }
        let key = match label {
            "PRIVATE KEY" => Key::from_pkcs8(body.expose()),
            "RSA PRIVATE KEY" => Key::from_pkcs1(body.expose()),
            "EC PRIVATE KEY" => Key::from_sec1(body.expose()),
            "ENCRYPTED PRIVATE KEY" => self::shrouded(body.expose(), passphrase),
            "PKCS7" | "CMS" => return self.pkcs7(body.expose()),
            "TRUSTED CERTIFICATE" => {
                // OpenSSL's own: what it is trusted for follows.
                let len = first_len(body.expose()).ok_or(CertError::Broken("it is not a whole certificate"))?;
                self.certificates.push(Certificate::from_der(&body.expose()[..len])?);
                return Ok(());
            }
            "CERTIFICATE" | "X509 CERTIFICATE" => {
                self.certificates.push(Certificate::from_der(body.expose())?);
                return Ok(());
            }
            _ => return Err(CertError::Unsupported("this kind of key".into())),
        };
        // Wrongly opened, traditional encryption can look well padded.
        self.keys.push(match (key, block.dek_info) {
            (Err(CertError::Broken(_)), Some(_)) => return Err(CertError::WrongPassphrase),
            (key, _) => key?,
        });
        Ok(())
    }

    /// Whether it is any of the DER forms; then what is in it was taken.
    fn der(&mut self, der: &[u8], passphrase: Option<&Secret>) -> bool {
        if let Ok(certificate) = Certificate::from_der(der) {
            self.certificates.push(certificate);
            return true;
        }
        let read = match content_type(der) {
            Some(SIGNED_DATA) => {
                let read = self.pkcs7(der);
                self.note("PKCS7", read);
                return true;
            }
            _ if is_pfx(der) => {
                let read = self.pfx(der, passphrase);
                self.note("PKCS#12", read);
                return true;
            }
            _ if encrypted::frame(der).is_some() => self::shrouded(der, passphrase),
            _ => Key::from_der(der),
        };
        match read {
            Ok(key) => self.keys.push(key),
            Err(CertError::Broken(_)) => return false,
            Err(why) => self.unread.push(Unread { what: "private key", why }),
        }
        true
    }

    /// The certificates of a SignedData (RFC 5652, 5.1), whoever signed it.
    fn pkcs7(&mut self, der: &[u8]) -> Result<(), CertError> {
        let broken = || CertError::Broken("it is not whole PKCS#7");
        let content = content_info(der, SIGNED_DATA).ok_or_else(broken)?;
        let mut inner = SliceReader::new(sequence(content).ok_or_else(broken)?).map_err(|_| broken())?;
        while !inner.is_finished() {
            let part = AnyRef::decode(&mut inner).map_err(|_| broken())?;
            if u8::from(part.tag()) == 0xa0 {
                let mut certificates = SliceReader::new(part.value()).map_err(|_| broken())?;
                while !certificates.is_finished() {
                    self.full()?;
                    let one = certificates.tlv_bytes().map_err(|_| broken())?;
                    let read = Certificate::from_der(one);
                    match read {
                        Ok(certificate) => self.certificates.push(certificate),
                        Err(why) => self.unread.push(Unread { what: "CERTIFICATE", why }),
                    }
                }
            }
        }
        Ok(())
    }

    /// PFX (RFC 7292, 4). Its MAC is not looked at: a key is judged by its certificate, whoever put them together.
    fn pfx(&mut self, der: &[u8], passphrase: Option<&Secret>) -> Result<(), CertError> {
        let broken = || CertError::Broken("it is not whole PKCS#12 in DER");
        let mut outer = SliceReader::new(sequence(der).ok_or_else(broken)?).map_err(|_| broken())?;
        u8::decode(&mut outer).map_err(|_| broken())?;
        let info = outer.tlv_bytes().map_err(|_| broken())?;
        let safe = content_info(info, DATA)
            .ok_or(CertError::Unsupported("PKCS#12 that is not protected by a passphrase".into()))?;
        let safe = OctetStringRef::from_der(safe).map_err(|_| broken())?;
        let mut parts = SliceReader::new(sequence(safe.as_bytes()).ok_or_else(broken)?).map_err(|_| broken())?;
        while !parts.is_finished() {
            let part = parts.tlv_bytes().map_err(|_| broken())?;
            match content_type(part) {
                Some(DATA) => {
                    let content = content_info(part, DATA).ok_or_else(broken)?;
                    let bags = OctetStringRef::from_der(content).map_err(|_| broken())?;
                    self.bags(bags.as_bytes(), passphrase)?;
                }
                Some(ENCRYPTED_DATA) => {
                    let content = content_info(part, ENCRYPTED_DATA).ok_or_else(broken)?;
                    let opened = encrypted_data(content, passphrase)?;
                    self.bags(opened.expose(), passphrase)?;
                }
                _ => return Err(CertError::Unsupported("a part of this PKCS#12".into())),
            }
        }
        Ok(())
    }

    /// SafeContents: each bag has a type, a value, perhaps attributes.
    fn bags(&mut self, der: &[u8], passphrase: Option<&Secret>) -> Result<(), CertError> {
        // Decrypted with a wrong passphrase it is anything.
        let broken = || CertError::WrongPassphrase;
        let mut bags = SliceReader::new(sequence(der).ok_or_else(broken)?).map_err(|_| broken())?;
        while !bags.is_finished() {
            self.full()?;
            let bag = AnyRef::decode(&mut bags).map_err(|_| broken())?;
            let mut inner = SliceReader::new(bag.value()).map_err(|_| broken())?;
            let kind = ObjectIdentifier::decode(&mut inner).map_err(|_| broken())?;
            let value = AnyRef::decode(&mut inner).map_err(|_| broken())?;
            match kind {
                KEY_BAG => {
                    let read = Key::from_pkcs8(value.value()).map(|key| self.keys.push(key));
                    self.note("private key", read);
                }
                SHROUDED_KEY_BAG => {
                    let read = self::shrouded(value.value(), passphrase).map(|key| self.keys.push(key));
                    self.note("private key", read);
                }
                CERT_BAG => {
                    let read = cert_bag(value.value()).map(|c| self.certificates.push(c));
                    self.note("CERTIFICATE", read);
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// The decoded bodies of public blocks with one of these labels.
pub(super) fn public_blocks(content: &[u8], labels: &[&str]) -> Result<Vec<Vec<u8>>, CertError> {
    let blocks = pem::blocks(content).map_err(|refusal| CertError::Frame(refusal.to_string()))?;
    let wanted = blocks.iter().filter(|b| labels.contains(&b.label.shown()));
    wanted.map(|b| decoded(b).map(|s| s.expose().to_vec())).collect()
}

fn decoded(block: &pem::Block<'_>) -> Result<Secret, CertError> {
    let mut decoded = Secret::zeroed(block.body.len())?;
    let mut compact = Secret::zeroed(block.body.len())?;
    let len = pem::decode(block, compact.expose_mut(), decoded.expose_mut()).map_err(CertError::Broken)?;
    decoded.resize(len)?;
    Ok(decoded)
}

fn shrouded(der: &[u8], passphrase: Option<&Secret>) -> Result<Key, CertError> {
    if encrypted::frame(der).is_none() {
        return Err(CertError::Broken("it is not a whole encrypted key"));
    }
    let opened = encrypted::pkcs8(der, passphrase.ok_or(CertError::NeedsPassphrase)?)?;
    Key::from_pkcs8(opened.expose())
}

/// EncryptedData (RFC 5652, 8): version, and what is encrypted how.
fn encrypted_data(der: &[u8], passphrase: Option<&Secret>) -> Result<Secret, CertError> {
    let broken = || CertError::Broken("it is not whole PKCS#12 in DER");
    let mut data = SliceReader::new(sequence(der).ok_or_else(broken)?).map_err(|_| broken())?;
    u8::decode(&mut data).map_err(|_| broken())?;
    let info = AnyRef::decode(&mut data).map_err(|_| broken())?;
    let mut info = SliceReader::new(info.value()).map_err(|_| broken())?;
    ObjectIdentifier::decode(&mut info).map_err(|_| broken())?;
    let algorithm = AlgorithmIdentifierRef::decode(&mut info).map_err(|_| broken())?;
    let content = AnyRef::decode(&mut info).map_err(|_| broken())?;
    if u8::from(content.tag()) != 0x80 {
        return Err(CertError::Unsupported("PKCS#12 in pieces (BER)".into()));
    }
    encrypted::scheme(&algorithm, content.value(), passphrase.ok_or(CertError::NeedsPassphrase)?)
}

/// CertBag: a type, and an X.509 certificate in an OCTET STRING.
fn cert_bag(der: &[u8]) -> Result<Certificate, CertError> {
    let broken = || CertError::Broken("it is not a whole certificate");
    let mut inner = SliceReader::new(sequence(der).ok_or_else(broken)?).map_err(|_| broken())?;
    if ObjectIdentifier::decode(&mut inner).map_err(|_| broken())? != X509 {
        return Err(CertError::Unsupported("this kind of certificate".into()));
    }
    let tagged = AnyRef::decode(&mut inner).map_err(|_| broken())?;
    let octets = OctetStringRef::from_der(tagged.value()).map_err(|_| broken())?;
    Certificate::from_der(octets.as_bytes())
}

/// The inside of a SEQUENCE that is all there is.
fn sequence(der: &[u8]) -> Option<&[u8]> {
    let any = AnyRef::from_der(der).ok()?;
    (any.tag() == Tag::Sequence).then(|| any.value())
}

/// The length of the first value, head and all.
fn first_len(der: &[u8]) -> Option<usize> {
    let mut reader = SliceReader::new(der).ok()?;
    reader.tlv_bytes().ok().map(<[u8]>::len)
}

/// The type of a ContentInfo (RFC 5652, 3).
fn content_type(der: &[u8]) -> Option<ObjectIdentifier> {
    ObjectIdentifier::decode(&mut SliceReader::new(sequence(der)?).ok()?).ok()
}

/// The content of a ContentInfo of this type.
fn content_info(der: &[u8], kind: ObjectIdentifier) -> Option<&[u8]> {
    let mut inner = SliceReader::new(sequence(der)?).ok()?;
    if ObjectIdentifier::decode(&mut inner).ok()? != kind {
        return None;
    }
    let explicit = AnyRef::decode(&mut inner).ok()?;
    (u8::from(explicit.tag()) == 0xa0).then(|| explicit.value())
}

/// Version 3 and a ContentInfo; a private key has other versions.
fn is_pfx(der: &[u8]) -> bool {
    let parse = || -> Option<bool> {
        let mut inner = SliceReader::new(sequence(der)?).ok()?;
        let version = u8::decode(&mut inner).ok()?;
        Some(version == 3 && content_type(inner.tlv_bytes().ok()?).is_some())
    };
    parse().unwrap_or(false) && PrivateKeyInfo::from_der(der).is_err()
}
