//! The other side of the conversation: what the command line does.
//!
//! Owns the connection. Everything that is read or sent lies in locked memory, since a passphrase or a content may be in
//! it.

use crate::config::Config;
use crate::exit::Exit;
use crate::secret::Secret;
use crate::sys::arena::ArenaFull;
use crate::wire::{
    CallError, Fault, Frame, FrameError, FrameReader, FrameWriter, Method, Prove, UnlockWith, limit_for, read_reply,
    write_call,
};
use nix::sys::socket::{getsockopt, sockopt};
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;
use thiserror::Error;

/// The least limit of a reply, in bytes: a listing's part or a report may be longer than the largest secret.
const REPLY_MIN: usize = 4 << 20;

/// Why there is no answer, or a bad one.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no daemon answers at {}: {reason}", path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// The system's reason.
        reason: String,
    },
    /// The socket is not for us.
    #[error("you may not use {}", .0.display())]
    NotAllowed(PathBuf),
    /// Somebody else than root listens there.
    #[error("{}: uid {uid} listens there, not root; nothing was sent", path.display())]
    NotOurs {
        /// The socket.
        path: PathBuf,
        /// Whose it is.
        uid: u32,
    },
    /// It went away in the middle.
    #[error("the daemon closed the connection")]
    Gone,
    /// It answered with an error.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The message could not be sent or read.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The message could not be sent.
    #[error("cannot speak to the daemon: {0}")]
    Io(#[from] io::Error),
}

impl ClientError {
    /// How the command ends that met it.
    pub fn exit(&self) -> Exit {
        match self {
            ClientError::Unreachable { .. } | ClientError::Gone => Exit::Unreachable,
            ClientError::NotAllowed(_) | ClientError::NotOurs { .. } => Exit::Refused,
            ClientError::Call(CallError::Fault(fault)) => fault.exit(),
            ClientError::Call(
                CallError::InterfaceNotFound(_)
                | CallError::MethodNotFound(_)
                | CallError::InvalidParameter(_)
                | CallError::ExpectedMore
                | CallError::Unknown(_),
            )
            | ClientError::Frame(_)
            | ClientError::Io(_) => Exit::Failed,
        }
    }

    /// What to type.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            ClientError::Unreachable { .. } => Some("start the daemon: systemctl start pinfold, or pinfold mount"),
            ClientError::NotAllowed(_) => Some("run it as root, or as a member of operator_group"),
            ClientError::NotOurs { .. } => Some("put the control socket into a folder of root's alone"),
            ClientError::Call(CallError::Fault(Fault::Unproven(_))) => Some(
                "prove it: --prove asks for the passphrase, --prove=FILE and --prove-keyfile=FILE read what opens the store",
            ),
            ClientError::Gone => Some("see why: journalctl -u pinfold"),
            ClientError::Call(CallError::Fault(Fault::Locked(_))) => Some("pinfold unlock"),
            ClientError::Call(CallError::MethodNotFound(_) | CallError::InvalidParameter(_)) => {
                Some("the daemon may be of another version: pinfold status")
            }
            _ => None,
        }
    }
}

/// A connection to the daemon.
pub struct Client {
    frames: FrameReader<UnixStream>,
    limit: usize,
    /// Where it leads, until the daemon has said something: closed before, it was not for us.
    unheard: Option<PathBuf>,
}

/// What opens the store, if this process is to prove that it can.
static PROOF: OnceLock<UnlockWith> = OnceLock::new();

/// From now on every call that the daemon does not take without proof is made once more, with this.
pub fn prove_with(proof: UnlockWith) {
    // One command, one proof.
    let _ = PROOF.set(proof);
}

/// A copy of it, for a call that is not made without.
///
/// # Errors
/// There is no locked memory.
pub fn proof() -> Result<Option<UnlockWith>, ArenaFull> {
    let copy = |secret: &Secret| Secret::copy_of(secret.expose());
    PROOF
        .get()
        .map(|proof| match proof {
            UnlockWith::Passphrase(p) => Ok(UnlockWith::Passphrase(copy(p)?)),
            UnlockWith::Identity(i) => Ok(UnlockWith::Identity(copy(i)?)),
            UnlockWith::Recovery(r) => Ok(UnlockWith::Recovery(copy(r)?)),
        })
        .transpose()
}

impl Client {
    /// Connects to the configured socket, if it is root's (or that of whoever runs this): a passphrase goes to nobody else.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`], [`ClientError::NotAllowed`] or [`ClientError::NotOurs`].
    pub fn connect(config: &Config) -> Result<Self, ClientError> {
        let path = &config.control;
        let stream = UnixStream::connect(path).map_err(|e| no_daemon(path, &e))?;
        let listener = getsockopt(&stream, sockopt::PeerCredentials).map_err(io::Error::from)?.uid();
        if listener != 0 && listener != nix::unistd::geteuid().as_raw() {
            return Err(ClientError::NotOurs { path: path.clone(), uid: listener });
        }
        let client = Self::over(stream, limit_for(config.max_secret_size))?;
        Ok(Client { unheard: Some(path.clone()), ..client })
    }

    /// Speaks over a stream that is there; frames sent have `limit` bytes at most.
    ///
    /// # Errors
    /// [`ClientError::Frame`] if there is no locked memory.
    pub fn over(stream: UnixStream, limit: usize) -> Result<Self, ClientError> {
        Ok(Client { frames: FrameReader::new(stream, limit.max(REPLY_MIN))?, limit, unheard: None })
    }

    /// From now on nobody is waited for longer than this.
    ///
    /// # Errors
    /// The system's reason.
    pub fn set_patience(&mut self, patience: Duration) -> Result<(), ClientError> {
        let stream = self.frames.stream();
        stream.set_read_timeout(Some(patience))?;
        Ok(stream.set_write_timeout(Some(patience))?)
    }

    /// One question, one answer.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn call<M: Method>(&mut self, parameters: &M) -> Result<M::Reply, ClientError> {
        match (self.ask(parameters), PROOF.get()) {
            (Err(error), Some(proof)) if lacks_proof(&error) => {
                self.prove(proof)?;
                self.ask(parameters)
            }
            (done, _) => done,
        }
    }

    /// One question, answered in parts.
    ///
    /// # Errors
    /// [`ClientError`], or what `each` says; the connection is of no use then.
    pub fn stream<M: Method, E: From<ClientError>>(
        &mut self,
        parameters: &M,
        mut each: impl FnMut(M::Reply) -> Result<(), E>,
    ) -> Result<(), E> {
        self.send(parameters, true)?;
        let mut proof = PROOF.get();
        loop {
            let reply = match (read_reply(self.frame()?.bytes()).map_err(ClientError::from), proof.take()) {
                (Err(error), Some(proof)) if lacks_proof(&error) => {
                    self.prove(proof)?;
                    self.send(parameters, true)?;
                    continue;
                }
                (reply, _) => reply?,
            };
            each(reply.parameters)?;
            if !reply.continues {
                return Ok(());
            }
        }
    }

    /// Proves, for the next call, that whoever calls can open the store.
    ///
    /// # Errors
    /// [`ClientError`]; a refusal if it does not open it.
    pub fn prove(&mut self, proof: &UnlockWith) -> Result<(), ClientError> {
        let copy = |secret: &Secret| Secret::copy_of(secret.expose()).map_err(FrameError::from);
        let mut prove = Prove::default();
        match proof {
            UnlockWith::Passphrase(p) => prove.passphrase = Some(copy(p)?),
            UnlockWith::Identity(i) => prove.identity = Some(copy(i)?),
            UnlockWith::Recovery(r) => prove.recovery = Some(copy(r)?),
        }
        self.ask(&prove).map(|_| ())
    }

    fn ask<M: Method>(&mut self, parameters: &M) -> Result<M::Reply, ClientError> {
        self.send(parameters, false)?;
        Ok(read_reply(self.frame()?.bytes())?.parameters)
    }

    fn send<M: Method>(&mut self, parameters: &M, more: bool) -> Result<(), ClientError> {
        let mut frame = FrameWriter::new(self.limit)?;
        write_call(&mut frame, parameters, more)?;
        match self.frames.stream().write_all(frame.bytes()) {
            // It closed without listening, but may have said why: that is what gets read next.
            Err(e) if matches!(e.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => Ok(()),
            sent => Ok(sent?),
        }
    }

    fn frame(&mut self) -> Result<Frame, ClientError> {
        match self.frames.next(&mut || true) {
            Ok(Some(frame)) => {
                self.unheard = None;
                Ok(frame)
            }
            Ok(None) | Err(FrameError::CutOff) => Err(self.gone()),
            Err(FrameError::Io(e)) if e.kind() == io::ErrorKind::ConnectionReset => Err(self.gone()),
            Err(error) => Err(error.into()),
        }
    }

    /// What it means that the daemon closed the connection: whoever may not speak to it is closed out without a word.
    fn gone(&mut self) -> ClientError {
        match self.unheard.take() {
            Some(path) if !nix::unistd::geteuid().is_root() => ClientError::NotAllowed(path),
            _ => ClientError::Gone,
        }
    }
}

fn lacks_proof(error: &ClientError) -> bool {
    matches!(error, ClientError::Call(CallError::Fault(Fault::Unproven(_))))
}

fn no_daemon(path: &Path, error: &io::Error) -> ClientError {
    match error.kind() {
        io::ErrorKind::PermissionDenied => ClientError::NotAllowed(path.into()),
        io::ErrorKind::NotFound => ClientError::Unreachable { path: path.into(), reason: "there is no socket".into() },
        io::ErrorKind::ConnectionRefused => {
            ClientError::Unreachable { path: path.into(), reason: "nobody listens".into() }
        }
        _ => ClientError::Unreachable { path: path.into(), reason: error.to_string().to_lowercase() },
    }
}
