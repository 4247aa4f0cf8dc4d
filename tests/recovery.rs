//! Recovery recipients of every kind, as whoever lost the passphrase meets them: stock age, a locked daemon, another machine. And every place
//! that takes a recipient.
#![allow(clippy::unwrap_used, reason = "a test: a panic is how it fails")]

use crate::common::daemon::Daemon;
use crate::common::process::{Out, run, sh};
use std::path::{Path, PathBuf};
use std::process::Command;

const PLUGIN: &str = include_str!("fixtures/age-plugin-one.py");
/// Its identity, and the recipients that it opens: keys that are 1 and 0.
const TOKEN: &str = "AGE-PLUGIN-ONE-1DAHX2HSWFFU\n";
const TAG: &str = "age1tag1qd43050juykyy3lchnnw2caygre8wqmasyk7kvaq7jsnj3wcnrpfvt5hxye";
const OTHER_PLUGIN: &str = "age1yubikey1qgpqyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqszqgpqy8rymap";

fn tagpq() -> String {
    let end = "ydvtaruhp93py079uumjk8fzq7fmsxlvp9h4n8g855yu5tkycc2tylc6zutlp5lum3mn7kjnup70pv27wxdtkkv27em9mvsrgx7l4rag8q3agq";
    format!("age1tagpq1{}{end}", "q".repeat(1895))
}

/// A recipient, and the file that opens what is sealed to it.
struct Key {
    recipient: String,
    file: PathBuf,
    /// Whether pinfold opens it by itself, or age with its plugin.
    native: bool,
}

/// One of each kind.
fn keys(folder: &Path) -> Vec<Key> {
    let file = |name: &str| folder.join(name);
    std::fs::write(file("age-plugin-one"), PLUGIN).unwrap();
    std::fs::write(file("token.txt"), TOKEN).unwrap();
    sh(&format!(
        "cd {} && chmod 755 age-plugin-one && age-keygen -o x25519.key && ssh-keygen -q -t ed25519 -N '' -C me@desk -f ssh",
        folder.display()
    ))
    .ok();
    let x25519 = sh(&format!("age-keygen -y {}", file("x25519.key").display())).ok().text().trim().to_owned();
    let ssh = std::fs::read_to_string(file("ssh.pub")).unwrap().trim().to_owned();
    vec![
        Key { recipient: x25519, file: file("x25519.key"), native: true },
        Key { recipient: ssh, file: file("ssh"), native: true },
        Key { recipient: TAG.into(), file: file("token.txt"), native: false },
        Key { recipient: tagpq(), file: file("token.txt"), native: false },
    ]
}

/// Stock age, with the plugin.
fn age(folder: &Path, key: &Key, sealed: &[u8]) -> Out {
    let mut command = Command::new("age");
    command.env("PATH", format!("{}:/usr/bin:/bin", folder.display())).arg("-d").arg("-i").arg(&key.file);
    run(command, sealed, "age -d")
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A configuration for a store elsewhere, as of another machine; and pinfold with it.
struct Elsewhere(tempfile::TempDir);

impl Elsewhere {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        std::fs::create_dir(at("secrets")).unwrap();
        let config = format!(
            "store = {:?}\nmountpoint = {:?}\ncontrol = {:?}\naudit_log = {:?}\n",
            at("store"),
            at("secrets"),
            at("control.sock"),
            at("audit.log")
        );
        std::fs::write(at("pinfold.toml"), config).unwrap();
        std::fs::write(at("passphrase"), "a passphrase that was lost\n").unwrap();
        Elsewhere(home)
    }

    fn cli(&self, args: &[&str], input: &[u8]) -> Out {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pinfold"));
        command.arg("--config").arg(self.0.path().join("pinfold.toml")).args(args);
        run(command, input, &format!("pinfold {}", args.join(" ")))
    }

    fn init(&self, recipient: &str) -> Out {
        let keyfile = self.0.path().join("identity.key");
        self.cli(&["init", "--recovery", recipient, "--keyfile", text(&keyfile)], b"")
    }

    fn clear(&self) {
        let _ = std::fs::remove_dir_all(self.0.path().join("store"));
        let _ = std::fs::remove_file(self.0.path().join("identity.key"));
    }
}

#[test]
fn each_kind_opens_everything_when_all_else_is_lost() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path();
    let daemon = Daemon::keyed("");
    let elsewhere = Elsewhere::new();
    daemon.cli_with(&["put", "-p", "svc/pin"], b"4711").ok();
    let mut former: Option<Key> = None;
    for key in keys(folder) {
        daemon.cli(&["recovery", "add", "--only", &key.recipient]).ok();
        let kept = key.recipient.trim_end_matches(" me@desk");
        assert_eq!(daemon.json(&["recovery", "ls", "--json"]), serde_json::json!([kept]));
        let quantum = daemon.json(&["status", "--json"])["quantum"].as_str().unwrap().to_owned();
        assert!(quantum.contains("tomorrow's quantum computer"), "{quantum}");
        assert_eq!(quantum.contains("a sealed file that is copied today stays closed"), kept.starts_with("age1tagpq1"));
        // What is written through the tree from now on, too.
        sh(&format!("printf 4711 > {}", daemon.path("svc/pin"))).ok();
        // A sealed file, and the escrow, by stock age; by the former key no more.
        let blob = daemon.cli(&["fsck", "--extract", "svc/pin"]).ok().stdout;
        assert_eq!(age(folder, &key, &blob).ok().text(), "4711");
        let escrow = daemon.cli(&["recovery", "escrow"]).ok().stdout;
        let identity = age(folder, &key, &escrow).ok().stdout;
        assert!(identity.starts_with(b"AGE-SECRET-KEY-1"));
        // The token has the same file for both of its kinds.
        if let Some(former) = former.filter(|former| former.file != key.file) {
            assert_ne!(age(folder, &former, &blob).code, 0);
            assert_ne!(age(folder, &former, &escrow).code, 0);
            daemon
                .cli(&["recovery", "rm", &key.recipient, "--recovery", text(&former.file)])
                .refused("not one of the store's");
        }
        // A locked daemon.
        daemon.lock();
        assert_eq!(daemon.cli(&["recovery", "escrow"]).ok().stdout, escrow, "it is there while locked");
        if key.native {
            daemon.cli(&["unlock", "--recovery", text(&key.file)]).ok();
        } else {
            daemon.cli(&["unlock", "--recovery", text(&key.file)]).refused("pinfold recovery escrow | age -d");
            daemon.cli_with(&["unlock", "--recovery", "-"], &identity).ok();
        }
        assert_eq!(sh(&format!("cat {}", daemon.path("svc/pin"))).text(), "4711");
        // Another machine.
        let backup = folder.join("backup.tar");
        daemon.cli(&["backup", "--force", text(&backup)]).ok();
        let recovered = folder.join("recovered.key");
        if key.native {
            elsewhere.cli(&["restore", text(&backup), "--recovery", text(&key.file)], b"").ok();
            std::fs::copy(&key.file, &recovered).unwrap();
        } else {
            elsewhere.cli(&["restore", text(&backup)], b"").ok();
            let escrow = elsewhere.cli(&["recovery", "escrow"], b"").ok().stdout;
            std::fs::write(&recovered, age(folder, &key, &escrow).ok().stdout).unwrap();
        }
        elsewhere.cli(&["fsck", "--deep", "--recovery", text(&recovered)], b"").ok();
        let blob = elsewhere.cli(&["fsck", "--extract", "svc/pin", "--recovery", text(&recovered)], b"").ok().stdout;
        assert_eq!(age(folder, &key, &blob).ok().text(), "4711");
        elsewhere.clear();
        // A store that is made with it from the beginning.
        elsewhere.init(&key.recipient).ok();
        let escrow = elsewhere.cli(&["recovery", "escrow"], b"").ok().stdout;
        let identity = age(folder, &key, &escrow).ok().stdout;
        elsewhere.cli(&["fsck", "--deep", "--recovery", "-"], &identity).ok();
        elsewhere.clear();
        former = Some(key);
    }
    let doctor = daemon.cli(&["doctor"]).text();
    let said = doctor.lines().find(|line| line.contains("quantum computer")).unwrap_or_else(|| panic!("{doctor}"));
    assert!(
        said.trim_start().starts_with("ok") && said.contains("a sealed file that is copied today stays closed"),
        "{said}"
    );
    // The last one resists a quantum computer: none of the others goes beside it, nor it beside them.
    let x25519 = keys(tempfile::tempdir().unwrap().path()).remove(0).recipient;
    daemon.cli(&["recovery", "add", &x25519]).refused("cannot be mixed");
    daemon.cli(&["recovery", "add", "--only", &x25519]).ok();
    daemon.cli(&["recovery", "add", &tagpq()]).refused("recovery add --only");
    daemon.cli(&["recovery", "add", TAG]).ok();
    assert_eq!(daemon.cli(&["recovery", "add", "--only", TAG]).code, 0);
    assert_eq!(daemon.cli(&["recovery", "add", "--only", TAG]).code, 8, "nothing to do");
}

#[test]
fn what_protects_the_identity_may_be_any_of_them() {
    let home = tempfile::tempdir().unwrap();
    let daemon = Daemon::keyed("");
    let names = ["x25519", "ssh", "tag", "tagpq"];
    for (name, key) in names.into_iter().zip(keys(home.path())) {
        daemon.cli(&["identity", "add", name, "--recipient", &key.recipient]).ok();
        let listed = daemon.json(&["identity", "ls", "--json"]);
        let opened_by = listed.as_array().unwrap().iter().find(|p| p["name"] == name).unwrap()["opened_by"].clone();
        assert_eq!(opened_by, if key.native { "recipient" } else { "token" });
        daemon.lock();
        if key.native {
            daemon.cli(&["unlock", "--keyfile", text(&key.file)]).ok();
        } else {
            let sealed = std::fs::read(daemon.file(&format!("store/identity.{name}.age"))).unwrap();
            let identity = age(home.path(), &key, &sealed).ok().stdout;
            daemon.cli_with(&["unlock", "--keyfile", "-"], &identity).ok();
        }
    }
    // One that only a plugin opens is not what may be left.
    daemon.cli(&["identity", "rm", "x25519"]).ok();
    daemon.cli(&["identity", "rm", "ssh"]).refused("only protector of the identity that opens it here");
}

#[test]
fn every_place_that_takes_a_recipient_says_the_same_of_it() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path();
    let good = keys(folder);
    let bad = |kind: &str| {
        sh(&format!("ssh-keygen -q -t {kind} -N '' -C '' -f {}/{kind}", folder.display())).ok();
        std::fs::read_to_string(folder.join(format!("{kind}.pub"))).unwrap().trim().to_owned()
    };
    let ssh = good[1].recipient.trim_end_matches(" me@desk").to_owned();
    let swapped = if good[0].recipient.ends_with('q') { "p" } else { "q" };
    let mistyped = format!("{}{swapped}", &good[0].recipient[..good[0].recipient.len() - 1]);
    let secret = std::fs::read_to_string(&good[0].file).unwrap();
    let (token, everywhere) = ("a host opens its bundles with nobody there", "");
    // What it is, and what is said as a recovery recipient, of the identity, as a host; nothing if it is taken.
    let cases: &[(&str, [&str; 3])] = &[
        (&good[0].recipient, [everywhere; 3]),
        (&ssh, [everywhere; 3]),
        (TAG, ["", "", token]),
        (&tagpq(), ["", "", token]),
        (OTHER_PLUGIN, ["its program would have to run for every version", "identity add NAME --plugin", token]),
        (&mistyped, ["mistyped or cut off"; 3]),
        (&good[0].recipient.to_uppercase(), ["small letters"; 3]),
        ("age1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq5cu47z", ["anybody could open"; 3]),
        (&format!("age1pq1{}qqtn9x8d", "q".repeat(1944)), ["use age1tagpq1…"; 3]),
        (&bad("rsa"), ["nothing is encrypted to ssh-rsa keys"; 3]),
        (&bad("ecdsa"), ["nothing is encrypted to ecdsa-sha2-nistp256 keys"; 3]),
        (secret.lines().last().unwrap(), ["this is a secret key"; 3]),
        ("garbage", ["not a recipient"; 3]),
        (&"x".repeat(5000), ["not a recipient"; 3]),
    ];
    let daemon = Daemon::keyed("");
    let elsewhere = Elsewhere::new();
    let policy = elsewhere.0.path().join("policy");
    for (number, (text_of, told)) in cases.iter().enumerate() {
        let name = format!("n{number}");
        let judge = |out: Out, told: &str| {
            let said = format!("{}{}", out.text(), out.stderr);
            assert_eq!(out.code == 0, told.is_empty(), "{}: {said}", out.what);
            assert!(said.contains(told), "{}: {said}", out.what);
        };
        judge(elsewhere.init(text_of), told[0]);
        elsewhere.clear();
        judge(daemon.cli(&["recovery", "add", "--only", text_of]), told[0]);
        judge(daemon.cli(&["identity", "add", &name, "--recipient", text_of]), told[1]);
        if told[1].is_empty() {
            daemon.cli(&["identity", "rm", &name]);
        }
        std::fs::write(&policy, format!("host h1 {text_of}\n")).unwrap();
        judge(elsewhere.cli(&["policy", "check", text(&policy)], b""), told[2]);
    }
    // What was refused left nothing: the last that was taken is the only one.
    assert_eq!(daemon.json(&["recovery", "ls", "--json"]), serde_json::json!([tagpq()]));
    assert!(!elsewhere.0.path().join("store").exists() && !elsewhere.0.path().join("identity.key").exists());
}
