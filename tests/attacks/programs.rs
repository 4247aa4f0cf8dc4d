//! The programs of the attacks, brought to where every uid may run them.

use crate::common::{Daemon, Out, User, sh};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Where the sources are.
const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/attacks/programs");

/// The command that runs a program of Python.
#[track_caller]
pub fn python(daemon: &Daemon, name: &str) -> String {
    let at = daemon.file(name);
    std::fs::copy(Path::new(SOURCES).join(name), &at).expect("the source of the program");
    std::fs::set_permissions(&at, PermissionsExt::from_mode(0o644)).expect("it is ours");
    format!("/usr/bin/python3 {}", at.display())
}

/// The command that runs a program of C, compiled.
#[track_caller]
pub fn compiled(daemon: &Daemon, name: &str) -> String {
    let at = daemon.file(name.strip_suffix(".c").expect("a source of C"));
    sh(&format!("cc -O1 -o {} {SOURCES}/{name} && chmod 755 {}", at.display(), at.display())).quiet();
    at.display().to_string()
}

/// What a program printed: its process id, and a line for each attempt.
pub struct Ran {
    pub pid: u32,
    lines: Vec<(String, String)>,
    text: String,
}

impl Ran {
    /// Of a program that ended well.
    #[track_caller]
    pub fn of(out: Out) -> Self {
        let text = out.ok().text();
        let mut lines: Vec<(String, String)> =
            text.lines().filter_map(|l| l.split_once(' ')).map(|(a, b)| (a.to_owned(), b.to_owned())).collect();
        let at = lines.iter().position(|(what, _)| what == "pid").unwrap_or_else(|| panic!("no process id: {text}"));
        let pid = lines.remove(at).1.parse().expect("a process id");
        Ran { pid, lines, text }
    }

    /// Run as somebody.
    #[track_caller]
    pub fn by(user: User, command: &str) -> Self {
        Self::of(user.sh(command))
    }

    /// What came of an attempt.
    #[track_caller]
    pub fn came(&self, attempt: &str) -> &str {
        let found = self.lines.iter().find(|(what, _)| what == attempt);
        found.map(|(_, came)| came.as_str()).unwrap_or_else(|| panic!("nothing of {attempt}: {}", self.text))
    }
}
