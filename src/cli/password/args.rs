//! The grammar of `pinfold password`.
//!
//! Owns names, flags and their help. No flag takes a password.

use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

/// `password`
#[derive(Debug, Args)]
#[command(after_help = "A NAME is USER@HOST:SERVICE; without USER root is meant, without SERVICE ssh. A PATTERN is a \
    NAME in whose parts * and ? stand for others: quote it for the shell.")]
pub struct Password {
    /// What to do
    #[command(subcommand)]
    pub action: Action,
}

/// What can be done with passwords.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Store a password, typed unseen, or the one line of stdin
    Add(Add),
    /// Make a password that nobody sees, and store it
    Generate(Generate),
    /// Show passwords on the terminal, one at a time
    Show(Show),
    /// List passwords, without content
    Ls(Ls),
    /// Remove passwords
    Rm(Rm),
    /// Change passwords on the far side
    Rotate(Rotate),
    /// Take passwords from elsewhere
    Import(Import),
}

/// `password add`
#[derive(Debug, Args)]
pub struct Add {
    /// Whose
    pub name: String,
    /// In the place of one that is there
    #[arg(long)]
    pub replace: bool,
}

/// What a password is made of.
#[derive(Debug, Clone, Copy, Args)]
pub struct Recipe {
    /// How many characters
    #[arg(long, value_name = "N", default_value_t = 24, value_parser = clap::value_parser!(u16).range(4..=512))]
    pub length: u16,
    /// Which characters
    #[arg(long, value_enum, default_value_t = Alphabet::Alnum)]
    pub alphabet: Alphabet,
}

/// Characters to choose from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Alphabet {
    /// A-Z a-z 0-9
    Alnum,
    /// The same without those that look alike: 0 O o 1 I l
    Clear,
    /// All of ASCII that shows, without the blank
    Print,
    /// 0-9 a-f
    Hex,
    /// 0-9
    Digits,
}

/// `password generate`
#[derive(Debug, Args)]
pub struct Generate {
    /// Whose
    pub name: String,
    /// What it is made of.
    #[command(flatten)]
    pub recipe: Recipe,
    /// In the place of one that is there; `rotate` changes the far side too
    #[arg(long)]
    pub replace: bool,
}

/// `password show`
#[derive(Debug, Args)]
pub struct Show {
    /// Which
    #[arg(required = true, value_name = "PATTERN")]
    pub patterns: Vec<String>,
    /// The next one of a rotation that has not ended
    #[arg(long)]
    pub next: bool,
}

/// `password ls`
#[derive(Debug, Args)]
pub struct Ls {
    /// Which [default: all]
    #[arg(value_name = "PATTERN")]
    pub patterns: Vec<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `password rm`
#[derive(Debug, Args)]
pub struct Rm {
    /// Which
    #[arg(required = true, value_name = "PATTERN")]
    pub patterns: Vec<String>,
    /// Keep no version either
    #[arg(long)]
    pub purge: bool,
    /// Only say what would be removed
    #[arg(long, visible_alias = "dry-run")]
    pub pretend: bool,
}

/// `password rotate`
#[derive(Debug, Args)]
pub struct Rotate {
    /// Which
    #[arg(required = true, value_name = "PATTERN")]
    pub patterns: Vec<String>,
    /// What the new ones are made of.
    #[command(flatten)]
    pub recipe: Recipe,
    /// Type the new password, unseen; for one NAME
    #[arg(long, conflicts_with = "resume")]
    pub ask: bool,
    /// Go on with those that were begun and have not ended
    #[arg(long)]
    pub resume: bool,
    /// End those that were begun by your word, without asking the far side: which password it takes
    #[arg(long, value_enum, value_name = "WHICH", conflicts_with_all = ["resume", "ask"])]
    pub keep: Option<Which>,
    /// Only say what would be done
    #[arg(long, visible_alias = "dry-run")]
    pub pretend: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// One of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Which {
    /// The one there was
    Old,
    /// The next one
    New,
}

/// `password import`
#[derive(Debug, Args)]
pub struct Import {
    /// From where
    #[command(subcommand)]
    pub from: From,
}

/// Where passwords are taken from.
#[derive(Debug, Subcommand)]
pub enum From {
    /// A listing of Passtore: comma-separated values
    Passtore {
        /// The file; - is stdin
        file: PathBuf,
        /// How.
        #[command(flatten)]
        how: How,
    },
    /// pass(1): decrypted with gpg, one after the other
    Pass {
        /// The folder [default: $PASSWORD_STORE_DIR, else ~/.password-store]
        folder: Option<PathBuf>,
        /// How.
        #[command(flatten)]
        how: How,
    },
}

/// How passwords are taken in.
#[derive(Debug, Clone, Copy, Args)]
pub struct How {
    /// In the place of those that are there
    #[arg(long)]
    pub replace: bool,
    /// Only say what would be taken in
    #[arg(long, visible_alias = "dry-run")]
    pub pretend: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}
