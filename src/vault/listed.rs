//! Entries of listings, and of the log, in the words of `wire`.

use super::node::Node;
use super::view::View;
use crate::audit;
use crate::model::{Ino, SecretPath};
use crate::wire::{Entry, Happened};
use std::sync::Arc;

pub(super) fn entry(path: SecretPath, node: &Arc<Node>) -> Entry {
    // As seen inside: that is what is kept, with and without an instance.
    let attr = node.attr(Ino::ROOT, &View::plain());
    Entry {
        path,
        kind: node.kind.into(),
        size: attr.size,
        mode: attr.mode,
        uid: attr.uid,
        gid: attr.gid,
        mtime: attr.mtime,
        version: node.current().map(|v| v.number.0),
        acl: node.meta.acl.is_some() || node.meta.default_acl.is_some(),
        conditions: node.meta.conditions().any(),
        target: node.target.as_ref().map(|t| t.to_string()),
        scope: node.scope.to_string(),
    }
}

pub(super) fn happened(record: audit::Record) -> Option<Happened> {
    let time = humantime::parse_rfc3339(&record.time).ok()?;
    Some(Happened {
        time: time.into(),
        operation: record.op,
        uid: record.uid?,
        pid: record.pid.unwrap_or(0),
        exe: record.exe,
        unit: record.unit,
        container: record.container,
        decision: record.decision.map(|d| d.as_str().to_owned()).unwrap_or_default(),
        reason: record.reason,
        version: record.version,
        count: record.count,
    })
}
