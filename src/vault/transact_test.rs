//! Transactions that fail, and daemons that end: what was refused never happened, what was answered did.

use super::txn::Part;
use super::*;
use crate::audit::{self, Settings, WhenFull};
use crate::model::{Kind, Uid, VersionNo};
use crate::seal::Protection;
use crate::store::{FaultPoint, NEXT_FAULT};
use crate::wire::{self, Serve};

pub(super) struct Rig {
    home: tempfile::TempDir,
    identity: Secret,
    opened: u32,
}

impl Rig {
    pub fn new() -> Rig {
        let home = tempfile::tempdir().unwrap();
        let recovery = Recovery { recipients: vec![age::x25519::Identity::generate().to_public().to_string()] };
        let mut text = create_store(&home.path().join("store"), &Protection::Plain, &recovery).unwrap().unwrap();
        Rig { home, identity: Secret::take(&mut text).unwrap(), opened: 0 }
    }

    /// What a daemon that begins now has.
    pub fn open(&mut self) -> Vault {
        self.opened += 1;
        let path = self.home.path().join(format!("log{}", self.opened));
        let settings = Settings { path, max_size: 1 << 24, when_full: WhenFull::Refuse, space: None };
        let limits = Limits {
            max_secret_size: 1 << 20,
            max_secrets: 1000,
            max_instances: 1,
            keep_versions: 3,
            allow_reveal: false,
            mountpoint: "/nowhere".into(),
            operator_gid: None,
        };
        let store = Store::open(&self.home.path().join("store")).unwrap();
        let vault = Vault::new(store, Log::open(settings, None).unwrap(), Callers::new().unwrap(), limits);
        vault.unlock(&Daemon, &UnlockBy::Identity(&self.identity)).unwrap();
        vault
    }
}

fn name(text: &str) -> Name {
    Name::parse(text.as_bytes()).unwrap()
}

fn path(text: &str) -> SecretPath {
    SecretPath::parse(text).unwrap()
}

pub(super) fn make(vault: &Vault, parent: Ino, text: &str, kind: Kind) -> Result<Ino, VaultError> {
    let target = (kind == Kind::Symlink).then_some("pin");
    let new = NewNode { parent, name: &name(text), kind, mode: 0o755, umask: 0, target };
    Ok(vault.create(&Daemon, new)?.ino)
}

pub(super) fn write(vault: &Vault, ino: Ino, bytes: &[u8]) -> Result<(), VaultError> {
    let right = vault.open_new(&Daemon, ino)?;
    vault.commit(&right, &Daemon.who(), Content { bytes, mtime: None }).map(drop)
}

fn rename(vault: &Vault, from: &str, to: &str) -> Result<(), VaultError> {
    let (name, new_name) = (name(from), name(to));
    let parent = Ino::ROOT;
    vault.rename(&Daemon, Rename { parent, name: &name, new_parent: parent, new_name: &new_name, replace: true })
}

/// Everything that can be seen: each path with its attributes, versions, target, ACL and attributes, and what is kept of removed ones.
fn seen(vault: &Vault) -> Vec<String> {
    let look = |tree: &Tree| {
        let nodes = tree.nodes().map(|(ino, node)| {
            let at = tree.path(ino).map(|path| path.to_string()).unwrap_or_default();
            let meta = &node.meta;
            format!("{at}: {ino:?} {:?} {meta:?} {:?} {:?}", node.kind, node.versions, node.target)
        });
        let tombstones = tree
            .tombstones()
            .map(|(ino, tombstone)| format!("{}: {ino:?} removed, {:?}", tombstone.path, tombstone.versions));
        let mut all: Vec<String> = nodes.chain(tombstones).collect();
        all.sort();
        all
    };
    vault.with_tree(look).unwrap()
}

type Step = (&'static str, fn(&Vault) -> Result<(), VaultError>);

/// One of each kind of change, done to what [`furnish`] made.
const STEPS: [Step; 17] = [
    ("mkdir", |vault| make(vault, Ino::ROOT, "new", Kind::Directory).map(drop)),
    ("symlink", |vault| make(vault, Ino::ROOT, "link", Kind::Symlink).map(drop)),
    ("create", |vault| make(vault, Ino::ROOT, "file", Kind::File).map(drop)),
    ("chmod, wider", |vault| set(vault, "pin", SetAttr { mode: Some(0o644), ..SetAttr::default() })),
    ("chmod, narrower", |vault| set(vault, "open", SetAttr { mode: Some(0o400), ..SetAttr::default() })),
    ("chown", |vault| set(vault, "pin", SetAttr { uid: Some(Uid(7)), ..SetAttr::default() })),
    ("touch", |vault| {
        let at = Timestamp { secs: 1000, nanos: 0 };
        set(vault, "pin", SetAttr { mtime: Some(TimeChange::At(at)), ..SetAttr::default() })
    }),
    ("setfattr", |vault| vault.set_xattr(&Daemon, vault.find(&path("pin"))?, "user.note", b"words", XattrMode::Set)),
    ("setfacl", |vault| {
        let entry =
            |tag: u16, perm: u16, id: u32| [&tag.to_le_bytes()[..], &perm.to_le_bytes(), &id.to_le_bytes()].concat();
        let none = u32::MAX;
        let acl = [
            2u32.to_le_bytes().to_vec(),
            entry(1, 6, none),
            entry(2, 4, 2000),
            entry(4, 0, none),
            entry(0x10, 4, none),
            entry(0x20, 0, none),
        ];
        let at = vault.find(&path("pin"))?;
        vault.set_xattr(&Daemon, at, "system.posix_acl_access", &acl.concat(), XattrMode::Set)
    }),
    ("rename", |vault| rename(vault, "pin", "other")),
    ("rename over", |vault| rename(vault, "pin", "open")),
    ("unlink", |vault| vault.unlink(&Daemon, Ino::ROOT, &name("pin")).map(drop)),
    ("rmdir", |vault| vault.rmdir(&Daemon, Ino::ROOT, &name("empty")).map(drop)),
    ("commit", |vault| write(vault, vault.find(&path("pin"))?, b"another")),
    ("put, new, with its folders", |vault| put(vault, "a/b/pin", Some(1000))),
    ("put, over what is there, to another owner", |vault| put(vault, "pin", Some(1000))),
    ("put, over what is there", |vault| put(vault, "open", None)),
];

fn put(vault: &Vault, at: &str, uid: Option<u32>) -> Result<(), VaultError> {
    let content = Secret::copy_of(b"put").unwrap();
    let put = crate::wire::Put { path: path(at), uid, gid: uid, mode: uid.map(|_| 0o400), parents: true, content };
    let actor = crate::wire::Actor::new(0, 0, std::process::id().cast_signed());
    let caller = vault.admin(&actor).unwrap();
    vault.put_whole(&actor, &caller, &put).map(drop)
}

fn set(vault: &Vault, at: &str, set: SetAttr) -> Result<(), VaultError> {
    vault.set_attr(&Daemon, vault.find(&path(at))?, set).map(drop)
}

fn furnish(vault: &Vault) {
    for (text, mode) in [("pin", 0o600), ("open", 0o644)] {
        let ino = make(vault, Ino::ROOT, text, Kind::File).unwrap();
        write(vault, ino, text.as_bytes()).unwrap();
        set(vault, text, SetAttr { mode: Some(mode), ..SetAttr::default() }).unwrap();
    }
    make(vault, Ino::ROOT, "empty", Kind::Directory).unwrap();
}

#[test]
fn what_was_answered_is_there_after_the_daemon_s_end() {
    for (what, step) in STEPS {
        let mut rig = Rig::new();
        let vault = rig.open();
        furnish(&vault);
        step(&vault).unwrap_or_else(|e| panic!("{what}: {e}"));
        let expected = seen(&vault);
        // Nothing is shut down: what it had in memory alone is lost.
        drop(vault);
        assert_eq!(seen(&rig.open()), expected, "{what}");
    }
}

#[test]
fn what_cannot_be_journalled_never_happened() {
    for (what, step) in STEPS {
        let mut rig = Rig::new();
        let vault = rig.open();
        furnish(&vault);
        let before = seen(&vault);
        for point in [FaultPoint::Append, FaultPoint::Appended] {
            NEXT_FAULT.set(Some(point));
            assert!(step(&vault).is_err(), "{what}, {point:?}");
            assert_eq!(NEXT_FAULT.take(), None, "{what}: it was met");
            assert_eq!(seen(&vault), before, "{what}, {point:?}: in memory");
        }
        // A later commit carries nothing of it along.
        vault.sync().unwrap();
        let ino = make(&vault, Ino::ROOT, "later", Kind::File).unwrap();
        write(&vault, ino, b"later").unwrap();
        let expected = seen(&vault);
        drop(vault);
        let vault = rig.open();
        assert_eq!(seen(&vault), expected, "{what}: after a restart");
        step(&vault).unwrap_or_else(|e| panic!("{what}, once more: {e}"));
        assert!(vault.check(true).unwrap().problems.is_empty(), "{what}");
    }
}

/// Whatever cuts it off, there is all of it or nothing.
#[test]
fn a_put_with_its_folders_owner_and_content_is_one_entry() {
    let mut rig = Rig::new();
    let vault = rig.open();
    furnish(&vault);
    for (at, uid) in [("a/b/pin", Some(1000)), ("pin", Some(1000)), ("open", None)] {
        let before = vault.store.generation().unwrap();
        put(&vault, at, uid).unwrap();
        assert_eq!(vault.store.generation().unwrap().0 - before.0, 1, "{at}");
        let node = vault.node(vault.find(&path(at)).unwrap()).unwrap();
        assert_eq!(node.meta.uid, Uid(uid.unwrap_or(0)), "{at}");
    }
}

#[test]
fn the_root_is_no_secret_and_a_mode_has_permission_bits_only() {
    let mut rig = Rig::new();
    let vault = rig.open();
    let actor = crate::wire::Actor::new(0, 0, std::process::id().cast_signed());
    let before = seen(&vault);
    let put = |at: SecretPath, mode| {
        let content = Secret::copy_of(b"put").unwrap();
        vault.serve(&actor, wire::Put { path: at, uid: None, gid: None, mode, parents: true, content }).map(drop)
    };
    let view = |at: &str, mode| {
        let asked = serde_json::json!({ "path": at, "kind": "concat", "args": ["open"], "mode": mode });
        vault.serve(&actor, serde_json::from_value::<wire::ViewAdd>(asked).unwrap()).map(drop)
    };
    let root = || serde_json::json!({ "path": "" });
    let condition = serde_json::json!({ "path": "", "unit": "x.service" });
    for refused in [
        put(SecretPath::root(), None),
        put(path("pin"), Some(0o1600)),
        view("", None),
        view("v", Some(0o4600)),
        vault.serve(&actor, serde_json::from_value::<wire::ViewRemove>(root()).unwrap()).map(drop),
        vault.serve(&actor, serde_json::from_value::<wire::Remove>(root()).unwrap()).map(drop),
        vault.serve(&actor, serde_json::from_value::<wire::Condition>(condition).unwrap()).map(drop),
    ] {
        assert!(matches!(refused, Err(wire::Fault::Usage(_))), "{refused:?}");
    }
    assert_eq!(seen(&vault), before);
}

#[test]
fn a_put_that_is_refused_is_on_record_once_and_leaves_nothing() {
    let mut rig = Rig::new();
    let vault = rig.open();
    let log = |rig: &Rig| std::fs::read_to_string(rig.home.path().join("log1")).unwrap();
    make(&vault, Ino::ROOT, "folder", Kind::Directory).unwrap();
    // What is no certificate, what is longer than a secret may be, and a name in a folder that is not made by hand.
    for (at, size) in [("a/b.pem", 4), ("a/long", (1 << 20) + 1), ("containers/nobody/pin", 4)] {
        let content = Secret::copy_of(&vec![b'x'; size]).unwrap();
        let put = crate::wire::Put { path: path(at), uid: None, gid: None, mode: None, parents: true, content };
        let actor = crate::wire::Actor::new(0, 0, std::process::id().cast_signed());
        let before = seen(&vault);
        assert!(vault.put_whole(&actor, &vault.admin(&actor).unwrap(), &put).is_err(), "{at}");
        assert_eq!(seen(&vault), before, "{at}");
    }
    vault.shutdown();
    let refused: Vec<String> =
        log(&rig).lines().filter(|line| line.contains("\"denied\"")).map(|line| line[..160].to_owned()).collect();
    assert_eq!(refused.len(), 3, "{refused:#?}");
}

/// A key that is replaced and removed for good in one transaction: if that fails, the old one is all there is.
#[test]
fn a_private_key_outlives_the_transaction_that_was_to_replace_it() {
    for point in [FaultPoint::Append, FaultPoint::Appended, FaultPoint::JournalSync] {
        let mut rig = Rig::new();
        let vault = rig.open();
        furnish(&vault);
        let before = seen(&vault);
        NEXT_FAULT.set(Some(point));
        let parts = [Part { path: path("new"), content: b"the new one", mode: 0o600 }];
        let gone = [(path("pin"), audit::Operation::Purge)];
        let failed = vault.commit_together(&Daemon, &parts, &gone, audit::Operation::Renew);
        assert!(failed.is_err() && NEXT_FAULT.take().is_none(), "{point:?}");
        assert_eq!(seen(&vault), before, "{point:?}");
        vault.sync().unwrap();
        write(&vault, vault.find(&path("open")).unwrap(), b"goes on").unwrap();
        assert!(vault.check(true).unwrap().problems.is_empty(), "{point:?}: its content can be opened");
        drop(vault);
        let vault = rig.open();
        assert!(vault.find(&path("pin")).is_ok() && vault.find(&path("new")).is_err(), "{point:?}");
        assert!(vault.check(true).unwrap().problems.is_empty(), "{point:?}");
    }
}

/// What was refused is not done by what is journalled next: not the word of a console, a recipient or a key's return either.
#[test]
fn what_an_admin_was_told_had_failed_is_not_done_later() {
    let another = age::x25519::Identity::generate().to_public().to_string();
    let mut rig = Rig::new();
    let vault = rig.open();
    furnish(&vault);
    let facts = |vault: &Vault| vault.lock_writer().facts().unwrap().clone();
    let revoked = |vault: &Vault| {
        let host = Arc::clone(&vault.keys().unwrap().scopes[&crate::model::Scope::Host]);
        host.revoke();
        vault.look_after_keys();
    };
    let before = facts(&vault);
    NEXT_FAULT.set(Some(FaultPoint::Transaction));
    assert!(
        vault.change_recovery(&Daemon, &another, recovery::RecoveryChange::Add).is_err() && NEXT_FAULT.take().is_none()
    );
    assert_eq!(facts(&vault).recovery, before.recovery);
    vault.sync().unwrap();
    drop(vault);
    let vault = rig.open();
    assert_eq!((facts(&vault).recovery, facts(&vault).resealing), (before.recovery, false));
    assert!(vault.check(true).unwrap().problems.is_empty());

    revoked(&vault);
    assert_eq!(facts(&vault).revoked.len(), 1);
    NEXT_FAULT.set(Some(FaultPoint::Append));
    assert!(vault.unlock(&Daemon, &UnlockBy::Identity(&rig.identity)).is_err() && NEXT_FAULT.take().is_none());
    vault.sync().unwrap();
    assert_eq!(facts(&vault).revoked.len(), 1, "it did not come back");
    vault.unlock(&Daemon, &UnlockBy::Identity(&rig.identity)).unwrap();
    assert_eq!(facts(&vault).revoked.len(), 0);
}

/// A scope that is to go with everything in it: if that fails, all of it is there and opens, at once and after a restart.
#[test]
fn a_scope_outlives_the_transaction_that_was_to_remove_it() {
    let mut rig = Rig::new();
    let vault = rig.open();
    let web = crate::model::Scope::container("web").unwrap();
    vault.add_scope(&Daemon, &web, false, node::UidMap::Auto).unwrap();
    let folder = vault.find(&path("containers/web")).unwrap();
    let pin = make(&vault, folder, "pin", Kind::File).unwrap();
    write(&vault, pin, b"1234").unwrap();
    let before = seen(&vault);
    NEXT_FAULT.set(Some(FaultPoint::Transaction));
    assert!(vault.remove_scope(&Daemon, &web, true).is_err() && NEXT_FAULT.take().is_none());
    assert_eq!(seen(&vault), before);
    assert_eq!(vault.declared_scopes().unwrap()[0].state, ScopeState::Alive);
    // What is done next carries nothing of it along.
    vault.sync().unwrap();
    make(&vault, folder, "another", Kind::File).unwrap();
    drop(vault);
    let vault = rig.open();
    assert!(vault.find(&path("containers/web/another")).is_ok());
    assert!(vault.check(true).unwrap().problems.is_empty());
    assert_eq!(vault.remove_scope(&Daemon, &web, true).unwrap(), (3, 1));
    assert!(vault.find(&path("containers/web")).is_err() && vault.declared_scopes().unwrap().is_empty());
    drop(vault);
    let vault = rig.open();
    assert!(vault.find(&path("containers/web")).is_err() && vault.check(true).unwrap().problems.is_empty());
}

#[test]
fn commits_to_different_secrets_wait_for_the_disk_together() {
    let mut rig = Rig::new();
    let vault = rig.open();
    let secrets: Vec<Ino> = (0..8).map(|n| make(&vault, Ino::ROOT, &format!("s{n}"), Kind::File).unwrap()).collect();
    let generations: Arc<Mutex<Vec<u64>>> = Arc::default();
    let told = Arc::clone(&generations);
    vault.on_generation(Box::new(move |generation| told.lock().push(generation.0)));
    let rounds = 50;
    std::thread::scope(|threads| {
        for ino in &secrets {
            let vault = &vault;
            threads.spawn(move || {
                for round in 0..rounds {
                    let content = round.to_string();
                    write(vault, *ino, content.as_bytes()).unwrap();
                    let opened = vault.open_read(&Daemon, *ino).unwrap();
                    assert_eq!(opened.content.expose(), content.as_bytes(), "answered, so it is shown");
                }
            });
        }
        // Who changes anything else is not kept waiting for ever, and breaks nothing.
        let vault = &vault;
        threads.spawn(move || {
            for n in 0..rounds {
                make(vault, Ino::ROOT, &format!("d{n}"), Kind::Directory).unwrap();
                rename(vault, &format!("d{n}"), &format!("e{n}")).unwrap();
            }
        });
    });
    let syncs = generations.lock().len();
    println!("{syncs} times the disk was waited for, or an answer given without, for {} commits", rounds * 8);
    let before = seen(&vault);
    // As a kill leaves it.
    std::thread::scope(|threads| threads.spawn(|| std::mem::forget(vault.lock_writer())).join().unwrap());
    std::mem::forget(vault);
    let copy = tempfile::tempdir().unwrap();
    let done = std::process::Command::new("cp").arg("-a").arg(rig.home.path().join("store")).arg(copy.path()).status();
    assert!(done.unwrap().success());
    rig.home = copy;
    let vault = rig.open();
    assert_eq!(seen(&vault), before);
    for ino in &secrets {
        let opened = vault.open_read(&Daemon, *ino).unwrap();
        assert_eq!((opened.content.expose(), opened.version), (&b"49"[..], Some(VersionNo(50))));
    }
}

#[test]
fn a_commit_that_does_not_reach_the_disk_is_not_shown_and_the_next_one_is() {
    let mut rig = Rig::new();
    let vault = rig.open();
    let ino = make(&vault, Ino::ROOT, "pin", Kind::File).unwrap();
    write(&vault, ino, b"1").unwrap();
    let before = seen(&vault);
    NEXT_FAULT.set(Some(FaultPoint::JournalSync));
    assert!(write(&vault, ino, b"2").is_err());
    assert_eq!(seen(&vault), before);
    assert_eq!(vault.open_read(&Daemon, ino).unwrap().content.expose(), b"1");
    write(&vault, ino, b"3").unwrap();
    assert_eq!(vault.open_read(&Daemon, ino).unwrap().version, Some(VersionNo(2)));
    rename(&vault, "pin", "other").unwrap();
}

#[test]
fn writers_at_once_get_no_more_than_their_share_together() {
    let mut rig = Rig::new();
    let bounds = crate::meter::Shares::default().with(crate::meter::Resource::Versions, 20);
    let vault = rig.open().with_meter(Meter::new(&bounds, 1 << 20, 1000));
    let secrets: Vec<Ino> = (0..16).map(|n| make(&vault, Ino::ROOT, &format!("s{n}"), Kind::File).unwrap()).collect();
    let bound = vault.meter().bounds(crate::meter::Resource::Versions).of(Payer::Uid(0));
    let done = std::thread::scope(|threads| {
        let writers: Vec<_> = secrets
            .iter()
            .map(|ino| threads.spawn(|| (0..3).filter(|n| write(&vault, *ino, &[b'0' + n]).is_ok()).count() as u64))
            .collect();
        writers.into_iter().map(|writer| writer.join().unwrap()).sum::<u64>()
    });
    assert_eq!(done, bound.min(48), "neither more nor less");
}

const CHILD: &str = "PINFOLD_TEST_PANIC";

/// Not a test: what [`a_change_that_panics_ends_the_process`] runs.
#[test]
#[ignore = "it is run by another test, and ends the process"]
fn the_child_whose_change_panics() {
    let Ok(when) = std::env::var(CHILD) else { return };
    let mut rig = Rig::new();
    let vault = rig.open();
    let pin = make(&vault, Ino::ROOT, "pin", Kind::File).unwrap();
    let fails = std::panic::AssertUnwindSafe(|| match when.as_str() {
        "changing" => vault.transact(|writer| -> Result<(), VaultError> {
            writer.touch(pin);
            panic!("in the middle of a change")
        }),
        _ => {
            let _under_way = vault.abreast.begin(pin, super::kept::Count::default());
            panic!("before what is journalled is shown")
        }
    });
    println!("begun");
    // As the filesystem does around each request.
    let _ = std::panic::catch_unwind(fails);
    println!("goes on");
}

#[test]
fn a_change_made_while_another_panic_unwinds_ends_nothing() {
    struct Last(Vault, Ino);
    impl Drop for Last {
        fn drop(&mut self) {
            let change = |writer: &mut Writer| -> Result<(), VaultError> {
                writer.touch(self.1);
                Ok(())
            };
            self.0.transact(change).unwrap();
            self.0.shutdown();
        }
    }
    let mut rig = Rig::new();
    let vault = rig.open();
    let pin = make(&vault, Ino::ROOT, "pin", Kind::File).unwrap();
    let failed = std::thread::spawn(move || {
        let _last = Last(vault, pin);
        panic!("nothing of the vault's")
    });
    assert!(failed.join().is_err());
}

#[test]
fn a_change_that_panics_ends_the_process() {
    // What it leaves there goes with this.
    let folder = tempfile::tempdir().unwrap();
    for when in ["changing", "journalled"] {
        let out = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "vault::transact_test::the_child_whose_change_panics", "--ignored", "--nocapture"])
            .env(CHILD, when)
            .env("TMPDIR", folder.path())
            .output()
            .unwrap();
        let signal = std::os::unix::process::ExitStatusExt::signal(&out.status);
        let said = String::from_utf8_lossy(&out.stdout);
        assert_eq!(
            (signal, said.contains("begun"), said.contains("goes on")),
            (Some(libc::SIGABRT), true, false),
            "{said}"
        );
    }
}
