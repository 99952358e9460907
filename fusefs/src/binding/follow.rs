//! Holding a session's files in the order of their announcement, as long as there is room.
//!
//! Without room the fetching stops; the worker's spool fills, and its encoder pauses. It goes on
//! when the reader does.

use super::{BoundDir, pattern::fits};
use crate::{
    cache::{Room, Want},
    remote::{FetchError, HttpSource, RemoteFile, Session, learn, renew},
};
use std::{sync::Arc, time::Duration};

/// Attempts to tell a worker that a session is over; its lease ends it anyway.
const END_ATTEMPTS: u32 = 5;
/// Longest pause between two attempts at a file whose worker does not answer.
const MAX_PAUSE: Duration = Duration::from_secs(3);
/// While there is no room: how often it is looked at whether the reader has nothing left.
const STARVATION_CHECK: Duration = Duration::from_secs(1);

impl BoundDir {
    /// True when a file of this session is wanted and not held yet.
    fn wants(&self, file: &RemoteFile) -> bool {
        let name = file.name.as_str();
        let state = self.state.lock();
        !state.held.contains_key(name)
            && !state.removed.contains(name)
            && state.patterns.iter().any(|pattern| fits(pattern, name))
    }

    /// True when nothing is left to read but segments of this number: the reader cannot go on, and
    /// so can free no room, before this one is shown.
    fn is_starving(&self, number: Option<u32>) -> bool {
        let state = self.state.lock();
        state.unread.iter().all(|name| {
            state
                .held
                .get(name)
                .is_none_or(|held| held.file.segment().number == number)
        })
    }

    /// Room for a file, in turn; while there is none, the directory says so.
    async fn room(&self, file: &RemoteFile) -> Option<Room> {
        let room = self.wait_room(file).await;
        self.set_full(false);
        room
    }

    /// Room for a file. `None` when it is to be shown without being kept: it is bigger
    /// than the ceiling, or the reader would wait for ever.
    async fn wait_room(&self, file: &RemoteFile) -> Option<Room> {
        let cache = &self.context.cache;
        let segment = file.segment();
        if cache.is_too_big(segment.size) {
            return None;
        }
        let mut starved = false;
        let start = tokio::time::Instant::now() + STARVATION_CHECK;
        let mut check = tokio::time::interval_at(start, STARVATION_CHECK);
        loop {
            let freed = cache.freed();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if let Some(room) = cache.try_room(segment.size, Want::Share(self.uid)) {
                return Some(room);
            }
            self.set_full(true);
            tokio::select! {
                () = freed => {}
                _ = check.tick() => {
                    // Twice in a row: a reader between two files is not starving.
                    let starving = self.is_starving(segment.number);
                    if std::mem::replace(&mut starved, starving) && starving {
                        return None;
                    }
                }
            }
        }
    }

    /// Holds one file and shows it. Ends when it is shown or will never be.
    async fn hold(self: Arc<Self>, epoch: u64, mut file: Arc<RemoteFile>, mut room: Option<Room>) {
        let cache = &self.context.cache;
        let mut pause = Duration::from_millis(200);
        loop {
            let outcome = match room.take() {
                Some(room) => cache.fetch(&file, room).await.map(Some),
                None => cache.examine(&file).await.map(|()| None),
            };
            let outcome = match outcome {
                // Nobody was told of it yet, so that any making will do.
                Err(FetchError::Replaced) => {
                    let (source, catalog) = (&*self.context.source, &self.context.catalog);
                    match renew(source, catalog, &file).await {
                        Ok(present) => {
                            file = present;
                            Err(FetchError::Busy)
                        }
                        Err(error) => Err(error),
                    }
                }
                other => other,
            };
            let (session, name) = (&file.origin.session, &file.name);
            match outcome {
                // The cache file stays while `_here` lives, so its rank is set in time.
                Ok(_here) => return self.publish(epoch, &file),
                Err(FetchError::Local(error)) => {
                    tracing::warn!(%session, %name, %error, "cannot keep the file, showing it uncached");
                    room = None;
                    continue;
                }
                Err(error) if error.is_passing() => {
                    tracing::debug!(%session, %name, %error, "not fetched, trying on");
                }
                Err(error) => {
                    tracing::error!(%session, %name, %error, "the file will not be shown");
                    return self.give_up(epoch, &file);
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
            room = self.room(&file).await;
        }
    }
}

/// Follows a session for one epoch of a binding. Ends with the session; aborted with the epoch.
pub(super) async fn follow(bound: Arc<BoundDir>, session: Arc<Session>, epoch: u64) {
    let mut version = session.watch();
    {
        let (source, session) = (bound.context.source.clone(), session.clone());
        // The binding's first files need not wait for the event stream.
        bound
            .context
            .runtime
            .spawn(async move { learn(&source, &session).await });
    }
    // Aborted with this task.
    let mut downloads = tokio::task::JoinSet::new();
    let mut position = 0;
    loop {
        version.mark_unchanged();
        let files = session.since(position);
        position += files.len();
        for file in files {
            if !bound.wants(&file) {
                continue;
            }
            if file.is_mutable() {
                bound.publish(epoch, &file);
                continue;
            }
            while downloads.len() >= bound.context.parallel {
                downloads.join_next().await;
            }
            let room = bound.room(&file).await;
            downloads.spawn(bound.clone().hold(epoch, file, room));
        }
        while downloads.try_join_next().is_some() {}
        if session.is_gone() {
            break;
        }
        if version.changed().await.is_err() {
            break;
        }
    }
    while downloads.join_next().await.is_some() {}
}

/// Tells the worker that a session is over.
pub(super) async fn end(source: Arc<HttpSource>, session: Arc<Session>) {
    let mut pause = Duration::from_millis(200);
    for _ in 0..END_ATTEMPTS {
        match source.end(&session.origin).await {
            Ok(()) => return,
            Err(error) => {
                tracing::debug!(session = %session.origin.session, %error, "cannot end the session");
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(MAX_PAUSE);
    }
    tracing::warn!(session = %session.origin.session, "left to its lease: its worker does not answer");
}
