//! `pinfold renew`: what ends soon is asked for anew, the answer is taken into use. `pinfold-renew.timer` runs it.
//!
//! Owns the order of a renewal and what is told about it. What fails is noted and tried again later; the pair in use is not
//! touched before the answer was accepted by the same rules as by hand.

use super::cert::args::Renew;
use super::cert::settings;
use super::show::{self, visible};
use super::{Failure, with_stdout};
use crate::cert::{Due, Tried, due};
use crate::config::{Config, Submit};
use crate::control::client::{Client, ClientError};
use crate::delivery::{self, Cancel};
use crate::exit::Exit;
use crate::model::{HostName, Timestamp};
use crate::wire::{CaSign, CertAccept, CertInfo, CertList, CertNote, CertRequest, CertShow};
use serde::Serialize;
use std::path::Path;

/// Days that a certificate of an own authority is good for.
const DAYS: u32 = 90;

/// What became of one certificate.
#[derive(Debug, Serialize)]
struct Renewal {
    host: HostName,
    #[serde(flatten)]
    did: Did,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
enum Did {
    /// It has time.
    NotDue { from: String },
    /// The last try failed, and the next is later; or somebody was asked and did not answer yet.
    Waiting { until: String, reason: Option<String> },
    /// It signed itself: nobody can be asked.
    SelfSigned,
    /// It would be renewed (`--pretend`).
    Would,
    /// The request was handed to somebody who answers later.
    Asked { whom: String },
    /// A new pair is in use.
    Renewed { until: String },
    /// The pair in use stays.
    Failed { reason: String },
}

/// `pinfold renew`
pub fn renew(config: &Config, args: Renew) -> Result<Exit, Failure> {
    let now = args.now.unwrap_or_else(Timestamp::now);
    let before = config.certs.renew_before.as_secs();
    let mut client = Client::connect(config)?;
    let list = CertList { pattern: args.pattern.clone(), warn_within: Some(before), pem: None };
    let listing = super::cert::listing(&mut client, &list)?;
    let mut all = Vec::new();
    for info in &listing.certificates {
        let Some(host) = info.host.clone() else { continue };
        let did = match state(info, i64::try_from(before).unwrap_or(i64::MAX), now, args.force) {
            Some(did) => did,
            None if args.pretend => Did::Would,
            None => attempt(&mut client, config, &host, info, now)?,
        };
        all.push(Renewal { host, did });
    }
    if config.certs.submit == Submit::None && all.iter().any(|o| o.did == Did::Would) {
        print(&all, args.json)?;
        return Err(nobody());
    }
    print(&all, args.json)?;
    let failed = all.iter().any(|o| matches!(o.did, Did::Failed { .. }));
    let done = all.iter().any(|o| matches!(o.did, Did::Renewed { .. } | Did::Asked { .. } | Did::Would));
    Ok(match (failed, done) {
        (true, _) => Exit::Failed,
        (false, true) => Exit::Ok,
        (false, false) => Exit::NothingToDo,
    })
}

/// Why it is not its turn; `None` if it is.
fn state(info: &CertInfo, before: i64, now: Timestamp, force: bool) -> Option<Did> {
    if info.chain == "self-signed" {
        return Some(Did::SelfSigned);
    }
    if force {
        return None;
    }
    let tried = info.renewal.as_ref().map(|r| Tried {
        failures: r.failures,
        last: r.last.secs,
        next: r.next.secs,
        reason: r.reason.clone(),
        asked: None,
    });
    let at = |secs| show::time(Timestamp { secs, nanos: 0 });
    match due(info.not_before.secs, info.not_after.secs, before, tried.as_ref(), now.secs) {
        Due::Later(from) => Some(Did::NotDue { from: at(from) }),
        Due::Waiting(until) => Some(Did::Waiting { until: at(until), reason: tried.and_then(|t| t.reason) }),
        Due::Now => None,
    }
}

/// One renewal. What goes wrong with it is its outcome; an error is one of the daemon's.
fn attempt(
    client: &mut Client,
    config: &Config,
    host: &HostName,
    info: &CertInfo,
    now: Timestamp,
) -> Result<Did, Failure> {
    let did = match ask(client, config, host, info) {
        Ok(did) => did,
        Err(Stop::Unreachable(failure)) => return Err(failure),
        Err(Stop::Failed(reason)) => Did::Failed { reason },
    };
    let note = |reason: Option<String>| CertNote { host: host.clone(), at: now, reason };
    match &did {
        Did::Failed { reason } => drop(client.call(&note(Some(reason.clone())))?),
        Did::Asked { .. } => drop(client.call(&note(None))?),
        _ => {}
    }
    write_home(config, host, info, &did);
    Ok(did)
}

/// Why a renewal goes no further.
enum Stop {
    /// This one failed.
    Failed(String),
    /// The daemon is gone, or locked: so will be all others.
    Unreachable(Failure),
}

impl From<ClientError> for Stop {
    fn from(error: ClientError) -> Self {
        match error.exit() {
            Exit::Unreachable | Exit::Locked => Stop::Unreachable(error.into()),
            _ => Stop::Failed(error.to_string()),
        }
    }
}

fn ask(client: &mut Client, config: &Config, host: &HostName, info: &CertInfo) -> Result<Did, Stop> {
    let answer = match &config.certs.submit {
        Submit::None => return Err(Stop::Unreachable(nobody())),
        Submit::Exec(program) => {
            let request = new_request(client, host)?;
            let cancel = Cancel::new().map_err(|e| Stop::Failed(e.to_string()))?;
            delivery::sign(program, host, &request, &settings(config), &cancel)
                .map_err(|e| Stop::Failed(e.to_string()))?
        }
        Submit::Authority(name) => {
            let name = HostName::parse(name).map_err(|e| Stop::Failed(format!("certs.submit: {e}")))?;
            let request = new_request(client, host)?.into_bytes();
            client.call(&CaSign { name, request, days: DAYS })?.pem.into_bytes()
        }
        Submit::Mail(to) => {
            let request = same_request(client, host, info)?;
            let words = format!(
                "The certificate of {host} ends {}. This is the request for its successor; store the answer with\n\
                 pinfold cert accept FILE\n\n",
                show::time(info.not_after)
            );
            delivery::mail_request(to, host, &words, &request, &settings(config))
                .map_err(|e| Stop::Failed(e.to_string()))?;
            return Ok(Did::Asked { whom: to.clone() });
        }
        Submit::Outbox => {
            let request = same_request(client, host, info)?;
            let folder = config.store.join("outbox/csr");
            let file = put(&folder, &format!("{host}.csr"), &request)
                .map_err(|e| Stop::Failed(format!("{}: {}", folder.display(), e.to_string().to_lowercase())))?;
            return Ok(Did::Asked { whom: file });
        }
    };
    let accept = CertAccept { content: answer, host: Some(host.clone()), whole: Some(true) };
    let stored = client.call(&accept)?;
    Ok(Did::Renewed { until: show::time(stored.not_after) })
}

/// A new key each time: an answer to an older request may be anywhere.
fn new_request(client: &mut Client, host: &HostName) -> Result<String, Stop> {
    let asked = CertRequest { host: host.clone(), subject: None, names: Vec::new(), key_type: None, again: Some(true) };
    Ok(client.call(&asked)?.request)
}

/// The same request again for who answers by hand: he may be about to.
fn same_request(client: &mut Client, host: &HostName, info: &CertInfo) -> Result<String, Stop> {
    match client.call(&CertShow { path: info.path.clone() })?.request {
        Some(request) => Ok(request),
        None => new_request(client, host),
    }
}

/// Whole or not at all, whoever looks there meanwhile.
fn put(folder: &Path, name: &str, text: &str) -> std::io::Result<String> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
    let (file, draft) = (folder.join(name), folder.join(format!(".{name}.new")));
    std::fs::write(&draft, text)?;
    std::fs::rename(&draft, &file)?;
    Ok(file.display().to_string())
}

/// A mail about it, if one is wanted. That it cannot be sent is told, and changes nothing.
fn write_home(config: &Config, host: &HostName, info: &CertInfo, did: &Did) {
    let Some(to) = &config.certs.mail_to else { return };
    let (subject, body) = match did {
        Did::Failed { reason } => (
            "Could not renew the certificate of",
            format!("{reason}\n\nThe one in use stays; it ends {}. It is tried again.\n", show::time(info.not_after)),
        ),
        Did::Renewed { until } if config.certs.mail_success => {
            ("Renewed the certificate of", format!("It is good until {until}.\n"))
        }
        _ => return,
    };
    if let Err(error) = delivery::send(to, &delivery::subject(subject, host), &body, &settings(config)) {
        eprintln!("pinfold: warning: no mail to {to}: {}", visible(&error.to_string()));
    }
}

fn nobody() -> Failure {
    Failure::usage("nobody is configured who gets requests for certificates").hint("certs.submit in the configuration")
}

fn print(all: &[Renewal], json: bool) -> Result<(), Failure> {
    with_stdout(|out| {
        if json {
            return show::json(out, &all);
        }
        for Renewal { host, did } in all {
            let said = match did {
                Did::NotDue { from } => format!("not before {from}"),
                Did::Waiting { until, reason: Some(reason) } => format!("failed, again from {until}: {reason}"),
                Did::Waiting { until, reason: None } => format!("asked for; again from {until}"),
                Did::SelfSigned => "signed itself: pinfold cert selfsign --replace".into(),
                Did::Would => "would be renewed".into(),
                Did::Asked { whom } => format!("request handed to {whom}"),
                Did::Renewed { until } => format!("renewed, good until {until}"),
                Did::Failed { reason } => format!("failed: {reason}"),
            };
            writeln!(out, "{host}: {}", visible(&said))?;
        }
        Ok(())
    })
}
