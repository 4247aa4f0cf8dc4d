//! Secrets, by path: listed, put, shown, removed, their versions, who may open them and who did.

use crate::audit;
use crate::model::{Kind, Name, SecretPath};
use crate::vault::listed::{entry, happened};
use crate::vault::node::Version;
use crate::vault::open::WhichVersion;
use crate::vault::remove::removed_by_scope;
use crate::vault::{Vault, VaultError};
use crate::wire::{
    Actor, Committed, Condition, Conditions, Fault, GetHistory, History, List, Listing, NodeKind, Put, Remove, Removed,
    Reveal, Revealed, Rollback, Serve, VersionInfo, Who, WhoReply,
};

/// The most entries one listing has.
const MAX_LISTED: usize = 200_000;
/// Decisions shown by `who` if nothing else is asked for, and at most.
const RECENT: (usize, usize) = (20, 1000);

impl Serve<List> for Vault {
    fn serve(&self, actor: &Actor, list: List) -> Result<Listing, Fault> {
        self.admin(actor)?;
        let mut out = Vec::new();
        self.with_tree(|tree| {
            let ino = tree.find(&list.path).ok_or(VaultError::NotFound)?;
            let node = tree.get(ino).ok_or(VaultError::NotFound)?;
            if list.itself || node.kind != Kind::Directory {
                out.push(entry(list.path.clone(), node));
                return Ok(());
            }
            let mut waiting = vec![(list.path.clone(), ino)];
            while let Some((path, ino)) = waiting.pop() {
                let at = out.len();
                for (name, child) in tree.children(ino).into_iter().flatten() {
                    let (Ok(path), Some(node)) = (path.join(name), tree.get(*child)) else { continue };
                    if out.len() >= MAX_LISTED {
                        return Err(VaultError::NoSpace("the listing is too long; name a folder"));
                    }
                    out.push(entry(path.clone(), node));
                    if list.recursive && node.kind == Kind::Directory {
                        waiting.push((path, *child));
                    }
                }
                out[at..].sort_by(|a, b| a.path.cmp(&b.path));
            }
            out.sort_by(|a, b| a.path.cmp(&b.path));
            Ok(())
        })??;
        // What has no version may be a view: its size is that of what it is composed from.
        for entry in out.iter_mut().filter(|entry| entry.kind == NodeKind::File && entry.version.is_none()) {
            if let Some(attr) = self.find(&entry.path).ok().and_then(|ino| self.attr(ino).ok()) {
                (entry.size, entry.mtime) = (attr.size, attr.mtime);
            }
        }
        Ok(Listing { entries: out })
    }
}

impl Serve<Put> for Vault {
    fn serve(&self, actor: &Actor, put: Put) -> Result<Committed, Fault> {
        let caller = self.admin(actor)?;
        let (directory, _) = folder_and_name(&put.path)?;
        check_mode(put.mode)?;
        self.may_put(actor, &put.path)?;
        if !put.parents {
            self.folder_there(&directory)?;
        }
        Ok(Committed { version: self.put_whole(actor, &caller, &put)? })
    }
}

impl Serve<Reveal> for Vault {
    fn serve(&self, actor: &Actor, reveal: Reveal) -> Result<Revealed, Fault> {
        let caller = self.admin(actor)?;
        let ino = self.with_tree(|t| t.find(&reveal.path))?.ok_or(VaultError::NotFound)?;
        if !self.limits.allow_reveal {
            let path = reveal.path.to_string();
            self.refuse(audit::Operation::Reveal, &path, reveal.version, &caller.who(), "allow_reveal is not set");
            return Err(Fault::Refused(
                "content is shown only where the configuration says allow_reveal = true".into(),
            ));
        }
        let wanted = reveal.version.map_or(WhichVersion::Current, WhichVersion::Number);
        Ok(Revealed { content: self.open_as(&caller, ino, wanted, audit::Operation::Reveal)?.content })
    }
}

impl Serve<Remove> for Vault {
    fn serve(&self, actor: &Actor, remove: Remove) -> Result<Removed, Fault> {
        let caller = self.admin(actor)?;
        let (directory, name) = folder_and_name(&remove.path)?;
        self.may_remove(actor, &remove.path, remove.purge)?;
        let Some(ino) = self.with_tree(|t| t.find(&remove.path))? else {
            if !remove.purge {
                return Err(VaultError::NotFound.into());
            }
            let purged = self.purge_tombstone(&caller, &remove.path.to_string())?;
            self.scrub()?;
            return Ok(Removed { nodes: 0, purged });
        };
        let parent = self.with_tree(|t| t.find(&directory))?.ok_or(VaultError::NotFound)?;
        if removed_by_scope(&remove.path) {
            let reason = "a container's folder goes with its scope: pinfold scope rm";
            self.refuse(audit::Operation::Remove, &remove.path.to_string(), None, &caller.who(), reason);
            return Err(Fault::Refused(reason.into()));
        }
        let mut removed = Removed::default();
        let event = if remove.purge { audit::Operation::Purge } else { audit::Operation::Remove };
        self.remove_tree(&caller, parent, name, ino, remove.recursive, event, &mut removed)?;
        if remove.purge {
            self.scrub()?;
        }
        self.sync()?;
        Ok(removed)
    }
}

impl Serve<GetHistory> for Vault {
    fn serve(&self, actor: &Actor, asked: GetHistory) -> Result<History, Fault> {
        self.admin(actor)?;
        let (versions, live) = self.versions(&asked.path)?;
        let last = versions.len().saturating_sub(1);
        let info = |(i, v): (usize, &Version)| VersionInfo {
            number: v.number.0,
            time: v.time,
            size: v.size,
            digest: crate::hex::encode(&v.digest),
            uid: Some(v.uid.0),
            current: live && i == last,
        };
        Ok(History { versions: versions.iter().enumerate().map(info).rev().collect() })
    }
}

impl Serve<Rollback> for Vault {
    fn serve(&self, actor: &Actor, rollback: Rollback) -> Result<Committed, Fault> {
        let caller = self.admin(actor)?;
        self.may_roll_back(actor, &rollback.path, rollback.version)?;
        Ok(Committed { version: self.rollback_to(&caller, &rollback.path, rollback.version)? })
    }
}

impl Serve<Who> for Vault {
    fn serve(&self, actor: &Actor, who: Who) -> Result<WhoReply, Fault> {
        self.admin(actor)?;
        let node = self.with_tree(|t| t.find(&who.path).and_then(|ino| t.get(ino).cloned()))?;
        let rules = node.map(|node| self.rules(&node)).transpose()?;
        let limit = who.recent.map_or(RECENT.0, |n| (n as usize).min(RECENT.1));
        let found = self.audit.recent(&who.path.to_string(), limit).map_err(|e| Fault::Failed(e.to_string()))?;
        let recent = found.into_iter().filter_map(happened).filter(|h| who.since.is_none_or(|s| h.time >= s)).collect();
        let rules = match rules {
            Some(rules) => rules,
            None if self.with_tree(|t| t.tombstone(&who.path.to_string()).is_some())? => Vec::new(),
            None => return Err(VaultError::NotFound.into()),
        };
        Ok(WhoReply { rules, recent })
    }
}

impl Serve<Condition> for Vault {
    fn serve(&self, actor: &Actor, asked: Condition) -> Result<Conditions, Fault> {
        let caller = self.admin(actor)?;
        folder_and_name(&asked.path)?;
        if !asked.only_tells() {
            self.only_with_proof(actor, audit::Operation::SetXattr, &asked.path)?;
        }
        Ok(self.change_conditions(&caller, &asked)?)
    }
}

/// Where a path is, and its name there. The root has neither, and is there always.
pub(in crate::vault) fn folder_and_name(path: &SecretPath) -> Result<(SecretPath, &Name), Fault> {
    path.split_last().ok_or_else(|| Fault::Usage("the path is the root of the tree".into()))
}

/// A mode has permission bits only.
pub(in crate::vault) fn check_mode(mode: Option<u16>) -> Result<(), Fault> {
    match mode {
        Some(mode) if mode > 0o777 => Err(Fault::Usage("a mode is 0777 at most".into())),
        _ => Ok(()),
    }
}
