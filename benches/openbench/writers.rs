//! Several writers at once, and what others notice of them.

use crate::guard::Interrupt;
use crate::measure::{Plan, Results, Series, interleaved};
use crate::worker::{Act, Job, Worker};
use crate::{Result, failed};

/// How many write at once.
pub const AT_ONCE: [usize; 3] = [1, 8, 16];
/// Bytes of each.
const SIZE: usize = 64;
/// Writers that fsync while somebody else opens.
const CROWD: usize = 24;

/// For each number of writers, the same files written anew.
pub fn commits(
    targets: &[(&'static str, String)],
    (rounds, samples): (usize, usize),
    worker: &mut Worker,
    interrupt: &Interrupt,
) -> Result<Vec<Results>> {
    let measure = |threads: &usize| {
        let plan = Plan {
            act: Act::Enrol,
            targets,
            rounds,
            samples,
            warm: 1,
            threads: *threads,
            size: SIZE,
            many: &[],
            synced: &["disk"],
        };
        interleaved(&plan, worker, interrupt)
    };
    AT_ONCE.iter().map(measure).collect()
}

/// An open of `path`, alone and while a crowd writes to `crowd`: in turns.
pub fn opens_in_a_crowd(
    path: &str,
    crowd: &str,
    (rounds, samples): (usize, usize),
    (reader, writer): (&mut Worker, &mut Worker),
    interrupt: &Interrupt,
) -> Result<[Series; 2]> {
    let mut series = [Series::new("alone"), Series::new("beside 24 writers")];
    let open = Job {
        act: Act::Open,
        path: path.into(),
        many: 1,
        stride: 1,
        threads: 1,
        samples,
        warm: 20,
        size: SIZE,
        first: 0,
    };
    let write =
        |samples| Job { act: Act::EnrolSynced, path: crowd.into(), threads: CROWD, samples, warm: 1, ..open.clone() };
    // How many they do while the reader does its own: half as long again, so that there is a crowd to the end.
    let mut enough = 20;
    for _ in 0..rounds {
        interrupt.check()?;
        series[0].add(reader.run(&open)?);
        loop {
            let (opens, writes) = std::thread::scope(|scope| {
                let writes = scope.spawn(|| writer.run(&write(enough)).map_err(|error| error.to_string()));
                (reader.run(&open), writes.join())
            });
            let Ok(Ok(writes)) = writes else { return failed(format!("the writers: {writes:?}")) };
            let opens = opens?;
            if writes.wall_nanos > opens.wall_nanos {
                series[1].add(opens);
                break;
            }
            enough *= 2;
        }
    }
    Ok(series)
}
