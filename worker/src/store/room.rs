//! Who gets room for a file, and what goes for it.
//!
//! The rules are those of [`super`]: the one place where files are chosen to be dropped is
//! [`Store::plan`].

use super::{ShelfId, Store, remove_file, shelf_gone};
use plexbeam_api::{FileName, Kind, Problem};
use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

/// Room for one file. Dropping it uncommitted removes what was written and gives the room back.
#[derive(Debug)]
pub struct Reservation {
    store: Arc<Store>,
    pub(super) shelf: ShelfId,
    pub(super) dir: PathBuf,
    file: String,
    bytes: u64,
    pub(super) committed: bool,
}

impl Reservation {
    /// Name on disk, relative to the shelf's folder. The writer first writes `.NAME.part`, then
    /// renames it.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Where the finished file lies.
    pub(super) fn path(&self) -> PathBuf {
        self.dir.join(&self.file)
    }

    /// Bytes granted.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// Name under which a file is written before it is whole.
pub fn part_name(file: &str) -> String {
    format!(".{file}.part")
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.committed {
            return;
        }
        remove_file(&self.dir.join(part_name(&self.file)));
        remove_file(&self.path());
        self.store.give_back(self.bytes);
    }
}

enum Plan {
    /// Room was taken.
    Taken,
    /// Room was taken for when these are unlinked; then give `freed` back.
    Unlink { victims: Vec<PathBuf>, freed: u64 },
    /// Nothing may be dropped now.
    Wait,
}

impl Store {
    /// Takes room for `bytes`, dropping or waiting as the module says. Errors: `Exhausted` when
    /// the file can never fit or nothing became free within the patience; `Gone` when the shelf is
    /// removed meanwhile. Dropping the future gives up and leaves no trace.
    pub async fn reserve(
        self: &Arc<Self>,
        shelf: ShelfId,
        name: &FileName,
        bytes: u64,
    ) -> Result<Reservation, Problem> {
        let deadline = tokio::time::Instant::now() + self.config.patience;
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            if let Some(taken) = self.reserve_now(shelf, name, bytes)? {
                return Ok(taken);
            }
            // The second is for graces that end without an event.
            let next = tokio::time::Instant::now() + Duration::from_secs(1);
            tokio::select! {
                () = room => {}
                () = tokio::time::sleep_until(next.min(deadline)) => {}
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(Problem::new(
                    Kind::Exhausted,
                    format!(
                        "no room in the spool for {name} ({bytes} bytes of {}) and nobody \
                         fetched a segment for {} s; raise --spool-size",
                        self.config.ceiling,
                        self.config.patience.as_secs()
                    ),
                ));
            }
        }
    }

    /// [`Store::reserve`] where that needs no waiting; `None` where it does.
    pub(super) fn reserve_now(
        self: &Arc<Self>,
        shelf: ShelfId,
        name: &FileName,
        bytes: u64,
    ) -> Result<Option<Reservation>, Problem> {
        match self.plan(shelf, name, bytes)? {
            Plan::Taken => {}
            Plan::Unlink { victims, freed } => {
                for path in &victims {
                    remove_file(path);
                }
                self.give_back(freed);
            }
            Plan::Wait => return Ok(None),
        }
        self.reservation(shelf, name, bytes).map(Some)
    }

    fn reservation(
        self: &Arc<Self>,
        shelf: ShelfId,
        name: &FileName,
        bytes: u64,
    ) -> Result<Reservation, Problem> {
        let mut inner = self.inner.lock();
        inner.next += 1;
        let file = format!("{:08}-{name}", inner.next);
        match inner.shelves.get(&shelf) {
            Some(found) => Ok(Reservation {
                store: self.clone(),
                shelf,
                dir: found.dir.clone(),
                file,
                bytes,
                committed: false,
            }),
            None => {
                inner.used = inner.used.saturating_sub(bytes);
                Err(shelf_gone())
            }
        }
    }

    fn plan(&self, shelf: ShelfId, name: &FileName, bytes: u64) -> Result<Plan, Problem> {
        let ceiling = self.config.ceiling;
        let mut inner = self.inner.lock();
        let own = inner.shelves.get(&shelf).ok_or_else(shelf_gone)?;
        let for_a_chance = own.spare;
        let pinned: u64 = own
            .entries
            .values()
            .filter(|entry| !entry.dropped && entry.pinned(own.ended))
            .map(|entry| entry.segment.size)
            .sum();
        if bytes.saturating_add(pinned) > ceiling {
            return Err(Problem::new(
                Kind::Exhausted,
                format!(
                    "{name} has {bytes} bytes and the whole spool only {ceiling}; raise \
                     --spool-size or ask for shorter segments"
                ),
            ));
        }
        if inner.used + bytes <= ceiling {
            inner.used += bytes;
            return Ok(Plan::Taken);
        }
        let need = inner.used + bytes - ceiling;
        // Fetched before not fetched, then by age: of the fetch, or of the last look at an ended
        // session.
        let now = Instant::now();
        let mut candidates: Vec<((bool, u64, ShelfId), FileName, u64)> = Vec::new();
        for (&id, shelf) in &inner.shelves {
            let untouched = now.saturating_duration_since(shelf.touched);
            let stale = shelf.ended && untouched >= self.config.grace;
            if for_a_chance && !shelf.spare {
                continue;
            }
            for entry in shelf.entries.values() {
                if entry.dropped || entry.readers > 0 || entry.pinned(shelf.ended) {
                    continue;
                }
                let rank = match entry.fetched {
                    _ if shelf.spare => (false, 0, id),
                    Some(clock) => (false, clock, id),
                    None if stale => (true, u64::MAX - untouched.as_micros() as u64, id),
                    None => continue,
                };
                candidates.push((rank, entry.segment.name.clone(), entry.segment.size));
            }
        }
        candidates.sort();
        let mut freed = 0;
        let mut chosen = 0;
        while freed < need && chosen < candidates.len() {
            freed += candidates[chosen].2;
            chosen += 1;
        }
        if freed < need {
            return Ok(Plan::Wait);
        }
        let mut victims = Vec::with_capacity(chosen);
        for ((_, _, id), name, _) in candidates.into_iter().take(chosen) {
            let shelf = inner.shelves.get_mut(&id);
            if let Some(entry) = shelf.and_then(|shelf| shelf.entries.get_mut(&name)) {
                entry.dropped = true;
                victims.push(entry.path.clone());
            }
        }
        // Counted twice until they are unlinked, so that nobody else takes what they leave.
        inner.used += bytes;
        Ok(Plan::Unlink { victims, freed })
    }

    pub(super) fn give_back(&self, bytes: u64) {
        {
            let mut inner = self.inner.lock();
            inner.used = inner.used.saturating_sub(bytes);
        }
        self.room.notify_waiters();
    }
}
