//! Pinfold: a walled pound for pin files, keys and certificates.
pub mod caller;
pub mod enrol;
pub mod model;
pub mod secret;
pub mod sys;
pub mod unlock;
pub mod cli {
    #![allow(missing_docs)]
    pub fn main() -> std::process::ExitCode {
        std::process::ExitCode::SUCCESS
    }
}
