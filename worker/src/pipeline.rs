//! One job from its inputs to finished segments, on its own plain threads, inside the job child.

use crate::input::InputPolicy;
use parking_lot::{Condvar, Mutex};
use plexbeam_api::{Event, JobSpec, Problem, Segment};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// Where a pipeline puts what it makes. Called from the pipeline's muxing thread only.
pub trait Sink: Send {
    /// Tells of [`Event::Probed`], [`Event::Progress`] and [`Event::Log`].
    fn event(&mut self, event: Event) -> Result<(), Problem>;

    /// Takes a finished file. May block while there is no room; that is the pipeline's back
    /// pressure. A name is published once, except a playlist, which replaces the one before.
    fn publish(&mut self, segment: Segment, bytes: Vec<u8>) -> Result<(), Problem>;
}

/// The levers on a running pipeline; shared between its threads and its owner.
#[derive(Debug, Default)]
pub struct Control {
    cancelled: AtomicBool,
    throttled: AtomicBool,
    paused: Mutex<bool>,
    resumed: Condvar,
}

impl Control {
    /// All levers off.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Ends the pipeline soon; also wakes it when it is paused.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
        let _paused = self.paused.lock();
        self.resumed.notify_all();
    }

    /// True after [`Control::cancel`]; read by every stage and by libav's interrupt callback.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Holds or releases the pipeline: every stage stops at its next packet or frame.
    pub fn set_paused(&self, on: bool) {
        *self.paused.lock() = on;
        self.resumed.notify_all();
    }

    /// Paces the encoder at 0.3 to 0.5 x real time while on (PROTOCOL 6.4).
    pub fn set_throttled(&self, on: bool) {
        self.throttled.store(on, Ordering::Relaxed);
    }

    /// True while PMS wants the job slow.
    pub fn is_throttled(&self) -> bool {
        self.throttled.load(Ordering::Relaxed)
    }

    /// Returns when the pipeline may go on; false when it was cancelled.
    pub fn pass(&self) -> bool {
        let mut paused = self.paused.lock();
        while *paused && !self.is_cancelled() {
            self.resumed.wait(&mut paused);
        }
        !self.is_cancelled()
    }
}

/// Runs a job to its end on this thread and its helpers. Blocks. Errors: the input's
/// ([`plexbeam_api::Kind::BadInput`]), `Unsupported`, `Cancelled`, or `Internal`.
pub fn run(
    _spec: &JobSpec,
    _policy: &InputPolicy,
    _sink: &mut dyn Sink,
    _control: &Arc<Control>,
) -> Result<(), Problem> {
    Err(Problem::new(
        plexbeam_api::Kind::Internal,
        "the pipeline is being built",
    ))
}
