//! The race of the ways to unlock, with real programs, a real store and a real log: whoever misbehaves harms himself alone,
//! and nothing that was started is left running.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use crate::common;
use pinfold::audit::{Log, Settings, WhenFull};
use pinfold::caller::{Callers, Daemon};
use pinfold::config::{Config, ProgramOptions};
use pinfold::seal::Protection;
use pinfold::secret::Secret;
use pinfold::store::Store;
use pinfold::unlock::{Ended, From, Race, Timing, Verdict, Where, methods};
use pinfold::vault::{Limits, Recovery, UnlockBy, Vault, VaultError, create_store};
use pinfold::wire::UnlockWith;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A recovery recipient nobody has the key of.
const RECIPIENT: &str = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";
/// A variable that everything has which a test's programs start.
const MARK: &str = "PINFOLD_TEST_MARK";

/// Programs that misbehave, each in its own way.
const BAD: [(&str, &str); 8] = [
    ("wrong", "printf 'not the passphrase'"),
    ("hangs", "trap '' TERM INT HUP; while :; do sleep 1000; done"),
    ("floods", "cat /dev/zero"),
    ("silent", "exit 0"),
    ("partial", "printf 'correct horse'; sleep 1000"),
    ("forks", "(trap '' TERM; setsid sleep 1000) & sleep 0.1; exit 5"),
    ("fails", "printf 'correct horse'; exit 1"),
    ("closes", "printf 'correct horse'; exec >&-; sleep 1000"),
];

struct Rig {
    home: tempfile::TempDir,
    config: Config,
    mark: String,
}

impl Rig {
    fn new(programs: &[(&str, &str)]) -> Rig {
        assert!(nix::unistd::geteuid().is_root(), "programs are run as somebody else: run it as root");
        let home = tempfile::tempdir().unwrap();
        let mode = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        mode(home.path(), 0o755);
        let folder = home.path().join("unlock.d");
        std::fs::create_dir(&folder).unwrap();
        mode(&folder, 0o755);
        let mark = format!("{}", home.path().display());
        let mut config = Config { store: home.path().join("store"), ..Config::default() };
        for (name, script) in programs {
            crate::common::program(&folder.join(name), &format!("#!/bin/sh\n{script}\n"));
            let mut options = ProgramOptions::default();
            options.env.insert(MARK.into(), mark.clone());
            config.unlock.program.insert((*name).into(), options);
        }
        config.unlock.programs = vec![folder];
        Rig { home, config, mark }
    }

    /// Its methods: programs, and nothing of this machine's.
    fn race(&self, timing: Timing, judge: &mut dyn FnMut(&str, &UnlockWith) -> Verdict) -> (Ended, Vec<String>) {
        let places = Where { credentials: None, ask_password: "/nonexistent".into() };
        let failed = Arc::new(Mutex::new(Vec::new()));
        let theirs = failed.clone();
        let race =
            Race::new(timing).on_failed(move |name, error| theirs.lock().unwrap().push(format!("{name}: {error}")));
        let ended = race.run(methods(&self.config, &places, From::Start), judge);
        let mut failed = failed.lock().unwrap().clone();
        failed.sort();
        assert_eq!(self.left(), Vec::<String>::new(), "programs are left running");
        (ended, failed)
    }

    /// The command lines of what was started and still runs.
    fn left(&self) -> Vec<String> {
        let mark = format!("{MARK}={}", self.mark);
        let processes = std::fs::read_dir("/proc").unwrap().filter_map(|e| Some(e.ok()?.path()));
        processes
            .filter(|p| {
                std::fs::read(p.join("environ")).is_ok_and(|env| env.split(|b| *b == 0).any(|v| v == mark.as_bytes()))
            })
            .map(|p| String::from_utf8_lossy(&std::fs::read(p.join("cmdline")).unwrap_or_default()).replace('\0', " "))
            .collect()
    }

    /// A store with this passphrase, locked.
    fn vault(&self, passphrase: &str) -> Vault {
        let passphrase = Secret::copy_of(passphrase.as_bytes()).unwrap();
        let recovery = Recovery { recipients: vec![RECIPIENT.into()] };
        create_store(&self.config.store, &Protection::Passphrase(&passphrase), &recovery).unwrap();
        let settings = Settings {
            path: self.home.path().join("audit.log"),
            max_size: 1 << 20,
            when_full: WhenFull::Refuse,
            space: None,
        };
        let limits = Limits {
            max_secret_size: 4096,
            max_secrets: 100,
            max_instances: 10,
            keep_versions: 5,
            allow_reveal: false,
            mountpoint: "/nowhere".into(),
            operator_gid: None,
        };
        let store = Store::open(&self.config.store).unwrap();
        Vault::new(store, Log::open(settings, None).unwrap(), Callers::new().unwrap(), limits)
    }
}

const LONG: Timing = Timing { overall: Duration::from_secs(120), method: Duration::from_secs(120) };

#[test]
fn the_right_answer_wins_over_everybody_who_misbehaves() {
    let mut programs = BAD.to_vec();
    // Late, so that all the others have had their say; with the newline that echo prints.
    programs.push(("right", "sleep 1; echo 'correct horse'"));
    let rig = Rig::new(&programs);
    let vault = rig.vault("correct horse");
    let begun = Instant::now();
    let (ended, failed) =
        rig.race(LONG, &mut |name, answer| match vault.unlock_with(&Daemon, &UnlockBy::from(answer), name) {
            Ok(()) => Verdict::Opens,
            Err(VaultError::WrongKey(_)) => Verdict::Wrong,
            Err(other) => panic!("{other}"),
        });
    assert_eq!(ended, Ended::Won("right".into()));
    assert!(vault.locked_since().is_none());
    // The one that does not hear SIGTERM had its two seconds.
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert_eq!(
        failed,
        [
            "fails: it ended with exit status 1",
            "floods: it gave more than 65536 bytes, that is no key",
            "forks: it ended with exit status 5",
            "silent: it gave no answer",
        ]
    );
    vault.shutdown();
    let log = std::fs::read_to_string(rig.home.path().join("audit.log")).unwrap();
    let unlocks: Vec<&str> = log.lines().filter(|l| l.contains("\"op\":\"unlock\"")).collect();
    let has = |decision: &str, reason: &str| {
        unlocks.iter().any(|l| l.contains(&format!("\"decision\":\"{decision}\"")) && l.contains(reason))
    };
    assert!(has("denied", "\"reason\":\"wrong: the passphrase does not open"), "{log}");
    assert!(has("allowed", "\"reason\":\"right\""), "{log}");
    assert!(!log.contains("correct horse") && !log.contains("not the passphrase"));
}

#[test]
fn each_has_its_time_and_then_nothing_is_left_of_it() {
    let rig = Rig::new(&BAD);
    let mut judged = Vec::new();
    let timing = Timing { method: Duration::from_secs(1), ..LONG };
    let (ended, failed) = rig.race(timing, &mut |name, _| {
        judged.push(name.to_owned());
        Verdict::Wrong
    });
    assert_eq!((ended, judged), (Ended::Lost, vec!["wrong".to_owned()]));
    let late = "it took too long and was stopped";
    for name in ["closes", "hangs", "partial"] {
        assert!(failed.contains(&format!("{name}: {late}")), "{failed:?}");
    }
}

#[test]
fn all_of_it_has_an_end_and_can_be_called_off() {
    let rig = Rig::new(&BAD[1..2]);
    let begun = Instant::now();
    let timing = Timing { overall: Duration::from_millis(300), ..LONG };
    assert_eq!(rig.race(timing, &mut |_, _| Verdict::Wrong).0, Ended::Lost);
    assert!(begun.elapsed() < Duration::from_secs(10));
    let race = Race::new(LONG);
    let canceller = race.canceller();
    let places = Where { credentials: None, ask_password: "/nonexistent".into() };
    let methods = methods(&rig.config, &places, From::Start);
    let running = std::thread::spawn(move || race.run(methods, &mut |_, _| Verdict::Wrong));
    while rig.left().is_empty() {
        std::thread::yield_now();
    }
    canceller.cancel();
    assert_eq!(running.join().unwrap(), Ended::Over);
    assert_eq!(rig.left(), Vec::<String>::new());
}

#[test]
fn a_program_gets_what_mandos_gives_its_plugins_and_nothing_of_root() {
    let script = r#"echo "$0 $*"; id -u; id -G; echo "$MANDOSPLUGINHELPERDIR $CRYPTTAB_SOURCE"
        ls /proc/self/fd | xargs; grep NoNewPrivs /proc/self/status; cat /etc/shadow 2>&1 | head -c 4"#;
    let mut rig = Rig::new(&[("asks", script), ("other", "printf no")]);
    let options = rig.config.unlock.program.get_mut("asks").unwrap();
    options.args = vec!["--connect=[::1]:4".into(), "two words".into()];
    rig.config.unlock.program.get_mut("other").unwrap().disabled = true;
    let mut said = Vec::new();
    rig.race(LONG, &mut |name, answer| {
        let UnlockWith::Passphrase(p) = answer else { panic!("no identity was printed") };
        said.push(format!("{name}\n{}", String::from_utf8(p.expose().to_vec()).unwrap()));
        Verdict::Wrong
    });
    assert_eq!(said.len(), 1, "{said:?}");
    let lines: Vec<&str> = said[0].lines().collect();
    let path = rig.config.unlock.programs[0].join("asks");
    let store = rig.config.store.display();
    assert_eq!(lines[1], format!("{} --connect=[::1]:4 two words", path.display()));
    assert_eq!(lines[2..4], ["65534", "65534"]);
    assert!(lines[4].starts_with("/usr/lib/") && lines[4].ends_with(&format!("/mandos/plugin-helpers {store}")));
    assert_eq!(lines[5], "0 1 2 3", "no descriptor of the daemon's");
    assert_eq!(lines[6], "NoNewPrivs:\t1");
    assert_eq!(lines[7], "cat:", "it cannot read what root can");
}

#[test]
fn no_output_is_an_answer_only_where_that_was_said() {
    let mut rig = Rig::new(&[("silent", "exit 0")]);
    rig.config.unlock.program.get_mut("silent").unwrap().empty_is_answer = true;
    let mut lengths = Vec::new();
    rig.race(LONG, &mut |_, answer| {
        let UnlockWith::Passphrase(p) = answer else { panic!("no identity was printed") };
        lengths.push(p.len());
        Verdict::Wrong
    });
    assert_eq!(lengths, [0]);
}

/// What it costs is looked for where the package is installed (tests/common/package.rs): what is built for tests makes it cheap.
#[test]
fn a_store_made_with_a_passphrase_opens_with_that_alone() {
    let binary = Some(env!("CARGO_BIN_EXE_pinfold").into());
    let mut daemon = common::Daemon::initialised(common::Setup { unlock: false, binary, ..common::Setup::default() });
    std::fs::remove_dir_all(daemon.file("store")).unwrap();
    std::fs::remove_file(daemon.file("recovery.key")).unwrap();
    let [passphrase, recovery] = ["passphrase", "recovery.key"].map(|name| daemon.file(name).display().to_string());
    daemon.cli(&["init", "--passphrase-file", &passphrase, "--recovery-out", &recovery]).ok();
    let identity = std::fs::read(daemon.file("store/identity.age")).unwrap();
    let stanza = String::from_utf8_lossy(&identity).lines().nth(1).unwrap().to_owned();
    assert!(stanza.starts_with("-> scrypt "), "{stanza}");
    daemon.serve();
    daemon.cli_with(&["unlock", "--passphrase-file", "-"], b"another").refused("does not open");
    daemon.cli(&["unlock", "--passphrase-file", &passphrase]).ok();
    daemon.cli_with(&["put", "pin"], b"x").ok();
}
