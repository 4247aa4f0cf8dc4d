//! The accounts of the admins that consoles name: made, and taken away again.
//!
//! Owns the calls of useradd(8) and userdel(8), and the order that keeps others' accounts safe: what is to be made is noted by the
//! daemon first, and only an account is touched that is noted there, marked in passwd(5), has the noted uid, and is not root.

use super::import_args::{Accounts, AccountsAction};
use super::show::{self, Side, visible};
use super::{Failure, with_stdout};
use crate::config::{AccountsOf, Config};
use crate::control::client::Client;
use crate::exit::Exit;
use crate::vault::{is_account_name, mark};
use crate::wire::{AccountInfo, AccountState, GetAccounts, NoteAccount};
use nix::unistd::{Gid, Group, User};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long one program may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the sessions of somebody get to end by themselves.
const GRACE: Duration = Duration::from_secs(2);
/// The group that nobody is in.
const NOBODY: u32 = 65_534;
/// What userdel(8) ends with while somebody is logged in.
const BUSY: i32 = 8;

/// What is to be done about an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Todo {
    /// It is as it should be.
    Nothing,
    /// It is to be made.
    Make,
    /// It was made, and only its uid is to be noted.
    Adopt(u32),
    /// It is to be removed.
    Remove(u32),
    /// It is gone already, or is somebody else's by now: only the note goes.
    Forget,
    /// There is one of that name that pinfold did not make.
    Foreign,
}

/// `pinfold accounts`
pub fn accounts(config: &Config, args: &Accounts) -> Result<Exit, Failure> {
    let mut client = Client::connect(config)?;
    match &args.action {
        AccountsAction::Ls(json) => {
            let accounts = client.call(&GetAccounts {})?.accounts;
            with_stdout(|out| {
                if json.json {
                    return show::json(out, &accounts);
                }
                let rows: Vec<Vec<String>> = accounts.iter().map(row).collect();
                Ok(show::columns(out, &[Side::Left; 4], &rows)?)
            })?;
        }
        AccountsAction::Apply { pretend } => {
            let mut done = Vec::new();
            let looked = look_after(config, &mut client, *pretend, &mut done);
            with_stdout(|out| done.iter().try_for_each(|line| Ok(writeln!(out, "{}", visible(line))?)))?;
            looked?;
        }
    }
    Ok(Exit::Ok)
}

fn row(account: &AccountInfo) -> Vec<String> {
    let state = match (account.wanted, account.made, account.uid) {
        (true, _, Some(uid)) => format!("uid {uid}"),
        (true, true, None) => "being made".into(),
        (true, false, None) => "not made yet".into(),
        (false, _, _) => "to be removed".into(),
    };
    let comment = visible(&account.comment).into_owned();
    vec![visible(&account.user).into_owned(), state, format!("for {}", visible(&account.console)), comment]
}

/// Makes what is missing and removes what is gone; `done` gets a line for each. One that cannot be is told and does not keep
/// the others.
///
/// # Errors
/// If no group is configured, or the daemon does not answer; the last account that failed.
pub fn look_after(config: &Config, client: &mut Client, pretend: bool, done: &mut Vec<String>) -> Result<(), Failure> {
    let Some(group) = &config.accounts.group else {
        return Err(Failure::usage("no accounts are looked after here").hint("accounts.group in the configuration"));
    };
    let accounts = client.call(&GetAccounts {})?.accounts;
    let todo: Vec<(AccountInfo, Todo)> = accounts.into_iter().map(|a| (a.clone(), todo(&a, find(&a.user)))).collect();
    if todo.iter().any(|(_, todo)| *todo == Todo::Make) && !pretend {
        prepare(&config.accounts, group)?;
    }
    let mut failed = None;
    for (account, todo) in todo {
        if pretend {
            if todo != Todo::Nothing {
                done.push(format!("{}: {}", account.user, would(todo)));
            }
            continue;
        }
        match one(config, client, group, &account, todo) {
            Ok(what) => done.extend(what.map(|what| format!("{}: {what}", account.user))),
            Err(failure) => {
                warn(&format!("account {}: {}", account.user, failure.message()));
                failed = Some(failure.about(&account.user));
            }
        }
    }
    failed.map_or(Ok(()), Err)
}

/// Removes every account of one console.
///
/// # Errors
/// As [`look_after`]; the accounts after one that cannot be removed stay as well.
pub fn remove_all(config: &Config, client: &mut Client, console: &str) -> Result<(), Failure> {
    let accounts = client.call(&GetAccounts {})?.accounts;
    for account in accounts.into_iter().filter(|a| a.console == console && a.made) {
        let account = AccountInfo { wanted: false, ..account };
        let todo = todo(&account, find(&account.user));
        one(config, client, "", &account, todo).map_err(|failure| failure.about(&account.user))?;
    }
    Ok(())
}

/// What is known of an account of this name: uid, and the comment.
fn find(user: &str) -> Option<(u32, String)> {
    let found = User::from_name(user).ok().flatten()?;
    Some((found.uid.as_raw(), found.gecos.to_string_lossy().into_owned()))
}

/// What to do about an account, given what there is under its name.
fn todo(account: &AccountInfo, found: Option<(u32, String)>) -> Todo {
    let marked = |uid: u32, comment: &str| uid != 0 && comment == mark(&account.console);
    match (account.wanted, account.made, account.uid, found) {
        (true, _, _, None) => Todo::Make,
        (true, true, Some(uid), Some((there, comment))) if uid == there && marked(there, &comment) => Todo::Nothing,
        (true, true, None, Some((there, comment))) if marked(there, &comment) => Todo::Adopt(there),
        (true, _, _, Some(_)) => Todo::Foreign,
        (false, _, Some(uid), Some((there, comment))) if uid == there && marked(there, &comment) => Todo::Remove(uid),
        // Killed between useradd and its note.
        (false, true, None, Some((there, comment))) if marked(there, &comment) => Todo::Remove(there),
        (false, _, _, _) => Todo::Forget,
    }
}

fn would(todo: Todo) -> &'static str {
    match todo {
        Todo::Nothing => "nothing to do",
        Todo::Make => "would be made",
        Todo::Adopt(_) => "was made, and would be noted",
        Todo::Remove(_) => "would be removed",
        Todo::Forget => "is gone, and would be forgotten",
        Todo::Foreign => "exists, and was not made by pinfold: it would be left alone",
    }
}

/// What was done, in a word.
fn one(
    config: &Config,
    client: &mut Client,
    group: &str,
    account: &AccountInfo,
    todo: Todo,
) -> Result<Option<&'static str>, Failure> {
    let mut note = |state, uid| {
        let (console, user) = (account.console.clone(), account.user.clone());
        client.call(&NoteAccount { console, user, state, uid }).map(drop).map_err(Failure::from)
    };
    match todo {
        Todo::Nothing => Ok(None),
        Todo::Foreign => Err(Failure::new(Exit::Refused, "it exists, and was not made by pinfold: it is left alone")),
        Todo::Adopt(uid) => note(AccountState::Made, Some(uid)).map(|()| Some("made before")),
        Todo::Forget => note(AccountState::Gone, None).map(|()| Some("gone")),
        Todo::Make => {
            // The daemon took the name, and it reached passwd(5) through nobody else; still, it becomes an argument.
            if !is_account_name(&account.user) {
                return Err(Failure::new(Exit::Refused, "that is no name of an account"));
            }
            if account.uid.is_some() {
                note(AccountState::Gone, None)?;
            }
            note(AccountState::Making, None)?;
            make(&config.accounts, group, account)?;
            match find(&account.user) {
                Some((uid, comment)) if uid != 0 && comment == mark(&account.console) => {
                    note(AccountState::Made, Some(uid))?;
                    Ok(Some("made"))
                }
                _ => Err(Failure::new(Exit::Failed, "useradd made another account than it was asked for")),
            }
        }
        Todo::Remove(uid) => {
            remove(&config.accounts, account, uid)?;
            note(AccountState::Gone, None)?;
            Ok(Some("removed"))
        }
    }
}

/// The group and the home that all share.
fn prepare(accounts: &AccountsOf, group: &str) -> Result<(), Failure> {
    if !is_account_name(group) {
        return Err(Failure::usage(format!("accounts.group: '{group}' is no name of a group")));
    }
    let found = || Group::from_name(group).ok().flatten().map(|g| g.gid);
    if found().is_none() {
        run(Command::new("groupadd").arg(group))?;
    }
    let gid = found().ok_or_else(|| Failure::new(Exit::Failed, format!("there is no group {group}")))?;
    if gid == Gid::from_raw(0) {
        return Err(Failure::usage("accounts.group: the admins of a console are not made members of root's group"));
    }
    let Some(home) = &accounts.home else { return Ok(()) };
    let failed = |e: std::io::Error| Failure::new(Exit::Failed, format!("{}: {e}", home.display()));
    match std::fs::DirBuilder::new().mode(0o700).create(home) {
        Ok(()) => {
            std::os::unix::fs::chown(home, Some(0), Some(gid.as_raw())).map_err(failed)?;
            std::fs::set_permissions(home, PermissionsExt::from_mode(0o2770)).map_err(failed)
        }
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(failed(e)),
    }
}

fn make(accounts: &AccountsOf, group: &str, account: &AccountInfo) -> Result<(), Failure> {
    let home = accounts.home.as_deref().unwrap_or(Path::new("/nonexistent"));
    let shell = accounts.shell.as_deref().unwrap_or(Path::new("/bin/sh"));
    let mut command = Command::new("useradd");
    // A password that nothing matches, and an account that sshd does not call locked.
    command.args(["--no-create-home", "--no-user-group", "--password", "*", "--gid", group]);
    command.arg("--comment").arg(mark(&account.console)).arg("--home-dir").arg(home).arg("--shell").arg(shell);
    Ok(run(command.arg("--").arg(&account.user))?)
}

/// Nobody logs in any more, then the sessions end if that is asked for, then the account goes.
fn remove(accounts: &AccountsOf, account: &AccountInfo, uid: u32) -> Result<(), Failure> {
    run(Command::new("usermod").args(["--lock", "--expiredate", "1", "--"]).arg(&account.user))?;
    if accounts.end_sessions {
        end_sessions(&account.user, uid);
    }
    match run(Command::new("userdel").arg("--").arg(&account.user)) {
        Err(failed) if failed.1 == Some(BUSY) => {
            let what = "somebody is still logged in; the account is locked, and goes with the next import";
            Err(Failure::new(Exit::Failed, what).hint("accounts.end_sessions = true, or pinfold accounts apply later"))
        }
        other => Ok(other?),
    }
}

/// Ends everything that runs under a uid: first through logind, where that is, then whatever is left. Who sends the signal is a
/// process of that very uid, so that it can reach nobody else, and what forks meanwhile is reached as well.
fn end_sessions(user: &str, uid: u32) {
    if Path::new("/run/systemd/system").is_dir() {
        let _ = run(Command::new("loginctl").arg("terminate-user").arg("--").arg(user));
    }
    for (signal, grace) in [("TERM", GRACE), ("KILL", Duration::ZERO)] {
        let mut kill = Command::new("/bin/sh");
        kill.args(["-c", &format!("kill -{signal} -1")]).uid(uid).gid(NOBODY).env_clear();
        let _ = run(&mut kill);
        let begun = Instant::now();
        while begun.elapsed() < grace && runs(uid) {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Whether anything runs under a uid.
fn runs(uid: u32) -> bool {
    use std::os::unix::fs::MetadataExt;
    let Ok(processes) = std::fs::read_dir("/proc") else { return false };
    processes.flatten().any(|entry| {
        let number = entry.file_name().to_string_lossy().bytes().all(|b| b.is_ascii_digit());
        number && entry.metadata().is_ok_and(|meta| meta.uid() == uid)
    })
}

/// How a program failed, and its exit status.
struct Failed(String, Option<i32>);

impl From<Failed> for Failure {
    fn from(failed: Failed) -> Self {
        Failure::new(Exit::Failed, failed.0)
    }
}

/// Runs a program of the system to its end, which is bounded.
fn run(command: &mut Command) -> Result<(), Failed> {
    let name = command.get_program().to_string_lossy().into_owned();
    let failed = |what: String| Failed(format!("{name}: {what}"), None);
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
    let mut child = command.spawn().map_err(|e| failed(e.to_string()))?;
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().map_err(|e| failed(e.to_string()))? {
            break status;
        }
        if begun.elapsed() > PATIENCE {
            let _ = child.kill();
            let _ = child.wait();
            return Err(failed("it did not end".into()));
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    if status.success() { Ok(()) } else { Err(Failed(format!("{name}: {status}"), status.code())) }
}

/// Says what went wrong beside what was asked for.
pub fn warn(what: &str) {
    // Where stderr is closed there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "pinfold: warning: {}", visible(what));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(wanted: bool, made: bool, uid: Option<u32>) -> AccountInfo {
        let (user, console, comment) = ("alice".into(), "hq".into(), String::new());
        AccountInfo { user, console, comment, wanted, made, uid }
    }

    #[test]
    fn only_what_is_noted_and_marked_is_touched() {
        let ours = |uid| Some((uid, "pinfold@hq".to_owned()));
        let theirs = |uid| Some((uid, "Alice,,,".to_owned()));
        let other = |uid| Some((uid, "pinfold@other".to_owned()));
        assert_eq!(todo(&account(true, false, None), None), Todo::Make);
        assert_eq!(todo(&account(true, true, Some(7)), None), Todo::Make, "somebody removed it");
        assert_eq!(todo(&account(true, true, Some(7)), ours(7)), Todo::Nothing);
        assert_eq!(todo(&account(true, true, None), ours(7)), Todo::Adopt(7));
        assert_eq!(todo(&account(false, true, Some(7)), ours(7)), Todo::Remove(7));
        assert_eq!(todo(&account(false, true, None), ours(7)), Todo::Remove(7), "killed before it was noted");
        for found in [theirs(7), other(7), ours(0), theirs(0)] {
            assert_eq!(todo(&account(true, false, None), found.clone()), Todo::Foreign);
            assert_eq!(todo(&account(true, true, None), found.clone()), Todo::Foreign);
            assert_eq!(todo(&account(true, true, Some(7)), found.clone()), Todo::Foreign);
            assert_eq!(todo(&account(false, true, Some(7)), found), Todo::Forget);
        }
        assert_eq!(todo(&account(true, false, None), ours(7)), Todo::Foreign, "marked, and not noted");
        assert_eq!(todo(&account(false, true, Some(7)), ours(8)), Todo::Forget, "another uid");
        assert_eq!(todo(&account(false, true, Some(0)), ours(0)), Todo::Forget, "never root");
    }

    #[test]
    fn a_program_that_fails_says_so() {
        assert!(run(&mut Command::new("true")).is_ok());
        assert_eq!(run(Command::new("sh").args(["-c", "exit 8"])).err().unwrap().1, Some(8));
        assert!(run(&mut Command::new("no-such-program")).is_err());
    }
}
