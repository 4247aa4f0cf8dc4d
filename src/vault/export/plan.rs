//! Which hosts get which nodes: the policy applied to the tree, kept up to date node by node.
//!
//! Owns the answer to "whom does this change touch?", so that a change that touches one host costs no look at the others.
//! Patterns are found by the names they begin with, not tried one after the other. It reads no content.

use super::touched::ExportTouched;
use crate::cert::{self, CertFolder, Part};
use crate::model::{Glob, HostName, Ino, Kind, Reserved, SecretPath};
use crate::policy::{Host, Policy};
use crate::vault::tree::Tree;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// A host's place in the policy.
pub type HostNo = u32;

/// The policy, applied.
pub struct Plan {
    policy: Arc<Policy>,
    hosts: Vec<Taken>,
    numbers: HashMap<HostName, HostNo>,
    rules: Rules,
    /// Which hosts have a node, and as what.
    takers: HashMap<Ino, Vec<(HostNo, Role)>>,
}

/// What one host gets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Taken {
    /// Secrets and symlinks.
    pub shared: BTreeSet<Ino>,
    /// The files of its admins' keys, by user.
    pub keys: BTreeMap<Arc<str>, BTreeSet<Ino>>,
}

/// As what a host has a node.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Role {
    Shared,
    KeyOf(Arc<str>),
}

impl Plan {
    /// A policy, applied to nothing yet.
    pub fn new(policy: Arc<Policy>) -> Self {
        let numbers = (0..).zip(policy.hosts()).map(|(no, host)| (host.name.clone(), no)).collect();
        let rules = Rules::of(&policy);
        let hosts = vec![Taken::default(); policy.hosts().len()];
        Plan { policy, hosts, numbers, rules, takers: HashMap::new() }
    }

    /// The policy.
    pub fn policy(&self) -> &Arc<Policy> {
        &self.policy
    }

    /// The number of a host.
    pub fn number(&self, host: &HostName) -> Option<HostNo> {
        self.numbers.get(host).copied()
    }

    /// The host of a number.
    pub fn host(&self, no: HostNo) -> &Host {
        &self.policy.hosts()[no as usize]
    }

    /// What a host gets.
    pub fn taken(&self, no: HostNo) -> &Taken {
        &self.hosts[no as usize]
    }

    /// All hosts.
    pub fn all(&self) -> BTreeSet<HostNo> {
        (0..).take(self.hosts.len()).collect()
    }

    /// Looks at the whole tree anew.
    pub fn look_at_all(&mut self, tree: &Tree) {
        self.hosts.fill(Taken::default());
        self.takers.clear();
        let mut touched = BTreeSet::new();
        self.look_below(tree, Ino::ROOT, &mut Vec::new(), &mut touched);
    }

    /// Looks at what changed; the hosts that it touches.
    pub fn follow(&mut self, tree: &Tree, changed: &ExportTouched) -> BTreeSet<HostNo> {
        if changed.all {
            self.look_at_all(tree);
            return self.all();
        }
        let mut touched = BTreeSet::new();
        for ino in &changed.nodes {
            let is_directory = tree.get(*ino).is_some_and(|node| node.kind == Kind::Directory);
            if !is_directory {
                let path = tree.path(*ino);
                self.place(tree, *ino, path.as_ref(), &mut touched);
            } else if changed.moved.contains(ino) {
                let mut names = tree.path(*ino).map(|p| p.names().to_vec()).unwrap_or_default();
                self.look_below(tree, *ino, &mut names, &mut touched);
            } else {
                // It goes along to whoever has something in it.
                self.takers_below(tree, *ino, &mut touched);
            }
        }
        touched
    }

    fn look_below(
        &mut self,
        tree: &Tree,
        directory: Ino,
        names: &mut Vec<crate::model::Name>,
        touched: &mut BTreeSet<HostNo>,
    ) {
        for (name, ino) in tree.children(directory).into_iter().flatten() {
            names.push(name.clone());
            if tree.get(*ino).is_some_and(|node| node.kind == Kind::Directory) {
                self.look_below(tree, *ino, names, touched);
            } else {
                let path = SecretPath::from_names(names.clone());
                self.place(tree, *ino, Some(&path), touched);
            }
            names.pop();
        }
    }

    fn takers_below(&self, tree: &Tree, directory: Ino, touched: &mut BTreeSet<HostNo>) {
        for ino in tree.children(directory).into_iter().flatten().map(|(_, ino)| *ino) {
            let shared = self.takers.get(&ino).into_iter().flatten().filter(|(_, role)| *role == Role::Shared);
            touched.extend(shared.map(|(no, _)| *no));
            self.takers_below(tree, ino, touched);
        }
    }

    /// Whoever had the node, and whoever is to have it now, is touched.
    fn place(&mut self, tree: &Tree, ino: Ino, path: Option<&SecretPath>, touched: &mut BTreeSet<HostNo>) {
        for (no, role) in self.takers.remove(&ino).unwrap_or_default() {
            touched.insert(no);
            let taken = &mut self.hosts[no as usize];
            match role {
                Role::Shared => drop(taken.shared.remove(&ino)),
                Role::KeyOf(user) => {
                    let of_user = taken.keys.get_mut(&user);
                    if of_user.is_some_and(|keys| keys.remove(&ino) && keys.is_empty()) {
                        taken.keys.remove(&user);
                    }
                }
            }
        }
        let (Some(path), Some(node)) = (path, tree.get(ino)) else { return };
        let own = self.whose(path);
        let mut takers: Vec<(HostNo, Role)> = own.map(|no| (no, Role::Shared)).into_iter().collect();
        for rule in self.rules.of_path(path) {
            if rule.user.is_none() && (!self.may_share(rule, path) || is_kept(path, node.kind)) {
                continue;
            }
            for no in &rule.hosts {
                match &rule.user {
                    None if !takers.iter().any(|(n, role)| n == no && *role == Role::Shared) => {
                        takers.push((*no, Role::Shared));
                    }
                    Some(user) if node.kind == Kind::File => takers.push((*no, Role::KeyOf(Arc::clone(user)))),
                    None | Some(_) => {}
                }
            }
        }
        for (no, role) in &takers {
            touched.insert(*no);
            let taken = &mut self.hosts[*no as usize];
            match role {
                Role::Shared => drop(taken.shared.insert(ino)),
                Role::KeyOf(user) => drop(taken.keys.entry(Arc::clone(user)).or_default().insert(ino)),
            }
        }
        if !takers.is_empty() {
            self.takers.insert(ino, takers);
        }
    }
}

/// What certificates are made of follows rules of its own: a pattern that means "everything" means no private key.
impl Plan {
    /// Whose a path is without a line of policy: the host's for which its certificate was made.
    fn whose(&self, path: &SecretPath) -> Option<HostNo> {
        self.number(&cert::host_of(path)?)
    }

    /// Whether a `share` line may give a path to its hosts.
    fn may_share(&self, rule: &Rule, path: &SecretPath) -> bool {
        match CertFolder::of(path) {
            None => true,
            // It is not in use yet.
            Some((_, Part::NextKey | Part::Request | Part::State)) => false,
            // Its host's alone. One for a name that no host has goes to whom the policy writes it out for.
            Some((place, _)) if cert::host_of(path).is_some() => {
                self.number(place.name()).is_none() && rule.writes_out(&place.folder())
            }
            Some((place, Part::Key)) => rule.writes_out(&place.folder()),
            Some((_, Part::Cert | Part::Chain)) => true,
        }
    }

    /// Why a host has a path, where it is by no line of the policy.
    pub fn unwritten(&self, no: HostNo, path: &SecretPath) -> Option<String> {
        (self.whose(path) == Some(no)).then(|| "its certificate".to_owned())
    }
}

/// Whether no host would take it: what each serves by path is its own.
fn is_kept(path: &SecretPath, kind: Kind) -> bool {
    match Reserved::of(path, None) {
        Some(Reserved::Own) => true,
        Some(Reserved::Folder) => kind != Kind::Directory,
        None => false,
    }
}

/// The policy's patterns, each once, by the names they begin with.
struct Rules(HashMap<String, Vec<Rule>>);

struct Rule {
    glob: Glob,
    hosts: Vec<HostNo>,
    /// Whose keys it means; `None` for secrets.
    user: Option<Arc<str>>,
}

impl Rule {
    /// Whether the pattern begins with the names of a folder, written out.
    fn writes_out(&self, folder: &SecretPath) -> bool {
        self.glob.as_str().strip_prefix(&folder.to_string()).is_some_and(|rest| rest.starts_with('/'))
    }
}

impl Rules {
    fn of(policy: &Policy) -> Self {
        let mut shares: HashMap<&str, (&Glob, Vec<HostNo>)> = HashMap::new();
        let mut admins: BTreeMap<String, Vec<HostNo>> = BTreeMap::new();
        for (no, host) in (0..).zip(policy.hosts()) {
            for (glob, _) in policy.shares_of(&host.name) {
                let (_, hosts) = shares.entry(glob.as_str()).or_insert_with(|| (glob, Vec::new()));
                // The same pattern may be on two lines.
                if hosts.last() != Some(&no) {
                    hosts.push(no);
                }
            }
            for (user, _) in policy.admins_of(&host.name) {
                admins.entry(user.to_owned()).or_default().push(no);
            }
        }
        let mut rules = Rules(HashMap::new());
        for (glob, hosts) in shares.into_values() {
            rules.add(Rule { glob: glob.clone(), hosts, user: None });
        }
        for (user, hosts) in admins {
            if let Some(glob) = keys_of(&user) {
                rules.add(Rule { glob, hosts, user: Some(user.into()) });
            }
        }
        rules
    }

    fn add(&mut self, rule: Rule) {
        self.0.entry(beginning(rule.glob.as_str())).or_default().push(rule);
    }

    /// The rules that mean a path.
    fn of_path(&self, path: &SecretPath) -> Vec<&Rule> {
        let mut found = Vec::new();
        let mut prefix = String::new();
        let names = path.names();
        for depth in 0..=names.len() {
            found.extend(self.0.get(&prefix).into_iter().flatten().filter(|rule| rule.glob.matches(path)));
            if let Some(name) = names.get(depth) {
                if depth > 0 {
                    prefix.push('/');
                }
                prefix.push_str(name.as_str());
            }
        }
        found
    }
}

/// The public keys of one admin. `None` for a name that no folder can have.
fn keys_of(user: &str) -> Option<Glob> {
    let special = |c| matches!(c, '*' | '?' | '[' | ']' | '{' | '}' | '\\' | '!' | '^');
    if user.contains('/') || user.contains(special) {
        return None;
    }
    Glob::parse(&format!("admins/{user}/*.pub")).ok()
}

/// The names a pattern begins with, as far as they are written out: each path it means begins with them.
fn beginning(glob: &str) -> String {
    let plain = |name: &&str| !name.contains(['*', '?', '[', '\\']);
    glob.split('/').take_while(plain).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_found_by_the_names_it_begins_with() {
        for (glob, begins) in
            [("a/b", "a/b"), ("a/*.pem", "a"), ("a/**", "a"), ("**/x", ""), ("a/b?/c", "a"), (r"a\*b/c", ""), ("*", "")]
        {
            assert_eq!(beginning(glob), begins, "{glob}");
        }
        assert!(keys_of("alice").unwrap().matches(&SecretPath::parse("admins/alice/k.pub").unwrap()));
        assert!(keys_of("a*").is_none());
    }
}
