//! Programs of the admin's: one that brings the file itself, and those before and after a delivery.
//!
//! Owns what they are told: by the environment, never by arguments, since nothing of it is to be read as an option.

use super::error::DeliveryError;
use super::run::{Cancel, Program};
use super::{ACK_MAX, Job, Settings, safe};
use crate::model::{ConsoleName, HostName};
use crate::run::Input;
use crate::sys::memfd;
use std::ffi::OsString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;

/// When a program beside a delivery is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occasion {
    /// Before it.
    Before,
    /// After it, however it went.
    After { delivered: bool },
}

/// `exec:`: the file is on its standard input and in PINFOLD_FILE; exit status 0 says that it was delivered.
pub fn put(path: &Path, job: &Job, file: File, settings: &Settings, cancel: &Cancel) -> Result<(), DeliveryError> {
    let env = [about(job), vec![("PINFOLD_ACTION", "deliver".into())]].concat();
    let program = prepare(path, format!("the program {}", path.display()), env, Input::File(file.into()), settings)?;
    program.run(cancel)
}

/// The program before or after a delivery.
pub fn hook(
    path: &Path,
    job: &Job,
    occasion: Occasion,
    settings: &Settings,
    cancel: &Cancel,
) -> Result<(), DeliveryError> {
    let (when, result): (_, Option<&str>) = match occasion {
        Occasion::Before => ("before", None),
        Occasion::After { delivered: true } => ("after", Some("delivered")),
        Occasion::After { delivered: false } => ("after", Some("failed")),
    };
    let mut env = [about(job), vec![("PINFOLD_ACTION", when.into())]].concat();
    env.extend(result.map(|result| ("PINFOLD_RESULT", result.into())));
    let program = prepare(path, format!("the program {} {when} it", path.display()), env, Input::Nothing, settings)?;
    // What was brought up is taken down also when nobody wants the delivery any more.
    let unhurried = Cancel::new().map_err(|e| DeliveryError::io("an event descriptor", e))?;
    program.run(if result.is_some() { &unhurried } else { cancel })
}

/// `exec:`: it prints the acknowledgement, or nothing.
pub fn ack(
    path: &Path,
    host: &HostName,
    console: &ConsoleName,
    settings: &Settings,
    cancel: &Cancel,
) -> Result<Option<Vec<u8>>, DeliveryError> {
    let env = vec![
        ("PINFOLD_CONSOLE", console.as_str().into()),
        ("PINFOLD_HOST", host.as_str().into()),
        ("PINFOLD_ACTION", "fetch-ack".into()),
    ];
    let what = format!("the program {}", path.display());
    let failed = |e| DeliveryError::io(path.display(), e);
    let output = memfd::with("pinfold-ack", b"").map_err(failed)?;
    let program = prepare(path, what, env, Input::Nothing, settings)?;
    program.run_into(output.try_clone().map_err(failed)?, cancel)?;
    printed(&output, path.display().to_string())
}

/// What was written there: nothing is no acknowledgement yet.
pub fn printed(output: &OwnedFd, what: String) -> Result<Option<Vec<u8>>, DeliveryError> {
    let most = usize::try_from(ACK_MAX).expect("a small number");
    match memfd::read(output, most) {
        Ok(bytes) if bytes.is_empty() => Ok(None),
        Ok(bytes) => Ok(Some(bytes)),
        Err(_) => Err(DeliveryError::TooLarge { what }),
    }
}

fn about(job: &Job) -> Vec<(&'static str, OsString)> {
    vec![
        ("PINFOLD_CONSOLE", job.console.as_str().into()),
        ("PINFOLD_HOST", job.host.as_str().into()),
        ("PINFOLD_SERIAL", job.serial.to_string().into()),
        ("PINFOLD_FILE", job.file.clone().into()),
    ]
}

fn prepare<'a>(
    path: &'a Path,
    what: String,
    env: Vec<(&'static str, OsString)>,
    stdin: Input<'a>,
    settings: &Settings,
) -> Result<Program<'a>, DeliveryError> {
    safe::program(path, &settings.mountpoint)?;
    let within = settings.program;
    Ok(Program { what, path, args: Vec::new(), env, stdin, keep: None, file_max: None, within })
}
