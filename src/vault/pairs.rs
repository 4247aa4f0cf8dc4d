//! Certificate and key that a rule of the configuration calls a pair: the second of a pair must match the first.
//!
//! Which is the second? The one that is committed while the other is newer and does not match what was there. So either may be
//! renewed first, and be put right if it was the wrong one; but not the other way round.

use super::node::Node;
use super::{Vault, VaultError};
use crate::cert::{CertError, Pile, PublicKey};
use crate::config::{Half, Pair};
use crate::model::{Ino, Kind, SecretPath};

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
        let Some((half, other, rule)) = self.other_half(&parsed) else { return Ok(()) };
        if half == Half::Key {
            refuse_wide(mode, rule.mode)?;
        }
        // Half of a pair that is empty is no half yet.
        if content.is_empty() {
            return Ok(());
        }
        let key = public(half, content).map_err(|why| VaultError::Invalid(format!("one of a pair: {why}")))?;
        let other_ino = self.with_tree(|t| t.find(&other))?;
        let Some(other_ino) = other_ino else { return Ok(()) };
        let other_node = self.node(other_ino)?;
        let Some(other_version) = other_node.current().filter(|v| v.size > 0) else { return Ok(()) };
        let opposite = if half == Half::Key { Half::Cert } else { Half::Key };
        // What does not parse there cannot be a reason to refuse this.
        let Ok(theirs) = public(opposite, self.look_at(other_ino, &other_node)?.expose()) else { return Ok(()) };
        if key == theirs {
            return Ok(());
        }
        if let Some((ino, node)) = own
            && let Some(version) = node.current()
        {
            let first = version.time >= other_version.time
                || public(half, self.look_at(ino, node)?.expose()).is_ok_and(|before| before == theirs);
            if first {
                tracing::info!(%path, "the first of a pair was changed; the other is to follow");
                return Ok(());
            }
        }
        let what = match half {
            Half::Cert => "the certificate is not for the key in",
            Half::Key => "the key is not that of the certificate in",
        };
        Err(VaultError::Invalid(format!("{what} {other}")))
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
