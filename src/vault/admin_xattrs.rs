//! What only an admin sets, `user.pinfold.*`, follows the name as its history does: an editor, `sed -i` and `install` write
//! a new file in the place of the old one, and nobody means to drop a condition or a publication by that.
//!
//! Owns which of two files' attributes hold, and that a condition is lost to nothing but pinfold's own command: not to
//! setfattr(1), not to `rsync -X`, not to an admin's file that brings others. Knows nothing of callers but the rule they came
//! by.

use super::VaultError;
use super::node::Node;
use crate::access::Rule;
use crate::model::{EXPIRES_XATTR, Kind, PUBLISH_XATTR, Timestamp, XattrName, is_condition};
use std::collections::BTreeMap;

/// Attributes that only an admin sets.
pub(super) type Ruled = BTreeMap<XattrName, Vec<u8>>;

/// Why a condition is not replaced by another one.
const REPLACED: &str = "a condition is replaced by pinfold's own command alone: pinfold condition PATH";

/// What holds for `node` once it has replaced `target`. An admin's file that brings its own keeps them, beside the
/// conditions of what it replaces.
///
/// # Errors
/// [`VaultError::NotPermitted`] if both have some, and not the same, and who renames is no admin: whichever were kept,
/// the others would be dropped by him; or if one has a condition and the other another one in its place.
pub(super) fn of_renamed(node: &Node, target: &Node, rule: Option<Rule>) -> Result<Ruled, VaultError> {
    let (own, old) = (node.meta.ruled(), target.meta.ruled());
    if node.kind != Kind::File || old.is_empty() || own == old {
        return Ok(own);
    }
    match (own.is_empty(), rule) {
        (true, _) => Ok(old),
        (false, Some(Rule::Admin | Rule::Daemon)) => joined(own, &old),
        (false, Some(Rule::Posix(_) | Rule::ContainerRoot | Rule::Resumed) | None) => {
            Err(VaultError::NotPermitted("only an admin puts a secret with conditions in the place of one with others"))
        }
    }
}

/// A secret takes over a name that was given up, and with it what held there: all of it, or the conditions, if something
/// holds for it already.
///
/// # Errors
/// [`VaultError::NotPermitted`] if it has a condition, and the name another one in its place.
pub(super) fn come_back(node: &mut Node, old: &Ruled) -> Result<(), VaultError> {
    if node.kind != Kind::File || old.is_empty() {
        return Ok(());
    }
    let own = node.meta.ruled();
    let held = if own.is_empty() { old.clone() } else { joined(own, old)? };
    set(node, held);
    Ok(())
}

/// These hold for it, and no others.
pub(super) fn set(node: &mut Node, ruled: Ruled) {
    let old = node.meta.ruled();
    node.meta.xattrs.retain(|name, _| !old.contains_key(name));
    node.meta.xattrs.extend(ruled);
}

/// Whether setfattr(1) may give an attribute this value: it may add a condition, and have a secret end earlier. `held` is
/// what held for the name, if the node has had no content yet.
///
/// # Errors
/// [`VaultError::NotPermitted`] if a condition would be replaced.
pub(super) fn may_set(node: &Node, held: &Ruled, name: &str, value: &[u8]) -> Result<(), VaultError> {
    match node.meta.xattrs.get(name).or_else(|| held.get(name)).filter(|_| is_condition(name)) {
        Some(old) if !narrows(name, old, value) => Err(VaultError::NotPermitted(REPLACED)),
        Some(_) | None => Ok(()),
    }
}

/// Why an attribute is not removed by removexattr(2): `rsync -X` does that to all that the other side has not.
pub(super) fn never_removed(name: &str) -> VaultError {
    VaultError::NotPermitted(match name {
        PUBLISH_XATTR => "a publication goes by pinfold's own command alone: pinfold unpublish PATH",
        _ => "a condition goes by pinfold's own command alone: pinfold condition PATH --clear NAME",
    })
}

/// What a file brings, with the conditions that hold where it comes to.
fn joined(mut own: Ruled, old: &Ruled) -> Result<Ruled, VaultError> {
    for (name, value) in old.iter().filter(|(name, _)| is_condition(name)) {
        match own.get(name) {
            Some(new) if narrows(name, value, new) => {}
            Some(_) => return Err(VaultError::NotPermitted(REPLACED)),
            None => drop(own.insert(name.clone(), value.clone())),
        }
    }
    let of_a_process = own.keys().any(|name| is_condition(name) && name != EXPIRES_XATTR);
    if of_a_process && own.contains_key(PUBLISH_XATTR) {
        return Err(VaultError::NotPermitted("a secret with a unit, exe or label cannot be published as a key"));
    }
    Ok(own)
}

/// Whether the new value of a condition lets in nobody whom the old one kept out.
fn narrows(name: &str, old: &[u8], new: &[u8]) -> bool {
    let end = |value: &[u8]| {
        let text = std::str::from_utf8(value).ok()?.trim();
        humantime::parse_rfc3339_weak(text).ok().map(Timestamp::from)
    };
    old == new || name == EXPIRES_XATTR && end(new).zip(end(old)).is_some_and(|(new, old)| new <= old)
}
