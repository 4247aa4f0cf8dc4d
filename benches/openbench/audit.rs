//! The cost of recording an allowed open, beside write(2) of the same bytes: in this process, without any filesystem
//! of ours.

use crate::Result;
use crate::guard::Folder;
use crate::measure::median;
use pinfold::audit::{Decision, Event, Log, Operation, Settings, WhenFull};
use pinfold::model::CallerInfo;
use std::fs::OpenOptions;
use std::io::Write;
use std::time::Instant;

/// Medians of the rounds' medians, in µs.
pub struct Cost {
    pub allowed: f64,
    pub write: f64,
    /// Median of the rounds' differences.
    pub over: f64,
    /// Bytes of a line.
    pub line: usize,
}

/// Measures it over that many rounds, each of the two 2000 times in turn.
pub fn cost(folder: &Folder, rounds: usize) -> Result<Cost> {
    let settings = Settings {
        path: folder.make("audit")?.join("audit.log"),
        max_size: 1 << 30,
        when_full: WhenFull::Refuse,
        space: None,
    };
    let path = settings.path.clone();
    let log = Log::open(settings, None)?;
    let who = CallerInfo {
        uid: 118,
        gid: 125,
        pid: 4711,
        start: Some(8_812_345),
        exe: Some("/lib/nut/upsd".into()),
        cgroup: Some("/system.slice/nut-server.service".into()),
        unit: Some("nut-server.service".into()),
        container: None,
        ..CallerInfo::default()
    };
    let event = Event {
        op: Operation::Open,
        path: "nut/upsd.pem",
        version: Some(3),
        who: &who,
        decision: Decision::Allowed,
        reason: "owner",
        errno: None,
    };
    log.allowed(&event)?;
    let line = std::fs::read(&path)?.split_inclusive(|b| *b == b'\n').next_back().unwrap_or_default().to_vec();
    let mut plain = OpenOptions::new().append(true).create(true).open(path.with_extension("plain"))?;
    let (mut allowed, mut write, mut version) = (vec![], vec![], 1_000_000);
    for _ in 0..rounds {
        // Each is another version: the same again would be counted, and written once.
        allowed.push(p50(|| {
            version += 1;
            Ok(log.allowed(&Event { version: Some(version), ..event })?)
        })?);
        write.push(p50(|| Ok(plain.write_all(&line)?))?);
    }
    let over = median(allowed.iter().zip(&write).map(|(a, w)| a - w).collect());
    log.shutdown();
    let report = pinfold::audit::verify(&path, Some(log.synced()))?;
    if !report.is_whole() {
        return crate::failed(format!("the log is not whole: {:?}", report.problems));
    }
    Ok(Cost { allowed: median(allowed), write: median(write), over, line: line.len() })
}

fn p50(mut act: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut nanos = Vec::with_capacity(2000);
    for _ in 0..2000 {
        let start = Instant::now();
        act()?;
        nanos.push(start.elapsed().as_nanos() as f64 / 1000.0);
    }
    Ok(median(nanos))
}
