//! What everything else stands on: the type of plaintext, every system call that needs `unsafe`, names and numbers.
//!
//! Owns no state but the arena, and decides nothing. It knows nothing of the store, the daemon or the control socket.

pub mod aead;
pub mod exit;
pub mod hex;
pub mod lock;
pub mod model;
pub mod random_access;
pub mod run;
pub mod secret;
pub mod stream;
#[allow(unsafe_code, reason = "this is the place for it")]
pub mod sys;
pub mod trust;
