//! What tests need, those of the modules and those of `tests/`.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// A program that anybody may run. Another process writes it: a child that some other thread is about to start would hold a file of
/// this process open for a moment, and the kernel runs no program that somebody may still write (ETXTBSY).
#[track_caller]
pub fn program(path: &Path, text: &str) {
    let mut install = Command::new("install");
    install.args(["-m", "755", "/dev/stdin"]).arg(path).stdin(Stdio::piped());
    let mut child = install.spawn().expect("coreutils are installed");
    child.stdin.take().expect("it was asked for").write_all(text.as_bytes()).expect("install reads it");
    assert!(child.wait().expect("it is our child").success(), "{}", path.display());
}
