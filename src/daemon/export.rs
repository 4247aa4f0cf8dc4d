//! The console's threads: one that makes bundles, some that bring them to hosts.
//!
//! Owns the threads. What is to be brought where, and what becomes of a failure, the vault's board says; how it is
//! brought, `delivery` knows. No lock of the vault is held meanwhile, and a host that does not answer keeps one thread busy
//! for as long as one delivery may take, no longer.

use crate::config::Config;
use crate::vault::{Errand, ErrandKind, ExportSettings, Vault};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How long a thread waits for something to do before it looks whether it is to end.
const IDLE: Duration = Duration::from_secs(60);

/// Starts them. They end with [`Vault::shutdown`].
///
/// # Errors
/// If there is no thread to be had.
pub fn start(vault: &Arc<Vault>, config: &Config) -> std::io::Result<()> {
    let settings = match ExportSettings::of(config) {
        Ok(settings) => settings,
        // Most machines are nobody's console.
        Err(error) => {
            tracing::warn!(%error, "nothing is exported");
            return Ok(());
        }
    };
    vault.serve_exports(settings)?;
    for _ in 0..config.export.parallel {
        let vault = Arc::clone(vault);
        std::thread::Builder::new().name("delivery".into()).spawn(move || carry_all(&vault))?;
    }
    Ok(())
}

fn carry_all(vault: &Vault) {
    while !vault.exports_ended() {
        let Some(errand) = vault.next_errand(IDLE) else { continue };
        // Whatever happens, the host must be tried again.
        if catch_unwind(AssertUnwindSafe(|| carry(vault, &errand))).is_err() {
            tracing::error!(host = %errand.host.name, "a delivery panicked");
            vault.delivered(&errand.host.name, errand.serial, Err(("it panicked".into(), Some(IDLE))));
        }
    }
}

fn carry(vault: &Vault, errand: &Errand) {
    match &errand.kind {
        ErrandKind::Deliver(file) => {
            let outcome = deliver(errand, file);
            vault.delivered(&errand.host.name, errand.serial, outcome);
        }
        ErrandKind::FetchAck => vault.fetched_ack(&errand.host, fetch_ack(errand)),
    }
}

fn deliver(errand: &Errand, file: &Path) -> Result<(), (String, Option<Duration>)> {
    let again = Duration::from_secs(2) * 2u32.saturating_pow(errand.tries.min(8));
    let target = errand.host.deliver.as_deref().unwrap_or_default();
    let Some(dir) = target.strip_prefix("dir:") else { return Err((format!("{target}: not yet"), None)) };
    let name = file.file_name().unwrap_or_default();
    let temp = Path::new(dir).join(format!(".{}", name.display()));
    let copied = std::fs::copy(file, &temp).and_then(|_| std::fs::rename(&temp, Path::new(dir).join(name)));
    copied.map_err(|e| (e.to_string(), Some(again)))
}

fn fetch_ack(errand: &Errand) -> Result<Option<Vec<u8>>, String> {
    let from = errand.host.ack_from().unwrap_or_default();
    let Some(dir) = from.strip_prefix("dir:") else { return Err(format!("{from}: not yet")) };
    match std::fs::read(Path::new(dir).join(format!("{}.ack", errand.host.name))) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e.to_string()),
    }
}
