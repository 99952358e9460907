//! Finished segments in a spool folder, under a hard ceiling of bytes (P6).
//!
//! A job asks for room before it writes ([`Store::reserve`]) and publishes afterwards
//! ([`Store::commit`]). `used` counts every committed file and every reservation from before its
//! first byte is written until after its file is unlinked, so the folder never holds more than the
//! ceiling. When there is no room, what is kept for a chance goes first, then files that were sent
//! whole (oldest first; never the init, header or playlist of a session that still runs), then files
//! of ended sessions; otherwise the job waits. A file that is being read is never dropped.
//!
//! Lock order: the store's lock is a leaf, nothing else is taken while it is held.

mod room;
mod spool;

pub use room::{Reservation, part_name};
pub use spool::Spool;
pub(crate) use spool::random_id;

use crate::config::StoreConfig;
use parking_lot::Mutex;
use plexbeam_api::{
    FileName, Id, Kind, Problem, Segment,
    segment::{Digest, SegmentKind},
};
use std::{
    collections::{BTreeMap, HashMap},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::Notify;

/// A session's part of the store. Unlike a session's id it is never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShelfId(u64);

/// All finished files of all sessions.
#[derive(Debug)]
pub struct Store {
    config: StoreConfig,
    folder: PathBuf,
    inner: Mutex<Inner>,
    room: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    /// Bytes of committed files and reservations; on disk never more than the ceiling.
    used: u64,
    /// Next shelf and file number.
    next: u64,
    /// Counts fetches, so that they have an order.
    clock: u64,
    shelves: BTreeMap<ShelfId, Shelf>,
}

#[derive(Debug)]
struct Shelf {
    dir: PathBuf,
    entries: HashMap<FileName, Entry>,
    /// Names in the order of their first publication.
    order: Vec<FileName>,
    ended: bool,
    /// Kept for a chance only: its files are the first to go.
    spare: bool,
    touched: Instant,
}

#[derive(Debug)]
struct Entry {
    segment: Segment,
    path: PathBuf,
    /// Unlinked, or about to be; its bytes may be counted a moment longer.
    dropped: bool,
    /// Bytes sent without a gap from the start, by any number of requests.
    sent_to: u64,
    /// [`Inner::clock`] when the last byte was sent.
    fetched: Option<u64>,
    readers: u32,
}

impl Entry {
    fn pinned(&self, shelf_ended: bool) -> bool {
        !shelf_ended && self.segment.kind != SegmentKind::Media
    }
}

/// What became of a name.
#[derive(Debug)]
pub enum Lookup {
    /// It can be read.
    Held(Box<Reading>),
    /// It was published and dropped since.
    Dropped,
    /// It was never published.
    Unknown,
}

/// A file that is being read; it is not dropped before this value is.
#[derive(Debug)]
pub struct Reading {
    store: Arc<Store>,
    shelf: ShelfId,
    segment: Segment,
    path: PathBuf,
}

impl Reading {
    /// What the file is.
    pub fn segment(&self) -> &Segment {
        &self.segment
    }

    /// Where its bytes are.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Says that the bytes `from..to` were handed to the network.
    pub fn sent(&self, from: u64, to: u64) {
        let mut inner = self.store.inner.lock();
        inner.clock += 1;
        let clock = inner.clock;
        let entry = inner
            .shelves
            .get_mut(&self.shelf)
            .and_then(|shelf| shelf.entries.get_mut(&self.segment.name))
            .filter(|entry| entry.path == self.path);
        if let Some(entry) = entry {
            if from <= entry.sent_to {
                entry.sent_to = entry.sent_to.max(to);
            }
            if entry.sent_to >= entry.segment.size {
                entry.fetched = Some(clock);
            }
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        {
            let mut inner = self.store.inner.lock();
            if let Some(shelf) = inner.shelves.get_mut(&self.shelf) {
                shelf.touched = Instant::now();
                if let Some(entry) = shelf.entries.get_mut(&self.segment.name)
                    && entry.path == self.path
                {
                    entry.readers = entry.readers.saturating_sub(1);
                }
            }
        }
        self.store.room.notify_waiters();
    }
}

impl Store {
    /// A store over an empty folder.
    pub fn new(config: StoreConfig, folder: PathBuf) -> Arc<Self> {
        Arc::new(Store {
            config,
            folder,
            inner: Mutex::default(),
            room: Notify::new(),
        })
    }

    /// Bytes counted now.
    pub fn used(&self) -> u64 {
        self.inner.lock().used
    }

    /// Makes the folder of a session.
    pub fn open_shelf(&self, session: &Id) -> io::Result<(ShelfId, PathBuf)> {
        self.new_shelf(session, false)
    }

    /// Makes a folder for files that may go whenever there is no room, and for which no others go;
    /// [`Store::share`] fills it.
    pub fn open_spare_shelf(&self, name: &Id) -> io::Result<ShelfId> {
        Ok(self.new_shelf(name, true)?.0)
    }

    fn new_shelf(&self, session: &Id, spare: bool) -> io::Result<(ShelfId, PathBuf)> {
        let mut inner = self.inner.lock();
        inner.next += 1;
        let id = ShelfId(inner.next);
        let dir = self.folder.join(format!("{:06}-{session}", id.0));
        std::fs::create_dir(&dir)?;
        inner.shelves.insert(
            id,
            Shelf {
                dir: dir.clone(),
                entries: HashMap::new(),
                order: Vec::new(),
                ended: spare,
                spare,
                touched: Instant::now(),
            },
        );
        Ok((id, dir))
    }

    /// Makes a written file readable under its name. Errors: `Internal` when the bytes on disk are
    /// not what was announced or the name was published before (a playlist may be).
    pub fn commit(&self, reservation: Reservation, segment: &Segment) -> Result<(), Problem> {
        self.put(reservation, segment, |before| {
            before.is_none_or(|before| before.segment.kind == SegmentKind::Playlist)
        })
    }

    /// The same for a file that was dropped and is made again. Errors: also where it is there.
    pub fn restore(&self, reservation: Reservation, segment: &Segment) -> Result<(), Problem> {
        self.put(reservation, segment, |before| {
            before.is_some_and(|before| before.dropped)
        })
    }

    /// Puts a file that is held in one shelf into another as well, under the same name, if there is
    /// room now. Its bytes are on disk once and counted twice. Errors: `Gone` where it is not held any
    /// more, `Exhausted`, those of [`Store::commit`].
    pub fn share(
        self: &Arc<Self>,
        from: ShelfId,
        segment: &Segment,
        to: ShelfId,
    ) -> Result<(), Problem> {
        let name = &segment.name;
        let held = match self.read(from, name) {
            Lookup::Held(reading) if reading.segment.digest == segment.digest => reading,
            Lookup::Held(_) | Lookup::Dropped | Lookup::Unknown => return Err(shelf_gone()),
        };
        let reservation = self
            .reserve_now(to, name, segment.size)?
            .ok_or_else(|| Problem::new(Kind::Exhausted, format!("no room for {name} now")))?;
        let linked = reservation.path();
        std::fs::hard_link(&held.path, linked).map_err(|error| {
            Problem::new(
                Kind::Internal,
                format!("{name} could not be linked: {error}"),
            )
        })?;
        self.commit(reservation, segment)
    }

    fn put(
        &self,
        mut reservation: Reservation,
        segment: &Segment,
        may_follow: impl FnOnce(Option<&Entry>) -> bool,
    ) -> Result<(), Problem> {
        let path = reservation.path();
        let on_disk = std::fs::metadata(&path).map(|meta| meta.len()).ok();
        if segment.size != reservation.bytes() || on_disk != Some(segment.size) {
            return Err(Problem::new(
                Kind::Internal,
                format!(
                    "{} was announced with {} bytes, granted {}, and has {on_disk:?} on disk",
                    segment.name,
                    segment.size,
                    reservation.bytes()
                ),
            ));
        }
        let replaced = {
            let mut inner = self.inner.lock();
            let shelf = inner
                .shelves
                .get_mut(&reservation.shelf)
                .ok_or_else(shelf_gone)?;
            let entry = Entry {
                segment: segment.clone(),
                path,
                dropped: false,
                sent_to: 0,
                fetched: None,
                readers: 0,
            };
            let before = shelf.entries.get(&segment.name);
            if !may_follow(before) {
                return Err(Problem::new(
                    Kind::Internal,
                    format!("{} was published twice", segment.name),
                ));
            }
            if before.is_none() {
                shelf.order.push(segment.name.clone());
            }
            shelf.entries.insert(segment.name.clone(), entry)
        };
        reservation.committed = true;
        if let Some(before) = replaced.filter(|before| !before.dropped) {
            remove_file(&before.path);
            self.give_back(before.segment.size);
        }
        Ok(())
    }

    /// Opens a name for reading.
    pub fn read(self: &Arc<Self>, shelf: ShelfId, name: &FileName) -> Lookup {
        let mut inner = self.inner.lock();
        let Some(found) = inner.shelves.get_mut(&shelf) else {
            return Lookup::Unknown;
        };
        found.touched = Instant::now();
        match found.entries.get_mut(name) {
            None => Lookup::Unknown,
            Some(entry) if entry.dropped => Lookup::Dropped,
            Some(entry) => {
                entry.readers += 1;
                Lookup::Held(Box::new(Reading {
                    store: self.clone(),
                    shelf,
                    segment: entry.segment.clone(),
                    path: entry.path.clone(),
                }))
            }
        }
    }

    /// The files that can be read, in the order of their publication.
    pub fn list(&self, shelf: ShelfId) -> Vec<Segment> {
        let mut inner = self.inner.lock();
        let Some(shelf) = inner.shelves.get_mut(&shelf) else {
            return Vec::new();
        };
        shelf.touched = Instant::now();
        shelf
            .order
            .iter()
            .filter_map(|name| shelf.entries.get(name))
            .filter(|entry| !entry.dropped)
            .map(|entry| entry.segment.clone())
            .collect()
    }

    /// All that was ever published, and the names among it that were dropped.
    pub fn published(&self, shelf: ShelfId) -> (Vec<Segment>, Vec<FileName>) {
        let inner = self.inner.lock();
        let Some(shelf) = inner.shelves.get(&shelf) else {
            return Default::default();
        };
        let entries = || {
            shelf
                .order
                .iter()
                .filter_map(|name| shelf.entries.get(name))
        };
        (
            entries().map(|entry| entry.segment.clone()).collect(),
            entries()
                .filter(|entry| entry.dropped)
                .map(|entry| entry.segment.name.clone())
                .collect(),
        )
    }

    /// Digest of a name as last published, dropped or not.
    pub fn digest(&self, shelf: ShelfId, name: &FileName) -> Option<Digest> {
        let inner = self.inner.lock();
        let entry = inner.shelves.get(&shelf)?.entries.get(name)?;
        Some(entry.segment.digest.clone())
    }

    /// Somebody looked at this session: its retention starts anew.
    pub fn touch(&self, shelf: ShelfId) {
        if let Some(shelf) = self.inner.lock().shelves.get_mut(&shelf) {
            shelf.touched = Instant::now();
        }
    }

    /// Time since the last access; `None` when the shelf is gone.
    pub fn untouched(&self, shelf: ShelfId) -> Option<Duration> {
        let inner = self.inner.lock();
        inner.shelves.get(&shelf).map(|s| s.touched.elapsed())
    }

    /// The session of this shelf ended: what it holds may be dropped for others.
    pub fn end(&self, shelf: ShelfId) {
        if let Some(shelf) = self.inner.lock().shelves.get_mut(&shelf) {
            shelf.ended = true;
        }
        self.room.notify_waiters();
    }

    /// Removes a shelf with all its files. Its writer must be gone: call after the job's end.
    /// Blocks on the disk.
    pub fn remove(&self, shelf: ShelfId) {
        let Some(gone) = self.inner.lock().shelves.remove(&shelf) else {
            return;
        };
        if let Err(error) = std::fs::remove_dir_all(&gone.dir) {
            tracing::warn!(dir = %gone.dir.display(), %error, "a session's folder could not be removed");
        }
        let bytes = gone
            .entries
            .values()
            .filter(|entry| !entry.dropped)
            .map(|entry| entry.segment.size)
            .sum();
        self.give_back(bytes);
    }
}

fn shelf_gone() -> Problem {
    Problem::new(Kind::Gone, "the session has ended and its files are gone")
}

fn remove_file(path: &Path) {
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "a spool file could not be removed");
    }
}

#[cfg(test)]
mod tests;
