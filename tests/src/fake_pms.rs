//! A Plex Media Server that keeps PROTOCOL 1, 5, 6, 7 and 10 and lists what the real one would
//! refuse or lose. It starts the transcoder as PMS does, plays a client that reads segments in
//! order through the session directory, and tells what it saw as a [`Report`].
//!
//! [`server`] answers the calls, [`job`] holds what is known of one process and judges it,
//! [`list`] reads the MPD and the CSV, [`startup`] knows which calls must come first.

pub mod job;
pub mod list;
pub mod server;
pub mod startup;

use crate::{
    argv::{Line, Packaging, Place, Shape},
    container,
    env::http_client,
    fake_pms::{
        job::{Job, Row, Track},
        server::Server,
    },
    media, wait,
};
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use std::{
    ffi::OsString,
    fmt, fs, io,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

/// What the real PMS would refuse or lose, or a client would suffer from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// Another method than PROTOCOL 6 names.
    WrongMethod,
    /// No or another `X-Plex-Token`.
    WrongToken,
    /// Unknown session, job or path.
    WrongUrl,
    /// A call that cannot be read.
    Malformed,
    /// An announced file does not exist.
    FileMissing,
    /// An announced file is empty, short, or not what it should be.
    FileNotWhole,
    /// A name's bytes or a number's times changed after they were announced.
    Changed,
    /// A number was left out, or several were announced by one call.
    NotListed,
    /// Numbers or calls in a wrong order.
    OutOfOrder,
    /// Times against PROTOCOL 7.
    IllTimed,
    /// A start-up call or a field of it is missing (PROTOCOL 6.1).
    StartupMissing,
    /// The pipelined connection ended before the process, or there was a second one.
    PipelineClosed,
    /// PMS was called before the worker had opened the input.
    BeforeProbed,
    /// Progress more often than each half second.
    ProgressTooOften,
    /// Something was written to stdout.
    Stdout,
    /// The process ended otherwise than it should.
    ExitStatus,
    /// A client waited longer than it does.
    ClientStarved,
    /// The job ended without its last manifest, or before the film did.
    Unfinished,
    /// PMS could not remove the session directory.
    Remove,
    /// A file of the session directory could not be read.
    Read,
}

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// Which rule.
    pub rule: Rule,
    /// What was seen.
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.rule, self.text)
    }
}

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

/// What was seen of one process.
#[derive(Debug, Clone, Serialize)]
pub struct JobReport {
    /// Job uuid.
    pub job: String,
    /// Number of the first segment.
    pub first_number: u32,
    /// From the start of the process to the client holding its first segment, milliseconds.
    pub ttfs_ms: Option<u64>,
    /// From the start of the process to the first list or manifest, milliseconds.
    pub first_post_ms: Option<u64>,
    /// From the start of the process to its first call, milliseconds.
    pub first_call_ms: Option<u64>,
    /// Segments read by the client, all streams.
    pub segments: u64,
    /// Bytes read by the client, init and header included.
    pub bytes: u64,
    /// Wall time of the process, milliseconds.
    pub wall_ms: u64,
    /// How it ended; `None` when PMS killed it.
    pub exit: Option<i32>,
    /// Replies with `canThrottle`.
    pub throttled: u32,
    /// Most that was announced beyond the client, media seconds.
    pub most_ahead: f64,
    /// The end of its stderr.
    pub stderr: String,
    /// The shape of its command line.
    #[serde(skip)]
    pub shape: Option<Shape>,
    /// Where the files read were kept.
    #[serde(skip)]
    pub kept: Option<PathBuf>,
    /// DASH: what was announced of each representation.
    #[serde(skip)]
    pub tracks: Vec<Track>,
    /// Segment lists: the rows announced.
    #[serde(skip)]
    pub rows: Vec<Row>,
    /// All calls, in order, as `METHOD path?query`.
    #[serde(skip)]
    pub calls: Vec<String>,
    /// Wall time of the removal of its directory.
    pub remove_ms: u64,
}

/// What was seen of a whole play.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// First process: from its start to the client holding the first segment, milliseconds.
    pub ttfs_ms: Option<u64>,
    /// Segments read, all processes and streams.
    pub segments: u64,
    /// Bytes read.
    pub bytes: u64,
    /// From the start of the first process to the end.
    pub wall_ms: u64,
    /// Faults; empty is a pass.
    pub violations: Vec<Violation>,
    /// Per process.
    pub jobs: Vec<JobReport>,
}

impl Report {
    /// Panics with all faults, calls and logs when there is a fault.
    #[track_caller]
    pub fn assert_clean(&self) {
        assert!(self.violations.is_empty(), "{}", self.explain());
    }

    /// All faults, calls and logs as text.
    pub fn explain(&self) -> String {
        let mut text = format!("{} violations:\n", self.violations.len());
        for violation in self.violations.iter().take(40) {
            text.push_str(&format!("  {violation}\n"));
        }
        for job in &self.jobs {
            text.push_str(&format!(
                "job {}: exit {:?}, {} segments, first call {:?} ms, first post {:?} ms\n",
                job.job, job.exit, job.segments, job.first_call_ms, job.first_post_ms
            ));
            for call in job.calls.iter().take(60) {
                text.push_str(&format!("  {call}\n"));
            }
            text.push_str(&format!("stderr:\n{}\n", job.stderr));
        }
        text
    }

    /// The rules broken.
    pub fn rules(&self) -> Vec<Rule> {
        let mut rules: Vec<Rule> = self.violations.iter().map(|v| v.rule).collect();
        rules.dedup();
        rules
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
                // PMS has lost interest: what comes later is not judged.
                job.dismiss();
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
            most_ahead: seen.most_ahead,
            stderr,
            shape: Some(shape),
            kept,
            tracks: seen.tracks,
            rows: seen.rows,
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

/// A running transcoder.
struct Child {
    pid: Pid,
    waiter: Option<thread::JoinHandle<Option<ExitStatus>>>,
    job: Arc<Job>,
    output: [Option<thread::JoinHandle<Vec<u8>>>; 2],
    texts: [Vec<u8>; 2],
}

impl Child {
    fn spawn(
        program: &Path,
        argv: &[OsString],
        line: &Line,
        play: &Play<'_>,
        dir: &Path,
        job: &Arc<Job>,
    ) -> Result<Child, SetupError> {
        let mut command = Command::new(program);
        command
            .args(argv)
            .current_dir(dir)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A session of its own, so that nothing of ours reaches it by the terminal.
            .process_group(0);
        for (name, value) in std::env::vars_os() {
            let text = name.to_string_lossy();
            let inherited = ["PATH", "HOME", "TMPDIR", "LANG", "TZ"].contains(&text.as_ref())
                || ["PLEXBEAM_", "FAKE_ORIGINAL_", "RUST_", "LLVM_PROFILE_"]
                    .iter()
                    .any(|p| text.starts_with(p));
            if inherited {
                command.env(name, value);
            }
        }
        for (name, value) in pms_environment(line) {
            command.env(name, value);
        }
        command.envs(play.env.iter().map(|(n, v)| (n, v)));
        let mut child = setup(
            command.spawn(),
            &format!("start {}", play.cartridge.display()),
        )?;
        let pid = Pid::from_child(&child);
        let stdout = child.stdout.take();
        let stderr = child.stderr.take();
        let output = if play.close_pipes {
            job.close_when_announced(Box::new((stdout, stderr)));
            [None, None]
        } else {
            [reader(stdout), reader(stderr)]
        };
        let waiting = Arc::clone(job);
        let waiter = thread::spawn(move || {
            let status = child.wait().ok();
            waiting.process_ended();
            status
        });
        Ok(Child {
            pid,
            waiter: Some(waiter),
            job: Arc::clone(job),
            output,
            texts: [Vec::new(), Vec::new()],
        })
    }

    fn running(&self) -> bool {
        !self.job.has_ended()
    }

    /// Sends a signal; SIGTERM is followed by SIGKILL when nothing happens for a while.
    fn end(&mut self, signal: Signal) {
        self.job.killed_by_pms();
        if self.running() {
            let _ = kill_process(self.pid, signal);
        }
        if signal == Signal::TERM
            && wait::poll(Duration::from_secs(3), || {
                self.job.has_ended().then_some(())
            })
            .is_none()
        {
            self.job.fault(
                Rule::ExitStatus,
                "still running 3 s after SIGTERM".to_owned(),
            );
            let _ = kill_process(self.pid, Signal::KILL);
        }
        self.join();
    }

    /// Waits for the end of a job whose film was read; kills it when it does not end.
    fn wait_end(&mut self, job: &Job, patience: Duration) -> Option<ExitStatus> {
        if wait::poll(patience, || job.has_ended().then_some(())).is_none() {
            job.fault(
                Rule::ExitStatus,
                format!("still running {patience:?} after the last segment"),
            );
            self.end(Signal::KILL);
            return None;
        }
        self.join()
    }

    fn join(&mut self) -> Option<ExitStatus> {
        let status = self.waiter.take().and_then(|w| w.join().ok()).flatten();
        for (text, output) in self.texts.iter_mut().zip(&mut self.output) {
            if let Some(bytes) = output.take().and_then(|o| o.join().ok()) {
                *text = bytes;
            }
        }
        status
    }

    fn stdout_bytes(&self) -> usize {
        self.texts[0].len()
    }

    fn stderr(&self) -> String {
        let text = &self.texts[1];
        let from = text.len().saturating_sub(8_000);
        String::from_utf8_lossy(&text[from..]).into_owned()
    }
}

fn reader<R: io::Read + Send + 'static>(pipe: Option<R>) -> Option<thread::JoinHandle<Vec<u8>>> {
    let mut pipe = pipe?;
    Some(thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        bytes
    }))
}

/// PROTOCOL 1.3.
fn pms_environment(line: &Line) -> Vec<(String, String)> {
    let support = "/var/lib/plexmediaserver/Library/Application Support";
    let mut env: Vec<(String, String)> = [
        ("LD_LIBRARY_PATH", "/usr/lib/plexmediaserver/lib".to_owned()),
        (
            "LIBVA_DRIVERS_PATH",
            format!("{support}/Plex Media Server/Cache/va-dri-linux-x86_64"),
        ),
        (
            "PLEX_MEDIA_SERVER_APPLICATION_SUPPORT_DIR",
            support.to_owned(),
        ),
        (
            "PLEX_MEDIA_SERVER_HOME",
            "/usr/lib/plexmediaserver".to_owned(),
        ),
        ("PLEX_MEDIA_SERVER_MAX_PLUGIN_PROCS", "6".to_owned()),
        ("PLEX_ARCH", "amd64".to_owned()),
        (
            "FFMPEG_EXTERNAL_LIBS",
            format!(
                "{}/Plex\\ Media\\ Server/Codecs/a336ba9-linux-x86_64/",
                support.replace(' ', "\\ ")
            ),
        ),
    ]
    .into_iter()
    .map(|(n, v)| (n.to_owned(), v))
    .collect();
    if line.argv.iter().any(|a| a.ends_with("_eae")) {
        let root = "/tmp/pms-54543b80-ca33-4b13-8182-cab6ed1ee33d/EasyAudioEncoder";
        env.push(("EAE_ROOT".to_owned(), root.to_owned()));
    }
    env.extend(line.env.iter().map(|(n, v)| (n.clone(), v.clone())));
    env.push(("X_PLEX_TOKEN".to_owned(), TOKEN.to_owned()));
    env
}

/// A player behind PMS.
struct Client<'a> {
    run: &'a Run<'a>,
    job: &'a Job,
    shape: &'a Shape,
    dir: &'a Path,
    kept: Option<&'a Path>,
    started: Instant,
    segments: u64,
    bytes: u64,
    first: Option<Duration>,
}

impl Client<'_> {
    /// Reads segments in order until the goal is reached or nothing more comes.
    fn watch(&mut self, goal: Goal, child: &mut Child) {
        let after = match goal {
            Goal::Film => u32::MAX,
            Goal::Kill(after, _) => after,
        };
        let mut number = self.shape.first;
        while number - self.shape.first < after {
            match self.job.wait_for(number, self.run.play.patience) {
                job::Next::Ready(end) => {
                    self.pace(end - self.shape.seconds);
                    if !self.read_number(number) {
                        return;
                    }
                    self.job.client_is_at(end);
                    number += 1;
                }
                job::Next::Ended => return,
                job::Next::Starved => {
                    if child.running() {
                        self.job.fault(
                            Rule::ClientStarved,
                            format!("no segment {number} within {:?}", self.run.play.patience),
                        );
                        child.end(Signal::KILL);
                    }
                    return;
                }
            }
        }
    }

    /// Holds the client back to its pace; `begin` is the media time of what comes next.
    fn pace(&self, begin: f64) {
        let Pace::Times(times) = self.run.play.pace else {
            return;
        };
        let base = self.shape.seek.unwrap_or(0.0);
        let due = Duration::from_secs_f64(((begin - base) / times).max(0.0));
        // A player's clock, not a wait for anything.
        while let Some(left) = due.checked_sub(self.started.elapsed()) {
            if left.is_zero() || self.job.has_ended() {
                return;
            }
            thread::park_timeout(left.min(Duration::from_millis(50)));
        }
    }

    fn read_number(&mut self, number: u32) -> bool {
        let mut names = Vec::new();
        match &self.shape.packaging {
            Packaging::Dash { init, media, .. } => {
                for id in self.job.track_ids() {
                    if number == self.shape.first {
                        names.push((Shape::dash_name(init, &id, None), false));
                    }
                    names.push((Shape::dash_name(media, &id, Some(number)), true));
                }
            }
            Packaging::Segment { media, header, .. } => {
                if let (Some(header), true) = (header, number == self.shape.first) {
                    names.push((header.clone(), false));
                }
                names.push((Shape::segment_name(media, number), true));
            }
        }
        for (name, is_media) in names {
            let Some(bytes) = self.job.read_file(self.dir, &name) else {
                return false;
            };
            self.bytes += bytes.len() as u64;
            self.segments += u64::from(is_media);
            if let Some(kept) = self.kept
                && let Err(error) = fs::write(kept.join(&name), &bytes)
            {
                self.job
                    .fault(Rule::Read, format!("keep a copy of {name}: {error}"));
            }
        }
        self.first.get_or_insert_with(|| self.started.elapsed());
        if let Some(live) = self.run.play.live {
            live(Live {
                segments: self.run.before.0 + self.segments,
                bytes: self.run.before.1 + self.bytes,
                wall: self.run.began.elapsed(),
                media: f64::from(number + 1 - self.shape.first) * self.shape.seconds,
                first: self.first,
            });
        }
        true
    }
}

/// Checks the look of one announced file by what the job's packaging says.
pub(crate) fn check_segment(shape: &Shape, bytes: &[u8]) -> Result<(), String> {
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
