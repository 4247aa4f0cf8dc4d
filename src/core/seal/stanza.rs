//! The `pinfold-kek` stanza: a file key wrapped under the key-encryption key of a scope.
//!
//! `-> pinfold-kek <salt>`, salt 16 bytes in unpadded base64; body: the file key, sealed with age's AEAD (nonce zero)
//! under HKDF-SHA-256(salt, "pinfold/kek", KEK). Stock tools skip it.

use crate::secret::Kek;
use age_core::format::{FileKey, Stanza};
use age_core::primitives::{aead_encrypt, hkdf};
use age_core::secrecy::ExposeSecret;
use base64::Engine;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use chacha20poly1305::{AeadInPlace, ChaCha20Poly1305, KeyInit};
use std::collections::HashSet;
use zeroize::Zeroizing;

const TAG: &str = "pinfold-kek";
const LABEL: &[u8] = b"pinfold/kek";

/// A key as age's recipient and identity: what is made with it has the stanza above.
pub(super) struct ByKek<'a>(pub(super) &'a Kek);

impl age::Recipient for ByKek<'_> {
    fn wrap_file_key(&self, file_key: &FileKey) -> Result<(Vec<Stanza>, HashSet<String>), age::EncryptError> {
        let mut salt = [0; 16];
        getrandom::getrandom(&mut salt).expect("getrandom(2) does not fail on a kernel that mounts FUSE");
        let key = Zeroizing::new(hkdf(&salt, LABEL, self.0.expose()));
        let body = aead_encrypt(&key, file_key.expose_secret());
        Ok((vec![Stanza { tag: TAG.into(), args: vec![BASE64_STANDARD_NO_PAD.encode(salt)], body }], HashSet::new()))
    }
}

/// The same with the label of the recovery recipients beside it: a KEK is symmetric, so it goes with whichever they have.
pub(super) struct Labelled<'a> {
    pub kek: ByKek<'a>,
    pub label: Option<&'static str>,
}

impl age::Recipient for Labelled<'_> {
    fn wrap_file_key(&self, file_key: &FileKey) -> Result<(Vec<Stanza>, HashSet<String>), age::EncryptError> {
        let (stanzas, mut labels) = self.kek.wrap_file_key(file_key)?;
        labels.extend(self.label.map(String::from));
        Ok((stanzas, labels))
    }
}

impl age::Identity for ByKek<'_> {
    fn unwrap_stanza(&self, stanza: &Stanza) -> Option<Result<FileKey, age::DecryptError>> {
        if stanza.tag != TAG {
            return None;
        }
        let [salt] = stanza.args.as_slice() else { return Some(Err(age::DecryptError::InvalidHeader)) };
        let Ok(salt) = BASE64_STANDARD_NO_PAD.decode(salt) else { return Some(Err(age::DecryptError::InvalidHeader)) };
        // A stanza of another KEK is "not mine", as for X25519.
        let file_key = unwrap_with(self.0, &salt, &stanza.body)?;
        Some(Ok(FileKey::init_with_mut(|k| *k = *file_key)))
    }
}

/// The file key in a stanza's body; `None` if it was wrapped under another KEK.
pub(super) fn unwrap_with(kek: &Kek, salt: &[u8], body: &[u8]) -> Option<Zeroizing<[u8; 16]>> {
    let key = Zeroizing::new(hkdf(salt, LABEL, kek.expose()));
    let mut file_key = Zeroizing::new([0; 16]);
    let (sealed, tag) = body.split_last_chunk::<16>()?;
    if sealed.len() != file_key.len() {
        return None;
    }
    file_key.copy_from_slice(sealed);
    // age's AEAD: a nonce of zeros, each key used once.
    let cipher = ChaCha20Poly1305::new((&*key).into());
    cipher.decrypt_in_place_detached(&[0; 12].into(), b"", &mut *file_key, tag.into()).ok()?;
    Some(file_key)
}
