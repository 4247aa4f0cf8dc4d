//! The configuration: one TOML file, every key with a default and bounds.
//!
//! Owns the keys; `docs/configuration.md` is the table for readers, and a test keeps the two together. A wrong file is an
//! error that names the line, never a silent default.

mod export;
mod import;
mod load;
mod passwords;
mod units;

pub use crate::model::parse_duration;
pub use export::{Export, SignWith};
pub use import::{AccountsOf, Homes, ImportFrom};
mod certs;

pub use certs::{Certs, Half, Pair, Submit};
pub use load::{ConfigError, DEFAULT_FILE};
pub use passwords::{Passwords, SshVerify};

use crate::meter::Shares;
use crate::model::SecretPath;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Everything that can be configured. As JSON (`check-config --json`) it has the keys of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The store's folder.
    #[serde(deserialize_with = "units::path")]
    pub store: PathBuf,
    /// Where the tree is mounted.
    #[serde(deserialize_with = "units::path")]
    pub mountpoint: PathBuf,
    /// The control socket.
    #[serde(deserialize_with = "units::path")]
    pub control: PathBuf,
    /// The audit log.
    #[serde(deserialize_with = "units::path")]
    pub audit_log: PathBuf,
    /// The size in bytes beyond which the audit log is rotated.
    #[serde(deserialize_with = "units::audit_max_size")]
    pub audit_max_size: u64,
    /// How many bytes the audit log may take in all.
    #[serde(deserialize_with = "units::audit_space")]
    pub audit_space: u64,
    /// What happens when the audit log cannot be written.
    pub audit_full: AuditFull,
    /// The largest secret, in bytes.
    #[serde(deserialize_with = "units::max_secret_size")]
    pub max_secret_size: u64,
    /// How many secrets there may be.
    #[serde(deserialize_with = "units::max_secrets")]
    pub max_secrets: u64,
    /// How many instances of containers may be attached at once.
    #[serde(deserialize_with = "units::max_instances")]
    pub max_instances: u64,
    /// What one user may have of what can be used up.
    pub limits: Shares,
    /// How many versions of a secret are kept.
    #[serde(deserialize_with = "units::keep_versions")]
    pub keep_versions: u64,
    /// What happens to a caller while the store is locked.
    pub when_locked: WhenLocked,
    /// For how long after becoming locked callers wait.
    #[serde(deserialize_with = "units::unlock_timeout", serialize_with = "units::write_duration")]
    pub unlock_timeout: Duration,
    /// The group whose members may look, enrol, replace, remove and lock through the control socket.
    #[serde(deserialize_with = "units::group")]
    pub operator_group: Option<String>,
    /// Whether `cat --reveal` shows content.
    pub allow_reveal: bool,
    /// The folder in the tree with the units' credentials: `UNIT/NAME` below it.
    pub credentials: SecretPath,
    /// Whether the threads that answer give up capabilities.
    pub confine: bool,
    /// What happens when a secret changes.
    pub on_change: OnChange,
    /// Who gets what: the hosts this machine is the console of. No file is no host.
    #[serde(deserialize_with = "units::path")]
    pub policy: PathBuf,
    /// Where bundles wait for their delivery; `outbox` in the store's folder without it.
    #[serde(deserialize_with = "units::maybe_path")]
    pub outbox: Option<PathBuf>,
    /// How bundles are made and sent.
    pub export: Export,
    /// The sendmail(8) that takes mail, whichever mailer brings it.
    #[serde(deserialize_with = "units::path")]
    pub sendmail: PathBuf,
    /// Pairs of certificate and key, and renewal.
    pub certs: Certs,
    /// Passwords: how they are shown and rotated.
    pub passwords: Passwords,
    /// For how long the store stays unlocked; for ever without it.
    #[serde(deserialize_with = "units::lock_after", serialize_with = "units::write_maybe_duration")]
    pub lock_after: Option<Duration>,
    /// Where bundles are uploaded to; `inbox` in the store's folder without it.
    #[serde(deserialize_with = "units::maybe_path")]
    pub inbox: Option<PathBuf>,
    /// What is taken from consoles.
    pub import: ImportFrom,
    /// The accounts of admins that consoles name.
    pub accounts: AccountsOf,
    /// What the daemon unlocks the store with at start.
    #[serde(deserialize_with = "units::unlock")]
    pub unlock: UnlockFrom,
}

/// What happens when the audit log cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuditFull {
    /// Nothing opens that could not be recorded.
    Refuse,
    /// Secrets open, and what was not recorded is counted.
    Continue,
}

/// What happens to a caller while the store is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WhenLocked {
    /// It waits, `unlock_timeout` at most.
    Wait,
    /// It gets ENOKEY at once.
    Fail,
}

/// The `[on_change]` table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OnChange {
    /// The units that `user.pinfold.on-change` may reload or restart.
    pub allow: Vec<String>,
}

/// The `[unlock]` table: the ways that are tried, all at once. At most one of the two files; if nothing opens it, somebody
/// runs `pinfold unlock`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UnlockFrom {
    /// A file whose bytes, less one newline at the end, are the passphrase of `identity.age`.
    #[serde(deserialize_with = "units::maybe_path")]
    pub passphrase_file: Option<PathBuf>,
    /// An unencrypted identity file.
    #[serde(deserialize_with = "units::maybe_path")]
    pub keyfile: Option<PathBuf>,
    /// The credentials `pinfold.passphrase` and `pinfold.identity` of the daemon's unit.
    pub credential: bool,
    /// Somebody at the console, through systemd's password agents.
    pub ask_password: bool,
    /// The description of a key in root's user keyring.
    #[serde(deserialize_with = "units::description")]
    pub keyring: Option<String>,
    /// Folders of programs that print the secret; of two with one name that of the earlier folder.
    #[serde(deserialize_with = "units::paths")]
    pub programs: Vec<PathBuf>,
    /// For how long one way is tried.
    #[serde(deserialize_with = "units::unlock_timeout", serialize_with = "units::write_duration")]
    pub method_timeout: Duration,
    /// For how long all are.
    #[serde(deserialize_with = "units::unlock_timeout", serialize_with = "units::write_duration")]
    pub timeout: Duration,
    /// How long after a race that nobody won the programs are run again.
    #[serde(deserialize_with = "units::unlock_timeout", serialize_with = "units::write_duration")]
    pub retry_after: Duration,
    /// What single programs are given, by name.
    pub program: BTreeMap<String, ProgramOptions>,
}

/// A table `[unlock.program.NAME]`: what one program that unlocks is given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProgramOptions {
    /// Its arguments.
    pub args: Vec<String>,
    /// What its environment has besides.
    pub env: BTreeMap<String, String>,
    /// The user it runs as, instead of uid 65534.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Its supplementary groups.
    pub groups: Vec<String>,
    /// Its own bound.
    #[serde(
        deserialize_with = "units::maybe_timeout",
        serialize_with = "units::write_maybe_duration",
        skip_serializing_if = "Option::is_none"
    )]
    pub timeout: Option<Duration>,
    /// Whether no output at all is an answer.
    pub empty_is_answer: bool,
    /// Whether it is left out.
    pub disabled: bool,
}

impl Default for UnlockFrom {
    fn default() -> Self {
        UnlockFrom {
            passphrase_file: None,
            keyfile: None,
            credential: true,
            ask_password: true,
            keyring: None,
            programs: vec!["/etc/pinfold/unlock.d".into(), "/usr/lib/pinfold/unlock.d".into()],
            method_timeout: Duration::from_secs(600),
            timeout: Duration::from_secs(3600),
            retry_after: Duration::from_secs(60),
            program: BTreeMap::new(),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Config {
            store: "/var/lib/pinfold".into(),
            mountpoint: "/run/secrets".into(),
            control: "/run/pinfold/control.sock".into(),
            audit_log: "/var/log/pinfold/audit.log".into(),
            audit_max_size: 64 << 20,
            audit_space: 2 << 30,
            audit_full: AuditFull::Refuse,
            max_secret_size: 1 << 20,
            max_secrets: 100_000,
            max_instances: 4096,
            limits: Shares::default(),
            keep_versions: 5,
            when_locked: WhenLocked::Wait,
            unlock_timeout: Duration::from_secs(90),
            operator_group: None,
            allow_reveal: false,
            credentials: SecretPath::parse("credentials").expect("a plain name is a path"),
            confine: true,
            on_change: OnChange::default(),
            policy: "/etc/pinfold/policy".into(),
            outbox: None,
            export: Export::default(),
            sendmail: "/usr/sbin/sendmail".into(),
            certs: Certs::default(),
            passwords: Passwords::default(),
            lock_after: None,
            inbox: None,
            import: ImportFrom::default(),
            accounts: AccountsOf::default(),
            unlock: UnlockFrom::default(),
        }
    }
}

impl Config {
    /// Reads `file`, or [`DEFAULT_FILE`] if there is one.
    ///
    /// # Errors
    /// [`ConfigError`] if a named file is missing, if others than root can write it, or if anything in it is wrong.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        load::load(file)
    }

    /// What is wrong with it as a whole: paths the daemon uses may not lie in the tree that it serves itself.
    ///
    /// # Errors
    /// [`ConfigError::Conflict`] names the keys.
    pub fn check_paths(&self) -> Result<(), ConfigError> {
        let ours = [
            ("store", Some(&self.store)),
            ("control", Some(&self.control)),
            ("audit_log", Some(&self.audit_log)),
            ("policy", Some(&self.policy)),
            ("outbox", self.outbox.as_ref()),
            ("export.agent_socket", self.export.agent_socket.as_ref()),
            ("export.ssh_config", self.export.ssh_config.as_ref()),
            ("sendmail", Some(&self.sendmail)),
            ("unlock.passphrase_file", self.unlock.passphrase_file.as_ref()),
            ("unlock.keyfile", self.unlock.keyfile.as_ref()),
            ("inbox", self.inbox.as_ref()),
            ("import.identity", self.import.identity.as_ref()),
            ("import.ack_dir", self.import.ack_dir.as_ref()),
            ("accounts.home", self.accounts.home.as_ref()),
        ];
        for (key, path) in ours {
            if path.is_some_and(|p| p.starts_with(&self.mountpoint)) {
                return Err(ConfigError::Conflict(format!(
                    "'{key}' lies below 'mountpoint', which only the daemon serves"
                )));
            }
        }
        if self.unlock.programs.iter().any(|folder| folder.starts_with(&self.mountpoint)) {
            return Err(ConfigError::Conflict("'unlock.programs' lie below 'mountpoint'".into()));
        }
        if self.mountpoint.starts_with(&self.store) || self.audit_log.starts_with(&self.store) {
            return Err(ConfigError::Conflict("'mountpoint' and 'audit_log' may not lie below 'store'".into()));
        }
        if self.audit_space / 6 < self.audit_max_size {
            return Err(ConfigError::Conflict("'audit_space' must be six times 'audit_max_size' at the least".into()));
        }
        Ok(())
    }

    /// Where bundles wait for their delivery.
    pub fn outbox(&self) -> PathBuf {
        self.outbox.clone().unwrap_or_else(|| self.store.join("outbox"))
    }

    /// Where bundles are uploaded to.
    pub fn inbox(&self) -> PathBuf {
        self.inbox.clone().unwrap_or_else(|| self.store.join("inbox"))
    }

    /// The group id of `operator_group`.
    ///
    /// # Errors
    /// [`ConfigError::NoGroup`] if there is no such group.
    pub fn operator_gid(&self) -> Result<Option<u32>, ConfigError> {
        let Some(name) = &self.operator_group else { return Ok(None) };
        match nix::unistd::Group::from_name(name) {
            Ok(Some(group)) => Ok(Some(group.gid.as_raw())),
            Ok(None) => Err(ConfigError::NoGroup { name: name.clone(), reason: "there is no such group".into() }),
            Err(errno) => Err(ConfigError::NoGroup { name: name.clone(), reason: errno.desc().to_lowercase() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rows of the table in the documentation: key, default.
    fn documented() -> Vec<(String, String)> {
        include_str!("../../docs/configuration.md")
            .lines()
            .filter_map(|line| {
                let mut cells = line.strip_prefix("| `")?.split('|').map(|c| c.trim().trim_matches('`').to_owned());
                Some((cells.next()?, cells.next()?))
            })
            .collect()
    }

    fn keys(prefix: &str, value: &serde_json::Value, into: &mut Vec<(String, serde_json::Value)>) {
        for (key, value) in value.as_object().unwrap() {
            match value {
                serde_json::Value::Object(_) => keys(&format!("{prefix}{key}."), value, into),
                leaf => into.push((format!("{prefix}{key}"), leaf.clone())),
            }
        }
    }

    #[test]
    fn every_key_is_in_the_documented_table_and_no_other() {
        let mut ours = Vec::new();
        keys("", &serde_json::to_value(Config::default()).unwrap(), &mut ours);
        let ours: Vec<String> = ours.into_iter().map(|(k, _)| k).collect();
        let mut theirs: Vec<String> = documented().into_iter().map(|(k, _)| k).collect();
        assert_eq!(
            {
                let mut o = ours;
                o.sort();
                o
            },
            {
                theirs.sort();
                theirs
            }
        );
    }

    #[test]
    fn the_documented_defaults_are_the_defaults() {
        let mut text = String::new();
        for (key, default) in documented() {
            if default != "none" {
                text += &format!("{key} = {default}\n");
            }
        }
        assert_eq!(toml::from_str::<Config>(&text).unwrap(), Config::default());
    }

    #[test]
    fn the_daemon_never_depends_on_its_own_tree() {
        let mut config = Config { audit_log: "/run/secrets/log".into(), ..Config::default() };
        assert!(matches!(config.check_paths(), Err(ConfigError::Conflict(m)) if m.contains("audit_log")));
        config.audit_log = "/run/secretslog".into();
        config.check_paths().unwrap();
    }

    #[test]
    fn the_log_has_room_for_more_than_one_file() {
        let config = Config { audit_max_size: 1 << 30, ..Config::default() };
        assert!(matches!(config.check_paths(), Err(ConfigError::Conflict(m)) if m.contains("audit_space")));
        let config = Config { audit_space: 5 << 30, ..config };
        assert!(config.check_paths().is_err(), "nothing would be left for old files");
        Config { audit_space: 6 << 30, ..config }.check_paths().unwrap();
    }

    #[test]
    fn an_unknown_group_is_an_error() {
        let mut config = Config::default();
        assert_eq!(config.operator_gid().unwrap(), None);
        config.operator_group = Some("root".into());
        assert_eq!(config.operator_gid().unwrap(), Some(0));
        config.operator_group = Some("no-such-group".into());
        assert!(config.operator_gid().unwrap_err().to_string().contains("no-such-group"));
    }
}
