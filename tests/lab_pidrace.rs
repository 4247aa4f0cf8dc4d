//! The race for a process id: a caller is killed while its open is in flight, and its number goes at once to a process of
//! the instance that the secret belongs to. Never is that taken for the caller.
//!
//! 10,000 rounds, half of them with a thief of the host, half with one of another instance; `PINFOLD_PIDRACE=N` is another
//! number.

use crate::common;

use common::{Daemon, Held, ROOT, sh};
use serde_json::Value;
use std::process::Command;

fn rounds() -> u64 {
    match std::env::var("PINFOLD_PIDRACE") {
        Ok(asked) => asked.parse().unwrap_or_else(|_| panic!("PINFOLD_PIDRACE={asked} is no number")),
        Err(_) => 10_000,
    }
}

/// A container of unshare(1), in a cgroup of its own.
struct Plain {
    shell: Option<Held>,
    pid: u32,
    cgroup: String,
}

impl Plain {
    /// `kind` is for unshare(1); the first process inside says `up` and stays.
    #[track_caller]
    fn start(name: &str, kind: &str) -> Self {
        let cgroup = format!("/sys/fs/cgroup/pidrace-{name}");
        sh(&format!("mkdir {cgroup}")).quiet();
        let script = format!("echo 0 >{cgroup}/cgroup.procs; exec unshare {kind} sh -c 'echo up; read x'");
        let mut shell = Held::start(ROOT, &script);
        assert_eq!(shell.line(), "up");
        let mut pid = shell.pid();
        if kind.contains("--fork") {
            // unshare itself is no part of the container.
            sh(&format!("echo {pid} >/sys/fs/cgroup/cgroup.procs")).quiet();
            pid = sh(&format!("cat /proc/{pid}/task/{pid}/children")).quiet().trim().parse().expect("one child");
        }
        Plain { shell: Some(shell), pid, cgroup }
    }

    #[track_caller]
    fn attach(&self, daemon: &Daemon, scope: &str) {
        daemon.cli(&["scope", "add", scope]).ok();
        let path = format!("containers/{scope}/pin");
        daemon.cli_with(&["put", &path, "-o", "0", "-m", "0600"], b"its own").ok();
        daemon.cli(&["attach", scope, "--pid", &self.pid.to_string(), "--id", scope]).ok();
        let list = daemon.json(&["instances", "--json"]);
        let known = list.as_array().and_then(|l| l.iter().find(|i| i["id"] == scope)).expect("it is attached");
        assert_eq!(known["cgroup"], self.cgroup.trim_start_matches("/sys/fs/cgroup"));
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        drop(self.shell.take());
        let _ = Command::new("sh")
            .args([
                "-c",
                &format!(
                    "kill -9 {}; for i in 1 2 3 4 5 6 7 8 9; do rmdir {} && break; sleep 0.1; done",
                    self.pid, self.cgroup
                ),
            ])
            .output();
    }
}

#[test]
fn a_killed_callers_number_in_another_instance_is_never_a_grant() {
    let daemon = Daemon::start();
    let owner = Plain::start("owner", "--pid --fork --kill-child");
    let other = Plain::start("other", "--user --map-root-user");
    owner.attach(&daemon, "owner");
    other.attach(&daemon, "other");
    let path = daemon.path("containers/owner/pin");
    let control = || {
        let enter = format!("echo 0 >{}/cgroup.procs && exec nsenter -t {} -p cat {path}", owner.cgroup, owner.pid);
        assert_eq!(sh(&enter).ok().text(), "its own");
    };
    control();
    for thief in [None, Some(&other)] {
        let mut race = Command::new("/src/tests/lab/pidrace.py");
        race.arg(&path).arg((rounds() / 2).to_string()).arg(daemon.pid().to_string());
        race.arg(owner.pid.to_string()).arg(&owner.cgroup);
        if let Some(thief) = thief {
            race.arg(thief.pid.to_string()).arg(&thief.cgroup);
        }
        let out = patiently(race);
        let done: Value = serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}"));
        println!("thief of {}: {done}", thief.map_or("the host", |_| "another instance"));
        assert_eq!(done["reused"], done["rounds"], "not every number was used again");
    }
    control();
    // Who belongs to it opened it twice; everything else would be a thief's.
    daemon.await_audit("both controls", |_| opened(&daemon).len() >= 2);
    let opened = opened(&daemon);
    assert_eq!(opened.len(), 2, "{opened:#?}");
    let denied =
        daemon.audit().iter().filter(|e| e["path"] == "containers/owner/pin" && e["decision"] == "denied").count();
    assert!(denied > 10, "the thieves did not even try");
}

/// Allowed opens of the owner's secret.
fn opened(daemon: &Daemon) -> Vec<Value> {
    let all = daemon.audit().into_iter();
    all.filter(|e| e["path"] == "containers/owner/pin" && e["op"] == "open" && e["decision"] == "allowed").collect()
}

/// Runs what may take minutes.
#[track_caller]
fn patiently(command: Command) -> String {
    let mut limited = Command::new("timeout");
    limited.arg("1200").arg(command.get_program()).args(command.get_args());
    let out = limited.output().expect("timeout(1) is there");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}
