//! A rotation's state in the store: the next password lies beside the old one, with a mark that says how far it is.
//!
//! Owns the order: the next one is on disk before anybody touches the far side, each mark before the step that it
//! announces, and the old one is kept until the end. It knows nothing of how the far side is changed.

use super::{Vault, VaultError, none_under_way, under_way};
use crate::audit;
use crate::caller::Control;
use crate::model::{Ino, Kind, PasswordName, check_password};
use crate::secret::Secret;
use crate::vault::{XattrMode, fault};
use crate::wire::{
    Actor, Done, Fault, Keep, RotationBegin, RotationEnd, RotationMark, RotationOpen, RotationOpened, RotationState,
    Serve,
};

/// The attribute of the next password that says how far the rotation is: `1 pending`.
const MARK: &str = "user.rotation";
/// The version of the mark's form, and a blank.
const FORM: &str = "1 ";

impl Vault {
    /// The next password and how far its rotation is, if one is under way.
    pub(super) fn rotation(&self, name: &PasswordName) -> Result<Option<(Ino, RotationState)>, VaultError> {
        let Some(ino) = self.found(&name.next_path())? else { return Ok(None) };
        let node = self.node(ino)?;
        if node.kind != Kind::File || node.current().is_none() {
            // Made, and not written: nothing began.
            return Ok(None);
        }
        let mark = node.meta.xattrs.get(MARK).and_then(|mark| std::str::from_utf8(mark).ok());
        // In doubt either may be valid.
        let state = mark.and_then(|mark| RotationState::parse(mark.strip_prefix(FORM)?));
        Ok(Some((ino, state.unwrap_or(RotationState::Changing))))
    }

    pub(super) fn set_mark(&self, caller: &Control, ino: Ino, state: RotationState) -> Result<(), VaultError> {
        self.set_xattr(caller, ino, MARK, format!("{FORM}{}", state.as_str()).as_bytes(), XattrMode::Set)
    }

    fn note(&self, caller: &Control, name: &PasswordName, what: &str) -> Result<(), VaultError> {
        let who = caller.who();
        self.record(audit::Operation::Rotate, &name.path().to_string(), None, &who, &format!("admin: {what}"))
    }
}

impl Serve<RotationBegin> for Vault {
    fn serve(&self, actor: &Actor, begin: RotationBegin) -> Result<Done, Fault> {
        let caller = self.admin(actor)?;
        let _one = self.rotating();
        let current = self.password(&begin.name)?;
        check_password(begin.content.expose()).map_err(|e| Fault::Refused(e.to_string()))?;
        if let Some((_, state)) = self.rotation(&begin.name)? {
            return Err(under_way(&begin.name, state));
        }
        // Looked at, not shown: to somebody who reads lines two of them would be two passwords.
        let (old, _) = self.base(&self.open_write(&caller, current)?)?;
        must_be_one(&begin.name, &old)?;
        self.note(&caller, &begin.name, "begun: pending")?;
        let next = begin.name.next_path();
        self.write_hidden(&caller, &next, begin.content.expose(), Some(RotationState::Pending))?;
        self.sync()?;
        Ok(Done {})
    }
}

impl Serve<RotationOpen> for Vault {
    fn serve(&self, actor: &Actor, open: RotationOpen) -> Result<RotationOpened, Fault> {
        let caller = self.admin(actor)?;
        let (next, state) = self.rotation(&open.name)?.ok_or_else(|| none_under_way(&open.name))?;
        let current = self.password(&open.name)?;
        // It is a way to be shown two passwords at once.
        self.bounded(&self.passwords.opened, actor, &caller, current)?;
        let old = self.open_for_admin(&caller, current)?.content;
        let new = self.open_for_admin(&caller, next)?.content;
        must_be_one(&open.name, &old)?;
        must_be_one(&open.name, &new)?;
        Ok(RotationOpened { state, old, new })
    }
}

impl Serve<RotationMark> for Vault {
    fn serve(&self, actor: &Actor, mark: RotationMark) -> Result<Done, Fault> {
        let caller = self.admin(actor)?;
        let _one = self.rotating();
        let (ino, state) = self.rotation(&mark.name)?.ok_or_else(|| none_under_way(&mark.name))?;
        if state != mark.from {
            return Err(under_way(&mark.name, state));
        }
        self.note(&caller, &mark.name, &format!("{}, was {}", mark.to.as_str(), state.as_str()))?;
        self.set_mark(&caller, ino, mark.to)?;
        self.sync()?;
        Ok(Done {})
    }
}

impl Serve<RotationEnd> for Vault {
    fn serve(&self, actor: &Actor, end: RotationEnd) -> Result<Done, Fault> {
        let caller = self.admin(actor)?;
        let _one = self.rotating();
        let (next, state) = self.rotation(&end.name)?.ok_or_else(|| none_under_way(&end.name))?;
        let by = if end.verified { "verified" } else { "by the admin's word" };
        self.note(&caller, &end.name, &format!("the {} one is kept, {by}; was {}", end.keep.as_str(), state.as_str()))?;
        if end.keep == Keep::New {
            let current = self.password(&end.name)?;
            let new = self.open_for_admin(&caller, next)?.content;
            // The same if an end was interrupted after this.
            if self.open_for_admin(&caller, current)?.content.expose() != new.expose() {
                self.write_hidden(&caller, &end.name.path(), new.expose(), None)?;
                self.sync()?;
            }
            fault::at(fault::Point::NewIsCurrent)?;
        }
        self.take_away(&caller, &end.name.next_path(), audit::Operation::Purge)?;
        self.sync()?;
        Ok(Done {})
    }
}

/// What came into the tree by another way may be anything.
fn must_be_one(name: &PasswordName, content: &Secret) -> Result<(), Fault> {
    let refused = |e| Fault::Refused(format!("what is stored of {name} was not stored as a password: {e}"));
    check_password(content.expose()).map_err(refused)
}
