//! Imports: what a console sends to this host goes into the tree, all of it as one transaction.
//!
//! Owns the consoles that were joined, who trusts whom, and the order of an import: check the copy, open it, prepare every entry
//! without keeping anybody waiting, then one transaction of content, history and trust, and one step in memory. A reader has the
//! tree as it was before or as it is after. It decides like everybody's caller, through `access`; it makes no accounts and looks into
//! no inbox: those are the command's.

mod accounts;
mod apply;
mod arrive;
mod consoles;
mod draft;
mod names;
mod place;
mod prepare;
mod record;
mod remembered;
mod serve;
#[cfg(test)]
mod tests;

pub use accounts::{is_account_name, mark};
pub use record::{AccountRecord, AdminRecord, ConsoleRecord, LastImport};

pub(super) use record::Consoles;
pub(super) use remembered::Remembered;

use super::node::Record;
use super::{Caller, Vault, VaultError, fault};
use crate::audit;
use crate::bundle::{self, Checked, Refusal};
use crate::meter::Resource;
use crate::model::{ConsoleName, Ino, SecretPath, Timestamp};
use crate::wire::{ImportOutcome, ImportReport, Listed};
use apply::{Applying, Plan};
use draft::{Draft, Finished};
use prepare::Prepared;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The folder in the store that bundles are copied to before they are looked at. Root's alone.
pub const INCOMING: &str = "incoming";
/// The folder in the store with an acknowledgement for each console.
pub const ACKS: &str = "acks";

/// How a bundle's copy is checked: [`bundle::check`], or the same in a process without privileges.
pub type Check = fn(&File, &bundle::Trust, Timestamp) -> Result<Checked, Refusal>;

/// The bounds and switches of imports.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The largest bundle, in bytes.
    pub max_size: u64,
    /// The most entries.
    pub max_entries: usize,
    /// How far clocks may differ.
    pub skew: Duration,
    /// Whether the rest is applied if some entries are refused, where nobody says otherwise.
    pub partial: bool,
    /// Whether a bundle may say which units are told of a change.
    pub on_change: bool,
    /// An SSH host key that bundles are sealed to; `None` for a key of pinfold's own.
    pub identity: Option<PathBuf>,
    /// Whether the accounts of admins are looked after.
    pub accounts: bool,
    /// The first uid that an account may get.
    pub first_uid: u32,
    /// The folder that units' credentials are served from.
    pub credentials: Option<SecretPath>,
    /// How a copy is checked.
    pub check: Check,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            max_size: 256 << 20,
            max_entries: 100_000,
            skew: Duration::from_secs(300),
            partial: false,
            on_change: false,
            identity: None,
            accounts: false,
            first_uid: 70_000,
            credentials: None,
            check: |file, trust, now| bundle::check(file, trust, now),
        }
    }
}

/// What is known of a bundle once it was checked.
struct Arrived {
    console: ConsoleName,
    serial: u64,
    trust: bundle::Trust,
    /// The keys of its chain that it revokes.
    led: Vec<bundle::Fingerprint>,
}

/// What was prepared of it.
struct Ready {
    prepared: Vec<Prepared>,
    listed: Vec<SecretPath>,
    refused: Vec<crate::wire::RefusedEntry>,
    admins: Vec<AdminRecord>,
}

/// What is to be done with what was prepared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// All or nothing.
    Whole,
    /// Without what is refused.
    Partial,
    /// Nothing: it is only told.
    Pretend,
}

impl Vault {
    /// Sets the bounds and switches of imports. Only the first counts.
    pub fn with_imports(&self, settings: Settings) {
        let _ = self.imports.set(settings);
    }

    fn import_settings(&self) -> &Settings {
        self.imports.get_or_init(Settings::default)
    }

    /// One transaction of everything that was prepared, and one step in memory.
    fn apply(
        &self,
        caller: &impl Caller,
        arrived: &Arrived,
        ready: Ready,
        mode: Mode,
    ) -> Result<ImportReport, VaultError> {
        let mut writer = self.lock_writer();
        // What waited is not this bundle's, and does not stand or fall with it.
        self.flush(&mut writer)?;
        let (ino, ours) = self.console(&arrived.console)?;
        if ours.serial >= arrived.serial {
            return Err(VaultError::Invalid("a newer bundle was imported meanwhile".into()));
        }
        let consoles = self.with_open(|open| open.consoles.clone())?;
        let mut remembered = (*consoles.remembered().1).clone();
        let draft = Draft::new(
            self.with_tree(|tree| tree.clone())?,
            self.limits.keep_versions,
            *self.meter.bounds(Resource::Removed),
        );
        let Ready { prepared, listed, refused, admins } = ready;
        let mut pretended = 1 << 62;
        let mut new_ino = || match mode {
            Mode::Pretend => {
                pretended += 1;
                Ok(Ino(pretended))
            }
            Mode::Whole | Mode::Partial => writer.next_ino(),
        };
        let plan = Plan { refused, ..Plan::default() };
        let mut applying =
            Applying { vault: self, consoles: &consoles, ours: &ours, draft, new_ino: &mut new_ino, plan };
        applying.all(&listed, prepared)?;
        let Applying { draft, plan, .. } = applying;
        let mut next = (*ours).clone();
        next.learn(&arrived.trust);
        let key = arrived.trust.key.fingerprint();
        arrived.led.iter().chain([&key]).for_each(|key| remembered.saw(&arrived.console, *key, 0));
        let outcome = match (plan.refused.is_empty(), mode) {
            (_, Mode::Pretend) => return Ok(report(arrived, ImportOutcome::Pretended, plan)),
            (false, Mode::Whole) => ImportOutcome::Refused,
            (false, Mode::Partial) => ImportOutcome::Partial,
            (true, Mode::Whole | Mode::Partial) => ImportOutcome::Applied,
        };
        let last = LastImport { time: Timestamp::now(), serial: arrived.serial, outcome: outcome.as_str().into() };
        next.last = Some(last);
        if outcome == ImportOutcome::Refused {
            // Which keys are not to be trusted any more holds whatever becomes of the content.
            self.keep_console(&mut writer, ino, next, Some(remembered))?;
            return Ok(report(arrived, outcome, plan));
        }
        next.serial = arrived.serial;
        remembered.saw(&arrived.console, key, arrived.serial);
        next.owned.clone_from(&plan.owned);
        next.admins = admins;
        fault::at(fault::Point::Planned)?;
        self.record_all(caller, arrived, &plan)?;
        fault::at(fault::Point::Recorded)?;
        let Finished { tree, batch, mut records, changes, touched } = draft.finish();
        records.insert(ino, Record::Console(Box::new(next.clone())));
        let at = match consoles.remembered().0 {
            Some(at) => at,
            None => writer.next_ino()?,
        };
        records.insert(at, Record::Remembered(Box::new(remembered.clone())));
        self.flush_with(&mut writer, batch, &records)?;
        fault::at(fault::Point::Durable)?;
        // What is replaced is dropped when nobody waits for it any more.
        let before = self.with_open_mut(|open| {
            open.consoles.put(ino, next);
            open.consoles.put_remembered(at, remembered);
            std::mem::replace(&mut open.tree, tree)
        })?;
        drop(writer);
        drop(before);
        fault::at(fault::Point::Shown)?;
        touched.into_iter().for_each(|touched| self.notify_unit(Some(touched)));
        changes.into_iter().for_each(|change| self.notify(change));
        Ok(report(arrived, outcome, plan))
    }

    /// Writes down what is about to be done, path by path and as a whole.
    fn record_all(&self, caller: &impl Caller, arrived: &Arrived, plan: &Plan) -> Result<(), VaultError> {
        let who = caller.who();
        let from = format!("bundle {} of {}", arrived.serial, arrived.console);
        let all = format!(
            "{from}: {} added, {} changed, {} removed, {} refused",
            plan.added.count,
            plan.changed.count,
            plan.removed.count,
            plan.refused.len()
        );
        self.record(audit::Operation::Import, "", None, &who, &all)?;
        for (op, path, version) in &plan.events {
            self.record(*op, path, *version, &who, &from)?;
        }
        plan.refused.iter().for_each(|r| self.refuse(audit::Operation::Import, &r.path, None, &who, &r.reason));
        Ok(())
    }

    /// A joined console.
    fn console(&self, console: &ConsoleName) -> Result<(Ino, Arc<ConsoleRecord>), VaultError> {
        self.with_open(|open| open.consoles.get(console))?.ok_or(VaultError::NotFound)
    }
}

fn report(arrived: &Arrived, outcome: ImportOutcome, plan: Plan) -> ImportReport {
    let reason = match outcome {
        ImportOutcome::Refused => {
            Some(format!("{} of its entries are refused; nothing of it was applied", plan.refused.len()))
        }
        ImportOutcome::Applied | ImportOutcome::Partial | ImportOutcome::Pretended => None,
    };
    let refused_count = plan.refused.len() as u64;
    let mut refused = plan.refused;
    refused.truncate(crate::wire::LISTED_MAX);
    ImportReport {
        outcome,
        console: Some(arrived.console.to_string()),
        serial: Some(arrived.serial),
        code: (outcome == ImportOutcome::Refused).then(|| "entries".to_owned()),
        reason,
        added: plan.added,
        changed: plan.changed,
        removed: plan.removed,
        unchanged: plan.unchanged,
        refused,
        refused_count,
        ack: None,
    }
}

/// A bundle that was refused as a whole.
fn refused(console: Option<&ConsoleName>, refusal: &Refusal) -> ImportReport {
    ImportReport {
        outcome: ImportOutcome::Refused,
        console: console.map(ToString::to_string),
        serial: None,
        code: Some(refusal.code().into()),
        reason: Some(refusal.to_string()),
        added: Listed::default(),
        changed: Listed::default(),
        removed: Listed::default(),
        unchanged: 0,
        refused: Vec::new(),
        refused_count: 0,
        ack: None,
    }
}
