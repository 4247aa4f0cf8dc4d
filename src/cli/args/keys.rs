//! The grammar of the commands about keys in the kernel's keyrings: publish, unpublish, keyring, upcall.
//!
//! Owns names, flags and their help.

use super::Json;
use clap::{Args, Subcommand};

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
