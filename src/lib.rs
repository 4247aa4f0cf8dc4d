//! Pinfold: a walled pound for pin files, keys and certificates.
//!
//! A FUSE daemon mounts a tree of secrets, sealed with age in a sled store and opened only for whom they are for. The
//! crates below `src/` are what this one stands on; modules look down only; `tests/layers.rs` holds the table of their
//! ranks.

#![forbid(unsafe_code)]

pub use pinfold_base::{exit, hex, lock, model, random_access, run, secret, stream, sys, trust};
pub use pinfold_core::{access, audit, caller, keyring, meter, seal, store};
pub use pinfold_formats::{bundle, cert, enrol, policy, view, wire};

pub mod cli;
pub mod config;
pub mod control;
pub mod credentials;
pub mod daemon;
pub mod delivery;
pub mod fs;
pub mod policy_file;
pub mod ssh_agent;
#[cfg(test)]
mod testkit;
pub mod unlock;
pub mod upcall;
pub mod upload_check;
pub mod vault;
