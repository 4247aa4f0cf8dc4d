//! A store of pass(1): which file is whose password, and gpg, which opens one after the other.
//!
//! Owns the mapping from paths to names. What gpg says besides the content is not kept.

use super::super::Failure;
use super::Found;
use crate::exit::Exit;
use crate::model::{PASSWORD_MAX, PasswordName};
use crate::run::{End, Manner, Program, Take};
use crate::secret::Secret;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The most entries of a store.
const ENTRIES_MAX: usize = 100_000;
/// How deep folders lie in one another.
const DEPTH_MAX: usize = 16;
/// The largest entry, in bytes: the password is its first line.
const ENTRY_MAX: usize = 64 << 10;

/// The passwords of a store, each opened when it is asked for.
///
/// # Errors
/// Not found, if there is no such folder.
pub fn passwords(folder: Option<PathBuf>) -> Result<impl Iterator<Item = Result<Found, Failure>>, Failure> {
    let folder = match folder.or_else(|| std::env::var_os("PASSWORD_STORE_DIR").map(PathBuf::from)) {
        Some(folder) => folder,
        None => PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".password-store"),
    };
    let mut files = Vec::new();
    walk(&folder, "", 0, &mut files)?;
    files.sort();
    Ok(files.into_iter().map(move |entry| {
        let password = name_of(&entry).and_then(|name| Ok((name, open(&folder.join(format!("{entry}.gpg")))?)));
        Ok(Found { at: entry, password })
    }))
}

/// Paths below the folder, less `.gpg`.
fn walk(folder: &Path, below: &str, depth: usize, into: &mut Vec<String>) -> Result<(), Failure> {
    let fail = |e: std::io::Error| {
        let exit = if e.kind() == std::io::ErrorKind::NotFound { Exit::NotFound } else { Exit::Failed };
        Failure::new(exit, e.to_string().to_lowercase()).about(&folder.display().to_string())
    };
    for entry in std::fs::read_dir(folder.join(below)).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let path = if below.is_empty() { name.clone() } else { format!("{below}/{name}") };
        let kind = entry.file_type().map_err(fail)?;
        if name.starts_with('.') {
            continue;
        }
        if kind.is_dir() && depth < DEPTH_MAX {
            walk(folder, &path, depth + 1, into)?;
        } else if let (false, Some(path)) = (kind.is_dir(), path.strip_suffix(".gpg")) {
            if into.len() >= ENTRIES_MAX {
                return Err(Failure::usage(format!("more than {ENTRIES_MAX} entries; name a folder in it")));
            }
            into.push(path.to_owned());
        }
    }
    Ok(())
}

/// `HOST`, `HOST/USER`, `HOST/SERVICE/USER`; what has an `@` is a name as it is.
fn name_of(entry: &str) -> Result<PasswordName, String> {
    let parts: Vec<&str> = entry.split('/').collect();
    let last = parts.last().copied().unwrap_or_default();
    let name = match parts.as_slice() {
        _ if last.contains('@') => PasswordName::parse(last),
        [host] => PasswordName::parse(host),
        [host, user] => PasswordName::of(user, host, "ssh"),
        [host, service, user] => PasswordName::of(user, host, service),
        _ => return Err("it lies too deep to be HOST/SERVICE/USER".into()),
    };
    name.map_err(|e| e.to_string())
}

/// The first line.
fn open(file: &Path) -> Result<Secret, String> {
    let mut entry = Secret::zeroed(0).map_err(|e| e.to_string())?;
    // It may ask for the key's passphrase at the terminal, and people take their time.
    let gpg = Program::new(Path::new("gpg"), Manner::Foreground, None);
    let args = ["--quiet", "--no-encrypt-to", "--decrypt", "--"].map(OsString::from).into_iter();
    let args = args.chain([file.into()]).collect();
    let stdout = Take::Secret(&mut entry, ENTRY_MAX);
    match (Program { args, stdout, stderr: Take::Nothing, ..gpg }).run().map_err(|e| format!("gpg: {e}"))?.end {
        End::Itself(status) if status.success() => {}
        End::TooMuch => return Err(format!("it has more than {ENTRY_MAX} bytes")),
        End::Lost(e) => return Err(format!("gpg: {e}")),
        End::Itself(_) | End::Late | End::Cancelled => return Err("gpg cannot open it".into()),
    }
    let end = entry.expose().iter().position(|b| *b == b'\n').unwrap_or(entry.len());
    if end > PASSWORD_MAX {
        return Err(format!("its first line has more than {PASSWORD_MAX} bytes"));
    }
    entry.resize(end).map_err(|e| e.to_string())?;
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_a_name_by_its_depth() {
        for (entry, is) in [
            ("ui-1", "root@ui-1:ssh"),
            ("ui-1/admin", "admin@ui-1:ssh"),
            ("ups.example/upsd/nut", "nut@ups.example:upsd"),
            ("work/hosts/admin@ui-1", "admin@ui-1:ssh"),
            ("a/b/c/d/nut@ups:upsd", "nut@ups:upsd"),
        ] {
            assert_eq!(name_of(entry).unwrap().to_string(), is);
        }
        for bad in ["a/b/c/d", "my bank", "ui-1/-x", "a@b@c"] {
            assert!(name_of(bad).is_err(), "{bad}");
        }
    }
}
