//! Certificates by the command line, with a real store behind a control socket, openssl(1) outside, and a clock that the test
//! moves: requests, answers, imports, renewal and every failure of it. Nothing is mounted.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use crate::common;

use common::sshd::{Login, Sshd};
use pinfold::audit::{Log, Settings, WhenFull};
use pinfold::caller::{Callers, Daemon};
use pinfold::config::Config;
use pinfold::control::{Peer, Server};
use pinfold::model::SecretPath;
use pinfold::seal::Protection;
use pinfold::secret::Secret;
use pinfold::store::Store;
use pinfold::vault::{Limits, ON_CHANGE, Recovery, Touched, UnlockBy, Vault, XattrMode, create_store};
use pinfold::wire::Actor;
use serde_json::Value;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

const PASSPHRASE: &[u8] = b"correct horse";

pub struct Rig {
    vault: Arc<Vault>,
    changes: Receiver<Touched>,
    _server: Server,
    // Last: what writes there ends before it.
    dir: tempfile::TempDir,
}

impl Rig {
    pub fn new() -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("store");
        let recovery = age::x25519::Identity::generate().to_public().to_string();
        let passphrase = Secret::copy_of(PASSPHRASE).unwrap();
        create_store(&store, &Protection::Passphrase(&passphrase), &Recovery { recipients: vec![recovery] }).unwrap();
        let settings =
            Settings { path: dir.path().join("log"), max_size: 1 << 24, when_full: WhenFull::Refuse, space: None };
        let limits = Limits {
            max_secret_size: 1 << 20,
            max_secrets: 1000,
            max_instances: 1,
            keep_versions: 5,
            allow_reveal: true,
            mountpoint: "/nowhere".into(),
            operator_gid: None,
        };
        let vault = Vault::new(
            Store::open(&store).unwrap(),
            Log::open(settings, None).unwrap(),
            Callers::new().unwrap(),
            limits,
        );
        vault.unlock(&Daemon, &UnlockBy::Passphrase(&passphrase)).unwrap();
        let vault = Arc::new(vault);
        let (tell, changes) = channel();
        vault.notify_units(tell);
        let config = Config { control: dir.path().join("run/control.sock"), ..Config::default() };
        let admin = Arc::clone(&vault) as Arc<dyn pinfold::control::Core>;
        // As if whoever runs the tests were root.
        let root =
            |s: &std::os::unix::net::UnixStream| Peer::of(s).map(|p| Peer { actor: Actor { uid: 0, ..p.actor }, ..p });
        let mut server = Server::bind_with(&config, admin, Box::new(root)).unwrap();
        server.run().unwrap();
        let rig = Rig { dir, vault, changes, _server: server };
        rig.mailer("{ echo \"$@\"; cat; echo '~~~'; } >> mails");
        rig.configure("");
        rig
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What sendmail(8) is, run in the folder.
    pub fn mailer(&self, script: &str) {
        let script = format!("#!/bin/sh\ncd {}\n{script}\n", self.dir.path().display());
        crate::common::program(&self.path("sendmail"), &script);
    }

    /// The mails that were sent since the last look.
    pub fn mails(&self) -> Vec<String> {
        let all = std::fs::read_to_string(self.path("mails")).unwrap_or_default();
        let _ = std::fs::remove_file(self.path("mails"));
        all.split_terminator("~~~\n").map(str::to_owned).collect()
    }

    /// The configuration of the commands, with these lines in `[certs]`, and tables behind it.
    pub fn configure(&self, certs: &str) {
        let text = format!(
            "store = {:?}\ncontrol = {:?}\nsendmail = {:?}\nmountpoint = \"/nowhere\"\n[certs]\n{certs}\n",
            self.path("store"),
            self.path("run/control.sock"),
            self.path("sendmail")
        );
        self.write("pinfold.toml", &text);
        std::fs::set_permissions(self.path("pinfold.toml"), PermissionsExt::from_mode(0o600)).unwrap();
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    pub fn program(&self, name: &str, script: &str) {
        crate::common::program(&self.path(name), &format!("#!/bin/sh\n{script}\n"));
        self.configure(&format!("submit = {:?}\ntimeout = \"2s\"", format!("exec:{}", self.path(name).display())));
    }

    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pinfold"));
        command.arg("--config").arg(self.path("pinfold.toml")).args(line.split_whitespace());
        command.stdin(Stdio::null()).current_dir(self.dir.path());
        command
    }

    pub fn run(&self, line: &str) -> Output {
        self.command(line).output().unwrap()
    }

    /// What it prints, if it ends with this code.
    #[track_caller]
    pub fn ends(&self, line: &str, code: i32) -> String {
        let out = self.run(line);
        let (stdout, stderr) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        assert_eq!(out.status.code(), Some(code), "{line}: {stdout}{stderr}");
        stdout.into_owned() + &stderr
    }

    #[track_caller]
    pub fn ok(&self, line: &str) -> String {
        self.ends(line, 0)
    }

    #[track_caller]
    pub fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.ok(&format!("{line} --json"))).unwrap()
    }

    #[track_caller]
    pub fn openssl(&self, args: &str) -> String {
        let out = Command::new("openssl").args(args.split_whitespace()).current_dir(self.dir.path()).output().unwrap();
        assert!(out.status.success(), "openssl {args}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    /// An authority outside, and what it signs.
    pub fn authority(&self) {
        self.openssl("req -x509 -newkey ed25519 -nodes -days 3650 -subj /CN=Outside -keyout ca.key -out ca.crt");
    }

    /// The shipped program that signs with a local authority, for so many days.
    pub fn local_ca(&self, days: u32) {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("mount-helpers/renew.d/local-ca");
        let script = format!("exec {} --dir={} --days={days} \"$@\"", shipped.display(), self.dir.path().display());
        self.program("ca.sh", &script);
    }

    /// A certificate in use, good for so many days.
    pub fn in_use(&self, host: &str, days: u32) {
        self.ok(&format!("cert request {host} --san {host}.example.org --out {host}.csr"));
        self.openssl(&format!(
            "x509 -req -in {host}.csr -CA ca.crt -CAkey ca.key -set_serial 7 -days {days} -copy_extensions copy -out {host}.crt"
        ));
        self.ok(&format!("cert accept {host}.crt"));
    }

    pub fn shown(&self, path: &str) -> String {
        self.ok(&format!("cat --reveal {path}"))
    }

    pub fn pair(&self, host: &str) -> (String, String) {
        (self.shown(&format!("certs/{host}/key.pem")), self.shown(&format!("certs/{host}/cert.pem")))
    }

    /// `--now`, so many days from today.
    pub fn later(&self, days: u64) -> String {
        let at = std::time::SystemTime::now() + std::time::Duration::from_secs(days * 86_400);
        format!("--now {}", humantime::format_rfc3339_seconds(at))
    }

    pub fn outcome(&self, line: &str, code: i32) -> Value {
        let said = self.ends(&format!("{line} --json"), code);
        let mut all: Value = serde_json::from_str(&said).unwrap_or_else(|e| panic!("{said}: {e}"));
        all[0].take()
    }
}

#[test]
fn a_request_goes_out_and_its_answer_comes_in() {
    let rig = Rig::new();
    rig.authority();
    let asked =
        rig.json("cert request web --subject CN=web.example.org,O=Example --san web.example.org --san 192.0.2.1");
    assert_eq!(asked["names"], serde_json::json!(["DNS:web.example.org", "IP:192.0.2.1"]));
    rig.write("web.csr", asked["request"].as_str().unwrap());
    assert_eq!(rig.ok("cert show --request certs/web"), asked["request"].as_str().unwrap());
    assert!(rig.openssl("req -in web.csr -noout -subject -verify").contains("O = Example"));
    rig.openssl(
        "x509 -req -in web.csr -CA ca.crt -CAkey ca.key -set_serial 7 -days 90 -copy_extensions copy -out web.crt",
    );
    assert!(rig.ends("cert accept ca.crt", 3).contains("no key of the store"));
    let said = rig.ok("cert accept web.crt");
    assert!(said.starts_with("certs/web/cert.pem: version 1, good until "), "{said}");
    assert_eq!(
        rig.ends("cert accept web.crt", 8),
        "pinfold: error: nothing to do: this certificate is in use already\n"
    );
    let list = rig.json("cert ls *.example.org");
    let one = &list["certificates"][0];
    assert_eq!(
        (one["host"].as_str(), one["key"].as_str(), one["chain"].as_str()),
        (Some("web"), Some("match"), Some("open"))
    );
    assert!(rig.ok("cert ls").contains("key match"));
    assert!(rig.ok("cert show certs/web").contains("DNS:web.example.org, IP:192.0.2.1"));
    assert_eq!(rig.ok("cert show certs/web --pem"), rig.shown("certs/web/cert.pem"));
    assert_eq!(rig.ok("cert verify"), "certs/web/cert.pem: ok\n");
    assert_eq!(rig.ok("cert verify --ca ca.crt"), "certs/web/cert.pem: ok\n");
    rig.openssl("req -x509 -newkey ed25519 -nodes -days 9 -subj /CN=Stranger -keyout s.key -out s.crt");
    assert!(rig.ends("cert verify --ca s.crt", 3).contains("none of the given authorities"));
    rig.ends("cert show certs/nobody", 6);
    rig.ends("cert verify nobody", 6);
}

#[test]
fn what_ends_soon_is_told_by_the_exit_code_and_the_status() {
    let rig = Rig::new();
    rig.ok("cert selfsign soon --days 5");
    rig.ok("cert selfsign later --days 300");
    assert!(rig.ends("cert ls --expiring 30d", 1).starts_with("certs/soon/cert.pem"));
    assert_eq!(rig.ok("cert ls --expiring 3d"), "");
    assert!(!rig.ok("status").contains("certs "));
    assert!(rig.ends("renew", 8).contains("signed itself"));
    let status = rig.ok("status");
    assert!(status.contains("certs       0 expired, 1 end soon; certs/soon/cert.pem ends first"), "{status}");
}

#[test]
fn a_folder_of_anything_is_sorted_out() {
    let rig = Rig::new();
    let dir = rig.path("in");
    std::fs::create_dir_all(dir.join("deep")).unwrap();
    let own = |name: &str, kind: &str, days: u32| {
        rig.openssl(&format!(
            "req -x509 -newkey {kind} -nodes -days {days} -subj /CN={name}.example.org -keyout {name}.k -out {name}.c"
        ));
    };
    rig.write("pass", "open sesame\n");
    own("rsa", "rsa:2048", 30);
    own("ec", "ec -pkeyopt ec_paramgen_curve:P-256", 30);
    own("ed", "ed25519", 30);
    own("p12", "ec -pkeyopt ec_paramgen_curve:P-384", 30);
    own("lone", "ed25519", 30);
    own("orphan", "ed25519", 30);
    // Names that say nothing, or the wrong thing.
    rig.openssl("rsa -in rsa.k -traditional -aes256 -passout file:pass -out in/a.crt");
    rig.openssl("x509 -in rsa.c -outform DER -out in/deep/b.key");
    rig.openssl("pkcs8 -topk8 -in ec.k -passout file:pass -out in/c");
    std::fs::copy(rig.path("ec.c"), dir.join("d")).unwrap();
    let both = [std::fs::read(rig.path("ed.k")).unwrap(), std::fs::read(rig.path("ed.c")).unwrap()].concat();
    std::fs::write(dir.join("e.pem"), both).unwrap();
    rig.openssl("pkcs12 -export -inkey p12.k -in p12.c -passout file:pass -out in/f.bin");
    std::fs::copy(rig.path("lone.k"), dir.join("lone.key")).unwrap();
    std::fs::copy(rig.path("orphan.c"), dir.join("orphan.crt")).unwrap();
    std::fs::write(dir.join("notes.txt"), "nothing of interest").unwrap();
    // A renewed certificate for the same key: the later one counts.
    rig.openssl("req -x509 -key ec.k -days 300 -subj /CN=ec.example.org -out in/newer");

    let without = rig.json("cert import in --pretend");
    let reasons: Vec<&str> = without["left"].as_array().unwrap().iter().filter_map(|l| l["reason"].as_str()).collect();
    assert_eq!(reasons.iter().filter(|r| r.contains("no passphrase was given")).count(), 3, "{reasons:?}");
    assert!(rig.json("cert ls")["certificates"].as_array().unwrap().is_empty(), "pretending stores nothing");

    let report = rig.json("cert import in --passphrase-file pass");
    let stored: Vec<&str> = report["stored"].as_array().unwrap().iter().map(|s| s["host"].as_str().unwrap()).collect();
    assert_eq!(stored, ["ec.example.org", "ed.example.org", "p12.example.org", "rsa.example.org"]);
    assert!(report["stored"][0]["certificate_file"].as_str().unwrap().ends_with("in/newer"));
    let left: Vec<String> = report["left"]
        .as_array()
        .unwrap()
        .iter()
        .map(|l| {
            format!("{}: {}", l["file"].as_str().unwrap().rsplit('/').next().unwrap(), l["reason"].as_str().unwrap())
        })
        .collect();
    assert_eq!(
        left,
        [
            "notes.txt: it is neither PEM nor DER of a key or certificate",
            "lone.key: no certificate is for this key (ed25519)",
            // A self-signed certificate of openssl's is an authority, but nobody's here.
        ],
        "{left:?}"
    );
    for host in stored {
        let (key, certificate) = rig.pair(host);
        rig.write("k", &key);
        rig.write("c", &certificate);
        assert_eq!(rig.openssl("pkey -in k -pubout"), rig.openssl("x509 -in c -noout -pubkey"), "{host}");
    }
    rig.ends("cert import in --passphrase-file pass", 8);
    rig.ok("cert import in --passphrase-file pass --replace");
    rig.ends("cert import nowhere", 6);
}

#[test]
fn an_own_authority_serves_a_lab() {
    let rig = Rig::new();
    rig.ok("cert ca init lab --subject CN=Lab");
    rig.ok("cert request web --san web.example.org --out web.csr");
    rig.ok("cert ca sign lab web.csr --days 40 --out web.crt");
    rig.ok("cert accept web.crt");
    rig.write("ca.pem", &rig.ok("cert show ca/lab/cert.pem --pem"));
    rig.openssl("verify -CAfile ca.pem web.crt");
    let serial = rig.json("cert show certs/web")["certificate"]["serial"].as_str().unwrap().to_owned();
    rig.ok(&format!("cert ca crl lab --revoke {serial} --out crl.pem"));
    assert!(rig.openssl("crl -in crl.pem -noout -text").to_lowercase().contains(&serial.to_lowercase()));
    // And renews by itself.
    rig.configure("submit = \"ca:lab\"");
    let before = rig.pair("web");
    assert_eq!(rig.outcome(&format!("renew {}", rig.later(20)), 0)["outcome"], "renewed");
    let after = rig.pair("web");
    assert!(before.0 != after.0 && before.1 != after.1);
}

#[test]
fn what_is_due_is_renewed_with_a_new_key_and_its_unit_hears_of_it() {
    let rig = Rig::new();
    rig.authority();
    rig.in_use("web", 40);
    rig.local_ca(60);
    let cert = SecretPath::parse("certs/web/cert.pem").unwrap();
    let ino = rig.vault.find(&cert).unwrap();
    rig.vault.set_xattr(&Daemon, ino, ON_CHANGE, b"reload:nginx.service", XattrMode::Set).unwrap();
    let before = rig.pair("web");
    assert_eq!(rig.outcome("renew", 8)["outcome"], "not_due");
    assert_eq!(rig.outcome(&format!("renew --pretend {}", rig.later(11)), 0)["outcome"], "would");
    assert_eq!(rig.pair("web"), before);
    let renewed = rig.outcome(&format!("renew {}", rig.later(11)), 0);
    assert_eq!(renewed["outcome"], "renewed", "{renewed}");
    let after = rig.pair("web");
    assert!(after.0 != before.0 && after.1 != before.1);
    let info = rig.json("cert ls web")["certificates"][0].take();
    assert_eq!(
        (info["key"].as_str(), info["chain"].as_str(), info["renewal"].is_null()),
        (Some("match"), Some("whole"), true)
    );
    assert_eq!(info["names"], serde_json::json!(["DNS:web.example.org"]), "as before");
    let touched: Vec<Touched> = rig.changes.try_iter().collect();
    let told: Vec<String> =
        rig.vault.actions(&touched).into_iter().map(|(path, a)| format!("{path} {}", a.unit)).collect();
    assert_eq!(told, ["certs/web/cert.pem nginx.service"]);
    // The old pair is a version; what was made is on disk in whole.
    assert!(rig.ok("cat --reveal certs/web/key.pem --version 1") == before.0);
    rig.ok("fsck");
    assert_eq!(rig.outcome(&format!("renew {}", rig.later(11)), 8)["outcome"], "not_due");
    assert_eq!(rig.outcome("renew --force", 0)["outcome"], "renewed");
}

#[test]
fn a_renewal_that_fails_at_any_step_leaves_the_pair_in_use_and_is_tried_again_later() {
    let rig = Rig::new();
    rig.authority();
    rig.in_use("web", 40);
    rig.openssl("req -x509 -newkey ed25519 -nodes -days 50 -subj /CN=web -keyout other.key -out other.crt");
    let before = rig.pair("web");
    let sign = "openssl x509 -req -CA ca.crt -CAkey ca.key -set_serial 9";
    let here = format!("cd {}", rig.dir.path().display());
    let cut = format!("{here}; {sign} -days 50 2>/dev/null | head -c 300");
    let old = format!("{here}; {sign} -days 0 2>/dev/null");
    let steps: [(&str, &str); 9] = [
        ("exit 7", "exit status 7"),
        ("echo no route to the authority >&2; exit 1", "no route to the authority"),
        ("exit 0", "neither PEM nor DER"),
        ("echo hello", "neither PEM nor DER"),
        ("cat", "no certificate in it"),
        (&format!("{here}; cat other.crt"), "no key of the store for web belongs to it"),
        (&cut, "has no end"),
        (&old, "has expired"),
        ("sleep 1000", "took longer than 2s"),
    ];
    let (mut day, mut failures) = (10, 0);
    for (script, why) in steps {
        rig.program("fails.sh", script);
        day += 2;
        let said = rig.outcome(&format!("renew {}", rig.later(day)), 1);
        assert_eq!(said["outcome"], "failed", "{script}: {said}");
        assert!(said["reason"].as_str().unwrap().contains(why), "{script}: {said}");
        failures += 1;
        assert_eq!(rig.pair("web"), before, "{script}");
        let renewal = rig.json("cert ls web")["certificates"][0]["renewal"].take();
        assert_eq!(renewal["failures"], failures, "{script}");
        // It waits, longer each time; a force does not.
        assert_eq!(rig.outcome(&format!("renew {}", rig.later(day)), 8)["outcome"], "waiting");
    }
    // One that cannot be started, and nobody at all.
    rig.configure("submit = \"exec:/nonexistent/program\"");
    assert!(rig.outcome("renew --force", 1)["reason"].as_str().unwrap().contains("o such file"));
    rig.configure("submit = \"ca:nobody\"");
    assert_eq!(rig.outcome("renew --force", 1)["outcome"], "failed");
    rig.configure("");
    assert!(rig.ends("renew --force", 2).contains("certs.submit"));
    assert_eq!(rig.pair("web"), before);
    let status = rig.ok("status");
    assert!(status.contains("1 cannot be renewed"), "{status}");
    // And in the end it works, and nothing is left of the failures.
    rig.local_ca(60);
    assert_eq!(rig.outcome(&format!("renew {}", rig.later(day + 5)), 0)["outcome"], "renewed");
    assert!(rig.json("cert ls web")["certificates"][0]["renewal"].is_null());
    assert_ne!(rig.pair("web"), before);
    // Locked, nothing is tried.
    rig.ok("lock");
    rig.ends("renew --force", 4);
}

#[test]
fn who_answers_by_hand_gets_the_same_request_again() {
    let rig = Rig::new();
    rig.authority();
    rig.in_use("web", 40);
    rig.configure("submit = \"outbox\"");
    let before = rig.pair("web");
    let file = rig.path("store/outbox/csr/web.csr");
    assert_eq!(rig.outcome(&format!("renew {}", rig.later(11)), 0)["outcome"], "asked");
    let first = std::fs::read_to_string(&file).unwrap();
    assert_eq!(rig.outcome(&format!("renew {}", rig.later(12)), 8)["outcome"], "waiting");
    assert_eq!(rig.outcome(&format!("renew {}", rig.later(19)), 0)["outcome"], "asked");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), first);
    assert_eq!(rig.pair("web"), before, "the pair in use stays until there is an answer");
    std::fs::copy(&file, rig.path("answer.csr")).unwrap();
    rig.openssl("x509 -req -in answer.csr -CA ca.crt -CAkey ca.key -set_serial 8 -days 90 -copy_extensions copy -out answer.crt");
    rig.ok("cert accept answer.crt");
    assert_ne!(rig.pair("web"), before);
    assert_eq!(rig.outcome("renew", 8)["outcome"], "not_due");
}

#[test]
fn the_shipped_program_signs_no_authority_and_no_rubbish() {
    let rig = Rig::new();
    rig.authority();
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("mount-helpers/renew.d/local-ca");
    let run = |input: &[u8]| {
        let mut child = Command::new(&shipped)
            .arg(format!("--dir={}", rig.dir.path().display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let _ = child.stdin.take().unwrap().write_all(input);
        child.wait_with_output().unwrap()
    };
    rig.openssl(
        "req -new -newkey ed25519 -nodes -subj /CN=x -addext basicConstraints=CA:TRUE -keyout x.key -out x.csr",
    );
    let refused = run(&std::fs::read(rig.path("x.csr")).unwrap());
    assert!(!refused.status.success() && refused.stdout.is_empty());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("asks to be an authority"));
    assert!(!run(b"nonsense").status.success());
}

#[test]
fn a_request_goes_to_a_real_server_under_its_name_and_whole() {
    let rig = Rig::new();
    let sshd = Sshd::start(Login::Upload);
    rig.configure(&format!("[export]\nssh_config = {:?}", sshd.client_config()));
    let to = format!("sftp://{}@127.0.0.1:{}/inbox/", sshd.user, sshd.port);
    let names = || -> Vec<String> {
        std::fs::read_dir(sshd.inbox()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    };
    assert_eq!(rig.ok(&format!("cert request web --san web.example.org --to {to}")), "");
    assert_eq!(names(), ["web.csr"]);
    let there = || std::fs::read_to_string(sshd.inbox().join("web.csr")).unwrap();
    let first = there();
    assert_eq!(first, rig.ok("cert show --request certs/web"));
    rig.write("web.csr", &first);
    rig.openssl("req -in web.csr -noout -verify");
    // Another one takes its place.
    rig.ok(&format!("cert request web --again --to {to}"));
    assert_eq!(names(), ["web.csr"]);
    assert_ne!(there(), first);
    // A server that is not the known one gets nothing, and nobody is asked about it.
    sshd.trust("other_host", "user");
    let said = rig.ends(&format!("cert request new --to {to}"), 1);
    assert!(said.contains("sftp to ") && said.contains("pinfold cert show --request certs/new"), "{said}");
    sshd.trust("host", "other_user");
    rig.ends(&format!("cert request other --to {to}"), 1);
    assert_eq!(names(), ["web.csr"]);
    // It was made, and can be handed over otherwise.
    assert!(rig.ok("cert show --request certs/new").contains("BEGIN CERTIFICATE REQUEST"));
    for bad in ["ftp://x/y", "sftp://127.0.0.1/in", "dir:/srv/in", "mail:-f", "mail:a@b@c"] {
        rig.ends(&format!("cert request bad --to {bad}"), 2);
    }
    rig.ends("cert show --request certs/bad", 6);
}

#[test]
fn a_request_is_mailed_by_the_systems_mailer_or_says_why_not() {
    let rig = Rig::new();
    assert_eq!(rig.ok("cert request web --to mail:ca@example.org"), "");
    let mails = rig.mails();
    let [mail] = mails.as_slice() else { panic!("{mails:?}") };
    let request = rig.ok("cert show --request certs/web");
    assert!(mail.starts_with("-t -i\nTo: ca@example.org\nSubject: Certificate request for web\n"), "{mail}");
    assert!(mail.contains(&format!("\n\n{request}")), "{mail}");
    rig.mailer("cat > /dev/null; echo mailbox full >&2; exit 75");
    let said = rig.ends("cert request other --to mail:ca@example.org", 1);
    assert!(said.contains("sendmail to ca@example.org ended with exit status 75: mailbox full"), "{said}");
    assert!(said.contains("hint: pinfold cert show --request certs/other"), "{said}");
    // A mailer that others can write is none.
    std::fs::set_permissions(rig.path("sendmail"), PermissionsExt::from_mode(0o777)).unwrap();
    assert!(rig.ends("cert request third --to mail:ca@example.org", 1).contains("others can write it"));
}

#[test]
fn whoever_is_asked_and_whoever_watches_gets_mail() {
    let rig = Rig::new();
    rig.authority();
    rig.in_use("web", 40);
    // Asked by mail: the same request again, a week later.
    rig.configure("submit = \"mail:ca@example.org\"\nmail_to = \"ops@example.org\"\nmail_success = true");
    let asked = rig.outcome(&format!("renew {}", rig.later(11)), 0);
    assert_eq!((asked["outcome"].as_str(), asked["whom"].as_str()), (Some("asked"), Some("ca@example.org")));
    let first = rig.mails();
    let request = rig.ok("cert show --request certs/web");
    let [mail] = first.as_slice() else { panic!("{first:?}") };
    assert!(mail.starts_with("-t -i\nTo: ca@example.org\nSubject: Certificate request for web\n"), "{mail}");
    assert!(mail.contains("pinfold cert accept FILE\n\n") && mail.contains(&request), "{mail}");
    rig.outcome(&format!("renew {}", rig.later(12)), 8);
    assert_eq!(rig.mails(), [""; 0]);
    rig.outcome(&format!("renew {}", rig.later(19)), 0);
    assert_eq!(rig.mails(), first, "the same");
    // A mailer that fails is a renewal that failed; that this cannot be mailed either is told.
    rig.mailer("cat > /dev/null; exit 75");
    let out = rig.run("renew --force");
    assert_eq!(out.status.code(), Some(1));
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(said.contains("warning: no mail to ops@example.org: sendmail to ops@example.org ended"), "{said}");
    rig.mailer("{ echo \"$@\"; cat; echo '~~~'; } >> mails");

    let both = "mail_to = \"ops@example.org\"\nmail_success = true";
    rig.program("refuses.sh", "echo the authority is closed >&2; exit 1");
    rig.configure(&format!("submit = {:?}\n{both}", format!("exec:{}", rig.path("refuses.sh").display())));
    rig.outcome("renew --force", 1);
    let mails = rig.mails();
    let [mail] = mails.as_slice() else { panic!("{mails:?}") };
    assert!(
        mail.starts_with("-t -i\nTo: ops@example.org\nSubject: Could not renew the certificate of web\n"),
        "{mail}"
    );
    assert!(mail.contains("the authority is closed\n\nThe one in use stays; it ends 20"), "{mail}");

    rig.ok("cert ca init lab");
    rig.configure(&format!("submit = \"ca:lab\"\n{both}"));
    let renewed = rig.outcome("renew --force", 0);
    assert_eq!(renewed["outcome"], "renewed", "{renewed}");
    let mails = rig.mails();
    let [mail] = mails.as_slice() else { panic!("{mails:?}") };
    assert!(mail.starts_with("-t -i\nTo: ops@example.org\nSubject: Renewed the certificate of web\n"), "{mail}");
    assert!(mail.contains(&format!("It is good until {}", renewed["until"].as_str().unwrap())), "{mail}");
    // Successes are mailed if they are asked for, and nothing is without an address.
    rig.configure("submit = \"ca:lab\"\nmail_to = \"ops@example.org\"");
    rig.outcome("renew --force", 0);
    rig.configure("submit = \"ca:nobody\"");
    rig.outcome("renew --force", 1);
    assert_eq!(rig.mails(), [""; 0]);
}
