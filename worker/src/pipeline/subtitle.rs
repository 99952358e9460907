//! Text subtitles on their way into another text codec.

use super::{Outlet, Ready, Shared, av};
use crate::libav::{MICROS, NOPTS, Packet, Params, Rational, rescale, subtitle::SubtitleConverter};
use plexbeam_api::{Problem, segment::MediaKind};

/// One subtitle stream that is converted. Sparse and small, so it works on the demuxing thread.
pub(super) struct SubtitleLane {
    outlet: Outlet,
    converter: SubtitleConverter,
    time_base: Rational,
    metadata: Vec<(String, String)>,
}

impl SubtitleLane {
    pub(super) fn new(
        outlet: Outlet,
        params: &Params,
        time_base: Rational,
        encoder: &str,
        metadata: Vec<(String, String)>,
    ) -> Result<Self, Problem> {
        let converter = SubtitleConverter::open(params, time_base, encoder).map_err(|e| av(&e))?;
        Ok(SubtitleLane {
            outlet,
            converter,
            time_base,
            metadata,
        })
    }

    /// Tells the muxer of the stream.
    pub(super) fn announce(&mut self) -> Result<bool, Problem> {
        Ok(self.outlet.ready(Ready {
            media: MediaKind::Subtitle,
            params: self.converter.params().map_err(|e| av(&e))?,
            time_base: MICROS,
            frame_rate: Rational { num: 0, den: 1 },
            encoded: true,
            metadata: self.metadata.clone(),
        }))
    }

    /// Converts a packet; a damaged one is noted and left out. False when the job is over.
    pub(super) fn packet(&mut self, packet: &Packet, from_us: i64, shared: &Shared) -> bool {
        if packet.pts() == NOPTS {
            return true;
        }
        let source_us = rescale(packet.duration(), self.time_base, MICROS);
        match self.converter.convert(packet) {
            Ok(None) => true,
            Ok(Some(mut event)) => {
                let pts = rescale(packet.pts(), self.time_base, MICROS)
                    + i64::from(event.delay_ms) * 1000;
                let duration = match event.duration_ms {
                    0 => source_us,
                    ms => i64::from(ms) * 1000,
                };
                if pts + duration < from_us {
                    return true;
                }
                event.packet.set_times(pts, pts);
                event.packet.set_duration(duration);
                self.outlet.packet(event.packet, true)
            }
            Err(error) => {
                shared.note(format!("a subtitle was left out: {error}"));
                true
            }
        }
    }

    /// The input has nothing for it up to here.
    pub(super) fn until(&self, time_us: i64) -> bool {
        self.outlet.until(time_us)
    }

    pub(super) fn end(&self) -> bool {
        self.outlet.end()
    }
}
