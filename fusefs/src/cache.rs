//! Segments kept on this host: whole, checked, and never more bytes than the ceiling.
//!
//! Bytes are counted by [`Room`]s: one is taken before a download begins and given back when the
//! last user of the file lets go, so that downloads under way and evicted files that a reader still
//! has open count like kept ones. What does not fit streams past the cache.
//!
//! Who may be pushed out is said by [`Rank`]: read segments and files fetched for a single read go
//! in order of use; what a live binding holds and nobody has read yet stays, and its fetching stops
//! instead. Headers stay as long as their binding. Files are unlinked from the start, so a crash
//! leaves nothing behind.
//!
//! A cache may miss but may not lie: length and SHA-256 are checked before a file can be had.

mod shelf;
#[cfg(test)]
mod tests;

pub use shelf::Rank;

use self::shelf::{Entry, Shelf};
use crate::{
    config::CacheConfig,
    overlay::read_full,
    remote::{FetchError, RemoteFile, SegmentSource},
};
use futures_util::StreamExt;
use lru::LruCache;
use parking_lot::Mutex;
use plexbeam_api::FileName;
use sha2::{Digest as _, Sha256};
use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::Write,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::{Notify, watch};

/// Downloads of a damaged file before it counts as absent.
const ATTEMPTS_ON_DAMAGE: u32 = 3;
/// Pauses between attempts at an unreachable worker: doubled from the first up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(3);
/// Bytes hashed and written at a time.
const BLOCK: usize = 1 << 20;
/// Disk space is given out in blocks of this many bytes, so rooms are rounded up to it.
const DISK_BLOCK: u64 = 4096;

/// Identity of a kept file: its session's `uid` and its name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FileKey {
    session: u64,
    name: FileName,
}

impl FileKey {
    /// Key of this file.
    pub fn of(file: &RemoteFile) -> Self {
        FileKey {
            session: file.origin.uid,
            name: file.name.clone(),
        }
    }
}

/// For whom room is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// For a reader, or for a file that nobody has asked for: takes what is free.
    Spare,
    /// For the next segments of this binding: may also push out what other bindings hold unread
    /// beyond their even share, the newest first.
    Share(u64),
}

#[derive(Debug)]
struct Ledger {
    ceiling: u64,
    used: AtomicU64,
    peak: AtomicU64,
    freed: Notify,
}

/// Bytes taken from the ceiling until this is dropped.
#[derive(Debug)]
pub struct Room {
    ledger: Arc<Ledger>,
    bytes: u64,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.ledger.used.fetch_sub(self.bytes, Ordering::AcqRel);
        self.ledger.freed.notify_waiters();
    }
}

/// A whole, checked file on this host.
#[derive(Debug)]
pub struct CacheFile {
    file: File,
    size: u64,
    _room: Room,
}

impl CacheFile {
    /// The file itself, open for reading and writing; nobody writes any more.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Up to `len` bytes from `offset`; fewer only at the end.
    pub fn read(&self, offset: u64, len: usize) -> crate::error::Result<Vec<u8>> {
        let len = (self.size.saturating_sub(offset)).min(len as u64) as usize;
        let mut buffer = vec![0; len];
        let read = read_full(&self.file, &mut buffer, offset)?;
        buffer.truncate(read);
        Ok(buffer)
    }
}

type Outcome = Option<Result<Arc<CacheFile>, FetchError>>;

/// What a read gets.
#[derive(Debug)]
pub enum Got {
    /// The whole file.
    File(Arc<CacheFile>),
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
    flights: Mutex<HashMap<FileKey, watch::Receiver<Outcome>>>,
    source: Arc<dyn SegmentSource>,
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
    /// An empty cache. Fails when the folder cannot take files.
    pub fn new(config: &CacheConfig, source: Arc<dyn SegmentSource>) -> std::io::Result<Arc<Self>> {
        let (dir, private) = match &config.dir {
            Some(dir) => {
                std::fs::DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(dir)?;
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
            ledger: Arc::new(Ledger {
                ceiling: config.ceiling,
                used: AtomicU64::new(0),
                peak: AtomicU64::new(0),
                freed: Notify::new(),
            }),
            shelf: Mutex::new(Shelf {
                entries: LruCache::unbounded(),
                owners: HashSet::new(),
                next_order: 0,
            }),
            flights: Mutex::default(),
            source,
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
                .map(|(key, _)| key.clone())
                .collect();
            for key in keys {
                dropped.extend(shelf.entries.pop(&key));
            }
        }
        drop(dropped);
        // The share of the others grew, too.
        self.ledger.freed.notify_waiters();
    }

    /// The file, if it is here.
    pub fn get(&self, key: &FileKey) -> Option<Arc<CacheFile>> {
        self.shelf
            .lock()
            .entries
            .get(key)
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
                .map(|(key, _)| key.clone())
                .collect();
            for key in keys {
                dropped.extend(shelf.entries.pop(&key));
            }
        }
        drop(dropped);
    }

    /// True when a file of this size can never be kept.
    pub fn is_too_big(&self, size: u64) -> bool {
        on_disk(size) > self.ledger.ceiling
    }

    /// Takes room for a file of this size, pushing out what may go. `None` when there is none.
    pub fn try_room(&self, size: u64, want: Want) -> Option<Room> {
        let bytes = on_disk(size);
        if bytes > self.ledger.ceiling {
            return None;
        }
        loop {
            if let Some(room) = self.take(bytes) {
                return Some(room);
            }
            let victim = {
                let mut shelf = self.shelf.lock();
                let key = shelf.free_victim().or_else(|| match want {
                    Want::Spare => None,
                    Want::Share(owner) => shelf.unfair_victim(owner, bytes, self.ledger.ceiling),
                });
                key.and_then(|key| shelf.entries.pop(&key))
            };
            // Dropped outside the lock: its room comes back with it.
            victim?;
        }
    }

    fn take(&self, bytes: u64) -> Option<Room> {
        let ledger = &self.ledger;
        let taken = ledger
            .used
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |used| {
                used.checked_add(bytes).filter(|sum| *sum <= ledger.ceiling)
            });
        let before = taken.ok()?;
        ledger.peak.fetch_max(before + bytes, Ordering::AcqRel);
        Some(Room {
            ledger: self.ledger.clone(),
            bytes,
        })
    }

    /// A reader closed a file, so that it may be pushed out.
    pub fn closed(&self) {
        self.ledger.freed.notify_waiters();
    }

    /// Wakes when bytes came back or ranks fell. Take it, then try, then wait for it.
    pub fn freed(&self) -> tokio::sync::futures::Notified<'_> {
        self.ledger.freed.notified()
    }

    /// The file, if it is here or already coming.
    pub async fn here(&self, file: &RemoteFile) -> Option<Result<Arc<CacheFile>, FetchError>> {
        let key = FileKey::of(file);
        if let Some(hit) = self.get(&key) {
            return Some(Ok(hit));
        }
        let flight = self.flights.lock().get(&key).cloned()?;
        Some(join(flight).await)
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

    /// Downloads the file into `room`, or joins the download under way. The download goes on when
    /// the caller is dropped. The file has [`Rank::Free`] and stays while the caller has it.
    pub async fn fetch(
        self: &Arc<Self>,
        file: &Arc<RemoteFile>,
        room: Room,
    ) -> Result<Arc<CacheFile>, FetchError> {
        let key = FileKey::of(file);
        let flight = {
            let mut flights = self.flights.lock();
            if let Some(hit) = self.get(&key) {
                return Ok(hit);
            }
            match flights.get(&key) {
                Some(flight) => flight.clone(),
                None => {
                    let (tell, flight) = watch::channel(None);
                    flights.insert(key.clone(), flight.clone());
                    let (cache, file) = (self.clone(), file.clone());
                    tokio::spawn(async move {
                        let outcome = cache.attempts(&file, room).await;
                        cache.land(&file, &outcome);
                        // Nobody may wait any more.
                        let _ = tell.send(Some(outcome));
                    });
                    flight
                }
            }
        };
        join(flight).await
    }

    fn land(&self, remote: &RemoteFile, outcome: &Result<Arc<CacheFile>, FetchError>) {
        let key = FileKey::of(remote);
        let mut flights = self.flights.lock();
        if let Ok(file) = outcome {
            let mut shelf = self.shelf.lock();
            let order = shelf.next_order;
            shelf.next_order += 1;
            let entry = Entry {
                file: file.clone(),
                origin: remote.origin.clone(),
                rank: Rank::Free,
                owner: None,
                order,
            };
            shelf.entries.put(key.clone(), entry);
        }
        flights.remove(&key);
    }

    async fn attempts(&self, file: &RemoteFile, room: Room) -> Result<Arc<CacheFile>, FetchError> {
        let mut attempt = 1;
        let mut pause = FIRST_PAUSE;
        loop {
            match self.download(file).await {
                Ok((handle, size)) => {
                    return Ok(Arc::new(CacheFile {
                        file: handle,
                        size,
                        _room: room,
                    }));
                }
                Err(FetchError::Damaged(what)) if attempt < ATTEMPTS_ON_DAMAGE => {
                    attempt += 1;
                    let (session, name) = (&file.origin.session, &file.name);
                    tracing::warn!(%session, %name, what, "damaged on the way, fetching again");
                }
                Err(error) if error.is_passing() && pause < MAX_PAUSE => {
                    tracing::debug!(session = %file.origin.session, %error, "fetching again");
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn download(&self, file: &RemoteFile) -> Result<(File, u64), FetchError> {
        let dir = self.dir.clone();
        let sink = blocking(move || tempfile::tempfile_in(dir)).await?;
        let sink = self.examine_into(file, Some(sink)).await?;
        let sink = sink.ok_or_else(|| FetchError::Local("the file was lost".into()))?;
        Ok((sink, file.size()))
    }

    /// Checks length and digest of a file that cannot be kept.
    pub async fn examine(&self, file: &RemoteFile) -> Result<(), FetchError> {
        self.examine_into(file, None).await.map(drop)
    }

    async fn examine_into(
        &self,
        file: &RemoteFile,
        mut sink: Option<File>,
    ) -> Result<Option<File>, FetchError> {
        let segment = file.segment();
        let mut body = self.source.open(file, None).await?;
        let mut hash = Sha256::new();
        let mut size = 0;
        let mut block = Vec::with_capacity(BLOCK.min(segment.size as usize));
        loop {
            let chunk = body.chunks.next().await.transpose()?;
            let at_end = chunk.is_none();
            if let Some(chunk) = chunk {
                size += chunk.len() as u64;
                if size > segment.size {
                    return Err(FetchError::Damaged("too long"));
                }
                block.extend_from_slice(&chunk);
            }
            if block.len() >= BLOCK || at_end && !block.is_empty() {
                let full = std::mem::replace(&mut block, Vec::with_capacity(BLOCK));
                (hash, sink) = blocking(move || {
                    hash.update(&full);
                    if let Some(sink) = &mut sink {
                        sink.write_all(&full)?;
                    }
                    Ok((hash, sink))
                })
                .await?;
            }
            if at_end {
                break;
            }
        }
        let digest: String = hash
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        if size != segment.size {
            Err(FetchError::Damaged("too short"))
        } else if digest != segment.digest.0 {
            Err(FetchError::Damaged("another digest"))
        } else {
            Ok(sink)
        }
    }
}

fn on_disk(size: u64) -> u64 {
    size.div_ceil(DISK_BLOCK).saturating_mul(DISK_BLOCK)
}

async fn join(mut flight: watch::Receiver<Outcome>) -> Result<Arc<CacheFile>, FetchError> {
    match flight.wait_for(Option::is_some).await {
        Ok(outcome) => match &*outcome {
            Some(outcome) => outcome.clone(),
            None => Err(FetchError::Local("the download was dropped".into())),
        },
        Err(_) => Err(FetchError::Unreachable("the download was dropped".into())),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, FetchError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| FetchError::Local(error.to_string())),
        Err(_) => Err(FetchError::Local("the mount is ending".into())),
    }
}
