//! Names and paths within the tree.

use serde::{Deserialize, Serialize};
use std::fmt;
use thiserror::Error;

/// The longest name, in bytes.
const NAME_MAX: usize = 255;
/// The longest path, in bytes, as PATH_MAX less its NUL.
const PATH_MAX: usize = 4095;
/// The deepest nesting of directories.
const DEPTH_MAX: usize = 64;

/// Why bytes are no name or path of the tree.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub enum PathError {
    /// Empty, `.` or `..`, or with a slash.
    #[error("an empty name, '.', '..' and '/' cannot name a file")]
    NotAName,
    /// With a NUL byte.
    #[error("a name cannot hold a NUL byte")]
    Nul,
    /// Not UTF-8: names are shown in logs and JSON.
    #[error("names are UTF-8")]
    NotUtf8,
    /// Over 255 bytes for a name, 4095 for a path, or 64 levels.
    #[error("the name or path is too long")]
    TooLong,
}

/// One component of a path: 1 to 255 bytes of UTF-8, no slash, no NUL, not `.` or `..`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(Box<str>);

impl Name {
    /// Checks bytes from the kernel or a user.
    ///
    /// # Errors
    /// [`PathError`] says what is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, PathError> {
        if bytes.len() > NAME_MAX {
            return Err(PathError::TooLong);
        }
        if bytes.contains(&0) {
            return Err(PathError::Nul);
        }
        let name = std::str::from_utf8(bytes).map_err(|_| PathError::NotUtf8)?;
        if matches!(name, "" | "." | "..") || name.contains('/') {
            return Err(PathError::NotAName);
        }
        Ok(Name(name.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Name {
    type Error = PathError;
    fn try_from(s: String) -> Result<Self, PathError> {
        Name::parse(s.as_bytes())
    }
}

impl From<Name> for String {
    fn from(n: Name) -> String {
        n.0.into()
    }
}

/// A path within the tree, relative to its root, without `.` or `..`; the empty path is the root.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecretPath(Vec<Name>);

impl SecretPath {
    /// Parses `svc/pin`, `/svc/pin`, or `./svc//pin`: repeated and leading slashes and `.` count for nothing.
    ///
    /// # Errors
    /// [`PathError`] for `..`, a NUL, or anything too long.
    pub fn parse(path: &str) -> Result<Self, PathError> {
        if path.len() > PATH_MAX {
            return Err(PathError::TooLong);
        }
        let names: Result<Vec<_>, _> =
            path.split('/').filter(|c| !matches!(*c, "" | ".")).map(|c| Name::parse(c.as_bytes())).collect();
        let path = SecretPath(names?);
        if path.0.len() > DEPTH_MAX { Err(PathError::TooLong) } else { Ok(path) }
    }

    /// As [`SecretPath::parse`], with the mount point before it allowed: `/run/secrets/svc/pin` is `svc/pin`.
    ///
    /// # Errors
    /// As [`SecretPath::parse`].
    pub fn parse_below(path: &str, mountpoint: &str) -> Result<Self, PathError> {
        let mount = mountpoint.trim_end_matches('/');
        match path.strip_prefix(mount) {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => Self::parse(rest),
            _ => Self::parse(path),
        }
    }

    /// The root.
    pub fn root() -> Self {
        SecretPath(Vec::new())
    }

    /// Its components, outermost first.
    pub fn names(&self) -> &[Name] {
        &self.0
    }

    /// The directory and the name in it; `None` for the root.
    pub fn split_last(&self) -> Option<(SecretPath, &Name)> {
        let (last, front) = self.0.split_last()?;
        Some((SecretPath(front.to_vec()), last))
    }

    /// This path and one name more.
    ///
    /// # Errors
    /// [`PathError::TooLong`] beyond 4095 bytes or 64 levels.
    pub fn join(&self, name: &Name) -> Result<Self, PathError> {
        let mut names = self.0.clone();
        names.push(name.clone());
        let bytes: usize = names.iter().map(|n| n.as_str().len() + 1).sum();
        if names.len() > DEPTH_MAX || bytes > PATH_MAX + 1 { Err(PathError::TooLong) } else { Ok(SecretPath(names)) }
    }

    /// Builds the path from components that were checked, outermost first.
    pub fn from_names(names: Vec<Name>) -> Self {
        SecretPath(names)
    }

    /// Whether it is the root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for SecretPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, name) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("/")?;
            }
            f.write_str(name.as_str())?;
        }
        Ok(())
    }
}

impl TryFrom<String> for SecretPath {
    type Error = PathError;
    fn try_from(s: String) -> Result<Self, PathError> {
        Self::parse(&s)
    }
}

impl From<SecretPath> for String {
    fn from(p: SecretPath) -> String {
        p.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_with_and_without_the_mount_point_are_the_same() {
        for same in ["svc/pin", "/run/secrets/svc/pin", "/run/secrets//svc/./pin", "./svc/pin"] {
            assert_eq!(SecretPath::parse_below(same, "/run/secrets/").unwrap().to_string(), "svc/pin");
        }
        assert!(SecretPath::parse_below("/run/secrets", "/run/secrets").unwrap().is_root());
        assert_eq!(SecretPath::parse_below("/run/secretsx", "/run/secrets").unwrap().to_string(), "run/secretsx");
    }

    #[test]
    fn hostile_names_are_refused() {
        assert_eq!(SecretPath::parse("a/../b"), Err(PathError::NotAName));
        assert_eq!(SecretPath::parse("a\0b"), Err(PathError::Nul));
        assert_eq!(SecretPath::parse(&"x".repeat(256)), Err(PathError::TooLong));
        assert_eq!(SecretPath::parse(&"x/".repeat(65)), Err(PathError::TooLong));
        assert_eq!(SecretPath::parse(&"/".repeat(4096)), Err(PathError::TooLong));
        assert_eq!(Name::parse(b"\xff"), Err(PathError::NotUtf8));
        assert_eq!(Name::parse(b"a/b"), Err(PathError::NotAName));
    }
}
