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
mod admin;
mod admin_xattrs;
mod authority;
mod cached_instance;
mod certs;
mod change;
mod clock;
mod commit;
mod conditions;
mod containers;
mod declare;
mod error;
mod export;
mod fault;
mod fsck;
mod history;
mod import;
mod instance_end;
mod instances;
mod kept;
mod links;
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
mod recovery;
mod rekey;
mod remove;
mod scopes;
mod setup;
#[cfg(test)]
mod transact_test;
mod tree;
mod txn;
mod unlock;
mod view;
mod views;
mod who;
mod world;
mod writer;
mod xattr;

pub use change::{NewNode, Rename, SetAttr, TimeChange};
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
pub use open::{ModeIs, Opened, Showing, WriteRight};
pub use recovery::escrow_of;
pub use rekey::{NextIdentity, Rekeyed};
pub use scopes::Holder;
pub use setup::{Recovery, create_store};
pub use unlock::{UnlockBy, verify_store};
pub use xattr::XattrMode;

pub(crate) use admin::backup_report;

use crate::access::{self, Denial, Grant, Operation, ScopeState};
use crate::audit::{self, Decision, Event, Log};
use crate::caller::{Callers, Control, Daemon, Process, Registry};
use crate::meter::{Meter, Payer, Shares};
use crate::model::{Generation, Ino, Name, Scope, SecretPath, Subject, Timestamp, Who};
use crate::secret::Secret;
use crate::store::{AuditAnchor, Batch, Durability, Store};
use abreast::Abreast;
use clock::Clock;
use export::{Exporter, Records};
use node::Node;
use passwords::Passwords;
use publish::Publisher;
use scopes::Scopes;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};
use tree::Tree;
use unlock::Keys;
use view::View;
use views::Views;
use world::SystemWorld;
use writer::Writer;

/// For how long, at most, work on all of the store lets others go first each time.
const GIVE_WAY: Duration = Duration::from_millis(10);

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
    fn who(&self) -> Who;
}

impl Caller for Process {
    fn who(&self) -> Who {
        Process::who(self)
    }
}

impl Caller for Control {
    fn who(&self) -> Who {
        Control::who(self)
    }
}

impl Caller for Daemon {
    fn who(&self) -> Who {
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
    state: RwLock<State>,
    writer: Mutex<Writer>,
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
    signing: Mutex<()>,
    /// What the last look at the certificates found. Asked for by itself alone.
    expiring: Mutex<Option<crate::wire::CertStatus>>,
    /// Held by whoever seals every blob anew: one at a time. Taken before every other lock.
    sealing_anew: Mutex<()>,
    /// The process that wakes watchers for the daemon and has not been waited for; 0 for none.
    waker: Arc<AtomicU32>,
    started: Instant,
}

enum State {
    Locked { since: Instant, at: Timestamp },
    Unlocked(Box<Unlocked>),
}

struct Unlocked {
    tree: Tree,
    keys: Arc<Keys>,
    scopes: Scopes,
    exports: Records,
    consoles: import::Consoles,
}

impl Unlocked {
    /// What stat(2) shows of a node.
    fn attr(&self, ino: Ino) -> Option<Attr> {
        let node = self.tree.get(ino)?;
        Some(node.attr(ino, &self.scopes.view(&node.scope)))
    }

    /// The same, and whether it is a view, whose size the node does not know.
    fn shown(&self, ino: Ino) -> Option<(Attr, bool)> {
        Some((self.attr(ino)?, self.tree.get(ino)?.is_view()))
    }
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
    pub fn tell_generations(&self, told: Box<dyn Fn(Generation) + Send + Sync>) {
        self.store.tell_generations(told);
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

    /// What stat(2) shows.
    ///
    /// # Errors
    /// [`VaultError::Locked`], [`VaultError::NotFound`].
    pub fn attr(&self, ino: Ino) -> Result<Attr, VaultError> {
        let found = self.with_open(|open| open.shown(ino))?;
        self.sized(found)
    }

    /// What was found, with the size that readers meet. Called without the vault's locks.
    fn sized(&self, found: Option<(Attr, bool)>) -> Result<Attr, VaultError> {
        match found.ok_or(VaultError::NotFound)? {
            (attr, true) => Ok(self.with_composed_size(attr)),
            (attr, false) => Ok(attr),
        }
    }

    /// The node of this name in a directory.
    ///
    /// # Errors
    /// [`VaultError::Locked`], [`VaultError::NotFound`].
    pub fn lookup(&self, parent: Ino, name: &str) -> Result<Attr, VaultError> {
        let look = |open: &Unlocked| {
            let found = open.tree.child(parent, name).and_then(|ino| open.shown(ino));
            (open.tree.all_views().is_stale(parent), found)
        };
        let (stale, mut found) = self.with_open(look)?;
        if stale {
            self.refresh_if_stale(parent);
            found = self.with_open(look)?.1;
        }
        self.sized(found)
    }

    /// The node at a path; symlinks are not followed.
    ///
    /// # Errors
    /// [`VaultError::Locked`], [`VaultError::NotFound`].
    pub fn find(&self, path: &SecretPath) -> Result<Ino, VaultError> {
        self.with_tree(|tree| tree.find(path))?.ok_or(VaultError::NotFound)
    }

    /// The entries of a directory: inode, what it is, name; sorted by name.
    ///
    /// # Errors
    /// [`VaultError::Locked`], [`VaultError::NotFound`].
    pub fn entries(&self, directory: Ino) -> Result<Vec<(Ino, crate::model::Kind, Name)>, VaultError> {
        self.refresh_if_stale(directory);
        let entries = self.with_tree(|tree| {
            let children = tree.children(directory)?;
            let entry = |(name, ino): (&Name, &Ino)| tree.get(*ino).map(|n| (*ino, n.kind, name.clone()));
            Some(children.iter().filter_map(entry).collect())
        })?;
        entries.ok_or(VaultError::NotFound)
    }

    /// Counts up whenever the entries of a directory change, while the store is unlocked.
    ///
    /// # Errors
    /// [`VaultError::Locked`], [`VaultError::NotFound`].
    pub fn entries_generation(&self, directory: Ino) -> Result<u64, VaultError> {
        self.refresh_if_stale(directory);
        self.with_tree(|tree| tree.entries_generation(directory))?.ok_or(VaultError::NotFound)
    }

    /// The directory a directory is in.
    ///
    /// # Errors
    /// [`VaultError::Locked`], [`VaultError::NotFound`].
    pub fn parent(&self, ino: Ino) -> Result<Ino, VaultError> {
        self.with_tree(|tree| tree.get(ino).map(|n| n.parent))?.ok_or(VaultError::NotFound)
    }

    /// Where a symlink points.
    ///
    /// # Errors
    /// [`VaultError::Locked`], [`VaultError::NotFound`], [`VaultError::Invalid`] for what is no symlink.
    pub fn read_link(&self, ino: Ino) -> Result<String, VaultError> {
        let node = self.node(ino)?;
        node.target.as_ref().map(|t| t.to_string()).ok_or_else(|| VaultError::Invalid("not a symlink".into()))
    }

    fn read_state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_state(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn sealing_anew(&self) -> MutexGuard<'_, ()> {
        self.sealing_anew.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets those go first who wait for the writer's lock. For who takes it again and again: a mutex is not fair, and he has it back before the one who is
    /// woken has looked.
    fn give_way(&self) {
        let until = Instant::now() + GIVE_WAY;
        while self.wanted_by.load(Ordering::Relaxed) > 0 && Instant::now() < until {
            std::thread::sleep(GIVE_WAY / 100);
        }
    }

    fn with_open<R>(&self, f: impl FnOnce(&Unlocked) -> R) -> Result<R, VaultError> {
        match &*self.read_state() {
            State::Unlocked(open) => Ok(f(open)),
            State::Locked { .. } => Err(VaultError::Locked),
        }
    }

    fn with_tree<R>(&self, f: impl FnOnce(&Tree) -> R) -> Result<R, VaultError> {
        self.with_open(|open| f(&open.tree))
    }

    /// Changes what is in memory; the writer's lock is held by the caller.
    fn with_open_mut<R>(&self, f: impl FnOnce(&mut Unlocked) -> R) -> Result<R, VaultError> {
        let (result, views) = match &mut *self.write_state() {
            State::Unlocked(open) => {
                let result = f(open);
                let views = open.tree.take_touched_views();
                let (touched, succeeded) = open.tree.published().take_touched();
                self.publisher.touch(touched, succeeded);
                self.exporter.touch(open.tree.take_exported());
                (result, views)
            }
            State::Locked { .. } => return Err(VaultError::Locked),
        };
        self.sources_changed(views);
        Ok(result)
    }

    /// Changes the tree in memory; the writer's lock is held by the caller.
    fn with_tree_mut<R>(&self, f: impl FnOnce(&mut Tree) -> R) -> Result<R, VaultError> {
        self.with_open_mut(|open| f(&mut open.tree))
    }

    /// What is changed in the tree from now on can be taken back.
    fn begin_undo(&self) -> Result<(), VaultError> {
        match &mut *self.write_state() {
            State::Unlocked(open) => {
                open.tree.begin();
                Ok(())
            }
            State::Locked { .. } => Err(VaultError::Locked),
        }
    }

    fn end_undo(&self, keep: bool) {
        let ended = if keep {
            match &mut *self.write_state() {
                State::Unlocked(open) => open.tree.keep(),
                State::Locked { .. } => {}
            }
            Ok(())
        } else {
            self.with_tree_mut(Tree::roll_back)
        };
        debug_assert!(ended.is_ok() || self.locked_since().is_some());
    }

    /// How a scope's ids show, now.
    fn view(&self, scope: &Scope) -> View {
        match scope {
            Scope::Host => View::plain(),
            Scope::Container(_) => self.with_open(|open| open.scopes.view(scope)).unwrap_or_default(),
        }
    }

    fn keys(&self) -> Result<Arc<Keys>, VaultError> {
        match &*self.read_state() {
            State::Unlocked(open) => Ok(Arc::clone(&open.keys)),
            State::Locked { .. } => Err(VaultError::Locked),
        }
    }

    fn node(&self, ino: Ino) -> Result<Arc<Node>, VaultError> {
        self.with_tree(|tree| tree.get(ino).cloned())?.ok_or(VaultError::NotFound)
    }

    /// Whether a node is another one now, or none, once what is under way is done: then a blob that is not there any
    /// more is no damage.
    fn moved_on(&self, ino: Ino, node: &Node) -> bool {
        drop(self.lock_writer());
        self.node(ino).map_or(true, |now| now.versions != node.versions)
    }

    fn node_and_path(&self, ino: Ino) -> Result<(Arc<Node>, String), VaultError> {
        let found = self.with_tree(|tree| {
            let node = tree.get(ino).cloned()?;
            Some((node, tree.path(ino).map(|p| p.to_string()).unwrap_or_default()))
        })?;
        found.ok_or(VaultError::NotFound)
    }

    fn judge<S: Subject + ?Sized>(
        &self,
        subject: &S,
        ino: Ino,
        node: &Node,
        scope: ScopeState,
        operation: Operation,
    ) -> Result<Grant, Denial> {
        let view = self.view(&node.scope);
        let acl = node.meta.acl.as_ref().map(|acl| view.shown_acl(acl));
        access::decide(subject, &node.object(ino, &view, acl.as_deref()), scope, &self.world(), operation)
    }

    /// What the judge asks beside who it is about.
    fn world(&self) -> SystemWorld<'_> {
        SystemWorld { clock: &self.clock, mountpoint: &self.limits.mountpoint }
    }

    /// Decides a change of the tree, and records a refusal. What is allowed is recorded by [`Vault::record`].
    fn allow(
        &self,
        caller: &impl Caller,
        ino: Ino,
        node: &Node,
        operation: Operation,
        event: audit::Operation,
        path: &str,
    ) -> Result<Grant, VaultError> {
        self.judge(caller, ino, node, ScopeState::Alive, operation).map_err(|denial| {
            self.refuse(event, path, None, &caller.who(), &denial.to_string());
            VaultError::Denied(denial)
        })
    }

    /// Writes down what is about to be done.
    fn record(
        &self,
        op: audit::Operation,
        path: &str,
        version: Option<u64>,
        who: &Who,
        reason: &str,
    ) -> Result<(), VaultError> {
        let event = Event { op, path, version, who, decision: Decision::Allowed, reason, errno: None };
        self.audit.allowed(&event).map_err(|e| {
            let error = VaultError::NotRecorded(e.to_string());
            self.refuse(op, path, version, who, &error.to_string());
            error
        })
    }

    /// Writes down that something failed, if that was a refusal which nobody wrote down where it was decided.
    fn recording<R>(
        &self,
        op: audit::Operation,
        path: &str,
        who: impl FnOnce() -> Who,
        result: Result<R, VaultError>,
    ) -> Result<R, VaultError> {
        if let Err(error) = &result
            && error.is_unrecorded_refusal()
        {
            self.refuse(op, path, None, &who(), &error.to_string());
        }
        result
    }

    /// Writes down what is refused. Never blocks.
    fn refuse(&self, op: audit::Operation, path: &str, version: Option<u64>, who: &Who, reason: &str) {
        self.audit.refused(Event { op, path, version, who, decision: Decision::Denied, reason, errno: None });
    }

    fn tell(&self, change: Change) {
        match change {
            Change::Locked => {
                self.withdraw_all("locked");
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

    fn anchor(&self) -> AuditAnchor {
        let synced = self.audit.synced();
        AuditAnchor { count: synced.count, head: synced.head }
    }

    /// Records a refusal that another part of pinfold decided: a hard link, a device, a queue that is full.
    pub fn record_refusal(&self, op: audit::Operation, path: &str, who: &Who, reason: &str) {
        self.refuse(op, path, None, who, reason);
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
        self.withdraw_all("the daemon ends");
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
