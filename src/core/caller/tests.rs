//! Against real processes: every fact both by pidfd and as on an older kernel.

use super::*;
use crate::model::{Doubt, InstanceId, Scope, Subject};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// `cat` behind a wrapper that changed something about it; it ends when this is dropped.
pub(super) struct Cat {
    child: Child,
    stdin: Option<ChildStdin>,
    _stdout: BufReader<ChildStdout>,
}

impl Cat {
    /// Runs `command`, which ends in becoming `cat`, and waits until it has.
    pub fn run(command: &[&str]) -> Self {
        let mut child = Command::new(command[0])
            .args(&command[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{}: {e}", command[0]));
        let mut stdin = child.stdin.take().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdin.write_all(b"ready\n").unwrap();
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "{command:?} did not become cat");
        Cat { child, stdin: Some(stdin), _stdout: stdout }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The pid of its only child.
    pub fn child_pid(&self) -> u32 {
        child_of(self.pid()).unwrap()
    }
}

/// The only child of a process, if it has one.
pub(super) fn child_of(pid: u32) -> Option<u32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    children.trim().parse().ok()
}

impl Drop for Cat {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}

/// Both ways of looking.
fn both() -> [Callers; 2] {
    [Callers::new().unwrap(), Callers::new().unwrap().without_pidfds()]
}

fn root(callers: &Callers, tid: u32) -> Process {
    callers.identify(Uid(0), Gid(0), tid)
}

fn field_22(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(") ").unwrap().1.split(' ').nth(19).unwrap().parse().unwrap()
}

#[test]
fn ones_own_facts_are_right_from_any_thread_and_again() {
    for callers in both() {
        std::thread::scope(|s| {
            s.spawn(|| {
                let tid = u32::try_from(nix::unistd::gettid().as_raw()).unwrap();
                assert_ne!(tid, std::process::id());
                let me = root(&callers, tid);
                let who = me.who();
                assert_eq!((who.uid, who.gid, who.pid), (0, 0, std::process::id()));
                assert_eq!(who.start, Some(field_22(std::process::id())), "the process's start, not the thread's");
                assert_eq!(who.exe.as_deref(), std::env::current_exe().unwrap().to_str());
                let file = std::fs::read_to_string("/proc/self/cgroup").unwrap();
                let own = file.lines().find_map(|l| l.strip_prefix("0::")).unwrap();
                assert_eq!(who.cgroup.as_deref(), Some(own));
                assert_eq!(me.exe(), Ok(file_id("/proc/self/exe").unwrap()));
                assert_eq!(me.is_admin(), Ok(true));
                assert_eq!(me.instance(), Ok(None));
                assert_eq!(root(&callers, tid).who(), who, "from memory");
                assert_eq!(me.start(), who.start);
                assert_eq!(me.pid(), who.pid);
                assert_eq!(callers.identify(Uid(1), Gid(0), tid).is_admin(), Ok(false));
            });
        });
    }
}

#[test]
fn groups_are_those_of_the_process_if_the_request_has_its_credentials() {
    let cat = Cat::run(&["setpriv", "--reuid=61234", "--regid=61235", "--groups=61236,61237", "cat"]);
    for callers in both() {
        let asked = callers.identify(Uid(61234), Gid(61235), cat.pid());
        for (gid, member) in [(61234, false), (61235, true), (61236, true), (61237, true), (0, false), (6123, false)] {
            assert_eq!(asked.in_group(Gid(gid)), Ok(member), "{gid}");
        }
        assert_eq!(asked.is_admin(), Ok(false));
        // As when the kernel acts for it with others' credentials: the groups are not theirs.
        let other = callers.identify(Uid(0), Gid(0), cat.pid());
        assert_eq!(other.in_group(Gid(0)), Ok(true));
        assert!(other.in_group(Gid(61236)).is_err());
    }
}

#[test]
fn a_system_call_is_named_but_never_in_a_flush() {
    let cat = Cat::run(&["cat"]);
    for callers in both() {
        let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
        // It has echoed its line, and is on its way into read(2).
        while root(&callers, cat.pid()).current_call().map(|c| c.number) != Some(u32::try_from(libc::SYS_read).unwrap())
        {
            assert!(std::time::Instant::now() < end);
            std::thread::yield_now();
        }
        let flush = callers.identify_in_flush(Uid(0), Gid(0), cat.pid());
        assert_eq!(flush.current_call(), None);
        assert_eq!(flush.start(), None);
        assert!(flush.exe().is_err() && flush.is_admin().is_err());
        assert_eq!((flush.who().exe, flush.who().pid), (None, cat.pid()));
        assert_eq!((flush.in_group(Gid(0)), flush.unit().is_ok()), (Ok(true), true));
        let known = root(&callers, cat.pid()).who().start;
        assert_eq!(known, Some(field_22(cat.pid())));
        let remembered = callers.identify_in_flush(Uid(0), Gid(0), cat.pid()).who().start;
        assert_eq!(remembered, known.filter(|_| callers.0.use_pidfds()));
    }
}

#[test]
fn who_vanished_or_was_never_seen_is_a_doubt() {
    for callers in both() {
        let mut child = Command::new("true").spawn().unwrap();
        let held = root(&callers, child.id());
        held.pid();
        child.wait().unwrap();
        let late = root(&callers, child.id());
        let foreign = root(&callers, 0);
        for process in [&held, &late, &foreign] {
            assert!(process.is_admin().is_err());
            assert!(process.in_group(Gid(7)).is_err());
            assert!(process.unit().is_err());
            assert!(process.exe().is_err());
            assert_eq!(process.current_call(), None);
            assert_eq!((process.who().uid, process.who().exe), (0, None));
        }
        assert!(foreign.instance().is_err());
        assert_eq!(foreign.pid(), 0);
    }
}

#[test]
fn root_of_another_user_or_pid_namespace_is_no_admin() {
    let user = Cat::run(&["unshare", "--user", "--map-root-user", "cat"]);
    let pid = Cat::run(&["unshare", "--pid", "--fork", "cat"]);
    for callers in both() {
        assert_eq!(root(&callers, user.pid()).is_admin(), Ok(false));
        assert_eq!(root(&callers, pid.child_pid()).is_admin(), Ok(false));
        // unshare itself has stayed outside: the control.
        assert_eq!(root(&callers, pid.pid()).is_admin(), Ok(true));
        let inside = |member| Control::new(&callers, Uid(0), Gid(0), user.pid(), member).is_admin();
        assert_eq!((inside(false), inside(true)), (Ok(false), Ok(false)));
    }
}

#[test]
fn an_executable_is_not_known_by_a_path_that_its_own_mounts_give_it() {
    let cat =
        Cat::run(&["unshare", "--mount", "sh", "-c", "mount --bind $(command -v cat) $(command -v sort) && exec sort"]);
    let which = |name| {
        let out = Command::new("sh").args(["-c", &format!("readlink -f $(command -v {name})")]).output().unwrap();
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    };
    for callers in both() {
        let process = root(&callers, cat.pid());
        assert_eq!(process.who().exe.as_deref(), Some(which("sort").as_str()), "the trick works on the text");
        assert_eq!(process.exe(), Ok(file_id(which("cat")).unwrap()));
        assert_ne!(process.exe(), Ok(file_id(which("sort")).unwrap()));
    }
}

#[test]
fn members_of_the_operator_group_are_admins_on_the_socket_alone() {
    let cat = Cat::run(&["setpriv", "--reuid=61234", "--regid=61235", "--clear-groups", "cat"]);
    for callers in both() {
        let peer = |member| Control::new(&callers, Uid(61234), Gid(61235), cat.pid(), member);
        assert_eq!(peer(true).is_admin(), Ok(true));
        assert_eq!(peer(false).is_admin(), Ok(false));
        assert_eq!(peer(true).who().pid, cat.pid());
        assert_eq!((peer(true).uid(), peer(true).is_daemon()), (Uid(61234), false));
    }
    assert!(Daemon.is_daemon() && Daemon.is_admin() == Ok(true));
}

/// Claims whoever is asked about.
struct Everything;

impl Instances for Everything {
    fn any(&self) -> bool {
        true
    }

    fn holding(&self, place: &dyn Whereabouts) -> Result<Option<InstanceId>, Doubt> {
        assert!(place.cgroup()?.starts_with('/'));
        Ok(Some(InstanceId { scope: Scope::Container("web".into()), id: "0123".into() }))
    }
}

#[test]
fn root_inside_an_attached_instance_is_no_admin() {
    let callers = Callers::with_instances(Arc::new(Everything)).unwrap();
    let me = root(&callers, std::process::id());
    assert_eq!(me.is_admin(), Ok(false));
    assert_eq!(me.who().container.as_deref(), Some("0123"));
    assert_eq!(me.instance().unwrap().unwrap().id, "0123");
}

#[test]
#[ignore = "a measurement: cargo test --release --lib caller::tests::cost -- --ignored --nocapture"]
fn cost() {
    for (name, callers) in ["by pidfd", "by /proc"].into_iter().zip(both()) {
        let mut nanos: Vec<u128> = (0..20_000)
            .map(|_| {
                let began = std::time::Instant::now();
                std::hint::black_box(root(&callers, std::process::id()).who());
                began.elapsed().as_nanos()
            })
            .collect();
        nanos.sort_unstable();
        println!("who() {name}: p50 {} ns, p99 {} ns", nanos[10_000], nanos[19_800]);
    }
}
