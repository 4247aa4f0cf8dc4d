//! Places where a test makes an operation of several steps fail, or ends the process outright.

use super::VaultError;

/// Between which steps. What comes before is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Point {
    /// Rekeying: the marker is in the store.
    Marked,
    /// The new identity's file lies beside the old one.
    FileWritten,
    /// Some blobs are there twice.
    SomeCopied,
    /// All are, and the keys are made.
    AboutToTurn,
    /// The new keys are in force.
    TurnedOver,
    /// The new file is there under both names.
    FileReplaced,
    /// The files are as they will be.
    FilesSettled,
    /// Some of the old blobs are gone.
    SomeRemoved,
    /// Rotation of a password: it is the new one, and its other copy is still there.
    NewIsCurrent,
    /// Import: the copy was checked, and is about to be opened.
    Checked,
    /// Everything is prepared.
    Prepared,
    /// The draft is whole.
    Planned,
    /// The log has it.
    Recorded,
    /// The store has it, and nobody sees it yet.
    Durable,
    /// Everybody sees it, and nobody was told.
    Shown,
    /// It is done but for the acknowledgement.
    Told,
}

#[cfg(not(test))]
pub(super) fn at(_: Point) -> Result<(), VaultError> {
    Ok(())
}

/// What happens at a point.
#[cfg(test)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Injected {
    /// An error.
    Error(Point),
    /// The end of the process, as by a kill.
    Kill(Point),
}

#[cfg(test)]
thread_local! {
    pub(super) static NEXT: std::cell::Cell<Option<Injected>> = const { std::cell::Cell::new(None) };
}

#[cfg(test)]
pub(super) fn at(point: Point) -> Result<(), VaultError> {
    match NEXT.get() {
        Some(Injected::Error(p)) if p == point => {
            NEXT.set(None);
            Err(VaultError::Failed(format!("the test ends it: {point:?}")))
        }
        Some(Injected::Kill(p)) if p == point => {
            nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL).expect("a process may kill itself");
            unreachable!("SIGKILL cannot be withstood")
        }
        _ => Ok(()),
    }
}
