//! `pinfold passwd`, `identity` and `rekey`: what opens the store's identity, and a new identity.
//!
//! Owns what is done on this side of the socket: clevis and age are run here, and a key file is written here.

use super::args::{Identity, IdentityAction, IdentityAdd, Json, OldKey, Passwd, Rekey};
use super::show::{self, visible};
use super::{Failure, take, with_stdout};
use crate::config::Config;
use crate::control::client::Client;
use crate::exit::Exit;
use crate::run::{self, End, Input, Manner, Take};
use crate::seal::{self, Protection};
use crate::secret::Secret;
use crate::stream::{Recipient, RecipientUse};
use crate::wire::{self, IdentityList, IdentityRemove, UnlockWith};
use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Random bytes in a passphrase that nobody has to type.
const RANDOM: usize = 32;
/// How long a program has to encrypt a passphrase: somebody may have to touch a token.
const WITHIN: Duration = Duration::from_secs(120);
/// The longest that an encrypted passphrase is.
const SEALED_MAX: usize = 64 << 10;

/// `pinfold passwd`
pub fn passwd(config: &Config, args: Passwd) -> Result<Exit, Failure> {
    not_twice_stdin(&args.old, args.passphrase_file.as_deref())?;
    let old = take::old(&args.old, config)?;
    let passphrase = take::new_passphrase(args.passphrase_file.as_deref())?;
    let add = wire::IdentityAdd { passphrase: Some(passphrase), replace: true, ..add(old) };
    Client::connect(config)?.call(&add)?;
    if let Some(file) = &config.unlock.passphrase_file {
        with_stdout(|out| {
            let file = file.display().to_string();
            Ok(writeln!(out, "The daemon unlocks with {} at its start: put the new passphrase there.", visible(&file))?)
        })?;
    }
    Ok(Exit::Ok)
}

/// `pinfold identity`
pub fn identity(config: &Config, args: Identity) -> Result<Exit, Failure> {
    match args.action {
        IdentityAction::Add(args) => add_one(config, args),
        IdentityAction::Rm { name } => {
            Client::connect(config)?.call(&IdentityRemove { name })?;
            Ok(Exit::Ok)
        }
        IdentityAction::Ls(Json { json }) => {
            let protectors = Client::connect(config)?.call(&IdentityList {})?.protectors;
            with_stdout(|out| {
                if json {
                    return show::json(out, &protectors);
                }
                for protector in &protectors {
                    writeln!(out, "{:<24}{}", visible(&protector.name), visible(&protector.opened_by))?;
                }
                Ok(())
            })?;
            Ok(Exit::Ok)
        }
    }
}

fn add_one(config: &Config, args: IdentityAdd) -> Result<Exit, Failure> {
    not_twice_stdin(&args.old, args.passphrase_file.as_deref())?;
    let old = take::old(&args.old, config)?;
    let request = wire::IdentityAdd { name: Some(args.name.clone()), ..add(old) };
    if let Some(recipient) = &args.plugin {
        Recipient::parse(recipient, RecipientUse::Program).map_err(|e| Failure::usage(e.to_string()))?;
    }
    let (program, folder, ending) = match (args.clevis.as_deref(), &args.plugin) {
        (Some([pin, config]), _) => (vec!["clevis", "encrypt", pin, config], "/etc/pinfold/clevis", "jwe"),
        (_, Some(recipient)) => (vec!["age", "--encrypt", "--recipient", recipient], "/etc/pinfold/age", "age"),
        _ => {
            let request = match args.recipient {
                Some(recipient) => wire::IdentityAdd { recipient: Some(recipient), ..request },
                None => {
                    let passphrase = take::new_passphrase(args.passphrase_file.as_deref())?;
                    wire::IdentityAdd { passphrase: Some(passphrase), ..request }
                }
            };
            Client::connect(config)?.call(&request)?;
            return Ok(Exit::Ok);
        }
    };
    let file = args.out.unwrap_or_else(|| Path::new(folder).join(format!("{}.{ending}", args.name)));
    let passphrase = random_passphrase()?;
    let sealed = encrypt_with(&program, &passphrase, WITHIN)?;
    write_new(&file, &sealed, 0o644)?;
    let request = wire::IdentityAdd { passphrase: Some(passphrase), ..request };
    if let Err(error) = Client::connect(config).and_then(|mut client| client.call(&request)) {
        let _ = std::fs::remove_file(&file);
        return Err(error.into());
    }
    let file = file.display().to_string();
    with_stdout(|out| Ok(writeln!(out, "{}: whoever can decrypt it opens the store", visible(&file))?))?;
    Ok(Exit::Ok)
}

/// `pinfold rekey`
pub fn rekey(config: &Config, args: Rekey) -> Result<Exit, Failure> {
    not_twice_stdin(&args.old, args.new_passphrase_file.as_deref())?;
    let old = take::old(&args.old, config)?;
    let mut request = wire::Rekey { drop_others: args.drop_others, ..wire::Rekey::default() };
    match old {
        UnlockWith::Passphrase(p) => request.old_passphrase = Some(p),
        UnlockWith::Identity(i) | UnlockWith::Recovery(i) => request.old_identity = Some(i),
    }
    let done = match &args.new_keyfile {
        None => {
            request.passphrase = Some(take::new_passphrase(args.new_passphrase_file.as_deref())?);
            Client::connect(config)?.call(&request)?
        }
        Some(file) => into_keyfile(config, request, file)?,
    };
    with_stdout(|out| {
        if args.json {
            return show::json(out, &done);
        }
        writeln!(out, "{} sealed files have new keys; the identity is {}", done.blobs, visible(&done.recipient))?;
        for name in &done.dropped {
            writeln!(out, "gone: {}, which opened the old identity", visible(name))?;
        }
        Ok(writeln!(out, "Backups from before still open with the old identity.")?)
    })?;
    Ok(Exit::Ok)
}

/// The new identity is on disk beside the old one before the daemon hears of it, and takes its place after: whichever the
/// store has, its file is there. The daemon tries both at its start.
fn into_keyfile(config: &Config, mut request: wire::Rekey, file: &Path) -> Result<wire::Rekeyed, Failure> {
    let fail = |e: io::Error| Failure::new(Exit::Failed, format!("{}: {e}", file.display()));
    let (_, text) = seal::new_identity(&Protection::Plain).map_err(|e| Failure::new(Exit::Failed, e.to_string()))?;
    let beside = crate::unlock::next_keyfile(file);
    write_new(&beside, &text, 0o600)?;
    request.identity = Some(Secret::copy_of(&text)?);
    let done = match Client::connect(config).and_then(|mut client| client.call(&request)) {
        Ok(done) => done,
        Err(error) => {
            let failure = Failure::from(error);
            return Err(failure.hint(format!(
                "if the store opens with {} still, remove {1}; if not, put {1} in its place",
                file.display(),
                beside.display()
            )));
        }
    };
    std::fs::rename(&beside, file).and_then(|()| File::open(folder_of(file))?.sync_all()).map_err(fail)?;
    Ok(done)
}

fn add(old: UnlockWith) -> wire::IdentityAdd {
    match old {
        UnlockWith::Passphrase(p) => wire::IdentityAdd { old_passphrase: Some(p), ..wire::IdentityAdd::default() },
        UnlockWith::Identity(i) | UnlockWith::Recovery(i) => {
            wire::IdentityAdd { old_identity: Some(i), ..wire::IdentityAdd::default() }
        }
    }
}

fn not_twice_stdin(old: &OldKey, new: Option<&Path>) -> Result<(), Failure> {
    let stdin = Some(Path::new("-"));
    let olds = [old.old_passphrase_file.as_deref(), old.old_keyfile.as_deref()];
    if new == stdin && olds.contains(&stdin) {
        return Err(Failure::usage("the old and the new cannot both come from stdin"));
    }
    Ok(())
}

/// As text, since a passphrase is text.
fn random_passphrase() -> Result<Secret, Failure> {
    let random = Secret::random(RANDOM)?;
    let mut text = Secret::zeroed(2 * RANDOM)?;
    for (pair, byte) in text.expose_mut().chunks_exact_mut(2).zip(random.expose()) {
        for (digit, half) in pair.iter_mut().zip([byte >> 4, byte & 15]) {
            *digit = b"0123456789abcdef"[usize::from(half)];
        }
    }
    Ok(text)
}

/// What a program of the admin's own makes of a passphrase: so long it has, and [`SEALED_MAX`].
fn encrypt_with(words: &[&str], passphrase: &Secret, within: Duration) -> Result<Vec<u8>, Failure> {
    let (name, args) = words.split_first().expect("a program has a name");
    let fail = |e: io::Error| Failure::new(Exit::Failed, format!("{name}: {e}")).hint(format!("apt install {name}"));
    let mut said = Vec::new();
    let program = run::Program {
        args: args.iter().map(Into::into).collect(),
        stdin: Input::Bytes(passphrase.expose()),
        stdout: Take::All(&mut said, SEALED_MAX),
        // Somebody may be asked to touch a token.
        ..run::Program::new(Path::new(name), Manner::Foreground, Some(Instant::now() + within))
    };
    let ended = program.run().map_err(fail)?;
    let complaint = match ended.end {
        End::Itself(status) if status.success() && !said.is_empty() => {
            if !ended.sent {
                return Err(fail(io::ErrorKind::BrokenPipe.into()));
            }
            return Ok(said);
        }
        End::Itself(status) => status.to_string(),
        End::Late | End::Cancelled => format!("it took longer than {} s, and was stopped", within.as_secs()),
        End::TooMuch => format!("it said more than {SEALED_MAX} bytes"),
        End::Lost(error) => error.to_string(),
    };
    Err(Failure::new(Exit::Failed, format!("{} did not encrypt: {complaint}", words.join(" "))))
}

fn folder_of(file: &Path) -> PathBuf {
    file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned()
}

/// A file that was not there, durable.
fn write_new(file: &Path, bytes: &[u8], mode: u32) -> Result<(), Failure> {
    let fail = |e: io::Error| {
        let exit = if e.kind() == io::ErrorKind::AlreadyExists { Exit::Refused } else { Exit::Failed };
        Failure::new(exit, format!("{}: {e}", file.display()))
    };
    let folder = folder_of(file);
    if !folder.exists() {
        DirBuilder::new().recursive(true).mode(0o755).create(&folder).map_err(fail)?;
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755)).map_err(fail)?;
    }
    let mut out = File::options().write(true).create_new(true).mode(mode).open(file).map_err(fail)?;
    // The umask of a hardened process would close it, and the folder above, to those who are to read it.
    nix::sys::stat::fchmod(&out, nix::sys::stat::Mode::from_bits_truncate(mode)).map_err(|e| fail(e.into()))?;
    let done = out.write_all(bytes).and_then(|()| out.sync_all()).and_then(|()| File::open(&folder)?.sync_all());
    done.map_err(|e| {
        let _ = std::fs::remove_file(file);
        fail(e)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_made_passphrase_is_text_and_never_the_same() {
        let (one, two) = (random_passphrase().unwrap(), random_passphrase().unwrap());
        assert!(one.len() == 64 && one.expose().iter().all(u8::is_ascii_hexdigit));
        assert_ne!(one.expose(), two.expose());
    }

    #[test]
    fn a_program_that_never_ends_or_never_stops_talking_is_stopped() {
        let passphrase = random_passphrase().unwrap();
        let told = |script: &str, within| {
            let begun = std::time::Instant::now();
            let made = encrypt_with(&["sh", "-c", script], &passphrase, within);
            assert!(begun.elapsed() < Duration::from_secs(20), "{script}");
            made.map_err(|failure| failure.message().to_owned())
        };
        let (short, long) = (Duration::from_millis(300), Duration::from_secs(60));
        assert_eq!(told("cat", long).unwrap(), passphrase.expose());
        assert!(told("exec sleep 1000", short).unwrap_err().contains("took longer"));
        assert!(told("exec yes", long).unwrap_err().contains("more than 65536 bytes"));
        assert!(told("true", long).unwrap_err().contains("did not encrypt"));
        assert!(told("cat; exit 3", long).unwrap_err().contains("exit status: 3"));
    }

    #[test]
    fn stdin_is_read_once() {
        let old = OldKey { old_passphrase_file: Some("-".into()), old_keyfile: None };
        assert_eq!(not_twice_stdin(&old, Some(Path::new("-"))).unwrap_err().exit(), Exit::Usage);
        assert!(not_twice_stdin(&old, Some(Path::new("f"))).is_ok());
        assert!(not_twice_stdin(&OldKey::default(), Some(Path::new("-"))).is_ok());
    }

    #[test]
    fn what_is_there_is_not_written_over() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a/b.jwe");
        write_new(&file, b"x", 0o644).unwrap();
        assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o777, 0o644);
        assert_eq!(write_new(&file, b"y", 0o644).unwrap_err().exit(), Exit::Refused);
        assert_eq!(std::fs::read(&file).unwrap(), b"x");
    }
}
