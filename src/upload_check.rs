//! The checks in a process of its own: what an unprivileged account uploaded is first read where nothing can be reached.
//!
//! Owns both ends of that process: how it is started and bounded, and what it does and answers. The answer is believed where
//! it refuses; where it does not, the checks are made again here, on what has passed them once.

use crate::bundle::{Checked, Examined, Refusal, Trust, examine, len_of};
use crate::model::Timestamp;
use crate::random_access::ReadAt;
use crate::run::{End, Env, Input, Manner, Program, Take};
use crate::sys::confine::{Bounds, to_what_is_open};
use crate::sys::isolated_child::RunAs;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The hidden subcommand.
pub const SUBCOMMAND: &str = "import-check";
/// Whom it runs as.
const NOBODY: u32 = 65534;
/// The longest answer, in bytes: a refusal that names every revoked key.
const ANSWER_MAX: usize = 256 << 10;
/// What the process may use up.
const BOUNDS: Bounds = Bounds { memory: 1 << 30, cpu: 120 };

/// What the process is to know; it asks nobody.
#[derive(Serialize, Deserialize)]
struct Question {
    trust: Trust,
    now: Timestamp,
}

/// What it says.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Answer {
    Passed,
    Refused(Refusal),
}

/// How the process is started.
#[derive(Debug, Clone)]
pub struct Checker {
    /// The program that has the subcommand `import-check`: pinfold itself.
    pub program: PathBuf,
    /// How long it may take.
    pub patience: Duration,
}

impl Default for Checker {
    /// This very program, whatever its file is called by now; two minutes.
    fn default() -> Self {
        Checker { program: "/proc/self/exe".into(), patience: Duration::from_secs(120) }
    }
}

/// As [`check`](crate::bundle::check), in a process without privileges: as nobody, in a pid namespace of its own, without files,
/// sockets and processes, bounded in memory and time. Needs root.
///
/// # Errors
/// As [`check`](crate::bundle::check); [`Refusal::Unchecked`] if that process could not be had, or gave no answer.
pub fn check_confined(file: &File, trust: &Trust, now: Timestamp) -> Result<Checked, Refusal> {
    Checker::default().check(file, trust, now)
}

impl Checker {
    /// As [`check_confined`].
    ///
    /// # Errors
    /// As there.
    pub fn check(&self, file: &File, trust: &Trust, now: Timestamp) -> Result<Checked, Refusal> {
        // Neither worth a process nor to be handed to one.
        let len = len_of(file)?;
        if len > trust.max_size {
            return Err(Refusal::TooLarge { size: len, max: trust.max_size });
        }
        match self.ask(file, &Question { trust: trust.clone(), now })? {
            Answer::Passed => Ok(examine(file, len, trust, now)?.of(file.another()?)),
            // What is to be remembered is not taken from there.
            Answer::Refused(Refusal::TrustRevoked { .. }) => match examine(file, len, trust, now) {
                Err(refusal) => Err(refusal),
                Ok(_) => Err(unchecked("its answer is wrong")),
            },
            Answer::Refused(refusal) => Err(refusal),
        }
    }

    fn ask(&self, file: &File, question: &Question) -> Result<Answer, Refusal> {
        let until = Instant::now() + self.patience;
        // Another description of the same file: read-only, and with an offset of its own.
        let copy = File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        let json = serde_json::to_vec(question).expect("it has no map with keys that are not strings");
        let run_as = RunAs { uid: NOBODY, gid: NOBODY, groups: Vec::new() };
        let mut answer = Vec::new();
        let program = Program {
            args: vec![SUBCOMMAND.into(), OsString::from_vec(json)],
            env: Env::new(),
            stdin: Input::File(copy.into()),
            stdout: Take::All(&mut answer, ANSWER_MAX),
            ..Program::new(&self.program, Manner::Apart(&run_as), Some(until))
        };
        match program.run().map_err(|e| unchecked(&format!("no process for it: {e}")))?.end {
            End::Itself(status) => match status.code().unwrap_or_default() {
                0 => serde_json::from_slice(&answer).map_err(|_| unchecked("its answer is garbled")),
                signal if signal > 128 => Err(unchecked(&format!("the process was ended by signal {}", signal - 128))),
                status => Err(unchecked(&format!("the process ended with status {status}"))),
            },
            End::Late | End::Cancelled => Err(unchecked("the process took too long")),
            End::TooMuch => Err(unchecked("its answer is too long")),
            End::Lost(error) => Err(error.into()),
        }
    }
}

fn unchecked(why: &str) -> Refusal {
    Refusal::Unchecked(why.into())
}

/// What the process does: gives up what it can, looks at the file that is its standard input, and answers on its standard
/// output.
///
/// # Errors
/// The question is no question, nothing could be given up, or nobody takes the answer: the process is to end without one.
pub fn answer(question: &str, file: &File, out: &mut dyn Write) -> Result<(), Box<dyn std::error::Error>> {
    let question: Question = serde_json::from_str(question)?;
    let len = len_of(file);
    to_what_is_open(BOUNDS)?;
    let looked = |len| -> Result<(), Refusal> {
        let examined: Examined = examine(file, len, &question.trust, question.now)?;
        examined.payload_is_signed(file)
    };
    let answer = match len.and_then(looked) {
        Ok(()) => Answer::Passed,
        Err(refusal) => Answer::Refused(refusal),
    };
    out.write_all(&serde_json::to_vec(&answer)?)?;
    Ok(out.flush()?)
}
