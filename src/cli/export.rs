//! `pinfold export`: bundles by hand, what they would change, and waiting for their delivery.
//!
//! Owns the flags, the layout and the progress bar. What is made and sent, the daemon decides.

use super::show::{self, Side, visible};
use super::{Failure, prompt, take, with_stdout};
use crate::config::{Config, SignWith};
use crate::control::client::Client;
use crate::exit::Exit;
use crate::model::Timestamp;
use crate::secret::Secret;
use crate::wire::{
    self, Difference, ExportPreview, ExportSign, ExportState, Exported, ExportedHost, GetHosts, HostInfo, PreviewHost,
};
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How often the daemon is asked how far it got.
const ASK: Duration = Duration::from_millis(250);
/// Tries after which `--wait` waits no longer: the daemon goes on.
const TRIES: u32 = 3;
/// A next try that is further away than this is not waited for, in seconds.
const SOON: i64 = 30;

/// `export`
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct ExportArgs {
    /// What to do instead
    #[command(subcommand)]
    pub action: Option<ExportAction>,
    /// What and how
    #[command(flatten)]
    pub run: ExportRun,
}

/// What else `export` does.
#[derive(Debug, Subcommand)]
pub enum ExportAction {
    /// Make and sign the bundles that wait for the signing key's passphrase
    Sign(ExportSignArgs),
}

/// `export` without anything else.
#[derive(Debug, Args)]
pub struct ExportRun {
    /// Which hosts [default: all of the policy]
    #[arg(value_name = "HOST")]
    pub hosts: Vec<String>,
    /// Only show what would change since the last bundles, and which line of the policy says so
    #[arg(long, visible_alias = "dry-run", conflicts_with_all = ["again", "wait"])]
    pub pretend: bool,
    /// Also where the content is what was sent last
    #[arg(long)]
    pub again: bool,
    /// Wait until they are delivered, or failed
    #[arg(long)]
    pub wait: bool,
    /// Give up waiting after this long (90s, 5m)
    #[arg(long, value_name = "TIME", requires = "wait", default_value = "10m", value_parser = time)]
    pub timeout: Duration,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `export sign`
#[derive(Debug, Args)]
pub struct ExportSignArgs {
    /// Which hosts [default: all of the policy]
    #[arg(value_name = "HOST")]
    pub hosts: Vec<String>,
    /// Read the signing key's passphrase from FILE, less one newline at its end; - is stdin
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
    /// Wait until they are delivered, or failed
    #[arg(long)]
    pub wait: bool,
    /// Give up waiting after this long (90s, 5m)
    #[arg(long, value_name = "TIME", requires = "wait", default_value = "10m", value_parser = time)]
    pub timeout: Duration,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

fn time(text: &str) -> Result<Duration, String> {
    crate::config::parse_duration(text).ok_or_else(|| "a duration like 90s, 2m or 12h".into())
}

/// `pinfold export`
pub fn export(config: &Config, args: ExportArgs) -> Result<Exit, Failure> {
    match args.action {
        Some(ExportAction::Sign(args)) => sign(config, args),
        None if args.run.pretend => pretend(config, args.run),
        None => run(config, args.run),
    }
}

fn run(config: &Config, args: ExportRun) -> Result<Exit, Failure> {
    let mut client = Client::connect(config)?;
    let asked = wire::Export { hosts: Some(args.hosts), again: Some(args.again) };
    let exported = client.call(&asked)?;
    finish(&mut client, exported, args.wait.then_some(args.timeout), args.json)
}

fn sign(config: &Config, args: ExportSignArgs) -> Result<Exit, Failure> {
    let passphrase = match (&args.passphrase_file, &config.export.signer) {
        (Some(file), _) => Some(take::passphrase(file)?),
        (None, SignWith::Manual) => Some(prompt::ask("Passphrase of the signing key: ")?),
        (None, SignWith::Auto | SignWith::Agent(_)) => None,
    };
    let mut client = Client::connect(config)?;
    let exported = client.call(&ExportSign { hosts: Some(args.hosts), passphrase })?;
    finish(&mut client, exported, args.wait.then_some(args.timeout), args.json)
}

/// Waits if that was asked for, and tells what became of each host.
fn finish(client: &mut Client, mut exported: Exported, wait: Option<Duration>, json: bool) -> Result<Exit, Failure> {
    let mut undelivered = BTreeMap::new();
    if let Some(timeout) = wait {
        undelivered = deliveries(client, &exported.hosts, timeout)?;
        for host in &mut exported.hosts {
            if let Some(why) = undelivered.get(&host.host) {
                host.error = Some(why.clone());
            }
        }
    }
    with_stdout(|out| if json { show::json(out, &exported.hosts) } else { print(out, &exported.hosts) })?;
    let is = |state| exported.hosts.iter().any(|host| host.state == state);
    if is(ExportState::Failed) || !undelivered.is_empty() {
        return Ok(Exit::Failed);
    }
    if is(ExportState::Unsigned) {
        return Err(Failure::new(Exit::Refused, "bundles wait for a signature").hint("pinfold export sign"));
    }
    Ok(if is(ExportState::Made) || wait.is_some() { Exit::Ok } else { Exit::NothingToDo })
}

fn print(out: &mut dyn Write, hosts: &[ExportedHost]) -> Result<(), Failure> {
    let row = |host: &ExportedHost| {
        let state = match host.state {
            ExportState::Made => "made",
            ExportState::Unchanged => "unchanged",
            ExportState::Unsigned => "unsigned",
            ExportState::Failed => "failed",
        };
        vec![
            visible(&host.host).into_owned(),
            state.into(),
            host.serial.map_or_else(|| "-".into(), |serial| serial.to_string()),
            host.error.as_deref().map(|e| visible(e).into_owned()).unwrap_or_default(),
        ]
    };
    let rows: Vec<Vec<String>> = hosts.iter().map(row).collect();
    Ok(show::columns(out, &[Side::Left; 4], &rows)?)
}

/// Waits until each of these hosts has its newest bundle. Those that have not, and why.
fn deliveries(
    client: &mut Client,
    hosts: &[ExportedHost],
    timeout: Duration,
) -> Result<BTreeMap<String, String>, Failure> {
    let mut left: BTreeMap<String, u64> = BTreeMap::new();
    for host in hosts {
        left.extend(
            host.serial.filter(|_| host.state != ExportState::Failed).map(|serial| (host.host.clone(), serial)),
        );
    }
    let bar = bar(left.len() as u64);
    let until = Instant::now() + timeout;
    let mut failed = BTreeMap::new();
    while !left.is_empty() {
        let mut now: BTreeMap<String, HostInfo> = BTreeMap::new();
        client.stream(&GetHosts {}, |part| {
            now.extend(part.hosts.into_iter().map(|host| (host.host.clone(), host)));
            Ok::<(), Failure>(())
        })?;
        left.retain(|name, serial| {
            let verdict =
                now.get(name).map_or(Some(Err("the policy has it no more".into())), |host| done(host, *serial));
            match verdict {
                None => return true,
                Some(Ok(())) => {}
                Some(Err(why)) => drop(failed.insert(name.clone(), why)),
            }
            bar.inc(1);
            false
        });
        if Instant::now() >= until {
            failed.extend(left.into_keys().map(|name| (name, "not delivered in time".to_owned())));
            break;
        }
        if !left.is_empty() {
            std::thread::sleep(ASK);
        }
    }
    bar.finish_and_clear();
    Ok(failed)
}

/// Whether a host has that bundle, or will not have it soon.
fn done(host: &HostInfo, serial: u64) -> Option<Result<(), String>> {
    if host.delivered.is_some_and(|delivered| delivered >= serial) || host.deliver.is_none() {
        return Some(Ok(()));
    }
    let soon = |at: Timestamp| at.secs - Timestamp::now().secs <= SOON;
    let given_up = host.tries >= TRIES || (host.tries > 0 && !host.next_try.is_some_and(soon));
    match &host.error {
        Some(error) if given_up => Some(Err(error.clone())),
        Some(_) | None => None,
    }
}

/// On a terminal only.
fn bar(hosts: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:32} {pos} of {len} hosts  {elapsed}").expect("it is a template");
    ProgressBar::new(hosts).with_style(style)
}

fn pretend(config: &Config, args: ExportRun) -> Result<Exit, Failure> {
    let mut hosts: Vec<PreviewHost> = Vec::new();
    let asked = ExportPreview { hosts: Some(args.hosts) };
    Client::connect(config)?.stream(&asked, |part| {
        hosts.extend(part.hosts);
        Ok::<(), Failure>(())
    })?;
    with_stdout(|out| {
        if args.json {
            return show::json(out, &hosts);
        }
        hosts.iter().try_for_each(|host| print_preview(out, host))
    })?;
    let nothing = hosts.iter().all(|host| host.changes.is_empty());
    Ok(if nothing { Exit::NothingToDo } else { Exit::Ok })
}

fn print_preview(out: &mut dyn Write, host: &PreviewHost) -> Result<(), Failure> {
    let entries = if host.entries == 1 { "1 entry".into() } else { format!("{} entries", host.entries) };
    let what = if host.changes.is_empty() { "nothing changes" } else { "would change" };
    writeln!(out, "{}: {entries}, {what}", visible(&host.host))?;
    if let Some(error) = &host.error {
        writeln!(out, "  no bundle can be made: {}", visible(error))?;
    }
    let rows: Vec<Vec<String>> = host
        .changes
        .iter()
        .map(|change| {
            let sign = match change.change {
                Difference::Added => "  +",
                Difference::Changed => "  ~",
                Difference::Removed => "  -",
            };
            let what = match (&change.path, &change.admin) {
                (Some(path), _) => visible(path).into_owned(),
                (None, Some(admin)) => format!("admin {}", visible(admin)),
                (None, None) => "-".into(),
            };
            let why = match (change.line, &change.rule) {
                (Some(line), Some(rule)) => format!("line {line}: {}", visible(rule)),
                (Some(line), None) => format!("line {line}"),
                (None, _) => String::new(),
            };
            vec![sign.into(), what, why]
        })
        .collect();
    Ok(show::columns(out, &[Side::Left; 3], &rows)?)
}

/// A new passphrase for a signing key: from a file, or typed twice.
pub fn new_passphrase(file: Option<&PathBuf>, config: &Config) -> Result<Option<Secret>, Failure> {
    match (file, &config.export.signer) {
        (Some(file), _) => take::passphrase(file).map(Some),
        (None, SignWith::Manual) => prompt::ask_twice("New passphrase of the signing key: ").map(Some),
        (None, SignWith::Auto | SignWith::Agent(_)) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preview_names_the_line_of_the_policy() {
        let change = |change, path: Option<&str>, admin: Option<&str>, line, rule: Option<&str>| wire::PreviewChange {
            change,
            path: path.map(Into::into),
            admin: admin.map(Into::into),
            line,
            rule: rule.map(Into::into),
        };
        let host = PreviewHost {
            host: "h1".into(),
            entries: 3,
            error: None,
            changes: vec![
                change(Difference::Added, Some("nut/pin"), None, Some(4), Some("nut/*")),
                change(Difference::Changed, None, Some("alice"), Some(5), None),
                change(Difference::Removed, Some("x\u{1b}y"), None, None, None),
            ],
        };
        let mut out = Vec::new();
        print_preview(&mut out, &host).unwrap();
        let expected =
            "h1: 3 entries, would change\n  +  nut/pin      line 4: nut/*\n  ~  admin alice  line 5\n  -  x\\u{1b}y\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn a_delivery_is_over_when_it_came_or_when_nobody_tries_again() {
        let host = |delivered, tries, error: Option<&str>, retry: bool| HostInfo {
            host: "h".into(),
            deliver: Some("dir:/x".into()),
            delivered,
            tries,
            error: error.map(Into::into),
            next_try: retry.then(Timestamp::now),
            ..HostInfo::default()
        };
        assert_eq!(done(&host(Some(7), 0, None, false), 7), Some(Ok(())));
        assert_eq!(done(&host(Some(6), 0, None, false), 7), None);
        assert_eq!(done(&host(None, 1, Some("no route"), true), 7), None);
        assert_eq!(done(&host(None, 3, Some("no route"), true), 7), Some(Err("no route".into())));
        assert_eq!(done(&host(None, 1, Some("no such folder"), false), 7), Some(Err("no such folder".into())));
        let nobody = HostInfo { deliver: None, ..host(None, 0, None, false) };
        assert_eq!(done(&nobody, 7), Some(Ok(())));
    }
}
