//! Many sessions at once in a small cache: all bytes right, the ceiling never passed, and little memory.

use crate::{apart::*, support::*};
use bytes::Bytes;
use std::{fs, path::Path, sync::atomic::AtomicBool, sync::atomic::Ordering, time::Duration};

/// What the daemon may use beside the cache, KiB.
const MEMORY: u64 = 48 << 10;
const READERS: usize = 2;

/// Segments of one session, and what they hold: parts of one text, so that a test's own memory stays
/// small.
#[derive(Clone, Copy)]
struct Plan<'a> {
    text: &'a Bytes,
    sessions: usize,
    segments: u32,
    size: usize,
}

impl Plan<'_> {
    fn bytes(&self, session: usize, number: u32) -> Bytes {
        let parts = self.text.len() - self.size;
        let at = (session * 7919 + number as usize * 104_729) % parts;
        self.text.slice(at..at + self.size)
    }
}

fn play(plan: Plan<'_>, dir: &Path, session: usize) {
    for number in 1..=plan.segments {
        let name = media_name(0, number);
        wait_held(dir, &name).unwrap();
        let read = fs::read(dir.join(&name)).unwrap();
        assert!(read == plan.bytes(session, number), "{session} {name}");
    }
}

fn crowd(sessions: usize, segments: u32, size: usize, ceiling: u64) {
    if !can_mount() {
        return;
    }
    let text = bytes_of(3, 8 << 20);
    let plan = Plan {
        text: &text,
        sessions,
        segments,
        size,
    };
    let worker = FakeWorker::start("worker-1");
    let mount = MountApart::start(worker.url().as_str(), ceiling, Duration::from_secs(30));
    let name = |session: usize| format!("s{session}");
    let dirs: Vec<_> = (0..plan.sessions)
        .map(|session| {
            worker.new_session(&name(session));
            mount.bind(&name(session), &name(session))
        })
        .collect();
    let before = mount.memory("VmRSS");
    let over = AtomicBool::new(false);
    let mut most = 0;
    std::thread::scope(|scope| {
        let mut readers = Vec::new();
        for (session, dir) in dirs.iter().enumerate() {
            for _ in 0..READERS {
                let thread = std::thread::Builder::new().stack_size(256 << 10);
                let reader = thread.spawn_scoped(scope, move || play(plan, dir, session));
                readers.push(reader.unwrap());
            }
        }
        scope.spawn(|| {
            for number in 1..=plan.segments {
                for session in 0..plan.sessions {
                    let bytes = plan.bytes(session, number);
                    let file = segment(&media_name(0, number), &bytes, Some(0), Some(number));
                    worker.publish(&name(session), file, &bytes);
                }
            }
        });
        let watch = scope.spawn(|| {
            let mut most = 0;
            while !over.load(Ordering::Relaxed) {
                most = most.max(mount.memory("VmRSS"));
                std::thread::sleep(Duration::from_millis(5));
            }
            most
        });
        let ends: Vec<_> = readers.into_iter().map(|reader| reader.join()).collect();
        over.store(true, Ordering::Relaxed);
        most = watch.join().unwrap();
        assert!(ends.iter().all(Result::is_ok));
    });
    let usage = mount.usage();
    let peak = mount.memory("VmHWM");
    println!(
        "{sessions} sessions with {READERS} readers each, {segments} segments of {size} bytes: \
         {before} KiB resident before, at most {most} (kernel: {peak}); cache {usage:?}"
    );
    assert!(usage.peak <= usage.ceiling, "{usage:?}");
    assert!(usage.peak > usage.ceiling / 2, "{usage:?}");
    // The cache's files lie on disk; what is resident is the daemon's own.
    assert!(most.max(peak) <= MEMORY, "{most} KiB, {peak} KiB");
}

#[test]
fn twenty_sessions_share_a_small_cache() {
    crowd(20, 6, 400_000, 8 << 20);
}

/// In `torture`, since it is long.
pub(crate) fn two_hundred_sessions() {
    crowd(200, 12, 600_000, 64 << 20);
}
