//! The power goes, at every flush of the disk and between them: what was acknowledged as durable is there, the rest is a prefix of what was done, and
//! the store opens without complaint.
//!
//! The store lies on a disk that keeps a record (`common::disk`), with ext4 between. How many cuts there are is PINFOLD_CUTS (120 by default). That the
//! comparison can fail is shown by a disk whose flushes do nothing.

use super::store::Dice;
use crate::common::disk::{Cut, Disk, Kept, Mounted, Room, Told, alone, cuts, examined, many};
use pinfold::audit::{self, Log, Settings, WhenFull};
use pinfold::caller::{Callers, Daemon};
use pinfold::model::{Ino, Kind, Name, Scope, SecretPath, Timestamp, Uid};
use pinfold::seal::Protection;
use pinfold::secret::Secret;
use pinfold::store::Store;
use pinfold::vault::{
    Content, Limits, NewNode, Recovery, Rename, SetAttr, TimeChange, UidMap, UnlockBy, Vault, VaultError, XattrMode,
    create_store,
};
use pinfold::wire::{Actor, Condition, Fault, Serve};
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const NAME: &str = "attacks::power::after_a_power_cut_what_was_acknowledged_is_there_and_the_rest_is_a_prefix";
/// Each in a folder of its own.
const WRITERS: u64 = 3;
/// How much each does.
const STEPS: usize = 120;
/// Names in each folder.
const NAMES: u64 = 5;
/// The attribute of an access ACL.
const ACL: &str = "system.posix_acl_access";
const NOTE: &str = "user.note";

/// When something was: in the order of what was done, and by what the disk had been told.
#[derive(Debug, Clone, Copy)]
struct Moment {
    order: u64,
    at: usize,
}

/// What is durable from a moment on: all that was answered before it was begun.
#[derive(Debug, Clone, Copy)]
struct Mark {
    begun: Moment,
    acknowledged: Moment,
}

/// What a writer did, and what its folder was then.
struct Done {
    what: String,
    mark: Mark,
    durable: bool,
    seen: Vec<String>,
}

/// All that was done to a disk, and the disk.
struct Record {
    identity: Secret,
    /// By writer; the first of each is how it began.
    done: Vec<Vec<Done>>,
    marks: Vec<Mark>,
    first: Vec<u8>,
    told: Vec<Told>,
}

struct Clock<'a> {
    disk: &'a Disk,
    order: AtomicU64,
}

impl Clock<'_> {
    fn now(&self) -> Moment {
        let order = self.order.fetch_add(1, Ordering::SeqCst);
        Moment { order, at: self.disk.position() }
    }

    fn mark(&self, act: impl FnOnce()) -> Mark {
        let begun = self.now();
        act();
        Mark { begun, acknowledged: self.now() }
    }
}

/// A vault over the store in a folder, as a daemon that begins now has it.
fn open(folder: &Path, identity: &Secret) -> Result<Vault, String> {
    let said = |e: &dyn std::fmt::Display| e.to_string();
    let settings =
        Settings { path: folder.join("audit.log"), max_size: 1 << 24, when_full: WhenFull::Refuse, space: None };
    let limits = Limits {
        max_secret_size: 1 << 20,
        max_secrets: 1000,
        max_instances: 1,
        keep_versions: 2,
        allow_reveal: false,
        mountpoint: "/nowhere".into(),
        operator_gid: None,
    };
    let store = Store::open(&folder.join("store")).map_err(|e| said(&e))?;
    let log = Log::open(settings, None).map_err(|e| said(&e))?;
    let vault = Vault::new(store, log, Callers::new().map_err(|e| said(&e))?, limits);
    vault.unlock(&Daemon, &UnlockBy::Identity(identity)).map_err(|e| said(&e))?;
    Ok(vault)
}

fn path(text: &str) -> SecretPath {
    SecretPath::parse(text).expect("a path")
}

fn name(text: &str) -> Name {
    Name::parse(text.as_bytes()).expect("a name")
}

/// Everything that can be seen of a folder and what is in it.
fn seen(vault: &Vault, folder: &str) -> Result<Vec<String>, VaultError> {
    let folder = vault.find(&path(folder))?;
    let mut all = vec![format!("{:?}", vault.attr(folder)?)];
    for (ino, kind, name) in vault.entries(folder)? {
        let mut line = format!("{name}: {:?}", vault.attr(ino)?);
        for attribute in vault.list_xattr(ino)? {
            write!(line, " {attribute}={:?}", vault.get_xattr(ino, &attribute)?).expect("a string takes it");
        }
        match kind {
            Kind::Symlink => line += &vault.read_link(ino)?,
            Kind::File => match vault.open_read(&Daemon, ino) {
                Ok(opened) => {
                    let digest = Sha256::digest(opened.content.expose());
                    write!(line, " {:?} {digest:x}", opened.version).expect("a string takes it");
                }
                Err(error) => write!(line, " {error}").expect("a string takes it"),
            },
            Kind::Directory => {}
        }
        all.push(line);
    }
    Ok(all)
}

struct Writer<'a> {
    vault: &'a Vault,
    folder: String,
    parent: Ino,
    dice: Dice,
}

/// What was done, and whether it must outlive a power cut by its answer.
type Step = Result<(String, bool), VaultError>;

impl Writer<'_> {
    fn step(&mut self) -> Step {
        let number = self.dice.below(1_000_000);
        let own = format!("n{}", self.dice.below(NAMES));
        let Ok(is) = self.vault.lookup(self.parent, &own) else { return self.make(&own, number) };
        let has_content = is.kind == Kind::File && is.size > 0;
        match (is.kind, self.dice.below(10)) {
            (Kind::File, 0..=2) => self.write(&own, is.ino, number),
            (Kind::File, 3) => self.rename(&own, number),
            (Kind::File, 4) => self.list(&own, is.ino, number, has_content),
            (Kind::File, 5) => self.condition(&own, number),
            (Kind::File, 6) => {
                let times = SetAttr {
                    mtime: Some(TimeChange::At(Timestamp { secs: number as i64, nanos: 0 })),
                    ..SetAttr::default()
                };
                self.vault.set_attr(&Daemon, is.ino, times)?;
                Ok((format!("touch {own}"), false))
            }
            (Kind::File, 7) => {
                let uid = [0, 7, 8][number as usize % 3];
                self.vault.set_attr(&Daemon, is.ino, SetAttr { uid: Some(Uid(uid)), ..SetAttr::default() })?;
                Ok((format!("chown {uid} {own}"), has_content && uid != is.uid))
            }
            (Kind::File | Kind::Directory, 8) => {
                let mode = [0o600, 0o644, 0o400, 0o700, 0o711][number as usize % 5];
                self.vault.set_attr(&Daemon, is.ino, SetAttr { mode: Some(mode), ..SetAttr::default() })?;
                let narrower = is.mode & !mode != 0 && (has_content || is.kind == Kind::Directory);
                Ok((format!("chmod {mode:o} {own}"), narrower))
            }
            (Kind::Directory, 0..=4) => {
                self.vault.set_xattr(&Daemon, is.ino, NOTE, number.to_string().as_bytes(), XattrMode::Set)?;
                Ok((format!("note {number} {own}"), false))
            }
            (Kind::Directory, 9) => {
                self.vault.rmdir(&Daemon, self.parent, &name(&own))?;
                Ok((format!("rmdir {own}"), true))
            }
            (Kind::File | Kind::Symlink, 9) => {
                self.vault.unlink(&Daemon, self.parent, &name(&own))?;
                Ok((format!("unlink {own}"), true))
            }
            _ => self.step(),
        }
    }

    fn make(&self, own: &str, number: u64) -> Step {
        let kind = [Kind::Directory, Kind::Symlink, Kind::File, Kind::File, Kind::File][number as usize % 5];
        let target = (kind == Kind::Symlink).then_some("n0");
        let new = NewNode { parent: self.parent, name: &name(own), kind, mode: 0o644, umask: 0, target };
        self.vault.create(&Daemon, new)?;
        Ok((format!("make {own}, {kind:?}"), false))
    }

    fn write(&mut self, own: &str, ino: Ino, number: u64) -> Step {
        // Most are short, some fill segments of the journal and of the database, a few go past the journal.
        let length = match self.dice.below(40) {
            0..=29 => [40, 900, 5000, 9000][self.dice.below(4) as usize],
            30..=37 => [30_000, 60_000, 120_000][self.dice.below(3) as usize],
            _ => 600_000,
        };
        let bytes: Vec<u8> = number.to_string().bytes().cycle().take(length).collect();
        let right = self.vault.open_new(&Daemon, ino)?;
        self.vault.commit(&right, &Daemon.who(), Content { bytes: &bytes, mtime: None })?;
        Ok((format!("write {length} to {own}"), true))
    }

    fn rename(&self, own: &str, number: u64) -> Step {
        let to = format!("n{}", number % NAMES);
        let replaces = self.vault.lookup(self.parent, &to).is_ok();
        let (from, new_name) = (name(own), name(&to));
        let parent = self.parent;
        let rename = Rename { parent, name: &from, new_parent: parent, new_name: &new_name, replace: true };
        self.vault.rename(&Daemon, rename)?;
        Ok((format!("rename {own} to {to}"), replaces && own != to))
    }

    /// An ACL that lets another in, or none.
    fn list(&self, own: &str, ino: Ino, number: u64, has_content: bool) -> Step {
        if self.vault.get_xattr(ino, ACL).is_ok() {
            self.vault.remove_xattr(&Daemon, ino, ACL)?;
            return Ok((format!("setfacl -b {own}"), has_content));
        }
        let entry = |tag: u16, permissions: u16, id: u32| {
            [&tag.to_le_bytes()[..], &permissions.to_le_bytes(), &id.to_le_bytes()].concat()
        };
        let nobody = u32::MAX;
        let user = entry(2, 4, 2000 + number as u32 % 5);
        let rest = [entry(4, 0, nobody), entry(0x10, 4, nobody), entry(0x20, 0, nobody)].concat();
        let acl = [2u32.to_le_bytes().to_vec(), entry(1, 6, nobody), user, rest].concat();
        self.vault.set_xattr(&Daemon, ino, ACL, &acl, XattrMode::Set)?;
        Ok((format!("setfacl {own}"), false))
    }

    fn condition(&self, own: &str, number: u64) -> Step {
        let mut asked = Condition {
            path: path(&format!("{}/{own}", self.folder)),
            unit: None,
            exe: None,
            label: None,
            expires: None,
            on_change: None,
            clear: Vec::new(),
        };
        match number % 3 {
            0 => asked.clear = vec!["unit".into()],
            _ => asked.unit = Some(format!("u{}.service", number % 7)),
        }
        let actor = Actor::new(0, 0, i32::try_from(std::process::id()).expect("a process id"));
        match self.vault.serve(&actor, asked) {
            Ok(_) => Ok((format!("condition {own}, {number}"), true)),
            Err(Fault::NothingToDo(_)) => Err(VaultError::NothingToDo("it is so already")),
            Err(fault) => Err(VaultError::Failed(fault.to_string())),
        }
    }

    /// Declares a scope, or removes it with what is in it.
    fn scope(&self, number: u64) -> Step {
        let scope = Scope::container(&format!("c{}", number % 2)).expect("a name");
        if self.vault.find(&path(&format!("containers/c{}", number % 2))).is_ok() {
            self.vault.remove_scope(&Daemon, &scope, true)?;
            return Ok((format!("scope remove {scope}"), true));
        }
        self.vault.add_scope(&Daemon, &scope, false, UidMap::Auto)?;
        Ok((format!("scope add {scope}"), true))
    }
}

impl Record {
    /// Makes a store on a new disk, and has several change it at once.
    fn new(folder: &Path) -> Record {
        let disk = Disk::new(folder, "disk");
        let at = folder.join("served");
        std::fs::create_dir(&at).expect("a folder");
        let mounted = Mounted::new(disk.path(), &at);
        let recovery = Recovery { recipients: vec![age::x25519::Identity::generate().to_public().to_string()] };
        let mut text = create_store(&at.join("store"), &Protection::Plain, &recovery).expect("a store").expect("a key");
        let identity = Secret::take(&mut text).expect("room for it");
        let vault = open(&at, &identity).expect("it opens");
        let clock = Clock { disk: &disk, order: AtomicU64::new(0) };
        let mut done = Vec::new();
        for writer in 0..WRITERS {
            let folder = format!("w{writer}");
            let new = NewNode {
                parent: Ino::ROOT,
                name: &name(&folder),
                kind: Kind::Directory,
                mode: 0o755,
                umask: 0,
                target: None,
            };
            vault.create(&Daemon, new).expect("the tree is there");
            let mark = clock.mark(|| ());
            let seen = watched(&vault, writer).expect("it is there");
            done.push(vec![Done { what: "nothing".into(), mark, durable: false, seen }]);
        }
        let marks = Mutex::new(vec![clock.mark(|| vault.sync().expect("an honest disk"))]);
        let over = AtomicBool::new(false);
        let (served, clock) = (&vault, &clock);
        std::thread::scope(|threads| {
            let writers: Vec<_> = done
                .iter_mut()
                .zip(0..)
                .map(|(done, writer)| threads.spawn(move || work(served, clock, writer, done)))
                .collect();
            threads.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    // As the daemon's main thread does, only more often.
                    let mark = clock.mark(|| vault.tick().expect("an honest disk"));
                    marks.lock().expect("nobody panicked").push(mark);
                    std::thread::sleep(Duration::from_millis(40));
                }
            });
            let ends: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
            over.store(true, Ordering::Relaxed);
            ends.into_iter().for_each(|end| end.expect("an honest disk"));
        });
        let mut marks = marks.into_inner().expect("nobody panicked");
        marks.push(clock.mark(|| vault.shutdown()));
        marks.extend(done.iter().flatten().filter(|done| done.durable).map(|done| done.mark));
        drop(vault);
        drop(mounted);
        let (first, told) = disk.end();
        Record { identity, done, marks, first, told }
    }

    /// From when on there is something to lose.
    fn begin(&self) -> usize {
        self.done.iter().map(|done| done[0].mark.acknowledged.at).max().unwrap_or(0).max(self.marks[0].acknowledged.at)
    }

    /// What is wrong with the store in a folder, as a cut has left it.
    fn examine(&self, cut: &Cut, folder: &Path) -> Result<(), String> {
        let vault = open(folder, &self.identity)?;
        let lost = self.marks.iter().filter(|mark| mark.acknowledged.at <= cut.at).map(|mark| mark.begun.order).max();
        for (done, writer) in self.done.iter().zip(0..) {
            let found = watched(&vault, writer).map_err(|e| e.to_string())?;
            let must = |done: &&Done| {
                done.mark.acknowledged.order < lost.unwrap_or(0) || done.durable && done.mark.acknowledged.at <= cut.at
            };
            let least = done.iter().rposition(|done| must(&done)).unwrap_or(0);
            let most = done.iter().rposition(|done| done.mark.begun.at < cut.at).unwrap_or(0).max(least);
            if !done[least..=most].iter().any(|done| done.seen == found) {
                let other = done.iter().position(|done| done.seen == found);
                let steps: Vec<&str> = done[least..=most].iter().map(|done| done.what.as_str()).collect();
                let known = &done[most].seen;
                let more: Vec<&String> = found.iter().filter(|line| !known.contains(line)).collect();
                let fewer: Vec<&String> = known.iter().filter(|line| !found.contains(line)).collect();
                return Err(format!(
                    "writer {writer} is as after {other:?}, not as after one of {least} to {most}: {steps:?}; of what it was after the last, \
                     {fewer:#?} is now {more:#?}"
                ));
            }
        }
        let problems = vault.check(true).map_err(|e| e.to_string())?.problems;
        // It goes on.
        let ino = vault.find(&path("w0")).map_err(|e| e.to_string())?;
        let new = NewNode { parent: ino, name: &name("later"), kind: Kind::File, mode: 0o600, umask: 0, target: None };
        let later = vault.create(&Daemon, new).map_err(|e| e.to_string())?.ino;
        let right = vault.open_new(&Daemon, later).map_err(|e| e.to_string())?;
        vault.commit(&right, &Daemon.who(), Content { bytes: b"later", mtime: None }).map_err(|e| e.to_string())?;
        vault.shutdown();
        drop(vault);
        let log = folder.join("audit.log");
        if std::fs::read_to_string(&log).map_err(|e| e.to_string())?.contains("store_behind") {
            return Err("the log says that the store was put back".into());
        }
        let log = audit::verify(&log, None).map_err(|e| e.to_string())?;
        match (problems.is_empty(), log.is_whole()) {
            (true, true) => Ok(()),
            _ => Err(format!("{problems:?}, {:?}", log.problems)),
        }
    }
}

/// What a writer changes.
fn watched(vault: &Vault, writer: u64) -> Result<Vec<String>, VaultError> {
    let mut all = seen(vault, &format!("w{writer}"))?;
    if writer == 0 {
        all.extend(seen(vault, "containers")?);
    }
    Ok(all)
}

fn work(vault: &Vault, clock: &Clock<'_>, number: u64, done: &mut Vec<Done>) {
    let folder = format!("w{number}");
    let parent = vault.find(&path(&folder)).expect("it was made");
    let mut writer = Writer { vault, folder, parent, dice: Dice(0x9e37_79b9_7f4a_7c15 ^ (number + 1)) };
    while done.len() <= STEPS {
        let mut step = None;
        let mark = clock.mark(|| {
            step = Some(match number == 0 && done.len().is_multiple_of(15) {
                true => writer.scope(done.len() as u64 / 15),
                false => writer.step(),
            });
        });
        match step.expect("it was taken") {
            Ok((what, durable)) => {
                let seen = watched(vault, number).expect("it is unlocked");
                done.push(Done { what, mark, durable, seen });
            }
            // It may not be done to what is there, and has changed nothing.
            Err(
                VaultError::NotPermitted(_)
                | VaultError::NothingToDo(_)
                | VaultError::NotEmpty
                | VaultError::IsADirectory
                | VaultError::NotADirectory,
            ) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

fn power_goes() {
    let room = Room::new();
    let mut dice = Dice(0x1234_5678_9abc_def1);
    let record = Record::new(room.path());
    let all = cuts(&record.told, record.begin(), many(120), &mut |end| dice.below(end));
    let examine = |cut: &Cut, folder: &Path| record.examine(cut, folder);
    let wrong = examined((&record.first, &record.told), &all, room.path(), 5, &examine);
    assert!(wrong.is_empty(), "the store did not outlive: {wrong:#?}");
    // A disk that has nothing since some flushes ago is found out.
    let kept = Kept::Some { chances: 0, seed: 0 };
    let lies: Vec<Cut> = all.iter().map(|cut| Cut { at: cut.at, kept: kept.clone(), ignored: 6 }).collect();
    let found = examined((&record.first, &record.told), &lies, room.path(), 1, &examine);
    assert!(!found.is_empty(), "a disk that forgets what it flushed passes: the comparison sees nothing");
}

#[test]
fn after_a_power_cut_what_was_acknowledged_is_there_and_the_rest_is_a_prefix() {
    alone(NAME, power_goes);
}
