//! `pinfold release`: ends a tree that no daemon serves any more.
//!
//! A daemon that serves it and answers is left alone. Owns no store. It looks at the table of mounts and never at the tree: that could hang for ever.

use super::args::Release;
use super::failure::Failure;
use crate::config::Config;
use crate::control::client::Client;
use crate::exit::Exit;
use crate::fs::fuse::SOURCE;
use crate::keyring::noted;
use crate::run::{End, Ended, Manner, Program, Take};
use crate::sys::{connection, mount};
use crate::wire::GetStatus;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a daemon may take to say that it is well.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long systemctl may take to list the jobs, which D-Bus gives 25 s.
const SYSTEMCTL: Duration = Duration::from_secs(30);
/// The longest list of jobs, in bytes.
const JOBS_MAX: usize = 4 << 20;

/// Takes published keys back, aborts the connection, so that whoever waits for an answer gets an error, and unmounts.
pub fn release(config: &Config, args: &Release) -> Result<Exit, Failure> {
    let failed = |e: std::io::Error| Failure::new(Exit::Failed, format!("{}: {e}", config.mountpoint.display()));
    if args.unless_restarting.as_deref().is_some_and(goes_on) {
        return Ok(Exit::Ok);
    }
    // Where systemd stops the unit, the daemon has ended; its socket may still be kept, and nobody would answer there.
    let asks = !args.force && args.unless_restarting.is_none();
    if let Some(pid) = asks.then(|| served_by(config)).flatten() {
        let text = format!("{}: the daemon (pid {pid}) serves it and answers", config.mountpoint.display());
        return Err(Failure::new(Exit::Refused, text).hint("systemctl stop pinfold; or --force, which ends the daemon"));
    }
    // What it published is nobody's to follow any more.
    let mut found = !noted::take_back(&noted::read(&noted::file(&config.control))).is_empty();
    while let Some(mounted) = mount::mount_at(&config.mountpoint).map_err(failed)? {
        if mounted.source != SOURCE {
            break;
        }
        found = true;
        // Where fusectl is not mounted, the last descriptor that is closed does the same.
        let _ = connection::abort(mounted.dev);
        mount::unmount_detach(&config.mountpoint).map_err(failed)?;
    }
    if found { Ok(Exit::Ok) } else { Err(Failure::new(Exit::NothingToDo, "nothing of pinfold's is mounted there")) }
}

/// The daemon that serves this tree, if there is one and it answers in time. One that cannot be asked is none that is well.
fn served_by(config: &Config) -> Option<u32> {
    let mut client = Client::connect(config).ok()?;
    client.set_patience(PATIENCE).ok()?;
    let status = client.call(&GetStatus {}).ok()?;
    (Path::new(&status.mountpoint) == config.mountpoint).then_some(status.pid)
}

/// Whether systemd will start the unit again, as far as its jobs tell: only a stop ends it.
fn goes_on(unit: &str) -> bool {
    let mut jobs = Vec::new();
    let program = Program {
        args: ["list-jobs", "--full", "--no-legend", "--no-pager"].map(Into::into).into(),
        stdout: Take::All(&mut jobs, JOBS_MAX),
        stderr: Take::Nothing,
        ..Program::new(Path::new("systemctl"), Manner::Group(None), Some(Instant::now() + SYSTEMCTL))
    };
    match program.run() {
        Ok(Ended { end: End::Itself(_), .. }) => !is_stopped(&String::from_utf8_lossy(&jobs), unit),
        // Left mounted, it is taken over or released by hand; unmounted, readers would fail.
        _ => true,
    }
}

/// Whether a list of jobs has a stop of this unit.
fn is_stopped(jobs: &str, unit: &str) -> bool {
    jobs.lines()
        .map(|line| line.split_ascii_whitespace().collect::<Vec<_>>())
        .any(|job| matches!(job[..], [_, name, kind, ..] if name == unit && kind == "stop"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_stop_of_that_unit_counts() {
        let jobs = " 713 pinfold.service restart running\n 714 other.service stop waiting\n";
        assert!(!is_stopped(jobs, "pinfold.service"));
        assert!(is_stopped(jobs, "other.service"));
        assert!(is_stopped("12 pinfold.service stop running\n", "pinfold.service"));
        assert!(!is_stopped("No jobs running.\n", "pinfold.service"));
    }
}
