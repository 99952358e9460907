//! A file of the cache: its bytes, its name on disk, and how long it keeps that name.

use super::{Room, check::Sink};
use crate::{overlay::read_up_to, remote::RemoteFile};
use plexbeam_api::{Segment, checksum::Verifier};
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest as _, Sha256};
use std::{
    ffi::OsString,
    fs::File,
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use tempfile::TempPath;

/// Names of downloads under way begin so.
pub(super) const PART: &str = "part-";
/// Bytes hashed at a time.
const BLOCK: usize = 1 << 20;

/// A whole file on this host.
///
/// While it is open here its file is locked for sharing, so that another instance sees that its bytes
/// stay on disk even when the name goes.
#[derive(Debug)]
pub struct CacheFile {
    file: Arc<File>,
    size: u64,
    path: PathBuf,
    /// The bytes are the announced ones.
    checked: AtomicBool,
    /// Another instance may have it open.
    shared: bool,
    /// The name stays when this is dropped.
    keeps_name: AtomicBool,
    room: Room,
}

/// Name of a file in the cache folder: session, what tells its file name apart, and digest.
pub(super) fn named(file: &RemoteFile) -> String {
    let segment = file.segment();
    format!(
        "{}.{}.{}",
        file.origin.session,
        tag(&segment),
        segment.digest.0
    )
}

/// A file for a download, and its name, which goes with the path.
pub(super) fn part_in(dir: &Path) -> io::Result<Sink> {
    let part = tempfile::Builder::new().prefix(PART).tempfile_in(dir)?;
    let (file, path) = part.into_parts();
    Ok((Arc::new(file), path))
}

fn tag(segment: &Segment) -> String {
    let digest = Sha256::digest(segment.name.as_str());
    digest[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

impl CacheFile {
    /// A download that is whole and checked. It gets its name here, unless a later instance has the
    /// folder or the name cannot be made: then it lives as long as it is open.
    pub(super) fn new(
        file: Arc<File>,
        part: TempPath,
        path: PathBuf,
        size: u64,
        room: Room,
    ) -> Self {
        let handed = room.is_handed();
        if !handed && let Err(error) = part.persist(&path) {
            tracing::debug!(error = %error.error, "a cache file stays without a name");
        }
        // Nobody else has it yet, and a lock that is refused is only missed by another instance.
        let _ = flock(&*file, FlockOperation::NonBlockingLockShared);
        CacheFile {
            file,
            size,
            path,
            checked: AtomicBool::new(true),
            shared: false,
            keeps_name: AtomicBool::new(handed),
            room,
        }
    }

    /// What an earlier instance left under this name, when it has this size.
    pub(super) fn left(path: PathBuf, size: u64) -> io::Result<File> {
        let file = File::options().read(true).write(true).open(path)?;
        let meta = file.metadata()?;
        if !meta.is_file() || meta.len() != size {
            return Err(io::Error::from(io::ErrorKind::InvalidData));
        }
        Ok(file)
    }

    /// A file that was left. `living`: by an instance that still runs and has checked it.
    pub(super) fn adopted(file: File, path: PathBuf, size: u64, living: bool, room: Room) -> Self {
        // See `new`.
        let _ = flock(&file, FlockOperation::NonBlockingLockShared);
        CacheFile {
            file: Arc::new(file),
            size,
            path,
            checked: AtomicBool::new(living),
            shared: living,
            keeps_name: AtomicBool::new(false),
            room,
        }
    }

    /// Up to so many bytes of its room, which are the caller's then: it is about to go.
    pub(super) fn cede(&mut self, most: u64) -> u64 {
        self.room.cede(most)
    }

    /// The file itself, open for reading and writing; nobody writes any more.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Up to `len` bytes from `offset`; fewer only at the end.
    pub fn read(&self, offset: u64, len: usize) -> crate::error::Result<Vec<u8>> {
        let len = (self.size.saturating_sub(offset)).min(len as u64) as usize;
        read_up_to(&self.file, len, offset)
    }

    pub(super) fn is_checked(&self) -> bool {
        self.checked.load(Ordering::Acquire)
    }

    /// True when the bytes are those of this segment.
    pub(super) fn check(&self, segment: &Segment) -> bool {
        let mut verifier = Verifier::new(segment);
        let mut at = 0;
        while at < self.size {
            match self.read(at, BLOCK) {
                Ok(bytes) if !bytes.is_empty() => {
                    at += bytes.len() as u64;
                    verifier.update(&bytes);
                }
                Ok(_) | Err(_) => return false,
            }
        }
        let right = verifier.is_right();
        self.checked.store(right, Ordering::Release);
        right
    }

    /// The name outlives this process.
    pub(super) fn keep_name(&self) {
        self.keeps_name.store(true, Ordering::Release);
    }

    /// The name goes with the file again.
    pub(super) fn lose_name(&self) {
        self.keeps_name.store(false, Ordering::Release);
    }

    /// Its name in the folder.
    pub(super) fn name(&self) -> Option<OsString> {
        self.path.file_name().map(OsString::from)
    }

    /// True when no other instance has it open, so that its bytes go with its name.
    pub(super) fn is_alone(&self) -> bool {
        if !self.shared {
            return true;
        }
        let alone = flock(&*self.file, FlockOperation::NonBlockingLockExclusive).is_ok();
        if alone {
            // A later instance asks the same question.
            let _ = flock(&*self.file, FlockOperation::NonBlockingLockShared);
        }
        alone
    }
}

impl Drop for CacheFile {
    fn drop(&mut self) {
        if !self.keeps_name.load(Ordering::Acquire) && is_this(&self.path, &self.file) {
            // What is left is unlinked at the next start.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// The name may have gone to a newer download of the same segment.
fn is_this(path: &Path, file: &File) -> bool {
    match (std::fs::symlink_metadata(path), file.metadata()) {
        (Ok(named), Ok(open)) => named.ino() == open.ino() && named.dev() == open.dev(),
        (Err(_), _) | (_, Err(_)) => false,
    }
}
