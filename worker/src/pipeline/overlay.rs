//! Picture subtitles (PGS, DVB, VobSub) on the picture.
//!
//! A stream says what is shown from a time on, until it says something else or the time it gave
//! ends. The canvas goes through its own branch of the graph once per change; the result is drawn
//! on every picture while it is shown.

use super::{
    Shared, av,
    blend::{self, Image},
    burn::{Side, cannot_draw},
    feed::Feed,
    video::Picture,
};
use crate::libav::{
    Frame, Graph, MICROS, NOPTS, Packet, Rational, Received, evaluate, rescale,
    subtitle::{Shown, SubtitleDecoder},
};
use plexbeam_api::{Kind, Problem};
use std::collections::VecDeque;

/// Where the canvas goes.
pub(super) struct Placement {
    /// Filter text of the branch; empty for none.
    pub(super) chain: String,
    /// Expressions for the upper left corner.
    pub(super) x: String,
    pub(super) y: String,
    /// Scale the canvas to the picture.
    pub(super) fit: bool,
}

/// Draws picture subtitles.
pub(super) struct PictureBurner {
    feed: Feed,
    packets: VecDeque<Packet>,
    decoder: SubtitleDecoder,
    placement: Placement,
    time_base: Rational,
    storage: (u32, u32),
    graph: Option<Graph>,
    /// Decoded, but not due yet: start, microseconds.
    next: VecDeque<(i64, i64, Shown)>,
    now: Option<Now>,
}

/// Most pixels of a canvas: 8K. What says more is damaged, and would cost gigabytes.
const MAX_CANVAS: u64 = 7680 * 4320;

/// What is shown now.
struct Now {
    /// Microseconds.
    until_us: i64,
    image: Image,
    x: i32,
    y: i32,
}

/// Rows of `width` pixels each, in BGRA.
struct Canvas {
    width: usize,
    pixels: Vec<[u8; 4]>,
}

impl PictureBurner {
    pub(super) fn new(placement: Placement, side: &Side, feed: Feed) -> Result<Self, Problem> {
        let decoder = SubtitleDecoder::open(&side.params, side.time_base).map_err(|e| av(&e))?;
        Ok(PictureBurner {
            feed,
            packets: VecDeque::new(),
            decoder,
            placement,
            time_base: side.time_base,
            storage: side.storage,
            graph: None,
            next: VecDeque::new(),
            now: None,
        })
    }

    /// Draws what is shown at the picture's time.
    pub(super) fn draw(&mut self, picture: &mut Picture, shared: &Shared) -> Result<(), Problem> {
        let time_us = rescale(picture.frame.pts(), picture.time_base, MICROS);
        self.packets.extend(self.feed.take(time_us, shared));
        self.decode(time_us, shared);
        let mut due = None;
        while self
            .next
            .front()
            .is_some_and(|(start, ..)| *start <= time_us)
        {
            due = self.next.pop_front();
        }
        if let Some((_, until_us, shown)) = due {
            self.now = self.compose(&shown, until_us, &picture.frame)?;
        }
        let Some(now) = &self.now else { return Ok(()) };
        if now.until_us <= time_us {
            self.now = None;
            return Ok(());
        }
        picture.frame.make_writable().map_err(|e| av(&e))?;
        blend::draw_image(&mut picture.frame, now.x, now.y, &now.image).ok_or_else(cannot_draw)
    }

    /// Decodes what is due; a subtitle begins at or after its packet's time.
    fn decode(&mut self, time_us: i64, shared: &Shared) {
        while let Some(packet) = self.packets.front() {
            let start_us = rescale(packet.time(), self.time_base, MICROS);
            if packet.time() != NOPTS && start_us > time_us {
                break;
            }
            let Some(packet) = self.packets.pop_front() else {
                break;
            };
            if packet.time() == NOPTS {
                continue;
            }
            match self.decoder.decode(&packet) {
                Ok(Some(shown)) => {
                    let at = |ms: u32| start_us + i64::from(ms) * 1000;
                    let until_us = shown.end_ms.map_or(i64::MAX, at);
                    self.next.push_back((at(shown.delay_ms), until_us, shown));
                }
                Ok(None) => {}
                Err(error) => shared.note(format!("a subtitle was left out: {error}")),
            }
        }
    }

    /// Lays the pictures on a canvas and takes that through the branch. `None`: nothing is seen.
    fn compose(
        &mut self,
        shown: &Shown,
        until_us: i64,
        on: &Frame,
    ) -> Result<Option<Now>, Problem> {
        if shown.pictures.is_empty() {
            return Ok(None);
        }
        let canvas = self.decoder.canvas().unwrap_or(self.storage);
        if u64::from(canvas.0) * u64::from(canvas.1) > MAX_CANVAS {
            return Err(Problem::new(
                Kind::BadInput,
                format!("a subtitle stream of {}x{} pixels", canvas.0, canvas.1),
            ));
        }
        let (width, height) = (canvas.0.max(1) as usize, canvas.1.max(1) as usize);
        let mut pixels = vec![[0_u8; 4]; width * height];
        for part in &shown.pictures {
            for (row, line) in part.bgra.chunks_exact(part.width.max(1)).enumerate() {
                let y = part.y + row;
                if y >= height || part.x >= width {
                    break;
                }
                let visible = part.width.min(width - part.x);
                let at = y * width + part.x;
                pixels[at..at + visible].copy_from_slice(&line[..visible]);
            }
        }
        let mut canvas = Frame::from_bgra(width, &pixels).map_err(|e| av(&e))?;
        canvas.set_pts(0);
        let Some(Canvas { width, pixels }) = self.branch(&canvas, on)? else {
            return Ok(None);
        };
        let height = pixels.len() / width.max(1);
        let place = |expression: &str| {
            let value = evaluate(
                expression,
                &[
                    ("W", f64::from(on.width())),
                    ("main_w", f64::from(on.width())),
                    ("H", f64::from(on.height())),
                    ("main_h", f64::from(on.height())),
                    ("w", width as f64),
                    ("overlay_w", width as f64),
                    ("h", height as f64),
                    ("overlay_h", height as f64),
                ],
            );
            // Chroma samples cover two pixels.
            value.map(|v| (v as i32) & !1).ok_or_else(|| {
                Problem::new(
                    Kind::Unsupported,
                    format!("`{expression}` is no place for an overlay"),
                )
            })
        };
        let (x, y) = (place(&self.placement.x)?, place(&self.placement.y)?);
        let Some(seen) = bounds(width, &pixels) else {
            return Ok(None);
        };
        let cut: Vec<[u8; 4]> = (seen.top..seen.bottom)
            .flat_map(|row| &pixels[row * width + seen.left..row * width + seen.right])
            .copied()
            .collect();
        Ok(Some(Now {
            until_us,
            image: Image::from_bgra(
                seen.right - seen.left,
                &cut,
                on.matrix(),
                on.is_full_range(),
            ),
            x: x + seen.left as i32,
            y: y + seen.top as i32,
        }))
    }

    /// The canvas after its filters.
    fn branch(&mut self, canvas: &Frame, on: &Frame) -> Result<Option<Canvas>, Problem> {
        let graph = match &mut self.graph {
            Some(graph) => graph,
            none => {
                let mut chain = self.placement.chain.clone();
                if !chain.is_empty() {
                    chain.push(',');
                }
                if self.placement.fit {
                    chain.push_str(&format!("scale=w={}:h={},", on.width(), on.height()));
                }
                chain.push_str("format=pix_fmts=bgra");
                let still = Rational { num: 0, den: 1 };
                none.insert(Graph::video(&chain, canvas, MICROS, still).map_err(|e| av(&e))?)
            }
        };
        graph.send(Some(canvas)).map_err(|e| av(&e))?;
        let mut last = None;
        while let Received::Item(frame) = graph.receive().map_err(|e| av(&e))? {
            last = Some(frame);
        }
        Ok(last.and_then(|frame| {
            Some(Canvas {
                width: frame.width().max(0) as usize,
                pixels: frame.to_bgra()?,
            })
        }))
    }
}

/// A rectangle of pixels; the ends are exclusive.
struct Seen {
    left: usize,
    right: usize,
    top: usize,
    bottom: usize,
}

/// The least rectangle with every pixel that is seen.
fn bounds(width: usize, pixels: &[[u8; 4]]) -> Option<Seen> {
    let mut seen: Option<Seen> = None;
    for (at, pixel) in pixels.iter().enumerate() {
        if pixel[3] == 0 {
            continue;
        }
        let (x, y) = (at % width, at / width);
        let seen = seen.get_or_insert(Seen {
            left: x,
            right: x + 1,
            top: y,
            bottom: y + 1,
        });
        seen.left = seen.left.min(x);
        seen.right = seen.right.max(x + 1);
        seen.bottom = y + 1;
    }
    seen
}
