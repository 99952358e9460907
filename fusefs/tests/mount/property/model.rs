//! What must be seen: a real directory, and over it what bound directories hold.

use super::sides::{Call, OnDisk, Seen, Side};
use crate::support::media_name;
use bytes::Bytes;
use rustix::io::Errno;
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

struct Bound {
    session: String,
    epoch: u64,
    frozen: bool,
    held: BTreeMap<String, Bytes>,
    removed: HashSet<String>,
    never: HashSet<String>,
    sessions: Vec<String>,
}

/// Where a path leads.
enum Place {
    /// To the upper layer, or to nothing.
    Upper,
    /// To a held file.
    Held {
        dir: u64,
        name: String,
        bytes: Bytes,
    },
}

pub(super) struct Model {
    plain: OnDisk,
    /// By inode of the real directory, so that a renamed directory stays bound.
    bound: HashMap<u64, Bound>,
    published: BTreeMap<String, BTreeMap<String, Bytes>>,
    ended: Vec<String>,
    prefix: String,
    next: u32,
    held_ever: usize,
}

impl Model {
    pub(super) fn new(plain: OnDisk, prefix: String) -> Self {
        Model {
            plain,
            bound: HashMap::new(),
            published: BTreeMap::new(),
            ended: Vec::new(),
            prefix,
            next: 0,
            held_ever: 0,
        }
    }

    fn real(&self, path: &Path) -> PathBuf {
        self.plain.path(path)
    }

    fn key(&self, dir: &Path) -> Option<u64> {
        let meta = fs::symlink_metadata(self.real(dir)).ok()?;
        meta.is_dir().then(|| meta.ino())
    }

    /// Follows a path; fails as the kernel does where a part of it is no directory.
    fn place(&self, path: &Path) -> Result<Place, Errno> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Ok(Place::Upper);
        };
        if let Place::Held { .. } = self.place(parent)? {
            return Err(Errno::NOTDIR);
        }
        let meta = fs::symlink_metadata(self.real(parent))
            .map_err(|error| Errno::from_io_error(&error).unwrap())?;
        if !meta.is_dir() {
            return Err(Errno::NOTDIR);
        }
        let name = name.to_str().unwrap().to_owned();
        let held = self
            .bound
            .get(&meta.ino())
            .and_then(|bound| bound.held.get(&name));
        Ok(match held {
            Some(bytes) => Place::Held {
                dir: meta.ino(),
                bytes: bytes.clone(),
                name,
            },
            None => Place::Upper,
        })
    }

    pub(super) fn apply(&mut self, call: &Call) -> Result<Seen, Errno> {
        match call {
            Call::Rename(from, to) => return self.rename(call, from, to),
            Call::Link(from, to) => return self.link(call, from, to),
            _ => {}
        }
        if let Place::Held { dir, name, bytes } = self.place(call.path())? {
            return match call {
                Call::Stat(_) => Ok(Seen::Attributes {
                    directory: false,
                    size: bytes.len() as u64,
                    mode: 0o644,
                    links: 1,
                }),
                Call::Read(_) => Ok(Seen::Bytes(bytes.to_vec())),
                Call::Unlink(_) => {
                    let bound = self.bound.get_mut(&dir).unwrap();
                    bound.held.remove(&name);
                    bound.removed.insert(name);
                    bound.frozen = true;
                    Ok(Seen::Done)
                }
                Call::Mkdir(_) | Call::CreateNew(..) => Err(Errno::EXIST),
                Call::Rmdir(_) | Call::List(_) => Err(Errno::NOTDIR),
                Call::Write(..) | Call::Append(..) | Call::Truncate(..) | Call::Chmod(..) => {
                    Err(Errno::PERM)
                }
                Call::Rename(..) | Call::Link(..) => unreachable!("above"),
            };
        }
        let key = self.key(call.path());
        let seen = self.plain.apply(call);
        match (call, key) {
            (Call::Rmdir(_), Some(key)) => {
                if let Some(bound) = self.bound.get_mut(&key) {
                    bound.frozen = true;
                }
                if seen.is_ok() {
                    self.gone(key);
                }
            }
            (Call::List(_), Some(key)) => {
                if let (Ok(Seen::Names(mut names)), Some(bound)) =
                    (seen.clone(), self.bound.get(&key))
                {
                    names.extend(bound.held.keys().cloned());
                    names.sort();
                    return Ok(Seen::Names(names));
                }
            }
            _ => {}
        }
        seen
    }

    fn gone(&mut self, key: u64) {
        if let Some(bound) = self.bound.remove(&key) {
            for session in bound.sessions {
                if self.published.remove(&session).is_some() {
                    self.ended.push(session);
                }
            }
        }
    }

    fn rename(&mut self, call: &Call, from: &Path, to: &Path) -> Result<Seen, Errno> {
        // The kernel looks at both parents first.
        let (source, target) = (self.place(from)?, self.place(to)?);
        let directory = self.key(from).is_some();
        match (&source, &target) {
            (Place::Held { .. }, _) if from == to => Ok(Seen::Done),
            (Place::Held { .. }, _) if from.starts_with(to) => Err(Errno::NOTEMPTY),
            (Place::Held { .. }, Place::Upper) if self.key(to).is_some() => Err(Errno::ISDIR),
            (Place::Held { .. }, _) => Err(Errno::XDEV),
            (Place::Upper, Place::Held { .. }) => {
                if fs::symlink_metadata(self.real(from)).is_err() {
                    Err(Errno::NOENT)
                } else if to.starts_with(from) {
                    Err(Errno::INVAL)
                } else if directory {
                    Err(Errno::NOTDIR)
                } else {
                    Err(Errno::PERM)
                }
            }
            (Place::Upper, Place::Upper) => {
                let replaced = self.key(to).filter(|key| Some(*key) != self.key(from));
                let seen = self.plain.apply(call)?;
                if let Some(key) = replaced {
                    self.gone(key);
                }
                Ok(seen)
            }
        }
    }

    fn link(&mut self, call: &Call, from: &Path, to: &Path) -> Result<Seen, Errno> {
        let source = self.place(from)?;
        if matches!(source, Place::Upper) && fs::symlink_metadata(self.real(from)).is_err() {
            return Err(Errno::NOENT);
        }
        let target = self.place(to)?;
        match (&source, &target) {
            (_, Place::Held { .. }) => Err(Errno::EXIST),
            (Place::Held { .. }, _) if fs::symlink_metadata(self.real(to)).is_ok() => {
                Err(Errno::EXIST)
            }
            (Place::Held { .. }, _) => Err(Errno::XDEV),
            _ => self.plain.apply(call),
        }
    }

    /// A session for a binding of this directory, and its epoch, which may be a stale one.
    pub(super) fn next_session(&mut self, dir: &Path, stale: bool) -> (String, u64) {
        self.next += 1;
        let session = format!("{}-{}", self.prefix, self.next);
        self.published.insert(session.clone(), BTreeMap::new());
        let bound = self.key(dir).and_then(|key| self.bound.get(&key));
        let epoch = bound.map_or(1, |bound| bound.epoch + u64::from(!stale));
        (session, epoch)
    }

    pub(super) fn bind(&mut self, dir: &Path, session: &str, epoch: u64) -> Result<(), Errno> {
        if let Place::Held { .. } = self.place(dir)? {
            return Err(Errno::NOTDIR);
        }
        if fs::symlink_metadata(self.real(dir)).is_err() {
            return Err(Errno::NOENT);
        }
        let key = self.key(dir).ok_or(Errno::NOTDIR)?;
        let bound = self.bound.entry(key).or_insert_with(|| Bound {
            session: String::new(),
            epoch: 0,
            frozen: false,
            held: BTreeMap::new(),
            removed: HashSet::new(),
            never: HashSet::new(),
            sessions: Vec::new(),
        });
        if bound.frozen || epoch <= bound.epoch {
            return Err(Errno::STALE);
        }
        bound.epoch = epoch;
        bound.session = session.to_owned();
        bound.sessions.push(session.to_owned());
        bound.never.clear();
        Ok(())
    }

    /// Sessions that the worker has.
    pub(super) fn sessions(&self) -> Vec<String> {
        self.published.keys().cloned().collect()
    }

    /// Those of them that a directory shows and may still show more of.
    pub(super) fn bound_sessions(&self) -> Vec<String> {
        let bound = self.bound.values().filter(|bound| !bound.frozen);
        let mut sessions: Vec<String> = bound
            .map(|bound| bound.session.clone())
            .filter(|session| self.published.contains_key(session))
            .collect();
        sessions.sort();
        sessions
    }

    pub(super) fn publishes(&self, session: &str, name: &str) -> bool {
        self.published
            .get(session)
            .is_some_and(|files| files.contains_key(name))
    }

    pub(super) fn publish(&mut self, session: &str, name: &str, bytes: &Bytes) {
        let files = self.published.get_mut(session).unwrap();
        files.insert(name.to_owned(), bytes.clone());
    }

    pub(super) fn drop_session(&mut self, session: &str) {
        self.published.remove(session);
    }

    fn dirs(&self) -> Vec<(PathBuf, u64)> {
        let mut all = Vec::new();
        let mut open = vec![PathBuf::new()];
        while let Some(dir) = open.pop() {
            for entry in fs::read_dir(self.real(&dir)).unwrap() {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_dir() {
                    let path = dir.join(entry.file_name());
                    all.push((path.clone(), entry.metadata().unwrap().ino()));
                    open.push(path);
                }
            }
        }
        all
    }

    /// Each name that some session has published, where it is bound, and whether it must be shown.
    pub(super) fn expected_names(&mut self) -> Vec<(PathBuf, String, bool)> {
        let mut all = Vec::new();
        for (dir, key) in self.dirs() {
            let real = self.real(&dir);
            let Some(bound) = self.bound.get_mut(&key) else {
                continue;
            };
            let Some(files) = self.published.get(&bound.session) else {
                continue;
            };
            for (name, bytes) in files {
                let known = bound.held.contains_key(name);
                if !known && !bound.frozen && !bound.removed.contains(name) {
                    if fs::symlink_metadata(real.join(name)).is_ok() {
                        bound.never.insert(name.clone());
                    }
                    if !bound.never.contains(name) {
                        bound.held.insert(name.clone(), bytes.clone());
                        self.held_ever += 1;
                    }
                }
                all.push((dir.clone(), name.clone(), bound.held.contains_key(name)));
            }
        }
        all
    }

    /// Nothing changes by itself after this.
    pub(super) fn settled(&self) {
        let numbers = 1..=4;
        let known: Vec<String> = numbers.map(|number| media_name(0, number)).collect();
        for bound in self.bound.values() {
            assert!(bound.held.keys().all(|name| known.contains(name)));
        }
    }

    pub(super) fn held_ever(&self) -> usize {
        self.held_ever
    }

    /// Sessions whose directories were removed.
    pub(super) fn ended(&self) -> Vec<String> {
        self.ended.clone()
    }
}
