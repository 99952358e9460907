//! One playback: place the job, bind the directory, follow the worker, tell PMS, leave (DESIGN 6).
//!
//! Until the first number is announced every trouble ends in the original transcoder, and PMS hears
//! nothing before the worker has opened input and device (P1). The worker's session outlives this
//! process where the mount holds it: PMS goes on reading, and the mount ends it with the directory.

mod announce;
mod downloads;
mod hold;
mod list;
pub(crate) mod mount;
mod ready;

use crate::client::{self, Follow, Heard, Session, Worker};
use crate::config::Config;
use crate::dispatch;
use crate::job::Plan;
use crate::log::Log;
use crate::plex::Reporter;
use crate::stop::Stop;
use announce::Announcer;
use downloads::Downloads;
use hold::Hold;
use plexbeam_api::{
    Accepted, Event, Id,
    event::{LogLine, Probed, StateChange},
    job::Location,
    media,
    mount::{Binding, MountInfo},
    session::SessionState,
};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

/// After the job is complete: how long PMS may take for the lists that are still unsent.
const DRAIN: Duration = Duration::from_secs(20);
/// The same for progress and log.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// The mount answers a binding at once; one that hangs is not waited for.
const BIND: Duration = Duration::from_secs(2);
/// How long a job is still taken back after a signal: PMS expects the end within a second.
const HURRY: Duration = Duration::from_millis(700);
/// A media URL lives this long beyond the hour; a paused film goes on the next evening.
const MEDIA_URL_HOURS: u64 = 24;
/// A job that is queued so long gets the place of its predecessors; PMS has killed their owners by then.
const PATIENCE: Duration = Duration::from_millis(300);
/// After a job was cancelled by somebody: a process that PMS has replaced is killed by it, and its
/// exit code would be taken for a crash.
const REPLACED: Duration = Duration::from_secs(10);
/// Log lines kept while PMS may not hear them yet.
const EARLY_LINES: usize = 64;

/// How a playback ended.
#[derive(Debug)]
pub enum Outcome {
    /// Leave with this exit code (PROTOCOL 1.1).
    Exit(u8),
    /// Nothing was announced: the original is to run, for this reason.
    Original(String),
}

/// Everything a playback needs.
pub struct Playback {
    /// What to do.
    pub plan: Plan,
    /// Settings.
    pub config: Config,
    /// The session directory, absolute.
    pub cwd: PathBuf,
    /// `X_PLEX_TOKEN`.
    pub token: Option<OsString>,
    /// Logs.
    pub log: Log,
    /// When the process began.
    pub started: Instant,
    /// Becomes true before PMS first hears of a segment: the original may not take over any more.
    pub announced: Arc<AtomicBool>,
    /// Signals.
    pub stop: Stop,
}

/// What remains to be cleaned up, whenever the playback ends.
#[derive(Default)]
struct Traces {
    /// A worker that was asked to take the job.
    asked: Option<(Worker, Id)>,
    /// The session it made of it.
    session: Option<Session>,
    /// PMS may know of a segment.
    announced: Arc<AtomicBool>,
    /// Files that were downloaded.
    downloads: Downloads,
    /// The directory, once the mount was asked to hold the session's files in it.
    asked_mount: Option<PathBuf>,
    /// The mount holds them.
    bound: bool,
}

/// Runs a playback to its end.
pub async fn play(playback: Playback) -> Outcome {
    let (log, local) = (playback.log.clone(), playback.config.fallback_to_local);
    let stop = playback.stop.clone();
    log.open_session(&playback.plan.spec);
    let mut traces = Traces {
        announced: playback.announced.clone(),
        downloads: Downloads::new(playback.announced.clone()),
        ..Traces::default()
    };
    let result = tokio::select! {
        biased;
        name = stop.wait() => {
            log.event(format_args!("{name}: cancelled"));
            traces.cancel().await;
            return Outcome::Exit(255);
        }
        result = run_quietly(playback, &mut traces) => result,
    };
    match result {
        Ok(()) => {
            log.event(format_args!("complete"));
            if !traces.bound {
                traces.end().await;
            }
            Outcome::Exit(0)
        }
        Err(trouble) if traces.announced.load(Ordering::Relaxed) => {
            log.event(format_args!("failed after the first segment: {trouble}"));
            traces.cancel().await;
            Outcome::Exit(1)
        }
        Err(trouble) => {
            log.event(format_args!("not by a worker: {trouble}"));
            tokio::select! {
                () = traces.take_back(&log) => {}
                () = async { stop.wait().await; sleep(HURRY).await } => {}
            }
            // PMS has no use any more for what it asked to stop, here or elsewhere.
            if let Some(name) = stop.asked() {
                log.event(format_args!("{name}: cancelled"));
                return Outcome::Exit(255);
            }
            match local {
                true => Outcome::Original(trouble.to_string()),
                false => Outcome::Exit(1),
            }
        }
    }
}

impl Traces {
    /// Leaves the directory and the worker as they were before; bounded.
    async fn take_back(&self, log: &Log) {
        self.unbind(log).await;
        self.end().await;
        self.remove_downloads().await;
    }

    /// Stops the job; what was published stays for the mount.
    async fn cancel(&self) {
        if let Some((worker, job)) = &self.asked {
            let _ = worker.cancel(job).await;
        }
    }

    /// Ends the session and frees its files.
    async fn end(&self) {
        match &self.session {
            Some(session) => {
                let _ = session.end().await;
            }
            None => self.cancel().await,
        }
    }

    /// Held names would be in the way of the original, which writes the same ones.
    async fn unbind(&self, log: &Log) {
        let Some(dir) = self.asked_mount.clone() else {
            return;
        };
        let unbinding = tokio::task::spawn_blocking(move || mount::unbind(&dir));
        match tokio::time::timeout(BIND, unbinding).await {
            // No data: the mount had refused the binding.
            Ok(Ok(Ok(()) | Err(Errno::NODATA))) => {}
            Ok(Ok(Err(errno))) => log.event(format_args!("the mount does not let go: {errno}")),
            Ok(Err(_)) | Err(_) => log.event(format_args!("the mount does not answer")),
        }
    }

    async fn remove_downloads(&self) {
        let downloads = self.downloads.clone();
        let removing = tokio::task::spawn_blocking(move || downloads.take_back());
        let _ = tokio::time::timeout(BIND, removing).await;
    }
}

/// Why a playback did not come to its good end.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    NoWorker(#[from] dispatch::NoWorker),
    #[error("the mount does not answer")]
    SilentMount,
    #[error("the worker was lost: {0}")]
    Lost(String),
    #[error("the job failed: {0}")]
    Failed(String),
    #[error("the job was cancelled: {0}")]
    Cancelled(String),
    #[error("the worker had no place in time")]
    Queued,
    #[error("the worker did not open the input in time")]
    NotProbed,
    #[error("no segment came in time")]
    NoSegment,
    #[error("a segment came before the input was open")]
    OutOfOrder,
    #[error(transparent)]
    Announce(#[from] announce::AnnounceError),
}

/// [`run`], and where the job was cancelled under a playing client, a wait for PMS's signal.
async fn run_quietly(playback: Playback, traces: &mut Traces) -> Result<(), Trouble> {
    let result = run(playback, traces).await;
    if matches!(result, Err(Trouble::Cancelled(_))) && traces.announced.load(Ordering::Relaxed) {
        sleep(REPLACED).await;
    }
    result
}

async fn run(playback: Playback, traces: &mut Traces) -> Result<(), Trouble> {
    let Playback {
        mut plan,
        config,
        cwd,
        token,
        log,
        started,
        announced,
        stop: _,
    } = playback;
    let info = mount_info(&cwd, started + config.limits.find).await?;
    add_media_urls(&mut plan, info.as_ref(), &config);
    let sources = dispatch::dispatchers(&cwd, &config);
    let job = plan.spec.job_id.clone();
    let asked = &mut traces.asked;
    let placed = dispatch::place(sources, &config, &plan.spec, started, |worker| {
        *asked = Some((worker.clone(), job.clone()));
    });
    let (session, accepted) = placed.await?;
    traces.session = Some(session.clone());
    log.moment("accepted_ms");
    log.fact("worker", &accepted.worker);
    log.event(format_args!(
        "accepted by {} at {} after {} ms",
        accepted.worker,
        session.worker().base(),
        started.elapsed().as_millis()
    ));
    if info.is_some() {
        traces.asked_mount = Some(cwd.clone());
        traces.bound = bind(&cwd, &plan, &accepted, &log).await?;
    }
    let hold = match traces.bound {
        true => Hold::Mount(cwd),
        false => Hold::download(cwd, &session, traces.downloads.clone()),
    };
    let mut course = Course {
        follow: client::follow(&session, announced.clone()),
        deadline: Instant::now() + config.limits.probe,
        place: Instant::now() + config.limits.queue,
        first_segment: config.limits.first_segment,
        early: VecDeque::new(),
        plan,
        session,
        token,
        log,
        announced,
    };
    course.run(hold).await
}

/// Asks the mount on a thread, because a daemon that hangs would block this one. Then nothing can be
/// downloaded into its directories either.
async fn mount_info(
    cwd: &std::path::Path,
    deadline: Instant,
) -> Result<Option<MountInfo>, Trouble> {
    let dir = cwd.to_owned();
    let asking = tokio::task::spawn_blocking(move || mount::info(&dir));
    match timeout_at(deadline, asking).await {
        Ok(Ok(info)) => Ok(info),
        Ok(Err(_)) | Err(_) => Err(Trouble::SilentMount),
    }
}

/// The title may also be read from the mount's media route, by a URL for this job only.
fn add_media_urls(plan: &mut Plan, info: Option<&MountInfo>, config: &Config) {
    let Some(base) = info.and_then(|info| info.media.as_deref()) else {
        return;
    };
    let secret = config.api_key.as_ref().map(|key| key.expose());
    let Some(secret) = secret.or(info.and_then(|info| info.media_secret.as_deref())) else {
        return;
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    // On the hour, so that the same start gives the same job.
    let hours = now.map_or(0, |d| d.as_secs() / 3600) + 1 + MEDIA_URL_HOURS;
    for (index, path) in &plan.media {
        let path = path.as_os_str().as_bytes();
        let job = &plan.spec.job_id;
        let url = media::sign(base, secret.as_bytes(), path, job, hours * 3600);
        if let Some(input) = plan.spec.inputs.get_mut(*index) {
            input.locations.push(Location::Url { url });
        }
    }
}

/// Ties the directory to the session. Where the mount refuses (the worker is not one of its own),
/// the files are downloaded instead.
async fn bind(
    cwd: &std::path::Path,
    plan: &Plan,
    accepted: &Accepted,
    log: &Log,
) -> Result<bool, Trouble> {
    let binding = Binding {
        worker: accepted.worker.clone(),
        session: accepted.session.clone(),
        token: accepted.token.clone(),
        patterns: plan.patterns.clone(),
        epoch: 1,
    };
    let dir = cwd.to_owned();
    let binding = tokio::task::spawn_blocking(move || mount::bind(&dir, &binding));
    let bound = tokio::time::timeout(BIND, binding).await;
    match bound {
        Ok(Ok(Ok(()))) => Ok(true),
        Ok(Ok(Err(errno))) => {
            log.event(format_args!(
                "the mount does not bind: {errno}; downloading"
            ));
            Ok(false)
        }
        Ok(Err(_)) | Err(_) => Err(Trouble::SilentMount),
    }
}

/// A placed job on its course.
struct Course {
    follow: Follow,
    /// Of the step that is waited for, until the first announcement.
    deadline: Instant,
    /// Until when the worker must have a place.
    place: Instant,
    first_segment: Duration,
    early: VecDeque<LogLine>,
    plan: Plan,
    session: Session,
    token: Option<OsString>,
    log: Log,
    announced: Arc<AtomicBool>,
}

impl Course {
    async fn run(&mut self, hold: Hold) -> Result<(), Trouble> {
        let probed = self.until_probed().await?;
        self.log.moment("probed_ms");
        self.log.fact("device", &probed.device);
        self.log
            .event(format_args!("input open, encoding by {}", probed.device));
        let reporter = Reporter::start(
            &self.plan.pms,
            self.token.as_deref(),
            &probed,
            self.plan.hardware_decode,
        );
        self.early.drain(..).for_each(|line| reporter.log(line));
        let relay = tokio::spawn(relay(
            self.session.clone(),
            reporter.throttle(),
            self.log.clone(),
        ));
        let announcer = Announcer::start(
            &self.plan,
            &hold,
            self.token.as_deref(),
            reporter.begun(),
            &self.announced,
            &self.log,
        );
        self.deadline = Instant::now() + self.first_segment;
        let result = self.until_complete(&reporter, announcer).await;
        relay.abort();
        if result.is_ok() {
            reporter.finish(LAST_WORDS).await;
        }
        result
    }

    async fn until_probed(&mut self) -> Result<Probed, Trouble> {
        // Where no worker says otherwise a job waits for its place.
        let mut queued = true;
        let mut supersede = Some(Instant::now() + PATIENCE);
        loop {
            let impatient = supersede.filter(|_| queued);
            let heard = tokio::select! {
                heard = self.follow.heard.recv() => heard,
                () = sleep_until(self.deadline) => return Err(Trouble::NotProbed),
                () = sleep_until(self.place), if queued => return Err(Trouble::Queued),
                () = sleep_until(impatient.unwrap_or(self.deadline)), if impatient.is_some() => {
                    supersede = None;
                    self.supersede();
                    continue;
                }
            };
            match event(heard)? {
                Event::Probed(probed) => return Ok(probed),
                Event::Segment(_) => return Err(Trouble::OutOfOrder),
                Event::Progress(_) => {}
                Event::Log(line) => {
                    if self.early.len() < EARLY_LINES {
                        self.early.push_back(line);
                    }
                }
                Event::State(change) => {
                    queued = change.state == SessionState::Queued;
                    ended(&change)?;
                }
            }
        }
    }

    /// Frees the place of older jobs of the same PMS session, beside everything else.
    fn supersede(&self) {
        let Some(prefix) = self.plan.session_prefix.clone() else {
            return;
        };
        let (session, log) = (self.session.clone(), self.log.clone());
        tokio::spawn(async move {
            match session.worker().supersede(&prefix, session.id()).await {
                Ok(0) => {}
                Ok(count) => log.event(format_args!(
                    "{count} older job(s) of this session cancelled"
                )),
                Err(error) => log.event(format_args!("older jobs: {error}")),
            }
        });
    }

    async fn until_complete(
        &mut self,
        reporter: &Reporter,
        mut announcer: Announcer,
    ) -> Result<(), Trouble> {
        loop {
            let waiting = !self.announced.load(Ordering::Relaxed);
            tokio::select! {
                heard = self.follow.heard.recv() => match event(heard)? {
                    Event::Probed(_) => {}
                    Event::Segment(segment) => announcer.published(segment),
                    Event::Progress(progress) => reporter.progress(progress),
                    Event::Log(line) => {
                        self.log.event(format_args!("{:?}: {}", line.level, line.message));
                        reporter.log(line);
                    }
                    Event::State(change) => {
                        self.log.event(format_args!("state {:?}", change.state));
                        if ended(&change)? {
                            // The lease is kept until the last file is here.
                            announcer.finish(DRAIN).await?;
                            return Ok(());
                        }
                    }
                },
                error = announcer.failed() => return Err(error.into()),
                () = sleep_until(self.deadline), if waiting => {
                    if !self.announced.load(Ordering::Relaxed) {
                        return Err(Trouble::NoSegment);
                    }
                }
            }
        }
    }
}

fn event(heard: Option<Heard>) -> Result<Event, Trouble> {
    match heard {
        Some(Heard::Event(event)) => Ok(*event),
        Some(Heard::Lost(why)) => Err(Trouble::Lost(why)),
        None => Err(Trouble::Lost("its event stream ended".into())),
    }
}

/// True when all is done; an error when it never will be.
fn ended(change: &StateChange) -> Result<bool, Trouble> {
    let why = || {
        change
            .problem
            .as_ref()
            .map_or_else(|| "no reason given".to_owned(), |p| p.detail.clone())
    };
    match change.state {
        SessionState::Queued
        | SessionState::Running
        | SessionState::Paused
        | SessionState::Draining => Ok(false),
        SessionState::Completed => Ok(true),
        SessionState::Failed => Err(Trouble::Failed(why())),
        SessionState::Cancelled => Err(Trouble::Cancelled(why())),
    }
}

/// Passes PMS's throttle on to the worker, until aborted.
async fn relay(session: Session, mut throttle: watch::Receiver<bool>, log: Log) {
    let mut connection = session.connection();
    while throttle.changed().await.is_ok() {
        let on = *throttle.borrow_and_update();
        log.event(format_args!(
            "PMS asks for {}",
            if on { "a slower pace" } else { "full speed" }
        ));
        if let Err(error) = session.throttle(&mut connection, on).await {
            log.event(format_args!("the throttle was not passed on: {error}"));
            // Once more with the newest value, unless PMS has changed its mind by then.
            sleep(Duration::from_secs(1)).await;
            throttle.mark_changed();
        }
    }
}
