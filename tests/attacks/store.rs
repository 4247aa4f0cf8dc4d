//! The store attacked where it lies: damaged at random, brought back from a backup that somebody changed, written over while it
//! serves.
//!
//! Owns a store of its own for each test, and the means to damage it. What a check passes is read back and compared.

use crate::common::{Daemon, sh};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// `pinfold: error`: the store is damaged.
const DAMAGED: i32 = 5;
const REFUSED: i32 = 3;

/// Numbers that are the same in every run.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// What was committed: each version of each secret, and what `ls -l` says of the tree.
struct Committed {
    versions: BTreeMap<(String, u64), Vec<u8>>,
    listing: String,
}

/// Secrets of all lengths with several versions, folders, a link, other owners and modes, one removed.
fn fill(daemon: &Daemon) -> Committed {
    let root = daemon.root().display();
    sh(&format!("mkdir -m 0711 {root}/a {root}/a/b && ln -s b/s1 {root}/a/link")).quiet();
    let mut versions = BTreeMap::new();
    for i in 0..24u64 {
        let name = ["s0", "a/s1", "a/b/s1", "a/b/s2", "a/s5", "removed"][(i % 6) as usize].to_owned();
        let bytes = vec![b'a' + (i % 26) as u8; [1, 40, 900, 5000, 70_000][(i % 5) as usize] + i as usize];
        daemon.cli_with(&["put", &name], &bytes).ok();
        versions.insert((name, 1 + i / 6), bytes);
    }
    versions.retain(|(name, _), _| name != "removed");
    sh(&format!("chown 2001:3001 {root}/a/s1 && chmod 0444 {root}/a/s1 && setfacl -m u:2002:r {root}/a/b/s2")).quiet();
    sh(&format!("rm {root}/removed")).quiet();
    Committed { versions, listing: listing(daemon) }
}

fn listing(daemon: &Daemon) -> String {
    let script = "find . -path ./.pinfold -prune -o -printf '%p %y %m %U %G %s %T@ %l\\n' | sort; getfacl -Rn a | sort";
    sh(&format!("cd {} && {{ {script}; }}", daemon.root().display())).quiet()
}

impl Committed {
    /// Everything is as it was committed. What is refused is said to be damaged; nothing is another content.
    #[track_caller]
    fn holds(&self, daemon: &Daemon, what: &str) {
        assert_eq!(listing(daemon), self.listing, "{what}: names, owners, modes, sizes, times");
        for ((name, number), bytes) in &self.versions {
            let out = daemon.cli(&["cat", "--reveal", "--version", &number.to_string(), name]);
            assert_eq!(out.code, 0, "{what}: {name}, version {number}: {}", out.stderr);
            assert!(out.stdout == *bytes, "{what}: {name}, version {number} was served altered");
        }
    }
}

/// The files of a store that mean something, with how often each is to be hit.
fn files(dir: &Path, into: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = fs::read_dir(dir).expect("a folder").flatten().map(|e| e.path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            files(&path, into);
        } else if !["lock", "spare", "db.twin"].iter().any(|name| path.ends_with(name)) {
            let often = if path.metadata().expect("a file").len() > 100_000 { 6 } else { 1 };
            into.extend(std::iter::repeat_n(path, often));
        }
    }
}

/// Damages one file: a bit, a block of noise, a block of another place, or its end.
fn harm(store: &Path, dice: &mut Dice) -> String {
    let mut all = Vec::new();
    files(store, &mut all);
    let path = &all[dice.below(all.len() as u64) as usize];
    let bytes = fs::read(path).expect("it is ours");
    let file = fs::File::options().write(true).open(path).expect("it is ours");
    // Most of a log's last segment is empty: aim where something is.
    let used = bytes.iter().rposition(|b| *b != 0).map_or(1, |p| p as u64 + 1);
    let at = dice.below(used);
    let name = path.strip_prefix(store).expect("below it").display();
    let until = (at as usize + 64).min(bytes.len());
    match dice.below(4) {
        0 => {
            file.set_len(at).expect("it is ours");
            format!("{name} cut at {at}")
        }
        1 => {
            let noise: Vec<u8> = (at as usize..until).map(|_| dice.below(256) as u8).collect();
            file.write_all_at(&noise, at).expect("it is ours");
            format!("{name}: noise at {at}")
        }
        2 => {
            let from = dice.below(used) as usize;
            let other = bytes[from..(from + 64).min(bytes.len())].to_vec();
            file.write_all_at(&other, at).expect("it is ours");
            format!("{name}: {} bytes of {from} put at {at}", other.len())
        }
        _ => {
            let bit = dice.below(8);
            file.write_all_at(&[bytes[at as usize] ^ 1 << bit], at).expect("it is ours");
            format!("{name}: bit {bit} of byte {at}")
        }
    }
}

#[test]
fn of_sixty_random_corruptions_each_is_refused_or_touches_nothing_committed() {
    let mut daemon = Daemon::keyed("allow_reveal = true\n");
    let committed = fill(&daemon);
    committed.holds(&daemon, "undamaged");
    daemon.stop();
    let (store, pristine) = (daemon.file("store"), daemon.file("pristine"));
    sh(&format!("cp -a {store:?} {pristine:?}")).quiet();
    let mut dice = Dice(34);
    let (mut refused, mut passed) = (0, Vec::new());
    for round in 0..60 {
        sh(&format!("rm -rf {store:?} && cp -a {pristine:?} {store:?}")).quiet();
        let what = format!("round {round}, {}", harm(&store, &mut dice));
        let checked = daemon.cli(&["fsck", "--deep"]);
        match checked.code {
            DAMAGED => refused += 1,
            0 => {
                daemon.serve_unlocked();
                committed.holds(&daemon, &what);
                daemon.stop();
                passed.push(what);
            }
            // Its own words: a format that is not known, an identity that is none.
            other => {
                assert!(checked.stderr.contains("pinfold: error:"), "{what}: {other}: {}", checked.stderr);
                let opened = daemon.file("store").join("FORMAT");
                assert!(what.contains("FORMAT") || what.contains("identity"), "{what}: {}: {opened:?}", checked.stderr);
                refused += 1;
            }
        }
    }
    eprintln!("{refused} refused; passed, everything committed whole: {passed:#?}");
    assert!(refused >= 30, "the damage must be real: {refused} refused");
}

/// An entry of a tar: its name and its content.
type Entry = (String, Vec<u8>);

fn entries(tar: &[u8]) -> Vec<Entry> {
    let mut archive = tar::Archive::new(tar);
    let all = archive.entries().expect("a tar").map(|entry| {
        let mut entry = entry.expect("an entry");
        let name = entry.path().expect("a name").to_string_lossy().into_owned();
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut content).expect("its content");
        (name, content)
    });
    all.collect()
}

/// How many records a chunk has: tree, length of the key (2 bytes), key, length of the value (4), value.
fn count(mut chunk: &[u8]) -> u64 {
    let mut records = 0;
    while chunk.len() > 7 {
        let key = u16::from_be_bytes([chunk[1], chunk[2]]) as usize;
        let value = u32::from_be_bytes(chunk[3 + key..7 + key].try_into().expect("four bytes")) as usize;
        chunk = &chunk[7 + key + value..];
        records += 1;
    }
    records
}

/// A backup of these entries, its end made anew over them: what anybody can do who has one.
fn forged(mut entries: Vec<Entry>) -> Vec<u8> {
    use sha2::{Digest, Sha256};
    let (end, _) = entries.pop().expect("its end");
    let mut digest = Sha256::new();
    let mut records = 0;
    for (name, content) in &entries {
        digest.update((name.len() as u16).to_be_bytes());
        digest.update(name.as_bytes());
        digest.update((content.len() as u64).to_be_bytes());
        digest.update(content);
        records += if name.starts_with("records/") { count(content) } else { 0 };
    }
    digest.update(u64::to_be_bytes(records));
    entries.push((end, [&u64::to_be_bytes(records)[..], &digest.finalize()].concat()));
    let mut out = tar::Builder::new(Vec::new());
    for (name, content) in &entries {
        let mut header = tar::Header::new_ustar();
        header.set_path(name).expect("a short name");
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        header.set_cksum();
        out.append(&header, &content[..]).expect("memory");
    }
    out.into_inner().expect("memory")
}

#[test]
fn a_backup_that_was_changed_and_made_to_fit_again_is_restored_by_nobody_who_checks_it() {
    let mut daemon = Daemon::keyed("allow_reveal = true\n");
    let other = Daemon::keyed("");
    let committed = fill(&daemon);
    let (old, new, foreign) = (daemon.file("old.tar"), daemon.file("new.tar"), daemon.file("foreign.tar"));
    daemon.cli(&["backup", text(&old)]).ok();
    daemon.cli_with(&["put", "s0"], b"newer than the backup").ok();
    daemon.cli(&["backup", text(&new)]).ok();
    other.cli_with(&["put", "s0"], b"of another store").ok();
    other.cli(&["backup", text(&foreign)]).ok();
    daemon.stop();
    let store = daemon.file("store");
    fs::remove_dir_all(&store).expect("it is ours");

    let read = |path: &Path| entries(&fs::read(path).expect("a backup"));
    let (before, after, theirs) = (read(&old), read(&new), read(&foreign));
    assert_eq!(forged(before.clone()), fs::read(&old).expect("a backup"), "unchanged it is the same again");
    let at = |entries: &[Entry], name: &str| {
        entries.iter().position(|(n, _)| n.starts_with(name)).unwrap_or_else(|| panic!("no {name}"))
    };
    let with = |change: &dyn Fn(&mut Vec<Entry>)| {
        let mut all = before.clone();
        change(&mut all);
        forged(all)
    };
    let records = at(&before, "records/");
    let middle = before[records].1.len() / 2;
    let tampered = [
        ("a bit of a record", with(&|all| all[records].1[middle] ^= 1)),
        ("records of a later backup", with(&|all| all[records].1 = after[at(&after, "records/")].1.clone())),
        (
            "the manifest of a later backup",
            with(&|all| {
                let manifest = at(all, "manifest");
                all[manifest].1 = after[at(&after, "manifest")].1.clone();
            }),
        ),
        ("records of another store", with(&|all| all[records].1 = theirs[at(&theirs, "records/")].1.clone())),
        ("no records at all", with(&|all| all.retain(|(name, _)| !name.starts_with("records/")))),
        ("another store, under this one's manifest", {
            let mut all = theirs.clone();
            let (from, to) = (at(&before, "manifest"), at(&all, "manifest"));
            all[to].1 = before[from].1.clone();
            forged(all)
        }),
    ];
    let file = daemon.file("tampered.tar");
    for (what, bytes) in &tampered {
        fs::write(&file, bytes).expect("it is ours");
        // The keyfile of the configuration is what checks it.
        let out = daemon.cli(&["restore", text(&file)]);
        assert!([REFUSED, DAMAGED].contains(&out.code), "{what}: {}: {}{}", out.code, out.stderr, out.text());
        assert!(!store.exists(), "{what}: nothing is restored");
    }
    daemon.cli(&["restore", text(&old)]).ok();
    daemon.serve_unlocked();
    committed.holds(&daemon, "restored");
}

#[test]
fn a_backup_is_its_owner_s_alone_and_no_store_in_use_is_restored_over() {
    let daemon = Daemon::keyed("allow_reveal = true\n");
    let committed = fill(&daemon);
    let (binary, config) = (env!("CARGO_BIN_EXE_pinfold"), daemon.file("pinfold.toml"));
    let saved = daemon.file("saved.tar");
    sh(&format!("umask 0; {binary} --config {config:?} backup {saved:?}")).ok();
    assert_eq!(saved.metadata().expect("a backup").mode() & 0o7777, 0o600, "whatever the umask");
    // Its name taken by a link: what that leads to is not written.
    let (link, victim) = (daemon.file("link.tar"), daemon.file("victim"));
    fs::write(&victim, "not yours").expect("it is ours");
    std::os::unix::fs::symlink(&victim, &link).expect("it is ours");
    daemon.cli(&["backup", text(&link)]).refused("is there already");
    daemon.cli(&["backup", "--force", text(&link)]).ok();
    assert_eq!(fs::read(&victim).expect("it is there"), b"not yours");

    let before: Value = daemon.json(&["status", "--json"]);
    let out = daemon.cli(&["restore", text(&saved)]);
    assert_eq!(out.code, REFUSED, "{}", out.stderr);
    // Nor by another configuration that names the same store.
    let other = daemon.file("other.toml");
    let text_of = fs::read_to_string(&config).expect("its configuration");
    fs::write(&other, text_of.replace("control.sock", "elsewhere.sock")).expect("it is ours");
    fs::set_permissions(&other, PermissionsExt::from_mode(0o600)).expect("it is ours");
    for line in ["restore", "fsck --deep", "backup -"] {
        let file = if line == "restore" { text(&saved) } else { "" };
        let out = sh(&format!("{binary} --config {other:?} {line} {file} > /dev/null"));
        assert_eq!(out.code, REFUSED, "{line}: {}", out.stderr);
    }
    assert_eq!(daemon.json(&["status", "--json"])["generation"], before["generation"]);
    committed.holds(&daemon, "after all that");
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of the tests are ASCII")
}

/// Rounds in which the daemon is killed right after an answer. Long: `PINFOLD_KILLS=200`.
fn kills() -> u64 {
    std::env::var("PINFOLD_KILLS").map_or(12, |n| n.parse().expect("a number"))
}

/// Each kind of change that a filesystem knows, answered and then a kill -9: ext4 loses none of it, and neither do we.
#[test]
fn a_kill_right_after_an_answer_takes_nothing_back() {
    let mut daemon = Daemon::keyed("");
    let root = daemon.root().display().to_string();
    sh(&format!("mkdir {root}/d && for f in a b c d/e; do echo $f > {root}/$f; done && chmod 644 {root}/b")).quiet();
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    for round in 0..kills() {
        let changes = [
            format!("chmod {} {root}/b", ["600", "644", "400", "664"][dice.below(4) as usize]),
            format!("chown {}:3001 {root}/a", 2001 + round % 3),
            format!("setfacl -m u:{}:r {root}/c", 2002 + round % 5),
            format!("setfattr -n user.note -v {round} {root}/a"),
            format!("mkdir {root}/d/new-{round}"),
            format!("ln -s a {root}/d/link-{round}"),
            format!(
                "mv {root}/d/e {root}/d/f; mv {root}/d/f {root}/d/e; mv {root}/d/e {root}/d/e{round}; mv {root}/d/e{round} {root}/d/e"
            ),
            format!("touch -d @{} {root}/c", 1_000_000 + round),
            format!("echo {round} > {root}/d/tmp && rm {root}/d/tmp"),
            format!("echo {round} > {root}/d/.new && mv {root}/d/.new {root}/d/e"),
        ];
        let first = dice.below(changes.len() as u64) as usize;
        for at in 0..1 + dice.below(4) as usize {
            sh(&changes[(first + at) % changes.len()]).quiet();
        }
        let expected = listing(&daemon);
        daemon.kill9();
        daemon.serve_unlocked();
        assert_eq!(listing(&daemon), expected, "round {round}, from {}", changes[first]);
    }
    daemon.cli(&["fsck", "--deep"]).ok();
    daemon.cli(&["log", "--verify"]).ok();
}

/// What nothing in the store can say of itself: each of its states was true once. The log knows how far it was.
#[test]
fn an_older_copy_of_the_store_is_noted_in_the_log_that_knew_more() {
    let binary = Some(env!("CARGO_BIN_EXE_pinfold").into());
    let mut daemon = Daemon::with(crate::common::Setup { binary, ..Default::default() });
    daemon.cli_with(&["put", "pin"], b"old").ok();
    daemon.stop();
    let (store, copy) = (daemon.file("store"), daemon.file("copy"));
    sh(&format!("cp -a {} {}", store.display(), copy.display())).quiet();
    daemon.serve();
    daemon.cli_with(&["put", "pin"], b"new").ok();
    sh(&format!("chmod 0400 {}", daemon.path("pin"))).quiet();
    daemon.stop();
    let behind = |daemon: &Daemon| daemon.audit().into_iter().filter(|l| l["op"] == "store_behind").collect::<Vec<_>>();
    assert_eq!(behind(&daemon), Vec::<Value>::new());
    sh(&format!("rm -r {0} && mv {1} {0}", store.display(), copy.display())).quiet();
    daemon.serve();
    let noted = behind(&daemon);
    assert_eq!(noted.len(), 1, "{noted:?}");
    assert!(noted[0]["reason"].as_str().is_some_and(|r| r.ends_with("that were on the disk are missing")), "{noted:?}");
    assert!(daemon.log().contains("the store is older than its audit log"));
    // It is said once; what was restored on purpose goes on.
    daemon.stop();
    daemon.serve();
    assert_eq!(behind(&daemon).len(), 1);
    assert_eq!(daemon.cli(&["log", "--verify"]).code, 0);
}
