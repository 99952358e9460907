//! P4: nothing but `read` and `getxattr` ever waits, and what waits holds up nobody else.

use crate::support::*;
use plexbeam_api::mount::XATTR_HELD;
use rustix::io::Errno;
use std::{
    fs::{self, File},
    io::Read,
    os::unix::fs::symlink,
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

/// Rounds of all calls below, while everything is parked.
const ROUNDS: u32 = 100;
/// Waits of each kind.
const PARKED: usize = 6;

/// Every call that a program may make on names and attributes of a directory, and on its files.
fn all_but_waiting(dir: &Path, held: &str) {
    let (a, b) = (dir.join("a"), dir.join("b"));
    fs::write(&a, "local").unwrap();
    assert_eq!(fs::read(&a).unwrap(), b"local");
    fs::rename(&a, &b).unwrap();
    fs::hard_link(&b, &a).unwrap();
    set(&b, "user.x", b"y").unwrap();
    assert_eq!(get_attribute(&b, "user.x").as_deref(), Ok("y"));
    fs::remove_file(&a).unwrap();
    fs::create_dir(dir.join("sub")).unwrap();
    fs::rename(&b, dir.join("sub/b")).unwrap();
    symlink("sub/b", dir.join("link")).unwrap();
    assert_eq!(fs::read(dir.join("link")).unwrap(), b"local");
    assert!(names(dir).contains(&held.to_owned()));
    assert!(fs::metadata(dir.join(held)).unwrap().is_file());
    assert_eq!(errno(fs::metadata(dir.join("absent"))), Errno::NOENT);
    assert_eq!(errno(fs::rename(dir.join(held), &a)), Errno::XDEV);
    drop(File::open(dir.join(held)).unwrap());
    File::open(dir).unwrap().sync_all().unwrap();
    rustix::fs::statvfs(dir).unwrap();
    fs::remove_dir_all(dir.join("sub")).unwrap();
    fs::remove_file(dir.join("link")).unwrap();
}

/// The system call in which a thread of this process is, by its number.
pub(crate) fn call_of(thread: i32) -> Option<i64> {
    let text = fs::read_to_string(format!("/proc/self/task/{thread}/syscall")).ok()?;
    text.split(' ').next()?.parse().ok()
}

#[test]
fn parked_reads_and_waits_hold_up_nothing_else() {
    if !can_mount() {
        return;
    }
    for passthrough in [true, false] {
        let env = Env::with(|config| {
            config.passthrough = passthrough;
            config.read_deadline = Duration::from_secs(120);
            // One long segment at a time.
            config.cache.ceiling = 1 << 20;
        });
        env.worker.new_session("s1");
        let dir = env.bind("play", "s1");
        let (first, second) = (media_name(0, 1), media_name(0, 2));
        let bytes = env.worker.publish_media("s1", 0, 1, 700_000);
        env.wait_held("play", &first).unwrap();
        assert!(fs::read(dir.join(&first)).unwrap() == bytes);
        env.worker.publish_media("s1", 0, 2, 1_000);
        env.wait_held("play", &second).unwrap();
        // Another session's segment pushes the first one out, and goes with its directory. Then there
        // is room for the first one again, also while a handle of the test's is not yet released.
        env.worker.new_session("s2");
        let other = env.bind("other", "s2");
        env.worker.publish_media("s2", 0, 9, 700_000);
        env.wait_held("other", &media_name(0, 9)).unwrap();
        fs::remove_dir_all(other).unwrap();
        eventually("room", || env.cache_usage().used <= 1 << 12);
        env.worker.lock().halved.insert(first.clone());

        let (ended, waited) = (AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|scope| {
            let (tell, told) = std::sync::mpsc::channel();
            for _ in 0..PARKED {
                // Reads of a segment that comes again, the rest of which the worker keeps back.
                let (path, ended) = (dir.join(&first), &ended);
                let bytes = &bytes;
                scope.spawn(move || {
                    let mut content = Vec::new();
                    File::open(path).unwrap().read_to_end(&mut content).unwrap();
                    assert!(content == *bytes);
                    ended.fetch_add(1, Ordering::Relaxed);
                });
                // Waits for a segment that was not made yet, asked again as the cartridge does.
                let (path, waited, tell) = (&dir, &waited, tell.clone());
                scope.spawn(move || {
                    tell.send(rustix::thread::gettid().as_raw_nonzero().get())
                        .unwrap();
                    let name = format!("{XATTR_HELD}.{}", media_name(0, 3));
                    let deadline = Instant::now() + Duration::from_secs(120);
                    loop {
                        match get_attribute(path, &name) {
                            // Also where the rest of this test failed and publishes nothing.
                            Err(Errno::AGAIN | Errno::BUSY) if Instant::now() < deadline => {}
                            other => break drop(other.unwrap()),
                        }
                    }
                    waited.fetch_add(1, Ordering::Relaxed);
                });
            }
            drop(tell);
            let threads: Vec<i32> = told.iter().take(PARKED).collect();
            eventually("all reads are parked", || env.worker.asked(&first) == 2);
            eventually("all waits are parked", || {
                let parked = |thread: &&i32| call_of(**thread) == Some(libc::SYS_getxattr);
                threads.iter().filter(parked).count() == PARKED
            });
            for _ in 0..ROUNDS {
                all_but_waiting(&dir, &second);
            }
            // They were all parked the whole time.
            assert_eq!(ended.load(Ordering::Relaxed), 0);
            assert_eq!(waited.load(Ordering::Relaxed), 0);
            env.worker.publish_media("s1", 0, 3, 1_000);
            env.worker.open_gate();
        });
        assert_eq!(ended.load(Ordering::Relaxed), PARKED as u32);
        assert_eq!(waited.load(Ordering::Relaxed), PARKED as u32);
    }
}
