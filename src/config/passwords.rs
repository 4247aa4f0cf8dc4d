//! The `[passwords]` table: how many are shown, and how the far side is changed.
//!
//! Owns the keys and their bounds. Starts nothing.

use super::units;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// The `[passwords]` table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Passwords {
    /// How many passwords one admin is shown within a minute.
    #[serde(deserialize_with = "per_minute")]
    pub show_per_minute: u32,
    /// For how many rotations one admin is handed both passwords within a minute.
    #[serde(deserialize_with = "per_minute")]
    pub rotate_per_minute: u32,
    /// Folders of programs that change a password, by the service's name; of two that of the earlier folder.
    #[serde(deserialize_with = "units::paths")]
    pub programs: Vec<PathBuf>,
    /// For how long one change, or one login that verifies it, may take.
    #[serde(deserialize_with = "units::unlock_timeout", serialize_with = "units::write_duration")]
    pub timeout: Duration,
    /// Another configuration file for ssh.
    #[serde(deserialize_with = "units::maybe_path")]
    pub ssh_config: Option<PathBuf>,
    /// What is run on the far side of ssh, with `USER:PASSWORD` on its standard input.
    #[serde(deserialize_with = "command")]
    pub ssh_change: String,
    /// How the far side of ssh is asked whether it takes a password.
    pub ssh_verify: SshVerify,
    /// Programs for services that have none of their name: `exec:/PATH`.
    #[serde(deserialize_with = "services")]
    pub service: BTreeMap<String, String>,
}

/// How a password is verified over ssh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SshVerify {
    /// By a login with it.
    Login,
    /// The far side compares it with what it has in shadow(5): where sshd takes no password for that user.
    Shadow,
}

impl Default for Passwords {
    fn default() -> Self {
        Passwords {
            show_per_minute: 6,
            rotate_per_minute: 60,
            programs: vec!["/etc/pinfold/rotate.d".into(), "/usr/lib/pinfold/rotate.d".into()],
            timeout: Duration::from_secs(60),
            ssh_config: None,
            ssh_change: "chpasswd".into(),
            ssh_verify: SshVerify::Login,
            service: BTreeMap::new(),
        }
    }
}

fn per_minute<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    let most = u32::deserialize(from)?;
    if (1..=600).contains(&most) { Ok(most) } else { Err(D::Error::custom("must be 1 to 600")) }
}

/// One line.
fn command<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let text = String::deserialize(from)?;
    let line = !text.trim().is_empty() && text.len() <= 1024 && !text.contains(char::is_control);
    if line { Ok(text) } else { Err(D::Error::custom("must be a command in one line")) }
}

fn services<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, String>, D::Error> {
    let services = BTreeMap::<String, String>::deserialize(from)?;
    match services.values().all(|how| how.strip_prefix("exec:/").is_some_and(|path| !path.contains("/../"))) {
        true => Ok(services),
        false => Err(D::Error::custom("must be exec: and the absolute path of a program")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Passwords, toml::de::Error> {
        toml::from_str(text)
    }

    #[test]
    fn values_are_bounded() {
        assert_eq!(read("").unwrap(), Passwords::default());
        let read_all = read(
            "show_per_minute = 600\nssh_change = \"sudo -n chpasswd\"\nssh_verify = \"shadow\"\n[service]\nx = \"exec:/x\"",
        );
        assert_eq!(read_all.unwrap().service["x"], "exec:/x");
        for bad in [
            "show_per_minute = 0",
            "show_per_minute = 601",
            "rotate_per_minute = 0",
            "rotate_per_minute = 601",
            "ssh_change = \"\"",
            "ssh_change = \"a\\nb\"",
            "ssh_verify = \"trust\"",
            "programs = [\"rotate.d\"]",
            "timeout = \"0s\"",
            "service.x = \"/x\"",
            "service.x = \"exec:x\"",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
