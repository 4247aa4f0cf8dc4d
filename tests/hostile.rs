//! What a hostile or unlucky user does to the filesystem layer, unmounted: histories that cross, handles used again
//! after a lock, names that go while a file is open, one uid that wants all of the locked memory.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use pinfold::audit::{Log, Settings, WhenFull};
use pinfold::caller::Callers;
use pinfold::fs::register::Register;
use pinfold::fs::{Fs, FsError, OpenMode, Opened};
use pinfold::model::{CallerInfo, Doubt, FileId, Gid, Ino, InstanceId, Kind, Label, Name, SecretPath, Subject, Uid};
use pinfold::seal::Protection;
use pinfold::secret::Secret;
use pinfold::store::Store;
use pinfold::vault::{Caller, Change, Limits, NewNode, Observer, Recovery, Rename, UnlockBy, Vault, create_store};
use pinfold::wire::{Actor, Fsck, Serve};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// A recovery recipient nobody has the key of.
const RECIPIENT: &str = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";

/// Somebody with a uid and a group of the same number.
#[derive(Clone, Copy)]
struct User(u32);

const ROOT: User = User(0);
const ALICE: User = User(1000);
const BOB: User = User(1001);

impl Subject for User {
    fn uid(&self) -> Uid {
        Uid(self.0)
    }
    fn gid(&self) -> Gid {
        Gid(self.0)
    }
    fn in_group(&self, gid: Gid) -> Result<bool, Doubt> {
        Ok(gid.0 == self.0)
    }
    fn groups(&self) -> Result<Vec<Gid>, Doubt> {
        Ok(vec![Gid(self.0)])
    }
    fn is_admin(&self) -> Result<bool, Doubt> {
        Ok(self.0 == 0)
    }
    fn unit(&self) -> Result<Option<String>, Doubt> {
        Ok(None)
    }
    fn exe(&self) -> Result<FileId, Doubt> {
        Err(Doubt("none".into()))
    }
    fn label(&self) -> Result<Label, Doubt> {
        Err(Doubt("none".into()))
    }
    fn instance(&self) -> Result<Option<InstanceId>, Doubt> {
        Ok(None)
    }
    fn passes_directories(&self) -> Result<bool, Doubt> {
        Ok(false)
    }
}

impl Caller for User {
    fn who(&self) -> CallerInfo {
        CallerInfo { uid: self.0, gid: self.0, ..CallerInfo::default() }
    }
}

/// What the adapter does at a lock.
struct Forget(Weak<Fs>);

impl Observer for Forget {
    fn changed(&self, change: Change) {
        if let (Change::Locked, Some(fs)) = (change, self.0.upgrade()) {
            fs.forget_all();
        }
    }
    fn settle(&self, _: Duration) -> bool {
        true
    }
    fn open_handles(&self) -> u64 {
        0
    }
    fn waiting(&self) -> u64 {
        0
    }
}

struct World {
    fs: Arc<Fs>,
    identity: Secret,
    _home: tempfile::TempDir,
}

impl World {
    fn new(keep_versions: usize) -> Self {
        let home = tempfile::tempdir().unwrap();
        let recovery = Recovery { recipients: vec![RECIPIENT.into()] };
        let mut text = create_store(&home.path().join("store"), &Protection::Plain, &recovery).unwrap().unwrap();
        let identity = Secret::take(&mut text).unwrap();
        let settings = Settings {
            path: home.path().join("audit.log"),
            max_size: 1 << 26,
            when_full: WhenFull::Refuse,
            space: None,
        };
        let limits = Limits {
            max_secret_size: 1 << 20,
            max_secrets: 1000,
            max_instances: 8,
            keep_versions,
            allow_reveal: false,
            mountpoint: "/nowhere".into(),
            operator_gid: None,
        };
        let store = Store::open(&home.path().join("store")).unwrap();
        let vault = Vault::new(store, Log::open(settings, None).unwrap(), Callers::new().unwrap(), limits);
        let fs = Arc::new(Fs::new(Arc::new(vault), Register::new().unwrap()));
        fs.vault().observe(Arc::new(Forget(Arc::downgrade(&fs))));
        let world = World { fs, identity, _home: home };
        world.unlock();
        world
    }

    fn unlock(&self) {
        self.fs.vault().unlock(&ROOT, &UnlockBy::Identity(&self.identity)).unwrap();
    }

    fn lock(&self) {
        self.fs.vault().lock(&ROOT).unwrap();
    }

    /// A directory in the root that everybody may write.
    fn commons(&self) -> Ino {
        let name = name("commons");
        let new =
            NewNode { parent: Ino::ROOT, name: &name, kind: Kind::Directory, mode: 0o777, umask: 0, target: None };
        self.fs.make(&ROOT, new).unwrap().ino
    }

    fn create(&self, who: User, parent: Ino, file: &str, read: bool) -> (Ino, u64) {
        let name = name(file);
        let new = NewNode { parent, name: &name, kind: Kind::File, mode: 0o600, umask: 0o077, target: None };
        let (attr, opened) = self.fs.create(&who, 1, new, OpenMode { read, write: true, truncate: false }).unwrap();
        (attr.ino, opened.number())
    }

    fn open(&self, who: User, ino: Ino, mode: OpenMode) -> Result<u64, FsError> {
        self.fs.open(&who, 1, ino, mode).map(Opened::number)
    }

    fn ino(&self, path: &str) -> Ino {
        let path = SecretPath::parse(path).unwrap();
        path.names().iter().fold(Ino::ROOT, |at, n| self.fs.lookup(at, n.as_str().as_bytes()).unwrap().attr.ino)
    }

    /// As `echo content > file` does it.
    fn put(&self, who: User, parent: Ino, file: &str, content: &[u8]) -> Ino {
        let (ino, handle) = match self.fs.lookup(parent, file.as_bytes()) {
            Ok(seen) => (seen.attr.ino, self.open(who, seen.attr.ino, REWRITE).unwrap()),
            Err(_) => self.create(who, parent, file, false),
        };
        self.fs.write(handle, 0, content, false, 7).unwrap();
        self.fs.flush(handle, 7).unwrap();
        self.fs.release_writer(handle).unwrap();
        ino
    }

    fn rename(&self, who: User, parent: Ino, from: &str, to: &str) {
        let (from, to) = (name(from), name(to));
        let rename = Rename { parent, name: &from, new_parent: parent, new_name: &to, replace: true };
        self.fs.rename(&who, rename).unwrap();
    }

    fn read(&self, who: User, ino: Ino, handle: u64) -> Result<Vec<u8>, FsError> {
        let mut out = Vec::new();
        self.fs.read(&who, ino, handle, (0, 1 << 20), false, |bytes| out.extend_from_slice(bytes))?;
        Ok(out)
    }

    fn cat(&self, who: User, ino: Ino) -> Result<Vec<u8>, FsError> {
        let handle = self.open(who, ino, READ)?;
        let content = self.read(who, ino, handle);
        self.fs.release_reader(handle);
        content
    }

    /// Every version kept of a file opens.
    fn history_is_whole(&self, who: User, ino: Ino, upto: u64) {
        for number in 1..=upto {
            match self.fs.vault().open_version(&who, ino, number) {
                Ok(_) | Err(pinfold::vault::VaultError::NotFound) => {}
                Err(error) => panic!("version {number}: {error}"),
            }
        }
    }
}

const READ: OpenMode = OpenMode { read: true, write: false, truncate: false };
const READ_WRITE: OpenMode = OpenMode { read: true, write: true, truncate: false };
const REWRITE: OpenMode = OpenMode { read: false, write: true, truncate: true };

fn name(text: &str) -> Name {
    Name::parse(text.as_bytes()).unwrap()
}

#[test]
fn a_name_written_anew_takes_nothing_from_the_secret_that_left_it() {
    let world = World::new(1);
    let dir = world.commons();
    let ino = world.put(ALICE, dir, "pin", b"first");
    world.rename(ALICE, dir, "pin", "pin~");
    world.put(ALICE, dir, "pin", b"second");
    assert_eq!(world.cat(ALICE, ino).unwrap(), b"first", "the renamed secret has lost its content");
    world.lock();
    world.unlock();
    assert_eq!(world.cat(ALICE, ino).unwrap(), b"first");
    assert_eq!(world.cat(ALICE, world.ino("commons/pin")).unwrap(), b"second");
}

#[test]
fn a_temporary_name_used_again_and_again_keeps_a_history_of_distinct_versions() {
    let world = World::new(5);
    let dir = world.commons();
    for round in 0..20 {
        world.put(ALICE, dir, "config.lock", format!("round {round}").as_bytes());
        world.rename(ALICE, dir, "config.lock", "config");
    }
    let ino = world.ino("commons/config");
    let vault = world.fs.vault();
    let mut kept: Vec<Vec<u8>> = (1..100)
        .filter_map(|n| match vault.open_version(&ALICE, ino, n) {
            Ok(opened) => Some(opened.content.expose().to_vec()),
            Err(pinfold::vault::VaultError::NotFound) => None,
            Err(error) => panic!("version {n}: {error}"),
        })
        .collect();
    kept.dedup();
    assert_eq!(kept, (15..20).map(|n| format!("round {n}").into_bytes()).collect::<Vec<_>>());
}

#[test]
fn a_much_written_secret_renamed_over_a_young_one_keeps_its_history_whole() {
    let world = World::new(5);
    let dir = world.commons();
    world.put(ALICE, dir, "young", b"young");
    for round in 0..10 {
        world.put(ALICE, dir, "old", format!("{round}").as_bytes());
    }
    world.rename(ALICE, dir, "old", "young");
    let ino = world.ino("commons/young");
    for round in 10..20 {
        world.put(ALICE, dir, "young", format!("{round}").as_bytes());
        world.history_is_whole(ALICE, ino, 40);
    }
    assert_eq!(world.cat(ALICE, ino).unwrap(), b"19");
}

#[test]
fn two_threads_read_on_through_one_handle_after_a_lock() {
    let world = Arc::new(World::new(5));
    let dir = world.commons();
    let ino = world.put(ALICE, dir, "pin", b"secret");
    for _ in 0..50 {
        let handle = world.open(ALICE, ino, READ).unwrap();
        world.lock();
        world.unlock();
        let (done, all_done) = std::sync::mpsc::channel();
        for _ in 0..4 {
            let (world, done) = (Arc::clone(&world), done.clone());
            std::thread::spawn(move || done.send(world.read(ALICE, ino, handle).unwrap()).unwrap());
        }
        for _ in 0..4 {
            let content = all_done.recv_timeout(std::time::Duration::from_secs(20)).expect("a reader hangs");
            assert_eq!(content, b"secret");
        }
        world.fs.release_reader(handle);
    }
    assert_eq!(world.fs.open_handles(), 0);
}

#[test]
fn a_lock_forgets_writers_too() {
    let world = World::new(5);
    let dir = world.commons();
    let (_, handle) = world.create(ALICE, dir, "pin", true);
    world.fs.write(handle, 0, b"dirty", false, 7).unwrap();
    assert_eq!(world.fs.open_handles(), 1);
    world.lock();
    assert_eq!(world.fs.open_handles(), 0);
    assert!(matches!(world.fs.write(handle, 0, b"x", false, 7), Err(FsError::Stale)));
    assert!(matches!(world.fs.flush(handle, 7), Err(FsError::Stale)));
    world.fs.release_writer(handle).unwrap();
    assert_eq!(world.fs.open_handles(), 0);
}

#[test]
fn a_file_without_a_name_reads_on_through_a_handle_that_writes() {
    let world = World::new(5);
    let dir = world.commons();
    let (ino, fresh) = world.create(ALICE, dir, "tmp", true);
    world.fs.write(fresh, 0, b"abc", false, 7).unwrap();
    world.fs.flush(fresh, 7).unwrap();
    let second = world.open(ALICE, ino, READ_WRITE).unwrap();
    world.fs.unlink(&ALICE, dir, &name("tmp")).unwrap();
    assert_eq!(world.read(ALICE, ino, second).unwrap(), b"abc");
    world.fs.write(fresh, 3, b"d", false, 7).unwrap();
    world.fs.flush(fresh, 7).unwrap();
    world.fs.fsync(fresh).unwrap();
    assert_eq!(world.read(ALICE, ino, fresh).unwrap(), b"abcd");
    assert_eq!(world.fs.attr(ino, 1).unwrap().attr.nlink, 0);

    let replaced = world.put(ALICE, dir, "old", b"old");
    let handle = world.open(ALICE, replaced, READ_WRITE).unwrap();
    world.put(ALICE, dir, "new", b"new");
    world.rename(ALICE, dir, "new", "old");
    assert_eq!(world.read(ALICE, replaced, handle).unwrap(), b"old");
}

#[test]
fn many_files_removed_while_open_are_still_there_for_who_has_them_open() {
    let world = World::new(5);
    let dir = world.commons();
    let kept = world.put(ALICE, dir, "kept", b"x");
    let handle = world.open(ALICE, kept, READ).unwrap();
    world.fs.unlink(&ALICE, dir, &name("kept")).unwrap();
    for _ in 0..3000 {
        let (_, other) = world.create(ROOT, dir, "other", false);
        world.fs.release_writer(other).unwrap();
        world.fs.unlink(&ROOT, dir, &name("other")).unwrap();
    }
    assert_eq!(world.fs.attr(kept, 1).unwrap().attr.size, 1);
    assert_eq!(world.read(ALICE, kept, handle).unwrap(), b"x");
}

#[test]
fn no_uid_takes_all_of_the_locked_memory_by_writing() {
    let world = World::new(5);
    let dir = world.commons();
    let mut handles = Vec::new();
    let refused = (0..100).any(|n| {
        let (_, handle) = world.create(ALICE, dir, &format!("f{n}"), false);
        handles.push(handle);
        world.fs.write(handle, (1 << 20) - 1, b"x", false, 7).is_err()
    });
    assert!(refused, "a hundred dirty mebibytes of one uid");
    world.put(BOB, dir, "bob", &vec![b'x'; 1 << 20]);
    for handle in handles {
        world.fs.release_writer(handle).unwrap();
    }
    world.put(ALICE, dir, "after", &vec![b'x'; 1 << 20]);
}

#[test]
fn a_handle_opened_before_a_secret_was_enrolled_does_not_show_it() {
    let world = World::new(5);
    let dir = world.commons();
    let (ino, handle) = world.create(ALICE, dir, "pin", true);
    world.fs.write(handle, 0, b"bait", false, 7).unwrap();
    world.fs.flush(handle, 7).unwrap();
    assert_eq!(world.read(ALICE, ino, handle).unwrap(), b"bait", "its own content it may see");
    // The admin takes the file over and enrols a secret for bob.
    let set = pinfold::vault::SetAttr { uid: Some(Uid(1001)), gid: Some(Gid(1001)), ..Default::default() };
    world.fs.set_attr(&ROOT, 2, ino, set).unwrap();
    world.put(ROOT, dir, "pin", b"bob's secret");
    assert_eq!(world.cat(BOB, ino).unwrap(), b"bob's secret");
    assert!(world.read(ALICE, ino, handle).is_err(), "an old handle shows a secret its holder may not open");
    world.fs.write(handle, 0, b"B", false, 7).ok();
    assert!(world.read(ALICE, ino, handle).is_err(), "nor after a write to it");
    world.fs.flush(handle, 7).ok();
    assert!(world.read(ALICE, ino, handle).is_err(), "nor after a commit");
}

#[test]
fn a_lock_and_an_unlock_do_not_make_the_audit_log_look_cut() {
    let world = World::new(5);
    let dir = world.commons();
    world.put(ALICE, dir, "pin", b"1");
    let log = world.fs.vault().audit_log();
    // What is on the disk by now is anchored with the next commit.
    log.rotate().unwrap();
    world.put(ALICE, dir, "pin", b"2");
    world.lock();
    world.unlock();
    let report = pinfold::audit::verify(log.path(), None).unwrap();
    assert_eq!(report.problems, []);
}

#[test]
fn who_reads_while_others_commit_is_never_told_of_damage() {
    let world = Arc::new(World::new(1));
    let dir = world.commons();
    let ino = world.put(ALICE, dir, "pin", b"0");
    let writer = {
        let world = Arc::clone(&world);
        std::thread::spawn(move || {
            for n in 1..150 {
                world.put(ALICE, dir, "pin", format!("{n}").as_bytes());
            }
        })
    };
    let mut reads = 0;
    while !writer.is_finished() {
        let content = world.cat(ALICE, ino).unwrap();
        assert!(!content.is_empty());
        reads += 1;
    }
    writer.join().unwrap();
    assert!(reads > 100);
}

#[test]
fn what_was_shown_once_is_what_the_disk_has_after_a_failed_rename() {
    let world = World::new(5);
    let dir = world.commons();
    let ino = world.put(ALICE, dir, "pin", b"old");
    let handle = world.open(ALICE, ino, READ_WRITE).unwrap();
    // A directory does not replace a file: the name stays, and the handle goes on with what is committed.
    let new = NewNode { parent: dir, name: &name("d"), kind: Kind::Directory, mode: 0o700, umask: 0, target: None };
    world.fs.make(&ALICE, new).unwrap();
    let (from, to) = (name("d"), name("pin"));
    let rename = Rename { parent: dir, name: &from, new_parent: dir, new_name: &to, replace: true };
    assert!(world.fs.rename(&ALICE, rename).is_err());
    world.put(ALICE, dir, "pin", b"newer");
    assert_eq!(world.read(ALICE, ino, handle).unwrap(), b"newer");
}

#[test]
fn recovery_keys_change_while_histories_cross_and_everything_still_opens() {
    let world = Arc::new(World::new(5));
    let dir = world.commons();
    // Blobs that two names have in their history, far apart in the order of inodes.
    for n in 0..4 {
        world.put(ALICE, dir, &format!("a{n}"), b"first");
    }
    for n in 0..100 {
        world.put(ROOT, dir, &format!("between{n}"), b"x");
    }
    for n in 0..4 {
        world.rename(ALICE, dir, &format!("a{n}"), &format!("b{n}"));
        world.put(ALICE, dir, &format!("a{n}"), b"second");
    }
    let admin = Actor::new(0, 0, std::process::id() as i32);
    let others: Vec<String> = (0..2).map(|_| age::x25519::Identity::generate().to_public().to_string()).collect();
    let threads: Vec<_> = others
        .into_iter()
        .map(|recipient| {
            let (world, admin) = (Arc::clone(&world), admin);
            std::thread::spawn(move || {
                for _ in 0..3 {
                    world
                        .fs
                        .vault()
                        .serve(&admin, pinfold::wire::RecoveryAdd { recipient: recipient.clone(), only: false })
                        .unwrap();
                    world
                        .fs
                        .vault()
                        .serve(&admin, pinfold::wire::RecoveryRemove { recipient: recipient.clone() })
                        .unwrap();
                }
            })
        })
        .collect();
    while threads.iter().any(|t| !t.is_finished()) {
        world.put(ALICE, dir, "a0", b"while it goes on");
        assert_eq!(world.cat(ALICE, world.ino("commons/b0")).unwrap(), b"first");
    }
    threads.into_iter().for_each(|t| t.join().unwrap());
    let report = world.fs.vault().serve(&admin, Fsck { open: true }).unwrap();
    assert_eq!(report.problems, []);
}
