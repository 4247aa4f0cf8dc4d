//! What wakes a thread that has something to do now and then, and ends it.

use crate::lock::{Condvar, Mutex};

/// See the module.
#[derive(Default)]
pub(super) struct Bell {
    /// Whether it was rung, and whether it has ended.
    state: Mutex<(bool, bool)>,
    rung: Condvar,
}

impl Bell {
    pub fn wake(&self) {
        self.state.lock().0 = true;
        self.rung.notify_one();
    }

    /// Waits until it rings; `false` once it has ended.
    pub fn wait(&self) -> bool {
        let wait = |state: &mut (bool, bool)| !state.0 && !state.1;
        let mut state = self.rung.wait_while(self.state.lock(), wait);
        state.0 = false;
        !state.1
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.state.lock().1
    }

    /// Ends it.
    pub fn end(&self) {
        self.state.lock().1 = true;
        self.rung.notify_one();
    }
}
