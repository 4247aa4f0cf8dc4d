//! What would change for a host against its last bundle, and which line of the policy says so.

use super::list::{ADMIN, List, OwnerNames};
use super::plan::{HostNo, Plan};
use super::record::{EntryDigest, HostRecord};
use crate::model::SecretPath;
use crate::stream::{Recipient, RecipientUse};
use crate::vault::{Vault, VaultError};
use crate::wire::{Difference, PreviewChange, PreviewHost};

impl Vault {
    /// For these hosts, or all; nothing is opened, nothing is made.
    pub(in crate::vault) fn preview(&self, hosts: Option<&[String]>) -> Result<Vec<PreviewHost>, VaultError> {
        if self.locked_since().is_some() {
            return Err(VaultError::Locked);
        }
        self.bring_up_to_date()?;
        let guard = self.exporter.plan.lock();
        let plan = guard.as_ref().ok_or_else(|| self.no_plan())?;
        let mut names = OwnerNames::default();
        let numbers = Self::chosen(plan, hosts)?;
        numbers.iter().map(|no| self.preview_host(plan, *no, &mut names)).collect()
    }

    fn preview_host(&self, plan: &Plan, no: HostNo, names: &mut OwnerNames) -> Result<PreviewHost, VaultError> {
        let host = plan.host(no);
        let mut list = self.with_tree(|tree| List::of(tree, plan, no))?;
        let known = self.add_home_keys(&mut list);
        let now = list.digests(host, names);
        let record = self.host_record(&host.name)?;
        let error = Recipient::parse(&host.recipient, RecipientUse::Host)
            .map_err(|e| format!("line {} of the policy: its recipient: {e}", host.because.line))
            .and(known)
            .err();
        let mut changes = differences(&record, &now);
        for change in &mut changes {
            add_reason(change, plan, no);
        }
        Ok(PreviewHost { host: host.name.to_string(), entries: now.len() as u64, error, changes })
    }
}

/// What changed, without the line that says so.
fn change(change: Difference, entry: &str) -> PreviewChange {
    let admin = entry.strip_prefix(ADMIN);
    PreviewChange {
        change,
        path: admin.is_none().then(|| entry.to_owned()),
        admin: admin.map(str::to_owned),
        line: None,
        rule: None,
    }
}

/// Finds the line that gives it to the host.
fn add_reason(change: &mut PreviewChange, plan: &Plan, no: HostNo) {
    if change.change == Difference::Removed {
        return;
    }
    let host = &plan.host(no).name;
    if let Some(admin) = &change.admin {
        let found = plan.policy().admins_of(host).into_iter().find(|(user, _)| user == admin);
        if let Some((_, because)) = found {
            change.line = Some(because.line);
            change.rule = Some(because.note.clone()).filter(|note| !note.is_empty());
        }
    } else if let Some(path) = change.path.as_ref().and_then(|path| SecretPath::parse(path).ok()) {
        if let Some(why) = plan.unwritten(no, &path) {
            change.rule = Some(why);
            return;
        }
        let found = plan.policy().shares_of(host).into_iter().find(|(glob, _)| glob.matches(&path));
        if let Some((glob, because)) = found {
            (change.line, change.rule) = (Some(because.line), Some(glob.to_string()));
        }
    }
}

/// Both are sorted.
fn differences(record: &HostRecord, now: &[(String, EntryDigest)]) -> Vec<PreviewChange> {
    let (mut old, mut new) = (record.entries.iter().peekable(), now.iter().peekable());
    let mut changes = Vec::new();
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return changes,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some((a, _)), Some((b, _))) => a.cmp(b),
        };
        match order {
            std::cmp::Ordering::Less => {
                changes.extend(old.next().map(|(path, _)| change(Difference::Removed, path)));
            }
            std::cmp::Ordering::Greater => {
                changes.extend(new.next().map(|(path, _)| change(Difference::Added, path)));
            }
            std::cmp::Ordering::Equal => {
                if let (Some((path, before)), Some((_, after))) = (old.next(), new.next())
                    && before != after
                {
                    changes.push(change(Difference::Changed, path));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::HostName;

    #[test]
    fn what_came_went_and_changed_is_told_apart() {
        let list = |all: &[(&str, u8)]| all.iter().map(|(p, d)| ((*p).to_owned(), [*d; 16])).collect::<Vec<_>>();
        let mut record = HostRecord::new(HostName::parse("h").unwrap());
        record.entries = list(&[("//admin/u", 1), ("a", 1), ("b", 1), ("d", 1)]);
        let found = differences(&record, &list(&[("b", 2), ("c", 1), ("d", 1), ("e", 1)]));
        let told: Vec<_> =
            found.iter().map(|c| (c.change, c.path.as_deref().or(c.admin.as_deref()).unwrap())).collect();
        use Difference::{Added, Changed, Removed};
        assert_eq!(told, [(Removed, "u"), (Removed, "a"), (Changed, "b"), (Added, "c"), (Added, "e")]);
        assert!(differences(&record, &record.entries).is_empty());
    }
}
