//! `pinfold join` and `pinfold leave`: whom this host takes secrets from.
//!
//! Owns how a console is shown. Which key is the right one, only a person can say who compares it with what the console shows.

use super::args::{Join, Leave};
use super::show::{self, Side, visible};
use super::{Failure, accounts, tree, with_stdout};
use crate::config::Config;
use crate::control::client::Client;
use crate::exit::Exit;
use crate::wire::{self, ConsoleInfo, GetConsoles};
use std::io::Read;
use std::path::Path;

/// The largest file with a public key, in bytes.
const KEY_MAX: u64 = 16 << 10;

/// `pinfold join`
pub fn join(config: &Config, args: Join) -> Result<Exit, Failure> {
    let (Some(console), Some(signer)) = (args.console, args.signer) else { return list(config, args.json) };
    let prefix = args.prefix.as_deref().map(|typed| tree::path(typed, config)).transpose()?;
    let join = wire::Join { console, signer: key(&signer)?, host: args.host, prefix };
    let joined = Client::connect(config)?.call(&join)?;
    with_stdout(|out| {
        if args.json {
            return show::json(out, &joined);
        }
        let again = if joined.again { " again" } else { "" };
        let console = &joined.console;
        writeln!(out, "joined {}{again}; it signs with {}", visible(&console.console), visible(&console.fingerprint))?;
        writeln!(out, "its policy needs the line:")?;
        Ok(writeln!(out, "{}", visible(&joined.line))?)
    })?;
    Ok(Exit::Ok)
}

fn list(config: &Config, json: bool) -> Result<Exit, Failure> {
    let consoles = Client::connect(config)?.call(&GetConsoles {})?.consoles;
    with_stdout(|out| {
        if json {
            return show::json(out, &consoles);
        }
        let rows: Vec<Vec<String>> = consoles.iter().map(row).collect();
        Ok(show::columns(out, &[Side::Left; 7], &rows)?)
    })?;
    Ok(Exit::Ok)
}

fn row(console: &ConsoleInfo) -> Vec<String> {
    let below = if console.prefix.is_root() { "everywhere".to_owned() } else { format!("below {}", console.prefix) };
    let last = match (console.imported, &console.outcome) {
        (Some(at), Some(outcome)) => format!("{} {}", visible(outcome), show::time(at)),
        _ => "nothing yet".into(),
    };
    vec![
        visible(&console.console).into_owned(),
        format!("as {}", visible(&console.host)),
        visible(&below).into_owned(),
        visible(&console.fingerprint).into_owned(),
        format!("serial {}", console.serial),
        format!("{} paths", console.secrets),
        last,
    ]
}

/// A key as it was typed, or the first line of a file.
fn key(typed: &str) -> Result<String, Failure> {
    if typed.trim_start().starts_with("ssh-") || typed.trim_start().starts_with("sk-ssh-") {
        return Ok(typed.trim().to_owned());
    }
    let failed = |e: std::io::Error| {
        Failure::usage(format!("{typed}: {}", e.to_string().to_lowercase()))
            .hint("--signer 'ssh-ed25519 AAAA…', or a file with such a line")
    };
    let file = std::fs::File::open(Path::new(typed)).map_err(failed)?;
    let mut text = String::new();
    file.take(KEY_MAX).read_to_string(&mut text).map_err(failed)?;
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    match (lines.next(), lines.next()) {
        (Some(line), None) => Ok(line.to_owned()),
        _ => Err(Failure::usage(format!("{typed}: one line with a public key is wanted"))),
    }
}

/// `pinfold leave`
pub fn leave(config: &Config, args: &Leave) -> Result<Exit, Failure> {
    let mut client = Client::connect(config)?;
    if args.remove {
        accounts::lock_all(config, &mut client, &args.console)?;
    }
    let left = client
        .call(&wire::Leave { console: args.console.clone(), keep: args.keep })
        .map_err(|error| Failure::from(error).hint_if(Exit::NotFound, "pinfold join --list"))?;
    with_stdout(|out| Ok(writeln!(out, "{} paths kept, {} removed", left.kept, left.removed)?))?;
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_typed_or_read() {
        let line = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPdDn0bxVvVyzWxGOYzE8w3mLGLhxsMDzqOlZdF1uXJH hq";
        assert_eq!(key(line).unwrap(), line);
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("hq.pub");
        let name = file.to_str().unwrap();
        std::fs::write(&file, format!("# the console\n\n{line}\n")).unwrap();
        assert_eq!(key(name).unwrap(), line);
        std::fs::write(&file, format!("{line}\n{line}\n")).unwrap();
        assert!(key(name).is_err());
        std::fs::write(&file, "").unwrap();
        assert!(key(name).is_err());
        assert_eq!(key("/no/such/file").unwrap_err().exit(), Exit::Usage);
    }
}
