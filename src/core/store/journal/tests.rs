//! The journal against kills, torn and dishonest disks, and failures at every step, compared with what was answered.

use super::super::ledger::{FaultPoint, NEXT_FAULT, fault};
use super::super::*;
use super::{BEGIN, NAMES, SEGMENT};
use crate::model::VersionNo;
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use tempfile::TempDir;

type Nodes = BTreeMap<Ino, Vec<u8>>;

fn key() -> Secret {
    Secret::copy_of(&[0x5a; 32]).unwrap()
}

struct Place {
    _tmp: TempDir,
    dir: PathBuf,
}

impl Place {
    fn new() -> Self {
        let tmp = TempDir::new().unwrap();
        let dir = tmp.path().join("store");
        Store::create(&dir, &key(), node(1, b"root"), &[]).unwrap();
        Place { _tmp: tmp, dir }
    }

    fn open(&self) -> Result<(Store, Nodes), StoreError> {
        let store = Store::open(&self.dir)?;
        let (_, nodes) = store.verify(&key(), |ino, value| Ok((ino, value.to_vec())))?;
        let count = nodes.len();
        let nodes: Nodes = nodes.into_iter().collect();
        assert_eq!(nodes.len(), count, "each once");
        Ok((store, nodes))
    }

    fn segment(&self, slot: usize) -> PathBuf {
        super::folder(&self.dir).join(NAMES[slot])
    }

    /// A copy as it is at this moment, as a power cut or a thief has it.
    fn copy(&self) -> Place {
        let copy = Place { _tmp: TempDir::new().unwrap(), dir: PathBuf::new() };
        let dir = copy._tmp.path().join("store");
        let done = std::process::Command::new("cp").arg("-a").args([&self.dir, &dir]).status().unwrap();
        assert!(done.success());
        Place { dir, ..copy }
    }

    fn write(&self, slot: usize, at: usize, bytes: &[u8]) {
        OpenOptions::new().write(true).open(self.segment(slot)).unwrap().write_all_at(bytes, at as u64).unwrap();
    }
}

fn node(ino: u64, content: &[u8]) -> Batch {
    let mut batch = Batch::default();
    batch.nodes.insert(Ino(ino), Some(content.to_vec()));
    batch
}

fn append(store: &Store, batch: &Batch, durability: Durability) -> Result<(), StoreError> {
    store.append(batch, &AuditAnchor::default(), durability)
}

fn lazily(store: &Store, ino: u64, content: &[u8]) {
    append(store, &node(ino, content), Durability::Lazy).unwrap();
}

/// The file offsets at which entries of a segment begin, and where the last of them ends.
fn offsets(place: &Place, slot: usize) -> Vec<usize> {
    let bytes = std::fs::read(place.segment(slot)).unwrap();
    let length = |at: usize| u32::from_be_bytes(bytes[at + 4..at + 8].try_into().unwrap()) as usize;
    let next = |at: usize| (at + super::entry::HEAD + length(at)).next_multiple_of(super::ALIGN);
    let found = std::iter::successors(Some(BEGIN), |at| super::entry::may_begin(&bytes[*at..]).then(|| next(*at)));
    found.collect()
}

#[test]
fn what_was_appended_outlives_the_process_without_a_checkpoint() {
    let place = Place::new();
    let (store, _) = place.open().unwrap();
    for ino in 2..50 {
        lazily(&store, ino, b"first");
    }
    lazily(&store, 7, b"second");
    let mut gone = Batch::default();
    gone.nodes.insert(Ino(8), None);
    append(&store, &gone, Durability::Synced).unwrap();
    let generation = store.generation().unwrap();
    drop(store);
    assert_eq!(Store::open(&place.dir).unwrap().claimed_generation().unwrap(), generation, "without the key");
    let (store, nodes) = place.open().unwrap();
    assert_eq!(store.generation(), Some(generation));
    assert_eq!((nodes.len(), nodes.get(&Ino(8)), nodes[&Ino(7)].as_slice()), (48, None, b"second".as_slice()));
}

#[test]
fn readers_see_what_is_journalled() {
    let place = Place::new();
    let (store, _) = place.open().unwrap();
    let key = BlobKey { ino: Ino(2), version: VersionNo(1) };
    let mut batch = node(2, b"with content");
    batch.blobs.insert(key, Some(b"an age file".to_vec()));
    append(&store, &batch, Durability::Synced).unwrap();
    assert_eq!(store.blob(key).unwrap().as_deref(), Some(b"an age file".as_slice()));
    store.checkpoint().unwrap();
    assert_eq!(store.blob(key).unwrap().as_deref(), Some(b"an age file".as_slice()));
    batch.blobs.insert(key, None);
    append(&store, &batch, Durability::Lazy).unwrap();
    assert!(store.blob(key).unwrap().is_none());
    assert_eq!(store.blob_keys().unwrap(), []);
}

/// Cut at every point of the last entries, what is there is what was there before them.
#[test]
fn a_torn_tail_is_a_prefix() {
    let place = Place::new();
    let (store, _) = place.open().unwrap();
    for ino in 2..6 {
        lazily(&store, ino, &[ino as u8; 100]);
    }
    drop(store);
    let ends = offsets(&place, 0);
    assert_eq!(ends.len(), 5);
    for at in (ends[2]..=ends[4]).step_by(37).chain([ends[3], ends[4]]) {
        let torn = place.copy();
        torn.write(0, at, &vec![0; SEGMENT - at]);
        let (store, nodes) = torn.open().unwrap_or_else(|e| panic!("cut at {at}: {e}"));
        // The padding after an entry is nothing.
        let bytes = std::fs::read(place.segment(0)).unwrap();
        let whole = ends[1..].iter().filter(|end| {
            bytes[at..].len() <= bytes[**end..].len() || bytes[at.min(**end)..**end].iter().all(|b| *b == 0)
        });
        let whole = whole.count();
        assert_eq!(nodes.len(), 1 + whole, "cut at {at}");
        lazily(&store, 99, b"after");
        drop(store);
        assert_eq!(torn.open().unwrap().1.len(), 2 + whole, "nothing that was cut comes back");
    }
}

#[test]
fn damage_before_what_was_on_the_disk_is_no_torn_tail() {
    let place = Place::new();
    let (store, _) = place.open().unwrap();
    for ino in 2..6 {
        append(&store, &node(ino, b"synced"), Durability::Synced).unwrap();
    }
    drop(store);
    let ends = offsets(&place, 0);
    for (entry, begin) in ends[..2].iter().enumerate() {
        for bit in [3, 70, 400, 900] {
            let damaged = place.copy();
            let at = begin + bit / 8;
            let mut bytes = std::fs::read(place.segment(0)).unwrap();
            bytes[at] ^= 1 << (bit % 8);
            damaged.write(0, at, &bytes[at..=at]);
            let found = damaged.open().map(|(_, nodes)| nodes.len());
            assert!(matches!(found, Err(StoreError::Damaged(_))), "entry {entry}, bit {bit}: {found:?}");
        }
    }
}

/// Never served wrong: refused, or a state that was.
#[test]
fn segments_of_other_times_and_stores_are_refused_or_a_state_that_was() {
    let place = Place::new();
    let (store, _) = place.open().unwrap();
    let mut states = vec![place.open_copy_nodes()];
    lazily(&store, 2, b"old");
    states.push(place.open_copy_nodes());
    let old = std::fs::read(place.segment(0)).unwrap();
    store.checkpoint().unwrap();
    lazily(&store, 2, b"new");
    states.push(place.open_copy_nodes());
    drop(store);
    // The one of before in the place of this one.
    let back = place.copy();
    back.write(0, 0, &old);
    let nodes = back.open().unwrap().1;
    assert!(states[1..].contains(&nodes), "what was checkpointed is there");
    // In the place of the one that was never used.
    std::fs::write(back.segment(1), &old).unwrap();
    assert!(matches!(back.open(), Err(StoreError::Damaged(_))));
    // Of another store.
    let other = Place::new();
    let key = Secret::copy_of(&[1; 32]).unwrap();
    std::fs::remove_dir_all(&other.dir).unwrap();
    Store::create(&other.dir, &key, node(1, b"root"), &[]).unwrap();
    let store = Store::open(&other.dir).unwrap();
    store.verify(&key, |_, _| Ok(())).unwrap();
    lazily(&store, 2, b"strangers");
    drop(store);
    let swapped = place.copy();
    swapped.write(0, 0, &std::fs::read(other.segment(0)).unwrap());
    assert!(matches!(swapped.open(), Err(StoreError::Damaged(_))));
    // The database of before, with this journal.
    let journal = place.copy();
    let (store, _) = journal.open().unwrap();
    store.checkpoint().unwrap();
    lazily(&store, 3, b"later");
    drop(store);
    let before = place.copy();
    std::fs::remove_dir_all(super::folder(&before.dir)).unwrap();
    std::fs::rename(super::folder(&journal.dir), super::folder(&before.dir)).unwrap();
    let found = before.open().map(|(_, nodes)| nodes);
    assert!(found.is_err() || found.is_ok_and(|nodes| states.contains(&nodes)));
}

impl Place {
    fn open_copy_nodes(&self) -> Nodes {
        self.copy().open().unwrap().1
    }
}

#[test]
fn after_a_failed_sync_what_was_answered_is_there_and_what_was_not_never_happened() {
    let place = Place::new();
    let (store, _) = place.open().unwrap();
    lazily(&store, 2, b"answered");
    NEXT_FAULT.set(Some(FaultPoint::JournalSync));
    assert!(append(&store, &node(3, b"refused"), Durability::Synced).is_err());
    let nodes = place.open_copy_nodes();
    assert_eq!((nodes.contains_key(&Ino(2)), nodes.contains_key(&Ino(3))), (true, false), "a successor sees the same");
    append(&store, &node(4, b"later"), Durability::Synced).unwrap();
    drop(store);
    let nodes = place.open().unwrap().1;
    assert_eq!(nodes.keys().map(|ino| ino.0).collect::<Vec<_>>(), [1, 2, 4]);
}

/// The same where the journal had nothing else: a successor does not find what was refused.
#[test]
fn after_a_failed_sync_of_the_first_entry_nothing_is_there() {
    let place = Place::new();
    let (store, _) = place.open().unwrap();
    NEXT_FAULT.set(Some(FaultPoint::JournalSync));
    assert!(append(&store, &node(3, b"refused"), Durability::Synced).is_err());
    assert_eq!(place.open_copy_nodes().len(), 1);
    append(&store, &node(4, b"later"), Durability::Lazy).unwrap();
    drop(store);
    assert_eq!(place.open().unwrap().1.keys().map(|ino| ino.0).collect::<Vec<_>>(), [1, 4]);
}

fn begin(store: &Store, ino: u64, content: &[u8]) -> Journalled {
    store.journal(&node(ino, content), &AuditAnchor::default()).unwrap()
}

fn told(store: &Store) -> Arc<Mutex<Vec<u64>>> {
    let told = Arc::new(Mutex::new(Vec::new()));
    let own = Arc::clone(&told);
    store.on_generation(Box::new(move |generation| own.lock().push(generation.0)));
    told
}

#[test]
fn those_that_are_begun_are_on_the_disk_at_once_and_told_of_only_then() {
    let place = Place::new();
    let (store, _) = place.open().unwrap();
    let told = told(&store);
    let (first, second) = (begin(&store, 2, b"a"), begin(&store, 3, b"b"));
    assert!(told.lock().is_empty());
    store.settle(second).unwrap();
    let at = store.generation().unwrap().0;
    assert_eq!(told.lock()[..], [at]);
    // It needs no sync of its own.
    NEXT_FAULT.set(Some(FaultPoint::JournalSync));
    store.settle(first).unwrap();
    assert_eq!(NEXT_FAULT.take(), Some(FaultPoint::JournalSync));
    assert_eq!(place.open_copy_nodes().len(), 3);
}

#[test]
fn a_failed_sync_takes_back_all_that_were_begun_and_nothing_else() {
    let place = Place::new();
    let (store, _) = place.open().unwrap();
    lazily(&store, 2, b"answered");
    append(&store, &node(3, b"before"), Durability::Synced).unwrap();
    let told = told(&store);
    let begun = [begin(&store, 3, b"refused"), begin(&store, 4, b"refused"), begin(&store, 3, b"refused, too")];
    let [first, second, third] = begun;
    NEXT_FAULT.set(Some(FaultPoint::JournalSync));
    assert!(store.settle(second).is_err());
    let nodes = place.open_copy_nodes();
    assert_eq!(nodes.keys().map(|ino| ino.0).collect::<Vec<_>>(), [1, 2, 3], "a successor sees the same");
    assert_eq!(nodes[&Ino(3)], b"before");
    let later = begin(&store, 5, b"later");
    assert!(store.settle(first).is_err() && store.settle(third).is_err(), "whenever they ask");
    store.settle(later).unwrap();
    assert!(told.lock().iter().is_sorted());
    drop(store);
    let nodes = place.open().unwrap().1;
    assert_eq!(nodes.keys().map(|ino| ino.0).collect::<Vec<_>>(), [1, 2, 3, 5]);
    assert_eq!(nodes[&Ino(3)], b"before");
}

#[test]
fn what_is_answered_at_once_never_stands_behind_what_may_be_taken_back() {
    let place = Place::new();
    let (store, _) = place.open().unwrap();
    let begun = begin(&store, 2, b"refused");
    NEXT_FAULT.set(Some(FaultPoint::JournalSync));
    lazily(&store, 3, b"answered");
    assert!(store.settle(begun).is_err());
    assert_eq!(place.open_copy_nodes().keys().map(|ino| ino.0).collect::<Vec<_>>(), [1, 3]);
}

#[test]
fn a_checkpoint_a_large_commit_and_a_lock_settle_what_is_begun_first() {
    let steps: [fn(&Store); 3] = [
        |store| store.checkpoint().unwrap(),
        |store| append(store, &node(9, &vec![1; head::LARGE + 1]), Durability::Synced).unwrap(),
        |store| store.forget_key(),
    ];
    for fails in [false, true] {
        for (number, step) in steps.iter().enumerate() {
            let place = Place::new();
            let (store, _) = place.open().unwrap();
            lazily(&store, 3, b"answered");
            let begun = begin(&store, 2, b"begun");
            if fails {
                NEXT_FAULT.set(Some(FaultPoint::JournalSync));
            }
            step(&store);
            assert_eq!(NEXT_FAULT.take(), None);
            assert_eq!(store.settle(begun).is_err(), fails, "{number}");
            drop(store);
            let nodes = place.open().unwrap().1;
            assert_eq!((nodes.contains_key(&Ino(2)), nodes.contains_key(&Ino(3))), (!fails, true), "{number}");
        }
    }
}

#[test]
fn many_at_once_are_all_there_and_share_their_syncs() {
    let place = Place::new();
    let (store, _) = place.open().unwrap();
    let told = told(&store);
    let (threads, each) = (8, 100);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let store = &store;
            scope.spawn(move || {
                for n in 0..each {
                    let begun = begin(store, 2 + thread * each + n, b"content");
                    store.settle(begun).unwrap();
                }
            });
        }
    });
    let told = told.lock().clone();
    assert!(told.iter().is_sorted() && told.len() < (threads * each) as usize, "{} syncs", told.len());
    let copy = place.open_copy_nodes();
    assert_eq!(copy.len() as u64, 1 + threads * each);
}

#[test]
fn what_is_deleted_for_good_is_not_in_the_journal_s_files_either() {
    let place = Place::new();
    let (store, _) = place.open().unwrap();
    lazily(&store, 2, b"sealed");
    store.scrub().unwrap();
    assert!(std::fs::read(place.segment(0)).unwrap().iter().all(|byte| *byte == 0));
    lazily(&store, 3, b"later");
    drop(store);
    assert_eq!(place.open().unwrap().1.len(), 3);
}

#[test]
fn if_the_database_does_not_take_it_either_nothing_is_committed_any_more() {
    let place = Place::new();
    let (store, _) = place.open().unwrap();
    lazily(&store, 2, b"answered");
    NEXT_FAULT.set(Some(FaultPoint::JournalSync));
    fault::THEN.set(Some(FaultPoint::Sync));
    let error = append(&store, &node(3, b"unknown"), Durability::Synced).unwrap_err();
    assert!(error.to_string().contains("check the disk"), "{error}");
    for _ in 0..2 {
        assert!(append(&store, &node(4, b"later"), Durability::Lazy).is_err());
    }
    drop(store);
    let nodes = place.open().unwrap().1;
    assert!(nodes.contains_key(&Ino(2)) && !nodes.contains_key(&Ino(4)));
}

#[test]
fn more_than_both_segments_hold_goes_through_the_database() {
    let place = Place::new();
    let (store, _) = place.open().unwrap();
    let large = vec![7; 300 << 10];
    let rounds = 3 * SEGMENT as u64 / large.len() as u64;
    for ino in 2..2 + rounds {
        lazily(&store, ino, &large);
    }
    drop(store);
    assert_eq!(place.open().unwrap().1.len() as u64, 1 + rounds);
}

#[test]
fn what_is_too_large_or_needed_before_the_key_goes_past_the_journal_in_order() {
    let place = Place::new();
    let (store, _) = place.open().unwrap();
    lazily(&store, 2, b"before");
    append(&store, &node(3, &vec![1; head::LARGE + 1]), Durability::Lazy).unwrap();
    let mut meta = node(2, b"after");
    meta.meta.insert("index".into(), Some(b"sealed".to_vec()));
    append(&store, &meta, Durability::Lazy).unwrap();
    let locked = Store::open(&place.copy().dir);
    assert!(locked.is_ok_and(|store| store.meta("index").unwrap().is_some()), "without the key");
    lazily(&store, 4, b"and on");
    drop(store);
    let nodes = place.open().unwrap().1;
    assert_eq!((nodes.len(), nodes[&Ino(2)].as_slice()), (4, b"after".as_slice()));
}

#[test]
fn a_lock_and_a_new_key_leave_nothing_in_the_journal() {
    let place = Place::new();
    let (store, _) = place.open().unwrap();
    lazily(&store, 2, b"one");
    store.forget_key();
    let copy = place.copy();
    std::fs::remove_dir_all(super::folder(&copy.dir)).unwrap();
    assert_eq!(copy.open().unwrap().1.len(), 2, "the database has it");
    store.verify(&key(), |_, _| Ok(())).unwrap();
    lazily(&store, 3, b"two");
    let new = Secret::copy_of(&[9; 32]).unwrap();
    store.rekey(&node(2, b"new"), &AuditAnchor::default(), &new).unwrap();
    assert!(std::fs::read(place.segment(0)).unwrap().iter().all(|byte| *byte == 0));
    lazily(&store, 4, b"three");
    drop(store);
    let store = Store::open(&place.dir).unwrap();
    assert_eq!(store.verify(&new, |ino, _| Ok(ino)).unwrap().1.len(), 4);
}

#[test]
fn a_backup_has_what_is_journalled_locked_or_not() {
    let place = Place::new();
    let (store, _) = place.open().unwrap();
    lazily(&store, 2, b"journalled");
    let unlocked = backup::into_vec(&store);
    lazily(&store, 3, b"and killed");
    drop(store);
    let locked = backup::into_vec(&Store::open(&place.dir).unwrap());
    for (bytes, expected) in [(unlocked, 2), (locked, 3)] {
        let to = Place { _tmp: TempDir::new().unwrap(), dir: PathBuf::new() };
        let to = Place { dir: to._tmp.path().join("store"), ..to };
        restore(&to.dir, &mut bytes.as_slice(), Existing::Refuse).unwrap();
        assert_eq!(to.open().unwrap().1.len(), expected);
    }
}

/// Whatever fails, and wherever the process ends, what was answered is there and what was refused is not.
#[test]
fn failures_and_kills_between_any_two_steps_leave_what_was_answered() {
    const POINTS: [FaultPoint; 8] = [
        FaultPoint::Slot,
        FaultPoint::Transaction,
        FaultPoint::AfterTransaction,
        FaultPoint::Header,
        FaultPoint::Append,
        FaultPoint::Appended,
        FaultPoint::JournalSync,
        FaultPoint::Room,
    ];
    let mut seed = 0x5eed_u64;
    let mut random = move |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    for case in 0..6 {
        let place = Place::new();
        let (mut store, mut model) = place.open().unwrap();
        let mut trace = Vec::new();
        for step in 0..120u64 {
            let fault = (random(4) == 0).then(|| POINTS[random(8) as usize]);
            let what = random(20);
            trace.push((step, what, fault));
            NEXT_FAULT.set(fault);
            let ino = 2 + random(12);
            let mut batch = node(ino, &[step as u8; 40]);
            if what.is_multiple_of(5) {
                batch.nodes.insert(Ino(ino), None);
            }
            if what == 13 {
                batch.meta.insert("fact".into(), Some(vec![step as u8]));
            }
            let done = match what {
                0..16 => {
                    append(&store, &batch, if what < 8 { Durability::Lazy } else { Durability::Synced }).map(|_| true)
                }
                16 => store.checkpoint().map(|()| false),
                17 => {
                    drop(store);
                    // It may be the opening that fails; the next one finds the same.
                    let opened = place.open().or_else(|_| {
                        NEXT_FAULT.set(None);
                        place.open()
                    });
                    let (next, nodes) = opened.unwrap_or_else(|e| panic!("case {case}: {e}\n{trace:?}"));
                    assert_eq!(nodes, model, "case {case}: {trace:?}");
                    store = next;
                    Ok(false)
                }
                18 => {
                    let copy = place.copy();
                    NEXT_FAULT.set(None);
                    let (_, nodes) = copy.open().unwrap_or_else(|e| panic!("case {case}: {e}\n{trace:?}"));
                    assert_eq!(nodes, model, "case {case}, a copy: {trace:?}");
                    Ok(false)
                }
                _ => store.sync().map(|()| false),
            };
            NEXT_FAULT.set(None);
            if done.is_ok_and(|changed| changed) {
                match &batch.nodes[&Ino(ino)] {
                    Some(value) => drop(model.insert(Ino(ino), value.clone())),
                    None => drop(model.remove(&Ino(ino))),
                }
            }
        }
        drop(store);
        assert_eq!(place.open().unwrap().1, model, "case {case}: {trace:?}");
    }
}

/// Each sync fails once, also after earlier ones went well: what is answered before and after is there, what was refused is not, at once and later.
#[test]
fn whichever_sync_fails_what_was_answered_is_there_and_nothing_else() {
    let mut failed = 0;
    for nth in 0.. {
        let place = Place::new();
        let (store, mut model) = place.open().unwrap();
        fault::SYNCS.set(Some(nth));
        for step in 0..24u64 {
            let mut batch = node(2 + step % 7, &[step as u8; 40]);
            // Past the journal.
            if step % 9 == 4 {
                batch.meta.insert("fact".into(), Some(vec![step as u8]));
            }
            let durability = if step % 3 == 0 { Durability::Synced } else { Durability::Lazy };
            if append(&store, &batch, durability).is_ok() {
                model.extend(batch.nodes.into_iter().filter_map(|(ino, value)| Some((ino, value?))));
            }
            if step % 8 == 5 {
                let _ = store.checkpoint();
            }
            if step % 5 == 0 {
                let _ = store.sync();
            }
            if fault::SYNCS.get().is_none() && failed == nth {
                failed += 1;
                let found = place.copy().open().map(|(_, nodes)| nodes);
                let found = found.unwrap_or_else(|e| panic!("after the failure of sync {nth}, in step {step}: {e}"));
                assert_eq!(found, model, "after the failure of sync {nth}, in step {step}");
            }
        }
        drop(store);
        let is_over = fault::SYNCS.take().is_some();
        assert_eq!(place.open().unwrap().1, model, "sync {nth}");
        if is_over {
            break;
        }
    }
    assert!(failed > 20, "{failed}");
}
