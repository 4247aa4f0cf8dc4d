//! A flood of refusals delays nobody and is counted; and the audit log, after all of it, shows every tampering.

use crate::common;

use common::{ALICE, BOB, Daemon, Held, ROOT, User, sh, wait_for};
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

/// Refused opens of the flood.
const FLOOD: u64 = 50_000;

/// A secret of alice's and one nobody may open but uid 4000.
#[track_caller]
fn enrol(daemon: &Daemon) {
    sh(&format!(
        "set -e; cd {}; echo hers > hers; chown 2001 hers; echo else > else; chown 4000 else",
        daemon.root().display()
    ))
    .quiet();
}

/// Opens a path so often and prints how many were refused.
fn knock(user: User, path: &str, times: u64) -> Held {
    let line = format!(
        r#"
import os
print("knocking", flush=True)
refused = 0
for i in range({times}):
    try:
        os.close(os.open("{path}", os.O_RDONLY))
    except PermissionError:
        refused += 1
print(refused, flush=True)
"#
    );
    Held::start(user, &format!("exec /usr/bin/python3 -c '{line}'"))
}

/// The 50th and 99th percentile of an authorised open, read and close, in microseconds.
#[track_caller]
fn latency(path: &str) -> (u64, u64) {
    let line = format!(
        r#"
import os, time
took = []
for i in range(2000):
    begun = time.perf_counter_ns()
    f = os.open("{path}", os.O_RDONLY); os.read(f, 100); os.close(f)
    took.append(time.perf_counter_ns() - begun)
took.sort()
print(took[1000] // 1000, took[1980] // 1000)
"#
    );
    let said = ALICE.sh(&format!("exec /usr/bin/python3 -c '{line}'")).quiet();
    let mut numbers = said.split_whitespace().map(|n| n.parse().expect("a number"));
    (numbers.next().expect("two numbers"), numbers.next().expect("two numbers"))
}

/// How many refusals of somebody the log tells of, listed one by one or summed up.
fn counted(events: &[Value], uid: u32) -> u64 {
    let denied = events.iter().filter(|e| e["uid"] == uid && e["decision"] == "denied");
    denied.map(|e| e["count"].as_u64().unwrap_or(1)).sum()
}

#[test]
fn a_flood_delays_nobody_and_none_of_it_is_forgotten() {
    let daemon = Daemon::start();
    enrol(&daemon);
    let (hers, other) = (daemon.path("hers"), daemon.path("else"));
    latency(&hers);
    let quiet = latency(&hers);
    // By the kernel (a probe each) and by the daemon (root passes the kernel): both at once, on two cores.
    let mut knocks = [knock(BOB, &other, FLOOD), knock(ROOT, &other, FLOOD)];
    for knock in &mut knocks {
        assert_eq!(knock.line(), "knocking");
    }
    let flooded = latency(&hers);
    for mut knock in knocks {
        assert_eq!(knock.line(), FLOOD.to_string(), "each was refused");
        assert_eq!(knock.end().0, 0);
    }
    println!("authorised open, p50 and p99 in microseconds: {quiet:?} before, {flooded:?} during the flood");
    // Three processes and the daemon share two cores: its turn may come a few scheduler slices later, not seconds.
    assert!(flooded.1 < quiet.1 * 20 + 20_000, "p99 {quiet:?} before, {flooded:?} during");
    for (uid, op) in [(2002, "probe"), (0, "open")] {
        wait_for(&format!("the last sum of uid {uid}"), Duration::from_secs(10), || {
            (counted(&daemon.audit(), uid) >= FLOOD).then_some(())
        });
        let events = daemon.audit();
        assert_eq!(counted(&events, uid), FLOOD, "uid {uid}: each exactly once");
        let lines = events.iter().filter(|e| e["uid"] == uid && e["op"] == op && e["decision"] == "denied").count();
        assert!(lines < 500, "{lines} lines for {FLOOD} refusals of one kind");
    }
    let opened = |e: &&Value| e["uid"] == 2001 && e["op"] == "open";
    let allowed = || daemon.audit().iter().filter(opened).map(|e| e["count"].as_u64().unwrap_or(1)).sum::<u64>();
    wait_for("the last sum of the allowed opens", Duration::from_secs(10), || (allowed() >= 6000).then_some(()));
    assert_eq!(allowed(), 6000, "every allowed open is counted, once");
    daemon.cli(&["log", "--verify"]).ok();
}

#[test]
fn a_flood_of_different_paths_is_bounded_and_counted_too() {
    let daemon = Daemon::configured("max_secrets = 100000");
    enrol(&daemon);
    let tree = daemon.root().display().to_string();
    sh(&format!("mkdir {tree}/many; cd {tree}/many; for i in $(seq 1500); do echo $i > $i; done")).quiet();
    sh(&format!("chmod 755 {tree}/many")).quiet();
    let before = counted(&daemon.audit(), 2002);
    let line = format!(
        r#"
import os
refused = 0
for i in range(20000):
    try:
        os.close(os.open("{tree}/many/%d" % (1 + i % 1500), os.O_RDONLY))
    except PermissionError:
        refused += 1
print(refused, flush=True)
"#
    );
    assert_eq!(BOB.sh(&format!("exec /usr/bin/python3 -c '{line}'")).quiet(), "20000\n");
    wait_for("the last sum", Duration::from_secs(10), || {
        (counted(&daemon.audit(), 2002) >= before + 20_000).then_some(())
    });
    assert_eq!(counted(&daemon.audit(), 2002), before + 20_000);
    daemon.await_audit("what was not listed one by one", |e| e["op"] == "audit_unlisted" && e["uid"] == 2002);
    daemon.cli(&["log", "--verify"]).ok();
}

/// Changes the log of a daemon that is stopped, starts it, and says what `log --verify` does. Store and log are as they
/// were afterwards: the next change is the only one again.
#[track_caller]
fn tampered(daemon: &mut Daemon, change: impl Fn(&mut Vec<String>)) -> (i32, String) {
    let (log, store, kept) = (daemon.file("audit.log"), daemon.file("store"), daemon.file("kept"));
    let whole = std::fs::read_to_string(&log).expect("the log");
    sh(&format!("rm -rf {1}; cp -a {0} {1}", store.display(), kept.display())).quiet();
    let mut lines: Vec<String> = whole.lines().map(str::to_owned).collect();
    change(&mut lines);
    write_over(&log, &(lines.join("\n") + "\n"));
    daemon.serve();
    let out = daemon.cli(&["log", "--verify", "--json"]);
    daemon.stop();
    let said = (out.code, out.text());
    write_over(&log, &whole);
    sh(&format!("rm -rf {0}; cp -a {1} {0}", store.display(), kept.display())).quiet();
    said
}

/// The same file with other content: the log's own mode and owner stay.
fn write_over(log: &Path, text: &str) {
    std::fs::write(log, text).expect("the log is a file");
}

#[test]
fn verify_finds_what_was_altered_removed_reordered_or_cut() {
    let mut daemon = Daemon::start();
    enrol(&daemon);
    for _ in 0..20 {
        ALICE.sh(&format!("cat {}", daemon.path("hers"))).quiet();
        BOB.sh(&format!("cat {}", daemon.path("hers"))).refused("Permission denied");
    }
    daemon.await_denial("hers", 2002);
    // A commit anchors the log in the store.
    sh(&format!("echo more > {}", daemon.path("hers"))).quiet();
    daemon.cli(&["log", "--verify"]).ok();
    daemon.stop();
    let (code, said) = tampered(&mut daemon, |_| ());
    assert_eq!(code, 0, "untouched it is whole: {said}");
    type Change = fn(&mut Vec<String>);
    let changes: [(&str, Change); 6] = [
        ("altered", |lines| lines[10] = lines[10].replace("\"uid\":2001", "\"uid\":2003").replace("allowed", "denied")),
        ("removed", |lines| drop(lines.remove(12))),
        ("reordered", |lines| lines.swap(11, 14)),
        ("repeated", |lines| lines.insert(15, lines[9].clone())),
        ("not_a_line", |lines| lines.insert(8, "nothing of ours".to_owned())),
        ("cut", |lines| lines.truncate(lines.len() - 1)),
    ];
    for (kind, change) in changes {
        let (code, said) = tampered(&mut daemon, change);
        assert_eq!(code, 5, "{kind}: {said}");
        assert!(said.contains(kind), "{kind}: {said}");
    }
    let (code, said) = tampered(&mut daemon, |_| ());
    assert_eq!(code, 0, "put back as it was it is whole again: {said}");
}

#[test]
fn a_tail_cut_while_the_daemon_runs_shows() {
    let daemon = Daemon::start();
    enrol(&daemon);
    ALICE.sh(&format!("cat {}", daemon.path("hers"))).quiet();
    let log = daemon.file("audit.log");
    let whole = std::fs::read_to_string(&log).expect("the log");
    let lines: Vec<&str> = whole.lines().collect();
    let cut = lines[..lines.len() - 3].join("\n") + "\n";
    std::fs::File::options().write(true).open(&log).and_then(|f| f.set_len(cut.len() as u64)).expect("root may");
    let out = wait_for("the finding", Duration::from_secs(10), || {
        let out = daemon.cli(&["log", "--verify", "--json"]);
        (out.code == 5).then_some(out)
    });
    assert!(out.text().contains("cut"), "{}", out.text());
    // It goes on in a new file, and says what happened.
    ALICE.sh(&format!("cat {}", daemon.path("hers"))).quiet();
    daemon.await_audit("a line about it", |event| event["op"] == "audit_cut");
}
