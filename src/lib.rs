//! Pinfold: a walled pound for pin files, keys and certificates.
//!
//! A FUSE daemon mounts a tree of secrets, sealed with age in a sled store and opened only for whom they are for. The
//! crates below `src/` are what this one stands on; modules look down only; `tests/layers.rs` holds the table of their
//! ranks.

#![forbid(unsafe_code)]

pub use pinfold_base::{exit, hex, model, random_access, secret, stream, sys, trust};
pub use pinfold_formats::{bundle, cert, enrol, policy, view, wire};

pub mod access;
pub mod audit;
pub mod caller;
pub mod cli;
pub mod config;
pub mod control;
pub mod credentials;
pub mod daemon;
pub mod delivery;
pub mod fs;
pub mod keyring;
pub mod meter;
pub mod policy_file;
pub mod seal;
pub mod ssh_agent;
pub mod store;
pub mod unlock;
pub mod upcall;
pub mod upload_check;
pub mod vault;
