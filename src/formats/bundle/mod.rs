//! Signed bundles: what one console sends to one host.
//!
//! Owns the format (docs/bundles.md), who may have signed, and the order of the checks: nothing is decrypted before the last
//! of them. It is given bytes, or what reads and writes them at offsets; it never fetches, stores or decides what a host is to have.

pub mod ack;
mod acl;
mod bounded;
mod chain;
mod check;
mod index;
mod key;
mod key_line;
mod manifest;
mod open;
mod parts;
mod refusal;
mod seal;
mod signer;
mod tar;
#[cfg(test)]
mod tests;

pub use acl::{NamedAcl, NamedAclEntry, NamedTag};
pub use chain::{Chain, LINKS_MAX, Link};
pub use check::{Checked, Examined, REMEMBERED_MAX, Trust, check, console_of, examine, len_of};
pub use index::{Admin, ENTRIES_MAX, Entry, EntryKind, Index, IndexError};
pub use key::{Fingerprint, KeyError, PublicKey, SshSig};
pub use key_line::is_key_line;
pub use manifest::{Head, Manifest, Payload, REVOKED_MAX, Sha256Hex};
pub use open::Contents;
pub use refusal::{Refusal, Revocations};
pub use seal::{ContentOf, Plan, SealError, Sealed, finish, finish_with, seal, seal_unsigned, to_be_signed};
pub use signer::{KeySigner, SignError, Signer};

/// The namespace of a bundle's signature.
pub const BUNDLE_NAMESPACE: &str = "pinfold-bundle";
/// The namespace of a link's signature.
pub const CHAIN_NAMESPACE: &str = "pinfold-signer";
/// The namespace of an acknowledgement's signature.
pub const ACK_NAMESPACE: &str = "pinfold-ack";
/// The three members of a bundle, in their order.
const MEMBERS: [&str; 3] = ["manifest.json", "manifest.json.sig", "payload.age"];
/// The largest manifest, in bytes: a chain and a list of revoked keys that are as long as they may be.
const MANIFEST_MAX: usize = 2 << 20;
/// The largest index, in bytes.
const INDEX_MAX: u64 = 1 << 30;
/// The payload's first member.
const INDEX_NAME: &str = "index.json";
/// The largest header of `payload.age`, in bytes.
const AGE_HEADER_MAX: u64 = 64 << 10;

/// The name of an entry's member in the payload: `files/PATH`, or `long/NUMBER` where a tar header has no room for it.
fn member_name(number: usize, path: &crate::model::SecretPath) -> String {
    let name = format!("files/{path}");
    if tar::fits(&name) { name } else { format!("long/{number}") }
}
