//! How a request can fail, as the caller sees it: one kind for each thing a caller does differently.
//!
//! Owns the mapping to Varlink errors and to exit codes. Reasons name paths and principals, never content.

use crate::exit::Exit;
use crate::model::PublicationError;
use thiserror::Error;

/// Why a request failed. Each kind is one Varlink error (`org.pinfold.Refused` …) and has an exit code; the text is a
/// reason for people, lower case, without a full stop.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Fault {
    /// The request itself makes no sense.
    #[error("{0}")]
    Usage(String),
    /// The caller may not, or the content was refused.
    #[error("{0}")]
    Refused(String),
    /// The caller may not by who he is, but may with proof: what opens the store ([`super::Prove`]).
    #[error("{0}")]
    Unproven(String),
    /// The store is locked.
    #[error("{0}")]
    Locked(String),
    /// There is no such secret, version or recipient.
    #[error("{0}")]
    NotFound(String),
    /// A stored value failed its check.
    #[error("{0}")]
    Damaged(String),
    /// It was so already.
    #[error("{0}")]
    NothingToDo(String),
    /// Anything else: no space, an I/O error, busy.
    #[error("{0}")]
    Failed(String),
}

impl Fault {
    /// The Varlink error's full name.
    pub fn error_name(&self) -> &'static str {
        match self {
            Fault::Usage(_) => "org.pinfold.Usage",
            Fault::Refused(_) => "org.pinfold.Refused",
            Fault::Unproven(_) => "org.pinfold.Unproven",
            Fault::Locked(_) => "org.pinfold.Locked",
            Fault::NotFound(_) => "org.pinfold.NotFound",
            Fault::Damaged(_) => "org.pinfold.Damaged",
            Fault::NothingToDo(_) => "org.pinfold.NothingToDo",
            Fault::Failed(_) => "org.pinfold.Failed",
        }
    }

    /// The fault that a Varlink error of the interface `org.pinfold` stands for; `None` for any other name.
    pub fn from_error(name: &str, reason: String) -> Option<Fault> {
        Some(match name {
            "org.pinfold.Usage" => Fault::Usage(reason),
            "org.pinfold.Refused" => Fault::Refused(reason),
            "org.pinfold.Unproven" => Fault::Unproven(reason),
            "org.pinfold.Locked" => Fault::Locked(reason),
            "org.pinfold.NotFound" => Fault::NotFound(reason),
            "org.pinfold.Damaged" => Fault::Damaged(reason),
            "org.pinfold.NothingToDo" => Fault::NothingToDo(reason),
            "org.pinfold.Failed" => Fault::Failed(reason),
            _ => return None,
        })
    }

    /// For a core that serves a part of the interface.
    pub fn not_here() -> Fault {
        Fault::Failed("that is not served here".into())
    }

    /// The reason.
    pub fn reason(&self) -> &str {
        match self {
            Fault::Usage(r)
            | Fault::Refused(r)
            | Fault::Unproven(r)
            | Fault::Locked(r)
            | Fault::NotFound(r)
            | Fault::Damaged(r)
            | Fault::NothingToDo(r)
            | Fault::Failed(r) => r,
        }
    }

    /// How the command ends that met it.
    pub fn exit(&self) -> Exit {
        match self {
            Fault::Usage(_) => Exit::Usage,
            Fault::Refused(_) | Fault::Unproven(_) => Exit::Refused,
            Fault::Locked(_) => Exit::Locked,
            Fault::NotFound(_) => Exit::NotFound,
            Fault::Damaged(_) => Exit::Damaged,
            Fault::NothingToDo(_) => Exit::NothingToDo,
            Fault::Failed(_) => Exit::Failed,
        }
    }
}

impl From<PublicationError> for Fault {
    fn from(error: PublicationError) -> Self {
        Fault::Usage(error.to_string())
    }
}

impl From<crate::sys::arena::ArenaFull> for Fault {
    fn from(full: crate::sys::arena::ArenaFull) -> Self {
        Fault::Failed(full.to_string())
    }
}

/// An error reply: one of ours, or one that every Varlink service may give.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CallError {
    /// An error of the interface `org.pinfold`.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// Nobody offers that interface here.
    #[error("the daemon has no interface '{0}'")]
    InterfaceNotFound(String),
    /// The interface has no such method.
    #[error("the daemon has no method '{0}'")]
    MethodNotFound(String),
    /// A parameter is missing, of the wrong type, or unknown; what is wrong with it.
    #[error("the daemon did not understand the request: {0}")]
    InvalidParameter(String),
    /// The method answers in several replies, and the caller did not say `more`.
    #[error("the method must be called with 'more'")]
    ExpectedMore,
    /// An error with a name this program does not know.
    #[error("the daemon answered with {0}")]
    Unknown(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_map_one_to_one_and_so_do_exit_codes_but_of_what_is_refused() {
        let all = [
            Fault::Usage("r".into()),
            Fault::Refused("r".into()),
            Fault::Unproven("r".into()),
            Fault::Locked("r".into()),
            Fault::NotFound("r".into()),
            Fault::Damaged("r".into()),
            Fault::NothingToDo("r".into()),
            Fault::Failed("r".into()),
        ];
        let codes: std::collections::BTreeSet<u8> = all.iter().map(|f| f.exit().code()).collect();
        assert_eq!(codes.len(), all.len() - 1, "each kind has a code of its own; what lacks proof is refused");
        assert!(!codes.contains(&0));
        for fault in all {
            assert_eq!(Fault::from_error(fault.error_name(), "r".into()).as_ref(), Some(&fault));
        }
        assert_eq!(Fault::from_error("org.pinfold.Other", String::new()), None);
    }
}
