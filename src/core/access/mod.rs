//! The second judge: who may do what to which node.
//!
//! Owns [`decide`], a pure function of its arguments, and [`Grant`], the proof that it said yes, which only it can make.
//! It does no I/O but through the questions it asks of the [`Subject`]. The caller's capabilities count for nothing
//! here: uid 0 reads what uid 0 is granted.

mod posix;
mod way;

use crate::model::{Acl, Conditions, Doubt, FileId, Gid, Ino, Scope, Subject, Timestamp, Uid};
pub use posix::{Class, READ, SEARCH, WRITE};
use std::fmt;
pub use way::{Way, is_open_to, may_reach};

/// What somebody wants to do to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Open a secret's content. Nobody is exempt.
    Read,
    /// List a directory's entries. Nobody is exempt.
    List,
    /// Walk through a directory. Nobody is exempt.
    Search,
    /// Look at what its own mode does not protect: where a symlink leads, which attributes there are, an ACL. The way there
    /// is asked ([`may_reach`]).
    Look,
    /// See the value of a `user.*` attribute. Nobody is exempt.
    ReadAttribute,
    /// See the value of a `user.pinfold.*` attribute: as any other, or as an admin.
    ReadCondition,
    /// Show a password of the host to the admin who asks for it, whatever its mode: the vault bounds how often, and
    /// records each. Its conditions hold all the same.
    ShowPassword,
    /// Replace or change a secret's content. An admin may.
    Write,
    /// Write through a descriptor to which the mode does not speak: it made the file, or its opener himself changed the mode
    /// since (open(2), O_CREAT; `cp -p`). The owner may; others by the mode.
    WriteNew,
    /// Add, remove or rename an entry of this directory. An admin may.
    ChangeEntries,
    /// chmod, utimensat to a given time, setfacl, setting `user.*` attributes: owner or admin.
    ChangeMeta,
    /// utimensat to now: owner, admin, or who may write.
    Touch,
    /// chown: an admin, or the owner giving the file to a group of his own.
    ChangeOwner {
        /// The new owner, if that changes.
        uid: Option<Uid>,
        /// The new group, if that changes.
        gid: Option<Gid>,
    },
    /// Set or remove a `user.pinfold.*` attribute: an admin.
    ChangeConditions,
    /// Remove or replace this node in a sticky directory of that owner: owner of either, or an admin.
    RemoveFromSticky {
        /// Who owns the directory.
        directory: Uid,
    },
}

/// What the decision needs to know of a node. All ids are as the initial user namespace counts them: those of a container's
/// scope are put through the map of its instances first.
#[derive(Debug, Clone, Copy)]
pub struct Object<'a> {
    /// Which node.
    pub ino: Ino,
    /// Whom it is sealed to.
    pub scope: &'a Scope,
    /// Owner.
    pub uid: Uid,
    /// Group.
    pub gid: Gid,
    /// The nine permission bits.
    pub mode: u16,
    /// The access ACL, if there is more than the mode.
    pub acl: Option<&'a Acl>,
    /// What must hold besides.
    pub conditions: Conditions<'a>,
    /// What uid 0 inside the scope's instances is outside; uid 0 itself in the host's scope. `Uid(u32::MAX)`, which nobody
    /// has, where their map has no uid 0.
    pub root: Uid,
    /// Whether callers inside the scope's instances may change what is in it; means nothing in the host's scope.
    pub writable: bool,
}

/// What the scope's entry in the kernel keyring says at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ScopeState {
    /// It is there.
    Alive,
    /// The store is locked, or the entry was never made, was removed or spoiled.
    Missing,
    /// It was revoked.
    Revoked,
    /// Its time ran out.
    Expired,
}

/// What the decision needs to know of the world: the clock, and which file a path is.
pub trait World {
    /// The time.
    fn now(&self) -> Timestamp;
    /// The file at an absolute path, as the daemon sees it.
    ///
    /// # Errors
    /// [`Doubt`] if there is none or it may not be looked at.
    fn file_id(&self, path: &str) -> Result<FileId, Doubt>;
    /// The device (`st_dev`) of the mounted tree.
    ///
    /// # Errors
    /// [`Doubt`] if it is not mounted where it can be seen.
    fn tree(&self) -> Result<u64, Doubt> {
        Err(Doubt("the tree is not mounted".into()))
    }
}

/// Why yes: for the audit log and for `pinfold who`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rule {
    /// A class of the mode or an entry of the ACL.
    Posix(Class),
    /// He is an admin, and the operation shows no content.
    Admin,
    /// He is uid 0 inside an instance of the node's own scope, and the operation shows no content.
    ContainerRoot,
    /// It is the daemon's own work.
    Daemon,
    /// It was decided when the handle was opened, by the daemon before this one.
    Resumed,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rule::Posix(class) => class.fmt(f),
            Rule::Admin => f.write_str("admin"),
            Rule::ContainerRoot => f.write_str("root of the container"),
            Rule::Daemon => f.write_str("daemon"),
            Rule::Resumed => f.write_str("opened before the daemon was restarted"),
        }
    }
}

/// Why no.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denial {
    /// The mode, the ACL or the scope does not allow it.
    NotAllowed(Class),
    /// A directory on the way may not be searched.
    OutOfReach {
        /// Its path in the tree, without a leading slash.
        directory: String,
        /// Why not.
        why: Box<Denial>,
    },
    /// Only the owner or an admin may.
    NotOwner,
    /// Only an admin may.
    NotAdmin,
    /// The secret is a container's, and the caller is not in an attached instance of it.
    OutsideScope,
    /// The caller is inside, and the scope was declared without `--write`.
    ReadOnlyScope,
    /// The caller's unit is another one.
    Unit {
        /// The one it must be.
        wanted: String,
        /// The one it is, if any.
        found: Option<String>,
    },
    /// The caller runs another program.
    Exe {
        /// The one it must be.
        wanted: String,
    },
    /// The kernel gives the caller another label.
    Label {
        /// The one it must be, `*` for any text.
        wanted: String,
        /// The one it is, with its mode.
        found: String,
    },
    /// Something could not be found out.
    Doubt(Doubt),
    /// The scope's key is not there.
    NoKey,
    /// The scope's key was revoked.
    KeyRevoked,
    /// The scope's key, or the secret, has expired.
    KeyExpired,
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Denial::NotAllowed(class) => write!(f, "not allowed: {class}"),
            Denial::OutOfReach { directory, why } => write!(f, "the directory '/{directory}' on the way: {why}"),
            Denial::NotOwner => f.write_str("only the owner or an admin may"),
            Denial::NotAdmin => f.write_str("only an admin may"),
            Denial::OutsideScope => f.write_str("not inside an attached instance of the secret's container"),
            Denial::ReadOnlyScope => f.write_str("nothing can be changed inside a scope declared without --write"),
            Denial::Unit { wanted, found: Some(found) } => write!(f, "for unit {wanted}, caller is in {found}"),
            Denial::Unit { wanted, found: None } => write!(f, "for unit {wanted}, caller is in no system unit"),
            Denial::Exe { wanted } => write!(f, "for {wanted}, caller runs another program"),
            Denial::Label { wanted, found } => write!(f, "for label {wanted}, caller has {found}"),
            Denial::Doubt(doubt) => write!(f, "in doubt: {doubt}"),
            Denial::NoKey => f.write_str("the scope's key is not in the kernel keyring"),
            Denial::KeyRevoked => f.write_str("the scope's key was revoked"),
            Denial::KeyExpired => f.write_str("expired"),
        }
    }
}

impl From<Doubt> for Denial {
    fn from(doubt: Doubt) -> Self {
        Denial::Doubt(doubt)
    }
}

/// The proof that a caller may do an operation on a node. Made by [`decide`] alone; good for that node only.
#[derive(Debug)]
pub struct Grant {
    ino: Ino,
    operation: Operation,
    rule: Rule,
}

impl Grant {
    /// The node it is for.
    pub fn ino(&self) -> Ino {
        self.ino
    }

    /// What is allowed.
    pub fn operation(&self) -> Operation {
        self.operation
    }

    /// By which rule.
    pub fn rule(&self) -> Rule {
        self.rule
    }

    /// Whether content may be decrypted by it: to be shown (Read), or as the base of a change (Write).
    pub fn opens_content(&self) -> bool {
        matches!(self.operation, Operation::Read | Operation::ShowPassword | Operation::Write | Operation::WriteNew)
    }
}

/// Decides. First whether the caller may, then whether the secret and its scope's key are alive, so that somebody who
/// may not does not learn of the key.
///
/// # Errors
/// [`Denial`] says why not. Everything that cannot be found out is a denial.
pub fn decide<S: Subject + ?Sized>(
    subject: &S,
    object: &Object<'_>,
    scope: ScopeState,
    world: &impl World,
    operation: Operation,
) -> Result<Grant, Denial> {
    let rule = match (operation, object.scope) {
        (Operation::Read, _) => may_read(subject, object, world)?,
        (Operation::List | Operation::Search | Operation::Look | Operation::ReadAttribute, _) => {
            may_look(subject, object, operation)?
        }
        (Operation::ReadCondition, _) => admin_or(subject, || posix::check(subject, object, READ))?,
        (Operation::ShowPassword, scope) => {
            if *scope != Scope::Host {
                return Err(Denial::OutsideScope);
            }
            let rule = admin_or(subject, || Err(Denial::NotAdmin))?;
            must_meet(subject, &object.conditions, world)?;
            rule
        }
        (_, Scope::Host) => may_change(subject, object, operation)?,
        (_, Scope::Container(_)) => may_change_inside(subject, object, operation)?,
    };
    let grant = Grant { ino: object.ino, operation, rule };
    if !grant.opens_content() {
        return Ok(grant);
    }
    let shows = matches!(operation, Operation::Read | Operation::ShowPassword);
    if shows && expired(object.conditions.expires, world) {
        return Err(Denial::KeyExpired);
    }
    alive(scope).map(|()| grant)
}

/// Goes on with a read handle that the daemon before this one decided and recorded. Whose the handle is was decided
/// then; that secret and key are alive is decided now.
///
/// # Errors
/// [`Denial`] if they are not.
pub fn resume(ino: Ino, conditions: &Conditions<'_>, scope: ScopeState, world: &impl World) -> Result<Grant, Denial> {
    if expired(conditions.expires, world) {
        return Err(Denial::KeyExpired);
    }
    alive(scope)?;
    Ok(Grant { ino, operation: Operation::Read, rule: Rule::Resumed })
}

fn alive(scope: ScopeState) -> Result<(), Denial> {
    match scope {
        ScopeState::Alive => Ok(()),
        ScopeState::Missing => Err(Denial::NoKey),
        ScopeState::Revoked => Err(Denial::KeyRevoked),
        ScopeState::Expired => Err(Denial::KeyExpired),
    }
}

/// Whether the subject may walk through a directory, as the kernel asks of every directory on the way to a secret.
///
/// # Errors
/// [`Denial`] says why not.
pub fn may_search<S: Subject + ?Sized>(subject: &S, directory: &Object<'_>) -> Result<(), Denial> {
    posix::check(subject, directory, SEARCH).map(|_| ())
}

fn may_read<S: Subject + ?Sized>(subject: &S, object: &Object<'_>, world: &impl World) -> Result<Rule, Denial> {
    if subject.is_daemon() {
        return Ok(Rule::Daemon);
    }
    let rule = posix::check(subject, object, READ)?;
    if let Scope::Container(_) = object.scope {
        must_be_inside(subject, object.scope)?;
    }
    must_meet(subject, &object.conditions, world)?;
    Ok(rule)
}

/// What shows no content.
fn may_look<S: Subject + ?Sized>(subject: &S, object: &Object<'_>, operation: Operation) -> Result<Rule, Denial> {
    match operation {
        _ if subject.is_daemon() => Ok(Rule::Daemon),
        Operation::Search => posix::check(subject, object, SEARCH),
        // The way there is everybody's question; the node itself has none.
        Operation::Look => Ok(Rule::Posix(Class::Other)),
        _ => posix::check(subject, object, READ),
    }
}

/// Runs as the unit, the program and the label that the secret is for.
fn must_meet<S: Subject + ?Sized>(subject: &S, conditions: &Conditions<'_>, world: &impl World) -> Result<(), Denial> {
    if let Some(wanted) = conditions.unit {
        let found = subject.unit()?;
        if found.as_deref() != Some(wanted) {
            return Err(Denial::Unit { wanted: wanted.into(), found });
        }
    }
    if let Some(wanted) = conditions.exe
        && subject.exe()? != world.file_id(wanted)?
    {
        return Err(Denial::Exe { wanted: wanted.into() });
    }
    if let Some(wanted) = conditions.label {
        let found = subject.label()?;
        if !found.fits(wanted) {
            return Err(Denial::Label { wanted: wanted.into(), found: found.to_string() });
        }
    }
    Ok(())
}

/// Inside an attached instance of this scope.
fn must_be_inside<S: Subject + ?Sized>(subject: &S, scope: &Scope) -> Result<(), Denial> {
    match subject.instance()? {
        Some(instance) if instance.scope == *scope => Ok(()),
        Some(_) | None => Err(Denial::OutsideScope),
    }
}

/// Everything but reading, in the host's scope.
fn may_change<S: Subject + ?Sized>(subject: &S, object: &Object<'_>, operation: Operation) -> Result<Rule, Denial> {
    match operation {
        Operation::Write => admin_or(subject, || posix::check(subject, object, WRITE)),
        Operation::WriteNew if subject.uid() == object.uid => Ok(Rule::Posix(Class::Owner)),
        Operation::WriteNew => admin_or(subject, || posix::check(subject, object, WRITE)),
        Operation::ChangeEntries => admin_or(subject, || posix::check(subject, object, WRITE | SEARCH)),
        Operation::ChangeMeta => owner_or_admin(subject, object),
        Operation::Touch => owner_or_admin(subject, object).or_else(|_| posix::check(subject, object, WRITE)),
        Operation::ChangeOwner { uid, gid } => may_chown(subject, object, uid, gid),
        Operation::ChangeConditions => admin_or(subject, || Err(Denial::NotAdmin)),
        // Decided above; what shows something is no change.
        Operation::Read
        | Operation::List
        | Operation::Search
        | Operation::Look
        | Operation::ReadAttribute
        | Operation::ReadCondition
        | Operation::ShowPassword => Err(Denial::NotAdmin),
        Operation::RemoveFromSticky { directory } if subject.uid() == directory && directory != Uid::ROOT => {
            Ok(Rule::Posix(Class::Owner))
        }
        Operation::RemoveFromSticky { .. } => owner_or_admin(subject, object),
    }
}

/// Everything but reading, in a container's scope: an admin may; otherwise it takes a caller inside, a scope declared for
/// it, and what POSIX says of him there. Its root has a root's power over owners and modes, never over content.
fn may_change_inside<S: Subject + ?Sized>(
    subject: &S,
    object: &Object<'_>,
    operation: Operation,
) -> Result<Rule, Denial> {
    admin_or(subject, || {
        if operation == Operation::ChangeConditions {
            return Err(Denial::NotAdmin);
        }
        must_be_inside(subject, object.scope)?;
        if !object.writable {
            return Err(Denial::ReadOnlyScope);
        }
        let uid = subject.uid();
        let owner_or_root = |owns: bool| match (owns, uid == object.root) {
            (true, _) => Ok(Rule::Posix(Class::Owner)),
            (false, true) => Ok(Rule::ContainerRoot),
            (false, false) => Err(Denial::NotOwner),
        };
        let owns = uid == object.uid;
        match operation {
            Operation::Write => posix::check(subject, object, WRITE),
            Operation::ChangeEntries => posix::check(subject, object, WRITE | SEARCH),
            Operation::WriteNew if owns => Ok(Rule::Posix(Class::Owner)),
            Operation::WriteNew => posix::check(subject, object, WRITE),
            Operation::ChangeMeta => owner_or_root(owns),
            Operation::Touch => owner_or_root(owns).or_else(|_| posix::check(subject, object, WRITE)),
            Operation::ChangeOwner { .. } if uid == object.root => Ok(Rule::ContainerRoot),
            Operation::ChangeOwner { uid, gid } => owner_gives(subject, object, uid, gid),
            Operation::RemoveFromSticky { directory } => owner_or_root(owns || uid == directory),
            Operation::ChangeConditions
            | Operation::Read
            | Operation::List
            | Operation::Search
            | Operation::Look
            | Operation::ReadAttribute
            | Operation::ReadCondition
            | Operation::ShowPassword => Err(Denial::NotAdmin),
        }
    })
}

fn may_chown<S: Subject + ?Sized>(
    subject: &S,
    object: &Object<'_>,
    uid: Option<Uid>,
    gid: Option<Gid>,
) -> Result<Rule, Denial> {
    // uid 0 of some namespace is not the owner of what root owns.
    admin_or(subject, || match subject.uid() {
        Uid::ROOT => Err(Denial::NotAdmin),
        _ => owner_gives(subject, object, uid, gid),
    })
}

/// The owner may give it to a group of his own.
fn owner_gives<S: Subject + ?Sized>(
    subject: &S,
    object: &Object<'_>,
    uid: Option<Uid>,
    gid: Option<Gid>,
) -> Result<Rule, Denial> {
    let keeps_owner = uid.is_none_or(|u| u == object.uid);
    if subject.uid() != object.uid || !keeps_owner {
        return Err(Denial::NotAdmin);
    }
    match gid {
        Some(gid) if gid != object.gid && !subject.in_group(gid)? => Err(Denial::NotAdmin),
        Some(_) | None => Ok(Rule::Posix(Class::Owner)),
    }
}

fn owner_or_admin<S: Subject + ?Sized>(subject: &S, object: &Object<'_>) -> Result<Rule, Denial> {
    if subject.uid() == object.uid && subject.uid() != Uid::ROOT {
        return Ok(Rule::Posix(Class::Owner));
    }
    admin_or(subject, || Err(Denial::NotOwner))
}

/// An admin may; others by the rule. Only uid 0, the daemon and the control socket's admins can be one, so nobody else
/// costs a look into /proc.
fn admin_or<S: Subject + ?Sized>(subject: &S, rule: impl FnOnce() -> Result<Rule, Denial>) -> Result<Rule, Denial> {
    if subject.is_daemon() {
        return Ok(Rule::Daemon);
    }
    if subject.is_admin()? { Ok(Rule::Admin) } else { rule() }
}

/// Whether what is good until then is good no more. A time that does not parse has passed: doubt denies.
pub fn expired(expires: Option<&str>, world: &impl World) -> bool {
    expires.is_some_and(|text| match humantime::parse_rfc3339_weak(text) {
        Ok(at) => Timestamp::from(at) <= world.now(),
        Err(_) => true,
    })
}
