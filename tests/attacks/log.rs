//! The audit log as a weapon: to stop the service, to hide in, to be rid of; and what becomes of it on a full disk and under
//! a clock that jumps.
//!
//! Owns small filesystems for the log, unmounted when a test fails too.

use crate::common::{ALICE, BOB, Daemon, Out, Setup, User, sh, wait_for};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(20);

/// The source of a program of these attacks.
fn program(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/attacks/programs").join(name)
}

fn daemon(config: &str) -> Daemon {
    serving(Setup { config: config.into(), ..Setup::default() })
}

fn serving(setup: Setup) -> Daemon {
    Daemon::with(Setup { binary: Some(env!("CARGO_BIN_EXE_pinfold").into()), ..setup })
}

/// Enrols a secret of this user's alone.
#[track_caller]
fn enrol(daemon: &Daemon, path: &str, owner: User) {
    let to = daemon.path(path);
    sh(&format!("echo content of {path} > {to} && chown {0}:{0} {to} && chmod 600 {to} && sync {to}", owner.uid))
        .quiet();
}

/// A program of `programs`, run as this user in copy, since the sources may lie where they cannot go.
fn attack(daemon: &Daemon, user: User, name: &str, args: &str) -> Out {
    let copy = daemon.file(name);
    std::fs::copy(program(name), &copy).expect("the program's source");
    sh(&format!("chmod 755 {}", copy.display())).quiet();
    user.sh(&format!("exec /usr/bin/python3 {} {args}", copy.display()))
}

/// The numbers in a program's last line.
fn numbers(out: &Out) -> Vec<u64> {
    let text = out.text();
    text.lines().last().unwrap_or_default().split(' ').filter_map(|n| n.parse().ok()).collect()
}

/// For how many events the lines stand that fit.
fn events(lines: &[Value], fits: impl Fn(&Value) -> bool) -> u64 {
    lines.iter().filter(|l| fits(l)).map(|l| l["count"].as_u64().unwrap_or(1)).sum()
}

/// A small filesystem, in a folder of its own.
struct Disk(TempDir);

impl Disk {
    fn new(size: &str) -> Disk {
        let dir = TempDir::new().expect("a temporary folder");
        let options = format!("size={size},mode=0700");
        mount(Some("tmpfs"), dir.path(), Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))
            .expect("a tmpfs can be mounted: this test needs root");
        Disk(dir)
    }

    fn log(&self) -> PathBuf {
        self.0.path().join("audit.log")
    }

    /// Takes some of the room.
    fn put(&self, bytes: usize) {
        std::fs::write(self.0.path().join("ballast"), vec![0; bytes]).expect("there is room");
    }

    /// Takes all the room there is.
    fn fill(&self) {
        let ballast = self.0.path().join("ballast");
        let _ = sh(&format!("cat /dev/zero >> {}", ballast.display()));
    }

    fn used(&self) -> u64 {
        let of = nix::sys::statvfs::statvfs(self.0.path()).expect("it is mounted");
        (of.blocks() - of.blocks_free()) * of.fragment_size()
    }

    fn make_room(&self) {
        std::fs::remove_file(self.0.path().join("ballast")).expect("it was filled");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = umount2(self.0.path(), MntFlags::MNT_DETACH);
    }
}

#[test]
fn opening_a_secret_without_end_is_two_lines_a_second() {
    let daemon = daemon("");
    enrol(&daemon, "hers", ALICE);
    let out = attack(&daemon, ALICE, "opens.py", &format!("3 {}", daemon.path("hers"))).ok();
    let [done, failed] = numbers(&out)[..] else { panic!("{}", out.text()) };
    assert_eq!(failed, 0);
    let hers = |l: &Value| l["op"] == "open" && l["uid"] == ALICE.uid && l["path"] == "hers";
    // The sum of the last second comes at its end.
    wait_for("the last sum", PATIENCE, || (events(&daemon.audit(), hers) >= done).then_some(()));
    let lines: Vec<Value> = daemon.audit().into_iter().filter(hers).collect();
    assert_eq!(events(&lines, hers), done, "each open is counted, once");
    assert!(lines.len() <= 10, "{} lines for {done} opens in 3 seconds", lines.len());
    assert!(lines[0]["count"].is_null(), "the first has a line of its own: {}", lines[0]);
    daemon.cli(&["log", "--verify"]).ok();
}

#[test]
fn opening_to_write_is_on_record_also_when_nothing_is_written_and_is_two_lines_a_second() {
    let daemon = daemon("");
    enrol(&daemon, "hers", ALICE);
    let path = daemon.path("hers");
    let begun = Instant::now();
    let program = "import os, sys; [os.close(os.open(sys.argv[1], os.O_WRONLY)) for _ in range(500)]";
    ALICE.sh(&format!("exec /usr/bin/python3 -c '{program}' {path}")).ok();
    let hers = |l: &Value| l["op"] == "open" && l["uid"] == ALICE.uid && l["path"] == "hers";
    wait_for("the last sum", PATIENCE, || (events(&daemon.audit(), hers) >= 500).then_some(()));
    let lines: Vec<Value> = daemon.audit().into_iter().filter(hers).collect();
    assert_eq!(events(&lines, hers), 500);
    assert!(lines.len() as u64 <= 4 + 2 * begun.elapsed().as_secs(), "{} lines", lines.len());
    assert_eq!(lines[0]["reason"], "owner, to write", "{}", lines[0]);
    assert_eq!(daemon.versions("hers").len(), 1, "nothing was committed");
    // With a line for what is read as well, one is enough; and who may not leaves what he left before.
    ALICE.sh(&format!("exec 3<>{path}")).ok();
    wait_for("the reading", PATIENCE, || events(&daemon.audit(), |l| hers(l) && l["reason"] == "owner").checked_sub(1));
    BOB.sh(&format!("exec 3>{path}")).refused("");
    // The daemon's own child, which wakes watchers by opening what was changed by command, leaves none.
    for content in ["one", "two"] {
        daemon.cli_with(&["put", "hers"], content.as_bytes()).ok();
    }
    ALICE.sh(&format!("exec 3>>{path}")).ok();
    wait_for("the last opening", PATIENCE, || (events(&daemon.audit(), hers) >= 502).then_some(()));
    let roots = |l: &Value| l["op"] == "open" && l["uid"] == 0 && l["path"] == "hers";
    assert_eq!(events(&daemon.audit(), |l| roots(l) && l["exe"].as_str().is_some_and(|e| e.ends_with("/pinfold"))), 0);
}

#[test]
fn refused_commits_flood_neither_the_log_nor_the_daemons_own() {
    let daemon = daemon("");
    sh(&format!("install -o {0} -g {0} -m 600 /dev/null {1}", ALICE.uid, daemon.path("hers.pem"))).quiet();
    let out = attack(&daemon, ALICE, "commits.py", &format!("2 {}", daemon.path("hers.pem"))).ok();
    let refused = numbers(&out)[0];
    assert!(refused > 100, "only {refused} were tried");
    let hers = |l: &Value| l["op"] == "commit" && l["uid"] == ALICE.uid && l["decision"] == "denied";
    wait_for("the last sum", PATIENCE, || (events(&daemon.audit(), hers) >= refused).then_some(()));
    let lines = daemon.audit().iter().filter(|l| hers(l)).count();
    assert!(lines <= 10, "{lines} lines for {refused} refused commits in 2 seconds");
    let told = daemon.log().lines().filter(|l| l.contains("hers.pem")).count();
    assert!(told <= 20, "{told} lines in the daemon's own log for {refused} refused commits");
}

/// Secrets of this user's, `many/0` and on; and their paths, for a program.
fn enrol_many(daemon: &Daemon, owner: User, count: usize) -> String {
    let (many, uid) = (daemon.path("many"), owner.uid);
    let each = format!("for i in $(seq 0 {}); do echo $i > {many}/$i; done", count - 1);
    sh(&format!("mkdir -m 755 {many} && {each} && chown {uid}:{uid} {many}/* && chmod 600 {many}/*")).quiet();
    (0..count).map(|i| format!("{many}/{i} ")).collect()
}

/// What the metrics say, read as anybody may.
fn metric(daemon: &Daemon, name: &str) -> u64 {
    let text = BOB.sh(&format!("cat {}", daemon.path(".pinfold/metrics"))).quiet();
    let value = text.lines().find_map(|line| line.strip_prefix(&format!("pinfold_{name} ")));
    value.and_then(|v| v.parse().ok()).unwrap_or_else(|| panic!("no {name} in {text}"))
}

#[test]
fn who_opens_without_end_fills_no_disk_that_others_need() {
    let disk = Disk::new("2m");
    let config = "audit_max_size = \"64KiB\"\naudit_space = \"384KiB\"\n[limits]\nopens = 100000\n".into();
    let daemon = serving(Setup { audit_log: Some(disk.log()), config, ..Setup::default() });
    enrol(&daemon, "his", BOB);
    let files = enrol_many(&daemon, ALICE, 500);
    // A first line and a sum for each of them each second: half a megabyte, so that without a bound the disk would be full.
    let out = attack(&daemon, ALICE, "opens.py", &format!("8 {files}")).ok();
    assert_eq!(numbers(&out)[1], 0, "none of hers failed: {}", out.text());
    BOB.sh(&format!("cat {}", daemon.path("his"))).quiet();
    let status = daemon.json(&["status", "--json"]);
    assert_eq!((&status["audit_full"], &status["audit_unrecorded"]), (&false.into(), &0.into()));
    let verified = wait_for("a check between two rotations", PATIENCE, || {
        Some(daemon.cli(&["log", "--verify"])).filter(|out| out.code == 0)
    });
    assert!(verified.text().contains("were removed by rule"), "{}", verified.text());
    wait_for("old files are gone", PATIENCE, || (disk.used() <= 512 << 10).then_some(()));
}

#[test]
fn opens_beyond_the_rate_are_delayed_and_those_of_others_are_not() {
    let daemon = daemon("[limits]\nopens = 100");
    enrol(&daemon, "hers", ALICE);
    enrol(&daemon, "his", BOB);
    let copies = attack(&daemon, ALICE, "opens.py", &format!("0 {}", daemon.path("hers"))).ok();
    assert_eq!(numbers(&copies), [0, 0]);
    // More at once than there are threads that answer.
    let many = format!(
        "for i in $(seq 24); do python3 {} 4 {} & done; wait",
        daemon.file("opens.py").display(),
        daemon.path("hers")
    );
    let (out, latency) = std::thread::scope(|scope| {
        let flood = scope.spawn(|| ALICE.sh(&many).ok());
        wait_for("a line of the flood", PATIENCE, || {
            daemon.audit().iter().any(|l| l["uid"] == ALICE.uid).then_some(())
        });
        let latency = attack(&daemon, BOB, "latency.py", &format!("100 {}", daemon.path("his"))).ok();
        (flood.join().expect("it is no failure of the flood's"), latency)
    });
    let text = out.text();
    let pairs = text.lines().filter_map(|line| line.split_once(' '));
    let (done, failed) = pairs.fold((0u64, 0u64), |(done, failed), (d, f)| {
        (done + d.parse::<u64>().unwrap_or(0), failed + f.parse::<u64>().unwrap_or(0))
    });
    assert_eq!(failed, 0, "none is refused: {text}");
    // Four seconds and what may come at once, and the last of each, which began before the end.
    assert!((100..=900).contains(&done), "{done} opens in four seconds");
    let [median, greatest] = numbers(&latency)[..] else { panic!("{}", latency.text()) };
    assert!(median < 20_000, "others wait: {median} µs at the median, {greatest} at most");
}

#[test]
fn a_full_log_disk_is_announced_before_anything_is_refused() {
    let disk = Disk::new("1m");
    disk.put(512 << 10);
    let config = "audit_max_size = \"64KiB\"\naudit_space = \"384KiB\"".into();
    let daemon = serving(Setup { audit_log: Some(disk.log()), config, ..Setup::default() });
    enrol(&daemon, "his", BOB);
    let files = enrol_many(&daemon, ALICE, 15);
    let full = || daemon.json(&["status", "--json"])["audit_full"] == Value::Bool(true);
    assert!(!full() && metric(&daemon, "audit_full") == 0);
    disk.fill();
    // Until the reserve has to be filled up again nothing is known of it; then it is said, and opens go on.
    wait_for("the announcement", PATIENCE, || {
        let out = attack(&daemon, ALICE, "opens.py", &format!("0.2 {files}")).ok();
        assert_eq!(numbers(&out)[1], 0, "nothing is refused before it is announced: {}", out.text());
        full().then_some(())
    });
    assert_eq!(metric(&daemon, "audit_full"), 1);
    assert!(metric(&daemon, "audit_reserve_bytes") > 0);
    wait_for("the daemon's own word", PATIENCE, || {
        daemon.log().contains("the disk of the audit log is full").then_some(())
    });
    BOB.sh(&format!("cat {}", daemon.path("his"))).quiet();
    let told = daemon.cli(&["status"]).ok().text();
    assert!(told.contains("the disk is full"), "{told}");
    // The reserve is used up: now nothing opens unrecorded. A file that was rotated meanwhile gives room again when it is compressed, which
    // is taken from it.
    let mut refused = 0;
    wait_for("the end of the reserve", PATIENCE, || {
        attack(&daemon, ALICE, "opens.py", &format!("0.2 {files}")).ok();
        disk.fill();
        let tried = BOB.sh(&format!("cat {}", daemon.path("his")));
        refused = if tried.code == 0 { 0 } else { refused + 1 };
        if refused > 0 {
            tried.refused("Input/output error");
        }
        (refused == 5).then_some(())
    });
    // No full disk keeps it open; it is said that the log does not have it.
    daemon.cli(&["lock"]).refused("it is locked, but that is not recorded");
    assert_eq!(daemon.json(&["status", "--json"])["locked"], true);
    disk.make_room();
    wait_for("room again", PATIENCE, || (!full()).then_some(()));
    daemon.unlock();
    BOB.sh(&format!("cat {}", daemon.path("his"))).quiet();
    daemon.cli(&["log", "--verify"]).ok();
}

#[test]
fn old_log_files_that_are_removed_or_tampered_with_are_named() {
    let daemon = daemon("audit_max_size = \"64KiB\"\naudit_space = \"1MiB\"");
    enrol(&daemon, "hers", ALICE);
    for _ in 0..4 {
        ALICE.sh(&format!("cat {}", daemon.path("hers"))).quiet();
        daemon.cli(&["log", "rotate"]).ok();
    }
    let compressed = || -> Vec<PathBuf> {
        let folder = std::fs::read_dir(daemon.file("")).expect("the folder").flatten().map(|e| e.path());
        let mut files: Vec<PathBuf> = folder.filter(|p| p.extension().is_some_and(|e| e == "zst")).collect();
        files.sort();
        files
    };
    wait_for("old files are compressed", PATIENCE, || (compressed().len() == 3).then_some(()));
    daemon.cli(&["log", "--verify"]).ok();
    let shown = daemon.cli(&["log", "--lines", "1000"]).ok().text();
    assert_eq!(shown.matches("allowed open hers v1 ").count(), 4, "{shown}");
    let verdict = || {
        let out = daemon.cli(&["log", "--verify", "--json"]);
        (out.code, out.text())
    };
    for (n, file) in compressed().iter().enumerate() {
        let whole = std::fs::read(file).expect("root may");
        std::fs::remove_file(file).expect("root may");
        let (code, said) = verdict();
        let kind = if n == 0 { "files_missing" } else { "carry_over" };
        assert!(code == 5 && said.contains(kind), "{code}: {said}");
        let mut other = whole.clone();
        other[whole.len() / 2] ^= 1;
        std::fs::write(file, other).expect("root may");
        let (code, said) = verdict();
        assert_eq!(code, 5, "{said}");
        std::fs::write(file, whole).expect("root may");
        assert_eq!(verdict().0, 0);
    }
}

#[test]
fn a_log_that_is_a_symlink_is_not_followed() {
    let mut daemon =
        Daemon::initialised(Setup { binary: Some(env!("CARGO_BIN_EXE_pinfold").into()), ..Setup::default() });
    let (log, victim) = (daemon.file("audit.log"), daemon.file("victim"));
    let _ = std::fs::remove_file(&log);
    std::fs::write(&victim, "of somebody else\n").expect("the folder is ours");
    std::os::unix::fs::symlink(&victim, &log).expect("the folder is ours");
    daemon.spawn();
    let mut child = daemon.take_child();
    let code = crate::common::process::wait(&mut child, PATIENCE).expect("it ends by itself");
    assert_ne!(code, 0);
    assert!(daemon.log().contains("audit.log"), "{}", daemon.log());
    assert_eq!(std::fs::read_to_string(&victim).expect("it is there"), "of somebody else\n");
}

#[test]
fn a_configuration_that_others_could_have_written_is_refused() {
    let dir = TempDir::new().expect("a temporary folder");
    let config = dir.path().join("pinfold.toml");
    std::fs::write(&config, "audit_full = \"continue\"\n").expect("it is ours");
    let check = |prepare: &str| {
        sh(&format!("{prepare} {}", config.display())).quiet();
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_pinfold"));
        command.arg("--config").arg(&config).arg("check-config");
        crate::common::process::run(command, b"", prepare)
    };
    check("chmod 644").ok();
    assert_eq!(check("chmod 666").refused("others can write it").code, 3);
    check("chmod 644").ok();
    assert_eq!(check("chown 2002").refused("belongs to uid 2002").code, 3);
}

#[test]
fn a_kill_loses_a_sum_and_no_first_line() {
    let mut daemon = daemon("");
    enrol(&daemon, "hers", ALICE);
    let out = attack(&daemon, ALICE, "opens.py", &format!("0.1 {}", daemon.path("hers"))).ok();
    daemon.kill9();
    let hers = |l: &Value| l["op"] == "open" && l["uid"] == ALICE.uid && l["path"] == "hers";
    let lines: Vec<Value> = daemon.audit().into_iter().filter(hers).collect();
    assert!(numbers(&out)[0] > 1);
    assert!(lines.first().is_some_and(|l| l["count"].is_null()), "{lines:?}");
    daemon.serve();
    ALICE.sh(&format!("cat {}", daemon.path("hers"))).quiet();
    daemon.cli(&["log", "--verify"]).ok();
}

#[test]
fn sums_are_written_before_a_lock() {
    let daemon = daemon("");
    enrol(&daemon, "hers", ALICE);
    let out = attack(&daemon, ALICE, "opens.py", &format!("0.1 {}", daemon.path("hers"))).ok();
    daemon.lock();
    let lines = daemon.audit();
    let at = lines.iter().position(|l| l["op"] == "lock").expect("the lock is on record");
    let hers = |l: &Value| l["op"] == "open" && l["uid"] == ALICE.uid;
    assert_eq!(events(&lines[..at], hers), numbers(&out)[0]);
}

/// A program that moves the daemon's wall clock, and the wrapper that starts the daemon with it.
struct Clock {
    dir: TempDir,
}

impl Clock {
    fn new() -> Clock {
        let dir = TempDir::new().expect("a temporary folder");
        sh(&format!("chmod 755 {}", dir.path().display())).quiet();
        let clock = Clock { dir };
        let (shim, source) = (clock.file("clock.so"), program("clock.c"));
        sh(&format!("cc -shared -fPIC -O2 -o {} {} -ldl", shim.display(), source.display())).quiet();
        clock.jump(0);
        let wrapper = format!(
            "#!/bin/sh\nexport LD_PRELOAD={} CLOCK_OFFSET={}\nexec {} \"$@\"\n",
            shim.display(),
            clock.file("offset").display(),
            env!("CARGO_BIN_EXE_pinfold")
        );
        crate::common::program(&clock.file("pinfold"), &wrapper);
        clock
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// From now on it is so many seconds later than it is.
    fn jump(&self, seconds: i64) {
        use std::os::unix::fs::FileExt;
        let file = std::fs::File::options().create(true).truncate(false).write(true).open(self.file("offset"));
        file.and_then(|f| f.write_all_at(&seconds.to_ne_bytes(), 0)).expect("the folder is ours");
    }
}

const YEAR: i64 = 365 * 86_400;

#[test]
fn a_clock_that_jumps_moves_times_and_no_window_rate_or_deadline() {
    let clock = Clock::new();
    let config = "unlock_timeout = \"3s\"".into();
    let daemon = Daemon::with(Setup { binary: Some(clock.file("pinfold")), config, ..Setup::default() });
    enrol(&daemon, "hers", ALICE);
    // Sums are those of a second, whatever the clock does meanwhile.
    let path = daemon.path("hers");
    let hers = |l: &Value| l["op"] == "open" && l["uid"] == ALICE.uid;
    let done = std::thread::scope(|scope| {
        let reader = scope.spawn(|| attack(&daemon, ALICE, "opens.py", &format!("3 {path}")).ok());
        for (seen, jump) in [(1, 10 * YEAR), (2, -10 * YEAR), (3, 0)] {
            wait_for("more lines", PATIENCE, || {
                (daemon.audit().iter().filter(|l| hers(l)).count() >= seen).then_some(())
            });
            clock.jump(jump);
        }
        let out = reader.join().expect("it is no failure of the reader's");
        assert_eq!(numbers(&out)[1], 0);
        numbers(&out)[0]
    });
    wait_for("the last sum", PATIENCE, || (events(&daemon.audit(), hers) >= done).then_some(()));
    let lines: Vec<Value> = daemon.audit().into_iter().filter(hers).collect();
    assert!(events(&lines, |_| true) == done && lines.len() <= 10, "{} lines for {done} opens", lines.len());
    let years: std::collections::BTreeSet<&str> = lines.iter().filter_map(|l| l["time"].as_str()?.get(..4)).collect();
    assert!(years.len() > 1, "the clock did jump: {years:?}");
    // Who waits for an unlock waits as long as is promised.
    for jump in [YEAR, -YEAR] {
        let locked = Instant::now();
        daemon.lock();
        clock.jump(jump);
        ALICE.sh(&format!("cat {path}")).refused("Required key not available");
        let waited = locked.elapsed();
        assert!((Duration::from_millis(2900)..Duration::from_secs(20)).contains(&waited), "{waited:?}");
        daemon.unlock();
        ALICE.sh(&format!("cat {path}")).quiet();
    }
    daemon.cli(&["log", "--verify"]).ok();
}

#[test]
fn a_store_on_tmpfs_that_is_full_keeps_what_it_has() {
    let disk = Disk::new("96m");
    let mut daemon = serving(Setup { base: Some(disk.0.path().into()), ..Setup::default() });
    // The folder itself is root's alone: readers must get through.
    sh(&format!("chmod 755 {}", disk.0.path().display())).quiet();
    enrol(&daemon, "hers", ALICE);
    disk.fill();
    // Something was preallocated by the store; beyond that nothing is committed, and what was there stays.
    let large = format!("head -c 1000000 /dev/zero > {}", daemon.path("large"));
    wait_for("the disk is full", PATIENCE, || {
        disk.fill();
        sh(&large).stderr.contains("No space left").then_some(())
    });
    assert_eq!(ALICE.sh(&format!("cat {}", daemon.path("hers"))).quiet(), "content of hers\n");
    let checks = daemon.json(&["doctor", "--json"]);
    let found = |what: &str, says: &str| {
        let checks = checks.as_array().expect("a list").iter();
        checks.filter(|c| c["what"] == what).any(|c| c["found"].as_str().is_some_and(|f| f.contains(says)))
    };
    assert!(found("store", "tmpfs"), "{checks}");
    assert!(found("audit log", "share"), "{checks}");
    disk.make_room();
    sh(&format!("echo more > {}", daemon.path("more"))).quiet();
    daemon.restart();
    assert_eq!(ALICE.sh(&format!("cat {}", daemon.path("hers"))).quiet(), "content of hers\n");
    daemon.cli(&["log", "--verify"]).ok();
    drop(daemon);
}
