//! One bound directory: what it holds, who waits for it, and what was removed.

use super::{
    Context, What,
    follow::follow,
    journal::{self, Journal, Line},
    pattern::fits,
};
use crate::{
    cache::{FileKey, Rank},
    config::Secret,
    error::{Error, Result},
    overlay::UpperNode,
    remote::{RemoteFile, Session, Stale, same_session},
};
use parking_lot::{Mutex, MutexGuard};
use plexbeam_api::{
    mount::{Binding, BindingRow, HELD_WAIT_MS, Held},
    segment::SegmentKind,
};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{sync::Notify, task::AbortHandle};

/// Longest JSON of `user.plexbeam.held`; the kernel takes 64 KiB at most.
const MAX_HELD_LIST: usize = 60 << 10;

/// A file that is shown in a bound directory.
#[derive(Debug)]
pub struct HeldFile {
    /// The worker's file.
    pub file: Arc<RemoteFile>,
    /// When it appeared.
    pub since: SystemTime,
    /// Owner and group shown: the directory's at the time of its binding.
    pub owner: (u32, u32),
    /// The binding that shows it.
    pub bound: u64,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) epoch: u64,
    pub(super) patterns: Vec<String>,
    pub(super) session: Arc<Session>,
    /// All sessions that were ever bound here; they end with the directory.
    pub(super) sessions: Vec<Arc<Session>>,
    pub(super) frozen: bool,
    pub(super) held: BTreeMap<String, Arc<HeldFile>>,
    /// Held names that were removed.
    pub(super) removed: HashSet<String>,
    /// Names of this epoch that will not be held: damaged, gone, or taken by the upper layer.
    pub(super) never: HashSet<String>,
    /// Held media that no reader has opened or passed by.
    pub(super) unread: HashSet<String>,
    /// Highest number opened, by session and rendition.
    pub(super) positions: HashMap<(u64, u32, Option<u32>), u32>,
    pub(super) follower: Option<AbortHandle>,
    /// The follower waits for room: the reader must go on first.
    pub(super) full: bool,
    pub(super) changed_at: SystemTime,
    /// A later instance has the bindings.
    pub(super) handed: bool,
    /// Where the directory was when it was last written down.
    pub(super) path: PathBuf,
    pub(super) journal: Option<Journal>,
}

impl State {
    pub(super) fn note(&mut self, line: &Line) {
        if let Some(journal) = &mut self.journal {
            journal.add(line);
        }
    }

    pub(super) fn stop(&mut self) {
        if let Some(follower) = self.follower.take() {
            follower.abort();
            self.full = false;
        }
    }
}

/// A bound directory.
#[derive(Debug)]
pub struct BoundDir {
    /// Never reused within this process.
    pub uid: u64,
    pub(super) dir: UpperNode,
    pub(super) owner: (u32, u32),
    pub(super) context: Arc<Context>,
    pub(super) state: Mutex<State>,
    pub(super) changed: Notify,
}

impl BoundDir {
    pub(super) fn new(
        dir: &UpperNode,
        owner: (u32, u32),
        context: &Arc<Context>,
        worker: usize,
        binding: Binding,
    ) -> Result<Arc<Self>> {
        let session = context.catalog.session(worker, &binding.session);
        let bound = Self::blank(dir, owner, context, session)?;
        if let Some(place) = bound.place_now()? {
            let mut state = bound.state.lock();
            let mut journal = Journal::start(context.cache.dir(), dir.key());
            state.path.clone_from(&place.path);
            journal.add(&Line::Dir { place, owner });
            state.journal = Some(journal);
        }
        context.cache.join(bound.uid);
        bound.rebind(worker, binding)?;
        Ok(bound)
    }

    /// A directory that holds nothing.
    pub(super) fn blank(
        dir: &UpperNode,
        owner: (u32, u32),
        context: &Arc<Context>,
        session: Arc<Session>,
    ) -> Result<Arc<Self>> {
        static UIDS: AtomicU64 = AtomicU64::new(1);
        Ok(Arc::new(BoundDir {
            uid: UIDS.fetch_add(1, Ordering::Relaxed),
            dir: dir.duplicate()?,
            owner,
            context: context.clone(),
            state: Mutex::new(State {
                epoch: 0,
                patterns: Vec::new(),
                session,
                sessions: Vec::new(),
                frozen: false,
                held: BTreeMap::new(),
                removed: HashSet::new(),
                never: HashSet::new(),
                unread: HashSet::new(),
                positions: HashMap::new(),
                follower: None,
                full: false,
                changed_at: SystemTime::now(),
                handed: false,
                path: PathBuf::new(),
                journal: None,
            }),
            changed: Notify::new(),
        }))
    }

    pub(super) fn row(&self) -> BindingRow {
        let place = self.place_now().ok().flatten();
        let state = self.state.lock();
        let (url, _) = self.context.catalog.identity(state.session.origin.worker);
        BindingRow {
            directory: place.map_or_else(String::new, |place| {
                place.path.to_string_lossy().into_owned()
            }),
            session: state.session.origin.session.clone(),
            worker: url.as_str().to_owned(),
            epoch: state.epoch,
            held: state.held.len(),
            unread: state.unread.len(),
            frozen: state.frozen,
            full: state.full,
        }
    }

    pub(super) fn is_stale(&self, binding: &Binding) -> bool {
        let state = self.state.lock();
        state.frozen || binding.epoch <= state.epoch
    }

    pub(super) fn rebind(self: &Arc<Self>, worker: usize, binding: Binding) -> Result<()> {
        {
            let mut state = self.state.lock();
            if state.frozen || binding.epoch <= state.epoch {
                return Err(Error::StaleBinding);
            }
            let session = self.context.catalog.session(worker, &binding.session);
            let (url, boot) = self.context.catalog.identity(worker);
            let line = Line::Bind {
                url: journal::url_of(&url),
                worker: binding.worker,
                boot,
                session: binding.session,
                token: Secret::new(binding.token.clone()),
                patterns: binding.patterns.clone(),
                epoch: binding.epoch,
            };
            state.note(&line);
            session.origin.set_token(Secret::new(binding.token));
            state.stop();
            state.epoch = binding.epoch;
            state.patterns = binding.patterns;
            state.never.clear();
            state.session = session.clone();
            let known =
                |other: &Arc<Session>| same_session(&other.origin, worker, &session.origin.session);
            if !state.sessions.iter().any(known) {
                state.sessions.push(session.clone());
            }
            let follower = follow(self.clone(), session, binding.epoch);
            state.follower = Some(self.context.runtime.spawn(follower).abort_handle());
        }
        self.changed.notify_waiters();
        Ok(())
    }

    /// Says whether the follower waits for room.
    pub(super) fn set_full(&self, full: bool) {
        let mut state = self.state.lock();
        if state.full != full {
            state.full = full;
            drop(state);
            self.changed.notify_waiters();
        }
    }

    /// The held file of this name.
    pub fn held(&self, name: &str) -> Option<Arc<HeldFile>> {
        self.state.lock().held.get(name).cloned()
    }

    /// The held file of this name, or its later making where the worker has only that: then the name
    /// leads there from now on.
    pub fn present(&self, name: &str) -> Option<Arc<HeldFile>> {
        let held = self.held(name)?;
        if !held.file.is_replaced() {
            return Some(held);
        }
        let catalog = &self.context.catalog;
        let session = catalog.of(&held.file.origin);
        let Some(file) = session.and_then(|session| session.other_than(&held.file)) else {
            // Its session ended meanwhile.
            return Some(held);
        };
        let renewed = Arc::new(HeldFile {
            file,
            since: SystemTime::now(),
            owner: self.owner,
            bound: self.uid,
        });
        {
            let mut state = self.state.lock();
            let current = state.held.get(name)?;
            if !Arc::ptr_eq(current, &held) {
                return Some(current.clone());
            }
            state.note(&held_line(&renewed));
            state.held.insert(name.to_owned(), renewed.clone());
        }
        self.context.cache.remove(&FileKey::of(&held.file));
        let (dev, ino) = self.dir.key().numbers();
        catalog.is_stale(Stale::Held(dev, ino, name.to_owned()));
        Some(renewed)
    }

    /// All held files in the order of their names.
    pub fn list(&self) -> Vec<Arc<HeldFile>> {
        self.state.lock().held.values().cloned().collect()
    }

    /// When the last name appeared or went.
    pub fn changed_at(&self) -> SystemTime {
        self.state.lock().changed_at
    }

    /// JSON of `user.plexbeam.held`. The kernel bounds an attribute's size: where the list would
    /// not fit, the names last in order are given.
    pub fn held_json(&self) -> Result<Vec<u8>> {
        let mut list: Vec<Held> = self.list().iter().map(|held| describe(held)).collect();
        loop {
            let json = json(&list)?;
            if json.len() <= MAX_HELD_LIST {
                return Ok(json);
            }
            let surplus = (list.len() * (json.len() - MAX_HELD_LIST)).div_ceil(json.len());
            list.drain(..surplus.clamp(1, list.len()));
        }
    }

    /// JSON of `user.plexbeam.held.<name>`; waits for it at most [`HELD_WAIT_MS`].
    pub async fn wait_held(self: Arc<Self>, name: String) -> Result<Vec<u8>> {
        let deadline = tokio::time::Instant::now() + Duration::from_millis(HELD_WAIT_MS);
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let (mut version, full) = {
                let state = self.state.lock();
                if let Some(held) = state.held.get(&name) {
                    return json(&describe(held));
                }
                if state.handed {
                    // By its path the directory is the later instance's.
                    return Err(Error::NotYet);
                }
                let version = state.session.watch();
                let matches = state.patterns.iter().any(|pattern| fits(pattern, &name));
                // All files of a session are in its list before it counts as over.
                let over = state.session.is_over();
                let hopeless = state.frozen
                    || !matches
                    || state.removed.contains(&name)
                    || state.never.contains(&name)
                    || over && state.session.file(&name).is_none();
                if hopeless {
                    return Err(Error::NoAttribute);
                }
                (version, state.full)
            };
            tokio::select! {
                () = changed => {}
                _ = version.changed() => {}
                () = tokio::time::sleep_until(deadline) => {
                    return Err(if full { Error::Full } else { Error::NotYet });
                }
            }
        }
    }

    /// Removes a held name and freezes the binding. False when the name is not held.
    pub fn unlink(&self, name: &str) -> bool {
        let pass = self.context.gate.pass();
        let removed = {
            let mut state = self.state.lock();
            let Some(held) = state.held.remove(name) else {
                return false;
            };
            pass.tell(self.dir.key(), || What::Gone(name.to_owned()));
            state.note(&Line::Gone {
                name: name.to_owned(),
            });
            state.unread.remove(name);
            state.removed.insert(name.to_owned());
            state.frozen = true;
            state.changed_at = SystemTime::now();
            state.stop();
            held
        };
        self.context.cache.remove(&FileKey::of(&removed.file));
        self.changed.notify_waiters();
        true
    }

    /// Nothing new appears from now on.
    pub fn freeze(&self) {
        let pass = self.context.gate.pass();
        {
            let mut state = self.state.lock();
            if !state.frozen {
                state.note(&Line::Frozen);
                pass.tell(self.dir.key(), || What::Frozen);
            }
            state.frozen = true;
            state.stop();
        }
        self.changed.notify_waiters();
    }

    /// Keeps names from appearing while the upper layer is changed; fails where `name` is held.
    pub fn claim(&self, name: &str) -> Result<Claim<'_>> {
        let state = self.state.lock();
        if state.held.contains_key(name) {
            Err(Error::Taken)
        } else {
            Ok(Claim { _state: state })
        }
    }

    /// A reader opened this file: what lies before it may go. False when it is held no more.
    pub fn opened(&self, held: &HeldFile) -> bool {
        let segment = held.file.segment();
        let mut state = self.state.lock();
        if !state.held.contains_key(segment.name.as_str()) {
            return false;
        }
        state.unread.remove(segment.name.as_str());
        let Some(number) = segment.number else {
            return true;
        };
        let stream = |segment: &plexbeam_api::Segment, origin: u64| {
            (origin, segment.output, segment.rendition)
        };
        let here = stream(&segment, held.file.origin.uid);
        let position = state.positions.entry(here).or_insert(0);
        *position = number.max(*position);
        let position = *position;
        let passed: Vec<(String, FileKey)> = state
            .unread
            .iter()
            .filter_map(|name| {
                let other = &state.held.get(name)?.file;
                let segment = other.segment();
                let before = stream(&segment, other.origin.uid) == here
                    && segment.number.is_some_and(|n| n < position);
                before.then(|| (name.clone(), FileKey::of(other)))
            })
            .collect();
        for (name, key) in passed {
            state.unread.remove(&name);
            self.context.cache.set_rank(&key, Rank::Free, None);
        }
        drop(state);
        self.changed.notify_waiters();
        true
    }

    /// A reader closed this file.
    pub fn closed(&self, held: &HeldFile) {
        if held.file.segment().kind == SegmentKind::Media {
            self.context
                .cache
                .set_rank(&FileKey::of(&held.file), Rank::Free, None);
        }
        self.changed.notify_waiters();
    }

    /// Shows a file whose bytes are here and checked. `epoch` is that of the follower: a later
    /// binding has its own.
    pub(super) fn publish(&self, epoch: u64, file: &Arc<RemoteFile>) {
        let name = file.name.as_str();
        let segment = file.segment();
        {
            let mut state = self.state.lock();
            if state.frozen
                || state.handed
                || state.epoch != epoch
                || state.held.contains_key(name)
                || state.removed.contains(name)
            {
                return;
            }
            if self.dir.has(name.as_ref()) {
                state.never.insert(name.to_owned());
            } else {
                let rank = rank_of(segment.kind);
                if segment.kind == SegmentKind::Media {
                    state.unread.insert(name.to_owned());
                }
                self.context
                    .cache
                    .set_rank(&FileKey::of(file), rank, Some(self.uid));
                let held = HeldFile {
                    file: file.clone(),
                    since: SystemTime::now(),
                    owner: self.owner,
                    bound: self.uid,
                };
                state.note(&held_line(&held));
                state.held.insert(name.to_owned(), Arc::new(held));
                state.changed_at = SystemTime::now();
            }
        }
        self.changed.notify_waiters();
    }

    pub(super) fn give_up(&self, epoch: u64, file: &RemoteFile) {
        {
            let mut state = self.state.lock();
            if state.epoch == epoch {
                state.never.insert(file.name.as_str().to_owned());
            }
        }
        self.changed.notify_waiters();
    }
}

/// Who may push a held file of this kind out before it is read.
pub(super) fn rank_of(kind: SegmentKind) -> Rank {
    match kind {
        SegmentKind::Init | SegmentKind::Header => Rank::Keep,
        SegmentKind::Media => Rank::Unread,
        SegmentKind::Playlist => Rank::Free,
    }
}

/// Keeps names from appearing in a directory until it is dropped.
#[derive(Debug)]
pub struct Claim<'a> {
    _state: MutexGuard<'a, State>,
}

fn held_line(held: &HeldFile) -> Line {
    Line::Held {
        segment: (*held.file.segment()).clone(),
        since_ms: held
            .since
            .duration_since(UNIX_EPOCH)
            .map_or(0, |age| age.as_millis() as u64),
    }
}

fn describe(held: &HeldFile) -> Held {
    let segment = held.file.segment();
    Held {
        name: segment.name.clone(),
        size: segment.size,
        digest: segment.digest.clone(),
    }
}

/// JSON of a value for an attribute.
pub fn json<T: serde::Serialize>(value: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|_| Error::Internal("a value has no JSON form"))
}
