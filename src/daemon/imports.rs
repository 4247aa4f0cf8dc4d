//! What the configuration says of imports, as the vault wants it.

use crate::config::Config;
use crate::upload_check;
use crate::vault::ImportSettings;

/// The bounds and switches; a bundle is checked in a process without privileges.
pub fn settings(config: &Config) -> ImportSettings {
    ImportSettings {
        max_size: config.import.max_size,
        max_entries: usize::try_from(config.import.max_entries).unwrap_or(usize::MAX),
        skew: config.import.skew,
        partial: config.import.partial,
        on_change: config.import.on_change,
        identity: config.import.identity.clone(),
        accounts: config.accounts.group.is_some(),
        first_uid: config.accounts.first_uid,
        credentials: Some(config.credentials.clone()),
        check: upload_check::check_confined,
    }
}
