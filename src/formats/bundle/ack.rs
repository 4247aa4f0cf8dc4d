//! Acknowledgements: what a host says about the last bundle it saw, signed with a key of its own.
//!
//! `HOST@CONSOLE.ack` is a tar of `ack.json` and `ack.json.sig`, made and checked like a bundle's first two members.

use super::key::{PublicKey, SIGNATURE_MAX, SshSig};
use super::manifest::version_of;
use super::tar::{BLOCK, END, Member};
use super::{ACK_NAMESPACE, Refusal, SignError, Signer};
use crate::model::{ConsoleName, HostName, Timestamp};
use serde::{Deserialize, Serialize};

const FORMAT: &str = "pinfold-ack";
const VERSION: u64 = 1;
const MEMBERS: [&str; 2] = ["ack.json", "ack.json.sig"];
/// The longest reason, in bytes.
const REASON_MAX: usize = 2000;
/// The largest `ack.json`, in bytes.
const JSON_MAX: usize = 16 << 10;
/// The largest acknowledgement, in bytes.
pub const ACK_MAX: usize = JSON_MAX + SIGNATURE_MAX + 8 * BLOCK;

/// What became of a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AckOutcome {
    /// All of it is there.
    Applied,
    /// Some entries were refused.
    Partial,
    /// Nothing was changed.
    Refused,
}

/// What a host says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ack {
    format: String,
    version: u64,
    /// Whose bundle.
    pub console: ConsoleName,
    /// Who says it.
    pub host: HostName,
    /// Which bundle.
    pub serial: u64,
    /// When.
    #[serde(with = "crate::times::text")]
    pub applied: Timestamp,
    /// What became of it.
    pub outcome: AckOutcome,
    /// Why, if not all of it was applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Ack {
    /// A reason is cut to 2000 bytes.
    pub fn new(
        console: ConsoleName,
        host: HostName,
        serial: u64,
        applied: Timestamp,
        outcome: AckOutcome,
        reason: Option<String>,
    ) -> Self {
        let applied = Timestamp { nanos: applied.nanos / 1000 * 1000, ..applied };
        let reason = reason.map(|mut r| {
            let end = (0..=REASON_MAX.min(r.len())).rev().find(|i| r.is_char_boundary(*i));
            r.truncate(end.unwrap_or(0));
            r
        });
        Ack { format: FORMAT.into(), version: VERSION, console, host, serial, applied, outcome, reason }
    }
}

/// The file, signed.
///
/// # Errors
/// What the signer says.
pub fn make(ack: &Ack, signer: &dyn Signer) -> Result<Vec<u8>, SignError> {
    let mut json = serde_json::to_vec_pretty(ack).expect("it has no map with keys that are not strings");
    json.push(b'\n');
    let armor = signer.sign(ACK_NAMESPACE, &json)?.armor();
    let mut out = Vec::new();
    for (name, content) in MEMBERS.into_iter().zip([&json[..], armor.as_bytes()]) {
        let member = Member { name: name.into(), size: content.len() as u64 };
        out.extend(member.header().expect("both names and sizes are small"));
        out.extend(content);
        out.resize(out.len().next_multiple_of(BLOCK), 0);
    }
    out.extend(END);
    Ok(out)
}

/// Checks what a host sent.
///
/// # Errors
/// [`Refusal`]: too large, not an acknowledgement, of another console or host, not signed by its key. Whether the serial is one
/// that was made is the caller's.
pub fn check(file: &[u8], key: &PublicKey, console: &ConsoleName, host: &HostName) -> Result<Ack, Refusal> {
    if file.len() > ACK_MAX {
        return Err(Refusal::TooLarge { size: file.len() as u64, max: ACK_MAX as u64 });
    }
    let mut rest = file;
    let json = member(&mut rest, MEMBERS[0], JSON_MAX)?;
    let armor = member(&mut rest, MEMBERS[1], SIGNATURE_MAX)?;
    if rest != END {
        return Err(Refusal::NotABundle("there is more after its two members than a tar's end".into()));
    }
    version_of(json, FORMAT, VERSION)?;
    let ack: Ack = serde_json::from_slice(json)
        .map_err(|e| Refusal::NotABundle(format!("it does not parse, line {}, column {}", e.line(), e.column())))?;
    if ack.console != *console {
        return Err(Refusal::OtherConsole { found: ack.console, trusted: console.clone() });
    }
    if ack.host != *host {
        return Err(Refusal::OtherHost { found: ack.host, here: host.clone() });
    }
    let signature = std::str::from_utf8(armor).ok().and_then(|text| SshSig::parse(text).ok());
    let signature = signature.ok_or_else(|| Refusal::BadSignature("not an SSH signature".into()))?;
    if !key.verifies(ACK_NAMESPACE, json, &signature) {
        return Err(Refusal::BadSignature(format!("it is not by the host's key {}", key.fingerprint())));
    }
    if ack.reason.as_ref().is_some_and(|r| r.len() > REASON_MAX) {
        return Err(Refusal::NotABundle("its reason is too long".into()));
    }
    Ok(ack)
}

fn member<'a>(rest: &mut &'a [u8], name: &str, max: usize) -> Result<&'a [u8], Refusal> {
    let not = |why: String| Refusal::NotABundle(why);
    let (block, after) = rest.split_first_chunk::<BLOCK>().ok_or_else(|| not(format!("it ends before {name}")))?;
    let member = Member::parse(block).map_err(|e| not(e.to_string()))?;
    if member.name != name {
        return Err(not(format!("another member is where {name} should be")));
    }
    let size =
        usize::try_from(member.size).ok().filter(|s| *s <= max).ok_or_else(|| not(format!("{name} is too large")))?;
    let (content, after) = after.split_at_checked(size).ok_or_else(|| not(format!("it ends within {name}")))?;
    let padding = usize::try_from(member.padding()).expect("less than a block");
    let (padding, after) = after.split_at_checked(padding).ok_or_else(|| not(format!("it ends within {name}")))?;
    if padding.iter().any(|b| *b != 0) {
        return Err(not("there is something between its members".into()));
    }
    *rest = after;
    Ok(content)
}
