//! From a list to what a bundle is sealed from: names in the place of numbers, and each content opened for one host.
//!
//! Owns the reading: through `access` as the daemon's own work, recorded secret by secret, each content for as long as it
//! is hashed or encrypted and no longer.

use super::list::{self, AdminItem, Item, List, OwnerNames};
use crate::access::{Denial, Operation};
use crate::audit;
use crate::bundle::{Admin, Entry, EntryKind, Index, NamedAcl, NamedAclEntry, NamedTag, Sha256Hex, is_key_line};
use crate::caller::Daemon;
use crate::model::{Acl, AclTag, Kind};
use crate::policy::Host;
use crate::secret::Secret;
use crate::store::BlobKey;
use crate::vault::node::{Node, Version};
use crate::vault::{Vault, VaultError};
use std::sync::Arc;

/// What a file with keys may have, in bytes and in keys.
const KEY_FILE_MAX: usize = 64 << 10;
/// The most keys of one admin.
const KEYS_MAX: usize = 100;

/// What a bundle is made of.
pub(super) struct Contents {
    /// As it goes into the bundle.
    pub index: Index,
    /// For each entry of the index, where its content is.
    sources: Vec<Source>,
    /// What is left out, and why.
    pub notes: Vec<String>,
}

/// Where the content of an entry is when it is to be encrypted.
enum Source {
    /// It has none.
    None,
    /// In a version that is kept.
    Version(Item),
    /// In the same sources as before, which are composed again.
    View(Item, BlobKey),
    /// Here: what would be another one if it were composed again.
    Kept(Secret),
}

impl Vault {
    /// Opens everything on a list once, for its digests; each opening is recorded.
    ///
    /// # Errors
    /// [`VaultError::Damaged`] if a content does not open: then there is no bundle, since a host removes what it is not
    /// sent; [`VaultError::Failed`] if something changed meanwhile.
    pub(super) fn contents(
        &self,
        list: &List,
        host: &Host,
        serial: u64,
        names: &mut OwnerNames,
    ) -> Result<Contents, VaultError> {
        let purpose = format!("for {}, serial {serial}", host.name);
        let mut contents = Contents { index: Index::default(), sources: Vec::new(), notes: Vec::new() };
        for item in &list.items {
            let mut source = Source::None;
            let kind = match item.node.kind {
                Kind::Directory => EntryKind::Directory,
                Kind::Symlink => {
                    EntryKind::Symlink { target: item.node.target.as_deref().unwrap_or_default().to_owned() }
                }
                Kind::File => match self.open_first(item, &purpose) {
                    Ok((content, version, found)) => {
                        let (size, sha256) = (content.len() as u64, Sha256Hex::of(&content));
                        source = found.unwrap_or(Source::Kept(content));
                        EntryKind::File { size, sha256, version }
                    }
                    Err(VaultError::Denied(Denial::KeyExpired)) => {
                        contents.notes.push(format!("{} has expired and is left out", item.path));
                        continue;
                    }
                    Err(error) => return Err(about(item, error)),
                },
            };
            let entry = entry(item, kind, host, names)?;
            for (what, name) in [("owner", &entry.owner), ("group", &entry.group)] {
                if name.starts_with('#') {
                    contents.notes.push(format!("{}: its {what} {name} has no name here", item.path));
                }
            }
            contents.index.entries.push(entry);
            contents.sources.push(source);
        }
        for admin in &list.admins {
            let keys = self.keys_of_admin(admin, &purpose, &mut contents.notes)?;
            contents.index.admins.push(Admin {
                user: admin.user.clone(),
                prefix: host.user_prefix.clone(),
                keys,
                comment: admin.note.clone(),
            });
        }
        Ok(contents)
    }

    /// The content of an entry of the index, again, to be encrypted.
    pub(super) fn content_again(&self, contents: &Contents, entry: usize) -> Result<Secret, VaultError> {
        match contents.sources.get(entry) {
            None | Some(Source::None) => {
                Err(VaultError::Failed("an entry without content was asked for its content".into()))
            }
            Some(Source::Version(item)) => {
                self.open_for_export(item, None).map(|(content, _)| content).map_err(|error| about(item, error))
            }
            Some(Source::View(item, mark)) => match self.compose_for_export(item, None) {
                Ok((content, now)) if now == *mark => Ok(content),
                Ok(_) => Err(about(item, VaultError::Failed("it changed meanwhile".into()))),
                Err(error) => Err(about(item, error)),
            },
            Some(Source::Kept(content)) => {
                Secret::copy_of(content.expose()).map_err(|e| VaultError::Failed(e.to_string()))
            }
        }
    }

    /// The content of a file, its version, and where it is to be had again, if not here.
    fn open_first(&self, item: &Item, purpose: &str) -> Result<(Secret, u64, Option<Source>), VaultError> {
        let Some(view) = &item.node.view else {
            let (content, number) = self.open_for_export(item, Some(purpose))?;
            return Ok((content, number, Some(Source::Version(item.clone()))));
        };
        let (content, mark) = self.compose_for_export(item, Some(purpose))?;
        // A view has no versions.
        Ok((content, 0, view.is_deterministic().then(|| Source::View(item.clone(), mark))))
    }

    /// Composes a view: the grant is on the view, as for whoever opens it.
    fn compose_for_export(&self, item: &Item, purpose: Option<&str>) -> Result<(Secret, BlobKey), VaultError> {
        let path = item.path.to_string();
        let refuse = |error: &VaultError| {
            self.refuse(audit::Operation::Export, &path, None, &Daemon.who(), &error.to_string());
        };
        let kek = match self.grant(&Daemon, item.ino, &item.node, Operation::Read) {
            Ok((_, _, kek)) => kek,
            Err((denial, holder)) => {
                self.refuse(audit::Operation::Export, &path, None, &Daemon.who(), &denial.to_string());
                self.follow_revocation(&holder, &denial);
                return Err(denial.into());
            }
        };
        let composed = self.compose(item.ino, &item.node, &kek).inspect_err(refuse)?;
        if let Some(purpose) = purpose {
            self.record_view(audit::Operation::Export, &path, &Daemon, purpose, &composed.read)?;
        }
        Ok((composed.content, composed.mark))
    }

    /// Opens the version that the item has. `purpose` is for the log; without one it was recorded before.
    fn open_for_export(&self, item: &Item, purpose: Option<&str>) -> Result<(Secret, u64), VaultError> {
        let path = item.path.to_string();
        let mut node = Arc::clone(&item.node);
        let mut tries = 0;
        loop {
            let wanted = item.node.current().ok_or(VaultError::NotFound)?;
            // Its blob may be elsewhere since a rekeying.
            let version = node.versions.iter().find(|v| same(v, wanted));
            let version = version.ok_or_else(|| VaultError::Failed("it changed meanwhile".into()))?;
            let (grant, _, kek) = match self.grant(&Daemon, item.ino, &node, Operation::Read) {
                Ok(granted) => granted,
                Err((denial, holder)) => {
                    self.refuse(audit::Operation::Export, &path, None, &Daemon.who(), &denial.to_string());
                    self.follow_revocation(&holder, &denial);
                    return Err(denial.into());
                }
            };
            match self.decrypt(&grant, &kek, Some(version)) {
                Ok(content) => {
                    if let Some(purpose) = purpose {
                        let number = Some(version.number.0);
                        self.record(audit::Operation::Export, &path, number, &Daemon.who(), purpose)?;
                    }
                    return Ok((content, version.number.0));
                }
                Err(_) if tries < 8 && self.moved_on(item.ino, &node) => {
                    tries += 1;
                    node = self.node(item.ino).map_err(|_| VaultError::Failed("it was removed meanwhile".into()))?;
                }
                Err(error) => {
                    self.refuse(audit::Operation::Export, &path, None, &Daemon.who(), &error.to_string());
                    return Err(error);
                }
            }
        }
    }

    /// The lines of an admin's key files that are public keys.
    fn keys_of_admin(
        &self,
        admin: &AdminItem,
        purpose: &str,
        notes: &mut Vec<String>,
    ) -> Result<Vec<String>, VaultError> {
        let mut keys: Vec<String> = Vec::new();
        for item in &admin.keys {
            let content = match self.open_first(item, purpose) {
                Ok((content, ..)) => content,
                Err(VaultError::Denied(Denial::KeyExpired)) => {
                    notes.push(format!("{} has expired and is left out", item.path));
                    continue;
                }
                Err(error) => return Err(about(item, error)),
            };
            match public_keys(content.expose()) {
                Ok(found) => keys.extend(found),
                Err(why) => notes.push(format!("{}: {why}; it is left out", item.path)),
            }
        }
        for line in &admin.home_keys {
            match public_keys(line.as_bytes()) {
                Ok(found) => keys.extend(found),
                Err(why) => notes.push(format!("a key in the home directory of {}: {why}; it is left out", admin.user)),
            }
        }
        keys.sort();
        keys.dedup();
        if keys.len() > KEYS_MAX {
            notes.push(format!("{} has more than {KEYS_MAX} keys; the rest are left out", admin.user));
            keys.truncate(KEYS_MAX);
        }
        if keys.is_empty() {
            notes.push(format!("{} has no key in admins/{}/*.pub", admin.user, admin.user));
        }
        Ok(keys)
    }
}

fn same(a: &Version, b: &Version) -> bool {
    a.number == b.number && a.time == b.time && a.blob.ino == b.blob.ino
}

fn about(item: &Item, error: VaultError) -> VaultError {
    match error {
        VaultError::Damaged(what) => VaultError::Damaged(format!("{}: {what}", item.path)),
        VaultError::Failed(what) => VaultError::Failed(format!("{}: {what}", item.path)),
        VaultError::Denied(denial) => VaultError::Failed(format!("{}: {denial}", item.path)),
        error @ (VaultError::NotComposed(_) | VaultError::TooBig { .. }) => {
            VaultError::Failed(format!("{}: {error}", item.path))
        }
        other => other,
    }
}

fn entry(item: &Item, kind: EntryKind, host: &Host, names: &mut OwnerNames) -> Result<Entry, VaultError> {
    let node: &Node = &item.node;
    let meta = &node.meta;
    let mut named = |acl: &Acl| {
        let entries = acl.entries().iter().map(|e| {
            let tag = match e.tag {
                AclTag::UserObj => NamedTag::UserObj,
                AclTag::User(uid) => NamedTag::User(names.user(uid.0).to_string()),
                AclTag::GroupObj => NamedTag::GroupObj,
                AclTag::Group(gid) => NamedTag::Group(names.group(gid.0).to_string()),
                AclTag::Mask => NamedTag::Mask,
                AclTag::Other => NamedTag::Other,
            };
            NamedAclEntry { tag, perm: e.perm }
        });
        // Two numbers may have one name. Without its list, the mode would mean something else.
        let named = NamedAcl::from_entries(entries.collect());
        named.map_err(|why| VaultError::Failed(format!("{}: by names, {why}", item.path)))
    };
    let is_directory = kind == EntryKind::Directory;
    let acl = meta.acl.as_ref().map(&mut named).transpose()?;
    let default_acl = meta.default_acl.as_ref().filter(|_| is_directory).map(&mut named).transpose()?;
    let xattrs = list::xattrs(node, host).filter(|(name, _)| name.starts_with("user."));
    Ok(Entry {
        path: item.path.clone(),
        owner: names.user(meta.uid.0).to_string(),
        group: names.group(meta.gid.0).to_string(),
        mode: meta.mode & 0o1777,
        acl,
        default_acl,
        xattrs: xattrs.map(|(name, value)| (name.clone(), value.clone())).collect(),
        mtime: item.mtime(),
        kind,
    })
}

/// The keys in a file of public keys, one a line, as OpenSSH writes them.
fn public_keys(bytes: &[u8]) -> Result<Vec<String>, &'static str> {
    if bytes.len() > KEY_FILE_MAX {
        return Err("it is too long for public keys");
    }
    let text = std::str::from_utf8(bytes).map_err(|_| "it is no text")?;
    if text.contains("PRIVATE KEY") {
        return Err("it is a private key");
    }
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let keys: Vec<String> = lines
        .map(|line| {
            // As hosts take it: single blanks, one key, no options before it.
            let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
            if is_key_line(&line) { Ok(line) } else { Err("it is not a public key that sshd takes") }
        })
        .collect::<Result<_, _>>()?;
    if keys.is_empty() { Err("it has no key") } else { Ok(keys) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBAjfAPWmqnZ2ARWXzMbEKTtgfFgtlLpPMIhKpUC1SHE a@b";

    #[test]
    fn only_public_keys_are_taken_for_keys() {
        assert_eq!(public_keys(format!("# mine\n{KEY}\n\n").as_bytes()).unwrap(), [KEY]);
        for bad in ["", "# none", "hunter2", "-----BEGIN OPENSSH PRIVATE KEY-----", "ssh-ed25519 AAAA", "\u{1b}"] {
            assert!(public_keys(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(public_keys(format!("command=\"sh\" {KEY}").as_bytes()).is_err(), "options stand in no .pub file");
        assert!(public_keys(&[0xff]).is_err());
    }
}
