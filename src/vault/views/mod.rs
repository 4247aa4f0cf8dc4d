//! Views: nodes of the tree whose content is composed from other secrets of their scope.
//!
//! Owns how a view is defined, listed and followed; `view` makes the bytes. A view is a node like any other (owner, mode,
//! ACL, conditions, publications), whose record also has what it is composed from. Whoever opens it needs the grant on it
//! alone: its sources are read as the daemon's own work, all as they were at one moment, by the key of its scope.
//!
//! Nothing composed is kept but its size, by what it was composed from.

mod compose;
mod define;
mod hashdir;
mod index;
mod serve;
mod sources;

pub(super) use index::{TouchedView, ViewIndex};
pub(super) use sources::{Composition, composition};

use super::on_change::{self, Touched};
use super::{Attr, Caller, Change, Vault};
use crate::lock::Mutex;
use crate::model::{Ino, Timestamp};
use crate::store::BlobKey;
use std::collections::HashMap;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};

/// The views' part of the vault. Lock order: `sizes` after everything, and nothing is called while it is held.
#[derive(Default)]
pub(super) struct Views {
    /// How large what is composed is, and of which state of the sources that is true.
    sizes: Mutex<HashMap<Ino, (BlobKey, u64)>>,
    /// Where the thread is told that directories are to be made anew.
    news: OnceLock<SyncSender<()>>,
}

impl Vault {
    /// Starts the thread that keeps composed directories as their sources are. It ends with the vault.
    ///
    /// # Errors
    /// If there is no thread to be had.
    pub fn serve_views(self: &Arc<Self>) -> std::io::Result<()> {
        // One is as good as many.
        let (news, told) = sync_channel(1);
        let vault = Arc::downgrade(self);
        std::thread::Builder::new().name("views".into()).spawn(move || {
            while let Ok(()) = told.recv() {
                let Some(vault) = vault.upgrade() else { return };
                vault.refresh_all();
            }
        })?;
        let _ = self.views.news.set(news);
        self.news_of_views();
        Ok(())
    }

    pub(super) fn news_of_views(&self) {
        if let Some(news) = self.views.news.get() {
            let _ = news.try_send(());
        }
    }

    /// Sources of these changed. The writer's lock is held.
    pub(super) fn sources_changed(&self, touched: Vec<TouchedView>) {
        let mut directories = false;
        for view in touched {
            directories |= view.is_directory;
            if !view.is_directory {
                // The kernel and whoever watches the file hear of it, as of any change that is not made through the mount.
                self.notify(Change::Node(view.ino));
                self.notify_unit(view.has_unit.then(|| Touched::anew(view.ino)));
            }
        }
        if directories {
            self.news_of_views();
        }
    }

    /// Whether opening a node for writing, and writing nothing, is allowed: it makes those hear who watch a view. By an
    /// admin alone.
    pub fn may_be_poked(&self, caller: &impl Caller, ino: Ino) -> bool {
        self.node(ino).is_ok_and(|node| node.is_view()) && matches!(caller.is_admin(), Ok(true))
    }

    /// With the size that a reader would find now, 0 if it does not open, and the time of its newest source. Tools that read
    /// as much as stat(2) said, or compare, need the true one (OpenSSH refuses a key file that has another).
    pub(super) fn with_composed_size(&self, mut attr: Attr) -> Attr {
        let Ok(node) = self.node(attr.ino) else { return attr };
        let Ok(snapshot) = self.snapshot(&node) else { return attr };
        if let Some(newest) = snapshot.newest() {
            attr.mtime = attr.mtime.max(newest);
            attr.ctime = attr.ctime.max(newest);
        }
        if node.view.as_ref().is_none_or(|view| view.is_directory()) {
            return attr;
        }
        let mark = snapshot.mark(attr.ino);
        let known = self.sizes().get(&attr.ino).filter(|(of, _)| *of == mark).map(|(_, size)| *size);
        attr.size = known.unwrap_or_else(|| self.compose_size(attr.ino, &node));
        attr
    }

    fn compose_size(&self, ino: Ino, node: &super::node::Node) -> u64 {
        let Ok(keys) = self.keys() else { return 0 };
        let Ok(kek) = keys.kek(&node.scope) else { return 0 };
        match self.compose(ino, node, &kek) {
            Ok(composed) => composed.content.len() as u64,
            Err(_) => 0,
        }
    }

    fn sizes(&self) -> crate::lock::MutexGuard<'_, HashMap<Ino, (BlobKey, u64)>> {
        self.views.sizes.lock()
    }

    /// The store is locked.
    pub(super) fn forget_sizes(&self) {
        self.sizes().clear();
    }

    fn note_size(&self, ino: Ino, mark: BlobKey, size: u64) {
        let mut sizes = self.sizes();
        // Of views that are gone: rarely, and all at once.
        if sizes.len() > 16_384 {
            sizes.clear();
        }
        sizes.insert(ino, (mark, size));
    }
}

impl Touched {
    /// A view whose sources changed: whether its content is another one is not known.
    fn anew(ino: Ino) -> Self {
        on_change::Touched::without_before(ino)
    }
}

/// The later of two times.
fn later(a: Option<Timestamp>, b: Option<Timestamp>) -> Option<Timestamp> {
    a.into_iter().chain(b).max()
}
