//! Why something was not delivered.

use std::fmt::Display;
use std::time::Duration;
use thiserror::Error;

/// Why a delivery failed, or the fetching of an acknowledgement.
#[derive(Debug, Error)]
pub enum DeliveryError {
    /// It is not done as things are set up: a program others can write, a folder that is none.
    #[error("{what}: {reason}")]
    Refused {
        /// The file or folder.
        what: String,
        /// Why not.
        reason: String,
    },
    /// The system says no.
    #[error("{what}: {source}")]
    Io {
        /// The file or program.
        what: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A program ended otherwise than with 0.
    #[error("{what} {}{}", ended(*.status), because(.output))]
    Failed {
        /// The program, and what for.
        what: String,
        /// Its exit status; 128 and the signal's number if one ended it.
        status: i32,
        /// The end of what it said, in one line.
        output: String,
    },
    /// A program took too long, and was ended.
    #[error("{what} took longer than {}s and was ended{}", .after.as_secs(), because(.output))]
    TimedOut {
        /// The program, and what for.
        what: String,
        /// How long it had.
        after: Duration,
        /// The end of what it said, in one line.
        output: String,
    },
    /// An acknowledgement is larger than one can be.
    #[error("{what} is larger than an acknowledgement can be")]
    TooLarge {
        /// The file.
        what: String,
    },
    /// A program printed more than an answer may be.
    #[error("{what} answers more than {most} bytes")]
    TooMuch {
        /// The program, and what for.
        what: String,
        /// The most it may.
        most: usize,
    },
    /// Whoever asked does not want it any more.
    #[error("stopped")]
    Cancelled,
}

impl DeliveryError {
    /// Whether trying again makes sense only after somebody has changed something here.
    pub fn is_lasting(&self) -> bool {
        matches!(self, DeliveryError::Refused { .. })
    }

    pub(super) fn io(what: impl Display, source: std::io::Error) -> Self {
        DeliveryError::Io { what: what.to_string(), source }
    }

    pub(super) fn refused(what: impl Display, reason: impl Into<String>) -> Self {
        DeliveryError::Refused { what: what.to_string(), reason: reason.into() }
    }
}

fn ended(status: i32) -> String {
    if status > 128 {
        format!("was ended by signal {}", status - 128)
    } else {
        format!("ended with exit status {status}")
    }
}

fn because(output: &str) -> String {
    if output.is_empty() { String::new() } else { format!(": {output}") }
}
