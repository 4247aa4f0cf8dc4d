//! A blob's payload: all its chunks at once, between a slice and the arena.

use super::SealError;
use crate::secret::{Secret, wipe_stack};
use crate::stream::{CHUNK, Chunks, FileKey, TAG, opened_len};

pub(super) use crate::stream::NONCE;

/// Opens nonce and chunks into the arena.
pub(super) fn open(file_key: &FileKey, payload: &[u8], what: &'static str) -> Result<Secret, SealError> {
    let opened = open_chunks(file_key, payload, what);
    wipe_stack();
    opened
}

#[inline(never)]
fn open_chunks(file_key: &FileKey, payload: &[u8], what: &'static str) -> Result<Secret, SealError> {
    let (nonce, mut rest) = payload.split_first_chunk::<NONCE>().ok_or(SealError::Format(what))?;
    let mut cipher = Chunks::new(file_key, nonce);
    let chunks = rest.len().div_ceil(CHUNK + TAG).max(1);
    let len = opened_len(rest.len() as u64).and_then(|len| usize::try_from(len).ok());
    let len = len.ok_or(SealError::Format(what))?;
    let mut out = Secret::zeroed(len)?;
    for i in 0..chunks {
        let chunk = &mut out.expose_mut()[i * CHUNK..len.min((i + 1) * CHUNK)];
        let (sealed, after) = rest.split_at(chunk.len());
        let (tag, after) = after.split_first_chunk::<TAG>().ok_or(SealError::Format(what))?;
        rest = after;
        chunk.copy_from_slice(sealed);
        cipher.open(chunk, tag, i + 1 == chunks).map_err(|_| SealError::Tampered(what))?;
    }
    if rest.is_empty() { Ok(out) } else { Err(SealError::Format(what)) }
}

/// Appends the chunks of `plain` to `out`, which ends with the payload's nonce.
pub(super) fn seal(file_key: &FileKey, plain: &[u8], out: &mut Vec<u8>) {
    seal_chunks(file_key, plain, out);
    wipe_stack();
}

#[inline(never)]
fn seal_chunks(file_key: &FileKey, plain: &[u8], out: &mut Vec<u8>) {
    let nonce: [u8; NONCE] = *out.last_chunk().expect("age's header ends with the payload's nonce");
    let mut cipher = Chunks::new(file_key, &nonce);
    let chunks = plain.len().div_ceil(CHUNK).max(1);
    // Exactly once, before any plaintext is copied in: a growing vector would leave a copy behind.
    out.reserve_exact(plain.len() + chunks * TAG);
    for i in 0..chunks {
        let chunk = &plain[i * CHUNK..plain.len().min((i + 1) * CHUNK)];
        let at = out.len();
        out.resize(at + chunk.len(), 0);
        // Plaintext stands in `out` only between this line and the next, and is overwritten there.
        out[at..].copy_from_slice(chunk);
        let tag = cipher.seal(&mut out[at..], i + 1 == chunks);
        out.extend_from_slice(&tag);
    }
}
