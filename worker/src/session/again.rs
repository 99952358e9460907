//! Dropped files made again on demand (DESIGN 4): whoever asks for one waits a moment for it.
//!
//! One number of a session is made by one child at a time, whoever asks; over all sessions one child
//! at a time makes files again, beside the places of the jobs, so that neither starves the other. The
//! frames are those of the first time, the bytes need not be: then it is another file, with an
//! `ETag` and a `Repr-Digest` of its own, and who asks for the first one by `If-Match` is refused.

use super::{
    Registry, Session,
    runner::{Room, breach, grant},
};
use crate::{
    child::message::{FromChild, JobOrder, ToChild},
    pipeline::Again,
    store::Reading,
};
use parking_lot::Mutex;
use plexbeam_api::{FileName, Kind, Problem};
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio::{
    sync::{RwLock, Semaphore, watch},
    time::{Instant, timeout, timeout_at},
};

/// Longest that one request for a dropped file waits; then it is told to come again. Shorter than the
/// mount's own deadline of a read.
const WAIT: Duration = Duration::from_secs(15);
/// Longest that one making may take, the wait for its turn included.
const LIMIT: Duration = Duration::from_secs(300);

type Outcome = Option<Result<(), Problem>>;
type Key = (u32, u32);

/// What of a session is being made again.
#[derive(Debug, Default)]
pub(super) struct Makings {
    /// By output and number.
    running: Mutex<HashMap<Key, watch::Receiver<Outcome>>>,
    /// Read while a child writes into the session's folder.
    writing: RwLock<()>,
    /// The session is freed: no more, and what runs ends.
    over: watch::Sender<bool>,
}

impl Makings {
    /// Ends what runs and waits until nothing is written any more.
    pub(super) async fn end(&self) {
        self.over.send_replace(true);
        drop(self.writing.write().await);
    }
}

/// The one turn for making files again.
#[derive(Debug)]
pub(super) struct Turn(Semaphore);

impl Turn {
    pub(super) fn new() -> Self {
        Turn(Semaphore::new(1))
    }
}

/// Takes the entry out whatever happens, and tells the outcome.
struct Running {
    session: Arc<Session>,
    key: Key,
    tell: watch::Sender<Outcome>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.session.makings.running.lock().remove(&self.key);
        self.tell.send_if_modified(|outcome| {
            let lost = || Problem::new(Kind::Internal, "the making ended without an outcome");
            outcome.get_or_insert_with(|| Err(lost()));
            true
        });
    }
}

impl Registry {
    /// A file to read; one that was dropped is made again first. Errors: those of
    /// [`Session::read`]; `Gone` where it cannot be made again, with the reason; `Unavailable` while
    /// it is still being made.
    pub async fn read(
        self: &Arc<Self>,
        session: &Arc<Session>,
        name: &FileName,
    ) -> Result<Box<Reading>, Problem> {
        let deadline = Instant::now() + WAIT;
        loop {
            match session.read(name) {
                Err(problem) if problem.kind == Kind::Gone => {}
                other => return other,
            }
            let mut outcome = self.start_again(session, name)?;
            let told = timeout_at(deadline, outcome.wait_for(Option::is_some)).await;
            let result = match told {
                Ok(Ok(outcome)) => outcome.clone().unwrap_or(Ok(())),
                Ok(Err(_)) => Ok(()),
                Err(_) => {
                    return Err(Problem::new(
                        Kind::Unavailable,
                        format!("{name} was dropped and is being made again; ask again"),
                    ));
                }
            };
            result.map_err(|problem| gone(name, &problem.detail))?;
        }
    }

    /// Joins the making of this file, or starts it.
    fn start_again(
        self: &Arc<Self>,
        session: &Arc<Session>,
        name: &FileName,
    ) -> Result<watch::Receiver<Outcome>, Problem> {
        if self.is_draining() {
            return Err(gone(name, "the worker is stopping"));
        }
        let (published, dropped) = self.store().published(session.shelf);
        let Some(again) = Again::of(&published, name, &dropped) else {
            return Err(gone(name, "it is not of a kind that can be"));
        };
        let key = (again.output, again.number);
        let mut running = session.makings.running.lock();
        if let Some(other) = running.get(&key) {
            return Ok(other.clone());
        }
        let (tell, hear) = watch::channel(None);
        running.insert(key, hear.clone());
        let making = Running {
            session: session.clone(),
            key,
            tell,
        };
        let registry = self.clone();
        tokio::spawn(async move {
            let outcome = timeout(LIMIT, registry.make(&making.session, again))
                .await
                .unwrap_or_else(|_| {
                    Err(Problem::new(
                        Kind::Deadline,
                        format!("it took longer than {} s", LIMIT.as_secs()),
                    ))
                });
            if let Err(problem) = &outcome {
                let session = &making.session.id;
                tracing::warn!(%session, number = key.1, %problem, "a file could not be made again");
            }
            making.tell.send_replace(Some(outcome));
        });
        Ok(hear)
    }

    /// Runs a child that makes the files. Dropped, it kills the child.
    async fn make(&self, session: &Session, again: Again) -> Result<(), Problem> {
        let _turn = self.turn().0.acquire().await;
        let _writing = session.makings.writing.read().await;
        let mut over = session.makings.over.subscribe();
        let (number, output) = (again.number, again.output);
        tokio::select! {
            made = self.follow(session, again) => {
                made?;
                tracing::info!(session = %session.id, output, number, "made again");
                Ok(())
            }
            _ = over.wait_for(|over| *over) => {
                Err(Problem::new(Kind::Gone, "the session was ended"))
            }
        }
    }

    async fn follow(&self, session: &Session, again: Again) -> Result<(), Problem> {
        let config = self.child();
        let (spec, dir) = &session.order;
        let order = ToChild::Job(Box::new(JobOrder {
            spec: spec.as_ref().clone(),
            policy: self.policy().clone(),
            dir: dir.clone(),
            again: Some(again),
            // Parameter sets are in-band: the processor may make what a device had made.
            device: None,
            fast_start: false,
        }));
        let mut process = self.spawner().take().await?;
        // A spare that died while it was parked: once more, with a fresh one.
        if process.send(&order).await.is_err() {
            process = self.spawner().take().await?;
            process.send(&order).await.map_err(|error| {
                Problem::new(Kind::Internal, format!("no process took it: {error}"))
            })?;
        }
        let mut room = Room::None;
        loop {
            let message = tokio::select! {
                message = timeout(config.silence, process.recv()) => message,
                granted = grant(&mut room) => {
                    let answer = match granted {
                        Ok(file) => ToChild::Granted { file },
                        Err(problem) => ToChild::Refused { problem },
                    };
                    if process.send(&answer).await.is_ok() {
                        continue;
                    }
                    Ok(None)
                }
            };
            let Ok(message) = message else {
                return Err(Problem::new(
                    Kind::Deadline,
                    "its process gave no sign of life",
                ));
            };
            match message {
                Some(
                    FromChild::Ready
                    | FromChild::Alive
                    | FromChild::Opened { .. }
                    | FromChild::Event(_),
                ) => {}
                Some(FromChild::Reserve { name, bytes }) => {
                    if !matches!(room, Room::None) {
                        return Err(breach("a second wish for room"));
                    }
                    let (store, shelf, wanted) =
                        (self.store().clone(), session.shelf, name.clone());
                    let pending = async move { store.reserve(shelf, &wanted, bytes).await };
                    room = Room::Wanted(name, Box::pin(pending));
                }
                Some(FromChild::Published(segment)) => match std::mem::take(&mut room) {
                    Room::Granted(name, reservation) if name == segment.name => {
                        self.store().restore(reservation, &segment)?;
                    }
                    Room::None | Room::Wanted(..) | Room::Granted(..) => {
                        return Err(breach("a file without room"));
                    }
                },
                Some(FromChild::Done) => {
                    let _ = process.reap(config.cancel_grace).await;
                    return Ok(());
                }
                Some(FromChild::Failed(problem)) => return Err(problem),
                None => {
                    let status = process.reap(config.cancel_grace).await;
                    return Err(process.obituary(status).await);
                }
            }
        }
    }
}

fn gone(name: &FileName, why: &str) -> Problem {
    Problem::new(
        Kind::Gone,
        format!("{name} was dropped from the spool and not made again: {why}"),
    )
}
