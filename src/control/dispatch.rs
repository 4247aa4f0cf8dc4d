//! From a method's name to the core, and back.
//!
//! Owns the ways in which a method is answered; which method is answered how, the table of the interface says. Before anything of a request is read but its method, it asks whether the caller has
//! the right that the table of the interface names; what has no row there is no method.

use super::gate::Gate;
use super::session::{Replies, Standing};
use crate::wire::{
    Actor, Admin, Backup, BackupPart, Call, CallError, CertListing, Done, Fault, HostListing, Listing, Method,
    Previews, Prove, Serve, UnlockWith, right_of, service,
};
use std::io::{self, Write};

/// Entries in one part of a listing.
const ENTRIES_AT_ONCE: usize = 500;
/// Bytes of paths in one part of a listing, about.
const PATHS_AT_ONCE: usize = 32 << 10;
/// Certificates in one part of a listing: each may have a chain with it.
const CERTIFICATES_AT_ONCE: usize = 20;
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

/// What requests go to: who is let in, and [`Serve`] for each method that it has.
pub trait Core: Admin {
    /// Answers a call; `None` if it has no such method.
    fn answer(&self, actor: &Actor, call: &Call<'_>, with: &mut Conversation<'_, '_>) -> Option<Result<(), Stop>>;
}

/// What a call is answered in.
pub struct Conversation<'a, 's> {
    pub(super) gate: &'a Gate,
    pub(super) standing: &'a mut Standing,
    pub(super) out: &'a mut Replies<'s>,
}

/// Makes a type a [`Core`], of the methods that are named, each after how it is answered. It has [`Serve`] for each, but for those that are answered in
/// a way of their own ([`InOwnWay`]).
#[macro_export]
macro_rules! serves {
    ($core:ty: $($answer:ident $method:ty),* $(,)?) => {
        impl $crate::control::Core for $core {
            fn answer(
                &self,
                actor: &$crate::wire::Actor,
                call: &$crate::wire::Call<'_>,
                with: &mut $crate::control::Conversation<'_, '_>,
            ) -> Option<Result<(), $crate::control::Stop>> {
                $(if call.method == <$method as $crate::wire::Method>::NAME {
                    return $crate::control::answers::$answer::<$method>(self, actor, call, with);
                })*
                None
            }
        }
    };
}

/// Serves one call, if the caller has the right to it.
pub fn answer(core: &dyn Core, actor: &Actor, call: &Call<'_>, with: &mut Conversation<'_, '_>) -> Result<(), Stop> {
    match right_of(&call.method) {
        Some(right) => core.permit(actor, right, &call.method)?,
        // What every Varlink service answers.
        None if call.method.starts_with("org.varlink.service.") => core.enter(actor)?,
        None => return Err(call.unknown().into()),
    }
    match call.method.as_ref() {
        "org.varlink.service.GetInfo" => with.out.plain(&service::Info::ours(), false)?,
        "org.varlink.service.GetInterfaceDescription" => {
            let asked: service::GetInterfaceDescription = call.parameters()?;
            match asked.answer() {
                Some(description) => with.out.plain(&description, false)?,
                None => return Err(CallError::InterfaceNotFound(asked.interface.chars().take(128).collect()).into()),
            }
        }
        other if other.starts_with("org.varlink.service.") => return Err(call.unknown().into()),
        _ => return core.answer(actor, call, with).unwrap_or_else(|| Err(Fault::not_here().into())),
    }
    Ok(())
}

/// A method that is answered in a way of its own: in a stream, or by what it does to the connection.
pub trait InOwnWay: Method {
    /// Answers a call of it.
    ///
    /// # Errors
    /// Why there is no reply.
    fn answer(core: &dyn Core, actor: &Actor, call: &Call<'_>, with: &mut Conversation<'_, '_>) -> Result<(), Stop>;
}

impl InOwnWay for Prove {
    fn answer(core: &dyn Core, actor: &Actor, call: &Call<'_>, with: &mut Conversation<'_, '_>) -> Result<(), Stop> {
        let Prove { passphrase, identity, recovery } = call.parameters()?;
        core.prove(actor, UnlockWith::one_of(passphrase, identity, recovery)?)?;
        with.standing.proven = true;
        Ok(with.out.plain(&Done {}, false)?)
    }
}

impl InOwnWay for Backup {
    fn answer(core: &dyn Core, actor: &Actor, call: &Call<'_>, with: &mut Conversation<'_, '_>) -> Result<(), Stop> {
        let Backup {} = call.parameters()?;
        if !call.more {
            return Err(CallError::ExpectedMore.into());
        }
        backup(core, actor, with.out)
    }
}

/// The ways in which a method is answered, as the table of the interface names them.
pub mod answers {
    use super::*;

    /// With one reply that holds no secret.
    pub fn one<M: Method>(
        core: &impl Serve<M>,
        actor: &Actor,
        call: &Call<'_>,
        with: &mut Conversation<'_, '_>,
    ) -> Option<Result<(), Stop>> {
        Some(served(core, actor, call).and_then(|reply| Ok(with.out.plain(&reply, false)?)))
    }

    /// With one that does.
    pub fn secret<M: Method>(
        core: &impl Serve<M>,
        actor: &Actor,
        call: &Call<'_>,
        with: &mut Conversation<'_, '_>,
    ) -> Option<Result<(), Stop>> {
        Some(served(core, actor, call).and_then(|reply| Ok(with.out.secret(&reply)?)))
    }

    /// In parts, if the caller takes parts.
    pub fn parts<M: Method>(
        core: &impl Serve<M>,
        actor: &Actor,
        call: &Call<'_>,
        with: &mut Conversation<'_, '_>,
    ) -> Option<Result<(), Stop>>
    where
        M::Reply: InParts,
    {
        Some(served(core, actor, call).and_then(|reply| {
            let last = if call.more { reply.all_but_the_last(&mut |part| with.out.plain(part, true))? } else { reply };
            Ok(with.out.plain(&last, false)?)
        }))
    }

    /// In a way of its own.
    pub fn stream<M: InOwnWay>(
        core: &impl Core,
        actor: &Actor,
        call: &Call<'_>,
        with: &mut Conversation<'_, '_>,
    ) -> Option<Result<(), Stop>> {
        Some(M::answer(core, actor, call, with))
    }

    fn served<M: Method>(core: &impl Serve<M>, actor: &Actor, call: &Call<'_>) -> Result<M::Reply, Stop> {
        Ok(core.serve(actor, call.parameters()?)?)
    }
}

/// A reply that only the tree bounds.
pub trait InParts: Sized {
    /// Hands its parts out; what is left is the last.
    ///
    /// # Errors
    /// That of `send`.
    fn all_but_the_last(self, send: &mut dyn FnMut(&Self) -> io::Result<()>) -> io::Result<Self>;
}

impl InParts for Listing {
    fn all_but_the_last(self, send: &mut dyn FnMut(&Self) -> io::Result<()>) -> io::Result<Self> {
        let mut part = Listing::default();
        let mut paths = 0;
        for entry in self.entries {
            if part.entries.len() >= ENTRIES_AT_ONCE || paths >= PATHS_AT_ONCE {
                send(&part)?;
                part.entries.clear();
                paths = 0;
            }
            paths += entry.path.names().iter().map(|n| n.as_str().len() + 1).sum::<usize>();
            paths += entry.target.as_ref().map_or(0, String::len);
            part.entries.push(entry);
        }
        Ok(part)
    }
}

impl InParts for Previews {
    fn all_but_the_last(self, send: &mut dyn FnMut(&Self) -> io::Result<()>) -> io::Result<Self> {
        self.hosts.into_iter().try_for_each(|host| send(&Previews { hosts: vec![host] }))?;
        Ok(Previews { hosts: Vec::new() })
    }
}

impl InParts for HostListing {
    fn all_but_the_last(self, send: &mut dyn FnMut(&Self) -> io::Result<()>) -> io::Result<Self> {
        self.hosts.into_iter().try_for_each(|host| send(&HostListing { hosts: vec![host] }))?;
        Ok(HostListing { hosts: Vec::new() })
    }
}

impl InParts for CertListing {
    fn all_but_the_last(mut self, send: &mut dyn FnMut(&Self) -> io::Result<()>) -> io::Result<Self> {
        while self.certificates.len() > CERTIFICATES_AT_ONCE {
            let rest = self.certificates.split_off(CERTIFICATES_AT_ONCE);
            send(&CertListing { certificates: self.certificates, unread: Vec::new() })?;
            self.certificates = rest;
        }
        Ok(self)
    }
}

fn backup(core: &dyn Core, actor: &Actor, out: &mut Replies<'_>) -> Result<(), Stop> {
    let mut parts = Parts { out, part: BackupPart::default(), broken: None };
    let report = core.backup(actor, &mut parts);
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
