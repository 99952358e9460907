//! One process per job: the same binary, so that a driver abort or a hostile file costs one job.
//!
//! From outside: [`Spawner::take`] gives a [`JobProcess`], usually the parked spare whose libraries
//! are loaded already; messages go over a socket pair that is the child's standard input; its
//! standard error is kept, the last lines only, for the reason of a failure. From inside:
//! [`main`] of `plexbeam-worker job`.
//!
//! A child never outlives its worker: it asks the kernel to be killed with the thread that started
//! it (one thread of the [`Spawner`] that lives as long as the worker, since the kernel means the
//! thread, not the process), and it ends when its socket closes.

pub mod inside;
pub mod message;

use crate::{config::ChildConfig, error::StartError};
use message::{FromChild, MAX_FROM_CHILD, ToChild};
use parking_lot::Mutex;
use plexbeam_api::{Kind, Problem, segment::SegmentKind};
use rustix::process::{Pid, Signal};
use std::{
    collections::VecDeque,
    io,
    os::{
        fd::AsFd,
        unix::{net::UnixStream as StdUnixStream, process::ExitStatusExt},
    },
    process::{ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    process::{Child, ChildStderr, Command},
    sync::{mpsc, oneshot, watch},
};

/// Lines of standard error that are kept.
const TAIL_LINES: usize = 20;
/// Bytes of one such line that are kept.
const TAIL_BYTES: usize = 400;
/// Longest that the writing of one message to a child may take.
const SEND_LIMIT: Duration = Duration::from_secs(10);
/// Longest that a child may take to load.
const LOAD_LIMIT: Duration = Duration::from_secs(30);

type Tail = Arc<Mutex<VecDeque<String>>>;

/// A running child. Dropping it kills the process.
#[derive(Debug)]
pub struct JobProcess {
    child: Child,
    pid: u32,
    parked: bool,
    /// Dropped at the job's first media segment, or with the process: its start is over.
    starting: Option<oneshot::Sender<()>>,
    writer: OwnedWriteHalf,
    messages: mpsc::Receiver<FromChild>,
    tail: Tail,
    stderr_done: Option<tokio::task::JoinHandle<()>>,
}

impl JobProcess {
    /// Process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// True when it waited as the spare before it was taken.
    pub fn was_parked(&self) -> bool {
        self.parked
    }

    /// Sends a message, in bounded time.
    pub async fn send(&mut self, message: &ToChild) -> io::Result<()> {
        let frame = message::frame(message)?;
        tokio::time::timeout(SEND_LIMIT, self.writer.write_all(&frame))
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }

    /// The next message; `None` once the child closed its end. Cancel safe.
    pub async fn recv(&mut self) -> Option<FromChild> {
        let message = self.messages.recv().await;
        if let Some(FromChild::Published(segment)) = &message
            && segment.kind == SegmentKind::Media
        {
            self.starting = None;
        }
        message
    }

    /// True while the process has not ended.
    fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for the end of the process; after `grace` it is killed.
    pub async fn reap(&mut self, grace: Duration) -> io::Result<ExitStatus> {
        match tokio::time::timeout(grace, self.child.wait()).await {
            Ok(status) => status,
            Err(_) => {
                self.child.start_kill()?;
                self.child.wait().await
            }
        }
    }

    /// The problem of a child that ended without a word: how it ended and what it last wrote.
    pub async fn obituary(&mut self, status: io::Result<ExitStatus>) -> Problem {
        if let Some(task) = self.stderr_done.take() {
            // A grandchild could hold the pipe open; the lines that came are good enough.
            let _ = tokio::time::timeout(Duration::from_secs(1), task).await;
        }
        let how = match status {
            Ok(status) => match (status.code(), status.signal()) {
                (_, Some(signal)) => format!("was killed by signal {signal}"),
                (Some(code), None) => format!("ended with code {code}"),
                (None, None) => "ended".to_owned(),
            },
            Err(error) => format!("could not be waited for ({error})"),
        };
        let tail = self.tail.lock();
        let mut detail = format!("the job process {how} before the job was done");
        if !tail.is_empty() {
            detail.push_str("; its last words: ");
            let lines: Vec<&str> = tail.iter().map(String::as_str).collect();
            detail.push_str(&lines.join(" | "));
        }
        Problem::new(Kind::Internal, detail)
    }
}

type SpawnRequest = oneshot::Sender<io::Result<JobProcess>>;

/// Starts children from one long-lived thread and keeps one parked.
#[derive(Debug)]
pub struct Spawner {
    requests: std::sync::mpsc::Sender<SpawnRequest>,
    spare: tokio::sync::Mutex<Option<JobProcess>>,
    parked: watch::Sender<bool>,
    warm: AtomicBool,
    /// See [`ChildConfig::spare_patience`].
    patience: Duration,
}

impl Spawner {
    /// Starts the thread. Call inside a tokio runtime.
    pub fn start(config: ChildConfig) -> Result<Arc<Self>, StartError> {
        let runtime = tokio::runtime::Handle::current();
        let (requests, queue) = std::sync::mpsc::channel::<SpawnRequest>();
        let patience = config.spare_patience;
        std::thread::Builder::new()
            .name("spawner".into())
            .spawn(move || {
                let _inside = runtime.enter();
                while let Ok(reply) = queue.recv() {
                    let _ = reply.send(spawn(&config));
                }
            })
            .map_err(|source| StartError::System {
                what: "starting the spawner thread",
                source,
            })?;
        Ok(Arc::new(Spawner {
            requests,
            spare: tokio::sync::Mutex::new(None),
            parked: watch::channel(false).0,
            warm: AtomicBool::new(false),
            patience,
        }))
    }

    /// True while a spare waits.
    pub fn is_parked(&self) -> bool {
        *self.parked.borrow()
    }

    /// True once a spare was loaded: children can be started here.
    pub fn is_warm(&self) -> bool {
        self.warm.load(Ordering::Relaxed)
    }

    /// A child for a job: the spare when there is one. Another spare is parked when the start of this
    /// job no longer needs the processor: at its first media segment, at its end, or after
    /// [`ChildConfig::spare_patience`].
    pub async fn take(self: &Arc<Self>) -> Result<JobProcess, Problem> {
        let spare = self.spare.lock().await.take();
        self.parked.send_replace(false);
        let again = self.clone();
        let (starting, started) = oneshot::channel::<()>();
        tokio::spawn(async move {
            // Nothing is ever sent: the other end is dropped.
            let _ = tokio::time::timeout(again.patience, started).await;
            if let Err(problem) = again.park().await {
                tracing::warn!(%problem, "no spare job process");
            }
        });
        let alive = spare.and_then(|mut spare| spare.is_alive().then_some(spare));
        let mut process = match alive {
            Some(spare) => spare,
            None => self.spawn().await?,
        };
        process.starting = Some(starting);
        Ok(process)
    }

    /// Makes sure that a loaded spare waits.
    pub async fn park(&self) -> Result<(), Problem> {
        let mut spare = self.spare.lock().await;
        if let Some(process) = spare.as_mut()
            && process.is_alive()
        {
            self.parked.send_replace(true);
            return Ok(());
        }
        let mut process = self.spawn().await?;
        match tokio::time::timeout(LOAD_LIMIT, process.recv()).await {
            Ok(Some(FromChild::Ready)) => {}
            Ok(_) => {
                let status = process.reap(Duration::from_secs(1)).await;
                return Err(process.obituary(status).await);
            }
            Err(_) => {
                return Err(Problem::new(
                    Kind::Deadline,
                    "a job process did not load in time",
                ));
            }
        }
        process.parked = true;
        self.warm.store(true, Ordering::Relaxed);
        *spare = Some(process);
        self.parked.send_replace(true);
        Ok(())
    }

    /// Ends the spare.
    pub async fn unpark(&self) {
        let spare = self.spare.lock().await.take();
        self.parked.send_replace(false);
        if let Some(mut process) = spare {
            let _ = process.reap(Duration::ZERO).await;
        }
    }

    async fn spawn(&self) -> Result<JobProcess, Problem> {
        let (reply, answer) = oneshot::channel();
        let dead = || Problem::new(Kind::Internal, "the spawner thread is gone");
        self.requests.send(reply).map_err(|_| dead())?;
        answer.await.map_err(|_| dead())?.map_err(|error| {
            Problem::new(
                Kind::Internal,
                format!("a job process could not be started: {error}"),
            )
        })
    }
}

/// Runs on the spawner thread only: the child's death signal follows the thread that forks.
fn spawn(config: &ChildConfig) -> io::Result<JobProcess> {
    let (ours, theirs) = StdUnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let mut command = Command::new(&config.program);
    command
        .args(&config.args)
        .arg("--parent")
        .arg(std::process::id().to_string())
        .envs(config.env.iter().map(|(name, value)| (name, value)))
        .env_remove("PLEXBEAM_API_KEY")
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        // Its own group: Ctrl-C at the terminal reaches the worker alone, which then drains.
        .process_group(0)
        .kill_on_drop(true);
    command
        .arg("--stall-ms")
        .arg(config.stall.as_millis().to_string());
    if let Some(bytes) = config.memory {
        command.arg("--memory").arg(bytes.to_string());
    }
    let mut child = command.spawn()?;
    let pid = child.id().unwrap_or_default();
    let tail = Tail::default();
    let stderr_done = child
        .stderr
        .take()
        .map(|pipe| tokio::spawn(keep_tail(pipe, tail.clone(), pid)));
    let (reader, writer) = UnixStream::from_std(ours)?.into_split();
    let (forward, messages) = mpsc::channel(64);
    tokio::spawn(read_messages(reader, forward, pid));
    Ok(JobProcess {
        child,
        pid,
        parked: false,
        starting: None,
        writer,
        messages,
        tail,
        stderr_done,
    })
}

/// Forwards whole messages, so that the receiver may give up waiting without losing bytes. The
/// bounded queue passes a slow worker's back pressure on to the child.
async fn read_messages(mut from: OwnedReadHalf, to: mpsc::Sender<FromChild>, pid: u32) {
    loop {
        let mut prefix = [0; 4];
        if from.read_exact(&mut prefix).await.is_err() {
            return;
        }
        let message = async {
            let mut body = vec![0; message::length(prefix, MAX_FROM_CHILD)?];
            from.read_exact(&mut body).await?;
            message::parse(&body)
        };
        match message.await {
            Ok(message) => {
                if to.send(message).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(pid, %error, "a job process speaks nonsense");
                return;
            }
        }
    }
}

async fn keep_tail(pipe: ChildStderr, tail: Tail, pid: u32) {
    let mut reader = BufReader::new(pipe);
    let mut line = Vec::new();
    loop {
        line.clear();
        // Bounded, so that a line without an end cannot fill the memory.
        match (&mut reader)
            .take(16 << 10)
            .read_until(b'\n', &mut line)
            .await
        {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let text = clip(
            redact(String::from_utf8_lossy(&line).trim_end()),
            TAIL_BYTES,
        );
        if text.is_empty() {
            continue;
        }
        tracing::debug!(pid, "{text}");
        let mut tail = tail.lock();
        if tail.len() == TAIL_LINES {
            tail.pop_front();
        }
        tail.push_back(text);
    }
}

/// A text fit for logs: without the query of any URL, where signatures and tokens are.
pub fn redact(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for (i, word) in text.split(' ').enumerate() {
        if i > 0 {
            safe.push(' ');
        }
        let query = word
            .find("://")
            .and_then(|at| Some(at + word[at..].find('?')?));
        match query {
            Some(query) => {
                safe.push_str(&word[..query]);
                safe.push_str("?...");
            }
            None => safe.push_str(word),
        }
    }
    safe
}

/// At most `max` bytes of a text, whole characters.
pub fn clip(mut text: String, max: usize) -> String {
    if text.len() > max {
        let mut end = max;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push_str("...");
    }
    text
}

/// What `plexbeam-worker job` was told on its command line.
#[derive(Debug, Clone, Copy)]
pub struct Inheritance {
    /// Process id of the worker.
    pub parent: u32,
    /// Ceiling of private memory, bytes.
    pub memory: Option<u64>,
    /// How long a job may stand still.
    pub stall: Duration,
}

/// The job child from its first moment: ties its life to the worker's, drops what it inherited, and
/// runs the job that comes over standard input. Call it before anything else opens a descriptor.
pub fn main(inheritance: Inheritance, run: inside::Run) -> io::Result<()> {
    tie_to_parent(inheritance.parent)?;
    close_inherited();
    ignore_stop_signals();
    limit(inheritance.memory)?;
    // No set-user-id program can raise what a hostile input got hold of.
    rustix::thread::set_no_new_privs(true)?;
    // A panic on any thread of a pipeline would leave the others waiting: end with a word instead.
    std::panic::set_hook(Box::new(|info| {
        let thread = std::thread::current();
        eprintln!("thread {} {info}", thread.name().unwrap_or("?"));
        std::process::abort();
    }));
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    inside::serve(socket, run, inheritance.stall)
}

fn tie_to_parent(parent: u32) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // The worker may have died before the call above; then nobody will signal.
    let now = rustix::process::getppid().map(Pid::as_raw_nonzero);
    if now.map(|pid| pid.get() as u32) != Some(parent) {
        return Err(io::Error::other("the worker is gone"));
    }
    Ok(())
}

fn limit(memory: Option<u64>) -> io::Result<()> {
    use rustix::process::{Resource, Rlimit, setrlimit};
    if let Some(bytes) = memory {
        setrlimit(
            Resource::Data,
            Rlimit {
                current: Some(bytes),
                maximum: Some(bytes),
            },
        )?;
    }
    setrlimit(
        Resource::Core,
        Rlimit {
            current: Some(0),
            maximum: Some(0),
        },
    )?;
    // Best effort: under memory pressure a job goes before the worker and before Plex.
    let _ = std::fs::write("/proc/self/oom_score_adj", "500");
    Ok(())
}

/// Descriptors that a library of the worker opened without close-on-exec.
#[expect(unsafe_code, reason = "close_range has no safe wrapper")]
fn close_inherited() {
    // SAFETY: called first in the process; nothing in it owns a descriptor above 2 yet.
    unsafe {
        libc::close_range(3, libc::c_uint::MAX, 0);
    }
}

/// The worker decides when a child ends, also when a service manager signals the whole group.
#[expect(unsafe_code, reason = "ignoring a signal has no safe wrapper")]
fn ignore_stop_signals() {
    // SAFETY: SIG_IGN installs no handler, so nothing of ours runs in signal context.
    unsafe {
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
            libc::signal(signal, libc::SIG_IGN);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_lines_lose_the_queries_of_urls_and_are_bounded() {
        assert_eq!(
            redact("[http @ 0x1] http://h:1/media/abc?job=j&signature=deadbeef: 404"),
            "[http @ 0x1] http://h:1/media/abc?...".to_owned() + " 404"
        );
        assert_eq!(redact("what? no url here"), "what? no url here");
        assert_eq!(clip("ü".repeat(1000), 401), "ü".repeat(200) + "...");
        assert_eq!(clip("short".to_owned(), 400), "short");
    }
}
