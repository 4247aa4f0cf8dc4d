//! Why a bundle is not taken. One variant for each thing an import or an admin does differently.

use super::{Fingerprint, PublicKey};
use crate::model::{ConsoleName, HostName, Timestamp};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why a bundle is refused; what it shows is the reason.
#[derive(Debug, Clone, Error, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Refusal {
    /// More bytes than this host takes.
    #[error("it is too large: {size} bytes, at most {max} are taken")]
    TooLarge {
        /// Bytes of the file.
        size: u64,
        /// Bytes that are taken.
        max: u64,
    },
    /// Not a bundle's form: tar, names, JSON.
    #[error("not a bundle: {0}")]
    NotABundle(String),
    /// Of a later version of the format.
    #[error("its format is from the future: version {0}, this pinfold reads version 1")]
    NewerFormat(u64),
    /// From a console that this trust is not about.
    #[error("it is from the console {found}, not from {trusted}")]
    OtherConsole {
        /// Whom it names.
        found: ConsoleName,
        /// Who is trusted.
        trusted: ConsoleName,
    },
    /// Made for another host.
    #[error("it is for the host {found}, and this is {here}")]
    OtherHost {
        /// Whom it names.
        found: HostName,
        /// This host.
        here: HostName,
    },
    /// The place of the signature is empty: it was made to be signed later.
    #[error("it is not signed yet")]
    Unsigned,
    /// The signature is not the signer's over this manifest.
    #[error("its signature is not right: {0}")]
    BadSignature(String),
    /// Signed by somebody whom no link of the chain leads to.
    #[error(
        "it is signed by {signer}, and this host trusts {trusted}; the rotation chain does not lead from one to the other"
    )]
    UnknownSigner {
        /// Who signed.
        signer: Fingerprint,
        /// Whom this host trusts.
        trusted: Fingerprint,
    },
    /// The chain does not hold.
    #[error("its rotation chain is broken: {0}")]
    BrokenChain(String),
    /// Another key than the one this host walked to has its number.
    #[error("its rotation chain was forked: key {number} is {found} in it, and {trusted} to this host")]
    Forked {
        /// The key's number in the chain.
        number: u64,
        /// The key it has there.
        found: Fingerprint,
        /// The key this host knows by that number.
        trusted: Fingerprint,
    },
    /// The signer was revoked.
    #[error("its signer {0} was revoked")]
    RevokedSigner(Fingerprint),
    /// The only key that this host trusts, or one on the way from it to the signer, was revoked.
    #[error(
        "the key {key} that leads to its signer was revoked; compare the console's key ({signer}) with what the console \
         shows, then: pinfold join {console} --signer '{full}'"
    )]
    TrustRevoked {
        /// The console.
        console: ConsoleName,
        /// The revoked key.
        key: Fingerprint,
        /// Who signed the bundle.
        signer: Fingerprint,
        /// The same in full.
        full: Box<PublicKey>,
        /// What the bundle revokes: the host is to remember it, although it refuses.
        revoked: Box<Revocations>,
    },
    /// The same serial again.
    #[error("it was seen before: its serial is {0}, as that of the last one taken")]
    Replayed(u64),
    /// A smaller serial than that of the last one.
    #[error("it is older than the last one taken: its serial is {serial}, that one's {last}")]
    Older {
        /// Its serial.
        serial: u64,
        /// That of the last one taken.
        last: u64,
    },
    /// A serial that neither the clock nor the last one leads to.
    #[error(
        "its serial {serial} is ahead of this host's clock, which allows {most} at most; one of the two clocks is or was wrong"
    )]
    Ahead {
        /// Its serial.
        serial: u64,
        /// The greatest that would be taken now.
        most: u64,
    },
    /// It is past its time.
    #[error("it expired at {0}")]
    Expired(Timestamp),
    /// It was made later than now, by more than clocks may differ.
    #[error("it is dated in the future: {created}, and it is {now}; one of the two clocks is wrong")]
    Future {
        /// When it says it was made.
        created: Timestamp,
        /// This host's clock.
        now: Timestamp,
    },
    /// The payload is not the one that was signed.
    #[error("its payload is not the one that was signed")]
    OtherPayload,
    /// The payload does not open with this host's key.
    #[error("its payload is not encrypted to this host")]
    NotForThisKey,
    /// The payload's encryption, or what is in it, is wrong although it was signed.
    #[error("its payload is wrong: {0}")]
    BadPayload(String),
    /// More entries than this host takes.
    #[error("it has too many entries: at most {0} are taken")]
    TooManyEntries(usize),
    /// No room in locked memory for a content.
    #[error(transparent)]
    #[serde(skip)]
    ArenaFull(#[from] crate::sys::arena::ArenaFull),
    /// The process that checks gave no answer.
    #[error("it could not be checked: {0}")]
    Unchecked(String),
    /// The copy could not be read.
    #[error("it cannot be read: {0}")]
    Io(String),
}

/// The keys that a bundle revokes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Revocations {
    /// All of them.
    pub all: Vec<Fingerprint>,
    /// Those that its chain leads over.
    pub led: Vec<Fingerprint>,
}

impl From<std::io::Error> for Refusal {
    fn from(error: std::io::Error) -> Self {
        Refusal::Io(error.to_string())
    }
}

impl Refusal {
    /// One word for logs and JSON; it never changes its meaning.
    pub fn code(&self) -> &'static str {
        match self {
            Refusal::TooLarge { .. } => "too-large",
            Refusal::NotABundle(_) => "not-a-bundle",
            Refusal::NewerFormat(_) => "newer-format",
            Refusal::OtherConsole { .. } => "other-console",
            Refusal::OtherHost { .. } => "other-host",
            Refusal::Unsigned => "unsigned",
            Refusal::BadSignature(_) => "bad-signature",
            Refusal::UnknownSigner { .. } => "unknown-signer",
            Refusal::BrokenChain(_) => "broken-chain",
            Refusal::Forked { .. } => "forked-chain",
            Refusal::RevokedSigner(_) => "revoked-signer",
            Refusal::TrustRevoked { .. } => "trust-revoked",
            Refusal::Replayed(_) => "replayed",
            Refusal::Older { .. } => "older",
            Refusal::Ahead { .. } => "ahead",
            Refusal::Expired(_) => "expired",
            Refusal::Future { .. } => "future",
            Refusal::OtherPayload => "other-payload",
            Refusal::NotForThisKey => "not-for-this-key",
            Refusal::BadPayload(_) => "bad-payload",
            Refusal::TooManyEntries(_) => "too-many-entries",
            Refusal::ArenaFull(_) => "no-memory",
            Refusal::Unchecked(_) => "unchecked",
            Refusal::Io(_) => "unreadable",
        }
    }

    /// Keys that a host must not trust again, learned from a bundle that it refuses: signed by a chain that leads from its
    /// trusted key. To be added to its [`Trust`](super::Trust).
    pub fn learned(&self) -> &[Fingerprint] {
        match self {
            Refusal::TrustRevoked { revoked, .. } => &revoked.all,
            _ => &[],
        }
    }
}
