//! Open, read, write, release.

use super::{
    Answer, BeamFs, remote_file,
    stream::{read_past, read_playlist},
};
use crate::{
    binding::HeldFile,
    cache::{Doubt, FileKey, Got},
    error::{Error, Result},
    handle::{Handle, Mode, RemoteHandle, UpperFile},
    inode::{Inode, Node, Passthrough},
    overlay::{read_up_to, write_full},
    remote::{FetchError, RemoteFile},
};
use bytes::Bytes;
use fuser::BackingId;
use parking_lot::Mutex;
use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{FallocateFlags, OFlags, SeekFrom},
    io::Errno,
};
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// Longest pause between two attempts of a waiting read.
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// Flags of an open that are not for our descriptor. `O_DIRECT` would ask for aligned buffers where
/// the kernel does not pass the file through; where it does, it opens the file anew.
const NOT_OURS: OFlags = OFlags::CREATE.union(OFlags::EXCL).union(OFlags::DIRECT);

/// Registers a descriptor for passthrough.
pub type Register<'a> = &'a dyn Fn(BorrowedFd<'_>) -> io::Result<BackingId>;

/// Who takes the answer to a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taker {
    /// A process, past the page cache: to it fewer bytes are just fewer.
    Process,
    /// The page cache, which the kernel fills for `mmap`, `splice` and `sendfile` of directly open files,
    /// too. Fewer bytes are the file's end to it, and it keeps what it gets.
    PageCache,
}

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

    /// `read`: up to `len` bytes, fewer at the end of the file, or where a process takes them and the rest
    /// has not arrived by the deadline.
    pub fn read(
        &self,
        handle: u64,
        offset: u64,
        len: usize,
        taker: Taker,
    ) -> Result<Answer<Bytes>> {
        let handle = self.handles.get(handle)?;
        let remote = match &*handle {
            Handle::Upper(file) => {
                return Ok(Answer::Now(read_up_to(&file.fd, len, offset)?.into()));
            }
            Handle::Remote(remote) => remote,
            Handle::Dir(_) => return Err(Error::IsDirectory),
        };
        remote.taken();
        remote.certain()?;
        let arriving = taker == Taker::Process && remote.reads_arriving();
        let wanted = remote.file.size().saturating_sub(offset).min(len as u64) as usize;
        if !remote.file.is_mutable() {
            if offset >= remote.file.size() {
                return Ok(Answer::Now(Bytes::new()));
            }
            let here = remote.pinned.clone();
            let here = here.or_else(|| self.parts.cache.get(&FileKey::of(&remote.file)));
            if let Some(here) = here {
                return Ok(Answer::Now(here.read(offset, len)?.into()));
            }
            // What does not come by itself is asked for below.
            if arriving
                && let Ok(Some(Got::Part(bytes, doubt))) =
                    self.parts
                        .cache
                        .arrived(&remote.file, offset, wanted, wanted)
            {
                return remote.given(bytes, doubt).map(Answer::Now);
            }
        }
        let (cache, source) = (self.parts.cache.clone(), self.parts.source.clone());
        let (deadline, renewal) = (self.parts.read_deadline, self.renewal());
        Ok(Answer::Later(Box::pin(async move {
            let Handle::Remote(remote) = &*handle else {
                return Err(Error::Internal("a handle changed its kind"));
            };
            let read = async {
                let mut pause = Duration::from_millis(50);
                loop {
                    let outcome = if remote.file.is_mutable() {
                        read_playlist(&*source, remote, offset, len).await
                    } else {
                        let got = if arriving {
                            cache.demand_part(&remote.file, offset, len).await
                        } else {
                            cache.demand(&remote.file).await
                        };
                        match got {
                            Ok(Got::File(here)) => {
                                remote.certain()?;
                                return here.read(offset, len).map(Bytes::from);
                            }
                            Ok(Got::Part(bytes, doubt)) => return remote.given(bytes, doubt),
                            Ok(Got::NoRoom) => {
                                if taker == Taker::PageCache {
                                    remote.inode.io.lock().unchecked = true;
                                }
                                read_past(&*source, remote, offset, len).await
                            }
                            Err(error) => Err(error),
                        }
                    };
                    let outcome = match outcome {
                        Err(FetchError::Replaced) => match renewal.of(remote).await {
                            Ok(error) => return Err(error),
                            Err(error) => Err(error),
                        },
                        other => other,
                    };
                    match outcome {
                        Ok(bytes) => return Ok(bytes),
                        Err(error) if error.is_passing() => {}
                        Err(FetchError::Gone) => return Err(Error::Gone),
                        Err(error) => return Err(Error::Remote(error.to_string())),
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(MAX_PAUSE);
                }
            };
            match tokio::time::timeout(deadline, read).await {
                Ok(outcome) => outcome,
                Err(_) if arriving => match cache.arrived(&remote.file, offset, wanted, 1) {
                    Ok(Some(Got::Part(bytes, doubt))) => remote.given(bytes, doubt),
                    Ok(_) | Err(_) => Err(Error::Deadline(deadline)),
                },
                Err(_) => Err(Error::Deadline(deadline)),
            }
        })))
    }

    /// `write`; `mapped` when it comes from a memory map, by whichever handle the kernel found.
    pub fn write(&self, handle: u64, offset: u64, data: &[u8], mapped: bool) -> Result<()> {
        let file = self.upper_file(handle)?;
        match &file.inode.node {
            Node::Upper(node) if mapped && file.appends => {
                write_full(node.open(OFlags::WRONLY)?, data, offset)
            }
            _ => write_full(&file.fd, data, offset),
        }
    }

    /// `fsync`.
    pub fn fsync(&self, handle: u64, data_only: bool) -> Result<()> {
        match self.upper_file(handle) {
            Ok(file) if data_only => Ok(rustix::fs::fdatasync(&file.fd)?),
            Ok(file) => Ok(rustix::fs::fsync(&file.fd)?),
            // A worker's file is as safe as it will be.
            Err(Error::WorkerMade) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// `fallocate`.
    pub fn fallocate(&self, handle: u64, offset: u64, len: u64, mode: i32) -> Result<()> {
        let mode = FallocateFlags::from_bits_retain(mode as u32);
        Ok(rustix::fs::fallocate(
            &self.upper_file(handle)?.fd,
            mode,
            offset,
            len,
        )?)
    }

    /// `lseek` to data or a hole; a worker's file has no holes.
    pub fn lseek(&self, handle: u64, offset: i64, whence: i32) -> Result<i64> {
        let start = u64::try_from(offset).map_err(|_| Error::Backing(Errno::INVAL))?;
        let handle = self.handles.get(handle)?;
        match (&*handle, whence) {
            (Handle::Upper(file), libc::SEEK_DATA) => {
                Ok(rustix::fs::seek(&file.fd, SeekFrom::Data(start))? as i64)
            }
            (Handle::Upper(file), libc::SEEK_HOLE) => {
                Ok(rustix::fs::seek(&file.fd, SeekFrom::Hole(start))? as i64)
            }
            (Handle::Remote(remote), libc::SEEK_DATA | libc::SEEK_HOLE) => {
                let size = remote.file.size();
                if start >= size {
                    Err(Error::Backing(Errno::NXIO))
                } else if whence == libc::SEEK_DATA {
                    Ok(offset)
                } else {
                    Ok(size as i64)
                }
            }
            _ => Err(Error::Backing(Errno::INVAL)),
        }
    }

    fn upper_file(&self, handle: u64) -> Result<UpperRef> {
        let handle = self.handles.get(handle)?;
        match &*handle {
            Handle::Upper(_) => Ok(UpperRef(handle)),
            Handle::Remote(_) => Err(Error::WorkerMade),
            Handle::Dir(_) => Err(Error::IsDirectory),
        }
    }

    /// True when this inode's content comes from a worker.
    pub fn is_remote(&self, number: u64) -> bool {
        self.inodes
            .get(number)
            .is_ok_and(|inode| remote_file(&inode.node).is_some())
    }
}

impl RemoteHandle {
    /// The kernel has taken the answer to the open.
    fn taken(&self) {
        if self.underway.swap(false, Ordering::AcqRel) {
            let mut io = self.inode.io.lock();
            io.underway = io.underway.saturating_sub(1);
        }
    }

    /// What a directory held keeps its bytes: they are given when checked. Those of `sessions/` may
    /// be given as they arrive, and only a direct read may be short.
    fn reads_arriving(&self) -> bool {
        self.held.is_none() && self.mode == Mode::Direct && !self.file.is_mutable()
    }

    /// Gives bytes that are not checked yet. Those of an earlier attempt may have been given, too.
    fn given(&self, bytes: Bytes, doubt: Doubt) -> Result<Bytes> {
        self.certain()?;
        *self.doubt.lock() = Some(doubt);
        Ok(bytes)
    }

    /// Fails when bytes that were read here turned out damaged: their reader must not take the file
    /// for whole.
    fn certain(&self) -> Result<()> {
        match &*self.doubt.lock() {
            Some(doubt) if doubt.is_confirmed() => Err(Error::Remote(
                "it broke off or came damaged while it was read".into(),
            )),
            Some(_) | None => Ok(()),
        }
    }
}

/// A handle known to be a file of the upper layer.
struct UpperRef(Arc<Handle>);

impl std::ops::Deref for UpperRef {
    type Target = UpperFile;

    fn deref(&self) -> &UpperFile {
        match &*self.0 {
            Handle::Upper(file) => file,
            Handle::Remote(_) | Handle::Dir(_) => unreachable!("checked where it is made"),
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
