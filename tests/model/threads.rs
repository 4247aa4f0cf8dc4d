//! Several at once: nothing hangs, and what was acknowledged is there afterwards.

use super::rig::{ROOT, Rig, limits};
use pinfold::caller::Daemon;
use pinfold::fs::OpenMode;
use pinfold::model::{Ino, Kind, Name};
use pinfold::vault::{NewNode, Rename, SetAttr};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

const THREADS: u64 = 4;
const FOR: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(60);

fn name(text: &str) -> Name {
    Name::parse(text.as_bytes()).unwrap()
}

#[test]
fn four_at_once_lose_nothing_and_do_not_hang() {
    let (tell, told) = mpsc::channel();
    let work = std::thread::spawn(move || {
        all_at_once();
        let _ = tell.send(());
    });
    match told.recv_timeout(FOR + PATIENCE) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("they hang"),
        Ok(()) | Err(mpsc::RecvTimeoutError::Disconnected) => work.join().unwrap(),
    }
}

/// Each has a file of its own, whose acknowledged content only it changes, and all quarrel about some more.
fn all_at_once() {
    let rig = Rig::new(limits(2, 1000));
    let (end, commits) = (Instant::now() + FOR, AtomicU64::new(0));
    let failed = AtomicBool::new(false);
    let last: HashMap<u64, String> = std::thread::scope(|scope| {
        let work = |thread| {
            let (rig, commits, failed) = (&rig, &commits, &failed);
            scope.spawn(move || {
                let last = (0..)
                    .take_while(|_| Instant::now() < end && !failed.load(Ordering::Relaxed))
                    .map(|round| {
                        let text = format!("thread {thread}, round {round}");
                        one_round(rig, thread, round, &text);
                        commits.fetch_add(1, Ordering::Relaxed);
                        text
                    })
                    .last();
                (thread, last.expect("there was time for one"))
            })
        };
        let threads: Vec<_> = (0..THREADS).map(work).collect();
        threads.into_iter().map(|t| t.join().inspect_err(|_| failed.store(true, Ordering::Relaxed)).unwrap()).collect()
    });
    assert!(commits.load(Ordering::Relaxed) > 2 * THREADS);
    assert_eq!(rig.fs.open_handles(), 0);
    let is_there = |rig: &Rig| {
        for (thread, text) in &last {
            let ino = rig.vault().lookup(Ino::ROOT, &format!("own-{thread}")).unwrap().ino;
            let opened = rig.vault().open_read(&Daemon, ino).unwrap();
            assert_eq!(opened.content.expose(), text.as_bytes());
        }
        assert_eq!(rig.vault().check(true).unwrap().problems, []);
    };
    is_there(&rig);
    is_there(&rig.reopen());
}

fn one_round(rig: &Rig, thread: u64, round: u64, text: &str) {
    let own = format!("own-{thread}");
    match round % 3 {
        0 => put(rig, &own, text),
        1 => {
            let temporary = format!("temporary-{thread}");
            put(rig, &temporary, text);
            rename(rig, &temporary, &own).unwrap();
        }
        _ => {
            rename(rig, &own, &format!("backup-{thread}")).unwrap();
            put(rig, &own, text);
        }
    }
    // What everybody does to the same names may fail, but neither panic nor hang.
    let shared = |i: u64| format!("shared-{}", (round + i) % 3);
    let (from, to) = (shared(0), shared(1));
    if let Ok(seen) = rig.fs.lookup(Ino::ROOT, from.as_bytes()) {
        let ino = seen.attr.ino;
        let mode = OpenMode { read: true, write: round.is_multiple_of(2), truncate: false };
        if let Ok(opened) = rig.fs.open(&ROOT, ROOT.tid, ino, mode) {
            let handle = opened.number();
            let _ = rig.fs.write(handle, 0, text.as_bytes(), false, thread);
            let _ = rig.fs.read(&ROOT, ino, handle, (0, 100), false, |_| {});
            let _ = rig.fs.attr(ino, ROOT.tid);
            let set = SetAttr { mode: Some(0o640), ..SetAttr::default() };
            let _ = rig.fs.set_attr(&ROOT, ROOT.tid, ino, set);
            let _ = rig.fs.flush(handle, thread);
            let _ = rig.fs.release_writer(handle);
            let _ = rig.fs.release_reader(handle);
        }
    } else {
        let name = name(&from);
        let new = NewNode { parent: Ino::ROOT, name: &name, kind: Kind::File, mode: 0o600, umask: 0, target: None };
        let _ = rig.fs.make(&ROOT, new);
    }
    let _ = rename(rig, &from, &to);
    if round % 5 == thread {
        let _ = rig.fs.unlink(&ROOT, Ino::ROOT, &name(&to));
    }
    if round.is_multiple_of(16) {
        let _ = rig.fs.sync();
    }
}

fn put(rig: &Rig, text: &str, content: &str) {
    let write = OpenMode { read: false, write: true, truncate: true };
    let handle = match rig.fs.lookup(Ino::ROOT, text.as_bytes()) {
        Ok(seen) => rig.fs.open(&ROOT, ROOT.tid, seen.attr.ino, write).unwrap().number(),
        Err(_) => {
            let name = name(text);
            let new = NewNode { parent: Ino::ROOT, name: &name, kind: Kind::File, mode: 0o600, umask: 0, target: None };
            rig.fs.create(&ROOT, ROOT.tid, new, write).unwrap().1.number()
        }
    };
    rig.fs.write(handle, 0, content.as_bytes(), false, 1).unwrap();
    rig.fs.flush(handle, 1).unwrap();
    rig.fs.release_writer(handle).unwrap();
}

fn rename(rig: &Rig, from: &str, to: &str) -> Result<(), pinfold::fs::FsError> {
    let (name, new_name) = (name(from), name(to));
    let rename = Rename { parent: Ino::ROOT, name: &name, new_parent: Ino::ROOT, new_name: &new_name, replace: true };
    rig.fs.rename(&ROOT, rename)
}
