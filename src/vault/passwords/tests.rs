//! Passwords in a store of their own, as an admin at the control socket has them.

use super::*;
use crate::audit::{Log, Settings, WhenFull};
use crate::caller::{Callers, Daemon};
use crate::seal::Protection;
use crate::secret::Secret;
use crate::store::Store;
use crate::vault::{Limits, Recovery, UnlockBy, create_store, fault};
use crate::wire::{
    Keep, PasswordList, Put, Reveal, RotationBegin, RotationEnd, RotationMark, RotationOpen, Serve, VersionInfo,
};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

fn secret(text: &str) -> Secret {
    Secret::copy_of(text.as_bytes()).unwrap()
}

fn root() -> Actor {
    Actor::new(0, 0, i32::try_from(std::process::id()).unwrap())
}

fn name(text: &str) -> PasswordName {
    PasswordName::parse(text).unwrap()
}

struct Rig {
    home: tempfile::TempDir,
    logs: AtomicU32,
}

impl Rig {
    fn new() -> Rig {
        let rig = Rig { home: tempfile::tempdir().unwrap(), logs: AtomicU32::new(0) };
        let recovery = Recovery { recipients: vec![age::x25519::Identity::generate().to_public().to_string()] };
        create_store(&rig.home.path().join("store"), &Protection::Passphrase(&secret("old")), &recovery).unwrap();
        rig
    }

    fn log(&self) -> PathBuf {
        self.home.path().join(format!("audit-{}", self.logs.load(Ordering::SeqCst)))
    }

    /// What a daemon that was just started and unlocked has.
    fn vault(&self) -> Vault {
        self.logs.fetch_add(1, Ordering::SeqCst);
        let settings = Settings { path: self.log(), max_size: 1 << 24, when_full: WhenFull::Refuse, space: None };
        let limits = Limits {
            max_secret_size: 4096,
            max_secrets: 10_000,
            max_instances: 10,
            keep_versions: 3,
            allow_reveal: true,
            mountpoint: "/nowhere".into(),
            operator_gid: None,
        };
        let store = Store::open(&self.home.path().join("store")).unwrap();
        let vault = Vault::new(store, Log::open(settings, None).unwrap(), Callers::new().unwrap(), limits);
        Vault::unlock(&vault, &Daemon, &UnlockBy::Passphrase(&secret("old"))).unwrap();
        vault
    }

    /// Lines of the log of the last vault, with this operation.
    fn logged(&self, vault: &Vault, op: &str) -> Vec<String> {
        // Refusals wait in a queue: the vault is of no use after this.
        vault.audit_log().shutdown();
        let text = std::fs::read_to_string(self.log()).unwrap();
        text.lines().filter(|l| l.contains(&format!("\"op\":\"{op}\""))).map(str::to_owned).collect()
    }
}

fn put(vault: &Vault, to: &str, content: &str) -> Result<u64, Fault> {
    vault
        .serve(&root(), PasswordPut { name: name(to), replace: None, content: secret(content) })
        .map(|done| done.version)
}

fn show(vault: &Vault, of: &str) -> Result<String, Fault> {
    let shown = vault.serve(&root(), PasswordShow { name: name(of), next: None })?;
    Ok(String::from_utf8(shown.content.expose().to_vec()).unwrap())
}

fn begin(vault: &Vault, of: &str, content: &str) -> Result<(), Fault> {
    vault.serve(&root(), RotationBegin { name: name(of), content: secret(content) }).map(drop)
}

fn mark(vault: &Vault, of: &str, from: RotationState, to: RotationState) -> Result<(), Fault> {
    vault.serve(&root(), RotationMark { name: name(of), from, to }).map(drop)
}

fn end(vault: &Vault, of: &str, keep: Keep) -> Result<(), Fault> {
    vault.serve(&root(), RotationEnd { name: name(of), keep, verified: true }).map(drop)
}

fn listed(vault: &Vault, pattern: &str) -> Vec<(String, u64, Option<RotationState>)> {
    let pattern = Some(PasswordPattern::parse(pattern).unwrap());
    let all = vault.serve(&root(), PasswordList { pattern }).unwrap().passwords;
    all.into_iter().map(|e| (e.name.to_string(), e.version, e.rotation)).collect()
}

#[test]
fn a_password_is_hidden_in_the_tree_and_shown_to_an_admin_who_asks() {
    let rig = Rig::new();
    let vault = rig.vault();
    assert_eq!(put(&vault, "ui-1", "first"), Ok(1));
    assert!(matches!(put(&vault, "ui-1", "second"), Err(Fault::Refused(_))), "it is there");
    let replace = PasswordPut { name: name("ui-1"), replace: Some(true), content: secret("second") };
    assert_eq!(vault.serve(&root(), replace).map(|done| done.version), Ok(2));
    assert_eq!(show(&vault, "ui-1").unwrap(), "second");

    let path = name("ui-1").path();
    let attr = vault.attr(vault.find(&path).unwrap()).unwrap();
    assert_eq!((attr.mode, attr.uid, attr.gid), (0, 0, 0));
    let folder = vault.attr(vault.find(&SecretPath::parse(PASSWORDS).unwrap()).unwrap()).unwrap();
    assert_eq!((folder.mode, folder.uid), (0o700, 0));
    // allow_reveal is no way around: root reads what root is granted, and here that is nothing.
    let reveal = Reveal { path: path.clone(), version: None };
    assert!(matches!(vault.serve(&root(), reveal).map(|done| done.content), Err(Fault::Refused(_))));

    let revealed = rig.logged(&vault, "reveal");
    let told = |decision: &str| {
        let line = |l: &&String| l.contains(&format!("\"{decision}\"")) && l.contains("passwords/ui-1/ssh/root");
        revealed.iter().filter(line).count()
    };
    assert_eq!((told("allowed"), told("denied")), (1, 1), "{revealed:?}");
    let whole = std::fs::read_to_string(rig.log()).unwrap();
    assert!(!whole.contains("second") && !whole.contains("first"), "no content in the log");
}

#[test]
fn what_is_no_password_is_refused_and_leaves_nothing() {
    let rig = Rig::new();
    let vault = rig.vault();
    for bad in ["", "a\nb", "a\0b", "\u{1b}[2J", &"x".repeat(513)] {
        assert!(matches!(put(&vault, "ui-1", bad), Err(Fault::Refused(_))), "{bad:?}");
    }
    assert_eq!(listed(&vault, "*@*:*"), []);
    put(&vault, "ui-1", "good").unwrap();
    assert!(matches!(begin(&vault, "ui-1", "a\nb"), Err(Fault::Refused(_))));
    assert_eq!(listed(&vault, "*@*:*"), [("root@ui-1:ssh".into(), 1, None)]);
}

#[test]
fn patterns_list_and_removal_leaves_no_empty_folder() {
    let rig = Rig::new();
    let vault = rig.vault();
    for each in ["ui-2", "ui-1", "admin@ui-1", "ui-1:postgresql", "db"] {
        put(&vault, each, "x").unwrap();
    }
    let names = |pattern| listed(&vault, pattern).into_iter().map(|(name, ..)| name).collect::<Vec<_>>();
    assert_eq!(names("ui-*"), ["root@ui-1:ssh", "root@ui-2:ssh"]);
    assert_eq!(names("*@ui-1:*"), ["root@ui-1:postgresql", "admin@ui-1:ssh", "root@ui-1:ssh"]);
    assert_eq!(names("nothing"), [""; 0]);

    let remove = |of: &str, purge| vault.serve(&root(), PasswordRemove { name: name(of), purge: Some(purge) });
    assert_eq!(remove("ui-2", false).unwrap(), Removed { nodes: 3, purged: 0 });
    assert!(vault.find(&SecretPath::parse("passwords/ui-2").unwrap()).is_err());
    assert_eq!(remove("ui-1", true).unwrap(), Removed { nodes: 1, purged: 1 });
    assert!(matches!(remove("ui-1", true), Err(Fault::NotFound(_))));
    let history: Vec<VersionInfo> =
        vault.serve(&root(), crate::wire::GetHistory { path: name("ui-2").path() }).unwrap().versions;
    assert_eq!(history.len(), 1, "what was removed can be brought back");
}

#[test]
fn an_admin_is_shown_so_many_a_minute_and_no_more() {
    let rig = Rig::new();
    let vault = rig.vault().with_shows_per_minute(3);
    put(&vault, "ui-1", "x").unwrap();
    for _ in 0..3 {
        show(&vault, "ui-1").unwrap();
    }
    let refused = show(&vault, "ui-1").unwrap_err();
    assert!(matches!(&refused, Fault::Refused(why) if why.contains("too many")), "{refused}");
    assert!(matches!(show(&vault, "missing"), Err(Fault::NotFound(_))), "what is not there counts for nothing");
    let denied = rig.logged(&vault, "reveal").into_iter().filter(|l| l.contains("\"denied\"")).count();
    assert_eq!(denied, 1);
}

#[test]
fn a_rotation_is_no_way_to_be_shown_the_lot() {
    let rig = Rig::new();
    let vault = rig.vault().with_shows_per_minute(1).with_rotations_per_minute(3);
    let hosts = ["ui-1", "ui-2", "ui-3", "ui-4"];
    for host in hosts {
        put(&vault, host, "old").unwrap();
        begin(&vault, host, "new").unwrap();
    }
    let open = |host| vault.serve(&root(), RotationOpen { name: name(host) });
    for host in &hosts[..3] {
        open(host).unwrap();
    }
    for host in hosts {
        let refused = open(host).unwrap_err();
        assert!(crate::wire::next_password_after(&refused).is_some(), "{refused}");
    }
    let told = |decision: &str| {
        let line = |l: &String| l.contains(&format!("\"{decision}\""));
        rig.logged(&vault, "reveal").into_iter().filter(line).count()
    };
    assert_eq!((told("allowed"), told("denied")), (6, 4), "both passwords of three are on record, and each refusal");
    assert_eq!(listed(&vault, "ui-4")[0].2, Some(RotationState::Pending), "it can go on later");
    show(&vault, "ui-4").expect("a show is counted by itself");
}

#[test]
fn conditions_hold_for_a_show_too() {
    let rig = Rig::new();
    let vault = rig.vault();
    put(&vault, "ui-1", "x").unwrap();
    let ino = vault.find(&name("ui-1").path()).unwrap();
    let expired = b"2020-01-01T00:00:00Z";
    vault.set_xattr(&Daemon, ino, "user.pinfold.expires", expired, crate::vault::XattrMode::Set).unwrap();
    assert!(matches!(show(&vault, "ui-1"), Err(Fault::Refused(_))));
}

#[test]
fn a_rotation_is_durable_at_each_step_and_says_which_is_valid() {
    use RotationState::{ChangedUnverified, Changing, Pending};
    let rig = Rig::new();
    let vault = rig.vault();
    put(&vault, "ui-1", "old").unwrap();
    assert!(matches!(begin(&vault, "missing", "new"), Err(Fault::NotFound(_))));
    begin(&vault, "ui-1", "new").unwrap();
    drop(vault);

    let vault = rig.vault();
    assert_eq!(listed(&vault, "ui-1"), [("root@ui-1:ssh".into(), 1, Some(Pending))]);
    assert_eq!(show(&vault, "ui-1").unwrap(), "old");
    let next = vault.serve(&root(), PasswordShow { name: name("ui-1"), next: Some(true) }).unwrap();
    assert_eq!((next.content.expose(), next.rotation), (&b"new"[..], Some(Pending)));
    for refused in [
        begin(&vault, "ui-1", "newer"),
        put(&vault, "ui-1", "other").map(|_| ()),
        vault.serve(&root(), PasswordRemove { name: name("ui-1"), purge: None }).map(|_| ()),
        mark(&vault, "ui-1", Changing, ChangedUnverified),
    ] {
        assert!(matches!(&refused, Err(Fault::Refused(why)) if why.contains("pending, the old one")), "{refused:?}");
    }
    mark(&vault, "ui-1", Pending, Changing).unwrap();
    drop(vault);

    let vault = rig.vault();
    assert_eq!(listed(&vault, "ui-1")[0].2, Some(Changing));
    let opened = vault.serve(&root(), RotationOpen { name: name("ui-1") }).unwrap();
    assert_eq!((opened.state, opened.old.expose(), opened.new.expose()), (Changing, &b"old"[..], &b"new"[..]));
    mark(&vault, "ui-1", Changing, ChangedUnverified).unwrap();
    drop(vault);

    let vault = rig.vault();
    assert_eq!(listed(&vault, "ui-1")[0].2, Some(ChangedUnverified));
    fault::NEXT.set(Some(fault::Injected::Error(fault::Point::NewIsCurrent)));
    assert!(end(&vault, "ui-1", Keep::New).is_err());
    drop(vault);

    let vault = rig.vault();
    assert_eq!(listed(&vault, "ui-1"), [("root@ui-1:ssh".into(), 2, Some(ChangedUnverified))]);
    end(&vault, "ui-1", Keep::New).unwrap();
    drop(vault);

    let vault = rig.vault();
    assert_eq!(listed(&vault, "ui-1"), [("root@ui-1:ssh".into(), 2, None)], "no version twice");
    assert_eq!(show(&vault, "ui-1").unwrap(), "new");
    assert!(vault.find(&name("ui-1").next_path()).is_err());
    assert!(
        vault
            .serve(&root(), crate::wire::GetHistory { path: name("ui-1").next_path() })
            .map(|done| done.versions)
            .is_err(),
        "nothing of it is kept under the other name"
    );
    assert!(matches!(end(&vault, "ui-1", Keep::New), Err(Fault::NotFound(_))));
    assert_eq!(
        vault.serve(&root(), crate::wire::GetHistory { path: name("ui-1").path() }).unwrap().versions.len(),
        2,
        "the old one is a version"
    );
}

#[test]
fn a_rotation_that_is_given_up_leaves_the_old_one() {
    let rig = Rig::new();
    let vault = rig.vault();
    put(&vault, "ui-1", "old").unwrap();
    begin(&vault, "ui-1", "new").unwrap();
    end(&vault, "ui-1", Keep::Old).unwrap();
    assert_eq!(listed(&vault, "ui-1"), [("root@ui-1:ssh".into(), 1, None)]);
    assert_eq!(show(&vault, "ui-1").unwrap(), "old");
    let told = rig.logged(&vault, "rotate");
    assert!(told.iter().any(|l| l.contains("the old one is kept, verified; was pending")), "{told:?}");
}

#[test]
fn a_mark_that_nobody_understands_leaves_it_open_which_is_valid() {
    let rig = Rig::new();
    let vault = rig.vault();
    put(&vault, "ui-1", "old").unwrap();
    begin(&vault, "ui-1", "new").unwrap();
    let ino = vault.find(&name("ui-1").next_path()).unwrap();
    vault.set_xattr(&Daemon, ino, "user.rotation", b"2 elsewhere", crate::vault::XattrMode::Set).unwrap();
    assert_eq!(listed(&vault, "ui-1")[0].2, Some(RotationState::Changing));
}

#[test]
fn what_was_put_into_the_folder_by_hand_is_shown_as_open() {
    let rig = Rig::new();
    let vault = rig.vault();
    let path = name("web").path();
    let put = Put { path, uid: None, gid: None, mode: Some(0o640), parents: true, content: secret("x") };
    vault.serve(&root(), put).unwrap();
    let all = vault.serve(&root(), PasswordList { pattern: None }).unwrap().passwords;
    assert!(all[0].open);
    // Two lines would be an old and a new password to a program that reads lines.
    let path = name("web").path();
    let put = Put { path, uid: None, gid: None, mode: None, parents: true, content: secret("x\ny") };
    vault.serve(&root(), put).unwrap();
    assert!(
        matches!(begin(&vault, "web", "new"), Err(Fault::Refused(why)) if why.contains("not stored as a password"))
    );
    assert_eq!(listed(&vault, "web")[0].2, None, "nothing began");
}
