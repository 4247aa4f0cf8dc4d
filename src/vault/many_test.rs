//! Measurements with very many secrets: how long an unlock takes, and a rekeying, and what readers and writers notice of it.

use super::*;
use crate::audit::{Log, Settings, WhenFull};
use crate::caller::{Callers, Daemon};
use crate::model::{Ino, Kind};
use crate::seal::Protection;
use crate::vault::rekey::NextIdentity;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

fn open(home: &Path, log: &str) -> Vault {
    let path = home.join(log).join("audit.log");
    let settings = Settings { path, max_size: 1 << 30, when_full: WhenFull::Refuse, space: None };
    let limits = Limits {
        max_secret_size: 1 << 20,
        max_secrets: 1 << 24,
        max_instances: 8,
        keep_versions: 3,
        allow_reveal: false,
        mountpoint: "/nowhere".into(),
        operator_gid: None,
    };
    let store = Store::open(&home.join("store")).unwrap();
    Vault::new(store, Log::open(settings, None).unwrap(), Callers::new().unwrap(), limits)
}

fn make(vault: &Vault, parent: Ino, name: &str, kind: Kind) -> Ino {
    let name = Name::parse(name.as_bytes()).unwrap();
    vault.create(&Daemon, NewNode { parent, name: &name, kind, mode: 0o700, umask: 0, target: None }).unwrap().ino
}

fn write(vault: &Vault, ino: Ino, bytes: &[u8]) {
    let right = vault.open_new(&Daemon, ino).unwrap();
    vault.commit(&right, &Daemon.who(), Content { bytes, mtime: Some(Timestamp::now()) }).unwrap();
}

/// The longest of many calls, while the flag is down.
fn longest(done: &AtomicBool, mut call: impl FnMut()) -> (u64, Duration) {
    let (mut count, mut longest) = (0, Duration::ZERO);
    while !done.load(Ordering::Relaxed) {
        let begun = Instant::now();
        call();
        longest = longest.max(begun.elapsed());
        count += 1;
    }
    (count, longest)
}

#[test]
fn who_wants_to_change_one_thing_does_not_wait_for_work_on_all_of_it() {
    let home = tempfile::tempdir().unwrap();
    let recovery = Recovery { recipients: vec![age::x25519::Identity::generate().to_public().to_string()] };
    create_store(&home.path().join("store"), &Protection::Plain, &recovery).unwrap();
    let vault = open(home.path(), "a");
    let mut turns_waited = Vec::new();
    for _ in 0..20 {
        let got_it = AtomicBool::new(false);
        std::thread::scope(|threads| {
            let held = vault.lock_writer();
            threads.spawn(|| {
                let _writer = vault.lock_writer();
                got_it.store(true, Ordering::Relaxed);
            });
            while vault.wanted_by.load(Ordering::Relaxed) == 0 {
                std::thread::yield_now();
            }
            drop(held);
            let mut turns = 0;
            while !got_it.load(Ordering::Relaxed) {
                vault.give_way();
                drop(vault.lock_writer());
                turns += 1;
            }
            turns_waited.push(turns);
        });
    }
    turns_waited.sort_unstable();
    assert!(turns_waited[10] <= 1, "{turns_waited:?}");
}

#[test]
#[ignore = "a measurement: PINFOLD_SECRETS=100000 cargo test --release --lib vault::many_test -- --ignored --nocapture"]
fn unlocking_and_rekeying_very_many() {
    let many: usize = std::env::var("PINFOLD_SECRETS").map_or(100_000, |n| n.parse().unwrap());
    let base = std::env::var("PINFOLD_MEASURE_IN").unwrap_or_else(|_| "/dev/shm".into());
    let home = tempfile::tempdir_in(base).unwrap();
    let recovery = Recovery { recipients: vec![age::x25519::Identity::generate().to_public().to_string()] };
    let mut text = create_store(&home.path().join("store"), &Protection::Plain, &recovery).unwrap().unwrap();
    let identity = Secret::take(&mut text).unwrap();

    let vault = open(home.path(), "a");
    vault.unlock(&Daemon, &UnlockBy::Identity(&identity)).unwrap();
    let begun = Instant::now();
    let folder = make(&vault, Ino::ROOT, "many", Kind::Directory);
    let mut last = Ino::ROOT;
    for n in 0..many {
        last = make(&vault, folder, &n.to_string(), Kind::File);
        write(&vault, last, &[b'x'; 64]);
    }
    eprintln!("{many} secrets made in {:?}", begun.elapsed());
    vault.shutdown();
    drop(vault);

    for round in 0..5 {
        let begun = Instant::now();
        let vault = open(home.path(), "a");
        let opened = begun.elapsed();
        let begun = Instant::now();
        vault.unlock(&Daemon, &UnlockBy::Identity(&identity)).unwrap();
        eprintln!("opened in {opened:?}, unlocked in {:?} ({round})", begun.elapsed());
        let keys = vault.keys().unwrap();
        let time = |what: &str, work: &dyn Fn()| {
            let begun = Instant::now();
            work();
            eprintln!("    {what}: {:?}", begun.elapsed());
        };
        time("reading alone", &|| vault.store.each_node(&mut |_, _| Ok(())).unwrap());
        time("the sum", &|| drop(vault.store.verify(&keys.index, |_, _| Ok(())).unwrap()));
        time("and opening", &|| {
            let open = |ino, sealed: &[u8]| Ok(keys.record.open(ino, sealed).is_ok());
            drop(vault.store.verify(&keys.index, open).unwrap());
        });
        time("and decoding", &|| {
            let open = |ino, sealed: &[u8]| {
                let plain = keys.record.open(ino, sealed).unwrap();
                Ok(Arc::new(node::Record::decode(&plain).unwrap()))
            };
            drop(vault.store.verify(&keys.index, open).unwrap());
        });
        drop(keys);
        vault.shutdown();
    }

    let vault = open(home.path(), "a");
    vault.unlock(&Daemon, &UnlockBy::Identity(&identity)).unwrap();
    let other = make(&vault, folder, "other", Kind::File);
    let done = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let reader = threads.spawn(|| longest(&done, || drop(vault.open_read(&Daemon, last).unwrap())));
        let writer = threads.spawn(|| longest(&done, || write(&vault, other, b"1234")));
        let begun = Instant::now();
        let fresh = crate::seal::make_identity();
        let text = fresh.text().unwrap();
        let next = NextIdentity::KeptByCaller(&text);
        let rekeyed = vault.rekey(&Daemon, &UnlockBy::Identity(&identity), &next, true).unwrap();
        let took = begun.elapsed();
        done.store(true, Ordering::Relaxed);
        let ((reads, read), (writes, written)) = (reader.join().unwrap(), writer.join().unwrap());
        eprintln!(
            "rekeyed {} blobs in {took:?}; {reads} opens meanwhile, the longest {read:?}; {writes} commits, the longest {written:?}",
            rekeyed.blobs
        );
    });
}
