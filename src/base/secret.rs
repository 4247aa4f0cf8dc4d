//! A secret in memory: bytes in the locked arena, wiped when dropped.
//!
//! Owns the only type that may hold plaintext. It has no `Debug` that shows, no `Clone`, no `Serialize`; reading one
//! says [`Secret::expose`].

use crate::sys::arena::{self, ArenaFull, LockedBuf};
use zeroize::{Zeroize, Zeroizing};

/// Bytes nobody else may see: locked, not dumpable, wiped on drop.
///
/// Shape: `len` bytes at the front of a block of the arena; the rest of the block is zero.
pub struct Secret {
    block: LockedBuf,
    len: usize,
}

impl Secret {
    /// `len` zero bytes.
    ///
    /// # Errors
    /// [`ArenaFull`] if the arena has no block of that size left.
    pub fn zeroed(len: usize) -> Result<Self, ArenaFull> {
        Ok(Secret { block: arena::alloc(len)?, len })
    }

    /// Takes `source`'s bytes over and wipes them where they were.
    ///
    /// # Errors
    /// [`ArenaFull`] if the arena has no block of that size left; the source is wiped all the same.
    pub fn take(source: &mut [u8]) -> Result<Self, ArenaFull> {
        let copied = Self::copy_of(source);
        source.zeroize();
        copied
    }

    /// A copy of bytes whose owner wipes them himself.
    ///
    /// # Errors
    /// [`ArenaFull`] if the arena has no block of that size left.
    pub fn copy_of(source: &[u8]) -> Result<Self, ArenaFull> {
        let mut secret = Self::zeroed(source.len())?;
        secret.expose_mut().copy_from_slice(source);
        Ok(secret)
    }

    /// `len` bytes of the kernel's random numbers.
    ///
    /// # Errors
    /// [`ArenaFull`] if the arena has no block of that size left.
    pub fn random(len: usize) -> Result<Self, ArenaFull> {
        let mut secret = Self::zeroed(len)?;
        getrandom::getrandom(secret.expose_mut()).expect("getrandom(2) does not fail on a kernel that mounts FUSE");
        Ok(secret)
    }

    /// The bytes.
    pub fn expose(&self) -> &[u8] {
        &self.block[..self.len]
    }

    /// The bytes, to be filled in place.
    pub fn expose_mut(&mut self) -> &mut [u8] {
        &mut self.block[..self.len]
    }

    /// How many bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many bytes it could have without moving to another block.
    pub fn capacity(&self) -> usize {
        self.block.len()
    }

    /// Makes it `len` bytes long: a cut tail is wiped, new bytes are zero. A block too small is replaced by one of at
    /// least twice its size, and wiped.
    ///
    /// # Errors
    /// [`ArenaFull`] if it has to grow and the arena has no block of that size left; the secret is unchanged.
    pub fn resize(&mut self, len: usize) -> Result<(), ArenaFull> {
        if len > self.block.len() {
            let mut block = arena::alloc(len.max(self.block.len().saturating_mul(2))).or_else(|_| arena::alloc(len))?;
            block[..self.len].copy_from_slice(self.expose());
            self.block = block;
        } else if len < self.len {
            self.block[len..self.len].zeroize();
        }
        self.len = len;
        Ok(())
    }
}

/// Overwrites what a function that just returned left on the stack: the cipher puts blocks of plaintext together there,
/// and a thread's stack keeps them until something reaches as deep.
///
/// Call it from the same frame, and keep that function from being inlined there: only what lies below is reached.
#[inline(never)]
pub fn wipe_stack() {
    std::hint::black_box(&mut [0u8; WIPED_STACK]);
}

/// More than the deepest use of a cipher or a parser takes: in a build without optimisation between 8 and 16 KiB, in one
/// with it below 4. It stands in the way of every open: three times 16 KiB cost 10 µs of 67.
const WIPED_STACK: usize = if cfg!(debug_assertions) { 16 << 10 } else { 4 << 10 };

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secret({} bytes)", self.len)
    }
}

/// The key-encryption key of a scope, as read from the kernel keyring for one operation. Wiped on drop.
pub struct Kek(Zeroizing<[u8; Kek::LEN]>);

impl Kek {
    /// Its length in bytes.
    pub const LEN: usize = 32;

    /// Takes the bytes over.
    pub fn new(bytes: Zeroizing<[u8; Kek::LEN]>) -> Self {
        Kek(bytes)
    }

    /// The bytes.
    pub fn expose(&self) -> &[u8; Kek::LEN] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resizing_keeps_the_front_and_zeroes_the_rest() {
        let mut s = Secret::copy_of(b"hello world").unwrap();
        s.resize(5).unwrap();
        assert_eq!(s.expose(), b"hello");
        s.resize(8).unwrap();
        assert_eq!(s.expose(), b"hello\0\0\0");
        s.resize(100_000).unwrap();
        assert_eq!(&s.expose()[..6], b"hello\0");
        assert!(s.expose()[5..].iter().all(|b| *b == 0));
    }

    #[test]
    fn take_wipes_the_source() {
        let mut source = *b"password";
        let s = Secret::take(&mut source).unwrap();
        assert_eq!(s.expose(), b"password");
        assert_eq!(source, [0; 8]);
    }

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(format!("{:?}", Secret::copy_of(b"password").unwrap()), "Secret(8 bytes)");
    }
}
