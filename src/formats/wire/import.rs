//! Consoles and what comes from them: joining, importing, accounts. The requests and what the daemon answers.
//!
//! Owns the types; their names on the wire are in `methods`.

use crate::model::{SecretPath, Timestamp};
use crate::times;
use serde::{Deserialize, Serialize};

/// The most paths of one kind that a report lists; what is beyond is in the counts.
pub const LISTED_MAX: usize = 1000;

/// Trusts a console. One that is joined already gets the signing key anew, and keeps everything else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Join {
    /// Its name, as its bundles have it.
    pub console: String,
    /// Its signing key, a line as in a `.pub` file.
    pub signer: String,
    /// What it calls this host; the machine's name if null.
    #[serde(default)]
    pub host: Option<String>,
    /// The folder that it is confined to; the whole tree if null.
    #[serde(default)]
    pub prefix: Option<SecretPath>,
}

/// A console was joined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// Whether it had been joined before.
    pub again: bool,
    /// The line that the console's policy needs.
    pub line: String,
    /// How it is now.
    pub console: ConsoleInfo,
}

/// The joined consoles.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GetConsoles {}

/// By name.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Consoles {
    /// One for each.
    pub consoles: Vec<ConsoleInfo>,
}

/// A joined console.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleInfo {
    /// Its name.
    pub console: String,
    /// What it calls this host.
    pub host: String,
    /// The folder that it is confined to; empty for the whole tree.
    pub prefix: SecretPath,
    /// The newest signing key that was walked to.
    pub signer: String,
    /// That key's fingerprint.
    pub fingerprint: String,
    /// The fingerprints of keys that are never trusted again.
    pub revoked: Vec<String>,
    /// Whom it seals to.
    pub recipient: String,
    /// What acknowledgements are signed with.
    pub ack: String,
    /// The serial number of the last bundle that was applied; 0 for none.
    pub serial: u64,
    /// Paths that came from it.
    pub secrets: u64,
    /// The admins whose keys are served for it.
    pub admins: Vec<String>,
    /// When it was joined.
    #[serde(with = "times::text")]
    pub joined: Timestamp,
    /// When the last import was.
    #[serde(with = "times::maybe", default)]
    pub imported: Option<Timestamp>,
    /// How it came out: `applied`, `partial` or `refused`.
    #[serde(default)]
    pub outcome: Option<String>,
}

/// Trusts a console no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leave {
    /// Which.
    pub console: String,
    /// Whether what came from it stays, as secrets of this host.
    pub keep: bool,
}

/// A console was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Left {
    /// How many paths stayed.
    pub kept: u64,
    /// How many went.
    pub removed: u64,
}

/// Imports a bundle that lies in the folder `incoming` of the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Import {
    /// The file's name there.
    pub file: String,
    /// Says what would be done, and does nothing.
    #[serde(default)]
    pub pretend: Option<bool>,
    /// Applies the rest if some entries are refused; as configured if null.
    #[serde(default)]
    pub partial: Option<bool>,
}

/// How an import came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImportOutcome {
    /// All of it is in the tree.
    Applied,
    /// All but what is listed as refused.
    Partial,
    /// Nothing was changed.
    Refused,
    /// Nothing was changed, since nothing should be.
    Pretended,
}

impl ImportOutcome {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            ImportOutcome::Applied => "applied",
            ImportOutcome::Partial => "partial",
            ImportOutcome::Refused => "refused",
            ImportOutcome::Pretended => "pretended",
        }
    }
}

/// What an import did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportReport {
    /// How it came out.
    pub outcome: ImportOutcome,
    /// The console; null if the bundle is none's that was joined.
    #[serde(default)]
    pub console: Option<String>,
    /// The bundle's serial number, if it could be believed.
    #[serde(default)]
    pub serial: Option<u64>,
    /// Why the bundle was refused, in one word.
    #[serde(default)]
    pub code: Option<String>,
    /// The same for people.
    #[serde(default)]
    pub reason: Option<String>,
    /// What came.
    pub added: Listed,
    /// What has other content or other attributes.
    pub changed: Listed,
    /// What went.
    pub removed: Listed,
    /// How much is as it was.
    pub unchanged: u64,
    /// Entries that were refused.
    pub refused: Vec<RefusedEntry>,
    /// How many.
    pub refused_count: u64,
    /// The file with the signed acknowledgement.
    #[serde(default)]
    pub ack: Option<String>,
}

/// Some paths.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Listed {
    /// How many there are.
    pub count: u64,
    /// The first of them.
    pub paths: Vec<String>,
}

impl Listed {
    /// One more.
    pub fn push(&mut self, path: String) {
        self.count += 1;
        if self.paths.len() < LISTED_MAX {
            self.paths.push(path);
        }
    }
}

/// An entry of a bundle that was not applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedEntry {
    /// Its path.
    pub path: String,
    /// Why.
    pub reason: String,
}

/// The accounts that are wanted and that there are.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GetAccounts {}

/// The accounts of admins.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Accounts {
    /// One for each name, sorted.
    pub accounts: Vec<AccountInfo>,
}

/// An account of an admin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountInfo {
    /// Its name.
    pub user: String,
    /// For which console.
    pub console: String,
    /// What the console's policy says of it.
    pub comment: String,
    /// Whether the last bundle names it: otherwise it is to go.
    pub wanted: bool,
    /// Whether pinfold made it, or was about to.
    pub made: bool,
    /// Whether it is kept locked, since its admin was gone.
    #[serde(default)]
    pub locked: bool,
    /// Its uid, which it alone ever has.
    #[serde(default)]
    pub uid: Option<u32>,
}

/// Notes what becomes of an account: before it is made (it gets its uid then), when it is made, when it is locked, and when it is
/// no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoteAccount {
    /// For which console.
    pub console: String,
    /// Its name.
    pub user: String,
    /// `making`, `made`, `locked` or `gone`.
    pub state: AccountState,
    /// Its uid, if it is made.
    #[serde(default)]
    pub uid: Option<u32>,
}

/// What becomes of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccountState {
    /// It is about to be made.
    Making,
    /// It is there.
    Made,
    /// Nobody logs in any more; name and uid are kept.
    Locked,
    /// It is not there any more.
    Gone,
}
