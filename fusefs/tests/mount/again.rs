//! A segment that was evicted here, dropped by its worker and made again with other bytes.

use crate::support::*;
use bytes::Bytes;
use plexbeam_api::mount::{Held, XATTR_HELD};
use rustix::io::Errno;
use std::{
    fs,
    os::unix::fs::{FileExt, MetadataExt},
    path::PathBuf,
};

const SIZE: usize = 60_000;

/// A bound directory whose cache takes two files.
fn bound(passthrough: bool) -> (Env, PathBuf, Vec<Bytes>) {
    let env = Env::with(|config| {
        config.cache.ceiling = 128 << 10;
        config.passthrough = passthrough;
    });
    env.worker.new_session("s1");
    let dir = env.bind("play", "s1");
    let mut all = Vec::new();
    for number in 1..=6 {
        all.push(env.worker.publish_media("s1", 0, number, SIZE));
        env.wait_held("play", &media_name(0, number)).unwrap();
        assert_eq!(
            fs::read(dir.join(media_name(0, number))).unwrap(),
            all[number as usize - 1]
        );
    }
    (env, dir, all)
}

/// What another encoder made of it.
fn other(number: u32, len: usize) -> Bytes {
    bytes_of(1000 + u64::from(number), len)
}

#[test]
fn the_new_making_is_a_file_of_its_own() {
    if !can_mount() {
        return;
    }
    for passthrough in [true, false] {
        let (env, dir, all) = bound(passthrough);
        let name = media_name(0, 1);
        let path = dir.join(&name);
        let before = fs::metadata(&path).unwrap();
        // Open from before, with its first bytes read, and not open in the cache.
        let reader = fs::File::open(&path).unwrap();
        let mut start = vec![0; 1000];
        reader.read_exact_at(&mut start, 0).unwrap();
        assert_eq!(start, all[0][..1000]);
        for number in 5..=6 {
            fs::read(dir.join(media_name(0, number))).unwrap();
        }
        let new = other(1, SIZE + 500);
        env.worker.remake("s1", &name, &new);
        let mut rest = vec![0; SIZE];
        assert_eq!(errno(reader.read_at(&mut rest, 1000)), Errno::STALE);
        assert_eq!(errno(reader.read_at(&mut rest, 0)), Errno::STALE);
        // From then on the name leads to the new file: open, and what it says of itself.
        assert!(fs::read(&path).unwrap() == new);
        eventually("the kernel has forgotten the first size", || {
            fs::metadata(&path).unwrap().len() == new.len() as u64
        });
        assert_ne!(fs::metadata(&path).unwrap().ino(), before.ino());
        let held = get_attribute(&dir, XATTR_HELD).unwrap();
        let held: Vec<Held> = serde_json::from_str(&held).unwrap();
        let digest = plexbeam_api::segment::Digest::of(&new);
        assert!(held.iter().any(|held| held.digest == digest));
        assert_eq!(held.len(), 6);
        // The old handle stays what it was.
        assert_eq!(reader.metadata().unwrap().ino(), before.ino());
        assert_eq!(errno(reader.read_at(&mut rest, 0)), Errno::STALE);
        drop(reader);
        // Made once more, and once more with the bytes of the first time.
        for bytes in [other(2, SIZE), all[0].clone()] {
            for number in 5..=6 {
                fs::read(dir.join(media_name(0, number))).unwrap();
            }
            env.worker.remake("s1", &name, &bytes);
            assert_eq!(errno(fs::read(&path)), Errno::STALE);
            assert!(fs::read(&path).unwrap() == bytes);
        }
        fs::remove_dir_all(&dir).unwrap();
        eventually("the session is ended", || {
            env.worker.lock().ended.len() == 1
        });
    }
}

#[test]
fn the_same_under_sessions() {
    if !can_mount() {
        return;
    }
    let (env, dir, _) = bound(true);
    let path = env.path("sessions/s1").join(media_name(0, 2));
    let new = other(2, SIZE - 700);
    env.worker.remake("s1", &media_name(0, 2), &new);
    assert_eq!(errno(fs::read(&path)), Errno::STALE);
    assert!(fs::read(&path).unwrap() == new);
    // The directory that held it finds the same without an error of its own.
    assert!(fs::read(dir.join(media_name(0, 2))).unwrap() == new);
}

/// Six readers at once, while it is made again under them: each gets one making whole, or an error.
#[test]
fn no_reader_gets_a_mixture() {
    if !can_mount() {
        return;
    }
    let (env, dir, all) = bound(true);
    let name = media_name(0, 1);
    let makings: Vec<Bytes> = (0..20)
        .map(|n| other(n, SIZE + 1000 * n as usize))
        .collect();
    let known = |bytes: &[u8]| bytes == all[0] || makings.iter().any(|m| m == bytes);
    let push_out = || {
        for number in 3..=6 {
            fs::read(dir.join(media_name(0, number))).unwrap();
        }
    };
    for pair in makings.chunks(2) {
        env.worker.remake("s1", &name, &pair[0]);
        push_out();
        std::thread::scope(|scope| {
            for at in 0..6 {
                let path = match at % 2 {
                    0 => dir.join(&name),
                    _ => env.path("sessions/s1").join(&name),
                };
                scope.spawn(move || {
                    for _ in 0..10 {
                        match read_in_steps(&path) {
                            Ok(bytes) => assert!(known(&bytes), "a mixture"),
                            Err(error) => {
                                let number = Errno::from_io_error(&error).unwrap();
                                assert!([Errno::STALE, Errno::IO].contains(&number), "{error}");
                            }
                        }
                    }
                });
            }
            push_out();
            env.worker.remake("s1", &name, &pair[1]);
            push_out();
        });
        // Nobody has it open any more.
        push_out();
        let read = fs::read(dir.join(&name)).or_else(|_| fs::read(dir.join(&name)));
        assert!(read.unwrap() == pair[1]);
    }
    let usage = env.cache_usage();
    assert!(usage.peak <= usage.ceiling, "{usage:?}");
}

/// By small reads, so that much can happen in between.
fn read_in_steps(path: &std::path::Path) -> std::io::Result<Vec<u8>> {
    let file = fs::File::open(path)?;
    let mut bytes = Vec::new();
    let mut block = vec![0; 7_000];
    loop {
        match file.read_at(&mut block, bytes.len() as u64)? {
            0 => return Ok(bytes),
            len => bytes.extend_from_slice(&block[..len]),
        }
    }
}
