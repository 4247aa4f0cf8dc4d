//! Makes inotify watchers hear of changes that did not come through the mount: an invalidation alone emits nothing.
//!
//! Owns the thread that waits for short-lived children, which do it: no thread of the daemon touches its own mount.

use crate::model::{Ino, Kind, Name};
use crate::sys::child;
use crate::vault::Vault;
use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
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
}

impl Poker {
    /// Starts the thread; it ends when this is dropped.
    pub fn start(vault: &Arc<Vault>, mountpoint: &Path) -> std::io::Result<Self> {
        let (told, changes) = sync_channel(MAX);
        let (vault, mountpoint) = (Arc::downgrade(vault), mountpoint.to_owned());
        std::thread::Builder::new().name("poke".into()).spawn(move || run(&changes, &vault, &mountpoint))?;
        Ok(Poker(told))
    }

    /// A file has another content, and the kernel has forgotten what it knew of it.
    pub fn node(&self, ino: Ino) {
        // With so many changed at once, nobody watches each.
        let _ = self.0.try_send(What::Node(ino));
    }

    /// A name came, or went: of a removal watchers hear nothing.
    pub fn entry(&self, parent: Ino, name: Name) {
        let _ = self.0.try_send(What::Entry(parent, name));
    }
}

fn run(changes: &Receiver<What>, vault: &Weak<Vault>, mountpoint: &Path) {
    while let Ok(first) = changes.recv() {
        let Some(vault) = vault.upgrade() else { return };
        let ino = |what| match what {
            What::Node(ino) => Some(ino),
            What::Entry(parent, name) => vault.lookup(parent, name.as_str()).ok().map(|attr| attr.ino),
        };
        let all: BTreeSet<Ino> = std::iter::once(first).chain(changes.try_iter()).filter_map(ino).collect();
        let paths: Vec<PathBuf> = all.into_iter().filter_map(|ino| path(&vault, ino, mountpoint)).collect();
        drop(vault);
        if let Err(error) = in_child(&paths) {
            tracing::warn!(%error, "watchers do not hear of {} changed files", paths.len());
        }
    }
}

fn path(vault: &Vault, ino: Ino, mountpoint: &Path) -> Option<PathBuf> {
    let attr = vault.attr(ino).ok()?;
    let path = vault.path_of(ino, None);
    (attr.kind == Kind::File && !path.is_empty()).then(|| mountpoint.join(path))
}

fn in_child(paths: &[PathBuf]) -> std::io::Result<()> {
    if paths.is_empty() {
        return Ok(());
    }
    // This very program, whatever its file is called by now.
    let mut command = child::command("/proc/self/exe");
    let mut child = command.arg("poke").stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        use std::os::unix::ffi::OsStrExt;
        for path in paths {
            stdin.write_all(path.as_os_str().as_bytes())?;
            stdin.write_all(b"\0")?;
        }
    }
    let begun = Instant::now();
    while child.try_wait()?.is_none() {
        if begun.elapsed() > PATIENCE {
            child.kill()?;
            // One that hangs in the kernel is not waited for.
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
