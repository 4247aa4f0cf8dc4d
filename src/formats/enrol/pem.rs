//! PEM (RFC 7468, and RFC 1421's headers as OpenSSL still writes them): where the blocks are, and their bytes.

use super::der::Label;
use super::{BLOCKS_MAX, Refusal};
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// Padding as it should be; stray bits in the last letter do no harm and are written by some encoders.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

const BEGIN: &[u8] = b"-----BEGIN ";
const END: &[u8] = b"-----END ";
const DASHES: &[u8] = b"-----";

/// One block: its label, and what is between the headers and its end.
pub(crate) struct Block<'a> {
    pub label: Label<'a>,
    /// Whether a `DEK-Info` header says that the content is encrypted (OpenSSL's traditional way).
    pub encrypted: bool,
    /// What follows `DEK-Info:`: cipher and initialisation vector.
    pub dek_info: Option<&'a [u8]>,
    /// Lines of base64 (or hex), blanks and all.
    pub body: &'a [u8],
}

/// Every block. Text before, between and behind them is allowed, as `openssl pkcs12` writes it.
///
/// # Errors
/// [`Refusal::Frame`] for a block without its end, an end without its block, a line that tries to be either and is
/// not; [`Refusal::TooMany`].
pub(crate) fn blocks(content: &[u8]) -> Result<Vec<Block<'_>>, Refusal> {
    let mut blocks = Vec::new();
    let mut open: Option<(&[u8], usize)> = None; // label, where its body begins
    let mut at = 0;
    let mut line = 0;
    for raw in content.split_inclusive(|b| *b == b'\n') {
        line += 1;
        let frame = |what| Refusal::Frame { line, what };
        let text = raw.trim_ascii_end();
        let (begins, ends) = (label(text, BEGIN), label(text, END));
        match (open, begins, ends) {
            (None, Some(name), _) => open = Some((name, at + raw.len())),
            (Some((name, from)), _, Some(end)) if name == end => {
                if blocks.len() == BLOCKS_MAX {
                    return Err(Refusal::TooMany);
                }
                blocks.push(block(name, &content[from..at]));
                open = None;
            }
            (Some(_), _, Some(_)) => return Err(frame("the block ends with another label than it began with")),
            (Some(_), Some(_), _) => return Err(frame("a block begins before the one before it has ended")),
            (None, _, Some(_)) => return Err(frame("a block ends that has not begun")),
            (_, None, None) if text.starts_with(DASHES) => {
                return Err(frame("it begins with '-----' and is neither a whole BEGIN nor a whole END"));
            }
            (_, None, None) if at + raw.len() == content.len() && !text.is_empty() && BEGIN.starts_with(text) => {
                return Err(frame("a block is cut off in its first line"));
            }
            (_, None, None) => {}
        }
        at += raw.len();
    }
    match open {
        Some(_) => Err(Refusal::Frame { line, what: "the last block has no end: the content is cut off" }),
        None => Ok(blocks),
    }
}

/// Decodes a block's base64. `compact` is scratch, of the body's length at least, as `decoded` is. How many bytes.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn decode(block: &Block<'_>, compact: &mut [u8], decoded: &mut [u8]) -> Result<usize, &'static str> {
    let mut len = 0;
    for line in block.body.split(|b| *b == b'\n') {
        // OpenPGP's armour (RFC 9580) has a checksum in a line of its own.
        if block.label.is_openpgp() && line.trim_ascii().len() == 5 && line.starts_with(b"=") {
            continue;
        }
        for b in line.iter().filter(|b| !b.is_ascii_whitespace()) {
            compact[len] = *b;
            len += 1;
        }
    }
    match BASE64.decode_slice(&compact[..len], decoded) {
        Ok(0) => Err("it is empty"),
        Ok(n) => Ok(n),
        Err(_) => Err("its base64 is damaged or cut off"),
    }
}

/// The body of `OpenVPN Static key V1`: 256 bytes in hex.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn openvpn_key(body: &[u8]) -> Result<(), &'static str> {
    let digits = body.iter().filter(|b| !b.is_ascii_whitespace());
    if !digits.clone().all(u8::is_ascii_hexdigit) {
        return Err("it is not hex");
    }
    if digits.count() == 512 { Ok(()) } else { Err("it is not 256 bytes long") }
}

/// The label in a line that is `prefix`, label, dashes.
fn label<'a>(text: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    let label = text.strip_prefix(prefix)?.strip_suffix(DASHES)?;
    (!label.is_empty() && label.len() <= 64 && !label.starts_with(b"-") && !label.ends_with(b"-")).then_some(label)
}

/// Takes the headers off.
fn block<'a>(label: &'a [u8], whole: &'a [u8]) -> Block<'a> {
    let label = Label::of(label);
    let first = whole.split(|b| *b == b'\n').next().unwrap_or_default();
    let blank_first = first.trim_ascii().is_empty();
    let headers = first.contains(&b':') || (label.is_openpgp() && blank_first);
    if !headers {
        return Block { label, encrypted: false, dek_info: None, body: whole };
    }
    // Headers go on to the first empty line (RFC 1421, 4.4).
    let mut at = 0;
    let mut dek_info = None;
    for line in whole.split_inclusive(|b| *b == b'\n') {
        at += line.len();
        dek_info = dek_info.or_else(|| line.strip_prefix(b"DEK-Info:"));
        if line.trim_ascii().is_empty() {
            break;
        }
    }
    Block { label, encrypted: dek_info.is_some(), dek_info, body: &whole[at..] }
}
