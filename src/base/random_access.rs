//! Bytes at offsets: what an open file gives, and a vector too.
//!
//! Owns the two traits by which formats that are too large for memory are read and written without a file being named. It
//! opens nothing.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// What can be read at any offset. Who has one can read no more than this file.
pub trait ReadAt: std::fmt::Debug + Send + Sync {
    /// Reads at most `buffer`; nothing at the end.
    ///
    /// # Errors
    /// What pread(2) says.
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize>;

    /// How many bytes there are; `None` if it is no regular file.
    ///
    /// # Errors
    /// What fstat(2) says.
    fn size(&self) -> io::Result<Option<u64>>;

    /// The same bytes, held apart from this.
    ///
    /// # Errors
    /// What dup(2) says.
    fn another(&self) -> io::Result<Box<dyn ReadAt>>;

    /// Fills the buffer.
    ///
    /// # Errors
    /// What pread(2) says; [`io::ErrorKind::UnexpectedEof`] if it ends before.
    fn read_exact_at(&self, mut buffer: &mut [u8], mut at: u64) -> io::Result<()> {
        while !buffer.is_empty() {
            match self.read_at(buffer, at) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => (buffer, at) = (&mut buffer[n..], at + n as u64),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

/// What can also be written at any offset.
pub trait WriteAt: ReadAt {
    /// Writes all of it.
    ///
    /// # Errors
    /// What pwrite(2) says.
    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;

    /// Makes it so many bytes long; new ones are zero.
    ///
    /// # Errors
    /// What ftruncate(2) says.
    fn set_size(&self, size: u64) -> io::Result<()>;
}

impl ReadAt for File {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        FileExt::read_at(self, buffer, at)
    }

    fn size(&self) -> io::Result<Option<u64>> {
        let meta = self.metadata()?;
        Ok(meta.is_file().then_some(meta.len()))
    }

    fn another(&self) -> io::Result<Box<dyn ReadAt>> {
        Ok(Box::new(self.try_clone()?))
    }
}

impl WriteAt for File {
    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, at)
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        self.set_len(size)
    }
}

impl ReadAt for Vec<u8> {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        let rest = usize::try_from(at).ok().and_then(|at| self.get(at..)).unwrap_or_default();
        let n = rest.len().min(buffer.len());
        buffer[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }

    fn size(&self) -> io::Result<Option<u64>> {
        Ok(Some(self.len() as u64))
    }

    fn another(&self) -> io::Result<Box<dyn ReadAt>> {
        Ok(Box::new(self.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_is_read_as_a_file_is() {
        let bytes = b"hello world".to_vec();
        let file = tempfile::tempfile().unwrap();
        WriteAt::write_all_at(&file, &bytes, 0).unwrap();
        for from in [&file as &dyn ReadAt, &bytes, &*bytes.another().unwrap()] {
            assert_eq!(from.size().unwrap(), Some(11));
            let mut five = [0; 5];
            from.read_exact_at(&mut five, 6).unwrap();
            assert_eq!(&five, b"world");
            assert_eq!(from.read_exact_at(&mut five, 7).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
            assert_eq!(from.read_at(&mut five, 11).unwrap(), 0);
            assert_eq!(from.read_at(&mut five, u64::from(u32::MAX)).unwrap(), 0);
        }
        WriteAt::set_size(&file, 3).unwrap();
        assert_eq!(ReadAt::size(&file).unwrap(), Some(3));
        assert_eq!(File::open("/dev/zero").unwrap().size().unwrap(), None);
    }
}
