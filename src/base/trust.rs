//! Who else could have written a file, or put another in its place.
//!
//! Owns that judgement: of an open file, of a folder, and of all above it. It opens nothing, changes nothing, and does not
//! say what follows: each caller believes a file for a reason of its own.

use nix::unistd::geteuid;
use std::fmt;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The bits by which the group or everybody can write.
const WRITE: u32 = 0o022;
/// The bits by which the group or everybody can do anything.
const ANY: u32 = 0o077;
/// The bit of a folder in which only the owner of a name replaces it.
const STICKY: u32 = 0o1000;

/// Somebody who could have: as the end of a sentence that begins with the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Other {
    /// It belongs to this uid.
    Owner(u32),
    /// Its mode lets others write it.
    Writers(u32),
    /// Its mode lets others have it in some way, and nobody else is to have it in any.
    Users(u32),
}

impl fmt::Display for Other {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Other::Owner(uid) => write!(f, "it belongs to uid {uid}"),
            Other::Writers(mode) => write!(f, "others can write it (mode {mode:04o})"),
            Other::Users(mode) => write!(f, "others get in (mode {mode:04o})"),
        }
    }
}

/// Who may own what is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owners {
    /// Root alone.
    Root,
    /// Root, or whoever runs this.
    RootOrSelf,
    /// Root, or this uid.
    RootOr(u32),
    /// This uid alone.
    Only(u32),
}

impl Owners {
    fn have(self, uid: u32) -> bool {
        match self {
            Owners::Root => uid == 0,
            Owners::RootOrSelf => uid == 0 || uid == geteuid().as_raw(),
            Owners::RootOr(other) => uid == 0 || uid == other,
            Owners::Only(only) => uid == only,
        }
    }
}

/// Who else could have written what these are the attributes of; of an open file, it is the file that will be read. That a
/// group of one can write it is not looked into: doubt denies.
pub fn other_writer(meta: &Metadata, owners: Owners) -> Option<Other> {
    other_than(meta.uid(), meta.mode(), owners, WRITE).map(|mode| mode.map_or(Other::Owner(meta.uid()), Other::Writers))
}

/// Who else could read it, write it or, a folder, enter it.
pub fn other_user(meta: &Metadata, owners: Owners) -> Option<Other> {
    other_than(meta.uid(), meta.mode(), owners, ANY).map(|mode| mode.map_or(Other::Owner(meta.uid()), Other::Users))
}

/// `Some(None)` for the owner, `Some(mode)` for the mode.
fn other_than(uid: u32, mode: u32, owners: Owners, bits: u32) -> Option<Option<u32>> {
    if !owners.have(uid) {
        return Some(None);
    }
    (mode & bits != 0).then_some(Some(mode & 0o7777))
}

/// Why one of these folders, of which each is above the one before, is not only the owners'; `None` if all are. A sticky
/// folder of root's may be among them: in it only the owner of a name replaces it.
///
/// # Errors
/// What the system says of one that is not there.
pub fn other_above<'p>(
    folders: impl Iterator<Item = &'p Path>,
    owners: Owners,
) -> io::Result<Option<(PathBuf, Other)>> {
    for at in folders {
        let meta = at.symlink_metadata()?;
        let shared = meta.uid() == 0 && meta.mode() & STICKY != 0;
        if let (Some(other), false) = (other_writer(&meta, owners), shared) {
            return Ok(Some((at.to_owned(), other)));
        }
    }
    Ok(None)
}

/// Why a folder is not ours alone; `None` if it is: root's, or that of whoever runs this, writable by nobody else, and so is
/// everything above it, as [`other_above`] says. With `sticky` it may be a sticky folder itself.
///
/// # Errors
/// What the system says of a folder that is not there.
pub fn who_else(folder: &Path, sticky: bool) -> io::Result<Option<String>> {
    let real = folder.canonicalize()?;
    if !sticky && let Some(other) = other_writer(&real.symlink_metadata()?, Owners::RootOrSelf) {
        return Ok(Some(format!("{}: {other}", real.display())));
    }
    let other = other_above(real.ancestors(), Owners::RootOrSelf)?;
    Ok(other.map(|(at, other)| format!("{}: {other}", at.display())))
}

/// Why a program is not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotRun {
    /// It is no regular file.
    NoFile,
    /// Nobody may execute it.
    NotExecutable,
    /// Somebody else could have written it.
    Written(Other),
    /// Somebody else could have put it there: by this folder.
    Put(PathBuf, Other),
}

impl fmt::Display for NotRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotRun::NoFile => f.write_str("is not a program"),
            NotRun::NotExecutable => f.write_str("is not executable"),
            NotRun::Written(other) => write!(f, "is not run: {other}"),
            NotRun::Put(folder, other) => write!(f, "is not run: {}: {other}", folder.display()),
        }
    }
}

/// Why a program, by a path without links, may not be run; `None` if nobody but root (or whoever runs this) could have
/// written it or put it there.
///
/// # Errors
/// What the system says of one that is not there.
pub fn program(real: &Path) -> io::Result<Option<NotRun>> {
    let file = real.symlink_metadata()?;
    if !file.is_file() {
        return Ok(Some(NotRun::NoFile));
    }
    if file.mode() & 0o111 == 0 {
        return Ok(Some(NotRun::NotExecutable));
    }
    if let Some(other) = other_writer(&file, Owners::RootOrSelf) {
        return Ok(Some(NotRun::Written(other)));
    }
    // In a sticky folder only the owner replaces a file, and this one's owner was looked at.
    let above = other_above(real.ancestors().skip(1), Owners::RootOrSelf)?;
    Ok(above.map(|(folder, other)| NotRun::Put(folder, other)))
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

    #[test]
    fn others_are_told_by_owner_and_mode() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path();
        let meta = |mode| {
            std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
            path.metadata().unwrap()
        };
        for (mode, writer, user) in
            [(0o600, false, false), (0o644, false, true), (0o620, true, true), (0o602, true, true)]
        {
            let meta = meta(mode);
            assert_eq!(other_writer(&meta, Owners::RootOrSelf).is_some(), writer, "{mode:o}");
            assert_eq!(other_user(&meta, Owners::RootOrSelf), user.then_some(Other::Users(mode)), "{mode:o}");
        }
        let (meta, me) = (meta(0o666), geteuid().as_raw());
        assert_eq!(other_writer(&meta, Owners::Only(me)), Some(Other::Writers(0o666)));
        assert_eq!(other_writer(&meta, Owners::Only(me + 1)), Some(Other::Owner(me)), "the owner is told first");
        assert!(other_writer(&meta, Owners::Only(me)).unwrap().to_string().contains("others can write it (mode 0666)"));
        if geteuid().is_root() {
            chown(path, Some(61_234), None).unwrap();
            let meta = path.metadata().unwrap();
            for owners in [Owners::Root, Owners::RootOrSelf, Owners::RootOr(61_235)] {
                assert_eq!(other_writer(&meta, owners), Some(Other::Owner(61_234)), "{owners:?}");
            }
            assert_eq!(other_writer(&meta, Owners::RootOr(61_234)), Some(Other::Writers(0o666)));
            assert_eq!(other_user(&meta, Owners::Only(61_234)), Some(Other::Users(0o666)));
        }
    }
}
