//! Real containers: podman with runc or crun, a busybox for a system, and the hooks of mount-helpers.
//!
//! Owns podman's storage in a folder of its own, and the containers in it; dropping takes all of it away.

use super::daemon::{Daemon, binary};
use super::process::{Out, ROOT, run};
use super::{Held, sh};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Both that Debian has.
pub const RUNTIMES: [&str; 2] = ["runc", "crun"];

/// Whether a runtime can make a container of this kind on any host: without a user namespace crun raises
/// RLIMIT_MEMLOCK without end, for its device filter, and a host that is itself confined does not let it.
pub fn can_make(runtime: &str, ids_from: Option<u32>) -> bool {
    runtime != "crun" || ids_from.is_some()
}
/// Where the lab has the repository.
const HELPERS: &str = "/src/mount-helpers";

/// podman with one runtime, for the containers of one daemon.
pub struct Podman {
    home: tempfile::TempDir,
    runtime: &'static str,
}

/// A container to be made.
#[derive(Debug, Clone, Default)]
pub struct Spec {
    /// Its name.
    pub name: &'static str,
    /// What its annotation says.
    pub scope: Option<&'static str>,
    /// The first of the 65536 host ids that its own mean; no user namespace if there is none.
    pub ids_from: Option<u32>,
    /// What it gets to see where: host path, path inside, and `ro` or `rw`.
    pub mounts: Vec<(String, &'static str, &'static str)>,
    /// More for `podman run`.
    pub options: Vec<&'static str>,
}

impl Spec {
    /// One that is attached to a scope and sees its subtree as everybody does.
    pub fn of(daemon: &Daemon, name: &'static str, scope: &'static str, ids_from: Option<u32>) -> Self {
        Spec { name, scope: Some(scope), ids_from, ..Spec::default() }.mount(daemon, scope, "/run/secrets", "ro")
    }

    /// One that sees the subtree without being attached.
    pub fn unattached(daemon: &Daemon, name: &'static str, scope: &'static str, ids_from: Option<u32>) -> Self {
        Spec { scope: None, ..Spec::of(daemon, name, scope, ids_from) }
    }

    /// With a scope's subtree at a path.
    pub fn mount(mut self, daemon: &Daemon, scope: &str, at: &'static str, how: &'static str) -> Self {
        self.mounts.retain(|(_, other, _)| *other != at);
        self.mounts.push((daemon.path(&format!("containers/{scope}")), at, how));
        self
    }

    /// With more options.
    pub fn with(mut self, options: &[&'static str]) -> Self {
        self.options.extend(options);
        self
    }
}

impl Podman {
    /// Its hooks speak to this daemon.
    #[track_caller]
    pub fn new(daemon: &Daemon, runtime: &'static str) -> Self {
        let home = tempfile::Builder::new().prefix("podman-").tempdir().expect("a temporary folder");
        // The ids of a user namespace must be able to walk to the root folders in it.
        std::fs::set_permissions(home.path(), PermissionsExt::from_mode(0o755)).expect("the folder is ours");
        let podman = Podman { home, runtime };
        std::fs::create_dir(podman.file("hooks")).expect("a folder for hooks");
        let env = [
            format!("PINFOLD={}", binary().display()),
            format!("PINFOLD_CONFIG={}", daemon.file("pinfold.toml").display()),
        ];
        for name in ["pinfold-attach.json", "pinfold-detach.json"] {
            let shipped = std::fs::read(Path::new(HELPERS).join("hooks.d").join(name)).expect("it is shipped");
            let mut hook: Value = serde_json::from_slice(&shipped).expect("JSON");
            hook["hook"]["path"] = json!(format!("{HELPERS}/pinfold-oci-hook"));
            hook["hook"]["env"] = json!(env);
            std::fs::write(podman.file("hooks").join(name), hook.to_string()).expect("the folder is ours");
        }
        podman
    }

    /// A container's root folder, as the lab sees it.
    pub fn root_of(&self, name: &str) -> PathBuf {
        self.file(&format!("root-{name}"))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// `podman … ARG…`.
    pub fn command(&self) -> Command {
        let mut command = Command::new("/usr/bin/podman");
        command.arg("--root").arg(self.file("storage")).arg("--runroot").arg(self.file("run"));
        command.args(["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "none"]);
        command.arg("--hooks-dir").arg(self.file("hooks")).args(["--runtime", self.runtime]);
        command
    }

    #[track_caller]
    fn podman(&self, args: &[&str]) -> Out {
        let mut command = self.command();
        command.args(args);
        run(command, b"", &format!("podman ({}) {}", self.runtime, args.join(" ")))
    }

    /// Runs a container in the background with this for its first process; it is there afterwards also if it failed.
    #[track_caller]
    pub fn try_run(&self, spec: &Spec, script: &str) -> Out {
        let root = self.root_of(spec.name);
        if !root.exists() {
            system(&root);
        }
        let mut command = self.command();
        command.args(["run", "--detach", "--name", spec.name, "--network", "none", "--pids-limit=-1"]);
        // What the lab may raise is little: podman's defaults are more.
        for limit in ["nofile=1024:1024", "nproc=1000:1000", "memlock=65536:65536"] {
            command.args(["--ulimit", limit]);
        }
        if let Some(scope) = spec.scope {
            command.arg("--annotation").arg(format!("org.pinfold.scope={scope}"));
        }
        if let Some(first) = spec.ids_from {
            command.arg("--uidmap").arg(format!("0:{first}:65536"));
            command.arg("--gidmap").arg(format!("0:{first}:65536"));
        }
        for (from, to, how) in &spec.mounts {
            command.arg("--volume").arg(format!("{from}:{to}:{how}"));
        }
        command.args(&spec.options).arg("--rootfs").arg(&root).args(["sh", "-c", script]);
        run(command, b"", &format!("podman run ({}) {spec:?}", self.runtime))
    }

    /// A running container that does nothing by itself.
    #[track_caller]
    pub fn start(&self, spec: &Spec) -> Container<'_> {
        self.try_run(spec, "exec sleep 100000").ok();
        let seen = self.podman(&["inspect", "--format", "{{.Id}} {{.State.Pid}}", spec.name]).ok().text();
        let (id, pid) = seen.trim().split_once(' ').expect("two words");
        Container { podman: self, name: spec.name, id: id.into(), pid: pid.parse().expect("a process id") }
    }

    /// Takes a container away, whatever became of it.
    #[track_caller]
    pub fn remove(&self, name: &str) {
        self.podman(&["rm", "--force", "--time", "0", name]).ok();
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = self.command().args(["rm", "--all", "--force", "--time", "0"]).output();
        let _ = Command::new("umount").arg(self.file("storage").join("vfs")).output();
        let _ = Command::new("umount").arg(self.file("storage")).output();
    }
}

/// A running container; removed when dropped.
pub struct Container<'a> {
    podman: &'a Podman,
    pub name: &'static str,
    /// podman's id, which is the instance's.
    pub id: String,
    /// Its first process, as the lab counts it.
    pub pid: u32,
}

impl Container<'_> {
    /// A shell script inside, as root.
    #[track_caller]
    pub fn sh(&self, script: &str) -> Out {
        self.sh_as(0, script)
    }

    /// The same as another uid.
    #[track_caller]
    pub fn sh_as(&self, uid: u32, script: &str) -> Out {
        self.podman.podman(&["exec", "--user", &format!("{uid}:{uid}"), self.name, "sh", "-c", script])
    }

    /// A shell script inside that says something and waits.
    #[track_caller]
    pub fn held(&self, script: &str) -> Held {
        let command = self.podman.command();
        let program = command.get_program().to_string_lossy().into_owned();
        let words: Vec<String> = command.get_args().map(|word| format!("'{}'", word.to_string_lossy())).collect();
        assert!(!script.contains('\''), "it is quoted");
        Held::start(
            ROOT,
            &format!("exec {program} {} exec -i {} sh -c 'exec 2>&1; {script}'", words.join(" "), self.name),
        )
    }

    /// Its cgroup, as the lab names it.
    #[track_caller]
    pub fn cgroup(&self) -> String {
        let file = std::fs::read_to_string(format!("/proc/{}/cgroup", self.pid)).expect("it runs");
        file.lines().find_map(|line| line.strip_prefix("0::")).expect("the v2 line").to_owned()
    }

    /// Ends it, and waits for podman's cleaning up.
    #[track_caller]
    pub fn remove(self) {
        self.podman.remove(self.name);
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        let _ = self.podman.command().args(["rm", "--force", "--ignore", "--time", "0", self.name]).output();
    }
}

/// A whole system: busybox, keyctl and what that needs, two users.
#[track_caller]
fn system(root: &Path) {
    let root = root.display();
    sh(&format!(
        "set -e; mkdir -p {root}; cd {root}; mkdir -p bin proc sys dev etc run/secrets other tmp lib64; chmod 1777 tmp
         cp /bin/busybox bin/; for a in $(bin/busybox --list); do ln -s busybox bin/$a 2>/dev/null || true; done
         touch etc/hosts etc/hostname etc/resolv.conf run/.containerenv
         echo 'root:x:0:0::/:/bin/sh' >etc/passwd; echo 'app:x:999:999::/:/bin/sh' >>etc/passwd
         cp /usr/bin/keyctl bin/
         for l in $(ldd /usr/bin/keyctl | grep -o '/[^ ]*'); do mkdir -p ./$(dirname $l); cp -L $l ./$l; done"
    ))
    .quiet();
}
