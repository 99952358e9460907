//! Streams that are copied: their packets pass unchanged, with the times that a muxer needs.

use super::{Outlet, Pacer, Ready, Shared};
use crate::libav::{MICROS, NOPTS, Packet, Rational, rescale};
use plexbeam_api::{Kind, Problem, segment::MediaKind};

/// After so many packets in a row that said when their pictures are shown, one that does not is damage
/// and not the container's way.
const TOLD: u32 = 64;

/// A stream whose packets pass unchanged.
pub(super) struct CopyLane {
    pub(super) outlet: Outlet,
    pub(super) ready: Option<Ready>,
    pub(super) media: MediaKind,
    before_start: bool,
    time_base: Rational,
    /// Length of a packet where the container does not tell, in ticks.
    usual_duration: i64,
    /// Reordering delay in ticks.
    delay: i64,
    last_dts: i64,
    /// Packets in a row that said when their pictures are shown.
    told: u32,
    started: bool,
    pacer: Pacer,
}

impl CopyLane {
    pub(super) fn new(outlet: Outlet, ready: Ready, before_start: bool) -> Self {
        let seconds = match ready.media {
            MediaKind::Video if ready.frame_rate.num > 0 => {
                f64::from(ready.frame_rate.den) / f64::from(ready.frame_rate.num)
            }
            MediaKind::Audio if ready.params.sample_rate() > 0 => {
                f64::from(ready.params.frame_size()) / f64::from(ready.params.sample_rate())
            }
            _ => 0.0,
        };
        let tick = f64::from(ready.time_base.num) / f64::from(ready.time_base.den);
        let usual_duration = (seconds / tick).round() as i64;
        CopyLane {
            outlet,
            media: ready.media,
            before_start,
            time_base: ready.time_base,
            usual_duration,
            delay: i64::from(ready.params.video_delay()) * usual_duration,
            last_dts: NOPTS,
            told: 0,
            started: false,
            ready: Some(ready),
            pacer: Pacer::new(),
        }
    }

    /// Mends missing and backward times, as a muxer needs them. False when the job is over.
    pub(super) fn packet(
        &mut self,
        mut packet: Packet,
        from_us: i64,
        shared: &Shared,
    ) -> Result<bool, Problem> {
        if self.media == MediaKind::Video && !self.started {
            let early = rescale(packet.time(), self.time_base, MICROS) < from_us;
            if !packet.is_key() || (early && !self.before_start) {
                return Ok(true);
            }
        }
        if self.media == MediaKind::Subtitle {
            let end = packet.time() + packet.duration().max(0);
            if rescale(end, self.time_base, MICROS) < from_us {
                return Ok(true);
            }
        }
        self.started = true;
        let (mut pts, mut dts) = (packet.pts(), packet.dts());
        let told = self.told;
        self.told = if pts == NOPTS {
            0
        } else {
            told.saturating_add(1)
        };
        if pts == NOPTS && told < TOLD && self.media == MediaKind::Video && self.delay > 0 {
            // AVI: which picture is shown when, only a decoder could tell. One picture alone, of which
            // the time was damaged, is shown when it is decoded.
            return Err(Problem::new(
                Kind::Unsupported,
                "the container does not say when pictures are shown, so that they cannot be copied",
            ));
        }
        if packet.duration() <= 0 {
            packet.set_duration(self.usual_duration);
        }
        if dts == NOPTS {
            dts = match (self.last_dts, pts) {
                (NOPTS, NOPTS) => 0,
                (NOPTS, pts) => pts - self.delay,
                (last, _) => last + packet.duration().max(1),
            };
        }
        if pts == NOPTS {
            pts = dts;
        }
        if self.last_dts != NOPTS && dts <= self.last_dts && self.media != MediaKind::Subtitle {
            dts = self.last_dts + 1;
        }
        pts = pts.max(dts);
        self.last_dts = dts;
        packet.set_times(pts, dts);
        if self.media == MediaKind::Video {
            let tick = f64::from(self.time_base.num) / f64::from(self.time_base.den);
            self.pacer.pace(shared, packet.duration() as f64 * tick);
        }
        let cut = packet.is_key();
        Ok(self.outlet.packet(packet, cut))
    }
}
