//! What never changes, kept: a thread's pidfd, a process's start and pid namespace, a cgroup's path.
//!
//! Decisions rest on the last two. They may: the number of a thread in pidfs and the id of a cgroup are given once in
//! the life of a system, a thread never leaves its pid namespace (pid_namespaces(7)), and a v2 cgroup has no rename. A
//! pidfd is used after the kernel said that its thread is still there.

use super::handle::Pidfd;
use super::place::NsId;
use crate::lock::{Mutex, MutexGuard};
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

/// The most threads, and the most cgroups, that are remembered; beyond it all are forgotten at once.
const MAX: usize = 4096;
/// The most pidfds that are held open, well below what a process may have by default.
const MAX_PIDFDS: usize = 256;

/// A bounded memory. Lock order: innermost, nothing is called while a lock is held.
#[derive(Default)]
pub(super) struct Cache {
    threads: Mutex<HashMap<u64, Seen>>,
    cgroups: Mutex<HashMap<u64, Cgroup>>,
    pid_namespaces: Mutex<HashMap<u64, PidNs>>,
    pidfds: Mutex<HashMap<u32, Arc<Pidfd>>>,
}

/// Where a thread is for its whole life.
#[derive(Clone)]
pub(super) struct PidNs {
    pub id: NsId,
    /// Those above, nearest first; `None` until somebody asked.
    pub above: Option<Arc<[NsId]>>,
}

/// A thread that called before.
#[derive(Clone, Default)]
pub(super) struct Seen {
    /// When its process started.
    pub start: Option<u64>,
    /// The executable's path when it was last looked at: the same string again is not allocated again.
    pub exe: Option<Arc<str>>,
}

/// A cgroup, by its id, which the kernel gives once.
#[derive(Clone)]
pub(super) struct Cgroup {
    pub path: Arc<str>,
    pub unit: Option<Arc<str>>,
}

impl Cache {
    /// What is known of the thread with this number in pidfs.
    pub fn thread(&self, inode: u64) -> Option<Seen> {
        lock(&self.threads).get(&inode).cloned()
    }

    pub fn keep_thread(&self, inode: u64, seen: Seen) {
        keep(lock(&self.threads), MAX, inode, seen);
    }

    /// What was held of the thread with this id; it may be gone, and another have its id.
    pub fn pidfd(&self, tid: u32) -> Option<Arc<Pidfd>> {
        lock(&self.pidfds).get(&tid).cloned()
    }

    pub fn keep_pidfd(&self, tid: u32, pidfd: Arc<Pidfd>) {
        keep(lock(&self.pidfds), MAX_PIDFDS, tid, pidfd);
    }

    /// The pid namespace of the thread with this number in pidfs.
    pub fn pid_ns(&self, inode: u64) -> Option<PidNs> {
        lock(&self.pid_namespaces).get(&inode).cloned()
    }

    pub fn keep_pid_ns(&self, inode: u64, pid_ns: PidNs) {
        keep(lock(&self.pid_namespaces), MAX, inode, pid_ns);
    }

    /// The cgroup with this id.
    pub fn cgroup(&self, id: u64) -> Option<Cgroup> {
        lock(&self.cgroups).get(&id).cloned()
    }

    pub fn keep_cgroup(&self, id: u64, cgroup: Cgroup) {
        keep(lock(&self.cgroups), MAX, id, cgroup);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock()
}

fn keep<K: Eq + Hash, T>(mut map: MutexGuard<'_, HashMap<K, T>>, max: usize, key: K, value: T) {
    if map.len() >= max && !map.contains_key(&key) {
        map.clear();
    }
    map.insert(key, value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_bounded() {
        let cache = Cache::default();
        for i in 0..3 * MAX as u64 {
            cache.keep_thread(i, Seen { start: Some(i), exe: None });
            assert_eq!(cache.thread(i).unwrap().start, Some(i));
            assert!(lock(&cache.threads).len() <= MAX);
        }
        assert!(cache.thread(0).is_none());
    }
}
