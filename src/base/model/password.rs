//! A password's name, `USER@HOST:SERVICE`, the patterns that select some of them, and what a password may be.
//!
//! Owns the grammar and where a name lies in the tree. Knows nothing of who may see one.

use super::{Name, SecretPath};
use serde::{Deserialize, Serialize};
use std::fmt;
use thiserror::Error;

/// The folder in the tree that passwords are in: `passwords/HOST/SERVICE/USER`.
pub const PASSWORDS: &str = "passwords";
/// The user that is meant if none is named.
const USER: &str = "root";
/// The service that is meant if none is named.
const SERVICE: &str = "ssh";
/// The longest part of a name, in bytes: `.USER.next` must be a name too.
const PART_MAX: usize = 249;
/// The longest password, in bytes: PAM takes no more (PAM_MAX_RESP_SIZE).
pub const PASSWORD_MAX: usize = 512;

/// What cannot be a password's name, a pattern, or a password.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum PasswordError {
    /// A part has another form.
    #[error("the {part} is 1 to {PART_MAX} of A-Z a-z 0-9 . _ -, beginning with a letter or digit")]
    Part {
        /// Which: `user`, `host`, `service`.
        part: &'static str,
    },
    /// The content has no byte.
    #[error("the password is empty")]
    Empty,
    /// The content is too long.
    #[error("the password has more than {PASSWORD_MAX} bytes")]
    TooLong,
    /// The content has a NUL, a newline or another control character: it cannot be typed, and what reads lines would
    /// take something else.
    #[error("the password has a control character")]
    Control,
    /// The content is not UTF-8.
    #[error("the password is not UTF-8")]
    NotUtf8,
}

/// Whose password: a user of a service on a host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PasswordName {
    // Compared in this order: what lies together in the tree stands together in a listing.
    host: String,
    service: String,
    user: String,
}

impl PasswordName {
    /// Parses `USER@HOST:SERVICE`; what is left out is `root` and `ssh`.
    ///
    /// # Errors
    /// [`PasswordError::Part`].
    pub fn parse(text: &str) -> Result<Self, PasswordError> {
        let (user, host, service) = split(text);
        Self::of(user, host, service)
    }

    /// Of its parts.
    ///
    /// # Errors
    /// [`PasswordError::Part`].
    pub fn of(user: &str, host: &str, service: &str) -> Result<Self, PasswordError> {
        for (part, text) in [("user", user), ("host", host), ("service", service)] {
            if !is_part(text, &[]) {
                return Err(PasswordError::Part { part });
            }
        }
        Ok(PasswordName { host: host.into(), service: service.into(), user: user.into() })
    }

    /// The account.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The machine.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// What is logged in to.
    pub fn service(&self) -> &str {
        &self.service
    }

    /// Where it lies.
    pub fn path(&self) -> SecretPath {
        self.path_to(&self.user)
    }

    /// Where the next one lies while it is being rotated.
    pub fn next_path(&self) -> SecretPath {
        self.path_to(&format!(".{}.next", self.user))
    }

    fn path_to(&self, last: &str) -> SecretPath {
        let name = |text: &str| Name::parse(text.as_bytes()).expect("a part is a name: short, no slash, no lone dots");
        SecretPath::from_names([PASSWORDS, &self.host, &self.service, last].into_iter().map(name).collect())
    }
}

impl fmt::Display for PasswordName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}:{}", self.user, self.host, self.service)
    }
}

impl TryFrom<String> for PasswordName {
    type Error = PasswordError;
    fn try_from(text: String) -> Result<Self, PasswordError> {
        Self::parse(&text)
    }
}

impl From<PasswordName> for String {
    fn from(name: PasswordName) -> String {
        name.to_string()
    }
}

/// Which passwords: a name in whose parts `*` stands for any characters and `?` for one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PasswordPattern {
    user: String,
    host: String,
    service: String,
}

impl PasswordPattern {
    /// Parses `USER@HOST:SERVICE` with wildcards; what is left out is `root` and `ssh`, not everything.
    ///
    /// # Errors
    /// [`PasswordError::Part`].
    pub fn parse(text: &str) -> Result<Self, PasswordError> {
        let (user, host, service) = split(text);
        for (part, text) in [("user", user), ("host", host), ("service", service)] {
            if !is_part(text, b"*?") {
                return Err(PasswordError::Part { part });
            }
        }
        Ok(PasswordPattern { user: user.into(), host: host.into(), service: service.into() })
    }

    /// All there are.
    pub fn all() -> Self {
        PasswordPattern { user: "*".into(), host: "*".into(), service: "*".into() }
    }

    /// The one name it stands for; `None` if it has wildcards.
    pub fn single(&self) -> Option<PasswordName> {
        PasswordName::of(&self.user, &self.host, &self.service).ok()
    }

    /// Whether this is one of them.
    pub fn matches(&self, name: &PasswordName) -> bool {
        self.matches_host(&name.host) && self.matches_service(&name.service) && fits(&self.user, &name.user)
    }

    /// Whether any on this host may be.
    pub fn matches_host(&self, host: &str) -> bool {
        fits(&self.host, host)
    }

    /// Whether any of this service may be.
    pub fn matches_service(&self, service: &str) -> bool {
        fits(&self.service, service)
    }
}

impl fmt::Display for PasswordPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}:{}", self.user, self.host, self.service)
    }
}

impl TryFrom<String> for PasswordPattern {
    type Error = PasswordError;
    fn try_from(text: String) -> Result<Self, PasswordError> {
        Self::parse(&text)
    }
}

impl From<PasswordPattern> for String {
    fn from(pattern: PasswordPattern) -> String {
        pattern.to_string()
    }
}

/// Whether this may be a password: text of 1 to 512 bytes of UTF-8 in one line, nothing in it that moves a cursor.
///
/// # Errors
/// [`PasswordError`]; it repeats nothing of the content.
pub fn check_password(bytes: &[u8]) -> Result<(), PasswordError> {
    if bytes.is_empty() {
        return Err(PasswordError::Empty);
    }
    if bytes.len() > PASSWORD_MAX {
        return Err(PasswordError::TooLong);
    }
    let text = std::str::from_utf8(bytes).map_err(|_| PasswordError::NotUtf8)?;
    if text.chars().any(char::is_control) { Err(PasswordError::Control) } else { Ok(()) }
}

/// User, host, service as typed.
fn split(text: &str) -> (&str, &str, &str) {
    let (account, service) = text.rsplit_once(':').unwrap_or((text, SERVICE));
    let (user, host) = account.split_once('@').unwrap_or((USER, account));
    (user, host, service)
}

fn is_part(text: &str, wild: &[u8]) -> bool {
    let first = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || wild.contains(&b));
    let rest = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b) || wild.contains(&b));
    first && rest && text.len() <= PART_MAX
}

/// Steps back to the last `*` only, so that the time is bounded by the product of the lengths.
fn fits(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == b'?' || *c == text[t] => (p, t) = (p + 1, t + 1),
            _ => match &mut star {
                Some((at, taken)) => {
                    *taken += 1;
                    (p, t) = (*at + 1, *taken);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_root_and_ssh_unless_it_says_otherwise() {
        for (typed, is) in [
            ("ui-1", "root@ui-1:ssh"),
            ("admin@ui-1", "admin@ui-1:ssh"),
            ("ui-1:postgresql", "root@ui-1:postgresql"),
            ("a.b@h.example.org:s_1", "a.b@h.example.org:s_1"),
        ] {
            assert_eq!(PasswordName::parse(typed).unwrap().to_string(), is);
        }
        let name = PasswordName::parse("nut@ups.example:upsd").unwrap();
        assert_eq!(name.path().to_string(), "passwords/ups.example/upsd/nut");
        assert_eq!(name.next_path().to_string(), "passwords/ups.example/upsd/.nut.next");
    }

    #[test]
    fn what_could_be_an_option_a_path_or_two_names_is_no_name() {
        let long = "x".repeat(PART_MAX + 1);
        let bad = [
            "",
            "-oProxyCommand=x",
            "root@-h",
            ".",
            "..",
            "a@b@c",
            "a@h:s:t",
            "a/b",
            "h\n",
            "@h",
            "h:",
            "a b",
            "ü",
            "*",
        ];
        for bad in bad.iter().copied().chain([long.as_str()]) {
            assert!(PasswordName::parse(bad).is_err(), "{bad:?}");
        }
        // A name of the longest parts has a path.
        let long = "x".repeat(PART_MAX);
        let name = PasswordName::of(&long, &long, &long).unwrap();
        assert_eq!(SecretPath::parse(&name.next_path().to_string()).unwrap(), name.next_path());
        assert!(serde_json::from_str::<PasswordName>("\"a/b\"").is_err());
    }

    #[test]
    fn patterns_select_by_each_part() {
        let name = |text| PasswordName::parse(text).unwrap();
        for (pattern, text, whether) in [
            ("root@ui-*", "root@ui-1", true),
            ("root@ui-*", "root@ui-1:postgresql", false),
            ("root@ui-*:*", "root@ui-1:postgresql", true),
            ("*@ui-?", "admin@ui-1", true),
            ("*@ui-?", "admin@ui-12", false),
            ("*", "root@x", true),
            ("*", "admin@x", false),
            ("ui-*-*.example", "root@ui-a-b-c.example", true),
            ("ui-*b", "root@ui-abab", true),
            ("ui-*b", "root@ui-aba", false),
            ("ui-1", "root@ui-1", true),
            ("ui-1", "root@ui-11", false),
        ] {
            assert_eq!(PasswordPattern::parse(pattern).unwrap().matches(&name(text)), whether, "{pattern} {text}");
        }
        assert!(PasswordPattern::all().matches(&name("a@b:c")));
        assert_eq!(PasswordPattern::parse("ui-1").unwrap().single(), Some(name("ui-1")));
        assert_eq!(PasswordPattern::parse("ui-*").unwrap().single(), None);
        for bad in ["", "-*", "[ab]", "a@*@b", "**/x", "{a,b}"] {
            assert!(PasswordPattern::parse(bad).is_err(), "{bad}");
        }
        // It does not take for ever.
        let hostile = PasswordPattern::parse(&"*a".repeat(100)).unwrap();
        assert!(!hostile.matches(&name(&format!("{}b", "a".repeat(240)))));
    }

    #[test]
    fn a_password_is_one_line_of_text() {
        for good in ["x", "a:b c", "pässword", &"x".repeat(PASSWORD_MAX)] {
            assert_eq!(check_password(good.as_bytes()), Ok(()), "{good}");
        }
        for (bad, why) in [
            (&b""[..], PasswordError::Empty),
            (b"a\nb", PasswordError::Control),
            (b"a\0", PasswordError::Control),
            (b"a\r", PasswordError::Control),
            (b"\x1b[2J", PasswordError::Control),
            ("\u{9b}2J".as_bytes(), PasswordError::Control),
            (b"\xff", PasswordError::NotUtf8),
            (&[b'x'; PASSWORD_MAX + 1], PasswordError::TooLong),
        ] {
            assert_eq!(check_password(bad), Err(why), "{bad:?}");
        }
    }
}
