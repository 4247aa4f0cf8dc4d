//! The grammar of the commands about the audit log.
//!
//! Owns names, flags and their help.

use clap::{Args, Subcommand};

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
