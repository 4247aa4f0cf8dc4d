//! Making bundles: lists compared with what was sent, serial numbers given, and files written, in that order.
//!
//! Owns the order, on which the promises rest: a serial number is on the disk, with the digest of what it stands for, before
//! a byte of its bundle is; a bundle that a crash kept from being finished is missed at the next start and made under the
//! next number. So no number is ever that of two bundles.

use super::board::DeliverWhen;
use super::list::{self, List, OwnerNames};
use super::outbox::{self, Draft, Outbox};
use super::plan::{HostNo, Plan};
use super::record::{EntryDigest, ExportRecord, HostRecord};
use super::signers::Signing;
use crate::audit;
use crate::bundle::{self, Head};
use crate::caller::Daemon;
use crate::lock::Mutex;
use crate::model::{HostName, Ino, Timestamp};
use crate::policy::Host;
use crate::store::Batch;
use crate::stream::{Recipient, RecipientUse};
use crate::vault::node::Record;
use crate::vault::{State, Vault, VaultError};
use crate::wire::{ExportState, ExportedHost};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

/// Hosts whose lists are in memory at once: what is held does not grow with their number.
const AT_ONCE: usize = 32;
/// Threads that write bundles.
const WRITERS: usize = 2;

/// From so many milliseconds before the last number on, the clock was ahead when that number was given: hosts refuse it.
const AHEAD: u64 = 3_600_000;

/// Whether bundles are made that say nothing new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    /// Only where something changed.
    IfChanged,
    /// In any case.
    Always,
}

/// The number that the next one is to be greater than: the last one given, or, where that is ahead of the clock and the host
/// never said that it took it, the last one that it did take.
fn last_serial(record: &HostRecord, clock: u64) -> u64 {
    let ahead = record.serial > clock.saturating_add(AHEAD);
    if ahead { record.acked } else { record.serial }
}

/// A bundle to be written.
struct Job {
    host: Host,
    recipient: Recipient,
    list: List,
    entries: Vec<(String, EntryDigest)>,
    digest: [u8; 32],
    serial: u64,
}

impl Job {
    fn became(&self, state: ExportState, error: Option<String>) -> ExportedHost {
        ExportedHost { host: self.host.name.to_string(), state, serial: Some(self.serial), error }
    }
}

/// Where a test ends the making of a bundle, as a crash would.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExportPoint {
    /// Nothing is on the disk.
    BeforeSerial,
    /// The serial number is.
    Reserved,
    /// The file is written under another name.
    Written,
    /// It is there.
    Finished,
    /// It was delivered, and nobody has noted it.
    Delivered,
}

impl Vault {
    /// Makes the bundles of these hosts, as far as they say something new; what became of each. One host's failure is its
    /// own.
    ///
    /// # Errors
    /// [`VaultError::Locked`], or what keeps all of them from being made.
    pub(super) fn make(
        &self,
        hosts: &[HostName],
        again: Again,
        signing: Option<&Signing>,
    ) -> Result<Vec<ExportedHost>, VaultError> {
        let _alone = self.exporter.making.lock();
        let mut names = OwnerNames::default();
        let mut all = Vec::new();
        for some in hosts.chunks(AT_ONCE) {
            let (jobs, done) = self.prepare(some, again, signing, &mut names)?;
            all.extend(done);
            if let Some(signing) = signing {
                all.extend(self.write_bundles(jobs, signing)?);
            }
        }
        Ok(all)
    }

    /// Compares lists, and gives numbers to those that are other than what was sent.
    fn prepare(
        &self,
        hosts: &[HostName],
        again: Again,
        signing: Option<&Signing>,
        names: &mut OwnerNames,
    ) -> Result<(Vec<Job>, Vec<ExportedHost>), VaultError> {
        let guard = self.exporter.plan.lock();
        let Some(plan) = guard.as_ref() else { return Ok(Default::default()) };
        let signer = self.signer_current()?.ok_or_else(|| VaultError::Invalid("there is no signing key".into()))?;
        // Whom the policy has no more by now gets nothing.
        let hosts: Vec<HostNo> = hosts.iter().filter_map(|host| plan.number(host)).collect();
        // One look at the tree for all of them.
        let lists: Vec<List> = self.with_tree(|tree| hosts.iter().map(|no| List::of(tree, plan, *no)).collect())?;
        let (mut jobs, mut done) = (Vec::new(), Vec::new());
        for (no, mut list) in hosts.iter().zip(lists) {
            let host = plan.host(*no);
            let known = self.add_home_keys(&mut list);
            let record = self.host_record(&host.name)?;
            let outcome = |state, serial, error: Option<String>| ExportedHost {
                host: host.name.to_string(),
                state,
                serial,
                error,
            };
            let newest = (record.serial > 0).then_some(record.serial);
            if let Err(error) = known {
                self.exporter.board.lock().failed(&host.name, &error, None);
                done.push(outcome(ExportState::Failed, newest, Some(error)));
                continue;
            }
            let recipient = match Recipient::parse(&host.recipient, RecipientUse::Host) {
                Ok(recipient) => recipient,
                Err(error) => {
                    let error = format!("line {} of the policy: its recipient: {error}", host.because.line);
                    self.exporter.board.lock().failed(&host.name, &error, None);
                    done.push(outcome(ExportState::Failed, newest, Some(error)));
                    continue;
                }
            };
            let entries = list.digests(host, names);
            let digest = list::whole(&entries, &recipient.to_string(), &signer.fingerprint, &signer.revoked);
            let is_there = record.serial <= record.delivered
                || Outbox::of(&self.exporter.settings()?.outbox, &host.name).has(record.serial);
            if again == Again::IfChanged && digest == record.digest && is_there {
                self.exporter.board.lock().unchanged(&host.name);
                done.push(outcome(ExportState::Unchanged, newest, None));
                continue;
            }
            if signing.is_none() {
                self.exporter.board.lock().unsigned(&host.name);
                done.push(outcome(ExportState::Unsigned, newest, None));
                continue;
            }
            jobs.push(Job { host: host.clone(), recipient, list, entries, digest, serial: 0 });
        }
        if !jobs.is_empty() {
            self.reserve(&mut jobs, &signer.fingerprint)?;
        }
        Ok((jobs, done))
    }

    /// Gives each job the next number of its host, on the disk when this returns. The plan's lock is held.
    fn reserve(&self, jobs: &mut [Job], signer: &str) -> Result<(), VaultError> {
        self.fault(ExportPoint::BeforeSerial)?;
        let mut writer = self.lock_writer();
        let now = Timestamp::now();
        let clock = now.millis();
        let mut records: BTreeMap<Ino, Record> = BTreeMap::new();
        let mut renumbered = Vec::new();
        for job in jobs.iter_mut() {
            let known = self.with_exports(|exports| exports.host(&job.host.name).cloned())?;
            let (ino, old) = match known {
                Some(known) => known,
                None => (writer.next_ino()?, HostRecord::new(job.host.name.clone()).into()),
            };
            // The clock: a console brought back from a backup does not know its last numbers.
            job.serial = clock.max(last_serial(&old, clock).saturating_add(1));
            if job.serial <= old.serial {
                renumbered.push((job.host.name.clone(), job.serial));
            }
            let next = HostRecord {
                serial: job.serial,
                delivered: old.delivered.min(job.serial - 1),
                digest: job.digest,
                entries: std::mem::take(&mut job.entries),
                signer: signer.to_owned(),
                made: now,
                ..(*old).clone()
            };
            records.insert(ino, Record::Export(ExportRecord::Host(next)));
        }
        self.flush_with(&mut writer, Batch::default(), &records)?;
        if let State::Unlocked(open) = &mut *self.write_state() {
            for (ino, record) in records {
                if let Record::Export(record) = record {
                    open.exports.put(ino, record)?;
                }
            }
        }
        drop(writer);
        for (host, serial) in renumbered {
            tracing::warn!(%host, serial, "the clock was ahead when its last bundle was numbered: its numbers begin at the clock again");
            if let Err(error) = Outbox::of(&self.exporter.settings()?.outbox, &host).remove_from(serial) {
                tracing::warn!(%host, %error, "bundles whose numbers were ahead of the clock stay in the outbox");
            }
        }
        self.fault(ExportPoint::Reserved)
    }

    /// Writes the bundles, two at a time, and makes all of them visible together: waiting for the disk for each would be
    /// most of the time.
    fn write_bundles(&self, jobs: Vec<Job>, signing: &Signing) -> Result<Vec<ExportedHost>, VaultError> {
        let outbox = &self.exporter.settings()?.outbox;
        let next = AtomicUsize::new(0);
        let written: Mutex<Vec<_>> = Mutex::new(Vec::new());
        let work = || {
            let mut names = OwnerNames::default();
            while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                let draft = self.write_draft(job, signing, &mut names);
                written.lock().push((job, draft));
            }
        };
        if jobs.len() > 1 {
            std::thread::scope(|scope| {
                for _ in 1..WRITERS {
                    scope.spawn(work);
                }
                work();
            });
        } else {
            work();
        }
        let (mut done, mut drafts) = (Vec::new(), Vec::new());
        for (job, draft) in written.into_inner() {
            match draft {
                Ok((draft, notes)) => drafts.push((job, draft, notes)),
                Err(error) => done.push(self.unmade(job, &error.to_string())),
            }
        }
        let notes: Vec<(&Job, Vec<String>)> = drafts.iter().map(|(job, _, notes)| (*job, notes.clone())).collect();
        let visible = outbox::finish_all(outbox, drafts.into_iter().map(|(_, draft, _)| draft).collect());
        let visible = visible.map_err(|e| VaultError::Failed(format!("the outbox: {e}")));
        let visible = visible.and_then(|()| if notes.is_empty() { Ok(()) } else { self.fault(ExportPoint::Finished) });
        done.extend(notes.into_iter().map(|(job, notes)| match &visible {
            Ok(()) => self.made(job, notes),
            Err(error) => self.unmade(job, &error.to_string()),
        }));
        self.exporter.due.notify_all();
        Ok(done)
    }

    fn made(&self, job: &Job, notes: Vec<String>) -> ExportedHost {
        self.exporter.board.lock().made(&job.host, notes, DeliverWhen::now(&job.host));
        self.tidy_outbox(&job.host.name);
        job.became(ExportState::Made, None)
    }

    fn unmade(&self, job: &Job, error: &str) -> ExportedHost {
        let name = &job.host.name;
        if !self.is_ended() {
            tracing::error!(host = %name, serial = job.serial, %error, "no bundle could be made");
            self.exporter.board.lock().failed(name, error, Some(job.serial));
            // Its number is spent, and what it stood for was never there.
            let forget = |record: &mut HostRecord| {
                if record.serial == job.serial {
                    record.digest = [0; 32];
                }
            };
            if let Err(error) = self.change_host(name, forget) {
                tracing::warn!(host = %name, %error, "that no bundle was made is not noted");
            }
        }
        job.became(ExportState::Failed, Some(error.to_owned()))
    }

    /// Writes a bundle under another name.
    fn write_draft(
        &self,
        job: &Job,
        signing: &Signing,
        names: &mut OwnerNames,
    ) -> Result<(Draft, Vec<String>), VaultError> {
        let settings = self.exporter.settings()?;
        let contents = self.contents(&job.list, &job.host, job.serial, names)?;
        let lasts = job.host.expires().unwrap_or(settings.export.expires);
        let created = Timestamp::now();
        let expires = SystemTime::from(created) + lasts;
        let head = Head {
            console: settings.console.clone(),
            host: job.host.name.clone(),
            serial: job.serial,
            created,
            expires: expires.into(),
        };
        let plan = bundle::Plan {
            head: &head,
            recipients: std::slice::from_ref(&job.recipient),
            index: &contents.index,
            chain: &signing.chain,
            revoked: &signing.revoked,
        };
        let outbox = Outbox::of(&settings.outbox, &job.host.name);
        let failed = |e: std::io::Error| VaultError::Failed(format!("the outbox: {e}"));
        let mut draft: Draft = outbox.draft(job.serial).map_err(failed)?;
        let mut content = |entry: usize| self.content_again(&contents, entry).map_err(Into::into);
        let sealed = bundle::seal(draft.file(), &plan, &mut content, &*signing.signer);
        let sealed = sealed.map_err(|e| VaultError::Failed(e.to_string()))?;
        if let Err(end) = self.fault(ExportPoint::Written) {
            // A crash removes no draft.
            std::mem::forget(draft);
            return Err(end);
        }
        let files = contents.index.entries.iter().filter(|e| e.is_file()).count();
        let reason = format!("bundle {} for {}: {files} secrets, {} bytes", job.serial, job.host.name, sealed.size);
        self.record(audit::Operation::Export, "", None, &Daemon.who(), &reason)?;
        Ok((draft, contents.notes))
    }

    /// Applies the plan's hosts to a choice by name.
    pub(super) fn chosen(plan: &Plan, hosts: Option<&[String]>) -> Result<Vec<HostNo>, VaultError> {
        let Some(hosts) = hosts.filter(|hosts| !hosts.is_empty()) else {
            return Ok(plan.all().into_iter().collect());
        };
        let number = |name: &String| {
            let parsed = crate::model::HostName::parse(name).ok();
            let number = parsed.and_then(|name| plan.number(&name));
            number.ok_or_else(|| VaultError::Invalid(format!("the policy has no host '{name}'")))
        };
        let mut numbers: Vec<HostNo> = hosts.iter().map(number).collect::<Result<_, _>>()?;
        numbers.sort_unstable();
        numbers.dedup();
        Ok(numbers)
    }

    /// Whether a test has ended it: a crash clears nothing away.
    fn is_ended(&self) -> bool {
        #[cfg(test)]
        return self.exporter.fault.lock().is_some();
        #[cfg(not(test))]
        false
    }

    #[cfg(not(test))]
    #[expect(clippy::unnecessary_wraps, reason = "in tests it fails")]
    pub(super) fn fault(&self, _: ExportPoint) -> Result<(), VaultError> {
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn fault(&self, point: ExportPoint) -> Result<(), VaultError> {
        let next = *self.exporter.fault.lock();
        if next == Some(point) { Err(VaultError::Failed(format!("the test ends it: {point:?}"))) } else { Ok(()) }
    }
}
