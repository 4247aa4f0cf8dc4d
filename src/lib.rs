//! Pinfold: a walled pound for pin files, keys and certificates.
pub mod config;
pub mod control;
pub mod exit;
pub mod model;
pub mod secret;
pub mod sys;
pub mod wire;
pub mod cli {
    #![allow(missing_docs)]
    pub fn main() -> std::process::ExitCode {
        std::process::ExitCode::SUCCESS
    }
}
