//! Segments kept on this host: whole, checked, and never more bytes than the ceiling.
//!
//! Bytes are counted by [`Room`]s: one is taken before a download begins and given back when the
//! last user of the file lets go, so that downloads under way and evicted files that a reader still
//! has open count like kept ones. What does not fit streams past the cache.
//!
//! Who may be pushed out is said by [`Rank`]: read segments and files fetched for a single read go
//! in order of use; what a live binding holds and nobody has read yet stays, and its fetching stops
//! instead. Headers stay as long as their binding.
//!
//! A file gets its name when it is whole and checked, and loses it when it is pushed out; so a later
//! instance finds what an earlier one held ([`SegmentCache::adopt`]). What it does not adopt is
//! unlinked ([`SegmentCache::tidy`]).
//!
//! A cache may miss but may not lie: the bytes are checked ([`plexbeam_api::checksum`]) before a file
//! can be had, those of adopted ones, too. A reader in step with a download is given all but the last
//! byte before that.

mod adopt;
mod arriving;
mod check;
mod fetch;
mod file;
mod flight;
mod folder;
mod room;
mod shelf;
#[cfg(test)]
mod tests;

pub use arriving::Doubt;
pub use file::CacheFile;
pub use folder::MemoryFolder;
pub(crate) use folder::folder_for;
pub use room::{Room, Want};
pub use shelf::Rank;

use self::{flight::Flight, room::Ledger, shelf::Shelf};
use crate::{
    config::CacheConfig,
    remote::{FetchError, RemoteFile, SegmentSource},
};
use bytes::Bytes;
use lru::LruCache;
use parking_lot::Mutex;
use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
};
use tokio::sync::Semaphore;

/// Identity of a kept file: its session's `uid` and its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileKey {
    session: u64,
    file: u64,
}

impl FileKey {
    /// Key of this file.
    pub fn of(file: &RemoteFile) -> Self {
        FileKey {
            session: file.origin.uid,
            file: file.uid,
        }
    }
}

/// A file that was asked for.
enum Boarded {
    Here(Arc<CacheFile>),
    Coming(Flight),
}

/// What a read gets.
#[derive(Debug)]
pub enum Got {
    /// The whole file.
    File(Arc<CacheFile>),
    /// The bytes asked for of a file that is arriving and not checked.
    Part(Bytes, Doubt),
    /// There is no room for it: read it by ranges.
    NoRoom,
}

/// Figures of the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Bytes counted now.
    pub used: u64,
    /// Most bytes ever counted.
    pub peak: u64,
    /// The ceiling.
    pub ceiling: u64,
    /// Files kept.
    pub files: u64,
}

/// The cache. One per mount.
pub struct SegmentCache {
    ledger: Arc<Ledger>,
    shelf: Mutex<Shelf>,
    flights: Mutex<HashMap<FileKey, Flight>>,
    source: Arc<dyn SegmentSource>,
    /// Places for downloads, by worker: one that stalls holds up nobody else's.
    places: Mutex<HashMap<usize, Arc<Semaphore>>>,
    dir: PathBuf,
    /// Removes the private folder at the end.
    _private: Option<tempfile::TempDir>,
}

impl std::fmt::Debug for SegmentCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SegmentCache")
            .field("dir", &self.dir)
            .field("usage", &self.usage())
            .finish()
    }
}

impl SegmentCache {
    /// An empty cache, whatever an earlier instance left in its folder. Fails when the folder cannot
    /// take files.
    pub fn new(config: &CacheConfig, source: Arc<dyn SegmentSource>) -> std::io::Result<Arc<Self>> {
        let (dir, private) = match &config.dir {
            Some(dir) => {
                folder::make_private(dir)?;
                (dir.clone(), None)
            }
            None => {
                let private = tempfile::Builder::new()
                    .prefix("plexbeam-cache-")
                    .tempdir()?;
                (private.path().to_path_buf(), Some(private))
            }
        };
        tempfile::tempfile_in(&dir)?;
        Ok(Arc::new(SegmentCache {
            ledger: Arc::new(Ledger::new(config.ceiling)),
            shelf: Mutex::new(Shelf {
                entries: LruCache::unbounded(),
                owners: HashSet::new(),
                next_order: 0,
            }),
            flights: Mutex::default(),
            source,
            places: Mutex::default(),
            dir,
            _private: private,
        }))
    }

    /// Folder of the cache files.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Figures now.
    pub fn usage(&self) -> Usage {
        Usage {
            used: self.ledger.used.load(Ordering::Acquire),
            peak: self.ledger.peak.load(Ordering::Acquire),
            ceiling: self.ledger.ceiling,
            files: self.shelf.lock().entries.len() as u64,
        }
    }

    /// A binding lives; it gets an even share.
    pub fn join(&self, owner: u64) {
        self.shelf.lock().owners.insert(owner);
    }

    /// A binding is gone: what it kept may go, and what only it had goes now.
    pub fn leave(&self, owner: u64) {
        let mut dropped = Vec::new();
        {
            let mut shelf = self.shelf.lock();
            shelf.owners.remove(&owner);
            let keys: Vec<FileKey> = shelf
                .entries
                .iter()
                .filter(|(_, entry)| entry.owner == Some(owner))
                .map(|(key, _)| *key)
                .collect();
            for key in keys {
                dropped.extend(shelf.entries.pop(&key));
            }
        }
        drop(dropped);
        // The share of the others grew, too.
        self.ledger.freed.notify_waiters();
    }

    /// The file, if it is here and checked.
    pub fn get(&self, key: &FileKey) -> Option<Arc<CacheFile>> {
        self.shelf
            .lock()
            .entries
            .get(key)
            .filter(|entry| entry.file.is_checked())
            .map(|entry| entry.file.clone())
    }

    /// Says who may be pushed out from now on.
    pub fn set_rank(&self, key: &FileKey, rank: Rank, owner: Option<u64>) {
        if let Some(entry) = self.shelf.lock().entries.peek_mut(key) {
            entry.rank = rank;
            entry.owner = owner.or(entry.owner);
        }
        if rank == Rank::Free {
            self.ledger.freed.notify_waiters();
        }
    }

    /// Drops a file; its bytes come back when the last reader closes it.
    pub fn remove(&self, key: &FileKey) {
        let dropped = self.shelf.lock().entries.pop(key);
        drop(dropped);
    }

    /// Drops what belongs to none of these sessions and to no binding: nobody can name it any more.
    pub fn sweep(&self, sessions: &HashSet<u64>) {
        let mut dropped = Vec::new();
        {
            let mut shelf = self.shelf.lock();
            let keys: Vec<FileKey> = shelf
                .entries
                .iter()
                .filter(|(key, entry)| {
                    entry.owner.is_none() && entry.is_closed() && !sessions.contains(&key.session)
                })
                .map(|(key, _)| *key)
                .collect();
            for key in keys {
                dropped.extend(shelf.entries.pop(&key));
            }
        }
        drop(dropped);
    }

    /// The file, if it is here or already coming.
    pub async fn here(
        self: &Arc<Self>,
        file: &Arc<RemoteFile>,
    ) -> Option<Result<Arc<CacheFile>, FetchError>> {
        let key = FileKey::of(file);
        if let Some(hit) = self.get(&key) {
            return Some(Ok(hit));
        }
        let known = self.flights.lock().get(&key).cloned();
        let flight = match known {
            Some(flight) => flight,
            None => self.check_adopted(file)?,
        };
        Some(flight.land().await)
    }

    /// The file for a reader: from here, or fetched once however many ask, or [`Got::NoRoom`].
    pub async fn demand(self: &Arc<Self>, file: &Arc<RemoteFile>) -> Result<Got, FetchError> {
        if let Some(outcome) = self.here(file).await {
            return outcome.map(Got::File);
        }
        let Some(room) = self.try_room(file.size(), Want::Spare) else {
            return Ok(Got::NoRoom);
        };
        match self.fetch(file, room).await {
            Ok(file) => Ok(Got::File(file)),
            Err(FetchError::Local(error)) => {
                tracing::warn!(%error, "the cache folder takes nothing, streaming past it");
                Ok(Got::NoRoom)
            }
            Err(error) => Err(error),
        }
    }

    /// `len` bytes from `offset` for a reader, or the rest of the file, as soon as they are here,
    /// checked or not. The last byte of a file is given only when all are right, so that nobody reads a
    /// damaged file to its end.
    pub async fn demand_part(
        self: &Arc<Self>,
        file: &Arc<RemoteFile>,
        offset: u64,
        len: usize,
    ) -> Result<Got, FetchError> {
        let key = FileKey::of(file);
        if let Some(hit) = self.get(&key) {
            return Ok(Got::File(hit));
        }
        let coming = self.flights.lock().get(&key).cloned();
        let flight = match coming.or_else(|| self.check_adopted(file)) {
            Some(flight) => flight,
            None => match self.try_room(file.size(), Want::Spare) {
                None => return Ok(Got::NoRoom),
                Some(room) => match self.board(file, room) {
                    Boarded::Here(hit) => return Ok(Got::File(hit)),
                    Boarded::Coming(flight) => flight,
                },
            },
        };
        match flight.part(file.size(), offset, len).await {
            Err(FetchError::Local(error)) => {
                tracing::warn!(%error, "the cache folder takes nothing, streaming past it");
                Ok(Got::NoRoom)
            }
            outcome => outcome,
        }
    }

    /// Begins to fetch the file, where it is neither here nor coming and finds room.
    pub fn begin(self: &Arc<Self>, file: &Arc<RemoteFile>) {
        let key = FileKey::of(file);
        let known = self.get(&key).is_some() || self.flights.lock().contains_key(&key);
        if !known
            && self.check_adopted(file).is_none()
            && let Some(room) = self.try_room(file.size(), Want::Spare)
        {
            self.board(file, room);
        }
    }

    /// What [`SegmentCache::demand_part`] would give, where `least` bytes of it are here.
    pub fn arrived(
        &self,
        file: &RemoteFile,
        offset: u64,
        len: usize,
        least: usize,
    ) -> Result<Option<Got>, FetchError> {
        let coming = self.flights.lock().get(&FileKey::of(file)).cloned();
        match coming {
            Some(mut flight) => flight.arrived(file.size(), offset, len, least),
            None => Ok(None),
        }
    }

    /// Downloads the file into `room`, or joins the download under way. The download goes on when
    /// the caller is dropped. The file has [`Rank::Free`] and stays while the caller has it.
    pub async fn fetch(
        self: &Arc<Self>,
        file: &Arc<RemoteFile>,
        room: Room,
    ) -> Result<Arc<CacheFile>, FetchError> {
        if let Some(outcome) = self.here(file).await {
            return outcome;
        }
        match self.board(file, room) {
            Boarded::Here(hit) => Ok(hit),
            Boarded::Coming(flight) => flight.land().await,
        }
    }
}
