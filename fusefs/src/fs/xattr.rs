//! Extended attributes: the mount's own, and those of the upper layer passed through.

use super::{Answer, BeamFs};
use crate::{
    binding::json,
    error::{Error, Result},
    inode::{Inode, Node, ROOT},
    overlay::UpperNode,
};
use plexbeam_api::mount::{
    CacheUsage, MountStatus, XATTR_CACHE, XATTR_HELD, XATTR_MOUNT, XATTR_SOURCE, XATTR_STATUS,
    XATTR_WORKERS,
};
use rustix::fs::{FileType, XattrFlags};
use std::ffi::OsStr;

/// All of the mount's own attributes begin so; the upper layer's of this prefix are not shown.
const OURS: &str = "user.plexbeam.";
/// The only prefix passed on to the upper layer.
const USER: &str = "user.";

impl BeamFs {
    /// `getxattr` by a caller of this user id.
    pub fn getxattr(&self, number: u64, name: &OsStr, caller: u32) -> Result<Answer<Vec<u8>>> {
        let inode = self.inodes.get(number)?;
        // The kernel asks for `security.capability` at each write.
        let name = name
            .to_str()
            .filter(|name| name.starts_with(USER))
            .ok_or(Error::NoAttribute)?;
        if !name.starts_with(OURS) {
            return match &inode.node {
                Node::Upper(node) => node.attribute(name.as_ref()).map(Answer::Now),
                Node::Held(_) | Node::Sessions | Node::Session(_) | Node::File(_) => {
                    Err(Error::NoAttribute)
                }
            };
        }
        if !is_directory(&inode) {
            return Err(Error::NoAttribute);
        }
        match name {
            XATTR_SOURCE => Err(Error::WriteOnly),
            XATTR_MOUNT => self.mount_json(&inode, caller).map(Answer::Now),
            XATTR_WORKERS => json(&self.parts.catalog.rows()).map(Answer::Now),
            XATTR_CACHE => json(&self.cache_usage()).map(Answer::Now),
            XATTR_STATUS => json(&self.status()).map(Answer::Now),
            _ => {
                let rest = name.strip_prefix(XATTR_HELD).ok_or(Error::NoAttribute)?;
                let bound = match &inode.node {
                    Node::Upper(dir) => self.parts.bindings.get(dir.key()),
                    Node::Held(_) | Node::Sessions | Node::Session(_) | Node::File(_) => None,
                };
                let bound = bound.ok_or(Error::NoAttribute)?;
                if rest.is_empty() {
                    return bound.held_json().map(Answer::Now);
                }
                let file = rest.strip_prefix('.').ok_or(Error::NoAttribute)?.to_owned();
                Ok(Answer::Later(Box::pin(bound.wait_held(file))))
            }
        }
    }

    fn cache_usage(&self) -> CacheUsage {
        let usage = self.parts.cache.usage();
        CacheUsage {
            used: usage.used,
            peak: usage.peak,
            ceiling: usage.ceiling,
            files: usage.files,
        }
    }

    fn status(&self) -> MountStatus {
        let why = self.no_passthrough();
        MountStatus {
            mount: self.parts.info.clone(),
            process: std::process::id(),
            passthrough: why.is_none(),
            no_passthrough: why.map(str::to_owned),
            open: self.handles.len(),
            cache: self.cache_usage(),
            workers: self.parts.catalog.rows(),
            bindings: self.parts.bindings.rows(),
        }
    }

    fn mount_json(&self, inode: &Inode, caller: u32) -> Result<Vec<u8>> {
        let mut info = self.parts.info.clone();
        if let Some(secret) = &self.parts.media_secret {
            let owner = match &inode.node {
                Node::Upper(dir) => dir.stat()?.st_uid,
                Node::Held(_) | Node::Sessions | Node::Session(_) | Node::File(_) => 0,
            };
            if caller == 0 || caller == owner {
                info.media_secret = Some(secret.reveal().to_owned());
            }
        }
        json(&info)
    }

    /// `listxattr`: the upper layer's `user.` names.
    pub fn listxattr(&self, number: u64) -> Result<Vec<u8>> {
        let inode = self.inodes.get(number)?;
        let Node::Upper(node) = &inode.node else {
            return Ok(Vec::new());
        };
        if node.kind() == FileType::Symlink {
            return Ok(Vec::new());
        }
        let all = node.attributes()?;
        let shown = all
            .split_inclusive(|byte| *byte == 0)
            .filter(|name| name.starts_with(USER.as_bytes()) && !name.starts_with(OURS.as_bytes()));
        Ok(shown.flatten().copied().collect())
    }

    /// `setxattr`; a binding among others.
    pub fn setxattr(&self, number: u64, name: &OsStr, value: &[u8], flags: i32) -> Result<()> {
        let inode = self.inodes.get(number)?;
        if name == XATTR_SOURCE {
            let dir = inode.upper_dir()?;
            // The root holds all sessions and never ends.
            if number == ROOT {
                return Err(Error::Reserved);
            }
            return self.parts.bindings.bind(dir, value);
        }
        let flags = XattrFlags::from_bits_retain(flags as u32);
        passed(&inode, name)?.set_attribute(name, value, flags)
    }

    /// `removexattr`. Without its binding a directory is an ordinary one again: what was held is gone,
    /// and a transcoder on this host may take the names.
    pub fn removexattr(&self, number: u64, name: &OsStr) -> Result<()> {
        if name == XATTR_SOURCE {
            let inode = self.inodes.get(number)?;
            let key = inode.upper_dir()?.key();
            if self.parts.bindings.get(key).is_none() {
                return Err(Error::NoAttribute);
            }
            self.parts.bindings.remove(key);
            return Ok(());
        }
        passed(&*self.inodes.get(number)?, name)?.remove_attribute(name)
    }
}

fn is_directory(inode: &Inode) -> bool {
    match &inode.node {
        Node::Upper(node) => node.kind() == FileType::Directory,
        Node::Sessions | Node::Session(_) => true,
        Node::Held(_) | Node::File(_) => false,
    }
}

/// The upper node whose attribute of this name may be changed.
fn passed<'a>(inode: &'a Inode, name: &OsStr) -> Result<&'a UpperNode> {
    let name = name
        .to_str()
        .filter(|name| name.starts_with(USER))
        .ok_or(Error::Unsupported)?;
    if name.starts_with(OURS) {
        return Err(Error::Reserved);
    }
    match &inode.node {
        Node::Upper(node) => Ok(node),
        Node::Held(_) | Node::Sessions | Node::Session(_) | Node::File(_) => Err(Error::WorkerMade),
    }
}
