//! Passwords changed on a real sshd and a real PostgreSQL, with the command killed in between; and a real store of pass.
//!
//! Owns the sshd and the server it starts, on loopback, and ends them by their own process ids.

use crate::common;

use common::{Daemon, daemon, sh, wait_for};
use serde_json::Value;
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);
const PORT: u16 = 2224;

/// A process of ours that ends with the test.
struct Server(Child);

impl Server {
    fn start(command: &mut Command, port: u16) -> Self {
        let child = command.stdin(Stdio::null()).spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        wait_for(&format!("a server on port {port}"), PATIENCE, || {
            std::net::TcpStream::connect(("127.0.0.1", port)).ok()
        });
        Server(child)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        daemon::signal(self.0.id(), libc::SIGTERM);
        let _ = common::process::wait(&mut self.0, Duration::from_secs(5));
    }
}

/// sshd with PAM, an account `rotor` with a password, and an admin whose key logs in as root.
struct Machine {
    home: tempfile::TempDir,
    sshd: Option<Server>,
}

impl Machine {
    fn new() -> Machine {
        common::in_the_lab();
        let home = tempfile::Builder::new().prefix("ssh-").tempdir().expect("a folder");
        let dir = home.path().display();
        sh(&format!(
            "set -e; cd {dir}; mkdir -p /run/sshd; chmod 755 .
             ssh-keygen -q -t ed25519 -N '' -f host; ssh-keygen -q -t ed25519 -N '' -f admin
             echo \"[127.0.0.1]:{PORT} $(cut -d' ' -f1,2 host.pub)\" > known_hosts
             useradd -m -s /bin/sh rotor; echo 'rotor:old password' | chpasswd; echo 'root:old of root' | chpasswd
             printf '%s\\n' 'Port {PORT}' 'ListenAddress 127.0.0.1' 'HostKey {dir}/host' 'UsePAM yes' 'PidFile none' \
                 'PasswordAuthentication yes' 'KbdInteractiveAuthentication yes' 'PermitRootLogin prohibit-password' \
                 'AuthorizedKeysFile {dir}/admin.pub' 'StrictModes no' 'MaxStartups 100' > sshd_config
             printf '%s\\n' 'Host ui-*' 'HostName 127.0.0.1' 'Port {PORT}' 'User root' 'IdentityFile {dir}/admin' \
                 'IdentitiesOnly yes' 'UserKnownHostsFile {dir}/known_hosts' > ssh_config"
        ))
        .ok();
        let mut machine = Machine { home, sshd: None };
        machine.up();
        machine
    }

    fn file(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn up(&mut self) {
        let mut command = Command::new("/usr/sbin/sshd");
        command.args(["-D", "-e", "-f"]).arg(self.file("sshd_config")).stderr(Stdio::null());
        self.sshd = Some(Server::start(&mut command, PORT));
    }

    fn down(&mut self) {
        self.sshd = None;
        let gone = || std::net::TcpStream::connect(("127.0.0.1", PORT)).err().map(|_| ());
        wait_for("the port to be closed", PATIENCE, gone);
    }

    fn daemon(&self, more: &str) -> Daemon {
        let config = format!("[passwords]\nssh_config = {:?}\ntimeout = \"20s\"\n{more}", self.file("ssh_config"));
        let daemon = Daemon::configured(&config);
        daemon.cli_with(&["password", "add", "rotor@ui-1"], b"old password\n").ok();
        daemon
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.sshd = None;
        let _ = Command::new("userdel").args(["-rf", "rotor"]).output();
    }
}

/// Whether the password is the one in shadow.
fn takes(user: &str, password: &str) -> bool {
    let script = r#"$h=(getpwnam($ARGV[0]))[1];$_=<STDIN>;chomp;exit(crypt($_,$h) eq $h ? 0 : 1)"#;
    let mut command = Command::new("perl");
    command.args(["-e", script, user]);
    common::process::run(command, format!("{password}\n").as_bytes(), "perl").code == 0
}

/// The password as it is stored: an admin lets root read it, as he might, and looks.
fn stored(daemon: &Daemon, path: &str) -> String {
    let path = daemon.path(&format!("passwords/{path}"));
    sh(&format!("chmod 400 {path} && cat {path} && chmod 0 {path}")).quiet()
}

fn rotation(daemon: &Daemon, name: &str) -> Value {
    daemon.json(&["password", "ls", name, "--json"])[0]["rotation"].clone()
}

/// Collects every argument and environment on the machine while `act` runs.
fn watched<R>(act: impl FnOnce() -> R) -> (R, BTreeSet<Vec<u8>>) {
    let done = Arc::new(AtomicBool::new(false));
    let theirs = Arc::clone(&done);
    let watcher = std::thread::spawn(move || {
        let mut seen = BTreeSet::new();
        while !theirs.load(Ordering::SeqCst) {
            for entry in std::fs::read_dir("/proc").expect("it is mounted").flatten() {
                if entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit) {
                    for file in ["cmdline", "environ"] {
                        seen.extend(std::fs::read(entry.path().join(file)));
                    }
                }
            }
        }
        seen
    });
    let result = act();
    done.store(true, Ordering::SeqCst);
    (result, watcher.join().expect("it only reads"))
}

fn found(seen: &BTreeSet<Vec<u8>>, what: &str) -> bool {
    seen.iter().any(|bytes| bytes.windows(what.len()).any(|w| w == what.as_bytes()))
}

#[test]
fn sshd_takes_the_new_password_and_nobody_saw_it() {
    let machine = Machine::new();
    let daemon = machine.daemon("");
    assert!(takes("rotor", "old password"));
    let (out, seen) = watched(|| daemon.cli(&["password", "rotate", "rotor@ui-*"]));
    assert_eq!(out.ok().text(), "rotated rotor@ui-1:ssh\n");
    let new = stored(&daemon, "ui-1/ssh/rotor");
    assert_eq!(new.len(), 24);
    assert!(takes("rotor", &new) && !takes("rotor", "old password"));
    assert!(found(&seen, "chpasswd") && found(&seen, "PINFOLD_ASKPASS=rotor@127.0.0.1"), "ssh was seen at work");
    assert!(!found(&seen, &new) && !found(&seen, "old password"), "and no password");
    assert_eq!(daemon.json(&["history", "passwords/ui-1/ssh/rotor", "--json"]).as_array().map(Vec::len), Some(2));
}

#[test]
fn a_far_side_that_is_away_is_gone_on_with_when_it_is_back() {
    let mut machine = Machine::new();
    let daemon = machine.daemon("");
    machine.down();
    let out = daemon.cli(&["password", "rotate", "rotor@ui-1"]);
    assert_eq!(out.code, 1);
    assert!(out.text().contains("the old one is valid") && out.text().contains("Connection refused"), "{out:?}");
    assert_eq!(rotation(&daemon, "rotor@ui-1"), "pending");
    machine.up();
    daemon.cli(&["password", "rotate", "--resume", "rotor@ui-1"]).ok();
    assert!(takes("rotor", &stored(&daemon, "ui-1/ssh/rotor")));
}

#[test]
fn over_a_pattern_it_goes_on_after_one_that_fails() {
    let machine = Machine::new();
    let daemon = machine.daemon("");
    // No such account there, and no such host at all.
    daemon.cli_with(&["password", "add", "nobody-there@ui-1"], b"x").ok();
    daemon.cli_with(&["password", "add", "rotor@ux-9"], b"x").ok();
    let out = daemon.cli(&["password", "rotate", "*@u*"]);
    assert_eq!(out.code, 9, "{out:?}");
    let text = out.text();
    assert!(text.contains("rotated rotor@ui-1:ssh"), "{text}");
    assert!(text.contains("failed nobody-there@ui-1:ssh") && text.contains("failed rotor@ux-9:ssh"), "{text}");
    assert_eq!(rotation(&daemon, "rotor@ux-9"), "pending", "it was never reached");
}

#[test]
fn a_password_that_sshd_refuses_is_compared_with_shadow() {
    let machine = Machine::new();
    let daemon = machine.daemon("");
    daemon.cli_with(&["password", "add", "ui-1"], b"old of root").ok();
    // sshd takes no password of root: a login can show neither.
    let out = daemon.cli(&["password", "rotate", "ui-1"]);
    assert_eq!(out.code, 1, "{out:?}");
    assert!(out.text().contains("it refuses both passwords"), "{out:?}");
    assert_eq!(rotation(&daemon, "ui-1"), "changed_unverified");
    let config = daemon.file("pinfold.toml");
    sh(&format!("echo 'ssh_verify = \"shadow\"' >> {}", config.display())).ok();
    daemon.cli(&["password", "rotate", "--resume", "ui-1"]).ok();
    assert!(takes("root", &stored(&daemon, "ui-1/ssh/root")));
    daemon.cli(&["password", "rotate", "ui-1"]).ok();
    assert!(takes("root", &stored(&daemon, "ui-1/ssh/root")));
}

/// Starts a rotation and kills it once the far side has written `mark`.
fn killed_at(daemon: &Daemon, name: &str, mark: &Path) {
    let mut child = Command::new(daemon::binary())
        .arg("--config")
        .arg(daemon.file("pinfold.toml"))
        .args(["password", "rotate", name])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the command starts");
    wait_for(&format!("{}", mark.display()), PATIENCE, || mark.exists().then_some(()));
    child.kill().expect("it is our child");
    child.wait().expect("it is our child");
}

#[test]
fn killed_before_and_after_chpasswd_it_can_be_resumed() {
    let machine = Machine::new();
    let (before, after, go) = (machine.file("before"), machine.file("after"), machine.file("go"));
    let script = machine.file("slow-chpasswd");
    let text = format!(
        "#!/bin/sh\n# Waits to be let go, before and after its work.\n\
         held() {{ [ -e {go} ] || {{ : > \"$1\"; while [ ! -e {go} ] && [ -e \"$1\" ]; do sleep 0.05; done; }}; }}\n\
         [ -e {before}.skip ] || held {before}\n/usr/sbin/chpasswd || exit 1\nheld {after}\n",
        go = go.display(),
        before = before.display(),
        after = after.display()
    );
    std::fs::write(&script, text).expect("it is ours");
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).expect("it is ours");
    let daemon = machine.daemon(&format!("ssh_change = {script:?}\n"));

    // Before the far side did anything; what it was sent ends with its input, unread.
    killed_at(&daemon, "rotor@ui-1", &before);
    assert_eq!(rotation(&daemon, "rotor@ui-1"), "changing");
    assert!(takes("rotor", "old password"));
    sh("pid=$(pgrep -f '^/bin/sh .*slow-chpasswd$' | head -n 1); kill $pid; while kill -0 $pid 2>/dev/null; do sleep 0.02; done").ok();
    sh(&format!("touch {}", go.display())).ok();
    daemon.cli(&["password", "rotate", "--resume", "rotor@ui-1"]).ok();
    let first = stored(&daemon, "ui-1/ssh/rotor");
    assert!(takes("rotor", &first));

    // After it did all of it, and before anybody heard of that.
    sh(&format!("rm -f {} {}; touch {}.skip", go.display(), after.display(), before.display())).ok();
    killed_at(&daemon, "rotor@ui-1", &after);
    assert_eq!(rotation(&daemon, "rotor@ui-1"), "changing");
    assert_eq!(stored(&daemon, "ui-1/ssh/rotor"), first, "the old one is kept until the new one is verified");
    assert!(!takes("rotor", &first));
    sh(&format!("touch {}", go.display())).ok();
    daemon.cli(&["password", "rotate", "--resume", "rotor@ui-1"]).ok();
    assert!(takes("rotor", &stored(&daemon, "ui-1/ssh/rotor")));
}

/// A PostgreSQL of our own with a role `nut`, that logs every statement.
struct Postgres {
    home: tempfile::TempDir,
    _server: Server,
}

const PG_PORT: u16 = 55433;

impl Postgres {
    fn new() -> Postgres {
        common::in_the_lab();
        let home = tempfile::Builder::new().prefix("pg-").tempdir().expect("a folder");
        let dir = home.path().display();
        sh(&format!(
            "set -e; cd {dir}; echo super > super; chown -R postgres .; bin=$(echo /usr/lib/postgresql/*/bin)
             setpriv --reuid=postgres --regid=postgres --init-groups $bin/initdb -D db -A scram-sha-256 --pwfile=super
             printf '%s\\n' \"port = {PG_PORT}\" \"listen_addresses = '127.0.0.1'\" \"unix_socket_directories = '{dir}'\" \
                 \"log_statement = 'all'\" >> db/postgresql.conf
             ln -s $bin/postgres {dir}/postgres"
        ))
        .ok();
        let log = std::fs::File::create(home.path().join("log")).expect("it is ours");
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]).arg(home.path().join("postgres"));
        command.arg("-D").arg(home.path().join("db")).stdout(Stdio::null()).stderr(log);
        let server = Server::start(&mut command, PG_PORT);
        let postgres = Postgres { home, _server: server };
        let made = "create role nut login password 'old password'";
        wait_for("the server to serve", PATIENCE, || {
            let out = sh(&format!("PGPASSWORD=super psql -X -q -h 127.0.0.1 -p {PG_PORT} -U postgres -c \"{made}\""));
            (out.code == 0).then_some(())
        });
        postgres
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.home.path().join("log")).expect("it is ours")
    }

    fn takes(&self, password: &str) -> bool {
        let mut command = Command::new("psql");
        command.args(["-X", "-A", "-t", "-h", "127.0.0.1", "-U", "nut", "-d", "postgres", "-c", "select 1"]);
        command.env("PGPORT", PG_PORT.to_string()).env("PGPASSWORD", password);
        common::process::run(command, b"", "psql").code == 0
    }
}

#[test]
fn postgresql_takes_the_new_password_and_its_log_has_none() {
    let postgres = Postgres::new();
    // Not in the server's folder: whoever owns what is above a program could put another there.
    let folder = tempfile::Builder::new().prefix("pinfold-programs-").tempdir().expect("a folder");
    let programs = folder.path().join("rotate.d");
    sh(&format!(
        "chmod 755 {0} {2}; mkdir -m 755 {1}",
        postgres.home.path().display(),
        programs.display(),
        folder.path().display()
    ))
    .ok();
    let shipped = "/src/mount-helpers/rotate.d/postgresql";
    // The shipped one; with the command killed after its first change, and after its first login.
    let wrapper = |name: &str, verb: &str| {
        let text = format!(
            "#!/bin/sh\n{shipped} \"$@\"; status=$?\nif [ $1 = {verb} ] && [ ! -e $0.done ]; then : > $0.done; kill -9 $PPID; fi\nexit $status\n"
        );
        std::fs::write(programs.join(name), text).expect("it is ours");
        std::fs::set_permissions(programs.join(name), PermissionsExt::from_mode(0o755)).expect("it is ours");
    };
    wrapper("killed-changing", "change");
    wrapper("killed-verifying", "verify");
    let daemon = Daemon::configured(&format!(
        "[passwords]\nprograms = [{programs:?}, \"/src/mount-helpers/rotate.d\"]\ntimeout = \"30s\"\n"
    ));
    let cli = |args: &[&str]| {
        let mut command = Command::new(daemon::binary());
        command.arg("--config").arg(daemon.file("pinfold.toml")).arg("password").args(args);
        command.env("PGPORT", PG_PORT.to_string());
        common::process::run(command, b"", &format!("pinfold password {args:?}"))
    };
    let add = |name: &str, password: &str| {
        daemon.cli_with(&["password", "add", name], password.as_bytes()).ok();
    };
    add("nut@127.0.0.1:postgresql", "old password");
    let (out, seen) = watched(|| cli(&["rotate", "nut@127.0.0.1:*", "--alphabet", "print"]));
    out.ok();
    let new = stored(&daemon, "127.0.0.1/postgresql/nut");
    assert!(postgres.takes(&new) && !postgres.takes("old password"));
    assert!(found(&seen, "psql\0") && !found(&seen, &new) && !found(&seen, "old password"));
    let log = postgres.log();
    assert!(log.contains("ALTER USER nut PASSWORD 'SCRAM-SHA-256$") && !log.contains(&new));

    let mut current = new;
    for (service, state) in [("killed-changing", "changing"), ("killed-verifying", "changed_unverified")] {
        let name = format!("nut@127.0.0.1:{service}");
        add(&name, &current);
        assert_eq!(cli(&["rotate", &name]).code, 128 + 9, "{service}");
        assert_eq!(rotation(&daemon, &name), state);
        assert!(!postgres.takes(&current), "the server has the new one");
        cli(&["rotate", "--resume", &name]).ok();
        current = stored(&daemon, &format!("127.0.0.1/{service}/nut"));
        assert!(postgres.takes(&current), "{service}");
    }

    // A wrong password changes nothing, and a server that asks for none verifies nothing.
    add("nut@127.0.0.1:wrong", "not it");
    sh(&format!("ln -s {shipped} {}", programs.join("wrong").display())).ok();
    let out = cli(&["rotate", "nut@127.0.0.1:wrong"]);
    assert!(
        out.text().contains("the old one is valid") && out.text().contains("password authentication failed"),
        "{out:?}"
    );
    sh(&format!("cd {}; echo 'host all all all trust' > db/pg_hba.conf", postgres.home.path().display())).ok();
    sh(&format!("PGPASSWORD=super psql -X -h 127.0.0.1 -p {PG_PORT} -U postgres -c 'select pg_reload_conf()'")).ok();
    let trusted = wait_for("trust", PATIENCE, || postgres.takes("anything").then_some(true));
    let out = cli(&["rotate", "--resume", "nut@127.0.0.1:wrong"]);
    assert!(trusted && out.code == 1 && out.text().contains("without a password"), "{out:?}");
}

#[test]
fn a_store_of_pass_is_taken_in() {
    common::in_the_lab();
    let home = tempfile::Builder::new().prefix("pass-").tempdir().expect("a folder");
    let dir = home.path().display();
    sh(&format!(
        "set -e; export GNUPGHOME={dir}/gnupg; mkdir -m 700 $GNUPGHOME
         gpg --batch --quiet --passphrase '' --quick-generate-key lab@lab.example default default never
         enc() {{ mkdir -p {dir}/store/$(dirname $1); gpg --batch --quiet -r lab@lab.example -o {dir}/store/$1.gpg -e; }}
         printf 'one\\nurl: x\\n' | enc ui-1; printf 'two' | enc ui-2/admin; printf 'three\\n' | enc ups/upsd/nut
         printf 'four' | enc web/my-bank/a/b; echo damaged > {dir}/store/ui-9.gpg"
    ))
    .ok();
    let daemon = Daemon::start();
    let mut command = Command::new(daemon::binary());
    command.arg("--config").arg(daemon.file("pinfold.toml")).args(["password", "import", "pass"]);
    command.env("GNUPGHOME", home.path().join("gnupg")).env("PASSWORD_STORE_DIR", home.path().join("store"));
    let (out, seen) = watched(|| common::process::run(command, b"", "pinfold password import pass"));
    assert_eq!(out.code, 9, "{out:?}");
    let text = out.text();
    for line in ["imported root@ui-1:ssh (ui-1)", "left out ui-9: gpg cannot", "left out web/my-bank/a/b: it lies too"]
    {
        assert!(text.contains(line), "{line}: {text}");
    }
    for (path, is) in [("ui-1/ssh/root", "one"), ("ui-2/ssh/admin", "two"), ("ups/upsd/nut", "three")] {
        assert_eq!(stored(&daemon, path), is);
    }
    assert!(!found(&seen, "three"));
    sh(&format!("GNUPGHOME={dir}/gnupg gpgconf --kill all")).ok();
}
