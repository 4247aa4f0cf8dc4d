//! The other side of the conversation: what the command line does.
//!
//! Owns the connection. Everything that is read or sent lies in locked memory, since a passphrase or a content may be in
//! it.

use crate::config::Config;
use crate::exit::Exit;
use crate::wire::{CallError, Frame, FrameError, FrameReader, FrameWriter, Method, limit_for, read_reply, write_call};
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
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
            ClientError::NotAllowed(_) => Exit::Refused,
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
            ClientError::NotAllowed(_) => Some("run it as root, or as a member of admin_group"),
            ClientError::Gone => Some("see why: journalctl -u pinfold"),
            ClientError::Call(CallError::Fault(crate::wire::Fault::Locked(_))) => Some("pinfold unlock"),
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
}

impl Client {
    /// Connects to the configured socket.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] or [`ClientError::NotAllowed`].
    pub fn connect(config: &Config) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(&config.control).map_err(|e| no_daemon(&config.control, &e))?;
        Self::over(stream, limit_for(config.max_secret_size))
    }

    /// Speaks over a stream that is there; frames sent have `limit` bytes at most.
    ///
    /// # Errors
    /// [`ClientError::Frame`] if there is no locked memory.
    pub fn over(stream: UnixStream, limit: usize) -> Result<Self, ClientError> {
        Ok(Client { frames: FrameReader::new(stream, limit.max(REPLY_MIN))?, limit })
    }

    /// One question, one answer.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn call<M: Method>(&mut self, parameters: &M) -> Result<M::Reply, ClientError> {
        self.send(parameters, false)?;
        Ok(read_reply(self.frame()?.bytes())?.parameters)
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
        loop {
            let reply = read_reply(self.frame()?.bytes()).map_err(ClientError::from)?;
            each(reply.parameters)?;
            if !reply.continues {
                return Ok(());
            }
        }
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
            Ok(Some(frame)) => Ok(frame),
            Ok(None) | Err(FrameError::CutOff) => Err(ClientError::Gone),
            Err(FrameError::Io(e)) if e.kind() == io::ErrorKind::ConnectionReset => Err(ClientError::Gone),
            Err(error) => Err(error.into()),
        }
    }
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
