//! What the workers have, as their event streams tell it. Reading it never waits.

use crate::config::{Secret, WorkerUrl};
use parking_lot::{Mutex, RwLock};
use plexbeam_api::{FileName, Id, Segment, SessionStatus, mount::WorkerRow, segment::SegmentKind};
use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    time::{Duration, Instant, SystemTime},
};
use tokio::sync::{Notify, watch};

/// Where a session's files come from. One per session and start of its worker.
#[derive(Debug)]
pub struct Origin {
    /// Never reused within this process.
    pub uid: u64,
    /// Position of the worker in the configuration.
    pub worker: usize,
    /// Session on that worker.
    pub session: Id,
    token: Mutex<Option<Secret>>,
    gone: AtomicBool,
}

impl Origin {
    /// The worker does not have the session any more: what is kept of it is the only copy.
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// The session's own token, when a binding brought it.
    pub fn token(&self) -> Option<Secret> {
        self.token.lock().clone()
    }

    /// Keeps the token that a binding brought.
    pub fn set_token(&self, token: Secret) {
        *self.token.lock() = Some(token);
    }
}

/// One finished file of a session.
#[derive(Debug)]
pub struct RemoteFile {
    /// Whose file.
    pub origin: Arc<Origin>,
    /// Its name there.
    pub name: FileName,
    /// When this mount learned of it.
    pub seen: SystemTime,
    segment: RwLock<Arc<Segment>>,
}

impl RemoteFile {
    /// A file as a worker announced it.
    pub fn new(origin: Arc<Origin>, segment: Segment) -> Self {
        RemoteFile {
            origin,
            name: segment.name.clone(),
            seen: SystemTime::now(),
            segment: RwLock::new(Arc::new(segment)),
        }
    }

    /// What was announced last; changes for playlists only.
    pub fn segment(&self) -> Arc<Segment> {
        self.segment.read().clone()
    }

    /// Size in bytes, as announced last.
    pub fn size(&self) -> u64 {
        self.segment.read().size
    }

    /// True for playlists: each publication replaces the one before.
    pub fn is_mutable(&self) -> bool {
        self.segment.read().kind == SegmentKind::Playlist
    }
}

#[derive(Debug, Default)]
struct Files {
    in_order: Vec<Arc<RemoteFile>>,
    by_name: HashMap<FileName, usize>,
    status: Option<SessionStatus>,
    /// The worker itself told of it, so that `sessions/` shows it.
    confirmed: bool,
}

/// One session of a worker.
#[derive(Debug)]
pub struct Session {
    /// Where its files come from.
    pub origin: Arc<Origin>,
    /// When this mount learned of it.
    pub seen: SystemTime,
    files: Mutex<Files>,
    version: watch::Sender<u64>,
}

impl Session {
    fn new(worker: usize, session: Id) -> Arc<Self> {
        static UIDS: AtomicU64 = AtomicU64::new(1);
        Arc::new(Session {
            origin: Arc::new(Origin {
                uid: UIDS.fetch_add(1, Ordering::Relaxed),
                worker,
                session,
                token: Mutex::new(None),
                gone: AtomicBool::new(false),
            }),
            seen: SystemTime::now(),
            files: Mutex::default(),
            version: watch::Sender::new(0),
        })
    }

    /// A session that no worker told of.
    #[cfg(test)]
    pub(crate) fn for_test(session: &str) -> Arc<Self> {
        Session::new(0, session.parse().unwrap())
    }

    fn bump(&self) {
        self.version.send_modify(|version| *version += 1);
    }

    /// Wakes at every change from now on.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Takes a file in; known ones are left alone, except playlists.
    pub fn add(&self, segment: Segment) {
        {
            let mut files = self.files.lock();
            files.confirmed = true;
            match files.by_name.get(&segment.name) {
                Some(&at) => {
                    let known = &files.in_order[at];
                    if segment.kind != SegmentKind::Playlist || !known.is_mutable() {
                        return;
                    }
                    *known.segment.write() = Arc::new(segment);
                }
                None => {
                    let at = files.in_order.len();
                    files.by_name.insert(segment.name.clone(), at);
                    files
                        .in_order
                        .push(Arc::new(RemoteFile::new(self.origin.clone(), segment)));
                }
            }
        }
        self.bump();
    }

    /// A file that an earlier instance held. The worker itself has not told of it.
    pub fn presume(&self, segment: Segment) -> Arc<RemoteFile> {
        let mut files = self.files.lock();
        if let Some(&at) = files.by_name.get(&segment.name) {
            return files.in_order[at].clone();
        }
        let at = files.in_order.len();
        files.by_name.insert(segment.name.clone(), at);
        let file = Arc::new(RemoteFile::new(self.origin.clone(), segment));
        files.in_order.push(file.clone());
        file
    }

    fn set_status(&self, status: SessionStatus) {
        {
            let mut files = self.files.lock();
            files.confirmed = true;
            files.status = Some(status);
        }
        self.bump();
    }

    /// The worker does not have it any more.
    pub fn set_gone(&self) {
        self.origin.gone.store(true, Ordering::Release);
        self.bump();
    }

    /// The worker does not have it any more.
    pub fn is_gone(&self) -> bool {
        self.origin.is_gone()
    }

    /// No further file will come. All files that did come are in the list by then.
    pub fn is_over(&self) -> bool {
        let files = self.files.lock();
        self.is_gone()
            || files
                .status
                .as_ref()
                .is_some_and(|status| status.state.is_end())
    }

    /// Seconds since the epoch at which the worker made it.
    pub fn created_at(&self) -> Option<u64> {
        self.files
            .lock()
            .status
            .as_ref()
            .map(|status| status.created_at)
    }

    /// Files from this position on, in the order of their announcement.
    pub fn since(&self, position: usize) -> Vec<Arc<RemoteFile>> {
        self.files
            .lock()
            .in_order
            .get(position..)
            .unwrap_or_default()
            .to_vec()
    }

    /// The file of this name.
    pub fn file(&self, name: &str) -> Option<Arc<RemoteFile>> {
        let name = name.parse::<FileName>().ok()?;
        let files = self.files.lock();
        files
            .by_name
            .get(&name)
            .map(|&at| files.in_order[at].clone())
    }

    fn is_shown(&self) -> bool {
        let files = self.files.lock();
        files.confirmed && !self.is_gone()
    }
}

#[derive(Debug, Default)]
struct Known {
    id: Option<Id>,
    boot: Option<Id>,
    sessions: HashMap<Id, Arc<Session>>,
    /// Sessions that ended on the present connection; a listing under way may still name them.
    ended: HashSet<Id>,
    health: Health,
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
    ended: OnceLock<mpsc::Sender<Id>>,
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
            ended: OnceLock::new(),
            health_seen: Notify::new(),
        })
    }

    /// Where ended sessions are told; once.
    pub fn tell_ended(&self, to: mpsc::Sender<Id>) {
        // A second receiver would be a fault of the composition; the first one stays.
        let _ = self.ended.set(to);
    }

    fn ended(&self, session: &Session) {
        session.set_gone();
        if let Some(to) = self.ended.get() {
            // The receiver ends only with the mount.
            let _ = to.send(session.origin.session.clone());
        }
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
            known.ended.clear();
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
            if known.ended.contains(&status.session) {
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

    /// The worker told of a session's state. One that ended may come again under its id, but not by
    /// a late word of its end.
    pub(super) fn status(&self, worker: usize, status: SessionStatus) {
        {
            let mut known = self.workers[worker].known.lock();
            if known.ended.contains(&status.session) {
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
        if !self.workers[worker].known.lock().ended.contains(session) {
            self.session(worker, session).add(segment);
        }
    }

    /// The worker dropped a session.
    pub(super) fn end(&self, worker: usize, id: &Id) {
        let session = {
            let mut known = self.workers[worker].known.lock();
            known.ended.insert(id.clone());
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
