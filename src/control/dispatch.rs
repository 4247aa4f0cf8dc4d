//! From a method's name to the core, and back.
//!
//! Owns the one list of what can be called. Before anything of a request is read but its method, it asks whether the caller has
//! the right that the table of the interface names; what has no row there is no method.

use super::gate::Gate;
use super::log;
use super::session::{Replies, Standing};
use crate::model::SecretPath;
use crate::secret::Secret;
use crate::wire::Condition;
use crate::wire::{Accounts, Consoles, GetAccounts, GetConsoles, Import, Join, Leave, NoteAccount};
use crate::wire::{
    Actor, Admin, Attach, Attached, Backup, BackupPart, Call, CallError, Committed, Detach, Done, Entry, Escrowed,
    Extract, Extracted, Fault, Fsck, FsckReport, GetHistory, GetStatus, History, InstanceListing, Instances, List,
    Listing, Lock, LogAnchor, LogHead, LogRead, LogRotate, LogVerify, Method, Problem, Put, Recipients, RecoveryAdd,
    RecoveryEscrow, RecoveryList, RecoveryRemove, Remove, Resealed, Reveal, Revealed, Rollback, ScopeAdd, ScopeList,
    ScopeListing, ScopeRemove, Unlock, UnlockWith, Who, service,
};
use crate::wire::{
    Export, ExportPreview, ExportSign, GetHosts, HostListing, Previews, SignerInit, SignerList, SignerRevoke,
    SignerRotate,
};
use crate::wire::{
    GetPublished, HeldKeys, KeyRequest, KeyringList, Publications, Publish, Published, RequestedKey, Unpublish,
    Unpublished,
};
use crate::wire::{Identities, IdentityAdd, IdentityList, IdentityRemove, Rekey};
use crate::wire::{
    PasswordList, PasswordListing, PasswordPut, PasswordRemove, PasswordShow, RotationBegin, RotationEnd, RotationMark,
    RotationOpen,
};
use crate::wire::{Prove, right_of};
use crate::wire::{ViewAdd, ViewList, ViewListing, ViewRemove};
use std::io::{self, Write};

/// Entries in one part of a listing.
const ENTRIES_AT_ONCE: usize = 500;
/// Bytes of paths in one part of a listing, about.
const PATHS_AT_ONCE: usize = 32 << 10;
/// Problems told in one report.
const PROBLEMS_MAX: usize = 1000;
/// The longest name of a way to unlock.
const METHOD_MAX: usize = 64;
/// Bytes of a backup in one part; a multiple of three.
const BACKUP_PART: usize = 192 << 10;

/// Why a request was not answered with a reply.
pub enum Stop {
    /// It gets this error.
    Answer(CallError),
    /// Nothing can be said to the other side any more.
    Connection(io::Error),
}

impl From<CallError> for Stop {
    fn from(error: CallError) -> Self {
        Stop::Answer(error)
    }
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Stop::Answer(fault.into())
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Stop::Connection(error)
    }
}

/// Serves one call, if the caller has the right to it.
pub fn answer(
    admin: &dyn Admin,
    actor: &Actor,
    call: &Call<'_>,
    gate: &Gate,
    standing: &mut Standing,
    out: &mut Replies<'_>,
) -> Result<(), Stop> {
    match right_of(&call.method) {
        Some(right) => admin.permit(actor, right, &call.method)?,
        // What every Varlink service answers.
        None if call.method.starts_with("org.varlink.service.") => admin.enter(actor)?,
        None => return Err(call.unknown().into()),
    }
    match call.method.as_ref() {
        "org.varlink.service.GetInfo" => out.plain(&service::Info::ours(), false)?,
        "org.varlink.service.GetInterfaceDescription" => {
            let asked: service::GetInterfaceDescription = call.parameters()?;
            match asked.answer() {
                Some(description) => out.plain(&description, false)?,
                None => return Err(CallError::InterfaceNotFound(asked.interface.chars().take(128).collect()).into()),
            }
        }
        GetStatus::NAME => one::<GetStatus>(call, out, |GetStatus {}| admin.status(actor))?,
        Prove::NAME => one::<Prove>(call, out, |Prove { passphrase, identity, recovery }| {
            admin.prove(actor, with(passphrase, identity, recovery)?)?;
            standing.proven = true;
            Ok(Done {})
        })?,
        Unlock::NAME => one::<Unlock>(call, out, |Unlock { passphrase, identity, recovery, method }| {
            let method = method.map(named).transpose()?;
            admin.unlock(actor, with(passphrase, identity, recovery)?, method.as_deref()).map(|()| Done {})
        })?,
        Lock::NAME => one::<Lock>(call, out, |Lock {}| admin.lock(actor).map(|()| Done {}))?,
        List::NAME => listing(admin.list(actor, call.parameters()?)?, call.more, out)?,
        Put::NAME => one::<Put>(call, out, |put| {
            writable(&put.path)?;
            if put.mode.is_some_and(|m| m > 0o777) {
                return Err(Fault::Usage("a mode is 0777 at most".into()));
            }
            admin.put(actor, put).map(|version| Committed { version })
        })?,
        Reveal::NAME => {
            let content = admin.reveal(actor, call.parameters()?)?;
            out.secret(&Revealed { content })?;
        }
        Remove::NAME => one::<Remove>(call, out, |remove| {
            writable(&remove.path)?;
            admin.remove(actor, remove)
        })?,
        GetHistory::NAME => one::<GetHistory>(call, out, |GetHistory { path }| {
            admin.history(actor, path).map(|versions| History { versions })
        })?,
        Rollback::NAME => {
            one::<Rollback>(call, out, |r| admin.rollback(actor, r).map(|version| Committed { version }))?
        }
        Who::NAME => one::<Who>(call, out, |who| admin.who(actor, who))?,
        LogHead::NAME => one::<LogHead>(call, out, |LogHead {}| admin.log_head(actor))?,
        LogAnchor::NAME => one::<LogAnchor>(call, out, |LogAnchor {}| admin.log_anchor(actor))?,
        LogRotate::NAME => one::<LogRotate>(call, out, |LogRotate {}| admin.log_rotate(actor))?,
        RecoveryAdd::NAME => one::<RecoveryAdd>(call, out, |RecoveryAdd { recipient, only }| {
            admin.recovery_add(actor, &recipient, only).map(|blobs| Resealed { blobs })
        })?,
        RecoveryRemove::NAME => one::<RecoveryRemove>(call, out, |RecoveryRemove { recipient }| {
            admin.recovery_remove(actor, &recipient).map(|blobs| Resealed { blobs })
        })?,
        RecoveryList::NAME => one::<RecoveryList>(call, out, |RecoveryList {}| {
            admin.recovery_list(actor).map(|recipients| Recipients { recipients })
        })?,
        RecoveryEscrow::NAME => one::<RecoveryEscrow>(call, out, |RecoveryEscrow {}| {
            admin.recovery_escrow(actor).map(|escrow| Escrowed { escrow })
        })?,
        Fsck::NAME => one::<Fsck>(call, out, |fsck| admin.fsck(actor, fsck).map(shortened))?,
        Extract::NAME => {
            one::<Extract>(call, out, |extract| admin.extract(actor, extract).map(|blob| Extracted { blob }))?;
        }
        Backup::NAME => {
            let Backup {} = call.parameters()?;
            if !call.more {
                return Err(CallError::ExpectedMore.into());
            }
            backup(admin, actor, out)?;
        }
        ScopeAdd::NAME => one::<ScopeAdd>(call, out, |add| admin.scope_add(actor, add).map(|()| Done {}))?,
        ScopeList::NAME => {
            one::<ScopeList>(call, out, |ScopeList {}| admin.scope_list(actor).map(|scopes| ScopeListing { scopes }))?
        }
        ScopeRemove::NAME => one::<ScopeRemove>(call, out, |remove| admin.scope_remove(actor, remove))?,
        Attach::NAME => one::<Attach>(call, out, |attach| admin.attach(actor, attach).map(|id| Attached { id }))?,
        Detach::NAME => one::<Detach>(call, out, |Detach { id }| admin.detach(actor, &id).map(|()| Done {}))?,
        Instances::NAME => one::<Instances>(call, out, |Instances {}| {
            admin.instances(actor).map(|instances| InstanceListing { instances })
        })?,
        Publish::NAME => one::<Publish>(call, out, |p| admin.publish(actor, p).map(|keys| Published { keys }))?,
        Unpublish::NAME => {
            one::<Unpublish>(call, out, |u| admin.unpublish(actor, u).map(|removed| Unpublished { removed }))?;
        }
        GetPublished::NAME => one::<GetPublished>(call, out, |GetPublished {}| {
            admin.published(actor).map(|publications| Publications { publications })
        })?,
        KeyRequest::NAME => {
            let (content, timeout) = admin.key_request(actor, call.parameters()?)?;
            out.secret(&RequestedKey { content, timeout })?;
        }
        KeyringList::NAME => {
            one::<KeyringList>(call, out, |KeyringList {}| admin.keyring_list(actor).map(|keys| HeldKeys { keys }))?;
        }
        IdentityAdd::NAME => one::<IdentityAdd>(call, out, |add| admin.identity_add(actor, add).map(|()| Done {}))?,
        IdentityRemove::NAME => one::<IdentityRemove>(call, out, |IdentityRemove { name }| {
            admin.identity_remove(actor, &name).map(|()| Done {})
        })?,
        IdentityList::NAME => one::<IdentityList>(call, out, |IdentityList {}| {
            admin.identity_list(actor).map(|protectors| Identities { protectors })
        })?,
        Rekey::NAME => one::<Rekey>(call, out, |rekey| admin.rekey(actor, rekey))?,
        Export::NAME => one::<Export>(call, out, |export| admin.export(actor, export))?,
        ExportPreview::NAME => {
            let previews = admin.export_preview(actor, call.parameters()?)?;
            parts(previews, call.more, out, |hosts| Previews { hosts })?;
        }
        ExportSign::NAME => one::<ExportSign>(call, out, |sign| admin.export_sign(actor, sign))?,
        GetHosts::NAME => {
            let GetHosts {} = call.parameters()?;
            parts(admin.hosts(actor)?, call.more, out, |hosts| HostListing { hosts })?;
        }
        SignerList::NAME => one::<SignerList>(call, out, |SignerList {}| admin.signers(actor))?,
        SignerInit::NAME => one::<SignerInit>(call, out, |init| admin.signer_init(actor, init))?,
        SignerRotate::NAME => one::<SignerRotate>(call, out, |rotate| admin.signer_rotate(actor, rotate))?,
        SignerRevoke::NAME => one::<SignerRevoke>(call, out, |revoke| admin.signer_revoke(actor, revoke))?,
        Join::NAME => one::<Join>(call, out, |join| admin.join(actor, join))?,
        GetConsoles::NAME => {
            one::<GetConsoles>(call, out, |GetConsoles {}| admin.consoles(actor).map(|consoles| Consoles { consoles }))?
        }
        Leave::NAME => one::<Leave>(call, out, |leave| admin.leave(actor, leave))?,
        Import::NAME => one::<Import>(call, out, |import| admin.import(actor, import))?,
        GetAccounts::NAME => {
            one::<GetAccounts>(call, out, |GetAccounts {}| admin.accounts(actor).map(|accounts| Accounts { accounts }))?
        }
        NoteAccount::NAME => {
            one::<NoteAccount>(call, out, |note| admin.note_account(actor, note).map(|()| Done {}))?;
        }
        PasswordList::NAME => one::<PasswordList>(call, out, |list| {
            admin.password_list(actor, list).map(|passwords| PasswordListing { passwords })
        })?,
        PasswordPut::NAME => {
            one::<PasswordPut>(call, out, |put| admin.password_put(actor, put).map(|version| Committed { version }))?
        }
        PasswordShow::NAME => {
            let shown = admin.password_show(actor, call.parameters()?)?;
            out.secret(&shown)?;
        }
        PasswordRemove::NAME => one::<PasswordRemove>(call, out, |remove| admin.password_remove(actor, remove))?,
        RotationBegin::NAME => {
            one::<RotationBegin>(call, out, |begin| admin.rotation_begin(actor, begin).map(|()| Done {}))?;
        }
        RotationOpen::NAME => {
            let opened = admin.rotation_open(actor, call.parameters()?)?;
            out.secret(&opened)?;
        }
        RotationMark::NAME => {
            one::<RotationMark>(call, out, |mark| admin.rotation_mark(actor, mark).map(|()| Done {}))?
        }
        RotationEnd::NAME => one::<RotationEnd>(call, out, |end| admin.rotation_end(actor, end).map(|()| Done {}))?,
        ViewAdd::NAME => one::<ViewAdd>(call, out, |add| {
            writable(&add.path)?;
            if add.mode.is_some_and(|m| m > 0o777) {
                return Err(Fault::Usage("a mode is 0777 at most".into()));
            }
            admin.view_add(actor, add)
        })?,
        ViewList::NAME => {
            one::<ViewList>(call, out, |ViewList {}| admin.view_list(actor).map(|views| ViewListing { views }))?;
        }
        ViewRemove::NAME => one::<ViewRemove>(call, out, |ViewRemove { path }| {
            writable(&path)?;
            admin.view_remove(actor, path).map(|()| Done {})
        })?,
        Condition::NAME => one::<Condition>(call, out, |asked| {
            writable(&asked.path)?;
            admin.condition(actor, asked)
        })?,
        LogRead::NAME => log::read(admin, actor, call, gate, out)?,
        LogVerify::NAME => log::verify(admin, actor, call, gate, out)?,
        _ => return super::certs::answer(admin, actor, call, out).unwrap_or_else(|| Err(call.unknown().into())),
    }
    Ok(())
}

/// A method with one reply that holds no secret.
pub(super) fn one<M: Method>(
    call: &Call<'_>,
    out: &mut Replies<'_>,
    serve: impl FnOnce(M) -> Result<M::Reply, Fault>,
) -> Result<(), Stop> {
    let reply = serve(call.parameters()?)?;
    Ok(out.plain(&reply, false)?)
}

/// What opens the store.
fn with(passphrase: Option<Secret>, identity: Option<Secret>, recovery: Option<Secret>) -> Result<UnlockWith, Fault> {
    match (passphrase, identity, recovery) {
        (Some(p), None, None) => Ok(UnlockWith::Passphrase(p)),
        (None, Some(i), None) => Ok(UnlockWith::Identity(i)),
        (None, None, Some(r)) => Ok(UnlockWith::Recovery(r)),
        _ => Err(Fault::Usage("give exactly one of passphrase, identity and recovery".into())),
    }
}

/// A word for the log.
fn named(method: String) -> Result<String, Fault> {
    let plain = method.chars().all(|c| !c.is_control()) && (1..=METHOD_MAX).contains(&method.len());
    if plain { Ok(method) } else { Err(Fault::Usage(format!("a method's name has 1 to {METHOD_MAX} bytes of text"))) }
}

/// The root is there always.
fn writable(path: &SecretPath) -> Result<(), Fault> {
    if path.is_root() { Err(Fault::Usage("the path is the root of the tree".into())) } else { Ok(()) }
}

fn shortened(mut report: FsckReport) -> FsckReport {
    let all = report.problems.len();
    if all > PROBLEMS_MAX {
        report.problems.truncate(PROBLEMS_MAX - 1);
        let left = all - report.problems.len();
        report.problems.push(Problem { what: "store".into(), problem: format!("and {left} problems more") });
    }
    report
}

/// In parts if the caller takes parts.
fn listing(entries: Vec<Entry>, more: bool, out: &mut Replies<'_>) -> Result<(), Stop> {
    let mut part = Listing::default();
    let mut paths = 0;
    for entry in entries {
        if more && (part.entries.len() >= ENTRIES_AT_ONCE || paths >= PATHS_AT_ONCE) {
            out.plain(&part, true)?;
            part.entries.clear();
            paths = 0;
        }
        paths += entry.path.names().iter().map(|n| n.as_str().len() + 1).sum::<usize>();
        paths += entry.target.as_ref().map_or(0, String::len);
        part.entries.push(entry);
    }
    Ok(out.plain(&part, false)?)
}

/// One part for each, if the caller takes parts: how long one is, only the tree bounds.
fn parts<T, R: serde::Serialize>(
    all: Vec<T>,
    more: bool,
    out: &mut Replies<'_>,
    reply: impl Fn(Vec<T>) -> R,
) -> Result<(), Stop> {
    if !more {
        return Ok(out.plain(&reply(all), false)?);
    }
    for one in all {
        out.plain(&reply(vec![one]), true)?;
    }
    Ok(out.plain(&reply(Vec::new()), false)?)
}

fn backup(admin: &dyn Admin, actor: &Actor, out: &mut Replies<'_>) -> Result<(), Stop> {
    let mut parts = Parts { out, part: BackupPart::default(), broken: None };
    let report = admin.backup(actor, &mut parts);
    let flushed = parts.send();
    if let Some(error) = parts.broken.take() {
        return Err(Stop::Connection(error));
    }
    let report = report?;
    flushed?;
    Ok(out.plain(&BackupPart { data: Vec::new(), report: Some(report) }, false)?)
}

/// A backup on its way out.
struct Parts<'o, 's> {
    out: &'o mut Replies<'s>,
    part: BackupPart,
    /// Why the connection is of no use any more; whatever the core makes of it.
    broken: Option<io::Error>,
}

impl Parts<'_, '_> {
    fn send(&mut self) -> io::Result<()> {
        if self.broken.is_some() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if self.part.data.is_empty() {
            return Ok(());
        }
        let sent = self.out.plain(&self.part, true);
        self.part.data.clear();
        sent.map_err(|error| {
            let kind = error.kind();
            self.broken = Some(error);
            kind.into()
        })
    }
}

impl Write for Parts<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.part.data.len() >= BACKUP_PART {
            self.send()?;
        }
        let taken = bytes.len().min(BACKUP_PART - self.part.data.len());
        self.part.data.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
