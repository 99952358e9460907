//! One number of an output made again, after its files were dropped.
//!
//! Encoded: the same frames, since the timeline depends on nothing but the title (P7). Copied: from
//! the key at which it began, which its first publication told. Bytes may differ: encoders remember
//! what came before.

use super::Sink;
use plexbeam_api::{
    Event, FileName, Kind, Problem, Segment,
    segment::{MediaKind, SegmentKind},
};
use serde::{Deserialize, Serialize};

/// What is to be made again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Again {
    /// Position of the output in the job.
    pub output: u32,
    /// Number of the segment; of the output's first one for an init segment or header.
    pub number: u32,
    /// Where it began on the output's timeline, microseconds.
    pub start_us: i64,
    /// Where the output's first segment began, microseconds: copied video counts its cuts from there.
    pub base_us: i64,
    /// The files that are missing.
    pub wanted: Vec<FileName>,
}

impl Again {
    /// What must be known to make `wanted` again, from all that the session has `published`, dropped
    /// or not. `None` for a name that was never published or is replaced all the time.
    pub fn of(published: &[Segment], wanted: &FileName, dropped: &[FileName]) -> Option<Self> {
        let segment = published.iter().find(|s| s.name == *wanted)?;
        let output = segment.output;
        let own = || published.iter().filter(move |s| s.output == output);
        let media = |number| own().filter(move |s| s.number == Some(number));
        let first = own().filter_map(|s| s.number).min()?;
        let number = match segment.kind {
            SegmentKind::Media => segment.number?,
            SegmentKind::Init | SegmentKind::Header => first,
            SegmentKind::Playlist => return None,
        };
        // Cuts are made on the video.
        let video = own().find_map(|s| {
            let info = s.rendition_info.as_ref()?;
            (info.media == MediaKind::Video).then_some(s.rendition)?
        });
        let start = |number| {
            let lead = media(number).find(|s| s.rendition == video);
            lead.or_else(|| media(number).next()).map(start_us)
        };
        let same = |s: &&Segment| match segment.kind {
            SegmentKind::Media => s.number == Some(number),
            SegmentKind::Init | SegmentKind::Header => s.kind == segment.kind,
            SegmentKind::Playlist => false,
        };
        let files = own().filter(same).map(|s| s.name.clone());
        Some(Again {
            output,
            number,
            start_us: start(number)?,
            base_us: start(first)?,
            wanted: files
                .filter(|name| name == wanted || dropped.contains(name))
                .collect(),
        })
    }
}

fn start_us(segment: &Segment) -> i64 {
    match segment.times {
        Some(times) => times.start_us,
        None => {
            let us = i128::from(segment.pts) * 1_000_000 / i128::from(segment.time_scale.max(1));
            i64::try_from(us).unwrap_or_default()
        }
    }
}

/// Takes the wanted files and ends the pipeline behind the last of them.
pub(super) struct Only<'a> {
    sink: &'a mut dyn Sink,
    missing: Vec<FileName>,
}

impl<'a> Only<'a> {
    pub(super) fn new(sink: &'a mut dyn Sink, wanted: &[FileName]) -> Self {
        Only {
            sink,
            missing: wanted.to_vec(),
        }
    }

    /// What the pipeline's end means: its own error stands only where something is missing.
    pub(super) fn outcome(self, result: Result<(), Problem>) -> Result<(), Problem> {
        match (self.missing.first(), result) {
            (None, _) => Ok(()),
            (Some(_), Err(problem)) => Err(problem),
            (Some(name), Ok(())) => Err(Problem::new(
                Kind::Internal,
                format!("{name} was not among what was made again"),
            )),
        }
    }
}

impl Sink for Only<'_> {
    fn event(&mut self, _: Event) -> Result<(), Problem> {
        Ok(())
    }

    fn publish(&mut self, segment: Segment, bytes: Vec<u8>) -> Result<(), Problem> {
        let Some(at) = self.missing.iter().position(|n| *n == segment.name) else {
            return Ok(());
        };
        self.sink.publish(segment, bytes)?;
        self.missing.swap_remove(at);
        if self.missing.is_empty() {
            return Err(Problem::new(Kind::Cancelled, "all that was wanted is made"));
        }
        Ok(())
    }
}
