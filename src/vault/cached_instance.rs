//! A caller whose place is looked at once: which entry opens the content and whether he may must rest on one answer.

use crate::model::{Doubt, FileId, Gid, InstanceId, Label, Subject, Uid};
use std::cell::OnceCell;

/// As the caller; which instance he is in is asked of him once.
pub(super) struct Placed<'a, S: ?Sized> {
    caller: &'a S,
    instance: OnceCell<Result<Option<InstanceId>, Doubt>>,
}

impl<'a, S: Subject + ?Sized> Placed<'a, S> {
    pub fn new(caller: &'a S) -> Self {
        Placed { caller, instance: OnceCell::new() }
    }
}

impl<S: Subject + ?Sized> Subject for Placed<'_, S> {
    fn uid(&self) -> Uid {
        self.caller.uid()
    }

    fn gid(&self) -> Gid {
        self.caller.gid()
    }

    fn in_group(&self, gid: Gid) -> Result<bool, Doubt> {
        self.caller.in_group(gid)
    }

    fn groups(&self) -> Result<Vec<Gid>, Doubt> {
        self.caller.groups()
    }

    fn is_admin(&self) -> Result<bool, Doubt> {
        self.caller.is_admin()
    }

    fn unit(&self) -> Result<Option<String>, Doubt> {
        self.caller.unit()
    }

    fn exe(&self) -> Result<FileId, Doubt> {
        self.caller.exe()
    }

    fn label(&self) -> Result<Label, Doubt> {
        self.caller.label()
    }

    fn instance(&self) -> Result<Option<InstanceId>, Doubt> {
        self.instance.get_or_init(|| self.caller.instance()).clone()
    }

    fn passes_directories(&self) -> Result<bool, Doubt> {
        self.caller.passes_directories()
    }

    fn mounted_past(&self, tree: u64, path: &str) -> Result<usize, Doubt> {
        self.caller.mounted_past(tree, path)
    }

    fn is_daemon(&self) -> bool {
        self.caller.is_daemon()
    }
}
