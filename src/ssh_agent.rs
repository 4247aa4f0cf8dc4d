//! A signing key in an ssh-agent, hardware tokens included (draft-miller-ssh-agent).
//!
//! Owns two of the agent's messages: which keys are there, and sign this. Every wait is bounded: a token that nobody touches,
//! or an agent that hangs, is an error.

use crate::bundle::{Fingerprint, PublicKey, SignError, Signer, SshSig};
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
        let signature = SshSig::from_agent(&self.public, namespace, signature).map_err(|_| garbled())?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::{Chain, Head, Index, KeySigner, Plan, Trust, check, seal};
    use crate::model::{ConsoleName, HostName, Timestamp};
    use std::os::unix::net::UnixListener;
    use std::process::{Child, Command, Stdio};

    const PATIENCE: Duration = Duration::from_secs(10);

    /// A real ssh-agent, gone with the test.
    struct Agent {
        folder: tempfile::TempDir,
        process: Child,
    }

    impl Agent {
        fn start() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let socket = folder.path().join("agent");
            let process = Command::new("ssh-agent")
                .args(["-D", "-a"])
                .arg(&socket)
                .stdout(Stdio::piped())
                .spawn()
                .expect("ssh-agent is there: make deps");
            let mut agent = Agent { folder, process };
            // It says its socket's name once that is there.
            let mut said = [0; 1];
            agent.process.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
            agent
        }

        fn socket(&self) -> std::path::PathBuf {
            self.folder.path().join("agent")
        }

        fn add(&self, kind: &[&str], name: &str) -> PublicKeyText {
            let key = self.folder.path().join(name);
            let made = Command::new("ssh-keygen").args(["-q", "-N", "", "-t"]).args(kind).arg("-f").arg(&key).status();
            assert!(made.unwrap().success());
            self.run("ssh-add", &["-q", key.to_str().unwrap()]);
            PublicKeyText(std::fs::read_to_string(key.with_extension("pub")).unwrap())
        }

        fn run(&self, program: &str, args: &[&str]) {
            let done = Command::new(program).args(args).env("SSH_AUTH_SOCK", self.socket()).output().unwrap();
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        }
    }

    struct PublicKeyText(String);

    impl Drop for Agent {
        fn drop(&mut self) {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }

    #[test]
    fn a_key_in_a_real_agent_signs_as_one_of_our_own() {
        let agent = Agent::start();
        // Others before and after it are no obstacle.
        agent.add(&["ecdsa"], "first");
        let text = agent.add(&["ed25519"], "ours").0;
        agent.add(&["rsa"], "last");
        let key = PublicKey::parse(&text).unwrap();
        let signer = AgentSigner::new(&agent.socket(), key.fingerprint(), PATIENCE).unwrap();
        assert_eq!(*signer.public(), key);
        assert!(a_bundle_is_taken(&signer), "a bundle that it signed");
        // Ed25519 is deterministic: the same bytes as ssh-keygen's own.
        let message = agent.folder.path().join("message");
        std::fs::write(&message, "hello").unwrap();
        agent.run(
            "ssh-keygen",
            &[
                "-q",
                "-Y",
                "sign",
                "-n",
                "pinfold-bundle",
                "-f",
                agent.folder.path().join("ours.pub").to_str().unwrap(),
                message.to_str().unwrap(),
            ],
        );
        let theirs = std::fs::read_to_string(agent.folder.path().join("message.sig")).unwrap();
        assert_eq!(signer.sign("pinfold-bundle", b"hello").unwrap().armor(), theirs);
        let parsed = SshSig::parse(&theirs).unwrap();
        assert!(key.verifies("pinfold-bundle", b"hello", &parsed) && !key.verifies("file", b"hello", &parsed));
        // The agent loses it, is locked, and goes.
        agent.run("ssh-add", &["-q", "-d", agent.folder.path().join("ours").to_str().unwrap()]);
        assert!(signer.sign("x", b"y").unwrap_err().to_string().contains("it refuses, or is locked"));
        let gone = AgentSigner::new(&agent.socket(), key.fingerprint(), PATIENCE);
        assert!(matches!(gone, Err(SignError::NoSuchKey(_))), "{gone:?}");
        drop(agent);
        assert!(matches!(signer.sign("x", b"y"), Err(SignError::Agent { .. })));
    }

    /// Whether a host that trusts this signer takes an empty bundle that it signed.
    fn a_bundle_is_taken(signer: &dyn Signer) -> bool {
        let (console, host) = (ConsoleName::parse("console.example").unwrap(), HostName::parse("h1").unwrap());
        let now = Timestamp::of_secs(1_800_000_000);
        let expires = Timestamp::of_secs(now.secs + 86_400);
        let head = Head { console: console.clone(), host: host.clone(), serial: 10, created: now, expires };
        let index = Index { entries: Vec::new(), admins: Vec::new() };
        let recipient = age::x25519::Identity::generate().to_public().into();
        let plan =
            Plan { head: &head, recipients: &[recipient], index: &index, chain: &Chain::default(), revoked: &[] };
        let file = tempfile::tempfile().unwrap();
        seal(&file, &plan, &mut |_| unreachable!("it has no files"), signer).unwrap();
        check(&file, &Trust::new(console, host, signer.public().clone()), now).is_ok()
    }

    /// Answers a connection with these bytes, then keeps it open until the other side closes it.
    fn agent_that_says(answer: &'static [u8]) -> (tempfile::TempDir, std::thread::JoinHandle<()>) {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("agent")).unwrap();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 5];
            stream.read_exact(&mut request).unwrap();
            let _ = stream.write_all(answer);
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest);
        });
        (folder, thread)
    }

    #[test]
    fn an_agent_that_hangs_or_raves_costs_a_bounded_time() {
        let key = KeySigner::generate().unwrap().public().fingerprint();
        let ask = |socket: &Path, patience| AgentSigner::new(socket, key, patience).unwrap_err().to_string();
        let short = Duration::from_millis(200);
        for (answer, told) in [
            (&b""[..], "does not answer in time"),
            (b"\0\0\0", "does not answer in time"),
            (b"\0\0\0\x05\x0c\0\0", "does not answer in time"),
            (b"\0\0\0\0", "garbled"),
            (b"\xff\xff\xff\xff", "garbled"),
            (b"\0\0\0\x01\x05", "it refuses, or is locked"),
            (b"\0\0\0\x01\x63", "answers something else"),
            (b"\0\0\0\x05\x0c\xff\xff\xff\xff", "its list of keys is garbled"),
            (b"\0\0\0\x09\x0c\0\0\0\x01\xff\xff\xff\xff", "its list of keys is garbled"),
            (b"\0\0\0\x0d\x0c\0\0\0\x01\0\0\0\0\0\0\0\0", "has no key"),
        ] {
            let begun = Instant::now();
            let (folder, thread) = agent_that_says(answer);
            let said = ask(&folder.path().join("agent"), short);
            assert!(said.contains(told), "{answer:?}: {said}");
            assert!(begun.elapsed() < PATIENCE, "{answer:?}");
            thread.join().unwrap();
        }
        // One that accepts nobody: its queue is full.
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("agent");
        let listener = socket2_with_no_queue(&socket);
        let _waiting: Vec<_> = (0..2).map(|_| std::os::unix::net::UnixStream::connect(&socket)).collect();
        assert!(ask(&socket, short).contains("in time"));
        drop(listener);
        assert!(ask(&folder.path().join("none"), short).contains("No such file"));
    }

    fn socket2_with_no_queue(path: &Path) -> std::os::fd::OwnedFd {
        use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
        use std::os::fd::AsRawFd;
        let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        bind(fd.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
        listen(&fd, Backlog::new(1).unwrap()).unwrap();
        fd
    }
}
