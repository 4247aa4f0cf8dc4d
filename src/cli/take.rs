//! Taking secrets in: from stdin, from a file, from the terminal, straight into locked memory.
//!
//! Owns the rules: a passphrase is the bytes of its file less one newline at the end, a content is all of stdin.

use super::Failure;
use super::args::{Key, OldKey};
use super::prompt;
use crate::config::Config;
use crate::control::client;
use crate::exit::Exit;
use crate::secret::Secret;
use crate::wire::UnlockWith;
use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::os::fd::AsFd;
use std::path::Path;

/// The longest passphrase or identity, in bytes.
pub const KEY_MAX: usize = 64 << 10;

/// All of a stream, `limit` bytes at most. Gives `None` if there is more.
pub fn all(from: &mut impl Read, limit: usize) -> Result<Option<Secret>, Failure> {
    let mut secret = Secret::zeroed(0)?;
    loop {
        let filled = secret.len();
        let room = (limit + 1 - filled).min(64 << 10);
        secret.resize(filled + room)?;
        let read = loop {
            match from.read(&mut secret.expose_mut()[filled..]) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        let read = read.map_err(|e| Failure::new(Exit::Failed, format!("cannot read: {e}")))?;
        secret.resize(filled + read)?;
        match read {
            0 => return Ok(Some(secret)),
            _ if secret.len() > limit => return Ok(None),
            _ => {}
        }
    }
}

/// stdin without the standard library's buffer, in which a secret would stay.
pub fn stdin() -> Result<File, Failure> {
    let fd = io::stdin().as_fd().try_clone_to_owned();
    Ok(File::from(fd.map_err(|e| Failure::new(Exit::Failed, format!("cannot read stdin: {e}")))?))
}

/// A file that was named and cannot be opened or read.
pub fn unreadable(error: io::Error, shown: &str) -> Failure {
    let exit = match error.kind() {
        io::ErrorKind::NotFound => Exit::NotFound,
        io::ErrorKind::PermissionDenied => Exit::Refused,
        _ => Exit::Failed,
    };
    Failure::new(exit, error.to_string().to_lowercase()).about(shown)
}

/// A small file that holds a key; `-` is stdin.
fn file(path: &Path) -> Result<Secret, Failure> {
    let shown = path.display().to_string();
    let fail = |e| unreadable(e, &shown);
    let mut from = if path == Path::new("-") { stdin()? } else { File::open(path).map_err(fail)? };
    let secret = all(&mut from, KEY_MAX).map_err(|f| f.about(&shown))?;
    secret.ok_or_else(|| Failure::usage(format!("{shown}: longer than {KEY_MAX} bytes, that is no key")))
}

/// A passphrase: verbatim, less one newline at the end.
pub fn passphrase(path: &Path) -> Result<Secret, Failure> {
    let mut secret = file(path)?;
    if secret.expose().last() == Some(&b'\n') {
        secret.resize(secret.len() - 1)?;
    }
    if secret.is_empty() {
        return Err(Failure::usage(format!("{}: the passphrase is empty", path.display())));
    }
    Ok(secret)
}

/// What was named on the command line, if anything.
pub fn named(key: &Key) -> Result<Option<UnlockWith>, Failure> {
    Ok(Some(match key {
        Key { passphrase_file: Some(f), .. } => UnlockWith::Passphrase(passphrase(f)?),
        Key { keyfile: Some(f), .. } => UnlockWith::Identity(file(f)?),
        Key { recovery: Some(f), .. } => UnlockWith::Recovery(file(f)?),
        Key { passphrase_file: None, keyfile: None, recovery: None } => return Ok(None),
    }))
}

/// What was named on the command line, else what is configured.
pub fn named_or_configured(key: &Key, config: &Config) -> Result<Option<UnlockWith>, Failure> {
    if let Some(with) = named(key)? {
        return Ok(Some(with));
    }
    Ok(match (&config.unlock.passphrase_file, &config.unlock.keyfile) {
        (Some(f), _) => Some(UnlockWith::Passphrase(passphrase(f)?)),
        (None, Some(f)) => Some(UnlockWith::Identity(file(f)?)),
        (None, None) => None,
    })
}

/// What the command is to prove itself with, if that was asked for. An empty name is the terminal.
pub fn proof(passphrase_file: Option<&Path>, keyfile: Option<&Path>) -> Result<Option<UnlockWith>, Failure> {
    Ok(match (passphrase_file, keyfile) {
        (Some(f), _) if f.as_os_str().is_empty() => {
            Some(UnlockWith::Passphrase(prompt::ask("The store's passphrase: ")?))
        }
        (Some(f), _) => Some(UnlockWith::Passphrase(passphrase(f)?)),
        (None, Some(f)) => Some(UnlockWith::Identity(file(f)?)),
        (None, None) => None,
    })
}

/// What opens the identity now: named, else the configured key file, else typed.
pub fn old(key: &OldKey, config: &Config) -> Result<UnlockWith, Failure> {
    Ok(match (&key.old_passphrase_file, &key.old_keyfile, &config.unlock.keyfile) {
        (Some(f), _, _) => UnlockWith::Passphrase(passphrase(f)?),
        (None, Some(f), _) | (None, None, Some(f)) => UnlockWith::Identity(file(f)?),
        (None, None, None) => UnlockWith::Passphrase(prompt::ask("The passphrase as it is: ")?),
    })
}

/// A new passphrase: from the named file, else typed twice.
pub fn new_passphrase(path: Option<&Path>) -> Result<Secret, Failure> {
    path.map_or_else(|| prompt::ask_twice("The new passphrase: "), passphrase)
}

/// The same, else what is typed.
pub fn key(key: &Key, config: &Config) -> Result<UnlockWith, Failure> {
    match named_or_configured(key, config)? {
        Some(with) => Ok(with),
        None => Ok(UnlockWith::Passphrase(prompt::ask("Passphrase: ")?)),
    }
}

/// What proves it, or opens a store that nobody serves: what `--prove` and `--prove-keyfile` gave, else as [`key`].
pub fn key_or_proof(options: &Key, config: &Config) -> Result<UnlockWith, Failure> {
    match client::proof()? {
        None => key(options, config),
        Some(proof) if named(options)?.is_none() => Ok(proof),
        Some(_) => Err(Failure::usage("what opens the store is given twice, once by --prove").hint("give one of them")),
    }
}

/// A content, from stdin; typed in one line, unseen, if that is a terminal.
pub fn content(config: &Config) -> Result<Secret, Failure> {
    if io::stdin().is_terminal() {
        return prompt::ask("Secret (one line, not shown): ");
    }
    let limit = usize::try_from(config.max_secret_size).unwrap_or(usize::MAX / 4);
    all(&mut stdin()?, limit)?.ok_or_else(|| {
        Failure::new(Exit::Refused, format!("the secret is larger than max_secret_size, {limit} bytes"))
            .hint("raise max_secret_size in the configuration, 16MiB at most")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_taken_whole_or_not_at_all() {
        let bytes: Vec<u8> = (0..200_000u32).map(|n| n as u8).collect();
        assert_eq!(all(&mut &bytes[..], 200_000).unwrap().unwrap().expose(), bytes);
        assert!(all(&mut &bytes[..], 199_999).unwrap().is_none());
        assert!(all(&mut io::repeat(1), 4096).unwrap().is_none());
        assert!(all(&mut io::empty(), 4096).unwrap().unwrap().is_empty());
    }

    #[test]
    fn a_passphrase_loses_one_newline_and_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let f = dir.path().join("p");
        for (bytes, is) in
            [(&b"open sesame\n"[..], &b"open sesame"[..]), (b" x \n\n", b" x \n"), (b"\xff\0", b"\xff\0")]
        {
            std::fs::write(&f, bytes).unwrap();
            assert_eq!(passphrase(&f).unwrap().expose(), is);
        }
        for empty in [&b""[..], b"\n"] {
            std::fs::write(&f, empty).unwrap();
            assert_eq!(passphrase(&f).unwrap_err().exit(), Exit::Usage);
        }
        std::fs::write(&f, vec![b'x'; KEY_MAX + 1]).unwrap();
        assert_eq!(passphrase(&f).unwrap_err().exit(), Exit::Usage);
        assert_eq!(passphrase(&dir.path().join("missing")).unwrap_err().exit(), Exit::NotFound);
    }

    #[test]
    fn the_command_line_wins_over_the_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::write(&a, "from a\n").unwrap();
        std::fs::write(&b, "AGE-SECRET-KEY-1\n").unwrap();
        let mut config = Config::default();
        assert!(named_or_configured(&Key::default(), &config).unwrap().is_none());
        config.unlock.passphrase_file = Some(a);
        let from_config = named_or_configured(&Key::default(), &config).unwrap().unwrap();
        assert!(matches!(from_config, UnlockWith::Passphrase(p) if p.expose() == b"from a"));
        let key = Key { recovery: Some(b), ..Key::default() };
        let typed = named_or_configured(&key, &config).unwrap().unwrap();
        assert!(matches!(typed, UnlockWith::Recovery(p) if p.expose() == b"AGE-SECRET-KEY-1\n"));
    }
}
