//! Unattended: a real Mandos server and mandos-client, a real Tang server and clevis, systemd's agents and credentials
//! unlock the store, each in a race with programs that misbehave.
//!
//! Owns the servers it starts, on loopback, and ends them by their own process ids.

mod common;

use common::{Daemon, Setup, daemon, sh, wait_for};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// Wrong, deaf, flooding, and silent.
const BAD: [(&str, &str); 4] = [
    ("wrong", "printf 'not the passphrase'"),
    ("hangs", "trap '' TERM; while :; do sleep 1000; done"),
    ("floods", "cat /dev/zero"),
    ("silent", "exit 0"),
];

/// A folder of programs, and what else a machine needs beside its store.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        common::in_the_lab();
        let place = Place(tempfile::Builder::new().prefix("unlock-").tempdir().expect("a folder"));
        std::fs::set_permissions(place.0.path(), PermissionsExt::from_mode(0o755)).expect("it is ours");
        std::fs::create_dir(place.path("unlock.d")).expect("it is new");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn with_bad_ones(self) -> Self {
        for (name, script) in BAD {
            self.program(name, &format!("#!/bin/sh\n{script}\n"));
        }
        self
    }

    fn program(&self, name: &str, text: &str) {
        let path = self.path("unlock.d").join(name);
        std::fs::write(&path, text).expect("a program");
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).expect("it is ours");
    }

    /// One of those that pinfold ships.
    fn shipped(&self, name: &str) {
        let text = std::fs::read_to_string(format!("/src/mount-helpers/unlock.d/{name}")).expect("it is in the tree");
        self.program(name, &text);
    }

    /// A store that unlocks by what is here, and nothing else.
    fn daemon(&self, more: &str) -> Daemon {
        let config = format!("[unlock]\nask_password = false\nprograms = [{:?}]\n{more}", self.path("unlock.d"));
        Daemon::initialised(Setup { config, unlock: false, ..Setup::default() })
    }
}

/// A process of ours that ends with the test.
struct Server(Child);

impl Server {
    fn start(program: &str, args: &[&str]) -> Self {
        let child = Command::new(program).args(args).stdin(Stdio::null()).spawn();
        Server(child.unwrap_or_else(|e| panic!("{program}: {e}")))
    }

    /// Waits until something listens there.
    fn listening(self, port: u16) -> Self {
        wait_for(&format!("a server on port {port}"), PATIENCE, || {
            std::net::TcpStream::connect(("127.0.0.1", port)).ok()
        });
        self
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        daemon::signal(self.0.id(), libc::SIGTERM);
        let _ = common::process::wait(&mut self.0, Duration::from_secs(5));
    }
}

/// A Mandos server that serves one client's passphrase. Its clients.conf is where `folder` says.
fn mandos(folder: &Path, port: u16) -> Server {
    let state = tempfile::Builder::new().prefix("mandos-").tempdir().expect("a folder").keep();
    sh(&format!("chown _mandos {}", state.display())).ok();
    let args = [
        "--foreground",
        "--no-zeroconf",
        "--no-dbus",
        "--no-ipv6",
        "--no-restore",
        "--address=127.0.0.1",
        &format!("--port={port}"),
        &format!("--configdir={}", folder.display()),
        &format!("--statedir={}", state.display()),
    ];
    Server::start("/usr/sbin/mandos", &args).listening(port)
}

/// The section of clients.conf that mandos-keygen makes for a passphrase.
fn clients_conf(passphrase: &Path) -> String {
    let made = sh(&format!("mandos-keygen --name client --passfile {}", passphrase.display())).ok();
    format!("{}checker = true\n", made.text())
}

/// The client's keys, readable by whom programs run as and by nobody else.
fn client_keys(place: &Place) -> String {
    let keys = place.path("mandos-keys");
    sh(&format!(
        "set -e; install -d -m 1777 /run/tmp; install -d -o 65534 -m 0500 {0}
         for f in pubkey.txt seckey.txt tls-pubkey.pem tls-privkey.pem; do
             install -o 65534 -m 0400 /etc/keys/mandos/$f {0}; done",
        keys.display()
    ))
    .ok();
    keys.display().to_string()
}

fn await_unlocked(daemon: &Daemon) {
    wait_for("the unlock", PATIENCE, || {
        (daemon.json(&["status", "--json"])["locked"] == Value::Bool(false)).then_some(())
    });
}

/// Who unlocked it, by the log.
fn winner(daemon: &Daemon) -> String {
    let event = daemon.await_audit("unlock", |e| e["op"] == "unlock" && e["decision"] == "allowed");
    event["reason"].as_str().expect("the method's name").to_owned()
}

fn nothing_is_left(place: &Place) {
    let folder = place.path("unlock.d");
    wait_for("the end of every program", Duration::from_secs(10), || {
        (sh(&format!("pgrep -f {}", folder.display())).text().lines().count() <= 1).then_some(())
    });
}

#[test]
fn a_real_mandos_server_wins_over_four_that_misbehave() {
    let place = Place::new().with_bad_ones();
    let keys = client_keys(&place);
    // Mandos's own plugin, unchanged, in its folder that is closed to all but root.
    let plugin = sh("ls /usr/lib/*/mandos/plugins.d/mandos-client").quiet();
    std::os::unix::fs::symlink(plugin.trim(), place.path("unlock.d").join("mandos-client")).expect("a link");
    let mut daemon = place.daemon(&format!(
        "[unlock.program.mandos-client]\nargs = [\"--connect=127.0.0.1:4711\", \"--interface=none\", \
         \"--network-hook-dir=/nonexistent\", \"--retry=1\", \"--delay=0.1\", \"--pubkey={keys}/pubkey.txt\", \
         \"--seckey={keys}/seckey.txt\", \"--tls-pubkey={keys}/tls-pubkey.pem\", \"--tls-privkey={keys}/tls-privkey.pem\"]\n"
    ));
    let conf = place.path("server");
    std::fs::create_dir(&conf).expect("it is new");
    std::fs::write(conf.join("clients.conf"), clients_conf(&daemon.file("passphrase"))).expect("its clients");
    daemon.spawn();
    daemon.await_mount();
    daemon.await_audit("wrong answer", |e| {
        e["op"] == "unlock"
            && e["decision"] == "denied"
            && e["reason"].as_str().is_some_and(|r| r.starts_with("wrong: "))
    });
    assert_eq!(daemon.json(&["status", "--json"])["locked"], true);
    // It comes up later than who needs it, as it would after a power cut.
    let _server = mandos(&conf, 4711);
    await_unlocked(&daemon);
    assert_eq!(winner(&daemon), "mandos-client");
    nothing_is_left(&place);
    daemon.stop();
}

#[test]
fn two_machines_unlock_each_other_by_mandos() {
    let machine = |port: u16| {
        let place = Place::new();
        let keys = client_keys(&place);
        place.shipped("mandos");
        // Not in Mandos's closed folder, so that a script can run it.
        sh(&format!("install -m 0755 /usr/lib/*/mandos/plugins.d/mandos-client {}", place.path("client").display()))
            .ok();
        let daemon = place.daemon(&format!(
            "[unlock.program.mandos]\nargs = [\"--keys={keys}\", \"--connect=127.0.0.1:{port}\", \"--retry=1\", \
             \"--delay=0.1\"]\nenv = {{ MANDOS_CLIENT = {:?} }}\n",
            place.path("client")
        ));
        (place, daemon)
    };
    let ((_a_place, mut a), (_b_place, mut b)) = (machine(4721), machine(4722));
    // Each has the other's passphrase, sealed to the other's Mandos key, in its own tree.
    let enrol = |holder: &Daemon, of: &Daemon| {
        let conf = clients_conf(&of.file("passphrase"));
        holder.cli_with(&["put", "-p", "mandos/clients.conf"], conf.as_bytes()).ok();
        PathBuf::from(holder.path("mandos"))
    };
    a.serve();
    b.serve();
    a.unlock();
    b.unlock();
    let (in_a, in_b) = (enrol(&a, &b), enrol(&b, &a));
    // b restarts: a, which is unlocked, serves it.
    b.stop();
    let serves_b = mandos(&in_a, 4722);
    b.spawn();
    b.await_mount();
    await_unlocked(&b);
    assert_eq!(winner(&b), "mandos");
    drop(serves_b);
    // And the other way round.
    a.stop();
    let _serves_a = mandos(&in_b, 4721);
    a.spawn();
    a.await_mount();
    await_unlocked(&a);
    a.stop();
    b.stop();
}

#[test]
fn a_real_tang_server_wins_over_four_that_misbehave() {
    let place = Place::new().with_bad_ones();
    place.shipped("clevis");
    let (db, jwe) = (place.path("tang"), place.path("store.jwe"));
    sh(&format!("mkdir {0} && /usr/libexec/tangd-keygen {0}", db.display())).ok();
    let mut daemon = place.daemon(&format!("[unlock.program.clevis]\nargs = [{jwe:?}]\n"));
    let tang = || {
        Server::start(
            "/usr/bin/socat",
            &["TCP-LISTEN:4731,bind=127.0.0.1,fork,reuseaddr", &format!("EXEC:/usr/libexec/tangd {}", db.display())],
        )
        .listening(4731)
    };
    let server = tang();
    sh(&format!(
        "clevis encrypt tang '{{\"url\":\"http://127.0.0.1:4731\"}}' -y < {} > {}",
        daemon.file("passphrase").display(),
        jwe.display()
    ))
    .ok();
    daemon.spawn();
    daemon.await_mount();
    await_unlocked(&daemon);
    assert_eq!(winner(&daemon), "clevis");
    nothing_is_left(&place);
    daemon.stop();
    drop(server);
    // Without its server the JWE is worth nothing.
    daemon.spawn();
    daemon.await_mount();
    assert_eq!(daemon.json(&["status", "--json"])["locked"], true);
    daemon.stop();
}

#[test]
fn agents_are_asked_and_an_admin_is_not_kept_waiting() {
    let place = Place::new().with_bad_ones();
    let config = format!("[unlock]\nprograms = [{:?}]\n", place.path("unlock.d"));
    let mut daemon = Daemon::initialised(Setup { config, unlock: false, ..Setup::default() });
    daemon.spawn();
    daemon.await_mount();
    let asked = || sh("cat /run/systemd/ask-password/ask.pinfold* 2>/dev/null").text();
    wait_for("the question", PATIENCE, || asked().contains("[Ask]").then_some(()));
    assert!(asked().contains("Passphrase for the secrets in"), "{}", asked());
    // A wrong one, and a right one, as systemd-tty-ask-password-agent would send them.
    let socket = || asked().lines().find_map(|l| l.strip_prefix("Socket=").map(str::to_owned));
    let first = socket().expect("it says where to answer");
    let answer = |word: &str, to: &str| {
        std::os::unix::net::UnixDatagram::unbound()
            .expect("a socket")
            .send_to(word.as_bytes(), to)
            .expect("it listens");
    };
    answer("+wrong", &first);
    let second = wait_for("the second question", PATIENCE, || socket().filter(|s| *s != first));
    answer("+correct horse battery staple", &second);
    await_unlocked(&daemon);
    assert_eq!(winner(&daemon), "ask-password");
    wait_for("the end of the question", PATIENCE, || asked().is_empty().then_some(()));
    nothing_is_left(&place);
    daemon.lock();
    assert!(asked().is_empty(), "what an admin locked stays locked");
    daemon.stop();
    // Again, and this time somebody types at a terminal while everything else hangs.
    daemon.spawn();
    daemon.await_mount();
    daemon.unlock();
    wait_for("the end of the question", PATIENCE, || asked().is_empty().then_some(()));
    nothing_is_left(&place);
    daemon.stop();
}

#[test]
fn what_systemd_decrypts_for_the_unit_unlocks_the_store() {
    let place = Place::new();
    let daemon = place.daemon("");
    let (config, passphrase) = (daemon.file("pinfold.toml"), daemon.file("passphrase"));
    let sealed = place.path("sealed");
    sh(&format!(
        "systemd-creds --with-key=host --name=pinfold.passphrase encrypt {} {}",
        passphrase.display(),
        sealed.display()
    ))
    .ok();
    let unit = format!("{}.service", place.0.path().file_name().expect("it has a name").display());
    sh(&format!(
        "systemd-run --quiet --unit={unit} --service-type=notify -p NotifyAccess=main -p LimitMEMLOCK=infinity \
         -p LoadCredentialEncrypted=pinfold.passphrase:{} {} --config {} mount",
        sealed.display(),
        daemon::binary().display(),
        config.display()
    ))
    .ok();
    // Ready is unlocked, where the configuration names what answers at once.
    let status = daemon.json(&["status", "--json"]);
    assert_eq!(status["locked"], false, "{}", sh(&format!("journalctl -n 30 -u {unit}")).text());
    assert_eq!(winner(&daemon), "pinfold.passphrase");
    sh(&format!("systemctl stop {unit}")).ok();
}

#[test]
fn after_its_time_the_store_locks_itself() {
    let config = "lock_after = \"2s\"\n[unlock]\nask_password = false\n";
    let daemon = Daemon::with(Setup { config: config.into(), ..Setup::default() });
    let begun = std::time::Instant::now();
    wait_for("the lock", PATIENCE, || (daemon.json(&["status", "--json"])["locked"] == true).then_some(()));
    assert!(begun.elapsed() > Duration::from_secs(1));
    daemon.await_audit("lock", |e| e["op"] == "lock" && e["decision"] == "allowed");
}
