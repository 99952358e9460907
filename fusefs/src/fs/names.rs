//! Calls on directories. In a bound directory held names come first; `sessions/` and what lies in
//! it is read-only.

use super::{BeamFs, Entry, SESSIONS, kind};
use crate::{
    binding::{BoundDir, Claim},
    error::{Error, Result},
    handle::{DirHandle, Handle, ListEntry, ListName},
    inode::{Inode, Key, Node, ROOT},
    overlay::{Owner, UpperNode},
    remote::RemoteFile,
};
use fuser::FileType;
use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags, RenameFlags};
use std::{
    collections::HashSet,
    ffi::{CString, OsStr, OsString},
    path::Path,
    sync::Arc,
};

/// Number of a listed name that the kernel has not looked up yet; libfuse's value for it.
const UNKNOWN_NUMBER: u64 = 0xffff_ffff;

impl BeamFs {
    fn parent(&self, number: u64, name: &OsStr) -> Result<Arc<Inode>> {
        let parent = self.inodes.get(number)?;
        parent.upper_dir()?;
        if self.is_sessions(&parent, name) {
            Err(Error::Taken)
        } else {
            Ok(parent)
        }
    }

    fn bound(&self, dir: &UpperNode) -> Option<Arc<BoundDir>> {
        self.parts.bindings.get(dir.key())
    }

    fn made(&self, dir: &UpperNode, name: &OsStr) -> Result<Entry> {
        let (node, _) = dir.child(name)?;
        let inode = self
            .inodes
            .look_up(Key::Upper(node.key()), Node::Upper(node));
        self.entry(&inode)
            .inspect_err(|_| self.inodes.forget(inode.number, 1))
    }

    /// Makes something new in the upper layer, unless its name is held.
    fn make(
        &self,
        parent: u64,
        name: &OsStr,
        make: impl FnOnce(&UpperNode) -> Result<()>,
    ) -> Result<Entry> {
        let parent = self.parent(parent, name)?;
        let dir = parent.upper_dir()?;
        let bound = self.bound(dir);
        let _claim = claim(bound.as_ref(), name)?;
        make(dir)?;
        self.made(dir, name)
    }

    /// `mkdir`.
    pub fn mkdir(&self, parent: u64, name: &OsStr, mode: u32, owner: Owner) -> Result<Entry> {
        self.make(parent, name, |dir| {
            dir.make_dir(name, Mode::from_raw_mode(mode), owner)
        })
    }

    /// `mknod`.
    pub fn mknod(
        &self,
        parent: u64,
        name: &OsStr,
        mode: u32,
        device: u32,
        owner: Owner,
    ) -> Result<Entry> {
        let kind = rustix::fs::FileType::from_raw_mode(mode);
        let mode = Mode::from_raw_mode(mode & 0o7777);
        self.make(parent, name, |dir| {
            dir.make_node(name, kind, mode, u64::from(device), owner)
        })
    }

    /// `symlink`.
    pub fn symlink(&self, parent: u64, name: &OsStr, target: &Path, owner: Owner) -> Result<Entry> {
        self.make(parent, name, |dir| dir.make_symlink(name, target, owner))
    }

    /// `link`.
    pub fn link(&self, target: u64, parent: u64, name: &OsStr) -> Result<Entry> {
        let target = self.inodes.get(target)?;
        let Node::Upper(target) = &target.node else {
            return Err(Error::CrossesLayers);
        };
        self.make(parent, name, |dir| dir.make_link(name, target))
    }

    /// `readlink`.
    pub fn readlink(&self, number: u64) -> Result<CString> {
        match &self.inodes.get(number)?.node {
            Node::Upper(node) => node.read_link(),
            Node::Held(_) | Node::Sessions | Node::Session(_) | Node::File(_) => {
                Err(Error::Backing(rustix::io::Errno::INVAL))
            }
        }
    }

    /// `open` with `O_CREAT` of a name that was not there.
    pub fn create(
        &self,
        parent: u64,
        name: &OsStr,
        flags: i32,
        mode: u32,
        owner: Owner,
        register: super::Register<'_>,
    ) -> Result<(Entry, super::Opened)> {
        let parent = self.parent(parent, name)?;
        let dir = parent.upper_dir()?;
        let bound = self.bound(dir);
        let _claim = claim(bound.as_ref(), name)?;
        let flags = OFlags::from_bits_retain(flags as u32).difference(OFlags::DIRECT);
        let (fd, _) = dir.create(name, flags, Mode::from_raw_mode(mode & 0o7777), owner)?;
        let (node, _) = UpperNode::behind(&fd)?;
        let inode = self
            .inodes
            .look_up(Key::Upper(node.key()), Node::Upper(node));
        let entry = self
            .entry(&inode)
            .inspect_err(|_| self.inodes.forget(inode.number, 1))?;
        Ok((
            entry,
            self.opened_upper(inode, fd, flags.contains(OFlags::APPEND), register),
        ))
    }

    /// `unlink`.
    pub fn unlink(&self, parent: u64, name: &OsStr) -> Result<()> {
        let parent = self.parent(parent, name).map_err(not_ours)?;
        let dir = parent.upper_dir()?;
        if let (Some(bound), Some(text)) = (self.bound(dir), name.to_str())
            && bound.unlink(text)
        {
            return Ok(());
        }
        dir.unlink(name)
    }

    /// `rmdir`. Held names do not keep a directory from being removed; they go with it, and its
    /// sessions end.
    pub fn rmdir(&self, parent: u64, name: &OsStr) -> Result<()> {
        let parent = self.parent(parent, name).map_err(not_ours)?;
        let dir = parent.upper_dir()?;
        let (child, _) = dir.child(name)?;
        if let Some(bound) = self.bound(&child) {
            bound.freeze();
        }
        dir.rmdir(name)?;
        self.parts.bindings.remove(child.key());
        Ok(())
    }

    /// `rename`.
    pub fn rename(
        &self,
        parent: u64,
        name: &OsStr,
        to: u64,
        to_name: &OsStr,
        flags: u32,
    ) -> Result<()> {
        let flags = RenameFlags::from_bits_retain(flags);
        if flags.contains(RenameFlags::WHITEOUT) {
            return Err(Error::Backing(rustix::io::Errno::INVAL));
        }
        let parent = self.parent(parent, name).map_err(not_ours)?;
        let to = self.parent(to, to_name).map_err(not_ours)?;
        let (dir, to_dir) = (parent.upper_dir()?, to.upper_dir()?);
        if self.held(dir, name).is_some() {
            return Err(Error::CrossesLayers);
        }
        let bound = self.bound(to_dir);
        let claimed = claim(bound.as_ref(), to_name).map_err(|error| match error {
            Error::Taken if flags.contains(RenameFlags::EXCHANGE) => Error::CrossesLayers,
            Error::Taken if !flags.contains(RenameFlags::NOREPLACE) => Error::WorkerMade,
            other => other,
        })?;
        // A bound directory that is replaced is removed like by rmdir.
        let replaced = if flags.is_empty() {
            to_dir.child(to_name).ok().map(|(node, _)| node.key())
        } else {
            None
        };
        let moved = dir.child(name)?.0.key();
        dir.rename(name, to_dir, to_name, flags)?;
        drop(claimed);
        if let Some(key) = replaced
            && key != moved
            && self.parts.bindings.get(key).is_some()
            && to_dir
                .child(to_name)
                .is_ok_and(|(node, _)| node.key() != key)
        {
            self.parts.bindings.remove(key);
        }
        Ok(())
    }

    /// `opendir`.
    pub fn opendir(&self, number: u64) -> Result<u64> {
        let inode = self.inodes.get(number)?;
        match &inode.node {
            Node::Upper(_) => drop(inode.upper_dir()?),
            Node::Sessions | Node::Session(_) => {}
            Node::Held(_) | Node::File(_) => return Err(Error::NotDirectory),
        }
        let listing = Mutex::default();
        Ok(self.handles.add(Handle::Dir(DirHandle { inode, listing })))
    }

    /// The names of an open directory; made anew when `from_start`.
    pub fn listing(&self, handle: u64, from_start: bool) -> Result<Arc<Vec<ListEntry>>> {
        let handle = self.handles.get(handle)?;
        let Handle::Dir(dir) = &*handle else {
            return Err(Error::NotDirectory);
        };
        if !from_start {
            return Ok(dir.listing.lock().clone());
        }
        let fresh = Arc::new(self.list(&dir.inode)?);
        *dir.listing.lock() = fresh.clone();
        Ok(fresh)
    }

    fn list(&self, inode: &Inode) -> Result<Vec<ListEntry>> {
        let own = |number: Option<u64>, kind: FileType, name: OsString| ListEntry {
            number: number.unwrap_or(UNKNOWN_NUMBER),
            kind,
            name: ListName::Own(name),
        };
        let of = |key: Key, file: &Arc<RemoteFile>| ListEntry {
            number: self.inodes.number(&key).unwrap_or(UNKNOWN_NUMBER),
            kind: FileType::RegularFile,
            name: ListName::Of(file.clone()),
        };
        let mut names = vec![
            own(Some(inode.number), FileType::Directory, ".".into()),
            own(None, FileType::Directory, "..".into()),
        ];
        match &inode.node {
            Node::Upper(dir) => {
                let held = self
                    .bound(dir)
                    .map(|bound| bound.list())
                    .unwrap_or_default();
                let beside = dir.list()?;
                let may_hide = if beside.is_empty() { &[][..] } else { &held };
                let taken: HashSet<&OsStr> = may_hide
                    .iter()
                    .map(|held| OsStr::new(held.file.name.as_str()))
                    .collect();
                let is_root = inode.number == ROOT;
                for (name, child_kind, _) in beside {
                    let hidden = taken.contains(name.as_os_str()) || is_root && name == SESSIONS;
                    if !hidden {
                        names.push(own(None, kind(child_kind), name));
                    }
                }
                names.extend(held.iter().map(|held| of(Key::held(held), &held.file)));
                if is_root {
                    let number = self.inodes.number(&Key::Sessions);
                    names.push(own(number, FileType::Directory, SESSIONS.into()));
                }
            }
            Node::Sessions => {
                for id in self.parts.catalog.shown_names() {
                    names.push(own(None, FileType::Directory, id.as_str().into()));
                }
            }
            Node::Session(session) if !session.is_gone() => {
                let files = session.since(0);
                names.extend(files.iter().map(|file| of(Key::file(file), file)));
            }
            Node::Session(_) => {}
            Node::Held(_) | Node::File(_) => return Err(Error::NotDirectory),
        }
        Ok(names)
    }

    /// `fsync` of a directory.
    pub fn fsyncdir(&self, handle: u64) -> Result<()> {
        match &*self.handles.get(handle)? {
            Handle::Dir(dir) => match &dir.inode.node {
                Node::Upper(dir) => Ok(rustix::fs::fsync(dir.open(OFlags::RDONLY)?)?),
                Node::Sessions | Node::Session(_) | Node::Held(_) | Node::File(_) => Ok(()),
            },
            Handle::Upper(_) | Handle::Remote(_) => Err(Error::NotDirectory),
        }
    }

    /// `closedir`.
    pub fn releasedir(&self, handle: u64) {
        drop(self.handles.remove(handle));
    }
}

/// Keeps held names from appearing while the upper layer changes; fails where `name` is held.
fn claim<'a>(bound: Option<&'a Arc<BoundDir>>, name: &OsStr) -> Result<Option<Claim<'a>>> {
    match (bound, name.to_str()) {
        (Some(bound), Some(name)) => bound.claim(name).map(Some),
        // A held name is always text.
        (Some(_), None) | (None, _) => Ok(None),
    }
}

/// `sessions/` is there, and cannot be removed or moved.
fn not_ours(error: Error) -> Error {
    match error {
        Error::Taken => Error::WorkerMade,
        other => other,
    }
}
