//! SFTP, by the system's OpenSSH: its configuration, its keys and its known hosts are those of whoever runs the daemon.
//!
//! Owns the arguments and the commands. No shell is involved; what an address may hold ([`super::Target`]) needs no
//! quoting, and local files are descriptors, so that no name of a file here is ever a command's word.

use super::error::DeliveryError;
use super::program::printed;
use super::run::{Cancel, Program};
use super::target::Sftp;
use super::{ACK_MAX, Job, Settings, final_name, part_name, safe};
use crate::run::Input;
use crate::sys::memfd;
use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};

/// What holds whatever the configuration says. Nobody is asked, no host is trusted unseen, nothing is forwarded, and
/// nothing stays behind; a server that falls silent is given up after half a minute.
const OPTIONS: &[&str] = &[
    "BatchMode=yes",
    "ClearAllForwardings=yes",
    "ConnectionAttempts=1",
    "ControlMaster=no",
    "ControlPath=none",
    "ForwardAgent=no",
    "ForwardX11=no",
    "LogLevel=ERROR",
    "PermitLocalCommand=no",
    "ServerAliveCountMax=3",
    "ServerAliveInterval=10",
    "StrictHostKeyChecking=yes",
    "UpdateHostKeys=no",
];

/// Uploads under a temporary name, synced where the server can, and renames: OpenSSH's server replaces in one step.
pub fn put(to: &Sftp, job: &Job, file: File, settings: &Settings, cancel: &Cancel) -> Result<(), DeliveryError> {
    let (part, name) = (to.file(&part_name(&job.console)), to.file(&final_name(job.serial)));
    let commands = format!("put -f /proc/self/fd/{} {part}\nrename {part} {name}\n", file.as_raw_fd());
    run(to, &commands, file.into(), None, settings)?.run(cancel)
}

/// Uploads a small text under this name, in the same way.
pub fn put_text(to: &Sftp, name: &str, text: &str, settings: &Settings, cancel: &Cancel) -> Result<(), DeliveryError> {
    let file = rewound(text).map_err(|e| DeliveryError::io("a file in memory", e))?;
    let (part, name) = (to.file(&format!(".{name}.part")), to.file(name));
    let commands = format!("put -f /proc/self/fd/{} {part}\nrename {part} {name}\n", file.as_raw_fd());
    run(to, &commands, file, None, settings)?.run(cancel)
}

/// Downloads into memory. That the file is not there yet is no error.
pub fn ack(from: &Sftp, name: &str, settings: &Settings, cancel: &Cancel) -> Result<Option<Vec<u8>>, DeliveryError> {
    let failed = |e| DeliveryError::io("a file in memory", e);
    let name = from.file(name);
    let output = memfd::with("pinfold-ack", b"").map_err(failed)?;
    let keep = output.try_clone().map_err(failed)?;
    let commands = format!("get {name} /proc/self/fd/{}\n", keep.as_raw_fd());
    match run(from, &commands, keep, Some(ACK_MAX + 1), settings)?.run(cancel) {
        // In sftp(1)'s words, for a file that is not there and for nothing else.
        Err(DeliveryError::Failed { output, .. }) if output.contains(&format!("File \"{name}\" not found")) => {
            return Ok(None);
        }
        done => done?,
    };
    printed(&output, format!("{name} at {}", from.destination()))
}

fn run<'a>(
    at: &Sftp,
    commands: &'a str,
    keep: OwnedFd,
    file_max: Option<u64>,
    settings: &'a Settings,
) -> Result<Program<'a>, DeliveryError> {
    let what = format!("sftp to {}", at.destination());
    safe::program(&settings.sftp, &settings.mountpoint)?;
    Ok(Program {
        what,
        path: &settings.sftp,
        args: arguments(at, settings),
        env: settings.agent.iter().map(|socket| ("SSH_AUTH_SOCK", socket.clone().into())).collect(),
        stdin: Input::Bytes(commands.as_bytes()),
        keep: Some(keep),
        file_max,
        within: settings.transfer,
    })
}

/// A file without a name, read from its start.
fn rewound(text: &str) -> std::io::Result<OwnedFd> {
    use std::io::Seek;
    let mut file = File::from(memfd::with("pinfold-text", text.as_bytes())?);
    file.rewind()?;
    Ok(file.into())
}

fn arguments(at: &Sftp, settings: &Settings) -> Vec<OsString> {
    let mut args: Vec<OsString> = vec!["-b".into(), "-".into()];
    if let Some(file) = &settings.ssh_config {
        args.extend(["-F".into(), file.clone().into()]);
    }
    for option in OPTIONS {
        args.extend(["-o".into(), (*option).into()]);
    }
    args.extend(["-o".into(), format!("ConnectTimeout={}", settings.connect.as_secs().max(1)).into()]);
    if let Some(port) = at.port() {
        args.extend(["-P".into(), port.to_string().into()]);
    }
    args.extend(["--".into(), at.destination().into()]);
    args
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::Target;

    #[test]
    fn the_command_line_ends_with_the_destination_alone() {
        let Ok(Target::Sftp(at)) = Target::parse("sftp://up@[::1]:2222/in") else { panic!() };
        let settings = Settings { ssh_config: Some("/etc/x".into()), ..Settings::default() };
        let args: Vec<String> = arguments(&at, &settings).into_iter().map(|a| a.into_string().unwrap()).collect();
        assert_eq!(args[..4], ["-b", "-", "-F", "/etc/x"]);
        assert_eq!(args[args.len() - 4..], ["-P", "2222", "--", "up@[::1]"]);
        for needed in ["BatchMode=yes", "StrictHostKeyChecking=yes", "ConnectTimeout=15", "ControlPath=none"] {
            let at = args.iter().position(|a| a == needed).unwrap_or_else(|| panic!("{needed}"));
            assert_eq!(args[at - 1], "-o");
        }
    }
}
