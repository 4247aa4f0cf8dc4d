//! A console whose threads run: from a commit to a bundle that was carried away, killed at any moment, and in numbers.
//!
//! Owns one temporary folder a test. The carrier is a thread of the test that copies files; the killed console is this
//! test program itself, started again with `PINFOLD_EXPORT_CONSOLE`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use age::x25519;
use pinfold::audit::{Log, Settings, WhenFull};
use pinfold::bundle::{PublicKey, Trust, check};
use pinfold::caller::{Callers, Daemon};
use pinfold::config::Export;
use pinfold::model::{ConsoleName, HostName, SecretPath, Timestamp};
use pinfold::seal::Protection;
use pinfold::secret::Secret;
use pinfold::store::Store;
use pinfold::vault::{ErrandKind, ExportSettings, Limits, Recovery, UnlockBy, Vault, create_store};
use pinfold::wire::{Actor, HostInfo, Put, Serve};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// For what takes a moment on an idle machine.
const PATIENCE: Duration = Duration::from_secs(60);
const RECIPIENT: &str = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";

fn secret(text: &str) -> Secret {
    Secret::copy_of(text.as_bytes()).unwrap()
}

fn root() -> Actor {
    Actor::new(0, 0, i32::try_from(std::process::id()).unwrap())
}

fn make_store(home: &Path) {
    let recovery = Recovery { recipients: vec![RECIPIENT.into()] };
    let mut text = create_store(&home.join("store"), &Protection::Plain, &recovery).unwrap().unwrap();
    std::fs::write(home.join("identity"), Secret::take(&mut text).unwrap().expose()).unwrap();
}

/// A console over the store in `home`, its threads running.
fn console(home: &Path, debounce: Duration) -> Arc<Vault> {
    let log = home.join(format!("audit-{}", std::process::id()));
    let settings = Settings { path: log, max_size: 1 << 30, when_full: WhenFull::Refuse, space: None };
    let limits = Limits {
        max_secret_size: 1 << 20,
        max_secrets: 500_000,
        max_instances: 10,
        keep_versions: 3,
        allow_reveal: false,
        mountpoint: "/nowhere".into(),
        operator_gid: None,
    };
    let store = Store::open(&home.join("store")).unwrap();
    let vault = Vault::new(store, Log::open(settings, None).unwrap(), Callers::new().unwrap(), limits);
    let vault = Arc::new(vault);
    let mut text = std::fs::read(home.join("identity")).unwrap();
    vault.unlock(&Daemon, &UnlockBy::Identity(&Secret::take(&mut text).unwrap())).unwrap();
    let settings = ExportSettings {
        policy: home.join("policy"),
        outbox: home.join("outbox"),
        console: ConsoleName::parse("console").unwrap(),
        export: Export { debounce, ..Export::default() },
    };
    vault.serve_exports(settings).unwrap();
    vault
}

/// Carries bundles to `there/HOST/`, until the console ends.
fn carry(vault: &Arc<Vault>, there: PathBuf) {
    let vault = Arc::clone(vault);
    std::thread::spawn(move || {
        while !vault.exports_ended() {
            let Some(errand) = vault.next_errand(Duration::from_millis(200)) else { continue };
            let ErrandKind::Deliver(file) = &errand.kind else { panic!("no host acknowledges") };
            let dir = there.join(errand.host.name.as_str());
            std::fs::create_dir_all(&dir).unwrap();
            let temp = dir.join("new");
            std::fs::copy(file, &temp).unwrap();
            std::fs::rename(temp, dir.join(file.file_name().unwrap())).unwrap();
            vault.delivered(&errand.host.name, errand.serial, Ok(()));
        }
    });
}

fn put(vault: &Vault, at: &str, content: &str) {
    let path = SecretPath::parse(at).unwrap();
    let put = Put { path, uid: None, gid: None, mode: None, parents: true, content: secret(content) };
    vault.serve(&root(), put).unwrap();
}

fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn hosts(vault: &Vault) -> Vec<HostInfo> {
    // While the policy is being read there is nothing to tell.
    until("the hosts", || vault.serve(&root(), pinfold::wire::GetHosts {}).map(|done| done.hosts).ok())
}

/// The files in a host's folder, by serial number.
fn bundles(dir: &Path) -> BTreeMap<u64, PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().map(|e| e.unwrap().path());
    entries.filter_map(|p| Some((p.file_name()?.to_str()?.strip_suffix(".pfb")?.parse().ok()?, p))).collect()
}

/// The content of one path in a bundle, for the host that can open it.
fn content(file: &Path, host: &str, key: &PublicKey, identity: &x25519::Identity, path: &str) -> Option<String> {
    let trust = Trust::new(ConsoleName::parse("console").unwrap(), HostName::parse(host).unwrap(), key.clone());
    let checked = check(&File::open(file).unwrap(), &trust, Timestamp::now()).unwrap();
    let mut contents = checked.open(identity).unwrap();
    let paths: Vec<String> = contents.index().entries.iter().map(|e| e.path.to_string()).collect();
    while let Some(file) = contents.next_file().unwrap() {
        if paths[file.entry] == path {
            return Some(String::from_utf8(file.secret.expose().to_vec()).unwrap());
        }
    }
    None
}

fn signer(vault: &Vault) -> PublicKey {
    PublicKey::parse(&vault.serve(&root(), pinfold::wire::SignerList {}).unwrap().signers.last().unwrap().key).unwrap()
}

#[test]
fn a_commit_is_carried_to_the_hosts_it_touches_and_to_no_other() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    make_store(home);
    let identities = [x25519::Identity::generate(), x25519::Identity::generate()];
    let policy: String = (1..=2)
        .zip(&identities)
        .map(|(n, id)| format!("host h{n} {} deliver=dir:/x\nshare h{n} : only{n}/*\n", id.to_public()))
        .collect();
    std::fs::write(home.join("policy"), policy).unwrap();
    let vault = console(home, Duration::from_millis(50));
    carry(&vault, home.join("there"));
    until("the first bundles", || hosts(&vault).iter().all(|h| h.delivered.is_some()).then_some(()));
    let first: Vec<u64> = hosts(&vault).iter().map(|h| h.delivered.unwrap()).collect();
    let begun = Instant::now();
    put(&vault, "only1/pin", "1234");
    let newest = until("a bundle for h1", || {
        let delivered = bundles(&home.join("there/h1"));
        let (serial, file) = delivered.last_key_value()?;
        (*serial > first[0]).then(|| file.clone())
    });
    eprintln!("from the commit to the delivery: {:?}", begun.elapsed());
    let key = signer(&vault);
    assert_eq!(content(&newest, "h1", &key, &identities[0], "only1/pin").as_deref(), Some("1234"));
    // A change of h2's shows that everything before it was dealt with.
    put(&vault, "only2/pin", "5678");
    until("a bundle for h2", || (bundles(&home.join("there/h2")).last_key_value()?.0 > &first[1]).then_some(()));
    assert_eq!(bundles(&home.join("there/h1")).len(), 2, "h1 got one for its secret, none for that of h2");
    // Locked, nothing is made; unlocked, what was missed is.
    vault.lock(&Daemon).unwrap();
    assert!(vault.serve(&root(), pinfold::wire::GetHosts {}).map(|done| done.hosts).is_err());
    let policy = std::fs::read_to_string(home.join("policy")).unwrap();
    std::fs::write(home.join("policy"), format!("{policy}share h1 : only2/*\n")).unwrap();
    let mut text = std::fs::read(home.join("identity")).unwrap();
    vault.unlock(&Daemon, &UnlockBy::Identity(&Secret::take(&mut text).unwrap())).unwrap();
    until("a third bundle for h1", || (bundles(&home.join("there/h1")).len() == 3).then_some(()));
    vault.shutdown();
}

/// The console that is killed: this program with `PINFOLD_EXPORT_CONSOLE`. It commits numbers until it is killed, and
/// tells each one that is committed.
#[test]
#[ignore = "it is the process that the next test starts and kills"]
fn killed_console() {
    let Some(home) = std::env::var_os("PINFOLD_EXPORT_CONSOLE").map(PathBuf::from) else { return };
    let first: u64 = std::env::var("PINFOLD_EXPORT_FIRST").unwrap().parse().unwrap();
    let vault = console(&home, Duration::ZERO);
    carry(&vault, home.join("there"));
    for number in first.. {
        put(&vault, "a/number", &number.to_string());
        println!("committed {number}");
        std::io::stdout().flush().unwrap();
        std::thread::sleep(Duration::from_millis(3));
    }
}

#[test]
fn killed_at_any_moment_no_number_is_that_of_two_bundles_and_delivery_goes_on() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    make_store(home);
    let identity = x25519::Identity::generate();
    let policy = format!("host h1 {} deliver=dir:/x\nshare h1 : a/*\n", identity.to_public());
    std::fs::write(home.join("policy"), policy).unwrap();
    let mut seen: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    let mut committed = 0;
    for round in 0..12u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "export::killed_console", "--ignored", "--nocapture"])
            .env("PINFOLD_EXPORT_CONSOLE", home)
            .env("PINFOLD_EXPORT_FIRST", (committed + 1).to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Killed after so many commits, which is another moment of the export each time.
        let mut left = 1 + round * 7 % 23;
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            let Some((_, number)) = line.rsplit_once("committed ") else { continue };
            committed = number.parse().unwrap();
            left -= 1;
            if left == 0 {
                break;
            }
        }
        std::thread::sleep(Duration::from_millis(round * 5 % 17));
        child.kill().unwrap();
        child.wait().unwrap();
        for dir in ["outbox/h1", "there/h1"] {
            for (serial, file) in bundles(&home.join(dir)) {
                let bytes = std::fs::read(&file).unwrap();
                let before = seen.entry(serial).or_insert_with(|| bytes.clone());
                assert!(*before == bytes, "round {round}: {serial} is the number of two bundles");
            }
        }
    }
    assert!(seen.len() > 3, "only {} bundles in all", seen.len());
    let vault = console(home, Duration::ZERO);
    carry(&vault, home.join("there"));
    let key = signer(&vault);
    let last = until("the newest to be delivered", || {
        let host = hosts(&vault).remove(0);
        let settled = host.delivered.is_some() && host.delivered == host.serial;
        let file = settled.then(|| bundles(&home.join("there/h1")).remove(&host.serial?))??;
        // A commit that was never told of may be there.
        let number: u64 = content(&file, "h1", &key, &identity, "a/number")?.parse().unwrap();
        (number >= committed).then_some(number)
    });
    assert!(last <= committed + 1, "{last} after {committed}");
    vault.shutdown();
}

/// Kilobytes of this process, from /proc/self/status.
fn memory(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Processor time of this process so far, all threads.
fn processor() -> Duration {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).unwrap();
    let of = |t: nix::sys::time::TimeVal| Duration::new(t.tv_sec() as u64, (t.tv_usec() * 1000) as u32);
    of(usage.user_time()) + of(usage.system_time())
}

/// `cargo test --release --test export -- --ignored --nocapture numbers`; `PINFOLD_BENCH_HOSTS` for fewer hosts.
#[test]
#[ignore = "it measures, and takes minutes"]
fn numbers() {
    let count: usize = std::env::var("PINFOLD_BENCH_HOSTS").map_or(1000, |n| n.parse().unwrap());
    let home = tempfile::tempdir_in(std::env::var_os("PINFOLD_BENCH_DIR").unwrap_or("/var/tmp".into())).unwrap();
    let home = home.path();
    make_store(home);
    std::fs::write(home.join("policy"), "").unwrap();
    let vault = console(home, Duration::from_millis(50));
    let begun = Instant::now();
    for host in 0..count {
        for n in 0..90 {
            put(
                &vault,
                &format!("hosts/h{host}/s{n}"),
                &format!("a secret of 64 bytes or so, number {n} of host {host} ......"),
            );
        }
    }
    for n in 0..10 {
        put(&vault, &format!("common/s{n}"), "a secret of 64 bytes or so, the same for all hosts ...........");
    }
    println!("{} secrets committed in {:?}", count * 90 + 10, begun.elapsed());
    let lines: String = (0..count)
        .map(|n| {
            let key = x25519::Identity::generate().to_public();
            format!("host h{n} {key}\nshare h{n} : hosts/h{n}/* common/*\n")
        })
        .collect();
    std::fs::write(home.join("policy"), lines).unwrap();
    let newest = |least: u64| {
        let all = hosts(&vault);
        let done = all.iter().filter(|h| h.serial.is_some_and(|s| s > least)).count();
        (all.len() == count).then_some((done, all.iter().filter_map(|h| h.serial).max().unwrap_or(0)))
    };
    let long = |what: &str, least: u64, wanted: usize| {
        let begun = Instant::now();
        loop {
            match newest(least) {
                Some((done, last)) if done >= wanted => return last,
                _ => assert!(begun.elapsed() < Duration::from_secs(900), "{what}"),
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    let begun = Instant::now();
    let mut last = long("the first bundles", 0, count);
    println!("first: {count} bundles in {:?}", begun.elapsed());
    for round in 0..3 {
        let resident = memory("VmRSS");
        let (begun, spent) = (Instant::now(), processor());
        put(&vault, "common/s0", &format!("changed {round}"));
        last = long("all", last, count);
        println!(
            "all: {count} bundles of 100 secrets in {:?}, processor {:?}; resident {} KiB before, {} after, {} at most",
            begun.elapsed(),
            processor() - spent,
            resident,
            memory("VmRSS"),
            memory("VmHWM"),
        );
    }
    // What the thread does for one host, less what an idle console does in the same time.
    let idle = {
        let spent = processor();
        std::thread::sleep(Duration::from_secs(5));
        (processor() - spent) / 5
    };
    for round in 0..5 {
        let serial = || until("the host", || hosts_of_one(&vault, "h7"));
        let before = serial();
        let (begun, spent) = (Instant::now(), processor());
        put(&vault, "hosts/h7/s0", &format!("changed {round}"));
        let file = |serial: u64| home.join(format!("outbox/h7/{serial}.pfb"));
        let outbox = home.join("outbox/h7");
        until("one bundle", || bundles(&outbox).last_key_value().filter(|(s, _)| **s > before).map(|(s, _)| file(*s)));
        println!(
            "one: made after {:?} (50 ms of it waiting for more), processor {:?} with the commit; idle {:?} a second",
            begun.elapsed(),
            processor() - spent,
            idle
        );
    }
    vault.shutdown();
}

fn hosts_of_one(vault: &Vault, name: &str) -> Option<u64> {
    vault
        .serve(&root(), pinfold::wire::GetHosts {})
        .map(|done| done.hosts)
        .ok()?
        .into_iter()
        .find(|h| h.host == name)?
        .serial
}
