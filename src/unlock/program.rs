//! Programs that print the secret, under the contract of Mandos's plugin-runner(8), so that its own plugins run unchanged.
//!
//! Owns which files of a folder are programs, what each is given, and how its output is taken: whole, bounded, and only
//! after it has ended well. What it leaves running ends with it.

use super::MAX;
use super::method::{Kind, Method, MethodError, Stop, answer_of};
use crate::config::{Config, ProgramOptions};
use crate::run::{End, Env, Input, Manner, PATH, Program, Take};
use crate::secret::Secret;
use crate::sys::isolated_child::{NOT_CONFINED, NOT_RUN, RunAs};
use crate::trust::{self, Owners};
use crate::wire::UnlockWith;
use nix::unistd::{Group, User};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// uid and gid of programs for which no other is configured, as in plugin-runner(8).
const NOBODY: u32 = 65534;
/// How many programs one race has at most.
const PROGRAMS_MAX: usize = 32;
/// Where Mandos's plugins find their helpers: its own place, below the folder for libraries.
const HELPERS: &str = "mandos/plugin-helpers";
/// What the service manager tells this process and nobody else, and what would change how a program is loaded.
const NOT_PASSED_ON: &[&str] = &[
    "CREDENTIALS_DIRECTORY",
    "FDSTORE",
    "JOURNAL_STREAM",
    "LISTEN_",
    "LD_",
    "MEMORY_PRESSURE_",
    "NOTIFY_SOCKET",
    "WATCHDOG_",
];

/// A program of a folder, with its options.
#[derive(Debug)]
pub struct ProgramMethod {
    name: String,
    path: PathBuf,
    options: ProgramOptions,
    store: PathBuf,
    null_stdin: bool,
}

/// The programs of the configured folders: of two with one name that of the earlier folder, and none if that one is no
/// program (a link to /dev/null takes a program out). A null standard input is for when a terminal is asked on as well.
pub fn found(config: &Config, null_stdin: bool) -> Vec<ProgramMethod> {
    let mut seen = BTreeSet::new();
    let mut programs = Vec::new();
    for folder in &config.unlock.programs {
        for (name, path) in entries(folder) {
            if !seen.insert(name.clone()) || leads_into(&path, &config.mountpoint) || !is_program(&path) {
                continue;
            }
            let options = config.unlock.program.get(&name).cloned().unwrap_or_default();
            if options.disabled {
                continue;
            }
            programs.push(ProgramMethod { name, path, options, store: config.store.clone(), null_stdin });
        }
    }
    if programs.len() > PROGRAMS_MAX {
        tracing::warn!(count = programs.len(), "only the first {PROGRAMS_MAX} programs that unlock are run");
        programs.truncate(PROGRAMS_MAX);
    }
    programs
}

/// Whether it is a link into the tree that the daemon serves itself: looking there, it would wait for its own unlock.
fn leads_into(path: &Path, mountpoint: &Path) -> bool {
    let target = std::fs::read_link(path).map(|to| path.parent().unwrap_or(Path::new("/")).join(to));
    let inside = target.is_ok_and(|to| to.starts_with(mountpoint));
    if inside {
        tracing::error!(program = %path.display(), "it lies in the tree that it is to unlock, and is not run");
    }
    inside
}

/// The names in a folder that may be programs, sorted; none if it is missing or others can write it.
fn entries(folder: &Path) -> Vec<(String, PathBuf)> {
    let meta = match std::fs::metadata(folder) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            tracing::warn!(folder = %folder.display(), %error, "programs that unlock cannot be looked for");
            return Vec::new();
        }
        Ok(meta) => meta,
    };
    if let Some(why) = trust::other_writer(&meta, Owners::RootOrSelf) {
        tracing::error!(folder = %folder.display(), %why, "no program is run from a folder that others can write");
        return Vec::new();
    }
    let Ok(listing) = std::fs::read_dir(folder) else { return Vec::new() };
    let names = listing.filter_map(|e| e.ok()?.file_name().into_string().ok()).filter(|n| !is_ignored(n));
    let mut all: Vec<_> = names.map(|n| (n.clone(), folder.join(n))).collect();
    all.sort();
    all
}

/// What editors and dpkg leave lying about: plugin-runner(8), "FILES".
fn is_ignored(name: &str) -> bool {
    let backup = name.starts_with('#') && name.ends_with('#');
    let suffix = ["~", ".dpkg-new", ".dpkg-old", ".dpkg-bak", ".dpkg-dist", ".dpkg-divert", ".dpkg-tmp"];
    name.starts_with('.') || backup || suffix.iter().any(|s| name.ends_with(s))
}

/// An executable regular file, or a link to one, that only root could have written.
fn is_program(path: &Path) -> bool {
    let Ok(meta) = std::fs::metadata(path) else { return false };
    if !meta.is_file() || meta.mode() & 0o111 == 0 {
        return false;
    }
    let other = trust::other_writer(&meta, Owners::RootOrSelf);
    if let Some(why) = other {
        tracing::error!(program = %path.display(), %why, "it is not run");
    }
    other.is_none()
}

impl Method for ProgramMethod {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> Kind {
        Kind::Unattended
    }

    fn answer(&mut self, stop: &Stop) -> Result<UnlockWith, MethodError> {
        let run_as = run_as(&self.options)?;
        let until = self.options.timeout.map_or(stop.until(), |timeout| stop.until().min(Instant::now() + timeout));
        let mut secret = Secret::zeroed(0)?;
        let program = Program {
            args: self.options.args.iter().map(Into::into).collect(),
            env: environment(std::env::vars_os(), &self.store, &self.options.env),
            stdin: if self.null_stdin { Input::Nothing } else { Input::Inherited },
            stdout: Take::Secret(&mut secret, MAX),
            cancel: Some(stop.told()),
            ..Program::new(&self.path, Manner::Apart(&run_as), Some(until))
        };
        let ended = program.run().map_err(|e| MethodError::Failed(format!("it cannot be started: {e}")))?;
        match ended.end {
            End::Itself(status) => said_well(status.code().unwrap_or_default())?,
            End::Late => return Err(MethodError::TimedOut),
            End::Cancelled => return Err(MethodError::Stopped),
            End::TooMuch => return Err(MethodError::TooLong),
            End::Lost(error) => return Err(error.into()),
        }
        if secret.is_empty() && !self.options.empty_is_answer {
            return Err(MethodError::Nothing);
        }
        Ok(answer_of(secret))
    }
}

/// Whether it ended well. Closing the output is not the end; the status is what counts.
fn said_well(status: i32) -> Result<(), MethodError> {
    Err(MethodError::Failed(match status {
        0 => return Ok(()),
        NOT_RUN => "it cannot be executed (exit status 127)".into(),
        NOT_CONFINED => "it could not be run as that user (exit status 126)".into(),
        signal if signal > 128 => format!("it was ended by signal {}", signal - 128),
        status => format!("it ended with exit status {status}"),
    }))
}

/// Whom it runs as: nobody, unless somebody else is configured; root only by name.
pub(super) fn run_as(options: &ProgramOptions) -> Result<RunAs, MethodError> {
    let unknown = |what: &str, name: &str| MethodError::Failed(format!("there is no {what} '{name}'"));
    let mut run_as = RunAs { uid: NOBODY, gid: NOBODY, groups: Vec::new() };
    if let Some(name) = &options.user {
        let user = User::from_name(name).ok().flatten().ok_or_else(|| unknown("user", name))?;
        (run_as.uid, run_as.gid) = (user.uid.as_raw(), user.gid.as_raw());
    }
    for name in &options.groups {
        let group = Group::from_name(name).ok().flatten().ok_or_else(|| unknown("group", name))?;
        run_as.groups.push(group.gid.as_raw());
    }
    Ok(run_as)
}

/// What was inherited, less what is this process's alone, with what Mandos's plugins look for.
pub(super) fn environment(
    inherited: impl Iterator<Item = (OsString, OsString)>,
    store: &Path,
    own: &BTreeMap<String, String>,
) -> Env {
    let mut all: Env = inherited
        .filter(|(name, _)| !NOT_PASSED_ON.iter().any(|no| name.as_bytes().starts_with(no.as_bytes())))
        .collect();
    // For those who start us without one.
    all.entry("PATH".into()).or_insert_with(|| PATH.into());
    all.insert("CRYPTTAB_NAME".into(), "pinfold".into());
    all.insert("CRYPTTAB_TRIED".into(), "0".into());
    all.insert("CRYPTTAB_SOURCE".into(), store.into());
    all.insert("MANDOSPLUGINHELPERDIR".into(), helpers().into());
    all.extend(own.iter().map(|(name, value)| (name.into(), value.into())));
    all
}

/// Debian has a folder for each architecture.
fn helpers() -> PathBuf {
    let lib = Path::new("/usr/lib");
    let mut below = std::fs::read_dir(lib).into_iter().flatten().filter_map(|e| Some(e.ok()?.path().join(HELPERS)));
    below.find(|p| p.is_dir()).unwrap_or_else(|| lib.join(HELPERS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn program(folder: &Path, name: &str, mode: u32) {
        let path = folder.join(name);
        std::fs::write(&path, "#!/bin/sh\n").unwrap();
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }

    #[test]
    fn names_modes_and_owners_decide_what_is_a_program() {
        let (etc, lib) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for name in ["a", ".hidden", "#x#", "b~", "c.dpkg-old", "d.dpkg-new", "e.dpkg-bak", "f.dpkg-divert"] {
            program(etc.path(), name, 0o755);
        }
        program(etc.path(), "notes.txt", 0o644);
        program(etc.path(), "open", 0o777);
        std::fs::create_dir(etc.path().join("folder")).unwrap();
        symlink("/dev/null", etc.path().join("masked")).unwrap();
        symlink("/bin/true", etc.path().join("linked")).unwrap();
        program(etc.path(), "off", 0o755);
        for name in ["a", "masked", "z"] {
            program(lib.path(), name, 0o755);
        }
        let foreign = lib.path().join("foreign");
        program(lib.path(), "foreign", 0o755);
        std::os::unix::fs::chown(&foreign, Some(61234), None).unwrap();
        symlink("/run/secrets/program", etc.path().join("inside")).unwrap();
        let off = ProgramOptions { disabled: true, ..ProgramOptions::default() };
        let mut config = Config::default();
        config.unlock.programs = vec![etc.path().to_owned(), lib.path().to_owned(), "/nonexistent".into()];
        config.unlock.program.insert("off".into(), off);
        let found = found(&config, false);
        let paths: Vec<_> = found.iter().map(|p| p.path.clone()).collect();
        assert_eq!(paths, [etc.path().join("a"), etc.path().join("linked"), lib.path().join("z")]);
        std::fs::set_permissions(lib.path(), PermissionsExt::from_mode(0o775)).unwrap();
        config.unlock.programs.remove(0);
        assert!(super::found(&config, false).is_empty());
    }

    #[test]
    fn the_environment_is_mandoss_and_has_nothing_of_the_service_managers() {
        let inherited = [
            ("HOME", "/root"),
            ("NOTIFY_SOCKET", "/run/x"),
            ("LISTEN_FDS", "3"),
            ("LD_PRELOAD", "x"),
            ("CREDENTIALS_DIRECTORY", "/run/c"),
        ];
        let inherited = inherited.into_iter().map(|(n, v)| (n.into(), v.into()));
        let own = BTreeMap::from([("CRYPTTAB_NAME".to_owned(), "mine".to_owned())]);
        let helpers = format!("MANDOSPLUGINHELPERDIR={}", helpers().display());
        let all = environment(inherited, Path::new("/var/lib/pinfold"), &own);
        let line = |(name, value): (OsString, OsString)| format!("{}={}", name.display(), value.display());
        let lines: Vec<String> = all.into_iter().map(line).collect();
        assert_eq!(
            lines,
            [
                "CRYPTTAB_NAME=mine",
                "CRYPTTAB_SOURCE=/var/lib/pinfold",
                "CRYPTTAB_TRIED=0",
                "HOME=/root",
                &helpers,
                &format!("PATH={PATH}"),
            ]
        );
    }

    #[test]
    fn nobody_unless_somebody_is_named() {
        let mut options = ProgramOptions::default();
        assert_eq!(run_as(&options).unwrap(), RunAs { uid: NOBODY, gid: NOBODY, groups: Vec::new() });
        options.user = Some("daemon".into());
        options.groups = vec!["disk".into()];
        let daemon = run_as(&options).unwrap();
        assert!(daemon.uid != 0 && daemon.uid != NOBODY && daemon.groups.len() == 1, "{daemon:?}");
        options.groups = vec!["no-such-group".into()];
        assert!(run_as(&options).is_err());
    }
}
