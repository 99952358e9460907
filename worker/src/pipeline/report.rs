//! What a job tells of itself while it runs.

use super::{Ready, Shared, Sink, resolve::Facts};
use plexbeam_api::{
    Event, Problem, Segment,
    event::{LogLevel, LogLine, Picture, Probed, Progress},
    segment::MediaKind,
};
use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

/// Time between two progress events.
const PROGRESS: Duration = Duration::from_millis(500);

/// Counts what was made and tells of it.
pub(super) struct Report<'a> {
    facts: &'a Facts,
    pub(super) probed: bool,
    /// End of the newest packet on the output's timeline.
    pub(super) out_time_us: i64,
    size: u64,
    /// Video packets so far.
    pub(super) frames: u64,
    last: Instant,
    last_out_us: i64,
    last_frames: u64,
}

impl<'a> Report<'a> {
    pub(super) fn new(facts: &'a Facts) -> Self {
        Report {
            facts,
            probed: false,
            out_time_us: facts.from_us,
            size: 0,
            frames: 0,
            last: Instant::now(),
            last_out_us: facts.from_us,
            last_frames: 0,
        }
    }

    pub(super) fn publish(
        &mut self,
        sink: &mut dyn Sink,
        segment: Segment,
        bytes: Vec<u8>,
    ) -> Result<(), Problem> {
        self.size += bytes.len() as u64;
        sink.publish(segment, bytes)
    }

    /// Inputs, decoders and encoders are open: PMS may be told (P1).
    pub(super) fn probe<'r>(
        &mut self,
        readies: impl Iterator<Item = &'r Ready>,
        sink: &mut dyn Sink,
    ) -> Result<(), Problem> {
        self.probed = true;
        let mut pictures = Vec::new();
        let mut device = "copy";
        for ready in readies.filter(|r| r.media == MediaKind::Video) {
            let (width, height) = ready.params.size();
            let (num, den) = ready.params.sar().unwrap_or((1, 1));
            let wide = (u64::from(width) * u64::from(num) / u64::from(den.max(1))) as u32;
            pictures.push(Picture {
                width: wide,
                height,
            });
            if ready.encoded {
                device = &self.facts.encoded_by;
            }
        }
        sink.event(Event::Probed(Probed {
            duration_us: self.facts.duration_us,
            format: self.facts.format.clone(),
            streams: self.facts.streams.clone(),
            pictures,
            device: device.to_owned(),
        }))
    }

    pub(super) fn progress(
        &mut self,
        shared: &Shared,
        sink: &mut dyn Sink,
        last: bool,
    ) -> Result<(), Problem> {
        let now = Instant::now();
        let wall = now.duration_since(self.last);
        if !self.probed || (wall < PROGRESS && !last) {
            return Ok(());
        }
        for message in std::mem::take(&mut *shared.notes.lock()) {
            sink.event(Event::Log(LogLine {
                level: LogLevel::Warning,
                message,
            }))?;
        }
        let seconds = wall.as_secs_f64().max(1e-3);
        let speed = (self.out_time_us - self.last_out_us) as f64 / 1e6 / seconds;
        let duration = self.facts.duration_us.filter(|d| *d > 0);
        let left_us = duration.map(|d| (d - self.out_time_us).max(0));
        let progress = Progress {
            percent: duration
                .map(|d| (self.out_time_us as f64 * 100.0 / d as f64).clamp(0.0, 100.0)),
            out_time_us: self.out_time_us,
            size: self.size,
            remaining_s: left_us
                .filter(|_| speed > 0.0)
                .map(|l| (l as f64 / 1e6 / speed) as u64),
            frames: self.frames,
            fps: (self.frames - self.last_frames) as f64 / seconds,
            speed: (!shared.control.is_throttled()).then_some(speed),
            vdec_packets: shared.vdec_packets.load(Ordering::Relaxed),
            vdec_failed: shared.vdec_failed.load(Ordering::Relaxed),
        };
        self.last = now;
        self.last_out_us = self.out_time_us;
        self.last_frames = self.frames;
        sink.event(Event::Progress(progress))
    }
}
