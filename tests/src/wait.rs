//! Waiting with a bound: for a condition, never for a time.

use std::{
    thread,
    time::{Duration, Instant},
};

/// How often a condition is looked at.
const PERIOD: Duration = Duration::from_millis(10);

/// Calls `look` until it gives something, at most for `bound`.
pub fn poll<T>(bound: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + bound;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() >= end {
            return None;
        }
        thread::park_timeout(PERIOD);
    }
}

/// As [`poll`], but panics naming `what` when the bound is reached.
#[track_caller]
pub fn until<T>(what: &str, bound: Duration, look: impl FnMut() -> Option<T>) -> T {
    match poll(bound, look) {
        Some(found) => found,
        None => panic!("{what}: not within {bound:?}"),
    }
}
