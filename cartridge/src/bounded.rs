//! Work that a file system may keep waiting for ever.

use std::sync::mpsc;
use std::time::Duration;

/// Does it on a thread of its own; `None` where it has no end in time, or none at all. The thread is
/// left behind then.
pub(crate) fn bounded<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (tell, told) = mpsc::channel();
    std::thread::Builder::new()
        .stack_size(512 << 10)
        // Who no longer waits needs no answer.
        .spawn(move || tell.send(work()))
        .ok()?;
    told.recv_timeout(limit).ok()
}
