//! Workers that freeze, vanish, dawdle, cut, lie and damage, each with a reader in flight: right bytes
//! or an errno within the deadline, no process kept in the kernel beyond it, nothing left behind.

use crate::{apart::*, support::*};
use bytes::Bytes;
use plexbeam_api::mount::{MountStatus, XATTR_STATUS};
use rustix::process::Signal;
use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Longest wait of one read.
const DEADLINE: Duration = Duration::from_secs(1);
/// What a busy machine may add to it.
const SLACK: Duration = Duration::from_secs(10);
const SIZE: usize = 200_000;
const ALWAYS: u32 = u32::MAX;

/// How a reader may end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// With the right bytes.
    Right,
    /// With an errno.
    Errno,
    /// With one of these.
    Either,
}

/// How the bytes come to the reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// As they arrive, under `sessions/`.
    Arriving,
    /// Whole, of a name that was held and pushed out.
    Again,
    /// By ranges, for want of room.
    Past,
}

/// Each fault, for how many answers, and the end of the reader by each way.
const FAULTS: &[(Fault, u32, End, End, End)] = &[
    (Fault::Slow, ALWAYS, End::Right, End::Right, End::Right),
    (Fault::Cut, 1, End::Right, End::Right, End::Right),
    (Fault::Cut, ALWAYS, End::Either, End::Either, End::Errno),
    (Fault::Stall, ALWAYS, End::Errno, End::Errno, End::Errno),
    (Fault::Longer, 1, End::Right, End::Right, End::Errno),
    (Fault::Longer, ALWAYS, End::Errno, End::Errno, End::Errno),
    (Fault::Shorter, ALWAYS, End::Errno, End::Errno, End::Errno),
    (
        Fault::LongerUnsaid,
        ALWAYS,
        End::Errno,
        End::Errno,
        End::Errno,
    ),
    (
        Fault::ShorterUnsaid,
        ALWAYS,
        End::Errno,
        End::Errno,
        End::Errno,
    ),
    (Fault::Wrong, 1, End::Either, End::Right, End::Errno),
    (Fault::Wrong, ALWAYS, End::Errno, End::Errno, End::Errno),
    (
        Fault::WrongRange,
        ALWAYS,
        End::Right,
        End::Right,
        End::Errno,
    ),
    (Fault::Busy, 1, End::Right, End::Right, End::Right),
    (Fault::Busy, ALWAYS, End::Errno, End::Errno, End::Errno),
    (Fault::Failing, 1, End::Right, End::Right, End::Right),
    (Fault::Failing, ALWAYS, End::Errno, End::Errno, End::Errno),
];

/// A process that reads a file to its end.
struct Reader {
    child: Child,
    expected: Bytes,
    out: std::path::PathBuf,
    what: String,
    end: End,
    /// Since when one of its threads is in a wait that no signal ends.
    stuck: Option<Instant>,
}

impl Reader {
    fn start(path: &Path, out: &Path, expected: &Bytes, what: String, end: End) -> Self {
        let child = Command::new("cat")
            .arg(path)
            .env("LC_ALL", "C")
            .stdout(fs::File::create(out).unwrap())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Reader {
            child,
            expected: expected.clone(),
            out: out.to_path_buf(),
            what,
            end,
            stuck: None,
        }
    }

    /// True when it has ended. Fails when it hangs in the kernel.
    fn poll(&mut self) -> bool {
        if self.child.try_wait().unwrap().is_some() {
            return true;
        }
        if state(self.child.id()).contains(&'D') {
            let since = *self.stuck.get_or_insert_with(Instant::now);
            assert!(since.elapsed() < DEADLINE + SLACK, "{} hangs", self.what);
        } else {
            self.stuck = None;
        }
        false
    }

    fn judge(self) {
        let output = self.child.wait_with_output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        let read = fs::read(&self.out).unwrap();
        if output.status.success() {
            assert_ne!(self.end, End::Errno, "{} was read", self.what);
            assert!(read == self.expected, "{}: wrong bytes", self.what);
        } else {
            assert_ne!(self.end, End::Right, "{}: {told}", self.what);
            let known = ["Input/output error", "Connection timed out"];
            assert!(
                known.iter().any(|text| told.contains(text)),
                "{}: {told}",
                self.what
            );
            assert!(read.len() < self.expected.len(), "{}: {told}", self.what);
        }
    }
}

/// States of all threads of a process.
fn state(pid: u32) -> Vec<char> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"));
    let tasks = tasks.into_iter().flatten().flatten();
    tasks
        .filter_map(|task| fs::read_to_string(task.path().join("stat")).ok())
        .filter_map(|stat| stat.rsplit_once(") ")?.1.chars().next())
        .collect()
}

fn wait_all(readers: Vec<Reader>) {
    let mut readers = readers;
    eventually("all readers end", || {
        let going = readers
            .iter_mut()
            .filter_map(|reader| (!reader.poll()).then_some(()));
        going.count() == 0
    });
    for reader in readers {
        reader.judge();
    }
}

/// One reader for each fault, all at once.
fn round(worker: &FakeWorker, mount: &MountApart, way: Way, session: &str) {
    worker.new_session(session);
    let dir = match way {
        Way::Again => mount.bind(session, session),
        Way::Arriving | Way::Past => mount.path("sessions").join(session),
    };
    let bytes = bytes_of(11, SIZE);
    // Each file has a name of its own: faults are told apart by it.
    let number = |at: usize| 1 + at as u32;
    let name = |at: usize| media_name(session.len() as u32, number(at));
    let publish = |name: &str, number: u32, bytes: &Bytes| {
        worker.publish(session, segment(name, bytes, Some(0), Some(number)), bytes);
        let path = dir.join(name);
        eventually("it is shown", || path.exists());
        if way == Way::Again {
            // What was read may be pushed out.
            assert!(fs::read(path).unwrap() == *bytes);
        }
    };
    for at in 0..FAULTS.len() {
        publish(&name(at), number(at), &bytes);
    }
    if way == Way::Again {
        for filler in 100..116 {
            publish(&media_name(0, filler), filler, &bytes_of(5, 256 << 10));
        }
        let asked: u32 = (0..FAULTS.len()).map(|at| worker.asked(&name(at))).sum();
        assert_eq!(asked, FAULTS.len() as u32, "each was fetched once");
    }
    let mut readers = Vec::new();
    for (at, (fault, times, arriving, again, past)) in FAULTS.iter().enumerate() {
        let end = match way {
            Way::Arriving => arriving,
            Way::Again => again,
            Way::Past => past,
        };
        worker.lock().faults.insert(name(at), (*fault, *times));
        let what = format!("{fault:?} {times}, {way:?}");
        let out = mount.dir.path().join(format!("out-{at}"));
        readers.push(Reader::start(&dir.join(name(at)), &out, &bytes, what, *end));
    }
    wait_all(readers);
    // It was the worker, not the mount.
    worker.lock().faults.clear();
    for at in 0..FAULTS.len() {
        // A download that stalled counts as broken after a while.
        eventually("it is read when the worker is well", || {
            fs::read(dir.join(name(at)))
                .map(|read| assert!(read == bytes))
                .is_ok()
        });
    }
    worker.drop_session(session);
    if way == Way::Again {
        fs::remove_dir(&dir).unwrap();
    }
}

fn matrix(way: Way, ceiling: u64) {
    if !can_mount() {
        return;
    }
    let worker = FakeWorker::start("worker-1");
    let mount = MountApart::start(worker.url().as_str(), ceiling, DEADLINE);
    round(&worker, &mount, way, "a");
    let settled = |threads: usize, descriptors: &std::collections::BTreeMap<String, usize>| {
        let now = mount.descriptors();
        let sockets = |all: &std::collections::BTreeMap<String, usize>| {
            all.get("socket").copied().unwrap_or(0)
        };
        let others = |all: &std::collections::BTreeMap<String, usize>| {
            all.values().sum::<usize>() - sockets(all)
        };
        // Connections wait a while for the next use, one for each reader at most.
        mount.threads() <= threads
            && others(&now) <= others(descriptors)
            && sockets(&now) <= sockets(descriptors) + FAULTS.len()
    };
    // The first round has started what there is of threads.
    let (threads, mut descriptors) = (mount.threads(), mount.descriptors());
    eventually("all that was open for the first round is closed", || {
        descriptors = mount.descriptors();
        mount.usage().used == 0 || way != Way::Past && mount.usage().files > 0
    });
    round(&worker, &mount, way, "bb");
    eventually("no thread and no descriptor is left behind", || {
        settled(threads, &descriptors)
    });
    let usage = mount.usage();
    assert!(usage.peak <= usage.ceiling, "{usage:?}");
}

#[test]
fn faults_while_bytes_arrive() {
    matrix(Way::Arriving, 64 << 20);
}

#[test]
fn faults_while_a_held_file_comes_again() {
    matrix(Way::Again, 4 << 20);
}

#[test]
fn faults_while_a_file_streams_past_the_cache() {
    matrix(Way::Past, 64 << 10);
}

#[test]
fn a_worker_that_stops_or_dies_keeps_no_reader() {
    if !can_mount() {
        return;
    }
    let worker = WorkerApart::start(6, SIZE);
    let mount = MountApart::start(&worker.url, 64 << 20, DEADLINE);
    let name = |number: u32| media_name(0, number);
    let bytes = |number: u32| bytes_of(u64::from(number * 10) + 1, SIZE);
    let dir = mount.path("sessions/s1");
    eventually("the files are shown", || dir.join(name(6)).exists());
    let bound = mount.bind("play", "s1");
    let out = |number: u32| mount.dir.path().join(format!("out-{number}"));
    wait_held(&bound, &name(1)).unwrap();
    for number in 1..=4 {
        wait_held(&bound, &name(number)).unwrap();
    }
    fs::remove_file(bound.join(name(4))).unwrap();
    let start = |number: u32, what: &str, end: End| {
        let path = dir.join(name(number));
        Reader::start(&path, &out(number), &bytes(number), what.to_owned(), end)
    };

    worker.signal(Signal::STOP);
    wait_all(vec![
        start(4, "of a frozen worker", End::Errno),
        // What is held needs no worker.
        Reader::start(
            &bound.join(name(1)),
            &out(1),
            &bytes(1),
            "held".into(),
            End::Right,
        ),
    ]);
    worker.signal(Signal::CONT);
    eventually("it goes on when the worker does", || {
        fs::read(dir.join(name(4))).is_ok_and(|read| read == bytes(4))
    });
    worker.signal(Signal::KILL);
    fs::remove_file(bound.join(name(2))).unwrap();
    wait_all(vec![start(2, "of a dead worker", End::Errno)]);
    assert!(fs::read(bound.join(name(3))).unwrap() == bytes(3));
}

/// A cable that is pulled: no packet arrives, and nobody is told.
#[test]
fn a_worker_that_cannot_be_reached_keeps_no_reader() {
    if !can_mount() {
        return;
    }
    let network = Network::new();
    let worker = WorkerApart::start_in(Some(&network), 4, SIZE);
    let mount = MountApart::start_in(Some(&network), &worker.url, 64 << 20, DEADLINE);
    let name = |number: u32| media_name(0, number);
    let bytes = |number: u32| bytes_of(u64::from(number * 10) + 1, SIZE);
    let bound = mount.bind("play", "s1");
    for number in 1..=3 {
        wait_held(&bound, &name(number)).unwrap();
    }
    // Not held, so they are asked for again: one over a connection that is there.
    let dir = mount.path("sessions/s1");
    for number in 1..=2 {
        fs::remove_file(bound.join(name(number))).unwrap();
    }
    let start = |dir: &Path, number: u32, what: &str, end: End| {
        let out = mount.dir.path().join(format!("out-{number}"));
        let path = dir.join(name(number));
        Reader::start(&path, &out, &bytes(number), what.to_owned(), end)
    };
    network.lose_all();
    wait_all(vec![
        start(&dir, 1, "of a lost worker", End::Errno),
        start(&dir, 2, "of a lost worker, too", End::Errno),
        // What is held needs no network.
        start(&bound, 3, "held", End::Right),
    ]);
    let is_live = || {
        let json = get_attribute(&mount.path(""), XATTR_STATUS).unwrap();
        let status: MountStatus = serde_json::from_str(&json).unwrap();
        status.workers.iter().any(|worker| worker.live)
    };
    eventually("the mount knows that it lost its worker", || !is_live());
    assert!(names(&dir).contains(&name(1)));
    network.heal();
    eventually("the worker is back", is_live);
    eventually("it goes on when packets arrive", || {
        fs::read(dir.join(name(1))).is_ok_and(|read| read == bytes(1))
    });
}
