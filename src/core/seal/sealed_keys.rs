//! Keys of the store's own beside records: sealed in place, so that the plain key never lies outside the arena.
//!
//! Layout: version (1 byte, 1) ‖ nonce (24 random bytes) ‖ XChaCha20-Poly1305 of the key, associated data
//! "pinfold/own/" ‖ label. The key is HKDF-SHA-256(index key, "pinfold/own/v1"). What is sealed so lies inside a sealed record.

use super::SealError;
use super::identity::{MAX_WORK_FACTOR, WORK_FACTOR, passphrase_text};
use crate::aead::{Aead, NONCE};
use crate::secret::Secret;
use hkdf::Hkdf;
use sha2::Sha256;
use std::io::{Read, Write};
use zeroize::Zeroizing;

const VERSION: u8 = 1;
/// The longest key under a passphrase, in bytes.
const KEY_MAX: usize = 4096;

/// Seals a key of the store's own, under the store's index key. `label` says which it is: it opens under that one alone.
pub fn seal_own(index_key: &Secret, label: &str, key: &Secret) -> Vec<u8> {
    let mut out = vec![0; 1 + NONCE + key.len()];
    out[0] = VERSION;
    // Copied here and encrypted in its place: nothing else ever lies in this vector.
    out[1 + NONCE..].copy_from_slice(key.expose());
    let (head, body) = out.split_at_mut(1 + NONCE);
    let (nonce, tag) = aead(index_key).seal(&aad(label), body);
    head[1..].copy_from_slice(&nonce);
    out.extend_from_slice(&tag);
    out
}

/// Opens what was sealed so.
///
/// # Errors
/// [`SealError::Format`] for an unknown version; [`SealError::Tampered`] for anything that is not this key;
/// [`SealError::ArenaFull`].
pub fn open_own(index_key: &Secret, label: &str, sealed: &[u8]) -> Result<Secret, SealError> {
    let what = "a key of the store's own";
    let Some((&VERSION, rest)) = sealed.split_first() else { return Err(SealError::Format(what)) };
    let (nonce, rest) = rest.split_first_chunk().ok_or(SealError::Format(what))?;
    let (body, tag) = rest.split_last_chunk().ok_or(SealError::Format(what))?;
    let mut key = Secret::copy_of(body)?;
    aead(index_key).open(nonce, &aad(label), key.expose_mut(), tag).map_err(|_| SealError::Tampered(what))?;
    Ok(key)
}

/// Seals a key of the store's own under a passphrase, as an age file.
///
/// # Errors
/// [`SealError::Format`] for a passphrase that is empty or not UTF-8.
pub fn seal_with_passphrase(key: &Secret, passphrase: &Secret) -> Result<Vec<u8>, SealError> {
    let mut recipient = age::scrypt::Recipient::new(passphrase_text(passphrase)?);
    recipient.set_work_factor(WORK_FACTOR);
    let mut out = Vec::new();
    let sealed = age::Encryptor::with_recipients(std::iter::once(&recipient as &dyn age::Recipient))
        .expect("there is one recipient")
        .wrap_output(&mut out)
        .and_then(|mut w| w.write_all(key.expose()).and_then(|()| w.finish().map(|_| ())));
    sealed.expect("writing to a vector and wrapping a file key do not fail");
    Ok(out)
}

/// Opens what was sealed so.
///
/// # Errors
/// [`SealError::WrongPassphrase`]; [`SealError::Format`]; [`SealError::Tampered`].
pub fn open_with_passphrase(sealed: &[u8], passphrase: &Secret) -> Result<Secret, SealError> {
    let what = "a key under a passphrase";
    let mut identity = age::scrypt::Identity::new(passphrase_text(passphrase)?);
    identity.set_max_work_factor(MAX_WORK_FACTOR);
    let decryptor = age::Decryptor::new_buffered(sealed).map_err(|_| SealError::Format(what))?;
    let reader = decryptor.decrypt(std::iter::once(&identity as &dyn age::Identity));
    let mut reader = reader.map_err(|_| SealError::WrongPassphrase)?;
    let mut key = Secret::zeroed(KEY_MAX)?;
    let mut len = 0;
    loop {
        match reader.read(&mut key.expose_mut()[len..]) {
            Ok(0) => break,
            Ok(n) => len += n,
            Err(_) => return Err(SealError::Tampered(what)),
        }
    }
    key.resize(len)?;
    Ok(key)
}

fn aead(index_key: &Secret) -> Aead {
    let mut key = Zeroizing::new([0; 32]);
    Hkdf::<Sha256>::new(None, index_key.expose())
        .expand(b"pinfold/own/v1", &mut *key)
        .expect("32 bytes are a length HKDF-SHA-256 gives");
    Aead::new(&key)
}

fn aad(label: &str) -> Vec<u8> {
    [b"pinfold/own/", label.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_passphrase_opens_its_key_and_no_other_does() {
        let secret = |text: &[u8]| Secret::copy_of(text).unwrap();
        let sealed = seal_with_passphrase(&secret(&[9; 32]), &secret(b"right")).unwrap();
        assert_eq!(open_with_passphrase(&sealed, &secret(b"right")).unwrap().expose(), [9; 32]);
        assert!(matches!(open_with_passphrase(&sealed, &secret(b"wrong")), Err(SealError::WrongPassphrase)));
        assert!(matches!(open_with_passphrase(b"x", &secret(b"right")), Err(SealError::Format(_))));
    }

    #[test]
    fn a_key_opens_under_its_own_label_only_and_unaltered_only() {
        let index = Secret::copy_of(&[3; 32]).unwrap();
        let sealed = seal_own(&index, "signer/1", &Secret::copy_of(&[7; 32]).unwrap());
        assert!(!sealed.windows(8).any(|w| w == [7; 8]));
        assert_eq!(open_own(&index, "signer/1", &sealed).unwrap().expose(), [7; 32]);
        assert!(open_own(&index, "signer/2", &sealed).is_err());
        assert!(open_own(&Secret::copy_of(&[4; 32]).unwrap(), "signer/1", &sealed).is_err());
        for i in 0..sealed.len() {
            let mut bad = sealed.clone();
            bad[i] ^= 1;
            assert!(open_own(&index, "signer/1", &bad).is_err());
            assert!(open_own(&index, "signer/1", &sealed[..i]).is_err());
        }
    }
}
