//! `pinfold log`: showing, following, checking and rotating the audit log.
//!
//! Owns its lines as people read them. Whoever may open the files, root, reads and checks them by this command itself, with or without a
//! daemon, which only says where the log should end; for an operator the daemon does both.

use super::args::{Log, LogAction};
use super::names::Names;
use super::show::{self, visible};
use super::{Failure, with_stdout};
use crate::audit::{self, Anchor, AuditError, Follow, Record};
use crate::config::Config;
use crate::control::client::{Client, ClientError};
use crate::exit::Exit;
use crate::wire::{CallError, Fault, LogAnchor, LogLines, LogPosition, LogRead, LogRotate, LogVerify};
use std::io::{self, Write};
use std::time::Duration;

/// How often an operator who follows the log asks for more.
const LOOK_EVERY: Duration = Duration::from_millis(200);

impl From<AuditError> for Failure {
    fn from(error: AuditError) -> Self {
        let text = error.to_string();
        match error {
            AuditError::Open { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => Failure::new(Exit::NotFound, text),
                io::ErrorKind::PermissionDenied => {
                    Failure::new(Exit::Refused, text).hint("the audit log is root's: run it as root")
                }
                _ => Failure::new(Exit::Failed, text),
            },
            AuditError::Write { .. } | AuditError::InUse { .. } => Failure::new(Exit::Failed, text),
            AuditError::NotALog { .. } | AuditError::UnknownFormat { .. } => Failure::new(Exit::Damaged, text),
        }
    }
}

/// `pinfold log`
pub fn log(config: &Config, args: Log) -> Result<Exit, Failure> {
    if let Some(LogAction::Rotate) = args.action {
        let rotated = Client::connect(config)?.call(&LogRotate {})?;
        with_stdout(|out| Ok(writeln!(out, "{}", visible(&rotated.rotated))?))?;
        return Ok(Exit::Ok);
    }
    if args.verify {
        return verify(config, args.json);
    }
    let mut names = Names::default();
    let mut out = io::stdout().lock();
    let mut show = |line: &str| -> Result<(), Failure> {
        match Record::parse(line.as_bytes()) {
            Some(record) if !args.json => writeln!(out, "{}", print(&record, &mut names))?,
            // As it is in the file, so that it can be checked; JSON escapes control characters by itself.
            Some(_) => writeln!(out, "{line}")?,
            None => writeln!(out, "{}", visible(line))?,
        }
        Ok(())
    };
    let mut follow = match Follow::open(&config.audit_log, args.lines) {
        Err(error) if is_roots(&error) => return through(config, &args, error.into(), show),
        other => other?,
    };
    for line in follow.read()? {
        show(&line)?;
    }
    if args.follow {
        for line in follow {
            show(&line?)?;
        }
    }
    Ok(Exit::Ok)
}

/// Whether the log cannot be opened because it is root's.
fn is_roots(error: &AuditError) -> bool {
    matches!(error, AuditError::Open { source, .. } if source.kind() == io::ErrorKind::PermissionDenied)
}

/// The daemon, for an operator; `denied` is what is said where there is none.
fn daemon(config: &Config, denied: Failure) -> Result<Client, Failure> {
    match Client::connect(config) {
        Err(ClientError::Unreachable { .. }) => Err(denied),
        other => Ok(other?),
    }
}

/// The lines as the daemon reads them.
fn through(
    config: &Config,
    args: &Log,
    denied: Failure,
    mut show: impl FnMut(&str) -> Result<(), Failure>,
) -> Result<Exit, Failure> {
    let mut client = daemon(config, denied)?;
    let mut read = LogRead { last: Some(args.lines as u64), from: None };
    loop {
        let asked = read;
        client.stream(&asked, |part: LogLines| {
            part.lines.iter().try_for_each(|line| show(line))?;
            if part.next.is_some() {
                read = LogRead { last: None, from: part.next };
            }
            Ok::<_, Failure>(())
        })?;
        if !args.follow {
            return Ok(Exit::Ok);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// One line: when, what, by whom, and why.
fn print(record: &Record, names: &mut Names) -> String {
    let mut line = record.time.clone();
    let mut add = |text: &str| {
        line.push(' ');
        line.push_str(&visible(text));
    };
    if let Some(decision) = record.decision {
        add(decision.as_str());
    }
    add(&record.op);
    if let Some(path) = &record.path {
        add(path);
    }
    if let Some(version) = record.version {
        add(&format!("v{version}"));
    }
    if let Some(uid) = record.uid {
        add(&format!("uid={}", names.user_or_number(uid)));
    }
    if let Some(pid) = record.pid {
        add(&format!("pid={pid}"));
    }
    let found =
        [("exe", &record.exe), ("unit", &record.unit), ("container", &record.container), ("label", &record.label)];
    for (name, value) in found {
        if let Some(value) = value {
            add(&format!("{name}={value}"));
        }
    }
    if let Some(count) = record.count {
        add(&format!("times={count}"));
    }
    if let Some(errno) = &record.errno {
        add(errno);
    }
    if let Some(reason) = &record.reason {
        add(&format!("({reason})"));
    }
    line
}

fn verify(config: &Config, json: bool) -> Result<Exit, Failure> {
    let anchor = anchor(config)?;
    let (report, anchored) = match audit::verify(&config.audit_log, anchor) {
        Err(error) if is_roots(&error) => {
            let checked = daemon(config, error.into())?.call(&LogVerify {})?;
            (checked.report, Some(checked.anchored))
        }
        other => (other?, anchor.map(|anchor| anchor.count)),
    };
    with_stdout(|out| {
        if json {
            return show::json(out, &report);
        }
        for problem in &report.problems {
            writeln!(out, "{}", visible(&problem.to_string()))?;
        }
        for note in &report.notes {
            writeln!(out, "note: {}", visible(&note.to_string()))?;
        }
        let files = report.files.len();
        writeln!(out, "{} lines in {files} file{}", report.lines, if files == 1 { "" } else { "s" })?;
        if let (Some(first), Some(last)) = (&report.first, &report.last) {
            writeln!(out, "from line {} of {} to line {} of {}", first.seq, first.time, last.seq, last.time)?;
        }
        if let Some(anchored) = anchored {
            writeln!(out, "the store vouches for the first {anchored} lines")?;
        }
        Ok(())
    })?;
    if report.problems.is_empty() {
        return Ok(Exit::Ok);
    }
    Err(Failure::new(Exit::Damaged, "the audit log is not whole"))
}

/// What the store vouches for, if a daemon can say; else a warning: then a cut tail does not show.
fn anchor(config: &Config) -> Result<Option<Anchor>, Failure> {
    let asked = Client::connect(config).and_then(|mut client| client.call(&LogAnchor {}));
    match asked {
        Ok(position) => parse(&position).map(Some),
        Err(
            error @ (ClientError::Unreachable { .. }
            | ClientError::Gone
            | ClientError::Call(CallError::Fault(Fault::Locked(_)))),
        ) => {
            let _ = writeln!(io::stderr(), "pinfold: warning: {error}: whether the end is missing cannot be told");
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

fn parse(position: &LogPosition) -> Result<Anchor, Failure> {
    let wrong = || Failure::new(Exit::Failed, "the daemon's anchor is no SHA-256");
    let head = crate::hex::decode_exact(position.head.as_bytes()).ok_or_else(wrong)?;
    Ok(Anchor { count: position.count, head })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_told_without_driving_the_terminal() {
        let json = r#"{"time":"2026-01-02T03:04:05.000006Z","seq":7,"op":"open","path":"svc/pi\u001bn","version":3,
            "uid":0,"gid":0,"pid":12,"exe":"/usr/sbin/nginx","decision":"denied","reason":"not the owner",
            "errno":"EACCES","hash":"00"}"#;
        let record = Record::parse(json.as_bytes()).unwrap();
        assert_eq!(
            print(&record, &mut Names::default()),
            "2026-01-02T03:04:05.000006Z denied open svc/pi\\u{1b}n v3 uid=root pid=12 exe=/usr/sbin/nginx EACCES \
             (not the owner)"
        );
    }

    #[test]
    fn the_anchor_is_hexadecimal() {
        let position = |head: &str| LogPosition { head: head.into(), count: 5 };
        let anchor = parse(&position(&"0a".repeat(32))).unwrap();
        assert_eq!((anchor.count, anchor.head), (5, [10; 32]));
        for bad in ["", &"0a".repeat(31), &"zz".repeat(32), &"é".repeat(32)] {
            assert!(parse(&position(bad)).is_err(), "{bad}");
        }
    }
}
