//! Encoding video on the title's frame grid: duplicates and drops, forced keys, headers in-band.

use super::{
    Outlet, Pacer, Ready, Shared, av,
    first::Turn,
    resolve::{Facts, FirstEnd, VideoWork},
    timeline::{FrameGrid, KeyTimes},
    video::Picture,
};
use crate::libav::{
    BitstreamFilter, Encoder, Frame, MICROS, NOPTS, Params, Rational, Received, VideoSettings, log,
    rescale,
};
use plexbeam_api::{Kind, Problem, job::FramePolicy, segment::MediaKind};
use std::{collections::VecDeque, sync::mpsc::Receiver};

/// Longest gap between two pictures that is filled; a larger one is damage in the input.
const MAX_GAP_SECONDS: i64 = 3600;

/// An encoder that ends after fewer pictures than it decodes ahead of what it shows gives them other
/// decoding times, and those of the next one would step back. libx264 has at most 16 B pictures in a
/// row.
const FEWEST: u64 = 17;

/// Encodes until the pictures end.
pub(super) fn run(
    work: &VideoWork,
    facts: &Facts,
    metadata: &[(String, String)],
    pictures: &Receiver<Picture>,
    outlet: &Outlet,
    shared: &Shared,
) -> Result<(), Problem> {
    let Ok(first) = pictures.recv() else {
        return if shared.is_over() {
            Ok(())
        } else {
            // A device may fail where the processor does not.
            let kind = match &work.device {
                Some(_) => Kind::Internal,
                None => Kind::BadInput,
            };
            Err(Problem::new(
                kind,
                "no picture of the video could be decoded",
            ))
        };
    };
    let mut stage = Stage::open(work, facts, metadata, &first, outlet, shared)?;
    let mut next = Some(first);
    while let Some(picture) = next {
        if !shared.pass() || !stage.picture(&picture)? {
            return Ok(());
        }
        next = pictures.recv().ok();
    }
    if shared.is_over() {
        return Ok(());
    }
    stage.finish()
}

/// Opens the encoder; on a device with the first of its attempts that the driver takes. Errors carry
/// the driver's own words.
fn open(
    work: &VideoWork,
    first: &Frame,
    settings: VideoSettings,
    options: &[(String, String)],
) -> Result<(Encoder, Vec<(String, String)>), Problem> {
    let attempts = work.device.as_ref().map_or(&[][..], |on| &on.attempts);
    let open = |options| Encoder::open_video(work.encoder, first, settings, options);
    let Some((best, others)) = attempts.split_first() else {
        return open(options).map_err(|e| av(&e));
    };
    let (opened, said) = log::capture(|| {
        let first = open(best);
        others
            .iter()
            .fold(first, |opened, next| opened.or_else(|_| open(next)))
    });
    opened.map_err(|error| {
        let problem = av(&error);
        match said.first() {
            Some(words) => Problem::new(problem.kind, format!("{}: {words}", problem.detail)),
            None => problem,
        }
    })
}

/// Another encoder, if its pictures are read by the same init segment and come in the same order.
fn open_like(
    params: &Params,
    work: &VideoWork,
    first: &Frame,
    settings: VideoSettings,
    options: &[(String, String)],
) -> Option<Encoder> {
    let (encoder, _) = open(work, first, settings, options).ok()?;
    let other = encoder.params().ok()?;
    let same =
        other.extradata() == params.extradata() && other.video_delay() == params.video_delay();
    same.then_some(encoder)
}

struct Stage<'a> {
    work: &'a VideoWork,
    outlet: &'a Outlet,
    shared: &'a Shared,
    facts: &'a Facts,
    encoder: Encoder,
    /// The one that goes on behind the first segment, where that has one of its own.
    own: Option<Encoder>,
    /// For another encoder like it.
    settings: VideoSettings,
    options: Vec<(String, String)>,
    /// What the encoder was opened with. Its colours are in the parameter sets.
    like: Frame,
    /// The end of the first segment, until it was reached.
    first_end: Option<FirstEnd>,
    /// The first segment, until its last picture came out.
    turn: Option<Turn>,
    /// Pictures that went to the encoder.
    sent: u64,
    /// From decoding to showing a key, ticks; `None` before the first packet.
    delay: Option<i64>,
    headers: Option<BitstreamFilter>,
    grid: FrameGrid,
    constant: bool,
    time_base: Rational,
    frame_duration: i64,
    /// First frame number wanted; pictures before it only fill a gap at the start.
    first: i64,
    last: Option<(i64, Frame)>,
    /// Key number of the last forced key, off the grid.
    last_key: i64,
    /// Times of frames at which a segment may end, in encoder order.
    cuts: VecDeque<i64>,
    pacer: Pacer,
}

impl<'a> Stage<'a> {
    fn open(
        work: &'a VideoWork,
        facts: &'a Facts,
        metadata: &[(String, String)],
        first: &Picture,
        outlet: &'a Outlet,
        shared: &'a Shared,
    ) -> Result<Self, Problem> {
        let constant = matches!(
            facts.time.frames,
            FramePolicy::CfrFromZero | FramePolicy::CfrFromFirst
        );
        let rate = match first.frame_rate {
            rate if rate.num > 0 && rate.den > 0 => rate,
            _ => Rational { num: 25, den: 1 },
        };
        let grid = FrameGrid::new(rate);
        let time_base = if constant {
            grid.time_base()
        } else {
            first.time_base
        };
        let settings = VideoSettings {
            time_base,
            frame_rate: rate,
            global_header: work.global_header,
            threads: 0,
        };
        let mut options = work.options.clone();
        if work.encoder == "libx264" && !constant {
            // Without a constant rate the encoder must not assume one.
            options.push(("x264-params".to_owned(), "force-cfr=0".to_owned()));
        }
        let (encoder, unknown) = open(work, &first.frame, settings, &options)?;
        for (key, _) in unknown {
            shared.note(format!("{} does not know the option `{key}`", work.encoder));
        }
        let params = encoder.params().map_err(|e| av(&e))?;
        // Off the grid times of decoding depend on pictures to come.
        let first_end = work
            .first
            .filter(|_| constant && work.encoder == "libx264" && work.keys.is_some());
        let turn = first_end.map(|_| shared.first.begin());
        let fast = match (&work.fast_start, first_end) {
            (Some(options), Some(_)) => open_like(&params, work, &first.frame, settings, options),
            _ => None,
        };
        let (encoder, own) = match fast {
            Some(fast) => (fast, Some(encoder)),
            None => (encoder, None),
        };
        let headers = if work.global_header {
            Some(BitstreamFilter::repeat_headers(&params, time_base).map_err(|e| av(&e))?)
        } else {
            None
        };
        outlet.ready(Ready {
            media: MediaKind::Video,
            params,
            time_base,
            frame_rate: rate,
            encoded: true,
            metadata: metadata.to_vec(),
        });
        let frame_duration = if constant {
            1
        } else {
            rescale(
                1,
                Rational {
                    num: rate.den,
                    den: rate.num,
                },
                time_base,
            )
            .max(1)
        };
        let from = if constant {
            grid.first_at(facts.from_us)
        } else {
            rescale(facts.from_us, MICROS, time_base)
        };
        Ok(Stage {
            work,
            outlet,
            shared,
            facts,
            encoder,
            own,
            settings,
            options,
            like: first.frame.share().map_err(|e| av(&e))?,
            first_end,
            turn,
            sent: 0,
            delay: None,
            headers,
            grid,
            constant,
            time_base,
            frame_duration,
            first: from,
            last: None,
            last_key: i64::MIN,
            cuts: VecDeque::new(),
            pacer: Pacer::new(),
        })
    }

    /// Places one picture. False when the job is over.
    fn picture(&mut self, picture: &Picture) -> Result<bool, Problem> {
        let pts = picture.frame.pts();
        if pts == NOPTS {
            return Ok(true);
        }
        if !self.constant {
            let at = rescale(pts, picture.time_base, self.time_base);
            let late = self.last.as_ref().is_none_or(|(last, _)| at > *last);
            if at < self.first || (!late && self.facts.time.frames == FramePolicy::Vfr) {
                return Ok(true);
            }
            // Encoders refuse equal times also where the job lets them through.
            let at = self.last.as_ref().map_or(at, |(last, _)| at.max(last + 1));
            return self.emit(at, &picture.frame);
        }
        let n = self
            .grid
            .number(pts, picture.time_base, self.work.first_picture);
        let (expected, fill) = match &self.last {
            Some((last, frame)) => (last + 1, Some(frame.share().map_err(|e| av(&e))?)),
            None => (self.first, None),
        };
        if n < expected {
            // Shown only if nothing comes in its place.
            if self.last.is_none() {
                self.last = Some((self.first - 1, picture.frame.share().map_err(|e| av(&e))?));
            }
            return Ok(true);
        }
        let time_base = self.grid.time_base();
        let gap = i64::from(time_base.den) * MAX_GAP_SECONDS / i64::from(time_base.num).max(1);
        let fill = match fill {
            Some(frame) => Some(frame),
            None if self.facts.time.frames == FramePolicy::CfrFromZero => {
                Some(picture.frame.share().map_err(|e| av(&e))?)
            }
            None => None,
        };
        if let Some(fill) = fill {
            if n - expected > gap {
                return Err(Problem::new(
                    Kind::BadInput,
                    format!("the video's time jumps by more than {MAX_GAP_SECONDS} s"),
                ));
            }
            for missing in expected..n {
                if !self.shared.pass() || !self.emit(missing, &fill)? {
                    return Ok(false);
                }
            }
        }
        self.emit(n, &picture.frame)
    }

    fn is_key(&mut self, at: i64) -> bool {
        let Some(keys) = &self.work.keys else {
            return false;
        };
        if self.constant {
            return keys.is_key(&self.grid, at);
        }
        let number = match keys {
            KeyTimes::Every(_) | KeyTimes::At(_) => {
                keys.count_until(rescale(at, self.time_base, MICROS))
            }
        };
        let key = number > self.last_key;
        self.last_key = number;
        key
    }

    fn emit(&mut self, at: i64, frame: &Frame) -> Result<bool, Problem> {
        let mut own = frame.share().map_err(|e| av(&e))?;
        let key = self.is_key(at);
        own.set_pts(at);
        own.set_key(key);
        if key && !self.ends_first(at)? {
            self.cuts.push_back(at);
        }
        if let Some(turn) = &self.turn {
            turn.reaches(rescale(at, self.time_base, MICROS));
        }
        if self.shared.is_over() {
            return Ok(false);
        }
        self.sent += 1;
        self.last = Some((at, frame.share().map_err(|e| av(&e))?));
        let seconds = f64::from(self.time_base.num) / f64::from(self.time_base.den);
        self.pacer
            .pace(self.shared, self.frame_duration as f64 * seconds);
        while !self.encoder.send(Some(&own)).map_err(|e| av(&e))? {
            if !self.drain()? {
                return Ok(false);
            }
        }
        self.drain()
    }

    /// At the key that ends the first segment: lets out all that the encoder still holds and goes on
    /// with another one, so that the segment waits for no picture behind it. True where it did. Look
    /// ahead never reaches over a key that begins a GOP, so the pictures are none the worse; only the
    /// rate control (`maxrate`, `bufsize`) begins anew, as after a seek.
    fn ends_first(&mut self, at: i64) -> Result<bool, Problem> {
        let Some(end) = self.first_end else {
            return Ok(false);
        };
        let origin_us = self.facts.origin_us;
        // A first picture that lies behind the end all the same leaves its segment its own.
        if self.sent == 0 || !end.rule.ends(end.number, at, self.time_base, origin_us) {
            return Ok(false);
        }
        if self.sent < FEWEST && self.own.is_some() {
            // At a later key.
            return Ok(false);
        }
        self.first_end = None;
        // Whatever comes of it.
        let turn = self.turn.take();
        if self.sent < FEWEST {
            return Ok(false);
        }
        let next = match self.own.take() {
            Some(own) => own,
            None => {
                let params = self.encoder.params().map_err(|e| av(&e))?;
                let (work, options) = (self.work, &self.options);
                match open_like(&params, work, &self.like, self.settings, options) {
                    Some(next) => next,
                    None => return Ok(false),
                }
            }
        };
        if let Some(turn) = &turn {
            turn.closes(rescale(at, self.time_base, MICROS));
        }
        self.encoder.send(None).map_err(|e| av(&e))?;
        if !self.drain()? {
            return Ok(false);
        }
        // Before the first encoder goes: freeing its pictures takes time that the segment need not wait.
        self.outlet.whole(at, at - self.delay.unwrap_or(0));
        drop(turn);
        self.encoder = next;
        Ok(true)
    }

    fn drain(&mut self) -> Result<bool, Problem> {
        while let Received::Item(mut packet) = self.encoder.receive().map_err(|e| av(&e))? {
            self.delay.get_or_insert(packet.pts() - packet.dts());
            if packet.duration() <= 0 {
                packet.set_duration(self.frame_duration);
            }
            let cut = match &self.work.keys {
                // A key that was not forced, as at a scene change, never ends a segment.
                Some(_) => {
                    while self
                        .cuts
                        .front()
                        .is_some_and(|t| *t < packet.pts() && packet.is_key())
                    {
                        self.cuts.pop_front();
                    }
                    packet.is_key() && self.cuts.front() == Some(&packet.pts())
                }
                None => packet.is_key(),
            };
            if let Some(headers) = &mut self.headers {
                packet = headers.pass(&mut packet).map_err(|e| av(&e))?;
            }
            if !self.outlet.packet(packet, cut) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn finish(&mut self) -> Result<(), Problem> {
        self.encoder.send(None).map_err(|e| av(&e))?;
        if self.drain()? {
            self.outlet.end();
        }
        Ok(())
    }
}
