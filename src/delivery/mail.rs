//! Mail to an admin, by the system's sendmail(8).
//!
//! Owns the message's form. Nothing in it can become a header or another recipient: what would is refused.

use super::error::DeliveryError;
use super::run::{Cancel, Program};
use super::{Settings, safe};
use crate::model::{HostName, is_mail_address};
use crate::run::Input;
use std::time::Duration;
use thiserror::Error;

/// The longest subject, in bytes.
const SUBJECT_MAX: usize = 200;
/// The longest body, in bytes.
const BODY_MAX: usize = 64 << 10;
/// How long the mailer has to take it.
const WITHIN: Duration = Duration::from_secs(60);

/// Why no mail was sent.
#[derive(Debug, Error)]
pub enum MailError {
    /// It is no single address.
    #[error("'{}' is no mail address", .0.escape_default())]
    Address(String),
    /// It has a control character, or is too long.
    #[error("the subject has control characters, or more than 200 bytes")]
    Subject,
    /// sendmail(8) is not there, or failed.
    #[error(transparent)]
    Program(#[from] DeliveryError),
}

/// Words and a host's name, cut to what a subject may be.
pub fn subject(words: &str, host: &HostName) -> String {
    let mut subject = format!("{words} {host}");
    // Both are ASCII.
    subject.truncate(SUBJECT_MAX);
    subject
}

/// Hands a message to the mailer of the settings: plain text, to one address (`root`, `ops@example.org`). A body is cut at 64 KiB.
///
/// # Errors
/// [`MailError`].
pub fn send(to: &str, subject: &str, body: &str, settings: &Settings) -> Result<(), MailError> {
    let message = message(to, subject, body)?;
    safe::program(&settings.sendmail, &settings.mountpoint)?;
    let cancel = Cancel::new().map_err(|e| DeliveryError::io("an event", e))?;
    let what = format!("sendmail to {to}");
    let program = Program {
        what,
        path: &settings.sendmail,
        args: vec!["-t".into(), "-i".into()],
        env: Vec::new(),
        stdin: Input::Bytes(message.as_bytes()),
        keep: None,
        file_max: None,
        within: WITHIN,
    };
    Ok(program.run(&cancel)?)
}

fn message(to: &str, subject: &str, body: &str) -> Result<String, MailError> {
    if !is_mail_address(to) {
        return Err(MailError::Address(to.chars().take(80).collect()));
    }
    if subject.len() > SUBJECT_MAX || subject.chars().any(char::is_control) {
        return Err(MailError::Subject);
    }
    let subject: String = subject.chars().map(|c| if c.is_ascii() { c } else { '?' }).collect();
    let mut end = body.len().min(BODY_MAX);
    while !body.is_char_boundary(end) {
        end -= 1;
    }
    let body: String = body[..end].chars().filter(|c| matches!(c, '\n' | '\t') || !c.is_control()).collect();
    Ok(format!(
        "To: {to}\nSubject: {subject}\nAuto-Submitted: auto-generated\nMIME-Version: 1.0\n\
         Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\n{body}\n"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_becomes_a_header() {
        for to in ["", "a\nBcc: b@c", "a, b", "a b", "<a@b>", "a@b@c", "-t", "@a", "a@", "a\"b", "a\r", "é@b", "a;b"] {
            assert!(matches!(message(to, "x", "y"), Err(MailError::Address(_))), "{to:?}");
        }
        for subject in ["a\nBcc: b@c", "a\rb", "a\0", &"x".repeat(201)] {
            assert!(matches!(message("root", subject, "y"), Err(MailError::Subject)), "{subject:?}");
        }
        let text = message("ops+x@example.org", "höst", "one\r\n.\n\u{1b}[2Jtwo").unwrap();
        let (head, body) = text.split_once("\n\n").unwrap();
        assert!(head.starts_with("To: ops+x@example.org\nSubject: h?st\nAuto-Submitted: auto-generated\n"), "{head}");
        assert_eq!(body, "one\n.\n[2Jtwo\n");
        assert!(message("root", "x", &"é".repeat(BODY_MAX)).unwrap().len() < BODY_MAX + 300);
    }

    #[test]
    fn the_mailer_gets_the_message() {
        let dir = tempfile::tempdir().unwrap();
        let (program, got) = (dir.path().join("sendmail"), dir.path().join("got"));
        crate::testkit::program(&program, &format!("#!/bin/sh\n{{ echo \"$@\"; cat; }} > {}\n", got.display()));
        let settings = Settings { sendmail: program.clone(), ..Settings::default() };
        send("root", "delivered", &"line\n".repeat(10_000), &settings).unwrap();
        let got = std::fs::read_to_string(got).unwrap();
        assert!(got.starts_with("-t -i\nTo: root\nSubject: delivered\n"));
        assert!(got.ends_with("line\nline\n\n") && got.len() > 50_000);
        crate::testkit::program(&program, "#!/bin/sh\necho no such user >&2; exit 67\n");
        let error = send("root", "x", "y", &settings).unwrap_err().to_string();
        assert_eq!(error, "sendmail to root ended with exit status 67: no such user");
        let none = Settings { sendmail: "/nonexistent/sendmail".into(), ..Settings::default() };
        assert!(send("root", "x", "y", &none).is_err());
        let within = Settings { mountpoint: dir.path().into(), ..settings };
        assert!(send("root", "x", "y", &within).unwrap_err().to_string().contains("tree of secrets"));
        let long = HostName::parse(&"x".repeat(240)).unwrap();
        assert!(message("root", &subject("The certificate of", &long), "y").is_ok());
    }
}
