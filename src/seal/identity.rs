//! The store's identity: an age identity file, itself encrypted with a passphrase, or a plain one.

use super::SealError;
use crate::secret::Secret;
use age::secrecy::{ExposeSecret, SecretString};
use age::x25519;
use std::io::{Read, Write};
use std::str::FromStr;
use zeroize::{Zeroize, Zeroizing};

/// scrypt's cost for a new identity: 2^17 rounds, 128 MiB. This crate's own tests have none of the time.
pub(super) const WORK_FACTOR: u8 = if cfg!(test) { 8 } else { 17 };
/// The most that is worked for an identity somebody else made.
pub(super) const MAX_WORK_FACTOR: u8 = 22;
/// The largest identity file that is read.
const MAX_FILE: usize = 64 * 1024;

/// How a new identity file is kept.
pub enum Protection<'a> {
    /// Encrypted with this passphrase (age scrypt).
    Passphrase(&'a Secret),
    /// Encrypted to this recipient: whose identity opens the file, opens the store.
    Recipient(&'a x25519::Recipient),
    /// As it is; whoever reads the file opens the store.
    Plain,
}

/// What opens an identity file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenedBy {
    /// A passphrase.
    Passphrase,
    /// The identity of an X25519 recipient.
    Recipient,
    /// Nothing: it is not encrypted.
    Nothing,
    /// Something this pinfold does not know.
    Unknown,
}

impl OpenedBy {
    /// Of an identity file, by its first stanza.
    pub fn of(file: &[u8]) -> Self {
        let mut lines = file.split(|b| *b == b'\n');
        if lines.next() != Some(b"age-encryption.org/v1") {
            return if parse_identity(file).is_ok() { OpenedBy::Nothing } else { OpenedBy::Unknown };
        }
        let stanza = lines.next().unwrap_or_default().strip_prefix(b"-> ").unwrap_or_default();
        match stanza.split(|b| *b == b' ').next() {
            Some(b"scrypt") => OpenedBy::Passphrase,
            Some(b"X25519") => OpenedBy::Recipient,
            _ => OpenedBy::Unknown,
        }
    }
}

/// The opened identity of a store, or a recovery key: it opens the store's keys.
pub struct StoreIdentity(x25519::Identity);

impl StoreIdentity {
    /// The identity itself.
    pub fn key(&self) -> &x25519::Identity {
        &self.0
    }

    /// Its text, which opens it again.
    ///
    /// # Errors
    /// [`SealError::ArenaFull`].
    pub fn text(&self) -> Result<Secret, SealError> {
        Ok(Secret::copy_of(self.0.to_string().expose_secret().as_bytes())?)
    }

    /// Its public half.
    pub fn recipient(&self) -> x25519::Recipient {
        self.0.to_public()
    }
}

/// A new identity.
pub fn make_identity() -> StoreIdentity {
    StoreIdentity(x25519::Identity::generate())
}

/// A new identity: its public half, and the file to keep (age identity file, encrypted or plain).
///
/// # Errors
/// As [`protect_identity`].
pub fn new_identity(protection: &Protection<'_>) -> Result<(StoreIdentity, Zeroizing<Vec<u8>>), SealError> {
    let identity = make_identity();
    let file = protect_identity(&identity, protection)?;
    Ok((identity, file))
}

/// A file that holds an identity (age identity file, encrypted or plain).
///
/// # Errors
/// [`SealError::Format`] for a passphrase that is empty or not UTF-8.
pub fn protect_identity(
    identity: &StoreIdentity,
    protection: &Protection<'_>,
) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let text = identity.0.to_string();
    let plain =
        Zeroizing::new(format!("# public key: {}\n{}\n", identity.recipient(), text.expose_secret()).into_bytes());
    let seal = |recipient: &dyn age::Recipient| {
        let mut out = Vec::new();
        let sealed = age::Encryptor::with_recipients(std::iter::once(recipient))
            .expect("there is one recipient")
            .wrap_output(&mut out)
            .and_then(|mut w| w.write_all(&plain).and_then(|()| w.finish().map(|_| ())));
        sealed.expect("writing to a vector and wrapping a file key do not fail");
        Zeroizing::new(out)
    };
    Ok(match protection {
        Protection::Plain => plain,
        Protection::Recipient(recipient) => seal(*recipient),
        Protection::Passphrase(passphrase) => {
            let mut recipient = age::scrypt::Recipient::new(passphrase_text(passphrase)?);
            recipient.set_work_factor(WORK_FACTOR);
            seal(&recipient)
        }
    })
}

/// Opens an identity file: encrypted with `passphrase`, or plain with none.
///
/// # Errors
/// [`SealError::WrongPassphrase`] if it does not open; [`SealError::Format`] if it is no identity file.
pub fn open_identity(file: &[u8], passphrase: Option<&Secret>) -> Result<StoreIdentity, SealError> {
    if file.len() > MAX_FILE {
        return Err(SealError::Format("the identity file"));
    }
    let Some(passphrase) = passphrase else { return parse_identity(file) };
    let mut identity = age::scrypt::Identity::new(passphrase_text(passphrase)?);
    identity.set_max_work_factor(MAX_WORK_FACTOR);
    decrypt(file, &identity, SealError::WrongPassphrase)
}

/// Opens an identity file that is encrypted to the recipient of `key`.
///
/// # Errors
/// [`SealError::NotForThisKey`] if it is not; [`SealError::Format`] if it is no identity file.
pub fn open_identity_with(file: &[u8], key: &StoreIdentity) -> Result<StoreIdentity, SealError> {
    decrypt(file, &key.0, SealError::NotForThisKey("the identity file"))
}

fn decrypt(file: &[u8], key: &dyn age::Identity, wrong: SealError) -> Result<StoreIdentity, SealError> {
    let decryptor = age::Decryptor::new_buffered(file).map_err(|_| SealError::Format("the identity file"))?;
    let mut reader = decryptor.decrypt(std::iter::once(key)).map_err(|_| wrong)?;
    let mut plain = Secret::zeroed(MAX_FILE)?;
    let mut len = 0;
    loop {
        match reader.read(&mut plain.expose_mut()[len..]) {
            Ok(0) => break,
            Ok(n) => len += n,
            Err(_) => return Err(SealError::Tampered("the identity file")),
        }
    }
    plain.resize(len)?;
    parse_identity(plain.expose())
}

/// A recovery recipient as text, `age1…`.
///
/// # Errors
/// [`SealError::Format`] if it is not an X25519 recipient.
pub fn parse_recipient(text: &str) -> Result<x25519::Recipient, SealError> {
    x25519::Recipient::from_str(text.trim()).map_err(|_| SealError::Format("the recipient (age1… is wanted)"))
}

fn parse_identity(text: &[u8]) -> Result<StoreIdentity, SealError> {
    let format = SealError::Format("the identity file");
    let Ok(text) = std::str::from_utf8(text) else { return Err(format) };
    let mut keys = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
    match (keys.next(), keys.next()) {
        (Some(line), None) => x25519::Identity::from_str(line).map(StoreIdentity).map_err(|_| format),
        _ => Err(format),
    }
}

pub(super) fn passphrase_text(passphrase: &Secret) -> Result<SecretString, SealError> {
    let text = std::str::from_utf8(passphrase.expose()).map_err(|_| SealError::Format("the passphrase (not UTF-8)"))?;
    if text.is_empty() {
        return Err(SealError::Format("the passphrase (empty)"));
    }
    let mut owned = text.to_owned();
    let secret = SecretString::from(owned.clone());
    owned.zeroize();
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_passphrase_opens_its_identity_and_no_other_does() {
        let right = Secret::copy_of(b"correct horse").unwrap();
        let (made, file) = new_identity(&Protection::Passphrase(&right)).unwrap();
        let opened = open_identity(&file, Some(&right)).unwrap();
        assert_eq!(opened.recipient().to_string(), made.recipient().to_string());
        let wrong = Secret::copy_of(b"correct horsf").unwrap();
        assert!(matches!(open_identity(&file, Some(&wrong)), Err(SealError::WrongPassphrase)));
        assert!(matches!(open_identity(&file, None), Err(SealError::Format(_))));
    }

    #[test]
    fn one_identity_has_several_files_and_each_says_what_opens_it() {
        let (made, plain) = new_identity(&Protection::Plain).unwrap();
        let key = make_identity();
        let recipient = key.recipient();
        let sealed = protect_identity(&made, &Protection::Recipient(&recipient)).unwrap();
        let opened = open_identity_with(&sealed, &key).unwrap();
        assert_eq!(opened.recipient().to_string(), made.recipient().to_string());
        assert!(matches!(open_identity_with(&sealed, &made), Err(SealError::NotForThisKey(_))));
        let pass = Secret::copy_of(b"p").unwrap();
        let locked = protect_identity(&made, &Protection::Passphrase(&pass)).unwrap();
        assert_eq!(OpenedBy::of(&sealed), OpenedBy::Recipient);
        assert_eq!(OpenedBy::of(&locked), OpenedBy::Passphrase);
        assert_eq!(OpenedBy::of(&plain), OpenedBy::Nothing);
        assert_eq!(OpenedBy::of(b"age-encryption.org/v1\n-> piv-p256 x y\n"), OpenedBy::Unknown);
        assert_eq!(OpenedBy::of(b""), OpenedBy::Unknown);
    }

    #[test]
    fn a_plain_identity_file_opens_without_a_passphrase() {
        let (made, file) = new_identity(&Protection::Plain).unwrap();
        assert_eq!(open_identity(&file, None).unwrap().recipient().to_string(), made.recipient().to_string());
        assert!(open_identity(b"AGE-SECRET-KEY-1NONSENSE\n", None).is_err());
    }
}
