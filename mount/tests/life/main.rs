//! The mount's process is killed, frozen and replaced under load. Each test runs a few rounds;
//! `make chaos` runs twenty (`PLEXBEAM_ROUNDS`).

#[allow(dead_code)]
#[path = "../../../fusefs/tests/mount/support.rs"]
mod support;

mod load;

use bytes::Bytes;
use load::Load;
use plexbeam_api::mount::{MountStatus, XATTR_HELD, XATTR_SOURCE, XATTR_STATUS};
use rustix::process::{Pid, Signal};
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output},
    sync::Arc,
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

/// Ends the service again and again, with the worker dead from the start. `end` is given the process.
fn replaced_again_and_again(what: &str, end: impl Fn(&Life, u32), flags: &[&str]) {
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
        end(&life, before);
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
        "{what}: back after {:?} (median of {}), {:?} at most; errors of reads and writes in flight: {errors:?}",
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
    let kill = |_: &Life, process| signal(process, Signal::KILL);
    replaced_again_and_again("killed", kill, &["--cache-in-memory"]);
}

#[test]
fn a_frozen_process_is_replaced_with_all_it_held() {
    let freeze = |_: &Life, process| signal(process, Signal::STOP);
    replaced_again_and_again("frozen", freeze, &["--hang-timeout", "1s"]);
}

/// What an administrator does with a mount that hangs (Documentation/filesystems/fuse, "Aborting a
/// filesystem connection").
#[test]
fn an_aborted_connection_is_replaced_with_all_it_held() {
    let abort = |life: &Life, _| {
        let [(_, minor)] = plexbeam_fusefs::mounts::ours_at(&life.path())[..] else {
            panic!("one mount, not one on another");
        };
        let connection = format!("/sys/fs/fuse/connections/{minor}");
        if !fs::exists(&connection).unwrap() {
            let control = ["-t", "fusectl", "fusectl", "/sys/fs/fuse/connections"];
            let mounted = Command::new("mount").args(control).status().unwrap();
            assert!(mounted.success(), "fusectl cannot be mounted");
        }
        fs::write(format!("{connection}/abort"), "1").unwrap();
    };
    replaced_again_and_again("aborted", abort, &[]);
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
