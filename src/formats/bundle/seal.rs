//! Making a bundle: the payload is written first, where it will lie, then the manifest that names it, then the signature.
//!
//! Owns the order of writing. Memory does not grow with the contents: one is asked for at a time, and a chunk is encrypted
//! at a time, in locked memory.

use super::chain::Chain;
use super::check::len_of;
use super::index::{EntryKind, Index, IndexError};
use super::key::{Fingerprint, PublicKey, SshSig};
use super::manifest::{Head, Manifest, Payload, REVOKED_MAX, Sha256Hex};
use super::parts::Parts;
use super::tar::{BLOCK, END, Member};
use super::{
    AGE_HEADER_MAX, BUNDLE_NAMESPACE, INDEX_NAME, LINKS_MAX, MEMBERS, Refusal, SignError, Signer, member_name,
};
use crate::model::SecretPath;
use crate::random_access::{ReadAt, WriteAt};
use crate::secret::{Secret, wipe_stack};
use crate::stream::{CHUNK, Chunks, FileKey, NONCE, Recipient, TAG, Tap, sealed_len};
use crate::sys::arena::ArenaFull;
use sha2::{Digest, Sha256};
use std::io;
use thiserror::Error;

/// Why no bundle was made. What was written of it is not one.
#[derive(Debug, Error)]
pub enum SealError {
    /// The list of entries is not whole.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// There is nobody to encrypt to.
    #[error("there is no recipient")]
    NoRecipient,
    /// A recipient's key is one that nothing can be encrypted to.
    #[error("nothing can be encrypted to this recipient")]
    BadRecipient,
    /// The signer is not the newest key of the chain, or the chain or the list of revoked keys is too long.
    #[error("{0}")]
    Chain(&'static str),
    /// It would be larger than a tar holds.
    #[error("the bundle would be too large")]
    TooLarge,
    /// A content is not had.
    #[error("'{path}': {why}")]
    Content {
        /// Whose.
        path: SecretPath,
        /// What the one who was asked says.
        why: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A content is not the one that the index names.
    #[error("'{0}' changed meanwhile")]
    Changed(SecretPath),
    /// The signature could not be had.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// What is to be signed is not a bundle, or its payload was changed.
    #[error("it cannot be signed: {0}")]
    Refused(Box<Refusal>),
    /// The key is not the one that the manifest names.
    #[error("it is to be signed by {wanted}, not by {given}")]
    OtherSigner {
        /// Whom the manifest names.
        wanted: Fingerprint,
        /// Who signs.
        given: Fingerprint,
    },
    /// The locked memory is used up.
    #[error(transparent)]
    ArenaFull(#[from] ArenaFull),
    /// The file.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What goes into a bundle, but for the contents.
#[derive(Debug, Clone, Copy)]
pub struct Plan<'a> {
    /// Whose, for whom, when.
    pub head: &'a Head,
    /// The host's key, and others that may open it.
    pub recipients: &'a [Recipient],
    /// What it has.
    pub index: &'a Index,
    /// The rotations of the signing key.
    pub chain: &'a Chain,
    /// Keys that no host may trust again.
    pub revoked: &'a [Fingerprint],
}

/// What was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// The manifest, which names serial, payload and signer.
    pub manifest: Manifest,
    /// Bytes of the whole bundle.
    pub size: u64,
}

/// Gives the content of the entry with this number; asked once for each file, in the index's order.
pub type ContentOf<'a> = dyn FnMut(usize) -> Result<Secret, Box<dyn std::error::Error + Send + Sync>> + 'a;

/// Writes a bundle into an empty file. Making it durable is the caller's.
///
/// # Errors
/// [`SealError`].
pub fn seal(
    out: &dyn WriteAt,
    plan: &Plan<'_>,
    content: &mut ContentOf<'_>,
    signer: &dyn Signer,
) -> Result<Sealed, SealError> {
    let sealed = seal_unsigned(out, plan, content, signer.public())?;
    let bytes = sealed.manifest.to_bytes();
    let signature = signer.sign(BUNDLE_NAMESPACE, &bytes)?;
    put_signature(out, &bytes, &sealed.manifest.signer, &signature)?;
    Ok(sealed)
}

/// Writes a bundle with blanks in the place of the signature, which the key `signer` is to make later: [`finish`].
///
/// # Errors
/// [`SealError`].
pub fn seal_unsigned(
    out: &dyn WriteAt,
    plan: &Plan<'_>,
    content: &mut ContentOf<'_>,
    signer: &PublicKey,
) -> Result<Sealed, SealError> {
    plan.index.check()?;
    if plan.chain.links().last().is_some_and(|l| l.key != *signer) {
        return Err(SealError::Chain("the signer is not the newest key of the rotation chain"));
    }
    if plan.chain.links().len() > LINKS_MAX || plan.revoked.len() > REVOKED_MAX {
        return Err(SealError::Chain("the rotation chain or the list of revoked keys is too long"));
    }
    let (file_key, header) = age_header(plan.recipients)?;
    let index = plan.index.to_bytes();
    let plain = plain_len(plan.index, index.len() as u64).ok_or(SealError::TooLarge)?;
    let size =
        sealed_len(plain).and_then(|n| n.checked_add((header.len() - NONCE) as u64)).ok_or(SealError::TooLarge)?;
    let manifest = |sha256| Manifest::new(plan.head, Payload { sha256, size }, signer, plan.chain, plan.revoked);
    // As many bytes as with the digest in it.
    let bytes = manifest(Sha256Hex([0; 32])).to_bytes();
    let layout = Layout::new(bytes.len(), SshSig::armor_len(signer, BUNDLE_NAMESPACE), size)?;

    let mut payload = Sealer::new(out, layout.payload_at, &file_key, &header, plain)?;
    write_payload(&mut payload, plan.index, &index, content)?;
    let manifest = manifest(Sha256Hex(payload.finish()?));
    layout.write(out, &manifest.to_bytes())?;
    Ok(Sealed { manifest, size: layout.len })
}

/// What [`finish`] signs: for whoever wants to see it before, or sign it by `ssh-keygen -Y sign -n pinfold-bundle`.
///
/// # Errors
/// [`SealError::Refused`] if it is no bundle, or its payload is not the one that its manifest names.
pub fn to_be_signed(file: &dyn ReadAt) -> Result<(Manifest, Vec<u8>), SealError> {
    let refused = |refusal: Refusal| SealError::Refused(Box::new(refusal));
    let parts = Parts::read(file, len_of(file).map_err(refused)?).map_err(refused)?;
    let manifest = Manifest::parse(&parts.manifest).map_err(refused)?;
    if manifest.payload.size != parts.payload_len || manifest.payload.sha256.0 != parts.payload_digest(file)? {
        return Err(refused(Refusal::OtherPayload));
    }
    Ok((manifest, parts.manifest))
}

/// Signs a bundle that was made without a signature. Signing twice does no harm.
///
/// # Errors
/// [`SealError`]; the file is as it was then.
pub fn finish(file: &dyn WriteAt, signer: &dyn Signer) -> Result<Sealed, SealError> {
    let (manifest, bytes) = to_be_signed(file)?;
    if manifest.signer != *signer.public() {
        let (wanted, given) = (manifest.signer.fingerprint(), signer.public().fingerprint());
        return Err(SealError::OtherSigner { wanted, given });
    }
    let signature = signer.sign(BUNDLE_NAMESPACE, &bytes)?;
    put_signature(file, &bytes, &manifest.signer, &signature)?;
    Ok(Sealed { manifest, size: file.size()?.unwrap_or_default() })
}

/// Puts a signature in that was made elsewhere over what [`to_be_signed`] gave.
///
/// # Errors
/// [`SealError::Sign`] if it is not the wanted key's over these bytes; the file is as it was then.
pub fn finish_with(file: &dyn WriteAt, signature: &SshSig) -> Result<Sealed, SealError> {
    let (manifest, bytes) = to_be_signed(file)?;
    put_signature(file, &bytes, &manifest.signer, signature)?;
    Ok(Sealed { manifest, size: file.size()?.unwrap_or_default() })
}

fn put_signature(file: &dyn WriteAt, manifest: &[u8], key: &PublicKey, signature: &SshSig) -> Result<(), SealError> {
    if !key.verifies(BUNDLE_NAMESPACE, manifest, signature) {
        return Err(SignError::Wrong.into());
    }
    let armor = signature.armor();
    let layout = Layout::new(manifest.len(), SshSig::armor_len(key, BUNDLE_NAMESPACE), 0)?;
    if armor.len() != layout.signature_len {
        return Err(SignError::Wrong.into());
    }
    Ok(file.write_all_at(armor.as_bytes(), layout.signature_at)?)
}

/// Where the members lie.
struct Layout {
    headers: [[u8; BLOCK]; 3],
    signature_header_at: u64,
    signature_at: u64,
    signature_len: usize,
    payload_at: u64,
    end: u64,
    len: u64,
}

impl Layout {
    fn new(manifest: usize, signature: usize, payload: u64) -> Result<Self, SealError> {
        let sizes = [manifest as u64, signature as u64, payload];
        let mut headers = [[0; BLOCK]; 3];
        let mut starts = [0; 3];
        let mut at = 0u64;
        for i in 0..3 {
            let member = Member { name: MEMBERS[i].into(), size: sizes[i] };
            headers[i] = member.header().ok_or(SealError::TooLarge)?;
            starts[i] = at;
            at += member.total().ok_or(SealError::TooLarge)?;
        }
        Ok(Layout {
            headers,
            signature_header_at: starts[1],
            signature_at: starts[1] + BLOCK as u64,
            signature_len: signature,
            payload_at: starts[2] + BLOCK as u64,
            end: at,
            len: at + END.len() as u64,
        })
    }

    /// All but the payload. Padding and the end are holes, which read as zeroes.
    fn write(&self, out: &dyn WriteAt, manifest: &[u8]) -> io::Result<()> {
        out.write_all_at(&self.headers[0], 0)?;
        out.write_all_at(manifest, BLOCK as u64)?;
        out.write_all_at(&self.headers[1], self.signature_header_at)?;
        out.write_all_at(&vec![b'\n'; self.signature_len], self.signature_at)?;
        out.write_all_at(&self.headers[2], self.payload_at - BLOCK as u64)?;
        out.write_all_at(&END, self.end)?;
        out.set_size(self.len)
    }
}

/// A fresh file key, wrapped to the recipients, and the header with the payload's nonce.
fn age_header(recipients: &[Recipient]) -> Result<(FileKey, Vec<u8>), SealError> {
    if recipients.is_empty() {
        return Err(SealError::NoRecipient);
    }
    let recipients: Vec<&dyn age::Recipient> = recipients.iter().map(|r| r as &dyn age::Recipient).collect();
    let tap = Tap::new(&recipients);
    let encryptor = age::Encryptor::with_recipients(std::iter::once(&tap as &dyn age::Recipient))
        .map_err(|_| SealError::BadRecipient)?;
    let mut header = Vec::new();
    // Writes the header and the nonce; the writer is dropped before it has seen a byte of content.
    drop(encryptor.wrap_output(&mut header)?);
    if header.len() as u64 > AGE_HEADER_MAX {
        return Err(SealError::TooLarge);
    }
    Ok((tap.into_key().expect("age wrapped the file key for the header it wrote"), header))
}

/// Bytes of the payload's plaintext: a tar of the index and each file. `None` if one does not fit.
pub(super) fn plain_len(index: &Index, index_len: u64) -> Option<u64> {
    let mut sum = Member { name: INDEX_NAME.into(), size: index_len }.total()?.checked_add(END.len() as u64)?;
    for entry in index.entries.iter().filter(|e| e.is_file()) {
        sum = sum.checked_add(Member { name: String::new(), size: entry.size() }.total()?)?;
    }
    Some(sum)
}

fn write_payload(
    out: &mut Sealer<'_>,
    index: &Index,
    index_bytes: &[u8],
    content: &mut ContentOf<'_>,
) -> Result<(), SealError> {
    out.member(INDEX_NAME.into(), index_bytes)?;
    for (number, entry) in index.entries.iter().enumerate() {
        let EntryKind::File { size, sha256, .. } = &entry.kind else { continue };
        let secret = content(number).map_err(|why| SealError::Content { path: entry.path.clone(), why })?;
        if secret.len() as u64 != *size || Sha256Hex::of(&secret) != *sha256 {
            return Err(SealError::Changed(entry.path.clone()));
        }
        out.member(member_name(number, &entry.path), secret.expose())?;
    }
    out.write(&END)
}

/// Encrypts what is written, a chunk at a time, and knows the digest of what came out.
struct Sealer<'a> {
    out: &'a dyn WriteAt,
    at: u64,
    cipher: Chunks,
    chunk: Secret,
    filled: usize,
    /// Bytes of plaintext that are still to come.
    left: u64,
    hash: Sha256,
}

impl<'a> Sealer<'a> {
    fn new(out: &'a dyn WriteAt, at: u64, file_key: &FileKey, header: &[u8], plain: u64) -> Result<Self, SealError> {
        let nonce = header.last_chunk::<NONCE>().expect("age's header ends with the payload's nonce");
        let mut sealer = Sealer {
            out,
            at,
            cipher: Chunks::new(file_key, nonce),
            chunk: Secret::zeroed(CHUNK)?,
            filled: 0,
            left: plain,
            hash: Sha256::new(),
        };
        sealer.put(header)?;
        Ok(sealer)
    }

    fn member(&mut self, name: String, content: &[u8]) -> Result<(), SealError> {
        let member = Member { name, size: content.len() as u64 };
        self.write(&member.header().ok_or(SealError::TooLarge)?)?;
        self.write(content)?;
        self.write(&[0; BLOCK][..usize::try_from(member.padding()).expect("less than a block")])
    }

    fn write(&mut self, mut plain: &[u8]) -> Result<(), SealError> {
        self.left = self.left.checked_sub(plain.len() as u64).expect("as many bytes as were announced");
        while !plain.is_empty() {
            if self.filled == CHUNK {
                self.flush(false)?;
            }
            let n = plain.len().min(CHUNK - self.filled);
            self.chunk.expose_mut()[self.filled..self.filled + n].copy_from_slice(&plain[..n]);
            self.filled += n;
            plain = &plain[n..];
        }
        Ok(())
    }

    fn flush(&mut self, last: bool) -> Result<(), SealError> {
        let tag = encrypt(&mut self.cipher, &mut self.chunk.expose_mut()[..self.filled], last);
        wipe_stack();
        self.hash.update(&self.chunk.expose()[..self.filled]);
        self.out.write_all_at(&self.chunk.expose()[..self.filled], self.at)?;
        self.at += self.filled as u64;
        self.filled = 0;
        self.put(&tag)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), SealError> {
        self.hash.update(bytes);
        self.out.write_all_at(bytes, self.at)?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn finish(mut self) -> Result<[u8; 32], SealError> {
        assert_eq!(self.left, 0, "as many bytes as were announced");
        self.flush(true)?;
        Ok(self.hash.finalize().into())
    }
}

#[inline(never)]
fn encrypt(cipher: &mut Chunks, chunk: &mut [u8], last: bool) -> [u8; TAG] {
    cipher.seal(chunk, last)
}
