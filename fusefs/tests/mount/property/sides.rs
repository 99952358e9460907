//! Where the calls are made: on a directory, which may be a mount, or on the file system alone.

use crate::support::*;
use fuser::BackingId;
use plexbeam_api::mount::{XATTR_HELD, XATTR_SOURCE};
use plexbeam_fusefs::{
    FsConfig, Prepared, Secret,
    error::Error,
    fs::{Answer, BeamFs, Change, Entry, Taker},
    overlay::Owner,
    prepare,
};
use rustix::io::Errno;
use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

#[derive(Debug, Clone)]
pub(super) enum Call {
    Mkdir(PathBuf),
    Write(PathBuf, Vec<u8>),
    CreateNew(PathBuf, Vec<u8>),
    Append(PathBuf, Vec<u8>),
    Truncate(PathBuf, u64),
    Unlink(PathBuf),
    Rmdir(PathBuf),
    Rename(PathBuf, PathBuf),
    Link(PathBuf, PathBuf),
    Chmod(PathBuf, u32),
    Stat(PathBuf),
    List(PathBuf),
    Read(PathBuf),
}

impl Call {
    /// The path that comes first.
    pub(super) fn path(&self) -> &Path {
        match self {
            Call::Mkdir(path)
            | Call::Write(path, _)
            | Call::CreateNew(path, _)
            | Call::Append(path, _)
            | Call::Truncate(path, _)
            | Call::Unlink(path)
            | Call::Rmdir(path)
            | Call::Rename(path, _)
            | Call::Link(path, _)
            | Call::Chmod(path, _)
            | Call::Stat(path)
            | Call::List(path)
            | Call::Read(path) => path,
        }
    }

    pub(super) fn brief(&self) -> String {
        let text = format!("{self:?}");
        text.chars().take(150).collect()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Seen {
    Done,
    Bytes(Vec<u8>),
    Names(Vec<String>),
    Attributes {
        directory: bool,
        size: u64,
        mode: u32,
        links: u64,
    },
}

pub(super) trait Side {
    fn apply(&mut self, call: &Call) -> Result<Seen, Errno>;
    fn bind(&mut self, dir: &Path, value: &[u8]) -> Result<(), Errno>;
    /// Waits until a name is held, or never will be.
    fn wait_held(&mut self, dir: &Path, name: &str) -> Result<(), Errno>;
}

/// A directory.
pub(super) struct OnDisk {
    root: PathBuf,
}

impl OnDisk {
    pub(super) fn new(root: &Path) -> Self {
        OnDisk {
            root: root.to_path_buf(),
        }
    }

    pub(super) fn path(&self, path: &Path) -> PathBuf {
        self.root.join(path)
    }

    fn try_apply(&self, call: &Call) -> io::Result<Seen> {
        let path = self.path(call.path());
        let written = |options: &mut OpenOptions, data: &[u8]| {
            options.mode(0o644).open(&path)?.write_all(data)
        };
        match call {
            // Not by this process's mask, which a mount changes.
            Call::Mkdir(_) => fs::DirBuilder::new().mode(0o755).create(path)?,
            Call::Write(_, data) => written(
                OpenOptions::new().write(true).create(true).truncate(true),
                data,
            )?,
            Call::CreateNew(_, data) => {
                written(OpenOptions::new().write(true).create_new(true), data)?;
            }
            Call::Append(_, data) => {
                written(OpenOptions::new().append(true).create(true), data)?;
            }
            Call::Truncate(_, size) => OpenOptions::new().write(true).open(path)?.set_len(*size)?,
            Call::Unlink(_) => fs::remove_file(path)?,
            Call::Rmdir(_) => fs::remove_dir(path)?,
            Call::Rename(_, to) => fs::rename(path, self.path(to))?,
            Call::Link(_, to) => fs::hard_link(path, self.path(to))?,
            Call::Chmod(_, mode) => {
                fs::set_permissions(path, fs::Permissions::from_mode(*mode))?;
            }
            Call::Stat(_) => {
                let meta = fs::symlink_metadata(path)?;
                let directory = meta.is_dir();
                return Ok(Seen::Attributes {
                    directory,
                    size: if directory { 0 } else { meta.len() },
                    mode: meta.mode() & 0o7777,
                    links: if directory { 0 } else { meta.nlink() },
                });
            }
            Call::List(_) => {
                let mut names = Vec::new();
                for entry in fs::read_dir(path)? {
                    let name = entry?.file_name().into_string().unwrap();
                    if name != "sessions" {
                        names.push(name);
                    }
                }
                names.sort();
                return Ok(Seen::Names(names));
            }
            Call::Read(_) => return Ok(Seen::Bytes(fs::read(path)?)),
        }
        Ok(Seen::Done)
    }
}

impl Side for OnDisk {
    fn apply(&mut self, call: &Call) -> Result<Seen, Errno> {
        self.try_apply(call)
            .map_err(|error| Errno::from_io_error(&error).unwrap())
    }

    fn bind(&mut self, dir: &Path, value: &[u8]) -> Result<(), Errno> {
        set(&self.path(dir), XATTR_SOURCE, value)
    }

    fn wait_held(&mut self, dir: &Path, name: &str) -> Result<(), Errno> {
        wait_held(&self.path(dir), name).map(drop)
    }
}

/// The file system with no kernel: what the kernel asks before it calls is asked here.
pub(super) struct Kernelless {
    fs: Arc<BeamFs>,
    prepared: Prepared,
    looked_up: Vec<u64>,
}

/// Numbers that the calls below need.
const ROOT: u64 = 1;

impl Kernelless {
    pub(super) fn new(dir: &Path, worker: &FakeWorker) -> Self {
        let mut config = FsConfig::new(dir.join("root"));
        config.cache.dir = Some(dir.join("cache"));
        config.remote.workers = vec![worker.url()];
        config.remote.api_key = Some(Secret::new(KEY));
        config.remote.health_every = Duration::from_millis(200);
        let prepared = prepare(&config).unwrap();
        prepared.wait_workers(Duration::from_secs(20));
        Kernelless {
            fs: prepared.without_kernel().unwrap(),
            prepared,
            looked_up: Vec::new(),
        }
    }

    fn look_up(&mut self, parent: u64, name: &std::ffi::OsStr) -> Result<Entry, Error> {
        let entry = self.fs.lookup(parent, name)?;
        self.looked_up.push(entry.attr.ino.0);
        Ok(entry)
    }

    /// The directory that a path lies in, and its entry there.
    fn walk(&mut self, path: &Path) -> Result<(u64, Option<Entry>), Error> {
        let mut dir = ROOT;
        let mut parts = path.iter().peekable();
        while let Some(part) = parts.next() {
            let entry = self.look_up(dir, part);
            if parts.peek().is_none() {
                return match entry {
                    Ok(entry) => Ok((dir, Some(entry))),
                    Err(Error::NoName) => Ok((dir, None)),
                    Err(error) => Err(error),
                };
            }
            let entry = entry?;
            if entry.attr.kind != fuser::FileType::Directory {
                return Err(Error::NotDirectory);
            }
            dir = entry.attr.ino.0;
        }
        Ok((dir, Some(self.fs.getattr(ROOT)?)))
    }

    fn write(&self, handle: u64, offset: u64, data: &[u8]) -> Result<(), Error> {
        let written = self.fs.write(handle, offset, data, false);
        self.fs.release(handle);
        written
    }

    fn read(&self, number: u64) -> Result<Vec<u8>, Error> {
        let handle = self
            .fs
            .open(number, libc::O_RDONLY, &no_passthrough)?
            .handle;
        let mut all = Vec::new();
        let ended = loop {
            let bytes = match self.fs.read(handle, all.len() as u64, 4096, Taker::Process) {
                Ok(Answer::Now(bytes)) => Ok(bytes),
                Ok(Answer::Later(later)) => self.prepared.runtime().block_on(later),
                Err(error) => Err(error),
            };
            match bytes {
                Ok(bytes) if bytes.is_empty() => break Ok(all),
                Ok(bytes) => all.extend_from_slice(&bytes),
                Err(error) => break Err(error),
            }
        };
        self.fs.release(handle);
        ended
    }

    fn try_apply(&mut self, call: &Call) -> Result<Seen, Error> {
        let owner = Owner::new(0, 0);
        let (parent, entry) = self.walk(call.path())?;
        let name = call.path().file_name().unwrap_or_default();
        let is_dir = |entry: &Entry| entry.attr.kind == fuser::FileType::Directory;
        let taken = || Error::Backing(Errno::EXIST);
        let size = |size: u64, handle| Change {
            size: Some(size),
            handle: Some(handle),
            ..Change::default()
        };
        match (call, entry) {
            (Call::Mkdir(_), None) => drop(self.made(|fs| fs.mkdir(parent, name, 0o755, owner))?),
            (Call::Mkdir(_) | Call::CreateNew(..), Some(_)) => return Err(taken()),
            (Call::Write(_, data) | Call::CreateNew(_, data) | Call::Append(_, data), None) => {
                let flags = libc::O_WRONLY;
                let (entry, opened) =
                    self.fs
                        .create(parent, name, flags, 0o644, owner, &no_passthrough)?;
                self.looked_up.push(entry.attr.ino.0);
                self.write(opened.handle, 0, data)?;
            }
            (Call::Write(..) | Call::Append(..) | Call::Truncate(..), Some(entry))
                if is_dir(&entry) =>
            {
                return Err(Error::IsDirectory);
            }
            (Call::Write(_, data), Some(entry)) => {
                let number = entry.attr.ino.0;
                let handle = self
                    .fs
                    .open(number, libc::O_WRONLY, &no_passthrough)?
                    .handle;
                self.fs.setattr(number, &size(0, handle))?;
                self.write(handle, 0, data)?;
            }
            (Call::Append(_, data), Some(entry)) => {
                let flags = libc::O_WRONLY | libc::O_APPEND;
                let handle = self
                    .fs
                    .open(entry.attr.ino.0, flags, &no_passthrough)?
                    .handle;
                self.write(handle, entry.attr.size, data)?;
            }
            (Call::Truncate(_, to), Some(entry)) => {
                let number = entry.attr.ino.0;
                let handle = self
                    .fs
                    .open(number, libc::O_WRONLY, &no_passthrough)?
                    .handle;
                self.fs.setattr(number, &size(*to, handle))?;
                self.fs.release(handle);
            }
            (Call::Unlink(_), Some(entry)) if is_dir(&entry) => return Err(Error::IsDirectory),
            (Call::Unlink(_), Some(_)) => self.fs.unlink(parent, name)?,
            (Call::Rmdir(_) | Call::List(_), Some(entry)) if !is_dir(&entry) => {
                return Err(Error::NotDirectory);
            }
            (Call::Rmdir(_), Some(_)) => self.fs.rmdir(parent, name)?,
            (Call::List(_), Some(entry)) => return self.list(entry.attr.ino.0),
            (Call::Rename(from, to), source) => return self.rename(parent, from, to, source),
            (Call::Link(_, to), Some(source)) => {
                let (parent, target) = self.walk(to)?;
                if target.is_some() {
                    return Err(taken());
                }
                if is_dir(&source) {
                    return Err(Error::Backing(Errno::PERM));
                }
                let name = to.file_name().unwrap_or_default();
                self.made(|fs| fs.link(source.attr.ino.0, parent, name))?;
            }
            (Call::Chmod(_, mode), Some(entry)) => {
                let change = Change {
                    mode: Some(*mode),
                    ..Change::default()
                };
                self.fs.setattr(entry.attr.ino.0, &change)?;
            }
            (Call::Stat(_), Some(entry)) => {
                let directory = is_dir(&entry);
                return Ok(Seen::Attributes {
                    directory,
                    size: if directory { 0 } else { entry.attr.size },
                    mode: u32::from(entry.attr.perm),
                    links: if directory {
                        0
                    } else {
                        u64::from(entry.attr.nlink)
                    },
                });
            }
            (Call::Read(_), Some(entry)) if is_dir(&entry) => return Err(Error::IsDirectory),
            (Call::Read(_), Some(entry)) => return self.read(entry.attr.ino.0).map(Seen::Bytes),
            (_, None) => return Err(Error::NoName),
        }
        Ok(Seen::Done)
    }

    fn made(&mut self, make: impl FnOnce(&BeamFs) -> Result<Entry, Error>) -> Result<(), Error> {
        let entry = make(&self.fs)?;
        self.looked_up.push(entry.attr.ino.0);
        Ok(())
    }

    fn list(&self, number: u64) -> Result<Seen, Error> {
        let handle = self.fs.opendir(number)?;
        let listing = self.fs.listing(handle, true);
        self.fs.releasedir(handle);
        let listing = listing?;
        let names = listing
            .iter()
            .map(|entry| entry.name.as_ref().to_str().unwrap().to_owned())
            .filter(|name| ![".", "..", "sessions"].contains(&name.as_str()));
        let mut names: Vec<String> = names.collect();
        names.sort();
        Ok(Seen::Names(names))
    }

    fn rename(
        &mut self,
        parent: u64,
        from: &Path,
        to: &Path,
        source: Option<Entry>,
    ) -> Result<Seen, Error> {
        let is_dir = |entry: &Entry| entry.attr.kind == fuser::FileType::Directory;
        let (to_parent, target) = self.walk(to)?;
        let source = source.ok_or(Error::NoName)?;
        if from != to && to.starts_with(from) && is_dir(&source) {
            return Err(Error::Backing(Errno::INVAL));
        }
        if from != to && from.starts_with(to) {
            return Err(Error::Backing(Errno::NOTEMPTY));
        }
        if let Some(target) = target {
            if target.attr.ino == source.attr.ino {
                return Ok(Seen::Done);
            }
            match (is_dir(&source), is_dir(&target)) {
                (true, false) => return Err(Error::NotDirectory),
                (false, true) => return Err(Error::IsDirectory),
                _ => {}
            }
        }
        let (name, to_name) = (from.file_name().unwrap(), to.file_name().unwrap());
        self.fs.rename(parent, name, to_parent, to_name, 0)?;
        Ok(Seen::Done)
    }

    fn forget(&mut self) {
        for number in self.looked_up.drain(..) {
            self.fs.forget(number, 1);
        }
    }
}

fn no_passthrough(_: rustix::fd::BorrowedFd<'_>) -> io::Result<BackingId> {
    Err(io::Error::from_raw_os_error(libc::EPERM))
}

impl Side for Kernelless {
    fn apply(&mut self, call: &Call) -> Result<Seen, Errno> {
        let seen = self.try_apply(call).map_err(|error| error.errno());
        self.forget();
        seen
    }

    fn bind(&mut self, dir: &Path, value: &[u8]) -> Result<(), Errno> {
        let bound = self.walk(dir).and_then(|(_, entry)| {
            let number = entry.ok_or(Error::NoName)?.attr.ino.0;
            self.fs.setxattr(number, XATTR_SOURCE.as_ref(), value, 0)
        });
        self.forget();
        bound.map_err(|error| error.errno())
    }

    fn wait_held(&mut self, dir: &Path, name: &str) -> Result<(), Errno> {
        let attribute = format!("{XATTR_HELD}.{name}");
        let held = self.walk(dir).and_then(|(_, entry)| {
            let number = entry.ok_or(Error::NoName)?.attr.ino.0;
            loop {
                let answer = self.fs.getxattr(number, attribute.as_ref(), 0)?;
                let Answer::Later(later) = answer else {
                    return Ok(());
                };
                match self.prepared.runtime().block_on(later) {
                    Err(Error::NotYet | Error::Full) => {}
                    other => return other.map(drop),
                }
            }
        });
        self.forget();
        held.map_err(|error| error.errno())
    }
}
