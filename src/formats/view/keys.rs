//! authorized-keys: public keys of several files, one a line (sshd(8), AUTHORIZED_KEYS FILE FORMAT).

use super::{Out, Part, ViewError, content};
use crate::secret::Secret;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Comments and empty lines are left out. What is no public key refuses the whole: a pattern that also meets a private
/// key must not put it before everybody.
pub(super) fn authorized(parts: &[Part<'_>], mut out: Out) -> Result<Secret, ViewError> {
    for part in parts {
        let text = std::str::from_utf8(part.content.expose()).map_err(|_| content(part, "is not text"))?;
        for (i, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if !has_key(line) {
                return Err(content(part, format!("has no public key in line {}", i + 1)));
            }
            out.push_lines(line.as_bytes())?;
        }
    }
    Ok(out.done())
}

/// Whether there is a key's type and a blob of that type beside each other. Options may stand before, with blanks in
/// quotes.
fn has_key(line: &str) -> bool {
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    words.windows(2).any(|pair| is_key(pair[0], pair[1]))
}

fn is_key(kind: &str, blob: &str) -> bool {
    let known = kind.starts_with("ssh-") || kind.starts_with("ecdsa-sha2-") || kind.starts_with("sk-");
    let Ok(blob) = STANDARD.decode(blob) else { return false };
    // RFC 4253, section 6.6: the blob begins with the type, its length in four bytes before it.
    let inner = blob.get(..4).map(|len| u32::from_be_bytes([len[0], len[1], len[2], len[3]]) as usize);
    known && inner == Some(kind.len()) && blob.get(4..4 + kind.len()) == Some(kind.as_bytes())
}
