//! Several secrets committed as one: readers, a crash and a backup see all of them as they were or as they are.
//!
//! For what belongs together, key and certificate; a single secret is `commit`'s.

use super::node::Node;
use super::version::Changed;
use super::writer::Writer;
use super::{Caller, Change, Vault, VaultError};
use crate::access::{Operation, ScopeState};
use crate::audit;
use crate::caller::Daemon;
use crate::model::{Gid, Ino, Kind, Meta, SecretPath, Uid};
use crate::seal;

/// One of several secrets.
pub(super) struct Part<'a> {
    /// Its path; the folder is there.
    pub path: SecretPath,
    /// Its content.
    pub content: &'a [u8],
    /// The mode it is made with, of root's, if it is not there yet.
    pub mode: u16,
}

/// One of them, on its way.
struct Ready {
    changed: Changed,
    parent: Ino,
    made: bool,
}

impl Vault {
    /// Commits all `parts`, and removes what is `gone` (for good, if the operation is [`audit::Operation::Purge`]), in one transaction. What kind of content it is was checked
    /// before; pairs are not looked at: together they are one. The versions' numbers.
    ///
    /// # Errors
    /// [`VaultError::Denied`], [`VaultError::TooBig`], [`VaultError::NoSpace`]; nothing was changed then.
    pub(super) fn commit_together(
        &self,
        caller: &impl Caller,
        parts: &[Part<'_>],
        gone: &[(SecretPath, audit::Operation)],
        event: audit::Operation,
    ) -> Result<Vec<u64>, VaultError> {
        for part in parts {
            let (_, name) = part.path.split_last().ok_or(VaultError::IsADirectory)?;
            if part.content.len() as u64 > self.limits.max_secret_size {
                return Err(VaultError::TooBig { max: self.limits.max_secret_size });
            }
            crate::enrol::check(name, part.content).map_err(|r| VaultError::Invalid(format!("{}: {r}", part.path)))?;
        }
        let (mut writer, sealed) = self.sealed(
            || self.lock_writer(),
            |keys| {
                let seal = |part: &Part<'_>| -> Result<_, VaultError> {
                    let parent = part.path.split_last().map(|(p, _)| p).unwrap_or_else(SecretPath::root);
                    let parent = self.node(self.find(&parent)?)?;
                    let kek = keys.kek(&parent.scope).map_err(|s| VaultError::Denied(super::open::denial_of(s)))?;
                    Ok(seal::seal_blob(part.content, &kek, &keys.recovery))
                };
                parts.iter().map(seal).collect::<Result<Vec<_>, _>>()
            },
        )?;
        let (numbers, changes) =
            self.transact_with(&mut writer, |writer| self.together_in(writer, caller, (parts, sealed), gone, event))?;
        drop(writer);
        changes.into_iter().for_each(|change| self.notify(change));
        Ok(numbers)
    }

    fn together_in(
        &self,
        writer: &mut Writer,
        caller: &impl Caller,
        (parts, sealed): (&[Part<'_>], Vec<(Vec<u8>, seal::BlobDigest)>),
        gone: &[(SecretPath, audit::Operation)],
        event: audit::Operation,
    ) -> Result<(Vec<u64>, Vec<Change>), VaultError> {
        let mut ready = Vec::new();
        for (part, sealed) in parts.iter().zip(sealed) {
            let path = part.path.to_string();
            let (folder, name) = part.path.split_last().ok_or(VaultError::IsADirectory)?;
            let parent = self.find(&folder)?;
            let directory = self.node(parent)?;
            let there = self.with_tree(|t| t.child(parent, name.as_str()))?;
            let (ino, next) = match there {
                Some(ino) => {
                    let node = self.node(ino)?;
                    if node.kind != Kind::File {
                        return Err(VaultError::Invalid(format!("{path} is no file")));
                    }
                    self.allow(caller, ino, &node, Operation::Write, event, &path)?;
                    (ino, (*node).clone())
                }
                None => {
                    let grant = self.allow(caller, parent, &directory, Operation::ChangeEntries, event, &path)?;
                    self.check_room(caller, grant.rule(), &directory.scope)?;
                    let node = Node {
                        parent,
                        name: Some(name.clone()),
                        kind: Kind::File,
                        scope: directory.scope.clone(),
                        meta: Meta::new(Uid::ROOT, Gid(0), part.mode),
                        target: None,
                        versions: Vec::new(),
                        last_number: 0,
                        view: None,
                    };
                    (writer.next_ino()?, node)
                }
            };
            let mut changed =
                self.next_version((ino, &path), next, sealed, part.content.len(), Uid(caller.who().uid))?;
            changed.next.meta.mtime = changed.next.meta.ctime;
            ready.push(Ready { changed, parent, made: there.is_none() });
        }
        for one in &ready {
            self.record(event, &one.changed.path, Some(one.changed.number()), &caller.who(), "together")?;
        }
        let mut changes = Vec::new();
        for (path, how) in gone {
            let Some((folder, name)) = path.split_last() else { continue };
            let Ok(parent) = self.find(&folder) else { continue };
            match self.unlink_locked(writer, caller, parent, name, *how) {
                Ok(_) => changes.push(Change::Entry { parent, name: name.clone() }),
                Err(VaultError::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        let numbers = ready.iter().map(|one| one.changed.number()).collect();
        changes.extend(ready.iter().map(|one| match (one.made, &one.changed.next.name) {
            (true, Some(name)) => Change::Entry { parent: one.parent, name: name.clone() },
            _ => Change::Node(one.changed.ino),
        }));
        let folders: Vec<Ino> = ready.iter().filter(|one| one.made).map(|one| one.parent).collect();
        folders.into_iter().try_for_each(|folder| self.stamp(writer, folder))?;
        self.install(writer, ready.into_iter().map(|one| one.changed).collect())?;
        Ok((numbers, changes))
    }

    /// The current content of a secret, looked at as the daemon's own work: what is compared here is shown to nobody.
    pub(super) fn look_at(&self, ino: Ino, node: &Node) -> Result<crate::secret::Secret, VaultError> {
        let grant = self.judge(&Daemon, ino, node, ScopeState::Alive, Operation::Read)?;
        let kek = self.keys()?.kek(&node.scope).map_err(|s| VaultError::Denied(super::open::denial_of(s)))?;
        self.decrypt(&grant, &kek, node.current())
    }
}
