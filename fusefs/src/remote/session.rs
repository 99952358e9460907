//! One session of a worker and its files, as far as they were told.

use crate::config::Secret;
use parking_lot::{Mutex, RwLock};
use plexbeam_api::{
    FileName, Id, Segment, SessionStatus,
    segment::{Digest, SegmentKind},
};
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::SystemTime,
};
use tokio::sync::watch;

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

/// One finished file of a session. What a worker dropped and made again with other bytes is another
/// file under the same name.
#[derive(Debug)]
pub struct RemoteFile {
    /// Never reused within this process: another making has another one.
    pub uid: u64,
    /// Whose file.
    pub origin: Arc<Origin>,
    /// Its name there.
    pub name: FileName,
    /// When this mount learned of it.
    pub seen: SystemTime,
    /// There is a later making; this one cannot be fetched any more.
    replaced: AtomicBool,
    segment: RwLock<Arc<Segment>>,
}

impl RemoteFile {
    /// A file as a worker announced it.
    pub fn new(origin: Arc<Origin>, segment: Segment) -> Self {
        static UIDS: AtomicU64 = AtomicU64::new(1);
        RemoteFile {
            uid: UIDS.fetch_add(1, Ordering::Relaxed),
            origin,
            name: segment.name.clone(),
            seen: SystemTime::now(),
            replaced: AtomicBool::new(false),
            segment: RwLock::new(Arc::new(segment)),
        }
    }

    /// There is a later making of it, and this one cannot be fetched any more.
    pub fn is_replaced(&self) -> bool {
        self.replaced.load(Ordering::Acquire)
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

/// Puts another making of the same name in a file's place.
fn supersede(file: &mut Arc<RemoteFile>, segment: Segment) {
    file.replaced.store(true, Ordering::Release);
    *file = Arc::new(RemoteFile::new(file.origin.clone(), segment));
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
    pub(super) fn new(worker: usize, session: Id) -> Arc<Self> {
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
            let known = &mut files.in_order[at];
            if !known.is_mutable() && known.segment().digest != segment.digest {
                supersede(known, segment);
            }
            return known.clone();
        }
        let at = files.in_order.len();
        files.by_name.insert(segment.name.clone(), at);
        let file = Arc::new(RemoteFile::new(self.origin.clone(), segment));
        files.in_order.push(file.clone());
        file
    }

    /// What the session has now under this file's name, if it is another making.
    pub fn other_than(&self, file: &RemoteFile) -> Option<Arc<RemoteFile>> {
        let files = self.files.lock();
        let present = &files.in_order[*files.by_name.get(&file.name)?];
        (present.uid != file.uid).then(|| present.clone())
    }

    /// Puts the making of this size and digest in this file's place, unless another took it before.
    /// Names, number and times are the same: only the bytes are new.
    pub fn renew(&self, file: &RemoteFile, size: u64, digest: Digest) -> Arc<RemoteFile> {
        let mut files = self.files.lock();
        let Some(&at) = files.by_name.get(&file.name) else {
            // Only this session makes its files, and it forgets none.
            return Arc::new(RemoteFile::new(
                file.origin.clone(),
                (*file.segment()).clone(),
            ));
        };
        let known = &mut files.in_order[at];
        let segment = known.segment();
        if known.uid == file.uid && (segment.size, &segment.digest) != (size, &digest) {
            let segment = Segment {
                size,
                digest,
                checksum: None,
                ..(*segment).clone()
            };
            supersede(known, segment);
        }
        known.clone()
    }

    pub(super) fn set_status(&self, status: SessionStatus) {
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

    pub(super) fn is_shown(&self) -> bool {
        let files = self.files.lock();
        files.confirmed && !self.is_gone()
    }
}
