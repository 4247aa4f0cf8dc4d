//! Rotation over a pattern: it goes on whatever becomes of one of them, says what became of each, and ends with a code
//! that says whether all were done.
//!
//! Owns the output and the progress bar. An interrupt lets the one that is under way end.

use super::super::args::{Rotate, Which};
use super::super::remote::{self, FarSide};
use super::super::{Failure, checked, generate, selected, typed, with_stdout};
use super::{Ledger, RotationOutcome, resume, rotate};
use crate::cli::show;
use crate::config::Config;
use crate::control::client::{Client, ClientError};
use crate::exit::Exit;
use crate::model::PasswordName;
use crate::secret::Secret;
use crate::wire::{
    CallError, Fault, Keep, PasswordEntry, RotationBegin, RotationEnd, RotationMark, RotationOpen, RotationOpened,
    RotationState, next_password_after,
};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The daemon keeps the state.
struct Daemon<'c> {
    config: &'c Config,
    client: Option<Client>,
}

impl Daemon<'_> {
    /// A connection is closed after half a minute of silence, and a far side may take longer: each call makes its own if
    /// it has to.
    fn call<M: crate::wire::Method>(&mut self, parameters: &M) -> Result<M::Reply, Fault> {
        let mut client = match self.client.take() {
            Some(client) => client,
            None => Client::connect(self.config).map_err(fault)?,
        };
        let reply = match client.call(parameters) {
            // It was closed while we did other things, before it was asked.
            Err(ClientError::Gone) => {
                client = Client::connect(self.config).map_err(fault)?;
                client.call(parameters)
            }
            reply => reply,
        };
        self.client = Some(client);
        reply.map_err(fault)
    }
}

fn fault(error: ClientError) -> Fault {
    match error {
        ClientError::Call(CallError::Fault(fault)) => fault,
        other => Fault::Failed(other.to_string()),
    }
}

impl Ledger for Daemon<'_> {
    fn begin(&mut self, name: &PasswordName, next: Secret) -> Result<(), Fault> {
        self.call(&RotationBegin { name: name.clone(), content: next }).map(|_| ())
    }

    fn open(&mut self, name: &PasswordName) -> Result<RotationOpened, Fault> {
        loop {
            match self.call(&RotationOpen { name: name.clone() }) {
                // So many a minute; the rotation is begun, and nothing has happened to it.
                Err(fault) => match next_password_after(&fault) {
                    Some(wait) => std::thread::sleep(wait),
                    None => return Err(fault),
                },
                opened => return opened,
            }
        }
    }

    fn mark(&mut self, name: &PasswordName, from: RotationState, to: RotationState) -> Result<(), Fault> {
        self.call(&RotationMark { name: name.clone(), from, to }).map(|_| ())
    }

    fn end(&mut self, name: &PasswordName, keep: Keep, verified: bool) -> Result<(), Fault> {
        self.call(&RotationEnd { name: name.clone(), keep, verified }).map(|_| ())
    }
}

/// What became of one, as JSON says it.
#[derive(Serialize)]
struct Line {
    name: PasswordName,
    /// `rotated`, `kept`, `would rotate`, `would resume`, `failed`, `not begun`.
    outcome: &'static str,
    /// `old`, `new`, `either`: what the far side takes, as far as it is known; null where nothing was done.
    valid: Option<&'static str>,
    reason: Option<String>,
    #[serde(skip)]
    done: bool,
    #[serde(skip)]
    exit: Exit,
}

impl Line {
    fn new(name: PasswordName, outcome: &'static str, valid: Option<&'static str>) -> Self {
        Line { name, outcome, valid, reason: None, done: true, exit: Exit::Ok }
    }

    fn failed(name: PasswordName, valid: Option<&'static str>, exit: Exit, reason: String) -> Self {
        Line { reason: Some(reason), done: false, exit, ..Line::new(name, "failed", valid) }
    }

    fn of(name: PasswordName, outcome: RotationOutcome) -> Self {
        match outcome {
            RotationOutcome::Rotated => Line::new(name, "rotated", Some("new")),
            RotationOutcome::StillOld(why) => Line::failed(name, Some("old"), Exit::Failed, why),
            RotationOutcome::Undecided(state, why) => Line::failed(name, Some(state.valid()), Exit::Failed, why),
            RotationOutcome::NotStored(fault) => Line::failed(name, None, fault.exit(), fault.reason().to_owned()),
        }
    }

    fn text(&self) -> String {
        let valid = match (self.done, self.valid) {
            (false, Some("either")) => ", either may be valid".to_owned(),
            (false, Some(valid)) => format!(", the {valid} one is valid"),
            _ => String::new(),
        };
        let reason = self.reason.as_ref().map(|why| format!(": {}", show::visible(why))).unwrap_or_default();
        format!("{} {}{valid}{reason}", self.outcome, self.name)
    }
}

/// `pinfold password rotate`
pub fn command(config: &Config, args: &Rotate) -> Result<Exit, Failure> {
    let mut client = Client::connect(config)?;
    let mut entries = selected(&mut client, &args.patterns)?;
    if args.resume || args.keep.is_some() {
        entries.retain(|entry| entry.rotation.is_some());
        if entries.is_empty() {
            return Err(Failure::new(Exit::NothingToDo, "no rotation of these is under way"));
        }
    }
    if args.pretend {
        let would = if args.resume { "would resume" } else { "would rotate" };
        let lines: Vec<Line> = entries.into_iter().map(|entry| Line::new(entry.name, would, None)).collect();
        return told(args, &lines);
    }
    let typed = match (args.ask, entries.len()) {
        (false, _) => None,
        (true, 1) => Some(checked(typed()?)?),
        (true, n) => return Err(Failure::usage(format!("--ask is for one password, and these are {n}"))),
    };
    // Every way there is, before anything is begun: one that is missing is said once.
    let mut ways: BTreeMap<String, Box<dyn FarSide + '_>> = BTreeMap::new();
    if args.keep.is_none() {
        for entry in &entries {
            let service = entry.name.service();
            if !ways.contains_key(service) {
                ways.insert(service.to_owned(), remote::to(config, service)?);
            }
        }
    }
    let mut ledger = Daemon { config, client: Some(client) };
    all(&mut ledger, &ways, entries, args, typed)
}

fn all(
    ledger: &mut Daemon<'_>,
    ways: &BTreeMap<String, Box<dyn FarSide + '_>>,
    entries: Vec<PasswordEntry>,
    args: &Rotate,
    mut typed: Option<Secret>,
) -> Result<Exit, Failure> {
    let stop = interrupted();
    let bar = bar(entries.len());
    let mut lines = Vec::with_capacity(entries.len());
    for entry in entries {
        let name = entry.name;
        if stop.load(Ordering::SeqCst) {
            let reason = "interrupted".to_owned();
            let line = Line { outcome: "not begun", ..Line::failed(name, None, Exit::Failed, reason) };
            if !args.json {
                with_stdout(|out| Ok(writeln!(out, "{}", line.text())?))?;
            }
            lines.push(line);
            continue;
        }
        bar.set_message(name.to_string());
        let line = match (args.keep, ways.get(name.service())) {
            (Some(which), _) => kept(ledger, name, which),
            (None, Some(way)) if args.resume => Line::of(name.clone(), resume(ledger, &**way, &name)),
            (None, Some(way)) => {
                let next = typed.take().map_or_else(|| generate::password(args.recipe), Ok)?;
                Line::of(name.clone(), rotate(ledger, &**way, &name, next))
            }
            (None, None) => Line::failed(name, None, Exit::Failed, "there is no way to its service".into()),
        };
        if !args.json {
            bar.suspend(|| with_stdout(|out| Ok(writeln!(out, "{}", line.text())?)))?;
        }
        lines.push(line);
        bar.inc(1);
    }
    bar.finish_and_clear();
    if args.json {
        with_stdout(|out| show::json(out, &lines))?;
    }
    let exit = exit_of(&lines);
    if exit != Exit::Ok {
        let failed = lines.iter().filter(|line| !line.done).count();
        return Err(Failure::new(exit, format!("{failed} of {} were not rotated", lines.len()))
            .hint("pinfold password rotate --resume goes on with them, --keep old gives the new one up"));
    }
    Ok(Exit::Ok)
}

fn kept(ledger: &mut Daemon<'_>, name: PasswordName, which: Which) -> Line {
    let keep = match which {
        Which::Old => Keep::Old,
        Which::New => Keep::New,
    };
    match ledger.end(&name, keep, false) {
        Ok(()) => Line::new(name, "kept", Some(keep.as_str())),
        Err(fault) => Line::of(name, fault.into()),
    }
}

fn told(args: &Rotate, lines: &[Line]) -> Result<Exit, Failure> {
    with_stdout(|out| {
        if args.json {
            return show::json(out, &lines);
        }
        for line in lines {
            writeln!(out, "{}", line.text())?;
        }
        Ok(())
    })?;
    Ok(Exit::Ok)
}

/// All done; some; or none, for the reason that they share.
fn exit_of(lines: &[Line]) -> Exit {
    let failed: Vec<&Line> = lines.iter().filter(|line| !line.done).collect();
    match failed.as_slice() {
        [] => Exit::Ok,
        some if some.len() < lines.len() => Exit::Partial,
        [first, rest @ ..] if rest.iter().all(|line| line.exit == first.exit) => first.exit,
        _ => Exit::Failed,
    }
}

/// Set at the first interrupt; the second one does what it does to any command.
fn interrupted() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // In this order: the first finds it unset. Neither fails for signals that can be caught.
        let _ = signal_hook::flag::register_conditional_default(signal, Arc::clone(&stop));
        let _ = signal_hook::flag::register(signal, Arc::clone(&stop));
    }
    stop
}

fn bar(len: usize) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(len as u64), ProgressDrawTarget::stderr());
    if len < 2 || !io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}");
    bar.set_style(style.expect("the template is a constant that parses"));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> PasswordName {
        PasswordName::parse(text).unwrap()
    }

    #[test]
    fn a_line_says_which_password_is_valid() {
        let text = |outcome| Line::of(name("ui-1"), outcome).text();
        assert_eq!(text(RotationOutcome::Rotated), "rotated root@ui-1:ssh");
        assert_eq!(
            text(RotationOutcome::StillOld("no route".into())),
            "failed root@ui-1:ssh, the old one is valid: no route"
        );
        let undecided = text(RotationOutcome::Undecided(RotationState::Changing, "x\u{1b}".into()));
        assert_eq!(undecided, "failed root@ui-1:ssh, either may be valid: x\\u{1b}");
    }

    #[test]
    fn the_code_says_all_some_or_none() {
        let done = || Line::new(name("a"), "rotated", Some("new"));
        let failed = |exit| Line::failed(name("b"), None, exit, "x".into());
        assert_eq!(exit_of(&[done(), done()]), Exit::Ok);
        assert_eq!(exit_of(&[done(), failed(Exit::Refused)]), Exit::Partial);
        assert_eq!(exit_of(&[failed(Exit::Refused), failed(Exit::Refused)]), Exit::Refused);
        assert_eq!(exit_of(&[failed(Exit::Refused), failed(Exit::Locked)]), Exit::Failed);
    }
}
