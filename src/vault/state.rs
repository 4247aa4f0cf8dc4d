//! What is in memory: nothing while locked, else the tree, the keys and what goes with them.

use super::export::Records;
use super::import;
use super::node::{Attr, Node};
use super::scopes::Scopes;
use super::tree::Tree;
use super::unlock::Keys;
use super::view::View;
use super::{Vault, VaultError};
use crate::lock::{MutexGuard, RwLockReadGuard, RwLockWriteGuard, rank};
use crate::model::{Ino, Scope, Timestamp};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// For how long, at most, work on all of the store lets others go first each time.
const GIVE_WAY: Duration = Duration::from_millis(10);

pub(super) enum State {
    Locked { since: Instant, at: Timestamp },
    Unlocked(Box<Unlocked>),
}

pub(super) struct Unlocked {
    pub(super) tree: Tree,
    pub(super) keys: Arc<Keys>,
    pub(super) scopes: Scopes,
    pub(super) exports: Records,
    pub(super) consoles: import::Consoles,
}

impl Unlocked {
    /// What stat(2) shows of a node.
    pub(super) fn attr(&self, ino: Ino) -> Option<Attr> {
        let node = self.tree.get(ino)?;
        Some(node.attr(ino, &self.scopes.view(&node.scope)))
    }

    /// The same, and whether it is a view, whose size the node does not know.
    pub(super) fn shown(&self, ino: Ino) -> Option<(Attr, bool)> {
        Some((self.attr(ino)?, self.tree.get(ino)?.is_view()))
    }
}

impl Vault {
    pub(super) fn read_state(&self) -> RwLockReadGuard<'_, State, { rank::STATE }> {
        self.state.read()
    }

    pub(super) fn write_state(&self) -> RwLockWriteGuard<'_, State, { rank::STATE }> {
        self.state.write()
    }

    pub(super) fn sealing_anew(&self) -> MutexGuard<'_, (), { rank::SEALING }> {
        self.sealing_anew.lock()
    }

    /// Lets those go first who wait for the writer's lock. For who takes it again and again: a mutex is not fair, and he has it back before the one who is
    /// woken has looked.
    pub(super) fn give_way(&self) {
        let until = Instant::now() + GIVE_WAY;
        while self.wanted_by.load(Ordering::Relaxed) > 0 && Instant::now() < until {
            std::thread::sleep(GIVE_WAY / 100);
        }
    }

    pub(super) fn with_open<R>(&self, f: impl FnOnce(&Unlocked) -> R) -> Result<R, VaultError> {
        match &*self.read_state() {
            State::Unlocked(open) => Ok(f(open)),
            State::Locked { .. } => Err(VaultError::Locked),
        }
    }

    pub(super) fn with_tree<R>(&self, f: impl FnOnce(&Tree) -> R) -> Result<R, VaultError> {
        self.with_open(|open| f(&open.tree))
    }

    /// Changes what is in memory; the writer's lock is held by the caller.
    pub(super) fn with_open_mut<R>(&self, f: impl FnOnce(&mut Unlocked) -> R) -> Result<R, VaultError> {
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
    pub(super) fn with_tree_mut<R>(&self, f: impl FnOnce(&mut Tree) -> R) -> Result<R, VaultError> {
        self.with_open_mut(|open| f(&mut open.tree))
    }

    /// What is changed in the tree from now on can be taken back.
    pub(super) fn begin_undo(&self) -> Result<(), VaultError> {
        match &mut *self.write_state() {
            State::Unlocked(open) => {
                open.tree.begin();
                Ok(())
            }
            State::Locked { .. } => Err(VaultError::Locked),
        }
    }

    pub(super) fn end_undo(&self, keep: bool) {
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
    pub(super) fn view(&self, scope: &Scope) -> View {
        match scope {
            Scope::Host => View::plain(),
            Scope::Container(_) => self.with_open(|open| open.scopes.view(scope)).unwrap_or_default(),
        }
    }

    pub(super) fn keys(&self) -> Result<Arc<Keys>, VaultError> {
        match &*self.read_state() {
            State::Unlocked(open) => Ok(Arc::clone(&open.keys)),
            State::Locked { .. } => Err(VaultError::Locked),
        }
    }

    pub(super) fn node(&self, ino: Ino) -> Result<Arc<Node>, VaultError> {
        self.with_tree(|tree| tree.get(ino).cloned())?.ok_or(VaultError::NotFound)
    }

    /// Whether a node is another one now, or none, once what is under way is done: then a blob that is not there any
    /// more is no damage.
    pub(super) fn moved_on(&self, ino: Ino, node: &Node) -> bool {
        drop(self.lock_writer());
        self.node(ino).map_or(true, |now| now.versions != node.versions)
    }

    pub(super) fn node_and_path(&self, ino: Ino) -> Result<(Arc<Node>, String), VaultError> {
        let found = self.with_tree(|tree| {
            let node = tree.get(ino).cloned()?;
            Some((node, tree.path(ino).map(|p| p.to_string()).unwrap_or_default()))
        })?;
        found.ok_or(VaultError::NotFound)
    }
}
