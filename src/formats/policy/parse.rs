//! From text to a policy, or to everything that is wrong with the text.
//!
//! Owns the grammar: one statement a line, in any order. First every line is taken apart, then groups are declared, then
//! names are looked up, since a group may be used above its declaration.

use super::FILE_MAX;
use super::fault::{Faults, PolicyFault};
use super::{Because, Host, Policy, build, host};
use crate::model::{Glob, GlobError, HostName};
use std::collections::BTreeMap;

/// The longest line, in bytes.
const LINE_MAX: usize = 1 << 20;
/// The longest note, in bytes: it goes into bundles.
const NOTE_MAX: usize = 1000;

/// How many options of a host are looked at: more than there are keys.
const OPTIONS_MAX: usize = 20;

/// A word and where it stands, from 1.
#[derive(Debug, Clone, Copy)]
pub(super) struct Word<'t> {
    pub text: &'t str,
    pub column: u32,
}

/// A line that says something.
#[derive(Debug)]
pub(super) struct Line<'t> {
    pub number: u32,
    pub text: &'t str,
    pub note: &'t str,
}

/// What it says, its names not yet looked at.
#[derive(Debug)]
pub(super) enum Statement<'t> {
    Group { of: Of, name: Word<'t>, members: Vec<Word<'t>> },
    Manage { hosts: Vec<Word<'t>>, users: Vec<Word<'t>> },
    Share { hosts: Vec<Word<'t>>, globs: Vec<Glob> },
    Host(Box<Host>),
}

/// Of whom a group is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Of {
    Hosts,
    Users,
}

pub(super) fn parse(text: &str) -> Result<Policy, Faults> {
    let mut reader = Reader::default();
    let mut statements = Vec::new();
    if text.len() as u64 > FILE_MAX {
        reader.faults.push(|| PolicyFault::at(1, 1, "", format!("the policy is longer than {FILE_MAX} bytes")));
        return Err(reader.faults);
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (number, line) in (1u32..).zip(text.split('\n')) {
        if let Some(statement) = reader.line(number, line.strip_suffix('\r').unwrap_or(line)) {
            statements.push(statement);
        }
    }
    build::build(&statements, reader.faults)
}

/// Takes lines apart.
#[derive(Default)]
struct Reader {
    faults: Faults,
}

impl Reader {
    fn line<'t>(&mut self, number: u32, text: &'t str) -> Option<(Line<'t>, Statement<'t>)> {
        let (said, note) = text.split_once('#').unwrap_or((text, ""));
        let line = Line { number, text, note: note.trim() };
        let statement = Self::statement(&line, said);
        match statement {
            Ok(statement) => statement.map(|statement| (line, statement)),
            Err(faults) => {
                faults.into_iter().for_each(|fault| self.faults.push(|| fault));
                None
            }
        }
    }

    fn statement<'t>(line: &Line<'t>, said: &'t str) -> Result<Option<Statement<'t>>, Vec<PolicyFault>> {
        let fault = |column, message: String| PolicyFault::at(line.number, column, line.text, message);
        if line.text.len() > LINE_MAX {
            return Err(vec![fault(1, format!("the line is longer than {LINE_MAX} bytes"))]);
        }
        if let Some(at) = line.text.chars().position(|c| c.is_control() && c != '\t') {
            return Err(vec![fault(column(at), "a control character".into())]);
        }
        let all = words(said, 1);
        let Some((first, rest)) = all.split_first() else { return Ok(None) };
        if line.note.len() > NOTE_MAX {
            return Err(vec![fault(1, format!("the note is longer than {NOTE_MAX} bytes"))]);
        }
        let kind = first.text.split(':').next().unwrap_or_default();
        match kind {
            "host" if kind == first.text => host_line(line, rest).map(|host| Some(Statement::Host(Box::new(host)))),
            "hostgroup" | "usergroup" | "manage" | "share" => {
                two_sides(line, said, kind).map(Some).map_err(|fault| vec![fault])
            }
            _ => Err(vec![
                fault(first.column, format!("unknown word '{}'", short(first.text)))
                    .hint("a line begins with host, hostgroup, usergroup, manage or share; '#' begins a comment"),
            ]),
        }
    }
}

/// `hostgroup NAME : …`, `usergroup NAME : …`, `manage … : …`, `share … : …`
fn two_sides<'t>(line: &Line<'t>, said: &'t str, kind: &str) -> Result<Statement<'t>, PolicyFault> {
    let fault = |column, message: String| PolicyFault::at(line.number, column, line.text, message);
    let end = column(said.trim_end().chars().count());
    let Some((left, right)) = said.split_once(':') else {
        return Err(fault(end, format!("expected ':' and {}", if kind == "share" { "patterns" } else { "names" })));
    };
    let mut left = words(left, 1);
    let colon = column(said.chars().take_while(|c| *c != ':').count());
    let right = words(right, colon + 1);
    left.remove(0);
    if kind != "share"
        && let Some((word, at)) = right.iter().find_map(|w| Some((w, w.text.chars().position(|c| c == ':')?)))
    {
        return Err(fault(word.column + column(at) - 1, "a second ':'".into()));
    }
    if left.is_empty() {
        return Err(fault(colon, format!("'{kind}' without a name before ':'")));
    }
    let group = |of| {
        if let Some(second) = left.get(1) {
            return Err(fault(second.column, format!("expected ':' after the name of the {kind}")));
        }
        Ok(Statement::Group { of, name: left[0], members: right.clone() })
    };
    match kind {
        "hostgroup" => group(Of::Hosts),
        "usergroup" => group(Of::Users),
        _ if right.is_empty() => {
            Err(fault(end, format!("expected {} after ':'", if kind == "share" { "a pattern" } else { "a name" })))
        }
        "manage" => Ok(Statement::Manage { hosts: left, users: right }),
        _ => {
            let glob = |word: &Word<'_>| {
                Glob::parse(word.text).map_err(|error| {
                    let fault = fault(word.column, error.to_string());
                    if error == GlobError::Absolute {
                        fault.hint("leave out the mount point, too: svc/*")
                    } else {
                        fault
                    }
                })
            };
            let globs = right.iter().map(glob).collect::<Result<_, _>>()?;
            Ok(Statement::Share { hosts: left, globs })
        }
    }
}

/// `host NAME RECIPIENT [key=value…]`
fn host_line(line: &Line<'_>, rest: &[Word<'_>]) -> Result<Host, Vec<PolicyFault>> {
    let fault = |column, message: String| PolicyFault::at(line.number, column, line.text, message);
    let end = column(line.text.split('#').next().unwrap_or_default().trim_end().chars().count());
    let Some((name, rest)) = rest.split_first() else {
        return Err(vec![fault(end, "expected a host's name and its recipient".into())]);
    };
    let Some((recipient, mut rest)) = rest.split_first() else {
        return Err(vec![
            fault(end, "expected the host's recipient".into())
                .hint("it is age1…, as pinfold join prints it, or the host's key: ssh-ed25519 AAAA…"),
        ]);
    };
    let mut columns = BTreeMap::from([("name".to_owned(), name.column), ("recipient".to_owned(), recipient.column)]);
    let mut key = recipient.text.to_owned();
    if ["ssh-", "ecdsa-", "sk-"].iter().any(|kind| key.starts_with(kind)) && !key.contains(':') {
        let Some((second, after)) = rest.split_first() else {
            return Err(vec![fault(end, format!("expected the key after '{}'", short(recipient.text)))]);
        };
        key = format!("{key} {}", second.text);
        rest = after;
    }
    let mut faults = Vec::new();
    let parsed = HostName::parse(name.text);
    if let Err(error) = &parsed {
        faults.push(fault(name.column, error.to_string()));
    }
    let mut options = BTreeMap::new();
    // Each fault costs about what the line is long.
    for word in rest.iter().take(OPTIONS_MAX) {
        let Some((key, value)) = word.text.split_once('=') else {
            let wrong = fault(word.column, format!("expected key=value, found '{}'", short(word.text)));
            faults.push(wrong.hint("leave out the comment at the end of a public key"));
            continue;
        };
        let at = word.column + column(key.chars().count());
        if let Err(why) = host::check(key, value) {
            faults.push(fault(word.column, why));
        } else if options.insert(key.to_owned(), value.to_owned()).is_some() {
            faults.push(fault(word.column, format!("'{key}' is there twice")));
        }
        columns.insert(key.to_owned(), at);
    }
    if let Some(word) = rest.get(OPTIONS_MAX) {
        faults.push(fault(word.column, format!("a host has {OPTIONS_MAX} options at most")));
    }
    let (Ok(name), true) = (parsed, faults.is_empty()) else { return Err(faults) };
    let because = Because { line: line.number, note: line.note.to_owned() };
    let option = |key: &str| options.get(key).cloned();
    let (deliver, user_prefix, ack) = (option("deliver"), option("user-prefix"), option("ack"));
    Ok(Host { name, recipient: key, deliver, user_prefix, ack, options, because, columns })
}

/// Words between blanks, the first character of `text` being at this column.
fn words(text: &str, first: u32) -> Vec<Word<'_>> {
    let mut words = Vec::new();
    let (mut at, mut begun) = (first, None);
    for (i, c) in text.char_indices() {
        match (c == ' ' || c == '\t', begun) {
            (false, None) => begun = Some((i, at)),
            (true, Some((start, column))) => {
                words.push(Word { text: &text[start..i], column });
                begun = None;
            }
            _ => {}
        }
        at += 1;
    }
    words.extend(begun.map(|(start, column)| Word { text: &text[start..], column }));
    words
}

/// Of the character that so many are before.
fn column(before: usize) -> u32 {
    u32::try_from(before).map_or(u32::MAX, |n| n.saturating_add(1))
}

/// So much of a word as belongs into a message.
pub(super) fn short(word: &str) -> String {
    let mut chars = word.chars();
    let mut start: String = chars.by_ref().take(40).collect();
    if chars.next().is_some() {
        start.push('…');
    }
    start
}

/// Somebody's name: as useradd(8) takes it, and capitals.
pub(super) fn is_user(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    (1..=32).contains(&name.len())
        && name.bytes().all(plain)
        && !name.starts_with(['-', '.'])
        && !name.bytes().all(|b| b.is_ascii_digit())
        && !name.contains("..")
}
