//! The policy: which hosts there are, who administers them, and which secrets go to which of them.
//!
//! Owns the grammar of `/etc/pinfold/policy` and what follows from it; `docs/policy.md` is the same for readers. It knows
//! no secrets and judges no keys: a host's recipient is text here, and a bad one harms that host alone.

mod build;
mod fault;
mod host;
mod names;
mod parse;

pub use fault::{Faults, PolicyError, PolicyFault};
pub use host::Host;

use crate::model::{Glob, HostName};
use names::{GroupNames, Id};
use std::collections::HashMap;
use std::path::Path;

/// The largest file, in bytes.
pub const FILE_MAX: u64 = 8 << 20;

/// The line that is the reason for something.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Because {
    /// Its number, from 1.
    pub line: u32,
    /// What stands behind its `#`.
    pub note: String,
}

/// A policy that was read. What asks it costs about what the answer is long.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    hosts: Vec<Host>,
    host_at: HashMap<HostName, usize>,
    machines: GroupNames,
    people: GroupNames,
    manages: Vec<Manage>,
    shares: Vec<Share>,
    /// Which lines name a machine or a group of them.
    managed: HashMap<Id, Vec<usize>>,
    shared: HashMap<Id, Vec<usize>>,
    /// Which lines name somebody or a group.
    managing: HashMap<Id, Vec<usize>>,
    warnings: Faults,
}

/// A `manage` line.
#[derive(Debug, Clone)]
struct Manage {
    because: Because,
    hosts: Vec<Id>,
    users: Vec<Id>,
}

/// A `share` line.
#[derive(Debug, Clone)]
struct Share {
    because: Because,
    globs: Vec<Glob>,
}

/// Somebody, and the hosts he administers, each with the lines that say so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row<'p> {
    /// Who.
    pub user: &'p str,
    /// Where, by name; at least one line each, in the file's order.
    pub hosts: Vec<(&'p str, Vec<&'p Because>)>,
}

impl Policy {
    /// Reads a policy. `file` is for its errors.
    ///
    /// # Errors
    /// [`PolicyError::Wrong`] with everything that is wrong.
    pub fn parse(text: &str, file: &Path) -> Result<Self, PolicyError> {
        parse::parse(text).map_err(|faults| PolicyError::Wrong { path: file.into(), faults })
    }

    /// The text in the bytes of a policy's file.
    ///
    /// # Errors
    /// [`PolicyError::Wrong`] if it is none; what it says is not looked at.
    pub fn text(bytes: Vec<u8>, file: &Path) -> Result<String, PolicyError> {
        String::from_utf8(bytes)
            .map_err(|error| PolicyError::Wrong { path: file.into(), faults: Faults::of_no_text(&error) })
    }

    /// One without lines: no hosts, nobody, nothing.
    pub fn empty() -> Self {
        Policy::default()
    }

    /// The hosts that have a `host` line, in the file's order.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// One of them.
    pub fn host(&self, name: &HostName) -> Option<&Host> {
        self.host_at.get(name).map(|at| &self.hosts[*at])
    }

    /// What is doubtful but not wrong.
    pub fn warnings(&self) -> &Faults {
        &self.warnings
    }

    /// Who administers a host, by name, and the first line that says so.
    pub fn admins_of(&self, host: &HostName) -> Vec<(&str, &Because)> {
        let mut first: HashMap<Id, &Because> = HashMap::new();
        for line in self.lines(&self.machines, &self.managed, host.as_str()) {
            let manage = &self.manages[line];
            for user in self.people.below(&manage.users) {
                first.entry(user).or_insert(&manage.because);
            }
        }
        let mut all: Vec<_> = first.into_iter().map(|(user, because)| (self.people.name(user), because)).collect();
        all.sort_unstable();
        all
    }

    /// The patterns of what a host gets, in the file's order.
    pub fn shares_of(&self, host: &HostName) -> Vec<(&Glob, &Because)> {
        let lines = self.lines(&self.machines, &self.shared, host.as_str());
        let shares = lines.into_iter().map(|line| &self.shares[line]);
        shares.flat_map(|share| share.globs.iter().map(|glob| (glob, &share.because))).collect()
    }

    /// The permission table: everybody who administers something, by name.
    pub fn table(&self) -> impl Iterator<Item = Row<'_>> {
        let named: Vec<Id> = self.manages.iter().flat_map(|manage| manage.users.iter().copied()).collect();
        let mut users = self.people.below(&named);
        users.sort_unstable_by_key(|user| self.people.name(*user));
        users.into_iter().map(|user| self.row(user))
    }

    /// The hosts that some line names, with a `host` line or without, by name.
    pub fn machines(&self) -> Vec<&str> {
        let mut names: Vec<&str> =
            self.machines.ids().filter(|id| !self.machines.is_group(*id)).map(|id| self.machines.name(id)).collect();
        names.sort_unstable();
        names
    }

    fn row(&self, user: Id) -> Row<'_> {
        let mut hosts: HashMap<Id, Vec<&Because>> = HashMap::new();
        for line in self.lines(&self.people, &self.managing, self.people.name(user)) {
            let manage = &self.manages[line];
            for host in self.machines.below(&manage.hosts) {
                hosts.entry(host).or_default().push(&manage.because);
            }
        }
        let mut hosts: Vec<_> = hosts.into_iter().map(|(host, lines)| (self.machines.name(host), lines)).collect();
        hosts.sort_unstable();
        Row { user: self.people.name(user), hosts }
    }

    /// The lines that name this, or a group that it is in, however deep; in the file's order.
    fn lines(&self, names: &GroupNames, index: &HashMap<Id, Vec<usize>>, name: &str) -> Vec<usize> {
        // What is a group itself is nobody.
        let Some(id) = names.find(name).filter(|id| !names.is_group(*id)) else { return Vec::new() };
        let above = names.above(id);
        let mut lines: Vec<usize> = above.iter().filter_map(|id| index.get(id)).flatten().copied().collect();
        lines.sort_unstable();
        lines.dedup();
        lines
    }
}

#[cfg(test)]
mod tests;
