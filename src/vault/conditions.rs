//! Setting and clearing conditions by command: the one way by which they may come to say less.
//!
//! Owns how a change of several becomes one. What a value must look like is `xattr`'s; who may is `access`'s.

use super::change::refuse_entry;
use super::node::Node;
use super::writer::Writer;
use super::{Caller, Change, Vault, VaultError, XattrMode, xattr};
use crate::access::Operation;
use crate::audit;
use crate::model::{CONDITION_PREFIX, Ino, PUBLISH_XATTR, Timestamp};
use crate::wire::{Condition, ConditionInfo, Conditions};

/// What can be cleared.
const NAMES: [&str; 5] = ["exe", "expires", "label", "on-change", "unit"];

impl Vault {
    /// Does what is asked and tells what holds then. It is on the disk when this returns.
    pub(super) fn change_conditions(&self, caller: &impl Caller, asked: &Condition) -> Result<Conditions, VaultError> {
        let ino = self.with_tree(|t| t.find(&asked.path))?.ok_or(VaultError::NotFound)?;
        let wanted = wanted(asked)?;
        if !wanted.is_empty() {
            self.transact(|writer| self.change(writer, caller, ino, &wanted))?;
            self.notify(Change::Node(ino));
        }
        Ok(listed(&*self.node(ino)?))
    }

    fn change(
        &self,
        writer: &mut Writer,
        caller: &impl Caller,
        ino: Ino,
        wanted: &[(String, Option<&str>)],
    ) -> Result<(), VaultError> {
        let (node, path) = self.node_and_path(ino)?;
        let event = audit::Operation::SetXattr;
        self.recording(event, &path, || caller.who(), refuse_entry(&node))?;
        let rule = self.allow(caller, ino, &node, Operation::ChangeConditions, event, &path)?.rule();
        let mut next = (*node).clone();
        let mut told = Vec::new();
        let changed = wanted.iter().try_for_each(|(name, value)| {
            told.extend(apply(&mut next, name, *value)?);
            Ok(())
        });
        self.recording(event, &path, || caller.who(), changed)?;
        if told.is_empty() {
            return Err(VaultError::NothingToDo("it is so already"));
        }
        for what in told {
            self.record(event, &path, None, &caller.who(), &format!("{rule}: {what}"))?;
        }
        next.meta.ctime = Timestamp::now();
        writer.sync();
        self.put(writer, ino, next)
    }
}

/// What is to change, in this order: what goes goes first.
fn wanted(asked: &Condition) -> Result<Vec<(String, Option<&str>)>, VaultError> {
    let name = |short: &str| format!("{CONDITION_PREFIX}{short}");
    let mut all = Vec::new();
    for short in &asked.clear {
        if !NAMES.contains(&short.as_str()) {
            let why =
                if name(short) == PUBLISH_XATTR { "pinfold unpublish takes it back" } else { "no such condition" };
            return Err(VaultError::Invalid(format!("{}: {why}", short.escape_debug())));
        }
        all.push((name(short), None));
    }
    let set = [
        ("unit", &asked.unit),
        ("exe", &asked.exe),
        ("label", &asked.label),
        ("expires", &asked.expires),
        ("on-change", &asked.on_change),
    ];
    all.extend(set.into_iter().filter_map(|(short, value)| Some((name(short), Some(value.as_deref()?)))));
    Ok(all)
}

/// Changes one; says what was done, unless it was so already.
fn apply(node: &mut Node, name: &str, value: Option<&str>) -> Result<Option<String>, VaultError> {
    let old = node.meta.xattrs.get(name).cloned();
    let was = |old: &[u8]| format!(", was {}", String::from_utf8_lossy(old));
    match (value, old) {
        (None, None) => Ok(None),
        (None, Some(old)) => {
            node.meta.xattrs.remove(name);
            Ok(Some(format!("removed {name}{}", was(&old))))
        }
        (Some(value), Some(old)) if old == value.as_bytes() => Ok(None),
        (Some(value), old) => {
            xattr::set_user(node, name, value.as_bytes(), XattrMode::Set)?;
            Ok(Some(format!("set {name} to {value}{}", old.map(|old| was(&old)).unwrap_or_default())))
        }
    }
}

fn listed(node: &Node) -> Conditions {
    let info = |(name, value): (&String, &Vec<u8>)| {
        let short = name.strip_prefix(CONDITION_PREFIX).filter(|short| NAMES.contains(short))?;
        Some(ConditionInfo { name: short.into(), value: String::from_utf8_lossy(value).into_owned() })
    };
    Conditions { conditions: node.meta.xattrs.iter().filter_map(info).collect() }
}
