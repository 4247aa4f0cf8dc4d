//! age's payload (age spec, "Payload") a chunk at a time: STREAM with ChaCha20-Poly1305, done in place.
//!
//! Owns the cipher of the chunks, to whom a file key is wrapped, and how it is had from age, which writes and reads headers. The age crate's own
//! reader and writer pass plaintext through heap buffers; this does not. It never decides who may open what.

mod file_key;
mod recipient;
#[cfg(test)]
mod recipient_test;

pub use file_key::{Capture, FileKey, Tap};
pub use recipient::{Kind, POSTQUANTUM, Recipient, RecipientError, RecipientUse, ssh_identity};

use chacha20poly1305::{AeadInPlace, ChaCha20Poly1305, KeyInit};
use thiserror::Error;
use zeroize::Zeroizing;

/// Bytes of plaintext in a chunk; the last one may have fewer, and none only if it is the first too.
pub const CHUNK: usize = 64 * 1024;
/// Bytes of the authentication tag after each chunk.
pub const TAG: usize = 16;
/// Bytes of the nonce before the first chunk.
pub const NONCE: usize = 16;

/// A chunk was altered, is out of its place, or of another file.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
#[error("a chunk failed authentication")]
pub struct NotAuthentic;

/// The cipher of one payload: knows how many chunks it has seen.
pub struct Chunks {
    cipher: ChaCha20Poly1305,
    counter: u64,
}

impl Chunks {
    /// For the payload that begins with this nonce, in the file with this key.
    pub fn new(file_key: &FileKey, nonce: &[u8; NONCE]) -> Self {
        let key = Zeroizing::new(age_core::primitives::hkdf(nonce, b"payload", &**file_key));
        Chunks { cipher: ChaCha20Poly1305::new((&*key).into()), counter: 0 }
    }

    /// Encrypts the next chunk, at most [`CHUNK`] bytes, where it lies. Leaves blocks of plaintext on the stack: the caller
    /// sees to it ([`crate::secret::wipe_stack`]).
    pub fn seal(&mut self, chunk: &mut [u8], last: bool) -> [u8; TAG] {
        let nonce = self.next(last);
        self.cipher
            .encrypt_in_place_detached(&nonce.into(), b"", chunk)
            .expect("a chunk of 64 KiB is far below the cipher's limit")
            .into()
    }

    /// Decrypts the next chunk where it lies. Leaves blocks of plaintext on the stack: the caller sees to it
    /// ([`crate::secret::wipe_stack`]).
    ///
    /// # Errors
    /// [`NotAuthentic`]; the bytes are as they were then.
    pub fn open(&mut self, chunk: &mut [u8], tag: &[u8; TAG], last: bool) -> Result<(), NotAuthentic> {
        let nonce = self.next(last);
        self.cipher.decrypt_in_place_detached(&nonce.into(), b"", chunk, tag.into()).map_err(|_| NotAuthentic)
    }

    /// The chunk's nonce: an 11-byte counter and the mark of the last one.
    fn next(&mut self, last: bool) -> [u8; 12] {
        let mut nonce = [0; 12];
        nonce[3..11].copy_from_slice(&self.counter.to_be_bytes());
        nonce[11] = u8::from(last);
        self.counter += 1;
        nonce
    }
}

/// Bytes of the payload, nonce and tags included, of so much plaintext. `None` beyond 2^64.
pub fn sealed_len(plain: u64) -> Option<u64> {
    let chunks = plain.div_ceil(CHUNK as u64).max(1);
    plain.checked_add(NONCE as u64)?.checked_add(chunks.checked_mul(TAG as u64)?)
}

/// Bytes of plaintext in chunks of so many bytes, without the nonce. `None` if no plaintext has that many.
pub fn opened_len(chunks: u64) -> Option<u64> {
    let count = chunks.div_ceil((CHUNK + TAG) as u64).max(1);
    let plain = chunks.checked_sub(count * TAG as u64)?;
    // An empty chunk ends a payload of nothing alone.
    (plain.div_ceil(CHUNK as u64).max(1) == count).then_some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_go_both_ways_and_none_is_between() {
        for plain in [0, 1, 65535, 65536, 65537, 131_072, 131_073, 10_000_000] {
            let sealed = sealed_len(plain).unwrap();
            assert_eq!(opened_len(sealed - NONCE as u64), Some(plain), "{plain}");
        }
        assert_eq!(opened_len(15), None);
        assert_eq!(opened_len(65_536 + 16 + 16), None, "an empty last chunk");
        assert_eq!(sealed_len(u64::MAX), None);
    }

    #[test]
    fn a_chunk_in_another_place_does_not_open() {
        let key = Zeroizing::new([1; 16]);
        let (mut seal, mut open) = (Chunks::new(&key, &[2; 16]), Chunks::new(&key, &[2; 16]));
        let (mut one, mut two) = (*b"one", *b"two");
        let tags = [seal.seal(&mut one, false), seal.seal(&mut two, true)];
        let mut early = two;
        assert_eq!(open.open(&mut early, &tags[1], true), Err(NotAuthentic));
        assert_eq!(early, two, "what does not open is left alone");
        assert_eq!(open.open(&mut two, &tags[1], true), Ok(()));
        assert_eq!(&two, b"two");
        let mut not_last = Chunks::new(&key, &[2; 16]);
        assert_eq!(not_last.open(&mut one, &tags[0], true), Err(NotAuthentic));
    }
}
