//! Keys on request, with the kernel's own upcall: request-key(8) of this machine starts the helper, in the initial
//! namespaces, so this runs here and not in the lab. One rule in /etc/request-key.d while it runs, and a daemon.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use crate::common::{first_of, unshared_uid};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const BINARY: &str = env!("CARGO_BIN_EXE_pinfold");

/// There is one rule for `pinfold:*` on a machine: whose turn it is, here and in another run of these tests.
const TURN: &str = "/run/pinfold-test-request-key";

/// A daemon that serves and is unlocked, and the rule that leads to it.
pub(crate) struct World {
    pub home: tempfile::TempDir,
    rule: PathBuf,
    daemon: Child,
    _turn: nix::fcntl::Flock<std::fs::File>,
}

impl World {
    fn start() -> Self {
        Self::with_helper(|home| format!("{BINARY} --config {} upcall", home.join("pinfold.toml").display()))
    }

    /// With a program of its own in the place of ours, which the kernel starts and which gets the key's number.
    pub fn with_helper(helper: impl FnOnce(&Path) -> String) -> Self {
        let turn = std::fs::File::create(TURN).unwrap();
        let turn = nix::fcntl::Flock::lock(turn, nix::fcntl::FlockArg::LockExclusive).map_err(|(_, e)| e).unwrap();
        let home = tempfile::tempdir().unwrap();
        std::fs::set_permissions(home.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let at = |name: &str| home.path().join(name);
        std::fs::create_dir(at("secrets")).unwrap();
        std::fs::create_dir(at("run")).unwrap();
        let config = format!(
            "store = {:?}\nmountpoint = {:?}\ncontrol = {:?}\naudit_log = {:?}\n[limits]\nupcalls = 1\n[unlock]\nkeyfile = {:?}\n",
            at("store"),
            at("secrets"),
            at("run/control.sock"),
            at("audit.log"),
            at("keyfile")
        );
        std::fs::write(at("pinfold.toml"), config).unwrap();
        let run = |args: &[&str]| {
            let output = Command::new(BINARY).arg("--config").arg(at("pinfold.toml")).args(args).output().unwrap();
            assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        };
        let (keyfile, recovery) = (at("keyfile"), at("recovery.key"));
        run(&["init", "--keyfile", keyfile.to_str().unwrap(), "--recovery-out", recovery.to_str().unwrap()]);
        let log = std::fs::File::create(at("daemon.log")).unwrap();
        let daemon = Command::new(BINARY)
            .arg("--config")
            .arg(at("pinfold.toml"))
            .arg("mount")
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let rule = PathBuf::from(format!("/etc/request-key.d/pinfold-test-{}.conf", std::process::id()));
        let shipped = include_str!("../mount-helpers/request-key.d/pinfold.conf");
        std::fs::write(&rule, shipped.replace("/usr/bin/pinfold upcall", &helper(home.path()))).unwrap();
        let world = World { home, rule, daemon, _turn: turn };
        world.until("it serves", || {
            let status = world.cli(&["status", "--json"]);
            status.status.success() && String::from_utf8_lossy(&status.stdout).contains("\"locked\": false")
        });
        world
    }

    pub fn cli(&self, args: &[&str]) -> Output {
        let config = self.home.path().join("pinfold.toml");
        Command::new(BINARY).arg("--config").arg(config).args(args).stdin(Stdio::null()).output().unwrap()
    }

    #[track_caller]
    pub fn put(&self, path: &str, uid: u32, content: &str) {
        let config = self.home.path().join("pinfold.toml");
        let uid = uid.to_string();
        let mut child = Command::new(BINARY)
            .arg("--config")
            .arg(config)
            .args(["put", "-p", path, "-o", &uid, "-g", &uid, "-m", "0400"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(content.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
    }

    #[track_caller]
    pub fn until(&self, what: &str, happened: impl Fn() -> bool) {
        let begun = Instant::now();
        while !happened() {
            let log = std::fs::read_to_string(self.home.path().join("daemon.log")).unwrap();
            assert!(begun.elapsed() < Duration::from_secs(20), "{what}: {log}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn audit(&self) -> Vec<serde_json::Value> {
        crate::common::audit_lines(&self.home.path().join("audit.log"))
    }

    #[track_caller]
    pub fn recorded(&self, decision: &str, uid: u32, path: &str) {
        self.until(&format!("{decision} {uid} {path}"), || {
            self.audit()
                .iter()
                .any(|e| e["op"] == "open" && e["decision"] == decision && e["uid"] == uid && e["path"] == path)
        });
    }

    fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(self.daemon.id().cast_signed());
        nix::sys::signal::kill(pid, signal).unwrap();
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.rule);
        self.signal(nix::sys::signal::Signal::SIGCONT);
        self.signal(nix::sys::signal::Signal::SIGTERM);
        let _ = self.daemon.wait();
        // Closed underneath, on purpose.
        let _ = Command::new("chattr").arg("-i").arg(self.home.path().join("secrets")).status();
    }
}

/// A script as a uid with a session keyring of its own: what it says, and whether it succeeded.
pub(crate) fn by(uid: u32, script: &str) -> (bool, String) {
    let ids = [format!("--reuid={uid}"), format!("--regid={uid}"), "--clear-groups".into()];
    told(Command::new("setpriv").args(ids), script)
}

fn told(command: &mut Command, script: &str) -> (bool, String) {
    let out = command.args(["keyctl", "session", "-", "sh", "-c", script]).output().unwrap();
    let told = if out.status.success() { &out.stdout } else { &out.stderr };
    (out.status.success(), String::from_utf8_lossy(told).trim().to_owned())
}

pub(crate) fn request(path: &str) -> String {
    format!("k=$(keyctl request2 user 'pinfold:{path}' '' @s) && keyctl pipe $k")
}

/// One test: there is one rule for `pinfold:*` on a machine.
#[test]
fn who_may_read_gets_the_key_he_asks_for_and_nobody_else() {
    assert!(nix::unistd::geteuid().is_root(), "this test needs root");
    let world = World::start();
    let (uid, other) = (unshared_uid(401), unshared_uid(402));
    world.put("svc/pin", uid, "1234");
    assert_eq!(by(uid, &request("svc/pin")), (true, "1234".into()));
    world.recorded("allowed", uid, "svc/pin");
    let line = world.audit().into_iter().find(|e| e["op"] == "open" && e["uid"] == uid).unwrap();
    assert!(line["exe"].as_str().unwrap().ends_with("keyctl"), "the true one who asked: {line}");
    let through = line["through"].as_str().unwrap();
    assert!(through.starts_with("pid ") && through.ends_with(&format!(" uid 0 {BINARY}")), "and who helped: {line}");

    // What it may be used for, and for how long.
    let (ok, said) = by(uid, &format!("{}; keyctl update $k x 2>&1; keyctl rdescribe $k", request("svc/pin")));
    assert!(
        ok && said.contains("Permission denied") && said.contains(&format!("user;{uid};{uid};0b010000;")),
        "{said}"
    );
    let expiry = format!("{}; grep pinfold:svc/pin /proc/keys", request("svc/pin"));
    let (_, said) = by(uid, &expiry);
    let left: Vec<&str> = said.lines().last().unwrap().split_whitespace().collect();
    assert!(left[3].ends_with('s') || left[3] == "1m", "{left:?}");

    // Another, root, what is not there, what is no path: all hear the same.
    for (who, path) in [(other, "svc/pin"), (0, "svc/pin"), (uid, "svc/none"), (uid, "../x"), (uid, "")] {
        let (ok, said) = by(who, &request(path));
        assert!(!ok && said.contains("Required key not available"), "{who} {path}: {said}");
    }
    world.recorded("denied", other, "svc/pin");
    world.recorded("denied", 0, "svc/pin");
    // A refusal is remembered for a second, not for a minute.
    let twice = format!("{}; sleep 2.2; {}", request("svc/pin"), request("svc/pin"));
    let change = world.home.path().join("secrets/svc/pin");
    let helper = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(700));
        Command::new("chown").arg(other.to_string()).arg(change).status().unwrap()
    });
    let (ok, said) = by(other, &twice);
    assert!(helper.join().unwrap().success());
    assert_eq!((ok, said.as_str()), (true, "1234"));

    // Root's own word for who waits is not taken, but by our own helper.
    let mut stream = UnixStream::connect(world.home.path().join("run/control.sock")).unwrap();
    let call = format!(
        r#"{{"method":"org.pinfold.KeyRequest","parameters":{{"path":"svc/pin","tid":{},"key":1,"auth":2}}}}"#,
        std::process::id()
    );
    stream.write_all(call.as_bytes()).unwrap();
    stream.write_all(&[0]).unwrap();
    let mut reply = [0; 4096];
    let n = stream.read(&mut reply).unwrap();
    let reply = String::from_utf8_lossy(&reply[..n]);
    assert!(reply.contains("org.pinfold.Refused") && reply.contains("the kernel started"), "{reply}");
    assert!(!world.cli(&["upcall", "123456"]).status.success());

    inside_a_container(&world);

    // A daemon that does not answer holds nobody for longer than five seconds.
    world.signal(nix::sys::signal::Signal::SIGSTOP);
    let begun = Instant::now();
    let waiting: Vec<_> = (0..12).map(|_| std::thread::spawn(move || by(uid, &request("svc/pin")))).collect();
    for waiting in waiting {
        assert!(!waiting.join().unwrap().0);
    }
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
    world.signal(nix::sys::signal::Signal::SIGCONT);
    world.until("it answers again", || by(other, &request("svc/pin")).0);

    a_uid_has_its_share(&world, uid, other);
}

/// Those that piled up are answered side by side, and each takes a while: what is beyond the share is refused, and on record.
fn a_uid_has_its_share(world: &World, uid: u32, other: u32) {
    let template = world.home.path().join("slow");
    let loops =
        "{% for a in range(200) %}{% for b in range(200) %}{% if a == b + 999 %}x{% endif %}{% endfor %}{% endfor %}";
    std::fs::write(&template, format!("{loops}{{{{ secret('svc/pin') }}}}")).unwrap();
    let template = template.to_str().unwrap();
    let added =
        world.cli(&["view", "add", "--yes", "svc/slow", "template", template, "-o", &uid.to_string(), "-m", "0400"]);
    assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
    assert_eq!(by(uid, &request("svc/slow")), (true, "1234".into()));

    world.signal(nix::sys::signal::Signal::SIGSTOP);
    let waiting: Vec<_> = (0..12).map(|_| std::thread::spawn(move || by(uid, &request("svc/slow")).0)).collect();
    let socket = world.home.path().join("run/control.sock");
    // The others wait to be let into the queue.
    world.until("some of them wait", || waiting_at(&socket) >= 8);
    world.signal(nix::sys::signal::Signal::SIGCONT);
    let given = waiting.into_iter().map(|waiting| waiting.join().unwrap()).filter(|given| *given).count();
    assert!((1..12).contains(&given), "{given} of 12");
    let limit = "the limit of keys being made is reached (upcalls: 1 for one user)";
    world.until("a refusal that names the limit", || {
        world
            .audit()
            .iter()
            .any(|line| line["uid"] == uid && line["reason"].as_str().is_some_and(|r| r.contains(limit)))
    });
    assert!(by(other, &request("svc/pin")).0);
    world.until("his share comes back", || by(uid, &request("svc/slow")).0);
}

/// How many have connected to a socket and are not accepted yet: each has an end there beside the one that listens.
fn waiting_at(socket: &Path) -> usize {
    let sockets = std::fs::read_to_string("/proc/net/unix").unwrap();
    sockets.lines().filter(|line| line.ends_with(socket.to_str().unwrap())).count().saturating_sub(1)
}

fn inside_a_container(world: &World) {
    assert!(world.cli(&["scope", "add", "web"]).status.success());
    world.put("containers/web/pin", 999, "inside");
    let mut outer =
        Command::new("unshare").args(["--user", "--pid", "--fork", "--kill-child", "sleep", "1000"]).spawn().unwrap();
    let init = first_of(outer.id(), "sleep").to_string();
    for map in ["uid_map", "gid_map"] {
        std::fs::write(format!("/proc/{init}/{map}"), "0 3300000 65536").unwrap();
    }
    let attached = world.cli(&["attach", "web", "--pid", &init, "--id", "one"]);
    assert!(attached.status.success(), "{}", String::from_utf8_lossy(&attached.stderr));
    let inside = |uid: u32| {
        let mut command = Command::new("nsenter");
        command.args([
            &format!("--target={init}"),
            "--user",
            "--pid",
            &format!("--setuid={uid}"),
            &format!("--setgid={uid}"),
        ]);
        command
    };
    assert_eq!(told(&mut inside(999), &request("pin")), (true, "inside".into()));
    assert!(!told(&mut inside(998), &request("pin")).0);
    assert!(!told(&mut inside(999), &request("svc/pin")).0, "a path of the host");
    assert!(!by(3_300_999, &request("containers/web/pin")).0, "outside");
    world.recorded("allowed", 3_300_999, "containers/web/pin");
    outer.kill().unwrap();
    outer.wait().unwrap();
}
