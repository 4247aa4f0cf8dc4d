//! The grammar of the command line.
//!
//! Owns the list of commands; the files beside it own names, flags and their help. No flag takes a secret: `-` is stdin, a
//! file is named.

mod consoles;
mod identity;
mod keys;
mod log;
mod policy;
mod scopes;
mod secrets;
mod store;
#[cfg(test)]
mod tests;
mod tree;
mod views;

pub use consoles::{Accounts, AccountsAction, Import, Join, Leave};
pub use identity::{Identity, IdentityAction, IdentityAdd, Key, OldKey, Passwd, Rekey};
pub use keys::{Keyring, KeyringAction, Publish, Unpublish, Upcall};
pub use log::{Log, LogAction};
pub use policy::{Policy, PolicyAction, PolicyCheck, PolicyShow};
pub use scopes::{Attach, Detach, OciHook, Scope, ScopeAction, Stage};
pub use secrets::{Cat, ConditionArgs, Ls, OnePath, Put, Rm, Rollback, Who};
pub use store::{Backup, Fsck, Init, Recovery, RecoveryAction, Restore};
pub use tree::{Mount, Ready, Release};
pub use views::{View, ViewAction, ViewAdd};

use super::export::ExportArgs;
use super::signer::SignerArgs;
use crate::exit::Exit;
use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// Serves pin files, keys and certificates, sealed at rest, opened only for whom they are for.
#[derive(Debug, Parser)]
#[command(name = "pinfold", version, max_term_width = 100)]
#[command(after_help = "A PATH is a path in the tree (svc/pin), or the same with the mount point before it.\n\
    Exit codes: 0 ok, 1 failed, 2 usage, 3 refused, 4 locked, 5 damaged store, 6 not found, 7 daemon unreachable, \
    8 nothing to do, 9 partial.")]
pub struct Cli {
    /// The configuration file [default: /etc/pinfold/pinfold.toml]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Prove, where the daemon wants it, that you can open the store: by the passphrase, typed or read from FILE (- is stdin)
    #[arg(long, global = true, value_name = "FILE", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub prove: Option<PathBuf>,
    /// The same by an unencrypted identity file or a recovery key; - is stdin
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "prove")]
    pub prove_keyfile: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a store, its identity and a recovery key
    Init(Init),
    /// Mount the tree and serve it, in the foreground
    Mount(Mount),
    /// Unmount a tree that no daemon serves any more
    Release(Release),
    /// Give the daemon what opens the store
    Unlock(Key),
    /// Make the daemon forget it
    Lock,
    /// Show how the daemon is
    Status(Json),
    /// List what is in the tree
    Ls(Ls),
    /// Enrol a secret, or a new version of one, from stdin
    Put(Put),
    /// Show a secret's content
    Cat(Cat),
    /// Remove secrets
    Rm(Rm),
    /// List the versions that are kept of a secret
    History(OnePath),
    /// Make an old version current again
    Rollback(Rollback),
    /// Show who could open a secret by which rule, and who did
    Who(Who),
    /// Show, follow, check or rotate the audit log
    Log(Log),
    /// Add, remove or list the recovery keys' recipients
    Recovery(Recovery),
    /// Check the store, or take a sealed file out of it
    Fsck(Fsck),
    /// Write the store, sealed as it is, to one file
    Backup(Backup),
    /// Bring a backup back
    Restore(Restore),
    /// Check the configuration and show what is in force
    CheckConfig(Json),
    /// Declare, list or remove the scopes of containers
    Scope(Scope),
    /// Let a running container have the secrets of its scope
    Attach(Attach),
    /// Take them from it: nothing opens inside it any more, and what is open cannot be read on
    Detach(Detach),
    /// List the attached containers
    Instances(Json),
    /// Attach or detach the container whose OCI state is on stdin (for runtimes: mount-helpers/hooks.d)
    #[command(hide = true)]
    OciHook(OciHook),
    /// Check the policy, or show what it says
    Policy(Policy),
    /// Define, list or remove views: files composed from several secrets
    View(View),
    /// Set, clear or list the conditions under which a secret opens
    Condition(ConditionArgs),
    /// Give a secret to a user as a key in his keyring
    Publish(Publish),
    /// Take a published secret back
    Unpublish(Unpublish),
    /// List what is published
    Published(Json),
    /// Show what pinfold has in the kernel's keyrings
    Keyring(Keyring),
    /// Check what pinfold needs of this machine, and say what to do
    Doctor(Json),
    /// Make a key that somebody asked the kernel for (started by request-key)
    #[command(hide = true)]
    Upcall(Upcall),
    /// Wait until the tree is mounted and unlocked
    Ready(Ready),
    /// Open and close the files that stdin names, for whoever watches them; the daemon runs it
    #[command(hide = true)]
    Poke,
    /// Make the bundles of other hosts now, or show what they would change
    Export(ExportArgs),
    /// Show how far the bundles of each host got
    Hosts(Json),
    /// List, make, rotate or revoke the keys that sign bundles
    Signer(SignerArgs),
    /// Print the public keys in the home directories of the users that stdin names; the daemon runs it
    #[command(hide = true)]
    HomeKeys,
    /// Look at the bundle on stdin and do nothing else; an import runs it
    #[command(hide = true)]
    ImportCheck {
        /// What is trusted, and the time, as JSON
        question: String,
    },
    /// Give the store's identity another passphrase
    Passwd(Passwd),
    /// Add, remove or list what opens the store's identity
    Identity(Identity),
    /// Give the store a new identity and new keys, and seal everything anew
    Rekey(Rekey),
    /// Trust a console, from which this host takes secrets; or list those that are trusted
    Join(Join),
    /// Trust a console no more
    Leave(Leave),
    /// Take in a bundle of a console
    Import(Import),
    /// List the accounts of admins that consoles name; make them, and lock those that are gone
    Accounts(Accounts),
    /// Request, store, list and check certificates
    Cert(super::cert::args::Cert),
    /// Renew the certificates that end soon
    Renew(super::cert::args::Renew),
    /// Store, show and change passwords of accounts on other machines
    Password(super::password::Password),
}

/// Output for programs.
#[derive(Debug, Args)]
pub struct Json {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Prints help as it is, and what is wrong with the command line in our own form.
pub fn explain(error: &clap::Error) -> Exit {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // A reader that went away has seen enough.
            let _ = error.print();
            Exit::Ok
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            Exit::Usage
        }
        _ => {
            let text = error.render().to_string();
            let first = text.split("\n\n").next().unwrap_or_default();
            let line = first.split_whitespace().collect::<Vec<_>>().join(" ");
            super::failure::Failure::usage(line.trim_start_matches("error: ")).hint("pinfold help").print()
        }
    }
}
