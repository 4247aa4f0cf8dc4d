//! `pinfold join` and `pinfold import` against a real store behind a real socket: files, stdin, and an inbox into which somebody
//! uploads who means no good.
//!
//! Mounts nothing and makes no accounts. It is run as root: files of others are made.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use crate::common::console::Console;
use pinfold::audit::{Log, Settings as LogSettings, WhenFull};
use pinfold::bundle::ack;
use pinfold::caller::{Callers, Daemon};
use pinfold::config::Config;
use pinfold::control::Server;
use pinfold::model::{ConsoleName, HostName, SecretPath};
use pinfold::seal::Protection;
use pinfold::secret::Secret;
use pinfold::store::Store;
use pinfold::vault::{Limits, Recovery, UnlockBy, Vault, create_store};
use pinfold::wire::{Actor, Reveal, Serve};
use serde_json::Value;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const RECIPIENT: &str = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";
/// The account that uploads: one that every system has.
const UPLOADER: (&str, u32) = ("daemon", 1);

struct Rig {
    vault: Arc<Vault>,
    _server: Server,
    // Last: what writes there ends before it.
    home: tempfile::TempDir,
}

impl Rig {
    fn new(config: &str) -> Rig {
        assert!(nix::unistd::geteuid().is_root(), "files of others are made: run it as root");
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        let recovery = Recovery { recipients: vec![RECIPIENT.into()] };
        create_store(&at("store"), &Protection::Passphrase(&secret("pass")), &recovery).unwrap();
        std::fs::create_dir(at("inbox")).unwrap();
        std::fs::set_permissions(at("inbox"), PermissionsExt::from_mode(0o700)).unwrap();
        chown(at("inbox"), Some(UPLOADER.1), Some(UPLOADER.1)).unwrap();
        std::fs::create_dir(at("acks")).unwrap();
        let text = format!(
            "store = {:?}\ncontrol = {:?}\nmountpoint = {:?}\naudit_log = {:?}\ninbox = {:?}\n[import]\nupload_user = \
             \"{}\"\nack_dir = {:?}\nmax_size = \"1MiB\"\n{config}\n",
            at("store"),
            at("control.sock"),
            at("mnt"),
            at("audit.log"),
            at("inbox"),
            UPLOADER.0,
            at("acks"),
        );
        std::fs::write(at("pinfold.toml"), text).unwrap();
        let config = Config::load(Some(&at("pinfold.toml"))).unwrap();
        let log = LogSettings { path: at("audit.log"), max_size: 1 << 26, when_full: WhenFull::Refuse, space: None };
        let limits = Limits {
            max_secret_size: 1 << 16,
            max_secrets: 10_000,
            max_instances: 10,
            keep_versions: 3,
            allow_reveal: true,
            mountpoint: at("mnt"),
            operator_gid: None,
        };
        let store = Store::open(&at("store")).unwrap();
        let vault = Arc::new(Vault::new(store, Log::open(log, None).unwrap(), Callers::new().unwrap(), limits));
        vault.unlock(&Daemon, &UnlockBy::Passphrase(&secret("pass"))).unwrap();
        let mut server = Server::bind(&config, Arc::clone(&vault) as Arc<dyn pinfold::control::Core>).unwrap();
        server.run().unwrap();
        Rig { home, vault, _server: server }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pinfold"));
        command.arg("--config").arg(self.at("pinfold.toml")).args(args);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    #[track_caller]
    fn run(&self, args: &[&str], code: i32) -> String {
        said(&self.command(args).output().unwrap(), code)
    }

    #[track_caller]
    fn json(&self, args: &[&str], code: i32) -> Value {
        let text = self.run(args, code);
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
    }

    /// Sweeps the inbox; what became of each bundle.
    #[track_caller]
    fn sweep(&self) -> Vec<Value> {
        let text = self.run(&["import", "--inbox", "--json"], 0);
        serde_json::Deserializer::from_str(&text).into_iter().map(Result::unwrap).collect()
    }

    fn shown(&self, at: &str) -> Option<String> {
        let actor = Actor::new(0, 0, std::process::id().cast_signed());
        let content = self
            .vault
            .serve(&actor, Reveal { path: SecretPath::parse(at).unwrap(), version: None })
            .map(|done| done.content);
        content.ok().map(|c| String::from_utf8(c.expose().to_vec()).unwrap())
    }

    /// Puts a file into the inbox as the uploader does.
    fn upload(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let temporary = self.at("inbox").join(format!(".{name}.part"));
        std::fs::write(&temporary, bytes).unwrap();
        chown(&temporary, Some(UPLOADER.1), Some(UPLOADER.1)).unwrap();
        let path = self.at("inbox").join(name);
        std::fs::rename(&temporary, &path).unwrap();
        path
    }

    fn names(&self, folder: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.at(folder)).map(|e| e.flatten().collect::<Vec<_>>()).unwrap_or_default();
        let mut names: Vec<String> = entries.iter().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// Why a file of this name was refused, as it was noted.
    fn reason(&self, name: &str) -> Option<String> {
        let wanted = format!("-{name}.reason");
        let found = self.names("store/refused").into_iter().rev().find(|n| n.ends_with(&wanted))?;
        Some(std::fs::read_to_string(self.at("store/refused").join(found)).unwrap())
    }
}

#[track_caller]
fn said(output: &Output, code: i32) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}{}", String::from_utf8_lossy(&output.stdout));
    for line in stderr.lines() {
        let form = ["pinfold: error: ", "pinfold: hint: ", "pinfold: warning: "].iter().any(|p| line.starts_with(p));
        assert!(form, "{line:?}");
    }
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn secret(text: &str) -> Secret {
    Secret::copy_of(text.as_bytes()).unwrap()
}

impl Rig {
    /// A console that this host has joined.
    fn console(&self) -> Console {
        let mut console = Console::new();
        let key = self.at("hq.pub");
        std::fs::write(&key, format!("{} hq\n", console.signer())).unwrap();
        let joined = self.json(&["join", "hq", "--signer", key.to_str().unwrap(), "--host", "here", "--json"], 0);
        console.knows(joined["line"].as_str().unwrap());
        console
    }
}

#[test]
fn a_bundle_comes_by_file_or_by_stdin() {
    let rig = Rig::new("");
    let console = rig.console();
    let file = rig.at("1.pfb");
    let name = file.to_str().unwrap();
    std::fs::write(&file, console.bundle(1, &[("a", "one"), ("b", "two")])).unwrap();
    let pretended = rig.json(&["import", name, "--pretend", "--json"], 0);
    assert_eq!((&pretended["outcome"], &pretended["added"]["count"]), (&"pretended".into(), &2.into()));
    assert_eq!(rig.shown("a"), None);
    let text = rig.run(&["import", name], 0);
    assert_eq!(text, "bundle 1 of hq: applied: 2 added, 0 changed, 0 removed, 0 unchanged, 0 refused\n+ a\n+ b\n");
    assert_eq!(rig.shown("a").unwrap(), "one");
    let again = rig.json(&["import", name, "--json"], 3);
    assert_eq!((&again["outcome"], &again["code"]), (&"refused".into(), &"replayed".into()));
    let mut child = rig.command(&["import", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&console.bundle(2, &[("a", "three")])).unwrap();
    said(&child.wait_with_output().unwrap(), 0);
    assert_eq!((rig.shown("a").unwrap().as_str(), rig.shown("b")), ("three", None));
    assert_eq!(rig.names("store/incoming"), [] as [&str; 0], "no copy stays");

    // Each way to be no bundle.
    std::fs::write(&file, b"not a bundle at all").unwrap();
    assert_eq!(rig.json(&["import", name, "--json"], 3)["code"], "not-a-bundle");
    File::create(&file).unwrap().set_len(10 << 30).unwrap();
    let begun = Instant::now();
    rig.run(&["import", name], 3);
    assert!(begun.elapsed() < Duration::from_secs(5));
    rig.run(&["import", rig.at("missing").to_str().unwrap()], 6);
    rig.run(&["import", rig.home.path().to_str().unwrap()], 3);
    let link = rig.at("link.pfb");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    rig.run(&["import", link.to_str().unwrap()], 1);

    let listed = rig.json(&["join", "--list", "--json"], 0);
    assert_eq!((&listed[0]["console"], &listed[0]["serial"]), (&"hq".into(), &2.into()));
    let key = console.ack.as_ref().unwrap();
    let bytes = std::fs::read(rig.at("acks/here@hq.ack")).unwrap();
    let said = ack::check(&bytes, key, &ConsoleName::parse("hq").unwrap(), &HostName::parse("here").unwrap()).unwrap();
    assert_eq!((said.serial, said.outcome), (2, ack::AckOutcome::Applied));
    assert_eq!(std::fs::metadata(rig.at("acks/here@hq.ack")).unwrap().mode() & 0o777, 0o644);
    rig.run(&["leave", "hq", "--remove"], 0);
    assert_eq!(rig.shown("a"), None);
    rig.run(&["leave", "hq", "--keep"], 6);
}

#[test]
fn of_what_was_uploaded_the_newest_counts_and_nothing_stays() {
    let rig = Rig::new("");
    let console = rig.console();
    assert_eq!(rig.sweep(), [] as [Value; 0]);
    for serial in [3, 1, 2, 10] {
        rig.upload(&format!("{serial}.pfb"), &console.bundle(serial, &[("a", &serial.to_string())]));
    }
    rig.upload("unrelated.txt", b"stays");
    let done = rig.sweep();
    assert_eq!(done.iter().map(|r| r["serial"].as_u64()).collect::<Vec<_>>(), [Some(10)]);
    assert_eq!(rig.shown("a").unwrap(), "10");
    assert_eq!(rig.names("inbox"), ["unrelated.txt"]);
    assert_eq!(rig.names("store/refused"), [] as [&str; 0], "what is superseded is no refusal");
    // Alone, an old one is one.
    rig.upload("9.pfb", &console.bundle(9, &[("a", "9")]));
    assert_eq!(rig.sweep()[0]["code"], "older");
    assert!(rig.reason("9.pfb").unwrap().contains("older"));
    assert_eq!(rig.shown("a").unwrap(), "10");
    // One entry that cannot be: nothing of it, and the reasons are kept beside it.
    rig.upload("11.pfb", &console.bundle(11, &[(".pinfold", "x"), ("a", "11")]));
    assert_eq!(rig.sweep()[0]["code"], "entries");
    assert!(rig.reason("11.pfb").unwrap().contains(".pinfold: "));
    assert_eq!(rig.names("store/refused").len(), 4, "{:?}", rig.names("store/refused"));
    assert_eq!(rig.shown("a").unwrap(), "10");
}

#[test]
fn whatever_is_no_plain_file_of_the_uploader_s_goes_unread() {
    let rig = Rig::new("");
    let console = rig.console();
    let inbox = rig.at("inbox");
    let good = console.bundle(1, &[("a", "1")]);
    let outside = rig.at("outside.pfb");
    std::fs::write(&outside, &good).unwrap();
    std::os::unix::fs::symlink(&outside, inbox.join("link.pfb")).unwrap();
    std::fs::hard_link(&outside, inbox.join("hard.pfb")).unwrap();
    nix::unistd::mkfifo(&inbox.join("fifo.pfb"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    std::fs::create_dir_all(inbox.join("folder.pfb/deep/er")).unwrap();
    std::fs::write(inbox.join("folder.pfb/deep/er/file"), "x").unwrap();
    std::os::unix::fs::symlink(rig.at("store"), inbox.join("folder.pfb/deep/store")).unwrap();
    std::os::unix::net::UnixListener::bind(inbox.join("socket.pfb")).unwrap();
    let other = rig.upload("other.pfb", &good);
    chown(&other, Some(4711), None).unwrap();
    let sparse = rig.upload("sparse.pfb", b"manifest.json\0");
    let file = File::options().write(true).open(sparse).unwrap();
    file.write_all_at(b"ustar", 257).unwrap();
    file.set_len(10 << 30).unwrap();
    rig.upload("junk.pfb", b"junk");
    rig.upload("empty.pfb", b"");
    rig.upload(".hidden.pfb", &good);
    let strange: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(b"\xff\n.pfb");
    std::fs::write(inbox.join(strange), "x").unwrap();
    let begun = Instant::now();
    assert_eq!(rig.sweep(), [] as [Value; 0]);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    for (name, why) in [
        ("link.pfb", "not a regular file"),
        ("hard.pfb", "more than one name"),
        ("fifo.pfb", "not a regular file"),
        ("folder.pfb", "not a regular file"),
        ("socket.pfb", "not a regular file"),
        ("other.pfb", "belongs neither"),
        ("sparse.pfb", "too large"),
        ("junk.pfb", "does not begin"),
        ("empty.pfb", "does not begin"),
    ] {
        assert!(rig.reason(name).unwrap_or_default().contains(why), "{name}: {:?}", rig.reason(name));
    }
    assert_eq!(rig.names("inbox"), [".hidden.pfb"]);
    assert!(outside.exists() && rig.at("store/FORMAT").exists(), "what was linked to stays");
    assert_eq!(rig.shown("a"), None);
    // The inbox itself.
    std::fs::set_permissions(&inbox, PermissionsExt::from_mode(0o777)).unwrap();
    rig.run(&["import", "--inbox"], 3);
    std::fs::set_permissions(&inbox, PermissionsExt::from_mode(0o700)).unwrap();
    chown(&inbox, Some(4711), None).unwrap();
    rig.run(&["import", "--inbox"], 3);
    std::fs::rename(&inbox, rig.at("moved")).unwrap();
    std::os::unix::fs::symlink(rig.at("moved"), &inbox).unwrap();
    rig.run(&["import", "--inbox"], 1);
    std::fs::remove_file(&inbox).unwrap();
    rig.run(&["import", "--inbox"], 6);
}

#[test]
fn ten_thousand_pieces_of_junk_do_no_harm() {
    let rig = Rig::new("");
    let console = rig.console();
    for n in 0..10_000 {
        let path = rig.at("inbox").join(format!("{}.pfb", 1_000_000 + n));
        std::fs::write(&path, "junk").unwrap();
        chown(&path, Some(UPLOADER.1), None).unwrap();
    }
    rig.upload("5.pfb", &console.bundle(5, &[("a", "5")]));
    let begun = Instant::now();
    let done = rig.sweep();
    let took = begun.elapsed();
    assert_eq!(done.iter().map(|r| r["outcome"].as_str()).collect::<Vec<_>>(), [Some("applied")]);
    assert_eq!(rig.shown("a").unwrap(), "5");
    assert_eq!(rig.names("inbox"), [] as [&str; 0]);
    assert!(rig.names("store/refused").len() <= 100, "{}", rig.names("store/refused").len());
    assert!(took < Duration::from_secs(60), "{took:?}");
    println!("10,000 pieces of junk: {took:?}");
}

/// A connection that was made before the junk was looked at would be hung up on before the bundle behind it comes to its turn.
#[test]
fn junk_alone_needs_no_daemon() {
    let rig = Rig::new("");
    std::fs::remove_file(rig.at("control.sock")).unwrap();
    rig.upload("junk.pfb", b"junk");
    assert_eq!(rig.sweep(), [] as [Value; 0]);
    assert_eq!(rig.names("inbox"), [] as [&str; 0]);
    assert!(rig.reason("junk.pfb").unwrap().contains("does not begin"));
}

#[test]
fn swapping_a_file_under_the_sweep_gains_nothing() {
    let rig = Rig::new("");
    let console = rig.console();
    let inbox = rig.at("inbox");
    let prize = rig.at("prize");
    std::fs::write(&prize, "only root reads this").unwrap();
    std::fs::set_permissions(&prize, PermissionsExt::from_mode(0o600)).unwrap();
    let stop = AtomicBool::new(false);
    let swap = |name: &str, make: &dyn Fn(&Path)| {
        let temporary = inbox.join(".swap");
        let _ = std::fs::remove_file(&temporary);
        make(&temporary);
        let _ = std::fs::rename(&temporary, inbox.join(name));
    };
    let bundles: Vec<Vec<u8>> = (1..=40).map(|n| console.bundle(n, &[("a", "good")])).collect();
    let sweeps = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut n = 0;
            while !stop.load(Ordering::SeqCst) {
                swap("1.pfb", &|to| std::os::unix::fs::symlink(&prize, to).unwrap());
                swap("1.pfb", &|to| {
                    std::fs::write(to, &bundles[n % bundles.len()]).unwrap();
                    let _ = chown(to, Some(UPLOADER.1), None);
                });
                swap("1.pfb", &|to| drop(std::fs::hard_link(&prize, to)));
                swap("1.pfb", &|to| nix::unistd::mkfifo(to, nix::sys::stat::Mode::S_IRWXU).unwrap_or_default());
                n += 1;
            }
        });
        let begun = Instant::now();
        let mut sweeps = 0;
        while begun.elapsed() < Duration::from_secs(6) {
            rig.sweep();
            sweeps += 1;
        }
        stop.store(true, Ordering::SeqCst);
        sweeps
    });
    assert!(sweeps > 0);
    assert_eq!(std::fs::read_to_string(&prize).unwrap(), "only root reads this");
    assert_eq!(std::fs::metadata(&prize).unwrap().uid(), 0);
    for name in rig.names("store/refused") {
        let kept = std::fs::read(rig.at("store/refused").join(&name)).unwrap();
        assert!(!kept.windows(9).any(|w| w == b"only root"), "{name} has what only root reads");
    }
    assert!(rig.shown("a").is_none_or(|a| a == "good"));
    assert_eq!(rig.names("store/incoming"), [] as [&str; 0]);
}

#[test]
fn while_it_is_locked_what_was_uploaded_waits() {
    let rig = Rig::new("");
    let console = rig.console();
    rig.upload("1.pfb", &console.bundle(1, &[("a", "1")]));
    rig.vault.lock(&Daemon).unwrap();
    rig.run(&["import", "--inbox"], 4);
    assert_eq!(rig.names("inbox"), ["1.pfb"]);
    rig.vault.unlock(&Daemon, &UnlockBy::Passphrase(&secret("pass"))).unwrap();
    assert_eq!(rig.sweep()[0]["outcome"], "applied");
    assert_eq!(rig.names("inbox"), [] as [&str; 0]);
}
