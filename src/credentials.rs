//! `LoadCredential=NAME:/run/pinfold/credentials.sock` (systemd.exec(5)): gives a unit the secret `credentials/UNIT/NAME` of the tree.
//!
//! Owns the conversation with the process that systemd connects: who it is, what it asks for, and how it is refused. It decides
//! nothing about secrets: they are opened by the vault, for that process, as for everybody.
//!
//! The address that a peer binds to names unit and credential, and anybody can bind to any: so the peer must be uid 0 in the
//! initial namespaces, and its cgroup must be the unit's. **A refusal cannot be a closed connection**: systemd takes what came until
//! then for the credential, be it nothing. More than it takes makes the unit fail (243/CREDENTIALS).

use crate::audit;
use crate::caller::Process;
use crate::meter::{Payer, Resource};
use crate::model::{Doubt, Gid, Name, SecretPath, Subject, Uid};
use crate::secret::Secret;
use crate::vault::{Vault, VaultError};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What systemd takes at most is 1 MiB (CREDENTIALS_TOTAL_SIZE_MAX in its sources).
const TOO_MUCH: usize = (1 << 20) + (64 << 10);
/// How long a peer may take to read.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest name of a credential (credential_name_valid: as a descriptor's).
const NAME_MAX: usize = 255;
/// How often it is looked whether the store is unlocked by now.
const LOOK: u16 = 100;

/// The socket and its threads.
pub struct Credentials {
    stopping: Arc<AtomicBool>,
    wake: UnixStream,
    accepting: Option<JoinHandle<()>>,
}

struct Shared {
    vault: Arc<Vault>,
    /// The folder in the tree below which the units' secrets are.
    folder: SecretPath,
    /// For how long after a lock nobody is answered, so that there is time for an unlock; `None` refuses at once.
    patience: Option<Duration>,
}

/// What a peer's address says that it wants. Nothing of it is true until it was compared.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    unit: Name,
    credential: Name,
}

impl Asked {
    /// `\0RANDOM/unit/UNIT/NAME`, as systemd binds before it connects.
    fn parse(address: &SocketAddr) -> Option<Self> {
        let text = std::str::from_utf8(address.as_abstract_name()?).ok()?;
        let (random, rest) = text.split_once("/unit/")?;
        let (unit, credential) = rest.split_once('/')?;
        let is_random = !random.is_empty() && random.len() <= 16 && random.bytes().all(|b| b.is_ascii_hexdigit());
        if !is_random || credential.len() > NAME_MAX {
            return None;
        }
        // Neither has a slash, nor is one of them "." or "..".
        Some(Asked { unit: Name::parse(unit.as_bytes()).ok()?, credential: Name::parse(credential.as_bytes()).ok()? })
    }
}

impl Credentials {
    /// Answers on a listening socket until it is dropped. While the store is locked nobody is accepted, `patience` at most: who waits
    /// in the socket's queue is found there by the next daemon too. `enter` is the first that the threads which answer do.
    ///
    /// # Errors
    /// If there is no descriptor or no thread to be had.
    pub fn serve(
        listener: UnixListener,
        vault: Arc<Vault>,
        folder: SecretPath,
        patience: Option<Duration>,
        enter: fn(),
    ) -> io::Result<Self> {
        let (wake, woken) = UnixStream::pair()?;
        listener.set_nonblocking(true)?;
        let stopping = Arc::new(AtomicBool::new(false));
        let shared = Arc::new(Shared { vault, folder, patience });
        let stop = Arc::clone(&stopping);
        let accepting = std::thread::Builder::new().name("credentials".into()).spawn(move || {
            enter();
            accept_all(&listener, &woken, &stop, &shared);
        })?;
        Ok(Credentials { stopping, wake, accepting: Some(accepting) })
    }
}

impl Drop for Credentials {
    /// Returns when whoever was accepted has been answered.
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        // The other end lives in the accepting thread; if that is gone, so is the need to wake it.
        let _ = self.wake.write_all(b"x");
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

fn accept_all(listener: &UnixListener, mut woken: &UnixStream, stopping: &AtomicBool, shared: &Arc<Shared>) {
    let meter = shared.vault.meter();
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    // Root's that came when there was no place for it.
    let mut waits: Option<(UnixStream, SocketAddr)> = None;
    while !stopping.load(Ordering::SeqCst) {
        threads.retain(|thread| !thread.is_finished());
        let mut wake = [PollFd::new(woken.as_fd(), PollFlags::POLLIN)];
        let full = threads.len() as u64 >= meter.bounds(Resource::Credentials).all;
        if shared.is_to_wait() || full || waits.is_some() && meter.is_full(Resource::Credentials, Payer::Uid(0)) {
            let _ = poll(&mut wake, LOOK);
            continue;
        }
        let mut fds = [PollFd::new(listener.as_fd(), PollFlags::POLLIN), wake[0].clone()];
        // It may have been locked meanwhile: then nobody is accepted.
        let mut nothing = || {
            let polled = poll(&mut fds, PollTimeout::NONE);
            polled.is_err() || fds[1].any().unwrap_or(true) || shared.is_to_wait()
        };
        if waits.is_none() && nothing() {
            continue;
        }
        let accepted = waits.take().map_or_else(|| listener.accept(), Ok);
        match accepted {
            Ok((stream, address)) => {
                let uid = getsockopt(&stream, sockopt::PeerCredentials).map_or(u32::MAX, |c| c.uid());
                let charge = match (meter.charge(Resource::Credentials, Payer::Uid(uid), 1), uid) {
                    (Ok(charge), _) => charge,
                    (Err(_), 0) => {
                        waits = Some((stream, address));
                        continue;
                    }
                    (Err(error), _) => {
                        // systemd is root: nobody else takes an end for a credential.
                        tracing::warn!(%error, uid, "credentials: refused");
                        continue;
                    }
                };
                let (stream, theirs) = (Arc::new(stream), Arc::clone(shared));
                let own = Arc::clone(&stream);
                let started = std::thread::Builder::new().name("credential".into()).spawn(move || {
                    let _charge = charge;
                    theirs.answer(&own, &address);
                });
                match started {
                    Ok(thread) => threads.push(thread),
                    Err(error) => {
                        tracing::error!(%error, "credentials: no thread");
                        let _ = stream.set_write_timeout(Some(PATIENCE)).and_then(|()| spoil(&stream));
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                tracing::warn!(%error, "credentials: cannot accept");
                let _ = poll(&mut wake, LOOK);
            }
        }
    }
    let _ = woken.read(&mut [0; 8]);
    for thread in threads {
        let _ = thread.join();
    }
}

impl Shared {
    /// Whether the store is locked and there is time left for somebody to unlock it.
    fn is_to_wait(&self) -> bool {
        let since: Option<Instant> = self.vault.locked_since();
        since.is_some_and(|since| self.patience.is_some_and(|patience| since.elapsed() < patience))
    }

    fn answer(&self, mut stream: &UnixStream, address: &SocketAddr) {
        let done = stream.set_nonblocking(false).and_then(|()| stream.set_write_timeout(Some(PATIENCE)));
        let sent = done.and_then(|()| match self.open(stream, address) {
            Ok(content) => stream.write_all(content.expose()),
            Err(reason) => {
                tracing::warn!(%reason, "credentials: refused");
                spoil(stream)
            }
        });
        if let Err(error) = sent {
            tracing::warn!(%error, "credentials: a peer went away");
        }
    }

    /// The content, or why not; either is in the audit log.
    fn open(&self, stream: &UnixStream, address: &SocketAddr) -> Result<Secret, String> {
        let credentials = getsockopt(stream, sockopt::PeerCredentials).map_err(|e| e.to_string())?;
        let pid = u32::try_from(credentials.pid()).unwrap_or(0);
        let caller = self.vault.callers().identify_peer(Uid(credentials.uid()), Gid(credentials.gid()), pid);
        caller.pid(); // takes hold of it now
        let asked = Asked::parse(address);
        let path = asked.as_ref().and_then(|asked| self.path(asked).ok());
        let shown = path.as_ref().map(ToString::to_string).unwrap_or_default();
        let refused = |reason: String| {
            self.vault.record_refusal(audit::Operation::Open, &shown, &caller.who(), &reason);
            reason
        };
        let Some((asked, path)) = asked.zip(path) else {
            return Err(refused("the peer's address is none that systemd binds to".into()));
        };
        is_of_unit(&caller, &asked).map_err(refused)?;
        if !is_there(stream) {
            return Err(refused("the peer has gone".into()));
        }
        let ino = self.vault.find(&path).map_err(|error| refused(error.to_string()))?;
        match self.vault.open_read(&caller, ino) {
            // A file that was never written is not the secret that somebody wants.
            Ok(opened) if opened.version.is_none() => Err(refused("it has no content yet".into())),
            Ok(opened) => Ok(opened.content),
            // The vault has recorded what it refused.
            Err(error @ VaultError::IsADirectory) => Err(refused(error.to_string())),
            Err(error) => Err(format!("{path}: {error}")),
        }
    }

    fn path(&self, asked: &Asked) -> Result<SecretPath, String> {
        let folder = self.folder.join(&asked.unit).map_err(|e| e.to_string())?;
        folder.join(&asked.credential).map_err(|e| e.to_string())
    }
}

/// Whether it is systemd's own process for that unit, by what the kernel says of it.
fn is_of_unit(caller: &Process, asked: &Asked) -> Result<(), String> {
    let doubt = |Doubt(text): Doubt| format!("in doubt: {text}");
    if !caller.is_admin().map_err(doubt)? {
        return Err("the peer is not root in the initial namespaces".into());
    }
    match caller.unit().map_err(doubt)? {
        Some(unit) if unit == asked.unit.as_str() => Ok(()),
        Some(unit) => Err(format!("the peer's address says {}, and it is in {unit}", asked.unit)),
        None => Err(format!("the peer's address says {}, and it is in no system unit", asked.unit)),
    }
}

/// Whether the process that connected still runs: then everything that was read is of that process. Kernels before 6.5 do not say.
fn is_there(stream: &UnixStream) -> bool {
    let Ok(process) = getsockopt(stream, sockopt::PeerPidfd) else { return true };
    poll(&mut [PollFd::new(process.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO) == Ok(0)
}

/// More than systemd takes. That it stops reading is what is wanted.
fn spoil(mut stream: &UnixStream) -> io::Result<()> {
    let zeroes = [0; 16 << 10];
    let mut left = TOO_MUCH;
    while left > 0 {
        match stream.write(&zeroes[..left.min(zeroes.len())]) {
            Ok(n) => left -= n,
            Err(e) if matches!(e.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => return Ok(()),
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(address: &str) -> Option<(String, String)> {
        let address = SocketAddr::from_abstract_name(address).unwrap();
        Asked::parse(&address).map(|a| (a.unit.to_string(), a.credential.to_string()))
    }

    #[test]
    fn only_what_systemd_binds_to_is_an_address() {
        let both = |a: &str, b: &str| Some((a.to_owned(), b.to_owned()));
        assert_eq!(asked("4d2c9c1e8a3b5f70/unit/nginx.service/tls.key"), both("nginx.service", "tls.key"));
        assert_eq!(asked("1/unit/a@b\\x2dc.service/x"), both("a@b\\x2dc.service", "x"));
        for bad in [
            "",
            "/unit/a.service/x",
            "zz/unit/a.service/x",
            "00000000000000001/unit/a.service/x",
            "1/unit/a.service",
            "1/unit/a.service/",
            "1/unit//x",
            "1/unit/../x",
            "1/unit/a.service/..",
            "1/unit/a.service/x/y",
            "1/user/a.service/x",
        ] {
            assert_eq!(asked(bad), None, "{bad}");
        }
        assert_eq!(Asked::parse(&SocketAddr::from_pathname("/1/unit/a.service/x").unwrap()), None);
        assert_eq!(asked(&format!("1/unit/a.service/{}", "x".repeat(90))).map(|a| a.1.len()), Some(90));
    }

    #[test]
    fn a_refusal_is_more_than_systemd_takes() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let reading = std::thread::spawn(move || io::copy(&mut theirs, &mut io::sink()).unwrap());
        spoil(&ours).unwrap();
        drop(ours);
        assert!(reading.join().unwrap() > 1 << 20);
        // One who has had enough is no failure.
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        spoil(&ours).unwrap();
    }
}
