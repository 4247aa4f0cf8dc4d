//! XChaCha20-Poly1305 in place, with a nonce drawn anew for each seal: what a store keeps beside its contents is sealed so.

use chacha20poly1305::{AeadInPlace, KeyInit, XChaCha20Poly1305};

/// Bytes of a nonce.
pub const NONCE: usize = 24;
/// Bytes of a tag.
pub const TAG: usize = 16;

/// A key, ready for use.
pub struct Aead(XChaCha20Poly1305);

/// What was to be opened was not sealed under this key with this nonce and this associated data, or was altered. What it was
/// opened in is as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forged;

impl Aead {
    /// With this key.
    #[must_use]
    pub fn new(key: &[u8; 32]) -> Self {
        Aead(XChaCha20Poly1305::new(key.into()))
    }

    /// Encrypts `body` where it lies; the nonce and the tag, which both belong to it.
    ///
    /// # Panics
    /// If the kernel has no random numbers, or `body` has 256 GiB.
    pub fn seal(&self, aad: &[u8], body: &mut [u8]) -> ([u8; NONCE], [u8; TAG]) {
        let mut nonce = [0; NONCE];
        getrandom::getrandom(&mut nonce).expect("getrandom(2) does not fail on a kernel that mounts FUSE");
        let tag = self.0.encrypt_in_place_detached(&nonce.into(), aad, body);
        (nonce, tag.expect("far below the cipher's limit").into())
    }

    /// Decrypts `body` where it lies.
    ///
    /// # Errors
    /// [`Forged`].
    pub fn open(&self, nonce: &[u8; NONCE], aad: &[u8], body: &mut [u8], tag: &[u8; TAG]) -> Result<(), Forged> {
        self.0.decrypt_in_place_detached(nonce.into(), aad, body, tag.into()).map_err(|_| Forged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_with_all_that_it_was_sealed_with_and_with_nothing_else() {
        let key = Aead::new(&[7; 32]);
        let mut body = *b"what is kept";
        let (nonce, tag) = key.seal(b"where", &mut body);
        let sealed = body;
        assert_ne!(&sealed, b"what is kept");
        assert_ne!(key.seal(b"where", &mut b"what is kept".clone()).0, nonce);
        let mut try_with = |key: &Aead, nonce, aad: &[u8], tag| {
            body = sealed;
            key.open(nonce, aad, &mut body, tag).map(|()| body)
        };
        assert_eq!(try_with(&key, &nonce, b"where", &tag), Ok(*b"what is kept"));
        assert_eq!(try_with(&Aead::new(&[8; 32]), &nonce, b"where", &tag), Err(Forged));
        assert_eq!(try_with(&key, &[0; NONCE], b"where", &tag), Err(Forged));
        assert_eq!(try_with(&key, &nonce, b"here", &tag), Err(Forged));
        assert_eq!(try_with(&key, &nonce, b"where", &[0; TAG]), Err(Forged));
        assert_eq!(body, sealed, "what is not opened stays as it is");
    }
}
