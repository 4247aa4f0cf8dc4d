//! The grammar of `pinfold policy`.

use clap::{Args, Subcommand};
use std::path::PathBuf;

/// `policy`
#[derive(Debug, Args)]
pub struct Policy {
    /// What to do
    #[command(subcommand)]
    pub action: PolicyAction,
}

/// What can be done with the policy.
#[derive(Debug, Subcommand)]
pub enum PolicyAction {
    /// Check a policy: every mistake with its place, and what is doubtful
    Check(PolicyCheck),
    /// Show who administers which host, and what goes where, each with the line that says so
    Show(PolicyShow),
}

/// `policy check`
#[derive(Debug, Args)]
pub struct PolicyCheck {
    /// Which [default: the configured policy]
    pub file: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `policy show`
#[derive(Debug, Args)]
pub struct PolicyShow {
    /// Which [default: the configured policy]
    pub file: Option<PathBuf>,
    /// This host alone
    #[arg(long, value_name = "HOST")]
    pub host: Option<String>,
    /// This user alone
    #[arg(long, value_name = "USER")]
    pub user: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}
