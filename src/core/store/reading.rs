//! Reading all of the database, on all processors: nothing is served before that is done.
//!
//! Owns how the work is divided. Whether what was read is what should be there is the ledger's to say.

use super::StoreError;
use super::db::{Db, Tree};
use super::ledger::ino_of;
use super::manifest::{Contents, Keys};
use crate::model::Ino;
use std::num::NonZeroUsize;
use std::thread::{Builder, available_parallelism};

/// Makes something of a node record. Called on several threads.
pub(super) type Opener<'a, T> = dyn Fn(Ino, &[u8]) -> Result<T, StoreError> + Sync + 'a;

/// More threads than this gain little: they share the database's cache.
const THREADS: usize = 4;
/// Below so many inode numbers a thread costs more than it does.
const WORTH_A_THREAD: u64 = 1024;

/// What all summed records come to, and what `open` made of the node records, in no order.
pub(super) fn open_all<T: Send>(db: &Db, keys: &Keys, open: &Opener<'_, T>) -> Result<(Contents, Vec<T>), StoreError> {
    let mut contents = Contents::default();
    for tree in Tree::SUMMED.into_iter().filter(|tree| *tree != Tree::Nodes) {
        db.each(tree, &mut |key, value| {
            contents.add(keys, tree, key, value);
            Ok(())
        })?;
    }
    let mut opened = Vec::new();
    for part in in_parts(&parts(db)?, &|part| open_part(db, keys, open, part)) {
        let (theirs, mut more) = part?;
        contents.join(&theirs);
        opened.append(&mut more);
    }
    Ok((contents, opened))
}

fn open_part<T>(db: &Db, keys: &Keys, open: &Opener<'_, T>, part: &Part) -> Result<(Contents, Vec<T>), StoreError> {
    let (mut contents, mut opened) = (Contents::default(), Vec::new());
    db.each_between(Tree::Nodes, (&part.from, part.to.as_deref()), &mut |key, value| {
        contents.add(keys, Tree::Nodes, key, value);
        opened.push(open(ino_of(key)?, value)?);
        Ok(())
    })?;
    Ok((contents, opened))
}

/// A range of keys: from this one on, and before that one.
struct Part {
    from: Vec<u8>,
    to: Option<Vec<u8>>,
}

/// Ranges that have about as many records each; together all there can be, and none twice. A key is an inode's number in eight bytes; one
/// that is not is in some part as well, and found there.
fn parts(db: &Db) -> Result<Vec<Part>, StoreError> {
    let last = db.last_key(Tree::Nodes)?.and_then(|key| Some(u64::from_be_bytes(*key.first_chunk()?))).unwrap_or(0);
    let threads = available_parallelism().map_or(1, NonZeroUsize::get).min(THREADS) as u64;
    let each = (last / threads).saturating_add(1).max(WORTH_A_THREAD);
    let bounds = (1..threads).map(|n| each.saturating_mul(n).to_be_bytes().to_vec());
    let (from, to) = (std::iter::once(Vec::new()).chain(bounds.clone()), bounds.map(Some).chain([None]));
    Ok(from.zip(to).map(|(from, to)| Part { from, to }).collect())
}

/// Does it for each, the first here and the others on threads of their own.
fn in_parts<P: Sync, R: Send>(
    parts: &[P],
    work: &(impl Fn(&P) -> Result<R, StoreError> + Sync),
) -> Vec<Result<R, StoreError>> {
    let Some((first, others)) = parts.split_first() else { return Vec::new() };
    std::thread::scope(|scope| {
        let start = |part| (part, Builder::new().name("verify".into()).spawn_scoped(scope, move || work(part)));
        let started: Vec<_> = others.iter().map(start).collect();
        let mut done = vec![work(first)];
        done.extend(started.into_iter().map(|(part, thread)| match thread {
            Ok(thread) => thread.join().unwrap_or_else(|_| Err(StoreError::Failed("a thread failed inside".into()))),
            // No thread to be had.
            Err(_) => work(part),
        }));
        done
    })
}
