//! `cert verify`: time, key and chain of each certificate; and where the chain ends, if that is asked for.

use super::args::Verify;
use super::public_file;
use crate::cert::{Certificate, Chain, Pile};
use crate::cli::show::{self, visible};
use crate::cli::{Failure, with_stdout};
use crate::config::Config;
use crate::control::client::Client;
use crate::exit::Exit;
use crate::model::{SecretPath, Timestamp};
use crate::wire::{CertInfo, CertList};
use serde::Serialize;

#[derive(Debug, Serialize)]
struct Verified {
    path: SecretPath,
    subject: String,
    problems: Vec<String>,
}

/// `pinfold cert verify`
pub fn verify(config: &Config, args: Verify) -> Result<Exit, Failure> {
    let anchors = match &args.ca {
        Some(file) => Some(anchors(&public_file(file)?).map_err(|f| f.about(&file.display().to_string()))?),
        None => None,
    };
    let mut client = Client::connect(config)?;
    let list = CertList { pattern: args.pattern.clone(), warn_within: None, pem: Some(anchors.is_some()) };
    let listing = super::listing(&mut client, &list)?;
    let mut all = Vec::new();
    for info in &listing.certificates {
        let mut problems = problems(info);
        if let Some(anchors) = &anchors {
            problems.extend(anchored(info.pem.as_deref().unwrap_or_default().as_bytes(), anchors).err());
        }
        all.push(Verified { path: info.path.clone(), subject: info.subject.clone(), problems });
    }
    for unread in &listing.unread {
        all.push(Verified { path: unread.path.clone(), subject: String::new(), problems: vec![unread.reason.clone()] });
    }
    if all.is_empty() {
        return Err(Failure::new(Exit::NotFound, "there is no such certificate"));
    }
    with_stdout(|out| {
        if args.json {
            return show::json(out, &all);
        }
        for one in &all {
            let said = if one.problems.is_empty() { "ok".into() } else { one.problems.join("; ") };
            writeln!(out, "{}: {}", visible(&one.path.to_string()), visible(&said))?;
        }
        Ok(())
    })?;
    Ok(if all.iter().all(|one| one.problems.is_empty()) { Exit::Ok } else { Exit::Refused })
}

fn problems(info: &CertInfo) -> Vec<String> {
    let now = Timestamp::now();
    let mut problems = Vec::new();
    if info.not_after <= now {
        problems.push(format!("expired {}", show::time(info.not_after)));
    }
    if info.not_before > now {
        problems.push(format!("not valid before {}", show::time(info.not_before)));
    }
    if let ("mismatch", Some(path)) = (info.key.as_str(), &info.key_path) {
        problems.push(format!("its key is not the one in {path}"));
    }
    if info.host.is_some() && info.key == "none" {
        problems.push("its key is not in the store".into());
    }
    problems.extend(info.chain_reason.clone());
    problems
}

fn anchors(content: &[u8]) -> Result<Vec<Certificate>, Failure> {
    let pile = Pile::read(content, None).map_err(|e| Failure::usage(e.to_string()))?;
    if pile.certificates.is_empty() {
        Err(Failure::usage("there is no certificate in it"))
    } else {
        Ok(pile.certificates)
    }
}

/// Whether the chain ends at one of these.
fn anchored(pem: &[u8], anchors: &[Certificate]) -> Result<(), String> {
    let pile = Pile::read(pem, None).map_err(|e| e.to_string())?;
    let (leaf, above) = pile.certificates.split_first().ok_or("there is no certificate in it")?;
    let pool: Vec<Certificate> = above.iter().chain(anchors).cloned().collect();
    let chain = Chain::order(leaf, &pool).map_err(|e| e.to_string())?;
    let known = chain.above.iter().chain([leaf]).any(|c| anchors.contains(c));
    if known { Ok(()) } else { Err("its chain ends at none of the given authorities".into()) }
}
