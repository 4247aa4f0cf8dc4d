//! Frames: one JSON object and a NUL, each way.
//!
//! Owns the bounds. A frame lies in a [`Secret`] from its first byte, since it may hold one. It knows no socket: timeouts
//! are its reader's business.

use crate::secret::Secret;
use std::io::{self, Read, Write};
use thiserror::Error;

/// Frames up to this size need no leave, in bytes.
pub const LARGE_FRAME: usize = 64 << 10;
/// How much is read at once, in bytes.
const PIECE: usize = 16 << 10;

/// The largest frame where secrets have `max_secret_size` bytes at most: base64, and 64 KiB for what is around it.
pub fn limit_for(max_secret_size: u64) -> usize {
    usize::try_from(max_secret_size).unwrap_or(usize::MAX / 4).div_ceil(3) * 4 + LARGE_FRAME
}

/// Why there is no frame.
#[derive(Debug, Error)]
pub enum FrameError {
    /// Longer than the limit, in bytes.
    #[error("the message is longer than {0} bytes")]
    TooLong(usize),
    /// The other side stopped in the middle.
    #[error("the message was cut off")]
    CutOff,
    /// No leave for a large frame now.
    #[error("too many large messages at once")]
    Busy,
    /// No locked memory left.
    #[error(transparent)]
    Memory(#[from] crate::sys::arena::ArenaFull),
    /// read(2) failed or took too long.
    #[error("cannot read: {0}")]
    Io(#[from] io::Error),
}

/// A whole frame, without its NUL.
#[derive(Debug)]
pub struct Frame(Secret);

impl Frame {
    /// The JSON text.
    pub fn bytes(&self) -> &[u8] {
        self.0.expose()
    }
}

/// Reads frames from a stream.
pub struct FrameReader<R> {
    from: R,
    limit: usize,
    /// What was read and not handed out.
    rest: Secret,
}

impl<R: Read> FrameReader<R> {
    /// Frames of at most `limit` bytes.
    ///
    /// # Errors
    /// [`FrameError::Memory`].
    pub fn new(from: R, limit: usize) -> Result<Self, FrameError> {
        Ok(FrameReader { from, limit, rest: Secret::zeroed(0)? })
    }

    /// The stream.
    pub fn stream(&mut self) -> &mut R {
        &mut self.from
    }

    /// The next frame; `None` if the other side closed between two. `leave` is asked once, when the frame turns out to
    /// be longer than [`LARGE_FRAME`].
    ///
    /// # Errors
    /// [`FrameError`]; after one the stream is of no use any more.
    pub fn next(&mut self, leave: &mut dyn FnMut() -> bool) -> Result<Option<Frame>, FrameError> {
        let mut searched = 0;
        let mut asked = false;
        loop {
            let filled = self.rest.len();
            if let Some(at) = self.rest.expose()[searched..].iter().position(|b| *b == 0) {
                let end = searched + at;
                if end > self.limit {
                    return Err(FrameError::TooLong(self.limit));
                }
                return self.split(end).map(Some);
            }
            searched = filled;
            if filled > self.limit {
                return Err(FrameError::TooLong(self.limit));
            }
            if filled > LARGE_FRAME && !asked {
                asked = true;
                if !leave() {
                    return Err(FrameError::Busy);
                }
            }
            self.rest.resize(filled + PIECE)?;
            let read = loop {
                match self.from.read(&mut self.rest.expose_mut()[filled..]) {
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    other => break other,
                }
            };
            self.rest.resize(filled + read.as_ref().map_or(0, |n| *n))?;
            match read? {
                0 if filled == 0 => return Ok(None),
                0 => return Err(FrameError::CutOff),
                _ => {}
            }
        }
    }

    /// The front as a frame; what comes after its NUL stays.
    fn split(&mut self, end: usize) -> Result<Frame, FrameError> {
        let rest = Secret::copy_of(&self.rest.expose()[end + 1..])?;
        let mut frame = std::mem::replace(&mut self.rest, rest);
        frame.resize(end)?;
        Ok(Frame(frame))
    }
}

/// A frame that is being written, in locked memory.
pub struct FrameWriter {
    frame: Secret,
    limit: usize,
}

impl FrameWriter {
    /// An empty one, of `limit` bytes at most.
    ///
    /// # Errors
    /// [`FrameError::Memory`].
    pub fn new(limit: usize) -> Result<Self, FrameError> {
        Ok(FrameWriter { frame: Secret::zeroed(0)?, limit })
    }

    /// The bytes so far.
    pub fn bytes(&self) -> &[u8] {
        self.frame.expose()
    }
}

impl Write for FrameWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let at = self.frame.len();
        if at + bytes.len() > self.limit {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, FrameError::TooLong(self.limit)));
        }
        self.frame.resize(at + bytes.len()).map_err(|full| io::Error::new(io::ErrorKind::OutOfMemory, full))?;
        self.frame.expose_mut()[at..].copy_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives one byte at a time.
    struct Drip<'a>(&'a [u8]);
    impl Read for Drip<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let n = self.0.len().min(1);
            into[..n].copy_from_slice(&self.0[..n]);
            self.0 = &self.0[n..];
            Ok(n)
        }
    }

    fn frames(mut reader: FrameReader<impl Read>) -> (Vec<Vec<u8>>, Result<(), FrameError>) {
        let mut got = Vec::new();
        loop {
            match reader.next(&mut || true) {
                Ok(Some(frame)) => got.push(frame.bytes().to_vec()),
                Ok(None) => return (got, Ok(())),
                Err(e) => return (got, Err(e)),
            }
        }
    }

    #[test]
    fn frames_come_out_whole_however_they_come_in() {
        let stream = b"{}\0\0{\"a\":1}\0";
        let whole = frames(FrameReader::new(&stream[..], 100).unwrap());
        let drip = frames(FrameReader::new(Drip(stream), 100).unwrap());
        for (got, end) in [whole, drip] {
            assert_eq!(got, [b"{}".to_vec(), b"".to_vec(), b"{\"a\":1}".to_vec()]);
            end.unwrap();
        }
    }

    #[test]
    fn a_frame_without_an_end_is_an_error() {
        assert!(matches!(frames(FrameReader::new(&b"{}"[..], 100).unwrap()).1, Err(FrameError::CutOff)));
        let endless = io::repeat(b'x');
        assert!(matches!(frames(FrameReader::new(endless, 100_000).unwrap()).1, Err(FrameError::TooLong(100_000))));
        let long = vec![b'x'; 101].into_iter().chain([0]).collect::<Vec<u8>>();
        assert!(matches!(frames(FrameReader::new(&long[..], 100).unwrap()).1, Err(FrameError::TooLong(100))));
        assert_eq!(frames(FrameReader::new(&long[1..], 100).unwrap()).0[0].len(), 100, "the limit itself fits");
    }

    #[test]
    fn large_frames_ask_for_leave_once() {
        let mut long = vec![b'x'; 3 * LARGE_FRAME];
        long.push(0);
        let mut asked = 0;
        let mut reader = FrameReader::new(&long[..], 1 << 20).unwrap();
        assert!(
            reader
                .next(&mut || {
                    asked += 1;
                    true
                })
                .unwrap()
                .is_some()
        );
        assert_eq!(asked, 1);
        let mut reader = FrameReader::new(&long[..], 1 << 20).unwrap();
        assert!(matches!(reader.next(&mut || false), Err(FrameError::Busy)));
        let mut reader = FrameReader::new(&long[long.len() - 10..], 1 << 20).unwrap();
        assert!(reader.next(&mut || panic!("a small frame needs no leave")).unwrap().is_some());
    }

    #[test]
    fn a_writer_stops_at_its_limit() {
        let mut writer = FrameWriter::new(10).unwrap();
        writer.write_all(b"0123456789").unwrap();
        assert_eq!(writer.write(b"x").unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(writer.bytes(), b"0123456789");
    }

    #[test]
    fn the_limit_holds_the_largest_secret() {
        assert!(limit_for(1 << 20) > (1 << 20) / 3 * 4 + 60_000);
    }
}
