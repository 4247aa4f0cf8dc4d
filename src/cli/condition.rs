//! `pinfold condition`: what must hold, beside mode and ACL, for a secret to open.
//!
//! Owns what it asks and its columns. Values go to the daemon as they were typed: it is the one that judges them.

use super::args::ConditionArgs;
use super::show::{self, Side, visible};
use super::{Failure, tree, with_stdout};
use crate::config::Config;
use crate::control::client::Client;
use crate::exit::Exit;
use crate::wire::{Condition, ConditionInfo};

/// `pinfold condition`
pub fn condition(config: &Config, args: ConditionArgs) -> Result<Exit, Failure> {
    let asked = Condition {
        path: tree::path(&args.path, config)?,
        unit: args.unit,
        exe: args.exe,
        label: args.label,
        expires: args.expires,
        on_change: args.on_change,
        clear: args.clear,
    };
    let held = Client::connect(config)?.call(&asked)?;
    with_stdout(|out| {
        if args.json {
            return show::json(out, &held);
        }
        let row = |one: &ConditionInfo| vec![one.name.clone(), visible(&one.value).into_owned()];
        let rows: Vec<Vec<String>> = held.conditions.iter().map(row).collect();
        Ok(show::columns(out, &[Side::Left; 2], &rows)?)
    })?;
    Ok(Exit::Ok)
}
