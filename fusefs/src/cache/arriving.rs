//! What of a download can be read before it is kept: bytes on their way to the cache file, and those
//! that are in it. The last byte of a file can be read only once the digest of all is right.

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

/// Whether bytes that were given before their digest was checked turned out damaged.
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
    /// All came, with the announced digest.
    right: bool,
    doubt: Doubt,
}

/// Bytes of an attempt.
pub(super) enum Piece {
    Kept(Bytes),
    /// So many, in the file.
    Written(Arc<File>, usize),
}

impl Piece {
    pub(super) fn read(self, offset: u64) -> Result<Bytes, FetchError> {
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

    /// All came, and the digest is the announced one.
    pub(super) fn is_right(&mut self) {
        self.right = true;
    }

    /// The first bytes from `offset` of a file of this size, as far as they are here.
    pub(super) fn piece(&self, size: u64, offset: u64, len: usize) -> Option<(Piece, Doubt)> {
        let most = if self.right {
            size
        } else {
            size.saturating_sub(1)
        };
        let sure = self.came.min(most);
        if offset >= sure {
            return None;
        }
        let len = (sure - offset).min(len as u64) as usize;
        let piece = if offset >= self.kept_from {
            Piece::Kept(self.kept_bytes((offset - self.kept_from) as usize, len))
        } else {
            let written = self.written.checked_sub(offset).filter(|left| *left > 0)?;
            Piece::Written(self.file.clone()?, written.min(len as u64) as usize)
        };
        Some((piece, self.doubt.clone()))
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
