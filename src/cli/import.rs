//! `pinfold import`: a bundle from a file, from stdin, or whatever lies in the inbox.
//!
//! Owns what is said about an import. The bundle is copied to where nobody else can reach it, and the daemon looks at the copy
//! only.

use super::args::Import;
use super::inbox::Inbox;
use super::incoming::{Incoming, Unfit};
use super::show::{self, visible};
use super::{Failure, accounts, with_stdout};
use crate::config::Config;
use crate::control::client::Client;
use crate::exit::Exit;
use crate::wire::{self, ImportOutcome, ImportReport, Listed};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

/// How long a watch waits after it could not look.
const AGAIN: Duration = Duration::from_secs(1);

/// `pinfold import`
pub fn import(config: &Config, args: Import) -> Result<Exit, Failure> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Failure::new(Exit::Refused, "a bundle is imported by root: its copy lies in the store's folder"));
    }
    let partial = args.partial.then_some(true);
    let Some(file) = &args.file else { return inbox(config, &args, partial) };
    let incoming = Incoming::open(config)?;
    let copy = if file == Path::new("-") {
        incoming.copy_stream(&mut std::io::stdin().lock())
    } else {
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
        let opened = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(file);
        opened.map_err(Unfit::from).and_then(|opened| incoming.copy_file(&opened))
    };
    let copy = copy.map_err(|unfit| unfit.into_failure(&file.display().to_string()))?;
    let mut client = Client::connect(config)?;
    let pretend = args.pretend.then_some(true);
    let report = client.call(&wire::Import { file: copy.name().into(), pretend, partial })?;
    drop(copy);
    let accounts = after(config, &mut client, &report);
    with_stdout(|out| {
        if args.json {
            return show::json(out, &report);
        }
        print(out, &report)?;
        accounts.iter().try_for_each(|line| Ok(writeln!(out, "account {}", visible(line))?))
    })?;
    outcome(&report)
}

fn inbox(config: &Config, args: &Import, partial: Option<bool>) -> Result<Exit, Failure> {
    let inbox = Inbox::open(config)?;
    let mut told = None;
    loop {
        let before = inbox.changed();
        let reports = match inbox.sweep(config, partial) {
            Ok(reports) => reports,
            // A daemon that is locked or starts anew, an inbox that is being mended: what lies there waits.
            Err(failure) if args.watch => {
                if told.as_deref() != Some(failure.message()) {
                    accounts::warn(failure.message());
                    told = Some(failure.message().to_owned());
                }
                std::thread::sleep(AGAIN);
                continue;
            }
            Err(failure) => return Err(failure),
        };
        told = None;
        with_stdout(|out| {
            for report in &reports {
                if args.json { show::json(out, report)? } else { print(out, report)? }
            }
            Ok(())
        })?;
        if !args.watch {
            return Ok(Exit::Ok);
        }
        inbox.wait(before);
    }
}

/// What follows an import that the daemon did: the console may fetch the acknowledgement, the accounts are looked after. Either may
/// fail without making the import a failure. What was done about accounts, a line each.
pub fn after(config: &Config, client: &mut Client, report: &ImportReport) -> Vec<String> {
    let mut done = Vec::new();
    if let Err(failure) = super::incoming::copy_ack(config, report) {
        accounts::warn(&format!("the console cannot fetch the acknowledgement: {}", failure.message()));
    }
    let applied = matches!(report.outcome, ImportOutcome::Applied | ImportOutcome::Partial);
    if applied && config.accounts.group.is_some() {
        // Each that failed was told.
        if let Err(failure) = accounts::look_after(config, client, false, &mut done) {
            accounts::warn(&format!("not all accounts of admins are as they should be: {}", failure.message()));
        }
    }
    done
}

/// What was done, a line each.
pub fn print(out: &mut dyn Write, report: &ImportReport) -> Result<(), Failure> {
    let from = match (&report.console, report.serial) {
        (Some(console), Some(serial)) => format!("bundle {serial} of {}", visible(console)),
        (Some(console), None) => format!("a bundle of {}", visible(console)),
        (None, _) => "a bundle".to_owned(),
    };
    let word = match report.outcome {
        ImportOutcome::Pretended => "would do",
        other => other.as_str(),
    };
    match &report.reason {
        Some(reason) => writeln!(out, "{from}: {word}: {}", visible(reason))?,
        None => writeln!(
            out,
            "{from}: {word}: {} added, {} changed, {} removed, {} unchanged, {} refused",
            report.added.count, report.changed.count, report.removed.count, report.unchanged, report.refused_count
        )?,
    }
    for (sign, listed) in [('+', &report.added), ('~', &report.changed), ('-', &report.removed)] {
        paths(out, sign, listed)?;
    }
    for refused in &report.refused {
        writeln!(out, "! {}: {}", visible(&refused.path), visible(&refused.reason))?;
    }
    let left = report.refused_count.saturating_sub(report.refused.len() as u64);
    if left > 0 {
        writeln!(out, "! and {left} more")?;
    }
    Ok(())
}

fn paths(out: &mut dyn Write, sign: char, listed: &Listed) -> Result<(), Failure> {
    for path in &listed.paths {
        writeln!(out, "{sign} {}", visible(path))?;
    }
    let left = listed.count.saturating_sub(listed.paths.len() as u64);
    if left > 0 {
        writeln!(out, "{sign} and {left} more")?;
    }
    Ok(())
}

fn outcome(report: &ImportReport) -> Result<Exit, Failure> {
    match report.outcome {
        ImportOutcome::Applied | ImportOutcome::Partial | ImportOutcome::Pretended => Ok(Exit::Ok),
        ImportOutcome::Refused => {
            let reason = report.reason.as_deref().unwrap_or("the bundle is refused");
            let failure = Failure::new(Exit::Refused, reason);
            Err(match report.code.as_deref() {
                Some("entries") => failure.hint("mend what is listed, or apply the rest: pinfold import --partial"),
                _ => failure,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::RefusedEntry;

    #[test]
    fn a_report_is_a_line_and_its_paths() {
        let mut added = Listed::default();
        (0..1002).for_each(|n| added.push(format!("a{n}")));
        let report = ImportReport {
            outcome: ImportOutcome::Partial,
            console: Some("hq".into()),
            serial: Some(7),
            code: None,
            reason: None,
            added,
            changed: Listed { count: 1, paths: vec!["b".into()] },
            removed: Listed::default(),
            unchanged: 4,
            refused: vec![RefusedEntry { path: "c\u{1b}".into(), reason: "no".into() }],
            refused_count: 3,
            ack: None,
        };
        let mut out = Vec::new();
        print(&mut out, &report).unwrap();
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "bundle 7 of hq: partial: 1002 added, 1 changed, 0 removed, 4 unchanged, 3 refused");
        assert_eq!(&lines[1000..], ["+ a999", "+ and 2 more", "~ b", "! c\\u{1b}: no", "! and 2 more"]);
        assert_eq!(outcome(&report).unwrap(), Exit::Ok);
        let refused = ImportReport { outcome: ImportOutcome::Refused, code: Some("older".into()), ..report };
        assert_eq!(outcome(&refused).unwrap_err().exit(), Exit::Refused);
    }
}
