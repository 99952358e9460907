//! P1 at each single step of a start: whatever ends the remote job there, the original starts in a
//! directory without a trace of ours, and PMS has heard the beginning of one start-up, no more.

use crate::fakes::{Mood, Worker, chunk, init, probed, progress};
use crate::{Scene, end, names, original};
use plexbeam_api::mount::{Held, MountInfo, XATTR_HELD, XATTR_MOUNT, XATTR_SOURCE};
use plexbeam_api::{Kind, Problem, Segment, session::SessionState};
use rustix::fs::XattrFlags;
use std::path::Path;
use std::time::Duration;

/// What PMS may hear before the first segment, in this order; progress and log lines aside.
const STARTUP: [&str; 7] = [
    "/progress?status=startup",
    "/progress/stream?index=0&id=0&codec=h264&type=video",
    "/progress/stream?index=1&id=1&codec=aac&type=audio",
    "/progress/streamDetail?index=0&id=0&codec=h264&type=video&interlaced=0",
    "/progress/streamDetail?index=1&id=1&codec=aac&type=audio",
    "/progress?duration=60.000000",
    "/progress?width=1280&height=720",
];

/// Waits for the original and judges what is left behind.
async fn goes_home(step: &str, scene: Scene, child: tokio::process::Child, calls: usize) {
    let argv = scene.argv("sp-01");
    assert_eq!(end(child).await.0, Some(42), "{step}: {}", scene.log());
    original::assert_original(&scene, &argv);
    assert_eq!(names(&scene.dir), [] as [&str; 0], "{step}");
    let heard: Vec<String> = scene
        .pms
        .heard
        .get()
        .iter()
        .filter(|h| !h.query.starts_with("progress=") && h.tail != "/progress/log")
        .map(|h| format!("{}?{}", h.tail, h.query))
        .collect();
    assert_eq!(heard.len(), calls, "{step}: {heard:?}");
    assert_eq!(heard, STARTUP[..calls], "{step}");
    let frozen = scene.worker.frozen.get();
    let told = scene.worker.told.get();
    if !told.followed.is_empty() && !frozen {
        assert_eq!(told.ended, ["sess-job-1"], "{step}: the session is freed");
    }
}

async fn until_followed(scene: &Scene) {
    let followed = |t: &crate::fakes::Told| !t.followed.is_empty();
    scene.worker.told.until("a follower", followed).await;
}

async fn until_heard(scene: &Scene, count: usize) {
    scene.pms.heard.until("calls", |h| h.len() >= count).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_no_worker_listens() {
    let scene = Scene::new().await;
    let mut command = scene.command(&scene.argv("sp-01"));
    command.env("PLEXBEAM_WORKERS", "http://127.0.0.1:9");
    goes_home("found", scene, command.spawn().unwrap(), 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_a_worker_is_found_and_says_nothing() {
    let scene = Scene::new().await;
    scene.worker.frozen.change(|frozen| *frozen = true);
    let child = scene.start("sp-01");
    goes_home("submitting", scene, child, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_a_worker_answers_each_kind_of_refusal() {
    for kind in [
        Kind::Unsupported,
        Kind::Unauthenticated,
        Kind::Exhausted,
        Kind::Unavailable,
        Kind::Conflict,
        Kind::Internal,
    ] {
        let problem = Problem::new(kind, "not today");
        let scene = Scene::with(Worker::start_refusing(problem).await).await;
        let child = scene.start("sp-01");
        goes_home(&format!("{kind:?}"), scene, child, 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_submitted_and_then_frozen() {
    let scene = Scene::new().await;
    let child = scene.start("sp-01");
    until_followed(&scene).await;
    scene.worker.frozen.change(|frozen| *frozen = true);
    goes_home("submitted", scene, child, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_submitted_and_cancelled_by_somebody() {
    let scene = Scene::new().await;
    let child = scene.start("sp-01");
    until_followed(&scene).await;
    scene.worker.state(SessionState::Cancelled);
    goes_home("cancelled", scene, child, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_segments_before_the_input_is_open() {
    let scene = Scene::new().await;
    let child = scene.start("sp-01");
    until_followed(&scene).await;
    scene.publish_inits();
    goes_home("out of order", scene, child, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_probed_and_failed_while_pms_hears_its_first_call() {
    let scene = Scene::new().await;
    scene.pms.mood.change(|mood| *mood = Mood::Silent);
    let child = scene.start("sp-01");
    scene.worker.emit(probed());
    until_heard(&scene, 1).await;
    scene.worker.state(SessionState::Failed);
    goes_home("first call", scene, child, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_failed_when_the_start_up_is_over() {
    let scene = Scene::new().await;
    let child = scene.start("sp-01");
    scene.worker.emit(probed());
    scene.worker.emit(progress(0.5));
    until_heard(&scene, 8).await;
    scene.worker.state(SessionState::Failed);
    goes_home("start-up over", scene, child, 7).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_failed_with_the_init_segments_here() {
    let scene = Scene::new().await;
    let child = scene.start("sp-01");
    scene.worker.emit(probed());
    scene.publish_inits();
    // One of two files of the first number: only behind it are the heads fetched.
    scene.worker.publish(&chunk(0, 1, b"v"), b"v");
    until_heard(&scene, 7).await;
    scene.worker.state(SessionState::Failed);
    goes_home("half a number", scene, child, 7).await;
}

/// Everything is here, and PMS is still busy with its start-up: nothing was announced.
#[tokio::test(flavor = "multi_thread")]
async fn p1_failed_with_the_first_segment_held_but_not_announced() {
    let scene = Scene::new().await;
    scene.pms.mood.change(|mood| *mood = Mood::Silent);
    let child = scene.start("sp-01");
    scene.worker.emit(probed());
    scene.publish_inits();
    scene.publish_chunks(1);
    let fetched = |t: &crate::fakes::Told| t.fetched.len() == 4;
    scene.worker.told.until("four files", fetched).await;
    until_heard(&scene, 1).await;
    scene.worker.state(SessionState::Failed);
    goes_home("held", scene, child, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_no_segment_in_time() {
    let scene = Scene::new().await;
    let mut command = scene.command(&scene.argv("sp-01"));
    let config = scene.root.path().join("cartridge.toml");
    std::fs::write(config, "first_segment_ms = 700\n").unwrap();
    let child = command.spawn().unwrap();
    scene.worker.emit(probed());
    goes_home("no segment", scene, child, 7).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_not_probed_in_time() {
    let scene = Scene::new().await;
    let mut command = scene.command(&scene.argv("sp-01"));
    let config = scene.root.path().join("cartridge.toml");
    std::fs::write(config, "probe_ms = 300\n").unwrap();
    let child = command.spawn().unwrap();
    goes_home("not probed", scene, child, 0).await;
}

fn set(dir: &Path, name: &str, value: &impl serde::Serialize) {
    let value = serde_json::to_vec(value).unwrap();
    rustix::fs::setxattr(dir, name, &value, XattrFlags::empty())
        .expect("the temporary directory takes user attributes");
}

/// In our mount the directory is tied to the session: it has to be an ordinary one again, because
/// the original writes the same names.
#[tokio::test(flavor = "multi_thread")]
async fn p1_failed_in_a_bound_directory() {
    let scene = Scene::new().await;
    let info = MountInfo {
        version: "0".into(),
        api_version: 1,
        mountpoint: "/transcode".into(),
        read_deadline_ms: 20_000,
        media: None,
        media_secret: None,
    };
    set(&scene.dir, XATTR_MOUNT, &info);
    let hold = |segment: &Segment| {
        let held = Held {
            name: segment.name.clone(),
            size: segment.size,
            digest: segment.digest.clone(),
        };
        set(&scene.dir, &format!("{XATTR_HELD}.{}", segment.name), &held);
    };
    scene.pms.mood.change(|mood| {
        *mood = Mood::Slow(Duration::from_secs(3));
    });
    let child = scene.start("sp-01");
    scene.worker.emit(probed());
    for segment in [
        init(0, b"i"),
        init(1, b"i"),
        chunk(0, 1, b"v"),
        chunk(1, 1, b"a"),
    ] {
        hold(&segment);
        scene.worker.publish(&segment, b"");
    }
    until_heard(&scene, 1).await;
    let source = |dir: &Path| {
        let mut value = vec![0; 4096];
        rustix::fs::getxattr(dir, XATTR_SOURCE, value.as_mut_slice())
    };
    assert!(source(&scene.dir).is_ok(), "it was bound");
    scene.worker.state(SessionState::Failed);
    let dir = scene.dir.clone();
    let root = scene.root.path().to_owned();
    assert_eq!(end(child).await.0, Some(42), "{}", scene.log());
    assert!(original::ran(&root));
    assert_eq!(source(&dir), Err(rustix::io::Errno::NODATA));
    assert_eq!(scene.worker.told.get().ended, ["sess-job-1"]);
    assert!(scene.pms.calls("/manifest").is_empty());
}
