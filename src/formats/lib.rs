//! What is written to disks, sockets and other hosts, and what people write: bytes in, values out.
//!
//! Owns each format and who may have made what is in it. It opens no file and no socket, starts nothing and asks no clock:
//! what it needs of those is given to it. So all of it can be tried on any bytes.

#![forbid(unsafe_code)]

use pinfold_base::{exit, hex, model, random_access, secret, stream, sys};

pub mod bundle;
pub mod cert;
pub mod enrol;
pub mod policy;
mod times;
pub mod view;
pub mod wire;
