//! One transcoder process as PMS sees it: what it called, what it announced, what a client could
//! read; and what of that the real PMS would refuse or lose.

mod judge;
mod side;

pub use side::{SideRow, SideSeen};

use super::{
    Rule, Violation,
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
    /// Times that PMS took `canThrottle` back.
    pub released: u32,
    /// Times that the client, once PMS had slowed the job, found the next segment not announced.
    pub waited: u32,
    /// Most that was announced beyond the client, seconds.
    pub most_ahead: f64,
    /// DASH.
    pub tracks: Vec<Track>,
    /// Lists.
    pub rows: Vec<Row>,
    /// The second output.
    pub side: SideSeen,
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
    first_answer_after: Duration,
    ended: bool,
    killed: bool,
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

    /// The very first call is answered after this time.
    pub fn answer_first_after(&self, time: Duration) {
        self.state.lock().first_answer_after = time;
    }

    /// How long the answer to the call that just came takes.
    pub fn delay(&self) -> Duration {
        std::mem::take(&mut self.state.lock().first_answer_after)
    }

    /// Dropped when the first segment is announced.
    pub fn close_when_announced(&self, pipes: Box<dyn std::any::Any + Send>) {
        self.state.lock().pipes = Some(pipes);
    }

    /// Notes a fault.
    pub fn fault(&self, rule: Rule, text: String) {
        let mut state = self.state.lock();
        // A killed transcoder may have been in the middle of anything, and its files are going.
        let ours = matches!(rule, Rule::Remove | Rule::ExitStatus | Rule::Stdout);
        if (ours || !state.killed) && state.seen.violations.len() < 200 {
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
        if state.seen.throttled > 0 && announced(&state, &self.shape, number).is_none() {
            state.seen.waited += u32::from(!state.ended);
        }
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
        let throttle = ahead > threshold || (state.throttling && ahead > threshold / 2.0);
        state.seen.released += u32::from(state.throttling && !throttle);
        state.throttling = throttle;
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
