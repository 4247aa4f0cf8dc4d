//! What a uid can use up: each row of the table of limits, met on a running daemon, with somebody beside it who is not kept from
//! anything by that.

use crate::common::process::{ALICE, BOB, LIMIT, Out, User, run};
use crate::common::{Daemon, Setup, wait_for};
use pinfold::meter::Resource;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::Mutex;
use std::time::Duration;

const BINARY: &str = env!("CARGO_BIN_EXE_pinfold");
const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/attacks/programs/use_up.py");
const WITH_CREDENTIALS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/attacks/programs/with_credentials.py");

/// A daemon with folders of alice's and bob's, and these limits.
#[track_caller]
fn limited(limits: &str) -> Daemon {
    limited_by(BINARY.into(), limits)
}

#[track_caller]
fn limited_by(binary: PathBuf, limits: &str) -> Daemon {
    let daemon = Daemon::with(Setup { config: format!("{limits}\n"), binary: Some(binary), ..Setup::default() });
    for (folder, user) in [("alice", ALICE), ("bob", BOB)] {
        let path = daemon.path(folder);
        std::fs::create_dir(&path).expect("it can be done");
        std::os::unix::fs::chown(&path, Some(user.uid), Some(user.gid)).expect("it can be done");
        user.sh(&format!("echo secret > {path}/pin")).ok();
    }
    daemon
}

fn command(user: User, what: &str, path: &str, number: u64, more: &[&str]) -> std::process::Command {
    let mut command = user.command("/usr/bin/python3");
    command.args([PROGRAM, what, path, &number.to_string()]).args(more);
    command
}

#[track_caller]
fn uses(user: User, daemon: &Daemon, what: &str, at: &str, number: u64) -> String {
    let name = format!("uid {}: {what} {at} {number}", user.uid);
    let out: Out = run(command(user, what, &daemon.path(at), number, &[]), b"", &name);
    out.ok().text().trim().to_owned()
}

#[track_caller]
fn begins(user: User, daemon: &Daemon, what: &str, at: &str, number: u64, more: &[&str]) -> Child {
    let mut command = command(user, what, &daemon.path(at), number, more);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python3")
}

#[track_caller]
fn ends(child: &mut Child) -> String {
    let code = crate::common::process::wait(child, LIMIT).expect("it ends");
    assert_eq!(code, 0);
    let mut said = String::new();
    std::io::Read::read_to_string(child.stdout.as_mut().expect("it was asked for"), &mut said).expect("it can be done");
    said.trim().to_owned()
}

fn limit(daemon: &Daemon, resource: Resource) -> serde_json::Value {
    let status = daemon.json(&["status", "--json"]);
    let rows = status["limits"].as_array().expect("rows").clone();
    rows.into_iter().find(|row| row["name"] == resource.row().name).expect("its row")
}

/// A row without an arm does not compile. Each has a daemon of its own and waits most of the time: a few go side by side.
#[test]
fn every_limit_is_met_by_whoever_asks_for_more_and_by_nobody_else() {
    let rows = Mutex::new(Resource::all());
    let next = || rows.lock().expect("nothing panics that holds it").next();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(resource) = next() {
                    exhaust(resource);
                }
            });
        }
    });
}

#[track_caller]
fn met(daemon: &Daemon, resource: Resource) {
    let row = limit(daemon, resource);
    assert!(row["refused"].as_u64().expect("a number") > 0, "{row}");
    let metrics = std::fs::read_to_string(daemon.path(".pinfold/metrics")).expect("it can be done");
    let name = resource.row().name;
    assert!(metrics.contains(&format!("pinfold_limit_met_total{{limit=\"{name}\"}} ")), "{metrics}");
    assert_eq!(BOB.sh(&format!("cat {}", daemon.path("bob/pin"))).quiet(), "secret\n");
}

fn exhaust(resource: Resource) {
    match resource {
        Resource::Handles => {
            let daemon = limited("[limits]\nhandles = 50");
            assert_eq!(uses(ALICE, &daemon, "handles", "alice/pin", 60), "50 EMFILE");
            assert_eq!(uses(ALICE, &daemon, "directories", "alice", 60), "50 EMFILE");
            assert_eq!(uses(BOB, &daemon, "handles", "bob/pin", 50), "50 ok");
            met(&daemon, resource);
        }
        Resource::HandleBytes => {
            let daemon = limited("");
            ALICE.sh(&format!("head -c 1048576 /dev/zero > {}", daemon.path("alice/large"))).ok();
            // As docs/limits.md says.
            assert_eq!(limit(&daemon, resource)["limit"], 16 << 20);
            assert_eq!(uses(ALICE, &daemon, "handles", "alice/large", 200), "16 ENOMEM");
            let mut child = begins(ALICE, &daemon, "handles", "alice/large", 16, &["hold"]);
            let mut said = String::new();
            BufReader::new(child.stdout.as_mut().expect("it was asked for")).read_line(&mut said).expect("a line");
            assert_eq!(said, "16 ok\n");
            let path = daemon.path("");
            ALICE.sh(&format!("cat {path}/alice/large")).refused("Cannot allocate memory");
            let last = ALICE.sh(&format!("cat {path}/.pinfold/last-error")).quiet();
            assert!(last.contains("handle_bytes"), "what explains the refusal is told all the same: {last}");
            child.stdin.take().expect("it was asked for").write_all(b"\n").expect("it can be done");
            ends(&mut child);
            met(&daemon, resource);
        }
        Resource::Snapshots => {
            let daemon = limited("[limits]\nsnapshots = 65536");
            assert_eq!(uses(ALICE, &daemon, "files", "alice", 300), "300 ok");
            assert_eq!(uses(ALICE, &daemon, "directories", "alice", 500), "500 ok", "they share one");
            let said = uses(ALICE, &daemon, "changed-directories", "alice", 100);
            assert!(said.ends_with(" ENOMEM"), "{said}");
            assert_eq!(limit(&daemon, resource)["used"], 0, "it comes back");
            met(&daemon, resource);
        }
        Resource::DirtyCopies => {
            let daemon = limited("[limits]\ndirty_copies = 5");
            assert_eq!(uses(ALICE, &daemon, "dirty", "alice", 10), "5 EDQUOT");
            met(&daemon, resource);
        }
        Resource::Waiters => {
            let daemon = limited("[limits]\nwaiters = 2");
            daemon.lock();
            let mut child = begins(ALICE, &daemon, "at-once", "unknown-%", 4, &[]);
            wait_for("two who wait", Duration::from_secs(20), || {
                let row = limit(&daemon, resource);
                (row["used"] == 2 && row["refused"] == 2).then_some(())
            });
            daemon.unlock();
            assert_eq!(ends(&mut child), "ENOENT:2 ENOKEY:2");
            met(&daemon, resource);
        }
        Resource::Delayed => {
            let daemon = limited("[limits]\nopens = 1\ndelayed = 2");
            let said = uses(ALICE, &daemon, "at-once", "alice/pin", 12);
            assert!(said.starts_with("EAGAIN:"), "{said}");
            met(&daemon, resource);
        }
        Resource::Refusals => {
            let daemon = limited("");
            daemon.cli_with(&["put", "-m", "0400", "hers"], b"x").ok();
            let mut child = begins(ALICE, &daemon, "guesses", "bob", 3000, &[]);
            // Each is kept apart for a second: that she meets the bound depends on how fast the machine is, so the log's queue shows it by a
            // clock of its own.
            wait_for("what waits", Duration::from_secs(20), || {
                let row = limit(&daemon, resource);
                (row["used"].as_u64()? > 0 && row["most"].as_u64()? > 0).then_some(())
            });
            assert_eq!(ends(&mut child), "done");
            BOB.sh(&format!("cat {}", daemon.path("hers"))).refused("denied");
            daemon.await_denial("hers", BOB.uid);
        }
        Resource::Opens => {
            let daemon = limited("[limits]\nopens = 20");
            let seconds: f64 = uses(ALICE, &daemon, "opens", "alice/pin", 100).parse().expect("seconds");
            assert!(seconds > 2.0, "{seconds}");
            let mut child = begins(ALICE, &daemon, "opens", "alice/pin", 100, &[]);
            let seconds: f64 = uses(BOB, &daemon, "opens", "bob/pin", 20).parse().expect("seconds");
            assert!(seconds < 1.0, "{seconds}");
            ends(&mut child);
            met(&daemon, resource);
        }
        Resource::Commits => {
            let daemon = limited("");
            let mut child = begins(ALICE, &daemon, "fsyncs", "alice", 24, &[]);
            wait_for("somebody who waits", Duration::from_secs(20), || {
                (limit(&daemon, Resource::Delayed)["used"].as_u64()? > 5).then_some(())
            });
            assert!(limit(&daemon, resource)["used"].as_u64().expect("a number") <= 8);
            assert_eq!(ends(&mut child), "done");
            met(&daemon, resource);
        }
        Resource::CommitRate => {
            let daemon = limited("[limits]\ncommit_rate = 2");
            let seconds: f64 = uses(ALICE, &daemon, "commits", "alice", 46).parse().expect("seconds");
            assert!(seconds > 1.5, "{seconds}");
            // What changes no content counts as well: each leaves a line in the log.
            for what in ["chmods", "times", "attributes", "lists"] {
                let seconds: f64 = uses(ALICE, &daemon, what, "alice/pin", 4).parse().expect("seconds");
                assert!(seconds > 1.2, "{what}: {seconds}");
            }
            met(&daemon, resource);
        }
        Resource::CommitBytes => {
            let daemon = limited("[limits]\ncommit_bytes = 100000");
            assert_eq!(uses(ALICE, &daemon, "large", "alice", 5), "1 EDQUOT");
            assert_eq!(uses(BOB, &daemon, "large", "bob", 1), "1 ok");
            met(&daemon, resource);
        }
        Resource::Secrets => {
            let daemon = limited("max_secrets = 100");
            // Her folder and her pin are hers already.
            assert_eq!(uses(ALICE, &daemon, "files", "alice", 20), "8 EDQUOT");
            met(&daemon, resource);
        }
        Resource::StoredBytes => {
            let daemon = limited("[limits]\nstored_bytes = 100000");
            assert_eq!(uses(ALICE, &daemon, "large", "alice", 5), "1 EDQUOT");
            ALICE.sh(&format!("rm {}", daemon.path("alice/large-0"))).ok();
            assert_eq!(uses(ALICE, &daemon, "large", "alice", 5), "0 EDQUOT", "what is kept of the removed one counts");
            met(&daemon, resource);
        }
        Resource::Versions => {
            let daemon = limited("[limits]\nversions = 4");
            assert_eq!(uses(ALICE, &daemon, "small", "alice", 5), "3 EDQUOT");
            met(&daemon, resource);
        }
        Resource::Removed => {
            let daemon = limited("[limits]\nremoved = 10");
            daemon.cli_with(&["put", "roots"], b"x").ok();
            daemon.cli(&["rm", "roots"]).ok();
            assert_eq!(uses(ALICE, &daemon, "removed", "alice", 60), "60 ok");
            daemon.cli(&["history", "roots"]).ok();
            daemon.cli(&["history", "alice/removed-59"]).ok();
            daemon.cli(&["history", "alice/removed-0"]).refused("");
            let row = limit(&daemon, resource);
            assert_eq!((&row["used"], &row["most"]), (&11.into(), &10.into()));
        }
        Resource::Control => {
            let daemon = limited("[limits]\ncontrol = 2");
            let connect = || std::os::unix::net::UnixStream::connect(daemon.file("control.sock")).expect("it listens");
            let mut held: Vec<_> = (0..9).map(|_| connect()).collect();
            let mut said = String::new();
            let last = held.last_mut().expect("there are nine");
            last.set_read_timeout(Some(LIMIT)).expect("it can be done");
            BufReader::new(&*last).read_line(&mut said).ok();
            assert!(said.contains("too many connections"), "{said}");
            drop(held);
            wait_for("a place", Duration::from_secs(20), || (daemon.cli(&["status"]).code == 0).then_some(()));
            met(&daemon, resource);
        }
        Resource::ControlLarge => {
            let daemon = limited("");
            let content = vec![b'x'; 1 << 20];
            std::thread::scope(|scope| {
                for n in 0..6 {
                    let (daemon, content) = (&daemon, &content);
                    scope.spawn(move || daemon.cli_with(&["put", &format!("large-{n}")], content).ok());
                }
            });
            assert_eq!(limit(&daemon, resource)["used"], 0);
        }
        Resource::ControlLog => {
            let daemon = limited("");
            // More lines than a socket holds that nobody reads.
            assert_eq!(uses(ALICE, &daemon, "files", "alice", 1000), "1000 ok");
            let ask = || {
                let mut stream =
                    std::os::unix::net::UnixStream::connect(daemon.file("control.sock")).expect("it listens");
                let call = b"{\"method\":\"org.pinfold.LogRead\",\"parameters\":{\"last\":100000},\"more\":true}\0";
                stream.write_all(call).expect("it listens");
                stream
            };
            let held: Vec<_> = (0..2).map(|_| ask()).collect();
            wait_for("two readers", LIMIT, || (limit(&daemon, resource)["used"] == 2).then_some(()));
            let mut said = vec![];
            BufReader::new(ask()).read_until(0, &mut said).expect("an answer");
            assert!(String::from_utf8_lossy(&said).contains("others are reading the audit log"), "{said:?}");
            drop(held);
            wait_for("their places", LIMIT, || (limit(&daemon, resource)["used"] == 0).then_some(()));
            met(&daemon, resource);
        }
        Resource::Credentials => {
            let folder = tempfile::tempdir().expect("it can be done");
            let (program, socket) = (folder.path().join("pinfold"), folder.path().join("credentials"));
            crate::common::program(
                &program,
                &format!("#!/bin/sh\nexec python3 {WITH_CREDENTIALS} {} {BINARY} \"$@\"\n", socket.display()),
            );
            std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).expect("it is ours");
            let daemon = limited_by(program, "");
            let socket = socket.to_string_lossy();
            let connects = |user, number| {
                run(command(user, "credentials", &socket, number, &[]), b"", "connects").ok().text().trim().to_owned()
            };
            // Whoever is refused a credential gets more than systemd takes, and holds a place until it has read that.
            assert_eq!(connects(ALICE, 12), "4 held, 8 closed");
            assert_eq!(connects(BOB, 4), "4 held, 0 closed");
            met(&daemon, resource);
        }
        // The kernel makes the keys, by the one rule of the machine: `upcall::a_uid_has_its_share`.
        Resource::Upcalls => {}
    }
}

/// 8,000 handles on a directory of 1,000 entries once took 2 GB of locked memory, which did not come back.
#[test]
fn directories_held_open_share_their_entries_and_give_the_memory_back() {
    let daemon = limited("[limits]\nhandles = 10000");
    assert_eq!(uses(ALICE, &daemon, "files", "alice", 1000), "1000 ok");
    let begun = resident(&daemon);
    let mut child = begins(ALICE, &daemon, "directories", "alice", 8000, &["hold"]);
    let mut said = String::new();
    BufReader::new(child.stdout.as_mut().expect("it was asked for")).read_line(&mut said).expect("a line");
    assert_eq!(said, "8000 ok\n");
    let held = resident(&daemon);
    assert!(held < begun + (16 << 10), "{begun} KiB, then {held} KiB");
    child.stdin.take().expect("it was asked for").write_all(b"\n").expect("it can be done");
    ends(&mut child);
    wait_for("the last handle", Duration::from_secs(20), || {
        (limit(&daemon, Resource::Handles)["used"] == 0 && limit(&daemon, Resource::Snapshots)["used"] == 0)
            .then_some(())
    });
    let after = resident(&daemon);
    assert!(after < begun + (8 << 10), "{begun} KiB, then {after} KiB");
}

/// With 24 writers of one uid that sync, another's open went from 4 to 196 ms at the 99th percentile: they had all threads.
#[test]
fn who_syncs_all_the_time_keeps_nobody_from_opening() {
    let daemon = limited("");
    let alone: f64 = uses(BOB, &daemon, "latencies", "bob/pin", 300).parse().expect("seconds");
    let mut child = begins(ALICE, &daemon, "fsyncs", "alice", 24, &[]);
    let beside: f64 = uses(BOB, &daemon, "latencies", "bob/pin", 300).parse().expect("seconds");
    assert_eq!(ends(&mut child), "done");
    assert!(beside < alone.max(5.0) * 10.0, "{alone} ms alone, {beside} ms beside 24 who write and sync");
}

fn resident(daemon: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}
