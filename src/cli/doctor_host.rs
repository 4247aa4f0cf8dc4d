//! What `pinfold doctor` looks at on a host that takes secrets from consoles: trust, the inbox and who uploads into it, sudo, the
//! clock, the last import.
//!
//! Owns these checks. They look and change nothing; what the daemon knows of consoles is asked of it, if it answers.

use super::doctor::{Check, Machine};
use crate::config::Config;
use crate::control::client::Client;
use crate::model::{AUTHORIZED_KEYS, SecretPath};
use crate::trust::{self, Owners};
use crate::wire::{AccountInfo, ConsoleInfo, Entry, GetAccounts, GetConsoles, List};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Shells that let nobody in.
const NO_SHELLS: [&str; 4] = ["/usr/sbin/nologin", "/sbin/nologin", "/bin/false", "/usr/bin/false"];
/// After so long without an import, somebody should look at the console.
const LONG: Duration = Duration::from_secs(30 * 86_400);
/// Where services that set the clock say that it is right.
const SYNCHRONISED: [&str; 3] = ["run/systemd/timesync/synchronized", "run/chrony/chronyd.sock", "run/ntpd.pid"];
/// Where sudo is told who may do what.
const SUDOERS: &str = "etc/sudoers";

/// What the daemon says.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// The consoles that were joined; `None` if nobody can say.
    pub consoles: Option<Vec<ConsoleInfo>>,
    /// The accounts of their admins.
    pub accounts: Vec<AccountInfo>,
    /// The folders that their keys are served from, as far as there are any.
    pub served: Vec<Entry>,
}

impl Known {
    /// Asks the daemon. That it does not answer, or is locked, is no failure.
    pub fn ask(config: &Config) -> Self {
        let Ok(mut client) = Client::connect(config) else { return Known::default() };
        let consoles = client.call(&GetConsoles {}).ok().map(|reply| reply.consoles);
        let accounts = client.call(&GetAccounts {}).map(|reply| reply.accounts).unwrap_or_default();
        let mut served = Vec::new();
        let all = AUTHORIZED_KEYS.match_indices('/').map(|(at, _)| at).chain([AUTHORIZED_KEYS.len()]);
        for path in all.filter_map(|end| SecretPath::parse(&AUTHORIZED_KEYS[..end]).ok()) {
            let list = List { path, recursive: false, itself: true };
            served.extend(client.call(&list).map(|reply| reply.entries).unwrap_or_default());
        }
        Known { consoles, accounts, served }
    }
}

impl Machine<'_> {
    /// Nothing of it where no console was joined, and no inbox configured.
    pub(super) fn host(&self, config: &Config, known: &Known) -> Vec<Check> {
        let uploads = config.inbox.is_some() || config.import.upload_user.is_some();
        let joined = known.consoles.as_ref().is_some_and(|all| !all.is_empty());
        if !uploads && !joined {
            return Vec::new();
        }
        let mut checks = vec![self.trust(known)];
        checks.extend(known.consoles.iter().flatten().map(|console| last_import(console, SystemTime::now())));
        checks.push(self.clock());
        if uploads {
            checks.extend([self.inbox(config), self.quota_of_inbox(config), self.watched()]);
        }
        if let Some(user) = &config.import.upload_user {
            checks.extend([self.uploader(user), self.sudo(user)]);
        }
        checks.extend(self.admins(config, known));
        checks
    }

    fn trust(&self, known: &Known) -> Check {
        let what = "consoles";
        match &known.consoles {
            None => Check::warn(what, "the daemon does not say which were joined", "run it as root; pinfold unlock"),
            Some(all) if all.is_empty() => Check::warn(
                what,
                "none was joined: everything that is uploaded is refused",
                "pinfold join CONSOLE --signer KEY",
            ),
            Some(all) => {
                let each: Vec<String> = all.iter().map(|c| format!("{} ({})", c.console, c.fingerprint)).collect();
                Check::ok(what, each.join(", "))
            }
        }
    }

    fn clock(&self) -> Check {
        let set = SYNCHRONISED.iter().find(|path| self.has(path));
        match set {
            Some(path) => Check::ok("clock", format!("it is set (/{path})")),
            None => Check::warn(
                "clock",
                "nothing says that it is set: bundles are refused as expired or dated in the future",
                "systemctl enable --now systemd-timesyncd, or chrony",
            ),
        }
    }

    pub(super) fn below(&self, path: &Path) -> std::path::PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    fn inbox(&self, config: &Config) -> Check {
        let (what, inbox) = ("inbox", config.inbox());
        let shown = inbox.display();
        let owner = config.import.upload_user.as_deref().unwrap_or("root");
        let todo = format!("install -d -m 0700 -o {owner} {shown}");
        let Ok(meta) = std::fs::symlink_metadata(self.below(&inbox)) else {
            return Check::warn(what, format!("{shown} is not there"), todo);
        };
        let uid = self.uid_of(owner);
        if !meta.is_dir() {
            return Check::fail(what, format!("{shown} is no folder"), todo);
        }
        if trust::other_writer(&meta, uid.map_or(Owners::Root, Owners::RootOr)).is_some() {
            let found = format!("{shown} belongs to uid {}, mode {:04o}", meta.uid(), meta.mode() & 0o7777);
            return Check::fail(what, found, format!("chown {owner} {shown} && chmod 0700 {shown}"));
        }
        if owner != "root" && Some(meta.uid()) != uid {
            return Check::warn(what, format!("{shown} is root's: {owner} cannot upload"), todo);
        }
        Check::ok(what, format!("{shown}, of {owner}"))
    }

    /// Whether what is uploaded is bounded: nothing of pinfold's stops a disk from filling up.
    fn quota_of_inbox(&self, config: &Config) -> Check {
        let what = "inbox quota";
        let inbox = config.inbox();
        let device = |path: &Path| std::fs::metadata(self.below(path)).map(|meta| meta.dev()).ok();
        let Some(own) = device(&inbox) else {
            return Check::warn(what, "there is no inbox", "see above");
        };
        if Some(own) != device(&config.store) && Some(own) != device(Path::new("/")) {
            return Check::ok(what, "the inbox has a filesystem of its own");
        }
        let mounts = self.read("proc/self/mounts").unwrap_or_default();
        let quotas = mounts.lines().any(|line| {
            let mut fields = line.split(' ');
            let at = fields.nth(1).unwrap_or_default();
            let options = fields.nth(1).unwrap_or_default();
            let has = ["usrquota", "quota", "uquota", "prjquota", "usrjquota"].iter();
            inbox.starts_with(at) && at != "/" && has.clone().any(|q| options.split([',', '=']).any(|o| o == *q))
                || at == "/" && has.clone().any(|q| options.split([',', '=']).any(|o| o == *q))
        });
        if quotas {
            return Check::ok(what, "its filesystem has quotas");
        }
        let user = config.import.upload_user.as_deref().unwrap_or("the account that uploads");
        Check::warn(
            what,
            "it shares a filesystem with the store, and there are no quotas: who uploads can fill the disk",
            format!("a filesystem of its own for the inbox, or mount with usrquota and: setquota {user} 0 1G 0 1000 /"),
        )
    }

    fn watched(&self) -> Check {
        let path = "etc/systemd/system/multi-user.target.wants/pinfold-import.path";
        let enabled = std::fs::symlink_metadata(self.root.join(path)).is_ok();
        match (enabled, self.has("run/systemd/system")) {
            (true, _) => Check::ok("inbox watch", "pinfold-import.path is enabled"),
            (false, true) => Check::warn(
                "inbox watch",
                "pinfold-import.path is not enabled",
                "systemctl enable --now pinfold-import.path",
            ),
            (false, false) => Check::warn(
                "inbox watch",
                "systemd does not run here",
                "pinfold import --inbox --watch, under whatever keeps services running",
            ),
        }
    }

    /// A line of a file like passwd(5) for this name.
    pub(super) fn entry(&self, file: &str, name: &str) -> Option<Vec<String>> {
        let text = self.read(file)?;
        let line = text.lines().find(|line| line.split(':').next() == Some(name))?;
        Some(line.split(':').map(str::to_owned).collect())
    }

    fn uid_of(&self, name: &str) -> Option<u32> {
        self.entry("etc/passwd", name)?.get(2)?.parse().ok()
    }

    fn uploader(&self, user: &str) -> Check {
        let what = "upload account";
        let Some(entry) = self.entry("etc/passwd", user) else {
            return Check::fail(
                what,
                format!("there is no user {user}"),
                format!("useradd --system --shell /usr/sbin/nologin {user}"),
            );
        };
        let field = |n: usize| entry.get(n).map(String::as_str).unwrap_or_default();
        if field(2) == "0" {
            return Check::fail(what, format!("{user} is root"), "an account that can do nothing but upload");
        }
        let shell = field(6);
        if !NO_SHELLS.contains(&shell) {
            return Check::fail(
                what,
                format!("{user} has the shell {}", if shell.is_empty() { "/bin/sh" } else { shell }),
                format!("usermod --shell /usr/sbin/nologin {user}"),
            );
        }
        let password = self.entry("etc/shadow", user).and_then(|e| e.get(1).cloned()).unwrap_or_default();
        if !password.is_empty() && !password.starts_with(['!', '*']) {
            return Check::warn(what, format!("{user} has a password"), format!("passwd --lock {user}"));
        }
        Check::ok(what, format!("{user} has no shell and no password"))
    }

    /// Nothing of pinfold's needs sudo: a line that names the uploader is one too many.
    fn sudo(&self, user: &str) -> Check {
        let mut files = vec![SUDOERS.to_owned()];
        let folder = format!("{SUDOERS}.d");
        if let Ok(entries) = std::fs::read_dir(self.root.join(&folder)) {
            files.extend(entries.flatten().map(|e| format!("{folder}/{}", e.file_name().to_string_lossy())));
        }
        let names = |line: &str| {
            let first = line.split_whitespace().next().unwrap_or_default();
            first.split(',').any(|name| name == user)
        };
        let found = files.iter().find(|file| self.read(file).is_some_and(|text| text.lines().any(names)));
        match found {
            Some(file) => Check::fail(
                "sudo",
                format!("/{file} lets {user} run programs as somebody else"),
                format!("take the line away (visudo -f /{file}): the import needs no sudo"),
            ),
            None => Check::ok("sudo", format!("no line names {user}, and none is needed")),
        }
    }
}

fn last_import(console: &ConsoleInfo, now: SystemTime) -> Check {
    let what = "last import";
    let name = &console.console;
    let (Some(at), Some(outcome)) = (console.imported, &console.outcome) else {
        let todo = format!("on the console: the line that pinfold join printed, then pinfold export {}", console.host);
        return Check::warn(what, format!("nothing came from {name} yet"), todo);
    };
    let age = now.duration_since(SystemTime::from(at)).unwrap_or_default();
    let days = age.as_secs() / 86_400;
    if outcome != "applied" {
        return Check::warn(
            what,
            format!("{name}: serial {} was {outcome}, {days} days ago", console.serial),
            "pinfold log; what was refused, and why, is in the store's folder refused",
        );
    }
    if age > LONG {
        let todo = format!("on the console: pinfold hosts; pinfold export {}", console.host);
        return Check::warn(what, format!("{name}: {days} days ago"), todo);
    }
    Check::ok(what, format!("{name}: serial {}, {days} days ago", console.serial))
}

#[cfg(test)]
mod tests {
    use super::super::doctor::Verdict;
    use super::*;
    use crate::model::Timestamp;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn console(imported: Option<Timestamp>, outcome: Option<&str>) -> ConsoleInfo {
        ConsoleInfo {
            console: "hq".into(),
            host: "here".into(),
            prefix: SecretPath::root(),
            signer: "ssh-ed25519 AAAA".into(),
            fingerprint: "SHA256:x".into(),
            revoked: Vec::new(),
            recipient: "age1x".into(),
            ack: "ssh-ed25519 AAAA".into(),
            serial: 7,
            secrets: 1,
            admins: Vec::new(),
            joined: Timestamp::now(),
            imported,
            outcome: outcome.map(Into::into),
        }
    }

    fn outcomes(checks: &[Check]) -> Vec<(&'static str, Verdict)> {
        for check in checks {
            assert_eq!(check.todo.is_none(), check.outcome == Verdict::Ok, "what is wrong says what to do: {check:?}");
        }
        checks.iter().map(|c| (c.what, c.outcome)).collect()
    }

    #[test]
    fn a_host_is_told_what_is_missing_and_one_that_is_well_is_left_alone() {
        let home = tempfile::tempdir().unwrap();
        let root = home.path();
        let machine = Machine { root };
        let mut config = Config::default();
        assert_eq!(machine.host(&config, &Known::default()).len(), 0, "no host of a console");
        config.inbox = Some("/srv/upload/inbox".into());
        config.import.upload_user = Some("upload".into());
        config.accounts.group = Some("admins".into());
        let bare = outcomes(&machine.host(&config, &Known::default()));
        for what in ["consoles", "clock", "inbox", "inbox quota", "inbox watch", "accounts", "sshd"] {
            let expected = if what == "accounts" { Verdict::Ok } else { Verdict::Warn };
            assert!(bare.contains(&(what, expected)), "{what}: {bare:?}");
        }
        assert!(bare.contains(&("upload account", Verdict::Fail)) && bare.contains(&("sudo", Verdict::Ok)), "{bare:?}");

        let me = nix::unistd::geteuid().as_raw();
        write(root, "etc/passwd", &format!("root:x:0:0::/:/bin/sh\nupload:x:{}:1::/:/usr/sbin/nologin\n", me.max(1)));
        write(root, "etc/shadow", "upload:!:1::::::\n");
        write(root, "etc/sudoers", "root ALL=(ALL) ALL\n# upload ALL\n");
        write(root, "run/systemd/timesync/synchronized", "");
        write(root, "etc/systemd/system/multi-user.target.wants/pinfold-import.path", "");
        let sshd =
            "authorizedkeysfile .ssh/a\nMatch group admins\nAuthorizedKeysFile /run/secrets/ssh/authorized_keys/%u\n";
        write(root, "etc/ssh/sshd_config", sshd);
        write(root, "proc/self/mounts", "/dev/x / ext4 rw,usrquota 0 0\n");
        fs::create_dir_all(root.join("srv/upload/inbox")).unwrap();
        fs::set_permissions(root.join("srv/upload/inbox"), PermissionsExt::from_mode(0o700)).unwrap();
        std::os::unix::fs::chown(root.join("srv/upload/inbox"), Some(me.max(1)), None).unwrap();
        fs::create_dir_all(root.join("var/lib/pinfold")).unwrap();
        let known =
            Known { consoles: Some(vec![console(Some(Timestamp::now()), Some("applied"))]), ..Known::default() };
        for (what, outcome) in outcomes(&machine.host(&config, &known)) {
            assert_eq!(outcome, Verdict::Ok, "{what}");
        }
        write(root, "etc/sudoers.d/pinfold", "upload ALL=(root) NOPASSWD: /usr/bin/pinfold\n");
        write(root, "etc/passwd", "upload:x:5:1::/:/bin/bash\n");
        fs::set_permissions(root.join("srv/upload/inbox"), PermissionsExt::from_mode(0o777)).unwrap();
        let worse = outcomes(&machine.host(&config, &known));
        for what in ["sudo", "upload account", "inbox"] {
            assert!(worse.contains(&(what, Verdict::Fail)), "{what}: {worse:?}");
        }
    }

    #[test]
    fn an_import_that_was_long_ago_or_went_wrong_is_told() {
        let now = SystemTime::now();
        let ago = |days: u64| Some(Timestamp::from(now - Duration::from_secs(days * 86_400)));
        let outcome = |console| last_import(&console, now).outcome;
        assert_eq!(outcome(console(None, None)), Verdict::Warn);
        assert_eq!(outcome(console(ago(1), Some("applied"))), Verdict::Ok);
        assert_eq!(outcome(console(ago(40), Some("applied"))), Verdict::Warn);
        assert_eq!(outcome(console(ago(1), Some("partial"))), Verdict::Warn);
    }
}
