//! The `[certs]` table: which files are pairs, and how certificates are renewed.

use super::units;
use crate::model::{KeyType, Name, SecretPath, is_mail_address};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// What a private key's mode may be at most, unless its rule says more.
const MODE: u16 = 0o640;
/// Rules at most.
const RULES_MAX: usize = 100;

/// The `[certs]` table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Certs {
    /// Files that are certificate and key: one is refused if the other is newer and does not match.
    #[serde(deserialize_with = "pairs")]
    pub pair: Vec<Pair>,
    /// So long before its end a certificate is renewed.
    #[serde(deserialize_with = "renew_before", serialize_with = "units::write_duration")]
    pub renew_before: Duration,
    /// Who gets the requests.
    #[serde(deserialize_with = "parsed", serialize_with = "written")]
    pub submit: Submit,
    /// For how long a program may take.
    #[serde(deserialize_with = "units::unlock_timeout", serialize_with = "units::write_duration")]
    pub timeout: Duration,
    /// The type of new keys; a renewed certificate's key is like the one before.
    pub key_type: KeyType,
    /// Who is written to when a renewal fails.
    #[serde(deserialize_with = "address")]
    pub mail_to: Option<String>,
    /// Whether he is written to when one succeeds, too.
    pub mail_success: bool,
}

impl Default for Certs {
    fn default() -> Self {
        Certs {
            pair: Vec::new(),
            renew_before: Duration::from_secs(30 * 86_400),
            submit: Submit::None,
            timeout: Duration::from_secs(600),
            key_type: KeyType::default(),
            mail_to: None,
            mail_success: false,
        }
    }
}

/// Who gets the request for a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Submit {
    /// Nobody: nothing is renewed.
    #[default]
    None,
    /// A program: the request on stdin, the certificate on stdout.
    Exec(PathBuf),
    /// Somebody, by mail; what he sends back is taken with `pinfold cert accept`.
    Mail(String),
    /// It is left in the folder `outbox/csr` of the store.
    Outbox,
    /// An authority of one's own.
    Authority(String),
}

impl FromStr for Submit {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let says = "must be 'none', 'outbox', 'exec:/PROGRAM', 'mail:ADDRESS' or 'ca:NAME'";
        Ok(match text.split_once(':') {
            None if text == "none" => Submit::None,
            None if text == "outbox" => Submit::Outbox,
            Some(("exec", path)) => {
                let path = PathBuf::from(path);
                let plain = path.is_absolute() && !path.components().any(|c| c == std::path::Component::ParentDir);
                if !plain {
                    return Err("must name a program by an absolute path without '..'");
                }
                Submit::Exec(path)
            }
            Some(("mail", to)) if is_mail_address(to) => Submit::Mail(to.to_owned()),
            Some(("ca", name)) => Submit::Authority(name.to_owned()),
            _ => return Err(says),
        })
    }
}

impl std::fmt::Display for Submit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Submit::None => f.write_str("none"),
            Submit::Outbox => f.write_str("outbox"),
            Submit::Exec(path) => write!(f, "exec:{}", path.display()),
            Submit::Mail(to) => write!(f, "mail:{to}"),
            Submit::Authority(name) => write!(f, "ca:{name}"),
        }
    }
}

/// A rule: which file is the certificate to which key. `*` stands for a part of a name, the same in both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    cert: Pattern,
    key: Pattern,
    /// The bits a private key's mode may have.
    pub mode: u16,
}

/// Which of a pair a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// The certificate.
    Cert,
    /// The private key.
    Key,
}

impl Pair {
    /// A rule for keys of mode 0640 at most.
    ///
    /// # Errors
    /// What is wrong with the patterns.
    pub fn parse(cert: &str, key: &str) -> Result<Self, &'static str> {
        let pair = Pair { cert: Pattern::parse(cert)?, key: Pattern::parse(key)?, mode: MODE };
        if pair.cert.stars() != pair.key.stars() {
            return Err("must have as many '*' for the certificate as for the key");
        }
        if cert == key {
            return Err("must name two files");
        }
        Ok(pair)
    }

    /// Which of this pair a path is, and where the other is.
    pub fn other(&self, path: &SecretPath) -> Option<(Half, SecretPath)> {
        let swap = |half, from: &Pattern, to: &Pattern| Some((half, to.filled(&from.captured(path)?)?));
        swap(Half::Cert, &self.cert, &self.key).or_else(|| swap(Half::Key, &self.key, &self.cert))
    }
}

/// A path with a `*` in any of its names.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pattern {
    text: String,
    /// What is before and behind the star of each name; no star, no second part.
    names: Vec<(String, Option<String>)>,
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, &'static str> {
        let path = SecretPath::parse(text).map_err(|_| "must be two paths in the tree")?;
        if path.is_root() || text.contains(['?', '[', '{', '\\']) {
            return Err("must be paths in the tree, with '*' for a part of a name");
        }
        let name = |name: &Name| match name.as_str().split_once('*') {
            None => Ok((name.as_str().to_owned(), None)),
            Some((_, behind)) if behind.contains('*') => Err("must not have two '*' in one name"),
            Some((before, behind)) => Ok((before.to_owned(), Some(behind.to_owned()))),
        };
        Ok(Pattern { text: text.to_owned(), names: path.names().iter().map(name).collect::<Result<_, _>>()? })
    }

    fn stars(&self) -> usize {
        self.names.iter().filter(|(_, behind)| behind.is_some()).count()
    }

    /// What the stars stand for, if the path is of this form.
    fn captured<'p>(&self, path: &'p SecretPath) -> Option<Vec<&'p str>> {
        if path.names().len() != self.names.len() {
            return None;
        }
        let mut stars = Vec::new();
        for (name, (before, behind)) in path.names().iter().zip(&self.names) {
            match behind {
                None if name.as_str() == before => {}
                None => return None,
                Some(behind) => stars.push(name.as_str().strip_prefix(before.as_str())?.strip_suffix(behind.as_str())?),
            }
        }
        stars.iter().all(|s| !s.is_empty()).then_some(stars)
    }

    fn filled(&self, stars: &[&str]) -> Option<SecretPath> {
        let mut stars = stars.iter();
        let mut names = Vec::new();
        for (before, behind) in &self.names {
            names.push(match behind {
                None => before.clone(),
                Some(behind) => format!("{before}{}{behind}", stars.next()?),
            });
        }
        SecretPath::parse(&names.join("/")).ok()
    }
}

/// As in the file: certificate, key, and the mode if it is another.
impl Serialize for Pair {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mode = (self.mode != MODE).then(|| format!("{:04o}", self.mode));
        to.collect_seq([Some(self.cert.text.clone()), Some(self.key.text.clone()), mode].into_iter().flatten())
    }
}

/// One rule, or a list of them.
fn pairs<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Pair>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMore {
        One(Vec<String>),
        More(Vec<Vec<String>>),
    }
    let wrong = |what: &str| D::Error::custom(format!("a rule {what}"));
    let form = "must be [\"CERTIFICATE\", \"KEY\"] or [\"CERTIFICATE\", \"KEY\", \"MODE\"]";
    let rules = match OneOrMore::deserialize(from).map_err(|_| wrong(form))? {
        OneOrMore::One(rule) if rule.is_empty() => Vec::new(),
        OneOrMore::One(rule) => vec![rule],
        OneOrMore::More(rules) => rules,
    };
    if rules.len() > RULES_MAX {
        return Err(D::Error::custom(format!("there are {RULES_MAX} rules at most")));
    }
    let rule = |rule: Vec<String>| -> Result<Pair, D::Error> {
        let (cert, key, mode) = match rule.as_slice() {
            [cert, key] => (cert, key, None),
            [cert, key, mode] => (cert, key, Some(mode)),
            _ => return Err(wrong(form)),
        };
        let mut pair = Pair::parse(cert, key).map_err(wrong)?;
        if let Some(mode) = mode {
            pair.mode = u16::from_str_radix(mode, 8)
                .ok()
                .filter(|m| *m <= 0o777)
                .ok_or_else(|| wrong("has a mode in octal, 0777 at most"))?;
        }
        Ok(pair)
    };
    rules.into_iter().map(rule).collect()
}

/// 1 h to 365 d.
fn renew_before<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    let wait = crate::model::parse_duration(&text).filter(|d| (3_600..=365 * 86_400).contains(&d.as_secs()));
    wait.ok_or_else(|| D::Error::custom("must be a duration of 1h to 365d"))
}

fn address<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(from)?;
    if is_mail_address(&text) { Ok(Some(text)) } else { Err(D::Error::custom("must be a mail address")) }
}

fn parsed<'de, D: Deserializer<'de>>(from: D) -> Result<Submit, D::Error> {
    String::deserialize(from)?.parse().map_err(D::Error::custom)
}

fn written<S: Serializer>(submit: &Submit, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(submit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Certs, String> {
        toml::from_str(text).map_err(|e: toml::de::Error| e.message().to_owned())
    }

    fn other(pair: &Pair, path: &str) -> Option<(Half, String)> {
        pair.other(&SecretPath::parse(path).unwrap()).map(|(half, p)| (half, p.to_string()))
    }

    #[test]
    fn a_pair_is_found_from_either_side_by_what_the_stars_stand_for() {
        let pair = Pair::parse("tls/*/cert.pem", "tls/*/key.pem").unwrap();
        assert_eq!(other(&pair, "tls/web/cert.pem"), Some((Half::Cert, "tls/web/key.pem".into())));
        assert_eq!(other(&pair, "tls/web/key.pem"), Some((Half::Key, "tls/web/cert.pem".into())));
        for no in ["tls/cert.pem", "tls/a/b/cert.pem", "tls/web/chain.pem", "xtls/web/cert.pem"] {
            assert_eq!(other(&pair, no), None, "{no}");
        }
        let named = Pair::parse("a/*.crt", "b/*.key").unwrap();
        assert_eq!(other(&named, "a/web.crt"), Some((Half::Cert, "b/web.key".into())));
        assert_eq!(other(&named, "a/.crt"), None);
    }

    #[test]
    fn rules_are_one_or_many_and_wrong_ones_are_named() {
        assert_eq!(read("pair = [\"a\", \"b\"]").unwrap().pair.len(), 1);
        let two = read("pair = [[\"a/*\", \"b/*\"], [\"c\", \"d\", \"0644\"]]").unwrap().pair;
        assert_eq!((two.len(), two[0].mode, two[1].mode), (2, 0o640, 0o644));
        assert_eq!(read("pair = []").unwrap().pair, []);
        for (bad, why) in [
            ("pair = [\"a\"]", "a rule must be"),
            ("pair = [\"a\", \"a\"]", "two files"),
            ("pair = [\"a/*\", \"b\"]", "as many"),
            ("pair = [\"a/**\", \"b/**\"]", "two '*'"),
            ("pair = [\"a/[x]\", \"b\"]", "must be paths"),
            ("pair = [\"a\", \"b\", \"999\"]", "octal"),
            ("pair = [\"../a\", \"b\"]", "two paths"),
            ("pair = 1", "a rule must be"),
        ] {
            let said = read(bad).unwrap_err();
            assert!(said.contains(why), "{bad}: {said}");
        }
    }

    #[test]
    fn requests_go_where_the_word_says() {
        for word in ["none", "outbox", "exec:/usr/bin/step", "mail:ca@example.org", "ca:lab"] {
            assert_eq!(word.parse::<Submit>().unwrap().to_string(), word);
        }
        for bad in ["", "exec:step", "exec:/a/../b", "mail:a b", "mail:-x", "sftp", "mail:"] {
            assert!(bad.parse::<Submit>().is_err(), "{bad}");
        }
    }
}
