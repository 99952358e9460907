//! One stream between its stage and the packager of its output.

use super::Ready;
use crate::libav::{MICROS, NOPTS, Packet, Rational};
use plexbeam_api::segment::MediaKind;
use std::collections::VecDeque;

/// What waits for its turn, in order of decoding times.
pub(super) enum Queued {
    /// `cut`: a segment may end before it.
    Packet { packet: Packet, cut: bool },
    /// The segment is whole; the next one begins with a key of these times that is still to come.
    Whole { pts: i64, dts: i64 },
}

impl Queued {
    /// When its turn comes, in the lane's time base.
    pub(super) fn dts(&self) -> i64 {
        match self {
            Queued::Packet { packet, .. } => packet.dts(),
            Queued::Whole { dts, .. } => *dts,
        }
    }
}

/// One stream on its way into the packager.
pub(super) struct Lane {
    pub(super) ready: Option<Ready>,
    pub(super) media: MediaKind,
    pub(super) time_base: Rational,
    pub(super) encoded: bool,
    pub(super) queue: VecDeque<Queued>,
    pub(super) ended: bool,
    /// No packet with an earlier decoding time will come, microseconds: how a stream with long
    /// gaps lets the others go on.
    pub(super) silent_until_us: i64,
    /// First packet's presentation time (pictures of an open GOP may lie before their key) and
    /// latest end of the segment being written.
    pub(super) start: Option<i64>,
    pub(super) end: i64,
}

impl Lane {
    pub(super) fn new() -> Self {
        Lane {
            ready: None,
            media: MediaKind::Data,
            time_base: MICROS,
            encoded: false,
            queue: VecDeque::new(),
            ended: false,
            silent_until_us: i64::MIN,
            start: None,
            end: NOPTS,
        }
    }

    /// The others wait for its next packet.
    pub(super) fn starves(&self) -> bool {
        !self.ended
            && self.queue.is_empty()
            && matches!(self.media, MediaKind::Video | MediaKind::Audio)
    }
}
