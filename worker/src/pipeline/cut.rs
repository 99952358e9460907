//! Where the segment cut happens: packets of all streams in order of decoding time, ended at the
//! video's keys by the rule of PROTOCOL 7, every other stream at the same moment.

use super::{
    Made, OutRef, Ready, Shared,
    package::{Fragmented, Muxed, Packager, Part},
    resolve::{Facts, OutputPlan},
    timeline::{CutRule, compare, micros},
};
use crate::libav::{MICROS, NOPTS, Packet, Rational, rescale};
use plexbeam_api::{
    Event, FileName, Kind, Problem, Segment,
    event::{LogLevel, LogLine, Picture, Probed, Progress},
    job::{Container, Packaging},
    manifest::hls::{Entry, MediaPlaylist},
    segment::{Digest, MediaKind, RowTimes, SegmentKind},
};
use std::{
    collections::VecDeque,
    sync::{atomic::Ordering, mpsc::Receiver},
    time::{Duration, Instant},
};

/// Bytes that may wait for a stream that has no packet yet; then the others go on without it.
const MAX_WAITING: usize = 256 << 20;
/// Time between two progress events.
const PROGRESS: Duration = Duration::from_millis(500);

/// Takes what the stages make until all streams have ended.
pub(super) fn run(
    outputs: &[OutputPlan],
    facts: &Facts,
    queue: &Receiver<Made>,
    shared: &Shared,
    sink: &mut dyn super::Sink,
) -> Result<(), Problem> {
    let mut cutters: Vec<Cutter> = outputs
        .iter()
        .enumerate()
        .map(|(at, plan)| Cutter::new(at, plan, facts))
        .collect::<Result<_, _>>()?;
    let mut report = Report::new(facts);
    while let Ok(made) = queue.recv() {
        if shared.is_over() {
            return Ok(());
        }
        let at = match &made {
            Made::Ready(to, _) | Made::Packet { to, .. } | Made::End(to) => to.output,
        };
        let cutter = &mut cutters[at];
        cutter.take(made);
        if !report.probed {
            if cutters.iter().any(|c| c.packager.is_none() && !c.all_ready()) {
                continue;
            }
            report.probe(&cutters, sink)?;
        }
        for cutter in &mut cutters {
            cutter.advance(sink, &mut report)?;
        }
        report.progress(shared, sink, false)?;
    }
    if shared.is_over() {
        return Ok(());
    }
    for cutter in &mut cutters {
        cutter.finish(sink, &mut report)?;
    }
    report.progress(shared, sink, true)
}

struct Queued {
    packet: Packet,
    cut: bool,
}

/// One stream on its way into the packager.
struct Lane {
    ready: Option<Ready>,
    media: MediaKind,
    time_base: Rational,
    encoded: bool,
    queue: VecDeque<Queued>,
    ended: bool,
    /// First packet's presentation time (pictures of an open GOP may lie before their key) and
    /// latest end of the segment being written.
    start: Option<i64>,
    end: i64,
}

impl Lane {
    fn new() -> Self {
        Lane {
            ready: None,
            media: MediaKind::Data,
            time_base: MICROS,
            encoded: false,
            queue: VecDeque::new(),
            ended: false,
            start: None,
            end: NOPTS,
        }
    }

    /// Others wait for its packets.
    fn blocks(&self) -> bool {
        !self.ended && matches!(self.media, MediaKind::Video | MediaKind::Audio)
    }
}

/// One output being cut.
struct Cutter<'a> {
    at: usize,
    plan: &'a OutputPlan,
    names: Names<'a>,
    rule: CutRule,
    lanes: Vec<Lane>,
    /// The lane whose keys end segments.
    reference: usize,
    packager: Option<Packager>,
    number: u32,
    is_seek: bool,
    from_us: i64,
    /// Start of the job for the cut rule, once the first packet of the reference is known.
    base_us: Option<i64>,
    waiting: usize,
    playlist: Vec<Entry>,
    wrote: bool,
}

/// File names of an output.
struct Names<'a> {
    init: Option<&'a str>,
    media: &'a str,
    header: Option<&'a FileName>,
    playlist: Option<&'a FileName>,
}

impl Names<'_> {
    fn bad(pattern: &str) -> Problem {
        Problem::new(Kind::InvalidArgument, format!("name pattern `{pattern}` gives no file name"))
            .at("packaging")
    }

    fn file(pattern: &str, stream: usize, number: u32) -> Result<FileName, Problem> {
        expand(pattern, stream, number)
            .and_then(|name| FileName::try_from(name).ok())
            .ok_or_else(|| Self::bad(pattern))
    }
}

/// `$RepresentationID$`, `$Number$`, `$Number%05d$`, `%d` and `%05d`.
fn expand(pattern: &str, stream: usize, number: u32) -> Option<String> {
    let mut out = String::new();
    let mut rest = pattern;
    while let Some(at) = rest.find(['$', '%']) {
        out.push_str(&rest[..at]);
        let special = &rest[at..];
        if let Some(after) = special.strip_prefix("$RepresentationID$") {
            out.push_str(&stream.to_string());
            rest = after;
        } else if let Some(after) = special.strip_prefix("$Number$") {
            out.push_str(&number.to_string());
            rest = after;
        } else {
            let (inner, closing) = match special.strip_prefix("$Number") {
                Some(inner) => (inner, "$"),
                None => (special, ""),
            };
            let digits = inner.strip_prefix('%')?;
            let end = digits.find('d')?;
            let width: usize = match &digits[..end] {
                "" => 1,
                width => width.parse().ok().filter(|w| *w <= 20)?,
            };
            out.push_str(&format!("{number:0width$}"));
            rest = digits[end + 1..].strip_prefix(closing)?;
        }
    }
    out.push_str(rest);
    Some(out)
}

impl<'a> Cutter<'a> {
    fn new(at: usize, plan: &'a OutputPlan, facts: &Facts) -> Result<Self, Problem> {
        let (names, length, tolerance, first_number) = match &plan.packaging {
            Packaging::Dash {
                segment_seconds,
                first_number,
                tolerance_seconds,
                init_name,
                media_name,
            } => (
                Names { init: Some(init_name), media: media_name, header: None, playlist: None },
                segment_seconds,
                *tolerance_seconds,
                first_number,
            ),
            Packaging::Segment {
                segment_seconds,
                first_number,
                tolerance_seconds,
                media_name,
                header_name,
                ..
            } => (
                Names {
                    init: None,
                    media: media_name,
                    header: header_name.as_ref(),
                    playlist: None,
                },
                segment_seconds,
                *tolerance_seconds,
                first_number,
            ),
            Packaging::Hls { segment_seconds, first_number, media_name, playlist_name } => (
                Names { init: None, media: media_name, header: None, playlist: Some(playlist_name) },
                segment_seconds,
                0.0,
                first_number,
            ),
        };
        Names::file(names.media, 0, *first_number)?;
        if let Some(init) = names.init {
            Names::file(init, 0, 0)?;
        }
        Ok(Cutter {
            at,
            plan,
            names,
            rule: CutRule {
                length_us: micros(*length),
                tolerance_us: micros(tolerance),
                first_number: *first_number,
            },
            lanes: plan.streams.iter().map(|_| Lane::new()).collect(),
            reference: 0,
            packager: None,
            number: *first_number,
            is_seek: facts.is_seek,
            from_us: facts.from_us,
            base_us: None,
            waiting: 0,
            playlist: Vec::new(),
            wrote: false,
        })
    }

    fn take(&mut self, made: Made) {
        match made {
            Made::Ready(OutRef { stream, .. }, ready) => {
                let lane = &mut self.lanes[stream];
                lane.media = ready.media;
                lane.time_base = ready.time_base;
                lane.encoded = ready.encoded;
                lane.ready = Some(*ready);
            }
            Made::Packet { to, packet, cut } => {
                self.waiting += packet.size();
                self.lanes[to.stream].queue.push_back(Queued { packet, cut });
            }
            Made::End(OutRef { stream, .. }) => self.lanes[stream].ended = true,
        }
    }

    fn all_ready(&self) -> bool {
        // A stream that ended without ever starting is left out.
        self.lanes.iter().all(|l| l.ready.is_some() || l.ended)
    }

    /// Opens the muxers when all streams are known.
    fn open(&mut self) -> Result<(), Problem> {
        // A lane without a stream must not shift the numbers of the others.
        if let Some(missing) = self.lanes.iter().position(|l| l.ready.is_none()) {
            let stream = &self.plan.streams[missing];
            return Err(Problem::new(
                Kind::BadInput,
                format!("stream {} of the input could not be decoded at all", stream.index),
            ));
        }
        let kind = |media| self.lanes.iter().position(|l| l.media == media);
        self.reference =
            kind(MediaKind::Video).or_else(|| kind(MediaKind::Audio)).unwrap_or_default();
        let readies: Vec<Ready> = self.lanes.iter_mut().filter_map(|l| l.ready.take()).collect();
        let first_number = self.rule.first_number;
        self.packager = Some(match &self.plan.packaging {
            Packaging::Dash { .. } => Packager::Dash(
                readies.into_iter().map(|r| Fragmented::new(r, first_number)).collect(),
            ),
            Packaging::Segment { container, header_name, .. } => {
                let separate = header_name.is_some();
                let options = &self.plan.muxer_options;
                Packager::Muxed(Muxed::new(readies, *container, options, separate)?)
            }
            Packaging::Hls { .. } => Packager::Muxed(Muxed::new(
                readies,
                Container::MpegTs,
                &self.plan.muxer_options,
                false,
            )?),
        });
        Ok(())
    }

    /// Writes every packet whose turn has come.
    fn advance(&mut self, sink: &mut dyn super::Sink, report: &mut Report) -> Result<(), Problem> {
        if self.packager.is_none() {
            if !self.all_ready() {
                return Ok(());
            }
            self.open()?;
        }
        loop {
            let starving = self.lanes.iter().any(|l| l.blocks() && l.queue.is_empty());
            if starving && self.waiting < MAX_WAITING {
                return Ok(());
            }
            let Some(next) = self.earliest() else { return Ok(()) };
            let Some(queued) = self.lanes[next].queue.pop_front() else { return Ok(()) };
            self.waiting -= queued.packet.size();
            self.write(next, queued, sink, report)?;
        }
    }

    /// The lane with the smallest decoding time at its head. At equal times the reference comes
    /// first, so that what starts with a key belongs to its segment.
    fn earliest(&self) -> Option<usize> {
        let mut best: Option<usize> = None;
        for (at, lane) in self.lanes.iter().enumerate() {
            let Some(head) = lane.queue.front() else { continue };
            let Some(other) = best else {
                best = Some(at);
                continue;
            };
            let rival = &self.lanes[other];
            let Some(rival_head) = rival.queue.front() else { continue };
            let order =
                compare(head.packet.dts(), lane.time_base, rival_head.packet.dts(), rival.time_base);
            if order.is_lt() || (order.is_eq() && at == self.reference) {
                best = Some(at);
            }
        }
        best
    }

    fn write(
        &mut self,
        at: usize,
        queued: Queued,
        sink: &mut dyn super::Sink,
        report: &mut Report,
    ) -> Result<(), Problem> {
        let Queued { packet, cut } = queued;
        let base = self.lanes[at].time_base;
        if at == self.reference {
            if let Some(base_us) = self.base_us {
                if cut && self.rule.ends(self.number, packet.pts(), base, base_us) {
                    self.cut(Some(packet.pts()), sink, report)?;
                }
            } else {
                let first_us = rescale(packet.pts(), base, MICROS);
                let encoded = self.lanes[at].encoded;
                self.base_us = Some(if encoded { self.from_us } else { first_us });
            }
        } else if self.base_us.is_none() && self.is_seek {
            // Before the start of the video: pre-roll of the audio, and subtitles that are over.
            let end_us = rescale(packet.pts() + packet.duration(), base, MICROS);
            if self.lanes[at].media != MediaKind::Subtitle || end_us <= self.from_us {
                return Ok(());
            }
        }
        let lane = &mut self.lanes[at];
        let end = packet.pts() + packet.duration().max(0);
        lane.start.get_or_insert(packet.pts());
        lane.end = if lane.end == NOPTS { end } else { lane.end.max(end) };
        if matches!(lane.media, MediaKind::Video | MediaKind::Audio) {
            report.out_time_us = report.out_time_us.max(rescale(end, base, MICROS));
        }
        if lane.media == MediaKind::Video {
            report.frames += 1;
        }
        self.wrote = true;
        match &mut self.packager {
            Some(packager) => packager.write(at, packet),
            None => Ok(()),
        }
    }

    /// Ends the segment being written, before a key of the reference at `next` or at the end.
    fn cut(
        &mut self,
        next: Option<i64>,
        sink: &mut dyn super::Sink,
        report: &mut Report,
    ) -> Result<(), Problem> {
        let Some(packager) = &mut self.packager else { return Ok(()) };
        if let Packager::Muxed(muxed) = packager
            && let (Some(bytes), Some(name)) = (muxed.take_header(), self.names.header)
        {
            let segment = self.file(SegmentKind::Header, None, None, name.clone(), &bytes);
            report.publish(sink, segment, bytes)?;
        }
        let (inits, media) = match &mut self.packager {
            Some(packager) => packager.finish(next.is_none())?,
            None => return Ok(()),
        };
        for Part { stream, bytes } in inits {
            let pattern = self.names.init.unwrap_or_default();
            let name = Names::file(pattern, stream.unwrap_or(0), self.number)?;
            let mut segment = self.file(SegmentKind::Init, stream, None, name, &bytes);
            if let (Some(Packager::Dash(streams)), Some(at)) = (&self.packager, stream) {
                segment.rendition_info = Some(streams[at].rendition());
                segment.time_scale = streams[at].time_base().den.max(1) as u32;
            }
            report.publish(sink, segment, bytes)?;
        }
        let times = self.row(next);
        for Part { stream, bytes } in media {
            let name = Names::file(self.names.media, stream.unwrap_or(0), self.number)?;
            let number = Some(self.number);
            let mut segment = self.file(SegmentKind::Media, stream, number, name, &bytes);
            self.stamp(&mut segment, stream, next, times);
            let length = segment.duration as f64 / f64::from(segment.time_scale.max(1));
            let name = segment.name.clone();
            report.publish(sink, segment, bytes)?;
            if let Some(playlist) = self.names.playlist {
                self.playlist.push(Entry { name, seconds: length });
                self.publish_playlist(playlist, next.is_none(), sink, report)?;
            }
        }
        self.number += 1;
        for lane in &mut self.lanes {
            lane.start = None;
            lane.end = NOPTS;
        }
        Ok(())
    }

    fn publish_playlist(
        &self,
        name: &FileName,
        ended: bool,
        sink: &mut dyn super::Sink,
        report: &mut Report,
    ) -> Result<(), Problem> {
        let playlist = MediaPlaylist {
            media_sequence: self.rule.first_number,
            entries: self.playlist.clone(),
            ended,
        };
        let bytes = playlist.to_string().into_bytes();
        let segment = self.file(SegmentKind::Playlist, None, None, name.clone(), &bytes);
        report.publish(sink, segment, bytes)
    }

    fn file(
        &self,
        kind: SegmentKind,
        stream: Option<usize>,
        number: Option<u32>,
        name: FileName,
        bytes: &[u8],
    ) -> Segment {
        Segment {
            output: self.at as u32,
            rendition: stream.map(|s| s as u32),
            kind,
            number,
            name,
            size: bytes.len() as u64,
            digest: Digest::of(bytes),
            time_scale: 1_000_000,
            pts: 0,
            duration: 0,
            times: None,
            rendition_info: None,
        }
    }

    /// Title times of the segment being written.
    fn row(&self, next: Option<i64>) -> RowTimes {
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
        RowTimes {
            start_us,
            end_us: next.map_or(latest.unwrap_or(start_us), |n| us(reference, n)),
            audio_end_us: end_of(MediaKind::Audio),
            video_end_us: end_of(MediaKind::Video),
        }
    }

    fn stamp(&self, segment: &mut Segment, stream: Option<usize>, next: Option<i64>, row: RowTimes) {
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
        // Priming before the title's zero is cut off by the edit list.
        let start = rescale(start, lane.time_base, scale).max(0);
        segment.pts = start;
        segment.duration = (rescale(end, lane.time_base, scale) - start).max(0);
    }

    fn finish(&mut self, sink: &mut dyn super::Sink, report: &mut Report) -> Result<(), Problem> {
        for lane in &mut self.lanes {
            lane.ended = true;
        }
        self.advance(sink, report)?;
        if !self.wrote || self.base_us.is_none() {
            return Err(Problem::new(
                Kind::BadInput,
                "the input has nothing to play from the time asked for",
            ));
        }
        self.cut(None, sink, report)
    }
}

/// What the job tells of itself while it runs.
struct Report<'a> {
    facts: &'a Facts,
    probed: bool,
    out_time_us: i64,
    size: u64,
    frames: u64,
    last: Instant,
    last_out_us: i64,
    last_frames: u64,
}

impl<'a> Report<'a> {
    fn new(facts: &'a Facts) -> Self {
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

    fn publish(
        &mut self,
        sink: &mut dyn super::Sink,
        segment: Segment,
        bytes: Vec<u8>,
    ) -> Result<(), Problem> {
        self.size += bytes.len() as u64;
        sink.publish(segment, bytes)
    }

    /// Inputs, decoders and encoders are open: PMS may be told (P1).
    fn probe(&mut self, cutters: &[Cutter<'_>], sink: &mut dyn super::Sink) -> Result<(), Problem> {
        self.probed = true;
        let mut pictures = Vec::new();
        let mut device = "copy";
        for lane in cutters.iter().flat_map(|c| &c.lanes) {
            let Some(ready) = lane.ready.as_ref().filter(|r| r.media == MediaKind::Video) else {
                continue;
            };
            let (width, height) = ready.params.size();
            let (num, den) = ready.params.sar().unwrap_or((1, 1));
            let wide = (u64::from(width) * u64::from(num) / u64::from(den.max(1))) as u32;
            pictures.push(Picture { width: wide, height });
            if ready.encoded {
                device = "software";
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

    fn progress(
        &mut self,
        shared: &Shared,
        sink: &mut dyn super::Sink,
        last: bool,
    ) -> Result<(), Problem> {
        let now = Instant::now();
        let wall = now.duration_since(self.last);
        if !self.probed || (wall < PROGRESS && !last) {
            return Ok(());
        }
        for message in std::mem::take(&mut *shared.notes.lock()) {
            sink.event(Event::Log(LogLine { level: LogLevel::Warning, message }))?;
        }
        let seconds = wall.as_secs_f64().max(1e-3);
        let speed = (self.out_time_us - self.last_out_us) as f64 / 1e6 / seconds;
        let duration = self.facts.duration_us.filter(|d| *d > 0);
        let left_us = duration.map(|d| (d - self.out_time_us).max(0));
        let progress = Progress {
            percent: duration.map(|d| (self.out_time_us as f64 * 100.0 / d as f64).clamp(0.0, 100.0)),
            out_time_us: self.out_time_us,
            size: self.size,
            remaining_s: left_us.filter(|_| speed > 0.0).map(|l| (l as f64 / 1e6 / speed) as u64),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_both_muxers() {
        let media = "chunk-stream$RepresentationID$-$Number%05d$.m4s";
        assert_eq!(expand(media, 1, 42).unwrap(), "chunk-stream1-00042.m4s");
        let init = "init-stream$RepresentationID$.m4s";
        assert_eq!(expand(init, 0, 7).unwrap(), "init-stream0.m4s");
        assert_eq!(expand("media-%05d.ts", 0, 123_456).unwrap(), "media-123456.ts");
        assert_eq!(expand("chunk-%d", 0, 3).unwrap(), "chunk-3");
        for bad in ["%s", "a%", "$Number%05d", "%99d", "$x$"] {
            assert!(expand(bad, 0, 0).is_none(), "{bad}");
        }
    }
}
