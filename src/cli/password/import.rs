//! `pinfold password import`: from a listing of Passtore, and from pass(1).
//!
//! Owns what becomes of each entry, and says so. An entry that cannot be taken in keeps no other from it.

mod csv;
mod pass;

use super::args::{From, How};
use super::{Failure, with_stdout};
use crate::cli::{show, take};
use crate::config::Config;
use crate::control::client::Client;
use crate::exit::Exit;
use crate::model::{PasswordName, check_password};
use crate::secret::Secret;
use crate::wire::PasswordPut;
use serde::Serialize;
use std::fs::File;
use std::path::Path;

/// The longest listing, in bytes; it lies in locked memory.
const LISTING_MAX: usize = 1 << 20;

/// What was found, or why it is none.
struct Found {
    /// Where: `line 7`, `example.org/root`.
    at: String,
    password: Result<(PasswordName, Secret), String>,
}

/// What became of it, as JSON says it.
#[derive(Serialize)]
struct Line {
    at: String,
    name: Option<PasswordName>,
    /// `imported`, `would import`, `left out`.
    outcome: &'static str,
    reason: Option<String>,
}

pub fn import(config: &Config, from: From) -> Result<Exit, Failure> {
    match from {
        From::Passtore { file, how } => {
            let listing = read(&file)?;
            take_in(config, how, csv::passwords(&listing)?.into_iter().map(Ok))
        }
        From::Pass { folder, how } => take_in(config, how, pass::passwords(folder)?),
    }
}

fn read(file: &Path) -> Result<Secret, Failure> {
    let shown = file.display().to_string();
    let fail = |e: std::io::Error| Failure::new(Exit::NotFound, e.to_string().to_lowercase()).about(&shown);
    let mut from = if file == Path::new("-") { take::stdin()? } else { File::open(file).map_err(fail)? };
    let listing = take::all(&mut from, LISTING_MAX).map_err(|f| f.about(&shown))?;
    listing.ok_or_else(|| Failure::usage(format!("{shown}: longer than {LISTING_MAX} bytes; split it")))
}

fn take_in(config: &Config, how: How, found: impl Iterator<Item = Result<Found, Failure>>) -> Result<Exit, Failure> {
    let mut client = if how.pretend { None } else { Some(Client::connect(config)?) };
    let mut lines = Vec::new();
    for each in found {
        let Found { at, password } = each?;
        let (name, done) = match password {
            Ok((name, content)) => (Some(name.clone()), store(config, &mut client, name, how.replace, content)),
            Err(why) => (None, Err(why)),
        };
        let outcome = match (&done, how.pretend) {
            (Err(_), _) => "left out",
            (Ok(()), true) => "would import",
            (Ok(()), false) => "imported",
        };
        let line = Line { at, name, outcome, reason: done.err() };
        if !how.json {
            with_stdout(|out| Ok(writeln!(out, "{}", text(&line))?))?;
        }
        lines.push(line);
    }
    if how.json {
        with_stdout(|out| show::json(out, &lines))?;
    }
    let left_out = lines.iter().filter(|line| line.reason.is_some()).count();
    match left_out {
        0 if lines.is_empty() => Err(Failure::new(Exit::NotFound, "there is no password in it")),
        0 => Ok(Exit::Ok),
        some => {
            let exit = if some < lines.len() { Exit::Partial } else { Exit::Refused };
            Err(Failure::new(exit, format!("{some} of {} were left out", lines.len())))
        }
    }
}

fn text(line: &Line) -> String {
    let what = match &line.name {
        Some(name) => format!("{name} ({})", show::visible(&line.at)),
        None => show::visible(&line.at).into_owned(),
    };
    let reason = line.reason.as_ref().map(|why| format!(": {}", show::visible(why))).unwrap_or_default();
    format!("{} {what}{reason}", line.outcome)
}

fn store(
    config: &Config,
    client: &mut Option<Client>,
    name: PasswordName,
    replace: bool,
    content: Secret,
) -> Result<(), String> {
    check_password(content.expose()).map_err(|e| e.to_string())?;
    let Some(connected) = client else { return Ok(()) };
    let put = PasswordPut { name, replace: Some(replace), content };
    let done = match connected.call(&put) {
        // Somebody took his time at a pin entry: the connection was closed meanwhile, and nothing was asked.
        Err(crate::control::client::ClientError::Gone) => {
            *connected = Client::connect(config).map_err(|e| e.to_string())?;
            connected.call(&put)
        }
        done => done,
    };
    done.map(|_| ()).map_err(|e| e.to_string())
}
