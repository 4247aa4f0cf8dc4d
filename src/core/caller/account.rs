//! A uid that does not ask by itself: somebody a secret is published to, judged as if he came and read.
//!
//! Owns the look into the user and group databases (getgrouplist(3)). It is no process, so conditions on a process (its
//! unit, its program, its label) are a doubt. It decides nothing.

use crate::model::{CallerInfo, Doubt, FileId, Gid, IdMaps, InstanceId, Label, Recipient, Subject, Uid};
use nix::unistd::{self, Group, User};
use std::ffi::CString;

/// A uid with its groups, as the databases have it at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    uid: Uid,
    gid: Gid,
    groups: Vec<Gid>,
    own_group: Option<Gid>,
    instance: Option<InstanceId>,
}

impl Account {
    /// A uid of this machine.
    ///
    /// # Errors
    /// [`Doubt`] if there is no such user, or the databases do not answer.
    pub fn of(recipient: &Recipient) -> Result<Self, Doubt> {
        let look = |found: nix::Result<Option<User>>| found.map_err(|e| Doubt(format!("the user database: {e}")));
        let (uid, gid, user) = match recipient {
            Recipient::Name(name) => {
                let user = look(User::from_name(name))?.ok_or_else(|| Doubt(format!("there is no user '{name}'")))?;
                (user.uid.as_raw(), user.gid.as_raw(), Some(user))
            }
            Recipient::Number { uid, gid } => {
                let user = look(User::from_uid(unistd::Uid::from_raw(*uid)))?;
                let primary = user.as_ref().map(|u| u.gid.as_raw());
                // A uid nobody named has, by the custom of distributions, a group of the same number.
                (*uid, gid.or(primary).unwrap_or(*uid), user)
            }
        };
        let mut groups = vec![Gid(gid)];
        if let Some(user) = &user {
            let name = CString::new(user.name.as_str()).map_err(|_| Doubt("a user's name has a NUL".into()))?;
            let found = unistd::getgrouplist(&name, unistd::Gid::from_raw(gid))
                .map_err(|e| Doubt(format!("the groups of {}: {e}", user.name)))?;
            groups = found.into_iter().map(|g| Gid(g.as_raw())).collect();
        }
        let own_group = is_his_alone(uid, gid)?.then_some(Gid(gid));
        Ok(Account { uid: Uid(uid), gid: Gid(gid), groups, own_group, instance: None })
    }

    /// A uid of an attached instance, as that counts. Its group database is not ours to read: the group is the one that
    /// was named, or the one with the uid's number.
    ///
    /// # Errors
    /// [`Doubt`] for a uid that does not exist there.
    pub fn inside(recipient: &Recipient, instance: InstanceId, maps: &IdMaps) -> Result<Self, Doubt> {
        let Recipient::Number { uid, gid } = recipient else {
            return Err(Doubt("a container's users are known by number only".into()));
        };
        let gid = gid.unwrap_or(*uid);
        let none = |id: u32| Doubt(format!("{id} is nobody in {}", instance.id));
        let uid = Uid(maps.uid.to_outside(*uid).ok_or_else(|| none(*uid))?);
        let gid = Gid(maps.gid.to_outside(gid).ok_or_else(|| none(gid))?);
        // Others of this machine may be in the group, where the container has no numbers of its own.
        let own_group = is_his_alone(uid.0, gid.0)?.then_some(gid);
        Ok(Account { uid, gid, groups: vec![gid], own_group, instance: Some(instance) })
    }

    /// The group of this uid that nobody else is in: a key may be readable by it. `None` if it shares its group.
    pub fn own_group(&self) -> Option<Gid> {
        self.own_group
    }

    /// What the audit log says of it: no process.
    pub fn who(&self) -> CallerInfo {
        let container = self.instance.as_ref().map(|i| i.id.as_str().into());
        CallerInfo { uid: self.uid.0, gid: self.gid.0, container, ..CallerInfo::default() }
    }
}

impl Subject for Account {
    fn uid(&self) -> Uid {
        self.uid
    }

    fn gid(&self) -> Gid {
        self.gid
    }

    fn in_group(&self, gid: Gid) -> Result<bool, Doubt> {
        Ok(self.groups.contains(&gid))
    }

    fn groups(&self) -> Result<Vec<Gid>, Doubt> {
        Ok(self.groups.clone())
    }

    /// It is nobody who asks: root among them is granted what root's uid is granted.
    fn is_admin(&self) -> Result<bool, Doubt> {
        Ok(false)
    }

    fn unit(&self) -> Result<Option<String>, Doubt> {
        Err(Doubt("a key is read by whatever unit".into()))
    }

    fn exe(&self) -> Result<FileId, Doubt> {
        Err(Doubt("a key is read by whatever program".into()))
    }

    fn label(&self) -> Result<Label, Doubt> {
        Err(Doubt("a key is read under whatever label".into()))
    }

    fn instance(&self) -> Result<Option<InstanceId>, Doubt> {
        Ok(self.instance.clone())
    }
}

/// Whether no other user is in the group, by membership or as his own one.
fn is_his_alone(uid: u32, gid: u32) -> Result<bool, Doubt> {
    let doubt = |what: &str, e: &dyn std::fmt::Display| Doubt(format!("{what}: {e}"));
    let group = Group::from_gid(unistd::Gid::from_raw(gid)).map_err(|e| doubt("the group database", &e))?;
    for member in group.map(|g| g.mem).unwrap_or_default() {
        let user = User::from_name(&member).map_err(|e| doubt("the user database", &e))?;
        if user.is_none_or(|u| u.uid.as_raw() != uid) {
            return Ok(false);
        }
    }
    // Only the local file can be gone through; a directory service is not asked for all there are.
    let passwd = std::fs::read_to_string("/etc/passwd").map_err(|e| doubt("/etc/passwd", &e))?;
    let shares = |line: &str| {
        let mut fields = line.split(':').skip(2);
        let mut number = || fields.next()?.parse::<u32>().ok();
        number().zip(number()).is_some_and(|(other, primary)| primary == gid && other != uid)
    };
    Ok(!passwd.lines().any(shares))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{IdMap, Scope};

    #[test]
    fn users_are_found_by_name_and_number() {
        let root = Account::of(&Recipient::parse("root").unwrap()).unwrap();
        assert_eq!((root.uid, root.gid), (Uid(0), Gid(0)));
        assert_eq!(Account::of(&Recipient::parse("0").unwrap()).unwrap(), root);
        assert!(!root.is_admin().unwrap());
        let unnamed = Account::of(&Recipient::parse("1990010").unwrap()).unwrap();
        assert_eq!((unnamed.gid, unnamed.own_group()), (Gid(1_990_010), Some(Gid(1_990_010))));
        // Of root's group, which root is in.
        let guest = Account::of(&Recipient::parse("1990010:0").unwrap()).unwrap();
        assert_eq!((guest.gid, guest.own_group()), (Gid(0), None));
        assert!(guest.in_group(Gid(0)).unwrap());
        assert!(Account::of(&Recipient::parse("no-such-user").unwrap()).is_err());
        assert!(unnamed.unit().is_err() && unnamed.exe().is_err() && unnamed.label().is_err());
    }

    #[test]
    fn a_uid_of_a_container_is_another_one_outside() {
        let map = IdMap::parse("0 100000 65536").unwrap();
        let maps = IdMaps { uid: map.clone(), gid: map };
        let instance = InstanceId { scope: Scope::container("web").unwrap(), id: "a".into() };
        let found = Account::inside(&Recipient::parse("999").unwrap(), instance.clone(), &maps).unwrap();
        assert_eq!((found.uid(), found.gid()), (Uid(100_999), Gid(100_999)));
        assert_eq!(found.instance().unwrap(), Some(instance.clone()));
        assert!(Account::inside(&Recipient::parse("70000").unwrap(), instance.clone(), &maps).is_err());
        assert!(Account::inside(&Recipient::parse("root").unwrap(), instance, &maps).is_err());
    }
}
