//! Certificate and key that a rule of the configuration calls a pair: the second of a pair must match the first.
//!
//! Which is the second? The one that is committed while the other is newer and does not match what was there. So either may be
//! renewed first, and be put right if it was the wrong one; but not the other way round.

use super::node::Node;
use super::{Vault, VaultError};
use crate::cert::{CertError, Pile, PublicKey};
use crate::config::{Half, Pair};
use crate::model::{Ino, Kind, SecretPath};
use std::sync::Arc;

/// Half of a pair that is to be committed: what the other must fit.
pub(super) struct NewHalf {
    half: Half,
    /// Where the other one is.
    pub other: SecretPath,
    /// Its public key.
    pub key: PublicKey,
}

impl NewHalf {
    /// That it does not fit the other.
    pub fn mismatch(&self) -> VaultError {
        let what = match self.half {
            Half::Cert => "the certificate is not for the key in",
            Half::Key => "the key is not that of the certificate in",
        };
        VaultError::Invalid(format!("{what} {}", self.other))
    }
}

impl Vault {
    /// Sets which files are pairs. Only the first call counts.
    pub fn set_pairs(&self, rules: Vec<Pair>) {
        let _ = self.pairs.set(rules);
    }

    /// Where the other half of a path is, and which half that one is, by the first rule that says so.
    pub(super) fn other_half(&self, path: &SecretPath) -> Option<(Half, SecretPath, &Pair)> {
        let rules = self.pairs.get()?;
        rules.iter().find_map(|rule| rule.other(path).map(|(half, other)| (half, other, rule)))
    }

    /// Whether it is half of a pair by its name.
    pub(super) fn is_half(&self, path: &str) -> bool {
        SecretPath::parse(path).is_ok_and(|path| self.other_half(&path).is_some())
    }

    /// Whether content may be committed at a path. `own` is what is there; `mode` what the file will have.
    ///
    /// # Errors
    /// [`VaultError::Invalid`] with the reason.
    pub(super) fn check_pair(
        &self,
        path: &str,
        own: Option<(Ino, &Node)>,
        mode: u16,
        content: &[u8],
    ) -> Result<(), VaultError> {
        let Ok(parsed) = SecretPath::parse(path) else { return Ok(()) };
        let Some(new) = self.half(&parsed, mode, content)? else { return Ok(()) };
        let other = self.with_tree(|t| t.find(&new.other).and_then(|ino| Some((ino, Arc::clone(t.get(ino)?)))))?;
        self.check_half(path, &new, other.as_ref().map(|(ino, node)| (*ino, &**node)), own)
    }

    /// What is to be compared of content at a path, if that is half of a pair. Half of a pair that is empty is no half yet.
    ///
    /// # Errors
    /// [`VaultError::Invalid`] with the reason: the mode is too wide, or it is not one certificate or key.
    pub(super) fn half(&self, path: &SecretPath, mode: u16, content: &[u8]) -> Result<Option<NewHalf>, VaultError> {
        let Some((half, other, rule)) = self.other_half(path) else { return Ok(None) };
        if half == Half::Key {
            refuse_wide(mode, rule.mode)?;
        }
        if content.is_empty() {
            return Ok(None);
        }
        let key = public(half, content).map_err(|why| VaultError::Invalid(format!("one of a pair: {why}")))?;
        Ok(Some(NewHalf { half, other, key }))
    }

    /// Whether a half may be committed at a path. `other` is what is at the other half's, `own` what is at its own.
    ///
    /// # Errors
    /// [`VaultError::Invalid`] with the reason.
    pub(super) fn check_half(
        &self,
        path: &str,
        new: &NewHalf,
        other: Option<(Ino, &Node)>,
        own: Option<(Ino, &Node)>,
    ) -> Result<(), VaultError> {
        let Some((other_ino, other_node)) = other else { return Ok(()) };
        let Some(other_version) = other_node.current().filter(|v| v.size > 0) else { return Ok(()) };
        let opposite = if new.half == Half::Key { Half::Cert } else { Half::Key };
        // What does not parse there cannot be a reason to refuse this.
        let Ok(theirs) = public(opposite, self.look_at(other_ino, other_node)?.expose()) else { return Ok(()) };
        if new.key == theirs {
            return Ok(());
        }
        if let Some((ino, node)) = own
            && let Some(version) = node.current()
        {
            let first = version.time >= other_version.time
                || public(new.half, self.look_at(ino, node)?.expose()).is_ok_and(|before| before == theirs);
            if first {
                tracing::info!(%path, "the first of a pair was changed; the other is to follow");
                return Ok(());
            }
        }
        Err(new.mismatch())
    }

    /// Whether a file that is renamed to `path` may have that name.
    ///
    /// # Errors
    /// [`VaultError::Invalid`] with the reason.
    pub(super) fn check_pair_moved(
        &self,
        path: &str,
        (ino, node): (Ino, &Node),
        target: Option<(Ino, &Node)>,
    ) -> Result<(), VaultError> {
        let ruled = SecretPath::parse(path).is_ok_and(|p| self.other_half(&p).is_some());
        if !ruled || node.kind != Kind::File || node.current().is_none() {
            return Ok(());
        }
        let content = self.look_at(ino, node)?;
        self.check_pair(path, target, node.meta.mode, content.expose())
    }

    /// Whether a file may have this mode.
    ///
    /// # Errors
    /// [`VaultError::Invalid`] if it is a private key by a rule, and the mode is wider than that allows.
    pub(super) fn check_key_mode(&self, path: &str, node: &Node, mode: u16) -> Result<(), VaultError> {
        let Ok(path) = SecretPath::parse(path) else { return Ok(()) };
        match self.other_half(&path) {
            Some((Half::Key, _, rule)) if node.kind == Kind::File => refuse_wide(mode, rule.mode),
            _ => Ok(()),
        }
    }
}

fn refuse_wide(mode: u16, most: u16) -> Result<(), VaultError> {
    if mode & 0o777 & !most == 0 {
        return Ok(());
    }
    Err(VaultError::Invalid(format!("mode {:04o} is too wide for a private key: {most:04o} at most", mode & 0o777)))
}

/// The public key of a half: that of the first certificate, or of the first private key.
fn public(half: Half, content: &[u8]) -> Result<PublicKey, CertError> {
    let mut pile = Pile::read(content, None)?;
    let unread = pile.unread.first().map(|u| u.why.clone());
    match half {
        Half::Cert if !pile.certificates.is_empty() => Ok(pile.certificates.swap_remove(0).public),
        Half::Key if !pile.keys.is_empty() => Ok(pile.keys.swap_remove(0).public().clone()),
        Half::Cert => Err(unread.unwrap_or(CertError::Broken("there is no certificate in it"))),
        Half::Key => Err(unread.unwrap_or(CertError::Broken("there is no private key in it"))),
    }
}
