//! `cert ls`, and how one certificate is shown.

use super::args::Ls;
use crate::cli::show::{self, Side, visible};
use crate::cli::{Failure, with_stdout};
use crate::config::Config;
use crate::control::client::Client;
use crate::exit::Exit;
use crate::model::Timestamp;
use crate::wire::{CertInfo, CertList};
use std::io::{self, IsTerminal, Write};

/// Days from which on it is yellow, and red.
const SOON: (i64, i64) = (30, 7);

/// `pinfold cert ls`
pub fn ls(config: &Config, args: Ls) -> Result<Exit, Failure> {
    let list = CertList { pattern: args.pattern, warn_within: None, pem: None };
    let mut listing = super::listing(&mut Client::connect(config)?, &list)?;
    if let Some(within) = args.expiring {
        let end = Timestamp::now().secs.saturating_add(i64::try_from(within).unwrap_or(i64::MAX));
        listing.certificates.retain(|info| info.not_after.secs <= end);
        listing.unread.clear();
    }
    let coloured = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    with_stdout(|out| {
        if args.json {
            return show::json(out, &listing);
        }
        let mut table = Vec::new();
        let rows: Vec<Vec<String>> = listing.certificates.iter().map(row).collect();
        show::columns(&mut table, &[Side::Left, Side::Right, Side::Left, Side::Left, Side::Left, Side::Left], &rows)?;
        let table = String::from_utf8_lossy(&table).into_owned();
        for (line, info) in table.lines().zip(&listing.certificates) {
            match colour(info).filter(|_| coloured) {
                Some(code) => writeln!(out, "\x1b[{code}m{line}\x1b[0m")?,
                None => writeln!(out, "{line}")?,
            }
        }
        for unread in &listing.unread {
            writeln!(out, "{}: {}", visible(&unread.path.to_string()), visible(&unread.reason))?;
        }
        Ok(())
    })?;
    let any = args.expiring.is_some() && !listing.certificates.is_empty();
    Ok(if any { Exit::Failed } else { Exit::Ok })
}

fn row(info: &CertInfo) -> Vec<String> {
    let names = if info.names.is_empty() { info.subject.clone() } else { info.names.join(" ") };
    vec![
        visible(&info.path.to_string()).into_owned(),
        days(info.days_left),
        format!("key {}", info.key),
        format!("chain {}", info.chain),
        show::time(info.not_after).chars().take(10).collect(),
        visible(&names).into_owned(),
    ]
}

fn days(left: i64) -> String {
    match left {
        1 => "1 day".into(),
        n if n < 0 => "expired".into(),
        n => format!("{n} days"),
    }
}

/// The colour of a line, as a number of SGR (ECMA-48).
fn colour(info: &CertInfo) -> Option<u8> {
    let wrong = info.key == "mismatch" || info.chain == "broken";
    match info.days_left {
        left if left < SOON.1 || wrong => Some(31),
        left if left < SOON.0 => Some(33),
        _ => None,
    }
}

/// All that is known of one.
pub fn describe(out: &mut dyn Write, info: &CertInfo) -> Result<(), Failure> {
    let mut line = |name: &str, value: &str| writeln!(out, "{name:<13}{}", visible(value));
    line("path", &info.path.to_string())?;
    if let Some(host) = &info.host {
        line("host", host.as_str())?;
    }
    line("subject", &info.subject)?;
    line("names", &info.names.join(", "))?;
    line("issuer", &info.issuer)?;
    line("serial", &info.serial)?;
    line("sha256", &info.fingerprint)?;
    line("not before", &show::time(info.not_before))?;
    line("not after", &format!("{} ({})", show::time(info.not_after), days(info.days_left)))?;
    line("key", &format!("{}, {}", info.key_type, key(info)))?;
    let reason = info.chain_reason.as_ref().map(|r| format!(": {r}")).unwrap_or_default();
    line("chain", &format!("{}, {} above it{reason}", info.chain, info.above))?;
    if let Some(renewal) = &info.renewal {
        let next = show::time(renewal.next);
        match &renewal.reason {
            Some(reason) => {
                line("renewal", &format!("failed {} times, again from {next}: {reason}", renewal.failures))?
            }
            None => line("renewal", &format!("asked for {}", show::time(renewal.last)))?,
        }
    }
    Ok(())
}

fn key(info: &CertInfo) -> String {
    match (info.key.as_str(), &info.key_path) {
        ("match", Some(path)) => format!("in {path}"),
        ("mismatch", Some(path)) => format!("not the one in {path}"),
        _ => "not in the store".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_soon_or_is_wrong_is_red() {
        let info = |days_left, key: &str| CertInfo {
            path: crate::model::SecretPath::parse("a").unwrap(),
            host: None,
            subject: "CN=a".into(),
            names: vec!["DNS:a".into()],
            issuer: String::new(),
            serial: String::new(),
            fingerprint: String::new(),
            not_before: Timestamp::default(),
            not_after: Timestamp { secs: 1_700_000_000, nanos: 0 },
            days_left,
            key_type: "ed25519".into(),
            authority: false,
            key: key.into(),
            key_path: None,
            chain: "open".into(),
            chain_reason: None,
            above: 0,
            renewal: None,
            pem: None,
        };
        let of = |days, key| colour(&info(days, key));
        assert_eq!((of(-1, "match"), of(6, "match"), of(7, "match")), (Some(31), Some(31), Some(33)));
        assert_eq!((of(29, "match"), of(30, "match"), of(300, "mismatch")), (Some(33), None, Some(31)));
        assert_eq!(row(&info(-3, "none"))[..3], ["a", "expired", "key none"]);
        assert_eq!(row(&info(12, "match"))[4..], ["2023-11-14", "DNS:a"]);
    }
}
