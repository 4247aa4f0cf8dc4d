//! Mail to an admin, by the system's sendmail(8).
//!
//! Owns the message's form. Nothing in it can become a header or another recipient: what would is refused.

use super::error::DeliveryError;
use super::run::{Cancel, Program};
use super::{safe, sftp};
use std::path::Path;
use std::time::Duration;
use thiserror::Error;

/// Where sendmail(8) is, whichever mailer brings it.
pub const SENDMAIL: &str = "/usr/sbin/sendmail";
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

/// Hands a message to the mailer: plain text, to one address (`root`, `ops@example.org`). A body is cut at 64 KiB.
///
/// # Errors
/// [`MailError`].
pub fn send(to: &str, subject: &str, body: &str) -> Result<(), MailError> {
    send_by(Path::new(SENDMAIL), to, subject, body, &Cancel::new().map_err(|e| DeliveryError::io("an event", e))?)
}

/// As [`send`], by this program.
fn send_by(sendmail: &Path, to: &str, subject: &str, body: &str, cancel: &Cancel) -> Result<(), MailError> {
    let message = message(to, subject, body)?;
    safe::program(sendmail, Path::new("/nonexistent"))?;
    let what = format!("sendmail to {to}");
    let stdin = sftp::rewound(&message).map_err(|e| DeliveryError::io(&what, e))?;
    let program = Program {
        what,
        path: sendmail,
        args: vec!["-t".into(), "-i".into()],
        env: Vec::new(),
        stdin: Some(stdin),
        stdout: None,
        keep: None,
        file_max: None,
        within: WITHIN,
    };
    program.run(cancel)?;
    Ok(())
}

fn message(to: &str, subject: &str, body: &str) -> Result<String, MailError> {
    // Atoms and dots, once around an @: no lists, comments, quotes or routes, and no option.
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._+-@=%".contains(&b);
    let single = (1..=254).contains(&to.len())
        && to.bytes().all(plain)
        && to.matches('@').count() <= 1
        && !to.starts_with(['@', '-', '.'])
        && !to.ends_with('@');
    if !single {
        return Err(MailError::Address(to.chars().take(80).collect()));
    }
    if subject.len() > 200 || subject.chars().any(char::is_control) {
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
    use std::os::unix::fs::PermissionsExt;

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
        std::fs::write(&program, format!("#!/bin/sh\n{{ echo \"$@\"; cat; }} > {}\n", got.display())).unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        let cancel = Cancel::new().unwrap();
        send_by(&program, "root", "delivered", &"line\n".repeat(10_000), &cancel).unwrap();
        let got = std::fs::read_to_string(got).unwrap();
        assert!(got.starts_with("-t -i\nTo: root\nSubject: delivered\n"));
        assert!(got.ends_with("line\nline\n\n") && got.len() > 50_000);
        std::fs::write(&program, "#!/bin/sh\necho no such user >&2; exit 67\n").unwrap();
        let error = send_by(&program, "root", "x", "y", &cancel).unwrap_err().to_string();
        assert_eq!(error, "sendmail to root ended with exit status 67: no such user");
        assert!(send_by(Path::new("/nonexistent/sendmail"), "root", "x", "y", &cancel).is_err());
    }
}
