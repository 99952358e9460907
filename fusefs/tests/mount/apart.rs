//! A mount, or a fake worker, in a process of its own: this test program again. So it can be stopped,
//! killed and counted.

use crate::support::*;
use plexbeam_api::mount::XATTR_SOURCE;
use plexbeam_fusefs::{ARENAS, FsConfig, Secret, mount};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    collections::BTreeMap,
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

/// What the process is to be.
const ROLE: &str = "PLEXBEAM_TEST_ROLE";

struct Process {
    child: Child,
}

impl Process {
    fn start(
        network: Option<&Network>,
        dir: &Path,
        role: &str,
        settings: &[(&str, String)],
    ) -> (Self, String) {
        let ready = dir.join(format!("{role}.ready"));
        let log = fs::File::create(dir.join(format!("{role}.log"))).unwrap();
        let program = std::env::current_exe().unwrap();
        let mut command = match network {
            Some(network) => network.command(program.to_str().unwrap()),
            None => Command::new(program),
        };
        let mut child = command
            .args(["--exact", "apart::play_a_role", "--ignored", "--nocapture"])
            .env(ROLE, role)
            .env(ARENAS.0, ARENAS.1)
            .env("APART_DIR", dir)
            .envs(settings.iter().map(|(name, value)| (name, value)))
            // Its end is the end of this program, however that comes.
            .stdin(Stdio::piped())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        eventually(role, || {
            assert!(child.try_wait().unwrap().is_none(), "{role} has ended");
            ready.exists()
        });
        let said = fs::read_to_string(ready).unwrap();
        (Process { child }, said)
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.child.id() as i32).unwrap(), signal).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // One that was stopped cannot see the end of its input.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A network of its own, of one loopback device, over which packets can be lost. Needs root.
pub(crate) struct Network(Child);

impl Network {
    pub(crate) fn new() -> Self {
        // Lives until its input ends.
        let holder = Command::new("unshare")
            .args(["--net", "cat"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let network = Network(holder);
        let ours = fs::read_link("/proc/self/ns/net").unwrap();
        eventually("it has a network", || {
            fs::read_link(network.path()).unwrap() != ours
        });
        network.run("ip", &["link", "set", "lo", "up"]);
        network
    }

    fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.0.id()))
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.path().display()))
            .arg(program);
        command
    }

    fn run(&self, program: &str, args: &[&str]) {
        let output = self.command(program).args(args).output().unwrap();
        assert!(output.status.success(), "{program}: {output:?}");
    }

    /// From now on every packet is lost, and nobody is told.
    pub(crate) fn lose_all(&self) {
        let queue = ["root", "pfifo", "limit", "0"];
        self.run("tc", &[&["qdisc", "add", "dev", "lo"], &queue[..]].concat());
    }

    pub(crate) fn heal(&self) {
        self.run("tc", &["qdisc", "del", "dev", "lo", "root"]);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A mount in its own process.
pub(crate) struct MountApart {
    process: Process,
    mountpoint: PathBuf,
    pub(crate) dir: tempfile::TempDir,
}

impl MountApart {
    pub(crate) fn start(worker: &str, ceiling: u64, deadline: Duration) -> Self {
        MountApart::start_in(None, worker, ceiling, deadline)
    }

    pub(crate) fn start_in(
        network: Option<&Network>,
        worker: &str,
        ceiling: u64,
        deadline: Duration,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mountpoint = dir.path().join("mnt");
        fs::create_dir(&mountpoint).unwrap();
        let settings = [
            ("APART_WORKER", worker.to_owned()),
            ("APART_CEILING", ceiling.to_string()),
            ("APART_DEADLINE", deadline.as_millis().to_string()),
        ];
        let (process, _) = Process::start(network, dir.path(), "mount", &settings);
        MountApart {
            process,
            mountpoint,
            dir,
        }
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.mountpoint.join(path)
    }

    pub(crate) fn bind(&self, dir: &str, session: &str) -> PathBuf {
        let path = self.path(dir);
        fs::create_dir(&path).unwrap();
        set(&path, XATTR_SOURCE, &binding("worker-1", session, 1)).unwrap();
        path
    }

    pub(crate) fn usage(&self) -> plexbeam_api::mount::CacheUsage {
        let json = get_attribute(&self.mountpoint, plexbeam_api::mount::XATTR_CACHE).unwrap();
        serde_json::from_str(&json).unwrap()
    }

    /// Threads of the daemon.
    pub(crate) fn threads(&self) -> usize {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.process.pid()));
        tasks.unwrap().count()
    }

    /// Open descriptors of the daemon by kind.
    pub(crate) fn descriptors(&self) -> BTreeMap<String, usize> {
        let mut kinds = BTreeMap::new();
        for entry in fs::read_dir(format!("/proc/{}/fd", self.process.pid())).unwrap() {
            // It may be closed meanwhile.
            if let Ok(target) = fs::read_link(entry.unwrap().path()) {
                let text = target.to_string_lossy().into_owned();
                let kind = text.split(":[").next().unwrap_or_default().to_owned();
                *kinds.entry(kind).or_default() += 1;
            }
        }
        kinds
    }

    /// A figure of `/proc/PID/status`, KiB.
    pub(crate) fn memory(&self, field: &str) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.process.pid())).unwrap();
        let line = text.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for MountApart {
    fn drop(&mut self) {
        let flags = rustix::mount::UnmountFlags::DETACH;
        // It may be gone already.
        let _ = rustix::mount::unmount(&self.mountpoint, flags);
    }
}

/// A worker in its own process, with one session `s1` of so many files.
pub(crate) struct WorkerApart {
    process: Process,
    pub(crate) url: String,
    _dir: tempfile::TempDir,
}

impl WorkerApart {
    pub(crate) fn start(files: u32, size: usize) -> Self {
        WorkerApart::start_in(None, files, size)
    }

    pub(crate) fn start_in(network: Option<&Network>, files: u32, size: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let settings = [
            ("APART_FILES", files.to_string()),
            ("APART_SIZE", size.to_string()),
        ];
        let (process, url) = Process::start(network, dir.path(), "worker", &settings);
        WorkerApart {
            process,
            url,
            _dir: dir,
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }
}

fn setting(name: &str) -> String {
    std::env::var(name).unwrap()
}

/// Run by the tests above in a process of its own.
#[test]
#[ignore = "part of other tests"]
fn play_a_role() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let dir = PathBuf::from(setting("APART_DIR"));
    let ready = |text: &str| {
        let path = dir.join(format!("{role}.part"));
        fs::write(&path, text).unwrap();
        fs::rename(path, dir.join(format!("{role}.ready"))).unwrap();
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
    };
    if role == "worker" {
        let worker = FakeWorker::start("worker-1");
        worker.new_session("s1");
        let size = setting("APART_SIZE").parse().unwrap();
        for number in 1..=setting("APART_FILES").parse().unwrap() {
            worker.publish_media("s1", 0, number, size);
        }
        ready(worker.url().as_str());
        return;
    }
    let mut config = FsConfig::new(dir.join("mnt"));
    config.cache.dir = Some(dir.join("cache"));
    config.cache.ceiling = setting("APART_CEILING").parse().unwrap();
    config.read_deadline = Duration::from_millis(setting("APART_DEADLINE").parse().unwrap());
    config.remote.workers = vec![setting("APART_WORKER").parse().unwrap()];
    config.remote.api_key = Some(Secret::new(KEY));
    config.remote.health_every = Duration::from_millis(200);
    let mounted = mount(&config).unwrap();
    mounted.wait_workers(Duration::from_secs(20));
    ready("");
    mounted.unmount();
}
