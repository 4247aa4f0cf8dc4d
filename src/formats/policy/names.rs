//! Names of one kind (machines, or people), and the groups they are in.
//!
//! Owns the graph. Nothing is expanded ahead: a policy whose groups share members a million times costs what it says, not
//! what it multiplies to.

use super::fault::FAULTS_MAX;
use std::collections::{HashMap, HashSet};

/// The deepest nesting of groups.
pub const DEPTH_MAX: usize = 64;
/// How many names of a cycle are shown.
const CYCLE_SHOWN: usize = 20;

/// A name, by when it was first seen.
pub type Id = u32;

/// Who there is, and who is in what.
#[derive(Debug, Clone, Default)]
pub struct GroupNames {
    names: Vec<Box<str>>,
    ids: HashMap<Box<str>, Id>,
    /// Of each name, what is in it if it is a group.
    members: Vec<Option<Vec<Id>>>,
    /// Of each name, the groups that name it.
    groups: Vec<Vec<Id>>,
}

/// A member that may not be one: the group, and which of its members.
#[derive(Debug, PartialEq, Eq)]
pub struct Cycle {
    /// The group whose member closes the circle.
    pub group: Id,
    /// Which of its members does.
    pub member: usize,
    /// `a -> b -> a`.
    pub shown: String,
}

impl GroupNames {
    /// The name's number; a new one if it is new.
    pub fn id(&mut self, name: &str) -> Id {
        if let Some(id) = self.ids.get(name) {
            return *id;
        }
        let id = Id::try_from(self.names.len()).expect("a policy has fewer bytes than there are ids");
        self.names.push(name.into());
        self.ids.insert(name.into(), id);
        self.members.push(None);
        self.groups.push(Vec::new());
        id
    }

    /// The number of a name that is known.
    pub fn find(&self, name: &str) -> Option<Id> {
        self.ids.get(name).copied()
    }

    /// The name of a number.
    pub fn name(&self, id: Id) -> &str {
        &self.names[id as usize]
    }

    /// Whether it was declared as a group.
    pub fn is_group(&self, id: Id) -> bool {
        self.members[id as usize].is_some()
    }

    /// What is in a group, as it was declared; nothing for what is none.
    pub fn members(&self, group: Id) -> &[Id] {
        self.members[group as usize].as_deref().unwrap_or_default()
    }

    /// Makes a name a group of these, which had none before.
    pub fn set_members(&mut self, group: Id, members: Vec<Id>) {
        for member in &members {
            self.groups[*member as usize].push(group);
        }
        self.members[group as usize] = Some(members);
    }

    /// All numbers.
    pub fn ids(&self) -> impl Iterator<Item = Id> + use<> {
        0..Id::try_from(self.names.len()).expect("ids were given to all")
    }

    /// The name, and every group it is in, however deep.
    pub fn above(&self, id: Id) -> Vec<Id> {
        self.reached(&[id], |id| &self.groups[id as usize])
    }

    /// Everybody among these names and in these groups, however deep; no group.
    pub fn below(&self, ids: &[Id]) -> Vec<Id> {
        let mut all = self.reached(ids, |id| self.members(id));
        all.retain(|id| !self.is_group(*id));
        all
    }

    fn reached<'a>(&'a self, from: &[Id], next: impl Fn(Id) -> &'a [Id]) -> Vec<Id> {
        let mut seen = HashSet::new();
        let mut all = Vec::new();
        let mut open: Vec<Id> = from.iter().rev().copied().collect();
        while let Some(id) = open.pop() {
            if seen.insert(id) {
                all.push(id);
                open.extend(next(id).iter().rev());
            }
        }
        all
    }

    /// Circles of groups, one for each member that closes one; then groups that are nested too deep.
    pub fn circles(&self) -> (Vec<Cycle>, Vec<Id>) {
        #[derive(Clone, Copy, PartialEq)]
        enum Seen {
            No,
            Open,
            Done,
        }
        let mut seen = vec![Seen::No; self.names.len()];
        let mut depth = vec![0usize; self.names.len()];
        let (mut cycles, mut deep) = (Vec::new(), Vec::new());
        for root in self.ids() {
            if seen[root as usize] != Seen::No {
                continue;
            }
            // The way down: each group, and how many of its members were looked at.
            let mut way: Vec<(Id, usize)> = vec![(root, 0)];
            seen[root as usize] = Seen::Open;
            while let Some((id, looked)) = way.last_mut() {
                let (id, members) = (*id, self.members(*id));
                let Some(member) = members.get(*looked) else {
                    seen[id as usize] = Seen::Done;
                    way.pop();
                    if depth[id as usize] == DEPTH_MAX + 1 {
                        deep.push(id);
                    }
                    if let Some((group, _)) = way.last() {
                        let group = *group as usize;
                        depth[group] = depth[group].max(depth[id as usize] + 1);
                    }
                    continue;
                };
                let nth = *looked;
                *looked += 1;
                match seen[*member as usize] {
                    Seen::No => {
                        seen[*member as usize] = Seen::Open;
                        way.push((*member, 0));
                    }
                    Seen::Done => depth[id as usize] = depth[id as usize].max(depth[*member as usize] + 1),
                    // Each costs what its circle is long, and so many are told.
                    Seen::Open if cycles.len() == FAULTS_MAX => {}
                    Seen::Open => {
                        let start = way.iter().position(|(on, _)| on == member).expect("what is open is on the way");
                        let shown = self.shown(way[start..].iter().map(|(on, _)| *on), *member);
                        cycles.push(Cycle { group: id, member: nth, shown });
                    }
                }
            }
        }
        (cycles, deep)
    }

    fn shown(&self, circle: impl ExactSizeIterator<Item = Id>, closes: Id) -> String {
        let length = circle.len();
        let mut names: Vec<&str> = circle.take(CYCLE_SHOWN).map(|id| self.name(id)).collect();
        if length > CYCLE_SHOWN {
            names.push("…");
        }
        names.push(self.name(closes));
        names.join(" -> ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(groups: &[(&str, &[&str])]) -> GroupNames {
        let mut names = GroupNames::default();
        for (group, members) in groups {
            let group = names.id(group);
            let members = members.iter().map(|m| names.id(m)).collect();
            names.set_members(group, members);
        }
        names
    }

    #[test]
    fn circles_are_shown_as_they_go() {
        let found = |groups: &[(&str, &[&str])]| -> Vec<String> {
            names(groups).circles().0.into_iter().map(|c| c.shown).collect()
        };
        assert_eq!(found(&[("a", &["x", "b"]), ("b", &["a"])]), ["a -> b -> a"]);
        assert_eq!(found(&[("a", &["a"])]), ["a -> a"]);
        assert_eq!(found(&[("r", &["a"]), ("a", &["b", "c"]), ("b", &["x"]), ("c", &["b", "a"])]), ["a -> c -> a"]);
        assert!(found(&[("a", &["b", "c"]), ("b", &["c"]), ("c", &["x"])]).is_empty());
    }

    #[test]
    fn depth_counts_the_longest_way() {
        let chain = |n: usize| {
            let mut names = GroupNames::default();
            for i in 0..n {
                let (group, next) = (names.id(&format!("g{i}")), names.id(&format!("g{}", i + 1)));
                names.set_members(group, vec![next]);
            }
            names.circles().1.len()
        };
        assert_eq!((chain(DEPTH_MAX), chain(DEPTH_MAX + 1), chain(20_000)), (0, 1, 1));
    }

    #[test]
    fn what_would_multiply_is_not_expanded() {
        // 2^40 ways lead from the top to the one at the bottom.
        let mut names = GroupNames::default();
        for i in 0..40 {
            for side in ["l", "r"] {
                let group = names.id(&format!("{side}{i}"));
                let members = vec![names.id(&format!("l{}", i + 1)), names.id(&format!("r{}", i + 1))];
                names.set_members(group, members);
            }
        }
        let (top, bottom) = (names.find("l0").unwrap(), names.find("r40").unwrap());
        assert_eq!(names.below(&[top]).len(), 2);
        assert_eq!(names.above(bottom).len(), 81);
        assert!(names.circles().0.is_empty());
    }
}
