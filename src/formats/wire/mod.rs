//! What travels over the control socket: the messages of the interface `org.pinfold`, in the Varlink format.
//!
//! Owns the types, their JSON, and the framing; the same in the daemon and in the command. Content, passphrases and
//! identities are base64 in a frame that lies in a [`Secret`](crate::secret::Secret), and are decoded from there into
//! another: plaintext never touches the ordinary heap. It opens no socket and decides nothing.

mod admin;
mod base64;
mod call;
mod certs;
mod conditions;
mod containers;
mod export;
mod fault;
mod frame;
mod import;
mod log;
mod methods;
mod offline;
mod passwords;
mod publish;
mod replies;
mod rights;
mod views;

pub use crate::for_each_method;
pub use admin::{Actor, Admin, UnlockWith};
pub use base64::decode as decode_base64;
pub use call::{Call, Reply, read_reply, service, write_call, write_error, write_reply};
pub use certs::*;
pub use conditions::*;
pub use containers::*;
pub use export::*;
pub use fault::{CallError, Fault};
pub use frame::{Frame, FrameError, FrameReader, FrameWriter, LARGE_FRAME, limit_for};
pub use import::*;
pub use log::*;
pub use methods::*;
pub use offline::{InitReport, NewRecovery, Protection, RestoreReport};
pub use passwords::*;
pub use publish::*;
pub use replies::*;
pub use rights::{Right, unproven};
pub use views::*;
