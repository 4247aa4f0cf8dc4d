//! Lines of `.pub` files: one public key that sshd(8) knows, whole, and nothing before it.
//!
//! Owns what such a line is. sshd takes a first word that it does not know as a key for options (`cert-authority`,
//! `command=…`) and goes on behind it, and a key that does not parse as well: so the word must be a kind of key, and what follows a
//! key of just that kind, to its last byte.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

/// The longest line, in bytes.
const LINE_MAX: usize = 16 * 1024;

/// Whether it is one key, with or without a comment: what sshd reads of `authorized_keys` is this key and no option.
pub fn is_key_line(line: &str) -> bool {
    if line.len() > LINE_MAX || line.chars().any(char::is_control) {
        return false;
    }
    let mut words = line.split(' ');
    let (Some(kind), Some(text)) = (words.next(), words.next()) else { return false };
    // One text for each key: no line break, no padding that another reader counts differently.
    BASE64_STANDARD.decode(text).is_ok_and(|blob| is_key(kind, &blob))
}

/// Whether a blob (RFC 4253 section 6.6, PROTOCOL.u2f) is a key of this kind.
fn is_key(kind: &str, blob: &[u8]) -> bool {
    let mut rest = Rest(blob);
    if rest.string() != Some(kind.as_bytes()) {
        return false;
    }
    let whole = match kind {
        "ssh-ed25519" => rest.of_len(32),
        "sk-ssh-ed25519@openssh.com" => rest.of_len(32) && rest.application(),
        "ssh-rsa" => rest.number(1, 16) && rest.number(128, 2048),
        "ecdsa-sha2-nistp256" => rest.point("nistp256", 32),
        "ecdsa-sha2-nistp384" => rest.point("nistp384", 48),
        "ecdsa-sha2-nistp521" => rest.point("nistp521", 66),
        "sk-ecdsa-sha2-nistp256@openssh.com" => rest.point("nistp256", 32) && rest.application(),
        _ => false,
    };
    whole && rest.0.is_empty()
}

/// What is left of a blob.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn string(&mut self) -> Option<&'a [u8]> {
        let (len, rest) = self.0.split_first_chunk::<4>()?;
        let (string, rest) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*len)).ok()?)?;
        self.0 = rest;
        Some(string)
    }

    fn of_len(&mut self, len: usize) -> bool {
        self.string().is_some_and(|s| s.len() == len)
    }

    /// An integer above zero, of so many bytes.
    fn number(&mut self, least: usize, most: usize) -> bool {
        let Some(bytes) = self.string() else { return false };
        let digits = bytes.strip_prefix(&[0]).unwrap_or(bytes);
        // Written with as few bytes as it can be, and not negative.
        let shortest = digits.first().is_some_and(|first| (bytes.len() > digits.len()) == (*first >= 0x80));
        shortest && (least..=most).contains(&digits.len())
    }

    /// A curve's name, and a point of it, not compressed.
    fn point(&mut self, curve: &str, len: usize) -> bool {
        self.string() == Some(curve.as_bytes())
            && self.string().is_some_and(|point| point.len() == 1 + 2 * len && point[0] == 4)
    }

    fn application(&mut self) -> bool {
        self.string().is_some_and(|name| !name.is_empty() && name.iter().all(u8::is_ascii_graphic))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ED: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPdDn0bxVvVyzWxGOYzE8w3mLGLhxsMDzqOlZdF1uXJH";

    fn made(kind: &str, parts: &[&[u8]]) -> String {
        let mut blob = Vec::new();
        for part in std::iter::once(kind.as_bytes()).chain(parts.iter().copied()) {
            blob.extend(u32::try_from(part.len()).unwrap().to_be_bytes());
            blob.extend(part);
        }
        BASE64_STANDARD.encode(blob)
    }

    #[test]
    fn a_key_and_nothing_before_it() {
        let (n, point) = ([0x80_u8; 256], |len: usize| [vec![4], vec![7; 2 * len]].concat());
        let n = [&[0_u8][..], &n].concat();
        for (kind, parts) in [
            ("ssh-ed25519", vec![vec![1; 32]]),
            ("sk-ssh-ed25519@openssh.com", vec![vec![1; 32], b"ssh:".to_vec()]),
            ("ssh-rsa", vec![vec![1, 0, 1], n.clone()]),
            ("ecdsa-sha2-nistp256", vec![b"nistp256".to_vec(), point(32)]),
            ("ecdsa-sha2-nistp384", vec![b"nistp384".to_vec(), point(48)]),
            ("ecdsa-sha2-nistp521", vec![b"nistp521".to_vec(), point(66)]),
            ("sk-ecdsa-sha2-nistp256@openssh.com", vec![b"nistp256".to_vec(), point(32), b"ssh:".to_vec()]),
        ] {
            let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
            let blob = made(kind, &parts);
            assert!(is_key_line(&format!("{kind} {blob}")), "{kind}");
            assert!(is_key_line(&format!("{kind} {blob} a comment, of words")), "{kind}");
            // A byte more, a byte less, another kind's name, an option before it.
            let raw = BASE64_STANDARD.decode(&blob).unwrap();
            assert!(!is_key_line(&format!("{kind} {}", BASE64_STANDARD.encode([&raw[..], &[0]].concat()))), "{kind}");
            assert!(!is_key_line(&format!("{kind} {}", BASE64_STANDARD.encode(&raw[..raw.len() - 1]))), "{kind}");
            let other = if kind == "ssh-rsa" { "ssh-ed25519" } else { "ssh-rsa" };
            assert!(!is_key_line(&format!("{other} {blob}")), "{kind} as {other}");
            assert!(!is_key_line(&format!("cert-authority {kind} {blob}")), "{kind}");
            assert!(!is_key_line(&format!("{kind},cert-authority {blob}")), "{kind}");
        }
        let dsa = made("ssh-dss", &[&[1], &[1], &[1], &[1]]);
        let cert = made("ssh-ed25519-cert-v01@openssh.com", &[&[1; 32]]);
        let compressed = made("ecdsa-sha2-nistp256", &[b"nistp256", &[2; 65]]);
        let negative = made("ssh-rsa", &[&[1, 0, 1], &n[1..]]);
        for bad in [
            String::new(),
            "ssh-ed25519".into(),
            "ssh-ed25519 ".into(),
            format!("ecdsa-,cert-authority AAAA {ED}"),
            format!("ssh-,command=\"x\" AAAA {ED}"),
            format!("ssh-ed25519 AAAA {ED}"),
            format!(" {ED}"),
            ED.replace(' ', "  "),
            ED.replace(' ', "\t"),
            format!("{ED}\n{ED}"),
            format!("{ED}="),
            format!("ssh-dss {dsa}"),
            format!("ssh-ed25519-cert-v01@openssh.com {cert}"),
            format!("ecdsa-sha2-nistp256 {compressed}"),
            format!("ssh-rsa {negative}"),
            format!("{ED} {}", "x".repeat(LINE_MAX)),
        ] {
            assert!(!is_key_line(&bad), "{bad}");
        }
    }
}
