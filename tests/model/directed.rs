//! The cases that matter by name: what makes a version and what does not, histories, bounds, and what once went wrong.

use super::ops::PEM;
use super::rig::{ALICE, BOB, Failure, Person, ROOT, Rig, actor, limits};
use pinfold::caller::Daemon;
use pinfold::fs::{FsError, OpenMode, Opened};
use pinfold::model::{Ino, Kind, Name, SecretPath};
use pinfold::vault::{NewNode, Rename, SetAttr, UnlockBy, VaultError, XattrMode};
use pinfold::wire::{Condition, Conditions, Remove, Rollback, Serve};

const SHELL: u64 = 1;
const ECHO: u64 = 2;
const WRITE: OpenMode = OpenMode { read: false, write: true, truncate: false };
const READ: OpenMode = OpenMode { read: true, write: false, truncate: false };
const BOTH: OpenMode = OpenMode { read: true, write: true, truncate: false };
const TRUNCATE: OpenMode = OpenMode { read: false, write: true, truncate: true };

fn rig() -> Rig {
    let rig = Rig::new(limits(5, 1000));
    // Everybody may make things here.
    let set = SetAttr { mode: Some(0o777), ..SetAttr::default() };
    rig.fs.set_attr(&ROOT, 0, Ino::ROOT, set).unwrap();
    rig
}

fn name(text: &str) -> Name {
    Name::parse(text.as_bytes()).unwrap()
}

fn path(text: &str) -> SecretPath {
    SecretPath::parse(text).unwrap()
}

fn failure<T>(result: Result<T, FsError>) -> Failure {
    match result {
        Ok(_) => panic!("it succeeded"),
        Err(error) => error.into(),
    }
}

/// What the tests say to a tree; names are in the root.
impl Rig {
    fn ino(&self, text: &str) -> Ino {
        self.fs.lookup(Ino::ROOT, text.as_bytes()).unwrap().attr.ino
    }

    fn create(&self, who: Person, text: &str, mode: OpenMode) -> Result<u64, FsError> {
        let name = name(text);
        let new = NewNode { parent: Ino::ROOT, name: &name, kind: Kind::File, mode: 0o666, umask: 0o022, target: None };
        self.fs.create(&who, who.tid, new, mode).map(|(_, opened)| opened.number())
    }

    fn make(&self, who: Person, text: &str, kind: Kind) -> Result<Ino, FsError> {
        let (name, target) = (name(text), (kind == Kind::Symlink).then_some("elsewhere"));
        let new = NewNode { parent: Ino::ROOT, name: &name, kind, mode: 0o755, umask: 0, target };
        self.fs.make(&who, new).map(|attr| attr.ino)
    }

    fn open(&self, who: Person, text: &str, mode: OpenMode) -> Result<u64, FsError> {
        self.fs.open(&who, who.tid, self.ino(text), mode).map(Opened::number)
    }

    fn write(&self, handle: u64, data: &[u8], owner: u64) -> Result<(), FsError> {
        self.fs.write(handle, 0, data, false, owner)
    }

    /// `echo -n data > text`, as a shell does it.
    fn put(&self, who: Person, text: &str, data: &[u8]) -> Result<(), FsError> {
        let handle = match self.fs.lookup(Ino::ROOT, text.as_bytes()) {
            Ok(_) => self.open(who, text, TRUNCATE)?,
            Err(_) => self.create(who, text, WRITE)?,
        };
        self.fs.flush(handle, SHELL)?;
        self.write(handle, data, ECHO)?;
        let flushed = self.fs.flush(handle, ECHO);
        self.fs.release_writer(handle)?;
        flushed
    }

    fn rename(&self, who: Person, from: &str, to: &str) -> Result<(), FsError> {
        let (name, new_name) = (name(from), name(to));
        let rename =
            Rename { parent: Ino::ROOT, name: &name, new_parent: Ino::ROOT, new_name: &new_name, replace: true };
        self.fs.rename(&who, rename)
    }

    fn unlink(&self, who: Person, text: &str) -> Result<(), FsError> {
        self.fs.unlink(&who, Ino::ROOT, &name(text)).map(drop)
    }

    fn content(&self, text: &str) -> Vec<u8> {
        self.vault().open_read(&Daemon, self.ino(text)).unwrap().content.expose().to_vec()
    }

    fn through(&self, who: Person, text: &str, handle: u64) -> Vec<u8> {
        self.of(who, self.ino(text), handle).unwrap()
    }

    fn of(&self, who: Person, ino: Ino, handle: u64) -> Result<Vec<u8>, FsError> {
        let mut found = Vec::new();
        self.fs.read(&who, ino, handle, (0, 100_000), false, |bytes| found = bytes.to_vec())?;
        Ok(found)
    }

    /// Version numbers with their contents, oldest first.
    fn versions(&self, text: &str) -> Vec<(u64, Vec<u8>)> {
        let ino = self.ino(text);
        let open = |n| self.vault().open_version(&Daemon, ino, n).unwrap().content.expose().to_vec();
        self.numbers(text).into_iter().map(|n| (n, open(n))).collect()
    }

    fn numbers(&self, text: &str) -> Vec<u64> {
        let mut history =
            self.vault().serve(&actor(), pinfold::wire::GetHistory { path: path(text) }).unwrap().versions;
        history.reverse();
        history.iter().map(|v| v.number).collect()
    }

    fn is_whole(&self) {
        self.vault().sync().unwrap();
        assert_eq!(self.vault().check(true).unwrap().problems, []);
    }
}

fn texts(versions: &[(u64, Vec<u8>)]) -> Vec<&str> {
    versions.iter().map(|(_, content)| std::str::from_utf8(content).unwrap()).collect()
}

// ---- what makes a version ----

#[test]
fn a_shells_redirection_makes_one_version_and_nobody_sees_it_empty() {
    let rig = rig();
    rig.put(ROOT, "f", b"old").unwrap();
    let handle = rig.open(ROOT, "f", TRUNCATE).unwrap();
    assert_eq!(rig.content("f"), b"old");
    rig.fs.flush(handle, SHELL).unwrap();
    assert_eq!(rig.content("f"), b"old", "the duplicate's close publishes nothing");
    rig.write(handle, b"new", ECHO).unwrap();
    assert_eq!(rig.content("f"), b"old");
    rig.fs.flush(handle, ECHO).unwrap();
    assert_eq!(rig.content("f"), b"new");
    rig.fs.release_writer(handle).unwrap();
    assert_eq!(rig.versions("f"), [(1, b"old".to_vec()), (2, b"new".to_vec())]);
}

#[test]
fn a_bare_truncation_is_committed_by_the_release() {
    let rig = rig();
    rig.put(ROOT, "f", b"old").unwrap();
    let handle = rig.open(ROOT, "f", TRUNCATE).unwrap();
    rig.fs.flush(handle, SHELL).unwrap();
    assert_eq!(rig.content("f"), b"old");
    rig.fs.release_writer(handle).unwrap();
    assert_eq!(rig.content("f"), b"");
    assert_eq!(rig.numbers("f"), [1, 2]);
}

#[test]
fn a_forked_childs_exit_in_mid_write_publishes_nothing() {
    let rig = rig();
    rig.put(ROOT, "f", b"old").unwrap();
    let handle = rig.open(ROOT, "f", TRUNCATE).unwrap();
    rig.write(handle, b"half", ECHO).unwrap();
    rig.fs.flush(handle, 99).unwrap();
    assert_eq!(rig.content("f"), b"old");
    rig.fs.write(handle, 4, b" and half", false, ECHO).unwrap();
    rig.fs.flush(handle, ECHO).unwrap();
    rig.fs.flush(handle, ECHO).unwrap();
    rig.fs.release_writer(handle).unwrap();
    assert_eq!(rig.versions("f"), [(1, b"old".to_vec()), (2, b"half and half".to_vec())]);
}

#[test]
fn a_killed_writer_leaves_what_it_had_written() {
    let rig = rig();
    rig.put(ROOT, "f", b"old").unwrap();
    let handle = rig.open(ROOT, "f", WRITE).unwrap();
    rig.write(handle, b"ol", ECHO).unwrap();
    rig.fs.write(handle, 0, b" and", true, ECHO).unwrap();
    rig.fs.release_writer(handle).unwrap();
    assert_eq!(rig.content("f"), b"old and");
    rig.is_whole();
}

#[test]
fn a_reader_keeps_its_version_whole() {
    let rig = rig();
    rig.put(ROOT, "f", b"old content").unwrap();
    let reader = rig.open(ROOT, "f", READ).unwrap();
    for i in 0..8 {
        rig.put(ROOT, "f", format!("{i}").as_bytes()).unwrap();
    }
    let ino = rig.ino("f");
    rig.unlink(ROOT, "f").unwrap();
    assert_eq!(rig.of(ROOT, ino, reader).unwrap(), b"old content");
}

// ---- what is refused ----

#[test]
fn refused_content_leaves_the_old_version_and_says_why() {
    let rig = rig();
    rig.put(ALICE, "x.pem", PEM[0]).unwrap();
    let before = rig.fs.attr(rig.ino("x.pem"), 0).unwrap();
    assert_eq!(failure(rig.put(ALICE, "x.pem", b"garbage")), Failure::Invalid);
    assert_eq!(rig.fs.attr(rig.ino("x.pem"), 0).unwrap(), before, "time and size as well, and they may be kept");
    assert_eq!(rig.versions("x.pem"), [(1, PEM[0].to_vec())]);
    let own = rig.fs.lookup(Ino::ROOT, b".pinfold").unwrap().attr.ino;
    let last = rig.fs.lookup(own, b"last-error").unwrap().attr.ino;
    let said = |who: Person| {
        let opened = rig.fs.open(&who, who.tid, last, READ).unwrap();
        let said = rig.of(who, last, opened.number()).unwrap();
        rig.fs.release_reader(opened.number());
        String::from_utf8(said).unwrap()
    };
    assert!(said(ALICE).contains("x.pem"), "{}", said(ALICE));
    assert_eq!(said(BOB), "", "each hears of his own");
}

#[test]
fn refused_content_under_a_temporary_name_cannot_be_renamed_into_place() {
    let rig = rig();
    rig.put(ROOT, "x.pem", PEM[0]).unwrap();
    rig.put(ROOT, "x.pem.tmp", b"garbage").unwrap();
    assert_eq!(failure(rig.rename(ROOT, "x.pem.tmp", "x.pem")), Failure::Invalid);
    assert_eq!(rig.content("x.pem"), PEM[0]);
    assert_eq!(rig.content("x.pem.tmp"), b"garbage");
    rig.is_whole();
}

#[test]
fn what_is_too_big_is_refused_where_it_becomes_so() {
    let rig = rig();
    rig.put(ROOT, "f", b"old").unwrap();
    let handle = rig.open(ROOT, "f", WRITE).unwrap();
    assert_eq!(failure(rig.fs.write(handle, 4095, b"ab", false, ECHO)), Failure::TooBig);
    assert_eq!(failure(rig.fs.write(handle, u64::MAX, b"ab", false, ECHO)), Failure::TooBig);
    assert_eq!(failure(rig.fs.truncate(&ROOT, rig.ino("f"), None, 4097)), Failure::TooBig);
    rig.fs.write(handle, 4095, b"a", false, ECHO).unwrap();
    rig.fs.flush(handle, ECHO).unwrap();
    assert_eq!(rig.content("f").len(), 4096);
}

#[test]
fn a_writer_whose_file_is_renamed_is_judged_by_the_name_it_has_then() {
    let rig = rig();
    rig.put(ROOT, "f", b"old").unwrap();
    rig.put(ROOT, "x.pem", PEM[0]).unwrap();
    let handle = rig.open(ROOT, "f", TRUNCATE).unwrap();
    rig.write(handle, b"no PEM", ECHO).unwrap();
    rig.put(ROOT, "g", PEM[1]).unwrap();
    assert_eq!(failure(rig.rename(ROOT, "f", "x.pem")), Failure::Invalid);
    rig.rename(ROOT, "f", "h").unwrap();
    rig.fs.flush(handle, ECHO).unwrap();
    assert_eq!(rig.content("h"), b"no PEM");
    rig.fs.release_writer(handle).unwrap();
    let handle = rig.open(ROOT, "g", TRUNCATE).unwrap();
    rig.write(handle, b"no PEM", ECHO).unwrap();
    rig.rename(ROOT, "g", "g.pem").unwrap();
    assert_eq!(failure(rig.fs.flush(handle, ECHO)), Failure::Invalid);
    rig.fs.release_writer(handle).unwrap();
    assert_eq!(rig.content("g.pem"), PEM[1]);
    rig.is_whole();
}

// ---- removed while open ----

#[test]
fn a_writer_of_an_unlinked_file_goes_on_and_leaves_nothing() {
    let rig = rig();
    rig.put(ROOT, "f", b"old content").unwrap();
    let (ino, handle) = (rig.ino("f"), rig.open(ROOT, "f", BOTH).unwrap());
    rig.unlink(ROOT, "f").unwrap();
    assert_eq!(rig.of(ROOT, ino, handle).unwrap(), b"old content");
    rig.write(handle, b"new", ECHO).unwrap();
    assert_eq!(rig.of(ROOT, ino, handle).unwrap(), b"new content");
    rig.fs.flush(handle, ECHO).unwrap();
    rig.fs.fsync(handle).unwrap();
    assert_eq!(rig.of(ROOT, ino, handle).unwrap(), b"new content", "as a temporary file without a name is used");
    rig.write(handle, b"a longer piece of text", ECHO).unwrap();
    let attr = rig.fs.attr(ino, ROOT.tid).unwrap().attr;
    assert_eq!((attr.nlink, attr.size), (0, 22));
    rig.fs.flush(handle, ECHO).unwrap();
    assert_eq!(rig.fs.attr(ino, ROOT.tid).unwrap().attr.size, 22);
    rig.fs.release_writer(handle).unwrap();
    assert_eq!(rig.fs.open_handles(), 0);
    assert_eq!(rig.numbers("f"), [1], "what it was is kept");
    rig.is_whole();
}

#[test]
fn a_writer_that_cannot_read_finds_what_an_unlinked_file_had() {
    let rig = rig();
    rig.put(ROOT, "f", b"old content").unwrap();
    let (ino, handle) = (rig.ino("f"), rig.open(ROOT, "f", WRITE).unwrap());
    rig.unlink(ROOT, "f").unwrap();
    rig.write(handle, b"new", ECHO).unwrap();
    assert_eq!(rig.fs.attr(ino, ROOT.tid).unwrap().attr.size, 11);
    rig.fs.release_writer(handle).unwrap();
    rig.is_whole();
}

#[test]
fn a_writer_of_a_replaced_file_goes_on_and_leaves_nothing() {
    let rig = rig();
    rig.put(ROOT, "f", b"old content").unwrap();
    rig.put(ROOT, "g", b"other").unwrap();
    let (ino, handle) = (rig.ino("f"), rig.open(ROOT, "f", BOTH).unwrap());
    rig.rename(ROOT, "g", "f").unwrap();
    assert_eq!(rig.of(ROOT, ino, handle).unwrap(), b"old content");
    rig.write(handle, b"new", ECHO).unwrap();
    rig.fs.release_writer(handle).unwrap();
    assert_eq!(rig.content("f"), b"other");
    rig.is_whole();
}

#[test]
fn locking_leaves_no_handle_behind() {
    let rig = rig();
    rig.put(ROOT, "f", b"old").unwrap();
    let writer = rig.open(ROOT, "f", TRUNCATE).unwrap();
    let reader = rig.open(ROOT, "f", READ).unwrap();
    rig.write(writer, b"new", ECHO).unwrap();
    rig.lock();
    assert_eq!(failure(rig.fs.flush(writer, ECHO)), Failure::Stale);
    rig.unlock().unwrap();
    assert_eq!(rig.through(ROOT, "f", reader), b"old", "decided anew, the same version");
    rig.fs.release_writer(writer).unwrap();
    rig.fs.release_reader(reader);
    assert_eq!(rig.fs.open_handles(), 0);
    assert!(rig.fs.attr(rig.ino("f"), 0).unwrap().lasting);
    assert!(matches!(rig.unlock(), Err(VaultError::NothingToDo(_))));
}

#[test]
fn many_readers_of_a_handle_from_before_a_lock_all_get_their_answer() {
    let rig = rig();
    rig.put(ROOT, "f", b"content").unwrap();
    let (ino, reader) = (rig.ino("f"), rig.open(ROOT, "f", READ).unwrap());
    for _ in 0..20 {
        rig.lock();
        rig.unlock().unwrap();
        let start = std::sync::Barrier::new(4);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    start.wait();
                    assert_eq!(rig.of(ROOT, ino, reader).unwrap(), b"content");
                });
            }
        });
    }
    rig.fs.release_reader(reader);
    assert_eq!(rig.fs.open_handles(), 0);
}

#[test]
fn a_handle_on_a_file_that_was_never_written_stays_empty() {
    let rig = rig();
    let handle = rig.create(ROOT, "f", READ).unwrap();
    rig.put(ROOT, "f", b"later").unwrap();
    rig.lock();
    rig.unlock().unwrap();
    assert_eq!(rig.through(ROOT, "f", handle), b"");
}

// ---- histories ----

#[test]
fn so_many_versions_are_kept_and_no_more() {
    let rig = rig();
    for i in 0..9 {
        rig.put(ROOT, "f", format!("{i}").as_bytes()).unwrap();
    }
    assert_eq!(rig.numbers("f"), [5, 6, 7, 8, 9]);
    assert_eq!(texts(&rig.versions("f")), ["4", "5", "6", "7", "8"]);
    rig.vault().serve(&actor(), Rollback { path: path("f"), version: 5 }).unwrap();
    assert_eq!(texts(&rig.versions("f")), ["5", "6", "7", "8", "4"]);
    rig.is_whole();
}

#[test]
fn a_bound_made_smaller_takes_the_blobs_along() {
    let rig = rig();
    for i in 0..3 {
        rig.put(ROOT, "f", format!("{i}").as_bytes()).unwrap();
    }
    for version in [1, 2] {
        rig.vault().serve(&actor(), Rollback { path: path("f"), version }).unwrap();
    }
    let rig = rig.reopen_with(limits(1, 1000));
    rig.put(ROOT, "f", b"new").unwrap();
    assert_eq!(rig.numbers("f"), [6]);
    rig.is_whole();
}

#[test]
fn history_follows_the_name_when_a_temporary_one_is_renamed_into_place() {
    let rig = rig();
    rig.put(ROOT, "f", b"1").unwrap();
    for i in 2..5 {
        // The same temporary name each time.
        rig.put(ROOT, "f.tmp", format!("{i}").as_bytes()).unwrap();
        rig.rename(ROOT, "f.tmp", "f").unwrap();
    }
    let versions = rig.versions("f");
    assert_eq!(texts(&versions), ["1", "2", "3", "4"]);
    assert_eq!(rig.numbers("f"), [1, 2, 3, 4]);
    rig.is_whole();
}

#[test]
fn history_follows_the_name_when_the_old_file_is_renamed_away() {
    let rig = rig();
    for i in 0..5 {
        rig.put(ROOT, "f", format!("{i}").as_bytes()).unwrap();
    }
    rig.rename(ROOT, "f", "f~").unwrap();
    rig.put(ROOT, "f", b"5").unwrap();
    assert_eq!(texts(&rig.versions("f")), ["1", "2", "3", "4", "5"]);
    assert_eq!(texts(&rig.versions("f~")), ["0", "1", "2", "3", "4"], "what the old file has is all there");
    rig.is_whole();
    rig.unlink(ROOT, "f~").unwrap();
    assert_eq!(texts(&rig.versions("f")), ["1", "2", "3", "4", "5"]);
    rig.is_whole();
}

#[test]
fn history_follows_the_name_when_a_backup_is_renamed_back() {
    let rig = rig();
    rig.put(ROOT, "f", b"1").unwrap();
    rig.rename(ROOT, "f", "f~").unwrap();
    rig.put(ROOT, "f", b"2").unwrap();
    rig.rename(ROOT, "f~", "f").unwrap();
    assert_eq!(texts(&rig.versions("f")), ["1", "2", "1"]);
    rig.is_whole();
}

#[test]
fn history_follows_the_name_when_another_file_takes_it_over() {
    let rig = rig();
    rig.put(ROOT, "f", b"1").unwrap();
    rig.put(ROOT, "g", b"2").unwrap();
    rig.rename(ROOT, "f", "f~").unwrap();
    rig.rename(ROOT, "g", "f").unwrap();
    assert_eq!(texts(&rig.versions("f")), ["1", "2"]);
    // Two files change places: each name keeps what it was.
    rig.put(ROOT, "a", b"a").unwrap();
    rig.put(ROOT, "b", b"b").unwrap();
    rig.rename(ROOT, "a", "c").unwrap();
    rig.rename(ROOT, "b", "a").unwrap();
    rig.rename(ROOT, "c", "b").unwrap();
    assert_eq!(texts(&rig.versions("a")), ["a", "b"]);
    assert_eq!(texts(&rig.versions("b")), ["b", "a"]);
    rig.is_whole();
}

#[test]
fn history_follows_the_name_when_it_is_removed_and_made_again() {
    let rig = rig();
    rig.put(ROOT, "f", b"1").unwrap();
    rig.unlink(ROOT, "f").unwrap();
    rig.put(ROOT, "f", b"2").unwrap();
    assert_eq!(texts(&rig.versions("f")), ["1", "2"]);
    rig.unlink(ROOT, "f").unwrap();
    // Taken over by what is renamed to it, also if somebody touched it meanwhile.
    rig.put(ROOT, "g", b"3").unwrap();
    rig.make(ROOT, "f", Kind::File).unwrap();
    rig.rename(ROOT, "g", "f").unwrap();
    assert_eq!(rig.versions("f"), [(1, b"1".to_vec()), (2, b"2".to_vec()), (3, b"3".to_vec())]);
    rig.is_whole();
}

#[test]
fn a_symlink_that_replaces_a_secret_leaves_its_history() {
    let rig = rig();
    rig.put(ROOT, "f", b"1").unwrap();
    rig.make(ROOT, "l", Kind::Symlink).unwrap();
    rig.rename(ROOT, "l", "f").unwrap();
    rig.is_whole();
    rig.unlink(ROOT, "f").unwrap();
    assert_eq!(rig.vault().serve(&actor(), Rollback { path: path("f"), version: 1 }).unwrap().version, 1);
    assert_eq!(rig.content("f"), b"1");
    rig.is_whole();
}

#[test]
fn an_empty_file_that_replaces_another_leaves_no_history() {
    let rig = rig();
    rig.make(ROOT, "a", Kind::File).unwrap();
    rig.make(ROOT, "b", Kind::File).unwrap();
    rig.rename(ROOT, "a", "b").unwrap();
    assert!(
        rig.vault().serve(&actor(), pinfold::wire::GetHistory { path: path("b") }).map(|done| done.versions).is_err()
    );
}

#[test]
fn no_version_is_written_over_another_after_a_rename() {
    let rig = rig();
    for i in 0..8 {
        rig.put(ROOT, "long", format!("{i}").as_bytes()).unwrap();
    }
    rig.put(ROOT, "short", b"s").unwrap();
    rig.rename(ROOT, "long", "short").unwrap();
    rig.put(ROOT, "short", b"new").unwrap();
    assert_eq!(texts(&rig.versions("short")), ["4", "5", "6", "7", "new"]);
    rig.is_whole();
}

#[test]
fn a_removed_secret_comes_back_and_leaves_nothing_when_it_goes_again() {
    let rig = rig();
    rig.put(ROOT, "f", b"1").unwrap();
    rig.put(ROOT, "f", b"2").unwrap();
    rig.vault().serve(&actor(), Rollback { path: path("f"), version: 1 }).unwrap();
    rig.unlink(ROOT, "f").unwrap();
    // The last version: nothing new is made, but its blob is there twice.
    assert_eq!(rig.vault().serve(&actor(), Rollback { path: path("f"), version: 3 }).unwrap().version, 3);
    let purge = || Remove { path: path("f"), purge: true, recursive: false };
    assert_eq!(rig.vault().serve(&actor(), purge()).unwrap().purged, 3);
    rig.is_whole();
}

#[test]
fn what_came_back_while_it_was_written_shows_others_what_is_committed() {
    let rig = rig();
    rig.put(ROOT, "f", b"1").unwrap();
    rig.unlink(ROOT, "f").unwrap();
    let handle = rig.create(ROOT, "f", WRITE).unwrap();
    rig.vault().serve(&actor(), Rollback { path: path("f"), version: 1 }).unwrap();
    rig.write(handle, b"more", ECHO).unwrap();
    let size = |tid| rig.fs.attr(rig.ino("f"), tid).unwrap().attr.size;
    assert_eq!((size(ROOT.tid), size(BOB.tid)), (4, 1));
}

#[test]
fn a_purge_keeps_nothing_under_the_name() {
    let rig = rig();
    rig.put(ROOT, "f", b"1").unwrap();
    rig.unlink(ROOT, "f").unwrap();
    rig.make(ROOT, "f", Kind::File).unwrap();
    rig.vault().serve(&actor(), Remove { path: path("f"), purge: true, recursive: false }).unwrap();
    assert!(
        rig.vault().serve(&actor(), pinfold::wire::GetHistory { path: path("f") }).map(|done| done.versions).is_err()
    );
    assert_eq!(rig.vault().check(true).unwrap().blobs, 0);
    rig.is_whole();
}

#[test]
fn an_unlink_that_is_not_yet_on_disk_is_no_problem_to_a_check() {
    let rig = rig();
    rig.put(ROOT, "f", b"1").unwrap();
    for _ in 0..2 {
        rig.put(ROOT, "g", b"2").unwrap();
        rig.unlink(ROOT, "g").unwrap();
    }
    rig.make(ROOT, "d", Kind::Directory).unwrap();
    let link = rig.make(ROOT, "l", Kind::Symlink).unwrap();
    assert!(link.0 > 0);
    rig.rename(ROOT, "l", "f").unwrap();
    rig.put(ROOT, "h", b"2").unwrap();
    rig.rename(ROOT, "h", "f").unwrap();
    assert_eq!(rig.vault().check(true).unwrap().problems, []);
}

#[test]
fn other_recovery_recipients_reach_blobs_that_several_names_have() {
    let rig = rig();
    let fresh = age::x25519::Identity::generate().to_public().to_string();
    // More than one batch, so that those who share a blob are not all in the same.
    for i in 0..70 {
        rig.put(ROOT, &format!("f{i}"), b"old").unwrap();
        rig.rename(ROOT, &format!("f{i}"), &format!("g{i}")).unwrap();
        rig.put(ROOT, &format!("f{i}"), b"new").unwrap();
        if i % 7 == 0 {
            rig.unlink(ROOT, &format!("g{i}")).unwrap();
        }
    }
    assert_eq!(
        rig.vault().serve(&actor(), pinfold::wire::RecoveryAdd { recipient: fresh, only: false }).unwrap().blobs,
        140
    );
    rig.is_whole();
    let rig = rig.reopen();
    rig.is_whole();
}

#[test]
fn what_has_expired_is_kept_like_everything_else() {
    let rig = rig();
    rig.put(ROOT, "f", PEM[0]).unwrap();
    let expires = ("user.pinfold.expires", &b"2020-01-01T00:00:00Z"[..]);
    rig.fs.set_xattr(&ROOT, rig.ino("f"), expires.0, expires.1, XattrMode::Set).unwrap();
    assert_eq!(failure(rig.open(ROOT, "f", READ)), Failure::Denied);
    let fresh = age::x25519::Identity::generate().to_public().to_string();
    assert_eq!(
        rig.vault().serve(&actor(), pinfold::wire::RecoveryAdd { recipient: fresh, only: false }).unwrap().blobs,
        1
    );
    rig.rename(ROOT, "f", "f.pem").unwrap();
    rig.is_whole();
}

// ---- what only an admin sets follows the name ----

/// What a condition may be; the end of the world, and one before that.
const EXPIRES: &str = "user.pinfold.expires";
const EARLY: &[u8] = b"2998-01-01T00:00:00Z";
const LATE: &[u8] = b"2999-01-01T00:00:00Z";
const LATER: &[u8] = b"2999-02-01T00:00:00Z";

impl Rig {
    fn rule(&self, text: &str, name: &str, value: &[u8]) {
        self.fs.set_xattr(&ROOT, self.ino(text), name, value, XattrMode::Set).unwrap();
    }

    fn ruled(&self, text: &str) -> Vec<(String, Vec<u8>)> {
        let ino = self.ino(text);
        let names = self.vault().list_xattr(ino).unwrap().into_iter();
        let names = names.filter(|name| name.starts_with("user.pinfold."));
        names.map(|name| (name.clone(), self.vault().get_xattr(ino, &name).unwrap())).collect()
    }
}

#[test]
fn a_file_renamed_over_a_secret_takes_over_its_conditions_and_publications() {
    for who in [ROOT, ALICE] {
        let rig = rig();
        rig.put(who, "pin", b"old").unwrap();
        rig.rule("pin", EXPIRES, LATE);
        rig.rule("pin", "user.pinfold.publish", b"to=4000");
        let before = rig.ruled("pin");
        assert_eq!(before.len(), 2);
        rig.put(who, "tmp", b"new").unwrap();
        rig.fs.set_xattr(&who, rig.ino("tmp"), "user.note", b"mine", XattrMode::Set).unwrap();
        rig.rename(who, "tmp", "pin").unwrap();
        assert_eq!((rig.ruled("pin"), rig.content("pin")), (before.clone(), b"new".to_vec()));
        assert_eq!(rig.vault().get_xattr(rig.ino("pin"), "user.note").unwrap(), b"mine");
        // One that was never written, and is afterwards, is no way around it.
        rig.create(who, "empty", WRITE).unwrap();
        rig.rename(who, "empty", "pin").unwrap();
        assert_eq!(rig.ruled("pin"), before);
        rig.is_whole();
    }
}

#[test]
fn conditions_set_on_a_file_that_was_never_written_are_taken_over_too() {
    let rig = rig();
    let handle = rig.create(ROOT, "pin", WRITE).unwrap();
    rig.rule("pin", EXPIRES, LATE);
    rig.fs.release_writer(handle).unwrap();
    rig.put(ALICE, "tmp", b"new").unwrap();
    rig.rename(ALICE, "tmp", "pin").unwrap();
    assert_eq!(rig.ruled("pin"), [(EXPIRES.to_owned(), LATE.to_vec())]);
}

#[test]
fn an_admins_file_keeps_the_conditions_it_brings() {
    let rig = rig();
    rig.put(ROOT, "pin", b"old").unwrap();
    rig.rule("pin", EXPIRES, LATE);
    rig.rule("pin", "user.pinfold.publish", b"to=4000");
    rig.put(ROOT, "tmp", b"new").unwrap();
    rig.rule("tmp", EXPIRES, EARLY);
    rig.rename(ROOT, "tmp", "pin").unwrap();
    assert_eq!(rig.ruled("pin"), [(EXPIRES.to_owned(), EARLY.to_vec())]);
}

#[test]
fn an_owner_fills_up_no_room_for_conditions() {
    let rig = rig();
    rig.put(ROOT, "pin", b"x").unwrap();
    for n in 0..56 {
        rig.rule("pin", &format!("user.n{n}"), b"x");
    }
    let ino = rig.ino("pin");
    let more = rig.fs.set_xattr(&ROOT, ino, "user.more", b"x", XattrMode::Set);
    assert!(matches!(more, Err(FsError::Vault(VaultError::NoSpace(_)))), "{more:?}");
    rig.rule("pin", EXPIRES, LATE);
    rig.rule("pin", "user.pinfold.unit", b"a.service");
}

#[test]
fn an_admins_file_takes_no_condition_away() {
    let rig = rig();
    let (unit, other) = ("user.pinfold.unit", "user.pinfold.on-change");
    let has = |text: &str, names: &[&str]| {
        assert_eq!(rig.ruled(text).iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), names);
    };
    rig.put(ROOT, "pin", b"old").unwrap();
    rig.rule("pin", EXPIRES, LATE);
    rig.rule("pin", unit, b"a.service");
    // What it lacks holds all the same, whether it is renamed over the old one or comes when that was removed.
    for gone_before in [false, true] {
        rig.put(ROOT, "tmp", b"new").unwrap();
        rig.rule("tmp", other, b"reload:a.service");
        if gone_before {
            rig.unlink(ROOT, "pin").unwrap();
        }
        rig.rename(ROOT, "tmp", "pin").unwrap();
        has("pin", &[EXPIRES, other, unit]);
    }
    // What it has in the place of one is refused, by either way; and so is a key that any program could read.
    let others =
        [("unit", unit, &b"b.service"[..]), ("end", EXPIRES, LATER), ("key", "user.pinfold.publish", b"to=4000")];
    for (from, name, value) in others {
        rig.put(ROOT, from, b"bad").unwrap();
        rig.rule(from, name, value);
        assert_eq!(failure(rig.rename(ROOT, from, "pin")), Failure::NotPermitted);
        rig.rename(ROOT, "pin", "away").unwrap();
        assert_eq!(failure(rig.rename(ROOT, from, "pin")), Failure::NotPermitted);
        rig.rename(ROOT, "away", "pin").unwrap();
    }
    assert_eq!(rig.content("pin"), b"new");
    has("pin", &[EXPIRES, other, unit]);
    // Nor does one that was made anew, before it has content; nor one that was ruled elsewhere.
    rig.unlink(ROOT, "pin").unwrap();
    rig.create(ROOT, "pin", READ).unwrap();
    let set = rig.fs.set_xattr(&ROOT, rig.ino("pin"), unit, b"b.service", XattrMode::Set);
    assert_eq!(failure(set), Failure::NotPermitted);
    rig.unlink(ROOT, "pin").unwrap();
    let handle = rig.create(ROOT, "empty", WRITE).unwrap();
    rig.rule("empty", unit, b"b.service");
    rig.rename(ROOT, "empty", "pin").unwrap();
    rig.fs.write(handle, 0, b"bad", false, 1).unwrap();
    assert_eq!(failure(rig.fs.flush(handle, 1)), Failure::NotPermitted);
    rig.fs.release_writer(handle).unwrap();
    rig.is_whole();
}

#[test]
fn a_condition_goes_and_changes_by_its_own_command_alone() {
    let rig = rig();
    rig.put(ALICE, "pin", b"x").unwrap();
    let ino = rig.ino("pin");
    let set = |name: &str, value: &[u8]| rig.fs.set_xattr(&ROOT, ino, name, value, XattrMode::Set);
    let (unit, label) = ("user.pinfold.unit", "user.pinfold.label");
    for (name, value) in [(unit, &b"a.service"[..]), (label, b"a*"), (EXPIRES, LATE)] {
        set(name, value).unwrap();
        set(name, value).unwrap();
        assert_eq!(failure(rig.fs.remove_xattr(&ROOT, ino, name)), Failure::NotPermitted);
    }
    for (name, value) in [(unit, &b"b.service"[..]), (label, b"*a"), (EXPIRES, LATER)] {
        assert_eq!(failure(set(name, value)), Failure::NotPermitted, "{name}");
    }
    // Less is no more.
    set(EXPIRES, EARLY).unwrap();
    let command = |asked: Condition| rig.vault().serve(&actor(), asked).map_err(Failure::from);
    let nothing = || Condition { path: path("pin"), ..Condition::default() };
    let names = |found: Conditions| found.conditions.into_iter().map(|c| (c.name, c.value)).collect::<Vec<_>>();
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let all = vec![pair("expires", "2998-01-01T00:00:00Z"), pair("label", "a*"), pair("unit", "a.service")];
    assert_eq!(names(command(nothing()).unwrap()), all);
    // All or nothing.
    let half = Condition { clear: vec!["unit".into()], expires: Some("soon".into()), ..nothing() };
    assert!(matches!(command(half), Err(Failure::Refused(_))));
    for bad in ["publish", "user.pinfold.unit", "all"] {
        assert!(
            matches!(command(Condition { clear: vec![bad.into()], ..nothing() }), Err(Failure::Refused(_))),
            "{bad}"
        );
    }
    assert_eq!(names(command(nothing()).unwrap()), all);
    let asked = Condition { clear: vec!["unit".into(), "label".into()], unit: Some("b.service".into()), ..nothing() };
    assert_eq!(names(command(asked.clone()).unwrap()), [all[0].clone(), pair("unit", "b.service")]);
    let again = Condition { clear: vec!["exe".into()], unit: Some("b.service".into()), ..nothing() };
    assert_eq!(command(again), Err(Failure::NothingToDo));
    let rig = rig.reopen();
    assert_eq!(rig.ruled("pin").len(), 2);
}

#[test]
fn nobody_else_drops_a_condition_by_a_rename() {
    let rig = rig();
    for (name, value) in [("strict", LATE), ("other", LATER)] {
        rig.put(ROOT, name, name.as_bytes()).unwrap();
        rig.rule(name, EXPIRES, value);
    }
    // Neither that of what is replaced, nor that of what replaces it.
    for (from, to) in [("strict", "other"), ("other", "strict")] {
        assert_eq!(failure(rig.rename(ALICE, from, to)), Failure::NotPermitted);
    }
    assert_eq!((rig.content("strict"), rig.content("other")), (b"strict".to_vec(), b"other".to_vec()));
    rig.put(ALICE, "plain", b"plain").unwrap();
    rig.rename(ALICE, "strict", "plain").unwrap();
    assert_eq!(rig.ruled("plain"), [(EXPIRES.to_owned(), LATE.to_vec())]);
}

#[test]
fn conditions_follow_the_name_when_the_old_file_goes_first() {
    // install(1) unlinks and makes anew; some editors rename the old one away.
    for away in [false, true] {
        let rig = rig();
        rig.put(ROOT, "pin", b"old").unwrap();
        rig.rule("pin", EXPIRES, LATE);
        if away {
            rig.rename(ROOT, "pin", "pin~").unwrap()
        } else {
            rig.unlink(ROOT, "pin").unwrap()
        }
        rig.put(ROOT, "pin", b"new").unwrap();
        assert_eq!(
            (rig.ruled("pin"), rig.content("pin")),
            (vec![(EXPIRES.to_owned(), LATE.to_vec())], b"new".to_vec())
        );
        rig.is_whole();
    }
    // What was purged has no name any more.
    let rig = rig();
    rig.put(ROOT, "pin", b"old").unwrap();
    rig.rule("pin", EXPIRES, LATE);
    rig.vault().serve(&actor(), Remove { path: path("pin"), purge: true, recursive: false }).unwrap();
    rig.put(ROOT, "pin", b"new").unwrap();
    assert_eq!(rig.ruled("pin"), []);
}

// ---- bounds ----

#[test]
fn the_bounds_of_a_user_and_of_all() {
    let rig = rig().reopen_with(limits(5, 20));
    rig.make(ALICE, "a1", Kind::File).unwrap();
    rig.make(ALICE, "a2", Kind::Directory).unwrap();
    assert_eq!(failure(rig.make(ALICE, "a3", Kind::Symlink)), Failure::Quota);
    rig.make(BOB, "b1", Kind::File).unwrap();
    rig.fs.unlink(&ALICE, Ino::ROOT, &name("a1")).unwrap();
    rig.make(ALICE, "a3", Kind::Symlink).unwrap();
    for i in 5..20 {
        rig.make(ROOT, &format!("r{i}"), Kind::File).unwrap();
    }
    assert_eq!(failure(rig.make(ROOT, "more", Kind::File)), Failure::NoSpace);
    rig.put(ROOT, "r5", b"what is there can be written").unwrap();
}

#[test]
fn a_directory_does_not_move_to_where_its_entries_would_be_too_deep() {
    let rig = rig();
    let mut ends = Vec::new();
    for top in ["a", "b"] {
        let mut at = rig.make(ROOT, top, Kind::Directory).unwrap();
        for _ in 0..40 {
            let name = name("d");
            let new = NewNode { parent: at, name: &name, kind: Kind::Directory, mode: 0o755, umask: 0, target: None };
            at = rig.fs.make(&ROOT, new).unwrap().ino;
        }
        ends.push(at);
    }
    let (a, under) = (name("a"), name("under"));
    let rename = Rename { parent: Ino::ROOT, name: &a, new_parent: ends[1], new_name: &under, replace: true };
    assert!(matches!(rig.fs.rename(&ROOT, rename), Err(FsError::Vault(VaultError::BadName(_)))));
    rig.is_whole();
}

// ---- many at once ----

#[test]
fn a_reader_always_gets_a_version_that_was_while_old_ones_go() {
    let rig = Rig::new(limits(1, 1000));
    rig.put(ROOT, "f", b"00").unwrap();
    let ino = rig.ino("f");
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    let opened = rig.vault().open_read(&Daemon, ino).expect("there is always a version");
                    assert_eq!(opened.content.len(), 2);
                    let checked = rig.vault().check(false).unwrap();
                    assert_eq!(checked.problems, []);
                }
            });
        }
        for i in 0..150 {
            rig.put(ROOT, "f", format!("{:02}", i % 100).as_bytes()).unwrap();
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    rig.is_whole();
}

#[test]
fn a_wrong_key_does_not_unlock() {
    let rig = rig();
    rig.lock();
    let other = pinfold::secret::Secret::copy_of(b"AGE-SECRET-KEY-1").unwrap();
    assert!(matches!(rig.vault().unlock(&Daemon, &UnlockBy::Identity(&other)), Err(VaultError::WrongKey(_))));
    rig.unlock().unwrap();
}

#[test]
fn an_inode_number_is_not_given_again_after_a_crash() {
    let mut rig = rig();
    let mut last = Ino(0);
    for _ in 0..1300 {
        last = rig.make(ROOT, "d", Kind::Directory).unwrap();
        rig.fs.rmdir(&ROOT, Ino::ROOT, &name("d")).unwrap();
    }
    let copy = rig.crashed().unwrap();
    rig.go_on_with(copy);
    let next = rig.make(ROOT, "d", Kind::Directory).unwrap();
    assert!(next > last, "{next} after {last}: the kernel may still know {next} as something else");
}
