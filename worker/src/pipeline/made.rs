//! What the stages hand to the muxing thread, and their way there.

use crate::libav::{Packet, Params, Rational};
use plexbeam_api::segment::MediaKind;
use std::sync::mpsc::SyncSender;

/// Packets on their way to the muxer. Small: what waits here is memory, and the muxer keeps up.
pub(super) const MADE_QUEUE: usize = 64;

/// A stream of an output, by position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OutRef {
    pub(super) output: usize,
    pub(super) stream: usize,
}

/// What the muxer must know of a stream before its first packet.
pub(super) struct Ready {
    pub(super) media: MediaKind,
    pub(super) params: Params,
    /// Of the packets that follow.
    pub(super) time_base: Rational,
    /// 0/1 when unknown.
    pub(super) frame_rate: Rational,
    /// True when the packets were encoded here: segments end at the keys that were forced.
    pub(super) encoded: bool,
    pub(super) metadata: Vec<(String, String)>,
}

/// What the stages hand to the muxing thread.
pub(super) enum Made {
    Ready(OutRef, Box<Ready>),
    /// `cut`: a segment may end before this packet.
    Packet {
        to: OutRef,
        packet: Packet,
        cut: bool,
    },
    /// All packets of a segment were handed over; the key that begins the next one, with these
    /// times, is still to be made.
    Whole {
        to: OutRef,
        pts: i64,
        dts: i64,
    },
    /// No packet of this stream will lie before that time, microseconds.
    Until {
        to: OutRef,
        time_us: i64,
    },
    End(OutRef),
}

/// The queue into the muxing thread. A failed send means that the job is over.
#[derive(Clone)]
pub(super) struct Outlet {
    pub(super) queue: SyncSender<Made>,
    pub(super) to: OutRef,
}

impl Outlet {
    pub(super) fn ready(&self, ready: Ready) -> bool {
        self.queue
            .send(Made::Ready(self.to, Box::new(ready)))
            .is_ok()
    }

    pub(super) fn packet(&self, packet: Packet, cut: bool) -> bool {
        self.queue
            .send(Made::Packet {
                to: self.to,
                packet,
                cut,
            })
            .is_ok()
    }

    pub(super) fn whole(&self, pts: i64, dts: i64) -> bool {
        let to = self.to;
        self.queue.send(Made::Whole { to, pts, dts }).is_ok()
    }

    pub(super) fn until(&self, time_us: i64) -> bool {
        self.queue
            .send(Made::Until {
                to: self.to,
                time_us,
            })
            .is_ok()
    }

    pub(super) fn end(&self) -> bool {
        self.queue.send(Made::End(self.to)).is_ok()
    }
}
