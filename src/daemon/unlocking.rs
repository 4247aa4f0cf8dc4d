//! The daemon unlocks by itself: a race at its start, and the programs again and again while nothing opened the store.
//!
//! Owns the thread that waits for it. A store that an admin locked stays locked.

use crate::caller::Daemon;
use crate::config::Config;
use crate::lock::Mutex;
use crate::unlock::{Canceller, Ended, From, MethodError, Race, Timing, Verdict, Where, methods};
use crate::vault::{UnlockBy, Vault, VaultError};
use crate::wire::UnlockWith;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long the daemon's start waits for what answers at once.
const SETTLE: Duration = Duration::from_secs(20);

/// The attempt to unlock: not begun, under way or over.
#[derive(Default)]
pub struct Unlocking(Option<Begun>);

struct Begun {
    settled: Mutex<Receiver<()>>,
    stop: Sender<()>,
    racing: Arc<Mutex<Option<Canceller>>>,
    thread: JoinHandle<()>,
}

impl Unlocking {
    /// Begins it, unless it was, or there is nothing to unlock.
    pub fn start(&mut self, vault: &Arc<Vault>, config: &Config) {
        if self.0.is_some() || vault.locked_since().is_none() {
            return;
        }
        let (stop, stopped) = mpsc::channel();
        let (settle, settled) = mpsc::channel();
        let racing = Arc::default();
        let work = Work {
            vault: Arc::clone(vault),
            config: config.clone(),
            places: Where::of_this_process(),
            stopped,
            racing: Arc::clone(&racing),
        };
        match std::thread::Builder::new().name("unlocking".into()).spawn(move || work.run(settle)) {
            Ok(thread) => self.0 = Some(Begun { settled: Mutex::new(settled), stop, racing, thread }),
            Err(error) => tracing::error!(%error, "no thread to unlock the store with"),
        }
    }

    /// Waits until everything that answers at once was tried: what is configured for an unattended start has worked by
    /// then, or will not.
    pub fn settled(&self) {
        let Some(begun) = &self.0 else { return };
        let settled = begun.settled.lock();
        // An end of the thread is an end of waiting, too.
        let _ = settled.recv_timeout(SETTLE);
    }

    /// Ends it, soon: the store is unlocked. Whoever locks it later finds it locked.
    pub fn call_off(&self) {
        let Some(begun) = &self.0 else { return };
        // The thread may be gone.
        let _ = begun.stop.send(());
        if let Some(canceller) = &*begun.racing.lock() {
            canceller.cancel();
        }
    }

    /// Ends it, and everything it has started.
    pub fn stop(self) {
        self.call_off();
        if let Some(begun) = self.0 {
            // One that panicked has said so.
            let _ = begun.thread.join();
        }
    }
}

struct Work {
    vault: Arc<Vault>,
    config: Config,
    places: Where,
    stopped: Receiver<()>,
    racing: Arc<Mutex<Option<Canceller>>>,
}

impl Work {
    fn run(self, settle: Sender<()>) {
        let mut from = From::Start;
        let mut settle = Some(settle);
        let told = Arc::default();
        loop {
            let methods = methods(&self.config, &self.places, from);
            if methods.is_empty() {
                return tracing::info!("locked; waiting for `pinfold unlock`");
            }
            let unlock = &self.config.unlock;
            let mut race = Race::new(Timing { overall: unlock.timeout, method: unlock.method_timeout });
            let known = Arc::clone(&told);
            race = race.on_failed(move |method, error| tell_once(&known, method, error));
            if let Some(settle) = settle.take() {
                race = race.on_settled(move || {
                    let _ = settle.send(());
                });
            }
            *self.racing() = Some(race.canceller());
            // Asked to end before there was anything to call off.
            if self.stopped.try_recv().is_ok() {
                return;
            }
            let ended = race.run(methods, &mut |name, answer| self.judge(name, answer));
            *self.racing() = None;
            match ended {
                Ended::Won(method) => return tracing::info!(%method, "unlocked"),
                Ended::Over => return,
                Ended::Lost => tracing::warn!("locked: nothing that is configured unlocked the store"),
            }
            from = From::Again;
            match self.stopped.recv_timeout(unlock.retry_after) {
                Err(RecvTimeoutError::Timeout) if self.vault.locked_since().is_some() => {}
                _ => return,
            }
        }
    }

    fn racing(&self) -> crate::lock::MutexGuard<'_, Option<Canceller>> {
        self.racing.lock()
    }

    fn judge(&self, method: &str, answer: &UnlockWith) -> Verdict {
        if self.vault.locked_since().is_none() || self.stopped.try_recv().is_ok() {
            return Verdict::Over;
        }
        match self.vault.unlock_with(&Daemon, &UnlockBy::from(answer), method) {
            Ok(()) => Verdict::Opens,
            Err(VaultError::WrongKey(error)) => {
                tracing::warn!(method, %error, "a wrong answer");
                Verdict::Wrong
            }
            Err(VaultError::NothingToDo(_)) => Verdict::Over,
            Err(error) => {
                tracing::error!(method, %error, "the answer was right, and the store does not unlock");
                Verdict::Over
            }
        }
    }
}

/// What failed each method the last time it was told.
type Told = Mutex<HashMap<String, String>>;

/// A program that fails in the same way at every try is told of once.
fn tell_once(told: &Told, method: &str, error: &MethodError) {
    let text = error.to_string();
    let before = told.lock().insert(method.to_owned(), text.clone());
    if matches!(error, MethodError::Nothing) || before == Some(text) {
        tracing::debug!(method, %error, "a way to unlock has no answer");
    } else {
        tracing::warn!(method, %error, "a way to unlock failed");
    }
}
