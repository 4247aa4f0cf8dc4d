//! Kills in the middle of everything: several writers change names, modes, owners, attributes and content at once, each knows what it was answered, and
//! after a kill -9 the tree is what they know.
//!
//! A system call that was under way may have happened or not; nothing else may differ. Where a supervisor keeps the tree for the next daemon, none may even
//! fail, but what a handle wrote and had not committed (ESTALE). How many kills there are is PINFOLD_KILLS (10 by default).

use super::handover::Site;
use super::store::Dice;
use crate::common::{Daemon, Setup, wait_for};
use nix::sys::stat::{FchmodatFlags, Mode, UtimensatFlags, fchmodat, utimensat};
use nix::sys::time::TimeSpec;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, lchown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// They change as much as they can.
const LIMITS: &str = "[limits]\ncommit_rate = 100000\n";
/// How many change something at once, each in a folder of its own.
const WRITERS: u64 = 4;
/// Names in each folder.
const NAMES: u64 = 6;

/// What can be seen of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    Folder { mode: u32, uid: u32 },
    File { mode: u32, uid: u32, mtime: Option<i64>, note: Option<Vec<u8>>, content: Vec<u8> },
    Link(PathBuf),
}

/// A folder: by name.
type Folder = BTreeMap<String, Entry>;

/// One system call, or open, write and close, of which only the last two change what is there.
#[derive(Debug, Clone)]
enum Step {
    Mkdir(String),
    Link(String),
    Create(String),
    Write(String, Vec<u8>),
    Mode(String, u32),
    Owner(String, u32),
    Time(String, i64),
    Note(String, Vec<u8>),
    Rename(String, String),
    Remove(String),
}

impl Dice {
    fn name(&mut self) -> String {
        format!("n{}", self.below(NAMES))
    }

    /// One that can be done to what is there.
    fn step(&mut self, is: &Folder) -> Step {
        loop {
            let name = self.name();
            let what = self.below(11);
            let number = self.below(1_000_000);
            let file = matches!(is.get(&name), Some(Entry::File { .. }));
            // Root writes what is its own.
            let own = matches!(is.get(&name), Some(Entry::File { mode, uid: 0, .. }) if mode & 0o200 != 0);
            let step = match (is.get(&name), what) {
                (None, 0) => Step::Mkdir(name),
                (None, 1) => Step::Link(name),
                (None, 2..=4) => Step::Create(name),
                (Some(_), 2..=5) if own => Step::Write(name, number.to_string().into_bytes()),
                (Some(Entry::Folder { .. } | Entry::File { .. }), 6) => {
                    let modes = [0o600, 0o644, 0o400, 0o700];
                    Step::Mode(name, modes[number as usize % 4])
                }
                (Some(Entry::Folder { .. } | Entry::File { .. }), 7) => {
                    Step::Owner(name, [0, 0, 2001][number as usize % 3])
                }
                (Some(_), 8) if file => Step::Time(name, 1_000_000_000 + number as i64),
                (Some(_), 9) if own => Step::Note(name, number.to_string().into_bytes()),
                (Some(Entry::File { .. }), 10) => match self.name() {
                    to if to != name && !matches!(is.get(&to), Some(Entry::Folder { .. } | Entry::Link(_))) => {
                        Step::Rename(name, to)
                    }
                    _ => continue,
                },
                (Some(_), 0) => Step::Remove(name),
                _ => continue,
            };
            return step;
        }
    }
}

impl Step {
    fn act(&self, folder: &Path) -> io::Result<()> {
        let at = |name: &String| folder.join(name);
        match self {
            Step::Mkdir(name) => fs::create_dir(at(name)),
            Step::Link(name) => std::os::unix::fs::symlink("n0", at(name)),
            Step::Create(name) => {
                nix::sys::stat::mknod(&at(name), nix::sys::stat::SFlag::S_IFREG, Mode::from_bits_truncate(0o600), 0)
                    .map_err(io::Error::from)
            }
            Step::Write(name, content) => {
                let mut file = fs::OpenOptions::new().write(true).truncate(true).open(at(name))?;
                file.write_all(content)?;
                // What close(2) would say.
                file.sync_all()
            }
            Step::Mode(name, mode) => {
                let mode = Mode::from_bits_truncate(*mode);
                Ok(fchmodat(nix::fcntl::AT_FDCWD, &at(name), mode, FchmodatFlags::FollowSymlink)?)
            }
            Step::Owner(name, uid) => lchown(at(name), Some(*uid), None),
            Step::Time(name, secs) => {
                let time = TimeSpec::new(*secs, 0);
                Ok(utimensat(nix::fcntl::AT_FDCWD, &at(name), &time, &time, UtimensatFlags::FollowSymlink)?)
            }
            Step::Note(name, value) => {
                let args = ["-n", "user.note", "-v", std::str::from_utf8(value).expect("digits")];
                let out = Command::new("setfattr").args(args).arg(at(name)).output()?;
                let said = String::from_utf8_lossy(&out.stderr);
                match out.status.success() {
                    true => Ok(()),
                    false if said.contains("not permitted") || said.contains("denied") => {
                        Err(io::Error::new(io::ErrorKind::PermissionDenied, said.into_owned()))
                    }
                    false => Err(io::Error::other(said.into_owned())),
                }
            }
            Step::Rename(name, to) => fs::rename(at(name), at(to)),
            Step::Remove(name) => match fs::symlink_metadata(at(name))?.is_dir() {
                true => fs::remove_dir(at(name)),
                false => fs::remove_file(at(name)),
            },
        }
    }

    /// What the folder is after it.
    fn done(&self, mut is: Folder) -> Folder {
        match self {
            Step::Mkdir(name) => drop(is.insert(name.clone(), Entry::Folder { mode: 0o755, uid: 0 })),
            Step::Link(name) => drop(is.insert(name.clone(), Entry::Link("n0".into()))),
            Step::Create(name) => {
                let empty = Entry::File { mode: 0o600, uid: 0, mtime: None, note: None, content: Vec::new() };
                is.insert(name.clone(), empty);
            }
            Step::Rename(name, to) => {
                let moved = is.remove(name).expect("it was there");
                is.insert(to.clone(), moved);
            }
            Step::Remove(name) => drop(is.remove(name)),
            Step::Write(name, _)
            | Step::Mode(name, _)
            | Step::Owner(name, _)
            | Step::Time(name, _)
            | Step::Note(name, _) => {
                let entry = is.get_mut(name).expect("it was there");
                match (self, entry) {
                    (Step::Write(_, new), Entry::File { content, mtime, .. }) => {
                        content.clone_from(new);
                        *mtime = None;
                    }
                    (Step::Mode(_, new), Entry::File { mode, .. } | Entry::Folder { mode, .. }) => *mode = *new,
                    (Step::Owner(_, new), Entry::File { uid, .. } | Entry::Folder { uid, .. }) => *uid = *new,
                    (Step::Time(_, new), Entry::File { mtime, .. }) => *mtime = Some(*new),
                    (Step::Note(_, new), Entry::File { note, .. }) => *note = Some(new.clone()),
                    (step, entry) => panic!("{step:?} on {entry:?}"),
                }
            }
        }
        is
    }
}

/// What there is, as far as it is known what it must be: times that the clock gave are left out.
fn look(folder: &Path, expected: &Folder) -> Folder {
    let mut is = Folder::new();
    for entry in fs::read_dir(folder).expect("it is there") {
        let entry = entry.expect("an entry");
        let (name, path) = (entry.file_name().into_string().expect("one of ours"), entry.path());
        let meta = fs::symlink_metadata(&path).expect("it is listed");
        let (mode, uid) = (meta.mode() & 0o7777, meta.uid());
        let seen = match (meta.is_dir(), meta.is_symlink()) {
            (true, _) => Entry::Folder { mode, uid },
            (_, true) => Entry::Link(fs::read_link(&path).expect("a link")),
            _ => {
                let known = matches!(expected.get(&name), Some(Entry::File { mtime: Some(_), .. }));
                let note = by(uid, &["getfattr", "--absolute-names", "--only-values", "-n", "user.note"], &path);
                let content = by(uid, &["cat"], &path).expect("its owner reads it");
                Entry::File { mode, uid, mtime: known.then_some(meta.mtime()), note, content }
            }
        };
        is.insert(name, seen);
    }
    is
}

/// What a program prints of it, run by whose it is: root reads what root is granted.
fn by(uid: u32, program: &[&str], path: &Path) -> Option<Vec<u8>> {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &uid.to_string(), "--regid", "0", "--clear-groups"]).args(program).arg(path);
    let out = command.output().expect("setpriv is there");
    out.status.success().then_some(out.stdout)
}

/// Goes on until the first error, or until it is told to stop; what is known then, and what was under way.
fn work(
    folder: &Path,
    mut is: Folder,
    dice: &mut Dice,
    (stop, done): (&AtomicBool, &AtomicU64),
) -> (Folder, Option<Step>) {
    while !stop.load(Ordering::Relaxed) {
        let step = dice.step(&is);
        let mut done_so = step.act(folder);
        // A handle that writes and has not committed is not the next daemon's: it is written again.
        if let (Err(error), Step::Write(..)) = (&done_so, &step)
            && error.raw_os_error() == Some(libc::ESTALE)
        {
            done_so = step.act(folder);
        }
        if let Err(error) = done_so {
            assert_ne!(error.kind(), io::ErrorKind::PermissionDenied, "{step:?}: {error}");
            eprintln!("{step:?}: {error}");
            return (is, Some(step));
        }
        is = step.done(is);
        done.fetch_add(1, Ordering::Relaxed);
    }
    (is, None)
}

/// What several do, and what each knows of its folder.
struct Crowd {
    folders: Vec<PathBuf>,
    known: Vec<Folder>,
    dice: Dice,
    kills: u64,
    total: u64,
}

impl Crowd {
    fn of(root: &Path) -> Self {
        let kills = std::env::var("PINFOLD_KILLS").map_or(10, |n| n.parse().expect("PINFOLD_KILLS is a number"));
        let folders: Vec<PathBuf> = (0..WRITERS).map(|n| root.join(format!("w{n}"))).collect();
        folders.iter().for_each(|folder| fs::create_dir(folder).expect("the tree is there"));
        let known = vec![Folder::new(); WRITERS as usize];
        Crowd { folders, known, dice: Dice(0x2545_f491_4f6c_dd1d), kills, total: 0 }
    }

    /// All of them work, and in the midst of it something happens, which gets the number of changes that were answered; then they are told to stop. What each
    /// knows then, and what failed.
    fn beside(&mut self, happens: impl FnOnce(&AtomicU64)) -> Vec<(Folder, Option<Step>)> {
        let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
        // By what was done, not by the clock: a busy machine does less, and is killed later.
        let enough = 25 + self.dice.below(200);
        let moment = Duration::from_micros(self.dice.below(2000));
        let mut own: Vec<Dice> = (0..WRITERS).map(|_| Dice(self.dice.below(u64::MAX) | 1)).collect();
        let results = std::thread::scope(|scope| {
            let writers: Vec<_> = self
                .folders
                .iter()
                .zip(&self.known)
                .zip(&mut own)
                .map(|((folder, is), dice)| scope.spawn(|| work(folder, is.clone(), dice, (&stop, &done))))
                .collect();
            until(&done, enough);
            std::thread::sleep(moment);
            happens(&done);
            stop.store(true, Ordering::Relaxed);
            writers.into_iter().map(|writer| writer.join().expect("it ends with the daemon, or is told to")).collect()
        });
        self.total += done.into_inner();
        results
    }

    fn is_enough(&self) {
        eprintln!("{} changes were answered over {} kills", self.total, self.kills);
        assert!(self.total > 20 * self.kills, "the writers had nothing to do: {}", self.total);
    }
}

fn until(done: &AtomicU64, enough: u64) {
    wait_for("the writers to do something", Duration::from_secs(60), || {
        (done.load(Ordering::Relaxed) >= enough).then_some(())
    });
}

#[test]
fn of_what_several_writers_were_answered_nothing_is_lost_to_a_kill() {
    let mut daemon = Daemon::keyed(LIMITS);
    let mut crowd = Crowd::of(daemon.root());
    for round in 0..crowd.kills {
        let results = crowd.beside(|_| daemon.kill9());
        daemon.serve_unlocked();
        for ((folder, is), (answered, under_way)) in crowd.folders.iter().zip(&mut crowd.known).zip(results) {
            let after = under_way.as_ref().map(|step| step.done(answered.clone()));
            let found = look(folder, &answered);
            let found_after = after.as_ref().map(|after| look(folder, after));
            *is = match after {
                _ if found == answered => answered,
                Some(after) if found_after.as_ref() == Some(&after) => after,
                _ => panic!(
                    "round {round}, {}: {under_way:?} was under way\nknown: {answered:#?}\nfound: {found:#?}",
                    folder.display()
                ),
            };
        }
    }
    crowd.is_enough();
    daemon.cli(&["fsck", "--deep"]).ok();
    daemon.cli(&["log", "--verify"]).ok();
}

#[test]
fn of_what_several_writers_do_nothing_fails_or_is_lost_where_a_supervisor_keeps_the_tree() {
    let binary = Some(env!("CARGO_BIN_EXE_pinfold").into());
    let mut site = Site::with(Setup { config: LIMITS.into(), binary, ..Setup::default() });
    let mut crowd = Crowd::of(site.daemon.root());
    for round in 0..crowd.kills {
        let results = crowd.beside(|done| {
            site.expect("kill", "ended");
            site.expect("start", "ready");
            // What waited for the next daemon is answered by it, once.
            until(done, done.load(Ordering::Relaxed) + 4 * WRITERS);
        });
        for ((folder, is), (answered, failed)) in crowd.folders.iter().zip(&mut crowd.known).zip(results) {
            let found = look(folder, &answered);
            let same = failed.is_none() && found == answered;
            assert!(
                same,
                "round {round}, {}: {failed:?} failed\nknown: {answered:#?}\nfound: {found:#?}\n{}",
                folder.display(),
                site.daemon.log()
            );
            *is = answered;
        }
    }
    crowd.is_enough();
    site.daemon.cli(&["fsck", "--deep"]).ok();
    site.daemon.cli(&["log", "--verify"]).ok();
}
