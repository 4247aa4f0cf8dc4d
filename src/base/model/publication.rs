//! A publication: whom a secret is given to as a key, and under which description.
//!
//! Owns the grammar of `user.pinfold.publish`, one publication a line (docs/keyring.md), and the templates of
//! descriptions. It looks nobody up and knows no key.

use super::Timestamp;
use std::fmt;
use std::time::SystemTime;

/// The attribute a secret's publications are kept in.
pub const PUBLISH_XATTR: &str = "user.pinfold.publish";
/// The most publications of one secret.
pub const PUBLICATIONS_MAX: usize = 32;
/// The longest description of a key, in bytes (add_key(2): 4096 with the NUL).
const DESCRIPTION_MAX: usize = 4095;
/// The longest name of a user, an instance or a container.
const WORD_MAX: usize = 256;

/// A publication that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PublicationError(String);

fn no<T>(why: impl Into<String>) -> Result<T, PublicationError> {
    Err(PublicationError(why.into()))
}

/// Whom a key is for, as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Recipient {
    /// A user of this machine's user database.
    Name(String),
    /// A uid; and the group, where that has not the same number.
    Number {
        /// The uid, as the container counts where it is one's.
        uid: u32,
        /// The group that the key is readable by, beside who possesses it.
        gid: Option<u32>,
    },
}

impl Recipient {
    /// Reads `dirsrv`, `389` or `389:389`.
    ///
    /// # Errors
    /// [`PublicationError`] for what is none of these.
    pub fn parse(text: &str) -> Result<Self, PublicationError> {
        let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
        let number = |t: &str| match t.parse::<u32>() {
            Ok(id) if id != u32::MAX => Ok(id),
            _ => no(format!("{t} is no user or group id")),
        };
        match text.split_once(':') {
            Some((uid, gid)) if digits(uid) && digits(gid) => {
                Ok(Recipient::Number { uid: number(uid)?, gid: Some(number(gid)?) })
            }
            None if digits(text) => Ok(Recipient::Number { uid: number(text)?, gid: None }),
            None => Ok(Recipient::Name(word("a user", text)?)),
            Some(_) => no(format!("'{text}': a user's name, UID, or UID:GID")),
        }
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Recipient::Name(name) => f.write_str(name),
            Recipient::Number { uid, gid: Some(gid) } => write!(f, "{uid}:{gid}"),
            Recipient::Number { uid, gid: None } => uid.fmt(f),
        }
    }
}

/// A description that has a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Preset {
    /// What 389 Directory Server looks for.
    Ds389,
}

impl Preset {
    /// All of them.
    pub const ALL: &[Preset] = &[Preset::Ds389];

    /// The name: `389ds`.
    pub fn name(self) -> &'static str {
        match self {
            Preset::Ds389 => "389ds",
        }
    }

    /// The preset of that name.
    ///
    /// # Errors
    /// [`PublicationError`] lists those there are.
    pub fn parse(name: &str) -> Result<Self, PublicationError> {
        Self::ALL.iter().copied().find(|p| p.name() == name).ok_or_else(|| {
            let all: Vec<&str> = Self::ALL.iter().map(|p| p.name()).collect();
            PublicationError(format!("there is no preset '{name}'; there is {}", all.join(", ")))
        })
    }

    fn template(self, in_container: bool) -> &'static str {
        match (self, in_container) {
            (Preset::Ds389, false) => "Internal (Software) Token:{instance}:password",
            (Preset::Ds389, true) => "Internal (Software) Token:{instance}:{container}:password",
        }
    }
}

/// How a key is described.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Described {
    /// `pinfold:{path}`; in a container `pinfold:{container}:{path}`.
    Default,
    /// By a preset.
    As(Preset),
    /// By a template.
    Template(String),
}

/// What the placeholders of a description stand for.
#[derive(Debug, Clone, Copy)]
pub struct DescribedBy<'a> {
    /// The secret's path; in a container below its scope's folder.
    pub path: &'a str,
    /// The uid that the key is for, as the container counts where it is one's.
    pub uid: u32,
    /// The user as he was written.
    pub user: &'a str,
    /// The container: the instance's id, and its scope's name.
    pub container: Option<(&'a str, &'a str)>,
}

/// One publication of a secret.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Publication {
    /// Whom it is for.
    pub to: Recipient,
    /// An attached instance's id, or a scope's name for each of its instances; `None` for this machine.
    pub container: Option<String>,
    /// What `{instance}` stands for: the service's own instance, not a container's.
    pub instance: Option<String>,
    /// When the key expires.
    pub until: Option<Timestamp>,
    /// How the key is described.
    pub described: Described,
}

impl Publication {
    /// Checks what belongs together: the description's placeholders have values, and what is given is used.
    ///
    /// # Errors
    /// [`PublicationError`] says what is wrong.
    pub fn checked(self) -> Result<Self, PublicationError> {
        let pieces = pieces(self.template())?;
        let has = |name: Placeholder| pieces.contains(&Piece::Value(name));
        for (name, value, what) in [
            (Placeholder::Instance, self.instance.is_some(), "an instance"),
            (Placeholder::Container, self.container.is_some(), "a container"),
            (Placeholder::Scope, self.container.is_some(), "a container"),
        ] {
            if has(name) && !value {
                return no(format!("the description has {{{}}}, and {what} is not given", name.word()));
            }
        }
        if self.instance.is_some() && !has(Placeholder::Instance) {
            return no("an instance is given, and the description does not have {instance}");
        }
        if matches!((&self.to, &self.container), (Recipient::Name(_), Some(_))) {
            return no("in a container a user is a number, as it counts: UID or UID:GID");
        }
        for (what, value) in [("an instance", &self.instance), ("a container", &self.container)] {
            value.as_deref().map(|v| word(what, v)).transpose()?;
        }
        let fixed: usize = pieces.iter().map(|p| if let Piece::Text(t) = p { t.len() } else { 0 }).sum();
        if fixed > DESCRIPTION_MAX {
            return no("a description has 4095 bytes at most");
        }
        Ok(self)
    }

    /// The description's template.
    pub fn template(&self) -> &str {
        match (&self.described, self.container.is_some()) {
            (Described::Default, false) => "pinfold:{path}",
            (Described::Default, true) => "pinfold:{container}:{path}",
            (Described::As(preset), inside) => preset.template(inside),
            (Described::Template(text), _) => text,
        }
    }

    /// The key's description.
    ///
    /// # Errors
    /// [`PublicationError`] if it would be empty, too long, or have characters that break what lists keys.
    pub fn description(&self, facts: &DescribedBy<'_>) -> Result<String, PublicationError> {
        let mut out = String::new();
        for piece in pieces(self.template())? {
            let missing = |name: &str| PublicationError(format!("there is no value for {{{name}}}"));
            match piece {
                Piece::Text(text) => out.push_str(&text),
                Piece::Value(Placeholder::Path) => out.push_str(facts.path),
                Piece::Value(Placeholder::Name) => out.push_str(facts.path.rsplit('/').next().unwrap_or_default()),
                Piece::Value(Placeholder::User) => out.push_str(facts.user),
                Piece::Value(Placeholder::Uid) => out.push_str(&facts.uid.to_string()),
                Piece::Value(Placeholder::Instance) => {
                    out.push_str(self.instance.as_deref().ok_or_else(|| missing("instance"))?);
                }
                Piece::Value(Placeholder::Container) => {
                    out.push_str(facts.container.ok_or_else(|| missing("container"))?.0);
                }
                Piece::Value(Placeholder::Scope) => out.push_str(facts.container.ok_or_else(|| missing("scope"))?.1),
            }
        }
        match out.len() {
            0 => no("the description is empty"),
            n if n > DESCRIPTION_MAX => no(format!("the description has {n} bytes; 4095 at most")),
            _ if out.contains(char::is_control) => no("the description has a control character"),
            _ => Ok(out),
        }
    }

    fn parse(line: &str) -> Result<Self, PublicationError> {
        let mut found = Publication {
            to: Recipient::Number { uid: u32::MAX, gid: None },
            container: None,
            instance: None,
            until: None,
            described: Described::Default,
        };
        let mut seen: Vec<&str> = Vec::new();
        let mut rest = line.trim_start();
        while !rest.is_empty() {
            let Some((key, value)) = rest.split_once('=') else {
                return no(format!("'{rest}': fields are written key=value"));
            };
            if seen.contains(&key) {
                return no(format!("{key} is there twice"));
            }
            seen.push(key);
            // A description has blanks of its own, so it is the last and takes the rest of the line.
            let (value, after) = match key {
                "description" => (value, ""),
                _ => value.split_once(' ').unwrap_or((value, "")),
            };
            match key {
                "to" => found.to = Recipient::parse(value)?,
                "container" => found.container = Some(word("a container", value)?),
                "instance" => found.instance = Some(word("an instance", value)?),
                "until" => match humantime::parse_rfc3339_weak(value) {
                    Ok(at) if value.ends_with('Z') => found.until = Some(at.into()),
                    Ok(_) | Err(_) => return no(format!("until={value}: a time in UTC, as 2027-01-31T12:00:00Z")),
                },
                "as" => found.described = Described::As(Preset::parse(value)?),
                "description" => found.described = Described::Template(value.to_owned()),
                _ => return no(format!("'{key}' is no field of a publication")),
            }
            rest = after.trim_start();
        }
        if !seen.contains(&"to") {
            return no("to= is missing");
        }
        if seen.contains(&"as") && seen.contains(&"description") {
            return no("give a preset or a description, not both");
        }
        found.checked()
    }
}

/// The line it is written as.
impl fmt::Display for Publication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "to={}", self.to)?;
        if let Some(container) = &self.container {
            write!(f, " container={container}")?;
        }
        if let Some(instance) = &self.instance {
            write!(f, " instance={instance}")?;
        }
        if let Some(until) = self.until {
            write!(f, " until={}", humantime::format_rfc3339_seconds(SystemTime::from(until)))?;
        }
        match &self.described {
            Described::Default => Ok(()),
            Described::As(preset) => write!(f, " as={}", preset.name()),
            Described::Template(text) => write!(f, " description={text}"),
        }
    }
}

/// Reads the attribute's value.
///
/// # Errors
/// [`PublicationError`] for a value that is empty, not UTF-8, too long, or has a line that is no publication or is there
/// twice.
pub fn parse_publications(value: &[u8]) -> Result<Vec<Publication>, PublicationError> {
    let text = std::str::from_utf8(value).map_err(|_| PublicationError("it is not UTF-8".into()))?;
    let mut all: Vec<Publication> = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let found = Publication::parse(line).map_err(|e| PublicationError(format!("line {}: {e}", number + 1)))?;
        if all.iter().any(|p| p.same_key(&found)) {
            return no(format!("line {}: the same publication is there twice", number + 1));
        }
        all.push(found);
    }
    match all.len() {
        0 => no("there is no publication in it; remove the attribute instead"),
        n if n > PUBLICATIONS_MAX => no(format!("{n} publications; {PUBLICATIONS_MAX} at most")),
        _ => Ok(all),
    }
}

/// Writes the attribute's value.
pub fn write_publications(all: &[Publication]) -> Vec<u8> {
    all.iter().map(|p| format!("{p}\n")).collect::<String>().into_bytes()
}

impl Publication {
    /// Whether both mean the same key: only the time may differ.
    pub fn same_key(&self, other: &Publication) -> bool {
        (&self.to, &self.container, &self.instance, &self.described)
            == (&other.to, &other.container, &other.instance, &other.described)
    }
}

fn word(what: &str, text: &str) -> Result<String, PublicationError> {
    let fits = (1..=WORD_MAX).contains(&text.len())
        && !text.contains(|c: char| c.is_control() || c.is_whitespace() || c == '=')
        && !text.starts_with('-');
    if fits { Ok(text.to_owned()) } else { no(format!("'{text}' cannot name {what}")) }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Placeholder {
    Path,
    Name,
    User,
    Uid,
    Instance,
    Container,
    Scope,
}

impl Placeholder {
    const ALL: [Placeholder; 7] = [
        Placeholder::Path,
        Placeholder::Name,
        Placeholder::User,
        Placeholder::Uid,
        Placeholder::Instance,
        Placeholder::Container,
        Placeholder::Scope,
    ];

    fn word(self) -> &'static str {
        match self {
            Placeholder::Path => "path",
            Placeholder::Name => "name",
            Placeholder::User => "user",
            Placeholder::Uid => "uid",
            Placeholder::Instance => "instance",
            Placeholder::Container => "container",
            Placeholder::Scope => "scope",
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Value(Placeholder),
}

/// Takes a template apart; `{{` and `}}` are braces.
fn pieces(template: &str) -> Result<Vec<Piece>, PublicationError> {
    let mut pieces = Vec::new();
    let mut text = String::new();
    let mut rest = template;
    while let Some(at) = rest.find(['{', '}']) {
        text.push_str(&rest[..at]);
        let (brace, after) = rest[at..].split_at(1);
        if let Some(doubled) = after.strip_prefix(brace) {
            text.push_str(brace);
            rest = doubled;
            continue;
        }
        let name = after.split_once('}').filter(|_| brace == "{");
        let Some((name, after)) = name else { return no("a brace of the description is not closed or not open") };
        let Some(placeholder) = Placeholder::ALL.into_iter().find(|p| p.word() == name) else {
            return no(format!("{{{name}}} stands for nothing in a description"));
        };
        if !text.is_empty() {
            pieces.push(Piece::Text(std::mem::take(&mut text)));
        }
        pieces.push(Piece::Value(placeholder));
        rest = after;
    }
    text.push_str(rest);
    if !text.is_empty() {
        pieces.push(Piece::Text(text));
    }
    if pieces.is_empty() { no("the description is empty") } else { Ok(pieces) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(line: &str) -> Result<Publication, PublicationError> {
        parse_publications(line.as_bytes()).map(|mut all| all.remove(0))
    }

    const HOST: DescribedBy<'static> = DescribedBy { path: "svc/pin", uid: 389, user: "dirsrv", container: None };

    #[test]
    fn lines_come_back_as_they_were_written() {
        for line in [
            "to=dirsrv",
            "to=389 container=web",
            "to=389:390 container=web until=2027-01-31T12:00:00Z",
            "to=dirsrv instance=a as=389ds",
            "to=dirsrv instance=a description=Internal (Software) Token:{instance};=x  y",
        ] {
            let found = one(line).unwrap();
            assert_eq!(found.to_string(), line);
            assert_eq!(parse_publications(&write_publications(std::slice::from_ref(&found))).unwrap(), [found]);
        }
        let two = b"to=a\n\nto=b  as=389ds   instance=x\n";
        assert_eq!(write_publications(&parse_publications(two).unwrap()), b"to=a\nto=b instance=x as=389ds\n");
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_reason() {
        for (line, why) in [
            ("", "no publication"),
            ("dirsrv", "key=value"),
            ("instance=a as=389ds", "to= is missing"),
            ("to=", "cannot name a user"),
            ("to=4294967295", "no user or group id"),
            ("to=a:b", "UID:GID"),
            ("to=a to=b", "twice"),
            ("to=a\nto=a", "twice"),
            ("to=a\nto=a until=2027-01-31T12:00:00Z", "twice"),
            ("to=a colour=red", "no field"),
            ("to=a as=nss", "there is 389ds"),
            ("to=a as=389ds", "an instance is not given"),
            ("to=a instance=x", "does not have {instance}"),
            ("to=a as=389ds instance=x description=y", "not both"),
            ("to=a description={container}", "a container is not given"),
            ("to=a container=web", "is a number"),
            ("to=a description={", "brace"),
            ("to=a description=}", "brace"),
            ("to=a description={Path}", "stands for nothing"),
            ("to=a description=", "empty"),
            ("to=a until=tomorrow", "UTC"),
        ] {
            let error = one(line).expect_err(line).to_string();
            assert!(error.contains(why), "{line}: {error}");
        }
        assert!(parse_publications(b"to=\xff").is_err());
        let many: String = (0..=PUBLICATIONS_MAX).map(|i| format!("to={i}\n")).collect();
        assert!(parse_publications(many.as_bytes()).is_err());
        assert!(one(&format!("to=a description={}", "x".repeat(4096))).is_err());
    }

    #[test]
    fn descriptions_are_what_services_look_for() {
        let inside = DescribedBy { container: Some(("0a1b", "web")), ..HOST };
        for (line, facts, expected) in [
            ("to=dirsrv", HOST, "pinfold:svc/pin"),
            ("to=389 container=web", inside, "pinfold:0a1b:svc/pin"),
            ("to=dirsrv instance=slapd-a as=389ds", HOST, "Internal (Software) Token:slapd-a:password"),
            ("to=389 container=web instance=a as=389ds", inside, "Internal (Software) Token:a:0a1b:password"),
            ("to=dirsrv description={{{name}}};{uid}:{user}", HOST, "{pin};389:dirsrv"),
            ("to=389 container=0a1b description={scope}", inside, "web"),
        ] {
            assert_eq!(one(line).unwrap().description(&facts).unwrap(), expected, "{line}");
        }
        let long = "x".repeat(4090);
        for path in ["a\nb", "a\0b", &long] {
            assert!(one("to=a").unwrap().description(&DescribedBy { path, ..HOST }).is_err());
        }
    }
}
