//! Handles: numbers that the kernel gives back with every READ, WRITE and RELEASE.
//!
//! A read handle's number is written down in the [register](super::register), so that a daemon which does not know it reads on:
//! as it was decided if this is another daemon, by a fresh decision if the store was locked meanwhile. A write handle of another daemon is
//! stale.
//!
//! The register gives the numbers of both.

use super::nodes::{Admitted, Elsewhere, Node, Nodes, Want};
use super::quota::{Charge, Held, Payer};
use super::register::{Entry as Registered, Register, WRITER};
use super::{Fs, FsError, OpenMode, Opened};
use crate::audit;
use crate::lock::{Mutex, MutexGuard};
use crate::model::{Ino, Kind, Scope, Uid};
use crate::secret::Secret;
use crate::store::BlobKey;
use crate::vault::{Attr, Caller, Holder, Opened as VaultOpened, Showing, VaultError};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Read handles are spread over so many tables: opening one is the hot path.
const SHARDS: usize = 16;

/// A secret opened for reading: one version, whole, until it is released.
pub struct ReadHandle {
    ino: Ino,
    holder: Holder,
    content: Content,
    _charge: Charge,
}

/// What a read handle shows.
enum Content {
    /// Plaintext, in locked memory.
    Secret(Secret),
    /// What one of pinfold's own files says: no secret. It must be told also where there is no more locked memory to be had, since it says why.
    Own(Box<[u8]>),
}

impl Content {
    fn bytes(&self) -> &[u8] {
        match self {
            Content::Secret(secret) => secret.expose(),
            Content::Own(text) => text,
        }
    }
}

/// All handles.
pub(super) struct Handles {
    readers: [Mutex<HashMap<u64, Arc<ReadHandle>>>; SHARDS],
    count: AtomicU64,
    held: Arc<Held>,
    register: Register,
    pub(super) nodes: Nodes,
}

/// An open that was let in under a number of the kernel's, and is counted there: until it has a number of its own, or comes to nothing.
pub(super) struct Seat<'a> {
    nodes: &'a Nodes,
    place: Option<Admitted>,
}

impl Seat<'_> {
    fn place(&self) -> Admitted {
        self.place.expect("it is taken out by keep and drop alone")
    }

    fn keep(mut self, number: u64, instance: Option<Ino>) {
        if let Some(place) = self.place.take() {
            self.nodes.keep(number, place, instance);
        }
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            self.nodes.take_back(place);
        }
    }
}

impl From<Elsewhere> for FsError {
    fn from(_: Elsewhere) -> Self {
        FsError::Stale
    }
}

impl Handles {
    pub fn new(held: Arc<Held>, register: Register) -> Self {
        let nodes = Nodes::of(&register);
        Handles { readers: std::array::from_fn(|_| Mutex::default()), count: AtomicU64::new(0), held, register, nodes }
    }

    pub fn register(&self) -> &Register {
        &self.register
    }

    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// A number for a handle on the dirty copy.
    pub fn writer(&self, seat: Seat<'_>, instance: Option<Ino>) -> u64 {
        self.count.fetch_add(1, Ordering::Relaxed);
        let Admitted { node, plain, .. } = seat.place();
        let entry = Registered { node, blob: None, instance, locked_since: false, plain, filled: false };
        let number = self.register.add(entry, true);
        seat.keep(number, instance);
        number
    }

    /// Lets an open in under the kernel's number.
    pub fn seat(&self, node: Node, tid: u32, want: Want) -> Result<Seat<'_>, Elsewhere> {
        let place = self.nodes.place(&self.register, node, tid, want)?;
        Ok(Seat { nodes: &self.nodes, place: Some(place) })
    }

    /// For a file of pinfold's own: what it says differs from reader to reader.
    pub fn own_seat(&self, node: Node) -> Seat<'_> {
        Seat { nodes: &self.nodes, place: Some(Admitted::own(node)) }
    }

    pub fn writers_released(&self, how_many: usize) {
        self.count.fetch_sub(how_many as u64, Ordering::Relaxed);
    }

    /// Keeps content for a reader, under a new number.
    pub fn keep(&self, seat: Seat<'_>, opened: VaultOpened, uid: Uid) -> Result<Opened, FsError> {
        let charge = self.held.charge(Payer::of(uid, &opened.holder), opened.content.capacity())?;
        let VaultOpened { content, blob, holder, .. } = opened;
        Ok(self.keep_under_new(seat, (Content::Secret(content), blob, holder), charge))
    }

    /// Keeps what one of pinfold's own files says, under a new number.
    pub fn keep_own(&self, node: Node, text: Box<[u8]>, uid: Uid) -> Result<Opened, FsError> {
        let holder = Holder::daemon(&Scope::Host);
        let charge = self.held.own(Payer::of(uid, &holder), text.len())?;
        Ok(self.keep_under_new(self.own_seat(node), (Content::Own(text), None, holder), charge))
    }

    fn keep_under_new(
        &self,
        seat: Seat<'_>,
        (content, blob, holder): (Content, Option<BlobKey>, Holder),
        charge: Charge,
    ) -> Opened {
        let Admitted { node, plain, .. } = seat.place();
        let instance = holder.instance();
        let entry = Registered { node, blob, instance, locked_since: false, plain, filled: false };
        let number = self.register.add(entry, false);
        seat.keep(number, instance);
        self.insert(number, ReadHandle { ino: node.ino, holder, content, _charge: charge });
        Opened::Reader(number)
    }

    /// The same under the number it has; another thread that reads through it may be first.
    fn keep_on(&self, number: u64, ino: Ino, opened: VaultOpened, uid: Uid) -> Result<Arc<ReadHandle>, FsError> {
        let charge = self.held.charge(Payer::of(uid, &opened.holder), opened.content.capacity())?;
        let VaultOpened { content, holder, .. } = opened;
        Ok(self.insert(number, ReadHandle { ino, holder, content: Content::Secret(content), _charge: charge }))
    }

    /// The same of one of pinfold's own files.
    fn keep_own_on(&self, number: u64, ino: Ino, text: Box<[u8]>, uid: Uid) -> Result<Arc<ReadHandle>, FsError> {
        let holder = Holder::daemon(&Scope::Host);
        let charge = self.held.own(Payer::of(uid, &holder), text.len())?;
        Ok(self.insert(number, ReadHandle { ino, holder, content: Content::Own(text), _charge: charge }))
    }

    fn insert(&self, number: u64, handle: ReadHandle) -> Arc<ReadHandle> {
        let mut shard = self.shard(number);
        let handle = shard.entry(number).or_insert_with(|| {
            self.count.fetch_add(1, Ordering::Relaxed);
            Arc::new(handle)
        });
        Arc::clone(handle)
    }

    fn get(&self, number: u64) -> Option<Arc<ReadHandle>> {
        self.shard(number).get(&number).cloned()
    }

    /// Releases a reader. The kernel's number, if the kernel filled pages from it.
    fn release(&self, number: u64) -> Option<Node> {
        let filled = self.gone(number);
        if self.shard(number).remove(&number).is_some() {
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
        filled
    }

    /// It is not open any more.
    fn gone(&self, number: u64) -> Option<Node> {
        self.register.remove(number);
        self.nodes.release(number)
    }

    /// The inodes that somebody reads.
    pub fn inodes(&self) -> HashSet<Ino> {
        let inodes = |shard: &Mutex<HashMap<u64, Arc<ReadHandle>>>| {
            let shard = shard.lock();
            shard.values().map(|handle| handle.ino).collect::<Vec<_>>()
        };
        self.readers.iter().flat_map(inodes).collect()
    }

    /// Drops them all. The kernel's numbers of those that it filled pages from.
    pub fn clear(&self) -> Vec<Node> {
        self.register.locked();
        for shard in &self.readers {
            let dropped: Vec<_> = shard.lock().drain().collect();
            self.count.fetch_sub(dropped.len() as u64, Ordering::Relaxed);
        }
        self.nodes.filled(|_| true)
    }

    fn shard(&self, number: u64) -> MutexGuard<'_, HashMap<u64, Arc<ReadHandle>>> {
        let shard = number as usize % SHARDS;
        self.readers[shard].lock()
    }
}

/// Whether a number is a write handle's.
pub(super) fn is_writer(number: u64) -> bool {
    number & WRITER != 0
}

impl Fs {
    /// Opens by the name, as the kernel does: it looks the name up once more if it has to.
    ///
    /// # Errors
    /// [`FsError`]; the refusal is in the log.
    pub fn open(&self, caller: &impl Caller, tid: u32, ino: Ino, mode: OpenMode) -> Result<Opened, FsError> {
        match self.open_at(caller, tid, self.node(ino, tid), mode) {
            Err(FsError::Stale) => self.open_at(caller, tid, self.node(ino, tid), mode),
            other => other,
        }
    }

    /// OPEN.
    ///
    /// # Errors
    /// [`FsError`]; the refusal is in the log. [`FsError::Stale`] if it does not fit under this number: after another look at the name the
    /// kernel has the one that fits.
    pub fn open_at(&self, caller: &impl Caller, tid: u32, node: Node, mode: OpenMode) -> Result<Opened, FsError> {
        let ino = node.ino;
        if self.own.attr(ino).is_some() {
            self.own.refuse_writing(mode)?;
            let content = self.own.content(&self.vault, ino, caller.uid())?;
            return self.handles.keep_own(node, content, caller.uid());
        }
        if !mode.write && !mode.truncate {
            return self.open_reader(caller, tid, node);
        }
        if mode == (OpenMode { read: false, write: true, truncate: false }) && self.vault.may_be_poked(caller, ino) {
            // Whoever watches a view hears of it when it is opened and closed for writing; nothing is ever written.
            let nothing = VaultOpened::own(Secret::zeroed(0)?);
            return self.handles.keep(self.handles.seat(node, tid, Want::Write)?, nothing, caller.uid());
        }
        let right = self.vault.open_write(caller, ino)?;
        self.vault.may_reach_to_write(caller, &right)?;
        let seat = self.handles.seat(node, tid, if mode.read { Want::Plain } else { Want::Write })?;
        let read = match mode.read {
            true => Some(self.vault.open_there(caller, ino)?.version),
            false => {
                if !self.vault.is_waker(tid) {
                    self.vault.record_open_to_write(caller, &right)?;
                }
                None
            }
        };
        self.open_writer(caller, (tid, seat), right, read, mode.truncate)
    }

    fn open_reader(&self, caller: &impl Caller, tid: u32, node: Node) -> Result<Opened, FsError> {
        let seat = |want| self.handles.seat(node, tid, want);
        let mut taken = match self.vault.showing(node.ino)? {
            Showing::Version(blob) => Some((seat(Want::Show(blob))?, blob)),
            // What it shows is known when it is composed.
            Showing::Composed { lasting: true } => None,
            Showing::Composed { lasting: false } => {
                let seat = seat(Want::Plain)?;
                return self.handles.keep(seat, self.vault.open_there(caller, node.ino)?, caller.uid());
            }
        };
        let opened = match taken.as_ref().and_then(|(seat, _)| seat.place().instead) {
            None => self.vault.open_there(caller, node.ino)?,
            Some(blob) => {
                if let Some((_, expected)) = &mut taken {
                    *expected = blob;
                }
                self.vault.open_blob_there(caller, node.ino, blob)?
            }
        };
        let seat = match taken {
            Some((seat, expected)) if expected == opened.blob => seat,
            other => {
                drop(other);
                seat(Want::Just(opened.blob))?
            }
        };
        self.handles.keep(seat, opened, caller.uid())
    }

    /// By which number the kernel is to know it, if this thread looks the name up.
    pub fn node(&self, ino: Ino, tid: u32) -> Node {
        self.handles.nodes.named(ino, tid)
    }

    /// The same of whatever this is: only files have more than one.
    pub fn node_of(&self, attr: &Attr, tid: u32) -> Node {
        if attr.kind == Kind::File { self.node(attr.ino, tid) } else { attr.ino.into() }
    }

    /// By which numbers the kernel may know it.
    pub fn nodes(&self, ino: Ino) -> Vec<Node> {
        self.handles.nodes.all(ino)
    }

    /// The same without this one; none if there is no other.
    pub fn other_nodes(&self, node: Node) -> Vec<Node> {
        if self.handles.nodes.is_spread(node.ino) { self.handles.nodes.others(node) } else { Vec::new() }
    }

    /// Whether nothing may be mapped through this handle.
    pub fn is_plain(&self, number: u64) -> bool {
        self.handles.nodes.is_plain(number)
    }

    /// The kernel's numbers of what it has pages of, for callers inside this instance.
    pub fn mapped_by(&self, instance: Ino) -> Vec<Node> {
        self.handles.nodes.filled(|of| of == Some(instance))
    }

    /// READ: hands the bytes from `offset` on to `reply`, without a copy. `filling` says that the kernel fills its page
    /// cache with them.
    ///
    /// # Errors
    /// [`FsError`]: the scope's key may have been revoked since the open.
    pub fn read(
        &self,
        caller: &impl Caller,
        ino: Ino,
        number: u64,
        (offset, size): (u64, u32),
        filling: bool,
        reply: impl FnOnce(&[u8]),
    ) -> Result<(), FsError> {
        if is_writer(number) {
            // What changes, and is shown by fresh decisions, is kept in no page.
            return if filling {
                Err(FsError::Unsupported)
            } else {
                self.read_dirty(caller, number, (offset, size), reply)
            };
        }
        let handle = match self.handles.get(number) {
            Some(handle) if handle.ino == ino => handle,
            Some(_) | None => self.reopen(caller, ino, number)?,
        };
        if !super::status_files::is_own(ino) {
            let alive = self.vault.still_alive(&handle.holder);
            self.recording_read(caller, ino, alive)?;
        }
        if filling && !self.handles.nodes.fill(&self.handles.register, number) {
            return Err(FsError::Unsupported);
        }
        reply(window(handle.content.bytes(), offset, size));
        Ok(())
    }

    /// A read handle whose content this daemon does not have: it was opened by the one before, or the store was locked
    /// meanwhile. After a lock it is decided anew, for whoever reads now.
    fn reopen(&self, caller: &impl Caller, ino: Ino, number: u64) -> Result<Arc<ReadHandle>, FsError> {
        if super::status_files::is_own(ino) {
            let content = self.own.content(&self.vault, ino, caller.uid())?;
            return self.handles.keep_own_on(number, ino, content, caller.uid());
        }
        let entry = self.handles.register.get(number).filter(|entry| entry.node.ino == ino).ok_or(FsError::Stale)?;
        let opened = match entry.locked_since {
            true => self.vault.open_blob(caller, ino, entry.blob),
            false => self.vault.resume(caller, ino, entry.blob, entry.instance),
        };
        let opened = match opened {
            // What was decided is recorded; while it is locked nothing is.
            Err(VaultError::Locked) => self.recording_read(caller, ino, Err(VaultError::Locked))?,
            // The version is not kept any more.
            Err(VaultError::NotFound) => {
                self.recording_read(caller, ino, Err(VaultError::NotFound)).map_err(|_| FsError::Stale)?
            }
            other => other?,
        };
        self.handles.register.decided(number, opened.holder.instance());
        self.handles.nodes.decided(number, opened.holder.instance());
        self.handles.keep_on(number, ino, opened, caller.uid())
    }

    /// Writes down that a handle which was opened once is not read on.
    pub(super) fn recording_read<R>(
        &self,
        caller: &impl Caller,
        ino: Ino,
        result: Result<R, VaultError>,
    ) -> Result<R, VaultError> {
        if let Err(error) = &result {
            let path = self.vault.path_of(ino, None);
            self.vault.record_refusal(audit::Operation::Read, &path, &caller.who(), &error.to_string());
        }
        result
    }

    /// RELEASE of a reader. The kernel's number, if its pages are to be dropped.
    pub fn release_reader(&self, number: u64) -> Option<Node> {
        self.handles.release(number)
    }

    pub(super) fn new_writer(&self, seat: Seat<'_>, instance: Option<Ino>) -> u64 {
        self.handles.writer(seat, instance)
    }

    /// The kernel has released a writer, perhaps one of another daemon.
    pub(super) fn writer_released(&self, number: u64) {
        self.handles.gone(number);
    }

    pub(super) fn writer_gone(&self) {
        self.handles.writers_released(1);
    }
}

/// The bytes from `offset` on, `size` at most.
pub(super) fn window(content: &[u8], offset: u64, size: u32) -> &[u8] {
    let from = usize::try_from(offset).unwrap_or(usize::MAX).min(content.len());
    let to = from.saturating_add(size as usize).min(content.len());
    &content[from..to]
}
