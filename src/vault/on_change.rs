//! Which units want to hear that a secret has another content: `user.pinfold.on-change`.
//!
//! Owns the attribute's form, and the question whether a content is another one. It starts nothing: `daemon` does.

use super::node::{Node, Version};
use super::{Vault, VaultError};
use crate::access::{Operation, ScopeState};
use crate::caller::Daemon;
use crate::model::Ino;
use std::sync::mpsc::Sender;

/// The attribute.
pub const ON_CHANGE: &str = "user.pinfold.on-change";
/// What has processes and can be reloaded (systemd.unit(5)).
const KINDS: [&str; 3] = [".service", ".socket", ".target"];

/// What is to be done with a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// It reads its secrets again.
    Reload,
    /// It is started again, if it runs.
    Restart,
}

/// A unit, and what is to be done with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Action {
    /// What.
    pub verb: Verb,
    /// The unit's full name.
    pub unit: String,
}

impl Action {
    /// `reload:UNIT` or `restart:UNIT`.
    pub fn parse(text: &str) -> Option<Self> {
        let (verb, unit) = text.split_once(':')?;
        let verb = match verb {
            "reload" => Verb::Reload,
            "restart" => Verb::Restart,
            _ => return None,
        };
        let stem = KINDS.iter().find_map(|kind| unit.strip_suffix(kind))?;
        // A name that begins with a dash would be an option of systemctl, a wildcard more than one unit.
        let plain = stem.bytes().all(|b| b.is_ascii_alphanumeric() || b":-_.\\@".contains(&b));
        let sound = plain && !stem.is_empty() && !stem.starts_with('-') && unit.len() <= 255;
        sound.then(|| Action { verb, unit: unit.into() })
    }
}

/// A secret whose unit wants to hear of it has a new version.
#[derive(Debug)]
pub struct Touched {
    /// Which.
    pub ino: Ino,
    /// What it had before; `None` for its first.
    before: Option<Version>,
}

impl Touched {
    /// One of which nobody knows what it had before.
    pub(super) fn without_before(ino: Ino) -> Self {
        Touched { ino, before: None }
    }
}

/// What a change of a node in the tree means for its unit.
pub(super) fn touched(ino: Ino, old: Option<&Node>, new: &Node) -> Option<Touched> {
    if !new.meta.xattrs.contains_key(ON_CHANGE) || new.last_number == 0 {
        return None;
    }
    // A secret renamed into place took over the history of the name: what was there is its last version but one.
    let is_new = old.is_none_or(|old| old.last_number != new.last_number);
    is_new.then(|| Touched { ino, before: new.versions.iter().rev().nth(1).cloned() })
}

impl Vault {
    /// Where secrets are told whose unit wants to hear of a change. Only the first counts.
    pub fn notify_units(&self, to: Sender<Touched>) {
        let _ = self.on_change.set(to);
    }

    pub(super) fn notify_unit(&self, touched: Option<Touched>) {
        if let (Some(touched), Some(to)) = (touched, self.on_change.get()) {
            // Nobody listens any more while the daemon ends.
            let _ = to.send(touched);
        }
    }

    /// What is to be done after these, the oldest first; nothing where the content is byte for byte what it was before the first of
    /// them. With the secret's path.
    pub fn actions(&self, touched: &[Touched]) -> Vec<(String, Action)> {
        let first = |i: usize| touched[..i].iter().all(|t| t.ino != touched[i].ino);
        let each = (0..touched.len()).filter(|i| first(*i)).map(|i| &touched[i]);
        each.filter_map(|touched| match self.action(touched) {
            Ok(action) => action,
            Err(VaultError::NotFound | VaultError::Locked) => None,
            Err(error) => {
                tracing::warn!(%error, "whether a unit should hear of a change cannot be told");
                None
            }
        })
        .collect()
    }

    fn action(&self, touched: &Touched) -> Result<Option<(String, Action)>, VaultError> {
        let (node, path) = self.node_and_path(touched.ino)?;
        let Some(value) = node.meta.xattrs.get(ON_CHANGE) else { return Ok(None) };
        let Some(action) = std::str::from_utf8(value).ok().and_then(|text| Action::parse(text.trim())) else {
            return Ok(None);
        };
        if let Some(before) = &touched.before
            && self.is_same(touched.ino, &node, before)?
        {
            return Ok(None);
        }
        Ok(Some((path, action)))
    }

    /// Whether the current content is what that version was. One that is not kept any more was another.
    fn is_same(&self, ino: Ino, node: &Node, before: &Version) -> Result<bool, VaultError> {
        let Some(current) = node.current() else { return Ok(false) };
        if current.size != before.size || !node.versions.contains(before) {
            return Ok(current.blob == before.blob);
        }
        // Decided as the daemon's own work; the scope's key is looked at when it is read.
        let grant = self.judge(&Daemon, ino, node, ScopeState::Alive, Operation::Read)?;
        let kek = self.keys()?.kek(&node.scope).map_err(|_| VaultError::Denied(crate::access::Denial::NoKey))?;
        let (now, then) = (self.decrypt(&grant, &kek, Some(current))?, self.decrypt(&grant, &kek, Some(before))?);
        Ok(now.expose() == then.expose())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_names_of_units_are_taken() {
        let action = |text| Action::parse(text).map(|a| (a.verb, a.unit));
        assert_eq!(action("reload:nginx.service"), Some((Verb::Reload, "nginx.service".into())));
        assert_eq!(
            action("restart:dirsrv@slapd\\x2da.service"),
            Some((Verb::Restart, "dirsrv@slapd\\x2da.service".into()))
        );
        for bad in [
            "",
            "reload:",
            "reload:nginx",
            "stop:nginx.service",
            "reload:-H.service",
            "reload:*.service",
            "reload:a b.service",
            "reload:../a.service",
            "reload:.service",
            "reload:a.service b.service",
        ] {
            assert_eq!(action(bad), None, "{bad}");
        }
    }
}
