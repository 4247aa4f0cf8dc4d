//! Places where a test makes an import fail, or ends the process outright.

use crate::vault::VaultError;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Point {
    /// The copy was checked, and is about to be opened.
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

#[cfg(test)]
pub(super) const ALL: [Point; 7] =
    [Point::Checked, Point::Prepared, Point::Planned, Point::Recorded, Point::Durable, Point::Shown, Point::Told];

/// What happens at a point.
#[cfg(test)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    /// An error.
    Error(Point),
    /// The end of the process, as by a kill.
    Kill(Point),
}

#[cfg(test)]
thread_local! {
    pub(super) static NEXT: std::cell::Cell<Option<Fault>> = const { std::cell::Cell::new(None) };
}

#[cfg(test)]
pub(super) fn at(point: Point) -> Result<(), VaultError> {
    match NEXT.get() {
        Some(Fault::Error(p)) if p == point => {
            NEXT.set(None);
            Err(VaultError::Failed("a fault that a test put in".into()))
        }
        Some(Fault::Kill(p)) if p == point => {
            nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL).expect("a process may kill itself");
            unreachable!("SIGKILL cannot be withstood")
        }
        _ => Ok(()),
    }
}
