//! Somebody as it was when it was last looked at: for a decision at a moment when it cannot be.
//!
//! A commit may come with a FLUSH, during which `/proc` of the caller must not be read, or with a RELEASE, which has no
//! caller at all. What a decision about writing rests on is asked at the OPEN, and kept. It decides nothing.

use crate::model::{Doubt, FileId, Gid, InstanceId, Label, Subject, Uid};

/// What was found out of a subject, doubts included.
#[derive(Debug, Clone)]
pub struct Known {
    uid: Uid,
    gid: Gid,
    groups: Result<Vec<Gid>, Doubt>,
    admin: Result<bool, Doubt>,
    instance: Result<Option<InstanceId>, Doubt>,
    daemon: bool,
}

impl Known {
    /// Asks it everything that a decision about writing may need.
    pub fn of<S: Subject + ?Sized>(subject: &S) -> Self {
        Known {
            uid: subject.uid(),
            gid: subject.gid(),
            groups: subject.groups(),
            admin: subject.is_admin(),
            instance: subject.instance(),
            daemon: subject.is_daemon(),
        }
    }
}

/// Conditions are for readers.
fn unasked<T>() -> Result<T, Doubt> {
    Err(Doubt("it was not asked of a writer".into()))
}

impl Subject for Known {
    fn uid(&self) -> Uid {
        self.uid
    }

    fn gid(&self) -> Gid {
        self.gid
    }

    fn in_group(&self, gid: Gid) -> Result<bool, Doubt> {
        Ok(gid == self.gid || self.groups.as_ref().map_err(Doubt::clone)?.contains(&gid))
    }

    fn groups(&self) -> Result<Vec<Gid>, Doubt> {
        self.groups.clone()
    }

    fn is_admin(&self) -> Result<bool, Doubt> {
        self.admin.clone()
    }

    fn unit(&self) -> Result<Option<String>, Doubt> {
        unasked()
    }

    fn exe(&self) -> Result<FileId, Doubt> {
        unasked()
    }

    fn label(&self) -> Result<Label, Doubt> {
        unasked()
    }

    fn instance(&self) -> Result<Option<InstanceId>, Doubt> {
        self.instance.clone()
    }

    fn is_daemon(&self) -> bool {
        self.daemon
    }
}
