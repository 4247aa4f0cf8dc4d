//! How a command fails: an exit code, a line, and what to type.
//!
//! Owns the form of errors on stderr: `pinfold: error: lower case, no full stop`, then `pinfold: hint: what to type`.

use super::show::visible;
use crate::config::ConfigError;
use crate::control::client::ClientError;
use crate::exit::Exit;
use crate::wire::Fault;
use std::io::{self, Write};

/// Why a command did not do what was asked.
#[derive(Debug, Clone)]
pub struct Failure {
    exit: Exit,
    message: String,
    hint: Option<String>,
    /// Whoever read our output went away: nothing to tell, nothing to tell it to.
    silent: bool,
}

impl Failure {
    /// With this code and line.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Failure { exit, message: message.into(), hint: None, silent: false }
    }

    /// Something is wrong with what was typed.
    pub fn usage(message: impl Into<String>) -> Self {
        Failure::new(Exit::Usage, message)
    }

    /// With something to type; what is there already stays.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint.get_or_insert(hint.into());
        self
    }

    /// With a hint if it ended so.
    pub fn hint_if(self, exit: Exit, hint: impl Into<String>) -> Self {
        if self.exit == exit { self.hint(hint) } else { self }
    }

    /// With this before the line.
    pub fn about(mut self, what: &str) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }

    /// Whether the command would end so.
    pub fn is(&self, exit: Exit) -> bool {
        self.exit == exit
    }

    /// The line.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// How the command ends.
    #[cfg(test)]
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// Says it on stderr.
    pub fn print(self) -> Exit {
        if !self.silent {
            let mut text = format!("pinfold: error: {}\n", visible(&self.message));
            if let Some(hint) = &self.hint {
                text += &format!("pinfold: hint: {}\n", visible(hint));
            }
            // Where stderr is closed there is nobody to tell.
            let _ = io::stderr().write_all(text.as_bytes());
        }
        self.exit
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        let failure = Failure::new(fault.exit(), fault.reason());
        failure.hint_if(Exit::Locked, "pinfold unlock")
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let failure = Failure::new(error.exit(), error.to_string());
        match error.hint() {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        let failure = Failure::new(error.exit(), error.to_string());
        match &error {
            ConfigError::Unsafe { path, .. } => {
                failure.hint(format!("chown root {0} && chmod go-w {0}", path.display()))
            }
            ConfigError::Wrong { .. } => failure.hint("pinfold check-config, after mending it"),
            _ => failure,
        }
    }
}

/// What writing to stdout says.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let silent = error.kind() == io::ErrorKind::BrokenPipe;
        let exit = if silent { Exit::Ok } else { Exit::Failed };
        Failure { silent, ..Failure::new(exit, format!("cannot write the output: {error}")) }
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        io::Error::from(error).into()
    }
}

impl From<crate::sys::arena::ArenaFull> for Failure {
    fn from(full: crate::sys::arena::ArenaFull) -> Self {
        Failure::new(Exit::Failed, full.to_string()).hint("raise the limit of locked memory: ulimit -l")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_follow_the_kind_of_failure() {
        assert_eq!(Failure::from(Fault::NotFound("x".into())).exit(), Exit::NotFound);
        let gone = ClientError::Gone;
        assert_eq!(Failure::from(gone).exit(), Exit::Unreachable);
        let locked = Failure::from(Fault::Locked("the store is locked".into()));
        assert_eq!(locked.hint.as_deref(), Some("pinfold unlock"));
        assert_eq!(Failure::from(io::Error::from(io::ErrorKind::BrokenPipe)).print(), Exit::Ok);
        assert_eq!(Failure::from(io::Error::from(io::ErrorKind::StorageFull)).exit(), Exit::Failed);
    }

    #[test]
    fn the_first_hint_stays() {
        let failure = Failure::usage("x").hint("first").hint("second");
        assert_eq!(failure.hint.as_deref(), Some("first"));
        assert_eq!(failure.hint_if(Exit::Ok, "third").hint.as_deref(), Some("first"));
    }
}
