//! The filesystem, unmounted, against a reference that knows nothing of it: random operations of several people, crashes
//! and reopenings; then the cases that matter by name.
//!
//! PINFOLD_MODEL_CASES sets how many lists of operations are tried; one that fails is shortened and shown.

#![allow(clippy::unwrap_used, clippy::too_many_arguments, reason = "a failure is a panic, and says where")]

#[path = "model/directed.rs"]
mod directed;
#[path = "model/ops.rs"]
mod ops;
#[path = "model/reference.rs"]
mod reference;
#[path = "model/rig.rs"]
mod rig;
#[path = "model/run.rs"]
mod run;
#[path = "model/threads.rs"]
mod threads;

use proptest::collection::vec;
use proptest::test_runner::{Config, FileFailurePersistence, TestCaseError, TestError, TestRunner};

/// So many that it takes half a minute at most on two busy cores.
const CASES: u32 = 150;

#[test]
fn it_does_what_the_reference_does() {
    let cases =
        std::env::var("PINFOLD_MODEL_CASES").map_or(CASES, |n| n.parse().expect("PINFOLD_MODEL_CASES: a number"));
    let config = Config {
        cases,
        max_shrink_time: 120_000,
        max_shrink_iters: 4096,
        failure_persistence: None::<Box<FileFailurePersistence>>.map(|f| f as _),
        ..Config::default()
    };
    let lists = (1..5usize, 12..60u64, vec(ops::op(), 1..70));
    let result =
        TestRunner::new(config).run(&lists, |(keep, max, ops)| run::run(keep, max, &ops).map_err(TestCaseError::fail));
    match result {
        Ok(()) => {}
        Err(TestError::Fail(why, (keep, max, ops))) => {
            let ops: String = ops.iter().map(|op| format!("    {op:?}\n")).collect();
            panic!("with keep_versions = {keep}, max_secrets = {max}:\n{ops}{why}");
        }
        Err(TestError::Abort(why)) => panic!("{why}"),
    }
}
