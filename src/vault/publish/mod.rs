//! Publications: secrets that services have as keys in their keyrings, kept in agreement with what they are published
//! from.
//!
//! Owns the board of published keys, the thread that follows every change of a published secret and looks each second
//! whether the keys are still found, and what an admin asks for. A publication is a grant like any other: the uid is
//! judged as if it came and read, each time anew. Nothing here holds the vault's locks during a system call.

mod board;
#[cfg(test)]
mod end_test;
mod index;
mod leftover;
mod request;
mod serve;
mod target;
mod watch;

pub use index::PublishedIndex;

use super::{Caller, Vault, VaultError, XattrMode};
use crate::access::ScopeState;
use crate::caller::{Account, Control};
use crate::keyring::publish::PublishedKey;
use crate::lock::{Condvar, Mutex, rank};
use crate::model::{
    Described, Ino, PUBLISH_XATTR, Preset, Publication, Recipient, Scope, Timestamp, parse_publications,
    write_publications,
};
use crate::sys::keyctl;
use crate::wire::{Fault, HeldKey, PublicationInfo, PublicationState, Publish, Unpublish};
use board::Board;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

/// The longest `--timeout`: what a key's timeout can say.
const TIMEOUT_MAX: u64 = u32::MAX as u64;

/// How often the board is tried for.
const BOARD_AGAIN: Duration = Duration::from_millis(2);

/// The publications' part of the vault. Lock order: `board` before everything of the vault, `inbox` and `live` after
/// everything.
#[derive(Default)]
pub(super) struct Publisher {
    board: Mutex<Board, { rank::BOARD }>,
    inbox: Mutex<Inbox>,
    news: Condvar,
    /// What is out, by serial number: a lock must not wait for the board, whose holder may wait for a user database.
    live: Mutex<BTreeMap<i32, PublishedKey>>,
    /// Where the serial numbers of what is published are noted.
    out: OnceLock<PathBuf>,
}

/// What the thread is to look at.
#[derive(Default)]
struct Inbox {
    /// At most as many as there are secrets with publications.
    touched: BTreeSet<Ino>,
    /// Secrets that took the place of others: what those had out is theirs.
    succeeded: Vec<(Ino, Ino)>,
    all: bool,
    stop: bool,
}

impl Publisher {
    /// These may be other than their keys by now. Never blocks for long: it is called under the vault's locks.
    pub fn touch(&self, inos: BTreeSet<Ino>, succeeded: Vec<(Ino, Ino)>) {
        if !inos.is_empty() {
            let mut inbox = self.inbox.lock();
            inbox.touched.extend(inos);
            inbox.succeeded.extend(succeeded);
            self.news.notify_one();
        }
    }

    /// All of them may.
    pub fn touch_all(&self) {
        self.inbox.lock().all = true;
        self.news.notify_one();
    }

    /// Ends the thread, soon. From here on nothing is published.
    pub fn stop(&self) {
        self.inbox.lock().stop = true;
        self.news.notify_all();
    }

    /// Whether the daemon ends.
    pub fn stopped(&self) -> bool {
        self.inbox.lock().stop
    }
}

/// Every user that a value of the attribute names must be there.
pub(super) fn check_recipients(name: &str, value: &[u8]) -> Result<(), VaultError> {
    if name != PUBLISH_XATTR {
        return Ok(());
    }
    // What is no publication at all is refused where the attribute is set.
    for publication in parse_publications(value).unwrap_or_default() {
        if let Recipient::Name(_) = publication.to {
            Account::of(&publication.to).map_err(|doubt| VaultError::Invalid(format!("{name}: {doubt}")))?;
        }
    }
    Ok(())
}

impl Vault {
    /// Adds a publication to a secret, and answers once the key is there. One that is there already is looked at again.
    pub(super) fn publish_secret(&self, caller: &Control, asked: Publish) -> Result<Vec<PublicationInfo>, Fault> {
        let publication = wanted(&asked)?;
        let ino = self.with_tree(|t| t.find(&asked.path))?.ok_or(VaultError::NotFound)?;
        check_recipients(PUBLISH_XATTR, &write_publications(std::slice::from_ref(&publication)))?;
        let before = self.written(ino)?;
        // Asked first: what is refused changes nothing.
        self.would_publish(ino, &publication).map_err(Fault::Refused)?;
        let mut all = parse_publications(before.as_deref().unwrap_or_default()).unwrap_or_default();
        let is_new = match all.iter_mut().find(|p| p.same_key(&publication)) {
            Some(same) => {
                same.until = publication.until;
                false
            }
            None => {
                all.push(publication.clone());
                true
            }
        };
        self.write(caller, ino, &all)?;
        let mut board = self.publisher.board.lock();
        self.reconcile(&mut board, ino);
        let slots = board.slots.get(&ino).map(Vec::as_slice).unwrap_or_default();
        let keys: Vec<PublicationInfo> =
            slots.iter().filter(|s| s.publication.same_key(&publication)).map(board::Slot::info).collect();
        drop(board);
        let bad =
            |info: &&PublicationInfo| !matches!(info.state, PublicationState::Published | PublicationState::Waiting);
        if let Some(failed) = keys.iter().find(bad) {
            let reason = failed.reason.clone().unwrap_or_default();
            if is_new {
                all.retain(|p| !p.same_key(&publication));
                self.write(caller, ino, &all)?;
                self.reconcile(&mut self.publisher.board.lock(), ino);
            }
            return Err(if failed.state == PublicationState::Refused {
                Fault::Refused(reason)
            } else {
                Fault::Failed(reason)
            });
        }
        Ok(keys)
    }

    /// Takes publications of a secret back; how many.
    pub(super) fn unpublish_secret(&self, caller: &Control, asked: Unpublish) -> Result<u64, Fault> {
        let to = asked.to.as_deref().map(Recipient::parse).transpose()?;
        let described = described(asked.description.as_ref(), asked.preset.as_deref())?;
        let ino = self.with_tree(|t| t.find(&asked.path))?.ok_or(VaultError::NotFound)?;
        let before = self.written(ino)?.ok_or(Fault::NothingToDo("it is not published".into()))?;
        let fits = |p: &Publication| {
            to.as_ref().is_none_or(|to| p.to == *to)
                && asked.instance.as_ref().is_none_or(|i| p.instance.as_ref() == Some(i))
                && asked.container.as_ref().is_none_or(|c| p.container.as_ref() == Some(c))
                && described.as_ref().is_none_or(|d| p.described == *d)
        };
        // A value that this version cannot read publishes nothing, and goes as a whole.
        let all = parse_publications(&before).unwrap_or_default();
        let kept: Vec<Publication> = all.iter().filter(|p| !fits(p)).cloned().collect();
        if kept.len() == all.len() && !all.is_empty() {
            return Err(Fault::NothingToDo("no publication fits".into()));
        }
        self.write(caller, ino, &kept)?;
        self.reconcile(&mut self.publisher.board.lock(), ino);
        Ok((all.len() - kept.len()) as u64)
    }

    /// All publications, as they are.
    pub(super) fn publications(&self) -> Vec<PublicationInfo> {
        let board = self.publisher.board.lock();
        let mut all: Vec<PublicationInfo> = board.each().map(|(_, slot)| slot.info()).collect();
        all.sort_by(|a, b| a.path.cmp(&b.path));
        all
    }

    /// All keys that pinfold has in the kernel.
    pub(super) fn held_keys(&self) -> Result<Vec<HeldKey>, VaultError> {
        let board = self.publisher.board.lock();
        let keys = self.keys()?;
        let described = |serial: i32| match keyctl::describe(keyctl::KeyId(serial)) {
            Ok(about) => String::from_utf8_lossy(&about.description).into_owned(),
            Err(_) => String::new(),
        };
        let mut held: Vec<HeldKey> = Vec::new();
        for (scope, entry) in keys.scopes.iter() {
            held.push(HeldKey {
                kind: "scope".into(),
                serial: entry.serial(),
                description: described(entry.serial()),
                scope: scope.to_string(),
                instance: None,
                uid: None,
                path: None,
                expires: None,
                state: word(keys.state(scope)).into(),
            });
        }
        held.sort_by(|a, b| a.scope.cmp(&b.scope));
        for instance in self.instances()? {
            let Some(serial) = instance.serial else { continue };
            held.push(HeldKey {
                kind: "instance".into(),
                serial,
                description: described(serial),
                scope: instance.record.id.scope.to_string(),
                instance: Some(instance.record.id.id.clone()),
                uid: None,
                path: None,
                expires: instance.record.expires,
                state: word(instance.state).into(),
            });
        }
        for (_, slot) in board.each() {
            let Some(key) = &slot.key else { continue };
            held.push(HeldKey {
                kind: "published".into(),
                serial: key.serial(),
                description: slot.description.clone().unwrap_or_default(),
                scope: slot.scope.to_string(),
                instance: slot.instance.as_ref().map(|i| i.id.clone()),
                uid: slot.uid,
                path: Some(slot.path.clone()),
                expires: slot.until,
                state: if slot.state == PublicationState::Expired { "expired" } else { "alive" }.into(),
            });
        }
        Ok(held)
    }

    /// Brings what is published to containers into those that are attached now: before what runs in them looks for it.
    pub(super) fn publish_to_instances(&self) {
        let mut board = self.publisher.board.lock();
        let to_containers = |slot: &board::Slot| slot.publication.container.is_some() || slot.scope != Scope::Host;
        let inos: BTreeSet<Ino> = board.each().filter(|(_, s)| to_containers(s)).map(|(ino, _)| ino).collect();
        for ino in inos {
            self.reconcile(&mut board, ino);
        }
    }

    /// Takes every key back: at a lock, and at the end. Nobody can read them once this is called; the board is waited for as long as given.
    pub(super) fn withdraw_all(&self, why: &str, patience: Duration) {
        for key in self.publisher.live.lock().values() {
            key.revoke();
        }
        let begun = Instant::now();
        let mut board = loop {
            match self.publisher.board.try_lock() {
                Some(board) => break board,
                None if begun.elapsed() < patience => std::thread::sleep(BOARD_AGAIN),
                // The thread does the rest; at the end, the next daemon.
                None => return self.publisher.touch_all(),
            }
        };
        for slots in std::mem::take(&mut board.slots).into_values() {
            self.withdraw_slots(slots, why);
        }
        self.note_out(&mut board);
    }

    fn written(&self, ino: Ino) -> Result<Option<Vec<u8>>, VaultError> {
        Ok(self.node(ino)?.meta.xattrs.get(PUBLISH_XATTR).cloned())
    }

    /// Writes the attribute, as setfattr(1) would, and makes it durable.
    fn write(&self, caller: &impl Caller, ino: Ino, all: &[Publication]) -> Result<(), VaultError> {
        if all.is_empty() {
            match self.take_xattr(caller, ino, PUBLISH_XATTR) {
                Ok(()) | Err(VaultError::NoAttribute) => {}
                Err(error) => return Err(error),
            }
        } else {
            self.set_xattr(caller, ino, PUBLISH_XATTR, &write_publications(all), XattrMode::Set)?;
        }
        self.notify(super::Change::Node(ino));
        self.sync()
    }
}

/// What was asked for, as it will be written.
fn wanted(asked: &Publish) -> Result<Publication, Fault> {
    let until = asked.timeout.map(|seconds| {
        let fits = (1..=TIMEOUT_MAX).contains(&seconds);
        let at = SystemTime::now().checked_add(Duration::from_secs(seconds)).filter(|_| fits);
        // Rounded to what the attribute says.
        at.map(|at| Timestamp { nanos: 0, ..Timestamp::from(at) })
            .ok_or_else(|| Fault::Usage("a timeout is a second to 136 years".into()))
    });
    let publication = Publication {
        to: Recipient::parse(&asked.to)?,
        container: asked.container.clone(),
        instance: asked.instance.clone(),
        until: until.transpose()?,
        described: described(asked.description.as_ref(), asked.preset.as_deref())?.unwrap_or(Described::Default),
    };
    let checked = publication.checked()?;
    // A description with a line break, say, would come back as something else.
    match parse_publications(&write_publications(std::slice::from_ref(&checked))) {
        Ok(back) if back == [checked.clone()] => Ok(checked),
        Ok(_) => Err(Fault::Usage("the description has a line break or blanks at an end".into())),
        Err(error) => Err(error.into()),
    }
}

fn described(description: Option<&String>, preset: Option<&str>) -> Result<Option<Described>, Fault> {
    match (description, preset) {
        (Some(_), Some(_)) => Err(Fault::Usage("give a preset or a description, not both".into())),
        (Some(text), None) => Ok(Some(Described::Template(text.clone()))),
        (None, Some(name)) => Ok(Some(Described::As(Preset::parse(name)?))),
        (None, None) => Ok(None),
    }
}

fn word(state: ScopeState) -> &'static str {
    match state {
        ScopeState::Alive => "alive",
        ScopeState::Missing => "missing",
        ScopeState::Revoked => "revoked",
        ScopeState::Expired => "expired",
    }
}
