//! Nobody notices that the daemon went: under a real systemd it is restarted, killed and replaced while readers read.
//!
//! Owns a unit of its own for each test. How often it is killed is PINFOLD_KILLS (200 by default).

use crate::common;

use common::load::{Makers, Readers, SlowWriter};
use common::unshared::{self, Container, SAME, SHIFTED, instance};
use common::{ALICE, BOB, CAROL, Daemon, Held, ROOT, Setup, daemon, sh, wait_for};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);

/// A unit around a store; dropping it stops it, or at least frees who waits for it.
struct Unit {
    name: String,
    binary: PathBuf,
    daemon: Daemon,
}

impl Unit {
    fn start(config: &str) -> Self {
        Self::with(config, str::to_owned)
    }

    /// The unit that we ship, and the one for its failure, around a store of its own; changed by `change`.
    fn with(config: &str, change: impl Fn(&str) -> String) -> Self {
        let daemon = Daemon::initialised(Setup { config: config.into(), ..Setup::default() });
        let home = daemon.file("store").parent().expect("it is in a folder").to_owned();
        let binary = home.join("pinfold");
        std::fs::copy(daemon::binary(), &binary).expect("a copy that can be replaced");
        let name = format!("{}.service", home.file_name().expect("it has a name").display());
        let config = daemon.file("pinfold.toml");
        let ours = |text: &str| {
            text.replace("/usr/bin/pinfold ", &format!("{} --config {} ", binary.display(), config.display()))
                .replace("pinfold-release.service", &format!("release-{name}"))
        };
        let text = ours(&change(include_str!("../systemd/pinfold.service")));
        assert!(text.contains("--hand-over") && text.contains("FileDescriptorStoreMax=16"));
        let units = Path::new("/run/systemd/system");
        std::fs::write(units.join(&name), text).expect("a unit of ours");
        let release = ours(include_str!("../systemd/pinfold-release.service"));
        std::fs::write(units.join(format!("release-{name}")), release).expect("a unit of ours");
        sh("systemctl daemon-reload").ok();
        let unit = Unit { name, binary, daemon };
        sh(&format!("systemctl start {}", unit.name)).ok();
        unit
    }

    fn systemctl(&self, verb: &str) {
        sh(&format!("systemctl {verb} {}", self.name)).ok();
    }

    fn show(&self, property: &str) -> u64 {
        let out = sh(&format!("systemctl show -P {property} {}", self.name)).quiet();
        out.trim().parse().unwrap_or_else(|_| panic!("{property} is {out}"))
    }

    fn pid(&self) -> u64 {
        self.show("MainPID")
    }

    /// Waits until another process than `before` serves, and returns it.
    #[track_caller]
    fn await_next(&self, before: u64) -> u64 {
        let pid = self.await_ready(before);
        wait_for("its control socket", PATIENCE, || (self.daemon.cli(&["status", "--json"]).code == 0).then_some(pid))
    }

    /// Waits until systemd was told that another process than `before` is ready.
    #[track_caller]
    fn await_ready(&self, before: u64) -> u64 {
        wait_for("the next daemon", PATIENCE, || {
            let shown = sh(&format!("systemctl show -p MainPID -p ActiveState {}", self.name)).quiet();
            let pid = shown.lines().find_map(|l| l.strip_prefix("MainPID=")?.parse().ok()).unwrap_or(0);
            (pid != 0 && pid != before && shown.contains("ActiveState=active\n")).then_some(pid)
        })
    }

    fn is_locked(&self) -> bool {
        self.daemon.json(&["status", "--json"])["locked"] == true
    }

    /// KiB resident.
    fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).expect("proc(5)");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("it runs").count()
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let journal = format!("journalctl -o short-precise --no-pager -u {}", self.name);
            eprintln!("{}", sh(&format!("{journal} | grep -v ': allowed ' | tail -n 1500; {journal} -n 60")).text());
            if let Some(number) = daemon::connection(self.daemon.root()) {
                let _ = std::fs::write(format!("/sys/fs/fuse/connections/{number}/abort"), "1");
            }
        }
        let _ = sh(&format!(
            "systemctl stop {0}; rm -f /run/systemd/system/{0} /run/systemd/system/release-{0}; \
             systemctl daemon-reload; systemctl reset-failed {0}",
            self.name
        ));
    }
}

fn kills() -> u32 {
    std::env::var("PINFOLD_KILLS").ok().map_or(200, |n| n.parse().expect("PINFOLD_KILLS is a number"))
}

#[test]
fn readers_and_a_slow_writer_notice_neither_restarts_nor_kills_nor_upgrades() {
    let unit = Unit::start("");
    unit.daemon.unlock();
    let path = unit.daemon.path("pin");
    sh(&format!("echo 1234 > {path}; echo 5678 > {path}2; chown 2001 {path}2; touch {path}3")).ok();
    let mut held = Held::start(ALICE, &format!("exec 3<{path}2; echo open; read; cat <&3"));
    assert_eq!(held.line(), "open");
    let stored = unit.show("NFileDescriptorStore");
    assert_eq!(stored, 5, "device, socket, handles, identity, description");
    let readers = Readers::start(&path, "1234\n");
    let writer = SlowWriter::start(&format!("{path}3"), Duration::from_millis(100));
    let (before, memory) = (unit.descriptors(), unit.memory());

    let begun = Instant::now();
    let mut pid = unit.pid();
    for round in 0..kills() {
        match round % 8 {
            0 => unit.systemctl("restart"),
            1 => {
                // What a package does: another file under the same name, then a restart.
                let binary = unit.binary.display();
                sh(&format!(
                    "cp {binary} {binary}.new && echo build {round} >> {binary}.new && mv {binary}.new {binary}"
                ))
                .ok();
                unit.systemctl("restart");
            }
            _ => daemon::signal(u32::try_from(pid).expect("a pid"), libc::SIGKILL),
        }
        pid = unit.await_ready(pid);
        // Were it locked, the readers would wait for more than they may.
        assert!(round % 10 != 0 || !unit.is_locked(), "round {round}: nobody is asked again");
        let asked = std::fs::read_dir("/run/systemd/ask-password").into_iter().flatten().flatten();
        assert_eq!(asked.filter(|f| f.file_name().to_string_lossy().starts_with("ask.")).count(), 0, "round {round}");
    }
    let took = begun.elapsed();
    let (reads, longest) = readers.finish();
    let written = writer.finish();
    let (after, memory_after) = (unit.descriptors(), unit.memory());
    eprintln!(
        "{} restarts in {took:?}: {reads} reads, none failed, the longest took {longest:?}; {} writes acknowledged, {} told \
         ESTALE; descriptors {before} → {after}, resident {memory} → {memory_after} KiB",
        kills(),
        written.acknowledged,
        written.told
    );
    assert!(reads > u64::from(kills()));
    assert!(longest < Duration::from_secs(10));
    assert_eq!(written.wrong, Vec::<String>::new(), "what was acknowledged is there, and nothing else");
    assert!(written.acknowledged > 0 && written.told > 0, "the kills met no writing: {written:?}");
    held.go_on();
    assert_eq!(held.end(), (0, "5678".into()), "a handle from before all of it");
    assert_eq!(unit.show("NFileDescriptorStore"), stored);
    assert!(after <= before + 2, "{after} descriptors, {before} before");
    assert!(memory_after < memory + (16 << 10), "{memory_after} KiB resident, {memory} before");
    unit.daemon.cli(&["log", "--verify"]).ok();

    unit.systemctl("stop");
    assert_eq!(daemon::connection(unit.daemon.root()), None, "a stop unmounts");
    unit.systemctl("start");
    assert!(unit.is_locked(), "and forgets the identity");
}

#[test]
fn what_is_made_renamed_and_removed_over_a_restart_is_so_once() {
    let unit = Unit::start("");
    unit.daemon.unlock();
    let makers = Makers::start(&unit.daemon.root().display().to_string());
    let mut pid = unit.pid();
    for _ in 0..20 {
        unit.systemctl("restart");
        pid = unit.await_next(pid);
    }
    let rounds = makers.finish();
    eprintln!("20 restarts, {rounds} rounds of nine steps");
    assert!(rounds > 20);
}

#[test]
fn a_lock_is_not_undone_by_a_restart() {
    let unit = Unit::start("when_locked = \"fail\"");
    unit.daemon.unlock();
    sh(&format!("echo 1234 > {}", unit.daemon.path("pin"))).ok();
    let pid = unit.pid();
    unit.systemctl("restart");
    let pid = unit.await_next(pid);
    assert!(!unit.is_locked());
    unit.daemon.lock();
    unit.systemctl("kill --signal=KILL --kill-whom=main");
    unit.await_next(pid);
    assert!(unit.is_locked());
    sh(&format!("cat {}", unit.daemon.path("pin"))).refused("Required key not available");
}

#[test]
fn a_writer_is_told_and_what_was_committed_stays() {
    let unit = Unit::start("");
    unit.daemon.unlock();
    let path = unit.daemon.path("pin");
    sh(&format!("echo old > {path}; chown 2001 {path}")).ok();
    // One open file, written twice; a shell's own redirections would commit after each echo. cat has the bytes out before
    // the next line is asked for: its write(2) waits for the daemon's answer, and the pipe is empty by then.
    let script = "exec 4>&1; { echo new; sleep 0.5; echo wrote >&4; read x; echo more; } | cat 4>&- >> ";
    let mut writer = Held::start(ALICE, &format!("{script}{path}"));
    assert_eq!(writer.line(), "wrote");
    let pid = unit.pid();
    unit.systemctl("restart");
    unit.await_next(pid);
    writer.go_on();
    let (code, said) = writer.end();
    assert_ne!(code, 0, "{said}");
    assert_eq!(ALICE.sh(&format!("cat {path}")).quiet(), "old\n");
}

#[test]
fn handles_go_on_at_their_version_whoever_reads_them_now() {
    let unit = Unit::start("");
    unit.daemon.unlock();
    let path = unit.daemon.path("pin");
    sh(&format!("echo old > {path}")).ok();
    // Opened as root, read after setuid, as servers do with their keys.
    let script =
        format!("exec 3<{path}; echo open; read x; exec setpriv --reuid=2002 --regid=2002 --clear-groups cat <&3");
    let mut held: Vec<Held> = (0..3).map(|_| Held::start(ROOT, &script)).collect();
    held.iter_mut().for_each(|held| assert_eq!(held.line(), "open"));
    sh(&format!("echo new > {path}")).ok();
    BOB.sh(&format!("cat {path}")).refused("Permission denied");

    let mut pid = unit.pid();
    for _ in 0..3 {
        unit.systemctl("kill --signal=KILL --kill-whom=main");
        pid = unit.await_next(pid);
        let mut one = held.pop().expect("one for each");
        one.go_on();
        assert_eq!(one.end(), (0, "old".into()));
    }
    let event = unit.daemon.await_audit("read of a handle from before", |e| e["op"] == "read" && e["uid"] == 2002);
    assert_eq!((&event["decision"], &event["path"]), (&"allowed".into(), &"pin".into()));
    // The kernel tells of a handle's end when it gets to it, not before the process is gone.
    wait_for("no handle to be left over", PATIENCE, || {
        (unit.daemon.json(&["status", "--json"])["open_handles"] == 0).then_some(())
    });
}

#[test]
fn after_a_lock_a_handle_is_decided_anew_also_by_the_next_daemon() {
    let unit = Unit::start("");
    unit.daemon.unlock();
    let path = unit.daemon.path("pin");
    sh(&format!("echo old > {path}")).ok();
    let reader = "exec setpriv --reuid=2002 --regid=2002 --clear-groups cat <&3";
    let mut theirs = Held::start(ROOT, &format!("exec 3<{path}; echo open; read x; {reader}"));
    let mut own = Held::start(ROOT, &format!("exec 3<{path}; echo open; read x; cat <&3"));
    assert_eq!((theirs.line(), own.line()), ("open".into(), "open".into()));
    unit.daemon.lock();
    let pid = unit.pid();
    unit.systemctl("restart");
    unit.await_next(pid);
    unit.daemon.unlock();
    theirs.go_on();
    let (code, said) = theirs.end();
    assert_ne!(code, 0, "{said}");
    own.go_on();
    assert_eq!(own.end(), (0, "old".into()));
}

#[test]
fn a_published_key_is_found_at_every_moment_and_ends_with_the_stop() {
    let unit = Unit::start("");
    unit.daemon.unlock();
    let path = unit.daemon.path("pin");
    // Whose keyring no other test uses: keyrings are the machine's, and there may be another lab on it.
    sh(&format!("printf 1234 > {path}; chown {0} {path}", CAROL.uid)).ok();
    unit.daemon.cli(&["publish", "pin", "--to", "carol"]).ok();
    sh("rm -f /tmp/searched").ok();
    let search = "keyctl search @u user pinfold:pin >/dev/null 2>&1";
    let script = format!("n=0; while [ ! -e /tmp/searched ]; do {search} || echo lost; n=$((n+1)); done; echo $n");
    let searcher = std::thread::spawn(move || CAROL.sh(&script).text());
    let mut pid = unit.pid();
    for round in 0..6 {
        unit.systemctl(if round % 2 == 0 { "restart" } else { "kill --signal=KILL --kill-whom=main" });
        pid = unit.await_next(pid);
    }
    // The last daemon's own key, and no other.
    let serial =
        wait_for("the publication", PATIENCE, || unit.daemon.json(&["published", "--json"])[0]["serial"].as_i64());
    let found = CAROL.sh("keyctl search @u user pinfold:pin").quiet();
    assert_eq!(found.trim(), serial.to_string());
    sh("touch /tmp/searched").ok();
    let searched = searcher.join().expect("a searcher");
    assert!(!searched.contains("lost"), "{searched}");
    assert!(searched.trim().parse::<u32>().expect("a count") > 50, "{searched}");
    unit.systemctl("stop");
    assert_ne!(CAROL.sh(search).code, 0, "a stop takes it back");
    CAROL.sh(&format!("keyctl pipe {serial}")).refused("");
}

#[test]
fn inside_a_container_nobody_notices_either() {
    let unit = Unit::start("");
    unit.daemon.unlock();
    unit.daemon.cli(&["scope", "add", "web"]).ok();
    unshared::put(&unit.daemon, "containers/web/pin", "1234", &[]);
    unshared::put(&unit.daemon, "containers/web/key", "abcd", &["-o", "999", "-g", "999"]);
    unit.daemon.cli(&["publish", "containers/web/key", "--to", "999"]).ok();
    let web = Container::attached(&unit.daemon, "web", SHIFTED, "web-1");
    let other = Container::attached(&unit.daemon, "web", SHIFTED, "web-2");
    let attached = instance(&unit.daemon, "web-1").expect("it is attached")["attached"].clone();
    let held = |container: &Container| {
        let mut held = container.held("exec 3</run/secrets/pin; echo open; read x; cat <&3 && echo; echo done");
        assert_eq!(held.line(), "open");
        held
    };
    let (mut on, mut cut, mut cut_later) = (held(&web), held(&other), held(&other));
    // Also while it is away: what the container does waits, and is answered as before.
    let loops = "for i in $(seq 400); do cat /run/secrets/pin || echo lost; done | sort | uniq -c";
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| web.sh(0, loops).text());
        let mut pid = unit.pid();
        for round in 0..6 {
            unit.systemctl(if round % 2 == 0 { "kill --signal=KILL --kill-whom=main" } else { "restart" });
            pid = unit.await_next(pid);
            assert_eq!(instance(&unit.daemon, "web-1").expect("it is attached")["attached"], attached);
        }
        assert_eq!(reader.join().expect("a reader").trim(), format!("1 {}", "1234".repeat(400)));
    });
    on.go_on();
    assert_eq!((on.line(), on.line()), ("1234".into(), "done".into()), "a handle from before all of it");
    let key = "keyctl pipe $(keyctl search @u user pinfold:key)";
    wait_for("the key of its user", PATIENCE, || (web.sh(999, key).text() == "abcd").then_some(()));
    // What is cut off is cut off by whichever daemon it was opened, and stays so for the next.
    unit.daemon.cli(&["detach", "web-2"]).ok();
    cut.go_on();
    assert!(cut.line().contains("Key has been revoked"));
    let pid = unit.pid();
    unit.systemctl("kill --signal=KILL --kill-whom=main");
    unit.await_next(pid);
    cut_later.go_on();
    assert!(cut_later.line().contains("Key has been revoked"));
    other.sh(0, "cat /run/secrets/pin").refused("Key has been revoked");
    assert_eq!(web.sh(0, "cat /run/secrets/pin").quiet(), "1234");
}

/// A first process in an exec that waits for the daemon cannot be looked at by the next one.
#[test]
fn a_container_whose_first_process_is_in_the_middle_of_an_exec_stays_attached() {
    let unit = Unit::start("");
    unit.daemon.unlock();
    unit.daemon.cli(&["scope", "add", "web", "--write"]).ok();
    unshared::put(&unit.daemon, "containers/web/pin", "1234", &[]);
    sh("rm -f /tmp/wrote").ok();
    // Closed by the exec, which waits for the answer to that.
    let program = "import os, sys; f = os.open(\"/run/secrets/own\", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC); \
                   os.write(f, b\"x\"); os.close(os.open(\"/tmp/wrote\", os.O_CREAT | os.O_WRONLY)); \
                   sys.stdin.readline(); os.execv(\"/bin/sleep\", [\"sleep\", \"600\"])";
    let script = format!("read attached; exec python3 -c '{program}'");
    let mut web = Container::running(&unit.daemon, "web", SAME, &script);
    web.attach(&unit.daemon, "web", &["--id", "web-1"]).ok();
    web.say("attached");
    wait_for("its file", PATIENCE, || std::fs::metadata("/tmp/wrote").ok().map(|_| ()));
    let pid = unit.pid();
    unit.systemctl("kill --signal=STOP --kill-whom=main");
    web.say("exec");
    let connection = daemon::connection(unit.daemon.root()).expect("it is mounted");
    wait_for("the FLUSH", PATIENCE, || {
        let waiting = std::fs::read_to_string(format!("/sys/fs/fuse/connections/{connection}/waiting"));
        (waiting.expect("fusectl is mounted").trim() != "0").then_some(())
    });
    unit.systemctl("kill --signal=KILL --kill-whom=main");
    unit.await_next(pid);
    assert!(instance(&unit.daemon, "web-1").is_some(), "it is as alive as before");
    wait_for("a read inside", PATIENCE, || (web.sh(0, "cat /run/secrets/pin").text() == "1234").then_some(()));
    assert_eq!(std::fs::read_to_string(format!("/proc/{}/comm", web.init)).expect("it runs").trim(), "sleep");
}

#[test]
fn a_daemon_that_never_comes_back_leaves_nobody_waiting() {
    let unit = Unit::with("", |text| text.replace("StartLimitBurst=250", "StartLimitBurst=5"));
    unit.daemon.unlock();
    let path = unit.daemon.path("pin");
    sh(&format!("echo 1234 > {path}; chown 2001 {path}")).ok();
    assert_eq!(ALICE.sh(&format!("cat {path}")).quiet(), "1234\n");
    // An upgrade to something that does not start.
    let script = "#!/bin/sh\ncase \"$*\" in *--hand-over*) exit 1 ;; esac\nexec \"$0.real\" \"$@\"\n";
    std::fs::write(unit.binary.with_extension("new"), script).expect("a script");
    let binary = unit.binary.display();
    sh(&format!("chmod 755 {binary}.new; mv {binary} {binary}.real; mv {binary}.new {binary}")).ok();
    unit.systemctl("kill --signal=KILL --kill-whom=main");
    // It waits for a daemon that may still come, and is told when none will.
    let waited = ALICE.sh(&format!("cat {path}"));
    assert_ne!(waited.code, 0, "{}", waited.text());
    wait_for("the end of the mount", PATIENCE, || daemon::connection(unit.daemon.root()).is_none().then_some(()));
    assert_eq!(sh(&format!("systemctl is-failed {}", unit.name)).text().trim(), "failed");
    sh(&format!("ls {}", unit.daemon.root().display())).ok();
}

/// How long readers wait, with as many secrets as PINFOLD_SECRETS says.
#[test]
#[ignore = "a measurement of some minutes: make test-lab TESTS=lab_takeover ARGS='--ignored --nocapture'"]
fn how_long_readers_wait_with_many_secrets() {
    let many: usize = std::env::var("PINFOLD_SECRETS").map_or(100_000, |n| n.parse().expect("a number"));
    let unit = Unit::start("max_secrets = 1000000");
    unit.daemon.unlock();
    let path = unit.daemon.path("pin");
    sh(&format!("echo 1234 > {path}")).ok();
    std::thread::scope(|threads| {
        for t in 0..4 {
            let folder = unit.daemon.path(&format!("many-{t}"));
            threads.spawn(move || {
                std::fs::create_dir(&folder).expect("a folder");
                for n in 0..many / 4 {
                    std::fs::write(format!("{folder}/{n}"), "x".repeat(64)).expect("a secret");
                }
            });
        }
    });
    let readers = Readers::start(&path, "1234\n");
    let mut pid = unit.pid();
    let mut stalls = Vec::new();
    for round in 0..10 {
        let begun = Instant::now();
        unit.systemctl(if round % 2 == 0 { "restart" } else { "kill --signal=KILL --kill-whom=main" });
        pid = unit.await_next(pid);
        stalls.push(begun.elapsed());
    }
    let (reads, longest) = readers.finish();
    eprintln!(
        "{many} secrets: {reads} reads, the longest took {longest:?}; from the signal to the next answer {stalls:?}"
    );
}
