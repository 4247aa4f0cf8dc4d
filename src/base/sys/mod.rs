//! Every unsafe block of pinfold, behind safe functions.
//!
//! Owns the system calls that nix does not wrap. It decides nothing: callers say what they want, and get it or an errno.

pub mod arena;
pub mod child;
pub mod confine;
pub mod connection;
pub mod file_handle;
pub mod file_lock;
pub mod isolated_child;
pub mod keyctl;
pub mod keyring_child;
pub mod memfd;
pub mod mount;
mod mountinfo;
pub mod namespace;
pub mod pages;
pub mod proc;
pub mod process;
pub mod requested;
pub mod secretmem;
pub mod socket;
pub mod table;
pub mod unmappable;
pub mod wait;

pub use mountinfo::MountInfo;
