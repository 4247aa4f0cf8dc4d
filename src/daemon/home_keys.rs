//! Reads admins' public keys from their home directories, where that is configured, again and again.
//!
//! Owns the thread and the child that looks (`pinfold home-keys`): no thread of the daemon touches a home directory, which
//! may hang, or lead back into the tree.

use crate::run::{self, End, Input, Manner, Program, Take};
use crate::vault::Vault;
use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often they are read.
const AGAIN: Duration = Duration::from_secs(60);
/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// The most that is read of it, in bytes.
const OUTPUT_MAX: usize = 16 << 20;

/// Starts the thread; it ends with [`Vault::shutdown`].
///
/// # Errors
/// If there is no thread to be had.
pub fn start(vault: &Arc<Vault>) -> io::Result<()> {
    let vault = Arc::clone(vault);
    std::thread::Builder::new().name("home-keys".into()).spawn(move || follow(&vault)).map(drop)
}

fn follow(vault: &Vault) {
    while let Some(users) = vault.wait_for_admins(AGAIN) {
        if users.is_empty() {
            continue;
        }
        match read(&users) {
            Ok(keys) => vault.set_home_keys(&users, keys),
            Err(error) => {
                tracing::warn!(%error, "the keys in the admins' home directories cannot be read");
                vault.set_home_keys(&users, HashMap::new());
            }
        }
    }
}

fn read(users: &[String]) -> io::Result<HashMap<String, Vec<String>>> {
    let (told, mut heard) = (users.join("\n") + "\n", Vec::new());
    let program = Program {
        args: vec!["home-keys".into()],
        env: run::inherited(),
        stdin: Input::Bytes(told.as_bytes()),
        stdout: Take::All(&mut heard, OUTPUT_MAX),
        // This very program, whatever its file is called by now.
        ..Program::new(Path::new("/proc/self/exe"), Manner::ALONE, Some(Instant::now() + PATIENCE))
    };
    match program.run()?.end {
        End::Itself(_) => Ok(serde_json::from_slice(&heard)?),
        End::TooMuch => Err(io::ErrorKind::FileTooLarge.into()),
        End::Late | End::Cancelled => Err(io::ErrorKind::TimedOut.into()),
        End::Lost(error) => Err(error),
    }
}
