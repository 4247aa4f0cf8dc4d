//! The table: what can be used up, and how much of it each may have.
//!
//! Owns one row for each [`Resource`], and what a bound means for whom. `docs/limits.md` has the same rows; a test compares them.

use super::Payer;

/// Something that a caller can use up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    /// Files and directories held open.
    Handles,
    /// Locked memory that holds what is open or being written, in bytes.
    HandleBytes,
    /// Memory of the directory listings held open, in bytes.
    Snapshots,
    /// Secrets being written and not yet committed.
    DirtyCopies,
    /// Callers that wait for an unlock.
    Waiters,
    /// Requests that wait for their turn.
    Delayed,
    /// Different refusals that wait to be written to the log. Its queue counts them, and keeps these bounds.
    Refusals,
    /// Opens in a second.
    Opens,
    /// Changes under way: each has a thread until the disk has it.
    Commits,
    /// Changes in a second.
    CommitRate,
    /// Bytes committed in a day.
    CommitBytes,
    /// Entries of the tree.
    Secrets,
    /// Content in the store, with all versions that are kept, in bytes.
    StoredBytes,
    /// Versions that are kept.
    Versions,
    /// Removed secrets whose history is kept.
    Removed,
    /// Connections to the socket for `LoadCredential=`.
    Credentials,
    /// Connections to the control socket.
    Control,
    /// Large messages on the control socket.
    ControlLarge,
    /// Readings and checks of the audit log over the control socket.
    ControlLog,
    /// Keys that are being made for request_key(2).
    Upcalls,
}

/// How a resource is counted, and what happens beyond its bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// As long as its [`Charge`](super::Charge) is held; beyond it, a charge is refused.
    Held,
    /// By the second; what comes too fast is delayed, not refused.
    Paced,
    /// Over a day, given back little by little; beyond it, it is refused.
    Spent,
    /// Where it is kept, on disk; the bound is asked for here.
    Kept,
}

/// What a bound counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Things.
    Number,
    /// Bytes.
    Bytes,
    /// Things in a second.
    PerSecond,
    /// Bytes in a day.
    BytesPerDay,
}

/// What one user may have, if nobody configures it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// So many. The key of the same name in `[limits]` changes it.
    Number(u64),
    /// So many, always.
    Fixed(u64),
    /// A quarter of the locked memory.
    OfMemory,
    /// A tenth of `max_secrets`.
    OfSecrets,
}

/// Bounds of one resource. [`NONE`] is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// For each uid of the host but root.
    pub uid: u64,
    /// For root of the host.
    pub root: u64,
    /// For all callers inside one instance of a container; where it is kept on disk, inside one scope.
    pub instance: u64,
    /// For all instances together.
    pub instances: u64,
    /// For everybody but root of the host together.
    pub others: u64,
    /// In all.
    pub all: u64,
}

/// No bound.
pub const NONE: u64 = u64::MAX;

impl Bounds {
    /// The bound of whoever pays.
    pub fn of(&self, payer: Payer) -> u64 {
        match payer {
            Payer::Uid(0) => self.root,
            Payer::Uid(_) => self.uid,
            Payer::Instance(_) => self.instance,
        }
    }

    fn times(&self, share: u64) -> Bounds {
        let times = |n: u64| if n == NONE { NONE } else { n.saturating_mul(share) };
        Bounds {
            uid: times(self.uid),
            root: times(self.root),
            instance: times(self.instance),
            instances: times(self.instances),
            others: times(self.others),
            all: times(self.all),
        }
    }
}

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// What.
    pub resource: Resource,
    /// Its name: in `[limits]`, in `status`, in the metrics and in the documents.
    pub name: &'static str,
    /// The same for people, in the plural.
    pub what: &'static str,
    /// How it is counted.
    pub counted: Counted,
    /// In what.
    pub unit: Unit,
    /// What one user may have.
    pub share: Share,
    /// How often one user's share the others may have.
    parts: Bounds,
    /// How many seconds' worth may come at once, where it is paced.
    pub burst: u64,
    /// Whether what is charged alone fits whatever its size, as long as there is room in all.
    pub alone: bool,
}

impl Row {
    /// The bounds, where one user may have this much.
    pub fn bounds(&self, share: u64) -> Bounds {
        self.parts.times(share)
    }
}

const fn row(resource: Resource, name: &'static str, what: &'static str, counted: Counted, share: Share) -> Row {
    let unit = match counted {
        Counted::Paced => Unit::PerSecond,
        Counted::Spent => Unit::BytesPerDay,
        Counted::Held | Counted::Kept => Unit::Number,
    };
    let parts = Bounds { uid: 1, root: NONE, instance: 1, instances: NONE, others: NONE, all: NONE };
    Row { resource, name, what, counted, unit, share, parts, burst: 1, alone: false }
}

impl Row {
    const fn bytes(self) -> Row {
        Row { unit: Unit::Bytes, ..self }
    }

    const fn burst(self, burst: u64) -> Row {
        Row { burst, ..self }
    }

    const fn alone(self) -> Row {
        Row { alone: true, ..self }
    }

    const fn root(self, root: u64) -> Row {
        Row { parts: Bounds { root, ..self.parts }, ..self }
    }

    const fn instance(self, instance: u64) -> Row {
        Row { parts: Bounds { instance, ..self.parts }, ..self }
    }

    const fn instances(self, instances: u64) -> Row {
        Row { parts: Bounds { instances, ..self.parts }, ..self }
    }

    /// Everybody but root together, and all: the difference is kept for root.
    const fn together(self, others: u64, all: u64) -> Row {
        Row { parts: Bounds { others, all, ..self.parts }, ..self }
    }
}

use Counted::{Held, Kept, Paced, Spent};
use Share::{Fixed, Number, OfMemory, OfSecrets};

impl Resource {
    /// How many there are.
    pub const COUNT: usize = 20;

    /// The table, in the order of the enum.
    pub const TABLE: [Row; Resource::COUNT] = [
        row(Resource::Handles, "handles", "open files and directories", Held, Number(4096))
            .root(4)
            .instances(4)
            .together(6, 8),
        row(Resource::HandleBytes, "handle_bytes", "bytes of open content", Held, OfMemory)
            .bytes()
            .alone()
            .root(1)
            .instances(2)
            .together(3, 4),
        row(Resource::Snapshots, "snapshots", "bytes of open directory listings", Held, Number(16 << 20))
            .bytes()
            .alone()
            .root(2)
            .instances(2)
            .together(3, 4),
        row(Resource::DirtyCopies, "dirty_copies", "secrets being written", Held, Number(512))
            .root(4)
            .instances(4)
            .together(6, 8),
        row(Resource::Waiters, "waiters", "callers that wait for an unlock", Held, Number(16)).root(4).together(16, 20),
        row(Resource::Delayed, "delayed", "requests that wait for their turn", Held, Number(256))
            .root(4)
            .instance(4)
            .instances(8)
            .together(12, 16),
        row(Resource::Refusals, "refusals", "different refusals at a time", Kept, Fixed(1000))
            .root(1)
            .instances(4)
            .together(8, 9),
        row(Resource::Opens, "opens", "opens a second", Paced, Number(1000)).burst(2).instance(4),
        row(Resource::Commits, "commits", "changes under way", Held, Number(8)).root(2).instances(2).together(2, 3),
        row(Resource::CommitRate, "commit_rate", "changes a second", Paced, Number(100)).burst(20).instance(4),
        row(Resource::CommitBytes, "commit_bytes", "bytes committed a day", Spent, Number(4 << 30)).instance(4),
        row(Resource::Secrets, "secrets", "entries of the tree", Kept, OfSecrets).root(10).together(10, 10),
        row(Resource::StoredBytes, "stored_bytes", "bytes in the store", Kept, Number(1 << 30)).bytes().instance(4),
        row(Resource::Versions, "versions", "versions kept", Kept, Number(50_000)).instance(4),
        row(Resource::Removed, "removed", "removed secrets whose history is kept", Kept, Number(256))
            .root(4)
            .instance(4)
            .together(64, 68),
        row(Resource::Credentials, "credentials", "connections for credentials", Held, Number(4))
            .root(4)
            .together(2, 6),
        row(Resource::Control, "control", "connections to the control socket", Held, Number(8)).root(4).together(3, 4),
        row(Resource::ControlLarge, "control_large", "large messages at a time", Held, Number(1))
            .root(1)
            .together(4, 4),
        row(Resource::ControlLog, "control_log", "readings of the audit log at a time", Held, Number(1))
            .root(2)
            .together(3, 4),
        row(Resource::Upcalls, "upcalls", "keys being made", Held, Number(4)).root(4).instance(2).together(12, 16),
    ];

    /// Its row.
    pub fn row(self) -> &'static Row {
        const TABLE: &[Row; Resource::COUNT] = &Resource::TABLE;
        &TABLE[self as usize]
    }

    /// All of them.
    pub fn all() -> impl Iterator<Item = Resource> {
        Resource::TABLE.into_iter().map(|row| row.resource)
    }
}
