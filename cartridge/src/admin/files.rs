//! Small file operations that are whole or not at all, and that keep owner, mode and times.

use super::error::{Context, Error};
use rustix::fs::{AtFlags, CWD, Gid, Mode, Timespec, Timestamps, Uid};
use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Told before each step that changes something. A test ends the work there, as a power cut would:
/// after an error nothing is cleaned up.
pub type Steps<'a> = &'a mut dyn FnMut(&str) -> io::Result<()>;

/// Who owns a file, and what its mode is.
#[derive(Debug, Clone, Copy)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
}

impl Owner {
    /// As this file has them.
    pub fn of(meta: &Metadata) -> Self {
        Owner {
            uid: meta.uid(),
            gid: meta.gid(),
            mode: meta.mode() & 0o7777,
        }
    }
}

/// The path with something appended to its last name.
pub fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// A hidden name beside `path`, always the same one, so that the next run finds what a cut left.
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or(OsStr::new("x")));
    name.push(suffix);
    path.with_file_name(name)
}

/// Removes a file that may not be there.
pub fn remove(path: &Path) -> Result<(), Error> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).on("remove", path),
        _ => Ok(()),
    }
}

/// A new file at `to` with the bytes of `from`, on disk when this returns. `times` too where `keep`.
pub fn copy(
    from: &Path,
    to: &Path,
    owner: Owner,
    keep: Option<&Metadata>,
    steps: Steps<'_>,
) -> Result<(), Error> {
    let mut source = File::open(from).on("read", from)?;
    let mut target = create(to)?;
    io::copy(&mut source, &mut target).on("write", to)?;
    steps("written, not yet on disk").on("write", to)?;
    settle(&target, to, owner)?;
    if let Some(meta) = keep {
        set_times(to, meta.into())?;
    }
    Ok(())
}

/// Replaces or makes a small file in one step.
pub fn write(to: &Path, bytes: &[u8], owner: Owner, steps: Steps<'_>) -> Result<(), Error> {
    let temporary = beside(to, ".plexbeam-new");
    let mut file = create(&temporary)?;
    file.write_all(bytes).on("write", &temporary)?;
    settle(&file, &temporary, owner)?;
    steps("the file is written under another name").on("write", to)?;
    std::fs::rename(&temporary, to).on("write", to)?;
    sync_dir(to.parent().unwrap_or(to))
}

fn create(path: &Path) -> Result<File, Error> {
    remove(path)?;
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .on("create", path)
}

fn settle(file: &File, path: &Path, owner: Owner) -> Result<(), Error> {
    let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
    let meta = file.metadata().on("read", path)?;
    if (meta.uid(), meta.gid()) != (owner.uid, owner.gid) {
        rustix::fs::fchown(file, Some(uid), Some(gid)).on("give away", path)?;
    }
    rustix::fs::fchmod(file, Mode::from_raw_mode(owner.mode)).on("set the mode of", path)?;
    file.sync_all().on("write", path)
}

/// Makes names durable.
pub fn sync_dir(dir: &Path) -> Result<(), Error> {
    File::open(dir).and_then(|d| d.sync_all()).on("sync", dir)
}

/// Time of the last change: seconds and nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Time {
    /// Of the last reading.
    pub read: (i64, i64),
    /// Of the last change.
    pub changed: (i64, i64),
}

impl From<&Metadata> for Time {
    fn from(meta: &Metadata) -> Self {
        Time {
            read: (meta.atime(), meta.atime_nsec()),
            changed: (meta.mtime(), meta.mtime_nsec()),
        }
    }
}

/// Sets the times of a file or directory.
pub fn set_times(path: &Path, time: Time) -> Result<(), Error> {
    let spec = |(tv_sec, tv_nsec): (i64, i64)| Timespec { tv_sec, tv_nsec };
    let times = Timestamps {
        last_access: spec(time.read),
        last_modification: spec(time.changed),
    };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).on("set the times of", path)
}
