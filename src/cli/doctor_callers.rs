//! What `pinfold doctor` says of how far a caller's program and label are true here.
//!
//! Owns these checks. They read what the kernel says of itself, and change nothing.

use super::doctor::{Check, Machine};

impl Machine<'_> {
    /// Whether a process can have another program's name: prctl(2), PR_SET_MM_MAP, in a user namespace of its own.
    pub(super) fn exe(&self) -> Check {
        let what = "user.pinfold.exe";
        let is = |path: &str, wanted: &str| self.read(path).is_some_and(|text| text.trim() == wanted);
        let stopped = [
            ("kernel.unprivileged_userns_clone=0", is("proc/sys/kernel/unprivileged_userns_clone", "0")),
            ("user.max_user_namespaces=0", is("proc/sys/user/max_user_namespaces", "0")),
            (
                "kernel.apparmor_restrict_unprivileged_userns=1",
                is("proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1"),
            ),
            ("a kernel without user namespaces", self.has("proc/self") && !self.has("proc/self/ns/user")),
        ];
        match stopped.iter().find(|(_, stops)| *stops) {
            Some((by, _)) => Check::ok(what, format!("users make no user namespaces with capabilities ({by})")),
            None => Check::warn(
                what,
                "any user may make user namespaces, and in one claim to run any program he can read: the condition, and exe in \
                 the log, are the process's own claim",
                "user.pinfold.label or unit, or sysctl kernel.unprivileged_userns_clone=0 or user.max_user_namespaces=0",
            ),
        }
    }

    /// Who gives labels, and whether who has none can take one.
    pub(super) fn labels(&self) -> Check {
        let what = "user.pinfold.label";
        if self.read("sys/module/apparmor/parameters/enabled").is_some_and(|text| text.starts_with('Y')) {
            let found = "AppArmor gives labels; who has no profile may take any of them (aa-exec(1))";
            return match self
                .read("proc/sys/kernel/apparmor_restrict_unprivileged_unconfined")
                .as_deref()
                .map(str::trim)
            {
                Some("0") => Check::warn(what, found, "sysctl kernel.apparmor_restrict_unprivileged_unconfined=1"),
                Some(_) => Check::ok(what, "AppArmor gives labels"),
                None => Check::ok(what, format!("{found}: give one to all who may read such a secret by its mode")),
            };
        }
        match self.read("sys/fs/selinux/enforce").as_deref().map(str::trim) {
            Some("1") => Check::ok(what, "SELinux gives labels"),
            Some(_) => Check::warn(what, "SELinux gives labels and, permissive, holds nobody to them", "setenforce 1"),
            None => Check::ok(what, "no module gives labels here: a secret with this condition opens for nobody"),
        }
    }
}
