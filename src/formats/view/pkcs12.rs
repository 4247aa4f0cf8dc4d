//! A key, its certificate and the chain as PKCS#12 (RFC 7292), for Java, NSS and Windows.

use super::built_in::without_line_end;
use super::pair::{EC, Fit, RSA, fit};
use super::pem::{self, Block};
use super::{Out, Part, ViewError, content};
use crate::secret::Secret;
use p12_keystore::{Certificate, EncryptionAlgorithm, KeyStore, KeyStoreEntry, MacAlgorithm, PrivateKeyChain};
use pkcs8::spki::AlgorithmIdentifierRef;
use pkcs8::{PrivateKeyInfo, SecretDocument};
use sha1::{Digest, Sha1};
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

/// Rounds of PBKDF2, as `openssl pkcs12 -export` has them: every open pays for them, and the store protects the content.
const ITERATIONS: u64 = 2048;
/// What the entry is called if the certificate has no common name.
const NAME: &str = "pinfold";

/// `parts` are key, certificate, chain if there is one, password.
pub(super) fn compose(parts: &[Part<'_>], has_chain: bool, mut out: Out) -> Result<Secret, ViewError> {
    let (key, certs, password) = match parts {
        [key, cert, password] if !has_chain => (key, [Some(cert), None], password),
        [key, cert, chain, password] if has_chain => (key, [Some(cert), Some(chain)], password),
        _ => return Err(ViewError::Missing("a source".into())),
    };
    let text = std::str::from_utf8(without_line_end(password.content.expose()))
        .ok()
        .filter(|text| !text.is_empty() && !text.contains(['\n', '\0']))
        .ok_or_else(|| content(password, "is not one line of text"))?;
    let block = private_key(key)?;
    let mut chain: Vec<Certificate> = Vec::new();
    for part in certs.into_iter().flatten() {
        let blocks = pem::blocks(part.content.expose()).map_err(|what| content(part, what))?;
        let before = chain.len();
        for block in blocks.iter().filter(|block| block.is_certificate()) {
            let der = block.der().ok_or_else(|| content(part, "has a certificate that is not base64"))?;
            let certificate = Certificate::from_der(&der).map_err(|_| content(part, "has a broken certificate"))?;
            if !chain.iter().any(|known| known.as_der() == certificate.as_der()) {
                chain.push(certificate);
            }
        }
        if chain.len() == before && before == 0 {
            return Err(content(part, "has no certificate"));
        }
    }
    let leaf = chain.first().ok_or_else(|| ViewError::Missing("a certificate".into()))?;
    if fit(&block, leaf.as_der()) == Fit::No {
        return Err(ViewError::Mismatch);
    }
    let name = common_name(leaf.as_der()).unwrap_or_else(|| NAME.into());
    let id = Sha1::digest(leaf.as_der());
    let document = as_pkcs8(&block).ok_or_else(|| content(key, "is encrypted, or no key that PKCS#12 can have"))?;
    let mut store = KeyStore::new();
    let entry = PrivateKeyChain::new(document.as_bytes(), id, chain);
    store.add_entry(&name, KeyStoreEntry::PrivateKeyChain(entry));
    let made = store
        .writer(text)
        .encryption_algorithm(EncryptionAlgorithm::PbeWithHmacSha256AndAes256)
        .encryption_iterations(ITERATIONS)
        .mac_algorithm(MacAlgorithm::HmacSha256)
        .mac_iterations(ITERATIONS)
        .write();
    let made = Zeroizing::new(made.map_err(|_| content(key, "cannot be put into PKCS#12"))?);
    out.push(&made)?;
    Ok(out.done())
}

fn private_key<'a>(part: &Part<'a>) -> Result<Block<'a>, ViewError> {
    let blocks = pem::blocks(part.content.expose()).map_err(|what| content(part, what))?;
    let mut keys = blocks.into_iter().filter(Block::is_private_key);
    match (keys.next(), keys.next()) {
        (Some(key), None) => Ok(key),
        (Some(_), Some(_)) => Err(content(part, "has more than one private key")),
        (None, _) => Err(content(part, "has no private key")),
    }
}

fn as_pkcs8(key: &Block<'_>) -> Option<SecretDocument> {
    if key.is_encrypted() {
        return None;
    }
    let der = key.der()?;
    let wrapped = match key.label {
        b"PRIVATE KEY" => PrivateKeyInfo::try_from(&**der).ok()?,
        b"RSA PRIVATE KEY" => {
            let null = pkcs8::der::asn1::AnyRef::NULL;
            PrivateKeyInfo::new(AlgorithmIdentifierRef { oid: RSA, parameters: Some(null) }, &der)
        }
        b"EC PRIVATE KEY" => {
            let curve = sec1::EcPrivateKey::try_from(&**der).ok()?.parameters?.named_curve()?;
            let algorithm = AlgorithmIdentifierRef { oid: EC, parameters: Some((&curve).into()) };
            return SecretDocument::try_from(PrivateKeyInfo::new(algorithm, &der)).ok();
        }
        _ => return None,
    };
    SecretDocument::try_from(wrapped).ok()
}

fn common_name(der: &[u8]) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let name = certificate.subject().iter_common_name().next()?.as_str().ok()?;
    let name: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
    (!name.is_empty()).then_some(name)
}
