//! The rotation chain: each signing key of a console signed by the one before it.
//!
//! Owns what a link says, how it is signed, and the walk from a key that a host trusts to the newest. The chain travels in
//! the manifest; nothing here reads files or clocks.

use super::key::{Fingerprint, PublicKey, SshSig};
use super::signer::{SignError, Signer};
use super::{CHAIN_NAMESPACE, Refusal};
use crate::model::{ConsoleName, Timestamp};
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::HashSet;

/// The most links a chain has.
pub const LINKS_MAX: usize = 1024;

/// One rotation: the key with this number was named by the key before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// The new key.
    pub key: PublicKey,
    /// The key before it, which signed this.
    pub by: Fingerprint,
    /// The new key's number; the first key of a console, which no link names, has 0.
    pub number: u64,
    /// When.
    #[serde(with = "crate::times::text")]
    pub created: Timestamp,
    /// By the key before it, over what [`Link::statement`] gives.
    pub sig: SshSig,
}

impl Link {
    /// The text that is signed. Each value stands on a line of its own and holds no newline, so no two links have one text.
    fn statement(console: &ConsoleName, number: u64, by: &Fingerprint, key: &PublicKey, created: &Timestamp) -> String {
        format!("pinfold-signer 1\nconsole {console}\nnumber {number}\nby {by}\nkey {key}\ncreated {created}\n")
    }

    fn is_signed_by(&self, console: &ConsoleName, key: &PublicKey) -> bool {
        let text = Self::statement(console, self.number, &self.by, &self.key, &self.created);
        key.fingerprint() == self.by && key.verifies(CHAIN_NAMESPACE, text.as_bytes(), &self.sig)
    }
}

/// The rotations of a console, the oldest first. Empty before the first one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Chain(Vec<Link>);

impl Chain {
    /// Of links that were kept, the oldest first. Whether they hold, [`Chain::walk`] says.
    pub fn from_links(links: Vec<Link>) -> Self {
        Chain(links)
    }

    /// The links, the oldest first.
    pub fn links(&self) -> &[Link] {
        &self.0
    }

    /// The number of the newest key.
    pub fn number(&self) -> u64 {
        self.0.last().map_or(0, |l| l.number)
    }

    /// Adds the link that makes `new` the newest key; `old` is the newest until then.
    ///
    /// # Errors
    /// [`SignError::Chain`] if `old` is not the newest key, or `new` was in use before; what the signer says.
    pub fn rotate(
        &mut self,
        console: &ConsoleName,
        old: &dyn Signer,
        new: &PublicKey,
        now: Timestamp,
    ) -> Result<&Link, SignError> {
        if self.0.last().is_some_and(|l| l.key != *old.public()) {
            return Err(SignError::Chain("only the newest key of the rotation chain names the next"));
        }
        let given = new.fingerprint();
        if given == old.public().fingerprint() || self.0.iter().any(|l| l.key == *new || l.by == given) {
            return Err(SignError::Chain("a key that was in use before does not come back"));
        }
        // As it will be read back: nanoseconds are not written.
        let created = Timestamp { nanos: now.nanos / 1000 * 1000, ..now };
        let (number, by) = (self.number() + 1, old.public().fingerprint());
        let text = Link::statement(console, number, &by, new, &created);
        let sig = old.sign(CHAIN_NAMESPACE, text.as_bytes())?;
        self.0.push(Link { key: new.clone(), by, number, created, sig });
        Ok(self.0.last().expect("it was pushed"))
    }

    /// Forgets the links before this number: hosts that trust only the keys before must be joined again. The newest link
    /// stays.
    pub fn forget_before(&mut self, number: u64) {
        let newest = self.number();
        self.0.retain(|l| l.number >= number || l.number == newest);
    }

    /// Walks from the key that a host trusts to `signer`, the newest: the links on the way.
    ///
    /// # Errors
    /// [`Refusal::BrokenChain`], [`Refusal::Forked`], [`Refusal::UnknownSigner`]; a revoked key is none of its business.
    pub(super) fn walk(
        &self,
        console: &ConsoleName,
        trusted: &PublicKey,
        known_number: Option<u64>,
        signer: &PublicKey,
    ) -> Result<&[Link], Refusal> {
        self.hangs_together(signer)?;
        let unknown = || Refusal::UnknownSigner { signer: signer.fingerprint(), trusted: trusted.fingerprint() };
        let first = match self.0.iter().position(|l| l.key == *trusted) {
            Some(at) => at + 1,
            None if self.0.first().is_some_and(|l| l.by == trusted.fingerprint()) => 0,
            None if self.0.is_empty() && trusted == signer => 0,
            None => return Err(self.fork(known_number, trusted).unwrap_or_else(unknown)),
        };
        // Every signature whose key is known, those before the trusted key too: a chain with a wrong link is of nobody.
        let mut by = if first == 0 { Some(trusted) } else { None };
        for link in &self.0 {
            if let Some(key) = by
                && !link.is_signed_by(console, key)
            {
                return Err(Refusal::BrokenChain(format!("link {} is not signed by the key before it", link.number)));
            }
            by = Some(&link.key);
        }
        Ok(&self.0[first..])
    }

    /// Whether each link follows the one before it, and the last one leads to the signer.
    fn hangs_together(&self, signer: &PublicKey) -> Result<(), Refusal> {
        let broken = |why: String| Err(Refusal::BrokenChain(why));
        for pair in self.0.windows(2) {
            let (before, link) = (&pair[0], &pair[1]);
            if link.number == before.number {
                return broken(format!("link {} is there twice", link.number));
            }
            if before.number.checked_add(1) != Some(link.number) {
                return broken(format!("link {} follows link {}", link.number, before.number));
            }
            if link.by != before.key.fingerprint() {
                return broken(format!("link {} is by another key than link {} names", link.number, before.number));
            }
        }
        if self.0.first().is_some_and(|l| l.number == 0) {
            return broken("a link cannot name the first key".into());
        }
        let mut seen: HashSet<Fingerprint> = self.0.first().map(|l| l.by).into_iter().collect();
        if let Some(twice) = self.0.iter().find(|l| !seen.insert(l.key.fingerprint())) {
            return broken(format!("link {} leads back to a key before it", twice.number));
        }
        match self.0.last() {
            Some(last) if last.key != *signer => broken("it does not lead to the signer".into()),
            _ => Ok(()),
        }
    }

    fn fork(&self, known_number: Option<u64>, trusted: &PublicKey) -> Option<Refusal> {
        let number = known_number?;
        let found = self.0.iter().find(|l| l.number == number)?.key.fingerprint();
        Some(Refusal::Forked { number, found, trusted: trusted.fingerprint() })
    }
}

/// A chain has a bounded number of links before any is looked at.
impl<'de> Deserialize<'de> for Chain {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        super::bounded::list(deserializer, LINKS_MAX).map(Chain)
    }
}
