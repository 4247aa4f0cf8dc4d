//! From a cgroup to the systemd unit that it belongs to. Pure.

use crate::model::Doubt;

/// Kinds of unit that have processes (systemd.unit(5)).
const KINDS: [&str; 5] = [".service", ".scope", ".socket", ".mount", ".swap"];
/// The longest name of a unit.
const NAME_MAX: usize = 255;

/// The v2 line of `/proc/PID/cgroup` (cgroups(7)): `0::/system.slice/nginx.service`, without the `0::`.
///
/// # Errors
/// [`Doubt`] if there is none, or if the path leads out of what this daemon's cgroup namespace shows: in another
/// namespace the same text names another cgroup.
pub(super) fn v2_path(cgroup_file: &str) -> Result<&str, Doubt> {
    let path = cgroup_file.lines().find_map(|l| l.strip_prefix("0::")).ok_or_else(|| Doubt("no cgroup v2".into()))?;
    if !path.starts_with('/') || path.split('/').any(|c| c == "..") {
        return Err(Doubt("its cgroup is outside the daemon's cgroup namespace".into()));
    }
    if path.ends_with(" (deleted)") {
        return Err(Doubt("its cgroup was removed".into()));
    }
    Ok(path)
}

/// The *system* unit of a cgroup path, as systemd itself finds it (`cg_path_get_unit`): slices are stepped over, and the
/// first other component is the unit, or there is none.
///
/// Only that first component was made by the system manager. What lies below belongs to somebody else: any user can make
/// `nginx.service` under his own `user@1000.service`, any container under its scope, and neither is nginx.
/// Those processes are of `user@1000.service` or of the container's scope.
pub(super) fn of_path(path: &str) -> Option<&str> {
    let first = path.split('/').filter(|c| !c.is_empty()).find(|c| !is_slice(c))?;
    // systemd puts '_' before a name that the kernel would take for a file of its own (cg_escape).
    let name = first.strip_prefix('_').unwrap_or(first);
    is_unit(name).then_some(name)
}

fn is_slice(component: &str) -> bool {
    let name = component.strip_prefix('_').unwrap_or(component);
    name.strip_suffix(".slice").is_some_and(|stem| !stem.is_empty() && stem.bytes().all(is_name_byte))
}

fn is_unit(name: &str) -> bool {
    let stem = KINDS.iter().find_map(|kind| name.strip_suffix(kind));
    name.len() <= NAME_MAX && stem.is_some_and(|s| !s.is_empty() && !s.starts_with('@') && s.bytes().all(is_name_byte))
}

/// What a unit's name is made of; others are escaped as `\x2d`.
fn is_name_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b":-_.\\@".contains(&b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_found_as_systemctl_names_them() {
        for (path, unit) in [
            ("/system.slice/nginx.service", Some("nginx.service")),
            ("/system.slice/system-getty.slice/getty@tty1.service", Some("getty@tty1.service")),
            ("/system.slice/dev-disk-by\\x2dlabel-x.swap", Some("dev-disk-by\\x2dlabel-x.swap")),
            ("/system.slice/dirsrv@slapd\\x2da.service/payload", Some("dirsrv@slapd\\x2da.service")),
            ("/system.slice/_tasks.service", Some("tasks.service")),
            ("/init.scope", Some("init.scope")),
            ("/nut.service", Some("nut.service")),
            ("/machine.slice/machine-web.scope/system.slice/nginx.service", Some("machine-web.scope")),
            ("/", None),
            ("", None),
            ("/system.slice", None),
            ("/docker/0123/system.slice/nginx.service", None),
            ("/system.slice/nginx.service.d", None),
            ("/system.slice/.service", None),
            ("/system.slice/@.service", None),
            ("/system.slice/a b.service", None),
        ] {
            assert_eq!(of_path(path), unit, "{path}");
        }
    }

    #[test]
    fn a_user_cannot_pass_for_a_system_service() {
        for below in ["app.slice/nginx.service", "nginx.service", "app.slice/app-x.slice/nginx.service", ""] {
            let path = format!("/user.slice/user-1000.slice/user@1000.service/{below}");
            assert_eq!(of_path(&path), Some("user@1000.service"));
            let session = format!("/user.slice/user-1000.slice/session-3.scope/{below}");
            assert_eq!(of_path(&session), Some("session-3.scope"));
        }
    }

    #[test]
    fn only_the_v2_line_counts_and_only_inside_our_namespace() {
        assert_eq!(
            v2_path("9:name=systemd:/a\n1:cpu:/\n0::/system.slice/x.service\n").unwrap(),
            "/system.slice/x.service"
        );
        for bad in [
            "",
            "9:name=systemd:/system.slice/x.service",
            "0::/../x.service",
            "0::/..",
            "0::",
            "0::/x.service (deleted)",
        ] {
            assert!(v2_path(bad).is_err(), "{bad}");
        }
    }
}
