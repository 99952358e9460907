//! Read, write and the rest of what is done to an open file.

use super::{
    Answer, BeamFs, remote_file,
    stream::{read_past, read_playlist},
};
use crate::{
    cache::{Doubt, FileKey, Got},
    error::{Error, Result},
    handle::{Handle, Mode, RemoteHandle, UpperFile},
    inode::Node,
    overlay::{read_up_to, write_full},
    remote::FetchError,
};
use bytes::Bytes;
use rustix::{
    fs::{FallocateFlags, OFlags, SeekFrom},
    io::Errno,
};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

/// Longest pause between two attempts of a waiting read.
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// Who takes the answer to a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taker {
    /// A process, past the page cache: to it fewer bytes are just fewer.
    Process,
    /// The page cache, which the kernel fills for `mmap`, `splice` and `sendfile` of directly open files,
    /// too. Fewer bytes are the file's end to it, and it keeps what it gets.
    PageCache,
}

impl BeamFs {
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
    pub(super) fn taken(&self) {
        if self.underway.swap(false, Ordering::AcqRel) {
            let mut io = self.inode.io.lock();
            io.underway = io.underway.saturating_sub(1);
        }
    }

    /// What a directory held keeps its bytes: they are given when checked. Those of `sessions/` may
    /// be given as they arrive, and only a direct read may be short.
    pub(super) fn reads_arriving(&self) -> bool {
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
