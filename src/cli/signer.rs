//! `pinfold signer`: the keys that sign bundles.

use super::args::Json;
use super::export::new_passphrase;
use super::show::{self, Side, visible};
use super::{Failure, prompt, take, with_stdout};
use crate::config::Config;
use crate::control::client::Client;
use crate::exit::Exit;
use crate::wire::{SignerInit, SignerList, SignerListing, SignerRevoke, SignerRotate};
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// `signer`
#[derive(Debug, Args)]
pub struct SignerArgs {
    /// What to do
    #[command(subcommand)]
    pub action: SignerAction,
}

/// What can be done with signing keys.
#[derive(Debug, Subcommand)]
pub enum SignerAction {
    /// List the keys that sign or signed bundles, oldest first
    Ls(Json),
    /// Make the first key, or take the configured agent's
    Init(SignerNew),
    /// Make the next key, vouched for by the one that signs now; every host gets a new bundle
    Rotate(SignerNext),
    /// Tell every host to trust a former key no longer
    Revoke {
        /// Its fingerprint, SHA256:…
        #[arg(value_name = "FINGERPRINT")]
        fingerprint: String,
    },
}

/// `signer init`
#[derive(Debug, Args)]
pub struct SignerNew {
    /// Read the key's passphrase from FILE, less one newline at its end; - is stdin (with export.signer = "manual")
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `signer rotate`
#[derive(Debug, Args)]
pub struct SignerNext {
    /// Read the passphrase of the key that signs now from FILE, less one newline at its end; - is stdin
    #[arg(long, value_name = "FILE")]
    pub old_passphrase_file: Option<PathBuf>,
    /// Read the passphrase of the next key from FILE, less one newline at its end; - is stdin
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `pinfold signer`
pub fn signer(config: &Config, args: SignerArgs) -> Result<Exit, Failure> {
    let mut client = Client::connect(config)?;
    let (listing, json) = match args.action {
        SignerAction::Ls(Json { json }) => (client.call(&SignerList {})?, json),
        SignerAction::Init(args) => {
            let passphrase = new_passphrase(args.passphrase_file.as_ref(), config)?;
            (client.call(&SignerInit { passphrase })?, args.json)
        }
        SignerAction::Rotate(args) => {
            let now = client.call(&SignerList {})?;
            let asks = now.signers.last().is_some_and(|signer| signer.kept == "passphrase");
            let old_passphrase = match &args.old_passphrase_file {
                Some(file) => Some(take::passphrase(file)?),
                None if asks => Some(prompt::ask("Passphrase of the key that signs now: ")?),
                None => None,
            };
            let passphrase = new_passphrase(args.passphrase_file.as_ref(), config)?;
            (client.call(&SignerRotate { old_passphrase, passphrase })?, args.json)
        }
        SignerAction::Revoke { fingerprint } => (client.call(&SignerRevoke { fingerprint })?, false),
    };
    with_stdout(|out| {
        if json {
            return show::json(out, &listing);
        }
        show::columns(out, &[Side::Right, Side::Left, Side::Left, Side::Left, Side::Left], &rows(&listing))?;
        Ok(writeln!(out, "{}", next_step(&listing))?)
    })?;
    Ok(Exit::Ok)
}

/// What to type next: the console's name and key are what a host must know it by.
fn next_step(listing: &SignerListing) -> String {
    match listing.signers.iter().rev().find(|signer| signer.current && signer.revoked.is_none()) {
        Some(signer) => {
            let (console, key) = (visible(&listing.console), visible(&signer.key));
            format!("on a host: pinfold join {console} --signer '{key}'")
        }
        None => "no key signs yet: pinfold signer init".into(),
    }
}

/// Number, state, where it is kept, when it was made, the key itself: what `pinfold join` takes.
fn rows(listing: &SignerListing) -> Vec<Vec<String>> {
    let row = |signer: &crate::wire::SignerInfo| {
        let state = match (signer.revoked, signer.current) {
            (Some(since), _) => format!("revoked {}", show::time(since)),
            (None, true) => "signs".into(),
            (None, false) => "former".into(),
        };
        vec![
            signer.number.to_string(),
            state,
            signer.kept.clone(),
            show::time(signer.made),
            format!("{}  {}", visible(&signer.fingerprint), visible(&signer.key)),
        ]
    };
    listing.signers.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Timestamp;
    use crate::wire::SignerInfo;

    #[test]
    fn each_key_says_what_it_is_good_for() {
        let at = |secs| Timestamp { secs, nanos: 0 };
        let info = |number, current, revoked| SignerInfo {
            number,
            fingerprint: "SHA256:x".into(),
            key: "ssh-ed25519 AAAA".into(),
            kept: "store".into(),
            current,
            made: at(0),
            revoked,
        };
        let signers = vec![info(0, false, Some(at(60))), info(1, false, None), info(2, true, None)];
        let listing = SignerListing { console: "c".into(), signers };
        assert_eq!(next_step(&listing), "on a host: pinfold join c --signer 'ssh-ed25519 AAAA'");
        assert_eq!(next_step(&SignerListing::default()), "no key signs yet: pinfold signer init");
        let rows = rows(&listing);
        let states: Vec<&str> = rows.iter().map(|row| row[1].as_str()).collect();
        assert_eq!(states, ["revoked 1970-01-01T00:01:00Z", "former", "signs"]);
    }
}
