//! Which published files make up the next number, in order. Pure book-keeping.

use plexbeam_api::{
    Segment,
    job::{JobSpec, Packaging},
    segment::SegmentKind,
};
use std::collections::{BTreeMap, VecDeque};

/// Files that are announced together.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Batch {
    /// Init segments or header; in the first batch only.
    pub(super) heads: Vec<Segment>,
    /// The number.
    pub(super) number: u32,
    /// One file per rendition, ordered by rendition.
    pub(super) media: Vec<Segment>,
}

/// Collects published files of one output into batches.
#[derive(Debug)]
pub(super) struct Ready {
    output: u32,
    heads_wanted: usize,
    media_wanted: usize,
    next: u32,
    heads: Vec<Segment>,
    heads_given: bool,
    waiting: BTreeMap<u32, Vec<Segment>>,
    complete: bool,
    batches: VecDeque<Batch>,
}

impl Ready {
    /// For an output of this job, by its place.
    pub(super) fn new(spec: &JobSpec, index: usize) -> Self {
        let output = spec.outputs.get(index);
        let (heads_wanted, media_wanted, next) = match output.map(|o| (&o.packaging, &o.streams)) {
            Some((Packaging::Dash { first_number, .. }, streams)) => {
                (streams.len(), streams.len(), *first_number)
            }
            Some((
                Packaging::Segment {
                    header_name,
                    first_number,
                    ..
                },
                _,
            )) => (usize::from(header_name.is_some()), 1, *first_number),
            Some((Packaging::Hls { first_number, .. }, _)) => (0, 1, *first_number),
            None => (0, 1, 0),
        };
        Ready {
            output: index as u32,
            heads_wanted,
            media_wanted,
            next,
            heads: Vec::new(),
            heads_given: false,
            waiting: BTreeMap::new(),
            complete: false,
            batches: VecDeque::new(),
        }
    }

    /// A file was published. One that is already known is ignored.
    pub(super) fn add(&mut self, segment: Segment) {
        if segment.output != self.output {
            return;
        }
        match (segment.kind, segment.number) {
            (SegmentKind::Init | SegmentKind::Header, _) => {
                if self.heads.iter().all(|s| s.name != segment.name) {
                    self.heads.push(segment);
                    self.heads.sort_by_key(|s| s.rendition);
                }
            }
            (SegmentKind::Media, Some(number)) if number >= self.next => {
                let files = self.waiting.entry(number).or_default();
                if files.iter().all(|s| s.name != segment.name) {
                    files.push(segment);
                    files.sort_by_key(|s| s.rendition);
                }
            }
            (SegmentKind::Media | SegmentKind::Playlist, _) => {}
        }
        self.collect();
    }

    /// Nothing more will be published.
    pub(super) fn complete(&mut self) {
        self.complete = true;
        self.collect();
    }

    /// The next number whose files are all published.
    pub(super) fn pop(&mut self) -> Option<Batch> {
        self.batches.pop_front()
    }

    fn collect(&mut self) {
        if self.heads.len() < self.heads_wanted && !self.complete {
            return;
        }
        while let Some(entry) = self.waiting.first_entry() {
            let number = *entry.key();
            let whole = number == self.next && entry.get().len() >= self.media_wanted;
            // A stream that ended early has no file in the last segments.
            if !whole && !self.complete {
                return;
            }
            let media = entry.remove();
            self.next = number.saturating_add(1);
            let heads = match std::mem::replace(&mut self.heads_given, true) {
                false => self.heads.clone(),
                true => Vec::new(),
            };
            self.batches.push_back(Batch {
                heads,
                number,
                media,
            });
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use plexbeam_api::segment::Digest;

    pub(in crate::session) fn segment(
        rendition: Option<u32>,
        kind: SegmentKind,
        number: Option<u32>,
    ) -> Segment {
        let name = format!(
            "{kind:?}-{}-{}",
            rendition.unwrap_or(9),
            number.unwrap_or(0)
        );
        Segment {
            output: 0,
            rendition,
            kind,
            number,
            name: name.parse().unwrap(),
            size: 1000,
            digest: Digest::of(name.as_bytes()),
            checksum: None,
            time_scale: 1000,
            pts: i64::from(number.unwrap_or(0)) * 5000,
            duration: 5000,
            times: None,
            rendition_info: None,
        }
    }

    fn dash(first: u32) -> Ready {
        Ready {
            output: 0,
            heads_wanted: 2,
            media_wanted: 2,
            next: first,
            heads: Vec::new(),
            heads_given: false,
            waiting: BTreeMap::new(),
            complete: false,
            batches: VecDeque::new(),
        }
    }

    fn media(rendition: u32, number: u32) -> Segment {
        segment(Some(rendition), SegmentKind::Media, Some(number))
    }

    fn init(rendition: u32) -> Segment {
        segment(Some(rendition), SegmentKind::Init, None)
    }

    fn popped(ready: &mut Ready) -> Vec<(usize, u32, usize)> {
        std::iter::from_fn(|| ready.pop())
            .map(|b| (b.heads.len(), b.number, b.media.len()))
            .collect()
    }

    #[test]
    fn a_number_is_ready_when_all_its_files_and_all_inits_are_there() {
        let mut ready = dash(9);
        ready.add(init(0));
        ready.add(media(0, 9));
        ready.add(media(1, 9));
        assert_eq!(popped(&mut ready), [], "one init is missing");
        ready.add(init(1));
        assert_eq!(popped(&mut ready), [(2, 9, 2)]);
        ready.add(media(1, 11));
        ready.add(media(0, 11));
        ready.add(media(1, 10));
        assert_eq!(popped(&mut ready), [], "numbers keep their order");
        ready.add(media(0, 10));
        assert_eq!(popped(&mut ready), [(0, 10, 2), (0, 11, 2)]);
    }

    #[test]
    fn a_file_counts_once() {
        let mut ready = dash(1);
        for _ in 0..2 {
            ready.add(init(0));
            ready.add(init(1));
            ready.add(media(0, 1));
        }
        assert_eq!(popped(&mut ready), []);
        ready.add(media(1, 1));
        ready.add(media(1, 1));
        assert_eq!(popped(&mut ready), [(2, 1, 2)]);
        ready.complete();
        assert_eq!(popped(&mut ready), []);
    }

    #[test]
    fn at_the_end_a_short_stream_does_not_hold_the_other_back() {
        let mut ready = dash(1);
        ready.add(init(0));
        ready.add(init(1));
        ready.add(media(0, 1));
        ready.add(media(1, 1));
        ready.add(media(0, 2));
        assert_eq!(popped(&mut ready), [(2, 1, 2)]);
        ready.complete();
        assert_eq!(popped(&mut ready), [(0, 2, 1)]);
    }

    #[test]
    fn other_outputs_are_not_announced_here() {
        let mut ready = dash(1);
        ready.add(Segment {
            output: 1,
            ..media(0, 1)
        });
        ready.complete();
        assert_eq!(popped(&mut ready), []);
    }
}
