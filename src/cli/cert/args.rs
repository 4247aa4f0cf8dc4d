//! The grammar of `cert` and `renew`.

use crate::model::{HostName, KeyType, Timestamp};
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// `cert`
#[derive(Debug, Args)]
pub struct Cert {
    /// What to do
    #[command(subcommand)]
    pub action: CertAction,
}

/// What can be done with certificates.
#[derive(Debug, Subcommand)]
pub enum CertAction {
    /// Make a key in the store, and a request for a certificate of it
    Request(Request),
    /// Store a certificate that answers a request, or that matches another key of the store
    Accept(Accept),
    /// Store the pairs among the keys and certificates of a folder
    Import(Import),
    /// List the certificates of the tree
    Ls(Ls),
    /// Show one certificate
    Show(Show),
    /// Check certificates: time, key, chain
    Verify(Verify),
    /// Make a key and a certificate that it signs itself
    Selfsign(Selfsign),
    /// A small authority of one's own, for labs
    Ca(Ca),
}

/// Whom a certificate is to be about.
#[derive(Debug, Args)]
pub struct About {
    /// CN=…,O=… [default: as the certificate in use, else CN=HOST]
    #[arg(long, value_name = "NAME")]
    pub subject: Option<String>,
    /// A name it is to be good for: a host or an address, or DNS:…, IP:…, email:…, URI:… [default: as the certificate in use, else HOST]
    #[arg(long = "san", value_name = "NAME")]
    pub names: Vec<String>,
    /// ecdsa-p256, ecdsa-p384, ecdsa-p521, rsa-2048, rsa-3072, rsa-4096 or ed25519 [default: as the key in use, else certs.key_type]
    #[arg(long, value_name = "TYPE")]
    pub key_type: Option<KeyType>,
}

/// `cert request`
#[derive(Debug, Args)]
pub struct Request {
    /// For whom; the parts are in certs/HOST
    #[arg(value_parser = host)]
    pub host: HostName,
    /// Whom it is to be about.
    #[command(flatten)]
    pub about: About,
    /// Give up a request that is not answered yet
    #[arg(long)]
    pub again: bool,
    /// Write the request to FILE instead of stdout
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Hand the request to somebody: sftp://USER@HOST[:PORT]/FOLDER, where it becomes HOST.csr, or mail:ADDRESS
    #[arg(long, value_name = "TARGET", conflicts_with = "out")]
    pub to: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `cert accept`
#[derive(Debug, Args)]
pub struct Accept {
    /// The certificate and what is above it, in PEM, DER or PKCS#7; - is stdin
    pub file: PathBuf,
    /// Whose it must be
    #[arg(long, value_parser = host)]
    pub host: Option<HostName>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `cert import`
#[derive(Debug, Args)]
pub struct Import {
    /// The folder; file names say nothing
    pub dir: PathBuf,
    /// What opens encrypted keys, less one newline at its end; - is stdin
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
    /// Give pairs that are there a new version
    #[arg(long)]
    pub replace: bool,
    /// Say what would be stored, and store nothing
    #[arg(long, visible_alias = "dry-run")]
    pub pretend: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `cert ls`
#[derive(Debug, Args)]
pub struct Ls {
    /// Only those whose path, host or any name matches; * stands for anything
    pub pattern: Option<String>,
    /// Only those that end within this time (30d); exit code 1 if there are any
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    pub expiring: Option<u64>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `cert show`
#[derive(Debug, Args)]
pub struct Show {
    /// Its path, or a host's folder (certs/HOST)
    pub path: String,
    /// Print the certificate and what is above it, in PEM
    #[arg(long, conflicts_with_all = ["json", "request"])]
    pub pem: bool,
    /// Print the request that is not answered yet, in PEM
    #[arg(long, conflicts_with = "json")]
    pub request: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `cert verify`
#[derive(Debug, Args)]
pub struct Verify {
    /// Only those whose path, host or any name matches; * stands for anything
    pub pattern: Option<String>,
    /// Each must end at one of the authorities in FILE
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `cert selfsign`
#[derive(Debug, Args)]
pub struct Selfsign {
    /// For whom; the parts are in certs/HOST
    #[arg(value_parser = host)]
    pub host: HostName,
    /// Whom it is to be about.
    #[command(flatten)]
    pub about: About,
    /// For how many days
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    pub days: u32,
    /// Give a pair that is there a new version
    #[arg(long)]
    pub replace: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `cert ca`
#[derive(Debug, Args)]
pub struct Ca {
    /// What to do
    #[command(subcommand)]
    pub action: CaAction,
}

/// What an own authority does.
#[derive(Debug, Subcommand)]
pub enum CaAction {
    /// Make one; its parts are in ca/NAME
    Init {
        /// What it is called
        #[arg(value_parser = host)]
        name: HostName,
        /// CN=…,O=… [default: CN=NAME]
        #[arg(long, value_name = "NAME")]
        subject: Option<String>,
        /// As in cert request
        #[arg(long, value_name = "TYPE")]
        key_type: Option<KeyType>,
        /// For how many days
        #[arg(long, default_value_t = 3650, value_parser = clap::value_parser!(u32).range(1..=36_500))]
        days: u32,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Sign a request; the certificate, and the authority's behind it, go to stdout
    Sign {
        /// Which authority
        #[arg(value_parser = host)]
        name: HostName,
        /// The request, in PEM or DER; - is stdin
        file: PathBuf,
        /// For how many days
        #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=36_500))]
        days: u32,
        /// Write to FILE instead
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Take certificates back, and write the list of all that were; it is in ca/NAME/crl.pem, too
    Crl {
        /// Which authority
        #[arg(value_parser = host)]
        name: HostName,
        /// The serial number of one that is taken back now
        #[arg(long, value_name = "SERIAL")]
        revoke: Vec<String>,
        /// For how many days the list is good
        #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=36_500))]
        days: u32,
        /// Write to FILE instead of stdout
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

/// `renew`
#[derive(Debug, Args)]
pub struct Renew {
    /// Only those whose path, host or any name matches; * stands for anything
    pub pattern: Option<String>,
    /// Renew now, whenever they end and whatever failed before
    #[arg(long)]
    pub force: bool,
    /// Say what would be renewed, and do nothing
    #[arg(long, visible_alias = "dry-run")]
    pub pretend: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// What time it is, for tests
    #[arg(long, hide = true, value_name = "TIME", value_parser = time)]
    pub now: Option<Timestamp>,
}

fn host(text: &str) -> Result<HostName, String> {
    HostName::parse(text).map_err(|e| e.to_string())
}

fn seconds(text: &str) -> Result<u64, String> {
    let time = crate::config::parse_duration(text).map(|t| t.as_secs());
    time.ok_or_else(|| "a time is 90s, 2m, 12h or 30d".into())
}

fn time(text: &str) -> Result<Timestamp, String> {
    humantime::parse_rfc3339(text).map(Timestamp::from).map_err(|_| "a time is written 2030-01-31T12:00:00Z".into())
}
