//! Pinfold: a walled pound for pin files, keys and certificates.
pub mod access;
pub mod model;
pub mod seal;
pub mod secret;
pub mod sys;
pub mod cli {
    #![allow(missing_docs)]
    pub fn main() -> std::process::ExitCode {
        std::process::ExitCode::SUCCESS
    }
}
