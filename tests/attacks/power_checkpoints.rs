//! The power goes in the middle of checkpoints that overwrite most of what the database has, so that it uses its own places again: no record that
//! had been there is lost, and what the journal had is there.
//!
//! The store alone, on a disk that keeps a record. How many cuts there are is PINFOLD_CUTS (60 by default).

use super::store::Dice;
use crate::common::disk::{Cut, Disk, Mounted, Room, alone, cuts, examined, many};
use pinfold::model::{Ino, VersionNo};
use pinfold::secret::Secret;
use pinfold::store::{AuditAnchor, Batch, BlobKey, Durability, Store};
use std::collections::BTreeMap;
use std::path::Path;

const NAME: &str = "attacks::power_checkpoints::a_power_cut_in_a_checkpoint_that_uses_its_places_again_loses_no_record";
const RECORDS: u64 = 32;
/// In each, so many are put or removed.
const CHANGES: u64 = 28;
const ROUNDS: u64 = 18;
/// The round of one that was removed.
const NONE: u64 = 0;

fn blob(ino: u64, round: u64) -> Vec<u8> {
    let length = 10_000 + (ino * 7919 + round * 104_729) % 90_000;
    (ino << 32 | round).to_be_bytes().repeat(length as usize / 8)
}

fn key(ino: u64) -> BlobKey {
    BlobKey { ino: Ino(ino), version: VersionNo(1) }
}

/// What a record was changed to, and from where on the disk's record it must be there.
struct Done {
    ino: u64,
    round: u64,
    begun: usize,
    durable: Option<usize>,
}

/// By record, the round of its last change.
type State = BTreeMap<u64, u64>;

/// Whether what a cut has left is what there was after one of the changes that it may be after.
fn examine(done: &[Done], secret: &Secret, cut: &Cut, folder: &Path) -> Result<(), String> {
    let store = Store::open(&folder.join("store")).map_err(|e| e.to_string())?;
    let (_, nodes) = store
        .verify(secret, |ino, value| Ok((ino.0, u64::from_be_bytes(value[..8].try_into().expect("eight bytes")))))
        .map_err(|e| e.to_string())?;
    let found: State = nodes.into_iter().collect();
    let least = done.iter().rposition(|done| done.durable.is_some_and(|at| at <= cut.at)).map_or(0, |at| at + 1);
    let most = done.iter().rposition(|done| done.begun < cut.at).map_or(0, |at| at + 1);
    let mut state = State::new();
    let mut fits = least == 0 && found.is_empty();
    for (number, done) in done[..most.max(least)].iter().enumerate() {
        match done.round {
            NONE => state.remove(&done.ino),
            round => state.insert(done.ino, round),
        };
        fits |= number + 1 >= least && state == found;
    }
    if !fits {
        return Err(format!("neither of {least} to {most}: {found:?}"));
    }
    for (ino, round) in found {
        let there = store.blob(key(ino)).map_err(|e| format!("{ino}: {e}"))?;
        if there.as_deref() != Some(&blob(ino, round)[..]) {
            return Err(format!("the blob of {ino} is not that of {round}"));
        }
    }
    Ok(())
}

fn power_goes() {
    let room = Room::new();
    let disk = Disk::new(room.path(), "disk");
    let at = room.path().join("served");
    std::fs::create_dir(&at).expect("a folder");
    let mounted = Mounted::new(disk.path(), &at);
    let secret = Secret::random(32).expect("room for it");
    Store::create(&at.join("store"), &secret, Batch::default(), &[]).expect("a store");
    let store = Store::open(&at.join("store")).expect("it opens");
    store.verify(&secret, |_, _| Ok(())).expect("it is whole");
    let begin = disk.position();
    let mut done = Vec::new();
    let mut dice = Dice(0x0f1e_2d3c_4b5a_6978);
    for round in 1..=ROUNDS {
        for _ in 0..CHANGES {
            let ino = 1 + dice.below(RECORDS);
            let round = if dice.below(3) == 0 { NONE } else { round };
            let is_there = round != NONE;
            let mut batch = Batch::default();
            batch.nodes.insert(Ino(ino), is_there.then(|| [&round.to_be_bytes()[..], &[7; 100]].concat()));
            batch.blobs.insert(key(ino), is_there.then(|| blob(ino, round)));
            let synced = dice.below(4) == 0;
            let begun = disk.position();
            let durability = if synced { Durability::Synced } else { Durability::Lazy };
            store.append(&batch, &AuditAnchor::default(), durability).expect("an honest disk");
            done.push(Done { ino, round, begun, durable: synced.then(|| disk.position()) });
        }
        store.checkpoint().expect("an honest disk");
        done.last_mut().expect("one at least").durable = Some(disk.position());
    }
    drop(store);
    let size = std::fs::metadata(at.join("store/db/db")).expect("its database").len();
    drop(mounted);
    let (first, told) = disk.end();
    let put = done.iter().filter(|done| done.round != NONE);
    let written: usize = put.map(|done| blob(done.ino, done.round).len()).sum();
    eprintln!("{written} bytes were written, the database has {size}");
    assert!((size as usize) < written / 10 * 9, "it did not use its places again: {size} of {written}");
    let all = cuts(&told, begin, many(60), &mut |end| dice.below(end));
    let wrong = examined((&first, &told), &all, room.path(), 5, &|cut, folder| examine(&done, &secret, cut, folder));
    assert!(wrong.is_empty(), "the store did not outlive: {wrong:#?}");
}

#[test]
fn a_power_cut_in_a_checkpoint_that_uses_its_places_again_loses_no_record() {
    alone(NAME, power_goes);
}
