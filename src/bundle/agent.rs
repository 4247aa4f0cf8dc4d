//! A signing key in an ssh-agent, hardware tokens included (draft-miller-ssh-agent).
//!
//! Owns two of the agent's messages: which keys are there, and sign this. Every wait is bounded: a token that nobody touches,
//! or an agent that hangs, is an error.

use super::key::{Fingerprint, PublicKey, SshSig};
use super::signer::{SignError, Signer};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt::ReceiveTimeout,
    sockopt::SendTimeout,
};
use nix::sys::time::{TimeVal, TimeValLike};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;
const FAILURE: u8 = 5;
/// The largest answer, in bytes, as OpenSSH's own client has it.
const ANSWER_MAX: usize = 256 << 10;

/// One key of an agent.
#[derive(Debug)]
pub struct AgentSigner {
    socket: PathBuf,
    public: PublicKey,
    patience: Duration,
}

impl AgentSigner {
    /// Asks the agent at this socket for the key with this fingerprint.
    ///
    /// # Errors
    /// [`SignError::Agent`] if it does not answer within `patience`, [`SignError::NoSuchKey`].
    pub fn new(agent: &Path, key: Fingerprint, patience: Duration) -> Result<Self, SignError> {
        let mut conversation = Conversation::begin(agent, patience)?;
        let answer = conversation.ask(REQUEST_IDENTITIES, &[], IDENTITIES_ANSWER)?;
        let mut rest = answer.as_slice();
        let garbled = || conversation_error(agent, "its list of keys is garbled");
        let count = number(&mut rest).ok_or_else(garbled)?;
        for _ in 0..count {
            let blob = string(&mut rest).ok_or_else(garbled)?;
            string(&mut rest).ok_or_else(garbled)?;
            // A key of another kind is no reason to stop.
            match PublicKey::from_bytes(blob) {
                Ok(public) if public.fingerprint() == key => {
                    return Ok(AgentSigner { socket: agent.to_owned(), public, patience });
                }
                _ => {}
            }
        }
        Err(SignError::NoSuchKey(key))
    }
}

impl Signer for AgentSigner {
    fn public(&self) -> &PublicKey {
        &self.public
    }

    fn sign(&self, namespace: &str, message: &[u8]) -> Result<SshSig, SignError> {
        let mut request = Vec::new();
        put_string(&mut request, &self.public.to_bytes());
        put_string(&mut request, &SshSig::to_sign(namespace, message));
        request.extend(0u32.to_be_bytes());
        let answer = Conversation::begin(&self.socket, self.patience)?.ask(SIGN_REQUEST, &request, SIGN_RESPONSE)?;
        let mut rest = answer.as_slice();
        let garbled = || conversation_error(&self.socket, "its signature is garbled");
        let signature = string(&mut rest).filter(|_| rest.is_empty()).ok_or_else(garbled)?;
        let signature = ssh_key::Signature::try_from(signature).map_err(|_| garbled())?;
        let signature = SshSig::new(&self.public, namespace, signature).map_err(|_| garbled())?;
        if self.public.verifies(namespace, message, &signature) { Ok(signature) } else { Err(SignError::Wrong) }
    }
}

/// One connection, with one moment at which all patience ends.
struct Conversation<'a> {
    stream: UnixStream,
    agent: &'a Path,
    until: Instant,
}

impl<'a> Conversation<'a> {
    fn begin(agent: &'a Path, patience: Duration) -> Result<Self, SignError> {
        let until = Instant::now() + patience;
        let stream = connected(agent, patience).map_err(|e| conversation_error(agent, &told(&e)))?;
        Ok(Conversation { stream, agent, until })
    }

    fn ask(&mut self, kind: u8, body: &[u8], expected: u8) -> Result<Vec<u8>, SignError> {
        let answer = self.exchange(kind, body).map_err(|e| conversation_error(self.agent, &told(&e)))?;
        match answer.split_first() {
            Some((kind, body)) if *kind == expected => Ok(body.to_vec()),
            Some((&FAILURE, _)) => Err(conversation_error(self.agent, "it refuses, or is locked")),
            _ => Err(conversation_error(self.agent, "it answers something else")),
        }
    }

    fn exchange(&mut self, kind: u8, body: &[u8]) -> io::Result<Vec<u8>> {
        let len = u32::try_from(body.len() + 1).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut message = len.to_be_bytes().to_vec();
        message.push(kind);
        message.extend_from_slice(body);
        self.stream.set_write_timeout(Some(self.left()?))?;
        self.stream.write_all(&message)?;
        let mut len = [0; 4];
        self.read_exact(&mut len)?;
        let len = u32::from_be_bytes(len) as usize;
        if len == 0 || len > ANSWER_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut answer = vec![0; len];
        self.read_exact(&mut answer)?;
        Ok(answer)
    }

    /// As `Read::read_exact`, but an agent that sends a byte now and then does not get more time.
    fn read_exact(&mut self, mut buffer: &mut [u8]) -> io::Result<()> {
        while !buffer.is_empty() {
            self.stream.set_read_timeout(Some(self.left()?))?;
            match self.stream.read(buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => buffer = &mut buffer[n..],
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn left(&self) -> io::Result<Duration> {
        match self.until.saturating_duration_since(Instant::now()) {
            Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
            left => Ok(left),
        }
    }
}

/// connect(2) waits too, where the agent's queue is full: SO_SNDTIMEO bounds that (socket(7)).
fn connected(agent: &Path, patience: Duration) -> io::Result<UnixStream> {
    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let timeout = TimeVal::milliseconds(i64::try_from(patience.as_millis().max(1)).unwrap_or(i64::MAX / 1000));
    setsockopt(&fd, SendTimeout, &timeout)?;
    setsockopt(&fd, ReceiveTimeout, &timeout)?;
    connect(fd.as_raw_fd(), &UnixAddr::new(agent)?)?;
    Ok(fd.into())
}

fn told(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "it does not answer in time".into(),
        io::ErrorKind::UnexpectedEof => "it hung up".into(),
        io::ErrorKind::InvalidData => "its answer is garbled".into(),
        _ => error.to_string(),
    }
}

fn conversation_error(agent: &Path, why: &str) -> SignError {
    SignError::Agent { socket: agent.display().to_string(), why: why.into() }
}

fn put_string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(u32::try_from(bytes.len()).expect("keys and signed data are far below 4 GiB").to_be_bytes());
    out.extend_from_slice(bytes);
}

fn number(rest: &mut &[u8]) -> Option<u32> {
    let (len, after) = rest.split_first_chunk::<4>()?;
    *rest = after;
    Some(u32::from_be_bytes(*len))
}

fn string<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = usize::try_from(number(rest)?).ok()?;
    let (bytes, after) = rest.split_at_checked(len)?;
    *rest = after;
    Some(bytes)
}
