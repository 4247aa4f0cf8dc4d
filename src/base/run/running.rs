//! A child that runs, however it was started.
//!
//! Owns the start, the signals and the reaping; when is for others to say.

use super::{Env, Manner};
use crate::sys::isolated_child::{self, RunAs};
use crate::sys::{child, proc};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitStatus};

/// A child that was started, as what it is.
pub enum Running {
    Process { child: std::process::Child, pidfd: OwnedFd, leads: bool },
    Apart(isolated_child::Child),
}

impl Running {
    pub fn start(
        path: &Path,
        args: &[OsString],
        env: &Env,
        manner: Manner<'_>,
        standard: [OwnedFd; 3],
    ) -> io::Result<Self> {
        let leads = !matches!(manner, Manner::Foreground);
        let mut command = match manner {
            Manner::Apart(run_as) => return apart(path, args, env, run_as, &standard),
            Manner::Foreground => Command::new(path),
            Manner::Group(run_as) => {
                let mut command = Command::new(path);
                if let Some(run_as) = run_as {
                    command.uid(run_as.uid).gid(run_as.gid);
                }
                command.process_group(0);
                command
            }
            Manner::Alone { keep, file_max } => {
                let mut command = child::alone(path, keep, file_max);
                command.current_dir("/");
                command
            }
        };
        let [stdin, stdout, stderr] = standard;
        command.args(args).env_clear().envs(env).stdin(stdin).stdout(stdout).stderr(stderr);
        let mut child = command.spawn()?;
        // Its copies of our descriptors.
        drop(command);
        match proc::open_process(child.id()) {
            Ok(pidfd) => Ok(Running::Process { child, pidfd, leads }),
            Err(error) => {
                signal(child.id(), leads, Signal::SIGKILL);
                let _ = child.wait();
                Err(error)
            }
        }
    }

    pub fn pid(&self) -> Option<u32> {
        match self {
            Running::Process { child, .. } => Some(child.id()),
            Running::Apart(_) => None,
        }
    }

    /// Readable once it has ended. It is not reaped then: its number, and its group's, is its own.
    pub fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Running::Process { pidfd, .. } => pidfd.as_fd(),
            Running::Apart(child) => child.fd(),
        }
    }

    pub fn signal(&self, which: Signal) {
        match self {
            Running::Process { child, leads, .. } => signal(child.id(), *leads, which),
            Running::Apart(child) if which == Signal::SIGTERM => child.terminate(),
            Running::Apart(child) => child.kill(),
        }
    }

    pub fn reap(&mut self) -> io::Result<ExitStatus> {
        match self {
            Running::Process { child, .. } => child.wait(),
            // What ended by a signal has 128 and its number, as the shell says it.
            Running::Apart(child) => {
                let status = child.try_wait()?.ok_or_else(|| io::Error::other("it does not end"))?;
                Ok(ExitStatus::from_raw(status << 8))
            }
        }
    }
}

/// To its group, if it leads one. It is not reaped yet, so that either number is its own; ESRCH says that nobody is left.
fn signal(pid: u32, leads: bool, which: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a process id is a positive int"));
    let _ = if leads { killpg(pid, which) } else { nix::sys::signal::kill(pid, which) };
}

fn apart(path: &Path, args: &[OsString], env: &Env, run_as: &RunAs, standard: &[OwnedFd; 3]) -> io::Result<Running> {
    let string = |text: &OsStr| CString::new(text.as_bytes()).map_err(io::Error::from);
    let path = string(path.as_os_str())?;
    let args = args.iter().map(|arg| string(arg));
    let args = std::iter::once(Ok(path.clone())).chain(args).collect::<io::Result<Vec<_>>>()?;
    let line = |(name, value): (&OsString, &OsString)| [name.as_bytes(), b"=", value.as_bytes()].concat();
    let env = env.iter().map(|entry| string(OsStr::from_bytes(&line(entry)))).collect::<io::Result<Vec<_>>>()?;
    let [stdin, stdout, stderr] = standard.each_ref().map(AsFd::as_fd);
    let program = isolated_child::Program { path: &path, args: &args, env: &env, stdin, stdout, stderr, run_as };
    isolated_child::spawn(&program).map(Running::Apart)
}
