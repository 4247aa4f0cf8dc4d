//! The use cases: unlock, open, commit, change, remove, and what an admin asks for. The one door to every secret.
//!
//! Owns the tree in memory, the keys while unlocked, and the order of things: decide, record, do, make durable. Every
//! front (the filesystem, the control socket) comes through here; `access` alone makes the grants that open content.
//!
//! Locks, in this order: `sealing_anew` (whoever seals all blobs anew), then `writer` (one mutation at a time, held across
//! its transaction), then `state` (readers share it;
//! writers hold it for the moment of a change in memory). The publisher's `board` comes
//! before both and is never asked for by who has one of them. Opening and reading take `state` alone, shared, and release it
//! before they read a blob, ask /proc, or write the log.

mod abreast;
mod admin_xattrs;
mod attrs;
mod authority;
mod backup;
mod cached_instance;
mod certs;
mod change;
mod clock;
mod commit;
mod conditions;
mod declare;
mod error;
mod export;
mod fault;
mod fsck;
mod history;
mod import;
mod instance_end;
mod instances;
mod judging;
mod kept;
mod links;
mod listed;
mod log;
mod look;
#[cfg(test)]
mod many_test;
mod node;
mod on_change;
mod open;
mod pairs;
mod passwords;
mod protectors;
mod publish;
mod put;
mod recovery;
mod rekey;
mod remove;
mod rename;
mod scopes;
mod serve;
mod setup;
mod state;
mod status;
mod take_up;
#[cfg(test)]
mod transact_test;
mod tree;
mod txn;
mod unlock;
mod version;
mod view;
mod views;
mod who;
mod world;
mod write_right;
mod writer;
mod xattr;

pub use change::{NewNode, SetAttr, TimeChange};
pub use commit::Content;
pub use declare::ScopeInfo;
pub use error::VaultError;
pub use export::{Errand, ErrandKind, ExportSettings};
pub use import::{
    AccountRecord, AdminRecord, Check, ConsoleRecord, INCOMING, LastImport, Settings as ImportSettings,
    is_account_name, mark,
};
pub use instances::{Attach, InstanceInfo};
pub use look::{Attempt, Look};
pub use node::{Attr, InstanceRecord, ScopeRecord, UidMap};
pub use on_change::{Action, ON_CHANGE, Touched, Verb};
pub use open::{Opened, Showing};
pub use recovery::escrow_of;
pub use rekey::{NextIdentity, Rekeyed};
pub use rename::Rename;
pub use scopes::Holder;
pub use setup::{Recovery, create_store};
pub use unlock::{UnlockBy, verify_store};
pub use write_right::{ModeIs, WriteRight};
pub use xattr::XattrMode;

pub(crate) use backup::backup_report;

use crate::access::ScopeState;
use crate::audit::Log;
use crate::caller::{Callers, Control, Daemon, Process, Registry};
use crate::lock::{Mutex, RwLock, rank};
use crate::meter::{Meter, Payer, Shares};
use crate::model::{CallerInfo, Generation, Ino, Name, Scope, SecretPath, Subject, Timestamp};
use crate::secret::Secret;
use crate::store::{Batch, Durability, Store};
use abreast::Abreast;
use clock::Clock;
use export::Exporter;
use passwords::Passwords;
use publish::Publisher;
use state::{State, Unlocked};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tree::Tree;
use views::Views;
use writer::Writer;

/// The bounds and switches the vault keeps to.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The largest secret, in bytes.
    pub max_secret_size: u64,
    /// The most nodes in all.
    pub max_secrets: u64,
    /// The most instances that are attached at once.
    pub max_instances: u64,
    /// How many versions of a secret are kept.
    pub keep_versions: usize,
    /// Whether `cat --reveal` shows content.
    pub allow_reveal: bool,
    /// Where the tree is mounted: nothing there is ever looked at by the daemon.
    pub mountpoint: PathBuf,
    /// The group of the operators: they use the control socket as well as root.
    pub operator_gid: Option<u32>,
}

/// Somebody who can be judged and recorded.
pub trait Caller: Subject {
    /// What the log says of him.
    fn who(&self) -> CallerInfo;
}

impl Caller for Process {
    fn who(&self) -> CallerInfo {
        Process::who(self)
    }
}

impl Caller for Control {
    fn who(&self) -> CallerInfo {
        Control::who(self)
    }
}

impl Caller for Daemon {
    fn who(&self) -> CallerInfo {
        Daemon::who(self)
    }
}

/// What the kernel should hear of: it caches names and attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A name came, went, or means another node.
    Entry {
        /// The directory.
        parent: Ino,
        /// The name.
        name: Name,
    },
    /// Attributes or content of a node changed.
    Node(Ino),
    /// The owners of all these show as others now.
    Nodes(Vec<Ino>),
    /// This instance opens nothing any more: what the kernel keeps of what it mapped is to go.
    CutOff(Ino),
    /// The store was locked: all names are unknown.
    Locked,
    /// The store was unlocked.
    Unlocked,
}

/// Who hears of changes that did not come through the kernel.
pub trait Observer: Send + Sync {
    /// Something changed. Never blocks.
    fn changed(&self, change: Change);
    /// Waits until the kernel has been told of every change so far; whether that was done in time.
    fn settle(&self, within: Duration) -> bool;
    /// Handles open on secrets.
    fn open_handles(&self) -> u64;
    /// Callers that wait for an unlock.
    fn waiting(&self) -> u64;
}

/// Who keeps the opened identity for the daemon that comes after this one.
pub trait Keeper: Send + Sync {
    /// The store was unlocked with this identity.
    fn keep(&self, identity: &Secret);
    /// Beside what is kept already, this one may open the store by the time that somebody looks.
    fn keep_also(&self, identity: &Secret);
    /// It was locked: nobody is to have it any more.
    fn forget(&self);
}

/// The vault.
pub struct Vault {
    limits: Limits,
    meter: Arc<Meter>,
    clock: Clock,
    store: Store,
    audit: Arc<Log>,
    /// Whether the log was found to be the one the store knows.
    audit_compared: AtomicBool,
    callers: Callers,
    /// The same that `callers` look into.
    registry: Arc<Registry>,
    state: RwLock<State, { rank::STATE }>,
    writer: Mutex<Writer, { rank::WRITER }>,
    /// How many wait for it.
    wanted_by: AtomicUsize,
    abreast: Abreast,
    observer: OnceLock<Arc<dyn Observer>>,
    publisher: Publisher,
    exporter: Exporter,
    passwords: Passwords,
    views: Views,
    keeper: OnceLock<Arc<dyn Keeper>>,
    on_change: OnceLock<std::sync::mpsc::Sender<Touched>>,
    imports: OnceLock<ImportSettings>,
    pairs: OnceLock<Vec<crate::config::Pair>>,
    new_keys: OnceLock<crate::model::KeyType>,
    /// Held by whoever signs by an own authority: one at a time. Taken before every other lock.
    signing: Mutex<(), { rank::ALONE }>,
    /// What the last look at the certificates found. Asked for by itself alone.
    expiring: Mutex<Option<crate::wire::CertStatus>>,
    /// Held by whoever seals every blob anew: one at a time. Taken before every other lock.
    sealing_anew: Mutex<(), { rank::SEALING }>,
    /// The process that wakes watchers for the daemon and has not been waited for; 0 for none.
    waker: Arc<AtomicU32>,
    started: Instant,
}

impl Vault {
    /// A vault over an open store, locked.
    pub fn new(store: Store, audit: Arc<Log>, callers: Callers, limits: Limits) -> Self {
        let meter = Meter::new(&Shares::default(), crate::sys::arena::usage().1 as u64, limits.max_secrets);
        Vault {
            limits,
            meter,
            clock: Clock::default(),
            store,
            audit,
            audit_compared: AtomicBool::new(false),
            callers,
            registry: Arc::default(),
            state: RwLock::new(State::Locked { since: Instant::now(), at: Timestamp::now() }),
            writer: Mutex::new(Writer::default()),
            wanted_by: AtomicUsize::new(0),
            abreast: Abreast::default(),
            observer: OnceLock::new(),
            publisher: Publisher::default(),
            exporter: Exporter::default(),
            passwords: Passwords::default(),
            views: Views::default(),
            keeper: OnceLock::new(),
            on_change: OnceLock::new(),
            imports: OnceLock::new(),
            pairs: OnceLock::new(),
            new_keys: OnceLock::new(),
            signing: Mutex::new(()),
            expiring: Mutex::default(),
            waker: Arc::default(),
            sealing_anew: Mutex::new(()),
            started: Instant::now(),
        }
    }

    /// Where whoever starts the child that wakes watchers notes it, until it has been waited for.
    pub fn waker(&self) -> Arc<AtomicU32> {
        Arc::clone(&self.waker)
    }

    /// Whether a thread is that child's: it writes nothing, and its opens are no decision of anybody's.
    pub fn is_waker(&self, tid: u32) -> bool {
        tid != 0 && self.waker.load(Ordering::SeqCst) == tid
    }

    /// With the attached instances that the callers are looked up in.
    pub fn with_instances(self, registry: Arc<Registry>) -> Self {
        Vault { registry, ..self }
    }

    /// With the bounds of what callers can use up; without it they are the defaults.
    pub fn with_meter(self, meter: Arc<Meter>) -> Self {
        Vault { meter, ..self }
    }

    /// Which store this is over, and the last commit that it knows of: verified if it is unlocked, else what the store claims.
    ///
    /// # Errors
    /// [`VaultError::Failed`], [`VaultError::Damaged`].
    pub fn store_standing(&self) -> Result<(Option<[u8; 16]>, Generation), VaultError> {
        let generation = self.store.generation().map_or_else(|| self.store.claimed_generation(), Ok)?;
        Ok((self.store.id()?, generation))
    }

    /// Each commit is told from now on. Never blocks.
    pub fn on_generation(&self, told: Box<dyn Fn(Generation) + Send + Sync>) {
        self.store.on_generation(told);
    }

    /// The bounds of what callers can use up, and what is used.
    pub fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }

    /// Who pays for what a caller uses: the instance it is in, or its uid. In doubt its uid.
    pub fn payer(&self, caller: &impl Caller) -> Payer {
        let inside = caller.instance().ok().flatten();
        let ino = inside.and_then(|id| self.with_open(|open| open.scopes.by_id(&id.id).map(|(ino, _)| ino)).ok()?);
        Payer::of(caller.uid(), ino)
    }

    /// Sets who hears of changes. Only the first counts.
    pub fn observe(&self, observer: Arc<dyn Observer>) {
        let _ = self.observer.set(observer);
    }

    /// Sets who keeps the identity over a restart. Only the first counts.
    pub fn keep_with(&self, keeper: Arc<dyn Keeper>) {
        let _ = self.keeper.set(keeper);
    }

    /// The audit log.
    pub fn audit_log(&self) -> &Log {
        &self.audit
    }

    /// Who callers are found out by.
    pub fn callers(&self) -> &Callers {
        &self.callers
    }

    /// Since when the store is locked; `None` while it is unlocked.
    pub fn locked_since(&self) -> Option<Instant> {
        match &*self.read_state() {
            State::Locked { since, .. } => Some(*since),
            State::Unlocked(_) => None,
        }
    }

    /// The bounds.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Room for content: bytes free on the store's filesystem, and in all.
    ///
    /// # Errors
    /// [`VaultError::Failed`] if the filesystem does not say.
    pub fn space(&self) -> Result<crate::store::Space, VaultError> {
        Ok(self.store.free_space()?)
    }

    /// How many nodes there are; 0 while locked.
    pub fn count(&self) -> u64 {
        self.with_tree(|tree| tree.len()).unwrap_or(0)
    }

    fn notify(&self, change: Change) {
        match change {
            Change::Locked => {
                self.withdraw_all("locked", Duration::ZERO);
                self.forget_sizes();
            }
            Change::Unlocked => {
                self.publisher.touch_all();
                self.exporter.touch_all();
                self.all_directories_anew();
            }
            Change::CutOff(_) => self.publisher.touch_all(),
            Change::Entry { .. } | Change::Node(_) | Change::Nodes(_) => {}
        }
        if let Some(observer) = self.observer.get() {
            observer.changed(change);
        }
    }

    /// A node's path, with a name below it; empty while locked.
    pub fn path_of(&self, ino: Ino, name: Option<&str>) -> String {
        let path = self.with_tree(|t| t.path(ino)).ok().flatten().unwrap_or_else(SecretPath::root).to_string();
        match name {
            Some(name) if path.is_empty() => name.to_owned(),
            Some(name) => format!("{path}/{name}"),
            None => path,
        }
    }

    /// The state of a scope's key at this moment.
    pub fn scope_state(&self, scope: &Scope) -> ScopeState {
        match self.keys() {
            Ok(keys) => keys.state(scope),
            Err(_) => ScopeState::Missing,
        }
    }

    /// Writes the log's last lines and makes the store durable, with an anchor at the very last of them: what is cut off
    /// after a clean end shows. For the end of the daemon.
    pub fn shutdown(&self) {
        self.publisher.stop();
        self.exporter.stop();
        self.withdraw_all("the daemon ends", Duration::from_secs(2));
        self.audit.shutdown();
        let mut writer = self.lock_writer();
        let done = self.journal(&mut writer, Batch::default(), &BTreeMap::new(), Durability::Lazy);
        let done = done.and_then(|()| Ok(self.store.checkpoint()?));
        if let Err(error) = done
            && !matches!(error, VaultError::Locked)
        {
            tracing::error!(%error, "the last changes are not on disk");
        }
    }
}
