//! Which instance a place is in: the comparison of a caller's cgroup and namespaces with those of all attached.
//!
//! Pure but for what it asks of the [`Whereabouts`]. An index never changes: attaching makes a new one.

use super::Held;
use crate::caller::place::{NsId, Own, Whereabouts, is_below};
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
    pub fn holding(&self, place: &dyn Whereabouts) -> Result<Option<InstanceId>, Doubt> {
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

#[cfg(test)]
mod tests {
    use super::super::Marks;
    use super::*;
    use crate::model::{IdMaps, Scope};

    /// Namespaces of one kind: each one's parent; 0 is the daemon's own.
    const PARENTS: [usize; 5] = [0, 0, 1, 2, 0];
    const CGROUPS: [&str; 7] = ["/", "/a", "/a/b", "/a/b/c", "/a/bc", "/d", "/d/e"];

    fn ns(number: usize) -> NsId {
        NsId { dev: 4, ino: number as u64 }
    }

    fn own() -> Own {
        Own { user: ns(0), pid: ns(0) }
    }

    /// A namespace and those above it, up to the daemon's.
    fn way_up(mut at: usize) -> Vec<usize> {
        let mut way = vec![at];
        while at != 0 {
            at = PARENTS[at];
            way.push(at);
        }
        way
    }

    /// Where an instance or a caller is; a cgroup of 0 is none of its own.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    struct At {
        cgroup: usize,
        pid: usize,
        user: usize,
    }

    impl Whereabouts for At {
        fn cgroup(&self) -> Result<Arc<str>, Doubt> {
            Ok(CGROUPS[self.cgroup].into())
        }
        fn pid_ns(&self) -> Result<NsId, Doubt> {
            Ok(ns(self.pid))
        }
        fn user_ns(&self) -> Result<NsId, Doubt> {
            Ok(ns(self.user))
        }
        fn above_pid_ns(&self) -> Result<Arc<[NsId]>, Doubt> {
            Ok(way_up(self.pid)[1..].iter().map(|n| ns(*n)).collect())
        }
        fn above_user_ns(&self) -> Result<Arc<[NsId]>, Doubt> {
            Ok(way_up(self.user)[1..].iter().map(|n| ns(*n)).collect())
        }
    }

    fn index(instances: &[At]) -> Index {
        let mut index = Index::default();
        for (number, at) in instances.iter().enumerate() {
            let marks = Marks {
                pid: 1,
                start: 1,
                boot: String::new(),
                cgroup: (at.cgroup != 0).then(|| CGROUPS[at.cgroup].to_owned()),
                user_ns: ns(at.user),
                pid_ns: ns(at.pid),
                mnt_ns: ns(0),
                maps: IdMaps::identity(),
            };
            let held = Arc::new(Held::of_marks(marks, own()));
            assert!(index.twin(&held).is_none());
            let id = InstanceId { scope: Scope::Container("web".into()), id: number.to_string() };
            index.insert(Arc::new(Attached { id, held }));
        }
        index
    }

    /// In each respect, whether `caller` is in what `of` has there, and how deep that lies. By the words of the design,
    /// looking at all instances.
    fn agreement(caller: At, of: At) -> [Option<usize>; 3] {
        let cgroup = match (CGROUPS[caller.cgroup], CGROUPS[of.cgroup]) {
            (_, "/") => Some(0),
            (path, top) if path == top || path.starts_with(&format!("{top}/")) => Some(top.matches('/').count()),
            _ => None,
        };
        let depth = |at: usize, of: usize| way_up(at).contains(&of).then(|| way_up(of).len() - 1);
        [cgroup, depth(caller.pid, of.pid), depth(caller.user, of.user)]
    }

    /// The number of the instance, none, or a doubt.
    fn expected(caller: At, instances: &[At]) -> Result<Option<usize>, ()> {
        let host = At { cgroup: 0, pid: 0, user: 0 };
        let all: Vec<_> = instances.iter().map(|of| agreement(caller, *of)).collect();
        let full: Vec<usize> = (0..all.len()).filter(|i| all[*i].iter().all(Option::is_some)).collect();
        let inner = full.iter().copied().find(|i| full.iter().all(|j| (0..3).all(|r| all[*i][r] >= all[*j][r])));
        if inner.is_none() && !full.is_empty() {
            return Err(());
        }
        let explained = inner.map_or_else(|| agreement(caller, host), |i| all[i]);
        let suspicious = |i: &usize| !full.contains(i) && (0..3).any(|r| all[*i][r] > explained[r]);
        if (0..all.len()).any(|i| suspicious(&i)) { Err(()) } else { Ok(inner) }
    }

    fn found(caller: At, index: &Index) -> Result<Option<usize>, ()> {
        index.holding(&caller).map(|i| i.map(|i| i.id.parse().unwrap())).map_err(|_| ())
    }

    fn everywhere() -> impl Iterator<Item = At> {
        let all = move |cgroup| {
            (0..PARENTS.len()).flat_map(move |pid| (0..PARENTS.len()).map(move |user| At { cgroup, pid, user }))
        };
        (0..CGROUPS.len()).flat_map(all)
    }

    #[test]
    fn shortcuts_and_indices_change_no_answer() {
        // Numbers that are the same in every run.
        let mut dice = 88_172_645_463_325_252u64;
        let mut roll = |end: usize| {
            dice ^= dice << 13;
            dice ^= dice >> 7;
            dice ^= dice << 17;
            usize::try_from(dice % end as u64).unwrap()
        };
        let mut seen = [0; 3];
        for _ in 0..1500 {
            let mut instances: Vec<At> = Vec::new();
            for _ in 0..1 + roll(5) {
                let at = At { cgroup: roll(CGROUPS.len()), pid: roll(5), user: roll(5) };
                // What cannot be told from the host is not held, a twin not attached.
                if (at.pid, at.user) != (0, 0) && !instances.contains(&at) {
                    instances.push(at);
                }
            }
            let index = index(&instances);
            for caller in everywhere() {
                let (is, should) = (found(caller, &index), expected(caller, &instances));
                assert_eq!(is, should, "{caller:?} among {instances:?}");
                seen[match is {
                    Ok(None) => 0,
                    Ok(Some(_)) => 1,
                    Err(()) => 2,
                }] += 1;
            }
        }
        assert!(seen.iter().all(|n| *n > 10_000), "{seen:?}");
    }

    #[test]
    fn what_was_removed_leaves_nothing_behind() {
        let instances = [At { cgroup: 2, pid: 1, user: 1 }, At { cgroup: 2, pid: 1, user: 2 }];
        let mut left = index(&instances);
        assert!(left.remove("0").is_some() && left.remove("0").is_none());
        assert_eq!(found(instances[0], &left), Err(()), "still in the other's cgroup and pid namespace");
        assert_eq!(found(instances[1], &left), Ok(Some(1)));
        assert!(left.remove("1").is_some());
        assert!(left.by_pid_ns.is_empty() && left.by_user_ns.is_empty() && left.by_cgroup.is_empty());
        assert!(everywhere().all(|caller| found(caller, &left) == Ok(None)));
    }
}
