//! Looking at the certificates of the tree: which there are, whether they have their key, when they end.

use super::super::{Vault, VaultError};
use crate::caller::Daemon;
use crate::cert::{CertFolder, Certificate, Chain, Part, Pile, PublicKey, Tried};
use crate::config::Half;
use crate::model::{Ino, Kind, SecretPath, Timestamp};
use crate::wire::{CertInfo, CertList, CertListing, CertRenewal, CertShown, CertStatus, CertUnread};

/// Files that are looked at, at most.
const FILES_MAX: usize = 20_000;
const DAY: i64 = 86_400;
/// The longest pattern.
const PATTERN_MAX: usize = 1_000;

/// What one file has in it.
struct Looked {
    path: SecretPath,
    certificates: Vec<Certificate>,
    /// The public halves: the keys themselves are gone again before the next file is opened.
    keys: Vec<PublicKey>,
}

impl Vault {
    /// The certificates, by path; and what was found is kept for `Status`.
    pub(super) fn list_certificates(&self, list: &CertList) -> Result<CertListing, VaultError> {
        let pattern = list.pattern.as_deref().unwrap_or("*");
        if pattern.len() > PATTERN_MAX {
            return Err(VaultError::Invalid(format!("a pattern has {PATTERN_MAX} bytes at most")));
        }
        let (looked, mut unread) = self.look_at_all()?;
        let mut certificates = Vec::new();
        let now = Timestamp::now();
        for one in &looked {
            if matches!(CertFolder::of(&one.path), Some((_, Part::Chain))) {
                continue;
            }
            if let Some(info) = self.info(one, &looked, now)? {
                certificates.push(info);
            }
        }
        if let Some(within) = list.warn_within {
            self.remember(&certificates, i64::try_from(within).unwrap_or(i64::MAX), now);
        }
        certificates.retain(|info| matches_any(pattern, info));
        if list.pem.unwrap_or(false) {
            for info in &mut certificates {
                let one = looked.iter().find(|one| one.path == info.path);
                info.pem = one.map(|one| self.pem(one, &looked));
            }
        }
        unread.retain(|u| like(pattern, &u.path.to_string()));
        Ok(CertListing { certificates, unread })
    }

    /// One of them; a folder stands for the certificate that is in use in it.
    pub(super) fn show_certificate(&self, path: &SecretPath) -> Result<CertShown, VaultError> {
        let ino = self.find(path)?;
        let file = match self.node(ino)?.kind {
            Kind::Directory => ["cert.pem", "next/request.pem"].iter().find_map(|name| {
                let file = SecretPath::parse(&format!("{path}/{name}")).ok()?;
                self.find(&file).is_ok().then_some(file)
            }),
            Kind::File | Kind::Symlink => Some(path.clone()),
        };
        let file = file.ok_or(VaultError::NotFound)?;
        let request = match CertFolder::of(&file) {
            Some((place, Part::Cert | Part::Request | Part::Key | Part::Chain)) => {
                self.text_at(&place.part(Part::Request))?
            }
            _ => None,
        };
        let request = request.and_then(|text| String::from_utf8(text.expose().to_vec()).ok());
        let (looked, _) = self.look_at_all()?;
        let Some(one) = looked.iter().find(|one| one.path == file) else {
            return match request {
                Some(request) => Ok(CertShown { certificate: None, pem: String::new(), request: Some(request) }),
                None => Err(VaultError::NotFound),
            };
        };
        let certificate = self.info(one, &looked, Timestamp::now())?;
        Ok(CertShown { certificate, pem: self.pem(one, &looked), request })
    }

    /// A file's certificates and what is beside them.
    fn pem(&self, one: &Looked, all: &[Looked]) -> String {
        one.certificates.iter().chain(self.above(one, all)).map(Certificate::to_pem).collect()
    }

    /// The public halves of all private keys of the tree.
    pub(super) fn keys_of_the_tree(&self) -> Result<Vec<(SecretPath, PublicKey)>, VaultError> {
        let (looked, _) = self.look_at_all()?;
        let keys = |one: Looked| one.keys.into_iter().map(move |key| (one.path.clone(), key));
        Ok(looked.into_iter().flat_map(keys).collect())
    }

    /// What the last look found, for `Status`.
    pub(in crate::vault) fn certificate_status(&self) -> Option<CertStatus> {
        self.expiring.lock().clone()
    }

    /// Every file whose name promises a certificate or key. Each is opened as the daemon, and recorded.
    fn look_at_all(&self) -> Result<(Vec<Looked>, Vec<CertUnread>), VaultError> {
        let files = self.with_tree(|tree| {
            let promising = tree.nodes().filter(|(_, node)| {
                node.kind == Kind::File
                    && node.current().is_some()
                    && node.name.as_ref().is_some_and(crate::enrol::applies)
            });
            let mut files: Vec<(SecretPath, Ino)> =
                promising.filter_map(|(ino, _)| Some((tree.path(ino)?, ino))).take(FILES_MAX + 1).collect();
            files.sort();
            files
        })?;
        if files.len() > FILES_MAX {
            return Err(VaultError::NoSpace("there are more certificates and keys than can be looked at"));
        }
        let (mut looked, mut unread) = (Vec::new(), Vec::new());
        for (path, ino) in files {
            let content = match self.open_read(&Daemon, ino) {
                Ok(opened) => opened.content,
                Err(VaultError::NotFound) => continue,
                Err(error @ (VaultError::Denied(_) | VaultError::Damaged(_))) => {
                    unread.push(CertUnread { path, reason: error.to_string() });
                    continue;
                }
                Err(error) => return Err(error),
            };
            // Keys that are text of their own kind are no matter of certificates.
            let Ok(pile) = Pile::read(content.expose(), None) else { continue };
            if let Some(first) = pile.unread.first()
                && pile.certificates.is_empty()
                && pile.keys.is_empty()
            {
                unread.push(CertUnread { path: path.clone(), reason: format!("{}: {}", first.what, first.why) });
            }
            let keys = pile.keys.iter().map(|key| key.public().clone()).collect();
            looked.push(Looked { path, certificates: pile.certificates, keys });
        }
        Ok((looked, unread))
    }

    /// What one file's first certificate says; `None` if it has none.
    fn info(&self, one: &Looked, all: &[Looked], now: Timestamp) -> Result<Option<CertInfo>, VaultError> {
        let Some(leaf) = one.certificates.first() else { return Ok(None) };
        let place = CertFolder::of(&one.path).map(|(place, _)| place);
        let host = place.as_ref().filter(|p| **p == CertFolder::host(p.name().clone()));
        let pool: Vec<Certificate> = one.certificates.iter().chain(self.above(one, all)).cloned().collect();
        let chain = Chain::order(leaf, &pool).and_then(|chain| chain.check_time(now.secs).map(|()| chain));
        let (key, key_path) = self.key_of(one, leaf, all);
        let tried = host.map(|place| self.tried(place)).transpose()?.flatten();
        Ok(Some(CertInfo {
            path: one.path.clone(),
            host: host.map(|p| p.name().clone()),
            subject: leaf.subject.clone(),
            names: leaf.names.iter().map(ToString::to_string).collect(),
            issuer: leaf.issuer.clone(),
            serial: leaf.serial.clone(),
            fingerprint: leaf.fingerprint(),
            not_before: at(leaf.not_before),
            not_after: at(leaf.not_after),
            days_left: leaf.not_after.saturating_sub(now.secs).div_euclid(DAY),
            key_type: leaf.public.to_string(),
            authority: leaf.authority,
            key: key.into(),
            key_path,
            chain: chain.as_ref().map_or("broken", |chain| chain.state.as_str()).into(),
            chain_reason: chain.as_ref().err().map(ToString::to_string),
            above: chain.as_ref().map_or(0, |chain| chain.above.len() as u64),
            renewal: tried.map(renewal),
            pem: None,
        }))
    }

    /// The certificates beside a host's own that are above it.
    fn above<'l>(&self, one: &Looked, all: &'l [Looked]) -> &'l [Certificate] {
        let chain = match CertFolder::of(&one.path) {
            Some((place, Part::Cert)) => place.part(Part::Chain),
            _ => return &[],
        };
        all.iter().find(|l| l.path == chain).map_or(&[], |l| &l.certificates)
    }

    /// Whether the key of a certificate is there, and where. One that is another than it should be is told as such.
    fn key_of(&self, one: &Looked, leaf: &Certificate, all: &[Looked]) -> (&'static str, Option<SecretPath>) {
        let has = |l: &&Looked| l.keys.contains(&leaf.public);
        let expected = self.partner(&one.path);
        let there = expected.as_ref().and_then(|path| all.iter().find(|l| l.path == *path && !l.keys.is_empty()));
        if let Some(there) = there {
            return (if has(&there) { "match" } else { "mismatch" }, Some(there.path.clone()));
        }
        if let Some(found) = Some(one).filter(has).or_else(|| all.iter().find(has)) {
            return ("match", Some(found.path.clone()));
        }
        if one.keys.is_empty() { ("none", None) } else { ("mismatch", Some(one.path.clone())) }
    }

    /// Where the key to a certificate's file is to be.
    fn partner(&self, path: &SecretPath) -> Option<SecretPath> {
        if let Some((place, Part::Cert)) = CertFolder::of(path) {
            return Some(place.part(Part::Key));
        }
        self.other_half(path).filter(|(half, ..)| *half == Half::Cert).map(|(_, key, _)| key)
    }

    /// Tells what ends soon, and keeps it for `Status`.
    fn remember(&self, certificates: &[CertInfo], within: i64, now: Timestamp) {
        let soon = |info: &&CertInfo| info.not_after.secs.saturating_sub(now.secs) <= within;
        let mut status = CertStatus { looked: now, ..CertStatus::default() };
        for info in certificates.iter().filter(soon) {
            if info.not_after.secs <= now.secs {
                status.expired += 1;
                tracing::warn!(path = %info.path, subject = %info.subject, "a certificate has expired");
            } else {
                status.expiring += 1;
                tracing::warn!(path = %info.path, subject = %info.subject, days = info.days_left, "a certificate expires");
            }
        }
        let soonest = certificates.iter().min_by_key(|info| info.not_after.secs);
        status.soonest = soonest.map(|info| info.path.clone());
        status.soonest_ends = soonest.map(|info| info.not_after);
        let failing = |info: &&CertInfo| info.renewal.as_ref().is_some_and(|r| r.reason.is_some());
        status.failing = certificates.iter().filter(failing).count() as u64;
        *self.expiring.lock() = Some(status);
    }
}

fn renewal(tried: Tried) -> CertRenewal {
    CertRenewal { failures: tried.failures, last: at(tried.last), next: at(tried.next), reason: tried.reason }
}

fn at(secs: i64) -> Timestamp {
    Timestamp { secs, nanos: 0 }
}

fn matches_any(pattern: &str, info: &CertInfo) -> bool {
    let bare = |name: &String| name.split_once(':').map_or(name.clone(), |(_, rest)| rest.to_owned());
    like(pattern, &info.path.to_string())
        || info.host.as_ref().is_some_and(|host| like(pattern, host.as_str()))
        || info.names.iter().any(|name| like(pattern, &bare(name)))
}

/// `*` is any part of the text, slashes too; letters count in either case. In as many steps as the product of the lengths, at
/// most.
fn like(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    let mut star = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if c.eq_ignore_ascii_case(&text[t]) => (p, t) = (p + 1, t + 1),
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    (p, t) = (at + 1, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

#[cfg(test)]
mod tests {
    use super::like;

    #[test]
    fn a_star_stands_for_anything() {
        for (pattern, text) in
            [("*", ""), ("*", "a/b"), ("web*", "WEB-1"), ("*.org", "a.org"), ("a*b*c", "aXbYbZc"), ("a", "a")]
        {
            assert!(like(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [("", "a"), ("a", "ab"), ("*b", "a"), ("a*b*c", "acb"), ("a?", "ab")] {
            assert!(!like(pattern, text), "{pattern} {text}");
        }
        assert!(!like(&"*a".repeat(200), &"b".repeat(500)));
    }
}
