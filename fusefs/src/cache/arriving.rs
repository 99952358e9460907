//! What of a download can be read before it is kept: bytes on their way to the cache file, and those
//! that are in it. The last byte of a file can be read only once all are checked.

use crate::{overlay::read_up_to, remote::FetchError};
use bytes::{Bytes, BytesMut};
use std::{
    collections::VecDeque,
    fs::File,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::sync::watch;

/// Whether bytes that were given before all were checked turned out damaged.
#[derive(Debug, Clone, Default)]
pub struct Doubt(Arc<AtomicBool>);

impl Doubt {
    /// Bytes were damaged.
    pub fn confirm(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// They did, or cannot be checked any more: who has read them must not read the file to its end.
    pub fn is_confirmed(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// State of an attempt; `None` before its first byte.
pub(super) type Written = Option<Arriving>;

/// An attempt under way.
#[derive(Debug, Default)]
pub(super) struct Arriving {
    /// Where `written` bytes are.
    file: Option<Arc<File>>,
    written: u64,
    /// The bytes from `kept_from` to `came`, as they came.
    kept: VecDeque<Bytes>,
    kept_from: u64,
    came: u64,
    /// All came, and are the announced ones.
    right: bool,
    doubt: Doubt,
}

/// Bytes of an attempt.
pub(super) enum Piece {
    Kept(Bytes),
    /// So many, in the file.
    Written(Arc<File>, usize),
}

/// The bytes of these from `offset` on, copied only where there are several.
pub(super) fn read_all(pieces: Vec<Piece>, offset: u64) -> Result<Bytes, FetchError> {
    let mut joined = BytesMut::new();
    let several = pieces.len() > 1;
    for piece in pieces {
        let bytes = piece.read(offset + joined.len() as u64)?;
        if !several {
            return Ok(bytes);
        }
        joined.extend_from_slice(&bytes);
    }
    Ok(joined.freeze())
}

impl Piece {
    fn len(&self) -> usize {
        match self {
            Piece::Kept(bytes) => bytes.len(),
            Piece::Written(_, len) => *len,
        }
    }

    fn read(self, offset: u64) -> Result<Bytes, FetchError> {
        match self {
            Piece::Kept(bytes) => Ok(bytes),
            Piece::Written(file, len) => read_up_to(&*file, len, offset)
                .map(Bytes::from)
                .map_err(|error| FetchError::Local(error.to_string())),
        }
    }
}

impl Arriving {
    pub(super) fn came(&mut self, bytes: Bytes) {
        self.came += bytes.len() as u64;
        self.kept.push_back(bytes);
    }

    /// The first `size` bytes are in this file.
    pub(super) fn wrote(&mut self, file: &Arc<File>, size: u64) {
        self.file.get_or_insert_with(|| file.clone());
        self.written = size;
    }

    /// The first `size` bytes are hashed, and in the file unless that takes nothing more. Of those
    /// the newest stay, for who reads in step.
    pub(super) fn passed(&mut self, size: u64) {
        while self.kept.len() > 1 {
            let end = self.kept_from + self.kept[0].len() as u64;
            if end > size {
                break;
            }
            self.kept.pop_front();
            self.kept_from = end;
        }
    }

    /// All came, and are the announced ones.
    pub(super) fn is_right(&mut self) {
        self.right = true;
    }

    /// Up to `len` bytes from `offset` of a file of this size, where `least` of them, and one, are here.
    pub(super) fn pieces(
        &self,
        size: u64,
        offset: u64,
        len: usize,
        least: usize,
    ) -> Option<(Vec<Piece>, Doubt)> {
        let least = least.max(1);
        if self.sure(size) < offset + least as u64 {
            return None;
        }
        let (mut pieces, mut found) = (Vec::new(), 0);
        while let Some(piece) = self.piece(size, offset + found as u64, len - found) {
            found += piece.len();
            pieces.push(piece);
        }
        (found >= least).then(|| (pieces, self.doubt.clone()))
    }

    /// So many bytes from the beginning may be given.
    fn sure(&self, size: u64) -> u64 {
        let most = if self.right {
            size
        } else {
            size.saturating_sub(1)
        };
        self.came.min(most)
    }

    /// The first bytes from `offset`, as far as they are in one place.
    fn piece(&self, size: u64, offset: u64, len: usize) -> Option<Piece> {
        let sure = self.sure(size);
        if offset >= sure || len == 0 {
            return None;
        }
        let len = (sure - offset).min(len as u64) as usize;
        let piece = if offset >= self.kept_from {
            Piece::Kept(self.kept_bytes((offset - self.kept_from) as usize, len))
        } else {
            let written = self.written.checked_sub(offset).filter(|left| *left > 0)?;
            Piece::Written(self.file.clone()?, written.min(len as u64) as usize)
        };
        Some(piece)
    }

    /// Copied only where they did not come at once.
    fn kept_bytes(&self, mut skip: usize, len: usize) -> Bytes {
        let mut joined = BytesMut::new();
        for bytes in &self.kept {
            if skip >= bytes.len() {
                skip -= bytes.len();
                continue;
            }
            let here = bytes.len().min(skip + len - joined.len());
            if joined.is_empty() && here - skip == len {
                return bytes.slice(skip..here);
            }
            joined.reserve(len - joined.len());
            joined.extend_from_slice(&bytes[skip..here]);
            skip = 0;
            if joined.len() == len {
                break;
            }
        }
        joined.freeze()
    }
}

/// What was given of this attempt will not be confirmed: another attempt has other bytes, for all one
/// knows.
pub(super) fn give_up(progress: &watch::Sender<Written>) {
    if let Some(arriving) = progress.send_replace(None)
        && !arriving.right
    {
        arriving.doubt.confirm();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// Whatever came in whichever parts, of which some are in the file: each piece has the bytes of
    /// its place.
    #[test]
    fn a_piece_has_the_bytes_of_its_place() {
        let text: Vec<u8> = (0..200).collect();
        let size = text.len() as u64;
        for part in [1, 7, 64, 200] {
            for written in [0, 1, 63, 64, 150, 200] {
                let mut file = tempfile::tempfile().unwrap();
                file.write_all(&text[..written]).unwrap();
                let file = Arc::new(file);
                let mut arriving = Arriving::default();
                for bytes in text.chunks(part) {
                    arriving.came(Bytes::copy_from_slice(bytes));
                }
                if written > 0 {
                    arriving.wrote(&file, written as u64);
                }
                arriving.passed(written as u64);
                assert!(arriving.pieces(size, size - 1, 1, 1).is_none());
                assert!(arriving.pieces(size, 100, 100, 100).is_none());
                assert!(arriving.pieces(size, 100, 100, 99).is_some());
                arriving.is_right();
                assert!(arriving.pieces(size, size, 1, 0).is_none());
                for offset in 0..size {
                    for len in [1, 10, 200] {
                        let at = offset as usize;
                        let end = text.len().min(at + len);
                        let (pieces, _) = arriving.pieces(size, offset, len, end - at).unwrap();
                        assert_eq!(read_all(pieces, offset).unwrap(), text[at..end]);
                    }
                }
            }
        }
    }

    /// Without a file only what is newest can still be had.
    #[test]
    fn what_is_neither_kept_nor_written_is_not_given() {
        let mut arriving = Arriving::default();
        arriving.came(Bytes::from_static(b"first"));
        arriving.came(Bytes::from_static(b"second"));
        arriving.passed(11);
        assert!(arriving.pieces(100, 0, 5, 1).is_none());
        let (pieces, _) = arriving.pieces(100, 5, 95, 1).unwrap();
        assert_eq!(&read_all(pieces, 5).unwrap()[..], b"second");
    }
}
