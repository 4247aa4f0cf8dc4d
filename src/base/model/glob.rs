//! Patterns over the tree: which paths a line of the policy means.
//!
//! Owns the grammar. A pattern is taken apart at its slashes first and matched name by name, so that nothing but `**`
//! can cross one, and in steps that are bounded by the lengths: no pattern takes exponential time.

use super::path::{Name, PathError, SecretPath};
use serde::{Deserialize, Serialize};
use std::fmt;
use thiserror::Error;

/// The longest pattern, in bytes, as the longest path.
const GLOB_MAX: usize = 4095;
/// The most names in one, as in a path.
const DEPTH_MAX: usize = 64;
/// Folders whose contents no pattern means unless it names them.
const RESERVED: &[&str] = &["passwords", "admins", "users", "containers", ".pinfold"];

/// Text that is no pattern.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub enum GlobError {
    /// Nothing at all.
    #[error("a pattern cannot be empty")]
    Empty,
    /// With a slash at the front.
    #[error("a pattern is relative to the root of the tree, without a slash at the front")]
    Absolute,
    /// With a slash at the end, or two in a row.
    #[error("a pattern has no empty names: it cannot end in '/' or have '//'; 'dir/**' is all below dir")]
    EmptyName,
    /// A name that no file has.
    #[error("{0}")]
    Name(#[from] PathError),
    /// `**` beside something else.
    #[error("'**' stands alone between slashes")]
    Stars,
    /// `[` without its `]`.
    #[error("'[' is not closed by ']' in the same name")]
    Class,
    /// `[b-a]`.
    #[error("a range in '[…]' runs backwards")]
    Range,
    /// `\` at the end of a name.
    #[error("'\\' is followed by nothing")]
    Escape,
    /// `{` or `}`: alternatives, which other programs know.
    #[error("there are no alternatives in braces: write two patterns (a brace itself is '\\{{')")]
    Brace,
}

/// A pattern over paths. `*` is any part of a name, `?` one character, `[a-z]` and `[!a-z]` one of or none of these, `**`
/// any number of names, none included (at the end one at least: `dir/**` is all below `dir`), and `\` takes its power from
/// the character after it. Nothing in `passwords`, `admins`, `users`, `containers` or `.pinfold` matches unless the
/// pattern begins with that name, written out.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Glob {
    text: Box<str>,
    parts: Box<[Part]>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    /// This name.
    Literal(Box<str>),
    /// Names of this form.
    Like(Box<[Token]>),
    /// Any number of names.
    Deep,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Char(char),
    One,
    Any,
    Class { not: bool, ranges: Box<[(char, char)]> },
}

impl Glob {
    /// Reads a pattern.
    ///
    /// # Errors
    /// [`GlobError`] says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, GlobError> {
        if text.is_empty() {
            return Err(GlobError::Empty);
        }
        if text.starts_with('/') {
            return Err(GlobError::Absolute);
        }
        if text.len() > GLOB_MAX {
            return Err(PathError::TooLong.into());
        }
        let mut parts = Vec::new();
        for part in text.split('/') {
            match part {
                "" => return Err(GlobError::EmptyName),
                // Two in a row say no more than one.
                "**" if parts.last() == Some(&Part::Deep) => {}
                "**" => parts.push(Part::Deep),
                _ => parts.push(Part::parse(part)?),
            }
        }
        if parts.last() == Some(&Part::Deep) {
            parts.push(Part::Like([Token::Any].into()));
        }
        if parts.len() > DEPTH_MAX {
            return Err(PathError::TooLong.into());
        }
        Ok(Glob { text: text.into(), parts: parts.into() })
    }

    /// Whether it means this path. The root is meant by none.
    pub fn matches(&self, path: &SecretPath) -> bool {
        let names = path.names();
        let Some(first) = names.first() else { return false };
        if RESERVED.contains(&first.as_str()) && !self.begins_with(first.as_str()) {
            return false;
        }
        greedy(&self.parts, names, |part| *part == Part::Deep, Part::matches)
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it is a plain path: it means one file at most.
    pub fn is_plain(&self) -> bool {
        self.parts.iter().all(|part| matches!(part, Part::Literal(_)))
    }

    fn begins_with(&self, name: &str) -> bool {
        matches!(self.parts.first(), Some(Part::Literal(first)) if **first == *name)
    }
}

/// A sequence of parts of which some match any number of things and all others one each: when it goes wrong, only the
/// last of those that match any number has to take one more, so the steps are at most the product of the lengths.
fn greedy<P, T>(parts: &[P], things: &[T], is_any: impl Fn(&P) -> bool, matches: impl Fn(&P, &T) -> bool) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut last: Option<(usize, usize)> = None;
    loop {
        if parts.get(p).is_some_and(&is_any) {
            last = Some((p, t));
            p += 1;
            continue;
        }
        match (parts.get(p), things.get(t)) {
            (None, None) => return true,
            (Some(part), Some(thing)) if matches(part, thing) => (p, t) = (p + 1, t + 1),
            _ => match &mut last {
                Some((any, taken)) if *taken < things.len() => {
                    *taken += 1;
                    (p, t) = (*any + 1, *taken);
                }
                _ => return false,
            },
        }
    }
}

impl Part {
    fn parse(text: &str) -> Result<Self, GlobError> {
        let mut tokens = Vec::new();
        let mut rest = text.chars();
        while let Some(c) = rest.next() {
            tokens.push(match c {
                '\\' => Token::Char(rest.next().ok_or(GlobError::Escape)?),
                '?' => Token::One,
                '*' if tokens.last() == Some(&Token::Any) => return Err(GlobError::Stars),
                '*' => Token::Any,
                '[' => class(&mut rest)?,
                '{' | '}' => return Err(GlobError::Brace),
                c => Token::Char(c),
            });
        }
        let literal: Option<String> =
            tokens.iter().map(|token| if let Token::Char(c) = token { Some(*c) } else { None }).collect();
        match literal {
            Some(name) => {
                Name::parse(name.as_bytes())?;
                Ok(Part::Literal(name.into()))
            }
            None if tokens.contains(&Token::Char('\0')) => Err(PathError::Nul.into()),
            None => Ok(Part::Like(tokens.into())),
        }
    }

    fn matches(&self, name: &Name) -> bool {
        match self {
            Part::Literal(this) => **this == *name.as_str(),
            Part::Deep => true,
            Part::Like(tokens) => {
                let name: Vec<char> = name.as_str().chars().collect();
                greedy(tokens, &name, |token| *token == Token::Any, Token::matches)
            }
        }
    }
}

/// What follows `[`: a `]` that comes first, or a `-` at either end, means itself.
fn class(rest: &mut std::str::Chars<'_>) -> Result<Token, GlobError> {
    let mut ranges = Vec::new();
    let mut next = |escaped: &mut bool| -> Result<char, GlobError> {
        match rest.next().ok_or(GlobError::Class)? {
            '\\' => {
                *escaped = true;
                rest.next().ok_or(GlobError::Class)
            }
            c => Ok(c),
        }
    };
    let mut escaped = false;
    let mut c = next(&mut escaped)?;
    let not = !escaped && matches!(c, '!' | '^');
    if not {
        c = next(&mut escaped)?;
    }
    let mut first = true;
    loop {
        if c == ']' && !escaped && !first {
            return Ok(Token::Class { not, ranges: ranges.into() });
        }
        first = false;
        let from = c;
        escaped = false;
        c = next(&mut escaped)?;
        if c != '-' || escaped {
            ranges.push((from, from));
            continue;
        }
        escaped = false;
        let to = next(&mut escaped)?;
        if to == ']' && !escaped {
            ranges.extend([(from, from), ('-', '-')]);
            return Ok(Token::Class { not, ranges: ranges.into() });
        }
        if to < from {
            return Err(GlobError::Range);
        }
        ranges.push((from, to));
        escaped = false;
        c = next(&mut escaped)?;
    }
}

impl Token {
    fn matches(&self, c: &char) -> bool {
        match self {
            Token::Char(this) => this == c,
            Token::One | Token::Any => true,
            Token::Class { not, ranges } => ranges.iter().any(|(from, to)| (from..=to).contains(&c)) != *not,
        }
    }
}

impl PartialEq for Glob {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Glob {}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl TryFrom<String> for Glob {
    type Error = GlobError;
    fn try_from(text: String) -> Result<Self, GlobError> {
        Self::parse(&text)
    }
}

impl From<Glob> for String {
    fn from(glob: Glob) -> String {
        glob.text.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matches(glob: &str, path: &str) -> bool {
        Glob::parse(glob).unwrap_or_else(|e| panic!("{glob}: {e}")).matches(&SecretPath::parse(path).unwrap())
    }

    #[test]
    fn only_two_stars_cross_a_slash() {
        for (glob, yes, no) in [
            ("nut/*", &["nut/a", "nut/.b"][..], &["nut", "nut/a/b", "nuts/a", "a/nut/b"][..]),
            ("*", &["a", ".a"], &["a/b", "passwords", ".pinfold"]),
            ("a?c", &["abc", "aéc"], &["a/c", "ac", "abbc"]),
            ("a[!x]c", &["abc"], &["a/c", "axc", "ac"]),
            ("a[.-0]c", &["a.c", "a0c"], &["a/c", "a1c"]),
            ("nut/**", &["nut/a", "nut/a/b/c"], &["nut", "nuts/a"]),
            ("**", &["a", "a/b"], &["passwords/x", "admins/u/k.pub", "containers/w/x", ".pinfold/status"]),
            ("**/*.pem", &["x.pem", "a/b/x.pem"], &["x.key", "passwords/x.pem"]),
            ("a/**/b", &["a/b", "a/x/b", "a/x/b/y/b"], &["a", "b", "a/x", "a/b/x"]),
            ("a/**/**/b", &["a/b"], &["a"]),
            ("**/b/**/d", &["b/d", "a/b/c/d", "b/b/d/d"], &["d", "a/d/b"]),
            ("x[]-a]", &["x]", "x^", "xa"], &["xb"]),
            ("x[a-]", &["xa", "x-"], &["xb"]),
            ("x[^a]", &["xb"], &["xa"]),
            (r"x\*y", &["x*y"], &["xzy"]),
            (r"x[\]]", &["x]"], &["x"]),
            (r"\{a\}", &["{a}"], &["a"]),
        ] {
            for path in yes {
                assert!(matches(glob, path), "{glob} means {path}");
            }
            for path in no {
                assert!(!matches(glob, path), "{glob} does not mean {path}");
            }
        }
        assert!(!Glob::parse("**").unwrap().matches(&SecretPath::root()));
    }

    #[test]
    fn what_is_reserved_has_to_be_written_out() {
        for name in RESERVED {
            let path = format!("{name}/x");
            assert!(matches(&format!("{name}/*"), &path) && matches(&format!("{name}/**"), &path));
            assert!(matches(&path, &path));
            for glob in ["*/x", "**", "**/x", "?*/x", &format!("[{}]{}/x", &name[..1], &name[1..])] {
                assert!(!matches(glob, &path), "{glob} does not mean {path}");
            }
            assert!(matches("a/**", &format!("a/{name}/x")), "it is the tree's own folder that is meant");
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for (text, why) in [
            ("", GlobError::Empty),
            ("/a", GlobError::Absolute),
            ("a/", GlobError::EmptyName),
            ("a//b", GlobError::EmptyName),
            ("a/../b", PathError::NotAName.into()),
            (r"a/\.\./b", PathError::NotAName.into()),
            ("./a", PathError::NotAName.into()),
            ("a\0*", PathError::Nul.into()),
            ("a\0", PathError::Nul.into()),
            ("a**", GlobError::Stars),
            ("***", GlobError::Stars),
            ("a[b", GlobError::Class),
            ("a[]", GlobError::Class),
            ("a[!]", GlobError::Class),
            ("a[b/c]", GlobError::Class),
            ("a[b-a]", GlobError::Range),
            ("a\\", GlobError::Escape),
            ("{a,b}", GlobError::Brace),
            (&"x/".repeat(64), GlobError::EmptyName),
            (&format!("{}x", "x/".repeat(64)), PathError::TooLong.into()),
            (&"x".repeat(256), PathError::TooLong.into()),
            (&"?".repeat(4096), PathError::TooLong.into()),
        ] {
            assert_eq!(Glob::parse(text), Err(why), "{text:?}");
        }
    }

    #[test]
    fn hostile_patterns_end_soon() {
        let begun = std::time::Instant::now();
        assert!(!matches(&"*a".repeat(2000), &"a".repeat(255)));
        assert!(!matches(&format!("{}b", "**/a/".repeat(31)), &["a"; 64].join("/")));
        assert!(begun.elapsed().as_secs() < 2, "{:?}", begun.elapsed());
    }

    proptest! {
        /// Name by name it is what globset says of the same pattern.
        #[test]
        fn names_match_as_another_implementation_has_it(
            glob in "([ab.*?-]|\\[!?[ab][ab-]?[ab]?\\]){1,6}",
            names in prop::collection::vec("[ab.-]{1,5}", 20),
        ) {
            let theirs = globset::GlobBuilder::new(&glob).literal_separator(true).build();
            if let (Ok(ours), Ok(theirs)) = (Glob::parse(&glob), theirs) {
                let theirs = theirs.compile_matcher();
                for name in names.iter().filter(|n| !matches!(n.as_str(), "." | "..")) {
                    let path = SecretPath::parse(name).unwrap();
                    prop_assert_eq!(ours.matches(&path), theirs.is_match(name), "{} on {}", glob, name);
                }
            }
        }

        /// And so over several names.
        #[test]
        fn paths_match_as_another_implementation_has_it(
            glob in "([ab*?]|\\*\\*)(/([ab*?]|\\*\\*)){0,5}",
            paths in prop::collection::vec("[ab](/[ab]){0,6}", 20),
        ) {
            let ours = Glob::parse(&glob).unwrap();
            let theirs = globset::GlobBuilder::new(&glob).literal_separator(true).build().unwrap().compile_matcher();
            for path in paths {
                let parsed = SecretPath::parse(&path).unwrap();
                prop_assert_eq!(ours.matches(&parsed), theirs.is_match(&path), "{} on {}", glob, path);
            }
        }
    }
}
