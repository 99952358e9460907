//! What an installation has made, so that it can be undone: `state.json` at home, written before the
//! first change and replaced in one step.

use super::error::{Context, Error};
use super::files::{self, Owner, Steps, Time};
use super::places::Root;
use super::signature::Facts;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// Notes of an installation. Paths are absolute and without the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Plex's folder.
    pub plex_dir: PathBuf,
    /// The original that is put aside.
    pub original: Option<Facts>,
    /// Plex's version at that time.
    pub plex_version: Option<String>,
    /// Files and directories that did not exist before, in the order in which they are made.
    pub made: Vec<PathBuf>,
    /// While the work is under way: directories and their times, to be set again at its end.
    pub dir_times: Vec<(PathBuf, Time)>,
    /// An uninstallation has begun; nobody puts the cartridge back any more.
    pub removing: bool,
}

/// Held while something is changed. Freed when dropped, and when the process ends. It is on the root
/// directory: Plex's folder may be replaced, and the home comes and goes.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "its being open is the lock")] File);

impl Lock {
    /// Waits for its turn; other holders are as short as a copy of the program.
    pub fn take(root: &Root) -> Result<Self, Error> {
        let dir = root.at("/");
        let file = File::open(&dir).on("open", &dir)?;
        flock(&file, FlockOperation::LockExclusive).on("lock", &dir)?;
        Ok(Lock(file))
    }
}

impl State {
    /// Of a new installation.
    pub fn new(plex_dir: &Path) -> Self {
        State {
            plex_dir: plex_dir.to_owned(),
            original: None,
            plex_version: None,
            made: Vec::new(),
            dir_times: Vec::new(),
            removing: false,
        }
    }

    fn path(root: &Root) -> PathBuf {
        root.home().join("state.json")
    }

    /// The notes; `None` where nothing is installed.
    pub fn load(root: &Root) -> Result<Option<Self>, Error> {
        let path = State::path(root);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).on("read", &path),
        };
        let state = serde_json::from_slice(&text).map_err(|why| Error::State {
            path,
            why: why.to_string(),
        })?;
        Ok(Some(state))
    }

    /// Writes them down; the home must be there.
    pub fn save(&self, root: &Root, steps: Steps<'_>) -> Result<(), Error> {
        let path = State::path(root);
        let meta = root.home().metadata().on("read", &root.home())?;
        let owner = Owner {
            mode: 0o644,
            ..Owner::of(&meta)
        };
        let text = serde_json::to_vec_pretty(self).map_err(|why| Error::State {
            path: path.clone(),
            why: why.to_string(),
        })?;
        files::write(&path, &text, owner, steps)
    }

    /// Removes the notes.
    pub fn forget(root: &Root) -> Result<(), Error> {
        let path = State::path(root);
        files::remove(&files::beside(&path, ".plexbeam-new"))?;
        files::remove(&path)
    }

    /// Remembers the times of these directories, unless an earlier run that was cut has.
    pub fn remember_times(&mut self, root: &Root, dirs: &[PathBuf]) {
        for dir in dirs {
            if self.dir_times.iter().all(|(known, _)| known != dir)
                && let Ok(meta) = root.at(dir).metadata()
            {
                self.dir_times.push((dir.clone(), Time::from(&meta)));
            }
        }
    }

    /// Sets them again, and goes on remembering them.
    pub fn set_times(&self, root: &Root) {
        for (dir, time) in &self.dir_times {
            // A directory that is gone needs no time.
            let _ = files::set_times(&root.at(dir), *time);
        }
    }

    /// Sets them again at the end of the work.
    pub fn restore_times(&mut self, root: &Root) {
        self.set_times(root);
        self.dir_times.clear();
    }
}
