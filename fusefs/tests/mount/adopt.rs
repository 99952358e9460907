//! What bound directories held outlives the instance that fetched it.

use crate::{support::*, waits::call_of};
use plexbeam_api::mount::XATTR_HELD;
use plexbeam_fusefs::{Earlier, FsConfig, Mounted, Secret, mount, prepare};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};
use std::{
    fs,
    os::unix::fs::{FileExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// A mountpoint whose instances come and go.
struct Place {
    dir: tempfile::TempDir,
    config: FsConfig,
}

impl Place {
    fn new(worker: &FakeWorker) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mountpoint = dir.path().join("mnt");
        fs::create_dir(&mountpoint).unwrap();
        let mut config = FsConfig::new(&mountpoint);
        config.cache.dir = Some(dir.path().join("cache"));
        config.remote.workers = vec![worker.url()];
        config.remote.api_key = Some(Secret::new(KEY));
        config.remote.health_every = Duration::from_millis(200);
        Place { dir, config }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    fn mount(&self) -> Mounted {
        let mounted = mount(&self.config).unwrap();
        mounted.wait_workers(Duration::from_secs(20));
        mounted
    }

    /// Everything on disk but the directory under the mountpoint.
    fn cache_files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut dirs = vec![self.dir.path().join("cache")];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).unwrap().flatten() {
                if entry.file_type().unwrap().is_dir() {
                    dirs.push(entry.path());
                } else {
                    files.push(entry.path());
                }
            }
        }
        files
    }
}

fn bind(dir: &Path, session: &str) {
    fs::create_dir(dir).unwrap();
    let source = plexbeam_api::mount::XATTR_SOURCE;
    set(dir, source, &binding("worker-1", session, 1)).unwrap();
}

fn wait_held(dir: &Path, name: &str) {
    eventually("it is held", || {
        get_attribute(dir, &format!("{XATTR_HELD}.{name}")).is_ok()
    });
}

/// What was made again with other bytes is what the next instance shows.
#[test]
fn a_new_making_outlives_its_instance() {
    if !can_mount() {
        return;
    }
    let worker = FakeWorker::start("worker-1");
    let mut place = Place::new(&worker);
    place.config.cache.ceiling = 128 << 10;
    let mounted = place.mount();
    worker.new_session("s1");
    let dir = place.path().join("play");
    bind(&dir, "s1");
    for number in 1..=3 {
        worker.publish_media("s1", 0, number, 60_000);
        wait_held(&dir, &media_name(0, number));
        fs::read(dir.join(media_name(0, number))).unwrap();
    }
    let path = dir.join(media_name(0, 1));
    let new = bytes_of(77, 61_000);
    worker.remake("s1", &media_name(0, 1), &new);
    assert_eq!(errno(fs::read(&path)), Errno::STALE);
    assert!(fs::read(&path).unwrap() == new);
    mounted.unmount();
    let _mounted = place.mount();
    assert_eq!(fs::metadata(&path).unwrap().len(), 61_000);
    assert!(fs::read(&path).unwrap() == new);
}

#[test]
fn held_files_outlive_their_instance_and_their_worker() {
    if !can_mount() {
        return;
    }
    let worker = FakeWorker::start("worker-1");
    worker.new_session("s1");
    let place = Place::new(&worker);
    let first = place.mount();
    let dir = place.path().join("play");
    bind(&dir, "s1");
    let init = bytes_of(7, 900);
    worker.publish(
        "s1",
        segment("init-stream0.m4s", &init, Some(0), None),
        &init,
    );
    let media: Vec<_> = (1..=5)
        .map(|n| worker.publish_media("s1", 0, n, 50_000))
        .collect();
    for number in 1..=5 {
        wait_held(&dir, &media_name(0, number));
    }
    wait_held(&dir, "init-stream0.m4s");
    fs::write(dir.join("plex.log"), "local").unwrap();
    // One is damaged while nobody looks, a moved directory is found again.
    let moved = place.path().join("moved");
    fs::rename(&dir, &moved).unwrap();
    first.unmount();
    assert_eq!(names(&moved), ["plex.log"], "the plain folder");
    // Nobody but the owner reads the token.
    for file in place.cache_files() {
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{}", file.display());
    }
    drop(worker);

    let second = place.mount();
    assert_eq!(second.adopted(), (1, 6));
    for (number, bytes) in (1..).zip(&media) {
        let path = moved.join(media_name(0, number));
        assert_eq!(fs::metadata(&path).unwrap().len(), bytes.len() as u64);
        assert!(fs::read(&path).unwrap() == *bytes, "{number}");
    }
    assert_eq!(fs::read(moved.join("init-stream0.m4s")).unwrap(), init);
    // A removed name stays removed, and with the directory everything goes.
    fs::remove_file(moved.join(media_name(0, 1))).unwrap();
    second.unmount();
    let third = place.mount();
    assert_eq!(
        errno(fs::metadata(moved.join(media_name(0, 1)))),
        Errno::NOENT
    );
    assert!(fs::read(moved.join(media_name(0, 2))).unwrap() == media[1]);
    fs::remove_dir_all(&moved).unwrap();
    eventually("nothing is left", || place.cache_files().is_empty());
    third.unmount();
    let fourth = place.mount();
    assert_eq!(fourth.adopted(), (0, 0));
}

#[test]
fn a_damaged_file_is_not_taken_for_the_segment() {
    if !can_mount() {
        return;
    }
    let worker = FakeWorker::start("worker-1");
    worker.new_session("s1");
    let place = Place::new(&worker);
    let first = place.mount();
    let dir = place.path().join("play");
    bind(&dir, "s1");
    let bytes = worker.publish_media("s1", 0, 1, 100_000);
    wait_held(&dir, &media_name(0, 1));
    let other = worker.publish_media("s1", 0, 2, 100_000);
    wait_held(&dir, &media_name(0, 2));
    first.unmount();
    let digest = |bytes: &[u8]| plexbeam_api::segment::Digest::of(bytes).0;
    for file in place.cache_files() {
        let name = file.to_str().unwrap();
        if name.ends_with(&digest(&bytes)) {
            let file = fs::File::options().write(true).open(&file).unwrap();
            file.write_at(b"damage", 50_000).unwrap();
        } else if name.ends_with(&digest(&other)) {
            // A crash of the machine may leave less than was written.
            let file = fs::File::options().write(true).open(&file).unwrap();
            file.set_len(10).unwrap();
        }
    }
    // What no journal names is not kept.
    let stray = place.cache_files()[0].with_file_name("stray.x.y");
    fs::write(&stray, "x").unwrap();
    let _second = place.mount();
    assert!(!stray.exists());
    assert!(fs::read(dir.join(media_name(0, 1))).unwrap() == bytes);
    assert!(fs::read(dir.join(media_name(0, 2))).unwrap() == other);
    assert_eq!(worker.asked(&media_name(0, 1)), 2);
    assert_eq!(worker.asked(&media_name(0, 2)), 2);
    // It goes on where the first one was.
    let third = worker.publish_media("s1", 0, 3, 100_000);
    wait_held(&dir, &media_name(0, 3));
    assert!(fs::read(dir.join(media_name(0, 3))).unwrap() == third);
}

/// Two living instances at one place: nothing is lost, and one ceiling holds for both.
#[test]
fn a_later_instance_takes_over_from_a_living_one() {
    if !can_mount() {
        return;
    }
    let worker = FakeWorker::start("worker-1");
    worker.new_session("s1");
    let mut place = Place::new(&worker);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let under = rustix::fs::open(place.path(), flags, Mode::empty()).unwrap();
    place.config.under = Some(Arc::new(under));
    place.config.cache.ceiling = 1 << 20;
    let first = place.mount();
    let dir = place.path().join("play");
    bind(&dir, "s1");
    let media: Vec<_> = (1..=6)
        .map(|n| worker.publish_media("s1", 0, n, 100_000))
        .collect();
    wait_held(&dir, &media_name(0, 6));
    // One that no binding holds, open in the first instance.
    worker.new_session("s2");
    let loose = worker.publish_media("s2", 1, 1, 80_000);
    let loose_path = place.path().join("sessions/s2").join(media_name(1, 1));
    eventually("it is shown", || loose_path.exists());
    assert!(fs::read(&loose_path).unwrap() == loose);
    // A reader has its last byte a moment before the file has its name.
    eventually("it is kept", || first.cache_usage().files == 7);
    let loose_open = fs::File::open(&loose_path).unwrap();
    let open = fs::File::open(dir.join(media_name(0, 1))).unwrap();
    let upper = fs::File::create(dir.join("upper")).unwrap();
    let old_dir = rustix::fs::open(&dir, flags, Mode::empty()).unwrap();

    let prepared = prepare(&place.config).unwrap();
    prepared.wait_workers(Duration::from_secs(20));
    let bytes = first.hand_over();
    assert!((80_000..200_000).contains(&bytes), "{bytes}");
    let earlier = Earlier { number: 1, bytes };
    let second = prepared.serve(&[earlier], Some(1)).unwrap();
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    first.handed_over(tell);
    assert_eq!(second.adopted(), (1, 6));
    let used = |mounted: &Mounted| mounted.cache_usage().used;
    assert_eq!(used(&second), 6 * 102_400 + bytes);

    // By path it is the second one, which goes on.
    let seventh = worker.publish_media("s1", 0, 7, 100_000);
    wait_held(&dir, &media_name(0, 7));
    assert!(fs::read(dir.join(media_name(0, 7))).unwrap() == seventh);
    for (number, bytes) in (1..).zip(&media) {
        assert!(fs::read(dir.join(media_name(0, number))).unwrap() == *bytes);
    }
    // What was open goes on by the first one.
    let mut read = vec![0; media[0].len()];
    open.read_exact_at(&mut read, 0).unwrap();
    assert!(read == media[0]);
    upper.write_all_at(b"by the first", 0).unwrap();
    assert_eq!(fs::read(dir.join("upper")).unwrap(), b"by the first");
    assert!(!first.is_over());

    // A file that the first one has open is not pushed out by the second: its bytes would stay.
    for number in 8..=20 {
        worker.publish_media("s1", 0, number, 100_000);
        wait_held(&dir, &media_name(0, number));
        drop(fs::read(dir.join(media_name(0, number))).unwrap());
    }
    assert!(second.cache_usage().peak <= 1 << 20);
    assert_eq!(worker.asked(&media_name(0, 1)), 1);
    assert!(fs::read(dir.join(media_name(0, 1))).unwrap() == media[0]);
    assert_eq!(worker.asked(&media_name(0, 1)), 1, "still here");
    drop(open);

    // What changes by way of the first one is told to the second.
    rustix::fs::unlinkat(&old_dir, media_name(0, 2), rustix::fs::AtFlags::empty()).unwrap();
    second.apply(told.blocking_recv().unwrap());
    assert_eq!(
        errno(fs::metadata(dir.join(media_name(0, 2)))),
        Errno::NOENT
    );

    // It ends with its last file, and leaves the mountpoint alone.
    drop((loose_open, loose, upper, old_dir));
    eventually("the first one is over", || first.is_over());
    first.unmount();
    assert!(fs::read(dir.join(media_name(0, 20))).unwrap().len() == 100_000);
    second.earlier_ended(1);
    assert!(used(&second) <= 1 << 20);
    fs::remove_dir_all(&dir).unwrap();
    eventually("nothing is left", || place.cache_files().is_empty());
    eventually("the session is ended", || {
        worker.lock().ended.contains(&id("s1"))
    });
}

/// A later instance that does not come up costs nothing.
#[test]
fn a_takeover_can_be_called_off() {
    if !can_mount() {
        return;
    }
    let worker = FakeWorker::start("worker-1");
    worker.new_session("s1");
    let place = Place::new(&worker);
    let mounted = place.mount();
    let dir = place.path().join("play");
    bind(&dir, "s1");
    let one = worker.publish_media("s1", 0, 1, 10_000);
    wait_held(&dir, &media_name(0, 1));
    mounted.hand_over();
    let two = worker.publish_media("s1", 0, 2, 10_000);
    assert!(fs::read(dir.join(media_name(0, 1))).unwrap() == one);
    std::thread::scope(|scope| {
        // It waits for the outcome, and comes before the second segment.
        let (tell, told) = std::sync::mpsc::channel();
        let path = dir.join(media_name(0, 1));
        let removal = scope.spawn(move || {
            tell.send(rustix::thread::gettid().as_raw_nonzero().get())
                .unwrap();
            fs::remove_file(path)
        });
        let thread = told.recv().unwrap();
        eventually("the removal waits", || {
            call_of(thread) == Some(libc::SYS_unlink)
        });
        mounted.take_back();
        removal.join().unwrap().unwrap();
    });
    mounted.hand_over();
    mounted.take_back();
    // A removal froze the directory, as ever.
    assert_eq!(names(&dir), [] as [&str; 0], "{}", two.len());
    mounted.unmount();
    let again = place.mount();
    assert_eq!(again.adopted().0, 1);
    assert_eq!(
        errno(fs::metadata(dir.join(media_name(0, 1)))),
        Errno::NOENT
    );
}
