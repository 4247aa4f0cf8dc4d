//! What sled says when something is wrong, as errors of the store: its own errors, and its panics, which stop here.

use super::StoreError;
use std::cell::Cell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

impl From<sled::Error> for StoreError {
    fn from(error: sled::Error) -> Self {
        match error {
            sled::Error::Io(e) => io_error(e),
            other => StoreError::Damaged(other.to_string()),
        }
    }
}

impl From<sled::transaction::UnabortableTransactionError> for StoreError {
    fn from(error: sled::transaction::UnabortableTransactionError) -> Self {
        match error {
            sled::transaction::UnabortableTransactionError::Storage(e) => e.into(),
            sled::transaction::UnabortableTransactionError::Conflict => StoreError::Failed("a conflict".into()),
        }
    }
}

/// What an I/O error means to the store: a full disk and a file too short are not failures of the disk.
pub(super) fn io_error(e: io::Error) -> StoreError {
    match e.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::NoSpace,
        io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => StoreError::Damaged(e.to_string()),
        _ => StoreError::Io(e),
    }
}

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Runs what sled does, and makes an error of its panics: on damaged files it panics where it should say so.
pub(super) fn guarded<T>(what: &str, f: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    quieten();
    let before = INSIDE.replace(true);
    let result = catch_unwind(AssertUnwindSafe(f));
    INSIDE.set(before);
    result.unwrap_or_else(|panic| {
        let why = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        let why: String = why.unwrap_or("it does not say why").chars().take(200).collect();
        Err(StoreError::Damaged(format!("{what}: the database gave up: {why}")))
    })
}

/// Keeps the panics that [`guarded`] turns into errors off stderr; every other is reported as before.
fn quieten() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let sleds = std::thread::current().name().is_some_and(|n| n.starts_with("sled-io"));
            if INSIDE.get() || sleds {
                tracing::debug!(what = %info, "the database gave up");
            } else {
                before(info);
            }
        }));
    });
}
