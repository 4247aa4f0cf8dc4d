//! What there is to deliver, and what became of it: for whoever carries bundles to hosts.
//!
//! Owns the board: for each host when it is next tried, what is wrong with it, and what waits. It carries nothing itself.
//! What a restart must not forget (numbers delivered and acknowledged) is in the store's records; the rest is found anew.

use super::make::Fault;
use super::outbox::Outbox;
use crate::audit;
use crate::bundle::{PublicKey, ack};
use crate::caller::Daemon;
use crate::model::{HostName, Timestamp};
use crate::policy::Host;
use crate::vault::Vault;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// How long an acknowledgement is first waited for, and at most between two looks.
const ACK_FIRST: Duration = Duration::from_secs(2);
const ACK_MOST: Duration = Duration::from_secs(300);
/// How long after a failure a bundle is made again.
const REMAKE: Duration = Duration::from_secs(60);

/// Something to be done for a host.
#[derive(Debug, Clone)]
pub struct Errand {
    /// Which host, as the policy has it.
    pub host: Host,
    /// The bundle's number.
    pub serial: u64,
    /// How often it was tried in vain.
    pub tries: u32,
    /// What.
    pub kind: ErrandKind,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ErrandKind {
    /// Take this file there.
    Deliver(PathBuf),
    /// Fetch its acknowledgement.
    FetchAck,
}

/// What is to be done for a host, and when.
#[derive(Debug, Default)]
struct Live {
    host: Option<Host>,
    error: Option<String>,
    notes: Vec<String>,
    unsigned: bool,
    busy: bool,
    tries: u32,
    deliver_at: Option<Instant>,
    ack_tries: u32,
    ack_at: Option<Instant>,
    /// When a bundle that could not be made is made again.
    remake_at: Option<Instant>,
    remakes: u32,
    /// Whether the error is that no bundle could be made.
    unmade: bool,
}

/// When a bundle that was just made is to be delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// At once.
    Now,
    /// Nobody brings it.
    Never,
}

impl Wanted {
    /// At once, if somebody brings bundles to it.
    pub fn now(host: &Host) -> Self {
        if host.deliver.is_some() { Wanted::Now } else { Wanted::Never }
    }
}

/// What is known of a host beside its record.
#[derive(Debug, Clone, Default)]
pub(super) struct Standing {
    pub error: Option<String>,
    pub notes: Vec<String>,
    pub unsigned: bool,
    pub tries: u32,
    pub next_try: Option<Timestamp>,
    /// Whether there is something to deliver, or it is under way.
    pub pending: bool,
}

/// All hosts.
#[derive(Default)]
pub(super) struct Board {
    hosts: BTreeMap<HostName, Live>,
    /// Why there is no policy.
    pub policy_error: Option<String>,
    /// Why nothing can be signed.
    pub signer_error: Option<String>,
    /// By admin, as they were last read.
    pub home_keys: HashMap<String, Vec<String>>,
    /// Some were never read.
    pub home_keys_wanted: bool,
    pub stop: bool,
}

impl Board {
    /// These are the hosts; what is known of others is forgotten.
    pub fn set_hosts<'h>(&mut self, hosts: impl Iterator<Item = &'h Host>) {
        let mut before = std::mem::take(&mut self.hosts);
        for host in hosts {
            let mut live = before.remove(&host.name).unwrap_or_default();
            if live.host.as_ref().is_none_or(|known| known.deliver != host.deliver) {
                live.tries = 0;
                live.deliver_at = None;
            }
            live.host = Some(host.clone());
            self.hosts.insert(host.name.clone(), live);
        }
    }

    /// Nothing is to be done for anybody.
    pub fn pause(&mut self) {
        for live in self.hosts.values_mut() {
            *live = Live { host: live.host.take(), busy: live.busy, ..Live::default() };
        }
    }

    fn live(&mut self, host: &HostName) -> &mut Live {
        self.hosts.entry(host.clone()).or_default()
    }

    /// A bundle is in the outbox.
    pub fn made(&mut self, host: &Host, notes: Vec<String>, wanted: Wanted) {
        let live = self.live(&host.name);
        (live.error, live.notes, live.unsigned) = (None, notes, false);
        (live.tries, live.remakes, live.remake_at, live.unmade) = (0, 0, None, false);
        live.deliver_at = (wanted == Wanted::Now).then(Instant::now);
        (live.ack_at, live.ack_tries) = (None, 0);
    }

    /// It has what it should.
    pub fn unchanged(&mut self, host: &HostName) {
        let live = self.live(host);
        (live.unsigned, live.remake_at) = (false, None);
        if std::mem::take(&mut live.unmade) {
            live.error = None;
        }
    }

    /// A bundle waits for a signature.
    pub fn unsigned(&mut self, host: &HostName) {
        self.live(host).unsigned = true;
    }

    /// No bundle could be made. With a number, it is tried again; what is wrong with the policy alone, the next policy
    /// mends.
    pub fn failed(&mut self, host: &HostName, error: &str, serial: Option<u64>) {
        let live = self.live(host);
        (live.error, live.unmade) = (Some(error.to_owned()), true);
        if serial.is_some() {
            live.remake_at = Some(Instant::now() + REMAKE * 2u32.saturating_pow(live.remakes.min(5)));
            live.remakes += 1;
        }
    }

    /// Hosts whose bundle is to be made again now.
    pub fn take_remakes(&mut self, now: Instant) -> Vec<HostName> {
        let due = |live: &Live| live.remake_at.is_some_and(|at| at <= now);
        let hosts: Vec<HostName> = self.hosts.iter().filter(|(_, l)| due(l)).map(|(host, _)| host.clone()).collect();
        for host in &hosts {
            self.live(host).remake_at = None;
        }
        hosts
    }

    /// A bundle is to be made in any case.
    pub fn remake_now(&mut self, host: &HostName) {
        self.live(host).remake_at = Some(Instant::now());
    }

    /// A bundle of before is to be delivered.
    pub fn deliver_now(&mut self, host: &HostName) {
        let live = self.live(host);
        if live.deliver_at.is_none() && !live.busy && live.host.as_ref().is_some_and(|h| h.deliver.is_some()) {
            live.deliver_at = Some(Instant::now());
        }
    }

    /// As [`Board::deliver_now`], though it would be tried later.
    pub fn deliver_at_once(&mut self, host: &HostName) {
        let live = self.live(host);
        if live.deliver_at.is_some() && !live.busy {
            (live.deliver_at, live.tries) = (Some(Instant::now()), 0);
        }
        self.deliver_now(host);
    }

    /// An acknowledgement is to be looked for.
    pub fn ack_now(&mut self, host: &HostName) {
        let live = self.live(host);
        if live.ack_at.is_none() && live.host.as_ref().is_some_and(|h| h.ack_from().is_some() && h.ack.is_some()) {
            live.ack_at = Some(Instant::now());
        }
    }

    /// What is known of a host.
    pub fn standing(&self, host: &HostName) -> Standing {
        let Some(live) = self.hosts.get(host) else { return Standing::default() };
        let now = Instant::now();
        let at = |at: Instant| {
            let left = at.saturating_duration_since(now);
            Timestamp::from(std::time::SystemTime::now() + left)
        };
        Standing {
            error: live.error.clone(),
            notes: live.notes.clone(),
            unsigned: live.unsigned,
            tries: live.tries,
            next_try: live.deliver_at.filter(|_| live.tries > 0).map(at),
            pending: live.busy || live.deliver_at.is_some(),
        }
    }

    /// What is due first: host and whether it is an acknowledgement, or how long to wait for it.
    fn next(&self, now: Instant) -> Result<(HostName, bool), Option<Duration>> {
        let idle = self.hosts.iter().filter(|(_, live)| !live.busy);
        let times = idle.flat_map(|(host, live)| {
            let deliver = live.deliver_at.map(|at| (at, false, host));
            [deliver, live.ack_at.map(|at| (at, true, host))].into_iter().flatten()
        });
        match times.min() {
            Some((at, ack, host)) if at <= now => Ok((host.clone(), ack)),
            Some((at, ..)) => Err(Some(at - now)),
            None => Err(None),
        }
    }
}

impl Vault {
    /// Waits for something to be done for a host, `within` at most. Whoever gets it says what became of it:
    /// [`Vault::delivered`], [`Vault::fetched_ack`].
    pub fn next_errand(&self, within: Duration) -> Option<Errand> {
        let until = Instant::now() + within;
        loop {
            let mut board = self.exporter.board();
            let (host, is_ack) = loop {
                let now = Instant::now();
                if board.stop || now >= until {
                    return None;
                }
                match board.next(now) {
                    Ok(found) => break found,
                    Err(wait) => {
                        let wait = wait.unwrap_or(within).min(until - now);
                        let waited = self.exporter.due.wait_timeout(board, wait);
                        board = waited.unwrap_or_else(PoisonError::into_inner).0;
                    }
                }
            };
            board.live(&host).busy = true;
            drop(board);
            match self.errand(&host, is_ack) {
                Some(errand) => return Some(errand),
                None => {
                    let mut board = self.exporter.board();
                    let live = board.live(&host);
                    live.busy = false;
                    if is_ack { live.ack_at = None } else { live.deliver_at = None }
                }
            }
        }
    }

    /// Nothing more is made or brought: the daemon ends.
    pub fn stop_exports(&self) {
        self.exporter.stop();
    }

    /// Whether the daemon ends.
    pub fn exports_ended(&self) -> bool {
        self.exporter.board().stop
    }

    fn errand(&self, name: &HostName, is_ack: bool) -> Option<Errand> {
        let record = self.host_record(name).ok()?;
        let (host, tries) = {
            let mut board = self.exporter.board();
            let live = board.live(name);
            (live.host.clone()?, if is_ack { live.ack_tries } else { live.tries })
        };
        if is_ack {
            let wanted = record.delivered > record.acked && record.delivered > 0;
            return wanted.then(|| Errand { serial: record.delivered, host, tries, kind: ErrandKind::FetchAck });
        }
        let outbox = Outbox::of(&self.exporter.settings().ok()?.outbox, name);
        let wanted = record.serial > record.delivered && outbox.has(record.serial);
        let file = outbox.file(record.serial);
        wanted.then(|| Errand { serial: record.serial, host, tries, kind: ErrandKind::Deliver(file) })
    }

    /// A bundle was delivered, or not: then when it is tried again.
    pub fn delivered(&self, host: &HostName, serial: u64, outcome: Result<(), (String, Option<Duration>)>) {
        if self.fault(Fault::Delivered).is_err() {
            return;
        }
        let noted = match &outcome {
            Ok(()) => self.change_host(host, |record| {
                if record.delivered < serial {
                    (record.delivered, record.delivered_at) = (serial, Some(Timestamp::now()));
                }
            }),
            Err(_) => Ok(()),
        };
        let newest = self.host_record(host).map(|record| record.serial);
        {
            let mut board = self.exporter.board();
            let live = board.live(host);
            live.busy = false;
            match &outcome {
                Ok(()) => {
                    (live.error, live.tries, live.deliver_at) = (None, 0, None);
                    if live.host.as_ref().is_some_and(|h| h.ack_from().is_some() && h.ack.is_some()) {
                        (live.ack_at, live.ack_tries) = (Some(Instant::now() + ACK_FIRST), 0);
                    }
                }
                Err((error, again)) => {
                    live.error = Some(error.clone());
                    live.tries += 1;
                    live.deliver_at = again.map(|wait| Instant::now() + wait);
                }
            }
            // A newer one was made meanwhile.
            if newest.as_ref().is_ok_and(|newest| *newest > serial) {
                live.deliver_at = Some(Instant::now());
            }
        }
        self.exporter.due.notify_all();
        if let Err(error) = noted {
            tracing::warn!(%host, serial, %error, "that a bundle was delivered is not noted; it may be delivered again");
        }
        match outcome {
            Ok(()) => {
                tracing::info!(%host, serial, "a bundle was delivered");
                self.tidy_outbox(host);
            }
            Err((error, _)) => {
                tracing::warn!(%host, serial, %error, "a bundle was not delivered");
                let reason = format!("bundle {serial} was not delivered to {host}: {error}");
                self.refuse(audit::Operation::Export, "", None, &Daemon.who(), &reason);
            }
        }
    }

    /// Old bundles go: the newest says all that they said.
    pub(super) fn tidy_outbox(&self, host: &HostName) {
        if let Ok(settings) = self.exporter.settings()
            && let Err(error) = Outbox::of(&settings.outbox, host).tidy()
        {
            tracing::warn!(%host, %error, "old bundles are not removed from the outbox");
        }
    }

    /// An acknowledgement was looked for: the bytes of the file, nothing yet, or why it could not be had.
    pub fn fetched_ack(&self, host: &Host, found: Result<Option<Vec<u8>>, String>) {
        let name = &host.name;
        let outcome = found.and_then(|bytes| bytes.map(|bytes| self.take_ack(host, &bytes)).transpose());
        let record = self.host_record(name);
        let open = record.is_ok_and(|record| record.acked < record.delivered);
        let mut board = self.exporter.board();
        let live = board.live(name);
        live.busy = false;
        match outcome {
            Ok(Some(())) if live.error.as_ref().is_some_and(|e| e.starts_with(ACK)) => live.error = None,
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(host = %name, %error, "an acknowledgement could not be had");
                live.error = Some(format!("{ACK}{error}"));
            }
        }
        live.ack_tries += 1;
        let wait = (ACK_FIRST * 2u32.saturating_pow(live.ack_tries.min(10))).min(ACK_MOST);
        live.ack_at = open.then(|| Instant::now() + wait);
        drop(board);
        self.exporter.due.notify_all();
    }

    /// Checks an acknowledgement, and notes it.
    fn take_ack(&self, host: &Host, bytes: &[u8]) -> Result<(), String> {
        let key = host.ack.as_deref().ok_or("the policy names no key for it (ack=)")?;
        let key = PublicKey::parse(key).map_err(|e| format!("the policy's key for it: {e}"))?;
        let console = &self.exporter.settings().map_err(|e| e.to_string())?.console;
        let ack = ack::check(bytes, &key, console, &host.name).map_err(|e| e.to_string())?;
        let word = match ack.outcome {
            ack::Outcome::Applied => "applied",
            ack::Outcome::Partial => "partial",
            ack::Outcome::Refused => "refused",
        };
        let outcome = ack.reason.as_ref().map_or_else(|| word.to_owned(), |reason| format!("{word}: {reason}"));
        let (serial, at, took) = (ack.serial, ack.applied, ack.outcome != ack::Outcome::Refused);
        self.change_host(&host.name, |record| {
            // Only of what it can have seen, and nothing older than what it said before.
            if serial <= record.acked || serial > record.serial {
                return;
            }
            (record.acked, record.acked_at) = (serial, Some(at));
            record.outcome = Some(outcome);
            if serial == record.serial && took {
                record.trusts = Some(record.signer.clone());
            }
        })
        .map_err(|e| e.to_string())
    }
}

/// What an error about an acknowledgement begins with.
const ACK: &str = "its acknowledgement: ";
