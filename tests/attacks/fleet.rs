//! A console, or whoever took its key, against a host: logins, folders it does not have, numbers and revocations that keep the rightful
//! console out; and an admin who was removed against the one who comes after.
//!
//! Where a login is the attack, a real sshd with StrictModes is what lets it in or not. Owns its accounts, homes and servers, and
//! takes them away again.

use crate::common::console::{Console, HOST, NAME, Parcel};
use crate::common::sshd::{Login, Sshd};
use crate::common::{Daemon, Out, Setup, User, sh, unshared_uid};
use pinfold::bundle::Admin;
use pinfold::model::Timestamp;
use serde_json::Value;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// A host that joined a console.
struct Host {
    daemon: Daemon,
    console: Console,
    serial: u64,
}

impl Host {
    fn new(config: &str, join: &[&str]) -> Host {
        // sshd walks up from a file with keys: every folder on the way is to be root's, and /tmp is not.
        let daemon = Daemon::with(Setup {
            config: config.into(),
            binary: Some(env!("CARGO_BIN_EXE_pinfold").into()),
            base: Some("/run".into()),
            ..Setup::default()
        });
        let mut console = Console::new();
        let signer = console.signer();
        let args = [&["join", NAME, "--signer", &signer, "--host", HOST, "--json"], join].concat();
        let joined = daemon.json(&args);
        console.knows(joined["line"].as_str().expect("the policy's line"));
        Host { daemon, console, serial: 0 }
    }

    /// `pinfold import`, of the next number.
    fn import(&mut self, parcel: &Parcel, args: &[&str]) -> Out {
        self.serial += 1;
        let bundle = self.console.pack(self.serial, parcel, Duration::ZERO);
        self.import_bundle(&bundle, args)
    }

    fn import_bundle(&self, bundle: &[u8], args: &[&str]) -> Out {
        let file = self.daemon.file("bundle.pfb");
        std::fs::write(&file, bundle).expect("the folder is ours");
        self.daemon.cli(&[&["import", file.to_str().expect("ASCII")], args].concat())
    }

    /// What `join --list` says of the console.
    fn trust(&self) -> Value {
        self.daemon.json(&["join", "--list", "--json"])[0].clone()
    }

    /// Owner, group and mode of what is at a path of the tree, and whether it is a directory.
    fn stat(&self, path: &str) -> Option<(u32, u32, u32, bool)> {
        let meta = sh(&format!("stat -c '%u %g %a %F' {}", self.daemon.path(path)));
        let text = meta.text();
        let mut words = text.split_whitespace();
        let mut number = |radix| u32::from_str_radix(words.next()?, radix).ok();
        Some((number(10)?, number(10)?, number(8)?, text.trim().ends_with("directory")))
    }
}

/// A key of the console's choice for root, below a folder of its own, and `ssh` as a link to that folder: sshd follows it, and everything on
/// the way is root's.
#[test]
fn a_link_where_keys_are_served_from_lets_nobody_in_as_root() {
    for accounts in ["", "[accounts]\ngroup = \"pinfold-none\"\n"] {
        let mut sshd = Sshd::start(Login::Shell("unused"));
        let mut host = Host::new(accounts, &[]);
        sshd.read_keys_from(&host.daemon.path("ssh/authorized_keys/%u"));
        let mut parcel = Parcel::default();
        parcel.link("ssh", "evil");
        for key in ["evil/authorized_keys/root", "evil/root"] {
            parcel.file(key, &format!("{}\n", sshd.public("user"))).mode = 0o644;
        }
        let login = || sshd.login("root", "user", "id -un");
        host.import(&parcel, &[]).refused("entries");
        login().refused("Permission denied");
        host.import(&parcel, &["--partial"]).ok();
        assert!(host.stat("evil/authorized_keys/root").is_some(), "the rest of it came");
        login().refused("Permission denied");
        // The folder below, and the file itself.
        for at in ["ssh/authorized_keys", "ssh/authorized_keys/root"] {
            let mut parcel = parcel.clone();
            parcel.folder("ssh");
            parcel.link(at, if at.ends_with("root") { "../../evil/root" } else { "../evil/authorized_keys" });
            host.import(&parcel, &["--partial"]).ok();
            login().refused("Permission denied");
        }
        let mut direct = Parcel::default();
        direct.file("ssh/authorized_keys/root", &format!("{}\n", sshd.public("user"))).mode = 0o644;
        host.import(&direct, &[]).refused("entries");
        login().refused("Permission denied");
        // Not for want of a way in: what root puts there is read.
        let keys = host.daemon.path("ssh/authorized_keys");
        let key = sshd.public("user");
        sh(&format!(
            "mkdir -p {keys} && echo '{key}' > {keys}/root && chmod 755 {keys}/.. {keys} && chmod 644 {keys}/root"
        ))
        .ok();
        assert_eq!(login().ok().text(), "root\n");
        host.daemon.cli(&["fsck"]).ok();
    }
}

/// `ssh` as a folder of somebody who may then put something else in its place.
#[test]
fn what_is_served_by_path_stays_a_directory_of_root_s() {
    let mut host = Host::new("", &[]);
    let mut parcel = Parcel::default();
    parcel.file("ssh/known_hosts", "x");
    let folder = parcel.folder("ssh");
    (folder.owner, folder.mode) = ("www-data".into(), 0o777);
    host.import(&parcel, &[]).ok();
    assert_eq!(host.stat("ssh"), Some((0, 0, 0o755, true)));
    let ssh = host.daemon.path("ssh");
    User::named("www-data")
        .sh(&format!("mv {ssh} {ssh}.old || ln -s /tmp {ssh}/authorized_keys"))
        .refused("Permission denied");
    for at in ["ssh", "admins", "passwords", "containers", "users", "credentials", "ssh/authorized_keys"] {
        for link in [true, false] {
            let mut parcel = Parcel::default();
            if link {
                parcel.link(at, "/tmp")
            } else {
                parcel.file(at, "x")
            };
            let refused = host.import(&parcel, &["--json"]);
            assert_eq!(refused.code, 3, "{at}: {}", refused.text());
            assert!(host.stat(at).is_none_or(|(uid, _, _, directory)| uid == 0 && directory), "{at}");
        }
    }
    // Where the daemon looks for the keys and passwords of people, a console puts nothing at all.
    for at in ["admins/ann/desk.pub", "passwords/db/ssh/root", "users/ann/x"] {
        let mut parcel = Parcel::default();
        parcel.file(at, "x");
        host.import(&parcel, &[]).refused("entries");
    }
    host.import(&Parcel::default(), &[]).ok();
    assert_eq!(host.stat("ssh"), Some((0, 0, 0o755, true)), "it is no console's, and stays");
}

/// Takes away what a test made of accounts, also when it fails.
struct Accounts {
    first_uid: u32,
    prefix: String,
    group: String,
    home: PathBuf,
}

impl Accounts {
    fn new() -> Accounts {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let tag = format!("{}{count}", std::process::id());
        Accounts {
            // Two at once that begin with the same would give the same one, and end each other's sessions.
            first_uid: unshared_uid(700 + 10 * count),
            prefix: format!("pf{tag}-"),
            group: format!("pfg{tag}"),
            home: format!("/run/pinfold-home-{tag}").into(),
        }
    }

    fn config(&self, more: &str) -> String {
        let (group, home) = (&self.group, &self.home);
        format!(
            "[accounts]\ngroup = {group:?}\nhome = {home:?}\nshell = \"/bin/bash\"\nend_sessions = true\n\
             first_uid = {}\n{more}\n",
            self.first_uid
        )
    }

    fn named(&self, user: &str) -> String {
        format!("{}{user}", self.prefix)
    }

    /// passwd(5)'s fields of an account.
    fn passwd(&self, user: &str) -> Option<Vec<String>> {
        let all = std::fs::read_to_string("/etc/passwd").expect("it is there");
        let name = self.named(user);
        let line = all.lines().find(|line| line.split(':').next() == Some(&name))?;
        Some(line.split(':').map(str::to_owned).collect())
    }

    fn uid(&self, user: &str) -> u32 {
        self.passwd(user).and_then(|fields| fields[2].parse().ok()).unwrap_or_else(|| panic!("{user} has no account"))
    }

    fn admin(&self, user: &str, key: &str) -> Admin {
        let (prefix, comment) = (Some(self.prefix.clone()), "on call".into());
        Admin { user: user.into(), prefix, keys: vec![key.to_owned()], comment }
    }
}

impl Drop for Accounts {
    fn drop(&mut self) {
        let all = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let ours = all.lines().filter_map(|line| line.split(':').next()).filter(|name| name.starts_with(&self.prefix));
        for name in ours {
            let _ = Command::new("userdel").arg("-f").arg(name).stderr(Stdio::null()).status();
        }
        let _ = Command::new("groupdel").arg(&self.group).stderr(Stdio::null()).status();
        let _ = std::fs::remove_dir_all(&self.home);
    }
}

/// sshd as many have it, which reads the home's keys as well as the tree's. What ann left in her home, and her uid, get her nowhere once she is
/// gone, and neither does what she left run as bob.
#[test]
fn what_a_removed_admin_left_neither_logs_in_nor_runs_as_the_next() {
    let accounts = Accounts::new();
    let mut sshd = Sshd::start(Login::Shell("unused"));
    let mut host = Host::new(&accounts.config(""), &[]);
    sshd.read_keys_from(&format!(".ssh/authorized_keys {}", host.daemon.path("ssh/authorized_keys/%u")));
    let (anns, bobs) = (sshd.public("other_user"), sshd.public("user"));
    let with = |admins: &[Admin]| Parcel { admins: admins.to_vec(), ..Parcel::default() };
    let imported = host.import(&with(&[accounts.admin("ann", &anns)]), &[]).ok();
    assert_eq!(imported.stderr, "", "useradd has nothing to say about the uid");
    let ann = accounts.named("ann");
    assert_eq!(sshd.login(&ann, "other_user", "id -un").ok().text(), format!("{ann}\n"));
    let marker = host.daemon.file("ran");
    std::fs::write(&marker, "").expect("the folder is ours");
    sh(&format!("chmod 666 {}", marker.display())).ok();
    // In her home, and wherever else the group lets her write.
    let leave = format!(
        "for h in ~ {0} {0}/{1}bob; do mkdir -p $h/.ssh; echo \"{anns}\" > $h/.ssh/authorized_keys; chmod 700 $h/.ssh; \
         echo \"id -un >> {2}\" > $h/.profile; done; true",
        accounts.home.display(),
        accounts.prefix,
        marker.display()
    );
    sshd.login(&ann, "other_user", &leave).ok();
    let former = accounts.uid("ann");

    // She is gone, and bob comes.
    host.import(&with(&[accounts.admin("bob", &bobs)]), &[]).ok();
    sshd.login(&ann, "other_user", "id -un").refused("Permission denied");
    let bob = accounts.named("bob");
    assert_ne!(accounts.uid("bob"), former, "her uid is nobody else's");
    assert_eq!(sshd.login(&bob, "user", "id -un").ok().text(), format!("{bob}\n"));
    sshd.login(&bob, "other_user", "id -un").refused("Permission denied");
    let ran = std::fs::read_to_string(&marker).expect("it is ours");
    assert!(!ran.contains(&bob), "her profile ran as bob: {ran}");

    // Hers is kept, and locked.
    let locked = accounts.passwd("ann").expect("it is kept");
    assert_eq!((locked[2].as_str(), locked[6].as_str()), (former.to_string().as_str(), "/usr/sbin/nologin"));
    assert!(sh(&format!("getent shadow {ann}")).text().contains(":!"));
    let listed = host.daemon.json(&["accounts", "ls", "--json"]);
    let of =
        |user: &str| listed.as_array().and_then(|all| all.iter().find(|a| a["user"] == accounts.named(user)).cloned());
    let (ann_now, bob_now) = (of("ann").expect("ann"), of("bob").expect("bob"));
    assert_eq!(
        (&ann_now["locked"], &ann_now["wanted"], &bob_now["locked"]),
        (&true.into(), &false.into(), &false.into())
    );
    for home in [accounts.home.join(&bob), accounts.home.join(&ann)] {
        let meta = std::fs::symlink_metadata(&home).expect("a home");
        assert_eq!(meta.mode() & 0o7777, 0o700, "{}", home.display());
    }
    let meta = std::fs::symlink_metadata(&accounts.home).expect("the folder of homes");
    assert_eq!((meta.uid(), meta.mode() & 0o7777), (0, 0o755));

    // However the accounts went, and over a restart.
    let last = accounts.uid("bob");
    sh(&format!("userdel {ann}; userdel {bob}")).ok();
    host.daemon.restart();
    host.import(&with(&[accounts.admin("carl", &bobs)]), &[]).ok();
    assert!(accounts.uid("carl") > last, "the uid of an account that root removed is not given either");
    // One who comes back has what was theirs.
    host.import(&with(&[]), &[]).ok();
    sshd.login(&accounts.named("carl"), "user", "id -un").refused("Permission denied");
    let before = accounts.uid("carl");
    host.import(&with(&[accounts.admin("carl", &bobs)]), &[]).ok();
    assert_eq!(accounts.uid("carl"), before);
    sshd.login(&accounts.named("carl"), "user", "id -un").ok();
    // Left, no account of the console's logs in; and a console of the same name is not taken for it.
    host.daemon.cli(&["leave", NAME, "--remove"]).ok();
    sshd.login(&accounts.named("carl"), "user", "id -un").refused("Permission denied");
    assert_eq!(accounts.uid("carl"), before);
    let again = host.console.signer();
    let joined = host.daemon.json(&["join", NAME, "--signer", &again, "--host", HOST, "--json"]);
    host.console.knows(joined["line"].as_str().expect("the policy's line"));
    host.import(&with(&[accounts.admin("carl", &bobs)]), &[]).refused("entries");
}

/// A name that nobody has when the bundle comes, and somebody of this host a moment later.
#[test]
fn a_name_that_somebody_takes_meanwhile_is_served_no_key() {
    let accounts = Accounts::new();
    let mut host = Host::new(&accounts.config(""), &[]);
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPdDn0bxVvVyzWxGOYzE8w3mLGLhxsMDzqOlZdF1uXJH ann";
    let parcel = Parcel { admins: vec![accounts.admin("ann", key)], ..Parcel::default() };
    host.import(&parcel, &[]).quiet();
    let name = accounts.named("ann");
    let served = format!("ssh/authorized_keys/{name}");
    assert!(host.stat(&served).is_some());
    sh(&format!("userdel {name} && useradd --no-create-home --comment local {name}")).ok();
    host.daemon.cli(&["accounts", "apply"]).refused("not made by pinfold");
    assert_eq!(host.stat(&served), None, "the console's key would log in as somebody else");
    assert_eq!(accounts.passwd("ann").expect("it is there")[4], "local", "it is left alone");
    host.import(&parcel, &[]).refused("entries");
    assert_eq!(host.stat(&served), None);
}

/// The home that all share: root's, unless the admin of the host wants keymgr's, and then doctor says what follows.
#[test]
fn a_shared_home_is_root_s_and_one_that_all_write_is_told_of() {
    for (homes, mode) in [("shared", 0o750), ("writable", 0o2770)] {
        let accounts = Accounts::new();
        let mut host = Host::new(&accounts.config(&format!("homes = {homes:?}")), &[]);
        let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPdDn0bxVvVyzWxGOYzE8w3mLGLhxsMDzqOlZdF1uXJH ann";
        let parcel = Parcel { admins: vec![accounts.admin("ann", key)], ..Parcel::default() };
        host.import(&parcel, &[]).ok();
        let meta = std::fs::symlink_metadata(&accounts.home).expect("the home");
        assert_eq!((meta.uid(), meta.mode() & 0o7777), (0, mode), "{homes}");
        let passwd = accounts.passwd("ann").expect("an account");
        assert_eq!(Path::new(&passwd[5]), accounts.home);
        let ann = User { uid: accounts.uid("ann"), gid: passwd[3].parse().expect("a number"), groups: &[] };
        let wrote = ann.sh(&format!("cd {} && mkdir .ssh && touch .profile", accounts.home.display()));
        assert_eq!(wrote.code == 0, homes == "writable", "{}", wrote.stderr);
        let told = host.daemon.cli(&["doctor"]).text();
        let line =
            told.lines().find(|line| line.contains("homes of admins")).expect("doctor looks at homes").to_owned();
        assert_eq!(line.contains("runs, and logs in, as the others"), homes == "writable", "{line}");
    }
}

/// A console that has one folder: the folder itself as a link, and links in it that lead elsewhere.
#[test]
fn a_confined_console_stays_in_its_folder() {
    let mut host = Host::new("[accounts]\ngroup = \"pinfold-none\"\n", &["--prefix", "site/a"]);
    let tree = host.daemon.root().to_owned();
    let tree = tree.display();
    sh(&format!("mkdir -p {tree}/site/b && echo theirs > {tree}/site/b/pin && chmod 711 {tree}/site {tree}/site/b"))
        .ok();
    let mut parcel = Parcel::default();
    parcel.link("site/a", "b");
    host.import(&parcel, &[]).refused("entries");
    host.import(&parcel, &["--partial"]).ok();
    assert_eq!(host.stat("site/a"), None);
    for (at, target) in [
        ("site/a/out", "/etc/shadow"),
        ("site/a/out", "../b/pin"),
        ("site/a/d/out", "../../b/pin"),
        ("site/a/d/out", "../d/../../b/pin"),
        // Through a link that is there first: `hop` is `d/e`, and its `..` is `d`.
        ("site/a/out", "hop/../../b/pin"),
    ] {
        let mut parcel = Parcel::default();
        parcel.file("site/a/d/e/pin", "mine");
        parcel.link("site/a/hop", "d/e");
        parcel.link(at, target);
        host.import(&parcel, &[]).refused("entries");
        host.import(&parcel, &["--partial"]).ok();
        assert_eq!(host.stat(at), None, "{at} -> {target}");
        assert_eq!(sh(&format!("cat {tree}/site/a/hop/pin")).quiet(), "mine");
    }
    let mut sideways = Parcel::default();
    sideways.file("site/ab/pin", "x");
    sideways.file("pin", "x");
    let admins = vec![Admin { user: "ann".into(), prefix: None, keys: vec![], comment: String::new() }];
    for parcel in [sideways, Parcel { admins, ..Parcel::default() }] {
        host.import(&parcel, &[]).refused("entries");
        host.import(&parcel, &["--partial"]).ok();
    }
    assert_eq!((host.stat("site/ab"), host.stat("pin"), host.stat("ssh")), (None, None, None));
    assert_eq!(host.daemon.json(&["accounts", "ls", "--json"]), serde_json::json!([]));
    assert_eq!(sh(&format!("cat {tree}/site/b/pin")).quiet(), "theirs\n");
}

/// Whoever had the key for a while used up the numbers, and filled what the host remembers of revocations.
#[test]
fn a_thief_does_not_keep_the_console_out() {
    let mut host = Host::new("", &[]);
    let mut parcel = Parcel::default();
    parcel.file("pin", "0").mode = 0o644;
    let clock = || Timestamp::now().millis();
    host.serial = clock() - 1;
    host.import(&parcel, &[]).ok();
    let taken = host.serial;
    for serial in [u64::MAX, u64::MAX - 1, clock() + 24 * 3_600_000] {
        let bundle = host.console.pack(serial, &parcel, Duration::ZERO);
        host.import_bundle(&bundle, &[]).refused("ahead of this host's clock");
    }
    assert_eq!(host.trust()["serial"], taken);
    for _ in 0..2 {
        host.console.revoked = (0..1024).map(|_| Console::new().fingerprint()).collect();
        host.import(&parcel, &[]).ok();
    }
    assert_eq!(host.trust()["revoked"].as_array().map(Vec::len), Some(2048));

    // The way back: another key, that somebody compared.
    let stolen = std::mem::replace(&mut host.console, Console::new());
    host.console = stolen.with_another_key();
    host.console.revoked = vec![stolen.fingerprint()];
    let key = host.console.signer();
    host.daemon.cli(&["join", NAME, "--signer", &key]).ok();
    parcel.file("pin", "rightful").mode = 0o644;
    host.import(&parcel, &[]).ok();
    assert_eq!(sh(&format!("cat {}", host.daemon.path("pin"))).quiet(), "rightful");
    let trust = host.trust();
    assert_eq!(trust["revoked"], serde_json::json!([stolen.fingerprint().to_string()]), "what mattered stays");
    let forged = stolen.pack(host.serial + 1, &parcel, Duration::ZERO);
    host.import_bundle(&forged, &[]).refused("was revoked");
    let stolen = stolen.signer();
    host.daemon.cli(&["join", NAME, "--signer", &stolen]).refused("revoked");
}

/// A clock that is wrong, here or there: nothing is taken that should not be, it is said which way it differs, and nothing is left of it
/// afterwards.
#[test]
fn a_wrong_clock_refuses_and_leaves_nothing_behind() {
    let mut host = Host::new("", &[]);
    let mut parcel = Parcel::default();
    parcel.file("pin", "1").mode = 0o644;
    let clock = || Timestamp::now().millis();
    host.serial = clock();
    host.import(&parcel, &[]).ok();
    let serial = host.serial;
    // The console's clock is ahead, or this host's is behind: which of the two, nobody can say here.
    let day = Duration::from_secs(86_400);
    let ahead = host.console.pack(clock() + 86_400_000, &parcel, day);
    host.import_bundle(&ahead, &[]).refused("dated in the future");
    // Its clock was put right, and its numbers were not.
    let bundle = host.console.pack(clock() + 86_400_000, &parcel, Duration::ZERO);
    host.import_bundle(&bundle, &[]).refused("ahead of this host's clock");
    // The console's clock is behind, or this host's ahead: its bundles are over before they are here, or older than the last.
    let file = host.daemon.file("late.pfb");
    std::fs::write(&file, host.console.pack_at(clock(), &parcel, Timestamp { secs: 1_700_000_000, nanos: 0 }))
        .expect("ours");
    host.daemon.cli(&["import", file.to_str().expect("ASCII")]).refused("expired");
    let bundle = host.console.pack(serial - 1000, &parcel, Duration::ZERO);
    host.import_bundle(&bundle, &[]).refused("older than the last one");
    assert_eq!(host.trust()["serial"], serial, "none of it was taken");
    host.import(&parcel, &[]).ok();
}

/// Names that a terminal, a log or a path would be torn by.
#[test]
fn hostile_names_are_refused_or_shown_escaped() {
    let mut host = Host::new("", &[]);
    let mut parcel = Parcel::default();
    for name in ["new\nline", "es\u{1b}[31mc", "rtl\u{202e}x", "-rf", "a b"] {
        parcel.file(&format!("odd/{name}"), "x");
    }
    parcel.file(".pinfold/ready", "x");
    parcel.file("containers/undeclared/pin", "x");
    parcel.file("mine/x", "x").owner = "no-such-user".into();
    parcel.file("numeric/x", "x").owner = "0".into();
    sh(&format!("echo local > {}", host.daemon.path("local"))).ok();
    parcel.file("local", "x");
    let out = host.import(&parcel, &["--partial"]).ok();
    for what in [&out.text(), &out.stderr] {
        assert!(!what.contains(['\u{1b}', '\u{202e}']) && !what.contains("new\nline"), "{what:?}");
    }
    for refused in [".pinfold/ready", "containers/undeclared", "mine/x", "numeric/x", "local"] {
        assert!(out.text().contains(&format!("! {refused}: ")), "{refused}: {}", out.text());
    }
    assert_eq!(sh(&format!("cat {}", host.daemon.path("local"))).quiet(), "local\n");
    let log = host.daemon.cli(&["log"]).ok().text();
    assert!(!log.contains(['\u{1b}', '\u{202e}']), "{log}");
    // A file below a link: a bundle's own index has no room for it, and what is there already is not walked through.
    let mut links = Parcel::default();
    links.link("door", "/etc");
    host.import(&links, &[]).ok();
    let mut below = Parcel::default();
    below.file("door/passwd", "x");
    host.import(&below, &["--partial"]).ok();
    assert!(std::fs::read_to_string("/etc/passwd").expect("it is there").contains("root:"));
    host.daemon.cli(&["fsck"]).ok();
}

/// A second console that has the first one's name, or signs for it.
#[test]
fn one_console_does_not_speak_for_another() {
    let mut host = Host::new("", &[]);
    let mut parcel = Parcel::default();
    parcel.file("pin", "1");
    host.import(&parcel, &[]).ok();
    let other = Console::new();
    let key = other.signer();
    let joined = host.daemon.json(&["join", "other", "--signer", &key, "--host", HOST, "--json"]);
    let mut other = other;
    other.knows(joined["line"].as_str().expect("the policy's line"));
    // Its bundles say that they are hq's.
    host.import_bundle(&other.pack(host.serial + 1, &parcel, Duration::ZERO), &[]).refused("it is signed by");
    let serial = host.serial;
    let empty = Parcel::default();
    host.import_bundle(&host.console.with_another_key().pack(serial + 1, &empty, Duration::ZERO), &[])
        .refused("signed by");
    assert_eq!(host.trust()["serial"], serial);
    assert!(host.stat("pin").is_some());
}
