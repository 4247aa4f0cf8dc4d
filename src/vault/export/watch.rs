//! The thread of the exports: it hears of changes, waits for the last of several, and has bundles made.
//!
//! Owns when: after a change of the tree, of the policy's file, of a signing key, after an unlock, and when a bundle that
//! nobody has taken is about to expire. On a locked store it waits.

use super::make::Again;
use super::outbox::Outbox;
use super::plan::Plan;
use super::{ExportSettings, ExportTouched};
use crate::audit;
use crate::caller::Daemon;
use crate::config::SignWith;
use crate::model::{HostName, Timestamp};
use crate::policy::{Policy, PolicyError};
use crate::policy_file;
use crate::vault::{Vault, VaultError};
use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often the policy's file is looked at.
const LOOK: Duration = Duration::from_secs(2);
/// How often bundles are looked through for those that are about to expire unread.
const AGEING: Duration = Duration::from_secs(600);
/// How long after nothing could be signed it is tried again.
const RESIGN: Duration = Duration::from_secs(10);
/// Nobody waits for the end of a row of changes for longer than this many times the debounce.
const AT_MOST: u32 = 6;

/// What the policy's file was when it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Stamp(Option<(u64, u64, i64, i64, u64, i64, i64)>);

impl Stamp {
    fn of(file: &Path) -> Self {
        let meta = std::fs::metadata(file).ok();
        Stamp(meta.map(|m| (m.dev(), m.ino(), m.mtime(), m.mtime_nsec(), m.size(), m.ctime(), m.ctime_nsec())))
    }
}

impl Vault {
    /// Starts the thread that makes bundles. One a vault; it ends with [`Vault::shutdown`].
    ///
    /// # Errors
    /// If there is no thread to be had.
    pub fn serve_exports(self: &Arc<Self>, settings: ExportSettings) -> std::io::Result<()> {
        if self.exporter.settings.set(settings).is_err() {
            return Ok(());
        }
        self.exporter.touch_all();
        let vault = Arc::clone(self);
        std::thread::Builder::new()
            .name("exporter".into())
            .spawn(move || {
                // A fault in one round must not end all.
                while catch_unwind(AssertUnwindSafe(|| vault.keep_exported())).is_err() {
                    tracing::error!("the exporter panicked; it goes on");
                    vault.exporter.touch_all();
                    std::thread::sleep(LOOK);
                }
            })
            .map(drop)
    }

    /// The policy's file is to be read again, now.
    pub fn reload_policy(&self) {
        self.exporter.inbox.lock().reload = true;
        self.exporter.news.notify_one();
    }

    fn keep_exported(&self) {
        let Ok(settings) = self.exporter.settings() else { return };
        let mut aged = Instant::now();
        // Hosts for whom nothing could be signed, and when that is tried again.
        let mut left: (BTreeSet<HostName>, Option<Instant>) = Default::default();
        loop {
            let Some(mut touched) = self.wait_for_changes(settings) else { return };
            if self.locked_since().is_some() {
                // The unlock will say that everything is to be looked at.
                *self.exporter.plan.lock() = None;
                self.exporter.board.lock().pause();
                *self.exporter.stamp.lock() = None;
                left = Default::default();
                continue;
            }
            if self.read_policy(settings) {
                left = Default::default();
                touched = ExportTouched { all: true, ..ExportTouched::default() };
            }
            let mut hosts = self.follow(&touched);
            if touched.all {
                self.take_up_exports();
            }
            if aged.elapsed() >= AGEING {
                aged = Instant::now();
                self.forget_ageing();
            }
            hosts.extend(self.remakes());
            left.0.extend(hosts);
            if touched.all {
                // What could not be signed may be by now: a key was rotated.
                left.1 = None;
            }
            if left.1.is_none_or(|at| at <= Instant::now()) {
                left = match self.make_changed(&left.0) {
                    true => Default::default(),
                    false => (left.0, Some(Instant::now() + RESIGN)),
                };
            }
        }
    }

    /// Waits until something changed, and then for the last of several changes; `None` at the end. Nothing changed if only
    /// the time to look at the policy's file has come.
    fn wait_for_changes(&self, settings: &ExportSettings) -> Option<ExportTouched> {
        let debounce = settings.export.debounce;
        let wait = |inbox, time| {
            let waited = self.exporter.news.wait_timeout(inbox, time);
            waited.0
        };
        let begun = Instant::now();
        let mut inbox = self.exporter.inbox.lock();
        while !inbox.stop && !inbox.reload && inbox.touched.is_empty() && begun.elapsed() < LOOK {
            inbox = wait(inbox, LOOK.saturating_sub(begun.elapsed()));
        }
        let first = Instant::now();
        let mut seen = inbox.touched.nodes.len();
        let mut quiet_since = first;
        // All is known to have changed: nothing is gained by waiting.
        while !inbox.stop && !inbox.touched.is_empty() && !inbox.touched.all {
            let left = debounce.saturating_sub(quiet_since.elapsed());
            if left.is_zero() || first.elapsed() >= debounce * AT_MOST {
                break;
            }
            inbox = wait(inbox, left);
            if inbox.touched.nodes.len() != seen {
                seen = inbox.touched.nodes.len();
                quiet_since = Instant::now();
            }
        }
        if inbox.stop {
            return None;
        }
        inbox.reload = false;
        Some(std::mem::take(&mut inbox.touched))
    }

    /// Reads the policy if it is another one than was read, and applies it to the tree. Whether there is a new one.
    pub(super) fn read_policy(&self, settings: &ExportSettings) -> bool {
        let mut stamp = self.exporter.stamp.lock();
        let now = Stamp::of(&settings.policy);
        if *stamp == Some(now) {
            return false;
        }
        *stamp = Some(now);
        let policy = match policy_file::load(&settings.policy) {
            // Not everybody is a console.
            Err(PolicyError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Policy::empty(),
            Err(error) => {
                // Who is to get what is in doubt: nobody gets anything new.
                tracing::error!(%error, "the policy cannot be read: no bundles are made");
                *self.exporter.plan.lock() = None;
                self.exporter.board.lock().policy_error = Some(error.to_string());
                let reason = format!("the policy cannot be read: {error}");
                self.refuse(audit::Operation::Policy, "", None, &Daemon.who(), &reason);
                return false;
            }
            Ok(policy) => policy,
        };
        let hosts = policy.hosts().len();
        let known = self.exporter.plan.lock().as_ref().map(|plan| plan.policy().hosts().len());
        let mut plan = Plan::new(Arc::new(policy));
        let looked = self.with_tree(|tree| plan.look_at_all(tree));
        if looked.is_err() {
            *stamp = None;
            return false;
        }
        if hosts > 0 || known.is_some_and(|known| known > 0) {
            let reason = format!("{} is in force: {hosts} hosts", settings.policy.display());
            if let Err(error) = self.record(audit::Operation::Policy, "", None, &Daemon.who(), &reason) {
                tracing::error!(%error, "the policy is not in force: that could not be recorded");
                *stamp = None;
                return false;
            }
        }
        let mut held = self.exporter.plan.lock();
        let mut board = self.exporter.board.lock();
        board.policy_error = None;
        // Before anybody asks: until then there are no bundles.
        board.home_keys_wanted = settings.export.home_keys;
        board.set_hosts(plan.policy().hosts().iter());
        *held = Some(plan);
        drop(board);
        self.exporter.due.notify_all();
        true
    }

    /// Brings the plan up to date. The hosts that are touched.
    pub(super) fn follow(&self, touched: &ExportTouched) -> BTreeSet<HostName> {
        let mut plan = self.exporter.plan.lock();
        let Some(plan) = plan.as_mut() else { return BTreeSet::new() };
        let hosts = self.with_tree(|tree| plan.follow(tree, touched)).unwrap_or_default();
        hosts.into_iter().map(|no| plan.host(no).name.clone()).collect()
    }

    /// Goes on where a daemon before this one stopped: bundles that were made and not delivered, drafts that were not
    /// finished.
    pub(super) fn take_up_exports(&self) {
        let hosts = match self.exporter.plan.lock().as_ref() {
            Some(plan) => Arc::clone(plan.policy()),
            None => return,
        };
        let Ok(settings) = self.exporter.settings() else { return };
        for host in hosts.hosts() {
            let Ok(record) = self.host_record(&host.name) else { return };
            let outbox = Outbox::of(&settings.outbox, &host.name);
            let alone = self.exporter.making.lock();
            let cleared = outbox.clear_drafts();
            drop(alone);
            if let Err(error) = cleared {
                tracing::warn!(host = %host.name, %error, "the outbox cannot be cleared of what was not finished");
            }
            if record.serial > record.delivered && outbox.has(record.serial) {
                self.exporter.board.lock().deliver_now(&host.name);
            }
            if record.delivered > record.acked {
                self.exporter.board.lock().ack_now(&host.name);
            }
        }
        self.exporter.due.notify_all();
    }

    /// Bundles that nobody has taken are made anew when half of their time is over.
    fn forget_ageing(&self) {
        let Some(policy) = self.exporter.plan.lock().as_ref().map(|plan| Arc::clone(plan.policy())) else { return };
        let Ok(settings) = self.exporter.settings() else { return };
        let now = Timestamp::now();
        for host in policy.hosts() {
            let Ok(record) = self.host_record(&host.name) else { return };
            let lasts = host.expires().unwrap_or(settings.export.expires);
            let half = i64::try_from(lasts.as_secs() / 2).unwrap_or(i64::MAX);
            let old = record.serial > 0 && now.secs.saturating_sub(record.made.secs) > half;
            let taken = if host.ack.is_some() && host.ack_from().is_some() { record.acked } else { record.delivered };
            if old && taken < record.serial {
                tracing::info!(host = %host.name, serial = record.serial, "nobody took the bundle; it is made anew");
                self.exporter.board.lock().remake_now(&host.name);
            }
        }
    }

    /// Hosts whose bundles are to be made in any case, since the last try failed.
    fn remakes(&self) -> Vec<HostName> {
        let names = self.exporter.board.lock().take_remakes(Instant::now());
        // What it stood for is not what the host has.
        let forget = |name: &HostName| self.change_host(name, |record| record.digest = [0; 32]).is_ok();
        names.into_iter().filter(forget).collect()
    }

    /// Makes what is to be made, as far as it can be signed without asking. Whether that is done.
    fn make_changed(&self, hosts: &BTreeSet<HostName>) -> bool {
        if hosts.is_empty() {
            return true;
        }
        let hosts: Vec<HostName> = hosts.iter().cloned().collect();
        let manual = self.exporter.settings().is_ok_and(|s| s.export.signer == SignWith::Manual);
        let made = self.signer_if_none().and_then(|()| {
            let signing = if manual { None } else { Some(self.signing(None)?) };
            self.make(&hosts, Again::IfChanged, signing.as_ref())
        });
        let mut board = self.exporter.board.lock();
        match made {
            Ok(_) => {
                board.signer_error = None;
                true
            }
            // The unlock will have everything looked at.
            Err(VaultError::Locked) => true,
            Err(error) => {
                if board.signer_error.is_none() {
                    tracing::error!(%error, "no bundles can be made");
                }
                board.signer_error = Some(error.to_string());
                false
            }
        }
    }
}
