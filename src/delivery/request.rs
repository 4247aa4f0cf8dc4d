//! Handing the request for a certificate to whoever signs it. A request is public.
//!
//! Owns who that may be, and what the file is called there. Makes no request, and waits for no answer.

use super::error::DeliveryError;
use super::mail::{self, MailError};
use super::run::Cancel;
use super::target::{Sftp, Target, TargetError};
use super::{Settings, sftp};
use crate::model::{HostName, is_mail_address};
use thiserror::Error;

/// The longest request that goes by mail, in bytes: a message is cut where it is too long, and half a request is none.
const MAILED_MAX: usize = 32 << 10;

/// Who gets a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestTo {
    /// A mailbox.
    Mail(String),
    /// A folder at a host, where it becomes `HOST.csr`.
    Sftp(Sftp),
}

/// Why nobody got a request.
#[derive(Debug, Error)]
pub enum RequestError {
    /// The mailer does not take it.
    #[error(transparent)]
    Mail(#[from] MailError),
    /// The host does not.
    #[error(transparent)]
    Delivery(#[from] DeliveryError),
    /// Over 32 KiB.
    #[error("the request is too long for a mail")]
    TooLong,
}

impl RequestTo {
    /// `sftp://USER@HOST[:PORT]/FOLDER` or `mail:ADDRESS`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let says = || "a request goes to sftp://USER@HOST[:PORT]/FOLDER or mail:ADDRESS".to_owned();
        if let Some(address) = text.strip_prefix("mail:") {
            return if is_mail_address(address) { Ok(RequestTo::Mail(address.to_owned())) } else { Err(says()) };
        }
        match Target::parse(text) {
            Ok(Target::Sftp(to)) => Ok(RequestTo::Sftp(to)),
            Ok(Target::Folder(_) | Target::Program(_)) | Err(TargetError::Scheme) => Err(says()),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// Hands it over, once. A host sees it under its name only when it is whole; one that is there already is replaced.
///
/// # Errors
/// [`RequestError`].
pub fn hand_over(
    to: &RequestTo,
    host: &HostName,
    request: &str,
    settings: &Settings,
    cancel: &Cancel,
) -> Result<(), RequestError> {
    match to {
        RequestTo::Mail(to) => mail_request(to, host, "", request, settings),
        RequestTo::Sftp(to) => Ok(sftp::put_text(to, &format!("{host}.csr"), request, settings, cancel)?),
    }
}

/// Mails it behind some words of introduction.
///
/// # Errors
/// [`RequestError`].
pub fn mail_request(
    to: &str,
    host: &HostName,
    words: &str,
    request: &str,
    settings: &Settings,
) -> Result<(), RequestError> {
    if request.len() > MAILED_MAX {
        return Err(RequestError::TooLong);
    }
    Ok(mail::send(to, &mail::subject("Certificate request for", host), &format!("{words}{request}"), settings)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_goes_to_a_folder_at_a_host_or_to_a_mailbox() {
        let sftp = RequestTo::parse("sftp://ca@ca.example.org:2222/in/").unwrap();
        let RequestTo::Sftp(to) = sftp else { panic!("{sftp:?}") };
        assert_eq!((to.destination().as_str(), to.file("web.csr").as_str()), ("ca@ca.example.org", "/in/web.csr"));
        assert_eq!(RequestTo::parse("mail:ca@example.org").unwrap(), RequestTo::Mail("ca@example.org".into()));
        for bad in [
            "",
            "ca",
            "ftp://h/x",
            "dir:/srv/in",
            "exec:/bin/true",
            "sftp://",
            "sftp://h",
            "sftp://h/x",
            "sftp://u@-oX/x",
            "sftp://u@h/a b",
            "sftp://u@h/a\n!sh",
            "sftp://u@h:x/y",
            "mail:",
            "mail:a b",
            "mail:-f",
            "mail:a@b@c",
        ] {
            assert!(RequestTo::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn half_a_request_is_not_mailed() {
        let (host, settings) = (HostName::parse("web").unwrap(), Settings::default());
        let long = "x".repeat(MAILED_MAX + 1);
        assert!(matches!(mail_request("root", &host, "", &long, &settings), Err(RequestError::TooLong)));
    }
}
