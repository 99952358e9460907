//! Where the segment cut happens: packets of all streams in order of decoding time, ended at the
//! video's keys by the rule of PROTOCOL 7, every other stream at the same moment.

mod segment;

use super::{
    Again, Made, OutRef, Ready, Shared, Sink,
    lane::{Lane, Queued},
    names::Names,
    package::{Fragmented, Muxed, Packager, Part},
    report::Report,
    resolve::{Facts, OutputPlan},
    timeline::{CutRule, compare},
};
use crate::libav::{MICROS, NOPTS, Packet, Rational, rescale};
use plexbeam_api::{
    FileName, Kind, Problem,
    job::{Container, Packaging},
    manifest::hls::{Entry, MediaPlaylist},
    segment::{MediaKind, SegmentKind},
};
use std::sync::mpsc::Receiver;

/// Bytes that may wait for a stream that has no packet yet; then the others go on without it.
const MAX_WAITING: usize = 256 << 20;

/// Takes what the stages make until all streams have ended.
pub(super) fn run(
    outputs: &[OutputPlan],
    facts: &Facts,
    again: Option<&Again>,
    queue: &Receiver<Made>,
    shared: &Shared,
    sink: &mut dyn Sink,
) -> Result<(), Problem> {
    let mut cutters: Vec<Cutter> = outputs
        .iter()
        .map(|plan| Cutter::new(plan, facts, again))
        .collect::<Result<_, _>>()?;
    let mut report = Report::new(facts);
    while let Ok(made) = queue.recv() {
        shared.control.moved();
        if shared.is_over() {
            return Ok(());
        }
        let at = match &made {
            Made::Ready(to, _)
            | Made::Packet { to, .. }
            | Made::Whole { to, .. }
            | Made::Until { to, .. }
            | Made::End(to) => to.output,
        };
        let cutter = &mut cutters[at];
        cutter.take(made);
        if !report.probed {
            if cutters.iter().any(|c| !c.all_ready()) {
                cutters.iter().try_for_each(Cutter::check_waiting)?;
                continue;
            }
            let readies = cutters
                .iter()
                .flat_map(|c| &c.lanes)
                .filter_map(|l| l.ready.as_ref());
            report.probe(readies, sink)?;
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

/// One output being cut.
struct Cutter<'a> {
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
    /// The start of the job, and of copied video in it where that is known: base of the cut rule.
    origin_us: i64,
    copied_from_us: Option<i64>,
    waiting: usize,
    playlist: Vec<Entry>,
    wrote: bool,
}

impl<'a> Cutter<'a> {
    fn new(plan: &'a OutputPlan, facts: &Facts, again: Option<&Again>) -> Result<Self, Problem> {
        let names = match &plan.packaging {
            Packaging::Dash {
                init_name,
                media_name,
                ..
            } => Names {
                init: Some(init_name),
                media: media_name,
                header: None,
                playlist: None,
            },
            Packaging::Segment {
                media_name,
                header_name,
                ..
            } => Names {
                init: None,
                media: media_name,
                header: header_name.as_ref(),
                playlist: None,
            },
            Packaging::Hls {
                media_name,
                playlist_name,
                ..
            } => Names {
                init: None,
                media: media_name,
                header: None,
                playlist: Some(playlist_name),
            },
        };
        let rule = CutRule::new(&plan.packaging);
        Names::file(names.media, 0, rule.first_number)?;
        if let Some(init) = names.init {
            Names::file(init, 0, 0)?;
        }
        Ok(Cutter {
            plan,
            names,
            rule,
            lanes: plan.streams.iter().map(|_| Lane::new()).collect(),
            reference: 0,
            packager: None,
            number: plan.begins_at(again),
            is_seek: facts.is_seek,
            from_us: facts.from_us,
            origin_us: facts.origin_us,
            copied_from_us: again.map(|a| a.base_us),
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
                self.lanes[to.stream]
                    .queue
                    .push_back(Queued::Packet { packet, cut });
            }
            Made::Whole { to, pts, dts } => {
                self.lanes[to.stream]
                    .queue
                    .push_back(Queued::Whole { pts, dts });
            }
            Made::Until { to, time_us } => {
                let lane = &mut self.lanes[to.stream];
                lane.silent_until_us = lane.silent_until_us.max(time_us);
            }
            Made::End(OutRef { stream, .. }) => self.lanes[stream].ended = true,
        }
    }

    /// A stream that stays unknown while the others pile up would hold the job for ever.
    fn check_waiting(&self) -> Result<(), Problem> {
        if self.waiting < MAX_WAITING {
            return Ok(());
        }
        let unknown = self
            .lanes
            .iter()
            .position(|l| l.ready.is_none())
            .unwrap_or_default();
        Err(Problem::new(
            Kind::BadInput,
            format!(
                "stream {} of the input cannot be decoded",
                self.plan.streams[unknown].index
            ),
        ))
    }

    fn all_ready(&self) -> bool {
        // A stream that ended without ever starting will not come; open() names it.
        self.lanes.iter().all(|l| l.ready.is_some() || l.ended)
    }

    /// Are its segments ended by subtitles? Then there is nothing else in it.
    fn is_text(&self) -> bool {
        self.lanes[self.reference].media == MediaKind::Subtitle
    }

    /// Opens the muxers when all streams are known.
    fn open(&mut self, sink: &mut dyn Sink, report: &mut Report) -> Result<(), Problem> {
        // A lane without a stream must not shift the numbers of the others.
        if let Some(missing) = self.lanes.iter().position(|l| l.ready.is_none()) {
            let stream = &self.plan.streams[missing];
            return Err(Problem::new(
                Kind::BadInput,
                format!(
                    "stream {} of the input could not be decoded at all",
                    stream.index
                ),
            ));
        }
        let kind = |media| self.lanes.iter().position(|l| l.media == media);
        self.reference = kind(MediaKind::Video)
            .or_else(|| kind(MediaKind::Audio))
            .unwrap_or_default();
        if self.is_text() {
            self.base_us = Some(self.origin_us);
        }
        let readies: Vec<Ready> = self
            .lanes
            .iter_mut()
            .filter_map(|l| l.ready.take())
            .collect();
        let first_number = self.number;
        self.packager = Some(match &self.plan.packaging {
            Packaging::Dash { .. } => Packager::Dash(
                readies
                    .into_iter()
                    .map(|r| Fragmented::new(r, first_number))
                    .collect(),
            ),
            Packaging::Segment {
                container,
                header_name,
                ..
            } => {
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
        if self.is_text() {
            // Long silence may follow; a player can already set up its renderer.
            self.publish_header(sink, report)?;
        }
        Ok(())
    }

    /// The header file, once, where there is one.
    fn publish_header(&mut self, sink: &mut dyn Sink, report: &mut Report) -> Result<(), Problem> {
        if let Some(Packager::Muxed(muxed)) = &mut self.packager
            && let (Some(bytes), Some(name)) = (muxed.take_header(), self.names.header)
        {
            let segment = self.file(SegmentKind::Header, None, None, name.clone(), &bytes);
            report.publish(sink, segment, bytes)?;
        }
        Ok(())
    }

    /// Writes every packet whose turn has come.
    fn advance(&mut self, sink: &mut dyn Sink, report: &mut Report) -> Result<(), Problem> {
        if self.packager.is_none() {
            if !self.all_ready() {
                return Ok(());
            }
            self.open(sink, report)?;
        }
        loop {
            let Some(next) = self.earliest() else {
                return self.end_text(sink, report);
            };
            let lane = &self.lanes[next];
            let turn_us = lane
                .queue
                .front()
                .map_or(i64::MAX, |head| rescale(head.dts(), lane.time_base, MICROS));
            let wait = self
                .lanes
                .iter()
                .any(|l| l.starves() && l.silent_until_us < turn_us);
            if wait && self.waiting < MAX_WAITING {
                return Ok(());
            }
            let Some(queued) = self.lanes[next].queue.pop_front() else {
                return Ok(());
            };
            match queued {
                Queued::Packet { packet, cut } => {
                    self.waiting -= packet.size();
                    self.write(next, packet, cut, sink, report)?;
                }
                Queued::Whole { pts, .. } => {
                    let base = self.lanes[next].time_base;
                    if next == self.reference && self.ends(pts, base) {
                        self.cut(Some(pts), false, sink, report)?;
                    }
                }
            }
        }
    }

    /// Ends a subtitle segment whose time is over without waiting for the event that would end it
    /// in the order of packets: the number of that one is the same either way.
    fn end_text(&mut self, sink: &mut dyn Sink, report: &mut Report) -> Result<(), Problem> {
        let lane = &self.lanes[self.reference];
        if let Some(base_us) = self.base_us
            && self.is_text()
            && lane.start.is_some()
            && lane.silent_until_us != i64::MIN
            && self
                .rule
                .ends(self.number, lane.silent_until_us, MICROS, base_us)
        {
            self.cut(None, false, sink, report)?;
        }
        Ok(())
    }

    /// The lane with the smallest decoding time at its head. At equal times the reference comes
    /// first, so that what starts with a key belongs to its segment.
    fn earliest(&self) -> Option<usize> {
        let mut best: Option<usize> = None;
        for (at, lane) in self.lanes.iter().enumerate() {
            let Some(head) = lane.queue.front() else {
                continue;
            };
            let Some(other) = best else {
                best = Some(at);
                continue;
            };
            let rival = &self.lanes[other];
            let Some(rival_head) = rival.queue.front() else {
                continue;
            };
            let order = compare(
                head.dts(),
                lane.time_base,
                rival_head.dts(),
                rival.time_base,
            );
            if order.is_lt() || (order.is_eq() && at == self.reference) {
                best = Some(at);
            }
        }
        best
    }

    /// Does a key of the reference at `pts` end the segment being written?
    fn ends(&self, pts: i64, base: Rational) -> bool {
        self.base_us
            .is_some_and(|base_us| self.rule.ends(self.number, pts, base, base_us))
    }

    fn write(
        &mut self,
        at: usize,
        packet: Packet,
        cut: bool,
        sink: &mut dyn Sink,
        report: &mut Report,
    ) -> Result<(), Problem> {
        let base = self.lanes[at].time_base;
        if at == self.reference {
            if self.base_us.is_some() {
                let text_begins = self.is_text() && self.lanes[at].start.is_none();
                if cut && !text_begins && self.ends(packet.pts(), base) {
                    self.cut(Some(packet.pts()), false, sink, report)?;
                }
            } else {
                let first_us = rescale(packet.pts(), base, MICROS);
                let encoded = self.lanes[at].encoded;
                self.base_us = Some(match encoded {
                    true => self.origin_us,
                    false => self.copied_from_us.unwrap_or(first_us),
                });
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
        lane.end = if lane.end == NOPTS {
            end
        } else {
            lane.end.max(end)
        };
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

    /// Ends the segment being written, before a key of the reference at `next`. `last`: nothing
    /// follows.
    fn cut(
        &mut self,
        next: Option<i64>,
        last: bool,
        sink: &mut dyn Sink,
        report: &mut Report,
    ) -> Result<(), Problem> {
        self.publish_header(sink, report)?;
        let (inits, media) = match &mut self.packager {
            Some(packager) => packager.finish(last)?,
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
                self.playlist.push(Entry {
                    name,
                    seconds: length,
                });
                self.publish_playlist(playlist, last, sink, report)?;
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
        sink: &mut dyn Sink,
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

    fn finish(&mut self, sink: &mut dyn Sink, report: &mut Report) -> Result<(), Problem> {
        for lane in &mut self.lanes {
            lane.ended = true;
        }
        self.advance(sink, report)?;
        if self.packager.is_some() && self.is_text() {
            return match self.lanes[self.reference].start {
                Some(_) => self.cut(None, true, sink, report),
                None => Ok(()),
            };
        }
        if !self.wrote || self.base_us.is_none() {
            return Err(Problem::new(
                Kind::BadInput,
                "the input has nothing to play from the time asked for",
            ));
        }
        self.cut(None, true, sink, report)
    }
}
