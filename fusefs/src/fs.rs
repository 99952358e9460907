//! The file system without a kernel: names, attributes, contents. Nothing here waits; what must
//! wait is given back as a future ([`Answer::Later`]).
//!
//! * `fs/names.rs`: calls on directories.
//! * `fs/open.rs`: open and release.
//! * `fs/content.rs`: read, write and the rest of what is done to an open file.
//! * `fs/stream.rs`: reads past the cache.
//! * `fs/renew.rs`: what a worker dropped and made again with other bytes.
//! * `fs/xattr.rs`: extended attributes, the mount's own among them.

mod content;
mod names;
mod open;
mod renew;
mod stream;
mod xattr;

pub use content::Taker;
pub use open::{Access, Opened, Register};

use crate::{
    binding::{Bindings, HeldFile},
    cache::SegmentCache,
    config::{Secret, Shown},
    error::{Error, Result},
    handle::{Handle, HandleTable},
    inode::{Inode, InodeTable, Key, Node},
    overlay::UpperNode,
    remote::{Catalog, RemoteFile, SegmentSource},
};
use fuser::{FileAttr, FileType, INodeNo};
use futures_util::future::BoxFuture;
use plexbeam_api::mount::MountInfo;
use rustix::fs::{Mode, Stat, Timespec, Timestamps};
use std::{
    ffi::OsStr,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Directory at the root that shows all sessions.
pub const SESSIONS: &str = "sessions";
/// How long the kernel may keep what the upper layer said. The folder may also be changed beneath
/// the mount, so it is short.
const UPPER_TTL: Duration = Duration::from_secs(1);
/// How long the kernel may keep a held file's attributes: they never change, and its name goes only
/// by a call through the kernel.
const HELD_TTL: Duration = Duration::from_secs(60);
/// How long the kernel may keep what `sessions/` shows; an ended session is also taken back.
const SESSIONS_TTL: Duration = Duration::from_secs(1);

/// An answer that is there, or one to wait for within a bound.
pub enum Answer<T> {
    /// There.
    Now(T),
    /// Wait in a task, never in a thread that answers the kernel.
    Later(BoxFuture<'static, Result<T>>),
}

/// A name's inode as the kernel keeps it.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Attributes.
    pub attr: FileAttr,
    /// How long they may be kept; the name, too.
    pub ttl: Duration,
}

/// What a caller asks to change; `None` stays.
#[derive(Debug, Default, Clone)]
pub struct Change {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size in bytes.
    pub size: Option<u64>,
    /// Access and modification time.
    pub times: Option<Timestamps>,
    /// The handle by which it is asked.
    pub handle: Option<u64>,
}

/// The parts that a [`BeamFs`] is made of.
pub struct Parts {
    /// Root of the upper layer.
    pub root: UpperNode,
    /// What the workers have.
    pub catalog: Arc<Catalog>,
    /// Where bytes come from that the cache has no room for.
    pub source: Arc<dyn SegmentSource>,
    /// Where segments are kept.
    pub cache: Arc<SegmentCache>,
    /// Which directory shows which session.
    pub bindings: Bindings,
    /// What the mount says of itself, without the secret.
    pub info: MountInfo,
    /// Signs media URLs where there is no key.
    pub media_secret: Option<Secret>,
    /// Longest wait of a read.
    pub read_deadline: Duration,
    /// Owner and mode of what workers made.
    pub shown: Shown,
}

/// The file system.
pub struct BeamFs {
    parts: Parts,
    inodes: InodeTable,
    handles: HandleTable,
    /// The kernel grants passthrough; falls when a registration is refused for good.
    passthrough: AtomicBool,
}

impl std::fmt::Debug for BeamFs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BeamFs")
            .field("inodes", &self.inodes)
            .finish_non_exhaustive()
    }
}

impl BeamFs {
    /// A file system over these parts.
    pub fn new(parts: Parts) -> Result<Self> {
        Ok(BeamFs {
            inodes: InodeTable::new(parts.root.duplicate()?),
            handles: HandleTable::default(),
            passthrough: AtomicBool::new(false),
            parts,
        })
    }

    /// The kernel grants passthrough.
    pub fn grant_passthrough(&self) {
        self.passthrough
            .store(true, std::sync::atomic::Ordering::Release);
    }

    /// Why whole files are read here and not by the kernel; `None` where the kernel does.
    pub fn no_passthrough(&self) -> Option<&'static str> {
        let granted = self.passthrough.load(std::sync::atomic::Ordering::Acquire);
        (!granted).then_some("needs Linux 6.9 and CAP_SYS_ADMIN")
    }

    /// Does what was done by way of an earlier instance.
    pub fn apply(&self, change: crate::binding::Change) {
        self.parts.bindings.apply(&self.parts.root, change);
    }

    /// The number of this node of the upper layer, when the kernel knows it.
    pub fn upper_number(&self, dev: u64, ino: u64) -> Option<u64> {
        let key = crate::overlay::UpperKey::of_numbers(dev, ino);
        self.inodes.number(&Key::Upper(key))
    }

    /// Which directory shows which session.
    pub fn bindings(&self) -> &Bindings {
        &self.parts.bindings
    }

    /// The number of `sessions/`, when the kernel knows it.
    pub fn sessions_number(&self) -> Option<u64> {
        self.inodes.number(&Key::Sessions)
    }

    /// The child of this name.
    pub fn lookup(&self, parent: u64, name: &OsStr) -> Result<Entry> {
        let parent = self.inodes.get(parent)?;
        let inode = match &parent.node {
            Node::Upper(dir) => {
                if self.is_sessions(&parent, name) {
                    self.inodes.look_up(Key::Sessions, Node::Sessions)
                } else if let Some(held) = self.held(dir, name) {
                    self.inodes.look_up(Key::held(&held), Node::Held(held))
                } else {
                    let (node, _) = dir.child(name)?;
                    self.inodes
                        .look_up(Key::Upper(node.key()), Node::Upper(node))
                }
            }
            Node::Sessions => {
                let session = name
                    .to_str()
                    .and_then(|name| self.parts.catalog.shown(name));
                let session = session.ok_or(Error::NoName)?;
                self.inodes
                    .look_up(Key::Session(session.origin.uid), Node::Session(session))
            }
            Node::Session(session) => {
                let file = name.to_str().and_then(|name| session.file(name));
                let file = file.filter(|_| !session.is_gone()).ok_or(Error::NoName)?;
                self.inodes.look_up(Key::file(&file), Node::File(file))
            }
            Node::Held(_) | Node::File(_) => return Err(Error::NotDirectory),
        };
        self.entry(&inode)
            .inspect_err(|_| self.inodes.forget(inode.number, 1))
    }

    /// The kernel takes back lookups.
    pub fn forget(&self, number: u64, lookups: u64) {
        self.inodes.forget(number, lookups);
    }

    /// Attributes.
    pub fn getattr(&self, number: u64) -> Result<Entry> {
        self.entry(&*self.inodes.get(number)?)
    }

    /// Changes attributes.
    pub fn setattr(&self, number: u64, change: &Change) -> Result<Entry> {
        let inode = self.inodes.get(number)?;
        let Node::Upper(node) = &inode.node else {
            return Err(Error::WorkerMade);
        };
        // A change of owner drops set-id bits, so the mode comes after it.
        if change.uid.is_some() || change.gid.is_some() {
            node.set_owner(change.uid, change.gid)?;
        }
        if let Some(mode) = change.mode {
            node.set_mode(Mode::from_raw_mode(mode & 0o7777))?;
        }
        if let Some(size) = change.size {
            let handle = change
                .handle
                .and_then(|handle| self.handles.get(handle).ok());
            match handle.as_deref() {
                Some(Handle::Upper(file)) => rustix::fs::ftruncate(&file.fd, size)?,
                _ => node.set_size(size)?,
            }
        }
        if let Some(times) = &change.times {
            node.set_times(times)?;
        }
        self.entry(&inode)
    }

    /// Figures of the backing file system.
    pub fn statfs(&self) -> Result<rustix::fs::StatVfs> {
        self.parts.root.statvfs()
    }

    fn is_sessions(&self, parent: &Inode, name: &OsStr) -> bool {
        parent.number == crate::inode::ROOT && name == SESSIONS
    }

    fn held(&self, dir: &UpperNode, name: &OsStr) -> Option<Arc<HeldFile>> {
        self.parts.bindings.get(dir.key())?.present(name.to_str()?)
    }

    fn entry(&self, inode: &Inode) -> Result<Entry> {
        let number = inode.number;
        Ok(match &inode.node {
            Node::Upper(node) => {
                let mut attr = upper_attr(number, &node.stat()?);
                if attr.kind == FileType::Directory
                    && let Some(bound) = self.parts.bindings.get(node.key())
                {
                    let changed = bound.changed_at();
                    attr.mtime = attr.mtime.max(changed);
                    attr.ctime = attr.ctime.max(changed);
                }
                Entry {
                    attr,
                    ttl: UPPER_TTL,
                }
            }
            Node::Held(held) => Entry {
                attr: file_attr(
                    number,
                    held.file.size(),
                    self.parts.shown.mode(0o666, 0o644),
                    held.since,
                    self.parts.shown.owner(held.owner),
                ),
                ttl: if held.file.is_mutable() {
                    Duration::ZERO
                } else {
                    HELD_TTL
                },
            },
            Node::Sessions => self.directory(number, UNIX_EPOCH)?,
            Node::Session(session) => {
                let made = session
                    .created_at()
                    .and_then(|seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds)));
                self.directory(number, made.unwrap_or(session.seen))?
            }
            Node::File(file) => {
                let mode = self.parts.shown.mode(0o666, 0o640);
                Entry {
                    attr: file_attr(number, file.size(), mode, file.seen, self.owner()?),
                    ttl: if file.is_mutable() {
                        Duration::ZERO
                    } else {
                        SESSIONS_TTL
                    },
                }
            }
        })
    }

    /// Whose `sessions/` is.
    fn owner(&self) -> Result<(u32, u32)> {
        let root = self.parts.root.stat()?;
        Ok(self.parts.shown.owner((root.st_uid, root.st_gid)))
    }

    /// A directory of `sessions/`.
    fn directory(&self, number: u64, time: SystemTime) -> Result<Entry> {
        let mode = self.parts.shown.mode(0o777, 0o750);
        let mut attr = file_attr(number, 0, mode, time, self.owner()?);
        attr.kind = FileType::Directory;
        attr.nlink = 2;
        Ok(Entry {
            attr,
            ttl: SESSIONS_TTL,
        })
    }
}

fn file_attr(number: u64, size: u64, perm: u16, time: SystemTime, owner: (u32, u32)) -> FileAttr {
    FileAttr {
        ino: INodeNo(number),
        size,
        blocks: size.div_ceil(512),
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind: FileType::RegularFile,
        perm,
        nlink: 1,
        uid: owner.0,
        gid: owner.1,
        rdev: 0,
        blksize: 128 << 10,
        flags: 0,
    }
}

fn upper_attr(number: u64, stat: &Stat) -> FileAttr {
    let mtime = time(stat.st_mtime, stat.st_mtime_nsec as u32);
    FileAttr {
        ino: INodeNo(number),
        size: stat.st_size as u64,
        blocks: stat.st_blocks as u64,
        atime: time(stat.st_atime, stat.st_atime_nsec as u32),
        mtime,
        ctime: time(stat.st_ctime, stat.st_ctime_nsec as u32),
        crtime: mtime,
        kind: kind(rustix::fs::FileType::from_raw_mode(stat.st_mode)),
        perm: (stat.st_mode & 0o7777) as u16,
        nlink: stat.st_nlink as u32,
        uid: stat.st_uid,
        gid: stat.st_gid,
        rdev: stat.st_rdev as u32,
        blksize: stat.st_blksize as u32,
        flags: 0,
    }
}

fn kind(kind: rustix::fs::FileType) -> FileType {
    use rustix::fs::FileType as Upper;
    match kind {
        Upper::Directory => FileType::Directory,
        Upper::Symlink => FileType::Symlink,
        Upper::Fifo => FileType::NamedPipe,
        Upper::Socket => FileType::Socket,
        Upper::CharacterDevice => FileType::CharDevice,
        Upper::BlockDevice => FileType::BlockDevice,
        // A listing may leave the kind open; a lookup tells it.
        Upper::RegularFile | Upper::Unknown => FileType::RegularFile,
    }
}

fn time(seconds: i64, nanos: u32) -> SystemTime {
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let base = if seconds < 0 {
        UNIX_EPOCH.checked_sub(whole)
    } else {
        UNIX_EPOCH.checked_add(whole)
    };
    base.and_then(|base| base.checked_add(Duration::from_nanos(u64::from(nanos))))
        .unwrap_or(UNIX_EPOCH)
}

/// The kernel's form of a time.
pub fn timespec(time: SystemTime) -> Timespec {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => Timespec {
            tv_sec: after.as_secs() as i64,
            tv_nsec: i64::from(after.subsec_nanos()),
        },
        Err(before) => {
            let before = before.duration();
            let nanos = i64::from(before.subsec_nanos());
            let borrow = i64::from(nanos > 0);
            Timespec {
                tv_sec: -(before.as_secs() as i64) - borrow,
                tv_nsec: borrow * 1_000_000_000 - nanos,
            }
        }
    }
}

/// A worker's file behind an inode, and the binding that shows it.
fn remote_file(node: &Node) -> Option<(&Arc<RemoteFile>, Option<&Arc<HeldFile>>)> {
    match node {
        Node::Held(held) => Some((&held.file, Some(held))),
        Node::File(file) => Some((file, None)),
        Node::Upper(_) | Node::Sessions | Node::Session(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_the_epoch_survive_the_crossing() {
        for (seconds, nanos) in [(0, 0), (5, 7), (-1, 0), (-1, 999_999_999), (-5, 1)] {
            let there = timespec(time(seconds, nanos));
            assert_eq!((there.tv_sec, there.tv_nsec), (seconds, i64::from(nanos)));
        }
    }
}
