//! What a console does not get, whatever it sends: the folders that pinfold serves from, what lies beside its own folder, and the way back to
//! a host whose console's key was stolen.

use super::*;
use std::collections::BTreeSet;

#[test]
fn what_pinfold_serves_from_is_this_host_s_whatever_a_console_sends() {
    let host = Host::new();
    // Whether or not accounts are looked after.
    let vault = host.vault_with(Settings { credentials: Some(path("credentials")), ..Settings::default() });
    let mut console = Console::join(&vault, "hq", None);
    let mut tree = of(&[("evil/authorized_keys/root", "key"), ("good", "1")]);
    for served in ["ssh", "admins", "passwords", "users", "containers", "credentials"] {
        tree.entry(served, EntryKind::Symlink { target: "evil".into() }, None);
    }
    let bundle = console.send(&host, &tree);
    assert_eq!(take(&vault, &bundle).outcome, ImportOutcome::Refused);
    assert_eq!(shown(&vault, "good"), None);
    let report = take_as(&vault, &bundle, None, Some(true));
    let refused: Vec<&str> = report.refused.iter().map(|r| r.path.as_str()).collect();
    assert_eq!(refused, ["admins", "containers", "credentials", "passwords", "ssh", "users"], "{:?}", report.refused);
    assert!(shown(&vault, "good").is_some() && vault.find(&path("ssh")).is_err());

    // As folders of somebody else's, with something in them.
    let mut tree = of(&[("good", "1")]);
    for at in ["ssh/known_hosts", "credentials/nginx.service/key", "admins/a/k.pub", "passwords/h/s/u", "users/u/x"] {
        tree.file(at, "x");
    }
    for (folder, mode) in [("ssh", 0o777), ("credentials", 0o700)] {
        let entry = tree.entry(folder, EntryKind::Directory, None);
        (entry.owner, entry.group, entry.mode) = ("daemon".into(), "daemon".into(), mode);
        let acl = ["user::rwx", "user:bin:rwx", "group::---", "mask::rwx", "other::---"];
        let acl = acl.map(|text| text.to_owned().try_into().unwrap()).to_vec();
        (entry.acl, entry.default_acl) =
            (Some(NamedAcl::from_entries(acl.clone()).unwrap()), Some(NamedAcl::from_entries(acl).unwrap()));
    }
    let report = take_as(&vault, &console.send(&host, &tree), None, Some(true));
    let refused: BTreeSet<&str> = report.refused.iter().map(|r| r.path.split('/').next().unwrap()).collect();
    assert_eq!(refused.into_iter().collect::<Vec<_>>(), ["admins", "passwords", "users"], "{:?}", report.refused);
    for folder in ["ssh", "credentials"] {
        let node = vault.node(vault.find(&path(folder)).unwrap()).unwrap();
        let meta = &node.meta;
        assert_eq!((meta.uid.0, meta.gid.0, meta.mode, &meta.acl, &meta.default_acl), (0, 0, 0o755, &None, &None));
    }
    assert!(shown(&vault, "ssh/known_hosts").is_some() && shown(&vault, "credentials/nginx.service/key").is_some());
    // No console's: they stay when it sends nothing any more, and when it is left.
    take(&vault, &console.send(&host, &Tree::default()));
    assert!(vault.find(&path("ssh")).is_ok() && shown(&vault, "ssh/known_hosts").is_none());
    vault.serve(&root(), Leave { console: "hq".into(), keep: false }).unwrap();
    assert!(vault.find(&path("ssh")).is_ok());
    let prefixed = Join { console: "x".into(), signer: console.signer.public().to_string(), host: None, prefix: None };
    for prefix in ["admins", "ssh/authorized_keys", ".pinfold/x", "users/u"] {
        let join = Join { prefix: Some(path(prefix)), ..prefixed.clone() };
        assert!(vault.serve(&root(), join).unwrap_err().to_string().contains("pinfold's own"), "{prefix}");
    }
    sound(&vault);
}

#[test]
fn what_an_earlier_version_took_into_such_a_place_goes() {
    let host = Host::new();
    let vault = host.vault_with(Settings { accounts: true, ..Settings::default() });
    let mut console = Console::join(&vault, "hq", None);
    let mut tree = of(&[("evil/authorized_keys/root", "key"), ("a", "1")]);
    take(&vault, &console.send(&host, &tree));
    // As it was taken before the place was kept.
    let (ino, record) = vault.console(&ConsoleName::parse("hq").unwrap()).unwrap();
    let mut record = (*record).clone();
    record.owned.insert(path("ssh"));
    let parent = vault.find(&path("evil")).unwrap();
    let mut node = (*vault.node(vault.find(&path("a")).unwrap()).unwrap()).clone();
    (node.kind, node.target, node.versions, node.last_number) =
        (crate::model::Kind::Symlink, Some("evil".into()), vec![], 0);
    node.name = Some(crate::model::Name::parse(b"ssh").unwrap());
    let mut writer = vault.lock_writer();
    let at = writer.next_ino().unwrap();
    vault.put(&mut writer, at, node).unwrap();
    vault.keep_console(&mut writer, ino, record, None).unwrap();
    drop(writer);
    assert_eq!(vault.read_link(vault.find(&path("ssh")).unwrap()).unwrap(), "evil");
    // It is refused, and does not stay.
    tree.entry("ssh", EntryKind::Symlink { target: "evil".into() }, None);
    let report = take_as(&vault, &console.send(&host, &tree), None, Some(true));
    assert_eq!(paths(&report.removed), ["ssh"]);
    assert!(vault.find(&path("ssh")).is_err() && vault.node(parent).is_ok());
    sound(&vault);
}

#[test]
fn a_confined_console_leaves_its_folder_by_no_link() {
    let host = Host::new();
    let vault = host.vault();
    put(&vault, "site/b/pin", "of this host");
    let mut site = Console::join(&vault, "site", Some("site/a"));
    let mut tree = Tree::default();
    tree.entry("site/a", EntryKind::Symlink { target: "b".into() }, None);
    let report = take(&vault, &site.send(&host, &tree));
    assert_eq!(report.outcome, ImportOutcome::Refused);
    assert!(report.refused[0].reason.contains("directory and nothing else"), "{:?}", report.refused);
    assert!(vault.find(&path("site/a")).is_err());

    let mut tree = of(&[("site/a/d/pin", "1")]);
    let link = |tree: &mut Tree, at: &str, target: &str| {
        tree.entry(at, EntryKind::Symlink { target: target.into() }, None);
    };
    for (at, target) in [("site/a/in", "d/pin"), ("site/a/d/up", "../in"), ("site/a/self", ".")] {
        link(&mut tree, at, target);
    }
    let inside = tree.clone();
    for (n, target) in ["/etc/shadow", "..", "../b/pin", "d/../../b/pin", "./../b", "d/.."].into_iter().enumerate() {
        link(&mut tree, &format!("site/a/out{n}"), target);
    }
    link(&mut tree, "site/a/d/out", "../../b/pin");
    let bundle = site.send(&host, &tree);
    assert_eq!(take(&vault, &bundle).outcome, ImportOutcome::Refused);
    let report = take_as(&vault, &bundle, None, Some(true));
    assert_eq!(report.refused_count, 7, "{:?}", report.refused);
    assert!(report.refused.iter().all(|r| r.reason.contains("leads out of site/a")), "{:?}", report.refused);
    assert_eq!(vault.read_link(vault.find(&path("site/a/d/up")).unwrap()).unwrap(), "../in");
    assert_eq!(take(&vault, &site.send(&host, &inside)).unchanged, 6);

    // One that had the whole tree, and has a folder now: what it may not send does not stay.
    let mut hq = Console::join(&vault, "hq", None);
    let mut tree = of(&[("hq/pin", "1"), ("beside", "2")]);
    tree.entry("hq/out", EntryKind::Symlink { target: "../beside".into() }, None);
    assert_eq!(take(&vault, &hq.send(&host, &tree)).outcome, ImportOutcome::Applied);
    join(&vault, "hq", &hq.signer, Some("hq"));
    let report = take_as(&vault, &hq.send(&host, &tree), None, Some(true));
    assert_eq!(paths(&report.removed), ["hq/out", "beside"]);
    assert!(shown(&vault, "hq/pin").is_some());
    sound(&vault);
}

#[test]
fn a_thief_s_numbers_and_revocations_end_with_a_key_that_somebody_compared() {
    let host = Host::new();
    let vault = host.vault();
    let mut console = Console::join(&vault, "hq", None);
    take(&vault, &console.send(&host, &of(&[("pin", "0")])));
    let old = console.send(&host, &of(&[("pin", "1")]));
    assert_eq!(take(&vault, &old).outcome, ImportOutcome::Applied);
    // The thief has the key that signs now.
    let mut thief = Console { signer: again(&console.signer), ..console };
    thief.serial = u64::MAX - 1;
    assert_eq!(take(&vault, &thief.send(&host, &of(&[("pin", "stolen")]))).code.as_deref(), Some("ahead"));
    thief.serial = Timestamp::now().millis();
    // The next key is no secret: its link is in the bundles that are on their way.
    let next = KeySigner::generate().unwrap();
    for _ in 0..2 {
        let junk = || KeySigner::generate().unwrap().public().fingerprint();
        thief.revoked = (0..1024).map(|_| junk()).collect();
        if !vault.consoles().unwrap()[0].revoked.contains(&next.public().fingerprint().to_string()) {
            thief.revoked[7] = next.public().fingerprint();
        }
        assert_eq!(take(&vault, &thief.send(&host, &of(&[("pin", "stolen")]))).outcome, ImportOutcome::Applied);
    }
    let listed = || vault.consoles().unwrap().remove(0);
    assert_eq!((listed().revoked.len(), listed().serial), (2048, thief.serial));
    // He leads the host to a key of his own.
    let stolen = thief.signer.public().fingerprint();
    let own = KeySigner::generate().unwrap();
    thief.chain.rotate(&ConsoleName::parse("hq").unwrap(), &thief.signer, own.public(), Timestamp::now()).unwrap();
    (thief.signer, thief.revoked) = (own, vec![]);
    assert_eq!(take(&vault, &thief.send(&host, &of(&[("pin", "led away")]))).outcome, ImportOutcome::Applied);
    // Another key, as the console shows it; its numbers and its revocations are taken.
    let mut console = Console { signer: next, chain: Chain::default(), serial: 0, ..thief };
    console.revoked = vec![stolen];
    let joined = join(&vault, "hq", &console.signer, None);
    assert_eq!((joined.again, joined.console.serial, joined.console.revoked), (true, 0, vec![]));
    assert_eq!(take(&vault, &console.send(&host, &of(&[("pin", "2")]))).outcome, ImportOutcome::Applied);
    assert_eq!(shown(&vault, "pin").unwrap(), "2");
    assert_eq!(listed().revoked, [stolen.to_string()]);
    // What matters stays: a key that this host trusted once, and that was revoked.
    let mut third = Console { signer: KeySigner::generate().unwrap(), serial: 0, revoked: vec![], ..console };
    let joined = join(&vault, "hq", &third.signer, None);
    assert_eq!(joined.console.revoked, [stolen.to_string()]);
    assert_eq!(take(&vault, &third.send(&host, &of(&[("pin", "3")]))).outcome, ImportOutcome::Applied);
    assert_eq!(take(&vault, &old).outcome, ImportOutcome::Refused);
    sound(&vault);
}

#[test]
fn a_key_that_comes_back_has_its_numbers_again() {
    let host = Host::new();
    let vault = host.vault();
    let mut first = Console::join(&vault, "hq", None);
    let old = first.send(&host, &of(&[("pin", "old")]));
    take(&vault, &first.send(&host, &of(&[("pin", "new")])));
    let mut second = Console {
        signer: KeySigner::generate().unwrap(),
        chain: Chain::default(),
        recipient: first.recipient.clone(),
        revoked: vec![],
        ..first
    };
    second.serial = 0;
    join(&vault, "hq", &second.signer, None);
    assert_eq!(take(&vault, &second.send(&host, &of(&[("pin", "second")]))).outcome, ImportOutcome::Applied);
    join(&vault, "hq", &first.signer, None);
    assert_eq!(take(&vault, &old).code.as_deref(), Some("older"), "what was taken or passed over is not taken now");
    vault.serve(&root(), Leave { console: "hq".into(), keep: true }).unwrap();
    join(&vault, "hq", &first.signer, None);
    assert_eq!(vault.consoles().unwrap()[0].serial, 2);
}

#[test]
fn more_than_there_may_be_is_refused_as_a_whole() {
    let host = Host::new();
    let vault = host.vault_with_limits(Settings::default(), 20);
    let mut console = Console::join(&vault, "hq", None);
    let mut tree = Tree::default();
    (0..30).for_each(|n| tree.add(&format!("d/{n}"), "x"));
    let bundle = console.send(&host, &tree);
    let report = take(&vault, &bundle);
    assert_eq!(report.outcome, ImportOutcome::Refused);
    assert!(report.refused.iter().all(|r| r.reason.contains("max_secrets")), "{:?}", report.refused);
    assert!(vault.find(&path("d")).is_err(), "nothing of it came");
    assert!(take_as(&vault, &bundle, None, Some(true)).added.count < 20);
    sound(&vault);
}

/// The same key once more.
fn again(signer: &KeySigner) -> KeySigner {
    KeySigner::from_seed(Secret::copy_of(signer.seed().expose()).unwrap()).unwrap()
}
