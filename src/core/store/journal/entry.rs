//! One entry of the journal: what a commit puts where, the state after it, and its seal.
//!
//! Owns the encoding. An entry is *physical*: it has the bytes that are stored, not what was meant, so that doing it twice does no harm.

use super::super::db::{Put, Tree};
use super::super::manifest::{self, State};
use super::super::{MAX_KEY, MAX_VALUE, StoreError};
use crate::aead::{self, Aead};
use crate::model::{Generation, Ino};
use crate::secret::Secret;
use hmac::{Hmac, Mac};
use sha2::Sha256;

/// Bytes before an entry's ciphertext: magic, length, nonce, tag, generation.
pub(super) const HEAD: usize = 56;
/// Entries begin at multiples of this.
pub(super) const ALIGN: usize = 64;
/// The longest ciphertext.
pub(super) const MAX_ENTRY: usize = 1 << 20;
const MAGIC: &[u8; 4] = b"pje\n";

/// The authentication tag of an entry, by which the next one names it.
pub(super) type Tag = [u8; aead::TAG];
/// What tells one opening of the journal from another.
pub(super) type Epoch = [u8; 16];

/// The subkeys of the index key that the journal is under.
pub(super) struct Keys {
    seal: Aead,
    header: Box<Hmac<Sha256>>,
}

impl Keys {
    /// Derives both.
    pub(super) fn derive(index_key: &Secret) -> Self {
        Keys {
            seal: Aead::new(&manifest::subkey(index_key, b"pinfold journal 1 entry")),
            header: manifest::mac_key(index_key, b"pinfold journal 1 segment"),
        }
    }

    /// The MAC of a segment's header.
    pub(super) fn header_mac(&self, bytes: &[u8]) -> [u8; 32] {
        let mut mac = self.header.clone();
        mac.update(bytes);
        mac.finalize().into_bytes().into()
    }

    /// Whether that is the MAC of these bytes.
    pub(super) fn is_header(&self, bytes: &[u8], mac: &[u8]) -> bool {
        let mut expected = self.header.clone();
        expected.update(bytes);
        expected.verify_slice(mac).is_ok()
    }
}

/// One change of one record, owned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) struct Change {
    /// Of which tree.
    pub(in crate::store) tree: Tree,
    /// The record's key.
    pub(in crate::store) key: Vec<u8>,
    /// What is put there; `None` deletes it.
    pub(in crate::store) value: Option<Vec<u8>>,
}

/// An entry, read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) struct Entry {
    /// The generation that this one follows.
    pub(in crate::store) after: Generation,
    /// Up to which generation everything was known to be on the disk when it was written.
    pub(super) durable: Generation,
    /// The tag of the entry before, in whichever segment that is; zero for the first of all.
    pub(super) before: Tag,
    /// What the store holds with it.
    pub(in crate::store) state: State,
    /// What it changes.
    pub(in crate::store) changes: Vec<Change>,
}

impl Entry {
    /// The numbers of the nodes that it changes.
    pub(in crate::store) fn nodes(&self) -> impl Iterator<Item = Ino> {
        let of = |change: &Change| Some(Ino(u64::from_be_bytes(change.key.as_slice().try_into().ok()?)));
        self.changes.iter().filter(|change| change.tree == Tree::Nodes).filter_map(of)
    }
}

/// Where an entry stands in the chain.
pub(super) struct Link {
    pub(super) after: Generation,
    pub(super) durable: Generation,
    pub(super) before: Tag,
}

/// Bytes that are in every entry: generations, tag, state.
const FIXED: usize = 8 + 8 + 16 + State::BYTES;

/// How many bytes an entry with these changes has, before it is sealed.
pub(super) fn length<'a>(puts: impl Iterator<Item = Put<'a>>) -> usize {
    FIXED + puts.map(|put| 1 + 2 + put.key.len() + 5 + put.value.map_or(0, <[u8]>::len)).sum::<usize>()
}

/// An entry as it is written at `offset` of the segment of this epoch, padded; and its tag.
pub(super) fn seal<'a>(
    keys: &Keys,
    (epoch, offset): (&Epoch, u64),
    link: &Link,
    state: &State,
    puts: impl Iterator<Item = Put<'a>>,
) -> Result<(Vec<u8>, Tag), StoreError> {
    let mut out = vec![0; HEAD];
    out.extend(link.after.0.to_be_bytes());
    out.extend(link.durable.0.to_be_bytes());
    out.extend(link.before);
    out.extend(state.to_bytes());
    for put in puts {
        out.push(put.tree as u8);
        out.extend((put.key.len() as u16).to_be_bytes());
        out.extend(&put.key);
        out.push(u8::from(put.value.is_some()));
        let value = put.value.unwrap_or_default();
        out.extend((value.len() as u32).to_be_bytes());
        out.extend(value);
    }
    let length = u32::try_from(out.len() - HEAD).map_err(|_| StoreError::Failed("an entry is too long".into()))?;
    let (head, body) = out.split_at_mut(HEAD);
    let data = associated(epoch, offset, length, state.generation);
    let (nonce, tag) = keys.seal.seal(&data, body);
    head[..4].copy_from_slice(MAGIC);
    head[4..8].copy_from_slice(&length.to_be_bytes());
    head[8..32].copy_from_slice(&nonce);
    head[32..48].copy_from_slice(&tag);
    head[48..].copy_from_slice(&state.generation.0.to_be_bytes());
    out.resize(out.len().next_multiple_of(ALIGN), 0);
    Ok((out, tag))
}

/// The entry at `offset` of a segment, its tag, and where the next one would be; `None` if there is none, or it is not whole.
pub(super) fn open(keys: &Keys, epoch: &Epoch, segment: &[u8], offset: usize) -> Option<(Entry, Tag, usize)> {
    let head = segment.get(offset..offset + HEAD)?;
    let length = u32::from_be_bytes(head[4..8].try_into().ok()?);
    if &head[..4] != MAGIC || length as usize > MAX_ENTRY {
        return None;
    }
    let mut body = segment.get(offset + HEAD..offset + HEAD + length as usize)?.to_vec();
    let (nonce, tag) = (head[8..32].try_into().ok()?, head[32..48].try_into().ok()?);
    let (generation, next) = claimed(segment, offset)?;
    let data = associated(epoch, offset as u64, length, generation);
    keys.seal.open(&nonce, &data, &mut body, &tag).ok()?;
    Some((decode(&body).filter(|entry| entry.state.generation == generation)?, tag, next))
}

/// Which generation the entry at `offset` says it is, believed without the key, and where the next one would be.
pub(super) fn claimed(segment: &[u8], offset: usize) -> Option<(Generation, usize)> {
    let head = segment.get(offset..offset + HEAD).filter(|head| may_begin(head))?;
    let length = u32::from_be_bytes(head[4..8].try_into().ok()?) as usize;
    let generation = Generation(u64::from_be_bytes(head[48..].try_into().ok()?));
    Some((generation, (offset + HEAD + length).next_multiple_of(ALIGN)))
}

/// Whether an entry may begin here.
pub(super) fn may_begin(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

fn associated(epoch: &Epoch, offset: u64, length: u32, generation: Generation) -> [u8; 51] {
    let mut data = [0; 51];
    data[..15].copy_from_slice(b"pinfold/journal");
    data[15..31].copy_from_slice(epoch);
    data[31..39].copy_from_slice(&offset.to_be_bytes());
    data[39..43].copy_from_slice(&length.to_be_bytes());
    data[43..].copy_from_slice(&generation.0.to_be_bytes());
    data
}

fn decode(mut body: &[u8]) -> Option<Entry> {
    let number = |body: &mut &[u8]| Some(Generation(u64::from_be_bytes(body.split_off(..8)?.try_into().ok()?)));
    let (after, durable) = (number(&mut body)?, number(&mut body)?);
    let before = body.split_off(..16)?.try_into().ok()?;
    let state = State::from_bytes(body.split_off(..State::BYTES)?.try_into().ok()?);
    let mut changes = Vec::new();
    while !body.is_empty() {
        let tree = *body.split_off_first()?;
        let tree = Tree::ALL.into_iter().find(|t| *t as u8 == tree)?;
        let length = u16::from_be_bytes(body.split_off(..2)?.try_into().ok()?) as usize;
        let key = body.split_off(..length).filter(|key| key.len() <= MAX_KEY)?.to_vec();
        let is_put = *body.split_off_first()? == 1;
        let length = u32::from_be_bytes(body.split_off(..4)?.try_into().ok()?) as usize;
        let value = body.split_off(..length).filter(|value| value.len() <= MAX_VALUE)?;
        changes.push(Change { tree, key, value: is_put.then(|| value.to_vec()) });
    }
    Some(Entry { after, durable, before, state, changes })
}
