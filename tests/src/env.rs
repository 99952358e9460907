//! One hermetic environment per test: a temporary directory, free ports, the real worker and mount
//! as processes. Everything ends when the [`TestEnv`] is dropped, also while a test panics; then
//! the ends of the logs are printed.

use crate::wait;
use plexbeam_api::{SessionStatus, mount as xattr};
use reqwest::blocking::{Client, Response};
use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::Duration,
};

/// Longest start of a program on a loaded machine.
const START: Duration = Duration::from_secs(60);
/// Longest orderly stop.
const STOP: Duration = Duration::from_secs(10);
/// How much of a log is shown when a test fails.
const TAIL: u64 = 6_000;

/// The folder of the programs: that of this executable, without cargo's `deps`.
pub fn target_dir() -> PathBuf {
    let exe = std::env::current_exe().expect("path of this program");
    let dir = exe.parent().expect("a program lies in a folder");
    let dir = if dir.ends_with("deps") {
        dir.parent().expect("deps lies in a folder")
    } else {
        dir
    };
    dir.to_owned()
}

/// Path of one of our programs.
#[track_caller]
pub fn program(name: &str) -> PathBuf {
    let path = target_dir().join(name);
    assert!(
        path.is_file(),
        "`{}` is not there; `make build` makes it",
        path.display()
    );
    path
}

/// A port of 127.0.0.1 that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|l| l.local_addr())
        .expect("a free port on 127.0.0.1")
        .port()
}

/// A running program with its log; killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with both outputs in `<dir>/<name>.log`.
    #[track_caller]
    pub fn start(name: &str, dir: &Path, mut command: Command) -> Process {
        let log = dir.join(format!("{name}.log"));
        let file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .expect("create a log file");
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("share a log file"))
            .stderr(file)
            .spawn()
            .unwrap_or_else(|e| panic!("start {command:?}: {e}"));
        Process {
            name: name.to_owned(),
            child,
            log,
        }
    }

    /// Process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its end, if it has ended.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.child.id() as i32) {
            // An already ended process is what the caller wants anyway.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    /// SIGTERM, then after a bound SIGKILL. Gives the status when it ended by itself.
    pub fn stop(&mut self) -> Option<ExitStatus> {
        if self.try_wait().is_none() {
            self.signal(rustix::process::Signal::TERM);
        }
        let ended = wait::poll(STOP, || self.try_wait());
        if ended.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        ended
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// The end of its log.
    pub fn tail(&self) -> String {
        tail(&self.log)
    }

    /// Its whole log.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
        if thread::panicking() {
            eprintln!("---- end of the log of {} ----\n{}", self.name, self.tail());
        }
    }
}

/// The end of a file, as text.
pub fn tail(path: &Path) -> String {
    let mut text = Vec::new();
    if let Ok(mut file) = File::open(path) {
        let len = file.metadata().map_or(0, |m| m.len());
        let _ = file.seek(SeekFrom::Start(len.saturating_sub(TAIL)));
        let _ = file.read_to_end(&mut text);
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// A temporary directory and the shared key of what runs in it.
#[derive(Debug)]
pub struct TestEnv {
    dir: Option<tempfile::TempDir>,
    root: PathBuf,
    key: String,
}

impl TestEnv {
    /// An empty environment; `name` tells directories apart for people.
    #[track_caller]
    pub fn new(name: &str) -> TestEnv {
        let dir = tempfile::Builder::new()
            .prefix(&format!("plexbeam-{name}-"))
            .tempdir()
            .expect("a temporary directory");
        // PMS and mount speak absolute paths; /tmp may be a link.
        let root = dir
            .path()
            .canonicalize()
            .expect("path of a temporary directory");
        TestEnv {
            dir: Some(dir),
            root,
            key: format!("key-{name}-{}", std::process::id()),
        }
    }

    /// The temporary directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The shared key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// A new directory in the root.
    #[track_caller]
    pub fn dir(&self, name: &str) -> PathBuf {
        let path = self.root.join(name);
        fs::create_dir_all(&path).expect("create a directory");
        path
    }

    /// A worker with software only; `extra` are further flags.
    #[track_caller]
    pub fn worker(&self, extra: &[&str]) -> Worker {
        self.worker_named("worker", extra)
    }

    /// As [`TestEnv::worker`], with a name of its own for log and spool.
    #[track_caller]
    pub fn worker_named(&self, name: &str, extra: &[&str]) -> Worker {
        let port = free_port();
        let spool = self.dir(&format!("{name}-spool"));
        let mut command = clean(Command::new(program("plexbeam-worker")));
        command
            .args(["serve", "--listen", &format!("127.0.0.1:{port}")])
            .arg("--spool")
            .arg(&spool)
            .args(["--api-key", &self.key, "--hw", "none"])
            .args(extra);
        let mut worker = Worker {
            process: Process::start(name, &self.root, command),
            url: format!("http://127.0.0.1:{port}"),
            key: self.key.clone(),
            spool,
            client: http_client(),
        };
        wait::until("worker is ready", START, || {
            if let Some(status) = worker.process.try_wait() {
                panic!("the worker ended with {status}:\n{}", worker.process.tail());
            }
            worker.get("/ready").ok().filter(|r| r.status() == 200)
        });
        worker
    }

    /// A mount at `<root>/transcode` over these workers; `extra` are further flags.
    #[track_caller]
    pub fn mount(&self, workers: &[&Worker], extra: &[&str]) -> Mount {
        self.mount_urls(
            workers.iter().map(|w| w.url.as_str()),
            extra,
            !workers.is_empty(),
        )
    }

    /// As [`TestEnv::mount`] by URLs, ready without waiting for a live worker unless `live`.
    #[track_caller]
    pub fn mount_urls<'a>(
        &self,
        workers: impl Iterator<Item = &'a str>,
        extra: &[&str],
        live: bool,
    ) -> Mount {
        let point = self.dir("transcode");
        let mut command = clean(Command::new(program("plexbeam-mount")));
        command.arg(&point);
        for url in workers {
            command.args(["--worker", url]);
        }
        command
            .arg("--cache-dir")
            .arg(self.dir("cache"))
            .args(["--api-key", &self.key, "--foreground"])
            .args(extra);
        let mut mount = Mount {
            process: Process::start("mount", &self.root, command),
            point,
            cache: self.root.join("cache"),
        };
        wait::until("mount is ready", START, || {
            if let Some(status) = mount.process.try_wait() {
                panic!("the mount ended with {status}:\n{}", mount.process.tail());
            }
            mount_of(&mount.point)?;
            let rows = getxattr(&mount.point, xattr::XATTR_WORKERS)?;
            let rows: Vec<xattr::WorkerRow> = serde_json::from_slice(&rows).ok()?;
            (!live || rows.iter().any(|r| r.live)).then_some(())
        });
        mount
    }

    /// Keeps the directory after the test, for a look by hand.
    pub fn keep(&mut self) -> PathBuf {
        if let Some(dir) = self.dir.take() {
            let _ = dir.keep();
        }
        self.root.clone()
    }
}

impl Drop for TestEnv {
    fn drop(&mut self) {
        // A mount that outlived its process would make the removal fail.
        for point in mounts_under(&self.root) {
            let _ = rustix::mount::unmount(&point, rustix::mount::UnmountFlags::DETACH);
        }
        if thread::panicking() && std::env::var_os("PLEXBEAM_KEEP").is_some() {
            eprintln!("kept: {}", self.keep().display());
        }
    }
}

/// Drops what a developer's shell or PMS's own environment would smuggle in.
pub fn clean(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PLEXBEAM_") {
            command.env_remove(name);
        }
    }
    command.env_remove("LD_LIBRARY_PATH");
    command
}

/// An HTTP client that never waits without a bound and knows no proxy.
pub fn http_client() -> Client {
    Client::builder()
        .timeout(Duration::from_secs(30))
        .no_proxy()
        .build()
        .expect("an HTTP client")
}

/// A running worker.
#[derive(Debug)]
pub struct Worker {
    /// Its process.
    pub process: Process,
    /// Base URL.
    pub url: String,
    /// Its key.
    pub key: String,
    /// Its spool.
    pub spool: PathBuf,
    client: Client,
}

impl Worker {
    /// GET with the key.
    pub fn get(&self, path: &str) -> reqwest::Result<Response> {
        self.client
            .get(format!("{}{path}", self.url))
            .header(plexbeam_api::route::API_KEY_HEADER, &self.key)
            .send()
    }

    /// POST of JSON with the key.
    #[track_caller]
    pub fn post(&self, path: &str, body: &serde_json::Value) -> Response {
        self.client
            .post(format!("{}{path}", self.url))
            .header(plexbeam_api::route::API_KEY_HEADER, &self.key)
            .json(body)
            .send()
            .unwrap_or_else(|e| panic!("POST {path}: {e}"))
    }

    /// All sessions it knows.
    #[track_caller]
    pub fn sessions(&self) -> Vec<SessionStatus> {
        self.get(plexbeam_api::route::SESSIONS)
            .and_then(|r| r.error_for_status()?.json())
            .unwrap_or_else(|e| panic!("GET /sessions: {e}"))
    }

    /// State of one job; polling it renews the lease of a job without an event connection.
    #[track_caller]
    pub fn status(&self, job: &str) -> SessionStatus {
        self.get(&format!("/status/{job}"))
            .and_then(|r| r.error_for_status()?.json())
            .unwrap_or_else(|e| panic!("GET /status/{job}: {e}"))
    }

    /// Bytes that its spool takes on disk, files without a name included.
    pub fn spool_bytes(&self) -> u64 {
        bytes_under(&self.spool) + unlinked_bytes(self.process.id(), &self.spool)
    }
}

/// A running mount.
#[derive(Debug)]
pub struct Mount {
    /// Its process.
    pub process: Process,
    /// The mountpoint.
    pub point: PathBuf,
    /// Its cache directory.
    pub cache: PathBuf,
}

impl Mount {
    /// Bytes of segments that its cache takes on disk, files without a name included.
    pub fn cache_bytes(&self) -> u64 {
        let folders = fs::read_dir(&self.cache).into_iter().flatten().flatten();
        // What is written down of bound directories is no segment.
        let journals: u64 = folders
            .map(|folder| bytes_under(&folder.path().join("bindings")))
            .sum();
        let children = format!("/proc/{0}/task/{0}/children", self.process.id());
        let serving = fs::read_to_string(children).unwrap_or_default();
        let unlinked: u64 = serving
            .split_whitespace()
            .filter_map(|pid| pid.parse().ok())
            .map(|pid| unlinked_bytes(pid, &self.cache))
            .sum();
        bytes_under(&self.cache).saturating_sub(journals) + unlinked
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        self.process.stop();
        if mount_of(&self.point).is_some() {
            let _ = rustix::mount::unmount(&self.point, rustix::mount::UnmountFlags::DETACH);
        }
    }
}

/// The mount table's line of a mountpoint, when there is one.
pub fn mount_of(point: &Path) -> Option<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").ok()?;
    table
        .lines()
        .find(|line| line.split(' ').nth(4).map(unescape).as_deref() == point.to_str())
        .map(str::to_owned)
}

fn mounts_under(root: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table
        .lines()
        .filter_map(|line| line.split(' ').nth(4).map(unescape))
        .map(PathBuf::from)
        .filter(|point| point.starts_with(root))
        .collect()
}

/// proc(5): blank, tab, line end and backslash are written as octal.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\")
}

/// An extended attribute; `None` when it is not there or the path is not ours.
pub fn getxattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 64 << 10];
    let len = rustix::fs::getxattr(path, name, &mut value).ok()?;
    value.truncate(len);
    Some(value)
}

/// Bytes on disk of all files under a directory. What vanishes meanwhile counts as gone.
pub fn bytes_under(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(entries) = fs::read_dir(dir) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => bytes_under(&entry.path()),
            Ok(meta) => meta.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

/// Bytes of files that a process holds open without a name, which once lay under `dir`.
fn unlinked_bytes(pid: u32, dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return 0;
    };
    let mut seen = std::collections::HashMap::new();
    for entry in entries.flatten() {
        let Ok(link) = fs::read_link(entry.path()) else {
            continue;
        };
        let text = link.to_string_lossy();
        if text.ends_with(" (deleted)")
            && link.starts_with(dir)
            && let Ok(meta) = fs::metadata(entry.path())
        {
            seen.insert((meta.dev(), meta.ino()), meta.blocks() * 512);
        }
    }
    seen.values().sum()
}
