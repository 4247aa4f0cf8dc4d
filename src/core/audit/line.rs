//! One line: how it is written, chained and read again.
//!
//! A line is `{"time":"…","seq":N,BODY,"hash":"…"}`, where the hash is SHA-256 over the previous line's hash (32 raw
//! bytes) and this line's bytes before `,"hash":`. The first three fields and the last have a fixed place.

use super::event::{Decision, Event};
use crate::hex;
use crate::model::Generation;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::time::{Duration, SystemTime};

/// What the first line of a file says its format is.
pub const FORMAT: &str = "pinfold-audit/1";
/// Bytes of `,"hash":"` + 64 + `"}`.
const HASH_FIELD: usize = 75;
/// Bytes of `{"time":"`, the time, and `","seq":`.
const BEFORE_SEQ: usize = 9 + 27 + 8;
/// The longest line, with its newline. What is longer was not written by pinfold.
pub(super) const LINE_MAX: usize = 128 * 1024;
/// The longest path, exe, cgroup or reason recorded, in bytes before escaping.
const LONG_TEXT: usize = 4096;
/// The longest unit, container or errno recorded.
const SHORT_TEXT: usize = 512;

/// The operations that the log itself records.
pub(super) mod own {
    /// The first line of every file.
    pub const BEGIN: &str = "audit_begin";
    /// The bytes before this line are half a line that a power cut left.
    pub const TORN: &str = "audit_torn";
    /// The log was found shorter than its anchor, or with another line in its place.
    pub const CUT: &str = "audit_cut";
    /// Events could not be written.
    pub const GAP: &str = "audit_gap";
    /// Refusals of one uid, over what is listed one by one.
    pub const UNLISTED: &str = "audit_unlisted";
    /// An old file was removed, as configured.
    pub const PRUNE: &str = "audit_prune";
    /// The store is older than lines before this one say.
    pub const BEHIND: &str = "store_behind";
}

/// What a store has on the disk for good: each line says so of the moment it was written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Durable {
    /// The beginning of the store's id.
    pub store: [u8; 8],
    /// The last of its commits that survives a power cut.
    pub generation: Generation,
}

impl Durable {
    /// Of the store with this id.
    pub fn of(id: &[u8; 16], generation: Generation) -> Self {
        let mut store = [0; 8];
        store.copy_from_slice(&id[..8]);
        Durable { store, generation }
    }

    /// As the fields of a line that it ends with.
    pub(super) fn fields(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        out.extend_from_slice(b",\"store\":\"");
        hex::push(&mut out, &self.store);
        out.push(b'"');
        push_count(&mut out, "durable", self.generation.0);
        out
    }

    /// What a line says, if it says anything.
    pub(super) fn in_line(line: &[u8]) -> Option<Self> {
        let record = Record::parse(line)?;
        let store = hex::decode_exact(record.store?.as_bytes())?;
        Some(Durable { store, generation: Generation(record.durable?) })
    }
}

/// How far the chain goes: what a copy of it elsewhere (the store, journald) vouches for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Anchor {
    /// The `seq` of the last line: how many lines there are, over all files, from the beginning.
    pub count: u64,
    /// The hash of that line; zeros when there is none.
    pub head: [u8; 32],
}

impl Anchor {
    /// The head as it stands in the file: 64 hexadecimal digits.
    pub fn head_hex(&self) -> String {
        hex::encode(&self.head)
    }
}

/// A line, read again. Which fields there are depends on the operation; `docs/audit.md` has the table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields are those of the file, documented there")]
pub struct Record {
    pub time: String,
    pub seq: u64,
    pub op: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exe: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub through: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decision>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errno: Option<String>,
    /// How many events the line stands for, if not one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// When the first of them was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Which store, and the last commit that it had on the disk then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub durable: Option<u64>,
    pub hash: String,
}

impl Record {
    /// Reads one line, with or without its newline. `None` if it is not one of ours.
    pub fn parse(line: &[u8]) -> Option<Self> {
        serde_json::from_slice(line).ok()
    }
}

/// The hash of a line: SHA-256 over the hash before it and its bytes before `,"hash":`.
pub(super) fn chain(previous: &[u8; 32], sealed: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(previous).chain_update(sealed).finalize().into()
}

/// The time as the file shows it, RFC 3339 in UTC with six decimals. The second is formatted once.
#[derive(Default)]
pub(super) struct Clock {
    second: Option<u64>,
    text: Vec<u8>,
}

impl Clock {
    pub fn push(&mut self, out: &mut Vec<u8>, at: SystemTime) {
        let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        if self.second != Some(since.as_secs()) {
            let whole = SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs());
            self.text = humantime::format_rfc3339_seconds(whole).to_string().into_bytes();
            self.text.pop();
            self.second = Some(since.as_secs());
        }
        out.extend_from_slice(&self.text);
        let micros = since.subsec_micros();
        let mut digits = *b".000000Z";
        let mut rest = micros;
        for place in digits[1..7].iter_mut().rev() {
            *place = b'0' + u8::try_from(rest % 10).expect("a digit");
            rest /= 10;
        }
        out.extend_from_slice(&digits);
    }
}

/// Appends the line that has this body and these last fields, and its newline; returns its hash.
pub(super) fn seal(
    out: &mut Vec<u8>,
    clock: &mut Clock,
    at: SystemTime,
    seq: u64,
    previous: &[u8; 32],
    (body, last): (&[u8], &[u8]),
) -> [u8; 32] {
    let from = out.len();
    out.extend_from_slice(b"{\"time\":\"");
    clock.push(out, at);
    out.extend_from_slice(b"\",\"seq\":");
    push_number(out, seq);
    out.push(b',');
    out.extend_from_slice(body);
    out.extend_from_slice(last);
    let hash = chain(previous, &out[from..]);
    out.extend_from_slice(b",\"hash\":\"");
    hex::push(out, &hash);
    out.extend_from_slice(b"\"}\n");
    hash
}

/// A line taken apart, its hash not yet checked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parts<'a> {
    /// What the hash covers, beside the previous hash.
    pub sealed: &'a [u8],
    pub seq: u64,
    pub hash: [u8; 32],
}

impl<'a> Parts<'a> {
    /// Takes apart a line without its newline. `None` if it has not the shape of one.
    pub fn of(line: &'a [u8]) -> Option<Self> {
        let (sealed, tail) = line.split_at_checked(line.len().checked_sub(HASH_FIELD)?)?;
        let digits_of_hash = tail.strip_prefix(b",\"hash\":\"")?.strip_suffix(b"\"}")?;
        let (start, rest) = sealed.split_at_checked(BEFORE_SEQ)?;
        if !start.starts_with(b"{\"time\":\"") || !start.ends_with(b"\",\"seq\":") {
            return None;
        }
        let digits = rest.iter().position(|b| !b.is_ascii_digit())?;
        let seq = std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()?;
        // What is left is read by serde too, so that a line cannot be one thing to us and another to a JSON reader.
        rest[digits..].starts_with(b",\"op\":\"").then_some(Parts {
            sealed,
            seq,
            hash: hex::decode_exact(digits_of_hash)?,
        })
    }

    /// Whether it follows the line with that hash.
    pub fn follows(&self, previous: &[u8; 32]) -> bool {
        chain(previous, self.sealed) == self.hash
    }

    /// The operation's word.
    pub fn op(&self) -> &'a [u8] {
        self.split_op().0
    }

    /// What comes after the operation: in an event, `,"path":`.
    pub fn after_op(&self) -> &'a [u8] {
        self.split_op().1
    }

    fn split_op(&self) -> (&'a [u8], &'a [u8]) {
        let rest = &self.sealed[BEFORE_SEQ..];
        let from = rest.iter().position(|b| *b == b'"').map_or(rest.len(), |i| i + b"\"op\":\"".len());
        let word = rest.get(from..).unwrap_or_default();
        let end = word.iter().position(|b| *b == b'"').unwrap_or(0);
        (&word[..end], word.get(end + 1..).unwrap_or_default())
    }

    /// The time.
    pub fn time(&self) -> &'a str {
        std::str::from_utf8(&self.sealed[9..36]).unwrap_or_default()
    }
}

/// Appends the body of an event: from `"op"` to the last field before the hash.
pub(super) fn push_event(out: &mut Vec<u8>, event: &Event<'_>) {
    out.extend_from_slice(b"\"op\":\"");
    out.extend_from_slice(event.op.as_str().as_bytes());
    out.push(b'"');
    push_text(out, "path", event.path, LONG_TEXT);
    if let Some(version) = event.version {
        push_count(out, "version", version);
    }
    let who = event.who;
    push_count(out, "uid", who.uid.into());
    push_count(out, "gid", who.gid.into());
    push_count(out, "pid", who.pid.into());
    if let Some(start) = who.start {
        push_count(out, "start", start);
    }
    for (name, text, limit) in [
        ("exe", &who.exe, LONG_TEXT),
        ("cgroup", &who.cgroup, LONG_TEXT),
        ("unit", &who.unit, SHORT_TEXT),
        ("container", &who.container, SHORT_TEXT),
        ("label", &who.label, SHORT_TEXT),
        ("through", &who.through, LONG_TEXT),
    ] {
        if let Some(text) = text {
            push_text(out, name, text, limit);
        }
    }
    push_text(out, "decision", event.decision.as_str(), SHORT_TEXT);
    push_text(out, "reason", event.reason, LONG_TEXT);
    if let Some(errno) = event.errno {
        push_text(out, "errno", errno, SHORT_TEXT);
    }
}

/// Appends how many events a line stands for, and when the first was.
pub(super) fn push_summed(out: &mut Vec<u8>, count: u64, since: SystemTime) {
    push_count(out, "count", count);
    out.extend_from_slice(b",\"since\":\"");
    Clock::default().push(out, since);
    out.push(b'"');
}

/// Appends `,"name":number`.
pub(super) fn push_count(out: &mut Vec<u8>, name: &str, n: u64) {
    push_name(out, name);
    push_number(out, n);
}

/// Appends `,"name":"text"`, escaped.
pub(super) fn push_text(out: &mut Vec<u8>, name: &str, text: &str, limit: usize) {
    push_name(out, name);
    out.push(b'"');
    if text.len() <= limit {
        push_escaped(out, text);
    } else {
        let mut cut = limit;
        while !text.is_char_boundary(cut) {
            cut -= 1;
        }
        push_escaped(out, &text[..cut]);
        out.extend_from_slice("…".as_bytes());
    }
    out.push(b'"');
}

/// Appends `,"name":"hex"`.
pub(super) fn push_hash(out: &mut Vec<u8>, name: &str, hash: &[u8; 32]) {
    push_name(out, name);
    out.push(b'"');
    hex::push(out, hash);
    out.push(b'"');
}

fn push_name(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

fn push_number(out: &mut Vec<u8>, mut n: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(n % 10).expect("a digit");
        n /= 10;
        if n == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Appends text as the inside of a JSON string. Beside what JSON wants, everything is escaped that could end a line or
/// steer a terminal: C0 and C1 controls, DEL, U+2028, U+2029, and the marks that turn the direction of writing.
pub(super) fn push_escaped(out: &mut Vec<u8>, text: &str) {
    let plain = |b: &u8| (0x20..0x7f).contains(b) && *b != b'"' && *b != b'\\';
    if text.as_bytes().iter().all(plain) {
        return out.extend_from_slice(text.as_bytes());
    }
    for c in text.chars() {
        match c {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\n' => out.extend_from_slice(b"\\n"),
            c if c.is_control()
                || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' | '\u{feff}') =>
            {
                let code = u32::from(c);
                out.extend_from_slice(b"\\u");
                for shift in [12, 8, 4, 0] {
                    out.push(b"0123456789abcdef"[usize::try_from(code >> shift & 15).expect("four bits")]);
                }
            }
            c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::Operation;
    use crate::model::CallerInfo;

    fn line(path: &str, reason: &str) -> Vec<u8> {
        let who = CallerInfo {
            uid: 33,
            gid: 33,
            pid: 4711,
            start: Some(9),
            exe: Some("/usr/bin/\"x\"".into()),
            ..CallerInfo::default()
        };
        let (mut body, mut out) = (vec![], vec![]);
        push_event(
            &mut body,
            &Event {
                op: Operation::Open,
                path,
                version: Some(3),
                who: &who,
                decision: Decision::Denied,
                reason,
                errno: Some("EACCES"),
            },
        );
        push_summed(&mut body, 7, SystemTime::UNIX_EPOCH);
        seal(
            &mut out,
            &mut Clock::default(),
            SystemTime::UNIX_EPOCH + Duration::from_micros(1_000_042),
            12,
            &[7; 32],
            (&body, b""),
        );
        out
    }

    #[test]
    fn a_line_reads_as_what_was_written() {
        let line = line("nut/upsd.pem", "no rule");
        let record = Record::parse(&line).unwrap();
        assert_eq!((record.time.as_str(), record.seq, record.op.as_str()), ("1970-01-01T00:00:01.000042Z", 12, "open"));
        assert_eq!((record.uid, record.version, record.count), (Some(33), Some(3), Some(7)));
        assert_eq!(record.exe.as_deref(), Some("/usr/bin/\"x\""));
        assert_eq!(record.decision, Some(Decision::Denied));
        assert_eq!(record.since.as_deref(), Some("1970-01-01T00:00:00.000000Z"));
        let parts = Parts::of(line.strip_suffix(b"\n").unwrap()).unwrap();
        assert_eq!((parts.seq, parts.op(), parts.time()), (12, &b"open"[..], "1970-01-01T00:00:01.000042Z"));
        assert!(parts.follows(&[7; 32]) && !parts.follows(&[8; 32]));
    }

    #[test]
    fn hostile_text_stays_inside_its_string_and_line() {
        for text in [
            "a\nb",
            "a\"b",
            "a\\",
            "\",\"uid\":0,\"x\":\"",
            "\u{2028}\u{2029}",
            "\u{1b}[2J\u{9b}2J",
            "\u{0}\u{7f}\r\t",
            "\u{202e}gpj.exe",
            "grün/ключ/鍵/🔑",
        ] {
            let line = line(text, text);
            assert_eq!(line.iter().filter(|b| **b == b'\n').count(), 1, "{text:?}");
            let shown = std::str::from_utf8(&line).unwrap().trim_end_matches('\n');
            assert!(!shown.chars().any(|c| c.is_control() || ('\u{2028}'..='\u{202e}').contains(&c)), "{text:?}");
            let record = Record::parse(&line).unwrap();
            assert_eq!(record.path.as_deref(), Some(text));
            assert_eq!(record.reason.as_deref(), Some(text));
            assert_eq!(record.uid, Some(33));
        }
    }

    #[test]
    fn long_text_is_cut_at_a_character_and_the_line_stays_in_bounds() {
        let long = "é\u{1}".repeat(4000);
        let line = line(&long, &long);
        assert!(line.len() < LINE_MAX);
        assert!(Record::parse(&line).unwrap().path.unwrap().ends_with('…'));
    }

    #[test]
    fn what_is_no_line_is_not_taken_for_one() {
        let good = line("p", "r");
        let good = good.strip_suffix(b"\n").unwrap();
        for n in 0..good.len() {
            assert!(Parts::of(&good[..n]).is_none(), "{n}");
        }
        assert!(Parts::of(&vec![0; 500]).is_none());
    }
}
