//! Without our mount: segments are downloaded into PMS's directory, and what can go wrong there.

use crate::fakes::{chunk, init, probed};
use crate::{Scene, end, names, original};
use plexbeam_api::session::SessionState;
use rustix::mount::{MountFlags, UnmountFlags};

/// A job of one number that ends well.
async fn one_number(scene: &Scene) -> Option<i32> {
    let child = scene.start("sp-01");
    scene.worker.emit(probed());
    scene.publish_inits();
    scene.publish_chunks(1);
    scene.worker.state(SessionState::Completed);
    end(child).await.0
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_a_killed_predecessor_are_no_obstacle() {
    let scene = Scene::new().await;
    let name = "chunk-stream0-00001.m4s";
    std::fs::write(scene.dir.join(format!(".{name}.part")), "half of it").unwrap();
    std::fs::write(scene.dir.join(name), "of a job before").unwrap();
    std::fs::write(scene.dir.join("temp-0.srt"), "PMS's own").unwrap();
    assert_eq!(one_number(&scene).await, Some(0), "{}", scene.log());
    let read = |name: &str| std::fs::read(scene.dir.join(name)).unwrap();
    assert_eq!(read(name), b"chunk 0 1");
    assert_eq!(read("temp-0.srt"), b"PMS's own");
    assert_eq!(names(&scene.dir).len(), 5, "{:?}", names(&scene.dir));
}

/// Nobody else sees the temporary name as a link of his own making.
#[tokio::test(flavor = "multi_thread")]
async fn a_link_in_the_place_of_a_file_is_not_followed() {
    let scene = Scene::new().await;
    let victim = scene.root.path().join("victim");
    std::fs::write(&victim, "untouched").unwrap();
    for name in [".init-stream0.m4s.part", "init-stream0.m4s"] {
        std::os::unix::fs::symlink(&victim, scene.dir.join(name)).unwrap();
    }
    assert_eq!(one_number(&scene).await, Some(0), "{}", scene.log());
    assert_eq!(std::fs::read(&victim).unwrap(), b"untouched");
    assert_eq!(
        std::fs::read(scene.dir.join("init-stream0.m4s")).unwrap(),
        b"init 0"
    );
}

/// A directory of the same name cannot be replaced: the original is to see what it can do.
#[tokio::test(flavor = "multi_thread")]
async fn a_directory_in_the_place_of_a_file_sends_the_job_home() {
    let scene = Scene::new().await;
    let taken = scene.dir.join("chunk-stream1-00001.m4s");
    std::fs::create_dir(&taken).unwrap();
    assert_eq!(one_number(&scene).await, Some(42), "{}", scene.log());
    assert_eq!(
        names(&scene.dir),
        ["chunk-stream1-00001.m4s"],
        "ours are gone, that one is not ours"
    );
    assert!(scene.pms.calls("/manifest").is_empty());
    assert_eq!(scene.worker.told.get().ended, ["sess-job-1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_is_gone_ends_the_job() {
    // Before the first segment the original is asked, in that very directory.
    let scene = Scene::new().await;
    let child = scene.start("sp-01");
    scene
        .worker
        .told
        .until("a follower", |t| !t.followed.is_empty())
        .await;
    std::fs::remove_dir(&scene.dir).unwrap();
    scene.worker.emit(probed());
    scene.publish_inits();
    scene.publish_chunks(1);
    assert_eq!(end(child).await.0, Some(42), "{}", scene.log());
    let cwd = original::recorded(scene.root.path(), "cwd");
    assert!(cwd.ends_with(b" (deleted)"));

    // After it nobody plays any more.
    let scene = Scene::new().await;
    let child = scene.start("sp-01");
    scene.worker.emit(probed());
    scene.publish_inits();
    scene.publish_chunks(1);
    scene.until_lists(1).await;
    std::fs::remove_dir_all(&scene.dir).unwrap();
    scene.publish_chunks(2);
    assert_eq!(end(child).await.0, Some(1), "{}", scene.log());
    assert_eq!(scene.worker.told.get().cancelled, ["sess-job-1"]);
    assert!(!scene.dir.exists(), "it is not made again");
    assert_eq!(scene.pms.calls("/manifest").len(), 1);
}

/// A full disk, before and after the first segment. Needs the right to mount.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_leaves_no_half_file() {
    const SIZE: usize = 256 << 10;
    for (numbers, code) in [(0, 42), (1, 1)] {
        let scene = Scene::new().await;
        let options = std::ffi::CString::new(format!("size={SIZE}")).unwrap();
        let mounted = rustix::mount::mount(
            c"tmpfs",
            &scene.dir,
            c"tmpfs",
            MountFlags::empty(),
            Some(options.as_c_str()),
        );
        if let Err(errno) = mounted {
            eprintln!("SKIPPED: a small file system cannot be mounted: {errno}");
            return;
        }
        let child = scene.start("sp-01");
        scene.worker.emit(probed());
        scene.publish_inits();
        for number in 1..=numbers {
            scene.publish_chunks(number);
        }
        if numbers > 0 {
            scene.until_lists(numbers as usize).await;
        }
        let large = vec![7; 2 * SIZE];
        scene.worker.publish(&chunk(0, numbers + 1, &large), &large);
        scene
            .worker
            .publish(&chunk(1, numbers + 1, b"small"), b"small");
        let ended = end(child).await.0;
        let left = names(&scene.dir);
        rustix::mount::unmount(&scene.dir, UnmountFlags::DETACH).unwrap();
        assert_eq!(ended, Some(code), "{}", scene.log());
        assert!(scene.log().contains("No space left"), "{}", scene.log());
        assert_eq!(left.len(), if numbers == 0 { 0 } else { 4 }, "{left:?}");
        assert_eq!(scene.pms.calls("/manifest").len(), numbers as usize);
    }
}

/// What arrives damaged is fetched again; what stays damaged is never announced.
#[tokio::test(flavor = "multi_thread")]
async fn damaged_files_are_never_announced() {
    let scene = Scene::new().await;
    let child = scene.start("sp-01");
    scene.worker.emit(probed());
    scene.worker.publish(&init(1, b"right"), b"right");
    scene.worker.publish(&init(0, b"right"), b"wrong");
    scene.publish_chunks(1);
    let again = |t: &crate::fakes::Told| {
        t.fetched
            .iter()
            .filter(|n| *n == "init-stream0.m4s")
            .count()
            > 2
    };
    scene.worker.told.until("it is fetched again", again).await;
    assert!(scene.pms.calls("/manifest").is_empty());
    scene.worker.replace(&init(0, b"right"), b"right");
    scene.until_lists(1).await;
    scene.worker.state(SessionState::Completed);
    assert_eq!(end(child).await.0, Some(0), "{}", scene.log());
    assert_eq!(
        std::fs::read(scene.dir.join("init-stream0.m4s")).unwrap(),
        b"right"
    );
}
