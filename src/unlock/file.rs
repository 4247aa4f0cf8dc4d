//! A passphrase file, or a key file.
//!
//! Owns what makes such a file safe to believe. Returns its bytes and hands them to nobody.

use super::method::{Kind, Method, MethodError, Stop};
use crate::secret::Secret;
use crate::sys::arena::ArenaFull;
use crate::trust::{self, Other, Owners};
use crate::wire::UnlockWith;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// The most bytes that a passphrase or key file may hold.
pub const MAX: usize = 64 << 10;

/// Why there is no secret.
#[derive(Debug, Error)]
pub enum UnlockError {
    /// It cannot be opened or read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// It is not a regular file.
    #[error("{0} is not a regular file")]
    NotAFile(PathBuf),
    /// Somebody else may read or write it.
    #[error("{path} has mode {mode:04o}: others can read or change it (chmod 0600 {path})")]
    Open {
        /// The file.
        path: PathBuf,
        /// Its nine permission bits.
        mode: u32,
    },
    /// Somebody else owns it, and so can change it.
    #[error("{path} belongs to uid {uid}, not to root")]
    Owner {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        uid: u32,
    },
    /// It is empty, or holds a newline alone.
    #[error("{0} is empty")]
    Empty(PathBuf),
    /// It is larger than [`MAX`].
    #[error("{0} is larger than {MAX} bytes")]
    TooLarge(PathBuf),
    /// No locked memory is left.
    #[error(transparent)]
    Memory(#[from] ArenaFull),
}

/// A file that holds a passphrase, less one newline at its end.
#[derive(Debug)]
pub struct PassphraseFile(pub PathBuf);

/// An unencrypted identity file: the store's own, or one that a protector of it is sealed to.
#[derive(Debug)]
pub struct Keyfile(pub PathBuf);

/// Where the next key file waits until a rekeying is done: after a crash the store may have the one or the other.
pub fn next_keyfile(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

impl Method for PassphraseFile {
    fn name(&self) -> &str {
        "passphrase file"
    }

    fn kind(&self) -> Kind {
        Kind::Ready
    }

    fn answer(&mut self, _: &Stop) -> Result<UnlockWith, MethodError> {
        Ok(UnlockWith::Passphrase(passphrase(&self.0)?))
    }
}

impl Method for Keyfile {
    fn name(&self) -> &str {
        "keyfile"
    }

    fn kind(&self) -> Kind {
        Kind::Ready
    }

    fn answer(&mut self, _: &Stop) -> Result<UnlockWith, MethodError> {
        Ok(UnlockWith::Identity(read_private(&self.0)?))
    }
}

/// A passphrase: the file's bytes less one newline at the end (`\n` or `\r\n`), which editors put there.
///
/// # Errors
/// As [`read_private`].
pub fn passphrase(path: &Path) -> Result<Secret, UnlockError> {
    let mut secret = read_private(path)?;
    let text = secret.expose();
    let text = text.strip_suffix(b"\n").map_or(text, |t| t.strip_suffix(b"\r").unwrap_or(t));
    let len = text.len();
    secret.resize(len)?;
    if secret.is_empty() { Err(UnlockError::Empty(path.to_owned())) } else { Ok(secret) }
}

/// The bytes of a file that is root's or the daemon's own user's, and that nobody else may read or write; 1 to [`MAX`].
/// What is judged is the file that was opened, whatever happens to its name meanwhile.
///
/// # Errors
/// [`UnlockError`] says which of these it is not.
pub fn read_private(path: &Path) -> Result<Secret, UnlockError> {
    let failed = |source| UnlockError::Read { path: path.to_owned(), source };
    // Without O_NONBLOCK a FIFO of that name would hold us until somebody writes to it.
    let mut file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    if !meta.is_file() {
        return Err(UnlockError::NotAFile(path.to_owned()));
    }
    match trust::other_user(&meta, Owners::RootOrSelf) {
        None => {}
        Some(Other::Owner(uid)) => return Err(UnlockError::Owner { path: path.to_owned(), uid }),
        Some(Other::Writers(mode) | Other::Users(mode)) => {
            return Err(UnlockError::Open { path: path.to_owned(), mode: mode & 0o777 });
        }
    }
    // One byte more than allowed, so that too large is seen; what stat said of the size may be old.
    let mut secret = Secret::zeroed(MAX + 1)?;
    let mut len = 0;
    while len <= MAX {
        match file.read(&mut secret.expose_mut()[len..]) {
            Ok(0) => break,
            Ok(n) => len += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(failed(e)),
        }
    }
    match len {
        0 => Err(UnlockError::Empty(path.to_owned())),
        1..=MAX => Ok(Secret::copy_of(&secret.expose()[..len])?),
        _ => Err(UnlockError::TooLarge(path.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, chown};

    fn file(dir: &tempfile::TempDir, content: &[u8], mode: u32) -> PathBuf {
        let path = dir.path().join("f");
        let _ = std::fs::remove_file(&path);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn a_passphrase_loses_one_newline_and_a_key_file_none() {
        let dir = tempfile::tempdir().unwrap();
        for (content, phrase) in
            [(&b"pass \n"[..], &b"pass "[..]), (b"pass", b"pass"), (b"pass\r\n", b"pass"), (b"pass\n\n", b"pass\n")]
        {
            let path = file(&dir, content, 0o600);
            let stop = Stop::new(std::time::Instant::now()).unwrap();
            let said = PassphraseFile(path.clone()).answer(&stop).unwrap();
            assert!(matches!(said, UnlockWith::Passphrase(p) if p.expose() == phrase));
            let said = Keyfile(path).answer(&stop).unwrap();
            assert!(matches!(said, UnlockWith::Identity(i) if i.expose() == content));
        }
    }

    #[test]
    fn files_that_others_can_touch_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for mode in [0o640, 0o604, 0o660, 0o602, 0o777] {
            assert!(
                matches!(read_private(&file(&dir, b"x", mode)), Err(UnlockError::Open { mode: m, .. }) if m == mode)
            );
        }
        let foreign = file(&dir, b"x", 0o600);
        chown(&foreign, Some(61234), None).unwrap();
        assert!(matches!(read_private(&foreign), Err(UnlockError::Owner { uid: 61234, .. })));
        assert_eq!(read_private(&file(&dir, b"x", 0o400)).unwrap().expose(), b"x");
    }

    #[test]
    fn what_is_no_file_or_of_no_size_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        assert!(matches!(read_private(&fifo), Err(UnlockError::NotAFile(_))), "and it did not wait");
        assert!(matches!(read_private(dir.path()), Err(UnlockError::NotAFile(_))));
        assert!(matches!(read_private(&dir.path().join("none")), Err(UnlockError::Read { .. })));
        assert!(matches!(read_private(&file(&dir, b"", 0o600)), Err(UnlockError::Empty(_))));
        assert!(matches!(passphrase(&file(&dir, b"\n", 0o600)), Err(UnlockError::Empty(_))));
        assert_eq!(read_private(&file(&dir, &[7; MAX], 0o600)).unwrap().len(), MAX);
        assert!(matches!(read_private(&file(&dir, &[7; MAX + 1], 0o600)), Err(UnlockError::TooLarge(_))));
    }
}
