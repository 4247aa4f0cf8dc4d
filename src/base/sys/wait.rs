//! Waiting for descriptors until a moment, whatever signals come in between.
//!
//! Owns one poll(2) loop. It reads and writes nothing.

use nix::errno::Errno;
use nix::poll::{PollFd, PollTimeout, poll};
use std::io;
use std::time::Instant;

/// Waits until one of `fds` is ready, or until the moment has come; whether one is. `None` waits for ever.
///
/// # Errors
/// What poll(2) says.
pub fn ready(fds: &mut [PollFd<'_>], until: Option<Instant>) -> io::Result<bool> {
    loop {
        let timeout = match until {
            None => PollTimeout::NONE,
            Some(until) => {
                // Rounded up: a remainder of less than a millisecond would be a loop without rest.
                let left = until.saturating_duration_since(Instant::now()).as_micros().div_ceil(1000);
                PollTimeout::try_from(i32::try_from(left).unwrap_or(i32::MAX)).unwrap_or(PollTimeout::MAX)
            }
        };
        match poll(fds, timeout) {
            Ok(0) if until.is_some_and(|u| u <= Instant::now()) => return Ok(false),
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(true),
            Err(errno) => return Err(errno.into()),
        }
    }
}
