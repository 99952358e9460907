//! Whose bindings these are: this instance's, on their way to a later one, or the later one's.

use parking_lot::{Condvar, Mutex};
use plexbeam_api::mount::Binding;
use serde::{Deserialize, Serialize};
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};
use tokio::sync::mpsc::UnboundedSender;

/// Longest wait of a call while the bindings change hands.
const CHANGING_HANDS: Duration = Duration::from_secs(5);

/// What happened by way of an earlier instance, to be done by the later one, too.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Change {
    /// Device of the directory's file system.
    pub dev: u64,
    /// Its number there.
    pub ino: u64,
    /// What happened.
    pub what: What,
}

/// What happened to a directory.
#[derive(Clone, Serialize, Deserialize)]
pub enum What {
    /// It was bound. The path is that from the root of the upper layer.
    Bound(PathBuf, Binding),
    /// A held name was removed.
    Gone(String),
    /// It is being removed.
    Frozen,
    /// It was removed.
    Removed,
}

impl std::fmt::Debug for What {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            // The binding holds the token.
            What::Bound(path, _) => write!(f, "Bound({})", path.display()),
            What::Gone(name) => write!(f, "Gone({name})"),
            What::Frozen => f.write_str("Frozen"),
            What::Removed => f.write_str("Removed"),
        }
    }
}

#[derive(Debug, Default)]
enum Phase {
    #[default]
    Ours,
    Changing,
    Theirs(UnboundedSender<Change>),
}

#[derive(Debug, Default)]
struct State {
    phase: Phase,
    /// Calls that change bindings now.
    busy: usize,
}

/// Passed by every call that changes a binding.
#[derive(Debug, Default)]
pub(super) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

/// A call that changes a binding; the bindings do not change hands meanwhile.
#[derive(Debug)]
pub(super) struct Pass<'a> {
    gate: &'a Gate,
    theirs: Option<UnboundedSender<Change>>,
}

impl Gate {
    /// Waits while the bindings change hands, with a bound.
    pub(super) fn pass(&self) -> Pass<'_> {
        let mut state = self.state.lock();
        let deadline = Instant::now() + CHANGING_HANDS;
        while matches!(state.phase, Phase::Changing) {
            if self.changed.wait_until(&mut state, deadline).timed_out() {
                tracing::warn!("the bindings are changing hands for too long");
                break;
            }
        }
        state.busy += 1;
        let theirs = match &state.phase {
            Phase::Theirs(to) => Some(to.clone()),
            Phase::Ours | Phase::Changing => None,
        };
        drop(state);
        Pass { gate: self, theirs }
    }

    /// From here on calls wait; returns when those under way are through.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.phase = Phase::Changing;
        let deadline = Instant::now() + CHANGING_HANDS;
        while state.busy > 0 && !self.changed.wait_until(&mut state, deadline).timed_out() {}
    }

    /// Calls go on: told to the later instance, or done here as ever.
    pub(super) fn open(&self, theirs: Option<UnboundedSender<Change>>) {
        self.state.lock().phase = theirs.map_or(Phase::Ours, Phase::Theirs);
        self.changed.notify_all();
    }

    /// The bindings are not ours, or not for long.
    pub(super) fn is_handed(&self) -> bool {
        !matches!(self.state.lock().phase, Phase::Ours)
    }
}

impl Pass<'_> {
    /// The bindings are the later instance's.
    pub(super) fn is_theirs(&self) -> bool {
        self.theirs.is_some()
    }

    /// Tells the later instance, when there is one.
    pub(super) fn tell(&self, key: crate::overlay::UpperKey, what: impl FnOnce() -> What) {
        if let Some(theirs) = &self.theirs {
            let (dev, ino) = key.numbers();
            let change = Change {
                dev,
                ino,
                what: what(),
            };
            // It may have ended by now.
            let _ = theirs.send(change);
        }
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.gate.state.lock().busy -= 1;
        self.gate.changed.notify_all();
    }
}
