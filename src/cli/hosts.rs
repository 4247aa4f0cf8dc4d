//! `pinfold hosts`: how far each host's bundles got.

use super::args::Json;
use super::show::{self, Side, visible};
use super::{Failure, with_stdout};
use crate::config::Config;
use crate::control::client::Client;
use crate::exit::Exit;
use crate::model::Timestamp;
use crate::wire::{GetHosts, HostInfo};
use std::time::Duration;

/// `pinfold hosts`
pub fn hosts(config: &Config, args: Json) -> Result<Exit, Failure> {
    let mut all: Vec<HostInfo> = Vec::new();
    Client::connect(config)?.stream(&GetHosts {}, |part| {
        all.extend(part.hosts);
        Ok::<(), Failure>(())
    })?;
    let now = Timestamp::now();
    with_stdout(|out| {
        if args.json {
            return show::json(out, &all);
        }
        let heading =
            ["host", "made", "age", "delivered", "acknowledged", "key", "remarks"].map(str::to_owned).to_vec();
        let rows = std::iter::once(heading).chain(all.iter().map(|host| row(host, now)));
        Ok(show::columns(out, &[Side::Left; 7], &rows.collect::<Vec<_>>())?)
    })?;
    Ok(Exit::Ok)
}

fn row(host: &HostInfo, now: Timestamp) -> Vec<String> {
    let number = |serial: Option<u64>| serial.map_or_else(|| "-".into(), |serial| serial.to_string());
    let behind = |serial: Option<u64>| match (serial, host.serial) {
        (Some(serial), Some(newest)) if serial >= newest => "yes".into(),
        (serial, _) => number(serial),
    };
    let delivered = match &host.deliver {
        None => "by hand".into(),
        Some(_) => behind(host.delivered),
    };
    let key = match host.trusts_current {
        Some(true) => "current",
        Some(false) => "older",
        None => "-",
    };
    let mut remarks: Vec<String> = host.error.iter().map(|e| visible(e).into_owned()).collect();
    if host.tries > 0 {
        remarks.push(format!("tried {} times", host.tries));
    }
    if host.unsigned {
        remarks.push("waits for: pinfold export sign".into());
    }
    if let Some(outcome) = host.outcome.as_ref().filter(|outcome| *outcome != "applied") {
        remarks.push(visible(outcome).into_owned());
    }
    remarks.extend(host.notes.iter().map(|note| visible(note).into_owned()));
    vec![
        visible(&host.host).into_owned(),
        number(host.serial),
        host.made.map_or_else(|| "-".into(), |made| age(now.secs.saturating_sub(made.secs))),
        delivered,
        behind(host.acknowledged),
        key.into(),
        remarks.join("; "),
    ]
}

/// In its two largest units.
fn age(seconds: i64) -> String {
    let seconds = u64::try_from(seconds).unwrap_or(0);
    let unit = [86_400, 3_600, 60, 1].into_iter().find(|unit| seconds >= *unit).unwrap_or(1);
    // Two units: what is below a sixtieth of the largest is not shown.
    let smaller = match unit {
        86_400 => 3_600,
        3_600 => 60,
        _ => 1,
    };
    humantime::format_duration(Duration::from_secs(seconds / smaller * smaller)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_how_far_it_got_and_what_is_wrong() {
        let now = Timestamp { secs: 100_000, nanos: 0 };
        let host = HostInfo {
            host: "h1".into(),
            serial: Some(7),
            made: Some(Timestamp { secs: 100_000 - 3_700, nanos: 0 }),
            deliver: Some("dir:/x".into()),
            delivered: Some(7),
            acknowledged: Some(5),
            outcome: Some("partial: x".into()),
            trusts_current: Some(false),
            tries: 2,
            error: Some("no route".into()),
            ..HostInfo::default()
        };
        assert_eq!(row(&host, now), ["h1", "7", "1h 1m", "yes", "5", "older", "no route; tried 2 times; partial: x"]);
        assert_eq!(
            row(&HostInfo { host: "h2".into(), ..HostInfo::default() }, now)[1..6],
            ["-", "-", "by hand", "-", "-"]
        );
        assert_eq!((age(0), age(59), age(90_061)), ("0s".into(), "59s".into(), "1day 1h".into()));
    }
}
