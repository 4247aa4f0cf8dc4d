//! Scopes and attached instances on a vault without a mount: containers are real processes in namespaces of their own,
//! made by `unshare`, and what is asked is asked as them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use crate::common::first_of;
use pinfold::access::Denial;
use pinfold::audit::{Log, Settings, WhenFull};
use pinfold::caller::{Callers, Daemon, Instances, Process, Registry};
use pinfold::fs::register::Register;
use pinfold::fs::{Fs, FsError, OpenMode};
use pinfold::model::{Acl, AclEntry, AclTag, Gid, Ino, Kind, Name, Scope, SecretPath, Uid};
use pinfold::seal::Protection;
use pinfold::secret::Secret;
use pinfold::store::Store;
use pinfold::sys::keyctl;
use pinfold::vault::{
    Attach, Attr, Change, Limits, NewNode, Observer, Recovery, Rename, SetAttr, UidMap, UnlockBy, Vault, VaultError,
    XattrMode, create_store,
};
use pinfold::wire::{Actor, Fault, Fsck, Put, Remove, ScopeAdd, ScopeRemove, Serve, Who};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A map as a container with `--uidmap 0:100000:65536` has it.
const SHIFTED: &str = "0 100000 65536";
const SAME: &str = "0 0 4294967295";

/// A container: a process that is the first of a pid namespace, in a user namespace with this map.
struct Container {
    outer: Child,
    init: u32,
}

impl Container {
    fn new(map: &str) -> Self {
        let outer = Command::new("unshare")
            .args(["--user", "--pid", "--fork", "--kill-child", "sleep", "600"])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let init = first_of(outer.id(), "sleep");
        for file in ["uid_map", "gid_map"] {
            std::fs::write(format!("/proc/{init}/{file}"), map).unwrap();
        }
        Container { outer, init }
    }

    /// Ends its first process, and with it all others.
    fn end(&mut self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.init).unwrap());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        let _ = self.outer.wait();
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.end();
    }
}

fn until<T>(mut found: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < end, "not within twenty seconds");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A vault, the filesystem over it, and what it takes to open it anew.
struct Rig {
    identity: Secret,
    recovery: Secret,
    callers: Callers,
    fs: Arc<Fs>,
    logs: u32,
    // Last: what writes there ends before it.
    home: TempDir,
}

fn scope(name: &str) -> Scope {
    Scope::container(name).unwrap()
}

fn name(name: &str) -> Name {
    Name::parse(name.as_bytes()).unwrap()
}

fn path(path: &str) -> SecretPath {
    SecretPath::parse(path).unwrap()
}

fn actor() -> Actor {
    Actor::new(0, 0, i32::try_from(std::process::id()).unwrap())
}

fn limits() -> Limits {
    Limits {
        max_secret_size: 1 << 16,
        max_secrets: 200,
        max_instances: std::env::var("INSTANCES").ok().and_then(|n| n.parse().ok()).unwrap_or(4),
        keep_versions: 5,
        allow_reveal: false,
        mountpoint: "/nowhere".into(),
        operator_gid: None,
    }
}

fn open(home: &Path, log: u32) -> (Callers, Arc<Fs>) {
    let settings = Settings {
        path: home.join(format!("audit-{log}.log")),
        max_size: 1 << 24,
        when_full: WhenFull::Refuse,
        space: None,
    };
    let registry = Arc::new(Registry::default());
    let callers = Callers::with_instances(Arc::clone(&registry) as Arc<dyn Instances>).unwrap();
    let log = Log::open(settings, None).unwrap();
    let vault = Vault::new(Store::open(&home.join("store")).unwrap(), log, callers.clone(), limits());
    (callers, Arc::new(Fs::new(Arc::new(vault.with_instances(registry)), Register::new().unwrap())))
}

impl Rig {
    fn new() -> Rig {
        assert!(nix::unistd::geteuid().is_root(), "namespaces and admins: run it as root");
        let home = tempfile::tempdir().unwrap();
        let recovery = age::x25519::Identity::generate();
        let recipients = vec![recovery.to_public().to_string()];
        let identity = create_store(&home.path().join("store"), &Protection::Plain, &Recovery { recipients }).unwrap();
        let identity = Secret::copy_of(&identity.unwrap()).unwrap();
        let recovery = {
            use age::secrecy::ExposeSecret;
            Secret::copy_of(recovery.to_string().expose_secret().as_bytes()).unwrap()
        };
        let (callers, fs) = open(home.path(), 0);
        fs.vault().unlock(&Daemon, &UnlockBy::Identity(&identity)).unwrap();
        Rig { home, identity, recovery, callers, fs, logs: 0 }
    }

    /// The end of the daemon and its next start, locked.
    fn restart(self) -> Rig {
        let Rig { home, identity, recovery, fs, logs, .. } = self;
        fs.vault().shutdown();
        drop(Arc::into_inner(fs).expect("nobody else has it"));
        let (callers, fs) = open(home.path(), logs + 1);
        Rig { home, identity, recovery, callers, fs, logs: logs + 1 }
    }

    fn unlock(&self) {
        self.vault().unlock(&Daemon, &UnlockBy::Identity(&self.identity)).unwrap();
    }

    fn vault(&self) -> &Arc<Vault> {
        self.fs.vault()
    }

    fn add(&self, scope: &str, write: bool) {
        self.vault().add_scope(&Daemon, &self::scope(scope), write, UidMap::Auto).unwrap();
    }

    fn put(&self, at: &str, content: &str) {
        let content = Secret::copy_of(content.as_bytes()).unwrap();
        let put = Put { path: path(at), uid: None, gid: None, mode: None, parents: true, content };
        self.vault().serve(&actor(), put).unwrap();
    }

    fn attach(&self, scope: &str, container: &Container, id: &str) -> Result<String, VaultError> {
        let scope = self::scope(scope);
        self.vault().attach(&Daemon, Attach { scope: &scope, pid: container.init, id: Some(id), timeout: None })
    }

    fn ino(&self, at: &str) -> Ino {
        path(at).names().iter().fold(Ino::ROOT, |ino, name| self.vault().lookup(ino, name.as_str()).unwrap().ino)
    }

    fn attr(&self, at: &str) -> Attr {
        self.vault().attr(self.ino(at)).unwrap()
    }

    /// Somebody inside, by the uid he has outside.
    fn inside(&self, container: &Container, uid: u32) -> Process {
        self.callers.identify(Uid(uid), Gid(uid), container.init)
    }

    /// root on the host.
    fn root(&self) -> Process {
        self.callers.identify(Uid(0), Gid(0), std::process::id())
    }

    fn open(&self, caller: &Process, at: &str) -> Result<u64, FsError> {
        let mode = OpenMode { read: true, ..OpenMode::default() };
        self.fs.open(caller, caller.pid(), self.ino(at), mode).map(|opened| opened.number())
    }

    fn read_on(&self, caller: &Process, at: &str, handle: u64) -> Result<String, FsError> {
        let mut text = String::new();
        let into = |bytes: &[u8]| text = String::from_utf8(bytes.to_vec()).unwrap();
        self.fs.read(caller, self.ino(at), handle, (0, 4096), false, into)?;
        Ok(text)
    }

    fn read(&self, caller: &Process, at: &str) -> Result<String, FsError> {
        let handle = self.open(caller, at)?;
        let text = self.read_on(caller, at, handle);
        self.fs.release_reader(handle);
        text
    }

    fn write(&self, caller: &Process, at: &str, content: &str) -> Result<(), FsError> {
        let mode = OpenMode { write: true, truncate: true, ..OpenMode::default() };
        let handle = self.fs.open(caller, 1, self.ino(at), mode)?.number();
        self.fs.write(handle, 0, content.as_bytes(), false, 1)?;
        let flushed = self.fs.flush(handle, 1);
        self.fs.release_writer(handle)?;
        flushed
    }

    fn make(&self, caller: &Process, at: &str, kind: Kind, target: Option<&str>) -> Result<Attr, FsError> {
        let (directory, last) = at.rsplit_once('/').unwrap();
        let parent = self.ino(directory);
        self.fs.make(caller, NewNode { parent, name: &name(last), kind, mode: 0o777, umask: 0o022, target })
    }

    fn rename(&self, caller: &Process, from: &str, to: &str) -> Result<(), FsError> {
        let ((parent, old), (new_parent, new)) = (from.rsplit_once('/').unwrap(), to.rsplit_once('/').unwrap());
        let rename = Rename {
            parent: self.ino(parent),
            name: &name(old),
            new_parent: self.ino(new_parent),
            new_name: &name(new),
            replace: true,
        };
        self.fs.rename(caller, rename)
    }

    fn serial(&self, id: &str) -> keyctl::KeyId {
        let all = self.vault().instances().unwrap();
        keyctl::KeyId(all.iter().find(|i| i.record.id.id == id).unwrap().serial.unwrap())
    }

    fn state(&self, id: &str) -> Option<String> {
        let all = self.vault().serve(&actor(), pinfold::wire::Instances {}).unwrap().instances;
        all.into_iter().find(|i| i.id == id).map(|i| i.state)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.home.path().join(format!("audit-{}.log", self.logs))).unwrap()
    }
}

fn denial<T: std::fmt::Debug>(result: Result<T, FsError>) -> Denial {
    match result {
        Err(FsError::Vault(VaultError::Denied(denial))) => denial,
        other => panic!("no denial: {other:?}"),
    }
}

#[test]
fn each_container_reads_its_own_and_nobody_else_does() {
    let rig = Rig::new();
    let (web, db, stranger) = (Container::new(SAME), Container::new(SHIFTED), Container::new(SAME));
    for scope in ["web", "db"] {
        rig.add(scope, false);
        rig.put(&format!("containers/{scope}/pin"), &format!("of {scope}"));
    }
    rig.put("pin", "of the host");
    assert_eq!(denial(rig.open(&rig.inside(&web, 0), "containers/web/pin")), Denial::OutsideScope, "not attached yet");
    rig.attach("web", &web, "own-web").unwrap();
    rig.attach("db", &db, "own-db").unwrap();
    let (in_web, in_db) = (rig.inside(&web, 0), rig.inside(&db, 100_000));
    assert_eq!(rig.read(&in_web, "containers/web/pin").unwrap(), "of web");
    assert_eq!(rig.read(&in_db, "containers/db/pin").unwrap(), "of db");
    // Owned by 0 inside: the other container's 0 is another one, and so is the same uid of the host.
    assert!(matches!(denial(rig.open(&in_db, "containers/web/pin")), Denial::NotAllowed(_)));
    assert!(matches!(denial(rig.open(&in_web, "containers/db/pin")), Denial::NotAllowed(_)));
    assert_eq!(denial(rig.open(&rig.inside(&web, 100_000), "containers/db/pin")), Denial::OutsideScope);
    assert_eq!(denial(rig.open(&rig.root(), "containers/web/pin")), Denial::OutsideScope);
    assert_eq!(denial(rig.open(&rig.inside(&stranger, 0), "containers/web/pin")), Denial::OutsideScope);
    assert_eq!(rig.read(&rig.root(), "pin").unwrap(), "of the host");
    let log = rig.log();
    assert!(log.contains("\"op\":\"attach\"") && log.contains("own-web: process"), "{log}");
    assert!(log.contains("\"container\":\"own-web\""), "{log}");
    let who = rig.vault().serve(&actor(), Who { path: path("containers/web/pin"), recent: None, since: None });
    let who = who.unwrap();
    assert!(who.rules.iter().any(|r| r.who == "instance own-web" && r.allowed), "{:?}", who.rules);
    assert!(who.rules.iter().any(|r| r.who == "uid 0 inside"), "{:?}", who.rules);
}

#[test]
fn what_is_cut_off_cannot_be_opened_nor_read_on_and_the_others_go_on() {
    let rig = Rig::new();
    let (detached, revoked, alive) = (Container::new(SAME), Container::new(SAME), Container::new(SAME));
    rig.add("cut", false);
    rig.put("containers/cut/pin", "x");
    for (container, id) in [(&detached, "cut-d"), (&revoked, "cut-r"), (&alive, "cut-a")] {
        rig.attach("cut", container, id).unwrap();
    }
    let at = "containers/cut/pin";
    let people = [&detached, &revoked, &alive].map(|container| rig.inside(container, 0));
    let handles: Vec<u64> = people.iter().map(|who| rig.open(who, at).unwrap()).collect();
    rig.vault().detach(&Daemon, "cut-d").unwrap();
    keyctl::revoke(rig.serial("cut-r")).unwrap();
    for (who, handle) in people.iter().zip(&handles).take(2) {
        assert_eq!(denial(rig.read_on(who, at, *handle)), Denial::KeyRevoked);
        assert_eq!(denial(rig.open(who, at)), Denial::KeyRevoked);
    }
    assert_eq!(rig.read_on(&people[2], at, handles[2]).unwrap(), "x");
    assert_eq!(rig.read(&people[2], at).unwrap(), "x");
    assert_eq!(rig.state("cut-d").as_deref(), Some("revoked"));
    assert_eq!(rig.state("cut-r").as_deref(), Some("revoked"), "it was noted when it was seen");
    assert!(matches!(rig.vault().detach(&Daemon, "cut-d"), Err(VaultError::NothingToDo(_))));
    assert!(matches!(rig.vault().detach(&Daemon, "nobody"), Err(VaultError::NotFound)));
    // Attached anew it reads again, but not through a handle of before.
    rig.attach("cut", &detached, "cut-d").unwrap();
    assert_eq!(rig.read(&people[0], at).unwrap(), "x");
    assert_eq!(denial(rig.read_on(&people[0], at, handles[0])), Denial::KeyRevoked);
    rig.attach("cut", &revoked, "cut-r2").unwrap();
    assert_eq!(rig.state("cut-r"), None, "one that is dead makes way for the same container");
    assert_eq!(rig.read(&people[1], at).unwrap(), "x");
    assert!(matches!(rig.attach("cut", &alive, "cut-other"), Err(VaultError::Invalid(_))), "the same twice");
    assert!(matches!(rig.attach("cut", &detached, "cut-a"), Err(VaultError::Invalid(_))), "an id twice");
}

#[test]
fn who_revokes_the_scopes_own_key_revokes_it_for_all_until_the_next_unlock() {
    let rig = Rig::new();
    let container = Container::new(SAME);
    rig.add("whole", false);
    rig.put("containers/whole/pin", "x");
    rig.attach("whole", &container, "whole-1").unwrap();
    let status = rig.vault().serve(&actor(), pinfold::wire::GetStatus {}).unwrap();
    let scope = status.scopes.iter().find(|s| s.name == "whole").unwrap();
    assert_eq!((scope.key.as_str(), scope.instances), ("alive", 1));
    keyctl::revoke(keyctl::KeyId(scope.serial)).unwrap();
    rig.vault().look_after_keys();
    let who = rig.inside(&container, 0);
    assert_eq!(denial(rig.open(&who, "containers/whole/pin")), Denial::KeyRevoked);
    assert_eq!(rig.state("whole-1").as_deref(), Some("revoked"));
    let rig = rig.restart();
    rig.unlock();
    let who = rig.inside(&container, 0);
    assert_eq!(denial(rig.open(&who, "containers/whole/pin")), Denial::KeyRevoked, "a restart does not undo it");
    let other = Container::new(SAME);
    assert!(matches!(rig.attach("whole", &other, "whole-2"), Err(VaultError::Denied(Denial::KeyRevoked))));
    rig.put("pin", "y");
    rig.unlock();
    assert_eq!(rig.read(&who, "containers/whole/pin").unwrap(), "x", "an unlock does");
    rig.attach("whole", &other, "whole-2").unwrap();
}

/// What it costs: run it with `--release -- --ignored --nocapture cost`.
#[test]
#[ignore = "a measurement"]
fn cost() {
    let rig = Rig::new();
    rig.add("cost", false);
    rig.put("containers/cost/pin", "0123456789");
    rig.put("pin", "0123456789");
    let many: usize = std::env::var("INSTANCES").ok().and_then(|n| n.parse().ok()).unwrap_or(4);
    let containers: Vec<Container> = (0..many).map(|_| Container::new(SHIFTED)).collect();
    let median = |mut times: Vec<Duration>| {
        times.sort();
        times[times.len() / 2]
    };
    let rss = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        status.lines().find(|l| l.starts_with("VmRSS")).unwrap().to_owned()
    };
    println!("before: {}", rss());
    let timed = |f: &mut dyn FnMut()| {
        let begun = Instant::now();
        f();
        begun.elapsed()
    };
    let attached = containers
        .iter()
        .enumerate()
        .map(|(i, container)| timed(&mut || drop(rig.attach("cost", container, &format!("cost-{i}")).unwrap())));
    println!("attach, p50 of {many}: {:?}", median(attached.collect()));
    println!("after: {}", rss());
    let (host, inside) = (std::process::id(), containers[0].init);
    for round in 0..3 {
        let open = |uid, pid, at: &str| {
            let ino = rig.ino(at);
            let one = || {
                let who = rig.callers.identify(Uid(uid), Gid(uid), pid);
                let mode = OpenMode { read: true, ..OpenMode::default() };
                let handle = rig.fs.open(&who, pid, ino, mode).unwrap().number();
                rig.fs.read(&who, ino, handle, (0, 64), false, |_| {}).unwrap();
                rig.fs.release_reader(handle);
            };
            median((0..5000).map(|_| timed(&mut || one())).collect())
        };
        let (a, b) = (open(0, host, "pin"), open(100_000, inside, "containers/cost/pin"));
        println!("round {round}: open and read on the host {a:?}, inside {b:?}");
    }
}

#[test]
fn time_runs_out() {
    // The kernel counts whole seconds, so one may be over at once; on a busy machine the open below must come first.
    const PLENTY: Duration = Duration::from_secs(4);
    let rig = Rig::new();
    let container = Container::new(SAME);
    rig.add("timed", false);
    rig.put("containers/timed/pin", "x");
    let scope = scope("timed");
    let attach = Attach { scope: &scope, pid: container.init, id: None, timeout: Some(PLENTY) };
    assert!(matches!(
        rig.vault().attach(&Daemon, Attach { timeout: Some(Duration::ZERO), ..attach }),
        Err(VaultError::Invalid(_))
    ));
    let id = rig.vault().attach(&Daemon, attach).unwrap();
    assert_eq!(id, format!("timed-{}", container.init));
    let who = rig.inside(&container, 0);
    let handle = rig.open(&who, "containers/timed/pin").unwrap();
    until(|| rig.read_on(&who, "containers/timed/pin", handle).is_err().then_some(()));
    assert_eq!(denial(rig.read_on(&who, "containers/timed/pin", handle)), Denial::KeyExpired);
    assert_eq!(denial(rig.open(&who, "containers/timed/pin")), Denial::KeyExpired);
    rig.vault().look_after_keys();
    assert_eq!(denial(rig.open(&who, "containers/timed/pin")), Denial::KeyExpired, "also when it was noted");
    // Refusals reach the log by a queue of their own.
    until(|| rig.log().contains("has run out").then_some(()));
    let rig = rig.restart();
    rig.unlock();
    assert_eq!(denial(rig.open(&rig.inside(&container, 0), "containers/timed/pin")), Denial::KeyExpired);
}

/// The kernel judges by the owners that show: were they plain again at once, it would say EACCES, and not that the time is over.
#[test]
fn owners_show_as_they_did_to_whoever_is_cut_off_as_long_as_it_runs() {
    let rig = Rig::new();
    rig.add("cut", false);
    rig.put("containers/cut/pin", "x");
    let (mut first, other) = (Container::new(SHIFTED), Container::new("0 200000 65536"));
    let scope = scope("cut");
    let attach = Attach { scope: &scope, pid: first.init, id: Some("timed"), timeout: Some(Duration::from_secs(1)) };
    rig.vault().attach(&Daemon, attach).unwrap();
    assert_eq!(rig.attr("containers/cut/pin").uid, 100_000);
    let who = rig.inside(&first, 100_000);
    until(|| {
        let opened = rig.open(&who, "containers/cut/pin");
        matches!(opened, Err(FsError::Vault(VaultError::Denied(Denial::KeyExpired)))).then_some(())
    });
    rig.vault().look_after_keys();
    assert_eq!(rig.attr("containers/cut/pin").uid, 100_000, "also when it was noted");
    rig.attach("cut", &other, "other").unwrap();
    assert_eq!(rig.attr("containers/cut/pin").uid, 200_000, "whoever may open comes first");
    rig.vault().detach(&Daemon, "other").unwrap();
    assert_eq!(rig.attr("containers/cut/pin").uid, 200_000);
    first.end();
    drop(other);
    until(|| {
        rig.vault().detach_ended(Duration::from_millis(100));
        (rig.attr("containers/cut/pin").uid == 0).then_some(())
    });
}

#[test]
fn owners_are_kept_as_seen_inside_whatever_the_map() {
    let rig = Rig::new();
    rig.add("ids", false);
    rig.put("containers/ids/pin", "x");
    rig.put("containers/ids/app", "y");
    let chown = |at: &str, uid: u32| {
        let set = SetAttr { uid: Some(Uid(uid)), gid: Some(Gid(uid)), ..SetAttr::default() };
        rig.vault().set_attr(&rig.root(), rig.ino(at), set).unwrap()
    };
    chown("containers/ids/app", 999);
    assert_eq!((rig.attr("containers/ids/pin").uid, rig.attr("containers/ids/app").uid), (0, 999));
    let mut shifted = Container::new(SHIFTED);
    rig.attach("ids", &shifted, "ids-1").unwrap();
    assert_eq!((rig.attr("containers/ids/pin").uid, rig.attr("containers/ids/app").uid), (100_000, 100_999));
    assert_eq!(rig.attr("containers/ids").uid, 100_000);
    assert_eq!(rig.read(&rig.inside(&shifted, 100_999), "containers/ids/app").unwrap(), "y");
    assert!(matches!(denial(rig.open(&rig.inside(&shifted, 999), "containers/ids/app")), Denial::NotAllowed(_)));
    // What an admin names is taken as it is inside, unless it is one of the container's outside.
    assert_eq!(chown("containers/ids/app", 7).uid, 100_007);
    assert_eq!(chown("containers/ids/app", 100_999).uid, 100_999);
    assert_eq!(chown("containers/ids/pin", 70_000).uid, 65_534, "nobody outside has it");
    assert!(matches!(denial(rig.open(&rig.inside(&shifted, 65_534), "containers/ids/pin")), Denial::NotAllowed(_)));
    chown("containers/ids/pin", 0);
    let entry = |tag, perm| AclEntry { tag, perm };
    let list = |uid: u32| {
        let named = [(AclTag::UserObj, 6), (AclTag::User(Uid(uid)), 4), (AclTag::GroupObj, 0), (AclTag::Mask, 4)];
        let all = named.into_iter().chain([(AclTag::Other, 0)]).map(|(t, p)| entry(t, p));
        Acl::from_entries(all.collect()).unwrap().to_xattr()
    };
    let acl = "system.posix_acl_access";
    let pin = rig.ino("containers/ids/pin");
    rig.vault().set_xattr(&rig.root(), pin, acl, &list(33), XattrMode::Set).unwrap();
    assert_eq!(rig.vault().get_xattr(pin, acl).unwrap(), list(100_033));
    assert_eq!(rig.read(&rig.inside(&shifted, 100_033), "containers/ids/pin").unwrap(), "x");
    // Another map beside it cannot be; one after it shows other owners.
    let other = Container::new("0 300000 1000");
    let refused = rig.attach("ids", &other, "ids-2").unwrap_err().to_string();
    assert!(refused.contains("another map") && refused.contains("ids-1"), "{refused}");
    shifted.end();
    rig.vault().detach_ended(Duration::from_secs(10));
    assert_eq!(rig.attr("containers/ids/app").uid, 999);
    rig.attach("ids", &other, "ids-2").unwrap();
    assert_eq!(rig.attr("containers/ids/app").uid, 300_999);
    assert_eq!(rig.vault().get_xattr(pin, acl).unwrap(), list(300_033));
    // Declared with the host's ids, maps do not matter.
    rig.vault().add_scope(&Daemon, &scope("hostids"), false, UidMap::Host).unwrap();
    rig.put("containers/hostids/pin", "z");
    chown("containers/hostids/pin", 300_000);
    let also = Container::new("0 500000 1000");
    rig.vault().detach(&Daemon, "ids-2").unwrap();
    rig.attach("hostids", &other, "hostids-1").unwrap();
    rig.attach("hostids", &also, "hostids-2").unwrap();
    assert_eq!(rig.attr("containers/hostids/pin").uid, 300_000);
    assert_eq!(rig.read(&rig.inside(&other, 300_000), "containers/hostids/pin").unwrap(), "z");
}

#[test]
fn a_restart_takes_up_what_is_still_there() {
    let rig = Rig::new();
    let (web, mut gone, cut) = (Container::new(SHIFTED), Container::new(SHIFTED), Container::new(SHIFTED));
    rig.add("again", false);
    rig.put("containers/again/pin", "x");
    for (container, id) in [(&web, "again-w"), (&gone, "again-g"), (&cut, "again-c")] {
        rig.attach("again", container, id).unwrap();
    }
    // Revoked in the kernel, seen by the daemon: a restart does not undo it.
    keyctl::revoke(rig.serial("again-c")).unwrap();
    rig.vault().look_after_keys();
    let rig = rig.restart();
    gone.end();
    assert!(matches!(rig.attach("again", &web, "again-x"), Err(VaultError::Locked)));
    rig.unlock();
    let at = "containers/again/pin";
    assert_eq!(rig.read(&rig.inside(&web, 100_000), at).unwrap(), "x");
    assert_eq!(rig.attr(at).uid, 100_000);
    assert_eq!(denial(rig.open(&rig.inside(&cut, 100_000), at)), Denial::KeyRevoked);
    assert_eq!(
        (rig.state("again-w").as_deref(), rig.state("again-g"), rig.state("again-c").as_deref()),
        (Some("alive"), None, Some("revoked"))
    );
    assert!(rig.log().contains("again-g: "), "its end is in the log: {}", rig.log());
    // A lock takes all entries away; the unlock brings them back.
    let serial = rig.serial("again-w");
    rig.vault().lock(&Daemon).unwrap();
    rig.fs.forget_all();
    assert!(keyctl::read(serial, &mut [0; 64]).is_err(), "the entry is gone with the lock");
    rig.unlock();
    assert_eq!(rig.read(&rig.inside(&web, 100_000), at).unwrap(), "x");
    assert_ne!(rig.serial("again-w"), serial);
}

/// What the kernel would be told.
#[derive(Default)]
struct Told(Mutex<Vec<Change>>);

impl Observer for Told {
    fn changed(&self, change: Change) {
        self.0.lock().unwrap().push(change);
    }
    fn settle(&self, _: Duration) -> bool {
        true
    }
    fn open_handles(&self) -> u64 {
        0
    }
    fn waiting(&self) -> u64 {
        0
    }
}

#[test]
fn what_the_kernel_keeps_of_the_cut_off_is_to_go_and_of_nobody_else() {
    let rig = Rig::new();
    let (cut, other) = (Container::new(SHIFTED), Container::new(SHIFTED));
    rig.add("pages", false);
    rig.put("containers/pages/mapped", "x");
    rig.put("containers/pages/read", "y");
    let told = Arc::new(Told::default());
    rig.vault().observe(Arc::clone(&told) as Arc<dyn Observer>);
    rig.attach("pages", &cut, "pages-c").unwrap();
    let shown = told.0.lock().unwrap().drain(..).collect::<Vec<_>>();
    let nodes = shown.iter().find_map(|c| if let Change::Nodes(nodes) = c { Some(nodes.clone()) } else { None });
    let mut nodes = nodes.expect("owners show otherwise now");
    nodes.sort();
    let mut all = ["containers/pages", "containers/pages/mapped", "containers/pages/read"].map(|at| rig.ino(at));
    all.sort();
    assert_eq!(nodes, all);
    rig.attach("pages", &other, "pages-o").unwrap();
    assert!(told.0.lock().unwrap().is_empty(), "the same map shows the same owners");
    let (in_cut, in_other) = (rig.inside(&cut, 100_000), rig.inside(&other, 100_000));
    for (who, at, filling) in [
        (&in_cut, "containers/pages/mapped", true),
        (&in_cut, "containers/pages/read", false),
        (&in_other, "containers/pages/read", true),
    ] {
        let handle = rig.open(who, at).unwrap();
        rig.fs.read(who, rig.ino(at), handle, (0, 9), filling, |_| {}).unwrap();
    }
    keyctl::revoke(rig.serial("pages-c")).unwrap();
    rig.vault().look_after_keys();
    let gone = told.0.lock().unwrap().iter().find_map(|c| if let Change::CutOff(ino) = c { Some(*ino) } else { None });
    assert_eq!(rig.fs.mapped_by(gone.expect("it was cut off")), [rig.ino("containers/pages/mapped").into()]);
}

#[test]
fn a_backup_holds_scopes_and_their_keys() {
    let rig = Rig::new();
    let container = Container::new(SAME);
    rig.add("saved", false);
    rig.put("containers/saved/pin", "x");
    rig.attach("saved", &container, "saved-1").unwrap();
    let mut tar = Vec::new();
    pinfold::wire::Admin::backup(&**rig.vault(), &actor(), &mut tar).unwrap();
    rig.put("containers/saved/pin", "later");
    let store = rig.home.path().join("store");
    let rig = {
        let Rig { home, identity, recovery, fs, logs, .. } = rig;
        fs.vault().shutdown();
        drop(Arc::into_inner(fs).expect("nobody else has it"));
        std::fs::remove_dir_all(&store).unwrap();
        pinfold::store::restore(&store, &mut tar.as_slice(), pinfold::store::Existing::Refuse).unwrap();
        let (callers, fs) = open(home.path(), logs + 1);
        Rig { home, identity, recovery, callers, fs, logs: logs + 1 }
    };
    rig.unlock();
    assert_eq!(rig.read(&rig.inside(&container, 0), "containers/saved/pin").unwrap(), "x");
    let report = rig.vault().serve(&actor(), Fsck { open: true }).unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
}

#[test]
fn the_end_of_the_first_process_detaches() {
    let rig = Rig::new();
    let mut container = Container::new(SAME);
    rig.add("ends", false);
    rig.attach("ends", &container, "ends-1").unwrap();
    let serial = rig.serial("ends-1");
    let began = Instant::now();
    let vault = Arc::clone(rig.vault());
    let waiting = std::thread::spawn(move || vault.detach_ended(Duration::from_secs(60)));
    container.end();
    waiting.join().unwrap();
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(rig.state("ends-1"), None);
    assert!(keyctl::read(serial, &mut [0; 64]).is_err());
    assert!(rig.log().contains("its first process has ended"), "{}", rig.log());
}

#[test]
fn inside_only_what_was_declared_writable_changes_and_nothing_leads_out() {
    let rig = Rig::new();
    let (ro, rw) = (Container::new(SHIFTED), Container::new(SHIFTED));
    rig.add("ro", false);
    rig.add("rw", true);
    for scope in ["ro", "rw"] {
        rig.put(&format!("containers/{scope}/pin"), "old");
        rig.put(&format!("containers/{scope}/sub/deep/pin"), "old");
    }
    rig.attach("ro", &ro, "ro-1").unwrap();
    rig.attach("rw", &rw, "rw-1").unwrap();
    let (in_ro, in_rw) = (rig.inside(&ro, 100_000), rig.inside(&rw, 100_000));
    assert_eq!(denial(rig.write(&in_ro, "containers/ro/pin", "new")), Denial::ReadOnlyScope);
    assert_eq!(denial(rig.make(&in_ro, "containers/ro/new", Kind::File, None)), Denial::ReadOnlyScope);
    assert_eq!(denial(rig.fs.unlink(&in_ro, rig.ino("containers/ro"), &name("pin"))), Denial::ReadOnlyScope);
    assert_eq!(denial(rig.make(&in_rw, "containers/ro/new", Kind::File, None)), Denial::OutsideScope);
    rig.write(&in_rw, "containers/rw/pin", "new").unwrap();
    assert_eq!(rig.read(&in_rw, "containers/rw/pin").unwrap(), "new");
    assert_eq!(rig.make(&in_rw, "containers/rw/made", Kind::File, None).unwrap().uid, 100_000);
    // Its root gives files away and sets their modes, and reads them by their mode alone.
    let set = |set: SetAttr| rig.fs.set_attr(&in_rw, 1, rig.ino("containers/rw/pin"), set);
    assert_eq!(set(SetAttr { uid: Some(Uid(100_999)), ..SetAttr::default() }).unwrap().attr.uid, 100_999);
    set(SetAttr { mode: Some(0o600), ..SetAttr::default() }).unwrap();
    assert!(matches!(denial(rig.open(&in_rw, "containers/rw/pin")), Denial::NotAllowed(_)));
    assert_eq!(rig.read(&rig.inside(&rw, 100_999), "containers/rw/pin").unwrap(), "new");
    let conditions =
        rig.fs.set_xattr(&in_rw, rig.ino("containers/rw/made"), "user.pinfold.unit", b"a.service", XattrMode::Set);
    assert_eq!(denial(conditions), Denial::NotAdmin);
    // Links.
    let link = |at: &str, to: &str| rig.make(&in_rw, at, Kind::Symlink, Some(to));
    let no = |result: Result<Attr, FsError>| {
        assert!(matches!(result, Err(FsError::Vault(VaultError::NotPermitted(_)))), "{result:?}");
    };
    for bad in ["/etc/shadow", "..", "../ro/pin", "sub/../../ro", "sub/..", "./../x"] {
        no(link("containers/rw/link", bad));
    }
    link("containers/rw/link", "sub/./deep//pin").unwrap();
    // The folders were made by an admin, and are 0755 of inside 0.
    link("containers/rw/sub/deep/up", "../../pin").unwrap();
    no(link("containers/rw/sub/deep/out", "../../../pin"));
    let moved = |from: &str, to: &str| rig.rename(&in_rw, from, to);
    let refused = |result: Result<(), FsError>| {
        assert!(matches!(result, Err(FsError::Vault(VaultError::NotPermitted(_)))), "{result:?}");
    };
    refused(moved("containers/rw/sub/deep/up", "containers/rw/up"));
    refused(moved("containers/rw/sub/deep", "containers/rw/deep"));
    moved("containers/rw/link", "containers/rw/link2").unwrap();
    // Scopes and folders stay apart, for admins too.
    let root = rig.root();
    let cross = rig.rename(&root, "containers/rw/made", "containers/ro/made");
    assert!(matches!(cross, Err(FsError::Vault(VaultError::CrossScope))), "{cross:?}");
    refused(rig.rename(&root, "containers/rw", "containers/other"));
    rig.put("x/y", "z");
    refused(rig.rename(&root, "containers/rw", "x/rw"));
    refused(rig.rename(&root, "x/y", "containers/y"));
    refused(rig.fs.rmdir(&root, rig.ino("containers"), &name("rw")).map(drop));
    let remove = Remove { path: path("containers/rw"), purge: false, recursive: true };
    assert!(matches!(rig.vault().serve(&actor(), remove), Err(Fault::Refused(_))));
    assert_eq!(rig.read(&rig.inside(&rw, 100_999), "containers/rw/pin").unwrap(), "new", "nothing went");
    // A writer that was cut off commits nothing.
    let mode = OpenMode { write: true, ..OpenMode::default() };
    let made = rig.ino("containers/rw/made");
    let handle = rig.fs.open(&in_rw, 1, made, mode).unwrap().number();
    rig.fs.write(handle, 0, b"late", false, 1).unwrap();
    rig.vault().detach(&Daemon, "rw-1").unwrap();
    assert_eq!(denial(rig.fs.flush(handle, 1)), Denial::KeyRevoked);
    let _ = rig.fs.release_writer(handle);
    assert_eq!(rig.attr("containers/rw/made").size, 0);
}

#[test]
fn a_scope_goes_with_all_that_is_in_it_and_only_when_that_is_meant() {
    let mut rig = Rig::new();
    let container = Container::new(SAME);
    let vault = |rig: &Rig| Arc::clone(rig.vault());
    let add =
        |rig: &Rig, name: &str| vault(rig).serve(&actor(), ScopeAdd { name: name.into(), write: None, uid_map: None });
    let rm = |rig: &Rig, purge| vault(rig).serve(&actor(), ScopeRemove { name: "go".into(), purge: Some(purge) });
    assert!(matches!(rm(&rig, false), Err(Fault::NotFound(_))));
    assert!(matches!(add(&rig, "host"), Err(Fault::Usage(_))));
    add(&rig, "go").unwrap();
    add(&rig, "stay").unwrap();
    assert!(matches!(add(&rig, "go"), Err(Fault::Refused(_))));
    rm(&rig, false).unwrap();
    add(&rig, "go").unwrap();
    rig.put("containers/go/a/pin", "1");
    rig.put("containers/go/a/pin", "2");
    rig.put("containers/stay/pin", "kept");
    rig.attach("go", &container, "go-1").unwrap();
    assert!(matches!(rm(&rig, true), Err(Fault::Refused(why)) if why.contains("go-1")));
    rig.vault().detach(&Daemon, "go-1").unwrap();
    assert!(matches!(rm(&rig, false), Err(Fault::Refused(why)) if why.contains("--purge")));
    let remove = Remove { path: path("containers/go/a"), purge: false, recursive: true };
    rig.vault().serve(&actor(), remove).unwrap();
    assert!(matches!(rm(&rig, false), Err(Fault::Refused(why)) if why.contains("kept in it")));
    rig.put("containers/go/b", "3");
    rig = rig.restart();
    rig.unlock();
    let removed = rm(&rig, true).unwrap();
    assert_eq!((removed.nodes, removed.purged), (2, 3), "b and the folder; two versions of a/pin, one of b");
    assert!(rig.vault().lookup(rig.ino("containers"), "go").is_err());
    let report = rig.vault().serve(&actor(), Fsck { open: true }).unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    add(&rig, "go").unwrap();
    rig.put("containers/go/b", "4");
    rig = rig.restart();
    rig.unlock();
    let names: Vec<_> = rig.vault().declared_scopes().unwrap().iter().map(|s| s.record.scope.to_string()).collect();
    assert_eq!(names, ["go", "stay"]);
    rig.attach("go", &container, "go-1").unwrap();
    assert_eq!(rig.read(&rig.inside(&container, 0), "containers/go/b").unwrap(), "4");
}

#[test]
fn recovery_opens_containers_secrets_and_their_keys_are_sealed_anew() {
    let rig = Rig::new();
    let container = Container::new(SAME);
    rig.add("rec", false);
    rig.put("containers/rec/pin", "x");
    let second = age::x25519::Identity::generate();
    rig.vault()
        .serve(&actor(), pinfold::wire::RecoveryAdd { recipient: second.to_public().to_string(), only: false })
        .unwrap();
    let first = rig.vault().serve(&actor(), pinfold::wire::RecoveryList {}).unwrap().recipients.remove(0);
    rig.put("containers/rec/later", "y");
    let second = {
        use age::secrecy::ExposeSecret;
        Secret::copy_of(second.to_string().expose_secret().as_bytes()).unwrap()
    };
    let rig = rig.restart();
    rig.vault().unlock(&Daemon, &UnlockBy::Identity(&rig.recovery)).unwrap();
    rig.vault().serve(&actor(), pinfold::wire::RecoveryRemove { recipient: first }).unwrap();
    let rig = rig.restart();
    assert!(rig.vault().unlock(&Daemon, &UnlockBy::Identity(&rig.recovery)).is_err());
    rig.vault().unlock(&Daemon, &UnlockBy::Identity(&second)).unwrap();
    rig.attach("rec", &container, "rec-1").unwrap();
    for (at, content) in [("containers/rec/pin", "x"), ("containers/rec/later", "y")] {
        assert_eq!(rig.read(&rig.inside(&container, 0), at).unwrap(), content);
    }
}

#[test]
fn what_is_bounded() {
    let rig = Rig::new();
    rig.add("full", true);
    let containers: Vec<Container> = (0..5).map(|_| Container::new(SAME)).collect();
    for (i, container) in containers.iter().take(4).enumerate() {
        rig.attach("full", container, &format!("full-{i}")).unwrap();
    }
    assert!(matches!(rig.attach("full", &containers[4], "full-4"), Err(VaultError::NoSpace(_))));
    for bad in ["", "a b", "a/b", &"x".repeat(129)] {
        assert!(matches!(rig.attach("full", &containers[4], bad), Err(VaultError::Invalid(_))), "{bad}");
    }
    assert!(matches!(rig.attach("nothing", &containers[4], "full-5"), Err(VaultError::NotFound)));
    let own = Attach { scope: &scope("full"), pid: std::process::id(), id: None, timeout: None };
    assert!(matches!(rig.vault().attach(&Daemon, own), Err(VaultError::Invalid(_))), "a process of the host");
    // Those inside have a tenth of all there may be, whoever they are; an admin is not bound by that.
    let inside = rig.inside(&containers[0], 0);
    let made =
        (0..).take_while(|i| rig.make(&inside, &format!("containers/full/{i}"), Kind::File, None).is_ok()).count();
    assert_eq!(made, 19, "a tenth of 200, less the folder");
    rig.make(&rig.root(), "containers/full/admin", Kind::File, None).unwrap();
}
