//! The store's identity: an age identity file, itself encrypted with a passphrase, or a plain one.

use super::SealError;
use crate::secret::Secret;
use crate::stream::{Recipient, ssh_identity};
use age::secrecy::{ExposeSecret, SecretString};
use age::x25519;
use std::io::{Read, Write};
use std::str::FromStr;
use zeroize::{Zeroize, Zeroizing};

/// scrypt's cost for a new identity: 2^17 rounds, 128 MiB. Tests, which make and open hundreds, have no time for it.
pub(super) const WORK_FACTOR: u8 = if cfg!(any(test, feature = "faults")) { 8 } else { 17 };
/// The most that is worked for an identity somebody else made.
pub(super) const MAX_WORK_FACTOR: u8 = 22;
/// The largest identity file that is read.
const MAX_FILE: usize = 64 * 1024;

/// How a new identity file is kept.
pub enum Protection<'a> {
    /// Encrypted with this passphrase (age scrypt).
    Passphrase(&'a Secret),
    /// Encrypted to this recipient: whose identity opens the file, opens the store.
    Recipient(&'a Recipient),
    /// As it is; whoever reads the file opens the store.
    Plain,
}

/// What opens an identity file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenedBy {
    /// A passphrase.
    Passphrase,
    /// The identity of an X25519 recipient, or an ssh-ed25519 key.
    Recipient,
    /// A token, by its age plugin: `age -d` opens it, and what that prints opens the store.
    Token,
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
            Some(b"X25519" | b"ssh-ed25519") => OpenedBy::Recipient,
            Some(b"p256tag" | b"mlkem768p256tag") => OpenedBy::Token,
            _ => OpenedBy::Unknown,
        }
    }
}

/// What somebody brings to open a store: the text of an identity, or an SSH key.
pub enum OpeningKey {
    /// An X25519 identity: the store's own, its escrow, a recovery key, or what protects the identity.
    Native(StoreIdentity),
    /// The ssh-ed25519 key of a recovery recipient, or of what protects the identity.
    Ssh(age::ssh::Identity),
}

impl OpeningKey {
    /// Reads it.
    ///
    /// # Errors
    /// [`SealError::NotHere`] for what only another program opens; [`SealError::Format`] for anything else.
    pub fn parse(text: &[u8]) -> Result<Self, SealError> {
        if text.len() <= MAX_FILE && text.trim_ascii_start().starts_with(b"-----BEGIN") {
            return ssh_identity(text).map(OpeningKey::Ssh).map_err(|_| SealError::NotHere("this SSH key"));
        }
        let mut lines = text.split(|b| *b == b'\n').map(<[u8]>::trim_ascii);
        if lines.any(|line| line.starts_with(b"AGE-PLUGIN-")) {
            return Err(SealError::NotHere("this identity"));
        }
        open_identity(text, None).map(OpeningKey::Native)
    }

    fn as_age(&self) -> &dyn age::Identity {
        match self {
            OpeningKey::Native(identity) => identity.key(),
            OpeningKey::Ssh(identity) => identity,
        }
    }
}

impl From<StoreIdentity> for OpeningKey {
    fn from(identity: StoreIdentity) -> Self {
        OpeningKey::Native(identity)
    }
}

/// The opened identity of a store, or its escrow: it opens the store's keys.
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
/// [`SealError::Format`] for a passphrase that is empty or not UTF-8, or a recipient that only a program encrypts to.
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
            .map_err(|_| SealError::Format("the recipient"))?
            .wrap_output(&mut out)
            .and_then(|mut w| w.write_all(&plain).and_then(|()| w.finish().map(|_| ())));
        sealed.expect("writing to a vector does not fail");
        Ok::<_, SealError>(Zeroizing::new(out))
    };
    Ok(match protection {
        Protection::Plain => plain,
        Protection::Recipient(recipient) => seal(*recipient)?,
        Protection::Passphrase(passphrase) => {
            let mut recipient = age::scrypt::Recipient::new(passphrase_text(passphrase)?);
            recipient.set_work_factor(WORK_FACTOR);
            seal(&recipient)?
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

/// Opens an identity file, or the escrow, that is encrypted to the recipient of `key`.
///
/// # Errors
/// [`SealError::NotForThisKey`] if it is not; [`SealError::Format`] if it is no identity file.
pub fn open_identity_with(file: &[u8], key: &OpeningKey) -> Result<StoreIdentity, SealError> {
    decrypt(file, key.as_age(), SealError::NotForThisKey("the identity file"))
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

/// The store's own recipient, or its escrow's, as the store keeps it.
///
/// # Errors
/// [`SealError::Format`] if it is not an X25519 recipient.
pub fn own_recipient(text: &str) -> Result<x25519::Recipient, SealError> {
    x25519::Recipient::from_str(text).map_err(|_| SealError::Format("the store's own recipient"))
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
        let recipient = key.recipient().into();
        let sealed = protect_identity(&made, &Protection::Recipient(&recipient)).unwrap();
        let opened = open_identity_with(&sealed, &key.into()).unwrap();
        assert_eq!(opened.recipient().to_string(), made.recipient().to_string());
        let pass = Secret::copy_of(b"p").unwrap();
        let locked = protect_identity(&made, &Protection::Passphrase(&pass)).unwrap();
        assert!(matches!(open_identity_with(&sealed, &made.into()), Err(SealError::NotForThisKey(_))));
        assert_eq!(OpenedBy::of(&sealed), OpenedBy::Recipient);
        assert_eq!(OpenedBy::of(&locked), OpenedBy::Passphrase);
        assert_eq!(OpenedBy::of(&plain), OpenedBy::Nothing);
        assert_eq!(OpenedBy::of(b"age-encryption.org/v1\n-> piv-p256 x y\n"), OpenedBy::Unknown);
        assert_eq!(OpenedBy::of(b""), OpenedBy::Unknown);
    }

    #[test]
    fn a_key_that_only_another_program_can_use_is_told_what_does() {
        let folder = tempfile::tempdir().unwrap();
        for (kind, passphrase, taken) in
            [("ed25519", "", true), ("ed25519", "open sesame", false), ("ecdsa", "", false)]
        {
            let path = folder.path().join(format!("{kind}{}", passphrase.len()));
            let mut command = std::process::Command::new("ssh-keygen");
            assert!(command.args(["-q", "-N", passphrase, "-t", kind, "-f"]).arg(&path).status().unwrap().success());
            let key = OpeningKey::parse(&std::fs::read(&path).unwrap());
            assert!(if taken { key.is_ok() } else { matches!(key, Err(SealError::NotHere(_))) }, "{kind} {passphrase}");
        }
        let text = make_identity().text().unwrap();
        assert!(matches!(OpeningKey::parse(text.expose()), Ok(OpeningKey::Native(_))));
        let plugin = OpeningKey::parse(b"# a token\nAGE-PLUGIN-YUBIKEY-1QQQQ\n").err().unwrap();
        assert!(plugin.to_string().contains("pinfold recovery escrow | age -d"), "{plugin}");
        assert!(matches!(OpeningKey::parse(b"garbage"), Err(SealError::Format(_))));
    }

    #[test]
    fn a_plain_identity_file_opens_without_a_passphrase() {
        let (made, file) = new_identity(&Protection::Plain).unwrap();
        assert_eq!(open_identity(&file, None).unwrap().recipient().to_string(), made.recipient().to_string());
        assert!(open_identity(b"AGE-SECRET-KEY-1NONSENSE\n", None).is_err());
    }
}
