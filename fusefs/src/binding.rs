//! Which directory shows which session, and what of it is held.
//!
//! A directory is bound by `user.plexbeam.source`. From then on a task follows the session and holds
//! its files in the order of their announcement; a name appears when its bytes are whole, checked
//! and here, and keeps its size and bytes. The first removal of a held name, or of the directory,
//! freezes the binding: nothing new appears, so that a recursive removal comes to its end while the
//! worker still publishes.
//!
//! One directory is `binding/dir.rs`, following a session `binding/follow.rs`.
//!
//! What is held outlives the process: it is written down as it happens (`binding/journal.rs`), taken
//! over by the next instance (`binding/adopt.rs`), and changes hands between two living ones by way of
//! `binding/gate.rs`.
//!
//! Locks: the gate before the table before one directory's state before the cache's shelf; none across
//! an await.

mod adopt;
mod dir;
mod follow;
mod gate;
mod journal;
mod pattern;

pub use adopt::Adopted;
pub use dir::{BoundDir, Claim, HeldFile, json};
pub use gate::{Change, What};

use self::{follow::end, gate::Gate};
use crate::{
    cache::SegmentCache,
    error::{Error, Result},
    overlay::{UpperKey, UpperNode},
    remote::{Catalog, HttpSource},
};
use parking_lot::RwLock;
use plexbeam_api::mount::{Binding, BindingRow};
use std::{collections::HashMap, path::Path, sync::Arc};

/// Most directories of `user.plexbeam.status`.
const MAX_ROWS: usize = 128;

/// What bindings work with.
#[derive(Debug)]
pub struct Context {
    /// What the workers have.
    pub catalog: Arc<Catalog>,
    /// How it is fetched.
    pub source: Arc<HttpSource>,
    /// Where it is held.
    pub cache: Arc<SegmentCache>,
    /// Downloads at a time, per directory.
    pub parallel: usize,
    /// Where tasks run.
    pub runtime: tokio::runtime::Handle,
    /// Root of the upper layer.
    root: UpperNode,
    gate: Gate,
}

impl Context {
    /// Parts that belong to one instance.
    pub fn new(
        catalog: Arc<Catalog>,
        source: Arc<HttpSource>,
        cache: Arc<SegmentCache>,
        parallel: usize,
        runtime: tokio::runtime::Handle,
        root: UpperNode,
    ) -> Arc<Self> {
        Arc::new(Context {
            catalog,
            source,
            cache,
            parallel,
            runtime,
            root,
            gate: Gate::default(),
        })
    }
}

/// All bound directories.
#[derive(Debug)]
pub struct Bindings {
    context: Arc<Context>,
    table: RwLock<HashMap<UpperKey, Arc<BoundDir>>>,
}

impl Bindings {
    /// None yet.
    pub fn new(context: Arc<Context>) -> Self {
        Bindings {
            context,
            table: RwLock::default(),
        }
    }

    /// The binding of this directory.
    pub fn get(&self, key: UpperKey) -> Option<Arc<BoundDir>> {
        self.table.read().get(&key).cloned()
    }

    /// The binding of this `uid`.
    pub fn by_uid(&self, uid: u64) -> Option<Arc<BoundDir>> {
        self.table
            .read()
            .values()
            .find(|bound| bound.uid == uid)
            .cloned()
    }

    /// Bound directories, for a person; the first so many, because the kernel bounds an attribute.
    pub fn rows(&self) -> Vec<BindingRow> {
        let bound: Vec<Arc<BoundDir>> = self.table.read().values().cloned().collect();
        let mut rows: Vec<BindingRow> = bound.iter().map(|bound| bound.row()).collect();
        rows.sort_by(|one, other| one.directory.cmp(&other.directory));
        rows.truncate(MAX_ROWS);
        rows
    }

    /// Takes the value of `user.plexbeam.source` for this directory.
    pub fn bind(&self, dir: &UpperNode, value: &[u8]) -> Result<()> {
        // serde's text may quote the value, which holds the token: it is not passed on.
        let binding: Binding = serde_json::from_slice(value).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            Error::MalformedBinding(format!("no binding at line {line} column {column}"))
        })?;
        if binding.epoch == 0 {
            return Err(Error::MalformedBinding("the first epoch is 1".into()));
        }
        self.take(dir, binding)
    }

    fn take(&self, dir: &UpperNode, binding: Binding) -> Result<()> {
        let worker = self
            .context
            .catalog
            .worker(&binding.worker)
            .ok_or_else(|| Error::ForeignWorker(binding.worker.clone()))?;
        let stat = dir.stat()?;
        let pass = self.context.gate.pass();
        if pass.is_theirs() {
            let stale = |bound: &Arc<BoundDir>| bound.is_stale(&binding);
            if self.get(dir.key()).as_ref().is_some_and(stale) {
                return Err(Error::StaleBinding);
            }
            let (root, path) = (self.context.root.path()?, dir.path()?);
            let path = Path::new(&path).strip_prefix(&root);
            let path = path.map_err(|_| Error::NoName)?.to_path_buf();
            pass.tell(dir.key(), || What::Bound(path, binding));
            return Ok(());
        }
        let mut table = self.table.write();
        match table.get(&dir.key()) {
            Some(bound) => bound.rebind(worker, binding),
            None => {
                let bound = BoundDir::new(
                    dir,
                    (stat.st_uid, stat.st_gid),
                    &self.context,
                    worker,
                    binding,
                )?;
                table.insert(dir.key(), bound);
                Ok(())
            }
        }
    }

    /// Forgets a directory that was removed: what was held goes, its sessions end.
    pub fn remove(&self, key: UpperKey) {
        let pass = self.context.gate.pass();
        let Some(bound) = self.table.write().remove(&key) else {
            return;
        };
        pass.tell(key, || What::Removed);
        let sessions = {
            let mut state = bound.state.lock();
            state.frozen = true;
            state.stop();
            state.held.clear();
            if let Some(mut journal) = state.journal.take() {
                journal.remove();
            }
            std::mem::take(&mut state.sessions)
        };
        self.context.cache.leave(bound.uid);
        bound.changed.notify_waiters();
        if pass.is_theirs() {
            return;
        }
        for session in sessions {
            self.context
                .runtime
                .spawn(end(self.context.source.clone(), session));
        }
    }

    /// Forgets directories that were removed behind our back, and writes down which were moved.
    pub fn prune(&self) {
        if self.context.gate.is_handed() {
            return;
        }
        self.note_places();
        let lost: Vec<UpperKey> = self
            .table
            .read()
            .iter()
            .filter(|(_, bound)| bound.dir.stat().is_ok_and(|stat| stat.st_nlink == 0))
            .map(|(key, _)| *key)
            .collect();
        for key in lost {
            self.remove(key);
        }
    }
}
