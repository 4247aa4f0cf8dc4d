//! The control socket: who may speak to the daemon, and the conversation.
//!
//! Owns the listener, its bounds and its threads. Each connection has a thread of its own, so a slow, silent or lying
//! client harms itself alone. It decides nothing about secrets: every request goes to a [`Core`].

pub mod client;
mod dispatch;
mod gate;
mod listen;
mod log;
mod methods;
mod peer;
mod session;

pub use dispatch::{Conversation, Core, InOwnWay, InParts, Stop, answers};
pub use peer::Peer;
pub use session::Replies;

use crate::config::{Config, ConfigError};
use crate::lock::Mutex;
use crate::meter::{Meter, Resource};
use crate::wire::{CallError, Fault, limit_for, write_error};
use gate::Gate;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use session::Session;
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use thiserror::Error;

/// Why there is no control socket.
#[derive(Debug, Error)]
pub enum ControlError {
    /// Somebody listens there already.
    #[error("another daemon listens on {}", .0.display())]
    InUse(PathBuf),
    /// Something else than a socket is there, or its folder is not safe.
    #[error("{}: {reason}", path.display())]
    Unsafe {
        /// The path.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// `operator_group` names nobody.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

/// How many bytes of locked memory the socket may need at worst, to be added to what the filesystem needs: large frames
/// are taken one after the other beyond their bound.
pub fn locked_bytes(config: &Config) -> usize {
    let frame = limit_for(config.max_secret_size).next_power_of_two();
    let meter = Meter::new(&config.limits, 0, config.max_secrets);
    let all = |resource| usize::try_from(meter.bounds(resource).all).unwrap_or(usize::MAX);
    let large = all(Resource::ControlLarge).saturating_mul(3 * frame);
    large.saturating_add(all(Resource::Control).saturating_mul(4 * crate::wire::LARGE_FRAME.next_power_of_two()))
}

type PeerOf = dyn Fn(&UnixStream) -> io::Result<Peer> + Send + Sync;

/// The listening socket and its threads.
pub struct Server {
    listener: Option<UnixListener>,
    place: listen::SocketFile,
    shared: Arc<Shared>,
    wake: UnixStream,
    woken: Option<UnixStream>,
    accepting: Option<JoinHandle<()>>,
}

struct Shared {
    core: Arc<dyn Core>,
    operator_gid: Option<u32>,
    peer_of: Box<PeerOf>,
    gate: Arc<Gate>,
    limit: usize,
    stopping: AtomicBool,
    /// Connections by number, to be shut down at the end. Lock order: after none, before none.
    open: Mutex<HashMap<u64, Arc<UnixStream>>>,
}

impl Server {
    /// Makes the socket: 0600 of root, or 0660 of `operator_group`; a dead daemon's socket is replaced.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn bind(config: &Config, core: Arc<dyn Core>) -> Result<Self, ControlError> {
        Self::bind_with(config, core, Box::new(Peer::of))
    }

    /// As [`Server::bind`], with the bounds that all share. `kept` is what the daemon before this one listened on, if there was one: who connected
    /// meanwhile is answered.
    ///
    /// # Errors
    /// As [`Server::bind`].
    pub fn resume(
        config: &Config,
        core: Arc<dyn Core>,
        kept: Option<UnixListener>,
        meter: Arc<Meter>,
    ) -> Result<Self, ControlError> {
        Self::make(config, core, kept, meter, Box::new(Peer::of))
    }

    /// As [`Server::bind`], with another way to learn who connects.
    ///
    /// # Errors
    /// As [`Server::bind`].
    pub fn bind_with(config: &Config, core: Arc<dyn Core>, peer_of: Box<PeerOf>) -> Result<Self, ControlError> {
        Self::make(config, core, None, Meter::new(&config.limits, 0, config.max_secrets), peer_of)
    }

    fn make(
        config: &Config,
        core: Arc<dyn Core>,
        kept: Option<UnixListener>,
        meter: Arc<Meter>,
        peer_of: Box<PeerOf>,
    ) -> Result<Self, ControlError> {
        let operator_gid = config.operator_gid()?;
        let (wake, woken) =
            UnixStream::pair().map_err(|source| ControlError::Io { path: config.control.clone(), source })?;
        let (listener, place) = match kept.and_then(|kept| listen::adopt(&config.control, kept)) {
            Some(adopted) => adopted,
            None => listen::listen(&config.control, operator_gid)?,
        };
        let shared = Arc::new(Shared {
            core,
            operator_gid,
            peer_of,
            gate: Gate::new(&meter),
            limit: limit_for(config.max_secret_size),
            stopping: AtomicBool::new(false),
            open: Mutex::default(),
        });
        Ok(Server { listener: Some(listener), place, shared, wake, woken: Some(woken), accepting: None })
    }

    /// Starts to answer. A second call does nothing.
    ///
    /// # Errors
    /// [`ControlError::Io`] if no thread can be had.
    pub fn run(&mut self) -> Result<(), ControlError> {
        self.run_in(|| {})
    }

    /// As [`Server::run`]; `enter` is the first that the threads which answer do.
    ///
    /// # Errors
    /// As [`Server::run`].
    pub fn run_in(&mut self, enter: fn()) -> Result<(), ControlError> {
        let (Some(listener), Some(woken)) = (self.listener.take(), self.woken.take()) else { return Ok(()) };
        let shared = self.shared.clone();
        let started = std::thread::Builder::new()
            .name("control".into())
            .spawn(move || {
                enter();
                accept_all(&listener, &woken, &shared);
            })
            .map_err(|source| ControlError::Io { path: self.place.path.clone(), source })?;
        self.accepting = Some(started);
        Ok(())
    }

    /// The listening socket, for the daemon after this one.
    ///
    /// # Errors
    /// If there is no descriptor to be had, or [`Server::run`] was called.
    pub fn listener(&self) -> io::Result<UnixListener> {
        self.listener.as_ref().ok_or_else(|| io::Error::other("it listens already"))?.try_clone()
    }

    /// As [`Server::stop`], but the socket stays, for the daemon after this one.
    pub fn leave(mut self) {
        self.place.leave();
    }

    /// Removes the socket, cuts every connection off, and returns when no request is being served any more.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.place.remove();
        self.shared.stopping.store(true, Ordering::SeqCst);
        // The other end lives in the accepting thread; if that is gone, so is the need to wake it.
        let _ = self.wake.write_all(b"x");
        for stream in self.shared.open.lock().values() {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

fn accept_all(listener: &UnixListener, mut woken: &UnixStream, shared: &Arc<Shared>) {
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    let mut number = 0u64;
    while !shared.stopping.load(Ordering::SeqCst) {
        let mut fds = [PollFd::new(listener.as_fd(), PollFlags::POLLIN), PollFd::new(woken.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::NONE).is_err() || fds[1].any().unwrap_or(true) {
            continue;
        }
        match listener.accept() {
            Ok((stream, _)) => {
                threads.retain(|t| !t.is_finished());
                number += 1;
                threads.extend(admit(stream, number, shared));
            }
            Err(error) => {
                tracing::warn!(%error, "control: cannot accept");
                // Out of descriptors, most likely: the connection is still there, so do not spin on it.
                let mut wake = [PollFd::new(woken.as_fd(), PollFlags::POLLIN)];
                let _ = poll(&mut wake, 100u16);
            }
        }
    }
    let _ = woken.read(&mut [0; 8]);
    for stream in shared.open.lock().values() {
        let _ = stream.shutdown(std::net::Shutdown::Both);
    }
    for thread in threads {
        let _ = thread.join();
    }
}

/// Lets somebody in. Who may not speak at all hears nothing: the connection is closed, and that is on record.
fn admit(stream: UnixStream, number: u64, shared: &Arc<Shared>) -> Option<JoinHandle<()>> {
    let peer = match (shared.peer_of)(&stream) {
        Ok(peer) => peer,
        Err(error) => {
            tracing::warn!(%error, "control: cannot tell who connects");
            return None;
        }
    };
    if let Err(reason) = peer.may_speak(shared.operator_gid) {
        shared.core.denied(&peer.actor, &reason);
        return None;
    }
    if shared.core.enter(&peer.actor).is_err() {
        return None;
    }
    let slot = match shared.gate.enter(peer.actor.uid) {
        Ok(slot) => slot,
        Err(reason) => {
            turn_away(stream, Fault::Failed(reason.into()));
            return None;
        }
    };
    let stream = Arc::new(stream);
    shared.open.lock().insert(number, stream.clone());
    let theirs = shared.clone();
    let started = std::thread::Builder::new().name(format!("control-{number}")).spawn(move || {
        let session = Session { core: &*theirs.core, gate: &theirs.gate, limit: theirs.limit, peer: &peer };
        if let Err(error) = session.serve(&stream) {
            tracing::debug!(uid = peer.actor.uid, pid = peer.actor.pid, %error, "control: connection ended");
        }
        theirs.open.lock().remove(&number);
        drop(slot);
    });
    match started {
        Ok(thread) => Some(thread),
        Err(error) => {
            tracing::warn!(%error, "control: cannot start a thread");
            shared.open.lock().remove(&number);
            None
        }
    }
}

/// One answer that is small enough for the socket's buffer, without waiting for anything.
fn turn_away(mut stream: UnixStream, fault: Fault) {
    let mut reply = Vec::new();
    if write_error(&mut reply, &CallError::Fault(fault)).is_ok() && stream.set_nonblocking(true).is_ok() {
        let _ = stream.write(&reply);
    }
}

#[cfg(test)]
mod tests;
