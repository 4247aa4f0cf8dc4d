//! `cargo bench --bench openbench`: what pinfold costs, beside filesystems that do less. Needs root and `/dev/fuse`.
//!
//! Owns the order of the measurements and the goals. It prints Markdown to stdout (what `docs/benchmarks.md` holds) and
//! says on stderr what it is doing. All mounts are in a mount namespace of its own and all processes are its children,
//! so nothing stays behind, however it ends.
//!
//! `--quick` takes few samples, `--secrets A,B,C` other sizes of stores, `--without-pinfold` measures the others only, `--opens`
//! only what one open costs, `--writes` only what writing does, `--before BINARY` another pinfold in the same rounds;
//! `PINFOLD_BIN` names another binary, `PINFOLD_BENCH_DIR` another folder than /var/tmp (on a real disk).

mod audit;
mod bare;
mod containers;
mod guard;
mod machine;
mod measure;
mod others;
mod pinfold;
mod report;
mod scenarios;
mod worker;
mod writers;

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let result = match args.first().map(String::as_str) {
        Some("--worker") => worker::serve(),
        Some("--bare") => bare::serve(&args[1..]),
        _ => scenarios::Options::parse(&args).and_then(|options| scenarios::run(&options)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("openbench: error: {e:#}");
            ExitCode::FAILURE
        }
    }
}

/// What went wrong, in words: a benchmark has nobody who would tell kinds apart.
#[derive(Debug)]
struct Failed(String);

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failed {}

type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

/// An error of that text.
fn failed<T>(text: impl Into<String>) -> Result<T> {
    Err(Box::new(Failed(text.into())))
}
