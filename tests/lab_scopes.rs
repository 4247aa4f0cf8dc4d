//! Scopes and instances, mounted: containers made by plain `unshare`, each with its own subtree bind-mounted as its
//! `/run/secrets`, entered by `nsenter`, cut off by the command and by keyctl(1).

use crate::common;

use common::unshared::{Container, FURTHER, SAME, SECOND, SHIFTED, instance, put};
use common::{Daemon, sh, wait_for};
use std::time::{Duration, Instant};

#[test]
fn each_reads_its_own_by_the_same_name_and_nobody_elses() {
    let daemon = Daemon::start();
    for scope in ["web", "db"] {
        daemon.cli(&["scope", "add", scope]).ok();
        put(&daemon, &format!("containers/{scope}/pin"), scope, &["-m", "0644"]);
    }
    let web = Container::attached(&daemon, "web", SAME, "web-1");
    let db = Container::attached(&daemon, "db", SHIFTED, "db-1");
    assert_eq!(web.sh(0, "cat /run/secrets/pin").quiet(), "web");
    assert_eq!(db.sh(0, "cat /run/secrets/pin").quiet(), "db");
    assert_eq!(db.sh(999, "cat /run/secrets/pin").quiet(), "db", "0644: everybody inside");
    for uid in [100_000, 100_999] {
        daemon.await_audit("the open inside", |e| {
            e["op"] == "open" && e["container"] == "db-1" && e["path"] == "containers/db/pin" && e["uid"] == uid
        });
    }
    // By another way in, the other one's: a container whose folder was bind-mounted by hand, attached elsewhere or not.
    let wrong = Container::new(&daemon, "web", SAME);
    wrong.sh(0, "cat /run/secrets/pin").refused("Permission denied");
    wrong.attach(&daemon, "db", &["--id", "db-wrong"]).refused("another map");
    db.end_and_forget(&daemon);
    wrong.attach(&daemon, "db", &["--id", "db-wrong"]).ok();
    wrong.sh(0, "cat /run/secrets/pin").refused("Permission denied");
    // Root of the host may write it, and not read it.
    let at = daemon.path("containers/web/pin");
    sh(&format!("LC_ALL=C cat {at}")).refused("Permission denied");
    sh(&format!("printf new > {at}")).quiet();
    assert_eq!(web.sh(0, "cat /run/secrets/pin").quiet(), "new");
    let who = daemon.json(&["who", "containers/web/pin", "--json"]);
    assert!(who["rules"].as_array().expect("rules").iter().any(|r| r["who"] == "instance web-1"), "{who}");
    let long = daemon.cli(&["ls", "-l", "containers/web"]).ok().text();
    assert!(long.contains(" 0 "), "a container's owners are numbers: {long}");
    let scopes = daemon.cli(&["scope", "ls"]).ok().text();
    assert!(scopes.contains("web") && scopes.contains("1 instances"), "{scopes}");
}

/// The id, how it is attached, what those inside are told, and how it is cut off.
type Way<'a> = (&'a str, &'a [&'a str], &'a str, &'a dyn Fn(&str));

#[test]
fn cut_off_while_it_reads_in_three_ways_and_the_rest_goes_on() {
    let daemon = Daemon::start();
    daemon.cli(&["scope", "add", "web"]).ok();
    put(&daemon, "containers/web/pin", "x", &[]);
    put(&daemon, "pin", "y", &[]);
    let other = Container::attached(&daemon, "web", SAME, "other");
    let by_keyctl = |id: &str| {
        let serial = instance(&daemon, id).expect("it is attached")["key_serial"].to_string();
        sh(&format!("keyctl revoke {serial}")).ok();
    };
    let detach = |id: &str| drop(daemon.cli(&["detach", id]).ok());
    let wait = |_: &str| std::thread::sleep(Duration::from_millis(10));
    let ways: [Way<'_>; 3] = [
        ("detached", &[], "Key has been revoked", &detach),
        ("revoked", &[], "Key has been revoked", &by_keyctl),
        ("expired", &["--timeout", "4s"], "Key has expired", &wait),
    ];
    for (id, more, error, cut) in ways {
        let container = Container::new(&daemon, "web", SAME);
        container.attach(&daemon, "web", &[&["--id", id], more].concat()).ok();
        // Opens, reads, says so; then reads on through the same descriptor until that fails; then opens anew.
        let script = "exec 3</run/secrets/pin 4</etc/hostname; head -c1 <&3 >/dev/null; echo open > /tmp/NAME.said; \
                      while python3 -c \"import os; os.pread(3, 1, 0)\" 2>/tmp/NAME.read; do sleep 0.05; done; \
                      cat /run/secrets/pin 2>/tmp/NAME.open; cat <&4 >/dev/null && echo on > /tmp/NAME.rest";
        let script = script.replace("NAME", id);
        sh(&format!("rm -f /tmp/{id}.*")).ok();
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| container.sh(0, &script));
            let said = format!("/tmp/{id}.said");
            wait_for("the first read", Duration::from_secs(20), || std::fs::metadata(&said).ok().map(|_| ()));
            cut(id);
            reader.join().expect("it is judged below");
        });
        for file in ["read", "open"] {
            let said = std::fs::read_to_string(format!("/tmp/{id}.{file}")).expect("it was written");
            assert!(said.contains(error), "{id}, {file}: {said}");
        }
        assert_eq!(std::fs::read_to_string(format!("/tmp/{id}.rest")).expect("it goes on"), "on\n");
        assert_eq!(other.sh(0, "cat /run/secrets/pin").quiet(), "x", "after {id}");
        assert_eq!(sh(&format!("cat {}", daemon.path("pin"))).quiet(), "y");
        let reason = if id == "expired" { "expired" } else { "revoked" };
        daemon.await_audit("the refused read", |e| {
            e["op"] == "read" && e["container"] == id && e["reason"].as_str().is_some_and(|r| r.contains(reason))
        });
    }
}

#[test]
fn owners_are_those_inside_with_a_map_that_changes_from_start_to_start() {
    let daemon = Daemon::start();
    daemon.cli(&["scope", "add", "web"]).ok();
    put(&daemon, "containers/web/root", "r", &[]);
    put(&daemon, "containers/web/app", "a", &["-o", "999", "-g", "999"]);
    let stat = "stat -c %u:%g /run/secrets /run/secrets/root /run/secrets/app | tr '\\n' ' '";
    for (i, map) in [SAME, SHIFTED, FURTHER, SAME, SHIFTED].into_iter().enumerate() {
        let container = Container::attached(&daemon, "web", map, &format!("start-{i}"));
        assert_eq!(container.sh(0, stat).quiet(), "0:0 0:0 999:999 ", "{map}");
        assert_eq!(container.sh(0, "cat /run/secrets/root").quiet(), "r", "{map}");
        assert_eq!(container.sh(999, "cat /run/secrets/app").quiet(), "a", "{map}");
        container.sh(999, "cat /run/secrets/root").refused("Permission denied");
        let outside = sh(&format!("stat -c %u {}", daemon.path("containers/web/app"))).quiet();
        let first: u32 = map.split(' ').nth(1).and_then(|n| n.parse().ok()).expect("a map");
        assert_eq!(outside.trim(), (first + 999).to_string(), "{map}");
        // An ACL for a user inside.
        sh(&format!("setfacl -b -m u:33:r {}", daemon.path("containers/web/root"))).ok();
        assert_eq!(container.sh(33, "cat /run/secrets/root").quiet(), "r", "{map}");
        container.end_and_forget(&daemon);
    }
}

#[test]
fn inside_only_what_was_declared_writable_changes() {
    let daemon = Daemon::start();
    daemon.cli(&["scope", "add", "ro"]).ok();
    daemon.cli(&["scope", "add", "rw", "--write"]).ok();
    for scope in ["ro", "rw"] {
        put(&daemon, &format!("containers/{scope}/pin"), "old", &[]);
    }
    let ro = Container::attached(&daemon, "ro", SHIFTED, "ro-1");
    let rw = Container::attached(&daemon, "rw", SHIFTED, "rw-1");
    for script in
        ["echo new > /run/secrets/pin", "rm -f /run/secrets/pin", "touch /run/secrets/new", "mkdir /run/secrets/d"]
    {
        ro.sh(0, script).refused("Permission denied");
    }
    // chmod(2) asks nobody but the kernel first: inside root owns it.
    ro.sh(0, "chmod 0644 /run/secrets/pin").refused("Permission denied");
    rw.sh(0, "echo new > /run/secrets/pin && cat /run/secrets/pin").quiet();
    rw.sh(0, "printf app | install -m 0400 -o 999 -g 999 /dev/stdin /run/secrets/app").quiet();
    assert_eq!(rw.sh(999, "cat /run/secrets/app; stat -c %u:%a /run/secrets/app").quiet(), "app999:400\n");
    rw.sh(0, "mkdir /run/secrets/d && ln -s ../pin /run/secrets/d/link && cat /run/secrets/d/link").quiet();
    for link in ["/etc/shadow", "../../ro/pin", ".."] {
        rw.sh(0, &format!("ln -s {link} /run/secrets/out")).refused("Operation not permitted");
    }
    rw.sh(0, "mv /run/secrets/d/link /run/secrets/link").refused("Operation not permitted");
    // On the host, the folders of scopes come and go with them.
    let containers = daemon.path("containers");
    for script in ["mkdir C/new", "rmdir C/ro", "mv C/ro C/other", "rm -rf C/ro"] {
        sh(&format!("export LC_ALL=C; {}", script.replace('C', &containers))).refused("Operation not permitted");
    }
    daemon.cli(&["scope", "rm", "rw"]).refused("attached");
    rw.end_and_forget(&daemon);
    daemon.cli(&["scope", "rm", "rw"]).refused("--purge");
    daemon.cli(&["scope", "rm", "rw", "--purge"]).ok();
    sh(&format!("ls {containers}/rw")).refused("No such file");
}

#[test]
fn an_instance_ends_with_its_first_process_and_survives_what_the_daemon_does() {
    let mut daemon = Daemon::start();
    daemon.cli(&["scope", "add", "web"]).ok();
    put(&daemon, "containers/web/pin", "x", &[]);
    let mut container = Container::attached(&daemon, "web", SAME, "web-1");
    daemon.lock();
    container.attach(&daemon, "web", &["--id", "web-2"]).refused("locked");
    daemon.unlock();
    assert_eq!(container.sh(0, "cat /run/secrets/pin").quiet(), "x", "after a lock");
    let serial = instance(&daemon, "web-1").expect("it is attached")["key_serial"].clone();
    daemon.restart();
    let again = instance(&daemon, "web-1").expect("it was taken up again");
    assert_eq!(again["state"], "alive");
    assert_ne!(again["key_serial"], serial);
    daemon.kill9();
    daemon.serve();
    assert_eq!(instance(&daemon, "web-1").expect("it was taken up again")["state"], "alive");
    let begun = Instant::now();
    container.end();
    wait_for("its end to be noticed", SECOND, || instance(&daemon, "web-1").is_none().then_some(()));
    assert!(begun.elapsed() < SECOND, "{:?}", begun.elapsed());
    daemon.await_audit("the end", |e| {
        e["op"] == "detach" && e["reason"].as_str().is_some_and(|r| r.contains("web-1: its first process has ended"))
    });
}

/// The rows of the matrix in tests/access.rs that can be told apart from outside: who asks × state of the entry.
#[test]
fn the_matrix_mounted() {
    let daemon = Daemon::start();
    for scope in ["web", "db"] {
        daemon.cli(&["scope", "add", scope]).ok();
    }
    put(&daemon, "containers/web/pin", "x", &["-m", "0644"]);
    let at = daemon.path("containers/web/pin");
    let stranger = Container::new(&daemon, "web", SAME);
    let other = Container::new(&daemon, "web", SAME);
    other.attach(&daemon, "db", &["--id", "db-1"]).ok();
    for state in ["alive", "revoked", "expired", "missing"] {
        let container = Container::new(&daemon, "web", SAME);
        let more: &[&str] = if state == "expired" { &["--timeout", "1s"] } else { &[] };
        container.attach(&daemon, "web", &[&["--id", state], more].concat()).ok();
        let serial = instance(&daemon, state).expect("it is attached")["key_serial"].to_string();
        match state {
            "revoked" => drop(sh(&format!("keyctl revoke {serial}")).ok()),
            // What root writes over is found by its check, and refused.
            "missing" => drop(sh(&format!("keyctl update {serial} spoiled")).ok()),
            "expired" => wait_for("the end of its time", Duration::from_secs(20), || {
                (instance(&daemon, state)?["state"] == "expired").then_some(())
            }),
            _ => {}
        }
        let inside = container.sh(0, "cat /run/secrets/pin");
        match state {
            "alive" => assert_eq!(inside.quiet(), "x"),
            "revoked" => drop(inside.refused("Key has been revoked")),
            "expired" => drop(inside.refused("Key has expired")),
            _ => drop(inside.refused("Required key not available")),
        }
        // Nobody else learns of the key's state.
        stranger.sh(0, "cat /run/secrets/pin").refused("Permission denied");
        other.sh(0, "cat /run/secrets/pin").refused("Permission denied");
        sh(&format!("LC_ALL=C cat {at}")).refused("Permission denied");
        container.end_and_forget(&daemon);
    }
}

/// What the kernel keeps of a private mapping is dropped with the key: the process that touches it again gets SIGBUS.
#[test]
fn a_mapping_ends_with_the_key_for_this_instance_alone() {
    let daemon = Daemon::start();
    daemon.cli(&["scope", "add", "web"]).ok();
    put(&daemon, "containers/web/pin", &"x".repeat(20_000), &[]);
    let cut = Container::attached(&daemon, "web", SAME, "cut");
    let goes_on = Container::attached(&daemon, "web", SAME, "on");
    // Each look in a child, which the signal may end. One page was touched before, the other ones not.
    let script = "import mmap, os, signal, sys, time
f = os.open('/run/secrets/pin', os.O_RDONLY)
m = mmap.mmap(f, 0, mmap.MAP_PRIVATE, mmap.PROT_READ)
assert m[0] == 120
print('mapped', flush=True)
def look(at):
    child = os.fork()
    if child == 0:
        os._exit(m[at] != 120)
    return os.waitpid(child, 0)[1]
sys.stdin.readline()
for _ in range(int(sys.argv[1])):
    found = look(0), look(16384)
    if found == (signal.SIGBUS, signal.SIGBUS):
        break
    time.sleep(0.02)
print(found, flush=True)";
    std::fs::write("/tmp/mapping.py", script).expect("a script");
    let mut readers =
        [(&cut, 200), (&goes_on, 1)].map(|(c, looks)| c.held(&format!("python3 /tmp/mapping.py {looks}")));
    readers.iter_mut().for_each(|reader| assert_eq!(reader.line(), "mapped"));
    daemon.cli(&["detach", "cut"]).ok();
    readers.iter_mut().for_each(common::Held::go_on);
    assert_eq!(readers[0].line(), "(7, 7)", "SIGBUS, both");
    // The pages are of the file: who may read on gets them anew.
    assert_eq!(readers[1].line(), "(0, 0)");
}

/// New keys for everybody: those inside read on, by the entry they had, and one that was cut off stays so.
#[test]
fn a_rekeying_is_not_seen_inside() {
    let daemon = Daemon::start();
    daemon.cli(&["scope", "add", "web"]).ok();
    put(&daemon, "containers/web/pin", "x", &["-m", "0644"]);
    let container = Container::attached(&daemon, "web", SAME, "web-1");
    let cut = Container::attached(&daemon, "web", SAME, "web-2");
    daemon.cli(&["detach", "web-2"]).ok();
    let serial = || instance(&daemon, "web-1").expect("it is attached")["key_serial"].clone();
    let (before, passphrase) = (serial(), daemon.file("passphrase").display().to_string());
    let done = daemon.file("rekeyed");
    let script = format!(
        "exec 3</run/secrets/pin; for i in $(seq 400); do [ -e {} ] && break; sleep 0.1; done; cat <&3",
        done.display()
    );
    let held = std::thread::scope(|threads| {
        let reader = threads.spawn(|| container.sh(0, &script));
        daemon.await_open("containers/web/pin", 0);
        daemon.cli(&["rekey", "--old-passphrase-file", &passphrase, "--new-passphrase-file", &passphrase]).ok();
        std::fs::write(&done, "").expect("a file");
        reader.join().expect("it ran")
    });
    assert_eq!(held.quiet(), "x", "what was open before");
    assert_eq!(container.sh(0, "cat /run/secrets/pin").quiet(), "x");
    assert_eq!(serial(), before, "by the same entry");
    cut.sh(0, "cat /run/secrets/pin").refused("");
    put(&daemon, "containers/web/pin", "y", &[]);
    assert_eq!(container.sh(0, "cat /run/secrets/pin").quiet(), "y");
    daemon.cli(&["fsck", "--deep"]).ok();
}
