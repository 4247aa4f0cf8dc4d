//! Changes under way, for the end of a daemon whose tree the next one takes over: what was done is noted before it goes.
//!
//! Owns how many there are, and that none begins any more once they are waited for.

use crate::lock::{Condvar, Mutex};
use std::time::Duration;

/// How many, and whether others may begin.
#[derive(Default)]
pub(super) struct Underway {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    count: u64,
    closed: bool,
}

/// One of them, until it is dropped.
pub(super) struct Going<'a>(&'a Underway);

impl Underway {
    /// Begins one; for ever in vain after [`Underway::close`]: the next daemon is asked again.
    pub fn begin(&self) -> Going<'_> {
        let mut open = self.changed.wait_while(self.state.lock(), |state| state.closed);
        open.count += 1;
        Going(self)
    }

    /// Lets none begin any more, and waits for those that have. Whether all of them have ended.
    pub fn close(&self, within: Duration) -> bool {
        let mut state = self.state.lock();
        state.closed = true;
        let waited = self.changed.wait_timeout_while(state, within, |state| state.count > 0);
        waited.0.count == 0
    }

    /// As if the next daemon had come.
    #[cfg(test)]
    pub fn open(&self) {
        self.state.lock().closed = false;
        self.changed.notify_all();
    }
}

impl Drop for Going<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.count -= 1;
        if state.closed && state.count == 0 {
            self.0.changed.notify_all();
        }
    }
}
