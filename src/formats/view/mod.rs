//! Views: one content composed from several secrets, as a service wants it.
//!
//! Owns what a view is ([`Definition`]), which secrets it names, and how bytes are made of theirs. It is given the
//! contents and never fetches them; it knows nothing of callers, inodes or the tree.

mod built_in;
mod guard;
mod hash;
mod keys;
mod pair;
mod pem;
mod pkcs12;
mod quote;
mod template;

pub use hash::{Hashed, hashed};

use crate::model::{Glob, SecretPath};
use crate::secret::Secret;
use crate::sys::arena::ArenaFull;
use serde::{Deserialize, Serialize};
use std::fmt;
use thiserror::Error;

/// The most secrets one view is composed from.
pub const MAX_SOURCES: usize = 1024;
/// The longest template, in bytes.
pub const MAX_TEMPLATE: usize = 64 * 1024;

/// Why a view cannot be, or cannot be composed. Names and lines, never content.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum ViewError {
    /// The definition makes no sense.
    #[error("{0}")]
    Definition(String),
    /// The template is wrong, or fails on these sources.
    #[error("line {line} of the template: {what}")]
    Template {
        /// From 1.
        line: usize,
        /// What is wrong.
        what: String,
    },
    /// A source is not there, or was never written.
    #[error("'{0}' is not there")]
    Missing(String),
    /// A source is not what the view needs.
    #[error("'{source_path}' {what}")]
    Content {
        /// Which.
        source_path: String,
        /// What is wrong with it.
        what: String,
    },
    /// The private key is not the certificate's.
    #[error("the key does not fit the certificate")]
    Mismatch,
    /// The output is larger than a secret may be.
    #[error("larger than a secret may be ({max} bytes)")]
    TooBig {
        /// The bound.
        max: usize,
    },
    /// The locked memory is used up.
    #[error(transparent)]
    ArenaFull(#[from] ArenaFull),
}

/// What a view is composed from and how. Paths and patterns are those of its own scope: relative to the root of the tree
/// for the host, to its folder for a container.
///
/// postcard writes the variant's number first: a new kind gets a new number, and an old one keeps its fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Definition {
    /// PEM files one after the other, of which one is the private key; the first certificate must be the key's.
    Pem {
        /// In the order of the output.
        parts: Vec<SecretPath>,
    },
    /// Contents one after the other, byte for byte.
    Concat {
        /// In the order of the output.
        parts: Vec<SecretPath>,
    },
    /// One line `TOKEN:PIN`, as 389 Directory Server's pin.txt has it.
    Pin389 {
        /// The pin.
        secret: SecretPath,
        /// The token's name.
        token: String,
    },
    /// Public keys, one a line, as sshd's AuthorizedKeysFile has them.
    AuthorizedKeys {
        /// The files they are in.
        glob: Glob,
    },
    /// A template's output.
    Template {
        /// Its text.
        text: String,
        /// The secrets it names.
        sources: Vec<SecretPath>,
    },
    /// A key, its certificate and the chain as PKCS#12.
    Pkcs12 {
        /// The private key.
        key: SecretPath,
        /// Its certificate, perhaps followed by the chain.
        cert: SecretPath,
        /// More of the chain.
        chain: Option<SecretPath>,
        /// What it is encrypted with.
        password: SecretPath,
    },
    /// A directory of certificates and CRLs under OpenSSL's hash names.
    Hashdir {
        /// The files they are in.
        glob: Glob,
    },
    /// An entry of such a directory: one certificate or CRL of a source.
    Hashed {
        /// The file it is in.
        source: SecretPath,
        /// SHA-256 of its DER.
        digest: [u8; 32],
    },
}

/// What a definition names.
#[derive(Debug, Clone, Copy)]
pub enum Sources<'a> {
    /// These secrets, in this order; a name may be there twice.
    Named(&'a [SecretPath]),
    /// All secrets that match.
    Matching(&'a Glob),
}

/// One source, opened.
#[derive(Debug, Clone, Copy)]
pub struct Part<'a> {
    /// Its name as the definition has it.
    pub name: &'a SecretPath,
    /// Its content.
    pub content: &'a Secret,
}

impl Definition {
    /// Reads what an admin typed: a kind, its arguments, and for a template its text.
    ///
    /// # Errors
    /// [`ViewError::Definition`], [`ViewError::Template`] with the line.
    pub fn parse(kind: &str, args: &[String], text: Option<&str>) -> Result<Self, ViewError> {
        let wrong = |usage: &str| Err(ViewError::Definition(format!("{kind} takes {usage}")));
        if (kind == "template") != text.is_some() {
            return wrong("the text of a template");
        }
        match (kind, args) {
            ("pem", [_, _, ..]) => Ok(Definition::Pem { parts: paths(args)? }),
            ("pem", _) => wrong("a key, a certificate, and perhaps a chain, in the order of the output"),
            ("concat", [_, ..]) => Ok(Definition::Concat { parts: paths(args)? }),
            ("concat", _) => wrong("one secret at least"),
            ("pin389", [secret]) => Ok(Definition::Pin389 { secret: path(secret)?, token: TOKEN.into() }),
            ("pin389", [secret, token]) => {
                Ok(Definition::Pin389 { secret: path(secret)?, token: built_in::token(token)? })
            }
            ("pin389", _) => wrong("a secret, and perhaps the name of a token"),
            ("authorized-keys", [glob]) => Ok(Definition::AuthorizedKeys { glob: pattern(glob)? }),
            ("authorized-keys" | "hashdir", []) | ("authorized-keys" | "hashdir", [_, ..]) if args.len() != 1 => {
                wrong("one pattern, quoted from the shell")
            }
            ("hashdir", [glob]) => Ok(Definition::Hashdir { glob: pattern(glob)? }),
            ("pkcs12", [key, cert, rest @ .., password]) if rest.len() <= 1 => Ok(Definition::Pkcs12 {
                key: path(key)?,
                cert: path(cert)?,
                chain: rest.first().map(|chain| path(chain)).transpose()?,
                password: path(password)?,
            }),
            ("pkcs12", _) => wrong("a key, a certificate, perhaps a chain, and a password"),
            ("template", []) => {
                let text = text.unwrap_or_default();
                Ok(Definition::Template { text: text.to_owned(), sources: template::check(text)? })
            }
            ("template", _) => wrong("the text of a template, and nothing else"),
            _ => Err(ViewError::Definition(format!(
                "there is no kind of view '{}': it is one of {}",
                kind.chars().filter(|c| !c.is_control()).take(32).collect::<String>(),
                KINDS.join(", ")
            ))),
        }
    }

    /// The kind's name, as it was typed.
    pub fn kind(&self) -> &'static str {
        match self {
            Definition::Pem { .. } => "pem",
            Definition::Concat { .. } => "concat",
            Definition::Pin389 { .. } => "pin389",
            Definition::AuthorizedKeys { .. } => "authorized-keys",
            Definition::Template { .. } => "template",
            Definition::Pkcs12 { .. } => "pkcs12",
            Definition::Hashdir { .. } => "hashdir",
            Definition::Hashed { .. } => "hashdir entry",
        }
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        matches!(self, Definition::Hashdir { .. })
    }

    /// Whether the same sources always give the same bytes. PKCS#12 has a salt.
    pub fn is_deterministic(&self) -> bool {
        !matches!(self, Definition::Pkcs12 { .. })
    }

    /// Calls `f` with what it is composed from.
    pub fn with_sources<R>(&self, f: impl FnOnce(Sources<'_>) -> R) -> R {
        match self {
            Definition::Pem { parts } | Definition::Concat { parts } => f(Sources::Named(parts)),
            Definition::Pin389 { secret, .. } => f(Sources::Named(std::slice::from_ref(secret))),
            Definition::Template { sources, .. } => f(Sources::Named(sources)),
            Definition::Hashed { source, .. } => f(Sources::Named(std::slice::from_ref(source))),
            Definition::Pkcs12 { key, cert, chain, password } => {
                let all = [Some(key), Some(cert), chain.as_ref(), Some(password)];
                f(Sources::Named(&all.into_iter().flatten().cloned().collect::<Vec<_>>()))
            }
            Definition::AuthorizedKeys { glob } | Definition::Hashdir { glob } => f(Sources::Matching(glob)),
        }
    }

    /// Whether a secret of this name is, or would be, one of its sources.
    pub fn reads(&self, name: &SecretPath) -> bool {
        self.with_sources(|sources| match sources {
            Sources::Named(names) => names.contains(name),
            Sources::Matching(glob) => glob.matches(name),
        })
    }

    /// Composes the content of a file. `parts` are the sources in the definition's order, or by name where it has a
    /// pattern; each opened at the same moment. Of at most `max` bytes.
    ///
    /// # Errors
    /// [`ViewError`]; never a part of the content.
    pub fn compose(&self, parts: &[Part<'_>], max: usize) -> Result<Secret, ViewError> {
        let out = Out::new(parts, max)?;
        match self {
            Definition::Pem { .. } => built_in::pem(parts, out),
            Definition::Concat { .. } => built_in::concat(parts, out),
            Definition::Pin389 { token, .. } => built_in::pin389(token, parts, out),
            Definition::AuthorizedKeys { .. } => keys::authorized(parts, out),
            Definition::Template { text, .. } => template::render(text, parts, out),
            Definition::Pkcs12 { chain, .. } => pkcs12::compose(parts, chain.is_some(), out),
            Definition::Hashed { digest, .. } => hash::entry(digest, parts, out),
            Definition::Hashdir { .. } => Err(ViewError::Definition("it is a directory".into())),
        }
    }
}

impl fmt::Display for Definition {
    /// The kind and its arguments; of a template, what it reads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())?;
        match self {
            Definition::Pin389 { secret, token } => write!(f, " {secret} '{token}'"),
            Definition::AuthorizedKeys { glob } | Definition::Hashdir { glob } => write!(f, " '{}'", glob.as_str()),
            _ => self.with_sources(|sources| match sources {
                Sources::Named(names) => names.iter().try_for_each(|name| write!(f, " {name}")),
                Sources::Matching(glob) => write!(f, " '{}'", glob.as_str()),
            }),
        }
    }
}

/// What can be typed as a kind.
pub const KINDS: [&str; 7] = ["pem", "concat", "pin389", "authorized-keys", "template", "hashdir", "pkcs12"];
/// NSS's name of its own software token, as 389 Directory Server wants it.
const TOKEN: &str = "Internal (Software) Token";

fn path(text: &str) -> Result<SecretPath, ViewError> {
    let path = SecretPath::parse(text).map_err(|e| ViewError::Definition(format!("'{text}': {e}")))?;
    if path.is_root() { Err(ViewError::Definition("the root is not a secret".into())) } else { Ok(path) }
}

fn paths(texts: &[String]) -> Result<Vec<SecretPath>, ViewError> {
    if texts.len() > MAX_SOURCES {
        return Err(too_many());
    }
    texts.iter().map(|text| path(text)).collect()
}

fn pattern(text: &str) -> Result<Glob, ViewError> {
    Glob::parse(text).map_err(|e| ViewError::Definition(format!("'{text}': {e}")))
}

/// That there are more than [`MAX_SOURCES`].
pub fn too_many() -> ViewError {
    ViewError::Definition(format!("a view is composed from {MAX_SOURCES} secrets at most"))
}

fn content(part: &Part<'_>, what: impl Into<String>) -> ViewError {
    ViewError::Content { source_path: part.name.to_string(), what: what.into() }
}

/// The output: in locked memory, and bounded.
struct Out {
    secret: Secret,
    max: usize,
}

impl Out {
    /// Room for about what the parts are together.
    fn new(parts: &[Part<'_>], max: usize) -> Result<Self, ViewError> {
        let about = parts.iter().map(|part| part.content.len() + 1).sum::<usize>().clamp(64, max.max(64));
        let mut secret = Secret::zeroed(about)?;
        secret.resize(0)?;
        Ok(Out { secret, max })
    }

    fn push(&mut self, bytes: &[u8]) -> Result<(), ViewError> {
        let at = self.secret.len();
        let len = at + bytes.len();
        if len > self.max {
            return Err(ViewError::TooBig { max: self.max });
        }
        self.secret.resize(len)?;
        self.secret.expose_mut()[at..].copy_from_slice(bytes);
        Ok(())
    }

    /// With a line end after it, if it has none.
    fn push_lines(&mut self, bytes: &[u8]) -> Result<(), ViewError> {
        self.push(bytes)?;
        if bytes.last().is_some_and(|b| *b != b'\n') { self.push(b"\n") } else { Ok(()) }
    }

    fn done(self) -> Secret {
        self.secret
    }
}

#[cfg(test)]
mod tests;
