//! The grammar of `pinfold view`.

use super::Json;
use super::secrets::octal;
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// `view`
#[derive(Debug, Args)]
pub struct View {
    /// What to do
    #[command(subcommand)]
    pub action: ViewAction,
}

/// What can be done with views.
#[derive(Debug, Subcommand)]
pub enum ViewAction {
    /// Define a view: one file, or a directory, composed from several secrets when it is opened
    Add(Box<ViewAdd>),
    /// List them
    Ls(Json),
    /// Remove a view; nothing it is composed from
    Rm {
        /// Which
        path: String,
    },
}

/// `view add`
#[derive(Debug, Args)]
#[command(after_help = "Kinds:\n  \
    pem KEY CERT [CHAIN…]           PEM files in this order; the key must fit the first certificate\n  \
    concat SECRET…                  one after the other, byte for byte\n  \
    pin389 SECRET [TOKEN]           one line 'Internal (Software) Token:PIN'\n  \
    authorized-keys PATTERN         public keys, one a line\n  \
    template FILE                   a file of this machine with {{ secret(\"PATH\") }} in it; - is stdin\n  \
    hashdir PATTERN                 a directory of certificates and CRLs under OpenSSL's hash names\n  \
    pkcs12 KEY CERT [CHAIN] PASSWORD\n\
    Quote patterns from the shell.")]
pub struct ViewAdd {
    /// Where
    pub path: String,
    /// What kind of view
    pub kind: String,
    /// What it is composed from
    #[arg(value_name = "ARG")]
    pub args: Vec<String>,
    /// The owner, by name or number [default: root]
    #[arg(short, long, value_name = "USER")]
    pub owner: Option<String>,
    /// The group, by name or number [default: root]
    #[arg(short, long, value_name = "GROUP")]
    pub group: Option<String>,
    /// The permission bits, octal [default: 0600, of a directory 0700]
    #[arg(short, long, value_name = "MODE", value_parser = octal)]
    pub mode: Option<u16>,
    /// Make missing directories, 0755 of root
    #[arg(short, long)]
    pub parents: bool,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    /// Only say what it would be
    #[arg(long, alias = "dry-run")]
    pub pretend: bool,
    /// Print JSON; does not ask, and makes the view only with --yes
    #[arg(long)]
    pub json: bool,
}

impl ViewAdd {
    /// The template's file.
    pub fn template(&self) -> Option<PathBuf> {
        match (self.kind.as_str(), self.args.as_slice()) {
            ("template", [file]) => Some(file.into()),
            _ => None,
        }
    }
}
