//! Secrets as keys in the keyrings of real uids of this machine, looked at with keyctl(1) as those uids.
//!
//! The uids are of no user; whatever a test leaves in their keyrings ends with the keys, which it takes back.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use crate::common::{first_of, unshared_uid};
use pinfold::audit::{Log, Settings, WhenFull};
use pinfold::caller::{Callers, Daemon, Instances, Registry};
use pinfold::model::{Acl, AclEntry, AclTag, Gid, Ino, Name, SecretPath, Uid};
use pinfold::seal::Protection;
use pinfold::secret::Secret;
use pinfold::store::Store;
use pinfold::vault::{Limits, Recovery, Rename, SetAttr, UnlockBy, Vault, XattrMode, create_store};
use pinfold::wire::{
    Actor, Attach, Condition, Fault, PublicationInfo, PublicationState, Publish, Put, Remove, Rollback, ScopeAdd,
    Serve, Unpublish,
};
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A recovery recipient nobody has the key of.
const RECIPIENT: &str = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";
const ATTRIBUTE: &str = "user.pinfold.publish";

struct World {
    vault: Arc<Vault>,
    identity: Secret,
    home: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
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
            max_instances: 100,
            keep_versions: 5,
            allow_reveal: false,
            mountpoint: "/nowhere".into(),
            operator_gid: None,
        };
        let store = Store::open(&home.path().join("store")).unwrap();
        let registry = Arc::new(Registry::default());
        let callers = Callers::with_instances(Arc::clone(&registry) as Arc<dyn Instances>).unwrap();
        let vault = Vault::new(store, Log::open(settings, None).unwrap(), callers, limits).with_instances(registry);
        let vault = Arc::new(vault);
        vault.serve_publications(home.path().join("published.keys")).unwrap();
        let world = World { vault, identity, home };
        world.unlock();
        world
    }

    fn unlock(&self) {
        self.vault.unlock(&Daemon, &UnlockBy::Identity(&self.identity)).unwrap();
    }

    fn put(&self, at: &str, uid: u32, content: &[u8]) {
        let content = Secret::copy_of(content).unwrap();
        let put = Put { path: path(at), uid: Some(uid), gid: Some(uid), mode: Some(0o400), parents: true, content };
        self.vault.serve(&root(), put).unwrap();
    }

    fn publish(&self, at: &str, to: u32) -> PublicationInfo {
        self.try_publish(asked(at, to)).unwrap().remove(0)
    }

    fn try_publish(&self, publish: Publish) -> Result<Vec<PublicationInfo>, Fault> {
        self.vault.serve(&root(), publish).map(|done| done.keys)
    }

    fn clear(&self, at: &str, condition: &str) {
        let asked = Condition { path: path(at), clear: vec![condition.into()], ..Condition::default() };
        self.vault.serve(&root(), asked).unwrap();
    }

    fn ino(&self, at: &str) -> Ino {
        path(at).names().iter().fold(Ino::ROOT, |at, name| self.vault.lookup(at, name.as_str()).unwrap().ino)
    }

    fn state(&self, at: &str) -> Vec<(PublicationState, Option<String>)> {
        let all = self.vault.serve(&root(), pinfold::wire::GetPublished {}).unwrap().publications;
        all.into_iter().filter(|p| p.path == at).map(|p| (p.state, p.reason)).collect()
    }

    /// Waits for what the publisher's thread does by itself.
    #[track_caller]
    fn until(&self, what: &str, happened: impl Fn() -> bool) {
        let begun = Instant::now();
        while !happened() {
            assert!(
                begun.elapsed() < Duration::from_secs(10),
                "{what}: {:?}",
                self.vault.serve(&root(), pinfold::wire::GetPublished {}).unwrap().publications
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn audit(&self) -> Vec<serde_json::Value> {
        crate::common::audit_lines(&self.home.path().join("audit.log"))
    }

    #[track_caller]
    fn recorded(&self, op: &str, decision: &str, uid: u32, reason: &str) {
        self.until(&format!("{op} {decision} {uid} '{reason}' in {:#?}", self.audit()), || {
            self.audit().iter().any(|e| {
                e["op"] == op
                    && e["decision"] == decision
                    && e["uid"] == uid
                    && e["reason"].as_str().unwrap_or_default().contains(reason)
            })
        });
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.vault.shutdown();
    }
}

fn root() -> Actor {
    Actor::new(0, 0, std::process::id().cast_signed())
}

fn path(text: &str) -> SecretPath {
    SecretPath::parse(text).unwrap()
}

fn asked(at: &str, to: u32) -> Publish {
    Publish {
        path: path(at),
        to: to.to_string(),
        instance: None,
        container: None,
        description: None,
        preset: None,
        timeout: None,
    }
}

fn back(at: &str) -> Unpublish {
    Unpublish { path: path(at), to: None, instance: None, container: None, description: None, preset: None }
}

/// What a script says as a uid whose session keyring is its own and does not have `@u`, and whether it succeeded.
fn by(uid: u32, script: &str) -> (bool, String) {
    let out = Command::new("setpriv")
        .args([&format!("--reuid={uid}"), &format!("--regid={uid}"), "--clear-groups"])
        .args(["keyctl", "session", "-", "sh", "-c", script])
        .output()
        .unwrap();
    let told = if out.status.success() { &out.stdout } else { &out.stderr };
    (out.status.success(), String::from_utf8_lossy(told).trim().to_owned())
}

/// What the uid finds under a description: serial and content.
fn finds(uid: u32, description: &str) -> Option<(i32, String)> {
    let script = format!("k=$(keyctl search @u user '{description}') && echo $k && keyctl pipe $k | base64 -w0");
    let (ok, told) = by(uid, &script);
    let (serial, content) = told.split_once('\n').filter(|_| ok)?;
    let content = Command::new("sh").args(["-c", &format!("echo {content} | base64 -d")]).output().unwrap().stdout;
    Some((serial.trim().parse().unwrap(), String::from_utf8(content).unwrap()))
}

fn content(uid: u32, description: &str) -> Option<String> {
    finds(uid, description).map(|(_, content)| content)
}

#[test]
fn the_uid_finds_and_reads_it_and_nobody_else_and_nobody_changes_it() {
    let (world, uid, other) = (World::new(), unshared_uid(1), unshared_uid(2));
    world.put("svc/pin", uid, b"1234");
    let info = world.publish("svc/pin", uid);
    assert_eq!((info.state, info.description.as_str()), (PublicationState::Published, "pinfold:svc/pin"));
    let serial = info.serial.unwrap();
    assert_eq!(finds(uid, "pinfold:svc/pin"), Some((serial, "1234".into())));
    assert!(by(uid, &format!("keyctl rdescribe {serial}")).1.starts_with(&format!("user;0;{uid};0b3d0b00;")));
    assert_eq!(finds(other, "pinfold:svc/pin"), None);
    assert!(by(other, &format!("keyctl pipe {serial}")).1.contains("Permission denied"));
    // Nor does root by accident: whoever wants to must change the key first.
    assert!(by(0, &format!("keyctl pipe {serial}")).1.contains("Permission denied"));
    for change in ["update % x", "revoke %", "setperm % 0x3f3f3f3f", "chown % 0", "chgrp % 0", "timeout % 1"] {
        let (ok, told) = by(uid, &format!("keyctl {}", change.replace('%', &serial.to_string())));
        assert!(!ok && told.contains("Permission denied"), "{change}: {told}");
    }
    world.recorded("publish", "allowed", uid, "owner: key 'pinfold:svc/pin'");
    let held = world.vault.serve(&root(), pinfold::wire::KeyringList {}).unwrap().keys;
    assert!(held.iter().any(|k| k.kind == "scope" && k.scope == "host" && k.description.starts_with("pinfold:host")));
    assert!(held.iter().any(|k| k.kind == "published" && k.serial == serial && k.uid == Some(uid)));
    assert_eq!(world.vault.serve(&root(), back("svc/pin")).map(|done| done.removed), Ok(1));
    assert_eq!(finds(uid, "pinfold:svc/pin"), None);
    assert!(matches!(world.vault.serve(&root(), back("svc/pin")).map(|done| done.removed), Err(Fault::NothingToDo(_))));
    world.recorded("unpublish", "allowed", uid, "not published any more");
}

#[test]
fn each_version_takes_the_place_of_the_last_in_the_same_key() {
    let (world, uid) = (World::new(), unshared_uid(10));
    world.put("pin", uid, b"one");
    let serial = world.publish("pin", uid).serial.unwrap();
    for (version, text) in [(2, "two"), (3, "a third one that is longer")] {
        world.put("pin", uid, text.as_bytes());
        world.until("the new version", || content(uid, "pinfold:pin").as_deref() == Some(text));
        let info = world.vault.serve(&root(), pinfold::wire::GetPublished {}).unwrap().publications.remove(0);
        assert_eq!((info.serial, info.version), (Some(serial), Some(version)));
    }
    world.vault.serve(&root(), Rollback { path: path("pin"), version: 1 }).unwrap();
    world.until("the old version", || finds(uid, "pinfold:pin") == Some((serial, "one".into())));
    world.recorded("publish", "allowed", uid, "updated key");
}

#[test]
fn it_goes_with_the_permission_and_comes_with_it() {
    let (world, uid) = (World::new(), unshared_uid(20));
    world.put("svc/pin", uid, b"1234");
    world.publish("svc/pin", uid);
    let ino = world.ino("svc/pin");
    let there = || finds(uid, "pinfold:svc/pin").is_some();
    let set = |ino, set: SetAttr| world.vault.set_attr(&Daemon, ino, set).map(drop).unwrap();
    let acl = |entries: &[(AclTag, u8)]| {
        Acl::from_entries(entries.iter().map(|(tag, perm)| AclEntry { tag: *tag, perm: *perm }).collect())
            .unwrap()
            .to_xattr()
    };
    let named = acl(&[
        (AclTag::UserObj, 6),
        (AclTag::User(Uid(uid)), 4),
        (AclTag::GroupObj, 0),
        (AclTag::Mask, 4),
        (AclTag::Other, 0),
    ]);
    let mode = |mode| SetAttr { mode: Some(mode), ..SetAttr::default() };
    set(ino, mode(0o200));
    world.until("chmod takes it", || !there());
    assert_eq!(world.state("svc/pin")[0].0, PublicationState::Refused);
    world.recorded("unpublish", "allowed", uid, "not allowed: owner");
    world.recorded("publish", "denied", uid, "not allowed: owner");
    set(ino, mode(0o400));
    world.until("chmod gives it", there);
    set(ino, SetAttr { uid: Some(Uid(0)), gid: Some(Gid(0)), ..SetAttr::default() });
    world.until("chown takes it", || !there());
    world.vault.set_xattr(&Daemon, ino, "system.posix_acl_access", &named, XattrMode::Set).unwrap();
    world.until("setfacl gives it", there);
    world.recorded("publish", "allowed", uid, &format!("acl user {uid}"));
    world.vault.remove_xattr(&Daemon, ino, "system.posix_acl_access").unwrap();
    world.until("setfacl -b takes it", || !there());
    world.vault.set_xattr(&Daemon, ino, "system.posix_acl_access", &named, XattrMode::Set).unwrap();
    world.until("setfacl gives it", there);
    set(world.ino("svc"), mode(0o700));
    world.until("a closed folder takes it", || !there());
    set(world.ino("svc"), mode(0o711));
    world.until("an open folder gives it", there);
    world.vault.set_xattr(&Daemon, ino, "user.pinfold.expires", b"2001-01-01T00:00:00Z", XattrMode::Set).unwrap();
    world.until("its end takes it", || !there());
    assert_eq!(world.state("svc/pin")[0].0, PublicationState::Expired);
    world.clear("svc/pin", "expires");
    world.until("no end gives it", there);
    let serial = world.vault.serve(&root(), pinfold::wire::GetPublished {}).unwrap().publications[0].serial.unwrap();
    world.vault.serve(&root(), Remove { path: path("svc/pin"), purge: false, recursive: false }).unwrap();
    world.until("rm takes it", || !there());
    assert!(!by(uid, &format!("keyctl pipe {serial}")).0);
    assert!(world.state("svc/pin").is_empty());
    world.vault.serve(&root(), Rollback { path: path("svc/pin"), version: 1 }).unwrap();
    world.until("rollback gives it", there);
}

#[test]
fn what_may_not_be_read_is_not_published() {
    let (world, uid, other) = (World::new(), unshared_uid(30), unshared_uid(31));
    world.put("svc/pin", uid, b"1234");
    let refused = world.try_publish(asked("svc/pin", other));
    assert!(matches!(&refused, Err(Fault::Refused(why)) if why.contains("not allowed: other")), "{refused:?}");
    assert!(world.vault.list_xattr(world.ino("svc/pin")).unwrap().is_empty(), "nothing stays of it");
    world.recorded("publish", "denied", other, "not allowed");
    // A group others are in could read the key by its number: only who possesses it then.
    let shared = world.try_publish(Publish { to: format!("{uid}:0"), ..asked("svc/pin", uid) }).unwrap();
    assert!(shared[0].reason.as_ref().unwrap().contains("KeyringMode"), "{shared:?}");
    let linked = format!("keyctl link @u @s; keyctl pipe {}", shared[0].serial.unwrap());
    assert_eq!(by(uid, &linked), (true, "1234".into()));
    assert!(!by(uid, &format!("keyctl pipe {}", shared[0].serial.unwrap())).0);
    for (name, value) in
        [("user.pinfold.unit", "a.service"), ("user.pinfold.exe", "/bin/cat"), ("user.pinfold.label", "cat")]
    {
        let set = world.vault.set_xattr(&Daemon, world.ino("svc/pin"), name, value.as_bytes(), XattrMode::Set);
        assert!(set.unwrap_err().to_string().contains("cannot be published"));
        world.put("other", uid, b"x");
        world.vault.set_xattr(&Daemon, world.ino("other"), name, value.as_bytes(), XattrMode::Set).unwrap();
        assert!(matches!(world.try_publish(asked("other", uid)), Err(Fault::Refused(_))));
        world.vault.serve(&root(), Remove { path: path("other"), purge: true, recursive: false }).unwrap();
    }
    world.put("large", uid, &vec![b'x'; 32_768]);
    let large = world.try_publish(asked("large", uid));
    assert!(matches!(&large, Err(Fault::Failed(why)) if why.contains("32767")), "{large:?}");
    world.put("empty", uid, b"");
    assert!(matches!(world.try_publish(asked("empty", uid)), Err(Fault::Failed(_))));
    world.put("largest", uid, &vec![b'y'; 32_767]);
    world.publish("largest", uid);
    assert_eq!(content(uid, "pinfold:largest").unwrap().len(), 32_767);
    for bad in [
        Publish { preset: Some("389ds".into()), ..asked("svc/pin", uid) },
        Publish { description: Some("{nothing}".into()), ..asked("svc/pin", uid) },
        Publish { description: Some("a\nto=0".into()), ..asked("svc/pin", uid) },
        Publish { description: Some("a".into()), preset: Some("389ds".into()), ..asked("svc/pin", uid) },
        Publish { timeout: Some(0), ..asked("svc/pin", uid) },
        Publish { to: "no-such-user-here".into(), ..asked("svc/pin", uid) },
    ] {
        let answer = world.try_publish(bad.clone());
        assert!(matches!(answer, Err(Fault::Usage(_) | Fault::Refused(_))), "{bad:?}: {answer:?}");
    }
}

#[test]
fn two_secrets_cannot_have_one_name_in_one_keyring() {
    let (world, uid) = (World::new(), unshared_uid(40));
    world.put("a", uid, b"a");
    world.put("b", uid, b"b");
    let named = |at| Publish { description: Some("the; pin".into()), ..asked(at, uid) };
    world.try_publish(named("a")).unwrap();
    let second = world.try_publish(named("b"));
    assert!(matches!(&second, Err(Fault::Failed(why)) if why.contains("from a")), "{second:?}");
    assert_eq!(content(uid, "the; pin").as_deref(), Some("a"));
}

#[test]
fn what_the_uid_takes_away_is_put_back_within_a_second() {
    let (world, uid) = (World::new(), unshared_uid(50));
    world.put("pin", uid, b"1234");
    let first = world.publish("pin", uid).serial.unwrap();
    let description = "pinfold:pin";
    let mut last = first;
    for (n, mischief) in [
        format!("keyctl unlink $(keyctl search @u user {description}) @u"),
        format!("keyctl unlink $(keyctl search @u user {description}) @u; keyctl add user {description} mine @u"),
        "keyctl clear @u".to_owned(),
        format!("keyctl invalidate $(keyctl search @u user {description})"),
    ]
    .iter()
    .enumerate()
    {
        assert!(by(uid, mischief).0, "{mischief}");
        let begun = Instant::now();
        world.until("it is put back", || finds(uid, description).is_some_and(|(s, text)| s != last && text == "1234"));
        assert!(begun.elapsed() < Duration::from_millis(1500), "{mischief}: after {:?}", begun.elapsed());
        world.until("it is counted", || {
            world.vault.serve(&root(), pinfold::wire::GetPublished {}).unwrap().publications[0].put_back == n as u64 + 1
        });
        last = finds(uid, description).unwrap().0;
    }
    world.recorded("unpublish", "denied", uid, &format!("took key {first} out of its keyring"));
}

#[test]
fn a_keyring_that_is_spoiled_harms_its_own_publication_alone() {
    // The first one's keyring is spoiled for good.
    let (world, uid, other) = (World::new(), unshared_uid(60), unshared_uid(61));
    for (at, uid) in [("a", uid), ("b", other)] {
        world.put(at, uid, b"x");
    }
    // The key is root's, and so is its quota; the keyring is the uid's own.
    assert!(by(uid, "keyctl revoke @u").0);
    let failed = world.try_publish(asked("a", uid));
    assert!(matches!(&failed, Err(Fault::Failed(why)) if why.contains("linking")), "{failed:?}");
    world.publish("b", other);
    assert_eq!(content(other, "pinfold:b").as_deref(), Some("x"));
    let set = format!("to={uid}\n");
    world.vault.set_xattr(&Daemon, world.ino("a"), ATTRIBUTE, set.as_bytes(), XattrMode::Set).unwrap();
    world.until("it is told", || {
        world.state("a").first().is_some_and(|(s, why)| *s == PublicationState::Failed && why.is_some())
    });
}

#[test]
fn a_lock_empties_the_keyrings_and_an_unlock_fills_them() {
    let (world, uid) = (World::new(), unshared_uid(70));
    world.put("pin", uid, b"1234");
    let serial = world.publish("pin", uid).serial.unwrap();
    world.vault.lock(&Daemon).unwrap();
    assert_eq!(finds(uid, "pinfold:pin"), None);
    assert!(!by(uid, &format!("keyctl pipe {serial}")).0);
    assert!(world.vault.serve(&root(), pinfold::wire::GetPublished {}).unwrap().publications.is_empty());
    world.unlock();
    world.until("it is back", || content(uid, "pinfold:pin").as_deref() == Some("1234"));
    // The scope's key revoked is a lock of that scope.
    let entry = world.vault.serve(&root(), pinfold::wire::GetStatus {}).unwrap().scopes.remove(0).serial;
    assert!(Command::new("keyctl").args(["revoke", &entry.to_string()]).status().unwrap().success());
    world.until("it is gone with the scope's key", || finds(uid, "pinfold:pin").is_none());
    world.vault.shutdown();
}

#[test]
fn the_end_of_the_daemon_takes_everything_back() {
    let (world, uid) = (World::new(), unshared_uid(71));
    world.put("pin", uid, b"1234");
    world.publish("pin", uid);
    world.vault.shutdown();
    assert_eq!(finds(uid, "pinfold:pin"), None);
}

#[test]
fn what_a_killed_daemon_left_is_taken_back_by_the_next() {
    let (world, next, uid) = (World::new(), World::new(), unshared_uid(72));
    world.put("pin", uid, b"1234");
    let serial = world.publish("pin", uid).serial.unwrap();
    let noted = std::fs::read_to_string(world.home.path().join("published.keys")).unwrap();
    assert_eq!(noted, format!("{serial}\n"));
    // A key of somebody else whose number is noted stays.
    let other = Command::new("sh").args(["-c", "keyctl session - keyctl add user not-ours x @u"]).output().unwrap();
    let other = String::from_utf8(other.stdout).unwrap().trim().to_owned();
    let file = next.home.path().join("left.keys");
    std::fs::write(&file, format!("{serial}\n{other}\n12345\n")).unwrap();
    next.vault.serve_publications(file).unwrap();
    assert!(!by(uid, &format!("keyctl pipe {serial}")).0);
    next.recorded("unpublish", "allowed", 0, &format!("key {serial}"));
    assert!(Command::new("keyctl").args(["unlink", &other, "@u"]).status().unwrap().success());
}

#[test]
fn a_timeout_ends_the_key_and_an_update_does_not_lengthen_it() {
    let (world, uid) = (World::new(), unshared_uid(80));
    world.put("pin", uid, b"1234");
    let asked = Publish { timeout: Some(3), ..asked("pin", uid) };
    let info = world.try_publish(asked).unwrap().remove(0);
    assert!(info.expires.is_some());
    world.put("pin", uid, b"5678");
    world.until("the new version", || content(uid, "pinfold:pin").as_deref() == Some("5678"));
    world.until("it ends", || world.state("pin")[0].0 == PublicationState::Expired);
    assert_eq!(finds(uid, "pinfold:pin"), None);
    // Asked for again, it begins anew.
    world.publish("pin", uid);
    assert_eq!(content(uid, "pinfold:pin").as_deref(), Some("5678"));
}

#[test]
fn the_attribute_publishes_and_moves_with_the_file() {
    let (world, uid) = (World::new(), unshared_uid(90));
    world.put("dir/pin", uid, b"1234");
    let ino = world.ino("dir/pin");
    for (value, why) in
        [("", "no publication"), ("to=nobody-here-of-this-name", "there is no user"), ("x", "key=value")]
    {
        let set = world.vault.set_xattr(&Daemon, ino, ATTRIBUTE, value.as_bytes(), XattrMode::Set);
        assert!(set.unwrap_err().to_string().contains(why), "{value}");
    }
    let two = format!("to={uid} instance=slapd-a as=389ds\nto={uid}\n");
    world.vault.set_xattr(&Daemon, ino, ATTRIBUTE, two.as_bytes(), XattrMode::Set).unwrap();
    let token = "Internal (Software) Token:slapd-a:password";
    world.until("both", || content(uid, token).is_some() && content(uid, "pinfold:dir/pin").is_some());
    let rename = |parent, from: &Name, new_parent, to: &Name| {
        let rename = Rename { parent, name: from, new_parent, new_name: to, replace: false };
        world.vault.rename(&Daemon, rename).unwrap();
    };
    let name = |text: &str| Name::parse(text.as_bytes()).unwrap();
    let serial = finds(uid, token).unwrap().0;
    rename(Ino::ROOT, &name("dir"), Ino::ROOT, &name("new"));
    world.until("the folder's new name", || content(uid, "pinfold:new/pin").is_some());
    assert_eq!(finds(uid, "pinfold:dir/pin"), None);
    rename(world.ino("new"), &name("pin"), Ino::ROOT, &name("pin"));
    world.until("its new place", || content(uid, "pinfold:pin").is_some());
    assert_eq!(finds(uid, "pinfold:new/pin"), None);
    assert_eq!(finds(uid, token).unwrap().0, serial, "what did not change stays");
    world.vault.serve(&root(), Unpublish { preset: Some("389ds".into()), ..back("pin") }).unwrap();
    assert_eq!(finds(uid, token), None);
    assert_eq!(content(uid, "pinfold:pin").as_deref(), Some("1234"));
    // Not by removexattr: a second `rsync -X` would do that.
    assert!(world.vault.remove_xattr(&Daemon, ino, ATTRIBUTE).is_err());
    assert!(content(uid, "pinfold:pin").is_some());
    world.vault.serve(&root(), back("pin")).unwrap();
    world.until("no attribute, no key", || finds(uid, "pinfold:pin").is_none());
}

/// A container without a runtime: a process in user and pid namespaces of its own, with ids from `first` on.
struct Container {
    outer: Child,
    init: u32,
}

impl Container {
    fn start(first: u32) -> Self {
        let outer = Command::new("unshare")
            .args(["--user", "--pid", "--fork", "--kill-child", "sleep", "1000"])
            .spawn()
            .unwrap();
        let init = first_of(outer.id(), "sleep");
        for map in ["uid_map", "gid_map"] {
            std::fs::write(format!("/proc/{init}/{map}"), format!("0 {first} 65536")).unwrap();
        }
        Container { outer, init }
    }

    /// What a script says as a uid inside, and whether it succeeded.
    fn by(&self, uid: u32, script: &str) -> (bool, String) {
        let out = Command::new("nsenter")
            .args([
                &format!("--target={}", self.init),
                "--user",
                &format!("--setuid={uid}"),
                &format!("--setgid={uid}"),
            ])
            .args(["keyctl", "session", "-", "sh", "-c", script])
            .output()
            .unwrap();
        let told = if out.status.success() { &out.stdout } else { &out.stderr };
        (out.status.success(), String::from_utf8_lossy(told).trim().to_owned())
    }

    fn content(&self, uid: u32, description: &str) -> Option<String> {
        let (ok, told) = self.by(uid, &format!("keyctl pipe $(keyctl search @u user '{description}')"));
        ok.then_some(told)
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.outer.kill();
        let _ = self.outer.wait();
    }
}

fn scope_add(world: &World, name: &str) {
    let add = ScopeAdd { name: name.into(), write: None, uid_map: None };
    world.vault.serve(&root(), add).unwrap();
}

fn attach(world: &World, scope: &str, pid: u32, id: &str, timeout: Option<u64>) {
    let attach = Attach { scope: scope.into(), pid, id: Some(id.into()), timeout_seconds: timeout };
    assert_eq!(world.vault.serve(&root(), attach).unwrap().id, id);
}

#[test]
fn two_containers_have_the_same_uid_and_each_its_own_key() {
    let world = World::new();
    let (one, two) = (Container::start(3_000_000), Container::start(3_100_000));
    for scope in ["web", "db"] {
        scope_add(&world, scope);
        world.put(&format!("containers/{scope}/svc/pin"), 999, scope.as_bytes());
        let asked = Publish { container: Some(scope.into()), ..asked(&format!("containers/{scope}/svc/pin"), 999) };
        let waiting = world.try_publish(asked).unwrap().remove(0);
        assert_eq!(waiting.state, PublicationState::Waiting, "{waiting:?}");
    }
    // It is there when the attaching is done: what runs in the container starts after that.
    attach(&world, "web", one.init, "one", None);
    assert_eq!(one.content(999, "pinfold:one:svc/pin").as_deref(), Some("web"));
    attach(&world, "db", two.init, "two", None);
    assert_eq!(two.content(999, "pinfold:two:svc/pin").as_deref(), Some("db"));
    let held = world.vault.serve(&root(), pinfold::wire::KeyringList {}).unwrap().keys;
    let kinds = |id: &str| {
        held.iter().filter(|k| k.instance.as_deref() == Some(id)).map(|k| k.kind.clone()).collect::<Vec<_>>()
    };
    assert_eq!((kinds("one"), kinds("two")), (vec!["instance".into(), "published".into()], kinds("one")));
    let all = world.vault.serve(&root(), pinfold::wire::GetPublished {}).unwrap().publications;
    let serial = |at: &str| all.iter().find(|p| p.path.contains(at)).unwrap().serial.unwrap();
    assert_eq!(all.iter().map(|p| p.uid.unwrap()).collect::<Vec<_>>(), [3_100_999, 3_000_999]);
    for (from, uid, description, other) in [
        (&one, 999, "pinfold:two:svc/pin", serial("db")),
        (&two, 999, "pinfold:one:svc/pin", serial("web")),
        (&one, 998, "pinfold:one:svc/pin", serial("web")),
        (&one, 0, "pinfold:one:svc/pin", serial("web")),
    ] {
        assert_eq!(from.content(uid, description), None, "{uid} {description}");
        assert!(!from.by(uid, &format!("keyctl pipe {other}")).0, "{uid} {other}");
    }
    // Not in the keyring of the same number outside, nor of the uid that it really is.
    assert_eq!(finds(999, "pinfold:one:svc/pin"), None);
    assert_eq!(finds(3_000_999, "pinfold:one:svc/pin"), None);
    let (ok, told) = one.by(999, &format!("keyctl revoke {}", serial("web")));
    assert!(!ok && told.contains("Permission denied"), "{told}");

    // A new version; what the uid takes away; what is detached.
    world.put("containers/web/svc/pin", 999, b"new");
    world.until("the new version", || one.content(999, "pinfold:one:svc/pin").as_deref() == Some("new"));
    assert!(one.by(999, "keyctl clear @u").0);
    world.until("it is put back", || one.content(999, "pinfold:one:svc/pin").as_deref() == Some("new"));
    world.recorded("unpublish", "denied", 3_000_999, "took key");
    world.vault.detach(&Daemon, "one").unwrap();
    world.until("it goes with the instance", || one.content(999, "pinfold:one:svc/pin").is_none());
    assert_eq!(two.content(999, "pinfold:two:svc/pin").as_deref(), Some("db"));
    let entry = world
        .vault
        .serve(&root(), pinfold::wire::Instances {})
        .unwrap()
        .instances
        .into_iter()
        .find(|i| i.id == "two")
        .unwrap()
        .key_serial;
    assert!(Command::new("keyctl").args(["revoke", &entry.unwrap().to_string()]).status().unwrap().success());
    world.until("it goes with the instance's entry", || two.content(999, "pinfold:two:svc/pin").is_none());
}

#[test]
fn a_secret_of_the_host_and_of_another_scope_in_a_container() {
    let world = World::new();
    let one = Container::start(3_200_000);
    scope_add(&world, "web");
    scope_add(&world, "db");
    // An id of its own: keys of the same name in the keyring of this process are one key, which ends with this time.
    attach(&world, "web", one.init, "timed", Some(3));
    world.put("containers/db/pin", 999, b"db");
    let open = SetAttr { mode: Some(0o444), ..SetAttr::default() };
    world.vault.set_attr(&Daemon, world.ino("containers/db/pin"), open).unwrap();
    let wrong = world.try_publish(Publish { container: Some("timed".into()), ..asked("containers/db/pin", 999) });
    assert!(matches!(&wrong, Err(Fault::Refused(why)) if why.contains("not inside")), "{wrong:?}");
    // A uid of the container is another one of this machine, and judged as that.
    world.put("shared/pin", 999, b"host");
    let here = |to: &str| Publish {
        to: to.into(),
        container: Some("timed".into()),
        preset: Some("389ds".into()),
        instance: Some("a".into()),
        ..asked("shared/pin", 0)
    };
    assert!(matches!(world.try_publish(here("999")), Err(Fault::Refused(_))));
    assert!(matches!(world.try_publish(here("root")), Err(Fault::Usage(_))));
    world.put("shared/pin", 3_200_999, b"host");
    let info = world.try_publish(here("999")).unwrap().remove(0);
    assert_eq!(info.description, "Internal (Software) Token:a:timed:password");
    assert_eq!(one.content(999, &info.description).as_deref(), Some("host"));
    world.until("it goes with the instance's time", || one.content(999, &info.description).is_none());
    assert!(
        world.vault.serve(&root(), pinfold::wire::GetPublished {}).unwrap().publications[0]
            .reason
            .as_ref()
            .unwrap()
            .contains("no instance of timed")
    );
}

/// How long it takes: `cargo test --release --test publish -- --ignored --nocapture measured`.
#[test]
#[ignore = "a measurement"]
fn measured() {
    let (world, uid) = (World::new(), unshared_uid(100));
    let p50 = |mut times: Vec<Duration>| {
        times.sort();
        times[times.len() / 2]
    };
    let (mut published, mut updated) = (Vec::new(), Vec::new());
    for n in 0..100 {
        let at = format!("p{n}");
        world.put(&at, uid, b"1234");
        let begun = Instant::now();
        let serial = world.publish(&at, uid).serial.unwrap();
        published.push(begun.elapsed());
        let content = Secret::copy_of(b"5678").unwrap();
        let put = Put { path: path(&at), uid: None, gid: None, mode: None, parents: false, content };
        world.vault.serve(&root(), put).unwrap();
        let begun = Instant::now();
        while world
            .vault
            .serve(&root(), pinfold::wire::GetPublished {})
            .unwrap()
            .publications
            .iter()
            .any(|p| p.serial == Some(serial) && p.version != Some(2))
        {}
        updated.push(begun.elapsed());
    }
    println!(
        "publish, durable and in the keyring: p50 {:?}; after a commit until the key has it: p50 {:?}",
        p50(published),
        p50(updated)
    );
}

#[test]
fn a_file_renamed_over_the_secret_goes_into_the_same_key() {
    // Both ways: the new file made before the old one, and after it.
    for (at, names) in [["pin", "tmp"], ["tmp", "pin"]].into_iter().enumerate() {
        let (world, uid) = (World::new(), unshared_uid(300 + u32::try_from(at).unwrap()));
        for name in names {
            world.put(name, uid, name.as_bytes());
        }
        let serial = world.publish("pin", uid).serial;
        let (from, to) = (Name::parse(b"tmp").unwrap(), Name::parse(b"pin").unwrap());
        let rename = Rename { parent: Ino::ROOT, name: &from, new_parent: Ino::ROOT, new_name: &to, replace: true };
        world.vault.rename(&Daemon, rename).unwrap();
        world.until("the new content", || content(uid, "pinfold:pin").as_deref() == Some("tmp"));
        let info = world.vault.serve(&root(), pinfold::wire::GetPublished {}).unwrap().publications;
        assert_eq!((info.len(), info[0].serial, info[0].state), (1, serial, PublicationState::Published));
        // By no other file's hands: what the uid may not read, it has no more.
        world.put("secret", 0, b"not his");
        let from = Name::parse(b"secret").unwrap();
        let rename = Rename { name: &from, ..rename };
        world.vault.rename(&Daemon, rename).unwrap();
        world.until("nothing", || content(uid, "pinfold:pin").is_none());
        assert_eq!(world.state("pin")[0].0, PublicationState::Refused);
    }
}
