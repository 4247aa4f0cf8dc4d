//! The console's threads: one that makes bundles, some that bring them to hosts.
//!
//! Owns the threads, and the mail to whoever looks after the console. What is to be brought where, the vault's board
//! says; how it is brought, `delivery` knows. No lock of the vault is held meanwhile, and a host that does not answer keeps
//! one thread busy for as long as one delivery may take, no longer.

use crate::config::Config;
use crate::delivery::{self, Cancel, Job, Target, backoff, next_try};
use crate::model::ConsoleName;
use crate::vault::{Errand, ErrandKind, ExportSettings, Vault};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How long a thread waits for something to do before it looks whether it is to end.
const IDLE: Duration = Duration::from_secs(60);

/// What became of a delivery; for a failure, why, and how long to wait before the next try.
type ErrandResult = Result<(), (String, Option<Duration>)>;

/// The console's threads.
pub struct Exports(Option<Cancel>);

impl Exports {
    /// Starts them. They end with [`Vault::shutdown`].
    ///
    /// # Errors
    /// If there is no thread, or no descriptor, to be had.
    pub fn start(vault: &Arc<Vault>, config: &Config) -> std::io::Result<Self> {
        let settings = match ExportSettings::of(config) {
            Ok(settings) => settings,
            // Most machines are nobody's console.
            Err(error) => {
                tracing::warn!(%error, "nothing is exported");
                return Ok(Exports(None));
            }
        };
        let cancel = Cancel::new()?;
        let console = settings.console.clone();
        vault.serve_exports(settings)?;
        if config.export.home_keys {
            super::home_keys::start(vault)?;
        }
        for _ in 0..config.export.parallel {
            let carrier = Carrier {
                vault: Arc::clone(vault),
                console: console.clone(),
                settings: delivery::Settings {
                    mountpoint: config.mountpoint.clone(),
                    ssh_config: config.export.ssh_config.clone(),
                    sendmail: config.sendmail.clone(),
                    ..delivery::Settings::default()
                },
                cancel: cancel.clone(),
                mail_to: config.export.mail_to.clone(),
                mail_success: config.export.mail_success,
            };
            std::thread::Builder::new().name("delivery".into()).spawn(move || carrier.run())?;
        }
        Ok(Exports(Some(cancel)))
    }

    /// Calls off what is under way: no program of ours is left running.
    pub fn stop(&self, vault: &Vault) {
        vault.stop_exports();
        if let Some(cancel) = &self.0 {
            cancel.cancel();
        }
    }
}

struct Carrier {
    vault: Arc<Vault>,
    console: ConsoleName,
    settings: delivery::Settings,
    cancel: Cancel,
    mail_to: Option<String>,
    mail_success: bool,
}

impl Carrier {
    fn run(&self) {
        while !self.vault.exports_ended() {
            let Some(errand) = self.vault.next_errand(IDLE) else { continue };
            // Whatever happens, the host must be tried again.
            if catch_unwind(AssertUnwindSafe(|| self.carry(&errand))).is_err() {
                tracing::error!(host = %errand.host.name, "a delivery panicked");
                self.vault.delivered(&errand.host.name, errand.serial, Err(("it panicked".into(), Some(IDLE))));
            }
        }
    }

    fn carry(&self, errand: &Errand) {
        match &errand.kind {
            ErrandKind::Deliver(file) => {
                let outcome = self.deliver(errand, file);
                self.vault.delivered(&errand.host.name, errand.serial, outcome.clone());
                self.mail(errand, &outcome);
            }
            ErrandKind::FetchAck => self.vault.fetched_ack(&errand.host, self.fetch_ack(errand)),
        }
    }

    fn deliver(&self, errand: &Errand, file: &Path) -> ErrandResult {
        let host = &errand.host;
        let target = Target::parse(host.deliver.as_deref().unwrap_or_default());
        // The next policy may have another; until then there is nothing to be tried.
        let target = target.map_err(|e| (format!("line {} of the policy: deliver: {e}", host.because.line), None))?;
        let job = Job {
            target,
            file: file.to_owned(),
            console: self.console.clone(),
            host: host.name.clone(),
            serial: errand.serial,
            before: host.before().map(PathBuf::from),
            after: host.after().map(PathBuf::from),
        };
        match delivery::deliver(&job, &self.settings, &self.cancel) {
            Ok(delivered) => {
                if let Some(warning) = delivered.warning {
                    tracing::warn!(host = %host.name, serial = errand.serial, %warning, "delivered, but");
                }
                Ok(())
            }
            Err(error) => {
                let tries = errand.tries + 1;
                // Somebody may mend it without telling us.
                let again = if error.is_lasting() { Some(backoff(u32::MAX)) } else { next_try(tries, host.retries()) };
                Err((error.to_string(), again))
            }
        }
    }

    fn fetch_ack(&self, errand: &Errand) -> Result<Option<Vec<u8>>, String> {
        let from = Target::parse(errand.host.ack_from().unwrap_or_default()).map_err(|e| e.to_string())?;
        delivery::fetch_ack(&from, &errand.host.name, &self.console, &self.settings, &self.cancel)
            .map_err(|e| e.to_string())
    }

    /// Of a row of failures the first and the last are mailed.
    fn mail(&self, errand: &Errand, outcome: &ErrandResult) {
        let Some(to) = &self.mail_to else { return };
        let (host, serial) = (&errand.host.name, errand.serial);
        let (subject, body) = match outcome {
            Ok(()) if self.mail_success || errand.tries > 0 => (
                format!("pinfold: {host} has bundle {serial}"),
                format!("The bundle {serial} of the console {} was delivered to {host}.\n", self.console),
            ),
            Err((error, again)) if errand.tries == 0 || again.is_none() => {
                let next = match again {
                    Some(wait) => {
                        format!("It is tried again in {} seconds, and then more and more rarely.", wait.as_secs())
                    }
                    None => "It is not tried again before the next change.".into(),
                };
                (
                    format!("pinfold: {host} does not get bundle {serial}"),
                    format!(
                        "The bundle {serial} of the console {} was not delivered to {host}:\n\n{error}\n\n{next}\n\
                         To see how far each host is: pinfold hosts\n",
                        self.console
                    ),
                )
            }
            Ok(()) | Err(_) => return,
        };
        if self.cancel.is_told() {
            return;
        }
        if let Err(error) = delivery::send(to, &subject, &body, &self.settings) {
            tracing::error!(%error, %host, "no mail was sent");
        }
    }
}
