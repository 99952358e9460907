//! Open files and directories, and where their bytes come from.

use crate::{
    binding::{BoundDir, HeldFile},
    cache::{CacheFile, Doubt},
    error::{Error, Result},
    inode::Inode,
    remote::RemoteFile,
};
use fuser::FileType;
use parking_lot::{Mutex, RwLock};
use plexbeam_api::checksum::Verifier;
use rustix::fd::OwnedFd;
use std::{
    collections::HashMap,
    ffi::{OsStr, OsString},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

/// How an open uses its inode; the counterpart of [`crate::inode::Io`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The kernel reads and writes the backing file itself.
    Passthrough,
    /// Through the page cache.
    Cached,
    /// Each read comes here and may be answered short and late.
    Direct,
}

/// An open file of the upper layer.
#[derive(Debug)]
pub struct UpperFile {
    /// Its inode.
    pub inode: Arc<Inode>,
    /// The backing file.
    pub fd: OwnedFd,
    /// Writes go to its end, whatever place is asked.
    pub appends: bool,
    /// How it is open.
    pub mode: Mode,
}

/// An open file of a worker's session.
#[derive(Debug)]
pub struct RemoteHandle {
    /// Its inode.
    pub inode: Arc<Inode>,
    /// The file.
    pub file: Arc<RemoteFile>,
    /// The bound directory that shows it; `None` under `sessions/`.
    pub held: Option<(Arc<BoundDir>, Arc<HeldFile>)>,
    /// The whole file on this host, when it was here at the open.
    pub pinned: Option<Arc<CacheFile>>,
    /// How it is open.
    pub mode: Mode,
    /// Counted among the inode's direct opens that are under way; a read shows that the kernel has
    /// taken the answer.
    pub underway: AtomicBool,
    /// Says whether what was read before all was checked turned out damaged; `None` where
    /// nothing was read so early.
    pub doubt: Mutex<Option<Doubt>>,
    /// What was read ahead past the cache, or a playlist's text.
    pub window: tokio::sync::Mutex<Window>,
}

/// Bytes of a file that the cache does not keep.
#[derive(Debug, Default)]
pub struct Window {
    /// Where they begin.
    pub offset: u64,
    /// The bytes.
    pub bytes: bytes::Bytes,
    /// Has taken all that came in order from the file's beginning.
    pub verifier: Option<Verifier>,
}

/// A name of a listing; those of a worker's files are not copied.
#[derive(Debug, Clone)]
pub enum ListName {
    /// By itself.
    Own(OsString),
    /// Of this file.
    Of(Arc<RemoteFile>),
}

impl AsRef<OsStr> for ListName {
    fn as_ref(&self) -> &OsStr {
        match self {
            ListName::Own(name) => name,
            ListName::Of(file) => file.name.as_str().as_ref(),
        }
    }
}

/// One name of a listing.
#[derive(Debug, Clone)]
pub struct ListEntry {
    /// Number, or one of no meaning while the kernel knows none.
    pub number: u64,
    /// Kind.
    pub kind: FileType,
    /// Name.
    pub name: ListName,
}

/// An open directory.
#[derive(Debug)]
pub struct DirHandle {
    /// Its inode.
    pub inode: Arc<Inode>,
    /// The listing as it was at its start; made anew when it is read from the start again.
    pub listing: Mutex<Arc<Vec<ListEntry>>>,
}

/// Whatever is open.
#[derive(Debug)]
pub enum Handle {
    /// A file of the upper layer.
    Upper(UpperFile),
    /// A worker's file.
    Remote(Box<RemoteHandle>),
    /// A directory.
    Dir(DirHandle),
}

/// All open handles.
#[derive(Debug, Default)]
pub struct HandleTable {
    handles: RwLock<HashMap<u64, Arc<Handle>>>,
    next: AtomicU64,
}

impl HandleTable {
    /// Gives the handle a number.
    pub fn add(&self, handle: Handle) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.handles.write().insert(number, Arc::new(handle));
        number
    }

    /// The handle of this number.
    pub fn get(&self, number: u64) -> Result<Arc<Handle>> {
        self.handles
            .read()
            .get(&number)
            .cloned()
            .ok_or(Error::NoHandle(number))
    }

    /// How many are open.
    pub fn len(&self) -> usize {
        self.handles.read().len()
    }

    /// True when none is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets the handle.
    pub fn remove(&self, number: u64) -> Option<Arc<Handle>> {
        self.handles.write().remove(&number)
    }
}
