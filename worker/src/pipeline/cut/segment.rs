//! What is told of a file that was cut: its kind, number, size, digest and times.

use super::Cutter;
use crate::{
    libav::{MICROS, NOPTS, rescale},
    pipeline::{lane::Lane, package::Packager},
};
use plexbeam_api::{
    FileName, Segment,
    checksum::Checksum,
    segment::{Digest, MediaKind, RowTimes, SegmentKind},
};

impl Cutter<'_> {
    /// Without times.
    pub(super) fn file(
        &self,
        kind: SegmentKind,
        stream: Option<usize>,
        number: Option<u32>,
        name: FileName,
        bytes: &[u8],
    ) -> Segment {
        Segment {
            output: self.plan.at as u32,
            rendition: stream.map(|s| s as u32),
            kind,
            number,
            name,
            size: bytes.len() as u64,
            digest: Digest::of(bytes),
            checksum: Some(Checksum::of(bytes)),
            time_scale: 1_000_000,
            pts: 0,
            duration: 0,
            times: None,
            rendition_info: None,
        }
    }

    /// Title times of the segment being written.
    pub(super) fn row(&self, next: Option<i64>) -> RowTimes {
        let us = |lane: &Lane, time: i64| rescale(time, lane.time_base, MICROS);
        let end_of = |media| {
            self.lanes
                .iter()
                .filter(|l| l.media == media && l.end != NOPTS)
                .map(|l| us(l, l.end))
                .max()
        };
        let reference = &self.lanes[self.reference];
        let start_us = reference.start.map_or(0, |s| us(reference, s));
        let latest = end_of(MediaKind::Video).max(end_of(MediaKind::Audio));
        // Between subtitles there may be silence, which belongs to no segment.
        let end_us = match next {
            _ if self.is_text() => end_of(MediaKind::Subtitle).unwrap_or(start_us),
            Some(next) => us(reference, next),
            None => latest.unwrap_or(start_us),
        };
        RowTimes {
            start_us,
            end_us,
            audio_end_us: end_of(MediaKind::Audio),
            video_end_us: end_of(MediaKind::Video),
        }
    }

    /// Adds its times: ticks of its own stream where each stream has files of its own.
    pub(super) fn stamp(
        &self,
        segment: &mut Segment,
        stream: Option<usize>,
        next: Option<i64>,
        row: RowTimes,
    ) {
        let (Some(Packager::Dash(streams)), Some(at)) = (&self.packager, stream) else {
            segment.pts = row.start_us;
            segment.duration = row.end_us - row.start_us;
            segment.times = Some(row);
            return;
        };
        let lane = &self.lanes[at];
        let scale = streams[at].time_base();
        segment.time_scale = scale.den.max(1) as u32;
        let Some(start) = lane.start else { return };
        let end = match next {
            Some(next) if at == self.reference => next,
            _ => lane.end,
        };
        // What the encoder needs to begin lies before the title's zero and is not in the file.
        let start = rescale(start, lane.time_base, scale).max(0);
        segment.pts = start;
        segment.duration = (rescale(end, lane.time_base, scale) - start).max(0);
    }
}
