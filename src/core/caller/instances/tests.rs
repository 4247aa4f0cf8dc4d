//! Against real processes in real namespaces and cgroups: who is in an instance, who is not, and what is refused.

use super::*;
use crate::caller::tests::Cat;
use crate::caller::{Callers, Process, tests};
use crate::model::{Gid, Scope, Subject, Uid};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::AtomicU32;

/// Nobody here keeps others from looking at him.
const LONG: Duration = Duration::from_secs(20);
const HIERARCHY: &str = "/sys/fs/cgroup";

/// Runs `test` in a thread whose `/sys/fs/cgroup` is the v2 hierarchy, whatever this host has there.
fn with_cgroup2(test: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let ran = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            let none = None::<&str>;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
            let _ = umount2(HIERARCHY, MntFlags::MNT_DETACH);
            mount(Some("none"), HIERARCHY, Some("cgroup2"), MsFlags::empty(), none).unwrap();
            test();
        });
        if let Err(panicked) = ran.join() {
            std::panic::resume_unwind(panicked);
        }
    });
}

/// A cgroup of the test's own; removed with what is below it. Make it before what runs in it.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        Self::at(format!("pinfold-test-{}-{number}", std::process::id()).into())
    }

    fn at(path: PathBuf) -> Self {
        std::fs::create_dir(PathBuf::from(HIERARCHY).join(&path)).unwrap();
        Cgroup(path)
    }

    fn below(&self, name: &str) -> Self {
        Self::at(self.0.join(name))
    }

    /// As `/proc/PID/cgroup` has it.
    fn path(&self) -> String {
        format!("/{}", self.0.display())
    }

    fn procs(&self) -> String {
        format!("{HIERARCHY}/{}/cgroup.procs", self.0.display())
    }

    /// `command`, which ends in becoming `cat`, in here.
    fn run(&self, command: &str) -> Cat {
        Cat::run(&["sh", "-c", &format!("echo 0 >{} && exec {command}", self.procs())])
    }

    fn take_in(&self, pid: u32) {
        std::fs::write(self.procs(), pid.to_string()).unwrap();
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let end = Instant::now() + Duration::from_secs(10);
        // It is busy until what ran in it is reaped.
        while std::fs::remove_dir(PathBuf::from(HIERARCHY).join(&self.0)).is_err() && Instant::now() < end {
            std::thread::yield_now();
        }
    }
}

fn named(id: &str) -> InstanceId {
    InstanceId { scope: Scope::Container("web".into()), id: id.into() }
}

/// Registries and callers: by pidfd, and as on an older kernel.
struct Rig {
    registry: Arc<Registry>,
    callers: [Callers; 2],
}

impl Rig {
    fn new() -> Self {
        let registry = Arc::new(Registry::default());
        let callers = || Callers::with_instances(Arc::<Registry>::clone(&registry)).unwrap();
        let both = [callers(), callers().without_pidfds()];
        Rig { registry, callers: both }
    }

    fn attach(&self, id: &str, pid: u32) -> Marks {
        let held = hold(pid).unwrap();
        let marks = held.marks().clone();
        self.registry.attach(named(id), held).unwrap();
        marks
    }

    /// Which instance a process is said to be in; both ways say the same, and say it again.
    fn of(&self, pid: u32) -> Result<Option<String>, String> {
        let ask = |callers: &Callers| -> Result<Option<String>, String> {
            let process: Process = callers.identify(Uid(0), Gid(0), pid);
            process.instance().map(|i| i.map(|i| i.id)).map_err(|d| d.0)
        };
        let first = ask(&self.callers[0]);
        assert_eq!(ask(&self.callers[0]), first, "from memory");
        assert_eq!(ask(&self.callers[1]), first, "without pidfds");
        first
    }

    #[track_caller]
    fn is_in(&self, pid: u32, id: &str) {
        assert_eq!(self.of(pid), Ok(Some(id.to_owned())));
    }

    #[track_caller]
    fn is_outside(&self, pid: u32) {
        assert_eq!(self.of(pid), Ok(None));
    }

    #[track_caller]
    fn is_doubtful(&self, pid: u32, why: &str) {
        let of = self.of(pid);
        assert!(of.as_ref().is_err_and(|d| d.contains(why)), "{of:?}");
    }
}

/// The three kinds that can be held: with which `unshare`, and the pid of what is inside.
const KINDS: [&str; 3] = ["--pid --fork", "--user --map-root-user", "--user --map-root-user --pid --fork"];

fn inside(kind: &str, cat: &Cat) -> u32 {
    if kind.contains("--fork") { cat.child_pid() } else { cat.pid() }
}

/// nsenter(1) into the namespaces that `kind` made.
fn nsenter(kind: &str, pid: u32) -> String {
    let user = if kind.contains("--user") { "--user" } else { "" };
    let into = if kind.contains("--pid") { "--pid" } else { "" };
    format!("nsenter -t {pid} {user} {into}")
}

#[test]
fn whose_cgroup_and_namespaces_agree_is_in_it_and_whose_part_agrees_is_doubtful() {
    with_cgroup2(|| {
        for kind in KINDS {
            let (own, other) = (Cgroup::new(), Cgroup::new());
            let rig = Rig::new();
            let first = own.run(&format!("unshare {kind} cat"));
            if kind.contains("--fork") {
                // unshare itself stays outside of the namespaces, but in the cgroup.
                other.take_in(first.pid());
            }
            let init = inside(kind, &first);
            let marks = rig.attach("one", init);
            assert_eq!(marks.cgroup.as_deref(), Some(own.path().as_str()), "{kind}");
            rig.is_in(init, "one");

            let deeper = own.below("deeper");
            let entered = deeper.run(&format!("{} cat", nsenter(kind, init)));
            rig.is_in(inside(&nsenter_forks(kind), &entered), "one");
            // nsenter alone, and a process of the host that was moved in.
            let host = Cat::run(&["sh", "-c", &format!("exec {} cat", nsenter(kind, init))]);
            rig.is_doubtful(inside(&nsenter_forks(kind), &host), "not in its cgroup");
            let moved = Cat::run(&["cat"]);
            rig.is_outside(moved.pid());
            own.take_in(moved.pid());
            rig.is_doubtful(moved.pid(), "it is in the cgroup of the instance 'one', not in its");
            deeper.take_in(moved.pid());
            rig.is_doubtful(moved.pid(), "it is in the cgroup of the instance 'one', not in its");
            // Another container, not attached.
            let unattached = other.run(&format!("unshare {kind} cat"));
            rig.is_outside(inside(kind, &unattached));
            // One that went deeper by itself.
            let nested = own.run(&format!("{} unshare --user --pid --fork cat", nsenter(kind, init)));
            let mut pid = nested.pid();
            while let Some(child) = tests::child_of(pid) {
                pid = child;
            }
            rig.is_in(pid, "one");

            assert_eq!(rig.registry.detach("one"), Some(named("one")));
            rig.is_outside(init);
            assert_eq!(rig.registry.detach("one"), None);
            drop((moved, nested, unattached, host, entered, first));
        }
    });
}

/// nsenter forks if it enters a pid namespace.
fn nsenter_forks(kind: &str) -> String {
    kind.replace("--fork", "").replace("--pid", "--pid --fork")
}

#[test]
fn without_a_cgroup_of_its_own_the_namespaces_count_alone() {
    with_cgroup2(|| {
        let shared = Cgroup::new();
        let rig = Rig::new();
        let neighbour = shared.run("cat");
        let first = shared.run("unshare --pid --fork cat");
        let marks = rig.attach("one", first.child_pid());
        assert_eq!(marks.cgroup, None, "its parent and a neighbour are in it");
        rig.is_in(first.child_pid(), "one");
        rig.is_outside(neighbour.pid());
        rig.is_outside(first.pid());
        drop((first, neighbour));
    });
}

#[test]
fn a_systemd_inside_is_known_by_the_cgroup_that_it_sees_as_its_root() {
    with_cgroup2(|| {
        let (own, outside) = (Cgroup::new(), Cgroup::new());
        let rig = Rig::new();
        let first = own.run("unshare --cgroup --pid --fork cat");
        outside.take_in(first.pid());
        let (init_scope, service) = (own.below("init.scope"), own.below("some.service"));
        init_scope.take_in(first.child_pid());
        let marks = rig.attach("one", first.child_pid());
        assert_eq!(marks.cgroup, Some(own.path()));
        let other = service.run(&format!("nsenter -t {} --pid cat", first.child_pid()));
        rig.is_in(other.child_pid(), "one");
        // After a restart of the daemon, and its init deeper still.
        let deep = init_scope.below("deep");
        deep.take_in(first.child_pid());
        assert_eq!(hold_again(&marks, LONG).unwrap().unwrap().marks(), &marks);
        outside.take_in(first.child_pid());
        assert!(hold_again(&marks, LONG).unwrap_err().0.contains("has left the cgroup"));
        drop((other, first));
    });
}

#[test]
fn the_innermost_of_nested_instances_has_it_and_the_outer_ones_own_are_not_in_doubt() {
    with_cgroup2(|| {
        let own = Cgroup::new();
        let within = own.below("inner");
        let aside = Cgroup::new();
        let rig = Rig::new();
        let outer = own.run("unshare --user --map-root-user --pid --fork cat");
        aside.take_in(outer.pid());
        let enter = format!("nsenter -t {} --user --pid", outer.child_pid());
        let inner = within.run(&format!("{enter} unshare --pid --fork cat"));
        let unshare = tests::child_of(inner.pid()).unwrap();
        let inmost = tests::child_of(unshare).unwrap();
        aside.take_in(inner.pid());
        own.take_in(unshare);
        rig.attach("outer", outer.child_pid());
        assert_eq!(rig.of(inmost), Ok(Some("outer".into())), "not attached itself");
        rig.attach("inner", inmost);
        rig.is_in(inmost, "inner");
        rig.is_in(outer.child_pid(), "outer");
        rig.is_in(unshare, "outer");
        // Out of the inner one's cgroup but in its namespaces: neither.
        own.take_in(inmost);
        rig.is_doubtful(inmost, "it is in the pid namespace");
        drop((inner, outer));
    });
}

#[test]
fn what_cannot_be_told_apart_is_not_attached_twice() {
    let rig = Rig::new();
    let first = Cat::run(&["unshare", "--pid", "--fork", "cat"]);
    rig.attach("one", first.child_pid());
    let again = hold(first.child_pid()).unwrap();
    assert_eq!(rig.registry.attach(named("two"), again), Err(AttachError::SamePlace(named("one"))));
    let other = Cat::run(&["unshare", "--pid", "--fork", "cat"]);
    let taken = rig.registry.attach(named("one"), hold(other.child_pid()).unwrap());
    assert_eq!(taken, Err(AttachError::IdTaken("one".into())));
    assert_eq!(rig.registry.list().len(), 1);
    rig.registry.clear();
    assert!(rig.registry.list().is_empty() && !rig.registry.any());
    rig.is_outside(first.child_pid());
}

#[test]
fn what_cannot_be_told_from_the_host_is_not_held() {
    let refusal = |pid: u32| hold(pid).unwrap_err().0;
    let host = Cat::run(&["unshare", "--mount", "cat"]);
    assert!(refusal(host.pid()).contains("host's own pid and user namespaces"));
    assert!(refusal(std::process::id()).contains("host's own"));
    // A uid that made its namespace enters it at will.
    let own = Cat::run(&["setpriv", "--reuid=61234", "--regid=61235", "--clear-groups", "unshare", "--user", "cat"]);
    let unmapped = refusal(own.pid());
    assert!(unmapped.contains("uid 61234 made its user namespace"), "{unmapped}");
    let unmapped = Cat::run(&["unshare", "--user", "cat"]);
    assert!(refusal(unmapped.pid()).contains("it is empty; it was not written yet"));
    for (nobody, why) in [(0, "gone"), (u32::MAX, "gone"), (4_194_304, "gone")] {
        assert!(refusal(nobody).contains(why), "{}", refusal(nobody));
    }
    let mut child = Command::new("unshare").args(["--pid", "--fork", "true"]).spawn().unwrap();
    child.wait().unwrap();
    let gone = refusal(child.id());
    assert!(gone.contains("gone"), "{gone}");
    let (tell, tid) = std::sync::mpsc::channel();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        tell.send(nix::unistd::gettid().as_raw()).unwrap();
        let _ = stopped.recv();
    });
    let threads = refusal(tid.recv().unwrap().try_into().unwrap());
    assert!(threads.contains("one of its threads"), "{threads}");
    drop(stop);
    thread.join().unwrap();
}

#[test]
fn the_maps_are_those_of_its_user_namespace() {
    let mapped = Cat::run(&["unshare", "--user", "--map-root-user", "cat"]);
    let marks = hold(mapped.pid()).unwrap().marks().clone();
    assert_eq!((marks.maps.uid.to_outside(0), marks.maps.uid.to_outside(1)), (Some(0), None));
    let none = Cat::run(&["unshare", "--pid", "--fork", "cat"]);
    let held = hold(none.child_pid()).unwrap();
    assert_eq!(held.marks().maps, crate::model::IdMaps::identity());
    assert!(held.user_ns().is_none());
}

#[test]
fn after_a_restart_only_the_same_one_is_held_again() {
    let first = Cat::run(&["unshare", "--user", "--map-root-user", "--pid", "--fork", "cat"]);
    let marks = hold(first.child_pid()).unwrap().marks().clone();
    assert_eq!(hold_again(&marks, LONG).unwrap().unwrap().marks(), &marks);
    let refused = |change: &dyn Fn(&mut Marks)| {
        let mut other = marks.clone();
        change(&mut other);
        hold_again(&other, LONG).unwrap_err().0
    };
    assert!(refused(&|m| m.boot = "another".into()).contains("booted"));
    assert!(refused(&|m| m.start += 1).contains("another one"));
    assert!(refused(&|m| m.pid_ns.ino += 1).contains("another pid namespace"));
    assert!(refused(&|m| m.user_ns.ino += 1).contains("another user namespace"));
    assert!(refused(&|m| m.maps = crate::model::IdMaps::identity()).contains("another map"));
    assert!(refused(&|m| m.cgroup = Some("/elsewhere".into())).contains("has left the cgroup"));
    drop(first);
    assert!(hold_again(&marks, LONG).unwrap_err().0.contains("gone"));
}

#[test]
fn who_has_gone_is_a_doubt_also_when_its_number_is_anothers() {
    let rig = Rig::new();
    let instance = Cat::run(&["unshare", "--user", "--map-root-user", "cat"]);
    rig.attach("one", instance.pid());
    for (which, callers) in rig.callers.iter().enumerate() {
        let mut reused = 0;
        for _ in 0..200 {
            let first = Cat::run(&["cat"]);
            let asked = callers.identify(Uid(0), Gid(0), first.pid());
            asked.pid(); // takes hold of it
            let number = first.pid();
            drop(first);
            assert!(asked.instance().is_err());
            std::fs::write("/proc/sys/kernel/ns_last_pid", (number - 1).to_string()).unwrap();
            let user = format!("nsenter -t {} --user cat", instance.pid());
            let second = Cat::run(&user.split(' ').collect::<Vec<_>>());
            if second.pid() == number {
                reused += 1;
                assert_eq!(callers.identify(Uid(0), Gid(0), number).instance(), Ok(Some(named("one"))));
            }
            assert!(asked.instance().is_err(), "the number is another's now");
            assert!(asked.is_admin().is_err());
            if reused == 3 {
                break;
            }
        }
        assert_eq!(reused, 3, "the kernel gave no number twice ({which})");
    }
}

#[test]
fn an_end_is_noticed_at_once_and_by_many() {
    let rig = Rig::new();
    let watcher = Arc::clone(&rig.registry);
    let (told, gone) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        loop {
            let ids = watcher.wait_gone(Duration::from_secs(60));
            for id in &ids {
                watcher.detach(id);
            }
            if ids.is_empty() || told.send(ids).is_err() {
                return;
            }
        }
    });
    // Attached while it waits already.
    let cats: Vec<Cat> = (0..20).map(|_| Cat::run(&["unshare", "--user", "--map-root-user", "cat"])).collect();
    for (i, cat) in cats.iter().enumerate() {
        rig.attach(&format!("i{i}"), cat.pid());
    }
    let mut left: std::collections::BTreeSet<String> = (0..20).map(|i| format!("i{i}")).collect();
    for cat in cats {
        let began = Instant::now();
        drop(cat);
        for id in gone.recv_timeout(Duration::from_secs(10)).unwrap() {
            assert!(left.remove(&id), "{id} twice");
        }
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    }
    assert!(left.is_empty() && !rig.registry.any());
    rig.registry.wake();
    thread.join().unwrap();
    rig.registry.wake();
    let began = Instant::now();
    assert!(rig.registry.wait_gone(Duration::from_secs(60)).is_empty(), "woken before it waits");
    assert!(rig.registry.wait_gone(Duration::from_millis(30)).is_empty());
    assert!((Duration::from_millis(30)..Duration::from_secs(5)).contains(&began.elapsed()));
}

#[test]
#[ignore = "a measurement: cargo test --release --lib caller::instances::tests::cost -- --ignored --nocapture"]
fn cost() {
    let rig = Rig::new();
    let cats: Vec<Cat> =
        (0..200).map(|_| Cat::run(&["unshare", "--user", "--map-root-user", "--pid", "--fork", "cat"])).collect();
    let began = Instant::now();
    for (i, cat) in cats.iter().enumerate() {
        rig.attach(&format!("i{i}"), cat.child_pid());
    }
    println!("attach: {:?} each", began.elapsed() / 200);
    for (what, pid) in [("inside", cats[77].child_pid()), ("host", std::process::id()), ("nested", 0)] {
        let deeper;
        let pid = if pid == 0 {
            deeper = Cat::run(&[
                "nsenter",
                "-t",
                &cats[78].child_pid().to_string(),
                "--user",
                "--pid",
                "unshare",
                "--user",
                "cat",
            ]);
            tests::child_of(deeper.pid()).unwrap()
        } else {
            pid
        };
        let mut nanos: Vec<u128> = (0..20_000)
            .map(|_| {
                let asked = rig.callers[0].identify(Uid(0), Gid(0), pid);
                let began = Instant::now();
                std::hint::black_box(asked.instance().unwrap());
                began.elapsed().as_nanos()
            })
            .collect();
        nanos.sort_unstable();
        println!("instance() {what}: p50 {} ns, p99 {} ns", nanos[10_000], nanos[19_800]);
    }
}
