//! Sealed records: a node's name and metadata, bound to its inode number.
//!
//! Layout: version (1 byte, 1) ‖ nonce (24 random bytes) ‖ XChaCha20-Poly1305 of the record, associated data
//! "pinfold/record" ‖ inode (8 bytes, big-endian). The key is HKDF-SHA-256(index key, "pinfold/record/v1").

use super::SealError;
use crate::aead::{Aead, NONCE, TAG};
use crate::model::Ino;
use crate::secret::Secret;
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

const VERSION: u8 = 1;

/// The key that seals records, made of the store's index key.
pub struct RecordKey(Aead);

impl RecordKey {
    /// Derives it.
    pub fn derive(index_key: &Secret) -> Self {
        let mut key = Zeroizing::new([0; 32]);
        Hkdf::<Sha256>::new(None, index_key.expose())
            .expand(b"pinfold/record/v1", &mut *key)
            .expect("32 bytes are a length HKDF-SHA-256 gives");
        RecordKey(Aead::new(&key))
    }

    /// Seals a record to its inode.
    pub fn seal(&self, ino: Ino, record: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(1 + NONCE + record.len() + TAG);
        out.resize(1 + NONCE, VERSION);
        out.extend_from_slice(record);
        let (nonce, tag) = self.0.seal(&aad(ino), &mut out[1 + NONCE..]);
        out[1..=NONCE].copy_from_slice(&nonce);
        out.extend_from_slice(&tag);
        out
    }

    /// Opens the record of this inode.
    ///
    /// # Errors
    /// [`SealError::Format`] for an unknown version, [`SealError::Tampered`] for anything that is not this inode's record.
    pub fn open(&self, ino: Ino, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let what = "a record";
        let Some((&VERSION, rest)) = sealed.split_first() else { return Err(SealError::Format(what)) };
        let (nonce, rest) = rest.split_first_chunk().ok_or(SealError::Format(what))?;
        let (body, tag) = rest.split_last_chunk().ok_or(SealError::Format(what))?;
        let mut record = Zeroizing::new(body.to_vec());
        self.0.open(nonce, &aad(ino), &mut record, tag).map_err(|_| SealError::Tampered(what))?;
        Ok(record)
    }
}

fn aad(ino: Ino) -> [u8; 22] {
    let mut aad = *b"pinfold/record\0\0\0\0\0\0\0\0";
    aad[14..].copy_from_slice(&ino.0.to_be_bytes());
    aad
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_opens_at_its_own_inode_only_and_unaltered_only() {
        let key = RecordKey::derive(&Secret::copy_of(&[3; 32]).unwrap());
        let sealed = key.seal(Ino(9), b"name");
        assert_eq!(&key.open(Ino(9), &sealed).unwrap()[..], b"name");
        assert!(key.open(Ino(10), &sealed).is_err());
        for i in 0..sealed.len() {
            let mut bad = sealed.clone();
            bad[i] ^= 0x80;
            assert!(key.open(Ino(9), &bad).is_err());
            assert!(key.open(Ino(9), &sealed[..i]).is_err());
        }
        let other = RecordKey::derive(&Secret::copy_of(&[4; 32]).unwrap());
        assert!(other.open(Ino(9), &sealed).is_err());
    }
}
