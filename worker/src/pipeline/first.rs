//! The first segment comes first: while its pictures are encoded, its sound stays a little behind and
//! that of later segments waits.
//!
//! On a machine with few processors, sound that is made ahead takes its time from the pictures; what
//! is left of it when the last picture is in the encoder fills processors that this leaves idle.

use super::{Feed, Shared};
use parking_lot::{Condvar, Mutex};
use std::{
    sync::{
        Arc,
        mpsc::{SyncSender, TrySendError},
    },
    time::Duration,
};

/// How far the sound stays behind the pictures.
const LAG_US: i64 = 300_000;

/// How much more sound than pictures is made in the end: encoders hold some back, and a segment is
/// closed by the packet behind its last.
const MARGIN_US: i64 = 100_000;

/// How far the first segments of a job's encoded videos are.
pub(super) struct First {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// Videos whose first segment is being encoded.
    going: usize,
    /// Sound up to here is made meanwhile, microseconds.
    until_us: i64,
    /// The input has so much sound before its pictures that none may wait.
    called_off: bool,
}

impl State {
    /// Sound at this time waits.
    fn holds(&self, time_us: i64) -> bool {
        self.going > 0 && !self.called_off && time_us > self.until_us
    }
}

/// A video's first segment, while it is being encoded.
pub(super) struct Turn(Arc<First>);

impl First {
    /// No video's.
    pub(super) fn new() -> Arc<Self> {
        Arc::new(First {
            state: Mutex::new(State {
                going: 0,
                until_us: i64::MIN,
                called_off: false,
            }),
            changed: Condvar::new(),
        })
    }

    /// A video's first segment begins.
    pub(super) fn begin(self: &Arc<Self>) -> Turn {
        self.state.lock().going += 1;
        Turn(Arc::clone(self))
    }

    /// Waits until the sound at this time is to be made, or the job is over.
    pub(super) fn wait(&self, time_us: i64, shared: &Shared) {
        let mut state = self.state.lock();
        while state.holds(time_us) && !shared.is_over() {
            self.changed
                .wait_for(&mut state, Duration::from_millis(100));
        }
    }

    fn up_to(&self, time_us: i64) {
        let mut state = self.state.lock();
        if time_us > state.until_us {
            state.until_us = time_us;
            self.changed.notify_all();
        }
    }

    fn call_off(&self) {
        self.state.lock().called_off = true;
        self.changed.notify_all();
    }
}

impl Turn {
    /// The picture at this time goes to the encoder.
    pub(super) fn reaches(&self, time_us: i64) {
        self.0.up_to(time_us.saturating_sub(LAG_US));
    }

    /// All its pictures are there, it ends at this time.
    pub(super) fn closes(&self, time_us: i64) {
        self.0.up_to(time_us.saturating_add(MARGIN_US));
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.state.lock().going -= 1;
        self.0.changed.notify_all();
    }
}

/// The queue into an audio stage. The stage may wait for pictures, but not while the demuxer, from
/// which these come, too, waits for the queue.
pub(super) struct SoundQueue {
    queue: SyncSender<Feed>,
    first: Arc<First>,
}

impl SoundQueue {
    pub(super) fn new(queue: SyncSender<Feed>, first: &Arc<First>) -> Self {
        SoundQueue {
            queue,
            first: Arc::clone(first),
        }
    }

    /// False when nobody takes sound any more.
    pub(super) fn send(&self, feed: Feed) -> bool {
        match self.queue.try_send(feed) {
            Ok(()) => true,
            Err(TrySendError::Full(feed)) => {
                self.first.call_off();
                self.queue.send(feed).is_ok()
            }
            Err(TrySendError::Disconnected(_)) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{sync::mpsc::sync_channel, time::Instant};

    fn holds(first: &First, time_us: i64) -> bool {
        first.state.lock().holds(time_us)
    }

    #[test]
    fn sound_stays_behind_the_pictures_until_the_first_segment_is_encoded() {
        let first = First::new();
        assert!(!holds(&first, 0), "there are no pictures");
        let turn = first.begin();
        assert!(holds(&first, 0));
        turn.reaches(2_000_000);
        assert!(!holds(&first, 1_700_000) && holds(&first, 1_700_001));
        turn.closes(4_000_000);
        assert!(!holds(&first, 4_100_000) && holds(&first, 4_100_001));
        let other = first.begin();
        drop(turn);
        assert!(holds(&first, 5_000_000), "of the other video");
        drop(other);
        assert!(!holds(&first, i64::MAX));
    }

    #[test]
    fn a_full_queue_keeps_nothing_waiting() {
        let first = First::new();
        let _turn = first.begin();
        let (sender, taken) = sync_channel(1);
        let queue = SoundQueue::new(sender, &first);
        assert!(queue.send(Feed::Until(0)));
        assert!(holds(&first, 0));
        std::thread::scope(|scope| {
            let full = scope.spawn(|| queue.send(Feed::Until(1)));
            let deadline = Instant::now() + Duration::from_secs(20);
            while holds(&first, 0) {
                assert!(Instant::now() < deadline, "sound still waits");
                std::thread::yield_now();
            }
            assert!(taken.recv().is_ok());
            assert!(full.join().unwrap());
        });
        drop(taken);
        assert!(!queue.send(Feed::Until(2)));
    }
}
