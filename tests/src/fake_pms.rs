//! A Plex Media Server that keeps PROTOCOL 1, 5, 6, 7 and 10 and lists what the real one would
//! refuse or lose. It starts the transcoder as PMS does, plays a client that reads segments in
//! order through the session directory, and tells what it saw as a [`Report`].
//!
//! [`server`] answers the calls, [`job`] holds what is known of one process and judges it,
//! [`list`] reads the MPD and the CSV, [`startup`] knows which calls must come first.
//! `child` is the process, `client` the player, [`report`] what came of it.

mod child;
mod client;
pub mod job;
pub mod list;
pub mod report;
pub mod server;
pub mod startup;

pub use report::{JobReport, Report, Rule, Violation};

use crate::{
    argv::{Line, Place},
    env::http_client,
    media,
};
use child::Child;
use client::Client;
use job::Job;
use rustix::process::Signal;
use server::Server;
use std::{
    ffi::OsString,
    fmt, fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

/// How fast the client reads.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// As fast as segments come.
    Fast,
    /// This many media seconds per wall second.
    Times(f64),
}

/// How a play ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// When the transcoder has exited and all is read.
    Film,
    /// After so many segments were read: this signal, then the directory is removed at once.
    Stop {
        /// Segments read before.
        after: u32,
        /// SIGTERM or SIGKILL.
        signal: Signal,
    },
}

/// Where the worker can be asked whether it had opened the input.
#[derive(Debug, Clone)]
pub struct WorkerView {
    /// Base URL.
    pub url: String,
    /// Key.
    pub key: String,
}

/// How far a play is, for a progress line.
#[derive(Debug, Clone, Copy, Default)]
pub struct Live {
    /// Segments read, all streams.
    pub segments: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Since the first process started.
    pub wall: Duration,
    /// Media time up to which was read, seconds from the start of this process's work.
    pub media: f64,
    /// Time to the first segment.
    pub first: Option<Duration>,
}

/// One play: what PMS is asked for.
pub struct Play<'a> {
    /// PMS's transcode directory: our mount, or any directory.
    pub dir: PathBuf,
    /// The program put in the place of "Plex Transcoder".
    pub cartridge: PathBuf,
    /// The film.
    pub media: PathBuf,
    /// The command line of the first start.
    pub line: Line,
    /// Seeks: (segments read before, number sought).
    pub seeks: Vec<(u32, u32)>,
    /// How it ends.
    pub end: End,
    /// How fast the client reads.
    pub pace: Pace,
    /// PMS asserts `canThrottle` when more than this is announced beyond the client, seconds.
    pub throttle_ahead: f64,
    /// Environment for the cartridge, over what PMS gives.
    pub env: Vec<(OsString, OsString)>,
    /// Where to ask whether the input was open at the first call.
    pub worker: Option<WorkerView>,
    /// Copies of what was read go to `<keep>/<n>/<name>`.
    pub keep: Option<PathBuf>,
    /// Content of staged subtitles.
    pub subtitles: String,
    /// PMS closes the child's output pipes when the first segment is announced (PROTOCOL 1.10).
    pub close_pipes: bool,
    /// PMS is so busy that it answers the very first call only after this time.
    pub first_answer_after: Duration,
    /// PMS removes the directory right after the process has ended.
    pub remove: bool,
    /// Longest wait of the client for the next segment.
    pub patience: Duration,
    /// A client cannot reach behind the end; `false` when the media is not whole.
    pub expect_whole: bool,
    /// Told of each segment read.
    pub live: Option<&'a (dyn Fn(Live) + Sync)>,
}

impl Play<'_> {
    /// A play of `media` by `line` to its end, as fast as possible.
    pub fn new(dir: &Path, cartridge: &Path, line: Line, media: &Path) -> Self {
        Play {
            dir: dir.to_owned(),
            cartridge: cartridge.to_owned(),
            media: media.to_owned(),
            line,
            seeks: Vec::new(),
            end: End::Film,
            pace: Pace::Fast,
            throttle_ahead: 60.0,
            env: Vec::new(),
            worker: None,
            keep: None,
            subtitles: media::srt_text(600),
            close_pipes: false,
            first_answer_after: Duration::ZERO,
            remove: true,
            patience: Duration::from_secs(20),
            expect_whole: true,
            live: None,
        }
    }

    /// Adds an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }
}

/// Why a play could not even begin.
#[derive(Debug)]
pub struct SetupError(pub String);

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn setup<T>(result: Result<T, impl fmt::Display>, what: &str) -> Result<T, SetupError> {
    result.map_err(|e| SetupError(format!("{what}: {e}")))
}

/// Token that PMS hands out.
const TOKEN: &str = "fakePmsToken-20chars";

/// Plays. Faults of the transcoder are in the report; an `Err` is a fault of the surroundings.
pub fn play(play: &Play<'_>) -> Result<Report, SetupError> {
    let server = setup(
        Server::start(TOKEN.to_owned()),
        "start the fake PMS's server",
    )?;
    let places = setup(tempfile::tempdir(), "make a directory for the cartridge")?;
    // PMS starts the program by a path with a blank in it (PROTOCOL 1.7).
    let program = places.path().join("Plex Transcoder");
    if fs::hard_link(&play.cartridge, &program).is_err() {
        setup(
            fs::copy(&play.cartridge, &program).map(drop),
            &format!("copy {}", play.cartridge.display()),
        )?;
    }
    let session = unique("session").replace('-', "");
    let began = Instant::now();
    let mut report = Report {
        ttfs_ms: None,
        segments: 0,
        bytes: 0,
        wall_ms: 0,
        violations: Vec::new(),
        jobs: Vec::new(),
    };
    let mut line = play.line.clone();
    let mut seeks = play.seeks.iter();
    loop {
        let seek = seeks.next();
        let goal = match (seek, play.end) {
            (Some(&(after, _)), _) => Goal::Kill(after, Signal::KILL),
            (None, End::Stop { after, signal }) => Goal::Kill(after, signal),
            (None, End::Film) => Goal::Film,
        };
        let run = Run {
            play,
            server: &server,
            program: &program,
            session: &session,
            began,
            before: (report.segments, report.bytes),
            index: report.jobs.len(),
        };
        let job = run.job(&line, goal, &mut report)?;
        let fatal = !report.violations.is_empty();
        report.segments += job.segments;
        report.bytes += job.bytes;
        report.ttfs_ms = report.ttfs_ms.or(job.ttfs_ms);
        report.jobs.push(job);
        match seek {
            Some(&(_, number)) if !fatal => {
                line = line.seek(number).map_err(SetupError)?;
            }
            _ => break,
        }
    }
    report.wall_ms = began.elapsed().as_millis() as u64;
    report.violations.extend(server.strays());
    Ok(report)
}

#[derive(Debug, Clone, Copy)]
enum Goal {
    Film,
    Kill(u32, Signal),
}

struct Run<'a> {
    play: &'a Play<'a>,
    server: &'a Server,
    program: &'a Path,
    session: &'a str,
    began: Instant,
    before: (u64, u64),
    index: usize,
}

impl Run<'_> {
    fn job(&self, line: &Line, goal: Goal, report: &mut Report) -> Result<JobReport, SetupError> {
        let play = self.play;
        let uuid = unique("job");
        let sessions = play.dir.join("Transcode/Sessions");
        let dir = sessions.join(format!("plex-transcode-{}-{uuid}", self.session));
        setup(fs::create_dir_all(&dir), "make the session directory")?;
        for name in line.staged() {
            setup(
                fs::write(dir.join(&name), &play.subtitles),
                "stage a subtitle file",
            )?;
        }
        let place = Place {
            media: play.media.clone(),
            port: self.server.port(),
            session: self.session.to_owned(),
            job: uuid.clone(),
            dir: dir.clone(),
        };
        let argv = line.placed(&place).map_err(SetupError)?;
        let shape = line.shape().map_err(SetupError)?;
        let known = self.known_sessions();
        let job = Arc::new(Job::new(
            shape.clone(),
            dir.clone(),
            startup::Expected::of(&play.media),
            play.throttle_ahead,
        ));
        job.answer_first_after(play.first_answer_after);
        if let Some(view) = play.worker.clone() {
            job.ask_at_first_call(Box::new(move || opened(&view, &known)));
        }
        self.server.serve(self.session, &uuid, Arc::clone(&job));
        let started = Instant::now();
        let mut child = Child::spawn(self.program, &argv, line, play, &dir, &job)?;
        let kept = play.keep.as_ref().map(|k| k.join(self.index.to_string()));
        if let Some(kept) = &kept {
            setup(fs::create_dir_all(kept), "make the directory for copies")?;
        }
        let mut client = Client {
            run: self,
            job: &job,
            shape: &shape,
            dir: &dir,
            kept: kept.as_deref(),
            started,
            segments: 0,
            bytes: 0,
            first: None,
        };
        client.watch(goal, &mut child);
        let (segments, bytes, first) = (client.segments, client.bytes, client.first);
        let exit = match goal {
            Goal::Kill(_, signal) => {
                child.end(signal);
                None
            }
            Goal::Film => {
                let status = child.wait_end(&job, play.patience);
                Some(status)
            }
        };
        let wall = started.elapsed();
        if exit.is_some() {
            job.read_again(2);
        }
        let removal = Instant::now();
        if play.remove
            && let Err(error) = fs::remove_dir_all(&dir)
        {
            job.fault(Rule::Remove, format!("rm -r {}: {error}", dir.display()));
        }
        let remove_ms = removal.elapsed().as_millis() as u64;
        if let Some(status) = exit {
            job.judge_end(status, play.expect_whole);
        }
        let stderr = child.stderr();
        if child.stdout_bytes() > 0 {
            job.fault(
                Rule::Stdout,
                format!("{} bytes on stdout", child.stdout_bytes()),
            );
        }
        let seen = job.seen();
        report.violations.extend(seen.violations);
        Ok(JobReport {
            job: uuid,
            first_number: shape.first,
            ttfs_ms: first.map(|d| d.as_millis() as u64),
            first_post_ms: seen.first_post.map(|at| (at - started).as_millis() as u64),
            first_call_ms: seen.first_call.map(|at| (at - started).as_millis() as u64),
            segments,
            bytes,
            wall_ms: wall.as_millis() as u64,
            exit: exit.flatten().and_then(|s| s.code()),
            throttled: seen.throttled,
            released: seen.released,
            waited: seen.waited,
            most_ahead: seen.most_ahead,
            stderr,
            shape: Some(shape),
            kept,
            tracks: seen.tracks,
            rows: seen.rows,
            side: seen.side,
            calls: seen.calls,
            remove_ms,
        })
    }

    /// Sessions that the worker knew before the process started.
    fn known_sessions(&self) -> Vec<String> {
        self.play
            .worker
            .as_ref()
            .and_then(|view| sessions(view).ok())
            .unwrap_or_default()
            .into_iter()
            .map(|s| s.session.to_string())
            .collect()
    }
}

fn sessions(view: &WorkerView) -> reqwest::Result<Vec<plexbeam_api::SessionStatus>> {
    http_client()
        .get(format!("{}{}", view.url, plexbeam_api::route::SESSIONS))
        .header(plexbeam_api::route::API_KEY_HEADER, &view.key)
        .timeout(Duration::from_secs(5))
        .send()?
        .error_for_status()?
        .json()
}

/// Whether a session newer than `known` has its input and device open.
fn opened(view: &WorkerView, known: &[String]) -> Result<(), String> {
    let sessions = sessions(view).map_err(|e| format!("the worker could not be asked: {e}"))?;
    let new: Vec<_> = sessions
        .iter()
        .filter(|s| !known.iter().any(|k| k == s.session.as_str()))
        .collect();
    if new.iter().any(|s| s.device.is_some()) {
        Ok(())
    } else {
        Err(format!(
            "{} new sessions on the worker, none with its input open",
            new.len()
        ))
    }
}

/// An id as PMS makes them, different for each call.
fn unique(what: &str) -> String {
    use std::{
        hash::{BuildHasher, Hasher, RandomState},
        sync::atomic::{AtomicU64, Ordering},
    };
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u64(COUNT.fetch_add(1, Ordering::Relaxed));
    hasher.write(what.as_bytes());
    let (a, b) = (hasher.finish(), RandomState::new().build_hasher().finish());
    format!(
        "{:08x}-{:04x}-4{:03x}-a{:03x}-{:012x}",
        a as u32,
        a >> 32 & 0xffff,
        a >> 48 & 0xfff,
        b & 0xfff,
        b >> 16 & 0xffff_ffff_ffff
    )
}
