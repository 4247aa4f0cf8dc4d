//! The grammar of the commands about what opens a store, and its identity.
//!
//! Owns names, flags and their help.

use super::Json;
use clap::{Args, Subcommand};
use std::path::PathBuf;

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
