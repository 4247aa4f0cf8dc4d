//! The grammar of the commands about consoles: join, leave, import, accounts.
//!
//! Owns names, flags and their help.

use super::Json;
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// `join`
#[derive(Debug, Args)]
pub struct Join {
    /// The console's name, as its bundles have it
    #[arg(required_unless_present = "list", conflicts_with = "list")]
    pub console: Option<String>,
    /// Its signing key: a line as in a .pub file, or such a file
    #[arg(long, value_name = "KEY", required_unless_present = "list", conflicts_with = "list")]
    pub signer: Option<String>,
    /// Take nothing from it that lies outside this folder of the tree
    #[arg(long, value_name = "DIR", conflicts_with = "list")]
    pub prefix: Option<String>,
    /// What the console calls this host [default: the machine's name]
    #[arg(long, value_name = "NAME", conflicts_with = "list")]
    pub host: Option<String>,
    /// List the consoles that were joined
    #[arg(long)]
    pub list: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `leave`
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("how").required(true))]
pub struct Leave {
    /// The console
    pub console: String,
    /// Keep what came from it, as secrets of this host
    #[arg(long, group = "how")]
    pub keep: bool,
    /// Remove what came from it, and lock the accounts of its admins
    #[arg(long, group = "how")]
    pub remove: bool,
}

/// `import`
#[derive(Debug, Args)]
pub struct Import {
    /// The bundle; - is stdin
    #[arg(required_unless_present = "inbox", conflicts_with = "inbox")]
    pub file: Option<PathBuf>,
    /// Import what was uploaded into the inbox
    #[arg(long)]
    pub inbox: bool,
    /// Stay, and import whatever is uploaded from now on
    #[arg(long, requires = "inbox", conflicts_with = "file")]
    pub watch: bool,
    /// Show what would be done, and do nothing
    #[arg(long, visible_alias = "dry-run", conflicts_with = "inbox")]
    pub pretend: bool,
    /// Apply the rest if some entries are refused
    #[arg(long)]
    pub partial: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `accounts`
#[derive(Debug, Args)]
pub struct Accounts {
    /// What to do.
    #[command(subcommand)]
    pub action: AccountsAction,
}

/// What to do with the accounts of admins.
#[derive(Debug, Subcommand)]
pub enum AccountsAction {
    /// List the accounts that consoles name, and those that were made
    Ls(Json),
    /// Make those that are missing, and lock those that are gone
    Apply {
        /// Show what would be done, and do nothing
        #[arg(long, visible_alias = "dry-run")]
        pretend: bool,
    },
}
