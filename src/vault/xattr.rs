//! Extended attributes: `user.*`, the conditions among them, and POSIX ACLs.

use super::change::refuse_entry;
use super::node::Node;
use super::view::View;
use super::writer::Writer;
use super::{Caller, Vault, VaultError, admin_xattrs};
use crate::access::Operation;
use crate::audit;
use crate::model::{
    Acl, CONDITION_PREFIX, EXPIRES_XATTR, Ino, Kind, Label, PUBLISH_XATTR, Timestamp, parse_publications,
};

/// The access ACL's name.
const ACCESS: &str = "system.posix_acl_access";
/// The default ACL's name.
const DEFAULT: &str = "system.posix_acl_default";
/// The most attributes a node has.
const MAX_COUNT: usize = 64;
/// The most bytes they have in all, names included.
const MAX_BYTES: usize = 16 * 1024;
/// What of both is kept for conditions and publications: whoever owns a secret could fill it up, and nothing could bind it any more.
const KEPT_COUNT: usize = 8;
const KEPT_BYTES: usize = 4 * 1024;
/// The longest name (xattr(7)).
const NAME_MAX: usize = 255;

/// Whether the attribute may, must or must not be there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XattrMode {
    /// Either.
    Set,
    /// XATTR_CREATE.
    Create,
    /// XATTR_REPLACE.
    Replace,
}

impl Vault {
    /// The value of an attribute.
    ///
    /// # Errors
    /// [`VaultError::NoAttribute`], [`VaultError::UnknownAttribute`] for other namespaces.
    pub fn get_xattr(&self, ino: Ino, name: &str) -> Result<Vec<u8>, VaultError> {
        let node = self.node(ino)?;
        let shown = |acl: &Acl| self.view(&node.scope).shown_acl(acl).to_xattr();
        let value = match name {
            ACCESS => node.meta.acl.as_ref().map(shown),
            DEFAULT => node.meta.default_acl.as_ref().map(shown),
            _ if name.starts_with("user.") => node.meta.xattrs.get(name).cloned(),
            _ => return Err(VaultError::UnknownAttribute),
        };
        value.ok_or(VaultError::NoAttribute)
    }

    /// The names of all attributes.
    ///
    /// # Errors
    /// [`VaultError::NotFound`], [`VaultError::Locked`].
    pub fn list_xattr(&self, ino: Ino) -> Result<Vec<String>, VaultError> {
        let node = self.node(ino)?;
        let acls = [(ACCESS, &node.meta.acl), (DEFAULT, &node.meta.default_acl)];
        let acls = acls.iter().filter(|(_, acl)| acl.is_some()).map(|(name, _)| (*name).to_owned());
        Ok(acls.chain(node.meta.xattrs.keys().cloned()).collect())
    }

    /// Sets an attribute.
    ///
    /// # Errors
    /// [`VaultError::Denied`], [`VaultError::Invalid`], [`VaultError::NoSpace`], [`VaultError::Exists`],
    /// [`VaultError::NoAttribute`], [`VaultError::UnknownAttribute`]; [`VaultError::NotPermitted`] where a condition would be
    /// replaced by another one: that is for pinfold's own command.
    pub fn set_xattr(
        &self,
        caller: &impl Caller,
        ino: Ino,
        name: &str,
        value: &[u8],
        mode: XattrMode,
    ) -> Result<(), VaultError> {
        // A look into the user database may take its time: not under the lock.
        let recipients = super::publish::check_recipients(name, value);
        self.transact(|writer| self.set_xattr_in(writer, caller, ino, (name, value, mode), recipients))
    }

    fn set_xattr_in(
        &self,
        writer: &mut Writer,
        caller: &impl Caller,
        ino: Ino,
        (name, value, mode): (&str, &[u8], XattrMode),
        recipients: Result<(), VaultError>,
    ) -> Result<(), VaultError> {
        let (node, path) = self.node_and_path(ino)?;
        let event = operation_of(name)?;
        self.recording(event, &path, || caller.who(), refuse_entry(&node))?;
        let grant = self.allow(caller, ino, &node, needed(name), event, &path)?;
        self.recording(event, &path, || caller.who(), recipients)?;
        let held = match (node.kind, node.last_number) {
            (Kind::File, 0) => self.with_tree(|tree| tree.heritage(&path, ino))?.map(|h| h.ruled).unwrap_or_default(),
            _ => admin_xattrs::Ruled::new(),
        };
        self.recording(event, &path, || caller.who(), admin_xattrs::may_set(&node, &held, name, value))?;
        let next = self.recording(
            event,
            &path,
            || caller.who(),
            with_xattr(&node, &self.view(&node.scope), name, value, mode),
        )?;
        if next.meta.mode != node.meta.mode {
            let fits = self.check_key_mode(&path, &next, next.meta.mode);
            self.recording(event, &path, || caller.who(), fits)?;
        }
        self.record(event, &path, None, &caller.who(), &format!("{}: set {name}", grant.rule()))?;
        self.put_changed(writer, ino, &node, next)
    }

    /// Removes an attribute.
    ///
    /// # Errors
    /// [`VaultError::Denied`], [`VaultError::NoAttribute`], [`VaultError::UnknownAttribute`]; [`VaultError::NotPermitted`] for
    /// what only an admin sets: that goes by pinfold's own commands.
    pub fn remove_xattr(&self, caller: &impl Caller, ino: Ino, name: &str) -> Result<(), VaultError> {
        if name.starts_with(CONDITION_PREFIX) {
            let (node, path) = self.node_and_path(ino)?;
            let event = audit::Operation::SetXattr;
            self.allow(caller, ino, &node, needed(name), event, &path)?;
            if !node.meta.xattrs.contains_key(name) {
                return Err(VaultError::NoAttribute);
            }
            return self.recording(event, &path, || caller.who(), Err(admin_xattrs::never_removed(name)));
        }
        self.take_xattr(caller, ino, name)
    }

    /// As [`Vault::remove_xattr`], by a command of pinfold's own.
    pub(super) fn take_xattr(&self, caller: &impl Caller, ino: Ino, name: &str) -> Result<(), VaultError> {
        self.transact(|writer| self.take_xattr_in(writer, caller, ino, name))
    }

    fn take_xattr_in(&self, writer: &mut Writer, caller: &impl Caller, ino: Ino, name: &str) -> Result<(), VaultError> {
        let (node, path) = self.node_and_path(ino)?;
        let event = operation_of(name)?;
        self.recording(event, &path, || caller.who(), refuse_entry(&node))?;
        let grant = self.allow(caller, ino, &node, needed(name), event, &path)?;
        let mut next = (*node).clone();
        let was_there = match name {
            ACCESS => match next.meta.acl.take() {
                // As setfacl -b does it: nobody may more afterwards than before, the group neither.
                Some(acl) => {
                    next.meta.mode = next.meta.mode & 0o1000 | acl.mode_alone();
                    true
                }
                None => false,
            },
            DEFAULT => next.meta.default_acl.take().is_some(),
            _ => next.meta.xattrs.remove(name).is_some(),
        };
        if !was_there {
            // A list that is not there can be taken away, as on ext4: tar does it to each directory.
            return if matches!(name, ACCESS | DEFAULT) { Ok(()) } else { Err(VaultError::NoAttribute) };
        }
        next.meta.ctime = Timestamp::now();
        self.record(event, &path, None, &caller.who(), &format!("{}: removed {name}", grant.rule()))?;
        self.put_changed(writer, ino, &node, next)
    }
}

/// Sets a `user.*` attribute on a node that is being made, checked as if an admin had set it.
pub(super) fn set_checked(node: &mut Node, name: &str, value: &[u8]) -> Result<(), VaultError> {
    match operation_of(name)? {
        audit::Operation::SetXattr => set_user(node, name, value, XattrMode::Set),
        _ => Err(VaultError::UnknownAttribute),
    }
}

/// The node with an attribute set.
fn with_xattr(node: &Node, view: &View, name: &str, value: &[u8], mode: XattrMode) -> Result<Node, VaultError> {
    let mut next = node.clone();
    match name {
        ACCESS => set_access(&mut next, &view.kept_acl(Acl::parse(value)?)?),
        DEFAULT if node.kind != Kind::Directory => {
            return Err(VaultError::NotPermitted("only a directory has a default ACL"));
        }
        // An empty list, as setfacl -k writes, takes it away.
        DEFAULT if value.len() == 4 => next.meta.default_acl = None,
        DEFAULT => next.meta.default_acl = Some(view.kept_acl(Acl::parse(value)?)?),
        _ => set_user(&mut next, name, value, mode)?,
    }
    next.meta.ctime = Timestamp::now();
    Ok(next)
}

fn operation_of(name: &str) -> Result<audit::Operation, VaultError> {
    match name {
        ACCESS | DEFAULT => Ok(audit::Operation::SetAcl),
        _ if name.starts_with("user.") && name.len() > 5 && name.len() <= NAME_MAX => Ok(audit::Operation::SetXattr),
        _ => Err(VaultError::UnknownAttribute),
    }
}

fn needed(name: &str) -> Operation {
    if name.starts_with(CONDITION_PREFIX) { Operation::ChangeConditions } else { Operation::ChangeMeta }
}

/// The mode follows the list, and a list that says no more than the mode is not kept (acl(5)).
fn set_access(node: &mut Node, acl: &Acl) {
    node.meta.mode = node.meta.mode & 0o1000 | acl.mode();
    node.meta.acl = (!acl.is_minimal()).then(|| acl.clone());
}

/// Sets a `user.*` attribute to a value that was checked.
pub(super) fn set_user(node: &mut Node, name: &str, value: &[u8], mode: XattrMode) -> Result<(), VaultError> {
    match (mode, node.meta.xattrs.contains_key(name)) {
        (XattrMode::Create, true) => return Err(VaultError::Exists),
        (XattrMode::Replace, false) => return Err(VaultError::NoAttribute),
        (XattrMode::Create | XattrMode::Set, false) | (XattrMode::Replace | XattrMode::Set, true) => {}
    }
    if name.starts_with(CONDITION_PREFIX) {
        check_condition(node, name, value)?;
    }
    node.meta.xattrs.insert(name.to_owned(), value.to_vec());
    if node.meta.conditions().of_a_process() && node.meta.xattrs.contains_key(PUBLISH_XATTR) {
        // A key is read by whatever program has the uid: the condition would be none.
        return Err(VaultError::Invalid(format!(
            "{name}: a secret with {CONDITION_PREFIX}unit, exe or label cannot be published as a key"
        )));
    }
    let within = |count: usize, bytes: usize, own_only: bool| {
        let counted = || node.meta.xattrs.iter().filter(|(n, _)| !own_only || !n.starts_with(CONDITION_PREFIX));
        counted().count() <= count && counted().map(|(n, v)| n.len() + v.len()).sum::<usize>() <= bytes
    };
    if within(MAX_COUNT, MAX_BYTES, false) && within(MAX_COUNT - KEPT_COUNT, MAX_BYTES - KEPT_BYTES, true) {
        return Ok(());
    }
    Err(VaultError::NoSpace("64 attributes of 16 KiB in all, 8 of them and 4 KiB for user.pinfold.*"))
}

/// A condition that could never hold, or that this pinfold does not know, is refused when it is set: nobody should
/// believe in a restriction that is none.
fn check_condition(node: &Node, name: &str, value: &[u8]) -> Result<(), VaultError> {
    let invalid = |why: &str| VaultError::Invalid(format!("{name}: {why}"));
    if node.kind != Kind::File {
        return Err(invalid("conditions are for secrets, not for directories and links"));
    }
    if name == PUBLISH_XATTR {
        return parse_publications(value).map(|_| ()).map_err(|e| invalid(&e.to_string()));
    }
    let text = std::str::from_utf8(value).map_err(|_| invalid("not UTF-8"))?.trim();
    match name {
        "user.pinfold.unit" => {
            let whole = text.rsplit_once('.').is_some_and(|(stem, kind)| {
                !stem.is_empty() && ["service", "socket", "scope", "mount", "swap"].contains(&kind)
            });
            if whole && !text.contains('/') { Ok(()) } else { Err(invalid("a unit's full name, as in nginx.service")) }
        }
        "user.pinfold.exe" => {
            let path = std::path::Path::new(text);
            let plain = path.is_absolute() && !path.components().any(|c| c.as_os_str() == "..");
            if plain && !text.contains('\0') { Ok(()) } else { Err(invalid("an absolute path")) }
        }
        "user.pinfold.label" if Label::is_pattern(text) => Ok(()),
        "user.pinfold.label" => {
            Err(invalid("an AppArmor profile or an SELinux type, * for any text but not for all of it"))
        }
        EXPIRES_XATTR => humantime::parse_rfc3339_weak(text)
            .map(|_| ())
            .map_err(|_| invalid("a time in UTC, as in 2027-01-31T12:00:00Z")),
        super::ON_CHANGE if super::Action::parse(text).is_some() => Ok(()),
        super::ON_CHANGE => Err(invalid("reload: or restart: and a unit's full name, as in reload:nginx.service")),
        _ => Err(invalid("not a condition that this version knows")),
    }
}
