//! Where bundles go, as a line of the policy says it.
//!
//! Owns what such an address may hold. What passes here cannot be taken for an option by ssh, nor for more than one word
//! or a pattern by sftp's commands.

use std::fmt;
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// The longest address, in bytes.
const MAX: usize = 1024;

/// Text that is no address.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub enum TargetError {
    /// Neither of the three.
    #[error("an address is dir:/PATH, sftp://USER@HOST[:PORT]/PATH or exec:/PROGRAM")]
    Scheme,
    /// Not absolute, or with `..`.
    #[error("the path is absolute, without '.' or '..'")]
    Path,
    /// A path at a host that sftp could misread.
    #[error("a path at a host has A-Z a-z 0-9 / . _ - + = @ % , alone, and no name that begins with '-'")]
    RemotePath,
    /// No user, or none ssh could take.
    #[error("the user is 1 to 64 of A-Z a-z 0-9 . _ -, and does not begin with '-' or '.'")]
    User,
    /// No host.
    #[error("the host is a name, an IPv4 address, or an IPv6 address in brackets")]
    Host,
    /// Not 1 to 65535.
    #[error("the port is a number from 1 to 65535")]
    Port,
    /// Over 1024 bytes, or with a control character.
    #[error("the address is too long, or has control characters")]
    Text,
}

/// Where bundles go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A folder of this machine.
    Folder(PathBuf),
    /// A folder at a host, over SFTP.
    Sftp(Sftp),
    /// Wherever a program brings them.
    Program(PathBuf),
}

/// A folder at a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sftp {
    /// Who logs in.
    user: String,
    /// A name or an address; IPv6 in brackets.
    host: String,
    port: Option<u16>,
    /// Absolute, as the server shows it, without a slash at the end; empty for its root. Or `~/…`, from where the login
    /// begins.
    path: String,
}

impl Target {
    /// Reads an address.
    ///
    /// # Errors
    /// [`TargetError`] says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, TargetError> {
        if text.len() > MAX || text.chars().any(char::is_control) {
            return Err(TargetError::Text);
        }
        if let Some(path) = text.strip_prefix("dir:") {
            return local(path).map(Target::Folder);
        }
        if let Some(path) = text.strip_prefix("exec:") {
            return local(path).map(Target::Program);
        }
        text.strip_prefix("sftp://").ok_or(TargetError::Scheme).and_then(Sftp::parse).map(Target::Sftp)
    }
}

fn local(text: &str) -> Result<PathBuf, TargetError> {
    let plain = text.starts_with('/') && text.len() > 1 && !text.split('/').any(|name| matches!(name, "." | ".."));
    if plain { Ok(Path::new(text).components().collect()) } else { Err(TargetError::Path) }
}

impl Sftp {
    fn parse(text: &str) -> Result<Self, TargetError> {
        let (login, path) = text.split_once('/').ok_or(TargetError::Path)?;
        let (user, machine) = login.split_once('@').ok_or(TargetError::User)?;
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if user.is_empty() || user.len() > 64 || user.starts_with(['-', '.']) || !user.bytes().all(plain) {
            return Err(TargetError::User);
        }
        let (host, port) = match machine.strip_prefix('[') {
            Some(rest) => {
                let (address, after) = rest.split_once(']').ok_or(TargetError::Host)?;
                let address: Ipv6Addr = address.parse().map_err(|_| TargetError::Host)?;
                let port = match after.strip_prefix(':') {
                    None if after.is_empty() => None,
                    None => return Err(TargetError::Host),
                    port => port,
                };
                (format!("[{address}]"), port)
            }
            None => {
                let (name, port) = machine.split_once(':').map_or((machine, None), |(name, port)| (name, Some(port)));
                let whole = (1..=253).contains(&name.len())
                    && name.as_bytes()[0].is_ascii_alphanumeric()
                    && name.bytes().all(plain)
                    && !name.contains("..");
                if !whole {
                    return Err(TargetError::Host);
                }
                (name.to_owned(), port)
            }
        };
        let port = match port {
            None => None,
            Some(digits) if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) => {
                return Err(TargetError::Port);
            }
            Some(digits) => Some(digits.parse().ok().filter(|port| *port > 0).ok_or(TargetError::Port)?),
        };
        Ok(Sftp { user: user.to_owned(), host, port, path: remote(path)? })
    }

    /// `user@host`, as sftp(1) takes it.
    pub(super) fn destination(&self) -> String {
        format!("{}@{}", self.user, self.host)
    }

    pub(super) fn port(&self) -> Option<u16> {
        self.port
    }

    /// The path of a file in the folder, as sftp's commands take it: without anything to quote.
    pub(super) fn file(&self, name: &str) -> String {
        match self.path.strip_prefix("~/") {
            Some("") => name.to_owned(),
            Some(below) => format!("{below}/{name}"),
            None => format!("{}/{name}", self.path),
        }
    }
}

/// What follows the slash after the host.
fn remote(path: &str) -> Result<String, TargetError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-+=@%,".contains(&b);
    let (home, below) = match path.strip_prefix("~/") {
        Some(below) => (true, below),
        None if path == "~" => (true, ""),
        None => (false, path),
    };
    if !below.bytes().all(plain) || below.split('/').any(|name| name.starts_with('-')) {
        return Err(TargetError::RemotePath);
    }
    let names: Vec<&str> = below.split('/').filter(|name| !name.is_empty()).collect();
    if names.iter().any(|name| matches!(*name, "." | "..")) {
        return Err(TargetError::Path);
    }
    let names = names.join("/");
    Ok(match (home, names.is_empty()) {
        (true, _) => format!("~/{names}"),
        (false, true) => String::new(),
        (false, false) => format!("/{names}"),
    })
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Folder(path) => write!(f, "dir:{}", path.display()),
            Target::Program(path) => write!(f, "exec:{}", path.display()),
            Target::Sftp(to) => to.fmt(f),
        }
    }
}

impl fmt::Display for Sftp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sftp://{}@{}", self.user, self.host)?;
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        write!(f, "{}{}", if self.path.starts_with('/') { "" } else { "/" }, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written() {
        for (text, shown) in [
            ("dir:/srv/in", "dir:/srv/in"),
            ("dir:/srv//in/", "dir:/srv/in"),
            ("exec:/usr/lib/bring", "exec:/usr/lib/bring"),
            ("sftp://up@h1/inbox", "sftp://up@h1/inbox"),
            ("sftp://up@h1.example.org:2222/a//b/", "sftp://up@h1.example.org:2222/a/b"),
            ("sftp://up@[2001:DB8::1]:22/", "sftp://up@[2001:db8::1]:22/"),
            ("sftp://up@[::1]/in", "sftp://up@[::1]/in"),
            ("sftp://up@10.0.0.1/~/in", "sftp://up@10.0.0.1/~/in"),
        ] {
            let target = Target::parse(text).unwrap();
            assert_eq!(target.to_string(), shown);
            assert_eq!(Target::parse(shown), Ok(target), "it means the same again");
        }
        let file = |text: &str| match Target::parse(text) {
            Ok(Target::Sftp(to)) => to.file("x"),
            other => panic!("{other:?}"),
        };
        assert_eq!(
            [file("sftp://u@h/"), file("sftp://u@h/in"), file("sftp://u@h/~"), file("sftp://u@h/~/a/b")],
            ["/x", "/in/x", "x", "a/b/x"]
        );
    }

    #[test]
    fn nothing_can_become_an_option_or_a_command() {
        for (text, why) in [
            ("", TargetError::Scheme),
            ("file:/x", TargetError::Scheme),
            ("scp://u@h/x", TargetError::Scheme),
            ("dir:", TargetError::Path),
            ("dir:/", TargetError::Path),
            ("dir:in", TargetError::Path),
            ("dir:/a/../b", TargetError::Path),
            ("exec:bring", TargetError::Path),
            ("exec:/a/./b", TargetError::Path),
            ("sftp://u@h", TargetError::Path),
            ("sftp://h/in", TargetError::User),
            ("sftp://@h/in", TargetError::User),
            ("sftp://-oProxyCommand=x@h/in", TargetError::User),
            ("sftp://u:pw@h/in", TargetError::User),
            ("sftp://u;x@h/in", TargetError::User),
            ("sftp://u@-oProxyCommand=x/in", TargetError::Host),
            ("sftp://u@/in", TargetError::Host),
            ("sftp://u@h h/in", TargetError::Host),
            ("sftp://u@h$(x)/in", TargetError::Host),
            ("sftp://u@a@b/in", TargetError::Host),
            ("sftp://u@::1/in", TargetError::Host),
            ("sftp://u@[::1/in", TargetError::Host),
            ("sftp://u@[::1]x/in", TargetError::Host),
            ("sftp://u@[fe80::1%eth0]/in", TargetError::Host),
            ("sftp://u@h:/in", TargetError::Port),
            ("sftp://u@h:0/in", TargetError::Port),
            ("sftp://u@h:65536/in", TargetError::Port),
            ("sftp://u@h:+22/in", TargetError::Port),
            ("sftp://u@h/a b", TargetError::RemotePath),
            ("sftp://u@h/\"x", TargetError::RemotePath),
            ("sftp://u@h/a'b", TargetError::RemotePath),
            ("sftp://u@h/a\\b", TargetError::RemotePath),
            ("sftp://u@h/a*", TargetError::RemotePath),
            ("sftp://u@h/[a]", TargetError::RemotePath),
            ("sftp://u@h/a#b", TargetError::RemotePath),
            ("sftp://u@h/-x", TargetError::RemotePath),
            ("sftp://u@h/a/-x", TargetError::RemotePath),
            ("sftp://u@h/~other/in", TargetError::RemotePath),
            ("sftp://u@h/~/../in", TargetError::Path),
            ("sftp://u@h/a/../b", TargetError::Path),
            ("sftp://u@h/a\nrm x", TargetError::Text),
            ("dir:/a\0b", TargetError::Text),
            (&format!("dir:/{}", "x".repeat(1024)), TargetError::Text),
        ] {
            assert_eq!(Target::parse(text), Err(why), "{text:?}");
        }
    }
}
