//! Decoding and filtering video: packets in, pictures on the title's timeline out.

use super::{
    Shared, av,
    burn::{Side, TextBurner},
    feed::Feed,
    overlay::{PictureBurner, Placement},
    resolve::{Facts, VideoWork},
};
use crate::{
    libav::{
        self, Decoder, Frame, Graph, MICROS, NOPTS, Packet, Params, Rational, Received, rescale,
    },
    plan::Stage,
};
use plexbeam_api::{Kind, Problem};
use std::sync::{
    atomic::Ordering,
    mpsc::{Receiver, SyncSender},
};

/// Pictures between filter and encoder. More would cost caches and memory and gains nothing.
pub(super) const FRAME_QUEUE: usize = 2;

/// While this far before the start, pictures that no other needs are not even decoded.
const SKIP_LEAD_US: i64 = 500_000;

/// The stream to decode.
pub(super) struct Source {
    pub(super) params: Params,
    pub(super) time_base: Rational,
    pub(super) frame_rate: Rational,
}

/// A filtered picture, with what the encoder must know of its times.
pub(super) struct Picture {
    pub(super) frame: Frame,
    /// Of the frame's pts.
    pub(super) time_base: Rational,
    /// At the filter's output; 0/1 when unknown.
    pub(super) frame_rate: Rational,
}

/// Subtitles of a [`Stage`], in the order of the stages that draw.
pub(super) struct Subtitles<'a> {
    pub(super) side: &'a Side,
    pub(super) feed: Feed,
}

/// Decodes and filters until the packets end.
pub(super) fn run(
    source: &Source,
    work: &VideoWork,
    nodes: Vec<Node<'_>>,
    facts: &Facts,
    packets: &Receiver<Packet>,
    pictures: &SyncSender<Picture>,
    shared: &Shared,
) -> Result<(), Problem> {
    let mut decoder = open(source, work).map_err(|e| av(&e))?;
    let mut stage = Filter {
        source,
        facts,
        shared,
        work,
        nodes,
        shape: None,
        before: None,
        pictures,
    };
    let mut skipping = false;
    while let Ok(packet) = packets.recv() {
        if !shared.pass() {
            return Ok(());
        }
        let time = packet.time();
        let early = facts.is_seek
            && time != NOPTS
            && rescale(time, source.time_base, MICROS) < facts.from_us - SKIP_LEAD_US;
        if early != skipping {
            skipping = early;
            decoder.skip_non_reference(early);
        }
        if !decode(&mut decoder, Some(&packet), &mut stage, shared)? {
            return Ok(());
        }
    }
    if shared.is_over() {
        return Ok(());
    }
    if decode(&mut decoder, None, &mut stage, shared)? {
        stage.finish()?;
    }
    Ok(())
}

/// Pictures of a device that the stages hold at once, between its decoder and its encoder. A pool
/// that runs dry would stop the decoder for ever.
const HELD: u32 = FRAME_QUEUE as u32 + 8;

fn open(source: &Source, work: &VideoWork) -> libav::Result<Decoder> {
    match &work.device {
        Some(on) if on.plan.decodes => {
            Decoder::open_on(&source.params, source.time_base, &on.device, HELD)
        }
        _ => Decoder::open(&source.params, source.time_base, 0),
    }
}

/// Feeds one packet, or the end, and passes on what comes out. False when the job is over.
fn decode(
    decoder: &mut Decoder,
    packet: Option<&Packet>,
    stage: &mut Filter<'_>,
    shared: &Shared,
) -> Result<bool, Problem> {
    loop {
        let taken = match decoder.send(packet) {
            Ok(taken) => taken,
            // Damage in the stream costs pictures, not the job.
            Err(_) => {
                shared.vdec_failed.fetch_add(1, Ordering::Relaxed);
                true
            }
        };
        loop {
            match decoder.receive() {
                Ok(Received::Item(frame)) => {
                    if !stage.frame(frame)? {
                        return Ok(false);
                    }
                }
                Ok(Received::Again | Received::End) => break,
                Err(_) => {
                    shared.vdec_failed.fetch_add(1, Ordering::Relaxed);
                    break;
                }
            }
        }
        if taken {
            return Ok(true);
        }
    }
}

/// The way from decoder to encoder; rebuilt when the decoded pictures change their shape.
struct Filter<'a> {
    source: &'a Source,
    work: &'a VideoWork,
    facts: &'a Facts,
    shared: &'a Shared,
    nodes: Vec<Node<'a>>,
    /// Of the pictures that the nodes were built for.
    shape: Option<Shape>,
    /// The last picture before the start: what is shown there until the next one.
    before: Option<Frame>,
    pictures: &'a SyncSender<Picture>,
}

/// The stages, ready to work; `subtitles` are those that they draw, in order.
pub(super) fn nodes<'a>(
    stages: &'a [Stage],
    subtitles: Vec<Subtitles<'_>>,
) -> Result<Vec<Node<'a>>, Problem> {
    let mut subtitles = subtitles.into_iter();
    stages
        .iter()
        .map(|stage| Node::new(stage, &mut subtitles))
        .collect()
}

/// A [`Stage`] at work.
pub(super) enum Node<'a> {
    /// Built when the first picture comes.
    Filters {
        text: &'a str,
        graph: Option<Graph>,
    },
    Text(Box<TextBurner>),
    Pictures(Box<PictureBurner>),
}

impl<'a> Node<'a> {
    fn new<'b>(
        stage: &'a Stage,
        subtitles: &mut impl Iterator<Item = Subtitles<'b>>,
    ) -> Result<Self, Problem> {
        let mut next = || {
            subtitles
                .next()
                .ok_or_else(|| Problem::new(Kind::Internal, "a stage draws subtitles of no stream"))
        };
        let placement = match stage {
            Stage::Filters(text) => return Ok(Node::Filters { text, graph: None }),
            Stage::Text(burn) => {
                let from = next()?;
                if !from.side.params.is_picture_subtitle() {
                    let burner = TextBurner::new(burn, from.side, from.feed)?;
                    return Ok(Node::Text(Box::new(burner)));
                }
                let fitted = Placement {
                    chain: String::new(),
                    x: "0".to_owned(),
                    y: "0".to_owned(),
                    fit: true,
                };
                (fitted, from)
            }
            Stage::Pictures(pictures) => {
                let placed = Placement {
                    chain: pictures.chain.clone(),
                    x: pictures.x.clone(),
                    y: pictures.y.clone(),
                    fit: false,
                };
                (placed, next()?)
            }
        };
        let (placement, from) = placement;
        let burner = PictureBurner::new(placement, from.side, from.feed)?;
        Ok(Node::Pictures(Box::new(burner)))
    }
}

#[derive(PartialEq, Eq, Clone, Copy)]
struct Shape(i32, i32, i32, i32, i32);

/// The graph of a [`Stage::Filters`], on the device where there is one.
fn build(work: &VideoWork, at: usize, text: &str, first: &Picture) -> libav::Result<Graph> {
    let Picture {
        frame,
        time_base,
        frame_rate,
    } = first;
    match &work.device {
        None => Graph::video(text, frame, *time_base, *frame_rate),
        Some(on) => {
            let text = match at {
                0 => on.plan.entry(frame.is_on_device(), text),
                _ => text.to_owned(),
            };
            let device = Some((&on.device, HELD));
            Graph::video_on(&text, frame, *time_base, *frame_rate, device)
        }
    }
}

impl Filter<'_> {
    fn frame(&mut self, mut frame: Frame) -> Result<bool, Problem> {
        let pts = frame.best_pts();
        if pts == NOPTS {
            return Ok(true);
        }
        frame.set_pts(pts);
        if self.facts.is_seek && rescale(pts, self.source.time_base, MICROS) < self.facts.from_us {
            self.before = Some(frame);
            return Ok(true);
        }
        if let Some(before) = self.before.take()
            && !self.filter(before)?
        {
            return Ok(false);
        }
        self.filter(frame)
    }

    fn filter(&mut self, frame: Frame) -> Result<bool, Problem> {
        let sar = frame.sar();
        let shape = Shape(
            frame.width(),
            frame.height(),
            frame.format(),
            sar.num,
            sar.den,
        );
        if self.shape != Some(shape) {
            if self.shape.is_some() && !self.flush()? {
                return Ok(false);
            }
            self.shape = Some(shape);
        }
        self.pass(
            0,
            Picture {
                frame,
                time_base: self.source.time_base,
                frame_rate: self.source.frame_rate,
            },
        )
    }

    /// Gives a picture to the node `at`, and what comes out to the next ones. False when the job is
    /// over.
    fn pass(&mut self, at: usize, mut picture: Picture) -> Result<bool, Problem> {
        let Some(node) = self.nodes.get_mut(at) else {
            picture.frame_rate = self.work.rate.unwrap_or(picture.frame_rate);
            return Ok(self.pictures.send(picture).is_ok());
        };
        match node {
            Node::Filters { text, graph } => {
                let mut running = match graph.take() {
                    Some(graph) => graph,
                    None => build(self.work, at, text, &picture).map_err(|e| av(&e))?,
                };
                running.send(Some(&picture.frame)).map_err(|e| av(&e))?;
                drop(picture);
                let alive = self.drain(at, &mut running)?;
                if let Some(Node::Filters { graph, .. }) = self.nodes.get_mut(at) {
                    *graph = Some(running);
                }
                Ok(alive)
            }
            Node::Text(burner) => {
                burner.draw(&mut picture, self.shared)?;
                self.pass(at + 1, picture)
            }
            Node::Pictures(burner) => {
                burner.draw(&mut picture, self.shared)?;
                self.pass(at + 1, picture)
            }
        }
    }

    fn drain(&mut self, at: usize, graph: &mut Graph) -> Result<bool, Problem> {
        while let Received::Item(frame) = graph.receive().map_err(|e| av(&e))? {
            let picture = Picture {
                frame,
                time_base: graph.time_base(),
                frame_rate: graph.frame_rate(),
            };
            if !self.pass(at + 1, picture)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Ends every graph and passes on what was left in it.
    fn flush(&mut self) -> Result<bool, Problem> {
        for at in 0..self.nodes.len() {
            let Some(Node::Filters { graph, .. }) = self.nodes.get_mut(at) else {
                continue;
            };
            let Some(mut graph) = graph.take() else {
                continue;
            };
            graph.send(None).map_err(|e| av(&e))?;
            if !self.drain(at, &mut graph)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn finish(&mut self) -> Result<(), Problem> {
        // A job that starts behind the last picture still shows that one.
        if let Some(before) = self.before.take()
            && !self.filter(before)?
        {
            return Ok(());
        }
        self.flush()?;
        Ok(())
    }
}
