//! Bound directories: P2, P3, and whose sessions they show.

use crate::support::*;
use plexbeam_api::mount::{Held, WorkerRow, XATTR_HELD, XATTR_MOUNT, XATTR_SOURCE, XATTR_WORKERS};
use rustix::io::Errno;
use std::{
    fs,
    io::{Read, Write},
    os::unix::fs::MetadataExt,
    time::Duration,
};

/// P2, and P3 as the cartridge relies on it.
#[test]
fn a_name_appears_when_its_bytes_are_whole_and_here() {
    if !can_mount() {
        return;
    }
    for passthrough in [true, false] {
        let env = Env::with(|config| config.passthrough = passthrough);
        env.worker.new_session("s1");
        let dir = env.bind("play", "s1");
        let name = media_name(0, 1);
        env.worker.lock().halved.insert(name.clone());
        let bytes = env.worker.publish_media("s1", 0, 1, 300_000);
        eventually("the first half was sent", || {
            env.worker.lock().halves_sent == 1
        });

        assert_eq!(errno(fs::metadata(dir.join(&name))), Errno::NOENT);
        assert_eq!(errno(fs::File::open(dir.join(&name))), Errno::NOENT);
        assert!(names(&dir).is_empty());
        assert_eq!(
            get_attribute(&dir, &format!("{XATTR_HELD}.{name}")),
            Err(Errno::AGAIN)
        );

        env.worker.open_gate();
        let held: Held = serde_json::from_str(&env.wait_held("play", &name).unwrap()).unwrap();
        assert_eq!((held.size, held.name.as_str()), (300_000, name.as_str()));
        // From here on there is no waiting: announced is held.
        assert_eq!(fs::metadata(dir.join(&name)).unwrap().len(), 300_000);
        assert_eq!(names(&dir), [name.as_str()]);
        assert_eq!(fs::read(dir.join(&name)).unwrap(), bytes);
        assert_eq!(env.worker.asked(&name), 1);
        let list: Vec<Held> =
            serde_json::from_str(&get_attribute(&dir, XATTR_HELD).unwrap()).unwrap();
        assert_eq!(list, [held]);
    }
}

/// Whether the worker tells the checksum or, as an older one, only the digest.
#[test]
fn damage_is_fetched_again_and_never_shown() {
    if !can_mount() {
        return;
    }
    let env = Env::new();
    for (rendition, tells_checksum) in [(0, true), (1, false)] {
        damage(&env, rendition, tells_checksum);
    }
}

fn damage(env: &Env, rendition: u32, tells_checksum: bool) {
    let session = &format!("s{rendition}");
    env.worker.new_session(session);
    let dir = env.bind(session, session);
    let [bad, once, good] = [1, 2, 3].map(|number| media_name(rendition, number));
    env.worker.lock().damage.insert(bad.clone(), u32::MAX);
    env.worker.lock().damage.insert(once.clone(), 1);
    env.worker.lock().failures.insert(good.clone(), 2);
    let bytes = bytes_of(7, 5_000);
    for (number, name) in (1..).zip([&bad, &once, &good]) {
        let mut segment = segment(name, &bytes, Some(rendition), Some(number));
        segment.checksum = segment.checksum.filter(|_| tells_checksum);
        env.worker.publish(session, segment, &bytes);
    }

    env.wait_held(session, &once).unwrap();
    env.wait_held(session, &good).unwrap();
    assert_eq!(env.wait_held(session, &bad), Err(Errno::NODATA));
    assert_eq!(env.worker.asked(&bad), 3);
    assert_eq!(env.worker.asked(&once), 2);
    assert_eq!(env.worker.asked(&good), 3);
    assert_eq!(names(&dir), [once.clone(), good]);
    assert_eq!(fs::read(dir.join(once)).unwrap(), bytes);
    // Nor does it come in by the other door.
    let read = fs::read(env.path("sessions").join(session).join(&bad));
    assert_eq!(errno(read), Errno::IO);
}

#[test]
fn only_this_mounts_workers_and_higher_epochs_are_taken() {
    if !can_mount() {
        return;
    }
    let env = Env::new();
    env.worker.new_session("s1");
    env.worker.new_session("s2");
    let dir = env.path("play");
    fs::create_dir(&dir).unwrap();
    assert_eq!(set(&dir, XATTR_SOURCE, b"{"), Err(Errno::INVAL));
    assert_eq!(
        set(&dir, XATTR_SOURCE, b"{\"worker\":\"../x\"}"),
        Err(Errno::INVAL)
    );
    assert_eq!(
        set(&dir, XATTR_SOURCE, &binding("worker-1", "s1", 0)),
        Err(Errno::INVAL)
    );
    assert_eq!(
        set(&dir, XATTR_SOURCE, &binding("worker-2", "s1", 1)),
        Err(Errno::PERM)
    );
    assert_eq!(get_attribute(&dir, XATTR_HELD), Err(Errno::NODATA));
    assert_eq!(
        set(&env.path(""), XATTR_SOURCE, &binding("worker-1", "s1", 1)),
        Err(Errno::PERM)
    );
    fs::write(env.path("file"), "").unwrap();
    let on_file = set(
        &env.path("file"),
        XATTR_SOURCE,
        &binding("worker-1", "s1", 1),
    );
    assert_eq!(on_file, Err(Errno::NOTDIR));

    assert_eq!(env.bind_again("play", "s1", 5), Ok(()));
    assert_eq!(get_attribute(&dir, XATTR_HELD).as_deref(), Ok("[]"));
    for epoch in [1, 5] {
        assert_eq!(env.bind_again("play", "s2", epoch), Err(Errno::STALE));
    }
    // What is held stays with a higher epoch; the rest comes from the new session.
    let held = env.worker.publish_media("s1", 0, 1, 5_000);
    env.wait_held("play", &media_name(0, 1)).unwrap();
    assert_eq!(env.bind_again("play", "s2", 6), Ok(()));
    env.worker.publish_media("s1", 0, 3, 5_000);
    let other = bytes_of(77, 4_000);
    env.worker.publish(
        "s2",
        segment(&media_name(0, 1), &other, Some(0), Some(1)),
        &other,
    );
    env.worker.publish(
        "s2",
        segment(&media_name(0, 2), &other, Some(0), Some(2)),
        &other,
    );
    env.wait_held("play", &media_name(0, 2)).unwrap();
    assert_eq!(fs::read(dir.join(media_name(0, 1))).unwrap(), held);
    assert_eq!(fs::read(dir.join(media_name(0, 2))).unwrap(), other);
    assert_eq!(names(&dir).len(), 2);
    // Both end with the directory.
    fs::remove_dir(&dir).unwrap();
    eventually("both are ended", || env.worker.lock().ended.len() == 2);
}

/// Before anything was announced the cartridge may give a job up; the transcoder of this host then
/// writes the same names into the same directory.
#[test]
fn p1_an_untied_directory_is_an_ordinary_one() {
    if !can_mount() {
        return;
    }
    let env = Env::new();
    env.worker.new_session("s1");
    let dir = env.bind("play", "s1");
    let (first, second) = (media_name(0, 1), media_name(0, 2));
    env.worker.publish_media("s1", 0, 1, 5_000);
    env.worker.publish_media("s1", 0, 2, 5_000);
    for name in [&first, &second] {
        env.wait_held("play", name).unwrap();
    }
    // Looked at, so that the kernel knows the name.
    assert_eq!(fs::read(dir.join(&first)).unwrap().len(), 5_000);
    let denied = fs::write(dir.join(&first), "local");
    assert!(denied.is_err(), "what a worker made keeps its bytes");

    assert_eq!(rustix::fs::removexattr(&dir, XATTR_SOURCE), Ok(()));
    assert_eq!(
        rustix::fs::removexattr(&dir, XATTR_SOURCE),
        Err(Errno::NODATA)
    );
    assert!(names(&dir).is_empty());
    eventually("the session is ended", || {
        env.worker.lock().ended.len() == 1
    });
    // As the two muxers write: under a temporary name, and at once.
    let temporary = dir.join("chunk.tmp");
    fs::write(&temporary, "one").unwrap();
    fs::rename(&temporary, dir.join(&first)).unwrap();
    fs::write(dir.join(&second), "two").unwrap();
    assert_eq!(fs::read(dir.join(&first)).unwrap(), b"one");
    assert_eq!(fs::read(dir.join(&second)).unwrap(), b"two");
    assert_eq!(names(&dir), [first, second]);
    fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn the_token_is_shown_to_nobody() {
    if !can_mount() {
        return;
    }
    let env = Env::new();
    env.worker.new_session("s1");
    let dir = env.bind("play", "s1");
    assert_eq!(get_attribute(&dir, XATTR_SOURCE), Err(Errno::ACCESS));
    set(&dir, "user.other", b"seen").unwrap();
    let mut list = vec![0; 1 << 16];
    let len = rustix::fs::listxattr(&dir, list.as_mut_slice()).unwrap();
    assert_eq!(&list[..len], b"user.other\0");
    assert_eq!(get_attribute(&dir, "user.other").as_deref(), Ok("seen"));
    assert_eq!(rustix::fs::removexattr(&dir, XATTR_MOUNT), Err(Errno::PERM));
    assert_eq!(set(&dir, XATTR_MOUNT, b"x"), Err(Errno::PERM));
    let info = get_attribute(&dir, XATTR_MOUNT).unwrap();
    assert!(!info.contains("secret") && !info.contains(KEY), "{info}");
    let rows: Vec<WorkerRow> =
        serde_json::from_str(&get_attribute(&dir, XATTR_WORKERS).unwrap()).unwrap();
    assert_eq!(rows.len(), 1);
    assert!(rows[0].live, "{rows:?}");
    assert_eq!(
        (rows[0].worker.clone(), rows[0].free),
        (Some(id("worker-1")), 3)
    );
}

#[test]
fn a_file_that_will_not_come_is_told_at_once() {
    if !can_mount() {
        return;
    }
    let env = Env::new();
    env.worker.new_session("s1");
    let dir = env.bind("play", "s1");
    env.worker.publish_media("s1", 0, 1, 5_000);
    assert_eq!(env.wait_held("play", "temp-0.srt"), Err(Errno::NODATA));
    let late = format!("{XATTR_HELD}.{}", media_name(0, 2));
    assert_eq!(get_attribute(&dir, &late), Err(Errno::AGAIN));
    env.worker.finish("s1");
    assert_eq!(env.wait_held("play", &media_name(0, 2)), Err(Errno::NODATA));
    // What did come is held all the same.
    env.wait_held("play", &media_name(0, 1)).unwrap();
}

#[test]
fn a_broken_event_stream_loses_nothing() {
    if !can_mount() {
        return;
    }
    let env = Env::new();
    env.worker.new_session("s1");
    let dir = env.bind("play", "s1");
    for number in 1..=20 {
        env.worker.break_streams();
        env.worker.publish_media("s1", 0, number, 3_000);
    }
    for number in 1..=20 {
        env.wait_held("play", &media_name(0, number)).unwrap();
    }
    assert_eq!(names(&dir).len(), 20);
}

/// A worker that starts anew has none of its sessions; what is held stays readable.
#[test]
fn held_files_outlive_their_worker() {
    if !can_mount() {
        return;
    }
    let env = Env::new();
    env.worker.new_session("s1");
    let dir = env.bind("play", "s1");
    let bytes = env.worker.publish_media("s1", 0, 1, 50_000);
    env.wait_held("play", &media_name(0, 1)).unwrap();
    {
        let mut fake = env.worker.lock();
        fake.boot = "boot-2".into();
        fake.sessions.clear();
    }
    env.worker.break_streams();
    eventually("the session is not shown", || {
        names(&env.path("sessions")).is_empty()
    });
    assert_eq!(fs::read(dir.join(media_name(0, 1))).unwrap(), bytes);
    assert_eq!(env.wait_held("play", &media_name(0, 2)), Err(Errno::NODATA));
}

/// P4: a worker that answers nothing holds up its reader only, and that one until the deadline.
#[test]
fn a_frozen_worker_delays_one_read_up_to_its_deadline() {
    if !can_mount() {
        return;
    }
    let env = Env::with(|config| config.read_deadline = Duration::from_secs(2));
    env.worker.new_session("s1");
    env.worker.publish_media("s1", 0, 1, 50_000);
    let path = env.path("sessions/s1").join(media_name(0, 1));
    eventually("the file is listed", || path.exists());
    env.worker.lock().frozen = true;
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut file = fs::File::open(&path).unwrap();
            file.read(&mut [0; 100])
        });
        eventually("the reader waits", || {
            env.worker.asked(&media_name(0, 1)) > 0
        });
        // Nothing else waits with it.
        assert_eq!(fs::metadata(&path).unwrap().size(), 50_000);
        assert_eq!(names(path.parent().unwrap()).len(), 1);
        fs::create_dir(env.path("d")).unwrap();
        fs::File::create(env.path("d/f"))
            .unwrap()
            .write_all(b"x")
            .unwrap();
        fs::remove_file(env.path("d/f")).unwrap();
        let second = fs::File::open(&path).unwrap();
        drop(second);
        assert!(!reader.is_finished());
        assert_eq!(errno(reader.join().unwrap()), Errno::TIMEDOUT);
    });
    // It was the worker, not the mount.
    env.worker.lock().frozen = false;
    eventually("it reads again", || {
        fs::read(&path).is_ok_and(|bytes| bytes.len() == 50_000)
    });
}

/// Where there is no key, the session's own token opens its files, and only those.
#[test]
fn without_a_key_the_sessions_token_is_sent() {
    if !can_mount() {
        return;
    }
    let worker = FakeWorker::start("keyless");
    worker.lock().open = true;
    let env = Env::with(|config| {
        config.remote.api_key = None;
        config.remote.workers = vec![worker.url()];
    });
    worker.new_session("s1");
    let dir = env.path("play");
    fs::create_dir(&dir).unwrap();
    set(&dir, XATTR_SOURCE, &binding("keyless", "s1", 1)).unwrap();
    worker.publish_media("s1", 0, 1, 5_000);
    env.wait_held("play", &media_name(0, 1)).unwrap();
    assert_eq!(
        worker.lock().bearer.as_deref(),
        Some("Bearer very-secret-token")
    );
}

/// P8: what a worker answers leads nowhere else, least of all with the key.
#[test]
fn redirects_are_not_followed() {
    if !can_mount() {
        return;
    }
    let env = Env::new();
    let elsewhere = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    elsewhere.set_nonblocking(true).unwrap();
    env.worker.new_session("s1");
    env.bind("play", "s1");
    env.worker.lock().redirect = Some(format!("http://{}/", elsewhere.local_addr().unwrap()));
    env.worker.publish_media("s1", 0, 1, 5_000);
    assert_eq!(env.wait_held("play", &media_name(0, 1)), Err(Errno::NODATA));
    let read = fs::read(env.path("sessions/s1").join(media_name(0, 1)));
    assert_eq!(errno(read), Errno::IO);
    assert_eq!(
        elsewhere.accept().unwrap_err().kind(),
        std::io::ErrorKind::WouldBlock
    );
}

#[test]
fn several_workers_stand_side_by_side() {
    if !can_mount() {
        return;
    }
    let second = FakeWorker::start("worker-2");
    second.lock().active = 4;
    let env = Env::with(|config| config.remote.workers.insert(0, second.url()));
    let rows = || -> Vec<WorkerRow> {
        serde_json::from_str(&get_attribute(&env.path(""), XATTR_WORKERS).unwrap()).unwrap()
    };
    let order = |rows: &[WorkerRow]| -> Vec<(String, bool, u32)> {
        let row = |row: &WorkerRow| (row.worker.clone().unwrap().to_string(), row.live, row.free);
        rows.iter().map(row).collect()
    };
    let (one, two) = ("worker-1".to_owned(), "worker-2".to_owned());
    assert_eq!(
        order(&rows()),
        [(one.clone(), true, 3), (two.clone(), true, 0)]
    );
    second.lock().active = 0;
    eventually("the freer one comes first", || {
        order(&rows()) == [(two.clone(), true, 4), (one.clone(), true, 3)]
    });

    env.worker.new_session("s1");
    second.new_session("s2");
    let dir = env.path("play");
    fs::create_dir(&dir).unwrap();
    set(&dir, XATTR_SOURCE, &binding("worker-2", "s2", 1)).unwrap();
    let bytes = second.publish_media("s2", 0, 1, 5_000);
    env.wait_held("play", &media_name(0, 1)).unwrap();
    assert_eq!(fs::read(dir.join(media_name(0, 1))).unwrap(), bytes);
    eventually("both are shown", || {
        names(&env.path("sessions")) == ["s1", "s2"]
    });

    // One that is gone is no longer live; what is held of it stays.
    drop(second);
    eventually("the dead one comes last", || {
        order(&rows()) == [(one.clone(), true, 3), (two.clone(), false, 0)]
    });
    assert!(rows()[1].error.is_some());
    assert_eq!(fs::read(dir.join(media_name(0, 1))).unwrap(), bytes);
}
