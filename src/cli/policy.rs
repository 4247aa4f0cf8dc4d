//! `pinfold policy`: is the policy right, and what does it say?
//!
//! Owns how faults and the permission table are shown. It needs no daemon, and changes nothing.

use super::args::{Policy as Typed, PolicyAction, PolicyCheck, PolicyShow};
use super::failure::Failure;
use super::show::{self, Side, visible};
use super::with_stdout;
use crate::bundle::PublicKey;
use crate::config::Config;
use crate::delivery::Target;
use crate::exit::Exit;
use crate::model::HostName;
use crate::policy::{Because, Faults, Policy, PolicyError, PolicyFault};
use crate::policy_file;
use crate::stream::{Recipient, RecipientUse};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::io::Write;
use std::path::{Path, PathBuf};

/// The most rows that are shown at once.
const ROWS_MAX: usize = 1_000_000;

/// `pinfold policy`
pub fn policy(config: &Config, args: Typed) -> Result<Exit, Failure> {
    match args.action {
        PolicyAction::Check(args) => check(config, args),
        PolicyAction::Show(args) => show(config, args),
    }
}

fn file(config: &Config, typed: Option<PathBuf>) -> PathBuf {
    typed.unwrap_or_else(|| config.policy.clone())
}

fn check(config: &Config, args: PolicyCheck) -> Result<Exit, Failure> {
    let path = file(config, args.file);
    let none = Faults::default();
    let read = policy_file::read(&path).and_then(|text| Ok((Policy::parse(&text, &path)?, text)));
    let (policy, faults) = match read {
        Ok(read) => (Some(read), none),
        Err(PolicyError::Wrong { faults, .. }) => (None, faults),
        Err(error) => return Err(unreadable(error)),
    };
    let none = Faults::default();
    let warnings = policy.as_ref().map_or(&none, |(policy, _)| policy.warnings());
    let hosts = match &policy {
        Some((policy, text)) => judged(policy, text),
        None => Faults::default(),
    };
    if args.json {
        let all = json!({
            "file": path.display().to_string(),
            "in_force": policy.is_some(),
            "errors": faults.told.iter().map(fault_json).collect::<Vec<_>>(),
            "more_errors": faults.untold,
            "host_errors": hosts.told.iter().map(fault_json).collect::<Vec<_>>(),
            "more_host_errors": hosts.untold,
            "warnings": warnings.told.iter().map(fault_json).collect::<Vec<_>>(),
            "more_warnings": warnings.untold,
        });
        with_stdout(|out| show::json(out, &all))?;
    } else {
        print("warning", &path, warnings);
        print("error", &path, &hosts);
    }
    let Some((policy, _)) = policy else { return Err(wrong(&path, &faults, args.json)) };
    if !hosts.is_empty() {
        let path = path.display();
        let message = format!("{path}: {} of hosts; the others get what is theirs", counted(hosts.count(), "error"));
        return Err(Failure::new(Exit::Usage, message));
    }
    if !args.json {
        let (hosts, users) = (policy.hosts().len(), policy.table().count());
        with_stdout(|out| {
            let path = path.display().to_string();
            Ok(writeln!(out, "{}: {}, {}", visible(&path), counted(hosts, "host"), counted(users, "admin"))?)
        })?;
    }
    Ok(Exit::Ok)
}

/// What a host's line says that the policy takes as text: each mistake harms that host alone.
fn judged(policy: &Policy, text: &str) -> Faults {
    let lines: Vec<&str> = text.split('\n').collect();
    let mut faults = Faults::default();
    for host in policy.hosts() {
        let mut judge = |key: &str, error: String| {
            let number = host.because.line;
            let line = usize::try_from(number).ok().and_then(|n| lines.get(n.checked_sub(1)?)).copied();
            let line = line.unwrap_or_default().trim_start_matches('\u{feff}').trim_end_matches('\r');
            faults.push(|| PolicyFault::at(number, host.column(key), line, format!("host {}: {error}", host.name)));
        };
        if let Err(error) = Recipient::parse(&host.recipient, RecipientUse::Host) {
            judge("recipient", error.to_string());
        }
        if let Some(Err(error)) = host.ack.as_deref().map(PublicKey::parse) {
            judge("ack", error.to_string());
        }
        for (key, address) in [("deliver", host.deliver.as_deref()), ("ack-from", host.ack_from())] {
            if let Some(Err(error)) = address.map(Target::parse) {
                judge(key, error.to_string());
            }
        }
    }
    faults.sort();
    faults
}

fn counted(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

fn show(config: &Config, args: PolicyShow) -> Result<Exit, Failure> {
    let path = file(config, args.file);
    let policy = match policy_file::load(&path) {
        Ok(policy) => policy,
        Err(PolicyError::Wrong { faults, .. }) => return Err(wrong(&path, &faults, false)),
        Err(error) => return Err(unreadable(error)),
    };
    let machines = policy.machines();
    let host = match &args.host {
        None => None,
        Some(host) => {
            let name = HostName::parse(host).map_err(|e| Failure::usage(e.to_string()))?;
            if !machines.contains(&name.as_str()) {
                return Err(Failure::new(Exit::NotFound, format!("the policy has no host '{name}'")));
            }
            Some(name)
        }
    };
    let table = table(&policy, host.as_ref(), args.user.as_deref())?;
    let shares = if args.user.is_some() { Vec::new() } else { shares(&policy, host.as_ref(), &machines)? };
    if let (Some(user), true) = (&args.user, table.is_empty()) {
        let what = host.map_or_else(|| "no host".into(), |host| format!("not {host}"));
        return Err(Failure::new(Exit::NotFound, format!("'{user}' administers {what}")));
    }
    if args.json {
        let hosts: Vec<Value> = policy
            .hosts()
            .iter()
            .filter(|h| host.as_ref().is_none_or(|only| h.name == *only))
            .map(|h| {
                json!({"name": h.name, "recipient": h.recipient, "options": h.options, "line": h.because.line,
                       "note": h.because.note})
            })
            .collect();
        let admins: Vec<Value> =
            table.iter().map(|row| json!({"user": row.user, "host": row.host, "because": row.because})).collect();
        let shares: Vec<Value> = shares
            .iter()
            .map(|row| json!({"host": row.host, "pattern": row.pattern, "because": [row.because]}))
            .collect();
        let all = json!({"file": path.display().to_string(), "hosts": hosts, "admins": admins, "shares": shares});
        return with_stdout(|out| show::json(out, &all)).map(|()| Exit::Ok);
    }
    with_stdout(|out| {
        let cell = |text: &str| visible(text).into_owned();
        let mut rows = vec![["USER", "HOST", "LINE", "NOTE"].map(str::to_owned).to_vec()];
        for row in &table {
            let lines: Vec<String> = row.because.iter().map(|b| b.line.to_string()).collect();
            let notes: Vec<&str> = row.because.iter().map(|b| b.note.as_str()).filter(|n| !n.is_empty()).collect();
            rows.push(vec![cell(row.user), cell(row.host), lines.join(","), cell(&notes.join(", "))]);
        }
        let sides = [Side::Left, Side::Left, Side::Right, Side::Left];
        show::columns(out, &sides, &rows)?;
        if !shares.is_empty() {
            writeln!(out)?;
            let mut rows = vec![["HOST", "PATTERN", "LINE", "NOTE"].map(str::to_owned).to_vec()];
            let row = |row: &Shared<'_>| {
                vec![cell(row.host), cell(row.pattern), row.because.line.to_string(), cell(&row.because.note)]
            };
            rows.extend(shares.iter().map(row));
            show::columns(out, &sides, &rows)?;
        }
        Ok(())
    })?;
    Ok(Exit::Ok)
}

/// Somebody, somewhere.
struct Permitted<'p> {
    user: &'p str,
    host: &'p str,
    because: Vec<&'p Because>,
}

/// Something, somewhere.
struct Shared<'p> {
    host: &'p str,
    pattern: &'p str,
    because: &'p Because,
}

fn table<'p>(policy: &'p Policy, host: Option<&HostName>, user: Option<&str>) -> Result<Vec<Permitted<'p>>, Failure> {
    let mut rows = Vec::new();
    for row in policy.table().filter(|row| user.is_none_or(|only| row.user == only)) {
        for (at, because) in row.hosts {
            if host.is_none_or(|only| at == only.as_str()) {
                rows.push(Permitted { user: row.user, host: at, because });
            }
        }
        bounded(rows.len())?;
    }
    Ok(rows)
}

fn shares<'p>(policy: &'p Policy, host: Option<&HostName>, all: &[&'p str]) -> Result<Vec<Shared<'p>>, Failure> {
    let mut rows = Vec::new();
    for name in all.iter().filter(|name| host.is_none_or(|only| **name == only.as_str())) {
        let Ok(host) = HostName::parse(name) else { continue };
        let shared = policy.shares_of(&host).into_iter();
        rows.extend(shared.map(|(glob, because)| Shared { host: name, pattern: glob.as_str(), because }));
        bounded(rows.len())?;
    }
    Ok(rows)
}

fn bounded(rows: usize) -> Result<(), Failure> {
    if rows <= ROWS_MAX {
        return Ok(());
    }
    let message = format!("the table has more than {ROWS_MAX} rows");
    Err(Failure::new(Exit::Failed, message).hint("ask for one: --host HOST, --user USER"))
}

fn fault_json(fault: &PolicyFault) -> Value {
    json!({"line": fault.line, "column": fault.column, "message": fault.message, "hint": fault.hint})
}

fn unreadable(error: PolicyError) -> Failure {
    let exit = match &error {
        PolicyError::Read { source, .. } if source.kind() == std::io::ErrorKind::NotFound => Exit::NotFound,
        PolicyError::Read { .. } => Exit::Failed,
        PolicyError::Unsafe { .. } => Exit::Refused,
        PolicyError::Wrong { .. } => Exit::Usage,
    };
    let hint = match &error {
        PolicyError::Unsafe { path, .. } => Some(format!("chown root {0} && chmod go-w {0}", path.display())),
        _ => None,
    };
    let failure = Failure::new(exit, error.to_string());
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

/// Tells all that is wrong, and ends so.
fn wrong(path: &Path, faults: &Faults, told: bool) -> Failure {
    if !told {
        print("error", path, faults);
    }
    let path = path.display();
    Failure::new(Exit::Usage, format!("{path}: {}, so it is not in force", counted(faults.count(), "error")))
}

/// Each with its line and a caret, on stderr.
fn print(kind: &str, path: &Path, faults: &Faults) {
    let path = path.display().to_string();
    let mut text = String::new();
    for fault in &faults.told {
        let _ =
            write!(text, "pinfold: {kind}: {}:{}\n{}", visible(&path), visible(&fault.to_string()), fault.picture());
        if let Some(hint) = &fault.hint {
            let _ = writeln!(text, "pinfold: hint: {}", visible(hint));
        }
    }
    if faults.untold > 0 {
        let _ = writeln!(text, "pinfold: {kind}: and {} more", faults.untold);
    }
    // Where stderr is closed there is nobody to tell.
    let _ = std::io::stderr().write_all(text.as_bytes());
}
