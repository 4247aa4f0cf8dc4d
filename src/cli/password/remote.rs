//! The far side: where a password is changed, and asked whether it takes one.
//!
//! Owns what can come of both, and which way there is to a service. It stores nothing.

use super::Failure;
use super::exec::Exec;
use super::ssh::Ssh;
use crate::config::Config;
use crate::exit::Exit;
use crate::model::PasswordName;
use crate::secret::Secret;

/// What came of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changed {
    /// The far side says that it has the new one.
    Yes,
    /// It has the old one, for certain; why.
    No(String),
    /// It may have either; what is known.
    Unknown(String),
}

/// What came of a login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accepted {
    /// It takes the password.
    Yes,
    /// It refuses it; in its words.
    No(String),
    /// It could not be asked; why.
    Unknown(String),
}

/// A way to a service.
pub trait FarSide {
    /// Puts `new` in the place of `old`.
    fn change(&self, name: &PasswordName, old: &Secret, new: &Secret) -> Changed;
    /// Logs in with a password.
    fn verify(&self, name: &PasswordName, password: &Secret) -> Accepted;
}

/// The way to this service.
///
/// # Errors
/// A usage error if there is none; refused if others can write the program.
pub fn to<'c>(config: &'c Config, service: &str) -> Result<Box<dyn FarSide + 'c>, Failure> {
    if let Some(program) = Exec::find(config, service)? {
        return Ok(Box::new(program));
    }
    if service == "ssh" {
        return Ok(Box::new(Ssh::new(config)));
    }
    let folders: Vec<String> =
        config.passwords.programs.iter().map(|f| f.join(service).display().to_string()).collect();
    Err(Failure::new(Exit::Usage, format!("nothing changes passwords of the service '{service}'"))
        .hint(format!("a program at {}", folders.join(" or "))))
}
