//! What root may, what an operator may, and what needs proof.
//!
//! Owns the questions of [`Right`] as far as the store, the tree and the namespaces answer them. An operator may put content in and take
//! secrets away; nobody may read more afterwards than before, of what is there or of what others will put there.

use super::unlock::UnlockBy;
use super::writer::Writer;
use super::{NewNode, SetAttr, Vault, VaultError, protectors};
use crate::audit;
use crate::caller::Control;
use crate::lock::Mutex;
use crate::model::{Gid, Ino, Kind, Meta, Name, Reserved, SecretPath, Subject, Uid};
use crate::wire::{Actor, Fault, Put, Right, UnlockWith, unproven};

/// One proof at a time: each takes a quarter of a gigabyte for a second.
static PROVING: Mutex<()> = Mutex::new(());

/// What an operator's `put` makes of a name.
pub(super) enum Owner {
    /// What is there keeps its owner, group and mode.
    Kept,
    /// The name was there before, and gets what it had; or it is new, and root's where no owner is named.
    AsBefore(Box<Meta>),
    /// As asked for, or the caller's: the name is new, or whoever puts it may give it to anybody.
    Asked,
}

impl Vault {
    /// The peer, if he is root or an operator, outside every container.
    pub(super) fn admin(&self, actor: &Actor) -> Result<Control, Fault> {
        let caller = self.control(actor);
        let reason = match caller.is_admin() {
            Ok(true) => return Ok(caller),
            Ok(false) => "not an admin".to_owned(),
            Err(doubt) => doubt.to_string(),
        };
        self.refuse(audit::Operation::Control, "", None, &caller.who(), &reason);
        Err(Fault::Refused(reason))
    }

    pub(super) fn control(&self, actor: &Actor) -> Control {
        let member = actor.uid != 0 && self.limits.operator_gid.is_some();
        let pid = u32::try_from(actor.pid).unwrap_or(0);
        Control::new(&self.callers, Uid(actor.uid), Gid(actor.gid), pid, member)
    }

    pub(super) fn permit(&self, actor: &Actor, right: Right, method: &str) -> Result<(), Fault> {
        let caller = self.admin(actor)?;
        right.permits(actor.uid == 0, actor.proven).inspect_err(|fault| {
            let reason = format!("{}: {}", method.trim_start_matches("org.pinfold."), fault.reason());
            self.refuse(audit::Operation::Control, "", None, &caller.who(), &reason);
        })
    }

    /// Whether that opens the store. What the daemon was unlocked with is not compared: it is opened anew.
    pub(super) fn proves(&self, actor: &Actor, with: &UnlockWith) -> Result<(), Fault> {
        let caller = self.admin(actor)?;
        let opened = {
            let _one = PROVING.lock();
            protectors::open(&self.store, &UnlockBy::from(with))
        };
        match opened {
            Ok(_) => Ok(self.record(audit::Operation::Control, "", None, &caller.who(), "proof, for one call")?),
            Err(error) => {
                let reason = format!("no proof: {error}");
                self.refuse(audit::Operation::Control, "", None, &caller.who(), &reason);
                Err(error.into())
            }
        }
    }

    /// Refuses an operator without proof, on record.
    pub(super) fn only_with_proof(&self, actor: &Actor, op: audit::Operation, path: &SecretPath) -> Result<(), Fault> {
        if actor.may_widen() {
            return Ok(());
        }
        let fault = unproven();
        self.refuse(op, &path.to_string(), None, &self.control(actor).who(), fault.reason());
        Err(fault)
    }

    /// Where an operator may put something: not where pinfold serves it by its path, as keys that log somebody in.
    pub(super) fn may_put(&self, actor: &Actor, path: &SecretPath) -> Result<(), Fault> {
        if is_kept(path) { self.only_with_proof(actor, audit::Operation::Create, path) } else { Ok(()) }
    }

    /// What an operator may take away: not for good, since who comes next to that name is bound by what it had.
    pub(super) fn may_remove(&self, actor: &Actor, path: &SecretPath, purge: bool) -> Result<(), Fault> {
        if purge || is_kept(path) { self.only_with_proof(actor, audit::Operation::Remove, path) } else { Ok(()) }
    }

    /// What an operator may bring back: what he wrote himself.
    pub(super) fn may_roll_back(&self, actor: &Actor, path: &SecretPath, number: u64) -> Result<(), Fault> {
        if actor.may_widen() {
            return Ok(());
        }
        let (versions, _) = self.versions(path)?;
        let his = versions.iter().any(|v| v.number.0 == number && v.uid == Uid(actor.uid));
        if his && !is_kept(path) {
            return Ok(());
        }
        self.only_with_proof(actor, audit::Operation::Rollback, path)
    }

    /// Whose a name is after an operator's `put`; refused if that asks for more. To be asked as late as can be.
    pub(super) fn owner_after(&self, actor: &Actor, put: &Put, parent: Ino, name: &Name) -> Result<Owner, VaultError> {
        if actor.may_widen() {
            return Ok(Owner::Asked);
        }
        let path = put.path.to_string();
        let (there, tombstone) =
            self.with_tree(|t| (t.child(parent, name.as_str()), t.tombstone(&path).map(|(_, g)| g.meta.clone())))?;
        let asks = put.uid.is_some() || put.gid.is_some() || put.mode.is_some();
        if asks && (there.is_some() || tombstone.is_some()) {
            let Fault::Unproven(reason) = unproven() else { return Err(VaultError::NotPermitted("without proof")) };
            self.refuse(audit::Operation::SetOwner, &path, None, &self.control(actor).who(), &reason);
            return Err(VaultError::Unproven(reason));
        }
        Ok(match (there, tombstone) {
            (Some(_), _) => Owner::Kept,
            (None, Some(meta)) => Owner::AsBefore(Box::new(meta)),
            // What root puts there later would be his to read.
            (None, None) if put.uid.is_none() => Owner::AsBefore(Box::new(Meta::new(Uid::ROOT, Gid(0), 0o600))),
            (None, None) => Owner::Asked,
        })
    }

    /// Makes a directory that an operator's or root's `put -p` lacks: root's in any case, and closed where an operator makes it.
    pub(super) fn make_directory(
        &self,
        writer: &mut Writer,
        wide: bool,
        caller: &Control,
        parent: Ino,
        name: &Name,
    ) -> Result<Ino, VaultError> {
        let mode = if wide { 0o755 } else { 0o700 };
        let new = NewNode { parent, name, kind: Kind::Directory, mode, umask: 0, target: None };
        let made = self.create_in(writer, caller, new)?.ino;
        if caller.uid() != Uid::ROOT {
            let roots = SetAttr { uid: Some(Uid::ROOT), gid: Some(Gid(0)), ..SetAttr::default() };
            self.set_attr_in(writer, caller, made, roots)?;
        }
        Ok(made)
    }
}

/// Whether pinfold serves something by that path, sshd's keys among it: what lies there says who logs in, not only who reads.
fn is_kept(path: &SecretPath) -> bool {
    Reserved::of(path, None).is_some()
}
