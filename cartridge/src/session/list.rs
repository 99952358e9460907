//! The text that announces segments: an MPD or a CSV list that grows by one number at a time.

use super::ready::Batch;
use crate::job::ListForm;
use plexbeam_api::{
    Segment,
    manifest::{
        csv::{Row, SegmentList},
        mpd::{AdaptationSet, Mpd, Presentation, TimelineEntry},
    },
    segment::{Rendition, RowTimes},
};
use std::collections::VecDeque;

/// A list and what it holds so far.
#[derive(Debug)]
pub(super) enum List {
    /// The whole MPD each time.
    Mpd(MpdList),
    /// The last rows each time.
    Csv {
        /// Rows to send; those beyond the size are gone.
        rows: VecDeque<Row>,
        /// `None` for all.
        size: Option<usize>,
        /// Five columns.
        separate_stream_times: bool,
    },
}

/// State of a growing MPD.
#[derive(Debug)]
pub(super) struct MpdList {
    window: Option<u32>,
    segment_us: i64,
    initialization: String,
    media: String,
    tracks: Vec<Track>,
    available_since_ms: u64,
    last_segment_us: i64,
}

#[derive(Debug)]
struct Track {
    id: u32,
    rendition: Rendition,
    bandwidth: u64,
    start_number: u32,
    timeline: VecDeque<TimelineEntry>,
    end: i64,
}

impl List {
    /// An empty list.
    pub(super) fn new(form: &ListForm) -> Self {
        match form {
            ListForm::Mpd {
                window,
                segment_us,
                initialization,
                media,
            } => List::Mpd(MpdList {
                window: *window,
                segment_us: *segment_us,
                initialization: initialization.clone(),
                media: media.clone(),
                tracks: Vec::new(),
                available_since_ms: 0,
                last_segment_us: *segment_us,
            }),
            ListForm::Csv {
                size,
                separate_stream_times,
            } => List::Csv {
                rows: VecDeque::new(),
                size: *size,
                separate_stream_times: *separate_stream_times,
            },
        }
    }

    /// The text that announces this number. `now_ms`: since the Unix epoch.
    pub(super) fn announce(&mut self, batch: &Batch, now_ms: u64) -> String {
        match self {
            List::Mpd(mpd) => {
                mpd.add(batch, now_ms);
                mpd.text(Some(now_ms))
            }
            List::Csv {
                rows,
                size,
                separate_stream_times,
            } => {
                for segment in &batch.media {
                    rows.push_back(Row {
                        name: segment.name.clone(),
                        times: row_times(segment),
                    });
                }
                while size.is_some_and(|size| rows.len() > size) {
                    rows.pop_front();
                }
                SegmentList {
                    rows: rows.iter().cloned().collect(),
                    separate_stream_times: *separate_stream_times,
                }
                .to_string()
            }
        }
    }

    /// The text that says that nothing follows; `None` where a list just stops growing.
    pub(super) fn end(&self) -> Option<String> {
        match self {
            List::Mpd(mpd) => Some(mpd.text(None)),
            List::Csv { .. } => None,
        }
    }
}

/// The worker's times, else what the segment's own clock says.
fn row_times(segment: &Segment) -> RowTimes {
    segment.times.unwrap_or_else(|| RowTimes {
        start_us: micros(segment.pts, segment.time_scale),
        end_us: micros(
            segment.pts.saturating_add(segment.duration),
            segment.time_scale,
        ),
        audio_end_us: None,
        video_end_us: None,
    })
}

fn micros(ticks: i64, scale: u32) -> i64 {
    let us = i128::from(ticks) * 1_000_000 / i128::from(scale.max(1));
    us.clamp(i64::MIN.into(), i64::MAX.into()) as i64
}

impl MpdList {
    fn add(&mut self, batch: &Batch, now_ms: u64) {
        for head in &batch.heads {
            if let (Some(id), Some(rendition)) = (head.rendition, head.rendition_info.clone()) {
                self.tracks.push(Track {
                    id,
                    bandwidth: rendition.bandwidth,
                    rendition,
                    start_number: batch.number,
                    timeline: VecDeque::new(),
                    end: 0,
                });
            }
        }
        if self.available_since_ms == 0 {
            self.available_since_ms = now_ms;
        }
        for segment in &batch.media {
            let track = self
                .tracks
                .iter_mut()
                .find(|t| Some(t.id) == segment.rendition);
            let Some(track) = track else { continue };
            track.add(segment, batch.number, self.window);
        }
        // The first rendition is the video's, and cuts are made on it.
        if let Some(first) = batch.media.first() {
            self.last_segment_us = micros(first.duration, first.time_scale);
        }
    }

    fn text(&self, now_ms: Option<u64>) -> String {
        let presentation = match now_ms {
            Some(published_ms) => Presentation::Dynamic {
                available_since_ms: self.available_since_ms,
                published_ms,
                last_segment_us: self.last_segment_us,
                window: self.window,
            },
            None => Presentation::Static {
                // The end on the title's timeline: after a seek, too, the period begins at zero.
                duration_us: self
                    .tracks
                    .iter()
                    .map(|t| micros(t.end, t.rendition.time_scale))
                    .max()
                    .unwrap_or(0),
            },
        };
        Mpd {
            presentation,
            max_segment_us: self.segment_us,
            min_buffer_us: self.last_segment_us.saturating_mul(2),
            sets: self.tracks.iter().map(|t| self.set(t)).collect(),
        }
        .to_string()
    }

    fn set(&self, track: &Track) -> AdaptationSet {
        AdaptationSet {
            id: track.id,
            rendition: track.rendition.clone(),
            bandwidth: track.bandwidth,
            initialization: self.initialization.clone(),
            media: self.media.clone(),
            start_number: track.start_number,
            timeline: track.timeline.iter().copied().collect(),
        }
    }
}

impl Track {
    fn add(&mut self, segment: &Segment, number: u32, window: Option<u32>) {
        if self.timeline.is_empty() {
            self.start_number = number;
        }
        if self.bandwidth == 0 && segment.duration > 0 {
            let bits = u128::from(segment.size) * 8 * u128::from(segment.time_scale);
            let rate = bits / segment.duration.unsigned_abs() as u128;
            self.bandwidth = u64::try_from(rate).unwrap_or(u64::MAX);
        }
        self.end = segment.pts.saturating_add(segment.duration);
        self.timeline.push_back(TimelineEntry {
            time: segment.pts,
            duration: segment.duration,
        });
        while window.is_some_and(|window| self.timeline.len() > window as usize) {
            self.timeline.pop_front();
            self.start_number += 1;
        }
    }
}

#[cfg(test)]
mod tests;
