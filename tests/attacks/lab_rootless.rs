//! Containers of a user who is not root: rootless podman, with the tree bound into them.
//!
//! The lab has no newuidmap, so such a container has one id: root inside is its user. In a wider map the others are ids that the
//! user was given and nobody else has.

use crate::common::{ALICE, Daemon, Held, sh, wait_for};
use std::time::Duration;

/// What ends with the test, whatever becomes of it.
struct Rootless {
    home: tempfile::TempDir,
}

impl Rootless {
    fn new() -> Self {
        // Without a range podman maps its user alone; with one it wants newuidmap.
        sh("sed -i /^alice:/d /etc/subuid /etc/subgid").quiet();
        let home = tempfile::Builder::new().prefix("rootless-").tempdir().expect("a folder");
        let at = home.path().display();
        sh(&format!(
            "cd {at} && mkdir -p root/bin root/proc root/run/secrets home run && cp /bin/busybox root/bin/ && cd root/bin && \
             for a in sh id cat ls chmod chown ln mkdir mv rm sleep setuidgid su; do ln -s busybox $a; done && \
             chmod 755 {at} && chmod 700 {at}/home {at}/run && chown -R 2001:2001 {at}"
        ))
        .quiet();
        Rootless { home }
    }

    /// A container of alice's that runs this, with the tree at /run/secrets.
    fn start(&self, daemon: &Daemon, script: &str) -> Held {
        let at = self.home.path().display();
        Held::start(
            ALICE,
            &format!(
                "cd {at}; export HOME={at}/home XDG_RUNTIME_DIR={at}/run; exec podman --log-level fatal --storage-driver vfs \
                 --cgroup-manager cgroupfs --events-backend none --runtime crun run -i --rm --network none --pids-limit=-1 \
                 --cgroups disabled --ulimit nofile=1024:1024 --ulimit nproc=1000:1000 --security-opt unmask=ALL \
                 -v {}:/run/secrets --rootfs {at}/root sh -c '{script}'",
                daemon.root().display()
            ),
        )
    }
}

impl Drop for Rootless {
    fn drop(&mut self) {
        // podman leaves a process behind that keeps the user's namespaces.
        let _ = sh(&format!("kill -9 $(cat {}/run/libpod/tmp/pause.pid) 2>/dev/null", self.home.path().display()));
        let _ = sh("pkill -KILL -u 2001 -x podman; pkill -KILL -u 2001 -x conmon");
    }
}

#[test]
fn a_rootless_container_is_its_user_whatever_it_calls_itself_and_no_instance() {
    let daemon = Daemon::start();
    let root = daemon.root().display().to_string();
    daemon.cli(&["scope", "add", "web"]).ok();
    daemon.cli_with(&["put", "containers/web/pin"], b"of the scope").ok();
    sh(&format!("chmod 644 {root}/containers/web/pin")).quiet();
    sh(&format!(
        "cd {root} && for who in 0 2001 2002; do echo of $who > $who && chown $who:$who $who && chmod 600 $who; done"
    ))
    .quiet();
    let rootless = Rootless::new();
    let script = "cd /run/secrets; id -u; cat 2001; for f in 0 2002 containers/web/pin; do cat $f 2>&1 || echo refused $f; done; \
                  chmod 644 2002 2>&1 || echo refused chmod; chown 0 2002 2>&1 || echo refused chown; \
                  mv 2002 mine 2>&1 || echo refused mv; ln -s 2002 link 2>&1 || echo refused ln; \
                  ls containers 2>&1 || echo refused ls; echo done; read x; cat containers/web/pin 2>&1 || echo refused again; echo end";
    let mut inside = rootless.start(&daemon, script);
    let mut said = Vec::new();
    while said.last().is_none_or(|line| line != "done") {
        said.push(inside.line());
    }
    let text = said.join("\n");
    assert!(text.contains("0\nof 2001\n"), "its own, by its uid: {text}");
    for what in ["0", "2002", "containers/web/pin", "chmod", "chown", "mv", "ln", "ls"] {
        assert!(said.contains(&format!("refused {what}")), "{what}: {text}");
    }
    assert!(!text.contains("of 0") && !text.contains("of 2002") && !text.contains("of the scope"), "{text}");
    daemon.await_denial("2002", 2001);
    // Its user made its user namespace, and enters it at will: it is attached to no scope.
    let init = wait_for("the container's process", Duration::from_secs(20), || {
        sh("pgrep -u 2001 -f '^sh -c cd /run/secrets'").text().lines().next().map(str::to_owned)
    });
    daemon.cli(&["attach", "web", "--pid", &init, "--id", "one"]).refused("made its user namespace");
    inside.go_on();
    let mut after = inside.line();
    while after != "refused again" {
        assert!(after != "end" && !after.contains("of the scope"), "{after}");
        after = inside.line();
    }
}
