//! Joining a console, leaving it, and what there is to know of those that were joined.
//!
//! Owns the keys that a host makes for a console: the identity that bundles are sealed to, and the key that
//! acknowledgements are signed with. The private halves are sealed in the console's record.

use super::draft::{Draft, Finished};
use super::record::{ConsoleRecord, OwnKey};
use crate::access::{Operation, ScopeState};
use crate::audit;
use crate::bundle::{KeySigner, PublicKey, Signer};
use crate::caller::Daemon;
use crate::meter::Resource;
use crate::model::{ConsoleName, HostName, Kind, Reserved, SecretPath, Timestamp, ack_file};
use crate::seal;
use crate::stream::{Recipient, RecipientUse};
use crate::vault::node::Record;
use crate::vault::{Caller, Vault, VaultError};
use crate::wire::{ConsoleInfo, Join, Joined, Left};
use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;

/// The most consoles a host trusts.
const MAX_CONSOLES: usize = 64;
/// The largest public half of an SSH host key, in bytes.
const PUBLIC_MAX: u64 = 16 << 10;

impl Vault {
    /// Trusts a console, or a new signing key of one. Durable when it returns.
    ///
    /// # Errors
    /// [`VaultError::Invalid`] for a name or key that cannot be, or a key that was revoked; [`VaultError::Locked`].
    pub(in crate::vault) fn join_console(&self, caller: &impl Caller, join: &Join) -> Result<Joined, VaultError> {
        let joined = self.try_join(caller, join);
        self.recording(audit::Operation::Import, "", || caller.who(), joined)
    }

    fn try_join(&self, caller: &impl Caller, join: &Join) -> Result<Joined, VaultError> {
        let invalid = |e: &dyn std::fmt::Display| VaultError::Invalid(e.to_string());
        let console = ConsoleName::parse(&join.console).map_err(|e| invalid(&e))?;
        let key = PublicKey::parse(&join.signer).map_err(|e| invalid(&e))?;
        let host = join.host.as_deref().map(HostName::parse).transpose().map_err(|e| invalid(&e))?;
        let credentials = self.import_settings().credentials.as_ref();
        if let Some(prefix) = &join.prefix
            && Reserved::of(prefix, credentials) == Some(Reserved::Own)
        {
            return Err(VaultError::Invalid(format!("{prefix} is pinfold's own")));
        }
        // From the look at what is there to what is written: neither an import nor a rekeying comes between.
        let mut writer = self.lock_writer();
        let known = match self.console(&console) {
            Ok(found) => Some(found),
            Err(VaultError::NotFound) => None,
            Err(error) => return Err(error),
        };
        let mut remembered = (*self.with_open(|open| open.consoles.remembered().1)?).clone();
        let seen = remembered.seen(&console, key.fingerprint()).map(|seen| seen.serial);
        let taken = seen.unwrap_or(0);
        let record = match &known {
            Some((_, known)) => {
                // Of a key that this host never met, and that somebody compared, a revocation is a thief's word.
                if seen.is_some() && known.revoked.contains(&key.fingerprint()) {
                    let what = format!("the console revoked the key {}", key.fingerprint());
                    return Err(VaultError::Invalid(what));
                }
                let mut next = (**known).clone();
                if next.key != key {
                    // Whoever had the old key may have used up its numbers, and filled what is remembered of revocations. What
                    // matters of them is what this host could trust again by mistake.
                    next.serial = taken;
                    next.revoked.retain(|revoked| remembered.seen(&next.console, *revoked).is_some());
                }
                next.key = key;
                next.number = None;
                next.host = host.unwrap_or(next.host);
                next.prefix = join.prefix.clone().unwrap_or(next.prefix);
                next
            }
            None => {
                let prefix = join.prefix.clone().unwrap_or_default();
                ConsoleRecord { serial: taken, ..self.new_console(console, key, host, prefix)? }
            }
        };
        remembered.saw(&record.console, record.key.fingerprint(), 0);
        if self.with_open(|open| open.consoles.all().len())? >= MAX_CONSOLES && known.is_none() {
            return Err(VaultError::NoSpace("64 consoles"));
        }
        let ino = match &known {
            Some((ino, _)) => *ino,
            None => writer.next_ino()?,
        };
        let below = if record.prefix.is_root() { "everywhere".to_owned() } else { format!("below {}", record.prefix) };
        let what = format!("joined {}, which signs with {}, {below}", record.console, record.key.fingerprint());
        self.record(audit::Operation::Import, "", None, &caller.who(), &what)?;
        let joined = Joined { again: known.is_some(), line: record.policy_line(), console: info(&record) };
        self.keep_console(&mut writer, ino, record, Some(remembered))?;
        Ok(joined)
    }

    fn new_console(
        &self,
        console: ConsoleName,
        key: PublicKey,
        host: Option<HostName>,
        prefix: SecretPath,
    ) -> Result<ConsoleRecord, VaultError> {
        let host = match host {
            Some(host) => host,
            None => this_machine()?,
        };
        let keys = self.keys()?;
        let (identity, recipient) = match &self.import_settings().identity {
            Some(file) => (None, public_half(file)?),
            None => {
                let identity = seal::make_identity();
                (
                    Some(OwnKey::Identity.seal(&console, &keys.index, &identity.text()?)),
                    identity.recipient().to_string(),
                )
            }
        };
        let signer = KeySigner::generate().map_err(|e| VaultError::Failed(e.to_string()))?;
        let (ack, ack_public) = (OwnKey::Ack.seal(&console, &keys.index, signer.seed()), signer.public().clone());
        Ok(ConsoleRecord {
            console,
            host,
            prefix,
            key,
            number: None,
            revoked: Vec::new(),
            serial: 0,
            recipient,
            identity,
            ack,
            ack_public,
            owned: BTreeSet::new(),
            admins: Vec::new(),
            accounts: Vec::new(),
            joined: Timestamp::now(),
            last: None,
        })
    }

    /// The joined consoles, by name.
    ///
    /// # Errors
    /// [`VaultError::Locked`].
    pub fn consoles(&self) -> Result<Vec<ConsoleInfo>, VaultError> {
        self.with_open(|open| open.consoles.all().iter().map(|(_, record)| info(record)).collect())
    }

    /// Trusts a console no more. What came from it stays, as secrets of this host, or goes.
    ///
    /// # Errors
    /// [`VaultError::NotFound`]; [`VaultError::Invalid`] while there are accounts of its admins that are to go.
    pub(in crate::vault) fn leave_console(
        &self,
        caller: &impl Caller,
        console: &str,
        keep: bool,
    ) -> Result<Left, VaultError> {
        let console = ConsoleName::parse(console).map_err(|e| VaultError::Invalid(e.to_string()))?;
        let mut writer = self.lock_writer();
        self.flush(&mut writer)?;
        let (ino, record) = self.console(&console)?;
        if !keep && !record.accounts.is_empty() {
            return Err(VaultError::Invalid("accounts of its admins are still there".into()));
        }
        let who = caller.who();
        let how = if keep { "kept" } else { "removed" };
        let what = format!("left {console}; {} paths are {how}", record.owned.len());
        self.record(audit::Operation::Import, "", None, &who, &what)?;
        let mut draft = Draft::new(
            self.with_tree(|tree| tree.clone())?,
            self.limits.keep_versions,
            *self.meter.bounds(Resource::Removed),
        );
        let mut left = Left::default();
        for path in record.owned.iter().rev() {
            let found = draft.tree.find(path).and_then(|ino| Some((ino, draft.tree.get(ino)?.clone())));
            let Some((ino, node)) = found else { continue };
            let shared =
                node.kind == Kind::Directory && draft.tree.children(ino).is_some_and(|children| !children.is_empty());
            if keep || shared {
                left.kept += 1;
                continue;
            }
            let parent = draft.tree.get(node.parent).cloned().ok_or(VaultError::NotFound)?;
            self.judge(&Daemon, node.parent, &parent, ScopeState::Alive, Operation::ChangeEntries)?;
            let op = if node.kind == Kind::Directory { audit::Operation::Rmdir } else { audit::Operation::Remove };
            let version = node.current().map(|v| v.number.0);
            self.record(op, &path.to_string(), version, &who, &format!("left {console}"))?;
            draft.remove(ino, &path.to_string());
            left.removed += 1;
        }
        let Finished { tree, mut batch, mut records, changes, .. } = draft.finish();
        batch.nodes.insert(ino, None);
        // A console of that name that is joined one day need not be this one: its names are no accounts of its.
        let (at, before) = self.with_open(|open| open.consoles.remembered())?;
        let mut remembered = (*before).clone();
        remembered.locked.retain(|account| account.console != console);
        if let Some(at) = at {
            records.insert(at, Record::Remembered(Box::new(remembered.clone())));
        }
        self.flush_with(&mut writer, batch, &records)?;
        let before = self.with_open_mut(|open| {
            open.consoles.remove(&console);
            if let Some(at) = at {
                open.consoles.put_remembered(at, remembered);
            }
            std::mem::replace(&mut open.tree, tree)
        })?;
        drop((writer, before));
        changes.into_iter().for_each(|change| self.notify(change));
        let _ = std::fs::remove_file(self.store.dir().join(super::ACKS).join(ack_file(&record.host, &console)));
        Ok(left)
    }
}

impl ConsoleRecord {
    /// The line that the console's policy needs for this host.
    fn policy_line(&self) -> String {
        let recipient = self.recipient.replacen(' ', ":", 1);
        format!("host {} {recipient} ack={}", self.host, self.ack_public.one_word())
    }
}

fn info(record: &ConsoleRecord) -> ConsoleInfo {
    ConsoleInfo {
        console: record.console.to_string(),
        host: record.host.to_string(),
        prefix: record.prefix.clone(),
        signer: record.key.to_string(),
        fingerprint: record.key.fingerprint().to_string(),
        revoked: record.revoked.iter().map(ToString::to_string).collect(),
        recipient: record.recipient.clone(),
        ack: record.ack_public.to_string(),
        serial: record.serial,
        secrets: record.owned.len() as u64,
        admins: record.admins.iter().map(|a| a.user.clone()).collect(),
        joined: record.joined,
        imported: record.last.as_ref().map(|last| last.time),
        outcome: record.last.as_ref().map(|last| last.outcome.clone()),
    }
}

/// What this machine is called.
fn this_machine() -> Result<HostName, VaultError> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname");
    let name = name.map_err(|e| VaultError::Failed(format!("this machine has no name: {e}")))?;
    HostName::parse(name.trim()).map_err(|e| VaultError::Invalid(format!("{e}; say what the console calls this host")))
}

/// The recipient of an SSH host key: what lies beside it as `.pub`.
fn public_half(file: &Path) -> Result<String, VaultError> {
    let mut name = file.as_os_str().to_owned();
    name.push(".pub");
    let shown = Path::new(&name).display().to_string();
    let failed = |e: &dyn std::fmt::Display| VaultError::Invalid(format!("{shown}: {e}"));
    let mut text = String::new();
    let opened = std::fs::File::open(&name).map_err(|e| failed(&e))?;
    opened.take(PUBLIC_MAX).read_to_string(&mut text).map_err(|e| failed(&e))?;
    let recipient = Recipient::parse(&text, RecipientUse::Host).map_err(|e| failed(&e))?.to_string();
    Ok(recipient)
}
