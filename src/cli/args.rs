//! The grammar of the command line.
//!
//! Owns names, flags and their help. No flag takes a secret: `-` is stdin, a file is named.

use super::export::ExportArgs;
use super::import_args::{Accounts, Import, Join, Leave};
use super::signer::SignerArgs;
use super::view_args::View;
use crate::exit::Exit;
use crate::wire::UidMap;
use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::time::Duration;

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
    Policy(super::policy_args::Policy),
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

/// What opens the store.
#[derive(Debug, Default, Args)]
#[group(multiple = false)]
pub struct Key {
    /// Read the passphrase from FILE, less one newline at its end; - is stdin
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
    /// Use this unencrypted identity file; - is stdin
    #[arg(long, value_name = "FILE")]
    pub keyfile: Option<PathBuf>,
    /// Use this recovery key, an age identity or an ssh-ed25519 key; - is stdin
    #[arg(long, value_name = "FILE")]
    pub recovery: Option<PathBuf>,
}

/// What opens the identity as it is.
#[derive(Debug, Default, Args)]
#[group(multiple = false)]
pub struct OldKey {
    /// Read the passphrase that opens it now from FILE, less one newline at its end; - is stdin
    #[arg(long, value_name = "FILE")]
    pub old_passphrase_file: Option<PathBuf>,
    /// Open it with this unencrypted identity file [default: the configured one, if there is one]
    #[arg(long, value_name = "FILE")]
    pub old_keyfile: Option<PathBuf>,
}

/// `passwd`
#[derive(Debug, Args)]
pub struct Passwd {
    /// What opens it now.
    #[command(flatten)]
    pub old: OldKey,
    /// Read the new passphrase from FILE, less one newline at its end; - is stdin
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
}

/// `identity`
#[derive(Debug, Args)]
pub struct Identity {
    /// What to do
    #[command(subcommand)]
    pub action: IdentityAction,
}

/// What can be done with the protectors of the identity.
#[derive(Debug, Subcommand)]
pub enum IdentityAction {
    /// Let one more thing open it: a passphrase, or what is named
    Add(IdentityAdd),
    /// Let something open it no longer; not the last
    Rm {
        /// Which
        name: String,
    },
    /// List what opens it
    Ls(Json),
}

/// `identity add`
#[derive(Debug, Args)]
pub struct IdentityAdd {
    /// What it is called
    pub name: String,
    /// What opens it now.
    #[command(flatten)]
    pub old: OldKey,
    /// Read the further passphrase from FILE, less one newline at its end; - is stdin
    #[arg(long, value_name = "FILE", conflicts_with_all = ["recipient", "clevis"])]
    pub passphrase_file: Option<PathBuf>,
    /// Let whoever has the identity of this recipient (age1…, age1tag1…, age1tagpq1…, ssh-ed25519) open it
    #[arg(long, value_name = "RECIPIENT", conflicts_with = "clevis")]
    pub recipient: Option<String>,
    /// Let clevis open it: a passphrase is made that nobody sees, and encrypted with `clevis encrypt PIN CONFIG`
    #[arg(long, num_args = 2, value_names = ["PIN", "CONFIG"])]
    pub clevis: Option<Vec<String>>,
    /// Let an age plugin open it: such a passphrase is encrypted with `age --recipient RECIPIENT` (age1NAME1…)
    #[arg(long, value_name = "RECIPIENT", conflicts_with_all = ["passphrase_file", "recipient", "clevis"])]
    pub plugin: Option<String>,
    /// Where the encrypted passphrase goes [default: /etc/pinfold/clevis/NAME.jwe, /etc/pinfold/age/NAME.age]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// `rekey`
#[derive(Debug, Args)]
pub struct Rekey {
    /// What opens the identity now.
    #[command(flatten)]
    pub old: OldKey,
    /// Read the passphrase of the new identity from FILE, less one newline at its end; - is stdin
    #[arg(long, value_name = "FILE", conflicts_with = "new_keyfile")]
    pub new_passphrase_file: Option<PathBuf>,
    /// Keep the new identity in an unencrypted FILE, 0600, in the place of what is there
    #[arg(long, value_name = "FILE")]
    pub new_keyfile: Option<PathBuf>,
    /// Give up what else opens the identity now; it has to be added again
    #[arg(long)]
    pub drop_others: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `init`
#[derive(Debug, Args)]
pub struct Init {
    /// Encrypt the identity with the passphrase in FILE, less one newline at its end; - is stdin
    #[arg(long, value_name = "FILE", conflicts_with = "keyfile")]
    pub passphrase_file: Option<PathBuf>,
    /// Make the identity an unencrypted FILE, 0600
    #[arg(long, value_name = "FILE")]
    pub keyfile: Option<PathBuf>,
    /// Let the owner of this recipient (age1…, age1tag1…, age1tagpq1…, ssh-ed25519) bring the store back
    #[arg(long, value_name = "RECIPIENT", required_unless_present = "recovery_out", conflicts_with = "recovery_out")]
    pub recovery: Option<String>,
    /// Make a recovery key and write it to FILE, 0600
    #[arg(long, value_name = "FILE")]
    pub recovery_out: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `mount`
#[derive(Debug, Args)]
pub struct Mount {
    /// Where [default: the configured mountpoint]
    #[arg(value_name = "MOUNTPOINT")]
    pub mountpoint: Option<PathBuf>,
    /// Leave the tree mounted at SIGTERM: the supervisor keeps the descriptors for the next daemon
    #[arg(long)]
    pub hand_over: bool,
}

/// `release`
#[derive(Debug, Args)]
pub struct Release {
    /// Do nothing unless systemd is stopping this unit
    #[arg(long, value_name = "UNIT")]
    pub unless_restarting: Option<String>,
    /// Also if a daemon serves it, which ends then
    #[arg(long)]
    pub force: bool,
}

/// `ready`
#[derive(Debug, Args)]
pub struct Ready {
    /// Give up after this long (90s, 5m) [default: never]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub timeout: Option<Duration>,
    /// Then tell systemd (sd_notify), and stay until the store is locked or the tree unmounted
    #[arg(long)]
    pub hold: bool,
}

/// `ls`
#[derive(Debug, Args)]
pub struct Ls {
    /// What [default: the root of the tree]
    #[arg(value_name = "PATH")]
    pub path: Option<String>,
    /// With mode, owner, group, size, time and version
    #[arg(short, long)]
    pub long: bool,
    /// With everything below
    #[arg(short = 'R', long)]
    pub recursive: bool,
    /// The directory itself, not what is in it
    #[arg(short, long, conflicts_with = "recursive")]
    pub directory: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `put`
#[derive(Debug, Args)]
pub struct Put {
    /// Where
    pub path: String,
    /// The owner, by name or number
    #[arg(short, long, value_name = "USER")]
    pub owner: Option<String>,
    /// The group, by name or number
    #[arg(short, long, value_name = "GROUP")]
    pub group: Option<String>,
    /// The permission bits, octal [default: 0600 for a new secret]
    #[arg(short, long, value_name = "MODE", value_parser = octal)]
    pub mode: Option<u16>,
    /// Make missing directories, 0755 of root
    #[arg(short, long)]
    pub parents: bool,
    /// Take an empty content, which is refused otherwise
    #[arg(long)]
    pub allow_empty: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `cat`
#[derive(Debug, Args)]
pub struct Cat {
    /// Which
    pub path: String,
    /// Yes, show it
    #[arg(long)]
    pub reveal: bool,
    /// Which version [default: the current one]
    #[arg(long, value_name = "N")]
    pub version: Option<u64>,
    /// Print JSON, the content as base64
    #[arg(long)]
    pub json: bool,
}

/// `rm`
#[derive(Debug, Args)]
pub struct Rm {
    /// Which
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<String>,
    /// With everything below
    #[arg(short, long)]
    pub recursive: bool,
    /// Keep no version either; works on a name that was removed before, too
    #[arg(long)]
    pub purge: bool,
}

/// One path.
#[derive(Debug, Args)]
pub struct OnePath {
    /// Which
    pub path: String,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `rollback`
#[derive(Debug, Args)]
pub struct Rollback {
    /// Which
    pub path: String,
    /// To which version
    #[arg(value_name = "N")]
    pub version: u64,
}

/// `who`
#[derive(Debug, Args)]
pub struct Who {
    /// Which
    pub path: String,
    /// How many past decisions
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10)]
    pub lines: u32,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `log`
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Log {
    /// Something to do with it
    #[command(subcommand)]
    pub action: Option<LogAction>,
    /// Wait for more
    #[arg(short, long, conflicts_with = "verify")]
    pub follow: bool,
    /// Begin with the last N lines, of older files too
    #[arg(short = 'n', long, value_name = "N", default_value_t = 50)]
    pub lines: usize,
    /// Check the chain over all files, and its end against the store
    #[arg(long)]
    pub verify: bool,
    /// Print JSON: the lines as they are in the file
    #[arg(long)]
    pub json: bool,
}

/// What can be done with the log.
#[derive(Debug, Subcommand)]
pub enum LogAction {
    /// Begin a new file
    Rotate,
}

/// `recovery`
#[derive(Debug, Args)]
pub struct Recovery {
    /// What to do
    #[command(subcommand)]
    pub action: RecoveryAction,
}

/// What can be done with recipients.
#[derive(Debug, Subcommand)]
pub enum RecoveryAction {
    /// Seal everything to one more recipient (age1…, age1tag1…, age1tagpq1…, ssh-ed25519)
    Add {
        /// Who
        recipient: String,
        /// Have no other any more
        #[arg(long)]
        only: bool,
        /// What opens the store, as proof
        #[command(flatten)]
        key: Key,
    },
    /// Seal everything anew without a recipient
    Rm {
        /// Who
        recipient: String,
        /// What opens the store, as proof
        #[command(flatten)]
        key: Key,
    },
    /// List them
    Ls(Json),
    /// Write the escrow to stdout: `age -d` opens it with a recovery key, and what that prints opens the store
    Escrow,
}

/// `fsck`
#[derive(Debug, Args)]
pub struct Fsck {
    /// Open each sealed file too, not only compare its digest
    #[arg(long, conflicts_with = "extract")]
    pub deep: bool,
    /// Write the sealed file of a secret to stdout: `age -d -i recovery.key` opens it
    #[arg(long, value_name = "PATH")]
    pub extract: Option<String>,
    /// Which version of it [default: the current one]
    #[arg(long, value_name = "N", requires = "extract")]
    pub version: Option<u64>,
    /// What opens the store when no daemon runs; with --extract also when one does, as proof.
    #[command(flatten)]
    pub key: Key,
    /// Print JSON
    #[arg(long, conflicts_with = "extract")]
    pub json: bool,
}

/// `backup`
#[derive(Debug, Args)]
pub struct Backup {
    /// Where to; - is stdout
    pub file: PathBuf,
    /// Replace the file if there is one
    #[arg(long)]
    pub force: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `restore`
#[derive(Debug, Args)]
pub struct Restore {
    /// Where from; - is stdin
    pub file: PathBuf,
    /// What opens it, to check it before it counts.
    #[command(flatten)]
    pub key: Key,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `scope`
#[derive(Debug, Args)]
pub struct Scope {
    /// What to do
    #[command(subcommand)]
    pub action: ScopeAction,
}

/// What can be done with scopes.
#[derive(Debug, Subcommand)]
pub enum ScopeAction {
    /// Declare a scope: a key of its own, and the folder containers/NAME for its secrets
    Add {
        /// What it is to be called: a-z A-Z 0-9 . _ -, 64 at most
        name: String,
        /// Let callers inside the container change what is in it
        #[arg(long)]
        write: bool,
        /// How owners are counted: as seen inside, shown through the container's map of ids, or as the host does
        #[arg(long, value_name = "auto|host", default_value = "auto", value_parser = uid_map)]
        uid_map: UidMap,
    },
    /// List them
    Ls(Json),
    /// Take a scope back; refused while secrets are in it or containers attached
    Rm {
        /// Which
        name: String,
        /// With all secrets in it and their history, for good
        #[arg(long)]
        purge: bool,
    },
}

/// `attach`
#[derive(Debug, Args)]
pub struct Attach {
    /// To which scope
    #[arg(value_name = "NAME")]
    pub scope: String,
    /// The container's first process, as the host counts it
    #[arg(long, value_name = "PID")]
    pub pid: u32,
    /// What it is to be called [default: NAME-PID]
    #[arg(long, value_name = "ID")]
    pub id: Option<String>,
    /// For how long, as in 90s, 2m, 12h, 30d [default: until it ends]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub timeout: Option<Duration>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `detach`
#[derive(Debug, Args)]
pub struct Detach {
    /// Which container
    pub id: String,
}

/// `oci-hook`
#[derive(Debug, Args)]
pub struct OciHook {
    /// When it is run
    pub stage: Stage,
}

/// A stage in a container's life, as the OCI runtime specification names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Stage {
    /// Its namespaces are made, its program not started.
    #[value(name = "createRuntime")]
    CreateRuntime,
    /// It has ended.
    #[value(name = "poststop")]
    Poststop,
}

fn uid_map(text: &str) -> Result<UidMap, String> {
    match text {
        "auto" => Ok(UidMap::Auto),
        "host" => Ok(UidMap::Host),
        _ => Err("auto or host".into()),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let wanted = crate::config::parse_duration(text).filter(|t| !t.is_zero());
    wanted.ok_or_else(|| "a duration is 90s, 2m, 12h or 30d".into())
}

/// `condition`
#[derive(Debug, Args)]
pub struct ConditionArgs {
    /// Which secret
    pub path: String,
    /// Open it only for processes of this unit of the system manager (nginx.service)
    #[arg(long, value_name = "UNIT")]
    pub unit: Option<String>,
    /// Open it only for processes that run this program; where users may make user namespaces, that is the process's own claim
    #[arg(long, value_name = "PATH")]
    pub exe: Option<String>,
    /// Open it only for processes with this AppArmor profile or SELinux type; * is any text
    #[arg(long, value_name = "LABEL")]
    pub label: Option<String>,
    /// Open it until then (2027-01-31T12:00:00Z)
    #[arg(long, value_name = "TIME")]
    pub expires: Option<String>,
    /// Tell a unit of new versions: reload:UNIT or restart:UNIT
    #[arg(long, value_name = "ACTION")]
    pub on_change: Option<String>,
    /// Clear a condition: unit, exe, label, expires, or on-change
    #[arg(long, value_name = "NAME")]
    pub clear: Vec<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `publish`
#[derive(Debug, Args)]
pub struct Publish {
    /// Which secret
    pub path: String,
    /// Whom: a user's name, UID or UID:GID
    #[arg(long, value_name = "USER")]
    pub to: String,
    /// Which publication.
    #[command(flatten)]
    pub which: WhichKey,
    /// Let the key expire after this time (90s, 2m, 12h, 30d)
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    pub timeout: Option<u64>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `unpublish`
#[derive(Debug, Args)]
pub struct Unpublish {
    /// Which secret
    pub path: String,
    /// Only what is published to this user
    #[arg(long, value_name = "USER")]
    pub to: Option<String>,
    /// Which publication.
    #[command(flatten)]
    pub which: WhichKey,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What tells two keys of one secret and user apart.
#[derive(Debug, Args)]
pub struct WhichKey {
    /// What {instance} stands for in the description: the service's own instance
    #[arg(long, value_name = "NAME")]
    pub instance: Option<String>,
    /// In this attached instance, or in all of this scope; USER is then a number, as counted inside
    #[arg(long, value_name = "ID|SCOPE")]
    pub container: Option<String>,
    /// How the key is described; {path} {name} {user} {uid} {instance} {container} {scope} have values [default: pinfold:{path}]
    #[arg(long, value_name = "TEMPLATE")]
    pub description: Option<String>,
    /// Describe it as this service wants it: 389ds
    #[arg(long = "as", value_name = "PRESET", conflicts_with = "description")]
    pub preset: Option<String>,
}

/// `keyring`
#[derive(Debug, Args)]
pub struct Keyring {
    /// What to do
    #[command(subcommand)]
    pub action: KeyringAction,
}

/// What can be done with the kernel's keyrings.
#[derive(Debug, Subcommand)]
pub enum KeyringAction {
    /// List the keys
    Ls(Json),
}

/// `upcall`
#[derive(Debug, Args)]
pub struct Upcall {
    /// The key's number
    #[arg(value_name = "KEY")]
    pub key: i32,
}

/// A time in whole seconds.
fn seconds(text: &str) -> Result<u64, String> {
    match humantime::parse_duration(text) {
        Ok(time) if time.as_secs() > 0 && time.subsec_nanos() == 0 => Ok(time.as_secs()),
        Ok(_) | Err(_) => Err("a time is written 90s, 2m, 12h or 30d".into()),
    }
}

pub(super) fn octal(text: &str) -> Result<u16, String> {
    match u16::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 && !text.starts_with('+') => Ok(mode),
        _ => Err("a mode is octal, 0777 at most".into()),
    }
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
            super::failure::Failure::usage(line.trim_start_matches("error: ")).hint("pinfold help").tell()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Command, ErrorKind> {
        Cli::try_parse_from(line.split(' ')).map(|c| c.command).map_err(|e| e.kind())
    }

    #[test]
    fn the_grammar_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_of_the_manual_parses() {
        for line in [
            "pinfold init --recovery age1x",
            "pinfold init --passphrase-file - --recovery-out /r",
            "pinfold init --keyfile /k --recovery-out /r --json",
            "pinfold mount",
            "pinfold mount /mnt --config /c",
            "pinfold --config /c unlock",
            "pinfold unlock --recovery /r",
            "pinfold lock",
            "pinfold status --json",
            "pinfold ls",
            "pinfold ls -l svc/pin",
            "pinfold ls -lR --json",
            "pinfold put svc/pin -o nobody -g adm -m 0640",
            "pinfold put -p svc/pin",
            "pinfold cat --reveal svc/pin",
            "pinfold rm svc/pin",
            "pinfold rm --purge -r svc other",
            "pinfold history svc/pin --json",
            "pinfold rollback svc/pin 3",
            "pinfold who svc/pin",
            "pinfold log",
            "pinfold log -f --json",
            "pinfold log --verify",
            "pinfold log rotate",
            "pinfold recovery add age1x",
            "pinfold recovery add age1x --only",
            "pinfold recovery escrow",
            "pinfold recovery rm age1x",
            "pinfold recovery ls --json",
            "pinfold fsck",
            "pinfold fsck --extract svc/pin --recovery /r",
            "pinfold backup /b",
            "pinfold restore - --keyfile /k",
            "pinfold check-config",
            "pinfold scope add web",
            "pinfold scope add web --write --uid-map host",
            "pinfold scope ls --json",
            "pinfold scope rm web --purge",
            "pinfold attach web --pid 4711",
            "pinfold attach web --pid 4711 --id web-1 --timeout 12h",
            "pinfold detach web-1",
            "pinfold instances --json",
            "pinfold oci-hook createRuntime",
            "pinfold oci-hook poststop",
            "pinfold policy check",
            "pinfold policy check /p --json",
            "pinfold policy show --json --host h1 /p",
            "pinfold policy show --user u1",
            "pinfold publish svc/pin --to dirsrv",
            "pinfold publish svc/pin --to 389:389 --instance a --container web --as 389ds --timeout 12h --json",
            "pinfold publish svc/pin --to nut --description pinfold:{name}",
            "pinfold condition svc/pin",
            "pinfold condition svc/pin --unit nginx.service --exe /usr/sbin/nginx --label nginx --expires 2027-01-31T12:00:00Z",
            "pinfold condition svc/pin --clear unit --clear label --on-change reload:nginx.service --json",
            "pinfold unpublish svc/pin",
            "pinfold unpublish svc/pin --to dirsrv --as 389ds",
            "pinfold published --json",
            "pinfold keyring ls --json",
            "pinfold doctor",
            "pinfold upcall 741038274",
            "pinfold ready",
            "pinfold ready --timeout 90s --hold",
            "pinfold passwd",
            "pinfold passwd --old-keyfile /k --passphrase-file -",
            "pinfold identity add clevis --clevis tang {} --old-passphrase-file /p",
            "pinfold identity add token --recipient age1x",
            "pinfold identity add token --plugin age1yubikey1x --out /f",
            "pinfold identity rm token",
            "pinfold identity ls --json",
            "pinfold rekey --old-passphrase-file /p --new-passphrase-file /q --drop-others",
            "pinfold rekey --new-keyfile /k --json",
            "pinfold join hq --signer /hq.pub --prefix site-a --host web1 --json",
            "pinfold join --list --json",
            "pinfold leave hq --keep",
            "pinfold leave hq --remove",
            "pinfold import /b.pfb --pretend",
            "pinfold import - --dry-run --partial --json",
            "pinfold import --inbox --watch",
            "pinfold accounts ls --json",
            "pinfold accounts apply --pretend",
            "pinfold cert request web --subject CN=web,O=E --san web.example.org --san 192.0.2.1 --key-type rsa-3072 --out /f",
            "pinfold cert request web --again --to sftp://ca@ca.example.org/in/",
            "pinfold cert accept - --host web --json",
            "pinfold cert import /d --passphrase-file /p --replace --dry-run",
            "pinfold cert ls web* --expiring 30d --json",
            "pinfold cert show certs/web --pem",
            "pinfold cert verify --ca /f",
            "pinfold cert selfsign web --days 90 --replace",
            "pinfold cert ca init lab --days 3650",
            "pinfold cert ca sign lab /f --days 30 --out /g",
            "pinfold cert ca crl lab --revoke 4f --revoke 50",
            "pinfold renew web --pretend --json",
            "pinfold renew --force",
            "pinfold password add root@ui-1",
            "pinfold password generate nut@ups:upsd --length 32 --alphabet clear --replace",
            "pinfold password show root@ui-*",
            "pinfold password ls",
            "pinfold password ls *@*:* --json",
            "pinfold password rm root@ui-* --purge --dry-run",
            "pinfold password rotate root@ui-* --length 32",
            "pinfold password rotate root@ui-* --resume --json",
            "pinfold password rotate ui-1 --keep old",
            "pinfold password import passtore - --pretend",
            "pinfold password import pass /p --replace",
        ] {
            assert!(parse(line).is_ok(), "{line}: {:?}", parse(line).err());
        }
    }

    #[test]
    fn mistakes_are_usage_errors() {
        for line in [
            "pinfold init",
            "pinfold init --recovery age1x --recovery-out /r",
            "pinfold init --passphrase-file /p --keyfile /k --recovery age1x",
            "pinfold unlock --passphrase-file /p --keyfile /k",
            "pinfold unlock hunter2",
            "pinfold put",
            "pinfold put svc/pin -m 0888",
            "pinfold put svc/pin -m 4755",
            "pinfold put svc/pin hunter2",
            "pinfold rm",
            "pinfold rollback svc/pin",
            "pinfold rollback svc/pin latest",
            "pinfold log rotate --json",
            "pinfold log --verify -f",
            "pinfold fsck --version 3",
            "pinfold scope add web --uid-map both",
            "pinfold attach web",
            "pinfold attach web --pid 1 --timeout 0s",
            "pinfold attach web --pid 1 --timeout soon",
            "pinfold detach",
            "pinfold policy",
            "pinfold publish svc/pin",
            "pinfold publish svc/pin --to a --as 389ds --description x",
            "pinfold publish svc/pin --to a --timeout 0s",
            "pinfold publish svc/pin --to a --timeout soon",
            "pinfold keyring",
            "pinfold ready --timeout soon",
            "pinfold join hq",
            "pinfold join hq --list",
            "pinfold leave hq",
            "pinfold leave hq --keep --remove",
            "pinfold import",
            "pinfold import /b --inbox",
            "pinfold import /b --watch",
            "pinfold accounts",
            "pinfold cert",
            "pinfold cert request",
            "pinfold cert request ../web",
            "pinfold cert request web --key-type dsa",
            "pinfold cert ls --expiring soon",
            "pinfold cert selfsign web --days 0",
            "pinfold cert show certs/web --pem --json",
            "pinfold renew --now tomorrow",
            "pinfold password",
            "pinfold password add ui-1 hunter2",
            "pinfold password generate ui-1 --length 3",
            "pinfold password show",
            "pinfold password rotate ui-1 --resume --keep new",
            "pinfold password rotate ui-1 --keep both",
            "pinfold nothing",
        ] {
            let error = Cli::try_parse_from(line.split(' ')).err().unwrap_or_else(|| panic!("{line} parsed"));
            assert_eq!(explain(&error), Exit::Usage, "{line}");
        }
        let help = Cli::try_parse_from(["pinfold", "--version"]).unwrap_err();
        assert_eq!(explain(&help), Exit::Ok);
    }

    #[test]
    fn modes_are_octal() {
        assert_eq!(octal("0640"), Ok(0o640));
        assert_eq!(octal("400"), Ok(0o400));
        for bad in ["", "8", "1777", "u+r", "-1", "+1"] {
            assert!(octal(bad).is_err(), "{bad}");
        }
    }
}
