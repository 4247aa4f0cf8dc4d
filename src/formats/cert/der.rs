//! The little DER that is written here: frames around what is there already. Reading is for the parsers of others.

/// Universal tags (X.690, 8.4).
pub(super) const INTEGER: u8 = 0x02;
pub(super) const BIT_STRING: u8 = 0x03;
pub(super) const OCTET_STRING: u8 = 0x04;
pub(super) const SEQUENCE: u8 = 0x30;

/// rsaEncryption with its NULL, as an AlgorithmIdentifier (RFC 8017, A.1).
pub(super) const RSA: &[u8] =
    &[0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
/// The whole of PKCS#8's version 0.
const VERSION: &[u8] = &[INTEGER, 1, 0];

/// A tag, the length of what follows, and what follows.
pub(super) fn framed(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let len = parts.iter().map(|p| p.len()).sum();
    let mut out = head(tag, len);
    parts.iter().for_each(|p| out.extend_from_slice(p));
    out
}

/// A tag and a length (X.690, 8.1.3).
fn head(tag: u8, len: usize) -> Vec<u8> {
    let bytes = len.to_be_bytes();
    let significant = &bytes[bytes.iter().position(|b| *b != 0).unwrap_or(bytes.len() - 1)..];
    let mut out = Vec::with_capacity(len + 8);
    out.push(tag);
    if len >= 0x80 {
        out.push(0x80 | significant.len() as u8);
    }
    out.extend_from_slice(significant);
    out
}

/// A non-negative integer from its big-endian bytes.
pub(super) fn unsigned(bytes: &[u8]) -> Vec<u8> {
    let first = bytes.iter().position(|b| *b != 0).unwrap_or(bytes.len());
    let bytes = &bytes[first..];
    match bytes.first() {
        None => framed(INTEGER, &[&[0]]),
        Some(b) if *b >= 0x80 => framed(INTEGER, &[&[0], bytes]),
        Some(_) => framed(INTEGER, &[bytes]),
    }
}

/// The lengths of the two heads around a PKCS#8 key, and their bytes: what is secret is copied once, by the caller.
pub(super) fn pkcs8_front(algorithm: &[u8], key_len: usize) -> Vec<u8> {
    let inner = head(OCTET_STRING, key_len);
    let mut out = head(SEQUENCE, VERSION.len() + algorithm.len() + inner.len() + key_len);
    out.extend_from_slice(VERSION);
    out.extend_from_slice(algorithm);
    out.extend_from_slice(&inner);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_the_shortest() {
        assert_eq!(framed(4, &[&[1, 2]]), [4, 2, 1, 2]);
        assert_eq!(head(4, 127), [4, 127]);
        assert_eq!(head(4, 128), [4, 0x81, 128]);
        assert_eq!(head(4, 0x1234), [4, 0x82, 0x12, 0x34]);
    }

    #[test]
    fn integers_have_no_blank_front_and_no_sign() {
        assert_eq!(unsigned(&[0, 0, 0x7f]), [2, 1, 0x7f]);
        assert_eq!(unsigned(&[0x80]), [2, 2, 0, 0x80]);
        assert_eq!(unsigned(&[]), [2, 1, 0]);
    }
}
