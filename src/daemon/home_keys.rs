//! Reads admins' public keys from their home directories, where that is configured, again and again.
//!
//! Owns the thread and the child that looks (`pinfold home-keys`): no thread of the daemon touches a home directory, which
//! may hang, or lead back into the tree.

use crate::sys::{child, wait};
use crate::vault::Vault;
use nix::poll::{PollFd, PollFlags};
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often they are read.
const AGAIN: Duration = Duration::from_secs(60);
/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// The most that is read of it, in bytes.
const OUTPUT_MAX: usize = 16 << 20;

/// Starts the thread; it ends with [`Vault::shutdown`].
///
/// # Errors
/// If there is no thread to be had.
pub fn start(vault: &Arc<Vault>) -> io::Result<()> {
    let vault = Arc::clone(vault);
    std::thread::Builder::new().name("home-keys".into()).spawn(move || run(&vault)).map(drop)
}

fn run(vault: &Vault) {
    while let Some(users) = vault.wait_for_admins(AGAIN) {
        if users.is_empty() {
            continue;
        }
        match read(&users) {
            Ok(keys) => vault.set_home_keys(&users, keys),
            Err(error) => {
                tracing::warn!(%error, "the keys in the admins' home directories cannot be read");
                vault.set_home_keys(&users, HashMap::new());
            }
        }
    }
}

fn read(users: &[String]) -> io::Result<HashMap<String, Vec<String>>> {
    // This very program, whatever its file is called by now.
    let mut command = child::command("/proc/self/exe");
    let mut child = command.arg("home-keys").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let spoken = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all((users.join("\n") + "\n").as_bytes()));
    let heard = spoken.and_then(|()| match child.stdout.take() {
        Some(mut stdout) => listen(&mut stdout),
        None => Ok(Vec::new()),
    });
    if heard.is_err() {
        child.kill()?;
    }
    // It has closed its output, or was killed: it ends. One that hangs in the kernel is not waited for.
    let begun = Instant::now();
    while child.try_wait()?.is_none() {
        if begun.elapsed() > Duration::from_secs(2) {
            let _ = child.kill();
            return Err(io::ErrorKind::TimedOut.into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(serde_json::from_slice(&heard?)?)
}

fn listen(from: &mut (impl Read + AsFd)) -> io::Result<Vec<u8>> {
    let until = Instant::now() + PATIENCE;
    let mut heard = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        if !wait::ready(&mut [PollFd::new(from.as_fd(), PollFlags::POLLIN)], Some(until))? {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match from.read(&mut buffer)? {
            0 => return Ok(heard),
            n => heard.extend_from_slice(&buffer[..n]),
        }
        if heard.len() > OUTPUT_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
    }
}
