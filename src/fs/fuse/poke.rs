//! Makes inotify watchers hear of changes that did not come through the mount: an invalidation alone emits nothing.
//!
//! Owns the thread that waits for short-lived children, which do it: no thread of the daemon touches its own mount.

use crate::fs::Node;
use crate::model::{Ino, Kind, Name};
use crate::run::{self, End, Input, Manner, Program};
use crate::vault::Vault;
use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// How many files wait at most; more are not poked.
const MAX: usize = 4096;
/// How long a child may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where files are told that are to be poked.
pub(super) struct Poker(SyncSender<What>);

/// What changed.
enum What {
    Node(Ino),
    Entry(Ino, Name),
    Other(Node),
}

impl Poker {
    /// Starts the thread; it ends when this is dropped.
    pub fn start(vault: &Arc<Vault>, mountpoint: &Path) -> std::io::Result<Self> {
        let (told, changes) = sync_channel(MAX);
        let (vault, mountpoint) = (Arc::downgrade(vault), mountpoint.to_owned());
        std::thread::Builder::new().name("poke".into()).spawn(move || follow(&changes, &vault, &mountpoint))?;
        Ok(Poker(told))
    }

    /// A file has another content, and the kernel has forgotten what it knew of it.
    pub fn node(&self, ino: Ino) {
        // With so many changed at once, nobody watches each.
        let _ = self.0.try_send(What::Node(ino));
    }

    /// The same of a number by which the kernel knows a file, and nobody who looks the name up: who has watched it for long does.
    pub fn other(&self, node: Node) {
        let _ = self.0.try_send(What::Other(node));
    }

    /// A name came, or went: of a removal watchers hear nothing.
    pub fn entry(&self, parent: Ino, name: Name) {
        let _ = self.0.try_send(What::Entry(parent, name));
    }
}

fn follow(changes: &Receiver<What>, vault: &Weak<Vault>, mountpoint: &Path) {
    while let Ok(first) = changes.recv() {
        let Some(vault) = vault.upgrade() else { return };
        let mut nodes = BTreeSet::new();
        let mut all = BTreeSet::new();
        for what in std::iter::once(first).chain(changes.try_iter()) {
            match what {
                What::Node(ino) => drop(all.insert(ino)),
                What::Entry(parent, name) => all.extend(vault.lookup(parent, name.as_str()).map(|attr| attr.ino)),
                What::Other(node) => drop(nodes.insert(node.id())),
            }
        }
        let paths: Vec<PathBuf> = all.into_iter().filter_map(|ino| path(&vault, ino, mountpoint)).collect();
        let nodes: Vec<u64> = nodes.into_iter().collect();
        let waker = vault.waker();
        drop(vault);
        if let Err(error) = in_child(mountpoint, &paths, &nodes, &waker) {
            tracing::warn!(%error, "watchers do not hear of {} changed files", paths.len());
        }
    }
}

/// Which process it is, for as long as it is not waited for.
struct Waker<'a>(&'a AtomicU32);

impl Waker<'_> {
    fn is(&self, pid: u32) {
        self.0.store(pid, Ordering::SeqCst);
    }
}

impl Drop for Waker<'_> {
    fn drop(&mut self) {
        self.0.store(0, Ordering::SeqCst);
    }
}

fn path(vault: &Vault, ino: Ino, mountpoint: &Path) -> Option<PathBuf> {
    let attr = vault.attr(ino).ok()?;
    let path = vault.path_of(ino, None);
    (attr.kind == Kind::File && !path.is_empty()).then(|| mountpoint.join(path))
}

fn in_child(mountpoint: &Path, paths: &[PathBuf], nodes: &[u64], waker: &AtomicU32) -> std::io::Result<()> {
    if paths.is_empty() && nodes.is_empty() {
        return Ok(());
    }
    use std::os::unix::ffi::OsStrExt;
    let mut told = Vec::new();
    for path in std::iter::once(mountpoint).chain(paths.iter().map(PathBuf::as_path)) {
        told.extend_from_slice(path.as_os_str().as_bytes());
        told.push(0);
    }
    for node in nodes {
        write!(told, "{node}\0")?;
    }
    // Until it has been waited for, nobody else has that number; and it opens nothing before it was told what.
    let waker = Waker(waker);
    let program = Program {
        args: vec!["poke".into()],
        env: run::inherited(),
        stdin: Input::Bytes(&told),
        started: Some(&|pid| waker.is(pid)),
        // This very program, whatever its file is called by now.
        ..Program::new(Path::new("/proc/self/exe"), Manner::ALONE, Some(Instant::now() + PATIENCE))
    };
    match program.run()?.end {
        End::Itself(_) => Ok(()),
        End::Lost(error) => Err(error),
        End::Late | End::Cancelled | End::TooMuch => Err(std::io::ErrorKind::TimedOut.into()),
    }
}
