//! A systemd credential: `pinfold.passphrase` or `pinfold.identity` in `$CREDENTIALS_DIRECTORY`, so that what a TPM
//! seals (`LoadCredentialEncrypted=`) unlocks the store.
//!
//! Owns the two names. What systemd decrypted is taken verbatim.

use super::file::read_private;
use super::method::{Kind, Method, MethodError, Stop};
use crate::wire::UnlockWith;
use std::path::{Path, PathBuf};

/// The credential's name for a passphrase.
pub const PASSPHRASE: &str = "pinfold.passphrase";
/// The credential's name for an unencrypted identity.
pub const IDENTITY: &str = "pinfold.identity";

/// One credential of this unit.
#[derive(Debug)]
pub struct Credential {
    path: PathBuf,
    name: &'static str,
}

impl Credential {
    /// Those that are there.
    pub fn all_in(directory: &Path) -> Vec<Credential> {
        let credential = |name: &'static str| Credential { path: directory.join(name), name };
        [IDENTITY, PASSPHRASE].map(credential).into_iter().filter(|c| c.path.exists()).collect()
    }
}

impl Method for Credential {
    fn name(&self) -> &str {
        self.name
    }

    fn kind(&self) -> Kind {
        Kind::Ready
    }

    fn answer(&mut self, _: &Stop) -> Result<UnlockWith, MethodError> {
        let content = read_private(&self.path)?;
        Ok(if self.name == IDENTITY { UnlockWith::Identity(content) } else { UnlockWith::Passphrase(content) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::time::Instant;

    #[test]
    fn what_is_there_is_taken_verbatim() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Credential::all_in(dir.path()).is_empty());
        for (name, text) in [(PASSPHRASE, "pass\n"), (IDENTITY, "AGE-SECRET-KEY-1X\n"), ("other", "x")] {
            std::fs::write(dir.path().join(name), text).unwrap();
            std::fs::set_permissions(dir.path().join(name), PermissionsExt::from_mode(0o400)).unwrap();
        }
        let stop = Stop::new(Instant::now()).unwrap();
        let mut all = Credential::all_in(dir.path());
        let answers: Vec<UnlockWith> = all.iter_mut().map(|c| c.answer(&stop).unwrap()).collect();
        assert!(matches!(&answers[0], UnlockWith::Identity(i) if i.expose() == b"AGE-SECRET-KEY-1X\n"));
        assert!(matches!(&answers[1], UnlockWith::Passphrase(p) if p.expose() == b"pass\n"));
        assert_eq!(answers.len(), 2);
    }
}
