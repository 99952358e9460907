//! Everything that can go wrong in the mount, and the one table that makes an errno of it.

use plexbeam_api::Id;
use rustix::io::Errno;
use std::{path::PathBuf, time::Duration};

/// Result of a file system call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed file system call.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The backing folder's own file system said so; passed on unchanged.
    #[error("backing file system: {0}")]
    Backing(#[from] Errno),
    /// No such name in this directory.
    #[error("no such name")]
    NoName,
    /// The name is taken by a held file or by `sessions`.
    #[error("the name is taken")]
    Taken,
    /// The kernel named an inode that was never given out or already forgotten.
    #[error("inode {0} is not known")]
    NoInode(u64),
    /// The kernel named a handle that is not open.
    #[error("handle {0} is not open")]
    NoHandle(u64),
    /// The call needs a directory.
    #[error("not a directory")]
    NotDirectory,
    /// The call needs something else than a directory.
    #[error("is a directory")]
    IsDirectory,
    /// Held files and `sessions/` are made by workers, not by callers.
    #[error("made by a worker, cannot be changed")]
    WorkerMade,
    /// A held file cannot be moved or linked: it has no place in the upper layer.
    #[error("cannot be moved between the layers")]
    CrossesLayers,
    /// The operation is not offered on this kind of file.
    #[error("not supported here")]
    Unsupported,
    /// The value of `user.plexbeam.source` is no binding.
    #[error("malformed binding: {0}")]
    MalformedBinding(String),
    /// The binding names a worker that this mount is not configured for.
    #[error("worker {0} is none of this mount's workers")]
    ForeignWorker(Id),
    /// The binding's epoch is not higher than the present one, or the directory is being removed.
    #[error("the binding is stale")]
    StaleBinding,
    /// The attribute can be written and not read.
    #[error("the attribute is write-only")]
    WriteOnly,
    /// The attributes of this prefix are the mount's own.
    #[error("reserved attribute")]
    Reserved,
    /// No such attribute here; also a held file that will never come.
    #[error("no such attribute")]
    NoAttribute,
    /// A waited-for file is not held yet; ask again.
    #[error("not held yet")]
    NotYet,
    /// A waited-for file finds no room before the reader goes on; ask again.
    #[error("no room for it yet")]
    Full,
    /// Too many reads and waits are parked.
    #[error("too many parked calls")]
    Crowded,
    /// The value does not fit the caller's buffer.
    #[error("the buffer is too small")]
    SmallBuffer,
    /// The bytes did not come in time.
    #[error("no bytes within {0:?}")]
    Deadline(Duration),
    /// The worker does not have the file any more.
    #[error("the worker dropped the file")]
    Gone,
    /// The worker has only another making of the file; the name leads to that.
    #[error("replaced by another making")]
    Replaced,
    /// The bytes could not be had from the worker.
    #[error("worker: {0}")]
    Remote(String),
    /// A fault of ours.
    #[error("internal: {0}")]
    Internal(&'static str),
}

impl Error {
    /// What the caller of the system call sees.
    pub fn errno(&self) -> Errno {
        match self {
            Error::Backing(errno) => *errno,
            Error::NoName => Errno::NOENT,
            Error::Taken => Errno::EXIST,
            Error::NoInode(_) => Errno::STALE,
            Error::NoHandle(_) => Errno::BADF,
            Error::NotDirectory => Errno::NOTDIR,
            Error::IsDirectory => Errno::ISDIR,
            Error::WorkerMade => Errno::PERM,
            Error::CrossesLayers => Errno::XDEV,
            Error::Unsupported => Errno::OPNOTSUPP,
            Error::MalformedBinding(_) => Errno::INVAL,
            Error::ForeignWorker(_) => Errno::PERM,
            Error::StaleBinding => Errno::STALE,
            Error::WriteOnly => Errno::ACCESS,
            Error::Reserved => Errno::PERM,
            Error::NoAttribute => Errno::NODATA,
            Error::NotYet => Errno::AGAIN,
            Error::Full => Errno::BUSY,
            Error::Crowded => Errno::AGAIN,
            Error::SmallBuffer => Errno::RANGE,
            Error::Deadline(_) => Errno::TIMEDOUT,
            Error::Gone => Errno::IO,
            Error::Replaced => Errno::STALE,
            Error::Remote(_) => Errno::IO,
            Error::Internal(_) => Errno::IO,
        }
    }
}

/// Why the mount could not be set up. Each text says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The mountpoint is missing or no directory.
    #[error("cannot mount on {path}: {source}; make the directory first")]
    Mountpoint {
        /// As given.
        path: PathBuf,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// The backing folder cannot be opened.
    #[error("cannot open the backing folder {path}: {source}")]
    Backing {
        /// As given.
        path: PathBuf,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// The cache folder cannot be used.
    #[error("cannot use the cache folder {path}: {source}")]
    CacheDir {
        /// As given.
        path: PathBuf,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// The cache folder lies inside the mountpoint.
    #[error("the cache folder {0} lies inside the mountpoint; choose one outside")]
    CacheInside(PathBuf),
    /// The cache folder cannot be made one in memory.
    #[error(
        "cannot keep segments in memory at {path}: {source}; that needs root (CAP_SYS_ADMIN); without it leave --cache-in-memory out and give --cache-dir a folder in memory, as of /dev/shm"
    )]
    Memory {
        /// Where it would be mounted.
        path: PathBuf,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// A live mount of ours is there already.
    #[error("{0} is already mounted by a running plexbeam-mount; unmount it first (umount {0})")]
    AlreadyMounted(PathBuf),
    /// A mount is there whose daemon does not answer.
    #[error("{0} carries a mount that does not answer; remove it first (umount -l {0})")]
    Hung(PathBuf),
    /// `/dev/fuse` or the mount call failed.
    #[error("cannot mount on {path}: {source}; {hint}")]
    Mount {
        /// Mountpoint.
        path: PathBuf,
        /// The kernel's answer.
        source: std::io::Error,
        /// What to do.
        hint: &'static str,
    },
    /// The media route's address cannot be used.
    #[error(
        "cannot listen on {address} for the media route: {source}; choose another address with --export-media"
    )]
    MediaListen {
        /// As given.
        address: std::net::SocketAddr,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// A media route that others can reach needs a key.
    #[error(
        "--export-media {0} can be reached from other machines and there is no key; set --api-key, or use a loopback address"
    )]
    MediaNeedsKey(std::net::SocketAddr),
    /// The HTTP client or the runtime could not be made.
    #[error("cannot start: {0}")]
    Start(String),
}
