//! Sealing: blobs as age v1 files, keys as small age files, records with XChaCha20-Poly1305.
//!
//! Owns the formats of what is encrypted; opening a blob needs a [`Grant`](crate::access::Grant). Content is encrypted
//! and decrypted in place in the locked arena; age itself only ever sees headers and file keys.

mod blob;
mod header;
mod identity;
mod payload;
mod record;
mod recovery;
mod sealed_keys;
mod stanza;

pub use blob::{BlobDigest, open_blob, open_key, seal_blob, seal_escrow, seal_key};
pub use identity::{
    OpenedBy, OpeningKey, Protection, StoreIdentity, make_identity, new_identity, open_identity, open_identity_with,
    own_recipient, protect_identity,
};
pub use record::RecordKey;
pub use recovery::RecoverySet;
pub use sealed_keys::{open_own, open_with_passphrase, seal_own, seal_with_passphrase};

use crate::sys::arena::ArenaFull;
use thiserror::Error;

/// Why something does not open, or could not be sealed.
#[derive(Debug, Error)]
pub enum SealError {
    /// Its authentication failed: altered, truncated, or sealed to another key.
    #[error("{0} failed authentication: it was altered, or belongs to another key")]
    Tampered(&'static str),
    /// It is not the format it should be.
    #[error("{0} is not in a known format")]
    Format(&'static str),
    /// None of its stanzas is for this key.
    #[error("{0} is not sealed to this key")]
    NotForThisKey(&'static str),
    /// A key that only another program can use.
    #[error(
        "{0} cannot be used here, which takes AGE-SECRET-KEY-1… and ssh-ed25519 keys without a passphrase; age can open the store's \
         escrow with it: pinfold recovery escrow | age -d -i FILE | pinfold unlock --recovery -"
    )]
    NotHere(&'static str),
    /// The passphrase is wrong.
    #[error("the passphrase does not open the identity")]
    WrongPassphrase,
    /// The grant is for another secret, or for an operation that shows no content.
    #[error("the grant does not cover this secret")]
    NotGranted,
    /// The locked memory is used up.
    #[error(transparent)]
    ArenaFull(#[from] ArenaFull),
}
