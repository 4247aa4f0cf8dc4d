//! Names in certificates: subjects and alternative names, as they are typed and as they are read.

use super::CertError;
use core::net::IpAddr;
use rcgen::{DistinguishedName, DnType, DnValue, SanType};
use std::fmt;
use std::str::FromStr;
use x509_parser::extensions::GeneralName;
use x509_parser::x509::X509Name;

/// The parts a subject may be typed with.
const PARTS: [(&str, DnType); 6] = [
    ("CN", DnType::CommonName),
    ("O", DnType::OrganizationName),
    ("OU", DnType::OrganizationalUnitName),
    ("C", DnType::CountryName),
    ("ST", DnType::StateOrProvinceName),
    ("L", DnType::LocalityName),
];
/// The longest part (RFC 5280, A.1: ub-common-name and its like).
const PART_MAX: usize = 64;
/// Parts at most.
const PARTS_MAX: usize = 20;

/// Whom a certificate is to be about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject(DistinguishedName);

impl Subject {
    /// `CN=web.example.org,O=Example`, or as openssl req(1) takes it, `/O=Example/CN=web.example.org`. A backslash takes
    /// the next character as it is.
    ///
    /// # Errors
    /// [`CertError::Asked`] says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, CertError> {
        let asked = |what: String| CertError::Asked(format!("the subject: {what}"));
        let (text, between) = match text.strip_prefix('/') {
            Some(rest) => (rest, '/'),
            None => (text, ','),
        };
        let mut name = DistinguishedName::new();
        let mut seen = Vec::new();
        for part in split(text, between) {
            let (key, value) =
                part.split_once('=').ok_or_else(|| asked("it is KEY=VALUE, with commas between".into()))?;
            let (key, value) = (key.trim().to_ascii_uppercase(), value.trim());
            let kind = PARTS.iter().find(|(k, _)| *k == key).map(|(_, kind)| kind.clone());
            let kind = kind.ok_or_else(|| asked("its keys are CN, O, OU, C, ST, L".into()))?;
            if value.is_empty() || value.chars().count() > PART_MAX || value.chars().any(char::is_control) {
                return Err(asked(format!("{key} has 1 to {PART_MAX} characters")));
            }
            if seen.contains(&key) {
                return Err(asked(format!("{key} is there twice")));
            }
            let value = match kind {
                DnType::CountryName if value.len() == 2 && value.bytes().all(|b| b.is_ascii_uppercase()) => {
                    DnValue::PrintableString(value.try_into().map_err(|_| asked("C has two capital letters".into()))?)
                }
                DnType::CountryName => return Err(asked("C has two capital letters".into())),
                _ => DnValue::Utf8String(value.to_owned()),
            };
            name.push(kind, value);
            seen.push(key);
        }
        if seen.is_empty() { Err(asked("it is empty".into())) } else { Ok(Subject(name)) }
    }

    /// Only a common name; it is cut off where it may not be longer, the names of a service are elsewhere.
    pub fn common(name: &str) -> Self {
        let mut subject = DistinguishedName::new();
        subject.push(DnType::CommonName, name.chars().take(PART_MAX).collect::<String>());
        Subject(subject)
    }

    /// That of a certificate or request. Parts that are no text are left out.
    pub fn of(name: &X509Name<'_>) -> Self {
        let mut subject = DistinguishedName::new();
        for attribute in name.iter_attributes().take(PARTS_MAX) {
            let (Some(oid), Ok(text)) = (attribute.attr_type().iter(), attribute.as_str()) else { continue };
            let kind = DnType::from_oid(&oid.collect::<Vec<u64>>());
            let value = match kind {
                DnType::CountryName => {
                    text.try_into().map_or(DnValue::Utf8String(text.to_owned()), DnValue::PrintableString)
                }
                _ => DnValue::Utf8String(text.to_owned()),
            };
            subject.push(kind, value);
        }
        Subject(subject)
    }

    pub(super) fn into_inner(self) -> DistinguishedName {
        self.0
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().next().is_none()
    }
}

/// At each `between` that no backslash stands before.
fn split(text: &str, between: char) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        let last = parts.last_mut().expect("there is one at least");
        match c {
            '\\' => last.extend(chars.next()),
            c if c == between => parts.push(String::new()),
            c => last.push(c),
        }
    }
    parts.retain(|p| !p.trim().is_empty());
    parts
}

/// A name that a certificate is good for (RFC 5280, 4.2.1.6).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum AltName {
    /// A host.
    Dns(String),
    /// An address.
    Ip(IpAddr),
    /// A mailbox.
    Email(String),
    /// A URI.
    Uri(String),
}

impl AltName {
    pub(super) fn of(name: &GeneralName<'_>) -> Option<Self> {
        Some(match name {
            GeneralName::DNSName(text) => AltName::Dns((*text).to_owned()),
            GeneralName::RFC822Name(text) => AltName::Email((*text).to_owned()),
            GeneralName::URI(text) => AltName::Uri((*text).to_owned()),
            GeneralName::IPAddress(bytes) => AltName::Ip(match bytes.len() {
                4 => IpAddr::from(<[u8; 4]>::try_from(*bytes).ok()?),
                16 => IpAddr::from(<[u8; 16]>::try_from(*bytes).ok()?),
                _ => return None,
            }),
            _ => return None,
        })
    }

    /// Without what kind of name it is.
    pub fn value(&self) -> String {
        match self {
            AltName::Dns(text) | AltName::Email(text) | AltName::Uri(text) => text.clone(),
            AltName::Ip(address) => address.to_string(),
        }
    }

    pub(super) fn to_san(&self) -> Result<SanType, CertError> {
        let asked = |_| CertError::Asked(format!("the name {self} cannot be in a certificate"));
        Ok(match self {
            AltName::Dns(text) => SanType::DnsName(text.as_str().try_into().map_err(asked)?),
            AltName::Email(text) => SanType::Rfc822Name(text.as_str().try_into().map_err(asked)?),
            AltName::Uri(text) => SanType::URI(text.as_str().try_into().map_err(asked)?),
            AltName::Ip(address) => SanType::IpAddress(*address),
        })
    }
}

/// `DNS:web.example.org`, `IP:192.0.2.1`, `email:…`, `URI:…`; without the kind an address or a host.
impl FromStr for AltName {
    type Err = CertError;

    fn from_str(text: &str) -> Result<Self, CertError> {
        let asked = |what: &str| CertError::Asked(format!("the name '{text}': {what}"));
        let plain = |t: &str| !t.is_empty() && t.len() <= 253 && t.bytes().all(|b| b.is_ascii_graphic());
        let host = |t: &str| {
            let rest = t.strip_prefix("*.").unwrap_or(t);
            let label = |l: &str| {
                (1..=63).contains(&l.len())
                    && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
                    && !l.starts_with('-')
                    && !l.ends_with('-')
            };
            if t.len() <= 253 && rest.split('.').all(label) {
                Ok(AltName::Dns(t.to_owned()))
            } else {
                Err(asked("it is no host's name"))
            }
        };
        let address = |t: &str| t.parse().map(AltName::Ip).map_err(|_| asked("it is no address"));
        match text.split_once(':') {
            Some(("DNS" | "dns", rest)) => host(rest),
            Some(("IP" | "ip", rest)) => address(rest),
            Some(("email", rest)) if plain(rest) && rest.contains('@') => Ok(AltName::Email(rest.to_owned())),
            Some(("URI" | "uri", rest)) if plain(rest) && rest.contains(':') => Ok(AltName::Uri(rest.to_owned())),
            Some(("email" | "URI" | "uri", _)) => Err(asked("it is none of its kind")),
            _ => text.parse().map(AltName::Ip).or_else(|_| host(text)),
        }
    }
}

impl fmt::Display for AltName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AltName::Dns(text) => write!(f, "DNS:{text}"),
            AltName::Ip(address) => write!(f, "IP:{address}"),
            AltName::Email(text) => write!(f, "email:{text}"),
            AltName::Uri(text) => write!(f, "URI:{text}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_are_taken_in_both_ways() {
        assert_eq!(Subject::parse("CN=web,O=Example").unwrap(), Subject::parse("/CN=web/O=Example").unwrap());
        assert_eq!(Subject::parse("cn = web").unwrap(), Subject::common("web"));
        assert_eq!(Subject::parse(r"O=A\, B").unwrap(), Subject::parse("/O=A, B").unwrap());
        let long = format!("CN={}", "a".repeat(65));
        for bad in ["", "web", "CN=", "X=1", "CN=a,CN=b", "C=germany", "C=de", "CN=a\nb", "/", &long] {
            assert!(Subject::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_are_hosts_or_addresses_unless_they_say_more() {
        let read = |text: &str| text.parse::<AltName>().map(|n| n.to_string());
        for (typed, is) in [
            ("web.example.org", "DNS:web.example.org"),
            ("*.example.org", "DNS:*.example.org"),
            ("DNS:a", "DNS:a"),
            ("192.0.2.1", "IP:192.0.2.1"),
            ("IP:2001:db8::1", "IP:2001:db8::1"),
            ("2001:db8::1", "IP:2001:db8::1"),
            ("email:a@example.org", "email:a@example.org"),
            ("URI:https://example.org/", "URI:https://example.org/"),
        ] {
            assert_eq!(read(typed).unwrap(), is);
        }
        for bad in ["", "a b", "IP:x", "DNS:", "email:x", "-a", "a..b", "a*b", "URI:x", "x:y"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
