//! A bundle as three members of a tar: where each lies. Nothing in them is looked at here.

use super::key::SIGNATURE_MAX;
use super::tar::{BLOCK, END, Member};
use super::{MANIFEST_MAX, MEMBERS, Refusal};
use crate::random_access::ReadAt;
use sha2::{Digest, Sha256};
use std::io;

/// Where the parts lie in the file, in bytes from its beginning.
pub(super) struct Parts {
    /// The manifest as it stands, which is what was signed.
    pub manifest: Vec<u8>,
    /// The armor, or blanks.
    pub signature: Vec<u8>,
    /// Where the payload begins.
    pub payload_at: u64,
    /// Its bytes.
    pub payload_len: u64,
}

impl Parts {
    /// Reads the headers and the two small members of a file of `len` bytes. The whole file is accounted for: what is
    /// between and after the members is zero, and there is nothing more.
    pub fn read(file: &dyn ReadAt, len: u64) -> Result<Self, Refusal> {
        let mut at = 0;
        let [manifest_size, signature_size, payload_len] = [MANIFEST_MAX as u64, SIGNATURE_MAX as u64, len];
        let manifest = small(file, &mut at, len, MEMBERS[0], manifest_size)?;
        let signature = small(file, &mut at, len, MEMBERS[1], signature_size)?;
        let payload = member(file, at, len, MEMBERS[2], payload_len)?;
        let payload_at = at + BLOCK as u64;
        let end = at + payload.total().expect("it was found to lie within the file");
        padding(file, payload_at + payload.size, payload.padding())?;
        let mut tail = END;
        if len - end != tail.len() as u64 {
            return Err(Refusal::NotABundle("there is more after its three members than a tar's end".into()));
        }
        file.read_exact_at(&mut tail, end)?;
        if tail != END {
            return Err(Refusal::NotABundle("it has more than three members".into()));
        }
        Ok(Parts { manifest, signature, payload_at, payload_len: payload.size })
    }

    /// SHA-256 of the payload.
    pub fn payload_digest(&self, file: &dyn ReadAt) -> io::Result<[u8; 32]> {
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 64 << 10];
        let mut done = 0;
        while done < self.payload_len {
            let n = buffer.len().min(usize::try_from(self.payload_len - done).unwrap_or(usize::MAX));
            file.read_exact_at(&mut buffer[..n], self.payload_at + done)?;
            hash.update(&buffer[..n]);
            done += n as u64;
        }
        Ok(hash.finalize().into())
    }
}

/// The header at `at`, of a member with this name that lies within the file.
fn member(file: &dyn ReadAt, at: u64, len: u64, name: &str, max: u64) -> Result<Member, Refusal> {
    let not = |why: String| Refusal::NotABundle(why);
    if len.saturating_sub(at) < BLOCK as u64 {
        return Err(not(format!("it ends before {name}")));
    }
    let mut block = [0; BLOCK];
    file.read_exact_at(&mut block, at)?;
    if block == [0; BLOCK] {
        return Err(not(format!("it has no {name}")));
    }
    let member = Member::parse(&block).map_err(|e| not(e.to_string()))?;
    if member.name != name {
        let found: String = member.name.chars().take(100).flat_map(char::escape_default).collect();
        return Err(not(format!("'{found}' is where {name} should be")));
    }
    if member.size > max {
        return Err(not(format!("its {name} is too large")));
    }
    match member.total().and_then(|total| at.checked_add(total)) {
        Some(end) if end <= len => Ok(member),
        _ => Err(not(format!("it ends within {name}"))),
    }
}

/// A member that is read whole.
fn small(file: &dyn ReadAt, at: &mut u64, len: u64, name: &str, max: u64) -> Result<Vec<u8>, Refusal> {
    let member = member(file, *at, len, name, max)?;
    let start = *at + BLOCK as u64;
    let mut content = vec![0; usize::try_from(member.size).expect("it is at most a few MiB")];
    file.read_exact_at(&mut content, start)?;
    padding(file, start + member.size, member.padding())?;
    *at += member.total().expect("it was found to lie within the file");
    Ok(content)
}

fn padding(file: &dyn ReadAt, at: u64, len: u64) -> Result<(), Refusal> {
    let mut block = [0; BLOCK];
    let padding = &mut block[..usize::try_from(len).expect("less than a block")];
    file.read_exact_at(padding, at)?;
    if padding.iter().any(|b| *b != 0) {
        return Err(Refusal::NotABundle("there is something between its members".into()));
    }
    Ok(())
}
