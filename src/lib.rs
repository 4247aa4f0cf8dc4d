//! Pinfold: a walled pound for pin files, keys and certificates.
//!
//! A FUSE daemon mounts a tree of secrets, sealed with age in a sled store and opened only for whom they are for. The
//! modules look down only; `tests/layers.rs` holds the table of their ranks.

pub mod access;
pub mod audit;
pub mod bundle;
pub mod caller;
pub mod cert;
pub mod cli;
pub mod config;
pub mod control;
pub mod credentials;
pub mod daemon;
pub mod delivery;
pub mod enrol;
pub mod exit;
pub mod fs;
pub mod keyring;
pub mod meter;
pub mod model;
pub mod policy;
pub mod seal;
pub mod secret;
pub mod store;
pub mod stream;
pub mod sys;
pub mod unlock;
pub mod upcall;
pub mod vault;
pub mod view;
pub mod wire;
