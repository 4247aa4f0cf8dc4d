//! The file key of an age file, had from age while it writes or reads the header.

use age_core::format::Stanza;
use age_core::secrecy::ExposeSecret;
use std::cell::RefCell;
use std::collections::HashSet;
use zeroize::Zeroizing;

/// The 16 bytes that a file's payload is encrypted under.
pub type FileKey = Zeroizing<[u8; 16]>;

/// Remembers the file key that an identity found, so that the payload can be opened in place.
pub struct Capture<'a> {
    identity: &'a dyn age::Identity,
    found: RefCell<Option<FileKey>>,
}

impl<'a> Capture<'a> {
    /// Stands before this identity.
    pub fn new(identity: &'a dyn age::Identity) -> Self {
        Capture { identity, found: RefCell::new(None) }
    }

    /// What was found. Only after age has checked the header's MAC under it.
    pub fn into_key(self) -> Option<FileKey> {
        self.found.into_inner()
    }
}

impl age::Identity for Capture<'_> {
    fn unwrap_stanza(&self, stanza: &Stanza) -> Option<Result<age_core::format::FileKey, age::DecryptError>> {
        self.identity.unwrap_stanza(stanza)
    }

    fn unwrap_stanzas(&self, stanzas: &[Stanza]) -> Option<Result<age_core::format::FileKey, age::DecryptError>> {
        let result = self.identity.unwrap_stanzas(stanzas)?;
        if let Ok(key) = &result {
            *self.found.borrow_mut() = Some(Zeroizing::new(*key.expose_secret()));
        }
        Some(result)
    }
}

/// Wraps a file key to several recipients and remembers it, so that the payload can be sealed in place.
pub struct Tap<'a> {
    recipients: &'a [&'a dyn age::Recipient],
    made: RefCell<Option<FileKey>>,
}

impl<'a> Tap<'a> {
    /// Stands before these recipients.
    pub fn new(recipients: &'a [&'a dyn age::Recipient]) -> Self {
        Tap { recipients, made: RefCell::new(None) }
    }

    /// What age made.
    pub fn into_key(self) -> Option<FileKey> {
        self.made.into_inner()
    }
}

impl age::Recipient for Tap<'_> {
    fn wrap_file_key(
        &self,
        file_key: &age_core::format::FileKey,
    ) -> Result<(Vec<Stanza>, HashSet<String>), age::EncryptError> {
        let mut stanzas = Vec::new();
        let mut labels = None;
        for recipient in self.recipients {
            let (more, theirs) = recipient.wrap_file_key(file_key)?;
            stanzas.extend(more);
            // age's own rule, which it cannot keep for those behind the tap.
            match &labels {
                None => labels = Some(theirs),
                Some(labels) if *labels != theirs => {
                    return Err(age::EncryptError::IncompatibleRecipients {
                        l_labels: labels.clone(),
                        r_labels: theirs,
                    });
                }
                Some(_) => {}
            }
        }
        *self.made.borrow_mut() = Some(Zeroizing::new(*file_key.expose_secret()));
        Ok((stanzas, labels.unwrap_or_default()))
    }
}
