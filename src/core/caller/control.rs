//! Callers that do not come through the mount: peers of the control socket, and the daemon itself.

use super::{Callers, Process};
use crate::model::{CallerInfo, Doubt, FileId, Gid, InstanceId, Label, Subject, Uid};

/// The other end of a connection to the control socket, by SO_PEERCRED: what it was when it connected.
pub struct Control {
    process: Process,
    /// Whether its uid is in `operator_group`, as the group database says.
    member: bool,
}

impl Control {
    /// The peer with these credentials. Make it as soon as the connection is accepted: nothing holds the peer, so the
    /// later it is looked at, the sooner its number can be another's.
    pub fn new(callers: &Callers, uid: Uid, gid: Gid, pid: u32, member: bool) -> Self {
        let process = callers.identify_peer(uid, gid, pid);
        process.pid(); // takes hold of it now
        Control { process, member }
    }

    /// What the audit log says of it.
    pub fn who(&self) -> CallerInfo {
        self.process.who()
    }
}

impl Subject for Control {
    fn uid(&self) -> Uid {
        self.process.uid()
    }

    fn gid(&self) -> Gid {
        self.process.gid()
    }

    fn in_group(&self, gid: Gid) -> Result<bool, Doubt> {
        self.process.in_group(gid)
    }

    fn groups(&self) -> Result<Vec<Gid>, Doubt> {
        self.process.groups()
    }

    /// uid 0, or a member of `operator_group`; either in the daemon's own namespaces and outside every container: the
    /// socket may have been mounted into one.
    fn is_admin(&self) -> Result<bool, Doubt> {
        if self.member { self.process.is_outside() } else { self.process.is_admin() }
    }

    fn unit(&self) -> Result<Option<String>, Doubt> {
        self.process.unit()
    }

    fn exe(&self) -> Result<FileId, Doubt> {
        self.process.exe()
    }

    fn label(&self) -> Result<Label, Doubt> {
        self.process.label()
    }

    fn instance(&self) -> Result<Option<InstanceId>, Doubt> {
        self.process.instance()
    }
}

/// The daemon's own work, decided like everybody's.
#[derive(Debug, Clone, Copy)]
pub struct Daemon;

impl Daemon {
    /// What the audit log says of it: uid 0, no process.
    pub fn who(&self) -> CallerInfo {
        CallerInfo::default()
    }
}

impl Subject for Daemon {
    fn uid(&self) -> Uid {
        Uid::ROOT
    }

    fn gid(&self) -> Gid {
        Gid(0)
    }

    fn in_group(&self, gid: Gid) -> Result<bool, Doubt> {
        Ok(gid == Gid(0))
    }

    fn groups(&self) -> Result<Vec<Gid>, Doubt> {
        Ok(vec![Gid(0)])
    }

    fn is_admin(&self) -> Result<bool, Doubt> {
        Ok(true)
    }

    fn unit(&self) -> Result<Option<String>, Doubt> {
        Ok(None)
    }

    fn exe(&self) -> Result<FileId, Doubt> {
        super::file_id("/proc/self/exe").map_err(|e| Doubt(format!("the daemon's own executable: {e}")))
    }

    fn label(&self) -> Result<Label, Doubt> {
        Err(Doubt("the daemon's own work has no label".into()))
    }

    fn instance(&self) -> Result<Option<InstanceId>, Doubt> {
        Ok(None)
    }

    fn is_daemon(&self) -> bool {
        true
    }
}
