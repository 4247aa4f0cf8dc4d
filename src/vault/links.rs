//! Symbolic links inside a container: they lead nowhere but beneath its root.

use super::{Rename, Vault, VaultError};
use crate::access::Rule;
use crate::model::{Ino, Scope, SecretPath};

impl Vault {
    /// Links that somebody inside moves, or that are below a directory which he moves, must still not lead out.
    pub(super) fn confine_moved(&self, ino: Ino, rule: Rule, rename: Rename<'_>) -> Result<(), VaultError> {
        self.with_tree(|tree| {
            let Some(path) = tree.path(rename.new_parent) else { return Ok(()) };
            let Some(node) = tree.get(ino).filter(|node| node.scope != Scope::Host) else { return Ok(()) };
            let scope = &node.scope;
            let mut waiting = vec![(ino, depth_in(scope, &path))];
            while let Some((ino, depth)) = waiting.pop() {
                if let Some(target) = tree.get(ino).and_then(|node| node.target.as_deref()) {
                    confine(scope, rule, target, depth)?;
                }
                waiting.extend(tree.children(ino).into_iter().flatten().map(|(_, child)| (*child, depth + 1)));
            }
            Ok(())
        })?
    }
}

/// How deep below its scope's folder a directory lies.
pub(super) fn depth_in(scope: &Scope, path: &SecretPath) -> usize {
    let above = if *scope == Scope::Host { 0 } else { 2 };
    path.names().len().saturating_sub(above)
}

/// Whether a link in a directory so deep below a folder may lead out of it. What cannot: a relative path, `..` at its beginning
/// only, and no more of them than there are directories to go up. With `..` after a name another link could be gone through
/// first, and then it leads elsewhere than it seems to.
pub(super) fn leads_out(target: &str, depth: usize) -> bool {
    let parts = || target.split('/').filter(|part| !matches!(*part, "" | "."));
    let up = parts().take_while(|part| *part == "..").count();
    target.starts_with('/') || up > depth || parts().skip(up).any(|part| part == "..")
}

/// A link made or moved by somebody inside a container, in a directory so deep below its root, must not lead out.
pub(super) fn confine(scope: &Scope, rule: Rule, target: &str, depth: usize) -> Result<(), VaultError> {
    if *scope == Scope::Host || matches!(rule, Rule::Admin | Rule::Daemon) {
        return Ok(());
    }
    if leads_out(target, depth) {
        return Err(VaultError::NotPermitted(
            "a link made inside a container is relative, has .. at its beginning only, and stays beneath its root",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Class;

    #[test]
    fn only_leading_steps_up_and_no_more_than_there_are() {
        let web = Scope::container("web").unwrap();
        let inside = Rule::Posix(Class::Owner);
        let may = |target: &str, depth| confine(&web, inside, target, depth).is_ok();
        for (target, depth) in [("a", 0), ("./a//b", 0), ("..", 1), ("../../a", 2), (".././../a", 2), ("..a/b..", 0)] {
            assert!(may(target, depth), "{target} at {depth}");
        }
        for (target, depth) in [("/a", 9), ("..", 0), ("../..", 1), ("a/..", 9), ("a/../..", 9), ("../a/../b", 9)] {
            assert!(!may(target, depth), "{target} at {depth}");
        }
        assert!(confine(&web, Rule::Admin, "/anywhere", 0).is_ok());
        assert!(confine(&Scope::Host, inside, "/anywhere", 0).is_ok());
        let deep = SecretPath::parse("containers/web/a/b").unwrap();
        assert_eq!((depth_in(&web, &deep), depth_in(&Scope::Host, &deep)), (2, 4));
    }
}
