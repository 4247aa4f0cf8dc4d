//! To whom a file key is wrapped: age's recipients of every kind that has a name, and where each kind is taken.
//!
//! Owns the one parser of their texts, and the sentence for each that is refused. Who they are to somebody is not its matter.

use age_core::format::{FileKey, Stanza};
use std::collections::HashSet;
use std::fmt;
use thiserror::Error;

/// The longest text of a recipient, in bytes: twice what the longest kind needs, with room for a comment.
const MAX: usize = 4096;
/// The label of what resists a quantum computer, as age has it.
pub const POSTQUANTUM: &str = "postquantum";
/// X25519 keys of low order, without the highest bit: what is encrypted to one, anybody opens; age panics instead.
const LOW_ORDER: [[u8; 32]; 7] = [
    [0; 32],
    edge(1, 0, 0),
    [
        0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a, 0xda, 0x09,
        0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00,
    ],
    [
        0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b, 0x04, 0x44,
        0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57,
    ],
    edge(0xec, 0xff, 0x7f),
    edge(0xed, 0xff, 0x7f),
    edge(0xee, 0xff, 0x7f),
];

const fn edge(first: u8, middle: u8, last: u8) -> [u8; 32] {
    let mut key = [middle; 32];
    key[0] = first;
    key[31] = last;
    key
}

/// Where a recipient is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecipientUse {
    /// As a recovery recipient: every version of every secret is sealed to it, by the daemon.
    Recovery,
    /// As what protects the store's identity: sealed to it once, by the daemon.
    Identity,
    /// As what a passphrase is encrypted to, once, by the program `age`.
    Program,
    /// As a host that gets bundles: it opens them by itself, with nobody there.
    Host,
}

/// Why text is no recipient, or not one for this place.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum RecipientError {
    /// No form of any.
    #[error("not a recipient: age1…, age1tag1…, age1tagpq1… or ssh-ed25519 AAAA…")]
    NotARecipient,
    /// One by its beginning, but its checksum or its key is wrong.
    #[error("not a recipient: it begins as {0} does, but is mistyped or cut off")]
    Mistyped(&'static str),
    /// In capital letters.
    #[error("not a recipient: one is written in small letters, age1…")]
    Capitals,
    /// What must not leave its owner.
    #[error(
        "this is a secret key, and a recipient is its public half: age-keygen -y FILE, or the .pub beside an SSH key"
    )]
    Secret,
    /// A key that whoever knows it opens.
    #[error("the key of this recipient is of low order: anybody could open what is encrypted to it")]
    LowOrder,
    /// A kind that the age library cannot encrypt to.
    #[error("nothing can be encrypted to age1pq1… here yet: use age1tagpq1…, or age1…")]
    Hybrid,
    /// An SSH key of a kind that nothing is encrypted to here.
    #[error("nothing is encrypted to {0} keys here: only to ssh-ed25519")]
    Kind(String),
    /// A good one, in the wrong place.
    #[error("{0} {reason}", reason = reason(*.1))]
    Misplaced(Kind, RecipientUse),
    /// Recovery recipients of which some resist a quantum computer and some do not.
    #[error(
        "age1tagpq1… and other recovery recipients cannot be mixed: who breaks one of the others opens what age1tagpq1… was to keep \
         closed; have only age1tagpq1… (pinfold recovery add --only RECIPIENT gives up all others), or none of them"
    )]
    Mixed,
    /// Not a private key as OpenSSH has it, or one under a passphrase.
    #[error("not an OpenSSH private key without a passphrase")]
    NotAnIdentity,
}

/// Why a kind is not taken somewhere, and what is instead.
fn reason(place: RecipientUse) -> &'static str {
    match place {
        RecipientUse::Recovery => {
            "cannot be a recovery recipient: its program would have to run for every version of every secret; use the \
             age1tag1… or age1tagpq1… of the token, age1… or ssh-ed25519, or let it open the identity: pinfold identity add \
             NAME --plugin RECIPIENT"
        }
        RecipientUse::Identity => "is encrypted to by its program: pinfold identity add NAME --plugin RECIPIENT",
        RecipientUse::Program => "is not encrypted to by the program age",
        RecipientUse::Host => {
            "cannot be a host's: a host opens its bundles with nobody there to touch a token; use what pinfold join prints on \
             it, age1… or ssh-ed25519"
        }
    }
}

/// What a recipient is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `age1…`: an X25519 key.
    X25519,
    /// `ssh-ed25519 AAAA…`.
    Ssh,
    /// `age1tag1…`: a P-256 key in a token.
    Tag,
    /// `age1tagpq1…`: the same with ML-KEM-768.
    TagPq,
    /// `age1NAME1…`: only its program knows.
    Plugin,
}

impl Kind {
    /// Whether this kind is taken there.
    pub fn goes(self, place: RecipientUse) -> bool {
        match place {
            RecipientUse::Recovery | RecipientUse::Identity => self != Kind::Plugin,
            RecipientUse::Program => true,
            RecipientUse::Host => matches!(self, Kind::X25519 | Kind::Ssh),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::X25519 => "age1…",
            Kind::Ssh => "ssh-ed25519",
            Kind::Tag => "age1tag1…",
            Kind::TagPq => "age1tagpq1…",
            Kind::Plugin => "a plugin's recipient",
        })
    }
}

/// Somebody that a file key can be wrapped to.
#[derive(Clone)]
pub struct Recipient(Inner);

#[derive(Clone)]
enum Inner {
    X25519(age::x25519::Recipient),
    Ssh(age::ssh::Recipient),
    Tag(age::tag::Recipient),
    TagPq(Box<age::tagpq::Recipient>),
    Plugin(String),
}

impl Recipient {
    /// Parses `age1…` of any kind, `ssh-ed25519 AAAA… comment`, or `ssh-ed25519:AAAA…` where it must be one word; and says whether it can be
    /// used there.
    ///
    /// # Errors
    /// [`RecipientError`].
    pub fn parse(text: &str, place: RecipientUse) -> Result<Self, RecipientError> {
        let recipient = parse(text.trim())?;
        if recipient.kind().goes(place) {
            Ok(recipient)
        } else {
            Err(RecipientError::Misplaced(recipient.kind(), place))
        }
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        match &self.0 {
            Inner::X25519(_) => Kind::X25519,
            Inner::Ssh(_) => Kind::Ssh,
            Inner::Tag(_) => Kind::Tag,
            Inner::TagPq(_) => Kind::TagPq,
            Inner::Plugin(_) => Kind::Plugin,
        }
    }

    /// Its label in age's sense: a file is wrapped only to recipients of the same one. A plugin's is known to its program alone.
    pub fn label(&self) -> Option<&'static str> {
        (self.kind() == Kind::TagPq).then_some(POSTQUANTUM)
    }
}

fn parse(text: &str) -> Result<Recipient, RecipientError> {
    if text.len() > MAX || text.contains(char::is_control) {
        return Err(RecipientError::NotARecipient);
    }
    let begins = |with: &str| text.get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with));
    if begins("AGE-SECRET-KEY-") || begins("AGE-PLUGIN-") || begins("-----BEGIN") {
        return Err(RecipientError::Secret);
    }
    if begins("age1") {
        // Bech32 knows capitals, all of them or none; age takes recipients in small letters only.
        return if text.contains(|c: char| c.is_ascii_uppercase()) {
            Err(RecipientError::Capitals)
        } else {
            parse_age(text)
        };
    }
    let (kind, rest) = text.split_once([':', ' ']).ok_or(RecipientError::NotARecipient)?;
    // By its name, before anything parses it: RSA's arithmetic is never reached (RUSTSEC-2023-0071).
    match kind {
        "ssh-ed25519" => {}
        _ if ["ssh-", "ecdsa-", "sk-"].iter().any(|of| kind.starts_with(of)) && kind.len() <= 64 => {
            return Err(RecipientError::Kind(kind.into()));
        }
        _ => return Err(RecipientError::NotARecipient),
    }
    match format!("{kind} {}", rest.trim_start()).parse() {
        Ok(age::ssh::Recipient::SshEd25519(_, point)) if point.is_small_order() => Err(RecipientError::LowOrder),
        Ok(key @ age::ssh::Recipient::SshEd25519(..)) => Ok(Recipient(Inner::Ssh(key))),
        _ => Err(RecipientError::Mistyped("ssh-ed25519")),
    }
}

fn parse_age(text: &str) -> Result<Recipient, RecipientError> {
    // What stands before the last 1 says which kind it is: the rest has none.
    let name = text.rfind('1').map_or("", |at| &text[..at]);
    let inner = match name {
        "age" => {
            let key = text.parse().map_err(|_| RecipientError::Mistyped("age1…"))?;
            let mut bytes = bytes(text).ok_or(RecipientError::Mistyped("age1…"))?;
            // X25519 does not look at the highest bit.
            bytes[31] &= 0x7f;
            if LOW_ORDER.iter().any(|low| bytes == low) {
                return Err(RecipientError::LowOrder);
            }
            Inner::X25519(key)
        }
        "age1tag" => Inner::Tag(text.parse().map_err(|_| RecipientError::Mistyped("age1tag1…"))?),
        "age1tagpq" => Inner::TagPq(Box::new(text.parse().map_err(|_| RecipientError::Mistyped("age1tagpq1…"))?)),
        "age1pq" => return Err(RecipientError::Hybrid),
        _ if name.len() > 4 && bytes(text).is_some() => Inner::Plugin(text.to_owned()),
        _ => return Err(RecipientError::Mistyped("age1…")),
    };
    Ok(Recipient(inner))
}

/// What Bech32 says, if its checksum is right.
fn bytes(text: &str) -> Option<Vec<u8>> {
    age_core::primitives::bech32_decode(text, |_| (), |_| Ok(()), |_, bytes| Ok(bytes.collect())).ok()
}

/// The private key of an SSH host or of a person, in the file that OpenSSH has, as what opens what is sealed to that key.
///
/// # Errors
/// [`RecipientError`] for a key of another kind: it is known by its name before anything calculates with it, as with
/// [`Recipient::parse`]. One under a passphrase is none: nobody is there to type it.
pub fn ssh_identity(file: &[u8]) -> Result<age::ssh::Identity, RecipientError> {
    let key = ssh_key::PrivateKey::from_openssh(file).map_err(|_| RecipientError::NotAnIdentity)?;
    if key.is_encrypted() {
        return Err(RecipientError::NotAnIdentity);
    }
    if key.algorithm() != ssh_key::Algorithm::Ed25519 {
        return Err(RecipientError::Kind(key.algorithm().as_str().into()));
    }
    age::ssh::Identity::from_buffer(file, None).map_err(|_| RecipientError::NotAnIdentity)
}

impl From<age::x25519::Recipient> for Recipient {
    fn from(recipient: age::x25519::Recipient) -> Self {
        Recipient(Inner::X25519(recipient))
    }
}

impl age::Recipient for Recipient {
    fn wrap_file_key(&self, file_key: &FileKey) -> Result<(Vec<Stanza>, HashSet<String>), age::EncryptError> {
        match &self.0 {
            Inner::X25519(recipient) => recipient.wrap_file_key(file_key),
            Inner::Ssh(recipient) => recipient.wrap_file_key(file_key),
            Inner::Tag(recipient) => recipient.wrap_file_key(file_key),
            Inner::TagPq(recipient) => recipient.wrap_file_key(file_key),
            // No place where this is asked for takes one.
            Inner::Plugin(_) => {
                let why = "a plugin's recipient is wrapped to by its program alone";
                Err(age::EncryptError::Io(std::io::Error::other(why)))
            }
        }
    }
}

/// The text it was parsed from, without a comment.
impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Inner::X25519(recipient) => recipient.fmt(f),
            Inner::Ssh(recipient) => recipient.fmt(f),
            Inner::Tag(recipient) => recipient.fmt(f),
            Inner::TagPq(recipient) => fmt::Display::fmt(recipient, f),
            Inner::Plugin(text) => f.write_str(text),
        }
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
