//! A console that is a real daemon: a secret enrolled by cp arrives as a bundle where the policy says, also when the daemon
//! is killed in the middle, and stock tools agree with what it made.

use crate::common;

use common::{Daemon, Setup, sh, wait_for};
use serde_json::Value;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);

/// A console of these hosts, each with a folder that its bundles are brought to, and an age key of its own.
struct Console {
    daemon: Daemon,
    home: tempfile::TempDir,
}

impl Console {
    fn new(hosts: &[&str], shares: &str) -> Console {
        common::in_the_lab();
        let home = tempfile::Builder::new().prefix("pinfold-hosts-").tempdir().expect("a temporary folder");
        let mut policy = String::new();
        for host in hosts {
            let (folder, key) = (home.path().join(host), home.path().join(format!("{host}.key")));
            std::fs::create_dir(&folder).expect("a host's folder");
            sh(&format!("age-keygen -o {} 2>/dev/null", key.display())).ok();
            let public = sh(&format!("age-keygen -y {}", key.display())).quiet();
            let _ = writeln!(policy, "host {host} {} deliver=dir:{}", public.trim(), folder.display());
        }
        std::fs::write(home.path().join("policy"), policy + shares).expect("the policy");
        let config = format!(
            "policy = {:?}\n[export]\nconsole = \"lab-console\"\ndebounce = \"100ms\"\n",
            home.path().join("policy")
        );
        Console { daemon: Daemon::with(Setup { config, ..Setup::default() }), home }
    }

    fn bundles(&self, host: &str) -> Vec<PathBuf> {
        let folder = std::fs::read_dir(self.home.path().join(host)).expect("the host's folder");
        let mut all: Vec<PathBuf> = folder.map(|entry| entry.expect("an entry").path()).collect();
        all.retain(|path| path.extension().is_some_and(|e| e == "pfb"));
        all.sort();
        all
    }

    /// The newest bundle of a host, taken apart by stock tools alone; the text of one file in it.
    fn shown_by_stock_tools(&self, host: &str, path: &str) -> Option<String> {
        let newest = self.bundles(host).pop()?;
        let listing = self.daemon.json(&["signer", "ls", "--json"]);
        let key = listing["signers"].as_array().expect("signers").last().expect("one")["key"]
            .as_str()
            .expect("text")
            .to_owned();
        let work = tempfile::tempdir().expect("a temporary folder");
        let script = format!(
            "set -e; cd {work}; tar xf {bundle}; printf 'lab-console namespaces=\"pinfold-bundle\" %s\\n' '{key}' > allowed\n\
             ssh-keygen -Y verify -f allowed -I lab-console -n pinfold-bundle -s manifest.json.sig < manifest.json >&2\n\
             grep -q \"$(sha256sum payload.age | cut -d' ' -f1)\" manifest.json\n\
             age -d -i {home}/{host}.key payload.age | tar xf -; test ! -e files/{path} || cat files/{path}",
            work = work.path().display(),
            bundle = newest.display(),
            home = self.home.path().display(),
        );
        Some(sh(&script).ok().text())
    }

    fn hosts(&self) -> Vec<Value> {
        self.daemon.json(&["hosts", "--json"]).as_array().expect("a list").clone()
    }
}

#[test]
fn a_secret_enrolled_by_cp_is_brought_to_its_hosts_within_two_seconds() {
    let console = Console::new(&["h1", "h2"], "share h1 : svc/*\nshare h2 : other/*\n");
    let daemon = &console.daemon;
    wait_for("the first bundles", PATIENCE, || {
        console.hosts().iter().all(|host| host["delivered"].is_u64()).then_some(())
    });
    let before = (console.bundles("h1").len(), console.bundles("h2").len());
    sh(&format!("mkdir {}; echo 1234 > {}", daemon.path("svc"), daemon.path("svc/pin"))).quiet();
    let begun = Instant::now();
    wait_for("the secret's bundle", PATIENCE, || (console.bundles("h1").len() > before.0).then_some(()));
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(2), "it took {took:?}");
    assert_eq!(console.shown_by_stock_tools("h1", "svc/pin").as_deref(), Some("1234\n"));
    assert_eq!(console.bundles("h2").len(), before.1, "never on the other");
    // Nothing is left to do, and the command says so.
    assert_eq!(daemon.cli(&["export"]).code, 8);
    assert_eq!(daemon.cli(&["export", "--pretend"]).code, 8);
    sh(&format!("echo 5678 > {}", daemon.path("other_secret"))).quiet();
    assert_eq!(daemon.cli(&["export", "--pretend"]).code, 8, "nobody's");
    // Rotated: everybody gets a new one, by hand and waited for.
    daemon.cli(&["signer", "rotate"]).ok();
    let out = daemon.cli(&["export", "--wait", "--json"]);
    assert!(out.code == 0, "{}", out.text());
    assert_eq!(console.shown_by_stock_tools("h1", "svc/pin").as_deref(), Some("1234\n"));
    daemon.cli(&["export", "nobody"]).refused("no host");
    let exported: Vec<Value> =
        daemon.audit().into_iter().filter(|e| e["op"] == "export" && e["path"] == "svc/pin").collect();
    assert!(!exported.is_empty() && exported.iter().all(|e| e["reason"].as_str().is_some_and(|r| r.contains("h1"))));
    daemon.cli(&["log", "--verify"]).ok();
}

#[test]
fn killed_in_the_middle_it_goes_on_and_a_host_that_cannot_be_reached_harms_itself_alone() {
    let mut console = Console::new(&["h1", "h2"], "share h1 h2 : svc/**\n");
    sh(&format!("mkdir {}", console.daemon.path("svc"))).quiet();
    std::fs::remove_dir_all(console.home.path().join("h2")).expect("the host's folder");
    for round in 0..5 {
        sh(&format!("echo {round} > {}", console.daemon.path("svc/pin"))).quiet();
        std::thread::sleep(Duration::from_millis(60 * round));
        console.daemon.kill9();
        console.daemon.serve();
    }
    wait_for("the last one to be at h1", PATIENCE, || {
        (console.shown_by_stock_tools("h1", "svc/pin")? == "4\n").then_some(())
    });
    let h2 = wait_for("the failure", PATIENCE, || {
        console.hosts().into_iter().find(|host| host["host"] == "h2" && host["tries"].as_u64() > Some(0))
    });
    // What was made before its folder went may have reached it; nothing after.
    let made = h2["serial"].as_u64();
    assert!(h2["error"].is_string() && made.is_some() && h2["delivered"].as_u64() < made, "{h2}");
    assert_ne!(console.daemon.cli(&["export", "--wait", "--timeout", "5s"]).code, 0);
    std::fs::create_dir(console.home.path().join("h2")).expect("the host's folder");
    // By hand it is tried at once.
    console.daemon.cli(&["export", "--wait"]);
    wait_for("it to be at h2", PATIENCE, || (!console.bundles("h2").is_empty()).then_some(()));
    assert_eq!(console.shown_by_stock_tools("h2", "svc/pin").as_deref(), Some("4\n"));
}
