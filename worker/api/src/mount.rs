//! The extended attributes by which the cartridge and the mount talk (DESIGN 5). All are addressed
//! by absolute path, because after a remount an old working directory belongs to the dead mount.

use crate::{FileName, Id, secret::Hidden, segment::Digest};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Set by the cartridge on its session directory: a JSON [`Binding`]. Write-only.
pub const XATTR_SOURCE: &str = "user.plexbeam.source";
/// Read on any directory: a JSON [`MountInfo`]; absent (ENODATA, EOPNOTSUPP) when it is not our mount.
pub const XATTR_MOUNT: &str = "user.plexbeam.mount";
/// Read on any directory: a JSON list of [`WorkerRow`], best first.
pub const XATTR_WORKERS: &str = "user.plexbeam.workers";
/// Read on a bound directory: a JSON list of held [`Held`] files. With `.` and a file name appended
/// the JSON [`Held`] of that one; the call waits for it, at most [`HELD_WAIT_MS`], then EAGAIN; or
/// EBUSY, when the cache is full of what nobody has read yet, so that it may take as long as the
/// viewer pauses. A name that the session ended without, or a frozen binding, is ENODATA at once.
pub const XATTR_HELD: &str = "user.plexbeam.held";
/// Read on any directory: a JSON [`CacheUsage`].
pub const XATTR_CACHE: &str = "user.plexbeam.cache";
/// Read on any directory: a JSON [`MountStatus`].
pub const XATTR_STATUS: &str = "user.plexbeam.status";
/// Bound of one wait in `getxattr`. Short, because a killed caller stays until the reply; callers
/// that want longer ask again.
pub const HELD_WAIT_MS: u64 = 1_000;

/// Ties a session directory to a worker's session.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Binding {
    /// Worker id; must be one of the mount's own workers, else EPERM.
    pub worker: Id,
    /// Session on that worker.
    pub session: Id,
    /// Its bearer token; the mount shows it to nobody.
    pub token: String,
    /// Names that may come from the session: a file name in which each `*` stands for any text.
    pub patterns: Vec<String>,
    /// Must be higher than that of the binding before, else ESTALE. The first is 1.
    pub epoch: u64,
}

impl fmt::Debug for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Binding")
            .field("worker", &self.worker)
            .field("session", &self.session)
            .field("token", &Hidden)
            .field("patterns", &self.patterns)
            .field("epoch", &self.epoch)
            .finish()
    }
}

/// What the mount says of itself.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountInfo {
    /// Program version.
    pub version: String,
    /// Contract version.
    pub api_version: u32,
    /// Absolute path of the mountpoint.
    pub mountpoint: String,
    /// Longest wait of a read, milliseconds.
    pub read_deadline_ms: u64,
    /// Base URL of the media route (`http://ADDR:PORT`), when `--export-media` is on.
    pub media: Option<String>,
    /// Secret that signs media URLs where no key is configured; told only to root and to the owner
    /// of the directory asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_secret: Option<String>,
}

impl fmt::Debug for MountInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MountInfo")
            .field("version", &self.version)
            .field("api_version", &self.api_version)
            .field("mountpoint", &self.mountpoint)
            .field("read_deadline_ms", &self.read_deadline_ms)
            .field("media", &self.media)
            .field("media_secret", &self.media_secret.as_ref().map(|_| Hidden))
            .finish()
    }
}

/// One worker as the mount sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerRow {
    /// Base URL as configured.
    pub url: String,
    /// Its id; `None` until it first answered.
    pub worker: Option<Id>,
    /// It answered lately and takes jobs.
    pub live: bool,
    /// Free places, when live.
    pub free: u32,
    /// Age of the last answer, milliseconds; `None` when it never answered.
    pub age_ms: Option<u64>,
    /// What is wrong, when not live.
    pub error: Option<String>,
}

/// A file that the mount holds whole and checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Name in the directory.
    pub name: FileName,
    /// Final size in bytes.
    pub size: u64,
    /// Its digest.
    pub digest: Digest,
}

/// Bytes of the mount's segment cache, rounded up to whole disk blocks. Counted are kept files,
/// those that a reader still has open, and downloads under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheUsage {
    /// Bytes now.
    pub used: u64,
    /// Most bytes since the start; never above the ceiling.
    pub peak: u64,
    /// The hard ceiling.
    pub ceiling: u64,
    /// Files kept.
    pub files: u64,
}

/// How a mount is doing, for a person.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MountStatus {
    /// What it is.
    pub mount: MountInfo,
    /// Process that answers.
    pub process: u32,
    /// Whole files are read by the kernel without the mount's process.
    pub passthrough: bool,
    /// Why they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_passthrough: Option<String>,
    /// Files and directories that are open now.
    pub open: usize,
    /// Figures of the cache.
    pub cache: CacheUsage,
    /// All workers, best first.
    pub workers: Vec<WorkerRow>,
    /// Bound directories.
    pub bindings: Vec<BindingRow>,
}

/// A bound directory as the mount sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindingRow {
    /// Path under the mountpoint.
    pub directory: String,
    /// Session that it shows.
    pub session: Id,
    /// Worker's URL.
    pub worker: String,
    /// Epoch of the binding.
    pub epoch: u64,
    /// Files shown.
    pub held: usize,
    /// Media that nobody has read yet.
    pub unread: usize,
    /// Nothing new appears: it is being removed.
    pub frozen: bool,
    /// The reader must go on before more fits.
    pub full: bool,
}
