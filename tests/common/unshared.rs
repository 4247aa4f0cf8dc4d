//! Containers as somebody makes them by hand, with unshare(1).
//!
//! Owns their processes; dropping ends them.

use super::process::{Out, ROOT};
use super::{Daemon, Held, first_of, sh, wait_for};
use serde_json::Value;
use std::io::Write;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

pub const SAME: &str = "0 0 4294967295";
pub const SHIFTED: &str = "0 100000 65536";
pub const FURTHER: &str = "0 300000 65536";
/// What is asked of the daemon comes within this, plus a second for a slow machine.
pub const SECOND: Duration = Duration::from_secs(2);

/// A container as somebody makes one by hand: user, pid and mount namespaces, the secrets bind-mounted in.
pub struct Container {
    outer: Child,
    /// Told to begin by a line, once its ids are mapped.
    stdin: ChildStdin,
    pub init: u32,
}

impl Container {
    /// With the subtree of `scope`, not attached.
    #[track_caller]
    pub fn new(daemon: &Daemon, scope: &str, map: &str) -> Self {
        Self::running(daemon, scope, map, "exec sleep 600")
    }

    /// The same with a shell script for its first process. It has the lines of [`Container::say`] on its standard input.
    #[track_caller]
    pub fn running(daemon: &Daemon, scope: &str, map: &str, script: &str) -> Self {
        // The bind mount is made before the user namespace: whoever is root there only may not see the folder above.
        let tree = daemon.path(&format!("containers/{scope}"));
        let script = format!(
            "mkdir -p /run/secrets && mount --bind {tree} /run/secrets && \
             exec unshare --user --pid --fork --kill-child sh -c {}",
            quoted(&format!("read go; {script}"))
        );
        let mut outer = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "bash", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("unshare");
        let init = first_of(outer.id(), "sh");
        for file in ["uid_map", "gid_map"] {
            std::fs::write(format!("/proc/{init}/{file}"), map).expect("its ids are mapped");
        }
        let mut stdin = outer.stdin.take().expect("it was asked for");
        stdin.write_all(b"go\n").expect("it reads");
        Container { outer, stdin, init }
    }

    /// The same, attached under this id.
    #[track_caller]
    pub fn attached(daemon: &Daemon, scope: &str, map: &str, id: &str) -> Self {
        let container = Self::new(daemon, scope, map);
        container.attach(daemon, scope, &["--id", id]).ok();
        container
    }

    #[track_caller]
    pub fn attach(&self, daemon: &Daemon, scope: &str, more: &[&str]) -> Out {
        let pid = self.init.to_string();
        daemon.cli(&[&["attach", scope, "--pid", &pid], more].concat())
    }

    /// A script run inside, as this uid of the container.
    #[track_caller]
    pub fn sh(&self, uid: u32, script: &str) -> Out {
        let inside = format!("exec setpriv --reuid={uid} --regid={uid} --clear-groups bash -c {}", quoted(script));
        ROOT.sh(&format!("export LC_ALL=C; exec nsenter -t {} -U -p -m bash -c {}", self.init, quoted(&inside)))
    }

    /// A script run inside as its root, that says something and waits.
    #[track_caller]
    pub fn held(&self, script: &str) -> Held {
        Held::start(ROOT, &format!("exec nsenter -t {} -U -p -m -S 0 -G 0 bash -c {}", self.init, quoted(script)))
    }

    /// A line for its first process.
    #[track_caller]
    pub fn say(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").expect("it reads");
    }

    pub fn end(&mut self) {
        let _ = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(self.init.cast_signed()),
            nix::sys::signal::Signal::SIGKILL,
        );
        let _ = self.outer.wait();
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.end();
    }
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// A secret of this content, put as an admin does.
#[track_caller]
pub fn put(daemon: &Daemon, path: &str, content: &str, more: &[&str]) {
    daemon.cli_with(&[&["put", "-p", path], more].concat(), content.as_bytes()).ok();
}

pub fn instance(daemon: &Daemon, id: &str) -> Option<Value> {
    let all = daemon.json(&["instances", "--json"]);
    all.as_array().expect("a list").iter().find(|i| i["id"] == id).cloned()
}

impl Container {
    /// Ends it, and waits until it is detached.
    #[track_caller]
    pub fn end_and_forget(mut self, daemon: &Daemon) {
        self.end();
        wait_for("no instance of it", SECOND, || {
            let all = daemon.json(&["instances", "--json"]);
            all.as_array()?.iter().all(|i| i["pid"] != self.init).then_some(())
        });
    }
}
