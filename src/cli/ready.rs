//! `pinfold ready`: waits until the tree is mounted and unlocked, and may stay to notice when it is not so any more.
//!
//! Owns what "ready" means to systemd's units. It looks at the table of mounts and asks the daemon, never the tree.

use super::Failure;
use super::args::Ready;
use crate::config::Config;
use crate::control::client::{Client, ClientError};
use crate::exit::Exit;
use crate::fs::fuse::SOURCE;
use crate::sys::mount;
use crate::wire::GetStatus;
use std::time::{Duration, Instant};

/// How often the daemon is asked by somebody who waits for it.
const WAITING: Duration = Duration::from_millis(100);
/// How often by somebody who stays.
const STAYING: Duration = Duration::from_millis(500);

/// How it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing of pinfold's is mounted.
    NotMounted,
    /// The store is locked.
    Locked,
    /// Mounted and unlocked.
    Ready,
    /// Mounted, and nobody answers: the daemon is being restarted, or has failed. Readers wait, and so do we.
    Silent,
}

/// Waits, and with `--hold` stays.
pub fn ready(config: &Config, args: &Ready) -> Result<Exit, Failure> {
    let begun = Instant::now();
    loop {
        let state = look(config)?;
        if state == State::Ready {
            break;
        }
        if args.timeout.is_some_and(|timeout| begun.elapsed() >= timeout) {
            return Err(why_not(state, config));
        }
        std::thread::sleep(WAITING);
    }
    if !args.hold {
        return Ok(Exit::Ok);
    }
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        return Err(Failure::new(Exit::Failed, format!("systemd cannot be told: {error}")));
    }
    loop {
        std::thread::sleep(STAYING);
        match look(config)? {
            // A restart of the daemon is no reason: whoever opens a secret meanwhile waits and gets it.
            State::Ready | State::Silent => {}
            State::Locked | State::NotMounted => return Ok(Exit::Ok),
        }
    }
}

fn look(config: &Config) -> Result<State, Failure> {
    let failed = |e: std::io::Error| Failure::new(Exit::Failed, format!("{}: {e}", config.mountpoint.display()));
    let mounted = mount::mount_at(&config.mountpoint).map_err(failed)?;
    if mounted.is_none_or(|m| m.source != SOURCE) {
        return Ok(State::NotMounted);
    }
    match Client::connect(config).and_then(|mut client| client.call(&GetStatus {})) {
        Ok(status) if status.locked => Ok(State::Locked),
        Ok(_) => Ok(State::Ready),
        // No one who may not ask will be let in by waiting.
        Err(error @ ClientError::NotAllowed(_)) => Err(error.into()),
        Err(_) => Ok(State::Silent),
    }
}

fn why_not(state: State, config: &Config) -> Failure {
    match state {
        State::Locked => Failure::new(Exit::Locked, "the store is still locked").hint("pinfold unlock"),
        State::NotMounted => {
            let what = format!("nothing of pinfold's is mounted on {}", config.mountpoint.display());
            Failure::new(Exit::Unreachable, what).hint("systemctl start pinfold")
        }
        State::Silent | State::Ready => {
            Failure::new(Exit::Unreachable, "the daemon does not answer").hint("journalctl -u pinfold")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_ends_when_it_is_told_to() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config { mountpoint: dir.path().into(), control: dir.path().join("s"), ..Config::default() };
        let args = Ready { timeout: Some(Duration::from_millis(150)), hold: false };
        let begun = Instant::now();
        assert_eq!(ready(&config, &args).unwrap_err().exit(), Exit::Unreachable);
        assert!(begun.elapsed() >= Duration::from_millis(150));
    }
}
