//! The thread of the publications: it follows changes, and looks each second whether every key is still found.

use super::board::Board;
use crate::access::ScopeState;
use crate::audit;
use crate::keyring::publish::{self, KeyringOwner, PublishedKey};
use crate::model::{Ino, Scope};
use crate::vault::Vault;
use crate::wire::PublicationState;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often the keys are looked for. What a uid does to its keyring is noticed in this time.
const LOOK: Duration = Duration::from_millis(700);
/// How often everything is judged anew, for what nobody tells: the group database, a container's end.
const JUDGE: Duration = Duration::from_secs(60);
/// How long a keyring is not looked at after its uid killed or stopped who looked.
const SHUN: Duration = Duration::from_secs(30);
/// The most keys one errand looks for.
const AT_ONCE: usize = 256;

impl Vault {
    /// Starts the thread that keeps publications up to date. One a vault; it ends with [`Vault::shutdown`]. What is out is
    /// noted in `out`, a file of the runtime folder, and what a killed daemon noted there is taken back.
    ///
    /// # Errors
    /// If there is no thread to be had.
    pub fn serve_publications(self: &Arc<Self>, out: PathBuf) -> std::io::Result<()> {
        self.take_leftovers(out);
        let vault = Arc::clone(self);
        std::thread::Builder::new()
            .name("publisher".into())
            .spawn(move || {
                // A fault in one publication must not end the watch over the others.
                while catch_unwind(AssertUnwindSafe(|| vault.keep_published())).is_err() {
                    tracing::error!("the publisher panicked; it goes on");
                    std::thread::sleep(LOOK);
                }
            })
            .map(drop)
    }

    fn keep_published(&self) {
        let (mut looked, mut judged) = (Instant::now(), Instant::now());
        loop {
            let mut inbox = self.publisher.inbox.lock();
            while !inbox.stop && !inbox.all && inbox.touched.is_empty() && looked.elapsed() < LOOK {
                let left = LOOK.saturating_sub(looked.elapsed());
                (inbox, _) = self.publisher.news.wait_timeout(inbox, left);
            }
            if inbox.stop {
                return;
            }
            let all = std::mem::take(&mut inbox.all) || judged.elapsed() >= JUDGE;
            let touched = std::mem::take(&mut inbox.touched);
            drop(inbox);
            if all {
                judged = Instant::now();
                self.follow_all();
            } else {
                for ino in touched {
                    self.reconcile(&mut self.publisher.board.lock(), ino);
                }
            }
            if looked.elapsed() >= LOOK {
                looked = Instant::now();
                self.look(&mut self.publisher.board.lock());
            }
        }
    }

    /// A key that is out stays the same one when another file takes the place of its secret.
    pub(super) fn follow_successors(&self, board: &mut Board) {
        for (old, new) in std::mem::take(&mut self.publisher.inbox.lock().succeeded) {
            if let Some(slots) = board.slots.remove(&old) {
                board.slots.entry(new).or_default().extend(slots);
            }
        }
    }

    /// Every publication is judged anew.
    pub(super) fn follow_all(&self) {
        let mut all = self.with_tree(|tree| tree.all_published()).unwrap_or_default();
        all.extend(self.publisher.board.lock().slots.keys());
        for ino in all {
            self.reconcile(&mut self.publisher.board.lock(), ino);
        }
    }

    /// What is not as it should be is made so.
    pub(super) fn look(&self, board: &mut Board) {
        let mut amiss = self.look_for_keys(board);
        amiss.extend(self.look_at_ends(board));
        for ino in amiss {
            self.reconcile(board, ino);
        }
    }

    /// Every key must be what its uid finds under that description: one child for each keyring.
    fn look_for_keys(&self, board: &mut Board) -> BTreeSet<Ino> {
        let mut places: Vec<(KeyringOwner, Vec<(Ino, usize)>)> = Vec::new();
        for (ino, slots) in &board.slots {
            for (at, slot) in slots.iter().enumerate() {
                let Some(key) = &slot.key else { continue };
                match places.iter_mut().find(|(place, held)| place.same(key.place()) && held.len() < AT_ONCE) {
                    Some((_, held)) => held.push((*ino, at)),
                    None => places.push((key.place().clone(), vec![(*ino, at)])),
                }
            }
        }
        let mut amiss = BTreeSet::new();
        board.shunned.retain(|(_, until)| *until > Instant::now());
        for (place, held) in places {
            if board.shunned.iter().any(|(shunned, _)| shunned.same(&place)) {
                continue;
            }
            let keys: Vec<&PublishedKey> =
                held.iter().filter_map(|(ino, at)| board.slots.get(ino)?.get(*at)?.key.as_ref()).collect();
            let found = match publish::found(&place, &keys) {
                Ok(found) => found,
                // He harms himself alone, and others must not wait for him.
                Err(error) => {
                    tracing::warn!(uid = place.uid, %error, "a uid's keyring cannot be looked at; again in half a minute");
                    board.shunned.push((place, Instant::now() + SHUN));
                    continue;
                }
            };
            for ((ino, at), found) in held.into_iter().zip(found) {
                let slot = board.slots.get_mut(&ino).and_then(|slots| slots.get_mut(at));
                let Some(slot) = slot.filter(|_| !found) else { continue };
                amiss.insert(ino);
                let Some(key) = slot.key.take() else { continue };
                if slot.until.is_some_and(|at| at <= self.clock.now()) {
                    continue;
                }
                slot.put_back += 1;
                let (serial, uid) = (key.serial(), slot.who.uid);
                self.forget_key(key);
                let reason = format!("uid {uid} took key {serial} out of its keyring, or put another in front of it");
                let number = slot.version.map(|(number, _)| number);
                self.refuse(audit::Operation::Unpublish, &slot.path, number, &slot.who, &reason);
            }
        }
        amiss
    }

    /// What ends without anybody's saying so: a time, a scope's key, a failure that may have passed.
    fn look_at_ends(&self, board: &Board) -> BTreeSet<Ino> {
        let now = self.clock.now();
        let mut scopes: BTreeMap<&Scope, bool> = BTreeMap::new();
        let mut amiss = BTreeSet::new();
        for (ino, slot) in board.each() {
            let alive =
                *scopes.entry(&slot.scope).or_insert_with(|| self.scope_state(&slot.scope) == ScopeState::Alive);
            let published = slot.state == PublicationState::Published;
            let there = slot.instance.as_ref().is_none_or(|instance| self.is_attached(instance));
            let ended = published && (!alive || !there || slot.until.is_some_and(|at| at <= now));
            if ended || slot.retry.is_some_and(|at| at <= Instant::now()) {
                amiss.insert(ino);
            }
        }
        amiss
    }
}
