//! Sessions: one per job, from its submission until its files are freed.
//!
//! [`Session`] is the state machine and the event history of one; [`Registry`] has all of them, the
//! places, the queue, and the rules of who is let in, paused and freed.
//!
//! Lock order: registry, then session, then store. None is held over an await.

mod again;
mod beginning;
mod history;
mod lease;
mod names;
mod registry;
mod runner;

pub use history::Numbered;
pub use registry::{Counts, Registry};

use crate::{
    config::Secret,
    store::{Lookup, Reading, ShelfId, Store},
};
use history::History;
use lease::{Lease, Verdict};
use names::Names;
use parking_lot::Mutex;
use plexbeam_api::{
    Event, FileName, Id, JobSpec, Kind, Problem, Segment, SessionState, SessionStatus,
    event::{LogLevel, LogLine, Probed, Progress, StateChange, WorkerEvent},
    segment::{Digest, SegmentKind},
};
use std::{path::PathBuf, sync::Arc, time::SystemTime};
use tokio::sync::{Notify, broadcast, watch};

/// What the runner of a session shall make its child do. Levels, not orders: the runner tells the
/// child of differences.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Wanted {
    paused: bool,
    throttled: bool,
    cancel: bool,
    kill: bool,
}

/// One session.
#[derive(Debug)]
pub struct Session {
    id: Id,
    token: Secret,
    /// Of the job in one canonical form: the same job again has the same.
    body: Digest,
    created_at: u64,
    names: Names,
    shelf: ShelfId,
    store: Arc<Store>,
    /// The job and its folder.
    order: (Arc<JobSpec>, PathBuf),
    makings: again::Makings,
    live: Mutex<Live>,
    /// Number of the newest event.
    news: watch::Sender<u64>,
    lease_news: Notify,
    wanted: watch::Sender<Wanted>,
    /// No child runs any more, or ever will.
    idle: watch::Sender<bool>,
    bus: broadcast::Sender<WorkerEvent>,
}

#[derive(Debug)]
struct Live {
    state: SessionState,
    problem: Option<Problem>,
    progress: Progress,
    speed: Option<f64>,
    segments: u64,
    device: Option<String>,
    queue_place: Option<u64>,
    history: History,
    lease: Lease,
    /// No child has taken the job yet.
    fresh: bool,
}

/// True for the arrows of [`SessionState`]'s documentation.
fn may_follow(from: SessionState, to: SessionState) -> bool {
    use SessionState::{Cancelled, Completed, Draining, Failed, Paused, Queued, Running};
    match from {
        Queued => matches!(to, Running | Failed | Cancelled),
        Running => matches!(to, Paused | Draining | Completed | Failed | Cancelled),
        Paused => matches!(to, Running | Draining | Completed | Failed | Cancelled),
        Draining => matches!(to, Completed | Failed | Cancelled),
        Completed | Failed | Cancelled => false,
    }
}

impl Session {
    fn new(
        spec: JobSpec,
        body: Digest,
        shelf: (ShelfId, PathBuf),
        store: Arc<Store>,
        bus: broadcast::Sender<WorkerEvent>,
    ) -> Arc<Self> {
        let (shelf, dir) = shelf;
        let session = Session {
            id: spec.job_id.clone(),
            token: Secret::random(),
            body,
            created_at: SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
            names: Names::of(&spec),
            shelf,
            store,
            live: Mutex::new(Live {
                state: SessionState::Queued,
                problem: None,
                progress: Progress::default(),
                speed: None,
                segments: 0,
                device: None,
                queue_place: None,
                history: History::default(),
                lease: Lease::new(spec.lease),
                fresh: true,
            }),
            order: (Arc::new(spec), dir),
            makings: again::Makings::default(),
            news: watch::channel(0).0,
            lease_news: Notify::new(),
            wanted: watch::channel(Wanted::default()).0,
            idle: watch::channel(true).0,
            bus,
        };
        let change = StateChange {
            state: SessionState::Queued,
            problem: None,
        };
        session.apply(&mut session.live.lock(), Event::State(change));
        Arc::new(session)
    }

    /// Its id, which is its job's too.
    pub fn id(&self) -> &Id {
        &self.id
    }

    /// What opens its own routes.
    pub fn token(&self) -> &Secret {
        &self.token
    }

    /// State for `/status` and lists.
    pub fn status(&self) -> SessionStatus {
        self.status_of(&self.live.lock())
    }

    fn status_of(&self, live: &Live) -> SessionStatus {
        SessionStatus {
            job_id: self.id.clone(),
            session: self.id.clone(),
            state: live.state,
            progress: live.progress.clone(),
            segments: live.segments,
            device: live.device.clone(),
            error: live.problem.clone(),
            queue_place: live.queue_place,
            created_at: self.created_at,
        }
    }

    /// True once nothing more will be published.
    pub fn has_ended(&self) -> bool {
        self.live.lock().state.is_end()
    }

    /// Finished files that can be read.
    pub fn files(&self) -> Vec<Segment> {
        self.store.list(self.shelf)
    }

    /// A file to read, or the reason why not: `NotYet`, `Gone`, `NotFound`.
    pub fn read(&self, name: &FileName) -> Result<Box<Reading>, Problem> {
        // The state is read first: a file published between the two looks is found by the second.
        let ended = self.has_ended();
        match self.store.read(self.shelf, name) {
            Lookup::Held(reading) => Ok(reading),
            Lookup::Dropped => Err(Problem::new(
                Kind::Gone,
                format!("{name} was dropped from the spool"),
            )),
            Lookup::Unknown if !ended && self.names.may_be(name.as_str()) => Err(Problem::new(
                Kind::NotYet,
                format!("{name} is not complete yet"),
            )),
            Lookup::Unknown => Err(Problem::new(
                Kind::NotFound,
                format!("session {} has no file {name}", self.id),
            )),
        }
    }

    /// Events after number `seen`, and whether no more will come.
    pub fn events_after(&self, seen: u64) -> (Vec<Numbered>, bool) {
        self.store.touch(self.shelf);
        let live = self.live.lock();
        (live.history.after(seen), live.state.is_end())
    }

    /// Wakes at each new event; holds the newest's number.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// Pacing on or off; it holds for the rest of the job.
    pub fn throttle(&self, on: bool) {
        self.want(|wanted| wanted.throttled = on);
    }

    /// The owner says that it is alive.
    pub fn beat(&self) {
        self.live.lock().lease.beat();
        self.lease_news.notify_one();
    }

    /// Somebody asked for the state, which renews a lease that has no connection.
    pub fn polled(&self) {
        self.live.lock().lease.polled();
        self.store.touch(self.shelf);
        self.lease_news.notify_one();
    }

    /// The lease lasts while the returned value does (and see [`Session::beat`]).
    pub fn hold_lease(self: &Arc<Self>) -> LeaseConnection {
        self.live.lock().lease.connected();
        self.lease_news.notify_one();
        LeaseConnection(self.clone())
    }

    /// Writes a line into the session's history.
    fn note(&self, line: LogLine) {
        self.record(Event::Log(line));
    }

    /// Inputs and device are open. Told once: after a device that failed then, the next one only
    /// changes what encodes.
    fn probed(&self, probed: Probed) {
        let first = self.live.lock().device.is_none();
        if first {
            self.record(Event::Probed(probed));
            return;
        }
        self.note(LogLine {
            level: LogLevel::Info,
            message: format!("encoding by {} now", probed.device),
        });
        self.live.lock().device = Some(probed.device);
    }

    /// Takes an event of the child; false when the session has ended and it is dropped.
    fn record(&self, event: Event) -> bool {
        let mut live = self.live.lock();
        if live.state.is_end() {
            return false;
        }
        self.apply(&mut live, event);
        true
    }

    /// Goes to another state; false when there is no such arrow.
    fn enter(&self, state: SessionState, problem: Option<Problem>) -> bool {
        let mut live = self.live.lock();
        if !may_follow(live.state, state) {
            return false;
        }
        self.apply(&mut live, Event::State(StateChange { state, problem }));
        true
    }

    fn apply(&self, live: &mut Live, event: Event) {
        let mut published = None;
        match &event {
            Event::Probed(probed) => live.device = Some(probed.device.clone()),
            Event::Progress(progress) => {
                live.progress = progress.clone();
                live.speed = progress.speed.or(live.speed);
            }
            Event::Segment(segment) => {
                if segment.kind == SegmentKind::Media {
                    live.segments += 1;
                }
                published = Some(segment.clone());
            }
            Event::Log(_) => {}
            Event::State(change) => {
                live.state = change.state;
                live.problem = change.problem.clone();
                if change.state != SessionState::Queued {
                    live.queue_place = None;
                }
                if change.state.is_end() {
                    live.fresh = false;
                    self.store.end(self.shelf);
                }
                let problem = change.problem.as_ref().map(|p| p.detail.as_str());
                tracing::info!(session = %self.id, state = ?change.state, problem, "session");
            }
        }
        let is_state = matches!(event, Event::State(_));
        let number = live.history.push(event);
        // Nobody listens to the bus: no error.
        if let Some(segment) = published {
            let session = self.id.clone();
            let _ = self.bus.send(WorkerEvent::Segment { session, segment });
        }
        if is_state {
            let _ = self
                .bus
                .send(WorkerEvent::Session(Box::new(self.status_of(live))));
            self.lease_news.notify_one();
        }
        self.news.send_replace(number);
    }

    fn want(&self, change: impl FnOnce(&mut Wanted)) {
        self.wanted.send_modify(change);
    }

    /// Ends it for this reason, unless it has ended; the child goes soon after.
    fn cancel(&self, why: Problem) {
        self.enter(SessionState::Cancelled, Some(why));
        self.want(|wanted| wanted.cancel = true);
    }

    /// Holds a running job or lets a held one go on.
    fn pause(&self, on: bool) {
        let (from, to) = if on {
            (SessionState::Running, SessionState::Paused)
        } else {
            (SessionState::Paused, SessionState::Running)
        };
        if self.live.lock().state == from && self.enter(to, None) {
            self.want(|wanted| wanted.paused = on);
        }
    }

    /// Waits until no child of this session runs.
    async fn until_idle(&self) {
        let mut idle = self.idle.subscribe();
        // The sender lives in self.
        let _ = idle.wait_for(|idle| *idle).await;
    }
}

/// An open connection that is a session's lease.
#[derive(Debug)]
pub struct LeaseConnection(Arc<Session>);

impl Drop for LeaseConnection {
    fn drop(&mut self) {
        self.0.live.lock().lease.disconnected();
        self.0.lease_news.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use SessionState::*;

    #[test]
    fn an_end_is_final_and_every_state_can_end() {
        for end in [Completed, Failed, Cancelled] {
            for to in [
                Queued, Running, Paused, Draining, Completed, Failed, Cancelled,
            ] {
                assert!(!may_follow(end, to));
            }
        }
        for from in [Queued, Running, Paused, Draining] {
            assert!(may_follow(from, Failed) && may_follow(from, Cancelled));
        }
        assert!(!may_follow(Queued, Paused) && !may_follow(Draining, Paused));
    }
}
