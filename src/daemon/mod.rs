//! The daemon: everything put together, from the first system call to the last.
//!
//! Owns the order of starting and stopping. Decides nothing about secrets.

mod log;
mod mountpoint;
pub mod offline;
mod unlocking;

use crate::audit::{self, Event, Log, Settings, WhenFull};
use crate::caller::{Callers, Daemon};
use crate::config::{AuditFull, Config, ConfigError, WhenLocked};
use crate::control::Server;
use crate::fs::fuse::Mounted;
use crate::model::Scope;
use crate::store::{Store, StoreError};
use crate::sys::{arena, keyctl, process};
use crate::vault::{Limits, Vault, VaultError};
use crate::wire::Fault;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};
use unlocking::Unlocking;

/// Locked memory for open secrets, at least; each is at most `max_secret_size`.
const ARENA: usize = 64 << 20;
/// How many of the largest secrets fit in any case.
const LARGEST_AT_ONCE: usize = 16;
/// How often changes of metadata are made durable, and revoked keys looked for.
const TICK: Duration = Duration::from_secs(1);

enum Wake {
    Signal(i32),
    SessionEnded,
}

/// Runs in the foreground until SIGTERM, SIGINT, or the end of the mount.
///
/// # Errors
/// Why it could not start, or did not end well. Nothing is left mounted.
pub fn run(config: Config) -> Result<(), Fault> {
    let system = |what: &'static str| move |e: std::io::Error| Fault::Failed(format!("{what}: {e}"));
    // The keyring before the first thread: only threads started afterwards have it.
    keyctl::join_anonymous_session().map_err(system("cannot make a keyring"))?;
    process::harden().map_err(system("cannot lock memory"))?;
    log::start();
    let (wake, woken) = mpsc::channel();
    let signals = watch_signals(wake.clone()).map_err(system("cannot watch signals"))?;
    let memory = ARENA.max(LARGEST_AT_ONCE * config.max_secret_size as usize) + crate::control::locked_bytes(&config);
    arena::init(memory).map_err(|e| Fault::Failed(e.to_string()))?;

    let vault = Arc::new(open_vault(&config)?);
    mountpoint::prepare(&config.mountpoint)?;
    let mut server = Server::bind(&config, Arc::clone(&vault) as Arc<dyn crate::wire::Admin>)
        .map_err(|e| Fault::Failed(e.to_string()))?;
    let patience = match config.when_locked {
        WhenLocked::Wait => Some(config.unlock_timeout),
        WhenLocked::Fail => None,
    };
    let mounted = Mounted::start(&vault, &config.mountpoint, patience, move || {
        // Nobody listens any more if the daemon is stopping already.
        let _ = wake.send(Wake::SessionEnded);
    })
    .map_err(|e| Fault::Failed(format!("cannot mount {}: {e}", config.mountpoint.display())))?;
    note(&vault, audit::Operation::Start);
    let unlocking = Unlocking::start(&vault, &config);
    // What hangs while the store is being unlocked must not keep an admin from doing it.
    server.run().map_err(|e| Fault::Failed(e.to_string()))?;
    unlocking.settled();
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::warn!(%error, "systemd could not be told that the daemon is ready");
    }
    tracing::info!(mountpoint = %config.mountpoint.display(), store = %config.store.display(), "serving");

    let reason = serve(&vault, &config, &unlocking, &woken);
    unlocking.stop();
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    server.stop();
    let stopped = mounted.stop();
    note(&vault, audit::Operation::Stop);
    vault.shutdown();
    signals.close();
    match (reason, stopped) {
        (Wake::SessionEnded, _) => Err(Fault::Failed("the tree was unmounted by somebody else".into())),
        (Wake::Signal(_), Err(e)) => Err(Fault::Failed(format!("unmounting: {e}"))),
        (Wake::Signal(signal), Ok(())) => {
            tracing::info!(signal, "stopped");
            Ok(())
        }
    }
}

/// A locked vault over the configured store and log.
pub(crate) fn open_vault(config: &Config) -> Result<Vault, Fault> {
    let store = Store::open(&config.store).map_err(fault_of_store)?;
    let settings = Settings {
        path: config.audit_log.clone(),
        max_size: config.audit_max_size,
        when_full: match config.audit_full {
            AuditFull::Refuse => WhenFull::Refuse,
            AuditFull::Continue => WhenFull::Continue,
        },
        keep_files: None,
    };
    let log = Log::open(settings, None).map_err(|e| Fault::Failed(e.to_string()))?;
    let callers = Callers::new().map_err(|e| Fault::Failed(format!("cannot look at processes: {e}")))?;
    let limits = Limits {
        max_secret_size: config.max_secret_size,
        max_secrets: config.max_secrets,
        keep_versions: usize::try_from(config.keep_versions).unwrap_or(usize::MAX),
        allow_reveal: config.allow_reveal,
        mountpoint: config.mountpoint.clone(),
        admin_gid: config.admin_gid().map_err(|e: ConfigError| Fault::Failed(e.to_string()))?,
    };
    Ok(Vault::new(store, log, callers, limits))
}

/// What a store that does not open means for a command.
pub(crate) fn fault_of_store(error: StoreError) -> Fault {
    let text = error.to_string();
    match error {
        StoreError::NotAStore(_) => Fault::NotFound(text),
        StoreError::Exists(_) | StoreError::InUse { .. } => Fault::Refused(text),
        StoreError::UnknownFormat(_) | StoreError::Damaged(_) | StoreError::BadBackup(_) => Fault::Damaged(text),
        StoreError::NoSpace | StoreError::Io(_) | StoreError::Failed(_) => Fault::Failed(text),
    }
}

fn serve(vault: &Arc<Vault>, config: &Config, unlocking: &Unlocking, woken: &mpsc::Receiver<Wake>) -> Wake {
    let mut complained = None::<Instant>;
    let mut unlocked_at = None::<Instant>;
    loop {
        match woken.recv_timeout(TICK) {
            Ok(Wake::Signal(SIGHUP)) => tracing::info!("nothing is read again while the daemon runs; restart it"),
            Ok(wake) => return wake,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Wake::SessionEnded,
        }
        let _ = vault.still_alive(&Scope::Host);
        if vault.locked_since().is_some() {
            unlocked_at = None;
        } else {
            let at = *unlocked_at.get_or_insert_with(|| {
                unlocking.call_off();
                after_unlock(vault);
                Instant::now()
            });
            if config.lock_after.is_some_and(|after| at.elapsed() >= after) {
                tracing::info!("lock_after has passed");
                if let Err(error) = vault.lock(&Daemon) {
                    tracing::error!(%error, "the store could not be locked; trying again every second");
                }
            }
        }
        match vault.sync() {
            Ok(()) | Err(VaultError::Locked) => complained = None,
            Err(error) if complained.is_none_or(|at| at.elapsed() > Duration::from_secs(60)) => {
                complained = Some(Instant::now());
                tracing::error!(%error, "changes of metadata are not on disk; trying again every second");
            }
            Err(_) => {}
        }
    }
}

fn watch_signals(wake: mpsc::Sender<Wake>) -> std::io::Result<signal_hook::iterator::Handle> {
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    let handle = signals.handle();
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            if wake.send(Wake::Signal(signal)).is_err() {
                return;
            }
        }
    })?;
    Ok(handle)
}

/// What a crash interrupted goes on by itself.
fn after_unlock(vault: &Arc<Vault>) {
    let vault = Arc::clone(vault);
    let started = std::thread::Builder::new().name("resealing".into()).spawn(move || match vault.finish_resealing() {
        Ok(0) | Err(VaultError::Locked) => {}
        Ok(blobs) => tracing::info!(blobs, "sealed to the changed recovery recipients"),
        Err(error) => tracing::error!(%error, "not all blobs are sealed to the changed recovery recipients"),
    });
    if let Err(error) = started {
        tracing::error!(%error, "no thread to seal blobs with");
    }
}

fn note(vault: &Vault, op: audit::Operation) {
    let who = Daemon.who();
    let event = Event {
        op,
        path: "",
        version: None,
        who: &who,
        decision: audit::Decision::Allowed,
        reason: env!("CARGO_PKG_VERSION"),
        errno: None,
    };
    if let Err(error) = vault.audit_log().allowed(&event) {
        tracing::error!(%error, "cannot be recorded");
    }
}
