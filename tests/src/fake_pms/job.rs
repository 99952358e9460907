//! One transcoder process as PMS sees it: what it called, what it announced, what a client could
//! read; and what of that the real PMS would refuse or lose.

use super::{
    Rule, Violation, check_segment,
    list::{self, Mpd},
    startup::{Call, Expected, Startup},
};
use crate::{
    argv::{Packaging, Shape},
    boxes,
};
use parking_lot::{Condvar, Mutex};
use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::{Duration, Instant},
};

/// Progress calls may not come more often than each 0.5 s; what the network adds to one gap it
/// takes from the next, so two gaps together are judged.
const PROGRESS_TWO_GAPS: Duration = Duration::from_millis(900);
/// And no gap may be much shorter, whatever the network does.
const PROGRESS_ONE_GAP: Duration = Duration::from_millis(250);
/// A process that exits closes its sockets first; so long may pass until it is gone.
const EXIT_AFTER_CLOSE: Duration = Duration::from_secs(3);

/// A DASH representation as announced.
#[derive(Debug, Clone)]
pub struct Track {
    /// Representation id.
    pub id: String,
    /// `video` or `audio`.
    pub media: String,
    /// Ticks per second of the entries.
    pub time_scale: u64,
    /// (number, t, d).
    pub entries: Vec<(u32, u64, u64)>,
    /// What its init segment says.
    pub init: Option<boxes::Init>,
}

impl Track {
    /// Start of an entry in seconds.
    pub fn start(&self, index: usize) -> f64 {
        self.entries[index].1 as f64 / self.time_scale as f64
    }

    fn end(&self, index: usize) -> f64 {
        (self.entries[index].1 + self.entries[index].2) as f64 / self.time_scale as f64
    }
}

/// A row of a segment list as announced.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Number by its place in the list.
    pub number: u32,
    /// File name.
    pub name: String,
    /// Start, seconds.
    pub start: f64,
    /// End, seconds.
    pub end: f64,
    /// Ends of audio and video.
    pub ends: Option<(f64, f64)>,
}

/// What the client may do next.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Next {
    /// The segment is announced; its end on the timeline, seconds.
    Ready(f64),
    /// The process has ended and did not announce it.
    Ended,
    /// It was not announced in time.
    Starved,
}

/// What was seen, for the report.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Faults.
    pub violations: Vec<Violation>,
    /// First call of any kind.
    pub first_call: Option<Instant>,
    /// First list or manifest.
    pub first_post: Option<Instant>,
    /// Replies with `canThrottle`.
    pub throttled: u32,
    /// Most that was announced beyond the client, seconds.
    pub most_ahead: f64,
    /// DASH.
    pub tracks: Vec<Track>,
    /// Lists.
    pub rows: Vec<Row>,
    /// All calls.
    pub calls: Vec<String>,
}

type Ask = Box<dyn FnOnce() -> Result<(), String> + Send>;

#[derive(Default)]
struct State {
    seen: Seen,
    startup: Startup,
    /// Bytes of announced names: length and hash.
    files: HashMap<String, (usize, u64)>,
    /// The same names in order of their announcement.
    order: Vec<String>,
    progress: Vec<Instant>,
    last_static: Option<bool>,
    mpd_duration: Option<f64>,
    client_at: f64,
    throttling: bool,
    ask: Option<Ask>,
    pipes: Option<Box<dyn std::any::Any + Send>>,
    list_connection: Option<u64>,
    ended: bool,
    killed: bool,
    dismissed: bool,
}

/// One process.
pub struct Job {
    shape: Shape,
    dir: PathBuf,
    expected: Expected,
    throttle_ahead: f64,
    state: Mutex<State>,
    changed: Condvar,
}

impl Job {
    /// A job that will be judged by `shape` and `expected`.
    pub fn new(shape: Shape, dir: PathBuf, expected: Expected, throttle_ahead: f64) -> Job {
        let state = State {
            client_at: shape.seek.unwrap_or(0.0),
            ..State::default()
        };
        Job {
            shape,
            dir,
            expected,
            throttle_ahead,
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    /// `ask` is called once, before the first call is answered.
    pub fn ask_at_first_call(&self, ask: Ask) {
        self.state.lock().ask = Some(ask);
    }

    /// Dropped when the first segment is announced.
    pub fn close_when_announced(&self, pipes: Box<dyn std::any::Any + Send>) {
        self.state.lock().pipes = Some(pipes);
    }

    /// Notes a fault.
    pub fn fault(&self, rule: Rule, text: String) {
        let mut state = self.state.lock();
        // After a kill the transcoder may be cut off in the middle of anything.
        if !state.dismissed && state.seen.violations.len() < 200 {
            state.seen.violations.push(Violation { rule, text });
        }
    }

    /// The process is gone.
    pub fn process_ended(&self) {
        self.state.lock().ended = true;
        self.changed.notify_all();
    }

    /// PMS is about to end the process.
    pub fn killed_by_pms(&self) {
        self.state.lock().killed = true;
    }

    /// Nothing of this job is judged any more.
    pub fn dismiss(&self) {
        self.state.lock().killed = true;
    }

    /// The process is gone.
    pub fn has_ended(&self) -> bool {
        self.state.lock().ended
    }

    /// All that was seen.
    pub fn seen(&self) -> Seen {
        self.state.lock().seen.clone()
    }

    /// Ids of the representations announced.
    pub fn track_ids(&self) -> Vec<String> {
        let state = self.state.lock();
        state.seen.tracks.iter().map(|t| t.id.clone()).collect()
    }

    /// How far the client is, media seconds.
    pub fn client_is_at(&self, at: f64) {
        self.state.lock().client_at = at;
    }

    /// Waits until `number` is announced for every stream.
    pub fn wait_for(&self, number: u32, patience: Duration) -> Next {
        let end = Instant::now() + patience;
        let mut state = self.state.lock();
        loop {
            if let Some(end) = announced(&state, &self.shape, number) {
                return Next::Ready(end);
            }
            if state.ended {
                return Next::Ended;
            }
            if self.changed.wait_until(&mut state, end).timed_out() {
                return Next::Starved;
            }
        }
    }

    /// Reads an announced file as PMS does for a client; notes what is wrong and gives `None`.
    pub fn read_file(&self, dir: &Path, name: &str) -> Option<Vec<u8>> {
        let path = dir.join(name);
        let size = match fs::metadata(&path) {
            Ok(meta) => meta.len(),
            Err(error) => {
                self.fault(Rule::FileMissing, format!("stat {name}: {error}"));
                return None;
            }
        };
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) => {
                self.fault(Rule::Read, format!("read {name}: {error}"));
                return None;
            }
        };
        if bytes.is_empty() {
            self.fault(Rule::FileNotWhole, format!("{name} is empty"));
        }
        if bytes.len() as u64 != size {
            self.fault(
                Rule::FileNotWhole,
                format!("{name}: stat says {size} bytes, {} were read", bytes.len()),
            );
        }
        let now = (bytes.len(), hash(&bytes));
        let mut state = self.state.lock();
        let before = state.files.insert(name.to_owned(), now);
        if before.is_none() {
            state.order.push(name.to_owned());
        }
        drop(state);
        if before.is_some_and(|b| b != now) {
            self.fault(
                Rule::Changed,
                format!("{name} changed after it was announced"),
            );
        }
        Some(bytes)
    }

    /// Reads the newest announced files once more: names keep their bytes.
    pub fn read_again(&self, newest: usize) {
        let names = {
            let state = self.state.lock();
            state.order[state.order.len().saturating_sub(newest)..].to_vec()
        };
        for name in names {
            self.read_file(&self.dir, &name);
        }
    }

    /// Any call came: the first asks the worker.
    pub fn called(&self, call: String) {
        let ask = {
            let mut state = self.state.lock();
            state.seen.first_call.get_or_insert_with(Instant::now);
            state.seen.calls.push(call);
            state.ask.take()
        };
        if let Some(Err(text)) = ask.map(|ask| ask()) {
            self.fault(Rule::BeforeProbed, text);
        }
    }

    /// A start-up call.
    pub fn startup(&self, call: Call, query: &HashMap<String, String>) {
        let mut state = self.state.lock();
        let mut wrong = state.startup.take(call, query);
        if wrong.is_none() && state.seen.first_post.is_some() {
            wrong = Some(format!("{call:?} call after the first announcement"));
        }
        drop(state);
        if let Some(text) = wrong {
            let rule = if text.contains("after") {
                Rule::OutOfOrder
            } else {
                Rule::StartupMissing
            };
            self.fault(rule, text);
        }
    }

    /// A progress call; true when the reply shall hold `canThrottle`.
    pub fn progress(&self, query: &HashMap<String, String>) -> bool {
        for name in ["progress", "size", "remaining"] {
            if query.get(name).is_none_or(|v| v.parse::<f64>().is_err()) {
                self.fault(
                    Rule::Malformed,
                    format!("progress call without number `{name}`"),
                );
            }
        }
        let now = Instant::now();
        let mut state = self.state.lock();
        state.progress.push(now);
        let too_often = match state.progress.as_slice() {
            [.., a, b, c] if *c - *a < PROGRESS_TWO_GAPS => Some((*b - *a, *c - *b)),
            [.., b, c] if *c - *b < PROGRESS_ONE_GAP => Some((Duration::ZERO, *c - *b)),
            _ => None,
        };
        let ahead = newest_end(&state).map_or(0.0, |end| end - state.client_at);
        let threshold = self.throttle_ahead;
        // PMS lets go only when the buffer has drained a good deal.
        state.throttling = ahead > threshold || (state.throttling && ahead > threshold / 2.0);
        let throttle = state.throttling;
        state.seen.throttled += u32::from(throttle);
        drop(state);
        if let Some((a, b)) = too_often {
            self.fault(
                Rule::ProgressTooOften,
                format!("progress calls {a:?} and {b:?} apart"),
            );
        }
        throttle
    }

    /// A list or manifest came by `connection`.
    pub fn posted(&self, connection: u64) {
        let mut state = self.state.lock();
        let first = state.seen.first_post.is_none();
        state.seen.first_post.get_or_insert_with(Instant::now);
        let other = state
            .list_connection
            .replace(connection)
            .is_some_and(|c| c != connection);
        let missing = if first {
            state.startup.missing(&self.expected)
        } else {
            Vec::new()
        };
        let pipes = state.pipes.take();
        drop(state);
        drop(pipes);
        for text in missing {
            self.fault(
                Rule::StartupMissing,
                format!("{text} before the first announcement"),
            );
        }
        if other {
            self.fault(
                Rule::PipelineClosed,
                "a second connection for the pipelined list".to_owned(),
            );
        }
    }

    /// A connection that lists came by was closed by the other side.
    pub fn connection_closed(&self) {
        let end = Instant::now() + EXIT_AFTER_CLOSE;
        let mut state = self.state.lock();
        while !state.ended && !state.killed {
            if self.changed.wait_until(&mut state, end).timed_out() {
                drop(state);
                self.fault(
                    Rule::PipelineClosed,
                    "the pipelined connection was closed while the process lived".to_owned(),
                );
                return;
            }
        }
    }

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
        let film = self.expected.duration();
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

/// End of `number` in seconds when every stream has announced it.
fn announced(state: &State, shape: &Shape, number: u32) -> Option<f64> {
    match shape.packaging {
        Packaging::Dash { .. } => {
            // A representation that is not named yet must be waited for too.
            if state.seen.tracks.len() < shape.streams {
                return None;
            }
            let mut end = None;
            for track in &state.seen.tracks {
                let index = track.entries.iter().position(|e| e.0 == number)?;
                if end.is_none() {
                    end = Some(track.end(index));
                }
            }
            end
        }
        Packaging::Segment { .. } => {
            let row = state.seen.rows.iter().find(|r| r.number == number)?;
            Some(row.end)
        }
    }
}

/// End of the newest announced segment, seconds.
fn newest_end(state: &State) -> Option<f64> {
    let tracks = &state.seen.tracks;
    let dash = tracks
        .iter()
        .filter(|t| !t.entries.is_empty())
        .map(|t| t.end(t.entries.len() - 1))
        .reduce(f64::min);
    dash.or(state.seen.rows.last().map(|r| r.end))
}

/// FNV-1a, enough to see a change.
fn hash(bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(0xcbf2_9ce4_8422_2325, |hash, chunk| {
        let word = chunk.iter().fold(0_u64, |n, &b| n << 8 | u64::from(b));
        (hash ^ word).wrapping_mul(0x0100_0000_01b3)
    })
}
