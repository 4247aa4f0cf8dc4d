//! A console with a policy, its outbox looked at with the eyes of a host.

use super::make::{Again, ExportPoint};
use super::*;
use crate::audit::{Log, Settings, WhenFull};
use crate::bundle::{Contents, EntryKind, PublicKey, Refusal, Trust, check};
use crate::caller::{Callers, Daemon};
use crate::config::SignWith;
use crate::model::{Name, SecretPath, Timestamp};
use crate::seal::Protection;
use crate::secret::Secret;
use crate::store::Store;
use crate::vault::{Limits, NextIdentity, Recovery, Rename, SetAttr, UnlockBy, create_store};
use crate::wire::{
    self, Actor, Difference, Export, ExportPreview, ExportSign, ExportState, Put, Remove, Serve, SignerInit,
    SignerRevoke, SignerRotate,
};
use age::x25519;
use std::cell::RefCell;
use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

const CONSOLE: &str = "console";
const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBAjfAPWmqnZ2ARWXzMbEKTtgfFgtlLpPMIhKpUC1SHE alice@desk";

fn secret(text: &str) -> Secret {
    Secret::copy_of(text.as_bytes()).unwrap()
}

fn root() -> Actor {
    Actor::new(0, 0, i32::try_from(std::process::id()).unwrap())
}

fn path(text: &str) -> SecretPath {
    SecretPath::parse(text).unwrap()
}

fn host(name: &str) -> HostName {
    HostName::parse(name).unwrap()
}

/// A console's folder, and the keys of three hosts.
struct Rig {
    home: tempfile::TempDir,
    hosts: Vec<(&'static str, x25519::Identity)>,
    signer: RefCell<SignWith>,
    logs: AtomicU32,
}

impl Rig {
    fn new() -> Rig {
        let rig = Rig {
            home: tempfile::tempdir().unwrap(),
            hosts: ["h1", "h2", "h3"].map(|name| (name, x25519::Identity::generate())).into(),
            signer: RefCell::new(SignWith::Auto),
            logs: AtomicU32::new(0),
        };
        let recovery = Recovery { recipients: vec![x25519::Identity::generate().to_public().to_string()] };
        create_store(&rig.dir("store"), &Protection::Passphrase(&secret("pass")), &recovery).unwrap();
        rig
    }

    fn dir(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Writes the policy: the three hosts, and these lines.
    fn policy(&self, lines: &str) {
        let hosts: String = self
            .hosts
            .iter()
            .map(|(name, key)| format!("host {name} {} deliver=dir:/tmp\n", key.to_public()))
            .collect();
        self.raw_policy(&format!("{hosts}{lines}"));
    }

    fn raw_policy(&self, text: &str) {
        // Another file, so that it is another one though the clock may not have moved.
        let file = self.dir(&format!("policy.{}", self.logs.fetch_add(1, Ordering::SeqCst)));
        std::fs::write(&file, text).unwrap();
        std::fs::rename(&file, self.dir("policy")).unwrap();
    }

    fn vault(&self) -> Vault {
        self.vault_with("pass")
    }

    fn vault_with(&self, passphrase: &str) -> Vault {
        let log = self.dir(&format!("audit-{}", self.logs.fetch_add(1, Ordering::SeqCst)));
        let settings = Settings { path: log, max_size: 1 << 24, when_full: WhenFull::Refuse, space: None };
        let limits = Limits {
            max_secret_size: 1 << 20,
            max_secrets: 200_000,
            max_instances: 10,
            keep_versions: 3,
            allow_reveal: true,
            mountpoint: "/nowhere".into(),
            operator_gid: Some(4),
        };
        let store = Store::open(&self.dir("store")).unwrap();
        let vault = Vault::new(store, Log::open(settings, None).unwrap(), Callers::new().unwrap(), limits);
        Vault::unlock(&vault, &Daemon, &UnlockBy::Passphrase(&secret(passphrase))).unwrap();
        let settings = ExportSettings {
            policy: self.dir("policy"),
            outbox: self.dir("outbox"),
            console: ConsoleName::parse(CONSOLE).unwrap(),
            export: crate::config::Export { signer: self.signer.borrow().clone(), ..Default::default() },
        };
        vault.exporter.settings.set(settings).unwrap();
        vault
    }

    fn serials(&self, name: &str) -> Vec<u64> {
        outbox::Outbox::of(&self.dir("outbox"), &host(name)).serials().unwrap()
    }

    fn newest(&self, name: &str) -> File {
        let serial = *self.serials(name).last().unwrap();
        File::open(self.dir("outbox").join(name).join(format!("{serial}.pfb"))).unwrap()
    }

    /// What the host gets to see of its newest bundle.
    fn open(&self, name: &str, trust: &Trust) -> Result<Contents, Refusal> {
        let (_, identity) = self.hosts.iter().find(|(n, _)| *n == name).unwrap();
        check(&self.newest(name), trust, Timestamp::now())?.open(identity)
    }

    /// Path and content of each file of the newest bundle; directories end in a slash, symlinks have their target.
    fn content(&self, vault: &Vault, name: &str) -> Vec<(String, String)> {
        let mut contents = self.open(name, &trust(vault, name)).unwrap();
        let entries = contents.index().entries.clone();
        let mut all: Vec<(String, String)> = Vec::new();
        for entry in &entries {
            match &entry.kind {
                EntryKind::Directory => all.push((format!("{}/", entry.path), String::new())),
                EntryKind::Symlink { target } => all.push((entry.path.to_string(), target.clone())),
                EntryKind::File { .. } => {
                    let file = contents.next_file().unwrap().unwrap();
                    let text = String::from_utf8(file.secret.expose().to_vec()).unwrap();
                    all.push((entry.path.to_string(), text));
                }
            }
        }
        assert!(contents.next_file().unwrap().is_none());
        all
    }
}

/// Trust in the key that signs now.
fn trust(vault: &Vault, name: &str) -> Trust {
    let key = vault.signer_listing().unwrap().signers.last().unwrap().key.clone();
    Trust::new(ConsoleName::parse(CONSOLE).unwrap(), host(name), PublicKey::parse(&key).unwrap())
}

fn put(vault: &Vault, at: &str, content: &str) {
    let put = Put { path: path(at), uid: None, gid: None, mode: None, parents: true, content: secret(content) };
    vault.serve(&root(), put).unwrap();
}

/// Exports everything; the hosts for which a bundle was made.
fn export(vault: &Vault) -> Vec<String> {
    let done = vault.serve(&root(), Export::default()).unwrap().hosts;
    for host in &done {
        assert_eq!(host.error, None, "{host:?}");
    }
    made(done)
}

fn made(done: Vec<crate::wire::ExportedHost>) -> Vec<String> {
    // Two are written at a time, so they are done in any order.
    let mut made: Vec<_> = done.into_iter().filter(|h| h.state == ExportState::Made).map(|h| h.host).collect();
    made.sort();
    made
}

/// The hosts that the changes since the last time touch, as the thread finds them, and for which it makes bundles.
fn follow(vault: &Vault) -> (Vec<String>, Vec<String>) {
    let touched = std::mem::take(&mut vault.exporter.inbox.lock().touched);
    let hosts = vault.follow(&touched);
    let names = hosts.iter().map(ToString::to_string).collect();
    let signing = vault.signing(None).unwrap();
    let hosts: Vec<_> = hosts.into_iter().collect();
    (names, made(vault.make(&hosts, Again::IfChanged, Some(&signing)).unwrap()))
}

const POLICY: &str = "share h1 : nut/* all/**\nshare h2 : web/** all/**\nmanage h1 : alice # the desk\n";

fn filled(rig: &Rig) -> Vault {
    rig.policy(POLICY);
    let vault = rig.vault();
    put(&vault, "nut/pin", "1234");
    put(&vault, "web/a/key", "web key");
    put(&vault, "all/x/ca", "the ca");
    put(&vault, "none/of/theirs", "hidden");
    put(&vault, "admins/alice/desk.pub", KEY);
    vault
}

#[test]
fn each_host_opens_its_own_and_gets_what_the_policy_says() {
    let rig = Rig::new();
    let vault = filled(&rig);
    assert_eq!(export(&vault), ["h1", "h2", "h3"]);
    let pairs = |all: &[(&str, &str)]| all.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect::<Vec<_>>();
    let h1 = [("all/", ""), ("all/x/", ""), ("all/x/ca", "the ca"), ("nut/", ""), ("nut/pin", "1234")];
    assert_eq!(rig.content(&vault, "h1"), pairs(&h1));
    let h2 =
        [("all/", ""), ("all/x/", ""), ("all/x/ca", "the ca"), ("web/", ""), ("web/a/", ""), ("web/a/key", "web key")];
    assert_eq!(rig.content(&vault, "h2"), pairs(&h2));
    assert_eq!(rig.content(&vault, "h3"), []);
    let contents = rig.open("h1", &trust(&vault, "h1")).unwrap();
    let admins = &contents.index().admins;
    assert_eq!(admins.len(), 1);
    assert_eq!(
        (admins[0].user.as_str(), admins[0].comment.as_str(), &admins[0].keys[..]),
        ("alice", "the desk", &[KEY.to_owned()][..])
    );
    let entry = &contents.index().entries[2];
    assert_eq!((entry.owner.as_str(), entry.group.as_str(), entry.mode), ("root", "root", 0o600));
    // Not another's.
    let (_, other) = &rig.hosts[1];
    let checked = check(&rig.newest("h1"), &trust(&vault, "h1"), Timestamp::now()).unwrap();
    assert!(checked.open(other).is_err());
}

#[test]
fn a_change_touches_exactly_the_hosts_that_have_it_and_no_change_makes_no_bundle() {
    let rig = Rig::new();
    let vault = filled(&rig);
    export(&vault);
    std::mem::take(&mut vault.exporter.inbox.lock().touched);
    let names = |all: &[&str]| all.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
    let touches = |expected: &[&str], what: &str| {
        let (_, made) = follow(&vault);
        assert_eq!(made, names(expected), "{what}");
        assert_eq!(export(&vault), names(&[]), "{what}: nothing is left");
    };
    touches(&[], "nothing");
    put(&vault, "nut/pin", "5678");
    touches(&["h1"], "a commit");
    put(&vault, "none/of/theirs", "still hidden");
    assert_eq!(follow(&vault), (names(&[]), names(&[])), "nobody's");
    put(&vault, "all/y", "new");
    touches(&["h1", "h2"], "a new one");
    put(&vault, "nut/deep/down", "not by one star");
    touches(&[], "a star crosses no slash");
    let set = |at: &str, set: SetAttr| vault.set_attr(&Daemon, vault.find(&path(at)).unwrap(), set).unwrap();
    set("web/a/key", SetAttr { mode: Some(0o640), ..SetAttr::default() });
    touches(&["h2"], "chmod");
    set("web/a/key", SetAttr { mode: Some(0o640), ..SetAttr::default() });
    touches(&[], "the same mode");
    set("web/a", SetAttr { mode: Some(0o750), ..SetAttr::default() });
    touches(&["h2"], "chmod of a directory on the way");
    vault.serve(&root(), Remove { path: path("all/y"), purge: false, recursive: false }).unwrap();
    touches(&["h1", "h2"], "a removal");
    let rename = |from: &str, to: &str| {
        let (from, to) = (path(from), path(to));
        let ((from_dir, from), (to_dir, to)) = (from.split_last().unwrap(), to.split_last().unwrap());
        let (parent, new_parent) = (vault.find(&from_dir).unwrap(), vault.find(&to_dir).unwrap());
        let rename = Rename { parent, name: from, new_parent, new_name: to, replace: true };
        vault.rename(&Daemon, rename).unwrap();
    };
    rename("web/a", "all/a");
    touches(&["h1", "h2"], "a directory moved into what another has too");
    assert!(rig.content(&vault, "h1").iter().any(|(p, c)| p == "all/a/key" && c == "web key"));
    rename("all/a", "none/a");
    touches(&["h1", "h2"], "and out of it");
    assert!(!rig.content(&vault, "h2").iter().any(|(p, _)| p.contains("key")));
    put(&vault, "admins/alice/more.pub", KEY);
    touches(&["h1"], "a key of an admin");
    vault
        .set_xattr(
            &Daemon,
            vault.find(&path("nut/pin")).unwrap(),
            "user.pinfold.unit",
            b"nut.service",
            crate::vault::XattrMode::Set,
        )
        .unwrap();
    touches(&["h1"], "a condition");
}

#[test]
fn a_new_policy_makes_bundles_for_those_it_changes_something_for() {
    let rig = Rig::new();
    let vault = filled(&rig);
    export(&vault);
    rig.policy(&format!("{POLICY}share h3 : nut/pin\n"));
    assert_eq!(export(&vault), ["h3"]);
    rig.policy("share h2 : web/** all/**\nshare h3 : nut/pin\n");
    assert_eq!(export(&vault), ["h1"]);
    assert_eq!(rig.content(&vault, "h1"), []);
    rig.raw_policy("nonsense\n");
    let error = vault.serve(&root(), Export::default()).unwrap_err().to_string();
    assert!(error.contains("policy:1"), "{error}");
    put(&vault, "all/x/ca", "changed");
    assert!(vault.exporter.plan.lock().is_none(), "with a wrong policy nobody gets anything");
    rig.policy("share h2 : web/** all/**\nshare h3 : nut/pin\n");
    assert_eq!(export(&vault), ["h2"]);
}

#[test]
fn one_bad_host_and_one_bad_secret_harm_themselves_alone() {
    let rig = Rig::new();
    let vault = filled(&rig);
    let (_, one) = &rig.hosts[0];
    rig.raw_policy(&format!(
        "host h1 {}\nhost h2 age1nonsense\nhost h3 {}\nshare h1 h2 h3 : nut/* web/a/key\n",
        one.to_public(),
        rig.hosts[2].1.to_public()
    ));
    // An owner without a name goes along by number, which the host refuses by name; what has expired stays here.
    let at = |p: &str| vault.find(&path(p)).unwrap();
    vault
        .set_attr(&Daemon, at("web/a/key"), SetAttr { uid: Some(crate::model::Uid(1_999_777)), ..Default::default() })
        .unwrap();
    vault
        .set_xattr(
            &Daemon,
            at("nut/pin"),
            "user.pinfold.expires",
            b"2020-01-01T00:00:00Z",
            crate::vault::XattrMode::Set,
        )
        .unwrap();
    let done = vault.serve(&root(), Export::default()).unwrap().hosts;
    assert_eq!(
        done.iter().map(|h| h.state).collect::<Vec<_>>(),
        [ExportState::Made, ExportState::Failed, ExportState::Made]
    );
    let told = done[1].error.as_ref().unwrap();
    assert!(told.contains("line 2") && told.contains("recipient"), "{told}");
    let contents = rig.open("h1", &trust(&vault, "h1")).unwrap();
    let entry = |p: &str| contents.index().entries.iter().find(|e| e.path == path(p));
    assert_eq!(entry("web/a/key").unwrap().owner, "#1999777");
    assert!(entry("nut/pin").is_none());
    let hosts = vault.serve(&root(), crate::wire::GetHosts {}).unwrap().hosts;
    assert!(hosts[0].notes.iter().any(|n| n.contains("#1999777")), "{:?}", hosts[0].notes);
    assert!(hosts[0].notes.iter().any(|n| n.contains("nut/pin has expired")), "{:?}", hosts[0].notes);
    assert!(hosts[1].error.is_some() && hosts[2].error.is_none());
}

#[test]
fn serial_numbers_never_repeat() {
    let rig = Rig::new();
    let vault = filled(&rig);
    export(&vault);
    let before = Timestamp::now();
    let mut last = rig.serials("h1").last().copied().unwrap();
    assert!(last.abs_diff(u64::try_from(before.secs).unwrap() * 1000) < 60_000, "it is the clock's");
    // Restored from a backup, the console has forgotten what came after.
    vault.sync().unwrap();
    drop(vault);
    copy(&rig.dir("store"), &rig.dir("backup"));
    let vault = rig.vault();
    for n in 0..5 {
        put(&vault, "nut/pin", &format!("{n}"));
        export(&vault);
        let next = rig.serials("h1").last().copied().unwrap();
        assert!(next > last);
        last = next;
    }
    drop(vault);
    std::fs::remove_dir_all(rig.dir("store")).unwrap();
    copy(&rig.dir("backup"), &rig.dir("store"));
    std::fs::remove_dir_all(rig.dir("outbox")).unwrap();
    let vault = rig.vault();
    assert_eq!(made(vault.serve(&root(), Export { hosts: None, again: Some(true) }).unwrap().hosts).len(), 3);
    assert!(rig.serials("h1").last().copied().unwrap() > last);
}

#[test]
fn a_clock_that_was_ahead_leaves_no_numbers_that_hosts_refuse() {
    let rig = Rig::new();
    let vault = filled(&rig);
    export(&vault);
    let near = |serial: u64| serial.abs_diff(Timestamp::now().millis()) < 60_000;
    let newest = || rig.serials("h1").last().copied().unwrap();
    // By a little: a minute later it is put right, and the numbers go on.
    let ahead = Timestamp::now().millis() + 120_000;
    vault.change_host(&host("h1"), |record| record.serial = ahead).unwrap();
    put(&vault, "nut/pin", "a little");
    assert_eq!(export(&vault), ["h1"]);
    assert_eq!(newest(), ahead + 1);
    // By a year: nobody whose clock is right took that.
    for far in [Timestamp::now().millis() + 365 * 86_400_000, u64::MAX - 5] {
        vault.change_host(&host("h1"), |record| (record.serial, record.delivered) = (far, far)).unwrap();
        std::fs::write(rig.dir("outbox").join("h1").join(format!("{far}.pfb")), "x").unwrap();
        put(&vault, "nut/pin", &format!("{far}"));
        assert_eq!(export(&vault), ["h1"]);
        assert!(near(newest()), "{:?}", rig.serials("h1"));
        assert!(rig.content(&vault, "h1").contains(&("nut/pin".into(), format!("{far}"))), "a host takes it");
        assert!(vault.serve(&root(), crate::wire::GetHosts {}).unwrap().hosts[0].serial.is_some_and(near));
    }
    // Unless a host said that it did: its clock was wrong as well.
    let far = Timestamp::now().millis() + 365 * 86_400_000;
    vault.change_host(&host("h1"), |record| (record.serial, record.acked) = (far, far)).unwrap();
    put(&vault, "nut/pin", "taken");
    assert_eq!(export(&vault), ["h1"]);
    assert_eq!(newest(), far + 1);
}

fn copy(from: &Path, to: &Path) {
    let copied = std::process::Command::new("cp").arg("-a").args([from, to]).status().unwrap();
    assert!(copied.success());
}

#[test]
fn ended_at_each_step_no_number_is_given_twice_and_the_bundle_comes_after_all() {
    for point in [ExportPoint::BeforeSerial, ExportPoint::Reserved, ExportPoint::Written, ExportPoint::Finished] {
        let rig = Rig::new();
        let vault = filled(&rig);
        export(&vault);
        let first = rig.serials("h1");
        put(&vault, "nut/pin", "changed");
        *vault.exporter.fault.lock() = Some(point);
        let ended = vault.serve(&root(), Export::default());
        assert!(ended.is_err() || ended.unwrap().hosts[0].state == ExportState::Failed, "{point:?}");
        let given = vault.host_record(&host("h1")).unwrap().serial;
        drop(vault);
        let vault = rig.vault();
        vault.read_policy(vault.exporter.settings().unwrap());
        vault.take_up_exports();
        let drafts = std::fs::read_dir(rig.dir("outbox/h1")).unwrap();
        assert!(drafts.into_iter().all(|e| !e.unwrap().file_name().to_str().unwrap().starts_with('.')), "{point:?}");
        let again = export(&vault);
        let there = rig.serials("h1");
        let newest = *there.last().unwrap();
        assert!(newest > first[0] && newest >= given, "{point:?}");
        assert_eq!(again.is_empty(), point == ExportPoint::Finished, "{point:?}: made again unless it was there");
        assert_eq!(again.is_empty(), newest == given, "{point:?}: never under the number of before");
        assert!(rig.content(&vault, "h1").contains(&("nut/pin".into(), "changed".into())), "{point:?}");
        let errand = vault.next_errand(std::time::Duration::from_secs(5));
        assert!(errand.is_some(), "{point:?}: there is something to deliver");
    }
}

#[test]
fn hosts_walk_over_rotations_and_hear_of_revocations() {
    let rig = Rig::new();
    let vault = filled(&rig);
    export(&vault);
    let first = trust(&vault, "h1");
    for n in 1..=3 {
        let listing = vault.serve(&root(), SignerRotate::default()).unwrap();
        assert_eq!(listing.signers.len(), n + 1);
        assert!(listing.signers[n].current && !listing.signers[n - 1].current);
        assert_eq!(export(&vault), ["h1", "h2", "h3"], "everybody hears of a rotation");
        assert!(rig.open("h1", &first).is_ok(), "{n} rotations");
    }
    let signers = vault.signer_listing().unwrap().signers;
    let current = signers.last().unwrap().fingerprint.clone();
    let refused = vault.serve(&root(), SignerRevoke { fingerprint: current }).unwrap_err().to_string();
    assert!(refused.contains("rotate"), "{refused}");
    let old = SignerRevoke { fingerprint: signers[1].fingerprint.clone() };
    assert!(vault.serve(&root(), old.clone()).unwrap().signers[1].revoked.is_some());
    assert!(matches!(vault.serve(&root(), old), Err(crate::wire::Fault::NothingToDo(_))));
    assert_eq!(export(&vault), ["h1", "h2", "h3"]);
    // From before the revoked key there is no way over it: who has stolen it could have signed another.
    assert!(matches!(rig.open("h1", &first), Err(Refusal::TrustRevoked { .. })));
    let manifest = check(&rig.newest("h1"), &trust(&vault, "h1"), Timestamp::now()).unwrap().manifest().clone();
    assert_eq!(manifest.revoked.iter().map(ToString::to_string).collect::<Vec<_>>(), [signers[1].fingerprint.clone()]);
    let none = SignerRevoke { fingerprint: "SHA256:x".into() };
    assert!(matches!(vault.serve(&root(), none), Err(crate::wire::Fault::NotFound(_))));
}

#[test]
fn keys_and_numbers_survive_a_restart_and_a_rekeying() {
    let rig = Rig::new();
    let vault = filled(&rig);
    export(&vault);
    vault.serve(&root(), SignerRotate::default()).unwrap();
    export(&vault);
    let signers = vault.signer_listing().unwrap();
    let (old, new) = (secret("pass"), secret("new"));
    vault.rekey(&Daemon, &UnlockBy::Passphrase(&old), &NextIdentity::Passphrase(&new), false).unwrap();
    assert_eq!(vault.signer_listing().unwrap(), signers);
    assert_eq!(export(&vault), [""; 0], "sealed anew is not changed");
    put(&vault, "nut/pin", "after");
    assert_eq!(export(&vault), ["h1"]);
    drop(vault);
    let vault = rig.vault_with("new");
    assert_eq!(vault.signer_listing().unwrap(), signers);
    assert_eq!(export(&vault), [""; 0]);
    put(&vault, "nut/pin", "later");
    assert_eq!(export(&vault), ["h1"]);
    assert!(rig.content(&vault, "h1").contains(&("nut/pin".into(), "later".into())));
}

#[test]
fn an_operator_s_export_makes_no_first_signing_key() {
    let rig = Rig::new();
    let vault = filled(&rig);
    let operator = Actor { uid: 1000, ..root() };
    let told = vault.serve(&operator, Export::default()).unwrap_err();
    assert!(matches!(&told, crate::wire::Fault::Unproven(why) if why.ends_with("pinfold signer init")), "{told:?}");
    assert_eq!(vault.signer_listing().unwrap().signers.len(), 0);
    vault.serve(&root(), SignerInit::default()).unwrap();
    assert_eq!(made(vault.serve(&operator, Export::default()).unwrap().hosts).len(), 3);
    // With proof it is as if root had asked.
    let rig = Rig::new();
    let vault = filled(&rig);
    assert_eq!(made(vault.serve(&operator.with_proof(), Export::default()).unwrap().hosts).len(), 3);
}

#[test]
fn a_key_under_a_passphrase_signs_when_it_is_given() {
    let rig = Rig::new();
    *rig.signer.borrow_mut() = SignWith::Manual;
    let vault = filled(&rig);
    let told = vault.serve(&root(), Export::default()).unwrap_err().to_string();
    assert!(told.contains("signer init"), "{told}");
    assert!(vault.serve(&root(), SignerInit::default()).is_err());
    vault.serve(&root(), SignerInit { passphrase: Some(secret("sign")) }).unwrap();
    let done = vault.serve(&root(), Export::default()).unwrap().hosts;
    assert!(done.iter().all(|h| h.state == ExportState::Unsigned), "{done:?}");
    assert!(
        vault.serve(&root(), crate::wire::GetHosts {}).unwrap().hosts.iter().all(|h| h.unsigned && h.serial.is_none())
    );
    let sign =
        |passphrase: &str| vault.serve(&root(), ExportSign { hosts: None, passphrase: Some(secret(passphrase)) });
    assert!(sign("wrong").unwrap_err().to_string().contains("passphrase"));
    assert_eq!(made(sign("sign").unwrap().hosts).len(), 3);
    assert!(
        vault.serve(&root(), crate::wire::GetHosts {}).unwrap().hosts.iter().all(|h| !h.unsigned && h.serial.is_some())
    );
    let first = trust(&vault, "h1");
    assert!(rig.open("h1", &first).is_ok());
    let rotate = |old: Option<&str>, new: Option<&str>| {
        vault.serve(&root(), SignerRotate { old_passphrase: old.map(secret), passphrase: new.map(secret) })
    };
    assert!(rotate(None, Some("next")).is_err());
    assert!(rotate(Some("sign"), None).is_err());
    rotate(Some("sign"), Some("next")).unwrap();
    assert!(sign("sign").is_err());
    assert_eq!(made(sign("next").unwrap().hosts).len(), 3);
    assert!(rig.open("h1", &first).is_ok());
}

#[test]
fn what_would_change_is_told_with_the_line_that_says_so() {
    let rig = Rig::new();
    let vault = filled(&rig);
    let preview = |name: &str| {
        let asked = ExportPreview { hosts: Some(vec![name.into()]) };
        let host = vault.serve(&root(), asked).unwrap().hosts.remove(0);
        let told = |c: &crate::wire::PreviewChange| {
            (c.change, c.path.clone().or(c.admin.clone()).unwrap(), c.line, c.rule.clone())
        };
        host.changes.iter().map(told).collect::<Vec<_>>()
    };
    use Difference::{Added, Changed, Removed};
    let row = |change, path: &str, line, rule: Option<&str>| (change, path.to_owned(), line, rule.map(str::to_owned));
    assert_eq!(
        preview("h1"),
        [
            row(Added, "alice", Some(6), Some("the desk")),
            row(Added, "all", None, None),
            row(Added, "all/x", Some(4), Some("all/**")),
            row(Added, "all/x/ca", Some(4), Some("all/**")),
            row(Added, "nut", None, None),
            row(Added, "nut/pin", Some(4), Some("nut/*")),
        ]
    );
    assert!(rig.serials("h1").is_empty(), "it makes nothing");
    export(&vault);
    assert_eq!(preview("h1"), []);
    put(&vault, "nut/pin", "5678");
    vault.serve(&root(), Remove { path: path("all/x/ca"), purge: false, recursive: false }).unwrap();
    assert_eq!(
        preview("h1"),
        [
            row(Removed, "all", None, None),
            row(Removed, "all/x", None, None),
            row(Removed, "all/x/ca", None, None),
            row(Changed, "nut/pin", Some(4), Some("nut/*")),
        ]
    );
    let unknown = ExportPreview { hosts: Some(vec!["nobody".into()]) };
    assert!(vault.serve(&root(), unknown).map(|done| done.hosts).unwrap_err().to_string().contains("nobody"));
}

#[test]
fn a_secret_that_does_not_open_holds_its_hosts_back_and_no_others() {
    let rig = Rig::new();
    let vault = filled(&rig);
    export(&vault);
    put(&vault, "nut/pin", "9999");
    put(&vault, "web/a/key", "other");
    let node = vault.node(vault.find(&path("nut/pin")).unwrap()).unwrap();
    let blob = node.current().unwrap().blob;
    let spoil = crate::store::Batch { blobs: [(blob, Some(b"x".to_vec()))].into(), ..Default::default() };
    vault.store.apply(&spoil, &vault.anchor()).unwrap();
    let before = rig.serials("h1");
    let done = vault.serve(&root(), Export::default()).unwrap().hosts;
    assert_eq!(
        done.iter().map(|h| h.state).collect::<Vec<_>>(),
        [ExportState::Failed, ExportState::Made, ExportState::Unchanged]
    );
    assert!(done[0].error.as_ref().unwrap().contains("nut/pin"), "{done:?}");
    assert_eq!(rig.serials("h1"), before, "what it has stays");
    assert!(vault.serve(&root(), crate::wire::GetHosts {}).unwrap().hosts[0].error.is_some());
    put(&vault, "nut/pin", "whole");
    assert_eq!(export(&vault), ["h1"]);
    assert!(vault.serve(&root(), crate::wire::GetHosts {}).unwrap().hosts[0].error.is_none());
}

#[test]
fn deliveries_are_tried_until_they_succeed_and_only_of_the_newest() {
    let rig = Rig::new();
    let vault = filled(&rig);
    export(&vault);
    let within = std::time::Duration::from_secs(5);
    let mut errands = Vec::new();
    while errands.len() < 3 {
        errands.push(vault.next_errand(within).unwrap());
    }
    assert!(vault.next_errand(std::time::Duration::from_millis(20)).is_none(), "each once at a time");
    let one = errands.iter().find(|e| e.host.name == host("h1")).unwrap();
    let again = std::time::Duration::from_millis(30);
    vault.delivered(&one.host.name, one.serial, Err(("no route".into(), Some(again))));
    let info = |n: usize| vault.serve(&root(), crate::wire::GetHosts {}).unwrap().hosts.remove(n);
    assert_eq!((info(0).tries, info(0).error.as_deref(), info(0).delivered), (1, Some("no route"), None));
    let second = vault.next_errand(within).unwrap();
    assert_eq!((second.host.name.clone(), second.serial, second.tries), (host("h1"), one.serial, 1));
    put(&vault, "nut/pin", "newer");
    export(&vault);
    vault.delivered(&second.host.name, second.serial, Ok(()));
    let third = vault.next_errand(within).unwrap();
    assert!(third.host.name == host("h1") && third.serial > second.serial, "a newer one was made meanwhile");
    vault.delivered(&third.host.name, third.serial, Ok(()));
    assert_eq!((info(0).tries, info(0).error, info(0).delivered), (0, None, Some(third.serial)));
    // After a restart, what was delivered is not delivered again; what was not, is.
    vault.sync().unwrap();
    drop(vault);
    let vault = rig.vault();
    vault.read_policy(vault.exporter.settings().unwrap());
    vault.take_up_exports();
    let mut left: Vec<_> = (0..2).map(|_| vault.next_errand(within).unwrap().host.name.to_string()).collect();
    left.sort();
    assert_eq!(left, ["h2", "h3"]);
    assert!(vault.next_errand(std::time::Duration::from_millis(20)).is_none());
    // Ended between a delivery and the note of it: it is brought again, the same one.
    let serial = rig.serials("h2").last().copied().unwrap();
    *vault.exporter.fault.lock() = Some(ExportPoint::Delivered);
    vault.delivered(&host("h2"), serial, Ok(()));
    drop(vault);
    let vault = rig.vault();
    vault.read_policy(vault.exporter.settings().unwrap());
    vault.take_up_exports();
    let again: Vec<_> = (0..2).map(|_| vault.next_errand(within).unwrap()).collect();
    assert!(again.iter().any(|e| e.host.name == host("h2") && e.serial == serial));
}

#[test]
fn acknowledgements_count_if_the_host_signed_them_and_are_of_something_it_was_sent() {
    use crate::bundle::{KeySigner, Signer, ack};
    let rig = Rig::new();
    let (good, bad) = (KeySigner::generate().unwrap(), KeySigner::generate().unwrap());
    let (_, key) = &rig.hosts[0];
    rig.raw_policy(&format!(
        "host h1 {} deliver=dir:/tmp ack={} ack-from=dir:/tmp\nshare h1 : nut/*\n",
        key.to_public(),
        good.public().one_word()
    ));
    let vault = rig.vault();
    put(&vault, "nut/pin", "1234");
    export(&vault);
    let within = std::time::Duration::from_secs(10);
    let errand = vault.next_errand(within).unwrap();
    vault.delivered(&errand.host.name, errand.serial, Ok(()));
    let ask = vault.next_errand(within).unwrap();
    assert_eq!((ask.kind, ask.serial), (ErrandKind::FetchAck, errand.serial));
    let make = |serial: u64, name: &str, signer: &KeySigner| {
        let console = ConsoleName::parse(CONSOLE).unwrap();
        let said = ack::Ack::new(console, host(name), serial, Timestamp::now(), ack::AckOutcome::Applied, None);
        ack::make(&said, signer).unwrap()
    };
    let info = || vault.serve(&root(), crate::wire::GetHosts {}).unwrap().hosts.remove(0);
    for (wrong, why) in [
        (make(errand.serial, "h1", &bad), "key"),
        (make(errand.serial, "h2", &good), "h2"),
        (b"junk".to_vec(), "acknowledgement"),
    ] {
        vault.fetched_ack(&errand.host, Ok(Some(wrong)));
        assert!(info().error.unwrap().contains(why), "{why}");
        assert_eq!(info().acknowledged, None);
    }
    vault.fetched_ack(&errand.host, Ok(Some(make(errand.serial + 1, "h1", &good))));
    assert_eq!(info().acknowledged, None, "of a bundle that was never made");
    vault.fetched_ack(&errand.host, Ok(None));
    vault.fetched_ack(&errand.host, Ok(Some(make(errand.serial, "h1", &good))));
    let now = info();
    assert_eq!((now.acknowledged, now.outcome.as_deref(), now.error), (Some(errand.serial), Some("applied"), None));
    assert_eq!(now.trusts_current, Some(true));
    vault.serve(&root(), SignerRotate::default()).unwrap();
    assert_eq!(info().trusts_current, Some(false));
}

/// Names are shown with their directory.
#[test]
fn symlinks_go_along_as_they_are() {
    let rig = Rig::new();
    let vault = filled(&rig);
    let nut = vault.find(&path("nut")).unwrap();
    let name = Name::parse(b"link").unwrap();
    let new = crate::vault::NewNode {
        parent: nut,
        name: &name,
        kind: crate::model::Kind::Symlink,
        mode: 0o777,
        umask: 0,
        target: Some("pin"),
    };
    vault.create(&Daemon, new).unwrap();
    export(&vault);
    assert!(rig.content(&vault, "h1").contains(&("nut/link".into(), "pin".into())));
}

#[test]
fn a_view_goes_along_composed_and_follows_its_sources() {
    let rig = Rig::new();
    rig.policy("share h1 : nut/view\nshare h2 : none/*\n");
    let vault = rig.vault();
    put(&vault, "src/a", "one\n");
    put(&vault, "src/b", "two\n");
    let asked = wire::ViewAdd {
        path: path("nut/view"),
        kind: "concat".into(),
        args: vec!["src/a".into(), "src/b".into()],
        template: None,
        uid: None,
        gid: None,
        mode: Some(0o640),
        parents: true,
        pretend: false,
    };
    vault.serve(&root(), asked.clone()).unwrap();
    assert_eq!(export(&vault), ["h1", "h2", "h3"]);
    std::mem::take(&mut vault.exporter.inbox.lock().touched);
    let view = |text: &str| ("nut/view".to_owned(), text.to_owned());
    assert_eq!(rig.content(&vault, "h1")[1..], [view("one\ntwo\n")]);
    let entry = rig.open("h1", &trust(&vault, "h1")).unwrap().index().entries[1].clone();
    assert_eq!((entry.owner.as_str(), entry.mode), ("root", 0o640));
    assert_eq!(export(&vault), [] as [&str; 0], "the same sources");
    // Its sources are nobody's; a change of one is a change of the view.
    put(&vault, "src/b", "three\n");
    assert_eq!(follow(&vault), (vec!["h1".into()], vec!["h1".into()]));
    assert_eq!(rig.content(&vault, "h1")[1..], [view("one\nthree\n")]);
    put(&vault, "src/c", "no source");
    assert_eq!(follow(&vault).1, [] as [&str; 0]);
    // Another definition under the name.
    vault.serve(&root(), Remove { path: path("nut/view"), purge: false, recursive: false }).unwrap();
    vault.serve(&root(), wire::ViewAdd { args: vec!["src/b".into()], ..asked.clone() }).unwrap();
    assert_eq!(follow(&vault).1, ["h1"]);
    assert_eq!(rig.content(&vault, "h1")[1..], [view("three\n")]);
    // What does not compose holds the bundle back: what the host has stays.
    vault.serve(&root(), Remove { path: path("src/b"), purge: false, recursive: false }).unwrap();
    let (touched, made) = follow(&vault);
    assert_eq!((touched, made), (vec!["h1".to_owned()], Vec::new()));
    let done = vault.serve(&root(), Export::default()).unwrap().hosts;
    let h1 = done.iter().find(|h| h.host == "h1").unwrap();
    assert!(h1.error.as_deref().is_some_and(|e| e.contains("nut/view") && e.contains("src/b")), "{h1:?}");
    assert_eq!(rig.content(&vault, "h1")[1..], [view("three\n")]);
    put(&vault, "src/b", "back\n");
    assert_eq!(follow(&vault).1, ["h1"]);
    assert_eq!(rig.content(&vault, "h1")[1..], [view("back\n")]);
}

/// Composed again it would be another one: it is sealed as it was when it was hashed.
#[test]
fn a_view_that_is_never_the_same_twice_goes_along() {
    let rig = Rig::new();
    rig.policy("share h1 : nut/site.p12\n");
    let vault = rig.vault();
    self_signed(&vault, "site");
    put(&vault, "nut/password", "hunter2\n");
    let args = ["certs/site/key.pem", "certs/site/cert.pem", "nut/password"];
    let asked = wire::ViewAdd {
        path: path("nut/site.p12"),
        kind: "pkcs12".into(),
        args: args.map(str::to_owned).into(),
        template: None,
        uid: None,
        gid: None,
        mode: None,
        parents: true,
        pretend: false,
    };
    vault.serve(&root(), asked).unwrap();
    assert_eq!(export(&vault), ["h1", "h2", "h3"]);
    let mut contents = rig.open("h1", &trust(&vault, "h1")).unwrap();
    assert_eq!(contents.next_file().unwrap().unwrap().secret.expose()[0], 0x30, "a PKCS#12 file");
    assert_eq!(export(&vault), [] as [&str; 0], "the same sources");
}

fn self_signed(vault: &Vault, name: &str) {
    let asked = wire::CertSelfsign {
        host: host(name),
        subject: None,
        names: Vec::new(),
        key_type: None,
        days: 10,
        replace: None,
    };
    vault.serve(&root(), asked).unwrap();
}

#[test]
fn a_certificate_goes_to_its_host_alone_and_needs_no_line() {
    let rig = Rig::new();
    rig.policy("share h2 : ** certs/h1/* certs/** certs/*/next/* certs/h1/next/* ca/** ca/*/key.pem */lab/key.pem\nshare h3 : certs/www.example.org/*\n");
    let vault = rig.vault();
    for name in ["h1", "www.example.org"] {
        self_signed(&vault, name);
    }
    let asked = wire::CertRequest { host: host("h1"), subject: None, names: Vec::new(), key_type: None, again: None };
    vault.serve(&root(), asked).unwrap();
    put(&vault, "ca/lab/key.pem", &shown(&vault, "certs/h1/key.pem"));
    export(&vault);
    let files = |name: &str| {
        let all = rig.content(&vault, name).into_iter().map(|(path, _)| path);
        all.filter(|path| !path.ends_with('/')).collect::<Vec<_>>()
    };
    assert_eq!(files("h1"), ["certs/h1/cert.pem", "certs/h1/key.pem"], "what waits for an answer stays here");
    assert_eq!(files("h2"), [] as [&str; 0], "whatever its lines mean");
    // A name that is no host's: for whom the policy writes it out.
    assert_eq!(files("h3"), ["certs/www.example.org/cert.pem", "certs/www.example.org/key.pem"]);
    // A host of that name comes.
    let key = x25519::Identity::generate().to_public();
    rig.policy(&format!("host www.example.org {key}\nshare h3 : certs/www.example.org/*\nshare h2 : ca/lab/*\n"));
    export(&vault);
    assert_eq!(files("h3"), [] as [&str; 0]);
    assert_eq!(files("h2"), ["ca/lab/key.pem"], "written out");
    let asked = ExportPreview { hosts: Some(vec!["h1".into()]) };
    put(&vault, "certs/h1/chain.pem", &shown(&vault, "certs/h1/cert.pem"));
    let host = vault.serve(&root(), asked).unwrap().hosts.remove(0);
    let told = host.changes.iter().find(|c| c.path.as_deref() == Some("certs/h1/chain.pem"));
    assert_eq!(told.and_then(|c| c.rule.as_deref()), Some("its certificate"), "{:?}", host.changes);
}

fn shown(vault: &Vault, at: &str) -> String {
    let asked = wire::Reveal { path: path(at), version: None };
    let content = vault.serve(&root(), asked).unwrap().content;
    String::from_utf8(content.expose().to_vec()).unwrap()
}
