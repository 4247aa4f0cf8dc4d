//! The grammar of the commands about secrets: ls, put, cat, rm, rollback, who, condition.
//!
//! Owns names, flags and their help.

use clap::Args;

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

pub(super) fn octal(text: &str) -> Result<u16, String> {
    match u16::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 && !text.starts_with('+') => Ok(mode),
        _ => Err("a mode is octal, 0777 at most".into()),
    }
}
