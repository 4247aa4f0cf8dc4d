//! The commands that look at the tree: ls, history, who.
//!
//! Owns their columns. Names of users and groups are looked up here; the daemon speaks in numbers.

use super::Failure;
use super::args::{Ls, OnePath, Who};
use super::names::Names;
use super::show::{self, Side, visible};
use super::{tree, with_stdout};
use crate::config::Config;
use crate::control::client::{Client, ClientError};
use crate::exit::Exit;
use crate::wire::{self, Entry, GetHistory, Happened, List, NodeKind};
use serde::Serialize;

/// An entry as `--json` shows it: the wire's, and the names.
#[derive(Serialize)]
struct Named<'e> {
    #[serde(flatten)]
    entry: &'e Entry,
    owner: Option<String>,
    group: Option<String>,
}

/// `pinfold ls`
pub fn ls(config: &Config, args: Ls) -> Result<Exit, Failure> {
    let path = tree::path(args.path.as_deref().unwrap_or(""), config)?;
    let list = List { path: path.clone(), recursive: args.recursive, itself: args.directory };
    let mut entries: Vec<Entry> = Vec::new();
    Client::connect(config)?.stream(&list, |part| {
        entries.extend(part.entries);
        Ok::<_, ClientError>(())
    })?;
    let mut names = Names::default();
    if args.json {
        let named: Vec<Named<'_>> = entries
            .iter()
            .map(|entry| Named {
                entry,
                owner: on_host(entry).then(|| names.user(entry.uid).map(str::to_owned)).flatten(),
                group: on_host(entry).then(|| names.group(entry.gid).map(str::to_owned)).flatten(),
            })
            .collect();
        with_stdout(|out| show::json(out, &named))?;
        return Ok(Exit::Ok);
    }
    // A listing of one directory shows what is in it by its last name, as ls(1) does.
    let short = |entry: &Entry| {
        let whole = args.recursive || args.directory || entry.path == path;
        match entry.path.split_last() {
            Some((_, name)) if !whole => visible(name.as_str()).into_owned(),
            Some(_) => visible(&entry.path.to_string()).into_owned(),
            None => ".".into(),
        }
    };
    with_stdout(|out| {
        if !args.long {
            for entry in &entries {
                writeln!(out, "{}", short(entry))?;
            }
            return Ok(());
        }
        let rows: Vec<Vec<String>> = entries.iter().map(|entry| row(entry, short(entry), &mut names)).collect();
        Ok(show::columns(out, &COLUMNS, &rows)?)
    })?;
    Ok(Exit::Ok)
}

/// Whether its owner is one of this machine's: a container's have names of their own inside.
fn on_host(entry: &Entry) -> bool {
    entry.scope == "host"
}

/// Mode, owner, group, size, time, version, name.
const COLUMNS: [Side; 7] = [Side::Left, Side::Left, Side::Left, Side::Right, Side::Left, Side::Right, Side::Left];

fn row(entry: &Entry, name: String, names: &mut Names) -> Vec<String> {
    let name = match &entry.target {
        Some(target) => format!("{name} -> {}", visible(target)),
        None => name,
    };
    let size = if entry.kind == NodeKind::Directory { "-".into() } else { entry.size.to_string() };
    vec![
        show::mode(entry.kind, entry.mode, entry.acl || entry.conditions),
        if on_host(entry) { names.user_or_number(entry.uid) } else { entry.uid.to_string() },
        if on_host(entry) { names.group_or_number(entry.gid) } else { entry.gid.to_string() },
        size,
        show::time(entry.mtime),
        entry.version.map_or_else(|| "-".into(), |v| format!("v{v}")),
        name,
    ]
}

/// `pinfold history`
pub fn history(config: &Config, args: OnePath) -> Result<Exit, Failure> {
    let path = tree::path(&args.path, config)?;
    let versions = Client::connect(config)?.call(&GetHistory { path })?.versions;
    let mut names = Names::default();
    with_stdout(|out| {
        if args.json {
            return show::json(out, &versions);
        }
        let rows: Vec<Vec<String>> = versions
            .iter()
            .map(|v| {
                vec![
                    format!("v{}", v.number),
                    show::time(v.time),
                    v.size.to_string(),
                    v.uid.map_or_else(|| "-".into(), |uid| names.user_or_number(uid)),
                    v.digest.chars().take(16).collect(),
                    if v.current { "current".into() } else { String::new() },
                ]
            })
            .collect();
        let sides = [Side::Right, Side::Left, Side::Right, Side::Left, Side::Left, Side::Left];
        Ok(show::columns(out, &sides, &rows)?)
    })?;
    Ok(Exit::Ok)
}

/// `pinfold who`
pub fn who(config: &Config, args: Who) -> Result<Exit, Failure> {
    let path = tree::path(&args.path, config)?;
    let reply = Client::connect(config)?.call(&wire::Who { path, recent: Some(args.lines), since: None })?;
    let mut names = Names::default();
    with_stdout(|out| {
        if args.json {
            return show::json(out, &reply);
        }
        let rules: Vec<Vec<String>> = reply
            .rules
            .iter()
            .map(|r| {
                let may = if r.allowed { "may read" } else { "may not" };
                vec![may.into(), visible(&names.explain(&r.who)).into_owned(), visible(&r.rule).into_owned()]
            })
            .collect();
        show::columns(out, &[Side::Left; 3], &rules)?;
        if !reply.recent.is_empty() {
            writeln!(out, "\nlast seen:")?;
            let rows: Vec<Vec<String>> = reply.recent.iter().map(|h| happened(h, &mut names)).collect();
            show::columns(out, &[Side::Left; 6], &rows)?;
        }
        Ok(())
    })?;
    Ok(Exit::Ok)
}

fn happened(h: &Happened, names: &mut Names) -> Vec<String> {
    let container = h.container.as_ref().map(|id| format!("container {id}"));
    let program = container.as_deref().or(h.unit.as_deref()).or(h.exe.as_deref()).unwrap_or("-");
    vec![
        show::time(h.time),
        visible(&h.decision).into_owned(),
        match h.count {
            Some(count) => format!("{} ×{count}", visible(&h.operation)),
            None => visible(&h.operation).into_owned(),
        },
        // A container's users have names of their own.
        if h.container.is_none() { names.user_or_number(h.uid) } else { h.uid.to_string() },
        format!("{} ({})", visible(program), h.pid),
        visible(h.reason.as_deref().unwrap_or("")).into_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{SecretPath, Timestamp};

    fn entry() -> Entry {
        Entry {
            path: SecretPath::parse("svc/pin\u{1b}").unwrap(),
            kind: NodeKind::File,
            size: 7,
            mode: 0o640,
            uid: 0,
            gid: 4_000_000_000,
            mtime: Timestamp { secs: 1_700_000_000, nanos: 0 },
            version: Some(3),
            acl: true,
            conditions: false,
            target: None,
            scope: "host".into(),
        }
    }

    #[test]
    fn a_row_is_that_of_ls() {
        let row = row(&entry(), "pin".into(), &mut Names::default());
        assert_eq!(row, ["-rw-r-----+", "root", "4000000000", "7", "2023-11-14T22:13:20Z", "v3", "pin"]);
        let link = Entry { kind: NodeKind::Symlink, target: Some("a\nb".into()), version: None, ..entry() };
        assert_eq!(super::row(&link, "l".into(), &mut Names::default())[6], "l -> a\\nb");
    }

    #[test]
    fn json_has_the_fields_of_the_wire_and_the_names() {
        let entry = entry();
        let named = Named { entry: &entry, owner: Some("root".into()), group: None };
        let json = serde_json::to_value(&named).unwrap();
        assert_eq!(json["path"], "svc/pin\u{1b}");
        assert_eq!(json["kind"], "file");
        assert_eq!(json["owner"], "root");
        assert_eq!(json["mtime"], "2023-11-14T22:13:20.000000Z");
        assert!(json["group"].is_null());
    }
}
