//! The folder on disk: ours by a marker file, locked against a second worker, empty at start.
//!
//! `DIR/plexbeam-spool/` holds `marker` (also the lock), `worker-id` (kept) and `sessions/` (emptied
//! at start and at the end). Nothing outside of it is ever touched.

use crate::error::StartError;
use plexbeam_api::Id;
use rustix::fs::{FlockOperation, flock};
use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

const SUBFOLDER: &str = "plexbeam-spool";
const MARKER: &str = "marker";
const MARKER_TEXT: &str = "PlexBeam's spool. Everything in this folder may be removed.\n";

/// The spool folder while the worker has it.
#[derive(Debug)]
pub struct Spool {
    root: PathBuf,
    worker: Id,
    /// Holds the lock.
    _marker: File,
}

impl Spool {
    /// Takes the folder below `dir`, creating it when needed, and empties it.
    pub fn take(dir: &Path) -> Result<Self, StartError> {
        let root = dir.join(SUBFOLDER);
        let bad = |fact: String| StartError::Spool {
            path: root.clone(),
            fact,
        };
        let io = |what: &str| {
            let what = what.to_owned();
            let root = root.clone();
            move |error: io::Error| StartError::Spool {
                path: root,
                fact: format!("{what}: {error}"),
            }
        };
        make_private(dir).map_err(io("making its parent"))?;
        let made = make_private(&root).map_err(io("making it"))?;
        let meta = fs::symlink_metadata(&root).map_err(io("looking at it"))?;
        if !meta.is_dir() {
            return Err(bad("it is no folder (a link is not followed)".into()));
        }
        if meta.uid() != rustix::process::geteuid().as_raw() {
            return Err(bad("it belongs to another user".into()));
        }
        let marker_path = root.join(MARKER);
        if !made && !marker_path.exists() {
            let mut entries = fs::read_dir(&root).map_err(io("listing it"))?;
            if entries.next().is_some() {
                return Err(bad(
                    "it exists, is not empty and was not made by a worker".into()
                ));
            }
        }
        let mut marker = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&marker_path)
            .map_err(io("marking it"))?;
        flock(&marker, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| bad("another worker uses it".into()))?;
        marker
            .write_all(MARKER_TEXT.as_bytes())
            .map_err(io("marking it"))?;
        let worker = worker_id(&root.join("worker-id")).map_err(io("keeping the worker's id"))?;
        let spool = Spool {
            root: root.clone(),
            worker,
            _marker: marker,
        };
        spool.empty().map_err(io("emptying it"))?;
        make_private(&spool.sessions()).map_err(io("making its sessions folder"))?;
        Ok(spool)
    }

    /// Id of the worker, the same at each start with this folder.
    pub fn worker(&self) -> &Id {
        &self.worker
    }

    /// Where sessions have their folders.
    pub fn sessions(&self) -> PathBuf {
        self.root.join("sessions")
    }

    /// Removes all sessions' files; the id stays.
    pub fn empty(&self) -> io::Result<()> {
        match fs::remove_dir_all(self.sessions()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// True when the folder was made now, for us alone.
fn make_private(path: &Path) -> io::Result<bool> {
    if path.is_dir() {
        return Ok(false);
    }
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    Ok(true)
}

fn worker_id(path: &Path) -> io::Result<Id> {
    if let Ok(text) = fs::read_to_string(path)
        && let Ok(id) = text.trim().parse()
    {
        return Ok(id);
    }
    let id = random_id("worker");
    let new = path.with_extension("new");
    fs::write(&new, format!("{id}\n"))?;
    fs::rename(&new, path)?;
    Ok(id)
}

/// `PREFIX-` and 64 random bits in hex.
pub(crate) fn random_id(prefix: &str) -> Id {
    let text = format!("{prefix}-{:016x}", rand::random::<u64>());
    text.parse()
        .expect("prefixes are lower-case words, so this is a valid id")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spool_keeps_its_id_and_loses_its_sessions() {
        let dir = tempfile::tempdir().unwrap();
        let first = Spool::take(dir.path()).unwrap();
        let id = first.worker().clone();
        fs::create_dir(first.sessions().join("000001-x")).unwrap();
        fs::write(first.sessions().join("000001-x/a.ts"), b"left over").unwrap();
        fs::write(dir.path().join("mine.txt"), b"not the worker's").unwrap();
        assert!(matches!(
            Spool::take(dir.path()),
            Err(StartError::Spool { fact, .. }) if fact.contains("another worker")
        ));
        drop(first);
        let second = Spool::take(dir.path()).unwrap();
        assert_eq!(second.worker(), &id);
        assert_eq!(fs::read_dir(second.sessions()).unwrap().count(), 0);
        assert!(dir.path().join("mine.txt").exists());
    }

    #[test]
    fn a_folder_of_somebody_else_is_not_emptied() {
        let dir = tempfile::tempdir().unwrap();
        let theirs = dir.path().join(SUBFOLDER).join("sessions");
        fs::create_dir_all(&theirs).unwrap();
        fs::write(theirs.join("photo.jpg"), b"precious").unwrap();
        assert!(matches!(
            Spool::take(dir.path()),
            Err(StartError::Spool { fact, .. }) if fact.contains("not made by a worker")
        ));
        assert!(theirs.join("photo.jpg").exists());
        let linked = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(dir.path(), linked.path().join(SUBFOLDER)).unwrap();
        assert!(Spool::take(linked.path()).is_err());
    }
}
