//! Telling the kernel that what it caches has changed.
//!
//! From a thread of its own: a notification made inside a handler waits for a lock that the request holds.

use super::poke::Poker;
use crate::fs::Node;
use crate::fs::wait::Waiting;
use crate::lock::Mutex;
use crate::model::{Ino, Name};
use crate::sys::mount;
use crate::vault::{Change, Observer};
use fuser::{INodeNo, Notifier};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// How many notifications wait at most; beyond that everything is dropped from the kernel's caches at once.
const MAX_WAITING: usize = 4096;
/// How many names in the root are remembered, to be forgotten by the kernel at a lock.
const MAX_NAMES: usize = 65_536;

enum Task {
    Change(Change),
    Pages(Node),
    /// One number's attributes changed, and those of the others with them; `content` says that a version came.
    Others {
        nodes: Vec<Node>,
        content: bool,
    },
    /// Whoever waits for this has all before it behind him.
    Mark(SyncSender<()>),
    Forget,
    Stop,
}

/// What is asked of the filesystem's handles.
pub(super) struct Handles {
    /// What a lock leaves of them: the numbers whose pages are to go.
    pub on_lock: Box<dyn Fn() -> Vec<Node> + Send + Sync>,
    /// The numbers whose pages are to go with an instance.
    pub mapped_by: Box<dyn Fn(Ino) -> Vec<Node> + Send + Sync>,
    /// All numbers by which the kernel may know an inode.
    pub nodes: Box<dyn Fn(Ino) -> Vec<Node> + Send + Sync>,
    /// How many are open.
    pub count: Box<dyn Fn() -> u64 + Send + Sync>,
}

/// Where changes are told.
pub(super) struct Teller {
    queue: SyncSender<Task>,
    names: Mutex<BTreeSet<Name>>,
    waiting: Arc<Waiting>,
    handles: Handles,
    overflows: AtomicU64,
    /// The connection, once it serves.
    device: OnceLock<OwnedFd>,
    /// Once it serves: who makes watchers hear of what was told.
    poker: OnceLock<Poker>,
}

impl Teller {
    /// With what is asked of the handles. [`Teller::serve`] starts the thread.
    pub fn new(waiting: Arc<Waiting>, handles: Handles) -> (Arc<Self>, Tasks) {
        let (queue, tasks) = sync_channel(MAX_WAITING);
        let overflows = AtomicU64::new(0);
        let (device, poker) = (OnceLock::new(), OnceLock::new());
        let teller = Teller { queue, names: Mutex::default(), waiting, handles, overflows, device, poker };
        (Arc::new(teller), Tasks(tasks))
    }

    /// The kernel learns this name in the root.
    pub fn saw_root_name(&self, name: &Name) {
        let mut names = self.names.lock();
        if names.len() < MAX_NAMES && !names.contains(name.as_str()) {
            names.insert(name.clone());
        }
    }

    /// Pages that the kernel filled for a mapping are to go.
    pub fn drop_pages(&self, node: Node) {
        self.send(Task::Pages(node));
    }

    /// What the kernel knows by these numbers was changed through another one; `content` says that a version came.
    pub fn changed_for(&self, nodes: Vec<Node>, content: bool) {
        self.send(Task::Others { nodes, content });
    }

    /// Everything the kernel remembers is to be asked for anew.
    pub fn forget(&self) {
        self.send(Task::Forget);
    }

    /// From now on whoever watches a changed file hears of it.
    pub fn poke_with(&self, poker: Poker) {
        let _ = self.poker.set(poker);
    }

    /// Runs the tasks until [`Teller::stop`]. `device` is the connection.
    pub fn serve(self: &Arc<Self>, tasks: Tasks, notifier: Notifier, device: OwnedFd) -> std::io::Result<()> {
        let _ = self.device.set(device);
        let own = Arc::clone(self);
        std::thread::Builder::new().name("notify".into()).spawn(move || own.run(&tasks.0, &notifier)).map(|_| ())
    }

    /// Ends the thread.
    pub fn stop(&self) {
        // A full queue ends too: the receiver is gone with the daemon.
        let _ = self.queue.try_send(Task::Stop);
    }

    fn send(&self, task: Task) {
        if let Err(TrySendError::Full(_)) = self.queue.try_send(task) {
            self.overflows.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn run(&self, tasks: &Receiver<Task>, notifier: &Notifier) {
        for task in tasks {
            if self.overflows.swap(0, Ordering::Relaxed) > 0 {
                self.forget_all(notifier);
            }
            // ENOENT says that the kernel did not have it: as good.
            match task {
                Task::Change(Change::Entry { parent, name }) => {
                    let _ = notifier.inval_entry(INodeNo(parent.0), OsStr::new(name.as_str()));
                    let _ = notifier.inval_inode(INodeNo(parent.0), 0, 0);
                    self.poker.get().inspect(|poker| poker.entry(parent, name));
                }
                Task::Change(Change::Node(ino)) => {
                    let nodes = (self.handles.nodes)(ino);
                    forget_nodes(notifier, &nodes);
                    self.poker.get().inspect(|poker| {
                        poker.node(ino);
                        nodes.iter().filter(|_| nodes.len() > 1).for_each(|node| poker.other(*node));
                    });
                }
                Task::Pages(node) => forget_nodes(notifier, &[node]),
                Task::Others { nodes, content } => {
                    for node in &nodes {
                        // The attributes alone: what is mapped under them is of another version, and stays.
                        let _ = notifier.inval_inode(INodeNo(node.id()), -1, 0);
                        self.poker.get().filter(|_| content).inspect(|poker| poker.other(*node));
                    }
                }
                Task::Change(Change::Nodes(inodes)) => {
                    inodes.into_iter().for_each(|ino| forget_nodes(notifier, &(self.handles.nodes)(ino)));
                }
                // Its pages were told one by one.
                Task::Change(Change::CutOff(_)) => {}
                Task::Mark(done) => drop(done.try_send(())),
                Task::Change(Change::Locked) | Task::Forget => self.forget_all(notifier),
                Task::Change(Change::Unlocked) => {
                    let _ = notifier.inval_inode(INodeNo(Ino::ROOT.0), 0, 0);
                }
                Task::Stop => return,
            }
        }
    }

    /// At once, where the kernel can (Linux 6.16).
    fn forget_names(&self) -> bool {
        self.device.get().is_some_and(|device| mount::forget_names(device.as_fd()).is_ok())
    }

    /// Every name the kernel may know hangs on one in the root. Where they must be taken one by one, a caller that waits
    /// for an unlock keeps the directory, and with it this thread, until he is answered.
    fn forget_all(&self, notifier: &Notifier) {
        if !self.forget_names() {
            let names = std::mem::take(&mut *self.names.lock());
            for name in names {
                let _ = notifier.inval_entry(INodeNo(Ino::ROOT.0), OsStr::new(name.as_str()));
            }
        }
        let _ = notifier.inval_inode(INodeNo(Ino::ROOT.0), 0, 0);
    }
}

fn forget_nodes(notifier: &Notifier, nodes: &[Node]) {
    for node in nodes {
        let _ = notifier.inval_inode(INodeNo(node.id()), 0, 0);
    }
}

impl Observer for Teller {
    fn changed(&self, change: Change) {
        match change {
            Change::Locked => {
                (self.handles.on_lock)().into_iter().for_each(|node| self.drop_pages(node));
                // Here too, so that nobody knows a name once `pinfold lock` is back.
                self.forget_names();
            }
            Change::Unlocked => self.waiting.unlocked(),
            Change::CutOff(instance) => {
                return (self.handles.mapped_by)(instance).into_iter().for_each(|node| self.drop_pages(node));
            }
            Change::Entry { .. } | Change::Node(_) | Change::Nodes(_) => {}
        }
        self.send(Task::Change(change));
    }

    fn settle(&self, within: Duration) -> bool {
        let (done, settled) = sync_channel(1);
        self.device.get().is_none()
            || (self.queue.try_send(Task::Mark(done)).is_ok() && settled.recv_timeout(within).is_ok())
    }

    fn open_handles(&self) -> u64 {
        (self.handles.count)()
    }

    fn waiting(&self) -> u64 {
        self.waiting.count()
    }
}

/// The tasks, until the session can be told.
pub(super) struct Tasks(Receiver<Task>);
