//! Whether a folder or a program may be used at all.
//!
//! Owns those judgements. A path is followed name by name before the system is asked about it as a whole: whatever leads
//! into the tree that the daemon serves is refused without a look, since the daemon would wait for itself.

use super::error::DeliveryError;
use crate::trust;
use std::path::{Component, Path, PathBuf};

/// The most links that are followed, as the kernel does.
const LINKS_MAX: usize = 40;

/// The path without links, if it does not lead into the tree.
pub fn resolve(path: &Path, mountpoint: &Path) -> Result<PathBuf, DeliveryError> {
    let refused = |reason: &str| DeliveryError::refused(path.display(), reason);
    let mut links = 0;
    let mut done = PathBuf::from("/");
    let mut open: Vec<PathBuf> = names(path);
    while let Some(name) = open.pop() {
        if name.as_os_str() == ".." {
            done.pop();
            continue;
        }
        let next = done.join(&name);
        if next.starts_with(mountpoint) {
            return Err(refused("it leads into the tree of secrets"));
        }
        let meta = next.symlink_metadata().map_err(|e| DeliveryError::io(path.display(), e))?;
        if !meta.is_symlink() {
            done = next;
            continue;
        }
        links += 1;
        if links > LINKS_MAX {
            return Err(refused("it leads round in a circle of links"));
        }
        let to = std::fs::read_link(&next).map_err(|e| DeliveryError::io(path.display(), e))?;
        if to.is_absolute() {
            done = PathBuf::from("/");
        }
        open.extend(names(&to));
    }
    Ok(done)
}

/// Its names, the last first.
fn names(path: &Path) -> Vec<PathBuf> {
    let name = |component: Component<'_>| match component {
        Component::Normal(name) => Some(PathBuf::from(name)),
        Component::ParentDir => Some(PathBuf::from("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().rev().filter_map(name).collect()
}

/// A program that nobody but root (or whoever runs this) could have written or put there.
pub fn program(path: &Path, mountpoint: &Path) -> Result<PathBuf, DeliveryError> {
    let real = resolve(path, mountpoint)?;
    let refused = |reason: String| DeliveryError::refused(path.display(), reason);
    match trust::program(&real).map_err(|e| DeliveryError::io(path.display(), e))? {
        None => Ok(real),
        Some(why) => Err(refused(why.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::unistd::geteuid;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn what_leads_into_the_tree_is_not_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        // A tree that is not there: asking the system about anything below would be another error.
        let tree = at("tree");
        fs::create_dir(at("in")).unwrap();
        symlink(tree.join("x"), at("straight")).unwrap();
        symlink("tree/x", at("near")).unwrap();
        symlink("straight", at("twice")).unwrap();
        symlink("in/../near", at("round")).unwrap();
        symlink("self", at("self")).unwrap();
        symlink("in", at("good")).unwrap();
        for name in ["tree", "tree/x", "straight", "near", "twice", "round", "in/../tree/x"] {
            let error = resolve(&at(name), &tree).unwrap_err();
            assert!(error.is_lasting() && error.to_string().contains("tree of secrets"), "{name}: {error}");
        }
        assert!(resolve(&at("self"), &tree).unwrap_err().to_string().contains("circle"));
        assert_eq!(resolve(&at("good"), &tree).unwrap(), at("in").canonicalize().unwrap());
        assert!(matches!(resolve(&at("missing"), &tree), Err(DeliveryError::Io { .. })));
    }

    #[test]
    fn programs_are_roots_alone_and_so_are_their_folders() {
        let dir = tempfile::tempdir().unwrap();
        let none = Path::new("/nonexistent");
        let path = dir.path().join("p");
        fs::write(&path, "#!/bin/sh\n").unwrap();
        for (mode, says) in [(0o644, "not executable"), (0o775, "others can write"), (0o757, "others can write")] {
            fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            let error = program(&path, none).unwrap_err();
            assert!(error.is_lasting() && error.to_string().contains(says), "{error}");
        }
        fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        program(&path, none).unwrap();
        program(Path::new("/bin/true"), none).unwrap();
        assert!(program(dir.path(), none).unwrap_err().to_string().contains("not a program"));
        fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o777)).unwrap();
        assert!(program(&path, none).unwrap_err().to_string().contains("others can write"));
        if geteuid().is_root() {
            fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o700)).unwrap();
            std::os::unix::fs::chown(&path, Some(61234), None).unwrap();
            assert!(program(&path, none).unwrap_err().to_string().contains("uid 61234"));
        }
    }
}
