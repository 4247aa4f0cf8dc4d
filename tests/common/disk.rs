//! A disk that remembers each write and each flush in their order, so that it can be had again as a power cut at any moment leaves it.
//!
//! A file of FUSE's is the disk: a loop device over it, and a filesystem on that. Owns the file, and the images of cuts; whoever uses it is in a
//! mount namespace of its own, with which all of it ends.

use super::wait_for;
use fuser::{
    Config, FileAttr, FileHandle, FileType, Filesystem, INodeNo, LockOwner, OpenFlags, ReplyAttr, ReplyData,
    ReplyEmpty, ReplyWrite, Request, Session, SessionACL, WriteFlags,
};
use nix::mount::{MsFlags, mount};
use pinfold::sys::mount::{open_fuse_device, unmount_detach};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

/// Bytes of a disk.
pub const SIZE: usize = 64 << 20;
/// What a disk writes whole or not at all.
const SECTOR: usize = 512;
/// What a filesystem writes whole, if the power holds.
const BLOCK: usize = 4096;

/// What a disk was told.
pub enum Told {
    Write {
        at: usize,
        bytes: Vec<u8>,
    },
    /// Everything before it is there for good.
    Flush,
}

#[derive(Default)]
struct Content {
    now: Vec<u8>,
    told: Vec<Told>,
}

/// A disk that keeps a record.
pub struct Disk {
    file: PathBuf,
    first: Vec<u8>,
    content: Arc<Mutex<Content>>,
    served: Option<std::thread::JoinHandle<()>>,
}

struct Served(Arc<Mutex<Content>>);

fn locked(content: &Mutex<Content>) -> MutexGuard<'_, Content> {
    content.lock().expect("nothing panics while it is held")
}

impl Disk {
    /// With an empty ext4 on it, as the file `name` in a folder.
    pub fn new(folder: &Path, name: &str) -> Disk {
        let file = folder.join(name);
        File::create(&file).and_then(|file| file.set_len(SIZE as u64)).expect("an image");
        let block = BLOCK.to_string();
        run("mkfs.ext4", &["-q", "-b", &block, "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0"], &[&file]);
        let first = std::fs::read(&file).expect("an image");
        let content = Arc::new(Mutex::new(Content { now: first.clone(), told: Vec::new() }));
        let device = open_fuse_device().expect("/dev/fuse");
        let options = format!("fd={},rootmode=100600,user_id=0,group_id=0", device.as_raw_fd());
        mount(Some("disk"), &file, Some("fuse"), MsFlags::empty(), Some(options.as_str())).expect("it is mounted");
        let served = Served(Arc::clone(&content));
        let session = Session::from_fd(served, device, SessionACL::Owner, Config::default()).expect("a session");
        let served = std::thread::spawn(move || drop(session.run()));
        Disk { file, first, content, served: Some(served) }
    }

    pub fn path(&self) -> &Path {
        &self.file
    }

    /// How often it was told something so far.
    pub fn position(&self) -> usize {
        locked(&self.content).told.len()
    }

    /// What it was at first, and all that it was told. Nothing is mounted from it any more.
    pub fn end(mut self) -> (Vec<u8>, Vec<Told>) {
        self.close();
        (std::mem::take(&mut self.first), std::mem::take(&mut locked(&self.content).told))
    }

    fn close(&mut self) {
        let _ = unmount_detach(&self.file);
        self.served.take().map(std::thread::JoinHandle::join);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // What is still mounted from it ends with the namespace.
        let _ = unmount_detach(&self.file);
    }
}

/// A filesystem that is mounted from a disk, or from an image of one.
pub struct Mounted(PathBuf);

impl Mounted {
    /// Whether the kernel takes it as it is.
    pub fn new(image: &Path, at: &Path) -> Mounted {
        run("mount", &["-t", "ext4", "-o", "loop,noatime"], &[image, at]);
        Mounted(at.to_owned())
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Threads of a database that was closed may have it for a moment still.
        let unmount = || Command::new("umount").arg(&self.0).stderr(Stdio::null()).status().is_ok_and(|s| s.success());
        if std::thread::panicking() {
            unmount();
        } else {
            wait_for("the filesystem to be free", Duration::from_secs(20), || unmount().then_some(()));
        }
    }
}

/// A moment at which the power may go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// How often it had been told something: later, nothing is.
    pub at: usize,
    /// What is there of what it was told since the last flush.
    pub kept: Kept,
    /// How many flushes before it did nothing: none of an honest disk.
    pub ignored: usize,
}

/// What a disk has of what it was told and had not flushed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// All but one that it was told, by its number.
    But(usize),
    /// Each block by so many chances in 100, and of those that are there some torn.
    Some { chances: u64, seed: u64 },
}

/// A record played again, up to one cut after the other.
struct Replay<'a> {
    told: &'a [Told],
    /// Of what is for good.
    image: Vec<u8>,
    applied: usize,
}

impl<'a> Replay<'a> {
    fn new(first: &[u8], told: &'a [Told]) -> Self {
        Replay { told, image: first.to_vec(), applied: 0 }
    }

    /// Writes what a cut leaves to a file. Cuts come in their order.
    fn write(&mut self, cut: &Cut, file: &Path) {
        let before = &self.told[..cut.at];
        let flushes = before.iter().enumerate().rev().filter(|(_, told)| matches!(told, Told::Flush));
        let durable = flushes.map(|(at, _)| at).nth(cut.ignored).unwrap_or(0);
        assert!(durable >= self.applied, "cuts come in their order");
        for told in &self.told[self.applied..durable] {
            if let Told::Write { at, bytes } = told {
                self.image[*at..at + bytes.len()].copy_from_slice(bytes);
            }
        }
        self.applied = durable;
        let (file, zeros) = (File::create(file).expect("an image"), vec![0; 1 << 20]);
        for (number, chunk) in self.image.chunks(1 << 20).enumerate() {
            if *chunk != zeros[..chunk.len()] {
                file.write_all_at(chunk, (number << 20) as u64).expect("there is room for an image");
            }
        }
        file.set_len(SIZE as u64).expect("an image");
        for (number, told) in self.told.iter().enumerate().take(cut.at).skip(durable) {
            let Told::Write { at, bytes } = told else { continue };
            match cut.kept {
                Kept::But(other) if other == number => {}
                Kept::But(_) => file.write_all_at(bytes, *at as u64).expect("there is room for an image"),
                Kept::Some { chances, seed } => {
                    let mut chance = Chance((seed ^ (number as u64) << 32) | 1);
                    for (block, bytes) in bytes.chunks(BLOCK).enumerate() {
                        if !chance.of(chances) {
                            continue;
                        }
                        let torn = chance.of(5);
                        for (sector, bytes) in bytes.chunks(SECTOR).enumerate() {
                            if !torn || chance.of(50) {
                                let at = at + block * BLOCK + sector * SECTOR;
                                file.write_all_at(bytes, at as u64).expect("there is room for an image");
                            }
                        }
                    }
                }
            }
        }
    }
}

/// How many cuts a test makes: so many, or PINFOLD_CUTS.
pub fn many(cuts: usize) -> usize {
    std::env::var("PINFOLD_CUTS").map_or(cuts, |n| n.parse().expect("PINFOLD_CUTS is a number"))
}

/// So many cuts of what was told after `begin`: at the flushes, and between them with more or less of what the disk was told since, or with all but one
/// thing: what is written in the place of something else may be there before what that went to.
pub fn cuts(told: &[Told], begin: usize, many: usize, below: &mut dyn FnMut(u64) -> u64) -> Vec<Cut> {
    let flushes = told.iter().enumerate().filter(|(_, told)| matches!(told, Told::Flush)).map(|(at, _)| at);
    let ends: Vec<usize> = flushes.filter(|at| *at >= begin).collect();
    eprintln!("{} flushes and {} writes since {begin}", ends.len(), told.len() - begin - ends.len());
    let step = ends.len().div_ceil((many / 3).max(1)).max(1);
    let nothing = Kept::Some { chances: 0, seed: 0 };
    let at_flush = ends.iter().step_by(step).map(|at| Cut { at: at + 1, kept: nothing.clone(), ignored: 0 });
    let mut cuts: Vec<Cut> = at_flush.collect();
    // What lies between two flushes, the longest first: those are the checkpoints.
    let mut spans: Vec<(usize, usize)> = ends.windows(2).map(|pair| (pair[0] + 1, pair[1])).collect();
    spans.retain(|(from, to)| from < to);
    spans.sort_by_key(|(from, to)| std::cmp::Reverse(to - from));
    while cuts.len() < many && !spans.is_empty() {
        let among = (spans.len() * (1 + cuts.len() % 4)).div_ceil(4);
        let (from, to) = spans[below(among as u64) as usize];
        let at = from + 1 + below((to - from) as u64) as usize;
        let kept = match below(3) {
            0 => Kept::Some { chances: [10, 50, 50, 90][below(4) as usize], seed: below(u64::MAX) },
            _ => Kept::But(from + below((at - from) as u64) as usize),
        };
        cuts.push(Cut { at, kept, ignored: 0 });
    }
    cuts.sort_by_key(|cut| cut.at);
    cuts
}

/// What is wrong after cuts, as `examine` says of what each has left in a folder; it ends when so many are wrong. On as many threads as there are
/// processors.
pub fn examined(
    (first, told): (&[u8], &[Told]),
    cuts: &[Cut],
    folder: &Path,
    most: usize,
    examine: &(dyn Fn(&Cut, &Path) -> Result<(), String> + Sync),
) -> Vec<(Cut, String)> {
    let (wrong, begun) = (Mutex::new(Vec::new()), Instant::now());
    let threads = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 8);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (image, at) = (folder.join(format!("image{thread}")), folder.join(format!("at{thread}")));
            let wrong = &wrong;
            scope.spawn(move || {
                std::fs::create_dir_all(&at).expect("a folder");
                let mut replay = Replay::new(first, told);
                for cut in cuts.iter().skip(thread).step_by(threads) {
                    if wrong.lock().expect("nobody panicked").len() >= most {
                        return;
                    }
                    replay.write(cut, &image);
                    let mounted = Mounted::new(&image, &at);
                    if let Err(why) = examine(cut, mounted.path()) {
                        wrong.lock().expect("nobody panicked").push((cut.clone(), why));
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().expect("nobody panicked");
    eprintln!("{} cuts, {} wrong, in {:?}", cuts.len(), wrong.len(), begun.elapsed());
    wrong
}

/// Set in the process of [`alone`].
const INSIDE: &str = "PINFOLD_ALONE_INSIDE";

/// Runs a test in a process of its own, in a mount namespace of its own: whatever becomes of it, its mounts and loop devices end with it, and it ends
/// with this one. `name` is the test that calls this.
pub fn alone(name: &str, test: fn()) {
    if std::env::var_os(INSIDE).is_some() {
        return test();
    }
    let own = std::env::current_exe().expect("this program");
    let mut inside = Command::new("setpriv");
    inside.args(["--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private"]).arg(own);
    let out = inside.args(["--exact", name, "--nocapture"]).env(INSIDE, "1").output().expect("setpriv is there");
    let said = String::from_utf8_lossy(&out.stderr).into_owned() + &String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success() && said.contains("1 passed"), "{said}");
    eprintln!("{said}");
}

/// A folder in memory, for images that are written in whole over and over.
pub struct Room(tempfile::TempDir);

impl Room {
    pub fn new() -> Room {
        let folder = tempfile::tempdir().expect("a folder");
        mount(Some("images"), folder.path(), Some("tmpfs"), MsFlags::empty(), None::<&str>).expect("tmpfs");
        Room(folder)
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let _ = unmount_detach(self.0.path());
    }
}

struct Chance(u64);

impl Chance {
    /// So many in 100.
    fn of(&mut self, chances: u64) -> bool {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 8) % 100 < chances
    }
}

fn run(program: &str, args: &[&str], paths: &[&Path]) {
    let out = Command::new(program).args(args).args(paths).output().expect("it is installed");
    assert!(out.status.success(), "{program}: {}", String::from_utf8_lossy(&out.stderr));
}

impl Filesystem for Served {
    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let then = SystemTime::UNIX_EPOCH;
        let attr = FileAttr {
            ino,
            size: SIZE as u64,
            blocks: (SIZE / SECTOR) as u64,
            atime: then,
            mtime: then,
            ctime: then,
            crtime: then,
            kind: FileType::RegularFile,
            perm: 0o600,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: BLOCK as u32,
            flags: 0,
        };
        reply.attr(&Duration::from_secs(3600), &attr);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let content = locked(&self.0);
        let from = (offset as usize).min(SIZE);
        reply.data(&content.now[from..(from + size as usize).min(SIZE)]);
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut content = locked(&self.0);
        let at = offset as usize;
        content.now[at..at + data.len()].copy_from_slice(data);
        content.told.push(Told::Write { at, bytes: data.to_vec() });
        reply.written(data.len() as u32);
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        locked(&self.0).told.push(Told::Flush);
        reply.ok();
    }

    /// close(2), which makes nothing durable.
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }
}
