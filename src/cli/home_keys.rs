//! `pinfold home-keys`: the public keys in users' home directories, for the daemon, which runs it.
//!
//! Somebody's home directory may be of a machine that does not answer, or be full of surprises: what reads it is a
//! short-lived process, and follows no symlink below the home directory itself.

use super::Failure;
use crate::exit::Exit;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::User;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The most users, files of one user, and bytes of one file.
const USERS_MAX: usize = 10_000;
const FILES_MAX: usize = 100;
const FILE_MAX: u64 = 64 << 10;

/// The users' names come on stdin, a line each; their keys go to stdout, as JSON. A user who could not be looked at is
/// left out, one without keys is not.
pub fn home_keys() -> Result<Exit, Failure> {
    let mut names = String::new();
    io::stdin().take((USERS_MAX * 256) as u64).read_to_string(&mut names)?;
    let mut all: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for name in names.lines().filter(|name| !name.is_empty()).take(USERS_MAX) {
        let keys = match User::from_name(name) {
            Ok(Some(user)) => keys_in(&user.dir),
            Ok(None) => Ok(Vec::new()),
            Err(errno) => Err(errno.into()),
        };
        if let Ok(keys) = keys {
            all.insert(name, keys);
        }
    }
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, &all)?;
    out.flush()?;
    Ok(Exit::Ok)
}

/// The text of each `.ssh/*.pub` that is a file; none where there is no such folder.
fn keys_in(home: &Path) -> io::Result<Vec<String>> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let folder = flags | OFlag::O_DIRECTORY;
    let opened = nix::fcntl::open(home, folder, Mode::empty())
        .and_then(|home| openat(home.as_fd(), ".ssh", folder | OFlag::O_NOFOLLOW, Mode::empty()));
    let ssh = match opened.map_err(io::Error::from) {
        Ok(ssh) => ssh,
        // A symlink in the place of the folder is no folder, and none of his keys are there.
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    // The folder that is open, whatever its name means by now.
    for entry in std::fs::read_dir(format!("/proc/self/fd/{}", ssh.as_raw_fd()))? {
        let name = entry?.file_name();
        if name.as_bytes().ends_with(b".pub") {
            names.push(name);
        }
    }
    names.sort();
    let mut keys = Vec::new();
    for name in names.iter().take(FILES_MAX) {
        let Ok(file) = openat(ssh.as_fd(), name.as_os_str(), flags | OFlag::O_NOFOLLOW, Mode::empty()) else {
            continue;
        };
        let file = File::from(file);
        if !file.metadata()?.is_file() {
            continue;
        }
        let mut text = String::new();
        // What is no text, or too long, is no key.
        if file.take(FILE_MAX + 1).read_to_string(&mut text).is_ok() && text.len() as u64 <= FILE_MAX {
            keys.push(text);
        }
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_that_are_his_folder_s_own_are_read() {
        let home = tempfile::tempdir().unwrap();
        assert!(keys_in(home.path()).unwrap().is_empty());
        let ssh = home.path().join(".ssh");
        std::fs::create_dir(&ssh).unwrap();
        std::fs::write(ssh.join("b.pub"), "two").unwrap();
        std::fs::write(ssh.join("a.pub"), "one").unwrap();
        std::fs::write(ssh.join("id"), "private").unwrap();
        std::fs::write(ssh.join("long.pub"), vec![b'x'; 100_000]).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", ssh.join("link.pub")).unwrap();
        nix::unistd::mkfifo(&ssh.join("fifo.pub"), Mode::S_IRUSR).unwrap();
        std::fs::create_dir(ssh.join("dir.pub")).unwrap();
        assert_eq!(keys_in(home.path()).unwrap(), ["one", "two"]);
        let other = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(&ssh, other.path().join(".ssh")).unwrap();
        assert!(keys_in(other.path()).unwrap().is_empty());
    }
}
