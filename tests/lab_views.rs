//! Views through the mount: what the tools they are for make of them, and real services that run on them while their sources
//! are renewed a thousand times.

use crate::common;

use common::{ALICE, Daemon, Out, ROOT, Setup, User, sh, wait_for};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How often the pair is renewed under load.
const ROTATIONS: usize = 1000;
/// How many pairs there are to go round.
const PAIRS: usize = 12;
/// nginx on a view, stunnel on a view, stunnel on a plain file.
const PORTS: [u16; 3] = [8443, 8444, 8445];

/// A CA and pairs of lab.example signed by it, as an admin has them: `ca.pem`, `gN.key`, `gN.pem`.
fn authority(daemon: &Daemon) -> String {
    let from = daemon.file("authority").display().to_string();
    sh(&format!(
        "set -e; mkdir {from}; cd {from}; exec 2>&1
         new() {{ openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out $1.key; }}
         new ca; openssl req -x509 -key ca.key -days 30 -subj '/O=Lab/CN=Lab CA' -out ca.pem
         printf 'subjectAltName=DNS:lab.example\\n' > ext
         for n in $(seq 0 {}); do
             new g$n; openssl req -new -key g$n.key -subj /CN=g$n | openssl x509 -req -CA ca.pem -CAkey ca.key \
                 -CAcreateserial -days 30 -extfile ext -out g$n.pem 2>/dev/null
         done",
        PAIRS - 1
    ))
    .ok();
    from
}

/// A daemon on the usual place, with the first pair enrolled.
fn with_pair() -> (Daemon, String) {
    let daemon = Daemon::with(Setup { mountpoint: Some("/run/secrets".into()), ..Setup::default() });
    let from = authority(&daemon);
    sh(&format!(
        "set -e; cd /run/secrets; mkdir -m 711 tls ca; cp {from}/g0.key tls/key.pem; cp {from}/g0.pem tls/cert.pem
         cp {from}/ca.pem ca/lab.pem"
    ))
    .quiet();
    (daemon, from)
}

#[track_caller]
fn add(daemon: &Daemon, args: &[&str]) -> Out {
    daemon.cli(&[&["view", "add", "--yes"], args].concat()).ok()
}

#[test]
fn the_tools_they_are_for_read_them() {
    let (daemon, from) = with_pair();
    daemon.cli_with(&["put", "tls/password"], b"pass word\n").ok();
    let said = add(&daemon, &["svc/all.pem", "pem", "/run/secrets/tls/key.pem", "tls/cert.pem", "-p", "-o", "alice"]);
    assert!(said.text().contains("tls/key.pem") && said.text().contains("(alice)"), "{}", said.text());
    add(&daemon, &["svc/all.p12", "pkcs12", "tls/key.pem", "tls/cert.pem", "ca/lab.pem", "tls/password"]);
    add(&daemon, &["svc/hashed", "hashdir", "ca/*", "-m", "755"]);
    ALICE.sh("cat /run/secrets/tls/key.pem").refused("Permission denied");
    assert_eq!(ALICE.sh("openssl pkey -in /run/secrets/svc/all.pem -noout && echo ok").quiet(), "ok\n");
    // Each way of reading gives the whole; a size that lies would cut it.
    let ways = [
        "cat all.pem > /tmp/v/x",
        "cp all.pem /tmp/v/x",
        "install all.pem /tmp/v/x",
        "dd if=all.pem of=/tmp/v/x status=none",
        "rsync all.pem /tmp/v/x",
        "tar cf - all.pem | tar xOf - > /tmp/v/x",
    ];
    for way in ways {
        ALICE
            .sh(&format!(
                "set -e; rm -rf /tmp/v; mkdir /tmp/v; cd /run/secrets/svc; {way}; cmp all.pem /tmp/v/x
                 grep -c BEGIN /tmp/v/x > /dev/null; test $(stat -c %s all.pem) = $(stat -c %s /tmp/v/x)"
            ))
            .quiet();
    }
    // NSS takes the PKCS#12, key, chain and all.
    sh("set -e; rm -rf /tmp/nss; mkdir /tmp/nss; printf 'db pin' > /tmp/pin; cat /run/secrets/tls/password > /tmp/pw
        certutil -N -d sql:/tmp/nss -f /tmp/pin; pk12util -i /run/secrets/svc/all.p12 -d sql:/tmp/nss -k /tmp/pin -w /tmp/pw")
    .ok();
    let keys = sh("certutil -K -d sql:/tmp/nss -f /tmp/pin; certutil -L -d sql:/tmp/nss").ok().text();
    assert!(keys.contains("CN=g0") && keys.contains("u,u,u"), "{keys}");
    sh("openssl pkcs12 -in /run/secrets/svc/all.p12 -passin file:/run/secrets/tls/password -nodes -noout").ok();
    // OpenSSL finds the CA by its hash name; openssl rehash would make the same.
    let verify = "openssl verify -CApath /run/secrets/svc/hashed";
    assert!(ALICE.sh(&format!("{verify} {from}/g3.pem")).ok().text().contains("OK"));
    let theirs =
        sh(&format!("mkdir /tmp/h && cp {from}/ca.pem /tmp/h/ && openssl rehash /tmp/h && ls /tmp/h | grep -v pem"))
            .ok();
    assert_eq!(sh("ls /run/secrets/svc/hashed").quiet(), theirs.text());
    // OpenSSH refuses a key file whose size is not what it read.
    sh("ssh-keygen -q -t ed25519 -N '' -f /tmp/host && cp /tmp/host /run/secrets/tls/host").quiet();
    add(&daemon, &["svc/host", "concat", "tls/host"]);
    let public = sh("ssh-keygen -y -f /run/secrets/svc/host").ok().text();
    assert_eq!(public.split(' ').nth(1), sh("cat /tmp/host.pub").text().split(' ').nth(1));
}

#[test]
fn they_are_listed_followed_and_removed() {
    let (daemon, from) = with_pair();
    add(&daemon, &["all.pem", "pem", "tls/key.pem", "tls/cert.pem", "-m", "440"]);
    add(&daemon, &["hashed", "hashdir", "ca/*", "-m", "755"]);
    let views = daemon.json(&["view", "ls", "--json"]);
    assert_eq!(
        (&views[0]["path"], &views[0]["definition"]),
        (&"all.pem".into(), &"pem tls/key.pem tls/cert.pem".into())
    );
    assert!(daemon.cli(&["view", "ls"]).ok().text().contains("hashdir 'ca/*'"));
    // Nothing is asked where nobody can answer; nothing is made with --pretend.
    let asked = daemon.cli(&["view", "add", "w", "concat", "tls/key.pem"]);
    assert_eq!(asked.code, 2, "{}", asked.stderr);
    daemon.cli(&["view", "add", "w", "concat", "tls/key.pem", "--dry-run"]).ok();
    assert_eq!(sh("test -e /run/secrets/w").code, 1);
    // Who watches the file hears of a new version of a source, though nobody touched the file.
    let heard = std::thread::spawn(|| sh("timeout 30 inotifywait -q -e close_write /run/secrets/all.pem; echo $?"));
    wait_for("the watch", Duration::from_secs(10), || {
        sh("for p in $(pgrep -x inotifywait); do grep -qs '^inotify wd' /proc/$p/fdinfo/* && exit 0; done; exit 1")
            .code
            .eq(&0)
            .then_some(())
    });
    sh(&format!("cp {from}/g1.key /run/secrets/tls/key.pem && cp {from}/g1.pem /run/secrets/tls/cert.pem")).quiet();
    assert!(heard.join().expect("a watcher").text().contains("CLOSE_WRITE"));
    sh(&format!("cat {from}/g1.key {from}/g1.pem | cmp - /run/secrets/all.pem")).quiet();
    assert_eq!(
        sh("stat -c %s /run/secrets/all.pem").text(),
        sh(&format!("cat {from}/g1.key {from}/g1.pem | wc -c")).text()
    );
    // Nobody writes to it, whatever the tool; an error says why.
    for writes in
        ["echo x > all.pem", "echo x >> all.pem", "truncate -s 0 all.pem", "cp tls/cert.pem all.pem", "touch hashed/x"]
    {
        sh(&format!("cd /run/secrets; {writes}")).refused("Operation not permitted");
    }
    sh("cd /run/secrets; sed -i s/a/b/ all.pem").refused("Operation not permitted");
    sh("rm /run/secrets/tls/cert.pem; cat /run/secrets/all.pem").refused("No data available");
    assert!(sh("cat /run/secrets/.pinfold/last-error").text().contains("'tls/cert.pem' is not there"));
    sh("cat /run/secrets/hashed/*.0 > /dev/null").quiet();
    sh("rm /run/secrets/all.pem; rmdir /run/secrets/hashed; test ! -e /run/secrets/hashed").quiet();
    assert_eq!(daemon.json(&["view", "ls", "--json"]).as_array().map(Vec::len), Some(0));
}

/// Connects without end over TLS to each port, with certificates checked by a hashed directory; says what became of each connection, until
/// a file appears.
const LOAD: &str = r#"
import os, socket, ssl, sys, threading, time
ports, capath, stop = [int(p) for p in sys.argv[1].split(",")], sys.argv[2], sys.argv[3]
lock = threading.Lock()
def say(*words):
    with lock: print(*words, flush=True)
def load(port):
    while not os.path.exists(stop):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(capath=capath)
        try:
            with socket.create_connection(("127.0.0.1", port), 10) as raw:
                with context.wrap_socket(raw, server_hostname="lab.example") as tls:
                    name = dict(field[0] for field in tls.getpeercert()["subject"])["commonName"]
            say("shown", port, name)
        # stunnel closes its listening socket at a reload; a mixture would be an SSLError.
        except ConnectionRefusedError:
            say("refused", port)
            # Who asks again and again takes the time that it needs to listen again.
            time.sleep(0.005)
        except ConnectionResetError: say("reset", port)
        except Exception as error: say("error", port, type(error).__name__, error)
threads = [threading.Thread(target=load, args=(p,)) for p in ports for _ in range(int(sys.argv[4]))]
[t.start() for t in threads]; [t.join() for t in threads]
"#;

/// How many connect to each port at a time.
const CLIENTS: usize = 2;

/// What the load says, as it says it.
struct Load {
    child: Child,
    lines: mpsc::Receiver<String>,
    /// By what became of it and the port.
    counts: BTreeMap<(String, u16), usize>,
    /// By the port: which generations were shown, and how often.
    shown: BTreeMap<u16, BTreeMap<String, usize>>,
    errors: Vec<String>,
}

impl Load {
    fn begin(ports: &str) -> Self {
        std::fs::write("/tmp/load.py", LOAD).expect("the load");
        let mut child = User::named("nobody")
            .command("/usr/bin/python3")
            .args(["/tmp/load.py", ports, "/run/secrets/svc/hashed", "/tmp/enough", &CLIENTS.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the load");
        let (sender, lines) = mpsc::channel();
        let out = BufReader::new(child.stdout.take().expect("it was asked for"));
        std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Load { child, lines, counts: BTreeMap::new(), shown: BTreeMap::new(), errors: Vec::new() }
    }

    fn note(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let port = words[1].parse().expect("a port");
        *self.counts.entry((words[0].to_owned(), port)).or_default() += 1;
        match words[0] {
            "shown" => *self.shown.entry(port).or_default().entry(words[2].to_owned()).or_default() += 1,
            "error" => self.errors.push(line.to_owned()),
            _ => {}
        }
    }

    fn count(&self, what: &str, port: u16) -> usize {
        self.counts.get(&(what.to_owned(), port)).copied().unwrap_or(0)
    }

    fn times(&self, port: u16, name: &str) -> usize {
        self.shown.get(&port).and_then(|names| names.get(name)).copied().unwrap_or(0)
    }

    /// Waits until each port has shown this generation once more than it had at the `before`.
    #[track_caller]
    fn await_shown(&mut self, name: &str, before: &[(u16, usize)]) {
        let begun = Instant::now();
        while let Some((port, _)) = before.iter().find(|(port, had)| self.times(*port, name) <= *had) {
            let left = Duration::from_secs(60).saturating_sub(begun.elapsed());
            let line = self.lines.recv_timeout(left);
            let line = line.unwrap_or_else(|_| panic!("port {port} does not show {name}: {:?}", self.shown));
            self.note(&line);
        }
    }

    /// Ends it, and has all that it said.
    #[track_caller]
    fn end(&mut self) {
        std::fs::write("/tmp/enough", "").expect("the signal to stop");
        assert_eq!(common::process::wait(&mut self.child, Duration::from_secs(60)), Ok(0), "the load failed");
        while let Ok(line) = self.lines.recv() {
            self.note(&line);
        }
    }
}

/// A stunnel, and what its log says of its reloads. It works off all signals that came before it accepts another connection: signals as
/// fast as they can be sent would keep it from its connections for as long as a reload takes longer than the time between two, on whatever file.
/// So none is sent before the last was answered.
struct Stunnel {
    pid: u32,
    log: BufReader<std::fs::File>,
    asked: usize,
    loaded: usize,
    refused: usize,
}

impl Stunnel {
    fn started(name: &str) -> Self {
        // It goes into the background first, and writes its number then.
        let pid = wait_for("its pid file", Duration::from_secs(60), || {
            std::fs::read_to_string(format!("/run/stunnel-{name}.pid")).ok()?.trim().parse().ok()
        });
        let log = std::fs::File::open(format!("/tmp/stunnel-{name}.log")).expect("its log");
        Stunnel { pid, log: BufReader::new(log), asked: 1, loaded: 0, refused: 0 }
    }

    #[track_caller]
    fn await_reload(&mut self) {
        wait_for("stunnel to reload", Duration::from_secs(60), || {
            let mut more = String::new();
            self.log.read_to_string(&mut more).expect("its log");
            self.loaded += more.matches("Configuration successful").count();
            self.refused += more.matches("Failed to reload the configuration").count();
            (self.loaded + self.refused >= self.asked).then_some(())
        });
    }

    fn hup(&mut self) {
        common::daemon::signal(self.pid, libc::SIGHUP);
        self.asked += 1;
    }
}

/// Medians, in microseconds, of opening, reading and closing each of these, one after the other and again.
const TIMES: &str = r#"
import json, os, sys, time
times = {path: [] for path in sys.argv[1:]}
for _ in range(300):
    for path, all in times.items():
        begun = time.perf_counter()
        with open(path, "rb", buffering=0) as file: file.read()
        all.append(time.perf_counter() - begun)
print(json.dumps([sorted(all)[len(all) // 2] * 1e6 for all in times.values()]))
"#;

#[test]
fn a_thousand_rotations_under_load_mix_no_key_with_another_certificate() {
    let (daemon, from) = with_pair();
    add(&daemon, &["svc/nginx.pem", "pem", "tls/cert.pem", "tls/key.pem", "-p"]);
    add(&daemon, &["svc/stunnel.pem", "pem", "tls/key.pem", "tls/cert.pem", "ca/lab.pem"]);
    add(&daemon, &["svc/hashed", "hashdir", "ca/*", "-m", "755"]);
    std::fs::write(
        "/tmp/nginx.conf",
        "worker_processes 1; pid /run/nginx-views.pid; error_log /tmp/nginx.log info; events {} http { access_log off;
         server { listen 127.0.0.1:8443 ssl; ssl_certificate /run/secrets/svc/nginx.pem;
                  ssl_certificate_key /run/secrets/svc/nginx.pem; location / { return 200; } }
         server { listen 127.0.0.1:8080; location / { return 200; } } }",
    )
    .expect("nginx's configuration");
    // Two of them, on the view and on a plain file that is renewed by rename: what both show is stunnel's own.
    for (name, port, cert) in [("views", 8444, "/run/secrets/svc/stunnel.pem"), ("plain", 8445, "/tmp/plain.pem")] {
        std::fs::write(
            format!("/tmp/stunnel-{name}.conf"),
            format!(
                "foreground = no\npid = /run/stunnel-{name}.pid\noutput = /tmp/stunnel-{name}.log\ncert = {cert}\n\
                 [web]\naccept = 127.0.0.1:{port}\nconnect = 127.0.0.1:8080\n"
            ),
        )
        .expect("stunnel's configuration");
    }
    sh(&format!("cat {from}/g0.key {from}/g0.pem {from}/ca.pem > /tmp/plain.pem && chmod 600 /tmp/plain.pem")).quiet();
    sh("nginx -c /tmp/nginx.conf && for each in views plain; do stunnel4 /tmp/stunnel-$each.conf 2>/dev/null || exit 1; done").ok();
    let nginx = wait_for("nginx's pid file", Duration::from_secs(60), || {
        std::fs::read_to_string("/run/nginx-views.pid").ok()?.trim().parse().ok()
    });
    let mut stunnels = ["views", "plain"].map(Stunnel::started);
    let mut load = Load::begin("8443,8444,8445");
    // Key first or certificate first; in some rounds the services read in between. Each round ends when all three show the new pair.
    for round in 1..=ROTATIONS {
        let n = round % PAIRS;
        let name = format!("g{n}");
        let before = PORTS.map(|port| (port, load.times(port, &name)));
        let steps = [format!("cp g{n}.key /run/secrets/tls/key.pem"), format!("cp g{n}.pem /run/secrets/tls/cert.pem")];
        let order = if round % 2 == 0 { [1, 0] } else { [0, 1] };
        for (at, step) in order.into_iter().enumerate() {
            sh(&format!(
                "cd {from} && {} && cat g{n}.key g{n}.pem ca.pem > /tmp/plain.new && chmod 600 /tmp/plain.new &&
                 mv /tmp/plain.new /tmp/plain.pem",
                steps[step]
            ))
            .quiet();
            if round % 3 == 0 || at == 1 {
                stunnels.iter_mut().for_each(Stunnel::await_reload);
                common::daemon::signal(nginx, libc::SIGHUP);
                stunnels.iter_mut().for_each(Stunnel::hup);
            }
        }
        if round % 3 == 0 {
            stunnels.iter_mut().for_each(Stunnel::await_reload);
            stunnels.iter_mut().for_each(Stunnel::hup);
        }
        stunnels.iter_mut().for_each(Stunnel::await_reload);
        load.await_shown(&name, &before);
    }
    load.end();
    let errors = &load.errors;
    assert!(errors.is_empty(), "{} errors: {:?}", errors.len(), &errors[..errors.len().min(10)]);
    for port in PORTS {
        let (lost, none) = (load.count("reset", port), load.count("refused", port));
        println!("port {port}: {lost} reset, {none} refused, shown {:?}", load.shown.get(&port));
        assert_eq!(load.shown.get(&port).map_or(0, BTreeMap::len), PAIRS, "port {port} showed not all");
    }
    assert_eq!((load.count("reset", 8443), load.count("refused", 8443)), (0, 0), "nginx lost a connection");
    // stunnel loses the connections that wait for it at the moment when it closes its listening socket, one of each client at most, and no
    // other: on the view as on a plain file.
    for (port, stunnel) in [(8444, &stunnels[0]), (8445, &stunnels[1])] {
        let (lost, done, loaded) = (load.count("reset", port), load.count("shown", port), stunnel.loaded);
        println!("port {port}: {done} completed and {lost} lost at {loaded} reloads, {} refused", stunnel.refused);
        assert!(lost <= CLIENTS * loaded, "port {port}: stunnel lost {lost} connections at {loaded} reloads");
    }
    // What a reload costs is the two opens: one of the view is not much more than one of each of its sources.
    let sources = ["tls/key.pem", "tls/cert.pem", "ca/lab.pem"].map(|name| format!("/run/secrets/{name}"));
    std::fs::write("/tmp/times.py", TIMES).expect("a program");
    let times = sh(&format!("/usr/bin/python3 /tmp/times.py /run/secrets/svc/stunnel.pem {}", sources.join(" "))).ok();
    let times: Vec<f64> = serde_json::from_str(&times.text()).expect("JSON");
    println!("medians of an open in microseconds, of the view and of its sources: {times:?}");
    assert!(times[0] < 4.0 * times[1..].iter().sum::<f64>(), "an open of the view is slow: {times:?}");
    // It opens the file once for the certificate and once for the key. A change between the two it refuses, and goes on
    // with what it has: no other reload fails, and no open of the view.
    for name in ["views", "plain"] {
        let log = sh(&format!("cat /tmp/stunnel-{name}.log")).text();
        let count = |text: &str| log.lines().filter(|line| line.contains(text)).count();
        let (failed, between) = (count("Failed to reload the configuration"), count("key values mismatch"));
        println!("{name}: {failed} reloads refused by stunnel, {between} for a change between its two opens");
        assert_eq!(failed, between, "{name}: stunnel failed to reload for another reason:\n{log}");
    }
    let opens =
        sh(&format!("cat {}* | grep -F '\"path\":\"svc/stunnel.pem\"'", daemon.file("audit.log").display())).text();
    assert!(opens.contains("\"decision\":\"allowed\""), "its opens are on record");
    let denied: Vec<&str> = opens.lines().filter(|line| line.contains("\"decision\":\"denied\"")).collect();
    assert!(denied.is_empty(), "an open of the view was refused: {denied:?}");
    // What they have in the end is what was put in last, the whole of it.
    let last = format!("CN = g{}", ROTATIONS % PAIRS);
    for port in [8443, 8444] {
        wait_for("the last generation", Duration::from_secs(20), || {
            let asked = sh(&format!(
                "kill -HUP $(cat /run/nginx-views.pid /run/stunnel-views.pid); sleep 0.2
                 openssl s_client -connect 127.0.0.1:{port} < /dev/null 2>/dev/null | openssl x509 -noout -subject"
            ));
            asked.text().contains(&last).then_some(())
        });
    }
    sh("kill $(cat /run/nginx-views.pid /run/stunnel-views.pid /run/stunnel-plain.pid)").ok();
}

/// Speaks to upsd over TLS: whether it lets this user log in.
const UPS: &str = r#"
import socket, ssl, sys
raw = socket.create_connection(("127.0.0.1", 3493), 10)
raw.sendall(b"STARTTLS\n")
assert raw.recv(100).startswith(b"OK STARTTLS")
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.load_verify_locations(capath="/run/secrets/svc/hashed")
tls = context.wrap_socket(raw, server_hostname="lab.example")
def ask(line):
    tls.sendall(line.encode() + b"\n")
    return tls.recv(200).decode().strip()
ask("USERNAME monitor"); ask('PASSWORD "' + sys.argv[1].replace("\\", "\\\\").replace('"', '\\"').replace('#', '\\#') + '"')
print(ask("LOGIN dummy"))
"#;

#[test]
fn upsd_takes_its_users_from_a_template_and_its_certificate_from_an_nss_database_in_the_tree() {
    let (daemon, _from) = with_pair();
    let nut = User::named("nut");
    daemon.cli_with(&["put", "-p", "nut/upsmon-password"], b"first\n").ok();
    std::fs::write(
        "/tmp/users.in",
        "# Made by a template\n[monitor]\n    password = {{ secret('nut/upsmon-password')|nut }}\n    upsmon primary\n",
    )
    .expect("the template");
    add(&daemon, &["svc/upsd.users", "template", "/tmp/users.in", "-p", "-o", "nut", "-m", "400"]);
    add(&daemon, &["svc/hashed", "hashdir", "ca/*", "-m", "755"]);
    daemon.cli_with(&["put", "tls/p12-password"], b"transport\n").ok();
    add(&daemon, &["svc/upsd.p12", "pkcs12", "tls/key.pem", "tls/cert.pem", "ca/lab.pem", "tls/p12-password"]);
    // The database is made from the view, and lies in the tree.
    sh("set -e; umask 077; rm -rf /tmp/db; mkdir /tmp/db; printf 'nss pin' > /tmp/db-pin; printf transport > /tmp/p12-pin
        certutil -N -d sql:/tmp/db -f /tmp/db-pin; pk12util -i /run/secrets/svc/upsd.p12 -d sql:/tmp/db -k /tmp/db-pin -w /tmp/p12-pin
        install -d -o nut -m 700 /run/secrets/nssdb; install -o nut -g nut -m 600 /tmp/db/* /run/secrets/nssdb/")
    .ok();
    sh("set -e; cd /etc/nut; echo MODE=standalone > nut.conf
        printf '[dummy]\\ndriver = dummy-ups\\nport = none.dev\\n' > ups.conf
        printf 'LISTEN 127.0.0.1 3493\\nCERTPATH /run/secrets/nssdb\\nCERTIDENT \"CN=g0\" \"nss pin\"\\n' > upsd.conf
        rm -f upsd.users; ln -s /run/secrets/svc/upsd.users upsd.users; mkdir -p /run/nut; chown nut:nut /run/nut")
    .ok();
    std::fs::write("/tmp/ups.py", UPS).expect("the client");
    let started = sh("upsd > /tmp/upsd.log 2>&1; cat /tmp/upsd.log; pgrep -x upsd");
    assert_eq!(started.code, 0, "{}", started.text());
    let login = |password: &str| {
        let out = ROOT.sh(&format!("/usr/bin/python3 /tmp/ups.py '{password}'"));
        out.text().trim().to_owned() + &out.stderr
    };
    #[track_caller]
    fn until_ok(login: impl Fn() -> String) {
        let begun = std::time::Instant::now();
        while login() != "OK" {
            assert!(begun.elapsed() < Duration::from_secs(20), "{}\n{}", login(), sh("cat /tmp/upsd.log").text());
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    until_ok(|| login("first"));
    assert!(login("second").contains("ACCESS-DENIED"));
    daemon.await_open("svc/upsd.users", nut.uid);
    // Another password, quotes and all; upsd reads it again when it is told to.
    for password in ["se\"co\\nd # x", "third"] {
        daemon.cli_with(&["put", "nut/upsmon-password"], format!("{password}\n").as_bytes()).ok();
        sh("upsd -c reload").ok();
        until_ok(|| login(password));
    }
    assert!(login("first").contains("ACCESS-DENIED"));
    sh("upsd -c stop").ok();
}
