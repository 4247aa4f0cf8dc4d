//! Blobs: one age v1 file for each version of a secret.

use super::header::{Header, Refused};
use super::stanza::{ByKek, Labelled};
use super::{RecoverySet, SealError, StoreIdentity, payload};
use crate::access::Grant;
use crate::model::Ino;
use crate::secret::{Kek, Secret};
use crate::stream::{Capture, Tap};
use age::x25519;
use sha2::{Digest, Sha256};

/// SHA-256 of a blob as stored; the node's record holds it, so that no other blob can take its place.
pub type BlobDigest = [u8; 32];

/// Seals content to its scope's KEK and to every recovery recipient. The plaintext never leaves `plain` but in
/// encrypted form.
pub fn seal_blob(plain: &[u8], kek: &Kek, recovery: &RecoverySet) -> (Vec<u8>, BlobDigest) {
    let kek = Labelled { kek: ByKek(kek), label: recovery.label() };
    let mut recipients: Vec<&dyn age::Recipient> = vec![&kek];
    recipients.extend(recovery.iter().map(|r| r as &dyn age::Recipient));
    let blob = seal_to(plain, &recipients);
    let digest = Sha256::digest(&blob).into();
    (blob, digest)
}

/// Opens the blob of the granted secret into the arena, after checking that it is the one the record names.
///
/// # Errors
/// [`SealError::NotGranted`] if the grant is for another node or shows no content; [`SealError::Tampered`] if the blob
/// is not the recorded one or does not authenticate.
pub fn open_blob(grant: &Grant, ino: Ino, kek: &Kek, blob: &[u8], digest: &BlobDigest) -> Result<Secret, SealError> {
    if grant.ino() != ino || !grant.opens_content() {
        return Err(SealError::NotGranted);
    }
    if <[u8; 32]>::from(Sha256::digest(blob)) != *digest {
        return Err(SealError::Tampered("the blob"));
    }
    open_with_kek(kek, blob, "the blob")
}

/// Seals a key of the store (index key, KEK) to the store's identity and its escrow identity.
pub fn seal_key(key: &Secret, recipients: &[x25519::Recipient]) -> Vec<u8> {
    let recipients: Vec<&dyn age::Recipient> = recipients.iter().map(|r| r as &dyn age::Recipient).collect();
    seal_to(key.expose(), &recipients)
}

/// Seals the text of the escrow identity to the recovery recipients: whichever opens it, opens the store's keys.
///
/// # Errors
/// [`SealError::ArenaFull`].
pub fn seal_escrow(escrow: &StoreIdentity, recovery: &RecoverySet) -> Result<Vec<u8>, SealError> {
    let recipients: Vec<&dyn age::Recipient> = recovery.iter().map(|r| r as &dyn age::Recipient).collect();
    Ok(seal_to(escrow.text()?.expose(), &recipients))
}

/// Opens a key of the store.
///
/// # Errors
/// [`SealError`] if it is not sealed to this identity, or was altered.
pub fn open_key(identity: &x25519::Identity, sealed: &[u8]) -> Result<Secret, SealError> {
    open_with(identity, sealed, "the store's key")
}

fn seal_to(plain: &[u8], recipients: &[&dyn age::Recipient]) -> Vec<u8> {
    let tap = Tap::new(recipients);
    let mut out = Vec::with_capacity(plain.len() + plain.len() / 4096 + 256 + 128 * recipients.len());
    let encryptor = age::Encryptor::with_recipients(std::iter::once(&tap as &dyn age::Recipient))
        .expect("there is one recipient, the tap, and those behind it are of one label");
    // Writes the header and the nonce; the writer is dropped before it has seen a byte of content.
    drop(encryptor.wrap_output(&mut out).expect("writing to a vector and wrapping a file key do not fail"));
    let file_key = tap.into_key().expect("age wrapped the file key for the header it wrote");
    payload::seal(&file_key, plain, &mut out);
    out
}

fn open_with_kek(kek: &Kek, sealed: &[u8], what: &'static str) -> Result<Secret, SealError> {
    let Some(header) = Header::read(sealed) else { return open_with(&ByKek(kek), sealed, what) };
    let file_key = header.open(kek).map_err(|refused| match refused {
        Refused::OtherKey => SealError::NotForThisKey(what),
        Refused::Tampered => SealError::Tampered(what),
    })?;
    payload::open(&file_key, header.payload, what)
}

fn open_with(identity: &dyn age::Identity, sealed: &[u8], what: &'static str) -> Result<Secret, SealError> {
    let capture = Capture::new(identity);
    let mut rest = sealed;
    let decryptor = age::Decryptor::new_buffered(&mut rest).map_err(|_| SealError::Format(what))?;
    // Verifies the header's MAC under the file key; the reader is dropped unread.
    match decryptor.decrypt(std::iter::once(&capture as &dyn age::Identity)) {
        Ok(reader) => drop(reader),
        Err(age::DecryptError::NoMatchingKeys) => return Err(SealError::NotForThisKey(what)),
        Err(_) => return Err(SealError::Tampered(what)),
    }
    let file_key = capture.into_key().ok_or(SealError::NotForThisKey(what))?;
    let at = (sealed.len() - rest.len()).checked_sub(payload::NONCE).ok_or(SealError::Format(what))?;
    payload::open(&file_key, &sealed[at..], what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use zeroize::Zeroizing;

    fn kek(byte: u8) -> Kek {
        Kek::new(Zeroizing::new([byte; 32]))
    }

    fn set(recovery: &x25519::Identity) -> RecoverySet {
        RecoverySet::parse(&[recovery.to_public().to_string()]).unwrap()
    }

    #[test]
    fn every_size_around_a_chunk_opens_with_the_kek_and_with_stock_age() {
        let recovery = x25519::Identity::generate();
        for len in [0, 1, 64, 4096, 65535, 65536, 65537, 131072, 200_001] {
            let plain: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let (blob, _) = seal_blob(&plain, &kek(7), &set(&recovery));
            assert_eq!(open_with_kek(&kek(7), &blob, "b").unwrap().expose(), plain, "kek, {len}");
            assert_eq!(open_with(&ByKek(&kek(7)), &blob, "b").unwrap().expose(), plain, "kek by age's reader, {len}");
            assert_eq!(open_with(&recovery, &blob, "b").unwrap().expose(), plain, "recovery, {len}");
            assert_eq!(age::decrypt(&recovery, &blob).unwrap(), plain, "stock age, {len}");
        }
    }

    #[test]
    fn what_age_wrote_opens_too() {
        let id = x25519::Identity::generate();
        for len in [0, 5, 65536, 70_000] {
            let plain = vec![9; len];
            let sealed = age::encrypt(&id.to_public(), &plain).unwrap();
            assert_eq!(open_with(&id, &sealed, "b").unwrap().expose(), plain);
        }
    }

    #[test]
    fn another_kek_and_every_flipped_or_missing_byte_are_refused() {
        let recovery = x25519::Identity::generate();
        let (blob, _) = seal_blob(b"hunter2", &kek(1), &set(&recovery));
        for open in [open_with_kek, |kek: &Kek, blob: &[u8], what| open_with(&ByKek(kek), blob, what)] {
            assert!(matches!(open(&kek(2), &blob, "b"), Err(SealError::NotForThisKey(_))));
            for i in 0..blob.len() {
                let mut bad = blob.clone();
                bad[i] ^= 1;
                assert!(open(&kek(1), &bad, "b").is_err(), "flip at {i}");
                assert!(open(&kek(1), &blob[..i], "b").is_err(), "cut at {i}");
            }
        }
    }
}
