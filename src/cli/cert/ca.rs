//! `cert ca`: the own authority.

use super::args::{Ca, CaAction};
use super::{print, public_file, to_file_or_stdout};
use crate::cli::Failure;
use crate::config::Config;
use crate::control::client::Client;
use crate::exit::Exit;
use crate::wire::{CaCrl, CaInit, CaSign};

/// `pinfold cert ca`
pub fn ca(config: &Config, args: Ca) -> Result<Exit, Failure> {
    match args.action {
        CaAction::Init { name, subject, key_type, days, json } => {
            let made = Client::connect(config)?.call(&CaInit { name, subject, key_type, days })?;
            print(&made, json)
        }
        CaAction::Sign { name, file, days, out } => {
            let request = public_file(&file)?;
            let made = Client::connect(config)?.call(&CaSign { name, request, days })?;
            to_file_or_stdout(out.as_deref(), &made.pem)?;
            Ok(Exit::Ok)
        }
        CaAction::Crl { name, revoke, days, out } => {
            let made = Client::connect(config)?.call(&CaCrl { name, revoke, days })?;
            to_file_or_stdout(out.as_deref(), &made.pem)?;
            Ok(Exit::Ok)
        }
    }
}
