//! What is announced, judged: the files against their entries, the entries against PROTOCOL 7, and
//! the end of a film against the film.

use super::{Job, Row, Track, newest_end};
use crate::{
    argv::{Packaging, Shape},
    boxes, container,
    fake_pms::{
        Rule, Violation,
        list::{self, Mpd},
    },
};
use std::process::ExitStatus;

impl Job {
    /// A manifest came.
    pub fn manifest(&self, text: &str) {
        if !matches!(self.shape.packaging, Packaging::Dash { .. }) {
            self.fault(
                Rule::Malformed,
                "an MPD for a job with a segment list".into(),
            );
            return;
        }
        let mpd = match list::mpd(text) {
            Ok(mpd) => mpd,
            Err(error) => {
                self.fault(Rule::Malformed, format!("MPD: {error}"));
                return;
            }
        };
        for representation in &mpd.representations {
            self.representation(representation);
        }
        if mpd.is_static && mpd.duration.is_none() {
            self.fault(
                Rule::Unfinished,
                "a static MPD without mediaPresentationDuration".into(),
            );
        }
        self.note_manifest(&mpd);
        self.changed.notify_all();
    }

    fn note_manifest(&self, mpd: &Mpd) {
        let mut state = self.state.lock();
        if state.last_static == Some(true) && !mpd.is_static {
            state.seen.violations.push(Violation {
                rule: Rule::OutOfOrder,
                text: "a dynamic MPD after the static one".into(),
            });
        }
        state.last_static = Some(mpd.is_static);
        state.mpd_duration = mpd.duration;
        let ahead = newest_end(&state).map_or(0.0, |end| end - state.client_at);
        state.seen.most_ahead = state.seen.most_ahead.max(ahead);
    }

    fn representation(&self, r: &list::Representation) {
        let Packaging::Dash { window, .. } = self.shape.packaging else {
            return;
        };
        let id = &r.id;
        let fault = |rule, text: String| self.fault(rule, format!("representation {id}: {text}"));
        if window > 0 && r.entries.len() > window + 5 {
            fault(
                Rule::Malformed,
                format!("{} entries in a window of {window}", r.entries.len()),
            );
        }
        let known = {
            let mut state = self.state.lock();
            if !state.seen.tracks.iter().any(|t| t.id == *id) {
                state.seen.tracks.push(Track {
                    id: id.clone(),
                    media: r.media.clone(),
                    time_scale: r.time_scale,
                    entries: Vec::new(),
                    init: None,
                });
            }
            let track = state.seen.tracks.iter().find(|t| t.id == *id);
            track.cloned().map(|t| (t.entries, t.init))
        };
        let Some((known, mut init)) = known else {
            return;
        };
        if init.is_none() && !r.entries.is_empty() {
            let name = Shape::dash_name(&r.init, id, None);
            init = self.read_file(&self.dir, &name).and_then(|bytes| {
                boxes::init(&bytes)
                    .map_err(|e| fault(Rule::FileNotWhole, format!("{name}: {e}")))
                    .ok()
            });
            let mut state = self.state.lock();
            if let Some(track) = state.seen.tracks.iter_mut().find(|t| t.id == *id) {
                track.init = init.clone();
            }
        }
        let mut new = 0;
        for &(number, t, d) in &r.entries {
            if let Some(old) = known.iter().find(|k| k.0 == number) {
                if *old != (number, t, d) {
                    fault(
                        Rule::Changed,
                        format!(
                            "number {number} was t={} d={}, is t={t} d={d}",
                            old.1, old.2
                        ),
                    );
                }
                continue;
            }
            let due = known.last().map_or(self.shape.first, |l| l.0 + 1) + new;
            if number != due {
                let rule = if number < due {
                    Rule::OutOfOrder
                } else {
                    Rule::NotListed
                };
                fault(
                    rule,
                    format!("number {number} announced where {due} was due"),
                );
            }
            new += 1;
            let name = Shape::dash_name(&r.pattern, id, Some(number));
            if let (Some(bytes), Some(init)) = (self.read_file(&self.dir, &name), &init) {
                match boxes::media(&bytes, init) {
                    Ok(media) => self.judge_fragment(r, &media, init, (number, t, d)),
                    Err(error) => fault(Rule::FileNotWhole, format!("{name}: {error}")),
                }
            }
            let mut state = self.state.lock();
            let index = state
                .seen
                .tracks
                .iter()
                .position(|x| x.id == *id)
                .unwrap_or(0);
            state.seen.tracks[index].entries.push((number, t, d));
        }
        if new > 1 {
            fault(
                Rule::NotListed,
                format!("{new} segments announced by one call, clients see only the last"),
            );
        }
        self.judge_times(id);
    }

    /// A file against its entry: `t` is the file's own earliest presentation time.
    fn judge_fragment(
        &self,
        r: &list::Representation,
        media: &boxes::Media,
        init: &boxes::Init,
        (number, t, d): (u32, u64, u64),
    ) {
        let ill = |text: String| {
            self.fault(
                Rule::IllTimed,
                format!("representation {} number {number}: {text}", r.id),
            );
        };
        let listed = t as f64 / r.time_scale as f64;
        let own = (media.first_pts() + init.edit_shift()) as f64 / f64::from(init.time_scale);
        let frame = if r.media == "video" {
            self.shape.frame()
        } else {
            0.05
        };
        // Before zero is only the encoder's priming, which players cut off.
        if (own.max(0.0) - listed).abs() > frame {
            ill(format!(
                "t is {listed:.4} s, the samples begin at {own:.4} s"
            ));
        }
        match media.sidx {
            None => ill("no `sidx`".into()),
            Some((scale, ept, _)) => {
                let ept = ept as f64 / f64::from(scale.max(1));
                if (ept - own.max(0.0)).abs() > frame {
                    ill(format!(
                        "`sidx` says {ept:.4} s, the samples begin at {own:.4} s"
                    ));
                }
            }
        }
        let length = media.duration() as f64 / f64::from(init.time_scale);
        let listed_length = d as f64 / r.time_scale as f64;
        if (length - listed_length).abs() > 0.15 {
            ill(format!(
                "d is {listed_length:.4} s, the samples last {length:.4} s"
            ));
        }
    }

    /// The newest entry of a representation against PROTOCOL 7.1.
    fn judge_times(&self, id: &str) {
        let state = self.state.lock();
        let Some(track) = state.seen.tracks.iter().find(|t| t.id == *id) else {
            return;
        };
        let Some(last) = track.entries.len().checked_sub(1) else {
            return;
        };
        let number = track.entries[last].0;
        let start = track.start(last);
        let previous = last.checked_sub(1).map(|p| track.end(p));
        let first = track.start(0);
        let is_video = track.media == "video";
        let video = state.seen.tracks.iter().find(|t| t.media == "video");
        let video = video.and_then(|v| {
            let index = v.entries.iter().position(|e| e.0 == number)?;
            Some(v.start(index))
        });
        drop(state);
        let what = format!("representation {id} number {number}");
        if is_video || !self.shape.copy_video {
            self.judge_start(&what, number, start, first, is_video);
        } else if let Some(video) = video
            && number > self.shape.first
            && (start < video - 0.2 || start > video + 0.06)
        {
            self.fault(
                Rule::IllTimed,
                format!("{what} begins at {start:.4} s, the video's at {video:.4} s"),
            );
        }
        // ffmpeg's and Plex's own lists are contiguous to the tick; AAC frames may straddle.
        if let Some(end) = previous
            && (start - end).abs() > 0.06
        {
            self.fault(
                Rule::IllTimed,
                format!("representation {id} number {number} begins at {start:.4} s, the one before ends at {end:.4} s"),
            );
        }
    }

    fn judge_start(&self, what: &str, number: u32, start: f64, first: f64, is_video: bool) {
        let due = self.shape.due(number);
        let frame = self.shape.frame();
        // Sound is cut at the moment of the video's cut in order of decoding, which is some frames
        // of reordering before the time shown (golden/plex-static.mpd: 0.08 s).
        let early = if is_video { frame } else { 0.2 };
        if self.shape.copy_video {
            // The job starts at the key at or before the seek and follows the source's keys.
            let base = self.shape.seek.unwrap_or(0.0);
            if number == self.shape.first && self.shape.seek.is_some() && start > base + 0.1 {
                self.fault(
                    Rule::IllTimed,
                    format!("{what} begins at {start:.4} s, behind the seek to {base} s"),
                );
            }
            let least = f64::from(number - self.shape.first) * self.shape.seconds;
            if start - first < least - 0.0625 - early {
                self.fault(
                    Rule::IllTimed,
                    format!(
                        "{what} was cut early: {:.4} s after the first, {least} s are due",
                        start - first
                    ),
                );
            }
        } else if start < due - early || start > due + 2.0 * frame {
            self.fault(
                Rule::IllTimed,
                format!("{what} begins at {start:.4} s, due at {due:.4} s"),
            );
        }
    }

    /// A segment list came.
    pub fn rows(&self, text: &str) {
        let Packaging::Segment {
            separate,
            rows: size,
            media,
            header,
            ..
        } = &self.shape.packaging
        else {
            self.fault(Rule::Malformed, "a segment list for a DASH job".into());
            return;
        };
        let rows = match list::csv(text, *separate) {
            Ok(rows) => rows,
            Err(error) => {
                self.fault(Rule::Malformed, format!("list: {error}"));
                return;
            }
        };
        if let Some(at) = rows.iter().position(|r| r.unfinished)
            && at + 1 != rows.len()
        {
            self.fault(Rule::OutOfOrder, "rows behind the unfinished one".into());
        }
        let finished: Vec<_> = rows.iter().filter(|r| !r.unfinished).collect();
        if *size > 0 && finished.len() > *size {
            self.fault(
                Rule::Malformed,
                format!("{} rows in a list of {size}", finished.len()),
            );
        }
        let known = self.state.lock().seen.rows.clone();
        if known.is_empty()
            && !finished.is_empty()
            && let Some(header) = header
        {
            self.read_file(&self.dir, header);
        }
        let mut new: u32 = 0;
        for row in finished {
            if let Some(old) = known.iter().find(|k| k.name == row.name) {
                if (old.start, old.end, old.ends) != (row.times.0, row.times.1, row.ends) {
                    self.fault(Rule::Changed, format!("the row of {} changed", row.name));
                }
                continue;
            }
            let due = known.last().map_or(self.shape.first, |l| l.number + 1) + new;
            let due_name = Shape::segment_name(media, due);
            if row.name != due_name {
                let rule = if row.name < due_name {
                    Rule::OutOfOrder
                } else {
                    Rule::NotListed
                };
                self.fault(
                    rule,
                    format!("{} announced where {due_name} was due", row.name),
                );
            }
            new += 1;
            if let Some(bytes) = self.read_file(&self.dir, &row.name)
                && let Err(error) = check_segment(&self.shape, &bytes)
            {
                self.fault(Rule::FileNotWhole, format!("{}: {error}", row.name));
            }
            self.judge_row(row, due);
        }
        if new > 1 {
            self.fault(
                Rule::NotListed,
                format!("{new} segments announced by one call, clients see only the last"),
            );
        }
        self.changed.notify_all();
    }

    fn judge_row(&self, row: &list::CsvRow, number: u32) {
        let (start, end) = row.times;
        let (first, previous) = {
            let state = self.state.lock();
            let rows = &state.seen.rows;
            (
                rows.first().map_or(start, |r| r.start),
                rows.last().map(|r| r.end),
            )
        };
        self.judge_start(&row.name, number, start, first, true);
        if end <= start {
            self.fault(
                Rule::IllTimed,
                format!("{} ends at {end}, begins at {start}", row.name),
            );
        }
        if let Some(previous) = previous
            && (start - previous).abs() > 0.06
        {
            self.fault(
                Rule::IllTimed,
                format!(
                    "{} begins at {start}, the row before ends at {previous}",
                    row.name
                ),
            );
        }
        if let Some((audio, video)) = row.ends {
            for (what, at) in [("audio", audio), ("video", video)] {
                let absent = at == -1.0;
                if !absent && (at <= start - 0.1 || (at - end).abs() > 1.0) {
                    self.fault(
                        Rule::IllTimed,
                        format!("{}: {what} ends at {at}, the row at {end}", row.name),
                    );
                }
            }
        }
        let mut state = self.state.lock();
        state.seen.rows.push(Row {
            number,
            name: row.name.clone(),
            start,
            end,
            ends: row.ends,
        });
        let ahead = end - state.client_at;
        state.seen.most_ahead = state.seen.most_ahead.max(ahead);
    }

    /// What the end of a film that was not stopped must have been.
    pub fn judge_end(&self, status: Option<ExitStatus>, whole: bool) {
        if status.is_some_and(|s| !s.success()) {
            self.fault(Rule::ExitStatus, format!("{status:?}"));
        }
        let state = self.state.lock();
        let end = newest_end(&state);
        let last_static = state.last_static;
        let told = state.mpd_duration;
        let posted = state.seen.first_post.is_some();
        drop(state);
        if !posted {
            self.fault(Rule::Unfinished, "nothing was ever announced".into());
            return;
        }
        if last_static == Some(false) {
            self.fault(Rule::Unfinished, "the last MPD is not static".into());
        }
        let film = self.expected.end();
        if let (Some(end), true, true) = (end, whole, film > 0.0)
            && end < film - 1.0
        {
            self.fault(
                Rule::Unfinished,
                format!("the last segment ends at {end:.3} s, the film at {film:.3} s"),
            );
        }
        if let (Some(told), Some(end)) = (told, end) {
            // Some writers count from the title's start, ffmpeg's from the job's.
            let base = self.shape.seek.unwrap_or(0.0);
            if (told - end).abs() > 1.0 && (told - (end - base)).abs() > self.shape.seconds * 2.5 {
                self.fault(
                    Rule::IllTimed,
                    format!(
                        "mediaPresentationDuration {told} s, the last segment ends at {end:.3} s"
                    ),
                );
            }
        }
    }
}

/// Checks the look of one announced file by what the job's packaging says.
fn check_segment(shape: &Shape, bytes: &[u8]) -> Result<(), String> {
    match &shape.packaging {
        // The job does this one itself, with the init segment in hand.
        Packaging::Dash { .. } => Ok(()),
        Packaging::Segment { format, header, .. } => match format.as_str() {
            "mpegts" => container::check_ts(bytes),
            "matroska" => container::check_matroska(bytes, header.is_some()),
            _ => Ok(()),
        },
    }
}
