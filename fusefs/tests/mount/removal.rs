//! Names that are removed from bound directories, and directories that go with their session.

use crate::support::*;
use plexbeam_api::mount::XATTR_HELD;
use rustix::io::Errno;
use std::{
    fs,
    io::Read,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
};

/// PMS's `rm -r` comes to its end at once, however fast the worker publishes, and whoever reads.
#[test]
fn rm_r_succeeds_in_a_publish_storm() {
    if !can_mount() {
        return;
    }
    let env = Env::new();
    std::thread::scope(|scope| {
        for player in 0..3 {
            let env = &env;
            scope.spawn(move || {
                for round in 0..12 {
                    storm(env, &format!("storm-{player}-{round}"), 1 + 2 * round);
                }
            });
        }
    });
    eventually("all bytes came back", || env.cache_usage().used == 0);
}

fn storm(env: &Env, session: &str, met: u32) {
    env.worker.new_session(session);
    let dir = env.bind(session, session);
    fs::write(dir.join("temp-0.srt"), "1\n").unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut number = 1;
            while !stop.load(Ordering::Relaxed) && number < 1_000 {
                env.worker.publish_media(session, 0, number, 2_000);
                number += 1;
            }
        });
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let Ok(entries) = fs::read_dir(&dir) else {
                    continue;
                };
                for entry in entries.flatten() {
                    match fs::read(entry.path()) {
                        Ok(bytes) => assert!([2, 2_000].contains(&bytes.len())),
                        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound),
                    }
                }
            }
        });
        // Rounds meet the storm at different points.
        env.wait_held(session, &media_name(0, met)).unwrap();
        let output = Command::new("rm").arg("-r").arg(&dir).output().unwrap();
        stop.store(true, Ordering::Relaxed);
        assert!(output.status.success(), "{session}: {output:?}");
    });
    assert_eq!(errno(fs::metadata(&dir)), Errno::NOENT);
    eventually("the session is ended", || {
        env.worker.lock().ended.contains(&id(session))
    });
}

#[test]
fn rmdir_needs_an_empty_upper_layer_only_and_ends_the_session() {
    if !can_mount() {
        return;
    }
    let env = Env::new();
    env.worker.new_session("s1");
    let dir = env.bind("play", "s1");
    env.worker.publish_media("s1", 0, 1, 5_000);
    env.wait_held("play", &media_name(0, 1)).unwrap();
    fs::write(dir.join("mine"), "x").unwrap();
    assert_eq!(errno(fs::remove_dir(&dir)), Errno::NOTEMPTY);
    fs::remove_file(dir.join("mine")).unwrap();
    let mut open = fs::File::open(dir.join(media_name(0, 1))).unwrap();
    fs::remove_dir(&dir).unwrap();
    assert!(!names(&env.path("")).contains(&"play".to_owned()));
    eventually("the session is ended", || {
        env.worker.lock().ended == [id("s1")]
    });
    eventually("the session is not shown", || {
        names(&env.path("sessions")).is_empty()
    });
    // Who has it open reads on, and its bytes count until then.
    let mut content = Vec::new();
    open.read_to_end(&mut content).unwrap();
    assert_eq!(content.len(), 5_000);
    assert!(env.cache_usage().used >= 5_000);
    drop(open);
    eventually("all bytes came back", || env.cache_usage().used == 0);
    // The name is free again, and unbound.
    fs::create_dir(&dir).unwrap();
    assert_eq!(get_attribute(&dir, XATTR_HELD), Err(Errno::NODATA));
}

#[test]
fn the_first_removal_freezes_the_binding() {
    if !can_mount() {
        return;
    }
    let env = Env::new();
    env.worker.new_session("s1");
    let dir = env.bind("play", "s1");
    let (one, two, three) = (media_name(0, 1), media_name(0, 2), media_name(0, 3));
    env.worker.publish_media("s1", 0, 1, 5_000);
    env.worker.publish_media("s1", 0, 2, 5_000);
    env.wait_held("play", &one).unwrap();
    env.wait_held("play", &two).unwrap();
    fs::remove_file(dir.join(&one)).unwrap();
    env.worker.publish_media("s1", 0, 3, 5_000);
    eventually("the mount knows of the third", || {
        names(&env.path("sessions/s1")).contains(&three)
    });
    assert_eq!(env.wait_held("play", &three), Err(Errno::NODATA));
    assert_eq!(env.wait_held("play", &one), Err(Errno::NODATA));
    assert_eq!(names(&dir), [two]);
    assert_eq!(env.bind_again("play", "s1", 2), Err(Errno::STALE));
    // The name is the upper layer's now.
    fs::write(dir.join(&one), "local").unwrap();
    assert_eq!(fs::read(dir.join(&one)).unwrap(), b"local");
}

#[test]
fn the_upper_layer_wins_for_names_never_held() {
    if !can_mount() {
        return;
    }
    let env = Env::new();
    env.worker.new_session("s1");
    let dir = env.bind("play", "s1");
    let (mine, theirs) = (media_name(0, 1), media_name(0, 2));
    fs::write(dir.join(&mine), "local").unwrap();
    env.worker.publish_media("s1", 0, 1, 5_000);
    let bytes = env.worker.publish_media("s1", 0, 2, 5_000);
    env.wait_held("play", &theirs).unwrap();
    assert_eq!(env.wait_held("play", &mine), Err(Errno::NODATA));
    assert_eq!(fs::read(dir.join(&mine)).unwrap(), b"local");

    // A held name keeps its bytes against everything but its removal.
    let theirs = dir.join(theirs);
    assert_eq!(errno(fs::write(&theirs, "other")), Errno::PERM);
    assert_eq!(
        errno(fs::OpenOptions::new().append(true).open(&theirs)),
        Errno::PERM
    );
    assert_eq!(errno(fs::rename(dir.join(&mine), &theirs)), Errno::PERM);
    assert_eq!(errno(fs::rename(&theirs, dir.join("moved"))), Errno::XDEV);
    assert_eq!(
        errno(fs::hard_link(&theirs, dir.join("linked"))),
        Errno::XDEV
    );
    assert_eq!(errno(fs::create_dir(&theirs)), Errno::EXIST);
    assert_eq!(fs::read(&theirs).unwrap(), bytes);
    // `mv` copies where it cannot move.
    let moved = Command::new("mv")
        .arg(&theirs)
        .arg(env.path("moved"))
        .status()
        .unwrap();
    assert!(moved.success());
    assert_eq!(fs::read(env.path("moved")).unwrap(), bytes);
}

#[test]
fn a_directory_removed_beneath_the_mount_ends_its_session() {
    if !can_mount() {
        return;
    }
    let env = Env::with(|config| {
        let backing = config.mountpoint.parent().unwrap().join("backing");
        fs::create_dir_all(&backing).unwrap();
        config.backing = Some(backing);
    });
    env.worker.new_session("s1");
    env.bind("play", "s1");
    env.worker.publish_media("s1", 0, 1, 5_000);
    env.wait_held("play", &media_name(0, 1)).unwrap();
    fs::remove_dir(env.dir.path().join("backing/play")).unwrap();
    eventually("the session is ended", || {
        env.worker.lock().ended == [id("s1")]
    });
    eventually("all bytes came back", || env.cache_usage().used == 0);
}
