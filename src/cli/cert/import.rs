//! `cert import`: the pairs among the keys and certificates of a folder, whatever the files are called.

use super::args::Import;
use crate::cert::{CertError, Certificate, Chain, Key, Pile, name_of};
use crate::cli::show::{self, visible};
use crate::cli::{Failure, prompt, take, with_stdout};
use crate::config::Config;
use crate::control::client::Client;
use crate::exit::Exit;
use crate::model::{HostName, SecretPath};
use crate::secret::Secret;
use crate::wire::CertStore;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

/// Files in a folder, folders in it included, at most; and how deep they may be.
const FILES_MAX: usize = 5_000;
const DEPTH_MAX: usize = 8;
/// The largest file that is looked at.
const FILE_MAX: usize = 1 << 20;

/// What became of everything.
#[derive(Debug, Default, Serialize)]
struct Report {
    stored: Vec<Stored>,
    left: Vec<Left>,
}

#[derive(Debug, Serialize)]
struct Stored {
    host: HostName,
    path: Option<SecretPath>,
    key_file: PathBuf,
    certificate_file: PathBuf,
    chain: String,
}

#[derive(Debug, Serialize)]
struct Left {
    file: PathBuf,
    what: String,
    reason: String,
}

impl Report {
    fn leave(&mut self, file: &Path, what: impl Into<String>, reason: impl ToString) {
        self.left.push(Left { file: file.to_owned(), what: what.into(), reason: reason.to_string() });
    }
}

/// Everything that was found.
#[derive(Default)]
struct Found {
    keys: Vec<(PathBuf, Key)>,
    certificates: Vec<(PathBuf, Certificate)>,
}

/// `pinfold cert import`
pub fn import(config: &Config, args: Import) -> Result<Exit, Failure> {
    let passphrase = args.passphrase_file.as_deref().map(take::passphrase).transpose()?;
    let mut files = Vec::new();
    walk(&args.dir, 0, &mut files)?;
    let mut report = Report::default();
    let mut found = Found::default();
    for file in &files {
        read(file, passphrase.as_ref(), &mut found, &mut report)?;
    }
    let pairs = pairs(&found, &mut report);
    let mut client = if args.pretend { None } else { Some(Client::connect(config)?) };
    for (host, (key, certificate)) in pairs {
        let (key_file, key) = &found.keys[key];
        let (certificate_file, leaf) = &found.certificates[certificate];
        let what = format!("the pair for {host}");
        let pool: Vec<Certificate> = found.certificates.iter().map(|(_, c)| c.clone()).collect();
        let chain = match Chain::order(leaf, &pool) {
            Ok(chain) => chain,
            Err(error) => {
                report.leave(certificate_file, what, error);
                continue;
            }
        };
        let content = (leaf.to_pem() + &chain.to_pem()).into_bytes();
        let path = match &mut client {
            None => None,
            Some(client) => {
                let pem = key.to_pem().map_err(|e| Failure::new(Exit::Failed, e.to_string()))?;
                match client.call(&CertStore { host: host.clone(), key: pem, content, replace: Some(args.replace) }) {
                    Ok(stored) => Some(stored.path),
                    Err(error) if error.exit() == Exit::Refused => {
                        report.leave(certificate_file, what, error);
                        continue;
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        };
        report.stored.push(Stored {
            host,
            path,
            key_file: key_file.clone(),
            certificate_file: certificate_file.clone(),
            chain: chain.state.as_str().into(),
        });
    }
    print(&report, args.json, args.pretend)?;
    Ok(if report.stored.is_empty() { Exit::NothingToDo } else { Exit::Ok })
}

/// All regular files below; symlinks are not followed.
fn walk(dir: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), Failure> {
    let fail = |e: std::io::Error| {
        let exit = if e.kind() == std::io::ErrorKind::NotFound { Exit::NotFound } else { Exit::Failed };
        Failure::new(exit, e.to_string().to_lowercase()).about(&dir.display().to_string())
    };
    let mut entries = std::fs::read_dir(dir).map_err(fail)?.collect::<Result<Vec<_>, _>>().map_err(fail)?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let kind = entry.file_type().map_err(fail)?;
        if kind.is_dir() && depth < DEPTH_MAX {
            walk(&entry.path(), depth + 1, files)?;
        } else if kind.is_file() {
            if files.len() >= FILES_MAX {
                return Err(Failure::usage(format!("{}: more than {FILES_MAX} files", dir.display())));
            }
            files.push(entry.path());
        }
    }
    Ok(())
}

fn read(file: &Path, passphrase: Option<&Secret>, found: &mut Found, report: &mut Report) -> Result<(), Failure> {
    let content = match File::open(file).map(|mut from| take::all(&mut from, FILE_MAX)) {
        Ok(content) => content?,
        Err(error) => {
            report.leave(file, "file", error.to_string().to_lowercase());
            return Ok(());
        }
    };
    let Some(content) = content else {
        report.leave(file, "file", format!("larger than {FILE_MAX} bytes"));
        return Ok(());
    };
    let mut pile = match Pile::read(content.expose(), passphrase) {
        Ok(pile) => pile,
        Err(error) => {
            report.leave(file, "file", error);
            return Ok(());
        }
    };
    let locked = |pile: &Pile| pile.unread.iter().any(|u| u.why == CertError::NeedsPassphrase);
    if locked(&pile) && passphrase.is_none() && std::io::stderr().is_terminal() {
        let typed = prompt::ask(&format!("Passphrase of {}: ", visible(&file.display().to_string())))?;
        pile = Pile::read(content.expose(), Some(&typed)).unwrap_or(pile);
    }
    for unread in pile.unread {
        report.leave(file, unread.what, unread.why);
    }
    found.keys.extend(pile.keys.into_iter().map(|key| (file.to_owned(), key)));
    found.certificates.extend(pile.certificates.into_iter().map(|c| (file.to_owned(), c)));
    Ok(())
}

/// For each host the pair that lasts longest; everything else is left, with the reason.
fn pairs(found: &Found, report: &mut Report) -> BTreeMap<HostName, (usize, usize)> {
    let mut pairs: BTreeMap<HostName, (usize, usize)> = BTreeMap::new();
    let mut seen: Vec<usize> = Vec::new();
    for (i, (file, key)) in found.keys.iter().enumerate() {
        if let Some(same) = seen.iter().find(|s| found.keys[**s].1.public() == key.public()) {
            report.leave(file, "private key", format!("the same key as in {}", found.keys[*same].0.display()));
            continue;
        }
        seen.push(i);
        let own = found.certificates.iter().enumerate().filter(|(_, (_, c))| c.public == *key.public());
        let Some((at, (certificate_file, certificate))) = own.max_by_key(|(_, (_, c))| c.not_after) else {
            report.leave(file, "private key", format!("no certificate is for this key ({})", key.public()));
            continue;
        };
        let called = certificate.called().unwrap_or_default();
        let host = match name_of(&called) {
            Ok(host) => host,
            Err(error) => {
                report.leave(certificate_file, format!("certificate '{called}'"), error);
                continue;
            }
        };
        let ends = |pair: &(usize, usize)| found.certificates[pair.1].1.not_after;
        match pairs.get(&host) {
            Some(other) if ends(other) >= certificate.not_after => {
                report.leave(file, format!("the pair for {host}"), "another one for that name lasts longer");
            }
            other => {
                if let Some(other) = other {
                    let file = &found.keys[other.0].0;
                    report.leave(file, format!("the pair for {host}"), "another one for that name lasts longer");
                }
                pairs.insert(host, (i, at));
            }
        }
    }
    for (i, (file, certificate)) in found.certificates.iter().enumerate() {
        let used = pairs.values().any(|(_, at)| *at == i);
        let known = found.certificates[..i].iter().any(|(_, c)| c == certificate);
        let has_key = found.keys.iter().any(|(_, key)| *key.public() == certificate.public);
        if !used && !known && !has_key && !certificate.authority {
            report.leave(file, format!("certificate '{}'", certificate.subject), "its key is not in the folder");
        }
    }
    pairs
}

fn print(report: &Report, json: bool, pretend: bool) -> Result<(), Failure> {
    with_stdout(|out| {
        if json {
            return show::json(out, report);
        }
        for one in &report.stored {
            let (key, certificate) = (one.key_file.display().to_string(), one.certificate_file.display().to_string());
            let did = if pretend { "would be stored" } else { "stored" };
            writeln!(
                out,
                "{}: {did}, from {} and {}, chain {}",
                one.host,
                visible(&key),
                visible(&certificate),
                one.chain
            )?;
        }
        for one in &report.left {
            let file = one.file.display().to_string();
            writeln!(out, "left: {}: {}: {}", visible(&file), visible(&one.what), visible(&one.reason))?;
        }
        Ok(())
    })
}
