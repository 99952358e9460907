//! P6: the ceiling is hard, and the reader gets everything all the same.

use crate::support::*;
use rustix::io::Errno;
use std::fs;

const MIB: usize = 1 << 20;

/// Ten times the ceiling in two renditions, read in step by a player.
#[test]
fn a_job_of_ten_ceilings_is_read_to_its_end() {
    if !can_mount() {
        return;
    }
    for passthrough in [true, false] {
        let env = Env::with(|config| {
            config.cache.ceiling = 4 * MIB as u64;
            config.passthrough = passthrough;
        });
        env.worker.new_session("s1");
        let dir = env.bind("play", "s1");
        let init = bytes_of(99, 1_000);
        env.worker.publish(
            "s1",
            segment("init-stream0.m4s", &init, Some(0), None),
            &init,
        );
        let video: Vec<_> = (1..=50)
            .map(|n| env.worker.publish_media("s1", 0, n, 600_000 + n as usize))
            .collect();
        // Interleaved as a muxer would, but all known at once.
        let audio: Vec<_> = (1..=50)
            .map(|n| env.worker.publish_media("s1", 1, n, 200_000 + n as usize))
            .collect();
        env.worker.finish("s1");
        for number in 1..=50 {
            for (rendition, all) in [(0, &video), (1, &audio)] {
                let name = media_name(rendition, number);
                // Audio comes after all of the video here: read it where it is.
                let path = if rendition == 0 {
                    env.wait_held("play", &name).unwrap();
                    dir.join(&name)
                } else {
                    env.path("sessions/s1").join(&name)
                };
                let expected = &all[number as usize - 1];
                assert_eq!(fs::metadata(&path).unwrap().len(), expected.len() as u64);
                assert!(fs::read(&path).unwrap() == *expected, "{name} differs");
            }
            assert_eq!(fs::read(dir.join("init-stream0.m4s")).unwrap(), init);
            // The worker is asked no more than a cache's worth ahead of the reader.
            let furthest = (1..=50)
                .filter(|n| env.worker.asked(&media_name(0, *n)) > 0)
                .max();
            assert!(furthest.unwrap() <= number + 4 * MIB as u32 / 600_000 + 1);
        }
        let usage = env.cache_usage();
        assert!(usage.peak <= usage.ceiling, "{usage:?}");
        assert!(usage.peak > usage.ceiling / 2, "{usage:?}");
        // The header was never fetched again.
        assert_eq!(env.worker.asked("init-stream0.m4s"), 1);

        // The first ones were pushed out; they keep name and size, and come again.
        let first = media_name(0, 1);
        assert_eq!(env.worker.asked(&first), 1);
        assert_eq!(
            fs::metadata(dir.join(&first)).unwrap().len(),
            video[0].len() as u64
        );
        assert!(fs::read(dir.join(&first)).unwrap() == video[0]);
        assert_eq!(env.worker.asked(&first), 2);
        let usage = env.cache_usage();
        assert!(usage.peak <= usage.ceiling, "{usage:?}");
    }
}

#[test]
fn a_file_beyond_the_ceiling_streams_past_the_cache() {
    if !can_mount() {
        return;
    }
    let env = Env::with(|config| config.cache.ceiling = 2 * MIB as u64);
    env.worker.new_session("s1");
    let dir = env.bind("play", "s1");
    let bytes = env.worker.publish_media("s1", 0, 1, 5 * MIB + 77);
    env.wait_held("play", &media_name(0, 1)).unwrap();
    assert!(fs::read(dir.join(media_name(0, 1))).unwrap() == bytes);
    assert!(fs::read(env.path("sessions/s1").join(media_name(0, 1))).unwrap() == bytes);
    assert_eq!(env.cache_usage().peak, 0);
}

/// One that nobody reads does not keep another from starting.
#[test]
fn a_second_session_gets_its_share() {
    if !can_mount() {
        return;
    }
    let env = Env::with(|config| config.cache.ceiling = 4 * MIB as u64);
    for session in ["idle", "busy"] {
        env.worker.new_session(session);
    }
    env.bind("idle", "idle");
    for number in 1..=20 {
        env.worker.publish_media("idle", 0, number, MIB / 2);
    }
    eventually("the idle one fills the cache", || {
        env.cache_usage().used > 3 * MIB as u64
    });
    let dir = env.bind("busy", "busy");
    for number in 1..=20 {
        let bytes = env.worker.publish_media("busy", 0, number, MIB / 2);
        env.wait_held("busy", &media_name(0, number)).unwrap();
        assert!(fs::read(dir.join(media_name(0, number))).unwrap() == bytes);
    }
    // What the idle one was shown is still there to be read.
    for name in names(&env.path("idle")) {
        assert_eq!(
            fs::read(env.path("idle").join(name)).unwrap().len(),
            MIB / 2
        );
    }
    assert!(env.cache_usage().peak <= 4 * MIB as u64);
}

/// The announcement's wait tells a full cache from a slow worker.
#[test]
fn a_pausing_viewer_stops_the_fetching_and_it_is_said() {
    if !can_mount() {
        return;
    }
    let env = Env::with(|config| config.cache.ceiling = 2 * MIB as u64);
    env.worker.new_session("s1");
    let dir = env.bind("play", "s1");
    for number in 1..=9 {
        env.worker.publish_media("s1", 0, number, MIB / 2);
    }
    let fifth = format!("{}.{}", plexbeam_api::mount::XATTR_HELD, media_name(0, 5));
    eventually("the cache is full", || {
        get_attribute(&dir, &fifth) == Err(Errno::BUSY)
    });
    assert_eq!(names(&dir).len(), 4);
    assert_eq!(env.worker.asked(&media_name(0, 5)), 0);
    fs::read(dir.join(media_name(0, 1))).unwrap();
    env.wait_held("play", &media_name(0, 5)).unwrap();
}

/// Segments larger than half the ceiling: no two fit, and the player still goes on.
#[test]
fn a_reader_is_never_starved_by_a_small_cache() {
    if !can_mount() {
        return;
    }
    let env = Env::with(|config| config.cache.ceiling = MIB as u64);
    env.worker.new_session("s1");
    let dir = env.bind("play", "s1");
    for number in 1..=3 {
        for rendition in [0, 1] {
            env.worker
                .publish_media("s1", rendition, number, MIB * 2 / 3);
        }
    }
    for number in 1..=3 {
        // As the cartridge: both first, then the player.
        for rendition in [0, 1] {
            env.wait_held("play", &media_name(rendition, number))
                .unwrap();
        }
        for rendition in [0, 1] {
            let name = media_name(rendition, number);
            assert_eq!(fs::read(dir.join(name)).unwrap().len(), MIB * 2 / 3);
        }
    }
    assert!(env.cache_usage().peak <= MIB as u64);
}

#[test]
fn many_readers_cause_one_fetch() {
    if !can_mount() {
        return;
    }
    let env = Env::new();
    env.worker.new_session("s1");
    let name = media_name(0, 1);
    env.worker.lock().halved.insert(name.clone());
    let bytes = env.worker.publish_media("s1", 0, 1, 3 * MIB);
    let path = env.path("sessions/s1").join(&name);
    eventually("the file is listed", || path.exists());
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..16)
            .map(|_| scope.spawn(|| fs::read(&path).unwrap()))
            .collect();
        eventually("the fetch has begun", || env.worker.lock().halves_sent == 1);
        env.worker.open_gate();
        for reader in readers {
            assert!(reader.join().unwrap() == bytes);
        }
    });
    assert_eq!(env.worker.asked(&name), 1);
}

/// A cache folder that takes nothing degrades to streaming.
#[test]
fn a_full_cache_folder_is_survived() {
    if !can_mount() {
        return;
    }
    let small = tempfile::tempdir().unwrap();
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("none", small.path(), "tmpfs", flags, c"size=1m").unwrap();
    {
        let env = Env::with(|config| config.cache.dir = Some(small.path().to_path_buf()));
        env.worker.new_session("s1");
        let dir = env.bind("play", "s1");
        let bytes = env.worker.publish_media("s1", 0, 1, 3 * MIB);
        env.wait_held("play", &media_name(0, 1)).unwrap();
        assert!(fs::read(dir.join(media_name(0, 1))).unwrap() == bytes);
        assert_eq!(env.cache_usage().used, 0);
        assert_eq!(errno(fs::metadata(dir.join("absent"))), Errno::NOENT);
        // Readers in step with a download have some of its bytes before the folder refuses them.
        env.worker.new_session("s2");
        for number in 1..=8 {
            let name = media_name(0, number);
            let bytes = env.worker.publish_media("s2", 0, number, 3 * MIB);
            let path = env.path("sessions/s2").join(&name);
            eventually("the name", || path.exists());
            std::thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| assert!(fs::read(&path).unwrap() == bytes));
                }
            });
        }
        eventually("no bytes are counted", || env.cache_usage().used == 0);
    }
    rustix::mount::unmount(small.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
}
