//! From the configuration to the methods of a race.
//!
//! Owns which ways there are. It starts none.

use super::{AskPassword, Credential, KernelKey, Keyfile, Method, PassphraseFile, ask, next_keyfile, program};
use crate::config::Config;
use std::path::{Path, PathBuf};

/// Which of the configured ways are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// All that need nobody, and systemd's agents: the daemon at its start.
    Start,
    /// Those that may have an answer later on which they had not before: the daemon, some time after.
    Again,
    /// All, beside a terminal that is asked on: `pinfold unlock`.
    Terminal,
}

/// Where things are that are not configured.
#[derive(Debug, Clone)]
pub struct Where {
    /// `$CREDENTIALS_DIRECTORY`.
    pub credentials: Option<PathBuf>,
    /// Where systemd's agents look.
    pub ask_password: PathBuf,
}

impl Where {
    /// As this process was started.
    pub fn of_this_process() -> Self {
        Where {
            credentials: std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from),
            ask_password: Path::new(ask::DIRECTORY).to_owned(),
        }
    }
}

/// The ways to unlock that are configured and there.
pub fn methods(config: &Config, places: &Where, from: From) -> Vec<Box<dyn Method>> {
    let unlock = &config.unlock;
    let mut all: Vec<Box<dyn Method>> = Vec::new();
    if from != From::Again {
        if let Some(path) = &unlock.passphrase_file {
            all.push(Box::new(PassphraseFile(path.clone())));
        }
        if let Some(path) = &unlock.keyfile {
            all.push(Box::new(Keyfile(path.clone())));
            let next = next_keyfile(path);
            if next.exists() {
                all.push(Box::new(Keyfile(next)));
            }
        }
        if let Some(directory) = places.credentials.as_deref().filter(|_| unlock.credential) {
            all.extend(Credential::all_in(directory).into_iter().map(|c| Box::new(c) as Box<dyn Method>));
        }
        if let Some(description) = &unlock.keyring {
            all.push(Box::new(KernelKey(description.clone())));
        }
    }
    // To run as somebody else, apart, takes root; an operator has his terminal.
    if nix::unistd::geteuid().is_root() {
        let programs = program::found(config, from == From::Terminal);
        all.extend(programs.into_iter().map(|p| Box::new(p) as Box<dyn Method>));
    }
    if from == From::Start && unlock.ask_password {
        let ask = AskPassword::new(&places.ask_password, &config.store);
        all.extend(ask.map(|a| Box::new(a) as Box<dyn Method>));
    }
    all
}
