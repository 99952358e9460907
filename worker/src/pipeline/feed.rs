//! Subtitle packets on their way from a demuxer to the pictures they are drawn on.
//!
//! The queue has no bound: subtitles are small, and a demuxer that waited here for pictures would
//! wait for itself. A stream of the pictures' own input is read along with them; one of another
//! input is waited for.

use super::Shared;
use crate::libav::Packet;
use parking_lot::{Condvar, Mutex};
use std::{collections::VecDeque, sync::Arc, time::Duration};

/// The taking end.
pub(super) struct Feed {
    state: Arc<(Mutex<State>, Condvar)>,
    wait: bool,
}

/// The giving end; the stream ends when it is dropped.
pub(super) struct Inlet(Arc<(Mutex<State>, Condvar)>);

struct State {
    packets: VecDeque<Packet>,
    /// The input was read up to here, microseconds.
    read_us: i64,
    ended: bool,
}

/// A queue. `wait`: the packets come from another input than the pictures.
pub(super) fn feed(wait: bool) -> (Inlet, Feed) {
    let state = Arc::new((
        Mutex::new(State {
            packets: VecDeque::new(),
            read_us: i64::MIN,
            ended: false,
        }),
        Condvar::new(),
    ));
    (Inlet(Arc::clone(&state)), Feed { state, wait })
}

impl Inlet {
    /// Adds a packet.
    pub(super) fn push(&self, packet: Packet) {
        self.0.0.lock().packets.push_back(packet);
        self.0.1.notify_one();
    }

    /// Tells how far the input was read.
    pub(super) fn reached(&self, time_us: i64) {
        let mut state = self.0.0.lock();
        state.read_us = state.read_us.max(time_us);
        self.0.1.notify_one();
    }
}

impl Drop for Inlet {
    fn drop(&mut self) {
        self.0.0.lock().ended = true;
        self.0.1.notify_one();
    }
}

impl Feed {
    /// All packets that are known when a picture of this time is drawn. Waits until another input
    /// was read as far, or ended, or the job is over.
    pub(super) fn take(&self, time_us: i64, shared: &Shared) -> VecDeque<Packet> {
        let (state, moved) = &*self.state;
        let mut state = state.lock();
        while self.wait && !state.ended && state.read_us <= time_us && !shared.is_over() {
            moved.wait_for(&mut state, Duration::from_millis(100));
        }
        std::mem::take(&mut state.packets)
    }
}
