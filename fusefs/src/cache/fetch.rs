//! Downloads: how often a file is tried, from where it goes on after a break, and how many at a time.

use super::{
    Boarded, CacheFile, FileKey, Flight, Rank, Room, SegmentCache,
    arriving::{Written, give_up},
    check::{Check, Sink, blocking},
    file::{self, named},
    shelf::Entry,
};
use crate::remote::{FetchError, RemoteFile};
use futures_util::{FutureExt as _, future};
use std::{sync::Arc, time::Duration};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// Downloads of a damaged file before it counts as absent.
const ATTEMPTS_ON_DAMAGE: u32 = 3;
/// Pauses between attempts at an unreachable worker: doubled from the first up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(3);
/// Downloads at a time from one worker. Each has in memory what is being hashed and what waits for that,
/// some 512 KiB each at most, and the last bytes that came; with the HTTP client's buffers and what the
/// allocator keeps of all this, 3 MiB were seen.
const DOWNLOADS: usize = 8;

impl SegmentCache {
    pub(super) fn board(self: &Arc<Self>, file: &Arc<RemoteFile>, room: Room) -> Boarded {
        let key = FileKey::of(file);
        let mut flights = self.flights.lock();
        if let Some(hit) = self.get(&key) {
            return Boarded::Here(hit);
        }
        if let Some(flight) = flights.get(&key) {
            return Boarded::Coming(flight.clone());
        }
        let (tell, outcome) = watch::channel(None);
        let (progress, written) = watch::channel(None);
        let flight = Flight { outcome, written };
        flights.insert(key, flight.clone());
        let (cache, file) = (self.clone(), file.clone());
        tokio::spawn(async move {
            let outcome = cache.attempts(&file, room, &progress).await;
            if outcome.is_err() {
                give_up(&progress);
            }
            cache.land(&file, &outcome);
            // Nobody may wait any more.
            let _ = tell.send(Some(outcome));
        });
        Boarded::Coming(flight)
    }

    pub(super) fn land(&self, remote: &RemoteFile, outcome: &Result<Arc<CacheFile>, FetchError>) {
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
            shelf.entries.put(key, entry);
        }
        flights.remove(&key);
    }

    pub(super) async fn attempts(
        &self,
        file: &RemoteFile,
        mut room: Room,
        progress: &watch::Sender<Written>,
    ) -> Result<Arc<CacheFile>, FetchError> {
        let mut attempt = 1;
        let mut pause = FIRST_PAUSE;
        let mut begun = None;
        let mut evicted = room.evicted();
        loop {
            let place = self.place(file).await;
            let downloaded = self
                .download(file, progress, std::mem::take(&mut evicted), begun.take())
                .await;
            drop(place);
            let (error, rest) = match downloaded {
                Ok((sink, part)) => {
                    let (path, size) = (self.dir.join(named(file)), file.size());
                    let made = move || Ok(CacheFile::new(sink, part, path, size, room));
                    return blocking(made).await.map(Arc::new);
                }
                Err(broken) => broken,
            };
            match error {
                FetchError::Damaged(what) => {
                    give_up(progress);
                    if attempt == ATTEMPTS_ON_DAMAGE {
                        return Err(error);
                    }
                    attempt += 1;
                    let (session, name) = (&file.origin.session, &file.name);
                    tracing::warn!(%session, %name, what, "damaged on the way, fetching again");
                }
                error if error.is_passing() && pause < MAX_PAUSE => {
                    tracing::debug!(session = %file.origin.session, %error, "fetching on");
                    begun = rest;
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                error => return Err(error),
            }
        }
    }

    async fn place(&self, file: &RemoteFile) -> Option<OwnedSemaphorePermit> {
        let places = {
            let mut places = self.places.lock();
            let new = || Arc::new(Semaphore::new(DOWNLOADS));
            places.entry(file.origin.worker).or_insert_with(new).clone()
        };
        // It is never closed.
        places.acquire_owned().await.ok()
    }

    /// Downloads a file, or the rest of one, when what was `evicted` for it is gone. What came before a
    /// break goes on next time.
    async fn download(
        &self,
        file: &RemoteFile,
        progress: &watch::Sender<Written>,
        evicted: Vec<CacheFile>,
        begun: Option<Check>,
    ) -> Result<Sink, (FetchError, Option<Check>)> {
        let over = |error: FetchError| (error, None);
        let (range, check) = match begun {
            Some(check) => (check.rest(), future::ready(Ok(check)).left_future()),
            None => {
                let (dir, check) = (self.dir.clone(), Check::new(file, Some(progress.clone())));
                let sink = blocking(move || {
                    drop(evicted);
                    Ok(file::part_in(&dir)?)
                });
                let begun = async move { Ok(check.onto(sink.await)) };
                (None, begun.right_future())
            }
        };
        let body = match self.source.open(file, range).await {
            Ok(body) => body,
            Err(error) => return Err((error, check.await.ok())),
        };
        let from = range.map_or(0, |(from, _)| from);
        let sink = Check::all(Some(progress), file.size(), from, check, body).await?;
        sink.map_err(over)
    }

    /// Checks the bytes of a file that cannot be kept.
    pub async fn examine(&self, file: &RemoteFile) -> Result<(), FetchError> {
        let _place = self.place(file).await;
        let body = self.source.open(file, None).await?;
        let check = future::ready(Ok(Check::new(file, None)));
        let checked = Check::all(None, file.size(), 0, check, body).await;
        checked.map(drop).map_err(|(error, _)| error)
    }
}
