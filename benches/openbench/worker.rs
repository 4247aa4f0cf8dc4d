//! The clients: a child process of some uid that is told over a pipe what to do how often, and answers with times.
//!
//! It is a process of its own so that it can be another user, and so that the one that measures serves nothing.

use crate::bare::NOTE;
use crate::guard::Kept;
use crate::{Result, failed};
use nix::fcntl::{OFlag, open, readlink};
use nix::sys::stat::{Mode, stat};
use nix::unistd::{fsync, read, write};
use serde::{Deserialize, Serialize};
use std::ffi::CString;
use std::io::{BufRead, BufReader, Write, stdin, stdout};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::time::Instant;

/// How many of many files are in one folder.
pub const PER_FOLDER: usize = 1000;

/// What is done once for each sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Act {
    /// open, read to the buffer's end or the file's, close.
    Open,
    /// stat.
    Stat,
    /// opendir, closedir.
    OpenFolder,
    /// readlink.
    ReadLink,
    /// getxattr of an attribute that is there.
    ReadAttribute,
    /// open for writing with O_CREAT and O_TRUNC, write, close.
    Enrol,
    /// The same with fsync before close.
    EnrolSynced,
}

/// What a worker is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    pub act: Act,
    /// `{t}` stands for the thread, `{n}` for the sample's number, `{k}` for one of `many` files, each sample another one
    /// and neighbours far apart if `stride` is, `{f}` for that file's folder.
    pub path: String,
    pub many: usize,
    pub stride: usize,
    pub threads: usize,
    /// Samples of each thread.
    pub samples: usize,
    /// Before them, and not counted.
    pub warm: usize,
    /// Bytes read or written.
    pub size: usize,
    /// The number of the first sample.
    pub first: usize,
}

/// What it answers.
#[derive(Debug, Serialize, Deserialize)]
pub struct Done {
    /// Of each sample.
    pub nanos: Vec<u32>,
    /// From the first thread's start to the last one's end.
    pub wall_nanos: u64,
    /// The first thing that went wrong.
    pub error: Option<String>,
}

/// A worker and the pipe to it.
pub struct Worker {
    pub child: Kept,
    answers: BufReader<std::process::ChildStdout>,
}

impl Worker {
    /// Starts one. `program` is a copy of this program that `uid` may execute.
    pub fn start(program: &Path, uid: u32) -> Result<Self> {
        let mut command = Command::new(program);
        command.arg("--worker").uid(uid).gid(uid);
        Self::spawn(command)
    }

    /// Starts one of root's as the first process of a pid namespace: what is attached as a container. And its pid.
    pub fn contained(program: &Path) -> Result<(Self, u32)> {
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--kill-child"]).arg(program).arg("--worker");
        let mut this = Self::spawn(command)?;
        // It answers once it runs.
        this.run(&Job {
            act: Act::Stat,
            path: "/".into(),
            many: 1,
            stride: 1,
            threads: 1,
            samples: 1,
            warm: 0,
            size: 0,
            first: 0,
        })?;
        let pid = first_child(this.child.0.id())?;
        Ok((this, pid))
    }

    fn spawn(mut command: Command) -> Result<Self> {
        let mut child =
            command.current_dir("/").process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let answers = BufReader::new(child.stdout.take().expect("it was piped"));
        Ok(Worker { child: Kept(child), answers })
    }

    /// Has it done. A sample that failed is an error: a benchmark of errors says nothing.
    pub fn run(&mut self, job: &Job) -> Result<Done> {
        let mut pipe = self.child.0.stdin.as_ref().expect("it was piped");
        serde_json::to_writer(&mut pipe, job)?;
        pipe.write_all(b"\n")?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        if line.is_empty() {
            return failed(format!("the worker ended in the middle of {job:?}"));
        }
        let done: Done = serde_json::from_str(&line)?;
        match &done.error {
            Some(e) => failed(format!("{:?} of {}: {e}", job.act, job.path)),
            None => Ok(done),
        }
    }
}

/// The only child of a process that has made one.
pub fn first_child(pid: u32) -> Result<u32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    Ok(children.split_ascii_whitespace().next().ok_or("it has no child")?.parse()?)
}

/// The worker's side.
pub fn serve() -> Result<()> {
    for line in stdin().lock().lines() {
        let job: Job = serde_json::from_str(&line?)?;
        let mut out = stdout().lock();
        serde_json::to_writer(&mut out, &perform(&job))?;
        out.write_all(b"\n")?;
        out.flush()?;
    }
    Ok(())
}

fn perform(job: &Job) -> Done {
    let barrier = Barrier::new(job.threads);
    let results: Vec<nix::Result<Timed>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..job.threads)
            .map(|t| {
                scope.spawn({
                    let barrier = &barrier;
                    move || thread(job, t, barrier)
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().expect("a worker's thread does not panic")).collect()
    });
    let mut done = Done { nanos: vec![], wall_nanos: 0, error: None };
    let mut spans = vec![];
    for result in results {
        match result {
            Ok(timed) => {
                done.nanos.extend(timed.nanos);
                spans.push((timed.begun, timed.ended));
            }
            Err(errno) => done.error = Some(errno.to_string()),
        }
    }
    if let (Some(begun), Some(ended)) = (spans.iter().map(|s| s.0).min(), spans.iter().map(|s| s.1).max()) {
        done.wall_nanos = u64::try_from((ended - begun).as_nanos()).unwrap_or(u64::MAX);
    }
    done
}

/// What one thread measured.
struct Timed {
    nanos: Vec<u32>,
    begun: Instant,
    ended: Instant,
}

fn thread(job: &Job, t: usize, barrier: &Barrier) -> nix::Result<Timed> {
    let mut buffer = vec![b'x'; job.size];
    let name = |n: usize| {
        let k = (n * job.threads + t) * job.stride % job.many;
        let path = job.path.replace("{t}", &t.to_string()).replace("{n}", &n.to_string());
        let path = path.replace("{k}", &k.to_string()).replace("{f}", &(k / PER_FOLDER).to_string());
        CString::new(path).expect("a path of ours holds no NUL")
    };
    let many = job.path.contains("{n}") || job.path.contains("{k}");
    // Names are made before the clock runs.
    let names: Vec<CString> = (0..if many { job.samples } else { 1 }).map(|i| name(job.first + i)).collect();
    let mut warmed = Ok(());
    for _ in 0..job.warm {
        warmed = warmed.and(once(job.act, &names[0], &mut buffer));
    }
    barrier.wait();
    warmed?;
    let mut nanos = Vec::with_capacity(job.samples);
    let begun = Instant::now();
    for i in 0..job.samples {
        let name = &names[if many { i } else { 0 }];
        let start = Instant::now();
        once(job.act, name, &mut buffer)?;
        nanos.push(u32::try_from(start.elapsed().as_nanos()).unwrap_or(u32::MAX));
    }
    Ok(Timed { nanos, begun, ended: Instant::now() })
}

fn once(act: Act, name: &CString, buffer: &mut [u8]) -> nix::Result<()> {
    match act {
        Act::Stat => stat(name.as_c_str()).map(|_| ()),
        Act::OpenFolder => {
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            close(open(name.as_c_str(), flags, Mode::empty())?)
        }
        Act::ReadLink => readlink(name.as_c_str()).map(|_| ()),
        Act::ReadAttribute => {
            let read = rustix::fs::getxattr(name.as_c_str(), NOTE.0, &mut [0; 64]);
            read.map(|_| ()).map_err(|e| nix::Error::from_raw(e.raw_os_error()))
        }
        Act::Open => {
            let file = open(name.as_c_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
            let mut at = 0;
            while at < buffer.len() {
                match read(&file, &mut buffer[at..])? {
                    0 => return Err(nix::Error::ENODATA),
                    n => at += n,
                }
            }
            close(file)
        }
        Act::Enrol | Act::EnrolSynced => {
            let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_CLOEXEC;
            let file = open(name.as_c_str(), flags, Mode::from_bits_truncate(0o600))?;
            let mut at = 0;
            while at < buffer.len() {
                at += write(&file, &buffer[at..])?;
            }
            if act == Act::EnrolSynced {
                fsync(&file)?;
            }
            close(file)
        }
    }
}

/// close(2) with its error: on pinfold it is the commit's.
fn close(file: std::os::fd::OwnedFd) -> nix::Result<()> {
    nix::unistd::close(file)
}
