//! The command line: what is typed, what is shown, and how it ends.
//!
//! Owns the words and the layout of the output. It speaks to the daemon over the control socket, or, for what works
//! without one, to `daemon`. Secrets are read into locked memory and are never taken from the arguments.

mod account_home;
mod accounts;
mod args;
mod cert;
mod condition;
mod containers;
mod doctor;
mod doctor_accounts;
mod doctor_callers;
mod doctor_host;
mod doctor_log;
mod export;
mod failure;
mod home_keys;
mod hook;
mod hosts;
mod identity;
mod import;
mod import_check;
mod inbox;
mod incoming;
mod join;
mod log;
mod look;
mod names;
mod password;
mod poke;
mod policy;
mod prompt;
mod publish;
mod ready;
mod release;
mod renew;
mod show;
mod signer;
mod store;
mod take;
mod tree;
mod unlock;
mod upcall;
mod view;

use crate::config::Config;
use crate::exit::Exit;
use args::{Cli, Command};
use clap::{CommandFactory, Parser};
use failure::Failure;
use std::io::Write;
use std::process::ExitCode;

/// Runs the command that was typed.
pub fn main() -> ExitCode {
    if let Some(exit) = password::askpass::answer() {
        return exit.into();
    }
    let exit = match Cli::try_parse() {
        Ok(cli) => match run(cli) {
            Ok(exit) => exit,
            Err(failure) => failure.print(),
        },
        Err(error) => args::explain(&error),
    };
    exit.into()
}

fn run(cli: Cli) -> Result<Exit, Failure> {
    match &cli.command {
        Command::Poke => return poke::poke(),
        Command::HomeKeys => return home_keys::home_keys(),
        Command::ImportCheck { question } => return import_check::import_check(question),
        _ => {}
    }
    let config = Config::load(cli.config.as_deref())?;
    if let Command::Mount(args) = cli.command {
        return store::mount(config, args);
    }
    guard(&config);
    if let Some(proof) = take::proof(cli.prove.as_deref(), cli.prove_keyfile.as_deref())? {
        crate::control::client::prove_with(proof);
    }
    match cli.command {
        Command::Init(args) => store::init(&config, args),
        Command::Mount(_) | Command::Poke | Command::HomeKeys | Command::ImportCheck { .. } => {
            unreachable!("they were taken above")
        }
        Command::Release(args) => release::release(&config, &args),
        Command::Unlock(args) => unlock::unlock(&config, args),
        Command::Lock => store::lock(&config),
        Command::Status(args) => store::status(&config, args),
        Command::Ls(args) => look::ls(&config, args),
        Command::Put(args) => tree::put(&config, args),
        Command::Cat(args) => tree::cat(&config, args),
        Command::Rm(args) => tree::rm(&config, args),
        Command::History(args) => look::history(&config, args),
        Command::Rollback(args) => tree::rollback(&config, args),
        Command::Who(args) => look::who(&config, args),
        Command::Log(args) => log::log(&config, args),
        Command::Recovery(args) => store::recovery(&config, args),
        Command::Fsck(args) => store::fsck(&config, args),
        Command::Backup(args) => store::backup(&config, args),
        Command::Restore(args) => store::restore(&config, args),
        Command::Scope(args) => containers::scope(&config, args),
        Command::Attach(args) => containers::attach(&config, args),
        Command::Detach(args) => containers::detach(&config, args),
        Command::Instances(args) => containers::instances(&config, args),
        Command::OciHook(args) => hook::oci_hook(&config, args),
        Command::CheckConfig(args) => store::check_config(&config, args),
        Command::Publish(args) => publish::publish(&config, args),
        Command::Unpublish(args) => publish::unpublish(&config, args),
        Command::Condition(args) => condition::condition(&config, args),
        Command::Policy(args) => policy::policy(&config, args),
        Command::View(args) => view::view(&config, args),
        Command::Published(args) => publish::published(&config, args),
        Command::Keyring(args) => publish::keyring(&config, args),
        Command::Doctor(args) => doctor::doctor(&config, args),
        Command::Upcall(args) => upcall::upcall(&config, args),
        Command::Ready(args) => ready::ready(&config, &args),
        Command::Export(args) => export::export(&config, args),
        Command::Hosts(args) => hosts::hosts(&config, args),
        Command::Signer(args) => signer::signer(&config, args),
        Command::Passwd(args) => identity::passwd(&config, args),
        Command::Identity(args) => identity::identity(&config, args),
        Command::Rekey(args) => identity::rekey(&config, args),
        Command::Join(args) => join::join(&config, args),
        Command::Leave(args) => join::leave(&config, &args),
        Command::Import(args) => import::import(&config, args),
        Command::Accounts(args) => accounts::accounts(&config, &args),
        Command::Cert(args) => cert::cert(&config, args),
        Command::Renew(args) => renew::renew(&config, args),
        Command::Password(args) => password::password(&config, args),
    }
}

/// Locked memory for a few copies of the largest secret, and a process whose memory others cannot read. What a limit
/// forbids is done as far as it goes: an operator has no CAP_IPC_LOCK.
fn guard(config: &Config) {
    // Fails where RLIMIT_MEMLOCK is low, after it has done the rest; the arena below is locked by itself.
    let _ = crate::sys::process::harden();
    let mut bytes = usize::try_from(config.max_secret_size).unwrap_or(1 << 24).next_power_of_two().max(1 << 20) * 8;
    while crate::sys::arena::init(bytes).is_err() && bytes > 1 << 17 {
        bytes /= 2;
    }
}

/// Standard output, for text; an error of the last write must not be lost.
fn with_stdout(write: impl FnOnce(&mut dyn Write) -> Result<(), Failure>) -> Result<(), Failure> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    write(&mut out)?;
    out.flush()?;
    Ok(())
}

/// The command as clap sees it, for completions and manual pages.
pub fn command() -> clap::Command {
    Cli::command()
}
