//! `pinfold password`: stored, shown one at a time, changed on the far side, taken from elsewhere.
//!
//! Owns what the commands ask and print. Passwords go through locked memory and pipes: never in an argument, never in an
//! environment, never echoed.

mod args;
pub mod askpass;
mod child;
mod exec;
mod generate;
mod import;
mod remote;
mod rotate;
mod show;
mod ssh;

pub use args::Password;

use super::show::{self as text, Side};
use super::{Failure, prompt, take, with_stdout};
use crate::config::Config;
use crate::control::client::Client;
use crate::exit::Exit;
use crate::model::{PASSWORD_MAX, PasswordName, PasswordPattern};
use crate::secret::Secret;
use crate::wire::{PasswordEntry, PasswordList, PasswordPut, PasswordRemove};
use args::{Action, Add, Generate, Ls, Rm};
use std::collections::BTreeMap;
use std::io::{self, IsTerminal};

/// Fewer bits than this are said aloud: a stolen hash is guessed offline.
const FEW_BITS: u32 = 64;

/// `pinfold password`
pub fn password(config: &Config, args: Password) -> Result<Exit, Failure> {
    match args.action {
        Action::Add(args) => add(config, &args),
        Action::Generate(args) => generate(config, &args),
        Action::Show(args) => show::show(config, &args),
        Action::Ls(args) => ls(config, &args),
        Action::Rm(args) => rm(config, &args),
        Action::Rotate(args) => rotate::command(config, &args),
        Action::Import(args) => import::import(config, args.from),
    }
}

fn name(typed: &str) -> Result<PasswordName, Failure> {
    PasswordName::parse(typed).map_err(|e| Failure::usage(e.to_string()).about(&format!("'{typed}'")))
}

fn pattern(typed: &str) -> Result<PasswordPattern, Failure> {
    PasswordPattern::parse(typed).map_err(|e| Failure::usage(e.to_string()).about(&format!("'{typed}'")))
}

/// Those that any of the patterns selects, each once.
///
/// # Errors
/// Not found, if a pattern selects none.
fn selected(client: &mut Client, patterns: &[String]) -> Result<Vec<PasswordEntry>, Failure> {
    let mut all = BTreeMap::new();
    for typed in patterns {
        let list = PasswordList { pattern: Some(pattern(typed)?) };
        let found = client.call(&list)?.passwords;
        if found.is_empty() {
            return Err(Failure::new(Exit::NotFound, format!("there is no password '{typed}'"))
                .hint("pinfold password ls '*@*:*'"));
        }
        all.extend(found.into_iter().map(|entry| (entry.name.clone(), entry)));
    }
    Ok(all.into_values().collect())
}

/// One line: typed twice and unseen, or all of stdin less one newline.
fn line() -> Result<Secret, Failure> {
    if io::stdin().is_terminal() {
        return typed();
    }
    let mut line = take::all(&mut take::stdin()?, PASSWORD_MAX + 1)?
        .ok_or_else(|| Failure::usage(format!("stdin: more than {PASSWORD_MAX} bytes, that is no password")))?;
    if line.expose().last() == Some(&b'\n') {
        line.resize(line.len() - 1)?;
    }
    Ok(line)
}

/// What was typed twice, and not shown.
fn typed() -> Result<Secret, Failure> {
    let first = prompt::ask("Password (not shown): ")?;
    let second = prompt::ask("Once more: ")?;
    if first.expose() == second.expose() { Ok(first) } else { Err(Failure::usage("the two are not the same")) }
}

/// As the daemon checks it too: nothing is sent that it would refuse.
fn checked(password: Secret) -> Result<Secret, Failure> {
    match crate::model::check_password(password.expose()) {
        Ok(()) => Ok(password),
        Err(error) => Err(Failure::new(Exit::Refused, error.to_string())),
    }
}

fn add(config: &Config, args: &Add) -> Result<Exit, Failure> {
    let name = name(&args.name)?;
    let content = checked(line()?)?;
    store(config, name, args.replace, content)
}

fn generate(config: &Config, args: &Generate) -> Result<Exit, Failure> {
    let name = name(&args.name)?;
    let bits = generate::bits(args.recipe);
    let exit = store(config, name, args.replace, generate::password(args.recipe)?)?;
    with_stdout(|out| Ok(writeln!(out, "{} characters, {bits} bits", args.recipe.length)?))?;
    if bits < FEW_BITS {
        eprintln!("pinfold: warning: fewer than {FEW_BITS} bits can be guessed from a stolen hash");
    }
    Ok(exit)
}

fn store(config: &Config, name: PasswordName, replace: bool, content: Secret) -> Result<Exit, Failure> {
    let put = PasswordPut { name, replace: Some(replace), content };
    let hint = "--replace stores another; pinfold password rotate changes the far side as well";
    Client::connect(config)?.call(&put).map_err(|e| Failure::from(e).hint_if(Exit::Refused, hint))?;
    Ok(Exit::Ok)
}

fn ls(config: &Config, args: &Ls) -> Result<Exit, Failure> {
    let mut client = Client::connect(config)?;
    let entries = match args.patterns.as_slice() {
        [] => client.call(&PasswordList { pattern: None })?.passwords,
        some => selected(&mut client, some)?,
    };
    with_stdout(|out| {
        if args.json {
            return text::json(out, &entries);
        }
        let rows: Vec<Vec<String>> = entries.iter().map(row).collect();
        Ok(text::columns(out, &[Side::Left, Side::Right, Side::Left, Side::Left], &rows)?)
    })?;
    Ok(Exit::Ok)
}

fn row(entry: &PasswordEntry) -> Vec<String> {
    let rotation = entry.rotation.map(|state| format!("{}: the {} one is valid", state.as_str(), state.valid()));
    let open = entry.open.then(|| "may be read in the tree".to_owned());
    vec![
        entry.name.to_string(),
        format!("v{}", entry.version),
        text::time(entry.changed),
        rotation.into_iter().chain(open).collect::<Vec<_>>().join("; "),
    ]
}

fn rm(config: &Config, args: &Rm) -> Result<Exit, Failure> {
    let mut client = Client::connect(config)?;
    for entry in selected(&mut client, &args.patterns)? {
        let about = entry.name.to_string();
        if !args.pretend {
            let hint = format!("pinfold password rotate --resume {about}, or --keep old|new");
            let remove = PasswordRemove { name: entry.name, purge: Some(args.purge) };
            client.call(&remove).map_err(|e| Failure::from(e).about(&about).hint_if(Exit::Refused, hint))?;
        }
        with_stdout(|out| Ok(writeln!(out, "{} {about}", if args.pretend { "would remove" } else { "removed" })?))?;
    }
    Ok(Exit::Ok)
}
