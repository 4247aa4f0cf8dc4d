//! A program that signs: a request on its standard input, the certificate on its standard output.
//!
//! Owns how it is started and how much is taken of it. What it answers is judged by whoever asked.

use super::error::DeliveryError;
use super::run::{Cancel, Program};
use super::{Settings, safe};
use crate::model::HostName;
use crate::run::Input;
use std::path::Path;

/// The longest answer, in bytes.
const ANSWER_MAX: usize = 1 << 20;

/// What the program answers to a host's request. It has the host as its argument and in `PINFOLD_HOST`, and the HOME and
/// the ssh-agent of whoever runs the command.
///
/// # Errors
/// [`DeliveryError`]: it may not be run, failed, took longer than `settings.program`, or answered more than 1 MiB.
pub fn sign(
    program: &Path,
    host: &HostName,
    request: &str,
    settings: &Settings,
    cancel: &Cancel,
) -> Result<Vec<u8>, DeliveryError> {
    safe::program(program, &settings.mountpoint)?;
    let what = format!("the program {}", program.display());
    let mut env = vec![("PINFOLD_HOST", host.as_str().into())];
    env.extend(std::env::var_os("HOME").map(|home| ("HOME", home)));
    env.extend(settings.agent.iter().map(|socket| ("SSH_AUTH_SOCK", socket.clone().into())));
    let program = Program {
        what,
        path: program,
        args: vec![host.as_str().into()],
        env,
        stdin: Input::Bytes(request.as_bytes()),
        keep: None,
        file_max: None,
        within: settings.program,
    };
    program.run_for_answer(ANSWER_MAX, cancel)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    fn answer(script: &str, request: &str, within: Duration) -> Result<String, String> {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("sign");
        crate::testkit::program(&program, &format!("#!/bin/sh\n{script}\n"));
        let settings = Settings { program: within, ..Settings::default() };
        let host = HostName::parse("web").unwrap();
        let answer = sign(&program, &host, request, &settings, &Cancel::new().unwrap());
        let shown = program.display().to_string();
        answer.map(|a| String::from_utf8(a).unwrap()).map_err(|e| e.to_string().replace(&shown, "P"))
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn it_gets_the_request_and_only_a_good_end_counts() {
        assert_eq!(answer("cat", "hello", LONG).unwrap(), "hello");
        assert_eq!(answer("cat", &"x".repeat(600_000), LONG).unwrap().len(), 600_000);
        assert_eq!(answer("echo $1 $PINFOLD_HOST; echo talk >&2", "", LONG).unwrap(), "web web\n");
        assert_eq!(answer("echo answer; exec <&-", &"x".repeat(1 << 20), LONG).unwrap(), "answer\n");
        let said = answer("echo answer; echo the reason >&2; exit 3", "", LONG).unwrap_err();
        assert_eq!(said, "the program P ended with exit status 3: the reason");
    }

    #[test]
    fn one_that_hangs_talks_too_much_or_leaves_somebody_behind_ends_in_time() {
        let begun = Instant::now();
        let said = answer("sleep 1000 & sleep 1000", "", Duration::from_secs(1)).unwrap_err();
        assert!(said.contains("took longer than 1s"), "{said}");
        let said = answer("yes", "", LONG).unwrap_err();
        assert!(said.contains("answers more than"), "{said}");
        let said = answer("trap '' PIPE; yes 2>/dev/null; sleep 1; exit 0", "", LONG).unwrap_err();
        assert!(said.contains("answers more than"), "{said}");
        // Who still holds its output is not waited for.
        assert_eq!(answer("echo answer; sleep 30 & exit 0", "", LONG).unwrap(), "answer\n");
        assert!(begun.elapsed() < Duration::from_secs(25), "{:?}", begun.elapsed());
    }
}
