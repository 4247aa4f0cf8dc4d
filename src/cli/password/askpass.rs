//! What ssh runs to ask for the password of one login: this program, by the contract of SSH_ASKPASS (ssh(1)).
//!
//! Owns whether a question is the one that is answered. The password comes through the standard input that ssh hands
//! on, and goes to its pipe; nothing of it is in an argument or the environment.

use super::super::take;
use crate::exit::Exit;
use crate::secret::Secret;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;

/// The variable that makes this program answer for ssh: `USER@HOST`, as ssh names it in its question.
pub const ACCOUNT: &str = "PINFOLD_ASKPASS";
/// How much of a user's name ssh puts into its question.
const USER_SHOWN: usize = 30;

/// Answers, if ssh started this program to ask for the password of a login; `None` if it did not.
pub fn answer() -> Option<Exit> {
    let account = std::env::var(ACCOUNT).ok()?;
    let mut args = std::env::args().skip(1);
    let (question, more) = (args.next()?, args.next());
    if more.is_some() {
        return None;
    }
    // A jump host asks through the same variables: it must not get what is another's.
    if !is_for(&question, &account) {
        return Some(Exit::Refused);
    }
    Some(give().unwrap_or(Exit::Failed))
}

fn give() -> io::Result<Exit> {
    // Fails where RLIMIT_MEMLOCK is low, after it has done the rest.
    let _ = crate::sys::process::harden();
    let _ = crate::sys::arena::init(1 << 17);
    let lost = |_| io::Error::other("no password");
    let mut password: Secret = take::all(&mut take::stdin().map_err(lost)?, crate::model::PASSWORD_MAX)
        .map_err(lost)?
        .ok_or(io::ErrorKind::InvalidData)?;
    if password.is_empty() {
        // It was asked for before: the login failed.
        return Ok(Exit::Refused);
    }
    let end = password.len();
    password.resize(end + 1).map_err(io::Error::other)?;
    password.expose_mut()[end] = b'\n';
    // Past the buffer of std's stdout, in which it would stay.
    File::from(io::stdout().as_fd().try_clone_to_owned()?).write_all(password.expose())?;
    Ok(Exit::Ok)
}

/// `USER@HOST's password: `, or `(USER@HOST) Password: ` as PAM asks.
fn is_for(question: &str, account: &str) -> bool {
    let shown = match account.split_once('@') {
        Some((user, host)) => format!("{}@{host}", user.chars().take(USER_SHOWN).collect::<String>()),
        None => return false,
    };
    let rest = [format!("{shown}'s "), format!("({shown}) "), format!("({account}) ")]
        .iter()
        .find_map(|lead| question.strip_prefix(lead.as_str()));
    rest.is_some_and(|rest| rest.trim().eq_ignore_ascii_case("password:"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_login_s_own_question_is_answered() {
        let long = "a-name-of-more-than-thirty-characters";
        for (question, account, whether) in [
            ("root@ui-1's password: ", "root@ui-1", true),
            ("(root@ui-1) Password: ", "root@ui-1", true),
            ("a-name-of-more-than-thirty-cha@h's password: ", &format!("{long}@h"), true),
            (&format!("({long}@h) Password: "), &format!("{long}@h"), true),
            ("admin@jump's password: ", "root@ui-1", false),
            ("root@ui-10's password: ", "root@ui-1", false),
            ("(root@ui-1) New password: ", "root@ui-1", false),
            ("(root@ui-1) Verification code: ", "root@ui-1", false),
            ("Enter passphrase for key '/root/.ssh/id_ed25519': ", "root@ui-1", false),
            ("Are you sure you want to continue connecting (yes/no/[fingerprint])? ", "root@ui-1", false),
            ("root@ui-1's password: ", "root", false),
        ] {
            assert_eq!(is_for(question, account), whether, "{question}");
        }
    }
}
