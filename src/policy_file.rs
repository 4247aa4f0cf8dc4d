//! Reading the policy's file: is it safe to believe?
//!
//! Owns the bounds of the file as a file; what it says is [`Policy`]'s to read. Never writes.

use crate::policy::{FILE_MAX, Policy, PolicyError};
use crate::trust;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Reads a policy's file, which only root (or whoever runs this) may have written.
///
/// # Errors
/// [`PolicyError`]; a missing file is a [`PolicyError::Read`].
pub fn load(path: &Path) -> Result<Policy, PolicyError> {
    Policy::parse(&read(path)?, path)
}

/// Its text, if nobody but root (or whoever runs this) could have written it. Asked of the open file, so that it is the
/// file that is read.
///
/// # Errors
/// As [`load`], but what the text says is not looked at.
pub fn read(path: &Path) -> Result<String, PolicyError> {
    let failed = |source| PolicyError::Read { path: path.into(), source };
    let refused = |reason: String| PolicyError::Unsafe { path: path.into(), reason };
    // Without waiting for the writer of a FIFO.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    if !meta.is_file() {
        return Err(refused("is not a regular file".into()));
    }
    if let Some(other) = trust::other_writer(&meta, trust::Owners::RootOrSelf) {
        return Err(refused(format!("{other}: who writes it says who gets what")));
    }
    let mut bytes = Vec::new();
    file.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(refused(format!("is larger than {FILE_MAX} bytes")));
    }
    Policy::text(bytes, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, chown};

    #[test]
    fn the_file_must_be_safe_to_believe() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("policy");
        assert!(matches!(load(&file), Err(PolicyError::Read { .. })));
        std::fs::write(&file, "host h age1xxxxxxxxxxxxxxxxxxxxxxxxxxxx\nmanage h : u v\n").unwrap();
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
        assert_eq!(load(&file).unwrap().table().count(), 2);
        for mode in [0o664, 0o646] {
            std::fs::set_permissions(&file, PermissionsExt::from_mode(mode)).unwrap();
            assert!(load(&file).unwrap_err().to_string().contains("others can write it"));
        }
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
        if nix::unistd::geteuid().is_root() {
            chown(&file, Some(61234), None).unwrap();
            assert!(load(&file).unwrap_err().to_string().contains("belongs to uid 61234"));
            chown(&file, Some(0), None).unwrap();
        }
        std::fs::write(&file, b"manage h : u\nmanage \xc3\xa9\xff : u\n").unwrap();
        assert!(load(&file).unwrap_err().to_string().contains(":2:9: these bytes are not UTF-8"));
        std::fs::write(&file, vec![b'\n'; (8 << 20) + 1]).unwrap();
        assert!(matches!(load(&file), Err(PolicyError::Unsafe { .. })));
        assert!(matches!(load(dir.path()), Err(PolicyError::Unsafe { .. })));
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        assert!(matches!(load(&fifo), Err(PolicyError::Unsafe { .. })));
    }
}
