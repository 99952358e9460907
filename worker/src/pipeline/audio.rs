//! Audio: decode, filter, place samples on the title's grid, encode (P7).
//!
//! Frame j of an encoder with frames of n samples covers samples [n*j, n*(j+1)) of the title,
//! whenever the job starts. A later start begins some frames early, so that the encoder's first
//! frames, which depend on what came before, are among those that the muxer drops.

use super::{
    Feed, Outlet, Ready, Shared, av,
    demux::AUDIO_LEAD_US,
    resolve::{AudioWork, Facts},
};
use crate::libav::{
    AudioSettings, Decoder, Encoder, Frame, Graph, MICROS, NOPTS, Packet, Params, Rational,
    Received, rescale,
};
use plexbeam_api::{Problem, segment::MediaKind};
use std::sync::mpsc::Receiver;

/// Frame length for encoders that take any.
const FREE_FRAME: usize = 1024;

/// A jump larger than this is a gap or an overlap in the input; smaller ones are rounding.
const JUMP_SECONDS: f64 = 0.1;

/// Longest gap that is filled with silence.
const MAX_GAP_SECONDS: i64 = 3600;

/// Decodes, filters and encodes until the packets end.
#[allow(clippy::too_many_arguments)]
pub(super) fn run(
    work: &AudioWork,
    params: &Params,
    time_base: Rational,
    facts: &Facts,
    metadata: &[(String, String)],
    packets: &Receiver<Feed>,
    outlet: &Outlet,
    shared: &Shared,
) -> Result<(), Problem> {
    let mut decoder = Decoder::open(params, time_base, 1).map_err(|e| av(&e))?;
    let mut stage = Stage {
        work,
        earliest_us: if facts.is_seek {
            before(facts.from_us)
        } else {
            facts.from_us
        },
        metadata,
        outlet,
        shared,
        time_base,
        graph: None,
        next_sample: None,
        grid: None,
    };
    stage.prepare(params)?;
    while let Ok(feed) = packets.recv() {
        let alive = match feed {
            Feed::Packet(packet) => {
                if packet.time() != NOPTS {
                    let time_us = rescale(packet.time(), time_base, MICROS);
                    shared.first.wait(time_us, shared);
                }
                decode(&mut decoder, Some(&packet), &mut stage)?
            }
            Feed::Start(time_us) => {
                stage.start_at(time_us);
                true
            }
            // Decoder, filter and encoder together hold back less than a second.
            Feed::Until(time_us) => stage.silent_until(time_us - 1_000_000)?,
        };
        if !shared.pass() || !alive {
            return Ok(());
        }
    }
    if shared.is_over() {
        return Ok(());
    }
    if decode(&mut decoder, None, &mut stage)? {
        stage.finish()?;
    }
    Ok(())
}

fn decode(
    decoder: &mut Decoder,
    packet: Option<&Packet>,
    stage: &mut Stage<'_>,
) -> Result<bool, Problem> {
    loop {
        // Damage in the stream costs sound, not the job.
        let taken = decoder.send(packet).unwrap_or(true);
        while let Ok(Received::Item(frame)) = decoder.receive() {
            if !stage.frame(frame)? {
                return Ok(false);
            }
        }
        if taken {
            return Ok(true);
        }
    }
}

struct Stage<'a> {
    work: &'a AudioWork,
    /// Where the first frame lies on the output's timeline, microseconds.
    earliest_us: i64,
    metadata: &'a [(String, String)],
    outlet: &'a Outlet,
    shared: &'a Shared,
    time_base: Rational,
    graph: Option<(Graph, Shape)>,
    /// Where the next decoded frame should start, in samples of the source.
    next_sample: Option<i64>,
    grid: Option<Grid>,
}

#[derive(PartialEq, Eq)]
struct Shape(i32, i32, String);

impl Stage<'_> {
    /// Opens the encoder before the first packet comes, by a silent frame of what the container
    /// says. A stream that starts late, or has nothing after a seek, must not hold the others.
    /// Where the container says too little, the first decoded frame does it.
    fn prepare(&mut self, params: &Params) -> Result<(), Problem> {
        let Some(mut probe) = Frame::silence_of(params, FREE_FRAME) else {
            return Ok(());
        };
        probe.default_layout();
        probe.set_pts(0);
        let base = Rational {
            num: 1,
            den: probe.sample_rate(),
        };
        let mut graph = Graph::audio(&self.work.chain, &probe, base).map_err(|e| av(&e))?;
        graph.send(Some(&probe)).map_err(|e| av(&e))?;
        graph.send(None).map_err(|e| av(&e))?;
        if let Received::Item(frame) = graph.receive().map_err(|e| av(&e))? {
            self.grid = Some(self.open(&frame)?);
        }
        Ok(())
    }

    fn start_at(&mut self, time_us: i64) {
        self.earliest_us = before(time_us);
        if let Some(grid) = &mut self.grid {
            grid.earliest_us = self.earliest_us;
        }
    }

    /// The input has nothing of this stream up to here: silence, so that no segment lacks its
    /// sound and a player has something to go on with. False when the job is over.
    fn silent_until(&mut self, time_us: i64) -> Result<bool, Problem> {
        match &mut self.grid {
            Some(grid) => grid.silence_until(time_us, self.outlet, self.shared),
            None => Ok(self.outlet.until(time_us)),
        }
    }

    fn frame(&mut self, mut frame: Frame) -> Result<bool, Problem> {
        let rate = frame.sample_rate();
        if rate <= 0 || frame.samples() == 0 {
            return Ok(true);
        }
        frame.default_layout();
        let base = Rational { num: 1, den: rate };
        // Containers round times, Matroska to milliseconds. Within one of their ticks the sample
        // count tells better.
        let tick = rescale(1, self.time_base, base) + 1;
        let told = match frame.best_pts() {
            NOPTS => None,
            pts => Some(rescale(pts, self.time_base, base)),
        };
        let start = match (self.next_sample, told) {
            (Some(next), Some(told)) if (told - next).abs() <= tick => next,
            (_, Some(told)) => told,
            (Some(next), None) => next,
            (None, None) => return Ok(true),
        };
        self.next_sample = Some(start + frame.samples() as i64);
        frame.set_pts(start);
        let shape = Shape(rate, frame.format(), frame.layout());
        if self.graph.as_ref().is_none_or(|(_, built)| *built != shape) {
            if let Some((mut old, _)) = self.graph.take() {
                old.send(None).map_err(|e| av(&e))?;
                if !self.drain(&mut old)? {
                    return Ok(false);
                }
            }
            // The encoder's format is settled; a change in the middle of the stream must not be.
            let chain = match &self.grid {
                Some(grid) => format!("{},{}", self.work.chain, grid.format),
                None => self.work.chain.clone(),
            };
            let graph = Graph::audio(&chain, &frame, base).map_err(|e| av(&e))?;
            self.graph = Some((graph, shape));
        }
        let Some((mut graph, shape)) = self.graph.take() else {
            return Ok(true);
        };
        graph.send(Some(&frame)).map_err(|e| av(&e))?;
        let alive = self.drain(&mut graph)?;
        self.graph = Some((graph, shape));
        Ok(alive)
    }

    fn drain(&mut self, graph: &mut Graph) -> Result<bool, Problem> {
        while let Received::Item(mut frame) = graph.receive().map_err(|e| av(&e))? {
            if frame.samples() == 0 || frame.pts() == NOPTS {
                continue;
            }
            let base = Rational {
                num: 1,
                den: frame.sample_rate(),
            };
            let start = rescale(frame.pts(), graph.time_base(), base);
            frame.set_pts(start);
            if self.grid.is_none() {
                self.grid = Some(self.open(&frame)?);
            }
            let Some(grid) = &mut self.grid else { continue };
            if !grid.place(&frame, self.outlet, self.shared)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn open(&self, first: &Frame) -> Result<Grid, Problem> {
        let settings = AudioSettings {
            global_header: self.work.global_header,
        };
        let (encoder, unknown) =
            Encoder::open_audio(self.work.encoder, first, settings, &self.work.options)
                .map_err(|e| av(&e))?;
        for (key, _) in unknown {
            self.shared.note(format!(
                "{} does not know the option `{key}`",
                self.work.encoder
            ));
        }
        self.outlet.ready(Ready {
            media: MediaKind::Audio,
            params: encoder.params().map_err(|e| av(&e))?,
            time_base: encoder.time_base(),
            frame_rate: Rational { num: 0, den: 1 },
            encoded: true,
            metadata: self.metadata.to_vec(),
        });
        let size = match encoder.frame_size() {
            0 => FREE_FRAME,
            size => size,
        };
        let format = format!(
            "aformat=sample_rates={}:channel_layouts={}",
            first.sample_rate(),
            first.layout()
        );
        Ok(Grid {
            encoder,
            size,
            earliest_us: self.earliest_us,
            format,
            start: None,
            placed: false,
            filled: 0,
            frame: None,
            silence: first.silence_like(size).map_err(|e| av(&e))?,
        })
    }

    fn finish(&mut self) -> Result<(), Problem> {
        if let Some((mut graph, _)) = self.graph.take() {
            graph.send(None).map_err(|e| av(&e))?;
            if !self.drain(&mut graph)? {
                return Ok(());
            }
        }
        match &mut self.grid {
            Some(grid) => grid.finish(self.outlet),
            None => {
                self.shared.note("no sound could be decoded");
                self.outlet.end();
                Ok(())
            }
        }
    }
}

/// Where encoding begins for a job that starts at `start_us`: earlier by more than two frames of any
/// encoder, and by the delay of the video encoder, whose decoding times decide the cut.
fn before(start_us: i64) -> i64 {
    (start_us - AUDIO_LEAD_US / 2).max(0)
}

/// Collects samples into the encoder's frames.
struct Grid {
    encoder: Encoder,
    /// Samples per frame.
    size: usize,
    /// No frame starts before this time of the title, microseconds.
    earliest_us: i64,
    /// Filter that keeps later frames to what the encoder was opened for.
    format: String,
    /// First sample of the frame being filled, counted from the title's zero; `None` before the
    /// first samples.
    start: Option<i64>,
    /// Samples were placed: from now on small jumps are rounding.
    placed: bool,
    filled: usize,
    frame: Option<Frame>,
    /// What fills gaps, and a pattern for new frames.
    silence: Frame,
}

fn too_far() -> Problem {
    Problem::new(
        plexbeam_api::Kind::BadInput,
        format!("the sound's time jumps by more than {MAX_GAP_SECONDS} s"),
    )
}

impl Grid {
    /// Puts a run of samples at its place. False when the job is over.
    fn place(&mut self, from: &Frame, outlet: &Outlet, shared: &Shared) -> Result<bool, Problem> {
        let rate = f64::from(from.sample_rate());
        let first = !self.placed;
        let start = self.start();
        let mut offset = 0;
        let jump = from.pts() - (start + self.filled as i64);
        if jump > 0 && (first || jump as f64 > JUMP_SECONDS * rate) {
            if jump > MAX_GAP_SECONDS * i64::from(from.sample_rate()) {
                return Err(too_far());
            }
            if !self.fill(jump as usize, outlet, shared)? {
                return Ok(false);
            }
        } else if jump < 0 && (first || -jump as f64 > JUMP_SECONDS * rate) {
            offset = (-jump) as usize;
        }
        while offset < from.samples() {
            let count = (from.samples() - offset).min(self.size - self.filled);
            let filled = self.filled;
            self.placed = true;
            self.current()?
                .copy_samples(filled, from, offset, count)
                .map_err(|e| av(&e))?;
            self.filled += count;
            offset += count;
            if !self.flush_full(outlet)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// First sample of the frame being filled.
    fn start(&mut self) -> i64 {
        let (size, base) = (
            self.size as i64,
            Rational {
                num: 1,
                den: self.silence.sample_rate(),
            },
        );
        let earliest = rescale(self.earliest_us, MICROS, base);
        *self.start.get_or_insert(earliest.div_euclid(size) * size)
    }

    /// Adds silence up to a time, in whole frames.
    fn silence_until(
        &mut self,
        time_us: i64,
        outlet: &Outlet,
        shared: &Shared,
    ) -> Result<bool, Problem> {
        let base = Rational {
            num: 1,
            den: self.silence.sample_rate(),
        };
        let missing = rescale(time_us, MICROS, base) - self.start() - self.filled as i64;
        if missing > MAX_GAP_SECONDS * i64::from(base.den) {
            return Err(too_far());
        }
        let whole = missing.div_euclid(self.size as i64) * self.size as i64;
        self.fill(whole.max(0) as usize, outlet, shared)
    }

    fn fill(
        &mut self,
        mut missing: usize,
        outlet: &Outlet,
        shared: &Shared,
    ) -> Result<bool, Problem> {
        while missing > 0 {
            let count = missing.min(self.size - self.filled);
            // A fresh frame is silent, so skipping samples leaves silence.
            self.placed = true;
            self.current()?;
            self.filled += count;
            missing -= count;
            if !shared.pass() || !self.flush_full(outlet)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn current(&mut self) -> Result<&mut Frame, Problem> {
        if self.frame.is_none() {
            self.frame = Some(self.silence.silence_like(self.size).map_err(|e| av(&e))?);
        }
        self.frame
            .as_mut()
            .ok_or_else(|| Problem::new(plexbeam_api::Kind::Internal, "no audio frame"))
    }

    fn flush_full(&mut self, outlet: &Outlet) -> Result<bool, Problem> {
        if self.filled < self.size {
            return Ok(true);
        }
        self.send(outlet)
    }

    fn send(&mut self, outlet: &Outlet) -> Result<bool, Problem> {
        let Some(mut frame) = self.frame.take() else {
            return Ok(true);
        };
        frame.truncate_samples(self.filled);
        let start = self.start();
        frame.set_pts(start);
        self.start = Some(start + self.filled as i64);
        self.filled = 0;
        while !self.encoder.send(Some(&frame)).map_err(|e| av(&e))? {
            if !self.drain(outlet)? {
                return Ok(false);
            }
        }
        self.drain(outlet)
    }

    fn drain(&mut self, outlet: &Outlet) -> Result<bool, Problem> {
        while let Received::Item(mut packet) = self.encoder.receive().map_err(|e| av(&e))? {
            if packet.duration() <= 0 {
                packet.set_duration(self.size as i64);
            }
            if !outlet.packet(packet, true) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn finish(&mut self, outlet: &Outlet) -> Result<(), Problem> {
        if self.filled > 0 && !self.send(outlet)? {
            return Ok(());
        }
        self.encoder.send(None).map_err(|e| av(&e))?;
        if self.drain(outlet)? {
            outlet.end();
        }
        Ok(())
    }
}
