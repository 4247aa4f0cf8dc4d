//! What is published and how it is: the keys on one side, what the secrets say on the other, and the step that makes
//! them agree.
//!
//! Nothing here is called with the vault's own locks held: it makes system calls, and asks the user database.

use super::target::Room;
use crate::access::{self, Denial, Grant};
use crate::audit;
use crate::caller::Account;
use crate::keyring::publish::{KeyringOwner, Order, PublishError, PublishedKey};
use crate::model::{
    CallerInfo, DescribedBy, Ino, InstanceId, Kind, PUBLISH_XATTR, Publication, Recipient, Scope, Subject, Timestamp,
    parse_publications,
};
use crate::secret::Kek;
use crate::store::BlobKey;
use crate::vault::node::Node;
use crate::vault::{Caller, Vault, VaultError};
use crate::wire::{PublicationInfo, PublicationState};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// When what failed is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// All publications, by secret.
#[derive(Default)]
pub(super) struct Board {
    pub slots: BTreeMap<Ino, Vec<Slot>>,
    /// The serial numbers that were noted last.
    pub noted: BTreeSet<i32>,
    /// Keyrings whose uid kills or stops who looks: not looked at again before this.
    pub shunned: Vec<(KeyringOwner, Instant)>,
}

/// One publication to one keyring.
pub(super) struct Slot {
    pub publication: Publication,
    /// The attached instance it goes to; `None` for this machine, or where none is attached.
    pub instance: Option<InstanceId>,
    pub path: String,
    pub scope: Scope,
    pub who: CallerInfo,
    /// The uid on this machine, once it is known.
    pub uid: Option<u32>,
    pub description: Option<String>,
    pub key: Option<PublishedKey>,
    /// What the key has.
    pub version: Option<(u64, BlobKey)>,
    /// When the key expires.
    pub until: Option<Timestamp>,
    pub state: PublicationState,
    pub reason: Option<String>,
    pub put_back: u64,
    /// When a failure is tried again.
    pub retry: Option<Instant>,
}

impl Caller for Account {
    fn who(&self) -> CallerInfo {
        Account::who(self)
    }
}

impl Board {
    pub fn each(&self) -> impl Iterator<Item = (Ino, &Slot)> {
        self.slots.iter().flat_map(|(ino, slots)| slots.iter().map(|slot| (*ino, slot)))
    }

    /// The path of another publication whose key is described so in the same keyring: it would displace this one.
    fn taken(&self, ino: Ino, slot: &Slot, place: &KeyringOwner, description: &str) -> Option<String> {
        let same = |other: &Slot| {
            let key = other.key.as_ref()?;
            let same = key.place().same(place) && other.description.as_deref() == Some(description);
            same.then(|| other.path.clone())
        };
        let is_other = |i: Ino, s: &Slot| i != ino || !s.is(&slot.publication, slot.instance.as_ref());
        self.each().filter(|(i, s)| is_other(*i, s)).find_map(|(_, s)| same(s))
    }
}

impl Slot {
    fn new(publication: Publication, instance: Option<InstanceId>) -> Self {
        Slot {
            publication,
            instance,
            path: String::new(),
            scope: Scope::Host,
            who: CallerInfo::default(),
            uid: None,
            description: None,
            key: None,
            version: None,
            until: None,
            state: PublicationState::Waiting,
            reason: None,
            put_back: 0,
            retry: None,
        }
    }

    fn is(&self, publication: &Publication, instance: Option<&InstanceId>) -> bool {
        self.publication.same_key(publication) && self.instance.as_ref() == instance
    }

    pub fn info(&self) -> PublicationInfo {
        PublicationInfo {
            path: self.path.clone(),
            to: self.publication.to.to_string(),
            uid: self.uid,
            container: self.publication.container.clone(),
            attached: self.instance.as_ref().map(|i| i.id.clone()),
            description: self.description.clone().unwrap_or_else(|| self.publication.template().to_owned()),
            state: self.state,
            reason: self.reason.clone(),
            serial: self.key.as_ref().map(PublishedKey::serial),
            version: self.version.map(|(number, _)| number).filter(|number| *number > 0),
            expires: self.until.or(self.publication.until),
            put_back: self.put_back,
        }
    }

    fn set(&mut self, state: PublicationState, reason: Option<String>) {
        self.retry = (state == PublicationState::Failed).then(|| Instant::now() + RETRY);
        (self.state, self.reason) = (state, reason);
    }
}

/// Why a slot has no key.
struct Why(PublicationState, String);

impl Why {
    fn refused(reason: impl Into<String>) -> Self {
        Why(PublicationState::Refused, reason.into())
    }

    fn failed(reason: impl Into<String>) -> Self {
        Why(PublicationState::Failed, reason.into())
    }

    fn waiting(reason: impl Into<String>) -> Self {
        Why(PublicationState::Waiting, reason.into())
    }
}

/// What a slot is to be, found out without touching a key.
pub(super) struct WantedKey {
    account: Account,
    grant: Grant,
    kek: Kek,
    place: KeyringOwner,
    description: String,
    until: Option<Timestamp>,
}

impl Vault {
    /// Makes the keys of one secret what its publications, its permissions and its content say.
    pub(super) fn reconcile(&self, board: &mut Board, ino: Ino) {
        self.follow_successors(board);
        let found = self.node_and_path(ino).ok().filter(|(node, _)| node.kind == Kind::File);
        let Some((node, path)) = found else {
            self.withdraw_slots(board.slots.remove(&ino).unwrap_or_default(), "the secret is gone");
            self.note_out(board);
            return;
        };
        let publications = match node.meta.xattrs.get(PUBLISH_XATTR) {
            // Of another version of pinfold, perhaps: then nobody gets it.
            Some(value) => parse_publications(value).unwrap_or_default(),
            None => Vec::new(),
        };
        let mut before = board.slots.remove(&ino).unwrap_or_default();
        let mut now = Vec::new();
        for publication in publications {
            for (instance, room) in self.rooms(&publication, &node.scope) {
                let at = before.iter().position(|s| s.is(&publication, instance.as_ref()));
                let mut slot = match at {
                    Some(at) => before.swap_remove(at),
                    None => Slot::new(publication.clone(), instance),
                };
                slot.publication = publication.clone();
                slot.path.clone_from(&path);
                slot.scope = node.scope.clone();
                now.push((slot, room));
            }
        }
        // First what goes, so that its description is free.
        self.withdraw_slots(before, "it is not published any more");
        for (mut slot, room) in now {
            self.settle(board, ino, &node, &mut slot, room);
            board.slots.entry(ino).or_default().push(slot);
        }
        self.note_out(board);
    }

    /// Whether a publication of this secret would be granted, and to whom. Nothing is done, a refusal is recorded.
    pub(super) fn would_publish(&self, ino: Ino, publication: &Publication) -> Result<(), String> {
        let (node, path) = self.node_and_path(ino).map_err(|e| e.to_string())?;
        for (instance, room) in self.rooms(publication, &node.scope) {
            let mut slot = Slot::new(publication.clone(), instance);
            slot.path.clone_from(&path);
            match room.map_err(Why::waiting).and_then(|room| self.want(ino, &node, &mut slot, &room)) {
                Ok(_) | Err(Why(PublicationState::Waiting | PublicationState::Published, _)) => {}
                Err(Why(_, reason)) => {
                    self.refuse(audit::Operation::Publish, &path, None, &slot.who, &reason);
                    return Err(reason);
                }
            }
        }
        Ok(())
    }

    fn settle(&self, board: &Board, ino: Ino, node: &Node, slot: &mut Slot, room: Result<Room, String>) {
        let was = slot.state;
        let wanted = room.map_err(Why::waiting).and_then(|room| self.want(ino, node, slot, &room));
        let done = wanted.and_then(|wanted| {
            if let Some(path) = board.taken(ino, slot, &wanted.place, &wanted.description) {
                return Err(Why::failed(format!("that uid has a key of this description already, from {path}")));
            }
            self.bring(node, slot, wanted)
        });
        match done {
            Ok(note) => slot.set(PublicationState::Published, note),
            Err(Why(state, reason)) => {
                self.withdraw_key(slot, &reason);
                if state == PublicationState::Refused && (was, slot.reason.as_ref()) != (state, Some(&reason)) {
                    self.refuse(audit::Operation::Publish, &slot.path, None, &slot.who, &reason);
                }
                slot.set(state, Some(reason));
            }
        }
    }

    /// Decides.
    fn want(&self, ino: Ino, node: &Node, slot: &mut Slot, room: &Room) -> Result<WantedKey, Why> {
        if self.publisher.stopped() {
            return Err(Why::waiting("the daemon ends"));
        }
        let publication = slot.publication.clone();
        let account = match room {
            Room::Host => Account::of(&publication.to),
            Room::Instance { id, maps, .. } => Account::inside(&publication.to, id.clone(), maps),
        };
        let account = account.map_err(|doubt| Why::refused(format!("in doubt: {doubt}")))?;
        slot.who = account.who();
        slot.uid = Some(account.uid().0);
        if node.meta.conditions().of_a_process() {
            return Err(Why::refused("it has conditions on who reads it, and a key cannot keep them"));
        }
        // A view is opened each time anew; its key is there meanwhile.
        let sources = self.conditions_of_sources(node);
        if let Some(source) = sources.bound {
            return Err(Why::refused(format!("{source} has conditions on who reads it, and a key cannot keep them")));
        }
        let until =
            [earliest(publication.until, node.meta.conditions().expires), sources.expires].into_iter().flatten().min();
        if until.is_some_and(|at| at <= self.clock.now()) {
            return Err(Why(PublicationState::Expired, "its time has passed".into()));
        }
        self.may_walk_to(node, &account).map_err(Why::refused)?;
        let (grant, _, kek) =
            self.grant(&account, ino, node, access::Operation::Read).map_err(|(denial, _)| match denial {
                Denial::NoKey => Why::waiting(denial.to_string()),
                _ => Why::refused(denial.to_string()),
            })?;
        let (namespace, uid) = match (room, &publication.to) {
            (Room::Host, _) => (None, account.uid().0),
            (Room::Instance { namespace: None, .. }, _) => (None, account.uid().0),
            (Room::Instance { namespace, .. }, Recipient::Number { uid, .. }) => (namespace.clone(), *uid),
            (Room::Instance { .. }, Recipient::Name(_)) => return Err(Why::refused("a container's users are numbers")),
        };
        let user = publication.to.to_string();
        let inside = match room {
            Room::Host => None,
            Room::Instance { id, .. } => Some((id.id.as_str(), id.scope.as_str())),
        };
        let path = path_inside(&slot.path, &node.scope);
        let facts = DescribedBy { path, uid, user: &user, container: inside };
        let description = publication.description(&facts).map_err(|e| Why::failed(e.to_string()))?;
        Ok(WantedKey { account, grant, kek, place: KeyringOwner { namespace, uid }, description, until })
    }

    /// Every directory on the way must let him through, as the kernel would ask: a container sees its own folder as the
    /// root.
    pub(super) fn may_walk_to(&self, node: &Node, subject: &impl Subject) -> Result<(), String> {
        let mut at = node.parent;
        loop {
            let (directory, path) = self.node_and_path(at).map_err(|e| e.to_string())?;
            if directory.scope == node.scope {
                let view = self.view(&directory.scope);
                let acl = directory.meta.acl.as_ref().map(|acl| view.shown_acl(acl));
                access::may_search(subject, &directory.object(at, &view, acl.as_deref()))
                    .map_err(|denial| format!("/{path}: {denial}"))?;
            }
            if at == Ino::ROOT {
                return Ok(());
            }
            at = directory.parent;
        }
    }

    /// Does it: a key that is there is updated, a missing one made. What is to be known about it, if anything.
    fn bring(&self, node: &Node, slot: &mut Slot, wanted: WantedKey) -> Result<Option<String>, Why> {
        let WantedKey { account, grant, kek, place, description, until } = wanted;
        let moved = slot.key.as_ref().is_some_and(|key| !key.place().same(&place))
            || slot.description.as_ref().is_some_and(|old| *old != description);
        if moved {
            self.withdraw_key(slot, "its description or its place changed");
        }
        let failed = |e: VaultError| Why::failed(e.to_string());
        let mut composed = None;
        let (is, size) = match (&node.view, node.current()) {
            (Some(_), _) => {
                let made = self.compose(grant.ino(), node, &kek).map_err(failed)?;
                let (is, size) = ((0, made.mark), made.content.len() as u64);
                composed = Some(made.content);
                (is, size)
            }
            (None, Some(version)) => ((version.number.0, version.blob), version.size),
            (None, None) => return Err(Why::waiting("it was never written")),
        };
        let timeout = until.map(seconds_until);
        let group = account.own_group().map(|g| g.0);
        let note = group.is_none().then(|| {
            "found only where the session keyring has @u (KeyringMode=shared): others are in this user's group"
                .to_owned()
        });
        if slot.key.is_some() && slot.version == Some(is) && slot.until == until {
            return Ok(note);
        }
        if size == 0 || size > crate::sys::keyctl::PAYLOAD_MAX as u64 {
            return Err(Why::failed(PublishError::Size(usize::try_from(size).unwrap_or(usize::MAX)).to_string()));
        }
        let content = match composed {
            Some(content) => content,
            None => self.decrypt(&grant, &kek, node.current()).map_err(failed)?,
        };
        let record = |what: &str| {
            let reason = format!("{}: {what} '{description}'", grant.rule());
            self.record(audit::Operation::Publish, &slot.path, Some(is.0), &slot.who, &reason).map_err(failed)
        };
        let updated = match &slot.key {
            Some(key) => {
                record("updated key")?;
                match key.update(&grant, &content, timeout) {
                    Ok(()) => true,
                    Err(PublishError::Gone) => false,
                    Err(error) => return Err(Why::failed(error.to_string())),
                }
            }
            None => false,
        };
        if !updated {
            record("key")?;
            let order = Order { place: &place, description: &description, group, timeout };
            let key = PublishedKey::publish(&grant, &order, &content).map_err(|e| Why::failed(e.to_string()))?;
            self.publisher.live.lock().insert(key.serial(), key.clone());
            slot.key = Some(key);
        }
        // Locked or ended between the decision and now: whoever took all back did not see this one.
        if self.locked_since().is_some() {
            return Err(Why::waiting("locked"));
        }
        if self.publisher.stopped() {
            return Err(Why::waiting("the daemon ends"));
        }
        (slot.version, slot.until, slot.description) = (Some(is), until, Some(description));
        Ok(note)
    }

    pub(super) fn withdraw_slots(&self, slots: Vec<Slot>, why: &str) {
        for mut slot in slots {
            self.withdraw_key(&mut slot, why);
        }
    }

    /// Withdraws a key that no slot has any more.
    pub(super) fn forget_key(&self, key: PublishedKey) {
        self.publisher.live.lock().remove(&key.serial());
        key.withdraw();
    }

    /// Takes a key back. What cannot be recorded happens all the same: less is open than before.
    pub(super) fn withdraw_key(&self, slot: &mut Slot, why: &str) {
        if let Some(key) = slot.key.take() {
            let serial = key.serial();
            self.forget_key(key);
            let number = slot.version.map(|(number, _)| number);
            let reason = format!("{why}: key {serial}");
            if let Err(error) = self.record(audit::Operation::Unpublish, &slot.path, number, &slot.who, &reason) {
                tracing::error!(path = %slot.path, %error, "a key was taken back unrecorded");
            }
        }
        (slot.version, slot.until, slot.description) = (None, None, None);
    }
}

/// A container sees its folder as the root of everything.
fn path_inside<'a>(path: &'a str, scope: &Scope) -> &'a str {
    match scope {
        Scope::Host => path,
        Scope::Container(_) => path.splitn(3, '/').nth(2).unwrap_or(path),
    }
}

/// The earlier of two ends; one that cannot be read has passed.
fn earliest(until: Option<Timestamp>, expires: Option<&str>) -> Option<Timestamp> {
    let expires = expires.map(|text| humantime::parse_rfc3339_weak(text).map_or(Timestamp::default(), Timestamp::from));
    until.into_iter().chain(expires).min()
}

/// Whole seconds from now, rounded up, at least one: 0 would mean for ever.
fn seconds_until(at: Timestamp) -> u32 {
    let left = at.secs.saturating_sub(Timestamp::now().secs);
    u32::try_from(left.max(1)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earlier_end_counts_and_doubt_is_the_past() {
        let at = |secs| Timestamp { secs, nanos: 0 };
        assert_eq!(earliest(None, None), None);
        assert_eq!(earliest(Some(at(5)), None), Some(at(5)));
        assert_eq!(earliest(Some(at(5_000_000_000)), Some("2027-01-31T12:00:00Z")), Some(at(1_801_396_800)));
        assert_eq!(earliest(Some(at(5)), Some("some day")), Some(at(0)));
        assert_eq!(seconds_until(at(0)), 1);
    }

    #[test]
    fn a_container_s_path_begins_at_its_folder() {
        let web = Scope::container("web").unwrap();
        assert_eq!(path_inside("containers/web/a/pin", &web), "a/pin");
        assert_eq!(path_inside("containers/web/pin", &Scope::Host), "containers/web/pin");
    }
}
