//! `pinfold import-check`: looks at an uploaded bundle without being able to do anything else. Started by an import.
//!
//! Reads no configuration and no file but its standard input.

use super::Failure;
use crate::exit::Exit;
use crate::upload_check;
use std::os::fd::AsFd;

/// What is to be known comes as one argument; the bundle is standard input.
pub fn import_check(question: &str) -> Result<Exit, Failure> {
    let bundle = std::io::stdin().as_fd().try_clone_to_owned()?.into();
    match upload_check::answer(question, &bundle, &mut std::io::stdout()) {
        Ok(()) => Ok(Exit::Ok),
        Err(_) => Ok(Exit::Failed),
    }
}
