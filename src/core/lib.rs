//! What pinfold is trusted for: who may open what, what is kept, and what is on record.
//!
//! Owns the decision, who asks, how much each may use, the log, the store and its journal, what seals content, and the keys in the
//! kernel. It starts no program and opens no socket.

#![forbid(unsafe_code)]

use pinfold_base::{aead, hex, lock, model, secret, stream, sys, trust};
use pinfold_formats::wire;

pub mod access;
pub mod audit;
pub mod caller;
pub mod keyring;
pub mod meter;
pub mod seal;
pub mod store;
