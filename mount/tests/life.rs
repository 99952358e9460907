//! The mount's process is killed, frozen and replaced under load. Each test runs a few rounds;
//! `make chaos` runs twenty (`PLEXBEAM_ROUNDS`).

#[allow(dead_code)]
#[path = "../../fusefs/tests/mount/support.rs"]
mod support;

use bytes::Bytes;
use plexbeam_api::mount::{MountStatus, XATTR_HELD, XATTR_SOURCE, XATTR_STATUS};
use rustix::{
    fs::{Mode, OFlags, RawDir},
    process::{Pid, Signal},
};
use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};
use support::*;

fn rounds() -> usize {
    std::env::var("PLEXBEAM_ROUNDS").map_or(3, |rounds| rounds.parse().unwrap())
}

/// A supervised mount as it is started by hand.
struct Life {
    dir: Arc<tempfile::TempDir>,
    process: Child,
}

impl Life {
    fn start(worker: &FakeWorker, flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("mnt")).unwrap();
        Life::start_in(Arc::new(dir), worker, flags)
    }

    fn start_in(dir: Arc<tempfile::TempDir>, worker: &FakeWorker, flags: &[&str]) -> Self {
        let log = fs::File::create(dir.path().join("log")).unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_plexbeam-mount"))
            .arg(dir.path().join("mnt"))
            .args(["--foreground", "--worker", worker.url().as_str()])
            .args(["--api-key", KEY, "--cache-dir"])
            .arg(dir.path().join("cache"))
            .args(flags)
            .stderr(log)
            .spawn()
            .unwrap();
        let life = Life { dir, process };
        eventually("it is mounted", || life.status().is_some());
        eventually("it knows its worker", || {
            life.status()
                .is_some_and(|status| status.workers.iter().any(|worker| worker.live))
        });
        life
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    fn status(&self) -> Option<MountStatus> {
        let json = get_attribute(&self.path(), XATTR_STATUS).ok()?;
        Some(serde_json::from_str(&json).unwrap())
    }

    fn command(&self, word: &str) -> Output {
        Command::new(env!("CARGO_BIN_EXE_plexbeam-mount"))
            .arg(word)
            .arg(self.path())
            .output()
            .unwrap()
    }

    /// Binds a directory and holds these segments there.
    fn hold(
        &self,
        worker: &FakeWorker,
        name: &str,
        numbers: std::ops::RangeInclusive<u32>,
    ) -> Held {
        let dir = self.path().join(name);
        worker.new_session(name);
        fs::create_dir(&dir).unwrap();
        set(&dir, XATTR_SOURCE, &binding("worker-1", name, 1)).unwrap();
        let mut held = Held {
            dir,
            files: BTreeMap::new(),
        };
        for number in numbers {
            held.add(worker, name, number);
        }
        held
    }

    /// Ends the supervisor by a signal and waits for that.
    fn end(&mut self, by: Signal) {
        signal(self.process.id(), by);
        let _ = self.process.wait();
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap()
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        if let Ok(Some(_)) = self.process.try_wait() {
            return;
        }
        signal(self.process.id(), Signal::TERM);
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("---- log ----\n{}", self.log());
        }
    }
}

fn signal(process: u32, signal: Signal) {
    let process = Pid::from_raw(process as i32).unwrap();
    rustix::process::kill_process(process, signal).unwrap();
}

/// What a directory was told to hold.
struct Held {
    dir: PathBuf,
    files: BTreeMap<String, Bytes>,
}

impl Held {
    fn add(&mut self, worker: &FakeWorker, session: &str, number: u32) {
        let bytes = worker.publish_media(session, 0, number, 60_000);
        let name = media_name(0, number);
        eventually("it is held", || {
            get_attribute(&self.dir, &format!("{XATTR_HELD}.{name}")).is_ok()
        });
        self.files.insert(name, bytes);
    }

    fn check(&self) {
        for (name, bytes) in &self.files {
            let read = fs::read(self.dir.join(name)).unwrap();
            assert!(read == *bytes, "{name} has other bytes");
        }
    }
}

/// Readers and writers that go on until they are stopped; each error is noted.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    errors: Arc<Mutex<BTreeMap<String, u64>>>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Load {
    fn start(root: &Path, held: &Held) -> Self {
        let mut load = Load {
            stop: Arc::default(),
            done: Arc::default(),
            errors: Arc::default(),
            threads: Vec::new(),
        };
        for _ in 0..2 {
            let (dir, files) = (held.dir.clone(), held.files.clone());
            load.spawn("read", move || {
                for (name, bytes) in &files {
                    let read = fs::read(dir.join(name))?;
                    assert!(read == *bytes, "{name} has other bytes");
                }
                Ok(())
            });
        }
        let (dir, expected) = (held.dir.clone(), held.files.len());
        load.spawn("list", move || {
            // Not by `readdir(3)`, which takes ENOENT for the end of the directory.
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let opened = rustix::fs::open(&dir, flags, Mode::empty())?;
            let kind = rustix::fs::fstatfs(&opened)?.f_type;
            let mut buffer = Vec::with_capacity(16 << 10);
            let mut names = 0;
            let mut list = RawDir::new(&opened, buffer.spare_capacity_mut());
            while let Some(name) = list.next() {
                let name = name?.file_name().to_owned();
                fs::symlink_metadata(dir.join(name.to_str().unwrap()))?;
                names += 1;
            }
            assert!(names >= expected + 2, "{names} names, file system {kind:x}");
            Ok(())
        });
        let own = root.join("own");
        fs::create_dir(&own).unwrap();
        load.spawn("write", move || {
            let (one, two) = (own.join("one"), own.join("two"));
            fs::write(&one, "written through the mount")?;
            // By two absolute paths it could look up one before an upgrade and the other after it:
            // two file systems, so EXDEV.
            let here = fs::File::open(&own)?;
            rustix::fs::renameat(&here, "one", &here, "two")?;
            assert_eq!(fs::read(&two)?, b"written through the mount");
            fs::remove_file(&two)?;
            fs::create_dir(own.join("sub"))?;
            fs::remove_dir(own.join("sub"))
        });
        load
    }

    fn spawn(
        &mut self,
        what: &'static str,
        mut once: impl FnMut() -> io::Result<()> + Send + 'static,
    ) {
        let (stop, done) = (self.stop.clone(), self.done.clone());
        let errors = self.errors.clone();
        self.threads.push(std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                match once() {
                    Ok(()) => drop(done.fetch_add(1, Ordering::Relaxed)),
                    Err(error) => {
                        let text = format!("{what}: {error}");
                        *errors.lock().unwrap().entry(text).or_default() += 1;
                    }
                }
            }
        }));
    }

    /// Returns when every thread may have come round since.
    fn go_on(&self) {
        let before = self.done.load(Ordering::Relaxed);
        eventually("the load goes on", || {
            self.done.load(Ordering::Relaxed) > before + 8
        });
    }

    fn end(self) -> BTreeMap<String, u64> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        let errors = self.errors.lock().unwrap();
        errors.clone()
    }
}

/// Kills or freezes the process again and again, with the worker dead from the start.
fn replaced_again_and_again(by: Signal, flags: &[&str]) {
    if !can_mount() {
        return;
    }
    let worker = FakeWorker::start("worker-1");
    let life = Life::start(&worker, flags);
    let held = life.hold(&worker, "play", 1..=12);
    drop(worker);
    let load = Load::start(&life.path(), &held);
    let mut times = Vec::new();
    for round in 0..rounds() {
        load.go_on();
        let before = life.status().unwrap().process;
        let since = Instant::now();
        signal(before, by);
        let first = held.files.keys().next().unwrap();
        eventually("it serves again", || {
            let replaced = life.status().is_some_and(|status| status.process != before);
            replaced && fs::read(held.dir.join(first)).is_ok()
        });
        times.push(since.elapsed());
        held.check();
        let status = life.status().unwrap();
        assert_eq!(status.bindings.len(), 1, "round {round}");
        assert_eq!(status.bindings[0].held, 12);
        assert!(status.cache.peak <= status.cache.ceiling);
        // One mount, not one on another.
        assert_eq!(plexbeam_fusefs::mounts::ours_at(&life.path()).len(), 1);
    }
    let errors = load.end();
    times.sort();
    eprintln!(
        "{by:?}: back after {:?} (median of {}), {:?} at most; errors of reads and writes in flight: {errors:?}",
        times[times.len() / 2],
        times.len(),
        times[times.len() - 1]
    );
    for text in errors.keys() {
        let in_flight = ["os error 107", "os error 103", "os error 5"];
        let other_side = text.starts_with("write") && text.contains("os error 17");
        assert!(
            other_side || in_flight.iter().any(|errno| text.contains(errno)),
            "{text}"
        );
    }
    fs::remove_dir_all(&held.dir).unwrap();
}

#[test]
fn a_killed_process_is_replaced_with_all_it_held() {
    replaced_again_and_again(Signal::KILL, &["--cache-in-memory"]);
}

#[test]
fn a_frozen_process_is_replaced_with_all_it_held() {
    replaced_again_and_again(Signal::STOP, &["--hang-timeout", "1s"]);
}

/// Nobody notices an upgrade: no call fails, nothing has other bytes.
#[test]
fn an_upgrade_under_load_fails_no_call() {
    if !can_mount() {
        return;
    }
    let worker = FakeWorker::start("worker-1");
    let life = Life::start(&worker, &["--cache-size", "64MiB"]);
    let mut held = life.hold(&worker, "play", 1..=12);
    let load = Load::start(&life.path(), &held);
    let long = fs::File::open(held.dir.join(media_name(0, 1))).unwrap();
    let log = fs::File::create(life.path().join("plex.log")).unwrap();
    let mut written = Vec::new();
    for round in 0..rounds() {
        load.go_on();
        let before = life.status().unwrap().process;
        let output = life.command("upgrade");
        assert!(output.status.success(), "{output:?}\n{}", life.log());
        let status = life.status().unwrap();
        assert_ne!(status.process, before);
        assert_eq!(status.bindings.len(), 1 + round);
        assert!(status.cache.peak <= status.cache.ceiling);
        assert_eq!(plexbeam_fusefs::mounts::ours_at(&life.path()).len(), 1);
        // The session goes on in the new one, others begin there.
        held.add(&worker, "play", 100 + round as u32);
        held.check();
        life.hold(&worker, &format!("next-{round}"), 1..=2).check();
        // What was open before all upgrades is still served.
        let mut read = vec![0; 60_000];
        long.read_exact_at(&mut read, 0).unwrap();
        assert!(read == held.files[&media_name(0, 1)]);
        let line = format!("round {round}\n");
        log.write_all_at(line.as_bytes(), written.len() as u64)
            .unwrap();
        written.extend_from_slice(line.as_bytes());
        assert_eq!(fs::read(life.path().join("plex.log")).unwrap(), written);
    }
    load.go_on();
    assert_eq!(load.end(), BTreeMap::new());
    // The instances without an open file have ended.
    drop((long, log));
    let children = || {
        let path = format!("/proc/{0}/task/{0}/children", life.process.id());
        fs::read_to_string(path).unwrap().split_whitespace().count()
    };
    eventually("one process serves", || children() == 1);
    let output = life.command("status");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains(&format!("{} upgrades, 0 earlier", rounds())),
        "{text}"
    );
    assert_eq!(worker.lock().ended, []);
}

#[test]
fn status_and_umount_say_and_do_what_is_asked() {
    if !can_mount() {
        return;
    }
    let worker = FakeWorker::start("worker-1");
    let mut life = Life::start(&worker, &[]);
    let held = life.hold(&worker, "play", 1..=3);
    let output = Command::new(env!("CARGO_BIN_EXE_plexbeam-mount"))
        .args(["status", "--json"])
        .arg(life.path())
        .output()
        .unwrap();
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["bindings"][0]["held"], 3);
    assert_eq!(json["supervisor"]["supervisor"], life.process.id());
    assert_eq!(json["workers"][0]["live"], true);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.contains("very-secret-token") && !text.contains(KEY));
    let table = String::from_utf8(life.command("status").stdout).unwrap();
    for words in ["reads       by the kernel", "session     play", "live, "] {
        assert!(table.contains(words), "{words} is missing in\n{table}");
    }
    assert!(life.log().contains("passthrough"), "{}", life.log());

    let open = fs::File::open(held.dir.join(media_name(0, 1))).unwrap();
    let output = life.command("umount");
    assert!(output.status.success(), "{output:?}");
    assert!(life.process.wait().unwrap().success());
    assert_eq!(plexbeam_fusefs::mounts::ours_at(&life.path()), []);
    drop(open);
    for word in ["status", "umount", "upgrade"] {
        let output = life.command(word);
        assert_eq!(output.status.code(), Some(1));
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains("is no plexbeam mount"), "{text}");
    }
}

/// What PMS does at its own start: everything in the directory goes, held names among it.
#[test]
fn the_directory_may_be_wiped() {
    if !can_mount() {
        return;
    }
    let worker = FakeWorker::start("worker-1");
    let life = Life::start(&worker, &[]);
    let held: Vec<Held> = (1..=3)
        .map(|at| life.hold(&worker, &format!("play-{at}"), 1..=3))
        .collect();
    fs::write(life.path().join("left"), "x").unwrap();
    for entry in fs::read_dir(life.path()).unwrap().flatten() {
        if entry.file_name() == "sessions" {
            continue;
        }
        if entry.file_type().unwrap().is_dir() {
            fs::remove_dir_all(entry.path()).unwrap();
        } else {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    assert_eq!(names(&life.path()), ["sessions"]);
    eventually("the sessions are ended", || {
        worker.lock().ended.len() == held.len()
    });
    eventually("the cache is empty", || {
        life.status().unwrap().cache.used == 0
    });
}

/// The file systems in memory under this folder, by the kernel's table.
fn in_memory(under: &Path) -> usize {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let under = format!(" {}/", under.display());
    let ours = |line: &&str| line.contains(&under) && line.contains(" - tmpfs plexbeam-cache ");
    table.lines().filter(ours).count()
}

/// Needs root. What is held in memory is found by the next start and by none that puts the cache
/// on disk; what nobody needs any more is freed at the end.
#[test]
fn a_cache_in_memory_outlives_its_process_and_not_its_use() {
    if !can_mount() {
        return;
    }
    let worker = FakeWorker::start("worker-1");
    let mut life = Life::start(&worker, &["--cache-in-memory"]);
    let cache = life.dir.path().join("cache");
    assert_eq!(in_memory(&cache), 1);
    let held = life.hold(&worker, "film", 0..=2);
    held.check();
    life.end(Signal::TERM);
    assert_eq!(in_memory(&cache), 1, "{}", life.log());
    assert!(life.log().contains("stays in memory"));

    // By another size of the cache, too: the file system has no bound of its own.
    let flags = ["--cache-in-memory", "--cache-size", "64MiB"];
    let mut life = Life::start_in(life.dir.clone(), &worker, &flags);
    assert_eq!(in_memory(&cache), 1);
    held.check();
    let asked = worker.lock().asked.clone();
    assert!(asked.values().all(|times| *times == 1), "{asked:?}");
    fs::remove_dir_all(&held.dir).unwrap();
    life.end(Signal::TERM);
    assert_eq!(in_memory(&cache), 0, "{}", life.log());

    // A supervisor that is killed leaves it, and its process goes on.
    let mut life = Life::start_in(life.dir.clone(), &worker, &["--cache-in-memory"]);
    let instance = life.status().unwrap().process;
    life.end(Signal::KILL);
    signal(instance, Signal::KILL);
    assert_eq!(in_memory(&cache), 1);
    let life = Life::start_in(life.dir.clone(), &worker, &[]);
    assert_eq!(in_memory(&cache), 0, "{}", life.log());
    life.hold(&worker, "other", 0..=0).check();
}
