//! Rekeying, whole and ended at each of its steps.

use super::*;
use crate::audit::{Log, Settings, WhenFull};
use crate::caller::Callers;
use crate::model::SecretPath;
use crate::store::{FaultPoint, NEXT_FAULT, Store};
use crate::vault::{Limits, Recovery, create_store};
use crate::wire::{Actor, Extract, Fsck, IdentityAdd, Put, Remove, Reveal, Serve};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

fn secret(text: &str) -> Secret {
    Secret::copy_of(text.as_bytes()).unwrap()
}

fn root() -> Actor {
    Actor::new(0, 0, i32::try_from(std::process::id()).unwrap())
}

/// A store in a folder of its own, and the recovery key to it.
struct Rig {
    home: tempfile::TempDir,
    recovery: age::x25519::Identity,
    logs: AtomicU32,
}

impl Rig {
    fn new() -> Rig {
        let rig = Rig {
            home: tempfile::tempdir().unwrap(),
            recovery: age::x25519::Identity::generate(),
            logs: AtomicU32::new(0),
        };
        let recovery = Recovery { recipients: vec![rig.recovery.to_public().to_string()] };
        create_store(&rig.store(), &Protection::Passphrase(&secret("old")), &recovery).unwrap();
        rig
    }

    fn store(&self) -> PathBuf {
        self.home.path().join("store")
    }

    /// As a daemon that has just begun has it.
    fn locked(&self) -> Vault {
        let log = self.home.path().join(format!("audit-{}", self.logs.fetch_add(1, Ordering::SeqCst)));
        let settings = Settings { path: log, max_size: 1 << 24, when_full: WhenFull::Refuse, space: None };
        let limits = Limits {
            max_secret_size: 4096,
            max_secrets: 10_000,
            max_instances: 10,
            keep_versions: 3,
            allow_reveal: true,
            mountpoint: "/nowhere".into(),
            operator_gid: None,
        };
        let store = Store::open(&self.store()).unwrap();
        Vault::new(store, Log::open(settings, None).unwrap(), Callers::new().unwrap(), limits)
    }

    fn unlocked(&self, passphrase: &str) -> Vault {
        let vault = self.locked();
        Vault::unlock(&vault, &Daemon, &UnlockBy::Passphrase(&secret(passphrase))).unwrap();
        vault
    }

    fn identity_files(&self) -> Vec<String> {
        let names = std::fs::read_dir(self.store()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|n| n.starts_with("identity")).collect();
        names.sort();
        names
    }
}

fn put(vault: &Vault, path: &str, content: &str) {
    let path = SecretPath::parse(path).unwrap();
    let put = Put { path, uid: None, gid: None, mode: None, parents: true, content: secret(content) };
    vault.serve(&root(), put).unwrap();
}

fn shown(vault: &Vault, path: &str, version: Option<u64>) -> String {
    let reveal = Reveal { path: SecretPath::parse(path).unwrap(), version };
    let content = vault.serve(&root(), reveal).map(|done| done.content).unwrap_or_else(|e| panic!("{path}: {e}"));
    String::from_utf8(content.expose().to_vec()).unwrap()
}

/// Secrets with histories, one of them removed, one that another name took over.
fn fill(vault: &Vault, count: usize) {
    for n in 0..count {
        put(vault, &format!("d/s{n}"), &format!("first {n}"));
    }
    put(vault, "d/s1", "second 1");
    put(vault, "gone", "from the tombstone");
    let scope = Scope::container("web").unwrap();
    if vault.add_scope(&Daemon, &scope, false, crate::vault::UidMap::Auto).is_ok() {
        put(vault, "containers/web/inner", "in a scope of its own");
    }
    let remove = Remove { path: SecretPath::parse("gone").unwrap(), purge: false, recursive: false };
    vault.serve(&root(), remove).unwrap();
}

fn check(vault: &Vault, count: usize) {
    for n in 0..count {
        assert_eq!(shown(vault, &format!("d/s{n}"), Some(1)), format!("first {n}"));
    }
    assert_eq!(shown(vault, "d/s1", None), "second 1");
    let report = vault.serve(&root(), Fsck { open: true }).unwrap();
    assert_eq!(report.problems, [], "nothing is lost and nothing lies about");
}

/// That what was removed is still there. Changes the store.
fn restore_name(vault: &Vault) {
    let rollback = crate::wire::Rollback { path: SecretPath::parse("gone").unwrap(), version: 1 };
    vault.serve(&root(), rollback).unwrap();
    assert_eq!(shown(vault, "gone", None), "from the tombstone");
}

fn rekey(vault: &Vault, old: &str, new: &str) -> Result<Rekeyed, VaultError> {
    let (old, new) = (secret(old), secret(new));
    vault.rekey(&Daemon, &UnlockBy::Passphrase(&old), &NextIdentity::Passphrase(&new), false)
}

#[test]
fn everything_is_new_and_nobody_who_reads_or_writes_notices() {
    const COUNT: usize = 150;
    let rig = Rig::new();
    let vault = rig.unlocked("old");
    fill(&vault, COUNT);
    let before: HashMap<BlobKey, Vec<u8>> = vault
        .store
        .blob_keys()
        .unwrap()
        .into_iter()
        .map(|k| (k, vault.store.blob(k).unwrap().unwrap().to_vec()))
        .collect();
    let scopes = vault.store.scopes().unwrap();
    let done = AtomicBool::new(false);
    let (rounds, written) = (AtomicU32::new(0), AtomicU32::new(0));
    let rekeyed = std::thread::scope(|threads| {
        threads.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                for n in 0..COUNT {
                    assert_eq!(shown(&vault, &format!("d/s{n}"), Some(1)), format!("first {n}"));
                }
                rounds.fetch_add(1, Ordering::SeqCst);
            }
        });
        threads.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                let n = written.fetch_add(1, Ordering::SeqCst);
                put(&vault, "w", &format!("written {n}"));
                assert_eq!(shown(&vault, "w", None), format!("written {n}"));
            }
        });
        while rounds.load(Ordering::SeqCst) == 0 || written.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        let rekeyed = rekey(&vault, "old", "new");
        let after = rounds.load(Ordering::SeqCst);
        while rekeyed.is_ok() && rounds.load(Ordering::SeqCst) < after + 2 {
            std::thread::yield_now();
        }
        done.store(true, Ordering::SeqCst);
        rekeyed.unwrap()
    });
    assert!(rekeyed.blobs >= COUNT as u64 + 2, "{rekeyed:?}");
    check(&vault, COUNT);
    for key in vault.store.blob_keys().unwrap() {
        assert!(!before.contains_key(&key), "an old blob is left");
        let blob = vault.store.blob(key).unwrap().unwrap();
        assert!(!before.values().any(|old| *old == *blob));
    }
    assert!(vault.store.scopes().unwrap().iter().all(|scope| !scopes.contains(scope)));
    let last = format!("written {}", written.load(Ordering::SeqCst) - 1);
    drop(vault);
    // The old passphrase opens nothing, the new one all, and the recovery key what it opened before.
    let vault = rig.locked();
    let with = |text: &str| Vault::unlock(&vault, &Daemon, &UnlockBy::Passphrase(&secret(text)));
    assert!(matches!(with("old"), Err(VaultError::WrongKey(_))));
    with("new").unwrap();
    check(&vault, COUNT);
    restore_name(&vault);
    assert_eq!(shown(&vault, "w", None), last);
    let extract = Extract { path: SecretPath::parse("d/s3").unwrap(), version: None };
    let blob = vault.serve(&root(), extract).unwrap().blob;
    assert_eq!(age::decrypt(&rig.recovery, &blob).unwrap(), b"first 3");
    assert_eq!(rig.identity_files(), ["identity.age"]);
    // And once more: blobs turn over to the names that the first ones had.
    rekey(&vault, "new", "newer").unwrap();
    check(&vault, COUNT);
    drop(vault);
    check(&rig.unlocked("newer"), COUNT);
}

#[test]
fn ended_at_any_step_it_opens_with_the_old_or_the_new_and_nothing_is_lost() {
    use fault::Point::*;
    let ours = [
        (Marked, "old"),
        (FileWritten, "old"),
        (SomeCopied, "old"),
        (AboutToTurn, "old"),
        (TurnedOver, "new"),
        (FileReplaced, "new"),
        (FilesSettled, "new"),
        (SomeRemoved, "new"),
    ];
    let steps = ours.map(|(point, opens)| (Some(point), None, opens)).into_iter().chain([
        (None, Some(FaultPoint::Slot), "old"),
        (None, Some(FaultPoint::Transaction), "old"),
        (None, Some(FaultPoint::AfterTransaction), "old"),
        (None, Some(FaultPoint::Sync), "old"),
    ]);
    for (ours, stores, opens) in steps {
        let what = format!("{ours:?} {stores:?}");
        let rig = Rig::new();
        let vault = rig.unlocked("old");
        fill(&vault, 70);
        fault::NEXT.set(ours.map(fault::Injected::Error));
        // The store's points are passed by every commit: it is the one of the turning that is to fail.
        AT_TURNING.set(stores);
        let ended = rekey(&vault, "old", "new");
        assert!(ended.is_err(), "{what} was passed without an end");
        drop(vault);
        assert_eq!((fault::NEXT.take(), NEXT_FAULT.take()), (None, None), "{what}");
        let other = if opens == "old" { "new" } else { "old" };
        let vault = rig.locked();
        let with = |text: &str| Vault::unlock(&vault, &Daemon, &UnlockBy::Passphrase(&secret(text)));
        assert!(matches!(with(other), Err(VaultError::WrongKey(_))), "{what}: {other} opens it");
        with(opens).unwrap_or_else(|e| panic!("{what}: {opens} does not open it: {e}"));
        vault.finish_rekey().unwrap();
        check(&vault, 70);
        assert_eq!(rig.identity_files(), ["identity.age"], "{what}");
        restore_name(&vault);
        // Whole again: it can be done from the beginning.
        rekey(&vault, opens, "third").unwrap();
        drop(vault);
        check(&rig.unlocked("third"), 70);
    }
}

#[test]
fn an_identity_that_the_caller_keeps_leaves_no_file_behind() {
    let rig = Rig::new();
    let vault = rig.unlocked("old");
    fill(&vault, 3);
    let (_, file) = seal::new_identity(&Protection::Plain).unwrap();
    let next = Secret::copy_of(&file).unwrap();
    let old = secret("old");
    let try_it = |drop_others| {
        vault.rekey(&Daemon, &UnlockBy::Passphrase(&old), &NextIdentity::KeptByCaller(&next), drop_others)
    };
    assert!(matches!(try_it(false), Err(VaultError::Invalid(why)) if why.contains("main")));
    fault::NEXT.set(Some(fault::Injected::Error(fault::Point::TurnedOver)));
    assert!(try_it(true).is_err());
    drop(vault);
    let vault = rig.locked();
    assert!(Vault::unlock(&vault, &Daemon, &UnlockBy::Passphrase(&old)).is_err());
    Vault::unlock(&vault, &Daemon, &UnlockBy::Identity(&next)).unwrap();
    vault.finish_rekey().unwrap();
    assert_eq!(rig.identity_files(), Vec::<String>::new());
    check(&vault, 3);
}

/// A supervisor in small: what a daemon that is killed leaves in its hands, also where the test's error locks the store.
#[derive(Default)]
struct Kept(crate::lock::Mutex<Vec<u8>>);

impl crate::vault::Keeper for Kept {
    fn keep(&self, identity: &Secret) {
        *self.0.lock() = identity.expose().to_vec();
    }
    fn keep_also(&self, identity: &Secret) {
        let mut kept = self.0.lock();
        kept.push(b'\n');
        kept.extend_from_slice(identity.expose());
    }
    fn forget(&self) {}
}

#[test]
fn the_daemon_that_takes_over_in_the_middle_asks_nobody() {
    let stores = [None, Some(FaultPoint::Slot), Some(FaultPoint::AfterTransaction)].map(|point| (point, None));
    for (of_store, ours) in stores.into_iter().chain([(None, Some(fault::Point::TurnedOver))]) {
        let rig = Rig::new();
        let vault = rig.locked();
        let kept = Arc::new(Kept::default());
        vault.keep_with(Arc::clone(&kept) as Arc<dyn crate::vault::Keeper>);
        Vault::unlock(&vault, &Daemon, &UnlockBy::Passphrase(&secret("old"))).unwrap();
        fill(&vault, 3);
        AT_TURNING.set(of_store);
        fault::NEXT.set(ours.map(fault::Injected::Error));
        assert_eq!(rekey(&vault, "old", "new").is_ok(), (of_store, ours) == (None, None));
        drop(vault);
        let left = Secret::copy_of(&kept.0.lock()).unwrap();
        let next = rig.locked();
        let taken = Vault::unlock(&next, &Daemon, &UnlockBy::Kept(&left));
        taken.unwrap_or_else(|e| panic!("{of_store:?} {ours:?}: {e}"));
        next.finish_rekey().unwrap();
        check(&next, 3);
    }
}

#[test]
fn the_daemon_that_takes_over_after_a_change_of_recovery_keys_asks_nobody() {
    for by_recovery in [false, true] {
        let rig = Rig::new();
        let vault = rig.locked();
        let kept = Arc::new(Kept::default());
        vault.keep_with(Arc::clone(&kept) as Arc<dyn crate::vault::Keeper>);
        let key = age::secrecy::ExposeSecret::expose_secret(&rig.recovery.to_string()).to_owned();
        let (old, key) = (secret("old"), secret(&key));
        let by = if by_recovery { UnlockBy::Identity(&key) } else { UnlockBy::Passphrase(&old) };
        Vault::unlock(&vault, &Daemon, &by).unwrap();
        fill(&vault, 3);
        let other = age::x25519::Identity::generate().to_public().to_string();
        let before = Secret::copy_of(&kept.0.lock()).unwrap();
        vault.serve(&root(), crate::wire::RecoveryAdd { recipient: other, only: true }).unwrap();
        drop(vault);
        let left = Secret::copy_of(&kept.0.lock()).unwrap();
        let next = rig.locked();
        // The escrow that was is worth nothing; the identity is what it was.
        assert_eq!(Vault::unlock(&next, &Daemon, &UnlockBy::Kept(&before)).is_ok(), !by_recovery);
        if by_recovery {
            Vault::unlock(&next, &Daemon, &UnlockBy::Kept(&left)).unwrap();
        }
        check(&next, 3);
        drop(next);
        let next = rig.locked();
        let removed = Vault::unlock(&next, &Daemon, &UnlockBy::Identity(&key));
        assert!(matches!(removed, Err(VaultError::WrongKey(_))), "{removed:?}");
    }
}

#[test]
fn what_was_revoked_stays_revoked_though_nobody_had_looked() {
    let rig = Rig::new();
    let vault = rig.unlocked("old");
    fill(&vault, 2);
    vault.keys().unwrap().scopes[&Scope::Host].revoke();
    rekey(&vault, "old", "new").unwrap();
    let reveal = Reveal { path: SecretPath::parse("d/s0").unwrap(), version: None };
    assert!(vault.serve(&root(), reveal).map(|done| done.content).unwrap_err().to_string().contains("revoked"));
    drop(vault);
    let vault = rig.unlocked("new");
    assert_eq!(vault.scope_state(&Scope::Host), ScopeState::Revoked);
}

#[test]
fn a_recovery_key_gives_a_store_a_new_passphrase() {
    use age::secrecy::ExposeSecret;
    let rig = Rig::new();
    let vault = rig.unlocked("old");
    fill(&vault, 3);
    let recovery = secret(rig.recovery.to_string().expose_secret());
    let lost = secret("new");
    vault.rekey(&Daemon, &UnlockBy::Identity(&recovery), &NextIdentity::Passphrase(&lost), false).unwrap();
    drop(vault);
    let vault = rig.locked();
    assert!(Vault::unlock(&vault, &Daemon, &UnlockBy::Passphrase(&secret("old"))).is_err());
    Vault::unlock(&vault, &Daemon, &UnlockBy::Identity(&recovery)).unwrap();
    vault.lock(&Daemon).unwrap();
    Vault::unlock(&vault, &Daemon, &UnlockBy::Passphrase(&lost)).unwrap();
    check(&vault, 3);
}

#[test]
fn protectors_come_and_go_and_one_stays() {
    let rig = Rig::new();
    let vault = rig.unlocked("old");
    fill(&vault, 2);
    let key = seal::make_identity();
    let add = |name: Option<&str>, old: &str, passphrase: Option<&str>, recipient: Option<String>, replace| {
        let add = IdentityAdd {
            old_passphrase: Some(secret(old)),
            old_identity: None,
            passphrase: passphrase.map(secret),
            recipient,
            name: name.map(Into::into),
            replace,
        };
        vault.serve(&root(), add)
    };
    let names = || {
        vault
            .serve(&root(), crate::wire::IdentityList {})
            .unwrap()
            .protectors
            .into_iter()
            .map(|p| (p.name, p.opened_by))
            .collect::<Vec<_>>()
    };
    add(Some("clevis"), "old", Some("from clevis"), None, false).unwrap();
    add(Some("token"), "from clevis", None, Some(key.recipient().to_string()), false).unwrap();
    let refused = |done: Result<crate::wire::Done, crate::wire::Fault>, why: &str| {
        let told = done.unwrap_err().to_string();
        assert!(told.contains(why), "{told}");
    };
    refused(add(Some("clevis"), "old", Some("x"), None, false), "exists");
    refused(add(Some("more"), "wrong", Some("x"), None, false), "does not open");
    refused(add(Some("../x"), "old", Some("x"), None, false), "letters");
    refused(add(Some("more"), "old", Some(""), None, false), "empty");
    // passwd: main in the place of main.
    add(None, "old", Some("newer"), None, true).unwrap();
    let expected = [("main", "passphrase"), ("clevis", "passphrase"), ("token", "recipient")];
    assert_eq!(names(), expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
    let text = key.text().unwrap();
    let recovery =
        Secret::copy_of(age::secrecy::ExposeSecret::expose_secret(&rig.recovery.to_string()).as_bytes()).unwrap();
    let with_recovery = IdentityAdd {
        old_identity: Some(Secret::copy_of(recovery.expose()).unwrap()),
        passphrase: Some(secret("x")),
        name: Some("more".into()),
        ..IdentityAdd::default()
    };
    refused(vault.serve(&root(), with_recovery), "recovery key");
    refused(rekey(&vault, "newer", "x").map(|_| crate::wire::Done {}).map_err(Into::into), "clevis, token");
    drop(vault);
    let vault = rig.locked();
    let opens = |by: &UnlockBy<'_>| {
        let opened = Vault::unlock(&vault, &Daemon, by).is_ok();
        if opened {
            vault.lock(&Daemon).unwrap();
        }
        opened
    };
    assert!(!opens(&UnlockBy::Passphrase(&secret("old"))));
    assert!(opens(&UnlockBy::Passphrase(&secret("newer"))));
    assert!(opens(&UnlockBy::Passphrase(&secret("from clevis"))));
    assert!(opens(&UnlockBy::Identity(&text)));
    assert!(opens(&UnlockBy::Identity(&recovery)));
    assert!(matches!(vault.unprotect(&Daemon, "clevis"), Err(VaultError::Locked)));
    Vault::unlock(&vault, &Daemon, &UnlockBy::Passphrase(&secret("newer"))).unwrap();
    vault.unprotect(&Daemon, "main").unwrap();
    vault.unprotect(&Daemon, "clevis").unwrap();
    assert!(matches!(vault.unprotect(&Daemon, "token"), Err(VaultError::Invalid(_))));
    assert!(matches!(vault.unprotect(&Daemon, "main"), Err(VaultError::NotFound)));
    check(&vault, 2);
}

#[test]
fn a_recipient_that_is_left_alone_opens_everything() {
    let rig = Rig::new();
    let vault = rig.unlocked("old");
    fill(&vault, 3);
    let key = age::x25519::Identity::generate();
    let recipient = key.to_public().to_string();
    let first = vault.serve(&root(), crate::wire::RecoveryList {}).unwrap().recipients;
    // As a crash leaves it: the store's keys are sealed to the new one, the blobs are not.
    {
        let mut writer = vault.lock_writer();
        let mut facts = writer.facts().unwrap().clone();
        facts.recovery.push(recipient.clone());
        facts.resealing = true;
        vault.seal_keys_anew(&mut writer, facts).unwrap();
    }
    let opens = |vault: &Vault, path: &str| {
        let extract = crate::wire::Extract { path: SecretPath::parse(path).unwrap(), version: None };
        let blob = vault.serve(&root(), extract).unwrap().blob;
        age::decrypt(&key, &blob).is_ok()
    };
    assert!(!opens(&vault, "d/s1"));
    for old in &first {
        vault.serve(&root(), crate::wire::RecoveryRemove { recipient: old.into() }).unwrap();
    }
    assert!(opens(&vault, "d/s1"));
    assert_eq!(
        vault.serve(&root(), crate::wire::RecoveryList {}).unwrap().recipients,
        std::slice::from_ref(&recipient)
    );
    let last = vault.serve(&root(), crate::wire::RecoveryRemove { recipient }).map(|done| done.blobs).unwrap_err();
    assert!(last.to_string().contains("only recovery recipient"), "{last}");
}
