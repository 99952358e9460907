//! What the workers have, as their event streams tell it. Reading it never waits.

use super::{Origin, Session};
use crate::config::WorkerUrl;
use parking_lot::Mutex;
use plexbeam_api::{Id, Segment, SessionStatus, mount::WorkerRow};
use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, OnceLock, mpsc},
    time::{Duration, Instant},
};
use tokio::sync::Notify;

/// A name that the kernel may remember and that is not what it was.
#[derive(Debug)]
pub enum Stale {
    /// A session of `sessions/` is gone.
    Session(Id),
    /// A file of the upper directory with these numbers of device and inode is another now.
    Held(u64, u64, String),
}

#[derive(Debug, Default)]
struct Known {
    id: Option<Id>,
    boot: Option<Id>,
    sessions: HashMap<Id, Arc<Session>>,
    ended: Ended,
    health: Health,
}

/// Most ended sessions that are remembered for words that come late.
const ENDED: usize = 256;

/// Sessions that ended on the present connection, the last ones: late words must not bring them back.
/// A listing under way may name any of them, so that meanwhile none is forgotten.
#[derive(Debug, Default)]
struct Ended {
    known: HashSet<Id>,
    in_order: VecDeque<Id>,
    listing: bool,
}

impl Ended {
    fn add(&mut self, id: &Id) {
        if self.known.insert(id.clone()) {
            self.in_order.push_back(id.clone());
        }
        self.trim();
    }

    fn remove(&mut self, id: &Id) {
        if self.known.remove(id) {
            self.in_order.retain(|other| other != id);
        }
    }

    fn trim(&mut self) {
        while !self.listing && self.in_order.len() > ENDED {
            if let Some(oldest) = self.in_order.pop_front() {
                self.known.remove(&oldest);
            }
        }
    }
}

#[derive(Debug, Default)]
struct Health {
    answered: Option<Instant>,
    asked: bool,
    ok: bool,
    free: u32,
    error: Option<String>,
}

/// One configured worker.
#[derive(Debug)]
pub struct Worker {
    url: WorkerUrl,
    known: Mutex<Known>,
}

/// All workers.
#[derive(Debug)]
pub struct Catalog {
    workers: Vec<Worker>,
    /// Age after which an answer to `/health` no longer counts.
    stale: Duration,
    stale_names: OnceLock<mpsc::Sender<Stale>>,
    health_seen: Notify,
}

impl Catalog {
    /// Nothing known yet of these workers.
    pub fn new(urls: &[WorkerUrl], health_every: Duration) -> Arc<Self> {
        let workers = urls.iter().map(|url| Worker {
            url: url.clone(),
            known: Mutex::default(),
        });
        Arc::new(Catalog {
            workers: workers.collect(),
            stale: health_every * 4,
            stale_names: OnceLock::new(),
            health_seen: Notify::new(),
        })
    }

    /// Where names are told that the kernel must not remember; once.
    pub fn tell_stale(&self, to: mpsc::Sender<Stale>) {
        // A second receiver would be a fault of the composition; the first one stays.
        let _ = self.stale_names.set(to);
    }

    /// The kernel must not remember this name.
    pub fn is_stale(&self, name: Stale) {
        if let Some(to) = self.stale_names.get() {
            // The receiver ends only with the mount.
            let _ = to.send(name);
        }
    }

    fn ended(&self, session: &Session) {
        session.set_gone();
        self.is_stale(Stale::Session(session.origin.session.clone()));
    }

    /// The session that a file comes from, while its worker has it.
    pub fn of(&self, origin: &Origin) -> Option<Arc<Session>> {
        let known = self.workers[origin.worker].known.lock();
        let session = known.sessions.get(&origin.session)?;
        (session.origin.uid == origin.uid).then(|| session.clone())
    }

    /// Position of the worker with this id.
    pub fn worker(&self, id: &Id) -> Option<usize> {
        self.workers
            .iter()
            .position(|worker| worker.known.lock().id.as_ref() == Some(id))
    }

    /// Position of the worker with this URL.
    pub fn position(&self, url: &str) -> Option<usize> {
        self.workers
            .iter()
            .position(|worker| worker.url.as_str() == url)
    }

    /// Takes a worker for what it was to an earlier instance, until it says who it is.
    pub fn presume(&self, worker: usize, id: &Id, boot: Option<&Id>) {
        let mut known = self.workers[worker].known.lock();
        known.id.get_or_insert_with(|| id.clone());
        if known.boot.is_none() {
            known.boot = boot.cloned();
        }
    }

    /// URL of a worker, and which of its starts it is.
    pub fn identity(&self, worker: usize) -> (WorkerUrl, Option<Id>) {
        let worker = &self.workers[worker];
        (worker.url.clone(), worker.known.lock().boot.clone())
    }

    /// The session, known already or not.
    pub fn session(&self, worker: usize, id: &Id) -> Arc<Session> {
        let mut known = self.workers[worker].known.lock();
        known
            .sessions
            .entry(id.clone())
            .or_insert_with(|| Session::new(worker, id.clone()))
            .clone()
    }

    /// The session that `sessions/` shows under this name: the first worker's that has it.
    pub fn shown(&self, name: &str) -> Option<Arc<Session>> {
        let id: Id = name.parse().ok()?;
        self.workers.iter().find_map(|worker| {
            let session = worker.known.lock().sessions.get(&id).cloned()?;
            session.is_shown().then_some(session)
        })
    }

    /// All names under `sessions/`.
    pub fn shown_names(&self) -> Vec<Id> {
        let mut names: Vec<Id> = Vec::new();
        for worker in &self.workers {
            let known = worker.known.lock();
            let shown = known
                .sessions
                .iter()
                .filter(|(_, session)| session.is_shown());
            names.extend(shown.map(|(id, _)| id.clone()));
        }
        names.sort();
        names.dedup();
        names
    }

    /// The `uid`s of all sessions that the workers have.
    pub fn uids(&self) -> HashSet<u64> {
        let mut uids = HashSet::new();
        for worker in &self.workers {
            let known = worker.known.lock();
            uids.extend(known.sessions.values().map(|session| session.origin.uid));
        }
        uids
    }

    /// A connection began. Gives the sessions that the coming listing must name, else they are
    /// gone.
    pub(super) fn hello(&self, worker: usize, id: Id, boot: &Id) -> Vec<Id> {
        let lost = {
            let mut known = self.workers[worker].known.lock();
            known.ended = Ended {
                listing: true,
                ..Ended::default()
            };
            known.id = Some(id);
            if known
                .boot
                .replace(boot.clone())
                .is_some_and(|before| before != *boot)
            {
                std::mem::take(&mut known.sessions)
            } else {
                HashMap::new()
            }
        };
        for session in lost.values() {
            self.ended(session);
        }
        self.workers[worker]
            .known
            .lock()
            .sessions
            .keys()
            .cloned()
            .collect()
    }

    /// What the worker listed. A session's files must be in before its status, because an end
    /// state says that no further file comes.
    pub(super) fn listed(&self, worker: usize, status: SessionStatus, files: Vec<Segment>) {
        let session = {
            let mut known = self.workers[worker].known.lock();
            if known.ended.known.contains(&status.session) {
                return;
            }
            let id = status.session.clone();
            known
                .sessions
                .entry(id.clone())
                .or_insert_with(|| Session::new(worker, id))
                .clone()
        };
        for segment in files {
            session.add(segment);
        }
        // The listing may be older than an end that the event stream told meanwhile.
        if !session.is_over() {
            session.set_status(status);
        }
    }

    /// The listing that follows a connection's begin is in.
    pub(super) fn all_listed(&self, worker: usize) {
        let mut known = self.workers[worker].known.lock();
        known.ended.listing = false;
        known.ended.trim();
    }

    /// The worker told of a session's state. One that ended may come again under its id, but not by
    /// a late word of its end.
    pub(super) fn status(&self, worker: usize, status: SessionStatus) {
        {
            let mut known = self.workers[worker].known.lock();
            if known.ended.known.contains(&status.session) {
                if status.state.is_end() {
                    return;
                }
                known.ended.remove(&status.session);
            }
        }
        self.session(worker, &status.session).set_status(status);
    }

    /// The worker told of a file.
    pub(super) fn segment(&self, worker: usize, session: &Id, segment: Segment) {
        if !self.workers[worker]
            .known
            .lock()
            .ended
            .known
            .contains(session)
        {
            self.session(worker, session).add(segment);
        }
    }

    /// The worker dropped a session.
    pub(super) fn end(&self, worker: usize, id: &Id) {
        let session = {
            let mut known = self.workers[worker].known.lock();
            known.ended.add(id);
            known.sessions.remove(id)
        };
        if let Some(session) = session {
            self.ended(&session);
        }
    }

    /// An answer to `/health`, or why there was none.
    pub(super) fn health(&self, worker: usize, answer: Result<(Option<Id>, bool, u32), String>) {
        {
            let mut known = self.workers[worker].known.lock();
            known.health.asked = true;
            match answer {
                Ok((id, ok, free)) => {
                    known.health.answered = Some(Instant::now());
                    known.health.ok = ok && id.is_some();
                    known.health.free = free;
                    known.health.error = match (&id, ok) {
                        (None, _) => Some("refuses our key".into()),
                        (_, false) => Some("is draining or of another version".into()),
                        (_, true) => None,
                    };
                    if id.is_some() {
                        known.id = id;
                    }
                }
                Err(error) => {
                    known.health.ok = false;
                    known.health.error = Some(error);
                }
            }
        }
        self.health_seen.notify_waiters();
    }

    /// Returns when each worker was asked once, or failed to answer once.
    pub async fn all_asked(&self) {
        loop {
            let seen = self.health_seen.notified();
            tokio::pin!(seen);
            seen.as_mut().enable();
            if self
                .workers
                .iter()
                .all(|worker| worker.known.lock().health.asked)
            {
                return;
            }
            seen.await;
        }
    }

    /// The table of `user.plexbeam.workers`: live ones with most free places first.
    pub fn rows(&self) -> Vec<WorkerRow> {
        let mut rows: Vec<WorkerRow> = self
            .workers
            .iter()
            .map(|worker| {
                let known = worker.known.lock();
                let health = &known.health;
                let age = health.answered.map(|at| at.elapsed());
                let live = health.ok && age.is_some_and(|age| age < self.stale);
                let quiet = || Some("has not answered yet".to_owned());
                WorkerRow {
                    url: worker.url.as_str().to_owned(),
                    worker: known.id.clone(),
                    live,
                    free: if live { health.free } else { 0 },
                    age_ms: age.map(|age| age.as_millis() as u64),
                    error: if live {
                        None
                    } else {
                        health.error.clone().or_else(quiet)
                    },
                }
            })
            .collect();
        rows.sort_by_key(|row| (!row.live, std::cmp::Reverse(row.free)));
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: usize) -> Id {
        format!("s{number}").parse().unwrap()
    }

    #[test]
    fn ended_sessions_are_forgotten_but_not_under_a_listing() {
        let url = "http://127.0.0.1:1".parse().unwrap();
        let catalog = Catalog::new(&[url], Duration::from_secs(1));
        let remembered = || catalog.workers[0].known.lock().ended.known.len();
        catalog.hello(0, id(0), &id(0));
        for number in 0..1000 {
            catalog.end(0, &id(number));
        }
        assert_eq!(remembered(), 1000);
        catalog.all_listed(0);
        assert_eq!(remembered(), ENDED);
        for number in 1000..3000 {
            catalog.end(0, &id(number));
        }
        assert_eq!(remembered(), ENDED);
        let ended = &catalog.workers[0].known.lock().ended;
        assert!(ended.known.contains(&id(2999)) && !ended.known.contains(&id(0)));
        assert_eq!(ended.in_order.len(), ENDED);
    }
}
