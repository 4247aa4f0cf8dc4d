//! The board: for each host what waits for it, when it is next tried, and what is wrong.
//!
//! Owns what a restart may forget; what it must not is in the store's records.

use crate::model::{HostName, Timestamp};
use crate::policy::Host;
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

/// How long after a failure a bundle is made again.
const REMAKE: Duration = Duration::from_secs(60);

/// What is to be done for a host, and when.
#[derive(Debug, Default)]
pub(super) struct Live {
    pub host: Option<Host>,
    pub error: Option<String>,
    pub notes: Vec<String>,
    pub unsigned: bool,
    pub busy: bool,
    pub tries: u32,
    pub deliver_at: Option<Instant>,
    pub ack_tries: u32,
    pub ack_at: Option<Instant>,
    /// When a bundle that could not be made is made again.
    pub remake_at: Option<Instant>,
    pub remakes: u32,
    /// Whether the error is that no bundle could be made.
    pub unmade: bool,
}

/// When a bundle that was just made is to be delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DeliverWhen {
    /// At once.
    Now,
    /// Nobody brings it.
    Never,
}

impl DeliverWhen {
    /// At once, if somebody brings bundles to it.
    pub fn now(host: &Host) -> Self {
        if host.deliver.is_some() { DeliverWhen::Now } else { DeliverWhen::Never }
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

    pub fn live(&mut self, host: &HostName) -> &mut Live {
        self.hosts.entry(host.clone()).or_default()
    }

    /// A bundle is in the outbox.
    pub fn made(&mut self, host: &Host, notes: Vec<String>, wanted: DeliverWhen) {
        let live = self.live(&host.name);
        (live.error, live.notes, live.unsigned) = (None, notes, false);
        (live.tries, live.remakes, live.remake_at, live.unmade) = (0, 0, None, false);
        live.deliver_at = (wanted == DeliverWhen::Now).then(Instant::now);
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
    pub fn next(&self, now: Instant) -> Result<(HostName, bool), Option<Duration>> {
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
