//! What a later instance must know of a bound directory: one file of JSON lines for each, appended as
//! things happen. It holds the session's token, so it is readable by its owner only.
//!
//! A journal that cannot be written is given up: then only this directory's adoption is lost.

use crate::{
    config::{Secret, WorkerUrl, plain},
    overlay::UpperKey,
};
use plexbeam_api::{Id, Segment};
use serde::{Deserialize, Serialize};
use std::{
    fs::{File, Permissions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// Folder of the journals in the cache folder.
const FOLDER: &str = "bindings";
/// Largest journal that is read, bytes; some hundred thousand segments.
const MAX_JOURNAL: u64 = 256 << 20;

/// Which directory, from the root of the upper layer. Its numbers say whether it is still the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    pub(super) path: PathBuf,
    pub(super) dev: u64,
    pub(super) ino: u64,
}

/// One line. A held file belongs to the binding before it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line {
    /// The directory, and the owner and group that its held files show; again after a move.
    Dir { place: Place, owner: (u32, u32) },
    /// A binding was taken.
    Bind {
        url: String,
        worker: Id,
        boot: Option<Id>,
        session: Id,
        #[serde(with = "plain")]
        token: Secret,
        patterns: Vec<String>,
        epoch: u64,
    },
    /// A file appeared, this many milliseconds after 1970.
    Held { segment: Segment, since_ms: u64 },
    /// A held name was removed.
    Gone { name: String },
    /// Nothing new appears any more.
    Frozen,
}

/// An open journal.
#[derive(Debug)]
pub(super) struct Journal {
    file: Option<File>,
    path: PathBuf,
}

fn folder(cache: &Path) -> PathBuf {
    cache.join(FOLDER)
}

fn path_of(cache: &Path, key: UpperKey) -> PathBuf {
    let (dev, ino) = key.numbers();
    folder(cache).join(format!("{dev:x}-{ino:x}.jsonl"))
}

impl Journal {
    /// An empty journal for this directory.
    pub(super) fn start(cache: &Path, key: UpperKey) -> Self {
        Self::open(cache, key, true)
    }

    /// The journal that an earlier instance wrote, to be continued.
    pub(super) fn resume(cache: &Path, key: UpperKey) -> Self {
        Self::open(cache, key, false)
    }

    fn open(cache: &Path, key: UpperKey, fresh: bool) -> Self {
        let path = path_of(cache, key);
        let open = || -> io::Result<File> {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder(cache))?;
            if fresh {
                match std::fs::remove_file(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    Ok(()) | Err(_) => {}
                }
            }
            let file = File::options()
                .append(true)
                .create(true)
                .mode(0o600)
                .open(&path)?;
            file.set_permissions(Permissions::from_mode(0o600))?;
            Ok(file)
        };
        let file = open().inspect_err(|error| given_up(&path, error)).ok();
        Journal { file, path }
    }

    /// Appends a line, whole or not at all.
    pub(super) fn add(&mut self, line: &Line) {
        let Some(file) = &mut self.file else {
            return;
        };
        let written = serde_json::to_vec(line)
            .map_err(io::Error::other)
            .and_then(|mut text| {
                text.push(b'\n');
                file.write_all(&text)
            });
        if let Err(error) = written {
            given_up(&self.path, &error);
            self.remove();
        }
    }

    /// Forgets the directory.
    pub(super) fn remove(&mut self) {
        if self.file.take().is_some() {
            // A journal whose directory is gone is unlinked at the next start.
            let _ = std::fs::remove_file(&self.path);
        }
    }

    /// The file goes to a later instance.
    pub(super) fn let_go(&mut self) {
        self.file = None;
    }
}

fn given_up(path: &Path, error: &io::Error) {
    tracing::warn!(path = %path.display(), %error, "what is held will not outlive this process");
}

/// The lines of all journals in this cache folder, each with its file.
pub(super) fn read_all(cache: &Path) -> Vec<(PathBuf, Vec<Line>)> {
    let Ok(entries) = std::fs::read_dir(folder(cache)) else {
        return Vec::new();
    };
    entries
        .flatten()
        .map(|entry| (entry.path(), read(&entry.path())))
        .collect()
}

fn read(path: &Path) -> Vec<Line> {
    let small =
        std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.len() <= MAX_JOURNAL);
    let text = if small {
        std::fs::read(path)
    } else {
        Ok(Vec::new())
    };
    let text = text.unwrap_or_default();
    // The last line may have been cut off by a crash, and what follows a malformed one hangs in the air.
    let lines = text.split(|byte| *byte == b'\n');
    lines
        .map_while(|line| serde_json::from_slice(line).ok())
        .collect()
}

/// The worker's URL as a journal keeps it.
pub(super) fn url_of(url: &WorkerUrl) -> String {
    url.as_str().to_owned()
}
