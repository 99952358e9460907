//! A mountpoint's folder in the cache folder, and how it may be a file system of its own in memory.
//!
//! One that is mounted here may ask for large pages (`huge=within_size`, tmpfs(5)), which those that
//! a host comes with seldom have; filling and reading a segment then costs a fraction. Like a folder
//! on disk it outlives the process, so that a later start finds what was held; the end takes it away
//! where nothing is left in it.

use crate::{error::SetupError, mounts};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::{
    ffi::CStr,
    fs, io,
    os::unix::{ffi::OsStrExt, fs::DirBuilderExt},
    path::{Path, PathBuf},
};

/// File system type in the mount table.
const FS_TYPE: &str = "tmpfs";
/// Name of the source in the mount table.
const SOURCE: &str = "plexbeam-cache";
/// Without bounds of its own: the cache's ceiling is the one, and it may be set anew while this is
/// mounted.
const OPTIONS: [&CStr; 2] = [
    c"mode=0700,size=0,nr_inodes=0,huge=within_size",
    // A kernel without large pages refuses them.
    c"mode=0700,size=0,nr_inodes=0",
];

/// Makes a folder for this user alone, and those above it.
pub(super) fn make_private(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
}

/// A mountpoint's own folder in the cache folder `dir`, which must not lie inside it.
pub(crate) fn folder_for(dir: &Path, mountpoint: &Path) -> Result<PathBuf, SetupError> {
    // What does not exist yet cannot be resolved; its nearest parent can.
    let resolved = dir
        .ancestors()
        .find_map(|parent| fs::canonicalize(parent).ok());
    if resolved.is_some_and(|resolved| resolved.starts_with(mountpoint)) {
        return Err(SetupError::CacheInside(dir.to_path_buf()));
    }
    Ok(dir.join(name_of(mountpoint)))
}

fn name_of(mountpoint: &Path) -> String {
    let mut name = String::new();
    for byte in mountpoint.as_os_str().as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => name.push(char::from(*byte)),
            b'/' => name.push('+'),
            other => name.push_str(&format!("%{other:02x}")),
        }
    }
    if name.len() > 200 {
        use sha2::Digest as _;
        let digest = sha2::Sha256::digest(name.as_bytes());
        name = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    }
    name
}

/// A mountpoint's folder in the cache folder, in memory.
#[derive(Debug)]
pub struct MemoryFolder {
    path: PathBuf,
}

impl MemoryFolder {
    /// Mounts it, or takes over what an earlier start left mounted there.
    pub fn begin(dir: &Path, mountpoint: &Path) -> Result<Self, SetupError> {
        let path = folder_for(dir, mountpoint)?;
        let failed = |source| SetupError::Memory {
            path: path.clone(),
            source,
        };
        make_private(&path).map_err(failed)?;
        // As the mount table has it.
        let path = fs::canonicalize(&path).map_err(failed)?;
        if !mounts::has(&path, FS_TYPE, SOURCE) {
            let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
            let by = |options| mount(SOURCE, &path, FS_TYPE, flags, options);
            let mounted = by(OPTIONS[0]).or_else(|_| by(OPTIONS[1]));
            mounted.map_err(|errno| failed(errno.into()))?;
        }
        Ok(MemoryFolder { path })
    }

    /// Takes away what an earlier start left mounted there, so that the folder itself is used.
    pub fn clear(dir: &Path, mountpoint: &Path) -> Result<(), SetupError> {
        let path = folder_for(dir, mountpoint)?;
        let Ok(path) = fs::canonicalize(path) else {
            return Ok(());
        };
        while mounts::has(&path, FS_TYPE, SOURCE) {
            if let Err(error) = unmount(&path, UnmountFlags::DETACH) {
                tracing::warn!(path = %path.display(), %error, "the cache stays in memory");
                break;
            }
        }
        Ok(())
    }
}

/// It goes, unless files are in it that the next start is to find.
impl Drop for MemoryFolder {
    fn drop(&mut self) {
        let path = self.path.display();
        let ended = match has_files(&self.path) {
            Ok(false) => unmount(&self.path, UnmountFlags::DETACH).map_err(io::Error::from),
            Ok(true) => {
                tracing::info!(%path, "what is held stays in memory for the next start; umount frees it");
                Ok(())
            }
            Err(error) => Err(error),
        };
        if let Err(error) = ended {
            tracing::warn!(%path, %error, "the cache stays mounted");
        }
    }
}

fn has_files(dir: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if !entry.file_type()?.is_dir() || has_files(&entry.path())? {
            return Ok(true);
        }
    }
    Ok(false)
}
