//! Imports of real bundles into a real store: what comes, what goes, what is refused, and what a crash leaves.

use super::*;
use crate::audit::{Log, Settings as LogSettings, WhenFull};
use crate::bundle::{
    Admin as BundleAdmin, Chain, Entry, EntryKind, Head, Index, KeySigner, NamedAcl, Plan as Sealing, Sha256Hex,
    Signer, ack,
};
use crate::caller::{Callers, Daemon};
use crate::model::HostName;
use crate::seal::Protection;
use crate::secret::Secret;
use crate::store::Store;
use crate::stream::{Recipient, RecipientUse};
use crate::vault::fault::{Injected, NEXT, Point};
use crate::vault::{Limits, NextIdentity, Recovery, UnlockBy, create_store};
use crate::wire::{AccountState, Actor, Fsck, Import, Join, Joined, Leave, Listed, NoteAccount, Put, Reveal, Serve};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Instant;

mod kept;
mod pairs;

/// Every point of an import, in order.
const ALL: [Point; 7] =
    [Point::Checked, Point::Prepared, Point::Planned, Point::Recorded, Point::Durable, Point::Shown, Point::Told];

const RECIPIENT: &str = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";
/// Says to a child which point it is to be killed at, and where its store is.
const CHILD: &str = "PINFOLD_TEST_IMPORT";

fn secret(text: &str) -> Secret {
    Secret::copy_of(text.as_bytes()).unwrap()
}

fn path(text: &str) -> SecretPath {
    SecretPath::parse(text).unwrap()
}

fn root() -> Actor {
    Actor::new(0, 0, i32::try_from(std::process::id()).unwrap())
}

/// A host's store in a folder of its own.
struct Host {
    home: PathBuf,
    _own: Option<tempfile::TempDir>,
    logs: AtomicU32,
}

impl Host {
    fn new() -> Host {
        let own = tempfile::tempdir().unwrap();
        let host = Host { home: own.path().to_owned(), _own: Some(own), logs: AtomicU32::new(0) };
        let recovery = Recovery { recipients: vec![RECIPIENT.into()] };
        create_store(&host.store(), &Protection::Passphrase(&secret("pass")), &recovery).unwrap();
        std::fs::DirBuilder::new().mode(0o700).create(host.store().join(INCOMING)).unwrap();
        host
    }

    fn at(home: PathBuf) -> Host {
        Host { home, _own: None, logs: AtomicU32::new(1000 + std::process::id()) }
    }

    fn store(&self) -> PathBuf {
        self.home.join("store")
    }

    fn vault_with(&self, settings: Settings) -> Vault {
        self.vault_with_limits(settings, 100_000)
    }

    fn vault_with_limits(&self, settings: Settings, max_secrets: u64) -> Vault {
        let log = self.home.join(format!("audit-{}", self.logs.fetch_add(1, Ordering::SeqCst)));
        let log = LogSettings { path: log, max_size: 1 << 28, when_full: WhenFull::Refuse, space: None };
        let limits = Limits {
            max_secret_size: 1 << 20,
            max_secrets,
            max_instances: 10,
            keep_versions: 3,
            allow_reveal: true,
            mountpoint: "/nowhere".into(),
            operator_gid: None,
        };
        let store = Store::open(&self.store()).unwrap();
        let vault = Vault::new(store, Log::open(log, None).unwrap(), Callers::new().unwrap(), limits);
        vault.with_imports(settings);
        Vault::unlock(&vault, &Daemon, &UnlockBy::Passphrase(&secret("pass"))).unwrap();
        vault
    }

    fn vault(&self) -> Vault {
        self.vault_with(Settings::default())
    }

    /// Puts a file where the daemon looks for it.
    fn arrive(&self, bundle: &[u8]) -> String {
        let name = format!("{}.pfb", self.logs.fetch_add(1, Ordering::SeqCst));
        let to = self.store().join(INCOMING).join(&name);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to).unwrap();
        std::io::Write::write_all(&mut file, bundle).unwrap();
        name
    }
}

/// A console that one host trusts.
struct Console {
    name: &'static str,
    signer: KeySigner,
    chain: Chain,
    serial: u64,
    recipient: String,
    revoked: Vec<crate::bundle::Fingerprint>,
}

/// What a bundle is to have.
#[derive(Default, Clone)]
struct Tree {
    entries: BTreeMap<SecretPath, (Entry, Option<Vec<u8>>)>,
    admins: Vec<BundleAdmin>,
}

impl Tree {
    fn entry(&mut self, at: &str, kind: EntryKind, content: Option<Vec<u8>>) -> &mut Entry {
        let at = path(at);
        for n in 1..at.names().len() {
            let above = SecretPath::from_names(at.names()[..n].to_vec());
            self.entries.entry(above.clone()).or_insert_with(|| (plain(above, EntryKind::Directory, 0o755), None));
        }
        let mode = if kind == EntryKind::Directory { 0o755 } else { 0o640 };
        self.entries.insert(at.clone(), (plain(at.clone(), kind, mode), content));
        &mut self.entries.get_mut(&at).unwrap().0
    }

    fn add(&mut self, at: &str, content: &str) {
        self.file(at, content);
    }

    fn file(&mut self, at: &str, content: &str) -> &mut Entry {
        let sha256 = Sha256Hex(Sha256::digest(content).into());
        let kind = EntryKind::File { size: content.len() as u64, sha256, version: 1 };
        self.entry(at, kind, Some(content.as_bytes().to_vec()))
    }
}

fn plain(at: SecretPath, kind: EntryKind, mode: u16) -> Entry {
    let mtime = Timestamp { secs: 1_700_000_000, nanos: 0 };
    Entry {
        path: at,
        kind,
        owner: "root".into(),
        group: "daemon".into(),
        mode,
        acl: None,
        default_acl: None,
        xattrs: Vec::new(),
        mtime,
    }
}

fn of(files: &[(&str, &str)]) -> Tree {
    let mut tree = Tree::default();
    files.iter().for_each(|(at, content)| tree.add(at, content));
    tree
}

impl Console {
    fn join(vault: &Vault, name: &'static str, prefix: Option<&str>) -> Console {
        let signer = KeySigner::generate().unwrap();
        let joined = join(vault, name, &signer, prefix);
        assert!(!joined.again);
        let recipient = joined.console.recipient;
        Console { name, signer, chain: Chain::default(), serial: 0, recipient, revoked: Vec::new() }
    }

    fn seal(&mut self, tree: &Tree) -> Vec<u8> {
        self.serial += 1;
        let now = Timestamp::now();
        let head = Head {
            console: ConsoleName::parse(self.name).unwrap(),
            host: HostName::parse("here").unwrap(),
            serial: self.serial,
            created: now,
            expires: Timestamp { secs: now.secs + 1000, nanos: 0 },
        };
        let index = Index {
            entries: tree.entries.values().map(|(entry, _)| entry.clone()).collect(),
            admins: tree.admins.clone(),
        };
        let contents: Vec<Option<&Vec<u8>>> = tree.entries.values().map(|(_, content)| content.as_ref()).collect();
        let file = tempfile::tempfile().unwrap();
        let recipients = [Recipient::parse(&self.recipient, RecipientUse::Host).unwrap()];
        let plan =
            Sealing { head: &head, recipients: &recipients, index: &index, chain: &self.chain, revoked: &self.revoked };
        let mut content = |n: usize| Ok(Secret::copy_of(contents[n].unwrap()).unwrap());
        bundle::seal(&file, &plan, &mut content, &self.signer).unwrap();
        let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, 0).unwrap();
        bytes
    }

    fn send(&mut self, host: &Host, tree: &Tree) -> String {
        host.arrive(&self.seal(tree))
    }
}

fn join(vault: &Vault, name: &str, signer: &KeySigner, prefix: Option<&str>) -> Joined {
    let join = Join {
        console: name.into(),
        signer: signer.public().to_string(),
        host: Some("here".into()),
        prefix: prefix.map(path),
    };
    vault.serve(&root(), join).unwrap()
}

fn take(vault: &Vault, file: &str) -> ImportReport {
    take_as(vault, file, None, None)
}

fn take_as(vault: &Vault, file: &str, pretend: Option<bool>, partial: Option<bool>) -> ImportReport {
    vault.serve(&root(), Import { file: file.into(), pretend, partial }).unwrap()
}

fn put(vault: &Vault, at: &str, content: &str) {
    let put = Put { path: path(at), uid: None, gid: None, mode: None, parents: true, content: secret(content) };
    vault.serve(&root(), put).unwrap();
}

fn shown(vault: &Vault, at: &str) -> Option<String> {
    let content = vault.serve(&root(), Reveal { path: path(at), version: None }).map(|done| done.content);
    content.ok().map(|content| String::from_utf8(content.expose().to_vec()).unwrap())
}

fn attr(vault: &Vault, at: &str) -> crate::vault::Attr {
    vault.attr(vault.find(&path(at)).unwrap()).unwrap()
}

fn sound(vault: &Vault) {
    let report = vault.serve(&root(), Fsck { open: true }).unwrap();
    assert_eq!(report.problems, [], "nothing is lost and nothing lies about");
}

fn paths(listed: &Listed) -> Vec<&str> {
    listed.paths.iter().map(String::as_str).collect()
}

fn reasons(report: &ImportReport) -> Vec<(&str, &str)> {
    report.refused.iter().map(|r| (r.path.as_str(), r.reason.as_str())).collect()
}

#[test]
fn what_a_console_has_comes_changes_and_goes() {
    let host = Host::new();
    let vault = host.vault();
    put(&vault, "nut/local", "of this host");
    let mut console = Console::join(&vault, "hq", None);
    let mut tree = of(&[("nut/pin", "one"), ("tls/key", "two")]);
    tree.entry("tls/link", EntryKind::Symlink { target: "key".into() }, None);
    tree.entry("empty", EntryKind::Directory, None).mode = 0o1700;
    let entry = tree.file("tls/guarded", "three");
    entry.xattrs = vec![
        ("user.note".into(), b"x".to_vec()),
        ("user.pinfold.on-change".into(), b"reload:x.service".to_vec()),
        ("user.pinfold.unit".into(), b"x.service".to_vec()),
    ];
    let acl = ["user::rw-", "user:bin:r--", "group::---", "mask::r--", "other::---"];
    let acl = acl.map(|text| text.to_owned().try_into().unwrap()).to_vec();
    entry.acl = Some(NamedAcl::from_entries(acl).unwrap());
    let report = take(&vault, &console.send(&host, &tree));
    assert_eq!((report.outcome, reasons(&report)), (ImportOutcome::Applied, vec![]));
    assert_eq!(
        paths(&report.added),
        ["empty", "nut/pin", "tls", "tls/guarded", "tls/key", "tls/link"],
        "nut was there"
    );
    assert_eq!(shown(&vault, "nut/pin").unwrap(), "one");
    assert_eq!(shown(&vault, "nut/local").unwrap(), "of this host");
    let pin = attr(&vault, "nut/pin");
    assert_eq!((pin.mode, pin.uid, pin.gid, pin.mtime.secs), (0o640, 0, 1, 1_700_000_000));
    assert_eq!(attr(&vault, "empty").mode, 0o1700);
    let guarded = vault.node(vault.find(&path("tls/guarded")).unwrap()).unwrap();
    let names: Vec<&str> = guarded.meta.xattrs.keys().map(String::as_str).collect();
    assert_eq!(names, ["user.note", "user.pinfold.unit"], "what tells units is for the host to allow");
    assert_eq!(guarded.meta.acl.as_ref().unwrap().mode(), 0o640);
    let link = vault.find(&path("tls/link")).unwrap();
    assert_eq!(vault.read_link(link).unwrap(), "key");

    // The same again: no new version of anything.
    let report = take(&vault, &console.send(&host, &tree));
    assert_eq!((report.added.count, report.changed.count, report.removed.count), (0, 0, 0));
    assert_eq!(report.unchanged, 6);
    assert_eq!(vault.current_version(pin.ino).unwrap(), 1);

    // One content, one mode, and what is gone.
    tree.file("nut/pin", "other");
    tree.file("tls/key", "two").mode = 0o600;
    tree.entries.remove(&path("tls/link"));
    tree.entries.remove(&path("tls/guarded"));
    tree.entries.remove(&path("empty"));
    let report = take(&vault, &console.send(&host, &tree));
    assert_eq!(paths(&report.changed), ["nut/pin", "tls/key"]);
    assert_eq!(paths(&report.removed), ["tls/link", "tls/guarded", "empty"]);
    assert_eq!(shown(&vault, "nut/pin").unwrap(), "other");
    assert_eq!(attr(&vault, "nut/pin").ino, pin.ino, "who watches it goes on watching");
    assert_eq!(vault.current_version(pin.ino).unwrap(), 2);
    assert_eq!(vault.current_version(attr(&vault, "tls/key").ino).unwrap(), 1);
    assert_eq!(shown(&vault, "tls/guarded"), None);
    sound(&vault);

    // It comes back with its history.
    tree.file("tls/guarded", "four");
    assert_eq!(paths(&take(&vault, &console.send(&host, &tree)).added), ["tls/guarded"]);
    assert_eq!(vault.current_version(attr(&vault, "tls/guarded").ino).unwrap(), 2);
    // Nothing of the console's, and all of the host's.
    let report = take(&vault, &console.send(&host, &Tree::default()));
    assert_eq!(paths(&report.removed), ["tls/key", "tls/guarded", "tls", "nut/pin"]);
    assert_eq!(shown(&vault, "nut/local").unwrap(), "of this host");
    sound(&vault);
    drop(vault);
    let vault = host.vault();
    assert_eq!(shown(&vault, "nut/local").unwrap(), "of this host");
    assert_eq!((shown(&vault, "nut/pin"), shown(&vault, "tls/key")), (None, None));
    assert_eq!(vault.consoles().unwrap()[0].serial, console.serial);
    sound(&vault);
}

#[test]
fn one_bad_entry_refuses_all_unless_it_is_asked_for_the_rest() {
    let host = Host::new();
    let vault = host.vault();
    put(&vault, "mine", "of this host");
    put(&vault, "file", "in the way");
    let mut console = Console::join(&vault, "hq", None);
    let mut tree = of(&[("good", "1"), ("mine", "2"), ("dir/x", "3"), ("file/below", "4"), ("cert.pem", "no cert")]);
    tree.file("nobody", "5").owner = "no-such-user".into();
    tree.file("nogroup", "6").group = "no-such-group".into();
    tree.file("badxattr", "7").xattrs = vec![("user.pinfold.expires".into(), b"soon".to_vec())];
    tree.file("containers/web/pin", "8");
    tree.file(".pinfold/ready", "9");
    let acl = ["user::rw-", "user:no-such-user:r--", "group::---", "mask::r--", "other::---"];
    let acl = acl.map(|text| text.to_owned().try_into().unwrap()).to_vec();
    tree.file("badacl", "10").acl = Some(NamedAcl::from_entries(acl).unwrap());
    let bundle = console.send(&host, &tree);
    let report = take(&vault, &bundle);
    assert_eq!((report.outcome, report.code.as_deref()), (ImportOutcome::Refused, Some("entries")));
    let said: Vec<String> = reasons(&report).iter().map(|(p, why)| format!("{p}: {why}")).collect();
    for (at, why) in [
        ("mine", "clashes with a secret of this host"),
        ("nobody", "there is no user no-such-user"),
        ("nogroup", "there is no group no-such-group"),
        ("badacl", "there is no user no-such-user"),
        ("badxattr", "a time in UTC"),
        ("cert.pem", "refused"),
        ("file", "clashes"),
        ("file/below", "its folder is refused"),
        (".pinfold", "pinfold's own"),
        (".pinfold/ready", "pinfold's own"),
        ("containers/web", "no container's scope web"),
        ("containers/web/pin", "its folder is refused"),
    ] {
        assert!(said.iter().any(|s| s.starts_with(&format!("{at}: ")) && s.contains(why)), "{at}: {why}: {said:#?}");
    }
    assert_eq!(report.refused_count, 12, "{said:#?}");
    assert_eq!(shown(&vault, "good"), None, "all or nothing");
    assert_eq!(vault.consoles().unwrap()[0].outcome.as_deref(), Some("refused"));
    // Not used up: once what was wrong is mended, or the rest is asked for, the same bundle is taken.
    let report = take_as(&vault, &bundle, None, Some(true));
    assert_eq!((report.outcome, report.refused_count), (ImportOutcome::Partial, 12));
    assert_eq!(paths(&report.added), ["dir", "dir/x", "good"]);
    assert_eq!(shown(&vault, "mine").unwrap(), "of this host");
    assert_eq!(shown(&vault, "good").unwrap(), "1");
    sound(&vault);
}

#[test]
fn pretending_changes_nothing() {
    let host = Host::new();
    let vault = host.vault();
    let mut console = Console::join(&vault, "hq", None);
    take(&vault, &console.send(&host, &of(&[("a", "1"), ("b", "2")])));
    let before = vault.consoles().unwrap();
    let bundle = console.send(&host, &of(&[("a", "other"), ("c/d", "3")]));
    let report = take_as(&vault, &bundle, Some(true), None);
    assert_eq!(report.outcome, ImportOutcome::Pretended);
    assert_eq!(
        (paths(&report.added), paths(&report.changed), paths(&report.removed)),
        (vec!["c", "c/d"], vec!["a"], vec!["b"])
    );
    assert_eq!(report.ack, None);
    assert_eq!((shown(&vault, "a").unwrap().as_str(), shown(&vault, "c/d")), ("1", None));
    assert_eq!(vault.consoles().unwrap(), before);
    assert_eq!(take(&vault, &bundle).outcome, ImportOutcome::Applied);
    assert_eq!(shown(&vault, "c/d").unwrap(), "3");
}

#[test]
fn a_console_is_confined_and_never_touches_another_s() {
    let host = Host::new();
    let vault = host.vault();
    let mut site = Console::join(&vault, "site", Some("site/a"));
    let mut hq = Console::join(&vault, "hq", None);
    let report = take_as(
        &vault,
        &site.send(&host, &of(&[("site/a/pin", "1"), ("site/b/pin", "2"), ("pin", "3")])),
        None,
        Some(true),
    );
    assert_eq!(paths(&report.added), ["site", "site/a", "site/a/pin"]);
    let said = reasons(&report);
    assert_eq!(said.iter().map(|(p, _)| *p).collect::<Vec<_>>(), ["pin", "site/b", "site/b/pin"]);
    assert!(said.iter().all(|(p, why)| *p == "site/b/pin" || why.contains("confined")), "{said:?}");
    let report = take_as(&vault, &hq.send(&host, &of(&[("site/a/pin", "x"), ("site/a/other", "y")])), None, Some(true));
    assert_eq!(paths(&report.added), ["site/a/other"]);
    assert_eq!(reasons(&report), [("site/a/pin", "it clashes with a secret of the console site")]);
    // What one no longer lists leaves what the other has.
    let report = take(&vault, &site.send(&host, &Tree::default()));
    assert_eq!(paths(&report.removed), ["site/a/pin"]);
    assert_eq!(shown(&vault, "site/a/other").unwrap(), "y");
    assert_eq!(vault.serve(&root(), Leave { console: "hq".into(), keep: false }).unwrap().removed, 1);
    assert_eq!(shown(&vault, "site/a/other"), None);
    sound(&vault);
}

#[test]
fn leaving_keeps_or_takes_what_came() {
    let host = Host::new();
    let vault = host.vault();
    let mut one = Console::join(&vault, "one", None);
    let mut two = Console::join(&vault, "two", None);
    take(&vault, &one.send(&host, &of(&[("a/1", "1")])));
    take(&vault, &two.send(&host, &of(&[("b/2", "2")])));
    let left = vault.serve(&root(), Leave { console: "one".into(), keep: true }).unwrap();
    assert_eq!((left.kept, left.removed), (2, 0));
    let left = vault.serve(&root(), Leave { console: "two".into(), keep: false }).unwrap();
    assert_eq!((left.kept, left.removed), (0, 2));
    assert_eq!((shown(&vault, "a/1").unwrap().as_str(), shown(&vault, "b/2")), ("1", None));
    let late = one.send(&host, &of(&[("a/1", "late")]));
    let nobody = vault.serve(&root(), Import { file: late, pretend: None, partial: None });
    assert!(nobody.unwrap_err().to_string().contains("no console was joined"));
    drop(vault);
    let vault = host.vault();
    assert_eq!(vault.consoles().unwrap(), []);
    sound(&vault);
}

#[test]
fn trust_is_kept_over_restarts_and_rekeying_and_goes_forward_only() {
    let host = Host::new();
    let vault = host.vault();
    let mut console = Console::join(&vault, "hq", None);
    let old = console.send(&host, &of(&[("pin", "1")]));
    take(&vault, &old);
    let first = KeySigner::from_seed(Secret::copy_of(console.signer.seed().expose()).unwrap()).unwrap();
    for n in 0..3 {
        let next = KeySigner::generate().unwrap();
        let name = ConsoleName::parse("hq").unwrap();
        console.chain.rotate(&name, &console.signer, next.public(), Timestamp::now()).unwrap();
        console.signer = next;
        if n == 1 {
            console.revoked.push(first.public().fingerprint());
        }
    }
    assert_eq!(take(&vault, &old).code.as_deref(), Some("replayed"));
    // The only key that is trusted was revoked: not even a right chain leads on, and that is remembered.
    let rotated = console.send(&host, &of(&[("pin", "2")]));
    let report = take(&vault, &rotated);
    assert_eq!(report.code.as_deref(), Some("trust-revoked"));
    assert!(report.reason.unwrap().contains("pinfold join hq"));
    assert_eq!(vault.consoles().unwrap()[0].revoked, [first.public().fingerprint().to_string()]);
    let again = Join { console: "hq".into(), signer: first.public().to_string(), host: None, prefix: None };
    assert!(vault.serve(&root(), again).unwrap_err().to_string().contains("revoked"));
    let again = join(&vault, "hq", &console.signer, None);
    assert!(again.again);
    assert_eq!(again.console.recipient, console.recipient, "what it seals to stays");
    vault
        .rekey(&Daemon, &UnlockBy::Passphrase(&secret("pass")), &NextIdentity::Passphrase(&secret("pass")), true)
        .unwrap();
    assert_eq!(take(&vault, &rotated).outcome, ImportOutcome::Applied);
    drop(vault);
    let vault = host.vault();
    assert_eq!(shown(&vault, "pin").unwrap(), "2");
    assert_eq!(take(&vault, &rotated).code.as_deref(), Some("replayed"));
    assert_eq!(take(&vault, &console.send(&host, &of(&[("pin", "3")]))).outcome, ImportOutcome::Applied);
    // The thief of the first key.
    let thief = Console { signer: first, chain: Chain::default(), serial: 1000, revoked: Vec::new(), ..console };
    let mut thief = thief;
    let report = take(&vault, &thief.send(&host, &of(&[("pin", "stolen")])));
    assert_eq!(report.outcome, ImportOutcome::Refused);
    assert_eq!(shown(&vault, "pin").unwrap(), "3");
}

#[test]
fn what_was_done_is_acknowledged_with_the_host_s_key() {
    let host = Host::new();
    let vault = host.vault();
    put(&vault, "mine", "x");
    let mut console = Console::join(&vault, "hq", None);
    let info = vault.consoles().unwrap().remove(0);
    let key = bundle::PublicKey::parse(&info.ack).unwrap();
    let said = |report: &ImportReport| {
        let bytes = std::fs::read(report.ack.as_ref().unwrap()).unwrap();
        let names = (ConsoleName::parse("hq").unwrap(), HostName::parse("here").unwrap());
        let ack = ack::check(&bytes, &key, &names.0, &names.1).unwrap();
        (ack.serial, ack.outcome, ack.reason)
    };
    assert_eq!(said(&take(&vault, &console.send(&host, &of(&[("a", "1")])))), (1, ack::AckOutcome::Applied, None));
    let bundle = console.send(&host, &of(&[("a", "1"), ("mine", "2")]));
    let (serial, outcome, reason) = said(&take(&vault, &bundle));
    assert_eq!((serial, outcome), (2, ack::AckOutcome::Refused));
    assert!(reason.unwrap().contains("1 of its entries"));
    let (_, outcome, reason) = said(&take_as(&vault, &bundle, None, Some(true)));
    assert_eq!(outcome, ack::AckOutcome::Partial);
    assert!(reason.unwrap().contains("mine"));
}

#[test]
fn the_copy_must_be_root_s_own() {
    let host = Host::new();
    let vault = host.vault();
    let mut console = Console::join(&vault, "hq", None);
    let good = console.send(&host, &of(&[("a", "1")]));
    let folder = host.store().join(INCOMING);
    std::os::unix::fs::symlink(folder.join(&good), folder.join("link.pfb")).unwrap();
    nix::unistd::mkfifo(&folder.join("fifo.pfb"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    let try_it = |file: &str| {
        let import = Import { file: file.into(), pretend: None, partial: None };
        vault.serve(&root(), import).unwrap_err().to_string()
    };
    let begun = Instant::now();
    for file in ["link.pfb", "fifo.pfb", "../store/manifest", "", ".", "..", "a/b", "missing"] {
        assert!(!try_it(file).is_empty(), "{file}");
    }
    std::fs::hard_link(folder.join(&good), folder.join("second.pfb")).unwrap();
    assert!(try_it(&good).contains("no copy"));
    std::fs::remove_file(folder.join("second.pfb")).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert_eq!(take(&vault, &good).outcome, ImportOutcome::Applied);
    // Larger than it may be, and nothing of it is read.
    let sparse = File::create(folder.join("sparse.pfb")).unwrap();
    sparse.set_len(10 << 30).unwrap();
    std::fs::set_permissions(folder.join("sparse.pfb"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let begun = Instant::now();
    assert_eq!(take(&vault, "sparse.pfb").code.as_deref(), Some("too-large"));
    assert!(begun.elapsed() < Duration::from_secs(2));
}

#[test]
fn admins_get_their_keys_served_and_nobody_else_s_name() {
    let host = Host::new();
    let vault = host.vault_with(Settings { accounts: true, ..Settings::default() });
    let mut console = Console::join(&vault, "hq", None);
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPdDn0bxVvVyzWxGOYzE8w3mLGLhxsMDzqOlZdF1uXJH one";
    let admin = |user: &str, prefix: Option<&str>| BundleAdmin {
        user: user.into(),
        prefix: prefix.map(Into::into),
        keys: vec![key.into()],
        comment: "A".into(),
    };
    let mut tree = of(&[("ssh/known", "x"), ("ssh/authorized_keys/root", key)]);
    tree.admins = vec![admin("Bad", None), admin("daemon", None), admin("pf-alice", None), admin("root", None)];
    let report = take_as(&vault, &console.send(&host, &tree), None, Some(true));
    let refused: Vec<&str> = report.refused.iter().map(|r| r.path.as_str()).collect();
    let expected = ["ssh/authorized_keys", "ssh/authorized_keys/root", "account Bad", "account daemon", "account root"];
    assert_eq!(refused, expected, "{:?}", report.refused);
    assert_eq!(shown(&vault, "ssh/authorized_keys/pf-alice"), Some(format!("{key}\n")), "root's, and public");
    assert_eq!(shown(&vault, "ssh/authorized_keys/root"), None);
    let attr = attr(&vault, "ssh/authorized_keys/pf-alice");
    assert_eq!((attr.mode, attr.uid, attr.gid), (0o644, 0, 0));
    let accounts = Vault::accounts(&vault).unwrap();
    assert_eq!(accounts.len(), 1);
    assert_eq!((accounts[0].user.as_str(), accounts[0].wanted, accounts[0].made), ("pf-alice", true, false));
    let note = |user: &str, state, uid| {
        let note = NoteAccount { console: "hq".into(), user: user.into(), state, uid };
        vault.serve(&root(), note)
    };
    note("pf-bob", AccountState::Making, None).unwrap_err();
    note("root", AccountState::Making, None).unwrap_err();
    note("pf-alice", AccountState::Made, Some(4711)).unwrap_err();
    note("pf-alice", AccountState::Locked, None).unwrap_err();
    note("pf-alice", AccountState::Making, None).unwrap();
    let given = Vault::accounts(&vault).unwrap()[0].uid.unwrap();
    assert!(given >= 70_000, "{given}");
    note("pf-alice", AccountState::Made, Some(0)).unwrap_err();
    note("pf-alice", AccountState::Made, Some(4711)).unwrap_err();
    note("pf-alice", AccountState::Made, Some(given)).unwrap();
    // A confined console names nobody; one that names nobody any more leaves the account to be removed.
    tree.admins = Vec::new();
    let report = take_as(&vault, &console.send(&host, &tree), None, Some(true));
    assert_eq!(paths(&report.removed), ["ssh/authorized_keys/pf-alice"]);
    let accounts = Vault::accounts(&vault).unwrap();
    assert_eq!((accounts[0].wanted, accounts[0].made, accounts[0].uid), (false, true, Some(given)));
    let leave = Leave { console: "hq".into(), keep: false };
    assert!(vault.serve(&root(), leave).unwrap_err().to_string().contains("accounts"));
    note("pf-alice", AccountState::Locked, None).unwrap();
    let kept = Vault::accounts(&vault).unwrap();
    assert_eq!((kept[0].wanted, kept[0].made, kept[0].locked, kept[0].uid), (false, true, true, Some(given)));
    // The next one gets another uid, whatever became of the first account; its own comes back with its name.
    tree.admins = vec![admin("pf-bob", None)];
    take_as(&vault, &console.send(&host, &tree), None, Some(true));
    note("pf-bob", AccountState::Making, None).unwrap();
    let uid_of = |vault: &Vault, user: &str| {
        Vault::accounts(vault).unwrap().into_iter().find(|a| a.user == user).and_then(|a| a.uid)
    };
    assert!(uid_of(&vault, "pf-bob").unwrap() > given);
    note("pf-bob", AccountState::Gone, None).unwrap();
    drop(vault);
    let vault = host.vault_with(Settings { accounts: true, ..Settings::default() });
    vault
        .rekey(&Daemon, &UnlockBy::Passphrase(&secret("pass")), &NextIdentity::Passphrase(&secret("pass")), true)
        .unwrap();
    let note = |user: &str, state, uid| {
        let note = NoteAccount { console: "hq".into(), user: user.into(), state, uid };
        vault.serve(&root(), note)
    };
    tree.admins = vec![admin("pf-alice", None), admin("pf-carl", None)];
    take_as(&vault, &console.send(&host, &tree), None, Some(true));
    note("pf-carl", AccountState::Making, None).unwrap();
    assert!(
        uid_of(&vault, "pf-carl").unwrap() > given + 1,
        "also after a restart, and though bob never got an account"
    );
    let alice = Vault::accounts(&vault).unwrap().remove(0);
    assert_eq!((alice.wanted, alice.locked, alice.uid), (true, true, Some(given)));
    note("pf-alice", AccountState::Making, None).unwrap();
    assert_eq!(uid_of(&vault, "pf-alice"), Some(given));
    // Once it is gone for good, its uid is nobody's.
    note("pf-alice", AccountState::Gone, None).unwrap();
    note("pf-alice", AccountState::Making, None).unwrap();
    assert!(uid_of(&vault, "pf-alice").unwrap() > given + 2);
    for user in ["pf-alice", "pf-carl"] {
        note(user, AccountState::Locked, None).unwrap();
    }
    vault.serve(&root(), Leave { console: "hq".into(), keep: false }).unwrap();
    assert_eq!(Vault::accounts(&vault).unwrap(), []);
    sound(&vault);
}

#[test]
fn a_reader_has_all_of_a_bundle_or_nothing_of_it() {
    let host = Host::new();
    let vault = host.vault();
    let mut console = Console::join(&vault, "hq", None);
    let names: Vec<String> = (0..40).map(|n| format!("d{}/f{n}", n % 4)).collect();
    let all = |round: usize| {
        let mut tree = Tree::default();
        names.iter().for_each(|name| tree.add(name, &format!("{round:04}")));
        tree
    };
    take(&vault, &console.send(&host, &all(0)));
    let bundles: Vec<String> = (1..12).map(|round| console.send(&host, &all(round))).collect();
    let done = AtomicBool::new(false);
    let inos: Vec<Ino> = names.iter().map(|name| vault.find(&path(name)).unwrap()).collect();
    std::thread::scope(|scope| {
        let reader = || {
            let mut rounds = 0;
            while !done.load(Ordering::SeqCst) {
                // One after the other: none is older than the one before it.
                let mut newest = String::new();
                for ino in &inos {
                    let content = vault.open_read(&Daemon, *ino).unwrap().content;
                    let text = String::from_utf8(content.expose().to_vec()).unwrap();
                    assert!(text >= newest, "after {newest} came {text}");
                    newest = text;
                }
                // At one moment all are of one round.
                let versions: Vec<u64> = vault
                    .with_tree(|t| inos.iter().map(|i| t.get(*i).unwrap().current().unwrap().number.0).collect())
                    .unwrap();
                assert!(versions.windows(2).all(|w| w[0] == w[1]), "{versions:?}");
                rounds += 1;
            }
            assert!(rounds > 0);
        };
        let readers = [scope.spawn(reader), scope.spawn(reader)];
        for bundle in &bundles {
            assert_eq!(take(&vault, bundle).changed.count, 40);
        }
        done.store(true, Ordering::SeqCst);
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    });
    sound(&vault);
}

#[test]
fn a_fault_before_the_transaction_leaves_everything_as_it_was() {
    let host = Host::new();
    let vault = host.vault();
    let mut console = Console::join(&vault, "hq", None);
    take(&vault, &console.send(&host, &of(&[("a", "1"), ("b", "2")])));
    let bundle = console.send(&host, &of(&[("a", "other"), ("c", "3")]));
    for point in &ALL[..4] {
        NEXT.set(Some(Injected::Error(*point)));
        let import = Import { file: bundle.clone(), pretend: None, partial: None };
        assert!(vault.serve(&root(), import).is_err(), "{point:?}");
        assert_eq!((shown(&vault, "a").unwrap().as_str(), shown(&vault, "c")), ("1", None), "{point:?}");
        assert_eq!(vault.consoles().unwrap()[0].serial, 1);
    }
    // The store's own transaction fails.
    crate::store::NEXT_FAULT.set(Some(crate::store::FaultPoint::Appended));
    let import = Import { file: bundle.clone(), pretend: None, partial: None };
    assert!(vault.serve(&root(), import).is_err());
    assert_eq!((shown(&vault, "a").unwrap().as_str(), shown(&vault, "c")), ("1", None));
    put(&vault, "unrelated", "goes on");
    assert_eq!(take(&vault, &bundle).outcome, ImportOutcome::Applied);
    assert_eq!((shown(&vault, "a").unwrap().as_str(), shown(&vault, "b")), ("other", None));
    sound(&vault);
}

#[test]
fn a_console_that_could_not_be_noted_is_not_trusted_later() {
    let host = Host::new();
    let vault = host.vault();
    let signer = KeySigner::generate().unwrap();
    let asked = || Join { console: "hq".into(), signer: signer.public().to_string(), host: None, prefix: None };
    crate::store::NEXT_FAULT.set(Some(crate::store::FaultPoint::Append));
    assert!(vault.serve(&root(), asked()).is_err() && crate::store::NEXT_FAULT.take().is_none());
    // What comes next carries nothing of it along.
    put(&vault, "unrelated", "goes on");
    vault.sync().unwrap();
    assert!(vault.consoles().unwrap().is_empty());
    drop(vault);
    let vault = host.vault();
    assert!(vault.consoles().unwrap().is_empty());
    vault.serve(&root(), asked()).unwrap();
    sound(&vault);
}

#[test]
fn units_and_published_keys_hear_of_what_came() {
    let host = Host::new();
    let vault = host.vault_with(Settings { on_change: true, ..Settings::default() });
    let (told, changes) = std::sync::mpsc::channel();
    vault.notify_units(told);
    let mut console = Console::join(&vault, "hq", None);
    let mut tree = of(&[("a", "1"), ("b", "1")]);
    tree.file("a", "1").xattrs = vec![("user.pinfold.on-change".into(), b"reload:x.service".to_vec())];
    tree.file("b", "1").xattrs = vec![("user.pinfold.publish".into(), b"to=0".to_vec())];
    let report = take(&vault, &console.send(&host, &tree));
    assert_eq!(reasons(&report), []);
    let a = vault.find(&path("a")).unwrap();
    assert_eq!(changes.try_iter().map(|t| t.ino).collect::<Vec<_>>(), [a]);
    let b = vault.find(&path("b")).unwrap();
    assert!(vault.with_tree(|t| t.all_published()).unwrap().contains(&b));
    // Nobody is told of what did not change.
    take(&vault, &console.send(&host, &tree));
    assert_eq!(changes.try_iter().count(), 0);
    tree.file("a", "2").xattrs = vec![("user.pinfold.on-change".into(), b"reload:x.service".to_vec())];
    take(&vault, &console.send(&host, &tree));
    assert_eq!(changes.try_iter().map(|t| t.ino).collect::<Vec<_>>(), [a]);
    // What the host itself says of units stays where a bundle may not.
    drop(vault);
    let vault = host.vault();
    take(&vault, &console.send(&host, &of(&[("a", "3")])));
    assert!(vault.get_xattr(a, "user.pinfold.on-change").is_ok());
}

/// Not a test: what [`a_kill_at_any_point_leaves_all_or_nothing`] runs to be killed.
#[test]
#[ignore = "it is run by another test, and killed"]
fn the_child_that_is_killed() {
    let Ok(told) = std::env::var(CHILD) else { return };
    let mut words = told.split(' ');
    let (home, file, at) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
    let vault = Host::at(home.into()).vault();
    let point = at.parse::<usize>().ok().and_then(|at| ALL.get(at));
    NEXT.set(point.map(|point| Injected::Kill(*point)));
    println!("importing");
    take(&vault, file);
    println!("imported");
}

fn child(host: &Host, file: &str, at: &str) -> std::process::Child {
    std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "vault::import::tests::the_child_that_is_killed", "--ignored", "--nocapture"])
        .env(CHILD, format!("{} {file} {at}", host.home.display()))
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap()
}

/// What is there is what was before, or all of what came.
fn all_or_nothing(host: &Host, serial: u64, count: usize) -> bool {
    let vault = host.vault();
    let came = vault.consoles().unwrap()[0].serial == serial;
    let want = if came { Some("new".to_owned()) } else { None };
    assert_eq!(shown(&vault, "old"), if came { None } else { Some("old".into()) });
    for n in 0..count {
        assert_eq!(shown(&vault, &format!("d/{n}")), want, "{n}, serial {serial} taken: {came}");
    }
    sound(&vault);
    came
}

#[test]
fn a_kill_at_any_point_leaves_all_or_nothing() {
    for (n, point) in ALL.iter().enumerate() {
        let host = Host::new();
        let vault = host.vault();
        let mut console = Console::join(&vault, "hq", None);
        take(&vault, &console.send(&host, &of(&[("old", "old")])));
        let mut tree = Tree::default();
        (0..50).for_each(|n| tree.add(&format!("d/{n}"), "new"));
        let bundle = console.send(&host, &tree);
        drop(vault);
        let out = child(&host, &bundle, &n.to_string()).wait_with_output().unwrap();
        let signal = std::os::unix::process::ExitStatusExt::signal(&out.status);
        assert_eq!(signal, Some(libc::SIGKILL), "{point:?}: {}", String::from_utf8_lossy(&out.stdout));
        let came = all_or_nothing(&host, 2, 50);
        assert_eq!(came, n >= 4, "{point:?}: what was not durable is not there, what was is");
        // Whatever became of it, the next bundle is taken.
        let vault = host.vault();
        assert_eq!(take(&vault, &console.send(&host, &of(&[("next", "3")]))).outcome, ImportOutcome::Applied);
    }
}

#[test]
fn a_kill_at_any_time_leaves_all_or_nothing() {
    let mut came = 0;
    for round in 0u64..12 {
        let host = Host::new();
        let vault = host.vault();
        let mut console = Console::join(&vault, "hq", None);
        take(&vault, &console.send(&host, &of(&[("old", "old")])));
        let mut tree = Tree::default();
        (0..400).for_each(|n| tree.add(&format!("d/{n}"), "new"));
        let bundle = console.send(&host, &tree);
        drop(vault);
        let mut child = child(&host, &bundle, "-");
        let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while !line.contains("importing") {
            line.clear();
            assert!(std::io::BufRead::read_line(&mut out, &mut line).unwrap() > 0, "it does not begin");
        }
        std::thread::sleep(Duration::from_millis(round * 30));
        let _ = child.kill();
        child.wait().unwrap();
        came += u64::from(all_or_nothing(&host, 2, 400));
    }
    println!("{came} of 12 had come when they were killed");
}

#[test]
#[ignore = "a measurement: run it with --release --nocapture"]
fn ten_thousand_secrets() {
    let host = Host::new();
    let vault = host.vault();
    let mut console = Console::join(&vault, "hq", None);
    let mut tree = Tree::default();
    (0..10_000).for_each(|n| tree.add(&format!("d{}/secret-{n}", n % 100), &format!("{n:0>500}")));
    let bundle = console.send(&host, &tree);
    let begun = Instant::now();
    let report = take(&vault, &bundle);
    println!("10,000 new secrets: {:?}, {}", begun.elapsed(), report.added.count);
    let bundle = console.send(&host, &tree);
    let begun = Instant::now();
    let report = take(&vault, &bundle);
    println!("the same again: {:?}, {} unchanged", begun.elapsed(), report.unchanged);
    (0..10_000).for_each(|n| tree.add(&format!("d{}/secret-{n}", n % 100), &format!("{n:1>500}")));
    let bundle = console.send(&host, &tree);
    let begun = Instant::now();
    let report = take(&vault, &bundle);
    println!("all changed: {:?}, {} changed", begun.elapsed(), report.changed.count);
    sound(&vault);
}
