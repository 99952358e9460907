//! From the kernel's calls to [`BeamFs`] and back. Nothing else names a reply.
//!
//! A handler never waits for the network: what must wait is parked with its reply. Only `read` and
//! `getxattr` ever are (a parked `lookup` would freeze its directory).

mod answer;
pub mod session;

use self::answer::{
    GENERATION, answer_attr, answer_empty, answer_entry, answer_xattr, errno, flags_of, owner,
    stamp,
};
use crate::{
    fs::{Access, Answer, BeamFs, Change, Taker},
    runtime::Crossing,
};
use fuser::{
    BsdFileFlags, Errno, FileHandle, Filesystem, FopenFlags, INodeNo, InitFlags, KernelConfig,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request,
    TimeOrNow, WriteFlags,
};
use rustix::fs::Timestamps;
use std::{ffi::OsStr, io, path::Path, sync::Arc, time::SystemTime};

/// Longest single write; what the kernel's default page limit allows.
const MAX_WRITE: u32 = 1 << 20;
/// Background requests, read-ahead among them.
const MAX_BACKGROUND: u16 = 64;

/// The adapter.
pub struct Adapter {
    fs: Arc<BeamFs>,
    crossing: Arc<Crossing>,
    passthrough: bool,
}

impl Adapter {
    /// An adapter that asks for passthrough or not.
    pub fn new(fs: Arc<BeamFs>, crossing: Arc<Crossing>, passthrough: bool) -> Self {
        Adapter {
            fs,
            crossing,
            passthrough,
        }
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Each is left out where the kernel does not know it.
        for flag in [
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_AUTO_INVAL_DATA,
        ] {
            let _ = config.add_capabilities(flag);
        }
        if self.passthrough
            && config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok()
            && config.set_max_stack_depth(2).is_ok()
        {
            self.fs.grant_passthrough();
        }
        let _ = config.set_max_write(MAX_WRITE);
        let _ = config.set_max_background(MAX_BACKGROUND);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        answer_entry(self.fs.lookup(parent.0, name), reply, "lookup", parent.0);
    }

    fn forget(&self, _: &Request, ino: INodeNo, nlookup: u64) {
        self.fs.forget(ino.0, nlookup);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        answer_attr(self.fs.getattr(ino.0), reply, "getattr", ino.0);
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let times = (atime.is_some() || mtime.is_some()).then(|| Timestamps {
            last_access: stamp(atime),
            last_modification: stamp(mtime),
        });
        let change = Change {
            mode,
            uid,
            gid,
            size,
            times,
            handle: fh.map(|fh| fh.0),
        };
        answer_attr(self.fs.setattr(ino.0, &change), reply, "setattr", ino.0);
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        match self.fs.readlink(ino.0) {
            Ok(target) => reply.data(target.as_bytes()),
            Err(error) => reply.error(errno(&error, "readlink", ino.0)),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let made = self.fs.mknod(parent.0, name, mode, rdev, owner(request));
        answer_entry(made, reply, "mknod", parent.0);
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let made = self.fs.mkdir(parent.0, name, mode, owner(request));
        answer_entry(made, reply, "mkdir", parent.0);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer_empty(self.fs.unlink(parent.0, name), reply, "unlink", parent.0);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer_empty(self.fs.rmdir(parent.0, name), reply, "rmdir", parent.0);
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        link_name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let made = self.fs.symlink(parent.0, link_name, target, owner(request));
        answer_entry(made, reply, "symlink", parent.0);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let moved = self
            .fs
            .rename(parent.0, name, newparent.0, newname, flags.bits());
        answer_empty(moved, reply, "rename", parent.0);
    }

    fn link(
        &self,
        _: &Request,
        ino: INodeNo,
        newparent: INodeNo,
        newname: &OsStr,
        reply: ReplyEntry,
    ) {
        answer_entry(
            self.fs.link(ino.0, newparent.0, newname),
            reply,
            "link",
            ino.0,
        );
    }

    fn open(&self, _: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let register = |fd: rustix::fd::BorrowedFd<'_>| reply.open_backing(fd);
        match self.fs.open(ino.0, flags.0, &register) {
            Ok(opened) => {
                if let Some(file) = opened.ahead.clone() {
                    let fs = self.fs.clone();
                    // Not here: room may have to be made for it.
                    self.crossing.handle().spawn(async move { fs.begin(&file) });
                }
                let (handle, flags) = (FileHandle(opened.handle), flags_of(&opened));
                match &opened.access {
                    Access::Passthrough(id) => reply.opened_passthrough(handle, flags, id),
                    Access::Cached { .. } | Access::Direct => reply.opened(handle, flags),
                }
            }
            Err(error) => reply.error(errno(&error, "open", ino.0)),
        }
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let register = |fd: rustix::fd::BorrowedFd<'_>| reply.open_backing(fd);
        match self
            .fs
            .create(parent.0, name, flags, mode, owner(request), &register)
        {
            Ok((entry, opened)) => {
                let (handle, flags) = (FileHandle(opened.handle), flags_of(&opened));
                let (ttl, attr) = (&entry.ttl, &entry.attr);
                match &opened.access {
                    Access::Passthrough(id) => {
                        reply.created_passthrough(ttl, attr, GENERATION, handle, flags, id);
                    }
                    Access::Cached { .. } | Access::Direct => {
                        reply.created(ttl, attr, GENERATION, handle, flags);
                    }
                }
            }
            Err(error) => reply.error(errno(&error, "create", parent.0)),
        }
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        // The kernel names an owner (FUSE_READ_LOCKOWNER) only where it reads for a process.
        let taker = match lock_owner {
            Some(_) => Taker::Process,
            None => Taker::PageCache,
        };
        match self.fs.read(fh.0, offset, size as usize, taker) {
            Ok(Answer::Now(bytes)) => reply.data(&bytes),
            Ok(Answer::Later(later)) => match self.crossing.place() {
                Ok(place) => place.park(async move {
                    match later.await {
                        Ok(bytes) => reply.data(&bytes),
                        Err(error) => reply.error(errno(&error, "read", ino.0)),
                    }
                }),
                Err(error) => reply.error(errno(&error, "read", ino.0)),
            },
            Err(error) => reply.error(errno(&error, "read", ino.0)),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mapped = write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        match self.fs.write(fh.0, offset, data, mapped) {
            Ok(()) => reply.written(data.len() as u32),
            Err(error) => reply.error(errno(&error, "write", ino.0)),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // Writes are through already.
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.fs.release(fh.0);
        reply.ok();
    }

    fn fsync(&self, _: &Request, ino: INodeNo, fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        answer_empty(self.fs.fsync(fh.0, datasync), reply, "fsync", ino.0);
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.fs.opendir(ino.0) {
            Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::empty()),
            Err(error) => reply.error(errno(&error, "opendir", ino.0)),
        }
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        match self.fs.listing(fh.0, offset == 0) {
            Ok(listing) => {
                // An offset is the position of the next name.
                for (at, entry) in listing.iter().enumerate().skip(offset as usize) {
                    let next = at as u64 + 1;
                    if reply.add(INodeNo(entry.number), next, entry.kind, entry.name.as_ref()) {
                        break;
                    }
                }
                reply.ok();
            }
            Err(error) => reply.error(errno(&error, "readdir", ino.0)),
        }
    }

    fn releasedir(&self, _: &Request, _: INodeNo, fh: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.fs.releasedir(fh.0);
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, fh: FileHandle, _: bool, reply: ReplyEmpty) {
        answer_empty(self.fs.fsyncdir(fh.0), reply, "fsyncdir", ino.0);
    }

    fn statfs(&self, _: &Request, ino: INodeNo, reply: ReplyStatfs) {
        match self.fs.statfs() {
            Ok(s) => reply.statfs(
                s.f_blocks,
                s.f_bfree,
                s.f_bavail,
                s.f_files,
                s.f_ffree,
                s.f_bsize as u32,
                s.f_namemax as u32,
                s.f_frsize as u32,
            ),
            Err(error) => reply.error(errno(&error, "statfs", ino.0)),
        }
    }

    fn setxattr(
        &self,
        _: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        answer_empty(
            self.fs.setxattr(ino.0, name, value, flags),
            reply,
            "setxattr",
            ino.0,
        );
    }

    fn getxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        name: &OsStr,
        size: u32,
        reply: ReplyXattr,
    ) {
        match self.fs.getxattr(ino.0, name, request.uid()) {
            Ok(Answer::Now(value)) => answer_xattr(Ok(value), size, reply, ino.0),
            Ok(Answer::Later(later)) => match self.crossing.place() {
                Ok(place) => {
                    place.park(async move { answer_xattr(later.await, size, reply, ino.0) });
                }
                Err(error) => answer_xattr(Err(error), size, reply, ino.0),
            },
            Err(error) => answer_xattr(Err(error), size, reply, ino.0),
        }
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        answer_xattr(self.fs.listxattr(ino.0), size, reply, ino.0);
    }

    fn removexattr(&self, _: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer_empty(
            self.fs.removexattr(ino.0, name),
            reply,
            "removexattr",
            ino.0,
        );
    }

    fn fallocate(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        answer_empty(
            self.fs.fallocate(fh.0, offset, length, mode),
            reply,
            "fallocate",
            ino.0,
        );
    }

    fn lseek(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        match self.fs.lseek(fh.0, offset, whence) {
            Ok(at) => reply.offset(at),
            Err(error) => reply.error(errno(&error, "lseek", ino.0)),
        }
    }

    fn ioctl(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: fuser::IoctlFlags,
        _: u32,
        _: &[u8],
        _: u32,
        reply: fuser::ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    fn copy_file_range(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: u64,
        _: fuser::CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        // The kernel then copies by reads and writes, and asks no more.
        reply.error(Errno::ENOSYS);
    }

    fn poll(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: fuser::PollNotifier,
        _: fuser::PollEvents,
        _: fuser::PollFlags,
        reply: fuser::ReplyPoll,
    ) {
        // The kernel then takes all files for ready, and asks no more.
        reply.error(Errno::ENOSYS);
    }
}
