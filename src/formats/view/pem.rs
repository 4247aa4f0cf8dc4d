//! PEM blocks of a source: where they are and what they are called.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use zeroize::Zeroizing;

/// The most blocks one source has.
const MAX_BLOCKS: usize = 4096;

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// One block.
#[derive(Clone, Copy)]
pub(super) struct Block<'a> {
    pub label: &'a [u8],
    /// From its BEGIN to its END, both included, without the last line end.
    pub text: &'a [u8],
    /// What is between.
    body: &'a [u8],
}

impl Block<'_> {
    pub fn is_private_key(&self) -> bool {
        self.label.ends_with(b"PRIVATE KEY")
    }

    pub fn is_certificate(&self) -> bool {
        matches!(self.label, b"CERTIFICATE" | b"X509 CERTIFICATE" | b"TRUSTED CERTIFICATE")
    }

    pub fn is_crl(&self) -> bool {
        self.label == b"X509 CRL"
    }

    /// Whether its content is encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.label.starts_with(b"ENCRYPTED") || self.body.starts_with(b"Proc-Type:")
    }

    /// The DER; `None` if it is not base64.
    pub fn der(&self) -> Option<Zeroizing<Vec<u8>>> {
        let mut compact = Zeroizing::new(Vec::with_capacity(self.body.len()));
        compact.extend(self.body.iter().copied().filter(|b| !b.is_ascii_whitespace()));
        // Given its room at once: growing would leave copies.
        let mut der = Zeroizing::new(vec![0; compact.len() / 4 * 3 + 3]);
        let len = BASE64.decode_slice(&compact, &mut der).ok()?;
        der.truncate(len);
        Some(der)
    }
}

/// Every block; what is between them does not matter.
///
/// # Errors
/// What is wrong: a block without its end.
pub(super) fn blocks(content: &[u8]) -> Result<Vec<Block<'_>>, &'static str> {
    let mut blocks = Vec::new();
    let mut open: Option<(&[u8], usize, usize)> = None;
    let mut at = 0;
    for raw in content.split_inclusive(|b| *b == b'\n') {
        let line = raw.trim_ascii_end();
        match (open, framed(line, b"-----BEGIN "), framed(line, b"-----END ")) {
            (None, Some(label), _) => open = Some((label, at, at + raw.len())),
            (Some((label, from, body)), _, Some(end)) if end == label => {
                if blocks.len() == MAX_BLOCKS {
                    return Err("has too many PEM blocks");
                }
                blocks.push(Block { label, text: &content[from..at + line.len()], body: &content[body..at] });
                open = None;
            }
            (None, None, None) | (Some(_), None, None) => {}
            _ => return Err("has PEM blocks that are not whole"),
        }
        at += raw.len();
    }
    if open.is_some() { Err("has a PEM block without its end") } else { Ok(blocks) }
}

fn framed<'a>(line: &'a [u8], begin: &[u8]) -> Option<&'a [u8]> {
    line.strip_prefix(begin)?.strip_suffix(b"-----")
}

/// A block as OpenSSL writes it, without the last line end.
pub(super) fn encode(label: &str, der: &[u8]) -> String {
    let base64 = BASE64.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in base64.as_bytes().chunks(64) {
        text.extend(line.iter().map(|b| char::from(*b)));
        text.push('\n');
    }
    text.push_str(&format!("-----END {label}-----"));
    text
}
