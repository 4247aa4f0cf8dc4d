//! The payload of a bundle that passed every check: decrypted a chunk at a time, in locked memory.
//!
//! Owns the strict reading of what is inside. It was signed, but a console can be broken too: nothing is believed that is not
//! checked, and nothing is kept room for before its size was compared with what there is.

use super::index::{EntryKind, Index, ReadError};
use super::seal::plain_len;
use super::tar::{BLOCK, END, Member};
use super::{AGE_HEADER_MAX, Checked, INDEX_MAX, INDEX_NAME, Manifest, Refusal, Sha256Hex, Trust, member_name};
use crate::random_access::ReadAt;
use crate::secret::{Secret, wipe_stack};
use crate::stream::{CHUNK, Capture, Chunks, FileKey, NONCE, NotAuthentic, TAG, opened_len};
use sha2::{Digest, Sha256};
use std::io::{self, BufReader, Read};

/// An opened payload: the index, and the contents one after the other.
pub struct Contents {
    manifest: Manifest,
    trust: Trust,
    index: Index,
    plain: Plain,
    next: usize,
}

/// The content of one entry.
#[derive(Debug)]
pub struct Content {
    /// The entry's place in the index.
    pub entry: usize,
    /// What the file holds.
    pub secret: Secret,
}

impl Contents {
    pub(super) fn open(checked: Checked, identity: &dyn age::Identity) -> Result<Self, Refusal> {
        let Checked { file, manifest, payload_at, trust } = checked;
        let (key, header_len) = file_key(&*file, payload_at, manifest.payload.size, identity)?;
        let mut plain = Plain::new(file, payload_at, &manifest, &key, header_len)?;
        let all = plain.left();
        let member = plain.header()?;
        if member.name != INDEX_NAME {
            return Err(bad("it does not begin with its index"));
        }
        if member.size > INDEX_MAX || member.total().is_none_or(|total| total > all) {
            return Err(bad("its index is larger than the payload"));
        }
        let read = Index::read(BufReader::new((&mut plain).take(member.size)), trust.max_entries);
        let index = match read {
            // What the reader met is told rather than what JSON made of it.
            _ if plain.failed.is_some() => return Err(plain.failed.take().expect("it was just seen")),
            Err(ReadError::TooMany) => return Err(Refusal::TooManyEntries(trust.max_entries)),
            Err(ReadError::Newer(version)) => return Err(Refusal::NewerFormat(version)),
            Err(why) => return Err(Refusal::BadPayload(why.to_string())),
            Ok(index) => index,
        };
        plain.zeroes(member.padding())?;
        // Every size is known now: a content that the payload has no room for is never asked room for in memory.
        if plain_len(&index, member.size) != Some(all) {
            return Err(bad("what is in it is not what its index lists"));
        }
        Ok(Contents { manifest, trust, index, plain, next: 0 })
    }

    /// What was signed.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// As [`Checked::new_trust`].
    pub fn new_trust(&self) -> &Trust {
        &self.trust
    }

    /// Everything the host is to have.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// The next file's content, in the index's order; `None` after the last, once the whole payload was found to be what was
    /// signed. **What was read may be used only after that.**
    ///
    /// # Errors
    /// [`Refusal::BadPayload`], [`Refusal::ArenaFull`], [`Refusal::OtherPayload`]; nothing of the bundle may be used then.
    pub fn next_file(&mut self) -> Result<Option<Content>, Refusal> {
        while let Some(entry) = self.index.entries.get(self.next) {
            let number = self.next;
            self.next += 1;
            let EntryKind::File { size, sha256, .. } = &entry.kind else { continue };
            let member = self.plain.header()?;
            if member.name != member_name(number, &entry.path) || member.size != *size {
                return Err(bad("what is in it is not what its index lists"));
            }
            let mut secret = Secret::zeroed(usize::try_from(*size).map_err(|_| bad("a content is too large"))?)?;
            self.plain.exactly(secret.expose_mut())?;
            self.plain.zeroes(member.padding())?;
            if Sha256Hex::of(&secret) != *sha256 {
                return Err(bad("a content is not the one that its index names"));
            }
            return Ok(Some(Content { entry: number, secret }));
        }
        self.plain.finish()?;
        Ok(None)
    }
}

fn bad(why: &str) -> Refusal {
    Refusal::BadPayload(why.into())
}

/// Has age read the header and check its MAC; the key, and how many bytes there are before the chunks.
fn file_key(file: &dyn ReadAt, at: u64, len: u64, identity: &dyn age::Identity) -> Result<(FileKey, u64), Refusal> {
    let capture = Capture::new(identity);
    let mut reader = BufReader::new(Section { file, at, left: len.min(AGE_HEADER_MAX) });
    let decryptor = age::Decryptor::new_buffered(&mut reader).map_err(|_| bad("it is not an age file"))?;
    // The reader of the content is dropped unread.
    match decryptor.decrypt(std::iter::once(&capture as &dyn age::Identity)) {
        Ok(content) => drop(content),
        Err(age::DecryptError::NoMatchingKeys) => return Err(Refusal::NotForThisKey),
        Err(_) => return Err(bad("its header does not authenticate")),
    }
    let read = reader.get_ref().at - at - reader.buffer().len() as u64;
    Ok((capture.into_key().ok_or(Refusal::NotForThisKey)?, read))
}

/// A part of a file, read at offsets.
struct Section<'a> {
    file: &'a dyn ReadAt,
    at: u64,
    left: u64,
}

impl Read for Section<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let n = self.file.read_at(&mut buffer[..n], self.at)?;
        self.at += n as u64;
        self.left -= n as u64;
        Ok(n)
    }
}

/// The plaintext, as far as it was decrypted.
struct Plain {
    file: Box<dyn ReadAt>,
    /// Where the next chunk begins.
    at: u64,
    /// Bytes of chunks, with their tags, that were not read yet.
    sealed: u64,
    /// Bytes of plaintext that were not decrypted yet.
    opening: u64,
    cipher: Chunks,
    chunk: Secret,
    /// What of the chunk was decrypted and not taken.
    ready: std::ops::Range<usize>,
    hash: Sha256,
    signed: [u8; 32],
    /// What a [`Read`] could only hint at.
    failed: Option<Refusal>,
}

impl Plain {
    fn new(
        file: Box<dyn ReadAt>,
        at: u64,
        manifest: &Manifest,
        key: &FileKey,
        header_len: u64,
    ) -> Result<Self, Refusal> {
        let mut header = vec![0; usize::try_from(header_len).map_err(|_| bad("its header is too large"))?];
        file.read_exact_at(&mut header, at)?;
        let nonce: &[u8; NONCE] = header.last_chunk().ok_or_else(|| bad("it is not an age file"))?;
        let sealed = manifest.payload.size.checked_sub(header_len).ok_or_else(|| bad("it is not an age file"))?;
        let opening = opened_len(sealed).ok_or_else(|| bad("no age file has this length"))?;
        Ok(Plain {
            cipher: Chunks::new(key, nonce),
            hash: Sha256::new_with_prefix(&header),
            file,
            at: at + header_len,
            sealed,
            opening,
            chunk: Secret::zeroed(CHUNK)?,
            ready: 0..0,
            signed: manifest.payload.sha256.0,
            failed: None,
        })
    }

    /// Bytes of plaintext that were not taken yet.
    fn left(&self) -> u64 {
        self.opening + self.ready.len() as u64
    }

    /// Decrypts the next chunk.
    fn fill(&mut self) -> Result<(), Refusal> {
        let len = CHUNK.min(usize::try_from(self.opening).unwrap_or(CHUNK));
        let chunk = &mut self.chunk.expose_mut()[..len];
        let mut tag = [0; TAG];
        self.file.read_exact_at(chunk, self.at)?;
        self.file.read_exact_at(&mut tag, self.at + len as u64)?;
        self.hash.update(&*chunk);
        self.hash.update(tag);
        self.at += (len + TAG) as u64;
        self.sealed -= (len + TAG) as u64;
        self.opening -= len as u64;
        self.ready = 0..len;
        let opened = decrypt(&mut self.cipher, chunk, &tag, self.sealed == 0);
        wipe_stack();
        opened.map_err(|e| Refusal::BadPayload(e.to_string()))
    }

    /// Takes what there is, at most `buffer`; nothing at the end.
    fn some(&mut self, buffer: &mut [u8]) -> Result<usize, Refusal> {
        if self.ready.is_empty() && self.sealed > 0 {
            self.fill()?;
        }
        let n = buffer.len().min(self.ready.len());
        buffer[..n].copy_from_slice(&self.chunk.expose()[self.ready.start..self.ready.start + n]);
        self.ready.start += n;
        Ok(n)
    }

    fn exactly(&mut self, mut buffer: &mut [u8]) -> Result<(), Refusal> {
        while !buffer.is_empty() {
            match self.some(buffer)? {
                0 => return Err(bad("it ends too early")),
                n => buffer = &mut buffer[n..],
            }
        }
        Ok(())
    }

    fn header(&mut self) -> Result<Member, Refusal> {
        let mut block = [0; BLOCK];
        self.exactly(&mut block)?;
        Member::parse(&block).map_err(|e| Refusal::BadPayload(e.to_string()))
    }

    fn zeroes(&mut self, len: u64) -> Result<(), Refusal> {
        let mut block = END;
        let zeroes = &mut block[..usize::try_from(len).expect("at most two blocks")];
        self.exactly(zeroes)?;
        if zeroes.iter().all(|b| *b == 0) { Ok(()) } else { Err(bad("there is something between its members")) }
    }

    /// The archive's end, nothing after it, and all of it what was signed.
    fn finish(&mut self) -> Result<(), Refusal> {
        if self.left() > 0 {
            self.zeroes(END.len() as u64)?;
        }
        if self.left() > 0 || self.sealed > 0 {
            return Err(bad("there is something after its end"));
        }
        if <[u8; 32]>::from(self.hash.clone().finalize()) == self.signed { Ok(()) } else { Err(Refusal::OtherPayload) }
    }
}

#[inline(never)]
fn decrypt(cipher: &mut Chunks, chunk: &mut [u8], tag: &[u8; TAG], last: bool) -> Result<(), NotAuthentic> {
    cipher.open(chunk, tag, last)
}

/// For the index alone, which holds no content.
impl Read for &mut Plain {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.some(buffer).map_err(|refusal| {
            self.failed = Some(refusal);
            io::ErrorKind::InvalidData.into()
        })
    }
}
