//! What only an admin sets, `user.pinfold.*`, follows the name as its history does: an editor, `sed -i` and `install` write
//! a new file in the place of the old one, and nobody means to drop a condition or a publication by that.
//!
//! Owns which of two files' attributes hold. Knows nothing of callers but the rule they came by.

use super::VaultError;
use super::node::Node;
use crate::access::Rule;
use crate::model::{Kind, XattrName};
use std::collections::BTreeMap;

/// What holds for `node` once it has replaced `target`. An admin's file that brings its own keeps them.
///
/// # Errors
/// [`VaultError::NotPermitted`] if both have some, and not the same, and who renames is no admin: whichever were kept,
/// the others would be dropped by him.
pub(super) fn of_renamed(
    node: &Node,
    target: &Node,
    rule: Option<Rule>,
) -> Result<BTreeMap<XattrName, Vec<u8>>, VaultError> {
    let (own, old) = (node.meta.ruled(), target.meta.ruled());
    if node.kind != Kind::File || old.is_empty() || own == old {
        return Ok(own);
    }
    match (own.is_empty(), rule) {
        (true, _) => Ok(old),
        (false, Some(Rule::Admin | Rule::Daemon)) => Ok(own),
        (false, Some(Rule::Posix(_) | Rule::ContainerRoot | Rule::Resumed) | None) => {
            Err(VaultError::NotPermitted("only an admin puts a secret with conditions in the place of one with others"))
        }
    }
}

/// A secret takes over a name that was given up, and with it what held there; unless something holds for it already.
pub(super) fn come_back(node: &mut Node, old: &BTreeMap<XattrName, Vec<u8>>) {
    if node.kind == Kind::File && node.meta.ruled().is_empty() {
        node.meta.xattrs.extend(old.clone());
    }
}

/// These hold for it, and no others.
pub(super) fn set(node: &mut Node, ruled: BTreeMap<XattrName, Vec<u8>>) {
    let old = node.meta.ruled();
    node.meta.xattrs.retain(|name, _| !old.contains_key(name));
    node.meta.xattrs.extend(ruled);
}
