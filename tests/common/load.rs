//! What is read and written in a loop while the daemon comes and goes.
//!
//! Owns its threads. They touch the tree from the test's own process, since what is counted are system calls, not processes; who
//! uses them aborts the connection when a test fails.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::IntoRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Threads that read a secret in a loop and count.
pub struct Readers {
    stop: Arc<AtomicBool>,
    reads: Arc<AtomicU64>,
    threads: Vec<JoinHandle<(Vec<String>, Duration)>>,
}

impl Readers {
    /// Four of them. It has to have this content all the time.
    pub fn start(path: &str, content: &'static str) -> Self {
        let (stop, reads) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let reader = |_| {
            let (stop, reads, path) = (Arc::clone(&stop), Arc::clone(&reads), path.to_owned());
            std::thread::spawn(move || {
                let (mut failed, mut longest) = (Vec::new(), Duration::ZERO);
                while !stop.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    let opened = std::fs::File::open(&path);
                    let was_opened = opened.is_ok();
                    match opened.and_then(std::io::read_to_string) {
                        Ok(text) if text == content => {}
                        // When, and which of the two it was: the daemon's log may know the rest.
                        other => {
                            let at = humantime::format_rfc3339_millis(std::time::SystemTime::now());
                            failed.push(format!("{at}, opened: {was_opened}: {other:?}"));
                        }
                    }
                    longest = longest.max(begun.elapsed());
                    reads.fetch_add(1, Ordering::Relaxed);
                }
                (failed, longest)
            })
        };
        let threads = (0..4).map(reader).collect();
        Readers { stop, reads, threads }
    }

    /// How many reads there were, and the longest of them. None may have failed.
    #[track_caller]
    pub fn finish(self) -> (u64, Duration) {
        self.stop.store(true, Ordering::Relaxed);
        let mut longest = Duration::ZERO;
        for thread in self.threads {
            let (failed, theirs) = thread.join().expect("a reader");
            assert_eq!(failed, Vec::<String>::new(), "no read fails");
            longest = longest.max(theirs);
        }
        (self.reads.load(Ordering::Relaxed), longest)
    }
}

/// A thread that takes its time to write a secret, again and again: most of the time a write handle is open.
pub struct SlowWriter {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Written>,
}

/// What became of its writing.
#[derive(Debug, Default)]
pub struct Written {
    /// close(2) said 0.
    pub acknowledged: u64,
    /// write(2) or close(2) said ESTALE.
    pub told: u64,
    /// What should not be.
    pub wrong: Vec<String>,
}

impl SlowWriter {
    /// Between the first half of a content and the second passes `pause`.
    pub fn start(path: &str, pause: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, path) = (Arc::clone(&stop), path.to_owned());
        let thread = std::thread::spawn(move || {
            let (mut written, mut last) = (Written::default(), 0);
            for number in 1.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                match write_slowly(&path, number, pause) {
                    Ok(()) => {
                        last = number;
                        written.acknowledged += 1;
                    }
                    Err(error) if error.raw_os_error() == Some(libc::ESTALE) => written.told += 1,
                    Err(error) => written.wrong.push(format!("write {number}: {error}")),
                }
                // Never half of one, and never an older one than the last that was acknowledged.
                match std::fs::read_to_string(&path) {
                    Ok(text) if text == content(last).concat() => {}
                    Ok(text) if text == content(number).concat() => last = number,
                    other => written.wrong.push(format!("after {last} and write {number}: {other:?}")),
                }
            }
            written
        });
        SlowWriter { stop, thread }
    }

    pub fn finish(self) -> Written {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("a writer")
    }
}

fn content(number: u64) -> [String; 2] {
    match number {
        0 => Default::default(),
        _ => [format!("begin {number}\n"), format!("end {number}\n")],
    }
}

fn write_slowly(path: &str, number: u64, pause: Duration) -> io::Result<()> {
    let mut file: File = OpenOptions::new().write(true).truncate(true).open(path)?;
    let [begin, end] = content(number);
    file.write_all(begin.as_bytes())?;
    std::thread::sleep(pause);
    file.write_all(end.as_bytes())?;
    Ok(nix::unistd::close(file.into_raw_fd())?)
}

/// Threads that make, rename and remove in a loop: each step must find what the step before it left.
pub struct Makers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<(u64, Vec<String>)>>,
}

impl Makers {
    /// Four, each in a folder of its own below this one.
    pub fn start(root: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let maker = |n| {
            let (stop, folder) = (Arc::clone(&stop), format!("{root}/maker-{n}"));
            std::thread::spawn(move || {
                std::fs::create_dir(&folder).expect("a folder of its own");
                let (mut rounds, mut failed) = (0, Vec::new());
                while !stop.load(Ordering::Relaxed) {
                    rounds += 1;
                    if let Err(what) = make_and_remove(&folder) {
                        failed.push(format!("round {rounds}: {what}"));
                        break;
                    }
                }
                (rounds, failed)
            })
        };
        let threads = (0..4).map(maker).collect();
        Makers { stop, threads }
    }

    /// How many rounds there were. No step may have failed.
    #[track_caller]
    pub fn finish(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.threads.into_iter().map(|thread| thread.join().expect("a maker"));
        let (rounds, failed): (Vec<u64>, Vec<Vec<String>>) = ended.unzip();
        assert_eq!(failed.concat(), Vec::<String>::new(), "no step fails");
        rounds.iter().sum()
    }
}

fn make_and_remove(folder: &str) -> Result<(), String> {
    use std::fs::{create_dir, remove_dir, remove_file, rename};
    let at = |name: &str| format!("{folder}/{name}");
    let step = |what: &str, result: io::Result<()>| result.map_err(|error| format!("{what}: {error}"));
    step("mkdir", create_dir(at("a")))?;
    step("rename of a directory", rename(at("a"), at("b")))?;
    step("symlink", std::os::unix::fs::symlink("target", at("b/link")))?;
    step("rename of a symlink", rename(at("b/link"), at("link")))?;
    step("create", OpenOptions::new().write(true).create_new(true).open(at("b/file")).map(drop))?;
    step("rename of a file", rename(at("b/file"), at("file")))?;
    step("rmdir", remove_dir(at("b")))?;
    step("unlink", remove_file(at("file")))?;
    step("unlink of a symlink", remove_file(at("link")))
}
