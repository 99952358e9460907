//! Logs in a folder that may hang are written and read by a process of its own, which can be left
//! behind: neither a thread nor an open file of this process waits in that folder, so that becoming the
//! original, or ending, never waits for it either. (A thread that waits for a FUSE daemon or a dead
//! share can hold up both; the kernel ends the other threads first.)
//!
//! The process is this program again, under the name [`NAME`]. It is given records, one JSON value a
//! line, on its standard input, or the words `copy FROM TO [JOB]`.

use super::{learn, place, store};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::{self, BufRead};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

/// `argv[0]` of the process.
pub const NAME: &str = "plexbeam-log";

/// What the pipe to it holds while it is held up; more is lost.
const PIPE: usize = 1 << 20;
/// The same inside it, records.
const QUEUE: usize = 4096;
/// How long it goes on when nobody gives it records any more.
const LINGER: Duration = Duration::from_secs(30);
/// So many at most; what more of them would write is lost.
const MOST: usize = 64;
/// How long the administrator's tool waits for a copy.
const COPY: Duration = Duration::from_secs(5);

/// Set where this program, started under [`NAME`], is that process. Any other that links this library
/// (a test runner above all) would do its own work again, and start itself again, without end.
static SERVES: AtomicBool = AtomicBool::new(false);

/// Says that this program calls [`serve`] when it is started under [`NAME`].
pub fn allow() {
    SERVES.store(true, Ordering::Relaxed);
}

fn needed(dir: &Path) -> bool {
    SERVES.load(Ordering::Relaxed) && place::may_hang(dir)
}

/// A thing to be written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Record {
    /// Bytes at a file's end.
    Append { path: PathBuf, text: String },
    /// The same, of a log that is rotated.
    Line { path: PathBuf, text: String },
    /// A whole file.
    Replace {
        path: PathBuf,
        value: serde_json::Value,
    },
    /// A kind of command line.
    Learn {
        dir: PathBuf,
        shape: String,
        remote: bool,
        verdict: String,
        example: Vec<String>,
    },
    /// The folder of sessions has grown.
    Prune { sessions: PathBuf },
}

impl Record {
    fn write(&self) {
        match self {
            Record::Append { path, text } => store::append(path, text.as_bytes()),
            Record::Line { path, text } => store::append_rotated(path, text.as_bytes()),
            Record::Replace { path, value } => store::replace(path, value),
            Record::Learn {
                dir,
                shape,
                remote,
                verdict,
                example,
            } => learn::count(dir, shape, *remote, verdict, || example.clone()),
            Record::Prune { sessions } => {
                store::prune(sessions, store::SESSIONS, store::SESSION_BYTES);
            }
        }
    }
}

/// Where records go.
#[derive(Debug)]
pub(super) enum Sink {
    /// Into the folder, by this process.
    Here,
    /// To the other process; `None` once it does not take them any more.
    Apart(Mutex<Option<OwnedFd>>),
}

impl Sink {
    /// For this folder. Starts a process where that is needed.
    pub(super) fn of(dir: &Path) -> Self {
        match needed(dir) {
            true => Sink::Apart(Mutex::new(start().ok())),
            false => Sink::Here,
        }
    }

    pub(super) fn put(&self, record: &Record) {
        let pipe = match self {
            Sink::Here => return record.write(),
            Sink::Apart(pipe) => pipe,
        };
        let (Ok(mut pipe), Ok(mut text)) = (pipe.lock(), serde_json::to_vec(record)) else {
            return;
        };
        text.push(b'\n');
        let Some(open) = pipe.as_ref() else { return };
        // All or nothing: what follows half a record would not be understood.
        if rustix::io::write(open, &text) != Ok(text.len()) {
            *pipe = None;
        }
    }
}

/// Refused in a program that would not serve: a test harness, started so, runs all its tests again,
/// which start it again.
fn command() -> io::Result<Command> {
    if !SERVES.load(Ordering::Relaxed) {
        return Err(io::ErrorKind::Unsupported.into());
    }
    // Also after an update of this program its own file is at hand there.
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0(NAME)
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    Ok(command)
}

fn start() -> io::Result<OwnedFd> {
    let mut child = command()?.stdin(Stdio::piped()).spawn()?;
    let pipe: OwnedFd = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?.into();
    // A smaller one loses more, no worse.
    let _ = rustix::pipe::fcntl_setpipe_size(&pipe, PIPE);
    rustix::fs::fcntl_setfl(&pipe, rustix::fs::OFlags::NONBLOCK)?;
    Ok(pipe)
}

/// The process: does what it was started for. `words` are those behind its name.
pub fn serve(words: &[std::ffi::OsString]) -> u8 {
    match words {
        [copy, from, to, job @ ..] if copy == "copy" => {
            let job = job.first().map(Path::new);
            u8::from(self::copy(Path::new(from), Path::new(to), job).is_err())
        }
        _ => {
            records();
            0
        }
    }
}

fn records() {
    let Some(_place) = place_among_others() else {
        return;
    };
    let (give, take) = mpsc::sync_channel::<Record>(QUEUE);
    let (tell, told) = mpsc::channel::<()>();
    let writing = std::thread::Builder::new().spawn(move || {
        take.iter().for_each(|record| record.write());
        drop(tell);
    });
    if writing.is_err() {
        return;
    }
    // The pipe is read whatever the folder does, so that its end is seen.
    for line in io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        if let Ok(record) = serde_json::from_str(&line) {
            let _ = give.try_send(record);
        }
    }
    drop(give);
    let _ = told.recv_timeout(LINGER);
}

/// A name that only one process can have at a time, and that goes with it.
fn place_among_others() -> Option<UnixListener> {
    (0..MOST).find_map(|n| {
        let name = SocketAddr::from_abstract_name(format!("{NAME}-{n}")).ok()?;
        UnixListener::bind_addr(&name).ok()
    })
}

/// Logs that can be read without waiting; removed when dropped, where they are a copy.
pub(crate) struct Readable {
    dir: PathBuf,
    copied: bool,
}

impl Readable {
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Readable {
    fn drop(&mut self) {
        if self.copied {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// The logs of this folder, with the files of one session. An error where it does not answer.
pub(crate) fn readable(dir: &Path, job: Option<&str>) -> io::Result<Readable> {
    if !needed(dir) {
        let dir = dir.to_owned();
        return Ok(Readable { dir, copied: false });
    }
    let to = std::env::temp_dir().join(format!("plexbeam-logs-{}", std::process::id()));
    // Fails on what is there already, whoever has put it there.
    std::os::unix::fs::DirBuilderExt::mode(&mut fs::DirBuilder::new(), 0o700).create(&to)?;
    let copy = Readable {
        dir: to,
        copied: true,
    };
    let mut words = vec!["copy".into(), dir.as_os_str().to_owned()];
    words.push(copy.dir.as_os_str().to_owned());
    words.extend(job.map(Into::into));
    let mut child = command()?.args(words).spawn()?;
    let deadline = Instant::now() + COPY;
    loop {
        match child.try_wait()? {
            Some(status) if status.success() => return Ok(copy),
            Some(_) => return Err(io::Error::other("its logs cannot be read")),
            None if Instant::now() >= deadline => {
                // It may not even end by that; it is not waited for.
                let _ = child.kill();
                return Err(io::ErrorKind::TimedOut.into());
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

fn copy(from: &Path, to: &Path, job: Option<&Path>) -> io::Result<()> {
    let entries = match fs::read_dir(from) {
        // No logs yet.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_file()) {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    let mut folders = vec![PathBuf::from("patterns")];
    folders.extend(job.map(|job| Path::new("sessions").join(job)));
    for folder in folders {
        let (from, to) = (from.join(&folder), to.join(&folder));
        if from.is_dir() {
            fs::create_dir_all(&to)?;
            copy(&from, &to, None)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_does_not_serve_is_never_started() {
        // Not a local file system, as a share.
        let away = Path::new("/proc/nowhere");
        assert!(place::may_hang(away));
        assert!(matches!(Sink::of(away), Sink::Here));
        assert!(!readable(away, None).unwrap().copied);
        assert_eq!(
            command().unwrap_err().kind(),
            io::ErrorKind::Unsupported,
            "whoever asks"
        );
    }
}
