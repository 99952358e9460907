//! Open and release: by which way the kernel reads and writes a file.

use super::BeamFs;
use crate::{
    binding::HeldFile,
    cache::FileKey,
    error::{Error, Result},
    handle::{Handle, Mode, RemoteHandle, UpperFile},
    inode::{Inode, Node, Passthrough},
    remote::RemoteFile,
};
use fuser::BackingId;
use parking_lot::Mutex;
use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::OFlags,
};
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// Flags of an open that are not for our descriptor. `O_DIRECT` would ask for aligned buffers where
/// the kernel does not pass the file through; where it does, it opens the file anew.
const NOT_OURS: OFlags = OFlags::CREATE.union(OFlags::EXCL).union(OFlags::DIRECT);

/// Registers a descriptor for passthrough.
pub type Register<'a> = &'a dyn Fn(BorrowedFd<'_>) -> io::Result<BackingId>;

/// How the kernel is to use an open file.
#[derive(Debug)]
pub enum Access {
    /// By this backing file.
    Passthrough(Arc<BackingId>),
    /// Through the page cache; `keep` what an earlier open left there.
    Cached {
        /// The bytes never change.
        keep: bool,
    },
    /// Past the page cache.
    Direct,
}

/// An open file.
#[derive(Debug)]
pub struct Opened {
    /// Its handle.
    pub handle: u64,
    /// How the kernel is to use it.
    pub access: Access,
    /// The file came from a worker: there is nothing to flush.
    pub remote: bool,
    /// What its first reads will ask for, to be begun beside them ([`BeamFs::begin`]).
    pub ahead: Option<Arc<RemoteFile>>,
}

impl BeamFs {
    /// `open`.
    pub fn open(&self, number: u64, flags: i32, register: Register<'_>) -> Result<Opened> {
        let inode = self.inodes.get(number)?;
        let flags = OFlags::from_bits_retain(flags as u32);
        match &inode.node {
            Node::Upper(node) => {
                let fd = node.open(flags.difference(NOT_OURS))?;
                Ok(self.opened_upper(inode, fd, flags.contains(OFlags::APPEND), register))
            }
            Node::Held(held) => {
                let (file, held) = (held.file.clone(), Some(held.clone()));
                self.open_remote(inode, file, held, flags, register)
            }
            Node::File(file) => {
                let file = file.clone();
                self.open_remote(inode, file, None, flags, register)
            }
            Node::Sessions | Node::Session(_) => Err(Error::IsDirectory),
        }
    }

    pub(super) fn opened_upper(
        &self,
        inode: Arc<Inode>,
        fd: OwnedFd,
        appends: bool,
        register: Register<'_>,
    ) -> Opened {
        let regular = matches!(&inode.node, Node::Upper(node)
            if node.kind() == rustix::fs::FileType::RegularFile);
        let access = {
            let mut io = inode.io.lock();
            if let Some(passthrough) = &mut io.passthrough {
                passthrough.opens += 1;
                Access::Passthrough(passthrough.backing.clone())
            } else {
                let backing = if regular && io.cached == 0 {
                    self.register(fd.as_fd(), register)
                } else {
                    None
                };
                match backing {
                    Some(backing) => {
                        io.passthrough = Some(Passthrough {
                            backing: backing.clone(),
                            pinned: None,
                            opens: 1,
                        });
                        Access::Passthrough(backing)
                    }
                    None => {
                        io.cached += 1;
                        Access::Cached { keep: false }
                    }
                }
            }
        };
        let mode = mode_of(&access);
        let handle = self.handles.add(Handle::Upper(UpperFile {
            inode,
            fd,
            appends,
            mode,
        }));
        Opened {
            handle,
            access,
            remote: false,
            ahead: None,
        }
    }

    fn open_remote(
        &self,
        inode: Arc<Inode>,
        file: Arc<RemoteFile>,
        held: Option<Arc<HeldFile>>,
        flags: OFlags,
        register: Register<'_>,
    ) -> Result<Opened> {
        if flags.intersects(OFlags::WRONLY | OFlags::RDWR | OFlags::TRUNC) {
            return Err(Error::WorkerMade);
        }
        if file.is_replaced() {
            return Err(Error::Replaced);
        }
        // Before the question whether it is still held: a removal takes the name first.
        let here = if file.is_mutable() {
            None
        } else {
            self.parts.cache.get(&FileKey::of(&file))
        };
        // False where the name was removed between its lookup and this open.
        let mut named = true;
        let held = held.and_then(|held| {
            let bound = self.parts.bindings.by_uid(held.bound);
            named = bound.as_ref().is_some_and(|bound| bound.opened(&held));
            Some((bound?, held))
        });
        let (access, pinned) = if file.is_mutable() {
            (Access::Direct, None)
        } else {
            let mut io = inode.io.lock();
            if let Some(passthrough) = &mut io.passthrough {
                passthrough.opens += 1;
                (
                    Access::Passthrough(passthrough.backing.clone()),
                    passthrough.pinned.clone(),
                )
            } else if let Some(here) = here {
                let backing = if io.cached == 0 && io.underway == 0 {
                    self.register(here.file().as_fd(), register)
                } else {
                    None
                };
                match backing {
                    Some(backing) => {
                        io.passthrough = Some(Passthrough {
                            backing: backing.clone(),
                            pinned: Some(here.clone()),
                            opens: 1,
                        });
                        (Access::Passthrough(backing), Some(here))
                    }
                    None => {
                        io.cached += 1;
                        let keep = !std::mem::take(&mut io.unchecked);
                        (Access::Cached { keep }, Some(here))
                    }
                }
            } else if named {
                io.underway += 1;
                (Access::Direct, None)
            } else {
                return Err(Error::NoName);
            }
        };
        let mode = mode_of(&access);
        let underway = mode == Mode::Direct && !file.is_mutable();
        let remote = RemoteHandle {
            inode,
            file,
            held,
            pinned,
            mode,
            underway: AtomicBool::new(underway),
            doubt: Mutex::default(),
            window: tokio::sync::Mutex::default(),
        };
        let ahead = remote.reads_arriving().then(|| remote.file.clone());
        let handle = self.handles.add(Handle::Remote(Box::new(remote)));
        Ok(Opened {
            handle,
            access,
            remote: true,
            ahead,
        })
    }

    /// Begins to fetch a file that was opened; within tokio's runtime.
    pub fn begin(&self, file: &Arc<RemoteFile>) {
        self.parts.cache.begin(file);
    }

    fn register(&self, fd: BorrowedFd<'_>, register: Register<'_>) -> Option<Arc<BackingId>> {
        if !self.passthrough.load(Ordering::Acquire) {
            return None;
        }
        match register(fd) {
            Ok(backing) => Some(Arc::new(backing)),
            Err(error) => {
                // Without CAP_SYS_ADMIN none will be granted.
                if matches!(error.raw_os_error(), Some(libc::EPERM | libc::EOPNOTSUPP)) {
                    tracing::info!(%error, "no passthrough, reading and writing by hand");
                    self.passthrough.store(false, Ordering::Release);
                } else {
                    tracing::debug!(%error, "no passthrough for this file");
                }
                None
            }
        }
    }

    /// `close` of the last descriptor.
    pub fn release(&self, handle: u64) {
        let Some(handle) = self.handles.remove(handle) else {
            return;
        };
        let (inode, mode) = match &*handle {
            Handle::Upper(file) => (&file.inode, file.mode),
            Handle::Remote(remote) => {
                remote.taken();
                (&remote.inode, remote.mode)
            }
            Handle::Dir(_) => return,
        };
        let unregistered = {
            let mut io = inode.io.lock();
            match mode {
                Mode::Passthrough => match &mut io.passthrough {
                    Some(passthrough) if passthrough.opens > 1 => {
                        passthrough.opens -= 1;
                        None
                    }
                    _ => io.passthrough.take(),
                },
                Mode::Cached => {
                    io.cached = io.cached.saturating_sub(1);
                    None
                }
                Mode::Direct => None,
            }
        };
        drop(unregistered);
        let closed = match &*handle {
            Handle::Remote(remote) => Some(remote.held.clone()),
            Handle::Upper(_) | Handle::Dir(_) => None,
        };
        // The cache file must be let go before it is said that it may be pushed out.
        drop(handle);
        match closed {
            Some(Some((bound, held))) => bound.closed(&held),
            Some(None) => self.parts.cache.closed(),
            None => {}
        }
    }
}

fn mode_of(access: &Access) -> Mode {
    match access {
        Access::Passthrough(_) => Mode::Passthrough,
        Access::Cached { .. } => Mode::Cached,
        Access::Direct => Mode::Direct,
    }
}
