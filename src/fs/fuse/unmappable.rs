//! Handles that cannot be mapped, where the kernel allows shared maps of all others.
//!
//! FUSE_DIRECT_IO_ALLOW_MMAP is for a connection as a whole: it would also allow shared maps that can be written. A handle that passes through to
//! a file without mmap has none at all (ENODEV, Linux ≥ 6.9); its reads and writes come to us all the same, for they are direct. Without it the kernel
//! is not asked for shared maps.

use crate::sys::unmappable;
use fuser::{BackingId, InitFlags, KernelConfig};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::OnceLock;

/// What the kernel must have for shared maps.
pub(super) const FLAGS: InitFlags = InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP.union(InitFlags::FUSE_PASSTHROUGH);

/// The file behind them, once it is needed.
#[derive(Default)]
pub(super) struct Unmappable {
    file: Option<OwnedFd>,
    backing: OnceLock<Option<BackingId>>,
}

impl Unmappable {
    /// Asks the kernel for shared maps; `None` if it has not all that is needed.
    pub fn agree(config: &mut KernelConfig) -> Option<Self> {
        if !config.capabilities().contains(FLAGS) {
            return None;
        }
        let told =
            |error: &io::Error| tracing::warn!(%error, "no shared maps: nothing refuses those that can be written");
        let file = Some(unmappable::file().inspect_err(told).ok()?);
        config.set_max_stack_depth(1).ok()?;
        config.add_capabilities(FLAGS).ok()?;
        Some(Unmappable { file, backing: OnceLock::new() })
    }

    /// What a handle passes through to, if it is `plain`, which is never mapped; `open` gives the file to the kernel. Not with O_DIRECT: the file knows
    /// nothing of that.
    pub fn backing(
        &self,
        plain: bool,
        flags: libc::c_int,
        open: impl FnOnce(&OwnedFd) -> io::Result<BackingId>,
    ) -> Option<&BackingId> {
        let file = self.file.as_ref().filter(|_| plain && flags & libc::O_DIRECT == 0)?;
        let backing = self.backing.get_or_init(|| {
            open(file)
                .inspect_err(
                    |error| tracing::warn!(%error, "a map of what can be written ends in SIGBUS, not in ENODEV"),
                )
                .ok()
        });
        backing.as_ref()
    }
}
