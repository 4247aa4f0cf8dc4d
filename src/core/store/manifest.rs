//! The manifest: what the database must hold, in two slots beside it.
//!
//! Owns the slots' format and the sums. A lost, altered, added or rolled-back record changes the sum; a forged slot fails
//! its MAC. Never looks into a record.

use super::{AuditAnchor, StoreError};
use crate::model::Generation;
use crate::secret::Secret;
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::db::Tree;

/// Bytes of a slot in the file, most of them zero: a slot never shares a page with the other.
const SLOT: usize = 4096;
/// The whole file.
pub(super) const FILE: usize = 2 * SLOT;
/// Bytes of a slot that mean something; they lie within one disk sector.
const USED: usize = 136;
/// What is under the MAC.
const MACED: usize = USED - 32;
const MAGIC: &[u8; 8] = b"pinfman\n";
const VERSION: u32 = 1;

/// A subkey of the index key.
pub(super) fn subkey(index_key: &Secret, label: &[u8]) -> zeroize::Zeroizing<[u8; 32]> {
    let mut key = zeroize::Zeroizing::new([0; 32]);
    let hkdf = Hkdf::<Sha256>::new(None, index_key.expose());
    hkdf.expand(label, &mut *key).expect("32 bytes are within what HKDF can give");
    key
}

/// One for MACs, its key schedule done.
pub(super) fn mac_key(index_key: &Secret, label: &[u8]) -> Box<Hmac<Sha256>> {
    let key = subkey(index_key, label);
    Box::new(<Hmac<Sha256> as Mac>::new_from_slice(&*key).expect("HMAC takes keys of any length"))
}

/// The subkeys of the index key, their key schedules done.
pub(super) struct Keys {
    sum: Box<Hmac<Sha256>>,
    mac: Box<Hmac<Sha256>>,
}

impl Keys {
    /// Derives both.
    pub(super) fn derive(index_key: &Secret) -> Self {
        let mac = |label| mac_key(index_key, label);
        Keys { sum: mac(b"pinfold store 1 record sum"), mac: mac(b"pinfold store 1 manifest slot") }
    }

    fn record(&self, tree: Tree, key: &[u8], value: &[u8]) -> Sum {
        let mut mac = self.sum.clone();
        mac.update(tree.name().as_bytes());
        mac.update(&[0]);
        mac.update(&(key.len() as u64).to_be_bytes());
        mac.update(key);
        mac.update(value);
        Sum::from_bytes(&mac.finalize().into_bytes().into())
    }
}

/// A number mod 2^256, least significant word first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Sum([u64; 4]);

impl Sum {
    fn from_bytes(bytes: &[u8; 32]) -> Self {
        let word = |i: usize| u64::from_be_bytes(bytes[24 - 8 * i..32 - 8 * i].try_into().expect("eight bytes"));
        Sum(std::array::from_fn(word))
    }

    fn to_bytes(self) -> [u8; 32] {
        let mut out = [0; 32];
        for (i, word) in self.0.iter().rev().enumerate() {
            out[8 * i..8 * i + 8].copy_from_slice(&word.to_be_bytes());
        }
        out
    }

    fn add(&mut self, other: Sum) {
        let mut carry = false;
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            let (sum, over) = mine.overflowing_add(theirs);
            let (sum, over_again) = sum.overflowing_add(u64::from(carry));
            (*mine, carry) = (sum, over || over_again);
        }
    }

    fn subtract(&mut self, other: Sum) {
        let mut borrow = false;
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            let (difference, under) = mine.overflowing_sub(theirs);
            let (difference, under_again) = difference.overflowing_sub(u64::from(borrow));
            (*mine, borrow) = (difference, under || under_again);
        }
    }
}

/// How many records, and their sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Contents {
    pub(super) records: u64,
    sum: Sum,
}

impl Contents {
    /// Counts a record in.
    pub(super) fn add(&mut self, keys: &Keys, tree: Tree, key: &[u8], value: &[u8]) {
        self.records = self.records.wrapping_add(1);
        self.sum.add(keys.record(tree, key, value));
    }

    /// Counts in what others counted.
    pub(super) fn join(&mut self, other: &Contents) {
        self.records = self.records.wrapping_add(other.records);
        self.sum.add(other.sum);
    }

    /// Counts a record out.
    pub(super) fn subtract(&mut self, keys: &Keys, tree: Tree, key: &[u8], value: &[u8]) {
        self.records = self.records.wrapping_sub(1);
        self.sum.subtract(keys.record(tree, key, value));
    }
}

/// What one slot says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct State {
    pub(super) generation: Generation,
    pub(super) contents: Contents,
    pub(super) audit: AuditAnchor,
}

impl State {
    /// Bytes of [`State::to_bytes`].
    pub(super) const BYTES: usize = 88;

    /// Generation, count, sum, the audit log's count and head.
    pub(super) fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        out[..8].copy_from_slice(&self.generation.0.to_be_bytes());
        out[8..16].copy_from_slice(&self.contents.records.to_be_bytes());
        out[16..48].copy_from_slice(&self.contents.sum.to_bytes());
        out[48..56].copy_from_slice(&self.audit.count.to_be_bytes());
        out[56..].copy_from_slice(&self.audit.head);
        out
    }

    /// The reverse of [`State::to_bytes`].
    pub(super) fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let number = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let digest = |at: usize| <[u8; 32]>::try_from(&bytes[at..at + 32]).expect("32 bytes");
        State {
            generation: Generation(number(0)),
            contents: Contents { records: number(8), sum: Sum::from_bytes(&digest(16)) },
            audit: AuditAnchor { count: number(48), head: digest(56) },
        }
    }

    fn encode(&self, keys: &Keys) -> [u8; USED] {
        let mut out = [0; USED];
        out[..8].copy_from_slice(MAGIC);
        out[8..12].copy_from_slice(&VERSION.to_be_bytes());
        out[16..MACED].copy_from_slice(&self.to_bytes());
        let mut mac = keys.mac.clone();
        mac.update(&out[..MACED]);
        out[MACED..].copy_from_slice(&mac.finalize().into_bytes());
        out
    }

    fn decode(bytes: &[u8; USED], keys: &Keys) -> Option<Self> {
        let mut mac = keys.mac.clone();
        mac.update(&bytes[..MACED]);
        mac.verify_slice(&bytes[MACED..]).ok()?;
        let known = &bytes[..8] == MAGIC && bytes[8..12] == VERSION.to_be_bytes();
        let state = bytes[16..MACED].try_into().expect("that many bytes");
        known.then(|| State::from_bytes(state))
    }
}

/// The higher generation of the two slots of a manifest, believed without its key.
pub(super) fn claimed_generation(manifest: &[u8]) -> u64 {
    let slots = manifest.chunks(SLOT).filter(|slot| slot.starts_with(MAGIC));
    slots.filter_map(|slot| Some(u64::from_be_bytes(slot.get(16..24)?.try_into().ok()?))).max().unwrap_or(0)
}

/// Whether the two slots of a manifest say different things, believed without its key.
pub(super) fn slots_differ(manifest: &[u8]) -> bool {
    manifest.get(..USED) != manifest.get(SLOT..SLOT + USED)
}

/// The two slots of a file.
pub(super) struct Slots<'a>(pub(super) &'a File);

impl Slots<'_> {
    /// What they say; `None` for one that is cut, garbled, or of another key.
    pub(super) fn read(&self, keys: &Keys) -> Result<[Option<State>; 2], StoreError> {
        let mut states = [None; 2];
        for (slot, state) in states.iter_mut().enumerate() {
            let mut bytes = [0; USED];
            match self.0.read_exact_at(&mut bytes, (slot * SLOT) as u64) {
                Ok(()) => *state = State::decode(&bytes, keys),
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(states)
    }

    /// Overwrites one slot. Not durable until [`Slots::sync`].
    pub(super) fn write(&self, slot: usize, keys: &Keys, state: &State) -> Result<(), StoreError> {
        self.0.write_all_at(&state.encode(keys), (slot * SLOT) as u64).map_err(super::guard::io_error)
    }

    /// Makes what was written durable.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        self.0.sync_data().map_err(super::guard::io_error)
    }

    /// Makes both say the same, durably: from then on nothing older is accepted.
    pub(super) fn write_both(&self, keys: &Keys, state: &State) -> Result<(), StoreError> {
        self.write(0, keys, state)?;
        self.write(1, keys, state)?;
        self.sync()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_numbers_mod_2_to_the_256() {
        let max = Sum::from_bytes(&[0xff; 32]);
        let mut one = [0; 32];
        one[31] = 1;
        let mut sum = max;
        sum.add(Sum::from_bytes(&one));
        assert_eq!(sum, Sum::default(), "it wraps");
        sum.subtract(Sum::from_bytes(&one));
        assert_eq!(sum.to_bytes(), [0xff; 32], "and back");
        let mut mixed = [0; 32];
        mixed.iter_mut().enumerate().for_each(|(i, b)| *b = i as u8);
        assert_eq!(Sum::from_bytes(&mixed).to_bytes(), mixed);
    }

    #[test]
    fn the_order_of_records_is_nothing_and_their_place_is_everything() {
        let keys = Keys::derive(&Secret::copy_of(&[7; 32]).unwrap());
        let sum = |records: &[(Tree, &[u8], &[u8])]| {
            let mut c = Contents::default();
            records.iter().for_each(|(t, k, v)| c.add(&keys, *t, k, v));
            c
        };
        let a = sum(&[(Tree::Nodes, b"1", b"x"), (Tree::Nodes, b"2", b"y")]);
        assert_eq!(a, sum(&[(Tree::Nodes, b"2", b"y"), (Tree::Nodes, b"1", b"x")]));
        assert_ne!(a, sum(&[(Tree::Nodes, b"1", b"y"), (Tree::Nodes, b"2", b"x")]), "swapped values");
        assert_ne!(a, sum(&[(Tree::Nodes, b"1", b"x"), (Tree::Scopes, b"2", b"y")]), "another tree");
        assert_ne!(a, sum(&[(Tree::Nodes, b"1x", b""), (Tree::Nodes, b"2", b"y")]), "key and value are kept apart");
        let mut back = a;
        back.subtract(&keys, Tree::Nodes, b"2", b"y");
        assert_eq!(back, sum(&[(Tree::Nodes, b"1", b"x")]));
    }

    #[test]
    fn any_flipped_bit_of_a_slot_makes_it_none() {
        let keys = Keys::derive(&Secret::copy_of(&[7; 32]).unwrap());
        let state = State {
            generation: Generation(5),
            contents: Contents { records: 3, sum: Sum([1, 2, 3, 4]) },
            audit: AuditAnchor { count: 9, head: [8; 32] },
        };
        let good = state.encode(&keys);
        assert_eq!(State::decode(&good, &keys), Some(state));
        for bit in 0..USED * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(State::decode(&bad, &keys), None, "bit {bit}");
        }
    }
}
