//! Unattended: a real Mandos server and mandos-client, a real Tang server and clevis, systemd's agents and credentials
//! unlock the store, each in a race with programs that misbehave.
//!
//! Owns the servers it starts, on loopback, and ends them by their own process ids.

use crate::common;

use common::{Daemon, Setup, daemon, sh, wait_for};
use serde_json::Value;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
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
    // Bound to that server's key, as an admin does it who has looked at the key; the passphrase is one that nobody knows.
    daemon.serve();
    daemon.unlock();
    let thp = sh("tang-show-keys 4731").ok().text();
    let pin = format!("{{\"url\":\"http://127.0.0.1:4731\",\"thp\":\"{}\"}}", thp.trim());
    let old = daemon.file("passphrase").display().to_string();
    let add = ["identity", "add", "tang", "--old-passphrase-file", &old, "--clevis", "tang", &pin, "--out"];
    daemon.cli(&[&add[..], &[jwe.to_str().expect("ASCII")]].concat()).ok();
    assert_eq!(daemon.cli(&["identity", "ls"]).quiet().lines().count(), 2);
    daemon.stop();
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
fn programs_run_below_what_confines_the_unit() {
    let place = Place::new();
    place.program("right", "#!/bin/sh\n[ $(id -u) = 65534 ] && printf 'correct horse battery staple'\n");
    let daemon = place.daemon("");
    let unit = format!("{}.service", place.0.path().file_name().expect("it has a name").display());
    sh(&format!(
        "systemd-run --quiet --unit={unit} --service-type=notify -p NotifyAccess=main -p LimitMEMLOCK=infinity \
         -p NoNewPrivileges=yes -p RestrictNamespaces='cgroup user pid' -p RestrictSUIDSGID=yes -p LockPersonality=yes \
         -p 'CapabilityBoundingSet=CAP_SYS_ADMIN CAP_SYS_PTRACE CAP_SETUID CAP_SETGID CAP_SETPCAP CAP_IPC_LOCK \
             CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_CHOWN CAP_FOWNER CAP_KILL CAP_LINUX_IMMUTABLE' \
         -p 'SystemCallFilter=~@clock @cpu-emulation @debug @module @obsolete @raw-io @reboot @swap' \
         -p SystemCallErrorNumber=EPERM {} --config {} mount",
        daemon::binary().display(),
        daemon.file("pinfold.toml").display()
    ))
    .ok();
    await_unlocked(&daemon);
    assert_eq!(winner(&daemon), "right");
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

#[test]
fn an_age_plugin_unlocks_the_store() {
    let place = Place::new();
    place.shipped("age");
    let plugin = place.path("bin");
    std::fs::create_dir(&plugin).expect("it is new");
    std::fs::write(plugin.join("age-plugin-lab"), PLUGIN).expect("a plugin");
    sh(&format!("chmod 755 {0} {0}/age-plugin-lab", plugin.display())).ok();
    let (recipient, identity) = (bech32("age1lab", b"pinfold"), bech32("age-plugin-lab-", b"pinfold").to_uppercase());
    std::fs::write(place.path("identity.txt"), format!("{identity}\n")).expect("its identity");
    let sealed = place.path("token.age");
    let path = format!("{}:/usr/bin:/bin", plugin.display());
    let mut daemon = place.daemon(&format!(
        "[unlock.program.age]\nargs = [\"--identity={}\", {sealed:?}]\nenv = {{ PATH = {path:?} }}\n",
        place.path("identity.txt").display()
    ));
    daemon.serve();
    daemon.unlock();
    sh(&format!(
        "PATH={path} {} --config {} identity add token --old-passphrase-file {} --plugin {recipient} --out {}",
        daemon::binary().display(),
        daemon.file("pinfold.toml").display(),
        daemon.file("passphrase").display(),
        sealed.display()
    ))
    .ok();
    daemon.stop();
    daemon.spawn();
    daemon.await_mount();
    await_unlocked(&daemon);
    assert_eq!(winner(&daemon), "age");
    daemon.stop();
}

/// An age plugin in small (the age-plugin specification): its stanza is the file key, every bit turned over.
const PLUGIN: &str = r#"#!/usr/bin/python3
import base64, sys
def send(head, body=b""):
    print("-> " + head)
    text = base64.b64encode(body).decode().rstrip("=")
    for at in range(0, len(text) + 1, 64):
        print(text[at:at + 64])
    sys.stdout.flush()
def receive():
    head, text = sys.stdin.readline().split()[1:], ""
    while True:
        line = sys.stdin.readline().rstrip("\n")
        text += line
        if len(line) < 64:
            return head, base64.b64decode(text + "=" * (-len(text) % 4))
keys, stanzas = [], []
while True:
    head, body = receive()
    if head[0] == "done": break
    if head[0] == "wrap-file-key": keys.append(body)
    if head[0] == "recipient-stanza" and head[2] == "lab": stanzas.append((head[1], body))
for n, key in enumerate(keys):
    send("recipient-stanza %d lab" % n, bytes(b ^ 255 for b in key)); receive()
for n, body in stanzas:
    send("file-key " + n, bytes(b ^ 255 for b in body)); receive()
send("done")
"#;

/// BIP 173, as age writes recipients and identities of plugins.
fn bech32(prefix: &str, data: &[u8]) -> String {
    const DIGITS: &[u8; 32] = b"qpzry9x8gf2tvdw0s3jn54khce6mua7l";
    let mut bits: Vec<u8> = data.iter().flat_map(|b| (0..8).rev().map(move |i| b >> i & 1)).collect();
    bits.resize(bits.len().div_ceil(5) * 5, 0);
    let mut words: Vec<u8> = bits.chunks(5).map(|five| five.iter().fold(0, |word, bit| word << 1 | bit)).collect();
    let checked = |values: &[u8]| {
        values.iter().fold(1u32, |sum, value| {
            let (top, sum) = (sum >> 25, (sum & 0x1ff_ffff) << 5 ^ u32::from(*value));
            let steps = [0x3b6a_57b2, 0x2650_8e6d, 0x1ea1_19fa, 0x3d42_33dd, 0x2a14_62b3];
            (0..5).filter(|i| top >> i & 1 == 1).fold(sum, |sum, i| sum ^ steps[i])
        })
    };
    let high = prefix.bytes().map(|b| b >> 5).chain([0]).chain(prefix.bytes().map(|b| b & 31));
    let all: Vec<u8> = high.chain(words.iter().copied()).chain([0; 6]).collect();
    let sum = checked(&all) ^ 1;
    words.extend((0..6).map(|i| (sum >> (5 * (5 - i)) & 31) as u8));
    format!("{prefix}1{}", words.iter().map(|w| char::from(DIGITS[usize::from(*w)])).collect::<String>())
}

/// A passphrase in a file that the command line takes.
fn passphrase(daemon: &Daemon, name: &str) -> String {
    let file = daemon.file(name);
    std::fs::write(&file, format!("passphrase {name}\n")).expect("a passphrase");
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).expect("it is ours");
    file.display().to_string()
}

#[test]
fn another_passphrase_and_a_new_identity_while_the_tree_is_read() {
    let place = Place::new();
    let key = place.path("identity.key");
    let mut daemon = place.daemon(&format!("keyfile = {key:?}\n"));
    daemon.serve();
    daemon.unlock();
    let secret = daemon.path("svc/pin");
    daemon.cli_with(&["put", "-p", "svc/pin"], b"hunter2").ok();
    let old = daemon.file("passphrase").display().to_string();
    let (one, two) = (passphrase(&daemon, "one"), passphrase(&daemon, "two"));
    daemon.cli(&["passwd", "--old-passphrase-file", &two, "--passphrase-file", &one]).refused("does not open");
    daemon.cli(&["passwd", "--old-passphrase-file", &old, "--passphrase-file", &one]).ok();
    daemon.cli(&["rekey", "--old-passphrase-file", &old, "--new-passphrase-file", &two]).refused("does not open");
    let rekeyed = daemon.json(&["rekey", "--old-passphrase-file", &one, "--new-passphrase-file", &two, "--json"]);
    assert_eq!(rekeyed["blobs"], 1);
    assert_eq!(sh(&format!("cat {secret}")).quiet(), "hunter2");
    daemon.lock();
    daemon.cli(&["unlock", "--passphrase-file", &one]).refused("does not open");
    daemon.cli(&["unlock", "--passphrase-file", &two]).ok();
    // To a key file: the daemon unlocks by itself from then on.
    let key = key.display().to_string();
    daemon.cli(&["rekey", "--old-passphrase-file", &two, "--new-keyfile", &key]).refused("main");
    daemon.cli(&["rekey", "--old-passphrase-file", &two, "--new-keyfile", &key]).refused("exists");
    sh(&format!("rm {key}.new")).ok();
    daemon.cli(&["rekey", "--old-passphrase-file", &two, "--new-keyfile", &key, "--drop-others"]).ok();
    assert_eq!(daemon.cli(&["identity", "ls"]).quiet(), "");
    daemon.stop();
    daemon.serve_unlocked();
    assert_eq!(winner(&daemon), "keyfile");
    assert_eq!(sh(&format!("cat {secret}")).quiet(), "hunter2");
    // And back to a passphrase; the key file is worth nothing then.
    daemon.cli(&["rekey", "--old-keyfile", &key, "--new-passphrase-file", &one]).ok();
    daemon.lock();
    daemon.cli(&["unlock", "--keyfile", &key]).refused("not one of the store's");
    daemon.cli(&["unlock", "--passphrase-file", &one]).ok();
    daemon.cli(&["fsck", "--deep"]).ok();
    daemon.stop();
}

#[test]
fn killed_in_the_middle_of_it_the_store_has_the_old_identity_or_the_new() {
    const SECRETS: usize = 300;
    let place = Place::new();
    let mut daemon = place.daemon("");
    daemon.serve();
    daemon.unlock();
    let fill =
        format!("mkdir {0} && cd {0} && for n in $(seq {SECRETS}); do echo content $n > s$n; done", daemon.path("d"));
    sh(&fill).ok();
    let mut current = daemon.file("passphrase").display().to_string();
    let (mut old, mut new) = (0, 0);
    // The new identity's file appears before the first blob is written anew, and takes the old one's place after the last.
    let appears = [0, 5, 20, 50, 100, 200].map(|ms| ("identity-next.age", ms));
    let replaced = [0, 2, 10, 50].map(|ms| ("identity.age", ms));
    for (round, (file, ms)) in appears.into_iter().chain(replaced).enumerate() {
        let next = passphrase(&daemon, &format!("round-{round}"));
        let mut command = Command::new(daemon::binary());
        command.arg("--config").arg(daemon.file("pinfold.toml"));
        command.args(["rekey", "--old-passphrase-file", &current, "--new-passphrase-file", &next]);
        let file = daemon.file("store").join(file);
        let inode = || std::fs::metadata(&file).map(|m| m.ino()).ok();
        let before = inode();
        let mut rekey = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it is started");
        wait_for("the new identity", PATIENCE, || (inode().is_some() && inode() != before).then_some(()));
        // Somewhere on the way: what is tested is that it does not matter where.
        std::thread::sleep(Duration::from_millis(ms));
        daemon.kill9();
        let _ = common::process::wait(&mut rekey, PATIENCE);
        daemon.serve();
        let opens = |file: &str| daemon.cli(&["unlock", "--passphrase-file", file]).code == 0;
        if opens(&next) {
            (current, new) = (next, new + 1);
        } else {
            assert!(opens(&current), "round {round}: neither opens it\n{}", daemon.log());
            old += 1;
        }
        let all = sh(&format!("cd {} && for n in $(seq {SECRETS}); do cat s$n; done", daemon.path("d"))).quiet();
        let expected: String = (1..=SECRETS).map(|n| format!("content {n}\n")).collect();
        assert!(all == expected, "round {round}: something is lost");
        wait_for("the end of clearing away", PATIENCE, || (daemon.cli(&["fsck", "--deep"]).code == 0).then_some(()));
    }
    println!("{old} times the old one, {new} times the new one");
    assert!(old > 0 && new > 0, "the kills were all too early or all too late: {old} and {new}");
    daemon.stop();
}
