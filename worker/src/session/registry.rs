//! All sessions: who is let in, who waits, who is paused and who is freed.

use super::{Session, Verdict, again::Turn, beginning::Beginnings, runner};
use crate::{
    child::Spawner,
    config::{ChildConfig, Secret, SessionConfig},
    device::Ladder,
    input::InputPolicy,
    store::{ShelfId, Store},
};
use parking_lot::Mutex;
use plexbeam_api::{
    Id, JobSpec, Kind, Problem, SessionState, SessionStatus,
    event::{LogLine, WorkerEvent},
    job::LeasePolicy,
    segment::Digest,
};
use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};
use tokio::sync::{broadcast, watch};

/// Freed sessions whose tokens are remembered, so that ending one twice is no error.
const MAX_TOMBSTONES: usize = 1024;
/// Events that a slow listener may lag behind before its connection is closed.
const BUS_DEPTH: usize = 4096;

/// Jobs by what they do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Running, paused and draining.
    pub active: u32,
    /// Waiting for a place.
    pub queued: u32,
    /// Places.
    pub max_jobs: u32,
}

/// All sessions of a worker.
#[derive(Debug)]
pub struct Registry {
    config: SessionConfig,
    child: ChildConfig,
    store: Arc<Store>,
    beginnings: Beginnings,
    spawner: Arc<Spawner>,
    bus: broadcast::Sender<WorkerEvent>,
    inner: Mutex<Inner>,
    /// Children that run.
    running: watch::Sender<u32>,
    /// Set once the devices are proved; until then the processor does everything.
    ladder: OnceLock<Ladder>,
    turn: Turn,
    me: Weak<Registry>,
}

#[derive(Debug, Default)]
struct Inner {
    sessions: HashMap<Id, Arc<Session>>,
    /// Submission order of [`Inner::sessions`].
    order: Vec<Id>,
    queue: VecDeque<Arc<Session>>,
    running: u32,
    draining: bool,
    tombstones: VecDeque<(Id, Secret)>,
    speed: Option<f64>,
}

/// A place among the running jobs; it is free again when this is dropped, whatever happened.
struct Place {
    registry: Arc<Registry>,
    session: Arc<Session>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let lost = Problem::new(Kind::Internal, "the job's runner ended without an outcome");
        self.session.enter(SessionState::Failed, Some(lost));
        self.session.idle.send_replace(true);
        {
            let mut inner = self.registry.inner.lock();
            inner.running -= 1;
            let ended = self.session.live.lock();
            if ended.state == SessionState::Completed
                && let Some(speed) = ended.speed
            {
                inner.speed = Some(inner.speed.map_or(speed, |mean| 0.7 * mean + 0.3 * speed));
            }
            self.registry.running.send_replace(inner.running);
        }
        self.registry.pump();
    }
}

impl Registry {
    /// An empty registry.
    pub fn new(
        config: SessionConfig,
        child: ChildConfig,
        store: Arc<Store>,
        spawner: Arc<Spawner>,
    ) -> Arc<Self> {
        Arc::new_cyclic(|me| Registry {
            beginnings: Beginnings::new(store.clone(), config.beginnings),
            config,
            child,
            store,
            spawner,
            bus: broadcast::channel(BUS_DEPTH).0,
            inner: Mutex::default(),
            running: watch::channel(0).0,
            ladder: OnceLock::new(),
            turn: Turn::new(),
            me: me.clone(),
        })
    }

    /// Takes the devices that jobs may use. Once; a second call changes nothing.
    pub fn set_ladder(&self, ladder: Ladder) {
        let _ = self.ladder.set(ladder);
    }

    pub(super) fn store(&self) -> &Arc<Store> {
        &self.store
    }

    pub(super) fn spawner(&self) -> &Arc<Spawner> {
        &self.spawner
    }

    pub(super) fn child(&self) -> &ChildConfig {
        &self.child
    }

    pub(super) fn policy(&self) -> &InputPolicy {
        &self.config.policy
    }

    pub(super) fn turn(&self) -> &Turn {
        &self.turn
    }

    /// Events of all sessions from now on.
    pub fn listen(&self) -> broadcast::Receiver<WorkerEvent> {
        self.bus.subscribe()
    }

    /// Takes a job; `notes` are the first lines of its log. The same job again is the same session.
    /// Errors: `Conflict` (same id, other job), `Unavailable` (draining), `Exhausted` (queue full).
    pub fn submit(&self, spec: JobSpec, notes: Vec<LogLine>) -> Result<Arc<Session>, Problem> {
        let body = Digest::of(&serde_json::to_vec(&spec).map_err(|error| {
            Problem::new(
                Kind::InvalidArgument,
                format!("the job has no JSON form: {error}"),
            )
        })?);
        let watched = matches!(spec.lease, LeasePolicy::Owner { .. });
        let session = {
            let mut inner = self.inner.lock();
            if let Some(known) = inner.sessions.get(&spec.job_id) {
                if known.body == body {
                    return Ok(known.clone());
                }
                return Err(Problem::new(
                    Kind::Conflict,
                    format!(
                        "job {} exists with another body; choose another id or end that session",
                        spec.job_id
                    ),
                )
                .at("job_id"));
            }
            if inner.draining {
                return Err(leaving());
            }
            if inner.running >= self.config.max_jobs
                && inner.queue.len() >= self.config.max_queue as usize
            {
                return Err(Problem::new(
                    Kind::Exhausted,
                    format!(
                        "all {} places and all {} places of the queue are taken",
                        self.config.max_jobs, self.config.max_queue
                    ),
                ));
            }
            let id = spec.job_id.clone();
            let shelf = self.store.open_shelf(&id).map_err(|error| {
                Problem::new(
                    Kind::Internal,
                    format!("the session's folder could not be made: {error}"),
                )
            })?;
            let session = Session::new(spec, body, shelf, self.store.clone(), self.bus.clone());
            inner.sessions.insert(id.clone(), session.clone());
            inner.order.push(id);
            inner.queue.push_back(session.clone());
            session
        };
        for line in notes {
            session.note(line);
        }
        if watched && let Some(registry) = self.me.upgrade() {
            tokio::spawn(watch_lease(registry, session.clone()));
        }
        self.pump();
        Ok(session)
    }

    /// Starts what has a place.
    fn pump(&self) {
        let Some(registry) = self.me.upgrade() else {
            return;
        };
        let mut inner = self.inner.lock();
        while inner.running < self.config.max_jobs {
            let Some(session) = inner.queue.pop_front() else {
                break;
            };
            // Taken before the state, so that who ends it from now on waits for the runner.
            session.idle.send_replace(false);
            let fresh = std::mem::take(&mut session.live.lock().fresh);
            if !(fresh && session.enter(SessionState::Running, None)) {
                session.idle.send_replace(true);
                continue;
            }
            inner.running += 1;
            self.running.send_replace(inner.running);
            let place = Place {
                registry: registry.clone(),
                session,
            };
            tokio::spawn(run(place));
        }
        for (place, session) in inner.queue.iter().enumerate() {
            session.live.lock().queue_place = Some(place as u64 + 1);
        }
    }

    /// The session of this id.
    pub fn get(&self, id: &Id) -> Result<Arc<Session>, Problem> {
        self.inner
            .lock()
            .sessions
            .get(id)
            .cloned()
            .ok_or_else(|| Problem::new(Kind::NotFound, format!("no session {id}")))
    }

    /// True when this token is that of this session, living or freed lately.
    pub fn opens(&self, id: &Id, token: &[u8]) -> bool {
        let inner = self.inner.lock();
        match inner.sessions.get(id) {
            Some(session) => session.token.is(token),
            None => inner
                .tombstones
                .iter()
                .any(|(freed, secret)| freed == id && secret.is(token)),
        }
    }

    /// All sessions, in the order of their submission.
    pub fn list(&self) -> Vec<SessionStatus> {
        let sessions: Vec<_> = {
            let inner = self.inner.lock();
            let known = inner.order.iter().filter_map(|id| inner.sessions.get(id));
            known.cloned().collect()
        };
        sessions.iter().map(|session| session.status()).collect()
    }

    /// How many do what.
    pub fn counts(&self) -> Counts {
        let inner = self.inner.lock();
        Counts {
            active: inner.running,
            queued: inner.queue.len() as u32,
            max_jobs: self.config.max_jobs,
        }
    }

    /// Media seconds per wall second over the last completed jobs.
    pub fn speed(&self) -> Option<f64> {
        self.inner.lock().speed
    }

    /// Cancels a job; its session and what it made stay. Again, or after its end: nothing.
    pub fn cancel(&self, id: &Id) -> Result<(), Problem> {
        match self.get(id) {
            Ok(session) => {
                self.unqueue(&session);
                session.cancel(Problem::new(Kind::Cancelled, "cancelled by request"));
                Ok(())
            }
            Err(_) if self.is_freed(id) => Ok(()),
            Err(problem) => Err(problem),
        }
    }

    /// Ends a session and frees its files. Again: nothing.
    pub fn free(&self, id: &Id) -> Result<(), Problem> {
        match self.get(id) {
            Ok(session) => {
                let why = Problem::new(Kind::Cancelled, "the session was ended by request");
                self.free_session(&session, why);
                Ok(())
            }
            Err(_) if self.is_freed(id) => Ok(()),
            Err(problem) => Err(problem),
        }
    }

    fn is_freed(&self, id: &Id) -> bool {
        let inner = self.inner.lock();
        inner.tombstones.iter().any(|(freed, _)| freed == id)
    }

    fn unqueue(&self, session: &Arc<Session>) {
        let mut inner = self.inner.lock();
        inner.queue.retain(|queued| !Arc::ptr_eq(queued, session));
        for (place, session) in inner.queue.iter().enumerate() {
            session.live.lock().queue_place = Some(place as u64 + 1);
        }
    }

    fn free_session(&self, session: &Arc<Session>, why: Problem) {
        self.unqueue(session);
        session.cancel(why);
        {
            let mut inner = self.inner.lock();
            let id = &session.id;
            if !inner
                .sessions
                .get(id)
                .is_some_and(|known| Arc::ptr_eq(known, session))
            {
                return;
            }
            inner.sessions.remove(id);
            inner.order.retain(|known| known != id);
            if inner.tombstones.len() == MAX_TOMBSTONES {
                inner.tombstones.pop_front();
            }
            let tombstone = (id.clone(), session.token.clone());
            inner.tombstones.push_back(tombstone);
        }
        let _ = self.bus.send(WorkerEvent::Ended {
            session: session.id.clone(),
        });
        let (session, store) = (session.clone(), self.store.clone());
        tokio::spawn(async move {
            session.until_idle().await;
            session.makings.end().await;
            remove_shelf(store, session.shelf).await;
        });
    }

    /// No new jobs; queued ones end; running ones may finish.
    pub fn drain(&self) {
        let (queued, others) = {
            let mut inner = self.inner.lock();
            inner.draining = true;
            let queued: Vec<_> = inner.queue.drain(..).collect();
            let others: Vec<_> = inner.sessions.values().cloned().collect();
            (queued, others)
        };
        for session in queued {
            session.cancel(leaving());
        }
        for session in others {
            session.enter(SessionState::Draining, None);
            session.want(|wanted| wanted.paused = false);
        }
    }

    /// True after [`Registry::drain`].
    pub fn is_draining(&self) -> bool {
        self.inner.lock().draining
    }

    /// Cancels all jobs; with `kill` their children are killed at once.
    pub fn cancel_all(&self, kill: bool) {
        let all: Vec<_> = self.inner.lock().sessions.values().cloned().collect();
        for session in all {
            session.cancel(leaving());
            if kill {
                session.want(|wanted| wanted.kill = true);
            }
        }
    }

    /// Returns when no child runs.
    pub async fn idle(&self) {
        let mut running = self.running.subscribe();
        // The sender lives in self.
        let _ = running.wait_for(|running| *running == 0).await;
    }

    /// Frees ended sessions that nobody looked at for the retention, and the oldest above the
    /// bound, for ever. Run it as a task of its own.
    pub async fn reap(self: Arc<Self>) {
        let pause =
            (self.config.retention / 4).clamp(Duration::from_millis(50), Duration::from_secs(60));
        loop {
            tokio::time::sleep(pause).await;
            let sessions: Vec<_> = {
                let inner = self.inner.lock();
                let known = inner.order.iter().filter_map(|id| inner.sessions.get(id));
                known.cloned().collect()
            };
            let ended: Vec<_> = sessions.iter().filter(|s| s.has_ended()).collect();
            let surplus = ended.len().saturating_sub(self.config.max_ended);
            for (place, session) in ended.into_iter().enumerate() {
                let untouched = self.store.untouched(session.shelf);
                if place < surplus || untouched.is_none_or(|t| t >= self.config.retention) {
                    let why = Problem::new(Kind::Cancelled, "not looked at for too long");
                    self.free_session(session, why);
                }
            }
        }
    }
}

fn leaving() -> Problem {
    Problem::new(
        Kind::Unavailable,
        "the worker is stopping and takes no jobs",
    )
}

async fn remove_shelf(store: Arc<Store>, shelf: ShelfId) {
    // Only a panic or the runtime's end can lose the task; at the end the spool is emptied anyway.
    let _ = tokio::task::spawn_blocking(move || store.remove(shelf)).await;
}

async fn run(place: Place) {
    let registry = &place.registry;
    let means = runner::Means {
        store: &registry.store,
        beginnings: &registry.beginnings,
        spawner: &registry.spawner,
        child: &registry.child,
        policy: &registry.config.policy,
        fast_start: registry.config.fast_start,
        ladder: registry.ladder.get(),
    };
    let outcome = runner::run(&place.session, &means, &place.session.order).await;
    match outcome {
        runner::Outcome::Done => {}
        runner::Outcome::Failed(problem) => {
            place.session.enter(SessionState::Failed, Some(problem));
        }
        runner::Outcome::Cancelled => {
            let why = Problem::new(Kind::Cancelled, "the job was cancelled");
            place.session.enter(SessionState::Cancelled, Some(why));
        }
    }
}

/// Pauses a session whose owner is unheard, lets it go on when heard, frees it at last. A task per
/// session with an owner; it ends with the session.
async fn watch_lease(registry: Arc<Registry>, session: Arc<Session>) {
    loop {
        let news = session.lease_news.notified();
        tokio::pin!(news);
        news.as_mut().enable();
        if session.has_ended() {
            return;
        }
        let verdict = session.live.lock().lease.verdict();
        let again = match verdict {
            Verdict::Run(again) => {
                session.pause(false);
                again
            }
            Verdict::Pause(again) => {
                session.pause(true);
                Some(again)
            }
            Verdict::Free => {
                let why = Problem::new(Kind::Cancelled, "the job's owner was not heard any more");
                registry.free_session(&session, why);
                return;
            }
        };
        match again {
            Some(wait) => {
                tokio::select! {
                    () = news => {}
                    () = tokio::time::sleep(wait) => {}
                }
            }
            None => news.await,
        }
    }
}
