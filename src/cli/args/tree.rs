//! The grammar of the commands about the mounted tree: mount, release, ready.
//!
//! Owns names, flags and their help.

use clap::Args;
use std::path::PathBuf;
use std::time::Duration;

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
