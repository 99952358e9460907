//! The upper layer: a folder on local disk, spoken to by descriptors only.
//!
//! The root's descriptor is taken before the mount, and everything below is reached from a
//! descriptor by one name at a time, so that no call ever passes through our own mount, even where
//! the folder lies under it. Descriptors are `O_PATH`; contents and attributes of files are reached
//! through `/proc/self/fd`, which leads to the file itself whatever happened to its name.

use crate::error::{Error, Result};
use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{self, AtFlags, FileType, Gid, Mode, OFlags, Stat, Timestamps, Uid, XattrFlags},
    io::Errno,
};
use std::{
    ffi::{CString, OsStr, OsString},
    os::{fd::AsRawFd, unix::ffi::OsStringExt},
    path::Path,
};

/// Identity of a file in the upper layer. Unique while a descriptor to the file is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct UpperKey {
    dev: u64,
    ino: u64,
}

impl From<&Stat> for UpperKey {
    fn from(stat: &Stat) -> Self {
        UpperKey {
            dev: stat.st_dev,
            ino: stat.st_ino,
        }
    }
}

impl UpperKey {
    /// Device and number there.
    pub fn numbers(self) -> (u64, u64) {
        (self.dev, self.ino)
    }

    /// The key of these numbers.
    pub fn of_numbers(dev: u64, ino: u64) -> Self {
        UpperKey { dev, ino }
    }
}

/// A file, directory or other node of the upper layer. Its descriptor keeps its key from being
/// reused.
#[derive(Debug)]
pub struct UpperNode {
    fd: OwnedFd,
    key: UpperKey,
    kind: FileType,
}

/// Path to a descriptor's file that every path call takes.
fn magic(fd: impl AsFd) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}

/// A single path component; anything else would leave the directory.
fn component(name: &OsStr) -> Result<&OsStr> {
    let bytes = name.as_encoded_bytes();
    if bytes.is_empty() || bytes == b"." || bytes == b".." || bytes.contains(&b'/') {
        Err(Error::Backing(Errno::INVAL))
    } else {
        Ok(name)
    }
}

impl UpperNode {
    /// Opens the folder that is the root of the upper layer.
    pub fn root(path: &Path) -> std::io::Result<(Self, Stat)> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = fs::open(path, flags, Mode::empty())?;
        Self::of(fd).map_err(|error| error.errno().into())
    }

    fn of(fd: OwnedFd) -> Result<(Self, Stat)> {
        let stat = fs::statat(&fd, "", AtFlags::EMPTY_PATH)?;
        let node = UpperNode {
            key: UpperKey::from(&stat),
            kind: FileType::from_raw_mode(stat.st_mode),
            fd,
        };
        Ok((node, stat))
    }

    /// The node behind an open file.
    pub fn behind(file: &OwnedFd) -> Result<(Self, Stat)> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        Self::of(fs::open(magic(file), flags, Mode::empty())?)
    }

    /// A second descriptor to the same node.
    pub fn duplicate(&self) -> Result<Self> {
        Ok(UpperNode {
            fd: rustix::io::fcntl_dupfd_cloexec(&self.fd, 0)?,
            key: self.key,
            kind: self.kind,
        })
    }

    /// Identity.
    pub fn key(&self) -> UpperKey {
        self.key
    }

    /// Kind of node; it never changes.
    pub fn kind(&self) -> FileType {
        self.kind
    }

    /// The `O_PATH` descriptor.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Where it is now, as the kernel names it; of use only against the root's own path.
    pub fn path(&self) -> Result<OsString> {
        let path = fs::readlink(magic(&self.fd), Vec::new())?;
        Ok(OsString::from_vec(path.into_bytes()))
    }

    /// Attributes now.
    pub fn stat(&self) -> Result<Stat> {
        Ok(fs::statat(&self.fd, "", AtFlags::EMPTY_PATH)?)
    }

    /// The child of this name.
    pub fn child(&self, name: &OsStr) -> Result<(Self, Stat)> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match fs::openat(&self.fd, component(name)?, flags, Mode::empty()) {
            Ok(fd) => Self::of(fd),
            Err(Errno::NOENT) => Err(Error::NoName),
            Err(errno) => Err(errno.into()),
        }
    }

    /// True when a child of this name exists.
    pub fn has(&self, name: &OsStr) -> bool {
        component(name)
            .is_ok_and(|name| fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW).is_ok())
    }

    /// Names and kinds of all children, without `.` and `..`.
    pub fn list(&self) -> Result<Vec<(OsString, FileType, u64)>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = fs::openat(&self.fd, c".", flags, Mode::empty())?;
        let mut children = Vec::new();
        for entry in fs::Dir::new(fd)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                let name = OsString::from_vec(name.to_vec());
                children.push((name, entry.file_type(), entry.ino()));
            }
        }
        Ok(children)
    }

    /// Opens this node's content.
    pub fn open(&self, flags: OFlags) -> Result<OwnedFd> {
        // The way there is a link, whatever the caller thinks of links; the kernel has asked.
        let flags = flags.difference(OFlags::NOFOLLOW) | OFlags::CLOEXEC | OFlags::NOCTTY;
        Ok(fs::open(magic(&self.fd), flags, Mode::empty())?)
    }

    /// Creates or opens a regular file; new ones get this owner. True when it is new.
    pub fn create(
        &self,
        name: &OsStr,
        flags: OFlags,
        mode: Mode,
        owner: Owner,
    ) -> Result<(OwnedFd, bool)> {
        let name = component(name)?;
        let open =
            flags.difference(OFlags::CREATE | OFlags::EXCL) | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        // A file may come and go between the two attempts; a few rounds settle it.
        for _ in 0..8 {
            match fs::openat(&self.fd, name, open | OFlags::CREATE | OFlags::EXCL, mode) {
                Ok(fd) => {
                    self.give(&fd, owner, mode)?;
                    return Ok((fd, true));
                }
                Err(Errno::EXIST) if !flags.contains(OFlags::EXCL) => {}
                Err(errno) => return Err(errno.into()),
            }
            match fs::openat(&self.fd, name, open, mode) {
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno.into()),
                Ok(fd) => return Ok((fd, false)),
            }
        }
        Err(Errno::AGAIN.into())
    }

    /// Sets the owner of a node just made here: the caller, and the directory's group where its
    /// set-group-id bit asks for it.
    fn give(&self, fd: &OwnedFd, owner: Owner, mode: Mode) -> Result<()> {
        let made = fs::fstat(fd)?;
        let group = (self.stat()?.st_mode & Mode::SGID.as_raw_mode() == 0).then_some(owner.gid);
        if made.st_uid != owner.uid.as_raw() || group.is_some_and(|gid| gid.as_raw() != made.st_gid)
        {
            match fs::fchown(fd, Some(owner.uid), group) {
                Ok(()) => {
                    // A change of owner drops these bits.
                    if mode.intersects(Mode::SUID | Mode::SGID) {
                        fs::fchmod(fd, mode)?;
                    }
                }
                // Without privilege all files are the daemon's own.
                Err(Errno::PERM) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// The same for nodes that cannot be opened.
    fn give_path(&self, name: &OsStr, owner: Owner, mode: Option<Mode>) -> Result<()> {
        let (node, made) = self.child(name)?;
        let inherits = self.stat()?.st_mode & Mode::SGID.as_raw_mode() != 0;
        let group = (!inherits).then_some(owner.gid);
        if made.st_uid == owner.uid.as_raw() && group.is_none_or(|gid| gid.as_raw() == made.st_gid)
        {
            return Ok(());
        }
        match fs::chownat(&node.fd, "", Some(owner.uid), group, AtFlags::EMPTY_PATH) {
            Ok(()) => {
                if let Some(mode) = mode
                    && mode.intersects(Mode::SUID | Mode::SGID)
                {
                    node.set_mode(mode)?;
                }
                Ok(())
            }
            Err(Errno::PERM) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Makes a directory.
    pub fn make_dir(&self, name: &OsStr, mode: Mode, owner: Owner) -> Result<()> {
        fs::mkdirat(&self.fd, component(name)?, mode)?;
        self.give_path(name, owner, None)
    }

    /// Makes a fifo, socket, device or empty file.
    pub fn make_node(
        &self,
        name: &OsStr,
        kind: FileType,
        mode: Mode,
        device: u64,
        owner: Owner,
    ) -> Result<()> {
        fs::mknodat(&self.fd, component(name)?, kind, mode, device)?;
        self.give_path(name, owner, Some(mode))
    }

    /// Makes a symbolic link.
    pub fn make_symlink(&self, name: &OsStr, target: &Path, owner: Owner) -> Result<()> {
        fs::symlinkat(target, &self.fd, component(name)?)?;
        self.give_path(name, owner, None)
    }

    /// Makes a hard link to `target` here.
    pub fn make_link(&self, name: &OsStr, target: &UpperNode) -> Result<()> {
        let name = component(name)?;
        // Needs CAP_DAC_READ_SEARCH, where the magic link does for everybody who may link.
        match fs::linkat(&target.fd, "", &self.fd, name, AtFlags::EMPTY_PATH) {
            Err(Errno::NOENT | Errno::PERM) => {
                let flags = AtFlags::SYMLINK_FOLLOW;
                Ok(fs::linkat(
                    fs::CWD,
                    magic(&target.fd),
                    &self.fd,
                    name,
                    flags,
                )?)
            }
            other => Ok(other?),
        }
    }

    /// Removes a name that is no directory.
    pub fn unlink(&self, name: &OsStr) -> Result<()> {
        Ok(fs::unlinkat(&self.fd, component(name)?, AtFlags::empty())?)
    }

    /// Removes an empty directory.
    pub fn rmdir(&self, name: &OsStr) -> Result<()> {
        Ok(fs::unlinkat(
            &self.fd,
            component(name)?,
            AtFlags::REMOVEDIR,
        )?)
    }

    /// Moves a name; `flags` are those of `renameat2`.
    pub fn rename(
        &self,
        name: &OsStr,
        to: &UpperNode,
        to_name: &OsStr,
        flags: fs::RenameFlags,
    ) -> Result<()> {
        let (name, to_name) = (component(name)?, component(to_name)?);
        if flags.is_empty() {
            fs::renameat(&self.fd, name, &to.fd, to_name)?;
        } else {
            fs::renameat_with(&self.fd, name, &to.fd, to_name, flags)?;
        }
        Ok(())
    }

    /// Target of a symbolic link.
    pub fn read_link(&self) -> Result<CString> {
        Ok(fs::readlinkat(&self.fd, c"", Vec::new())?)
    }

    /// `chmod`.
    pub fn set_mode(&self, mode: Mode) -> Result<()> {
        if self.kind == FileType::Symlink {
            return Err(Error::Unsupported);
        }
        Ok(fs::chmodat(
            fs::CWD,
            magic(&self.fd),
            mode,
            AtFlags::empty(),
        )?)
    }

    /// `chown`.
    pub fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        Ok(fs::chownat(&self.fd, "", uid, gid, AtFlags::EMPTY_PATH)?)
    }

    /// `utimensat`.
    pub fn set_times(&self, times: &Timestamps) -> Result<()> {
        if self.kind == FileType::Symlink {
            fs::utimensat(&self.fd, "", times, AtFlags::EMPTY_PATH)?;
        } else {
            fs::utimensat(fs::CWD, magic(&self.fd), times, AtFlags::empty())?;
        }
        Ok(())
    }

    /// `truncate`.
    pub fn set_size(&self, size: u64) -> Result<()> {
        Ok(fs::ftruncate(self.open(OFlags::WRONLY)?, size)?)
    }

    /// Value of an extended attribute.
    pub fn attribute(&self, name: &OsStr) -> Result<Vec<u8>> {
        let path = magic(&self.fd);
        let mut value = Vec::new();
        // The value may grow between the question for its size and the read.
        for _ in 0..8 {
            value.resize(fs::getxattr_query(&path, name)?, 0);
            match fs::getxattr(&path, name, value.as_mut_slice()) {
                Ok(len) => {
                    value.truncate(len);
                    return Ok(value);
                }
                Err(Errno::RANGE) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Err(Errno::AGAIN.into())
    }

    /// Names of the extended attributes, each with a NUL at its end.
    pub fn attributes(&self) -> Result<Vec<u8>> {
        let path = magic(&self.fd);
        let mut names = Vec::new();
        for _ in 0..8 {
            names.resize(fs::listxattr_query(&path)?, 0);
            match fs::listxattr(&path, names.as_mut_slice()) {
                Ok(len) => {
                    names.truncate(len);
                    return Ok(names);
                }
                Err(Errno::RANGE) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Err(Errno::AGAIN.into())
    }

    /// Sets an extended attribute.
    pub fn set_attribute(&self, name: &OsStr, value: &[u8], flags: XattrFlags) -> Result<()> {
        Ok(fs::setxattr(magic(&self.fd), name, value, flags)?)
    }

    /// Removes an extended attribute.
    pub fn remove_attribute(&self, name: &OsStr) -> Result<()> {
        Ok(fs::removexattr(magic(&self.fd), name)?)
    }

    /// Figures of the file system below.
    pub fn statvfs(&self) -> Result<fs::StatVfs> {
        Ok(fs::fstatvfs(&self.fd)?)
    }
}

/// Who asked for a new file.
#[derive(Debug, Clone, Copy)]
pub struct Owner {
    uid: Uid,
    gid: Gid,
}

impl Owner {
    /// From the kernel's request.
    pub fn new(uid: u32, gid: u32) -> Self {
        Owner {
            uid: Uid::from_raw(uid),
            gid: Gid::from_raw(gid),
        }
    }
}

/// Reads until `buffer` is full or the file ends: a short answer to a cached read is taken by the
/// kernel for the end of the file.
pub fn read_full(fd: impl AsFd, buffer: &mut [u8], offset: u64) -> Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match rustix::io::pread(&fd, &mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(done)
}

/// Up to `len` bytes from `offset`, fewer at the end of the file only.
pub fn read_up_to(fd: impl AsFd, len: usize, offset: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        let at = offset + bytes.len() as u64;
        match rustix::io::pread(&fd, rustix::buffer::spare_capacity(&mut bytes), at) {
            Ok(0) => break,
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    // There may have been more room than was asked for.
    bytes.truncate(len);
    Ok(bytes)
}

/// Writes all of `data`.
pub fn write_full(fd: impl AsFd, data: &[u8], offset: u64) -> Result<()> {
    let mut done = 0;
    while done < data.len() {
        match rustix::io::pwrite(&fd, &data[done..], offset + done as u64) {
            Ok(n) => done += n,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}
