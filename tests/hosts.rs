//! A console and two hosts, each a daemon with its own store and mount, joined by a real sshd with an upload account for each
//! host: what one machine commits, the other serves, or refuses.
//!
//! Owns its temporary folders, mounts, accounts of uploaders and servers. It runs as root, outside the lab as well: nothing of
//! the machine is touched but /etc/passwd, by the uploaders' accounts.

use crate::common;

use common::sshd::{Login, Sshd};
use common::{Daemon, Out, Setup, User, sh, wait_for};
use serde_json::Value;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// For what takes a moment on an idle machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// What is promised from close(2) on the console to open(2) on the host.
const PROMISED: Duration = Duration::from_secs(2);
/// Two readers that every system has.
const READER: &str = "www-data";
const OTHER: &str = "daemon";

fn daemon(config: String) -> Daemon {
    let binary = Some(env!("CARGO_BIN_EXE_pinfold").into());
    Daemon::with(Setup { config, binary, ..Setup::default() })
}

/// A host, with the account that uploads to it.
struct Host {
    name: &'static str,
    watch: Option<Child>,
    daemon: Daemon,
    /// The line that `pinfold join` printed.
    line: String,
    // Last: its folder has the inbox.
    sshd: Sshd,
}

impl Host {
    fn new(name: &'static str) -> Host {
        let sshd = Sshd::start(Login::Upload);
        let acks = sshd.inbox().with_file_name("acks");
        std::fs::create_dir(&acks).expect("the upload account's root is ours");
        let config =
            format!("inbox = {:?}\n[import]\nupload_user = {:?}\nack_dir = {acks:?}\n", sshd.inbox(), sshd.user);
        Host { name, watch: None, daemon: daemon(config), line: String::new(), sshd }
    }

    /// `pinfold join`, as docs/hosts.md has it.
    #[track_caller]
    fn join(&mut self, key: &str) {
        let joined = self.daemon.json(&["join", "hq", "--signer", key, "--host", self.name, "--json"]);
        let line = joined["line"].as_str().expect("the policy's line");
        let at = format!("sftp://{}@127.0.0.1:{}", self.sshd.user, self.sshd.port);
        self.line = format!("{line} deliver={at}/inbox ack-from={at}/acks\n");
    }

    /// `pinfold import --inbox --watch`, from now on.
    fn watch(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.daemon.file("watch.log"));
        let log = log.expect("the folder is ours");
        let mut command = Command::new(env!("CARGO_BIN_EXE_pinfold"));
        command.arg("--config").arg(self.daemon.file("pinfold.toml")).args(["import", "--inbox", "--watch"]);
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a second descriptor")).stderr(log);
        self.watch = Some(command.spawn().expect("the binary"));
    }

    fn stop_watching(&mut self) {
        if let Some(mut child) = self.watch.take() {
            child.kill().expect("it is our child");
            child.wait().expect("it is our child");
        }
    }

    /// What a user reads.
    fn reads(&self, user: &str, path: &str) -> Out {
        User::named(user).sh(&format!("cat {}", self.daemon.path(path)))
    }

    #[track_caller]
    fn awaits(&self, user: &str, path: &str, content: &str) {
        let begun = Instant::now();
        loop {
            let out = self.reads(user, path);
            if out.text() == content {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{} does not get {path}: {}\n{}", self.name, out.stderr, self.state());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// For messages.
    fn state(&self) -> String {
        let log = std::fs::read_to_string(self.daemon.file("watch.log")).unwrap_or_default();
        let refused = self.refused().join("\n");
        let inbox = sh(&format!("ls -la {}", self.sshd.inbox().display())).text();
        format!("--- its watch said\n{log}--- refused\n{refused}\n--- its inbox\n{inbox}")
    }

    /// The reasons why bundles were refused, the oldest first.
    fn refused(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.daemon.file("store/refused")).into_iter().flatten().flatten();
        let mut files: Vec<PathBuf> = entries.map(|e| e.path()).collect();
        files.retain(|path| path.extension().is_some_and(|e| e == "reason"));
        files.sort();
        files.iter().map(|path| std::fs::read_to_string(path).unwrap_or_default()).collect()
    }

    /// What `join --list` says of the console.
    fn trust(&self) -> Value {
        self.daemon.json(&["join", "--list", "--json"])[0].clone()
    }

    /// The bundles that lie in the inbox.
    fn inbox(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.sshd.inbox()).expect("it is there").flatten();
        entries.map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "pfb")).collect()
    }

    /// Puts a file into the inbox as its uploader's.
    fn upload(&self, name: &str, from: &Path) {
        let temporary = self.sshd.inbox().join(".uploaded");
        std::fs::copy(from, &temporary).expect("the inbox");
        chown(&temporary, Some(self.sshd.uid), Some(self.sshd.gid)).expect("we are root");
        std::fs::rename(&temporary, self.sshd.inbox().join(name)).expect("the inbox");
    }

    /// `pinfold import --inbox --json`: what became of each bundle.
    #[track_caller]
    fn sweep(&self) -> Vec<Value> {
        let out = self.daemon.cli(&["import", "--inbox", "--json"]).ok();
        serde_json::Deserializer::from_slice(&out.stdout).into_iter().map(|v| v.expect("JSON")).collect()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}: {}", self.name, self.state());
        }
        if let Some(mut child) = self.watch.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A console and two hosts that joined it.
struct Site {
    console: Daemon,
    hosts: [Host; 2],
    shares: String,
    home: tempfile::TempDir,
}

impl Site {
    fn new(shares: &str) -> Site {
        let home = tempfile::Builder::new().prefix("pinfold-site-").tempdir().expect("a temporary folder");
        let mut hosts = [Host::new("h1"), Host::new("h2")];
        let beside = |name: &str| {
            let files: Vec<String> =
                hosts.iter().map(|host| host.sshd.client_config().with_file_name(name).display().to_string()).collect();
            files
        };
        let keys: String = beside("user").iter().map(|key| format!("  IdentityFile {key}\n")).collect();
        let known = beside("known_hosts").join(" ");
        let ssh = format!(
            "Host *\n{keys}  IdentitiesOnly yes\n  IdentityAgent none\n  UserKnownHostsFile {known}\n  \
             GlobalKnownHostsFile /dev/null\n"
        );
        std::fs::write(home.path().join("ssh_config"), ssh).expect("it is ours");
        std::fs::write(home.path().join("policy"), "").expect("it is ours");
        let config = format!(
            "policy = {:?}\n[export]\nconsole = \"hq\"\nssh_config = {:?}\n",
            home.path().join("policy"),
            home.path().join("ssh_config")
        );
        let console = daemon(config);
        console.cli(&["signer", "init"]).ok();
        let key = current(&console)["key"].as_str().expect("a key").to_owned();
        hosts.iter_mut().for_each(|host| host.join(&key));
        let site = Site { console, hosts, shares: shares.into(), home };
        site.policy(&[&site.hosts[0].line, &site.hosts[1].line]);
        site
    }

    /// Replaces the policy: these lines and the shares. Asking for what would change reads it.
    #[track_caller]
    fn policy(&self, lines: &[&str]) {
        let new = self.home.path().join("policy.new");
        std::fs::write(&new, lines.concat() + &self.shares).expect("it is ours");
        std::fs::rename(new, self.home.path().join("policy")).expect("it is ours");
        let looked = self.console.cli(&["export", "--pretend"]);
        assert!([0, 8].contains(&looked.code), "{}", looked.stderr);
    }

    /// Enrols a secret by cp, with owner and mode.
    #[track_caller]
    fn cp(&self, path: &str, content: &str, owner: &str) {
        let plain = self.home.path().join("plain");
        std::fs::write(&plain, content).expect("it is ours");
        sh(&format!("chown {owner} {0} && chmod 0400 {0}", plain.display())).ok();
        let to = self.console.path(path);
        sh(&format!("mkdir -p $(dirname {to}) && cp -p {} {to}", plain.display())).quiet();
    }

    fn told(&self, host: &str) -> Value {
        let listed = self.console.json(&["hosts", "--json"]);
        let all = listed.as_array().expect("a list");
        all.iter().find(|h| h["host"] == host).cloned().unwrap_or(Value::Null)
    }

    /// Waits until a host has said that it took the newest bundle.
    #[track_caller]
    fn acknowledged(&self, host: &str) -> Value {
        wait_for(&format!("the acknowledgement of {host}: {}", self.told(host)), PATIENCE, || {
            let told = self.told(host);
            (told["serial"].is_u64() && told["acknowledged"] == told["serial"]).then_some(told)
        })
    }

    /// `signer rotate`; the key that signed before.
    #[track_caller]
    fn rotate(&self) -> Value {
        let before = current(&self.console);
        self.console.cli(&["signer", "rotate"]).ok();
        assert_ne!(before["fingerprint"], current(&self.console)["fingerprint"]);
        before
    }
}

/// The key that signs now.
#[track_caller]
fn current(console: &Daemon) -> Value {
    let listed = console.json(&["signer", "ls", "--json"]);
    listed["signers"].as_array().and_then(|all| all.last()).cloned().expect("a key")
}

#[test]
fn what_is_copied_here_opens_there_and_nowhere_else() {
    let mut site =
        Site::new("share h1 : only1/* both/**\nshare h2 : only2/* both/**\nmanage h1 h2 : alice # on call\n");
    site.hosts.iter_mut().for_each(Host::watch);
    site.console.cli(&["export", "--wait"]);
    site.acknowledged("h1");
    site.acknowledged("h2");

    // From close(2) to the first open that succeeds, with everything between: the wait for more, the bundle, ssh, the checks.
    let mut took = Vec::new();
    for round in 0..5 {
        let content = format!("round {round}");
        site.cp("only1/pin", &content, READER);
        let begun = Instant::now();
        site.hosts[0].awaits(READER, "only1/pin", &content);
        took.push(begun.elapsed());
    }
    eprintln!("from close(2) to the other machine: {took:?}");
    // Whatever else the machine does at one moment, it does not do it at all five.
    assert!(took.iter().min().expect("five") < &PROMISED, "{took:?}");
    site.hosts[0].reads(OTHER, "only1/pin").refused("Permission denied");
    site.hosts[0].reads("root", "only1/pin").refused("Permission denied");
    site.hosts[1].reads(READER, "only1/pin").refused("No such file");
    let told = site.acknowledged("h1");
    assert_eq!(
        (&told["delivered"], &told["outcome"], &told["trusts_current"], &told["error"], &told["tries"]),
        (&told["serial"], &"applied".into(), &true.into(), &Value::Null, &0.into()),
        "{told}"
    );

    // What both have; then owner, mode and name, and removal.
    site.cp("both/deep/key", "shared", READER);
    site.hosts.iter().for_each(|host| host.awaits(READER, "both/deep/key", "shared"));
    let [h1, h2] = &site.hosts;
    sh(&format!("chown {OTHER} {}", site.console.path("both/deep/key"))).quiet();
    h1.awaits(OTHER, "both/deep/key", "shared");
    h2.awaits(OTHER, "both/deep/key", "shared");
    h2.reads(READER, "both/deep/key").refused("Permission denied");
    sh(&format!("mv {} {}", site.console.path("both/deep/key"), site.console.path("both/deep/moved"))).quiet();
    h2.awaits(OTHER, "both/deep/moved", "shared");
    h2.reads(OTHER, "both/deep/key").refused("No such file");
    sh(&format!("rm {}", site.console.path("only1/pin"))).quiet();
    wait_for("the secret to go", PATIENCE, || h1.reads(READER, "only1/pin").stderr.contains("No such").then_some(()));
    site.acknowledged("h1");

    // One that is down, its watch too, catches up with all that it missed.
    site.hosts[1].stop_watching();
    site.hosts[1].daemon.stop();
    site.cp("only2/late", "one", READER);
    site.cp("only2/late", "two", READER);
    site.console.cli(&["export", "--wait"]);
    site.hosts[1].watch();
    site.hosts[1].daemon.serve();
    site.hosts[1].awaits(READER, "only2/late", "two");
    site.acknowledged("h2");
    // Locked, what comes waits.
    site.hosts[1].daemon.lock();
    site.cp("only2/late", "three", READER);
    site.console.cli(&["export", "--wait"]);
    site.hosts[1].daemon.unlock();
    site.hosts[1].awaits(READER, "only2/late", "three");

    // A recipient that is none harms its host alone.
    let [h1, h2] = &site.hosts;
    let broken = h2.line.replacen("age1", "age1x", 1);
    site.policy(&[&h1.line, &broken]);
    site.cp("both/deep/moved", "after", READER);
    h1.awaits(READER, "both/deep/moved", "after");
    site.acknowledged("h1");
    let told = wait_for("the error of h2", PATIENCE, || {
        let told = site.told("h2");
        told["error"].is_string().then_some(told)
    });
    assert!(told["error"].as_str().is_some_and(|e| e.contains("line 2") && e.contains("recipient")), "{told}");
    assert_ne!(site.console.cli(&["export", "--wait"]).code, 0);
    h2.reads(OTHER, "both/deep/moved").ok();
    site.policy(&[&h1.line, &h2.line]);
    h2.awaits(READER, "both/deep/moved", "after");
    site.acknowledged("h2");
    for daemon in [&site.console, &h1.daemon, &h2.daemon] {
        daemon.cli(&["fsck"]).ok();
        daemon.cli(&["log", "--verify"]).ok();
    }
    assert!(h1.refused().is_empty() && h2.refused().is_empty());
}

#[test]
fn a_host_that_missed_rotations_walks_and_one_whose_key_was_revoked_is_joined_again() {
    let mut site = Site::new("share h1 h2 : svc/*\n");
    site.cp("svc/pin", "0", READER);
    let serves = |site: &Site, expected: &str| {
        let h2 = &site.hosts[1];
        site.console.cli(&["export", "--wait"]);
        let done = h2.sweep();
        assert!(done.iter().any(|r| r["outcome"] == "applied"), "{done:?}\n{}", h2.state());
        assert_eq!(h2.reads(READER, "svc/pin").quiet(), expected);
    };
    serves(&site, "0");
    for missed in [1, 2, 5] {
        (0..missed).for_each(|_| drop(site.rotate()));
        let content = missed.to_string();
        site.cp("svc/pin", &content, READER);
        serves(&site, &content);
        assert_eq!(site.hosts[1].trust()["fingerprint"], current(&site.console)["fingerprint"]);
    }

    // A thief has the console as it was: its store, and what unlocks it.
    let stolen = site.hosts[1].trust();
    site.console.stop();
    let mut thief = Daemon::initialised(Setup {
        config: format!("policy = {:?}\n[export]\nconsole = \"hq\"\n", site.home.path().join("thief")),
        binary: Some(env!("CARGO_BIN_EXE_pinfold").into()),
        ..Setup::default()
    });
    sh(&format!(
        "rm -r {0} && cp -a {1} {0} && rm -rf {0}/outbox",
        thief.file("store").display(),
        site.console.file("store").display()
    ))
    .ok();
    site.console.serve();
    let h2 = &site.hosts[1];
    let policy: Vec<&str> = h2.line.split(' ').take(3).collect();
    let booty = site.home.path().join("booty");
    std::fs::create_dir(&booty).expect("it is ours");
    let policy = format!("{} deliver=dir:{}\nshare h2 : svc/*\n", policy.join(" "), booty.display());
    std::fs::write(site.home.path().join("thief"), policy).expect("it is ours");
    thief.serve();
    assert_eq!(current(&thief)["fingerprint"], stolen["fingerprint"], "he has the key");
    let forged = |content: &str| {
        sh(&format!("echo {content} > {}", thief.path("svc/pin"))).quiet();
        thief.cli(&["export", "--again", "--wait"]).ok();
        let mut made: Vec<_> = std::fs::read_dir(&booty).expect("it is there").flatten().map(|e| e.path()).collect();
        made.sort();
        made.pop().expect("a bundle")
    };

    // The console is told of it in time: one rotation, one revocation, one bundle.
    site.rotate();
    site.console.cli(&["signer", "revoke", stolen["fingerprint"].as_str().expect("text")]).ok();
    site.cp("svc/pin", "new key", READER);
    // The key that this host knows is the revoked one: it cannot tell this chain from one that the thief made.
    site.console.cli(&["export", "--wait"]);
    let refused = h2.sweep();
    assert_eq!(refused[0]["outcome"], "refused", "{refused:?}");
    let reason = refused[0]["reason"].as_str().expect("why").to_owned();
    assert!(reason.contains("revoked") && reason.contains("pinfold join hq --signer"), "{reason}");
    assert_eq!(h2.reads(READER, "svc/pin").quiet(), "5", "what was there stays");
    // And from now on it takes nothing of that key's, though nobody has joined anew yet.
    h2.upload("9.pfb", &forged("forged"));
    let refused = h2.sweep();
    assert_eq!(refused[0]["outcome"], "refused", "{refused:?}");
    let key = current(&site.console)["key"].as_str().expect("a key").to_owned();
    h2.daemon.cli(&["join", "hq", "--signer", &key, "--host", "h2"]).ok();
    site.console.cli(&["export", "h2", "--again", "--wait"]).ok();
    assert_eq!(h2.sweep()[0]["outcome"], "applied", "{}", h2.state());
    assert_eq!(h2.reads(READER, "svc/pin").quiet(), "new key");
    h2.upload("10.pfb", &forged("forged again"));
    let refused = h2.sweep();
    assert_eq!(refused[0]["outcome"], "refused", "{refused:?}");
    assert_eq!(h2.reads(READER, "svc/pin").quiet(), "new key");
    h2.daemon.cli(&["fsck"]).ok();
}

#[test]
fn killed_here_or_there_at_any_moment_nothing_is_halved_nor_numbered_twice() {
    let mut site = Site::new("share h1 h2 : svc/*\n");
    site.hosts.iter_mut().for_each(Host::watch);
    let mut serials = std::collections::BTreeMap::new();
    for round in 0..6u64 {
        let content = format!("round {round}");
        site.cp("svc/a", &content, READER);
        site.cp("svc/b", &content, READER);
        // The moments of a round: the wait for more, the bundles, the uploads, the imports.
        std::thread::sleep(Duration::from_millis(300 + 170 * round));
        site.console.kill9();
        let victim = usize::try_from(round % 2).expect("small");
        std::thread::sleep(Duration::from_millis(60 * round));
        site.hosts[victim].daemon.kill9();
        let outbox = site.console.file("store/outbox");
        for host in ["h1", "h2"] {
            for entry in std::fs::read_dir(outbox.join(host)).into_iter().flatten().flatten() {
                if entry.path().extension().is_some_and(|e| e == "pfb") {
                    let bytes = std::fs::read(entry.path()).expect("it is ours");
                    let before = serials.entry((host, entry.file_name())).or_insert_with(|| bytes.clone());
                    assert!(*before == bytes, "{:?} of {host} is the number of two bundles", entry.file_name());
                }
            }
        }
        site.console.serve();
        site.hosts[victim].daemon.serve();
        for host in &site.hosts {
            host.daemon.cli(&["fsck"]).ok();
        }
    }
    for host in &site.hosts {
        host.awaits(READER, "svc/a", "round 5");
        assert_eq!(host.reads(READER, "svc/b").quiet(), "round 5");
        let told = site.acknowledged(host.name);
        assert_eq!(told["outcome"], "applied", "{told}");
    }
    assert!(serials.len() > 2, "{}", serials.len());
    site.console.cli(&["fsck"]).ok();
}

#[test]
fn whoever_may_upload_gains_nothing_by_it() {
    let site = Site::new("share h1 : one/*\nshare h2 : two/*\n");
    let [h1, h2] = &site.hosts;
    site.cp("one/pin", "for h1", READER);
    site.cp("two/pin", "for h2", READER);
    site.console.cli(&["export", "--wait"]);
    wait_for("the bundle for h2", PATIENCE, || (!h2.inbox().is_empty()).then_some(()));
    let of_h1 = h1.inbox().pop().expect("a bundle");
    h2.sweep();
    assert_eq!(h2.reads(READER, "two/pin").quiet(), "for h2");
    let before = h2.trust();

    // As the account, by the same server: links, folders, what is no bundle, names that are none.
    let dir = h2.sshd.client_config();
    let junk = site.home.path().join("junk");
    std::fs::write(&junk, "manifest.json\0 and nothing more").expect("it is ours");
    let commands = format!(
        "put {0} /inbox/1.pfb\nput {0} \"/inbox/a b.pfb\"\nsymlink /etc/shadow /inbox/2.pfb\nln /inbox/1.pfb \
         /inbox/3.pfb\nmkdir /inbox/4.pfb\nput {0} /inbox/4.pfb/5.pfb\n",
        junk.display()
    );
    let batch = site.home.path().join("batch");
    std::fs::write(&batch, commands).expect("it is ours");
    sh(&format!("sftp -b {} -F {} -P {} {}@127.0.0.1", batch.display(), dir.display(), h2.sshd.port, h2.sshd.user))
        .ok();
    // Out of its folder it cannot write.
    for command in ["put {junk} /acks/x", "put {junk} /x.pfb", "rename /inbox/1.pfb /acks/1.pfb"] {
        std::fs::write(&batch, command.replace("{junk}", &junk.display().to_string())).expect("it is ours");
        let out = sh(&format!(
            "sftp -b {} -F {} -P {} {}@127.0.0.1",
            batch.display(),
            dir.display(),
            h2.sshd.port,
            h2.sshd.user
        ));
        assert_ne!(out.code, 0, "{command}");
    }
    h2.upload("99999999999999.pfb", &of_h1);
    h2.upload("7\n.pfb", &junk);
    h2.upload("\u{1b}[31m.pfb", &junk);
    h2.upload("..pfb", &junk);
    let huge = h2.sshd.inbox().join("8.pfb");
    std::fs::copy(&of_h1, &huge).expect("the inbox");
    std::fs::File::options().write(true).open(&huge).and_then(|file| file.set_len(10 << 30)).expect("the inbox");
    chown(&huge, Some(h2.sshd.uid), Some(h2.sshd.gid)).expect("we are root");
    let begun = Instant::now();
    let out = h2.daemon.cli(&["import", "--inbox"]).ok();
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert!(!out.text().contains('\u{1b}') && !out.stderr.contains('\u{1b}'), "{:?}", out.stderr);
    // What begins with a dot is still being uploaded.
    assert_eq!(h2.inbox(), [h2.sshd.inbox().join("..pfb")], "{}", h2.state());
    for why in ["for the host h1", "too large", "does not begin", "not a regular file", "more than one name"] {
        assert!(h2.refused().iter().any(|reason| reason.contains(why)), "{why}: {:?}", h2.refused());
    }
    assert_eq!(h2.reads(READER, "two/pin").quiet(), "for h2");
    h2.reads("root", "one/pin").refused("No such file");
    assert_eq!(h2.trust()["serial"], before["serial"]);

    // While it is being copied, others are put in its place, as fast as it goes.
    let begun = Instant::now();
    let inbox = h2.sshd.inbox();
    let script = format!(
        "cd {} && for n in $(seq 300); do cp {} .x 2>/dev/null; mv .x 50.pfb; ln -sf /etc/shadow .y; mv .y 50.pfb; done",
        inbox.display(),
        junk.display()
    );
    sh(&format!("chmod 644 {}; chmod 755 {}", junk.display(), site.home.path().display())).ok();
    let mut swapping = User { uid: h2.sshd.uid, gid: h2.sshd.gid, groups: &[] }.command("/bin/sh");
    let mut swapping = swapping.args(["-c", &script]).spawn().expect("a shell");
    while swapping.try_wait().expect("it is our child").is_none() {
        h2.sweep();
        assert!(begun.elapsed() < PATIENCE, "it does not end");
    }
    h2.sweep();
    let kept = sh(&format!("grep -rl root: {} || true", h2.daemon.file("store/refused").display())).text();
    assert_eq!(kept, "", "a file of root's was taken for an upload");
    assert!(sh(&format!("ls {}", h2.daemon.file("store/incoming").display())).text().is_empty());
    // A bundle still comes.
    site.cp("two/pin", "still", READER);
    site.console.cli(&["export", "--wait"]);
    h2.sweep();
    assert_eq!(h2.reads(READER, "two/pin").quiet(), "still", "{}", h2.state());
}
