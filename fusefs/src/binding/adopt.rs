//! Bindings that outlive an instance: taken over from the journals, and given to the next.

use super::{
    Bindings, BoundDir, Change, HeldFile, What,
    dir::rank_of,
    follow::follow,
    journal::{self, Journal, Line, Place},
};
use crate::{
    error::Result,
    overlay::{UpperKey, UpperNode},
    remote::{RemoteFile, same_session},
};
use plexbeam_api::segment::SegmentKind;
use std::{
    ffi::OsStr,
    path::{Component, Path},
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};
use tokio::sync::mpsc::UnboundedSender;

/// What was taken over.
#[derive(Debug, Default)]
pub struct Adopted {
    /// Directories.
    pub directories: usize,
    /// Held files that are here.
    pub kept: usize,
    /// Held files that come from their worker again when they are read.
    pub missing: usize,
    /// The files that are here, for their check.
    pub files: Vec<Arc<RemoteFile>>,
}

/// The directory at this path under the root, when it has these numbers.
fn find(root: &UpperNode, path: &Path, dev: u64, ino: u64) -> Option<UpperNode> {
    let mut node = root.duplicate().ok()?;
    for component in path.components() {
        let Component::Normal(name) = component else {
            return None;
        };
        node = node.child(name).ok()?.0;
    }
    (node.key().numbers() == (dev, ino)).then_some(node)
}

impl Bindings {
    /// Takes over what an earlier instance held, before anybody sees this one. `living`: it still
    /// runs. Journals that lead nowhere are unlinked.
    pub fn adopt(&self, root: &UpperNode, living: bool) -> Adopted {
        let mut adopted = Adopted::default();
        for (path, lines) in journal::read_all(self.context.cache.dir()) {
            if self.adopt_one(root, &lines, living, &mut adopted).is_none() {
                // It is tried again at the next start.
                let _ = std::fs::remove_file(path);
            }
        }
        adopted
    }

    fn adopt_one(
        &self,
        root: &UpperNode,
        lines: &[Line],
        living: bool,
        adopted: &mut Adopted,
    ) -> Option<()> {
        let (place, owner) = lines.iter().rev().find_map(|line| match line {
            Line::Dir { place, owner } => Some((place, *owner)),
            Line::Bind { .. } | Line::Held { .. } | Line::Gone { .. } | Line::Frozen => None,
        })?;
        let dir = find(root, &place.path, place.dev, place.ino)?;
        let catalog = &self.context.catalog;
        let mut bound: Option<Arc<BoundDir>> = None;
        for line in lines {
            match line {
                Line::Dir { .. } => {}
                Line::Bind {
                    url,
                    worker: id,
                    boot,
                    session,
                    token,
                    patterns,
                    epoch,
                } => {
                    // What the worker of another configuration made cannot be fetched any more.
                    let worker = catalog.position(url)?;
                    catalog.presume(worker, id, boot.as_ref());
                    let session = catalog.session(worker, session);
                    session.origin.set_token(token.clone());
                    let bound = match &bound {
                        Some(bound) => bound,
                        None => bound.insert(
                            BoundDir::blank(&dir, owner, &self.context, session.clone()).ok()?,
                        ),
                    };
                    let mut state = bound.state.lock();
                    state.epoch = *epoch;
                    state.patterns = patterns.clone();
                    let known = |other: &Arc<_>| same_session_of(other, &session);
                    if !state.sessions.iter().any(known) {
                        state.sessions.push(session.clone());
                    }
                    state.session = session;
                }
                Line::Held { segment, since_ms } => {
                    let bound = bound.as_ref()?;
                    let mut state = bound.state.lock();
                    let file = state.session.presume(segment.clone());
                    let name = segment.name.as_str().to_owned();
                    if segment.kind == SegmentKind::Media {
                        state.unread.insert(name.clone());
                    }
                    let held = HeldFile {
                        file,
                        since: UNIX_EPOCH + Duration::from_millis(*since_ms),
                        owner,
                        bound: bound.uid,
                    };
                    state.held.insert(name, Arc::new(held));
                }
                Line::Gone { name } => {
                    let mut state = bound.as_ref()?.state.lock();
                    state.held.remove(name);
                    state.unread.remove(name);
                    state.removed.insert(name.clone());
                    state.frozen = true;
                }
                Line::Frozen => bound.as_ref()?.state.lock().frozen = true,
            }
        }
        let bound = bound?;
        self.context.cache.join(bound.uid);
        {
            let mut state = bound.state.lock();
            state.journal = Some(Journal::resume(self.context.cache.dir(), dir.key()));
            for held in state.held.values() {
                if held.file.is_mutable() {
                    continue;
                }
                let rank = rank_of(held.file.segment().kind);
                let cache = &self.context.cache;
                if cache.adopt(&held.file, rank, bound.uid, living) {
                    adopted.kept += 1;
                    adopted.files.push(held.file.clone());
                } else {
                    adopted.missing += 1;
                }
            }
        }
        adopted.directories += 1;
        self.table.write().insert(dir.key(), bound);
        Some(())
    }

    /// Begins to follow the sessions of adopted directories.
    pub fn follow_adopted(&self) {
        for bound in self.table.read().values() {
            let mut state = bound.state.lock();
            if !state.frozen && !state.handed && state.follower.is_none() {
                let follower = follow(bound.clone(), state.session.clone(), state.epoch);
                state.follower = Some(self.context.runtime.spawn(follower).abort_handle());
            }
        }
    }

    /// Gives the bindings to a later instance: nothing new appears here, calls that would change
    /// them wait, and the journals say all. Gives the bytes that this instance goes on using.
    pub fn hand_over(&self) -> u64 {
        self.context.gate.close();
        self.note_places();
        for bound in self.table.read().values() {
            let mut state = bound.state.lock();
            state.stop();
            state.handed = true;
            if let Some(mut journal) = state.journal.take() {
                journal.let_go();
            }
        }
        self.context.cache.hand_over()
    }

    /// The later instance is there: it is told of what is changed by way of this one.
    pub fn handed_over(&self, tell: UnboundedSender<Change>) {
        self.context.gate.open(Some(tell));
        for bound in self.table.read().values() {
            bound.changed.notify_waiters();
        }
    }

    /// The later instance did not come up: everything goes on here.
    pub fn take_back(&self) {
        self.context.cache.take_back();
        for (key, bound) in &*self.table.read() {
            let mut state = bound.state.lock();
            state.handed = false;
            state.journal = Some(Journal::resume(self.context.cache.dir(), *key));
        }
        self.follow_adopted();
        self.context.gate.open(None);
    }

    /// Does what was done by way of the earlier instance.
    pub fn apply(&self, root: &UpperNode, change: Change) {
        let key = UpperKey::of_numbers(change.dev, change.ino);
        match change.what {
            What::Bound(path, binding) => {
                let Some(dir) = find(root, &path, change.dev, change.ino) else {
                    return;
                };
                if let Err(error) = self.take(&dir, binding) {
                    tracing::info!(%error, "a binding by way of the earlier instance is refused");
                }
            }
            What::Gone(name) => {
                if let Some(bound) = self.get(key) {
                    bound.unlink(&name);
                }
            }
            What::Frozen => {
                if let Some(bound) = self.get(key) {
                    bound.freeze();
                }
            }
            What::Removed => self.remove(key),
        }
    }

    /// Writes down where moved directories are now.
    pub fn note_places(&self) {
        let Ok(root) = self.context.root.path() else {
            return;
        };
        for bound in self.table.read().values() {
            let Some(place) = bound.place(&root) else {
                continue;
            };
            let mut state = bound.state.lock();
            if state.path != place.path {
                state.path.clone_from(&place.path);
                let owner = bound.owner;
                state.note(&Line::Dir { place, owner });
            }
        }
    }
}

fn same_session_of(one: &Arc<crate::remote::Session>, other: &Arc<crate::remote::Session>) -> bool {
    same_session(&one.origin, other.origin.worker, &other.origin.session)
}

impl BoundDir {
    /// Where the directory is, from the root's path.
    pub(super) fn place(&self, root: &OsStr) -> Option<Place> {
        let path = self.dir.path().ok()?;
        let path = Path::new(&path).strip_prefix(root).ok()?.to_path_buf();
        let (dev, ino) = self.dir.key().numbers();
        Some(Place { path, dev, ino })
    }

    /// The directory's place as a file name for the journal and for a later instance.
    pub(super) fn place_now(&self) -> Result<Option<Place>> {
        let root = self.context.root.path()?;
        Ok(self.place(&root))
    }
}
