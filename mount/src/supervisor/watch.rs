//! Whether the mount answers.

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Pause between two looks whether the mount answers.
const WATCH_EVERY: Duration = Duration::from_millis(500);

/// Asks the mount again and again how it is, on a thread that may wait for ever.
#[derive(Debug)]
pub(super) struct Watch {
    /// When it asked, while no answer has come.
    asked: Arc<Mutex<Option<Instant>>>,
    /// Waits longer than this are too long.
    at_most: Duration,
}

impl Watch {
    /// Nothing is asked before [`Watch::begin`].
    pub(super) fn new(at_most: Duration) -> Self {
        Watch {
            asked: Arc::default(),
            at_most,
        }
    }

    /// Asks from now on, for as long as the process lives.
    pub(super) fn begin(&self, mountpoint: &Path) {
        let (asked, mountpoint) = (self.asked.clone(), mountpoint.to_path_buf());
        std::thread::spawn(move || {
            loop {
                *lock(&asked) = Some(Instant::now());
                // Whatever the answer, it is one.
                let _ = rustix::fs::statfs(&mountpoint);
                *lock(&asked) = None;
                std::thread::sleep(WATCH_EVERY);
            }
        });
    }

    /// It has waited for an answer for too long.
    pub(super) fn is_late(&self) -> bool {
        lock(&self.asked).is_some_and(|at| at.elapsed() > self.at_most)
    }

    /// Who kept it waiting is being ended.
    pub(super) fn forget(&self) {
        *lock(&self.asked) = None;
    }
}

fn lock(asked: &Mutex<Option<Instant>>) -> MutexGuard<'_, Option<Instant>> {
    asked.lock().unwrap_or_else(PoisonError::into_inner)
}
