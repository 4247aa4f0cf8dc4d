//! Who else could put something into a folder, or put another folder in its place.
//!
//! Owns that judgement, of a folder and of all above it. It opens nothing and changes nothing.

use nix::unistd::geteuid;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Why a folder is not ours alone; `None` if it is: root's, or that of whoever runs this, writable by nobody else, and so is
/// everything above it. A sticky folder of root's may lie above: in it only the owner of a name replaces it. With `sticky` it may
/// be one itself.
///
/// # Errors
/// What the system says of a folder that is not there.
pub fn who_else(folder: &Path, sticky: bool) -> io::Result<Option<String>> {
    let real = folder.canonicalize()?;
    for (n, at) in real.ancestors().enumerate() {
        let meta = at.symlink_metadata()?;
        let shared = (sticky || n > 0) && meta.uid() == 0 && meta.mode() & 0o1000 != 0;
        if let (Some(why), false) = (why_not(&meta), shared) {
            return Ok(Some(format!("{}: {why}", at.display())));
        }
    }
    Ok(None)
}

fn why_not(meta: &Metadata) -> Option<String> {
    if meta.uid() != 0 && meta.uid() != geteuid().as_raw() {
        return Some(format!("it belongs to uid {}", meta.uid()));
    }
    (meta.mode() & 0o022 != 0).then(|| format!("others can write it (mode {:04o})", meta.mode() & 0o7777))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};

    #[test]
    fn a_folder_is_ours_only_if_all_above_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("above/folder");
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&inner).unwrap();
        let mode = |at: &Path, mode| std::fs::set_permissions(at, PermissionsExt::from_mode(mode)).unwrap();
        assert_eq!(who_else(&inner, false).unwrap(), None);
        for bad in [0o777, 0o770, 0o702, 0o1777] {
            mode(&inner, bad);
            assert!(who_else(&inner, false).unwrap().unwrap().contains("others can write"), "{bad:o}");
        }
        assert_eq!(who_else(&inner, true).unwrap(), None, "sticky, and that is allowed here");
        mode(&inner, 0o700);
        let above = inner.parent().unwrap();
        mode(above, 0o777);
        assert!(who_else(&inner, false).unwrap().unwrap().contains("above: others can write"));
        mode(above, 0o700);
        if geteuid().is_root() {
            for at in [above, &inner] {
                chown(at, Some(61_234), None).unwrap();
                assert!(who_else(&inner, true).unwrap().unwrap().contains("uid 61234"));
                chown(at, Some(0), None).unwrap();
            }
        }
        assert!(who_else(&dir.path().join("missing"), false).is_err());
    }
}
