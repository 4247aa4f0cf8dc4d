//! Kills, power cuts and corruption, through the daemon: what close(2) returned 0 for is there afterwards, and what is
//! damaged is refused, never served. `PINFOLD_TORTURE=full` is the long form.
#![allow(clippy::unwrap_used, reason = "a test's helpers fail as the test does")]

use crate::common;

use common::daemon::{binary, connection, signal};
use common::{Daemon, Setup, sh, wait_for};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);
/// How many names the writer writes to, and how many contents it has.
const NAMES: u64 = 20;
const CONTENTS: u64 = 16;
/// `pinfold: error`: the store is damaged.
const DAMAGED: i32 = 5;
/// The exit code for what is so already.
const NOTHING_TO_DO: i32 = 8;

fn rounds(short: u32, full: u32) -> u32 {
    let asked = std::env::var("PINFOLD_TORTURE");
    match asked.as_deref() {
        Ok("full") => full,
        Ok(other) => panic!("PINFOLD_TORTURE={other}: only 'full' means something"),
        Err(_) => short,
    }
}

/// Numbers that are the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// A daemon that unlocks by itself, from a key file outside its home: hundreds of starts without a passphrase's work.
struct Keyed {
    daemon: Daemon,
    keys: tempfile::TempDir,
}

impl Keyed {
    fn new(base: Option<PathBuf>) -> Self {
        let keys = tempfile::Builder::new().prefix("pinfold-keys-").tempdir().unwrap();
        fs::set_permissions(keys.path(), PermissionsExt::from_mode(0o700)).unwrap();
        let keyfile = keys.path().join("identity.key");
        let mountpoint = base.is_some().then(|| keys.path().join("secrets"));
        let config = format!("[unlock]\nkeyfile = {keyfile:?}\n");
        let daemon = Daemon::initialised(Setup { config, unlock: false, mountpoint, base, ..Setup::default() });
        // The store that was just made has a passphrase; this one has a key file.
        fs::remove_dir_all(daemon.file("store")).unwrap();
        fs::remove_file(daemon.file("recovery.key")).unwrap();
        // The configuration is the test's own: a power cut may have anything but that.
        sh("sync").quiet();
        let recovery = daemon.file("recovery.key");
        daemon.cli(&["init", "--keyfile", text(&keyfile), "--recovery-out", text(&recovery)]).ok();
        Keyed { daemon, keys }
    }

    /// Starts the daemon and waits until it has unlocked by itself.
    fn serve(&mut self) {
        self.daemon.serve();
        wait_for("the daemon to unlock", PATIENCE, || {
            (self.daemon.json(&["status", "--json"])["locked"] == serde_json::Value::Bool(false)).then_some(())
        });
    }

    fn keyfile(&self) -> PathBuf {
        self.keys.path().join("identity.key")
    }
}

/// A child that copies numbered contents into the tree, one after the other, and notes each number whose cp succeeded.
struct Writer {
    dir: tempfile::TempDir,
    next: u64,
    child: Option<Child>,
}

impl Writer {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("pinfold-writer-").tempdir().unwrap();
        for i in 0..CONTENTS {
            fs::write(dir.path().join(format!("content{i}")), content(i)).unwrap();
        }
        fs::write(dir.path().join("acknowledged"), "").unwrap();
        Writer { dir, next: 1, child: None }
    }

    fn start(&mut self, root: &Path) {
        let script = format!(
            "cd {dir:?}; rm -f stop; i={next}
             while [ ! -e stop ]; do
                 {{ echo $i; cat content$((i % {CONTENTS})); }} > new
                 cp new {root:?}/w$((i % {NAMES})) 2>> errors && echo $i >> acknowledged
                 i=$((i + 1))
             done
             echo $i > next",
            dir = self.dir.path(),
            next = self.next,
        );
        let child = Command::new("/bin/bash").arg("-c").arg(script).stdin(Stdio::null()).spawn().unwrap();
        self.child = Some(child);
    }

    /// Ends it, after the daemon it wrote to is dead.
    fn stop(&mut self) {
        fs::write(self.dir.path().join("stop"), "").unwrap();
        let mut child = self.child.take().expect("it was started");
        wait_for("the end of the writer", PATIENCE, || child.try_wait().unwrap());
        self.next = fs::read_to_string(self.dir.path().join("next")).unwrap().trim().parse().unwrap();
    }

    fn acknowledged(&self) -> Vec<u64> {
        let lines = fs::read_to_string(self.dir.path().join("acknowledged")).unwrap();
        lines.lines().map(|l| l.parse().unwrap()).collect()
    }

    /// Every name has what was acknowledged last, or something newer, and has it whole.
    #[track_caller]
    fn check(&self, root: &Path, acknowledged: &[u64], when: &str) {
        let mut last = BTreeMap::new();
        for number in acknowledged {
            last.insert(number % NAMES, *number);
        }
        let names: Vec<String> = last.keys().map(|k| format!("w{k}")).collect();
        let found = read_all(root, &names);
        for (name, number) in last {
            let got = found[&format!("w{name}")].as_ref().unwrap_or_else(|e| panic!("{when}: w{name}: {e}"));
            let end = got.iter().position(|b| *b == b'\n');
            let end = end.unwrap_or_else(|| panic!("{when}: w{name} has {} bytes and no number", got.len()));
            let has: u64 = std::str::from_utf8(&got[..end]).unwrap().parse().unwrap();
            assert!(has >= number && has % NAMES == name, "{when}: w{name} has {has}, and {number} was acknowledged");
            assert!(got[end + 1..] == content(has % CONTENTS), "{when}: w{name}, number {has}, is not whole");
        }
    }
}

/// Bytes of many lengths: less than a line, more than sled keeps in one record, more than one write(2).
fn content(i: u64) -> Vec<u8> {
    let len = [10, 64, 700, 3000, 5990, 6100, 20_000, 150_000][i as usize % 8];
    let mut dice = Dice(i + 1);
    (0..len).map(|_| dice.below(256) as u8).collect()
}

/// What a child reads of each name in the tree: its bytes, or what cat said.
fn read_all(root: &Path, names: &[String]) -> BTreeMap<String, Result<Vec<u8>, String>> {
    let out = tempfile::tempdir().unwrap();
    let list = names.join(" ");
    let script =
        format!("cd {:?}; for f in {list}; do cat {root:?}/$f > $f 2> $f.error || echo >> $f.failed; done", out.path());
    sh(&script).ok();
    let read = |name: &String| {
        let at = |suffix: &str| out.path().join(format!("{name}{suffix}"));
        let result = if at(".failed").exists() {
            Err(fs::read_to_string(at(".error")).unwrap())
        } else {
            Ok(fs::read(at("")).unwrap())
        };
        (name.clone(), result)
    };
    names.iter().map(read).collect()
}

#[test]
fn no_acknowledged_commit_is_lost_to_a_kill() {
    let mut keyed = Keyed::new(None);
    let mut writer = Writer::new();
    let mut dice = Dice(11);
    keyed.serve();
    for round in 0..rounds(10, 100) {
        let before = writer.acknowledged().len();
        writer.start(keyed.daemon.root());
        wait_for("the first commit", PATIENCE, || (writer.acknowledged().len() > before).then_some(()));
        // The kill must come at any point of a commit: there is no event to wait for.
        std::thread::sleep(Duration::from_micros(dice.below(300_000)));
        keyed.daemon.kill9();
        writer.stop();
        keyed.serve();
        writer.check(keyed.daemon.root(), &writer.acknowledged(), &format!("kill {round}"));
    }
    eprintln!("{} commits were acknowledged", writer.acknowledged().len());
    keyed.daemon.cli(&["fsck", "--deep"]).ok();
    keyed.daemon.stop();
}

/// An ext4 file system in a file, mounted; what it has not been told to sync is not in the file.
struct Disk {
    dir: tempfile::TempDir,
}

impl Disk {
    fn new() -> Self {
        let disk = Disk { dir: tempfile::Builder::new().prefix("pinfold-disk-").tempdir().unwrap() };
        fs::create_dir(disk.mounted()).unwrap();
        sh(&format!("truncate -s 400M {0:?} && mkfs.ext4 -q -F {0:?}", disk.image())).quiet();
        disk.mount();
        fs::set_permissions(disk.dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        disk
    }

    fn image(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    fn mounted(&self) -> PathBuf {
        self.dir.path().join("mounted")
    }

    fn mount(&self) {
        sh(&format!("mount -o loop {:?} {:?}", self.image(), self.mounted())).quiet();
    }

    /// What is on the disk at this moment.
    fn copy(&self) {
        sh(&format!("cp --sparse=always {0:?} {0:?}.copy", self.image())).quiet();
    }

    /// The power comes back: the disk is what the last copy is.
    fn replace(&self) {
        sh(&format!("umount {:?} && mv {1:?}.copy {1:?}", self.mounted(), self.image())).quiet();
        self.mount();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.mounted()).status();
    }
}

#[test]
fn no_acknowledged_commit_is_lost_to_a_power_cut() {
    let disk = Disk::new();
    let mut keyed = Keyed::new(Some(disk.mounted()));
    // What `init` has said it made is there, too: no sync here.
    disk.copy();
    disk.replace();
    let mut writer = Writer::new();
    let mut dice = Dice(12);
    keyed.serve();
    for round in 0..rounds(3, 20) {
        let before = writer.acknowledged().len();
        writer.start(keyed.daemon.root());
        wait_for("the first commit", PATIENCE, || (writer.acknowledged().len() > before).then_some(()));
        std::thread::sleep(Duration::from_micros(dice.below(800_000)));
        signal(keyed.daemon.pid(), libc::SIGSTOP);
        disk.copy();
        let acknowledged = writer.acknowledged();
        keyed.daemon.kill9();
        writer.stop();
        disk.replace();
        keyed.serve();
        writer.check(keyed.daemon.root(), &acknowledged, &format!("power cut {round}"));
        // What is checked next time is what is on this disk, or newer.
        let kept: String = acknowledged.iter().map(|n| format!("{n}\n")).collect();
        fs::write(writer.dir.path().join("acknowledged"), kept).unwrap();
    }
    keyed.daemon.cli(&["fsck", "--deep"]).ok();
    keyed.daemon.stop();
    drop(keyed);
}

/// How a daemon took to a damaged store.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Verdict {
    /// It did not open.
    Refused,
    /// It opened, and some secrets were refused.
    Partly,
    /// Everything was there.
    Harmless,
}

struct Patient {
    keyed: Keyed,
    pristine: PathBuf,
    expected: BTreeMap<String, Vec<u8>>,
}

impl Patient {
    /// A store with secrets of all lengths, most with several versions; stopped; and a backup of it.
    fn new() -> Self {
        let mut keyed = Keyed::new(None);
        keyed.serve();
        let mut expected = BTreeMap::new();
        for i in 0..60 {
            let name = format!("s{}", i % 25);
            let bytes = content(i);
            keyed.daemon.cli_with(&["put", &name], &bytes).ok();
            expected.insert(name, bytes);
        }
        let saved = keyed.daemon.file("backup.tar");
        keyed.daemon.cli(&["backup", text(&saved)]).ok();
        keyed.daemon.stop();
        let pristine = keyed.daemon.file("pristine");
        sh(&format!("cp -a {:?} {pristine:?}", keyed.daemon.file("store"))).quiet();
        Patient { keyed, pristine, expected }
    }

    fn heal(&self) {
        let store = self.keyed.daemon.file("store");
        sh(&format!("rm -rf {store:?} && cp -a {:?} {store:?}", self.pristine)).quiet();
    }

    /// Flips a bit of a file of the store, or cuts it. Says what it did.
    fn harm(&self, dice: &mut Dice) -> String {
        let store = self.keyed.daemon.file("store");
        let mut files = Vec::new();
        list(&store, &mut files);
        let path = &files[dice.below(files.len() as u64) as usize];
        let file = fs::File::options().read(true).write(true).open(path).unwrap();
        let bytes = fs::read(path).unwrap();
        // Most of the log's last segment is empty: aim where something is.
        let used = bytes.iter().rposition(|b| *b != 0).map_or(1, |p| p as u64 + 1);
        let at = dice.below(used);
        let name = path.strip_prefix(&store).unwrap().display();
        if dice.below(4) == 0 {
            file.set_len(at).unwrap();
            format!("{name} cut at {at}")
        } else {
            let bit = dice.below(8);
            file.write_all_at(&[bytes[at as usize] ^ 1 << bit], at).unwrap();
            format!("{name}: bit {bit} of byte {at}")
        }
    }

    /// Starts the daemon on the store as it is, and reads everything it gives.
    #[track_caller]
    fn examine(&self, what: &str) -> Verdict {
        let daemon = &self.keyed.daemon;
        let logged = daemon.log().len();
        let log = fs::File::options().create(true).append(true).open(daemon.file("daemon.log")).unwrap();
        let mut child = Command::new(binary())
            .arg("--config")
            .arg(daemon.file("pinfold.toml"))
            .arg("mount")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let ended = wait_for(&format!("the daemon's answer to: {what}"), PATIENCE, || {
            if let Some(status) = child.try_wait().unwrap() {
                return Some(Some(status));
            }
            let mounted = connection(daemon.root()).is_some();
            (mounted && daemon.cli(&["status", "--json"]).code == 0).then_some(None)
        });
        let said = || daemon.log()[logged..].to_owned();
        let verdict = match ended {
            Some(status) => {
                assert_eq!(status.code(), Some(DAMAGED), "{what}: the daemon ended so, saying: {}", said());
                Verdict::Refused
            }
            None => {
                let verdict = self.visit(what);
                signal(child.id(), libc::SIGTERM);
                let status = wait_for("the end of the daemon", PATIENCE, || child.try_wait().unwrap());
                assert!(status.success(), "{what}: the daemon ended so: {status}: {}", said());
                verdict
            }
        };
        assert_eq!(connection(daemon.root()), None, "{what}: its mount is left");
        assert!(!said().contains("panicked at"), "{what}: the daemon panicked: {}", said());
        verdict
    }

    fn visit(&self, what: &str) -> Verdict {
        let daemon = &self.keyed.daemon;
        if daemon.json(&["status", "--json"])["locked"] == serde_json::Value::Bool(true) {
            let keyfile = self.keyed.keyfile();
            let out = daemon.cli(&["unlock", "--keyfile", text(&keyfile)]);
            // Or the daemon was just about to unlock it by itself.
            if out.code != NOTHING_TO_DO {
                assert_eq!(out.code, DAMAGED, "{what}: unlocking said: {}", out.stderr);
                return Verdict::Refused;
            }
        }
        let names: Vec<String> = self.expected.keys().cloned().collect();
        let mut refused = 0;
        for (name, got) in read_all(daemon.root(), &names) {
            match got {
                Ok(bytes) => assert!(bytes == self.expected[&name], "{what}: {name} was served altered"),
                Err(said) => {
                    assert!(said.contains("Bad message"), "{what}: {name}: {said}");
                    refused += 1;
                }
            }
        }
        let checked = daemon.cli(&["fsck"]);
        assert!(checked.code == DAMAGED || (checked.code == 0 && refused == 0), "{what}: fsck: {}", checked.stderr);
        if refused > 0 { Verdict::Partly } else { Verdict::Harmless }
    }

    /// The backup, where the damaged store was.
    fn restore(&self) {
        let daemon = &self.keyed.daemon;
        fs::remove_dir_all(daemon.file("store")).unwrap();
        let saved = daemon.file("backup.tar");
        daemon.cli(&["restore", text(&saved)]).ok();
        assert_eq!(self.examine("a restored backup"), Verdict::Harmless);
    }
}

/// The files of a store that mean something, the log six times: it is most of it.
fn list(dir: &Path, files: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            list(&path, files);
        } else if !["lock", "spare", "db.twin"].iter().any(|n| path.ends_with(n)) {
            let weight = if path.ends_with("db/db") { 6 } else { 1 };
            files.extend(std::iter::repeat_n(path, weight));
        }
    }
}

#[test]
fn damage_is_refused_or_harmless_and_a_backup_brings_it_back() {
    let patient = Patient::new();
    assert_eq!(patient.examine("a whole store"), Verdict::Harmless);
    let mut dice = Dice(13);
    let mut seen: BTreeMap<&str, u32> = BTreeMap::new();
    let all = rounds(40, 300);
    for round in 0..all {
        patient.heal();
        let what = format!("round {round}, {}", patient.harm(&mut dice));
        let verdict = patient.examine(&what);
        *seen
            .entry(match verdict {
                Verdict::Refused => "refused",
                Verdict::Partly => "partly",
                Verdict::Harmless => "harmless",
            })
            .or_default() += 1;
        if verdict != Verdict::Harmless && (round % 25 == 0 || round + 10 > all) {
            patient.restore();
        }
    }
    eprintln!("{seen:?}");
    assert!(seen.get("refused").is_some_and(|n| *n > all / 10), "the damage must be real: {seen:?}");
}

#[test]
fn a_damaged_backup_restores_nothing() {
    let patient = Patient::new();
    let daemon = &patient.keyed.daemon;
    let store = daemon.file("store");
    fs::remove_dir_all(&store).unwrap();
    let good = fs::read(daemon.file("backup.tar")).unwrap();
    let bad = daemon.file("bad.tar");
    let mut dice = Dice(14);
    for round in 0..rounds(6, 40) {
        let mut bytes = good.clone();
        let at = dice.below(good.len() as u64 - 2048) as usize;
        // Inside the contents of an entry: the headers' padding means nothing.
        let at = at - at % 512 + 8;
        if round % 2 == 0 {
            bytes.truncate(at)
        } else {
            bytes[at] ^= 0x10
        }
        fs::write(&bad, &bytes).unwrap();
        let out = daemon.cli(&["restore", text(&bad)]);
        assert_eq!(out.code, DAMAGED, "altered at {at}: {} {}", out.stderr, out.text());
        assert!(!store.exists() || fs::read_dir(&store).unwrap().next().is_none(), "nothing is restored");
    }
    let saved = daemon.file("backup.tar");
    daemon.cli(&["restore", text(&saved)]).ok();
    assert_eq!(patient.examine("a restored backup"), Verdict::Harmless);
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of the lab are ASCII")
}
