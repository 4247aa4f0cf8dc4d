//! What opens the store's identity: all configured ways at once, and the first that really opens it wins.
//!
//! Owns the race and its methods. It returns secrets and knows no vault: whether an answer opens anything is for the
//! judge to say whom the caller brings along.

mod ask;
mod configured;
mod credential;
mod file;
mod keyring;
mod method;
mod program;
mod race;

pub use ask::AskPassword;
pub use configured::{From, Where, methods};
pub use credential::Credential;
pub use file::{Keyfile, MAX, PassphraseFile, UnlockError, next_keyfile, passphrase, read_private};
pub use keyring::KernelKey;
pub use method::{Kind, Method, MethodError, Stop, answer_of};
pub use program::{ProgramMethod, found};
pub use race::{Canceller, Ended, Race, Timing, Verdict};
