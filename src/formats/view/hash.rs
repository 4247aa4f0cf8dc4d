//! Directories under OpenSSL's hash names, as `c_rehash` and `openssl rehash` make them: `HASH.N` for certificates,
//! `HASH.rN` for CRLs, where HASH is of the subject's, or the CRL's issuer's, canonical form.

use super::{Out, Part, ViewError, content, pem};
use crate::secret::Secret;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashSet};
use x509_parser::asn1_rs::Tag;
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate, X509Name};

/// An entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hashed {
    /// Its name, as `9d04f354.0`.
    pub name: String,
    /// Which of the parts it is in.
    pub part: usize,
    /// SHA-256 of its DER: what it is known by within its file.
    pub digest: [u8; 32],
}

/// The entries of a directory over these parts, by name. Parts in which is no certificate and no CRL give none; a
/// certificate that is there twice gives one.
pub fn hashed(parts: &[Part<'_>]) -> Vec<Hashed> {
    let mut seen = HashSet::new();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut entries = Vec::new();
    for (i, part) in parts.iter().enumerate() {
        for item in items(part.content.expose()) {
            let Some(hash) = item.hash() else { continue };
            if !seen.insert(item.digest) {
                continue;
            }
            let stem = if item.is_crl { format!("{hash:08x}.r") } else { format!("{hash:08x}.") };
            let number = counts.entry(stem.clone()).or_default();
            entries.push(Hashed { name: format!("{stem}{number}"), part: i, digest: item.digest });
            *number += 1;
        }
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    entries
}

/// The one with this digest, as PEM.
pub(super) fn entry(digest: &[u8; 32], parts: &[Part<'_>], mut out: Out) -> Result<Secret, ViewError> {
    for part in parts {
        if let Some(item) = items(part.content.expose()).into_iter().find(|item| item.digest == *digest) {
            out.push_lines(&item.text)?;
            return Ok(out.done());
        }
    }
    match parts.first() {
        Some(part) => Err(content(part, "has that certificate no more")),
        None => Err(ViewError::Missing("the source".into())),
    }
}

/// A certificate or CRL of a source.
struct Item {
    is_crl: bool,
    der: Vec<u8>,
    digest: [u8; 32],
    text: Vec<u8>,
}

impl Item {
    fn new(is_crl: bool, der: Vec<u8>, text: Vec<u8>) -> Self {
        Item { is_crl, digest: Sha256::digest(&der).into(), der, text }
    }

    fn hash(&self) -> Option<u32> {
        match self.is_crl {
            true => CertificateRevocationList::from_der(&self.der).ok().and_then(|(_, crl)| name_hash(crl.issuer())),
            // What may follow in a TRUSTED CERTIFICATE says what it is trusted for.
            false => X509Certificate::from_der(&self.der).ok().and_then(|(_, cert)| name_hash(cert.subject())),
        }
    }
}

/// PEM blocks, or the whole as DER. Public, all of it: nothing here needs wiping.
fn items(bytes: &[u8]) -> Vec<Item> {
    if bytes.first() == Some(&0x30) {
        let is_cert = X509Certificate::from_der(bytes).is_ok();
        let label = if is_cert { "CERTIFICATE" } else { "X509 CRL" };
        return vec![Item::new(!is_cert, bytes.to_vec(), pem::encode(label, bytes).into_bytes())];
    }
    let blocks = pem::blocks(bytes).unwrap_or_default();
    let wanted = blocks.iter().filter(|block| block.is_certificate() || block.is_crl());
    wanted.filter_map(|b| Some(Item::new(b.is_crl(), b.der()?.to_vec(), b.text.to_vec()))).collect()
}

/// OpenSSL's `X509_NAME_hash`: the first four bytes, least first, of SHA-1 over the canonical form (x509_name_canon in
/// crypto/x509/x_name.c): each set of attributes encoded anew, with text in lower case, blanks trimmed and collapsed, as
/// UTF8String.
pub(super) fn name_hash(name: &X509Name<'_>) -> Option<u32> {
    let mut canonical = Vec::new();
    for set in name.iter_rdn() {
        let mut attributes = Vec::new();
        for attribute in set.iter() {
            let mut inner = tlv(6, attribute.attr_type().as_bytes());
            let value = attribute.attr_value();
            match text(value.tag(), value.data) {
                Some(text) => inner.extend(tlv(12, &canon(&text))),
                None => inner.extend(tlv(u8::try_from(value.tag().0).ok()?, value.data)),
            }
            attributes.push(tlv(0x30, &inner));
        }
        // The order of a SET OF in DER.
        attributes.sort();
        canonical.extend(tlv(0x31, &attributes.concat()));
    }
    let digest = Sha1::digest(&canonical);
    Some(u32::from_le_bytes([digest[0], digest[1], digest[2], digest[3]]))
}

/// A text of one of the types that are made canonical, as UTF-8.
fn text(tag: Tag, data: &[u8]) -> Option<String> {
    match tag {
        Tag::Utf8String => Some(String::from_utf8_lossy(data).into_owned()),
        // T61 is taken for Latin-1, as OpenSSL does.
        Tag::PrintableString | Tag::T61String | Tag::Ia5String | Tag::VisibleString => {
            Some(data.iter().map(|b| char::from(*b)).collect())
        }
        Tag::BmpString => {
            let units = data.chunks_exact(2).map(|c| u16::from_be_bytes([c[0], c[1]]));
            Some(char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect())
        }
        Tag::UniversalString => {
            let units = data.chunks_exact(4).map(|c| u32::from_be_bytes([c[0], c[1], c[2], c[3]]));
            Some(units.map(|c| char::from_u32(c).unwrap_or(char::REPLACEMENT_CHARACTER)).collect())
        }
        _ => None,
    }
}

fn canon(text: &str) -> Vec<u8> {
    let is_blank = |c: char| matches!(c, ' ' | '\t' | '\n' | '\x0b' | '\x0c' | '\r');
    let words: Vec<&str> = text.split(is_blank).filter(|word| !word.is_empty()).collect();
    words.join(" ").to_ascii_lowercase().into_bytes()
}

fn tlv(tag: u8, value: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match value.len() {
        len @ 0..=127 => out.push(len as u8),
        len => {
            let bytes = len.to_be_bytes();
            let significant = bytes.iter().position(|b| *b != 0).unwrap_or(0);
            out.push(0x80 | (bytes.len() - significant) as u8);
            out.extend(&bytes[significant..]);
        }
    }
    out.extend(value);
    out
}
