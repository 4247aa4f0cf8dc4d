//! Where an entry of a bundle may go: the prefix that a console is confined to, what is kept for others, and what is there.
//!
//! Owns these rules. They are asked of a tree, the one in force or a draft, and change nothing.

use super::record::{ConsoleRecord, Consoles};
use crate::model::{CONTAINERS, Ino, Kind, Reserved, Scope, SecretPath};
use crate::vault::links::leads_out;
use crate::vault::tree::Tree;

/// How an entry lies to the folder that its console is confined to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lies {
    /// It is that folder, or below it.
    Within,
    /// It is a folder on the way there: it must be there, and is nobody's.
    Above,
    /// It is a folder of this machine's, whoever lists it.
    Kept,
    /// The same, and pinfold serves from it now: it is to be root's.
    Served,
}

/// What is at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Occupant {
    /// It came from this console.
    Ours(Ino),
    /// A directory of somebody else's, and one is wanted: both use it.
    Shared(Ino),
    /// Nothing.
    Free,
}

/// Whether a console may send an entry of this path at all; `reserved` is what the path is kept for.
///
/// # Errors
/// Why not.
pub(super) fn lies(
    prefix: &SecretPath,
    path: &SecretPath,
    kind: Kind,
    reserved: Option<Reserved>,
) -> Result<Lies, String> {
    if path.is_root() {
        return Err("it is the root of the tree".into());
    }
    if reserved == Some(Reserved::Own) {
        return Err("it is pinfold's own: no console sends anything there".into());
    }
    let lies = if is_below(path, prefix) {
        Lies::Within
    } else if is_below(prefix, path) && kind == Kind::Directory {
        Lies::Above
    } else {
        return Err(format!("it is outside {prefix}, to which the console is confined"));
    };
    if kind == Kind::Directory {
        return Ok(if reserved.is_some() { Lies::Kept } else { lies });
    }
    if reserved.is_some() {
        return Err("it is a folder of this host's, which pinfold serves from: a directory and nothing else".into());
    }
    // Everything below would lie where the link leads.
    if path == prefix {
        return Err("it is the folder that the console is confined to: a directory and nothing else".into());
    }
    Ok(lies)
}

/// Whether a symlink of a confined console stays beneath its folder.
///
/// # Errors
/// That it leads out.
pub(super) fn stays_within(prefix: &SecretPath, path: &SecretPath, target: &str) -> Result<(), String> {
    let depth = path.names().len().saturating_sub(prefix.names().len() + 1);
    if !prefix.is_root() && leads_out(target, depth) {
        return Err(format!(
            "it leads out of {prefix}, to which the console is confined: a link there is relative, has .. at its \
             beginning only, and stays beneath it"
        ));
    }
    Ok(())
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
) -> Result<Occupant, String> {
    let (folder, name) = path.split_last().ok_or("it is the root of the tree")?;
    let found = tree.find(path).and_then(|ino| Some((ino, tree.get(ino)?)));
    if ours.owned.contains(path) {
        return Ok(found.map_or(Occupant::Free, |(ino, _)| Occupant::Ours(ino)));
    }
    match found {
        Some((ino, node)) if node.kind == Kind::Directory && kind == Kind::Directory => Ok(Occupant::Shared(ino)),
        Some(_) => Err(match consoles.owner(path) {
            Some(other) => format!("it clashes with a secret of the console {other}"),
            None => "it clashes with a secret of this host".into(),
        }),
        None if folder.names().len() == 1 && folder.names()[0].as_str() == CONTAINERS => {
            Err(format!("there is no container's scope {name} here (pinfold scope add)"))
        }
        None => Ok(Occupant::Free),
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
    fn the_folder_of_a_console_is_no_link_and_its_links_lead_nowhere_else() {
        let prefix = path("site/a");
        for kind in [Kind::Symlink, Kind::File] {
            assert!(lies(&prefix, &prefix, kind, None).unwrap_err().contains("directory and nothing else"));
        }
        let stays = |at: &str, target: &str| stays_within(&prefix, &path(at), target).is_ok();
        for (at, target) in
            [("site/a/l", "x"), ("site/a/l", "./x/y"), ("site/a/d/l", "../x"), ("site/a/d/e/l", "../..")]
        {
            assert!(stays(at, target), "{at} -> {target}");
        }
        for (at, target) in [
            ("site/a/l", "/etc"),
            ("site/a/l", ".."),
            ("site/a/l", "../b"),
            ("site/a/d/l", "../../b"),
            ("site/a/l", "d/.."),
        ] {
            assert!(!stays(at, target), "{at} -> {target}");
        }
        assert!(stays_within(&SecretPath::root(), &path("l"), "/anywhere").is_ok(), "one that has the whole tree");
    }

    #[test]
    fn what_is_kept_for_others_is_refused_whatever_the_prefix() {
        let at = |text: &str, kind| {
            lies(&SecretPath::root(), &path(text), kind, Reserved::of(&path(text), Some(&path("credentials"))))
        };
        for kind in [Kind::File, Kind::Symlink, Kind::Directory] {
            for own in ["", ".pinfold/ready", ".pinfold", "ssh/authorized_keys/root", "ssh/authorized_keys", "admins"] {
                assert!(at(own, kind).is_err(), "{own}");
            }
            for folder in ["ssh", "containers", "containers/web", "credentials"] {
                assert_eq!(at(folder, kind).ok(), (kind == Kind::Directory).then_some(Lies::Kept), "{folder}");
            }
        }
        assert!(at("ssh/known_hosts", Kind::File).is_ok());
        assert!(at("containers/web/pin", Kind::File).is_ok());
        let outside = lies(&path("site"), &path("ssh"), Kind::Directory, Some(Reserved::Folder));
        assert!(outside.unwrap_err().contains("confined"));
        assert_eq!(scope_of(&path("containers/web/pin")), Ok(Scope::Container("web".into())));
        assert_eq!(scope_of(&path("containers")), Ok(Scope::Host));
        assert!(scope_of(&path("containers/host/pin")).is_err());
    }
}
