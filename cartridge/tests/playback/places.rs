//! Where workers are found, and directories that say they are in our mount. Plain extended
//! attributes stand in for the mount's: they answer what was set before.

use crate::fakes::{Worker, chunk, init, probed};
use crate::{Scene, end, names, original};
use plexbeam_api::{
    Segment,
    job::Location,
    mount::{
        Binding, Held, MountInfo, WorkerRow, XATTR_HELD, XATTR_MOUNT, XATTR_SOURCE, XATTR_WORKERS,
    },
    session::SessionState,
};
use rustix::fs::XattrFlags;
use std::path::Path;

fn set(dir: &Path, name: &str, value: &impl serde::Serialize) {
    let value = serde_json::to_vec(value).unwrap();
    rustix::fs::setxattr(dir, name, &value, XattrFlags::empty())
        .expect("the temporary directory takes user attributes");
}

fn hold(dir: &Path, segment: &Segment) {
    let held = Held {
        name: segment.name.clone(),
        size: segment.size,
        digest: segment.digest.clone(),
    };
    set(dir, &format!("{XATTR_HELD}.{}", segment.name), &held);
}

pub(crate) fn mount(media: Option<&str>) -> MountInfo {
    MountInfo {
        version: "0".into(),
        api_version: 1,
        mountpoint: "/transcode".into(),
        read_deadline_ms: 20_000,
        media: media.map(str::to_owned),
        media_secret: None,
    }
}

fn row(worker: &Worker, live: bool, free: u32) -> WorkerRow {
    WorkerRow {
        url: worker.base.clone(),
        worker: None,
        live,
        free,
        age_ms: None,
        error: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_the_mount_files_are_waited_for_and_not_fetched() {
    let scene = Scene::new().await;
    set(&scene.dir, XATTR_MOUNT, &mount(Some("http://127.0.0.1:9")));
    let child = scene.start("sp-01");
    scene.worker.emit(probed());
    for (segment, bytes) in [
        (init(0, b"i"), "i"),
        (init(1, b"i"), "i"),
        (chunk(0, 1, b"v"), "v"),
        (chunk(1, 1, b"a"), "a"),
    ] {
        hold(&scene.dir, &segment);
        scene.worker.publish(&segment, bytes.as_bytes());
    }
    scene.until_lists(1).await;
    scene.worker.state(SessionState::Completed);
    assert_eq!(end(child).await.0, Some(0), "{}", scene.log());
    assert_eq!(
        names(&scene.dir),
        [] as [&str; 0],
        "nothing is written here"
    );
    let told = scene.worker.told.get();
    assert!(told.fetched.is_empty());
    assert!(
        told.ended.is_empty(),
        "PMS goes on reading through the mount"
    );

    let mut value = vec![0; 4096];
    let len = rustix::fs::getxattr(&scene.dir, XATTR_SOURCE, value.as_mut_slice()).unwrap();
    let binding: Binding = serde_json::from_slice(&value[..len]).unwrap();
    assert_eq!(binding.worker.as_str(), "fake");
    assert_eq!(binding.session.as_str(), "sess-job-1");
    assert_eq!(binding.token, "session-token");
    assert_eq!(binding.epoch, 1);
    assert_eq!(
        binding.patterns,
        ["init-stream*.m4s", "chunk-stream*-*.m4s"]
    );

    let [Location::Path { path }, Location::Url { url }] = &told.jobs[0].inputs[0].locations[..]
    else {
        panic!(
            "path first, then the media route: {:?}",
            told.jobs[0].inputs
        )
    };
    assert_eq!(Path::new(path), scene.root.path().join("title.mkv"));
    assert!(url.starts_with("http://127.0.0.1:9/media/"));
    let log = scene.log();
    for secret in ["signature", "session-token", "the-key", "plex-token"] {
        assert!(!log.contains(secret), "{secret} in {log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_the_mount_will_never_hold_sends_the_job_home() {
    let scene = Scene::new().await;
    set(&scene.dir, XATTR_MOUNT, &mount(None));
    let child = scene.start("sp-01");
    scene.worker.emit(probed());
    scene.publish_inits();
    scene.publish_chunks(1);
    assert_eq!(end(child).await.0, Some(42), "{}", scene.log());
    assert!(original::ran(scene.root.path()));
    assert!(
        scene.pms.calls("/manifest").is_empty(),
        "not held, not announced"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mounts_table_comes_before_the_list() {
    let scene = Scene::new().await;
    let (dead, full, best) = (
        Worker::start().await,
        Worker::start().await,
        Worker::start().await,
    );
    let table = [
        row(&dead, false, 4),
        row(&full, true, 0),
        row(&best, true, 2),
    ];
    set(&scene.dir, XATTR_WORKERS, &table);
    let mut child = scene.start("sp-01");
    best.told
        .until("the job", |told| told.jobs.len() == 1)
        .await;
    child.kill().await.unwrap();
    for other in [&scene.worker, &dead, &full] {
        assert!(other.told.get().jobs.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_worker_ahead_in_the_list_is_passed_over() {
    let scene = Scene::new().await;
    let refusing = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let mut command = scene.command(&scene.argv("sp-01"));
    // 192.0.2.0/24 is for documentation (RFC 5737): nobody answers.
    let list = format!(
        "http://192.0.2.1:8765,http://{refusing},{}",
        scene.worker.base
    );
    command.env("PLEXBEAM_WORKERS", list);
    let mut child = command.spawn().unwrap();
    scene
        .worker
        .told
        .until("the job", |told| told.jobs.len() == 1)
        .await;
    child.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seek_takes_the_place_of_the_job_before() {
    let scene = Scene::with(Worker::start_full().await).await;
    let child = scene.start("sp-01");
    let told = scene
        .worker
        .told
        .until("a cancelled job", |t| !t.cancelled.is_empty())
        .await;
    assert_eq!(
        told.cancelled,
        ["sess-job-0"],
        "only of the same session, only unfinished"
    );
    // No place comes all the same.
    assert_eq!(end(child).await.0, Some(42), "{}", scene.log());
    assert!(original::ran(scene.root.path()));
    assert_eq!(scene.worker.told.get().cancelled.len(), 1);
    assert_eq!(scene.worker.told.get().ended, ["sess-job-1"]);
}
