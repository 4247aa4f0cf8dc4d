//! The grammar of the commands about scopes and the containers that have them.
//!
//! Owns names, flags and their help.

use super::Json;
use crate::wire::UidMap;
use clap::{Args, Subcommand};
use std::time::Duration;

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
