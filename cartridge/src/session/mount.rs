//! The mount as the cartridge sees it: extended attributes of its session directory, addressed by
//! absolute path (DESIGN 5). All calls block and belong on a blocking thread; the mount bounds each.

use plexbeam_api::{
    FileName,
    mount::{
        Binding, Held, MountInfo, WorkerRow, XATTR_HELD, XATTR_MOUNT, XATTR_SOURCE, XATTR_WORKERS,
    },
};
use rustix::fs::XattrFlags;
use rustix::io::Errno;
use std::path::Path;

/// The kernel's bound of an attribute's value (`XATTR_SIZE_MAX`).
const MAX_VALUE: usize = 64 << 10;

/// What the mount says of itself; `None` when the directory is not in our mount.
pub(crate) fn info(dir: &Path) -> Option<MountInfo> {
    read(dir, XATTR_MOUNT).ok()
}

/// The mount's table of workers, best first; empty when there is none.
pub(crate) fn workers(dir: &Path) -> Vec<WorkerRow> {
    read(dir, XATTR_WORKERS).unwrap_or_default()
}

/// Ties the directory to a session.
pub(super) fn bind(dir: &Path, binding: &Binding) -> Result<(), Errno> {
    // Invariant: a binding is plain data, which always has a JSON form.
    let value = serde_json::to_vec(binding).map_err(|_| Errno::INVAL)?;
    rustix::fs::setxattr(dir, XATTR_SOURCE, &value, XattrFlags::empty())
}

/// Makes the directory an ordinary one again, in which the original may write the same names.
pub(super) fn unbind(dir: &Path) -> Result<(), Errno> {
    rustix::fs::removexattr(dir, XATTR_SOURCE)
}

/// Waits a moment for a file. EAGAIN: not held yet, ask again. EBUSY: nor
/// will it be before the viewer reads on. ENODATA: it will never be.
pub(super) fn held(dir: &Path, name: &FileName) -> Result<Held, Errno> {
    read(dir, &format!("{XATTR_HELD}.{name}"))
}

fn read<T: serde::de::DeserializeOwned>(dir: &Path, name: &str) -> Result<T, Errno> {
    let mut value = vec![0; 4 << 10];
    let len = loop {
        match rustix::fs::getxattr(dir, name, value.as_mut_slice()) {
            Err(Errno::RANGE) if value.len() < MAX_VALUE => value.resize(MAX_VALUE, 0),
            result => break result?,
        }
    };
    serde_json::from_slice(value.get(..len).unwrap_or_default()).map_err(|_| Errno::BADMSG)
}
