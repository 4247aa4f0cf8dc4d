//! Who could open a secret, by which rule.

use super::node::Node;
use super::serve::word;
use super::view::View;
use super::{Vault, VaultError};
use crate::access::{Object, ScopeState, expired};
use crate::model::{AclTag, Ino, Scope, Uid};
use crate::wire::Rule;

impl Vault {
    /// The rules in the order in which the judge looks. The ids of a container's scope are as seen inside.
    pub(super) fn rules(&self, node: &Node) -> Result<Vec<Rule>, VaultError> {
        let view = View::plain();
        let object = node.object(Ino::ROOT, &view, node.meta.acl.as_ref());
        let mut rules = Rules { inside: node.scope != Scope::Host, all: Vec::new() };
        rules.by_mode(&object);
        if node.scope == Scope::Host {
            if object.uid != Uid::ROOT {
                rules.add("root", "no exemption: as the rules above say, or by an audited change of them", false);
            }
        } else {
            rules.add("everybody outside", "the secret is a container's, root of the host is no exemption", false);
            self.by_instances(&node.scope, &mut rules)?;
        }
        let conditions = object.conditions;
        let claim = ": its own claim, where users may make user namespaces (pinfold doctor)";
        for (text, value, more) in [
            ("the unit", conditions.unit, ""),
            ("the program", conditions.exe, claim),
            ("the label", conditions.label, ""),
        ] {
            if let Some(value) = value {
                rules.add("of these", &format!("only {text} {value}{more}"), true);
            }
        }
        if let Some(expires) = conditions.expires {
            match expired(Some(expires), &self.world()) {
                false => rules.add("all of these", &format!("until {expires}"), true),
                true => rules.add("nobody now", &format!("it expired: {expires}"), false),
            }
        }
        Ok(rules.all)
    }

    fn by_instances(&self, scope: &Scope, rules: &mut Rules) -> Result<(), VaultError> {
        let mut any = false;
        for instance in self.instances()?.iter().filter(|i| i.record.id.scope == *scope) {
            let alive = instance.state == ScopeState::Alive;
            any |= alive;
            let rule = format!("attached, process {}, key {}", instance.record.marks.pid, word(instance.state));
            rules.add(&format!("instance {}", instance.record.id.id), &rule, alive);
        }
        if !any {
            rules.add("nobody now", &format!("no instance of {scope} is attached that may open it"), false);
        }
        Ok(())
    }
}

struct Rules {
    /// Whether ids are those of a container.
    inside: bool,
    all: Vec<Rule>,
}

impl Rules {
    fn add(&mut self, who: &str, rule: &str, allowed: bool) {
        self.all.push(Rule { who: who.into(), rule: rule.into(), allowed });
    }

    fn by_mode(&mut self, object: &Object<'_>) {
        let bits = |shift: u16| ((object.mode >> shift) & 7) as u8;
        let mask = object.acl.and_then(|acl| acl.perm(AclTag::Mask)).unwrap_or(7);
        self.by_bits(format!("uid {}", object.uid), "owner", bits(6));
        match object.acl {
            None => self.by_bits(format!("gid {}", object.gid), "group", bits(3)),
            Some(acl) => {
                for entry in acl.entries() {
                    let perm = entry.perm & mask;
                    match entry.tag {
                        AclTag::User(uid) => self.by_bits(format!("uid {uid}"), "named user entry", perm),
                        AclTag::GroupObj => self.by_bits(format!("gid {}", object.gid), "group", perm),
                        AclTag::Group(gid) => self.by_bits(format!("gid {gid}"), "named group entry", perm),
                        AclTag::UserObj | AclTag::Mask | AclTag::Other => {}
                    }
                }
            }
        }
        self.by_bits("everybody else".into(), "other", bits(0));
    }

    fn by_bits(&mut self, who: String, rule: &str, perm: u8) {
        let who = if self.inside { format!("{who} inside") } else { who };
        self.add(&who, rule, perm & crate::access::READ != 0);
    }
}
