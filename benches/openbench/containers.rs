//! What a container costs: an open inside one against one on the host, attaching, many instances at once, publishing.
//!
//! A container is a pid namespace of its own here, made by unshare(1): what a runtime adds, pinfold does not see.

use crate::guard::{Interrupt, processors};
use crate::measure::{Series, median};
use crate::pinfold::Pinfold;
use crate::worker::{Act, Job, Worker, first_child};
use crate::{Failed, Result};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use pinfold::control::client::Client;
use pinfold::model::SecretPath;
use pinfold::wire::{Attach, Detach, Method, Publish, Unpublish};
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

const SCOPE: &str = "bench";
const SMALL: usize = 64;
/// A uid without a name.
const PUBLISHED_TO: u32 = 61_235;

/// How often.
pub struct Plan {
    pub rounds: usize,
    pub samples: usize,
    /// Instances attached at once.
    pub many: usize,
}

/// What came of it.
pub struct Found {
    pub host: Series,
    pub inside: Series,
    pub among: Series,
    /// p50 and p99 in ms.
    pub attach: (f64, f64),
    /// MiB that so many instances took.
    pub memory: f64,
    /// p50 in ms.
    pub publish: f64,
}

/// The first process of a container; unshare(1) takes no SIGTERM while it waits for it.
struct Init(Child);

impl Drop for Init {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// All of it. `host` is root's.
pub fn measure(
    store: &Pinfold,
    program: &Path,
    host: &mut Worker,
    plan: &Plan,
    interrupt: &Interrupt,
) -> Result<Found> {
    store.command(&["scope", "add", SCOPE])?;
    let secret = store.scope(SCOPE).join("small");
    std::fs::File::create(&secret)?.write_all(&[b'x'; SMALL])?;
    store.put("of-root", SMALL, 0)?;
    let (mut inside, pid) = Worker::contained(program)?;
    let mut client = store.client()?;
    call(&mut client, &Attach { scope: SCOPE.into(), pid, id: Some("worker".into()), timeout_seconds: None })?;

    let on_host = store.bench.join("of-root").to_string_lossy().into_owned();
    let secret = secret.to_string_lossy().into_owned();
    let (all, one) = processors()?;
    let confine = |host: &Worker, set: &CpuSet| -> Result<()> {
        store.process().map_or(Ok(()), |p| p.confine(set))?;
        host.child.confine(set)?;
        Ok(sched_setaffinity(Pid::from_raw(pid.try_into()?), set)?)
    };
    confine(host, &one)?;
    let (mut on, mut within) = (Series::new("host"), Series::new("inside a container"));
    for round in 0..plan.rounds {
        interrupt.check()?;
        for first in [round % 2 == 0, round % 2 != 0] {
            match first {
                true => on.add(host.run(&job(&on_host, plan.samples))?),
                false => within.add(inside.run(&job(&secret, plan.samples))?),
            }
        }
    }
    confine(host, &all)?;

    let before = store.resident().0;
    let mut inits: Vec<Init> = Vec::new();
    let mut attach = Vec::new();
    for n in 0..plan.many {
        interrupt.check()?;
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--kill-child", "sleep", "3600"]).stdin(Stdio::null());
        inits.push(Init(command.spawn()?));
        let outer = inits.last().expect("one was pushed").0.id();
        let deadline = Instant::now() + std::time::Duration::from_secs(10);
        let pid = loop {
            match first_child(outer) {
                Ok(pid) => break pid,
                Err(e) if Instant::now() > deadline => return Err(e),
                Err(_) => std::thread::sleep(std::time::Duration::from_millis(1)),
            }
        };
        let begun = Instant::now();
        call(&mut client, &Attach { scope: SCOPE.into(), pid, id: Some(format!("many-{n}")), timeout_seconds: None })?;
        attach.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    let memory = store.resident().0 - before;
    confine(host, &one)?;
    let mut among = Series::new("inside one of many");
    for _ in 0..plan.rounds {
        interrupt.check()?;
        among.add(inside.run(&job(&secret, plan.samples))?);
    }
    confine(host, &all)?;
    for n in 0..plan.many {
        call(&mut client, &Detach { id: format!("many-{n}") })?;
    }
    drop(inits);

    let path = SecretPath::parse("bench/small-published").map_err(|e| Failed(e.to_string()))?;
    store.put("small-published", SMALL, PUBLISHED_TO)?;
    let mut publish = Vec::new();
    for _ in 0..plan.rounds {
        interrupt.check()?;
        let begun = Instant::now();
        call(
            &mut client,
            &Publish {
                path: path.clone(),
                to: format!("{PUBLISHED_TO}:{PUBLISHED_TO}"),
                instance: None,
                container: None,
                description: None,
                preset: None,
                timeout: None,
            },
        )?;
        publish.push(begun.elapsed().as_secs_f64() * 1e3);
        let none = || None;
        call(
            &mut client,
            &Unpublish {
                path: path.clone(),
                to: none(),
                instance: none(),
                container: none(),
                description: none(),
                preset: none(),
            },
        )?;
    }
    attach.sort_by(f64::total_cmp);
    let quantile = |q: f64| attach[((attach.len() - 1) as f64 * q).round() as usize];
    let attach = (quantile(0.5), quantile(0.99));
    Ok(Found { host: on, inside: within, among, attach, memory, publish: median(publish) })
}

fn job(path: &str, samples: usize) -> Job {
    Job { act: Act::Open, path: path.into(), many: 1, stride: 1, threads: 1, samples, warm: 50, size: SMALL, first: 0 }
}

fn call<M: Method>(client: &mut Client, method: &M) -> Result<M::Reply> {
    client.call(method).map_err(|e| Failed(format!("{}: {e}", M::NAME)).into())
}
