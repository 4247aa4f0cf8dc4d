//! What there is to deliver, and what became of it: for whoever carries bundles to hosts.
//!
//! Owns the errands, and what is noted of them: numbers delivered and acknowledged. It carries nothing itself.

use super::make::ExportPoint;
use super::outbox::Outbox;
use crate::audit;
use crate::bundle::{PublicKey, ack};
use crate::caller::Daemon;
use crate::model::{HostName, Timestamp};
use crate::policy::Host;
use crate::vault::Vault;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long an acknowledgement is first waited for, and at most between two looks.
const ACK_FIRST: Duration = Duration::from_secs(2);
const ACK_MOST: Duration = Duration::from_secs(300);

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

impl Vault {
    /// Waits for something to be done for a host, `within` at most. Whoever gets it says what became of it:
    /// [`Vault::delivered`], [`Vault::fetched_ack`].
    pub fn next_errand(&self, within: Duration) -> Option<Errand> {
        let until = Instant::now() + within;
        loop {
            let mut board = self.exporter.board.lock();
            let (host, is_ack) = loop {
                let now = Instant::now();
                if board.stop || now >= until {
                    return None;
                }
                match board.next(now) {
                    Ok(found) => break found,
                    Err(wait) => {
                        let wait = wait.unwrap_or(within).min(until - now);
                        (board, _) = self.exporter.due.wait_timeout(board, wait);
                    }
                }
            };
            board.live(&host).busy = true;
            drop(board);
            match self.errand(&host, is_ack) {
                Some(errand) => return Some(errand),
                None => {
                    let mut board = self.exporter.board.lock();
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
        self.exporter.board.lock().stop
    }

    fn errand(&self, name: &HostName, is_ack: bool) -> Option<Errand> {
        let record = self.host_record(name).ok()?;
        let (host, tries) = {
            let mut board = self.exporter.board.lock();
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
        if self.fault(ExportPoint::Delivered).is_err() {
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
            let mut board = self.exporter.board.lock();
            let live = board.live(host);
            live.busy = false;
            match &outcome {
                Ok(()) => {
                    (live.tries, live.deliver_at) = (0, None);
                    // That the next one cannot be made is as true as before.
                    if !live.unmade {
                        live.error = None;
                    }
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
        let mut board = self.exporter.board.lock();
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
            ack::AckOutcome::Applied => "applied",
            ack::AckOutcome::Partial => "partial",
            ack::AckOutcome::Refused => "refused",
        };
        let outcome = ack.reason.as_ref().map_or_else(|| word.to_owned(), |reason| format!("{word}: {reason}"));
        let (serial, at, took) = (ack.serial, ack.applied, ack.outcome != ack::AckOutcome::Refused);
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
