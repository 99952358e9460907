//! What outlives an instance: files that a later one takes over, and the folder's tidiness.

use super::{
    CacheFile, FileKey, Flight, Rank, SegmentCache, Want,
    arriving::{Written, give_up},
    check::blocking,
    file::{PART, named},
    room::on_disk,
    shelf::Entry,
};
use crate::remote::{FetchError, RemoteFile};
use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering},
};
use tokio::sync::watch;

impl SegmentCache {
    /// Takes over the file that an earlier instance kept, if it is there and there is room.
    /// `living`: that instance still runs and has checked it; else it is checked before its first
    /// use.
    pub fn adopt(&self, file: &RemoteFile, rank: Rank, owner: u64, living: bool) -> bool {
        let path = self.dir.join(named(file));
        let size = file.size();
        let Ok(left) = CacheFile::left(path.clone(), size) else {
            return false;
        };
        let Some(room) = self.free_room(size) else {
            return false;
        };
        let adopted = CacheFile::adopted(left, path, size, living, room);
        let mut shelf = self.shelf.lock();
        let order = shelf.next_order;
        shelf.next_order += 1;
        let entry = Entry {
            file: Arc::new(adopted),
            origin: file.origin.clone(),
            rank,
            owner: Some(owner),
            order,
        };
        let before = shelf.entries.put(FileKey::of(file), entry);
        drop(shelf);
        drop(before);
        true
    }

    /// Unlinks everything in the folder that is not kept here.
    pub fn tidy(&self) {
        let kept: HashSet<std::ffi::OsString> = {
            let shelf = self.shelf.lock();
            let paths = shelf.entries.iter().map(|(_, entry)| entry.file.name());
            paths.flatten().collect()
        };
        let Ok(names) = std::fs::read_dir(&self.dir) else {
            return;
        };
        for name in names.flatten() {
            let is_file = name.file_type().is_ok_and(|kind| kind.is_file());
            // Downloads of this instance may be under way.
            let ours = !self.flights.lock().is_empty()
                && name
                    .file_name()
                    .as_encoded_bytes()
                    .starts_with(PART.as_bytes());
            if is_file && !ours && !kept.contains(&name.file_name()) {
                // It can be tried again at the next start.
                let _ = std::fs::remove_file(name.path());
            }
        }
    }

    /// Starts the check of an adopted file; `None` when there is none to check.
    pub(super) fn check_adopted(self: &Arc<Self>, file: &Arc<RemoteFile>) -> Option<Flight> {
        let key = FileKey::of(file);
        let mut flights = self.flights.lock();
        if let Some(flight) = flights.get(&key) {
            return Some(flight.clone());
        }
        let left = {
            let shelf = self.shelf.lock();
            shelf.entries.peek(&key)?.file.clone()
        };
        let (tell, outcome) = watch::channel(None);
        let (progress, written) = watch::channel(None);
        let flight = Flight { outcome, written };
        flights.insert(key, flight.clone());
        let (cache, file) = (self.clone(), file.clone());
        tokio::spawn(async move {
            let outcome = cache.checked(left, &file, &progress).await;
            if outcome.is_err() {
                give_up(&progress);
            }
            if outcome.is_ok() {
                cache.flights.lock().remove(&key);
            } else {
                cache.land(&file, &outcome);
            }
            // Nobody may wait any more.
            let _ = tell.send(Some(outcome));
        });
        Some(flight)
    }

    /// The adopted file, or a fetched one in its place.
    async fn checked(
        self: &Arc<Self>,
        left: Arc<CacheFile>,
        file: &Arc<RemoteFile>,
        progress: &watch::Sender<Written>,
    ) -> Result<Arc<CacheFile>, FetchError> {
        let segment = file.segment();
        let (left, right) = blocking(move || {
            let right = left.is_checked() || left.check(&segment);
            Ok((left, right))
        })
        .await?;
        if right {
            return Ok(left);
        }
        let (session, name) = (&file.origin.session, &file.name);
        tracing::warn!(%session, %name, "a file of an earlier start is damaged, fetching it again");
        let key = FileKey::of(file);
        let before = self.shelf.lock().entries.pop(&key);
        let placed = before.as_ref().map(|entry| (entry.rank, entry.owner));
        drop((before, left));
        let Some(room) = self.try_room(file.size(), Want::Spare) else {
            return Err(FetchError::Local("no room for a damaged file".into()));
        };
        let fetched = self.attempts(file, room, progress).await?;
        self.land(file, &Ok(fetched.clone()));
        if let Some((rank, owner)) = placed {
            self.set_rank(&key, rank, owner);
        }
        Ok(fetched)
    }

    /// Gives the folder to a later instance: names stay, nothing new is kept. Gives the bytes that
    /// this one goes on using and that the later one cannot take over; they fall as readers close.
    pub fn hand_over(&self) -> u64 {
        self.ledger.handed.store(true, Ordering::Release);
        let mut dropped = Vec::new();
        let adoptable = {
            let mut shelf = self.shelf.lock();
            let keys: Vec<FileKey> = shelf
                .entries
                .iter()
                .filter(|(_, entry)| entry.owner.is_none() && entry.is_closed())
                .map(|(key, _)| *key)
                .collect();
            for key in keys {
                dropped.extend(shelf.entries.pop(&key));
            }
            let mut adoptable = 0;
            for (_, entry) in shelf.entries.iter() {
                entry.file.keep_name();
                if entry.owner.is_some() {
                    adoptable += on_disk(entry.file.size());
                }
            }
            adoptable
        };
        drop(dropped);
        self.usage().used.saturating_sub(adoptable)
    }

    /// Takes the folder back: the later instance did not come up.
    pub fn take_back(&self) {
        for (_, entry) in self.shelf.lock().entries.iter() {
            entry.file.lose_name();
        }
        self.ledger.handed.store(false, Ordering::Release);
        self.ledger.freed.notify_waiters();
    }

    /// Files of live bindings keep their names for the next start.
    pub fn keep_bound(&self) {
        for (_, entry) in self.shelf.lock().entries.iter() {
            if entry.owner.is_some() {
                entry.file.keep_name();
            }
        }
    }
}
