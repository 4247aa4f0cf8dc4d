//! What runs on any machine as root: one program, so that the crate and its libraries are linked once.
//!
//! `make test-host` runs it; `cargo test --test host NAME::` runs one module. A module that needs the process to itself is a
//! program of its own: `hostile`, which fills the locked memory, and the two that search the process's memory.

mod access;
mod architecture;
mod attacks;
mod bundle;
mod cert;
mod command;
mod common;
mod delivery;
mod export;
mod hosts;
mod import;
mod instances;
mod layers;
mod model;
mod password;
mod policy;
mod publish;
mod recovery;
mod unlock;
mod upcall;
mod view;
