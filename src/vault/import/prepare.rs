//! What can be done for an entry before anybody is kept waiting: its names are looked up, its attributes and content
//! checked, its content sealed.
//!
//! Owns the checks that need no draft. Holds none of the vault's locks while it works, and keeps no plaintext beyond the entry that it
//! is about.

use super::draft::Sealed;
use super::names::IdsByName;
use super::place::{self, Lies};
use super::record::{ConsoleRecord, Consoles};
use super::remembered::Remembered;
use crate::access::{Operation, ScopeState};
use crate::bundle::{self, EntryKind};
use crate::caller::Daemon;
use crate::model::{Acl, Gid, Ino, Kind, Meta, Name, Reserved, Scope, SecretPath, Timestamp, Uid, XattrName};
use crate::seal;
use crate::secret::{Kek, Secret};
use crate::vault::node::{Node, Version};
use crate::vault::on_change::ON_CHANGE;
use crate::vault::pairs::NewHalf;
use crate::vault::unlock::Keys;
use crate::vault::{Vault, VaultError, publish, xattr};
use crate::wire::RefusedEntry;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// The longest target of a symlink, in bytes.
const TARGET_MAX: usize = 4095;

/// An entry that may be applied, as far as can be told without a draft.
pub(super) struct Prepared {
    pub path: SecretPath,
    pub lies: Lies,
    pub what: What,
    pub meta: WantedMeta,
    /// What is to be compared of it, if a rule of this host says that it is half of a pair.
    pub half: Option<NewHalf>,
}

/// What an entry is.
pub(super) enum What {
    Directory,
    Symlink(Box<str>),
    File(Content),
}

/// Its content.
pub(super) enum Content {
    /// What this version is already.
    Same(Version),
    /// Another one.
    New(Sealed),
}

/// Owner, mode and the rest, as they are to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WantedMeta {
    pub uid: Uid,
    pub gid: Gid,
    pub mode: u16,
    pub acl: Option<Acl>,
    pub default_acl: Option<Acl>,
    pub xattrs: BTreeMap<XattrName, Vec<u8>>,
    pub mtime: Timestamp,
    /// Whether what the host itself says of units to be told stays.
    pub keep_on_change: bool,
}

impl WantedMeta {
    /// A folder of this machine's: root's, and everybody may look into it.
    fn of_folder() -> Self {
        WantedMeta {
            uid: Uid::ROOT,
            gid: Gid(0),
            mode: 0o755,
            acl: None,
            default_acl: None,
            xattrs: BTreeMap::new(),
            mtime: Timestamp::now(),
            keep_on_change: true,
        }
    }
}

impl Prepared {
    /// Whether it is a folder of this machine's.
    pub fn is_kept(&self) -> bool {
        matches!(self.lies, Lies::Kept | Lies::Served)
    }

    pub fn kind(&self) -> Kind {
        match self.what {
            What::Directory => Kind::Directory,
            What::Symlink(_) => Kind::Symlink,
            What::File(_) => Kind::File,
        }
    }
}

/// What an entry is judged by.
pub(super) struct Preparing<'a> {
    vault: &'a Vault,
    consoles: &'a Consoles,
    ours: &'a ConsoleRecord,
    keys: Arc<Keys>,
    names: IdsByName,
    /// The folder that units' credentials are served from.
    credentials: Option<&'a SecretPath>,
    /// Whether a bundle may say which units are told of a change.
    on_change: bool,
    keks: HashMap<Scope, Kek>,
    refused_folders: Vec<SecretPath>,
    pub ready: Vec<Prepared>,
    pub refused: Vec<RefusedEntry>,
    /// Everything the bundle lists, refused or not.
    pub listed: Vec<SecretPath>,
}

impl<'a> Preparing<'a> {
    pub fn new(
        vault: &'a Vault,
        consoles: &'a Consoles,
        ours: &'a ConsoleRecord,
        credentials: Option<&'a SecretPath>,
        on_change: bool,
    ) -> Result<Self, VaultError> {
        Ok(Preparing {
            vault,
            consoles,
            ours,
            keys: vault.keys()?,
            names: IdsByName::default(),
            credentials,
            on_change,
            keks: HashMap::new(),
            refused_folders: Vec::new(),
            ready: Vec::new(),
            refused: Vec::new(),
            listed: Vec::new(),
        })
    }

    /// Takes an entry of the bundle; `content` is a file's.
    ///
    /// # Errors
    /// What is no fault of the entry: the store was locked, or failed.
    pub fn entry(&mut self, entry: &bundle::Entry, content: Option<&Secret>) -> Result<(), VaultError> {
        let kind = kind_of(&entry.kind);
        let reserved = Reserved::of(&entry.path, self.credentials);
        let lies = match self.may_be_sent(entry, kind, reserved) {
            Ok(lies) => lies,
            Err(reason) => {
                // It is as if it were not listed: what was taken there, when more was allowed, does not stay.
                if kind == Kind::Directory {
                    self.refused_folders.push(entry.path.clone());
                }
                self.refuse(entry.path.to_string(), reason);
                return Ok(());
            }
        };
        let judged = match self.refused_folders.iter().any(|folder| place::is_below(&entry.path, folder)) {
            true => Err(Why::Entry("its folder is refused".into())),
            false => self.judge(entry, lies, content),
        };
        self.take(&entry.path, kind, judged)
    }

    /// Takes what pinfold itself puts where no entry may go: a folder of root's, or a public file of root's with this
    /// content.
    pub fn own(&mut self, path: &SecretPath, content: Option<&Secret>) -> Result<(), VaultError> {
        let kind = if content.is_some() { Kind::File } else { Kind::Directory };
        let mode = if content.is_some() { 0o644 } else { 0o755 };
        let meta = WantedMeta { mode, ..WantedMeta::of_folder() };
        let lies = if content.is_some() { Lies::Within } else { Lies::Served };
        let judged =
            self.content_of(path, content).map(|what| Prepared { path: path.clone(), lies, what, meta, half: None });
        self.take(path, kind, judged)
    }

    /// What this host remembers of accounts.
    pub fn remembered(&self) -> Arc<Remembered> {
        self.consoles.remembered().1
    }

    /// Notes that something is refused which has no path.
    pub fn refuse(&mut self, what: String, reason: String) {
        self.refused.push(RefusedEntry { path: what, reason });
    }

    fn take(&mut self, path: &SecretPath, kind: Kind, judged: Result<Prepared, Why>) -> Result<(), VaultError> {
        self.listed.push(path.clone());
        match judged {
            Ok(prepared) => self.ready.push(prepared),
            Err(Why::Entry(reason)) => {
                if kind == Kind::Directory {
                    self.refused_folders.push(path.clone());
                }
                self.refuse(path.to_string(), reason);
            }
            Err(Why::Vault(error)) => return Err(error),
        }
        Ok(())
    }

    fn may_be_sent(&self, entry: &bundle::Entry, kind: Kind, reserved: Option<Reserved>) -> Result<Lies, String> {
        let prefix = &self.ours.prefix;
        let lies = place::lies(prefix, &entry.path, kind, reserved)?;
        if let EntryKind::Symlink { target } = &entry.kind {
            place::stays_within(prefix, &entry.path, target)?;
        }
        Ok(lies)
    }

    fn judge(&mut self, entry: &bundle::Entry, lies: Lies, content: Option<&Secret>) -> Result<Prepared, Why> {
        // A clash is told before anything is looked up or sealed; whether it still is one then, the draft says.
        let kind = kind_of(&entry.kind);
        let (consoles, ours, path) = (self.consoles, self.ours, &entry.path);
        self.vault.with_tree(|tree| place::place(tree, consoles, ours, path, kind))?.map_err(Why::Entry)?;
        if lies == Lies::Kept {
            return Ok(Prepared {
                path: path.clone(),
                lies,
                what: What::Directory,
                meta: WantedMeta::of_folder(),
                half: None,
            });
        }
        let meta = self.wanted(entry)?;
        let what = match &entry.kind {
            EntryKind::Directory => What::Directory,
            EntryKind::Symlink { target } => {
                if target.is_empty() || target.len() > TARGET_MAX || target.contains('\0') {
                    return Err(Why::Entry("a symlink's target has 1 to 4095 bytes".into()));
                }
                What::Symlink(target.as_str().into())
            }
            EntryKind::File { .. } => self.content_of(path, content)?,
        };
        let half = content.map(|content| self.vault.half(path, meta.mode, content.expose())).transpose()?.flatten();
        Ok(Prepared { path: path.clone(), lies, what, meta, half })
    }

    fn wanted(&mut self, entry: &bundle::Entry) -> Result<WantedMeta, Why> {
        let uid = self.names.uid(&entry.owner).map_err(Why::Entry)?;
        let gid = self.names.gid(&entry.group).map_err(Why::Entry)?;
        let acl = entry.acl.as_ref().map(|acl| self.names.acl(acl)).transpose().map_err(Why::Entry)?;
        let default_acl = entry.default_acl.as_ref().map(|acl| self.names.acl(acl)).transpose().map_err(Why::Entry)?;
        let kind = kind_of(&entry.kind);
        if default_acl.is_some() && kind != Kind::Directory {
            return Err(Why::Entry("only a directory has a default ACL".into()));
        }
        let sticky = if kind == Kind::Directory { 0o1000 } else { 0 };
        let mode = match &acl {
            Some(acl) => entry.mode & sticky | acl.mode(),
            None => entry.mode & (0o777 | sticky),
        };
        let scratch = scratch(&entry.path, kind);
        let mut node = scratch;
        for (name, value) in &entry.xattrs {
            if name == ON_CHANGE && !self.on_change {
                continue;
            }
            publish::check_recipients(name, value)?;
            xattr::set_checked(&mut node, name, value)?;
        }
        Ok(WantedMeta {
            uid,
            gid,
            mode,
            acl: acl.filter(|acl| !acl.is_minimal()),
            default_acl,
            xattrs: node.meta.xattrs,
            mtime: entry.mtime,
            keep_on_change: !self.on_change,
        })
    }

    /// Checks and seals the content, unless it is what the secret has already. A directory has none.
    fn content_of(&mut self, path: &SecretPath, content: Option<&Secret>) -> Result<What, Why> {
        let Some(content) = content else { return Ok(What::Directory) };
        self.vault.check_content(&scratch(path, Kind::File), content.expose())?;
        let scope = place::scope_of(path).map_err(Why::Entry)?;
        if !self.keks.contains_key(&scope) {
            let kek = self.keys.kek(&scope).map_err(|_| Why::Entry(format!("the key of {scope} is not here")))?;
            self.keks.insert(scope.clone(), kek);
        }
        let kek = &self.keks[&scope];
        if let Some(version) = self.same(path, content, kek)? {
            return Ok(What::File(Content::Same(version)));
        }
        let (blob, digest) = seal::seal_blob(content.expose(), kek, &self.keys.recovery);
        Ok(What::File(Content::New(Sealed { blob, digest, size: content.len() as u64 })))
    }

    /// The current version of the secret at this path, if it came from this console and its content is this.
    fn same(&self, path: &SecretPath, content: &Secret, kek: &Kek) -> Result<Option<Version>, VaultError> {
        if !self.ours.owned.contains(path) {
            return Ok(None);
        }
        let found = self.vault.with_tree(|t| t.find(path).and_then(|ino| Some((ino, t.get(ino)?.clone()))))?;
        let Some((ino, node)) = found else { return Ok(None) };
        let Some(version) = node.current().filter(|v| v.size == content.len() as u64) else { return Ok(None) };
        // As for a change: what has expired is compared as well.
        let grant = self.vault.judge(&Daemon, ino, &node, ScopeState::Alive, Operation::Write)?;
        match self.vault.decrypt(&grant, kek, Some(version)) {
            Ok(now) => Ok((now.expose() == content.expose()).then(|| version.clone())),
            // Damaged, or replaced meanwhile: written anew in any case.
            Err(VaultError::Damaged(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Whose fault it is.
enum Why {
    /// The entry's, and this is wrong with it.
    Entry(String),
    /// Not the entry's.
    Vault(VaultError),
}

/// A refusal of the vault's is the entry's fault; what the store says is not.
impl From<VaultError> for Why {
    fn from(error: VaultError) -> Self {
        match error {
            VaultError::Locked | VaultError::Failed(_) | VaultError::ArenaFull(_) | VaultError::NotRecorded(_) => {
                Why::Vault(error)
            }
            other => Why::Entry(other.to_string()),
        }
    }
}

pub(super) fn kind_of(kind: &EntryKind) -> Kind {
    match kind {
        EntryKind::File { .. } => Kind::File,
        EntryKind::Directory => Kind::Directory,
        EntryKind::Symlink { .. } => Kind::Symlink,
    }
}

/// What the checks of names, attributes and content are asked about.
fn scratch(path: &SecretPath, kind: Kind) -> Node {
    let name: Option<Name> = path.names().last().cloned();
    Node {
        parent: Ino::ROOT,
        name,
        kind,
        scope: Scope::Host,
        meta: Meta::new(Uid::ROOT, Gid(0), 0),
        target: None,
        versions: Vec::new(),
        last_number: 0,
        view: None,
    }
}
