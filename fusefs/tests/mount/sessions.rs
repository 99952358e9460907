//! `sessions/`: useful with no cartridge at all.

use crate::support::*;
use plexbeam_api::segment::SegmentKind;
use rustix::io::Errno;
use std::{
    fs,
    io::{Read, Seek},
    os::unix::fs::{FileExt, MetadataExt},
    time::Duration,
};

#[test]
fn sessions_show_all_files_and_fetch_them_when_read() {
    if !can_mount() {
        return;
    }
    for passthrough in [true, false] {
        let env = Env::with(|config| config.passthrough = passthrough);
        env.worker.new_session("s1");
        let bytes = env.worker.publish_media("s1", 0, 1, 700_001);
        let dir = env.path("sessions/s1");
        let path = dir.join(media_name(0, 1));
        eventually("the file is listed", || path.exists());
        eventually("the session's time is known", || {
            fs::metadata(&dir).unwrap().mtime() == 1_700_000_000
        });
        assert_eq!(names(&env.path("")), ["sessions"]);
        assert_eq!(names(&env.path("sessions")), ["s1"]);
        assert_eq!(names(&dir), [media_name(0, 1)]);
        let (meta, dir_meta) = (fs::metadata(&path).unwrap(), fs::metadata(&dir).unwrap());
        assert_eq!((meta.len(), meta.mode() & 0o7777), (700_001, 0o640));
        assert_eq!(dir_meta.mode() & 0o7777, 0o750);
        assert_eq!(env.worker.asked(&media_name(0, 1)), 0);
        for _ in 0..3 {
            assert!(fs::read(&path).unwrap() == bytes);
        }
        assert_eq!(env.worker.asked(&media_name(0, 1)), 1);

        assert_eq!(errno(fs::write(&path, "x")), Errno::PERM);
        assert_eq!(errno(fs::remove_file(&path)), Errno::PERM);
        assert_eq!(errno(fs::remove_dir(&dir)), Errno::PERM);
        assert_eq!(errno(fs::remove_dir(env.path("sessions"))), Errno::PERM);
        assert_eq!(errno(fs::write(dir.join("new"), "x")), Errno::PERM);
        assert_eq!(errno(fs::create_dir(env.path("sessions"))), Errno::EXIST);
        assert_eq!(
            errno(fs::metadata(env.path("sessions/../sessions/nope"))),
            Errno::NOENT
        );

        let mut open = fs::File::open(&path).unwrap();
        env.worker.drop_session("s1");
        eventually("the session vanishes", || fs::metadata(&dir).is_err());
        assert!(names(&env.path("sessions")).is_empty());
        let mut content = Vec::new();
        open.read_to_end(&mut content).unwrap();
        assert!(content == bytes);
    }
}

#[test]
fn a_playlist_is_always_current() {
    if !can_mount() {
        return;
    }
    let env = Env::new();
    env.worker.new_session("s1");
    let path = env.path("sessions/s1/index.m3u8");
    let mut text = String::from("#EXTM3U\n");
    for number in 1..=30 {
        text.push_str(&format!("media-{number:05}.ts\n"));
        let bytes = bytes::Bytes::from(text.clone());
        let mut playlist = segment("index.m3u8", &bytes, None, None);
        playlist.kind = SegmentKind::Playlist;
        env.worker.publish("s1", playlist, &bytes);
        eventually("the playlist is there", || path.exists());
        // Its content is asked for; its size follows the events.
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        eventually("its size follows", || {
            fs::metadata(&path).unwrap().len() == text.len() as u64
        });
    }
}

/// `sessions` in the backing folder is hidden, not lost.
#[test]
fn our_sessions_hide_the_folders_own() {
    if !can_mount() {
        return;
    }
    let env = Env::with(|config| {
        let backing = config.mountpoint.parent().unwrap().join("backing");
        fs::create_dir_all(backing.join("sessions")).unwrap();
        fs::write(backing.join("sessions/mine"), "x").unwrap();
        fs::write(backing.join("plain"), "y").unwrap();
        config.backing = Some(backing);
    });
    assert_eq!(names(&env.path("")), ["plain", "sessions"]);
    assert!(names(&env.path("sessions")).is_empty());
    assert!(env.dir.path().join("backing/sessions/mine").exists());
}

/// The mount is a plain folder when no worker can be reached, and when the key is wrong.
#[test]
fn no_worker_means_a_plain_folder() {
    if !can_mount() {
        return;
    }
    let env = Env::with(|config| config.remote.api_key = None);
    fs::write(env.path("file"), "x").unwrap();
    assert_eq!(fs::read(env.path("file")).unwrap(), b"x");
    assert!(names(&env.path("sessions")).is_empty());
    let rows = get_attribute(&env.path(""), plexbeam_api::mount::XATTR_WORKERS).unwrap();
    assert!(
        rows.contains("\"live\":false") && rows.contains("refuses the key"),
        "{rows}"
    );
    fs::create_dir(env.path("play")).unwrap();
    assert_eq!(env.bind_again("play", "s1", 1), Err(Errno::PERM));
}

/// The request goes out with the open, and a reader joins it.
#[test]
fn a_file_of_sessions_is_asked_for_when_it_is_opened() {
    if !can_mount() {
        return;
    }
    let env = Env::new();
    env.worker.new_session("s1");
    let name = media_name(0, 1);
    let bytes = env.worker.publish_media("s1", 0, 1, 1 << 20);
    let path = env.path("sessions/s1").join(&name);
    eventually("the file is listed", || path.exists());
    assert_eq!(env.worker.asked(&name), 0);
    let mut file = fs::File::open(&path).unwrap();
    eventually("it is asked for", || env.worker.asked(&name) == 1);
    let mut read = Vec::new();
    file.read_to_end(&mut read).unwrap();
    assert!(read == bytes);
    assert_eq!(env.worker.asked(&name), 1);
}

/// The kernel refuses an open that is answered in another way than one before it (EIO). Whether a file
/// is here changes between two of them.
#[test]
fn opens_at_the_moment_at_which_a_file_comes_are_all_served() {
    if !can_mount() {
        return;
    }
    let env = Env::new();
    env.worker.new_session("s1");
    for number in 1..=150 {
        let name = media_name(0, number);
        let bytes = env.worker.publish_media("s1", 0, number, 3_000);
        let path = env.path("sessions/s1").join(&name);
        eventually("the file is listed", || path.exists());
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    for _ in 0..6 {
                        assert!(fs::read(&path).unwrap() == bytes, "{name}");
                    }
                });
            }
        });
    }
}

/// Bytes are given as they arrive, the last ones only when the digest of all is right.
#[test]
fn a_reader_of_sessions_need_not_wait_for_the_whole_file() {
    if !can_mount() {
        return;
    }
    let env = Env::new();
    env.worker.new_session("s1");
    let (good, bad) = (media_name(0, 1), media_name(0, 2));
    for name in [&good, &bad] {
        env.worker.lock().halved.insert(name.clone());
    }
    env.worker.lock().damage.insert(bad.clone(), 1);
    let all = [1, 2].map(|number| env.worker.publish_media("s1", 0, number, 1 << 20));
    let dir = env.path("sessions/s1");
    eventually("the files are listed", || dir.join(&bad).exists());
    let mut readers = [&good, &bad].map(|name| fs::File::open(dir.join(name)).unwrap());
    let mut first = vec![0; 1 << 17];
    for (reader, bytes) in readers.iter_mut().zip(&all) {
        // The gate is shut: more than this half is not there.
        reader.read_exact(&mut first).unwrap();
        assert!(first[1..] == bytes[1..first.len()]);
    }
    env.worker.open_gate();
    let mut rest = Vec::new();
    readers[0].read_to_end(&mut rest).unwrap();
    assert!(rest == all[0][first.len()..]);
    // Its first byte was wrong, so its last one is never read, by this reader.
    rest.clear();
    assert_eq!(errno(readers[1].read_to_end(&mut rest)), Errno::IO);
    assert!(first.len() + rest.len() < all[1].len());
    for (name, bytes) in [&good, &bad].into_iter().zip(&all) {
        assert!(fs::read(dir.join(name)).unwrap() == *bytes);
    }
    assert_eq!(env.worker.asked(&good), 1);
}

/// A file of 1 MiB, opened, of which only the first half is sent until the gate opens.
fn open_halved(env: &Env) -> (fs::File, bytes::Bytes) {
    env.worker.new_session("s1");
    let name = media_name(0, 1);
    env.worker.lock().halved.insert(name.clone());
    let bytes = env.worker.publish_media("s1", 0, 1, 1 << 20);
    let path = env.path("sessions/s1").join(&name);
    eventually("the file is listed", || path.exists());
    let file = fs::File::open(path).unwrap();
    (file, bytes)
}

/// Programs take fewer bytes than they asked for as the file's end. So they get all, and fewer only where
/// the others are not here by the deadline.
#[test]
fn a_read_is_short_only_at_its_deadline() {
    if !can_mount() {
        return;
    }
    let env = Env::with(|config| config.read_deadline = Duration::from_millis(300));
    let (file, bytes) = open_halved(&env);
    // Over the first half's end.
    let mut some = vec![0; 300_000];
    let mut got = 0;
    eventually("what is here of it is given", || {
        got = file.read_at(&mut some, 400_000).unwrap_or(0);
        got == (1 << 19) - 400_000
    });
    assert!(some[..got] == bytes[400_000..400_000 + got]);
    assert_eq!(errno(file.read_at(&mut some, 1 << 19)), Errno::TIMEDOUT);
}

#[test]
fn a_read_waits_for_all_that_it_asks_for() {
    if !can_mount() {
        return;
    }
    let env = Env::new();
    let (file, bytes) = open_halved(&env);
    std::thread::scope(|scope| {
        // Over the first half's end, to the file's last byte, and over that.
        let reads = [(400_000, 300_000), (1_000_000, 48_576), (1_000_000, 50_000)];
        let reads = reads.map(|(offset, len)| {
            let file = &file;
            scope.spawn(move || {
                let mut some = vec![0; len];
                let got = file.read_at(&mut some, offset as u64).unwrap();
                some.truncate(got);
                (offset, len, some)
            })
        });
        eventually("the first half was sent", || {
            env.worker.lock().halves_sent == 1
        });
        env.worker.open_gate();
        for read in reads {
            let (offset, len, some) = read.join().unwrap();
            let end = bytes.len().min(offset + len);
            let got = some.len();
            assert!(
                some == bytes[offset..end],
                "{got} of {len} bytes at {offset}"
            );
        }
    });
}

/// `sendfile` and `splice` go through the page cache also where the file is open directly: to it a short
/// answer would be the file's end.
#[test]
fn who_copies_by_the_page_cache_gets_the_whole_file() {
    if !can_mount() {
        return;
    }
    for (passthrough, ceiling) in [(true, 64 << 20), (false, 64 << 20), (true, 1 << 20)] {
        let env = Env::with(|config| {
            config.passthrough = passthrough;
            config.cache.ceiling = ceiling;
        });
        env.worker.new_session("s1");
        let names = [1, 2].map(|number| media_name(0, number));
        for name in &names {
            env.worker.lock().halved.insert(name.clone());
        }
        let all = [1, 2].map(|number| env.worker.publish_media("s1", 0, number, 3 << 20));
        let paths = names.map(|name| env.path("sessions/s1").join(name));
        eventually("the files are listed", || {
            paths.iter().all(|path| path.exists())
        });
        std::thread::scope(|scope| {
            let by: [fn(&fs::File) -> Vec<u8>; 2] = [by_sendfile, by_splice];
            let copies = by.into_iter().zip(&paths).map(|(copy, path)| {
                scope.spawn(move || {
                    let first = copy(&fs::File::open(path).unwrap());
                    // Open again, when it is here.
                    (first, copy(&fs::File::open(path).unwrap()))
                })
            });
            let copies: Vec<_> = copies.collect();
            eventually("the first halves were sent", || {
                env.worker.lock().halves_sent >= 2
            });
            env.worker.open_gate();
            for ((copy, path), bytes) in copies.into_iter().zip(&paths).zip(&all) {
                let (first, second) = copy.join().unwrap();
                assert!(first == *bytes, "{} bytes of {path:?}", first.len());
                assert!(second == *bytes, "{} bytes of {path:?}", second.len());
                assert_eq!(fs::metadata(path).unwrap().len(), 3 << 20);
            }
        });
    }
}

/// What `splice` read past a full cache was not checked. It stays in no page once the file is here.
#[test]
fn what_was_not_checked_stays_in_no_page() {
    if !can_mount() {
        return;
    }
    let env = Env::with(|config| {
        config.passthrough = false;
        config.cache.ceiling = 1 << 20;
    });
    env.worker.new_session("s1");
    let names = [1, 2].map(|number| media_name(0, number));
    env.worker.lock().damage.insert(names[1].clone(), 1);
    let bytes = [(1, 800_000), (2, 600_000)]
        .map(|(number, len)| env.worker.publish_media("s1", 0, number, len));
    let [fills, path] = names.map(|name| env.path("sessions/s1").join(name));
    eventually("the files are listed", || path.exists());
    assert!(fs::read(&fills).unwrap() == bytes[0]);
    // While it is open its room is taken.
    let filling = fs::File::open(&fills).unwrap();
    let file = fs::File::open(&path).unwrap();
    let (mut out, into) = std::io::pipe().unwrap();
    let flags = rustix::pipe::SpliceFlags::empty();
    let taken = rustix::pipe::splice(&file, None, &into, None, 4096, flags).unwrap();
    let mut damaged = vec![0; taken];
    out.read_exact(&mut damaged).unwrap();
    assert!(damaged[..] != bytes[1][..taken], "it came damaged");
    drop(filling);
    // Past the page cache, and so fetched.
    let mut all = vec![0; 600_000];
    eventually("there is room for it", || {
        file.read_at(&mut all, 0).is_ok_and(|got| got == all.len()) && all == bytes[1]
    });
    assert!(fs::read(&path).unwrap() == bytes[1]);
}

fn by_sendfile(from: &fs::File) -> Vec<u8> {
    let mut to = tempfile::tempfile().unwrap();
    while rustix::fs::sendfile(&to, from, None, 1 << 20).unwrap() > 0 {}
    to.rewind().unwrap();
    let mut bytes = Vec::new();
    to.read_to_end(&mut bytes).unwrap();
    bytes
}

fn by_splice(from: &fs::File) -> Vec<u8> {
    let (mut out, into) = std::io::pipe().unwrap();
    let mut bytes = Vec::new();
    loop {
        let flags = rustix::pipe::SpliceFlags::empty();
        let taken = rustix::pipe::splice(from, None, &into, None, 1 << 16, flags).unwrap();
        if taken == 0 {
            return bytes;
        }
        let end = bytes.len();
        bytes.resize(end + taken, 0);
        out.read_exact(&mut bytes[end..]).unwrap();
    }
}
