//! Support for the tests of the lab: processes with deadlines and other uids, the daemon under test, the services.
//!
//! Owns what several `tests/lab_*.rs` share. Nothing here touches the tree from the test's own process: a daemon that
//! hangs must fail a test, not wedge it, so every access is a child with a deadline.
#![allow(dead_code, unused_imports, reason = "each test executable uses its part")]

pub mod console;
pub mod containers;
pub mod daemon;
pub mod disk;
pub mod load;
pub mod package;
pub mod process;
pub mod services;
pub mod sshd;
#[path = "../../src/testkit.rs"]
pub mod testkit;
pub mod tried;
pub mod unshared;

pub use daemon::{Daemon, Setup};
pub use process::{ALICE, BOB, CAROL, Out, ROOT, User, WWW_DATA, first_of, sh, unshared_uid};
pub use testkit::program;
pub use tried::{Held, Tried, attempt, attempt_within};

use std::path::Path;
use std::time::{Duration, Instant};

/// Every lab test begins with it.
pub fn in_the_lab() {
    assert!(
        std::env::var("PINFOLD_IN_LAB").as_deref() == Ok("1"),
        "this test starts real services and mounts: it runs in the lab only. Run: make test"
    );
}

/// What an audit log says at this moment, one object a line; nothing if there is none.
#[track_caller]
pub fn audit_lines(log: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    // The last line may be half written: a reader may see a part of a write(2).
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

/// Polls until `check` answers, or panics with `what` after `limit`.
pub fn wait_for<T>(what: &str, limit: Duration, mut check: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(begun.elapsed() < limit, "waited {limit:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
