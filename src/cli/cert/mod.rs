//! The commands about certificates.
//!
//! Owns what is asked and shown. Keys are made and matched by the daemon; those of a folder that is imported pass through
//! locked memory here.

pub mod args;
mod ca;
mod import;
mod list;
mod verify;

use super::show::{self, visible};
use super::{Failure, take, tree, with_stdout};
use crate::config::Config;
use crate::control::client::Client;
use crate::delivery::{Cancel, RequestTo, Settings, hand_over};
use crate::exit::Exit;
use crate::wire::{CertAccept, CertList, CertListing, CertRequest, CertSelfsign, CertShow, CertStored};
use args::{Accept, Cert, CertAction, Request, Selfsign, Show};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

pub use list::describe;

/// The largest public file that is read: certificates, requests.
const PUBLIC_MAX: u64 = 1 << 20;

/// `pinfold cert`
pub fn cert(config: &Config, args: Cert) -> Result<Exit, Failure> {
    match args.action {
        CertAction::Request(args) => request(config, args),
        CertAction::Accept(args) => accept(config, args),
        CertAction::Import(args) => import::import(config, args),
        CertAction::Ls(args) => list::ls(config, args),
        CertAction::Show(args) => show(config, args),
        CertAction::Verify(args) => verify::verify(config, args),
        CertAction::Selfsign(args) => selfsign(config, args),
        CertAction::Ca(args) => ca::ca(config, args),
    }
}

fn request(config: &Config, args: Request) -> Result<Exit, Failure> {
    let target = args.to.as_deref().map(RequestTo::parse).transpose().map_err(Failure::usage)?;
    let host = args.host.clone();
    let asked = CertRequest {
        host: args.host,
        subject: args.about.subject,
        names: args.about.names,
        key_type: args.about.key_type,
        again: Some(args.again),
    };
    let made = Client::connect(config)?.call(&asked)?;
    if let Some(target) = &target {
        let later = format!("pinfold cert show --request certs/{host}");
        let cancel = Cancel::new().map_err(|e| Failure::new(Exit::Failed, e.to_string()))?;
        hand_over(target, &host, &made.request, &settings(config), &cancel)
            .map_err(|e| Failure::new(Exit::Failed, visible(&e.to_string())).hint(later))?;
    }
    if args.json {
        with_stdout(|out| show::json(out, &made))?;
    } else if target.is_none() {
        to_file_or_stdout(args.out.as_deref(), &made.request)?;
    }
    Ok(Exit::Ok)
}

fn accept(config: &Config, args: Accept) -> Result<Exit, Failure> {
    let content = public_file(&args.file)?;
    let stored = Client::connect(config)?.call(&CertAccept { content, host: args.host, whole: None })?;
    print(&stored, args.json)
}

fn selfsign(config: &Config, args: Selfsign) -> Result<Exit, Failure> {
    let asked = CertSelfsign {
        host: args.host,
        subject: args.about.subject,
        names: args.about.names,
        key_type: args.about.key_type,
        days: args.days,
        replace: Some(args.replace),
    };
    let stored = Client::connect(config)?.call(&asked)?;
    print(&stored, args.json)
}

fn show(config: &Config, args: Show) -> Result<Exit, Failure> {
    let shown = Client::connect(config)?.call(&CertShow { path: tree::path(&args.path, config)? })?;
    if args.request {
        let request = shown.request.ok_or_else(|| {
            Failure::new(Exit::NotFound, format!("{}: no request waits for an answer", visible(&args.path)))
        })?;
        to_file_or_stdout(None, &request)?;
        return Ok(Exit::Ok);
    }
    with_stdout(|out| {
        if args.json {
            return show::json(out, &shown);
        }
        if args.pem {
            return Ok(write!(out, "{}", shown.pem)?);
        }
        match &shown.certificate {
            Some(info) => describe(out, info)?,
            None => writeln!(out, "there is no certificate yet")?,
        }
        if shown.request.is_some() {
            writeln!(out, "request      waits for an answer (--request shows it)")?;
        }
        Ok(())
    })?;
    Ok(Exit::Ok)
}

/// How requests and mail leave this machine: as the daemon's deliveries do, and with the keys of whoever asks.
pub fn settings(config: &Config) -> Settings {
    Settings {
        program: config.certs.timeout,
        ssh_config: config.export.ssh_config.clone(),
        agent: std::env::var_os("SSH_AUTH_SOCK").map(Into::into),
        sendmail: config.sendmail.clone(),
        mountpoint: config.mountpoint.clone(),
        // Somebody waits for it.
        transfer: Duration::from_secs(120),
        ..Settings::default()
    }
}

/// The certificates, however many parts they come in.
pub fn listing(client: &mut Client, list: &CertList) -> Result<CertListing, Failure> {
    let mut all = CertListing::default();
    client.stream(list, |part: CertListing| -> Result<(), Failure> {
        all.certificates.extend(part.certificates);
        all.unread.extend(part.unread);
        Ok(())
    })?;
    Ok(all)
}

/// Says what was stored, and what of it may surprise.
pub(super) fn print(stored: &CertStored, json: bool) -> Result<Exit, Failure> {
    with_stdout(|out| {
        if json {
            return show::json(out, stored);
        }
        let until = show::time(stored.not_after);
        writeln!(out, "{}: version {}, good until {until}, chain {}", stored.path, stored.version, stored.chain)?;
        if !stored.missing.is_empty() {
            writeln!(out, "not in it, though asked for: {}", visible(&stored.missing.join(", ")))?;
        }
        if stored.unused > 0 {
            writeln!(out, "left out: {} that have no place in its chain", stored.unused)?;
        }
        Ok(())
    })?;
    Ok(Exit::Ok)
}

/// What is public: certificates, requests; `-` is stdin.
pub(super) fn public_file(path: &Path) -> Result<Vec<u8>, Failure> {
    let shown = path.display().to_string();
    let fail = |e| take::unreadable(e, &shown);
    let mut content = Vec::new();
    if path == Path::new("-") {
        io::stdin().lock().take(PUBLIC_MAX + 1).read_to_end(&mut content).map_err(fail)?;
    } else {
        File::open(path).map_err(fail)?.take(PUBLIC_MAX + 1).read_to_end(&mut content).map_err(fail)?;
    }
    if content.len() as u64 > PUBLIC_MAX {
        return Err(Failure::usage(format!("{shown}: larger than {PUBLIC_MAX} bytes")));
    }
    Ok(content)
}

/// Public text, to stdout or a file.
pub(super) fn to_file_or_stdout(file: Option<&Path>, text: &str) -> Result<(), Failure> {
    match file.filter(|f| *f != Path::new("-")) {
        Some(file) => std::fs::write(file, text)
            .map_err(|e| Failure::new(Exit::Failed, e.to_string().to_lowercase()).about(&file.display().to_string())),
        None => with_stdout(|out| Ok(out.write_all(text.as_bytes())?)),
    }
}
