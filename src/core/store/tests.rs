//! The store against kills, damage, full disks and other processes.

use super::ledger::{FaultPoint, NEXT_FAULT};
use super::*;
use crate::model::VersionNo;
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

fn key() -> Secret {
    Secret::copy_of(&[0x5a; 32]).unwrap()
}

fn anchor(n: u64) -> AuditAnchor {
    AuditAnchor { count: n, head: [n as u8; 32] }
}

fn blob_key(ino: u64, version: u64) -> BlobKey {
    BlobKey { ino: Ino(ino), version: VersionNo(version) }
}

/// A secret's commit: node and blob. The node names the version.
fn secret(ino: u64, version: u64, len: usize) -> Batch {
    let mut batch = Batch::default();
    batch.nodes.insert(Ino(ino), Some(node(ino, version)));
    batch.blobs.insert(blob_key(ino, version), Some(content(ino, version, len)));
    batch
}

fn node(ino: u64, version: u64) -> Vec<u8> {
    format!("node {ino} at version {version}; {}", "x".repeat(300)).into_bytes()
}

fn content(ino: u64, version: u64, len: usize) -> Vec<u8> {
    let mut seed = ino.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ version;
    (0..len).map(|_| random(&mut seed) as u8).collect()
}

fn random(seed: &mut u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    *seed
}

fn first() -> Batch {
    let mut batch = Batch::default();
    batch.nodes.insert(Ino::ROOT, Some(b"root".to_vec()));
    batch.scopes.insert("host".into(), Some(b"sealed kek".to_vec()));
    batch.meta.insert("index".into(), Some(b"sealed index key".to_vec()));
    batch
}

struct Place {
    _tmp: TempDir,
    dir: PathBuf,
}

impl Place {
    fn new() -> Self {
        let tmp = TempDir::new().unwrap();
        let dir = tmp.path().join("store");
        Store::create(&dir, &key(), first(), &[("identity.age", b"an identity")]).unwrap();
        Place { _tmp: tmp, dir }
    }

    fn open(&self) -> Store {
        let store = Store::open(&self.dir).unwrap();
        verify(&store).unwrap();
        store
    }

    /// Opens it, verifies it and returns the nodes, or the error.
    fn nodes(&self) -> Result<BTreeMap<Ino, Vec<u8>>, StoreError> {
        let store = Store::open(&self.dir)?;
        let (_, nodes) = store.verify(&key(), |ino, value| Ok((ino, value.to_vec())))?;
        let count = nodes.len();
        let nodes: BTreeMap<_, _> = nodes.into_iter().collect();
        assert_eq!(nodes.len(), count, "each once");
        Ok(nodes)
    }
}

fn verify(store: &Store) -> Result<Verified, StoreError> {
    store.verify(&key(), |_, _| Ok(())).map(|(verified, _)| verified)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target)
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn every_record_is_read_once_by_however_many_threads() {
    let place = Place::new();
    let store = place.open();
    let mut batch = Batch::default();
    let inos = [0, 1, 2, 1023, 1024, 1025, 2047, 2048, 3071, 3072, 3073, u64::MAX / 2, u64::MAX - 1, u64::MAX];
    for ino in inos.into_iter().chain(4000..9000) {
        batch.nodes.insert(Ino(ino), Some(node(ino, 1)));
    }
    let known = place_nodes(&store);
    store.apply(&batch, &anchor(1)).unwrap();
    drop(store);
    let found = place.nodes().unwrap();
    let all: BTreeMap<_, _> = batch.nodes.into_iter().filter_map(|(ino, value)| Some((ino, value?))).collect();
    assert!(known.iter().all(|(ino, value)| all.contains_key(ino) || found.get(ino) == Some(value)));
    assert!(all.iter().all(|(ino, value)| found.get(ino) == Some(value)), "none is left out");
    // An error of one thread is the whole's.
    let store = Store::open(&place.dir).unwrap();
    for bad in [Ino(0), Ino(5000), Ino(u64::MAX)] {
        let open = |ino, _: &[u8]| if ino == bad { Err(StoreError::Damaged("bad".into())) } else { Ok(()) };
        assert!(matches!(store.verify(&key(), open), Err(StoreError::Damaged(_))));
    }
}

fn place_nodes(store: &Store) -> BTreeMap<Ino, Vec<u8>> {
    store.verify(&key(), |ino, value| Ok((ino, value.to_vec()))).unwrap().1.into_iter().collect()
}

#[test]
fn what_was_committed_is_there_after_reopening() {
    let place = Place::new();
    let store = place.open();
    assert_eq!(verify(&store).unwrap().generation, Generation(1));
    // Lengths around the limit of a part, and one of many parts.
    let lens = [0, 1, 700, 5999, 6000, 6001, 12_000, 1 << 20];
    for (i, len) in lens.into_iter().enumerate() {
        let i = i as u64;
        assert_eq!(store.apply(&secret(2000 + i, 1, len), &anchor(i)).unwrap(), Generation(2 + i));
    }
    let mut removal = Batch::default();
    removal.nodes.insert(Ino(2000), None);
    removal.blobs.insert(blob_key(2000, 1), None);
    removal.scopes.insert("web".into(), Some(b"another".to_vec()));
    store.apply(&removal, &anchor(99)).unwrap();
    drop(store);

    let store = Store::open(&place.dir).unwrap();
    let verified = verify(&store).unwrap();
    assert_eq!(verified.generation, Generation(10));
    assert_eq!(verified.audit, anchor(99));
    assert_eq!(verified.records, 1 + 7 + 2 + 2, "root, seven nodes, two scopes, index and format");
    assert_eq!(store.scopes().unwrap().len(), 2);
    assert_eq!(store.scope("web").unwrap().unwrap(), b"another");
    assert_eq!(store.meta("index").unwrap().unwrap(), b"sealed index key");
    assert!(store.blob(blob_key(2000, 1)).unwrap().is_none());
    for (i, len) in lens.into_iter().enumerate().skip(1) {
        let i = i as u64;
        assert_eq!(*store.blob(blob_key(2000 + i, 1)).unwrap().unwrap(), content(2000 + i, 1, len));
    }
    assert_eq!(store.blob_keys().unwrap().len(), 7);
    assert_eq!(store.read_file("identity.age").unwrap().unwrap(), b"an identity");
}

#[test]
fn a_long_value_made_short_leaves_no_parts_behind() {
    let place = Place::new();
    let store = place.open();
    let mut batch = Batch::default();
    for len in [50_000, 10, 20_000, 6000] {
        batch.nodes.insert(Ino(3000), Some(content(1, 1, len)));
        store.apply(&batch, &anchor(0)).unwrap();
    }
    batch.nodes.insert(Ino(3000), None);
    store.apply(&batch, &anchor(0)).unwrap();
    assert_eq!(store.db().unwrap().parts(), 0);
    drop(store);
    assert_eq!(place.nodes().unwrap().len(), 1);
}

#[test]
fn no_value_is_put_where_it_would_not_be_synced() {
    let place = Place::new();
    let store = place.open();
    // The worst case: leaves full of values as long as a part may be, rewritten until sled consolidates them.
    for round in 0..4 {
        for ino in 0..60 {
            store.apply(&secret(4000 + ino, round, if ino % 9 == 0 { 100_000 } else { 5999 }), &anchor(0)).unwrap();
        }
    }
    drop(store);
    drop(place.open());
    assert_eq!(fs::read_dir(place.dir.join("db/blobs")).unwrap().count(), 0);
}

#[test]
fn nothing_is_committed_before_verification_nor_with_another_key() {
    let place = Place::new();
    let store = Store::open(&place.dir).unwrap();
    let batch = secret(2000, 1, 10);
    assert!(matches!(store.apply(&batch, &anchor(0)), Err(StoreError::Failed(_))));
    let other = Secret::copy_of(&[1; 32]).unwrap();
    assert!(matches!(store.verify(&other, |_, _| Ok(())), Err(StoreError::Damaged(_))));
    assert!(matches!(store.apply(&batch, &anchor(0)), Err(StoreError::Failed(_))));
    verify(&store).unwrap();
    store.apply(&batch, &anchor(0)).unwrap();
    store.forget_key();
    assert!(matches!(store.apply(&batch, &anchor(0)), Err(StoreError::Failed(_))));
    assert!(store.blob(blob_key(2000, 1)).unwrap().is_some(), "reading needs no key");
    verify(&store).unwrap();
    store.apply(&batch, &anchor(0)).unwrap();
}

#[test]
fn a_second_opener_is_refused_and_told_by_whom() {
    let place = Place::new();
    let store = place.open();
    let me = std::process::id();
    for refused in [Store::open(&place.dir).map(drop), restore(&place.dir, &mut &b""[..], Existing::SetAside).map(drop)]
    {
        match refused {
            Err(StoreError::InUse { pid, .. }) => assert_eq!(pid, Some(me)),
            other => panic!("{other:?}"),
        }
    }
    let other = Command::new("flock").arg("-n").arg(place.dir.join("lock")).arg("true").status().unwrap();
    assert!(!other.success(), "another process does not get the lock either");
    drop(store);
    drop(place.open());
}

#[test]
fn what_a_killed_daemon_was_starting_does_not_keep_the_next_one_out() {
    let place = Place::new();
    let lock = place.dir.join("lock");
    let mut dead = Command::new("true").spawn().unwrap();
    dead.wait().unwrap();
    let holding = || {
        let mut flock = Command::new("flock");
        let flock = flock.arg(&lock).args(["sh", "-c", "echo; read line"]);
        let mut child = flock.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
        child
    };
    let mut child = holding();
    fs::write(&lock, format!("{}\n", dead.id())).unwrap();
    let opener = std::thread::spawn({
        let dir = place.dir.clone();
        move || Store::open(&dir).map(drop)
    });
    std::thread::sleep(Duration::from_millis(20));
    assert!(!opener.is_finished(), "it waits");
    drop(child.stdin.take());
    child.wait().unwrap();
    opener.join().unwrap().unwrap();
}

#[test]
fn only_a_vacant_folder_becomes_a_store() {
    let place = Place::new();
    assert!(matches!(Store::create(&place.dir, &key(), first(), &[]), Err(StoreError::Exists(_))));
    assert_eq!(place.nodes().unwrap().len(), 1, "and what is there stays");
    let mode = |p: &str| fs::metadata(place.dir.join(p)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(""), mode("identity.age"), mode("manifest"), mode("FORMAT")), (0o700, 0o600, 0o600, 0o600));

    let tmp = TempDir::new().unwrap();
    assert!(matches!(Store::open(&tmp.path().join("none")), Err(StoreError::NotAStore(_))));
    assert!(matches!(Store::open(tmp.path()), Err(StoreError::NotAStore(_))));
    fs::write(tmp.path().join("somebody's"), "file").unwrap();
    assert!(matches!(Store::create(tmp.path(), &key(), first(), &[]), Err(StoreError::Exists(_))));
    for name in ["../up", "lock", "", ".hidden", "a/b", "FORMAT"] {
        let dir = tmp.path().join("new");
        assert!(matches!(Store::create(&dir, &key(), first(), &[(name, b"")]), Err(StoreError::Failed(_))), "{name}");
        assert!(!dir.exists());
    }
}

#[test]
fn a_creation_that_a_power_cut_ended_is_no_store_and_can_be_made_again() {
    let place = Place::new();
    fs::remove_file(place.dir.join("FORMAT")).unwrap();
    assert!(matches!(Store::open(&place.dir), Err(StoreError::Damaged(_))), "a lost FORMAT is damage");
    assert!(matches!(Store::create(&place.dir, &key(), first(), &[]), Err(StoreError::Exists(_))));
    fs::write(place.dir.join("creating"), "").unwrap();
    assert!(matches!(Store::open(&place.dir), Err(StoreError::NotAStore(_))));
    Store::create(&place.dir, &key(), first(), &[("identity.age", b"new")]).unwrap();
    assert_eq!(place.nodes().unwrap().len(), 1);
}

#[test]
fn an_unknown_version_is_refused() {
    let place = Place::new();
    fs::write(place.dir.join("FORMAT"), "pinfold store 3\n").unwrap();
    assert!(matches!(Store::open(&place.dir), Err(StoreError::UnknownFormat(f)) if f == "pinfold store 3"));
    for garbage in ["", "pinfold store 2", "pinfold store x\n", "something else\n"] {
        fs::write(place.dir.join("FORMAT"), garbage).unwrap();
        assert!(matches!(Store::open(&place.dir), Err(StoreError::Damaged(_))), "{garbage:?}");
    }
}

#[test]
fn a_kill_between_manifest_and_transaction_loses_nothing_and_adds_nothing() {
    let place = Place::new();
    let store = place.open();
    store.apply(&secret(2000, 1, 100), &anchor(1)).unwrap();
    for point in [FaultPoint::Slot, FaultPoint::Transaction, FaultPoint::AfterTransaction] {
        NEXT_FAULT.set(Some(point));
        assert!(store.apply(&secret(2000, 2, 100), &anchor(2)).is_err());
        // What a kill at that moment leaves, as another start finds it.
        let left = TempDir::new().unwrap();
        copy(&place.dir, left.path());
        let killed = Place { dir: left.path().to_owned(), _tmp: left };
        assert_eq!(killed.nodes().unwrap()[&Ino(2000)], node(2000, 1), "{point:?}");
        // And it goes on from there.
        let again = killed.open();
        again.apply(&secret(2000, 3, 100), &anchor(3)).unwrap();
        drop(again);
        assert_eq!(killed.nodes().unwrap()[&Ino(2000)], node(2000, 3), "{point:?}");
        // The store that lived on is as it was, and goes on as well.
        store.apply(&secret(2001, 1, 100), &anchor(4)).unwrap();
        assert_eq!(*store.blob(blob_key(2000, 1)).unwrap().unwrap(), content(2000, 1, 100));
        assert!(store.blob(blob_key(2000, 2)).unwrap().is_none(), "{point:?}: what was refused is undone");
    }
    drop(store);
    assert_eq!(place.nodes().unwrap()[&Ino(2000)], node(2000, 1));
}

#[test]
fn an_error_is_an_error_until_the_end() {
    let place = Place::new();
    let store = place.open();
    store.apply(&secret(2000, 1, 50_000), &anchor(1)).unwrap();
    // A removal that is refused: the blob, and all its parts, must be there again.
    let mut removal = Batch::default();
    removal.nodes.insert(Ino(2000), None);
    removal.blobs.insert(blob_key(2000, 1), None);
    for after in 0..3 {
        NEXT_FAULT.set(Some(FaultPoint::AfterTransaction));
        assert!(store.apply(&removal, &anchor(2)).is_err());
        // The repair fails as well, at each of its own points; the one after that ends well.
        match after {
            0 => {}
            1 => NEXT_FAULT.set(Some(FaultPoint::AfterTransaction)),
            _ => NEXT_FAULT.set(Some(FaultPoint::Slot)),
        }
        let tried = store.apply(&secret(3000, 1, 10), &anchor(3));
        assert_eq!(tried.is_err(), after > 0);
        store.apply(&secret(3001, after, 10), &anchor(3)).unwrap();
        assert_eq!(*store.blob(blob_key(2000, 1)).unwrap().unwrap(), content(2000, 1, 50_000));
    }
    // Locked and unlocked in between: what the database holds is what counts, and it is whole.
    NEXT_FAULT.set(Some(FaultPoint::AfterTransaction));
    assert!(store.apply(&secret(2002, 1, 10), &anchor(4)).is_err());
    store.forget_key();
    assert!(matches!(store.apply(&removal, &anchor(5)), Err(StoreError::Failed(_))));
    verify(&store).unwrap();
    store.apply(&secret(2003, 1, 10), &anchor(5)).unwrap();
    drop(store);
    assert_eq!(place.nodes().unwrap()[&Ino(2000)], node(2000, 1));
}

#[test]
fn after_a_failed_sync_nothing_is_committed_any_more() {
    let place = Place::new();
    let store = place.open();
    NEXT_FAULT.set(Some(FaultPoint::Sync));
    assert!(store.apply(&secret(2000, 1, 10), &anchor(1)).is_err());
    assert!(
        matches!(store.apply(&secret(2001, 1, 10), &anchor(1)), Err(StoreError::Failed(why)) if why.contains("sync"))
    );
    assert!(store.meta("index").unwrap().is_some(), "reading goes on");
    drop(store);
    place.open().apply(&secret(2001, 1, 10), &anchor(1)).unwrap();
}

#[test]
fn a_rolled_back_database_or_manifest_is_found() {
    let place = Place::new();
    let store = place.open();
    store.apply(&secret(2000, 1, 100), &anchor(1)).unwrap();
    drop(store);
    let old = TempDir::new().unwrap();
    copy(&place.dir, old.path());
    let store = place.open();
    // One commit is enough to be found: between commits both slots say the same.
    store.apply(&secret(2000, 2, 100), &anchor(2)).unwrap();
    drop(store);
    let new = TempDir::new().unwrap();
    copy(&place.dir, new.path());

    let mixed = |db: &Path, manifest: &Path| {
        fs::remove_dir_all(&place.dir).unwrap();
        copy(db, &place.dir);
        fs::copy(manifest.join("manifest"), place.dir.join("manifest")).unwrap();
        place.nodes()
    };
    assert!(matches!(mixed(old.path(), new.path()), Err(StoreError::Damaged(_))), "old database, new manifest");
    assert!(matches!(mixed(new.path(), old.path()), Err(StoreError::Damaged(_))), "new database, old manifest");
    assert_eq!(mixed(new.path(), new.path()).unwrap()[&Ino(2000)], node(2000, 2), "the two that belong together");
}

#[test]
fn altered_removed_added_and_swapped_records_are_found() {
    let place = Place::new();
    let store = place.open();
    for ino in 2000..2003 {
        store.apply(&secret(ino, 1, 100), &anchor(1)).unwrap();
    }
    drop(store);
    let k = |ino: u64| ino.to_be_bytes();
    type Tamper = Box<dyn Fn(&sled::Db)>;
    let tree = |db: &sled::Db, name: &str| db.open_tree(name).unwrap();
    let tampers: Vec<(&str, Tamper)> = vec![
        ("altered", Box::new(move |db| drop(tree(db, "nodes").insert(k(2000), &b"\0other"[..])))),
        ("removed", Box::new(move |db| drop(tree(db, "nodes").remove(k(2001))))),
        ("added", Box::new(move |db| drop(tree(db, "nodes").insert(k(9), &b"\0new"[..])))),
        (
            "swapped",
            Box::new(move |db| {
                let nodes = tree(db, "nodes");
                let a = nodes.get(k(2000)).unwrap().unwrap();
                let b = nodes.insert(k(2001), a).unwrap().unwrap();
                nodes.insert(k(2000), b).unwrap();
            }),
        ),
        ("scope", Box::new(move |db| drop(tree(db, "scopes").insert("host", &b"\0other"[..])))),
        ("meta", Box::new(move |db| drop(tree(db, "meta").insert("index", &b"\0other"[..])))),
        ("all gone", Box::new(move |db| tree(db, "nodes").clear().unwrap())),
    ];
    for (what, tamper) in tampers {
        let copied = TempDir::new().unwrap();
        copy(&place.dir, copied.path());
        let db = sled::open(copied.path().join("db")).unwrap();
        tamper(&db);
        drop(db);
        let bad = Place { dir: copied.path().to_owned(), _tmp: copied };
        assert!(matches!(bad.nodes(), Err(StoreError::Damaged(_))), "{what}");
    }
    assert!(place.nodes().is_ok());
}

/// Flips and cuts files of a store at random places: whatever is accepted afterwards must be what was committed.
fn batter(rounds: u64, seed: u64) {
    let place = Place::new();
    let store = place.open();
    for i in 0..120u64 {
        let len = if i % 40 == 0 { 30_000 } else { 400 };
        store.apply(&secret(2000 + i % 50, i, len), &anchor(i)).unwrap();
    }
    drop(store);
    let good = place.nodes().unwrap();
    let mut files = Vec::new();
    list(&place.dir, &mut files);
    let mut seed = seed;
    let (mut refused, mut harmless, mut partly) = (0, 0, 0);
    for round in 0..rounds {
        let copied = TempDir::new().unwrap();
        copy(&place.dir, copied.path());
        let name = files[random(&mut seed) as usize % files.len()].strip_prefix(&place.dir).unwrap().to_owned();
        let path = copied.path().join(&name);
        let file = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let len = file.metadata().unwrap().len();
        if len == 0 {
            continue;
        }
        // The log is mostly the tail of its last segment, which is empty: aim where something is.
        let at = random(&mut seed) % len.min(200_000);
        let cut = round % 4 == 0;
        if cut {
            file.set_len(at).unwrap();
        } else {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            byte[0] ^= 1 << (random(&mut seed) % 8);
            file.write_all_at(&byte, at).unwrap();
        }
        drop(file);
        let what = format!("{} at {at}, {}", name.display(), if cut { "cut" } else { "flipped" });
        let bad = Place { dir: copied.path().to_owned(), _tmp: copied };
        match bad.nodes() {
            Err(StoreError::Damaged(_) | StoreError::UnknownFormat(_)) => refused += 1,
            Err(other) => panic!("{what}: {other:?}"),
            Ok(nodes) => {
                assert_eq!(nodes, good, "{what}: a changed record was accepted");
                let store = bad.open();
                let mut whole = true;
                for i in 70..120u64 {
                    let len = if i % 40 == 0 { 30_000 } else { 400 };
                    let expected = content(2000 + i % 50, i, len);
                    // A blob that is not in the sums: whoever reads it compares the digest that its node has.
                    whole &= store.blob(blob_key(2000 + i % 50, i)).is_ok_and(|b| b.is_some_and(|b| *b == expected));
                }
                if whole {
                    harmless += 1
                } else {
                    partly += 1
                }
                // What was accepted can be written to, or says that it cannot.
                match store.apply(&secret(5000, 1, 100), &anchor(1)) {
                    Ok(_) => {
                        drop(store);
                        assert_eq!(bad.nodes().unwrap()[&Ino(5000)], node(5000, 1), "{what}");
                    }
                    Err(StoreError::Damaged(_) | StoreError::Failed(_)) => {}
                    Err(other) => panic!("{what}: {other:?}"),
                }
            }
        }
    }
    eprintln!("{rounds} rounds: {refused} refused, {harmless} harmless, {partly} with a blob lost");
    assert!(refused > 0 && harmless > 0);
}

fn list(dir: &Path, files: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            list(&path, files);
        } else if path.file_name().is_some_and(|n| n != "lock" && n != "identity.age") {
            // The log counts for more than the small files.
            let weight = if path.ends_with("db/db") { 6 } else { 1 };
            files.extend(std::iter::repeat_n(path, weight));
        }
    }
}

#[test]
fn damage_is_found_or_harmless() {
    batter(40, 1);
}

#[test]
#[ignore = "long"]
fn damage_is_found_or_harmless_long() {
    let seed = std::env::var("SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(2);
    batter(600, seed);
}

#[test]
fn a_full_disk_refuses_and_leaves_things_as_they_were() {
    assert!(nix::unistd::geteuid().is_root(), "this test mounts a small tmpfs and needs root");
    let tmp = TempDir::new().unwrap();
    let mounted =
        Command::new("mount").args(["-t", "tmpfs", "-o", "size=16m", "none"]).arg(tmp.path()).status().unwrap();
    assert!(mounted.success());
    let dir = tmp.path().join("store");
    let outcome = std::panic::catch_unwind(|| {
        Store::create(&dir, &key(), first(), &[]).unwrap();
        let store = Store::open(&dir).unwrap();
        verify(&store).unwrap();
        let mut last = None;
        for i in 0..2000 {
            match store.apply(&secret(2000 + i, 1, 20_000), &anchor(i)) {
                Ok(_) => last = Some(i),
                Err(StoreError::NoSpace) => break,
                Err(other) => panic!("{other:?}"),
            }
        }
        let last = last.unwrap();
        assert!(last > 5, "a small disk holds some: {last}");
        // What was there is there; a removal still works; so does opening.
        assert_eq!(*store.blob(blob_key(2000 + last, 1)).unwrap().unwrap(), content(2000 + last, 1, 20_000));
        let mut removal = Batch::default();
        removal.blobs.insert(blob_key(2000, 1), None);
        removal.nodes.insert(Ino(2000), None);
        store.apply(&removal, &anchor(0)).unwrap();
        // Somebody else takes the rest: even then, an error and no harm.
        let hog = fs::File::create(tmp.path().join("hog")).unwrap();
        let mut at = 0;
        let mut fill = || {
            while hog.write_all_at(&[1; 4096], at).is_ok() {
                at += 4096;
            }
        };
        fill();
        assert!(matches!(store.apply(&secret(9000, 1, 20_000), &anchor(0)), Err(StoreError::NoSpace)));
        assert!(matches!(store.apply(&removal, &anchor(0)), Err(StoreError::NoSpace)));
        assert_eq!(*store.blob(blob_key(2000 + last, 1)).unwrap().unwrap(), content(2000 + last, 1, 20_000));
        // Even if it is taken between the look and the write, and sled fails in the middle.
        let (mut failed, mut left) = (false, 0);
        for i in 0..1000 {
            NEXT_FAULT.set(Some(FaultPoint::Room));
            match store.apply(&secret(9000 + i, 1, 20_000), &anchor(0)) {
                Ok(_) => left += 1,
                Err(StoreError::NoSpace) => failed = true,
                Err(other) => panic!("{other:?}"),
            }
            assert_eq!(*store.blob(blob_key(2000 + last, 1)).unwrap().unwrap(), content(2000 + last, 1, 20_000));
            if failed {
                break;
            }
        }
        assert!(failed);
        // And what was given up to make room for it.
        fill();
        assert!(matches!(store.apply(&secret(9000, 1, 20_000), &anchor(0)), Err(StoreError::NoSpace)));
        NEXT_FAULT.set(None);
        // The disk is still full, and a daemon starts: it serves.
        drop(store);
        let store = Store::open(&dir).unwrap();
        verify(&store).unwrap();
        assert_eq!(*store.blob(blob_key(2000 + last, 1)).unwrap().unwrap(), content(2000 + last, 1, 20_000));
        drop(hog);
        fs::remove_file(tmp.path().join("hog")).unwrap();
        let records = verify(&store).unwrap().records;
        assert_eq!(records, 4 + last + left, "root, scope, index, format, the secrets; nothing that was refused");
        removal.nodes.insert(Ino(2001), None);
        removal.blobs.insert(blob_key(2001, 1), None);
        store.apply(&removal, &anchor(0)).unwrap();
        drop(store);
        let store = Store::open(&dir).unwrap();
        assert_eq!(verify(&store).unwrap().records, records - 1);
    });
    let unmounted = Command::new("umount").arg("-l").arg(tmp.path()).status().unwrap();
    assert!(unmounted.success());
    outcome.unwrap();
}

#[test]
fn readers_are_not_disturbed_by_commits() {
    let place = Place::new();
    let store = place.open();
    store.apply(&secret(2000, 1, 9000), &anchor(0)).unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let expected = content(2000, 1, 9000);
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    assert_eq!(*store.blob(blob_key(2000, 1)).unwrap().unwrap(), expected);
                }
            });
        }
        for i in 0..200 {
            if i % 50 == 0 {
                // Also while a failed database is opened again.
                NEXT_FAULT.set(Some(FaultPoint::AfterTransaction));
                store.apply(&secret(2001, i, 700), &anchor(i)).unwrap_err();
            }
            store.apply(&secret(2001, i, 700), &anchor(i)).unwrap();
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn a_backup_brings_the_store_back() {
    let place = Place::new();
    let store = place.open();
    for i in 0..80 {
        store.apply(&secret(2000 + i, 1, if i == 3 { 3 << 20 } else { 30_000 }), &anchor(i)).unwrap();
    }
    let saved = backup::into_vec(&store);
    store.apply(&secret(2000, 2, 10), &anchor(100)).unwrap();
    drop(store);

    // Into nothing.
    let tmp = TempDir::new().unwrap();
    let dir = tmp.path().join("copy");
    let restored = restore(&dir, &mut &saved[..], Existing::Refuse).unwrap();
    assert_eq!(restored.set_aside, None);
    let store = Store::open(&dir).unwrap();
    let verified = verify(&store).unwrap();
    assert_eq!((verified.generation, verified.audit), (Generation(81), anchor(79)));
    assert_eq!((restored.generation, restored.nodes, restored.blobs), (81, 81, 80));
    assert_eq!(restored.records, verified.records + 80);
    for i in 0..80 {
        let len = if i == 3 { 3 << 20 } else { 30_000 };
        assert_eq!(*store.blob(blob_key(2000 + i, 1)).unwrap().unwrap(), content(2000 + i, 1, len));
    }
    assert_eq!(store.read_file("identity.age").unwrap().unwrap(), b"an identity");
    store.apply(&secret(2000, 7, 10), &anchor(200)).unwrap();
    drop(store);

    // Over a store: only if told, and the old one is kept.
    let refused = restore(&place.dir, &mut &saved[..], Existing::Refuse);
    assert!(matches!(refused, Err(StoreError::Exists(_))));
    assert_eq!(place.nodes().unwrap()[&Ino(2000)], node(2000, 2));
    let restored = restore(&place.dir, &mut &saved[..], Existing::SetAside).unwrap();
    assert_eq!(place.nodes().unwrap()[&Ino(2000)], node(2000, 1));
    let aside = Place { dir: restored.set_aside.unwrap(), _tmp: TempDir::new().unwrap() };
    assert_eq!(aside.nodes().unwrap()[&Ino(2000)], node(2000, 2));

    // Somebody with the key may look before it counts.
    let wrong = Secret::copy_of(&[1; 32]).unwrap();
    for (key, good) in [(&wrong, false), (&key(), true)] {
        let tmp = TempDir::new().unwrap();
        let dir = tmp.path().join("checked");
        let check = |s: &Store| s.verify(key, |_, _| Ok(())).map(drop);
        assert_eq!(restore_checked(&dir, &mut &saved[..], Existing::Refuse, check).is_ok(), good);
        assert_eq!(fs::read_dir(tmp.path()).unwrap().count(), usize::from(good));
    }

    // Over something that is no store: never.
    let other = TempDir::new().unwrap();
    fs::write(other.path().join("letter"), "dear").unwrap();
    let refused = restore(other.path(), &mut &saved[..], Existing::SetAside);
    assert!(matches!(refused, Err(StoreError::Exists(_))));
}

#[test]
fn a_backup_is_a_tar_that_tar_lists() {
    let place = Place::new();
    let store = place.open();
    let tmp = TempDir::new().unwrap();
    fs::write(tmp.path().join("b.tar"), backup::into_vec(&store)).unwrap();
    let listed = Command::new("tar").arg("tf").arg(tmp.path().join("b.tar")).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let expected = "pinfold-backup\nFORMAT\nmanifest\nfiles/identity.age\nrecords/00000000\nend\n";
    assert_eq!(listed, expected);
}

#[test]
fn a_cut_or_altered_backup_restores_nothing() {
    let place = Place::new();
    let store = place.open();
    for i in 0..10 {
        store.apply(&secret(2000 + i, 1, 3000), &anchor(i)).unwrap();
    }
    let saved = backup::into_vec(&store);
    drop(store);
    let good = place.nodes().unwrap();
    let mut seed = 5;
    let (mut refused, mut same) = (0, 0);
    for round in 0..60 {
        let tmp = TempDir::new().unwrap();
        let dir = tmp.path().join("copy");
        let mut bad = saved.clone();
        let at = random(&mut seed) as usize % saved.len();
        if round % 2 == 0 {
            bad.truncate(at)
        } else {
            bad[at] ^= 1 << (random(&mut seed) % 8)
        }
        match restore(&dir, &mut &bad[..], Existing::Refuse) {
            Err(StoreError::BadBackup(_) | StoreError::UnknownFormat(_)) => {
                refused += 1;
                assert_eq!(fs::read_dir(tmp.path()).unwrap().count(), 0, "nothing is left of it");
            }
            // A bit of the padding between entries, or a cut of the zeros at the end.
            Ok(_) => {
                same += 1;
                assert_eq!(Place { dir, _tmp: tmp }.nodes().unwrap(), good, "at {at}");
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    assert!(refused > 40, "{refused} refused, {same} without effect");
}

#[test]
fn a_hostile_backup_is_refused() {
    let archive = |entries: &[(&str, u64, &[u8])]| {
        let mut out = Vec::new();
        for (name, size, content) in entries {
            let mut header = tar::Header::new_ustar();
            let raw = header.as_mut_bytes();
            raw[..name.len()].copy_from_slice(name.as_bytes());
            header.set_size(*size);
            header.set_mode(0o600);
            header.set_cksum();
            out.extend(header.as_bytes());
            out.extend(*content);
            out.resize(out.len().next_multiple_of(512), 0);
        }
        out
    };
    let begin = ("pinfold-backup", 17, &b"pinfold backup 2\n"[..]);
    let format = ("FORMAT", 16, folder::FORMAT);
    let manifest = vec![0; 8192];
    let manifest = ("manifest", 8192, &manifest[..]);
    let garbage = [0xff; 40];
    for (what, bad) in [
        ("nothing", vec![]),
        ("no tar", b"hello".repeat(300)),
        ("huge", archive(&[begin, format, ("manifest", 1 << 40, b"")])),
        ("outside", archive(&[begin, format, manifest, ("files/../../x", 1, b"x")])),
        ("absolute", archive(&[begin, format, manifest, ("/etc/x", 1, b"x")])),
        ("own file", archive(&[begin, format, manifest, ("files/FORMAT", 1, b"x")])),
        ("twice", archive(&[begin, format, manifest, manifest])),
        ("garbage", archive(&[begin, format, manifest, ("records/00000000", 40, &garbage)])),
        ("end too early", archive(&[("end", 40, &garbage)])),
    ] {
        let tmp = TempDir::new().unwrap();
        let refused = restore(&tmp.path().join("copy"), &mut &bad[..], Existing::Refuse);
        assert!(matches!(refused, Err(StoreError::BadBackup(_))), "{what}: {refused:?}");
        assert_eq!(fs::read_dir(tmp.path()).unwrap().count(), 0, "{what}");
    }
    let newer = archive(&[("pinfold-backup", 17, b"pinfold backup 3\n")]);
    let tmp = TempDir::new().unwrap();
    let refused = restore(&tmp.path().join("copy"), &mut &newer[..], Existing::Refuse);
    assert!(matches!(refused, Err(StoreError::UnknownFormat(_))));
}

#[test]
fn what_a_kill_during_opening_leaves_is_cleared() {
    let place = Place::new();
    fs::write(place.dir.join("db/snap.0000000000000FFF.generating"), "half").unwrap();
    assert_eq!(place.nodes().unwrap().len(), 1);
}
