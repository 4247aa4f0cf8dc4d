//! The header of a blob as pinfold writes it, read without the general parser: every open of a secret passes here.
//!
//! age's own reader takes most of an open's time for its allocations. What is not exactly in the form that
//! [`seal_blob`](super::seal_blob) gives it is left to that reader.

use super::stanza::unwrap_with;
use crate::secret::Kek;
use age_core::primitives::hkdf;
use base64::Engine;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

/// age's first line, and the stanza that stands first.
const START: &[u8] = b"age-encryption.org/v1\n-> pinfold-kek ";
/// What ends the header and is the last of what its MAC covers.
const END: &[u8] = b"---";

/// The header's parts.
pub(super) struct Header<'a> {
    salt: [u8; 16],
    body: [u8; 32],
    /// Everything from the first byte to the `---`.
    covered: &'a [u8],
    mac: [u8; 32],
    /// The payload: nonce and chunks.
    pub payload: &'a [u8],
}

/// Why a header does not open.
pub(super) enum Refused {
    /// The stanza is of another KEK.
    OtherKey,
    /// Its MAC does not fit.
    Tampered,
}

impl<'a> Header<'a> {
    /// Reads a header whose first stanza is `pinfold-kek`. `None` for any other: it may still be a good one.
    pub fn read(blob: &'a [u8]) -> Option<Self> {
        let rest = blob.strip_prefix(START)?;
        let (salt, rest) = line(rest)?;
        let (body, mut rest) = line(rest)?;
        // Stanzas are made of lines; none begins like the end does, base64 having no hyphen.
        while !rest.starts_with(END) {
            (_, rest) = line(rest)?;
        }
        let covered = &blob[..blob.len() - rest.len() + END.len()];
        let (mac, payload) = line(rest[END.len()..].strip_prefix(b" ")?)?;
        Some(Header { salt: decode(salt)?, body: decode(body)?, covered, mac: decode(mac)?, payload })
    }

    /// Unwraps the file key and verifies the header under it.
    pub fn open(&self, kek: &Kek) -> Result<Zeroizing<[u8; 16]>, Refused> {
        let file_key = unwrap_with(kek, &self.salt, &self.body).ok_or(Refused::OtherKey)?;
        let key = Zeroizing::new(hkdf(&[], b"header", &*file_key));
        let mac = <Hmac<Sha256> as Mac>::new_from_slice(&*key).expect("HMAC takes a key of any length");
        mac.chain_update(self.covered).verify_slice(&self.mac).map_err(|_| Refused::Tampered)?;
        Ok(file_key)
    }
}

/// The bytes before the next newline, and those after it.
fn line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|b| *b == b'\n')?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

/// Exactly so many bytes in canonical unpadded base64.
fn decode<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    // The decoder asks for room in whole groups of four digits.
    let mut out = [0; 36];
    let n = BASE64_STANDARD_NO_PAD.decode_slice(text, &mut out).ok()?;
    out[..n].try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::super::{RecoverySet, seal_blob};
    use super::*;

    #[test]
    fn every_blob_of_ours_is_read_here() {
        let recovery = age::x25519::Identity::generate().to_public().to_string();
        for recipients in [vec![], vec![recovery.clone()], vec![recovery; 3]] {
            let kek = Kek::new(Zeroizing::new([4; 32]));
            // age strews random stanzas in: more than one try.
            for _ in 0..20 {
                let (blob, _) = seal_blob(b"hunter2", &kek, &RecoverySet::parse(&recipients).unwrap());
                assert!(Header::read(&blob).is_some_and(|h| h.open(&kek).is_ok()));
            }
        }
    }

    #[test]
    fn others_are_left_to_the_general_reader() {
        let id = age::x25519::Identity::generate();
        assert!(Header::read(&age::encrypt(&id.to_public(), b"x").unwrap()).is_none());
        assert!(Header::read(b"").is_none());
        assert!(Header::read(START).is_none());
        assert!(Header::read(b"age-encryption.org/v1\n-> pinfold-kek AAAA\nAAAA\n--- AAAA\n").is_none());
    }
}
