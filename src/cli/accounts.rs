//! The accounts of the admins that consoles name: made, locked when their admins are gone, and never removed, so that nobody gets
//! their uids.
//!
//! Owns the calls of useradd(8) and usermod(8), and the order that keeps others' accounts safe: what is to be made is noted by the
//! daemon first, and only an account is touched that is noted there, marked in passwd(5), has the noted uid, and is not root.

use super::account_home;
use super::args::{Accounts, AccountsAction};
use super::show::{self, Side, visible};
use super::{Failure, with_stdout};
use crate::config::{AccountsOf, Config};
use crate::control::client::Client;
use crate::exit::Exit;
use crate::model::{AUTHORIZED_KEYS, SecretPath};
use crate::run::{End, Manner, Program};
use crate::sys::isolated_child::RunAs;
use crate::vault::{is_account_name, mark};
use crate::wire::{AccountInfo, AccountState, GetAccounts, NoteAccount, Remove};
use nix::unistd::{Gid, Group, User};
use std::ffi::OsStr;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long one program may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the sessions of somebody get to end by themselves.
const GRACE: Duration = Duration::from_secs(2);
/// The group that nobody is in.
const NOBODY: u32 = 65_534;
/// A shell that lets nobody in.
const NO_SHELL: &str = "/usr/sbin/nologin";

/// What is to be done about an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Todo {
    /// It is as it should be.
    Nothing,
    /// It is to be made.
    Make,
    /// It was made, and only its uid is to be noted.
    Adopt(u32),
    /// It is locked, and its admin is back.
    Unlock(u32),
    /// Its admin is gone.
    Lock(u32),
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
    let state = match (account.wanted, account.locked, account.uid) {
        (true, false, Some(uid)) => format!("uid {uid}"),
        (true, false, None) if account.made => "being made".into(),
        (true, false, None) => "not made yet".into(),
        (true, true, _) => "to be unlocked".into(),
        (false, false, _) => "to be locked".into(),
        (false, true, Some(uid)) => format!("locked, uid {uid}"),
        (false, true, None) => "locked".into(),
    };
    let comment = visible(&account.comment).into_owned();
    vec![visible(&account.user).into_owned(), state, format!("for {}", visible(&account.console)), comment]
}

/// Makes what is missing and locks what is gone; `done` gets a line for each. One that cannot be is told and does not keep
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
    // Whatever keeps accounts from being made keeps none from being locked.
    let prepared = match todo.iter().any(|(_, todo)| matches!(todo, Todo::Make | Todo::Unlock(_))) && !pretend {
        true => prepare(&config.accounts, group).map(Some),
        false => Ok(None),
    };
    let mut failed = None;
    for (account, todo) in todo {
        if pretend {
            if todo != Todo::Nothing {
                done.push(format!("{}: {}", account.user, would(todo)));
            }
            continue;
        }
        let made = match (todo, &prepared) {
            (Todo::Make | Todo::Unlock(_), Err(failure)) => Err(failure.clone()),
            (_, prepared) => one(config, client, prepared.as_ref().ok().copied().flatten(), &account, todo),
        };
        match made {
            Ok(what) => done.extend(what.map(|what| format!("{}: {what}", account.user))),
            Err(failure) => {
                warn(&format!("account {}: {}", account.user, failure.message()));
                failed = Some(failure.about(&account.user));
            }
        }
    }
    failed.map_or(Ok(()), Err)
}

/// Locks every account of one console.
///
/// # Errors
/// As [`look_after`]; the accounts after one that cannot be locked stay as they are.
pub fn lock_all(config: &Config, client: &mut Client, console: &str) -> Result<(), Failure> {
    let accounts = client.call(&GetAccounts {})?.accounts;
    for account in accounts.into_iter().filter(|a| a.console == console && a.made && !a.locked) {
        let account = AccountInfo { wanted: false, ..account };
        let todo = todo(&account, find(&account.user));
        one(config, client, None, &account, todo).map_err(|failure| failure.about(&account.user))?;
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
        (wanted, true, Some(uid), Some((there, comment))) if uid == there && marked(there, &comment) => {
            match (wanted, account.locked) {
                (true, false) | (false, true) => Todo::Nothing,
                (true, true) => Todo::Unlock(uid),
                (false, false) => Todo::Lock(uid),
            }
        }
        // One that an earlier version was about to note when it was killed.
        (true, true, None, Some((there, comment))) if marked(there, &comment) => Todo::Adopt(there),
        (false, true, None, Some((there, comment))) if marked(there, &comment) => Todo::Lock(there),
        (true, _, _, Some(_)) => Todo::Foreign,
        (false, _, _, _) => Todo::Forget,
    }
}

fn would(todo: Todo) -> &'static str {
    match todo {
        Todo::Nothing => "nothing to do",
        Todo::Make => "would be made",
        Todo::Adopt(_) => "was made, and would be noted",
        Todo::Unlock(_) => "would be unlocked",
        Todo::Lock(_) => "would be locked",
        Todo::Forget => "is gone, and would be forgotten",
        Todo::Foreign => "exists, and was not made by pinfold: it would be left alone",
    }
}

/// What was done, in a word.
fn one(
    config: &Config,
    client: &mut Client,
    gid: Option<Gid>,
    account: &AccountInfo,
    todo: Todo,
) -> Result<Option<&'static str>, Failure> {
    let note = |client: &mut Client, state, uid| {
        let (console, user) = (account.console.clone(), account.user.clone());
        client.call(&NoteAccount { console, user, state, uid }).map(drop).map_err(Failure::from)
    };
    match todo {
        Todo::Nothing => Ok(None),
        Todo::Foreign => {
            unserve(client, &account.user)?;
            let what = "it exists, and was not made by pinfold: it is left alone, and no key is served under it";
            Err(Failure::new(Exit::Refused, what))
        }
        Todo::Adopt(uid) => note(client, AccountState::Made, Some(uid)).map(|()| Some("made before")),
        Todo::Forget => note(client, AccountState::Gone, None).map(|()| Some("gone")),
        Todo::Make => {
            // The daemon took the name, and it reached passwd(5) through nobody else; still, it becomes an argument.
            if !is_account_name(&account.user) {
                return Err(Failure::new(Exit::Refused, "that is no name of an account"));
            }
            if account.uid.is_some() {
                note(client, AccountState::Gone, None)?;
            }
            note(client, AccountState::Making, None)?;
            let all = client.call(&GetAccounts {})?.accounts;
            let given = all.iter().find(|a| a.user == account.user && a.console == account.console);
            let uid = given.and_then(|a| a.uid).ok_or_else(|| Failure::new(Exit::Failed, "it was given no uid"))?;
            let gid = gid.ok_or_else(|| Failure::new(Exit::Failed, "there is no group"))?;
            account_home::make(&config.accounts, &account.user, uid, gid)?;
            make(&config.accounts, gid, account, uid)?;
            match find(&account.user) {
                Some((there, comment)) if there == uid && comment == mark(&account.console) => Ok(Some("made")),
                _ => Err(Failure::new(Exit::Failed, "useradd made another account than it was asked for")),
            }
        }
        Todo::Unlock(uid) => {
            let gid = gid.ok_or_else(|| Failure::new(Exit::Failed, "there is no group"))?;
            account_home::make(&config.accounts, &account.user, uid, gid)?;
            unlock(&config.accounts, account)?;
            note(client, AccountState::Making, None)?;
            Ok(Some("unlocked"))
        }
        Todo::Lock(uid) => {
            lock(&config.accounts, account, uid)?;
            if account.uid.is_none() {
                note(client, AccountState::Made, Some(uid))?;
            }
            note(client, AccountState::Locked, None)?;
            Ok(Some("locked"))
        }
    }
}

/// Takes away the keys that an import put under a name that somebody else has had since.
fn unserve(client: &mut Client, user: &str) -> Result<(), Failure> {
    let path = SecretPath::parse(&format!("{AUTHORIZED_KEYS}/{user}")).map_err(|e| Failure::usage(e.to_string()))?;
    match client.call(&Remove { path, purge: false, recursive: false }).map_err(Failure::from) {
        Err(failure) if failure.is(Exit::NotFound) => Ok(()),
        other => other.map(drop),
    }
}

/// The group of all, and the folder of their homes.
fn prepare(accounts: &AccountsOf, group: &str) -> Result<Gid, Failure> {
    if !is_account_name(group) {
        return Err(Failure::usage(format!("accounts.group: '{group}' is no name of a group")));
    }
    let found = || Group::from_name(group).ok().flatten().map(|g| g.gid);
    if found().is_none() {
        run("groupadd", &[&group])?;
    }
    let gid = found().ok_or_else(|| Failure::new(Exit::Failed, format!("there is no group {group}")))?;
    if gid == Gid::from_raw(0) {
        return Err(Failure::usage("accounts.group: the admins of a console are not made members of root's group"));
    }
    account_home::prepare(accounts, gid)?;
    Ok(gid)
}

fn shell(accounts: &AccountsOf) -> &Path {
    accounts.shell.as_deref().unwrap_or(Path::new("/bin/sh"))
}

fn make(accounts: &AccountsOf, gid: Gid, account: &AccountInfo, uid: u32) -> Result<(), Failure> {
    let home = account_home::of(accounts, &account.user);
    let (uid, gid, mark) = (uid.to_string(), gid.to_string(), mark(&account.console));
    // Not within the range that useradd gives from, on purpose: it is not to say so.
    let numbers: &[&dyn AsRef<OsStr>] = &[&"--uid", &uid, &"-K", &"UID_MIN=1", &"-K", &"UID_MAX=4294967294"];
    // A password that nothing matches, and an account that sshd does not call locked.
    let plain: &[&dyn AsRef<OsStr>] =
        &[&"--no-log-init", &"--no-create-home", &"--no-user-group", &"--password", &"*", &"--gid", &gid];
    let about: &[&dyn AsRef<OsStr>] =
        &[&"--comment", &mark, &"--home-dir", &home, &"--shell", &shell(accounts), &"--", &account.user];
    run("useradd", &[numbers, plain, about].concat())
}

/// The account is as it was when it was made.
fn unlock(accounts: &AccountsOf, account: &AccountInfo) -> Result<(), Failure> {
    let shell = shell(accounts);
    run("usermod", &[&"--password", &"*", &"--expiredate", &"", &"--shell", &shell, &"--", &account.user])
}

/// Nobody logs in any more, then the sessions end if that is asked for. The account stays: its uid is on files, in archives and
/// in logs, and would be the next one's.
fn lock(accounts: &AccountsOf, account: &AccountInfo, uid: u32) -> Result<(), Failure> {
    run("usermod", &[&"--lock", &"--expiredate", &"1", &"--shell", &NO_SHELL, &"--", &account.user])?;
    if accounts.end_sessions {
        end_sessions(&account.user, uid);
    } else if runs(uid) {
        warn(&format!(
            "account {}: it is locked, and something still runs as it (accounts.end_sessions)",
            account.user
        ));
    }
    Ok(())
}

/// Ends everything that runs under a uid: first through logind, where that is, then whatever is left. Who sends the signal is a
/// process of that very uid, so that it can reach nobody else, and what forks meanwhile is reached as well.
fn end_sessions(user: &str, uid: u32) {
    if Path::new("/run/systemd/system").is_dir() {
        let _ = run("loginctl", &[&"disable-linger", &"--", &user]);
        let _ = run("loginctl", &[&"terminate-user", &"--", &user]);
    }
    let them = RunAs { uid, gid: NOBODY, groups: Vec::new() };
    for (signal, grace) in [("TERM", GRACE), ("KILL", Duration::ZERO)] {
        let _ = run_as(Some(&them), "/bin/sh", &[&"-c", &format!("kill -{signal} -1")]);
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

/// Runs a program of the system to its end, which is bounded.
fn run(name: &str, args: &[&dyn AsRef<OsStr>]) -> Result<(), Failure> {
    run_as(None, name, args)
}

/// The same, as another user.
fn run_as(whom: Option<&RunAs>, name: &str, args: &[&dyn AsRef<OsStr>]) -> Result<(), Failure> {
    let failed = |what: String| Failure::new(Exit::Failed, format!("{name}: {what}"));
    let program = Program {
        args: args.iter().map(|arg| (*arg).as_ref().into()).collect(),
        env: [("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), ("LC_ALL", "C")].map(|(n, is)| (n.into(), is.into())).into(),
        ..Program::new(Path::new(name), Manner::Group(whom), Some(Instant::now() + PATIENCE))
    };
    match program.run().map_err(|e| failed(e.to_string()))?.end {
        End::Itself(status) if status.success() => Ok(()),
        End::Itself(status) => Err(failed(status.to_string())),
        End::Lost(error) => Err(failed(error.to_string())),
        End::Late | End::Cancelled | End::TooMuch => Err(failed("it did not end".into())),
    }
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
        AccountInfo { user, console, comment, wanted, made, locked: false, uid }
    }

    #[test]
    fn only_what_is_noted_and_marked_is_touched() {
        let ours = |uid| Some((uid, "pinfold@hq".to_owned()));
        let theirs = |uid| Some((uid, "Alice,,,".to_owned()));
        let other = |uid| Some((uid, "pinfold@other".to_owned()));
        let locked = |wanted| AccountInfo { locked: true, ..account(wanted, true, Some(7)) };
        assert_eq!(todo(&account(true, false, None), None), Todo::Make);
        assert_eq!(todo(&account(true, true, Some(7)), None), Todo::Make, "somebody removed it, or it is being made");
        assert_eq!(todo(&account(true, true, Some(7)), ours(7)), Todo::Nothing);
        assert_eq!(todo(&account(true, true, None), ours(7)), Todo::Adopt(7));
        assert_eq!(todo(&account(false, true, Some(7)), ours(7)), Todo::Lock(7));
        assert_eq!(todo(&account(false, true, None), ours(7)), Todo::Lock(7), "killed before it was noted");
        assert_eq!(todo(&locked(false), ours(7)), Todo::Nothing);
        assert_eq!(todo(&locked(true), ours(7)), Todo::Unlock(7));
        assert_eq!(todo(&locked(true), None), Todo::Make, "under another uid");
        assert_eq!(todo(&locked(false), None), Todo::Forget);
        for found in [theirs(7), other(7), ours(0), theirs(0)] {
            assert_eq!(todo(&account(true, false, None), found.clone()), Todo::Foreign);
            assert_eq!(todo(&account(true, true, None), found.clone()), Todo::Foreign);
            assert_eq!(todo(&account(true, true, Some(7)), found.clone()), Todo::Foreign);
            assert_eq!(todo(&locked(true), found.clone()), Todo::Foreign);
            assert_eq!(todo(&locked(false), found.clone()), Todo::Forget);
            assert_eq!(todo(&account(false, true, Some(7)), found), Todo::Forget);
        }
        assert_eq!(todo(&account(true, false, None), ours(7)), Todo::Foreign, "marked, and not noted");
        assert_eq!(todo(&account(true, true, Some(7)), ours(8)), Todo::Foreign, "another uid");
        assert_eq!(todo(&account(false, true, Some(7)), ours(8)), Todo::Forget, "another uid");
        assert_eq!(todo(&account(false, true, Some(0)), ours(0)), Todo::Forget, "never root");
    }

    #[test]
    fn a_program_that_fails_says_so() {
        assert!(run("true", &[]).is_ok());
        assert!(run("sh", &[&"-c", &"exit 8"]).unwrap_err().message().contains("8"));
        assert!(run("no-such-program", &[]).is_err());
    }
}
