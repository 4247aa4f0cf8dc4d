//! `pinfold doctor`: what pinfold needs of this machine, what is there, and what to do about the rest.
//!
//! Owns the checks; those of a console's host are in `doctor_host`, those of store and log in `doctor_log`. It looks and changes nothing, and needs no daemon. What is missing altogether fails; what only a part
//! of pinfold needs is a warning.

use super::args::Json;
use super::doctor_host::Known;
use super::doctor_log;
use super::show::{self, Side};
use super::{Failure, with_stdout};
use crate::config::Config;
use crate::exit::Exit;
use serde::Serialize;
use std::fs;
use std::path::Path;

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    Ok,
    Warn,
    Fail,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Check {
    /// What was looked at.
    pub what: &'static str,
    pub outcome: Verdict,
    /// What was found.
    found: String,
    /// What to do about it.
    pub todo: Option<String>,
}

impl Check {
    pub fn ok(what: &'static str, found: impl Into<String>) -> Self {
        Check { what, outcome: Verdict::Ok, found: found.into(), todo: None }
    }

    pub fn warn(what: &'static str, found: impl Into<String>, todo: impl Into<String>) -> Self {
        Check { what, outcome: Verdict::Warn, found: found.into(), todo: Some(todo.into()) }
    }

    pub fn fail(what: &'static str, found: impl Into<String>, todo: impl Into<String>) -> Self {
        Check { outcome: Verdict::Fail, ..Self::warn(what, found, todo) }
    }
}

/// The machine that is looked at: this one, or a folder made up by a test.
pub(super) struct Machine<'a> {
    pub root: &'a Path,
}

/// Where keyutils puts its programs.
const BIN: [&str; 4] = ["usr/bin", "bin", "usr/sbin", "sbin"];
/// Where podman and CRI-O look for hooks (oci-hooks(5)).
const HOOKS: [&str; 2] = ["usr/share/containers/oci/hooks.d", "etc/containers/oci/hooks.d"];
/// The name of our hook's description.
const HOOK: &str = "pinfold.json";
/// Below this a busy machine runs out of root's key quota: an entry an instance, a key a publication.
const ROOT_KEYS: u64 = 10_000;
const ROOT_BYTES: u64 = 2_000_000;
/// Locked memory the daemon takes at the least (docs/configuration.md), in KiB.
const MEMLOCK: u64 = 256 << 10;

/// `pinfold doctor`
pub fn doctor(config: &Config, args: Json) -> Result<Exit, Failure> {
    let machine = Machine { root: Path::new("/") };
    let mut checks = machine.examine(config);
    let status = doctor_log::ask(config);
    checks.push(machine.log(config, status.as_ref()));
    checks.extend(doctor_log::quantum(status.as_ref()));
    checks.extend(machine.host(config, &Known::ask(config)));
    let worst = checks.iter().map(|c| c.outcome).max().unwrap_or(Verdict::Ok);
    with_stdout(|out| {
        if args.json {
            return show::json(out, &checks);
        }
        let rows: Vec<Vec<String>> = checks.iter().map(row).collect();
        Ok(show::columns(out, &[Side::Left; 4], &rows)?)
    })?;
    Ok(if worst == Verdict::Fail { Exit::Failed } else { Exit::Ok })
}

fn row(check: &Check) -> Vec<String> {
    let outcome = match check.outcome {
        Verdict::Ok => "ok",
        Verdict::Warn => "warn",
        Verdict::Fail => "FAIL",
    };
    let todo = check.todo.as_ref().map(|todo| format!("-> {todo}")).unwrap_or_default();
    vec![outcome.into(), check.what.into(), check.found.clone(), todo]
}

impl Machine<'_> {
    fn examine(&self, config: &Config) -> Vec<Check> {
        let mut checks = vec![
            self.fuse(),
            self.kernel(),
            self.keyring(),
            self.quota("root_maxkeys", "kernel.keys.root_maxkeys", ROOT_KEYS, 1_000_000),
            self.quota("root_maxbytes", "kernel.keys.root_maxbytes", ROOT_BYTES, 25_000_000),
            self.users_quota(),
            self.keyutils(),
            self.request_key(),
            self.cgroup(),
            self.hooks(),
            self.memlock(),
            self.exe(),
            self.labels(),
        ];
        checks.push(self.store(config));
        checks
    }

    pub fn read(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.root.join(path)).ok()
    }

    pub fn has(&self, path: &str) -> bool {
        self.root.join(path).exists()
    }

    fn fuse(&self) -> Check {
        if !self.has("dev/fuse") {
            return Check::fail("fuse", "/dev/fuse is not there", "modprobe fuse; in a container, pass the device in");
        }
        Check::ok("fuse", "/dev/fuse is there")
    }

    fn kernel(&self) -> Check {
        let release = self.read("proc/sys/kernel/osrelease").unwrap_or_default();
        let release = release.trim();
        let mut numbers = release.split(['.', '-']).map_while(|n| n.parse::<u32>().ok());
        let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        let missing: Vec<&str> = [
            ((5, 4), "pidfds: callers cannot be told apart safely"),
            ((5, 9), "secrets cannot be published as keys (close_range)"),
            ((6, 9), "a running tree cannot be taken over after a crash (RESEND)"),
            ((6, 13), "each open costs a few microseconds more (pidfd info)"),
            ((6, 16), "a lock forgets names one by one (INC_EPOCH)"),
        ]
        .into_iter()
        .filter(|(since, _)| version < *since)
        .map(|(_, what)| what)
        .collect();
        match version {
            (0, _) => Check::warn("kernel", "its version cannot be read", "mount /proc"),
            _ if missing.is_empty() => Check::ok("kernel", format!("Linux {release}")),
            v if v < (5, 4) => Check::fail(
                "kernel",
                format!("Linux {release}: {}", missing.join("; ")),
                "Linux 5.4 at the least; 6.16 has all",
            ),
            _ => Check::warn("kernel", format!("Linux {release}: {}", missing.join("; ")), "Linux 6.16 has all of it"),
        }
    }

    fn keyring(&self) -> Check {
        if self.has("proc/key-users") || self.has("proc/sys/kernel/keys") {
            Check::ok("keyring", "the kernel has keyrings")
        } else {
            Check::fail(
                "keyring",
                "the kernel has no keyrings",
                "a kernel with CONFIG_KEYS, or a container that may use it",
            )
        }
    }

    fn quota(&self, name: &str, what: &'static str, least: u64, usual: u64) -> Check {
        match self.read(&format!("proc/sys/kernel/keys/{name}")).and_then(|t| t.trim().parse::<u64>().ok()) {
            Some(n) if n >= least => Check::ok(what, n.to_string()),
            Some(n) => Check::warn(
                what,
                format!("{n}, each container instance and each publication is a key of root's"),
                format!("sysctl {what}={usual}"),
            ),
            None => Check::warn(what, "cannot be read", "mount /proc"),
        }
    }

    /// What a service can still be given: the key is root's, the link to it is the service's own.
    fn users_quota(&self) -> Check {
        let number = |name: &str| self.read(&format!("proc/sys/kernel/keys/{name}"))?.trim().parse::<u64>().ok();
        match (number("maxkeys"), number("maxbytes")) {
            (Some(keys), Some(bytes)) if keys >= 20 && bytes >= 2000 => {
                Check::ok("kernel.keys.maxkeys", format!("{keys} keys and {bytes} bytes a user"))
            }
            (Some(keys), Some(bytes)) => Check::warn(
                "kernel.keys.maxkeys",
                format!("{keys} keys and {bytes} bytes a user: keyrings of services fill up"),
                "sysctl kernel.keys.maxkeys=200 kernel.keys.maxbytes=20000",
            ),
            _ => Check::warn("kernel.keys.maxkeys", "cannot be read", "mount /proc"),
        }
    }

    fn program(&self, name: &str) -> Option<String> {
        BIN.iter().map(|dir| format!("{dir}/{name}")).find(|path| self.has(path)).map(|path| format!("/{path}"))
    }

    fn keyutils(&self) -> Check {
        match self.program("keyctl") {
            Some(path) => Check::ok("keyutils", path),
            None => {
                Check::warn("keyutils", "keyctl(1) is not there; pinfold itself does not need it", "install keyutils")
            }
        }
    }

    fn request_key(&self) -> Check {
        let Some(program) = self.program("request-key") else {
            return Check::warn(
                "request-key",
                "no /sbin/request-key: a key that is asked for is never made",
                "install keyutils",
            );
        };
        let rules = ["etc/request-key.conf", "etc/request-key.d/pinfold.conf"];
        let named = rules.iter().any(|path| self.read(path).is_some_and(|text| text.lines().any(is_ours)));
        if named {
            Check::ok("request-key", format!("{program} hands pinfold:* to pinfold"))
        } else {
            Check::warn(
                "request-key",
                format!("{program} does not know pinfold:*; published keys are found all the same"),
                "only for keys on request: a rule in /etc/request-key.d/pinfold.conf (docs/keyring.md)",
            )
        }
    }

    fn cgroup(&self) -> Check {
        if self.has("sys/fs/cgroup/cgroup.controllers") {
            return Check::ok("cgroup", "version 2");
        }
        let found =
            if self.has("sys/fs/cgroup/unified") { "version 1 with a unified part" } else { "version 1, or none" };
        Check::warn(
            "cgroup",
            format!("{found}: callers are told apart by namespaces alone, units not at all"),
            "boot with systemd.unified_cgroup_hierarchy=1",
        )
    }

    fn hooks(&self) -> Check {
        let runtimes: Vec<String> =
            ["podman", "crun", "runc", "crio"].iter().filter_map(|name| self.program(name)).collect();
        let installed = HOOKS.iter().map(|dir| format!("{dir}/{HOOK}")).find(|path| self.has(path));
        match (installed, runtimes.is_empty()) {
            (Some(path), _) => Check::ok("oci hook", format!("/{path}")),
            (None, true) => Check::ok("oci hook", "no container runtime here"),
            (None, false) => Check::warn(
                "oci hook",
                format!("{} here, and no {HOOK} in /{}", runtimes.join(", "), HOOKS.join(", /")),
                "only for containers that attach by themselves: install mount-helpers/hooks.d (docs/containers.md)",
            ),
        }
    }

    /// The limit of who asks; the daemon's unit has its own.
    fn memlock(&self) -> Check {
        let limits = self.read("proc/self/limits").unwrap_or_default();
        let line = limits.lines().find_map(|l| l.strip_prefix("Max locked memory"));
        let soft = line.and_then(|l| l.split_ascii_whitespace().next().map(str::to_owned));
        let root = nix::unistd::geteuid().is_root();
        match soft.as_deref() {
            Some("unlimited") => Check::ok("memlock", "unlimited"),
            Some(bytes) if root => Check::ok("memlock", format!("{bytes} bytes, and root may exceed it")),
            Some(bytes) if bytes.parse::<u64>().is_ok_and(|b| b >= MEMLOCK << 10) => {
                Check::ok("memlock", format!("{bytes} bytes"))
            }
            Some(bytes) => Check::warn(
                "memlock",
                format!("{bytes} bytes for this shell; the daemon, as root, is not bound by it"),
                "LimitMEMLOCK=infinity where the daemon has no CAP_IPC_LOCK",
            ),
            None => Check::warn("memlock", "the limit cannot be read", "mount /proc"),
        }
    }
}

/// A rule of request-key.conf(5) for our descriptions.
fn is_ours(line: &str) -> bool {
    let mut words = line.split_ascii_whitespace();
    words.next() == Some("create")
        && words.next() == Some("user")
        && words.next().is_some_and(|d| d.starts_with("pinfold:"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn outcomes(root: &Path) -> Vec<(&'static str, Verdict)> {
        let config = Config { store: root.join("store"), ..Config::default() };
        let checks = Machine { root }.examine(&config);
        for check in &checks {
            assert_eq!(check.todo.is_none(), check.outcome == Verdict::Ok, "what is wrong says what to do: {check:?}");
        }
        checks.iter().map(|c| (c.what, c.outcome)).collect()
    }

    #[test]
    fn a_machine_with_everything_is_well_and_one_with_nothing_is_told_so() {
        let home = tempfile::tempdir().unwrap();
        let root = home.path();
        let bare = outcomes(root);
        for (what, outcome) in [
            ("fuse", Verdict::Fail),
            ("keyring", Verdict::Fail),
            ("kernel", Verdict::Warn),
            ("keyutils", Verdict::Warn),
            ("cgroup", Verdict::Warn),
            ("oci hook", Verdict::Ok),
            ("store", Verdict::Warn),
        ] {
            assert!(bare.contains(&(what, outcome)), "{what}: {bare:?}");
        }
        for (path, text) in [
            ("dev/fuse", ""),
            ("proc/sys/kernel/osrelease", "6.18.2-test\n"),
            ("proc/key-users", ""),
            ("proc/sys/kernel/keys/root_maxkeys", "1000000\n"),
            ("proc/sys/kernel/keys/root_maxbytes", "25000000\n"),
            ("proc/sys/kernel/keys/maxkeys", "200\n"),
            ("proc/sys/kernel/keys/maxbytes", "20000\n"),
            ("proc/self/limits", "Limit\nMax locked memory         unlimited            unlimited            bytes\n"),
            ("usr/bin/keyctl", ""),
            ("usr/bin/podman", ""),
            ("usr/share/containers/oci/hooks.d/pinfold.json", "{}"),
            ("sbin/request-key", ""),
            ("etc/request-key.d/pinfold.conf", "create  user  pinfold:*  *  |/usr/bin/pinfold upcall %k\n"),
            ("sys/fs/cgroup/cgroup.controllers", "memory\n"),
            ("proc/sys/kernel/unprivileged_userns_clone", "0\n"),
            ("proc/self/ns/user", ""),
            ("sys/module/apparmor/parameters/enabled", "Y\n"),
            ("store/x", ""),
        ] {
            write(root, path, text);
        }
        for (what, outcome) in outcomes(root) {
            assert_eq!(outcome, Verdict::Ok, "{what}");
        }
        write(root, "proc/sys/kernel/osrelease", "5.10.0-1\n");
        write(root, "proc/sys/kernel/keys/root_maxkeys", "200\n");
        fs::remove_file(root.join("usr/share/containers/oci/hooks.d/pinfold.json")).unwrap();
        write(root, "proc/sys/kernel/unprivileged_userns_clone", "1\n");
        write(root, "proc/sys/user/max_user_namespaces", "96365\n");
        write(root, "proc/sys/kernel/apparmor_restrict_unprivileged_unconfined", "0\n");
        for what in ["user.pinfold.exe", "user.pinfold.label"] {
            assert!(outcomes(root).contains(&(what, Verdict::Warn)), "{what}");
        }
        for (path, stops) in [
            ("proc/sys/kernel/unprivileged_userns_clone", "0\n"),
            ("proc/sys/user/max_user_namespaces", "0\n"),
            ("proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1\n"),
        ] {
            let before = Machine { root }.read(path).unwrap_or_default();
            write(root, path, stops);
            assert!(outcomes(root).contains(&("user.pinfold.exe", Verdict::Ok)), "{path}");
            write(root, path, &before);
        }
        let worse = outcomes(root);
        for what in ["kernel", "kernel.keys.root_maxkeys", "oci hook"] {
            assert!(worse.contains(&(what, Verdict::Warn)), "{what}: {worse:?}");
        }
        write(root, "proc/sys/kernel/osrelease", "4.19.0\n");
        assert!(outcomes(root).contains(&("kernel", Verdict::Fail)));
    }
}
