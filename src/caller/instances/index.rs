//! Which instance a place is in: the comparison of a caller's cgroup and namespaces with those of all attached.
//!
//! Pure but for what it asks of the [`Place`]. An index never changes: attaching makes a new one.

use super::Held;
use crate::caller::place::{NsId, Own, Place, is_below};
use crate::model::{Doubt, InstanceId};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// One attached instance.
#[derive(Clone)]
pub(super) struct Attached {
    pub id: InstanceId,
    pub held: Arc<Held>,
}

/// All of them, and where to find one by something that tells it from the host. What is the host's own is not listed:
/// it would speak for everybody.
#[derive(Clone, Default)]
pub(super) struct Index {
    pub all: BTreeMap<String, Arc<Attached>>,
    own: Option<Own>,
    by_pid_ns: HashMap<NsId, Vec<Arc<Attached>>>,
    by_user_ns: HashMap<NsId, Vec<Arc<Attached>>>,
    by_cgroup: HashMap<String, Vec<Arc<Attached>>>,
}

/// How deep below the host something is, in each respect: namespaces and cgroups nest, the host's own are at 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Depth {
    cgroup: usize,
    pid: usize,
    user: usize,
}

const HOST: Depth = Depth { cgroup: 0, pid: 0, user: 0 };

impl Depth {
    fn is_within(self, other: Depth) -> bool {
        self.cgroup >= other.cgroup && self.pid >= other.pid && self.user >= other.user
    }
}

/// In which respects a place is in an instance, and at which depth that instance is there.
struct Agreement {
    cgroup: Option<usize>,
    pid: Option<usize>,
    user: Option<usize>,
}

impl Agreement {
    fn full(&self) -> Option<Depth> {
        Some(Depth { cgroup: self.cgroup?, pid: self.pid?, user: self.user? })
    }

    /// Whether it speaks for being in that instance, beyond what being at `depth` explains.
    fn is_more_than(&self, depth: Depth) -> bool {
        self.cgroup > Some(depth.cgroup) || self.pid > Some(depth.pid) || self.user > Some(depth.user)
    }
}

impl Index {
    pub fn insert(&mut self, attached: Arc<Attached>) {
        let (marks, own) = (attached.held.marks(), *attached.held.own());
        self.own = Some(own);
        if marks.pid_ns != own.pid {
            self.by_pid_ns.entry(marks.pid_ns).or_default().push(Arc::clone(&attached));
        }
        if marks.user_ns != own.user {
            self.by_user_ns.entry(marks.user_ns).or_default().push(Arc::clone(&attached));
        }
        if let Some(cgroup) = &marks.cgroup {
            self.by_cgroup.entry(cgroup.clone()).or_default().push(Arc::clone(&attached));
        }
        self.all.insert(attached.id.id.clone(), attached);
    }

    pub fn remove(&mut self, id: &str) -> Option<Arc<Attached>> {
        let gone = self.all.remove(id)?;
        let marks = gone.held.marks();
        take(&mut self.by_pid_ns, &marks.pid_ns, id);
        take(&mut self.by_user_ns, &marks.user_ns, id);
        if let Some(cgroup) = &marks.cgroup {
            take(&mut self.by_cgroup, cgroup, id);
        }
        Some(gone)
    }

    /// One that nobody could tell from an instance with these marks.
    pub fn twin(&self, held: &Held) -> Option<&InstanceId> {
        let place = |h: &Held| (h.marks().cgroup.clone(), h.marks().pid_ns, h.marks().user_ns);
        let of = place(held);
        let by_pid_ns = self.by_pid_ns.get(&held.marks().pid_ns);
        let near = by_pid_ns.or_else(|| self.by_user_ns.get(&held.marks().user_ns));
        near.into_iter().flatten().find(|other| place(&other.held) == of).map(|other| &other.id)
    }

    /// The instance that holds this place.
    pub fn holding(&self, place: &dyn Place) -> Result<Option<InstanceId>, Doubt> {
        let Some(own) = self.own else { return Ok(None) };
        let (cgroup, pid, user) = (place.cgroup()?, place.pid_ns()?, place.user_ns()?);
        // The deepest cgroup on the way to the caller's that belongs to an instance.
        let in_cgroup = || prefixes(&cgroup).find_map(|path| self.by_cgroup.get(path).map(|list| (path, list)));
        // Nearly every caller is right in an instance, or outside of all: told without looking at what lies above.
        if (pid, user) == (own.pid, own.user) && in_cgroup().is_none() {
            return Ok(None);
        }
        let direct = if pid == own.pid { self.by_user_ns.get(&user) } else { self.by_pid_ns.get(&pid) };
        let deepest = in_cgroup().map(|(path, _)| path);
        let here = direct.into_iter().flatten().find(|a| {
            let marks = a.held.marks();
            (marks.pid_ns, marks.user_ns) == (pid, user) && marks.cgroup.as_deref() == deepest
        });
        if let Some(here) = here {
            // None is deeper in any respect, and none but itself is as deep in all.
            return Ok(Some(here.id.clone()));
        }
        let pids = chain(pid, own.pid, || place.above_pid_ns())?;
        let users = chain(user, own.user, || place.above_user_ns())?;
        self.compare(&cgroup, &pids, &users)
    }

    /// The whole comparison.
    fn compare(&self, cgroup: &str, pids: &[NsId], users: &[NsId]) -> Result<Option<InstanceId>, Doubt> {
        let mut near: Vec<&Arc<Attached>> = prefixes(cgroup)
            .filter_map(|path| self.by_cgroup.get(path))
            .chain(pids.iter().filter_map(|ns| self.by_pid_ns.get(ns)))
            .chain(users.iter().filter_map(|ns| self.by_user_ns.get(ns)))
            .flatten()
            .collect();
        near.sort_unstable_by_key(|a| &a.id.id);
        near.dedup_by_key(|a| &a.id.id);
        let depth = |chain: &[NsId], ns: NsId| chain.iter().position(|at| *at == ns).map(|at| chain.len() - 1 - at);
        let agreements: Vec<(&Attached, Agreement)> = near
            .into_iter()
            .map(|attached| {
                let marks = attached.held.marks();
                let agreement = Agreement {
                    cgroup: match &marks.cgroup {
                        None => Some(0),
                        Some(own) => is_below(cgroup, own).then(|| own.split('/').count()),
                    },
                    pid: depth(pids, marks.pid_ns),
                    user: depth(users, marks.user_ns),
                };
                (&**attached, agreement)
            })
            .collect();
        let full = || agreements.iter().filter_map(|(attached, a)| Some((*attached, a.full()?)));
        let innermost = full().find(|(_, depth)| full().all(|(_, other)| depth.is_within(other)));
        if innermost.is_none()
            && let Some((one, _)) = full().next()
        {
            return Err(Doubt(format!("more than one instance claims it, '{}' for one", one.id.id)));
        }
        let depth = innermost.map_or(HOST, |(_, depth)| depth);
        if let Some((other, a)) = agreements.iter().find(|(_, a)| a.full().is_none() && a.is_more_than(depth)) {
            let (mut is, mut is_not) = (Vec::new(), Vec::new());
            for (what, at) in [("cgroup", a.cgroup), ("pid namespace", a.pid), ("user namespace", a.user)] {
                if at.is_none() {
                    is_not.push(what);
                } else if at > Some(0) {
                    is.push(what);
                }
            }
            let (is, is_not) = (is.join(" and "), is_not.join(" and "));
            return Err(Doubt(format!("it is in the {is} of the instance '{}', not in its {is_not}", other.id.id)));
        }
        Ok(innermost.map(|(attached, _)| attached.id.clone()))
    }
}

fn take<K: std::hash::Hash + Eq>(map: &mut HashMap<K, Vec<Arc<Attached>>>, key: &K, id: &str) {
    if let Some(list) = map.get_mut(key) {
        list.retain(|a| a.id.id != id);
        if list.is_empty() {
            map.remove(key);
        }
    }
}

/// A namespace and those above it, nearest first, the daemon's own last.
fn chain(at: NsId, own: NsId, above: impl FnOnce() -> Result<Arc<[NsId]>, Doubt>) -> Result<Vec<NsId>, Doubt> {
    let mut chain = vec![at];
    if at != own {
        chain.extend_from_slice(&above()?);
    }
    if chain.last() != Some(&own) {
        return Err(Doubt("its namespaces are not below the daemon's".into()));
    }
    Ok(chain)
}

/// `/a/b` and `/a` of `/a/b`, not `/`, which is nobody's own.
fn prefixes(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path), |p| p.rfind('/').map(|end| &p[..end])).filter(|p| p.len() > 1)
}
