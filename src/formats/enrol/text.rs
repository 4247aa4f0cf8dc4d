//! Keys that are neither PEM nor DER and yet called `*.key`. A short list: what is not on it wants another name.

use super::KeyText;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use zeroize::Zeroize;

/// Which of the list it is, if any, whole.
pub(super) fn recognise(content: &[u8]) -> Option<KeyText> {
    let text = std::str::from_utf8(content).ok()?;
    if is_wireguard(text) {
        Some(KeyText::WireGuard)
    } else if is_age(text) {
        Some(KeyText::Age)
    } else if is_tsig(text) {
        Some(KeyText::Tsig)
    } else if is_dns_record(text) {
        Some(KeyText::DnsRecord)
    } else {
        None
    }
}

/// One line: 32 bytes in base64.
fn is_wireguard(text: &str) -> bool {
    let text = text.trim_ascii();
    let mut key = [0u8; 33];
    let whole = text.len() == 44 && BASE64.decode_slice(text, &mut key) == Ok(32);
    key.zeroize();
    whole
}

/// Comments, and at least one identity with a right checksum.
fn is_age(text: &str) -> bool {
    let mut lines = text.lines().map(str::trim_ascii).filter(|l| !l.is_empty() && !l.starts_with('#')).peekable();
    lines.peek().is_some()
        && lines.all(|l| (l.starts_with("AGE-SECRET-KEY-") || l.starts_with("AGE-PLUGIN-")) && is_bech32(l))
}

/// Bech32 without its limit on length (BIP 173, as the age specification uses it), upper case.
fn is_bech32(text: &str) -> bool {
    const LETTERS: &[u8] = b"QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L";
    let Some((prefix, data)) = text.rsplit_once('1') else { return false };
    if prefix.is_empty() || data.len() < 7 || !text.bytes().all(|b| (33..127).contains(&b)) {
        return false;
    }
    let high = prefix.bytes().map(|b| b.to_ascii_lowercase() >> 5);
    let low = prefix.bytes().map(|b| b.to_ascii_lowercase() & 31);
    let mut sum = 1u32;
    for value in high.chain([0]).chain(low) {
        sum = polymod(sum, value);
    }
    for byte in data.bytes() {
        let Some(value) = LETTERS.iter().position(|l| *l == byte) else { return false };
        sum = polymod(sum, value as u8);
    }
    sum == 1
}

fn polymod(sum: u32, value: u8) -> u32 {
    const GENERATOR: [u32; 5] = [0x3b6a_57b2, 0x2650_8e6d, 0x1ea1_19fa, 0x3d42_33dd, 0x2a14_62b3];
    let mixed = (sum & 0x01ff_ffff) << 5 ^ u32::from(value);
    (0..5).filter(|i| (sum >> 25) >> i & 1 == 1).fold(mixed, |sum, i| sum ^ GENERATOR[i])
}

/// `key NAME { algorithm A; secret "BASE64"; };`, one or more (named.conf(5)).
fn is_tsig(text: &str) -> bool {
    let Some(tokens) = tokens(text) else { return false };
    let mut rest = tokens.as_slice();
    if rest.is_empty() {
        return false;
    }
    while !rest.is_empty() {
        let ["key", _name, "{", tail @ ..] = rest else { return false };
        let (algorithm, secret, tail) = match tail {
            ["algorithm", a, ";", "secret", s, ";", "}", ";", tail @ ..]
            | ["secret", s, ";", "algorithm", a, ";", "}", ";", tail @ ..] => (*a, *s, tail),
            _ => return false,
        };
        if algorithm.is_empty() || !is_base64(secret) {
            return false;
        }
        rest = tail;
    }
    true
}

/// Words, quoted strings (without their quotes) and `{ } ;`, comments left out; `None` if one is cut off.
fn tokens(text: &str) -> Option<Vec<&str>> {
    let mut out = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_ascii_start();
        let Some(first) = rest.chars().next() else { return Some(out) };
        if rest.starts_with("//") || first == '#' {
            rest = rest.split_once('\n').map_or("", |(_, tail)| tail);
        } else if let Some(comment) = rest.strip_prefix("/*") {
            rest = comment.split_once("*/")?.1;
        } else if let Some(quoted) = rest.strip_prefix('"') {
            let (word, tail) = quoted.split_once('"')?;
            out.push(word);
            rest = tail;
        } else if matches!(first, '{' | '}' | ';') {
            out.push(&rest[..1]);
            rest = &rest[1..];
        } else {
            let end = rest.find(|c: char| c.is_ascii_whitespace() || "{};\"".contains(c)).unwrap_or(rest.len());
            out.push(&rest[..end]);
            rest = &rest[end..];
        }
    }
}

/// Master-file records (RFC 1035) of type KEY or DNSKEY, and `;` comments.
fn is_dns_record(text: &str) -> bool {
    let mut open = false;
    let mut words: Vec<&str> = Vec::new();
    let mut records = 0;
    for line in text.lines() {
        let line = line.split(';').next().unwrap_or_default();
        for word in line.split_ascii_whitespace() {
            open = (open || word.contains('(')) && !word.contains(')');
            let word = word.trim_matches(['(', ')']);
            if !word.is_empty() {
                words.push(word);
            }
        }
        if !open && !words.is_empty() {
            if !is_key_record(&words) {
                return false;
            }
            records += 1;
            words.clear();
        }
    }
    records > 0 && !open
}

/// `NAME [TTL] [IN] DNSKEY FLAGS PROTOCOL ALGORITHM BASE64…`
fn is_key_record(words: &[&str]) -> bool {
    let Some(kind) = words.iter().take(4).position(|w| matches!(*w, "KEY" | "DNSKEY")) else { return false };
    let (before, data) = (&words[..kind], &words[kind + 1..]);
    let small = |w: &&str| w.parse::<u16>().is_ok();
    let named = !before.is_empty() && before[1..].iter().all(|w| *w == "IN" || w.parse::<u32>().is_ok());
    named && data.len() > 3 && data[..3].iter().all(small) && is_base64(&data[3..].concat())
}

/// Whole base64, not empty. What it decodes to is wiped.
fn is_base64(text: &str) -> bool {
    let mut decoded = vec![0u8; text.len()];
    let whole = BASE64.decode_slice(text, &mut decoded).is_ok_and(|n| n > 0);
    decoded.zeroize();
    whole
}
