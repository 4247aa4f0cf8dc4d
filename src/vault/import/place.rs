//! Where an entry of a bundle may go: the prefix that a console is confined to, what is kept for others, and what is there.
//!
//! Owns these rules. They are asked of a tree, the one in force or a draft, and change nothing.

use super::record::{ConsoleRecord, Consoles};
use crate::model::{Ino, Kind, Scope, SecretPath};
use crate::vault::change::CONTAINERS;
use crate::vault::tree::Tree;

/// The folder of the tree's own files, which the store knows nothing of.
const OWN: &str = ".pinfold";

/// How an entry lies to the folder that its console is confined to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lies {
    /// It is that folder, or below it.
    Within,
    /// It is a folder on the way there: it must be there, and is nobody's.
    Above,
}

/// What is at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// It came from this console.
    Ours(Ino),
    /// A directory of somebody else's, and one is wanted: both use it.
    Shared(Ino),
    /// Nothing.
    Free,
}

/// Whether a console may send an entry of this path at all; `reserved` is a folder that is kept for pinfold.
///
/// # Errors
/// Why not.
pub(super) fn lies(
    prefix: &SecretPath,
    path: &SecretPath,
    kind: Kind,
    reserved: Option<&SecretPath>,
) -> Result<Lies, String> {
    let names = path.names();
    let first = names.first().map(|n| n.as_str());
    match (first, names.len()) {
        (None, _) => return Err("it is the root of the tree".into()),
        (Some(OWN), _) => return Err(format!("{OWN} is pinfold's own")),
        (Some(CONTAINERS), 1 | 2) if kind != Kind::Directory => return Err("it is a container's folder".into()),
        _ => {}
    }
    if reserved.is_some_and(|folder| is_below(path, folder)) {
        return Err("that folder is kept for the accounts of admins".into());
    }
    if is_below(path, prefix) {
        return Ok(Lies::Within);
    }
    if kind == Kind::Directory && is_below(prefix, path) {
        return Ok(Lies::Above);
    }
    Err(format!("it is outside {prefix}, to which the console is confined"))
}

/// Whether `path` is `folder` or lies below it.
pub(super) fn is_below(path: &SecretPath, folder: &SecretPath) -> bool {
    path.names().starts_with(folder.names())
}

/// Whom a path's content is sealed to.
///
/// # Errors
/// If the path names a container that cannot be.
pub(super) fn scope_of(path: &SecretPath) -> Result<Scope, String> {
    match path.names() {
        [first, scope, ..] if first.as_str() == CONTAINERS => {
            Scope::container(scope.as_str()).map_err(|e| e.to_string())
        }
        _ => Ok(Scope::Host),
    }
}

/// What is at a path, and whether this console may take it.
///
/// # Errors
/// The clash.
pub(super) fn place(
    tree: &Tree,
    consoles: &Consoles,
    ours: &ConsoleRecord,
    path: &SecretPath,
    kind: Kind,
) -> Result<Place, String> {
    let (folder, name) = path.split_last().ok_or("it is the root of the tree")?;
    let found = tree.find(path).and_then(|ino| Some((ino, tree.get(ino)?)));
    if ours.owned.contains(path) {
        return Ok(found.map_or(Place::Free, |(ino, _)| Place::Ours(ino)));
    }
    match found {
        Some((ino, node)) if node.kind == Kind::Directory && kind == Kind::Directory => Ok(Place::Shared(ino)),
        Some(_) => Err(match consoles.owner(path) {
            Some(other) => format!("it clashes with a secret of the console {other}"),
            None => "it clashes with a secret of this host".into(),
        }),
        None if folder.names().len() == 1 && folder.names()[0].as_str() == CONTAINERS => {
            Err(format!("there is no container's scope {name} here (pinfold scope add)"))
        }
        None => Ok(Place::Free),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> SecretPath {
        SecretPath::parse(text).unwrap()
    }

    #[test]
    fn a_console_stays_below_its_folder() {
        let prefix = path("site/a");
        let at = |text: &str, kind| lies(&prefix, &path(text), kind, None);
        for inside in ["site/a/pin", "site/a/x/y"] {
            assert_eq!(at(inside, Kind::File), Ok(Lies::Within), "{inside}");
        }
        assert_eq!(at("site/a", Kind::Directory), Ok(Lies::Within));
        assert_eq!(at("site", Kind::Directory), Ok(Lies::Above));
        for outside in ["site", "site/b", "site/ab", "pin", "a", "site/b/pin"] {
            assert!(at(outside, Kind::File).unwrap_err().contains("confined"), "{outside}");
            assert_eq!(at(outside, Kind::Directory).is_ok(), outside == "site", "{outside}");
        }
        assert!(lies(&SecretPath::root(), &path("any/where"), Kind::Symlink, None).is_ok());
    }

    #[test]
    fn what_is_kept_for_others_is_refused_whatever_the_prefix() {
        let keys = path("ssh/authorized_keys");
        let at = |text: &str, kind| lies(&SecretPath::root(), &path(text), kind, Some(&keys));
        for bad in ["", ".pinfold/ready", ".pinfold", "containers", "containers/web", "ssh/authorized_keys/root"] {
            assert!(at(bad, Kind::File).is_err(), "{bad}");
        }
        assert!(at("ssh/authorized_keys", Kind::Directory).is_err());
        assert!(at("ssh", Kind::Directory).is_ok());
        assert!(at("ssh/known_hosts", Kind::File).is_ok());
        assert!(at("containers/web/pin", Kind::File).is_ok());
        assert_eq!(scope_of(&path("containers/web/pin")), Ok(Scope::Container("web".into())));
        assert_eq!(scope_of(&path("containers")), Ok(Scope::Host));
        assert!(scope_of(&path("containers/host/pin")).is_err());
    }
}
