//! From statements to a policy: who is a group, who is whom, and does it hold together?
//!
//! Owns the rules between lines. Lines come in any order: what is declared is collected before anything is looked up.

use super::fault::{Faults, PolicyFault};
use super::names::{DEPTH_MAX, GroupNames, Id};
use super::parse::{Line, Of, Statement, Word, is_user, short};
use super::{Because, Host, Manage, Policy, Share};
use crate::model::{Glob, HostName, Reserved, SecretPath};
use std::collections::{HashMap, HashSet};

/// How many hosts there may be.
const HOSTS_MAX: usize = 100_000;
/// What a line begins with; no name.
const RESERVED: &[&str] = &["hostgroup", "usergroup", "manage", "host", "share"];

/// The policy these lines make, unless there was or is a fault.
pub(super) fn build(statements: &[(Line<'_>, Statement<'_>)], faults: Faults) -> Result<Policy, Faults> {
    let mut builder = Builder { policy: Policy::default(), faults, declared: HashMap::new(), told: HashSet::new() };
    for (line, statement) in statements {
        if let Statement::Group { of, name, members } = statement {
            builder.declare(*of, Declared { line, name: *name, members });
        }
    }
    for (line, statement) in statements {
        if let Statement::Host(host) = statement {
            builder.host(line, host);
        }
    }
    builder.groups();
    for (line, statement) in statements {
        builder.line(line, statement);
    }
    if builder.faults.is_empty() {
        builder.doubts();
        builder.policy.warnings.sort();
        return Ok(builder.policy);
    }
    builder.faults.sort();
    Err(builder.faults)
}

struct Builder<'a, 't> {
    policy: Policy,
    faults: Faults,
    declared: HashMap<(Of, Id), Declared<'a, 't>>,
    /// Machines that were warned of.
    told: HashSet<Id>,
}

/// A group where it is declared.
#[derive(Clone, Copy)]
struct Declared<'a, 't> {
    line: &'a Line<'t>,
    name: Word<'t>,
    members: &'a [Word<'t>],
}

/// What a name is to be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Machine,
    Person,
    Group,
}

impl<'a, 't> Builder<'a, 't> {
    fn names(&mut self, of: Of) -> &mut GroupNames {
        match of {
            Of::Hosts => &mut self.policy.machines,
            Of::Users => &mut self.policy.people,
        }
    }

    fn declare(&mut self, of: Of, group: Declared<'a, 't>) {
        let Declared { line, name, .. } = group;
        if !self.is_name(line, name, Role::Group) {
            return;
        }
        let id = self.names(of).id(name.text);
        // So that it is known as one from here on.
        self.names(of).set_members(id, Vec::new());
        match self.declared.get(&(of, id)) {
            Some(first) => {
                let message = format!("'{}' is declared twice, first in line {}", name.text, first.line.number);
                self.faults.push(|| fault(line, name, message));
            }
            None => {
                self.declared.insert((of, id), group);
            }
        }
    }

    fn host(&mut self, line: &Line<'_>, host: &Host) {
        let name = Word { text: host.name.as_str(), column: host.column("name") };
        if !self.is_name(line, name, Role::Machine) {
            return;
        }
        let id = self.policy.machines.id(name.text);
        let problem = if let Some(group) = self.declared.get(&(Of::Hosts, id)) {
            format!("'{}' is a hostgroup, declared in line {}", name.text, group.line.number)
        } else if let Some(first) = self.policy.host(&host.name) {
            format!("'{}' is declared twice, first in line {}", name.text, first.because.line)
        } else if self.policy.hosts.len() == HOSTS_MAX {
            format!("there are more than {HOSTS_MAX} hosts")
        } else {
            self.policy.host_at.insert(host.name.clone(), self.policy.hosts.len());
            self.policy.hosts.push(host.clone());
            return;
        };
        self.faults.push(|| fault(line, name, problem));
    }

    /// Who is in which group, and whether that goes round in a circle.
    fn groups(&mut self) {
        let mut declared: Vec<_> = self.declared.iter().map(|(key, group)| (*key, *group)).collect();
        declared.sort_unstable_by_key(|(_, group)| group.line.number);
        for ((of, id), group) in declared {
            let members = self.ids(group.line, group.members, of);
            self.names(of).set_members(id, members);
        }
        for of in [Of::Hosts, Of::Users] {
            let (cycles, deep) = self.names(of).circles();
            for cycle in cycles {
                let group = self.declared[&(of, cycle.group)];
                // A word that is no name is no member: then it is the group as a whole that is shown.
                let whole = group.members.len() == self.names(of).members(cycle.group).len();
                let at = if whole { group.members[cycle.member] } else { group.name };
                self.faults.push(|| fault(group.line, at, format!("groups in a circle: {}", cycle.shown)));
            }
            for id in deep {
                let group = self.declared[&(of, id)];
                self.faults
                    .push(|| fault(group.line, group.name, format!("groups are nested deeper than {DEPTH_MAX}")));
            }
        }
    }

    fn line(&mut self, line: &Line<'_>, statement: &Statement<'_>) {
        let because = Because { line: line.number, note: line.note.to_owned() };
        match statement {
            Statement::Manage { hosts, users } => {
                let hosts = self.ids(line, hosts, Of::Hosts);
                let users = self.ids(line, users, Of::Users);
                let policy = &mut self.policy;
                let at = policy.manages.len();
                hosts.iter().for_each(|id| policy.managed.entry(*id).or_default().push(at));
                users.iter().for_each(|id| policy.managing.entry(*id).or_default().push(at));
                policy.manages.push(Manage { because, hosts, users });
            }
            Statement::Share { hosts, globs } => {
                let hosts = self.ids(line, hosts, Of::Hosts);
                let policy = &mut self.policy;
                let at = policy.shares.len();
                hosts.iter().for_each(|id| policy.shared.entry(*id).or_default().push(at));
                policy.shares.push(Share { because, globs: globs.clone() });
                globs.iter().for_each(|glob| self.doubt_glob(line, glob));
            }
            Statement::Host(_) | Statement::Group { .. } => {}
        }
    }

    /// The numbers of those words that are names.
    fn ids(&mut self, line: &Line<'_>, words: &[Word<'_>], of: Of) -> Vec<Id> {
        let mut ids = Vec::with_capacity(words.len());
        for word in words {
            let known = self.names(of).find(word.text).is_some_and(|id| self.declared.contains_key(&(of, id)));
            let role = match of {
                _ if known => Role::Group,
                Of::Hosts => Role::Machine,
                Of::Users => Role::Person,
            };
            if self.is_name(line, *word, role) {
                let id = self.names(of).id(word.text);
                if role != Role::Group {
                    self.doubt(line, *word, of, id);
                }
                ids.push(id);
            }
        }
        ids
    }

    /// A word that names one may have been meant for something else.
    fn doubt(&mut self, line: &Line<'_>, word: Word<'_>, of: Of, id: Id) {
        let (other, kind, here) = match of {
            Of::Hosts => (Of::Users, "usergroup", "host"),
            Of::Users => (Of::Hosts, "hostgroup", "user"),
        };
        let elsewhere = self.names(other).find(word.text).is_some_and(|id| self.declared.contains_key(&(other, id)));
        let name = word.text;
        if elsewhere {
            let message = || format!("'{name}' is a {kind}, but here it names a {here}");
            self.policy.warnings.push(|| fault(line, word, message()));
        } else if of == Of::Hosts && !self.policy.host_at.contains_key(name) && self.told.insert(id) {
            let message = || format!("'{name}' has no host line, and gets no bundle");
            self.policy.warnings.push(|| fault(line, word, message()).hint(format!("host {name} RECIPIENT")));
        }
    }

    /// A pattern that means only what no host takes.
    fn doubt_glob(&mut self, line: &Line<'_>, glob: &Glob) {
        let plain = glob.as_str().split('/').take_while(|name| !name.contains(['*', '?', '[', '\\']));
        let Ok(path) = SecretPath::parse(&plain.collect::<Vec<_>>().join("/")) else { return };
        if Reserved::of(&path, None) == Some(Reserved::Own) {
            let before = line.text.find(glob.as_str()).map_or(0, |at| line.text[..at].chars().count());
            let column = u32::try_from(before + 1).unwrap_or(u32::MAX);
            let message = || format!("no host takes what lies in {path}: '{}' sends nothing", short(glob.as_str()));
            self.policy.warnings.push(|| PolicyFault::at(line.number, column, line.text, message()));
        }
    }

    /// What is declared and never used.
    fn doubts(&mut self) {
        let mut declared: Vec<_> = self.declared.iter().collect();
        declared.sort_unstable_by_key(|(_, group)| group.line.number);
        for ((of, id), group) in declared {
            let policy = &mut self.policy;
            let (names, used) = match of {
                Of::Hosts => (&policy.machines, policy.managed.contains_key(id) || policy.shared.contains_key(id)),
                Of::Users => (&policy.people, policy.managing.contains_key(id)),
            };
            if !used && names.above(*id).len() == 1 {
                let message = || format!("the group '{}' is not used", group.name.text);
                policy.warnings.push(|| fault(group.line, group.name, message()));
            }
        }
    }

    /// Whether a word can be a name there; if not, that is a fault.
    fn is_name(&mut self, line: &Line<'_>, word: Word<'_>, role: Role) -> bool {
        let shown = short(word.text);
        let why = if RESERVED.contains(&word.text) {
            format!("'{shown}' is a word of the policy, and no name")
        } else if role == Role::Person {
            if is_user(word.text) {
                return true;
            }
            format!("'{shown}' is no user's name: that is up to 32 of A-Z a-z 0-9 . _ -, and not a number")
        } else {
            if HostName::parse(word.text).is_ok() {
                return true;
            }
            format!("'{shown}' is no name: that is up to 240 of A-Z a-z 0-9 . _ -, and begins with a letter or a digit")
        };
        self.faults.push(|| fault(line, word, why));
        false
    }
}

fn fault(line: &Line<'_>, word: Word<'_>, message: String) -> PolicyFault {
    PolicyFault::at(line.number, word.column, line.text, message)
}
