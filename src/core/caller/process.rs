//! The caller of one request.

use super::cache::{Cgroup, PidNs, Seen};
use super::handle::{Handle, field};
use super::place::is_below;
use super::{NsId, Shared, Whereabouts, unit};
use crate::model::{CallerInfo, Doubt, FileId, Gid, InstanceId, Label, Subject, Uid};
use crate::sys::mount;
use std::borrow::Cow;
use std::fs::File;
use std::io::Read;
use std::sync::{Arc, OnceLock};

/// By either the kernel passes a directory's mode (capabilities(7), linux/capability.h).
const CAP_DAC_OVERRIDE: u64 = 1 << 1;
const CAP_DAC_READ_SEARCH: u64 = 1 << 2;
/// How much of a caller's list of mounts is read: a namespace of his own may have 100,000.
const MOUNTS_MAX: u64 = 1 << 20;

/// What the kernel was doing when it named this caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum During {
    /// Its files in `/proc` may be read.
    AnyRequest,
    /// As above, but nothing holds it: it may be another a moment later, so nothing that it may change is kept.
    Connection,
    /// `stat`, `syscall`, `exe` and `ns/*` must not be read: the reader would hang.
    Flush,
}

/// Somebody who made a request, known by what the kernel said with it; the rest is read when asked for, of that one
/// thread, and is a [`Doubt`] once it has gone.
pub struct Process {
    shared: Arc<Shared>,
    uid: Uid,
    gid: Gid,
    tid: u32,
    during: During,
    handle: OnceLock<Result<Handle, Doubt>>,
    /// Its status, once read: the thread of a request can change nothing of itself before the answer.
    status: OnceLock<Result<String, Doubt>>,
    /// The instance it was in when that was first asked: for the audit log, which tells what was decided on.
    was_in: OnceLock<Option<Arc<str>>>,
    /// Its label, read once: what is recorded is what was decided on.
    label: OnceLock<Result<Label, Doubt>>,
    /// Who speaks for it.
    through: Option<Arc<str>>,
}

/// A system call as `/proc/PID/syscall` shows it (proc(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SystemCall {
    /// Its number (asm/unistd.h).
    pub number: u32,
    /// Its arguments, as far as they are shown.
    pub arguments: [u64; 6],
    /// Where in the program it was made; 0 of a thread that the kernel runs for a process (io_uring), whose number and
    /// arguments are those of another call.
    pub pc: u64,
}

impl SystemCall {
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split_ascii_whitespace();
        let number = fields.next()?.parse().ok()?;
        let mut shown = [0; 8];
        for (value, field) in shown.iter_mut().zip(fields) {
            *value = u64::from_str_radix(field.strip_prefix("0x")?, 16).ok()?;
        }
        let [a, b, c, d, e, f, _stack, pc] = shown;
        Some(SystemCall { number, arguments: [a, b, c, d, e, f], pc })
    }
}

impl Process {
    pub(super) fn new(shared: Arc<Shared>, uid: Uid, gid: Gid, tid: u32, during: During) -> Self {
        let (handle, status, was_in, label) = (OnceLock::new(), OnceLock::new(), OnceLock::new(), OnceLock::new());
        Process { shared, uid, gid, tid, during, handle, status, was_in, label, through: None }
    }

    /// The same, with somebody who speaks for it, for the audit log.
    pub fn through(mut self, helper: &CallerInfo) -> Self {
        let exe = helper.exe.as_deref().unwrap_or("?");
        self.through = Some(format!("pid {} uid {} {exe}", helper.pid, helper.uid).into());
        self
    }

    /// Everything the audit log wants to know, as far as it can be read. About 4 µs for a process that was seen before.
    pub fn who(&self) -> CallerInfo {
        let (uid, gid, through) = (self.uid.0, self.gid.0, self.through.clone());
        let mut who = CallerInfo { uid, gid, pid: self.tid, through, ..CallerInfo::default() };
        let Ok(handle) = self.handle() else { return who };
        who.pid = handle.tgid().unwrap_or(self.tid);
        let inode = handle.inode();
        let seen = inode.and_then(|i| self.shared.cache.thread(i));
        let now = Seen {
            start: seen.as_ref().and_then(|s| s.start).or_else(|| self.read_start()),
            exe: self.careless().ok().and_then(|handle| exe_path(handle, seen.as_ref())),
        };
        (who.start, who.exe) = (now.start, now.exe.clone());
        if let Some(inode) = inode
            && self.during != During::Flush
            && seen.is_none_or(|s| s.start != now.start || s.exe != now.exe)
        {
            self.shared.cache.keep_thread(inode, now);
        }
        if let Ok(cgroup) = self.cgroup_of(handle) {
            (who.cgroup, who.unit) = (Some(cgroup.path), cgroup.unit);
        }
        if self.was_in.get().is_none() {
            let _ = self.instance(); // keeps what it finds
        }
        who.container = self.was_in.get().cloned().flatten();
        if self.shared.labels {
            who.label = self.label().ok().map(|label| label.to_string().into());
        }
        who
    }

    /// When the process started, in clock ticks since boot; `None` if that cannot be read, or must not be ([FLUSH](
    /// super::Callers::identify_in_flush)).
    pub fn start(&self) -> Option<u64> {
        let handle = self.handle().ok()?;
        let seen = handle.inode().and_then(|i| self.shared.cache.thread(i));
        seen.and_then(|s| s.start).or_else(|| self.read_start())
    }

    /// The process (thread group) id; the thread's if that cannot be found out, 0 if the kernel gave none.
    pub fn pid(&self) -> u32 {
        self.handle().and_then(Handle::tgid).unwrap_or(self.tid)
    }

    /// The system call it is in, if it is in one and that can be read. Never asks during FLUSH.
    pub fn current_call(&self) -> Option<SystemCall> {
        let line = self.careless().ok()?.read("syscall").ok()?;
        SystemCall::parse(&line)
    }

    /// Whether it is in the daemon's own user and pid namespaces and in no attached instance.
    pub(super) fn is_outside(&self) -> Result<bool, Doubt> {
        // Read every time: a process can leave its user namespace for a new one.
        let own = &self.shared.own;
        Ok(self.pid_ns()? == own.pid && self.user_ns()? == own.user && self.instance()?.is_none())
    }

    fn handle(&self) -> Result<&Handle, Doubt> {
        self.handle.get_or_init(|| Handle::open(&self.shared, self.tid)).as_ref().map_err(Doubt::clone)
    }

    /// The handle, for a file that must not be read during FLUSH.
    fn careless(&self) -> Result<&Handle, Doubt> {
        match self.during {
            During::AnyRequest | During::Connection => self.handle(),
            During::Flush => Err(Doubt("it cannot be looked at during FLUSH".into())),
        }
    }

    fn read_start(&self) -> Option<u64> {
        self.careless().and_then(Handle::start).ok()
    }

    /// Its cgroup, from memory if the kernel gives ids.
    fn cgroup_of(&self, handle: &Handle) -> Result<Cgroup, Doubt> {
        let id = handle.info().and_then(|i| i.cgroup);
        if let Some(known) = id.and_then(|id| self.shared.cache.cgroup(id)) {
            return Ok(known);
        }
        let file = handle.read("cgroup")?;
        let path = unit::v2_path(&file)?;
        let cgroup = Cgroup { path: path.into(), unit: unit::of_path(path).map(Arc::from) };
        // A process that was moved meanwhile would give one cgroup the other's path.
        if let Some(id) = id
            && handle.info_now().and_then(|i| i.cgroup) == Some(id)
        {
            self.shared.cache.keep_cgroup(id, cgroup.clone());
        }
        Ok(cgroup)
    }

    /// Its pid namespace, from memory if the kernel numbers threads; those above it only if asked for.
    fn pid_ns_of(&self, above: bool) -> Result<PidNs, Doubt> {
        let handle = self.careless()?;
        let inode = handle.inode();
        let known = inode.and_then(|i| self.shared.cache.pid_ns(i));
        if let Some(known) = &known
            && (!above || known.above.is_some())
        {
            return Ok(known.clone());
        }
        let id = known.map_or_else(|| handle.ns("pid"), |k| Ok(k.id))?;
        let found = PidNs { id, above: if above { Some(handle.above_ns("pid")?) } else { None } };
        if let Some(inode) = inode {
            self.shared.cache.keep_pid_ns(inode, found.clone());
        }
        Ok(found)
    }

    /// Its status, if its credentials are those of the request. They are not where the kernel acts with others'
    /// (overlayfs, io_uring personalities): then the groups it shows are somebody else's.
    fn own_status(&self) -> Result<Cow<'_, str>, Doubt> {
        match self.during {
            During::Connection => self.read_own_status().map(Cow::Owned),
            During::AnyRequest | During::Flush => {
                let kept = self.status.get_or_init(|| self.read_own_status()).as_ref();
                kept.map(|status| Cow::Borrowed(status.as_str())).map_err(Doubt::clone)
            }
        }
    }

    fn read_own_status(&self) -> Result<String, Doubt> {
        let status = self.handle()?.read("status")?;
        let fs_id = |name| field(&status, name).and_then(|ids| ids.split_ascii_whitespace().nth(3)?.parse().ok());
        match (fs_id("Uid:"), fs_id("Gid:")) {
            (Some(uid), Some(gid)) if (Uid(uid), Gid(gid)) == (self.uid, self.gid) => Ok(status),
            _ => Err(Doubt("the request was made with other credentials than its process has".into())),
        }
    }
}

impl Subject for Process {
    fn uid(&self) -> Uid {
        self.uid
    }

    fn gid(&self) -> Gid {
        self.gid
    }

    fn in_group(&self, gid: Gid) -> Result<bool, Doubt> {
        if gid == self.gid {
            return Ok(true);
        }
        let status = self.own_status()?;
        let groups = field(&status, "Groups:").ok_or_else(|| Doubt("no Groups in its status".into()))?;
        Ok(groups.split_ascii_whitespace().any(|g| g.parse() == Ok(gid.0)))
    }

    fn groups(&self) -> Result<Vec<Gid>, Doubt> {
        let status = self.own_status()?;
        let all = field(&status, "Groups:").ok_or_else(|| Doubt("no Groups in its status".into()))?;
        let mut groups = vec![self.gid];
        groups.extend(all.split_ascii_whitespace().filter_map(|g| g.parse().ok()).map(Gid));
        Ok(groups)
    }

    fn is_admin(&self) -> Result<bool, Doubt> {
        if self.uid == Uid::ROOT { self.is_outside() } else { Ok(false) }
    }

    fn passes_directories(&self) -> Result<bool, Doubt> {
        let status = self.own_status()?;
        let effective = field(&status, "CapEff:").and_then(|v| u64::from_str_radix(v.trim(), 16).ok());
        let effective = effective.ok_or_else(|| Doubt("no CapEff in its status".into()))?;
        Ok(effective & (CAP_DAC_OVERRIDE | CAP_DAC_READ_SEARCH) != 0)
    }

    fn mounted_past(&self, tree: u64, path: &str) -> Result<usize, Doubt> {
        let read = |path: &str| {
            let mut table = Vec::new();
            File::open(path)?.take(MOUNTS_MAX).read_to_end(&mut table).map(|_| table)
        };
        let table = self.careless()?.look("mountinfo", read)?;
        let parts = mount::parts_of(&table, tree);
        let past = parts.iter().filter(|part| is_below(path, part)).map(|part| part.split('/').count());
        Ok(past.max().unwrap_or(0))
    }

    fn unit(&self) -> Result<Option<String>, Doubt> {
        let file = self.handle()?.read("cgroup")?;
        Ok(unit::of_path(unit::v2_path(&file)?).map(str::to_owned))
    }

    fn exe(&self) -> Result<FileId, Doubt> {
        // Not by the link's text: that is a path in the caller's own mount namespace, where it can be anything.
        self.careless()?.file_id("exe")
    }

    fn label(&self) -> Result<Label, Doubt> {
        let read = || Label::parse(&self.careless()?.read("attr/current")?);
        self.label.get_or_init(read).clone()
    }

    fn instance(&self) -> Result<Option<InstanceId>, Doubt> {
        // Nobody can be in an instance that is not attached; but of whom nothing is known, not even that is said.
        if self.tid != 0 && !self.shared.instances.any() {
            return Ok(None);
        }
        self.handle()?;
        let found = self.shared.instances.holding(self)?;
        self.was_in.get_or_init(|| found.as_ref().map(|i| i.id.as_str().into()));
        Ok(found)
    }
}

impl Whereabouts for Process {
    fn cgroup(&self) -> Result<Arc<str>, Doubt> {
        Ok(self.cgroup_of(self.handle()?)?.path)
    }

    fn pid_ns(&self) -> Result<NsId, Doubt> {
        Ok(self.pid_ns_of(false)?.id)
    }

    fn user_ns(&self) -> Result<NsId, Doubt> {
        // Read every time: a process can leave its user namespace for a new one.
        self.careless()?.ns("user")
    }

    fn above_pid_ns(&self) -> Result<Arc<[NsId]>, Doubt> {
        Ok(self.pid_ns_of(true)?.above.unwrap_or_default())
    }

    fn above_user_ns(&self) -> Result<Arc<[NsId]>, Doubt> {
        self.careless()?.above_ns("user")
    }
}

/// The path of its executable as the link shows it: for people, not for decisions.
fn exe_path(handle: &Handle, seen: Option<&Seen>) -> Option<Arc<str>> {
    let link = handle.link("exe").ok()?;
    let text = link.to_string_lossy();
    match seen.and_then(|s| s.exe.as_ref()) {
        Some(known) if **known == *text => Some(Arc::clone(known)),
        _ => Some(text.into()),
    }
}
