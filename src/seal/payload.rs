//! age's payload (age spec, "Payload"): STREAM with ChaCha20-Poly1305 in 64 KiB chunks, done in place.
//!
//! The age crate's own reader and writer pass plaintext through heap buffers; this does not.

use super::SealError;
use crate::secret::{Secret, wipe_stack};
use chacha20poly1305::{AeadInPlace, ChaCha20Poly1305, KeyInit};
use zeroize::Zeroizing;

/// Bytes of plaintext in a chunk.
const CHUNK: usize = 64 * 1024;
/// Bytes of the authentication tag of a chunk.
const TAG: usize = 16;
/// Bytes of the nonce before the payload.
pub(super) const NONCE: usize = 16;

/// Opens nonce and chunks into the arena.
pub(super) fn open(file_key: &[u8; 16], payload: &[u8], what: &'static str) -> Result<Secret, SealError> {
    let opened = open_chunks(file_key, payload, what);
    wipe_stack();
    opened
}

#[inline(never)]
fn open_chunks(file_key: &[u8; 16], payload: &[u8], what: &'static str) -> Result<Secret, SealError> {
    let (nonce, mut rest) = payload.split_first_chunk::<NONCE>().ok_or(SealError::Format(what))?;
    let cipher = cipher(nonce, file_key);
    let chunks = rest.len().div_ceil(CHUNK + TAG).max(1);
    let len = rest.len().checked_sub(chunks * TAG).ok_or(SealError::Format(what))?;
    if len == 0 && chunks > 1 {
        return Err(SealError::Format(what));
    }
    let mut out = Secret::zeroed(len)?;
    let mut counter = Counter::default();
    for i in 0..chunks {
        let chunk = &mut out.expose_mut()[i * CHUNK..len.min((i + 1) * CHUNK)];
        let (sealed, after) = rest.split_at(chunk.len());
        let (tag, after) = after.split_first_chunk::<TAG>().ok_or(SealError::Format(what))?;
        rest = after;
        chunk.copy_from_slice(sealed);
        cipher
            .decrypt_in_place_detached(&counter.next(i + 1 == chunks).into(), b"", chunk, tag.into())
            .map_err(|_| SealError::Tampered(what))?;
    }
    if rest.is_empty() { Ok(out) } else { Err(SealError::Format(what)) }
}

/// Appends the chunks of `plain` to `out`, which ends with the payload's nonce.
pub(super) fn seal(file_key: &[u8; 16], plain: &[u8], out: &mut Vec<u8>) {
    seal_chunks(file_key, plain, out);
    wipe_stack();
}

#[inline(never)]
fn seal_chunks(file_key: &[u8; 16], plain: &[u8], out: &mut Vec<u8>) {
    let nonce: [u8; NONCE] = *out.last_chunk().expect("age's header ends with the payload's nonce");
    let cipher = cipher(&nonce, file_key);
    let chunks = plain.len().div_ceil(CHUNK).max(1);
    // Exactly once, before any plaintext is copied in: a growing vector would leave a copy behind.
    out.reserve_exact(plain.len() + chunks * TAG);
    let mut counter = Counter::default();
    for i in 0..chunks {
        let chunk = &plain[i * CHUNK..plain.len().min((i + 1) * CHUNK)];
        let at = out.len();
        out.resize(at + chunk.len(), 0);
        // Plaintext stands in `out` only between this line and the next, and is overwritten there.
        out[at..].copy_from_slice(chunk);
        let tag = cipher
            .encrypt_in_place_detached(&counter.next(i + 1 == chunks).into(), b"", &mut out[at..])
            .expect("a chunk of 64 KiB is far below the cipher's limit");
        out.extend_from_slice(&tag);
    }
}

fn cipher(nonce: &[u8; NONCE], file_key: &[u8; 16]) -> ChaCha20Poly1305 {
    let key = Zeroizing::new(age_core::primitives::hkdf(nonce, b"payload", file_key));
    ChaCha20Poly1305::new((&*key).into())
}

/// The chunks' nonces: an 11-byte counter and the mark of the last chunk.
#[derive(Default)]
struct Counter(u64);

impl Counter {
    fn next(&mut self, last: bool) -> [u8; 12] {
        let mut nonce = [0; 12];
        nonce[3..11].copy_from_slice(&self.0.to_be_bytes());
        nonce[11] = u8::from(last);
        self.0 += 1;
        nonce
    }
}
