//! Messages about publications: secrets that services have as keys, and what else pinfold has in the kernel's keyrings.

use super::base64;
use crate::model::{SecretPath, Timestamp};
use crate::secret::Secret;
use crate::times;
use serde::{Deserialize, Serialize};

/// Gives a secret to a user as a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Publish {
    /// Which secret.
    pub path: SecretPath,
    /// Whom: a user's name, UID or UID:GID.
    pub to: String,
    /// What `{instance}` stands for.
    #[serde(default)]
    pub instance: Option<String>,
    /// An attached instance's id, or a scope's name.
    #[serde(default)]
    pub container: Option<String>,
    /// The description's template. At most one of this and `preset`.
    #[serde(default)]
    pub description: Option<String>,
    /// The name of a preset.
    #[serde(default)]
    pub preset: Option<String>,
    /// Seconds after which the key expires.
    #[serde(default)]
    pub timeout: Option<u64>,
}

/// Takes it back: all publications of the secret, or those that fit what is given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unpublish {
    /// Which secret.
    pub path: SecretPath,
    /// To whom.
    #[serde(default)]
    pub to: Option<String>,
    /// With this `{instance}`.
    #[serde(default)]
    pub instance: Option<String>,
    /// In this container.
    #[serde(default)]
    pub container: Option<String>,
    /// With this template.
    #[serde(default)]
    pub description: Option<String>,
    /// With this preset.
    #[serde(default)]
    pub preset: Option<String>,
}

/// What is published.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GetPublished {}

/// What pinfold has in the kernel's keyrings.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyringList {}

/// How a publication is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PublicationState {
    /// The key is there.
    Published,
    /// Nothing stands against it; something is missing as yet: content, or a running instance.
    Waiting,
    /// The user may not read the secret.
    Refused,
    /// It could not be done; it is tried again.
    Failed,
    /// Its time has passed.
    Expired,
}

/// One publication; of a scope, one for each of its instances.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicationInfo {
    /// The secret.
    pub path: String,
    /// Whom it is for, as it was written.
    pub to: String,
    /// The uid on this machine, if there is such a user.
    pub uid: Option<u32>,
    /// The container as it was written.
    pub container: Option<String>,
    /// The attached instance.
    pub attached: Option<String>,
    /// The key's description; the template where there is no key to be described.
    pub description: String,
    /// How it is.
    pub state: PublicationState,
    /// Why it is not published, or what is to be known about it.
    pub reason: Option<String>,
    /// The key's serial number.
    pub serial: Option<i32>,
    /// Which version the key has.
    pub version: Option<u64>,
    /// When the key expires.
    #[serde(with = "times::maybe", default)]
    pub expires: Option<Timestamp>,
    /// How often the uid took it away and it was put back.
    pub put_back: u64,
}

/// A secret was published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// The publication, once for each instance it goes to.
    pub keys: Vec<PublicationInfo>,
}

/// A secret was taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unpublished {
    /// How many publications there were.
    pub removed: u64,
}

/// All publications.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Publications {
    /// Sorted by path.
    pub publications: Vec<PublicationInfo>,
}

/// One key of pinfold's in the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldKey {
    /// `scope`, `instance` or `published`.
    pub kind: String,
    /// Its serial number.
    pub serial: i32,
    /// Its description.
    pub description: String,
    /// Whose key it is: the scope whose secrets it opens or has.
    pub scope: String,
    /// The container instance it is for.
    pub instance: Option<String>,
    /// The uid in whose keyring it is.
    pub uid: Option<u32>,
    /// The secret it has.
    pub path: Option<String>,
    /// When it expires.
    #[serde(with = "times::maybe", default)]
    pub expires: Option<Timestamp>,
    /// `alive`, `revoked`, `expired` or `missing`.
    pub state: String,
}

/// All keys.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HeldKeys {
    /// Scopes first.
    pub keys: Vec<HeldKey>,
}

/// Opens a secret for somebody who waits for a key. For `pinfold upcall` alone, where the kernel started it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyRequest {
    /// The path as he sees it.
    pub path: String,
    /// The thread that waits, in the initial pid namespace.
    pub tid: u32,
    /// The number of the key that is being made.
    pub key: i32,
    /// The number of the key that is the authority to make it.
    pub auth: i32,
}

/// What goes into the key.
#[derive(Debug, Serialize, Deserialize)]
pub struct RequestedKey {
    /// The bytes, base64 on the wire.
    #[serde(with = "base64::secret")]
    pub content: Secret,
    /// Seconds until the key expires.
    pub timeout: u32,
}
