//! Templates: minijinja, strict, without loaders, with so many steps and no more.
//!
//! Owns the names a template can use. Which secrets it reads is known from its text: their names must be written out, and
//! nothing else can be had when it runs. The engine keeps what it works on in ordinary memory: the process's allocator
//! wipes what it frees.

use super::built_in::without_line_end;
use super::{MAX_SOURCES, MAX_TEMPLATE, Out, Part, ViewError, guard, hash, pem, quote, too_many};
use crate::hex;
use crate::model::{SecretPath, Timestamp};
use crate::secret::Secret;
use base64::Engine;
use minijinja::value::{Value, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
use zeroize::Zeroizing;

/// Steps of the engine: some tens of milliseconds.
const FUEL: u64 = 500_000;
/// How deep calls and expressions nest.
const DEPTH: usize = 64;
/// The functions that read a source.
const READERS: [&str; 3] = ["secret", "bytes", "cert"];

/// Checks a template, and finds the secrets that it names, each once, in the order of their first mention.
///
/// # Errors
/// [`ViewError::Template`] with the line.
pub(super) fn check(text: &str) -> Result<Vec<SecretPath>, ViewError> {
    if text.len() > MAX_TEMPLATE {
        return Err(ViewError::Definition(format!("a template has {MAX_TEMPLATE} bytes at most")));
    }
    // The text is an admin's, not a secret: what the parser says of it may be shown.
    let guarded = guard::guarded(text)?;
    environment(MAX_TEMPLATE).template_from_str(&guarded).map(|_| ()).map_err(|e| ViewError::Template {
        line: e.line().unwrap_or(1),
        what: e.detail().map_or_else(|| e.kind().to_string(), str::to_owned),
    })?;
    let mut sources: Vec<SecretPath> = Vec::new();
    for (line, name) in Scanner::new(text).names()? {
        let wrong = |what: String| ViewError::Template { line, what };
        let path = SecretPath::parse(&name).map_err(|e| wrong(format!("'{name}': {e}")))?;
        if path.is_root() {
            return Err(wrong("the root is not a secret".into()));
        }
        if !sources.contains(&path) {
            sources.push(path);
        }
    }
    if sources.len() > MAX_SOURCES { Err(too_many()) } else { Ok(sources) }
}

/// Renders it over its sources.
///
/// # Errors
/// [`ViewError::Template`] with the line and the kind of error: what the engine says in words may quote a secret.
pub(super) fn render(text: &str, parts: &[Part<'_>], out: Out) -> Result<Secret, ViewError> {
    let mut env = environment(out.max);
    let of = |part: &Part<'_>| (part.name.to_string(), Zeroizing::new(part.content.expose().to_vec()));
    let contents: Arc<Contents> = Arc::new(parts.iter().map(of).collect());
    let sources = Arc::clone(&contents);
    env.add_function("secret", move |name: String| get(&sources, &name).map(|bytes| value(without_line_end(bytes))));
    let sources = Arc::clone(&contents);
    env.add_function("bytes", move |name: String| get(&sources, &name).map(value));
    env.add_function("cert", move |name: String| get(&contents, &name).and_then(certificate));
    let mut bounded = Bounded { out, full: None };
    let guarded = guard::guarded(text)?;
    let template = env.template_from_str(&guarded).map_err(|e| told(&e))?;
    let rendered = template.render_captured_to((), &mut bounded);
    match (rendered, bounded.full) {
        (_, Some(error)) => Err(error),
        (Err(error), None) => Err(told(&error)),
        (Ok(_), None) => Ok(bounded.out.done()),
    }
}

/// Values in it are at most so large, in bytes.
fn environment<'t>(max: usize) -> Environment<'t> {
    let mut env = Environment::new();
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_keep_trailing_newline(true);
    env.set_fuel(Some(FUEL));
    env.set_recursion_limit(DEPTH);
    for function in ["debug", "namespace"] {
        env.remove_global(function);
    }
    guard::bound_filters(&mut env, max);
    // Bytes that are no text would be written as something else.
    env.set_formatter(|out, state, value| match value.kind() {
        ValueKind::Bytes => Err(failed("bytes that are not text: use the filter base64")),
        _ => minijinja::escape_formatter(out, state, value),
    });
    env.add_filter("base64", |value: Value| {
        let bytes = value.as_bytes().ok_or_else(|| failed("base64 takes text or bytes"))?;
        Ok::<_, Error>(base64::engine::general_purpose::STANDARD.encode(bytes))
    });
    env.add_filter("json", |value: Value| {
        serde_json::to_string(&value).map_err(|_| failed("no JSON can be made of it"))
    });
    env.add_filter("shell", |value: String| quote::shell(&value).ok_or_else(|| failed("a NUL byte has no quoting")));
    env.add_filter("nut", |value: String| {
        quote::nut(&value).ok_or_else(|| failed("NUT's files have printable ASCII only"))
    });
    env.add_filter("ini", |value: String| {
        quote::ini(&value).ok_or_else(|| failed("a control character has no quoting in an INI file"))
    });
    env
}

/// The sources' contents, by name.
type Contents = BTreeMap<String, Zeroizing<Vec<u8>>>;

/// By its name as the definition has it: the text may have it with blanks or slashes more.
fn get<'c>(contents: &'c Contents, name: &str) -> Result<&'c [u8], Error> {
    let name = SecretPath::parse(name).map_err(|_| failed("a name that cannot be"))?.to_string();
    contents.get(&name).map(|bytes| bytes.as_slice()).ok_or_else(|| failed("a name that is not written out"))
}

/// Text, or bytes if it is none.
fn value(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => Value::from(text),
        Err(_) => Value::from_bytes(bytes.to_vec()),
    }
}

/// An error of our own: its words quote nothing. Marked by a kind that the engine has no use for without blocks.
fn failed(what: &'static str) -> Error {
    Error::new(ErrorKind::EvalBlock, what)
}

fn told(error: &Error) -> ViewError {
    let what = match error.kind() {
        ErrorKind::EvalBlock => error.detail().unwrap_or("a value that cannot be used").to_owned(),
        ErrorKind::OutOfFuel => "it takes too many steps".into(),
        kind => kind.to_string(),
    };
    ViewError::Template { line: error.line().unwrap_or(1), what }
}

/// What a template sees of a certificate. Times are RFC 3339 in UTC.
#[derive(Serialize)]
struct CertificateFacts {
    subject: String,
    issuer: String,
    serial: String,
    not_before: String,
    not_after: String,
    names: Vec<String>,
    sha256: String,
    hash: String,
}

fn certificate(bytes: &[u8]) -> Result<Value, Error> {
    let der = match bytes.first() {
        Some(0x30) => bytes.to_vec(),
        _ => {
            let blocks = pem::blocks(bytes).map_err(|_| failed("a source is no certificate"))?;
            let first = blocks.iter().find(|block| block.is_certificate()).and_then(pem::Block::der);
            first.ok_or_else(|| failed("a source is no certificate"))?.to_vec()
        }
    };
    let (_, cert) = X509Certificate::from_der(&der).map_err(|_| failed("a source is no certificate"))?;
    let names = cert.subject_alternative_name().ok().flatten();
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) | GeneralName::RFC822Name(name) | GeneralName::URI(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => address(bytes),
        _ => None,
    };
    let facts = CertificateFacts {
        subject: cert.subject().to_string(),
        issuer: cert.issuer().to_string(),
        serial: hex::encode(cert.raw_serial()),
        not_before: Timestamp::of_secs(cert.validity().not_before.timestamp()).to_second(),
        not_after: Timestamp::of_secs(cert.validity().not_after.timestamp()).to_second(),
        names: names.map(|san| san.value.general_names.iter().filter_map(name).collect()).unwrap_or_default(),
        sha256: hex::encode(&Sha256::digest(&der)),
        hash: hash::name_hash(cert.subject()).map(|hash| format!("{hash:08x}")).unwrap_or_default(),
    };
    Ok(Value::from_serialize(&facts))
}

fn address(bytes: &[u8]) -> Option<String> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(|b| core::net::Ipv4Addr::from(b).to_string()),
        16 => <[u8; 16]>::try_from(bytes).ok().map(|b| core::net::Ipv6Addr::from(b).to_string()),
        _ => None,
    }
}

/// The output as something to write to; why it stopped, for that is no business of the engine's.
struct Bounded {
    out: Out,
    full: Option<ViewError>,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.out.push(bytes) {
            Ok(()) => Ok(bytes.len()),
            Err(error) => {
                self.full = Some(error);
                Err(io::ErrorKind::WriteZero.into())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Finds the calls of [`READERS`] in a template that is known to parse. What it misses cannot be read: a name that was not
/// found here is refused when the template runs.
struct Scanner<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Scanner<'t> {
    fn new(text: &'t str) -> Self {
        Scanner { text, at: 0 }
    }

    /// The names with their lines.
    fn names(mut self) -> Result<Vec<(usize, String)>, ViewError> {
        let mut found = Vec::new();
        while let Some(open) = self.rest().find('{') {
            self.at += open;
            match self.rest().as_bytes().get(1) {
                Some(b'#') => self.skip_past("#}"),
                Some(b'{') => {
                    self.at += 2;
                    self.code("}}", &mut found)?;
                }
                Some(b'%') => {
                    self.at += 2;
                    let statement = self.rest().trim_start_matches(['-', '+']).trim_start();
                    let raw =
                        statement.strip_prefix("raw").is_some_and(|s| s.starts_with([' ', '\t', '\n', '-', '+', '%']));
                    if raw {
                        self.skip_past("endraw");
                        self.skip_past("%}");
                    } else {
                        self.code("%}", &mut found)?;
                    }
                }
                _ => self.at += 1,
            }
        }
        Ok(found)
    }

    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn line(&self) -> usize {
        self.text[..self.at].matches('\n').count() + 1
    }

    fn skip_past(&mut self, what: &str) {
        self.at += self.rest().find(what).map_or(self.rest().len(), |i| i + what.len());
    }

    fn skip_blanks(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    /// An expression or statement, up to its end.
    fn code(&mut self, end: &str, found: &mut Vec<(usize, String)>) -> Result<(), ViewError> {
        let mut after_dot = false;
        let mut braces = 0usize;
        while let Some(c) = self.rest().chars().next() {
            if braces == 0 && self.rest().starts_with(end) {
                self.at += end.len();
                return Ok(());
            }
            match c {
                '"' | '\'' => drop(self.string(c)),
                _ if c.is_alphabetic() || c == '_' => {
                    let word = self.word();
                    if READERS.contains(&word) && !after_dot {
                        found.push(self.argument(word)?);
                    }
                }
                '{' | '}' => {
                    braces = if c == '{' { braces + 1 } else { braces.saturating_sub(1) };
                    self.at += 1;
                }
                _ => self.at += c.len_utf8(),
            }
            if !c.is_whitespace() {
                after_dot = c == '.';
            }
        }
        Ok(())
    }

    fn word(&mut self) -> &'t str {
        let rest = self.rest();
        let len = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        self.at += len;
        &rest[..len]
    }

    /// A string, with its quotes passed; `None` if it has escapes or no end.
    fn string(&mut self, quote: char) -> Option<&'t str> {
        let inner = &self.rest()[1..];
        let mut escaped = false;
        for (i, c) in inner.char_indices() {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                _ if c == quote => {
                    self.at += i + 2;
                    return (!inner[..i].contains('\\')).then_some(&inner[..i]);
                }
                _ => {}
            }
        }
        self.at = self.text.len();
        None
    }

    /// `("name")` after a reader.
    fn argument(&mut self, reader: &str) -> Result<(usize, String), ViewError> {
        let line = self.line();
        let wrong = || ViewError::Template { line, what: format!("{reader} takes a name in quotes, written out") };
        self.skip_blanks();
        if !self.rest().starts_with('(') {
            return Err(wrong());
        }
        self.at += 1;
        self.skip_blanks();
        let quote = self.rest().chars().next().filter(|c| matches!(c, '"' | '\'')).ok_or_else(wrong)?;
        let name = self.string(quote).ok_or_else(wrong)?;
        self.skip_blanks();
        if self.rest().starts_with(')') { Ok((line, name.to_owned())) } else { Err(wrong()) }
    }
}
