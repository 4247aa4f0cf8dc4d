//! The daemon: everything put together, from the first system call to the last.
//!
//! Owns the order of starting and stopping. Decides nothing about secrets.

mod bounded;
mod confine;
mod export;
mod handover;
mod home_keys;
mod imports;
mod log;
mod mountpoint;
pub mod offline;
mod on_change;
mod unlocking;

use crate::audit::{self, Event, Log, Settings, WhenFull};
use crate::caller::{Callers, Daemon, Registry};
use crate::config::{AuditFull, Config, ConfigError, WhenLocked};
use crate::control::Server;
use crate::credentials::Credentials;
use crate::fs::fuse::{Connect, Mounted};
use crate::fs::register::Standing;
use crate::keyring::noted;
use crate::meter::Meter;
use crate::secret::Secret;
use crate::store::{Store, StoreError};
use crate::sys::{arena, keyctl, process};
use crate::vault::{Keeper, Limits, UnlockBy, Vault, VaultError};
use crate::wire::Fault;
use handover::{Inherited, Kept, Left};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};
use unlocking::Unlocking;

/// Locked memory for open secrets, at least; each is at most `max_secret_size`.
const ARENA: usize = 64 << 20;
/// How many of the largest secrets fit in any case.
const LARGEST_AT_ONCE: usize = 16;
/// How often changes of metadata are made durable, and revoked keys looked for.
const TICK: Duration = Duration::from_secs(1);

/// How long a daemon that is told to end waits for what is being changed.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the thread that waits for the ends of containers sleeps at most.
const LONG: Duration = Duration::from_secs(60);

enum Wake {
    Signal(i32),
    SessionEnded,
}

/// How much of the locked memory is for what is open and being written; the control socket's own is beside it.
fn memory_of_content(config: &Config) -> usize {
    ARENA.max(LARGEST_AT_ONCE * config.max_secret_size as usize)
}

/// Runs in the foreground until SIGTERM, SIGINT, or the end of the mount. With `hand_over` the supervisor keeps the
/// descriptors (handover): at SIGTERM the tree stays mounted, for the next daemon to take over.
///
/// # Errors
/// Why it could not start, or did not end well. Nothing is left mounted that was not handed over.
pub fn run(config: Config, hand_over: bool) -> Result<(), Fault> {
    let system = |what: &'static str| move |e: std::io::Error| Fault::Failed(format!("{what}: {e}"));
    // The keyring before the first thread: only threads started afterwards have it.
    keyctl::join_anonymous_session().map_err(system("cannot make a keyring"))?;
    let mut inherited = Inherited::take();
    process::harden().map_err(system("cannot lock memory"))?;
    process::raise_descriptor_limit().map_err(system("cannot raise the limit of open files"))?;
    log::start();
    let (wake, woken) = mpsc::channel();
    let signals = watch_signals(wake.clone()).map_err(system("cannot watch signals"))?;
    let memory = memory_of_content(&config) + crate::control::locked_bytes(&config);
    arena::init(memory).map_err(|e| Fault::Failed(e.to_string()))?;

    // First: two that are started at once are told apart by the store's lock, and the second touches nothing.
    let vault = Arc::new(open_vault(&config)?);
    let (store, generation) = vault.store_standing().map_err(|e| Fault::Failed(e.to_string()))?;
    let standing = Standing { store, generation: generation.0 };
    let (taken, cut) = match inherited.connection(&config.mountpoint, &standing)? {
        Left::Nothing => (None, None),
        Left::Tree(connect) => (Some(connect), None),
        Left::Cut(why) => (None, Some(why)),
    };
    let kept = if hand_over { inherited.identity().map(|(by, memory)| (by, Arc::new(Kept(memory)))) } else { None };
    if let Some((_, keeper)) = &kept {
        vault.keep_with(Arc::clone(keeper) as Arc<dyn Keeper>);
    }
    let unlocked_by = kept.as_ref().and_then(|(by, _)| by.as_ref());
    if taken.is_none() {
        mountpoint::prepare(&config.mountpoint)?;
    }
    let core = Arc::clone(&vault) as Arc<dyn crate::control::Core>;
    let mut server = Server::resume(&config, core, inherited.control(), Arc::clone(vault.meter()))
        .map_err(|e| Fault::Failed(e.to_string()))?;
    let listener = server.listener().map_err(system("cannot keep the control socket"))?;
    note(&vault, audit::Operation::Start);
    if let Some(why) = cut {
        let reason = format!("the tree of the last daemon was cut: {why}. What was open in it is to be opened anew");
        tracing::error!("{reason}");
        note_because(&vault, audit::Operation::HandOver, audit::Decision::Denied, &reason);
    }
    let mut unlocking = Unlocking::default();
    if let Some(identity) = unlocked_by {
        unlock_with_kept(&vault, identity);
    }
    // Callers wait already where a tree is taken over; elsewhere the mount comes first, so that they do.
    if taken.is_some() {
        unlocking.start(&vault, &config);
        unlocking.settled();
    }
    let patience = match config.when_locked {
        WhenLocked::Wait => Some(config.unlock_timeout),
        WhenLocked::Fail => None,
    };
    on_change::start(&vault, config.on_change.allow.clone()).map_err(system("cannot start a thread"))?;
    let enter = if config.confine { confine::enter } else { confine::not_at_all };
    let was_taken = taken.is_some();
    let connect = taken.unwrap_or(Connect::New);
    let mounted = Mounted::start(&vault, &config.mountpoint, connect, patience, enter, move || {
        // Nobody listens any more if the daemon is stopping already.
        let _ = wake.send(Wake::SessionEnded);
    })
    .map_err(|e| Fault::Failed(format!("cannot mount {}: {e}", config.mountpoint.display())))?;
    let ends = watch_ends(&vault).map_err(system("cannot watch containers"))?;
    unlocking.start(&vault, &config);
    // What hangs while the store is being unlocked must not keep an admin from doing it.
    server.run_in(enter).map_err(|e| Fault::Failed(e.to_string()))?;
    unlocking.settled();
    // After the unlock: what the last daemon published is there until it is put back.
    vault.serve_publications(noted::file(&config.control)).map_err(system("cannot start a thread"))?;
    let exports = export::Exports::start(&vault, &config).map_err(system("cannot start a thread"))?;
    vault.serve_views().map_err(system("cannot start a thread"))?;
    let credentials = match inherited.credentials() {
        Some(listener) => {
            let served = Credentials::serve(listener, Arc::clone(&vault), config.credentials.clone(), patience, enter);
            Some(served.map_err(system("cannot give credentials to units"))?)
        }
        None => None,
    };
    if hand_over {
        let identity = kept.as_ref().map(|(_, keeper)| keeper.0.fd().as_fd());
        handover::store(&config.mountpoint, was_taken, mounted.connection(), mounted.register(), &listener, identity)
            .map_err(system("cannot hand the mount over"))?;
    }
    drop((listener, kept));
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::warn!(%error, "systemd could not be told that the daemon is ready");
    }
    tracing::info!(mountpoint = %config.mountpoint.display(), store = %config.store.display(), "serving");

    let reason = serve(&vault, &config, &unlocking, &woken);
    unlocking.stop();
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    drop(credentials);
    ends.stop(&vault);
    exports.stop(&vault);
    if let (true, Wake::Signal(signal)) = (hand_over, &reason) {
        note_stop(&vault);
        server.leave();
        if !mounted.freeze(PATIENCE) {
            tracing::warn!("a change was under way for too long to be waited for");
        }
        // The log stays open to the end: until this process is gone, it answers.
        if let Err(error) = vault.freeze()
            && !matches!(error, VaultError::Locked)
        {
            tracing::error!(%error, "the last changes of metadata are not on disk");
        }
        tracing::info!(signal, "left to the next daemon");
        mounted.leave();
        return Ok(());
    }
    server.stop();
    if hand_over {
        handover::withdraw();
    }
    let stopped = mounted.stop();
    note_stop(&vault);
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
        space: Some(config.audit_space),
    };
    let log = Log::open(settings, None).map_err(|e| Fault::Failed(e.to_string()))?;
    let instances = Arc::new(Registry::default());
    let callers = Callers::with_instances(Arc::clone(&instances) as Arc<dyn crate::caller::Instances>);
    let callers = callers.map_err(|e| Fault::Failed(format!("cannot look at processes: {e}")))?;
    let limits = Limits {
        max_secret_size: config.max_secret_size,
        max_secrets: config.max_secrets,
        max_instances: config.max_instances,
        keep_versions: usize::try_from(config.keep_versions).unwrap_or(usize::MAX),
        allow_reveal: config.allow_reveal,
        mountpoint: config.mountpoint.clone(),
        operator_gid: config.operator_gid().map_err(|e: ConfigError| Fault::Failed(e.to_string()))?,
    };
    let meter = Meter::new(&config.limits, memory_of_content(config) as u64, config.max_secrets);
    let vault = Vault::new(store, log, callers, limits).with_instances(instances).with_meter(meter);
    vault.with_imports(imports::settings(config));
    vault.set_pairs(config.certs.pair.clone());
    vault.set_key_type(config.certs.key_type);
    let vault = vault.with_shows_per_minute(config.passwords.show_per_minute);
    Ok(vault.with_rotations_per_minute(config.passwords.rotate_per_minute))
}

/// What a store that does not open means for a command.
pub(crate) fn fault_of_store(error: StoreError) -> Fault {
    let text = error.to_string();
    match error {
        StoreError::NotAStore(_) => Fault::NotFound(text),
        StoreError::Exists(_) | StoreError::InUse { .. } | StoreError::Unsafe { .. } => Fault::Refused(text),
        StoreError::UnknownFormat(_) | StoreError::Damaged(_) | StoreError::BadBackup(_) => Fault::Damaged(text),
        StoreError::NoSpace | StoreError::Io(_) | StoreError::Failed(_) => Fault::Failed(text),
    }
}

fn serve(vault: &Arc<Vault>, config: &Config, unlocking: &Unlocking, woken: &mpsc::Receiver<Wake>) -> Wake {
    let mut complained = None::<Instant>;
    let mut unlocked_at = None::<Instant>;
    loop {
        match woken.recv_timeout(TICK) {
            Ok(Wake::Signal(SIGHUP)) => {
                tracing::info!("the policy is read again; for the configuration, restart the daemon");
                vault.reload_policy();
            }
            Ok(wake) => return wake,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Wake::SessionEnded,
        }
        vault.look_after_keys();
        // After a look at the keys and before the next commit: a daemon that hangs in either is not alive.
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
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
        match vault.tick() {
            Ok(()) | Err(VaultError::Locked) => complained = None,
            Err(error) if complained.is_none_or(|at| at.elapsed() > Duration::from_secs(60)) => {
                complained = Some(Instant::now());
                tracing::error!(%error, "changes of metadata are not on disk; trying again every second");
            }
            Err(_) => {}
        }
    }
}

/// The thread that detaches containers whose first process has ended.
struct Ends(Arc<AtomicBool>);

impl Ends {
    fn stop(&self, vault: &Vault) {
        self.0.store(true, Ordering::Relaxed);
        vault.stop_waiting();
    }
}

fn watch_ends(vault: &Arc<Vault>) -> std::io::Result<Ends> {
    let stopping = Arc::new(AtomicBool::new(false));
    let (vault, stop) = (Arc::clone(vault), Arc::clone(&stopping));
    std::thread::Builder::new().name("instances".into()).spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            vault.detach_ended(LONG);
        }
    })?;
    Ok(Ends(stopping))
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

/// Unlocks with what the last daemon was unlocked with.
fn unlock_with_kept(vault: &Vault, identity: &Secret) {
    if let Err(error) = vault.unlock(&Daemon, &UnlockBy::Kept(identity)) {
        tracing::error!(%error, "the identity that was kept does not unlock the store");
    }
}

/// What a crash interrupted goes on by itself.
fn after_unlock(vault: &Arc<Vault>) {
    let vault = Arc::clone(vault);
    let started = std::thread::Builder::new().name("resealing".into()).spawn(move || {
        match vault.finish_rekey() {
            Ok(()) | Err(VaultError::Locked) => {}
            Err(error) => tracing::error!(%error, "what a rekeying left behind is not cleared away"),
        }
        match vault.finish_resealing() {
            Ok(0) | Err(VaultError::Locked) => {}
            Ok(blobs) => tracing::info!(blobs, "sealed to the changed recovery recipients"),
            Err(error) => tracing::error!(%error, "not all blobs are sealed to the changed recovery recipients"),
        }
    });
    if let Err(error) = started {
        tracing::error!(%error, "no thread to seal blobs with");
    }
}

/// The last line, which says how far the store had come: as far as it will.
fn note_stop(vault: &Vault) {
    // What fails is told where it is tried again.
    let _ = vault.sync();
    note(vault, audit::Operation::Stop);
}

fn note(vault: &Vault, op: audit::Operation) {
    note_because(vault, op, audit::Decision::Allowed, env!("CARGO_PKG_VERSION"));
}

fn note_because(vault: &Vault, op: audit::Operation, decision: audit::Decision, reason: &str) {
    let who = Daemon.who();
    let event = Event { op, path: "", version: None, who: &who, decision, reason, errno: None };
    if let Err(error) = vault.audit_log().allowed(&event) {
        tracing::error!(%error, "cannot be recorded");
    }
}
