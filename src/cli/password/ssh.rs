//! The service `ssh`: the system's ssh and its chpasswd, and a login that shows that the new password is taken.
//!
//! Owns how ssh is called. The change is made as who runs this command, with his own key, agent and ssh configuration; no
//! password is in an argument or the environment, and a host's name never is an option.

use super::askpass::ACCOUNT;
use super::child::{Ended, Input, run};
use super::remote::{Accepted, Changed, FarSide};
use crate::config::{Config, Passwords, SshVerify};
use crate::model::PasswordName;
use crate::run::{Manner, Program};
use crate::secret::Secret;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::time::Instant;

/// What the far side says once it reads: nothing is sent to what does not say it.
const READY: &str = "pinfold-ready";
/// Compares a password with what shadow(5) has: 0 it is the one, 1 it is not, 3 it cannot be said.
const COMPARE: &str = "perl -e '$_=<STDIN>;chomp;($u,$p)=split(/:/,$_,2);$h=(getpwnam($u))[1];\
    exit 3 unless defined $h&&length($h)>2;$c=crypt($p,$h);exit(defined $c&&$c eq $h?0:1)'";
/// How ssh ends if it could not log in, or lost the connection.
const SSH_FAILED: i32 = 255;
/// What a login with a password must not use instead, and must not touch.
const LOGIN: &[&str] = &[
    "BatchMode=no",
    "PreferredAuthentications=password,keyboard-interactive",
    "PasswordAuthentication=yes",
    "KbdInteractiveAuthentication=yes",
    "PubkeyAuthentication=no",
    "HostbasedAuthentication=no",
    "GSSAPIAuthentication=no",
    "NumberOfPasswordPrompts=1",
    "StrictHostKeyChecking=yes",
    "LogLevel=ERROR",
];
/// Of every call: one command, nothing carried along.
const PLAIN: &[&str] = &[
    "ClearAllForwardings=yes",
    "ForwardAgent=no",
    "ForwardX11=no",
    "PermitLocalCommand=no",
    "RemoteCommand=none",
    "RequestTTY=no",
    "ControlMaster=no",
    "ControlPath=none",
];

/// ssh, as configured.
pub struct Ssh<'c> {
    passwords: &'c Passwords,
}

impl<'c> Ssh<'c> {
    /// With these settings.
    pub fn new(config: &'c Config) -> Self {
        Ssh { passwords: &config.passwords }
    }

    fn ssh<'a>(&self, options: &[&str], args: &[&str]) -> Program<'a> {
        let until = Instant::now() + self.passwords.timeout;
        let mut program = Program::new(Path::new("ssh"), Manner::Group(None), Some(until));
        if let Some(file) = &self.passwords.ssh_config {
            program.args.extend(["-F".into(), file.into()]);
        }
        let connect = format!("ConnectTimeout={}", self.passwords.timeout.as_secs().clamp(1, 30));
        for option in options.iter().chain(PLAIN).copied().chain([connect.as_str()]) {
            program.args.extend(["-o".into(), option.into()]);
        }
        program.args.extend(args.iter().map(OsString::from));
        for asks in ["SSH_ASKPASS", "SSH_ASKPASS_REQUIRE"] {
            program.env.remove(OsStr::new(asks));
        }
        program
    }

    /// A command on the far side, as the admin, that is given `USER:PASSWORD`.
    fn told(&self, name: &PasswordName, password: &Secret, what: &str, hidden: &[&Secret]) -> Result<Ended, String> {
        let line = line(name, password).map_err(|e| e.to_string())?;
        let command = format!("echo {READY}; exec {what}");
        let program = self.ssh(&["BatchMode=yes"], &["-T", "--", name.host(), &command]);
        run(program, Input::After(READY, line.expose()), hidden).map_err(|e| format!("ssh: {e}"))
    }

    /// As ssh names the account when it asks: an alias of the configuration means another host.
    fn account(&self, name: &PasswordName) -> Result<String, String> {
        let program = self.ssh(&[], &["-G", "-l", name.user(), "--", name.host()]);
        let ended = run(program, Input::Nothing, &[]).map_err(|e| format!("ssh: {e}"))?;
        let said = String::from_utf8_lossy(&ended.stdout);
        let value = |key: &str| said.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(' ')).map(str::to_owned);
        let host = value("hostkeyalias").or_else(|| value("hostname")).unwrap_or_else(|| name.host().to_owned());
        Ok(format!("{}@{host}", name.user()))
    }

    fn login(&self, name: &PasswordName, password: &Secret) -> Result<Ended, String> {
        let us = std::env::current_exe().map_err(|e| format!("cannot find this program: {e}"))?;
        let account = self.account(name)?;
        // -n: the standard input is for the program that answers, not for the far side.
        let mut program = self.ssh(LOGIN, &["-n", "-T", "-l", name.user(), "--", name.host(), "true"]);
        program.env.extend([
            ("SSH_ASKPASS".into(), us.into()),
            ("SSH_ASKPASS_REQUIRE".into(), "force".into()),
            (ACCOUNT.into(), account.into()),
        ]);
        run(program, Input::Bytes(password.expose()), &[password]).map_err(|e| format!("ssh: {e}"))
    }
}

impl FarSide for Ssh<'_> {
    fn change(&self, name: &PasswordName, old: &Secret, new: &Secret) -> Changed {
        match self.told(name, new, &self.passwords.ssh_change, &[old, new]) {
            Ok(ended) => match ended.code() {
                Some(0) if ended.sent => Changed::Yes,
                _ if !ended.sent => Changed::No(ended.why()),
                // What began may have done its work before it failed.
                _ => Changed::Unknown(ended.why()),
            },
            Err(why) => Changed::No(why),
        }
    }

    fn verify(&self, name: &PasswordName, password: &Secret) -> Accepted {
        match self.passwords.ssh_verify {
            SshVerify::Login => match self.login(name, password) {
                Ok(ended) => match ended.code() {
                    Some(SSH_FAILED) if ended.stderr.contains("Permission denied (") => Accepted::No(ended.why()),
                    Some(SSH_FAILED) | None => Accepted::Unknown(ended.why()),
                    // Whatever became of the command: who could run one was let in.
                    Some(_) => Accepted::Yes,
                },
                Err(why) => Accepted::Unknown(why),
            },
            SshVerify::Shadow => {
                // With the same privilege as the change.
                let lead = self.passwords.ssh_change.strip_suffix(" chpasswd").unwrap_or_default();
                match self.told(name, password, format!("{lead} {COMPARE}").trim_start(), &[password]) {
                    Ok(ended) => match ended.code() {
                        Some(0) if ended.sent => Accepted::Yes,
                        Some(1) if ended.sent => Accepted::No("it has another one in shadow".into()),
                        _ => Accepted::Unknown(ended.why()),
                    },
                    Err(why) => Accepted::Unknown(why),
                }
            }
        }
    }
}

/// `USER:PASSWORD`, as chpasswd(8) reads it; a name has no colon.
fn line(name: &PasswordName, password: &Secret) -> Result<Secret, crate::sys::arena::ArenaFull> {
    let mut line = Secret::copy_of(format!("{}:", name.user()).as_bytes())?;
    let at = line.len();
    line.resize(at + password.len() + 1)?;
    line.expose_mut()[at..at + password.len()].copy_from_slice(password.expose());
    *line.expose_mut().last_mut().expect("it has a colon") = b'\n';
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_hold_no_password_and_a_host_is_no_option() {
        let config = Config::default();
        let ssh = Ssh::new(&config);
        let name = PasswordName::parse("a@ui-1").unwrap();
        let line = line(&name, &Secret::copy_of(b"p:w").unwrap()).unwrap();
        assert_eq!(line.expose(), b"a:p:w\n");
        let args = ssh.ssh(LOGIN, &["--", name.host()]).args;
        assert!(args.iter().position(|a| a == "--") < args.iter().position(|a| a == "ui-1"));
        assert!(args.windows(2).any(|w| w == ["-o", "PubkeyAuthentication=no"]));
    }

    #[test]
    fn an_account_is_named_as_ssh_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config");
        std::fs::write(&file, "Host ui-1\n  HostName 127.0.0.9\n  User admin\nHost ui-2\n  HostKeyAlias other\n")
            .unwrap();
        let mut config = Config::default();
        config.passwords.ssh_config = Some(file);
        let ssh = Ssh::new(&config);
        let account = |text| ssh.account(&PasswordName::parse(text).unwrap()).unwrap();
        assert_eq!(account("ui-1"), "root@127.0.0.9");
        assert_eq!(account("x@ui-2"), "x@other");
        assert_eq!(account("ui-3"), "root@ui-3");
    }
}
