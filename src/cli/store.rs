//! The commands about the store and the daemon: init, mount, lock, status, recovery, check-config, fsck, backup,
//! restore.
//!
//! Owns which of them speak to the daemon and which work without one.

use super::args::{Backup, Fsck, Init, Json, Key, Mount, Recovery, RecoveryAction, Restore};
use super::show::{self, visible};
use super::{Failure, prompt, take, tree, with_stdout};
use crate::config::Config;
use crate::control::client::{Client, ClientError};
use crate::daemon::{self, offline};
use crate::exit::Exit;
use crate::wire::{
    self, BackupReport, Extract, FsckReport, GetStatus, Lock, NewRecovery, Protection, RecoveryAdd, RecoveryEscrow,
    RecoveryList, RecoveryRemove, Status,
};
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// `pinfold init`
pub fn init(config: &Config, args: Init) -> Result<Exit, Failure> {
    let recovery = match (args.recovery, args.recovery_out) {
        (Some(recipient), _) => NewRecovery::Recipient(recipient),
        (None, Some(file)) => NewRecovery::Out(absolute(&file)?),
        (None, None) => return Err(Failure::usage("say who can bring the store back: --recovery or --recovery-out")),
    };
    let protection = match (args.passphrase_file, args.keyfile) {
        (_, Some(file)) => Protection::Keyfile(absolute(&file)?),
        (Some(file), None) => Protection::Passphrase(take::passphrase(&file)?),
        (None, None) => Protection::Passphrase(prompt::ask_twice("Passphrase for the store's identity: ")?),
    };
    let unencrypted = matches!(protection, Protection::Keyfile(_));
    let report = offline::init(config, protection, recovery)?;
    with_stdout(|out| {
        if args.json {
            return show::json(out, &report);
        }
        writeln!(out, "store:     {}", visible(&report.store))?;
        writeln!(out, "identity:  {}", visible(&report.identity))?;
        writeln!(out, "recovery:  {}", visible(&report.recovery))?;
        if unencrypted {
            writeln!(
                out,
                "\nWho reads the identity file opens the store: keep it where backups of the store are not."
            )?;
        }
        match &report.recovery_file {
            Some(file) => writeln!(
                out,
                "\nThe recovery key is in {}. Move it off this machine now: it opens everything, and with the\n\
                 identity or its passphrase lost it is the only thing that does.",
                visible(file)
            )?,
            None => writeln!(out, "\nKeep the identity of that recovery recipient off this machine.")?,
        }
        Ok(())
    })?;
    Ok(Exit::Ok)
}

/// `pinfold mount`
pub fn mount(mut config: Config, args: Mount) -> Result<Exit, Failure> {
    if let Some(mountpoint) = args.mountpoint {
        config.mountpoint = absolute(&mountpoint)?;
        config.check_paths()?;
    }
    daemon::run(config, args.hand_over)?;
    Ok(Exit::Ok)
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|e| Failure::usage(format!("{}: {e}", path.display())))
}

/// `pinfold lock`
pub fn lock(config: &Config) -> Result<Exit, Failure> {
    Client::connect(config)?.call(&Lock {})?;
    Ok(Exit::Ok)
}

/// `pinfold status`
pub fn status(config: &Config, args: Json) -> Result<Exit, Failure> {
    let status = Client::connect(config)?.call(&GetStatus {})?;
    with_stdout(|out| if args.json { show::json(out, &status) } else { Ok(print(out, &status)?) })?;
    Ok(Exit::Ok)
}

fn print(out: &mut dyn Write, status: &Status) -> io::Result<()> {
    let mut line = |name: &str, value: &str| writeln!(out, "{name:<12}{}", visible(value));
    let unknown = || "unknown while locked".to_owned();
    let locked = match (status.locked, status.locked_since) {
        (true, Some(since)) => format!("locked since {}", show::time(since)),
        (true, None) => "locked".into(),
        (false, _) => "unlocked".into(),
    };
    line("state", &locked)?;
    let uptime = humantime::format_duration(Duration::from_secs(status.uptime));
    line("daemon", &format!("{}, pid {}, up {uptime}", status.version, status.pid))?;
    line("store", &status.store)?;
    line("mounted", &status.mountpoint)?;
    line("generation", &status.generation.map_or_else(unknown, |g| g.to_string()))?;
    let secrets = match (status.secrets, status.versions) {
        (Some(s), Some(v)) => format!("{s} of {}, {v} versions", status.max_secrets),
        (Some(s), None) => format!("{s} of {}", status.max_secrets),
        (None, _) => unknown(),
    };
    line("secrets", &secrets)?;
    line("quantum", &status.quantum.clone().unwrap_or_else(unknown))?;
    for scope in &status.scopes {
        let instances = if scope.name == "host" { String::new() } else { format!(", {} instances", scope.instances) };
        line("scope", &format!("{}: key {} ({:#x}){instances}", scope.name, scope.key, scope.serial))?;
    }
    if let Some(certs) = &status.certificates {
        let failing = if certs.failing > 0 { format!(", {} cannot be renewed", certs.failing) } else { String::new() };
        let first = match (&certs.soonest, certs.soonest_ends) {
            (Some(path), Some(at)) => format!("; {path} ends first, {}", show::time(at)),
            _ => String::new(),
        };
        line("certs", &format!("{} expired, {} end soon{failing}{first}", certs.expired, certs.expiring))?;
    }
    line("open", &format!("{} handles, {} waiting", status.open_handles, status.waiting))?;
    for limit in status.limits.iter().filter(|limit| limit.refused > 0) {
        let (name, met) = (&limit.name, limit.refused);
        line(
            "limit met",
            &format!("{name}: {met} times; one user may have {}, has at most {}", limit.limit, limit.most),
        )?;
    }
    line("memory", &format!("{} locked of {}", show::bytes(status.arena_used), show::bytes(status.arena_size)))?;
    if status.hosts > 0 {
        let (all, waiting, failing) = (status.hosts, status.hosts_waiting, status.hosts_failing);
        line("hosts", &format!("{all}, {waiting} waiting, {failing} failing"))?;
    }
    let head: String = status.audit_head.chars().take(16).collect();
    let mut audit = format!("{} lines, head {head}", status.audit_count);
    if status.audit_full {
        audit += &format!("; the disk is full, {} are left", show::bytes(status.audit_reserve));
    }
    if status.audit_unrecorded > 0 {
        audit += &format!("; {} events are not recorded", status.audit_unrecorded);
    }
    line("audit", &audit)
}

/// A connection whose next call comes with proof. The key is taken first: the daemon does not wait for who types.
fn proven(key: &Key, config: &Config) -> Result<Client, Failure> {
    let proof = take::key_or_proof(key, config)?;
    let mut client = Client::connect(config)?;
    client.prove(&proof)?;
    Ok(client)
}

/// `pinfold recovery`
pub fn recovery(config: &Config, args: Recovery) -> Result<Exit, Failure> {
    match args.action {
        RecoveryAction::Add { recipient, only, key } => {
            let mut client = proven(&key, config)?;
            let blobs = client.call(&RecoveryAdd { recipient, only })?.blobs;
            with_stdout(|out| {
                let alone = if only { ", and for no other recovery key" } else { "" };
                Ok(writeln!(out, "{blobs} sealed files open for it{alone}")?)
            })?;
        }
        RecoveryAction::Rm { recipient, key } => {
            let mut client = proven(&key, config)?;
            let blobs = client.call(&RecoveryRemove { recipient })?.blobs;
            with_stdout(|out| {
                writeln!(out, "{blobs} sealed files no longer open for it")?;
                Ok(writeln!(out, "Copies it could open before (backups, old disks) it still opens.")?)
            })?;
        }
        RecoveryAction::Escrow => {
            if io::stdout().is_terminal() {
                return Err(Failure::usage("the escrow is sealed, and no text")
                    .hint("pinfold recovery escrow | age -d -i FILE"));
            }
            let escrow = match daemon_if_any(config)? {
                Some(mut client) => client.call(&RecoveryEscrow {})?.escrow,
                None => offline::escrow(config)?,
            };
            with_stdout(|out| Ok(out.write_all(&escrow)?))?;
        }
        RecoveryAction::Ls(Json { json }) => {
            let recipients = Client::connect(config)?.call(&RecoveryList {})?.recipients;
            with_stdout(|out| {
                if json {
                    return show::json(out, &recipients);
                }
                for recipient in &recipients {
                    writeln!(out, "{}", visible(recipient))?;
                }
                Ok(())
            })?;
        }
    }
    Ok(Exit::Ok)
}

/// `pinfold check-config`
pub fn check_config(config: &Config, args: Json) -> Result<Exit, Failure> {
    config.operator_gid()?;
    with_stdout(|out| {
        if args.json {
            return show::json(out, config);
        }
        let text = toml::to_string(config).map_err(io::Error::other)?;
        Ok(out.write_all(text.as_bytes())?)
    })?;
    Ok(Exit::Ok)
}

/// The daemon, if one runs.
fn daemon_if_any(config: &Config) -> Result<Option<Client>, Failure> {
    match Client::connect(config) {
        Ok(client) => Ok(Some(client)),
        Err(ClientError::Unreachable { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// `pinfold fsck`
pub fn fsck(config: &Config, args: Fsck) -> Result<Exit, Failure> {
    if let Some(typed) = &args.extract {
        return extract(config, typed, &args);
    }
    let asked = wire::Fsck { open: args.deep };
    let report = match daemon_if_any(config)? {
        Some(mut client) => client.call(&asked)?,
        None => offline::fsck(config, take::key_or_proof(&args.key, config)?, asked)?,
    };
    with_stdout(|out| if args.json { show::json(out, &report) } else { Ok(print_fsck(out, &report)?) })?;
    match report.problems.len() {
        0 => Ok(Exit::Ok),
        n => {
            let what = if n == 1 { "one problem".into() } else { format!("{n} problems") };
            Err(Failure::new(Exit::Damaged, format!("the store is damaged: {what}"))
                .hint("move the store away, then: pinfold restore FILE, from the last backup that is whole"))
        }
    }
}

fn print_fsck(out: &mut dyn Write, report: &FsckReport) -> io::Result<()> {
    for problem in &report.problems {
        writeln!(out, "{}: {}", visible(&problem.what), visible(&problem.problem))?;
    }
    let how = if report.opened { "opened" } else { "compared" };
    writeln!(out, "generation {}: {} nodes, {} sealed files {how}", report.generation, report.nodes, report.blobs)
}

fn extract(config: &Config, typed: &str, args: &Fsck) -> Result<Exit, Failure> {
    if io::stdout().is_terminal() {
        return Err(
            Failure::usage("the sealed file is not text").hint(format!("pinfold fsck --extract {typed} > x.age"))
        );
    }
    let asked = Extract { path: tree::path(typed, config)?, version: args.version };
    let blob = match daemon_if_any(config)? {
        Some(_) => proven(&args.key, config)?.call(&asked)?.blob,
        None => offline::extract(config, take::key_or_proof(&args.key, config)?, asked)?,
    };
    with_stdout(|out| Ok(out.write_all(&blob)?))?;
    Ok(Exit::Ok)
}

/// `pinfold backup`
pub fn backup(config: &Config, args: Backup) -> Result<Exit, Failure> {
    if args.file == Path::new("-") {
        if io::stdout().is_terminal() {
            return Err(Failure::usage("a backup is not text").hint("pinfold backup FILE"));
        }
        with_stdout(|mut out| write_backup(config, &mut out).map(|_| ()))?;
        return Ok(Exit::Ok);
    }
    if args.file.exists() && !args.force {
        return Err(Failure::new(Exit::Refused, format!("{}: is there already", args.file.display())).hint("--force"));
    }
    let report = into_file(&args.file, |out| write_backup(config, out))?;
    with_stdout(|out| {
        if args.json {
            return show::json(out, &report);
        }
        let BackupReport { generation, nodes, blobs, bytes } = report;
        Ok(writeln!(out, "generation {generation}: {nodes} nodes, {blobs} sealed files, {}", show::bytes(bytes))?)
    })?;
    Ok(Exit::Ok)
}

fn write_backup(config: &Config, out: &mut dyn Write) -> Result<BackupReport, Failure> {
    let Some(mut client) = daemon_if_any(config)? else { return Ok(offline::backup(config, out)?) };
    let mut report = None;
    client.stream(&wire::Backup {}, |part| {
        report = part.report;
        Ok::<_, Failure>(out.write_all(&part.data)?)
    })?;
    report.ok_or_else(|| Failure::new(Exit::Failed, "the daemon sent no end of the backup"))
}

/// Writes beside the file and renames when it is whole and on disk: half a backup never has a backup's name.
fn into_file<T>(file: &Path, write: impl FnOnce(&mut dyn Write) -> Result<T, Failure>) -> Result<T, Failure> {
    let fail = |e: io::Error| Failure::new(Exit::Failed, format!("{}: {e}", file.display()));
    let Some(name) = file.file_name() else { return Err(Failure::usage(format!("{}: names no file", file.display()))) };
    let mut beside = name.to_owned();
    beside.push(format!(".{}.part", std::process::id()));
    let beside = file.with_file_name(beside);
    let mut out = File::options().write(true).create_new(true).mode(0o600).open(&beside).map_err(fail)?;
    let done = write(&mut out).and_then(|report| {
        out.sync_all().map_err(fail)?;
        std::fs::rename(&beside, file).map_err(fail)?;
        let folder = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|f| f.sync_all()).map_err(fail)?;
        Ok(report)
    });
    if done.is_err() {
        let _ = std::fs::remove_file(&beside);
    }
    done
}

/// `pinfold restore`
pub fn restore(config: &Config, args: Restore) -> Result<Exit, Failure> {
    if daemon_if_any(config)?.is_some() {
        return Err(Failure::new(Exit::Refused, "the daemon is running on this store").hint("systemctl stop pinfold"));
    }
    let mut from = if args.file == Path::new("-") {
        take::stdin()?
    } else {
        File::open(&args.file).map_err(|e| {
            let exit = if e.kind() == io::ErrorKind::NotFound { Exit::NotFound } else { Exit::Failed };
            Failure::new(exit, format!("{}: {e}", args.file.display()))
        })?
    };
    let report = offline::restore(config, &mut from, take::named_or_configured(&args.key, config)?)?;
    with_stdout(|out| {
        if args.json {
            return show::json(out, &report);
        }
        Ok(writeln!(
            out,
            "generation {}: {} nodes, {} sealed files in {}",
            report.generation,
            report.nodes,
            report.blobs,
            visible(&report.store)
        )?)
    })?;
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn half_a_file_never_has_the_name() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("b.tar");
        let failed = into_file(&file, |out| {
            out.write_all(b"half")?;
            Err::<(), _>(Failure::new(Exit::Locked, "x"))
        });
        assert_eq!(failed.unwrap_err().exit(), Exit::Locked);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        into_file(&file, |out| Ok(out.write_all(b"whole")?)).unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"whole");
        assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_locked_status_says_what_it_does_not_know() {
        let mut out = Vec::new();
        let status = Status { locked: true, store: "/s\n".into(), uptime: 3700, ..Status::default() };
        print(&mut out, &status).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("state       locked\n"), "{text}");
        assert!(text.contains("store       /s\\n\n") && text.contains("up 1h 1m 40s"), "{text}");
        assert!(text.contains("secrets     unknown while locked\n"), "{text}");
        assert!(text.contains("quantum     unknown while locked\n"), "{text}");
    }

    #[test]
    fn the_shown_configuration_is_a_configuration() {
        let mut config = Config { operator_group: Some("adm".into()), ..Config::default() };
        let options = crate::config::ProgramOptions {
            args: vec!["--a=b".into()],
            env: [("X".to_owned(), "y".to_owned())].into(),
            timeout: Some(Duration::from_secs(90)),
            ..Default::default()
        };
        config.unlock.program.insert("clevis".into(), options);
        config.lock_after = Some(Duration::from_secs(3600));
        let text = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<Config>(&text).unwrap(), config, "{text}");
    }
}
