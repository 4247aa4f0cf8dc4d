//! The `[export]` table: how this machine, as a console, makes and sends the bundles of other hosts.
//!
//! Owns its keys, their forms and bounds. Whether there is anything to send, the policy says.

use super::units;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::path::PathBuf;
use std::time::Duration;

/// The `[export]` table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Export {
    /// What this console is called; the machine's host name without it.
    #[serde(deserialize_with = "console")]
    pub console: Option<String>,
    /// Who signs.
    pub signer: SignWith,
    /// The socket of the ssh-agent, for `agent:`.
    #[serde(deserialize_with = "units::maybe_path")]
    pub agent_socket: Option<PathBuf>,
    /// The ssh_config(5) of deliveries, in the place of the system's and root's.
    #[serde(deserialize_with = "units::maybe_path")]
    pub ssh_config: Option<PathBuf>,
    /// For how long a bundle may be imported.
    #[serde(deserialize_with = "expires", serialize_with = "units::write_duration")]
    pub expires: Duration,
    /// For how long more changes are waited for before bundles are made.
    #[serde(deserialize_with = "debounce", serialize_with = "write_millis")]
    pub debounce: Duration,
    /// How many hosts are delivered to at once.
    #[serde(deserialize_with = "units::parallel")]
    pub parallel: u64,
    /// Who gets mail when a delivery fails.
    #[serde(deserialize_with = "address")]
    pub mail_to: Option<String>,
    /// Whether a success is mailed as well.
    pub mail_success: bool,
    /// Whether admins' keys are also taken from their home directories.
    pub home_keys: bool,
}

impl Default for Export {
    fn default() -> Self {
        Export {
            console: None,
            signer: SignWith::Auto,
            agent_socket: None,
            ssh_config: None,
            expires: Duration::from_secs(30 * 86_400),
            debounce: Duration::from_millis(500),
            parallel: 4,
            mail_to: None,
            mail_success: false,
            home_keys: false,
        }
    }
}

/// Who signs the bundles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SignWith {
    /// A key in the store.
    Auto,
    /// The key with this fingerprint, `SHA256:…`, in an ssh-agent.
    Agent(String),
    /// A key under a passphrase of its own: `pinfold export sign`.
    Manual,
}

impl SignWith {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "auto" => Some(SignWith::Auto),
            "manual" => Some(SignWith::Manual),
            _ => {
                let fingerprint = text.strip_prefix("agent:")?;
                let base64 = fingerprint.strip_prefix("SHA256:")?;
                let plain =
                    base64.len() == 43 && base64.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/".contains(&b));
                plain.then(|| SignWith::Agent(fingerprint.into()))
            }
        }
    }
}

impl std::fmt::Display for SignWith {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SignWith::Auto => f.write_str("auto"),
            SignWith::Agent(fingerprint) => write!(f, "agent:{fingerprint}"),
            SignWith::Manual => f.write_str("manual"),
        }
    }
}

impl Serialize for SignWith {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SignWith {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        SignWith::parse(&text).ok_or_else(|| D::Error::custom("must be \"auto\", \"manual\" or \"agent:SHA256:…\""))
    }
}

fn console<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    let name = String::deserialize(from)?;
    match crate::model::ConsoleName::parse(&name) {
        Ok(_) => Ok(Some(name)),
        Err(error) => Err(D::Error::custom(error)),
    }
}

/// 1 h to 365 d.
fn expires<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    let time = super::parse_duration(&text);
    let time = time.ok_or_else(|| D::Error::custom("must be a duration like 90s, 2m, 12h or 30d"))?;
    units::bounded(time.as_secs(), 3_600, 365 * 86_400, "1h to 365d").map(Duration::from_secs)
}

/// 0 to 60 s, in milliseconds or whole seconds.
fn debounce<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    let millis = match text.strip_suffix("ms") {
        Some(number) if number.bytes().all(|b| b.is_ascii_digit()) => number.parse().ok(),
        Some(_) => None,
        None => super::parse_duration(&text).map(|time| time.as_secs().saturating_mul(1000)),
    };
    let millis = millis.ok_or_else(|| D::Error::custom("must be a duration like 500ms or 2s"))?;
    units::bounded(millis, 0, 60_000, "0ms to 60s").map(Duration::from_millis)
}

fn write_millis<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&format_args!("{}ms", time.as_millis()))
}

fn address<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(from)?;
    if crate::model::is_mail_address(&text) {
        Ok(Some(text))
    } else {
        Err(D::Error::custom("must be one mail address, or the name of a local mailbox"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_signs_is_one_of_three() {
        let fingerprint = format!("SHA256:{}", "A".repeat(43));
        for text in ["auto", "manual", &format!("agent:{fingerprint}")] {
            assert_eq!(SignWith::parse(text).unwrap().to_string(), text);
        }
        for bad in ["", "agent", "agent:", "agent:MD5:aa", "agent:SHA256:", "agent:SHA256:!", "Auto"] {
            assert_eq!(SignWith::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn bounds_are_kept() {
        let read = |text: &str| toml::from_str::<Export>(text);
        assert_eq!(read("debounce = \"0ms\"").unwrap().debounce, Duration::ZERO);
        assert_eq!(read("debounce = \"2s\"").unwrap().debounce, Duration::from_secs(2));
        for bad in [
            "debounce = \"2m\"",
            "debounce = \"-1ms\"",
            "expires = \"59m\"",
            "expires = \"366d\"",
            "parallel = 0",
            "parallel = 65",
            "mail_to = \"a, b\"",
            "mail_to = \"-oQ/tmp\"",
            "console = \"../x\"",
            "signer = \"x\"",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
