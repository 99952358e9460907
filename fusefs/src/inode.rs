//! Inode numbers: given out once, never reused, kept as long as the kernel remembers them.

use crate::{
    binding::HeldFile,
    cache::CacheFile,
    error::{Error, Result},
    overlay::{UpperKey, UpperNode},
    remote::{RemoteFile, Session},
};
use fuser::BackingId;
use parking_lot::Mutex;
use std::{collections::HashMap, sync::Arc};

/// The root's number, by the protocol.
pub const ROOT: u64 = 1;

/// What an inode stands for.
#[derive(Debug)]
pub enum Node {
    /// A node of the upper layer.
    Upper(UpperNode),
    /// A held file of a bound directory.
    Held(Arc<HeldFile>),
    /// The directory `sessions/`.
    Sessions,
    /// `sessions/<id>/`.
    Session(Arc<Session>),
    /// `sessions/<id>/<name>`.
    File(Arc<RemoteFile>),
}

/// Identity of a node while it has a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Key {
    /// By the backing file system.
    Upper(UpperKey),
    /// By binding and file.
    Held(u64, u64),
    /// There is one.
    Sessions,
    /// By session.
    Session(u64),
    /// By file.
    File(u64),
}

impl Key {
    /// Key of a held file.
    pub fn held(held: &HeldFile) -> Self {
        Key::Held(held.bound, held.file.uid)
    }

    /// Key of a file under `sessions/`.
    pub fn file(file: &RemoteFile) -> Self {
        Key::File(file.uid)
    }
}

/// How an inode is open. All opens of one inode must agree (`EIO` otherwise), except that a
/// direct one may come before any other. What counts is the order in which the kernel takes our
/// answers, which is not the one in which they were given.
#[derive(Debug, Default)]
pub struct Io {
    /// Opens by passthrough, and what they share.
    pub passthrough: Option<Passthrough>,
    /// Opens through the page cache.
    pub cached: usize,
    /// Direct opens that the kernel may not have taken yet. Until then none is by passthrough, which
    /// it could take before them.
    pub underway: usize,
    /// The page cache may have bytes of it that were not checked.
    pub unchecked: bool,
}

/// A backing file registered with the kernel; kept until the last such open is closed.
#[derive(Debug)]
pub struct Passthrough {
    /// The registration.
    pub backing: Arc<BackingId>,
    /// The cache file behind it, when it is one.
    pub pinned: Option<Arc<CacheFile>>,
    /// Opens that use it.
    pub opens: usize,
}

/// A numbered node.
#[derive(Debug)]
pub struct Inode {
    /// Its number.
    pub number: u64,
    /// What it stands for.
    pub node: Node,
    /// How it is open.
    pub io: Mutex<Io>,
    key: Key,
}

impl Inode {
    /// The upper layer's directory that this is.
    pub fn upper_dir(&self) -> Result<&UpperNode> {
        match &self.node {
            Node::Upper(upper) if upper.kind() == rustix::fs::FileType::Directory => Ok(upper),
            Node::Sessions | Node::Session(_) => Err(Error::WorkerMade),
            Node::Upper(_) | Node::Held(_) | Node::File(_) => Err(Error::NotDirectory),
        }
    }
}

#[derive(Debug)]
struct Known {
    inode: Arc<Inode>,
    lookups: u64,
}

#[derive(Debug, Default)]
struct Table {
    by_number: HashMap<u64, Known>,
    by_key: HashMap<Key, u64>,
    next: u64,
}

/// All inodes that the kernel knows of.
#[derive(Debug)]
pub struct InodeTable {
    table: Mutex<Table>,
    root: Arc<Inode>,
}

impl InodeTable {
    /// Only the root is known.
    pub fn new(root: UpperNode) -> Self {
        let root = Arc::new(Inode {
            number: ROOT,
            key: Key::Upper(root.key()),
            node: Node::Upper(root),
            io: Mutex::default(),
        });
        InodeTable {
            table: Mutex::new(Table {
                next: ROOT + 1,
                ..Table::default()
            }),
            root,
        }
    }

    /// The inode of this number.
    pub fn get(&self, number: u64) -> Result<Arc<Inode>> {
        if number == ROOT {
            return Ok(self.root.clone());
        }
        let table = self.table.lock();
        let known = table.by_number.get(&number).ok_or(Error::NoInode(number))?;
        Ok(known.inode.clone())
    }

    /// The inode of this node, for an answer that the kernel counts as a lookup.
    pub fn look_up(&self, key: Key, node: Node) -> Arc<Inode> {
        let mut table = self.table.lock();
        if let Some(number) = table.by_key.get(&key).copied()
            && let Some(known) = table.by_number.get_mut(&number)
        {
            known.lookups += 1;
            return known.inode.clone();
        }
        let number = table.next;
        table.next += 1;
        let inode = Arc::new(Inode {
            number,
            node,
            io: Mutex::default(),
            key,
        });
        table.by_key.insert(key, number);
        let known = Known {
            inode: inode.clone(),
            lookups: 1,
        };
        table.by_number.insert(number, known);
        inode
    }

    /// The number of this node, when the kernel knows one.
    pub fn number(&self, key: &Key) -> Option<u64> {
        self.table.lock().by_key.get(key).copied()
    }

    /// The kernel takes back this many lookups.
    pub fn forget(&self, number: u64, lookups: u64) {
        let gone = {
            let mut table = self.table.lock();
            let Some(known) = table.by_number.get_mut(&number) else {
                return;
            };
            known.lookups = known.lookups.saturating_sub(lookups);
            if known.lookups > 0 {
                return;
            }
            let gone = table.by_number.remove(&number);
            if let Some(known) = &gone {
                table.by_key.remove(&known.inode.key);
            }
            gone
        };
        // Its descriptor is closed outside the lock.
        drop(gone);
    }
}
