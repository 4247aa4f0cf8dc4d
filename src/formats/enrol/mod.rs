//! What content is, and whether it is whole: the judge of a commit, and of a rename into place.
//!
//! Owns the rules by a name's suffix. It fetches nothing, keeps nothing, and says nothing of the content but its kind and,
//! in a [`Refusal`], labels from a list of its own. It does not judge whether a certificate is in time or trusted.
//!
//! | name | must be |
//! |---|---|
//! | `*.pem` | whole PEM, at least one block of any label |
//! | `*.crt`, `*.cer` | the same with a certificate, CRL or PKCS#7 in it; or one of these as DER |
//! | `*.key` | the same with a private key in it; or a private key as DER; or a key text: see `text` |
//! | anything else | anything |
//!
//! Suffixes count in any case of letters. A raw key of random bytes (LUKS) wants another name than `*.key`.

pub(crate) mod der;
pub(crate) mod pem;
mod text;

use crate::model::Name;
use crate::secret::Secret;
use crate::sys::arena::ArenaFull;
use std::fmt;
use thiserror::Error;

/// The most PEM blocks in one secret: the system's whole trust store has some 150.
const BLOCKS_MAX: usize = 1000;

/// What content turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ContentKind {
    /// Its name promises nothing, so nothing was looked at.
    Opaque,
    /// Certificates, CRLs or PKCS#7, no private key.
    Certificates,
    /// Private keys, no certificate.
    PrivateKey,
    /// Both.
    KeyAndCertificates,
    /// A key that is neither PEM nor DER.
    KeyText(KeyText),
    /// PEM without either: parameters, requests, public keys, unknown labels.
    OtherPem,
}

/// Keys that are text of their own kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyText {
    /// 32 bytes in base64 (wg(8)).
    WireGuard,
    /// Identities of age: `AGE-SECRET-KEY-1…`, `AGE-PLUGIN-…-1…`.
    Age,
    /// `key` statements of named.conf(5), as in rndc.key.
    Tsig,
    /// KEY or DNSKEY records (RFC 4034), as dnssec-keygen(8) writes in K*.key: the public half.
    DnsRecord,
}

/// Why content is refused. Shows what is wrong in one line, never content.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Nothing, where a certificate or key was promised.
    #[error("it is empty, and its name promises {0}")]
    Empty(Promise),
    /// No PEM block and nothing else that the name allows.
    #[error("it is not {0}")]
    NotIt(Promise),
    /// Whole PEM, but without what the name promises.
    #[error("it is PEM without {0}: it holds {1}")]
    Lacks(Promise, Labels),
    /// The frame of a PEM block is broken.
    #[error("line {line}: {what}")]
    Frame {
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        what: &'static str,
    },
    /// What is inside a PEM block is broken.
    #[error("block {block} ({label}): {what}")]
    Block {
        /// Counted from 1.
        block: usize,
        /// Its label, if it is a known one.
        label: &'static str,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Over 1000 blocks.
    #[error("it has more than {BLOCKS_MAX} PEM blocks")]
    TooMany,
    /// It could not be looked at.
    #[error(transparent)]
    Memory(#[from] ArenaFull),
}

/// What a name's suffix promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promise {
    /// `.pem`
    Pem,
    /// `.crt`, `.cer`
    Certificate,
    /// `.key`
    Key,
}

/// The known labels of the blocks that were found, without repetition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labels(Vec<&'static str>);

/// Whether the name promises anything, so that content under it is looked at.
pub fn applies(name: &Name) -> bool {
    Promise::of(name).is_some()
}

/// Looks at content that is to be committed under `name`.
///
/// # Errors
/// [`Refusal`] if the name promises something that the content is not, or not wholly.
pub fn check(name: &Name, content: &[u8]) -> Result<ContentKind, Refusal> {
    let Some(promise) = Promise::of(name) else { return Ok(ContentKind::Opaque) };
    if content.iter().all(u8::is_ascii_whitespace) {
        return Err(Refusal::Empty(promise));
    }
    let blocks = pem::blocks(content)?;
    if blocks.is_empty() {
        return without_pem(promise, content);
    }
    let mut held = Held::default();
    for (i, block) in blocks.iter().enumerate() {
        let whole = check_block(block)?;
        let what = whole.map_err(|what| Refusal::Block { block: i + 1, label: block.label.shown(), what })?;
        held.add(what, block.label.shown());
    }
    held.kept(promise)
}

impl Promise {
    fn of(name: &Name) -> Option<Self> {
        let (stem, suffix) = name.as_str().rsplit_once('.')?;
        if stem.is_empty() {
            return None; // a hidden file called ".key" has no suffix
        }
        match suffix.to_ascii_lowercase().as_str() {
            "pem" => Some(Promise::Pem),
            "crt" | "cer" => Some(Promise::Certificate),
            "key" => Some(Promise::Key),
            _ => None,
        }
    }
}

/// The outer result is about us, the inner one about the block.
fn check_block(block: &pem::Block<'_>) -> Result<Result<der::What, &'static str>, Refusal> {
    if block.label.is_hex() {
        return Ok(pem::openvpn_key(block.body).map(|()| der::What::PrivateKey));
    }
    let mut decoded = Secret::zeroed(block.body.len())?;
    let mut compact = Secret::zeroed(block.body.len())?;
    let len = match pem::decode(block, compact.expose_mut(), decoded.expose_mut()) {
        Ok(len) => len,
        Err(what) => return Ok(Err(what)),
    };
    Ok(block.label.check(&decoded.expose()[..len], block.encrypted))
}

fn without_pem(promise: Promise, content: &[u8]) -> Result<ContentKind, Refusal> {
    let found = match promise {
        Promise::Pem => None,
        Promise::Certificate => der::certificate_file(content).then_some(ContentKind::Certificates),
        Promise::Key if der::private_key_file(content) => Some(ContentKind::PrivateKey),
        Promise::Key => text::recognise(content).map(ContentKind::KeyText),
    };
    found.ok_or(Refusal::NotIt(promise))
}

/// What the blocks held.
#[derive(Default)]
struct Held {
    certificates: bool,
    keys: bool,
    labels: Vec<&'static str>,
}

impl Held {
    fn add(&mut self, what: der::What, label: &'static str) {
        self.certificates |= what == der::What::Certificate;
        self.keys |= what == der::What::PrivateKey;
        if !self.labels.contains(&label) {
            self.labels.push(label);
        }
    }

    fn kept(self, promise: Promise) -> Result<ContentKind, Refusal> {
        let kept = match promise {
            Promise::Pem => true,
            Promise::Certificate => self.certificates,
            Promise::Key => self.keys,
        };
        match (self.certificates, self.keys) {
            _ if !kept => Err(Refusal::Lacks(promise, Labels(self.labels))),
            (true, true) => Ok(ContentKind::KeyAndCertificates),
            (true, false) => Ok(ContentKind::Certificates),
            (false, true) => Ok(ContentKind::PrivateKey),
            (false, false) => Ok(ContentKind::OtherPem),
        }
    }
}

impl fmt::Display for ContentKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ContentKind::Opaque => "opaque",
            ContentKind::Certificates => "certificates",
            ContentKind::PrivateKey => "private key",
            ContentKind::KeyAndCertificates => "private key and certificates",
            ContentKind::KeyText(KeyText::WireGuard) => "WireGuard key",
            ContentKind::KeyText(KeyText::Age) => "age identity",
            ContentKind::KeyText(KeyText::Tsig) => "TSIG key",
            ContentKind::KeyText(KeyText::DnsRecord) => "DNS key record",
            ContentKind::OtherPem => "other PEM",
        })
    }
}

impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Promise::Pem => "PEM",
            Promise::Certificate => "a certificate (PEM or DER)",
            Promise::Key => "a private key (PEM, DER, WireGuard, age, TSIG or DNSKEY; other keys want another name)",
        })
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}

#[cfg(test)]
mod tests;
