//! Reading the file: is it safe to believe, and where exactly is it wrong?
//!
//! Owns the errors and their places. Never writes.

use super::Config;
use crate::exit::Exit;
use crate::trust;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Read when no other file is named; may be missing.
pub const DEFAULT_FILE: &str = "/etc/pinfold/pinfold.toml";
/// The largest file, in bytes.
const FILE_MAX: u64 = 1 << 20;

/// Why there is no configuration.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Somebody else could have written it.
    #[error("{}: {reason}", path.display())]
    Unsafe {
        /// The file.
        path: PathBuf,
        /// Who could.
        reason: String,
    },
    /// A key or a value is wrong.
    #[error("{}:{line}:{column}: {message}: {text}", path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The column in characters, from 1.
        column: usize,
        /// What is wrong.
        message: String,
        /// The line itself, control characters escaped.
        text: String,
    },
    /// Two keys do not go together.
    #[error("configuration: {0}")]
    Conflict(String),
    /// `operator_group` names nobody.
    #[error("configuration: operator_group '{name}': {reason}")]
    NoGroup {
        /// The name.
        name: String,
        /// Why.
        reason: String,
    },
}

impl ConfigError {
    /// How the command ends that met it.
    pub fn exit(&self) -> Exit {
        match self {
            ConfigError::Read { .. }
            | ConfigError::Wrong { .. }
            | ConfigError::Conflict(_)
            | ConfigError::NoGroup { .. } => Exit::Usage,
            ConfigError::Unsafe { .. } => Exit::Refused,
        }
    }
}

pub(super) fn load(file: Option<&Path>) -> Result<Config, ConfigError> {
    let path = file.unwrap_or(Path::new(DEFAULT_FILE));
    let opened = match File::open(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && file.is_none() => return Ok(Config::default()),
        Err(source) => return Err(ConfigError::Read { path: path.into(), source }),
        Ok(opened) => opened,
    };
    let config = parse(path, &read(path, opened)?)?;
    config.check_paths()?;
    Ok(config)
}

/// The text, if nobody but root (or whoever runs this) could have written it. Asked of the open file, so that it is the
/// file that is read.
fn read(path: &Path, file: File) -> Result<String, ConfigError> {
    let failed = |source| ConfigError::Read { path: path.into(), source };
    let refused = |reason: String| ConfigError::Unsafe { path: path.into(), reason };
    let meta = file.metadata().map_err(failed)?;
    if !meta.is_file() {
        return Err(refused("is not a regular file".into()));
    }
    if let Some(other) = trust::other_writer(&meta, trust::Owners::RootOrSelf) {
        return Err(refused(format!("{other}: who writes it says what the daemon does")));
    }
    if meta.len() > FILE_MAX {
        return Err(refused(format!("is larger than {FILE_MAX} bytes")));
    }
    let mut text = String::new();
    file.take(FILE_MAX).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

fn parse(path: &Path, text: &str) -> Result<Config, ConfigError> {
    toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start).min(text.len());
        let start = text[..at].rfind('\n').map_or(0, |n| n + 1);
        let line_text = text[start..].lines().next().unwrap_or_default();
        ConfigError::Wrong {
            path: path.into(),
            line: text[..start].matches('\n').count() + 1,
            column: text[start..at].chars().count() + 1,
            message: in_our_words(error.message()),
            text: line_text
                .trim()
                .chars()
                .flat_map(|c| {
                    if c.is_control() { c.escape_default().to_string() } else { c.to_string() }
                        .chars()
                        .collect::<Vec<_>>()
                })
                .collect(),
        }
    })
}

/// Shorter than the TOML reader says it: the list of all keys helps nobody find one line.
fn in_our_words(message: &str) -> String {
    let first = message.lines().next().unwrap_or_default();
    match first.strip_prefix("unknown field `").and_then(|rest| rest.split_once('`')) {
        // By which members would have been more than they are now.
        Some(("admin_group", _)) => "unknown key 'admin_group': it is operator_group now, and means less".to_owned(),
        Some((key, _)) => format!("unknown key '{key}'"),
        None => first.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn wrong(text: &str) -> (usize, usize, String, String) {
        match parse(Path::new("/etc/p.toml"), text) {
            Err(ConfigError::Wrong { line, column, message, text, .. }) => (line, column, message, text),
            other => panic!("{text:?} gave {other:?}"),
        }
    }

    #[test]
    fn errors_name_the_line_the_column_and_the_text() {
        let (line, column, message, text) = wrong("# x\nstore = \"/a\"\n  stroe = \"/b\" # oops\n");
        assert_eq!((line, column), (3, 3));
        assert_eq!(message, "unknown key 'stroe'");
        assert_eq!(text, "stroe = \"/b\" # oops");
        let (_, _, message, _) = wrong("admin_group = \"adm\"\n");
        assert!(message.contains("operator_group"), "{message}");
        let shown = parse(Path::new("/etc/p.toml"), "stroe = 1").unwrap_err().to_string();
        assert_eq!(shown, "/etc/p.toml:1:1: unknown key 'stroe': stroe = 1");
    }

    #[test]
    fn every_bound_is_kept() {
        for (line, says) in [
            ("keep_versions = 0", "1 to 100"),
            ("keep_versions = 101", "1 to 100"),
            ("keep_versions = -1", "negative"),
            ("max_secret_size = \"4095\"", "4KiB to 16MiB"),
            ("max_secret_size = \"17MiB\"", "4KiB to 16MiB"),
            ("max_secret_size = \"1 MB\"", "a size like"),
            ("max_secrets = 0", "1 to 1000000"),
            ("max_secrets = 1000001", "1 to 1000000"),
            ("audit_max_size = 65535", "64KiB to 16GiB"),
            ("audit_max_size = \"17GiB\"", "64KiB to 16GiB"),
            ("audit_space = \"255KiB\"", "256KiB to 16TiB"),
            ("audit_space = \"17TiB\"", "256KiB to 16TiB"),
            ("unlock_timeout = \"0s\"", "1s to 24h"),
            ("unlock_timeout = \"25h\"", "1s to 24h"),
            ("unlock_timeout = \"soon\"", "a duration like"),
            ("unlock_timeout = 90", "string"),
            ("audit_full = \"ignore\"", "ignore"),
            ("when_locked = \"never\"", "never"),
            ("allow_reveal = \"yes\"", "bool"),
            ("store = \"var/lib\"", "absolute"),
            ("store = \"/var/../etc\"", "absolute"),
            ("operator_group = \"\"", "group"),
            ("store = 3", "invalid type"),
        ] {
            let (n, column, message, text) = wrong(&format!("\n{line}\n"));
            assert_eq!(n, 2, "{line}");
            assert!(column == 1 || column == line.find("= ").unwrap() + 3, "{line}: column {column}");
            assert!(message.contains(says), "{line}: {message}");
            assert_eq!(text, line);
        }
    }

    #[test]
    fn both_ways_to_unlock_are_one_too_many() {
        let (line, _, message, _) = wrong("[unlock]\npassphrase_file = \"/a\"\nkeyfile = \"/b\"\n");
        assert!(line <= 2 && message.contains("keep one"), "{line} {message}");
        assert_eq!(wrong("[unlock]\nkey = \"/b\"\n").0, 2);
    }

    #[test]
    fn syntax_errors_and_bytes_that_would_move_the_cursor() {
        assert_eq!(wrong("a = 1\nb = = 2\n").0, 2);
        let (_, _, _, text) = wrong("x = \"\u{1b}[2J\"");
        assert!(!text.contains('\u{1b}'));
    }

    #[test]
    fn values_are_read() {
        let text = "max_secret_size = \"2MiB\"\naudit_full = \"continue\"\nwhen_locked = \"fail\"\nunlock_timeout = \"2m\"\n\
                    operator_group = \"adm\"\n[unlock]\nkeyfile = \"/k\"\n";
        let config = parse(Path::new("x"), text).unwrap();
        assert_eq!(config.max_secret_size, 2 << 20);
        assert_eq!(config.unlock_timeout.as_secs(), 120);
        assert_eq!(config.operator_group.as_deref(), Some("adm"));
        assert_eq!(config.unlock.keyfile.as_deref(), Some(Path::new("/k")));
    }

    #[test]
    fn a_named_file_must_be_there_and_be_safe() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("p.toml");
        assert!(matches!(load(Some(&file)), Err(ConfigError::Read { .. })));
        std::fs::write(&file, "keep_versions = 7\n").unwrap();
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
        assert_eq!(load(Some(&file)).unwrap().keep_versions, 7);
        for mode in [0o664, 0o646] {
            std::fs::set_permissions(&file, PermissionsExt::from_mode(mode)).unwrap();
            let error = load(Some(&file)).unwrap_err();
            assert!(error.to_string().contains("others can write it"), "{error}");
            assert_eq!(error.exit(), Exit::Refused);
        }
        assert!(matches!(load(Some(dir.path())), Err(ConfigError::Unsafe { .. })));
    }
}
