//! Programs that change a password of one service: the contract of `rotate.d` (docs/passwords.md).
//!
//! Owns which program is run, and what its exit status means. The passwords go through its standard input.

use super::Failure;
use super::child::{Ended, Input, run};
use super::remote::{Accepted, Changed, FarSide};
use crate::config::Config;
use crate::exit::Exit;
use crate::model::PasswordName;
use crate::run::{Manner, Program};
use crate::secret::Secret;
use crate::sys::arena::ArenaFull;
use crate::trust;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The contract's format and version.
const FORMAT: &str = "pinfold-rotate/1";

/// One program.
pub struct Exec {
    program: PathBuf,
    limit: Duration,
}

impl Exec {
    /// The program for a service: the configured one, else the first of its name in the folders.
    ///
    /// # Errors
    /// Refused if others could have written it.
    pub fn find(config: &Config, service: &str) -> Result<Option<Self>, Failure> {
        let passwords = &config.passwords;
        let configured = passwords.service.get(service).and_then(|how| how.strip_prefix("exec:")).map(PathBuf::from);
        let named = passwords.programs.iter().map(|folder| folder.join(service)).find(|path| path.exists());
        let Some(program) = configured.or(named) else { return Ok(None) };
        match whose(&program) {
            Ok(()) => Ok(Some(Exec { program, limit: passwords.timeout })),
            Err(why) => Err(Failure::new(Exit::Refused, format!("{}: {why}", program.display()))),
        }
    }

    fn run(&self, verb: &str, name: &PasswordName, passwords: &[&Secret]) -> Result<Ended, String> {
        let input = lines(verb, name, passwords).map_err(|e| e.to_string())?;
        let until = Instant::now() + self.limit;
        let mut program = Program::new(&self.program, Manner::Group(None), Some(until));
        program.args = vec![verb.into()];
        let limit = self.limit.as_secs().to_string();
        let [user, host, service] = [name.user(), name.host(), name.service()];
        let told = [("USER", user), ("HOST", host), ("SERVICE", service), ("TIMEOUT", &limit)];
        program.env.extend(told.map(|(what, is)| (format!("PINFOLD_{what}").into(), is.into())));
        run(program, Input::Bytes(input.expose()), passwords).map_err(|e| format!("{}: {e}", self.program.display()))
    }
}

impl FarSide for Exec {
    fn change(&self, name: &PasswordName, old: &Secret, new: &Secret) -> Changed {
        match self.run("change", name, &[old, new]) {
            Ok(ended) => match ended.code() {
                Some(0) => Changed::Yes,
                Some(1) => Changed::No(ended.why()),
                _ => Changed::Unknown(ended.why()),
            },
            // It was not started.
            Err(why) => Changed::No(why),
        }
    }

    fn verify(&self, name: &PasswordName, password: &Secret) -> Accepted {
        match self.run("verify", name, &[password]) {
            Ok(ended) => match ended.code() {
                Some(0) => Accepted::Yes,
                Some(1) => Accepted::No(ended.why()),
                _ => Accepted::Unknown(ended.why()),
            },
            Err(why) => Accepted::Unknown(why),
        }
    }
}

/// The header, then each password in a line of its own.
fn lines(verb: &str, name: &PasswordName, passwords: &[&Secret]) -> Result<Secret, ArenaFull> {
    let header = serde_json::json!({
        "format": FORMAT, "verb": verb, "user": name.user(), "host": name.host(), "service": name.service(),
    });
    let mut all = Secret::copy_of(format!("{header}\n").as_bytes())?;
    for password in passwords {
        let at = all.len();
        all.resize(at + password.len() + 1)?;
        all.expose_mut()[at..at + password.len()].copy_from_slice(password.expose());
        *all.expose_mut().last_mut().expect("it has a line") = b'\n';
    }
    Ok(all)
}

/// Whether nobody but root and who runs this could have written it, or put another in its place.
fn whose(program: &Path) -> Result<(), String> {
    let said = |e: std::io::Error| e.to_string().to_lowercase();
    let real = program.canonicalize().map_err(said)?;
    match trust::program(&real).map_err(said)? {
        None => Ok(()),
        Some(why) => Err(why.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn secret(text: &str) -> Secret {
        Secret::copy_of(text.as_bytes()).unwrap()
    }

    fn program(folder: &Path, text: &str, mode: u32) -> Config {
        let path = folder.join("svc");
        crate::testkit::program(&path, text);
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        let mut config = Config::default();
        config.passwords.programs = vec![folder.into()];
        config
    }

    #[test]
    fn the_contract_is_a_header_and_lines_and_three_exit_codes() {
        let folder = tempfile::tempdir().unwrap();
        let text = "#!/bin/sh\nread -r header; IFS= read -r one; IFS= read -r two
            case $1:$one:$two in 'change:o ld:n:ew') exit 0 ;; change:fail:*) echo \"no: $two\" >&2; exit 1 ;;
            verify:n:ew:) case $header in *'\"user\":\"u\"'*) [ \"$PINFOLD_USER@$PINFOLD_HOST:$PINFOLD_SERVICE\" = u@h:svc ] && exit 0 ;; esac; exit 9 ;;
            verify:wrong:) exit 1 ;; *) exit 2 ;; esac\n";
        let config = program(folder.path(), text, 0o755);
        let exec = Exec::find(&config, "svc").unwrap().unwrap();
        let name = PasswordName::parse("u@h:svc").unwrap();
        assert_eq!(exec.change(&name, &secret("o ld"), &secret("n:ew")), Changed::Yes);
        assert_eq!(exec.change(&name, &secret("fail"), &secret("new")), Changed::No("no: …".into()));
        assert!(matches!(exec.change(&name, &secret("odd"), &secret("new")), Changed::Unknown(_)));
        assert_eq!(exec.verify(&name, &secret("n:ew")), Accepted::Yes);
        assert!(matches!(exec.verify(&name, &secret("wrong")), Accepted::No(_)));
        assert!(matches!(exec.verify(&name, &secret("odd")), Accepted::Unknown(_)));
        assert!(Exec::find(&config, "other").unwrap().is_none());
    }

    #[test]
    fn a_program_that_others_can_write_is_not_run() {
        let folder = tempfile::tempdir().unwrap();
        for mode in [0o777, 0o775, 0o644] {
            let config = program(folder.path(), "#!/bin/sh\n", mode);
            assert!(Exec::find(&config, "svc").is_err(), "{mode:o}");
        }
        let config = program(folder.path(), "#!/bin/sh\n", 0o755);
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o777)).unwrap();
        assert!(Exec::find(&config, "svc").is_err());
        // Who can write the folder above puts another folder in its place.
        let below = folder.path().join("rotate.d");
        std::fs::create_dir(&below).unwrap();
        std::fs::set_permissions(&below, PermissionsExt::from_mode(0o755)).unwrap();
        let config = program(&below, "#!/bin/sh\n", 0o755);
        assert!(Exec::find(&config, "svc").is_err());
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o700)).unwrap();
        assert!(Exec::find(&config, "svc").unwrap().is_some());
    }
}
